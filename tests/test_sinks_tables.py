"""CSV and Parquet, read back by the csv module and by pyarrow."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from stream_detr.measures import attention_stats
from stream_detr.sinks import open_records, tables
from stream_detr.structures import Detections
from tests.found import CLASS_NAMES, found, frame, write_and_raise

IMAGE = frame().image
COLUMNS = [
    *("stream", "index", "pts", "seconds", "width", "height", "x1", "y1", "x2", "y2", "score", "class_id", "class"),
    *("query_id", "track_id", "carried", "zones", "center_x", "center_y", "inside_box", "entropy"),
]


def write(path: Path, detections: list[Detections], name: str = "clip.mp4") -> None:
    with open_records(str(path)) as sink:
        for index, each in enumerate(detections):
            sink.write(frame(index, name), IMAGE, each)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check_numbers(rows: list[dict[str, Any]], detections: list[Detections]) -> None:
    """Compare the columns of numbers, whatever type they come in, with the detections."""

    def column(*names: str) -> Any:
        return np.array([[float(row[name]) for name in names] for row in rows])

    np.testing.assert_allclose(
        column("x1", "y1", "x2", "y2"), np.concatenate([d.boxes for d in detections]), atol=0.006
    )
    np.testing.assert_allclose(column("score")[:, 0], np.concatenate([d.scores for d in detections]), atol=6e-5)
    np.testing.assert_array_equal(column("query_id")[:, 0], np.concatenate([d.query_ids for d in detections]))
    np.testing.assert_array_equal(column("class_id")[:, 0], np.concatenate([d.class_ids for d in detections]))
    stats = [each for d in detections for each in attention_stats(d, (48, 64))]
    np.testing.assert_allclose(column("center_x", "center_y"), [each.center for each in stats], atol=0.06)
    np.testing.assert_allclose(column("inside_box")[:, 0], [each.inside_box for each in stats], atol=6e-5)
    np.testing.assert_allclose(column("entropy")[:, 0], [each.entropy for each in stats], atol=6e-5)
    indices = [index for index, d in enumerate(detections) for _ in range(len(d))]
    np.testing.assert_array_equal(column("index", "pts"), [(index, 1001 * index) for index in indices])
    np.testing.assert_allclose(column("seconds")[:, 0], [index * 1001 / 30000 for index in indices], atol=6e-7)
    assert {(row["stream"], int(row["width"]), int(row["height"])) for row in rows} == {("clip.mp4", 64, 48)}
    assert [row["class"] for row in rows] == [name for d in detections for name in d.names]


def test_a_csv_row_is_a_detection(tmp_path: Path) -> None:
    detections = [found(2, seed=1), found(0), found(3, seed=2)]
    write(tmp_path / "out.csv", detections)
    rows = read_csv(tmp_path / "out.csv")
    assert [*rows[0]] == COLUMNS
    check_numbers(rows, detections)
    assert [row["track_id"] for row in rows] == ["7", "", "7", "", ""]
    assert [row["carried"] for row in rows] == ["False", "True", "False", "True", "False"]
    assert [row["zones"] for row in rows] == ["", "door;street", "", "door;street", ""]
    assert rows[1]["class"] == CLASS_NAMES[1]


def test_a_csv_file_has_a_header_before_anything_is_found(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with open_records(str(path)) as sink:
        assert path.read_text() == ",".join(COLUMNS) + "\n"
        sink.write(frame(), IMAGE, found(1))
        assert len(path.read_text(encoding="utf-8").splitlines()) == 2


def test_a_parquet_row_is_a_detection(tmp_path: Path) -> None:
    detections = [found(2, seed=1), found(0), found(3, seed=2)]
    write(tmp_path / "out.parquet", detections)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == COLUMNS
    rows = table.to_pylist()
    check_numbers(rows, detections)
    assert [row["track_id"] for row in rows] == [7, None, 7, None, None]
    assert [row["carried"] for row in rows] == [False, True, False, True, False]
    assert [row["zones"] for row in rows] == [[], ["door", "street"], [], ["door", "street"], []]
    kinds = {name: str(table.schema.field(name).type) for name in COLUMNS}
    assert kinds["track_id"] == kinds["index"] == "int64"
    assert (kinds["score"], kinds["carried"], kinds["class"]) == ("double", "bool", "string")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_there_is_not_is_left_empty(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    plain = found(1, attention=False)
    write(path, [Detections(plain.boxes, plain.scores, plain.class_ids, plain.query_ids, plain.track_ids * 0 - 1)])
    [row] = read_csv(path) if suffix == ".csv" else pq.read_table(path).to_pylist()
    empty = [name for name, value in row.items() if value in ("", None)]
    assert empty == ["track_id", "zones", "center_x", "center_y", "inside_box", "entropy"]
    assert row["class"] == "0"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_name_that_is_no_text_can_be_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write(path, [found(1)], "clip\udcff.mp4")
    [row] = read_csv(path) if suffix == ".csv" else pq.read_table(path).to_pylist()
    assert row["stream"] == "clip\\udcff.mp4"


def test_parquet_is_written_group_by_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_ROWS_PER_GROUP", 10)
    detections = [found(3, seed=seed) for seed in range(15)]
    write(tmp_path / "out.parquet", detections)
    file = pq.ParquetFile(tmp_path / "out.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [12, 12, 12, 9]
    check_numbers(file.read().to_pylist(), detections)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_in_the_loop_leaves_a_parquet_file_that_can_be_read(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "out.parquet"
    with pytest.raises(error, match="the news"):
        write_and_raise(open_records(str(path)), error)
    check_numbers(pq.read_table(path).to_pylist(), [found()])


def test_a_run_that_finds_nothing_leaves_an_empty_table(tmp_path: Path) -> None:
    write(tmp_path / "out.parquet", [found(0)])
    table = pq.read_table(tmp_path / "out.parquet")
    assert (table.num_rows, table.column_names) == (0, COLUMNS)
