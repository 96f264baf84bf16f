"""Bad input of every kind through the real command line: one clear line on stderr, the right exit code."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import FakeDetector

from stream_detr import pipeline
from stream_detr.cli import main
from stream_detr.sinks import VideoOptions, open_sink
from stream_detr.structures import Detections, Frame, StreamInfo

FAILED, MISUSED = 1, 2
PATTERN = "pattern:64x48@10:0.5"


def make_clip(path: Path, count: int = 20) -> bytes:
    """A small video; gives its bytes."""
    info = StreamInfo(path.name, 64, 48, Fraction(10), count)
    rng = np.random.default_rng(0)
    with open_sink(str(path), info, options=VideoOptions(), audio=None) as sink:
        for index in range(count):
            image = rng.integers(0, 255, (48, 64, 3), np.uint8)
            frame = Frame(image, index, index, Fraction(1, 10), 0.0, info)
            sink.write(frame, image, Detections.empty())
    return path.read_bytes()


def make_sound(path: Path) -> None:
    """A file with audio only."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder full of trouble, and the current one."""
    monkeypatch.chdir(tmp_path)
    clip = make_clip(tmp_path / "good.mp4")
    (tmp_path / "cut.mp4").write_bytes(clip[: len(clip) // 10])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is not a video\n")
    (tmp_path / "zeros.mp4").write_bytes(bytes(5000))
    make_sound(tmp_path / "sound.mp4")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("this is not a picture")
    cv2.imwrite(str(tmp_path / "good.png"), np.zeros((48, 64, 3), np.uint8))
    (tmp_path / "nothing").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "notes.txt").write_text("notes")
    for name in ("taken.mp4", "taken.jsonl"):
        (tmp_path / name).write_text("precious")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "unknown_key.yaml").write_text("tresh: 0.5\n")
    (tmp_path / "broken.yaml").write_text("threshold: [\n")
    (tmp_path / "list.yaml").write_text("- threshold\n")
    if Path("/dev/full").exists():
        (tmp_path / "full.mp4").symlink_to("/dev/full")
        (tmp_path / "full.jsonl").symlink_to("/dev/full")
        (tmp_path / "full.json").symlink_to("/dev/full")
    return tmp_path


def check(capsys: pytest.CaptureFixture[str], command: list[str], code: int, said: str) -> None:
    """Run it: ``said`` stands in the one line on stderr, and stdout is empty."""
    result = main(command)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert [line for line in lines if not line.startswith("stream-detr: error: ")] == []
    assert len(lines) == 1, err
    assert said in lines[0]
    assert result == code
    assert "Traceback" not in err
    assert out == ""


def process(*arguments: str) -> list[str]:
    return ["process", *arguments, "--quiet"]


USAGE: dict[str, tuple[list[str], str]] = {
    "unknown command": (["proces", "a"], "proces"),
    "unknown flag": (process(PATTERN, "-o", "o.mp4", "--tresh", "1"), "did you mean --threshold?"),
    "abbreviated flag": (process(PATTERN, "-o", "o.mp4", "--thresh", "1"), "did you mean --threshold?"),
    "no source": (["process", "-o", "o.mp4"], "SOURCE"),
    "no output": (process(PATTERN), "-o/--output"),
    "flag without value": (process(PATTERN, "-o", "o.mp4", "--threshold"), "--threshold"),
    "threshold is a word": (process(PATTERN, "-o", "o.mp4", "--threshold", "high"), "expected a number"),
    "threshold too high": (process(PATTERN, "-o", "o.mp4", "--threshold", "70"), "at most 1, got '70'"),
    "threshold nan": (process(PATTERN, "-o", "o.mp4", "--threshold", "nan"), "finite"),
    "stride 0": (process(PATTERN, "-o", "o.mp4", "--stride", "0"), "stride: expected at least 1"),
    "half a frame": (process(PATTERN, "-o", "o.mp4", "--max-frames", "1.5"), "max_frames: expected a whole"),
    "batch of none": (process(PATTERN, "-o", "o.mp4", "--batch-size", "0"), "batch_size"),
    "tiny size": (process(PATTERN, "-o", "o.mp4", "--size", "3"), "size: expected at least 32"),
    "sizes crossed": (process(PATTERN, "-o", "o.mp4", "--size", "800", "--max-size", "400"), "smaller than"),
    "unknown precision": (process(PATTERN, "-o", "o.mp4", "--precision", "int8"), "'fp32', 'bf16'"),
    "unknown device": (process(PATTERN, "-o", "o.mp4", "--device", "gpu"), "cuda:N"),
    "unknown attention": (process(PATTERN, "-o", "o.mp4", "--attention", "all"), "'cross', 'encoder'"),
    "unknown direction": (process(PATTERN, "-o", "o.mp4", "--direction", "up"), "'looks-at'"),
    "layer is a word": (process(PATTERN, "-o", "o.mp4", "--layer", "last"), "layer: expected a number"),
    "head is a word": (process(PATTERN, "-o", "o.mp4", "--head", "first"), "head: expected mean, max"),
    "point outside": (process(PATTERN, "-o", "o.mp4", "--point", "1.5,0.5"), "between 0 and 1"),
    "point with one number": (process(PATTERN, "-o", "o.mp4", "--point", "0.5"), "expected X,Y"),
    "point without encoder": (process(PATTERN, "-o", "o.mp4", "--point", "0,0"), "add that"),
    "alpha too high": (process(PATTERN, "-o", "o.mp4", "--alpha", "2"), "alpha: expected at most 1"),
    "no classes": (process(PATTERN, "-o", "o.mp4", "--classes", ","), "classes: expected at least one"),
    "zone of two points": (process(PATTERN, "-o", "o.mp4", "--zone", "door:0,0;1,1"), "zone 'door"),
    "zone of no numbers": (process(PATTERN, "-o", "o.mp4", "--zone", "door:a,b"), "zone 'door"),
    "line without a name": (process(PATTERN, "-o", "o.mp4", "--line", "0,0;1,1"), "line '0,0;1,1'"),
    "a name twice": (process(PATTERN, "-o", "o.mp4", "--line", "a:0,0;1,1", "--line", "a:0,1;1,0"), "'a'"),
    "records of no known kind": (process(PATTERN, "-o", "o.mp4", "--records", "o.xml"), ".xml"),
    "maps of no known kind": (process(PATTERN, "-o", "o.mp4", "--save-attention", "o.csv"), ".csv"),
    "maps of no attention": (
        process(PATTERN, "-o", "o.mp4", "--save-attention", "o.npz", "--attention", "none"),
        "draw another kind",
    ),
    "two rates": (process(PATTERN, "-o", "o.mp4", "--stride", "2", "--detect-fps", "3"), "give one of them"),
    "set without value": (process(PATTERN, "-o", "o.mp4", "--set", "crf"), "expected key=value"),
    "set of an unknown key": (process(PATTERN, "-o", "o.mp4", "--set", "crv=3"), "did you mean 'crf'?"),
    "config is missing": (process(PATTERN, "-o", "o.mp4", "--config", "no.yaml"), "no such file"),
    "config with an unknown key": (process(PATTERN, "-o", "o.mp4", "--config", "unknown_key.yaml"), "'threshold'"),
    "config is no YAML": (process(PATTERN, "-o", "o.mp4", "--config", "broken.yaml"), "not YAML"),
    "config is a list": (process(PATTERN, "-o", "o.mp4", "--config", "list.yaml"), "got a list"),
    "unknown codec": (process(PATTERN, "-o", "o.mp4", "--codec", "h269"), "h269: no such video encoder"),
    "codec in the wrong file": (process(PATTERN, "-o", "o.webm"), "doesn't go into .webm"),
    "unknown preset": (process(PATTERN, "-o", "o.mp4", "--preset", "quick"), "ultrafast"),
    "crf too high": (process(PATTERN, "-o", "o.mp4", "--crf", "60"), "--crf 60"),
    "unknown suffix": (process(PATTERN, "-o", "o.txt"), "can't write .txt files"),
    "several inputs, one file": (process("good.mp4", PATTERN, "-o", "o.mp4"), "give a folder"),
    "a video into a picture": (process("good.mp4", "-o", "o.png"), "holds one picture"),
    "output is the input": (process("good.mp4", "-o", "good.mp4", "--overwrite"), "would be overwritten"),
    "one path for two things": (process(PATTERN, "-o", "o.mp4", "--report", "o.mp4"), "two outputs"),
    "inspect into a video": (["inspect", "good.mp4", "-o", "o.mp4"], "PNG"),
    "inspect at a word": (["inspect", "good.mp4", "-o", "o.png", "--at", "noon"], "expected seconds"),
    "inspect before the start": (["inspect", "good.mp4", "-o", "o.png", "--at=-1"], "from 0 on"),
    "inspect past the end": (["inspect", "good.mp4", "-o", "o.png", "--at", "60"], "2.00 s long"),
    "models without action": (["models"], "ACTION"),
    "rounds of none": (["bench", "--rounds", "0"], "--rounds"),
}

# Input and output have to be seen together for these, which is after the model has loaded.
SEEN_LATE = {"codec in the wrong file", "unknown suffix", "a video into a picture"}

FAILURES: dict[str, tuple[list[str], str]] = {
    "missing file": (process("no.mp4", "-o", "o.mp4"), "no.mp4: no such file"),
    "empty file": (process("empty.mp4", "-o", "o.mp4"), "empty.mp4: is empty"),
    "text named mp4": (process("text.mp4", "-o", "o.mp4"), "text.mp4: not a video"),
    "zeros named mp4": (process("zeros.mp4", "-o", "o.mp4"), "zeros.mp4: not a video"),
    "cut off before the first frame": (process("cut.mp4", "-o", "o.mp4"), "cut.mp4"),
    "sound only": (process("sound.mp4", "-o", "o.mp4"), "sound.mp4: has no video"),
    "empty picture": (process("empty.png", "-o", "o.png"), "empty.png: is empty"),
    "text named jpg": (process("text.jpg", "-o", "o.png"), "text.jpg: not an image"),
    "empty folder": (process("nothing", "-o", "out"), "nothing: the folder has no video"),
    "folder without videos": (process("words", "-o", "out"), "words: the folder has no video"),
    "glob without match": (process("*.avi", "-o", "out"), "*.avi"),
    "pattern misspelt": (process("pattern:big", "-o", "o.mp4"), "not a test pattern"),
    "stream as a file": (process("rtsp://user:s3cret@camera/1", "-o", "o.mp4"), "rtsp://camera/1"),
    "server is not there": (process("http://127.0.0.1:9/a.mp4", "-o", "o.mp4"), "http://127.0.0.1:9/a.mp4"),
    "output exists": (process(PATTERN, "-o", "taken.mp4"), "taken.mp4: exists already; add --overwrite"),
    "output folder is not empty": (process("good.png", "-o", "full"), "is not empty"),
    "output is a folder": (process(PATTERN, "-o", "o.mp4", "--report", "full"), "full"),
    "records exist": (process(PATTERN, "-o", "o.mp4", "--records", "taken.jsonl"), "--overwrite"),
    "a file where a folder should be": (process(PATTERN, "-o", "taken.mp4/o.mp4"), "taken.mp4/o.mp4"),
    "no permission": (process(PATTERN, "-o", "/proc/o.mp4"), "/proc/o.mp4"),
    "a camera that is not there": (["live", "/dev/video77"], "no such camera"),
    "inspect a missing file": (["inspect", "no.mp4", "-o", "o.png"], "no.mp4: no such file"),
    "inspect an existing output": (["inspect", "good.mp4", "-o", "good.png"], "--overwrite"),
}

# What the whole disk says; /dev/full is always full.
NO_SPACE: dict[str, list[str]] = {
    "video": process(PATTERN, "-o", "full.mp4", "--overwrite"),
    "records": process(PATTERN, "-o", "o.mp4", "--records", "full.jsonl", "--overwrite"),
    "report": process(PATTERN, "-o", "o.mp4", "--report", "full.json", "--overwrite"),
}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("kind", USAGE)
def test_bad_usage_is_one_line_and_exit_code_2(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "load_detector", fake_detector if kind in SEEN_LATE else _no_model)
    command, said = USAGE[kind]
    check(capsys, command, MISUSED, said)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("kind", FAILURES)
def test_bad_inputs_and_outputs_are_one_line_and_exit_code_1(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "load_detector", fake_detector)
    command, said = FAILURES[kind]
    check(capsys, command, FAILED, said)


def fake_detector(config: object) -> FakeDetector:
    return FakeDetector()


def _no_model(config: object) -> FakeDetector:
    raise AssertionError("the model loaded before the mistake was found")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("kind", NO_SPACE)
def test_a_full_disk_is_one_line_and_exit_code_1(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "load_detector", fake_detector)
    check(capsys, NO_SPACE[kind], FAILED, "no space left")


@pytest.mark.usefixtures("folder")
def test_nothing_on_stdin_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(pipeline, "load_detector", fake_detector)
    check(capsys, process("-", "-o", "o.mp4"), FAILED, "nothing is piped in")


def test_a_truncated_file_is_finished_with_a_warning(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "load_detector", fake_detector)
    whole = make_clip(folder / "whole.mkv", 60)
    (folder / "half.mkv").write_bytes(whole[: len(whole) // 2])
    assert main(["process", "half.mkv", "-o", "o.mp4", "--no-progress"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("stream-detr: warning: half.mkv: the file is cut off")
    assert len(said.err.splitlines()) == 1
    assert "o.mp4" in said.out


Make = Callable[[Path], object]


def _pickle_that_runs_code(path: Path) -> None:
    # Protocol 0 of: os.system("touch ran"), the classic.
    path.write_bytes(b"cposix\nsystem\n(Vtouch ran\ntR.")


MODELS: dict[str, tuple[str, Make | None]] = {
    "an unknown name": ("detr_resnet5000", None),
    "a missing file": ("weights/no.pth", None),
    "an empty file": ("empty.pth", lambda path: path.touch()),
    "text": ("text.pth", lambda path: path.write_text("not a model")),
    "text as safetensors": ("text.safetensors", lambda path: path.write_text("not a model")),
    "a pickle that runs code": ("evil.pth", _pickle_that_runs_code),
    "a folder without config": ("model", lambda path: path.mkdir()),
}


WRONG_FOR_THE_MODEL: dict[str, tuple[list[str], str]] = {
    "unknown class": (["--classes", "person,cra"], "did you mean 'car'?"),
    "no such layer": (["--layer", "9"], "layer 9 does not exist"),
    "no such head": (["--head", "9"], "head 9 does not exist"),
    "no such GPU": (["--device", "cuda:77"], "use --device cpu"),
    "half precision on a CPU": (["--device", "cpu", "--precision", "fp16"], "fp16 needs a GPU"),
}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("kind", WRONG_FOR_THE_MODEL)
def test_what_the_model_or_machine_lacks_is_one_line_and_exit_code_2(
    kind: str, small_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, said = WRONG_FOR_THE_MODEL[kind]
    check(capsys, process(PATTERN, "-o", "o.mp4", "--model", small_model, *flags), MISUSED, said)
    assert not Path("o.mp4").exists()


@pytest.mark.parametrize("kind", MODELS)
def test_a_bad_model_is_one_line_and_leaves_no_output(
    kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, make = MODELS[kind]
    if make is not None:
        make(folder / name)
    check(capsys, process("good.mp4", "-o", "o.mp4", "--model", name, "--device", "cpu"), FAILED, name)
    assert not (folder / "o.mp4").exists()
    assert not (folder / "ran").exists()


def test_a_truncated_model_is_one_line(folder: Path, small_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Path(small_model).read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    check(capsys, process("good.mp4", "-o", "o.mp4", "--model", "cut.safetensors"), FAILED, "cut.safetensors")
