"""Batches of scenes for training."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from backgrounds import TRAIN_BACKGROUNDS
from scenes import SIZE_HW, Scene, Scenes
from set_loss import Targets
from sprites import TRAIN_SETS
from tiny_network import MEAN, STD, Network
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

BATCH = 16
# Now and then another shape of about the same area, so that the model is not tied to 16:9.
OTHER_SIZES = ((128, 224), (144, 192), (144, 192), (144, 248), (160, 288), (180, 196))

Batch = tuple[Tensor, Targets]


def collate(scenes: list[Scene], most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scenes of one size -> images (B, H, W, 3) uint8, boxes_cxcywh (B, most, 4), class_ids (B, most)."""
    images = torch.stack([torch.from_numpy(scene.image) for scene in scenes])
    boxes = torch.zeros(len(scenes), most, 4)
    class_ids = torch.full((len(scenes), most), -1)
    height, width = images.shape[1:3]
    for index, scene in enumerate(scenes):
        num = len(scene.boxes)
        x1, y1, x2, y2 = torch.from_numpy(scene.boxes).unbind(1)
        centred = torch.stack([(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height], 1)
        boxes[index, :num] = centred
        class_ids[index, :num] = torch.from_numpy(scene.class_ids)
    return images, boxes, class_ids


class Batches(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    """Endless batches, every ``apart``-th from number ``first`` on; made in the loader's worker process."""

    def __init__(self, cache: Path, seed: int, first: int, most: int, other_sizes: float, apart: int) -> None:
        self.cache, self.seed, self.first = cache, seed, first
        self.most, self.other_sizes, self.apart = most, other_sizes, apart

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        scenes = Scenes(self.cache, TRAIN_SETS, TRAIN_BACKGROUNDS, self.seed)
        number = self.first
        while True:
            size_hw = SIZE_HW
            draw = torch.rand(2, generator=torch.Generator().manual_seed(number)).tolist()
            if draw[0] < self.other_sizes:
                size_hw = OTHER_SIZES[int(draw[1] * len(OTHER_SIZES))]
            numbers = range(number * BATCH, (number + 1) * BATCH)
            yield collate([scenes.scene(index, size_hw, self.most) for index in numbers], self.most)
            number += self.apart


def batches(
    cache: Path, seed: int, first: int, device: torch.device, most: int, other_sizes: float = 0.0, apart: int = 1
) -> Iterator[Batch]:
    """Normalised batches on ``device``, prepared one process ahead.

    Args:
        seed: of the scenes.
        first: number of the first batch; every ``apart``-th follows.
        most: objects in a scene.
        other_sizes: share of batches of another size than the usual.
    """
    loader = DataLoader(
        Batches(cache, seed, first, most, other_sizes, apart), batch_size=None, num_workers=1, prefetch_factor=6
    )
    mean, std = (torch.tensor(value, device=device).view(3, 1, 1) * 255 for value in (MEAN, STD))
    for images, boxes, class_ids in loader:
        # Permuted, not copied: the memory stays channels last, which the convolutions like best.
        pixels = (images.to(device).permute(0, 3, 1, 2).float() - mean) / std
        yield pixels, Targets(boxes.to(device), class_ids.to(device))


@torch.no_grad()
def remembered(network: Network, source: Iterator[Batch], num: int, seed: int) -> Iterator[Batch]:
    """Endless batches of 2 * BATCH memories of ``num`` scenes, made once: backbone and encoder rest meanwhile."""
    parts = [(network.encode(images)[0].half(), targets) for images, targets in islice(source, num // BATCH)]
    memory = torch.cat([part for part, _ in parts])
    boxes, class_ids = (
        torch.cat([getattr(targets, name) for _, targets in parts]) for name in ("boxes_cxcywh", "class_ids")
    )
    dice = torch.Generator().manual_seed(seed)
    while True:
        chosen = torch.randint(len(memory), (2 * BATCH,), generator=dice).to(memory.device)
        yield memory[chosen].float(), Targets(boxes[chosen], class_ids[chosen])
