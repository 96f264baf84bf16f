"""Whether an output can be written, and what is said when it can't."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import av.error

from stream_detr.errors import SinkError

VIDEO_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
DISK_ERRORS = frozenset((errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS))
PICTURE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg"))
_FILE_SUFFIXES = PICTURE_SUFFIXES | VIDEO_FORMATS.keys() | {".json", ".jsonl"}


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
    if target.is_dir() and not wants_folder:
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


def write_error(path: str, error: OSError | av.error.FFmpegError) -> SinkError:
    """One line for what went wrong in writing ``path``, with the remedy."""
    number = error.errno
    if number in (errno.ENOSPC, errno.EDQUOT):
        return SinkError(f"{path}: no space left on the disk; free some and run again (the part so far is kept)")
    if number == errno.EFBIG:
        return SinkError(f"{path}: the file has reached the size limit here; raise it (the part so far is kept)")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return SinkError(f"{path}: no permission to write there; choose another folder")
    if number in (errno.ENOTDIR, errno.EEXIST):
        return SinkError(f"{path}: a part of this path is a file, not a folder; choose another")
    if number == errno.EISDIR:
        return SinkError(f"{path}: is a folder; name a file in it")
    return SinkError(f"{path}: can't be written ({error.strerror or type(error).__name__}); try another place")
