"""One viewer's connection: pictures out, never more than two unanswered; commands and a camera in, bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import WSCloseCode, WSMsgType, web

from stream_detr.errors import StreamDetrError
from stream_detr.structures import Point
from stream_detr.web.camera import Cameras, PushedCamera
from stream_detr.web.commands import COMMANDS
from stream_detr.web.limits import Limits, Rate
from stream_detr.web.messages import hello_message, to_json
from stream_detr.web.pictures import SIZES, Pictures

if TYPE_CHECKING:
    from stream_detr.live import LiveSession

_MOST_TEXTS = 8


class Viewer:
    """A browser that shows streams; also the owner of the points that were clicked in it."""

    def __init__(
        self,
        session: LiveSession,
        pictures: Pictures,
        cameras: Cameras,
        socket: web.WebSocketResponse,
        limits: Limits,
        announce: Callable[[], None],
    ) -> None:
        self.session, self.announce = session, announce
        self.watched: dict[int, None] = {}
        self._pictures, self._cameras, self._socket, self._limits = pictures, cameras, socket, limits
        self._size = min(SIZES)
        self._camera: PushedCamera | None = None
        self._pointing: asyncio.Future[None] | None = None
        self._wake = asyncio.Event()
        self._due: dict[int, None] = {}  # in the order in which they became due
        self._sent: dict[int, int] = {}
        self._unanswered: dict[tuple[int, int], float] = {}
        self._texts = deque([hello_message(session)], maxlen=_MOST_TEXTS)
        self._state = ""
        self._rate = Rate(limits.commands_per_second)

    async def run(self) -> None:
        """Serve until the viewer leaves or is sent away."""
        ends = [asyncio.ensure_future(self._send()), asyncio.ensure_future(self._receive())]
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in done:
                end.result()
        except (ConnectionError, TimeoutError):
            pass  # it left, or takes nothing any more
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            self.close_camera()
            if self._pointing is not None:
                self._pointing.add_done_callback(self._forget_points)

    def watch(self, stream_ids: list[int], size: int) -> None:
        """Show these streams from now on, starting with their newest picture."""
        self.watched, self._size = dict.fromkeys(stream_ids), size
        self._due, self._sent = dict.fromkeys(stream_ids), {}
        self._wake.set()

    async def point_at(self, stream_id: int, points: list[Point]) -> None:
        """Ask for the encoder's attention at these points of a stream; none takes the request back."""
        loop = asyncio.get_running_loop()
        self._pointing = loop.run_in_executor(None, self.session.set_points, self, stream_id, points)
        await asyncio.shield(self._pointing)  # a viewer that leaves waits for it, or its points would stay

    def _forget_points(self, pointed: asyncio.Future[None]) -> None:
        if not pointed.cancelled():
            pointed.exception()  # nobody is there to be told
        with contextlib.suppress(RuntimeError):  # the program is about to end
            asyncio.get_running_loop().run_in_executor(None, self.session.forget, self)

    def open_camera(self, name: str) -> None:
        """What this viewer sends as binary messages from now on is a stream."""
        self._camera = self._cameras.start(name)
        self.tell({"camera": self._camera.stream_id})

    def close_camera(self) -> None:
        """Take this viewer's camera away, if it has one."""
        if self._camera is not None:
            self._cameras.close(self._camera)
            self._camera = None

    def shown(self, stream_id: int) -> None:
        """There is a new picture of a stream."""
        if stream_id in self.watched:
            self._due.setdefault(stream_id)
            self._wake.set()

    def tell(self, value: object) -> None:
        """Send JSON as soon as the connection takes it."""
        self._texts.append(to_json(value))
        self._wake.set()

    def update(self, state: str) -> None:
        """Send the session's state, or a later one."""
        self._state = state
        self._wake.set()

    async def _send(self) -> None:
        """The only writer of this connection. Every state wakes it, so that a silent viewer is noticed."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._texts:
                await self._write(self._texts.popleft())
            if self._state:
                state, self._state = self._state, ""
                await self._write(state)
            await self._send_pictures()
            oldest = next(iter(self._unanswered.values()), None)
            if oldest is not None and time.monotonic() - oldest > self._limits.answer_seconds:
                raise TimeoutError

    async def _send_pictures(self) -> None:
        for stream_id in list(self._due):
            if len(self._unanswered) >= self._limits.unanswered:
                return
            self._due.pop(stream_id, None)
            try:
                made = await self._pictures.message(stream_id, self._size, self._sent.get(stream_id, -1))
            except (StreamDetrError, ValueError) as error:
                self.tell({"error": str(error)})
                continue
            if made is None or stream_id not in self.watched:
                continue
            number, message = made
            self._sent[stream_id] = number
            self._unanswered[stream_id, number] = time.monotonic()
            await self._write(message)
        if len(self.watched) > 1:
            await asyncio.sleep(1 / self._limits.tiles_per_second)

    async def _write(self, message: str | bytes) -> None:
        async with asyncio.timeout(self._limits.answer_seconds):
            if isinstance(message, str):
                await self._socket.send_str(message)
            else:
                await self._socket.send_bytes(message)

    async def _receive(self) -> None:
        async for message in self._socket:
            reason = None
            if message.type is WSMsgType.BINARY:
                reason = await self._take_picture(message.data)
            elif message.type is WSMsgType.TEXT:
                reason = await self._obey(message.data)
            if reason is not None:
                await self._socket.close(code=WSCloseCode.POLICY_VIOLATION, message=reason.encode())

    async def _obey(self, text: str) -> str | None:
        """Carry out a command; the reason to hang up, if there is one."""
        if len(text) > self._limits.command_bytes:
            return "a command is too long"
        try:
            command: Any = json.loads(text)
        except (ValueError, RecursionError):
            command = None
        name = command.get("do") if isinstance(command, dict) else None
        # There are as many answers as pictures were sent; everything else is bounded by the clock.
        if name == "ack" and self._is_answer(command.get("stream"), command.get("number")):
            return None
        if not self._rate.allows():
            return "too many commands"
        obey = COMMANDS.get(name) if isinstance(name, str) else None
        if obey is None:
            return None if name == "ack" else "unknown command"
        try:
            await obey(self, command)
        except (StreamDetrError, ValueError) as error:
            self.tell({"error": str(error)})
        return None

    def _is_answer(self, stream_id: object, number: object) -> bool:
        """Take note that the viewer has shown a picture; False if it was never sent."""
        if not isinstance(stream_id, int) or not isinstance(number, int):
            return False
        if self._unanswered.pop((stream_id, number), None) is None:
            return False
        self._wake.set()
        return True

    async def _take_picture(self, data: bytes) -> str | None:
        if self._camera is None:  # pictures on their way while the camera was closed
            return None if self._rate.allows() else "too many pictures without a camera"
        try:
            await self._cameras.take(self._camera, data)
        except StreamDetrError as error:
            self.close_camera()
            self.tell({"camera": None, "error": str(error)})
        return None
