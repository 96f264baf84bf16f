"""A moving test picture: no file, no camera, the same frames every time."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import SourceError
from stream_detr.sources.inputs import Input
from stream_detr.structures import Frame, StreamInfo

_SPELLING = re.compile(r"pattern(?::(?:(\d+)x(\d+))?(?:@([\d./]+))?(?::([\d.]+))?)?")
_LARGEST_SIDE_PX = 16384
# Okabe and Ito's palette: apart for every kind of colour vision.
_COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0), (204, 121, 167))


class PatternSource:
    """Shapes on their way over a soft background, ``pattern:WIDTHxHEIGHT@RATE:SECONDS``, every part optional."""

    audio: None = None

    def __init__(self, given: Input) -> None:
        width, height, rate, num_frames = parse_pattern(given.uris[0])
        self.info = StreamInfo(given.name, width, height, rate, num_frames)
        self._background = _background(width, height)

    def __iter__(self) -> Iterator[Frame]:
        rate = self.info.frame_rate or Fraction(30)
        for index in range(self.info.num_frames or 0):
            image = draw_pattern(self._background, float(index / rate))
            pts = index * rate.denominator
            yield Frame(image, index, pts, Fraction(1, rate.numerator), time.monotonic(), self.info)

    def close(self) -> None:
        """Nothing to let go of."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def parse_pattern(uri: str) -> tuple[int, int, Fraction, int]:
    """Width, height, frame rate and number of frames of a pattern's name.

    >>> parse_pattern("pattern:320x240@29.97:2")
    (320, 240, Fraction(30000, 1001), 60)
    >>> parse_pattern("pattern")
    (640, 360, Fraction(30, 1), 300)
    """
    match = _SPELLING.fullmatch(uri)
    try:
        if match is None:
            raise ValueError(uri)
        width, height = int(match[1] or 640), int(match[2] or 360)
        rate, seconds = _exact_rate(Fraction(match[3] or 30)), Fraction(match[4] or 10)
        num_frames = round(seconds * rate)
        if not (0 < width <= _LARGEST_SIDE_PX and 0 < height <= _LARGEST_SIDE_PX and num_frames > 0 < rate <= 1000):
            raise ValueError(uri)
    except (ValueError, ZeroDivisionError):
        raise SourceError(f"{uri}: not a test pattern; write pattern:640x360@30:10, each part optional") from None
    return width, height, rate, num_frames


def draw_pattern(background: NDArray[np.uint8], seconds: float) -> NDArray[np.uint8]:
    """The picture at one moment: (H, W, 3) uint8 RGB, new."""
    image = background.copy()
    height, width = image.shape[:2]
    radius = max(2, min(width, height) // 9)
    for number, color in enumerate(_COLORS):
        phase = number * 2 * math.pi / len(_COLORS)
        x = round(width * (0.5 + 0.38 * math.sin(0.7 * seconds + phase)))
        y = round(height * (0.5 + 0.33 * math.sin((0.4 + 0.13 * number) * seconds + 2 * phase)))
        if number % 3 == 0:
            cv2.circle(image, (x, y), radius, color, -1, cv2.LINE_AA)
        elif number % 3 == 1:
            cv2.rectangle(image, (x - radius, y - radius), (x + radius, y + radius), color, -1)
        else:
            corners = [(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)]
            cv2.fillConvexPoly(image, np.array(corners, np.int32), color, cv2.LINE_AA)
    return image


def _background(width: int, height: int) -> NDArray[np.uint8]:
    """A slope from dark to light with a grid: (H, W, 3) uint8."""
    slope = np.linspace(40, 120, height)[:, None] + np.linspace(0, 60, width)
    image = np.repeat(slope[:, :, None], 3, axis=2).astype(np.uint8)
    cell = max(8, min(width, height) // 6)
    image[::cell] += 25
    image[:, ::cell] += 25
    return image


def _exact_rate(rate: Fraction) -> Fraction:
    """29.97 as people write it means 30000/1001; the same for its relatives."""
    whole = round(rate)
    ntsc = Fraction(round(rate * 1001 / 1000) * 1000, 1001)
    return ntsc if rate != whole and abs(rate - ntsc) < Fraction(1, 200) else rate
