"""What the README says exists: its commands parse, its files are there, its flags are all the flags."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from pathlib import Path

import pytest

from stream_detr.cli.flags import build_parser, parse

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if line.strip().startswith("stream-detr ")]


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command: str) -> None:
    assert parse(shlex.split(command)[1:]).command is not None


def test_every_file_and_link_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    named = re.findall(r"`((?:stream_detr|scripts|tests|configs)/[\w./]*)`", README)
    assert len(links) > 3
    assert len(named) > 15
    for path in [*links, *named]:
        assert (ROOT / path).exists(), path


def test_no_figure_is_left_to_fill_in() -> None:
    assert not re.search(r"^[A-Z]+_[A-Z_]+$", README, re.MULTILINE)


def test_the_two_commands_are_executable() -> None:
    for name in ("demo", "test"):
        assert (ROOT / "scripts" / name).stat().st_mode & 0o111


def test_the_table_of_flags_is_all_of_them() -> None:
    commands = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    process = commands.choices["process"]
    actual = {flag for action in process._actions for flag in action.option_strings} - {"-h", "--help"}
    table = README.split("**Flags**")[1].split("`live` takes")[0]
    told = set(re.findall(r"`(--?[\w-]+)`", "\n".join(line for line in table.splitlines() if line.startswith("|"))))
    assert told == actual


def test_the_flags_of_live_are_those_of_process_less_some_and_more() -> None:
    commands = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    flags = {
        name: {flag for action in commands.choices[name]._actions for flag in action.option_strings}
        for name in ("process", "live")
    }
    text = README.split("`live` takes the same but for")[1].split("Exit codes")[0]
    without, more = (set(re.findall(r"`(--?[\w-]+)`", part)) for part in text.split("and these:"))
    assert without | {"--no-progress"} == flags["process"] - flags["live"] - {"--output"}
    assert more == flags["live"] - flags["process"]


def test_python_examples_are_valid() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        ast.parse(block)
