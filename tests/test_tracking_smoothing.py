"""Attention smoothed along tracks: steady where nothing moves, no ghost where something does."""

from __future__ import annotations

import numpy as np
import pytest

from stream_detr.errors import CaptureError, UsageError
from stream_detr.structures import AttentionMaps, Detections
from stream_detr.tracking.smoothing import Smoother

STRIDE = 32
GRID = (25, 34)
MODEL_HW = (800, 1066)  # the last column overhangs
SIZE_HW = (400, 533)  # half a frame pixel per model pixel
CELL = 16.0  # frame pixels


def blob(x, y, sigma, grid=GRID):
    """Attention (h, w) around a place given in cells; a cell has what falls on it."""
    fine = 8
    ys, xs = ((np.arange(n * fine) + 0.5) / fine for n in grid)
    row, column = np.exp(-((ys - y) ** 2) / (2 * sigma**2)), np.exp(-((xs - x) ** 2) / (2 * sigma**2))
    cells = np.outer(row.reshape(-1, fine).sum(1), column.reshape(-1, fine).sum(1))
    return cells / cells.sum()


def one_cell(row, column, grid=GRID):
    cells = np.zeros(grid)
    cells[row, column] = 1
    return cells


def found(maps, boxes_in_cells, ids=None, *, stride=STRIDE, model_hw=MODEL_HW, cell=CELL):
    """Detections with these maps (N, h, w) and boxes given in cells."""
    boxes = np.asarray(boxes_in_cells, np.float32).reshape(-1, 4) * np.float32(cell)
    num = len(boxes)
    track_ids = np.arange(num) if ids is None else np.asarray(ids, np.int64)
    cross = np.asarray(maps, np.float32).reshape(num, *np.shape(maps)[-2:])
    attention = AttentionMaps(stride, model_hw, cross=cross)
    return Detections(boxes, np.ones(num, np.float32), np.zeros(num, np.int64), track_ids, track_ids, attention)


def smoothed(smoother, maps, boxes, ids=None):
    return smoother.update(found(maps, boxes, ids), SIZE_HW).attention.cross


def centre_of(cells):
    return np.array([cells.sum(0) @ np.arange(cells.shape[1]), cells.sum(1) @ np.arange(cells.shape[0])]) / cells.sum()


def around(x, y, side):
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


@pytest.mark.parametrize("side", [0.5, 1, 2, 5, 12, 22])
def test_a_still_box_keeps_a_peak_on_its_cell(side):
    smoother, raw = Smoother(0.8), one_cell(13, 16)
    for _ in range(12):
        [drawn] = smoothed(smoother, raw, around(16.7, 13.4, side))
    assert drawn.argmax() == raw.argmax()
    assert np.corrcoef(drawn.ravel(), raw.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("side", [1, 2, 8])
def test_two_interpolations_keep_a_small_blob_of_a_moving_box(side):
    """The box comes to rest a fraction of a cell beside where its canvas was laid."""
    smoother = Smoother(0.8)
    smoothed(smoother, blob(10.5, 10.5, 0.7), around(10.5, 10.5, side))
    raw = blob(10.9, 10.9, 0.7)
    for _ in range(30):
        [drawn] = smoothed(smoother, raw, around(10.9, 10.9, side))
    assert drawn.argmax() == raw.argmax()
    assert np.corrcoef(drawn.ravel(), raw.ravel())[0, 1] > 0.97


@pytest.mark.parametrize("box", [around(14, 11, 10), around(20.3, 8.6, 1.5)])
def test_flicker_falls_to_a_fifth(box):
    rng = np.random.default_rng(3)
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    side = box[2] - box[0]
    steady = blob(x - side / 3, y, 1.0) + blob(x + side / 3, y + side / 3, 1.4) + 2e-4

    def change(smooth):
        """Mean absolute change of raw and of smoothed maps from frame to frame."""
        smoother, raw, drawn = Smoother(smooth), [], []
        for _ in range(80):
            noisy = steady * rng.lognormal(0, 0.4, GRID)
            jitter = rng.uniform(-1.5, 1.5, 4) / CELL
            raw.append(noisy / noisy.sum())
            drawn.append(smoothed(smoother, noisy, np.asarray(box) + jitter)[0])
        return [np.abs(np.diff(maps[20:], axis=0)).mean() for maps in (raw, drawn)]

    raw_change, change_at_default = change(0.8)
    assert change_at_default <= raw_change / 5
    raw_change, change_at_half = change(0.5)
    assert change_at_half > raw_change / 5  # so the figure is the smoothing's doing


def test_a_moving_object_keeps_its_attention_and_leaves_no_ghost():
    smooth, step, side, sigma = 0.8, 0.3, 4.0, 0.8
    smoother, on_grid = Smoother(smooth), None
    for number in range(60):
        x = 5 + step * number
        raw = blob(x, 12, sigma)
        on_grid = raw if on_grid is None else smooth * on_grid + (1 - smooth) * raw
        [drawn] = smoothed(smoother, raw, around(x, 12, side))
        assert np.abs(centre_of(drawn) - centre_of(raw)).max() < 0.2
    left = slice(0, int(x - side / 2))  # columns that the box is no longer in
    assert raw[:, left].sum() < 0.01
    assert drawn[:, left].sum() < 0.02
    assert on_grid[:, left].sum() > 0.1
    assert centre_of(raw)[0] - centre_of(on_grid)[0] > 0.8


def test_attention_moves_and_scales_with_its_box():
    """An object comes nearer, to four times its size, with attention on its right edge only."""
    smoother = Smoother(0.8)
    for side in np.geomspace(4, 16, 40):
        x, y = 17 + side / 40, 12.5
        raw = blob(x + side / 2, y, 0.8)
        [drawn] = smoothed(smoother, raw, around(x, y, side))
        assert np.abs(centre_of(drawn) - centre_of(raw)).max() < 0.5
    assert np.corrcoef(drawn.ravel(), raw.ravel())[0, 1] > 0.9


def test_a_peak_is_sharp_on_a_box_that_has_grown():
    smoother = Smoother(0.8)
    for side in np.geomspace(3, 24, 40):
        smoothed(smoother, blob(17, 12, side / 8), around(17.3, 12.6, side))
    raw = one_cell(12, 17)
    for _ in range(30):
        [drawn] = smoothed(smoother, raw, around(17.3, 12.6, 24))
    assert drawn.argmax() == raw.argmax()
    assert np.corrcoef(drawn.ravel(), raw.ravel())[0, 1] > 0.95


def test_both_ends_of_an_object_as_wide_as_a_fine_grid_move_with_it():
    smoother, grid = Smoother(0.8), (50, 67)
    for number in range(30):
        x = 4 + 0.5 * number
        raw = blob(x, 25, 0.8, grid) + blob(x + 40, 25, 0.8, grid)
        [drawn] = smoother.update(
            found(raw, [x, 20, x + 40, 30], stride=STRIDE // 2, cell=CELL / 2), SIZE_HW
        ).attention.cross
    assert drawn[:, : int(x) - 3].sum() < 0.01
    assert drawn[:, int(x) + 5 : int(x) + 37].sum() < 0.01


def test_far_attention_stays_where_it_is_while_the_object_moves():
    smoother = Smoother(0.8)
    for number in range(40):
        x = 5 + 0.3 * number
        raw = 0.8 * blob(x, 5, 0.8) + 0.2 * one_cell(22, 30)
        [drawn] = smoothed(smoother, raw, around(x, 5, 3))
    assert drawn[22, 30] == pytest.approx(0.2, abs=0.01)
    assert drawn[15:].sum() == pytest.approx(0.2, abs=0.01)


def test_the_first_frame_of_a_track_gives_its_raw_map_and_the_past_weighs_what_it_should():
    smoother, box = Smoother(0.75), around(16, 12, 3)
    [first] = smoothed(smoother, one_cell(12, 16), box)
    np.testing.assert_allclose(first, one_cell(12, 16), atol=1e-6)
    maps = smoothed(smoother, [one_cell(11, 15), one_cell(3, 3)], [box, around(3, 3, 2)])
    np.testing.assert_allclose(maps[0], 0.75 * one_cell(12, 16) + 0.25 * one_cell(11, 15), atol=1e-6)
    np.testing.assert_allclose(maps[1], one_cell(3, 3), atol=1e-6)


def test_without_a_weight_for_the_past_every_map_is_raw():
    rng, smoother = np.random.default_rng(0), Smoother(0)
    for number in range(5):
        raw = rng.random(GRID)
        [drawn] = smoothed(smoother, raw, around(10 + 0.37 * number, 10, 3 + 0.2 * number))
        np.testing.assert_allclose(drawn, raw / raw.sum(), atol=1e-6)


def test_maps_are_distributions_even_at_and_beyond_the_frame():
    rng, smoother = np.random.default_rng(1), Smoother(0.8)
    centres, sides = rng.uniform(0, 33, (20, 2)), rng.uniform(0.1, 30, 20)
    for _ in range(10):
        boxes = [around(*centre, side) for centre, side in zip(centres, sides, strict=True)]
        maps = smoothed(smoother, rng.random((20, *GRID)) ** 8, boxes)
        assert maps.dtype == np.float32
        assert maps.min() >= 0
        np.testing.assert_allclose(maps.sum((1, 2)), 1, atol=1e-5)
        centres += rng.normal(0, 0.5, centres.shape)
        sides *= rng.uniform(0.8, 1.25, 20)
    far = np.tile(np.float32([5000, 5000, 5050, 5050]), (20, 1))
    maps, full_at = smoother.at(np.arange(20), far, SIZE_HW)
    np.testing.assert_allclose(maps.sum((1, 2)), 1, atol=1e-5)
    assert (full_at > 0).all()


def test_an_object_that_leaves_the_frame_does_not_make_much_of_what_little_it_saw_elsewhere():
    smoother, box = Smoother(0.8), around(16, 12, 3)
    smoothed(smoother, 0.98 * blob(16, 12, 0.8) + 0.02 * one_cell(2, 2), box)
    gone = np.float32([around(-60, 12, 3)]) * np.float32(CELL)
    [drawn], _ = smoother.at(np.array([0]), gone, SIZE_HW)
    assert drawn[2, 2] < 0.05


def test_boxes_to_align_by_replace_those_of_the_detections():
    smoother, raw = Smoother(0.8), blob(16, 12, 0.8)
    steady = np.float32([around(16, 12, 4)]) * np.float32(CELL)
    for shift in (0, 2, -1, 3):
        update = smoother.update(found(raw, around(16 + shift, 12, 4)), SIZE_HW, steady)
    np.testing.assert_allclose(update.attention.cross[0], raw, atol=1e-6)
    assert update.boxes[0, 0] == (16 + 3 - 2) * CELL


def test_at_moves_what_was_remembered_and_changes_nothing():
    smoother, twin = Smoother(0.8), Smoother(0.8)
    rng = np.random.default_rng(2)
    for number in range(6):
        raw = blob(10 + number * 0.4, 12, 0.8) * rng.lognormal(0, 0.3, GRID)
        both = [one.update(found(raw, around(10 + number * 0.4, 12, 3)), SIZE_HW) for one in (smoother, twin)]
        np.testing.assert_array_equal(both[0].attention.cross, both[1].attention.cross)
        np.testing.assert_array_equal(both[0].attention.full_at, both[1].attention.full_at)
        here, full_at = smoother.at(np.array([0]), both[0].boxes, SIZE_HW)
        np.testing.assert_allclose(here, both[0].attention.cross, atol=1e-6)
        np.testing.assert_array_equal(full_at, both[0].attention.full_at)
        there, _ = smoother.at(np.array([0]), both[0].boxes + np.float32([2 * CELL, 0] * 2), SIZE_HW)
        np.testing.assert_allclose(centre_of(there[0]) - centre_of(here[0]), [2, 0], atol=0.05)


def test_a_forgotten_track_starts_with_its_raw_map():
    smoother, boxes = Smoother(0.8), [around(16, 12, 3), around(5, 5, 3)]
    smoothed(smoother, [one_cell(12, 16), one_cell(5, 5)], boxes)
    smoother.keep([1])
    maps, _ = smoother.at(np.array([0, 1]), np.float32(boxes) * np.float32(CELL), SIZE_HW)
    assert np.ptp(maps[0]) == 0  # nothing known: uniform
    assert maps[1, 5, 5] == pytest.approx(1, abs=1e-5)
    maps = smoothed(smoother, [one_cell(11, 15), one_cell(4, 4)], boxes)
    assert maps[0, 11, 15] == pytest.approx(1, abs=1e-5)
    assert maps[1, 4, 4] == pytest.approx(0.2, abs=1e-5)


def test_a_track_that_one_update_lacks_is_remembered():
    smoother, box = Smoother(0.8), around(16, 12, 3)
    smoothed(smoother, one_cell(12, 16), box, [7])
    smoothed(smoother, one_cell(3, 3), around(3, 3, 2), [8])
    [drawn] = smoothed(smoother, one_cell(11, 15), box, [7])
    assert drawn[12, 16] == pytest.approx(0.8, abs=1e-5)


def test_the_scale_is_that_of_the_object_and_steadier_than_its_peak():
    rng, smoother = np.random.default_rng(5), Smoother(0.8)
    peaks, scales = [], []
    for _ in range(60):
        sharp, flat = blob(8, 8, 0.6) * rng.lognormal(0, 0.4, GRID), blob(22, 12, 3.0) * rng.lognormal(0, 0.4, GRID)
        update = smoother.update(found([sharp, flat], [around(8, 8, 2), around(22, 12, 10)]), SIZE_HW)
        full_at = update.attention.full_at
        assert full_at.dtype == np.float32
        peaks.append([(part / part.sum()).max() for part in (sharp, flat)])
        scales.append(full_at)
        # The strongest place is drawn full or nearly so, and no more than that is.
        for cells, full in zip(update.attention.cross, full_at, strict=True):
            assert cells.max() > 0.75 * full
            assert cells[cells > full].sum() < 0.7
    assert scales[-1][0] > 4 * scales[-1][1]
    assert (np.std(scales[20:], axis=0) < np.std(peaks[20:], axis=0) / 2).all()


def test_the_past_weighs_the_same_in_the_scale():
    smoother, box = Smoother(0.8), around(16, 12, 3)
    smoothed(smoother, one_cell(12, 16), box)
    update = smoother.update(found(one_cell(11, 15), box), SIZE_HW)
    assert update.attention.full_at == pytest.approx(0.8 * 1 + 0.2 * 0.8, abs=1e-5)


def test_the_scale_goes_on_when_the_box_changes_its_size_at_once():
    smoother = Smoother(0.8)
    smoothed(smoother, one_cell(12, 16), around(16, 12, 3))
    update = smoother.update(found(np.ones(GRID), around(16, 12, 5)), SIZE_HW)
    assert update.attention.full_at > 0.8


def test_a_scale_is_never_zero():
    flat = Smoother(0.8).update(found(np.ones(GRID), around(5, 5, 2)), SIZE_HW)
    assert flat.attention.full_at == pytest.approx(1 / (GRID[0] * GRID[1]))


def test_another_grid_starts_anew():
    smoother, box = Smoother(0.8), around(5, 5, 3)
    smoothed(smoother, one_cell(5, 5), box)
    other = found(one_cell(4, 4, (12, 16)), box, model_hw=(384, 512))
    update = smoother.update(other, (192, 256))
    assert update.attention.cross.shape == (1, 12, 16)
    assert update.attention.cross[0, 4, 4] == pytest.approx(1, abs=1e-5)
    [again] = smoothed(smoother, one_cell(4, 4), box)
    assert again[4, 4] == pytest.approx(1, abs=1e-5)


def test_another_frame_size_with_the_same_grid_goes_on():
    smoother = Smoother(0.8)
    smoothed(smoother, one_cell(5, 5), around(5, 5, 3))
    twice = found(one_cell(4, 4), around(5, 5, 3), cell=2 * CELL)
    update = smoother.update(twice, (800, 1066))
    assert update.attention.cross[0, 5, 5] == pytest.approx(0.8, abs=1e-5)


def test_a_grid_finer_and_larger_than_the_smallest_canvas_keeps_its_cells():
    smoother, raw = Smoother(0.8), one_cell(30, 50, (50, 67))
    for _ in range(5):
        update = smoother.update(found(raw, [2, 1, 66, 49], stride=16, cell=CELL / 2), SIZE_HW)
    assert update.attention.cross[0, 30, 50] == pytest.approx(1, abs=1e-4)


def test_no_detections_and_no_attention_are_left_as_they_are():
    smoother = Smoother(0.8)
    assert smoother.at(np.array([0]), np.zeros((1, 4), np.float32), SIZE_HW) is None
    nothing = smoother.update(found(np.empty((0, *GRID)), []), SIZE_HW)
    assert nothing.attention.cross.shape == (0, *GRID)
    assert nothing.attention.full_at.shape == (0,)
    maps, full_at = smoother.at(np.empty(0, np.int64), np.empty((0, 4), np.float32), SIZE_HW)
    assert maps.shape == (0, *GRID)
    assert full_at.shape == (0,)


def test_what_was_before_attention_was_turned_off_is_forgotten():
    smoother, boxes = Smoother(0.8), np.float32([[80, 80, 120, 120]])
    smoothed(smoother, one_cell(5, 5), around(5, 5, 3))
    off = Detections(boxes, np.ones(1, np.float32), *(np.zeros(1, np.int64) for _ in range(3)))
    assert smoother.update(off, SIZE_HW) is off
    assert smoother.at(np.array([0]), boxes, SIZE_HW) is None
    [drawn] = smoothed(smoother, one_cell(4, 4), around(5, 5, 3))
    assert drawn[4, 4] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_map_that_is_no_distribution_is_refused_and_changes_nothing(value):
    smoother, box = Smoother(0.8), around(5, 5, 3)
    smoothed(smoother, one_cell(5, 5), box)
    with pytest.raises(CaptureError, match="cross-attention"):
        smoothed(smoother, np.full(GRID, value), box)
    [drawn] = smoothed(smoother, one_cell(5, 5), box)
    assert drawn[5, 5] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("smooth", [-0.1, 1.0, float("nan")])
def test_a_weight_that_is_none_is_refused(smooth):
    with pytest.raises(UsageError, match="smooth: expected a number from 0 to below 1"):
        Smoother(smooth)
