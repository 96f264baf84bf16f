"""The live command, as a user types it: in a program of its own, with the small random model."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import av
import pytest
from conftest import FakeDetector

from stream_detr import pipeline
from stream_detr.cli import main
from stream_detr.cli.flags import parse
from stream_detr.config import load_config
from stream_detr.errors import UsageError
from stream_detr.live.outputs import Output

START_SECONDS = 60
# A hang shows; how fast it is on a quiet machine is measured, not tested.
END_SECONDS = 20.0


def test_streams_that_end_end_the_command_with_everything_written(tmp_path: Path, small_model: str) -> None:
    report = tmp_path / "report.json"
    command = ["live", "pattern:64x48@10:0.5", "--model", small_model, "--device", "cpu", "--view", "none", "--quiet"]
    assert main([*command, "--record", str(tmp_path / "rec"), "--report", str(report)]) == 0
    [video], [records] = (list((tmp_path / "rec").glob(f"*.{suffix}")) for suffix in ("mp4", "jsonl"))
    with av.open(str(video)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert 3 <= len(times) <= 5
    assert times == sorted(set(times))
    assert len(records.read_text(encoding="utf-8").splitlines()) == len(times)
    [stream] = json.loads(report.read_text(encoding="utf-8"))["session"]["streams"]
    assert stream["frames_read"] == 5
    assert stream["recording"]["frames_written"] == len(times)


def test_a_stream_that_can_not_be_had_is_one_line_and_exit_code_1(
    small_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["live", "rtsp://user:secret@127.0.0.1:9/x", "--model", small_model, "--device", "cpu", "--view", "none"]
    assert main([*command, "--max-reconnects", "0"]) == 1
    said = capsys.readouterr()
    assert "error: rtsp://127.0.0.1:9/x" in said.err
    assert "secret" not in said.out + said.err


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if a model is loaded."""

    def load(config: object) -> None:
        raise AssertionError("the model has been loaded")

    monkeypatch.setattr(pipeline, "load_detector", load)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--record", "out.avi"], "out.avi: can't record as .avi; use .mp4, "),
        (["--record", "out.png"], "out.png: can't record as .png; use .mp4, "),
        (["--record", "out.jsonl"], "out.jsonl: can't record as .jsonl; use .mp4, "),
        (["--record", "out.webm"], "--codec libx264: doesn't go into .webm; write .mkv or .mp4"),
        (["--publish", "gopher://ann:secret@a"], "publish: gopher:// is not one of "),
        (["--point", "0.5,0.5"], "--point: points are drawn with --attention encoder; add that"),
        (["--set", "records=a.jsonl"], "records: is not for live; leave it out"),
        (["--set", "save_attention=a.npz"], "save_attention: is not for live; leave it out"),
        (["--set", "max_frames=3"], "max_frames: is not for live; leave it out"),
        (["--token", "secret"], "token: expected at least 12 characters, got 6"),
        (["--set", "token=[secret]"], "token: expected text\n"),
        (["--set", "token=[secret"], "--set token: the value is not YAML\n"),
        (["--set", "publish={rtsp: secret}"], "publish: expected a list\n"),
        (["--no-progres"], "unknown flag --no-progres"),
    ],
)
@pytest.mark.usefixtures("no_model")
def test_what_cannot_be_is_said_in_one_line_before_the_model_loads(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["live", "pattern", *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"stream-detr: error: {says}")
    assert len(said.splitlines()) == 1
    assert "secret" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_model")
def test_a_busy_port_is_said_before_the_model_loads(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        assert main(["live", "pattern", "--port", str(port)]) == 2
    assert f"can't listen on 127.0.0.1 port {port} (" in capsys.readouterr().err


def test_a_flag_of_another_command_is_not_what_was_meant() -> None:
    with pytest.raises(UsageError, match=r"unknown flag --no-progress.*\(see .*live --help\)") as caught:
        parse(["live", "0", "--no-progress"])
    assert "did you mean --no-progress" not in str(caught.value)
    with pytest.raises(UsageError, match=r"unknown flag --no-progres; did you mean --no-progress\?"):
        parse(["process", "a", "-o", "b", "--no-progres"])


@pytest.mark.parametrize("token", ["1234567890123", "012345670123", "1_234_567_890_123"])
def test_a_token_of_digits_is_taken_as_it_was_typed(tmp_path: Path, token: str) -> None:
    assert load_config(settings=[f"token={token}"]).token == token
    (tmp_path / "my.yaml").write_text("token: 1234567890123\n")
    assert load_config(str(tmp_path / "my.yaml")).token == "1234567890123"


def serve_by(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> list[dict[str, Any]]:
    """In place of the page and the model: call ``act`` inside the loop; gives what the server was asked for."""
    asked: list[dict[str, Any]] = []

    @asynccontextmanager
    async def served(session: object, **options: Any) -> AsyncIterator[str]:
        asked.append(options)
        asyncio.get_running_loop().call_soon(act)
        yield "http://127.0.0.1:1/?token=abc"

    monkeypatch.setattr("stream_detr.web.server.served", served)
    monkeypatch.setattr("stream_detr.web.access.open_browser", lambda url: False)
    monkeypatch.setattr(pipeline, "load_detector", lambda config: FakeDetector())
    return asked


def test_a_sigterm_does_not_break_into_the_loops_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    finished: list[bool] = []

    def act() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        finished.append(True)

    serve_by(monkeypatch, act)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["live", "pattern:64x48@10", "--port", "0", "--quiet"]) == 130
    assert finished == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_names_reach_the_server_and_a_browser_that_does_not_return_holds_up_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened, returns = threading.Event(), threading.Event()

    def open_browser(url: str) -> bool:
        opened.set()
        return returns.wait(START_SECONDS)

    asked = serve_by(monkeypatch, lambda: None)
    monkeypatch.setattr("stream_detr.web.access.open_browser", open_browser)
    flags = ["--port", "0", "--name", "cam.example.org", "--name", "b", "--quiet"]
    try:
        assert main(["live", "pattern:64x48@10:0.5", *flags]) == 0
        assert opened.wait(START_SECONDS)
        assert asked[0]["names"] == ("cam.example.org", "b")
    finally:
        returns.set()


def test_a_recording_that_failed_is_exit_code_1_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: Output) -> Any:
        raise ZeroDivisionError("the reason")

    monkeypatch.setattr(Output, "_pictures", fail)
    serve_by(monkeypatch, lambda: None)
    command = ["live", "pattern:64x48@10:0.5", "--view", "none", "--quiet", "--record", str(tmp_path)]
    assert main(command) == 1
    assert "the reason" in capsys.readouterr().err


STUCK = """
import atexit, sys, threading
from stream_detr import pipeline
from stream_detr.cli import run
sys.path.insert(0, "tests")
from conftest import FakeDetector

is_stuck = sys.argv[1] == "stuck"

class Slow(FakeDetector):
    def __call__(self, frames):
        if is_stuck:
            print("in the model", file=sys.stderr, flush=True)
            threading.Event().wait(60)
        return super().__call__(frames)

pipeline.load_detector = lambda config: Slow()
atexit.register(print, "the interpreter's own end")
length = ":1000" if is_stuck else ":0.5"
sys.argv[1:] = ["live", "pattern:64x48@10" + length, "--view", "none"]
run()
"""


def test_a_model_that_is_still_at_work_does_not_hold_up_the_end() -> None:
    command = [sys.executable, "-c", STUCK, "stuck"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        try:
            assert program.stderr is not None
            assert program.stdout is not None
            assert program.stderr.readline() == "in the model\n"
            assert program.stdout.readline() == "watching 1 stream; Ctrl-C ends it\n"
            started = time.monotonic()
            program.send_signal(signal.SIGINT)
            said, error = program.communicate(timeout=END_SECONDS + 10)
            took = time.monotonic() - started
        finally:
            program.kill()
    assert program.returncode == 130
    assert took < END_SECONDS
    assert said == ""
    assert error == "stream-detr: interrupted; what was written so far is closed and playable\n"


def test_where_nothing_is_stuck_the_interpreter_ends_as_ever() -> None:
    command = [sys.executable, "-c", STUCK, "free"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "the interpreter's own end"


@contextmanager
def watching(small_model: str, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command with its page, and the page's address as it printed it."""
    command = [sys.executable, "-m", "stream_detr", "live", *flags, "--model", small_model, "--device", "cpu"]
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    with subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as program:
        try:
            assert program.stdout is not None
            ready, _, _ = select.select([program.stdout], [], [], START_SECONDS)
            assert ready, "it has not come up"
            line = program.stdout.readline()
            found = re.search(r"http://\S+", line)
            assert found, line
            yield program, found[0]
        finally:
            program.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_there_and_a_signal_ends_everything(
    tmp_path: Path, small_model: str, number: signal.Signals
) -> None:
    with watching(small_model, "pattern:320x240@10", "--record", str(tmp_path / "rec.mp4")) as (program, address):
        with urllib.request.urlopen(address, timeout=10) as page:
            assert b"<html" in page.read().lower()
        with urllib.request.urlopen(f"{address}state", timeout=10) as state:
            assert "pattern" in state.read().decode()
        deadline = time.monotonic() + START_SECONDS
        while not any(path.stat().st_size > 2000 for path in tmp_path.glob("rec*.mp4")):
            assert time.monotonic() < deadline, "nothing is recorded"
            select.select([], [], [], 0.05)
        started = time.monotonic()
        program.send_signal(number)
        _, error = program.communicate(timeout=END_SECONDS + 10)
        took = time.monotonic() - started
    assert program.returncode == 130
    assert error == "stream-detr: interrupted; what was written so far is closed and playable\n"
    assert took < END_SECONDS
    [video] = tmp_path.glob("rec*.mp4")
    with av.open(str(video)) as container:
        assert next(container.decode(video=0)).width == 320


def test_an_address_that_others_reach_asks_for_the_token_it_printed(small_model: str) -> None:
    with watching(small_model, "pattern:64x48@10", "--host", "0.0.0.0") as (_, address):
        port, token = re.search(r":(\d+)/\?token=(\S+)", address).groups()  # type: ignore[union-attr]
        assert len(token) >= 20
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/?token={token[:-1]}x", timeout=10)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/?token={token}", timeout=10) as page:
            assert page.status == 200
