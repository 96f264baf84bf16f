"""Files behind http: read like files, timeouts and errors in one line, no password anywhere."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import pytest

from stream_detr.errors import SourceError
from stream_detr.sources import open_source, video
from tests.media import make_clip, noise

LOGIN = "Basic " + base64.b64encode(b"user:secret").decode()


class Files(SimpleHTTPRequestHandler):
    """Serves a folder; /private/ wants a login, /broken/ breaks off in the middle, /silent/ never answers."""

    def do_GET(self) -> None:
        kind, _, name = self.path.lstrip("/").partition("/")
        if kind == "private" and self.headers["Authorization"] != LOGIN:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="clips"')
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif kind == "silent":
            self.rfile.read(1)  # until the client gives up
        elif kind == "broken":
            data = Path(self.directory, name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
        else:
            self.path = f"/{name}"
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(tmp_path)))
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_clip_is_read(tmp_path: Path, address: str) -> None:
    make_clip(tmp_path / "clip.mp4", options={"movflags": "faststart"})
    with open_source(f"http://{address}/plain/clip.mp4") as source:
        assert len(list(source)) == 10


def test_a_login_is_used_and_not_shown(tmp_path: Path, address: str) -> None:
    make_clip(tmp_path / "clip.mp4", options={"movflags": "faststart"})
    with open_source(f"http://user:secret@{address}/private/clip.mp4?key=secret") as source:
        assert len(list(source)) == 10
        assert source.info.name == f"http://{address}/private/clip.mp4?key=…"


@pytest.mark.parametrize("name", ["clip.mp4", "still.png"])
@pytest.mark.parametrize(("kind", "says"), [("plain", "404"), ("private", "401")])
def test_what_the_server_refuses_is_said_without_the_password(address: str, kind: str, says: str, name: str) -> None:
    with pytest.raises(SourceError, match=says) as caught:
        open_source(f"http://other:secret@{address}/{kind}/{name}?key=secret")
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("name", ["clip.mp4", "still.png"])
def test_no_server_is_said(name: str) -> None:
    with pytest.raises(SourceError, match="Connection refused") as caught:
        open_source(f"http://user:secret@127.0.0.1:9/{name}")
    assert "secret" not in str(caught.value)


def test_a_server_that_never_answers_is_given_up(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "_TIMEOUTS_SECONDS", (0.3, 0.3))
    with pytest.raises(SourceError, match="no data in time"):
        open_source(f"http://{address}/silent/clip.mp4")


def test_a_connection_that_breaks_off_is_no_silent_end(
    tmp_path: Path, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_clip(tmp_path / "clip.mp4", num_frames=60, draw=noise, options={"movflags": "faststart"})
    frames = 0
    failed = False
    with open_source(f"http://{address}/broken/clip.mp4") as source:
        try:
            for _ in source:
                frames += 1
        except SourceError:
            failed = True
    assert frames > 15
    assert failed or [record.levelno for record in caplog.records] == [logging.WARNING]


def test_an_image_is_read(tmp_path: Path, address: str) -> None:
    cv2.imwrite(str(tmp_path / "still.png"), np.full((8, 10, 3), 77, np.uint8))
    with open_source(f"http://user:secret@{address}/private/still.png") as source:
        [frame] = source
    assert frame.image.shape == (8, 10, 3)
    assert frame.stream.name == f"http://{address}/private/still.png"
