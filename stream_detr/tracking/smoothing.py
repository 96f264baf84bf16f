"""Attention that does not flicker: averaged along each object's track, in the object's own frame of reference.

An average on the feature grid would drag a ghost behind whatever moves. So each track has a canvas that moves and
scales with its box, and past attention is averaged there. The canvas is laid on the borders of the cells and has bins
no larger than a cell: nothing blurs while the object stays, and what moves is resampled twice, onto the canvas and
back, however long the track (and twice more when its size has changed and the canvas is laid anew). What lies far from
the object does not move with it, and is averaged on the grid.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import CaptureError, UsageError
from stream_detr.structures import Detections

Array = NDArray[np.float32]

_SPAN = 2.0  # sides of the box that the canvas is wide and high, at least: attention likes the edges of things
_MIN_SIDE = 2.0  # cells; attention is no finer than a cell, so what is around a tiny box must not scale with it
_MIN_BINS = 32  # per side of the canvas
_MAX_BINS_PER_CELL = 4
_REFIT = 1.1  # the canvas is laid anew when the box has grown or shrunk by this factor since
_TOP_SHARE = 0.1  # of a map's mass lies at or above its full_at
_MIN_LEFT = 0.5  # of a map's mass in the frame; what lacks beyond that is not made up from the rest


@dataclass(frozen=True, slots=True)
class _Grid:
    """Which cells a map has, and which part of the frame they show."""

    shape: tuple[int, int]
    stride: int
    model_hw: tuple[int, int]

    def place(self, boxes: Array, size_hw: tuple[int, int]) -> tuple[Array, Array]:
        """Centres (N, 2) and sides (N, 2) of boxes in cells, y before x."""
        cells_per_px = np.array(self.model_hw, np.float32) / np.array(size_hw, np.float32) / np.float32(self.stride)
        corners = boxes.reshape(-1, 2, 2)[..., ::-1] * cells_per_px
        side = np.maximum(corners[:, 1] - corners[:, 0], np.float32(_MIN_SIDE))
        return np.asarray(corners.mean(1), np.float32), np.asarray(side, np.float32)


@dataclass(frozen=True, slots=True)
class _Track:
    """``fit`` (3, 2), in cells, y before x: the box's side when the canvas was laid, the canvas's first edge seen from
    the box's centre, and the side of a bin. ``canvas`` holds mass per bin, ``rest`` (h, w) what lies outside of it."""

    fit: Array
    canvas: Array
    rest: Array
    full_at: float


@dataclass(frozen=True, slots=True)
class _Windows:
    """Where N canvases lie on the grid: how much of each bin is in each row (N, Ky, h) and column (N, Kx, w)."""

    rows: Array
    columns: Array
    bins: Array  # (N, 2) area of a bin is the product

    def take(self, maps: Array) -> tuple[Array, Array]:
        """Mass of the maps (N, h, w) on the canvases (N, Ky, Kx), and what is left outside (N, h, w)."""
        covered = self.rows.sum(1)[:, :, None] * self.columns.sum(1)[:, None]
        canvas = self.rows @ maps @ self.columns.transpose(0, 2, 1)
        return np.asarray(canvas, np.float32), np.asarray(maps * (1 - covered), np.float32)

    def draw(self, canvas: Array, rest: Array) -> Array:
        """The maps (N, h, w) again, each summing to 1."""
        density = canvas / self.bins.prod(1)[:, None, None]
        maps: Array = np.maximum(self.rows.transpose(0, 2, 1) @ density @ self.columns + rest, 0)
        # Some of an object that leaves the frame is outside. The last bit of a map must not be blown up to a whole.
        maps /= np.maximum(maps.sum((1, 2), keepdims=True), np.float32(_MIN_LEFT))
        maps += np.maximum(1 - maps.sum((1, 2), keepdims=True), 0) / np.float32(maps[0].size)
        return maps


class Smoother:
    """Attention and its scale for drawing, smoothed along the tracks of one stream.

    ``smooth`` is the weight of the past at each frame that the model saw: 0 = as it comes, towards 1 = slower.
    """

    def __init__(self, smooth: float) -> None:
        if not 0 <= smooth < 1:
            raise UsageError(f"smooth: expected a number from 0 to below 1, got {smooth}")
        self._past = np.float32(smooth)
        self._grid: _Grid | None = None
        self._tracks: dict[int, _Track] = {}

    def update(self, detections: Detections, size_hw: tuple[int, int], aligned: Array | None = None) -> Detections:
        """A frame that the model saw -> the same detections with smoothed ``attention.cross`` and ``full_at``.

        Args:
            detections: all with a track.
            size_hw: frame height and width in pixels.
            aligned: (N, 4) steadier boxes of the same objects to align attention by; None = the detections' own.

        Raises:
            CaptureError: a map is not finite or has no mass.
        """
        attention = detections.attention
        if attention is None or attention.cross is None:
            self._grid, self._tracks = None, {}
            return detections
        raw = _distributions(attention.cross)
        grid = _Grid((raw.shape[1], raw.shape[2]), attention.stride, attention.model_hw)
        if grid != self._grid:
            self._grid, self._tracks = grid, {}
        maps, full_at = raw, np.empty(0, np.float32)
        if len(detections):
            place = grid.place(detections.boxes if aligned is None else aligned, size_hw)
            maps, full_at = self._average(detections.track_ids.tolist(), raw, *place)
        return replace(detections, attention=replace(attention, cross=maps, full_at=full_at))

    def at(self, track_ids: NDArray[np.int64], boxes: Array, size_hw: tuple[int, int]) -> tuple[Array, Array] | None:
        """Attention of the last update moved to ``boxes``, and its ``full_at``; nothing changes inside.

        A track that no update had gets uniform attention, of which nothing is drawn. None where the last update had no
        attention.
        """
        if self._grid is None:
            return None
        height, width = self._grid.shape
        maps = np.full((len(track_ids), height, width), 1 / (height * width), np.float32)
        full_at = np.ones(len(track_ids), np.float32)
        ids = track_ids.tolist()
        known = [row for row, track_id in enumerate(ids) if track_id in self._tracks]
        if known:
            tracks = [self._tracks[ids[row]] for row in known]
            maps[known] = self._drawn(tracks, *self._grid.place(boxes[known], size_hw))
            full_at[known] = [track.full_at for track in tracks]
        return maps, full_at

    def keep(self, track_ids: Collection[int]) -> None:
        """Forget all other tracks."""
        self._tracks = {track_id: track for track_id, track in self._tracks.items() if track_id in track_ids}

    def _average(self, ids: Sequence[int], raw: Array, centre: Array, side: Array) -> tuple[Array, Array]:
        self._fit(ids, raw, centre, side)
        tracks = [self._tracks[track_id] for track_id in ids]
        windows = self._windows(np.array([track.fit for track in tracks]), centre, side)
        canvas, rest = windows.take(raw)
        canvas += self._past * (np.array([track.canvas for track in tracks]) - canvas)
        rest += self._past * (np.array([track.rest for track in tracks]) - rest)
        maps = windows.draw(canvas, rest)
        full_at = _full_at(maps)
        full_at += self._past * (np.array([track.full_at for track in tracks], np.float32) - full_at)
        for row, (track_id, track) in enumerate(zip(ids, tracks, strict=True)):
            self._tracks[track_id] = _Track(track.fit, canvas[row], rest[row], float(full_at[row]))
        return maps, full_at

    def _fit(self, ids: Sequence[int], raw: Array, centre: Array, side: Array) -> None:
        """Lay canvases for new tracks and for those whose box has another size by now."""
        rows = [row for row, track_id in enumerate(ids) if not self._fits(track_id, side[row])]
        if not rows:
            return
        centre, side, before = centre[rows], side[rows], raw[rows]
        full_at = _full_at(before)
        known = [n for n, row in enumerate(rows) if ids[row] in self._tracks]
        if known:
            tracks = [self._tracks[ids[rows[n]]] for n in known]
            before[known] = self._drawn(tracks, centre[known], side[known])
            full_at[known] = [track.full_at for track in tracks]
        bins = 1 / np.clip(self._num_bins // (_SPAN * side), 1, _MAX_BINS_PER_CELL)
        first = np.rint(centre - self._num_bins * bins / 2) - centre
        fits = np.stack([side, first, bins], 1).astype(np.float32)
        canvas, rest = self._windows(fits, centre, side).take(before)
        for n, row in enumerate(rows):
            self._tracks[ids[row]] = _Track(fits[n], canvas[n], rest[n], float(full_at[n]))

    def _fits(self, track_id: int, side: Array) -> bool:
        track = self._tracks.get(track_id)
        if track is None or not self._past:  # without a past there is nothing to resample: keep the cells as they are
            return False
        return bool((np.maximum(side / track.fit[0], track.fit[0] / side) <= _REFIT).all())

    @property
    def _num_bins(self) -> NDArray[np.int64]:
        """Along y and x: a canvas with bins as large as a cell is at least as large as the grid."""
        assert self._grid is not None
        return np.maximum(self._grid.shape, _MIN_BINS)

    def _windows(self, fits: Array, centre: Array, side: Array) -> _Windows:
        assert self._grid is not None
        scale = side / fits[:, 0]
        first, bins = centre + fits[:, 1] * scale, fits[:, 2] * scale
        (num_rows, num_columns), (height, width) = self._num_bins, self._grid.shape
        return _Windows(
            _overlaps(first[:, 0], bins[:, 0], num_rows, height),
            _overlaps(first[:, 1], bins[:, 1], num_columns, width),
            bins,
        )

    def _drawn(self, tracks: Sequence[_Track], centre: Array, side: Array) -> Array:
        windows = self._windows(np.array([track.fit for track in tracks]), centre, side)
        return windows.draw(np.array([track.canvas for track in tracks]), np.array([track.rest for track in tracks]))


def _overlaps(first: Array, bins: Array, num_bins: int, num_cells: int) -> Array:
    """Cells that each bin covers along one axis (N, num_bins, num_cells); bins (N,) are wide and begin at ``first``.

    >>> _overlaps(np.float32([0.5]), np.float32([1]), 2, 2).tolist()
    [[[0.5, 0.5], [0.0, 0.5]]]
    """
    edges = first[:, None] + bins[:, None] * np.arange(num_bins + 1, dtype=np.float32)
    before = np.clip(edges[:, :, None] - np.arange(num_cells, dtype=np.float32), 0, 1)
    return np.diff(before, axis=1)


def _distributions(cross: Array) -> Array:
    mass = cross.sum((1, 2), keepdims=True)
    if not np.isfinite(mass).all() or (mass <= 0).any():
        raise CaptureError("cross-attention: a map is not finite or is empty; try --precision fp32")
    maps: Array = cross / mass
    return maps


def _full_at(maps: Array) -> Array:
    """Attention (N,) at and above which the strongest tenth of each map's mass lies.

    A percentile of the mass and not of the cells: it means the same for an object of two cells and of two hundred.

    >>> _full_at(np.array([[[0.5, 0.25, 0.25]], [[0.05, 0.02, 0.93]]], np.float32)).tolist()
    [0.5, 0.9300000071525574]
    """
    falling = -np.sort(-maps.reshape(len(maps), -1), axis=1)
    reached = np.cumsum(falling, 1) >= _TOP_SHARE * falling.sum(1, keepdims=True)
    return np.asarray(falling[np.arange(len(maps)), reached.argmax(1)], np.float32)
