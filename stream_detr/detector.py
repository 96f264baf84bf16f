"""Frames in, detections with their attention out: the model and everything around it that is decided once a run."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from typing import TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_detr.attention import Head, attention_columns, attention_rows, record, select_layers
from stream_detr.boxes import cxcywh_to_xyxy
from stream_detr.device import DTYPES, choose_device, choose_precision
from stream_detr.errors import UsageError
from stream_detr.models.checkpoint import LoadedModel, load_checkpoint
from stream_detr.models.detr import DetrOutput
from stream_detr.models.transformer import Attention
from stream_detr.postprocess import Kept, keep_objects
from stream_detr.preprocess import Preprocess
from stream_detr.structures import AttentionMaps, Detections, Direction, Frame

ATTENTION_KINDS = ("cross", "encoder", "objects")
MAX_BATCH_SIZE = 8
CPU_BATCH_PIXELS = 1 << 20


class Choices(TypedDict, total=False):
    """What can be chosen anew while a model runs, see `Detector.configured`.

    ``threshold``: score that an object exceeds; ``floor``: lower one down to which detections are returned all the
    same, for a tracker to go on with; None = the threshold. ``classes``: names of the classes to keep; None = all.
    ``attention``: "none", or one or several of `ATTENTION_KINDS` to capture.
    ``layers``: layers whose attention is averaged, see `select_layers`. ``head``: "mean", "max" or a head's number.
    ``points``: (x, y) fractions of the frame, the reference points of encoder attention, seen in ``direction``.
    """

    threshold: float
    floor: float | None
    classes: Sequence[str] | None
    attention: str | Collection[str]
    layers: int | Sequence[int] | str
    head: Head
    points: Sequence[tuple[float, float]]
    direction: Direction


class Options(Choices, total=False):
    """Keyword arguments of `Detector` and `load_model`, with those of `Choices`; all may be left out.

    ``device``: "auto", "cpu", "cuda", "cuda:N" or "mps"; ``precision``: "auto", "fp32", "bf16" or "fp16".
    ``size``, ``max_size``: shorter side and limit of the longer side in model pixels; None = the model's own.
    """

    device: str
    precision: str
    size: int | None
    max_size: int | None


class Detector:
    """A model made ready for inference on one device in one precision; `Options` has the keyword arguments.

    ``model`` is the `nn.Module`, ``precision`` what was chosen and ``precision_reason`` why.

    Raises:
        UsageError: an option is wrong for this model or this machine.
    """

    def __init__(self, loaded: LoadedModel, **options: Unpack[Options]) -> None:
        _check_names(options, Options.__annotations__)
        self.name, self.class_names, self.model = loaded.name, loaded.class_names, loaded.model
        self.device = choose_device(options.get("device", "auto"))
        self.precision, self.precision_reason = choose_precision(options.get("precision", "auto"), self.device)
        self._choose(options)
        dtype = DTYPES[self.precision]
        shorter = options.get("size") or loaded.size
        longest = options.get("max_size") or max(loaded.max_size, shorter)
        self.preprocess = Preprocess(self.device, dtype, shorter, longest)
        self.model.prepare(self.device, dtype)

    def configured(self, **choices: Unpack[Choices]) -> Detector:
        """This detector with other `Choices`; those that are left out stay. Both share the model, which is not copied.

        Raises:
            UsageError: a choice is wrong for this model.
        """
        _check_names(choices, Choices.__annotations__)
        other = copy.copy(self)
        other._choose({**self._choices, **choices})
        return other

    def _choose(self, choices: Choices) -> None:
        self.threshold = choices.get("threshold", 0.7)
        floor = choices.get("floor")
        self.floor = self.threshold if floor is None else floor
        self.head = choices.get("head", "mean")
        self.direction: Direction = choices.get("direction", "looks-at")
        if self.direction not in ("looks-at", "looked-at-by"):
            raise UsageError(f"direction {self.direction!r} is not one of looks-at, looked-at-by")
        if not isinstance(self.head, int) and self.head not in ("mean", "max"):
            raise UsageError(f"head {self.head!r} is not mean, max or a head's number")
        self.points_xy = np.asarray(choices.get("points", ()), np.float32).reshape(-1, 2)
        self._class_ids = self._find_classes(choices.get("classes"))
        self._modules = self._find_modules(choices.get("attention", "cross"), choices.get("layers", -1))
        self._choices = choices

    def best_batch_size(self, size_hw: tuple[int, int]) -> int:
        """How many frames of ``size_hw`` make the best use of the device in one forward.

        On a CPU a forward of about a megapixel is as fast as it gets per pixel: one frame for the published models,
        several for a small one, whose many short operations cost more than their arithmetic.
        """
        if self.device.type != "cpu":
            return MAX_BATCH_SIZE
        height, width = self.preprocess.target_hw(size_hw)
        return max(1, min(MAX_BATCH_SIZE, CPU_BATCH_PIXELS // (height * width)))

    def _find_classes(self, classes: Sequence[str] | None) -> Tensor | None:
        """Ids (C,) of the named classes; None = all."""
        if classes is None:
            return None
        for name in classes:
            if name not in self.class_names:
                near = difflib.get_close_matches(name, self.class_names, 1)
                hint = f"did you mean {near[0]!r}?" if near else "see `stream-detr models show` for its classes"
                raise UsageError(f"{self.name} has no class {name!r}: {hint}")
        wanted = [i for i, name in enumerate(self.class_names) if name in classes]
        return torch.tensor(wanted, device=self.device)

    def _find_modules(
        self, attention: str | Collection[str], layers: int | Sequence[int] | str
    ) -> dict[str, list[Attention]]:
        """The attention modules to record for each kind of attention asked for."""
        kinds = () if attention == "none" else (attention,) if isinstance(attention, str) else attention
        for kind in kinds:
            if kind not in ATTENTION_KINDS:
                raise UsageError(f"attention {kind!r} is not one of none, {', '.join(ATTENTION_KINDS)}")
        if "encoder" in kinds and not len(self.points_xy):
            raise UsageError("encoder attention needs at least one reference point: --point X,Y")
        for x, y in self.points_xy.tolist():
            if not (0 <= x <= 1 and 0 <= y <= 1):
                raise UsageError(f"point {x:g},{y:g} lies outside the frame: both are fractions from 0 to 1")
        num_heads = self.model.config.num_heads
        if isinstance(self.head, int) and not 0 <= self.head < num_heads:
            raise UsageError(f"head {self.head} does not exist: {self.name} has heads 0 to {num_heads - 1}")
        modules: dict[str, list[Attention]] = {}
        for kind in kinds:
            transformer = self.model.transformer
            stack = transformer.encoder if kind == "encoder" else transformer.decoder
            try:
                chosen = select_layers(len(stack.layers), layers)
            except ValueError as error:
                raise UsageError(f"{error} ({self.name}, {kind} attention)") from error
            attribute = "multihead_attn" if kind == "cross" else "self_attn"
            modules[kind] = [getattr(stack.layers[i], attribute) for i in chosen]
        return modules

    @torch.inference_mode()
    def __call__(self, frames: Sequence[Frame]) -> list[Detections]:
        """Detect in frames of any sizes; frames of one size make one batch, without padding.

        Returns:
            one `Detections` a frame, in the order given.
        """
        by_size: dict[tuple[int, int], list[int]] = {}
        for number, frame in enumerate(frames):
            by_size.setdefault(frame.size_hw, []).append(number)
        results: dict[int, Detections] = {}
        for size_hw, numbers in by_size.items():
            images = self.preprocess([frames[number].image for number in numbers])
            results.update(zip(numbers, self._detect(images, size_hw), strict=True))
        return [results[number] for number in range(len(frames))]

    def _detect(self, images: Tensor, size_hw: tuple[int, int]) -> list[Detections]:
        """images (B, 3, H', W') normalised, of frames ``size_hw`` large."""
        with ExitStack() as stack:
            recordings = {kind: stack.enter_context(record(mods)) for kind, mods in self._modules.items()}
            output: DetrOutput = self.model(images)
            kept = keep_objects(output.logits, output.boxes_cxcywh, self.floor, self._class_ids)
            model_hw = (images.shape[2], images.shape[3])
            maps = {kind: recording.take() for kind, recording in recordings.items()}
        cross = points = objects = None
        if "cross" in maps:
            cross = _to_grid(attention_rows(maps["cross"], kept.query_ids, self.head), output.grid_hw)
        if "encoder" in maps:
            cells = self._cells_of_points(model_hw, output).expand(len(images), -1)
            rows = attention_columns if self.direction == "looked-at-by" else attention_rows
            points = _to_grid(rows(maps["encoder"], cells, self.head), output.grid_hw)
        if "objects" in maps:
            among_all = attention_rows(maps["objects"], kept.query_ids, self.head)  # (B, n, Q)
            num = kept.query_ids.shape[1]
            objects = among_all.gather(2, kept.query_ids[:, None].expand(-1, num, -1)).cpu().numpy()
        return self._to_detections(kept, size_hw, model_hw, output.stride, cross, points, objects)

    def _cells_of_points(self, model_hw: tuple[int, int], output: DetrOutput) -> Tensor:
        """Feature-grid cell (P,) int64 that holds each reference point."""
        cells = (self.points_xy * np.array(model_hw[::-1]) / output.stride).astype(np.int64)
        h, w = output.grid_hw
        columns, rows = cells[:, 0].clip(0, w - 1), cells[:, 1].clip(0, h - 1)
        return torch.from_numpy(rows * w + columns).to(self.device)

    def _to_detections(
        self,
        kept: Kept,
        size_hw: tuple[int, int],
        model_hw: tuple[int, int],
        stride: int,
        cross: NDArray[np.float32] | None,
        points: NDArray[np.float32] | None,
        objects: NDArray[np.float32] | None,
    ) -> list[Detections]:
        boxes = cxcywh_to_xyxy(kept.boxes_cxcywh.cpu().numpy(), size_hw)
        scores, class_ids = kept.scores.cpu().numpy(), kept.class_ids.cpu().numpy()
        query_ids = kept.query_ids.cpu().numpy()
        results = []
        for b, num in enumerate(kept.counts):
            attention = None
            if self._modules:
                attention = AttentionMaps(
                    stride,
                    model_hw,
                    cross=None if cross is None else cross[b, :num],
                    points=None if points is None else points[b],
                    points_xy=None if points is None else self.points_xy,
                    direction=self.direction,
                    objects=None if objects is None else objects[b, :num, :num],
                )
            results.append(
                Detections(
                    boxes[b, :num],
                    scores[b, :num],
                    class_ids[b, :num],
                    query_ids[b, :num],
                    np.full(num, -1, np.int64),
                    attention,
                    self.class_names,
                )
            )
        return results


def _check_names(names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"unknown option {name!r}: known are {', '.join(known)}")


def _to_grid(rows: Tensor, grid_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Rows (B, n, h * w) on the device -> (B, n, h, w) float32 on the host."""
    grid: NDArray[np.float32] = rows.view(*rows.shape[:2], *grid_hw).cpu().numpy()
    return grid


def load_model(name_or_path: str, **options: Unpack[Options]) -> Detector:
    """Load a model by name, file, folder or hub id, and make it ready.

    >>> detector = load_model("tiny", device="cpu", threshold=0.5)
    >>> detector.class_names[0]
    'person'

    Raises:
        UsageError: an option is wrong.
        CheckpointError: the model can't be had.
    """
    # Before a possible download.
    choose_precision(options.get("precision", "auto"), choose_device(options.get("device", "auto")))
    return Detector(load_checkpoint(name_or_path), **options)
