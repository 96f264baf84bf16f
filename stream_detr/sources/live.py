"""Live inputs: cameras, network streams, and files or the test pattern played in real time."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import SourceError
from stream_detr.sources import open_source
from stream_detr.sources.arrivals import Arrival, LiveOptions, LiveSource, PermanentError
from stream_detr.sources.camera import CameraSource, check_camera
from stream_detr.sources.inputs import STDIN, Input, find_inputs, is_remote, without_credentials
from stream_detr.sources.network import SCHEMES, NetworkSource
from stream_detr.structures import Frame

__all__ = ["LIVE_SOURCES", "Arrival", "LiveOptions", "LiveSource", "PermanentError", "find_streams", "open_live"]

_ENDLESS_SECONDS = 10**8


def find_streams(uris: Sequence[str], *, realtime: bool = False) -> list[Input]:
    """Turn what a user typed into live inputs: numbers and devices of cameras, addresses, ``pattern``.

    With ``realtime`` whatever can be read as a file, http addresses included, is one too, played at its own speed.

    Raises:
        SourceError: there is no such camera or file, or the address is of a kind that is not live.
    """
    found: list[Input] = []
    for uri in dict.fromkeys(uris):
        scheme = uri.partition("://")[0].lower()
        if uri.isdecimal() or uri.startswith("/dev/video"):
            check_camera(uri)
            found.append(Input("camera", (uri,), f"camera {uri}" if uri.isdecimal() else uri))
        elif re.match(r"pattern(:|$)", uri):
            found.append(Input("realtime", (_endless(uri),), "pattern"))
        elif is_remote(uri) and scheme not in SCHEMES:
            known = ", ".join(f"{each}://" for each in sorted(SCHEMES))
            raise SourceError(f"{without_credentials(uri)}: {scheme}:// is not known; give one of {known}")
        elif is_remote(uri) and not (realtime and scheme.startswith("http")):
            found.append(Input("stream", (uri,), without_credentials(uri)))
        elif realtime and uri != STDIN:
            found += [Input("realtime", each.uris, each.name) for each in find_inputs([uri])]
        elif uri == STDIN or os.path.exists(uri):
            raise SourceError(f"{uri}: is not live; add --realtime to play a file at its own speed")
        else:
            raise SourceError(f"{uri}: no such file; check the path, or give a camera (0) or an address")
    if not found:
        raise SourceError("no stream was given; name a camera (0), an address (rtsp://...) or pattern")
    return found


def _endless(pattern: str) -> str:
    """A pattern's name with a length where it gives none: live, it goes on.

    >>> _endless("pattern"), _endless("pattern:320x240"), _endless("pattern:320x240:2")
    ('pattern::100000000', 'pattern:320x240:100000000', 'pattern:320x240:2')
    """
    num_parts = pattern.count(":")
    return pattern if num_parts > 1 else f"{pattern}{':' if num_parts else '::'}{_ENDLESS_SECONDS}"


class RealtimeSource:
    """Something that can be read at any speed, at its own speed. It is over at its end, and when it can't be read."""

    def __init__(self, given: Input, options: LiveOptions) -> None:
        try:
            self._source = open_source(find_inputs(given.uris)[0])
        except SourceError as error:
            raise PermanentError(str(error)) from None
        self.frame_rate = self._source.info.frame_rate
        self.has_end = True

    def __iter__(self) -> Iterator[Arrival]:
        try:
            for frame in self._source:
                yield Arrival(partial(_image_of, frame), frame.seconds)
        except SourceError as error:
            raise PermanentError(str(error)) from None

    def close(self) -> None:
        """Close the file."""
        self._source.close()


def _image_of(frame: Frame) -> NDArray[np.uint8]:
    return frame.image


def open_live(given: Input, options: LiveOptions) -> LiveSource:
    """Open one of :func:`find_streams`' inputs.

    Raises:
        PermanentError: it is wrong.
        SourceError: it can't be reached, now.
    """
    return LIVE_SOURCES[given.kind](given, options)


# To add a live source: a class with LiveSource's members, a key here, and what finds it in find_streams.
LIVE_SOURCES: dict[str, Callable[[Input, LiveOptions], LiveSource]] = {
    "camera": CameraSource,
    "stream": NetworkSource,
    "realtime": RealtimeSource,
}
