"""One object keeps one id across misses, strides and crossings; weak detections only go on with a track."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from scoring import identity_f1

from stream_detr.structures import AttentionMaps, Detections, Frame, StreamInfo
from stream_detr.tracking import KEPT_SHARE, Tracker, TrackSummaries
from stream_detr.tracking.matching import Motion, box_distance

INFO = StreamInfo("made", 320, 180, Fraction(25))
IMAGE = np.zeros((180, 320, 3), np.uint8)
BEGIN = 0.7


def frame_at(index: int) -> Frame:
    return Frame(IMAGE, index, index, Fraction(1, 25), 0.0, INFO)


def found(*objects: tuple[float, float, float], class_ids: list[int] | None = None, side: float = 40.0) -> Detections:
    """Square boxes from (centre x, centre y, score), each with its attention in its own cell."""
    num = len(objects)
    centres = np.array([one[:2] for one in objects], np.float32).reshape(-1, 2)
    cross = np.full((num, 9, 16), 1e-4, np.float32)
    for row, (x, y) in enumerate(centres.tolist()):
        cross[row, min(max(int(y // 20), 0), 8), min(max(int(x // 20), 0), 15)] = 1.0
    cross /= cross.sum((1, 2), keepdims=True)
    return Detections(
        np.concatenate([centres - side / 2, centres + side / 2], 1),
        np.array([one[2] for one in objects], np.float32),
        np.array(class_ids if class_ids is not None else [0] * num, np.int64),
        np.arange(num) + 3,
        np.full(num, -1),
        AttentionMaps(16, (144, 256), cross=cross, objects=np.eye(num, dtype=np.float32) * 0.5),
        ("dog", "cat"),
    )


def made() -> Tracker:
    return Tracker(BEGIN, 0.8, 25.0)


def test_an_object_keeps_its_id_and_another_gets_its_own() -> None:
    tracker = made()
    for index in range(10):
        result = tracker.update(found((50 + 4 * index, 60, 0.9), (250 - 4 * index, 120, 0.9)), frame_at(index))
        order = np.argsort(result.boxes[:, 1])
        assert result.track_ids[order].tolist() == [1, 2]
        assert result.carried is not None
        assert not result.carried.any()


def test_a_weak_detection_begins_nothing_but_goes_on_with_a_track() -> None:
    tracker = made()
    weak = BEGIN * KEPT_SHARE + 0.05
    assert len(tracker.update(found((50, 60, weak)), frame_at(0))) == 0
    assert len(tracker.update(found((50, 60, 0.9)), frame_at(1))) == 1
    result = tracker.update(found((52, 60, weak), (200, 60, weak)), frame_at(2))
    assert result.track_ids.tolist() == [1]
    assert result.scores.tolist() == pytest.approx([weak])


def test_a_missed_object_is_carried_on_along_its_way_then_hidden_and_is_itself_when_it_is_back() -> None:
    tracker = made()
    for index in range(12):
        tracker.update(found((40 + 5 * index, 60, 0.9)), frame_at(index))
    missed = tracker.update(found(), frame_at(13))
    assert missed.carried is not None
    assert missed.carried.tolist() == [True]
    centre = (missed.boxes[0, 0] + missed.boxes[0, 2]) / 2
    assert centre == pytest.approx(40 + 5 * 13, abs=4)
    assert missed.attention is not None
    assert missed.attention.cross is not None
    assert missed.attention.cross.sum() == pytest.approx(1, abs=1e-3)
    for index in range(14, 28):
        hidden = tracker.update(found(), frame_at(index))
    assert len(hidden) == 0
    assert tracker.update(found((40 + 5 * 28, 60, 0.9)), frame_at(28)).track_ids.tolist() == [1]


def test_an_object_that_stays_away_is_forgotten() -> None:
    tracker = made()
    tracker.update(found((40, 60, 0.9)), frame_at(0))
    assert len(tracker.update(found(), frame_at(1000))) == 0
    assert tracker.update(found((40, 60, 0.9)), frame_at(1001)).track_ids.tolist() == [2]
    assert len(tracker._tracks) == 1


def test_objects_that_cross_keep_their_ids() -> None:
    tracker = made()
    for index in range(30):
        a, b = (40 + 8 * index, 80, 0.95), (280 - 8 * index, 92, 0.95)
        result = tracker.update(found(a, b), frame_at(index))
        by_height = result.track_ids[np.argsort(result.boxes[:, 1])].tolist()
        assert by_height == [1, 2], index


def test_the_class_is_what_most_of_the_scores_say_and_the_votes_are_known() -> None:
    tracker = made()
    tracker.update(found((60, 60, 0.9), class_ids=[1]), frame_at(0))
    tracker.update(found((60, 60, 0.9), class_ids=[1]), frame_at(1))
    result = tracker.update(found((60, 60, 0.8), class_ids=[0]), frame_at(2))
    assert result.names == ["cat"]
    assert dict(tracker.votes(1)) == pytest.approx({1: 1.8, 0: 0.8})


def test_between_two_seen_frames_boxes_lie_on_the_line_and_are_carried() -> None:
    tracker = made()
    tracker.update(found((50, 60, 0.9)), frame_at(0))
    tracker.update(found((62, 66, 0.9)), frame_at(3))
    between = tracker.between(frame_at(1))
    assert between.boxes[0].tolist() == pytest.approx([34, 42, 74, 82], abs=1e-3)
    assert between.track_ids.tolist() == [1]
    assert between.carried is not None
    assert between.carried.all()


def test_between_a_miss_and_the_next_sight_boxes_stay_on_the_way() -> None:
    tracker = made()
    for index in range(0, 13, 3):
        tracker.update(found((100 + 5 * index, 60, 0.9)), frame_at(index))
    tracker.update(found(), frame_at(15))
    tracker.update(found((100 + 5 * 18, 60, 0.9)), frame_at(18))
    for index in (16, 17):
        [box] = tracker.between(frame_at(index)).boxes
        assert (box[0] + box[2]) / 2 == pytest.approx(100 + 5 * index, abs=3)


def test_frames_between_are_placed_by_their_time_not_their_number() -> None:
    tracker = made()
    tracker.update(found((50, 60, 0.9)), frame_at(0))
    later = [Frame(IMAGE, index, pts, Fraction(1, 25), 0.0, INFO) for index, pts in ((1, 9), (2, 10))]
    tracker.update(found((60, 60, 0.9)), later[1])
    assert tracker.between(later[0]).boxes[0].tolist() == pytest.approx([39, 40, 79, 80], abs=1e-3)


def test_a_step_longer_than_the_memory_loses_nobody() -> None:
    tracker = made()
    for index in (0, 50, 100):
        result = tracker.update(found((100 + index / 10, 60, 0.9)), frame_at(index))
        assert result.track_ids.tolist() == [1]
    assert tracker.between(frame_at(75)).track_ids.tolist() == [1]


def test_a_missed_object_where_another_is_found_stays_hidden_between_looks() -> None:
    tracker = made()
    for index in range(0, 9, 3):
        tracker.update(found((100, 60, 0.9), (112, 60, 0.9)), frame_at(index))
    seen = tracker.update(found((100, 60, 0.9)), frame_at(9))
    assert len(seen) == 1
    assert tracker.between(frame_at(8)).track_ids.tolist() == seen.track_ids.tolist()
    assert tracker.at(frame_at(10)).track_ids.tolist() == seen.track_ids.tolist()


def test_only_frames_that_the_model_saw_say_so() -> None:
    tracker = made()
    assert tracker.update(found((50, 60, 0.9)), frame_at(0)).is_detected
    assert tracker.update(found(), frame_at(3)).is_detected
    assert not tracker.between(frame_at(2)).is_detected
    assert not tracker.at(frame_at(4)).is_detected


def test_moving_on_changes_nothing_inside() -> None:
    tracker = made()
    for index in range(8):
        tracker.update(found((50 + 6 * index, 60, 0.9)), frame_at(index))
    first = tracker.at(frame_at(10))
    tracker.at(frame_at(12))
    again = tracker.at(frame_at(10))
    assert np.array_equal(first.boxes, again.boxes)
    centre = (first.boxes[0, 0] + first.boxes[0, 2]) / 2
    assert centre == pytest.approx(50 + 60, abs=4)
    assert first.attention is not None
    assert first.attention.cross is not None
    peak = np.unravel_index(int(first.attention.cross[0].argmax()), (9, 16))
    assert abs(peak[1] - 110 // 20) <= 1  # it went along


def test_a_new_picture_size_begins_anew_with_new_ids() -> None:
    tracker = made()
    tracker.update(found((50, 60, 0.9)), frame_at(0))
    other = replace(INFO, width=640, height=360)
    frame = Frame(np.zeros((360, 640, 3), np.uint8), 1, 1, Fraction(1, 25), 0.0, other)
    assert tracker.update(found((50, 60, 0.9)), frame).track_ids.tolist() == [2]


def test_links_between_objects_come_along_and_are_nothing_for_missed_ones() -> None:
    tracker = made()
    tracker.update(found((50, 60, 0.9), (250, 60, 0.9)), frame_at(0))
    result = tracker.update(found((250, 60, 0.9)), frame_at(1))
    assert result.attention is not None
    assert result.attention.objects is not None
    assert result.attention.objects.tolist() == [[0.5, 0.0], [0.0, 0.0]]
    moved = tracker.at(frame_at(2))
    assert moved.attention is not None
    assert moved.attention.objects is not None
    assert moved.attention.objects.shape == (2, 2)


def test_no_attention_stays_none() -> None:
    tracker = made()
    bare = replace(found((50, 60, 0.9)), attention=None)
    assert tracker.update(bare, frame_at(0)).attention is None
    assert tracker.at(frame_at(1)).attention is None


def test_before_anything_was_seen_there_is_nothing() -> None:
    assert len(made().at(frame_at(0))) == 0
    assert len(made().between(frame_at(0))) == 0


def test_identities_hold_with_noise_misses_and_a_stride() -> None:
    dice = np.random.default_rng(0)
    for stride in (1, 3):
        tracker, truth, tracked = made(), [], []
        waiting: list[Frame] = []
        for index in range(90):
            places = [(20 + 3 * index, 50.0), (300 - 3 * index, 70.0), (160.0, 20 + 1.5 * index)]
            truth.append([(k, found((x, y, 1.0)).boxes[0]) for k, (x, y) in enumerate(places)])
            if index % stride:
                waiting.append(frame_at(index))
                continue
            seen = [(x + dice.normal(0, 1.5), y + dice.normal(0, 1.5), 0.9) for x, y in places if dice.random() > 0.1]
            now = tracker.update(found(*seen), frame_at(index))
            tracked += [tracker.between(each) for each in waiting] + [now]
            waiting = []
        tracked += [tracker.at(each) for each in waiting]
        score = identity_f1(truth, [list(zip(d.track_ids.tolist(), d.boxes, strict=True)) for d in tracked])
        assert score >= 0.95, stride


def test_distance_of_boxes_is_of_place_and_size() -> None:
    near, far = np.array([[0, 0, 10, 10.0]]), np.array([[4, 0, 14, 10.0], [100, 0, 110, 10]])
    distance = box_distance(near, far)[0]
    assert 0 < distance[0] < 0.6
    assert distance[1] == 1


def test_a_tracks_summary_has_its_time_its_votes_and_its_evidence() -> None:
    tracker, summaries = made(), TrackSummaries()
    for index in range(6):
        given = found((50, 60, 0.9), class_ids=[index == 0]) if index != 3 else found()
        frame = frame_at(index)
        summaries.add(frame, tracker.update(given, frame), tracker)
    (one,) = summaries.as_list()
    assert (one["track_id"], one["class"], one["frames_seen"], one["frames_carried"]) == (1, "dog", 5, 1)
    assert one["votes"] == {"dog": 3.6, "cat": 0.9}
    assert (one["first_seconds"], one["last_seconds"]) == (0.0, 0.2)
    assert 0.5 < one["inside_box_lowest"] <= one["inside_box_mean"] <= 1


def test_the_motion_filter_learns_a_constant_velocity_and_smooths_noise() -> None:
    dice = np.random.default_rng(0)
    way = np.array([[100.0, 100, 200, 200]]) + np.arange(60)[:, None] * np.array([[6.0, -2, 6, -2]])
    seen = way + dice.normal(0, 4, way.shape)
    motion, errors = Motion(seen[0].reshape(2, 2)), []
    for box, true in zip(seen[1:], way[1:], strict=True):
        motion.predict()
        motion.update(box.reshape(4, 1))
        errors.append(np.abs(motion.x[:4, 0] - true).mean())
    assert motion.x[4:, 0].tolist() == pytest.approx([6, -2, 6, -2], abs=1.5)
    assert np.mean(errors[20:]) < 0.8 * np.abs(seen - way)[20:].mean()
