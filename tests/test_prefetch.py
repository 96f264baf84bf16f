"""Threads deliver everything in order, pass errors on after the items before them, and never stay behind."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from stream_detr.prefetch import Latest, batched, prefetch

SECONDS = 20


class Picture:
    """Something a weak reference can point to."""


def failing_after(count: int, error: BaseException) -> Iterator[int]:
    yield from range(count)
    raise error


def take_all(stream: Iterator[int], taken: list[int]) -> None:
    for item in stream:
        taken.append(item)


@pytest.mark.parametrize("depth", [1, 2, 7, 100])
def test_every_item_arrives_in_order(depth: int) -> None:
    assert list(prefetch(range(50), depth)) == list(range(50))


def test_stages_can_be_nested() -> None:
    doubled = (2 * item for item in prefetch(iter(range(50)), 3))
    assert list(prefetch(doubled, 2)) == list(range(0, 100, 2))


def test_a_depth_below_one_is_refused_at_the_call() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        prefetch([], 0)


def test_the_stage_runs_in_another_thread_that_is_gone_at_the_end() -> None:
    seen: list[threading.Thread] = []

    def stage() -> Iterator[int]:
        seen.append(threading.current_thread())
        yield 1

    assert list(prefetch(stage(), 1)) == [1]
    assert seen[0] is not threading.current_thread()
    assert not seen[0].is_alive()


def test_no_thread_starts_before_the_first_item_is_asked_for() -> None:
    before = threading.active_count()
    waiting = prefetch(range(3), 1)
    assert threading.active_count() == before
    assert next(waiting) == 0
    waiting.close()


@pytest.mark.parametrize("error", [OSError("lens cap"), KeyboardInterrupt(), SystemExit(3)])
def test_an_error_arrives_as_it_was_raised(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        take_all(prefetch(failing_after(5, error), 2), [])
    assert caught.value is error
    assert "failing_after" in {entry.name for entry in caught.traceback}


def test_items_before_an_error_are_all_delivered() -> None:
    taken: list[int] = []
    with pytest.raises(OSError, match="lens cap"):
        take_all(prefetch(failing_after(5, OSError("lens cap")), 2), taken)
    assert taken == [0, 1, 2, 3, 4]


def test_an_error_passes_through_nested_stages() -> None:
    taken: list[int] = []
    with pytest.raises(OSError, match="lens cap"):
        take_all(prefetch((item for item in prefetch(failing_after(4, OSError("lens cap")), 1)), 1), taken)
    assert taken == [0, 1, 2, 3]


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("taken", [1, 2, 5])
def test_leaving_early_closes_every_stage_in_its_own_thread(depth: int, taken: int) -> None:
    closed_in: list[threading.Thread] = []

    def endless() -> Iterator[int]:
        number = 0
        try:
            while True:
                yield number
                number += 1
        finally:
            closed_in.append(threading.current_thread())

    def stage(items: Iterator[int]) -> Iterator[int]:
        try:
            yield from items
        finally:
            closed_in.append(threading.current_thread())

    stream = prefetch(stage(prefetch(endless(), depth)), depth)
    assert [next(stream) for _ in range(taken)] == list(range(taken))
    stream.close()
    assert len(closed_in) == 2
    assert not any(thread.is_alive() for thread in closed_in)
    assert len({*closed_in, threading.current_thread()}) == 3


def test_dropping_the_iterator_stops_the_thread() -> None:
    stream = prefetch(iter(int, 1), 2)
    next(stream)
    del stream  # the leaked-thread check of conftest.py looks


def test_an_error_in_the_consumer_stops_the_thread() -> None:
    def consume() -> None:
        for item in prefetch(iter(int, 1), 2):
            raise RuntimeError(f"cannot draw {item}")

    with pytest.raises(RuntimeError, match="cannot draw 0"):
        consume()


def test_the_producer_waits_for_the_consumer() -> None:
    made: list[int] = []
    full = threading.Event()

    def count() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if number == 4:
                full.set()
            yield number

    stream = prefetch(count(), 3)
    assert next(stream) == 0
    assert full.wait(SECONDS)  # 1 taken, 3 queued, 1 in hand
    assert made == [0, 1, 2, 3, 4]
    assert list(stream) == list(range(1, 100))


def test_the_next_item_is_made_while_the_consumer_works() -> None:
    second_is_made = threading.Event()

    def stage() -> Iterator[int]:
        yield 0
        second_is_made.set()
        yield 1

    for item in prefetch(stage(), 1):
        if item == 0:
            assert second_is_made.wait(SECONDS)


def test_an_item_is_freed_once_the_consumer_let_go_of_it() -> None:
    first_is_gone = threading.Event()

    def stage() -> Iterator[Picture]:
        picture = Picture()
        weakref.finalize(picture, first_is_gone.set)
        yield picture
        del picture
        assert first_is_gone.wait(SECONDS)
        yield Picture()

    stream = prefetch(stage(), 1)
    next(stream)
    next(stream)
    assert list(stream) == []


def test_an_error_leaves_no_cycle_behind() -> None:
    alive: list[weakref.ref[Picture]] = []

    def stage() -> Iterator[Picture]:
        for _ in range(3):
            picture = Picture()
            alive.append(weakref.ref(picture))
            yield picture
        raise OSError("lens cap")

    def consume() -> None:
        try:
            for picture in prefetch(stage(), 1):
                assert picture
        except OSError:
            pass

    gc.disable()
    try:
        consume()
        assert [picture() for picture in alive] == [None] * 3
    finally:
        gc.enable()


def test_batched_closes_what_it_reads_from() -> None:
    closed = threading.Event()

    def numbers() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            closed.set()

    groups = batched(numbers(), 4)
    assert next(groups) == [0, 1, 2, 3]
    groups.close()
    assert closed.is_set()


@pytest.mark.parametrize(("length", "sizes"), [(0, []), (3, [3]), (4, [4]), (9, [4, 4, 1])])
def test_batched_fills_batches_and_loses_nothing(length: int, sizes: list[int]) -> None:
    groups = list(batched(range(length), 4))
    assert [len(group) for group in groups] == sizes
    assert [item for group in groups for item in group] == list(range(length))


class Given:
    """An endless stage that yields what it is given, when it is given it."""

    def __init__(self) -> None:
        self.notified = threading.Semaphore(0)
        self.finished: list[int] = []
        self.was_closed_in: threading.Thread | None = None
        self._items: list[int | BaseException | None] = []
        self._are_there = threading.Semaphore(0)
        self.latest: Latest[int] = Latest(self.stage(), self.notified.release, "latest")
        self.latest.start()

    def give(self, item: int) -> None:
        """Give an item and wait until it is the newest."""
        self.give_unseen(item)
        assert self.notified.acquire(timeout=SECONDS)

    def give_unseen(self, item: int | BaseException | None) -> None:
        """Give an item, an error to raise or the end."""
        self._items.append(item)
        self._are_there.release()

    def stage(self) -> Iterator[Callable[[], int]]:
        try:
            while self._are_there.acquire(timeout=SECONDS):
                item = self._items.pop(0)
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    return
                yield partial(self.finish, item)
        finally:
            self.was_closed_in = threading.current_thread()

    def finish(self, item: int) -> int:
        self.finished.append(item)
        return item


@pytest.fixture
def given() -> Iterator[Given]:
    given = Given()
    yield given
    given.give_unseen(None)
    assert given.latest.close(SECONDS)
    assert given.was_closed_in not in (None, threading.current_thread())


def test_the_newest_item_wins_and_the_others_are_counted(given: Given) -> None:
    assert given.latest.newest() is None
    for item in range(5):
        given.give(item)
    assert given.latest.newest() == 4
    assert (given.latest.num_items, given.latest.num_dropped) == (5, 4)


def test_an_item_that_was_taken_is_not_dropped(given: Given) -> None:
    for item in range(3):
        given.give(item)
        assert given.latest.newest() == item
        assert given.latest.newest() == item
    assert given.latest.num_dropped == 0


def test_only_what_is_taken_is_finished_and_once(given: Given) -> None:
    for item in range(3):
        given.give(item)
    assert given.latest.newest() == given.latest.newest() == 2
    assert given.finished == [2]


def test_an_error_surfaces_once_after_the_last_item_was_taken(given: Given) -> None:
    given.give(7)
    given.give_unseen(OSError("lens cap"))
    given.latest._thread.join(SECONDS)
    assert given.latest.newest() == 7
    with pytest.raises(OSError, match="lens cap"):
        given.latest.newest()
    assert given.latest.newest() == 7


def test_closing_does_not_wait_for_an_item_that_does_not_come(given: Given) -> None:
    given.give(1)
    assert not given.latest.close(0.01)
    assert given.latest.newest() is None
    given.give_unseen(2)
    assert given.latest.close(SECONDS)
    assert given.latest.num_items == 1
