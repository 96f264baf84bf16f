"""Tensors out of files that nobody vouches for: no file is ever allowed to run code."""

from __future__ import annotations

import argparse
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stream_detr.errors import CheckpointError

WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")

HARMLESS = ("torch.", "collections.", "argparse.Namespace")  # passed over in the search for the culprit
LIMIT_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Weights:
    """What a file holds: ``tensors`` by name, ``args`` of the training script, ``metadata`` of a safetensors file."""

    tensors: dict[str, Tensor]
    args: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def read_weights(path: Path) -> Weights:
    """Read a ``.safetensors`` file or, under any other suffix, a PyTorch checkpoint: a state dict or a dict with one.

    Raises:
        CheckpointError: the file can't be read, is damaged, is no such file, or wants to run code.
    """
    try:
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror or error})") from error


def _read_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            return Weights({name: file.get_tensor(name) for name in file.keys()}, metadata=file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: is damaged, truncated or no safetensors file ({error}): download or copy it again"
        ) from error


def _read_torch(path: Path) -> Weights:
    try:
        # The paper's training script stores its argparse.Namespace, which is plain data. Mapping the file spares
        # reading the optimizer's state, several times the size of the model; only zip archives can be mapped.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:  # torch.load answers bad input with whatever its parser trips over
        raise _explain(path, str(error)) from error
    state, args = content, None
    if isinstance(content, dict):
        args = content.get("args")
        state = next((content[key] for key in ("model", "state_dict") if isinstance(content.get(key), dict)), content)
    tensors = {str(k): v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, dict) else {}
    if not tensors:
        raise CheckpointError(f"{path}: holds no state dict (a dict of tensors, alone or under the key 'model')")
    if all(name.startswith("module.") for name in tensors):  # saved from DistributedDataParallel
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return Weights(tensors, args=dict(vars(args)) if isinstance(args, argparse.Namespace) else {})


def _explain(path: Path, reason: str) -> CheckpointError:
    """Why ``torch.load`` failed, in one line."""
    if match := re.search(r"GLOBAL ([\w.]+)", reason):
        return _refusal(path, match[1])
    head = _pickle_in(path)
    if head[:1] == b"\x80":
        for name in _imports_of_pickle(head):
            if not name.startswith(HARMLESS):
                return _refusal(path, name)
    if head[:1] == b"\x80" or head[:2] == b"PK":
        return CheckpointError(f"{path}: is damaged, truncated or no PyTorch checkpoint: download or copy it again")
    return CheckpointError(f"{path}: is not a PyTorch checkpoint{'' if head else ' but an empty file'}")


def _pickle_in(path: Path) -> bytes:
    """The pickle inside a checkpoint that is a zip archive, otherwise the first bytes of the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(name) as file:
                return file.read(LIMIT_BYTES)
    except Exception:  # no archive, or a damaged one, for which zipfile has a dozen kinds of errors
        with path.open("rb") as file:
            return file.read(LIMIT_BYTES)


def _refusal(path: Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: refused, it is a pickle that would run code when loaded ({name}); "
        "ask for a plain state dict (torch.save(model.state_dict(), ...)) or a .safetensors file"
    )


def _imports_of_pickle(content: bytes) -> Iterator[str]:
    """Dotted names that a pickle would import; it is only looked at, never run."""
    strings: list[str] = []
    try:
        for opcode, value, _ in pickletools.genops(content):
            if opcode.name == "GLOBAL":
                yield str(value).replace(" ", ".")
            elif opcode.name == "STACK_GLOBAL":
                yield ".".join(strings[-2:])
            elif isinstance(value, str):
                strings.append(value)
    except ValueError:
        return
