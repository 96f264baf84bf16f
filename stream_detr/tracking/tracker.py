"""Which detection of this frame is which object of the last ones. Matching and motion are norfair's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stream_detr.boxes import iou
from stream_detr.structures import AttentionMaps, Detections, Frame
from stream_detr.tracking.matching import norfair_tracker
from stream_detr.tracking.smoothing import Smoother

if TYPE_CHECKING:
    from norfair.tracker import TrackedObject

KEPT_SHARE = 0.6
"""A track that has begun goes on with detections above this share of the threshold that it took to begin."""

_LOST_SECONDS = 1.5  # an object that comes back within this is the same one
_DRIFT_SECONDS = 0.5  # after this an object that is moved on without being seen stands still
_LONGEST_STEP_SECONDS = 10.0  # between two looks; nothing is followed over a longer one
_SHOWN_SECONDS = 0.2  # for so long an object that the model misses is carried on
_SAME_PLACE, _DOUBLE = 0.5, 0.4  # overlaps
_STRANGE_LOOKS = 4
_STILL = 0.02  # of a box's longer side
_UNIT = 1000.0  # the filter's noise is in units of a frame's shorter side over this


Votes = dict[int, float]
"""Sum of scores by class id."""


@dataclass(slots=True)
class _Track:
    """One object: its id, the last thing seen of it, and the score that each class has gathered."""

    track_id: int
    box: NDArray[np.float32]
    aligned: NDArray[np.float32]  # the filter's box, which trembles less: attention is aligned by it
    velocity: NDArray[np.float32]  # (4,) pixels a frame
    seen_index: int
    score: float
    query_id: int
    row: int  # in the last update's detections, -1 = not in it
    is_hidden: bool = False
    num_strange: int = 0  # looks in a row that saw another class
    strange: Votes = field(default_factory=dict)  # what they saw
    votes: Votes = field(default_factory=dict)

    @property
    def class_id(self) -> int:
        """The class with the highest sum of scores so far."""
        return max(self.votes, key=self.votes.__getitem__)


class Tracker:
    """Follows the objects of one stream.

    An object begins with a detection of at least ``begin`` and goes on with weaker ones (`KEPT_SHARE`), so it does not
    vanish because its score dips; one that is missed is carried on for a moment and keeps its id for a little longer.
    Its class is what its detections have voted for. ``begin`` may be changed at any time.
    """

    def __init__(self, begin: float, smooth: float, frame_rate: float) -> None:
        self.begin = begin
        self._smoother = Smoother(smooth)
        self._shown_frames = max(1, round(_SHOWN_SECONDS * frame_rate))
        self._drift_frames = max(1, round(_DRIFT_SECONDS * frame_rate))
        self._longest_step = max(2, round(_LONGEST_STEP_SECONDS * frame_rate))
        self._lost_frames = max(2, round(_LOST_SECONDS * frame_rate))
        self._num_begun = 0
        self._forget(None)

    def _forget(self, size_hw: tuple[int, int] | None) -> None:
        """Begin anew for pictures of another size; ids go on."""
        self._size_hw = size_hw
        self._matcher = norfair_tracker(self._lost_frames)
        self._tracks: dict[int, _Track] = {}  # by norfair's id
        self._index: int | None = None
        self._seconds = self._seconds_before = 0.0
        self._last: Detections | None = None  # of the last update
        self._last_before: Detections | None = None
        self._boxes_before: dict[int, NDArray[np.float32]] = {}  # of each track at the update before

    def update(self, detections: Detections, frame: Frame) -> Detections:
        """Detections of a frame that the model saw, later than any before -> those of begun objects, with their ids.

        Objects that were missed follow, carried. Attention is smoothed, its scale is in ``full_at``.
        """
        if frame.size_hw != self._size_hw:
            self._forget(frame.size_hw)
        detections = detections[self._worth_following(detections)]
        passed = 1 if self._index is None else frame.index - self._index
        followed = self._match(detections, frame, passed)
        self._boxes_before = {t.track_id: t.box for t in self._tracks.values() if t.track_id >= 0}
        self._note(detections, followed, frame)
        begun = [track for track in self._tracks.values() if track.track_id >= 0]
        seen = [track for track in begun if track.row >= 0]
        self._hide(seen, [track for track in begun if track.row < 0])
        missed = [track for track in begun if track.row < 0 and self._is_shown(track, frame.index)]
        found = detections[np.array([track.row for track in seen], np.int64)]
        aligned = np.array([track.aligned for track in seen], np.float32).reshape(-1, 4)
        found = self._labelled(found, seen)
        found = self._smoother.update(found, frame.size_hw, aligned)
        self._smoother.keep([track.track_id for track in begun])
        for number, track in enumerate(seen):
            track.row = number
        self._seconds_before, self._last_before = self._seconds, self._last
        self._index, self._seconds, self._last = frame.index, frame.seconds, found
        return self._with_carried(found, missed, [track.box for track in missed], frame, None)

    def at(self, frame: Frame) -> Detections:
        """The objects moved on to a later frame than the last update's; nothing changes inside."""
        if self._last is None or self._index is None:
            return Detections.empty()
        shown = [t for t in self._tracks.values() if self._is_shown(t, frame.index)]
        frames = min(frame.index - self._index, self._drift_frames)
        boxes = [_moved(track.box, track.velocity, frames) for track in shown]
        return self._with_carried(self._last[:0], shown, boxes, frame, self._last)

    def between(self, frame: Frame) -> Detections:
        """The objects in a frame between the last two updates, on the straight line from one to the other."""
        if self._last is None or self._index is None:
            return Detections.empty()
        share = (frame.seconds - self._seconds_before) / max(self._seconds - self._seconds_before, 1e-9)
        shown, boxes = [], []
        for track in self._tracks.values():
            before = self._boxes_before.get(track.track_id)
            if before is not None and self._is_shown(track, frame.index):
                shown.append(track)
                boxes.append(before + (track.box - before) * np.float32(share))
        maps = self._last if self._last_before is None or share > 0.5 else self._last_before
        return self._with_carried(self._last[:0], shown, boxes, frame, maps)

    def votes(self, track_id: int) -> Votes:
        """Sum of scores that a track which is still followed has gathered for each class id; it goes on counting."""
        return next(track.votes for track in self._tracks.values() if track.track_id == track_id)

    def _hide(self, seen: list[_Track], missed: list[_Track]) -> None:
        """A missed object where another one is found is behind it, or was the same."""
        for track in seen:
            track.is_hidden = False
        if seen and missed:
            covered = iou(np.stack([t.box for t in missed]), np.stack([t.box for t in seen])).max(1) > _SAME_PLACE
            for track, gone in zip(missed, covered.tolist(), strict=True):
                track.is_hidden = gone

    def _worth_following(self, detections: Detections) -> NDArray[np.bool_]:
        """All but the weak ones that lie on a strong one: the model's second thoughts about the same object."""
        strong = detections.scores >= self.begin
        if strong.all() or not strong.any():
            return np.ones(len(detections), np.bool_)
        covered = iou(detections.boxes, detections.boxes[strong]).max(1) > _SAME_PLACE
        worth: NDArray[np.bool_] = strong | ~covered
        return worth

    def _is_shown(self, track: _Track, index: int) -> bool:
        lately = track.row >= 0 or index - track.seen_index <= self._shown_frames
        return track.track_id >= 0 and lately and not track.is_hidden

    def _match(self, detections: Detections, frame: Frame, passed: int) -> list[TrackedObject]:
        from norfair import Detection

        scale = _UNIT / min(frame.size_hw)
        given = [
            Detection((box * scale).reshape(2, 2), data=(frame.index, row, score), label=class_id)
            for row, (box, score, class_id) in enumerate(
                zip(
                    detections.boxes.astype(np.float64),
                    detections.scores.tolist(),
                    detections.class_ids.tolist(),
                    strict=True,
                )
            )
        ]
        # Norfair counts and predicts once a call: the frames that the model did not see are calls without detections.
        # What was seen at the last look is not lost before this one, however long the step.
        if passed <= self._longest_step:
            seen = {number for number, track in self._tracks.items() if track.row >= 0}
            for one in self._matcher.tracked_objects:
                if one.id in seen:
                    one.hit_counter = max(one.hit_counter, passed)
        for _ in range(min(passed, self._longest_step) - 1):
            self._matcher.update()
        self._matcher.update(given)
        return list(self._matcher.tracked_objects)

    def _note(self, detections: Detections, followed: list[TrackedObject], frame: Frame) -> None:
        """Bring the tracks up to date."""
        scale = min(frame.size_hw) / _UNIT
        tracks: dict[int, _Track] = {}
        for one in sorted(followed, key=lambda one: one.id not in self._tracks):  # new ones last
            assert one.id is not None  # there is no initialization delay
            estimate = np.asarray(one.estimate.reshape(4) * scale, np.float32)
            velocity = np.asarray(one.estimate_velocity.reshape(4) * scale, np.float32)
            track = self._tracks.get(one.id)
            seen_index, row, score = one.last_detection.data
            if seen_index == frame.index:
                one.hit_counter = self._lost_frames  # however young: as long as any other
                box, class_id = detections.boxes[row], int(detections.class_ids[row])
                if track is None:
                    if _is_double(box, class_id, tracks.values()):
                        self._matcher.tracked_objects.remove(one)
                        continue
                    track = _Track(-1, box, estimate, velocity, frame.index, score, -1, row)
                self._see(track, row, detections, score, frame.index)
            elif track is not None:
                track.box, track.row = estimate, -1
            if track is not None:
                track.velocity = velocity
                # A box that stands still trembles; the attention need not tremble with it.
                if np.abs(estimate - track.aligned).max() > _STILL * (estimate[2:] - estimate[:2]).max():
                    track.aligned = estimate
                tracks[one.id] = track
        self._tracks = tracks

    def _see(self, track: _Track, row: int, detections: Detections, score: float, index: int) -> None:
        """Note a detection of a track; after several of another class in a row it is another object."""
        class_id = int(detections.class_ids[row])
        track.votes[class_id] = track.votes.get(class_id, 0.0) + score
        if class_id == track.class_id:
            track.num_strange, track.strange = 0, {}
        else:
            track.num_strange += 1
            track.strange[class_id] = track.strange.get(class_id, 0.0) + score
            before = track.votes[track.class_id]
            if track.num_strange >= _STRANGE_LOOKS and before > 2 * sum(track.strange.values()):
                track.track_id, track.votes = -1, track.strange
                track.num_strange, track.strange = 0, {}
        track.box, track.row, track.seen_index, track.score = detections.boxes[row], row, index, score
        track.query_id = int(detections.query_ids[row])
        if track.track_id < 0 and score >= self.begin:
            self._num_begun += 1
            track.track_id = self._num_begun

    def _labelled(self, found: Detections, tracks: list[_Track]) -> Detections:
        return replace(
            found,
            class_ids=np.array([track.class_id for track in tracks], np.int64),
            track_ids=np.array([track.track_id for track in tracks], np.int64),
            carried=np.zeros(len(tracks), np.bool_),
        )

    def _with_carried(
        self,
        found: Detections,
        tracks: list[_Track],
        boxes: list[NDArray[np.float32]],
        frame: Frame,
        maps_of: Detections | None,
    ) -> Detections:
        """``found`` and behind it the ``tracks`` at ``boxes``, inside the frame, with the attention they had.

        ``maps_of``: the update that a frame the model did not look at has its maps of points and objects from.
        """
        height, width = frame.size_hw
        limits = np.array([width, height, width, height], np.float32)
        placed = np.clip(np.array(boxes, np.float32).reshape(-1, 4), 0, limits)
        kept = [row for row, sides in enumerate(placed[:, 2:] - placed[:, :2]) if sides.min() >= 1]
        # Where the attention is aligned, not cut at the frame's edge: as far from where it was as the box is.
        aligned = [tracks[row].aligned + boxes[row] - tracks[row].box for row in kept]
        tracks, placed = [tracks[row] for row in kept], placed[kept]
        if not tracks and maps_of is None:
            return found
        return Detections(
            boxes=np.concatenate([found.boxes, placed]),
            scores=np.concatenate([found.scores, np.array([track.score for track in tracks], np.float32)]),
            class_ids=np.concatenate([found.class_ids, np.array([track.class_id for track in tracks], np.int64)]),
            query_ids=np.concatenate([found.query_ids, np.array([track.query_id for track in tracks], np.int64)]),
            track_ids=np.concatenate([found.track_ids, np.array([track.track_id for track in tracks], np.int64)]),
            attention=self._attention(found, tracks, np.array(aligned, np.float32), frame.size_hw, maps_of),
            class_names=found.class_names,
            carried=np.concatenate([np.zeros(len(found), np.bool_), np.ones(len(tracks), np.bool_)]),
            is_detected=maps_of is None,
        )

    def _attention(
        self,
        found: Detections,
        tracks: list[_Track],
        aligned: NDArray[np.float32],
        size_hw: tuple[int, int],
        maps_of: Detections | None,
    ) -> AttentionMaps | None:
        maps = (found if maps_of is None else maps_of).attention
        if maps is None or found.attention is None:
            return None
        cross, full_at, objects = found.attention.cross, found.attention.full_at, maps.objects
        if cross is not None and tracks:
            moved = self._smoother.at(np.array([track.track_id for track in tracks], np.int64), aligned, size_hw)
            assert moved is not None  # every begun track was seen with its attention
            cross = np.concatenate([cross, moved[0]])
            full_at = np.concatenate([np.empty(0, np.float32) if full_at is None else full_at, moved[1]])
        if objects is not None:
            # By track, as rows move from update to update; nothing is known of objects that were missed then.
            place = {i: row for row, i in enumerate((found if maps_of is None else maps_of).track_ids.tolist())}
            ids = [*found.track_ids.tolist(), *(track.track_id for track in tracks)]
            rows = [place.get(track_id, -1) for track_id in ids]
            objects = np.ascontiguousarray(np.pad(objects, ((0, 1), (0, 1)))[np.ix_(rows, rows)])
        return replace(maps, cross=cross, full_at=full_at, objects=objects)


def _is_double(box: NDArray[np.float32], class_id: int, tracks: Iterable[_Track]) -> bool:
    """Whether a detection that no track took lies on one of its class that was just seen: the same object twice."""
    boxes = [track.box for track in tracks if track.row >= 0 and track.class_id == class_id]
    return bool(boxes) and float(iou(np.stack(boxes), box[None]).max()) > _DOUBLE


def _moved(box: NDArray[np.float32], velocity: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """``box`` after some frames: its centre goes on, its size stays, as a size's change is mostly noise."""
    drift = (velocity[:2] + velocity[2:]) / 2 * np.float32(frames)
    moved: NDArray[np.float32] = box + np.concatenate([drift, drift])
    return moved
