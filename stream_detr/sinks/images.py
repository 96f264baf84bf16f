"""Annotated still images: one file, or a folder in which each keeps the name of its input."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import SinkError, UsageError
from stream_detr.sinks.codecs import VideoOptions
from stream_detr.sinks.outputs import PICTURE_SUFFIXES, is_folder, write_error
from stream_detr.structures import AudioTrack, Detections, Frame, StreamInfo

_JPEG_QUALITY = 95


class ImagesSink:
    """PNG or JPEG, as the input is; from any other format PNG. Two inputs of one name become x.png and x-2.png."""

    def __init__(self, path: str, info: StreamInfo, options: VideoOptions, audio: AudioTrack | None) -> None:
        self._path = path
        self._is_folder = is_folder(path)
        if not self._is_folder and (info.num_frames or 1) > 1:
            raise UsageError(f"{path}: holds one picture, {info.name} has {info.num_frames}; give a folder or .mp4")
        self._names: set[str] = set()

    def write(self, frame: Frame, image: NDArray[np.uint8], detections: Detections) -> None:
        """Write ``image`` (H, W, 3).

        Raises:
            SinkError: the file can't be written.
        """
        if not self._is_folder and self._names:
            raise SinkError(f"{self._path}: holds one picture, but there are more; give a folder or .mp4")
        name = self._unused(frame.stream.name) if self._is_folder else os.path.basename(self._path)
        self._names.add(name.lower())
        path = Path(self._path, name) if self._is_folder else Path(self._path)
        suffix = path.suffix.lower()
        # OpenCV warns on stderr about a setting that the format doesn't have.
        settings = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if suffix in (".jpg", ".jpeg") else []
        done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
        if not done:
            raise SinkError(f"{path}: the picture can't be encoded; choose .png or .jpg")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.tobytes())
        except OSError as error:
            raise write_error(str(path), error) from error

    def close(self) -> None:
        """Every picture is closed as soon as it is written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _unused(self, source_name: str) -> str:
        """File name for an input's picture, unlike those written before (case aside, for disks that ignore it)."""
        source = Path(unquote(urlsplit(source_name).path) if "://" in source_name else source_name)
        suffix = source.suffix if source.suffix.lower() in PICTURE_SUFFIXES else ".png"
        stem = source.stem or "image"
        name, number = f"{stem}{suffix}", 1
        while name.lower() in self._names:
            number += 1
            name = f"{stem}-{number}{suffix}"
        return name
