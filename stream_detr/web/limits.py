"""How much a visitor may cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what clients send and occupy; ``answer_seconds`` is how long a viewer may leave pictures unanswered."""

    viewers: int = 16
    cameras: int = 4
    connections: int = 256
    unanswered: int = 2
    answer_seconds: float = 15.0
    message_bytes: int = 1 << 20
    command_bytes: int = 16 << 10
    commands_per_second: float = 60.0
    camera_rate: float = 30.0
    camera_pixels: int = 1920 * 1200
    tiles_per_second: float = 12.0


class Rate:
    """At most ``per_second`` over time, two seconds' worth at once.

    >>> rate = Rate(1, now=lambda: 0.0)
    >>> [rate.allows() for _ in range(3)]
    [True, True, False]
    """

    def __init__(self, per_second: float, now: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._now = per_second, now
        self._left, self._at = 2 * per_second, now()

    def allows(self) -> bool:
        """Take one, if there is one left."""
        now = self._now()
        self._left = min(2 * self._per_second, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
