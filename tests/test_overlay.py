"""What render draws, where, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from stream_detr.errors import CaptureError, UsageError
from stream_detr.overlay import OVERLAYS, Style, draw_cross, render
from stream_detr.overlay.palette import color_of, ink_on
from stream_detr.structures import AttentionMaps, Detections

NAMES = ("cat", "Größe", "人", "🚗", "name " * 60, "", "a\nb\x00")


def detections_with(boxes, *, size_hw=(120, 160), stride=16, tracks=None, attention=True, names=NAMES):
    """Detections with made-up attention of every kind; the model image is 1.2 times the frame, the grid overhangs."""
    rng = np.random.default_rng(0)
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    num = len(boxes)
    model_hw = max(1, int(1.2 * size_hw[0])), max(1, int(1.2 * size_hw[1]))
    h, w = (-(-length // stride) for length in model_hw)
    maps = AttentionMaps(
        stride,
        model_hw,
        cross=rng.dirichlet(np.full(h * w, 0.05), num).reshape(num, h, w).astype(np.float32),
        points=rng.dirichlet(np.full(h * w, 0.05), 2).reshape(2, h, w).astype(np.float32),
        points_xy=np.array([[0.25, 0.5], [1.0, 0.0]], np.float32),
        objects=rng.dirichlet(np.full(num + 2, 0.5), num)[:, :num].astype(np.float32),
    )
    return Detections(
        boxes,
        np.linspace(0.7, 1, num, dtype=np.float32),
        np.arange(num) % max(len(names), 1),
        np.arange(num),
        np.full(num, -1) if tracks is None else np.asarray(tracks),
        maps if attention else None,
        names,
    )


def grey(size_hw=(120, 160), value=128):
    image = np.full((*size_hw, 3), value, np.uint8)
    image.flags.writeable = False
    return image


def random_boxes(num, size_hw):
    rng = np.random.default_rng(1)
    corners = rng.uniform(-0.1, 1.1, (num, 2, 2)) * size_hw[::-1]
    return np.concatenate([corners.min(1), corners.max(1)], 1)


@pytest.mark.parametrize("kind", OVERLAYS)
@pytest.mark.parametrize("size_hw", [(1, 1), (3, 7), (17, 400), (240, 426), (431, 97)])
@pytest.mark.parametrize("num", [0, 1, 7])
def test_every_overlay_gives_a_new_picture_of_the_same_size(kind, size_hw, num):
    image = grey(size_hw)
    picture = render(image, detections_with(random_boxes(num, size_hw), size_hw=size_hw), Style(kind))
    assert picture.shape == image.shape
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    assert picture.flags.writeable
    assert (image == 128).all()


@pytest.mark.parametrize("kind", OVERLAYS)
def test_every_overlay_draws_nothing_but_a_legend_where_nothing_was_found(kind):
    image = grey()
    assert (render(image, Detections.empty(), Style(kind, legend=False)) == image).all()


@pytest.mark.parametrize("kind", ["cross", "encoder", "objects"])
def test_attention_that_was_asked_for_and_is_not_there_is_an_error(kind):
    with pytest.raises(CaptureError, match=kind):
        render(grey(), detections_with([[1, 1, 50, 50]], attention=False), Style(kind))


@pytest.mark.parametrize("kind", ["cross", "encoder", "objects"])
def test_attention_that_is_not_finite_is_an_error(kind):
    detections = detections_with([[1, 1, 50, 50], [20, 20, 90, 90]])
    maps = detections.attention
    for array in (maps.cross, maps.points, maps.objects):
        array.flat[0] = np.nan
    with pytest.raises(CaptureError, match="not finite"):
        render(grey(), detections, Style(kind))


def test_a_box_that_is_not_finite_is_an_error():
    with pytest.raises(ValueError, match="boxes"):
        render(grey(), detections_with([[0, 0, np.inf, 5]]), Style("none"))


def test_a_style_that_does_not_exist_is_refused_with_the_ones_that_do():
    with pytest.raises(UsageError, match=r"cross, encoder, objects, none, got 'heat'"):
        Style("heat")
    with pytest.raises(UsageError, match="alpha"):
        Style(alpha=1.5)


def test_an_object_that_the_model_did_not_see_is_dashed_and_paler():
    detections = detections_with([[20, 30, 140, 100]], names=())
    seen, carried = (
        render(grey(), replace(detections, carried=np.array([on])), Style("none", legend=False)) for on in (False, True)
    )
    own = color_of(0)
    for line in (np.s_[99, 20:140], np.s_[40:100, 20], np.s_[40:100, 139]):
        assert (seen[line] == own).all()
        share = (carried[line] == own).all(-1).mean()
        assert 0.3 < share < 0.8
    seen, carried = (
        render(grey(), replace(detections, carried=np.array([on])), Style("cross", legend=False))
        for on in (False, True)
    )
    inside = np.s_[50:95, 30:130]
    tinted, paler = (np.abs(picture[inside].astype(int) - 128).sum() for picture in (seen, carried))
    assert 0.35 * tinted < paler < 0.65 * tinted


def test_boxes_of_any_size_and_place_can_be_dashed():
    for size_hw in ((1, 1), (240, 426), (700, 900)):
        detections = detections_with(random_boxes(30, size_hw), size_hw=size_hw)
        picture = render(grey(size_hw), replace(detections, carried=np.ones(30, bool)), Style("none"))
        assert (picture != 128).any()


def test_the_legend_says_when_each_object_has_its_own_scale():
    detections = detections_with([[20, 30, 140, 100]])
    tracked = replace(detections, attention=replace(detections.attention, full_at=np.array([0.1], np.float32)))
    legends = [draw_cross(grey(), found, 0.5)[1].scale for found in (detections, tracked)]
    assert "uniform" in legends[0]
    assert "own" in legends[1]


def test_the_box_is_drawn_in_the_color_of_its_track_or_its_class():
    box = [[20, 60, 90, 100]]
    by_class = render(grey(), detections_with(box, names=()), Style("none"))
    assert tuple(by_class[99, 50]) == color_of(0)
    by_track = render(grey(), detections_with(box, tracks=[5], names=()), Style("none"))
    assert tuple(by_track[99, 50]) == color_of(5)
    assert (by_track[70:90, 30:80] == 128).all()


def test_a_hundred_objects_with_every_kind_of_name_are_drawn():
    size_hw = (240, 426)
    detections = detections_with(random_boxes(100, size_hw), size_hw=size_hw)
    picture = render(grey(size_hw), detections, Style())
    assert (picture != 128).any()


def test_the_encoder_overlay_marks_its_points():
    picture = render(grey(), detections_with([]), Style("encoder", alpha=0, legend=False))
    rows, columns = np.nonzero((picture != 128).any(2))
    left = columns < 100
    assert abs(rows[left].mean() - 59.5) < 1
    assert abs(columns[left].mean() - 39.5) < 1


def test_one_encoder_point_is_drawn_in_shades_of_heat():
    detections = detections_with([])
    maps = detections.attention
    one = AttentionMaps(maps.stride, maps.model_hw, points=maps.points[:1], points_xy=maps.points_xy[1:])
    empty = Detections.empty()
    picture = render(
        grey(),
        Detections(empty.boxes, empty.scores, empty.class_ids, empty.query_ids, empty.track_ids, one),
        Style("encoder", legend=False),
    )
    assert (picture != 128).any()


def test_the_half_of_a_link_at_an_object_is_as_thick_as_what_that_object_reads():
    detections = detections_with([[10, 50, 30, 70], [130, 50, 150, 70]], names=())
    detections.attention.objects[:] = [[0, 0.25], [0.03, 0]]
    picture = render(grey(), detections, Style("objects", alpha=1, legend=False))
    painted = (picture != 128).any(2).sum(0)
    assert painted[65] > painted[95] > 0


def test_the_legend_can_be_left_out():
    detections = detections_with([])
    with_legend, without = (render(grey((300, 700)), detections, Style(legend=on)) for on in (True, False))
    assert (with_legend != without).any()
    assert (without == 128).all()


def test_neighbouring_colors_are_far_apart_and_their_ink_reads_well():
    colors = np.array([color_of(index) for index in range(200)], float)
    assert np.abs(colors[1:] - colors[:-1]).max(1).min() > 60
    assert len({tuple(color) for color in colors}) == 200
    light = colors @ [0.299, 0.587, 0.114]
    ink = np.array([ink_on(tuple(color)) for color in colors], float) @ [0.299, 0.587, 0.114]
    assert np.abs(light - ink).min() > 85
