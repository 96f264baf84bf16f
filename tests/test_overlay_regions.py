"""Zones and lines in the picture."""

from dataclasses import replace

import numpy as np
import pytest
from test_overlay import detections_with, grey, random_boxes

from stream_detr.overlay import Style, render
from stream_detr.overlay.palette import color_of
from stream_detr.overlay.regions import draw_lines, draw_region_texts, draw_zones, line_counts, zone_count
from stream_detr.structures import Detections, Line, Zone

ZONE = Zone("door", ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)))
LINE = Line("gate", (0.1, 0.5), (0.9, 0.5))
COUNTS = {"gate": {"car": (3, 1), "person": (9, 2)}}


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 7), (17, 400), (240, 426), (431, 97), (1081, 1923)])
def test_regions_are_drawn_in_pictures_of_any_size(size_hw):
    zones = (Zone("all", ((0, 0), (1, 0), (1, 1), (0, 1))), Zone("name " * 60, ((0, 0), (1, 1), (1, 0))), ZONE)
    lines = (Line("edge", (0, 1), (1, 1)), Line("", (1, 0), (1, 1)), Line("a\nb\x00", (0.2, 0.2), (0.21, 0.2)))
    detections = detections_with(random_boxes(5, size_hw), size_hw=size_hw)
    detections = replace(detections, zones=(("all",),) * 5, crossings={"edge": {"cat": (10**9, 0)}})
    image = grey(size_hw)
    picture = render(image, detections, Style("none", zones=zones, lines=lines))
    assert picture.shape == image.shape
    assert (picture != image).any()
    assert (image == 128).all()


def test_a_zone_is_a_little_brighter_inside_and_outlined():
    picture = grey((400, 800)).copy()
    draw_zones(picture, [ZONE])
    inside = picture[110:290, 210:590].astype(int) - 128
    assert inside.min() > 5
    assert inside.max() < 40
    assert picture[100, 400].min() > 210
    picture[95:306, 195:606] = 128
    assert (picture == 128).all()


def test_the_arrow_at_a_lines_middle_points_forward():
    for line, axis in ((LINE, 0), (Line("up", (0.5, 0.9), (0.5, 0.1)), 1)):
        picture = grey((400, 400), 0).copy()
        draw_lines(picture, [line])
        white = np.argwhere(picture.min(2) > 200)
        assert white[:, axis].max() > 205
        assert white[:, axis].min() >= 197
        assert abs(white[:, 1 - axis].mean() - 199.5) < 2


def test_regions_lie_under_the_boxes():
    detections = detections_with([[20, 60, 90, 100]], names=())
    everywhere = Zone("all", ((0, 0), (1, 0), (1, 1), (0, 1)))
    across = Line("gate", (0.2, 0.1), (0.2, 1))
    picture = render(grey(), detections, Style("none", zones=(everywhere,), lines=(across,)))
    assert (picture[99, 20:90] == color_of(0)).all()


def test_a_zone_says_how_many_are_in_it():
    detections = detections_with(random_boxes(3, (120, 160)))
    assert zone_count(ZONE, detections) == ""
    assert zone_count(ZONE, replace(detections, zones=(("door",), (), ("x", "door")))) == "2"
    assert zone_count(ZONE, replace(Detections.empty(), zones=())) == "0"


def test_a_line_says_how_many_went_which_way_and_of_which_class_if_there_is_room():
    detections = replace(Detections.empty(), crossings=COUNTS)
    counts = line_counts(LINE, detections, (100, 200))
    assert counts == [
        "↓ 12  ↑ 3 • person ↓ 9  ↑ 2 • car ↓ 3  ↑ 1",
        "↓ 12  ↑ 3 • person ↓ 9  ↑ 2",
        "↓ 12  ↑ 3",
    ]
    assert line_counts(LINE, replace(detections, crossings={"gate": {}}), (100, 200)) == ["↓ 0  ↑ 0"]
    assert line_counts(LINE, Detections.empty(), (100, 200)) == [""]


@pytest.mark.parametrize(
    ("end", "arrows"),
    [((0.9, 0.5), "↓↑"), ((0.1, 0.5), "↑↓"), ((0.5, 0.1), "→←"), ((0.5, 0.9), "←→"), ((0.7, 0.9), "↙↗")],
)
def test_the_arrows_in_the_text_point_as_the_objects_go(end, arrows):
    # The frame is twice as wide as high: (0.2, 0.4) of it is a slope of 45 degrees.
    line = Line("gate", (0.5, 0.5), end)
    [text] = line_counts(line, replace(Detections.empty(), crossings={"gate": {}}), (100, 200))
    assert [c for c in text if c in "→↘↓↙←↖↑↗"] == list(arrows)


def test_texts_lie_inside_the_picture_and_not_on_each_other():
    detections = replace(Detections.empty(), zones=(), crossings=COUNTS)
    zones = [Zone(f"zone {index}", ((0.99, 0), (1, 0), (1, 0.05))) for index in range(3)]
    legend = (0, 220, 100, 236)
    lines = [Line("gate", (0, 0.99), (0.5, 0.99))]
    rects = [legend, *draw_region_texts(grey((240, 426)).copy(), detections, zones, lines, [legend])]
    assert len(rects) == 5
    for number, (x0, y0, x1, y1) in enumerate(rects):
        assert 0 <= x0 < x1 <= 426
        assert 0 <= y0 < y1 <= 240
        for left, top, right, bottom in rects[:number]:
            assert x1 <= left or right <= x0 or y1 <= top or bottom <= y0


def test_labels_of_objects_keep_off_the_texts_of_regions():
    detections = detections_with([[100, 20, 200, 200]], size_hw=(240, 426), names=("person",))
    top = Zone("zone", ((100 / 425, 20 / 239), (0.9, 0.2), (0.9, 0.9)))
    free, beside = (render(grey((240, 426)), detections, Style("none", zones=zones)) for zones in ((), (top,)))
    label = np.s_[6:18, 105:160]
    assert (free[label] == color_of(0)).all(2).any()
    assert not (beside[label] == color_of(0)).all(2).any()
