"""Who may look: the token, the Host and the Origin of every request, and what every answer tells the browser."""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
import socket
import sys
import webbrowser
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import quote, urlsplit

from aiohttp import web

from stream_detr.errors import UsageError

_SHORTEST_TOKEN = 12
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
    "Server": "stream-detr",
}


def new_token() -> str:
    """A random token for one run, fit for a URL."""
    return secrets.token_urlsafe(18)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _hostname(netloc: str) -> str:
    """Lower-case name or address of a Host header, without the port; empty when it makes no sense."""
    try:
        parts = urlsplit(f"//{netloc}")
        return (parts.hostname or "").rstrip(".") if parts.netloc == netloc and "@" not in netloc else ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Access:
    """The rules of one server.

    Args:
        host: the address that it listens on.
        token: what a visitor must know; None only on an address that no other machine reaches.
        names: host names beside this machine's own, for a proxy that adds HTTPS.

    Raises:
        UsageError: another address without a token, or a token that can be guessed.
    """

    def __init__(self, host: str, token: str | None, names: Sequence[str] = ()) -> None:
        if token is None and not is_loopback(host):
            raise UsageError(f"{host}: other machines can reach this address, so it needs a token; give --token")
        if token is not None and len(token) < _SHORTEST_TOKEN:
            raise UsageError(f"token: expected at least {_SHORTEST_TOKEN} characters, got {len(token)}")
        own = socket.gethostname()
        self._names = {name.lower() for name in (host, "localhost", own, f"{own}.local", *names)}
        self._token = token

    def refuses(self, request: web.BaseRequest) -> tuple[int, str] | None:
        """Status and one line for a request that is turned away; None lets it in."""
        host = request.headers.get("Host", "")
        name = _hostname(host)
        # A page of another site whose name was pointed at this machine (DNS rebinding) sends its own name. An address
        # can't be pointed anywhere.
        if name not in self._names and not _is_address(name):
            return 403, "this server does not go by that name: open it by its address"
        if self._token is not None and not self._knows_token(request):
            return 401, "a token is needed: open the address that stream-detr printed when it started"
        is_socket = request.headers.get("Upgrade", "").lower() == "websocket"
        if is_socket or request.method not in ("GET", "HEAD"):
            if urlsplit(request.headers.get("Origin", "")).netloc != host:
                return 403, "a page of another origin may not do that"
        elif not _comes_from_here(request):
            return 403, "a page of another site may not embed this"
        return None

    def _knows_token(self, request: web.BaseRequest) -> bool:
        given = request.query.get("token"), request.cookies.get(cookie_name(request))
        return any(self.is_token(text) for text in given if text is not None)

    def is_token(self, text: str) -> bool:
        """Whether ``text`` is the token, in a time that doesn't tell how much of it is right."""
        return hmac.compare_digest(text.encode("utf-8", "replace"), (self._token or "").encode("utf-8", "replace"))

    @web.middleware
    async def guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Answer a request that is let in; the token in its address becomes a cookie."""
        refused = self.refuses(request)
        if refused is not None:
            status, reason = refused
            return web.Response(status=status, text=f"{status}: {reason}\n")
        response = await handler(request)
        token = request.query.get("token")
        if self._token is not None and token is not None and self.is_token(token) and not response.prepared:
            response.set_cookie(cookie_name(request), token, httponly=True, samesite="Strict", path="/")
        return response


def cookie_name(request: web.BaseRequest) -> str:
    """Cookies know no ports: two servers on one machine need two names."""
    return f"stream_detr_{_port(request.headers.get('Host', ''))}"


def _port(netloc: str) -> int:
    try:
        return urlsplit(f"//{netloc}").port or 80
    except ValueError:
        return 0


def _comes_from_here(request: web.BaseRequest) -> bool:
    """A visit, or something that the page itself asked for; older browsers don't say."""
    site, mode = request.headers.get("Sec-Fetch-Site", "none"), request.headers.get("Sec-Fetch-Mode")
    return site in ("none", "same-origin") or mode == "navigate"


async def add_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """On every answer: nothing from elsewhere runs in the page, and no other page shows it."""
    response.headers.update(_HEADERS)


def address_for(host: str, port: int, token: str | None) -> str:
    """URL to open, the token in it.

    >>> address_for("127.0.0.1", 8765, None), address_for("::1", 80, "secret")
    ('http://127.0.0.1:8765/', 'http://[::1]:80/?token=secret')
    """
    if host in ("0.0.0.0", "::", ""):
        host = _own_address()
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={quote(token, safe='')}" if token else "")


def _own_address() -> str:
    """This machine's address in its network: connecting a datagram socket chooses it and sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def open_browser(url: str) -> bool:
    """Show ``url`` where there is a desktop to show it on; False where there is none. May wait for the browser.

    The address holds the token, and on the browser's command line other users of this machine can read it.
    """
    has_desktop = sys.platform in ("darwin", "win32") or any(os.environ.get(n) for n in ("DISPLAY", "WAYLAND_DISPLAY"))
    return has_desktop and not os.environ.get("SSH_CONNECTION") and webbrowser.open(url)
