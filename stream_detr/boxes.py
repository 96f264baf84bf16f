"""Box conventions. ``boxes`` alone means xyxy frame pixels; any other convention carries a suffix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def cxcywh_to_xyxy(boxes_cxcywh: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Turn DETR's relative centre boxes into frame pixels, clipped to the frame.

    Args:
        boxes_cxcywh: (..., 4) centre x, centre y, width, height as fractions of the frame.
        size_hw: frame height and width in pixels.

    Returns:
        (..., 4) float32 x1, y1, x2, y2 in pixels.

    >>> cxcywh_to_xyxy(np.array([[0.5, 0.5, 0.5, 1.0]], np.float32), (100, 200)).tolist()
    [[50.0, 0.0, 150.0, 100.0]]
    """
    height, width = size_hw
    center, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    corners = np.concatenate([center - half, center + half], axis=-1).clip(0, 1)
    return (corners * np.array([width, height, width, height], np.float32)).astype(np.float32)


def area(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Area of xyxy boxes (..., 4) -> (...), 0 for an inverted box.

    >>> area(np.array([[0, 0, 2, 3]], np.float32)).tolist()
    [6.0]
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).clip(min=0)
    return np.asarray(sides[..., 0] * sides[..., 1], np.float32)


def iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of every box in ``a`` (N, 4) with every box in ``b`` (M, 4) -> (N, M).

    >>> iou(np.array([[0, 0, 2, 2]], np.float32), np.array([[1, 0, 3, 2]], np.float32)).round(3).tolist()
    [[0.3330000042915344]]
    """
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = area(np.concatenate([low, high], axis=-1))
    union = area(a)[:, None] + area(b)[None] - overlap
    return np.asarray(overlap / np.maximum(union, np.finfo(np.float32).tiny), np.float32)
