"""The other end of `stream_detr.sinks.publish`, a process of its own: ``python -m stream_detr.sinks.relay``.

Connecting and closing hold Python's lock in PyAV, for as long as the receiver likes. Here that stops nobody, and what
hangs can be killed.

Standard input has a line of JSON, then pictures: an int64 with microseconds since the first, and I420 bytes. Standard
output says ``ready`` when the receiver is there, and what went wrong.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any, BinaryIO

import av
import av.error
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc
from av.video.stream import VideoStream

READY = "ready"
TIME = struct.Struct("<q")
_CLOCK = Fraction(1, 90_000)
_KEYFRAME_MICROSECONDS = 2_000_000  # a receiver that comes later waits so long for its first picture
_MOST_FRAMES_BETWEEN_KEYFRAMES = 600
_SMPTE170M = 6  # AVCOL_SPC_SMPTE170M: BT.601's matrix, what cv2 converts with
_LOW_LATENCY = {"preset": "veryfast", "tune": "zerolatency", "crf": "23"}


def relay(source: BinaryIO, say: Callable[[str], None]) -> None:
    """Encode the pictures of ``source`` with as little delay as can be, and send them on until they end."""
    plan = json.loads(source.readline())
    width, height = plan["width"], plan["height"]
    num_bytes = width * height * 3 // 2
    try:
        container = av.open(plan["uri"], "w", format=plan["format"], container_options=plan["options"])
        try:
            stream = _stream(container, width, height, plan["frame_rate"])
            container.start_encoding()
            say(READY)
            next_key = 0
            while len(head := source.read(TIME.size)) == TIME.size and len(data := source.read(num_bytes)) == num_bytes:
                [microseconds] = TIME.unpack(head)
                frame = VideoFrame.from_ndarray(
                    np.frombuffer(data, np.uint8).reshape(height * 3 // 2, width), format="yuv420p"
                )
                _tag(frame)
                frame.time_base = _CLOCK
                frame.pts = round(Fraction(microseconds, 1_000_000) / _CLOCK)
                if microseconds >= next_key:
                    frame.pict_type = PictureType.I
                    next_key = microseconds + _KEYFRAME_MICROSECONDS
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        finally:
            container.close()
    except (av.error.FFmpegError, OSError, ValueError) as error:
        # Not its text: that has the address, and with it maybe a password.
        say(getattr(error, "strerror", None) or type(error).__name__)


def _stream(container: OutputContainer, width: int, height: int, frame_rate: str) -> VideoStream:
    stream = container.add_stream("libx264", rate=Fraction(frame_rate), options=_LOW_LATENCY)
    assert isinstance(stream, VideoStream)
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base, context.gop_size = _CLOCK, _MOST_FRAMES_BETWEEN_KEYFRAMES
    _tag(context)
    return stream


def _tag(tagged: Any) -> None:
    tagged.colorspace, tagged.color_range = _SMPTE170M, ColorRange.MPEG
    tagged.color_primaries, tagged.color_trc = ColorPrimaries.BT709, ColorTrc.BT709


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    relay(sys.stdin.buffer, _say)
