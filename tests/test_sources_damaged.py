"""Broken files: what can be used is used with one warning, what can't be read is said in one line."""

from __future__ import annotations

import logging
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from stream_detr.errors import SourceError
from stream_detr.sources import open_source
from stream_detr.structures import Frame
from tests.media import cut_short, make_audio, make_clip, noise


def read(uri: Path | str) -> list[Frame]:
    with open_source(str(uri)) as source:
        return list(source)


@pytest.mark.parametrize(
    ("name", "options"), [("cut.mp4", {"movflags": "faststart"}), ("cut.mkv", {}), ("cut.avi", {})], ids=str
)
def test_a_truncated_file_gives_its_frames_and_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, options: dict[str, str]
) -> None:
    clip = make_clip(tmp_path / name, num_frames=60, draw=noise, options=options)
    whole = read(clip)
    assert not caplog.records
    frames = read(cut_short(clip, 0.4))
    assert 15 < len(frames) < 30
    np.testing.assert_array_equal(frames[-1].image, whole[len(frames) - 1].image)
    [record] = [record for record in caplog.records if record.name == "stream_detr"]
    assert record.levelno == logging.WARNING
    assert "cut off" in record.getMessage()
    assert str(clip) in record.getMessage()


def test_damage_in_the_middle_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = make_clip(tmp_path / "damaged.mp4", num_frames=60, draw=noise, options={"movflags": "faststart"})
    data = bytearray(clip.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 5000] = bytes(5000)
    clip.write_bytes(data)
    assert len(read(clip)) > 50
    assert len(caplog.records) <= 1


def test_a_file_cut_off_before_its_index_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cut off before its index"):
        open_source(str(cut_short(make_clip(tmp_path / "headless.mp4", draw=noise), 0.5)))


def test_what_is_no_video_is_an_error_that_names_it_and_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("just some words\n" * 50)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(50_000))
    (tmp_path / "words.mp4").write_text("1\n00:00:01,000 --> 00:00:02,000\nsubtitles\n\n" * 5)
    make_audio(tmp_path / "sound.mp4")
    for name, says in {
        "text.mp4": "not a video that can be read",
        "empty.mp4": "is empty",
        "noise.mp4": "not a video that can be read",
        "words.mp4": "has no video in it (only subtitle)",
        "sound.mp4": "has no video in it (only audio)",
    }.items():
        with pytest.raises(SourceError) as caught:
            open_source(str(tmp_path / name))
        assert says in str(caught.value)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert "; " in str(caught.value)
        assert "\n" not in str(caught.value)


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    cover = cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tobytes()
    path = tmp_path / "song.mp4"
    with av.open(str(make_audio(tmp_path / "song.m4a"))) as song, av.open(str(path), "w") as container:
        sound = container.add_stream_from_template(song.streams.audio[0])
        picture: Any = container.add_mux_stream("png", width=32, height=32)
        picture.disposition = Disposition.attached_pic
        for packet in song.demux(song.streams.audio[0]):
            if packet.size:
                packet.stream = sound
                container.mux(packet)
        art: Any = av.Packet(cover)
        art.stream, art.pts, art.dts, art.time_base = picture, 0, 0, Fraction(1, 1000)
        container.mux(art)
    with av.open(str(path)) as written:
        assert len(written.streams.video) == 1
    with pytest.raises(SourceError, match="has no video in it"):
        open_source(str(path))


def test_a_pipe_that_stalls_ends_in_one_line_after_its_frames(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_clip(tmp_path / "whole.mkv", num_frames=60)
    whole = (tmp_path / "whole.mkv").read_bytes()
    reading, writing = os.pipe()
    monkeypatch.setattr("stream_detr.sources.video._TIMEOUTS_SECONDS", (0.2, 0.2))
    with open(reading, encoding="utf-8") as stdin, open(writing, "wb", buffering=0) as writer:
        monkeypatch.setattr("sys.stdin", stdin)
        assert len(whole) < 65_536  # fits into the pipe, so that writing does not wait for the reader
        writer.write(whole[: len(whole) * 3 // 4])
        indices: list[int] = []
        with open_source("-") as source, pytest.raises(SourceError, match="stdin: no data for 0 s; check the program"):
            indices.extend(frame.index for frame in source)
    assert len(indices) > 20
    assert "Traceback" not in capfd.readouterr().err
