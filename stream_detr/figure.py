"""The notebook's figures of one frame, as one tall picture: objects, their attention, points, object to object."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import CaptureError, SinkError
from stream_detr.structures import AttentionMaps, Detections, Frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_OBJECTS = 36
"""Objects that get a map of their own: a figure of more is longer than anyone scrolls."""

# Lengths in inches. Axes are placed by hand: exact, where a layout engine takes minutes for a hundred of them.
_WIDTH, _MARGIN, _DPI = 13.0, 0.5, 110
_HEADING, _TITLE, _GAP = 0.6, 0.5, 0.2
_INK, _FAINT, _LINE = "#1c1c22", "#6b6b76", "#b8b8c0"
_CYCLE = ("#0072b2", "#d55e00", "#009e73", "#c4559c", "#b8860b", "#3aa5dd", "#8a2be2", "#c0222b")
_MAP_COLORS = "viridis"


class _Page:
    """A figure on which things are placed in inches from its upper left corner."""

    def __init__(self, height: float) -> None:
        from matplotlib.figure import Figure

        self.height = height
        self.figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")

    def axes(self, left: float, top: float, width: float, height: float, title: str = "", color: str = _INK) -> Axes:
        """New axes without ticks, a title above them."""
        bottom = 1 - (top + height) / self.height
        axes = self.figure.add_axes((left / _WIDTH, bottom, width / _WIDTH, height / self.height))
        axes.set_title(title, fontsize=10, color=color, pad=5, parse_math=False)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_edgecolor(_LINE)
        return axes

    def heading(self, top: float, title: str, note: str = "") -> None:
        """A section's title at the left, a note at the right."""
        y = 1 - (top + 0.2) / self.height
        margin = _MARGIN / _WIDTH
        self.figure.text(margin, y, title, fontsize=15, fontweight="bold", color=_INK, va="center")
        self.figure.text(1 - margin, y, note, fontsize=10, color=_FAINT, va="center", ha="right", parse_math=False)


Section = tuple[float, Callable[[_Page, float], None]]
"""Height in inches, and the function that draws it from a place on the page downwards."""

_View = tuple[float, float, float, float]


@lru_cache(maxsize=1)
def _known_characters() -> frozenset[str]:
    """Characters that the figure's font has."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(map(chr, get_font(findfont("DejaVu Sans")).get_charmap()))


def shown_name(name: str, length: int = 20) -> str:
    """A name as the figure can show it: what the font lacks is a question mark, long ones lose their end.

    >>> shown_name("Größe"), shown_name("人"), shown_name("a" * 30, 5)
    ('Größe', '?', 'aaaa…')
    """
    name = "".join(c if c in _known_characters() else "?" for c in " ".join(name.split()))
    return name if len(name) <= length else name[: length - 1] + "…"


def _color(index: int) -> str:
    return _CYCLE[index % len(_CYCLE)]


def _show_picture(axes: Axes, image: NDArray[np.uint8], view: _View | None = None) -> None:
    """The picture in frame pixels; with ``view`` (x0, y0, x1, y1) only that part."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = view or (0, 0, width, height)
    left, top = max(math.floor(x0), 0), max(math.floor(y0), 0)
    right, bottom = min(max(math.ceil(x1), left + 1), width), min(max(math.ceil(y1), top + 1), height)
    axes.imshow(image[top:bottom, left:right], extent=(left, right, bottom, top), aspect="auto")
    axes.set_xlim(x0, x1)
    axes.set_ylim(y1, y0)


def _show_map(axes: Axes, cells: NDArray[np.float32], attention: AttentionMaps, size_hw: tuple[int, int]) -> None:
    """A map (h, w) in frame pixels, each cell where it belongs; what overhangs the frame is cut off."""
    height, width = size_hw
    x1 = cells.shape[1] * attention.stride * width / attention.model_hw[1]
    y1 = cells.shape[0] * attention.stride * height / attention.model_hw[0]
    axes.imshow(cells, extent=(0, x1, y1, 0), aspect="auto", cmap=_MAP_COLORS, vmin=0, interpolation="nearest")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)


def _draw_box(axes: Axes, box: Iterable[float], color: str, line: float) -> None:
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = box
    axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linewidth=line))


def _picture_section(frame: Frame, detections: Detections) -> Section:
    """The frame with boxes, names and scores."""
    height, width = frame.size_hw
    shown_w = min(_WIDTH - 2 * _MARGIN, 7.5 * width / height)
    shown_h = shown_w * height / width

    def draw(page: _Page, top: float) -> None:
        found = f"{len(detections)} found" if len(detections) else "no object scores above the threshold"
        page.heading(top, "Objects", f"{found} at {frame.seconds:.2f} s, {width} x {height} pixels")
        axes = page.axes((_WIDTH - shown_w) / 2, top + _HEADING, shown_w, shown_h)
        _show_picture(axes, frame.image)
        scores = zip(detections.names, detections.scores.tolist(), detections.boxes.tolist(), strict=True)
        for index, (name, score, box) in enumerate(scores):
            _draw_box(axes, box, _color(index), 2)
            x, y = min(max(box[0], 0), width), min(max(box[1], 0), height)
            above = y > 0.04 * height
            style = {"facecolor": _color(index), "edgecolor": "none", "pad": 2.0}
            text = axes.text(x, y, f"{shown_name(name)} {score:.2f}", fontsize=9, color="white", bbox=style)
            text.set(va="bottom" if above else "top", parse_math=False, clip_on=True)

    return _HEADING + shown_h, draw


def _around(box: NDArray[np.float32], size_hw: tuple[int, int], margin: float = 0.35) -> _View:
    """The part of the frame around ``box`` that has the frame's shape, moved inside the frame where it fits."""
    (height, width), (x0, y0, x1, y1) = size_hw, box.tolist()
    share = min(max((x1 - x0) / width, (y1 - y0) / height, 0.02) * (1 + 2 * margin), 1.0)
    left = min(max((x0 + x1 - share * width) / 2, 0), (1 - share) * width)
    top = min(max((y0 + y1 - share * height) / 2, 0), (1 - share) * height)
    return left, top, left + share * width, top + share * height


def _cross_section(frame: Frame, detections: Detections, attention: AttentionMaps) -> Section:
    """Per object its cross-attention over the part of the frame around it."""
    assert attention.cross is not None
    cross = attention.cross
    order = np.sort(np.argsort(-detections.scores, kind="stable")[:MAX_OBJECTS])
    columns = min(max(len(order), 3), 6)
    width = (_WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) / columns
    height = width * min(max(frame.size_hw[0] / frame.size_hw[1], 0.3), 2.0)
    row_height = _TITLE + 2 * height + 0.08 + _GAP

    def draw(page: _Page, top: float) -> None:
        left_out = f", the {len(order)} best of {len(cross)}" if len(order) < len(cross) else ""
        note = f"where each query reads the picture; below, the picture around its box{left_out}"
        page.heading(top, "Decoder cross-attention", note)
        for place, index in enumerate(order.tolist()):
            row, column = divmod(place, columns)
            left, y = _MARGIN + column * (width + _GAP), top + _HEADING + row * row_height + _TITLE
            box, view = detections.boxes[index], _around(detections.boxes[index], frame.size_hw)
            name, score = shown_name(detections.names[index]), float(detections.scores[index])
            title = f"query {detections.query_ids[index]}\n{name} {score:.2f}"
            axes = page.axes(left, y, width, height, title)
            _show_map(axes, cross[index], attention, frame.size_hw)
            _draw_box(axes, box.tolist(), "white", 0.8)
            axes = page.axes(left, y + height + 0.08, width, height)
            _show_picture(axes, frame.image, view)
            _draw_box(axes, box.tolist(), _color(index), 2)

    return _HEADING + row_height * math.ceil(len(order) / columns), draw


def _encoder_section(frame: Frame, attention: AttentionMaps) -> Section:
    """The picture with the reference points in the middle, their maps on both sides."""
    from matplotlib.patches import ConnectionPatch

    assert attention.points is not None
    maps, places = attention.points, np.asarray(attention.points_xy).tolist()
    frame_h, frame_w = frame.size_hw
    shape = frame_h / frame_w
    side = min(3.4, 3.4 / shape)
    middle = min(_WIDTH - 2 * _MARGIN - 2 * (side + 0.5), 7.5 / shape)
    num_rows = math.ceil(len(maps) / 2)
    row_height = 0.3 + side * shape + _GAP
    body = max(num_rows * row_height, middle * shape)

    def draw(page: _Page, top: float) -> None:
        looks = attention.direction == "looks-at"
        note = "where each point looks" if looks else "which cells look at each point"
        page.heading(top, "Encoder self-attention", f"{note} ({attention.direction})")
        top += _HEADING
        center = page.axes((_WIDTH - middle) / 2, top + (body - middle * shape) / 2, middle, middle * shape)
        _show_picture(center, frame.image)
        for index, (x, y) in enumerate(places):
            row, right = divmod(index, 2)
            left = _WIDTH - _MARGIN - side if right else _MARGIN
            first = top + (body - num_rows * row_height) / 2
            title, color = f"point ({x:.2f}, {y:.2f})", _color(index)
            axes = page.axes(left, first + row * row_height + 0.3, side, side * shape, title, color)
            _show_map(axes, maps[index], attention, frame.size_hw)
            for spine in axes.spines.values():
                spine.set(edgecolor=color, linewidth=2)
            place = x * frame_w, y * frame_h
            axes.plot(*place, marker="+", markersize=9, markeredgewidth=1.8, color="white")
            ends: dict[str, Any] = {"coordsA": center.transData, "coordsB": axes.transAxes}
            ends |= {"xyA": place, "xyB": (0 if right else 1, 0.5)}
            page.figure.add_artist(ConnectionPatch(**ends, color=color, linewidth=1.5, alpha=0.8))
            dot: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 1.5, "clip_on": False, "zorder": 5}
            center.plot(*place, marker="o", markersize=9, color=color, **dot)

    return _HEADING + body, draw


def _objects_section(detections: Detections, attention: AttentionMaps) -> Section:
    """The decoder self-attention between the objects as a matrix."""
    assert attention.objects is not None
    shares = attention.objects
    num = len(shares)
    size = min(max(0.42 * num, 2.2), _WIDTH - 2 * _MARGIN - 3.5)
    font = min(9.0, max(4.0, 72 * size / num * 0.6))

    def draw(page: _Page, top: float) -> None:
        page.heading(top, "Decoder self-attention", "how much the object of a row reads from the object of a column")
        left, top = (_WIDTH - size) / 2, top + _HEADING
        axes = page.axes(left, top, size, size)
        image = axes.imshow(shares, cmap=_MAP_COLORS, vmin=0, aspect="auto")
        pairs = zip(detections.names, detections.query_ids.tolist(), strict=True)
        labels = [f"{shown_name(name, 16)} ({query_id})" for name, query_id in pairs]
        text: dict[str, Any] = {"fontsize": font, "color": _INK, "parse_math": False}
        axes.set_yticks(range(num), labels, **text)
        axes.set_xticks(range(num), labels, rotation=45, ha="right", rotation_mode="anchor", **text)
        bar = page.axes(left + size + 0.2, top, 0.16, size)
        page.figure.colorbar(image, cax=bar).ax.tick_params(labelsize=8, colors=_FAINT)
        if num <= 14:
            bright = float(shares.max()) * 0.6
            for (row, column), share in np.ndenumerate(shares):
                ink = _INK if share > bright else "white"
                axes.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=7, color=ink)

    return _HEADING + size + 1.5, draw


def _sections(frame: Frame, detections: Detections) -> list[Section]:
    """What there is to draw, from the top down."""
    found = [_picture_section(frame, detections)]
    if (attention := detections.attention) is None:
        return found
    every = (attention.cross, attention.points, attention.objects)
    if not all(np.isfinite(maps).all() for maps in every if maps is not None):
        raise CaptureError("the attention holds values that are not finite; try --precision fp32")
    if attention.cross is not None and len(attention.cross):
        found.append(_cross_section(frame, detections, attention))
    if attention.points is not None and len(attention.points):
        found.append(_encoder_section(frame, attention))
    if attention.objects is not None and len(attention.objects):
        found.append(_objects_section(detections, attention))
    return found


def _compose(frame: Frame, detections: Detections) -> Figure:
    sections = _sections(frame, detections)
    page = _Page(0.4 + sum(height + 0.4 for height, _ in sections))
    top = 0.4
    for height, draw in sections:
        draw(page, top)
        top += height + 0.4
    return page.figure


def draw_figure(frame: Frame, detections: Detections) -> NDArray[np.uint8]:
    """The figure of one frame as a picture (height, width, 3) uint8 RGB.

    It shows the frame with its objects, then whatever attention ``detections`` carries: cross-attention of each
    object, encoder self-attention of the reference points, decoder self-attention between the objects.

    Raises:
        CaptureError: attention that is not finite.
    """
    _compose(frame, detections).savefig(raw := io.BytesIO(), format="rgba")
    rgba = np.frombuffer(raw.getvalue(), np.uint8).reshape(-1, round(_WIDTH * _DPI), 4)
    return np.ascontiguousarray(rgba[..., :3])


def save_figure(path: str, frame: Frame, detections: Detections) -> None:
    """Write ``draw_figure``'s picture to ``path`` as a PNG.

    Raises:
        CaptureError: attention that is not finite.
        SinkError: the file can't be written.
    """
    figure = _compose(frame, detections)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise SinkError(f"{path}: can't write the figure: {error.strerror or error}; choose another -o") from error
