"""One frame in full: every kind of attention at once, as in the DETR attention notebook."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stream_detr.config import Config
from stream_detr.errors import SourceError, UsageError
from stream_detr.sinks import check_output
from stream_detr.sources import open_source
from stream_detr.structures import Detections, Frame

if TYPE_CHECKING:
    from stream_detr.detector import Detector

# (x, y) fractions: the notebook's points (y, x) = (200, 200), (280, 400), (200, 600), (440, 800) of 800x1066.
NOTEBOOK_POINTS = ((200 / 1066, 200 / 800), (400 / 1066, 280 / 800), (600 / 1066, 200 / 800), (800 / 1066, 440 / 800))


def inspect_frame(
    source: str, at_seconds: float, config: Config, output: str, *, detector: Detector | None = None
) -> list[str]:
    """Draw the figure of one frame of ``source`` into ``output`` and describe what was seen.

    Returns:
        lines to show: the shapes that the notebook prints, then the objects.

    Raises:
        StreamDetrError: the output exists, the source has no such frame, or the model can't be had.
    """
    if not output.lower().endswith(".png"):
        raise UsageError(f"{output}: the figure is a PNG file; name it like figure.png")
    if os.path.realpath(output) == os.path.realpath(source):
        raise UsageError(f"{output}: the input would be overwritten; choose another output")
    check_output(output, config.overwrite)
    frame = frame_at(source, at_seconds)
    detector = detector or _load_detector(config)
    [detections] = detector([frame])
    from stream_detr.figure import save_figure  # matplotlib takes half a second

    save_figure(output, frame, detections)
    found = zip(detections.query_ids.tolist(), detections.names, detections.scores.tolist(), strict=True)
    objects = [f"query {query_id:3}: {name} {score:.2f}" for query_id, name, score in found]
    return _shapes(detector, detections) + (objects or ["no object scores above the threshold"])


def frame_at(source: str, at_seconds: float) -> Frame:
    """The frame that is on screen ``at_seconds`` after the first one.

    Raises:
        UsageError: the time is negative or past the end, or ``source`` is several inputs.
        SourceError: it can't be read.
    """
    if not 0 <= at_seconds < float("inf"):
        raise UsageError(f"--at: expected seconds from 0 on, got {at_seconds:g}")
    shown: Frame | None = None
    begin = 0.0
    with open_source(source) as opened:
        for frame in opened:
            begin = frame.seconds if shown is None else begin
            if shown is not None and frame.seconds - begin > at_seconds:
                return shown
            shown = frame
        rate, name = opened.info.frame_rate, opened.info.name
    if shown is None:
        raise SourceError(f"{name}: has no frame that can be read; try to play it")
    end = shown.seconds - begin + (float(1 / rate) if rate else 0.0)
    if at_seconds > end:
        raise UsageError(f"--at {at_seconds:g} is past the end: {name} is {end:.2f} s long")
    return shown


def _load_detector(config: Config) -> Detector:
    from stream_detr.detector import load_model

    options = config.detector_options()
    options |= {"attention": ("cross", "encoder", "objects"), "points": config.points or NOTEBOOK_POINTS}
    return load_model(config.model, **options)


def _shapes(detector: Detector, detections: Detections) -> list[str]:
    """The two shapes that the notebook prints."""
    if detections.attention is None or detections.attention.points is None:
        return []
    h, w = detections.attention.points.shape[1:]
    shape = detector.model.config
    # A ResNet ends with 512 channels, times 4 in bottleneck blocks, and half of that for each stage left out.
    num_channels = (2048 if shape.block == "bottleneck" else 512) >> (4 - len(shape.depths))
    return [f"encoder attention:  ({h * w}, {h * w})", f"feature map:        (1, {num_channels}, {h}, {w})"]
