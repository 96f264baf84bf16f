"""The convolutional part: a torchvision ResNet with frozen batch norm, and the positions of its feature map."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from stream_detr.errors import UsageError

BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class FeatureMap(NamedTuple):
    """Output of one backbone stage; the field is called what the notebook's hooks expect."""

    tensors: Tensor


class Backbone(nn.Module):
    """The ResNet up to its last stage, without pooling and classifier.

    Args:
        block: key of `BLOCKS`.
        depths: blocks per stage; three stages give stride 16, four give 32.
        dilation: the last stage keeps its stride and dilates instead (the "DC5" models).
        norm_layer: frozen batch norm unless the backbone is to be trained from scratch.
    """

    def __init__(
        self,
        block: str,
        depths: tuple[int, ...],
        dilation: bool = False,
        norm_layer: type[nn.Module] = FrozenBatchNorm2d,
    ) -> None:
        super().__init__()
        missing_stages = 4 - len(depths)
        resnet = ResNet(
            BLOCKS[block],
            [*depths, *[1] * missing_stages],
            replace_stride_with_dilation=[False, False, dilation],
            norm_layer=norm_layer,
        )
        names = ["conv1", "bn1", "relu", "maxpool", *(f"layer{i + 1}" for i in range(len(depths)))]
        self.body = nn.Sequential(OrderedDict((name, getattr(resnet, name)) for name in names))
        self.num_channels = resnet.fc.in_features >> missing_stages
        self.stride = 2 ** (len(depths) + 1) // (2 if dilation else 1)

    def forward(self, images: Tensor) -> dict[str, FeatureMap]:
        """images (B, 3, H', W') normalised -> {"0": features (B, C, h, w)}, h = ceil(H' / stride)."""
        return {"0": FeatureMap(self.body(images))}


class SinePositions(nn.Module):
    """Two-dimensional sine embedding, first half of the channels for y (paper, appendix A.4; scale 2 pi)."""

    def __init__(self, hidden_dim: int, temperature: float = 10_000.0) -> None:
        super().__init__()
        self.channels_per_axis = hidden_dim // 2
        self.temperature = temperature

    def _axis(self, length: int, device: torch.device) -> Tensor:
        """(length, D / 2): the cells are numbered from 1 and scaled so that the last one is at 2 pi."""
        position = torch.arange(1, length + 1, dtype=torch.float32, device=device) / (length + 1e-6) * (2 * math.pi)
        channel = torch.arange(self.channels_per_axis, dtype=torch.float32, device=device)
        period = self.temperature ** (2 * torch.div(channel, 2, rounding_mode="floor") / self.channels_per_axis)
        angle = position[:, None] / period
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=-1).flatten(1)

    def forward(self, grid_hw: tuple[int, int], device: torch.device) -> Tensor:
        """Positions of an (h, w) grid -> (1, h * w, D) float32, rows first."""
        h, w = grid_hw
        y, x = self._axis(h, device), self._axis(w, device)
        return torch.cat([y[:, None].expand(-1, w, -1), x[None].expand(h, -1, -1)], dim=-1).reshape(1, h * w, -1)


def grid_of_embeddings(columns: Tensor, rows: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Learned positions: column embeddings (50, D / 2) and row embeddings (50, D / 2) -> (1, h * w, D).

    Raises:
        UsageError: the grid is larger than the learned tables.
    """
    h, w = grid_hw
    if h > len(rows) or w > len(columns):
        raise UsageError(
            f"this model has learned positions for at most {len(rows)}x{len(columns)} cells, "
            f"the frame needs {h}x{w}: choose a smaller --size"
        )
    x, y = columns[None, :w].expand(h, -1, -1), rows[:h, None].expand(-1, w, -1)
    return torch.cat([x, y], dim=-1).reshape(1, h * w, -1)


class LearnedPositions(nn.Module):
    """Learned row and column embeddings of 50 cells each."""

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(50, hidden_dim // 2)
        self.col_embed = nn.Embedding(50, hidden_dim // 2)

    def forward(self, grid_hw: tuple[int, int], device: torch.device) -> Tensor:
        """Positions of an (h, w) grid -> (1, h * w, D)."""
        return grid_of_embeddings(self.col_embed.weight, self.row_embed.weight, grid_hw)
