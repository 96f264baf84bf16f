"""JSON lines and COCO's results, and the choice of a format by suffix."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_detr.errors import SinkError, UsageError
from stream_detr.sinks import RECORDS, check_formats, open_records
from stream_detr.sinks.records import record
from tests.found import found, frame, write_and_raise

IMAGE = frame().image


def write(path: Path, *frames: Any) -> None:
    with open_records(str(path)) as sink:
        for each, detections in frames:
            sink.write(each, IMAGE, detections)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("suffix", RECORDS)
def test_every_kind_of_records_keeps_the_contract(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"out{suffix}"
    with open_records(str(path)) as sink:
        sink.write(frame(0), IMAGE, found())
        sink.write(frame(1), IMAGE, found(0))
        sink.close()
        sink.close()
    assert path.stat().st_size


@pytest.mark.parametrize("suffix", RECORDS)
def test_what_cannot_be_written_is_one_line(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SinkError, match=f"file/out{suffix}: a part of this path is a file"):
        open_records(str(tmp_path / "file" / f"out{suffix}"))
    if Path("/dev/full").exists():
        path = tmp_path / f"full{suffix}"
        path.symlink_to("/dev/full")
        with pytest.raises(SinkError, match="no space left on the disk"):
            write(path, (frame(), found()))


def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"out\.xml: can't write records as \.xml; use \.jsonl, \.csv, \.parquet, \.js"
    ):
        open_records(str(tmp_path / "out.xml"))
    with pytest.raises(UsageError, match=r"out\.xml"):
        check_formats(str(tmp_path / "out.xml"), None)
    assert not any(tmp_path.iterdir())


def test_a_format_is_checked_without_touching_the_file(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("precious")
    check_formats(str(tmp_path / "out.csv"), str(tmp_path / "maps.zarr"))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_a_library_that_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for attempt in (open_records, lambda path: check_formats(path, None)):
        with pytest.raises(UsageError, match=r'needs pyarrow; pip install "stream-detr\[parquet\]"'):
            attempt(str(tmp_path / "out.parquet"))
    assert not any(tmp_path.iterdir())


# -- JSON lines ---------------------------------------------------------------------------------------------


def test_an_object_says_whether_it_was_carried_and_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    crossings = {"gate": {"cat": (2, 1)}, "door": {}}
    write(
        path, (frame(), replace(found(), crossings=crossings)), (frame(1), replace(found(), zones=None, carried=None))
    )
    first, second = lines(path)
    assert [each["carried"] for each in first["detections"]] == [False, True]
    assert [each["zones"] for each in first["detections"]] == [[], ["door", "street"]]
    assert first["crossings"] == {"gate": {"cat": [2, 1]}, "door": {}}
    assert [each["carried"] for each in second["detections"]] == [False, False]
    assert "zones" not in second["detections"][0]
    assert "crossings" not in second


def test_new_keys_come_after_those_of_the_design() -> None:
    written = record(frame(), replace(found(), crossings={}))
    design = ["stream", "index", "pts", "seconds", "width", "height", "detections"]
    assert [*written] == [*design, "crossings"]
    design = ["box", "score", "class_id", "class", "query_id", "track_id", "attention"]
    assert [*written["detections"][0]] == [*design, "carried", "zones"]


# -- COCO ---------------------------------------------------------------------------------------------------


def test_coco_results_hold_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    detections = [found(2, seed=1), found(0), found(1, seed=2)]
    write(path, *((frame(index), each) for index, each in enumerate(detections)))
    results = json.loads(path.read_text(encoding="utf-8"))
    assert [each["image_id"] for each in results] == [0, 0, 2]
    boxes = np.concatenate([each.boxes for each in detections])
    expected = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    np.testing.assert_allclose([each["bbox"] for each in results], expected, atol=0.011)
    scores = np.concatenate([each.scores for each in detections])
    np.testing.assert_allclose([each["score"] for each in results], scores, atol=5.1e-5)
    assert [each["category_id"] for each in results] == [0, 1, 0]
    assert [each["category_name"] for each in results] == ["cat", 'a "café", open', "cat"]
    assert [each.get("track_id") for each in results] == [7, None, 7]
    assert [each["carried"] for each in results] == [False, True, False]
    assert {each["stream"] for each in results} == {"clip.mp4"}


def test_coco_results_are_whole_after_every_frame(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    with open_records(str(path)) as sink:
        assert json.loads(path.read_bytes()) == []
        for index in range(5):
            sink.write(frame(index, "a\udcff.mp4"), IMAGE, found(index % 3, seed=index))
            ids = [each["image_id"] for each in json.loads(path.read_bytes())]
            assert ids == [1, 2, 2, 4][: sum(i % 3 for i in range(index + 1))]
    assert json.loads(path.read_bytes())[0]["stream"] == "a\udcff.mp4"


FILL_THE_DISK = """
import resource, signal, sys
from stream_detr.errors import SinkError
from stream_detr.sinks import open_records
from tests.found import found, frame
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    with open_records(sys.argv[1]) as sink:
        for index in range(1000):
            sink.write(frame(index), frame().image, found(3, seed=index))
except SinkError as error:
    print(index, error)
"""


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.json", "out.parquet"])
def test_a_disk_that_fills_up_is_one_line_and_keeps_what_can_be_kept(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    command = [sys.executable, "-c", FILL_THE_DISK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    written, _, message = done.stdout.partition(" ")
    assert message.startswith(f"{path}: the file has reached the size limit here; raise it (")
    if name == "out.parquet":
        assert "a Parquet file can't be read without its end; .csv and .jsonl can" in message
    else:
        assert 10 < int(written) < 1000
        assert "the part so far is kept" in message
    if name == "out.json":
        ids = [each["image_id"] for each in json.loads(path.read_bytes())]
        assert ids == [index for index in range(int(written)) for _ in range(3)]


# -- a run that doesn't end well ----------------------------------------------------------------------------

WRITE_UNTIL_KILLED = """
import sys
from stream_detr.sinks import open_records
from tests.found import found, frame, write_and_raise
sink = open_records(sys.argv[1])
for index in range(50):
    sink.write(frame(index), frame().image, found(2, seed=index))
print("written", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.json"])
def test_a_kill_loses_no_frame(tmp_path: Path, name: str) -> None:
    killed, whole = tmp_path / name, tmp_path / "whole" / name
    command = [sys.executable, "-c", WRITE_UNTIL_KILLED, str(killed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        child.send_signal(signal.SIGKILL)
    write(whole, *((frame(index), found(2, seed=index)) for index in range(50)))
    assert killed.read_bytes() == whole.read_bytes()


def test_what_ended_the_loop_is_the_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is not there")
    (tmp_path / "out.parquet").symlink_to("/dev/full")
    with pytest.raises(RuntimeError, match="the news"):
        write_and_raise(open_records(str(tmp_path / "out.parquet")), RuntimeError)
    assert "no space left" in caplog.text
