"""The report of a run: figures, model and versions, as JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from stream_detr.sinks.outputs import write_error
from stream_detr.structures import RunReport


class Model(Protocol):
    """What the report says of a model; a `Detector` is one."""

    @property
    def name(self) -> str: ...

    @property
    def device(self) -> object: ...

    @property
    def precision(self) -> str: ...

    @property
    def precision_reason(self) -> str: ...


@dataclass(slots=True)
class Outcome:
    """How one input went: its source and output, its figures, what ended it early, if anything, and
    what is known of each tracked object."""

    source: str
    output: str
    report: RunReport
    error: str | None = None
    tracks: list[dict[str, Any]] = field(default_factory=list)
    crossings: Mapping[str, Mapping[str, tuple[int, int]]] | None = None


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide the result."""
    found = {"python": platform.python_version()}
    for name in ("stream-detr", "torch", "torchvision", "av", "opencv-python-headless", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def write_report(path: str, settings: Mapping[str, Any], model: Model | None, results: Mapping[str, Any]) -> None:
    """Write settings, model, versions and results; ``model`` is None when none was loaded.

    Raises:
        SinkError: the file can't be written.
    """
    names = ("name", "device", "precision", "precision_reason")
    about = None if model is None else {name: str(getattr(model, name)) for name in names}
    content = {"versions": versions(), "model": about, "settings": dict(settings), **results}
    try:
        Path(path).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8", "backslashreplace")
    except OSError as error:
        raise write_error(path, error) from error
