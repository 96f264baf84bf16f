"""DETR's transformer (Carion et al. 2020, section 3.2 and appendix A.3), batch first, one image size per batch.

Module and parameter names are those of the published checkpoints, so these load strictly. The arithmetic differs from
the paper's code in one place: ``W (x + pos) + b`` is computed as ``W x + (W pos + b)``. The bracket does not depend on
the image, so inference keeps it per feature-map size (`Detr.prepare`).

No padding mask is taken anywhere: frames of one model-space size make a batch.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DecoderTerms = tuple[Tensor, tuple[Tensor, Tensor]]  # of self-attention; of cross-attention's q and its k, v


class Attention(nn.Module):
    """Multi-head attention with `nn.MultiheadAttention`'s parameters and fused attention kernels on every layer.

    Two switches, both plain attributes so that ``torch.compile`` guards on them (it ignores forward hooks that are
    registered after its first call):

    * ``keep_projections``: the next forward leaves ``projections = (q (B, M, Lq, d), k (B, M, Lk, d))`` behind, from
      which any row of the weights can be computed (`stream_detr.attention`). It costs nothing: they exist anyway.
    * ``return_weights``: forward returns the full head-averaged weights (B, Lq, Lk) as second value, so that a forward
      hook reads ``output[1]`` as on `nn.MultiheadAttention`. Slow and large; see `Detr.return_attention_weights`.
    """

    def __init__(self, hidden_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * hidden_dim, hidden_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * hidden_dim))
        self.out_proj = nn.Linear(hidden_dim, hidden_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)
        self.keep_projections = False
        self.return_weights = False
        self.projections: tuple[Tensor, Tensor] | None = None

    def position_term(self, pos: Tensor | None, part: slice) -> Tensor:
        """The image-independent summand of a projection: ``W pos + b``, without ``W pos`` where ``pos`` is None.

        Args:
            pos: (1, L, D) positional or query embedding.
            part: rows of the packed projection (q is [0, D), k is [D, 2 D), v is [2 D, 3 D)).

        Returns:
            (1, L, rows), or (rows,) without ``pos``.
        """
        bias = self.in_proj_bias[part]
        return bias if pos is None else F.linear(pos, self.in_proj_weight[part], bias)

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, M, L, d)."""
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        """Attention over projected inputs (B, L, D).

        Returns:
            output (B, Lq, D) and, with ``return_weights``, the head-averaged weights (B, Lq, Lk), otherwise None.
        """
        q, k, v = self.split_heads(q), self.split_heads(k), self.split_heads(v)  # (B, M, L, d)
        if self.keep_projections:
            self.projections = (q, k)
        weights = None
        if self.return_weights:
            scores = q.float() @ k.float().transpose(-2, -1) * q.shape[-1] ** -0.5
            attention = scores.softmax(-1)  # (B, M, Lq, Lk) float32, whatever the model's precision
            mixed, weights = attention.to(v.dtype) @ v, attention.mean(1)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), weights


class SelfAttention(Attention):
    """Attention of a sequence to itself; the positional embedding goes into q and k, not into v."""

    def position_terms(self, pos: Tensor | None) -> Tensor:
        """Summand of the packed q, k, v projection: (1, L, 3 D), or (3 D,) without ``pos``."""
        width = self.out_proj.in_features
        if pos is None:
            return self.in_proj_bias
        qk = self.position_term(pos, slice(0, 2 * width))
        return torch.cat([qk, self.in_proj_bias[2 * width :].expand(*qk.shape[:-1], width)], dim=-1)

    def forward(self, x: Tensor, terms: Tensor) -> tuple[Tensor, Tensor | None]:
        """x (B, L, D), terms from `position_terms` -> output (B, L, D), weights (B, L, L) or None."""
        q, k, v = (F.linear(x, self.in_proj_weight) + terms).chunk(3, dim=-1)
        return self.attend(q, k, v)


class CrossAttention(Attention):
    """Attention of the queries to the memory; query embeddings go into q, positions into k."""

    def position_terms(self, query_pos: Tensor | None, pos: Tensor | None) -> tuple[Tensor, Tensor]:
        """Summands of the q projection (1, Q, D) and of the packed k, v projection (1, S, 2 D) or (2 D,)."""
        width = self.out_proj.in_features
        q_term = self.position_term(query_pos, slice(0, width))
        if pos is None:
            return q_term, self.in_proj_bias[width:]
        k_term = self.position_term(pos, slice(width, 2 * width))
        v_term = self.in_proj_bias[2 * width :].expand(*k_term.shape[:-1], width)
        return q_term, torch.cat([k_term, v_term], dim=-1)

    def forward(self, x: Tensor, memory: Tensor, terms: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
        """x (B, Q, D), memory (B, S, D) -> output (B, Q, D), weights (B, Q, S) or None."""
        width = x.shape[-1]
        q = F.linear(x, self.in_proj_weight[:width]) + terms[0]
        k, v = (F.linear(memory, self.in_proj_weight[width:]) + terms[1]).chunk(2, dim=-1)
        return self.attend(q, k, v)


class FeedForward(nn.Module):
    """The two linear layers of a transformer layer; a mixin, so that their names are the checkpoint's."""

    linear1: nn.Linear
    linear2: nn.Linear

    def feed_forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        return self.linear2(F.relu_(self.linear1(x)))


class EncoderLayer(FeedForward):
    """Self-attention and feed-forward with residuals; layer norm after each (original) or before (pre-norm)."""

    def __init__(self, hidden_dim: int, num_heads: int, feedforward_dim: int, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = SelfAttention(hidden_dim, num_heads)
        self.linear1 = nn.Linear(hidden_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, hidden_dim)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)

    def position_terms(self, pos: Tensor | None) -> Tensor:
        """Positions (1, S, D) -> the summand of the self-attention's projections."""
        return self.self_attn.position_terms(pos)

    def forward(self, x: Tensor, terms: Tensor) -> Tensor:
        """x (B, S, D) -> (B, S, D)."""
        if self.pre_norm:
            x = x + self.self_attn(self.norm1(x), terms)[0]
            return x + self.feed_forward(self.norm2(x))
        x = self.norm1(x + self.self_attn(x, terms)[0])
        return self.norm2(x + self.feed_forward(x))


class DecoderLayer(FeedForward):
    """Self-attention between queries, cross-attention to the memory, feed-forward."""

    def __init__(self, hidden_dim: int, num_heads: int, feedforward_dim: int, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = SelfAttention(hidden_dim, num_heads)
        self.multihead_attn = CrossAttention(hidden_dim, num_heads)
        self.linear1 = nn.Linear(hidden_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, hidden_dim)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.norm3 = nn.LayerNorm(hidden_dim)

    def position_terms(self, query_pos: Tensor | None, pos: Tensor | None) -> DecoderTerms:
        """Query embeddings (1, Q, D) and positions (1, S, D) -> the summands of both attentions' projections."""
        return self.self_attn.position_terms(query_pos), self.multihead_attn.position_terms(query_pos, pos)

    def forward(self, x: Tensor, memory: Tensor, terms: DecoderTerms) -> Tensor:
        """x (B, Q, D), memory (B, S, D) -> (B, Q, D)."""
        self_terms, cross_terms = terms
        if self.pre_norm:
            x = x + self.self_attn(self.norm1(x), self_terms)[0]
            x = x + self.multihead_attn(self.norm2(x), memory, cross_terms)[0]
            return x + self.feed_forward(self.norm3(x))
        x = self.norm1(x + self.self_attn(x, self_terms)[0])
        x = self.norm2(x + self.multihead_attn(x, memory, cross_terms)[0])
        return self.norm3(x + self.feed_forward(x))


class Encoder(nn.Module):
    """The stack of encoder layers, with a last norm where the checkpoint has one."""

    def __init__(self, layers: list[EncoderLayer], norm: nn.LayerNorm | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def blocks(self) -> list[EncoderLayer]:
        """The layers, typed."""
        return cast(list[EncoderLayer], list(self.layers))


class Decoder(nn.Module):
    """The stack of decoder layers and the norm that its states pass on the way to the heads."""

    def __init__(self, layers: list[DecoderLayer], norm: nn.LayerNorm) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def blocks(self) -> list[DecoderLayer]:
        """The layers, typed."""
        return cast(list[DecoderLayer], list(self.layers))

    def read(self, x: Tensor) -> Tensor:
        """What the heads see of a decoder state, in the norm's own precision.

        Half precision spoils boxes mostly in the last rounding, so this norm and the heads may be kept in float32.
        """
        return self.norm(x.to(self.norm.weight.dtype))


class PositionTerms(NamedTuple):
    """Everything a forward needs that does not depend on the image, for one feature-map size."""

    encoder: list[Tensor]
    decoder: list[DecoderTerms]


class Transformer(nn.Module):
    """Encoder and decoder.

    Args:
        encoder_norm: whether the encoder ends in a norm. None = with pre-norm only, as in the paper's code;
            `nn.Transformer` (and so the notebook's model) always has one.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        encoder_layers: int,
        decoder_layers: int,
        feedforward_dim: int,
        pre_norm: bool = False,
        encoder_norm: bool | None = None,
    ) -> None:
        super().__init__()
        shape = (hidden_dim, num_heads, feedforward_dim, pre_norm)
        has_norm = pre_norm if encoder_norm is None else encoder_norm
        self.encoder = Encoder(
            [EncoderLayer(*shape) for _ in range(encoder_layers)],
            nn.LayerNorm(hidden_dim) if has_norm else None,
        )
        self.decoder = Decoder([DecoderLayer(*shape) for _ in range(decoder_layers)], nn.LayerNorm(hidden_dim))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def position_terms(self, pos: Tensor | None, query_pos: Tensor | None) -> PositionTerms:
        """Project positions ``pos`` (1, S, D) and query embeddings ``query_pos`` (1, Q, D) for every layer."""
        return PositionTerms(
            [layer.position_terms(pos) for layer in self.encoder.blocks()],
            [layer.position_terms(query_pos, pos) for layer in self.decoder.blocks()],
        )

    def encode(self, tokens: Tensor, terms: PositionTerms) -> Tensor:
        """Image tokens (B, S, D) -> memory (B, S, D)."""
        for layer, term in zip(self.encoder.blocks(), terms.encoder, strict=True):
            tokens = layer(tokens, term)
        return tokens if self.encoder.norm is None else self.encoder.norm(tokens)

    def decode(self, queries: Tensor, memory: Tensor, terms: PositionTerms) -> list[Tensor]:
        """Initial queries (B, Q, D) and memory (B, S, D) -> the state after every layer, L of (B, Q, D), not yet
        through the decoder's norm."""
        states = []
        for layer, term in zip(self.decoder.blocks(), terms.decoder, strict=True):
            queries = layer(queries, memory, term)
            states.append(queries)
        return states
