"""Scenes to train and score the embedded model on: emoji sprites over made-up backgrounds, with exact boxes.

A scene is a pure function of (seed, index): training resumes where it stopped and scores are repeatable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from backgrounds import POOL_HW, Background, Rng
from numpy.typing import NDArray
from sprites import CLASSES

Image = NDArray[np.uint8]

CLASS_NAMES = tuple(CLASSES)
SIZE_HW = (144, 256)
MAX_OBJECTS = 8
OBJECT_SIZE = (0.15, 0.62)  # longer side over the frame's height


@dataclass(frozen=True, slots=True)
class Scene:
    """``image`` (H, W, 3) uint8 RGB; ``boxes`` (N, 4) float32 xyxy pixels, whole objects cut at the frame, those in
    front last; ``class_ids`` (N,) int64."""

    image: Image
    boxes: NDArray[np.float32]
    class_ids: NDArray[np.int64]


def read_sprite(path: Path) -> Image:
    """Read a sprite -> (H, W, 4) uint8 premultiplied RGBA."""
    bgra = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if bgra is None:
        raise FileNotFoundError(f"{path} can't be read: run scripts/sprites.py again")
    rgba = cv2.cvtColor(bgra, cv2.COLOR_BGRA2RGBA).astype(np.float32)
    rgba[..., :3] *= rgba[..., 3:] / 255
    return rgba.round().astype(np.uint8)


def load_sprites(cache: Path, sets: Sequence[str]) -> dict[str, list[list[Image]]]:
    """Read sets of sprites from the folder that sprites.py filled.

    Returns:
        by class name (and "distractor"): a list of sprites, each a list of premultiplied RGBA pictures whose longer
        side is 256, 128, 64 and 32 pixels.
    """
    found: dict[str, list[list[Image]]] = {}
    for path in sorted(path for name in sets for path in (cache / name).glob("*.png")):
        levels = [read_sprite(path)]
        for _ in range(3):
            half = (max(1, levels[-1].shape[1] // 2), max(1, levels[-1].shape[0] // 2))
            levels.append(np.asarray(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA), np.uint8))
        found.setdefault(path.stem.split("-")[0], []).append(levels)
    if not found:
        raise FileNotFoundError(f"no sprites in {cache}: run `python scripts/sprites.py {cache}` first")
    return found


def pose(levels: list[Image], longer_px: float, angle: float, flip: bool, stretch: float = 1.0) -> Image:
    """Scale, stretch, turn and flip a sprite -> (H, W, 4) uint8 premultiplied RGBA, cut to what is visible."""
    level = next((image for image in reversed(levels) if max(image.shape[:2]) >= longer_px), levels[0])
    height, width = level.shape[:2]
    scale = longer_px / max(height, width)
    scale_xy = np.array([scale * stretch * (-1 if flip else 1), scale / stretch])
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn = np.array([[cos, -sin], [sin, cos]]) * scale_xy
    out_w, out_h = np.ceil(np.abs(turn) @ (width, height)).astype(int) + 2
    shift = np.array([out_w, out_h]) / 2 - turn @ (width / 2, height / 2)
    matrix = np.column_stack([turn, shift])
    posed = cv2.warpAffine(level, matrix, (int(out_w), int(out_h)), flags=cv2.INTER_LINEAR)
    left, top, wide, high = cv2.boundingRect((posed[..., 3] > 60).astype(np.uint8))
    return np.asarray(posed[top : top + high, left : left + wide], np.uint8)


def paste(canvas: Image, sprite: Image, left: int, top: int, gain: NDArray[np.float32] | float = 1.0) -> None:
    """Draw premultiplied RGBA over ``canvas`` (RGB, in place), cut at its borders, colours times ``gain``."""
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + sprite.shape[0], canvas.shape[0]), min(left + sprite.shape[1], canvas.shape[1])
    if y1 <= y0 or x1 <= x0:
        return
    part = sprite[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.float32)
    ground = canvas[y0:y1, x0:x1]
    drawn = part[..., :3] * gain + ground * (1 - part[..., 3:] / 255)
    ground[:] = drawn.clip(0, 255).astype(np.uint8)


class Scenes:
    """Makes scenes; backgrounds are drawn once into a pool, sprites are kept at four sizes.

    Args:
        cache: the folder that sprites.py filled.
        sets: sprite sets to draw from.
        backgrounds: background families.
        seed: scenes of different seeds have nothing in common but sprites and families.
        pool: backgrounds kept per family.
    """

    def __init__(
        self,
        cache: Path,
        sets: Sequence[str],
        backgrounds: Sequence[Background],
        seed: int,
        pool: int = 150,
    ) -> None:
        cv2.setNumThreads(1)
        sprites = load_sprites(cache, sets)
        self.distractors = sprites.pop("distractor")
        # Older sets lack a class or two.
        self.sprites = {CLASS_NAMES.index(name): sprites[name] for name in CLASS_NAMES if name in sprites}
        self.class_ids = sorted(self.sprites)
        self.seed = seed
        rng = np.random.default_rng((seed, 1))
        self.pool = [draw(rng).clip(0, 255).astype(np.uint8) for draw in backgrounds for _ in range(pool)]
        self.grain = rng.normal(0, 1, (*POOL_HW, 3)).astype(np.float32)

    def background(self, rng: Rng, size_hw: tuple[int, int]) -> Image:
        """A random part of a random background, flipped, its channels swapped and its contrast changed."""
        image = self.pool[int(rng.integers(len(self.pool)))]
        part = rng.uniform(0.45, 1.0)
        high, wide = int(POOL_HW[0] * part), int(POOL_HW[1] * part)
        top, left = int(rng.integers(0, POOL_HW[0] - high + 1)), int(rng.integers(0, POOL_HW[1] - wide + 1))
        image = np.asarray(cv2.resize(image[top : top + high, left : left + wide], size_hw[::-1]), np.uint8)
        if rng.random() < 0.5:
            image = image[:, ::-1]
        if rng.random() < 0.5:
            image = image[..., rng.permutation(3)]
        return np.asarray(
            cv2.convertScaleAbs(np.ascontiguousarray(image), alpha=rng.uniform(0.5, 1.1), beta=rng.uniform(0, 50))
        )

    def _angle(self, rng: Rng) -> float:
        return float(rng.normal(0, 7) if rng.random() < 0.9 else rng.uniform(-35, 35))

    def scene(self, index: int, size_hw: tuple[int, int] = SIZE_HW, most: int = MAX_OBJECTS) -> Scene:
        """Scene number ``index`` of this seed, with at most ``most`` objects."""
        rng = np.random.default_rng((self.seed, 2, index))
        height, width = size_hw
        canvas = np.ascontiguousarray(self.background(rng, size_hw))
        for _ in range(int(rng.integers(1, 4)) if rng.random() < 0.3 else 0):
            levels = self.distractors[int(rng.integers(len(self.distractors)))]
            sprite = pose(levels, rng.uniform(0.1, 0.5) * height, self._angle(rng), rng.random() < 0.5)
            left, top = int(rng.integers(-10, width)), int(rng.integers(-10, height))
            paste(canvas, sprite, left, top, rng.uniform(0.4, 1.0))
        boxes: list[tuple[float, float, float, float]] = []
        class_ids: list[int] = []
        scene_gain = rng.uniform(0.4, 1.0) if rng.random() < 0.3 else 1.0
        for _ in range(int(rng.integers(1, most + 1))):
            repeat = bool(class_ids) and rng.random() < 0.25
            class_id = class_ids[-1] if repeat else self.class_ids[int(rng.integers(len(self.class_ids)))]
            sprites = self.sprites[class_id]
            longer = rng.uniform(*OBJECT_SIZE) * height
            sprite = pose(
                sprites[int(rng.integers(len(sprites)))],
                longer,
                self._angle(rng),
                rng.random() < 0.5,
                float(np.exp(rng.normal(0, 0.06))),
            )
            box = self._place(rng, boxes, sprite.shape[:2], size_hw)
            if box is None:
                continue
            gain = np.asarray(rng.uniform(0.9, 1.1, 3) * rng.uniform(0.65, 1.08) * scene_gain, np.float32)
            paste(canvas, sprite, box[0], box[1], gain)
            x1, y1 = max(box[0], 0), max(box[1], 0)
            boxes.append((x1, y1, min(box[2], width), min(box[3], height)))
            class_ids.append(class_id)
        return Scene(
            self._degrade(rng, canvas),
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(class_ids, np.int64),
        )

    def _place(
        self,
        rng: Rng,
        boxes: list[tuple[float, float, float, float]],
        sprite_hw: tuple[int, int],
        size_hw: tuple[int, int],
    ) -> tuple[int, int, int, int] | None:
        """A free place for a sprite: at most 30 % outside per axis and nothing covered by more than the limit."""
        (high, wide), (height, width) = sprite_hw, size_hw
        limit = 0.55 if rng.random() < 0.3 else 0.12
        for _ in range(6):
            out = 0.3 if rng.random() < 0.2 else 0.0
            left = int(rng.uniform(-out * wide, width - (1 - out) * wide))
            top = int(rng.uniform(-out * high, height - (1 - out) * high))
            right, bottom = left + wide, top + high
            for x1, y1, x2, y2 in boxes:
                shared = max(0, min(right, x2) - max(left, x1)) * max(0, min(bottom, y2) - max(top, y1))
                if shared > limit * min((x2 - x1) * (y2 - y1), wide * high):
                    break
            else:
                return left, top, right, bottom
        return None

    def _degrade(self, rng: Rng, image: Image) -> Image:
        """What cameras and codecs do: blur by motion or focus, grain, contrast, compression."""
        chance = rng.random(4)
        if chance[0] < 0.12:
            length = int(rng.integers(3, 8))
            kernel = np.zeros((length, length), np.float32)
            angle = rng.uniform(0, np.pi)
            reach = np.array([np.cos(angle), np.sin(angle)]) * (length - 1) / 2
            middle = (length - 1) / 2
            ends = [tuple(round(v) for v in middle + sign * reach) for sign in (-1, 1)]
            cv2.line(kernel, ends[0], ends[1], 1.0)
            image = np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), np.uint8)
        elif chance[0] < 0.22:
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.3)), np.uint8)
        if chance[1] < 0.25:
            top = int(rng.integers(0, POOL_HW[0] - image.shape[0] + 1))
            left = int(rng.integers(0, POOL_HW[1] - image.shape[1] + 1))
            grain = self.grain[top : top + image.shape[0], left : left + image.shape[1]] * rng.uniform(2, 14)
            image = (image + grain).clip(0, 255).astype(np.uint8)
        if chance[2] < 0.3:
            image = np.asarray(cv2.convertScaleAbs(image, alpha=rng.uniform(0.7, 1.25), beta=rng.uniform(0, 25)))
        if chance[3] < 0.3:
            packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])[1]
            image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
        return image
