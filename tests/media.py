"""Tiny clips, made on the spot with PyAV. Grey levels tell the frames apart, whatever the codec does to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

NUM_LEVELS = 16
_LEVEL_STEP = 14

Draw = Callable[[int, int, int], NDArray[np.uint8]]


def grey_level(index: int) -> int:
    """Grey of frame ``index``; neighbours are 14 levels apart, and it starts over after 16 frames."""
    return 20 + _LEVEL_STEP * (index % NUM_LEVELS)


def grey(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of one grey."""
    return np.full((height, width, 3), grey_level(index), np.uint8)


def corner(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """Dark, with a bright upper left quarter: shows how a picture was turned. (H, W, 3) uint8 RGB."""
    image = np.full((height, width, 3), 30, np.uint8)
    image[: height // 2, : width // 2] = 220
    return image


def noise(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """Costs the encoder many bytes a frame. (H, W, 3) uint8 RGB."""
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)


def frame_number(image: NDArray[np.uint8]) -> int:
    """Which of 16 grey levels a decoded frame shows."""
    return round((float(image.mean()) - 20) / _LEVEL_STEP)


def make_clip(
    path: Path,
    *,
    num_frames: int = 10,
    size: tuple[int, int] = (64, 48),
    rate: Fraction | int = 25,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    draw: Draw = grey,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rotation: int = 0,
    mirrored: bool = False,
    audio: str | None = None,
    options: dict[str, str] | None = None,
    tags: dict[str, int] | None = None,
) -> Path:
    """Write a clip: ``num_frames`` at ``rate``, or one for each of ``pts`` in ticks of ``time_base``.

    ``rotation`` is anticlockwise, in degrees; ``audio`` a codec for one second of a tone for each of video;
    ``options`` go to the container, ``tags`` to the video's codec context (colorspace, color_range, ...).
    """
    width, height = size
    clock = time_base or 1 / Fraction(rate)
    with av.open(str(path), "w", container_options=options or {}) as container:
        video: Any = container.add_stream(codec, rate=rate, width=width, height=height)
        video.pix_fmt = pix_fmt
        video.codec_context.time_base = clock
        for name, value in (tags or {}).items():
            setattr(video.codec_context, name, value)
        if rotation or mirrored:
            video.set_display_rotation(rotation, hflip=mirrored)
        sound: Any = container.add_stream(audio, rate=48000) if audio else None
        times = range(num_frames) if pts is None else pts
        for index, ticks in enumerate(times):
            frame = av.VideoFrame.from_ndarray(draw(index, width, height), "rgb24")
            frame.pts, frame.time_base = ticks, clock
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            seconds = float((times[-1] - times[0] + 1) * clock)
            _add_tone(container, sound, seconds)
    return path


def make_audio(path: Path, codec: str = "aac") -> Path:
    """A file with sound only."""
    with av.open(str(path), "w") as container:
        _add_tone(container, container.add_stream(codec, rate=48000), 0.5)
    return path


def _add_tone(container: Any, stream: Any, seconds: float) -> None:
    context = stream.codec_context
    context.open(strict=False)
    chunk = context.frame_size or 1024
    resampler = av.AudioResampler(context.format.name, context.layout.name, 48000, frame_size=chunk)
    for start in range(0, int(seconds * 48000), chunk):
        tone = (8000 * np.sin(np.arange(start, start + chunk) / 20)).astype(np.int16)
        sound = av.AudioFrame.from_ndarray(np.tile(tone, (2, 1)), "s16p", "stereo")
        sound.sample_rate, sound.pts, sound.time_base = 48000, start, Fraction(1, 48000)
        for frame in resampler.resample(sound):
            container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def cut_short(path: Path, share: float) -> Path:
    """Keep only the first part of a file's bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def times(path: Path | str) -> list[Fraction]:
    """Presentation times of the frames of a file, in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [
            frame.pts * Fraction(frame.time_base or 0) for frame in container.decode(stream) if frame.pts is not None
        ]


def images(path: Path | str) -> list[NDArray[Any]]:
    """The frames of a file, (H, W, 3) uint8 RGB each."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def audio_packets(path: Path | str) -> list[tuple[Fraction, bytes]]:
    """Time in seconds and bytes of each audio packet of a file."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in packets if packet.pts is not None]
