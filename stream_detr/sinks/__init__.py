"""Where results go. A sink takes frames in order and leaves a proper file behind, however the run ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import UsageError
from stream_detr.sinks.codecs import VideoOptions
from stream_detr.sinks.images import ImagesSink
from stream_detr.sinks.maps import NpzSink, ZarrSink, check_maps
from stream_detr.sinks.outputs import (
    DataSink,
    check_output,
    is_folder,
    is_picture,
    load_library,
    write_error,
)
from stream_detr.sinks.records import CocoSink, RecordsSink
from stream_detr.sinks.tables import CsvSink, ParquetSink
from stream_detr.sinks.video import VideoSink
from stream_detr.structures import AudioTrack, Detections, Frame, StreamInfo

__all__ = [
    "MAPS",
    "RECORDS",
    "SINKS",
    "RecordsSink",
    "Sink",
    "VideoOptions",
    "check_formats",
    "check_maps",
    "check_output",
    "is_folder",
    "is_picture",
    "open_maps",
    "open_records",
    "open_sink",
    "write_error",
]


class Sink(Protocol):
    """A place for annotated frames."""

    def write(self, frame: Frame, image: NDArray[np.uint8], detections: Detections) -> None:
        """Add a frame: ``image`` (H, W, 3) uint8 RGB is the drawn picture. Raises SinkError."""
        ...

    def close(self) -> None:
        """Finish what was written; a second call does nothing. Raises SinkError."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None: ...


def open_sink(path: str, info: StreamInfo, *, options: VideoOptions, audio: AudioTrack | None) -> Sink:
    """Open the output for one source: a video or an image by suffix, a folder of images without one.

    Raises:
        UsageError: the suffix or the options fit no sink.
        SinkError: an encoder that was asked for doesn't work here.
    """
    suffix = "" if is_folder(path) else Path(path).suffix.lower()
    if suffix not in SINKS:
        raise UsageError(
            f"{path}: can't write {suffix} files; use {', '.join(key for key in SINKS if key)}, or a folder"
        )
    return SINKS[suffix](path, info, options, audio)


def open_records(path: str) -> Sink:
    """Open the file for what was found: JSON lines, CSV, Parquet or COCO's JSON by suffix, JSON lines without one.

    Raises:
        UsageError: the suffix fits none, or a library isn't installed.
        SinkError: the file can't be made.
    """
    return _find(path, RECORDS, "records")(path)


def open_maps(path: str) -> Sink:
    """Open the file or folder for the cross-attention maps: NumPy's for ``.npz``, zarr's for ``.zarr`` or no suffix.

    Raises:
        UsageError: the suffix fits none, or a library isn't installed.
        SinkError: it can't be made.
    """
    return _find(path, MAPS, "attention")(path)


def check_formats(records: str | None, maps: str | None) -> None:
    """Make sure, before any work is done, that what the two would be written with is there; None = not asked for.

    Raises:
        UsageError: a suffix fits none, or a library isn't installed.
    """
    if records:
        _find(records, RECORDS, "records")
    if maps:
        _find(maps, MAPS, "attention")


def _find(path: str, formats: dict[str, type[DataSink]], what: str) -> type[DataSink]:
    suffix = "" if is_folder(path) else Path(path).suffix.lower()
    if suffix not in formats:
        known = ", ".join(key for key in formats if key)
        raise UsageError(f"{path}: can't write {what} as {suffix}; use {known}")
    found = formats[suffix]
    if found.needs:
        load_library(path, found.needs)
    return found


# By suffix; "" is none, or a folder. To add a sink: a class with the Protocol's members and a key here.
SINKS: dict[str, Callable[[str, StreamInfo, VideoOptions, AudioTrack | None], Sink]] = {
    ".mp4": VideoSink,
    ".m4v": VideoSink,
    ".mov": VideoSink,
    ".mkv": VideoSink,
    ".webm": VideoSink,
    ".png": ImagesSink,
    ".jpg": ImagesSink,
    ".jpeg": ImagesSink,
    "": ImagesSink,
}

# To add one of these: a DataSink and a key.
RECORDS: dict[str, type[DataSink]] = {
    ".jsonl": RecordsSink,
    ".csv": CsvSink,
    ".parquet": ParquetSink,
    ".json": CocoSink,
    "": RecordsSink,
}

MAPS: dict[str, type[DataSink]] = {".npz": NpzSink, ".zarr": ZarrSink, "": ZarrSink}
