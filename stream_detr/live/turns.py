"""Whose frame the model sees next."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from itertools import count

Size = tuple[int, int]


class Turns:
    """Gives streams that share a model the same number of turns, without waiting for any of them.

    Fair queueing by start tags (Goyal, Vin, Cheng 1996): each turn moves a stream's tag on by one, the lowest tag comes
    first. A stream that had nothing to show for a while starts at the others' present tag and catches nothing up.
    """

    def __init__(self) -> None:
        self._now = 0
        self._tags: dict[int, int] = {}
        self._last: dict[int, int] = {}  # the number of each stream's last turn, to settle ties
        self._numbers = count()

    def choose(self, due: Mapping[int, Size], limit: Callable[[Size], int]) -> list[int]:
        """A batch: of the streams that are ``due``, by frame size, those whose turn it is; all are of one size.

        A batch is filled up with streams of the first one's size, unless others would fall back more than a turn.

        >>> turns = Turns()
        >>> [turns.choose({1: (4, 6), 2: (4, 6), 3: (4, 6)}, lambda size: 2) for _ in range(3)]
        [[1, 2], [3, 1], [2, 3]]
        """
        if not due:
            return []
        tags = {stream: max(self._tags.get(stream, 0), self._now) for stream in due}
        order = sorted(due, key=lambda stream: (tags[stream], self._last.get(stream, -1)))
        size = due[order[0]]
        self._now = tags[order[0]]
        chosen = [each for each in order if due[each] == size and tags[each] <= self._now + 1][: limit(size)]
        for stream in chosen:
            self._tags[stream] = tags[stream] + 1
            self._last[stream] = next(self._numbers)
        return chosen

    def keep(self, streams: Container[int]) -> None:
        """Forget all streams but these."""
        self._tags = {stream: tag for stream, tag in self._tags.items() if stream in streams}
        self._last = {stream: number for stream, number in self._last.items() if stream in streams}
