"""Images, records and the checks before a run."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from stream_detr.errors import SinkError, UsageError
from stream_detr.measures import attention_stats
from stream_detr.sinks import SINKS, RecordsSink, VideoOptions, check_output, is_picture, open_sink
from stream_detr.structures import AttentionMaps, Detections, Frame, StreamInfo

RED = (200, 30, 40)


def frame(name: str = "clip.mp4", index: int = 0, size: tuple[int, int] = (64, 48)) -> Frame:
    image = np.full((size[1], size[0], 3), RED, np.uint8)
    return Frame(image, index, 1001 * index, Fraction(1, 30000), 0.0, StreamInfo(name, *size, Fraction(25)))


def detections(*, attention: bool = True) -> Detections:
    cross = np.zeros((2, 3, 4), np.float32)
    cross[0, 1, 1] = 1
    cross[1] = 1 / 12
    return Detections(
        boxes=np.array([[10.123, 10, 40, 40], [0, 0, 64, 48]], np.float32),
        scores=np.array([0.98768, 0.5], np.float32),
        class_ids=np.array([1, 0]),
        query_ids=np.array([17, 99]),
        track_ids=np.array([3, -1]),
        attention=AttentionMaps(16, (48, 64), cross=cross) if attention else None,
        class_names=("cat", "café"),
    )


def write_images(path: Path, names: list[str], num_frames: int | None = None) -> None:
    info = StreamInfo("folder", 64, 48, None, num_frames)
    with open_sink(str(path), info, options=VideoOptions(), audio=None) as sink:
        for index, name in enumerate(names):
            each = frame(name, index)
            sink.write(each, each.image, Detections.empty())


def color(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    assert image is not None
    return np.asarray(image[24, 32], np.uint8)


def test_images_keep_their_names_and_kind(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "out", ["in/a.png", "in/b.JPG", "in/c.webp", "https://host/d%20e.jpeg?size=…"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.JPG", "c.png", "d e.jpeg"]
    assert capfd.readouterr().err == ""  # OpenCV has warnings of its own
    for path in (tmp_path / "out").iterdir():
        np.testing.assert_allclose(color(path), RED, atol=3)


def test_images_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    write_images(tmp_path, ["a/x.png", "b/x.png", "b/x.jpg", "c/X.PNG", "d/x.bmp"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["X-3.PNG", "x-2.png", "x-4.png", "x.jpg", "x.png"]


def test_one_image_goes_into_one_file(tmp_path: Path) -> None:
    write_images(tmp_path / "new" / "out.png", ["in/a.jpg"])
    np.testing.assert_array_equal(color(tmp_path / "new" / "out.png"), RED)


def test_a_second_image_does_not_go_into_the_same_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds one picture, folder has 2"):
        write_images(tmp_path / "out.png", ["a.png", "b.png"], num_frames=2)
    with pytest.raises(SinkError, match="holds one picture"):
        write_images(tmp_path / "out.png", ["a.png", "b.png"])


def test_an_image_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SinkError, match="a part of this path is a file"):
        write_images(tmp_path / "file" / "out", ["a.png"])
    if Path("/dev/full").exists():
        (tmp_path / "a.png").symlink_to("/dev/full")
        with pytest.raises(SinkError, match="no space left"):
            write_images(tmp_path, ["a.png"])


def test_a_record_is_what_the_design_says(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out.jsonl"
    found = detections()
    with RecordsSink(str(path)) as sink:
        sink.write(frame(index=1), frame().image, found)
        assert path.read_text(encoding="utf-8").endswith("]}\n"), "a line is on the disk at once"
        sink.write(frame(index=2), frame().image, Detections.empty())
    first, second = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    stats = attention_stats(found, (48, 64))
    assert first == {
        "stream": "clip.mp4",
        "index": 1,
        "pts": 1001,
        "seconds": 0.033367,
        "width": 64,
        "height": 48,
        "detections": [
            {
                "box": [10.12, 10.0, 40.0, 40.0],
                "score": 0.9877,
                "class_id": 1,
                "class": "café",
                "query_id": 17,
                "track_id": 3,
                "attention": {"center": [24.0, 24.0], "inside_box": round(stats[0].inside_box, 4), "entropy": 0.0},
                "carried": False,
            },
            {
                "box": [0.0, 0.0, 64.0, 48.0],
                "score": 0.5,
                "class_id": 0,
                "class": "cat",
                "query_id": 99,
                "track_id": None,
                "attention": {"center": [32.0, 24.0], "inside_box": 1.0, "entropy": 1.0},
                "carried": False,
            },
        ],
    }
    assert second["detections"] == []


def test_without_maps_attention_is_null(tmp_path: Path) -> None:
    with RecordsSink(str(tmp_path / "out.jsonl")) as sink:
        sink.write(frame(), frame().image, detections(attention=False))
    [line] = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [each["attention"] for each in json.loads(line)["detections"]] == [None, None]


def test_a_file_name_that_is_no_text_stays_json(tmp_path: Path) -> None:
    name = "clip\udcff.mp4"  # how Python hands over a byte that is no UTF-8
    with RecordsSink(str(tmp_path / "out.jsonl")) as sink:
        sink.write(frame(name), frame().image, Detections.empty())
    assert json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))["stream"] == name


def test_records_on_a_full_disk_are_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is not there")
    with pytest.raises(SinkError, match="/dev/full: no space left"), RecordsSink("/dev/full") as sink:
        sink.write(frame(), frame().image, Detections.empty())


def test_records_that_cannot_be_made_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="is a folder"):
        RecordsSink(str(tmp_path))


def test_an_output_that_exists_is_refused_unless_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    check_output(str(path), overwrite=False)
    assert not path.exists(), "a check leaves nothing behind"
    path.write_bytes(b"x")
    with pytest.raises(SinkError, match="exists already; add --overwrite"):
        check_output(str(path), overwrite=False)
    check_output(str(path), overwrite=True)
    assert path.read_bytes() == b"x"


def test_a_folder_of_images_may_exist_but_not_be_full(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    check_output(str(folder), overwrite=False)
    check_output(str(folder), overwrite=False)
    (folder / "a.png").write_bytes(b"x")
    with pytest.raises(SinkError, match="is not empty; add --overwrite"):
        check_output(str(folder), overwrite=False)
    check_output(str(folder), overwrite=True)


def test_missing_folders_are_made(tmp_path: Path) -> None:
    check_output(str(tmp_path / "a" / "b" / "out.mp4"), overwrite=False)
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_is_no_file_and_a_file_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").mkdir()
    (tmp_path / "out").write_text("x")
    with pytest.raises(SinkError, match="is a folder; name a file"):
        check_output(str(tmp_path / "out.mp4"), overwrite=True)
    with pytest.raises(SinkError, match="is a file, but a folder"):
        check_output(str(tmp_path / "out"), overwrite=True)
    with pytest.raises(SinkError, match="a part of this path is a file"):
        check_output(str(tmp_path / "out" / "x.mp4"), overwrite=True)


def test_a_folder_that_cannot_be_written_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(SinkError, match="no permission to write there; choose another folder"):
        check_output(str(tmp_path / "out.mp4"), overwrite=False)


def test_what_is_a_picture_is_told_by_the_suffix() -> None:
    assert is_picture("a.jpg")
    assert not any(is_picture(path) for path in ("a.mp4", "a", "a/", "a.png/"))


def test_a_folder_may_have_a_dot_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "run.v2"
    folder.mkdir()
    check_output(str(folder), overwrite=False)
    write_images(folder, ["in/a.png"])
    assert (folder / "a.png").is_file()


@pytest.mark.parametrize("suffix", SINKS)
def test_every_sink_keeps_the_contract(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    options = VideoOptions("vp9") if suffix == ".webm" else VideoOptions()
    with open_sink(str(path), frame().stream, options=options, audio=None) as sink:
        for index in range(2 if suffix not in (".png", ".jpg", ".jpeg") else 1):
            each = frame(index=index)
            sink.write(each, each.image, detections())
        sink.close()
        sink.close()
    written = [path] if path.is_file() else list(path.iterdir())
    assert written
    assert all(each.stat().st_size for each in written)
