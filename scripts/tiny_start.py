"""A decoder that finds objects before its first step, out of what backbone and encoder already know."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from set_loss import Targets
from tiny_network import Network, cells_of
from torch import Tensor


@torch.no_grad()
def regress(inputs: Tensor, wanted: Tensor, weight: Tensor, ridge: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Weighted ridge regression: inputs (N, D), wanted (N, F), weight (N,) -> matrix (F, D), bias (F,)."""
    inputs = F.pad(inputs, (0, 1), value=1.0).double()
    weighted = inputs * weight[:, None].double()
    gram = weighted.T @ inputs
    gram += ridge * weight.sum().double() * torch.eye(len(gram), dtype=torch.double, device=gram.device)
    solution = torch.linalg.solve(gram, weighted.T @ wanted.double()).T.float()
    return solution[:, :-1], solution[:, -1]


@torch.no_grad()
def start_decoder(network: Network, images: Tensor, targets: Targets) -> str:
    """Set the decoder up so that it finds objects before its first step, out of what the memory already says.

    After the first stage every memory cell knows class and box of its object. Each query gets an anchor point; the
    cross-attention's query and key projections are fitted so that its logit for a cell is a Gaussian of the distance
    between anchor and the cell's object plus a bonus for being an object. Values carry the memory's principal
    components. In the first layer the last heads look at the anchor itself and carry where it is: so a query can learn
    which objects are its own, which otherwise takes decoder self-attention very long. It is a starting point only:
    every weight is free in training, and the network is an ordinary DETR.

    Returns:
        a line that says how well the fits explain their targets.
    """
    model, heads = network.model, network.model.config.num_heads
    width = model.config.hidden_dim
    d = width // heads
    anchor_heads = heads // 3
    content = width - anchor_heads * d
    device = images.device
    model.class_embed.load_state_dict(network.cell_class.state_dict())
    model.bbox_embed.load_state_dict(network.cell_box.state_dict())
    anchors = network.anchors

    memory, pos, grid_hw = network.encode(images)
    objects = cells_of(targets, grid_hw, (images.shape[2], images.shape[3]))
    is_object = (objects >= 0).flatten()
    centres = targets.boxes_cxcywh.gather(1, objects.clamp(min=0)[..., None].expand(-1, -1, 4))[..., :2].flatten(0, 1)
    y, x = torch.meshgrid(*[(torch.arange(n, device=device) + 0.5) / n for n in grid_hw], indexing="ij")
    own = torch.stack([x, y], -1).view(1, -1, 2).expand(len(images), -1, -1).flatten(0, 1) - 0.5
    centres = torch.where(is_object[:, None], centres - 0.5, own)
    cells, placed_cells = memory.flatten(0, 1), (memory + pos).flatten(0, 1)
    even = torch.ones(len(cells), device=device)
    # Keys: of the object seen (x, y, their squares, whether it is one), and of the cell itself.
    wanted = torch.cat([centres, centres**2, is_object[:, None].float()], 1)
    object_key = regress(placed_cells, wanted, torch.where(is_object, 1.0, 0.3))
    place_key = regress(pos.expand(len(images), -1, -1).flatten(0, 1), torch.cat([own, own**2], 1), even)
    place_value = regress(cells, own, even)
    components = torch.linalg.eigh(torch.cov(cells.T))[1].flip(1)  # columns, largest first
    residual = (placed_cells @ object_key[0].T + object_key[1] - wanted)[is_object].std(0)
    report = "key residuals x, y, x2, y2, object: " + " ".join(f"{v:.3f}" for v in residual.tolist())

    key_scale, bonus = 4.0, 4.0
    state: Tensor | None = None
    for index, layer in enumerate(model.transformer.decoder.blocks()):
        layer.linear2.weight.mul_(0.2)
        layer.self_attn.out_proj.weight.mul_(0.3)
        cross = layer.multihead_attn
        weight, bias, out = cross.in_proj_weight, cross.in_proj_bias, cross.out_proj.weight
        weight[: 2 * width].mul_(0.4)
        weight[2 * width : 2 * width + content] = components[:, :content].T
        weight[2 * width + content :].mul_(0.2)
        out[:, :content] = components[:, :content]
        out[:, content:].mul_(0.2)
        if state is None:
            points, query_inputs = anchors - 0.5, network.queries
            bias[2 * width + content : 2 * width + content + 2] = 8 * place_value[1]
            weight[2 * width + content : 2 * width + content + 2] = 8 * place_value[0]
            out[:, content : content + 2] = components[:, -2:]
        else:
            logits, boxes = model.heads(state)
            sure = 1 - logits.softmax(-1)[..., -1:]
            points = (torch.where(sure > 0.5, boxes[..., :2], anchors) - 0.5).flatten(0, 1)
            query_inputs = (state + network.queries).flatten(0, 1)
        for head in range(heads):
            at_anchor = state is None and head >= heads - anchor_heads
            sigma = torch.tensor([0.07, 0.11] if state is None else [0.06, 0.09], device=device)
            sigma = sigma * (0.5 if at_anchor else 0.8 + 0.08 * head)
            key_weight, key_bias = place_key if at_anchor else object_key
            inverse = 1 / sigma**2
            query = torch.cat([points * inverse, -(inverse / 2).expand_as(points)], 1)
            query = query if at_anchor else F.pad(query, (0, 1), value=bonus)
            query = query * math.sqrt(d) / key_scale
            ridge = 1e-5 if state is None else 1e-2
            fitted = regress(query_inputs, query, torch.ones(len(query), device=device), ridge)
            q_rows = slice(head * d, head * d + query.shape[1])
            k_rows = slice(width + head * d, width + head * d + query.shape[1])
            weight[q_rows], bias[q_rows] = fitted
            weight[k_rows], bias[k_rows] = key_weight * key_scale, key_bias * key_scale
            if at_anchor:
                weight[width + head * d + 4 : width + (head + 1) * d].mul_(0.2)
        state = network.decode_layer(index, state, memory, pos)
    return report
