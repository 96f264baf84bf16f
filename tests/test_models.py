"""The model: prepared equals plain, batches equal single images, and the notebook's hooks find what they expect."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small import SMALL
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from stream_detr.models.backbone import Backbone
from stream_detr.models.detr import DetectionTransformer, Detr, DetrDemo
from stream_detr.models.fuse import FusedConv, fuse_backbone


def randomise_norms(module: nn.Module) -> None:
    """Frozen batch norm starts as the identity, which would hide mistakes in folding."""
    for norm in module.modules():
        if isinstance(norm, FrozenBatchNorm2d):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.1)
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)


def small(kind: type[Detr] | type[DetrDemo], seed: int = 0) -> DetectionTransformer:
    torch.manual_seed(seed)
    model = kind(SMALL).eval()
    randomise_norms(model)
    return model


def outputs(model: DetectionTransformer, images: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        output = model(images)
    return output.logits, output.boxes_cxcywh


@pytest.mark.parametrize("kind", [Detr, DetrDemo])
@pytest.mark.parametrize("size_hw", [(64, 96), (50, 70)])
def test_a_prepared_model_equals_the_plain_one(kind: type[Detr], size_hw: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size_hw)
    model = small(kind)
    expected = outputs(model, images)
    model.prepare(torch.device("cpu"), torch.float32)
    for _ in range(2):  # the second time positional terms are the kept ones
        torch.testing.assert_close(outputs(model, images), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", [Detr, DetrDemo])
def test_a_batch_equals_its_images_one_by_one(kind: type[Detr]) -> None:
    model = small(kind)
    model.prepare(torch.device("cpu"), torch.float32)
    images = torch.randn(3, 3, 64, 96)
    together = outputs(model, images)
    for number in range(3):
        alone = outputs(model, images[number : number + 1])
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[number : number + 1], b, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("block", "dilation"), [("basic", False), ("bottleneck", False), ("bottleneck", True)])
def test_a_fused_backbone_equals_the_plain_one(block: str, dilation: bool) -> None:
    torch.manual_seed(1)
    backbone = Backbone(block, (2, 1, 1, 2), dilation).eval()
    randomise_norms(backbone)
    images = torch.randn(2, 3, 90, 122)
    with torch.no_grad():
        expected = backbone(images)["0"].tensors
        backbone.body = fuse_backbone(backbone.body)
        fused = backbone(images)["0"].tensors
    assert expected.shape[-2:] == tuple(-(-side // backbone.stride) for side in (90, 122))
    assert expected.shape[1] == backbone.num_channels
    torch.testing.assert_close(fused, expected, atol=1e-4 * expected.abs().max().item(), rtol=0)


def test_fused_convolutions_fall_back_to_plain_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU runs, checked without one."""
    conv = FusedConv(nn.Conv2d(3, 8, 3, bias=False), FrozenBatchNorm2d(8), relu=True)
    x, residual = torch.randn(1, 3, 9, 9), torch.randn(1, 8, 7, 7)
    with torch.no_grad():
        expected = conv(x, residual.clone())
        monkeypatch.setattr("stream_detr.models.fuse.has_fused_convolutions", lambda _: False)
        torch.testing.assert_close(conv(x, residual.clone()), expected, atol=1e-5, rtol=0)
    assert (expected == 0).any()


def test_kept_positional_terms_are_bounded() -> None:
    model = small(Detr)
    model.prepare(torch.device("cpu"), torch.float32)
    for side in range(64, 64 + 16 * 12, 16):
        outputs(model, torch.zeros(1, 3, side, 64))
    assert model._terms is not None
    assert len(model._terms) <= 2


def test_the_notebooks_hooks_get_features_and_full_weights() -> None:
    model = small(Detr)
    model.prepare(torch.device("cpu"), torch.float32)
    model.return_attention_weights()
    conv_features, enc_attn_weights, dec_attn_weights = [], [], []
    hooks = [
        model.backbone[-2].register_forward_hook(lambda self, input, output: conv_features.append(output)),
        model.transformer.encoder.layers[-1].self_attn.register_forward_hook(
            lambda self, input, output: enc_attn_weights.append(output[1])
        ),
        model.transformer.decoder.layers[-1].multihead_attn.register_forward_hook(
            lambda self, input, output: dec_attn_weights.append(output[1])
        ),
    ]
    with torch.no_grad():
        result = model(torch.randn(1, 3, 64, 96))
    for hook in hooks:
        hook.remove()
    h, w = conv_features[0]["0"].tensors.shape[-2:]
    assert (h, w) == (4, 6)
    assert dec_attn_weights[0][0, 2].view(h, w).sum().item() == pytest.approx(1)
    assert enc_attn_weights[0][0].reshape(h, w, h, w)[1, 2].sum().item() == pytest.approx(1)
    assert result["pred_logits"].softmax(-1)[0, :, :-1].shape == (6, 3)
    assert result["pred_boxes"].shape == (1, 6, 4)


def test_a_model_is_prepared_once_and_its_heads_stay_exact_in_bf16() -> None:
    model = small(Detr)
    assert isinstance(model, Detr)
    exact = model.class_embed.weight.detach().clone()
    model.prepare(torch.device("cpu"), torch.bfloat16)
    torch.testing.assert_close(model.class_embed.weight, exact, atol=0, rtol=0)
    assert model.transformer.encoder.blocks()[0].linear1.weight.dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="prepared already"):
        model.prepare(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("kind", [Detr, DetrDemo])
def test_weights_for_hooks_are_float32_in_bf16_too(kind: type[Detr]) -> None:
    model = small(kind)
    model.prepare(torch.device("cpu"), torch.bfloat16)
    model.return_attention_weights()
    taken: list[Tensor] = []
    module = model.transformer.decoder.blocks()[-1].multihead_attn
    module.register_forward_hook(lambda self, input, output: taken.append(output[1]))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 96))
    np.testing.assert_allclose(taken[0].numpy().sum(-1), 1, atol=1e-5)


def test_auxiliary_predictions_end_in_the_final_ones() -> None:
    model = small(Detr)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits, boxes = model.decode_all(images)
    assert logits.shape == (2, 2, 6, 4)
    torch.testing.assert_close((logits[-1], boxes[-1]), outputs(model, images), atol=1e-6, rtol=0)


def test_learned_positions_refuse_a_frame_that_needs_more_cells_than_were_learned() -> None:
    model = small(DetrDemo)
    with pytest.raises(ValueError, match="at most 50x50 cells, the frame needs 4x51: choose a smaller --size"):
        model(torch.zeros(1, 3, 64, 816))
