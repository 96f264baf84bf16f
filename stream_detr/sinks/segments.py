"""Recordings of live streams: files of a certain length, named by the time at which they begin."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
from av.container import OutputContainer
from numpy.typing import NDArray

from stream_detr.errors import UsageError
from stream_detr.sinks.codecs import VideoOptions
from stream_detr.sinks.outputs import VIDEO_FORMATS, write_error
from stream_detr.sinks.records import RecordsSink
from stream_detr.sinks.video import VideoSink
from stream_detr.structures import Detections, Frame, StreamInfo

# MP4 keeps how long a picture stands in 31 bits: at a millionth of a second a longer gap than 35 minutes ends the file.
_LONGEST_GAP_SECONDS = 60


class SegmentsSink:
    """Video files ``cam-20250131T120000Z.mp4`` beside ``cam.mp4``, which itself is not written.

    The name and the file's metadata have the UTC time of its first frame; inside, time starts at 0 and passes as it
    did: where frames are missing it jumps. A file ends after ``segment_seconds`` (None = never), where the frames' size
    changes and where none came for more than a minute. No file is ever replaced.

    Args:
        with_records: write the detections beside each file, the same name with ``.jsonl``.
        clock: the time now, in seconds since 1970.
    """

    def __init__(
        self,
        path: str,
        options: VideoOptions,
        *,
        segment_seconds: float | None = None,
        with_records: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._options, self._clock = Path(path), options, clock
        self._segment_seconds, self._with_records = segment_seconds, with_records
        self._open: ExitStack | None = None
        self._sinks: list[VideoSink | RecordsSink] = []
        self._first: Frame | None = None
        self._last_time = Fraction(0)
        self._num_files = 0
        self._last_file = ""

    def write(self, frame: Frame, image: NDArray[np.uint8], detections: Detections) -> None:
        """Add a frame, in a new file if it is time for one.

        Raises:
            SinkError: the file can't be written.
        """
        first = self._first
        if first is None or self._is_full(first, frame):
            self.close()
            self._begin(frame)
            first = self._first = frame
        # From 0 on, by the first frame's clock.
        self._last_time = frame.pts * frame.time_base
        pts = round(self._last_time / first.time_base) - first.pts
        moved = replace(frame, pts=pts, time_base=first.time_base)
        for sink in self._sinks:
            sink.write(moved, image, detections)

    def close(self) -> None:
        """Finish the file that is open; a second call does nothing.

        Raises:
            SinkError: it can't be finished.
        """
        self._first, self._sinks = None, []
        if self._open is not None:
            opened, self._open = self._open, None
            opened.close()

    def report(self) -> dict[str, Any]:
        """How many files there are by now, and the last one."""
        return {"files": self._num_files, "last_file": self._last_file}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _is_full(self, first: Frame, frame: Frame) -> bool:
        if frame.size_hw != first.size_hw:
            return True
        time = frame.pts * frame.time_base
        if time - self._last_time > _LONGEST_GAP_SECONDS:
            return True
        return self._segment_seconds is not None and time - first.pts * first.time_base >= self._segment_seconds

    def _begin(self, frame: Frame) -> None:
        age = time.monotonic() - frame.captured_seconds
        began = datetime.fromtimestamp(self._clock() - age, UTC)
        path = self._unused(f"{self._path.stem}-{began:%Y%m%dT%H%M%SZ}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(str(path), error) from error
        self._open = ExitStack()
        self._sinks = [self._open.enter_context(_DatedVideo(str(path), frame.stream, self._options, began))]
        if self._with_records:
            self._sinks.append(self._open.enter_context(RecordsSink(str(path.with_suffix(".jsonl")))))
        self._num_files, self._last_file = self._num_files + 1, str(path)

    def _unused(self, stem: str) -> Path:
        """A path for a new file: two can begin in the same second."""
        path, number = self._path.with_name(f"{stem}{self._path.suffix}"), 1
        while path.exists() or path.with_suffix(".jsonl").exists():
            number += 1
            path = self._path.with_name(f"{stem}-{number}{self._path.suffix}")
        return path


def check_segments(path: str, options: VideoOptions) -> None:
    """Make sure, before any work is done, that recordings can be such files; nothing is written.

    Raises:
        UsageError: the suffix is none of a video, or the codec is not there or doesn't go into such a file.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in VIDEO_FORMATS:
        raise UsageError(f"{path}: can't record as {suffix}; use {', '.join(VIDEO_FORMATS)}, or a folder")
    VideoSink(path, StreamInfo(path, 2, 2), options, None)


class _DatedVideo(VideoSink):
    """A video file that says when it was begun."""

    def __init__(self, path: str, info: StreamInfo, options: VideoOptions, began: datetime) -> None:
        self._began = began.isoformat(timespec="microseconds").replace("+00:00", "Z")
        super().__init__(path, info, options, None)

    def _new_container(self, options: dict[str, str]) -> OutputContainer:
        container = super()._new_container(options)
        container.metadata["creation_time"] = self._began
        return container
