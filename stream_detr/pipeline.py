"""The loop: read, detect, draw, write. Everything else in the package serves these few lines."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from stream_detr.config import Config, load_config
from stream_detr.errors import SourceError
from stream_detr.overlay import Style, render
from stream_detr.plan import Job, check_outputs, plan
from stream_detr.prefetch import batched, prefetch
from stream_detr.report import Outcome, write_report
from stream_detr.sinks import RecordsSink, Sink, VideoOptions, open_sink
from stream_detr.sinks.codecs import encoder_settings
from stream_detr.sources import Source, find_inputs, open_source
from stream_detr.structures import Detections, Frame, RunReport

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
    check_outputs(jobs, [config.records, config.report], overwrite=config.overwrite)
    video = VideoOptions(config.codec, config.crf, config.preset)
    encoder_settings(video)
    outcomes: list[Outcome] = []
    with ExitStack() as stack:
        if config.report:
            stack.callback(lambda: _write_report(str(config.report), config, detector, outcomes))
        detector = detector or load_detector(config)
        records = [stack.enter_context(RecordsSink(config.records))] if config.records else []
        for job in jobs:
            outcome = Outcome(job.input.name, job.output, RunReport())
            outcomes.append(outcome)
            try:
                with (
                    open_source(job.input) as source,
                    open_sink(job.output, source.info, options=video, audio=source.audio) as sink,
                ):
                    started = perf_counter()
                    annotate(job, source, detector, [sink, *records], config, outcome.report, on_frame)
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
    report: RunReport,
    on_frame: OnFrame | None = None,
) -> None:
    """The loop itself, for one source: every frame that is read is detected, drawn and written."""
    style = Style(attention=config.attention, alpha=config.alpha, legend=config.legend)
    started = perf_counter()
    with closing(detected(source, detector, config, report)) as results:
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


def _write_report(path: str, config: Config, detector: Detector | None, outcomes: list[Outcome]) -> None:
    model = None
    if detector is not None:
        model = {
            "name": detector.name,
            "device": str(detector.device),
            "precision": detector.precision,
            "precision_reason": detector.precision_reason,
        }
    write_report(path, config.model_dump(mode="json"), model, outcomes)


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
        UsageError: at once, for options that don't exist or are out of range.
        StreamDetrError: while iterating, for anything else.
    """
    if isinstance(model, str | os.PathLike):
        return _analyze(source, load_config(flags={"model": os.fspath(model), **options}), None)
    return _analyze(source, load_config(flags=options), model)


def _analyze(given: str, config: Config, detector: Detector | None) -> Generator[Result, None, None]:
    for each in find_inputs([given]):
        with open_source(each) as source:
            detector = detector or load_detector(config)
            with closing(detected(source, detector, config, RunReport())) as results:
                for frame, detections in results:
                    yield Result(frame, detections)


def load_detector(config: Config) -> Detector:
    """The model a config asks for."""
    from stream_detr.detector import load_model  # torch takes seconds: what is wrong is said before

    return load_model(config.model, **config.detector_options())


def detected(
    source: Source, detector: Detector, config: Config, report: RunReport
) -> Generator[tuple[Frame, Detections], None, None]:
    """Every frame of ``source`` with its detections, read in one thread and detected in another."""
    batch_size = config.batch_size or detector.best_batch_size((source.info.height, source.info.width))
    frames = prefetch(read(source, config.max_frames, report), 2 * batch_size)
    return prefetch(detect(frames, detector, batch_size, config.stride, report), 2 * batch_size)


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
    stride: int,
    report: RunReport,
) -> Generator[tuple[Frame, Detections], None, None]:
    """Run the detector on every ``stride``-th frame, in batches, and pass on all frames in order.

    Between two detected frames the last detections are held where they were: objects aren't followed yet.
    They are never held over to another picture: each image of a folder, and a frame of a new size, is
    detected.
    """
    held = Detections.empty(tuple(detector.class_names))
    last_view: tuple[str, tuple[int, int]] | None = None
    with closing(batched(frames, max(batch_size, min(stride * batch_size, _MAX_WAITING)))) as groups:
        for group in groups:
            chosen: list[Frame] = []
            for frame in group:
                view = (frame.stream.name, frame.size_hw)
                if frame.index % stride == 0 or view != last_view:
                    chosen.append(frame)
                last_view = view
            found: dict[int, Detections] = {}
            for batch in batched(chosen, batch_size):
                with timed(report, "detect"):
                    found.update(zip((frame.index for frame in batch), detector(batch), strict=True))
            for frame in group:
                held = found.get(frame.index, held)
                yield frame, held


@contextmanager
def timed(report: RunReport, stage: str) -> Iterator[None]:
    """Add the wall time of the block to the report's ``stage``; each stage belongs to one thread."""
    started = perf_counter()
    try:
        yield
    finally:
        report.stage_seconds[stage] = report.stage_seconds.get(stage, 0.0) + perf_counter() - started
