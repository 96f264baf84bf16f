"""The embedded model really detects, and its attention falls on what it detects: exact truth beside the demo clip."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scoring import Scored, attention_scores, covered, identity_f1, kept_scores, precisions

from stream_detr.boxes import area, iou
from stream_detr.cli import main
from stream_detr.detector import load_model
from stream_detr.pipeline import analyze
from stream_detr.sources import open_source

PACKAGE = resources.files("stream_detr")
CLIP = str(PACKAGE / "demo.mp4")
TRUTH = json.loads((PACKAGE / "demo.json").read_text(encoding="utf-8"))["frames"]
KEPT = 0.7


@pytest.fixture(scope="module")
def scored() -> list[Scored]:
    """Every fifth frame of the clip: all detections, down to the faintest, and the truth."""
    detector = load_model("tiny", device="cpu", precision="fp32", threshold=1e-4)
    with open_source(CLIP) as source:
        frames = [frame for frame in source if frame.index % 5 == 0]
    results = []
    for first in range(0, len(frames), 8):
        for frame, found in zip(frames[first : first + 8], detector(frames[first : first + 8]), strict=True):
            objects = TRUTH[frame.index]["objects"]
            maps = found.attention
            assert maps is not None
            assert maps.cross is not None
            results.append(
                Scored(
                    found.boxes,
                    found.scores,
                    found.class_ids,
                    maps.cross,
                    np.array([one["box"] for one in objects], np.float32).reshape(-1, 4),
                    np.array([detector.class_names.index(one["class"]) for one in objects], np.int64),
                    frame.size_hw,
                    maps.stride * frame.size_hw[0] / maps.model_hw[0],
                )
            )
    return results


def test_average_precision_on_the_clip(scored: list[Scored]) -> None:
    ap50 = np.nanmean(precisions(scored, 1 + max(int(one.true_ids.max()) for one in scored))[:, 0])
    assert ap50 >= 0.90


def test_detections_are_mostly_right_and_rarely_double(scored: list[Scored]) -> None:
    scores = kept_scores(scored, KEPT)
    assert scores["recall"] >= 0.85
    assert scores["precision"] >= 0.94
    assert scores["doubles"] <= 1.03


def test_attention_points_at_the_object_and_is_far_denser_there_than_chance(scored: list[Scored]) -> None:
    scores = attention_scores(scored, KEPT)
    assert scores["pointing"] >= 0.95
    assert scores["density"] >= 6


def test_attention_of_crossing_objects_stays_on_its_own(scored: list[Scored]) -> None:
    """Where two boxes overlap, each map is denser on what is the object's alone than on what is the other's alone."""
    stays = []
    for one in scored:
        keep = one.scores >= KEPT
        overlap = iou(one.boxes[keep], one.true_boxes) * (one.class_ids[keep][:, None] == one.true_ids)
        found = {int(row.argmax()): map_ for row, map_ in zip(overlap, one.maps[keep], strict=True) if row.max() > 0.5}
        crossing = iou(one.true_boxes, one.true_boxes) > 0.1
        for mine, map_ in found.items():
            for other in found:
                if mine == other or not crossing[mine, other]:
                    continue
                cells = [covered(one.true_boxes[i], (map_.shape[0], map_.shape[1]), one.cell_px) for i in (mine, other)]
                alone = [(cells[0] - cells[1]).clip(0), (cells[1] - cells[0]).clip(0)]
                if min(part.sum() for part in alone) < 1:
                    continue  # one hides the other
                own, others = ((map_ * part).sum() / part.sum() for part in alone)
                stays.append(own > others)
    assert len(stays) >= 10
    assert np.mean(stays) >= 0.9


def frames_of(path: Path, every: int) -> dict[int, NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        decoded = enumerate(container.decode(video=0))
        return {i: np.asarray(f.to_ndarray(format="rgb24"), np.uint8) for i, f in decoded if i % every == 0}


def test_the_overlay_is_strongest_on_an_object_in_the_written_video(tmp_path: Path) -> None:
    """What attention alone adds: the same run with and without it, read back from the files."""
    written = {}
    for kind in ("cross", "none"):
        out = tmp_path / f"{kind}.mp4"
        flags = ["--model", "tiny", "--device", "cpu", "--attention", kind, "--max-frames", "61", "--quiet"]
        assert main(["process", CLIP, "-o", str(out), *flags, "--set", "legend=false", "--crf", "12"]) == 0
        written[kind] = frames_of(out, 10)
    assert len(written["cross"]) == 7
    for index, picture in written["cross"].items():
        added = np.abs(picture.astype(np.int16) - written["none"][index]).sum(2).astype(np.float32)
        blurred = cv2.GaussianBlur(added, (0, 0), 8)
        y, x = np.unravel_index(int(blurred.argmax()), blurred.shape)
        boxes = np.array([one["box"] for one in TRUTH[index]["objects"]], np.float32)
        inside = (boxes[:, 0] <= x) & (x <= boxes[:, 2]) & (boxes[:, 1] <= y) & (y <= boxes[:, 3])
        assert inside.any(), f"frame {index}: strongest at {x},{y}"
        on_objects = np.zeros(added.shape, bool)
        for x1, y1, x2, y2 in boxes.astype(int):
            on_objects[y1:y2, x1:x2] = True
        share = added[on_objects].sum() / added.sum()
        assert share > 1.5 * area(boxes).sum() / added.size


def test_demo_says_what_it_found_and_where_the_video_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo.mp4"
    records = tmp_path / "demo.jsonl"
    assert main(["demo", "-o", str(out), "--records", str(records), "--no-progress"]) == 0
    said = capsys.readouterr().out
    assert f"{out}: 250 frames in " in said
    assert "person" in said
    lines = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    assert [line["index"] for line in lines] == list(range(250))
    shares = [one["attention"]["inside_box"] for line in lines for one in line["detections"]]
    assert len(shares) > 500
    assert np.median(shares) > 0.3
    with av.open(CLIP) as clip, av.open(str(out)) as video:
        assert [f.pts * f.time_base for f in clip.decode(video=0)] == [
            f.pts * f.time_base for f in video.decode(video=0)
        ]
        assert len(video.streams.audio) == 1


@pytest.mark.parametrize(("stride", "least"), [(1, 0.95), (3, 0.90)])
def test_objects_keep_their_identity_through_the_clip(stride: int, least: float) -> None:
    tracked, seen = [], 0
    for result in analyze(CLIP, model="tiny", device="cpu", stride=stride):
        found = result.detections
        tracked.append(list(zip(found.track_ids.tolist(), found.boxes, strict=True)))
        seen += found.is_detected
    truth = [[(one["id"], np.array(one["box"], np.float32)) for one in frame["objects"]] for frame in TRUTH]
    assert identity_f1(truth, tracked) >= least
    assert seen == -(-250 // stride)
