"""Hugging Face's DETR and Table Transformer: their config, and their tensors under the paper's names.

Names differ between versions of their library: ``conv_encoder`` and ``out_proj`` up to version 4 and in every saved
file, ``o_proj`` and ``mlp.fc1`` inside version 5. Both are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stream_detr.errors import CheckpointError
from stream_detr.models.detr import DetrConfig
from stream_detr.models.weights import read_weights

MODEL_TYPES = ("detr", "table-transformer")
CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
COUNTS = (
    "num_queries",
    "d_model",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "decoder_layers",
    "decoder_attention_heads",
    "decoder_ffn_dim",
)
RESNETS: dict[str, tuple[str, tuple[int, ...]]] = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
}

# Applied in this order to every name; the q, k and v projections are packed afterwards.
RENAMES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"^model\.", ""),
    (r"^backbone\.(conv_encoder\.)?model\.(_backbone\.)?", "backbone.0.body."),
    (r"\.embedder\.embedder\.convolution\.", ".conv1."),
    (r"\.embedder\.embedder\.normalization\.", ".bn1."),
    (r"\.encoder\.stages\.(\d+)\.layers\.", lambda match: f".layer{int(match[1]) + 1}."),
    (r"\.layer\.(\d+)\.convolution\.", lambda match: f".conv{int(match[1]) + 1}."),
    (r"\.layer\.(\d+)\.normalization\.", lambda match: f".bn{int(match[1]) + 1}."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"^(backbone\.)?position_embedding\.row_embeddings\.", "backbone.1.row_embed."),
    (r"^(backbone\.)?position_embedding\.column_embeddings\.", "backbone.1.col_embed."),
    (r"^(encoder|decoder)\.", r"transformer.\1."),
    (r"\.(encoder|decoder)\.layernorm\.", r".\1.norm."),
    (r"\.encoder_attn\.", ".multihead_attn."),
    (r"_attn\.o_proj\.", "_attn.out_proj."),
    (r"\.(mlp\.)?fc([12])\.", r".linear\2."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.encoder_attn_layer_norm\.", ".norm2."),
    (r"(\.encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm2."),
    (r"(\.decoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm3."),
    (r"^input_projection\.", "input_proj."),
    (r"^query_position_embeddings\.", "query_embed."),
    (r"^class_labels_classifier\.", "class_embed."),
    (r"^bbox_predictor\.", "bbox_embed."),
]


def is_hugging_face(tensors: dict[str, Tensor]) -> bool:
    """Whether the names are those of Hugging Face's DETR."""
    return any(name.endswith("query_position_embeddings.weight") for name in tensors)


def rename(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's names -> the paper's; separate q, k and v projections -> one packed projection."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    for name in [name for name in renamed if ".q_proj." in name]:
        parts = [name.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
        if all(part in renamed for part in parts):
            packed = torch.cat([renamed.pop(part) for part in parts])
            renamed[name.replace(".q_proj.", ".in_proj_")] = packed
    return renamed


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: one file, or the shards that its index lists.

    Raises:
        CheckpointError: there is no weight file, or a shard is missing or damaged.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return read_weights(folder / name).tensors
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(_read_json(index).get("weight_map", {}).values()))
            return {key: tensor for shard in shards for key, tensor in read_weights(folder / shard).tensors.items()}
    raise CheckpointError(f"{folder}: holds {CONFIG_FILE} but neither {' nor '.join(WEIGHT_FILES)}: download it again")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: can't be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return content


class HuggingFaceConfig:
    """What ``config.json`` says, checked to be a model that `Detr` computes alike.

    Raises:
        CheckpointError: it is missing or unreadable, or describes another kind of model.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / CONFIG_FILE
        if not self.path.is_file():
            raise CheckpointError(
                f"{folder}: holds no {CONFIG_FILE}; a Hugging Face model is a folder with {CONFIG_FILE} and "
                f"{' or '.join(WEIGHT_FILES)}, any other model is given as the path of its file"
            )
        self.content = _read_json(self.path)
        self._require("model_type", *MODEL_TYPES)
        self._require("activation_function", None, "relu")
        self._require("position_embedding_type", None, "sine", "learned")
        self._require("num_channels", None, 3)
        # True makes Hugging Face's decoder normalise its state after every layer, which is not the paper's model.
        self._require("auxiliary_loss", None, False)
        for key in COUNTS:
            if type(self.content.get(key, 1)) is not int:
                raise self._error(f"{key} is {json.dumps(self.content[key])}, expected a whole number")
        if self.content.get("encoder_attention_heads", 8) != self.content.get("decoder_attention_heads", 8):
            raise self._error("encoder_attention_heads and decoder_attention_heads differ, which is not supported")
        if self.content.get("encoder_ffn_dim", 2048) != self.content.get("decoder_ffn_dim", 2048):
            raise self._error("encoder_ffn_dim and decoder_ffn_dim differ, which is not supported")

    def _error(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {what}")

    def _require(self, key: str, *allowed: Any, within: dict[str, Any] | None = None) -> None:
        value = (self.content if within is None else within).get(key)
        if value not in allowed:
            known = " or ".join(json.dumps(choice) for choice in allowed if choice is not None)
            raise self._error(f"{key} is {json.dumps(value)}, supported is {known}")

    def _object(self, key: str) -> dict[str, Any]:
        value = self.content.get(key) or {}
        if not isinstance(value, dict):
            raise self._error(f"{key} is {json.dumps(value)}, expected an object")
        return value

    def config(self, num_classes: int) -> DetrConfig:
        """The model's shape as the config has it; ``num_classes`` (K) is the one thing left to the weights."""
        block, depths, dilation = self._backbone()
        return DetrConfig(
            block=block,
            depths=depths,
            dilation=dilation,
            num_classes=num_classes,
            num_queries=self.content.get("num_queries", 100),
            hidden_dim=self.content.get("d_model", 256),
            num_heads=self.content.get("encoder_attention_heads", 8),
            encoder_layers=self.content.get("encoder_layers", 6),
            decoder_layers=self.content.get("decoder_layers", 6),
            feedforward_dim=self.content.get("encoder_ffn_dim", 2048),
            pre_norm=self.content["model_type"] == "table-transformer",
            positions=self.content.get("position_embedding_type", "sine"),
        )

    def _backbone(self) -> tuple[str, tuple[int, ...], bool]:
        """Block, blocks per stage, dilation."""
        inner = self._object("backbone_config")
        if inner.get("model_type") == "resnet":
            return self._native_backbone(inner)
        if inner.get("model_type", "timm_backbone") != "timm_backbone":
            raise self._error(f"the backbone is a {inner['model_type']}, supported is a ResNet")
        name = str(inner.get("backbone") or self.content.get("backbone") or "resnet50")
        # Other timm names, such as resnet50d or resnetblur50, share tensor names but compute something else.
        match = re.fullmatch(r"(?:tv_)?(resnet\d+)(?:\.\w+)?", name)
        if match is None or match[1] not in RESNETS:
            raise self._error(f"the backbone is {name}, supported are {', '.join(RESNETS)}")
        kwargs = self._object("backbone_kwargs")
        if list(inner.get("out_indices") or kwargs.get("out_indices") or [4])[-1] not in (4, -1):
            raise self._error("the backbone's last stage is not the one that is used, which is not supported")
        strides = {inner.get("output_stride"), kwargs.get("output_stride")} - {None}
        if not strides <= {16, 32}:
            raise self._error(f"the backbone's output_stride is {strides.pop()}, supported are 16 and 32")
        block, depths = RESNETS[match[1]]
        return block, depths, 16 in strides or (bool(self.content.get("dilation")) and not strides)

    def _native_backbone(self, inner: dict[str, Any]) -> tuple[str, tuple[int, ...], bool]:
        self._require("hidden_act", None, "relu", within=inner)
        self._require("downsample_in_first_stage", None, False, within=inner)
        self._require("downsample_in_bottleneck", None, False, within=inner)
        depths = tuple(inner.get("depths", (3, 4, 6, 3)))
        if (inner.get("out_features") or [f"stage{len(depths)}"])[-1] != f"stage{len(depths)}":
            raise self._error("the backbone's last stage is not the one that is used, which is not supported")
        if self.content.get("dilation"):
            raise self._error(
                "dilation is true, which Hugging Face ignores for its own ResNet: set it to what is meant"
            )
        return inner.get("layer_type", "bottleneck"), depths, False

    def class_names(self, num_classes: int) -> tuple[str, ...] | None:
        """Names from ``id2label``; None where there is none.

        Raises:
            CheckpointError: the labels are not those of ``num_classes`` (K) classes.
        """
        labels = self._object("id2label")
        if not labels:
            return None
        if {str(key) for key in labels} != {str(i) for i in range(num_classes)}:
            raise self._error(
                f"id2label names {len(labels)} classes, the weights have {num_classes} (ids 0 to {num_classes - 1}): "
                "they are not of one model"
            )
        return tuple(str(labels[str(i)]) for i in range(num_classes))

    def sizes(self) -> tuple[int, int] | None:
        """Shorter side and limit of the longer one from ``preprocessor_config.json``; None where it has none."""
        path = self.path.with_name("preprocessor_config.json")
        if not path.is_file():
            return None
        content = _read_json(path)
        size = content.get("size")
        if isinstance(size, dict):
            shorter, longest = size.get("shortest_edge"), size.get("longest_edge", content.get("max_size"))
        else:
            shorter, longest = size, content.get("max_size")
        if shorter is None and isinstance(size, dict) and "height" not in size:
            shorter = longest  # only the longer side is bounded: it becomes that long
        if not isinstance(shorter, int):
            return None
        return shorter, longest if isinstance(longest, int) else 1333
