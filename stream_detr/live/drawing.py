"""The picture of a moment, drawn here rather than in the viewer's browser."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stream_detr.overlay import Style, render

if TYPE_CHECKING:
    from stream_detr.live.stream import Shown

FRESH_SECONDS = 1.0
"""So long attention that was moved along with its object is as good as seen: a model of one frame a second keeps up."""


def annotated(shown: Shown, style: Style, *, show_stale: bool = True) -> NDArray[np.uint8]:
    """The picture (H, W, 3) with what was found drawn over it.

    Attention is left out where it was not captured, as in the moment after another kind was chosen, and, unless
    ``show_stale``, where it was carried on for longer than `FRESH_SECONDS`.
    """
    detections = shown.detections
    if not show_stale and shown.age_seconds > FRESH_SECONDS:
        detections = replace(detections, attention=None)
    maps = detections.attention
    there = maps is not None and {"cross": maps.cross, "encoder": maps.points, "objects": maps.objects}
    if not there or (style.attention != "none" and there[style.attention] is None):
        style = replace(style, attention="none")
    return render(shown.frame.image, detections, style)
