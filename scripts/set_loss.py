"""Losses of DETR: matching queries to objects, and the same terms on every cell of the feature map (training only)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

L1_WEIGHT, GIOU_WEIGHT = 5.0, 2.0  # the paper's
ANCHOR_WEIGHT = 10.0  # for a distance of the image's height


@dataclass(frozen=True, slots=True)
class Targets:
    """Objects of a batch, padded to T per scene, those in front last: ``boxes_cxcywh`` (B, T, 4) in [0, 1],
    ``class_ids`` (B, T), -1 where there is no object."""

    boxes_cxcywh: Tensor
    class_ids: Tensor

    @property
    def num_objects(self) -> int:
        """Objects in the batch, at least 1."""
        return max(1, int((self.class_ids >= 0).sum()))


def corners(boxes_cxcywh: Tensor) -> Tensor:
    """(..., 4) centre form -> (..., 4) x1, y1, x2, y2.

    >>> corners(torch.tensor([0.5, 0.5, 1.0, 0.5])).tolist()
    [0.0, 0.25, 1.0, 0.75]
    """
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised intersection over union of boxes in centre form, broadcast over leading axes -> (...).

    >>> giou(torch.tensor([0.5, 0.5, 1.0, 1.0]), torch.tensor([0.5, 0.5, 1.0, 0.5])).item()
    0.5
    """
    a_xyxy, b_xyxy = corners(a), corners(b)
    shared = (torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:]) - torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2])).clamp(
        0
    )
    hull = torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:]) - torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2])
    inside = shared[..., 0] * shared[..., 1]
    union = a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - inside
    around = (hull[..., 0] * hull[..., 1]).clamp(min=1e-7)
    return inside / union.clamp(min=1e-7) - (around - union) / around


def box_loss(boxes_cxcywh: Tensor, wanted_cxcywh: Tensor) -> Tensor:
    """Weighted L1 and GIoU terms of paired boxes (N, 4), summed."""
    l1 = (boxes_cxcywh - wanted_cxcywh).abs().sum()
    return L1_WEIGHT * l1 + GIOU_WEIGHT * (1 - giou(boxes_cxcywh, wanted_cxcywh)).sum()


@torch.no_grad()
def match(
    logits: Tensor, boxes_cxcywh: Tensor, targets: Targets, anchors: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Hungarian matching of every set of queries with its scene's objects (paper, section 3.1).

    Args:
        logits: (S, B, Q, K + 1), S sets (layers times query groups) of predictions for each scene.
        boxes_cxcywh: (S, B, Q, 4).
        anchors: (S, Q, 2) x and y of the point that each query stands for. Objects then go to near queries first, which
            settles who of several queries with the same prediction is meant; otherwise that changes from step to step.

    Returns:
        index of the set and scene (as s * B + b), of the query, and of the object, each (matches,).
    """
    num_sets, batch, num_queries = logits.shape[:3]
    class_ids = targets.class_ids.clamp(min=0)[None, :, None].expand(num_sets, -1, num_queries, -1)
    cost = -logits.softmax(-1).gather(-1, class_ids)  # (S, B, Q, T)
    pairs = boxes_cxcywh[..., None, :], targets.boxes_cxcywh[None, :, None]
    cost = cost + L1_WEIGHT * (pairs[0] - pairs[1]).abs().sum(-1) - GIOU_WEIGHT * giou(*pairs)
    if anchors is not None:
        apart = (anchors[:, None, :, None] - targets.boxes_cxcywh[None, :, None, :, :2]) * anchors.new_tensor(
            [1.75, 1.0]
        )
        cost = cost + ANCHOR_WEIGHT * apart.norm(dim=-1)
    table = cost.flatten(0, 1).cpu().numpy()  # (S * B, Q, T)
    counts = (targets.class_ids >= 0).sum(1).tolist()
    sets, queries, objects = [], [], []
    for index, costs in enumerate(table):
        rows, columns = linear_sum_assignment(costs[:, : counts[index % batch]])
        sets += [index] * len(rows)
        queries += rows.tolist()
        objects += columns.tolist()
    device = logits.device
    return (
        torch.tensor(sets, dtype=torch.long, device=device),
        torch.tensor(queries, dtype=torch.long, device=device),
        torch.tensor(objects, dtype=torch.long, device=device),
    )


def set_loss(
    logits: Tensor, boxes_cxcywh: Tensor, targets: Targets, no_object_weight: float, anchors: Tensor | None = None
) -> Tensor:
    """Mean over the S sets of the paper's loss: classes of all queries, boxes of the matched ones.

    Args:
        logits: (S, B, Q, K + 1), the last class is no object.
        boxes_cxcywh: (S, B, Q, 4).
        anchors: as for `match`.
    """
    num_sets, batch, _, num_classes = logits.shape
    sets, queries, objects = match(logits, boxes_cxcywh, targets, anchors)
    scenes = sets % batch
    wanted = torch.full(logits.shape[:3], num_classes - 1, device=logits.device).flatten(0, 1)  # (S * B, Q)
    wanted[sets, queries] = targets.class_ids[scenes, objects]
    weight = logits.new_ones(num_classes)
    weight[-1] = no_object_weight
    class_loss = F.cross_entropy(logits.flatten(0, 2), wanted.flatten(), weight)
    boxes = box_loss(boxes_cxcywh.flatten(0, 1)[sets, queries], targets.boxes_cxcywh[scenes, objects])
    return class_loss + boxes / (num_sets * targets.num_objects)


def cell_targets(targets: Targets, grid_hw: tuple[int, int], cell_hw: tuple[float, float]) -> Tensor:
    """The object seen in each cell: the foremost whose box holds the cell's centre or has its own centre in the cell.

    Args:
        cell_hw: height and width of a cell as fractions of the image (1 / 8 for eight cells that fit exactly).

    Returns:
        (B, h * w) index of the object, -1 = none.
    """
    (h, w), (cell_h, cell_w) = grid_hw, cell_hw
    device = targets.class_ids.device
    y = (torch.arange(h, device=device) + 0.5) * cell_h
    x = (torch.arange(w, device=device) + 0.5) * cell_w
    centre_x, centre_y, wide, high = targets.boxes_cxcywh.unbind(-1)  # (B, T)
    reach_y, reach_x = high.clamp(min=cell_h) / 2, wide.clamp(min=cell_w) / 2
    in_y = (y - centre_y[..., None]).abs() <= reach_y[..., None]  # (B, T, h)
    in_x = (x - centre_x[..., None]).abs() <= reach_x[..., None]  # (B, T, w)
    inside = in_y[..., None] & in_x[..., None, :] & (targets.class_ids >= 0)[..., None, None]  # (B, T, h, w)
    order = torch.arange(1, inside.shape[1] + 1, device=device)[:, None, None]
    return ((inside * order).amax(1) - 1).flatten(1)  # (B, h * w)


def class_loss(logits: Tensor, objects: Tensor, targets: Targets, no_object_weight: float) -> tuple[Tensor, Tensor]:
    """Class of the object in every cell.

    Args:
        logits: (B, S, K + 1) of the cells.
        objects: (B, S) from `cell_targets`.

    Returns:
        the loss, and the share of object cells whose class is right.
    """
    found = objects >= 0
    class_ids = targets.class_ids.gather(1, objects.clamp(min=0))
    wanted = torch.where(found, class_ids, logits.shape[-1] - 1)
    weight = logits.new_ones(logits.shape[-1])
    weight[-1] = no_object_weight
    loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), weight)
    return loss, (logits[..., :-1].argmax(-1) == class_ids)[found].float().mean()


def cell_loss(
    logits: Tensor,
    boxes_cxcywh: Tensor,
    objects: Tensor,
    targets: Targets,
    no_object_weight: float,
    class_weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Class and box of the object in every cell; arguments and result as of `class_loss`, boxes_cxcywh (B, S, 4)."""
    classes, right = class_loss(logits, objects, targets, no_object_weight)
    found = objects >= 0
    boxes = targets.boxes_cxcywh.gather(1, objects.clamp(min=0)[..., None].expand(-1, -1, 4))
    return class_weight * classes + box_loss(boxes_cxcywh[found], boxes[found]) / found.sum().clamp(min=1), right


def attention_loss(
    projections: tuple[Tensor, Tensor],
    matches: tuple[Tensor, Tensor, Tensor],
    targets: Targets,
    grid_hw: tuple[int, int],
    cell_hw: tuple[float, float],
    num_queries: int,
) -> Tensor:
    """How little of the matched queries' head-averaged cross-attention lies in their objects: mean of -log(share).

    Args:
        projections: q (B, M, G * Q, d) and k (B, M, S, d) of a decoder layer.
        matches: of the layer's G sets, from `match`.
        cell_hw: as for `cell_targets`.
        num_queries: Q.
    """
    q, k = projections
    sets, queries, objects = matches
    batch = len(q)
    scenes = sets % batch
    rows = q[scenes, :, sets // batch * num_queries + queries]  # (N, M, d)
    weights = (k[scenes] @ rows[..., None] * rows.shape[-1] ** -0.5).squeeze(-1).softmax(-1).mean(1)  # (N, S)
    alone = Targets(targets.boxes_cxcywh[scenes, objects][:, None], targets.class_ids[scenes, objects][:, None])
    inside: Tensor = (weights * (cell_targets(alone, grid_hw, cell_hw) >= 0)).sum(1)
    return -inside.clamp(min=1e-4).log().mean()
