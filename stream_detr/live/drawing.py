"""The picture of a moment, drawn here rather than in the viewer's browser."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stream_detr.overlay import Style, render
from stream_detr.structures import Detections

if TYPE_CHECKING:
    from stream_detr.live.stream import Shown


def annotated(shown: Shown, style: Style, *, show_stale: bool = True) -> NDArray[np.uint8]:
    """The picture (H, W, 3) with what was found drawn over it.

    Attention is left out where it was not captured, as in the moment after another kind was chosen, and, unless
    ``show_stale``, where it was carried on from an earlier frame.
    """
    detections = shown.detections
    if not show_stale:
        detections = detections if shown.age_seconds == 0 else replace(detections, attention=None)
        detections = _without_carried(detections)
    maps = detections.attention
    there = maps is not None and {"cross": maps.cross, "encoder": maps.points, "objects": maps.objects}
    if not there or (style.attention != "none" and there[style.attention] is None):
        style = replace(style, attention="none")
    return render(shown.frame.image, detections, style)


def _without_carried(detections: Detections) -> Detections:
    """No cross-attention for the objects that are carried."""
    maps, carried = detections.attention, detections.carried
    if maps is None or maps.cross is None or carried is None or not carried.any():
        return detections
    cross = np.where(carried[:, None, None], np.float32(0), maps.cross)
    return replace(detections, attention=replace(maps, cross=cross))
