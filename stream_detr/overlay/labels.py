"""Text in the picture: rendered once and kept, placed where labels don't cover each other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_detr.overlay.palette import Color, ink_on
from stream_detr.structures import Detections

Rect = tuple[int, int, int, int]
"""x0, y0, x1, y1 in whole frame pixels, the last two one past the end."""

_WEIGHT = 500


def font_px(size_hw: tuple[int, int]) -> int:
    """Text size for a frame: grows with the shorter side, but slower, and never below what can be read.

    >>> [font_px((short, 2 * short)) for short in (240, 540, 1080, 2160)]
    [11, 14, 23, 39]
    """
    return max(11, round(6 + 0.0155 * min(size_hw)))


def text_width(text: str, size: int) -> int:
    """Width of ``text`` in pixels, without padding."""
    x, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), cv2.FontFace("sans"), size, _WEIGHT)
    return int(x + width)


@lru_cache(maxsize=512)
def text_mask(text: str, size: int) -> NDArray[np.uint8]:
    """Coverage of ``text`` with padding around it (h, w) uint8, read-only; h depends on ``size`` alone."""
    pad = round(0.36 * size)
    height = round(1.4 * size)
    mask = np.zeros((height, text_width(text, size) + 2 * pad + 1, 3), np.uint8)
    white = (255.0, 255.0, 255.0)
    baseline = round(0.5 * height + 0.35 * size)
    cv2.putText(mask, text, (pad, baseline), white, cv2.FontFace("sans"), size, _WEIGHT)
    mask = np.ascontiguousarray(mask[..., 0])
    mask.flags.writeable = False
    return mask


@lru_cache(maxsize=1024)
def shortened(name: str, tail: str, size: int, width: int) -> str:
    """``name`` and ``tail`` in at most ``width`` pixels: the name loses its end first, then everything is cut.

    >>> shortened("person", "0.98", 20, 500)
    'person 0.98'
    """
    name = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    for kept in range(min(len(name), 80), -1, -1):
        head = name if kept == len(name) else f"{name[:kept]}…" if kept else ""
        text = f"{head} {tail}".strip()
        if text_width(text, size) + round(0.72 * size) <= width:
            return text
    return ""


@lru_cache(maxsize=1024)
def _table(color: Color) -> NDArray[np.uint8]:
    """Coverage to colour, from the label's fill to its ink (1, 256, 3)."""
    share = np.linspace(0, 1, 256)[None, :, None]
    table: NDArray[np.float64] = (1 - share) * np.asarray(color) + share * np.asarray(ink_on(color))
    return np.rint(table).astype(np.uint8)


def texts_of(detections: Detections) -> list[tuple[str, str]]:
    """Name and tail of each label: ``("person", "0.98 #3")``, the track only where there is one."""
    fields = zip(detections.names, detections.scores.tolist(), detections.track_ids.tolist(), strict=True)
    return [(name, f"{score:.2f} #{track}" if track >= 0 else f"{score:.2f}") for name, score, track in fields]


def place(box: Rect, size: tuple[int, int], taken: Sequence[Rect], size_hw: tuple[int, int]) -> Rect:
    """Where the label of ``box`` goes: above it if that is free and inside the frame, else the next best place.

    Args:
        box: the object's box.
        size: width and height of the label.
        taken: what other labels cover already.
        size_hw: frame height and width; the label lies inside, cut only where it is larger than the frame.

    >>> place((10, 50, 90, 90), (40, 12), [], (100, 100))
    (10, 38, 50, 50)
    >>> place((10, 50, 90, 90), (40, 12), [(0, 30, 60, 45)], (100, 100))
    (10, 50, 50, 62)
    """
    x0, y0, x1, y1 = box
    width, height = size
    frame_h, frame_w = size_hw
    right = x1 - width
    wanted = ((x0, y0 - height), (x0, y0), (right, y0 - height), (x0, y1), (right, y0), (right, y1), (x0, y1 - height))
    best, best_cost = None, float("inf")
    for x, y in wanted:
        if not 0 <= y <= frame_h - height and best is not None:
            continue
        x = max(min(x, frame_w - width), 0)
        shown_y = max(min(y, frame_h - height), 0)
        rect = (x, shown_y, min(x + width, frame_w), min(shown_y + height, frame_h))
        # A label pushed back into the frame is only taken when nothing better turns up.
        cost = float(abs(shown_y - y)) + covered(rect, taken)
        if cost < best_cost:
            best, best_cost = rect, cost
        if not cost:
            break
    assert best is not None
    return best


def covered(rect: Rect, taken: Sequence[Rect]) -> int:
    """Area of ``rect`` that ``taken`` covers."""
    x0, y0, x1, y1 = rect
    area = 0
    for left, top, right, bottom in taken:
        if left < x1 and x0 < right and top < y1 and y0 < bottom:
            area += (min(x1, right) - max(x0, left)) * (min(y1, bottom) - max(y0, top))
    return area


def draw_labels(
    picture: NDArray[np.uint8],
    boxes: Sequence[Rect],
    texts: Sequence[tuple[str, str]],
    colors: Sequence[Color],
    taken: Sequence[Rect] = (),
) -> None:
    """Labels of all boxes onto ``picture``, in place; rectangles in ``taken`` are avoided where possible."""
    size_hw = picture.shape[0], picture.shape[1]
    size = font_px(size_hw)
    if round(1.4 * size) * 2 > size_hw[0]:
        return
    placed = list(taken)
    # From top to bottom: an order that stays from frame to frame, so that labels don't change places.
    for index in sorted(range(len(boxes)), key=lambda i: (boxes[i][1], boxes[i][0])):
        text = shortened(*texts[index], size, size_hw[1])
        if not text:
            continue
        mask = text_mask(text, size)
        x0, y0, x1, y1 = rect = place(boxes[index], (mask.shape[1], mask.shape[0]), placed, size_hw)
        placed.append(rect)
        mask = mask[: y1 - y0, : x1 - x0]
        picture[y0:y1, x0:x1] = cv2.LUT(cv2.cvtColor(mask, cv2.COLOR_GRAY2RGB), _table(colors[index]))
