"""The shape of the small model that most tests run."""

from __future__ import annotations

from stream_detr.models.detr import DetrConfig

SMALL = DetrConfig(
    block="basic",
    depths=(1, 1, 1),
    num_classes=3,
    num_queries=6,
    hidden_dim=32,
    num_heads=4,
    encoder_layers=2,
    decoder_layers=2,
    feedforward_dim=32,
)
