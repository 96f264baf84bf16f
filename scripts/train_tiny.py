"""Train the embedded model `tiny`: a small DETR on scenes of emoji sprites.

    python scripts/sprites.py CACHE                                   # once: the sprites
    python scripts/train_tiny.py train --sprites CACHE --out FOLDER   # all stages; run it again to resume
    python scripts/train_tiny.py export --out FOLDER                  # stream_detr/models/tiny.safetensors
    python scripts/evaluate_tiny.py --sprites CACHE                   # the numbers of the model card

Stage "dense" teaches backbone and encoder alone: every cell of the memory says class and box of the object it sees.
Stage "decoder" sets the decoder up from that (`tiny_network.start_decoder`) and trains it alone on memories made once.
Stage "detr" trains all but the stem: set prediction loss on all layers and query groups, the cell loss still on.
Stage "whole" trains everything. Every stage begins with the running mean of the weights of the one before.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from scenes import CLASS_NAMES, SIZE_HW
from set_loss import Targets
from tiny_data import batches, remembered
from tiny_network import Network
from tiny_stages import STAGES, Stage
from tiny_start import start_decoder
from torch import nn

from stream_detr.models.checkpoint import save_checkpoint

CHECKPOINT_SECONDS = 90
WEIGHTS = Path(__file__).parent.parent / "stream_detr" / "models" / "tiny.safetensors"


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


def save(path: Path, content: dict[str, object]) -> None:
    """Write a checkpoint so that a kill leaves the old one or the new one."""
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """A stage's checkpoint, None where there is none yet."""
    return torch.load(path, map_location=device, weights_only=True) if path.exists() else None


def average_gradients(network: Network) -> None:
    """Replace every gradient by its mean over the processes."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together)
    parts = (together / dist.get_world_size()).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


@torch.no_grad()
def agree(network: Network) -> None:
    """Give every process the first one's weights and statistics of norms."""
    if dist.is_initialized():
        for value in network.state_dict().values():
            dist.broadcast(value, 0)


def enter_stage(network: Network, stage: Stage, args: argparse.Namespace, device: torch.device) -> None:
    """What has to be done before a stage's first step."""
    if stage.name == "dense":
        images, _ = next(batches(args.sprites, stage.seed, 0, device, stage.most))
        network.calibrate_stem(images)
    if stage.name == "decoder":
        parts = list(islice(batches(args.sprites, stage.seed, 1_000_000, device, stage.most), 6))
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
    agree(network)
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
    number = first * processes + rank
    source = batches(args.sprites, stage.seed, number, device, stage.most, stage.other_sizes, processes)
    if stage.name == "decoder":
        source = remembered(network, source, args.memories // processes, number)
    saved = shown = time.monotonic()
    mean_loss = 0.0
    for step, (inputs, targets) in enumerate(source, first):
        if dense and step >= args.freeze_at and network.folded is None:
            agree(network)
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
        meeting = (args.out / "meeting").absolute().as_uri()
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=args.processes)
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
        return
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=train, args=(rank, args)) for rank in range(args.processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a training process failed; what it said is above")


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
