"""A live stream that does not die: reads ahead of everybody, keeps the freshest frame, comes back when it is lost."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Literal

from stream_detr.errors import SourceError
from stream_detr.prefetch import Latest
from stream_detr.sources.inputs import Input
from stream_detr.sources.live import Arrival, LiveOptions, LiveSource, PermanentError, open_live
from stream_detr.structures import Frame, StreamInfo

log = logging.getLogger("stream_detr")

State = Literal["connecting", "live", "lost", "ended"]

_MICROSECOND = Fraction(1, 1_000_000)
# How long a wait takes to notice that the capture was closed.
_GLANCE_SECONDS = 0.05
# close() waits this long for the thread. One that is stuck in a read ends at the read's timeout, by itself.
_PARTING_SECONDS = 1.0
# After a longer pause than this the frames that should have come are counted as missing.
_PAUSE_SECONDS = 1.0
_USUAL_RATE = 25
# Later than this a stream that is played in real time goes on from where it is, rather than hurry.
_LATE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """How a stream is: ``state`` since ``since_seconds`` (monotonic clock), ``message`` what is wrong
    while it isn't live.

    ``reconnects`` counts how often it came back. ``frames_dropped``: read and replaced before anyone took them.
    """

    name: str
    state: State
    since_seconds: float
    reconnects: int = 0
    frames_read: int = 0
    frames_dropped: int = 0
    message: str = ""


class Capture:
    """Reads a live input in a thread of its own from the moment it is made, until :meth:`close`.

    The thread drains the stream whatever the takers do. A lost connection is opened again, with growing pauses. What
    will not get better, a wrong address say, ends the capture: ``status`` is "ended" and ``error`` says why. After the
    first picture hardly anything is taken for final: a server that is starting again answers oddly.

    ``notify`` is called from the thread on every frame and every change of state, and must return at once.
    """

    def __init__(self, given: Input, options: LiveOptions, notify: Callable[[], None] = lambda: None) -> None:
        self.name = given.name
        self.error: SourceError | None = None
        self._given, self._options, self._notify = given, options, notify
        self._status = StreamStatus(given.name, "connecting", time.monotonic())
        self._is_closed = False
        self._latest = Latest(self._frames(), notify, f"capture {given.name}")
        self._latest.start()

    @property
    def status(self) -> StreamStatus:
        """How it is now."""
        return replace(self._status, frames_read=self._latest.num_items, frames_dropped=self._latest.num_dropped)

    def newest(self, after: int = -1) -> Frame | None:
        """The freshest frame, or None when there is none whose index is above ``after``. Any thread may ask."""
        frame = self._latest.newest()
        return frame if frame is not None and frame.index > after else None

    def close(self) -> None:
        """Stop reading; returns soon even when the stream hangs. A second call does nothing."""
        self._is_closed = True
        self._latest.close(_PARTING_SECONDS)

    def _frames(self) -> Iterator[Callable[[], Frame | None]]:
        """Every frame of every connection, each as a function that converts it."""
        started = last = None
        index = pts = -1
        for arrival, frame_rate in self._arrivals():
            now = time.monotonic()
            started = now if started is None else started
            index += 1 if last is None else frames_in(now - last, frame_rate)
            pts, last = max(pts + 1, int((now - started) / _MICROSECOND)), now
            yield partial(self._convert, arrival, index, pts, now, frame_rate)

    def _convert(
        self, arrival: Arrival, index: int, pts: int, captured_seconds: float, frame_rate: Fraction | None
    ) -> Frame | None:
        try:
            image = arrival.to_rgb()
        except Exception as error:  # whatever is wrong with a picture, the next one may be better
            log.debug("%s: a picture is left out (%s)", self.name, error)
            return None
        info = StreamInfo(self.name, image.shape[1], image.shape[0], frame_rate, None, is_live=True)
        return Frame(image, index, pts, _MICROSECOND, captured_seconds, info)

    def _arrivals(self) -> Iterator[tuple[Arrival, Fraction | None]]:
        """Pictures, connection after connection, until there is nothing more to come."""
        failures = 0
        while not self._is_closed:
            try:
                with closing(open_live(self._given, self._options)) as source:
                    # A broadcast that has meanwhile become a recording is over: it would start from its beginning.
                    for arrival in self._paced(source) if not (source.has_end and self._has_been_live) else ():
                        failures = 0
                        self._become("live", "")
                        yield arrival, source.frame_rate
                if not self._is_closed:
                    self._become("ended", f"{self.name}: is over")
                return
            except Exception as unexpected:
                error = self._as_source_error(unexpected)
                failures += 1
                if self._is_final(error, failures):
                    self.error = error
                    self._become("ended", str(error))
                    return
                self._become("connecting" if self._status.state == "connecting" else "lost", str(error))
            self._pause_until(time.monotonic() + backoff(failures, self._options.backoff_seconds))

    def _as_source_error(self, error: Exception) -> SourceError:
        """A mistake of the program or a library is no reason to give the stream up, either."""
        if isinstance(error, SourceError):
            return error
        log.debug("%s", self.name, exc_info=error)
        return SourceError(f"{self.name}: unexpected {type(error).__name__}")

    def _paced(self, source: LiveSource) -> Iterator[Arrival]:
        """Pictures when they are due; those of a source that comes at its own speed are due at once."""
        origin: float | None = None
        for arrival in source:
            if arrival.media_seconds is not None:
                now = time.monotonic()
                if origin is None or abs(origin + arrival.media_seconds - now) > _LATE_SECONDS:
                    origin = now - arrival.media_seconds
                self._pause_until(origin + arrival.media_seconds)
            if self._is_closed:
                return
            yield arrival

    def _is_final(self, error: SourceError, failures: int) -> bool:
        most = self._options.max_reconnects
        is_wrong = isinstance(error, PermanentError) and (self._given.kind == "realtime" or not self._has_been_live)
        return is_wrong or (most is not None and failures > most)

    @property
    def _has_been_live(self) -> bool:
        return self._latest.num_items > 0

    def _become(self, state: State, message: str) -> None:
        before = self._status
        if (state, message) == (before.state, before.message):
            return
        if state == "live" and before.state == "lost":
            log.warning("%s: live again", self.name)
        elif state == "live":
            log.info("%s: live", self.name)
        elif message != before.message:
            log.warning("%s%s", message, "" if state == "ended" else "; trying again")
        is_new = state != before.state
        self._status = replace(
            before,
            state=state,
            since_seconds=time.monotonic() if is_new else before.since_seconds,
            reconnects=before.reconnects + (is_new and before.state == "lost" and state == "live"),
            message=message,
        )
        self._notify()

    def _pause_until(self, due: float) -> None:
        while not self._is_closed and (left := due - time.monotonic()) > 0:
            time.sleep(min(left, _GLANCE_SECONDS))


def frames_in(gap_seconds: float, frame_rate: Fraction | None) -> int:
    """By how much a frame's index rises that came so long after the one before: index is what tracks take for time.

    >>> frames_in(0.2, Fraction(30)), frames_in(600, Fraction(30)), frames_in(2, None), frames_in(1.5, Fraction(1, 2))
    (1, 18000, 50, 1)
    """
    return max(1, round(gap_seconds * (frame_rate or _USUAL_RATE))) if gap_seconds > _PAUSE_SECONDS else 1


def backoff(failures: int, limits_seconds: tuple[float, float]) -> float:
    """Seconds to wait after so many failures in a row: doubled each time up to the longest, less up to half by chance.

    >>> 0.1 <= backoff(1, (0.2, 1.2)) <= 0.2, 0.6 <= backoff(10_000, (0.2, 1.2)) <= 1.2
    (True, True)
    """
    first, longest = limits_seconds
    return min(longest, first * 2.0 ** min(failures - 1, 32)) * random.uniform(0.5, 1.0)
