"""What was found, as a table with one row a detection: CSV or Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import SinkError
from stream_detr.sinks.outputs import DataSink, create, encoded, load_library, put, writing
from stream_detr.sinks.records import record
from stream_detr.structures import Detections, Frame

# Name and Arrow's type; the figures are those of the JSON lines, rounded alike. Zones are lists of names.
COLUMNS = {
    "stream": "string",
    "index": "int64",
    "pts": "int64",
    "seconds": "float64",
    "width": "int64",
    "height": "int64",
    "x1": "float64",
    "y1": "float64",
    "x2": "float64",
    "y2": "float64",
    "score": "float64",
    "class_id": "int64",
    "class": "string",
    "query_id": "int64",
    "track_id": "int64",
    "carried": "bool",
    "zones": "list",
    "center_x": "float64",
    "center_y": "float64",
    "inside_box": "float64",
    "entropy": "float64",
}

_ROWS_PER_GROUP = 10_000
_NO_END = "a Parquet file can't be read without its end; .csv and .jsonl can"


class CsvSink(DataSink):
    """A header and a row a detection, on the disk as soon as the frame is done.

    A cell is empty where there is nothing to tell; the zones share one cell, with semicolons between them.

    Raises:
        SinkError: the file can't be made.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._file = create(path, _csv([[*COLUMNS]]))

    def write(self, frame: Frame, image: NDArray[np.uint8], detections: Detections) -> None:
        """Write the frame's rows.

        Raises:
            SinkError: the disk is full.
        """
        cells = [
            [";".join(cell) if isinstance(cell, list) else cell for cell in row] for row in rows(frame, detections)
        ]
        with writing(self._path):
            put(self._file, _csv(cells))

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with writing(self._path):
            self._file.close()


class ParquetSink(DataSink):
    """The same rows, typed, null where there is nothing to tell.

    They are written in groups of 10,000, no more than one is held in memory. Parquet has its index at the end: a run
    that fails or is interrupted still writes it, but a kill or a full disk leaves a file that can't be read.

    Raises:
        UsageError: pyarrow isn't installed.
        SinkError: the file can't be made.
    """

    needs = "pyarrow.parquet"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        parquet = load_library(path, self.needs)
        self._arrow = load_library(path, "pyarrow")
        names = self._arrow.list_(self._arrow.string())
        self._schema = self._arrow.schema([(name, names if kind == "list" else kind) for name, kind in COLUMNS.items()])
        self._rows: list[list[Any]] = []
        self._file = io.BufferedWriter(create(path))
        self._writer = parquet.ParquetWriter(self._file, self._schema)

    def write(self, frame: Frame, image: NDArray[np.uint8], detections: Detections) -> None:
        """Add the frame's rows to the group, and write the group when it is full.

        Raises:
            SinkError: the disk is full.
        """
        self._rows += rows(frame, detections)
        if len(self._rows) >= _ROWS_PER_GROUP:
            self._write_group()

    def close(self) -> None:
        """Write the last group and the index; a second call does nothing."""
        if self._file.closed:
            return
        if self._rows:
            self._write_group()
        with self._writing():
            self._writer.close()
            self._file.close()

    def _write_group(self) -> None:
        columns = dict(zip(COLUMNS, zip(*self._rows, strict=True), strict=True))
        with self._writing():
            self._writer.write_table(self._arrow.table(columns, schema=self._schema))
        self._rows = []

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with writing(self._path, remains=_NO_END):
                yield
        except SinkError:
            self._writer.is_open = False  # else it tries again, at the latest when it is deleted
            with suppress(OSError):
                self._file.close()
            raise


def rows(frame: Frame, detections: Detections) -> list[list[Any]]:
    """A frame's rows in the order of `COLUMNS`, None where there is nothing to tell."""
    whole = record(frame, detections)
    start = [encoded(whole["stream"]).decode(), *(whole[key] for key in ("index", "pts", "seconds", "width", "height"))]
    found: list[list[Any]] = []
    for each in whole["detections"]:
        ids = [each[key] for key in ("score", "class_id", "class", "query_id", "track_id", "carried")]
        stats = each["attention"] or {"center": (None, None)}
        attention = [*stats["center"], stats.get("inside_box"), stats.get("entropy")]
        found.append([*start, *each["box"], *ids, each.get("zones"), *attention])
    return found


def _csv(lines: list[list[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    return encoded(text.getvalue())
