"""Running stages side by side: the one place with threads and queues.

Stages are plain iterators. ``prefetch(stage, depth)`` runs everything upstream of it in a thread of its
own, at most ``depth`` items ahead; nested, it makes a pipeline: ``prefetch(detect(prefetch(frames, 4)), 4)``.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from queue import Empty, Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")


class _End:
    """Last item of a queue: the stage is through, or it failed with ``error``."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def surface(self) -> None:
        """Raise the error, once."""
        if self.error is not None:
            try:
                raise self.error
            finally:
                self.error = None  # else error and traceback keep each other, and the last frames, alive


def prefetch(iterable: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Iterate in a thread, up to ``depth`` (at least 1) items ahead of the consumer. Nothing is ever dropped.

    The thread starts with the first ``next()`` and has ended when the last item, or the error that ended
    the stage, has been taken. The error surfaces after the items before it. A consumer that leaves early,
    by an error, by ``close()`` or by dropping the iterator, stops the thread as soon as the item in
    progress is done and waits for it. The iterator upstream is closed in the thread that ran it.

    >>> list(prefetch(range(4), depth=2))
    [0, 1, 2, 3]
    """
    if depth < 1:
        raise ValueError(f"prefetch: depth must be at least 1, got {depth}")
    return _prefetched(iterable, depth)


def _prefetched(iterable: Iterable[T], depth: int) -> Generator[T, None, None]:
    items: Queue[T | _End] = Queue(depth)
    left = Event()
    thread = Thread(target=_fill, args=(iterable, items, left), name="prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(item := items.get(), _End):
            yield item
            del item  # a large frame must not live on here while the next one is awaited
        item.surface()
    finally:
        left.set()
        _drain(items)
        thread.join()


def _fill(iterable: Iterable[T], items: Queue[T | _End], left: Event) -> None:
    end = _End()
    try:
        _pump(iterable, items, left)
    except BaseException as error:  # the consumer raises it, whatever it is
        end.error = error
    if not left.is_set():
        items.put(end)


def _pump(iterable: Iterable[T], items: Queue[T | _End], left: Event) -> None:
    iterator = iter(iterable)
    try:
        for item in iterator:
            # A consumer that leaves empties the queue once: one put that had passed this check finds room.
            if left.is_set():
                return
            items.put(item)
            del item
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def _drain(items: Queue[T | _End]) -> None:
    try:
        while True:
            items.get_nowait()
    except Empty:
        return


def batched(items: Iterable[T], size: int) -> Generator[list[T], None, None]:
    """Lists of ``size`` items, the last one shorter; closing it closes ``items``.

    >>> list(batched("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    iterator = iter(items)
    group: list[T] = []
    try:
        for item in iterator:
            group.append(item)
            if len(group) == size:
                yield group
                group = []
        if group:
            yield group
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
