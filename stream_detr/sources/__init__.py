"""Where frames come from. A source is opened from an :class:`Input` and iterated once, from any one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, Self

from stream_detr.errors import SourceError
from stream_detr.sources.images import ImagesSource
from stream_detr.sources.inputs import Input, find_inputs, without_credentials
from stream_detr.sources.pattern import PatternSource
from stream_detr.sources.video import VideoSource
from stream_detr.structures import AudioTrack, Frame, StreamInfo

__all__ = ["SOURCES", "Input", "Source", "find_inputs", "open_source", "without_credentials"]


class Source(Protocol):
    """A stream of frames, upright, RGB, with rising timestamps. It is open once it is made, and iterated once.

    ``audio`` is filled while the frames are read, for a sink that wants to copy it.
    """

    @property
    def info(self) -> StreamInfo:
        """What is known before the first frame."""
        ...

    @property
    def audio(self) -> AudioTrack | None:
        """Sound that goes with the pictures."""
        ...

    def __iter__(self) -> Iterator[Frame]:
        """The frames. Raises SourceError where the stream breaks off for another reason than its end."""
        ...

    def close(self) -> None:
        """Let go of files and connections; a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


def open_source(given: Input | str) -> Source:
    """Open an input, or what a user typed for a single one.

    Raises:
        SourceError: it can't be opened, has no picture, or names several inputs.
    """
    if isinstance(given, str):
        inputs = find_inputs([given])
        if len(inputs) > 1:
            raise SourceError(f"{without_credentials(given)}: {len(inputs)} inputs; open them one by one")
        given = inputs[0]
    return SOURCES[given.kind](given)


# To add a source: a class with this Protocol's members, a key here, and what finds it in inputs.py.
SOURCES: dict[str, Callable[[Input], Source]] = {
    "video": VideoSource,
    "images": ImagesSource,
    "pattern": PatternSource,
}
