"""Which device runs the model, and in which precision."""

from __future__ import annotations

import torch

from stream_detr.errors import UsageError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Resolve "auto" (CUDA, then MPS, then CPU) or check that a named device is there.

    Raises:
        UsageError: the name is unknown or the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device {name!r} is not one of auto, cpu, cuda, cuda:N, mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name!r} is not there: {torch.cuda.device_count()} CUDA devices found; use --device cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps' is not there: use --device cpu")
    return device


def choose_precision(name: str, device: torch.device) -> tuple[str, str]:
    """Resolve "auto" to the fastest precision whose boxes and maps agree with float32 to the eye.

    Returns:
        "fp32", "bf16" or "fp16", and the reason in words, for the report.

    Raises:
        UsageError: the device can't run the named precision.
    """
    if name not in ("auto", *DTYPES):
        raise UsageError(f"precision {name!r} is not one of auto, {', '.join(DTYPES)}")
    if name == "fp16" and device.type == "cpu":
        raise UsageError("precision fp16 needs a GPU: use fp32 or bf16 on a CPU")
    if name != "auto":
        return name, "asked for"
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16", "auto: this GPU computes bf16 natively; heads stay in fp32"
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return "bf16", "auto: this CPU computes bf16 natively; heads stay in fp32"
    return "fp32", f"auto: no native bf16 on this {device.type}"
