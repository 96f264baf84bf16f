"""The stages of training: what each one's loss is and how it is driven."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scenes import MAX_OBJECTS, SIZE_HW
from set_loss import Targets, attention_loss, cell_loss, class_loss, match, set_loss
from tiny_network import Network, cell_size, cells_of
from torch import Tensor

GRID_HW = (SIZE_HW[0] // 16, SIZE_HW[1] // 16)
NO_OBJECT_WEIGHT = 0.4
CLASS_WEIGHT = 2.0
# Later layers could leave reading to the first one; this keeps their attention on their objects.
ATTENTION_WEIGHT = 0.3


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: ``rate`` is the peak learning rate, ``backbone_share`` what the backbone gets of it, ``clip`` the
    largest gradient norm, ``other_sizes`` the share of batches of another size, ``most`` the objects of a scene."""

    name: str
    step: Callable[[Network, Tensor, Targets], tuple[Tensor, str]]
    seed: int
    rate: float
    clip: float
    backbone_share: float = 1.0
    other_sizes: float = 0.0
    trains_stem: bool = False
    most: int = MAX_OBJECTS


def dense_step(network: Network, images: Tensor, targets: Targets) -> tuple[Tensor, str]:
    """Loss of the first stage and what to show of it."""
    memory, features, grid_hw = network.encode_all(images)
    objects = cells_of(targets, grid_hw, (images.shape[2], images.shape[3]))
    loss, right = cell_loss(*network.read_cells(memory), objects, targets, NO_OBJECT_WEIGHT, CLASS_WEIGHT)
    early, early_right = class_loss(network.feature_class(features), objects, targets, NO_OBJECT_WEIGHT)
    return loss + CLASS_WEIGHT * early, f"right {right:.3f}, before the encoder {early_right:.3f}"


def decoder_step(network: Network, memory: Tensor, targets: Targets) -> tuple[Tensor, str]:
    """Loss of the second stage, from memories made before, and what to show of it."""
    pos = network.model.backbone[1](GRID_HW, memory.device)
    logits, boxes = network.decode(memory, pos)
    loss = set_loss(logits, boxes, targets, NO_OBJECT_WEIGHT, network.set_anchors())
    last = set_loss(logits[-1:], boxes[-1:], targets, NO_OBJECT_WEIGHT, network.set_anchors()[-1:])
    return loss, f"last layer {last:.3f}"


def set_step(network: Network, images: Tensor, targets: Targets) -> tuple[Tensor, str]:
    """Loss of the last stage and what to show of it."""
    logits, boxes, cell_logits, cell_boxes, grid_hw = network(images)
    objects = cells_of(targets, grid_hw, (images.shape[2], images.shape[3]))
    cells, right = cell_loss(cell_logits, cell_boxes, objects, targets, NO_OBJECT_WEIGHT, CLASS_WEIGHT)
    anchors, last = network.set_anchors(), slice(-network.num_groups, None)
    found = set_loss(logits, boxes, targets, NO_OBJECT_WEIGHT, anchors)
    matches = match(logits[last], boxes[last], targets, anchors[last])
    cell_hw = cell_size(grid_hw, (images.shape[2], images.shape[3]))
    astray = torch.zeros(())
    for layer in network.model.transformer.decoder.blocks()[1:]:
        assert layer.multihead_attn.projections is not None
        projections = layer.multihead_attn.projections
        astray = astray + attention_loss(projections, matches, targets, grid_hw, cell_hw, logits.shape[2])
    line = f"set {found:.3f} cells {cells:.3f} right {right:.3f} astray {astray:.3f}"
    return 3 * found + cells + ATTENTION_WEIGHT * astray, line


STAGES = (
    Stage("dense", dense_step, seed=1, rate=1e-3, clip=5.0, most=20),
    Stage("decoder", decoder_step, seed=2, rate=7e-4, clip=0.5),
    Stage("detr", set_step, seed=3, rate=3e-4, clip=1.0, backbone_share=0.5, other_sizes=0.12, most=10),
    Stage("whole", set_step, seed=4, rate=5e-4, clip=1.0, other_sizes=0.15, trains_stem=True, most=10),
)
