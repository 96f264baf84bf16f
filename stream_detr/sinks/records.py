"""What was found, as JSON: an object a frame and line, or COCO's list of results."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detr.measures import attention_stats
from stream_detr.sinks.outputs import DataSink, create, encoded, put, writing
from stream_detr.structures import Detections, Frame


class RecordsSink(DataSink):
    """JSON lines, each on the disk as soon as its frame is done.

    Raises:
        SinkError: the file can't be made.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._file = create(path)

    def write(self, frame: Frame, image: NDArray[np.uint8], detections: Detections) -> None:
        """Write one line.

        Raises:
            SinkError: the disk is full.
        """
        line = encoded(_json(record(frame, detections)) + "\n")
        with writing(self._path):
            put(self._file, line)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with writing(self._path):
            self._file.close()


class CocoSink(DataSink):
    """COCO's list of results, a valid JSON file after every frame and on a full disk.

    ``image_id`` is the frame's index, ``bbox`` [x, y, width, height] in pixels; of these and ``category_id`` and
    ``score`` an evaluation is made, it passes over the other keys. In a run with several inputs the indices repeat:
    ``stream`` tells them apart.

    Raises:
        SinkError: the file can't be made.
    """

    _END = b"\n]\n"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._file = create(path, b"[" + self._END)
        self._length = 1  # of all before the end

    def write(self, frame: Frame, image: NDArray[np.uint8], detections: Detections) -> None:
        """Add the frame's detections in place of the bracket that ends the list, and another one.

        Raises:
            SinkError: the disk is full.
        """
        start = "\n" if self._length == 1 else ",\n"
        if len(detections):
            self._append(encoded(start + ",\n".join(map(_json, coco_results(frame, detections)))))

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with writing(self._path):
            self._file.close()

    def _append(self, text: bytes) -> None:
        with writing(self._path):
            try:
                self._file.seek(self._length)
                put(self._file, text + self._END)
            except OSError:
                with suppress(OSError):
                    self._file.truncate(self._length)
                    self._file.seek(self._length)
                    put(self._file, self._END)
                raise
        self._length += len(text)


def record(frame: Frame, detections: Detections) -> dict[str, Any]:
    """A frame's line: boxes in pixels, times in seconds, shares and scores in [0, 1], null for what there is not.

    Zones and crossings (by line and class, [forward, backward]) are there only where they were asked for.
    """
    height, width = frame.size_hw
    stats: list[Any] = [*attention_stats(detections, frame.size_hw)] or [None] * len(detections)
    carried = detections.carried if detections.carried is not None else np.zeros(len(detections), np.bool_)
    zones = [{}] * len(detections) if detections.zones is None else [{"zones": [*names]} for names in detections.zones]
    crossings = {
        line: {name: [*counts] for name, counts in by_class.items()}
        for line, by_class in (detections.crossings or {}).items()
    }
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
                "carried": is_carried,
                **in_zones,
            }
            for box, score, class_id, name, query_id, track_id, each, is_carried, in_zones in zip(
                detections.boxes.tolist(),
                detections.scores.tolist(),
                detections.class_ids.tolist(),
                detections.names,
                detections.query_ids.tolist(),
                detections.track_ids.tolist(),
                stats,
                carried.tolist(),
                zones,
                strict=True,
            )
        ],
        **({} if detections.crossings is None else {"crossings": crossings}),
    }


def coco_results(frame: Frame, detections: Detections) -> list[dict[str, Any]]:
    """The detections of a frame as COCO's results; ``track_id`` only where there is a track."""
    results: list[dict[str, Any]] = []
    for each in record(frame, detections)["detections"]:
        x1, y1, x2, y2 = each["box"]
        result = {
            "image_id": frame.index,
            "category_id": each["class_id"],
            "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
            "score": each["score"],
            "category_name": each["class"],
            "track_id": each["track_id"],
            "carried": each["carried"],
            "zones": each.get("zones"),
            "attention": each["attention"],
            "stream": frame.stream.name,
        }
        results.append({key: value for key, value in result.items() if value is not None})
    return results


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
