"""From frames of which the model saw some to objects in all of them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing
from dataclasses import replace

import numpy as np

from stream_detr.structures import Detections, Frame
from stream_detr.tracking.tracker import Tracker

Seen = Generator[tuple[Frame, Detections | None], None, None]
Followed = Generator[tuple[Frame, Detections], None, None]

_MOST_WAITING = 32


def followed(results: Seen, tracker: Tracker, timed: Callable[[], AbstractContextManager[None]]) -> Followed:
    """Objects with their tracks in every frame; None marks those that the model did not see.

    Such frames wait for the next one that it saw, as the way there is better known from both of its ends; where that
    takes too many of them, and at the end, the last motion goes on. ``timed`` is entered for every use of the tracker.
    """
    waiting: list[Frame] = []

    def each(place: Callable[[Frame], Detections]) -> Followed:
        for frame in waiting:
            with timed():
                detections = place(frame)
            yield frame, detections
        waiting.clear()

    with closing(results):
        for frame, found in results:
            if found is None:
                waiting.append(frame)
            if waiting and (len(waiting) >= _MOST_WAITING or waiting[-1].size_hw != frame.size_hw):
                yield from each(tracker.at)
            if found is not None:
                with timed():
                    now = tracker.update(found, frame)
                yield from each(tracker.between)
                yield frame, now
        yield from each(tracker.at)


def held(results: Seen, class_names: tuple[str, ...]) -> Followed:
    """The last detections, where they were, in frames that the model did not see."""
    last = Detections.empty(class_names)
    with closing(results):
        for frame, found in results:
            if found is None:
                yield frame, replace(last, carried=np.ones(len(last), np.bool_), is_detected=False)
            else:
                last = found
                yield frame, found
