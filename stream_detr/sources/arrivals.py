"""What every live source gives and is told: pictures as they come in, and how long to wait for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import SourceError, UsageError


class PermanentError(SourceError):
    """Trying again will not help: a wrong address, a wrong password, no such camera."""


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How live inputs are opened. ``timeout_seconds``: for opening and for a read that brings nothing.

    ``max_reconnects``: attempts in a row that bring no picture before a stream is given up, None for never.
    ``backoff_seconds``: the first and the longest wait between two attempts; the longest bounds how late a server that
    is back is noticed, and an attempt a second costs nothing.
    """

    timeout_seconds: tuple[float, float] = (5.0, 5.0)
    transport: Literal["tcp", "udp"] = "tcp"
    camera_size: tuple[int, int] | None = None
    camera_rate: float | None = None
    camera_format: Literal["mjpeg"] | None = None
    max_reconnects: int | None = None
    backoff_seconds: tuple[float, float] = (0.2, 1.2)

    def __post_init__(self) -> None:
        if min(self.timeout_seconds) <= 0:
            raise UsageError(f"timeout_seconds: expected numbers above 0, got {self.timeout_seconds}")
        if self.transport not in ("tcp", "udp"):
            raise UsageError(f"transport: expected tcp or udp, got {self.transport!r}")
        if not 0 < self.backoff_seconds[0] <= self.backoff_seconds[1]:
            raise UsageError(f"backoff_seconds: expected first and longest wait, got {self.backoff_seconds}")
        if self.camera_format not in (None, "mjpeg"):
            raise UsageError(f"camera_format: expected mjpeg, got {self.camera_format!r}")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A picture that has just come in, decoded but not RGB yet: most are replaced before anyone looks at them.

    ``to_rgb`` gives (H, W, 3) uint8 RGB, from any thread, and raises SourceError when the picture is damaged.
    ``media_seconds`` is the picture's place in a stream that comes faster than it plays, else None.
    """

    to_rgb: Callable[[], NDArray[np.uint8]]
    media_seconds: float | None = None


class LiveSource(Protocol):
    """One connection, open once it is made; iterated once, and closed by the thread that iterates."""

    @property
    def frame_rate(self) -> Fraction | None:
        """What the stream says of itself."""
        ...

    @property
    def has_end(self) -> bool:
        """Whether it is known to be over at some time: a file, or a broadcast that is over already."""
        ...

    def __iter__(self) -> Iterator[Arrival]:
        """Pictures until a stream that has an end is over. Raises SourceError when the connection is lost or stalls."""
        ...

    def close(self) -> None:
        """Let go of the connection or device."""
        ...
