"""An inference-only backbone: frozen batch norm folded into the convolutions, ReLU and residual fused into them.

On a CPU with oneDNN the convolutions run through PyTorch's fused operators with weights laid out once; elsewhere
(CUDA, MPS, inside ``torch.compile``) the same modules fall back to plain operators.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d


def fold_batch_norm(conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight (O, I, kh, kw) and bias (O,) of the one convolution that equals ``norm(conv(x))``."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return (conv.weight * scale[:, None, None, None]).detach(), norm.bias - norm.running_mean * scale


def has_fused_convolutions(weight: Tensor) -> bool:
    """Whether oneDNN's fused convolutions run here for this device and dtype."""
    if weight.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


class FusedConv(nn.Module):
    """Convolution, folded batch norm, and optionally a residual and ReLU, in one pass over the output."""

    def __init__(self, conv: nn.Conv2d, norm: FrozenBatchNorm2d, relu: bool) -> None:
        super().__init__()
        weight, bias = fold_batch_norm(conv, norm)
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)
        self.weight: Tensor
        self.bias: Tensor
        self.relu = relu
        self.geometry = ([*conv.padding], [*conv.stride], [*conv.dilation], conv.groups)
        self._packed: Tensor | None = None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x (B, I, H, W) -> (B, O, H', W'). ``residual`` (B, O, H', W') is added before ReLU and overwritten."""
        if torch.compiler.is_compiling() or not has_fused_convolutions(self.weight):
            return self._plain(x, residual)
        x = x.contiguous(memory_format=torch.channels_last)
        operators = torch.ops.mkldnn
        if self._packed is None:
            self._packed = operators._reorder_convolution_weight(self.weight, *self.geometry, list(x.shape))
        arguments = (x, self._packed, self.bias, *self.geometry)
        activation = "relu" if self.relu else "none"
        if residual is None:
            return operators._convolution_pointwise(*arguments, activation, [], "")
        return operators._convolution_pointwise_.binary(residual, *arguments, "add", 1.0, activation, [], "")

    def _plain(self, x: Tensor, residual: Tensor | None) -> Tensor:
        padding, stride, dilation, groups = self.geometry
        out = F.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups)
        if residual is not None:
            out = out.add_(residual)
        return out.relu_() if self.relu else out


class FusedBlock(nn.Module):
    """A ResNet block (basic or bottleneck) of fused convolutions."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        parts = dict(block.named_children())
        self.convs = nn.ModuleList(
            [
                FusedConv(cast(nn.Conv2d, parts[f"conv{i}"]), cast(FrozenBatchNorm2d, parts[f"bn{i}"]), relu=True)
                for i in (1, 2, 3)
                if f"conv{i}" in parts
            ]
        )
        self.downsample: FusedConv | None = None
        if "downsample" in parts:
            conv, norm = parts["downsample"].children()
            self.downsample = FusedConv(cast(nn.Conv2d, conv), cast(FrozenBatchNorm2d, norm), relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W'); may overwrite ``x``."""
        *first, last = self.convs
        out = x
        for conv in first:
            out = conv(out)
        return last(out, x if self.downsample is None else self.downsample(x))


def fuse_backbone(body: nn.Sequential) -> nn.Sequential:
    """The inference-only twin of a ResNet body with frozen batch norm; stage names stay."""
    parts = dict(body.named_children())
    fused = nn.Sequential()
    fused.add_module("conv1", FusedConv(cast(nn.Conv2d, parts["conv1"]), cast(FrozenBatchNorm2d, parts["bn1"]), True))
    fused.add_module("maxpool", parts["maxpool"])
    for name, stage in parts.items():
        if name.startswith("layer"):
            fused.add_module(name, nn.Sequential(*(FusedBlock(block) for block in stage.children())))
    return fused.eval()
