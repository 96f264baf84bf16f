"""Every figure in the README comes from here. Timings are interleaved (A, B, A, B, ...) and medians.

    scripts/benchmark.py model --reference CHECKOUT   a full forward with capture against facebookresearch/detr
    scripts/benchmark.py capture                      what recording attention adds to a forward
    scripts/benchmark.py frame                        CPU time of everything but the model, per 1080p frame
    scripts/benchmark.py memory                       resident memory at frame 300 and at frame 3000

CHECKOUT is a clone of https://github.com/facebookresearch/detr; both models get the same random weights.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from stream_detr.attention import attention_rows, record
from stream_detr.models.detr import Detr, DetrConfig
from stream_detr.overlay import Style, render
from stream_detr.preprocess import Preprocess
from stream_detr.runtime import keep_freed_memory
from stream_detr.sinks import VideoOptions, open_sink
from stream_detr.sources import open_source
from stream_detr.structures import AttentionMaps, Detections

Timings = dict[str, list[tuple[float, float]]]  # wall and CPU seconds of every run


def interleave(candidates: dict[str, Callable[[], object]], rounds: int) -> Timings:
    """Run the candidates in turn, ``rounds`` times, after one warm-up each."""
    timings: Timings = {name: [] for name in candidates}
    for run in candidates.values():
        run()
    for _ in range(rounds):
        for name, run in candidates.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            timings[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return timings


def medians(timings: list[tuple[float, float]]) -> tuple[float, float]:
    """Median wall and CPU milliseconds."""
    return statistics.median(t[0] for t in timings) * 1e3, statistics.median(t[1] for t in timings) * 1e3


def detr(state: dict[str, torch.Tensor] | None, precision: torch.dtype) -> Detr:
    """A prepared detr_resnet50 with the given or seeded random weights."""
    torch.manual_seed(0)
    model = Detr(DetrConfig())
    if state is not None:
        model.load_state_dict(state)
    model.prepare(torch.device("cpu"), precision)
    return model


def forward_with_capture(model: Detr, images: torch.Tensor, num_rows: int = 10) -> Callable[[], object]:
    """A full forward and the cross-attention rows of ``num_rows`` queries, as a detector does it."""
    rows = torch.arange(num_rows).expand(len(images), -1)
    modules = [model.transformer.decoder.blocks()[-1].multihead_attn]

    def run() -> object:
        with torch.inference_mode(), record(modules) as recording:
            output = model(images)
            return output, attention_rows(recording.take(), rows, "mean")

    return run


def bench_model(reference: Path, rounds: int) -> None:
    """Ours with capture against the reference with the notebook's three hooks."""
    sys.path.insert(0, str(reference))
    # Its backbone asks for ImageNet weights on the main process; random ones do for timing.
    import models.backbone  # type: ignore[import-not-found]

    models.backbone.is_main_process = lambda: False
    from hubconf import detr_resnet50  # type: ignore[import-not-found]

    warnings.simplefilter("ignore")
    theirs = detr_resnet50().eval()
    kept: dict[str, object] = {}
    theirs.backbone[-2].register_forward_hook(lambda _, __, output: kept.update(features=output))
    theirs.transformer.encoder.layers[-1].self_attn.register_forward_hook(
        lambda _, __, output: kept.update(encoder=output[1])
    )
    theirs.transformer.decoder.layers[-1].multihead_attn.register_forward_hook(
        lambda _, __, output: kept.update(decoder=output[1])
    )
    ours = {name: detr(theirs.state_dict(), dtype) for name, dtype in PRECISIONS.items()}

    for height, width, batch in ((800, 1066, 1), (480, 640, 4)):
        images = torch.randn(batch, 3, height, width)
        channels_last = images.contiguous(memory_format=torch.channels_last)

        def reference_forward(images: torch.Tensor = images) -> object:
            with torch.inference_mode():
                return theirs(images)

        candidates: dict[str, Callable[[], object]] = {"reference": reference_forward}
        candidates |= {name: forward_with_capture(model, channels_last) for name, model in ours.items()}
        timings = interleave(candidates, rounds)
        wall, cpu = medians(timings["reference"])
        print(f"{height}x{width} batch {batch}: reference {wall:.0f} ms wall, {cpu:.0f} ms CPU")
        for name in ours:
            ratios = [a[0] / b[0] for a, b in zip(timings["reference"], timings[name], strict=True)]
            own_wall, own_cpu = medians(timings[name])
            print(
                f"  {name}: {own_wall:.0f} ms wall, {own_cpu:.0f} ms CPU; {wall / own_wall:.2f} times as fast by "
                f"wall medians, {statistics.median(ratios):.2f} by the median of pairs, {cpu / own_cpu:.2f} by CPU time"
            )


def bench_capture(rounds: int) -> None:
    """A forward with and without the cross-attention rows of 20 queries, at 800x1066; and those rows alone."""
    images = torch.randn(1, 3, 800, 1066).contiguous(memory_format=torch.channels_last)
    model = detr(None, torch.float32)

    def plain() -> object:
        with torch.inference_mode():
            return model(images)

    with torch.inference_mode(), record([model.transformer.decoder.blocks()[-1].multihead_attn]) as recording:
        model(images)
        taken = recording.take()
    rows = torch.arange(20).expand(1, -1)

    def rows_alone() -> object:
        with torch.inference_mode():
            return attention_rows(taken, rows, "mean").numpy()

    candidates = {"forward": plain, "with capture": forward_with_capture(model, images, 20), "rows alone": rows_alone}
    timings = interleave(candidates, rounds)
    for name, values in timings.items():
        print(f"{name}: {medians(values)[0]:.2f} ms")
    print(f"the rows are {medians(timings['rows alone'])[0] / medians(timings['forward'])[0]:.2%} of the forward")


def ten_objects(height: int, width: int) -> Detections:
    """Ten objects with smooth attention maps on the grid that DETR has for such a frame."""
    rng = np.random.default_rng(0)
    centers = rng.uniform(0.15, 0.85, (10, 2))
    sizes = rng.uniform(0.08, 0.3, (10, 2))
    corners = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1)
    boxes = (corners * np.array([width, height, width, height])).astype(np.float32)
    y, x = np.mgrid[0:24, 0:42]
    distance = ((x[None] / 42 - centers[:, :1, None]) / sizes[:, :1, None]) ** 2
    distance = distance + ((y[None] / 24 - centers[:, 1:, None]) / sizes[:, 1:, None]) ** 2
    maps = np.exp(-4 * distance) + 1e-4
    cross = (maps / maps.sum((1, 2), keepdims=True)).astype(np.float32)
    ids = np.arange(10, dtype=np.int64)
    names = ("person", "bicycle", "car", "dog", "bus", "train", "truck", "boat", "bird", "cat")
    attention = AttentionMaps(32, (750, 1333), cross=cross)
    return Detections(boxes, np.linspace(0.99, 0.71, 10, dtype=np.float32), ids, ids, ids, attention, names)


def bench_frame(rounds: int) -> None:
    """CPU time a 1080p frame of decoding, resizing, drawing ten objects with attention, and encoding."""
    detections, style = ten_objects(1080, 1920), Style()
    preprocess = Preprocess(torch.device("cpu"), torch.float32, 800, 1333)
    options = VideoOptions(preset="ultrafast")
    with tempfile.TemporaryDirectory() as folder:
        clip = str(Path(folder, "clip.mp4"))
        with (
            open_source("pattern:1920x1080@25:8") as source,
            open_sink(clip, source.info, options=options, audio=None) as sink,
        ):
            for frame in source:
                sink.write(frame, frame.image, Detections.empty())
        stages: dict[str, list[float]] = {"decode": [], "resize": [], "draw": [], "encode": []}
        totals = []
        for number in range(rounds):
            start = time.process_time()
            spent = dict.fromkeys(stages, 0.0)
            with ExitStack() as stack:
                source = stack.enter_context(open_source(clip))
                out = str(Path(folder, f"out{number}.mp4"))
                sink = stack.enter_context(open_sink(out, source.info, options=options, audio=source.audio))
                count, mark = 0, time.process_time()

                def spend(stage: str, since: float, spent: dict[str, float] = spent) -> float:
                    now = time.process_time()
                    spent[stage] += now - since
                    return now

                for frame in source:
                    mark = spend("decode", mark)
                    preprocess([frame.image])
                    mark = spend("resize", mark)
                    picture = render(frame.image, detections, style)
                    mark = spend("draw", mark)
                    sink.write(frame, picture, detections)
                    mark = spend("encode", mark)
                    count += 1
            totals.append((time.process_time() - start) / count * 1e3)
            for name in stages:
                stages[name].append(spent[name] / count * 1e3)
    parts = ", ".join(f"{name} {statistics.median(values):.1f}" for name, values in stages.items())
    print(f"CPU ms a 1080p frame ({count} frames, median of {rounds} passes): {parts}")
    # Decoder and encoder threads work in the background, so stages blur into each other; the sum does not.
    print(f"all together: {statistics.median(totals):.1f} ms, opening and closing included")


def resident_mib() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def bench_memory() -> None:
    """Resident memory at frame 300 and at frame 3000 of one run: reading, preprocessing, drawing, writing."""
    from stream_detr.pipeline import analyze

    detections = ten_objects(270, 480)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        source = stack.enter_context(open_source("pattern:480x270@25:124"))
        sink = stack.enter_context(
            open_sink(str(Path(folder, "out.mp4")), source.info, options=VideoOptions(), audio=None)
        )
        at: dict[int, float] = {}
        for number, result in enumerate(analyze("pattern:480x270@25:124", model="tiny"), 1):
            picture = render(result.frame.image, detections, Style())
            sink.write(result.frame, picture, result.detections)
            if number in (300, 3000):
                at[number] = resident_mib()
                print(f"frame {number}: {at[number]:.1f} MiB")
    print(f"growth {at[3000] / at[300] - 1:+.2%}")


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("model", "capture", "frame", "memory"))
    parser.add_argument("--reference", type=Path, help="a checkout of facebookresearch/detr")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-bf16", action="store_true", help="leave bf16 out (it crawls without native support)")
    parser.add_argument("--default-malloc", action="store_true", help="glibc's own settings instead of the program's")
    given = parser.parse_args()
    if given.no_bf16:
        del PRECISIONS["bf16"]
    kept = not given.default_malloc and keep_freed_memory()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, freed memory kept: {'yes' if kept else 'no'}")
    if given.what == "model":
        if given.reference is None:
            parser.error("model needs --reference")
        bench_model(given.reference, given.rounds)
    elif given.what == "capture":
        bench_capture(given.rounds)
    elif given.what == "frame":
        bench_frame(given.rounds)
    else:
        bench_memory()


if __name__ == "__main__":
    main()
