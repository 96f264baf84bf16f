"""What an object's attention says in three numbers: its centre, the share inside the box, its spread."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import CaptureError
from stream_detr.structures import Detections


@dataclass(frozen=True, slots=True)
class AttentionStats:
    """Figures of one detection's decoder cross-attention.

    ``center`` is its centre of mass (x, y) in frame pixels, ``inside_box`` the share of its mass inside the
    box, ``entropy`` its spread in [0, 1]: 0 = all in one cell, 1 = uniform.
    """

    center: tuple[float, float]
    inside_box: float
    entropy: float


def visible_edges(num_cells: int, stride: int, model_px: int, frame_px: int) -> NDArray[np.float64]:
    """Frame pixel positions of the borders between cells along one axis (num_cells + 1,).

    The last cells may overhang the image; what lies outside the frame is cut off.

    >>> visible_edges(3, 32, 80, 160).tolist()
    [0.0, 64.0, 128.0, 160.0]
    """
    edges: NDArray[np.float64] = np.minimum(np.arange(num_cells + 1) * float(stride), model_px)
    return edges * (frame_px / model_px)


def _covered(edges: NDArray[np.float64], low: NDArray[np.float32], high: NDArray[np.float32]) -> NDArray[np.float64]:
    """Fraction of each cell between ``low`` and ``high`` (N,), per box and cell (N, cells)."""
    overlap = np.minimum(high[:, None], edges[1:]) - np.maximum(low[:, None], edges[:-1])
    width = np.diff(edges)
    fraction: NDArray[np.float64] = np.clip(overlap, 0, None) / np.where(width > 0, width, 1)
    return fraction


def attention_stats(detections: Detections, size_hw: tuple[int, int]) -> list[AttentionStats]:
    """Figures of every detection's cross-attention; an empty list where no cross-attention was recorded.

    A cell that the box's border cuts counts by the share of its visible area inside the box, so a box around
    the whole frame has all the mass.

    Args:
        detections: N detections in a frame of ``size_hw``.
        size_hw: frame height and width in pixels.

    Raises:
        CaptureError: a map is not finite or has no mass.
    """
    attention = detections.attention
    if attention is None or attention.cross is None or not len(detections):
        return []
    cross = attention.cross.astype(np.float64)  # (N, h, w)
    mass = cross.sum((1, 2))
    if not np.isfinite(mass).all() or (mass <= 0).any():
        raise CaptureError("cross-attention: a map is not finite or is empty; try --precision fp32")
    cross /= mass[:, None, None]
    num_rows, num_columns = cross.shape[1:]
    y_edges = visible_edges(num_rows, attention.stride, attention.model_hw[0], size_hw[0])
    x_edges = visible_edges(num_columns, attention.stride, attention.model_hw[1], size_hw[1])
    rows, columns = cross.sum(2), cross.sum(1)  # (N, h), (N, w)
    center_y = rows @ ((y_edges[1:] + y_edges[:-1]) / 2)
    center_x = columns @ ((x_edges[1:] + x_edges[:-1]) / 2)
    x_low, y_low, x_high, y_high = detections.boxes.T
    inside = np.einsum(
        "nhw,nh,nw->n",
        cross,
        _covered(y_edges, y_low, y_high),
        _covered(x_edges, x_low, x_high),
        optimize=True,
    )
    logs = np.log(cross, out=np.zeros_like(cross), where=cross > 0)
    num_cells = num_rows * num_columns
    entropy = -(cross * logs).sum((1, 2)) / math.log(num_cells) if num_cells > 1 else np.ones(len(cross))
    return [
        AttentionStats((float(x), float(y)), float(min(share, 1.0)), float(min(max(spread, 0.0), 1.0)))
        for x, y, share, spread in zip(center_x, center_y, inside, entropy, strict=True)
    ]
