"""Writing what streams show, beside the showing: recordings, and streams that are sent on."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Condition
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stream_detr.config import Config
from stream_detr.errors import StreamDetrError, UsageError
from stream_detr.live.drawing import annotated
from stream_detr.live.settings import SessionOptions
from stream_detr.overlay import Style
from stream_detr.prefetch import background
from stream_detr.sinks import Sink, VideoOptions
from stream_detr.sinks.outputs import is_folder
from stream_detr.sinks.publish import check_publish, open_publisher
from stream_detr.sinks.segments import SegmentsSink, check_segments
from stream_detr.sources.inputs import without_credentials

if TYPE_CHECKING:
    from stream_detr.live.stream import Shown, Stream

log = logging.getLogger("stream_detr")

_MOST_WAITING = 16
_MOST_WAITING_TO_BE_SENT = 2  # late pictures are of no use to a receiver
_MOST_LETTERS = 100  # of a file's name; file systems take 255


class Output:
    """Draws and writes pictures in a thread of its own; those that it can't keep up with are dropped and counted.

    When the sink fails there is one line in the log and the output ends; whoever offers pictures never notices.
    ``is_open``: it takes pictures.
    """

    def __init__(
        self, name: str, sink: Sink, draw: Callable[[Shown], NDArray[np.uint8]], most_waiting: int = _MOST_WAITING
    ) -> None:
        self.is_open = True
        self.message = ""
        self.frames_written = self.frames_dropped = 0
        self._name, self._sink, self._draw, self._most_waiting = name, sink, draw, most_waiting
        self._changed = Condition()
        self._waiting: deque[Shown] = deque()
        self._thread = background(self._run, f"output {name}")

    def offer(self, shown: Shown) -> None:
        """Write ``shown`` if there is room for it; never waits."""
        with self._changed:
            if not self.is_open:
                return
            if len(self._waiting) >= self._most_waiting:
                self.frames_dropped += 1
                return
            self._waiting.append(shown)
            self._changed.notify()

    def finish(self) -> None:
        """Write what waits and close the sink, soon."""
        with self._changed:
            self.is_open = False
            self._changed.notify()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the end, up to a time, and say whether it has come."""
        return self._thread.join(timeout_seconds)

    def report(self) -> dict[str, Any]:
        """Figures, ready for JSON, and the sink's own."""
        of_sink: dict[str, Any] = getattr(self._sink, "report", dict)()
        own = {"frames_written": self.frames_written, "frames_dropped": self.frames_dropped, "error": self.message}
        return own | of_sink

    def _run(self) -> None:
        try:
            with self._sink as sink:
                for shown in self._pictures():
                    sink.write(shown.frame, self._draw(shown), shown.detections)
                    self.frames_written += 1
        except StreamDetrError as error:
            self.message = str(error)
            log.error("%s", error)
        except Exception as error:
            self.message = str(error) or type(error).__name__
            reason = f"{type(error).__name__}: {error}"
            log.exception("%s: an output has ended by an unexpected %s", self._name, reason)
        finally:
            with self._changed:
                self.is_open = False
                self._waiting.clear()

    def _pictures(self) -> Iterator[Shown]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or not self.is_open)
                if not self._waiting:
                    return
                shown = self._waiting.popleft()
            yield shown
            del shown


class Outputs:
    """Begins and ends the outputs of a session's streams; ``config`` tells the settings of the moment.

    Raises:
        UsageError: see `check_options`.
    """

    def __init__(self, options: SessionOptions, config: Callable[[], Config], num_inputs: int) -> None:
        self._options, self._config = options, config
        self._opened: list[Output] = []
        self._failures: list[str] = []  # of outputs that are gone
        check_options(options, config(), num_inputs)

    def style(self) -> Style:
        """How pictures are drawn now."""
        config = self._config()
        return Style(config.attention, config.alpha, config.legend, config.zones, config.lines)

    def begin(self, stream: Stream, number: int | None) -> None:
        """Begin what the options ask for from the start for the input with this number; None = the only one."""
        uris = self._options.publish[number or 0 : (number or 0) + 1]
        for uri in uris:
            publisher = open_publisher(uri, without_credentials(uri))
            stream.publishing = self._begin(stream, publisher, show_stale=True, most_waiting=_MOST_WAITING_TO_BE_SENT)
        if self._options.record is not None and self._options.starts_recording:
            self.record(stream, True, number)

    def record(self, stream: Stream, on: bool, number: int | None) -> None:
        """Begin or end a recording; ``number`` tells streams apart in its name.

        Raises:
            UsageError: no place for recordings was named.
        """
        if stream.is_recording == on:
            return
        if not on and stream.recording is not None:
            stream.recording.finish()
            return
        options = self._options
        if options.record is None:
            raise UsageError("recording: no place for it was named; start with --record and a folder")
        sink = SegmentsSink(
            recording_path(options.record, number, stream.name),
            _video(self._config()),
            segment_seconds=options.segment_seconds,
            with_records=options.with_records,
        )
        stream.recording = self._begin(stream, sink, show_stale=options.show_stale)

    @property
    def opened(self) -> list[Output]:
        """All outputs that may still be writing."""
        return self._opened

    @property
    def failures(self) -> list[str]:
        """What ended outputs before their time, a line each."""
        return self._failures + [each.message for each in self._opened if each.message]

    def _begin(self, stream: Stream, sink: Sink, *, show_stale: bool, most_waiting: int = _MOST_WAITING) -> Output:
        def draw(shown: Shown) -> NDArray[np.uint8]:
            return annotated(shown, self.style(), show_stale=show_stale)

        output = Output(stream.name, sink, draw, most_waiting)
        gone = [each for each in self._opened if each.join(0)]
        self._failures += [each.message for each in gone if each.message]
        self._opened = [*(each for each in self._opened if each not in gone), output]
        return output


def _video(config: Config) -> VideoOptions:
    return VideoOptions(config.codec, config.crf, config.preset)


def check_options(options: SessionOptions, config: Config, num_inputs: int) -> None:
    """Make sure that what a session is to write can be written, as far as can be known before there is a picture.

    Raises:
        UsageError: the options don't fit together, no recording can be such a file, or the codec is not there.
    """
    if len(options.publish) > num_inputs:
        raise UsageError(f"publish: {len(options.publish)} addresses for {num_inputs} inputs; give one for each")
    for uri in options.publish:
        check_publish(uri)
    if options.record is not None:
        check_segments(recording_path(options.record, None, ""), _video(config))
    if options.segment_seconds is not None and options.segment_seconds <= 0:
        raise UsageError(f"segment_seconds: expected more than 0, got {options.segment_seconds:g}")


def recording_path(record: str, number: int | None, stream_name: str) -> str:
    """Where the recording of a stream goes: ``record`` if that is a file, else a file in that folder.

    With a ``number`` the name says which of several streams it is.

    >>> recording_path("street.mp4", None, "0"), recording_path("out/", None, "rtsp://camera/live?key=…")
    ('street.mp4', 'out/camera-live-key.mp4')
    >>> recording_path("street.mp4", 2, "/dev/video0"), recording_path("out", 2, "/dev/video0")
    ('street-2-video0.mp4', 'out/2-video0.mp4')
    """
    place = stream_name.partition("://")[2] or Path(stream_name).stem
    stem = re.sub(r"[^\w.]+", "-", place).strip("-.") or "stream"
    stem = stem if number is None else f"{number}-{stem}"
    if is_folder(record):
        return str(Path(record, f"{stem[:_MOST_LETTERS]}.mp4"))
    path = Path(record)
    return record if number is None else str(path.with_name(f"{path.stem}-{stem[:_MOST_LETTERS]}{path.suffix}"))
