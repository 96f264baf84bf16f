"""Fakes written by hand, and a check that fails any test which leaves a thread behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from stream_detr.structures import AttentionMaps, Detections, Frame, StreamInfo

# The models of the tests are so small that threads of one operation only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CLASS_NAMES = ("person", "car", "traffic light")


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    """Fail the test when a prefetch thread outlives it."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before and thread.name == "prefetch"]
    assert not left, f"threads left behind: {left}"


def make_frame(index: int, stream: StreamInfo | None = None) -> Frame:
    """A small frame whose grey value says which it is, at 10 frames/s."""
    stream = stream or StreamInfo("fake.mp4", 64, 48, Fraction(10), None)
    image = np.full((stream.height, stream.width, 3), 16 + index * 8 % 224, np.uint8)
    return Frame(image, index, index, Fraction(1, 10), 0.0, stream)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a small model with seeded random weights and three classes."""
    import torch
    from small import SMALL

    from stream_detr.models.checkpoint import save_checkpoint
    from stream_detr.models.detr import Detr

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_checkpoint(path, Detr(SMALL), CLASS_NAMES, sizes=(64, 128))
    return str(path)


class FakeSource:
    """``count`` frames; raises ``error`` after ``fails_at`` of them."""

    audio = None

    def __init__(self, count: int, *, fails_at: int | None = None, error: BaseException | None = None) -> None:
        self.info = StreamInfo("fake.mp4", 64, 48, Fraction(10), count)
        self.count, self.fails_at, self.error = count, fails_at, error
        self.given = 0
        self.is_closed = False

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self.count):
            if index == self.fails_at and self.error is not None:
                raise self.error
            assert not self.is_closed
            self.given += 1
            yield make_frame(index, self.info)

    def close(self) -> None:
        self.is_closed = True

    def __enter__(self) -> FakeSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FakeSink:
    """Remembers what it is given; raises ``error`` at frame ``fails_at``."""

    def __init__(self, *, fails_at: int | None = None, error: BaseException | None = None) -> None:
        self.fails_at, self.error = fails_at, error
        self.written: list[tuple[Frame, Detections]] = []
        self.is_closed = False

    def write(self, frame: Frame, image: NDArray[np.uint8], detections: Detections) -> None:
        assert not self.is_closed
        assert image.shape == frame.image.shape
        if len(self.written) == self.fails_at and self.error is not None:
            raise self.error
        self.written.append((frame, detections))

    def close(self) -> None:
        self.is_closed = True

    def __enter__(self) -> FakeSink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FakeDetector:
    """Finds one object a frame whose query id is the frame's index, and remembers its batches."""

    name = "fake"
    class_names = CLASS_NAMES
    device = "fake"
    threshold = 0.7
    precision, precision_reason = "fp32", "it is a fake"

    def __init__(self, *, fails_at: int | None = None, error: BaseException | None = None) -> None:
        self.fails_at, self.error = fails_at, error
        self.batches: list[list[int]] = []

    def configured(self, **choices: object) -> FakeDetector:
        """The same: it finds what it finds."""
        return self

    def best_batch_size(self, size_hw: tuple[int, int]) -> int:
        return 2

    def __call__(self, frames: Sequence[Frame]) -> list[Detections]:
        self.batches.append([frame.index for frame in frames])
        if self.error is not None and self.fails_at in self.batches[-1]:
            raise self.error
        return [self.found(frame) for frame in frames]

    def found(self, frame: Frame) -> Detections:
        """What it finds in ``frame``."""
        height, width = frame.size_hw
        cross = np.full((1, 2, 2), 0.25, np.float32)
        points = np.full((1, 2, 2), 0.25, np.float32)
        return Detections(
            boxes=np.array([[0, 0, width / 2, height / 2]], np.float32),
            scores=np.array([0.9], np.float32),
            class_ids=np.array([frame.index % len(CLASS_NAMES)]),
            query_ids=np.array([frame.index]),
            track_ids=np.array([-1]),
            attention=AttentionMaps(
                stride=32,
                model_hw=(64, 64),
                cross=cross,
                points=points,
                points_xy=np.array([[0.5, 0.5]], np.float32),
                objects=np.full((1, 1), 0.3, np.float32),
            ),
            class_names=CLASS_NAMES,
        )
