"""A live session shows the freshest frames whatever the model, a stream, a viewer or a disk does."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import CLASS_NAMES, FakeDetector, FakeSink

from stream_detr.capture import StreamStatus
from stream_detr.config import Config, load_config
from stream_detr.errors import SinkError, UsageError
from stream_detr.live import LiveSession, LiveSettings, SessionOptions, Shown
from stream_detr.live.drawing import annotated
from stream_detr.live.inference import _MOST_FAILURES as MOST_FAILURES
from stream_detr.live.outputs import Output
from stream_detr.live.pushed import PushedCapture
from stream_detr.live.stream import make_tracker
from stream_detr.live.turns import Turns
from stream_detr.overlay import Style
from stream_detr.sinks.segments import SegmentsSink
from stream_detr.sources import Input
from stream_detr.structures import Detections, Frame, StreamInfo, Zone

SECONDS = 20
MICROSECOND = Fraction(1, 1_000_000)


def live_frame(
    index: int, size: tuple[int, int] = (64, 48), at_seconds: float | None = None, name: str = "cam"
) -> Frame:
    """Frame ``index`` of a camera with 10 frames/s, whose grey says which it is."""
    seconds = index / 10 if at_seconds is None else at_seconds
    image = np.full((size[1], size[0], 3), 16 + index * 8 % 224, np.uint8)
    return Frame(image, index, int(seconds * 1e6), MICROSECOND, seconds, StreamInfo(name, *size, is_live=True))


class FakeCapture:
    """Has the frames it is given; ``hangs`` makes newest() wait until it is set, ``closes`` makes close() wait."""

    def __init__(self, given: Input, notify: Callable[[], None]) -> None:
        self.name, self.notify = given.name, notify
        self.frame: Frame | None = None
        self.num_frames = 0
        self.state: Any = "connecting"
        self.hangs: threading.Event | None = None
        self.closes: threading.Event | None = None
        self.is_closed = False

    @property
    def status(self) -> StreamStatus:
        return StreamStatus(self.name, self.state, 0.0, reconnects=2, frames_read=self.num_frames, frames_dropped=3)

    def put(self, frame: Frame) -> None:
        self.frame, self.state = frame, "live"
        self.num_frames += 1
        self.notify()

    def end(self) -> None:
        self.state = "ended"
        self.notify()

    def newest(self, after: int = -1) -> Frame | None:
        if self.hangs is not None:
            assert self.hangs.wait(SECONDS)
        frame = self.frame
        return frame if frame is not None and frame.index > after else None

    def close(self) -> None:
        if self.closes is not None:
            assert self.closes.wait(SECONDS)
        self.is_closed = True


class FakeTracker:
    """Everything is track 7; remembers what it was asked."""

    def __init__(self) -> None:
        self.begin = 0.0
        self.asked: list[tuple[str, int]] = []
        self.last = Detections.empty()

    def update(self, detections: Detections, frame: Frame) -> Detections:
        self.asked.append(("update", frame.index))
        num = len(detections)
        self.last = replace(detections, track_ids=np.full(num, 7), carried=np.zeros(num, np.bool_))
        return self.last

    def at(self, frame: Frame) -> Detections:
        self.asked.append(("at", frame.index))
        return replace(self.last, carried=np.ones(len(self.last), np.bool_))


class LiveDetector(FakeDetector):
    """Tells when it begins, and with ``gate`` in place waits for a permit before it ends."""

    model = SimpleNamespace(config=SimpleNamespace(encoder_layers=6, decoder_layers=4, num_heads=8))

    def __init__(self, *, gated: bool = False, limit: int = 8, error: BaseException | None = None) -> None:
        super().__init__(error=error)  # without fails_at: at every frame
        self.began, self.gate = threading.Semaphore(0), threading.Semaphore(0) if gated else None
        self.limit = limit
        self.choices: dict[str, Any] = {}

    def best_batch_size(self, size_hw: tuple[int, int]) -> int:
        return self.limit

    def configured(self, **choices: Any) -> LiveDetector:
        if choices.get("layers") == 9:
            raise UsageError("layer 9 does not exist")
        self.choices = choices
        return self

    def __call__(self, frames: Sequence[Frame]) -> list[Detections]:
        self.began.release()
        if self.gate is not None:
            assert self.gate.acquire(timeout=SECONDS)
        if self.error is not None and self.fails_at is None:
            raise self.error
        return super().__call__(frames)


class Rig:
    """A session between fakes, and a viewer that remembers all it was shown."""

    def __init__(
        self, num_streams: int = 1, detector: LiveDetector | None = None, *, given: Any = None, **options: Any
    ) -> None:
        self.detector = detector or LiveDetector()
        self.captures: list[FakeCapture] = []
        self.trackers: list[FakeTracker] = []
        self.shown: list[Shown] = []
        self.changed = threading.Condition()
        config = load_config(flags=given or {})
        inputs = [Input("camera", (str(number),), f"cam{number}") for number in range(num_streams)]
        self.session = LiveSession(
            inputs,
            self.detector,  # type: ignore[arg-type]
            config,
            SessionOptions(**options),
            open_capture=self.open,
            make_tracker=self.make_tracker,
        )
        self.session.subscribe(self.told)
        self.trackers.clear()  # of one that was made to be ready

    def open(self, given: Input, notify: Callable[[], None]) -> FakeCapture:
        self.captures.append(FakeCapture(given, notify))
        return self.captures[-1]

    def make_tracker(self, config: Config, info: StreamInfo) -> FakeTracker:
        self.trackers.append(FakeTracker())
        return self.trackers[-1]

    def told(self, stream_id: int) -> None:
        # In the stream's thread: nothing newer can have come yet.
        shown = self.session.newest(stream_id)
        assert shown is not None
        with self.changed:
            self.shown.append(shown)
            self.changed.notify_all()

    def wait_for(self, number: int) -> list[Shown]:
        """The first ``number`` pictures."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.shown) >= number, SECONDS)
            return self.shown[:number]

    def show(self, frame: Frame, stream: int = 0) -> Shown:
        """Put a frame and wait until it is shown."""
        with self.changed:
            before = len(self.shown)
        self.captures[stream].put(frame)
        shown = self.wait_for(before + 1)[-1]
        while shown.frame is not frame:
            before += 1
            shown = self.wait_for(before + 1)[-1]
        return shown

    def free(self) -> None:
        """Let the model end a batch."""
        assert self.detector.gate is not None
        self.detector.gate.release()

    def begun(self) -> None:
        """Wait until the model has begun a batch."""
        assert self.detector.began.acquire(timeout=SECONDS)


@contextmanager
def rig(*args: Any, **options: Any) -> Iterator[Rig]:
    made = Rig(*args, **options)
    try:
        yield made
    finally:
        if made.detector.gate is not None:
            made.detector.gate.release(1000)
        made.session.close()


def queries(shown: Shown) -> list[int]:
    """Of which frame the shown objects are: the fake detector's query id."""
    return shown.detections.query_ids.tolist()


def test_a_model_that_keeps_up_shows_every_frame_once_with_its_own_objects() -> None:
    with rig() as made:
        for index in range(6):
            shown = made.show(live_frame(index))
            assert queries(shown) == [index]
            assert shown.detections.track_ids.tolist() == [7]
            assert (shown.number, shown.age_seconds, shown.stream_id) == (index, 0.0, 0)
        assert len(made.shown) == 6
        assert made.trackers[0].asked == [("update", index) for index in range(6)]


def test_with_a_slow_model_the_picture_moves_on_with_the_last_result_and_the_freshest_frame_is_next() -> None:
    with rig(1, LiveDetector(gated=True)) as made:
        [camera] = made.captures
        camera.put(live_frame(0))
        made.begun()
        camera.put(live_frame(1))
        assert [(shown.frame.index, queries(shown)) for shown in made.wait_for(2)] == [(0, []), (1, [])]
        made.show(live_frame(2))
        made.show(live_frame(3))
        made.free()
        made.begun()  # the second batch: the result of the first has been taken
        assert made.trackers[0].asked == [("update", 0)]
        shown = made.show(live_frame(4))
        assert queries(shown) == [0]
        assert shown.detections.carried is not None
        assert shown.detections.carried.all()
        assert shown.age_seconds == pytest.approx(0.4)
        assert made.trackers[0].asked == [("update", 0), ("at", 4)]
        made.free()
        made.begun()
        assert made.detector.batches == [[0], [3]]
        assert made.session.newest(0) is shown


def test_a_frame_is_held_for_its_result_only_until_the_next_one_comes() -> None:
    with rig(1, LiveDetector(gated=True)) as made:
        made.captures[0].put(live_frame(0))
        made.begun()
        assert made.session.newest(0) is None
        made.free()
        [shown] = made.wait_for(1)
        assert queries(shown) == [0]
        assert made.session.newest(0, after_number=0) is None
        assert made.session.newest(0, after_number=-1) is shown


def test_a_result_that_is_too_old_is_not_carried_on() -> None:
    with rig(1, LiveDetector(gated=True), max_staleness_seconds=1.0) as made:
        made.free()
        made.show(live_frame(0, at_seconds=10.0))
        made.begun()
        made.captures[0].put(live_frame(1, at_seconds=10.1))
        made.begun()
        assert queries(made.show(live_frame(2, at_seconds=11.0))) == [0]
        late = made.show(live_frame(3, at_seconds=11.01))
        assert queries(late) == []
        assert late.detections.class_names == CLASS_NAMES


def test_a_result_is_not_carried_on_to_pictures_of_another_size() -> None:
    with rig(1, LiveDetector(gated=True)) as made:
        made.free()
        made.show(live_frame(0))
        made.begun()
        made.captures[0].put(live_frame(1))
        made.begun()
        assert queries(made.show(live_frame(2))) == [0]
        assert queries(made.show(live_frame(3, size=(96, 64)))) == []


def test_streams_share_a_batch_if_they_have_one_size() -> None:
    detector = LiveDetector(gated=True)
    with rig(4, detector) as made:
        made.captures[0].put(live_frame(0))
        made.begun()
        for number, size in ((1, (64, 48)), (2, (96, 64)), (3, (64, 48))):
            made.show(live_frame(10 + number, size=size), number)
        for _ in range(3):
            made.free()
        made.begun()
        made.begun()
    assert detector.batches[:3] == [[0], [11, 13], [12]]


def test_a_dead_stream_leaves_the_others_alone() -> None:
    with rig(2) as made:
        stuck = made.captures[0]
        stuck.hangs = threading.Event()
        stuck.put(live_frame(0))
        for index in range(3):
            assert queries(made.show(live_frame(index), 1)) == [index]
        stuck.hangs.set()


def shares(sizes: Sequence[tuple[int, int]], limit: int, rounds: int) -> list[int]:
    """How many turns streams of these sizes get when all have a new frame at every time."""
    turns, counts = Turns(), [0] * len(sizes)
    for _ in range(rounds):
        batch = turns.choose(dict(enumerate(sizes)), lambda size: limit)
        assert 0 < len(batch) <= limit
        assert len({sizes[stream] for stream in batch}) == 1
        for stream in batch:
            counts[stream] += 1
    return counts


@pytest.mark.parametrize("limit", [1, 2, 3, 8])
@pytest.mark.parametrize("sizes", [[(4, 6)] * 5, [(4, 6)] * 3 + [(8, 6)], [(4, 6)] * 9, [(1, 1), (2, 2), (3, 3)]])
def test_every_stream_gets_the_same_share_of_the_model(sizes: list[tuple[int, int]], limit: int) -> None:
    counts = shares(sizes, limit, 300)
    mean = sum(counts) / len(counts)
    assert all(abs(count - mean) <= 0.1 * mean for count in counts)


def test_full_batches_stay_full() -> None:
    assert sum(shares([(4, 6)] * 9, 8, 100)) == 800


def test_a_stream_that_was_away_catches_nothing_up() -> None:
    turns = Turns()
    for _ in range(50):
        turns.choose({1: (4, 6), 2: (4, 6)}, lambda size: 1)
    later = [turns.choose({1: (4, 6), 2: (4, 6), 3: (4, 6)}, lambda size: 1)[0] for _ in range(9)]
    assert sorted(later) == [1] * 3 + [2] * 3 + [3] * 3


def test_a_paused_stream_stands_still_and_the_model_leaves_it_out() -> None:
    with rig(2) as made:
        made.show(live_frame(0))
        made.session.pause(0, True)
        made.captures[0].put(live_frame(1))
        made.show(live_frame(10), 1)
        made.show(live_frame(11), 1)
        assert made.session.streams[0].is_paused
        shown = made.session.newest(0)
        assert shown is not None
        assert shown.frame.index == 0
        made.session.pause(0, False)
        assert queries(made.show(live_frame(2))) == [2]
        assert made.detector.batches == [[0], [10], [11], [2]]


def test_a_viewer_that_fails_is_left_out_with_one_line_and_one_that_leaves_is_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(stream_id: int) -> None:
        raise RuntimeError("gone")

    told: list[int] = []
    with rig() as made:
        made.session.subscribe(fail)
        leave = made.session.subscribe(told.append)
        made.show(live_frame(0))
        leave()
        made.show(live_frame(1))
        made.show(live_frame(2))
    assert told == [0]
    assert [record.message for record in caplog.records] == [
        "a viewer can't be told of new pictures (gone); it is left out from here on"
    ]


def test_detect_fps_and_stride_spare_the_model() -> None:
    with rig(given={"stride": 3}) as made:
        for index in range(7):
            made.show(live_frame(index))
        assert made.detector.batches == [[0], [3], [6]]
    with rig(given={"detect_fps": 5}) as made:
        for index in range(5):
            made.show(live_frame(index))
        assert made.detector.batches == [[0], [2], [4]]


def test_settings_change_while_the_model_stays_loaded() -> None:
    with rig() as made:
        session = made.session
        assert session.settings == LiveSettings("cross", -1, "mean", 0.7, None, "looks-at")
        made.show(live_frame(0))
        session.change(attention="objects", layer=2, head=3, threshold=0.5, classes=["car"], direction="looked-at-by")
        assert session.settings == LiveSettings("objects", 2, 3, 0.5, ("car",), "looked-at-by")
        choices = made.detector.choices
        assert set(choices["attention"]) == {"cross", "objects"}
        assert (choices["layers"], choices["head"], choices["threshold"]) == (2, 3, 0.5)
        assert choices["floor"] < 0.5
        assert made.trackers[0].begin == 0.5
        assert (session.num_layers, session.num_heads, session.model_name) == (4, 8, "fake")
        assert session.class_names == CLASS_NAMES


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"treshold": 0.5}, "unknown setting 'treshold'; did you mean 'threshold'?"),
        ({"alpha": 0.5}, "unknown setting 'alpha'"),
        ({"threshold": 1.5}, "threshold: expected at most 1, got 1.5"),
        ({"attention": "all"}, "attention: expected 'cross', 'encoder', 'objects' or 'none', got 'all'"),
        ({"layer": 9}, "layer 9 does not exist"),
    ],
)
def test_a_wrong_setting_is_refused_and_nothing_changes(values: dict[str, object], says: str) -> None:
    with rig() as made:
        before = made.session.settings
        with pytest.raises(UsageError) as caught:
            made.session.change(**values)
        assert says in str(caught.value)
        assert made.session.settings == before


def test_the_points_of_all_viewers_are_captured_together() -> None:
    with rig(2) as made:
        session, choices = made.session, lambda: made.detector.choices
        session.set_points("ann", 0, [(0.1, 0.2), (0.3, 0.4)])
        session.set_points("bob", 1, [(0.3, 0.4), (0.5, 0.5)])
        assert choices()["points"] == ((0.1, 0.2), (0.3, 0.4), (0.5, 0.5))
        assert set(choices()["attention"]) == {"cross", "encoder"}
        session.set_points("ann", 0, [])
        assert choices()["points"] == ((0.3, 0.4), (0.5, 0.5))
        session.set_points("bob", 1, [])
        assert choices()["attention"] == "cross"
        session.set_points("bob", 5, [])  # nothing to take away
        with pytest.raises(UsageError, match=r"point 1\.5,0 lies outside the frame"):
            session.set_points("ann", 0, [(1.5, 0)])
        with pytest.raises(UsageError, match="points: at most 16 on a stream, got 17"):
            session.set_points("ann", 0, [(0.5, 0.5)] * 17)
        with pytest.raises(UsageError, match="there is no stream 5"):
            session.set_points("ann", 5, [(0.5, 0.5)])


def test_crossings_and_zones_are_counted_where_the_model_looks() -> None:
    zone = Zone("left", ((0.0, 0.0), (0.6, 0.0), (0.6, 1.0), (0.0, 1.0)))
    with rig(given={"zones": (zone,)}) as made:
        assert made.show(live_frame(0)).detections.zones == (("left",),)


def test_a_pushed_stream_shows_its_newest_frame_until_it_is_removed() -> None:
    with rig() as made:
        session = made.session
        camera = session.add_pushed("browser")
        image = np.full((48, 64, 3), 77, np.uint8)
        session.push(camera, image)
        [shown] = made.wait_for(1)
        assert (shown.stream_id, shown.frame.stream.name, queries(shown)) == (camera, "browser", [0])
        assert shown.frame.image is image
        with pytest.raises(UsageError, match=r"browser: expected pictures \(H, W, 3\) uint8, got \(4, 4\) uint8"):
            session.push(camera, np.zeros((4, 4), np.uint8))
        with pytest.raises(UsageError, match="stream 0: reads its own frames"):
            session.push(0, image)
        session.set_points("ann", camera, [(0.5, 0.5)])
        session.remove(camera)
        session.remove(camera)
        assert made.detector.choices["attention"] == "cross"
        assert [stream.name for stream in session.streams] == ["cam0"]
        assert session.newest(camera) is None
        with pytest.raises(UsageError, match=rf"there is no stream {camera}; there are \[0\]"):
            session.push(camera, image)
        assert [stream["stream"] for stream in session.report()["streams"]] == ["browser", "cam0"]


def test_of_pushed_frames_the_newest_wins_and_times_rise() -> None:
    notified: list[int] = []
    capture = PushedCapture("browser", lambda: notified.append(1))
    assert capture.status.state == "connecting"
    frames = []
    for _ in range(3):
        capture.push(np.zeros((4, 4, 3), np.uint8))
        frames.append(capture.newest())
    capture.push(np.zeros((4, 4, 3), np.uint8))
    capture.push(np.ones((4, 4, 3), np.uint8))
    newest = capture.newest(after=2)
    assert newest is not None
    assert newest.index == 4
    assert newest.image.all()
    assert capture.newest(after=4) is None
    pts = [frame.pts for frame in frames if frame is not None]
    assert pts[0] == 0
    assert pts == sorted(set(pts))
    status = capture.status
    assert (status.state, status.frames_read, status.frames_dropped, len(notified)) == ("live", 5, 1, 5)
    capture.close()
    capture.push(np.zeros((4, 4, 3), np.uint8))
    assert capture.newest() is None
    assert capture.status.state == "ended"


def test_pushed_frames_that_did_not_come_are_counted_in_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("stream_detr.live.pushed.time", SimpleNamespace(monotonic=lambda: now[0]))
    capture = PushedCapture("browser", lambda: None)
    indices = []
    for seconds in (0.0, 0.2, 40.0, 0.1):
        now[0] += seconds
        capture.push(np.zeros((4, 4, 3), np.uint8))
        frame = capture.newest()
        assert frame is not None
        indices.append(frame.index)
    assert indices == [0, 1, 1001, 1002]
    assert capture.status.frames_read == 4


def test_a_snapshot_is_the_annotated_picture() -> None:
    with rig(given={"attention": "none"}) as made:
        with pytest.raises(UsageError, match="cam0: has no picture yet"):
            made.session.snapshot(0)
        shown = made.show(live_frame(3, size=(160, 120)))
        png = cv2.imdecode(np.frombuffer(made.session.snapshot(0), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert png is not None
    np.testing.assert_array_equal(png, annotated(shown, Style("none")))
    assert (png != shown.frame.image).any()


def shown_of(frame: Frame, carried: bool | None, age_seconds: float = 0.0) -> Shown:
    found = FakeDetector().found(frame)
    assert found.attention is not None
    peak = np.zeros((1, 2, 2), np.float32)
    peak[0, 1, 1] = 1
    maps = replace(found.attention, cross=peak, full_at=np.full(1, 0.9, np.float32))
    found = replace(found, attention=maps, carried=None if carried is None else np.array([carried]))
    return Shown(0, 0, frame, found, 0.0, age_seconds)


def test_recordings_draw_old_attention_only_when_asked_to() -> None:
    frame, style = live_frame(0, size=(128, 128)), Style("cross", legend=False)
    lately, old = shown_of(frame, True, age_seconds=0.3), shown_of(frame, True, age_seconds=1.5)
    boxes_only = annotated(lately, Style("none", legend=False))
    assert (annotated(lately, style, show_stale=False) != boxes_only).any()
    np.testing.assert_array_equal(annotated(old, style, show_stale=False), boxes_only)
    assert (annotated(old, style) != boxes_only).any()


@pytest.mark.parametrize("kind", ["cross", "encoder", "objects"])
def test_attention_that_was_not_captured_yet_is_left_out(kind: str) -> None:
    shown = shown_of(live_frame(0), None)
    without = replace(shown, detections=replace(shown.detections, attention=None))
    np.testing.assert_array_equal(annotated(without, Style(kind)), annotated(without, Style("none")))


def decoded(path: Path) -> tuple[list[Fraction], list[int]]:
    import av

    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        times = [frame.pts * frame.time_base for frame in frames]
        return times, [round(float(frame.to_ndarray(format="rgb24")[-4:, -4:].mean())) for frame in frames]


def test_a_recording_has_what_was_shown_at_its_real_times(tmp_path: Path) -> None:
    with rig(given={"attention": "none"}, record=str(tmp_path), with_records=True) as made:
        assert made.session.streams[0].is_recording
        for index, seconds in enumerate([1.0, 1.1, 1.2, 31.0, 31.1]):  # an outage of half a minute
            made.show(live_frame(index, at_seconds=seconds))
        made.session.record(0, False)
        assert not made.session.streams[0].is_recording
        made.show(live_frame(5, at_seconds=31.2))
        made.session.record(0, True)
        made.session.record(0, True)
        made.show(live_frame(6, at_seconds=31.3))
    first, second = sorted(tmp_path.glob("cam0-*Z*.mp4"), key=lambda path: path.stat().st_size, reverse=True)
    times, greys = decoded(first)
    assert times == [Fraction(round(seconds * 10), 10) for seconds in (0.0, 0.1, 0.2, 30.0, 30.1)]
    np.testing.assert_allclose(greys, [16 + 8 * index for index in range(5)], atol=4)
    records = [json.loads(line) for line in first.with_suffix(".jsonl").read_text().splitlines()]
    assert [record["seconds"] for record in records] == [0.0, 0.1, 0.2, 30.0, 30.1]
    assert len(decoded(second)[0]) == 1


def test_several_streams_are_recorded_each_in_its_own_file(tmp_path: Path) -> None:
    with rig(2, given={"attention": "none"}, record=str(tmp_path / "street.mp4")) as made:
        made.show(live_frame(0), 0)
        made.show(live_frame(0), 1)
    names = sorted(path.name.rpartition("-")[0] for path in tmp_path.iterdir())
    assert names == ["street-0-cam0", "street-1-cam1"]


def test_a_full_disk_ends_the_recording_with_one_line_and_the_view_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise SinkError("cam0.mp4: no space left on the disk")

    monkeypatch.setattr(SegmentsSink, "write", fail)
    with rig(record=str(tmp_path)) as made:
        made.show(live_frame(0))
        recording = made.session.streams[0].recording
        assert recording is not None
        assert recording.join(SECONDS)
        assert not made.session.streams[0].is_recording
        assert queries(made.show(live_frame(1))) == [1]
        [stream] = made.session.report()["streams"]
    assert [record.message for record in caplog.records] == ["cam0.mp4: no space left on the disk"]
    assert made.session.outputs.failures == ["cam0.mp4: no space left on the disk"]
    assert stream["recording"]["error"] == "cam0.mp4: no space left on the disk"


def test_without_a_place_nothing_can_be_recorded() -> None:
    with rig() as made, pytest.raises(UsageError, match="recording: no place for it was named"):
        made.session.record(0, True)


class StuckSink(FakeSink):
    """Waits in every write until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.let_go = threading.Semaphore(0), threading.Event()

    def write(self, frame: Frame, image: Any, detections: Detections) -> None:
        self.began.release()
        assert self.let_go.wait(SECONDS)
        super().write(frame, image, detections)


def test_an_encoder_that_cannot_keep_up_drops_frames_and_holds_up_nobody() -> None:
    sink = StuckSink()
    output = Output("cam", sink, lambda shown: shown.frame.image, most_waiting=3)
    shown = [replace(shown_of(live_frame(index), None), number=index) for index in range(10)]
    output.offer(shown[0])
    assert sink.began.acquire(timeout=SECONDS)
    for each in shown[1:]:
        output.offer(each)
    output.finish()
    output.offer(shown[0])
    sink.let_go.set()
    assert output.join(SECONDS)
    assert [frame.index for frame, _ in sink.written] == [0, 1, 2, 3]
    assert output.report() == {"frames_written": 4, "frames_dropped": 6, "error": ""}
    assert sink.is_closed


def test_a_fault_in_an_output_is_shown_in_full_and_ends_only_that(caplog: pytest.LogCaptureFixture) -> None:
    sink = FakeSink(fails_at=0, error=ZeroDivisionError("oh"))
    output = Output("cam", sink, lambda shown: shown.frame.image)
    output.offer(shown_of(live_frame(0), None))
    assert output.join(SECONDS)
    assert sink.is_closed
    [record] = caplog.records
    assert record.exc_info is not None
    assert record.message == "cam: an output has ended by an unexpected ZeroDivisionError: oh"
    assert record.levelno == logging.ERROR


def test_what_cannot_be_done_is_said_before_a_stream_is_opened() -> None:
    for options, says in [
        ({"publish": ("udp://a", "udp://b")}, "publish: 2 addresses for 1 inputs"),
        ({"publish": ("gopher://a:pw@b",)}, "publish: gopher:// is not one of rtsp://"),
        ({"record": "out", "segment_seconds": 0}, "segment_seconds: expected more than 0, got 0"),
    ]:
        with pytest.raises(UsageError, match=says), rig(**options):  # type: ignore[arg-type]
            pass
    with pytest.raises(UsageError, match=r"can't record as \.avi"), rig(record="street.avi"):
        pass
    with pytest.raises(UsageError, match="--codec divx"), rig(given={"codec": "divx"}, record="out"):
        pass


def test_the_report_is_json_and_counts_everything() -> None:
    with rig(1, LiveDetector(gated=True)) as made:
        made.captures[0].put(live_frame(0))
        made.begun()
        made.show(live_frame(1))
        made.show(live_frame(2))
        made.free()
        made.begun()
        stream = made.session.streams[0]
        assert stream.shown_fps > 0
        assert stream.detected_fps == 0  # one is no rate yet
        assert set(stream.latency_ms) == {"wait", "detect", "detected", "compose", "shown"}
        report = json.loads(json.dumps(made.session.report()))
    [entry] = report["streams"]
    assert (entry["since"], entry["message"]) == (pytest.approx(time.monotonic(), abs=SECONDS), "")
    assert (entry["frames_read"], entry["frames_dropped"], entry["reconnects"]) == (3, 3, 2)
    assert (entry["frames_shown"], entry["frames_detected"]) == (3, 1)
    assert set(entry["latency_ms"]["shown"]) == {"p50", "p95", "max"}
    assert entry["recording"] is None
    assert report["model"] == "fake"


def fail_often(made: Rig) -> None:
    for index in range(MOST_FAILURES):
        made.captures[0].put(live_frame(index))
        made.begun()


def test_what_ends_the_model_is_raised_to_who_waits(caplog: pytest.LogCaptureFixture) -> None:
    made = Rig(1, LiveDetector(error=RuntimeError("out of memory")))
    fail_often(made)
    with pytest.raises(RuntimeError, match="out of memory"):
        made.session.wait(SECONDS)
    made.session.close()
    assert made.captures[0].is_closed
    assert [record.message for record in caplog.records] == [
        "cam0: a picture could not be analysed (RuntimeError: out of memory)"
    ]


def test_a_picture_that_the_model_fails_on_is_shown_without_a_result_and_the_others_go_on() -> None:
    detector = LiveDetector(error=ValueError("what is this?"))
    detector.fails_at = 2
    with rig(2, detector) as made:
        assert queries(made.show(live_frame(0))) == [0]
        shown = made.show(live_frame(2))
        assert shown.detections.carried is None or shown.detections.carried.all()
        assert queries(made.show(live_frame(5), 1)) == [5]
        assert queries(made.show(live_frame(3))) == [3]
        made.captures[0].end()
        made.captures[1].end()
        assert made.session.wait(SECONDS)


def test_of_a_batch_only_the_picture_that_fails_is_left_out() -> None:
    detector = LiveDetector(gated=True, error=ValueError("what is this?"))
    detector.fails_at = 12
    with rig(3, detector) as made:
        made.captures[0].put(live_frame(0))
        made.begun()
        for number in (1, 2):
            made.show(live_frame(10 + number), number)
        assert detector.gate is not None
        detector.gate.release(100)
        for index, number in ((21, 1), (22, 2)):
            made.show(live_frame(index), number)
    assert detector.batches[1:4] == [[11, 12], [11], [12]]
    assert {("update", 11)} <= {asked for tracker in made.trackers for asked in tracker.asked}


def test_a_fault_in_what_follows_objects_leaves_the_other_streams_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    update = FakeTracker.update

    def fail_on_odd(self: FakeTracker, detections: Detections, frame: Frame) -> Detections:
        if frame.index % 2:
            raise ZeroDivisionError("oh")
        return update(self, detections, frame)

    monkeypatch.setattr(FakeTracker, "update", fail_on_odd)
    with rig(2) as made:
        for index in (0, 1, 3):
            made.show(live_frame(index))
        assert queries(made.show(live_frame(4), 1)) == [4]
    assert [record.message for record in caplog.records] == [
        "cam0: a picture could not be analysed (ZeroDivisionError: oh)"
    ]


def test_an_error_nobody_waited_for_is_raised_by_close() -> None:
    made = Rig(1, LiveDetector(error=RuntimeError("out of memory")))
    fail_often(made)
    with pytest.raises(RuntimeError, match="out of memory"):
        made.session.close()


def test_the_seconds_of_closing_begin_where_the_end_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Rig(1, LiveDetector(gated=True))
    made.captures[0].put(live_frame(0))
    made.begun()
    made.session.end()
    late = time.monotonic() + 10
    monkeypatch.setattr("stream_detr.live.threads.monotonic", lambda: late)
    started = time.monotonic()
    made.session.close()
    assert time.monotonic() - started < 1  # all of it was over
    made.free()


def test_waiting_ends_when_every_stream_is_over_and_not_before() -> None:
    with rig(2) as made:
        assert not made.session.wait(0.0)
        made.captures[0].end()
        assert not made.session.wait(0.0)
        made.show(live_frame(0), 1)
        made.captures[1].end()
        assert made.session.wait(SECONDS)


def test_close_takes_no_longer_than_two_seconds_whatever_hangs(tmp_path: Path) -> None:
    made = Rig(2, LiveDetector(gated=True), given={"attention": "none"}, record=str(tmp_path))
    stuck, fine = made.captures
    stuck.closes = threading.Event()
    stuck.put(live_frame(0))
    made.begun()
    made.show(live_frame(0), 1)
    made.show(live_frame(1), 1)
    started = time.monotonic()
    made.session.close()
    assert time.monotonic() - started < 10  # a hang would be longer
    assert fine.is_closed
    assert not stuck.is_closed
    [recorded] = tmp_path.glob("*cam1*.mp4")
    assert len(decoded(recorded)[0]) == 2
    stuck.closes.set()
    made.free()
    made.session.close()


def test_no_stream_can_be_added_to_a_closed_session() -> None:
    with rig() as made:
        pass
    with pytest.raises(UsageError, match="the session is closed"):
        made.session.add_pushed("browser")


def test_without_tracking_the_last_result_is_held_where_it_is() -> None:
    still = make_tracker(load_config(flags={"track": False}), StreamInfo("cam", 64, 48))
    found = FakeDetector().found(live_frame(0))
    assert still.update(found, live_frame(0)) is found
    held = still.at(live_frame(1))
    np.testing.assert_array_equal(held.boxes, found.boxes)
    assert held.carried is not None
    assert held.carried.all()
