"""Which queries are objects (`PostProcess` in detr/models/detr.py, plus the threshold and the class filter)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stream_detr.errors import StreamDetrError


class Kept(NamedTuple):
    """The kept queries of a batch, best first, padded to the fullest image.

    ``counts`` (B,) on the host says how many of the n rows of ``query_ids``, ``class_ids`` (B, n) int64, ``scores``
    (B, n) float32 and ``boxes_cxcywh`` (B, n, 4) float32 count; the rest is padding.
    """

    counts: list[int]
    query_ids: Tensor
    class_ids: Tensor
    scores: Tensor
    boxes_cxcywh: Tensor


def keep_objects(logits: Tensor, boxes_cxcywh: Tensor, threshold: float, class_ids: Tensor | None = None) -> Kept:
    """Keep the queries whose best class scores above ``threshold``; no suppression, DETR needs none.

    Args:
        logits: (B, Q, K + 1), the last class is "no object".
        boxes_cxcywh: (B, Q, 4) in [0, 1].
        threshold: score in [0, 1] that a kept query exceeds.
        class_ids: (C,) int64, the classes to keep; None = all.

    Raises:
        StreamDetrError: the logits are not finite, which half precision can do to a model.
    """
    probabilities = logits.float().softmax(-1)[..., :-1]  # (B, Q, K)
    scores, labels = probabilities.max(-1)  # (B, Q)
    if scores.isnan().any():
        raise StreamDetrError("the model's output is not finite: try --precision fp32")
    if class_ids is not None:
        scores = torch.where(torch.isin(labels, class_ids), scores, -1.0)
    scores, query_ids = scores.sort(dim=-1, descending=True)
    counts: list[int] = (scores > threshold).sum(-1).tolist()
    num = max(counts)
    query_ids = query_ids[:, :num]
    boxes = boxes_cxcywh.float().gather(1, query_ids[..., None].expand(-1, -1, 4))  # (B, n, 4)
    return Kept(counts, query_ids, labels.gather(1, query_ids), scores[:, :num], boxes)
