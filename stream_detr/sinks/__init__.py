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
from stream_detr.sinks.outputs import check_output, is_folder, is_picture, write_error
from stream_detr.sinks.records import RecordsSink
from stream_detr.sinks.video import VideoSink
from stream_detr.structures import AudioTrack, Detections, Frame, StreamInfo

__all__ = [
    "SINKS",
    "RecordsSink",
    "Sink",
    "VideoOptions",
    "check_output",
    "is_folder",
    "is_picture",
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


# By suffix; "" is a folder. To add a sink: a class with the Protocol's members and a key here.
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
