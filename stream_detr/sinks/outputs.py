"""Whether an output can be written, what is said when it can't, and how one ends."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from io import FileIO
from pathlib import Path
from typing import Any, ClassVar, Self

import av.error
import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import SinkError, UsageError
from stream_detr.structures import Detections, Frame

log = logging.getLogger("stream_detr")

VIDEO_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
DISK_ERRORS = frozenset((errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS))
PICTURE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg"))
_FILE_SUFFIXES = PICTURE_SUFFIXES | VIDEO_FORMATS.keys() | {".json", ".jsonl", ".csv", ".parquet", ".npz"}
_EXTRAS = {"pyarrow": "parquet", "zarr": "zarr"}
_KEPT = "the part so far is kept"


class DataSink(ABC):
    """Results as data, in a file or a folder beside the video. The picture is not used.

    ``needs`` names a library that only this kind of output needs.
    """

    needs: ClassVar[str] = ""

    def __init__(self, path: str) -> None:
        self._path = path

    @abstractmethod
    def write(self, frame: Frame, image: NDArray[np.uint8], detections: Detections) -> None:
        """Add a frame's results. Raises SinkError."""

    @abstractmethod
    def close(self) -> None:
        """Finish what was written; a second call does nothing. Raises SinkError."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except SinkError as failure:
            if error is None:
                raise
            log.warning("%s", failure)  # what ended the loop is the news, not this


@contextmanager
def writing(path: str, *, remains: str = _KEPT) -> Iterator[None]:
    """Turn what the disk says in the block into one line, see `write_error`."""
    try:
        yield
    except SinkError:
        raise
    except OSError as error:
        raise write_error(path, error, remains=remains) from error


def create(path: str, start: bytes = b"") -> FileIO:
    """A new file that begins with ``start``; its missing folders are made. Text goes in by `encoded` and `put`.

    Raises:
        SinkError: it can't be made.
    """
    with writing(path), ExitStack() as stack:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # Without a buffer: what failed to be written isn't tried again when the file is closed.
        file = stack.enter_context(open(path, "wb", buffering=0))
        put(file, start)
        stack.pop_all()
        return file


def put(file: FileIO, data: bytes) -> None:
    """Write all of ``data``, at once unless the disk takes less."""
    while data:
        data = data[file.write(data) :]


def encoded(text: str) -> bytes:
    r"""UTF-8; a byte of a file name that is no text stands as an escape, the way Python itself reads it.

    >>> encoded("café\udcff").decode()
    'café\\udcff'
    """
    return text.encode("utf-8", "backslashreplace")


def load_library(path: str, library: str) -> Any:
    """Import what the output at ``path`` needs.

    Raises:
        UsageError: it isn't installed.
    """
    try:
        return import_module(library)
    except ImportError:
        name = library.split(".")[0]
        raise UsageError(f'{path}: needs {name}; pip install "stream-detr[{_EXTRAS[name]}]"') from None


def is_folder(path: str) -> bool:
    """Whether an output path means a folder: it ends like one, has no suffix, or is one whose suffix says nothing.

    >>> is_folder("out/"), is_folder("out"), is_folder("out.mp4")
    (True, True, False)
    """
    suffix = Path(path).suffix.lower()
    return path.endswith(os.sep) or not suffix or (suffix not in _FILE_SUFFIXES and os.path.isdir(path))


def is_picture(path: str) -> bool:
    """Whether an output path is one image file.

    >>> is_picture("out.PNG"), is_picture("out.mp4")
    (True, False)
    """
    return not is_folder(path) and Path(path).suffix.lower() in PICTURE_SUFFIXES


def check_output(path: str, overwrite: bool, *, may_be_folder: bool = True) -> None:
    """Make sure that ``path`` can be written, before any work is done; missing folders are made.

    A path without suffix means a folder of images, unless ``may_be_folder`` is off: it may exist, but unless
    ``overwrite`` it has to be empty.

    Raises:
        SinkError: it exists and ``overwrite`` is off, is a folder where a file is meant or the other way round,
            or its folder can't be written.
    """
    target = Path(path)
    wants_folder = may_be_folder and is_folder(path)
    if (target.is_dir() or path.endswith(os.sep)) and not wants_folder:
        raise SinkError(f"{path}: is a folder; name a file in it")
    if wants_folder and target.exists() and not target.is_dir():
        raise SinkError(f"{path}: is a file, but a folder is needed; name another, or give the file a suffix")
    if not overwrite and (any(target.iterdir()) if target.is_dir() else os.path.lexists(target)):
        state = "is not empty" if target.is_dir() else "exists already"
        raise SinkError(f"{path}: {state}; add --overwrite to replace it, or choose another name")
    try:
        folder = target if wants_folder else target.parent
        folder.mkdir(parents=True, exist_ok=True)
        if target.is_file() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, "Permission denied")
        if wants_folder or not target.exists():
            with tempfile.TemporaryFile(dir=folder):
                pass  # only an attempt tells: permission bits say nothing of read-only disks, nor to root
    except OSError as error:
        raise write_error(path, error) from error


def write_error(path: str, error: OSError | av.error.FFmpegError, *, remains: str = _KEPT) -> SinkError:
    """One line for what went wrong in writing ``path``, with the remedy and what ``remains`` of the part so far."""
    number = error.errno
    if number in (errno.ENOSPC, errno.EDQUOT):
        return SinkError(f"{path}: no space left on the disk; free some and run again ({remains})")
    if number == errno.EFBIG:
        return SinkError(f"{path}: the file has reached the size limit here; raise it ({remains})")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return SinkError(f"{path}: no permission to write there; choose another folder")
    if number in (errno.ENOTDIR, errno.EEXIST):
        return SinkError(f"{path}: a part of this path is a file, not a folder; choose another")
    if number == errno.EISDIR:
        return SinkError(f"{path}: is a folder; name a file in it")
    return SinkError(f"{path}: can't be written ({error.strerror or type(error).__name__}); try another place")
