"""Attention weights of chosen rows only, from the projections that the forward computed anyway.

The forward keeps fused attention kernels, which never form the weights. `record` asks chosen attention modules to leave
their projected queries and keys behind; the functions here turn those into the rows (or columns) that are drawn, on
the device, in float32. This equals the full weights (tested) at 1 % of the forward's cost or less.

The hook is a switch built into the attention module rather than ``register_forward_hook``, because ``torch.compile``
silently ignores hooks that are registered after its first call, while it guards on a module's attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from stream_detr.errors import CaptureError

Projections = tuple[Tensor, Tensor]  # q (B, M, Lq, d), k (B, M, Lk, d)
Head = int | str  # "mean", "max" or a head's number


class Recordable(Protocol):
    """An attention module with the built-in hook (`stream_detr.models.transformer.Attention`)."""

    keep_projections: bool
    projections: Projections | None


class Recording:
    """What the modules left behind in one forward."""

    def __init__(self, modules: Sequence[Recordable]) -> None:
        self._modules = modules

    def take(self) -> list[Projections]:
        """Projections of each module, in order; taken once.

        Raises:
            CaptureError: a module did not run since the recording began or since the last `take`.
        """
        taken = []
        for number, module in enumerate(self._modules):
            if module.projections is None:
                raise CaptureError(
                    f"attention module {number + 1} of {len(self._modules)} recorded nothing: "
                    "run the model inside `with record(...)`, and take the recording once per forward"
                )
            taken.append(module.projections)
            module.projections = None
        return taken


@contextmanager
def record(modules: Sequence[Recordable]) -> Iterator[Recording]:
    """Record ``modules`` while the context is open; afterwards they are as before.

    >>> from stream_detr.models.transformer import SelfAttention
    >>> attention = SelfAttention(8, 2)
    >>> with record([attention]) as recording:
    ...     _ = attention(torch.zeros(1, 5, 8), attention.position_terms(None))
    ...     [(q, k)] = recording.take()
    >>> q.shape, attention.keep_projections
    (torch.Size([1, 2, 5, 4]), False)
    """
    for module in modules:
        module.keep_projections, module.projections = True, None
    try:
        yield Recording(modules)
    finally:
        for module in modules:
            module.keep_projections, module.projections = False, None


def select_layers(num_layers: int, layers: int | Sequence[int] | str) -> list[int]:
    """Layer numbers for ``layers``: a number (negative counts from the end), several, or "all".

    Raises:
        ValueError: there is no such layer.

    >>> select_layers(6, -1), select_layers(3, "all"), select_layers(6, [0, -2])
    ([5], [0, 1, 2], [0, 4])
    """
    chosen = range(num_layers) if layers == "all" else [layers] if isinstance(layers, int) else layers
    if not chosen:
        raise ValueError("no layer is named: give a number, several, or all")
    for layer in chosen:
        if not isinstance(layer, int) or not -num_layers <= layer < num_layers:
            raise ValueError(f"layer {layer} does not exist: this model has layers 0 to {num_layers - 1}")
    return list(dict.fromkeys(layer % num_layers for layer in chosen if isinstance(layer, int)))


def gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Rows (B, n) of x (B, M, L, d) -> (B, M, n, d)."""
    return x.gather(2, rows[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))


def weights_of_rows(projections: Projections, rows: Tensor) -> Tensor:
    """Attention weights of the query rows ``rows`` (B, n) int64 over all keys -> (B, M, n, Lk) float32."""
    q, k = projections
    # Scores reach a thousand and more, where bf16 steps by 8: not even their rounding is left to the model's precision.
    scores = gather_rows(q, rows).float() @ k.float().transpose(-2, -1)
    return torch.softmax(scores * q.shape[-1] ** -0.5, dim=-1)


def weights_of_columns(projections: Projections, columns: Tensor, chunk: int = 1024) -> Tensor:
    """How much every query row gives to the keys ``columns`` (B, n) int64 -> (B, M, n, Lq) float32.

    Each row's softmax needs all of its keys, so the full scores are formed, ``chunk`` rows at a time.
    """
    q, k = (each.float() for each in projections)
    scale = q.shape[-1] ** -0.5
    chosen = gather_rows(k, columns)
    parts = []
    for some in q.split(chunk, dim=2):
        total = (some @ k.transpose(-2, -1)).mul_(scale).logsumexp(-1, keepdim=True)  # (B, M, chunk, 1)
        parts.append(((some @ chosen.transpose(-2, -1)) * scale - total).exp())
    return torch.cat(parts, dim=2).transpose(-2, -1)


def merge_heads(weights: Tensor, head: Head) -> Tensor:
    """(B, M, n, L) -> (B, n, L): "mean" over heads, "max" over heads (made to sum to 1 again), or one head.

    Raises:
        ValueError: there is no such head.
    """
    if head == "mean":
        return weights.mean(1)
    if head == "max":
        strongest = weights.amax(1)
        return strongest / strongest.sum(-1, keepdim=True)
    if not isinstance(head, int) or not 0 <= head < weights.shape[1]:
        raise ValueError(f"head {head} does not exist: this model has heads 0 to {weights.shape[1] - 1}")
    return weights[:, head]


def attention_rows(taken: Sequence[Projections], rows: Tensor, head: Head) -> Tensor:
    """Weights of query rows (B, n), averaged over the recorded layers -> (B, n, Lk) float32, each sums to 1."""
    return torch.stack([merge_heads(weights_of_rows(layer, rows), head) for layer in taken]).mean(0)


def attention_columns(taken: Sequence[Projections], columns: Tensor, head: Head) -> Tensor:
    """Weights that all rows give to key columns (B, n), averaged over the recorded layers -> (B, n, Lq) float32.

    With ``head="max"`` the strongest head counts, unnormalised: a column is not a distribution.
    """
    merged = []
    for layer in taken:
        weights = weights_of_columns(layer, columns)
        merged.append(weights.amax(1) if head == "max" else merge_heads(weights, head))
    return torch.stack(merged).mean(0)
