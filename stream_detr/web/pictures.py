"""Pictures for viewers: each encoded once, however many watch, and not at all when nobody does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from stream_detr.errors import CaptureError
from stream_detr.live.drawing import annotated
from stream_detr.sinks.jpeg import encode_jpeg
from stream_detr.web.messages import picture_message

if TYPE_CHECKING:
    from stream_detr.live import LiveSession, Shown
    from stream_detr.overlay import Style

SIZES = (480, 960, 1920)
"""Longest sides that a viewer can ask for: a tile of the grid, a phone, a desktop."""

_QUALITY = 80
_AT_ONCE = 2  # the analysis needs the processor more


class Pictures:
    """The newest picture of every stream as bytes, in the sizes that are asked for."""

    def __init__(self, session: LiveSession) -> None:
        self._session = session
        self._made: dict[tuple[int, object], tuple[int, asyncio.Task[bytes]]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def message(self, stream_id: int, size: int, after: int) -> tuple[int, bytes] | None:
        """Number and binary message of a picture later than ``after``; None while there is none."""
        return await self._newest(stream_id, size, after, lambda shown: _message(shown, size))

    async def annotated(self, stream_id: int, after: int) -> tuple[int, bytes] | None:
        """Number and JPEG with everything drawn in, for those who can't run the page."""
        style = self._session.style()
        return await self._newest(stream_id, "annotated", after, lambda shown: _annotated(shown, style))

    async def _newest(
        self, stream_id: int, key: object, after: int, encode: Callable[[Shown], bytes]
    ) -> tuple[int, bytes] | None:
        shown = self._session.newest(stream_id, after)
        if shown is None:
            return None
        number, task = self._made.get((stream_id, key), (-1, None))
        if task is None or number < shown.number:
            number, task = shown.number, asyncio.ensure_future(self._encoded(shown, encode))
            self._made[stream_id, key] = number, task
        return number, await asyncio.shield(task)  # one viewer that leaves must not take it from the others

    async def _encoded(self, shown: Shown, encode: Callable[[Shown], bytes]) -> bytes:
        async with self._slots:
            return await asyncio.get_running_loop().run_in_executor(None, encode, shown)

    def forget(self, wanted: set[int]) -> None:
        """Let go of the pictures of all streams but ``wanted``."""
        for key in [key for key in self._made if key[0] not in wanted]:
            del self._made[key]


def _message(shown: Shown, size: int) -> bytes:
    return picture_message(shown, encode_jpeg(shown.frame.image, _QUALITY, size))


def _annotated(shown: Shown, style: Style) -> bytes:
    try:
        picture = annotated(shown, style)
    except CaptureError:  # the picture and the boxes are still worth showing
        picture = annotated(shown, replace(style, attention="none"))
    return encode_jpeg(picture, _QUALITY, max(SIZES))
