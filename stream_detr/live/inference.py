"""The one thread that runs the model, on whatever frames are freshest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING

from stream_detr.live.stream import Stream
from stream_detr.live.turns import Turns
from stream_detr.structures import Detections, Frame

if TYPE_CHECKING:
    from stream_detr.detector import Detector

log = logging.getLogger("stream_detr")

_MOST_FAILURES = 50


class Inference:
    """Takes the newest frames of all streams in fair turns, until :meth:`close`.

    A picture on which something fails is left out; after many failures in a row the error is raised.
    ``detector`` may be replaced at any time: the next batch is detected by the new one.
    """

    def __init__(self, detector: Detector, batch_size: int | None, streams: Callable[[], Sequence[Stream]]) -> None:
        self.detector = detector
        self.is_busy = False
        self._batch_size, self._streams = batch_size, streams
        self._turns = Turns()
        self._work = Event()
        self._is_closed = False
        self._failures = 0  # in a row
        self._told: set[tuple[int, str]] = set()

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
        found = self._found(batch)
        seconds = monotonic() - started
        self.is_busy = False
        for (stream, frame), detections in zip(batch, found, strict=True):
            try:
                if detections is not None:
                    stream.found(frame, detections, seconds)
                    self._failures = 0
            except Exception as error:
                self._fail(stream, frame, error)

    def _found(self, batch: Sequence[tuple[Stream, Frame]]) -> list[Detections | None]:
        """What the model finds in each frame, None where it fails."""
        try:
            return [*self.detector([frame for _, frame in batch])]
        except Exception as error:
            if len(batch) > 1:  # one by one: the others need not suffer from it
                return [detections for each in batch for detections in self._found([each])]
            self._fail(*batch[0], error)
            return [None]

    def _fail(self, stream: Stream, frame: Frame, error: Exception) -> None:
        """Go on without ``frame``, said once for each stream and kind of error."""
        self._failures += 1
        if self._failures >= _MOST_FAILURES:
            raise error
        kind = type(error).__name__
        if (stream.stream_id, kind) not in self._told:
            self._told.add((stream.stream_id, kind))
            reason = (str(error).splitlines() or [""])[0]
            log.error("%s: a picture could not be analysed (%s: %s)", stream.name, kind, reason, exc_info=error)
        stream.missed(frame)
