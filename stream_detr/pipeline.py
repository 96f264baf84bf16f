"""The loop: read, detect, draw, write. Everything else in the package serves these few lines."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from time import perf_counter
from typing import TYPE_CHECKING

from stream_detr.config import Config, load_config
from stream_detr.errors import SourceError, UsageError
from stream_detr.overlay import Style, render
from stream_detr.plan import Job, check_outputs, plan
from stream_detr.prefetch import batched, prefetch
from stream_detr.report import Outcome, write_report
from stream_detr.sinks import Sink, VideoOptions, check_formats, check_maps, open_maps, open_records, open_sink
from stream_detr.sinks.codecs import encoder_settings
from stream_detr.sources import Source, find_inputs, open_source
from stream_detr.structures import Detections, Frame, RunReport, StreamInfo
from stream_detr.tracking import KEPT_SHARE, Tracker, TrackSummaries, followed, held
from stream_detr.zones import Regions

if TYPE_CHECKING:
    from stream_detr.detector import Detector

log = logging.getLogger("stream_detr")

OnFrame = Callable[[Job, Frame, Detections, RunReport], None]

# With a stride the frames between wait for the model: groups of this many pictures at most, whatever the stride.
_MAX_WAITING = 32


@dataclass(frozen=True, slots=True)
class Result:
    """A frame and what was found in it."""

    frame: Frame
    detections: Detections


def run(
    sources: Sequence[str],
    output: str,
    config: Config,
    *,
    detector: Detector | None = None,
    on_frame: OnFrame | None = None,
) -> list[Outcome]:
    """Annotate every source into ``output``, a file or a folder, with one model for all.

    What can go wrong does so early: settings, inputs that are missing and outputs that exist before the model
    loads, and the model before any video is opened or an old output is touched. An input that is broken is
    logged and noted in its outcome, and the others still go on. However the run ends, what was written so far is
    closed properly and the report, if asked for, is written.

    Args:
        sources: files, folders, globs or URLs, see :func:`stream_detr.sources.find_inputs`.
        on_frame: called in this thread after each written frame.

    Raises:
        StreamDetrError: the run as a whole can't start or go on.
    """
    jobs = plan(find_inputs(sources), output)
    check_formats(config.records, config.save_attention)
    check_outputs(jobs, [config.records, config.report], config.save_attention, overwrite=config.overwrite)
    if config.save_attention:
        check_maps(config.save_attention)
    video = VideoOptions(config.codec, config.crf, config.preset)
    encoder_settings(video)
    outcomes: list[Outcome] = []
    with ExitStack() as stack:
        if config.report:
            path = config.report
            stack.callback(
                lambda: write_report(path, config.shown(), detector, {"runs": [asdict(each) for each in outcomes]})
            )
        detector = detector or load_detector(config)
        data = [stack.enter_context(open_records(config.records))] if config.records else []
        data += [stack.enter_context(open_maps(config.save_attention))] if config.save_attention else []
        for job in jobs:
            outcome = Outcome(job.input.name, job.output, RunReport())
            outcomes.append(outcome)
            try:
                with (
                    open_source(job.input) as source,
                    open_sink(job.output, source.info, options=video, audio=source.audio) as sink,
                ):
                    started = perf_counter()
                    annotate(job, source, detector, [sink, *data], config, outcome, on_frame)
                    with timed(outcome.report, "write"):
                        sink.close()
                    outcome.report.elapsed_seconds = perf_counter() - started
            except SourceError as error:
                outcome.error = str(error)
                log.error("%s", error)
            except BaseException as error:
                interrupted = isinstance(error, KeyboardInterrupt)
                outcome.error = "interrupted" if interrupted else str(error) or type(error).__name__
                raise
    return outcomes


def annotate(
    job: Job,
    source: Source,
    detector: Detector,
    sinks: Sequence[Sink],
    config: Config,
    outcome: Outcome,
    on_frame: OnFrame | None = None,
) -> None:
    """The loop itself, for one source: every frame that is read is detected, followed, drawn and written."""
    style = Style(config.attention, config.alpha, config.legend, config.zones, config.lines, _note(config))
    report = outcome.report
    started = perf_counter()
    with closing(results_of(source, detector, config, outcome)) as results:
        for frame, detections in results:
            with timed(report, "draw"):
                image = render(frame.image, detections, style)
            with timed(report, "write"):
                for sink in sinks:
                    sink.write(frame, image, detections)
            report.frames_written += 1
            report.elapsed_seconds = perf_counter() - started
            if on_frame is not None:
                on_frame(job, frame, detections, report)


def _note(config: Config) -> str:
    """What the legend says of frames that the model does not look at."""
    if config.detect_fps:
        return f"carried between {config.detect_fps:g} looks a second"
    return f"carried between looks, one in {config.stride} frames" if config.stride > 1 else ""


def analyze(
    source: str, model: str | os.PathLike[str] | Detector = "detr_resnet50", **options: object
) -> Iterator[Result]:
    """Frames of ``source`` and what was found in them, lazily: nothing is opened before the first ``next()``.

    Reading and detecting run ahead in threads of their own, a few frames; leaving early stops them.

    Args:
        source: file, folder, glob, URL or ``pattern``; several inputs follow one another.
        model: name, file or folder of a model, or one that :func:`stream_detr.load_model` has returned.
        options: any key of ``configs/default.yaml``, like ``batch_size=8, threshold=0.5, layer="all"``. A
            detector that was given keeps the options it was loaded with.

    Raises:
        UsageError: at once, for options that don't exist, are out of range, or ask for files: `run` writes those.
        StreamDetrError: while iterating, for anything else.
    """
    for name in ("records", "save_attention", "report", "overwrite"):
        if name in options:
            raise UsageError(f"{name}: analyze writes no files; use stream_detr.run, or write what it yields")
    if isinstance(model, str | os.PathLike):
        return _analyze(source, load_config(flags={"model": os.fspath(model), **options}), None)
    return _analyze(source, load_config(flags=options), model)


def _analyze(given: str, config: Config, detector: Detector | None) -> Generator[Result, None, None]:
    for each in find_inputs([given]):
        with open_source(each) as source:
            if detector is None:
                detector = load_detector(config)
            outcome = Outcome(each.name, "", RunReport())
            with closing(results_of(source, detector, config, outcome)) as results:
                for frame, detections in results:
                    yield Result(frame, detections)


def load_detector(config: Config) -> Detector:
    """The model a config asks for."""
    from stream_detr.detector import load_model  # torch takes seconds: what is wrong is said before

    return load_model(config.model, **config.detector_options())


def results_of(
    source: Source, detector: Detector, config: Config, outcome: Outcome
) -> Generator[tuple[Frame, Detections], None, None]:
    """Every frame of ``source`` with its objects: read in one thread, detected in another, followed in this one."""
    report = outcome.report
    if config.track and not source.info.is_stills:
        # An object that is followed goes on with weaker detections than it takes to begin.
        detector = detector.configured(floor=detector.threshold * KEPT_SHARE)
    batch_size = config.batch_size or detector.best_batch_size((source.info.height, source.info.width))
    frames = prefetch(read(source, config.max_frames, report), 2 * batch_size)
    found = prefetch(detect(frames, detector, batch_size, config, report), 2 * batch_size)
    return follow(found, source.info, detector, config, outcome)


def read(source: Source, max_frames: int | None, report: RunReport) -> Generator[Frame, None, None]:
    """The frames of ``source``, counted and timed, ``max_frames`` at most."""
    frames = iter(source)
    while max_frames is None or report.frames_read < max_frames:
        with timed(report, "read"):
            frame = next(frames, None)
        if frame is None:
            return
        report.frames_read += 1
        yield frame


def detect(
    frames: Generator[Frame, None, None],
    detector: Detector,
    batch_size: int,
    config: Config,
    report: RunReport,
) -> Generator[tuple[Frame, Detections | None], None, None]:
    """Run the detector, in batches, on the frames that are due, and pass on all frames in order.

    Due is every ``stride``-th frame or ``detect_fps`` frames a second, and always another picture: each image of a
    folder, and a frame of a new size.
    """
    is_due = due(config)
    waiting = batch_size if config.detect_fps else max(batch_size, min(config.stride * batch_size, _MAX_WAITING))
    with closing(batched(frames, waiting)) as groups:
        for group in groups:
            chosen = [frame for frame in group if is_due(frame)]
            report.frames_detected += len(chosen)
            found: dict[int, Detections] = {}
            for batch in batched(chosen, batch_size):
                with timed(report, "detect"):
                    found.update(zip((frame.index for frame in batch), detector(batch), strict=True))
            for frame in group:
                detections = found.get(frame.index)
                if detections is not None and config.min_size:
                    sides = detections.boxes[:, 2:] - detections.boxes[:, :2]
                    detections = detections[sides.min(1) >= config.min_size]
                yield frame, detections


def due(config: Config) -> Callable[[Frame], bool]:
    """Whether the model sees a frame; to be asked once for each, in order."""
    last_view: tuple[str, tuple[int, int]] | None = None
    last_turn: int | None = None

    def is_due(frame: Frame) -> bool:
        nonlocal last_view, last_turn
        view = (frame.stream.name, frame.size_hw)
        turn = frame.index // config.stride
        if config.detect_fps:
            turn = int(frame.pts * frame.time_base * Fraction(config.detect_fps))
        is_new = turn != last_turn or view != last_view
        last_turn, last_view = turn, view
        return is_new

    return is_due


def follow(
    results: Generator[tuple[Frame, Detections | None], None, None],
    info: StreamInfo,
    detector: Detector,
    config: Config,
    outcome: Outcome,
) -> Generator[tuple[Frame, Detections], None, None]:
    """Give the objects of every frame their tracks and zones, also in the frames that the model did not see."""
    tracker, summaries = None, TrackSummaries()
    if config.track and not info.is_stills:
        tracker = Tracker(detector.threshold, config.smooth, float(info.frame_rate or 25))
    regions = Regions(config.zones, config.lines) if config.zones or config.lines else None
    steps = held(results, tuple(detector.class_names))
    if tracker is not None:
        steps = followed(results, tracker, lambda: timed(outcome.report, "track"))
    try:
        with closing(steps):
            for frame, found in steps:
                detections = found if regions is None else regions.update(found, frame.size_hw)
                if tracker is not None and config.report:
                    summaries.add(frame, detections, tracker)
                outcome.crossings = detections.crossings
                yield frame, detections
    finally:
        outcome.tracks = summaries.as_list()


@contextmanager
def timed(report: RunReport, stage: str) -> Iterator[None]:
    """Add the wall time of the block to the report's ``stage``; each stage belongs to one thread."""
    started = perf_counter()
    try:
        yield
    finally:
        report.stage_seconds[stage] = report.stage_seconds.get(stage, 0.0) + perf_counter() - started
