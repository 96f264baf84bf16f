"""The threads of a session, and what went wrong in them."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from threading import enumerate as running_threads
from time import monotonic

from stream_detr.prefetch import Background, background


class Threads:
    """Starts threads and hears their errors. ``stopped`` is set by the first error, or by who wants all to end."""

    def __init__(self) -> None:
        self.stopped = Event()
        self._failures: list[BaseException] = []

    def start(self, loop: Callable[[], None], name: str) -> Background:
        """Run ``loop`` in a thread of its own."""

        def run() -> None:
            try:
                loop()
            except BaseException as error:  # surface() raises it, whatever it is
                self._failures.append(error)
                self.stopped.set()

        return background(run, name)

    def surface(self) -> None:
        """Raise the last error, if there is one that has not been raised."""
        if self._failures:
            raise self._failures.pop()


def are_left() -> bool:
    """Whether a thread still runs that nobody waits for: one in a forward pass, say, or in a read."""
    return any(thread.daemon for thread in running_threads())


def left(until: float) -> float:
    """Seconds until a moment of the monotonic clock, 0 when it has passed."""
    return max(0.0, until - monotonic())
