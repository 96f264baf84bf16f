"""Video over the network: RTSP, RTMP, UDP, HTTP with its live formats (HLS, MJPEG). One connection at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.stream import Discard
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from stream_detr.errors import SourceError
from stream_detr.sources.arrivals import Arrival, LiveOptions, PermanentError
from stream_detr.sources.inputs import Input

SCHEMES = frozenset("rtsp rtsps rtmp rtmps http https udp".split())  # noqa: SIM905

# fpsprobesize and analyzeduration (microseconds) are what ffmpeg would wait for before the first picture.
_RTSP = {"fpsprobesize": "0", "analyzeduration": "200000", "allowed_media_types": "video"}
# UDP is joined anywhere, and what overflows a buffer is lost, not an error. HLS starts at its newest segment.
_OTHERS = {"fpsprobesize": "0", "analyzeduration": "1000000", "overrun_nonfatal": "1", "live_start_index": "-1"}
# Formats that come in pieces of several seconds.
_SEGMENTED = ("hls", "dash")
# A key picture may be this many read timeouts away; then what comes in is no video.
_UNDECODED_TIMEOUTS = 3
_TOO_FAST = 1000
# AVColorSpace numbers that swscale knows; the others (and 2, unspecified) have to be told.
_KNOWN_MATRICES = frozenset((0, 1, 4, 5, 6, 7, 9))


class NetworkSource:
    """Pictures of a stream's best video, as they arrive. The end of the data means that the connection was lost."""

    def __init__(self, given: Input, options: LiveOptions) -> None:
        self._name = given.name
        scheme, path = urlsplit(given.uris[0]).scheme.lower(), urlsplit(given.uris[0]).path
        # Between two segments nothing comes for as long as a segment plays.
        self._patience = options.timeout_seconds[1] * (_UNDECODED_TIMEOUTS if path.endswith((".m3u8", ".mpd")) else 1)
        self._container = _open(given, scheme, (options.timeout_seconds[0], self._patience), options.transport)
        try:
            self._stream = self._video_stream()
        except BaseException:
            self._container.close()
            raise
        # A playlist that is complete has a length, too.
        is_file = scheme in ("http", "https") and self._container.duration is not None
        self.has_end = is_file
        self._comes_fast = is_file or self._container.format.name in _SEGMENTED
        rate = self._stream.average_rate
        self.frame_rate: Fraction | None = rate if rate and rate < _TOO_FAST else None
        self._reformatter = VideoReformatter()

    def __iter__(self) -> Iterator[Arrival]:
        heard = seen = time.monotonic()
        try:
            for packet in self._container.demux(self._stream):
                now = time.monotonic()
                # ffmpeg gives out what it still holds when a read times out, and would wait once more after that.
                if now - heard > self._patience:
                    raise SourceError(f"{self._name}: no data for {now - heard:.0f} s")
                frames = self._decode(packet)
                if not frames and now - seen > self._patience * _UNDECODED_TIMEOUTS:
                    raise SourceError(f"{self._name}: for {now - seen:.0f} s nothing that came in could be decoded")
                for frame in frames:
                    yield Arrival(partial(self._rgb, frame), self._media_seconds(frame))
                    seen = time.monotonic()
                heard = time.monotonic()  # not counting how long the taker took
        except av.error.FFmpegError as error:
            raise SourceError(f"{self._name}: the connection was lost ({_reason(error)})") from None
        if not self.has_end:
            raise SourceError(f"{self._name}: the server closed the connection")

    def close(self) -> None:
        """Close the connection."""
        self._container.close()

    def _video_stream(self) -> VideoStream:
        stream = self._container.streams.best("video")
        if not isinstance(stream, VideoStream) or getattr(stream, "codec_context", None) is None:
            raise PermanentError(f"{self._name}: no video in it that can be decoded; check the address")
        for other in self._container.streams:
            if other is not stream:
                other.discard = Discard.all  # of several qualities, the others are not even downloaded
        stream.thread_type = "SLICE"  # threads that take a frame each would hold back as many frames
        return stream

    def _decode(self, packet: av.Packet[Any]) -> list[VideoFrame]:
        try:
            return self._stream.decode(packet)
        except (av.error.InvalidDataError, av.error.EOFError):
            return []  # packets get lost and damaged on a network

    def _media_seconds(self, frame: VideoFrame) -> float | None:
        return frame.time if self._comes_fast else None

    def _rgb(self, frame: VideoFrame) -> NDArray[np.uint8]:
        matrix: Colorspace | None = None
        if int(frame.colorspace) not in _KNOWN_MATRICES:
            matrix = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
        try:
            rgb = self._reformatter.reformat(frame, format="rgb24", src_colorspace=matrix, dst_colorspace=matrix)
            return np.ascontiguousarray(rgb.to_ndarray(), np.uint8)  # rows may come padded
        except (av.error.FFmpegError, ValueError) as error:
            raise SourceError(f"{self._name}: a picture is damaged ({type(error).__name__})") from None


def _open(given: Input, scheme: str, timeouts: tuple[float, float], transport: str) -> InputContainer:
    name = given.name
    wanted = {"rtsp_transport": transport, **_RTSP} if scheme == "rtsp" else _RTSP if scheme == "rtsps" else _OTHERS
    began = time.monotonic()
    try:
        return av.open(given.uris[0], "r", options=wanted, metadata_errors="replace", timeout=timeouts)
    except (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError) as error:
        raise PermanentError(f"{name}: {_reason(error)}; check user name and password") from None
    except (av.error.HTTPBadRequestError, av.error.ProtocolNotFoundError) as error:
        raise PermanentError(f"{name}: {_reason(error)}; check the address") from None
    except av.error.FFmpegError as error:
        # RTSP gives another reason for a handshake that was interrupted.
        reason = "no answer in time" if time.monotonic() - began >= timeouts[0] else _reason(error)
        raise SourceError(f"{name}: can't be opened ({reason}); check the address and the network") from None


def _reason(error: av.error.FFmpegError) -> str:
    """What went wrong, without the address that ffmpeg adds."""
    if isinstance(error, av.error.ExitError):
        return "no data in time"  # PyAV interrupts the read that lasts too long
    return error.strerror or type(error).__name__
