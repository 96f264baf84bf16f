"""Every setting of a run, checked. Order: defaults, configuration file, ``--set``, flags; later wins."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from stream_detr.errors import UsageError
from stream_detr.sources.inputs import without_credentials
from stream_detr.structures import Line, Zone
from stream_detr.zones import check_names, parse_line, parse_zone


def _split(value: object) -> object:
    """``"a, b"`` -> ``["a", "b"]``; anything else as it is."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _one_or_list(value: object) -> object:
    """A number as text, or several with commas between them; anything else as it is."""
    if not isinstance(value, str) or value == "all":
        return value
    parts = _split(value)
    return parts[0] if isinstance(parts, list) and len(parts) == 1 else parts


def _points(value: object) -> object:
    """``"x,y"`` or a list of them -> list of pairs."""
    if isinstance(value, str):
        value = [part for part in value.split(";") if part.strip()]
    return [_split(point) for point in value] if isinstance(value, (list, tuple)) else value


def _size(value: object) -> object:
    """``"640x480"`` -> ``["640", "480"]``; anything else as it is."""
    return value.lower().split("x") if isinstance(value, str) else value


def _one_as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _text(value: object) -> object:
    """A number as text; anything else as it is."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _zones(value: object) -> object:
    """``"NAME:x,y;x,y;..."`` or a list of them -> list of zones."""
    values = [value] if isinstance(value, str) else value
    return [parse_zone(v) if isinstance(v, str) else v for v in values] if isinstance(values, (list, tuple)) else value


def _lines_across(value: object) -> object:
    """``"NAME:x,y;x,y"`` or a list of them -> list of lines."""
    values = [value] if isinstance(value, str) else value
    return [parse_line(v) if isinstance(v, str) else v for v in values] if isinstance(values, (list, tuple)) else value


Fraction01 = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=32, le=8192)]


class Config(BaseModel):
    """Settings of one run; ``configs/default.yaml`` says in words what each does.

    Construct it through :func:`load_config`, which turns every mistake into a UsageError of one line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1)] = "detr_resnet50"
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    size: Side | None = None
    max_size: Side | None = None
    batch_size: Count | None = None
    threshold: Fraction01 = 0.7
    classes: Annotated[Annotated[tuple[str, ...], Field(min_length=1)] | None, BeforeValidator(_split)] = None
    min_size: Annotated[float, Field(ge=0)] = 0
    stride: Count = 1
    detect_fps: Annotated[float, Field(gt=0)] | None = None
    max_frames: Count | None = None

    attention: Literal["cross", "encoder", "objects", "none"] = "cross"
    layer: Annotated[int | tuple[int, ...] | Literal["all"], BeforeValidator(_one_or_list)] = -1
    head: Literal["mean", "max"] | Annotated[int, Field(ge=0)] = "mean"
    points: Annotated[tuple[tuple[Fraction01, Fraction01], ...], BeforeValidator(_points)] = ()
    direction: Literal["looks-at", "looked-at-by"] = "looks-at"
    alpha: Fraction01 = 0.5
    legend: bool = True
    track: bool = True
    smooth: Fraction01 = 0.9
    zones: Annotated[tuple[Zone, ...], BeforeValidator(_zones)] = ()
    lines: Annotated[tuple[Line, ...], BeforeValidator(_lines_across)] = ()

    records: str | None = None
    save_attention: str | None = None
    report: str | None = None
    overwrite: bool = False
    codec: str = "libx264"
    crf: Annotated[int, Field(ge=0, le=63)] = 20
    preset: str = "veryfast"

    realtime: bool = False
    transport: Literal["tcp", "udp"] = "tcp"
    camera_size: Annotated[tuple[Side, Side] | None, BeforeValidator(_size)] = None
    camera_rate: Annotated[float, Field(gt=0)] | None = None
    camera_format: Literal["mjpeg"] | None = None
    max_staleness: Annotated[float, Field(gt=0)] = 3.0
    max_reconnects: Annotated[int, Field(ge=0)] | None = None
    record: str | None = None
    segment: Annotated[float, Field(gt=0)] | None = None
    show_stale: bool = False
    publish: Annotated[tuple[str, ...], BeforeValidator(_one_as_list)] = ()
    view: Literal["browser", "none"] = "browser"
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8765
    token: Annotated[str | None, BeforeValidator(_text)] = None
    names: Annotated[tuple[str, ...], BeforeValidator(_one_as_list)] = ()

    @field_validator("device")
    @classmethod
    def _device_has_a_known_form(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            raise ValueError(f"expected auto, cpu, cuda, cuda:N or mps, got {value!r}")
        return value

    @model_validator(mode="after")
    def _sides_are_in_order(self) -> Config:
        if self.size and self.max_size and self.max_size < self.size:
            raise ValueError(f"max_size {self.max_size} is smaller than size {self.size}; make it at least as large")
        return self

    @model_validator(mode="after")
    def _tracking_can_do_what_is_asked(self) -> Config:
        if self.stride > 1 and self.detect_fps is not None:
            raise ValueError("stride and detect_fps both say which frames the model sees; give one of them")
        if self.lines and not self.track:
            raise ValueError("lines: only tracked objects cross lines; leave --no-track out")
        if self.save_attention and self.attention == "none":
            raise ValueError("save_attention: there is none with attention none; draw another kind")
        if self.smooth >= 1:
            raise ValueError("smooth: 1 would never take anything new in; give less")
        check_names(self.zones, self.lines)
        return self

    def shown(self) -> dict[str, Any]:
        """All settings as they may be written down: no token, no credentials."""
        values = self.model_dump(mode="json", exclude={"token"})
        return values | {"publish": [without_credentials(uri) for uri in self.publish]}

    def detector_options(self) -> dict[str, Any]:
        """The keyword arguments of `stream_detr.load_model` that these settings mean."""
        centre = ((0.5, 0.5),) if self.attention == "encoder" else ()
        # Records tell where each object's evidence is, whatever is drawn.
        kinds = self.attention if self.attention in ("none", "cross") else ("cross", self.attention)
        return {
            "device": self.device,
            "precision": self.precision,
            "size": self.size,
            "max_size": self.max_size,
            "threshold": self.threshold,
            "classes": self.classes,
            "attention": kinds,
            "layers": self.layer,
            "head": self.head,
            "points": self.points or centre,
            "direction": self.direction,
        }


def load_config(
    file: str | None = None,
    settings: Sequence[str] = (),
    flags: Mapping[str, object] | None = None,
    defaults: Mapping[str, object] | None = None,
) -> Config:
    """``defaults`` over the built-in ones, YAML ``file``, ``key=value`` ``settings``, ``flags``; later wins.

    Raises:
        UsageError: a key that does not exist (the nearest one is named), or values out of range, a line each.

    >>> load_config(settings=["threshold=0.5"], flags={"stride": 3}).threshold
    0.5
    """
    values = {
        **(defaults or {}),
        **(read_file(file) if file is not None else {}),
        **dict(_setting(text) for text in settings),
        **(flags or {}),
    }
    refuse_unknown(values, Config.model_fields)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UsageError("\n".join(_lines(error, values))) from None


def read_file(path: str) -> dict[str, object]:
    """Keys and values of a YAML file.

    Raises:
        UsageError: the file is missing, not YAML or not a list of ``key: value`` lines.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"config {path}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise UsageError(f"config {path}: not a text file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"config {path}{line}: not YAML ({getattr(error, 'problem', None) or 'unreadable'})") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"config {path}: expected lines of 'key: value', got a {type(values).__name__}")
    named = {str(key): value for key, value in values.items()}
    refuse_unknown(named, Config.model_fields, where=f"config {path}: ")
    return named


def refuse_unknown(names: Iterable[str], known: Iterable[str], *, what: str = "key", where: str = "") -> None:
    """Raise a UsageError for the first name that isn't known, with the nearest one that is.

    >>> refuse_unknown(["treshold"], ["threshold", "stride"])
    Traceback (most recent call last):
    ...
    stream_detr.errors.UsageError: unknown key 'treshold'; did you mean 'threshold'?
    """
    known = list(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            raise UsageError(f"{where}unknown {what} '{name}'; {hint}")


def _setting(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    key = key.strip().replace("-", "_")
    if not equals or not key:
        raise UsageError(f"--set {text}: expected key=value")
    refuse_unknown([key], Config.model_fields, where="--set: ")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(f"--set {key if key in _SECRET else text}: the value is not YAML") from None
    is_number = key == "token" and isinstance(parsed, int | float)  # a token is taken as it was typed
    return key, value if is_number else parsed


# Never shown: the addresses hold passwords.
_SECRET = ("token", "publish")

_EXPECTED = {
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
    "greater_than": "more than {gt:g}",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_short": "something",
    "literal_error": "{expected}",
    "tuple_type": "a list",
    "too_short": "at least one",
}

# Where a setting takes several forms, each form's own complaint would mislead.
_EXPECTED_OF = {
    "layer": "a number, several with commas between them, or all",
    "head": "mean, max or the number of a head",
    "camera_size": "WIDTHxHEIGHT in pixels, like 1280x720",
    "points": "X,Y as fractions of the frame, between 0 and 1",
}


def _lines(error: ValidationError, values: Mapping[str, object]) -> list[str]:
    """One line per setting that's wrong: its name, what was expected and what was given."""
    lines: dict[str, str] = {}
    for problem in error.errors():
        context: dict[str, Any] = problem.get("ctx") or {}
        key = str(problem["loc"][0]) if problem["loc"] else ""
        if problem["type"] == "value_error":
            line = f"{key}: {context['error']}" if key else str(context["error"])
        else:
            form = _EXPECTED.get(problem["type"])
            expected = _EXPECTED_OF.get(key) or (form.format(**context) if form else problem["msg"])
            line = f"{key}: expected {expected}" + ("" if key in _SECRET else f", got {values.get(key)!r}")
        lines.setdefault(key, line)
    return list(lines.values())
