"""Attention as colour: blended on the small feature grid, upsampled once, laid over the picture.

The scale is a fixed multiple of uniform attention, the same for every object and frame, or what a tracked object's own
attention reaches, smoothed along its track: nothing flickers because another object came or a maximum moved. Everything
at full resolution is uint8, and only where there is something to see: a picture is 6 MB, and the time goes into moving
it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import CaptureError
from stream_detr.overlay.palette import Color

CLEAR_AT = 2.0
"""Multiple of uniform attention up to which nothing is drawn."""

FULL_AT = 16.0
"""Multiple of uniform attention from which the colour is as opaque as it gets."""

OWN_RANGE = 8.0
"""On an object's own scale nothing is drawn below the attention where it is full, divided by this."""

_TINT_ROWS_PER_CELL = 16
_ROWS_PER_BAND = 4
# Inferno without its ends: black would only darken the picture, pale yellow would only bleach it.
_INFERNO_FROM, _INFERNO_TO = 70, 225


@dataclass(frozen=True, slots=True)
class Tint:
    """Colour to lay over a picture, on the grid: ``color`` (h, w, 3) uint8 RGB already times its opacity, ``clear``
    (h, w) uint8 what is left of the picture, 255 = all of it."""

    color: NDArray[np.uint8]
    clear: NDArray[np.uint8]


def strength_of(
    maps: NDArray[np.float32], what: str, full_at: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Attention (N, h, w) on a logarithmic scale: 0 up to CLEAR_AT times uniform, 1 from FULL_AT times on.

    Attention spans orders of magnitude; on a linear scale either the peaks clip or the rest of the object is lost.
    With ``full_at`` (N,) each map has a scale of its own: 1 from there on, 0 up to its OWN_RANGE-th part and, still,
    up to CLEAR_AT times uniform.

    Raises:
        CaptureError: the maps hold values that are not finite; ``what`` names them.

    >>> strength_of(np.array([[[0.5, 0.25, 0.125, 0.125]]], np.float32), "cross").tolist()
    [[[0.0, 0.0, 0.0, 0.0]]]
    """
    if not math.isfinite(float(maps.sum())):
        raise CaptureError(f"{what}: the attention holds values that are not finite; try --precision fp32")
    uniform = 1 / (maps.shape[1] * maps.shape[2])
    if full_at is None:
        full_at = np.full(len(maps), FULL_AT * uniform, np.float32)
        clear_at = np.full(len(maps), CLEAR_AT * uniform, np.float32)
    else:
        clear_at = np.maximum(full_at / OWN_RANGE, CLEAR_AT * uniform)
        # Attention that is next to uniform has no peak: on a shorter scale it would be noise, drawn boldly.
        full_at = np.maximum(full_at, 2 * clear_at)
    strength: NDArray[np.float32] = np.log2(np.maximum(maps / clear_at[:, None, None], 1))
    strength /= np.log2(full_at / clear_at)[:, None, None]
    return np.minimum(strength, 1, out=strength)


def _tint(color: NDArray[np.floating], opacity: NDArray[np.floating]) -> Tint:
    """From colour (h, w, 3) in [0, 255] and opacity (h, w) in [0, 1]."""
    return Tint(np.rint(color * opacity[..., None]).astype(np.uint8), np.rint(255 * (1 - opacity)).astype(np.uint8))


def blend(strength: NDArray[np.float32], colors: Sequence[Color], alpha: float) -> Tint:
    """One tint of N maps (N, h, w), each in its colour; where they overlap the stronger ones show.

    ``alpha`` is the opacity at full strength.
    """
    num, h, w = strength.shape
    weights = (strength * strength).reshape(num, h * w) + np.float32(1e-12)
    color = (weights / weights.sum(0)).T @ np.asarray(colors, np.float32)  # (h * w, 3)
    return _tint(color.reshape(h, w, 3), alpha * strength.max(0))


def glow(strength: NDArray[np.float32], alpha: float) -> Tint:
    """Tint of a single map (h, w) in a perceptual colour map, from violet over red to amber."""
    level = _INFERNO_FROM + np.rint(strength * (_INFERNO_TO - _INFERNO_FROM))
    bgr = cv2.applyColorMap(level.astype(np.uint8), cv2.COLORMAP_INFERNO)
    return _tint(bgr[..., ::-1].astype(np.float32), np.sqrt(strength) * alpha)


def _runs(columns: NDArray[np.intp], gap: int) -> Iterator[tuple[int, int]]:
    """First and last of each run of ``columns``; steps up to ``gap`` don't end a run."""
    for run in np.split(columns, np.flatnonzero(np.diff(columns) > gap) + 1):
        yield int(run[0]), int(run[-1])


def lay_over(image: NDArray[np.uint8], tint: Tint, *, stride: int, model_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """New picture (H, W, 3) with ``tint`` over ``image``, upsampled once, bilinear.

    Cell (r, c) has its centre at model pixel ((c + 0.5) * stride, (r + 0.5) * stride) of a ``model_hw`` image that
    shows the whole frame. So one cell is ``stride * W / W'`` frame pixels wide, the grid is upsampled by exactly
    that, and what overhangs the frame is left out.
    """
    height, width = image.shape[:2]
    num_rows, num_columns = tint.clear.shape
    cell_x, cell_y = stride * width / model_hw[1], stride * height / model_hw[0]
    if num_columns * cell_x < width - 0.5 or num_rows * cell_y < height - 0.5:
        raise ValueError(f"grid {tint.clear.shape} of stride {stride} doesn't cover the model image {model_hw}")
    # Rows that differ by few grey levels share one row of the tint: upsampling costs that much less.
    alike = max(1, round(cell_y / _TINT_ROWS_PER_CELL))
    color, clear = (
        cv2.resize(cv2.copyMakeBorder(part, 0, 1, 0, 1, cv2.BORDER_REPLICATE), None, fx=cell_x, fy=cell_y / alike)
        for part in (tint.color, tint.clear)
    )
    picture = image.copy()
    for row in range(0, num_rows + 1, _ROWS_PER_BAND):
        # A pixel between two cell centres depends on both cells: this band on one more row on either side.
        near = tint.clear[max(row - 1, 0) : row + _ROWS_PER_BAND]
        visible = np.flatnonzero(near.min(0) < 255)
        top = max(round((row - 0.5) * cell_y / alike), 0) * alike
        bottom = min(round((row + _ROWS_PER_BAND - 0.5) * cell_y / alike) * alike, height)
        if not len(visible) or top >= bottom:
            continue
        for first, last in _runs(visible, gap=2):
            left, right = max(math.floor((first - 0.5) * cell_x), 0), min(math.ceil((last + 1.5) * cell_x), width)
            shared = slice(top // alike, -(-bottom // alike)), slice(left, right)
            keep, add = cv2.cvtColor(clear[shared], cv2.COLOR_GRAY2RGB), color[shared]
            for start in range(min(alike, bottom - top)):
                rows = picture[top + start : bottom : alike, left:right]
                cv2.multiply(rows, keep[: len(rows)], dst=rows, scale=1 / 255)
                cv2.add(rows, add[: len(rows)], dst=rows)
    return picture
