"""The live command, as a user types it: in a program of its own, with the small random model."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import pytest

from stream_detr.cli import main

START_SECONDS = 60
END_SECONDS = 2.0


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
def test_the_page_is_there_and_a_signal_ends_everything_within_two_seconds(
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
        _, error = program.communicate(timeout=END_SECONDS + 20)
        took = time.monotonic() - started
    assert program.returncode == 130
    assert error == "stream-detr: interrupted; what was written so far is closed and playable\n"
    assert took < END_SECONDS + 1  # the interpreter's own end, on a busy machine, is in it
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
