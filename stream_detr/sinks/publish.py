"""Sending a live stream on: RTSP, RTMP, MPEG-TS over UDP, or a folder for HLS."""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import SinkError, UsageError
from stream_detr.sinks.outputs import write_error
from stream_detr.sinks.relay import READY, TIME
from stream_detr.structures import Detections, Frame

log = logging.getLogger("stream_detr")

PLAYLIST = "index.m3u8"

_PATIENCE_MS = 50  # write() waits so long for the relay to take a picture
_STALL_SECONDS = 10.0
_CLOSE_SECONDS = 1.0
_PAUSES_SECONDS = (0.5, 10.0)
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031  # Linux
_UDP_BYTES = 7 * 188  # whole packets of MPEG-TS, and no fragments on an Ethernet
_HLS = {
    "hls_time": "2",
    "hls_list_size": "6",
    "hls_flags": "delete_segments+append_list+independent_segments+temp_file",
}

# By scheme of the address: the container's format and options. Without a scheme it is a folder for HLS.
FORMATS: dict[str, tuple[str, dict[str, str]]] = {
    "rtsp": ("rtsp", {"rtsp_transport": "tcp"}),
    "rtsps": ("rtsp", {"rtsp_transport": "tcp"}),
    "rtmp": ("flv", {"flvflags": "no_duration_filesize", "flush_packets": "1"}),
    "rtmps": ("flv", {"flvflags": "no_duration_filesize", "flush_packets": "1"}),
    "udp": ("mpegts", {"flush_packets": "1"}),
    "": ("hls", _HLS),
}


def check_publish(uri: str) -> None:
    """Make sure that there is a way to send to ``uri``.

    Raises:
        UsageError: there is none.
    """
    scheme = _scheme(uri)
    if scheme not in FORMATS:
        known = ", ".join(f"{name}://" for name in FORMATS if name)
        raise UsageError(f"publish: {scheme}:// is not one of {known}; or give a folder for HLS")
    if not uri or Path(uri).is_file():
        raise UsageError(f"publish: {uri or 'an empty name'} is no folder; HLS needs one")


def open_publisher(uri: str, name: str) -> Publisher:
    """Send pictures to ``uri``, which may hold credentials; ``name`` is it as it may be shown.

    Raises:
        UsageError: there is no way to send to such an address.
        SinkError: the folder for HLS can't be made.
    """
    check_publish(uri)
    if not _scheme(uri):
        try:
            Path(uri).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(uri, error) from error
    return Publisher(uri, name)


class Publisher:
    """Sends each picture as it comes, through a process of its own (`stream_detr.sinks.relay`).

    A receiver that isn't there or goes away is tried again with growing pauses; pictures that can't be sent meanwhile
    are dropped and counted. `write` never waits long and never raises for the receiver's sake.
    """

    def __init__(self, uri: str, name: str) -> None:
        self.is_live = False
        self.message = ""
        self.frames_sent = self.frames_dropped = self.reconnects = 0
        self._uri, self._name = uri, name
        self._relay: subprocess.Popen[bytes] | None = None
        self._size_hw = (0, 0)
        self._began_seconds: float | None = None  # time of the first picture that this process was given
        self._moved_seconds = 0.0
        self._unsent = memoryview(b"")
        self._said = b""
        self._has_been_live = self._is_closed = False
        self._pause_seconds, self._retry_at = _PAUSES_SECONDS[0], 0.0

    def write(self, frame: Frame, image: NDArray[np.uint8], detections: Detections) -> None:
        """Send ``image`` (H, W, 3) if the receiver can take it now; an odd last row or column is left out.

        Raises:
            SinkError: the process can't be started.
        """
        size_hw = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
        if self._is_closed or 0 in size_hw:
            return
        if self._relay is not None and size_hw != self._size_hw:
            self._end(wait_seconds=_CLOSE_SECONDS)  # an encoder has one size
        if self._relay is None and monotonic() >= self._retry_at:
            self._begin(frame, size_hw)
        # Before the receiver is there pictures would only grow old in the pipe.
        if self._relay is None or not self._flush():
            self.frames_dropped += 1
            return
        self._began_seconds = frame.seconds if self._began_seconds is None else self._began_seconds
        picture = cv2.cvtColor(image[: size_hw[0], : size_hw[1]], cv2.COLOR_RGB2YUV_I420)
        microseconds = round((frame.seconds - self._began_seconds) * 1e6)
        self._unsent = memoryview(TIME.pack(microseconds) + picture.tobytes())
        self.frames_sent += 1
        self._flush()

    def close(self) -> None:
        """End the stream; a second call does nothing."""
        self._is_closed = True
        self._end(wait_seconds=_CLOSE_SECONDS)

    def report(self) -> dict[str, Any]:
        """Figures, ready for JSON."""
        return {
            "receiver": self._name,
            "is_live": self.is_live,
            "frames_not_sent": self.frames_dropped,
            "reconnects": self.reconnects,
            "error": self.message,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _begin(self, frame: Frame, size_hw: tuple[int, int]) -> None:
        """Start the process and tell it where to send."""
        format_name, options = FORMATS[_scheme(self._uri)]
        plan = {
            "uri": self._address(),
            "format": format_name,
            "options": options,
            "width": size_hw[1],
            "height": size_hw[0],
            "frame_rate": str(frame.stream.frame_rate or 25),
        }
        try:
            # A session of its own: Ctrl-C is for us, the relay ends when its input does.
            self._relay = subprocess.Popen(
                [sys.executable, "-m", "stream_detr.sinks.relay"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise SinkError(f"{self._name}: can't start the process that sends ({error.strerror})") from error
        assert self._relay.stdin is not None
        assert self._relay.stdout is not None
        for pipe in (self._relay.stdin, self._relay.stdout):
            os.set_blocking(pipe.fileno(), False)
        self._size_hw, self._began_seconds, self._moved_seconds = size_hw, None, monotonic()
        # In the first write, not on the command line: others see that, and the address may hold a password.
        self._unsent, self._said = memoryview(json.dumps(plan).encode() + b"\n"), b""
        _enlarge(self._relay.stdin.fileno())

    def _address(self) -> str:
        scheme = _scheme(self._uri)
        if scheme == "udp" and "pkt_size=" not in self._uri:
            return f"{self._uri}{'&' if '?' in self._uri else '?'}pkt_size={_UDP_BYTES}"
        return self._uri if scheme else str(Path(self._uri, PLAYLIST).absolute())

    def _flush(self) -> bool:
        """Hand on what waits, as far as the relay takes it now; say whether the receiver can have another picture."""
        assert self._relay is not None
        assert self._relay.stdin is not None
        pipe = self._relay.stdin.fileno()
        ready = select.poll()
        ready.register(pipe, select.POLLOUT)
        try:
            while self._unsent and ready.poll(_PATIENCE_MS):
                self._unsent = self._unsent[os.write(pipe, self._unsent) :]
                self._moved_seconds = monotonic()
            self._listen()
        except (OSError, EOFError):
            self._lose("the connection is lost")
        else:
            if (self._unsent or not self.is_live) and monotonic() - self._moved_seconds > _STALL_SECONDS:
                self._lose(f"takes nothing for {_STALL_SECONDS:g} s")
        return self.is_live and not self._unsent

    def _listen(self) -> None:
        """Read what the relay has said, without waiting.

        Raises:
            EOFError: it has ended.
        """
        assert self._relay is not None
        assert self._relay.stdout is not None
        try:
            while part := os.read(self._relay.stdout.fileno(), 4096):
                self._said += part
        except BlockingIOError:
            pass
        else:
            raise EOFError
        if not self.is_live and READY.encode() in self._said.splitlines():
            self.is_live, self.message = True, ""
            self.reconnects += self._has_been_live
            self._has_been_live = True
            self._pause_seconds = _PAUSES_SECONDS[0]

    def _lose(self, reason: str) -> None:
        """The receiver is gone, or was never there; try again after a pause."""
        self._end(wait_seconds=0)
        said = [line for line in self._said.decode(errors="replace").splitlines() if line != READY]
        was_known = bool(self.message)
        self.message = f"{self._name}: {said[-1] if said else reason}"
        if not was_known:
            log.warning("%s; trying again", self.message)
        self._retry_at = monotonic() + self._pause_seconds
        self._pause_seconds = min(2 * self._pause_seconds, _PAUSES_SECONDS[1])

    def _end(self, wait_seconds: float) -> None:
        """End the process: by itself within a time, or killed."""
        relay, self._relay = self._relay, None
        self._unsent = memoryview(b"")
        self.is_live = False
        if relay is None:
            return
        with relay:
            assert relay.stdin is not None
            assert relay.stdout is not None
            relay.stdin.close()
            try:
                relay.wait(wait_seconds)
            except subprocess.TimeoutExpired:
                relay.kill()
            os.set_blocking(relay.stdout.fileno(), True)
            self._said += relay.stdout.read()


def _scheme(uri: str) -> str:
    return uri.partition("://")[0].lower() if "://" in uri else ""


def _enlarge(pipe: int) -> None:
    """Let the pipe hold more of a picture, where that can be set."""
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.fcntl(pipe, _F_SETPIPE_SZ, _PIPE_BYTES)
