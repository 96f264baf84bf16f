"""From frames to the model's input, as the reference does: resize, ImageNet statistics (detr/datasets/coco.py)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def model_size(size_hw: tuple[int, int], shorter: int, longest: int) -> tuple[int, int]:
    """Height and width after resizing: the shorter side becomes ``shorter`` unless the longer would pass ``longest``.

    Rounds as `get_size_with_aspect_ratio` in detr/datasets/transforms.py does, so that both see the same pixels.

    >>> model_size((480, 640), 800, 1333), model_size((1080, 1920), 800, 1333)
    ((800, 1066), (750, 1333))
    """
    height, width = size_hw
    low, high = min(height, width), max(height, width)
    if high / low * shorter > longest:
        shorter = max(1, round(longest * low / high))
    if low == shorter:
        return height, width
    if width < height:
        return int(shorter * height / width), shorter
    return shorter, int(shorter * width / height)


def resize(pictures: Tensor, target_hw: tuple[int, int]) -> Tensor:
    """Antialiased bilinear resize of (B, 3, H, W) uint8, rounded to grey levels 0 to 255 as PIL does.

    On the CPU this stays uint8 and in channels-last layout, where PyTorch has a vectorised path (within one grey
    level of PIL at a quarter of its time); CUDA has no uint8 kernel and goes through float32.
    """
    if tuple(pictures.shape[-2:]) == target_hw:
        return pictures
    if pictures.device.type == "cpu":
        return F.interpolate(pictures, target_hw, mode="bilinear", antialias=True)
    return F.interpolate(pictures.float(), target_hw, mode="bilinear", antialias=True).round_().clamp_(0, 255)


class Preprocess:
    """Frames of one size to normalised model input, on the model's device.

    Args:
        device, dtype: of the result.
        shorter, longest: see `model_size`.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, shorter: int, longest: int) -> None:
        self.device, self.dtype = device, dtype
        self.shorter, self.longest = shorter, longest
        mean, std = (torch.tensor(values, device=device) * 255 for values in (IMAGENET_MEAN, IMAGENET_STD))
        self._scale, self._shift = 1 / std, -mean / std  # (3,)

    def target_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width in model pixels of frames ``size_hw`` large."""
        return model_size(size_hw, self.shorter, self.longest)

    def __call__(self, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
        """B pictures (H, W, 3) uint8 RGB of one size -> (B, 3, H', W') normalised, channels last in memory."""
        on_gpu = self.device.type == "cuda"
        # Copying also lifts numpy's read-only flag, which torch cannot express, and gives the GPU pinned memory.
        batch = torch.empty((len(pictures), *pictures[0].shape), dtype=torch.uint8, pin_memory=on_gpu)
        np.stack(pictures, out=batch.numpy())
        images = batch.to(self.device, non_blocking=on_gpu).permute(0, 3, 1, 2)  # (B, 3, H, W), channels last
        height, width = pictures[0].shape[:2]
        images = resize(images, self.target_hw((height, width)))
        return self._normalise(images)

    def _normalise(self, images: Tensor) -> Tensor:
        """Grey levels (B, 3, H', W') to the model's input; channels last stay so."""
        rows = images.permute(0, 2, 3, 1).flatten(2)  # (B, H', W' * 3)
        # Constants as long as a row: broadcasting over three channels is a loop of three, 9 times slower.
        width = images.shape[3]
        levels = rows.float()
        torch.addcmul(self._shift.repeat(width), levels, self._scale.repeat(width), out=levels)
        return levels.to(self.dtype).view(*rows.shape[:2], width, 3).permute(0, 3, 1, 2)
