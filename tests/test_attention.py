"""The rows of attention that are drawn equal the full weights of nn.MultiheadAttention."""

from __future__ import annotations

import pytest
import torch
from small import SMALL
from torch import Tensor, nn

from stream_detr.attention import (
    attention_columns,
    attention_rows,
    merge_heads,
    record,
    select_layers,
    weights_of_columns,
    weights_of_rows,
)
from stream_detr.errors import CaptureError
from stream_detr.models.detr import Detr
from stream_detr.models.transformer import CrossAttention, SelfAttention

WIDTH, HEADS = 64, 8


def twins(
    kind: type[SelfAttention] | type[CrossAttention],
) -> tuple[SelfAttention | CrossAttention, nn.MultiheadAttention]:
    """Our module and torch's with the same weights."""
    torch.manual_seed(3)
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()
    ours = kind(WIDTH, HEADS)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@torch.no_grad()
def test_rows_and_columns_equal_the_full_weights_per_head() -> None:
    ours, theirs = twins(SelfAttention)
    x, pos = 3 * torch.randn(2, 30, WIDTH), torch.randn(1, 30, WIDTH)
    expected, full = theirs(x + pos, x + pos, x, average_attn_weights=False)  # full (B, M, L, L)
    with record([ours]) as recording:
        output, weights = ours(x, ours.position_terms(pos))
        [projections] = recording.take()
    assert weights is None
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)
    rows = torch.tensor([[4, 29, 0], [7, 7, 12]])
    for image in range(2):
        torch.testing.assert_close(
            weights_of_rows(projections, rows)[image], full[image][:, rows[image]], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            weights_of_columns(projections, rows, chunk=11)[image],
            full[image][:, :, rows[image]].transpose(-2, -1),
            atol=1e-5,
            rtol=0,
        )


@torch.no_grad()
def test_cross_attention_rows_equal_the_full_weights() -> None:
    ours, theirs = twins(CrossAttention)
    queries, query_pos = torch.randn(2, 7, WIDTH), torch.randn(1, 7, WIDTH)
    memory, pos = torch.randn(2, 40, WIDTH), torch.randn(1, 40, WIDTH)
    expected, full = theirs(queries + query_pos, memory + pos, memory)  # full (B, Q, S), head mean
    with record([ours]) as recording:
        output, _ = ours(queries, memory, ours.position_terms(query_pos, pos))
        taken = recording.take()
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)
    rows = torch.arange(7).expand(2, -1)
    torch.testing.assert_close(attention_rows(taken, rows, "mean"), full, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_query_that_matches_one_key_looks_there_and_nowhere_else() -> None:
    """The known answer: with identity projections the row of a query is the softmax of its similarities."""
    attention = CrossAttention(4, 1)
    attention.in_proj_weight.copy_(torch.eye(4).repeat(3, 1))
    attention.in_proj_bias.zero_()
    memory = torch.eye(4)[None]  # four keys, one per axis
    query = torch.tensor([[[0.0, 0.0, 50.0, 0.0]]])
    with record([attention]) as recording:
        attention(query, memory, attention.position_terms(None, None))
        row = attention_rows(recording.take(), torch.zeros(1, 1, dtype=torch.int64), "mean")
    assert row[0, 0].argmax() == 2
    assert row[0, 0, 2] > 0.999


@torch.no_grad()
def test_the_switch_returns_the_weights_a_notebook_hook_reads() -> None:
    ours, theirs = twins(SelfAttention)
    x = torch.randn(1, 12, WIDTH)
    ours.return_weights = True
    output, weights = ours(x, ours.position_terms(None))
    expected, full = theirs(x, x, x)
    torch.testing.assert_close(weights, full, atol=1e-6, rtol=0)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)


def test_heads_are_averaged_maximised_or_picked() -> None:
    weights = torch.tensor([[[[0.25, 0.75]], [[0.75, 0.25]]]])  # (B=1, M=2, n=1, L=2)
    assert merge_heads(weights, "mean").tolist() == [[[0.5, 0.5]]]
    assert merge_heads(weights, 1).tolist() == [[[0.75, 0.25]]]
    assert merge_heads(weights, "max").tolist() == [[[0.5, 0.5]]]
    with pytest.raises(ValueError, match="head 2 does not exist: this model has heads 0 to 1"):
        merge_heads(weights, 2)


def test_layers_are_averaged() -> None:
    q, k = torch.randn(2, 1, 2, 5, 4), torch.randn(2, 1, 2, 9, 4)
    rows = torch.tensor([[1, 3]])
    both = attention_rows([(q[0], k[0]), (q[1], k[1])], rows, "mean")
    alone = [attention_rows([(q[i], k[i])], rows, "mean") for i in range(2)]
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)
    torch.testing.assert_close(both.sum(-1), torch.ones(1, 2))
    columns = attention_columns([(q[0], k[0])], torch.tensor([[8]]), "max")
    assert columns.shape == (1, 1, 5)


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="layer 6 does not exist: this model has layers 0 to 5"):
        select_layers(6, [0, 6])
    with pytest.raises(ValueError, match="no layer is named"):
        select_layers(6, [])
    assert select_layers(6, [5, -1]) == [5]  # named twice, recorded once


def tiny_model() -> Detr:
    torch.manual_seed(0)
    return Detr(SMALL).eval()


def test_a_recording_of_nothing_raises_and_never_gives_an_empty_map() -> None:
    model = tiny_model()
    modules = [layer.multihead_attn for layer in model.transformer.decoder.blocks()]
    with record(modules) as recording:
        with pytest.raises(CaptureError, match="attention module 1 of 2 recorded nothing"):
            recording.take()
        model(torch.zeros(1, 3, 64, 64))
        recording.take()
        with pytest.raises(CaptureError, match="recorded nothing"):
            recording.take()


def test_hooks_are_gone_after_use_and_after_an_error() -> None:
    model = tiny_model()
    module = model.transformer.decoder.blocks()[0].multihead_attn

    def interrupted() -> None:
        with record([module]):
            model(torch.zeros(1, 3, 64, 64))
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        interrupted()
    assert not module.keep_projections
    assert module.projections is None
    model(torch.zeros(1, 3, 64, 64))
    assert module.projections is None


def rows_of(model: Detr, run: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad(), record([model.transformer.decoder.blocks()[-1].multihead_attn]) as recording:
        run(images)
        return attention_rows(recording.take(), torch.arange(6).expand(len(images), -1), "mean")


@pytest.mark.parametrize(("prepared", "backend"), [(False, "eager"), (True, "aot_eager")])
def test_a_compiled_model_captures_even_when_it_ran_before(prepared: bool, backend: str) -> None:
    model = tiny_model()
    images = torch.randn(2, 3, 64, 96)
    expected = rows_of(model, model, images)
    if prepared:
        model.prepare(torch.device("cpu"), torch.float32)
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        compiled(images)
    torch.testing.assert_close(rows_of(model, compiled, images), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(rows_of(model, compiled, images.flip(0)), expected.flip(0), atol=1e-5, rtol=0)


def test_bf16_maps_are_float32_and_agree_with_fp32() -> None:
    images = torch.randn(1, 3, 64, 96)
    model = tiny_model()
    expected = rows_of(model, model, images)
    model.prepare(torch.device("cpu"), torch.bfloat16)
    rows = rows_of(model, model, images)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.sum(-1), torch.ones(1, 6))
    assert torch.corrcoef(torch.stack([rows.flatten(), expected.flatten()]))[0, 1] > 0.99
