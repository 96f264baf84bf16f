"""What can be changed while a session runs, and what is decided once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from stream_detr.config import Config, load_config, refuse_unknown
from stream_detr.errors import UsageError
from stream_detr.structures import Point
from stream_detr.tracking import KEPT_SHARE

MOST_POINTS = 16
"""Reference points that one viewer may have on one stream: each costs the model a row of attention."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What a session does besides showing.

    ``max_staleness_seconds``: a result older than this is no longer carried on.
    ``record``: folder, or file that gives the recordings' name; None = nothing can be recorded. ``starts_recording``:
    the streams that are there from the start are recorded at once. ``segment_seconds``: length of a file, None = one.
    ``with_records``: write the data beside each file. ``show_stale``: draw attention in recordings
    also where it is more than a second old.
    ``publish``: addresses or HLS folders, the first for the first stream and so on.
    """

    max_staleness_seconds: float = 3.0
    record: str | None = None
    starts_recording: bool = True
    segment_seconds: float | None = None
    with_records: bool = False
    show_stale: bool = False
    publish: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """The part of the configuration that `LiveSession.change` changes; see ``configs/default.yaml``."""

    attention: str
    layer: int | tuple[int, ...] | str
    head: int | str
    threshold: float
    classes: tuple[str, ...] | None
    direction: str

    @classmethod
    def of(cls, config: Config) -> Self:
        """The settings in a configuration."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})


def changed(config: Config, values: Mapping[str, object]) -> Config:
    """``config`` with new values of `LiveSettings`.

    Raises:
        UsageError: there is no such setting, or a value is out of range.

    >>> changed(Config(), {"head": 3}).head
    3
    """
    refuse_unknown(values, [field.name for field in fields(LiveSettings)], what="setting")
    return load_config(flags={**{name: getattr(config, name) for name in Config.model_fields}, **values})


def detector_choices(config: Config, points: Sequence[Point]) -> dict[str, Any]:
    """Arguments of `Detector.configured` for a configuration and the viewers' ``points``.

    Encoder attention is captured as soon as anybody has a point, whatever is drawn.
    """
    options = config.detector_options()
    names = ("threshold", "classes", "attention", "layers", "head", "points", "direction")
    choices = {name: options[name] for name in names}
    if config.track:
        choices["floor"] = config.threshold * KEPT_SHARE
    if points:
        kinds = options["attention"]
        kinds = () if kinds == "none" else (kinds,) if isinstance(kinds, str) else tuple(kinds)
        choices["attention"] = (*kinds, "encoder") if "encoder" not in kinds else kinds
        own = config.points if config.attention == "encoder" else ()
        choices["points"] = tuple(dict.fromkeys([*own, *points]))
    return choices


def check_points(points: Sequence[Point]) -> tuple[Point, ...]:
    """A viewer's reference points, fractions of the frame.

    Raises:
        UsageError: there are too many, or one lies outside the frame.
    """
    if len(points) > MOST_POINTS:
        raise UsageError(f"points: at most {MOST_POINTS} on a stream, got {len(points)}; take some away")
    for x, y in points:
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise UsageError(f"point {x:g},{y:g} lies outside the frame: both are fractions from 0 to 1")
    return tuple((float(x), float(y)) for x, y in points)
