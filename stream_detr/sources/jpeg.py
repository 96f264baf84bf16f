"""JPEG from someone who is not trusted: the browser's camera. The size is read from the header before decoding."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import SourceError

# Start-of-frame markers. Only sequential ones are taken: a progressive file of a few kB can cost seconds to decode.
_FRAMES = {0xC0 + n for n in range(16)} - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = {0xC0, 0xC1}
_STANDALONE = {0x01, *range(0xD0, 0xD8)}
_START_OF_SCAN = 0xDA
_MISPLACED = {0x00, 0xD8, 0xD9}  # have no length either; no header holds them


def jpeg_size_hw(data: bytes) -> tuple[int, int]:
    """Height and width that a JPEG's header promises.

    Raises:
        SourceError: no JPEG, or not of the sequential kind that a browser makes.

    >>> jpeg_size_hw(bytes.fromhex("ffd8 ffc0000b080003000501011100 ffda0008010100003f00"))
    (3, 5)
    """
    if data[:2] == b"\xff\xd8":
        at, size = 2, None
        while at + 9 <= len(data) and data[at] == 0xFF:
            marker = data[at + 1]
            if marker == _START_OF_SCAN and size is not None:
                return size
            # The decoder must not see another size than this one.
            if marker == _START_OF_SCAN or marker in _MISPLACED or (marker in _FRAMES and size is not None):
                break
            if marker in _FRAMES:
                if marker not in _SEQUENTIAL:
                    raise SourceError("the camera's picture is a progressive JPEG; send baseline ones")
                size = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            bare = marker in _STANDALONE or marker == 0xFF  # the latter is a fill byte
            at += (1 if marker == 0xFF else 2) if bare else 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
    raise SourceError("the camera's picture is not a JPEG; send what canvas.toBlob('image/jpeg') gives")


def decode_jpeg(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Decode into (H, W, 3) uint8 RGB, upright; nothing is decoded that is larger than ``max_pixels``.

    Raises:
        SourceError: no JPEG, damaged, or too large.
    """
    height, width = jpeg_size_hw(data)
    if not 0 < height * width <= max_pixels:
        raise SourceError(f"the camera's picture is {width}x{height}; send at most {max_pixels} pixels")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        image = None
    if image is None:
        raise SourceError(f"the camera's picture of {width}x{height} is damaged; start the camera again")
    return np.asarray(image, np.uint8)
