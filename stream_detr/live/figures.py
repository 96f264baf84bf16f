"""How often and how late: figures of the last pictures only, so that memory does not grow with time."""

from __future__ import annotations

from collections import deque
from statistics import median

import numpy as np

_LAST_EVENTS = 31
_LAST_DELAYS = 2000
_LATEST_DELAYS = 100  # of the median, which is asked for all the time


class Rate:
    """How often something happens: over the last events, falling when they stay away."""

    def __init__(self) -> None:
        self.count = 0
        self._times: deque[float] = deque(maxlen=_LAST_EVENTS)

    def add(self, now: float) -> None:
        """It has happened, at ``now`` seconds."""
        self.count += 1
        self._times.append(now)

    def per_second(self, now: float) -> float:
        """Events a second, seen at ``now`` seconds.

        >>> rate = Rate()
        >>> for tenth in range(11):
        ...     rate.add(tenth / 10)
        >>> rate.per_second(1.0), rate.per_second(10.0)
        (10.0, 1.0)
        """
        times = tuple(self._times)
        return (len(times) - 1) / (now - times[0]) if len(times) > 1 and now > times[0] else 0.0


class Delays:
    """How long each stage takes, in milliseconds; percentiles over the last pictures, the longest of all of them."""

    def __init__(self) -> None:
        self._last: dict[str, deque[float]] = {}
        self._longest: dict[str, float] = {}

    def add(self, stage: str, seconds: float) -> None:
        """Another one."""
        self._last.setdefault(stage, deque(maxlen=_LAST_DELAYS)).append(seconds * 1000)
        self._longest[stage] = max(seconds * 1000, self._longest.get(stage, 0.0))

    def median(self) -> dict[str, float]:
        """By stage, the middle one of the latest.

        >>> delays = Delays()
        >>> for seconds in (0.001, 0.002, 0.006):
        ...     delays.add("detect", seconds)
        >>> delays.median(), delays.summary()
        ({'detect': 2.0}, {'detect': {'p50': 2.0, 'p95': 5.6, 'max': 6.0}})
        >>> for milliseconds in 200 * [1] + 100 * [4]:
        ...     delays.add("detect", milliseconds / 1000)
        >>> delays.median(), delays.summary()["detect"]["p50"]
        ({'detect': 4.0}, 1.0)
        """
        return {stage: round(median(tuple(last)[-_LATEST_DELAYS:]), 2) for stage, last in list(self._last.items())}

    def summary(self) -> dict[str, dict[str, float]]:
        """By stage: p50, p95 and max."""
        found = {}
        for stage, last in list(self._last.items()):
            p50, p95 = np.percentile(tuple(last), (50, 95)).round(2).tolist()
            found[stage] = {"p50": p50, "p95": p95, "max": round(self._longest.get(stage, 0.0), 2)}
        return found
