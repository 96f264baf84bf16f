"""Captures keep the freshest frame, come back from everything that happens to a stream, and leave nothing behind."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from rtsp_server import RtspServer, silent_port

from stream_detr.capture import Capture, backoff
from stream_detr.errors import SourceError
from stream_detr.sources import Input
from stream_detr.sources.live import LIVE_SOURCES, Arrival, LiveOptions, PermanentError, find_streams
from stream_detr.structures import Frame

SECONDS = 20
QUICK = LiveOptions(timeout_seconds=(1.0, 1.0), backoff_seconds=(0.01, 0.05))


@pytest.fixture(autouse=True)
def no_capture_left_behind() -> Iterator[None]:
    """Fail the test when a capture's thread outlives it; one in a blocked read has its timeout to end."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("capture "):
            thread.join(SECONDS)
            assert not thread.is_alive()


class Watched:
    """A capture whose every frame and change of state wakes whoever waits for something."""

    def __init__(self, given: Stream | str, options: LiveOptions = QUICK) -> None:
        self._changed = threading.Event()
        self._stream = given if isinstance(given, Stream) else None
        [found] = find_streams([given]) if isinstance(given, str) else [given.given]
        self.capture = Capture(found, options, self._changed.set)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until it holds."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"not within {SECONDS} s: {self.capture.status}"
            self._changed.wait(0.02)
            self._changed.clear()

    def frame(self, after: int = -1) -> Frame:
        """The next frame after an index."""
        self.until(lambda: self.capture.newest(after) is not None)
        frame = self.capture.newest(after)
        assert frame is not None
        return frame

    def index(self) -> int:
        """Of the newest frame."""
        frame = self.capture.newest()
        assert frame is not None
        return frame.index

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.let_go(100)
        self.capture.close()


class Stream:
    """A live source written by hand: each connection plays the next script, items when they are let go.

    A script holds grey levels, errors to raise, and None for the end.
    """

    frame_rate = Fraction(25)

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *scripts: list[int | Exception | None]) -> None:
        self.scripts = list(scripts)
        self.num_opened = self.num_closed = 0
        self.goes_on = threading.Semaphore(0)
        self.has_end = False
        self.given = Input("fake", ("fake",), "fake")
        self.media_seconds: Callable[[int], float | None] = lambda number: None
        self.shape = (4, 6, 3)
        monkeypatch.setitem(LIVE_SOURCES, "fake", self.open)

    def open(self, given: Input, options: LiveOptions) -> Stream:
        self.num_opened += 1
        if not self.scripts:
            raise SourceError("fake: nobody is there")
        if isinstance(self.scripts[0][0], PermanentError):
            raise self.scripts.pop(0)[0]  # type: ignore[misc]
        return self

    def __iter__(self) -> Iterator[Arrival]:
        for number, item in enumerate(self.scripts.pop(0)):
            assert self.goes_on.acquire(timeout=SECONDS)
            if isinstance(item, Exception):
                raise item
            if item is None:
                return
            image = np.full(self.shape, item, np.uint8)
            yield Arrival(lambda image=image: image, self.media_seconds(number))  # type: ignore[misc]
        raise SourceError("fake: the script is over")

    def close(self) -> None:
        self.num_closed += 1

    def let_go(self, count: int) -> None:
        self.goes_on.release(count)


def test_frames_are_numbered_on_over_reconnects_and_time_rises(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(monkeypatch, [10, 20, SourceError("fake: lost")], [30, 40, None])
    seen: list[Frame] = []
    with Watched(stream) as watched:
        for index in range(4):
            stream.let_go(2 if index == 2 else 1)
            seen.append(watched.frame(index - 1))
        assert watched.capture.status.reconnects == 1
        stream.let_go(1)
        watched.until(lambda: watched.capture.status.state == "ended")
    assert [frame.index for frame in seen] == [0, 1, 2, 3]
    assert [int(frame.image[0, 0, 0]) for frame in seen] == [10, 20, 30, 40]
    times = [frame.pts for frame in seen]
    assert times[0] == 0
    assert sorted(set(times)) == times
    assert seen[0].time_base == Fraction(1, 1_000_000)
    assert seen[3].seconds == pytest.approx(seen[3].captured_seconds - seen[0].captured_seconds, abs=1e-5)
    assert seen[0].stream.is_live
    assert (stream.num_opened, stream.num_closed) == (2, 2)


def test_what_nobody_took_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(monkeypatch, [*range(10), None])
    with Watched(stream) as watched:
        stream.let_go(11)
        watched.until(lambda: watched.capture.status.state == "ended")
        assert watched.frame().index == 9
        assert watched.capture.newest(9) is None
        assert (watched.capture.status.frames_read, watched.capture.status.frames_dropped) == (10, 9)


def test_only_pictures_that_are_taken_are_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[int] = []
    stream = Stream(monkeypatch, [*range(10), None])
    original = Capture._convert

    def counted(self: Capture, *args: object) -> Frame | None:
        converted.append(args[1])  # type: ignore[arg-type]
        return original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Capture, "_convert", counted)
    with Watched(stream) as watched:
        stream.let_go(11)
        watched.until(lambda: watched.capture.status.state == "ended")
        assert watched.capture.newest() is watched.capture.newest()
    assert converted == [9]


def test_the_state_goes_from_connecting_to_live_to_lost_to_live(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(monkeypatch, [1, SourceError("fake: broke off")])
    with Watched(stream) as watched:
        assert watched.capture.status.state == "connecting"
        stream.let_go(1)
        watched.until(lambda: watched.capture.status.state == "live")
        since = watched.capture.status.since_seconds
        stream.let_go(1)
        watched.until(lambda: watched.capture.status.message == "fake: nobody is there")
        assert watched.capture.status.state == "lost"
        assert watched.capture.status.since_seconds >= since
        stream.scripts.append([2, None])
        stream.let_go(1)
        watched.until(lambda: watched.capture.status.state == "live")
        assert (watched.capture.status.reconnects, watched.capture.status.message) == (1, "")


def test_a_permanent_error_at_the_start_ends_it_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(monkeypatch, [PermanentError("fake: wrong password; check it")])
    with Watched(stream) as watched:
        watched.until(lambda: watched.capture.status.state == "ended")
        assert watched.capture.status.message == "fake: wrong password; check it"
        assert isinstance(watched.capture.error, SourceError)
        assert watched.capture.newest() is None
    assert stream.num_opened == 1


def test_after_a_first_picture_no_answer_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(monkeypatch, [1, SourceError("fake: lost")], [PermanentError("fake: 404")], [2, None])
    with Watched(stream) as watched:
        stream.let_go(3)
        assert watched.frame(after=0).index == 1


def test_max_reconnects_counts_attempts_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(monkeypatch, [1, SourceError("fake: lost")], [2, SourceError("fake: lost")])
    options = LiveOptions(backoff_seconds=(0.01, 0.02), max_reconnects=3)
    with Watched(stream, options) as watched:
        stream.let_go(4)
        watched.until(lambda: watched.capture.status.state == "ended")
        assert watched.capture.status.message == "fake: nobody is there"
    assert stream.num_opened == 2 + 3


def test_a_broadcast_that_became_a_recording_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(monkeypatch, [1, SourceError("fake: closed")], [2, 3, None])
    with Watched(stream) as watched:
        stream.let_go(1)
        watched.frame()
        stream.has_end = True
        stream.let_go(4)
        watched.until(lambda: watched.capture.status.state == "ended")
        assert watched.capture.status.frames_read == 1


def test_a_change_of_size_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(monkeypatch, [1, 2, None])
    with Watched(stream) as watched:
        stream.let_go(1)
        assert (watched.frame().stream.width, watched.frame().stream.height) == (6, 4)
        stream.shape = (8, 10, 3)
        stream.let_go(1)
        assert watched.frame(after=0).size_hw == (8, 10)
        assert (watched.frame(after=0).stream.width, watched.frame(after=0).stream.height) == (10, 8)


@pytest.mark.parametrize("error", [SourceError("fake: damaged"), ValueError("what is this?")])
def test_a_damaged_picture_is_left_out(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    stream = Stream(monkeypatch, [1, 2, None])

    def damaged() -> Frame:
        raise error

    monkeypatch.setattr(Stream, "__iter__", lambda self: iter([Arrival(damaged)]))  # type: ignore[arg-type]
    with Watched(stream) as watched:
        watched.until(lambda: watched.capture.status.frames_read)
        assert watched.capture.newest() is None


def test_what_comes_fast_is_played_at_its_own_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(monkeypatch, [*range(5), None])
    stream.media_seconds = lambda number: 100 + number / 20
    began = time.monotonic()
    stream.let_go(6)
    with Watched(stream) as watched:
        watched.until(lambda: watched.capture.status.state == "ended")
        assert watched.frame().seconds >= 0.19
    assert time.monotonic() - began < SECONDS


def test_a_jump_in_time_does_not_stop_the_show(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(monkeypatch, [*range(5), None])
    stream.media_seconds = lambda number: (-1) ** number * 1e6
    stream.let_go(6)
    with Watched(stream) as watched:
        watched.until(lambda: watched.capture.status.state == "ended")
        assert watched.frame().index == 4


def test_an_unexpected_error_is_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(monkeypatch, [1, ZeroDivisionError("a mistake in the program")])
    with Watched(stream) as watched:
        stream.let_go(2)
        watched.until(lambda: "ZeroDivisionError" in watched.capture.status.message or stream.num_opened > 1)
        stream.scripts.append([2, None])
        stream.let_go(1)
        assert watched.frame(after=0).index == 1
        assert watched.capture.status.reconnects == 1


def test_an_unexpected_error_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(monkeypatch, [ZeroDivisionError("rtsp://ann:secret@host")])
    stream.let_go(1)
    with Watched(stream, LiveOptions(max_reconnects=0)) as watched:
        watched.until(lambda: watched.capture.status.state == "ended")
        assert str(watched.capture.error) == "fake: unexpected ZeroDivisionError"


def test_frames_that_did_not_come_are_counted_in_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0], sleep=time.sleep)
    monkeypatch.setattr("stream_detr.capture.time", clock)
    stream = Stream(monkeypatch, [1, SourceError("fake: lost")], [2, 3, None])
    with Watched(stream) as watched:
        stream.let_go(1)
        assert watched.frame().index == 0
        passed[0] = 60.0
        stream.let_go(2)
        index = watched.frame(after=0).index
        assert 60 * 25 <= index < (60 + SECONDS) * 25
        stream.let_go(1)
        assert watched.frame(after=index).index == index + 1
        assert (watched.capture.status.frames_read, watched.capture.status.frames_dropped) == (3, 0)


def test_that_it_came_back_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    stream = Stream(monkeypatch, [1, SourceError("fake: broke off")], [2, None])
    with Watched(stream) as watched, caplog.at_level(logging.WARNING):
        stream.let_go(3)
        watched.frame(after=0)
    assert [record.message for record in caplog.records][:2] == ["fake: broke off; trying again", "fake: live again"]


def test_closing_twice_and_while_it_waits_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(monkeypatch)
    watched = Watched(stream, LiveOptions(backoff_seconds=(60, 60)))
    watched.until(lambda: watched.capture.status.message)
    began = time.monotonic()
    watched.capture.close()
    watched.capture.close()
    assert time.monotonic() - began < 10
    assert watched.capture.newest() is None
    assert stream.num_opened == 1


def test_the_backoff_grows_to_its_limit_and_varies() -> None:
    waits = [backoff(failures, (0.2, 1.2)) for failures in range(1, 40)]
    assert waits[0] <= 0.2
    assert max(waits) <= 1.2
    assert min(waits[5:]) >= 0.6
    assert len(set(waits)) > 30


def test_a_server_that_never_answers_does_not_hold_up_the_closing() -> None:
    with silent_port() as port:
        watched = Watched(f"rtsp://127.0.0.1:{port}/live", LiveOptions(timeout_seconds=(3, 3)))
        began = time.monotonic()
        watched.capture.close()
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_rtsp_is_shown_and_counted(transport: str) -> None:
    with RtspServer() as server, Watched(server.uri, LiveOptions(transport=transport)) as watched:  # type: ignore[arg-type]
        frame = watched.frame(after=10)
        assert (frame.stream.width, frame.stream.height) == (160, 120)
        assert frame.stream.frame_rate == 25
        assert int(frame.image.max()) > 200  # the ball
        assert watched.capture.status.state == "live"


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_server_that_was_killed_is_found_again_soon_with_another_size(transport: str) -> None:
    options = LiveOptions(transport=transport)  # type: ignore[arg-type]
    with RtspServer() as server, Watched(server.uri, options) as watched:
        first = watched.frame()
        server.kill()
        watched.until(lambda: "refused" in watched.capture.status.message)
        assert watched.capture.status.state == "lost"
        waited = time.monotonic() + 3  # until the pauses between attempts are as long as they get
        watched.until(lambda: time.monotonic() > waited)
        server.start((96, 64))
        listening = time.monotonic()
        watched.until(lambda: watched.capture.status.state == "live")
        assert time.monotonic() - listening < 4  # 2 s on a machine that has nothing else to do
        second = watched.frame(after=first.index)
        assert second.size_hw == (64, 96)
        assert second.seconds - first.seconds > 3
        assert watched.capture.status.reconnects == 1


def test_a_stalled_server_is_noticed_and_taken_up_again() -> None:
    with RtspServer() as server, Watched(server.uri) as watched:
        last = watched.frame().index
        server.stall()
        watched.until(lambda: watched.capture.status.state == "lost")
        assert "no data" in watched.capture.status.message
        last = watched.index()
        server.go_on()
        assert watched.frame(after=last).index > last


def test_rubbish_in_place_of_the_server_is_survived() -> None:
    with RtspServer() as server, Watched(server.uri) as watched:
        last = watched.frame().index
        server.kill()
        with server.rubbish():
            watched.until(lambda: "can't be opened (" in watched.capture.status.message)
            watched.until(lambda: "refused" not in watched.capture.status.message)
        server.start((160, 120))
        last = watched.index()
        assert watched.frame(after=last).index > last


def test_a_wrong_password_ends_it_and_is_not_shown() -> None:
    with RtspServer(login="ann:right") as server:
        for login, state in (("ann:right", "live"), ("ann:wr0ng", "ended")):
            with Watched(server.uri.replace("//", f"//{login}@")) as watched:
                watched.until(lambda state=state, watched=watched: watched.capture.status.state == state)
                if state == "ended":
                    assert "password" in watched.capture.status.message
                assert login.partition(":")[2] not in str(watched.capture.status)


def test_a_path_that_the_server_does_not_have_yet_is_asked_for_again() -> None:
    with RtspServer() as server, Watched(server.uri + "/not") as watched:
        watched.until(lambda: "404" in watched.capture.status.message)
        assert watched.capture.status.state == "connecting"


def test_two_streams_do_not_disturb_each_other() -> None:
    with RtspServer() as first, RtspServer() as second, Watched(first.uri) as one, Watched(second.uri) as two:
        one.frame()
        two.frame()
        first.kill()
        one.until(lambda: one.capture.status.state == "lost")
        index = two.index()
        assert two.frame(after=index + 5).index > index + 5
        assert two.capture.status.reconnects == 0


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads and descriptors in /proc")
def test_restarts_leave_no_thread_and_no_descriptor_behind() -> None:
    def counted() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

    with RtspServer() as server, Watched(server.uri) as watched:
        watched.frame()
        server.kill()
        watched.until(lambda: watched.capture.status.state == "lost")
        before = counted()
        for _ in range(3):
            last = watched.index()
            server.start((160, 120))
            watched.frame(after=last)
            server.kill()
            watched.until(lambda: watched.capture.status.state == "lost")
        assert watched.capture.status.reconnects == 3
        # The server's pipe is closed again; ffmpeg may keep a thread of its own for a moment.
        watched.until(lambda: counted() <= before)
