"""Drawing: boxes, labels and attention over a frame. Pictures are RGB uint8; numpy and cv2 only.

To add a way to draw attention, write a function like the ones below and add it to OVERLAYS.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import CaptureError, UsageError
from stream_detr.overlay.heat import blend, glow, lay_over, strength_of
from stream_detr.overlay.labels import draw_labels, texts_of
from stream_detr.overlay.legend import OWN_SCALE, SCALE, Legend, draw_legend
from stream_detr.overlay.marks import LINK_FULL, draw_boxes, draw_links, draw_points, whole_boxes
from stream_detr.overlay.palette import color_of, colors_of
from stream_detr.overlay.regions import draw_lines, draw_region_texts, draw_zones
from stream_detr.structures import AttentionMaps, Detections, Line, Zone

Image = NDArray[np.uint8]

_LONE_POINT = (20, 20, 24)
_MISSED = 0.5  # of its strength is what the attention of an object is drawn with that the model missed


@dataclass(frozen=True, slots=True)
class Style:
    """How a frame is drawn: which attention (a key of OVERLAYS), its opacity where it is full, the legend or not,
    and which zones and lines. ``note`` is added to the legend."""

    attention: str = "cross"
    alpha: float = 0.5
    legend: bool = True
    zones: tuple[Zone, ...] = ()
    lines: tuple[Line, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if self.attention not in OVERLAYS:
            raise UsageError(f"attention: expected one of {', '.join(OVERLAYS)}, got {self.attention!r}")
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"alpha: expected a number from 0 to 1, got {self.alpha}")


class Overlay(Protocol):
    """One way to draw attention."""

    def __call__(self, image: Image, detections: Detections, alpha: float) -> tuple[Image, Legend | None]:
        """New picture (H, W, 3) with the attention drawn over ``image``, and the legend that explains it.

        Boxes and labels are drawn over it afterwards.

        Raises:
            CaptureError: there are detections, but not the attention that is to be drawn.
        """
        ...


def _missing(what: str) -> CaptureError:
    return CaptureError(
        f"the detections carry no {what} attention: load the model with attention={what!r} or draw attention='none'"
    )


def draw_cross(image: Image, detections: Detections, alpha: float) -> tuple[Image, Legend | None]:
    """Decoder cross-attention of every object in the object's colour."""
    attention = detections.attention
    legend = Legend("decoder cross-attention", "in the colour of its box", SCALE)
    if attention is not None and attention.full_at is not None:
        legend = replace(legend, scale=OWN_SCALE)
    if not len(detections):
        return image.copy(), legend
    if attention is None or attention.cross is None:
        raise _missing("cross")
    strength = strength_of(attention.cross, "cross-attention", attention.full_at)
    missed = _missed(detections)
    if missed is not None:
        strength[missed] *= _MISSED
    tint = blend(strength, colors_of(detections), alpha)
    return lay_over(image, tint, stride=attention.stride, model_hw=attention.model_hw), legend


def draw_encoder(image: Image, detections: Detections, alpha: float) -> tuple[Image, Legend | None]:
    """Encoder self-attention of the reference points: one in shades of heat, several in a colour each."""
    attention = detections.attention
    if attention is None or attention.points is None or attention.points_xy is None:
        if len(detections):
            raise _missing("encoder")
        return image.copy(), None
    num = len(attention.points)
    colors = [_LONE_POINT] if num == 1 else [color_of(index) for index in range(num)]
    if not num:
        return image.copy(), None
    strength = strength_of(attention.points, "encoder self-attention")
    tint = glow(strength[0], alpha) if num == 1 else blend(strength, colors, alpha)
    picture = lay_over(image, tint, stride=attention.stride, model_hw=attention.model_hw)
    draw_points(picture, attention.points_xy, colors)
    return picture, _encoder_legend(attention)


def _encoder_legend(attention: AttentionMaps) -> Legend:
    one = len(attention.points_xy if attention.points_xy is not None else ()) == 1
    subject = "the point" if one else "each point"
    what = f"where {subject} looks" if attention.direction == "looks-at" else f"what looks at {subject}"
    return Legend("encoder self-attention", what, SCALE)


def draw_objects(image: Image, detections: Detections, alpha: float) -> tuple[Image, Legend | None]:
    """Decoder self-attention as links between the objects."""
    attention, picture = detections.attention, image.copy()
    legend = Legend(
        "decoder self-attention",
        "a link's half is as thick as what its object reads from the other",
        f"full at {LINK_FULL:.0%}",
    )
    if not len(detections):
        return picture, legend
    if attention is None or attention.objects is None:
        raise _missing("objects")
    if not np.isfinite(attention.objects).all():
        raise CaptureError("decoder self-attention holds values that are not finite; try --precision fp32")
    boxes = whole_boxes(detections.boxes, (image.shape[0], image.shape[1]))
    draw_links(picture, boxes, attention.objects, colors_of(detections), alpha)
    return picture, legend


def draw_none(image: Image, detections: Detections, alpha: float) -> tuple[Image, Legend | None]:
    """No attention: boxes and labels only."""
    return image.copy(), None


def render(image: Image, detections: Detections, style: Style) -> Image:
    """New picture (H, W, 3) of ``image`` with attention, zones and lines, boxes and labels drawn over it.

    Args:
        image: (H, W, 3) uint8 RGB, left as it is.
        detections: what to draw, boxes in pixels of ``image``.
        style: what and how.

    Raises:
        CaptureError: there are detections without the attention that the style asks for.

    >>> image = np.full((4, 6, 3), 9, np.uint8)
    >>> bool((render(image, Detections.empty(), Style("none")) == image).all())
    True
    """
    picture, legend = OVERLAYS[style.attention](image, detections, style.alpha)
    boxes = whole_boxes(detections.boxes, (image.shape[0], image.shape[1]))
    colors = colors_of(detections)
    draw_zones(picture, style.zones)
    draw_lines(picture, style.lines)
    missed = _missed(detections)
    draw_boxes(picture, boxes, colors, None if missed is None else missed.tolist())
    if legend is not None and style.note:
        legend = replace(legend, key=f"{legend.key}, {style.note}")
    corner = draw_legend(picture, legend) if legend is not None and style.legend else None
    taken = [corner] if corner else []
    taken += draw_region_texts(picture, detections, style.zones, style.lines, taken)
    draw_labels(picture, boxes, texts_of(detections), colors, taken)
    return picture


def _missed(detections: Detections) -> NDArray[np.bool_] | None:
    """Which objects the model looked for and did not see; None in a frame that it did not look at.

    There all are carried: drawn like that they would blink with the stride. The legend says it instead.
    """
    return detections.carried if detections.is_detected else None


OVERLAYS: dict[str, Overlay] = {
    "cross": draw_cross,
    "encoder": draw_encoder,
    "objects": draw_objects,
    "none": draw_none,
}
