"""Score the embedded model: unseen scenes of the trained sprites, of sprites never trained on, and the demo clip.

python scripts/evaluate_tiny.py --sprites CACHE [--weights FILE] [--scenes 500] [--precision bf16]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from backgrounds import TRAIN_BACKGROUNDS, UNSEEN_BACKGROUNDS
from scenes import CLASS_NAMES, Scene, Scenes
from scoring import IOU_THRESHOLDS, Scored, attention_scores, kept_scores, precisions
from sprites import HELD_OUT_SETS, TRAIN_SETS

from stream_detr.detector import Detector, load_model
from stream_detr.structures import Frame, StreamInfo

PACKAGE = Path(__file__).parent.parent / "stream_detr"
WEIGHTS = PACKAGE / "models" / "tiny.safetensors"
SCORE_SEED = 777_000


def run(detector: Detector, scenes: Iterable[Scene]) -> list[Scored]:
    """Detections and truth of every scene."""
    scored = []
    for index, scene in enumerate(scenes):
        height, width = scene.image.shape[:2]
        info = StreamInfo("scenes", width, height)
        found = detector([Frame(np.ascontiguousarray(scene.image), index, index, Fraction(1, 25), 0.0, info)])[0]
        assert found.attention is not None
        assert found.attention.cross is not None
        scored.append(
            Scored(
                found.boxes,
                found.scores,
                found.class_ids,
                found.attention.cross,
                scene.boxes,
                scene.class_ids,
                (height, width),
                found.attention.stride * height / found.attention.model_hw[0],
            )
        )
    return scored


def unseen_scenes(cache: Path, sets: tuple[str, ...], num: int) -> list[Scene]:
    """Scenes of a seed that training never uses: half over unseen backgrounds of the trained families, half over
    families that were never trained on."""
    parts = [
        Scenes(cache, sets, backgrounds, SCORE_SEED, 40) for backgrounds in (TRAIN_BACKGROUNDS, UNSEEN_BACKGROUNDS)
    ]
    return [parts[index % 2].scene(index) for index in range(num)]


def demo_scenes(stride: int = 1) -> list[Scene]:
    """Frames of the demo clip with their truth."""
    truth = json.loads((PACKAGE / "demo.json").read_text())
    scenes = []
    with av.open(str(PACKAGE / "demo.mp4")) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index % stride:
                continue
            objects = truth["frames"][index]["objects"]
            boxes = np.array([one["box"] for one in objects], np.float32).reshape(-1, 4)
            class_ids = np.array([CLASS_NAMES.index(one["class"]) for one in objects], np.int64)
            scenes.append(Scene(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), boxes, class_ids))
    return scenes


def report(title: str, scored: list[Scored], per_class: bool = True) -> dict[str, float]:
    """Print all scores of a set of scenes and return them."""
    table = precisions(scored, len(CLASS_NAMES))
    means = np.nanmean(table, 0)
    scores = {"AP": float(means.mean()), "AP50": float(means[0]), "AP75": float(means[IOU_THRESHOLDS.index(0.75)])}
    scores |= kept_scores(scored, 0.7) | attention_scores(scored, 0.7)
    print(f"{title}: " + "  ".join(f"{name} {value:.3f}" for name, value in scores.items()), flush=True)
    if per_class:
        cells = [f"{name} {row[0]:.2f}" for name, row in zip(CLASS_NAMES, table, strict=True) if not np.isnan(row[0])]
        print("  AP50: " + ", ".join(cells), flush=True)
    return scores


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sprites", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    args = parser.parse_args()
    # Just above 0, so that every query counts for average precision.
    detector = load_model(str(args.weights), device="cpu", precision=args.precision, threshold=1e-6)
    for title, sets in (
        ("trained sprites", TRAIN_SETS),
        *((f"never trained: {name}", (name,)) for name in HELD_OUT_SETS),
    ):
        scenes = unseen_scenes(args.sprites, sets, args.scenes)
        started = time.perf_counter()
        scored = run(detector, scenes)
        print(f"{args.scenes / (time.perf_counter() - started):.0f} scenes/s")
        report(title, scored)
    if (PACKAGE / "demo.json").exists():
        report("demo clip", run(detector, demo_scenes()))


if __name__ == "__main__":
    main()
