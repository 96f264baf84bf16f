"""The line at the bottom that says what the colours mean."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_detr.overlay.heat import CLEAR_AT, FULL_AT, OWN_RANGE
from stream_detr.overlay.labels import Rect, font_px, text_mask

_PANEL_OPACITY = 0.62


@dataclass(frozen=True, slots=True)
class Legend:
    """``title`` says whose attention is drawn, ``key`` what the colour is, ``scale`` what is full and what clear."""

    title: str
    key: str = ""
    scale: str = ""

    @property
    def wordings(self) -> tuple[str, ...]:
        """From the full wording to the shortest."""
        parts = [part for part in (self.title, self.key, self.scale) if part]
        return tuple(" • ".join(parts[:count]) for count in range(len(parts), 0, -1))


SCALE = f"clear up to {CLEAR_AT:g} times uniform, full at {FULL_AT:g}"
OWN_SCALE = f"full at each object's own peak, clear up to 1/{OWN_RANGE:g} of it"


@lru_cache(maxsize=64)
def _panel(text: str, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """White text on a dark see-through panel: colour times opacity, and what is left of the picture (h, w, 3)."""
    coverage = text_mask(text, size)
    opacity = np.maximum(coverage / 255, _PANEL_OPACITY)
    color = np.rint(coverage * 0.95).astype(np.uint8)
    clear = np.rint(255 * (1 - opacity)).astype(np.uint8)
    return cv2.cvtColor(color, cv2.COLOR_GRAY2RGB), cv2.cvtColor(clear, cv2.COLOR_GRAY2RGB)


def legend_size(size_hw: tuple[int, int]) -> int:
    """Text size of the legend, a little smaller than the labels'."""
    return max(10, round(0.82 * font_px(size_hw)))


def draw_panel(picture: NDArray[np.uint8], text: str, size: int, rect: Rect) -> None:
    """``text`` on its panel, in place; ``rect`` is as large as :func:`panel_size` says, or the panel is cut."""
    x0, y0, x1, y1 = rect
    color, clear = (part[: y1 - y0, : x1 - x0] for part in _panel(text, size))
    piece = picture[y0:y1, x0:x1]
    cv2.multiply(piece, clear, dst=piece, scale=1 / 255)
    cv2.add(piece, color, dst=piece)


def panel_size(text: str, size: int) -> tuple[int, int]:
    """Width and height of the panel of ``text``."""
    height, width = text_mask(text, size).shape
    return width, height


def draw_legend(picture: NDArray[np.uint8], legend: Legend) -> Rect | None:
    """The legend at the lower left, in place, in the longest wording that fits; where it is, None = nothing fits."""
    height, width = picture.shape[:2]
    size = legend_size((height, width))
    margin = max(2, size // 2)
    for text in legend.wordings:
        panel_w, panel_h = panel_size(text, size)
        if panel_w + 2 * margin <= width and 4 * panel_h <= height:
            rect = margin, height - margin - panel_h, margin + panel_w, height - margin
            draw_panel(picture, text, size, rect)
            return rect
    return None
