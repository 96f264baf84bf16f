"""The command line: light to start, quiet when asked, honest about how it ended."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import pytest
from conftest import FakeDetector

from stream_detr import pipeline
from stream_detr.cli import main
from stream_detr.cli.flags import build_parser, parse
from stream_detr.cli.progress import Progress
from stream_detr.config import Config
from stream_detr.errors import UsageError
from stream_detr.structures import Detections, Frame, RunReport, StreamInfo

HEAVY = {"numpy", "torch", "torchvision", "av", "cv2", "pydantic", "yaml", "tqdm", "matplotlib", "PIL"}
PATTERN = "pattern:64x48@10:0.5"


@pytest.fixture(autouse=True)
def fake_detector(monkeypatch: pytest.MonkeyPatch) -> FakeDetector:
    detector = FakeDetector()
    monkeypatch.setattr(pipeline, "load_detector", lambda config: detector)
    return detector


def num_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def in_a_fresh_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "code",
    [
        "import stream_detr",
        "from stream_detr.cli import main; assert main(['--help']) == 0",
        "from stream_detr.cli import main; assert main(['process', '--help']) == 0",
        "from stream_detr.cli import main; assert main(['process']) == 2",
    ],
)
def test_help_and_import_load_nothing_heavy(code: str) -> None:
    done = in_a_fresh_python(f"{code}\nimport sys\nassert not {HEAVY!r} & set(sys.modules), set(sys.modules)")
    assert done.returncode == 0, done.stderr


def test_every_command_and_flag_of_the_contract_is_there() -> None:
    flags = build_parser().flags()
    for name in (
        *("--model", "--device", "--precision", "--size", "--max-size", "--batch-size", "--threshold"),
        *("--classes", "--stride", "--max-frames", "--attention", "--layer", "--head", "--point", "--alpha"),
        *("--track", "--no-track", "--records", "--report", "--config", "--set", "--overwrite", "--quiet"),
        *("--no-progress", "--traceback", "--codec", "--crf", "--preset", "--direction", "--at", "--record"),
    ):
        assert name in flags
    for command in (["demo"], ["process", "a", "-o", "b"], ["live", "0"], ["inspect", "a", "-o", "b.png"], ["bench"]):
        assert parse(command).command == command[0]
    for action in (["list"], ["fetch", "detr_resnet50"], ["show", "x.pth"]):
        assert parse(["models", *action]).action == action[0]


def test_every_flag_that_names_a_setting_names_one_that_exists() -> None:
    known = set(Config.model_fields)
    given = vars(parse(["process", "a", "-o", "b", "--point", "0,0", "--no-track", "--max-frames", "3"]))
    assert set(given) - known == {"command", "sources", "output", "config", "set"} | {
        "no_progress",
        "quiet",
        "traceback",
    }


def test_a_mistyped_flag_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown flag --treshold; did you mean --threshold\?"):
        parse(["process", "a", "-o", "b", "--treshold", "0.5"])


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "process" in capsys.readouterr().out


def test_process_writes_the_video_and_says_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.mp4"
    assert main(["process", PATTERN, "-o", str(out), "--no-track"]) == 0
    said = capsys.readouterr()
    assert num_frames(out) == 5
    assert f"{out}: 5 frames in" in said.out
    assert "person" in said.out
    assert "2 frames, best 0.90" in said.out
    assert said.err.splitlines() == [line for line in said.err.splitlines() if line.startswith("pattern: 5 of 5")]


def test_quiet_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["process", PATTERN, "-o", str(tmp_path / "out.mp4"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_no_progress_shows_results_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["process", PATTERN, "-o", str(tmp_path / "out.mp4"), "--no-progress"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "out.mp4: 5 frames" in said.out


def test_flags_reach_the_pipeline(tmp_path: Path, fake_detector: FakeDetector) -> None:
    report = tmp_path / "report.json"
    command = ["process", "pattern:64x48@10:1", "-o", str(tmp_path / "out.mp4"), "--report", str(report)]
    flags = ["--set", "crf=30", "--max-frames", "7", "--stride", "2", "--layer=-1,-2", "--quiet"]
    assert main([*command, *flags]) == 0
    assert [index for batch in fake_detector.batches for index in batch] == [0, 2, 4, 6]
    told = json.loads(report.read_text())
    assert (told["settings"]["crf"], told["settings"]["layer"]) == (30, [-1, -2])
    assert told["runs"][0]["report"]["frames_written"] == 7


def test_a_config_file_is_used_and_flags_win(tmp_path: Path) -> None:
    config, report = tmp_path / "my.yaml", tmp_path / "report.json"
    config.write_text("max_frames: 2\ncrf: 33\n")
    command = ["process", PATTERN, "-o", str(tmp_path / "out.mp4"), "--config", str(config), "--quiet"]
    assert main([*command, "--max-frames", "3", "--report", str(report)]) == 0
    told = json.loads(report.read_text())
    assert (told["settings"]["crf"], told["runs"][0]["report"]["frames_written"]) == (33, 3)


def test_one_broken_input_of_several_is_named_and_the_exit_code_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("not a video")
    assert main(["process", str(broken), PATTERN, "-o", str(tmp_path / "out"), "--no-progress"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"stream-detr: error: {broken}")
    assert len(said.err.splitlines()) == 1
    assert "5 frames in" in said.out


def test_when_nothing_came_out_there_is_nothing_to_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("not a video")
    assert main(["process", str(broken), "-o", str(tmp_path / "out.mp4")]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_exits_with_130_and_leaves_a_playable_file(
    tmp_path: Path, fake_detector: FakeDetector, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    find = fake_detector.found

    def interrupt_at_20(frame: Frame) -> Detections:
        if frame.index == 20:
            os.kill(os.getpid(), number)
        return find(frame)

    fake_detector.found = interrupt_at_20  # type: ignore[method-assign]
    out = tmp_path / "out.mp4"
    assert main(["process", "pattern:64x48@10:1000", "-o", str(out), "--no-progress"]) == 130
    assert 10 <= num_frames(out) < 10_000
    assert capsys.readouterr().err == "stream-detr: interrupted; what was written so far is closed and playable\n"


def test_sigterm_means_what_it_meant_again_afterwards(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    main(["process", PATTERN, "-o", str(tmp_path / "out.mp4"), "--quiet"])
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_unexpected_error_is_one_line_with_a_hint(
    tmp_path: Path, fake_detector: FakeDetector, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_detector.fails_at, fake_detector.error = 2, RuntimeError("the model\nfell over")
    command = ["process", PATTERN, "-o", str(tmp_path / "out.mp4"), "--no-progress", "--overwrite"]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert said == (
        "stream-detr: error: unexpected RuntimeError: the model (--traceback shows where; please report it)\n"
    )
    assert main([*command, "--traceback"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_reader_that_is_gone_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "stream_detr", "--version"],
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == ""


def test_the_demo_runs_the_embedded_clip_and_model_and_replaces_its_last_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Config] = []

    def load(config: Config) -> FakeDetector:
        asked.append(config)
        return FakeDetector()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "load_detector", load)
    for _ in range(2):
        assert main(["demo", "--max-frames", "3", "--no-progress"]) == 0
        said = capsys.readouterr().out
        assert "stream-detr-demo.mp4: 3 frames" in said
        assert "person" in said
    assert num_frames(tmp_path / "stream-detr-demo.mp4") == 3
    assert [config.model for config in asked] == ["tiny", "tiny"]


# -- progress -----------------------------------------------------------------------------------------------


class Clock:
    """Moves on by hand."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Terminal(io.StringIO):
    """Says that it's one."""

    def isatty(self) -> bool:
        return True


def updates(name: str, counts: Sequence[int], total: int | None) -> Iterator[tuple[str, StreamInfo, RunReport]]:
    for count in counts:
        yield (
            name,
            StreamInfo(name, 64, 48, Fraction(10), total),
            RunReport(frames_written=count, elapsed_seconds=count / 4),
        )


def test_in_a_pipe_a_line_comes_every_ten_seconds_and_at_the_end() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock)
    for update in updates("a.mp4", range(101), 100):
        progress.update(*update)
        clock.seconds += 0.25
    progress.close()
    assert stream.getvalue().splitlines() == [
        "a.mp4: 40 of 100 frames, 4.0 fps, 15 s left",
        "a.mp4: 80 of 100 frames, 4.0 fps, 5 s left",
        "a.mp4: 100 of 100 frames, 4.0 fps",
    ]


def test_a_total_that_was_wrong_is_not_shown() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock)
    for update in updates("a.mp4", range(12), 10):
        progress.update(*update)
        clock.seconds += 0.1
    progress.close()
    assert stream.getvalue().startswith("a.mp4: 11 frames, ")


def test_each_input_gets_its_own_lines() -> None:
    stream = io.StringIO()
    progress = Progress(stream, Clock())
    for name in ("a.mp4", "b.mp4"):
        for update in updates(name, [1, 2], None):
            progress.update(*update)
    progress.close()
    assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == ["a.mp4: 2 frames", "b.mp4: 2 frames"]


def test_max_frames_is_the_total_where_it_is_smaller() -> None:
    stream = io.StringIO()
    progress = Progress(stream, Clock())
    for update in updates("a.mp4", [1, 2], 100):
        progress.update(*update, max_frames=2)
    progress.close()
    assert stream.getvalue().startswith("a.mp4: 2 of 2 frames")


def test_in_a_terminal_there_is_a_bar() -> None:
    stream = Terminal()
    progress = Progress(stream)
    for update in updates("a.mp4", [1, 5, 10], 10):
        progress.update(*update)
    progress.close()
    assert "a.mp4" in stream.getvalue()
    assert "10/10" in stream.getvalue()
