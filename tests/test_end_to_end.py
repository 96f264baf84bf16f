"""The whole way with a real, if small and untrained, model: command line in, files out."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

import stream_detr
from stream_detr.bench import measure
from stream_detr.cli import main
from stream_detr.config import Config, load_config
from stream_detr.inspection import frame_at
from stream_detr.sources import open_source

PATTERN = "pattern:96x64@10:0.7"


def decoded(path: Path) -> list[tuple[float, int]]:
    with av.open(str(path)) as container:
        return [(frame.time, frame.width) for frame in container.decode(video=0)]


# All of the small model's queries find the same thing: followed, that is one object.
@pytest.mark.parametrize(("track", "num_objects"), [("--no-track", 6), ("--track", 1)])
@pytest.mark.parametrize("attention", ["cross", "encoder", "objects", "none"])
def test_a_video_comes_out_with_every_kind_of_attention(
    attention: str, track: str, num_objects: int, small_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, records = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    command = ["process", PATTERN, "-o", str(out), "--model", small_model, "--device", "cpu", "--threshold", "0", track]
    assert main([*command, "--attention", attention, "--records", str(records), "--batch-size", "3"]) == 0
    assert decoded(out) == [(pytest.approx(index / 10), 96) for index in range(7)]
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    assert [len(line["detections"]) for line in lines] == [num_objects] * 7
    assert (lines[0]["detections"][0]["attention"] is not None) == (attention != "none")
    assert "out.mp4: 7 frames" in capsys.readouterr().out


def test_the_report_says_what_ran(small_model: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    flags = ["--model", small_model, "--device", "cpu", "--report", str(report), "--quiet"]
    assert main(["process", PATTERN, "-o", str(tmp_path / "out.mp4"), *flags]) == 0
    told = json.loads(report.read_text())
    assert (told["model"]["name"], told["model"]["device"]) == ("small", "cpu")
    assert told["model"]["precision"] in ("fp32", "bf16")
    assert told["model"]["precision_reason"]
    assert set(told["runs"][0]["report"]["stage_seconds"]) == {"read", "detect", "track", "draw", "write"}
    assert set(told["versions"]) >= {"stream-detr", "torch", "av", "python"}


def test_analyze_equals_the_detector_frame_by_frame(small_model: str) -> None:
    detector = stream_detr.load_model(small_model, device="cpu", precision="fp32", threshold=0.0)
    pattern = "pattern:96x64@10:0.3"
    with open_source(pattern) as source:
        plain = [detector([frame])[0] for frame in source]
    options = {"device": "cpu", "precision": "fp32", "threshold": 0.0, "batch_size": 2, "track": False}
    results = list(stream_detr.analyze(pattern, model=small_model, **options))
    assert len(results) == len(plain) == 3
    for result, expected in zip(results, plain, strict=True):
        assert np.allclose(result.detections.scores, expected.scores, atol=1e-5)
        assert result.detections.attention is not None
        assert result.detections.attention.cross is not None
        assert np.allclose(result.detections.attention.cross.sum((1, 2)), 1, atol=1e-4)


def test_inspect_draws_the_figure_and_prints_the_shapes(
    small_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figure.png"
    flags = ["--model", small_model, "--device", "cpu", "--threshold", "0"]
    assert main(["inspect", PATTERN, "--at", "0.3", "-o", str(out), *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert out.read_bytes().startswith(b"\x89PNG")
    assert lines[0] == "encoder attention:  (24, 24)"  # 64x96 at stride 16
    assert lines[1] == "feature map:        (1, 256, 4, 6)"
    assert lines[2].startswith("query ")
    assert len(lines) == 2 + 6 + 1


@pytest.mark.parametrize(("at_seconds", "index"), [(0, 0), (0.05, 0), (0.1, 1), (0.31, 3), (0.6, 6), (0.7, 6)])
def test_the_frame_at_a_time_is_the_one_on_screen_then(at_seconds: float, index: int) -> None:
    assert frame_at(PATTERN, at_seconds).index == index


def test_bench_measures_every_stage(small_model: str) -> None:
    config = load_config(flags={"model": small_model, "device": "cpu"})
    lines = list(measure(config, 1, "pattern:96x64@10:2"))
    assert "small on cpu" in lines[0]
    stages = [line.split("  ")[1] for line in lines[1:-1]]
    assert stages == ["detect", "- preprocess", "- forward", "- attention and postprocess", "draw", "write", "read"]
    assert "frames/s" in lines[-1]


def test_every_public_name_is_there() -> None:
    for name in stream_detr.__all__:
        assert getattr(stream_detr, name) is not None
        assert name in dir(stream_detr)
    assert stream_detr.Config is Config
    with pytest.raises(AttributeError, match="no attribute 'detect_everything'"):
        stream_detr.detect_everything  # noqa: B018
