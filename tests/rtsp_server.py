"""A real RTSP server (GStreamer's) in a process of its own, which can be killed, stopped and started again."""

from __future__ import annotations

import os
import select
import signal
import socket
import socketserver
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Thread
from typing import Any, Self

import pytest

SECONDS = 20
# GStreamer's bindings belong to the system's Python.
_PYTHON = "/usr/bin/python3"
_IMPORTS = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
assert Gst.ElementFactory.find("x264enc") and Gst.ElementFactory.find("rtph264pay")
"""
_SERVE = (
    _IMPORTS
    + """
port, width, height, login = sys.argv[1:]
server = GstRtspServer.RTSPServer(address="127.0.0.1", service=port)
factory = GstRtspServer.RTSPMediaFactory(shared=True)
factory.set_launch(
    f"( videotestsrc is-live=true pattern=ball ! video/x-raw,width={width},height={height},framerate=25/1"
    " ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=12 ! rtph264pay name=pay0 pt=96 )"
)
if login:
    token, auth, allowed = GstRtspServer.RTSPToken(), GstRtspServer.RTSPAuth(), GstRtspServer.RTSPPermissions()
    token.set_string("media.factory.role", "viewer")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(*login.split(":")), token)
    allowed.add_permission_for_role("viewer", "media.factory.access", True)
    allowed.add_permission_for_role("viewer", "media.factory.construct", True)
    factory.set_permissions(allowed)
    server.set_auth(auth)
server.get_mount_points().add_factory("/live", factory)
assert server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""
)


@cache
def _is_there() -> bool:
    if not os.path.exists(_PYTHON):
        return False
    tried = subprocess.run([_PYTHON, "-c", _IMPORTS], capture_output=True, timeout=60, check=False)
    return tried.returncode == 0


class RtspServer:
    """Serves a bouncing ball at ``/live``, 25 pictures a second, on a port that stays the same."""

    def __init__(self, size: tuple[int, int] = (160, 120), login: str = "") -> None:
        if not _is_there():
            pytest.skip("needs GStreamer's RTSP server (Debian: gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-ugly)")
        self._process: subprocess.Popen[str] | None = None
        self._port, self._login = 0, login
        self.start(size)

    def start(self, size: tuple[int, int]) -> None:
        """Serve pictures of this width and height."""
        arguments = [str(self._port), *map(str, size), self._login]
        self._process = subprocess.Popen([_PYTHON, "-c", _SERVE, *arguments], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], SECONDS)[0], "the RTSP server does not start"
        self._port = int(self._process.stdout.readline())

    @property
    def uri(self) -> str:
        """Address of the stream."""
        return f"rtsp://127.0.0.1:{self._port}/live"

    def kill(self) -> None:
        """End it the hard way."""
        if self._process is not None:
            with self._process as process:
                process.kill()
        self._process = None

    def stall(self) -> None:
        """Keep the connections open, but send nothing."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End a stall."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    @contextmanager
    def rubbish(self) -> Iterator[None]:
        """Answer every connection to its port, while it is killed, with bytes that mean nothing."""
        with rubbish_server(self._port):
            yield

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class _Rubbish(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.settimeout(SECONDS)
        try:
            while self.request.recv(4096):
                self.request.sendall(os.urandom(4096))
        except OSError:
            pass


@contextmanager
def rubbish_server(port: int) -> Iterator[None]:
    """Answers whatever comes with random bytes."""
    with _serving(_Rubbish, port):
        yield


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False


@contextmanager
def _serving(answers: Any, port: int) -> Iterator[None]:
    with _Server(("127.0.0.1", port), answers) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield
        server.shutdown()
        thread.join()
