"""Live view: many streams, one model, always the freshest picture."""

from stream_detr.live.session import LiveSession
from stream_detr.live.settings import LiveSettings, SessionOptions
from stream_detr.live.stream import Shown, Stream

__all__ = ["LiveSession", "LiveSettings", "SessionOptions", "Shown", "Stream"]
