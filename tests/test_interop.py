"""Detections for supervision, against supervision itself."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import supervision
from numpy.testing import assert_array_equal

from stream_detr.errors import UsageError
from stream_detr.interop import to_supervision
from stream_detr.structures import Detections
from tests.found import CLASS_NAMES, found


def test_supervision_sees_the_same_objects() -> None:
    given = found(3)
    converted = to_supervision(given)
    assert isinstance(converted, supervision.Detections)
    assert converted.xyxy.dtype == np.float32
    assert_array_equal(converted.xyxy, given.boxes)
    assert_array_equal(converted.confidence, given.scores)
    assert_array_equal(converted.class_id, given.class_ids)
    assert_array_equal(converted.tracker_id, [7, -1, -1])
    assert_array_equal(converted["class_name"], [CLASS_NAMES[0], CLASS_NAMES[1], CLASS_NAMES[0]])
    assert_array_equal(converted["query_id"], given.query_ids)
    assert_array_equal(converted["carried"], [False, True, False])
    assert list(converted["zones"]) == [(), ("door", "street"), ()]


def test_supervision_can_select_among_them() -> None:
    given = found(3)
    chosen = to_supervision(given)[np.array([False, True, True])]
    assert_array_equal(chosen.xyxy, given.boxes[1:])
    assert_array_equal(chosen["query_id"], given.query_ids[1:])
    assert list(chosen["zones"]) == [("door", "street"), ()]


def test_without_tracks_there_are_no_tracker_ids() -> None:
    given = found(2)
    plain = replace(given, track_ids=np.full(2, -1), carried=None, zones=None)
    converted = to_supervision(plain)
    assert converted.tracker_id is None
    assert set(converted.data) == {"class_name", "query_id"}


@pytest.mark.parametrize("none", [Detections.empty(), found(0)], ids=["empty", "nothing found"])
def test_no_objects_are_no_objects(none: Detections) -> None:
    converted = to_supervision(none)
    assert len(converted) == 0
    assert converted.xyxy.shape == (0, 4)


def test_changing_the_copy_leaves_the_original() -> None:
    given = found(1)
    before = given.boxes.copy()
    to_supervision(given).xyxy[:] = 0
    assert_array_equal(given.boxes, before)


def test_without_supervision_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UsageError, match="needs supervision; pip install supervision"):
        to_supervision(found(1))
