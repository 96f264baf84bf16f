"""Video from a file, an http(s) address or a pipe: every frame, upright, with the timestamps it has."""

from __future__ import annotations

import logging
import os
import select
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from typing import Any, BinaryIO, Self

import av
import av.error
import cv2
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from stream_detr.errors import SourceError
from stream_detr.sources.audio import PacketQueue
from stream_detr.sources.inputs import STDIN, Input, is_remote
from stream_detr.structures import Frame, StreamInfo

log = logging.getLogger("stream_detr")

# Connecting, and waiting for data; without them a server that has stalled blocks for ever.
_TIMEOUTS_SECONDS = (20.0, 30.0)
# A stream that ends this much earlier than its header says was cut off.
_MISSING_SECONDS = 1.0
# AVColorSpace numbers that swscale knows; the others (and 2, unspecified) have to be told.
_KNOWN_MATRICES = frozenset((0, 1, 4, 5, 6, 7, 9))


class VideoSource:
    """Frames of the best video stream of a container, and its audio on the side, read in one pass.

    The first frame is decoded at once: only it tells the size and whether the stream can be read at all. A file
    that breaks off gives the frames it has and logs a warning.
    """

    def __init__(self, given: Input) -> None:
        self._name = given.name
        self._again = "download it first" if is_remote(given.uris[0]) else "try it again from a copy"
        self._pipe = _stdin() if given.uris[0] == STDIN else None
        self._container = _open(given, self._pipe)
        try:
            self._stream = self._video_stream()
            self._time_base = self._stream.time_base or Fraction(1, 1000)
            sound = self._container.streams.best("audio")
            self.audio = PacketQueue(sound) if isinstance(sound, av.AudioStream) else None
            self._streams = [self._stream, sound] if sound is not None else [self._stream]
            self._reformatter = VideoReformatter()
            self._rotation: int | None = None
            self._display_matrix: NDArray[np.int32] | None = None
            self._num_damaged = 0
            self._end_seconds = 0.0
            pictures = self._pictures()
            first = next(pictures, None)
            if first is None:
                raise SourceError(f"{self._name}: not one frame can be decoded; it is damaged or cut off")
            self._waiting = chain((first,), pictures)
            self.info = self._describe(first[1])
        except BaseException:
            self._container.close()
            raise

    def __iter__(self) -> Iterator[Frame]:
        for index, (pts, image) in enumerate(self._waiting):
            yield Frame(image, index, pts, self._time_base, time.monotonic(), self.info)

    def close(self) -> None:
        """Close the file or connection."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _video_stream(self) -> VideoStream:
        """The stream to show; cover art is a picture, but not video."""
        streams = self._container.streams
        moving = [each for each in streams.video if not each.disposition & Disposition.attached_pic]
        if not moving:
            others = ", ".join(sorted({each.type for each in streams if each.type != "video"}))
            raise SourceError(
                f"{self._name}: has no video in it (only {others or 'a cover picture'}); give one that has"
            )
        best = streams.best("video")
        stream = next((each for each in moving if each is best), moving[0])
        if getattr(stream, "codec_context", None) is None:
            raise SourceError(f"{self._name}: its video codec is not known here; convert it to H.264 first")
        stream.thread_type = "AUTO"
        return stream

    def _describe(self, first: NDArray[np.uint8]) -> StreamInfo:
        height, width = first.shape[:2]
        rate = self._stream.average_rate or self._stream.guessed_rate
        num_frames = self._stream.frames or None
        if num_frames is None and rate and self._container.duration:
            num_frames = round(Fraction(self._container.duration, av.time_base) * rate) or None
        return StreamInfo(self._name, width, height, rate or None, num_frames)

    def _pictures(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Timestamp and picture of every frame; where the stream has no timestamps, its frame rate makes them."""
        rate = self._stream.average_rate or self._stream.guessed_rate or 25
        step = max(1, round(1 / (rate * self._time_base)))
        pts = -step
        for frame in self._decoded():
            pts = pts + step if frame.pts is None else frame.pts
            yield pts, self._upright_rgb(frame)

    def _decoded(self) -> Iterator[VideoFrame]:
        held: av.Packet[Any] | None = None
        for packet in self._demuxed():
            if held is not None:
                yield from self._decode(held)
            # The last packet of a file that breaks off is a part of one. Decoded, it would take the frames still
            # waiting in the decoder's threads with it; damaged ones further up are worth a try.
            held = packet if packet.is_corrupt else None
            if held is None:
                yield from self._decode(packet)
        yield from self._decode(None)
        self._warn(is_cut=held is not None)

    def _demuxed(self) -> Iterator[av.Packet[Any]]:
        """Video packets in order; audio packets go into their queue."""
        try:
            for packet in self._container.demux(self._streams):
                if packet.size == 0:
                    continue  # PyAV's sign that a stream has ended
                ticks = packet.pts if packet.pts is not None else packet.dts
                if ticks is not None:
                    end = (ticks + (packet.duration or 0)) * packet.time_base
                    self._end_seconds = max(self._end_seconds, float(end))
                if packet.stream.type == "video":
                    yield packet
                elif self.audio is not None:
                    self.audio.put(packet)
        except (av.error.InvalidDataError, av.error.EOFError):
            self._num_damaged += 1
        except av.error.FFmpegError as error:
            raise SourceError(f"{self._name}: reading broke off ({_reason(error)}); {self._again}") from None
        if isinstance(self._pipe, _Pipe) and self._pipe.is_stalled:
            seconds = _TIMEOUTS_SECONDS[1]
            raise SourceError(f"{self._name}: no data for {seconds:.0f} s; check the program that writes into the pipe")
        if self.audio is not None:
            self.audio.finish()

    def _decode(self, packet: av.Packet[Any] | None) -> list[VideoFrame]:
        try:
            return self._stream.decode(packet)
        except av.error.EOFError:
            return []
        except av.error.InvalidDataError:
            self._num_damaged += 1
            return []
        except av.error.FFmpegError as error:
            raise SourceError(f"{self._name}: decoding broke off ({_reason(error)}); convert it first") from None

    def _warn(self, *, is_cut: bool) -> None:
        """One line when not everything that the file promised has come out of it."""
        if is_cut or self._promised_seconds() - self._end_seconds > _MISSING_SECONDS:
            log.warning("%s: the file is cut off; used the frames up to %.1f s", self._name, self._end_seconds)
        elif self._num_damaged:
            log.warning("%s: %d damaged parts were left out", self._name, self._num_damaged)

    def _promised_seconds(self) -> float:
        """Where the header says that picture and sound end, at least: Matroska counts from 0, others from the start."""
        own = [each.duration * each.time_base for each in self._streams if each.duration and each.time_base]
        return float(max(own)) if own else (self._container.duration or 0) / av.time_base

    def _upright_rgb(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, by the range and matrix the frame is tagged with, turned as the file says."""
        matrix: Colorspace | None = None
        if int(frame.colorspace) not in _KNOWN_MATRICES:
            # What players take an untagged stream for.
            matrix = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
        converted = self._reformatter.reformat(frame, format="rgb24", src_colorspace=matrix, dst_colorspace=matrix)
        image = np.ascontiguousarray(converted.to_ndarray(), np.uint8)  # rows may come padded
        # Looking at side data ties the frame into a cycle that lives until the next garbage collection, so it is
        # done once, and again should the angle change.
        if frame.rotation != self._rotation:
            self._rotation = frame.rotation
            side_data: Any = frame.side_data
            matrix_bytes = side_data.get("DISPLAYMATRIX")
            self._display_matrix = None if matrix_bytes is None else np.frombuffer(matrix_bytes, np.int32).copy()
        return image if self._display_matrix is None else turned(image, self._display_matrix)


def turned(image: NDArray[np.uint8], display_matrix: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Apply a container's display matrix, for quarter turns and mirrorings, which are all that cameras write.

    Args:
        image: (H, W, 3).
        display_matrix: (9,) of ISO 14496-12, row by row: x' = m[0] x + m[3] y and y' = m[1] x + m[4] y. Reading the
            matrix itself, not an angle, keeps mirrored pictures apart and needs no convention of sign.
    """
    a, b, c, d = (int(display_matrix[place]) for place in (0, 1, 3, 4))
    if abs(b) + abs(c) > abs(a) + abs(d):
        image = np.asarray(cv2.transpose(image), np.uint8)
        a, d = c, b
    if a < 0 or d < 0:
        code = -1 if a < 0 and d < 0 else 1 if a < 0 else 0  # cv2: both ways, left to right, upside down
        image = np.asarray(cv2.flip(image, code), np.uint8)
    return image


def _open(given: Input, pipe: BinaryIO | _Pipe | None) -> InputContainer:
    uri, name = given.uris[0], given.name
    try:
        if pipe is not None:
            return av.open(pipe, "r", metadata_errors="replace")
        if is_remote(uri):
            return av.open(uri, "r", metadata_errors="replace", timeout=_TIMEOUTS_SECONDS)
        # Made absolute: ffmpeg takes a relative name with a colon for a protocol.
        return av.open(os.path.abspath(uri), "r", metadata_errors="replace")
    except av.error.FileNotFoundError:
        raise SourceError(f"{name}: no such file; check the path") from None
    except av.error.HTTPError as error:
        raise SourceError(f"{name}: {_reason(error)}; check the address") from None
    except (av.error.InvalidDataError, av.error.EOFError):
        if uri != STDIN and not is_remote(uri) and os.path.getsize(uri) == 0:
            raise SourceError(f"{name}: is empty (0 bytes); record or download it again") from None
        hint = "a pipe needs a format that plays while it comes in, such as mkv" if uri == STDIN else "try to play it"
        raise SourceError(
            f"{name}: not a video that can be read, damaged, or cut off before its index; {hint}"
        ) from None
    except av.error.FFmpegError as error:
        remedy = "check the address and the network" if is_remote(uri) else "check that it is a readable file"
        raise SourceError(f"{name}: can't be opened ({_reason(error)}); {remedy}") from None


class _Pipe:
    """What is piped in, read without Python's buffer, whose lock a stalled read would hold for ever.

    A stall reads as the end, with ``is_stalled`` set: an exception would be dropped by PyAV, and the read repeated.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.is_stalled = False

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes as soon as there are some; none at the end, or when none come in time."""
        if not self.is_stalled:
            self.is_stalled = not select.select([self._descriptor], [], [], _TIMEOUTS_SECONDS[1])[0]
        return b"" if self.is_stalled else os.read(self._descriptor, size)


def _stdin() -> BinaryIO | _Pipe:
    if sys.stdin is None or sys.stdin.isatty():
        raise SourceError("stdin: nothing is piped in; use it as in: cat clip.mkv | stream-detr process - -o out.mp4")
    return sys.stdin.buffer if sys.stdin.buffer.seekable() else _Pipe(sys.stdin.fileno())


def _reason(error: av.error.FFmpegError) -> str:
    """What went wrong, without the address that ffmpeg adds."""
    if isinstance(error, av.error.ExitError):
        return "no data in time"  # PyAV interrupts the read that lasts too long
    return error.strerror or type(error).__name__
