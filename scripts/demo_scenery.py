"""What stands still in the demo clip, and its music."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 540, 960
HORIZON = 260
SAMPLE_RATE = 44_100


def vertical(colours: list[tuple[int, tuple[int, int, int]]]) -> NDArray[np.float32]:
    """A picture whose rows run through the given (row, RGB) stops."""
    rows = np.arange(HEIGHT)
    stops = [row for row, _ in colours]
    planes = [np.interp(rows, stops, [colour[channel] for _, colour in colours]) for channel in range(3)]
    return np.repeat(np.stack(planes, -1).astype(np.float32)[:, None], WIDTH, axis=1)


def blend(canvas: NDArray[np.float32], mask: NDArray[np.float32], colour: tuple[float, float, float]) -> None:
    """Lay a colour over ``canvas`` in place where ``mask`` (H, W) in [0, 1] says."""
    canvas += (np.array(colour, np.float32) - canvas) * mask[..., None]


def soft_ellipse(x: float, y: float, wide: float, high: float, softness: float) -> NDArray[np.float32]:
    """1 inside an ellipse, falling to 0 over ``softness`` of its radius."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    distance = np.sqrt(((columns - x) / wide) ** 2 + ((rows - y) / high) ** 2)
    return np.asarray(((1 - distance) / softness).clip(0, 1), np.float32)


def ridge(base: float, waves: list[tuple[float, float, float]]) -> NDArray[np.float32]:
    """Antialiased mask of what lies below a sum of sines (height, length, phase)."""
    columns = np.arange(WIDTH)
    line = base - sum(high * np.sin(columns / length + phase) for high, length, phase in waves)
    return np.asarray((np.arange(HEIGHT)[:, None] - line + 0.5).clip(0, 1), np.float32)


def tree(canvas: NDArray[np.float32], x: float, foot: float, size: float, colour: tuple[float, float, float]) -> None:
    """A round tree with a light side."""
    trunk = (round(x - size * 0.06), round(foot - size * 0.5)), (round(x + size * 0.06), round(foot))
    cv2.rectangle(canvas, *trunk, (110.0, 84.0, 62.0), -1)
    light = tuple(min(255.0, value * 1.16) for value in colour)
    for dx, dy, radius in ((0, -0.78, 0.36), (-0.22, -0.6, 0.28), (0.22, -0.6, 0.28)):
        blend(canvas, soft_ellipse(x + dx * size, foot + dy * size, radius * size, radius * size, 0.06), colour)
    blend(
        canvas,
        soft_ellipse(x - 0.1 * size, foot - 0.86 * size, 0.2 * size, 0.17 * size, 0.5),
        (light[0], light[1], light[2]),
    )


def scenery() -> NDArray[np.float32]:
    """Everything that stands still."""
    rng = np.random.default_rng(5)
    canvas = vertical([(0, (96, 168, 232)), (150, (168, 214, 245)), (260, (253, 233, 205)), (540, (253, 233, 205))])
    for radius, strength in ((150, 0.35), (80, 0.45), (34, 1.0)):
        glow = soft_ellipse(742, 92, radius, radius, 0.08 if strength == 1.0 else 1.0) * strength
        blend(canvas, glow, (255, 244, 205))
    blend(canvas, ridge(228, [(26, 70, 0.4), (14, 31, 2.0), (5, 12, 1.0)]), (158, 184, 212))
    blend(canvas, ridge(246, [(18, 96, 2.2), (8, 40, 0.3)]), (132, 178, 160))
    blend(canvas, ridge(268, [(14, 150, 4.0), (5, 60, 1.0)]), (126, 190, 116))
    for x, size in ((46, 74), (104, 58), (168, 66), (452, 54), (502, 70), (560, 56), (770, 60), (918, 78)):
        tree(canvas, x, 280 + (x % 7), size, (84.0 + x % 23, 150.0 + x % 17, 84.0))
    meadow = ridge(278, [(5, 120, 1.0)])
    blend(canvas, meadow, (140, 200, 108))
    shade = vertical([(0, (0, 0, 0)), (270, (0, 0, 0)), (335, (18, 26, 10)), (336, (0, 0, 0)), (540, (0, 0, 0))])
    canvas += shade
    canvas[334:352] = (214, 206, 194)
    canvas[348:352] = (176, 168, 158)
    canvas[352:458] = vertical([(352, (96, 100, 110)), (458, (84, 88, 98))])[352:458]
    for left in range(-20, WIDTH, 96):
        cv2.rectangle(canvas, (left, 402), (left + 52, 407), (240.0, 232.0, 200.0), -1)
    canvas[458:464] = (222, 214, 202)
    canvas[464:] = vertical([(464, (150, 204, 104)), (540, (112, 172, 82))])[464:]
    path = ridge(492, [(3, 90, 0.0)])
    path[:490] = 0
    blend(canvas, path * 0.85, (226, 206, 164))
    for _ in range(70):
        x, y = int(rng.integers(0, WIDTH)), int(rng.integers(468, 488))
        colour = [(250.0, 240.0, 250.0), (250.0, 214.0, 90.0), (240.0, 130.0, 150.0)][int(rng.integers(3))]
        cv2.circle(canvas, (x, y), 2, colour, -1, cv2.LINE_AA)
    cv2.rectangle(canvas, (855, 290), (861, 344), (92.0, 96.0, 104.0), -1)
    canvas += rng.normal(0, 1.2, (HEIGHT, WIDTH, 1)).astype(np.float32)
    return canvas


def cloud(size: float) -> NDArray[np.float32]:
    """Soft mask (H, W) of a cloud in the middle of the picture."""
    puffs = ((-0.8, 0.1, 0.5), (-0.3, -0.25, 0.62), (0.3, -0.1, 0.55), (0.85, 0.12, 0.42), (0, 0.15, 0.7))
    parts = [soft_ellipse(480 + dx * size, 270 + dy * size, r * size, r * size * 0.62, 0.7) for dx, dy, r in puffs]
    return np.asarray(np.max(parts, axis=0) * 0.85, np.float32)


def music(seconds: int) -> NDArray[np.float32]:
    """A calm tune of plucked tones over slow chords -> (samples,) in [-1, 1]."""
    total = SAMPLE_RATE * seconds
    out = np.zeros(total + 4 * SAMPLE_RATE, np.float32)
    chords = ((48, 55, 64), (45, 52, 60), (41, 48, 57), (43, 50, 59), (48, 55, 64))
    tune = "72 76 79 76 81 79 76 72 69 72 76 74 72 69 67 72 74 76 79 81 79 76 74 72 76 79 84 79 76 74 72"

    def tone(midi: int, start: float, length: float, gain: float, attack: float, decay: float) -> None:
        time = np.arange(int(length * SAMPLE_RATE)) / SAMPLE_RATE
        pitch = 440 * 2 ** ((midi - 69) / 12)
        wave = (
            np.sin(2 * np.pi * pitch * time)
            + 0.3 * np.sin(4 * np.pi * pitch * time)
            + 0.08 * np.sin(6 * np.pi * pitch * time)
        )
        shape = np.minimum(1, time / attack) * np.exp(-time / decay) * np.minimum(1, (length - time) / 0.05)
        first = int(start * SAMPLE_RATE)
        out[first : first + len(time)] += (wave * shape * gain).astype(np.float32)

    for number, chord in enumerate(chords):
        for midi in chord:
            tone(midi, number * 2.0, 2.4, 0.10, 0.25, 2.2)
    for number, midi in enumerate(map(int, tune.split())):
        tone(midi, 0.25 + number * 0.3, 1.4, 0.20 if number % 4 == 0 else 0.14, 0.006, 0.4)
    out = out[:total]
    time = np.arange(total) / SAMPLE_RATE
    out *= (np.minimum(1, time / 0.1) * np.minimum(1, (seconds - time) / 0.8)).astype(np.float32)
    return np.asarray(out / np.abs(out).max() * 0.6, np.float32)
