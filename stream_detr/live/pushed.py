"""Frames that someone brings, such as a browser's camera, instead of a stream that is read."""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from stream_detr.capture import State, StreamStatus, frames_in
from stream_detr.errors import UsageError
from stream_detr.structures import Frame, StreamInfo

_MICROSECOND = Fraction(1, 1_000_000)


class PushedCapture:
    """Has the members of `stream_detr.capture.Capture`; the newest frame that was pushed wins."""

    def __init__(self, name: str, notify: Callable[[], None]) -> None:
        self.name = name
        self._notify = notify
        self._lock = Lock()
        self._newest: Frame | None = None
        self._is_taken = True
        self._num_frames = self._num_dropped = 0
        self._index = -1
        self._pushed_seconds = 0.0
        self._began = self._pts = 0
        self._state_since = time.monotonic()
        self._is_closed = False

    @property
    def status(self) -> StreamStatus:
        """How it is now."""
        state: State = "ended" if self._is_closed else "live" if self._num_frames else "connecting"
        return StreamStatus(
            self.name, state, self._state_since, frames_read=self._num_frames, frames_dropped=self._num_dropped
        )

    def push(self, image: NDArray[np.uint8]) -> None:
        """Another frame (H, W, 3) uint8 RGB, from any thread; it is kept, not copied.

        Raises:
            UsageError: it is no such picture.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise UsageError(f"{self.name}: expected pictures (H, W, 3) uint8, got {image.shape} {image.dtype}")
        now = time.monotonic()
        with self._lock:
            if self._is_closed:
                return
            ticks = int(now / _MICROSECOND)
            if not self._num_frames:
                self._began, self._pts, self._state_since = ticks, -1, now
            self._index += frames_in(now - self._pushed_seconds, None) if self._num_frames else 1
            self._pushed_seconds = now
            self._pts = max(self._pts + 1, ticks - self._began)
            info = StreamInfo(self.name, image.shape[1], image.shape[0], is_live=True)
            self._num_dropped += not self._is_taken
            self._newest = Frame(image, self._index, self._pts, _MICROSECOND, now, info)
            self._is_taken = False
            self._num_frames += 1
        self._notify()

    def newest(self, after: int = -1) -> Frame | None:
        """The freshest frame, or None when there is none whose index is above ``after``."""
        with self._lock:
            if self._newest is None or self._newest.index <= after:
                return None
            self._is_taken = True
            return self._newest

    def close(self) -> None:
        """Take no more frames."""
        with self._lock:
            self._is_closed, self._newest = True, None
            self._state_since = time.monotonic()
