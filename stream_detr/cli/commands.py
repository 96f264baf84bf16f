"""The commands: from flags to a config, from a config to the pipeline, and what to say about it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from stream_detr.cli.progress import Progress
from stream_detr.config import Config, load_config
from stream_detr.errors import UsageError
from stream_detr.plan import Job
from stream_detr.runtime import keep_freed_memory, let_idle_threads_sleep
from stream_detr.structures import Detections, Frame, RunReport

PACKAGE = Path(__file__).parent.parent
DEMO_OUTPUT = "stream-detr-demo.mp4"


def demo(given: argparse.Namespace) -> int:
    """Annotate the embedded clip with the embedded model."""
    config = config_from(given, model="tiny")
    if given.output is None:
        Path(DEMO_OUTPUT).unlink(missing_ok=True)
    return annotate([str(PACKAGE / "demo.mp4")], given.output or DEMO_OUTPUT, config, given)


def process(given: argparse.Namespace) -> int:
    """Annotate files, folders, images and URLs."""
    return annotate(given.sources, given.output, config_from(given), given)


def annotate(sources: Sequence[str], output: str, config: Config, given: argparse.Namespace) -> int:
    """Run the pipeline, then say where the results are and what was found."""
    from stream_detr.pipeline import run

    check_points(given, config)
    progress = Progress() if not (given.no_progress or given.quiet) else None
    found = Tally()

    def on_frame(job: Job, frame: Frame, detections: Detections, report: RunReport) -> None:
        found.add(detections)
        if progress is not None:
            progress.update(job.input.name, frame.stream, report, config.max_frames)

    try:
        outcomes = run(sources, output, config, on_frame=on_frame)
    finally:
        if progress is not None:
            progress.close()
    done = [outcome for outcome in outcomes if outcome.error is None]
    if done and not given.quiet:
        for outcome in done:
            print(f"{outcome.output}: {speed(outcome.report)}")
        print(found)
    return 0 if len(done) == len(outcomes) else 1


def live(given: argparse.Namespace) -> int:
    """Watch streams until Ctrl-C, or until every one has ended."""
    from stream_detr.cli.watch import watch

    config = config_from(given)
    check_points(given, config)
    return watch(given.sources, config, quiet=given.quiet)


def inspect(given: argparse.Namespace) -> int:
    """Draw every attention of one frame and print its shapes."""
    from stream_detr.inspection import inspect_frame

    try:
        at_seconds = float(given.at)
    except ValueError:
        raise UsageError(f"--at: expected seconds, got '{given.at}'") from None
    config = config_from(given, direction="looked-at-by")  # the direction that the notebook draws
    for line in inspect_frame(given.source, at_seconds, config, given.output):
        if not given.quiet:
            print(line)
    if not given.quiet:
        print(f"figure: {given.output}")
    return 0


def models(given: argparse.Namespace) -> int:
    """List, fetch or describe models."""
    from stream_detr.models import registry

    if given.action == "list":
        for name, spec in registry.MODELS.items():
            print(f"{name:24}{spec.description}")
    elif given.action == "fetch":
        print(registry.fetch(given.name, progress=not given.quiet))
    else:
        for key, value in registry.describe(given.name).items():
            print(f"{key:14}{value}")
    return 0


def bench(given: argparse.Namespace) -> int:
    """Print the median time of each stage on this machine."""
    rounds, config = given.rounds, config_from(given)
    if not rounds.isdecimal() or int(rounds) < 1:
        raise UsageError(f"--rounds: expected at least 1, got '{rounds}'")
    from stream_detr.bench import measure

    for line in measure(config, int(rounds)):
        print(line)
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "demo": demo,
    "process": process,
    "live": live,
    "inspect": inspect,
    "models": models,
    "bench": bench,
}


def config_from(given: argparse.Namespace, **defaults: object) -> Config:
    """The config of the flags, the ``--set`` values and the config file, over ``defaults``."""
    flags = {key: value for key, value in vars(given).items() if key in Config.model_fields}
    config = load_config(given.config, given.set, flags, defaults)
    if config.device in ("auto", "cpu"):
        keep_freed_memory()
        let_idle_threads_sleep()
    return config


def check_points(given: argparse.Namespace, config: Config) -> None:
    """Refuse points that would not be drawn."""
    if "points" in given and config.attention != "encoder":
        raise UsageError("--point: points are drawn with --attention encoder; add that")


class Tally:
    """In how many frames each class was seen, and its best score."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[int, float]] = {}

    def add(self, detections: Detections) -> None:
        """Count one frame."""
        best: dict[str, float] = {}
        for name, score in zip(detections.names, detections.scores.tolist(), strict=True):
            best[name] = max(score, best.get(name, 0.0))
        for name, score in best.items():
            frames, highest = self.seen.get(name, (0, 0.0))
            self.seen[name] = frames + 1, max(score, highest)

    def __str__(self) -> str:
        if not self.seen:
            return "found: nothing above the threshold"
        order = sorted(self.seen.items(), key=lambda entry: -entry[1][0])
        return "\n".join(
            ["found:", *(f"  {name:20}{frames:6} frames, best {best:.2f}" for name, (frames, best) in order)]
        )


def speed(report: RunReport) -> str:
    """``300 frames in 12.0 s, 25.0 fps``."""
    rate = report.frames_written / max(report.elapsed_seconds, 1e-9)
    return f"{report.frames_written} frames in {report.elapsed_seconds:.1f} s, {rate:.1f} fps"
