"""A live session without cameras or a model: coloured rectangles that move, each with a blob of attention."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_detr.errors import SinkError, UsageError
from stream_detr.overlay import Style
from stream_detr.structures import AttentionMaps, Detections, Direction, Frame, Line, StreamInfo, Zone

CLASS_NAMES = ("person", "car", "traffic light", "bicycle", "dog", "<b>bold</b>")
_STRIDE = 32


@dataclass(frozen=True)
class FakeShown:
    stream_id: int
    number: int
    frame: Frame
    detections: Detections
    shown_seconds: float
    age_seconds: float = 0.0


@dataclass(frozen=True)
class FakeStatus:
    name: str
    state: str = "live"
    since_seconds: float = 0.0
    reconnects: int = 0
    frames_read: int = 0
    frames_dropped: int = 3
    message: str = ""


@dataclass
class FakeStream:
    stream_id: int
    name: str
    status: FakeStatus
    shown_fps: float = 29.7
    detected_fps: float = 9.4
    latency_ms: dict[str, float] = field(
        default_factory=lambda: {"wait": 4.0, "detect": 61.0, "compose": 0.6, "detected": 68.2, "shown": 71.3}
    )
    is_recording: bool = False
    is_paused: bool = False


@dataclass(frozen=True)
class FakeSettings:
    attention: str = "cross"
    layer: int = -1
    head: str | int = "mean"
    threshold: float = 0.5
    classes: tuple[str, ...] | None = None
    direction: Direction = "looks-at"


class FakeSession:
    """Members as the contract has them, and: ``step()`` shows one more picture of every stream, ``calls`` remembers."""

    class_names, model_name, num_layers, num_heads = CLASS_NAMES, "fake", 6, 8

    def __init__(
        self, num_streams: int = 1, size: tuple[int, int] = (640, 384), paint: Callable[..., Any] | None = None
    ):
        self.size, self.paint = size, paint
        self.settings = FakeSettings()
        self.points: tuple[tuple[float, float], ...] = ()
        self.alpha = 0.6
        self.zones: tuple[Zone, ...] = ()
        self.lines: tuple[Line, ...] = ()
        self.streams = [self._stream(index, f"fake {index}") for index in range(num_streams)]
        self.calls: list[tuple[Any, ...]] = []
        self.asked: list[int] = []
        self.pushed: list[tuple[int, NDArray[np.uint8]]] = []
        self.has_pushed, self.has_forgotten = threading.Event(), threading.Event()
        self._points: dict[tuple[object, int], tuple[tuple[float, float], ...]] = {}
        self._listeners: list[Callable[[int], None]] = []
        self._newest: dict[int, FakeShown] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @staticmethod
    def _stream(stream_id: int, name: str) -> FakeStream:
        return FakeStream(stream_id, name, FakeStatus(name, since_seconds=time.monotonic()))

    def newest(self, stream_id: int, after_number: int = -1) -> FakeShown | None:
        self.asked.append(stream_id)
        shown = self._newest.get(stream_id)
        return shown if shown is not None and shown.number > after_number else None

    def subscribe(self, callback: Callable[[int], None]) -> Callable[[], None]:
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback)

    @property
    def num_listeners(self) -> int:
        return len(self._listeners)

    def change(self, **values: Any) -> None:
        self.calls.append(("change", values))
        if not -6 <= values.get("layer", 0) < 6:
            raise UsageError(f"layer: expected -6 to 5, got {values['layer']}")
        self.settings = replace(self.settings, **values)

    def set_points(self, owner: object, stream_id: int, points: Sequence[tuple[float, float]]) -> None:
        self.calls.append(("points", stream_id, tuple(points)))
        self._points.pop((owner, stream_id), None)
        if points:
            self._find(stream_id)
            self._points[owner, stream_id] = tuple(points)

    def forget(self, owner: object) -> None:
        self.calls.append(("forget",))
        self._points = {key: kept for key, kept in self._points.items() if key[0] != owner}
        self.has_forgotten.set()

    def style(self) -> Style:
        return Style(self.settings.attention, self.alpha, zones=self.zones, lines=self.lines)

    @property
    def num_points(self) -> int:
        return sum(map(len, self._points.values()))

    def pause(self, stream_id: int, on: bool) -> None:
        self.calls.append(("pause", stream_id, on))
        self._find(stream_id).is_paused = on

    def record(self, stream_id: int, on: bool) -> None:
        self.calls.append(("record", stream_id, on))
        if stream_id == 1:
            raise SinkError("/full/disk.mp4: no space left; record somewhere else")
        self._find(stream_id).is_recording = on

    def snapshot(self, stream_id: int) -> bytes:
        done, png = cv2.imencode(".png", self._newest[stream_id].frame.image[..., ::-1])
        assert done
        return png.tobytes()

    def add_pushed(self, name: str) -> int:
        stream_id = max((stream.stream_id for stream in self.streams), default=-1) + 1
        self.streams = [*self.streams, self._stream(stream_id, name)]
        return stream_id

    def push(self, stream_id: int, image: NDArray[np.uint8]) -> None:
        self.pushed.append((stream_id, image))
        self.has_pushed.set()
        self.show(stream_id, image)

    def remove(self, stream_id: int) -> None:
        self.calls.append(("remove", stream_id))
        self.streams = [stream for stream in self.streams if stream.stream_id != stream_id]

    def run(self, rate: float) -> None:
        """Show ``rate`` pictures a second from a thread, until close()."""
        self._thread = threading.Thread(target=self._run, args=(rate,), name="fake session")
        self._thread.start()

    def _run(self, rate: float) -> None:
        while not self._stop.wait(1 / rate):
            self.step()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _find(self, stream_id: int) -> FakeStream:
        found = next((stream for stream in self.streams if stream.stream_id == stream_id), None)
        if found is None:
            raise UsageError(f"there is no stream {stream_id}")
        return found

    def step(self) -> None:
        """One more picture of every stream that is neither paused nor pushed."""
        pushed = {stream_id for stream_id, _ in list(self.pushed)}
        for stream in self.streams:
            if not stream.is_paused and stream.status.state == "live" and stream.stream_id not in pushed:
                self.show(stream.stream_id)

    def show(self, stream_id: int, image: NDArray[np.uint8] | None = None) -> None:
        """One more picture of a stream."""
        before = self._newest.get(stream_id)
        number = 0 if before is None else before.number + 1
        width, height = self.size if image is None else (image.shape[1], image.shape[0])
        boxes = boxes_at(number + 40 * stream_id, width, height)
        if image is None:
            draw = self.paint or paint
            image = draw(boxes, number, width, height)
        info = StreamInfo("fake", width, height, None, None, True)
        frame = Frame(image, number, number * 40_000, Fraction(1, 1_000_000), time.monotonic() - 0.07, info)
        found = self._detections(stream_id, boxes, width, height)
        self._newest[stream_id] = FakeShown(stream_id, number, frame, found, time.monotonic())
        for listener in list(self._listeners):
            listener(stream_id)

    def _detections(self, stream_id: int, boxes: NDArray[np.float32], width: int, height: int) -> Detections:
        num = len(boxes)
        points = [p for (_, where), owned in list(self._points.items()) if where == stream_id for p in owned]
        rows, columns = -(-height // _STRIDE), -(-width // _STRIDE)
        middles = np.stack([boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]], 1) / 2
        widths = (boxes[:, 2] - boxes[:, 0]) / 2.6
        spots = np.array(points, np.float32).reshape(-1, 2)
        attention = AttentionMaps(
            stride=_STRIDE,
            model_hw=(height, width),
            cross=_blobs(middles, widths, rows, columns),
            points=_blobs(spots * (width, height), np.full(len(spots), 90.0), rows, columns) if points else None,
            points_xy=spots if points else None,
            direction=self.settings.direction,
            objects=np.full((num, num), 0.12, np.float32),
        )
        return Detections(
            boxes=boxes,
            scores=np.linspace(0.98, 0.55, num).astype(np.float32),
            class_ids=(np.arange(num) % len(CLASS_NAMES)).astype(np.int64),
            query_ids=np.arange(num, dtype=np.int64),
            track_ids=np.arange(1, num + 1, dtype=np.int64),
            attention=None if self.settings.attention == "none" else attention,
            class_names=CLASS_NAMES,
            carried=np.zeros(num, bool),
        )


def boxes_at(number: int, width: int, height: int) -> NDArray[np.float32]:
    """Three boxes (3, 4) that wander through the picture, never near its corners."""
    boxes = []
    for index, (x, y, w, h) in enumerate([(0.22, 0.5, 0.16, 0.5), (0.5, 0.62, 0.24, 0.26), (0.8, 0.4, 0.1, 0.3)]):
        x += 0.04 * np.sin(number / 23 + index)
        y += 0.03 * np.cos(number / 31 + 2 * index)
        boxes.append([(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height])
    return np.array(boxes, np.float32)


def paint(boxes: NDArray[np.float32], number: int, width: int, height: int) -> NDArray[np.uint8]:
    """(H, W, 3): a gradient with the boxes filled in."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = np.linspace(40, 110, height)[:, None, None] + np.array([0, 10, 25])
    for index, box in enumerate(np.rint(boxes).astype(int).tolist()):
        cv2.rectangle(image, box[:2], box[2:], [(190, 120, 90), (90, 150, 180), (120, 170, 110)][index], cv2.FILLED)
    cv2.circle(image, (number * 7 % width, height // 12), height // 30, (240, 230, 200), cv2.FILLED)
    return image


def _blobs(middles: Any, widths: Any, rows: int, columns: int) -> NDArray[np.float32]:
    """Maps (N, h, w) with a hill at each of ``middles`` (N, 2) pixels, each summing to 1."""
    y, x = np.mgrid[:rows, :columns] * _STRIDE + _STRIDE / 2
    away = (x - middles[:, 0, None, None]) ** 2 + (y - middles[:, 1, None, None]) ** 2
    hills = np.exp(-away / (2 * np.square(widths)[:, None, None])) + 1e-6
    return (hills / hills.sum((1, 2), keepdims=True)).astype(np.float32)
