"""Settings: what is accepted, who wins, and one clear line for every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_detr.config import Config, load_config
from stream_detr.errors import UsageError

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


def given(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(path: Path) -> None:
    assert isinstance(load_config(str(path)), Config)


def test_the_shipped_configs_are_the_known_six() -> None:
    assert [path.stem for path in CONFIGS] == ["cpu", "default", "encoder_points", "file", "rtsp", "webcam"]


def test_default_yaml_holds_every_key_with_its_default_and_a_comment_above() -> None:
    path = next(path for path in CONFIGS if path.stem == "default")
    assert list(yaml.safe_load(path.read_text())) == list(Config.model_fields)
    assert load_config(str(path)) == Config()
    lines = path.read_text().splitlines()
    for name in set(Config.model_fields) - {
        "crf",
        "preset",
        "camera_rate",
        "camera_format",
        "port",
    }:  # these share a comment
        above = lines[next(i for i, line in enumerate(lines) if line.startswith(f"{name}:")) - 1]
        assert above.startswith("# "), name


def test_later_wins_from_defaults_to_file_to_settings_to_flags(tmp_path: Path) -> None:
    file = given(tmp_path / "my.yaml", "threshold: 0.1\nstride: 2\ncrf: 30\n")
    config = load_config(file, ["stride=3", "crf=31"], {"crf": 32})
    assert (config.threshold, config.stride, config.crf, config.alpha) == (0.1, 3, 32, 0.5)


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_config(given(tmp_path / "empty.yaml", "# nothing\n")) == Config()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("layer", "-1", -1),
        ("layer", "0,2,5", (0, 2, 5)),
        ("layer", [0, 2], (0, 2)),
        ("layer", "all", "all"),
        ("head", "mean", "mean"),
        ("head", "max", "max"),
        ("head", "3", 3),
        ("classes", "person, traffic light", ("person", "traffic light")),
        ("classes", ["person"], ("person",)),
        ("points", ["0.25,0.5", "1,0"], ((0.25, 0.5), (1.0, 0.0))),
        ("points", [[0.25, 0.5]], ((0.25, 0.5),)),
        ("points", "0.1,0.2;0.3,0.4", ((0.1, 0.2), (0.3, 0.4))),
        ("threshold", "0.5", 0.5),
        ("device", "cuda:1", "cuda:1"),
        ("batch_size", None, None),
        ("max_frames", "12", 12),
    ],
)
def test_a_value_may_be_written_as_people_write_it(key: str, value: object, expected: object) -> None:
    assert getattr(load_config(flags={key: value}), key) == expected


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("classes=[person, car]", "classes", ("person", "car")),
        ("max-frames=5", "max_frames", 5),
        ("size=null", "size", None),
        ("layer=0,2", "layer", (0, 2)),
        ("overwrite=true", "overwrite", True),
    ],
)
def test_set_takes_yaml_values(text: str, key: str, expected: object) -> None:
    assert getattr(load_config(settings=[text]), key) == expected


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"threshold": "7"}, "threshold: expected at most 1, got '7'"),
        ({"threshold": "nan"}, "threshold: expected a finite number, got 'nan'"),
        ({"threshold": "high"}, "threshold: expected a number, got 'high'"),
        ({"stride": 0}, "stride: expected at least 1, got 0"),
        ({"stride": "1.5"}, "stride: expected a whole number, got '1.5'"),
        ({"layer": "0,x"}, "layer: expected a number, several with commas between them, or all, got '0,x'"),
        ({"head": "tail"}, "head: expected mean, max or the number of a head, got 'tail'"),
        ({"points": ["0.5"]}, "points: expected X,Y as fractions of the frame, between 0 and 1, got ['0.5']"),
        ({"points": ["2,0"]}, "points: expected X,Y as fractions of the frame, between 0 and 1, got ['2,0']"),
        ({"device": "gpu"}, "device: expected auto, cpu, cuda, cuda:N or mps, got 'gpu'"),
        ({"precision": "int8"}, "precision: expected 'auto', 'fp32', 'bf16' or 'fp16', got 'int8'"),
        ({"classes": ""}, "classes: expected at least one, got ''"),
        ({"model": ""}, "model: expected something, got ''"),
        ({"model": 3}, "model: expected text, got 3"),
        ({"overwrite": "maybe"}, "overwrite: expected true or false, got 'maybe'"),
        ({"size": 800, "max_size": 400}, "max_size 400 is smaller than size 800; make it at least as large"),
        (
            {"stride": 2, "detect_fps": 5},
            "stride and detect_fps both say which frames the model sees; give one of them",
        ),
        ({"lines": "a:0,0;1,1", "track": False}, "lines: only tracked objects cross lines; leave --no-track out"),
        ({"smooth": 1}, "smooth: 1 would never take anything new in; give less"),
        (
            {"save_attention": "a.npz", "attention": "none"},
            "save_attention: there is none with attention none; draw another kind",
        ),
        ({"detect_fps": 0}, "detect_fps: expected more than 0, got 0"),
        ({"min_size": -1}, "min_size: expected at least 0, got -1"),
        ({"treshold": 0.5}, "unknown key 'treshold'; did you mean 'threshold'?"),
    ],
)
def test_a_wrong_value_is_one_clear_line(flags: dict[str, object], line: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(flags=flags)
    assert str(caught.value) == line


def test_every_wrong_value_gets_its_own_line() -> None:
    with pytest.raises(UsageError) as caught:
        load_config(flags={"threshold": 2, "stride": 0})
    assert str(caught.value).splitlines() == [
        "threshold: expected at most 1, got 2",
        "stride: expected at least 1, got 0",
    ]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ("threshold", "--set threshold: expected key=value"),
        ("=3", "--set =3: expected key=value"),
        ("threshold=[", "--set threshold=[: the value is not YAML"),
        ("lair=3", "--set: unknown key 'lair'; did you mean 'layer'?"),
    ],
)
def test_a_wrong_set_is_one_clear_line(settings: str, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(settings=[settings])
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"threshold: [", "line 1: not YAML"),
        (b"- threshold\n", "expected lines of 'key: value', got a list"),
        (b"just words", "expected lines of 'key: value', got a str"),
        (b"\xff\xfe\x00", "not a text file"),
        (b"tresh: 1\n", "unknown key 'tresh'; did you mean 'threshold'?"),
        (b"model: !!python/object/apply:os.getcwd []\n", "not YAML"),
    ],
)
def test_a_wrong_file_is_one_clear_line_that_names_it(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_config(str(path))
    message = str(caught.value)
    assert str(path) in message
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize(("name", "said"), [("none.yaml", "no such file"), (".", "is a directory")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_config(str(tmp_path / name))


def test_a_config_does_not_change() -> None:
    config: Any = Config()
    with pytest.raises(ValueError, match="frozen"):
        config.threshold = 0.1
