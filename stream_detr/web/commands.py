"""What a viewer can ask for, checked before it reaches the session. To add a command, add a row to COMMANDS."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from stream_detr.errors import UsageError
from stream_detr.web.messages import MOST_POINTS
from stream_detr.web.pictures import SIZES

if TYPE_CHECKING:
    from stream_detr.web.viewer import Viewer

_MOST_STREAMS = 64
_SHARED = {"attention": (str,), "layer": (int,), "head": (int, str), "direction": (str,)}

_Command = dict[str, Any]


def whole(value: object, name: str) -> int:
    """``value`` if it is a whole number.

    Raises:
        UsageError: it is anything else.
    """
    if type(value) is not int:  # a bool is an int as well
        raise UsageError(f"{name}: expected a whole number")
    return value


def switch(value: object) -> bool:
    """``value`` if it is true or false."""
    if type(value) is not bool:
        raise UsageError("on: expected true or false")
    return value


async def _call(function: Callable[..., object], *values: object, **settings: object) -> None:
    """Off the loop: a session that is busy keeps nobody's pictures waiting."""
    await asyncio.get_running_loop().run_in_executor(None, partial(function, *values, **settings))


async def _watch(viewer: Viewer, command: _Command) -> None:
    ids, wanted = command.get("streams"), whole(command.get("size"), "size")
    if not isinstance(ids, list) or len(ids) > _MOST_STREAMS:
        raise UsageError(f"streams: expected a list of at most {_MOST_STREAMS}")
    size = next((size for size in SIZES if size >= wanted), max(SIZES))
    viewer.watch([whole(stream_id, "streams") for stream_id in ids], size)


async def _points(viewer: Viewer, command: _Command) -> None:
    points = command.get("xy")
    if not isinstance(points, list) or len(points) > MOST_POINTS:
        raise UsageError(f"xy: expected a list of at most {MOST_POINTS} points")
    stream_id = whole(command.get("stream"), "stream")
    await viewer.point_at(stream_id, [_point(point) for point in points])


def _point(value: object) -> tuple[float, float]:
    if isinstance(value, list) and len(value) == 2 and all(type(number) in (int, float) for number in value):
        x, y = value
        if 0 <= x <= 1 and 0 <= y <= 1:
            return float(x), float(y)
    raise UsageError("xy: expected points as fractions of the frame, from 0 to 1")


async def _change(viewer: Viewer, command: _Command) -> None:
    settings = command.get("settings")
    if not isinstance(settings, dict) or not settings.keys() <= _SHARED.keys():
        raise UsageError(f"settings: expected some of {', '.join(_SHARED)}")
    for name, value in settings.items():
        if type(value) not in _SHARED[name]:
            raise UsageError(f"{name}: expected {' or '.join(kind.__name__ for kind in _SHARED[name])}")
    await _call(viewer.session.change, **settings)
    viewer.announce()


async def _pause(viewer: Viewer, command: _Command) -> None:
    await _call(viewer.session.pause, whole(command.get("stream"), "stream"), switch(command.get("on")))
    viewer.announce()


async def _record(viewer: Viewer, command: _Command) -> None:
    await _call(viewer.session.record, whole(command.get("stream"), "stream"), switch(command.get("on")))
    viewer.announce()


async def _camera(viewer: Viewer, command: _Command) -> None:
    name = command.get("name")
    viewer.close_camera()
    if switch(command.get("on")):
        viewer.open_camera(name if isinstance(name, str) else "")
    viewer.announce()


COMMANDS: dict[str, Callable[[Viewer, _Command], Awaitable[None]]] = {
    "watch": _watch,
    "points": _points,
    "change": _change,
    "pause": _pause,
    "record": _record,
    "camera": _camera,
}
