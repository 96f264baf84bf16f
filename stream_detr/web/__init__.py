"""The live view: a page in the browser that this program serves itself, offline, with no build step."""

from stream_detr.web.access import new_token, open_browser
from stream_detr.web.server import serve

__all__ = ["new_token", "open_browser", "serve"]
