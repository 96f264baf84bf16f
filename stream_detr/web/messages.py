"""The wire format between the server and the page.

A shown picture is one binary message: the length of the header (4 bytes, little-endian), the header (JSON), the JPEG,
then the attention on its grid, one byte a cell: ``cross`` maps, then ``points`` maps, each ``rows * columns``. A byte
is the overlay's logarithmic strength times 255. Everything else is JSON text.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import StreamDetrError
from stream_detr.overlay.heat import CLEAR_AT, FULL_AT, strength_of
from stream_detr.overlay.marks import LINK_FROM, LINK_FULL
from stream_detr.overlay.palette import color_of, colors_of
from stream_detr.structures import AttentionMaps, Detections

if TYPE_CHECKING:
    from stream_detr.live import LiveSession, Shown

_MIDDLE = (0.5, 0.5)
MOST_POINTS = 4
"""Reference points that one viewer may set in a stream."""

_Header = dict[str, Any]


def to_json(value: object) -> str:
    """Compact JSON; values that are not finite are an error, as no browser reads them."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def picture_message(shown: Shown, jpeg: bytes) -> bytes:
    """One message that shows a picture, for all who watch it."""
    frame, detections = shown.frame, shown.detections
    height, width = frame.size_hw
    header: _Header = {
        "stream": shown.stream_id,
        "number": shown.number,
        "index": frame.index,
        "seconds": round(frame.seconds, 3),
        "width": width,
        "height": height,
        "age_ms": round(1000 * (time.monotonic() - frame.captured_seconds), 1),
        "result_age_ms": round(1000 * shown.age_seconds, 1),
        "jpeg": len(jpeg),
        "objects": _objects(detections),
        "crossings": {line: dict(counts) for line, counts in (detections.crossings or {}).items()},
    }
    grids = b""
    if detections.attention is not None:
        try:
            grids = _add_attention(header, detections.attention)
        except StreamDetrError as error:  # the picture and the boxes are still worth showing
            header["notice"] = str(error)
    packed = to_json(header).encode()
    return b"".join((len(packed).to_bytes(4, "little"), packed, jpeg, grids))


def _objects(detections: Detections) -> list[_Header]:
    num = len(detections)
    carried = detections.carried if detections.carried is not None else np.zeros(num, bool)
    columns = {
        "box": np.round(detections.boxes.astype(float), 1).tolist(),
        "score": np.round(detections.scores.astype(float), 3).tolist(),
        "class": detections.names,
        "track": detections.track_ids.tolist(),
        "query": detections.query_ids.tolist(),
        "color": colors_of(detections),
        "carried": carried.tolist(),
        "zones": detections.zones or [()] * num,
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _add_attention(header: _Header, attention: AttentionMaps) -> bytes:
    """The grids as bytes; ``header`` learns their number and geometry, and the links between the objects."""
    cross, points = attention.cross, attention.points
    shape = next((maps.shape[1:] for maps in (cross, points) if maps is not None), None)
    if attention.objects is not None and np.isfinite(attention.objects).all():
        header["links"] = np.round(attention.objects.astype(float), 3).tolist()
    if shape is None:
        return b""
    strengths = [
        _bytes_of(cross, "cross-attention", attention.full_at),
        _bytes_of(points, "encoder self-attention"),
    ]
    header["grid"] = {
        "rows": shape[0],
        "columns": shape[1],
        "stride": attention.stride,
        "model_hw": list(attention.model_hw),
        "cross": 0 if cross is None else len(cross),
        "points": [] if attention.points_xy is None else attention.points_xy.astype(float).tolist(),
        "point_colors": [color_of(index) for index in range(0 if points is None else len(points))],
        "direction": attention.direction,
        "tracked": attention.full_at is not None,
    }
    return b"".join(strengths)


def _bytes_of(maps: NDArray[np.float32] | None, what: str, full_at: NDArray[np.float32] | None = None) -> bytes:
    """Strength of maps (N, h, w) as N * h * w bytes; with ``full_at`` (N,) each map has a scale of its own.

    >>> list(_bytes_of(np.array([[[1.0] + 19 * [0.0]]], np.float32), "cross"))[:2]
    [255, 0]
    """
    if maps is None or not maps.size:
        return b""
    return np.rint(255 * strength_of(maps, what, full_at)).astype(np.uint8).tobytes()


def hello_message(session: LiveSession) -> str:
    """What stays the same while the session runs: the page builds its controls from it."""
    style = session.style()
    return to_json(
        {
            "hello": {
                "model": session.model_name,
                "classes": list(session.class_names),
                "layers": session.num_layers,
                "heads": session.num_heads,
                "scale": {"clear_at": CLEAR_AT, "full_at": FULL_AT},
                "link": {"from": LINK_FROM, "full": LINK_FULL},
                "most_points": MOST_POINTS,
                "points": session.points[:MOST_POINTS] or (_MIDDLE,),
                "alpha": style.alpha,
                "zones": [zone.polygon for zone in style.zones],
                "lines": [(line.start, line.end) for line in style.lines],
            }
        }
    )


def state_message(session: LiveSession, num_viewers: int) -> str:
    """What changes: settings that all viewers share, and every stream's state and figures."""
    settings = session.settings
    return to_json(
        {
            "state": {
                "viewers": num_viewers,
                "settings": {
                    "attention": settings.attention,
                    "layer": settings.layer,
                    "head": settings.head,
                    "direction": settings.direction,
                    "threshold": settings.threshold,
                    "classes": None if settings.classes is None else list(settings.classes),
                },
                "streams": [_stream(stream) for stream in session.streams],
            }
        }
    )


def _stream(stream: Any) -> _Header:
    status = stream.status
    return {
        "id": stream.stream_id,
        "name": stream.name,
        "state": status.state,
        "since": round(max(0.0, time.monotonic() - status.since_seconds), 1),
        "message": status.message,
        "reconnects": status.reconnects,
        "dropped": status.frames_dropped,
        "shown_fps": _rounded(stream.shown_fps),
        "detected_fps": _rounded(stream.detected_fps),
        "latency_ms": {stage: _rounded(value) for stage, value in stream.latency_ms.items()},
        "is_recording": stream.is_recording,
        "is_paused": stream.is_paused,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 1)
