"""A recording is cut by time and size into files that say when they were begun, playable however it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stream_detr.errors import SinkError, UsageError
from stream_detr.sinks import VideoOptions
from stream_detr.sinks.segments import SegmentsSink, check_segments
from stream_detr.structures import Detections, Frame, StreamInfo
from tests.media import frame_number, grey, images, times

NOON = 1_738_324_800.0  # 2025-01-31T12:00:00Z
MICROSECOND = Fraction(1, 1_000_000)


def frame(index: int, seconds: float, size: tuple[int, int] = (64, 48)) -> Frame:
    info = StreamInfo("cam", *size, Fraction(10), is_live=True)
    return Frame(grey(index, *size), index, round(seconds * 1e6), MICROSECOND, time.monotonic(), info)


def write(sink: SegmentsSink, frames: Iterable[Frame]) -> None:
    with sink:
        for each in frames:
            sink.write(each, each.image, Detections.empty())


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Clock:
    """Noon, and a minute more whenever it is asked."""

    def __init__(self) -> None:
        self.now = NOON - 60

    def __call__(self) -> float:
        self.now += 60
        return self.now + 0.5  # so that the moment which the frame is old changes no second


def test_files_are_cut_by_time_and_named_by_it(tmp_path: Path) -> None:
    sink = SegmentsSink(str(tmp_path / "cam.mp4"), VideoOptions(), segment_seconds=2, clock=Clock())
    write(sink, [frame(index, 100 + index / 10) for index in range(45)])
    assert files(tmp_path) == [f"cam-20250131T120{minute}00Z.mp4" for minute in range(3)]
    paths = sorted(tmp_path.iterdir())
    assert [len(times(path)) for path in paths] == [20, 20, 5]
    for path in paths:
        assert times(path) == [Fraction(index, 10) for index in range(len(times(path)))]
    assert [frame_number(image) for image in images(paths[1])] == [index % 16 for index in range(20, 40)]
    assert sink.report() == {"files": 3, "last_file": str(paths[-1])}


def test_the_file_itself_says_when_it_was_begun(tmp_path: Path) -> None:
    old = frame(0, 0.0)
    delayed = Frame(old.image, 0, 0, MICROSECOND, old.captured_seconds - 30, old.stream)
    write(SegmentsSink(str(tmp_path / "cam.mp4"), VideoOptions(), clock=lambda: NOON + 30.5), [delayed])
    [path] = tmp_path.iterdir()
    assert path.name == "cam-20250131T120000Z.mp4"  # when the frame came, not when it was written
    with av.open(str(path)) as container:
        assert container.metadata["creation_time"].startswith("2025-01-31T12:00:00")


def test_an_outage_is_a_jump_in_time_and_nothing_is_invented(tmp_path: Path) -> None:
    write(SegmentsSink(str(tmp_path / "cam.mp4"), VideoOptions()), [frame(0, 5), frame(1, 5.1), frame(9, 65.1)])
    [path] = tmp_path.iterdir()
    assert times(path) == [0, Fraction(1, 10), Fraction(601, 10)]


@pytest.mark.parametrize("segment_seconds", [None, 10_000.0])
def test_a_gap_that_a_file_cannot_hold_begins_another(tmp_path: Path, segment_seconds: float | None) -> None:
    seconds = [5, 5.1, 2205.1, 2205.2, 2265.3]
    sink = SegmentsSink(str(tmp_path / "cam.mp4"), VideoOptions(), segment_seconds=segment_seconds, clock=Clock())
    write(sink, [frame(index, at) for index, at in enumerate(seconds)])
    assert [times(path) for path in sorted(tmp_path.iterdir())] == [[0, Fraction(1, 10)], [0, Fraction(1, 10)], [0]]


@pytest.mark.parametrize(
    ("name", "codec", "says"),
    [
        ("cam.avi", "libx264", r"cam\.avi: can't record as \.avi; use \.mp4"),
        ("cam.png", "libx264", "can't record as .png"),
        ("cam.jsonl", "libx264", "can't record as .jsonl"),
        ("cam.webm", "libx264", "--codec libx264: doesn't go into .webm"),
        ("cam.mp4", "divx", "--codec divx: no such video encoder"),
    ],
)
def test_what_cannot_be_recorded_is_said_and_nothing_is_written(
    tmp_path: Path, name: str, codec: str, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        check_segments(str(tmp_path / name), VideoOptions(codec))
    check_segments(str(tmp_path / "new" / "cam.webm"), VideoOptions("libvpx-vp9"))
    assert files(tmp_path) == []


def test_another_size_begins_another_file(tmp_path: Path) -> None:
    sizes = [(64, 48)] * 3 + [(96, 64)] * 2 + [(64, 48)]
    sink = SegmentsSink(str(tmp_path / "cam.mp4"), VideoOptions(), clock=lambda: NOON + 0.5)
    write(sink, [frame(index, index / 10, size) for index, size in enumerate(sizes)])
    # All begun in the same second, by this clock.
    assert files(tmp_path) == [
        "cam-20250131T120000Z-2.mp4",
        "cam-20250131T120000Z-3.mp4",
        "cam-20250131T120000Z.mp4",
    ]
    shapes = {name: images(tmp_path / name)[0].shape for name in files(tmp_path)}
    assert [shapes[name] for name in sorted(shapes)] == [(64, 96, 3), (48, 64, 3), (48, 64, 3)]


def test_nothing_is_ever_replaced(tmp_path: Path) -> None:
    (tmp_path / "cam-20250131T120000Z.mp4").write_text("mine")
    write(SegmentsSink(str(tmp_path / "cam.mp4"), VideoOptions(), clock=lambda: NOON + 0.5), [frame(0, 0)])
    assert (tmp_path / "cam-20250131T120000Z.mp4").read_text() == "mine"
    assert len(times(tmp_path / "cam-20250131T120000Z-2.mp4")) == 1


def test_records_are_cut_with_the_video_and_have_its_times(tmp_path: Path) -> None:
    sink = SegmentsSink(
        str(tmp_path / "new" / "cam.mkv"), VideoOptions(), segment_seconds=1, with_records=True, clock=Clock()
    )
    write(sink, [frame(index, 7 + index / 10) for index in range(15)])
    assert [Path(name).suffix for name in files(tmp_path / "new")] == [".jsonl", ".mkv"] * 2
    second = tmp_path / "new" / "cam-20250131T120100Z.jsonl"
    records = [json.loads(line) for line in second.read_text().splitlines()]
    assert [(record["index"], record["seconds"]) for record in records] == [
        (10 + index, index / 10) for index in range(5)
    ]


def test_without_frames_there_is_no_file_and_closing_twice_is_fine(tmp_path: Path) -> None:
    sink = SegmentsSink(str(tmp_path / "cam.mp4"), VideoOptions())
    sink.close()
    sink.close()
    assert files(tmp_path) == []


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="a part of this path is a file, not a folder") as caught:
        write(SegmentsSink(str(tmp_path / "file" / "cam.mp4"), VideoOptions()), [frame(0, 0)])
    assert "\n" not in str(caught.value)


WRITE_UNTIL_KILLED = """
import sys
from stream_detr.sinks import VideoOptions
from stream_detr.sinks.segments import SegmentsSink
from stream_detr.structures import Detections
from tests.test_sinks_segments import frame
sink = SegmentsSink(sys.argv[1], VideoOptions(), segment_seconds=10, with_records=True)
for index in range(200):
    each = frame(index, index / 10)
    sink.write(each, each.image, Detections.empty())
print("written", flush=True)
sys.stdin.read()
"""


def test_a_kill_leaves_finished_files_whole_and_the_last_one_playable(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE_UNTIL_KILLED, str(tmp_path / "cam.mp4")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        child.send_signal(signal.SIGKILL)
    first, last = sorted(tmp_path.glob("*.mp4"), key=lambda path: path.stat().st_mtime_ns)
    assert len(times(first)) == 100
    group, in_the_encoder = 20, 30
    left = times(last)
    assert len(left) >= 100 - group - in_the_encoder
    assert left == [Fraction(index, 10) for index in range(len(left))]
    assert len(last.with_suffix(".jsonl").read_text().splitlines()) == 100


def test_frames_keep_their_pixels(tmp_path: Path) -> None:
    write(SegmentsSink(str(tmp_path / "cam.mp4"), VideoOptions()), [frame(index, index / 10) for index in range(16)])
    [path] = tmp_path.iterdir()
    np.testing.assert_array_equal([frame_number(image) for image in images(path)], range(16))
