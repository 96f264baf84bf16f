"""The live view: a page in the browser that this program serves itself, offline, with no build step."""

from stream_detr.web.access import is_loopback, new_token, open_browser
from stream_detr.web.server import served

__all__ = ["is_loopback", "new_token", "open_browser", "served"]
