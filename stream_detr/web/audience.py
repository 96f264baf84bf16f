"""All who watch: let in up to a number, woken when there is something new."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from aiohttp import WSCloseCode, web

from stream_detr.web.camera import Cameras
from stream_detr.web.limits import Limits
from stream_detr.web.messages import state_message
from stream_detr.web.pictures import Pictures
from stream_detr.web.viewer import Viewer

if TYPE_CHECKING:
    from stream_detr.live import LiveSession

_STATE_SECONDS = 0.5
_STATE_KEPT_SECONDS = 0.1
_GONE_AFTER_SECONDS = 5.0
_BOUNDARY = b"--picture\r\n"


class Audience:
    """The viewers of a session, in pages and of MJPEG streams. Made and used inside the event loop."""

    def __init__(self, session: LiveSession, limits: Limits) -> None:
        self._session, self._limits = session, limits
        self._loop = asyncio.get_running_loop()
        self._pictures = Pictures(session)
        self._cameras = Cameras(session, limits)
        self._viewers: dict[Viewer, web.WebSocketResponse] = {}
        self._listening: set[Callable[[int], None]] = set()
        self._state, self._state_at = "", -math.inf
        self._telling: asyncio.TimerHandle | None = None
        self._unsubscribe = session.subscribe(self._hear)
        self._ticking = asyncio.ensure_future(self._tick())

    async def page(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one page over its WebSocket until it is closed."""
        socket = web.WebSocketResponse(
            max_msg_size=self._limits.message_bytes,
            heartbeat=self._limits.answer_seconds,
            timeout=1.0,
            compress=False,
        )
        viewer = Viewer(self._session, self._pictures, self._cameras, socket, self._limits, self.announce)
        with self._seat(viewer.shown):
            await socket.prepare(request)
            self._viewers[viewer] = socket
            self.announce()
            try:
                await viewer.run()
            finally:
                del self._viewers[viewer]
                _abort(request)
                self.announce()
        return socket

    async def mjpeg(self, request: web.Request, stream_id: int) -> web.StreamResponse:
        """Serve one stream with everything drawn in, picture after picture; a slow client misses some."""
        response = web.StreamResponse(headers={"Content-Type": "multipart/x-mixed-replace; boundary=picture"})
        fresh = asyncio.Event()
        with self._seat(lambda shown_id: fresh.set() if shown_id == stream_id else None):
            await response.prepare(request)
            with contextlib.suppress(ConnectionError, TimeoutError):
                await self._write_pictures(request, response, stream_id, fresh)
        _abort(request)
        return response

    async def _write_pictures(
        self, request: web.Request, response: web.StreamResponse, stream_id: int, fresh: asyncio.Event
    ) -> None:
        number = -1
        await response.write(_BOUNDARY)
        while self.has(stream_id) and request.transport is not None and not request.transport.is_closing():
            made = await self._pictures.annotated(stream_id, number)
            if made is not None:
                number, jpeg = made
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
                async with asyncio.timeout(self._limits.answer_seconds):
                    # Browsers show a part when they see its end: the boundary of the next one.
                    await response.write(head + jpeg + b"\r\n" + _BOUNDARY)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(fresh.wait(), _GONE_AFTER_SECONDS)
            fresh.clear()

    def has(self, stream_id: int) -> bool:
        """Whether there is such a stream."""
        return any(stream.stream_id == stream_id for stream in self._session.streams)

    def state(self) -> str:
        """The session's state as JSON, that of a moment ago if somebody has just asked."""
        now = self._loop.time()
        if now - self._state_at >= _STATE_KEPT_SECONDS:
            self._state, self._state_at = state_message(self._session, len(self._viewers)), now
        return self._state

    def announce(self) -> None:
        """Tell all pages what changed; those that follow closely are told together."""
        if self._telling is None:
            self._telling = self._loop.call_at(self._state_at + _STATE_KEPT_SECONDS, self._tell)

    def _tell(self) -> None:
        self._telling, self._state_at = None, -math.inf
        if self._viewers:
            state = self.state()
            for viewer in self._viewers:
                viewer.update(state)

    async def close(self) -> None:
        """Say goodbye to all pages; what hangs is cut off."""
        self._unsubscribe()
        self._ticking.cancel()
        goodbyes = [socket.close(code=WSCloseCode.GOING_AWAY) for socket in self._viewers.values()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STATE_SECONDS):
                await asyncio.gather(*goodbyes, self._ticking, return_exceptions=True)

    @contextlib.contextmanager
    def _seat(self, listener: Callable[[int], None]) -> Iterator[None]:
        """One of the places that there are; ``listener`` is called with the id of every stream that has news."""
        taken = len(self._listening)
        if taken >= self._limits.viewers:
            raise web.HTTPServiceUnavailable(text=f"503: {taken} viewers are here already; close one first\n")
        self._listening.add(listener)
        try:
            yield
        finally:
            self._listening.discard(listener)

    def _hear(self, stream_id: int) -> None:
        """Called from the session's threads."""
        with contextlib.suppress(RuntimeError):  # the loop has just been closed
            self._loop.call_soon_threadsafe(self._wake, stream_id)

    def _wake(self, stream_id: int) -> None:
        for listener in self._listening:
            listener(stream_id)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_STATE_SECONDS)
            self.announce()
            self._pictures.forget({stream.stream_id for stream in self._session.streams} if self._listening else set())


def _abort(request: web.Request) -> None:
    """Close the connection, whatever is still waiting to be sent."""
    if request.transport is not None:
        request.transport.abort()
