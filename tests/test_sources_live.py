"""Live inputs: what users type is understood, every protocol gives pictures, and what is wrong is said in one line."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from threading import Event, Thread
from typing import Any

import av
import av.error
import cv2
import numpy as np
import pytest
from media import frame_number, grey, make_clip
from rtsp_server import silent_port

from stream_detr.errors import SourceError, UsageError
from stream_detr.sources import Input, camera
from stream_detr.sources.live import Arrival, LiveOptions, PermanentError, find_streams, open_live

SECONDS = 20
OPTIONS = LiveOptions(timeout_seconds=(5.0, 5.0))
NGINX, RTMP_MODULE = "/usr/sbin/nginx", "/usr/lib/nginx/modules/ngx_rtmp_module.so"


def take(uri: str, count: int, options: LiveOptions = OPTIONS, *, realtime: bool = False) -> list[Arrival]:
    """The first pictures of a live input."""
    [given] = find_streams([uri], realtime=realtime)
    with closing(open_live(given, options)) as source:
        return list(islice(source, count))


# What users type


def test_cameras_are_named_by_number_or_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera.os.path, "exists", lambda path: path in ("/dev/video0", "/dev/video3"))
    monkeypatch.setattr(camera.os, "access", lambda path, mode: True)
    assert find_streams(["0", "/dev/video3"]) == [
        Input("camera", ("0",), "camera 0"),
        Input("camera", ("/dev/video3",), "/dev/video3"),
    ]


@pytest.mark.skipif(not os.path.isdir("/dev") or os.path.exists("/dev/video63"), reason="needs a missing camera")
@pytest.mark.parametrize("uri", ["63", "/dev/video63"])
def test_a_camera_that_is_not_there_is_said_at_once(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setattr(camera.sys, "platform", "linux")
    with pytest.raises(SourceError, match="/dev/video63: no such camera"):
        find_streams([uri])


def test_a_camera_without_permission_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera.sys, "platform", "linux")
    monkeypatch.setattr(camera.os.path, "exists", lambda path: True)
    monkeypatch.setattr(camera.os, "access", lambda path, mode: False)
    with pytest.raises(SourceError, match="/dev/video0: no permission; add yourself to the group"):
        find_streams(["0"])


@pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "rtmp", "http", "https", "udp"])
def test_addresses_are_streams_without_their_credentials(scheme: str) -> None:
    [given] = find_streams([f"{scheme}://ann:secret@host/live"])
    assert (given.kind, given.name) == ("stream", f"{scheme}://host/live")


def test_an_unknown_scheme_is_refused_without_the_password() -> None:
    with pytest.raises(SourceError, match=r"foo://host/x: foo:// is not known; give one of .*rtsp://") as caught:
        find_streams(["foo://ann:secret@host/x"])
    assert "secret" not in str(caught.value)


def test_files_need_realtime(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    with pytest.raises(SourceError, match="add --realtime"):
        find_streams([str(clip)])
    [given] = find_streams([str(clip)], realtime=True)
    assert given == Input("realtime", (str(clip),), str(clip))


@pytest.mark.parametrize("realtime", [True, False])
def test_a_missing_file_is_said_at_once(tmp_path: Path, realtime: bool) -> None:
    with pytest.raises(SourceError, match=r"gone\.mp4: no such file"):
        find_streams([str(tmp_path / "gone.mp4")], realtime=realtime)


def test_nothing_given_is_said() -> None:
    with pytest.raises(SourceError, match="no stream was given"):
        find_streams([])


@pytest.mark.parametrize(
    "wrong",
    [{"timeout_seconds": (0, 5)}, {"transport": "pigeon"}, {"backoff_seconds": (2, 1)}, {"camera_format": "gif"}],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        LiveOptions(**wrong)


# Played in real time


def test_a_file_in_real_time_says_when_its_pictures_are_due(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", num_frames=5, rate=10)
    arrivals = take(str(clip), 99, realtime=True)
    assert [arrival.media_seconds for arrival in arrivals] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert [frame_number(arrival.to_rgb()) for arrival in arrivals] == [0, 1, 2, 3, 4]


def test_a_file_that_cannot_be_read_is_wrong_for_good(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    with pytest.raises(PermanentError, match="not a video"):
        take(str(tmp_path / "clip.mp4"), 1, realtime=True)


def test_the_pattern_goes_on_live() -> None:
    arrivals = take("pattern:64x48@1000", 11_000)
    assert len(arrivals) == 11_000  # more than its ten seconds
    assert arrivals[0].to_rgb().shape == (48, 64, 3)
    assert len(take("pattern:64x48@10:1", 99)) == 10


# A camera


class FakeCamera:
    """Remembers what it is set to; gives three red pictures."""

    made: FakeCamera
    is_opened = True

    def __init__(self, device: int | str, backend: int) -> None:
        FakeCamera.made = self
        self.device = device
        self.settings: list[tuple[int, float]] = []
        self.left = 3
        self.is_released = False

    def isOpened(self) -> bool:
        return self.is_opened

    def set(self, name: int, value: float) -> bool:
        self.settings.append((name, value))
        return True

    def get(self, name: int) -> float:
        return 30.0

    def read(self) -> tuple[bool, Any]:
        self.left -= 1
        return (True, np.full((4, 6, 3), (0, 0, 200), np.uint8)) if self.left >= 0 else (False, None)

    def release(self) -> None:
        self.is_released = True


@pytest.fixture
def fake_camera(monkeypatch: pytest.MonkeyPatch) -> type[FakeCamera]:
    monkeypatch.setattr(camera, "check_camera", lambda device: None)
    monkeypatch.setattr("stream_detr.sources.live.check_camera", lambda device: None)
    monkeypatch.setattr(camera.cv2, "VideoCapture", FakeCamera)
    return FakeCamera


def test_a_camera_gives_rgb_at_the_wanted_size(fake_camera: type[FakeCamera]) -> None:
    options = LiveOptions(camera_size=(1280, 720), camera_rate=15, camera_format="mjpeg")
    [arrival] = take("0", 1, options)
    assert arrival.to_rgb()[0, 0].tolist() == [200, 0, 0]
    assert arrival.media_seconds is None
    made = fake_camera.made
    assert made.device == 0
    assert made.settings[0] == (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    assert {
        (cv2.CAP_PROP_FRAME_WIDTH, 1280),
        (cv2.CAP_PROP_FRAME_HEIGHT, 720),
        (cv2.CAP_PROP_FPS, 15),
    } <= set(made.settings)
    assert made.is_released


def test_a_camera_that_is_unplugged_is_lost_but_not_wrong(fake_camera: type[FakeCamera]) -> None:
    with pytest.raises(SourceError, match="camera 0: gives no picture") as caught:
        take("0", 9)
    assert not isinstance(caught.value, PermanentError)


def test_a_camera_that_another_program_has_is_said(
    fake_camera: type[FakeCamera], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_camera, "is_opened", False)
    with pytest.raises(PermanentError, match="camera 0: can't be opened; is another program using it"):
        take("0", 1)


# Over http


class Web(SimpleHTTPRequestHandler):
    """A folder, an endless MJPEG stream at /mjpeg, one that stops at /short; errors at /401 and the like."""

    def do_GET(self) -> None:
        if self.path[1:].isdecimal():
            self.send_error(int(self.path[1:]))
        elif self.path in ("/mjpeg", "/short"):
            self._mjpeg(10_000 if self.path == "/mjpeg" else 5)
        else:
            super().do_GET()

    def _mjpeg(self, count: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            for index in range(count):
                jpeg = cv2.imencode(".jpg", grey(index, 64, 48))[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")
        except OSError:
            pass  # whoever watched has left

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(answers: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), answers) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with served(partial(Web, directory=str(tmp_path))) as address:
        yield address


def test_mjpeg_is_shown_as_it_comes(address: str) -> None:
    arrivals = take(f"{address}/mjpeg", 20)
    assert [frame_number(arrival.to_rgb()) for arrival in arrivals] == [index % 16 for index in range(20)]
    assert arrivals[0].media_seconds is None


def test_the_end_of_a_live_stream_is_a_lost_connection(address: str) -> None:
    with pytest.raises(SourceError, match=r"connection was lost|closed the connection") as caught:
        take(f"{address}/short", 99)
    assert not isinstance(caught.value, PermanentError)


@pytest.mark.parametrize(("path", "says"), [("401", "password"), ("403", "password"), ("400", "400.*the address")])
def test_what_the_server_refuses_is_wrong_for_good(address: str, path: str, says: str) -> None:
    with pytest.raises(PermanentError, match=says):
        take(f"{address}/{path}", 1)


@pytest.mark.parametrize("status", [404, 408, 429, 503])
def test_what_the_server_lacks_for_now_is_not_wrong_for_good(address: str, status: int) -> None:
    with pytest.raises(SourceError, match="check the address") as caught:
        take(f"{address}/{status}", 1)
    assert not isinstance(caught.value, PermanentError)


def test_no_server_is_not_wrong_for_good() -> None:
    with pytest.raises(SourceError, match="Connection refused") as caught:
        take("http://ann:secret@127.0.0.1:9/live", 1)
    assert not isinstance(caught.value, PermanentError)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["rtsp", "rtmp", "http"])
def test_a_server_that_never_answers_is_given_up_in_time(scheme: str) -> None:
    began = time.monotonic()
    with silent_port() as port, pytest.raises(SourceError, match="no answer in time"):
        take(f"{scheme}://127.0.0.1:{port}/live", 1, LiveOptions(timeout_seconds=(0.3, 0.3)))
    assert time.monotonic() - began < SECONDS


def test_sound_alone_is_wrong_for_good(tmp_path: Path, address: str) -> None:
    with av.open(str(tmp_path / "sound.mka"), "w") as container:
        sound: Any = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        samples.sample_rate = 8000
        container.mux(sound.encode(samples))
        container.mux(sound.encode(None))
    with pytest.raises(PermanentError, match="no video in it"):
        take(f"{address}/sound.mka", 1)


def make_hls(folder: Path, flags: str) -> None:
    """Three segments of a second."""
    options = {"hls_time": "1", "hls_list_size": "0", "hls_flags": flags}
    make_clip(folder / "live.m3u8", num_frames=75, options=options)


def test_a_recorded_playlist_is_played_at_its_own_speed_and_ends(tmp_path: Path, address: str) -> None:
    make_hls(tmp_path, "independent_segments")
    [given] = find_streams([f"{address}/live.m3u8"])
    with closing(open_live(given, OPTIONS)) as source:
        assert source.has_end
        arrivals = list(source)
    times = [arrival.media_seconds or 0.0 for arrival in arrivals]
    assert len(arrivals) == 75
    assert times[-1] - times[0] == pytest.approx(74 / 25, abs=0.01)


def test_a_growing_playlist_starts_at_its_newest_segment(tmp_path: Path, address: str) -> None:
    make_hls(tmp_path, "omit_endlist")
    playlist = (tmp_path / "live.m3u8").read_text()
    assert "ENDLIST" not in playlist
    [given] = find_streams([f"{address}/live.m3u8"])
    with closing(open_live(given, OPTIONS)) as source:
        assert not source.has_end
        [arrival] = islice(source, 1)
    segments = [line for line in playlist.splitlines() if line.endswith(".ts")]
    newest = (len(segments) - 1) * 25
    assert frame_number(arrival.to_rgb()) == newest % 16
    assert arrival.media_seconds is not None


# UDP


class Datagrams(io.RawIOBase):
    """A file to mux into: what is written goes out as MPEG-TS datagrams, with noise between them when asked."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.is_noisy = Event()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        for start in range(0, len(data), 188 * 7):
            if self.is_noisy.is_set():
                self._send(os.urandom(188 * 7))
            self._send(bytes(data[start : start + 188 * 7]))
        return len(data)

    def _send(self, datagram: bytes) -> None:
        with suppress(ConnectionRefusedError):  # nobody listens yet
            self.socket.sendto(datagram, ("127.0.0.1", self.port))

    def close(self) -> None:
        self.socket.close()
        super().close()


def write_stream(target: Any, format_name: str, is_over: Event) -> None:
    """Encode greys at 25 a second into a live format, until told to stop or nobody is there any more."""
    try:
        with av.open(target, "w", format=format_name) as container:
            video: Any = container.add_stream("libx264", rate=25, options={"tune": "zerolatency", "g": "5"})
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            index = 0
            while not is_over.wait(0.04):
                container.mux(video.encode(av.VideoFrame.from_ndarray(grey(index, 64, 48))))
                index += 1
    except (OSError, av.error.FFmpegError):
        pass


@contextmanager
def streaming(target: Any, format_name: str) -> Iterator[None]:
    is_over = Event()
    thread = Thread(target=write_stream, args=(target, format_name, is_over))
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(SECONDS)


@pytest.fixture
def udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_udp_is_shown_as_it_comes(udp_port: int) -> None:
    with closing(Datagrams(udp_port)) as target, streaming(target, "mpegts"):
        arrivals = take(f"udp://127.0.0.1:{udp_port}", 20)
    assert len({frame_number(arrival.to_rgb()) for arrival in arrivals}) > 10
    assert arrivals[0].media_seconds is None


def test_rubbish_between_the_packets_is_survived(udp_port: int) -> None:
    [given] = find_streams([f"udp://127.0.0.1:{udp_port}"])
    with (
        closing(Datagrams(udp_port)) as target,
        streaming(target, "mpegts"),
        closing(open_live(given, OPTIONS)) as source,
    ):
        pictures = iter(source)
        assert next(pictures).to_rgb().shape == (48, 64, 3)
        target.is_noisy.set()
        assert len([arrival.to_rgb() for arrival in islice(pictures, 10)]) == 10
        target.is_noisy.clear()
        assert len([arrival.to_rgb() for arrival in islice(pictures, 10)]) == 10


def test_a_udp_stream_that_stops_is_lost(udp_port: int) -> None:
    [given] = find_streams([f"udp://127.0.0.1:{udp_port}"])
    with closing(Datagrams(udp_port)) as target:
        with streaming(target, "mpegts"):
            source = open_live(given, LiveOptions(timeout_seconds=(5.0, 0.5)))
            pictures = iter(source)
            next(pictures)
        with closing(source), pytest.raises(SourceError, match=r"no data|connection was lost"):
            list(pictures)


def test_rubbish_alone_is_not_taken_for_video(udp_port: int) -> None:
    is_over = Event()

    def send() -> None:
        with closing(Datagrams(udp_port)) as target:
            while not is_over.wait(0.01):
                target._send(os.urandom(1000))

    thread = Thread(target=send)
    thread.start()
    try:
        with pytest.raises(SourceError):
            take(f"udp://127.0.0.1:{udp_port}", 1, LiveOptions(timeout_seconds=(2.0, 1.0)))
    finally:
        is_over.set()
        thread.join()


# RTMP


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def rtmp(tmp_path: Path) -> Iterator[str]:
    """Address of a stream that is published on nginx."""
    if not (os.path.exists(NGINX) and os.path.exists(RTMP_MODULE)):
        pytest.skip("needs nginx with RTMP (Debian: libnginx-mod-rtmp)")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (tmp_path / "nginx.conf").write_text(
        f"load_module {RTMP_MODULE};\ndaemon off;\nmaster_process off;\npid {tmp_path}/pid;\n"
        f"error_log {tmp_path}/log;\nevents {{}}\n"
        f"rtmp {{ server {{ listen 127.0.0.1:{port}; application app {{ live on; }} }} }}\n"
    )
    with subprocess.Popen([NGINX, "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path), "-e", "stderr"]) as server:
        try:
            address, deadline = f"rtmp://127.0.0.1:{port}/app/live", time.monotonic() + SECONDS
            while not listens(port) and time.monotonic() < deadline:
                Event().wait(0.05)
            with streaming(address, "flv"):
                yield address
        finally:
            server.kill()


def test_rtmp_is_shown_as_it_comes(rtmp: str) -> None:
    arrivals = take(rtmp, 10)
    assert arrivals[0].to_rgb().shape == (48, 64, 3)
    assert arrivals[0].media_seconds is None
