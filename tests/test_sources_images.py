"""Still images of every kind come out upright, RGB and uint8; the test pattern is the same every time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stream_detr.errors import SourceError
from stream_detr.sources import SOURCES, Input, open_source
from stream_detr.sources.pattern import parse_pattern
from tests.media import make_clip

RED = (200, 30, 40)


def picture(width: int = 6, height: int = 4) -> NDArray[np.uint8]:
    """Dark with a red upper left pixel block: (H, W, 3) uint8 RGB."""
    image = np.full((height, width, 3), 20, np.uint8)
    image[: height // 2, : width // 2] = RED
    return image


def only_image(uri: Path | str) -> NDArray[np.uint8]:
    with open_source(str(uri)) as source:
        [frame] = source
    return frame.image


def test_a_single_image_is_one_frame(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png")
    with open_source(str(tmp_path / "a.png")) as source:
        [frame] = source
    np.testing.assert_array_equal(frame.image, picture())
    assert (frame.index, frame.pts, frame.stream.name) == (0, 0, str(tmp_path / "a.png"))
    assert (source.info.width, source.info.height, source.info.num_frames) == (6, 4, 1)
    assert not frame.image.flags.writeable


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(picture(64, 32)).save(tmp_path / "phone.jpg", exif=exif, quality=95, subsampling=0)
    image = only_image(tmp_path / "phone.jpg")
    assert image.shape == (64, 32, 3)
    np.testing.assert_allclose(image[8, 24], RED, atol=6)
    np.testing.assert_allclose(image[8, 8], 20, atol=6)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    Image.fromarray(picture()).convert(mode).save(tmp_path / "a.png")
    expected = np.asarray(Image.fromarray(picture()).convert(mode).convert("RGB"))
    image = only_image(tmp_path / "a.png")
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image.astype(int), expected.astype(int), atol=1)


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    deep = (picture().astype(np.uint16) * 257)[..., ::-1]
    assert cv2.imwrite(str(tmp_path / "a.png"), deep)
    assert cv2.imwrite(str(tmp_path / "b.tif"), deep[..., 1])
    np.testing.assert_array_equal(only_image(tmp_path / "a.png"), picture())
    np.testing.assert_array_equal(only_image(tmp_path / "b.tif")[..., 0], picture()[..., 1])


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".webp", ".tif", ".ppm"])
def test_channels_are_not_swapped(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(picture(64, 64)).save(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(only_image(tmp_path / f"a{suffix}")[10, 10], RED, atol=12)


def test_a_folder_keeps_names_sizes_and_order(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        Image.fromarray(picture(4 * number, 4)).save(tmp_path / f"img{number}.png")
    with open_source(str(tmp_path)) as source:
        frames = list(source)
    assert [Path(frame.stream.name).name for frame in frames] == ["img1.png", "img2.png", "img10.png"]
    assert [frame.stream.width for frame in frames] == [4, 8, 40]
    assert [(frame.index, frame.pts, frame.time_base) for frame in frames] == [(i, i, Fraction(1)) for i in range(3)]
    assert source.info.num_frames == 3


def test_a_broken_image_among_others_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("b", "d"):
        Image.fromarray(picture()).save(tmp_path / f"{name}.png")
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "c.png").write_bytes(b"")
    with open_source(str(tmp_path)) as source:
        assert [frame.index for frame in source] == [1, 3]
    messages = {record.getMessage() for record in caplog.records}
    assert {message.partition(":")[0] for message in messages} == {str(tmp_path / "a.png"), str(tmp_path / "c.png")}


def test_a_broken_image_alone_is_an_error_that_names_it(tmp_path: Path) -> None:
    for data, says in ((b"no picture", "not an image"), (b"", "is empty")):
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(SourceError, match=says) as caught:
            open_source(str(tmp_path / "a.png"))
        assert str(caught.value).startswith(str(tmp_path / "a.png"))


def test_a_folder_of_broken_images_is_an_error(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(SourceError, match="none of the 2 images"):
        open_source(str(tmp_path))


def test_an_image_that_has_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        open_source(Input("images", (str(tmp_path / "gone.png"),), "gone"))


def test_the_pattern_moves_and_is_the_same_every_time() -> None:
    with open_source("pattern:64x48@30000/1001:1") as first, open_source("pattern:64x48@29.97:1") as second:
        one, other = list(first), list(second)
    assert len(one) == 30
    assert one[29].pts * one[29].time_base == Fraction(29 * 1001, 30000)
    for frame, same in zip(one, other, strict=True):
        np.testing.assert_array_equal(frame.image, same.image)
    assert not np.array_equal(one[0].image, one[10].image)


@pytest.mark.parametrize(
    "uri", ["pattern:", "pattern:0x5", "pattern:9", "pattern:64x48@0", "pattern:1x1@1/0", "pattern:64x48:x"]
)
def test_a_bad_pattern_says_how_to_write_one(uri: str) -> None:
    if uri == "pattern:":
        assert parse_pattern(uri) == parse_pattern("pattern")
        return
    with pytest.raises(SourceError, match=r"pattern:640x360@30:10"):
        open_source(uri)


def make_input(kind: str, folder: Path) -> Input:
    if kind == "pattern":
        return Input(kind, ("pattern:32x16@5:2",), "pattern")
    path = folder / ("clip.mp4" if kind == "video" else "a.png")
    if kind == "video":
        make_clip(path)
    else:
        Image.fromarray(picture()).save(path)
    return Input(kind, (str(path),), "name")


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_keeps_the_contract(tmp_path: Path, kind: str) -> None:
    with open_source(make_input(kind, tmp_path)) as source:
        assert source.info.name
        assert source.audio is None
        frames = list(source)
    source.close()
    assert len(frames) == source.info.num_frames
    assert frames[0].size_hw == (source.info.height, source.info.width)
    times = [frame.pts * frame.time_base for frame in frames]
    assert times == sorted(set(times))
    assert [frame.index for frame in frames] == list(range(len(frames)))
    captured = [frame.captured_seconds for frame in frames]
    assert captured == sorted(captured)
    assert not any(frame.image.flags.writeable for frame in frames)
