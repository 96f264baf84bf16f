"""See what a detection transformer looks at, on moving video.

Importing the package costs next to nothing: torch and the video libraries load with the first name that needs
them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stream_detr.config import Config as Config
    from stream_detr.detector import Detector as Detector
    from stream_detr.detector import load_model as load_model
    from stream_detr.errors import StreamDetrError as StreamDetrError
    from stream_detr.interop import to_supervision as to_supervision
    from stream_detr.overlay import Style as Style
    from stream_detr.overlay import render as render
    from stream_detr.pipeline import Result as Result
    from stream_detr.pipeline import analyze as analyze
    from stream_detr.pipeline import run as run
    from stream_detr.structures import AttentionMaps as AttentionMaps
    from stream_detr.structures import Detections as Detections
    from stream_detr.structures import Frame as Frame
    from stream_detr.structures import StreamInfo as StreamInfo

_HOME = {
    "AttentionMaps": "structures",
    "Config": "config",
    "Detections": "structures",
    "Detector": "detector",
    "Frame": "structures",
    "Result": "pipeline",
    "StreamDetrError": "errors",
    "StreamInfo": "structures",
    "Style": "overlay",
    "analyze": "pipeline",
    "load_model": "detector",
    "render": "overlay",
    "run": "pipeline",
    "to_supervision": "interop",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("stream-detr")
    if name not in _HOME:
        raise AttributeError(f"module 'stream_detr' has no attribute '{name}'")
    return getattr(import_module(f"stream_detr.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
