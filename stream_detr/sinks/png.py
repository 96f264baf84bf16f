"""A picture as PNG in memory."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import SinkError


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """PNG of ``image`` (H, W, 3) uint8 RGB, every pixel as it is.

    Raises:
        SinkError: the picture can't be encoded.

    >>> encode_png(np.zeros((4, 6, 3), np.uint8))[1:4]
    b'PNG'
    """
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise SinkError(f"a picture of {image.shape[1]}x{image.shape[0]} can't be encoded as PNG; take a smaller one")
    return data.tobytes()
