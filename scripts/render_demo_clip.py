"""Render the demo clip and its exact truth: stream_detr/demo.mp4 and stream_detr/demo.json.

    python scripts/render_demo_clip.py --sprites CACHE [--out FOLDER] [--still SECONDS]

Sprites are Noto's (Apache 2.0), everything else is drawn and played here. The truth lists, per frame, the whole box of
every object (cut at the frame) of which at least a third can be seen.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from demo_scenery import HEIGHT, HORIZON, SAMPLE_RATE, WIDTH, blend, cloud, music, scenery
from numpy.typing import NDArray
from scenes import paste, read_sprite

RATE, SECONDS = 25, 10
SEEN_SHARE = 1 / 3
Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Actor:
    """A sprite and its way. ``begin`` and ``end`` are (seconds, x of the middle, y of the feet); ``height_px`` is the
    sprite's longer side; ``hops`` are steps a second, ``sway`` degrees; ``shadow`` on the ground or not."""

    class_name: str
    code: str
    begin: tuple[float, float, float]
    end: tuple[float, float, float]
    longer_px: float
    flip: bool = False
    hops: float = 0.0
    hop_px: float = 0.0
    sway: float = 0.0
    angle: float = 0.0
    wave_px: float = 0.0
    shadow: bool = True

    def at(self, seconds: float) -> tuple[float, float, float]:
        """x, y and angle at a time; beyond its span an actor goes on along its line."""
        t0, x0, y0 = self.begin
        t1, x1, y1 = self.end
        part = (seconds - t0) / (t1 - t0)
        phase = np.pi * self.hops * seconds
        hop = abs(np.sin(phase)) * self.hop_px
        wave = self.wave_px * np.sin(2 * np.pi * seconds / 2.7)
        return x0 + (x1 - x0) * part, y0 + (y1 - y0) * part - hop + wave, self.angle + self.sway * np.sin(phase)


# From the back to the front.
CAST = (
    Actor("airplane", "2708", (0, 40, 152), (7, 1050, 122), 136, angle=28, shadow=False),
    Actor("horse", "1f40e", (0, 200, 328), (10, 340, 328), 164, flip=True, hops=2, hop_px=3, sway=2),
    Actor("sheep", "1f411", (0, 700, 326), (10, 650, 326), 142, hops=1.2, hop_px=2, sway=2),
    Actor("traffic light", "1f6a6", (0, 868, 296), (10, 868, 296), 138, shadow=False),
    Actor("bird", "1f99c", (0.6, -70, 186), (10.4, 930, 168), 134, flip=True, hops=3, sway=6, wave_px=8, shadow=False),
    Actor("bus", "1f68c", (0.2, 1090, 400), (5.8, -140, 400), 206, hops=5, hop_px=1.2),
    Actor("cat", "1f408", (4.2, 1050, 406), (8.4, -90, 406), 132, hops=4, hop_px=8, sway=4),
    Actor("car", "1f697", (0.4, -110, 452), (5.0, 1080, 452), 196, flip=True, hops=6, hop_px=1.2),
    Actor("truck", "1f69a", (7.4, -130, 454), (11.6, 1000, 454), 206, flip=True, hops=5, hop_px=1.2),
    Actor("dog", "1f415", (1.2, 1020, 524), (7.6, -80, 524), 150, hops=3, hop_px=6, sway=3),
    Actor("bicycle", "1f6b2", (6.6, -100, 528), (10.2, 400, 528), 176, flip=True, hops=3, sway=1.5),
    Actor("person", "1f6b6", (0, 110, 534), (10, 700, 534), 204, flip=True, hops=1.8, hop_px=5, sway=3),
)


def placed(sprite: Image, actor: Actor, seconds: float) -> tuple[Image, int, int]:
    """The actor as it stands in the frame, to a fraction of a pixel.

    Returns:
        (H, W, 4) uint8 premultiplied RGBA, and the column and row of its first pixel in the frame.
    """
    x, y, angle = actor.at(seconds)
    high, wide = sprite.shape[:2]
    scale = actor.longer_px / max(high, wide)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn = np.array([[cos, -sin], [sin, cos]]) * scale @ np.diag([-1.0 if actor.flip else 1.0, 1.0])
    # The middle of the sprite's lower edge stands at (x, y).
    shift = np.array([x, y]) - turn @ (wide / 2, high)
    ends = np.array([(0, 0), (wide, 0), (0, high), (wide, high)]) @ turn.T + shift
    left, top = (int(v) - 2 for v in np.floor(ends.min(0)))
    size = (int(ends[:, 0].max()) - left + 3, int(ends[:, 1].max()) - top + 3)
    matrix = np.column_stack([turn, shift - (left, top)])
    smooth = cv2.GaussianBlur(sprite, (0, 0), 0.35 / scale) if scale < 0.7 else sprite
    return np.asarray(cv2.warpAffine(smooth, matrix, size, flags=cv2.INTER_LINEAR), np.uint8), left, top


def render(
    seconds: float,
    ground: NDArray[np.float32],
    clouds: list[NDArray[np.float32]],
    sprites: dict[str, Image],
) -> tuple[Image, list[dict[str, object]]]:
    """One frame (H, W, 3) uint8 RGB and its truth."""
    sky = ground.copy()
    for mask, (x, y, speed) in zip(clouds, ((150, 70, 9.0), (520, 48, 6.0), (880, 118, 7.5)), strict=True):
        matrix = np.array([[1, 0, x + speed * seconds - 480], [0, 1, y - 270]], np.float64)
        moved = cv2.warpAffine(mask, matrix, (WIDTH, HEIGHT))[:HORIZON]
        blend(sky[:HORIZON], np.asarray(moved, np.float32), (255, 255, 255))
    canvas = sky.clip(0, 255).astype(np.uint8)
    boxes: list[tuple[int, int, int, int]] = []
    sizes: list[int] = []
    front = np.full((HEIGHT, WIDTH), -1)
    for number, actor in enumerate(CAST):
        drawn, left, top = placed(sprites[actor.code], actor, seconds)
        solid = (drawn[..., 3] > 90).astype(np.uint8)
        column, row, wide, high = cv2.boundingRect(solid)
        if actor.shadow:
            draw_shadow(canvas, actor.at(seconds)[0], actor.begin[2] - 1, wide * 0.46)
        paste(canvas, drawn, left, top)
        y0, x0 = max(top, 0), max(left, 0)
        part = front[y0 : max(0, top + drawn.shape[0]), x0 : max(0, left + drawn.shape[1])]
        part[solid[y0 - top :, x0 - left :][: part.shape[0], : part.shape[1]] > 0] = number
        sizes.append(int(solid.sum()))
        x1, y1, x2, y2 = left + column, top + row, left + column + wide, top + row + high
        boxes.append((max(x1, 0), max(y1, 0), min(x2, WIDTH), min(y2, HEIGHT)))
    truth: list[dict[str, object]] = []
    for number, (actor, box, size) in enumerate(zip(CAST, boxes, sizes, strict=True)):
        seen = float((front == number).sum()) / max(1, size)
        if seen >= SEEN_SHARE:
            truth.append({"id": number, "class": actor.class_name, "box": box, "seen": round(seen, 3)})
    return canvas, truth


def draw_shadow(canvas: Image, x: float, y: float, reach: float) -> None:
    """A soft dark ellipse on the ground, in place."""
    margin = int(reach) + 2
    left, right = max(0, int(x) - margin), min(WIDTH, int(x) + margin)
    if right <= left:
        return
    part = canvas[int(y) - 10 : int(y) + 11, left:right]
    rows, columns = np.mgrid[0 : part.shape[0], 0 : part.shape[1]].astype(np.float32)
    distance = np.sqrt(((columns + left - x) / reach) ** 2 + ((rows + int(y) - 10 - y) / 9) ** 2)
    darkness = ((1 - distance) / 0.8).clip(0, 1)[..., None] * 0.32
    part[:] = part + (np.array([30, 36, 30]) - part) * darkness


def encode(path: Path, frames: list[Image]) -> None:
    """H.264 and AAC in MP4, tagged as the BT.601 limited range that the conversion makes."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        video = container.add_stream("libx264", rate=RATE)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.options = {"crf": "23", "preset": "slow"}
        context = video.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 6, 1, 1, 1
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        audio.bit_rate = 96_000
        for image in frames:
            planes = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420), np.uint8)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.colorspace, frame.color_range = 6, 1
            container.mux(video.encode(frame))
        container.mux(video.encode())
        samples = music(SECONDS)
        for first in range(0, len(samples), 1024):
            block = av.AudioFrame.from_ndarray(samples[None, first : first + 1024], format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = SAMPLE_RATE, first, Fraction(1, SAMPLE_RATE)
            container.mux(audio.encode(block))
        container.mux(audio.encode())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sprites", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "stream_detr")
    parser.add_argument(
        "--still", type=float, nargs="*", default=None, help="only write frames at these seconds as PNG"
    )
    args = parser.parse_args()
    sprites = {
        actor.code: read_sprite(args.sprites / "noto" / f"{actor.class_name}-{actor.code}.png") for actor in CAST
    }
    ground, clouds = scenery(), [cloud(70), cloud(52), cloud(60)]
    if args.still is not None:
        for seconds in args.still:
            image, truth = render(seconds, ground, clouds, sprites)
            for one in truth:
                print(seconds, one)
            cv2.imwrite(str(args.out / f"still_{seconds:g}.png"), image[..., ::-1])
        return
    frames, truths, num_boxes = [], [], 0
    for index in range(RATE * SECONDS):
        image, truth = render(index / RATE, ground, clouds, sprites)
        frames.append(image)
        truths.append({"index": index, "objects": truth})
        num_boxes += len(truth)
    encode(args.out / "demo.mp4", frames)
    content = {"width": WIDTH, "height": HEIGHT, "frame_rate": RATE, "frames": truths}
    (args.out / "demo.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
    print(f"{len(frames)} frames, {num_boxes} boxes")


if __name__ == "__main__":
    main()
