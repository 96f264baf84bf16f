"""From what a user typed to inputs that can be opened one after the other."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from stream_detr.errors import SourceError

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .ts .mts .m2ts .mpg .mpeg .wmv .flv .3gp .ogv .gif .mxf .vob".split()  # noqa: SIM905
)
IMAGE_SUFFIXES = frozenset(".jpg .jpeg .jpe .png .bmp .webp .tif .tiff .ppm .pgm".split())  # noqa: SIM905
STDIN = "-"


@dataclass(frozen=True, slots=True)
class Input:
    """Something to open with :func:`stream_detr.sources.open_source`.

    ``kind`` is a key of ``SOURCES``, ``uris`` are paths or addresses (they may hold credentials), ``name`` is what
    people may see.
    """

    kind: str
    uris: tuple[str, ...]
    name: str


def without_credentials(uri: str) -> str:
    """The URI as it may be shown: no user, no password, no value of a query (tokens and keys hide there).

    >>> without_credentials("rtsp://admin:s3cr@t@camera/live?channel=1&token=abc")
    'rtsp://camera/live?channel=…&token=…'
    >>> without_credentials("clips/a@b?.mp4")
    'clips/a@b?.mp4'
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return uri
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        rest = authority.rpartition("@")[2] + rest[len(authority) :]
    elif "@" in rest and not re.fullmatch(r"(\[[^]]*\]|[^:]*)(:\d*)?", authority):
        rest = rest.rpartition("@")[2]  # what looked like a port began a password with a /, ? or # in it
    address, question, query = rest.partition("#")[0].partition("?")
    names = [name for name, _ in parse_qsl(query, keep_blank_values=True)] if "=" in query else []
    return f"{scheme}://{address}{question}" + "&".join(f"{name}=…" for name in names)


def is_remote(uri: str) -> bool:
    """Whether the URI names another machine.

    >>> is_remote("https://host/clip.mp4"), is_remote("clip.mp4")
    (True, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", uri) is not None


def find_inputs(uris: Sequence[str]) -> list[Input]:
    """Turn files, folders, globs, ``http(s)://`` addresses, ``-`` (stdin) and ``pattern`` into inputs.

    A folder or glob gives one input for each video and one with all of its images, in natural order. Images
    named one by one become one input as well. A file whose suffix says nothing is taken for a video.

    Raises:
        SourceError: something is missing, empty, or of a kind that can't be read.
    """
    found: list[Input] = []
    loose_images: list[str] = []
    place = 0
    for uri in dict.fromkeys(uris):
        if uri == STDIN:
            found.append(Input("video", (uri,), "stdin"))
        elif uri == "pattern" or uri.startswith("pattern:"):
            found.append(Input("pattern", (uri,), "pattern"))
        elif is_remote(uri):
            found.append(_remote(uri))
        elif os.path.isdir(uri):
            found += _several(uri, (os.path.join(uri, name) for name in os.listdir(uri)))
        elif not os.path.exists(uri) and glob.has_magic(uri):
            found += _several(uri, glob.glob(uri, recursive=True))
        elif not os.path.exists(uri):
            raise SourceError(f"{uri}: no such file or folder; check the path")
        elif _suffix(uri) in IMAGE_SUFFIXES:
            place = place if loose_images else len(found)
            loose_images.append(uri)
        else:
            found.append(Input("video", (uri,), uri))
    if loose_images:
        name = loose_images[0] if len(loose_images) == 1 else f"{len(loose_images)} images"
        found.insert(place, Input("images", tuple(loose_images), name))
    if not found:
        raise SourceError("no input was given; name a file, a folder, an address or pattern")
    return found


def _remote(uri: str) -> Input:
    name = without_credentials(uri)
    scheme = uri.partition("://")[0].lower()
    if scheme not in ("http", "https"):
        raise SourceError(f"{name}: {scheme}:// can't be read as a file; give a file or an http(s) address")
    kind = "images" if _suffix(urlsplit(name).path) in IMAGE_SUFFIXES else "video"
    return Input(kind, (uri,), name)


def _several(name: str, paths: Iterable[str]) -> list[Input]:
    """Inputs of a folder or glob; hidden files and files of other kinds are passed over."""
    shown = [path for path in paths if not os.path.basename(path).startswith(".") and os.path.isfile(path)]
    shown.sort(key=_natural)
    images = tuple(path for path in shown if _suffix(path) in IMAGE_SUFFIXES)
    found = [Input("video", (path,), path) for path in shown if _suffix(path) in VIDEO_SUFFIXES]
    if images:
        found.append(Input("images", images, images[0] if len(images) == 1 else name))
    if not found:
        what = "the folder has" if os.path.isdir(name) else "it matches"
        raise SourceError(f"{name}: {what} no video and no image; name the files themselves if they are")
    return found


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _natural(path: str) -> list[tuple[int, int, str]]:
    """Sort key under which frame2 comes before frame10."""
    parts = re.split(r"(\d+)", path)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts if part]
