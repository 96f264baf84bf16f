"""Still images as a stream: a single one, or a folder's worth, each with its own size and name."""

from __future__ import annotations

import base64
import http.client
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote, urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import SourceError
from stream_detr.sources.inputs import Input, is_remote, without_credentials
from stream_detr.structures import Frame, StreamInfo

log = logging.getLogger("stream_detr")

_TIMEOUT_SECONDS = 20.0
_MOST_BYTES = 512 << 20


class ImagesSource:
    """One frame per image, one second apart; ``frame.stream`` names the image and has its size.

    Among several images one that can't be read is left out with a warning, and its index with it.
    """

    audio: None = None

    def __init__(self, given: Input) -> None:
        self._uris = given.uris
        self._start, self._first = self._first_readable()
        height, width = self._first.shape[:2]
        self.info = StreamInfo(given.name, width, height, Fraction(1), len(given.uris), is_stills=True)

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._start, len(self._uris)):
            image = self._first if index == self._start else self._read(index)
            if image is None:
                continue
            name = without_credentials(self._uris[index])
            own = replace(self.info, name=name, width=image.shape[1], height=image.shape[0])
            yield Frame(image, index, index, Fraction(1), time.monotonic(), own)

    def _first_readable(self) -> tuple[int, NDArray[np.uint8]]:
        for index in range(len(self._uris)):
            image = self._read(index)
            if image is not None:
                return index, image
        raise SourceError(f"none of the {len(self._uris)} images can be read; open one to see what they are")

    def _read(self, index: int) -> NDArray[np.uint8] | None:
        try:
            return read_image(self._uris[index])
        except SourceError as error:
            if len(self._uris) == 1:
                raise
            log.warning("%s; left out", error)
            return None

    def close(self) -> None:
        """Nothing stays open between images."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_image(uri: str) -> NDArray[np.uint8]:
    """Decode a file or an http(s) address, upright: (H, W, 3) uint8 RGB.

    EXIF orientation is applied, grey and palette become RGB, 16 bits become 8, alpha is dropped.

    Raises:
        SourceError: it is missing, empty or no image.
    """
    name = without_credentials(uri)
    try:
        data = _download(uri) if is_remote(uri) else Path(uri).read_bytes()
    except FileNotFoundError:
        raise SourceError(f"{name}: no such file; check the path") from None
    except urllib.error.HTTPError as error:
        error.close()  # it is the connection as well
        raise SourceError(f"{name}: the server says {error.code} {error.reason}; check the address") from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # their text may hold the address
        reason = getattr(error, "strerror", None) or str(getattr(error, "reason", "")) or type(error).__name__
        raise SourceError(f"{name}: can't be read ({reason}); check that it is there and readable") from None
    if not data:
        raise SourceError(f"{name}: is empty (0 bytes); copy or download it again")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        image = None
    if image is None:
        raise SourceError(f"{name}: not an image that can be decoded, or damaged; open it to see, or convert it to PNG")
    return np.asarray(image, np.uint8)


def _download(uri: str) -> bytes:
    parts = urlsplit(uri)
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~")
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=path).geturl()
    request = urllib.request.Request(address, headers={"User-Agent": "stream-detr"})
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(login).decode())
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
        data: bytes = response.read(_MOST_BYTES)
    return data
