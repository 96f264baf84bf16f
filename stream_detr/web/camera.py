"""Cameras of browsers: JPEG comes in over the viewer's connection and becomes a stream of the session."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stream_detr.errors import UsageError
from stream_detr.sources.jpeg import decode_jpeg
from stream_detr.web.limits import Limits, Rate

if TYPE_CHECKING:
    from stream_detr.live import LiveSession

_LONGEST_NAME = 40


class Cameras:
    """All cameras that browsers send, at most ``limits.cameras``."""

    def __init__(self, session: LiveSession, limits: Limits) -> None:
        self._session, self._limits = session, limits
        self._num_open = 0

    def start(self, name: str) -> PushedCamera:
        """A new stream; ``name`` is what the browser calls it.

        Raises:
            UsageError: there are too many already.
        """
        if self._num_open >= self._limits.cameras:
            raise UsageError(f"{self._num_open} browser cameras are open already; close one first")
        shown = "".join(letter for letter in name if letter.isprintable()).strip()[:_LONGEST_NAME]
        # Not awaited: a viewer that leaves meanwhile would leave the stream behind.
        camera = PushedCamera(self._session.add_pushed(shown or "browser camera"), self._limits)
        self._num_open += 1
        return camera

    async def take(self, camera: PushedCamera, data: bytes) -> None:
        """Analyse a picture (JPEG); too many a second are left out.

        Raises:
            SourceError: no JPEG, damaged or too large.
        """
        if camera.rate.allows():
            await asyncio.get_running_loop().run_in_executor(None, self._push, camera.stream_id, data)

    def _push(self, stream_id: int, data: bytes) -> None:
        self._session.push(stream_id, decode_jpeg(data, self._limits.camera_pixels))

    def close(self, camera: PushedCamera) -> None:
        """Take its stream away."""
        self._num_open -= 1
        # Not awaited: the viewer may be gone, and ending a stream may take a moment.
        asyncio.get_running_loop().run_in_executor(None, self._session.remove, camera.stream_id)


class PushedCamera:
    """One browser's camera."""

    def __init__(self, stream_id: int, limits: Limits) -> None:
        self.stream_id = stream_id
        self.rate = Rate(limits.camera_rate)
