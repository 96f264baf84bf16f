"""Train the embedded model `tiny`: a small DETR on scenes of emoji sprites.

    python scripts/sprites.py CACHE                                   # once: the sprites
    python scripts/train_tiny.py train --sprites CACHE --out FOLDER   # all stages; run it again to resume
    python scripts/train_tiny.py export --out FOLDER                  # stream_detr/models/tiny.safetensors
    python scripts/evaluate_tiny.py --sprites CACHE                   # the numbers of the model card

Stage "dense" teaches backbone and encoder alone: every cell of the memory says class and box of the object it sees.
Stage "decoder" sets the decoder up from that (`tiny_network.start_decoder`) and trains it alone on memories made once.
Stage "detr" trains all but the stem: set prediction loss on all layers and query groups, the cell loss still on.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from backgrounds import TRAIN_BACKGROUNDS
from scenes import CLASS_NAMES, MAX_OBJECTS, SIZE_HW, Scene, Scenes
from set_loss import Targets, attention_loss, cell_loss, class_loss, match, set_loss
from sprites import TRAIN_SETS
from tiny_network import MEAN, STD, Network, cell_size, cells_of, start_decoder
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from stream_detr.models.checkpoint import save_checkpoint

BATCH = 16
GRID_HW = (SIZE_HW[0] // 16, SIZE_HW[1] // 16)
NO_OBJECT_WEIGHT = 0.4
CLASS_WEIGHT = 2.0
# Later layers could leave reading to the first one; this keeps their attention on their objects.
ATTENTION_WEIGHT = 0.3
CHECKPOINT_SECONDS = 90
# Now and then another shape of about the same area, so that the model is not tied to 16:9.
OTHER_SIZES = ((128, 224), (144, 192), (144, 192), (144, 248), (160, 288), (180, 196))
WEIGHTS = Path(__file__).parent.parent / "stream_detr" / "models" / "tiny.safetensors"

Batch = tuple[Tensor, Targets]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: ``rate`` is the peak learning rate, ``backbone_share`` what the backbone gets of it, ``clip`` the
    largest gradient norm, ``other_sizes`` the share of batches of another size, ``most`` the objects of a scene."""

    name: str
    step: Callable[[Network, Tensor, Targets], tuple[Tensor, str]]
    seed: int
    rate: float
    clip: float
    backbone_share: float = 1.0
    other_sizes: float = 0.0
    trains_stem: bool = False
    most: int = MAX_OBJECTS


def collate(scenes: list[Scene], most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scenes of one size -> images (B, H, W, 3) uint8, boxes_cxcywh (B, most, 4), class_ids (B, most)."""
    images = torch.stack([torch.from_numpy(scene.image) for scene in scenes])
    boxes = torch.zeros(len(scenes), most, 4)
    class_ids = torch.full((len(scenes), most), -1)
    height, width = images.shape[1:3]
    for index, scene in enumerate(scenes):
        num = len(scene.boxes)
        x1, y1, x2, y2 = torch.from_numpy(scene.boxes).unbind(1)
        centred = torch.stack([(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height], 1)
        boxes[index, :num] = centred
        class_ids[index, :num] = torch.from_numpy(scene.class_ids)
    return images, boxes, class_ids


class Batches(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    """Endless batches, every ``apart``-th from number ``first`` on; made in the loader's worker process."""

    def __init__(self, cache: Path, stage: Stage, first: int, apart: int) -> None:
        self.cache, self.stage, self.first, self.apart = cache, stage, first, apart

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        scenes = Scenes(self.cache, TRAIN_SETS, TRAIN_BACKGROUNDS, self.stage.seed)
        number = self.first
        while True:
            size_hw = SIZE_HW
            draw = torch.rand(2, generator=torch.Generator().manual_seed(number)).tolist()
            if draw[0] < self.stage.other_sizes:
                size_hw = OTHER_SIZES[int(draw[1] * len(OTHER_SIZES))]
            numbers = range(number * BATCH, (number + 1) * BATCH)
            yield collate([scenes.scene(index, size_hw, self.stage.most) for index in numbers], self.stage.most)
            number += self.apart


def batches(cache: Path, stage: Stage, first: int, device: torch.device, apart: int = 1) -> Iterator[Batch]:
    """Normalised batches on ``device``, prepared one process ahead."""
    loader = DataLoader(Batches(cache, stage, first, apart), batch_size=None, num_workers=1, prefetch_factor=6)
    mean, std = (torch.tensor(value, device=device).view(3, 1, 1) * 255 for value in (MEAN, STD))
    for images, boxes, class_ids in loader:
        # Permuted, not copied: the memory stays channels last, which the convolutions like best.
        pixels = (images.to(device).permute(0, 3, 1, 2).float() - mean) / std
        yield pixels, Targets(boxes.to(device), class_ids.to(device))


def groups_of(network: Network, stage: Stage) -> list[dict[str, object]]:
    """Parameter groups: the backbone at its own rate; norms, biases and queries don't decay."""
    sorted_in: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        is_backbone = name.startswith(("stem", "folded", "stages"))
        decays = parameter.dim() > 1 and "queries" not in name and "query_embed" not in name
        sorted_in.setdefault((is_backbone, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": stage.rate * (stage.backbone_share if is_backbone else 1.0),
            "weight_decay": 0.02 if decays else 0.0,
        }
        for (is_backbone, decays), parameters in sorted_in.items()
    ]


def rate_at(step: int, steps: int, warm_up: int = 100) -> float:
    """One cycle: linear warm-up, then a cosine down to 1 %."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, steps - warm_up)))) / 2


def dense_step(network: Network, images: Tensor, targets: Targets) -> tuple[Tensor, str]:
    """Loss of the first stage and what to show of it."""
    memory, features, grid_hw = network.encode_all(images)
    objects = cells_of(targets, grid_hw, (images.shape[2], images.shape[3]))
    loss, right = cell_loss(*network.read_cells(memory), objects, targets, NO_OBJECT_WEIGHT, CLASS_WEIGHT)
    early, early_right = class_loss(network.feature_class(features), objects, targets, NO_OBJECT_WEIGHT)
    return loss + CLASS_WEIGHT * early, f"right {right:.3f}, before the encoder {early_right:.3f}"


def decoder_step(network: Network, memory: Tensor, targets: Targets) -> tuple[Tensor, str]:
    """Loss of the second stage, from memories made before, and what to show of it."""
    pos = network.model.backbone[1](GRID_HW, memory.device)
    logits, boxes = network.decode(memory, pos)
    loss = set_loss(logits, boxes, targets, NO_OBJECT_WEIGHT, network.set_anchors())
    last = set_loss(logits[-1:], boxes[-1:], targets, NO_OBJECT_WEIGHT, network.set_anchors()[-1:])
    return loss, f"last layer {last:.3f}"


def set_step(network: Network, images: Tensor, targets: Targets) -> tuple[Tensor, str]:
    """Loss of the last stage and what to show of it."""
    logits, boxes, cell_logits, cell_boxes, grid_hw = network(images)
    objects = cells_of(targets, grid_hw, (images.shape[2], images.shape[3]))
    cells, right = cell_loss(cell_logits, cell_boxes, objects, targets, NO_OBJECT_WEIGHT, CLASS_WEIGHT)
    anchors, last = network.set_anchors(), slice(-network.num_groups, None)
    found = set_loss(logits, boxes, targets, NO_OBJECT_WEIGHT, anchors)
    matches = match(logits[last], boxes[last], targets, anchors[last])
    cell_hw = cell_size(grid_hw, (images.shape[2], images.shape[3]))
    astray = torch.zeros(())
    for layer in network.model.transformer.decoder.blocks()[1:]:
        assert layer.multihead_attn.projections is not None
        projections = layer.multihead_attn.projections
        astray = astray + attention_loss(projections, matches, targets, grid_hw, cell_hw, logits.shape[2])
    line = f"set {found:.3f} cells {cells:.3f} right {right:.3f} astray {astray:.3f}"
    return 3 * found + cells + ATTENTION_WEIGHT * astray, line


STAGES = (
    Stage("dense", dense_step, seed=1, rate=1e-3, clip=5.0, most=20),
    Stage("decoder", decoder_step, seed=2, rate=7e-4, clip=0.5),
    Stage("detr", set_step, seed=3, rate=3e-4, clip=1.0, backbone_share=0.5, other_sizes=0.12, most=10),
    Stage("whole", set_step, seed=4, rate=5e-4, clip=1.0, other_sizes=0.15, trains_stem=True, most=10),
)


def save(path: Path, content: dict[str, object]) -> None:
    """Write a checkpoint so that a kill leaves the old one or the new one."""
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """A stage's checkpoint, None where there is none yet."""
    return torch.load(path, map_location=device, weights_only=True) if path.exists() else None


@torch.no_grad()
def remembered(network: Network, source: Iterator[Batch], num: int, seed: int) -> Iterator[Batch]:
    """Endless batches of 2 * BATCH memories of ``num`` scenes, made once: backbone and encoder rest meanwhile."""
    parts = [(network.encode(images)[0].half(), targets) for images, targets in islice(source, num // BATCH)]
    memory = torch.cat([part for part, _ in parts])
    boxes, class_ids = (
        torch.cat([getattr(targets, name) for _, targets in parts]) for name in ("boxes_cxcywh", "class_ids")
    )
    dice = torch.Generator().manual_seed(seed)
    while True:
        chosen = torch.randint(len(memory), (2 * BATCH,), generator=dice).to(memory.device)
        yield memory[chosen].float(), Targets(boxes[chosen], class_ids[chosen])


def average_gradients(network: Network) -> None:
    """Replace every gradient by its mean over the processes."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together)
    parts = (together / dist.get_world_size()).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def enter_stage(network: Network, stage: Stage, args: argparse.Namespace, device: torch.device) -> None:
    """What has to be done before a stage's first step."""
    if stage.name == "dense":
        images, _ = next(batches(args.sprites, stage, 0, device))
        network.calibrate_stem(images)
    if stage.name == "decoder":
        parts = list(islice(batches(args.sprites, stage, 1_000_000, device), 6))
        boxes, class_ids = (torch.cat([getattr(t, name) for _, t in parts]) for name in ("boxes_cxcywh", "class_ids"))
        network.eval()
        print(start_decoder(network, torch.cat([images for images, _ in parts]), Targets(boxes, class_ids)), flush=True)


def run_stage(network: Network, stage: Stage, steps: int, args: argparse.Namespace, device: torch.device) -> None:
    """Train one stage from its checkpoint, if there is one, to its last step; leave the running mean of the weights."""
    dense = stage.name == "dense"
    path = args.out / f"{stage.name}.pt"
    resumed = read_checkpoint(path, device)
    if resumed is not None:
        network.restore(resumed["network"])
        if resumed["step"] >= steps:
            network.restore({**resumed["network"], **resumed["smoothed"]})
            return
    else:
        enter_stage(network, stage, args, device)
    if not dense and network.folded is None:
        network.fold_stem()
    if network.folded is not None:
        network.folded.requires_grad_(stage.trains_stem)
    optimizer = torch.optim.AdamW(groups_of(network, stage), fused=True)
    peaks = [group["lr"] for group in optimizer.param_groups]
    if resumed is None:
        first = 0
        smoothed = {key: value.clone() for key, value in network.state_dict().items() if value.is_floating_point()}
    else:
        optimizer.load_state_dict(resumed["optimizer"])
        smoothed, first = resumed["smoothed"], resumed["step"]
    network.train()
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    source = batches(args.sprites, stage, first * processes + rank, device, processes)
    if stage.name == "decoder":
        source = remembered(network, source, args.memories // processes, first * processes + rank)
    saved = shown = time.monotonic()
    mean_loss = 0.0
    for step, (inputs, targets) in enumerate(source, first):
        if dense and step >= args.freeze_at and network.folded is None:
            network.fold_stem()
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate_at(step, steps)
        loss, line = stage.step(network, inputs, targets)
        optimizer.zero_grad()
        loss.backward()
        if processes > 1:
            average_gradients(network)
        nn.utils.clip_grad_norm_(network.parameters(), stage.clip)
        optimizer.step()
        state = network.state_dict()
        torch._foreach_lerp_(list(smoothed.values()), [state[key] for key in smoothed], max(0.004, 1 / (step + 1)))
        mean_loss += (loss.item() - mean_loss) * max(0.02, 1 / (step - first + 1))
        now = time.monotonic()
        last = step + 1 >= steps
        if (step + 1) % 20 == 0 and rank == 0:
            pace = 20 * len(inputs) * processes / (now - shown)
            clock = time.strftime("%H:%M:%S")
            print(
                f"{clock} {stage.name} {step + 1}/{steps} loss {mean_loss:.3f} {line} {pace:.1f} scenes/s", flush=True
            )
            shown = now
        if rank == 0 and (last or now - saved > CHECKPOINT_SECONDS):
            content = {"network": state, "optimizer": optimizer.state_dict(), "step": step + 1, "smoothed": smoothed}
            save(path, content)
            saved = now
        if last:
            network.restore({**state, **smoothed})
            break


def train(rank: int, args: argparse.Namespace) -> None:
    """All stages, from wherever the folder's checkpoints stand, as one of ``args.processes`` processes."""
    if args.processes > 1:
        torch.set_num_threads(1)
        store = dist.FileStore(str(args.out / "meeting"), args.processes)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=args.processes)
    device = torch.device(args.device)
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    network = Network().to(device).to(memory_format=torch.channels_last)
    for stage, steps in zip(STAGES, (args.dense_steps, args.decoder_steps, args.detr_steps, args.steps), strict=True):
        run_stage(network, stage, steps, args, device)


def start(args: argparse.Namespace) -> None:
    """Train here, or in several processes that average their gradients: one thread each beats two threads on a CPU."""
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "meeting").unlink(missing_ok=True)
    if args.processes == 1:
        train(0, args)
    else:
        torch.multiprocessing.spawn(train, (args,), args.processes)


def smoothed_network(path: Path) -> tuple[Network, int]:
    """The network with its running mean of weights, and the step it stands at."""
    resumed = read_checkpoint(path, torch.device("cpu"))
    if resumed is None:
        raise SystemExit(f"{path} is missing: train first")
    network = Network()
    network.restore({**resumed["network"], **resumed["smoothed"]})
    return network, int(resumed["step"])


def export(args: argparse.Namespace) -> None:
    """Write the plain model in half precision, with its config, class names and sizes in the file's metadata."""
    network, step = smoothed_network(args.out / f"{args.stage}.pt")
    save_checkpoint(args.weights, network.export(), CLASS_NAMES, torch.float16, SIZE_HW)
    print(f"{args.weights}: step {step}, {args.weights.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train")
    training.set_defaults(call=start)
    training.add_argument("--dense-steps", type=int, default=2000)
    training.add_argument("--freeze-at", type=int, default=600, help="step of stage 1 from which the stem rests")
    training.add_argument("--decoder-steps", type=int, default=1500)
    training.add_argument("--memories", type=int, default=6000, help="scenes of stage 2")
    training.add_argument("--detr-steps", type=int, default=1700)
    training.add_argument("--steps", type=int, default=5000, help="of the last stage")
    training.add_argument("--device", default="cpu")
    training.add_argument("--processes", type=int, default=1, help="batches a step, each in its own process")
    training.add_argument("--sprites", type=Path, required=True)
    exporting = commands.add_parser("export")
    exporting.set_defaults(call=export)
    for command in (training, exporting):
        command.add_argument("--out", type=Path, required=True)
    exporting.add_argument("--stage", default=STAGES[-1].name, choices=[stage.name for stage in STAGES[1:]])
    exporting.add_argument("--weights", type=Path, default=WEIGHTS)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
