"""One stream of a session: its frames, what was found in them, and what is shown of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from threading import Event, Lock
from time import monotonic
from typing import Any, Protocol

import numpy as np

from stream_detr.capture import StreamStatus
from stream_detr.config import Config
from stream_detr.live.figures import Delays, Rate
from stream_detr.live.outputs import Output
from stream_detr.structures import Detections, Frame, StreamInfo
from stream_detr.tracking import Tracker
from stream_detr.zones import Regions


class Captured(Protocol):
    """Where a stream's frames come from, see `stream_detr.capture.Capture`."""

    @property
    def name(self) -> str: ...

    @property
    def status(self) -> StreamStatus: ...

    def newest(self, after: int = -1) -> Frame | None: ...

    def close(self) -> None: ...


class Tracks(Protocol):
    """What moves objects on between the frames that the model sees, see `stream_detr.tracking.Tracker`."""

    begin: float

    def update(self, detections: Detections, frame: Frame) -> Detections: ...

    def at(self, frame: Frame) -> Detections: ...


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture of a stream as viewers get it. ``number`` rises by 1 with each of a stream, ``shown_seconds`` is the
    monotonic clock, ``age_seconds`` how much older than the frame the last result is: 0 = the model saw this frame."""

    stream_id: int
    number: int
    frame: Frame
    detections: Detections
    shown_seconds: float
    age_seconds: float = 0.0


class Stream:
    """Puts together what is shown of one stream; nothing here waits for the model, a viewer or another stream.

    Two threads meet here, that of the stream (`advance`) and that of the model (`due`, `take`, `found`).
    """

    def __init__(
        self,
        stream_id: int,
        capture: Captured,
        news: Event,
        config: Config,
        class_names: tuple[str, ...],
        max_staleness_seconds: float,
        make_tracker: Callable[[Config, StreamInfo], Tracks],
    ) -> None:
        self.stream_id, self.capture = stream_id, capture
        self.news = news  # a frame, a result, or the end
        self.is_paused = self.is_closed = False
        self.shown: Shown | None = None
        self.recording: Output | None = None
        self.publishing: Output | None = None
        self.delays = Delays()
        self._shown_rate, self._detected_rate = Rate(), Rate()
        self._config, self._class_names, self._max_staleness = config, class_names, max_staleness_seconds
        self._make_tracker = make_tracker
        self._tracker: Tracks | None = None
        self._regions = Regions(config.zones, config.lines) if config.zones or config.lines else None
        self._lock = Lock()
        self._seen_index = -1
        self._newest: Frame | None = None
        self._held: Frame | None = None  # waits for its own result, until the next frame comes
        self._taken: Frame | None = None  # the last one that the model was given
        self._missed: Frame | None = None  # the last one that the model failed on
        self._result: tuple[Frame, Detections] | None = None

    @property
    def name(self) -> str:
        """The stream's name, without credentials."""
        return self.capture.name

    @property
    def status(self) -> StreamStatus:
        """How its source is."""
        return self.capture.status

    @property
    def shown_fps(self) -> float:
        """Pictures shown a second, lately."""
        return self._shown_rate.per_second(monotonic())

    @property
    def detected_fps(self) -> float:
        """Pictures that the model saw a second, lately."""
        return self._detected_rate.per_second(monotonic())

    @property
    def latency_ms(self) -> dict[str, float]:
        """Median of each stage: ``wait`` for the model, ``detect``, ``compose``; ``detected`` and ``shown``: age of the
        frame by then."""
        return self.delays.median()

    @property
    def is_recording(self) -> bool:
        """Whether a recording is running."""
        return self.recording is not None and self.recording.is_open

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be shown."""
        is_ended = self.capture.status.state == "ended"
        return is_ended and self._held is None and self.capture.newest(self._seen_index) is None

    def configure(self, config: Config) -> None:
        """Go on with other settings."""
        with self._lock:
            self._config = config
            if self._tracker is not None:
                self._tracker.begin = config.threshold

    def pause(self, on: bool) -> None:
        """Let the picture stand, or go on with the newest frame."""
        with self._lock:
            self.is_paused, self._held, self._newest = on, None, None

    def advance(self, is_model_free: bool) -> Iterator[Shown]:
        """Take the newest frame and show what is to be shown now, one after the other, at most two pictures.

        A frame for which the model is free is held back until it has its result, but no longer than to the next frame.
        Any other is shown at once with the last result moved on to it.
        """
        frame = self.capture.newest(self._seen_index)
        started = monotonic()
        with self._lock:
            self._seen_index = self._seen_index if frame is None else frame.index
            if self.is_paused:
                return
            made: list[tuple[Frame, Detections, float]] = []
            held = self._held
            if held is not None and self._result is not None and self._result[0] is held:
                made.append((*self._result, 0.0))
                self._held = None
            elif held is not None and (frame is not None or held is self._missed):
                made.append(self._carried(held))
                self._held = None
            if frame is not None:
                self._newest = frame
                if is_model_free and self._is_due(frame):
                    self._held = frame
                else:
                    made.append(self._carried(frame))
        if made:
            self.delays.add("compose", monotonic() - started)
        for each in made:
            yield self._show(*each)

    def due(self) -> Frame | None:
        """The newest frame, if the model is to see it and has not."""
        with self._lock:
            frame = self._newest
            return frame if frame is not None and not self.is_paused and self._is_due(frame) else None

    def take(self, frame: Frame) -> None:
        """The model is given ``frame``."""
        self._taken = frame
        self.delays.add("wait", monotonic() - frame.captured_seconds)

    def found(self, frame: Frame, detections: Detections, detect_seconds: float) -> None:
        """The model has seen ``frame``."""
        if self._config.min_size:
            sides = detections.boxes[:, 2:] - detections.boxes[:, :2]
            detections = detections[sides.min(1) >= self._config.min_size]
        with self._lock:
            if self._tracker is None:
                self._tracker = self._make_tracker(self._config, frame.stream)
            self._result = frame, self._placed(self._tracker.update(detections, frame), frame)
        now = monotonic()
        self._detected_rate.add(now)
        self.delays.add("detect", detect_seconds)
        self.delays.add("detected", now - frame.captured_seconds)
        self.news.set()

    def missed(self, frame: Frame) -> None:
        """The model has failed on ``frame``: it is shown without a result of its own."""
        self._missed = frame
        self.news.set()

    def close(self) -> None:
        """Stop reading and end the outputs; they finish in their own threads."""
        self.is_closed = True
        self.news.set()
        for output in (self.recording, self.publishing):
            if output is not None:
                output.finish()
        self.capture.close()

    def report(self) -> dict[str, Any]:
        """Figures of the whole run, ready for JSON."""
        status = self.status
        return {
            "stream": self.name,
            "state": status.state,
            "since": round(max(0.0, monotonic() - status.since_seconds), 1),
            "message": status.message,
            "frames_read": status.frames_read,
            "frames_dropped": status.frames_dropped,
            "frames_shown": self._shown_rate.count,
            "frames_detected": self._detected_rate.count,
            "reconnects": status.reconnects,
            "latency_ms": self.delays.summary(),
            "recording": None if self.recording is None else self.recording.report(),
            "publishing": None if self.publishing is None else self.publishing.report(),
        }

    def _is_due(self, frame: Frame) -> bool:
        last = self._taken
        if last is None or frame.size_hw != last.size_hw:
            return True
        if self._config.detect_fps:
            return frame.captured_seconds - last.captured_seconds >= 1 / self._config.detect_fps
        return frame.index - last.index >= self._config.stride

    def _carried(self, frame: Frame) -> tuple[Frame, Detections, float]:
        """``frame`` with the last result moved on to it, nothing if that is too old or of another size."""
        carried, age = Detections.empty(self._class_names), 0.0
        if self._tracker is not None and self._result is not None and self._result[0].size_hw == frame.size_hw:
            age = frame.captured_seconds - self._result[0].captured_seconds
            if age <= self._max_staleness:
                carried = self._tracker.at(frame)
        return frame, self._placed(carried, frame), age

    def _placed(self, detections: Detections, frame: Frame) -> Detections:
        return self._regions.update(detections, frame.size_hw) if self._regions is not None else detections

    def _show(self, frame: Frame, detections: Detections, age_seconds: float) -> Shown:
        now = monotonic()
        number = 0 if self.shown is None else self.shown.number + 1
        self.shown = Shown(self.stream_id, number, frame, detections, now, age_seconds)
        self._shown_rate.add(now)
        self.delays.add("shown", now - frame.captured_seconds)
        for output in (self.recording, self.publishing):
            if output is not None:
                output.offer(self.shown)
        return self.shown


def make_tracker(config: Config, info: StreamInfo) -> Tracks:
    """What follows a stream's objects under these settings."""
    if not config.track:
        return _Still(config.threshold)
    return Tracker(config.threshold, config.smooth, float(info.frame_rate or 25))


class _Still:
    """Instead of a tracker: the last result is held where it is."""

    def __init__(self, begin: float) -> None:
        self.begin = begin
        self._last = Detections.empty()

    def update(self, detections: Detections, frame: Frame) -> Detections:
        self._last = detections
        return detections

    def at(self, frame: Frame) -> Detections:
        return replace(self._last, carried=np.ones(len(self._last), np.bool_))
