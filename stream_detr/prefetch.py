"""Running stages side by side: the one place with threads and queues.

Stages are plain iterators. ``prefetch(stage, depth)`` runs everything upstream of it in a thread of its own, at most
``depth`` items ahead, so nesting it makes a pipeline: ``prefetch(detect(prefetch(read, 4)), 4)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from queue import Empty, Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")


class _End:
    """Last item of a queue: the stage is through, or it failed with ``error``."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def prefetch(iterable: Iterable[T], depth: int) -> Iterator[T]:
    """Iterate in a thread, up to ``depth`` (at least 1) items ahead of the consumer. Nothing is ever dropped.

    The thread starts with the first ``next()`` and has ended when the last item, or the error that ended the stage,
    has been taken. The error surfaces after the items before it. A consumer that leaves early, by an error, by
    ``close()`` or by dropping the iterator, stops the thread as soon as the item in progress is done and waits for
    it. The iterator upstream is closed in the thread that ran it.

    >>> list(prefetch(range(4), depth=2))
    [0, 1, 2, 3]
    """
    if depth < 1:
        raise ValueError(f"prefetch: depth must be at least 1, got {depth}")
    return _prefetched(iterable, depth)


def _prefetched(iterable: Iterable[T], depth: int) -> Iterator[T]:
    items: Queue[T | _End] = Queue(depth)
    left = Event()
    thread = Thread(target=_fill, args=(iterable, items, left), name="prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(item := items.get(), _End):
            yield item
            del item  # a large frame must not live on here while the next one is awaited
        if item.error is not None:
            raise item.error
    finally:
        left.set()
        _drain(items)
        thread.join()


def _fill(iterable: Iterable[T], items: Queue[T | _End], left: Event) -> None:
    error: BaseException | None = None
    try:
        _pump(iterable, items, left)
    except BaseException as raised:  # the consumer raises it, whatever it is
        error = raised
    if not left.is_set():
        items.put(_End(error))


def _pump(iterable: Iterable[T], items: Queue[T | _End], left: Event) -> None:
    iterator = iter(iterable)
    try:
        for item in iterator:
            # After the consumer left it empties the queue once, so one put that passed this check still finds room.
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


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
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
