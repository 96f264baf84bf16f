"""DETR: backbone, transformer, heads (Carion et al. 2020), and the notebook's smaller variant.

`Detr` is the model of the published checkpoints, of Hugging Face's DETR and Table Transformer and of the embedded
``tiny``; `DetrDemo` is the 50-line model of the DETR notebook. Both map normalised images to a `DetrOutput`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from stream_detr.models.backbone import Backbone, LearnedPositions, SinePositions, grid_of_embeddings
from stream_detr.models.fuse import fuse_backbone
from stream_detr.models.transformer import Attention, PositionTerms, Transformer


@dataclass(frozen=True, slots=True)
class DetrConfig:
    """The shape of a model; defaults are the published ``detr_resnet50``.

    ``num_classes`` (K) leaves the no-object class out. ``depths`` are blocks per ResNet stage.
    """

    block: str = "bottleneck"
    depths: tuple[int, ...] = (3, 4, 6, 3)
    dilation: bool = False
    num_classes: int = 91
    num_queries: int = 100
    hidden_dim: int = 256
    num_heads: int = 8
    encoder_layers: int = 6
    decoder_layers: int = 6
    feedforward_dim: int = 2048
    pre_norm: bool = False
    positions: str = "sine"


@dataclass(frozen=True)
class DetrOutput:
    """``logits`` (B, Q, K + 1), the last class is "no object"; ``boxes_cxcywh`` (B, Q, 4) in [0, 1]; ``grid_hw`` and
    ``stride``: the feature grid and its cells' size in model pixels.

    ``output["pred_logits"]`` and ``output["pred_boxes"]`` read as in the paper's code.
    """

    logits: Tensor
    boxes_cxcywh: Tensor
    grid_hw: tuple[int, int]
    stride: int

    def __getitem__(self, key: str) -> Tensor:
        return {"pred_logits": self.logits, "pred_boxes": self.boxes_cxcywh}[key]


class BoxHead(nn.Module):
    """Three linear layers with ReLU between them, as in the paper."""

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(hidden_dim, hidden_dim), nn.Linear(hidden_dim, hidden_dim), nn.Linear(hidden_dim, 4)]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., 4), before the sigmoid."""
        for layer in list(self.layers)[:-1]:
            x = layer(x).relu_()
        return self.layers[-1](x)


class DetectionTransformer(nn.Module, ABC):
    """What the two variants share: preparing for inference, cached positional terms, the weights switch."""

    config: DetrConfig
    transformer: Transformer
    _terms: dict[tuple[int, int], PositionTerms] | None = None

    @abstractmethod
    def fuse(self) -> None:
        """Replace the backbone by its inference-only twin."""

    @abstractmethod
    def head_modules(self) -> list[nn.Module]:
        """The class and box heads."""

    @abstractmethod
    def project_positions(self, grid_hw: tuple[int, int], like: Tensor) -> PositionTerms:
        """Positional terms of all layers for an (h, w) grid, in the dtype and on the device of ``like``."""

    def position_terms(self, grid_hw: tuple[int, int], like: Tensor) -> PositionTerms:
        """`project_positions`, computed once a grid size after `prepare`."""
        if self._terms is None or torch.compiler.is_compiling():
            return self.project_positions(grid_hw, like)
        # One size per stream is the rule; a folder of images must not fill the memory with terms: the two sizes that
        # were used last are kept, some 100 MB each for the largest models.
        terms = self._terms.pop(grid_hw, None) or self.project_positions(grid_hw, like)
        if len(self._terms) >= 2:
            self._terms.pop(next(iter(self._terms)))
        self._terms[grid_hw] = terms
        return terms

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        """Make ready for inference, once and for good: backbone fused, weights moved, positional terms kept.

        The decoder's last norm and the heads stay in float32: most of the box error of half precision is the rounding
        of their outputs, and they cost next to nothing.
        """
        if self._terms is not None:
            raise RuntimeError("this model is prepared already: load it again to prepare it otherwise")
        self.fuse()
        exact = nn.ModuleList([self.transformer.decoder.norm, *self.head_modules()])
        weights = {name: tensor.clone() for name, tensor in exact.state_dict().items()}
        self.to(device, dtype)
        exact.float().load_state_dict(weights)
        self.eval().requires_grad_(False)
        self._terms = {}

    def return_attention_weights(self, enabled: bool = True) -> None:
        """Let every attention module return its full head-averaged weights as ``output[1]``, for forward hooks as in
        the DETR notebook. Off by default: full weights cost time and memory that `stream_detr.attention` does not."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.return_weights = enabled


class Detr(DetectionTransformer):
    """The published model.

    Args:
        config: the model's shape.
        norm_layer: `nn.BatchNorm2d` to train the backbone from scratch.
    """

    def __init__(self, config: DetrConfig, norm_layer: type[nn.Module] = FrozenBatchNorm2d) -> None:
        super().__init__()
        self.config = config
        backbone = Backbone(config.block, config.depths, config.dilation, norm_layer)
        positions = {"sine": SinePositions, "learned": LearnedPositions}[config.positions](config.hidden_dim)
        self.backbone = nn.Sequential(backbone, positions)  # the checkpoints' layout; index 0 is what hooks take
        self.input_proj = nn.Conv2d(backbone.num_channels, config.hidden_dim, kernel_size=1)
        self.query_embed = nn.Embedding(config.num_queries, config.hidden_dim)
        self.transformer = Transformer(
            config.hidden_dim,
            config.num_heads,
            config.encoder_layers,
            config.decoder_layers,
            config.feedforward_dim,
            config.pre_norm,
        )
        self.class_embed = nn.Linear(config.hidden_dim, config.num_classes + 1)
        self.bbox_embed = BoxHead(config.hidden_dim)

    @property
    def features(self) -> Backbone:
        """The backbone without the positions."""
        return cast(Backbone, self.backbone[0])

    def fuse(self) -> None:
        self.features.body = fuse_backbone(self.features.body)

    def head_modules(self) -> list[nn.Module]:
        return [self.class_embed, self.bbox_embed]

    def project_positions(self, grid_hw: tuple[int, int], like: Tensor) -> PositionTerms:
        pos = self.backbone[1](grid_hw, like.device).to(like.dtype)
        return self.transformer.position_terms(pos, self.query_embed.weight[None].to(like.dtype))

    def encode(self, images: Tensor) -> tuple[Tensor, tuple[int, int], PositionTerms]:
        """images (B, 3, H', W') -> memory (B, h * w, D), the grid's (h, w), positional terms."""
        features = self.features(images.to(self.input_proj.weight.dtype))["0"].tensors  # (B, C, h, w)
        grid_hw = (features.shape[2], features.shape[3])
        tokens = self.input_proj(features).flatten(2).transpose(1, 2)  # (B, h * w, D)
        terms = self.position_terms(grid_hw, tokens)
        return self.transformer.encode(tokens, terms), grid_hw, terms

    def heads(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Decoder states (..., Q, D) -> logits (..., Q, K + 1), boxes_cxcywh (..., Q, 4)."""
        states = self.transformer.decoder.read(states)
        return self.class_embed(states), self.bbox_embed(states).sigmoid()

    def decode_all(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions of every decoder layer, for auxiliary losses: logits (L, B, Q, K + 1), boxes (L, B, Q, 4)."""
        memory, _, terms = self.encode(images)
        queries = memory.new_zeros(len(memory), *self.query_embed.weight.shape)
        return self.heads(torch.stack(self.transformer.decode(queries, memory, terms)))

    def forward(self, images: Tensor) -> DetrOutput:
        """images (B, 3, H', W'), normalised with ImageNet statistics -> `DetrOutput`."""
        memory, grid_hw, terms = self.encode(images)
        queries = memory.new_zeros(len(memory), *self.query_embed.weight.shape)
        logits, boxes = self.heads(self.transformer.decode(queries, memory, terms)[-1])
        return DetrOutput(logits, boxes, grid_hw, self.features.stride)


class DetrDemo(DetectionTransformer):
    """The notebook's model: `nn.Transformer`'s layout, learned positions added to the input once, one linear box head.

    Its ResNet is torchvision's own (`nn.BatchNorm2d` in the checkpoint, frozen here, which is the same in inference).
    """

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.config = config
        backbone = Backbone(config.block, config.depths, config.dilation)
        self.stride = backbone.stride
        self.backbone = backbone.body
        self.conv = nn.Conv2d(backbone.num_channels, config.hidden_dim, kernel_size=1)
        self.transformer = Transformer(
            config.hidden_dim,
            config.num_heads,
            config.encoder_layers,
            config.decoder_layers,
            config.feedforward_dim,
            encoder_norm=True,
        )
        self.linear_class = nn.Linear(config.hidden_dim, config.num_classes + 1)
        self.linear_bbox = nn.Linear(config.hidden_dim, 4)
        self.query_pos = nn.Parameter(torch.rand(config.num_queries, config.hidden_dim))
        self.row_embed = nn.Parameter(torch.rand(50, config.hidden_dim // 2))
        self.col_embed = nn.Parameter(torch.rand(50, config.hidden_dim // 2))

    def fuse(self) -> None:
        self.backbone = fuse_backbone(self.backbone)

    def head_modules(self) -> list[nn.Module]:
        return [self.linear_class, self.linear_bbox]

    def project_positions(self, grid_hw: tuple[int, int], like: Tensor) -> PositionTerms:
        return self.transformer.position_terms(None, None)

    def forward(self, images: Tensor) -> DetrOutput:
        """images (B, 3, H', W'), normalised with ImageNet statistics -> `DetrOutput`."""
        features = self.conv(self.backbone(images.to(self.conv.weight.dtype)))  # (B, D, h, w)
        grid_hw = (features.shape[2], features.shape[3])
        tokens = features.flatten(2).transpose(1, 2)  # (B, h * w, D)
        terms = self.position_terms(grid_hw, tokens)
        memory = self.transformer.encode(
            grid_of_embeddings(self.col_embed, self.row_embed, grid_hw) + 0.1 * tokens, terms
        )
        queries = self.query_pos.expand(len(images), -1, -1).to(memory.dtype)
        states = self.transformer.decoder.read(self.transformer.decode(queries, memory, terms)[-1])
        return DetrOutput(self.linear_class(states), self.linear_bbox(states).sigmoid(), grid_hw, self.stride)
