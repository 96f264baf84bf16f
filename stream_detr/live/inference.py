"""The one thread that runs the model, on whatever frames are freshest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING

from stream_detr.live.stream import Stream
from stream_detr.live.turns import Turns
from stream_detr.structures import Frame

if TYPE_CHECKING:
    from stream_detr.detector import Detector


class Inference:
    """Takes the newest frames of all streams in fair turns, until :meth:`close`.

    ``detector`` may be replaced at any time: the next batch is detected by the new one.
    """

    def __init__(self, detector: Detector, batch_size: int | None, streams: Callable[[], Sequence[Stream]]) -> None:
        self.detector = detector
        self.is_busy = False
        self._batch_size, self._streams = batch_size, streams
        self._turns = Turns()
        self._work = Event()
        self._is_closed = False

    def wake(self) -> None:
        """There may be a frame to detect."""
        self._work.set()

    def close(self) -> None:
        """End after the batch in progress."""
        self._is_closed = True
        self._work.set()

    def run(self) -> None:
        """What the thread does."""
        while not self._is_closed:
            self._work.wait()
            self._work.clear()
            while batch := self._choose():
                self._detect(batch)

    def _choose(self) -> list[tuple[Stream, Frame]]:
        """The next batch; empty when every stream's newest frame has been seen."""
        streams = {stream.stream_id: stream for stream in self._streams() if not stream.is_closed}
        due = {key: frame for key, stream in streams.items() if (frame := stream.due()) is not None}
        if self._is_closed or not due:
            return []
        self.is_busy = True
        chosen = self._turns.choose({key: frame.size_hw for key, frame in due.items()}, self._limit)
        self._turns.keep(streams)
        return [(streams[key], due[key]) for key in chosen]

    def _limit(self, size_hw: tuple[int, int]) -> int:
        return self._batch_size or self.detector.best_batch_size(size_hw)

    def _detect(self, batch: Sequence[tuple[Stream, Frame]]) -> None:
        for stream, frame in batch:
            stream.take(frame)
        started = monotonic()
        found = self.detector([frame for _, frame in batch])
        seconds = monotonic() - started
        self.is_busy = False
        for (stream, frame), detections in zip(batch, found, strict=True):
            stream.found(frame, detections, seconds)
