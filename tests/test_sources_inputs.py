"""What a user types becomes inputs; credentials don't become visible."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_detr.errors import SourceError
from stream_detr.sources import Input, find_inputs, open_source, without_credentials


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("clip.mp4", "clip.mp4"),
        ("a@b:c?d=e#f.mp4", "a@b:c?d=e#f.mp4"),
        ("https://host/clip.mp4", "https://host/clip.mp4"),
        ("https://host:8080/@anna/clip.mp4", "https://host:8080/@anna/clip.mp4"),
        ("https://user:pass@host:8080/a/clip.mp4#t=3", "https://host:8080/a/clip.mp4"),
        ("rtsp://user:p@ss@camera/live", "rtsp://camera/live"),
        ("rtsp://user:p/ss@camera/live", "rtsp://camera/live"),
        ("rtsp://user:p?ss@camera/live", "rtsp://camera/live"),
        ("rtsp://user:p#ss@camera/live", "rtsp://camera/live"),
        ("http://[::1]:80/a@b.mp4", "http://[::1]:80/a@b.mp4"),
        ("https://host/c.mp4?X-Sig=abc&n=1", "https://host/c.mp4?X-Sig=…&n=…"),
        ("https://host/c.mp4?secret", "https://host/c.mp4?"),
    ],
)
def test_a_uri_is_shown_without_its_secrets(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown


def test_an_input_shows_no_password() -> None:
    [found] = find_inputs(["https://user:secret@host/clip.mp4?token=secret"])
    assert found.uris == ("https://user:secret@host/clip.mp4?token=secret",)
    assert "secret" not in found.name


def test_a_folder_gives_its_videos_and_one_input_of_images_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "clip10.mp4", "clip2.MP4", "b.jpg", "a.png", "img10.png", "img9.png", "notes.txt", ".hidden.mp4")
    touch(tmp_path / "inner.mp4")
    found = find_inputs([str(tmp_path)])
    assert [each.kind for each in found] == ["video", "video", "images"]
    assert [Path(each.uris[0]).name for each in found[:2]] == ["clip2.MP4", "clip10.mp4"]
    assert [Path(uri).name for uri in found[2].uris] == ["a.png", "b.jpg", "img9.png", "img10.png"]
    assert found[2].name == str(tmp_path)


def test_a_glob_gives_what_it_matches(tmp_path: Path) -> None:
    touch(tmp_path / "a", "1.mp4", "2.jpg")
    touch(tmp_path / "b", "3.mp4")
    found = find_inputs([str(tmp_path / "**" / "*.mp4")])
    assert [Path(each.name).name for each in found] == ["1.mp4", "3.mp4"]


def test_a_file_with_brackets_in_its_name_is_no_glob(tmp_path: Path) -> None:
    touch(tmp_path, "take[1].mp4")
    assert find_inputs([str(tmp_path / "take[1].mp4")])[0].kind == "video"


def test_images_named_one_by_one_are_one_input(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.jpg", "c.mp4")
    uris = [str(tmp_path / name) for name in ("a.png", "c.mp4", "b.jpg")]
    images, video = find_inputs(uris)
    assert images == Input("images", (uris[0], uris[2]), "2 images")
    assert video.uris == (uris[1],)


def test_the_same_thing_twice_is_one_input(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    assert len(find_inputs([str(tmp_path / "a.mp4")] * 2)) == 1


def test_stdin_the_pattern_and_addresses_are_known() -> None:
    found = find_inputs(["-", "pattern:64x48", "http://host/a.mp4", "https://host/b.jpg?size=2"])
    assert [(each.kind, each.name) for each in found] == [
        ("video", "stdin"),
        ("pattern", "pattern"),
        ("video", "http://host/a.mp4"),
        ("images", "https://host/b.jpg?size=…"),
    ]


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("missing.mp4", "no such file"),
        ("missing-*.mp4", "no video and no image"),
        ("rtsp://user:secret@host/live", "rtsp://"),
    ],
)
def test_what_is_not_there_is_named(uri: str, says: str) -> None:
    with pytest.raises(SourceError, match=says) as caught:
        find_inputs([uri])
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"{tmp_path}: the folder has no video and no image"):
        find_inputs([str(tmp_path)])


def test_nothing_given_is_an_error() -> None:
    with pytest.raises(SourceError, match="no input"):
        find_inputs([])


def test_one_source_is_opened_at_a_time(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    with pytest.raises(SourceError, match="2 inputs"):
        open_source(str(tmp_path))
