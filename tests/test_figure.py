"""The notebook's figure: what is on it, and that nothing on the way warns or fails."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from stream_detr.errors import CaptureError, SinkError
from stream_detr.figure import draw_figure, save_figure, shown_name
from stream_detr.structures import AttentionMaps, Detections, Frame, StreamInfo

# Characters that the font lacks, mathematics that is none, and no name at all.
NAMES = ("Größe", "人", "$x_1$", "🚗", "", "a name that is far too long for its column")


def frame_of(size_hw):
    image = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)
    return Frame(image, 3, 75, Fraction(1, 25), 0.0, StreamInfo("made up", size_hw[1], size_hw[0]))


def detections_with(num, size_hw, *, points=4, **left_out):
    rng = np.random.default_rng(1)
    h, w = -(-size_hw[0] // 32), -(-size_hw[1] // 32)
    corners = rng.uniform(-0.05, 1.05, (num, 2, 2)) * size_hw[::-1]
    maps = {
        "cross": rng.dirichlet(np.ones(h * w), num).reshape(num, h, w).astype(np.float32),
        "points": rng.dirichlet(np.ones(h * w), points).reshape(points, h, w).astype(np.float32),
        "objects": rng.dirichlet(np.ones(num + 1), num)[:, :num].astype(np.float32),
    } | left_out
    return Detections(
        np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32),
        rng.random(num, np.float32),
        np.arange(num) % len(NAMES),
        np.arange(num),
        np.full(num, -1),
        AttentionMaps(32, size_hw, points_xy=rng.random((points, 2), np.float32), **maps),
        NAMES,
    )


def test_the_figure_of_everything_is_a_tall_picture_and_the_file_holds_the_same(tmp_path):
    frame, detections = frame_of((120, 160)), detections_with(6, (120, 160))
    drawn = draw_figure(frame, detections)
    height, width, channels = drawn.shape
    assert height > width
    assert channels == 3
    assert (drawn[0] == 255).all()
    save_figure(str(tmp_path / "figure.png"), frame, detections)
    with Image.open(tmp_path / "figure.png") as saved:
        assert (np.asarray(saved.convert("RGB")) == drawn).all()


def test_what_was_not_recorded_is_left_out():
    frame, size_hw = frame_of((90, 160)), (90, 160)
    heights = [
        len(draw_figure(frame, detections))
        for detections in (
            Detections.empty(),
            detections_with(2, size_hw, points=1, cross=None, objects=None),
            detections_with(2, size_hw, points=1, objects=None),
            detections_with(2, size_hw, points=1),
        )
    ]
    assert heights == sorted(set(heights))


@pytest.mark.parametrize("size_hw", [(1, 1), (200, 20)])
def test_odd_shapes_are_drawn(size_hw):
    assert draw_figure(frame_of(size_hw), detections_with(1, size_hw, points=1)).ndim == 3


def test_only_so_many_objects_get_a_map_of_their_own(monkeypatch):
    monkeypatch.setattr("stream_detr.figure.MAX_OBJECTS", 3)
    size_hw = (60, 80)
    tall, short = (
        draw_figure(frame_of(size_hw), detections_with(num, size_hw, points=1, objects=None)) for num in (7, 3)
    )
    assert tall.shape == short.shape


def test_attention_that_is_not_finite_is_refused():
    detections = detections_with(1, (60, 80), points=1)
    detections.attention.cross[0, 0, 0] = np.nan
    with pytest.raises(CaptureError, match="not finite"):
        draw_figure(frame_of((60, 80)), detections)


def test_a_folder_that_does_not_exist_is_one_clear_line(tmp_path):
    with pytest.raises(SinkError, match=r"nowhere.*figure\.png: can't write"):
        save_figure(str(tmp_path / "nowhere" / "figure.png"), frame_of((20, 30)), Detections.empty())


def test_a_name_that_is_only_spaces_is_empty():
    assert shown_name(" \n ") == ""
