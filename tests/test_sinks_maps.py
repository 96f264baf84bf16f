"""The attention maps as a NumPy file and as a zarr folder, read back by numpy and zarr."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal

from stream_detr.errors import SinkError, UsageError
from stream_detr.sinks import MAPS, maps, open_maps
from stream_detr.structures import Detections
from tests.found import CLASS_NAMES, found, frame, write_and_raise

IMAGE = frame().image
KINDS = [".npz", ".zarr"]


def write(path: Path, detections: list[Detections], names: tuple[str, ...] = ("clip.mp4",)) -> None:
    with open_maps(str(path)) as sink:
        for index, each in enumerate(detections):
            sink.write(frame(index, names[index % len(names)]), IMAGE, each)


def read(path: Path) -> dict[str, Any]:
    """Every array by its name, whichever kind it is."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return dict(file)
    root: Any = zarr.open_group(path, mode="r")
    arrays = {name: each[:] for name, each in root.members(max_depth=None) if isinstance(each, zarr.Array)}
    return arrays | {name: np.array(value) for name, value in root.attrs.items()}


def check(arrays: Mapping[str, Any], detections: list[Detections], indices: list[int], prefix: str = "") -> None:
    """Compare the rows of one grid with the detections of the frames ``indices``."""
    got = {
        name: arrays[prefix + name] for name in ("cross", "index", "pts", "time_base", "carried", "stride", "model_hw")
    }
    expected = np.concatenate(
        [each.attention.cross for each in detections if each.attention and each.attention.cross is not None]
    )
    assert got["cross"].dtype == np.float16
    assert_array_equal(got["cross"], expected.astype(np.float16))
    numbers = np.repeat(indices, [len(each) for each in detections])
    assert_array_equal(got["index"], numbers)
    assert_array_equal(got["pts"], numbers * 1001)
    assert_array_equal(got["time_base"], [(1, 30000)] * len(numbers))
    assert_array_equal(
        got["carried"], np.concatenate([each.carried for each in detections if each.carried is not None])
    )
    assert_array_equal(got["stride"], [16] * len(numbers))
    assert_array_equal(got["model_hw"], [(48, 64)] * len(numbers))
    for name in ("query_id", "class_id", "track_id"):
        assert arrays[prefix + name].dtype == np.int64
        assert_array_equal(arrays[prefix + name], np.concatenate([getattr(each, f"{name}s") for each in detections]))


@pytest.mark.parametrize("suffix", MAPS)
def test_every_kind_of_maps_keeps_the_contract(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"out{suffix}"
    with open_maps(str(path)) as sink:
        sink.write(frame(), IMAGE, found())
        sink.close()
        sink.close()
    assert path.is_file() == (suffix == ".npz")
    check(read(path), [found()], [0])


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("chunk", [4, 512])
def test_maps_are_those_that_were_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, chunk: int
) -> None:
    monkeypatch.setattr(maps, "_ROWS_PER_CHUNK", chunk)
    monkeypatch.setattr(maps, "_NUMBERS_PER_CHUNK", 2 * chunk)
    detections = [found(index % 4, seed=index) for index in range(15)]
    write(tmp_path / f"out{suffix}", detections)
    arrays = read(tmp_path / f"out{suffix}")
    check(arrays, detections, list(range(15)))
    assert arrays["streams"].tolist() == ["clip.mp4"]
    assert arrays["class_names"].tolist() == list(CLASS_NAMES)
    assert list(tmp_path.iterdir()) == [tmp_path / f"out{suffix}"], "nothing else is left"


@pytest.mark.parametrize("suffix", KINDS)
def test_rows_tell_their_stream(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"out{suffix}", [found(2)] * 4, ("a.mp4", "b\udcff.mp4"))
    arrays = read(tmp_path / f"out{suffix}")
    assert arrays["streams"].tolist() == ["a.mp4", "b\\udcff.mp4"]
    assert arrays["stream"].tolist() == [0, 0, 1, 1] * 2


@pytest.mark.parametrize("suffix", KINDS)
def test_a_second_grid_has_a_prefix(tmp_path: Path, suffix: str) -> None:
    detections = [found(2, seed=index, grid=(3, 4) if index % 2 else (5, 2)) for index in range(6)]
    write(tmp_path / f"out{suffix}", detections)
    arrays = read(tmp_path / f"out{suffix}")
    check(arrays, detections[::2], [0, 2, 4])
    check(arrays, detections[1::2], [1, 3, 5], "2/")
    assert not any(name.startswith("3/") for name in arrays)


@pytest.mark.parametrize("suffix", KINDS)
def test_frames_without_an_object_add_no_row(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"out{suffix}", [Detections.empty(), found(0), Detections.empty()])
    arrays = read(tmp_path / f"out{suffix}")
    assert arrays["cross"].shape == (0, 3, 4)
    assert arrays["index"].shape == (0,)


@pytest.mark.parametrize("suffix", KINDS)
def test_without_cross_attention_there_is_one_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with pytest.raises(UsageError, match="no cross-attention to save; leave out --attention none"):
        write(path, [found(), found(attention=False)])
    check(read(path), [found()], [0])


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_in_the_loop_leaves_the_maps_so_far(tmp_path: Path, suffix: str, error: type[BaseException]) -> None:
    path = tmp_path / f"out{suffix}"
    with pytest.raises(error, match="the news"):
        write_and_raise(open_maps(str(path)), error)
    check(read(path), [found()], [0])


WRITE_UNTIL_KILLED = """
import sys
from stream_detr.sinks import open_maps
from tests.found import found, frame
sink = open_maps(sys.argv[1])
for index in range(700):
    sink.write(frame(index), frame().image, found(1, seed=index))
print("written", flush=True)
sys.stdin.read()
"""


def kill_while_writing(path: Path) -> None:
    command = [sys.executable, "-c", WRITE_UNTIL_KILLED, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        child.send_signal(signal.SIGKILL)


def test_a_kill_leaves_the_rows_of_a_numpy_file(tmp_path: Path) -> None:
    path, rows = tmp_path / "out.npz", tmp_path / "out.npz.rows-1.npy"
    kill_while_writing(path)
    left = np.load(rows)
    check({name: left[name] for name in left.dtype.names}, [found(1, seed=i) for i in range(700)], list(range(700)))
    with pytest.raises(SinkError, match=r"rows-1\.npy: the maps of a run that was cut off .* move or delete it"):
        open_maps(str(path))
    assert len(np.load(rows)) == 700, "it is still there"


def test_a_kill_loses_no_more_than_a_chunk_of_a_zarr_folder(tmp_path: Path) -> None:
    path = tmp_path / "out.zarr"
    kill_while_writing(path)
    check(read(path), [found(1, seed=index) for index in range(512)], list(range(512)))
    assert read(path)["class_names"].tolist() == list(CLASS_NAMES)


def test_a_disk_that_fills_up_keeps_the_rows_and_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.npz"
    real = maps._write_header

    def full(file: Any, dtype: Any, num_rows: int) -> None:
        if num_rows == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, dtype, num_rows)

    monkeypatch.setattr(maps, "_write_header", full)
    with pytest.raises(SinkError, match=r"no space left .*the maps so far are in .*out\.npz\.rows-\*\.npy"):
        write(path, [found(2, seed=seed) for seed in range(5)])
    left = np.load(tmp_path / "out.npz.rows-1.npy")
    check({name: left[name] for name in left.dtype.names}, [found(2, seed=0), found(2, seed=1)], [0, 1])
    assert path.stat().st_size == 0


def test_a_disk_too_full_for_the_whole_keeps_the_rows(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is not there")
    path = tmp_path / "out.npz"
    path.symlink_to("/dev/full")
    with pytest.raises(SinkError, match=r"no space left .*the maps are kept in .*out\.npz\.rows-\*\.npy"):
        write(path, [found()])
    assert len(np.load(tmp_path / "out.npz.rows-1.npy")) == 2


def test_half_a_numpy_file_does_not_pass_for_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.npz"
    real = maps._add

    def interrupt(archive: Any, name: str, *rest: Any) -> None:
        if name == "carried":
            raise KeyboardInterrupt
        real(archive, name, *rest)

    monkeypatch.setattr(maps, "_add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(path, [found()])
    assert path.stat().st_size == 0
    assert len(np.load(tmp_path / "out.npz.rows-1.npy")) == 2


def test_zarr_on_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zarr.Array, "append", full)
    with pytest.raises(SinkError, match=r"out\.zarr: no space left on the disk"):
        write(tmp_path / "out.zarr", [found()])


def test_zarr_never_empties_a_folder_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("precious")
    with pytest.raises(SinkError, match="holds other files, which would be lost; choose another folder"):
        open_maps(str(tmp_path))
    assert (tmp_path / "holiday.jpg").read_text() == "precious"


@pytest.mark.parametrize("suffix", KINDS)
def test_an_old_output_is_replaced(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write(path, [found(3, seed=index, grid=(2, 2 + index)) for index in range(3)])
    write(path, [found(2)])
    check(read(path), [found(2)], [0])
    assert not any("/" in name for name in read(path))


@pytest.mark.parametrize("suffix", MAPS)
def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SinkError, match="a part of this path is a file"):
        open_maps(str(tmp_path / "file" / f"out{suffix}"))


def test_a_folder_or_file_of_the_wrong_kind_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out.npz").mkdir()
    (tmp_path / "out.zarr").write_text("x")
    with pytest.raises(SinkError, match=r"out\.npz: is a folder; name a file in it"):
        open_maps(str(tmp_path / "out.npz"))
    with pytest.raises(SinkError, match=r"out\.zarr: a part of this path is a file"):
        open_maps(str(tmp_path / "out.zarr"))


def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"out\.h5: can't write attention as \.h5; use \.npz, \.zarr"):
        open_maps(str(tmp_path / "out.h5"))


def test_without_zarr_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(UsageError, match=r'out\.zarr: needs zarr; pip install "stream-detr\[zarr\]"'):
        open_maps(str(tmp_path / "out.zarr"))
    assert not any(tmp_path.iterdir())


def test_a_clock_of_its_own_is_kept_a_frame(tmp_path: Path) -> None:
    with open_maps(str(tmp_path / "out.npz")) as sink:
        sink.write(replace(frame(), pts=5, time_base=Fraction(2, 3)), IMAGE, found(1))
        sink.write(frame(1), IMAGE, found(1))
    arrays = read(tmp_path / "out.npz")
    assert_array_equal(arrays["time_base"], [(2, 3), (1, 30000)])
    assert_array_equal(arrays["pts"], [5, 1001])
