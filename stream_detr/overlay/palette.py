"""Colours: one for each id, the same in every frame, far apart for neighbouring ids."""

from __future__ import annotations

import math
from functools import lru_cache

from stream_detr.structures import Detections

Color = tuple[int, int, int]

_GOLDEN = (math.sqrt(5) - 1) / 2
_FIRST_HUE = 0.11
# Lightness changes with the id as well, so that colours which differ in hue only for some eyes still differ.
_LIGHTNESS = (0.73, 0.66, 0.80)
_CHROMA = 0.21


def _linear_srgb(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    """OKLCH to linear sRGB, out of [0, 1] where the screen can't show it (bottosson.github.io/posts/oklab)."""
    a, b = chroma * math.cos(2 * math.pi * hue), chroma * math.sin(2 * math.pi * hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
    )


def _encoded(linear: float) -> int:
    """One linear channel as sRGB, 0 to 255."""
    linear = min(max(linear, 0.0), 1.0)
    value = 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
    return round(255 * value)


@lru_cache(maxsize=4096)
def color_of(identity: int) -> Color:
    """RGB colour of a track or class id: hues a golden ratio apart, even lightness, as strong as the screen shows.

    >>> color_of(3) == color_of(3) != color_of(4)
    True
    """
    hue = (_FIRST_HUE + identity * _GOLDEN) % 1.0
    lightness = _LIGHTNESS[identity % len(_LIGHTNESS)]
    chroma = _CHROMA
    while chroma > 0 and not all(-1e-3 <= value <= 1.001 for value in _linear_srgb(lightness, chroma, hue)):
        chroma -= 0.005
    red, green, blue = _linear_srgb(lightness, max(chroma, 0.0), hue)
    return _encoded(red), _encoded(green), _encoded(blue)


def colors_of(detections: Detections) -> list[Color]:
    """Colour of each detection: by its track, by its class where it has none."""
    pairs = zip(detections.track_ids.tolist(), detections.class_ids.tolist(), strict=True)
    return [color_of(track if track >= 0 else kind) for track, kind in pairs]


def ink_on(color: Color) -> Color:
    """Near-black or white, whichever reads better on ``color``.

    >>> ink_on((255, 255, 0)), ink_on((0, 0, 128))
    ((16, 16, 16), (255, 255, 255))
    """
    red, green, blue = color
    return (16, 16, 16) if 0.299 * red + 0.587 * green + 0.114 * blue > 125 else (255, 255, 255)
