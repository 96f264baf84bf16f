"""The models that have a name, and where their files are.

Importing this costs nothing: PyTorch is imported only where a file is looked for, so that names can be listed at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from stream_detr.errors import CheckpointError

TIMEOUT_SECONDS = 30.0
CHUNK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A named model. ``sha256`` is how its file's checksum starts, in hex (torch hub's rule: part of the file's name).

    Without ``url`` the file is part of this package. ``depths`` are the blocks per stage of its ResNet.
    """

    name: str
    description: str
    file: str
    url: str | None = None
    sha256: str = ""
    depths: tuple[int, ...] = (3, 4, 6, 3)
    dilation: bool = False


def _published(
    name: str, description: str, file: str, depths: tuple[int, ...] = (3, 4, 6, 3), dilation: bool = False
) -> ModelSpec:
    """A model that the authors of DETR published (github.com/facebookresearch/detr, "Model Zoo")."""
    url = f"https://dl.fbaipublicfiles.com/detr/{file}"
    return ModelSpec(name, description, file, url, file.removesuffix(".pth").rsplit("-", 1)[1], depths, dilation)


def locate(spec: ModelSpec) -> Path:
    """Where the model's file is, or would be once it is fetched."""
    if spec.url is None:
        return Path(__file__).with_name(spec.file)
    import torch  # heavy, and listing names does not need it

    return Path(torch.hub.get_dir()) / "checkpoints" / spec.file


def fetch(name: str, *, progress: bool = True) -> Path:
    """The file of a named model, downloaded into torch hub's cache when it is not there, its checksum verified.

    Raises:
        CheckpointError: there is no such name, the download failed, or the file is not what was published.
    """
    if name not in MODELS:
        raise CheckpointError(f"{name}: no model has this name; known names are {', '.join(MODELS)}")
    spec = MODELS[name]
    path = locate(spec)
    if spec.url is None:
        if not path.is_file():
            raise CheckpointError(f"{name}: {path} is missing from this installation: install stream-detr again")
    elif not path.is_file():
        _download(spec, path, progress)
    elif not _checksum(path).startswith(spec.sha256):
        raise CheckpointError(
            f"{name}: {path} is not the published file (its SHA-256 does not start with {spec.sha256}): "
            "delete it and it is downloaded again"
        )
    return path


def _download(spec: ModelSpec, path: Path, progress: bool) -> None:
    """Download to a file beside ``path`` and move it there only when it is complete and its checksum right."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        received = _receive(spec, partial, progress)
        if not received.startswith(spec.sha256):
            raise CheckpointError(
                f"{spec.name}: the download of {spec.url} arrived damaged (SHA-256 {received[:8]}, "
                f"expected {spec.sha256}): try again"
            )
        partial.replace(path)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # this kind of error is a response, and keeps the connection
        raise CheckpointError(
            f"{spec.name}: {spec.file} is not in {path.parent} and downloading {spec.url} failed ({_reason(error)}); "
            "put it there, or give its path with --model PATH"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # it was moved, or the folder could not be made
            partial.unlink()


def _receive(spec: ModelSpec, partial: Path, progress: bool) -> str:
    """Download into ``partial`` and return the SHA-256 of what came, in hex."""
    request = urllib.request.Request(str(spec.url), headers={"User-Agent": "stream-detr"})
    digest = hashlib.sha256()
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response, partial.open("wb") as file:
        total = int(response.headers.get("Content-Length") or 0)
        # disable=None: no bar where stderr is not a terminal.
        bar = tqdm(desc=spec.file, total=total or None, unit="B", unit_scale=True, disable=None if progress else True)
        with bar:
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
        if total and file.tell() != total:
            raise ConnectionError(f"the connection ended after {file.tell()} of {total} bytes")
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return str(getattr(cause, "strerror", None) or cause or type(cause).__name__)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recognise(path: Path) -> ModelSpec | None:
    """The published model whose file this is, by its content and under whatever name; None if it is none of them.

    About 0.1 seconds where the processor has SHA instructions.
    """
    checksum = _checksum(path)
    return next((spec for spec in MODELS.values() if spec.sha256 and checksum.startswith(spec.sha256)), None)


def describe(name_or_path: str) -> dict[str, object]:
    """Facts about a model for people to read, in order; never downloads a published one.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    # Not at the top: they import PyTorch, and `checkpoint` imports this module.
    from stream_detr.models.checkpoint import LoadedModel, load_checkpoint, unloaded_model

    spec = MODELS.get(name_or_path)
    if spec is not None and spec.url is not None and not locate(spec).is_file():
        where = f"not fetched; `stream-detr models fetch {spec.name}` downloads it to {locate(spec)}"
        loaded: LoadedModel = unloaded_model(spec, where)
    else:
        loaded = load_checkpoint(name_or_path)
    config = loaded.model.config
    stride = 2 ** (len(config.depths) + 1) // (2 if config.dilation else 1)
    network = type(loaded.model).__name__
    known = [name for name in loaded.class_names if name != "N/A"]
    return {
        "name": loaded.name,
        **({"description": spec.description} if spec is not None else {}),
        "architecture": f"{network}, {config.positions} positions, {'pre' if config.pre_norm else 'post'}-norm",
        "backbone": f"ResNet, {config.block} blocks {list(config.depths)}, stride {stride}",
        "transformer": f"{config.encoder_layers} + {config.decoder_layers} layers, {config.num_heads} heads, width "
        f"{config.hidden_dim}, feed-forward {config.feedforward_dim}",
        "queries": config.num_queries,
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "input": f"shorter side {loaded.size}, longer side at most {loaded.max_size} pixels",
        "classes": f"{len(known)}: {', '.join(known)}",
        "file": loaded.source,
    }


_DEPTHS_101 = (3, 4, 23, 3)

MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        _published("detr_resnet50", "DETR with ResNet-50, COCO, AP 42.0", "detr-r50-e632da11.pth"),
        _published(
            "detr_resnet50_dc5", "the same at half the stride, AP 43.3", "detr-r50-dc5-f0fb7ef5.pth", dilation=True
        ),
        _published("detr_resnet101", "DETR with ResNet-101, COCO, AP 43.5", "detr-r101-2c7b67e5.pth", _DEPTHS_101),
        _published(
            "detr_resnet101_dc5",
            "the same at half the stride, AP 44.9",
            "detr-r101-dc5-a2e86def.pth",
            _DEPTHS_101,
            True,
        ),
        _published("detr_demo", "the DETR notebook's 50-line model, ResNet-50, COCO", "detr_demo-da2a99e9.pth"),
        ModelSpec("tiny", "small model in this package, things drawn as emoji; needs no network", "tiny.safetensors"),
    )
}
