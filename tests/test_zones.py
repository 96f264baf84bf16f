"""Zones and lines: how they are written, who is in them, who has crossed."""

from dataclasses import replace

import numpy as np
import pytest

from stream_detr.errors import UsageError
from stream_detr.structures import Detections, Line, Zone
from stream_detr.zones import CLEAR, Regions, check_names, parse_line, parse_zone

SIZE_HW = (200, 400)
LEVEL = Line("gate", (0.2, 0.5), (0.8, 0.5))  # forward is down


def standing(*points, tracks=None, classes=None, size_hw=SIZE_HW):
    """Detections whose boxes' lower edges have their middles at these fractions of the frame."""
    feet = np.array(points, np.float32).reshape(-1, 2) * (size_hw[1], size_hw[0])
    num = len(feet)
    boxes = np.hstack([feet, feet]).astype(np.float32) + np.array([-5, -20, 5, 0], np.float32)
    return Detections(
        boxes,
        np.ones(num, np.float32),
        np.zeros(num, np.int64) if classes is None else np.array(classes),
        np.arange(num),
        np.arange(num) if tracks is None else np.array(tracks),
        class_names=("person", "car"),
    )


def walk(regions, *points, **given):
    """Crossings after one object has been at each of these points."""
    for point in points:
        crossings = regions.update(standing(point, **given), SIZE_HW).crossings
    return crossings


def test_zones_and_lines_are_read_from_text():
    assert parse_zone(" front door :0,0; 1,0 ;0.5,1") == Zone("front door", ((0, 0), (1, 0), (0.5, 1)))
    assert parse_line("gate:0.1,0.2;.3,1e-1") == Line("gate", (0.1, 0.2), (0.3, 0.1))
    assert len(parse_zone("bow tie:0,0;1,1;1,0;0,1").polygon) == 4


@pytest.mark.parametrize("parse", [parse_zone, parse_line])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a name before the colon"),
        ("door", "a name before the colon"),
        (" :0,0;1,0;1,1", "a name before the colon"),
        ("door: ", "points behind it"),
        ("door:0,0;1,x;1,1", "got '1,x' for a point x,y"),
        ("door:0,0;1;1,1", "got '1' for a point"),
        ("door:0,0;1,0,0;1,1", "got '1,0,0'"),
        ("door:0,0;1,0;1,1;", "got '' for a point"),
        ("door:0,0;1,0;1,1.01", "from 0 to 1, got '1,1.01'"),
        ("door:0,0;nan,0;1,1", "from 0 to 1, got 'nan,0'"),
        ("door:0,0", "different points, got 1"),
        ("door:0,0;0,0", "different points, got 1"),
    ],
)
def test_a_mistake_is_told_in_one_line_that_shows_the_text(parse, text, said):
    with pytest.raises(UsageError) as error:
        parse(text)
    assert said in str(error.value)
    assert repr(text) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_zone_takes_three_points_and_a_line_two():
    with pytest.raises(UsageError, match="at least 3 different points, got 2"):
        parse_zone("door:0,0;1,0;1,0")
    with pytest.raises(UsageError, match="2 different points, got 3"):
        parse_line("gate:0,0;1,0;1,1")


def test_a_name_is_given_once():
    zone = parse_zone("a:0,0;1,0;1,1")
    check_names([zone], [LEVEL])
    for zones, lines in (([zone, zone], []), ([zone], [Line("a", (0, 0), (1, 1))]), ([], [LEVEL, LEVEL])):
        with pytest.raises(UsageError, match="2 times"):
            check_names(zones, lines)


def test_an_object_is_where_the_middle_of_its_lower_edge_is():
    left, right = parse_zone("left:0,0;0.5,0;0.5,1;0,1"), parse_zone("right:0.4,0;1,0;1,1;0.4,1")
    found = Regions([left, right], []).update(
        standing((0.1, 0.5), (0.45, 0.5), (0.9, 0.5), tracks=[-1, 3, -1]), SIZE_HW
    )
    assert found.zones == (("left",), ("left", "right"), ("right",))
    assert found.crossings is None


def test_a_zone_with_a_dent_and_one_that_crosses_itself_hold_what_their_outline_surrounds():
    dented = parse_zone("dented:0.1,0.1;0.9,0.1;0.9,0.9;0.5,0.3;0.1,0.9")
    bow = parse_zone("bow:0.1,0.1;0.9,0.9;0.9,0.1;0.1,0.9")
    points = [(0.2, 0.5), (0.5, 0.8), (0.8, 0.5), (0.5, 0.2)]
    found = Regions([dented, bow], []).update(standing(*points), SIZE_HW)
    assert found.zones == (("dented", "bow"), (), ("dented", "bow"), ("dented",))


def test_an_object_that_the_frame_cuts_is_in_a_zone_that_reaches_its_edge():
    everywhere = parse_zone("all:0,0;1,0;1,1;0,1")
    detections = standing((0, 0), (1, 1), (0.5, 1.2), (0, 1), (1, 0))
    assert Regions([everywhere], []).update(detections, SIZE_HW).zones == (("all",),) * 5


def test_without_zones_or_lines_nothing_is_said_of_them():
    found = Regions([], []).update(standing((0.5, 0.5)), SIZE_HW)
    assert found.zones is None
    assert found.crossings is None


def test_a_frame_without_objects_has_zones_for_none():
    found = Regions([parse_zone("a:0,0;1,0;1,1")], [LEVEL]).update(Detections.empty(), SIZE_HW)
    assert found.zones == ()
    assert found.crossings == {"gate": {}}


def test_forward_is_from_left_to_right_of_who_walks_from_start_to_end():
    # Someone who walks to the right of the picture has its lower part on the right hand.
    assert walk(Regions([], [LEVEL]), (0.5, 0.4), (0.5, 0.6)) == {"gate": {"person": (1, 0)}}
    assert walk(Regions([], [LEVEL]), (0.5, 0.6), (0.5, 0.4)) == {"gate": {"person": (0, 1)}}
    upwards = Line("up", (0.5, 0.9), (0.5, 0.1))
    assert walk(Regions([], [upwards]), (0.4, 0.5), (0.6, 0.5)) == {"up": {"person": (1, 0)}}


def test_crossings_add_up_by_line_and_class():
    regions = Regions([], [LEVEL, Line("low", (0, 0.8), (1, 0.8))])
    above, below, out = ((0.3, 0.4), (0.5, 0.4)), ((0.3, 0.6), (0.5, 0.6)), ((0.3, 0.9), (0.5, 0.6))
    for points in (above, below, above, below, out):
        crossings = regions.update(standing(*points, classes=[0, 1]), SIZE_HW).crossings
    assert crossings == {"gate": {"person": (2, 1), "car": (2, 1)}, "low": {"person": (1, 0)}}


def test_what_was_counted_later_does_not_change_earlier_detections():
    regions = Regions([], [LEVEL])
    first = regions.update(standing((0.5, 0.4)), SIZE_HW)
    second = regions.update(standing((0.5, 0.6)), SIZE_HW)
    regions.update(standing((0.5, 0.4)), SIZE_HW)
    assert first.crossings == {"gate": {}}
    assert second.crossings == {"gate": {"person": (1, 0)}}


def test_who_walks_around_the_end_has_not_crossed():
    around = [(0.5, 0.4), (0.9, 0.4), (0.9, 0.6), (0.5, 0.6)]
    assert walk(Regions([], [LEVEL]), *around) == {"gate": {}}
    # Back through the line: what counts is the way between its ends.
    assert walk(Regions([], [LEVEL]), *around, (0.5, 0.4)) == {"gate": {"person": (0, 1)}}


def test_a_slanting_way_counts_by_where_it_meets_the_line():
    assert walk(Regions([], [LEVEL]), (0.7, 0.3), (0.95, 0.7)) == {"gate": {}}
    assert walk(Regions([], [LEVEL]), (0.7, 0.3), (0.85, 0.7)) == {"gate": {"person": (1, 0)}}


def test_an_object_that_trembles_on_the_line_counts_once_when_it_has_passed():
    tremble = [(0.5, 0.5 + sign * 0.8 * CLEAR) for sign in (-1, 1) * 10]
    regions = Regions([], [LEVEL])
    assert walk(regions, (0.5, 0.4), *tremble) == {"gate": {}}
    assert walk(regions, (0.5, 0.6)) == {"gate": {"person": (1, 0)}}
    assert walk(regions, *tremble, (0.5, 0.6)) == {"gate": {"person": (1, 0)}}
    assert walk(regions, *tremble, (0.5, 0.4)) == {"gate": {"person": (1, 1)}}


def test_an_object_that_turns_round_on_the_line_has_not_crossed():
    assert walk(Regions([], [LEVEL]), (0.5, 0.4), (0.5, 0.5 + CLEAR / 2), (0.5, 0.4)) == {"gate": {}}


def test_how_far_clear_is_does_not_depend_on_the_frames_shape_or_the_lines_direction():
    upright = Line("upright", (0.5, 1), (0.5, 0))
    step = 1.2 * CLEAR * 200 / 400  # in fractions of the width, the longer side
    assert walk(Regions([], [upright]), (0.4, 0.5), (0.5 + step, 0.5)) == {"upright": {"person": (1, 0)}}
    assert walk(Regions([], [upright]), (0.4, 0.5), (0.5 + 0.7 * step, 0.5)) == {"upright": {}}


def test_objects_without_a_track_cross_nothing():
    assert walk(Regions([], [LEVEL]), (0.5, 0.4), (0.5, 0.6), tracks=[-1]) == {"gate": {}}


def test_tracks_are_told_apart():
    regions = Regions([], [LEVEL])
    regions.update(standing((0.5, 0.4), tracks=[1]), SIZE_HW)
    assert regions.update(standing((0.5, 0.6), tracks=[2]), SIZE_HW).crossings == {"gate": {}}


def test_an_object_that_was_not_seen_for_a_while_crosses_between_its_two_places():
    regions = Regions([], [LEVEL])
    walk(regions, (0.5, 0.4))
    regions.update(Detections.empty(), SIZE_HW)
    assert walk(regions, (0.5, 0.6)) == {"gate": {"person": (1, 0)}}


def test_where_an_object_was_only_carried_it_does_not_cross():
    regions = Regions([], [LEVEL])
    walk(regions, (0.5, 0.45))
    carried = replace(standing((0.5, 0.6)), carried=np.array([True]))
    assert regions.update(carried, SIZE_HW).crossings == {"gate": {}}
    assert walk(regions, (0.5, 0.48)) == {"gate": {}}
    assert walk(regions, (0.5, 0.55)) == {"gate": {"person": (1, 0)}}


def test_a_change_of_resolution_moves_nobody():
    regions = Regions([], [LEVEL])
    regions.update(standing((0.5, 0.4)), SIZE_HW)
    small = standing((0.5, 0.45), size_hw=(100, 200))
    assert regions.update(small, (100, 200)).crossings == {"gate": {}}


def test_tracks_that_are_gone_are_forgotten():
    regions = Regions([], [LEVEL])
    for index in range(2000):
        regions.update(standing((0.5, 0.4), tracks=[index]), SIZE_HW)
    assert len(regions._passages) <= 600
