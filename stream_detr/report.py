"""The report of a run: figures, model and versions, as JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stream_detr.sinks.outputs import write_error
from stream_detr.structures import RunReport


@dataclass(slots=True)
class Outcome:
    """How one input went: its source and output, its figures, what ended it early, if anything, and
    what is known of each tracked object."""

    source: str
    output: str
    report: RunReport
    error: str | None = None
    tracks: list[dict[str, Any]] = field(default_factory=list)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide the result."""
    found = {"python": platform.python_version()}
    for name in ("stream-detr", "torch", "torchvision", "av", "opencv-python-headless", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def write_report(
    path: str, settings: Mapping[str, Any], model: Mapping[str, Any] | None, outcomes: Sequence[Outcome]
) -> None:
    """Write settings, model, versions and the outcome of every input; ``model`` is None when none was loaded.

    Raises:
        SinkError: the file can't be written.
    """
    content = {
        "versions": versions(),
        "model": model,
        "settings": dict(settings),
        "runs": [asdict(outcome) for outcome in outcomes],
    }
    try:
        Path(path).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8", "backslashreplace")
    except OSError as error:
        raise write_error(path, error) from error
