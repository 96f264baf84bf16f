"""The server: its routes, and its life from listening to the last closed connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from stream_detr.errors import StreamDetrError, UsageError
from stream_detr.web.access import Access, add_headers, address_for
from stream_detr.web.audience import Audience
from stream_detr.web.limits import Limits

if TYPE_CHECKING:
    from stream_detr.live import LiveSession

_PAGE = Path(__file__).parent / "page"
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_GOODBYE_SECONDS = 0.5

_Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def served(
    session: LiveSession,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    names: Sequence[str] = (),
    limits: Limits | None = None,
) -> AsyncIterator[str]:
    """Show ``session`` in browsers while the block runs, inside a running loop; gives the URL, token included.

    Args:
        session: what is shown; it stays open.
        host: address to listen on; one that other machines reach needs a token.
        port: 0 = any that is free.
        token: what visitors must know, see `new_token`.
        names: host names to be reached by beside this machine's own, for a proxy that adds HTTPS.
        limits: how much visitors may cost.

    Raises:
        UsageError: the address can't be listened on, or lacks a token.
    """
    limits = limits or Limits()
    access = Access(host, token, names)
    audience = Audience(session, limits)
    app = web.Application(middlewares=[access.guard])
    app.on_response_prepare.append(add_headers)
    app.add_routes([web.get(path, answer) for path, answer in _routes(session, audience).items()])
    # No access log: it would hold the token. A goodbye is short: the program has been told to end.
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_GOODBYE_SECONDS)
    try:
        await runner.setup()
        listening = await _listen(runner, host, port, limits.connections)
        try:
            yield address_for(host, listening.sockets[0].getsockname()[1], token)
        finally:
            listening.close()
    finally:
        await audience.close()
        await runner.cleanup()


class _TurnedAway(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def _listen(runner: web.AppRunner, host: str, port: int, most: int) -> asyncio.Server:
    server = runner.server
    assert server is not None

    def welcome() -> asyncio.Protocol:
        return server() if len(server.connections) < most else _TurnedAway()

    try:
        return await asyncio.get_running_loop().create_server(welcome, host, port)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"can't listen on {host} port {port} ({reason}); choose another --host or --port") from None


def _routes(session: LiveSession, audience: Audience) -> dict[str, _Answer]:
    files = {f"/{path.name}": path for path in _PAGE.iterdir() if path.suffix in _TYPES}
    routes: dict[str, _Answer] = {address: _file(path) for address, path in files.items()}
    snapshots = asyncio.Semaphore(1)  # full-size pictures: one at a time

    async def snapshot(request: web.Request) -> web.Response:
        stream_id = _stream_id(request, audience)
        async with snapshots:
            try:
                png = await asyncio.get_running_loop().run_in_executor(None, session.snapshot, stream_id)
            except StreamDetrError as error:
                raise web.HTTPConflict(text=f"409: {error}\n") from None
        name = f"stream-detr-{stream_id}.png"
        return web.Response(
            body=png, content_type="image/png", headers={"Content-Disposition": f'attachment; filename="{name}"'}
        )

    async def mjpeg(request: web.Request) -> web.StreamResponse:
        return await audience.mjpeg(request, _stream_id(request, audience))

    async def state(request: web.Request) -> web.Response:
        return web.Response(text=audience.state(), content_type="application/json")

    return routes | {
        "/": _file(_PAGE / "index.html"),
        "/socket": audience.page,
        "/state": state,
        "/snapshot/{stream}.png": snapshot,
        "/stream/{stream}.mjpeg": mjpeg,
    }


def _file(path: Path) -> _Answer:
    body, kind = path.read_bytes(), _TYPES[path.suffix]

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return answer


def _stream_id(request: web.Request, audience: Audience) -> int:
    text = request.match_info["stream"]
    stream_id = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if not audience.has(stream_id):
        raise web.HTTPNotFound(text="404: there is no such stream\n")
    return stream_id
