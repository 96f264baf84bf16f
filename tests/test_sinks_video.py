"""Video is written so that reading it back gives the same frames, times, sound and colours, however the run ends."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from stream_detr.errors import SinkError, UsageError
from stream_detr.sinks import VideoOptions, open_sink
from stream_detr.sinks.codecs import ENCODERS, encoder_settings
from stream_detr.sources import open_source
from stream_detr.structures import Detections, Frame, StreamInfo
from tests.media import frame_number, grey, images, times

NOTHING = Detections.empty()


def frame(image: NDArray[np.uint8], index: int, pts: int, time_base: Fraction) -> Frame:
    info = StreamInfo("clip", image.shape[1], image.shape[0])
    return Frame(image, index, pts, time_base, 0.0, info)


def write(
    path: Path,
    pts: Sequence[int],
    time_base: Fraction,
    *,
    rate: Fraction | None = Fraction(25),
    size: tuple[int, int] = (64, 48),
    options: VideoOptions | None = None,
) -> None:
    """A file with a grey frame for each of ``pts``."""
    info = StreamInfo("clip", *size, rate)
    with open_sink(str(path), info, options=options or VideoOptions(), audio=None) as sink:
        for index, ticks in enumerate(pts):
            each = frame(grey(index, *size), index, ticks, time_base)
            sink.write(each, each.image, NOTHING)


CLOCKS = {
    "25": (range(60), Fraction(1, 25)),
    "ntsc": ([index * 1001 for index in range(60)], Fraction(1, 30000)),
    "ntsc by its period": (range(60), Fraction(1001, 30000)),
    "odd": ([index * 384 for index in range(60)], Fraction(1, 11456)),
    "variable": ([0, 40, 41, 90, 500, 2000, 2001, 30_000, 30_040], Fraction(1, 1000)),
    "late start": ([450_007 + index * 3003 for index in range(60)], Fraction(1, 90_000)),
    "microseconds": ([13 + index * 33_333 for index in range(60)], Fraction(1, 1_000_000)),
    "long pauses, nanoseconds": ([index * 60 * 10**9 for index in range(4)], Fraction(1, 10**9)),
    "one frame": ([7], Fraction(1, 25)),
}


@pytest.mark.parametrize("clock", CLOCKS)
def test_times_in_mp4_are_exact(tmp_path: Path, clock: str, caplog: pytest.LogCaptureFixture) -> None:
    pts, time_base = CLOCKS[clock]
    write(tmp_path / "out.mp4", pts, time_base)
    assert times(tmp_path / "out.mp4") == [ticks * time_base for ticks in pts]
    with open_source(str(tmp_path / "out.mp4")) as source:
        assert [frame_number(each.image) for each in source] == [index % 16 for index in range(len(pts))]
    assert not caplog.records


@pytest.mark.parametrize("clock", CLOCKS)
def test_times_in_mkv_are_exact_to_the_millisecond(
    tmp_path: Path, clock: str, caplog: pytest.LogCaptureFixture
) -> None:
    pts, time_base = CLOCKS[clock]
    write(tmp_path / "out.mkv", pts, time_base)
    exact = [ticks * time_base for ticks in pts]
    with open_source(str(tmp_path / "out.mkv")) as source:
        written = [each.pts * each.time_base for each in source]
    assert len(written) == len(exact)
    assert max(abs(a - b) for a, b in zip(written, exact, strict=True)) <= Fraction(1, 2000)
    assert not caplog.records


@pytest.mark.parametrize("codec", [name for name in ENCODERS if "nvenc" not in name])
@pytest.mark.parametrize("clock", ["variable", "microseconds"])
def test_every_codec_keeps_frames_and_times(tmp_path: Path, codec: str, clock: str) -> None:
    pts, time_base = CLOCKS[clock]
    write(tmp_path / "out.mp4", pts, time_base, options=VideoOptions(codec))
    assert times(tmp_path / "out.mp4") == [ticks * time_base for ticks in pts]
    assert [frame_number(image) for image in images(tmp_path / "out.mp4")] == [i % 16 for i in range(len(pts))]


@pytest.mark.parametrize("codec", [name for name in ENCODERS if "nvenc" not in name])
@pytest.mark.parametrize("num_frames", [1, 2])
def test_every_codec_writes_the_shortest_videos(tmp_path: Path, codec: str, num_frames: int) -> None:
    write(tmp_path / "out.mp4", range(num_frames), Fraction(1, 25), options=VideoOptions(codec))
    assert times(tmp_path / "out.mp4") == [Fraction(index, 25) for index in range(num_frames)]


def test_a_start_before_zero_is_moved_to_zero(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "out.mp4", range(-3, 20), Fraction(1, 25))
    assert times(tmp_path / "out.mp4") == [Fraction(index, 25) for index in range(23)]
    assert len(caplog.records) == 1


def test_times_that_do_not_rise_are_moved_on_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "out.mp4", [0, 100, 100, 50, 200], Fraction(1, 1000))
    assert times(tmp_path / "out.mp4") == [Fraction(ticks, 1000) for ticks in (0, 100, 101, 102, 200)]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("size", [(65, 47), (64, 50), (66, 49), (2, 2), (1, 1)])
def test_odd_sizes_become_even_by_doubling_the_edge(tmp_path: Path, size: tuple[int, int]) -> None:
    write(tmp_path / "out.mp4", range(3), Fraction(1, 25), size=size)
    written = images(tmp_path / "out.mp4")
    assert written[0].shape == (size[1] + size[1] % 2, size[0] + size[0] % 2, 3)
    assert [frame_number(image) for image in written] == [0, 1, 2]
    assert written[2].std() < 3


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".m4v"])
def test_colours_are_right_and_tagged(tmp_path: Path, suffix: str) -> None:
    colors = [(200, 30, 40), (30, 180, 60), (40, 50, 210), (240, 240, 240)]
    image = np.repeat(np.array([colors], np.uint8), 16, axis=1).repeat(64, axis=0)  # (64, 64, 3)
    info = StreamInfo("clip", 64, 64, Fraction(25))
    path = tmp_path / f"out{suffix}"
    with open_sink(str(path), info, options=VideoOptions(crf=5), audio=None) as sink:
        sink.write(frame(image, 0, 0, Fraction(1, 25)), image, NOTHING)
    with av.open(str(path)) as container:
        decoded = next(container.decode(video=0))
        tags = (decoded.colorspace, decoded.color_range, decoded.color_primaries, decoded.color_trc)
        shown = decoded.to_ndarray(format="rgb24")[32, 8::16].astype(int)
    assert tags == (6, 1, 1, 1)
    np.testing.assert_allclose(shown, colors, atol=6)


def test_another_size_is_fitted_between_bars_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    info = StreamInfo("clip", 64, 48, Fraction(25))
    with open_sink(str(tmp_path / "out.mp4"), info, options=VideoOptions(), audio=None) as sink:
        for index, size in enumerate([(64, 48), (128, 48), (32, 48), (63, 47)]):
            image = np.full((size[1], size[0], 3), 200, np.uint8)
            sink.write(frame(image, index, index, Fraction(1, 25)), image, NOTHING)
    written = images(tmp_path / "out.mp4")
    assert {image.shape for image in written} == {(48, 64, 3)}
    assert written[1][24].mean() > 190 > 30 > written[1][4].mean()  # bars above and below
    assert written[2][:, 32].mean() > 190 > 30 > written[2][:, 4].mean()  # bars left and right
    assert len(caplog.records) == 1


def test_the_finished_file_is_a_plain_mp4(tmp_path: Path) -> None:
    write(tmp_path / "out.mp4", range(120), Fraction(1, 25))
    data, boxes, place = (tmp_path / "out.mp4").read_bytes(), [], 0
    while place < len(data):
        boxes.append(data[place + 4 : place + 8].decode())
        place += int.from_bytes(data[place : place + 4], "big")
    assert boxes == ["ftyp", "free", "mdat", "moov"]
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.frames == 120
        assert stream.average_rate == 25
        assert container.duration == 4_800_000
        container.seek(3_000_000)
        assert next(container.decode(stream)).time <= 3


def test_without_frames_there_is_no_file(tmp_path: Path) -> None:
    write(tmp_path / "out.mp4", [], Fraction(1, 25))
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    ("options", "name", "says"),
    [
        (VideoOptions("divx9"), "out.mp4", r"--codec divx9: no such video encoder here; there are libx264, libx265"),
        (VideoOptions("aac"), "out.mp4", "--codec aac: no such video encoder"),
        (VideoOptions(crf=52), "out.mp4", r"--crf 52: libx264 takes 0 \(best\) to 51"),
        (VideoOptions(preset="warp"), "out.mp4", "--preset warp: libx264 has ultrafast, superfast"),
        (VideoOptions("av1", preset="slow"), "out.mp4", "--preset slow: libsvtav1 has 0, 1"),
        (VideoOptions(), "out.webm", r"--codec libx264: doesn't go into .webm"),
        (VideoOptions(), "out.avi", r"can't write .avi files; use .mp4"),
    ],
)
def test_what_cannot_be_encoded_is_refused_before_the_first_frame(
    tmp_path: Path, options: VideoOptions, name: str, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        open_sink(str(tmp_path / name), StreamInfo("clip", 64, 48), options=options, audio=None)


@pytest.mark.parametrize(
    ("given", "name"), [("h264", "libx264"), ("hevc", "libx265"), ("vp9", "libvpx-vp9"), ("av1", "libsvtav1")]
)
def test_common_names_of_codecs_are_understood(given: str, name: str) -> None:
    assert encoder_settings(VideoOptions(given))[0] == name


def test_a_hardware_encoder_that_is_not_there_is_one_line() -> None:
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(SinkError, match="h264_nvenc: needs an NVIDIA GPU"):
        encoder_settings(VideoOptions("h264_nvenc"))
