"""Models out of checkpoints. The shape of the model is read from the file, never typed by the user.

Four layouts load into one model: the paper's ``.pth``, the notebook's ``.pth``, Hugging Face's folders, and our own
``.safetensors`` (the paper's tensor names plus ``config``, ``class_names`` and sizes as JSON in the metadata).
Two things leave no trace in the tensors: the number of heads (8 unless the file's arguments or config say otherwise)
and the dilation of the DC5 models, for which see `find_dilation`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from stream_detr.errors import CheckpointError
from stream_detr.models import huggingface, registry
from stream_detr.models.detr import Detr, DetrConfig, DetrDemo
from stream_detr.models.labels import default_names
from stream_detr.models.weights import WEIGHT_SUFFIXES, Weights, read_weights

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ("config.json", "preprocessor_config.json")
METADATA_KEYS = ("config", "class_names", "size", "max_size")
DEFAULT_SIZES = (800, 1333)  # shorter side and limit of the longer one, as the published models are evaluated


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in evaluation mode, float32 on the CPU, not yet prepared, and what belongs to it.

    ``class_names`` names class ids 0 to K - 1. ``source`` is the file or folder it came from. ``size`` and
    ``max_size``: the shorter side of its input and the limit of the longer one, in pixels.
    """

    model: Detr | DetrDemo
    class_names: tuple[str, ...]
    name: str
    source: str
    size: int = DEFAULT_SIZES[0]
    max_size: int = DEFAULT_SIZES[1]


def load_checkpoint(name_or_path: str) -> LoadedModel:
    """Load a model of `registry.MODELS` (downloaded when it has to be), a file, a Hugging Face folder or a hub id.

    Raises:
        CheckpointError: there is no such thing, it is damaged or unsafe, or it is not a DETR this package knows.
    """
    if name_or_path in registry.MODELS:
        return replace(_load_file(registry.fetch(name_or_path), name_or_path), name=name_or_path)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return _load_folder(path, path.resolve().name)
    if path.is_file():
        return _load_file(path)
    if HUB_ID.fullmatch(name_or_path) and path.suffix not in WEIGHT_SUFFIXES:
        return _load_folder(_download_from_hub(name_or_path), name_or_path)
    near = difflib.get_close_matches(name_or_path, registry.MODELS, 1)
    hint = f"did you mean {near[0]}?" if near else f"known names are {', '.join(registry.MODELS)}"
    raise CheckpointError(f"{name_or_path}: no such file or folder and no model's name; {hint}")


def unloaded_model(spec: registry.ModelSpec, source: str) -> LoadedModel:
    """A published model's shape without its weights (meta tensors), for describing what is not on this machine."""
    config = DetrConfig(depths=spec.depths, dilation=spec.dilation)
    with torch.device("meta"):
        model = DetrDemo(config) if spec.name == "detr_demo" else Detr(config)
    return LoadedModel(model.eval(), default_names(config.num_classes), spec.name, source)


def save_checkpoint(
    path: Path,
    model: Detr | DetrDemo,
    class_names: tuple[str, ...],
    dtype: torch.dtype = torch.float16,
    sizes: tuple[int, int] = DEFAULT_SIZES,
) -> None:
    """Write a model as ``.safetensors`` in our own layout; ``sizes`` are `LoadedModel`'s ``size, max_size``."""
    state = {
        name: tensor.to("cpu", dtype).contiguous()
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    told = {
        "config": dataclasses.asdict(model.config),
        "class_names": class_names,
        "size": sizes[0],
        "max_size": sizes[1],
    }
    save_file(state, path, metadata={key: json.dumps(value) for key, value in told.items()})


def _load_file(path: Path, name: str | None = None) -> LoadedModel:
    """``name`` is the registry's name by which the file was asked for, if it was."""
    weights = read_weights(path)
    if huggingface.is_hugging_face(weights.tensors):
        return _load_hugging_face(weights.tensors, path.parent, path.stem)
    state = weights.tensors
    check_is_detr(state, path)
    if "config" in weights.metadata:
        config, facts = _read_metadata(weights.metadata, path)
    else:
        heads = weights.args.get("nheads")
        dilation = find_dilation(weights, path, name)
        config, facts = read_shape(state, heads if isinstance(heads, int) else 8, dilation), {}
    names = facts.get("class_names") or default_names(config.num_classes)
    if len(names) != config.num_classes:
        raise CheckpointError(
            f"{path}: has {config.num_classes} classes but {len(names)} class names: they are not of one model"
        )
    sizes = (int(facts.get("size", DEFAULT_SIZES[0])), int(facts.get("max_size", DEFAULT_SIZES[1])))
    return LoadedModel(build(state, config, path), tuple(names), path.stem, str(path), *sizes)


def _read_metadata(metadata: dict[str, str], path: Path) -> tuple[DetrConfig, dict[str, Any]]:
    """The model's shape and everything else that the metadata of our own layout says."""
    try:
        facts: dict[str, Any] = {key: json.loads(metadata[key]) for key in METADATA_KEYS if key in metadata}
        given = facts.pop("config")
        return DetrConfig(**{**given, "depths": tuple(given["depths"])}), facts
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: its metadata does not describe a model ({error})") from error


def _load_folder(folder: Path, name: str) -> LoadedModel:
    huggingface.HuggingFaceConfig(folder)  # refuse a wrong model before its weights are read
    return _load_hugging_face(huggingface.read_folder(folder), folder, name)


def _load_hugging_face(tensors: dict[str, Tensor], folder: Path, name: str) -> LoadedModel:
    described = huggingface.HuggingFaceConfig(folder)
    state = huggingface.rename(tensors)
    check_is_detr(state, folder)
    config = described.config(state["class_embed.weight"].shape[0] - 1)
    names = described.class_names(config.num_classes) or default_names(config.num_classes)
    sizes = described.sizes() or DEFAULT_SIZES
    return LoadedModel(build(state, config, folder), names, name, str(folder), *sizes)


def _download_from_hub(hub_id: str) -> Path:
    """Folder with the config and the weights of a model on the Hugging Face hub, fetched when it is not there yet."""
    try:
        import huggingface_hub  # an optional extra
    except ImportError as error:
        raise CheckpointError(
            f"{hub_id}: is no file or folder here, and a model from the Hugging Face hub needs huggingface_hub: "
            "pip install 'stream-detr[hub]'"
        ) from error
    try:
        safe = ["*.safetensors", "*.safetensors.index.json"]
        folder = Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=[*HUB_FILES, *safe]))
        if not any(folder.glob("*.safetensors")):
            pickled = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]
            folder = Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=[*HUB_FILES, *pickled]))
    except Exception as error:  # its errors have no common base, and differ between versions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{hub_id}: is no file or folder here and can't be had from the Hugging Face hub ({reason}); "
            "give the path of a downloaded folder"
        ) from error
    return folder


def check_is_detr(state: dict[str, Tensor], path: Path) -> None:
    """Refuse what is not a detection DETR in the paper's layout or the notebook's.

    Raises:
        CheckpointError: with a few of the names that are missing and of those found instead.
    """
    if any(name.startswith(("detr.", "mask_head.", "bbox_attention.")) for name in state):
        raise CheckpointError(f"{path}: is a segmentation DETR, which is not supported; give a detection checkpoint")
    demo = "linear_class.weight" in state
    heads = ("linear_class", "query_pos", "conv") if demo else ("class_embed", "query_embed", "input_proj")
    body = "backbone." if demo else "backbone.0.body."
    wanted = [
        *(name if name == "query_pos" else f"{name}.weight" for name in heads),
        f"{body}conv1.weight",
        f"{body}layer1.0.conv1.weight",
        "transformer.encoder.layers.0.linear1.weight",
        "transformer.decoder.layers.0.linear1.weight",
    ]
    if missing := [name for name in wanted if name not in state or state[name].dim() < 2]:
        raise CheckpointError(f"{path}: is not a DETR: lacks {_few(missing)}; has {_few(list(state))}")


def _few(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{rest}"


def _count(state: dict[str, Tensor], prefix: str) -> int:
    """How many numbers follow ``prefix`` in the names: layers of a stack, blocks of a stage."""
    found = {int(match[1]) for name in state if (match := re.match(rf"{re.escape(prefix)}(\d+)\.", name))}
    return len(found)


def read_shape(state: dict[str, Tensor], num_heads: int, dilation: bool) -> DetrConfig:
    """The shape of a model that passed `check_is_detr`, from its tensors; heads and dilation leave no trace there."""
    demo = "linear_class.weight" in state
    body = "backbone." if demo else "backbone.0.body."
    head = state["linear_class.weight" if demo else "class_embed.weight"]  # (K + 1, D)
    return DetrConfig(
        block="bottleneck" if f"{body}layer1.0.conv3.weight" in state else "basic",
        depths=tuple(_count(state, f"{body}layer{stage}.") for stage in range(1, _stages(state, body) + 1)),
        dilation=dilation,
        num_classes=head.shape[0] - 1,
        num_queries=state["query_pos" if demo else "query_embed.weight"].shape[0],
        hidden_dim=head.shape[1],
        num_heads=num_heads,
        encoder_layers=_count(state, "transformer.encoder.layers."),
        decoder_layers=_count(state, "transformer.decoder.layers."),
        feedforward_dim=state["transformer.encoder.layers.0.linear1.weight"].shape[0],
        pre_norm=not demo and "transformer.encoder.norm.weight" in state,
        positions="learned" if "backbone.1.row_embed.weight" in state else "sine",
    )


def _stages(state: dict[str, Tensor], body: str) -> int:
    return _count({name.replace(f"{body}layer", "layer."): tensor for name, tensor in state.items()}, "layer.")


def find_dilation(weights: Weights, path: Path, name: str | None) -> bool:
    """Whether a checkpoint in the paper's layout is a DC5 model, from everything that can know.

    DC5 and plain models have the same names and shapes. Witnesses are the name by which the model was asked for, the
    arguments of its training, its file's name, and the checksum of the published files.

    Raises:
        CheckpointError: two of them contradict each other.
    """
    witnesses: dict[str, bool] = {}
    if "dilation" in weights.args:
        witnesses["the training arguments in it"] = bool(weights.args["dilation"])
    if name is not None:
        witnesses[f"the name {name}"] = registry.MODELS[name].dilation
    elif not witnesses and (published := registry.recognise(path)):
        witnesses[f"its content (published as {published.name})"] = published.dilation
    if re.search(r"dc5", path.name, re.IGNORECASE):
        witnesses["the file's name"] = True
    for spec in registry.MODELS.values():
        if spec.url and path.name in (spec.file, f"{spec.name}.pth"):
            witnesses["the file's name"] = spec.dilation
    if len(set(witnesses.values())) > 1:
        told = ", ".join(f"{witness} says {'DC5' if dilated else 'plain'}" for witness, dilated in witnesses.items())
        raise CheckpointError(f"{path}: DC5 or plain? {told}; rename the file or give the right one")
    return any(witnesses.values())


def build(state: dict[str, Tensor], config: DetrConfig, path: Path) -> Detr | DetrDemo:
    """A model of ``config``'s shape with the tensors of ``state``, in evaluation mode and float32.

    Raises:
        CheckpointError: names or shapes are not those of such a model.
    """
    found = read_shape(state, config.num_heads, config.dilation)
    for entry in dataclasses.fields(DetrConfig):
        said, real = getattr(config, entry.name), getattr(found, entry.name)
        if said != real:
            raise CheckpointError(f"{path}: its config says {entry.name} {said}, its weights have {real}")
    if config.num_heads < 1 or config.hidden_dim % config.num_heads:
        raise CheckpointError(f"{path}: width {config.hidden_dim} can't be split into {config.num_heads} heads")
    if config.dilation and (config.block != "bottleneck" or len(config.depths) != 4):
        raise CheckpointError(f"{path}: a DC5 model needs a ResNet of four bottleneck stages, this is {config.depths}")
    with torch.device("meta"):  # nothing is initialised that the checkpoint overwrites
        model = DetrDemo(config) if "linear_class.weight" in state else Detr(config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    if missing := [name for name in expected if name not in state]:
        raise CheckpointError(f"{path}: is not a DETR this package knows: lacks {_few(missing)}")
    if surplus := [name for name in state if name not in expected]:
        raise CheckpointError(f"{path}: is not a DETR this package knows: has {_few(surplus)} besides")
    for name, tensor in state.items():
        if tensor.shape != expected[name]:
            shapes = f"{tuple(tensor.shape)}, expected {tuple(expected[name])}"
            raise CheckpointError(f"{path}: is not a DETR this package knows: {name} is {shapes}")
    model.load_state_dict(
        {name: tensor.to(torch.float32, copy=True).contiguous() for name, tensor in state.items()}, assign=True
    )
    return model.eval()
