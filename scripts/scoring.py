"""Scores of detections and of their attention against exact truth; average precision as COCO defines it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from stream_detr.boxes import area, iou

IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())


@dataclass(frozen=True, slots=True)
class Scored:
    """Detections of one scene and its truth: ``boxes`` (N, 4) xyxy pixels, ``scores`` (N,), ``class_ids`` (N,),
    ``maps`` (N, h, w) cross-attention summing to 1, ``true_boxes`` (T, 4), ``true_ids`` (T,), frame height and width,
    side of a grid cell in frame pixels."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    maps: NDArray[np.float32]
    true_boxes: NDArray[np.float32]
    true_ids: NDArray[np.int64]
    size_hw: tuple[int, int]
    cell_px: float


def interpolated_precision(hits: NDArray[np.bool_], num_objects: int) -> float:
    """Area under the 101-point interpolated curve of detections sorted by falling score.

    >>> interpolated_precision(np.array([True, False, True]), 2)
    0.834983498349835
    """
    true = np.cumsum(hits)
    recall, precision = true / num_objects, true / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.append(precision, 0.0)[np.minimum(at, len(hits))].mean())


def class_precision(scored: Sequence[Scored], class_id: int, threshold: float) -> float:
    """Average precision of one class at one overlap threshold; NaN where the truth has no such object."""
    scores: list[float] = []
    hits: list[bool] = []
    num_objects = 0
    for one in scored:
        truth = one.true_boxes[one.true_ids == class_id]
        num_objects += len(truth)
        mine = np.flatnonzero(one.class_ids == class_id)
        mine = mine[np.argsort(-one.scores[mine], kind="stable")]
        overlap = iou(one.boxes[mine], truth)
        free = np.ones(len(truth), bool)
        for row, index in zip(overlap, mine, strict=True):
            best = int(np.where(free, row, -1).argmax()) if len(truth) else -1
            hit = best >= 0 and bool(free[best]) and bool(row[best] >= threshold)
            if hit:
                free[best] = False
            scores.append(float(one.scores[index]))
            hits.append(hit)
    if not num_objects:
        return float("nan")
    order = np.argsort(-np.array(scores), kind="stable")
    return interpolated_precision(np.array(hits, bool)[order], num_objects) if hits else 0.0


def precisions(scored: Sequence[Scored], num_classes: int) -> NDArray[np.float64]:
    """Average precision of every class at every of `IOU_THRESHOLDS` -> (K, 10)."""
    return np.array([[class_precision(scored, k, t) for t in IOU_THRESHOLDS] for k in range(num_classes)])


def covered(box: NDArray[np.float32], grid_hw: tuple[int, int], cell_px: float) -> NDArray[np.float64]:
    """Share of every grid cell that lies inside an xyxy box -> (h, w).

    >>> covered(np.array([8, 0, 32, 16], np.float32), (1, 3), 16).tolist()
    [[0.5, 1.0, 0.0]]
    """
    spans = []
    for low, high, cells in ((box[1], box[3], grid_hw[0]), (box[0], box[2], grid_hw[1])):
        start = np.arange(cells) * cell_px
        spans.append((np.minimum(high, start + cell_px) - np.maximum(low, start)).clip(0) / cell_px)
    return np.asarray(spans[0][:, None] * spans[1], np.float64)


def attention_scores(scored: Sequence[Scored], threshold: float) -> dict[str, float]:
    """Where the attention of the detections that found their object falls.

    Returns:
        "pointing": share whose strongest cell has its centre in the object's box; "touching": whose strongest cell
        overlaps it; "density": median of the attention inside the box over the box's share of the area.
    """
    centred, touching, density = [], [], []
    for one in scored:
        overlap = iou(one.boxes, one.true_boxes) * (one.class_ids[:, None] == one.true_ids)
        for index in np.flatnonzero(one.scores >= threshold):
            if not len(one.true_boxes) or overlap[index].max() < 0.5:
                continue
            box, map_ = one.true_boxes[overlap[index].argmax()], one.maps[index]
            y, x = np.unravel_index(int(map_.argmax()), map_.shape)
            centre = ((x + 0.5) * one.cell_px, (y + 0.5) * one.cell_px)
            inside = covered(box, (map_.shape[0], map_.shape[1]), one.cell_px)
            centred.append(box[0] <= centre[0] <= box[2] and box[1] <= centre[1] <= box[3])
            touching.append(inside[y, x] > 0)
            density.append(float((map_ * inside).sum()) / (float(area(box)) / (one.size_hw[0] * one.size_hw[1])))
    if not density:
        return {"pointing": 0.0, "touching": 0.0, "density": 0.0}
    return {
        "pointing": float(np.mean(centred)),
        "touching": float(np.mean(touching)),
        "density": float(np.median(density)),
    }


def kept_scores(scored: Sequence[Scored], threshold: float) -> dict[str, float]:
    """What is kept at a score threshold, without suppression: "recall" and "precision" at overlap 0.5, and "doubles",
    the kept detections that lie on an object (of any class) for each object that was found."""
    kept = on_object = found = right = objects = 0
    for one in scored:
        keep = one.scores >= threshold
        overlap = iou(one.boxes[keep], one.true_boxes) >= 0.5
        same = overlap & (one.class_ids[keep][:, None] == one.true_ids)
        kept += int(keep.sum())
        objects += len(one.true_boxes)
        on_object += int(overlap.any(1).sum())
        found += int(overlap.any(0).sum())
        right += int(same.any(0).sum())
    return {
        "recall": right / max(1, objects),
        "precision": right / max(1, kept),
        "doubles": on_object / max(1, found),
    }


def identity_f1(
    truth: Sequence[Sequence[tuple[int, NDArray[np.float32]]]],
    found: Sequence[Sequence[tuple[int, NDArray[np.float32]]]],
    threshold: float = 0.5,
) -> float:
    """IDF1 (Ristani et al. 2016): how much of all objects and detections carries the right identity, in [0, 1].

    Every track is matched with at most one object so that as many frames as possible agree.

    Args:
        truth: for every frame, the id and the box (4,) xyxy of each object.
        found: the same of the tracked detections.
        threshold: overlap from which a detection is on an object.

    >>> box = np.array([0, 0, 2, 2], np.float32)
    >>> identity_f1([[(7, box)], [(7, box)]], [[(1, box)], [(2, box)]])
    0.5
    """
    true_ids = sorted({identity for frame in truth for identity, _ in frame})
    found_ids = sorted({identity for frame in found for identity, _ in frame})
    total = sum(map(len, truth)) + sum(map(len, found))
    if not total:
        return 1.0
    agree = np.zeros((len(true_ids), len(found_ids)))
    for objects, detections in zip(truth, found, strict=True):
        if not objects or not detections:
            continue
        overlap = iou(np.stack([box for _, box in objects]), np.stack([box for _, box in detections]))
        for row, column in zip(*np.nonzero(overlap >= threshold), strict=True):
            agree[true_ids.index(objects[row][0]), found_ids.index(detections[column][0])] += 1
    return float(2 * agree[linear_sum_assignment(-agree)].sum() / total)
