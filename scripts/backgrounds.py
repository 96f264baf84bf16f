"""Backgrounds of the scenes: each family draws (H, W, 3) float32 RGB in about [0, 255], `POOL_HW` large."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator
POOL_HW = (192, 336)


def _colours(rng: Rng, num: int) -> NDArray[np.float32]:
    return rng.uniform(10, 245, (num, 3)).astype(np.float32)


def _noise(rng: Rng, cells_hw: tuple[int, int], interpolation: int = cv2.INTER_CUBIC) -> NDArray[np.float32]:
    """Smooth noise in about [0, 1] with ``cells_hw`` knots over the picture."""
    knots = rng.random(cells_hw, dtype=np.float32)
    return np.asarray(cv2.resize(knots, POOL_HW[::-1], interpolation=interpolation), np.float32)


def _mix(weight: NDArray[np.floating], low: NDArray[np.float32], high: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(low + (high - low) * weight.clip(0, 1)[..., None], np.float32)


def _axes() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    y, x = np.mgrid[0 : POOL_HW[0], 0 : POOL_HW[1]].astype(np.float32)
    return y / POOL_HW[0], x / POOL_HW[1]


def gradient(rng: Rng) -> NDArray[np.float32]:
    """Two colours along a random direction."""
    y, x = _axes()
    angle = rng.uniform(0, 2 * np.pi)
    low, high = _colours(rng, 2)
    return _mix((x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle) + 0.5, low, high)


def fractal(rng: Rng) -> NDArray[np.float32]:
    """Noise of several octaves between three colours."""
    size = int(rng.integers(2, 6))
    octaves = [_noise(rng, (size << k, size << k + 1)) * 0.5**k for k in range(int(rng.integers(2, 5)))]
    low, middle, high = _colours(rng, 3)
    weight = np.asarray(np.sum(octaves, axis=0), np.float32)
    return _mix(weight - 1, _mix(weight, low, middle), high)


def texture(rng: Rng) -> NDArray[np.float32]:
    """Fine grain, blurred along one axis like wood, water or grass."""
    sigma = rng.uniform(0.6, 8, 2)
    grain = cv2.GaussianBlur(rng.normal(0, 1, POOL_HW), (0, 0), sigmaX=float(sigma[0]), sigmaY=float(sigma[1]))
    grain = grain / (grain.std() + 1e-6)
    base = gradient(rng) * 0.5 + _colours(rng, 1) * 0.5
    return np.asarray(base + grain[..., None] * rng.uniform(8, 35), np.float32)


def clutter(rng: Rng) -> NDArray[np.float32]:
    """Random filled shapes and lines."""
    canvas = gradient(rng)
    for _ in range(int(rng.integers(5, 45))):
        colour = [float(c) for c in _colours(rng, 1)[0]]
        x, y = int(rng.integers(0, POOL_HW[1])), int(rng.integers(0, POOL_HW[0]))
        size = int(rng.integers(4, 60))
        kind = rng.integers(0, 4)
        if kind == 0:
            axes = (size, int(rng.integers(3, 60)))
            cv2.ellipse(canvas, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        elif kind == 1:
            cv2.rectangle(canvas, (x, y), (x + size, y + int(rng.integers(4, 80))), colour, -1)
        elif kind == 2:
            corners = rng.integers(-size, size, (int(rng.integers(3, 7)), 2)) + np.array([x, y])
            cv2.fillPoly(canvas, [corners.astype(np.int32)], colour, cv2.LINE_AA)
        else:
            end = (x + int(rng.integers(-150, 150)), y + int(rng.integers(-150, 150)))
            cv2.line(canvas, (x, y), end, colour, int(rng.integers(1, 6)), cv2.LINE_AA)
    return canvas


def stripes(rng: Rng) -> NDArray[np.float32]:
    """Stripes or a checkerboard, sometimes soft."""
    y, x = _axes()
    angle, count = rng.uniform(0, np.pi), rng.uniform(3, 25)
    wave = np.sin((x * 1.75 * np.cos(angle) + y * np.sin(angle)) * count * np.pi)
    if rng.random() < 0.4:
        wave = wave * np.sin((y * np.cos(angle) - x * 1.75 * np.sin(angle)) * count * np.pi)
    low, high = _colours(rng, 2)
    return _mix(np.asarray(wave * rng.uniform(0.6, 8) + 0.5, np.float32), low, high)


def _puffs(rng: Rng, canvas: NDArray[np.float32], centre: tuple[float, float], colour: list[float]) -> None:
    """A heap of discs of one colour, as trees and clouds are drawn, in place, its edge sometimes soft."""
    size, mask = rng.uniform(5, 16), np.zeros(POOL_HW, np.float32)
    for _ in range(int(rng.integers(2, 6))):
        x, y = centre[0] + rng.normal(0, size), centre[1] + rng.normal(0, size * 0.45)
        cv2.circle(mask, (int(x), int(y)), int(size * rng.uniform(0.6, 1.1)), 1.0, -1, cv2.LINE_AA)
    if rng.random() < 0.5:
        mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.5, 4)), np.float32)
    canvas += (np.array(colour, np.float32) - canvas) * mask[..., None]


def landscape(rng: Rng) -> NDArray[np.float32]:
    """Sky, hills, ground, sometimes houses and a road."""
    y, x = _axes()
    sky = _mix(y * 1.6, *(np.array([[90, 150, 225], [215, 225, 235]], np.float32) + rng.uniform(-60, 30, (2, 3))))
    canvas = np.asarray(sky, np.float32)
    horizon = rng.uniform(0.3, 0.65)
    for layer in range(int(rng.integers(1, 4))):
        ridge = horizon + 0.1 * layer
        for _ in range(3):
            ridge = ridge + rng.uniform(0.01, 0.05) * np.sin(x * rng.uniform(3, 18) + rng.uniform(0, 6))
        green = np.array([90, 140, 70], np.float32) + rng.uniform(-60, 60, 3)
        canvas = np.where((y > ridge)[..., None], green * rng.uniform(0.7, 1.15), canvas)
    canvas = np.ascontiguousarray(canvas, np.float32)
    for _ in range(int(rng.integers(0, 5))):
        _puffs(
            rng, canvas, (rng.uniform(0, POOL_HW[1]), rng.uniform(0, horizon * POOL_HW[0])), [rng.uniform(215, 255)] * 3
        )
    for _ in range(int(rng.integers(0, 10))):
        colour = [float(c) for c in _colours(rng, 1)[0]]
        left, wide = int(rng.integers(0, POOL_HW[1])), int(rng.integers(10, 50))
        floor, tall = int((horizon + rng.uniform(0, 0.15)) * POOL_HW[0]), int(rng.integers(10, 80))
        if rng.random() < 0.4:
            cv2.rectangle(canvas, (left, floor - tall), (left + wide, floor), colour, -1)
        elif rng.random() < 0.3:
            cv2.circle(canvas, (left, floor - tall // 2), wide // 2, colour, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(canvas, (left - 2, floor - 12), (left + 2, floor), [90.0, 70.0, 50.0], -1)
            _puffs(rng, canvas, (left, floor - 22), [rng.uniform(30, 110), rng.uniform(90, 180), rng.uniform(30, 110)])
    if rng.random() < 0.6:
        grey = [float(rng.uniform(60, 170))] * 3
        top, high = int(rng.uniform(0.6, 0.85) * POOL_HW[0]), int(rng.integers(15, 50))
        cv2.rectangle(canvas, (0, top), (POOL_HW[1], top + high), grey, -1)
        for left in range(0, POOL_HW[1], 40):
            cv2.rectangle(canvas, (left, top + high // 2), (left + 18, top + high // 2 + 2), [235.0] * 3, -1)
    return canvas


def mosaic(rng: Rng) -> NDArray[np.float32]:
    """Cells around random points, each of one colour."""
    num = int(rng.integers(15, 90))
    points = rng.random((num, 2)).astype(np.float32)
    y, x = _axes()
    nearest = ((y[..., None] - points[:, 0]) ** 2 + (1.75 * (x[..., None] - points[:, 1])) ** 2).argmin(-1)
    return np.asarray(_colours(rng, num)[nearest], np.float32)


def plasma(rng: Rng) -> NDArray[np.float32]:
    """Interfering waves, every channel its own."""
    y, x = _axes()
    planes = []
    for _ in range(3):
        waves = [np.sin(x * rng.uniform(-30, 30) + y * rng.uniform(-20, 20) + rng.uniform(0, 6)) for _ in range(3)]
        planes.append(128 + 40 * sum(waves))
    return np.asarray(np.stack(planes, -1), np.float32)


def bricks(rng: Rng) -> NDArray[np.float32]:
    """A wall of bricks with mortar and grain."""
    high, wide = int(rng.integers(8, 30)), int(rng.integers(16, 70))
    y, x = np.mgrid[0 : POOL_HW[0], 0 : POOL_HW[1]]
    row = y // high
    shifted = x + (row % 2) * (wide // 2)
    mortar = (y % high < 2) | (shifted % wide < 2)
    shade = rng.uniform(0.75, 1.2, (POOL_HW[0] // high + 1, POOL_HW[1] // wide + 3))[row, shifted // wide]
    wall = np.where(mortar[..., None], _colours(rng, 1), _colours(rng, 1) * shade[..., None])
    return np.asarray(wall + rng.normal(0, 6, (*POOL_HW, 1)), np.float32)


Background = Callable[[Rng], NDArray[np.float32]]

TRAIN_BACKGROUNDS: tuple[Background, ...] = (
    gradient,
    fractal,
    texture,
    clutter,
    stripes,
    landscape,
    landscape,  # twice: what cameras see most
)
UNSEEN_BACKGROUNDS: tuple[Background, ...] = (mosaic, plasma, bricks)
