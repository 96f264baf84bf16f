"""Norfair as it is used here: how far two boxes are apart, and how a box is expected to move."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stream_detr.boxes import iou

if TYPE_CHECKING:
    from norfair import Tracker

_MATCH_BELOW = 0.8  # distance of two boxes, see `box_distance`
_OTHER_CLASS = 1.0  # times what the boxes don't share: a class may flip in place, but a neighbour takes no track over
_WEAK = 0.1
# In thousandths of the shorter side, squared: what a detected corner is off, how much its speed changes from frame
# to frame, and how fast an object may be when it is first seen.
_NOISE, _CHANGE, _FIRST_SPEED = 20.0, 0.2, 100.0


def box_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far boxes (N, 4) and (M, 4) are apart -> (N, M): 0 = the same, 1 = just out of reach.

    Half of it is overlap, half the distance of the centres in units of the boxes' size: small fast objects need not
    overlap from frame to frame.

    >>> box_distance(np.array([[0, 0, 10, 10.0]]), np.array([[0, 0, 10, 10.0], [30, 0, 40, 10]])).tolist()
    [[0.0, 1.0]]
    """
    overlap = iou(a.astype(np.float32), b.astype(np.float32)).astype(np.float64)
    centre_a, centre_b = (a[:, :2] + a[:, 2:]) / 2, (b[:, :2] + b[:, 2:]) / 2
    size_a, size_b = np.sqrt(np.prod(a[:, 2:] - a[:, :2], 1).clip(1)), np.sqrt(np.prod(b[:, 2:] - b[:, :2], 1).clip(1))
    apart = np.linalg.norm(centre_a[:, None] - centre_b[None], axis=-1) / (size_a[:, None] + size_b[None])
    distance: NDArray[np.float64] = (1 - overlap) / 2 + np.minimum(apart, 1) / 2
    return distance


class Motion:
    """Kalman filter for a box at constant velocity. Norfair's interface: ``x`` is (8, 1), four corners' coordinates and
    their velocities.

    All coordinates are measured alike, so they share one covariance, which is three numbers. Norfair's own filter has
    them for each coordinate and takes several times as long.
    """

    def __init__(self, box: NDArray[np.float64]) -> None:
        self.x = np.concatenate([box.reshape(4, 1), np.zeros((4, 1))])
        self._place, self._both, self._speed = _NOISE, 0.0, _FIRST_SPEED

    def predict(self) -> None:
        """One frame on."""
        self.x[:4] += self.x[4:]
        self._place += 2 * self._both + self._speed
        self._both += self._speed
        self._speed += _CHANGE

    def update(self, measured: NDArray[np.float64], R: Any = None, H: Any = None) -> None:
        """Take in a detected box (4, 1); ``R`` and ``H`` are norfair's and not needed."""
        error = measured - self.x[:4]
        gain_place, gain_speed = (value / (self._place + _NOISE) for value in (self._place, self._both))
        self.x[:4] += gain_place * error
        self.x[4:] += gain_speed * error
        self._speed -= gain_speed * self._both
        self._both *= 1 - gain_place
        self._place *= 1 - gain_place


def norfair_tracker(lost_frames: int) -> Tracker:
    """A tracker that matches by place, a little by class, and strong detections before weak ones.

    Its detections have two points, boxes in thousandths of the frame's shorter side, the class as label and (frame
    index, row, score) as data. Tracks get their ids at once and live ``lost_frames`` without a detection.
    """
    # Norfair sets up rich and scipy, most of a second: only who tracks waits for it.
    logging.getLogger("norfair").setLevel(logging.ERROR)
    from norfair import FilterFactory, Tracker
    from norfair.distances import Distance

    class BoxDistance(Distance):
        def get_distances(self, objects: Any, candidates: Any) -> NDArray[np.float64]:
            seen = np.array([one.points.reshape(4) for one in candidates]).reshape(-1, 4)
            expected = np.array([one.estimate.reshape(4) for one in objects]).reshape(-1, 4)
            distance = box_distance(seen, expected)
            classes = (
                np.array([one.last_detection.label for one in objects]),
                np.array([one.label for one in candidates]),
            )
            weak = np.array([1 - one.data[2] for one in candidates])
            apart = 1 - iou(seen.astype(np.float32), expected.astype(np.float32))
            distance += _OTHER_CLASS * apart * (classes[1][:, None] != classes[0][None])
            return np.asarray(distance + _WEAK * weak[:, None], np.float64)

    class Motions(FilterFactory):
        def create_filter(self, initial_detection: NDArray[np.float64]) -> Motion:
            return Motion(initial_detection)

    tracker = Tracker(
        "iou",
        _MATCH_BELOW,
        hit_counter_max=lost_frames,
        initialization_delay=0,
        past_detections_length=0,
        filter_factory=Motions(),
    )
    tracker.distance_function = BoxDistance()
    return tracker
