"""Where attention lands in the picture, and how strong it is there."""

import numpy as np
import pytest

from stream_detr.overlay.heat import CLEAR_AT, FULL_AT, OWN_RANGE, Tint, blend, glow, lay_over, strength_of

RED, BLUE = (255, 0, 0), (0, 0, 255)


def bilinear(cells, size_hw, stride, model_hw):
    """The grid (h, w, k) sampled at every frame pixel's centre, in float64, straight from the geometry's definition."""
    weights = []
    for axis in (0, 1):
        pixels = (np.arange(size_hw[axis]) + 0.5) * model_hw[axis] / size_hw[axis]
        place = np.clip(pixels / stride - 0.5, 0, cells.shape[axis] - 1)
        weights.append(np.clip(1 - np.abs(place[:, None] - np.arange(cells.shape[axis])), 0, None))
    return np.einsum("yr,rck,xc->yxk", weights[0], cells.astype(float), weights[1], optimize=True)


@pytest.mark.parametrize(
    ("size_hw", "model_hw"),
    [((1080, 1920), (750, 1333)), ((540, 960), (750, 1333)), ((241, 427), (752, 1333)), ((640, 480), (1066, 800))],
)
def test_the_tint_is_where_bilinear_sampling_of_the_grid_puts_it(size_hw, model_hw):
    rng = np.random.default_rng(3)
    h, w = -(-model_hw[0] // 32), -(-model_hw[1] // 32)
    strength = (rng.random((1, h, w)) * (rng.random((1, h, w)) > 0.8)).astype(np.float32)
    tint = blend(strength, [(255, 90, 20)], 0.5)
    image = rng.integers(0, 256, (*size_hw, 3), np.uint8)
    picture = lay_over(image, tint, stride=32, model_hw=model_hw)
    clear = bilinear(tint.clear[..., None], size_hw, 32, model_hw)
    wanted = image * clear / 255 + bilinear(tint.color, size_hw, 32, model_hw)
    # Rows share their tint in small groups, which is where the difference comes from.
    assert np.abs(picture - wanted).max() <= 5
    assert np.abs(picture - wanted).mean() < 0.5


@pytest.mark.parametrize("cell", [(0, 0), (5, 17), (12, 40), (23, 41)])
def test_one_cell_lights_up_around_its_own_centre(cell):
    # 1333 / 32 = 41.66: the last column overhangs, and stretching the grid to the frame would be 15 pixels off.
    size_hw, model_hw, stride = (1080, 1920), (750, 1333), 32
    strength = np.zeros((1, 24, 42), np.float32)
    strength[0][cell] = 1
    black = np.zeros((*size_hw, 3), np.uint8)
    glowing = lay_over(black, blend(strength, [(255, 255, 255)], 1.0), stride=stride, model_hw=model_hw)[..., 0]
    rows, columns = np.nonzero(glowing > 200)
    for axis, found in ((0, rows), (1, columns)):
        center = (cell[axis] + 0.5) * stride * size_hw[axis] / model_hw[axis] - 0.5
        if found.min() > 0 and found.max() < size_hw[axis] - 1:
            assert abs((found.min() + found.max()) / 2 - center) <= 1
        else:  # cut by the frame's edge: the centre is still in the bright part, or outside the frame
            assert found.min() <= np.clip(center, 0, size_hw[axis] - 1) <= found.max()


def test_what_no_object_looks_at_stays_as_it_was():
    image = np.random.default_rng(0).integers(0, 256, (270, 480, 3), np.uint8)
    strength = np.zeros((1, 9, 15), np.float32)
    strength[0, 4, 7] = 1
    picture = lay_over(image, blend(strength, [RED], 0.5), stride=32, model_hw=(270, 480))
    changed = (picture != image).any(2)
    assert changed[144, 240]
    changed[4 * 32 - 16 : 5 * 32 + 16, 7 * 32 - 16 : 8 * 32 + 16] = False
    assert not changed.any()


def test_a_grid_that_does_not_cover_the_picture_is_refused():
    tint = Tint(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match="cover"):
        lay_over(np.zeros((90, 90, 3), np.uint8), tint, stride=32, model_hw=(90, 90))


def test_the_scale_is_a_fixed_multiple_of_uniform_attention():
    uniform = 1 / 100
    maps = np.full((1, 10, 10), 0.0, np.float32)
    maps[0, 0, :4] = np.array([1, CLEAR_AT, FULL_AT, 2 * FULL_AT]) * uniform
    np.testing.assert_allclose(strength_of(maps, "cross")[0, 0, :5], [0, 0, 1, 1, 0], atol=1e-6)


def test_a_tracked_object_has_its_own_scale_and_still_shows_nothing_near_uniform():
    uniform = 1 / 100
    full_at = np.array([40, 8, 1], np.float32) * uniform
    maps = np.zeros((3, 10, 10), np.float32)
    maps[0, 0, :4] = np.array([80, 40, 40 / OWN_RANGE**0.5, 40 / OWN_RANGE]) * uniform
    maps[1, 0, :4] = np.array([8, 4, CLEAR_AT, 1]) * uniform
    maps[2, 0, :2] = np.array([CLEAR_AT, 1]) * uniform
    strength = strength_of(maps, "cross", full_at)[:, 0, :4]
    np.testing.assert_allclose(strength, [[1, 1, 0.5, 0], [1, 0.5, 0, 0], [0, 0, 0, 0]], atol=1e-5)


def test_one_object_does_not_change_how_another_is_drawn():
    rng = np.random.default_rng(0)
    maps = rng.dirichlet(np.full(80, 0.05), 2).reshape(2, 8, 10).astype(np.float32)
    alone, together = strength_of(maps[:1], "cross"), strength_of(maps, "cross")
    assert (alone[0] == together[0]).all()


def test_where_objects_overlap_the_stronger_one_shows():
    strength = np.array([[[1.0, 0.2, 0.0]], [[0.2, 1.0, 0.0]]], np.float32)
    tint = blend(strength, [RED, BLUE], 0.5)
    assert tint.color[0, 0, 0] > 10 * tint.color[0, 0, 2]
    assert tint.color[0, 1, 2] > 10 * tint.color[0, 1, 0]
    assert tint.clear[0].tolist() == [128, 128, 255]


def test_a_single_map_glows_more_where_it_is_stronger():
    tint = glow(np.array([[0.0, 0.5, 1.0]], np.float32), 0.5)
    assert tint.clear[0, 0] == 255
    assert (tint.color[0, 0] == 0).all()
    assert tint.clear[0, 1] > tint.clear[0, 2]
