"""What is known of each track at the end: when it was seen, as what, and whether its evidence lay on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stream_detr.measures import attention_stats
from stream_detr.structures import Detections, Frame
from stream_detr.tracking.tracker import Tracker, Votes


@dataclass(slots=True)
class _Summary:
    frames_seen: int = 0
    frames_carried: int = 0
    first_seconds: float = 0.0
    last_seconds: float = 0.0
    inside_sum: float = 0.0
    inside_lowest: float = 1.0
    inside_count: int = 0
    votes: Votes = field(default_factory=dict)


class TrackSummaries:
    """Gathers the tracks of one stream, frame by frame; its size grows with the tracks, not with the frames."""

    def __init__(self) -> None:
        self._tracks: dict[int, _Summary] = {}
        self._class_names: tuple[str, ...] = ()

    def add(self, frame: Frame, detections: Detections, tracker: Tracker) -> None:
        """Count one frame of ``tracker``. Carried objects count for the time, not for the evidence."""
        self._class_names = detections.class_names
        stats = attention_stats(detections, frame.size_hw)
        carried = detections.carried.tolist() if detections.carried is not None else [False] * len(detections)
        for row, track_id in enumerate(detections.track_ids.tolist()):
            one = self._tracks.get(track_id)
            if one is None:
                # The tracker's own: they are complete when the track ends.
                one = self._tracks[track_id] = _Summary(first_seconds=frame.seconds, votes=tracker.votes(track_id))
            one.last_seconds = frame.seconds
            one.frames_carried += carried[row]
            if carried[row]:
                continue
            one.frames_seen += 1
            if stats:
                one.inside_sum += stats[row].inside_box
                one.inside_lowest = min(one.inside_lowest, stats[row].inside_box)
                one.inside_count += 1

    def as_list(self) -> list[dict[str, Any]]:
        """One entry a track, ready for JSON: times in seconds, shares in [0, 1], null for what was not measured.

        ``votes`` has the sum of scores of each class that the model saw in the object, the winner first.
        """

        def name(class_id: int) -> str:
            return self._class_names[class_id] if class_id < len(self._class_names) else str(class_id)

        return [
            {
                "track_id": track_id,
                "class": name(max(one.votes, key=one.votes.__getitem__)),
                "votes": {name(k): round(sum_, 2) for k, sum_ in sorted(one.votes.items(), key=lambda vote: -vote[1])},
                "frames_seen": one.frames_seen,
                "frames_carried": one.frames_carried,
                "first_seconds": round(one.first_seconds, 3),
                "last_seconds": round(one.last_seconds, 3),
                "inside_box_mean": round(one.inside_sum / one.inside_count, 4) if one.inside_count else None,
                "inside_box_lowest": round(one.inside_lowest, 4) if one.inside_count else None,
            }
            for track_id, one in sorted(self._tracks.items())
        ]
