"""Many live streams, one model: every stream shows its freshest picture, the model takes turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Event, Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from stream_detr.config import Config
from stream_detr.errors import UsageError
from stream_detr.live.drawing import annotated
from stream_detr.live.inference import Inference
from stream_detr.live.outputs import Output, Outputs
from stream_detr.live.pushed import PushedCapture
from stream_detr.live.settings import LiveSettings, SessionOptions, changed, check_points, detector_choices
from stream_detr.live.stream import Captured, Shown, Stream, Tracks, make_tracker
from stream_detr.live.subscribers import Subscribers
from stream_detr.live.threads import Threads, left
from stream_detr.prefetch import Background, background
from stream_detr.sinks.png import encode_png
from stream_detr.sources.inputs import Input
from stream_detr.structures import Point, StreamInfo

if TYPE_CHECKING:
    from stream_detr.detector import Detector
    from stream_detr.overlay import Style

_CLOSE_SECONDS = 1.8
_GLANCE_SECONDS = 0.2
_GONE_STREAMS_KEPT = 32  # in the report

_PointsOf = Mapping[tuple[object, int], tuple[Point, ...]]  # by viewer and stream


class LiveSession:
    """Shows live streams with what one model finds in them, from the moment it is made until :meth:`close`.

    Each stream has a thread that makes its pictures as fast as its frames come, one thread runs the model on whatever
    frames are freshest, and each recording or stream that is sent on has a thread. Nothing waits for a viewer.

    Args:
        open_capture: starts reading an input and calls the function it is given whenever something has changed, as
            `stream_detr.capture.Capture` does.
        make_tracker: makes what follows the objects of a stream.

    Raises:
        UsageError: settings or options don't fit the model or the streams.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        detector: Detector,
        config: Config,
        options: SessionOptions | None = None,
        *,
        open_capture: Callable[[Input, Callable[[], None]], Captured],
        make_tracker: Callable[[Config, StreamInfo], Tracks] = make_tracker,
    ) -> None:
        self._options = options or SessionOptions()
        self._config, self._make_tracker = config, make_tracker
        self._points: _PointsOf = {}
        self._streams: Mapping[int, Stream] = {}  # replaced, never changed: read without the lock
        self._gone: deque[dict[str, Any]] = deque(maxlen=_GONE_STREAMS_KEPT)
        self._num_streams = 0
        self._subscribers = Subscribers()
        self._lock = Lock()
        self._until: float | None = None  # when close() has to return
        self._started = monotonic()
        self._threads = Threads()
        self.outputs = Outputs(self._options, lambda: self._config, len(inputs))
        make_tracker(config, StreamInfo("", 1, 1))  # the first one loads a library, which would hold up the picture
        configured = detector.configured(**detector_choices(config, ()))
        self._inference = Inference(configured, config.batch_size, lambda: self.streams)
        self._running: dict[int | Stream | None, Background] = {
            None: self._threads.start(self._inference.run, "inference")
        }
        try:
            for given in inputs:
                stream = self._add(partial(open_capture, given))
                self.outputs.begin(stream, stream.stream_id if len(inputs) > 1 else None)
        except BaseException:
            self.close()
            raise

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes the model knows."""
        return tuple(self._inference.detector.class_names)

    @property
    def model_name(self) -> str:
        """Name of the model."""
        return self._inference.detector.name

    @property
    def num_layers(self) -> int:
        """Layers that `LiveSettings.layer` can name."""
        shape = self._inference.detector.model.config
        return min(shape.encoder_layers, shape.decoder_layers)

    @property
    def num_heads(self) -> int:
        """Heads that `LiveSettings.head` can name."""
        return self._inference.detector.model.config.num_heads

    @property
    def streams(self) -> list[Stream]:
        """The streams there are now, in the order they came."""
        return list(self._streams.values())

    @property
    def settings(self) -> LiveSettings:
        """What `change` changes."""
        return LiveSettings.of(self._config)

    @property
    def points(self) -> tuple[Point, ...]:
        """Reference points that were configured, whatever viewers add."""
        return self._config.points

    def style(self) -> Style:
        """How pictures are drawn now."""
        return self.outputs.style()

    def newest(self, stream_id: int, after_number: int = -1) -> Shown | None:
        """The newest picture of a stream, None when there is none whose number is above ``after_number``."""
        stream = self._streams.get(stream_id)
        shown = None if stream is None else stream.shown
        return shown if shown is not None and shown.number > after_number else None

    def subscribe(self, callback: Callable[[int], None]) -> Callable[[], None]:
        """Call ``callback`` with a stream's id whenever it has a new picture, until the returned function is called.

        It is called in the stream's thread and must return at once.
        """
        return self._subscribers.add(callback)

    def change(self, **values: object) -> None:
        """Change some of the `settings`, for all streams and viewers; the model stays loaded.

        Raises:
            UsageError: there is no such setting, or a value is out of range; nothing has changed then.
        """
        with self._lock:
            self._configure(changed(self._config, values), self._points)
            for stream in self._streams.values():
                stream.configure(self._config)

    def set_points(self, owner: object, stream_id: int, points: Sequence[Point]) -> None:
        """Capture encoder attention at ``points``, fractions of the frame, for a viewer; none = no longer.

        All viewers' points are captured in all streams; their maps tell them apart by ``points_xy``.

        Raises:
            UsageError: a point lies outside the frame, there are too many, or there is no such stream.
        """
        checked = check_points(points)
        with self._lock:
            others = {key: kept for key, kept in self._points.items() if key != (owner, stream_id)}
            if checked:
                self._stream(stream_id)
                others[owner, stream_id] = checked
            self._configure(self._config, others)

    def forget(self, owner: object) -> None:
        """Take away all points of a viewer; one that has none is no mistake."""
        with self._lock:
            points = {key: kept for key, kept in self._points.items() if key[0] != owner}
            if points != self._points:
                self._configure(self._config, points)

    def pause(self, stream_id: int, on: bool) -> None:
        """Let the picture of a stream stand, with the model off, or go on; it is read all the while.

        Raises:
            UsageError: there is no such stream.
        """
        self._stream(stream_id).pause(on)

    def record(self, stream_id: int, on: bool) -> None:
        """Begin or end the recording of a stream; asking for what is the case does nothing.

        Raises:
            UsageError: no place for recordings was named, or there is no such stream.
        """
        stream = self._stream(stream_id)
        with self._lock:
            if self._until is None:
                self.outputs.record(stream, on, stream.stream_id if self._num_streams > 1 else None)

    def snapshot(self, stream_id: int) -> bytes:
        """What a stream shows now, as PNG, drawn at full resolution.

        Raises:
            UsageError: it has not shown anything yet, or there is no such stream.
        """
        shown = self._stream(stream_id).shown
        if shown is None:
            raise UsageError(f"{self._stream(stream_id).name}: has no picture yet; wait for the first")
        return encode_png(annotated(shown, self.style()))

    def add_pushed(self, name: str) -> int:
        """Add a stream whose frames are pushed, and say its id."""
        return self._add(lambda notify: PushedCapture(name, notify)).stream_id

    def push(self, stream_id: int, image: NDArray[np.uint8]) -> None:
        """Another frame (H, W, 3) uint8 RGB of a pushed stream; a newer one replaces it if it has not been looked at.

        Raises:
            UsageError: the picture is of another form, or there is no such pushed stream.
        """
        capture = self._stream(stream_id).capture
        if not isinstance(capture, PushedCapture):
            raise UsageError(f"stream {stream_id}: reads its own frames; only added streams are pushed")
        capture.push(image)

    def remove(self, stream_id: int) -> None:
        """Close a stream and forget it; one that is not there is no mistake."""
        with self._lock:
            stream = self._streams.get(stream_id)
            self._streams = {key: kept for key, kept in self._streams.items() if key != stream_id}
            points = {key: kept for key, kept in self._points.items() if key[1] != stream_id}
            if points != self._points:
                self._configure(self._config, points)
        if stream is not None:
            stream.close()
            self._running.pop(stream_id).join(_CLOSE_SECONDS)
            self._gone.append(stream.report())

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until no stream has anything more to show; False when the time is up before.

        Raises:
            BaseException: what ended one of the session's threads.
        """
        until = None if timeout_seconds is None else monotonic() + timeout_seconds
        while not self._threads.stopped.wait(_GLANCE_SECONDS if until is None else min(_GLANCE_SECONDS, left(until))):
            streams = self.streams
            if streams and all(stream.is_over for stream in streams):
                return True
            if until is not None and not left(until):
                return False
        self._threads.surface()
        return True

    def end(self) -> None:
        """Begin to close every stream and output, without waiting; a second call does nothing."""
        with self._lock:
            if self._until is not None:
                return
            self._until = monotonic() + _CLOSE_SECONDS
            self._inference.close()
            self._threads.stopped.set()
            # All at the same time: one that hangs takes its own.
            self._running |= {stream: background(stream.close, f"close {stream.name}") for stream in self.streams}

    def close(self) -> None:
        """Close every stream and output, within two seconds of :meth:`end` where that came before.

        Raises:
            BaseException: what ended one of the session's threads, if :meth:`wait` has not raised it.
        """
        self.end()
        threads: list[Background | Output] = [*self._running.values(), *self.outputs.opened]
        for thread in threads:
            thread.join(left(self._until or 0.0))
        self._threads.surface()

    def report(self) -> dict[str, Any]:
        """Figures of the session so far, ready for JSON."""
        streams = [*self._gone, *(stream.report() for stream in self.streams)]
        return {"elapsed_seconds": round(monotonic() - self._started, 3), "model": self.model_name, "streams": streams}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _stream(self, stream_id: int) -> Stream:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise UsageError(f"there is no stream {stream_id}; there are {list(self._streams) or 'none'}")
        return stream

    def _add(self, open_capture: Callable[[Callable[[], None]], Captured]) -> Stream:
        news = Event()
        with self._lock:
            if self._until is not None:
                raise UsageError("the session is closed; no stream can be added")
            stream_id, self._num_streams = self._num_streams, self._num_streams + 1
            staleness = self._options.max_staleness_seconds
            stream = Stream(
                stream_id, open_capture(news.set), news, self._config, self.class_names, staleness, self._make_tracker
            )
            self._streams = {**self._streams, stream_id: stream}
            self._running[stream_id] = self._threads.start(partial(self._follow, stream), f"stream {stream.name}")
        return stream

    def _follow(self, stream: Stream) -> None:
        """Make a stream's pictures, and tell who wants to know."""
        while not stream.is_closed:
            stream.news.wait()
            stream.news.clear()
            for shown in stream.advance(is_model_free=not self._inference.is_busy):
                self._subscribers.tell(shown.stream_id)
            self._inference.wake()

    def _configure(self, config: Config, points: _PointsOf) -> None:
        everybodys = [point for each in points.values() for point in each]
        # First, as it refuses what doesn't fit the model.
        self._inference.detector = self._inference.detector.configured(**detector_choices(config, everybodys))
        self._config, self._points = config, points
