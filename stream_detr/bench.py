"""Speed of this machine, stage by stage, on the test pattern."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from stream_detr.config import Config
from stream_detr.detector import Detector, load_model
from stream_detr.overlay import Style, render
from stream_detr.sinks import VideoOptions, open_sink
from stream_detr.sources import open_source
from stream_detr.structures import Frame

NUM_OBJECTS = 10
PATTERN = "pattern:1920x1080@30:2"


def measure(config: Config, rounds: int, pattern: str = PATTERN) -> Iterator[str]:
    """Yield lines with the median time of each stage, for one frame with ``NUM_OBJECTS`` objects.

    What the model finds doesn't matter: every query counts as an object, and the best of them are drawn.
    """
    options = config.detector_options() | {"threshold": 0.0, "classes": None}
    detector = load_model(config.model, **options)
    with open_source(pattern) as source:
        batch_size = config.batch_size or detector.best_batch_size((source.info.height, source.info.width))
        frames = list(islice(source, max(batch_size, 2)))
    yield (
        f"{detector.name} on {detector.device} ({torch.get_num_threads()} CPU threads), {detector.precision}, "
        f"frames of {frames[0].stream.width}x{frames[0].stream.height}, batches of {batch_size}"
    )
    stages = {
        **time_of_detector(detector, frames[:batch_size], rounds),
        **time_of_video(detector, frames, pattern, config, rounds),
    }
    for name, seconds in stages.items():
        yield f"  {name:28}{seconds * 1000:8.1f} ms a frame"
    slowest = max(stages["read"], stages["detect"], stages["draw"] + stages["write"])
    yield f"  reading, detecting and drawing overlap: at best {1 / slowest:.1f} frames/s"


def time_of_detector(detector: Detector, batch: Sequence[Frame], rounds: int) -> dict[str, float]:
    """Median seconds a frame of the detector and of its parts."""
    pictures = [frame.image for frame in batch]
    images = detector.preprocess(pictures)
    calls: dict[str, Callable[[], object]] = {
        "preprocess": lambda: detector.preprocess(pictures),
        "forward": lambda: detector.model(images),
        "detect": lambda: detector(batch),
    }
    taken: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for name, call in calls.items():
                started = perf_counter()
                call()
                if detector.device.type == "cuda":
                    torch.cuda.synchronize(detector.device)
                if number:  # the first round warms up
                    taken[name].append(perf_counter() - started)
    seconds = {name: median(times) / len(batch) for name, times in taken.items()}
    rest = seconds["detect"] - seconds["preprocess"] - seconds["forward"]
    return {
        "detect": seconds["detect"],
        "- preprocess": seconds["preprocess"],
        "- forward": seconds["forward"],
        "- attention and postprocess": max(0.0, rest),
    }


def time_of_video(
    detector: Detector, frames: Sequence[Frame], pattern: str, config: Config, rounds: int
) -> dict[str, float]:
    """Median seconds a frame of drawing, encoding and decoding."""
    style = Style(attention=config.attention, alpha=config.alpha)
    video = VideoOptions(codec=config.codec, crf=config.crf, preset=config.preset)
    found = detector(frames[:1])[0][:NUM_OBJECTS]
    taken: dict[str, list[float]] = {"draw": [], "write": [], "read": []}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "bench.mp4")
        with open_sink(path, frames[0].stream, options=video, audio=None) as sink, open_source(pattern) as source:
            for frame in islice(source, rounds + 5):
                started = perf_counter()
                image = render(frame.image, found, style)
                drawn = perf_counter()
                sink.write(frame, image, found)
                taken["write"].append(perf_counter() - drawn)
                taken["draw"].append(drawn - started)
        with open_source(path) as source:
            started = perf_counter()
            for _ in source:
                taken["read"].append(perf_counter() - started)
                started = perf_counter()
    return {name: median(times) for name, times in taken.items()}
