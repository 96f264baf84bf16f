"""Figures of an object's attention, against answers worked out by hand."""

import numpy as np
import pytest

from stream_detr.errors import CaptureError
from stream_detr.measures import attention_stats
from stream_detr.structures import AttentionMaps, Detections


def detections_with(cross, boxes, *, stride=32, model_hw=(64, 96)):
    num = len(boxes)
    ids = np.zeros(num, np.int64)
    attention = AttentionMaps(stride, model_hw, cross=np.asarray(cross, np.float32))
    return Detections(
        np.asarray(boxes, np.float32).reshape(num, 4), np.ones(num, np.float32), ids, ids, ids - 1, attention
    )


def one_hot(h, w, r, c):
    grid = np.zeros((1, h, w), np.float32)
    grid[0, r, c] = 1
    return grid


def test_one_cell_has_its_centre_and_no_entropy():
    [stats] = attention_stats(detections_with(one_hot(2, 3, 1, 2), [[0, 0, 10, 10]]), (128, 192))
    assert stats.center == (160.0, 96.0)
    assert stats.inside_box == 0
    assert stats.entropy == 0


def test_a_cut_cell_counts_by_the_share_of_its_area_inside_the_box():
    [stats] = attention_stats(detections_with(one_hot(2, 3, 0, 0), [[32, 48, 192, 128]]), (128, 192))
    assert stats.inside_box == pytest.approx(0.5 * 0.25)


def test_uniform_attention_has_entropy_one_and_the_share_of_the_area():
    cross = np.full((1, 2, 3), 1 / 6, np.float32)
    [stats] = attention_stats(detections_with(cross, [[0, 0, 96, 64]]), (128, 192))
    assert stats.entropy == pytest.approx(1)
    assert stats.inside_box == pytest.approx(0.25)
    assert stats.center == pytest.approx((96, 64))


def test_an_overhanging_cell_is_cut_at_the_frame():
    maps = detections_with(one_hot(2, 3, 1, 2), [[0, 0, 160, 100]], model_hw=(50, 80))
    [stats] = attention_stats(maps, (100, 160))
    assert stats.center == pytest.approx((144, 82))
    assert stats.inside_box == pytest.approx(1)


def test_no_cross_attention_or_no_detections_give_an_empty_list():
    assert attention_stats(Detections.empty(), (10, 10)) == []
    assert attention_stats(detections_with(np.zeros((0, 2, 3)), []), (10, 10)) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_map_that_is_no_distribution_is_refused(value):
    with pytest.raises(CaptureError, match="cross-attention"):
        attention_stats(detections_with(np.full((1, 2, 3), value), [[0, 0, 5, 5]]), (64, 96))
