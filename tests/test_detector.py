"""Frames in, detections with attention out."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from small import SMALL

from stream_detr.detector import Detector, Options
from stream_detr.device import choose_device, choose_precision
from stream_detr.errors import UsageError
from stream_detr.models.checkpoint import LoadedModel
from stream_detr.models.detr import Detr
from stream_detr.structures import Frame, StreamInfo

NAMES = ("cat", "dog", "bird")


def detector(**options: object) -> Detector:
    torch.manual_seed(0)
    model = Detr(SMALL).eval()
    with torch.no_grad():
        model.class_embed.bias[-1] = -3.0  # a random model finds nothing, or all of it
    given: Options = {"device": "cpu", "precision": "fp32", "size": 64, "max_size": 128, "threshold": 0.3}
    return Detector(LoadedModel(model, NAMES, "small", "memory"), **(given | options))  # type: ignore[typeddict-item]


def frame(height: int = 64, width: int = 96, seed: int = 0) -> Frame:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Frame(image, 0, 0, Fraction(1, 25), 0.0, StreamInfo("test", width, height))


def test_maps_are_distributions_on_the_grid_and_fields_agree() -> None:
    [found] = detector(attention=("cross", "encoder", "objects"), points=[(0.5, 0.5), (0, 1)])([frame()])
    assert 0 < len(found) <= 6
    assert (np.diff(found.scores) <= 0).all()
    assert (found.scores > 0.3).all()
    assert found.names == [NAMES[i] for i in found.class_ids]
    assert (found.boxes[:, 2] <= 96).all()
    maps = found.attention
    assert maps is not None
    assert maps.cross is not None
    assert maps.points is not None
    assert maps.objects is not None
    assert (maps.stride, maps.model_hw) == (16, (64, 96))
    assert maps.cross.shape == (len(found), 4, 6)
    np.testing.assert_allclose(maps.cross.sum((1, 2)), 1, atol=1e-5)
    np.testing.assert_allclose(maps.points.sum((1, 2)), 1, atol=1e-5)
    assert maps.objects.shape == (len(found), len(found))
    assert (maps.objects.sum(1) <= 1 + 1e-5).all()


def test_maps_equal_the_full_weights_of_the_kept_queries_and_chosen_points() -> None:
    point = (0.3, 0.7)
    some = detector(attention=("cross", "encoder", "objects"), points=[point])
    [found] = some([frame()])
    assert len(found)
    transformer = some.model.transformer
    full: dict[str, torch.Tensor] = {}
    some.model.return_attention_weights()
    modules = {
        "cross": transformer.decoder.layers[-1].multihead_attn,
        "encoder": transformer.encoder.layers[-1].self_attn,
        "objects": transformer.decoder.layers[-1].self_attn,
    }
    hooks = [
        module.register_forward_hook(lambda _, __, output, kind=kind: full.update({kind: output[1][0]}))
        for kind, module in modules.items()
    ]
    with torch.no_grad():
        some.model(some.preprocess([frame().image]))
    for hook in hooks:
        hook.remove()
    maps, queries = found.attention, found.query_ids
    assert maps is not None
    np.testing.assert_allclose(maps.cross, full["cross"][queries].view(-1, 4, 6), atol=1e-5)
    np.testing.assert_allclose(maps.objects, full["objects"][queries][:, queries], atol=1e-5)
    cell = int(0.7 * 64 / 16) * 6 + int(0.3 * 96 / 16)
    np.testing.assert_allclose(maps.points[0], full["encoder"][cell].view(4, 6), atol=1e-5)
    [column] = detector(attention="encoder", points=[point], direction="looked-at-by")([frame()])
    assert column.attention is not None
    np.testing.assert_allclose(column.attention.points[0], full["encoder"][:, cell].view(4, 6), atol=1e-5)


def test_frames_of_different_sizes_come_back_in_order_and_equal_single_runs() -> None:
    some = detector()
    frames = [frame(64, 96, 1), frame(96, 64, 2), frame(64, 96, 3), frame(40, 40, 4)]
    for together, single in zip(some(frames), frames, strict=True):
        [alone] = some([single])
        assert len(alone)
        np.testing.assert_array_equal(together.query_ids, alone.query_ids)
        np.testing.assert_allclose(together.boxes, alone.boxes, atol=1e-2)
        np.testing.assert_allclose(together.scores, alone.scores, atol=1e-5)
        assert together.attention is not None
        assert alone.attention is not None
        np.testing.assert_allclose(together.attention.cross, alone.attention.cross, atol=1e-5)


def test_nothing_found_has_empty_maps_of_the_right_shape() -> None:
    [found] = detector(threshold=1.0, attention=("cross", "objects"))([frame()])
    assert len(found) == 0
    assert found.attention is not None
    assert found.attention.cross.shape == (0, 4, 6)


def test_no_attention_is_none_and_leaves_the_detections_alone() -> None:
    [without] = detector(attention="none")([frame()])
    [found] = detector()([frame()])
    assert len(found)
    assert without.attention is None
    np.testing.assert_allclose(without.boxes, found.boxes, atol=1e-3)


def test_only_the_classes_asked_for() -> None:
    [everything] = detector(threshold=0.0)([frame()])
    wanted = everything.names[0]
    [found] = detector(threshold=0.0, classes=[wanted])([frame()])
    assert set(found.names) == {wanted}
    other = next(name for name in NAMES if name not in everything.names)
    [none] = detector(threshold=0.0, classes=[other])([frame()])
    assert len(none) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:99"}, "device 'cuda:99' is not there"),
        ({"device": "tpu"}, "device 'tpu' is not one of auto, cpu, cuda"),
        ({"precision": "fp16"}, "precision fp16 needs a GPU: use fp32 or bf16"),
        ({"classes": ["dgo"]}, "small has no class 'dgo': did you mean 'dog'?"),
        ({"head": 4}, "head 4 does not exist: small has heads 0 to 3"),
        ({"layers": 2}, "layer 2 does not exist: this model has layers 0 to 1"),
        ({"attention": "encoder"}, "needs at least one reference point: --point X,Y"),
        ({"attention": "crss"}, "attention 'crss' is not one of none, cross"),
        ({"points": [(1.2, 0.5)]}, "point 1.2,0.5 lies outside the frame"),
        ({"treshold": 0.9}, "unknown option 'treshold'"),
        ({"precision": "half"}, "precision 'half' is not one of auto, fp32, bf16, fp16"),
        ({"direction": "looked_at_by"}, "direction 'looked_at_by' is not one of looks-at, looked-at-by"),
        ({"head": "average"}, "head 'average' is not mean, max or a head's number"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        detector(**options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_choices_change_while_the_model_stays_and_the_first_detector_is_untouched() -> None:
    first = detector(threshold=0.449)
    [before] = first([frame()])
    other = first.configured(threshold=0.0, attention=("cross", "encoder"), layers=0, head=1, points=[(0.2, 0.6)])
    assert other.model is first.model
    [chosen] = other([frame()])
    assert len(chosen) > len(before)
    [expected] = detector(threshold=0.0, attention=("cross", "encoder"), layers=0, head=1, points=[(0.2, 0.6)])(
        [frame()]
    )
    assert len(chosen) > len(before)
    assert chosen.attention is not None
    assert expected.attention is not None
    np.testing.assert_allclose(chosen.attention.cross, expected.attention.cross, atol=1e-6)
    np.testing.assert_allclose(chosen.attention.points, expected.attention.points, atol=1e-6)
    [again] = first([frame()])
    np.testing.assert_array_equal(again.scores, before.scores)
    assert again.attention is not None
    assert again.attention.points is None
    [narrowed] = other.configured(classes=["dog"])([frame()])
    assert set(narrowed.names) <= {"dog"}
    assert narrowed.attention is not None
    assert narrowed.attention.points is not None  # what is not named anew stays


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"layers": 9}, "layer 9 does not exist"),
        ({"attention": "encoder"}, "needs at least one reference point"),
        ({"classes": ["cow"]}, "small has no class 'cow'"),
        ({"device": "cpu"}, "unknown option 'device': known are threshold, floor"),
    ],
)
def test_a_wrong_choice_is_refused_and_nothing_changes(choices: dict[str, object], message: str) -> None:
    some = detector()
    [before] = some([frame()])
    with pytest.raises(UsageError) as caught:
        some.configured(**choices)  # type: ignore[arg-type]
    assert message in str(caught.value)
    [after] = some([frame()])
    np.testing.assert_array_equal(after.scores, before.scores)


def test_small_pictures_make_batches_and_large_ones_do_not() -> None:
    small = detector(size=64, max_size=128)
    assert small.best_batch_size((480, 640)) == 8
    assert detector(size=500, max_size=1000).best_batch_size((480, 640)) == 3
    assert detector(size=800, max_size=1333).best_batch_size((1080, 1920)) == 1


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_says_why(monkeypatch: pytest.MonkeyPatch, native: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    name, reason = choose_precision("auto", torch.device("cpu"))
    assert name == expected
    assert reason.startswith("auto: ")
    assert choose_precision("fp32", torch.device("cpu")) == ("fp32", "asked for")
    assert choose_device("cpu").type == "cpu"


@pytest.mark.needs_cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cuda_agrees_with_the_cpu(precision: str) -> None:
    [expected] = detector(attention=("cross", "objects"))([frame(90, 150)])
    [found] = detector(attention=("cross", "objects"), device="cuda", precision=precision)([frame(90, 150)])
    kept = np.isin(found.query_ids, expected.query_ids)
    assert len(found)
    assert kept.mean() > 0.7
    tolerance = 0.5 if precision == "fp32" else 3.0
    for number in np.flatnonzero(kept):
        twin = int(np.flatnonzero(expected.query_ids == found.query_ids[number])[0])
        np.testing.assert_allclose(found.boxes[number], expected.boxes[twin], atol=tolerance)
