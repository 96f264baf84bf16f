"""Pictures as JPEG in memory, for the live view."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import SinkError


def encode_jpeg(image: NDArray[np.uint8], quality: int, longest_px: int | None = None) -> bytes:
    """JPEG of ``image`` (H, W, 3) uint8 RGB, made smaller first if a side is longer than ``longest_px``.

    Raises:
        SinkError: the picture can't be encoded.

    >>> encode_jpeg(np.zeros((4, 6, 3), np.uint8), 80)[:2].hex()
    'ffd8'
    """
    height, width = image.shape[:2]
    scale = min(1.0, (longest_px or max(height, width)) / max(height, width))
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
    if not done:
        raise SinkError(f"a picture of {width}x{height} can't be encoded as JPEG; choose a smaller --size of the input")
    return data.tobytes()
