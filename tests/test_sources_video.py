"""Video is read whole and exactly: every frame, its time, upright, in its colours; what is broken is said."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from stream_detr.sources import audio, open_source
from stream_detr.sources.video import turned
from stream_detr.structures import Frame
from tests.media import audio_packets, corner, frame_number, make_clip


def read(uri: Path | str) -> list[Frame]:
    with open_source(str(uri)) as source:
        return list(source)


def test_every_frame_arrives_in_order_with_its_time(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "plain.mp4", num_frames=16)
    with open_source(str(clip)) as source:
        info = source.info
        frames = list(source)
    assert [frame_number(frame.image) for frame in frames] == list(range(16))
    assert [frame.index for frame in frames] == list(range(16))
    assert [frame.pts * frame.time_base for frame in frames] == [Fraction(index, 25) for index in range(16)]
    assert (info.width, info.height, info.num_frames) == (64, 48, 16)
    assert info.frame_rate == 25
    assert not info.is_live
    assert not frames[0].image.flags.writeable


def test_an_ntsc_rate_is_exact(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "ntsc.mp4", rate=Fraction(30000, 1001))
    frames = read(clip)
    assert frames[0].stream.frame_rate == Fraction(30000, 1001)
    assert frames[7].pts * frames[7].time_base == Fraction(7 * 1001, 30000)


def test_a_variable_rate_is_kept(tmp_path: Path) -> None:
    pts = [0, 40, 41, 300, 1000, 1033, 5000]
    clip = make_clip(tmp_path / "variable.mp4", pts=pts, time_base=Fraction(1, 1000))
    assert [frame.pts * frame.time_base for frame in read(clip)] == [Fraction(ticks, 1000) for ticks in pts]


@pytest.mark.parametrize(
    ("rotation", "mirrored", "bright"),
    [
        (0, False, "top left"),
        (90, False, "bottom left"),
        (180, False, "bottom right"),
        (270, False, "top right"),
        (0, True, "top right"),
    ],
)
def test_rotation_is_applied(tmp_path: Path, rotation: int, mirrored: bool, bright: str) -> None:
    clip = make_clip(
        tmp_path / "turned.mp4", num_frames=2, size=(64, 32), draw=corner, rotation=rotation, mirrored=mirrored
    )
    frame = read(clip)[0]
    size = (32, 64) if rotation in (90, 270) else (64, 32)
    assert (frame.stream.width, frame.stream.height) == size
    assert frame.size_hw == size[::-1]
    rows, columns = frame.size_hw
    half = frame.image[: rows // 2] if bright.startswith("top") else frame.image[rows // 2 :]
    quarter = half[:, : columns // 2] if bright.endswith("left") else half[:, columns // 2 :]
    assert quarter.mean() > 200
    assert frame.image.mean() < 100


def test_a_display_matrix_turns_like_numpy() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    one = 65536
    for (a, b, c, d), expected in {
        (one, 0, 0, one): image,
        (0, -one, one, 0): np.rot90(image),
        (0, one, -one, 0): np.rot90(image, -1),
        (-one, 0, 0, -one): np.rot90(image, 2),
        (one, 0, 0, -one): image[::-1],
        (0, one, one, 0): image.transpose(1, 0, 2),
        (0, -one, -one, 0): np.rot90(image, 2).transpose(1, 0, 2),
    }.items():
        matrix = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], np.int32)
        np.testing.assert_array_equal(turned(image, matrix), expected)


def test_odd_sizes_are_read_as_they_are(tmp_path: Path) -> None:
    frames = read(make_clip(tmp_path / "odd.mp4", size=(65, 47), pix_fmt="yuv444p"))
    assert frames[3].image.shape == (47, 65, 3)
    assert frames[3].image.flags.c_contiguous
    assert frame_number(frames[3].image) == 3


def test_a_single_frame_is_a_video(tmp_path: Path) -> None:
    assert len(read(make_clip(tmp_path / "one.mp4", num_frames=1))) == 1


@pytest.mark.parametrize("colorspace", [1, 6])
@pytest.mark.parametrize("color_range", [1, 2])
def test_colours_follow_the_tags(tmp_path: Path, colorspace: int, color_range: int) -> None:
    """Red, green, blue and grey made by the definition of BT.709 and BT.601, limited and full range."""
    colors = np.array([[200, 30, 40], [30, 180, 60], [40, 50, 210], [128, 128, 128]], np.float64)
    red, blue = (0.2126, 0.0722) if colorspace == 1 else (0.299, 0.114)
    luma = colors @ np.array([red, 1 - red - blue, blue])
    cb, cr = (colors[:, 2] - luma) / (2 - 2 * blue), (colors[:, 0] - luma) / (2 - 2 * red)
    if color_range == 1:
        luma, cb, cr = 16 + luma * 219 / 255, cb * 224 / 255, cr * 224 / 255
    planes = [np.repeat(np.repeat(each[None], 16, 1), 32, 0) for each in (luma, cb + 128, cr + 128)]
    yuv = np.round(np.stack(planes)).astype(np.uint8)  # (3, 32, 64)
    path = tmp_path / "colors.mp4"
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=25, width=64, height=32, options={"crf": "1"})
        video.pix_fmt = "yuv444p"
        video.codec_context.colorspace, video.codec_context.color_range = colorspace, color_range
        frame = av.VideoFrame.from_ndarray(yuv, "yuv444p")
        frame.colorspace, frame.color_range, frame.pts = colorspace, color_range, 0
        container.mux([*video.encode(frame), *video.encode(None)])
    image = read(path)[0].image
    np.testing.assert_allclose(image[16, 8::16].astype(float), colors, atol=4)


def test_what_hd_without_tags_means_is_told_by_its_size(tmp_path: Path) -> None:
    """Untagged, the same YUV is taken for BT.601 in SD and for BT.709 in HD, as players do."""
    shown = []
    for size in ((64, 48), (128, 720)):
        path = tmp_path / f"{size[1]}.mp4"
        with av.open(str(path), "w") as container:
            video: Any = container.add_stream("libx264", rate=25, width=size[0], height=size[1])
            frame = av.VideoFrame(*size, "yuv420p")
            for plane, level in zip(frame.planes, (120, 90, 190), strict=True):
                plane.update(bytes([level]) * plane.buffer_size)
            container.mux([*video.encode(frame), *video.encode(None)])
        shown.append(read(path)[0].image[20, 20].astype(int))
    np.testing.assert_allclose(shown[0], [220, 86, 44], atol=4)
    np.testing.assert_allclose(shown[1], [232, 99, 41], atol=4)


@pytest.mark.parametrize(("codec", "pix_fmt"), [("libx265", "yuv420p10le"), ("ffv1", "gbrp10le"), ("ffv1", "gray16le")])
def test_deep_and_grey_formats_become_rgb(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    with av.open(str(tmp_path / "deep.mkv"), "w") as container:
        options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        video: Any = container.add_stream(codec, rate=25, width=64, height=64, options=options)
        video.pix_fmt = pix_fmt
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), "rgb24").reformat(format=pix_fmt)
        for ticks in range(4):  # of one or two frames x265 makes up the times
            frame.pts, frame.time_base = ticks, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    image = read(tmp_path / "deep.mkv")[0].image
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image.reshape(-1, 3).mean(0), 90, atol=3)


def test_frames_without_times_get_rising_ones(tmp_path: Path) -> None:
    frames = read(make_clip(tmp_path / "bare.h264"))
    assert [frame_number(frame.image) for frame in frames] == list(range(10))
    assert [frame.pts * frame.time_base for frame in frames] == [Fraction(index, 25) for index in range(10)]


def test_a_change_of_size_reaches_the_frames(tmp_path: Path) -> None:
    small, large = make_clip(tmp_path / "a.h264"), make_clip(tmp_path / "b.h264", size=(96, 64))
    (tmp_path / "both.h264").write_bytes(small.read_bytes() + large.read_bytes())
    sizes = [frame.size_hw for frame in read(tmp_path / "both.h264")]
    assert sizes == [(48, 64)] * 10 + [(64, 96)] * 10


def test_a_name_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clip(tmp_path / "clip.mp4").rename(tmp_path / "12:30.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(read("12:30.mp4")) == 10


def test_frames_are_let_go_without_the_garbage_collector(tmp_path: Path) -> None:
    """PyAV's side data would keep every frame in a cycle, tens of megabytes until the next collection."""
    clip = make_clip(tmp_path / "turned.mp4", num_frames=60, rotation=90)
    with open_source(str(clip)) as source:
        frames = iter(source)
        next(frames)
        gc.collect()
        gc.disable()
        try:
            assert sum(1 for _ in frames) == 59
            assert gc.collect() < 50
        finally:
            gc.enable()


def test_audio_comes_along_packet_by_packet(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "sound.mp4", num_frames=50, audio="aac")
    with open_source(str(clip)) as source:
        assert source.audio is not None
        taken: list[Any] = []
        for frame in source:
            batch = source.audio.take(frame.seconds)
            assert all(packet.pts * packet.time_base < frame.seconds for packet in batch)
            taken += batch
        taken += source.audio.take(None)
        assert source.audio.take(None) == []
    assert [(packet.pts * packet.time_base, bytes(packet)) for packet in taken] == audio_packets(clip)


def test_audio_that_nobody_takes_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_MOST_BYTES_UNCLAIMED", 2000)
    clip = make_clip(tmp_path / "sound.mp4", num_frames=50, audio="aac")
    with open_source(str(clip)) as source:
        assert source.audio is not None
        assert len(list(source)) == 50
        left = source.audio.take(None)
    assert 0 < sum(packet.size for packet in left) <= 2000
    assert bytes(left[-1]) == audio_packets(clip)[-1][1]


def test_a_clip_without_sound_has_no_audio(tmp_path: Path) -> None:
    with open_source(str(make_clip(tmp_path / "silent.mp4"))) as source:
        assert source.audio is None


READ_STDIN = """
from stream_detr.sources import open_source
with open_source("-") as source:
    print(source.info.name, sum(1 for _ in source))
"""


def piped(data: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", READ_STDIN], input=data, capture_output=True, timeout=60)


@pytest.mark.parametrize("name", ["clip.mkv", "clip.mp4"])
def test_stdin_is_read_from_a_pipe(tmp_path: Path, name: str) -> None:
    clip = make_clip(tmp_path / name, options={"movflags": "faststart"} if name.endswith("mp4") else {})
    done = piped(clip.read_bytes())
    assert done.stdout == b"stdin 10\n", done.stderr.decode()


def test_rubbish_in_a_pipe_is_an_error_with_a_remedy() -> None:
    done = piped(b"no video at all\n" * 100)
    assert b"SourceError: stdin: not a video that can be read" in done.stderr
    assert b"mkv" in done.stderr


def test_reading_can_stop_anywhere(tmp_path: Path) -> None:
    source = open_source(str(make_clip(tmp_path / "clip.mp4", num_frames=50)))
    frames = iter(source)
    kept: list[NDArray[np.uint8]] = [next(frames).image for _ in range(3)]
    source.close()
    source.close()
    assert [frame_number(image) for image in kept] == [0, 1, 2]
    shutil.rmtree(tmp_path)
