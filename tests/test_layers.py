"""The architecture as a table: modules import only from lower layers, libraries stay behind fences."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "stream_detr"

# A folder counts as one module: inside it files may import one another.
LAYERS = [
    {"structures", "boxes", "errors", "runtime"},
    {"measures"},
    {"zones", "sources", "sinks", "overlay", "models", "preprocess", "attention", "postprocess", "figure", "device"},
    {"detector", "tracking", "prefetch", "config", "plan", "report"},
    {"capture"},
    {"pipeline", "live", "inspection", "bench", "interop"},
    {"web"},
    {"cli"},
]

# Library or built-in name: the only modules that may touch it.
FENCES = {
    "av": {"sources", "sinks"},
    "cv2": {"sources", "sinks", "overlay", "preprocess"},
    "torch": {"models", "preprocess", "attention", "postprocess", "device", "detector", "bench"},
    "torchvision": {"models", "preprocess"},
    "matplotlib": {"figure"},
    "pydantic": {"config"},
    "threading": {"prefetch", "live"},  # live: locks and events only
    "Thread": {"prefetch"},
    "queue": {"prefetch"},
    "concurrent": {"prefetch"},
    "multiprocessing": set(),
    "argparse": {"cli", "models"},  # published checkpoints hold their training arguments as a Namespace
    "print": {"cli"},
    "exit": {"cli", "__main__"},
}

FORBIDDEN_NAMES = [
    *("util", "helper", "misc", "common", "core", "base"),
    *("manager", "handler", "processor", "service", "engine", "wrapper"),
]

FILES = sorted(PACKAGE.rglob("*.py"))


def layer_of(module: str) -> int:
    found = [number for number, names in enumerate(LAYERS) if module in names]
    assert found, f"{module} is in no layer: add it to LAYERS"
    return found[0]


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> list[str]:
    """Dotted names of everything a file imports, wherever in the file."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}, line {node.lineno}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def called(path: Path) -> list[str]:
    """print, exit, sys.exit and SystemExit, as far as a file uses them."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name) and node.id in ("print", "exit", "quit", "SystemExit"):
            names.append("print" if node.id == "print" else "exit")
        elif isinstance(node, ast.Attribute) and node.attr in ("exit", "_exit"):
            names.append("exit")
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_lower_layers(path: Path) -> None:
    module = module_of(path)
    if module in ("__init__", "__main__"):
        return
    for name in imported(path):
        library, _, rest = name.partition(".")
        if library != "stream_detr":
            continue
        other = rest.split(".")[0]
        assert (PACKAGE / other).is_dir() or (PACKAGE / f"{other}.py").is_file(), f"{name}: the package root"
        assert other == module or layer_of(other) < layer_of(module), f"{module} must not import {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_stay_behind_their_fences(path: Path) -> None:
    names = imported(path)
    for name in {name.split(".")[0] for name in names} | {name.split(".")[-1] for name in names} | set(called(path)):
        allowed = FENCES.get(name)
        assert allowed is None or module_of(path) in allowed, f"{name} belongs in {sorted(allowed or ())}"


def test_every_layered_name_is_used_once() -> None:
    names = [name for layer in LAYERS for name in sorted(layer)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_names_say_what_a_thing_is(path: Path) -> None:
    classes = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    for name in [path.stem, path.parent.name, *classes]:
        lowered = name.lower()
        assert not any(lowered.endswith((word, f"{word}s")) for word in FORBIDDEN_NAMES), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 320, f"{lines} lines: split it by noun"
