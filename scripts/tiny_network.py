"""The embedded model while it trains: `Detr` plus what only training needs. `Network.export` gives the plain model."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from scenes import CLASS_NAMES, SIZE_HW
from set_loss import Targets, cell_targets
from torch import Tensor, nn

from stream_detr.models.detr import BoxHead, Detr, DetrConfig

CONFIG = DetrConfig(
    block="basic",
    depths=(1, 1, 1),
    num_classes=len(CLASS_NAMES),
    num_queries=24,
    hidden_dim=192,
    num_heads=6,
    encoder_layers=2,
    decoder_layers=3,
    feedforward_dim=512,
)
NUM_GROUPS = 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as in preprocessing
NORM_EPS = 1e-5  # of FrozenBatchNorm2d


class Shift(nn.Module):
    """Adds a bias per channel, in place of the stem's batch norm, whose backward costs more than the convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return x + self.bias[:, None, None]


class Network(nn.Module):
    """`Detr` with cell heads on the memory and more than one group of queries.

    The groups share all weights and don't see each other (Group DETR, Chen et al. 2022); only the first is exported.
    """

    # Attributes of modules are "Tensor or Module" to the type checker.
    stem: Any
    stages: Any
    anchors: Tensor

    def __init__(self, config: DetrConfig = CONFIG, num_groups: int = NUM_GROUPS) -> None:
        super().__init__()
        self.model = Detr(config, nn.BatchNorm2d)
        body: Any = self.model.features.body
        # Pooling before ReLU gives the same values and leaves a quarter of them to the ReLU.
        stem = {"conv1": body.conv1, "bn1": Shift(body.conv1.out_channels), "maxpool": body.maxpool, "relu": nn.ReLU()}
        self.stem = nn.Sequential()
        for name, module in [*stem.items(), ("layer1", body.layer1)]:
            self.stem.add_module(name, module)
        self.stages = nn.Sequential(*[getattr(body, f"layer{i + 1}") for i in range(1, len(config.depths))])
        self.model.features.body = nn.Sequential()
        self.cell_class = nn.Linear(config.hidden_dim, config.num_classes + 1)
        self.cell_box = BoxHead(config.hidden_dim)
        self.feature_class = nn.Linear(self.model.input_proj.in_channels, config.num_classes + 1)
        self.more_queries = nn.Parameter(torch.randn((num_groups - 1) * config.num_queries, config.hidden_dim))
        self.num_groups = num_groups
        self.register_buffer("anchors", anchor_points(config.num_queries, num_groups), persistent=False)
        self.folded: nn.ParameterList | None = None
        for layer in self.model.transformer.decoder.blocks():
            layer.multihead_attn.keep_projections = True  # for `attention_loss`

    def train(self, mode: bool = True) -> Network:
        """The norms of a folded stem rest; those behind it go on collecting."""
        super().train(mode)
        if self.folded is not None:
            self.stem.eval()
        return self

    @torch.no_grad()
    def fold_stem(self) -> None:
        """Fold the batch norms of stem and first stage into their convolutions: weights and biases of `run_stem`."""
        self.stem.requires_grad_(False).eval()
        block = self.stem.layer1[0]
        parts = [self.stem.conv1.weight.clone(), self.stem.bn1.bias.clone()]
        for convolution, norm in ((block.conv1, block.bn1), (block.conv2, block.bn2)):
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            weight = convolution.weight * scale[:, None, None, None]
            parts += [weight.contiguous(memory_format=torch.channels_last), norm.bias - norm.running_mean * scale]
        self.folded = nn.ParameterList(parts)

    def run_stem(self, images: Tensor) -> Tensor:
        """Stem and first stage: (B, 3, H', W') -> (B, C, H' / 4, W' / 4)."""
        if self.folded is None:
            return self.stem(images)  # type: ignore[no-any-return]
        stem, stem_bias, first, first_bias, second, second_bias = self.folded
        x = F.relu_(F.max_pool2d(F.conv2d(images, stem, stem_bias, stride=2, padding=3), 3, stride=2, padding=1))
        y = F.relu_(F.conv2d(x, first, first_bias, padding=1))
        return F.relu_(F.conv2d(y, second, second_bias, padding=1).add_(x))

    def restore(self, state: dict[str, Tensor]) -> None:
        """Load a state of any stage."""
        if "folded.0" in state and self.folded is None:
            self.fold_stem()
        self.load_state_dict(state)

    @torch.no_grad()
    def calibrate_stem(self, images: Tensor) -> None:
        """Scale the first convolution so that its output has unit variance and zero mean, as batch norm would."""
        convolution = self.stem.conv1
        out = convolution(images)
        deviation, mean = torch.std_mean(out, dim=(0, 2, 3))
        convolution.weight /= deviation[:, None, None, None]
        self.stem.bn1.bias.copy_(-mean / deviation)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """images (B, 3, H', W') -> memory (B, h * w, D), positions (1, h * w, D), (h, w)."""
        memory, _, grid_hw = self.encode_all(images)
        return memory, self.model.backbone[1](grid_hw, memory.device), grid_hw

    def encode_all(self, images: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """images (B, 3, H', W') -> memory (B, h * w, D), features before the encoder (B, h * w, C), (h, w)."""
        model = self.model
        features = self.stages(self.run_stem(images))
        grid_hw = (features.shape[2], features.shape[3])
        tokens = model.input_proj(features).flatten(2).transpose(1, 2).contiguous()
        pos = model.backbone[1](grid_hw, tokens.device)
        for layer in model.transformer.encoder.blocks():
            tokens = layer(tokens, layer.position_terms(pos))
        return tokens, features.flatten(2).transpose(1, 2), grid_hw

    def read_cells(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """memory (B, S, D) -> logits (B, S, K + 1), boxes_cxcywh (B, S, 4): what every cell says of its object."""
        memory = self.model.transformer.decoder.norm(memory)
        return self.cell_class(memory), self.cell_box(memory).sigmoid()

    def set_anchors(self) -> Tensor:
        """Anchors of the sets that `forward` returns (L * G, Q, 2)."""
        return self.anchors.view(self.num_groups, -1, 2).repeat(self.model.config.decoder_layers, 1, 1)

    @property
    def queries(self) -> Tensor:
        """Query embeddings of all groups (G * Q, D)."""
        return torch.cat([self.model.query_embed.weight, self.more_queries])

    def decode_layer(self, index: int, x: Tensor | None, memory: Tensor, pos: Tensor) -> Tensor:
        """One decoder layer on all groups at once: x (B, G * Q, D), None before the first -> (B, G * Q, D)."""
        layer, queries = self.model.transformer.decoder.blocks()[index], self.queries
        batch, groups, width = len(memory), self.num_groups, queries.shape[1]
        self_terms = layer.self_attn.position_terms(queries.view(groups, -1, width))  # (G, Q, 3 D)
        if x is None:
            # Nothing of the image is in the first self-attention: once for all scenes.
            zeros = torch.zeros_like(queries).view(groups, -1, width)
            x = layer.norm1(layer.self_attn(zeros, self_terms)[0]).view(1, -1, width).expand(batch, -1, -1)
        else:
            grouped = x.reshape(batch * groups, -1, width)
            mixed = layer.self_attn(grouped, self_terms.repeat(batch, 1, 1))[0]
            x = layer.norm1(grouped + mixed).view(batch, -1, width)
        cross_terms = layer.multihead_attn.position_terms(queries[None], pos)
        x = layer.norm2(x + layer.multihead_attn(x, memory, cross_terms)[0])
        return cast(Tensor, layer.norm3(x + layer.feed_forward(x)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[int, int]]:
        """images (B, 3, H', W') -> logits (L * G, B, Q, K + 1) and boxes_cxcywh (L * G, B, Q, 4) of all layers and
        groups, cell logits and boxes as from `read_cells`, (h, w)."""
        memory, pos, grid_hw = self.encode(images)
        return *self.decode(memory, pos), *self.read_cells(memory), grid_hw

    def decode(self, memory: Tensor, pos: Tensor) -> tuple[Tensor, Tensor]:
        """memory (B, S, D), positions (1, S, D) -> logits and boxes of all layers and groups as from `forward`."""
        x, states = None, []
        for index in range(self.model.config.decoder_layers):
            x = self.decode_layer(index, x, memory, pos)
            states.append(x)
        logits, boxes = self.model.heads(torch.stack(states))  # (L, B, G * Q, .)
        split = (self.num_groups, self.model.config.num_queries)
        logits, boxes = (y.unflatten(2, split).transpose(1, 2).flatten(0, 1) for y in (logits, boxes))
        return logits, boxes

    def export(self) -> Detr:
        """The plain model with frozen batch norm that computes the same."""
        state = dict(self.model.state_dict())
        body = "backbone.0.body."
        for index, stage in enumerate(self.stages):
            state |= {f"{body}layer{index + 2}.{name}": value for name, value in stage.state_dict().items()}
        if self.folded is None:
            raise ValueError("the stem is folded before the model is exported: call fold_stem")
        names = (("conv1", "bn1"), ("layer1.0.conv1", "layer1.0.bn1"), ("layer1.0.conv2", "layer1.0.bn2"))
        for (convolution, norm), weight, bias in zip(names, self.folded[::2], self.folded[1::2], strict=True):
            state |= {f"{body}{convolution}.weight": weight, f"{body}{norm}.bias": bias}
            state |= {f"{body}{norm}.{name}": torch.ones_like(bias) for name in ("weight", "running_var")}
            state[f"{body}{norm}.running_var"] -= NORM_EPS
            state[f"{body}{norm}.running_mean"] = torch.zeros_like(bias)
        plain = Detr(self.model.config)
        plain.load_state_dict({name: value for name, value in state.items() if "num_batches" not in name})
        return plain.eval()


def cell_size(grid_hw: tuple[int, int], size_hw: tuple[int, int]) -> tuple[float, float]:
    """Height and width of a cell as fractions of an image ``size_hw`` pixels large; the last cells may hang over."""
    stride = math.ceil(size_hw[0] / grid_hw[0] / 16) * 16
    return stride / size_hw[0], stride / size_hw[1]


def cells_of(targets: Targets, grid_hw: tuple[int, int], size_hw: tuple[int, int] = SIZE_HW) -> Tensor:
    """`cell_targets` for images ``size_hw`` pixels large."""
    return cell_targets(targets, grid_hw, cell_size(grid_hw, size_hw))


def anchor_points(num_queries: int, num_groups: int) -> Tensor:
    """A grid of points, x and y as fractions, for the queries of every group (G * Q, 2); later groups a little off."""
    rows = max(1, round(math.sqrt(num_queries * 2 / 3)))
    columns = math.ceil(num_queries / rows)
    grid = torch.cartesian_prod((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns).flip(1)
    points = grid[:num_queries].repeat(num_groups, 1)
    dice = torch.Generator().manual_seed(0)
    points[num_queries:] += (torch.rand(points[num_queries:].shape, generator=dice) - 0.5) * 0.1
    return points
