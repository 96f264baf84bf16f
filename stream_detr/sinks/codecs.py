"""Video encoders: which there are, and how each spells quality and speed."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import av
import av.error
from av.codec.codec import UnknownCodecError
from av.video.codeccontext import VideoCodecContext

from stream_detr.errors import SinkError, UsageError

_ALIASES = {"h264": "libx264", "h265": "libx265", "hevc": "libx265", "vp9": "libvpx-vp9", "av1": "libsvtav1"}
_X26X_PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """How to encode. ``crf`` is the codec's own scale of quality, lower is better; ``preset`` trades size for speed.

    A codec without ``crf`` leaves it out. The default preset stands for the like of it in every codec; any other
    has to be one that the codec has.
    """

    codec: str = "libx264"
    crf: int = 20
    preset: str = "veryfast"


@dataclass(frozen=True, slots=True)
class Encoder:
    """What one codec takes: names of the options for quality and preset, their range, and what is always set."""

    quality: str | None = None
    most_quality: int = 51
    preset: str | None = None
    presets: tuple[str, ...] = ()
    usual_preset: str = ""
    always: dict[str, str] = field(default_factory=dict)


_NVENC = Encoder("cq", 51, "preset", tuple(f"p{n}" for n in range(1, 8)), "p4", {"rc": "vbr"})

ENCODERS: dict[str, Encoder] = {
    "libx264": Encoder("crf", 51, "preset", _X26X_PRESETS, "veryfast"),
    "libx265": Encoder("crf", 51, "preset", _X26X_PRESETS, "veryfast", {"x265-params": "log-level=none"}),
    "libvpx-vp9": Encoder(
        "crf",
        63,
        "cpu-used",
        tuple(str(n) for n in range(9)),
        "7",
        {"b": "0", "row-mt": "1", "deadline": "realtime"},
    ),
    "libsvtav1": Encoder("crf", 63, "preset", tuple(str(n) for n in range(14)), "10"),
    "mpeg4": Encoder(always={"flags": "+qscale", "global_quality": str(4 * 118)}),  # quantiser 4 in FF_QP2LAMBDA
    "h264_nvenc": _NVENC,
    "hevc_nvenc": _NVENC,
    "av1_nvenc": _NVENC,
}


def encoder_settings(options: VideoOptions) -> tuple[str, dict[str, str]]:
    """Name of the encoder and its options.

    >>> encoder_settings(VideoOptions("h264", crf=23))
    ('libx264', {'crf': '23', 'preset': 'veryfast'})

    Raises:
        UsageError: no such codec, or a value that it doesn't have.
    """
    name = _ALIASES.get(options.codec, options.codec)
    encoder = ENCODERS.get(name)
    if encoder is None or not _exists(name):
        known = ", ".join(each for each in ENCODERS if _exists(each))
        raise UsageError(f"--codec {options.codec}: no such video encoder here; there are {known}")
    settings = dict(encoder.always)
    if encoder.quality is not None:
        if not 0 <= options.crf <= encoder.most_quality:
            raise UsageError(f"--crf {options.crf}: {name} takes 0 (best) to {encoder.most_quality}")
        settings[encoder.quality] = str(options.crf)
    if encoder.preset is not None:
        preset = encoder.usual_preset if options.preset == VideoOptions().preset else options.preset
        if preset not in encoder.presets:
            raise UsageError(f"--preset {options.preset}: {name} has {', '.join(encoder.presets)}")
        settings[encoder.preset] = preset
    if name.endswith("_nvenc"):
        _try_hardware(name)
    return name, settings


def _exists(name: str) -> bool:
    try:
        return av.Codec(name, "w").type == "video"
    except UnknownCodecError:
        return False


def _try_hardware(name: str) -> None:
    """Open the encoder once: only that tells whether the machine has what it needs."""
    context = av.CodecContext.create(name, "w")
    if not isinstance(context, VideoCodecContext):
        raise UsageError(f"--codec {name}: is no video encoder")
    context.width, context.height, context.pix_fmt = 256, 256, "yuv420p"
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    try:
        context.open()
    except (av.error.FFmpegError, ValueError):
        raise SinkError(f"{name}: needs an NVIDIA GPU and its driver; use --codec libx264") from None
