"""Which queries are kept, and in which order."""

from __future__ import annotations

import pytest
import torch

from stream_detr.errors import StreamDetrError
from stream_detr.postprocess import keep_objects


def logits_of(scores: list[list[float]], classes: list[list[int]], num_classes: int = 3) -> torch.Tensor:
    """(B, Q, K + 1) logits whose softmax gives each query its class with that score, the rest to "no object"."""
    batch, queries = len(scores), len(scores[0])
    probabilities = torch.full((batch, queries, num_classes + 1), 1e-9)
    for b in range(batch):
        for q in range(queries):
            probabilities[b, q, classes[b][q]] = scores[b][q]
            probabilities[b, q, -1] += 1 - scores[b][q]
    return probabilities.log()


def test_keeps_above_the_threshold_best_first_and_pads_to_the_fullest_image() -> None:
    logits = logits_of([[0.75, 0.2, 0.95], [0.1, 0.9, 0.3]], [[0, 1, 2], [2, 1, 0]])
    boxes = torch.rand(2, 3, 4)
    kept = keep_objects(logits, boxes, 0.7)
    assert kept.counts == [2, 1]
    assert kept.query_ids[0].tolist() == [2, 0]
    assert kept.query_ids[1, 0] == 1
    assert kept.class_ids[0].tolist() == [2, 0]
    torch.testing.assert_close(kept.scores[0], torch.tensor([0.95, 0.75]))
    torch.testing.assert_close(kept.boxes_cxcywh[0], boxes[0, [2, 0]])


def test_a_class_filter_leaves_the_others_out() -> None:
    logits = logits_of([[0.75, 0.8, 0.95]], [[0, 1, 2]])
    kept = keep_objects(logits, torch.rand(1, 3, 4), 0.5, torch.tensor([1]))
    assert kept.counts == [1]
    assert kept.class_ids.tolist() == [[1]]


def test_a_model_that_has_lost_its_numbers_is_not_taken_for_an_empty_picture() -> None:
    logits = logits_of([[0.75, 0.8]], [[0, 1]])
    logits[0, 0] = torch.nan
    with pytest.raises(StreamDetrError, match="not finite: try --precision fp32"):
        keep_objects(logits, torch.rand(1, 2, 4), 0.7)


def test_nothing_found_is_no_rows() -> None:
    kept = keep_objects(logits_of([[0.1, 0.2]], [[0, 1]]), torch.rand(1, 2, 4), 0.7)
    assert kept.counts == [0]
    assert kept.boxes_cxcywh.shape == (1, 0, 4)
