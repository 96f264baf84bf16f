"""A clip that is read and written again keeps its frames, its times and its sound."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from stream_detr.sinks import VideoOptions, open_sink
from stream_detr.sources import open_source
from stream_detr.structures import Detections
from tests.media import audio_packets, frame_number, images, make_clip, times

NOTHING = Detections.empty()


def copy(source_path: Path, path: Path, options: VideoOptions | None = None) -> None:
    """Read a clip and write it as it is."""
    with open_source(str(source_path)) as source:
        chosen = options or VideoOptions()
        with open_sink(str(path), source.info, options=chosen, audio=source.audio) as sink:
            for each in source:
                sink.write(each, each.image, NOTHING)


@pytest.mark.parametrize(("source", "suffix"), [("aac", ".mp4"), ("aac", ".mov"), ("libopus", ".mp4"), ("mp3", ".mp4")])
def test_audio_is_copied_packet_by_packet(tmp_path: Path, source: str, suffix: str) -> None:
    clip = make_clip(tmp_path / ("in.mkv" if source == "libopus" else "in.mp4"), num_frames=60, audio=source)
    copy(clip, tmp_path / f"out{suffix}")
    assert audio_packets(tmp_path / f"out{suffix}") == audio_packets(clip)
    assert times(tmp_path / f"out{suffix}") == times(clip)


def test_audio_in_mkv_keeps_its_data_and_the_video_its_times(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", num_frames=60, audio="aac")
    copy(clip, tmp_path / "out.mkv")
    assert times(tmp_path / "out.mkv") == times(clip)
    run_in, *packets = audio_packets(clip)
    assert run_in[0] < 0
    assert [data for _, data in audio_packets(tmp_path / "out.mkv")] == [data for _, data in packets]


def test_audio_out_of_a_transport_stream_is_copied(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.ts", num_frames=60, audio="aac")
    copy(clip, tmp_path / "out.mp4")
    assert len(audio_packets(tmp_path / "out.mp4")) == len(audio_packets(clip))
    assert times(tmp_path / "out.mp4") == times(clip)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(sound.samples for sound in container.decode(audio=0)) > 100_000


def test_audio_that_does_not_fit_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = make_clip(tmp_path / "in.mp4", audio="aac")
    copy(clip, tmp_path / "out.webm", VideoOptions("vp9"))
    assert len(times(tmp_path / "out.webm")) == 10
    with av.open(str(tmp_path / "out.webm")) as container:
        assert not container.streams.audio
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "aac" in caplog.text


@pytest.mark.parametrize("name", ["plain", "variable", "turned", "odd", "ntsc", "sound"])
def test_a_clip_that_is_read_and_written_has_the_same_frames_times_and_sound(tmp_path: Path, name: str) -> None:
    clip = tmp_path / "in.mp4"
    if name == "variable":
        make_clip(clip, pts=[0, 3, 4, 40, 90, 91], time_base=Fraction(1, 90), audio="aac")
    elif name == "turned":
        make_clip(clip, rotation=90)
    elif name == "odd":
        make_clip(clip, size=(65, 47), pix_fmt="yuv444p")
    else:
        make_clip(clip, rate=Fraction(30000, 1001) if name == "ntsc" else 25, audio="aac" if name == "sound" else None)
    copy(clip, tmp_path / "out.mp4")
    assert times(tmp_path / "out.mp4") == times(clip)
    assert [frame_number(each) for each in images(tmp_path / "out.mp4")] == list(range(len(times(clip))))
    if name in ("variable", "sound"):
        assert audio_packets(tmp_path / "out.mp4") == audio_packets(clip)


def test_after_an_early_stop_the_sound_ends_with_the_pictures(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", num_frames=400, audio="aac")
    with (
        open_source(str(clip)) as source,
        open_sink(str(tmp_path / "out.mp4"), source.info, options=VideoOptions(), audio=source.audio) as sink,
    ):
        frames = list(zip(range(50), source, strict=False))
        for _, each in frames[:20]:
            sink.write(each, each.image, NOTHING)
    kept = audio_packets(tmp_path / "out.mp4")
    end = times(clip)[19]
    assert kept == [packet for packet in audio_packets(clip) if packet[0] < end]


def test_images_become_a_slide_show(tmp_path: Path) -> None:
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((48, 64, 3), 20 + 14 * number, np.uint8))
    copy(tmp_path, tmp_path / "out.mp4")
    assert times(tmp_path / "out.mp4") == [Fraction(second) for second in range(4)]
    assert [frame_number(image) for image in images(tmp_path / "out.mp4")] == [0, 1, 2, 3]
