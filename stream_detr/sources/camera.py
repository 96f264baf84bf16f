"""Webcams, by index or device, through OpenCV: PyAV's wheels come without the systems' camera interfaces."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from glob import glob

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import SourceError
from stream_detr.sources.arrivals import Arrival, LiveOptions, PermanentError
from stream_detr.sources.inputs import Input

_DEVICES = "/dev/video*"


class CameraSource:
    """Pictures as the camera takes them. What it can't do of size, rate and format it replaces by what it can."""

    has_end = False

    def __init__(self, given: Input, options: LiveOptions) -> None:
        self._name = given.name
        device = given.uris[0]
        check_camera(device)
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what is wrong is said below, in one line
        backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
        self._camera = cv2.VideoCapture(int(device) if device.isdecimal() else device, backend)
        if not self._camera.isOpened():
            raise PermanentError(f"{self._name}: can't be opened; is another program using it, or is it no camera?")
        if options.camera_format == "mjpeg":  # the format first: it limits which sizes and rates there are
            self._camera.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        if options.camera_size is not None:
            self._camera.set(cv2.CAP_PROP_FRAME_WIDTH, options.camera_size[0])
            self._camera.set(cv2.CAP_PROP_FRAME_HEIGHT, options.camera_size[1])
        if options.camera_rate is not None:
            self._camera.set(cv2.CAP_PROP_FPS, options.camera_rate)
        self._camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # fresh pictures, where the driver knows it
        rate = self._camera.get(cv2.CAP_PROP_FPS)
        self.frame_rate = Fraction(rate).limit_denominator(1001) if 0 < rate < 1000 else None

    def __iter__(self) -> Iterator[Arrival]:
        while True:
            is_there, image = self._camera.read()
            if not is_there:
                raise SourceError(f"{self._name}: gives no picture; is it still plugged in?")
            yield Arrival(partial(_to_rgb, np.asarray(image, np.uint8)))

    def close(self) -> None:
        """Let other programs have it."""
        self._camera.release()


def check_camera(device: str) -> None:
    """Say at once when a camera, given by number or device, is not there or not allowed; only Linux can tell.

    Raises:
        PermanentError: it is not.
    """
    if sys.platform != "linux":
        return
    path = f"/dev/video{device}" if device.isdecimal() else device
    if not os.path.exists(path):
        there = ", ".join(sorted(glob(_DEVICES))) or "none"
        raise PermanentError(f"{path}: no such camera; plug it in or name another (there: {there})")
    if not os.access(path, os.R_OK | os.W_OK):
        raise PermanentError(f"{path}: no permission; add yourself to the group that owns it (often: video)")


def _to_rgb(bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
