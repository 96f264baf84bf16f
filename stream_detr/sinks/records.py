"""What was found, as data: one JSON object a frame and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import SinkError
from stream_detr.measures import attention_stats
from stream_detr.sinks.outputs import write_error
from stream_detr.structures import Detections, Frame


class RecordsSink:
    """JSON lines, each on the disk as soon as its frame is done. The picture is not used.

    Raises:
        SinkError: the file can't be made.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            # A file name that is no text can still stand in JSON: \udcff, the way Python itself reads it.
            self._file = open(path, "w", encoding="utf-8", errors="backslashreplace", newline="\n", buffering=1)  # noqa: SIM115
        except OSError as error:
            raise write_error(path, error) from error

    def write(self, frame: Frame, image: NDArray[np.uint8], detections: Detections) -> None:
        """Write one line.

        Raises:
            SinkError: the disk is full.
        """
        line = json.dumps(record(frame, detections), ensure_ascii=False, separators=(",", ":"))
        try:
            self._file.write(line + "\n")
        except OSError as error:
            raise write_error(self._path, error) from error

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        try:
            self._file.close()
        except OSError as error:
            raise write_error(self._path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except SinkError:
            if error is None:
                raise


def record(frame: Frame, detections: Detections) -> dict[str, Any]:
    """A frame's line: boxes in pixels, times in seconds, shares and scores in [0, 1], null for what there is not."""
    height, width = frame.size_hw
    stats: list[Any] = [*attention_stats(detections, frame.size_hw)] or [None] * len(detections)
    return {
        "stream": frame.stream.name,
        "index": frame.index,
        "pts": frame.pts,
        "seconds": round(frame.seconds, 6),
        "width": width,
        "height": height,
        "detections": [
            {
                "box": [round(value, 2) for value in box],
                "score": round(score, 4),
                "class_id": class_id,
                "class": name,
                "query_id": query_id,
                "track_id": track_id if track_id >= 0 else None,
                "attention": None
                if each is None
                else {
                    "center": [round(each.center[0], 1), round(each.center[1], 1)],
                    "inside_box": round(each.inside_box, 4),
                    "entropy": round(each.entropy, 4),
                },
            }
            for box, score, class_id, name, query_id, track_id, each in zip(
                detections.boxes.tolist(),
                detections.scores.tolist(),
                detections.class_ids.tolist(),
                detections.names,
                detections.query_ids.tolist(),
                detections.track_ids.tolist(),
                stats,
                strict=True,
            )
        ],
    }
