"""Text: its size, what is kept of long names, where labels go."""

import numpy as np
import pytest

from stream_detr.overlay.labels import draw_labels, font_px, place, shortened, text_mask, text_width, texts_of
from stream_detr.overlay.legend import Legend, draw_legend
from stream_detr.structures import Detections


@pytest.mark.parametrize("name", ["person", "Größe", "人", "Жук"])
def test_names_in_any_script_are_rendered(name):
    mask = text_mask(f"{name} 0.98", 22)
    shorter = text_mask("0.98", 22)
    assert mask.max() == 255
    assert mask.shape[0] == shorter.shape[0]
    assert mask.shape[1] > shorter.shape[1]


def test_different_names_look_different():
    assert (text_mask("人 0.98", 22).shape != text_mask("车 0.98", 22).shape) or (
        text_mask("人 0.98", 22) != text_mask("车 0.98", 22)
    ).any()


@pytest.mark.parametrize("width", [20, 60, 120, 400])
def test_a_long_name_is_cut_to_the_width(width):
    text = shortened("extraordinarily long name of a thing", "0.98", 20, width)
    assert not text or text_width(text, 20) <= width
    assert not text or text.endswith("0.98")


def test_a_name_without_visible_characters_leaves_the_score():
    assert shortened("\n\x00 ", "0.98", 20, 300) == "0.98"


def test_the_track_is_named_where_there_is_one():
    ids = np.array([0, 0])
    detections = Detections(
        np.zeros((2, 4), np.float32), np.array([0.98, 0.5], np.float32), ids, ids, np.array([3, -1]), None, ("person",)
    )
    assert texts_of(detections) == [("person", "0.98 #3"), ("person", "0.50")]


def test_labels_stay_inside_the_frame():
    for box in [(-5, -5, 10, 10), (150, 0, 160, 120), (0, 110, 20, 120), (0, 0, 160, 120)]:
        x0, y0, x1, y1 = place(box, (60, 18), [], (120, 160))
        assert 0 <= x0 < x1 <= 160
        assert 0 <= y0 < y1 <= 120


def test_labels_of_boxes_on_top_of_each_other_do_not_cover_each_other():
    placed = []
    for _ in range(4):
        rect = place((60, 60, 200, 200), (70, 18), placed, (300, 300))
        for x0, y0, x1, y1 in placed:
            assert rect[2] <= x0 or rect[0] >= x1 or rect[3] <= y0 or rect[1] >= y1
        placed.append(rect)


def test_a_picture_too_small_for_text_gets_none():
    picture = np.zeros((12, 30, 3), np.uint8)
    draw_labels(picture, [(0, 0, 30, 12)], [("person", "0.98")], [(255, 0, 0)])
    assert not picture.any()


def test_the_legend_takes_the_longest_wording_that_fits():
    legend = Legend("decoder cross-attention", "in the colour of its box", "full at 16")
    wide, narrow = (draw_legend(np.zeros((400, width, 3), np.uint8), legend) for width in (900, 220))
    assert wide is not None
    assert narrow is not None
    assert wide[2] > narrow[2]
    assert draw_legend(np.zeros((400, 40, 3), np.uint8), legend) is None


def test_text_is_readable_from_240_lines_up():
    assert font_px((240, 426)) >= 11
    assert 20 <= font_px((1080, 1920)) <= 26
