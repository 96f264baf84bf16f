from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import pickle
import sys
import types
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stream_detr.errors import CheckpointError
from stream_detr.models import registry
from stream_detr.models.checkpoint import load_checkpoint, save_checkpoint
from stream_detr.models.detr import Detr, DetrConfig, DetrDemo

SMALL = DetrConfig(
    block="basic",
    depths=(1, 2),
    num_classes=3,
    num_queries=5,
    hidden_dim=32,
    num_heads=4,
    encoder_layers=1,
    decoder_layers=2,
    feedforward_dim=48,
)


SMALL_DC5 = replace(SMALL, block="bottleneck", depths=(1, 1, 1, 1), dilation=True)


@functools.cache
def small_model(config: DetrConfig = SMALL, kind: type[Detr] | type[DetrDemo] = Detr) -> Detr | DetrDemo:
    torch.manual_seed(0)
    return kind(config).eval()


def save_original(path: Path, model: nn.Module, legacy: bool = False, **args: Any) -> Path:
    """As the paper's training script saves, with the optimizer and its arguments."""
    content = {
        "model": model.state_dict(),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
        "epoch": 3,
        "args": argparse.Namespace(lr=1e-4, device="cuda", masks=False, frozen_weights=None, **args),
    }
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def refused(name_or_path: str | Path) -> str:
    """The message of the one-line error that loading ends in; it names what was given."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(str(name_or_path))
    message = str(caught.value)
    assert "\n" not in message
    assert str(name_or_path) in message
    return message


def assert_same_output(ours: nn.Module, other: nn.Module) -> None:
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(images).logits, other(images).logits, rtol=0, atol=1e-6)
        torch.testing.assert_close(ours(images).boxes_cxcywh, other(images).boxes_cxcywh, rtol=0, atol=1e-6)


# The paper's layout


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("config", [SMALL, SMALL_DC5], ids=["plain", "dc5"])
def test_an_original_checkpoint_loads_strictly_with_its_arguments(
    tmp_path: Path, legacy: bool, config: DetrConfig
) -> None:
    model = small_model(config)
    path = save_original(tmp_path / "mine.pth", model, legacy, dilation=config.dilation, nheads=4)
    loaded = load_checkpoint(str(path))
    assert loaded.model.config == config
    assert (loaded.name, loaded.source, loaded.class_names) == ("mine", str(path), ("0", "1", "2"))
    assert (loaded.size, loaded.max_size) == (800, 1333)
    assert not loaded.model.training
    path.unlink()  # nothing is left mapped to the file
    assert_same_output(loaded.model, model)


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL, pre_norm=True),
        replace(SMALL, positions="learned"),
        replace(SMALL, block="bottleneck", depths=(1, 1, 2)),
        replace(SMALL, depths=(2, 2, 2, 2), num_classes=2, num_queries=15),
        replace(SMALL, encoder_layers=3, decoder_layers=1, feedforward_dim=20, hidden_dim=64, num_heads=8),
    ],
    ids=["pre-norm", "learned positions", "bottleneck", "resnet18", "other sizes"],
)
def test_the_shape_is_read_from_the_tensors(tmp_path: Path, config: DetrConfig) -> None:
    model = small_model(config)
    path = save_original(tmp_path / "model.pth", model, nheads=config.num_heads)
    loaded = load_checkpoint(str(path))
    assert loaded.model.config == config
    assert_same_output(loaded.model, model)


def test_a_bare_state_dict_has_eight_heads(tmp_path: Path) -> None:
    model = small_model(replace(SMALL, num_heads=8))
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    loaded = load_checkpoint(str(tmp_path / "bare.pth"))
    assert loaded.model.config.num_heads == 8
    assert_same_output(loaded.model, model)


def test_a_model_saved_from_distributed_training_loads(tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in small_model().state_dict().items()}
    torch.save({"model": state}, tmp_path / "model.pth")
    assert load_checkpoint(str(tmp_path / "model.pth")).model.config.num_queries == 5


def test_a_trained_batch_norm_loads_as_a_frozen_one(tmp_path: Path) -> None:
    model = Detr(SMALL, norm_layer=nn.BatchNorm2d)
    model(torch.randn(2, 3, 64, 64))  # moves the statistics
    path = save_original(tmp_path / "model.pth", model, nheads=4)
    assert_same_output(load_checkpoint(str(path)).model, model.eval())


def test_91_classes_are_coco_s(tmp_path: Path) -> None:
    path = save_original(tmp_path / "model.pth", small_model(replace(SMALL, num_classes=91)))
    names = load_checkpoint(str(path)).class_names
    assert (names[0], names[1], names[17], names[75], names[90]) == ("N/A", "person", "cat", "remote", "toothbrush")
    assert len(names) == 91


def test_the_notebook_s_layout_is_known_by_its_names(tmp_path: Path) -> None:
    model = small_model(kind=DetrDemo)
    path = tmp_path / "demo.pth"
    save_original(path, model, nheads=4)
    loaded = load_checkpoint(str(path))
    assert isinstance(loaded.model, DetrDemo)
    assert loaded.model.config == SMALL
    assert_same_output(loaded.model, model)


# DC5 or plain


def test_a_file_name_tells_dc5(tmp_path: Path) -> None:
    torch.save(small_model(SMALL_DC5).state_dict(), tmp_path / "detr-r50-dc5-f0fb7ef5.pth")
    assert load_checkpoint(str(tmp_path / "detr-r50-dc5-f0fb7ef5.pth")).model.config.dilation


@pytest.mark.parametrize(
    ("file", "dilation"),
    [("my-DC5.pth", False), ("detr_resnet50.pth", True), ("detr-r50-e632da11.pth", True)],
)
def test_a_file_name_that_contradicts_the_training_arguments_is_refused(
    tmp_path: Path, file: str, dilation: bool
) -> None:
    path = save_original(tmp_path / file, small_model(), dilation=dilation, nheads=4)
    message = refused(path)
    assert "DC5 or plain?" in message
    assert "the file's name says" in message


def published_as(monkeypatch: pytest.MonkeyPatch, name: str, path: Path) -> None:
    """Make ``path`` the file that was published as ``name``."""
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setitem(registry.MODELS, name, replace(registry.MODELS[name], sha256=checksum, file=path.name))


def test_a_published_dc5_file_is_known_under_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "renamed.pth"
    torch.save(small_model(SMALL_DC5).state_dict(), path)
    assert not load_checkpoint(str(path)).model.config.dilation
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    spec = replace(registry.MODELS["detr_resnet50_dc5"], sha256=checksum)
    monkeypatch.setitem(registry.MODELS, "detr_resnet50_dc5", spec)
    assert load_checkpoint(str(path)).model.config.dilation
    plain = tmp_path / "detr_resnet50.pth"
    path.rename(plain)
    assert "published as detr_resnet50_dc5" in refused(plain)


def test_a_plain_file_under_a_dc5_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = save_original(cache / "some.pth", small_model(SMALL_DC5), dilation=False, nheads=4)
    published_as(monkeypatch, "detr_resnet50_dc5", path)
    with pytest.raises(CheckpointError, match="DC5 or plain"):
        load_checkpoint("detr_resnet50_dc5")
    save_original(path, small_model(SMALL_DC5), dilation=True, nheads=4)
    published_as(monkeypatch, "detr_resnet50_dc5", path)
    loaded = load_checkpoint("detr_resnet50_dc5")
    assert loaded.model.config.dilation
    assert loaded.name == "detr_resnet50_dc5"


# Our layout


def test_our_own_files_carry_shape_names_and_sizes(tmp_path: Path) -> None:
    config = replace(SMALL_DC5, num_heads=2)
    model = small_model(config)
    path = tmp_path / "mine.safetensors"
    save_checkpoint(path, model, ("a", "b", "c"), torch.float32, sizes=(224, 400))
    loaded = load_checkpoint(str(path))
    assert loaded.model.config == config
    assert loaded.class_names == ("a", "b", "c")
    assert (loaded.size, loaded.max_size) == (224, 400)
    assert_same_output(loaded.model, model)


def test_half_precision_files_load_as_float32(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_checkpoint(path, small_model(), ("a", "b", "c"))
    assert load_file(path)["class_embed.weight"].dtype == torch.float16
    assert {tensor.dtype for tensor in load_checkpoint(str(path)).model.state_dict().values()} == {torch.float32}


def test_safetensors_in_the_paper_s_layout_need_no_metadata(tmp_path: Path) -> None:
    save_file(small_model().state_dict(), tmp_path / "plain.safetensors")
    assert load_checkpoint(str(tmp_path / "plain.safetensors")).model.config == replace(SMALL, num_heads=8)


def test_the_embedded_model_comes_from_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, small_model(), ("a", "b", "c"))
    monkeypatch.setattr(registry, "locate", lambda spec: path)
    loaded = load_checkpoint("tiny")
    assert (loaded.name, loaded.class_names) == ("tiny", ("a", "b", "c"))
    path.unlink()
    with pytest.raises(CheckpointError, match="install stream-detr again"):
        load_checkpoint("tiny")


def metadata(**changes: Any) -> dict[str, str]:
    facts = {"config": {**asdict(SMALL), **changes.pop("config", {})}, "class_names": ["a", "b", "c"], **changes}
    return {key: json.dumps(value) for key, value in facts.items()}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (metadata(class_names=["a", "b"]), "3 classes but 2 class names"),
        (metadata(config={"num_classes": 4}, class_names=list("abcd")), "num_classes 4, its weights have 3"),
        (metadata(config={"pre_norm": True}), "pre_norm True, its weights have False"),
        (metadata(config={"num_heads": 5}), "width 32 can't be split into 5 heads"),
        (metadata(config={"heads": 5}), "does not describe a model"),
        ({"config": "{"}, "does not describe a model"),
    ],
    ids=["names", "classes", "norm", "heads", "key", "json"],
)
def test_metadata_that_does_not_fit_the_tensors_is_refused(
    tmp_path: Path, given: dict[str, str], expected: str
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(small_model().state_dict(), path, metadata=given)
    assert expected in refused(path)


# Files that are no model


class RunsCode:
    """A pickle of this would create a file when loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def pickle_file(protocol: int) -> Callable[[object, Path], None]:
    return lambda content, path: path.write_bytes(pickle.dumps(content, protocol)) and None


@pytest.mark.parametrize(
    "save",
    [
        torch.save,
        lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
        lambda content, path: torch.save(content, path, pickle_protocol=4),
        pickle_file(2),
        pickle_file(4),
    ],
    ids=["zip", "legacy", "zip protocol 4", "pickle 2", "pickle 4"],
)
@pytest.mark.parametrize("key", ["model", "args"])
def test_a_pickle_that_wants_to_run_code_is_refused_and_not_run(
    tmp_path: Path, save: Callable[[object, Path], None], key: str
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    save({"model": {}, key: RunsCode(marker)}, path)
    message = refused(path)
    assert "would run code when loaded" in message
    assert "system" in message
    assert not marker.exists()


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(small_model(), tmp_path / "module.pth")
    message = refused(tmp_path / "module.pth")
    assert "torch.save(model.state_dict()" in message


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model.pth")
    if kind == "safetensors":
        save_checkpoint(path, small_model(), ("a", "b", "c"))
    else:
        save_original(path, small_model(), legacy=kind == "legacy")
    assert "damaged, truncated" in refused(cut(path, share))


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors", ".txt"])
@pytest.mark.parametrize("content", [b"", b"hello world, this is text\n", b"<html>404</html>", bytes(100), b"\x80"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    message = refused(path)
    assert "checkpoint" in message or "safetensors" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"conv1.weight": torch.zeros(2, 2), "fc.weight": torch.zeros(2, 2)}, "lacks class_embed.weight"),
        ({**small_model().state_dict(), "class_embed.weight": torch.zeros(3)}, "lacks class_embed.weight"),
        ({**small_model().state_dict(), "extra.weight": torch.zeros(3)}, "has extra.weight besides"),
        ({**small_model().state_dict(), "input_proj.bias": torch.zeros(3)}, "input_proj.bias is (3,), expected (32,)"),
        (
            {k: v for k, v in small_model().state_dict().items() if "layers.1.norm3" not in k},
            "lacks transformer.decoder.layers.1.norm3.weight",
        ),
        ({f"detr.{k}": v for k, v in small_model().state_dict().items()}, "segmentation"),
        ({"model": 3}, "no state dict"),
        ([torch.zeros(2)], "no state dict"),
        (torch.zeros(2), "no state dict"),
    ],
    ids=["resnet", "bad shape", "surplus", "other width", "missing", "segmentation", "number", "list", "tensor"],
)
def test_tensors_that_are_not_a_detr_are_refused(tmp_path: Path, content: object, expected: str) -> None:
    path = tmp_path / "model.pth"
    torch.save(content, path)
    assert expected in refused(path)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("nowhere/model.pth", "no such file or folder"),
        ("detr_resnet50_dc", "did you mean detr_resnet50"),
        ("something", "known names are detr_resnet50,"),
        ("", "no such file or folder"),
    ],
)
def test_a_name_that_is_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if given:
        assert expected in refused(given)
    else:
        with pytest.raises(CheckpointError):
            load_checkpoint(given)


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    save_original(tmp_path / "model.pth", small_model())
    message = refused(tmp_path)
    assert "holds no config.json" in message
    assert "path of its file" in message


# Hugging Face


def hugging_face_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under Hugging Face's names, timm's ResNet: what a published file looks like."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for ours, theirs in {
            "backbone.0.body.": "model.backbone.conv_encoder.model.",
            "backbone.1.row_embed": "model.backbone.position_embedding.row_embeddings",
            "backbone.1.col_embed": "model.backbone.position_embedding.column_embeddings",
            "transformer.encoder.norm": "model.encoder.layernorm",
            "transformer.decoder.norm": "model.decoder.layernorm",
            "transformer.": "model.",
            "multihead_attn": "encoder_attn",
            "linear": "fc",
            "query_embed": "model.query_position_embeddings",
            "input_proj": "model.input_projection",
            "class_embed": "class_labels_classifier",
            "bbox_embed": "bbox_predictor",
        }.items():
            name = name.replace(ours, theirs)
        if "decoder" in name:
            name = name.replace("norm2", "encoder_attn_layer_norm").replace("norm3", "final_layer_norm")
        name = name.replace("norm2", "final_layer_norm").replace("norm1", "self_attn_layer_norm")
        if "in_proj_" in name:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                renamed[name.replace("in_proj_", f"{part}_proj.")] = piece.contiguous()
        else:
            renamed[name] = tensor.contiguous()
    return renamed


HF_SMALL = replace(SMALL, depths=(2, 2, 2, 2))
HF_DC5 = replace(SMALL, block="bottleneck", depths=(3, 4, 6, 3), dilation=True)
HF_CONFIG: dict[str, Any] = {
    "model_type": "detr",
    "use_timm_backbone": True,
    "backbone": "resnet18",
    "backbone_config": None,
    "dilation": False,
    "activation_function": "relu",
    "position_embedding_type": "sine",
    "auxiliary_loss": False,
    "num_channels": 3,
    "d_model": 32,
    "num_queries": 5,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "id2label": {"0": "cat", "1": "dog", "2": "fish"},
}


def save_folder(
    folder: Path, model: nn.Module, changes: dict[str, Any] | None = None, weights: str = "model.safetensors"
) -> Path:
    folder.mkdir(exist_ok=True)
    state = hugging_face_names(model.state_dict())
    if weights.endswith(".safetensors"):
        save_file(state, folder / weights, metadata={"format": "pt"})
    elif weights.endswith(".bin"):
        torch.save(state, folder / weights)
    (folder / "config.json").write_text(json.dumps({**HF_CONFIG, **(changes or {})}))
    return folder


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_hugging_face_folder_loads(tmp_path: Path, weights: str) -> None:
    model = small_model(HF_SMALL)
    folder = save_folder(tmp_path / "fish-detr", model, weights=weights)
    loaded = load_checkpoint(str(folder))
    assert loaded.model.config == HF_SMALL
    assert (loaded.name, loaded.source) == ("fish-detr", str(folder))
    assert loaded.class_names == ("cat", "dog", "fish")
    assert_same_output(loaded.model, model)
    assert_same_output(load_checkpoint(str(folder / weights)).model, model)


def test_a_folder_of_shards_loads(tmp_path: Path) -> None:
    model = small_model(HF_SMALL)
    folder = save_folder(tmp_path, model, weights="")
    state = list(hugging_face_names(model.state_dict()).items())
    shards = {
        "model-00001-of-00002.safetensors": dict(state[::2]),
        "model-00002-of-00002.safetensors": dict(state[1::2]),
    }
    for file, part in shards.items():
        save_file(part, folder / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same_output(load_checkpoint(str(folder)).model, model)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in refused(folder)


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (HF_DC5, {"backbone": "resnet50", "dilation": True}),
        (
            HF_DC5,
            {"backbone_config": {"model_type": "timm_backbone", "backbone": "resnet50", "output_stride": 16}},
        ),
        (replace(HF_SMALL, pre_norm=True), {"model_type": "table-transformer"}),
        (replace(HF_SMALL, positions="learned"), {"position_embedding_type": "learned"}),
        (HF_SMALL, {"backbone": "resnet18.a1_in1k", "backbone_kwargs": {"out_indices": [1, 2, 3, 4]}}),
        (
            HF_SMALL,
            {
                "use_timm_backbone": False,
                "backbone": None,
                "backbone_config": {"model_type": "resnet", "layer_type": "basic", "depths": [2, 2, 2, 2]},
            },
        ),
    ],
    ids=["dc5", "dc5 by stride", "table transformer", "learned positions", "timm's long name", "own resnet"],
)
def test_config_json_decides_the_shape(tmp_path: Path, config: DetrConfig, changes: dict[str, Any]) -> None:
    model = small_model(config)
    loaded = load_checkpoint(str(save_folder(tmp_path, model, changes)))
    assert loaded.model.config == config
    assert_same_output(loaded.model, model)


@pytest.mark.parametrize("family", ["Detr", "TableTransformer"])
@pytest.mark.parametrize("positions", ["sine", "learned"])
def test_names_inside_version_5_of_their_library_load_as_the_saved_ones(
    tmp_path: Path, family: str, positions: str
) -> None:
    transformers = pytest.importorskip("transformers")
    changes = {key: value for key, value in HF_CONFIG.items() if "backbone" not in key and key != "model_type"}
    backbone = transformers.ResNetConfig(
        layer_type="basic", depths=[1, 1], hidden_sizes=[64, 128], out_features=["stage2"]
    )
    changes |= {"position_embedding_type": positions, "id2label": {0: "cat", 1: "dog", 2: "fish"}}
    config = getattr(transformers, f"{family}Config")(use_timm_backbone=False, backbone_config=backbone, **changes)
    theirs = getattr(transformers, f"{family}ForObjectDetection")(config).eval()
    theirs.save_pretrained(tmp_path / "saved")
    saved = load_checkpoint(str(tmp_path / "saved"))
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "config.json").write_text((tmp_path / "saved" / "config.json").read_text())
    torch.save(theirs.state_dict(), inside / "pytorch_model.bin")
    assert_same_output(load_checkpoint(str(inside)).model, saved.model)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(saved.model(images).logits, theirs(images).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"size": 600, "max_size": 900}, (600, 900)),
        ({"size": {"shortest_edge": 640, "longest_edge": 1000}}, (640, 1000)),
        ({"size": {"shortest_edge": 640}}, (640, 1333)),
        ({"size": {"height": 640, "width": 640}}, (800, 1333)),
        ({}, (800, 1333)),
    ],
)
def test_input_sizes_come_from_the_preprocessor(
    tmp_path: Path, content: dict[str, Any], expected: tuple[int, int]
) -> None:
    folder = save_folder(tmp_path, small_model(HF_SMALL))
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    loaded = load_checkpoint(str(folder))
    assert (loaded.size, loaded.max_size) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "conditional_detr"}, 'model_type is "conditional_detr"'),
        ({"model_type": None}, "model_type is null"),
        ({"activation_function": "gelu"}, 'activation_function is "gelu", supported is "relu"'),
        ({"position_embedding_type": "v9"}, "position_embedding_type"),
        ({"auxiliary_loss": True}, "auxiliary_loss is true"),
        ({"id2label": {"0": "cat", "1": "dog"}}, "id2label names 2 classes, the weights have 3"),
        ({"id2label": {"1": "cat", "2": "dog", "3": "fish"}}, "ids 0 to 2"),
        ({"id2label": ["cat"]}, "expected an object"),
        ({"encoder_layers": 6}, "encoder_layers 6, its weights have 1"),
        ({"num_queries": 100}, "num_queries 100, its weights have 5"),
        ({"num_queries": "5"}, "expected a whole number"),
        ({"encoder_ffn_dim": 64}, "encoder_ffn_dim and decoder_ffn_dim differ"),
        ({"decoder_attention_heads": 2}, "differ"),
        ({"encoder_attention_heads": 5, "decoder_attention_heads": 5}, "can't be split into 5 heads"),
        ({"backbone": "resnet34"}, "its weights have (2, 2, 2, 2)"),
        ({"dilation": True}, "needs a ResNet of four bottleneck stages"),
        ({"backbone": "resnet18d"}, "the backbone is resnet18d"),
        ({"backbone": "resnetblur50"}, "the backbone is resnetblur50"),
        ({"backbone_config": {"model_type": "swin"}}, "the backbone is a swin"),
        ({"backbone_config": {"model_type": "resnet", "hidden_act": "silu"}}, "hidden_act"),
        ({"backbone_config": {"model_type": "resnet", "downsample_in_bottleneck": True}}, "downsample_in_bottleneck"),
        ({"backbone_config": {"model_type": "resnet", "out_features": ["stage3"]}}, "last stage"),
        ({"backbone_config": {"model_type": "resnet"}, "dilation": True}, "dilation is true"),
        ({"backbone_kwargs": {"out_indices": [1, 2, 3]}}, "last stage"),
        ({"backbone_kwargs": {"output_stride": 8}}, "output_stride is 8"),
    ],
)
def test_a_config_of_another_model_is_refused(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert expected in refused(save_folder(tmp_path, small_model(HF_SMALL), changes))


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    folder = save_folder(tmp_path, small_model(HF_SMALL))
    (folder / "config.json").write_text("{")
    assert "can't be read as JSON" in refused(folder)
    save_folder(tmp_path, small_model(HF_SMALL))
    cut(folder / "model.safetensors", 0.5)
    assert "damaged, truncated" in refused(folder)
    (folder / "model.safetensors").unlink()
    assert "neither model.safetensors nor pytorch_model.bin" in refused(folder)


def test_hugging_face_weights_without_their_config_are_refused(tmp_path: Path) -> None:
    folder = save_folder(tmp_path, small_model(HF_SMALL))
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        load_checkpoint(str(folder / "model.safetensors"))


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_hub_id_loads_config_and_weights_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    asked: list[list[str]] = []

    def snapshot_download(hub_id: str, allow_patterns: list[str]) -> str:
        assert hub_id == "someone/fish-detr"
        asked.append(allow_patterns)
        present = weights.endswith(".safetensors") or len(asked) == 2
        return str(save_folder(tmp_path, small_model(HF_SMALL), weights=weights if present else ""))

    module = types.ModuleType("huggingface_hub")
    monkeypatch.setattr(module, "snapshot_download", snapshot_download, raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    loaded = load_checkpoint("someone/fish-detr")
    assert (loaded.name, loaded.source) == ("someone/fish-detr", str(tmp_path))
    assert len(asked) == (1 if weights.endswith(".safetensors") else 2)
    assert all("config.json" in patterns for patterns in asked)


def test_a_hub_id_without_the_hub_s_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'stream-detr[hub]'" in refused("someone/fish-detr")


def test_a_hub_id_offline_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert "can't be had from the Hugging Face hub" in refused("someone/fish-detr")
