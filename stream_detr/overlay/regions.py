"""Zones and lines in the picture: quiet and white, so that whatever has a colour is an object."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_detr.overlay.labels import Rect, covered, shortened
from stream_detr.overlay.legend import draw_panel, legend_size, panel_size
from stream_detr.overlay.marks import stroke_px
from stream_detr.overlay.palette import Color
from stream_detr.structures import Detections, Line, Point, Zone

_DARK: Color = (20, 20, 24)
_WHITE: Color = (240, 244, 248)
_LIGHT: Color = (16, 17, 18)  # what a zone is brighter by
_ROWS_PER_BAND = 64  # so much of a picture stays in the cache
_WIDEST = 0.4  # of the frame's width, for a text
_ARROWS = "→↘↓↙←↖↑↗"


def draw_zones(picture: NDArray[np.uint8], zones: Sequence[Zone]) -> None:
    """Every zone in place: a thin outline, and a little brighter inside."""
    height, width = picture.shape[:2]
    thickness = (stroke_px((height, width)) + 1) // 2
    for zone in zones:
        corners = np.array([_pixel(point, (height, width)) for point in zone.polygon], np.int32)
        left, top, right, bottom = (int(edge) >> 4 for edge in (*corners.min(0), *(corners.max(0) + 16)))
        light = np.empty((_ROWS_PER_BAND, right - left, 3), np.uint8)
        for start in range(top, bottom, _ROWS_PER_BAND):
            band = picture[start : min(start + _ROWS_PER_BAND, bottom), left:right]
            light[:] = 0
            cv2.fillPoly(light, [corners - (16 * left, 16 * start)], _LIGHT, cv2.LINE_8, 4)
            cv2.add(band, light[: len(band)], dst=band)
        for ink, shift in ((_DARK, 16 * thickness), (_WHITE, 0)):  # the shadow keeps it visible on white
            cv2.polylines(picture, [corners + shift], True, ink, thickness, cv2.LINE_AA, 4)


def draw_lines(picture: NDArray[np.uint8], lines: Sequence[Line]) -> None:
    """Every line in place, with an arrow at its middle to where forward is."""
    height, width = picture.shape[:2]
    thickness = stroke_px((height, width))
    for line in lines:
        start, end = (_pixel(point, (height, width)) for point in (line.start, line.end))
        forward_x, forward_y = forward_of(line, (height, width))
        reach = 16 * (3.5 * thickness + 3)
        middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        along = -forward_y * reach, forward_x * reach
        arrow = np.rint(
            [
                (middle[0] + along[0], middle[1] + along[1]),
                (middle[0] + 1.4 * forward_x * reach, middle[1] + 1.4 * forward_y * reach),
                (middle[0] - along[0], middle[1] - along[1]),
            ]
        ).astype(np.int32)
        for ink, shift in ((_DARK, 8 * (thickness + 1)), (_WHITE, 0)):
            ends = np.add([start, end], shift).tolist()
            cv2.line(picture, ends[0], ends[1], ink, thickness, cv2.LINE_AA, 4)
            cv2.fillPoly(picture, [arrow + shift], ink, cv2.LINE_AA, 4)


def _pixel(point: Point, size_hw: tuple[int, int]) -> tuple[int, int]:
    """Fractions of the frame as pixels with 4 fractional bits; the frame's last edge is its last pixel."""
    height, width = size_hw
    return round(point[0] * (width - 1) * 16), round(point[1] * (height - 1) * 16)


def forward_of(line: Line, size_hw: tuple[int, int]) -> tuple[float, float]:
    """The way of objects that cross forward, x and y in pixels, one long.

    >>> forward_of(Line("gate", (0, 0.5), (1, 0.5)), (90, 160))
    (-0.0, 1.0)
    """
    height, width = size_hw
    dx, dy = (line.end[0] - line.start[0]) * width, (line.end[1] - line.start[1]) * height
    length = math.hypot(dx, dy)
    return -dy / length, dx / length


def zone_count(zone: Zone, detections: Detections) -> str:
    """How many objects are in the zone, as text; nothing where nobody looked."""
    return "" if detections.zones is None else str(sum(zone.name in names for names in detections.zones))


def line_counts(line: Line, detections: Detections, size_hw: tuple[int, int]) -> list[str]:
    """``"↓ 12  ↑ 3 • person ↓ 9  ↑ 3 • car ↓ 3  ↑ 0"`` and shorter ones; the arrows point as the objects go."""
    if detections.crossings is None:
        return [""]
    x, y = forward_of(line, size_hw)
    turn = round(math.atan2(y, x) / (math.pi / 4)) % 8
    ahead, back = _ARROWS[turn], _ARROWS[(turn + 4) % 8]
    by_class = sorted(detections.crossings.get(line.name, {}).items(), key=lambda item: (-sum(item[1]), item[0]))
    counts = [("", (sum(c[0] for _, c in by_class), sum(c[1] for _, c in by_class)))]
    counts += [(f"{name} ", count) for name, count in by_class]
    parts = [f"{name}{ahead} {forward}  {back} {backward}" for name, (forward, backward) in counts]
    return [" • ".join(parts[:kept]) for kept in range(len(parts), 0, -1)]


def draw_region_texts(
    picture: NDArray[np.uint8],
    detections: Detections,
    zones: Sequence[Zone],
    lines: Sequence[Line],
    taken: Sequence[Rect] = (),
) -> list[Rect]:
    """Names and counts of all zones and lines, in place, each at its upper end; where they are.

    Rectangles in ``taken`` are avoided where possible.
    """
    size_hw = picture.shape[0], picture.shape[1]
    texts = [(zone.name, [zone_count(zone, detections)], zone.polygon) for zone in zones]
    texts += [(line.name, line_counts(line, detections, size_hw), (line.start, line.end)) for line in lines]
    size = legend_size(size_hw)
    placed: list[Rect] = []
    for name, tails, points in texts:
        text = _fitting(name, tails, size, round(_WIDEST * size_hw[1]))
        width, height = panel_size(text, size)
        if not text or 4 * height > size_hw[0]:
            continue
        rect = _beside([_pixel(point, size_hw) for point in points], (width, height), [*taken, *placed], size_hw)
        draw_panel(picture, text, size, rect)
        placed.append(rect)
    return placed


def _beside(
    corners: Sequence[tuple[int, int]], size: tuple[int, int], taken: Sequence[Rect], size_hw: tuple[int, int]
) -> Rect:
    """Where a text of ``size`` (width, height) goes: above the upper corner, or the free place nearest to that.

    It runs from there inwards: a text that points away from its region seems to belong to something else.
    """
    (width, height), gap = size, 2 * stroke_px(size_hw)
    left, right = min(corners)[0] >> 4, max(corners)[0] >> 4
    y, x = (min(corner[::-1] for corner in corners)[axis] >> 4 for axis in (0, 1))
    x = max(min(x - width if 2 * x > left + right else x, size_hw[1] - width), 0)
    wanted = [top for k in range(4) for top in (y - gap - (k + 1) * height, y + gap + k * height)]
    rects = [(x, top, x + width, top + height) for top in wanted if 0 <= top <= size_hw[0] - height]
    return min(rects, key=lambda rect: covered(rect, taken))


def _fitting(name: str, tails: Sequence[str], size: int, width: int) -> str:
    """``name`` with the first of ``tails`` that fits; the name loses its end where none does."""
    head = f"{name}:" if tails[-1] else name
    whole = (shortened(head, tail, size, 1 << 30) for tail in tails)
    fitting = (text for text in whole if panel_size(text, size)[0] <= width)
    return next(fitting, "") or shortened(head, tails[-1], size, width)
