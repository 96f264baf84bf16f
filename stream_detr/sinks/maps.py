"""The cross-attention maps themselves, for analysis: a NumPy file or a zarr folder.

Both hold the same arrays, with one row (R) a detection in the order of the frames:

- ``cross`` (R, h, w) float16: `AttentionMaps.cross`, which sums to 1, rounded to half precision. That keeps three
  digits of a value and turns into 0 what is below 3e-8; divide by the sum where it has to be exactly 1.
- ``index``, ``pts`` (R,) int64 and ``time_base`` (R, 2) int64, numerator and denominator: the frame and its time.
- ``query_id``, ``class_id``, ``track_id`` (R,) int64 (-1 = no track) and ``carried`` (R,) bool, see `Detections`.
- ``stride`` (R,) int64 and ``model_hw`` (R, 2) int64: which part of the frame a cell is, see `AttentionMaps`.
- ``stream`` (R,) int64 numbers ``streams``, the names of the inputs, and ``class_id`` numbers ``class_names``. These
  two lists are arrays in a NumPy file and attributes of a zarr folder.

An array has one grid (h, w). Where the grid changes within a run, as the size of the picture does, the rows on the
first are at the top, those on the second have ``2/`` before their names, and so on. A run without a frame has no rows.
"""

from __future__ import annotations

import glob
import os
import zipfile
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from stream_detr.errors import SinkError, UsageError
from stream_detr.sinks.outputs import DataSink, create, encoded, load_library, writing
from stream_detr.structures import Detections, Frame

Rows = NDArray[np.void]
"""Structured (R,): the arrays above are its fields."""

Grid = tuple[int, int]
"""h and w."""

_ROWS_PER_CHUNK = 512
# Numbers are small: with more of them in a chunk there are fewer files.
_NUMBERS_PER_CHUNK = 16 * _ROWS_PER_CHUNK
# What stands where a chunk was never written, by the kind of numbers.
_FILL = {"f": np.nan, "i": -1, "b": False}


class MapsSink(DataSink):
    """Turns detections into rows and keeps the names that are numbers in them."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._streams: dict[str, int] = {}
        self._class_names: tuple[str, ...] = ()

    def write(self, frame: Frame, image: NDArray[np.uint8], detections: Detections) -> None:
        """Add the frame's maps.

        Raises:
            UsageError: there are none.
            SinkError: the disk is full.
        """
        if detections.attention is None or detections.attention.cross is None:
            if len(detections):
                raise UsageError(f"{self._path}: there is no cross-attention to save; leave out --attention none")
            return
        name = encoded(frame.stream.name).decode()
        stream = self._streams.setdefault(name, len(self._streams))
        self._class_names = detections.class_names or self._class_names
        grid_h, grid_w = detections.attention.cross.shape[1:]
        self._append((grid_h, grid_w), map_rows(frame, detections, stream))

    @abstractmethod
    def _append(self, grid: Grid, rows: Rows) -> None: ...

    def _names(self) -> dict[str, list[str]]:
        return {"streams": [*self._streams], "class_names": [*self._class_names]}


class NpzSink(MapsSink):
    """One ``.npz`` file, made at the end: ``np.load(path)["cross"]``.

    Until then the rows are in ``PATH.rows-1.npy``, one such file a grid, to which each frame is added. At the end they
    are copied chunk by chunk, so memory does not grow with the video, but the disk holds them twice for that moment.
    A kill or a full disk leaves those files: ``np.load`` reads them, and a run to the same path refuses to start.

    Raises:
        SinkError: the file can't be made, or the rows of an earlier run are still there.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._files: dict[Grid, _RowsFile] = {}
        self._is_closed = False
        check_maps(path)
        create(path).close()

    def close(self) -> None:
        """Gather the rows in the file; a second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        files = [*self._files.values()]
        with writing(self._path, remains=f"the maps are kept in {self._path}.rows-*.npy"):
            try:
                with zipfile.ZipFile(self._path, "w") as archive:
                    for name, texts in self._names().items():
                        array = np.array(texts, np.str_)
                        _add(archive, name, array.dtype, len(array), [array])
                    for number, file in enumerate(files, 1):
                        for name in file.dtype.names or ():
                            chunks = (chunk[name] for chunk in file.chunks())
                            _add(archive, _prefix(number) + name, file.dtype[name], file.num_rows, chunks)
            except BaseException:
                with suppress(OSError):
                    os.truncate(self._path, 0)  # half of it could pass for the whole
                raise
            for file in files:
                os.remove(file.path)

    def _append(self, grid: Grid, rows: Rows) -> None:
        try:
            with writing(self._path, remains=f"the maps so far are in {self._path}.rows-*.npy"):
                if grid not in self._files:
                    self._files[grid] = _RowsFile(f"{self._path}.rows-{len(self._files) + 1}.npy", rows.dtype)
                self._files[grid].append(rows)
        except SinkError:
            self._is_closed = True
            raise


def check_maps(path: str) -> None:
    """Make sure that nothing is lost when the maps are written to ``path``.

    Raises:
        SinkError: the rows of a run that was cut off are still there, or zarr would empty a folder of other files.
    """
    left = sorted(glob.glob(f"{glob.escape(path)}.rows-*.npy"))
    if left:
        raise SinkError(f"{left[0]}: the maps of a run that was cut off (np.load reads them); move or delete it")
    folder = Path(path)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "zarr.json").is_file():
        raise SinkError(f"{path}: holds other files, which would be lost; choose another folder")


class ZarrSink(MapsSink):
    """A zarr folder (format 3), to which 512 maps at a time are added: a kill loses no more than the last of these.

    After a kill ``index`` is the shortest array and its length the one that counts; where its last values are -1, the
    kill fell between making room for a chunk and filling it.

    Raises:
        UsageError: zarr isn't installed.
        SinkError: the folder can't be made, or holds something else.
    """

    needs = "zarr"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        zarr = load_library(path, self.needs)
        with writing(path):
            check_maps(path)
            self._root = zarr.open_group(path, mode="w", zarr_format=3)
        self._groups: dict[Grid, Any] = {}
        self._waiting: dict[Grid, Rows] = {}
        self._is_closed = False

    def close(self) -> None:
        """Write the rows that don't fill a chunk; a second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        with writing(self._path):
            for grid in self._groups:
                self._flush(grid)
            self._root.attrs.update(self._names())

    def _append(self, grid: Grid, rows: Rows) -> None:
        try:
            with writing(self._path):
                if grid not in self._groups:
                    self._add_group(grid, rows)
                self._waiting[grid] = np.concatenate([self._waiting[grid], rows])
                if len(self._waiting[grid]) >= _ROWS_PER_CHUNK:
                    self._flush(grid)
        except SinkError:
            self._is_closed = True
            raise

    def _add_group(self, grid: Grid, rows: Rows) -> None:
        group = self._root if not self._groups else self._root.create_group(str(len(self._groups) + 1))
        for name in rows.dtype.names or ():
            values = rows[name]
            per_chunk = _ROWS_PER_CHUNK if name == "cross" else _NUMBERS_PER_CHUNK
            group.create_array(
                name,
                shape=(0, *values.shape[1:]),
                chunks=(per_chunk, *values.shape[1:]),
                dtype=values.dtype,
                fill_value=_FILL[values.dtype.kind],
            )
        self._groups[grid] = group
        self._waiting[grid] = rows[:0]

    def _flush(self, grid: Grid) -> None:
        """Append what waits, whole chunks of maps while more frames may come."""
        rows = self._waiting[grid]
        num = len(rows) if self._is_closed else len(rows) // _ROWS_PER_CHUNK * _ROWS_PER_CHUNK
        self._root.attrs.update(self._names())
        for name in rows.dtype.names or ():
            self._groups[grid][name].append(rows[name][:num])
        self._waiting[grid] = rows[num:]


class _RowsFile:
    """A ``.npy`` file that can be read after every frame: its header is rewritten once the rows are there."""

    def __init__(self, path: str, dtype: np.dtype[np.void]) -> None:
        self.path, self.dtype, self.num_rows = path, dtype, 0
        with open(path, "xb") as file:
            _write_header(file, dtype, 0)
            self._start = file.tell()

    def append(self, rows: Rows) -> None:
        with open(self.path, "r+b") as file:
            file.seek(self._start + self.num_rows * self.dtype.itemsize)
            file.write(rows.tobytes())
            file.flush()
            file.seek(0)
            _write_header(file, self.dtype, self.num_rows + len(rows))
        self.num_rows += len(rows)

    def chunks(self) -> Iterator[Rows]:
        for first in range(0, self.num_rows, _ROWS_PER_CHUNK):
            count = min(_ROWS_PER_CHUNK, self.num_rows - first)
            yield np.fromfile(self.path, self.dtype, count, offset=self._start + first * self.dtype.itemsize)


def map_rows(frame: Frame, detections: Detections, stream: int) -> Rows:
    """The rows (N,) of a frame whose detections have cross-attention; ``index`` is the last field."""
    attention = detections.attention
    assert attention is not None
    assert attention.cross is not None
    values: dict[str, Any] = {
        "cross": attention.cross.astype(np.float16),
        "pts": frame.pts,
        "time_base": frame.time_base.as_integer_ratio(),
        "query_id": detections.query_ids,
        "class_id": detections.class_ids,
        "track_id": detections.track_ids,
        "carried": False if detections.carried is None else detections.carried,
        "stride": attention.stride,
        "model_hw": attention.model_hw,
        "stream": stream,
        "index": frame.index,
    }
    kinds = {"cross": "<f2", "carried": "?"}
    shapes = {"cross": attention.cross.shape[1:], "time_base": (2,), "model_hw": (2,)}
    rows = np.empty(len(detections), [(name, kinds.get(name, "<i8"), shapes.get(name, ())) for name in values])
    for name, value in values.items():
        rows[name] = value
    return rows


def _prefix(number: int) -> str:
    return "" if number == 1 else f"{number}/"


def _write_header(file: Any, dtype: np.dtype[Any], num_rows: int) -> None:
    """A ``.npy`` header of the same length however many rows there are."""
    base, shape = dtype.base, (num_rows, *dtype.shape)
    npy.write_array_header_1_0(file, {"descr": npy.dtype_to_descr(base), "fortran_order": False, "shape": shape})


def _add(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], num_rows: int, parts: Iterable[NDArray[Any]]
) -> None:
    """Write an array into a ``.npz`` part by part."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        _write_header(file, dtype, num_rows)
        for part in parts:
            file.write(part.tobytes())
