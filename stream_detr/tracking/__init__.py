"""Objects over time: who is who from frame to frame, and attention that follows them."""

from stream_detr.tracking.follow import followed, held
from stream_detr.tracking.smoothing import Smoother
from stream_detr.tracking.summary import TrackSummaries
from stream_detr.tracking.tracker import KEPT_SHARE, Tracker

__all__ = ["KEPT_SHARE", "Smoother", "TrackSummaries", "Tracker", "followed", "held"]
