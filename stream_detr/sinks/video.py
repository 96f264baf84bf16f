"""Annotated video: frames encoded with their exact timestamps, audio copied, playable however the run ends."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import av.error
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc
from av.video.stream import VideoStream
from numpy.typing import NDArray

from stream_detr.errors import UsageError
from stream_detr.sinks.codecs import VideoOptions, encoder_settings
from stream_detr.sinks.outputs import DISK_ERRORS, VIDEO_FORMATS, write_error
from stream_detr.structures import AudioTrack, Detections, Frame, StreamInfo

log = logging.getLogger("stream_detr")

_KEYFRAME_SECONDS = 2
_MOST_FRAMES_BETWEEN_KEYFRAMES = 600
# x264 holds as many frames as it has threads; more than this save no time.
_MOST_THREADS = 16
# MP4 keeps the time between frames in 32 bits: with a finer clock than this a pause of minutes overflows it.
_FINEST_CLOCK = Fraction(1, 2_000_000)
_MOST_TICKS_PER_SECOND = 2**31 - 1
# x265 takes the first decoding times from the frame this far on; of a shorter stream it leaves them to chance.
_X265_DELAY = 2
_SMPTE170M = 6  # AVCOL_SPC_SMPTE170M: BT.601's matrix, what cv2 converts with
_AUTO_BSF = 0x200000  # AVFMT_FLAG_AUTO_BSF
# Fragments end at key frames and go to the disk at once, so that a killed run loses no more than the last. Closed
# properly, the file is rewritten to a plain MP4. The index waits for the first fragment, as only then it can tell
# where the video starts: without that, a start other than 0 and the delay of B-frames would be lost.
_MP4_FLAGS = "+hybrid_fragmented+frag_keyframe+delay_moov"


class VideoSink:
    """One video file, MP4 or Matroska by suffix, tagged as what it holds: BT.601 matrix, limited range.

    The first frame sets size and clock. A frame of another size is fitted in between bars. For an odd side the
    last row or column is doubled, as 4:2:0 has none. Matroska rounds times to milliseconds, MP4 keeps them exactly.
    A start before 0, which no player shows, is moved to 0 and the audio with it.
    """

    def __init__(self, path: str, info: StreamInfo, options: VideoOptions, audio: AudioTrack | None) -> None:
        self._path = path
        self._rate = info.frame_rate or Fraction(25)
        self._codec, self._settings = encoder_settings(options)
        self._format = VIDEO_FORMATS[Path(path).suffix.lower()]
        self._audio = audio
        self._container: OutputContainer | None = None
        self._is_closed = False
        self._warned: set[str] = set()
        self._yuv: NDArray[np.uint8] | None = None
        self._due: deque[int] = deque()
        self._check_container()

    def write(self, frame: Frame, image: NDArray[np.uint8], detections: Detections) -> None:
        """Encode ``image`` (H, W, 3) at the frame's time, and copy the audio up to it.

        Raises:
            SinkError: the file can't be written.
        """
        try:
            if self._container is None:
                self._begin(frame, image)
            self._copy_audio(float(frame.pts * frame.time_base))
            self._mux(self._stream.encode(self._encodable(image, self._ticks(frame))))
        except (av.error.FFmpegError, OSError) as error:
            self._abandon()
            raise write_error(self._path, error) from error

    def close(self) -> None:
        """Write what the encoder still holds, the remaining audio and the index; a second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._container is None:
            return
        try:
            try:
                self._mux(self._stream.encode(None))
                self._copy_audio(None)
            finally:
                self._container.close()
        except (av.error.FFmpegError, OSError) as error:
            raise write_error(self._path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except OSError as failure:
            if error is None:
                raise
            log.warning("%s", failure)  # what ended the loop is the news, not this

    def _check_container(self) -> None:
        """Refuse a codec that the kind of file can't hold, before anything is written."""
        try:
            self._new_container({}).add_stream(self._codec, rate=25)
        except ValueError:
            suffix = Path(self._path).suffix
            raise UsageError(f"--codec {self._codec}: doesn't go into {suffix}; write .mkv or .mp4") from None

    def _new_container(self, options: dict[str, str]) -> OutputContainer:
        # Made absolute: ffmpeg takes a relative name with a colon for a protocol.
        return av.open(os.path.abspath(self._path), "w", format=self._format, container_options=options)

    def _begin(self, frame: Frame, image: NDArray[np.uint8]) -> None:
        """Open the file for frames like this one, without audio if the file can't hold that."""
        height, width = image.shape[:2]
        self._size_hw = height + height % 2, width + width % 2
        self._clock = frame.time_base * math.ceil(_FINEST_CLOCK / frame.time_base)
        # MPEG-4's own clock is too coarse for most: it gets numbered frames, its packets the real times.
        self._is_counting = self._codec == "mpeg4"
        self._num_written = 0
        start = frame.pts * frame.time_base
        self._shift = -start if start < 0 else Fraction(0)
        self._last_ticks: int | None = None
        if start < 0:
            self._warn("start", "the video starts before 0; moved to 0")
        try:
            self._open(self._audio)
        except (av.error.FFmpegError, ValueError) as error:
            if self._audio is None or isinstance(error, OSError):
                raise
            self._open(None)
            self._warn("audio", f"its audio ({self._audio.template.name}) doesn't go into this kind of file; left out")
            self._audio = None

    def _open(self, audio: AudioTrack | None) -> None:
        container = self._new_container(self._container_options(audio))
        stream = container.add_stream(self._codec, rate=self._rate, options=self._settings)
        assert isinstance(stream, VideoStream)
        height, width = self._size_hw
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = Fraction(1, 25) if self._is_counting else self._clock
        context.gop_size = max(1, min(round(_KEYFRAME_SECONDS * self._rate), _MOST_FRAMES_BETWEEN_KEYFRAMES))
        context.thread_type = "AUTO"
        context.thread_count = _MOST_THREADS if (os.cpu_count() or 1) > _MOST_THREADS else 0
        context.colorspace, context.color_range = _SMPTE170M, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        if self._codec in ("libx265", "hevc_nvenc") and self._format in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # the name Apple's players know
        self._audio_stream = None if audio is None else container.add_stream_from_template(audio.template)
        container.start_encoding()
        # Asked to write fragments the muxer turns this off, but AAC from a transport stream needs it.
        container.flags |= _AUTO_BSF
        self._container, self._stream = container, stream

    def _container_options(self, audio: AudioTrack | None) -> dict[str, str]:
        # Let no stream wait long for the other: packets held back are lost in a kill.
        options = {"flush_packets": "1", "max_interleave_delta": "2000000"}
        if self._format not in ("mp4", "mov"):
            return options | {"cluster_time_limit": "1000"}
        ticks = self._clock.denominator
        while ticks < 10_000:  # as the muxer itself does; players stumble over very coarse clocks
            ticks *= 2
        # Where a stream starts is written by the clock of the whole: it has to hold the starts of both exactly.
        both = ticks if audio is None else math.lcm(ticks, audio.template.time_base.denominator)
        movie_ticks = both if both <= _MOST_TICKS_PER_SECOND else ticks
        return options | {
            "movflags": _MP4_FLAGS,
            "video_track_timescale": str(ticks),
            "movie_timescale": str(movie_ticks),
        }

    def _ticks(self, frame: Frame) -> int:
        """The frame's time by the file's clock, later than the one before."""
        exact = (frame.pts * frame.time_base + self._shift) / self._clock
        ticks = round(exact)
        if self._last_ticks is not None and ticks <= self._last_ticks:
            self._warn("time", f"the time at frame {frame.index} is not later than the one before; moved on")
            ticks = self._last_ticks + 1
        self._last_ticks = ticks
        return ticks

    def _encodable(self, image: NDArray[np.uint8], ticks: int) -> VideoFrame:
        """The picture as a frame for the encoder, its own buffer reused as soon as the encoder has let it go."""
        height, width = self._size_hw
        if (image.shape[0] + image.shape[0] % 2, image.shape[1] + image.shape[1] % 2) != self._size_hw:
            self._warn("size", f"the size changes to {image.shape[1]}x{image.shape[0]}; fitted into {width}x{height}")
            image = fitted(image, self._size_hw)
        bottom, right = height - image.shape[0], width - image.shape[1]
        if bottom or right:
            image = np.asarray(cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE), np.uint8)
        if self._yuv is None or sys.getrefcount(self._yuv) > 2:
            self._yuv = np.empty((height * 3 // 2, width), np.uint8)
        cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420, dst=self._yuv)
        # PyAV takes a buffer's height for a multiple of 4; others have to be copied in.
        make = VideoFrame.from_numpy_buffer if height % 4 == 0 else VideoFrame.from_ndarray
        encodable = make(self._yuv, format="yuv420p")
        encodable.colorspace, encodable.color_range = _SMPTE170M, ColorRange.MPEG
        encodable.color_primaries, encodable.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        encodable.time_base = self._stream.codec_context.time_base
        encodable.pts = self._num_written if self._is_counting else ticks
        if self._is_counting:
            self._due.append(ticks)
        self._num_written += 1
        return encodable

    def _mux(self, packets: Sequence[av.Packet[Any]]) -> None:
        assert self._container is not None
        for packet in packets:
            if self._is_counting:
                packet.pts = packet.dts = self._due.popleft()
                packet.duration = round(1 / (self._rate * self._clock))
                packet.time_base = self._clock
            elif self._codec == "libx265" and self._num_written <= _X265_DELAY:
                packet.dts = packet.pts
            self._container.mux(packet)

    def _copy_audio(self, until_seconds: float | None) -> None:
        if self._audio is None or self._audio_stream is None or self._container is None:
            return
        for packet in self._audio.take(until_seconds):
            if packet.pts is None and packet.dts is None:
                continue
            if self._shift:
                shift = round(self._shift / packet.time_base)
                packet.pts = None if packet.pts is None else packet.pts + shift
                packet.dts = None if packet.dts is None else packet.dts + shift
            if self._format not in ("mp4", "mov") and (packet.pts or 0) < 0:
                continue  # Matroska has no times below 0 and would move the video to make room for a run-in
            packet.stream = self._audio_stream
            try:
                self._container.mux(packet)
            except av.error.FFmpegError as error:
                if error.errno in DISK_ERRORS:
                    raise
                self._warn("audio", f"its audio can't be copied any further ({error.strerror}); left out from here on")
                self._audio_stream = None
                return

    def _abandon(self) -> None:
        """Close after a failure; what was written before it stays."""
        self._is_closed = True
        if self._container is not None:
            try:
                self._container.close()
            except (av.error.FFmpegError, OSError):
                return

    def _warn(self, kind: str, message: str) -> None:
        """Log each kind of thing once, however many frames it happens to."""
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("%s: %s", self._path, message)


def fitted(image: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale (H, W, 3) to fit into ``size_hw`` without distortion, centred between black bars.

    >>> fitted(np.full((2, 2, 3), 9, np.uint8), (4, 8))[0, :, 0].tolist()
    [0, 0, 9, 9, 9, 9, 0, 0]
    """
    height, width = size_hw
    scale = min(height / image.shape[0], width / image.shape[1])
    inner_h, inner_w = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner_h) // 2, (width - inner_w) // 2
    canvas[top : top + inner_h, left : left + inner_w] = cv2.resize(image, (inner_w, inner_h), interpolation=method)
    return canvas
