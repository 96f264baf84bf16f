"""Running stages side by side: the one place with threads and queues.

Stages are plain iterators. ``prefetch(stage, depth)`` runs everything upstream of it in a thread of its
own, at most ``depth`` items ahead; nested, it makes a pipeline: ``prefetch(detect(prefetch(frames, 4)), 4)``.
Nothing is dropped. Live streams can't wait: of those :class:`Latest` keeps the newest item only.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Event, Lock, Thread
from typing import Generic, TypeVar

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
    with _closing(iterable) as iterator:
        for item in iterator:
            # A consumer that leaves empties the queue once: one put that had passed this check finds room.
            if left.is_set():
                return
            items.put(item)
            del item


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
    group: list[T] = []
    with _closing(items) as iterator:
        for item in iterator:
            group.append(item)
            if len(group) == size:
                yield group
                group = []
        if group:
            yield group


@contextmanager
def _closing(iterable: Iterable[T]) -> Generator[Iterator[T], None, None]:
    """The iterator, closed at the end if it can be."""
    iterator = iter(iterable)
    try:
        yield iterator
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


class Latest(Generic[T]):
    """Iterates in a thread, never waiting for anyone, and keeps only the newest item.

    Items are functions that finish the work. Only an item that is asked for is finished, once, in the thread that
    asks: what nobody takes costs no more. ``num_dropped`` counts items that were replaced before anyone took them.
    ``notify`` is called in the thread after every item.
    """

    def __init__(self, items: Iterable[Callable[[], T]], notify: Callable[[], None], name: str) -> None:
        self.num_items = self.num_dropped = 0
        self._newest: _Item[T] | None = None
        self._end = _End()
        self._left = Event()
        self._lock, self._finishing = Lock(), Lock()
        # A daemon: one that is stuck in a read must not hold up the exit.
        self._thread = Thread(target=self._run, args=(items, notify), name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def newest(self) -> T | None:
        """The newest item, the same as before when no newer one has come, None before the first and after close().

        Raises:
            BaseException: what ended the thread, once, after the last item has been taken.
        """
        with self._lock:
            item = self._newest
            if item is None or item.is_taken:
                self._end.surface()
            if item is None:
                return None
            item.is_taken = True
        with self._finishing:
            if item.finish is not None:
                finish, item.finish = item.finish, None
                item.finished = finish()
            return item.finished

    def close(self, timeout_seconds: float) -> bool:
        """Stop after the item in progress and wait for that, up to a time; say whether the thread has ended."""
        self._left.set()
        with self._lock:
            self._newest = None
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self, items: Iterable[Callable[[], T]], notify: Callable[[], None]) -> None:
        try:
            with _closing(items) as iterator:
                for item in iterator:
                    if not self._put(item):
                        return
                    notify()
        except BaseException as error:  # the taker raises it, whatever it is
            self._end.error = error

    def _put(self, finish: Callable[[], T]) -> bool:
        with self._lock:
            if self._left.is_set():
                return False
            self.num_items += 1
            self.num_dropped += self._newest is not None and not self._newest.is_taken
            self._newest = _Item(finish)
            return True


@dataclass(slots=True)
class _Item(Generic[T]):
    """What is left to do for an item, or what has come of it."""

    finish: Callable[[], T] | None
    finished: T | None = None
    is_taken: bool = False


class Background:
    """A function that runs in a thread of its own, see `background`."""

    def __init__(self, function: Callable[[], None], name: str) -> None:
        self._function, self._end = function, _End()
        # A daemon: one that is stuck must not hold up the exit.
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the end, up to a time, and say whether it has come.

        Raises:
            BaseException: what the function raised, once.
        """
        self._thread.join(timeout_seconds)
        self._end.surface()
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as error:  # whoever joins raises it, whatever it is
            self._end.error = error


def background(function: Callable[[], None], name: str) -> Background:
    """Start ``function`` in a thread of its own.

    >>> background(lambda: None, "nothing").join(5)
    True
    """
    return Background(function, name)
