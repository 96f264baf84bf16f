"""Parts of the frame that are watched: which objects are in a zone, how many have crossed a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import UsageError
from stream_detr.structures import Detections, Line, Point, Zone

CLEAR = 0.01
"""Distance from a line, as a share of the frame's shorter side, at which an object has left it."""

_FORGET_AFTER = 300  # updates without the track; trackers give up on an object long before
_INSIDE = 1 - 1e-6  # an object that the frame's lower edge cuts is in a zone that reaches down to it


def parse_zone(text: str) -> Zone:
    """A zone from ``NAME:x,y;x,y;x,y...``, fractions of the frame from its upper left.

    Raises:
        UsageError: it is not written like that, or has fewer than three different points.

    >>> parse_zone("door:0.1,0;0.3,0;0.2,0.5").polygon
    ((0.1, 0.0), (0.3, 0.0), (0.2, 0.5))
    """
    name, points = _parsed("zone", "NAME:x,y;x,y;x,y...", text)
    if len(set(points)) < 3:
        raise UsageError(f"zone {text!r}: expected at least 3 different points, got {len(set(points))}")
    return Zone(name, points)


def parse_line(text: str) -> Line:
    """A line from ``NAME:x,y;x,y``, its start and its end as fractions of the frame from its upper left.

    Raises:
        UsageError: it is not written like that, or start and end are the same.

    >>> parse_line("gate:0,0.5;1,0.5")
    Line(name='gate', start=(0.0, 0.5), end=(1.0, 0.5))
    """
    name, points = _parsed("line", "NAME:x,y;x,y", text)
    if len(points) != 2 or points[0] == points[1]:
        raise UsageError(f"line {text!r}: expected 2 different points, got {len(set(points))}")
    return Line(name, *points)


def _parsed(kind: str, form: str, text: str) -> tuple[str, tuple[Point, ...]]:
    name, _, rest = text.partition(":")
    if not name.strip() or not rest.strip():
        raise UsageError(f"{kind} {text!r}: expected {form} with a name before the colon and points behind it")
    points = []
    for pair in rest.split(";"):
        try:
            x, y = (float(number) for number in pair.split(","))
        except ValueError:
            raise UsageError(f"{kind} {text!r}: expected {form}, got {pair.strip()!r} for a point x,y") from None
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise UsageError(f"{kind} {text!r}: expected fractions of the frame from 0 to 1, got {pair.strip()!r}")
        points.append((x, y))
    return name.strip(), tuple(points)


def check_names(zones: Sequence[Zone], lines: Sequence[Line]) -> None:
    """Refuse a name that two zones or lines share.

    Raises:
        UsageError: a name is there twice.
    """
    names = [zone.name for zone in zones] + [line.name for line in lines]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"zones and lines: the name {twice!r} is there {names.count(twice)} times; each needs its own")


class Regions:
    """The zones and lines of one stream, and what has crossed so far."""

    def __init__(self, zones: Sequence[Zone], lines: Sequence[Line]) -> None:
        self._polygons = _Polygons(zones) if zones else None
        self._lines = list(lines)
        self._counts: dict[str, dict[str, tuple[int, int]]] = {line.name: {} for line in lines}
        self._passages: dict[int, tuple[int, list[_Passage]]] = {}  # by track: last update, one for each line
        self._num_updates = 0

    def update(self, detections: Detections, size_hw: tuple[int, int]) -> Detections:
        """The same detections, of a later frame than any before, with ``zones`` and ``crossings``.

        What counts is the middle of a box's lower edge: where an object stands. Carried objects don't cross: where
        the model has not looked nothing is known, and the step between the frames that it saw is not lost.
        """
        height, width = size_hw
        x = np.clip((detections.boxes[:, 0] + detections.boxes[:, 2]) / (2.0 * width), 0, _INSIDE)
        y = np.clip(detections.boxes[:, 3] / float(height), 0, _INSIDE)
        if self._lines:
            self._follow(detections, *_places(self._lines, x, y, size_hw))
        return replace(
            detections,
            zones=self._polygons.around(x, y) if self._polygons is not None else None,
            crossings=self._counts if self._lines else None,
        )

    def _follow(self, detections: Detections, away: NDArray[np.float64], along: NDArray[np.float64]) -> None:
        """Count who has crossed; ``away`` and ``along`` (N, number of lines) are the objects' places at each line."""
        self._num_updates += 1
        carried = [False] * len(detections) if detections.carried is None else detections.carried.tolist()
        rows = zip(detections.track_ids.tolist(), carried, detections.names, away.tolist(), along.tolist(), strict=True)
        for track_id, is_carried, class_name, aways, alongs in rows:
            if track_id < 0 or is_carried:
                continue
            known = self._passages.get(track_id)
            if known is None:
                passages = [_Passage(a, b, a >= 0) for a, b in zip(aways, alongs, strict=True)]
            else:
                passages = known[1]
                for line, passage, a, b in zip(self._lines, passages, aways, alongs, strict=True):
                    if passage.step(a, b):
                        self._count(line.name, class_name, is_forward=passage.is_right)
            self._passages[track_id] = self._num_updates, passages
        if self._num_updates % _FORGET_AFTER == 0:
            oldest = self._num_updates - _FORGET_AFTER
            self._passages = {track: kept for track, kept in self._passages.items() if kept[0] > oldest}

    def _count(self, line: str, class_name: str, *, is_forward: bool) -> None:
        forward, backward = self._counts[line].get(class_name, (0, 0))
        counted = (forward + 1, backward) if is_forward else (forward, backward + 1)
        # A new table each time: earlier detections keep theirs, and other threads read them.
        self._counts = {**self._counts, line: {**self._counts[line], class_name: counted}}


@dataclass(slots=True)
class _Passage:
    """One track at one line: ``away`` from it (> 0 on its right) and ``along`` it (0 at its start, 1 at its end) when
    last seen; ``is_right``: the side on which it was last clear of the line; ``is_through``: it came to the side where
    it is now between start and end, not around them."""

    away: float
    along: float
    is_right: bool
    is_through: bool = False

    def step(self, away: float, along: float) -> bool:
        """Move on; whether the object is now clear of the line on its other side, having come through it.

        Until it is clear it may tremble around the line as it likes.
        """
        if (self.away >= 0) != (away >= 0):
            share = self.away / (self.away - away)
            self.is_through = 0 <= self.along + share * (along - self.along) <= 1
        self.away, self.along = away, along
        if abs(away) < CLEAR or (away >= 0) == self.is_right:
            return False
        self.is_right = away >= 0
        return self.is_through


def _places(
    lines: Sequence[Line], x: NDArray[np.float64], y: NDArray[np.float64], size_hw: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far points (N,) are to the right of each line, in shorter sides of the frame, and along it, in its length."""
    height, width = size_hw
    unit_x, unit_y = width / min(size_hw), height / min(size_hw)
    ends = np.array([(*line.start, *line.end) for line in lines]) * (unit_x, unit_y, unit_x, unit_y)
    start_x, start_y, dx, dy = ends[:, 0], ends[:, 1], ends[:, 2] - ends[:, 0], ends[:, 3] - ends[:, 1]
    length = np.hypot(dx, dy)
    from_x, from_y = x[:, None] * unit_x - start_x, y[:, None] * unit_y - start_y  # (N, number of lines)
    return (dx * from_y - dy * from_x) / length, (dx * from_x + dy * from_y) / length**2


class _Polygons:
    """All zones' edges in one table, so that all objects and zones are compared at once."""

    def __init__(self, zones: Sequence[Zone]) -> None:
        self._names = [zone.name for zone in zones]
        self._first = np.cumsum([0, *(len(zone.polygon) for zone in zones[:-1])])
        start = np.array([point for zone in zones for point in zone.polygon])
        end = np.array([point for zone in zones for point in (*zone.polygon[1:], zone.polygon[0])])
        rise = end[:, 1] - start[:, 1]
        # A level edge is never between two heights, so its slope doesn't matter.
        slope = (end[:, 0] - start[:, 0]) / np.where(rise == 0, 1, rise)
        self._x0, self._y0, self._y1, self._slope = start[:, 0], start[:, 1], end[:, 1], slope

    def around(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[tuple[str, ...], ...]:
        """Names of the zones that hold each point (N,): a ray to the right leaves them an odd number of times."""
        x, y = x[:, None], y[:, None]
        is_met = ((self._y0 > y) != (self._y1 > y)) & (x < self._x0 + (y - self._y0) * self._slope)  # (N, edges)
        inside = np.logical_xor.reduceat(is_met, self._first, axis=1)  # (N, zones)
        return tuple(tuple(compress(self._names, row)) for row in inside.tolist())
