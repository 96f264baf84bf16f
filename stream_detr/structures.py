"""The data that flows between the stages. Host side only: numpy arrays, RGB, frame pixels; torch never enters.

Letters used everywhere: ``B`` batch, ``H, W`` frame pixels, ``h, w`` feature-grid cells, ``Q`` queries, ``N`` kept
detections, ``K`` classes, ``L`` layers, ``M`` heads, ``D`` width, ``P`` reference points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Direction = Literal["looks-at", "looked-at-by"]


def _check(name: str, array: NDArray[Any], shape: tuple[int | None, ...], dtype: Any) -> None:
    """Raise when ``array`` is not of ``shape`` (None = any length) and ``dtype``, naming expected and actual."""
    fits = array.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype != dtype:
        wanted = ", ".join("*" if length is None else str(length) for length in shape)
        raise ValueError(
            f"{name}: expected ({wanted}) {np.dtype(dtype).name}, got {tuple(array.shape)} {array.dtype.name}"
        )


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What is known of a stream before its first frame.

    ``name`` is shown to people and written to records, so it carries no credentials. ``width`` and ``height`` are in
    display orientation (rotation applied). ``num_frames`` comes from the header and can be wrong: a hint for a
    progress bar, no more. ``is_stills``: pictures that have nothing to do with one another.
    """

    name: str
    width: int
    height: int
    frame_rate: Fraction | None = None
    num_frames: int | None = None
    is_live: bool = False
    is_stills: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture and its place in time.

    ``image`` is (H, W, 3) uint8 RGB and read-only. ``index`` counts the stream's frames from 0, gaps mean dropped
    frames. ``pts`` times ``time_base`` is the exact presentation time in seconds. ``captured_seconds`` is the
    monotonic clock at arrival and serves latency only.
    """

    image: NDArray[np.uint8]
    index: int
    pts: int
    time_base: Fraction
    captured_seconds: float
    stream: StreamInfo

    def __post_init__(self) -> None:
        _check("Frame.image", self.image, (None, None, 3), np.uint8)
        self.image.flags.writeable = False

    @property
    def seconds(self) -> float:
        """Presentation time in seconds: for showing, never for arithmetic on timestamps."""
        return float(self.pts * self.time_base)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Frame height and width in pixels."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True, slots=True)
class AttentionMaps:
    """Attention of one frame's detections on the feature grid, float32.

    ``cross`` (N, h, w): decoder cross-attention of each detection, each map sums to 1.
    ``points`` (P, h, w): encoder self-attention of the reference points ``points_xy`` (P, 2), fractions of the frame.
    With ``direction`` "looks-at" a map is where the point looks (sums to 1); with "looked-at-by" it is how much each
    cell looks at the point (a column of the attention matrix, not a distribution).
    ``objects`` (N, N): decoder self-attention, ``objects[i, j]`` is how much detection i reads from detection j; rows
    keep the share that went to other queries, so they sum to at most 1.
    ``full_at`` (N,): the attention from which each object's map is drawn as strong as it gets, smoothed along its
    track; None where nothing was tracked, and the scale is a fixed multiple of uniform attention.

    Geometry: cell (r, c) covers model pixels [r * stride, (r + 1) * stride) x [c * stride, (c + 1) * stride) of an
    image ``model_hw`` pixels large, which shows the whole frame. The grid may overhang that image, as
    h = ceil(H' / stride).
    """

    stride: int
    model_hw: tuple[int, int]
    cross: NDArray[np.float32] | None = None
    points: NDArray[np.float32] | None = None
    points_xy: NDArray[np.float32] | None = None
    direction: Direction = "looks-at"
    objects: NDArray[np.float32] | None = None
    full_at: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.full_at is not None:
            _check("AttentionMaps.full_at", self.full_at, (len(self.full_at),), np.float32)
        if self.cross is not None:
            _check("AttentionMaps.cross", self.cross, (None, None, None), np.float32)
        if self.points is not None:
            _check("AttentionMaps.points", self.points, (None, None, None), np.float32)
            if self.points_xy is None:
                raise ValueError("AttentionMaps.points: points_xy is missing")
            _check("AttentionMaps.points_xy", self.points_xy, (len(self.points), 2), np.float32)
        if self.objects is not None:
            _check("AttentionMaps.objects", self.objects, (len(self.objects), len(self.objects)), np.float32)

    def __getitem__(self, keep: Any) -> AttentionMaps:
        """Maps of the kept detections; the points stay."""
        return replace(
            self,
            cross=None if self.cross is None else self.cross[keep],
            objects=None if self.objects is None else self.objects[keep][:, keep],
            full_at=None if self.full_at is None else self.full_at[keep],
        )


Point = tuple[float, float]
"""x and y as fractions of the frame."""


@dataclass(frozen=True, slots=True)
class Zone:
    """A named polygon of at least three `Point`; an object is in it while the middle of its lower edge is."""

    name: str
    polygon: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A named segment that objects cross: forward from left to right of someone who walks from ``start`` to ``end``."""

    name: str
    start: Point
    end: Point


@dataclass(frozen=True, slots=True)
class Detections:
    """What was found in one frame; ``detections[keep]`` (mask, indices or slice) selects in every field.

    ``boxes`` (N, 4) float32 xyxy frame pixels, ``scores`` (N,) float32 in [0, 1], ``class_ids`` and ``query_ids``
    (N,) int64, ``track_ids`` (N,) int64 with -1 = no track. ``class_names`` names every class id of the model.
    ``carried`` (N,) bool: the model did not see this object in this frame; box and attention were moved on from frames
    that it saw; ``is_detected`` False: it did not look at this frame. ``zones``: the names of the zones that each
    object is in (N tuples), None where none were asked for. ``crossings``: by line and class name how many objects have
    crossed so far, (forward, backward).
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    query_ids: NDArray[np.int64]
    track_ids: NDArray[np.int64]
    attention: AttentionMaps | None = None
    class_names: tuple[str, ...] = ()
    carried: NDArray[np.bool_] | None = None
    is_detected: bool = True
    zones: tuple[tuple[str, ...], ...] | None = None
    crossings: Mapping[str, Mapping[str, tuple[int, int]]] | None = None

    def __post_init__(self) -> None:
        num = len(self.boxes)
        if self.carried is not None:
            _check("Detections.carried", self.carried, (num,), np.bool_)
        if self.zones is not None and len(self.zones) != num:
            raise ValueError(f"Detections.zones: expected {num} rows, got {len(self.zones)}")
        _check("Detections.boxes", self.boxes, (num, 4), np.float32)
        _check("Detections.scores", self.scores, (num,), np.float32)
        for name in ("class_ids", "query_ids", "track_ids"):
            _check(f"Detections.{name}", getattr(self, name), (num,), np.int64)
        for name in ("cross", "objects", "full_at"):
            maps = getattr(self.attention, name, None)
            if maps is not None and len(maps) != num:
                raise ValueError(f"Detections.attention.{name}: expected {num} rows, got {len(maps)}")

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, keep: Any) -> Detections:
        return replace(
            self,
            boxes=self.boxes[keep],
            scores=self.scores[keep],
            class_ids=self.class_ids[keep],
            query_ids=self.query_ids[keep],
            track_ids=self.track_ids[keep],
            attention=None if self.attention is None else self.attention[keep],
            carried=None if self.carried is None else self.carried[keep],
            zones=None if self.zones is None else tuple(self.zones[i] for i in np.arange(len(self))[keep].tolist()),
        )

    @property
    def names(self) -> list[str]:
        """Class name of each detection (N,); the id as text where the model has no name for it."""
        known = len(self.class_names)
        return [self.class_names[i] if i < known else str(i) for i in self.class_ids.tolist()]

    @staticmethod
    def empty(class_names: tuple[str, ...] = ()) -> Detections:
        """No detections.

        >>> len(Detections.empty())
        0
        """
        none = np.empty(0, np.int64)
        return Detections(
            boxes=np.empty((0, 4), np.float32),
            scores=np.empty(0, np.float32),
            class_ids=none,
            query_ids=none,
            track_ids=none,
            class_names=class_names,
        )


class AudioTrack(Protocol):
    """Audio on its way from a source to a sink, packet by packet, never decoded.

    ``template`` is the container library's audio stream (codec and parameters).
    """

    template: Any

    def take(self, until_seconds: float | None) -> list[Any]:
        """Packets that start before ``until_seconds`` (None = all that are left) and were not taken yet."""
        ...


@dataclass(slots=True)
class RunReport:
    """Figures of one run. ``stage_seconds`` is wall time per stage; stages overlap, so they don't add up.

    Latency (milliseconds from capture to written, p50 and p95) is for live streams only.
    """

    frames_read: int = 0
    frames_detected: int = 0
    frames_written: int = 0
    frames_dropped: int = 0
    elapsed_seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
