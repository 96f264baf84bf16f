"""Figures of tracking, smoothing and strides.

python scripts/benchmark_tracking.py identity [--model tiny]   # IDF1, AP50 and inference work on the demo clip
python scripts/benchmark_tracking.py flicker [--model tiny]    # drawn attention in a still scene with codec noise
python scripts/benchmark_tracking.py cost                      # milliseconds a frame for 20 objects
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from scoring import Scored, identity_f1, kept_scores, precisions

import stream_detr
from stream_detr.config import load_config
from stream_detr.overlay import OVERLAYS
from stream_detr.pipeline import load_detector
from stream_detr.structures import AttentionMaps, Detections, Frame, StreamInfo
from stream_detr.tracking import Tracker, TrackSummaries
from stream_detr.zones import Regions

PACKAGE = Path(__file__).parent.parent / "stream_detr"
CLIP = str(PACKAGE / "demo.mp4")
TRUTH = json.loads((PACKAGE / "demo.json").read_text())["frames"]


def identity(model: str, strides: tuple[int, ...] = (1, 3, 5)) -> None:
    """IDF1 and AP50 of everything that is shown, and how many frames the model saw, for some strides."""
    truth = [[(one["id"], np.array(one["box"], np.float32)) for one in frame["objects"]] for frame in TRUTH]
    for track, stride in [(False, 1), *((True, stride) for stride in strides)]:
        config = {"device": "cpu", "stride": stride, "track": track}
        found = [result.detections for result in stream_detr.analyze(CLIP, model=model, **config)]
        names = found[0].class_names
        scored = [
            Scored(
                one.boxes,
                one.scores,
                one.class_ids,
                np.zeros((len(one), 1, 1), np.float32),
                np.array([box for _, box in objects], np.float32).reshape(-1, 4),
                np.array([names.index(each["class"]) for each in frame["objects"]], np.int64),
                (540, 960),
                60,
            )
            for one, objects, frame in zip(found, truth, TRUTH, strict=True)
        ]
        seen = sum(one.is_detected for one in found)
        line = f"{'tracked' if track else 'not tracked'}, stride {stride}: AP50 of what is shown "
        line += f"{np.nanmean(precisions(scored, len(names))[:, 0]):.3f}"
        if track:
            tracked = [list(zip(one.track_ids.tolist(), one.boxes, strict=True)) for one in found]
            num_ids = len({i for frame in tracked for i, _ in frame})
            line += f", IDF1 {identity_f1(truth, tracked):.3f} ({num_ids} ids for {len(OBJECTS)} objects)"
        kept = ", ".join(f"{key} {value:.3f}" for key, value in kept_scores(scored, 0.0).items())
        print(f"{line}, {kept}, {seen} frames detected", flush=True)


OBJECTS = {one["id"] for frame in TRUTH for one in frame["objects"]}


def still_clip(path: Path, index: int = 100, num_frames: int = 60) -> None:
    """One frame of the clip again and again with sensor noise, encoded as cameras do."""
    with av.open(CLIP) as container:
        image = next(f for i, f in enumerate(container.decode(video=0)) if i == index).to_ndarray(format="rgb24")
    dice = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width = image.shape[:2]
        video.pix_fmt, video.options = "yuv420p", {"crf": "23", "preset": "veryfast"}
        for _ in range(num_frames):
            noisy = (image + dice.normal(0, 20, image.shape)).clip(0, 255).astype(np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(noisy, format="rgb24")))
        container.mux(video.encode())


def flicker(model: str) -> None:
    """Mean change of the drawn attention from frame to frame, smoothed against raw, over a grey picture."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "still.mp4"
        still_clip(path)
        changes = {}
        for smooth, stride in ((0.0, 1), (0.9, 1), (0.9, 3)):
            detector = load_detector(load_config(flags={"model": model, "device": "cpu"}))
            last: NDArray[np.int16] | None = None
            differences = []
            for result in stream_detr.analyze(str(path), model=detector, smooth=smooth, stride=stride):
                grey = np.full_like(result.frame.image, 128)
                # The attention as it is drawn, without boxes and labels, which jump by whole pixels.
                now = OVERLAYS["cross"](grey, result.detections, 0.5)[0].astype(np.int16)
                if last is not None and result.frame.index > 10:
                    differences.append(float(np.abs(now - last).mean()))
                last = now
            changes[smooth, stride] = statistics.mean(differences)
            said = f"smooth {smooth}, stride {stride}: mean change {changes[smooth, stride]:.4f} grey levels a frame"
            print(f"{said}, {changes[smooth, stride] / changes[0.0, 1]:.3f} of raw", flush=True)


def cost(num_objects: int = 20, num_frames: int = 300) -> None:
    """Milliseconds a frame of tracking, smoothing, zones and the report, on a 25 x 34 grid; median of the frames."""
    dice = np.random.default_rng(0)
    info = StreamInfo("made", 1920, 1080, Fraction(25))
    image = np.zeros((1080, 1920, 3), np.uint8)
    begin = dice.uniform((50, 50), (1700, 900), (num_objects, 2))
    pace = dice.normal(0, 4, (num_objects, 2))
    sides = dice.uniform(60, 300, (num_objects, 2))
    config = load_config(
        flags={"zones": ["a:0,0;0.5,0;0.5,1;0,1", "b:0.5,0;1,0;1,1;0.5,1"], "lines": ["c:0.5,0;0.5,1"]}
    )
    tracker, summaries = Tracker(0.7, 0.8, 25.0), TrackSummaries()
    regions = Regions(config.zones, config.lines)
    maps = dice.gamma(0.1, size=(num_objects, 25, 34)).astype(np.float32)
    times: dict[str, list[float]] = {"track and smooth": [], "zones and lines": [], "summary": [], "move on": []}
    for index in range(num_frames):
        corner = (begin + pace * index + dice.normal(0, 1, begin.shape)).clip(0, (1800, 1000))
        cross = maps * dice.lognormal(0, 0.2, maps.shape).astype(np.float32)
        found = Detections(
            np.concatenate([corner, corner + sides], 1).astype(np.float32),
            np.full(num_objects, 0.9, np.float32),
            np.arange(num_objects) % 7,
            np.arange(num_objects),
            np.full(num_objects, -1),
            AttentionMaps(32, (800, 1066), cross=cross / cross.sum((1, 2), keepdims=True)),
            tuple("abcdefg"),
        )
        frame = Frame(image, 2 * index, 2 * index, Fraction(1, 25), 0.0, info)
        marks = [time.perf_counter()]
        tracked = tracker.update(found, frame)
        marks.append(time.perf_counter())
        tracked = regions.update(tracked, frame.size_hw)
        marks.append(time.perf_counter())
        summaries.add(frame, tracked, tracker)
        marks.append(time.perf_counter())
        tracker.at(Frame(image, 2 * index + 1, 2 * index + 1, Fraction(1, 25), 0.0, info))
        marks.append(time.perf_counter())
        for name, start, end in zip(times, marks, marks[1:], strict=False):
            times[name].append(1000 * (end - start))
    for name, values in times.items():
        print(f"{name}: {statistics.median(values):.2f} ms")
    print(f"all for a detected frame: {sum(statistics.median(v) for v in list(times.values())[:3]):.2f} ms")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("identity", "flicker", "cost"))
    parser.add_argument("--model", default="tiny")
    args = parser.parse_args()
    if args.what == "cost":
        cost()
    else:
        {"identity": identity, "flicker": flicker}[args.what](args.model)


if __name__ == "__main__":
    main()
