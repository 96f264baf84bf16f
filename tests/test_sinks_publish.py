"""A stream that is sent on arrives and can be decoded, and no receiver ever holds up the sender."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import av.error
import numpy as np
import pytest

from stream_detr.errors import SinkError, UsageError
from stream_detr.sinks import publish
from stream_detr.sinks.publish import Publisher, open_publisher
from stream_detr.structures import Detections, Frame, StreamInfo
from tests.media import frame_number, grey, images

SECONDS = 60
MICROSECOND = Fraction(1, 1_000_000)


def frame(index: int, size: tuple[int, int] = (64, 48), rate: int = 25) -> Frame:
    info = StreamInfo("cam", *size, Fraction(rate), is_live=True)
    return Frame(grey(index, *size), index, index * 1_000_000 // rate, MICROSECOND, 0.0, info)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def send_until(sink: Publisher, done: Callable[[], bool], size: tuple[int, int] = (64, 48), first: int = 0) -> int:
    """Write a frame every 10 ms, as a camera would, until ``done``; the number of frames."""
    until, tick = time.monotonic() + SECONDS, threading.Event()
    index = first
    while not done():
        assert time.monotonic() < until, sink.report()
        each = frame(index, size)
        sink.write(each, each.image, Detections.empty())
        index += 1
        tick.wait(0.01)
    return index - first


class Receiver:
    """Opens an address in a thread and decodes ``wanted`` frames of it."""

    def __init__(self, address: str, options: dict[str, str], wanted: int) -> None:
        self.numbers: list[int] = []
        self.times: list[Fraction] = []
        self.shapes: set[tuple[int, ...]] = set()
        self.error: BaseException | None = None
        self._given = address, options, wanted
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        address, options, wanted = self._given
        try:
            with av.open(address, options=options, timeout=(SECONDS, SECONDS)) as container:
                for decoded in container.decode(video=0):
                    image = decoded.to_ndarray(format="rgb24")
                    self.numbers.append(frame_number(image))
                    self.times.append(decoded.pts * decoded.time_base)
                    self.shapes.add(image.shape)
                    if len(self.numbers) == wanted:
                        return
        except av.error.FFmpegError as error:
            self.error = error
        finally:
            self.ended.set()

    def join(self) -> None:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()

    def is_through(self) -> bool:
        return self.ended.is_set()


def assert_in_order(receiver: Receiver, wanted: int) -> None:
    assert receiver.error is None
    assert len(receiver.numbers) == wanted
    steps = [(b - a) % 16 for a, b in pairwise(receiver.numbers)]
    assert set(steps) <= {1, 2, 3, 4}  # frames may be dropped, never turned round
    assert receiver.times == sorted(set(receiver.times))
    # Time passes as it does in the frames: 40 ms each.
    for step, a, b in zip(steps, receiver.times, receiver.times[1:], strict=False):
        assert abs(float(b - a) - 0.04 * step) < 0.002


def test_udp_arrives_and_a_receiver_may_come_later() -> None:
    address = f"udp://127.0.0.1:{free_port()}"
    with open_publisher(address, "udp") as sink:
        send_until(sink, lambda: sink.frames_sent > 10)
        receiver = Receiver(address, {"fifo_size": "100000"}, 40)
        send_until(sink, receiver.is_through, first=1000)
        assert sink.is_live
    receiver.join()
    assert_in_order(receiver, 40)
    assert receiver.shapes == {(48, 64, 3)}
    assert not sink.is_live


def test_rtmp_arrives_and_comes_back_after_the_receiver_went_away(caplog: pytest.LogCaptureFixture) -> None:
    address = f"rtmp://127.0.0.1:{free_port()}/live/cam"
    with open_publisher(address, "rtmp://shown/live") as sink:
        send_until(sink, lambda: bool(sink.message))  # nobody listens yet
        for attempt in range(2):
            receiver = Receiver(address, {"listen": "1"}, 20)
            send_until(sink, receiver.is_through)
            receiver.join()
            assert_in_order(receiver, 20)
            send_until(sink, lambda: not sink.is_live)
            assert sink.reconnects == attempt
        assert sink.frames_dropped > 0
    says = [record.message for record in caplog.records]
    assert says[0] == "rtmp://shown/live: Connection refused; trying again"
    assert len(says) <= 3  # one for each outage, however often it is tried


def test_a_folder_is_hls_with_a_playlist_from_which_old_pieces_are_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "live"
    with open_publisher(str(folder), "live") as sink:
        send_until(sink, lambda: sink.frames_sent >= 25 * 2 * 10)
    names = sorted(path.name for path in folder.iterdir())
    assert names[0] == "index.m3u8"
    assert 6 <= len(names) - 1 <= 8
    playlist = (folder / "index.m3u8").read_text()
    assert "index0.ts" not in playlist
    assert not (folder / "index0.ts").exists()
    receiver = Receiver(str(folder / "index.m3u8"), {"live_start_index": "0"}, 150)
    receiver.join()
    assert_in_order(receiver, 150)


def test_hls_goes_on_in_a_folder_that_was_used_before(tmp_path: Path) -> None:
    for _ in range(2):
        with open_publisher(str(tmp_path), "live") as sink:
            send_until(sink, lambda sink=sink: sink.frames_sent >= 60)  # type: ignore[misc]
    playlist = (tmp_path / "index.m3u8").read_text()
    assert playlist.count("#EXTINF") >= 3
    assert "#EXT-X-DISCONTINUITY" in playlist
    names = [line for line in playlist.splitlines() if line.endswith(".ts")]
    assert len(names) == len(set(names))
    assert all((tmp_path / name).exists() for name in names)


RTSP_SERVER = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service("0")
factory = GstRtspServer.RTSPMediaFactory()
factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
factory.set_launch(
    "( rtph264depay name=depay0 ! h264parse config-interval=-1 ! video/x-h264,stream-format=byte-stream "
    f"! filesink sync=false buffer-mode=unbuffered location={sys.argv[1]} )"
)
server.get_mount_points().add_factory("/cam", factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


@contextmanager
def rtsp_server(path: Path) -> Iterator[int]:
    """GStreamer's server, which takes a stream and writes it to ``path``; its port."""
    python = next((each for each in (sys.executable, "/usr/bin/python3") if _has_gstreamer(each)), None)
    if python is None:
        pytest.skip("needs GStreamer's RTSP server with its Python binding (gir1.2-gst-rtsp-server-1.0, python3-gi)")
    command = [python, "-c", RTSP_SERVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            assert server.stdout is not None
            yield int(server.stdout.readline())
        finally:
            server.kill()


def _has_gstreamer(python: str) -> bool:
    code = """
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
assert all(Gst.ElementFactory.find(name) for name in ("rtph264depay", "h264parse", "filesink"))
"""
    try:
        return subprocess.run([python, "-c", code], capture_output=True, timeout=SECONDS).returncode == 0
    except OSError:
        return False


def test_rtsp_arrives_at_a_server(tmp_path: Path) -> None:
    recorded = tmp_path / "received.h264"
    with rtsp_server(recorded) as port, open_publisher(f"rtsp://127.0.0.1:{port}/cam", "rtsp") as sink:
        send_until(sink, lambda: sink.frames_sent >= 120)
        assert sink.is_live
        assert sink.message == ""
        sink.close()
    received = [frame_number(image) for image in images(recorded)]
    assert len(received) >= 100  # the first ones are gone before the server listens
    assert {(b - a) % 16 for a, b in pairwise(received)} <= {1, 2, 3, 4}


def test_a_receiver_that_takes_the_connection_and_never_answers_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publish, "_STALL_SECONDS", 1.0)
    longest = 0.0
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with open_publisher(f"rtmp://127.0.0.1:{listener.getsockname()[1]}/live/cam", "rtmp://deaf") as sink:
            until = time.monotonic() + SECONDS
            while not sink.message:
                assert time.monotonic() < until
                started = time.monotonic()
                sink.write(frame(0), frame(0).image, Detections.empty())
                longest = max(longest, time.monotonic() - started)
                threading.Event().wait(0.01)
    assert longest < 1.0  # it is made of waits of 50 ms; the rest is for a busy machine
    assert [record.message for record in caplog.records] == ["rtmp://deaf: takes nothing for 1 s; trying again"]
    assert sink.frames_sent == 0


def test_the_address_stays_out_of_messages_and_off_the_command_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started: list[list[str]] = []
    popen = subprocess.Popen

    def spying(command: list[str], **options: object) -> object:
        started.append(command)
        return popen(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(publish.subprocess, "Popen", spying)
    with open_publisher(f"rtmp://ann:s3cret@127.0.0.1:{free_port()}/live", "rtmp://127.0.0.1/live") as sink:
        send_until(sink, lambda: bool(sink.message))
    seen = " ".join([*started[0], *(record.message for record in caplog.records), str(sink.report())])
    assert "s3cret" not in seen
    assert "rtmp://127.0.0.1/live: " in seen


def test_another_size_is_a_new_stream_and_odd_sides_lose_a_row(tmp_path: Path) -> None:
    with open_publisher(str(tmp_path), "live") as sink:
        send_until(sink, lambda: sink.frames_sent >= 20)
        send_until(sink, lambda: sink.frames_sent >= 80, size=(97, 65))
    shapes = [{image.shape for image in images(tmp_path / f"index{number}.ts")} for number in (0, 1)]
    assert shapes == [{(48, 64, 3)}, {(64, 96, 3)}]


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("gopher://ann:s3cret@host/x", r"publish: gopher:// is not one of rtsp://, rtsps://, rtmp://"),
        ("", "publish: an empty name is no folder"),
        (__file__, "is no folder; HLS needs one"),
    ],
)
def test_an_address_for_which_there_is_no_way_is_refused(uri: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        open_publisher(uri, uri)
    assert "s3cret" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_one_line() -> None:
    with pytest.raises(SinkError, match="a part of this path is a file, not a folder"):
        open_publisher(f"{__file__}/live", "live")


def test_closing_twice_or_before_the_first_frame_is_fine() -> None:
    sink = open_publisher("udp://127.0.0.1:9", "udp")
    sink.close()
    sink.close()
    sink.write(frame(0), frame(0).image, Detections.empty())
    assert sink.frames_sent == 0
    assert np.array_equal(frame(0).image, grey(0, 64, 48))
