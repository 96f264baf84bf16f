"""Boxes, reference points and links between objects, drawn in place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_detr.overlay.labels import Rect
from stream_detr.overlay.palette import Color

LINK_FROM = 0.02
"""Share of decoder self-attention in both directions below which no link is drawn."""

LINK_FULL = 0.25
"""Share from which a link is as thick as it gets."""

_DARK: Color = (20, 20, 24)
_WHITE: Color = (255, 255, 255)


def stroke_px(size_hw: tuple[int, int]) -> int:
    """Thickness of a box's line.

    >>> [stroke_px((short, 2 * short)) for short in (240, 540, 1080, 2160)]
    [1, 2, 3, 5]
    """
    return round(1 + min(size_hw) / 500)


def whole_boxes(boxes: NDArray[np.float32], size_hw: tuple[int, int]) -> list[Rect]:
    """Boxes (N, 4) as whole pixels inside the frame, each at least one pixel large.

    >>> whole_boxes(np.array([[-5, 1.6, 200, 3], [9, 9, 9, 9]], np.float32), (10, 10))
    [(0, 2, 10, 3), (9, 9, 10, 10)]
    """
    if not np.isfinite(boxes).all():
        raise ValueError("Detections.boxes: expected finite numbers")
    height, width = size_hw
    rects = []
    for a, b, c, d in boxes.tolist():
        x0 = min(max(round(min(a, c)), 0), width - 1)
        y0 = min(max(round(min(b, d)), 0), height - 1)
        x1, y1 = min(max(round(max(a, c)), x0 + 1), width), min(max(round(max(b, d)), y0 + 1), height)
        rects.append((x0, y0, x1, y1))
    return rects


def _outline(picture: NDArray[np.uint8], rect: Rect, thickness: int, color: Color, dash: tuple[int, int]) -> None:
    """Lines along the inside of ``rect``, as four filled strips: exact to the pixel and faster than cv2's lines.

    ``dash`` is the length of a dash and the distance of the next; they are the same for a whole line.
    """
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = max(rect[0], 0), max(rect[1], 0), min(rect[2], width), min(rect[3], height)
    x_in, y_in = min(thickness, x1 - x0), min(thickness, y1 - y0)
    strips = (
        (x0, y0, x1, y0 + y_in),
        (x0, y1 - y_in, x1, y1),
        (x0, y0, x0 + x_in, y1),
        (x1 - x_in, y0, x1, y1),
    )
    length, period = dash
    for number, (left, top, right, bottom) in enumerate(strips):
        if length >= period:
            cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), color, cv2.FILLED)
            continue
        strip = picture[top:bottom, left:right]
        strip = strip if number < 2 else strip.swapaxes(0, 1)  # (thickness, along, 3)
        periods = strip.shape[1] // period
        whole = strip[:, : periods * period].reshape(len(strip), periods, period, 3)  # a view: an axis is only split
        whole[:, :, :length] = color
        strip[:, periods * period : periods * period + length] = color


def draw_boxes(
    picture: NDArray[np.uint8], boxes: Sequence[Rect], colors: Sequence[Color], dashed: Sequence[bool] | None = None
) -> None:
    """All boxes onto ``picture``, the large ones first, each with a thin dark line inside and outside."""
    thickness = stroke_px((picture.shape[0], picture.shape[1]))
    edge = max(1, thickness // 3)

    def area(index: int) -> int:
        x0, y0, x1, y1 = boxes[index]
        return (x1 - x0) * (y1 - y0)

    for index in sorted(range(len(boxes)), key=area, reverse=True):
        x0, y0, x1, y1 = boxes[index]
        length, period = (1 + 5 * thickness, 3 + 8 * thickness) if dashed is not None and dashed[index] else (1, 1)
        if thickness > 1:
            grown = (x0 - edge, y0 - edge, x1 + edge, y1 + edge)
            _outline(picture, grown, thickness + 2 * edge, _DARK, (length + 2 * edge, period))
        _outline(picture, boxes[index], thickness, colors[index], (length, period))


def draw_points(picture: NDArray[np.uint8], points_xy: NDArray[np.float32], colors: Sequence[Color]) -> None:
    """A white ring with cross-hairs at each reference point (P, 2), given in fractions of the frame, and its colour
    inside."""
    height, width = picture.shape[:2]
    thickness = max(2, stroke_px((height, width)))
    radius = max(5, round(min(height, width) / 60))
    for (x, y), color in zip(points_xy.tolist(), colors, strict=True):
        # 4 fractional bits: the marker moves smoothly and sits where the point is.
        center = round((x * width - 0.5) * 16), round((y * height - 0.5) * 16)
        cv2.circle(picture, center, radius * 16, color, cv2.FILLED, cv2.LINE_AA, 4)
        for line, ink in ((thickness + 2, _DARK), (thickness, _WHITE)):
            cv2.circle(picture, center, radius * 16, ink, line, cv2.LINE_AA, 4)
            for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                near = center[0] + dx * radius * 16, center[1] + dy * radius * 16
                far = center[0] + dx * radius * 28, center[1] + dy * radius * 28
                cv2.line(picture, near, far, ink, line, cv2.LINE_AA, 4)


def link_weight(share: float) -> float:
    """How strong a link looks, in [0, 1]: the square root keeps weak ones visible.

    >>> link_weight(0.01), link_weight(0.25)
    (0.2, 1.0)
    """
    return math.sqrt(min(max(share, 0.0) / LINK_FULL, 1.0))


def draw_links(
    picture: NDArray[np.uint8],
    boxes: Sequence[Rect],
    shares: NDArray[np.float32],
    colors: Sequence[Color],
    alpha: float,
) -> None:
    """Links between box centres by decoder self-attention ``shares`` (N, N), in place.

    Attention has a direction: the half of a link at object i, in i's colour, is as thick as what i reads from j.
    """
    height, width = picture.shape[:2]
    thickest = 3 * stroke_px((height, width))
    centers = [(8 * (x0 + x1), 8 * (y0 + y1)) for x0, y0, x1, y1 in boxes]
    seen = np.argwhere(np.maximum(shares, shares.T) >= LINK_FROM).tolist()
    lines = picture.copy()
    for weight, i, j in sorted((link_weight(float(shares[i, j])), i, j) for i, j in seen if i != j):
        middle = (centers[i][0] + centers[j][0]) // 2, (centers[i][1] + centers[j][1]) // 2
        cv2.line(lines, centers[i], middle, colors[i], max(1, round(thickest * weight)), cv2.LINE_AA, 4)
    opacity = min(1.0, 0.4 + alpha)
    cv2.addWeighted(lines, opacity, picture, 1 - opacity, 0, dst=picture)
    for center, color in zip(centers, colors, strict=True):
        for radius, ink in ((thickest * 0.9 + 1.5, _DARK), (thickest * 0.9, color)):
            cv2.circle(picture, center, round(radius * 16), ink, cv2.FILLED, cv2.LINE_AA, 4)
