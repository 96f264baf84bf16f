"""Which output belongs to which input, and that nothing is overwritten by accident."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from stream_detr.errors import UsageError
from stream_detr.sinks import check_output
from stream_detr.sinks.outputs import is_folder
from stream_detr.sources import Input


@dataclass(frozen=True, slots=True)
class Job:
    """One input and the file, or the folder of images, that it becomes."""

    input: Input
    output: str


def plan(inputs: Sequence[Input], output: str) -> list[Job]:
    """Give every input its output.

    ``output`` with a suffix is a file and fits one input. Anything else is a folder, in which a video keeps its
    name, with the suffix ``.mp4``, and an image its own; images of a second folder or glob get a folder below.

    Raises:
        UsageError: several inputs for one file.
    """
    if not is_folder(output):
        if len(inputs) > 1:
            raise UsageError(f"{output}: holds one result, but there are {len(inputs)} inputs; give a folder")
        return [Job(inputs[0], output)]
    jobs: list[Job] = []
    for each in inputs:
        used = {job.output for job in jobs}
        jobs.append(Job(each, _unused(output, each, used)))
    return jobs


def check_outputs(
    jobs: Sequence[Job], files: Sequence[str | None], maps: str | None = None, *, overwrite: bool
) -> None:
    """Refuse outputs that exist or can't be written; ``files`` are those beside, ``maps`` is a file or a folder, None =
    not asked for.

    Raises:
        UsageError: a path is named for two things, or an input would be overwritten.
        SinkError: a path exists already and ``overwrite`` is off, or can't be written.
    """
    inputs = {os.path.realpath(uri) for job in jobs for uri in job.input.uris}
    seen: set[str] = set()
    for path in [job.output for job in jobs] + [path for path in (*files, maps) if path]:
        place = os.path.realpath(path)
        if place in seen:
            raise UsageError(f"{path}: is named for two outputs; give each its own file")
        if place in inputs or any(os.path.dirname(uri) == place for uri in inputs):
            raise UsageError(f"{path}: an input would be overwritten; choose another output")
        seen.add(place)
    for job in jobs:
        check_output(job.output, overwrite)
    for file in files:
        if file:
            check_output(file, overwrite, may_be_folder=False)
    if maps:
        check_output(maps, overwrite)


def _stem(given: Input) -> str:
    """File name for what an input becomes, without suffix."""
    path = urlsplit(given.name).path if "://" in given.name else given.name
    return Path(path).stem or given.kind


def _unused(folder: str, given: Input, used: set[str]) -> str:
    """A path in ``folder`` for one input that no other has: a video's file, or where its images go."""
    number = 1
    while True:
        if given.kind == "images":
            # The separator at the end says folder, also of one that has a suffix in its name.
            path = os.path.join(folder, "" if number == 1 else f"images-{number}", "")
        else:
            path = os.path.join(folder, f"{_stem(given)}{'' if number == 1 else f'-{number}'}.mp4")
        if path not in used:
            return path
        number += 1
