"""Detections for other libraries, none of which stream_detr depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stream_detr.errors import UsageError
from stream_detr.structures import Detections

if TYPE_CHECKING:
    import supervision


def to_supervision(detections: Detections) -> supervision.Detections:
    """The same detections for `supervision <https://supervision.roboflow.com>`_, without their attention.

    ``xyxy``, ``confidence`` and ``class_id`` as they are, ``tracker_id`` None where nothing is tracked (an object
    without a track among others that have one keeps -1). ``data`` has ``class_name``, ``query_id`` and, where they
    are known, ``carried`` and ``zones`` (a tuple of names each).

    Raises:
        UsageError: supervision isn't installed.
    """
    try:
        import supervision
    except ImportError:
        raise UsageError("to_supervision: needs supervision; pip install supervision") from None
    data: dict[str, Any] = {"class_name": np.array(detections.names, np.str_), "query_id": detections.query_ids.copy()}
    if detections.carried is not None:
        data["carried"] = detections.carried.copy()
    if detections.zones is not None:
        zones = np.empty(len(detections), object)
        zones[:] = detections.zones
        data["zones"] = zones
    is_tracked = bool((detections.track_ids >= 0).any())
    return supervision.Detections(
        xyxy=detections.boxes.copy(),
        confidence=detections.scores.copy(),
        class_id=detections.class_ids.copy(),
        tracker_id=detections.track_ids.copy() if is_tracked else None,
        data=data,
    )
