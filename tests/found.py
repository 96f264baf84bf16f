"""Detections for the tests of what is written about them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from stream_detr.sinks import Sink
from stream_detr.structures import AttentionMaps, Detections, Frame, StreamInfo

CLASS_NAMES = ("cat", 'a "café", open')


def frame(index: int = 0, name: str = "clip.mp4") -> Frame:
    """A picture of 64x48 at 30000/1001 pictures/s."""
    image = np.zeros((48, 64, 3), np.uint8)
    return Frame(image, index, 1001 * index, Fraction(1, 30000), 0.0, StreamInfo(name, 64, 48, Fraction(30000, 1001)))


def found(num: int = 2, *, seed: int = 0, grid: tuple[int, int] = (3, 4), attention: bool = True) -> Detections:
    """``num`` objects of random boxes, the first of them tracked, the second carried and in two zones."""
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 24, (num, 4)) + np.array([0, 0, 24, 24])
    cross = random.random((num, *grid))
    cross /= cross.sum((1, 2), keepdims=True)
    order = np.arange(num)
    return Detections(
        boxes=corners.astype(np.float32),
        scores=random.uniform(0.5, 1, num).astype(np.float32),
        class_ids=order % 2,
        query_ids=random.integers(0, 100, num),
        track_ids=np.where(order == 0, 7, -1),
        attention=AttentionMaps(16, (48, 64), cross=cross.astype(np.float32)) if attention else None,
        class_names=CLASS_NAMES,
        carried=order == 1,
        zones=tuple(("door", "street") if i == 1 else () for i in order),
    )


def write_and_raise(sink: Sink, error: type[BaseException]) -> None:
    """One frame, then ``error`` in the loop."""
    with sink:
        sink.write(frame(), frame().image, found())
        raise error("the news")
