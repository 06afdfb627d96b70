"""Device, number type, threads and seeds, resolved once, with a reason that is printed.

Everything but weight initialisation and dropout draws from a *named stream*, `stream(seed, "multitask", "mt-1",
"order")`, so that adding an evaluation or another model never moves the order of the data. Initialisation and
dropout use torch's generator, seeded from such a stream at the start of each job.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any, NamedTuple

import numpy as np
import torch

# A CPU gains from bfloat16 only with wide layers: below this the casts cost more than they give. The bound was
# measured on two CPUs with such instructions, Zen 4 and Zen 5 (LOG.md, "Speed"); runtime.dtype overrides it.
BFLOAT16_MIN_HIDDEN_ON_CPU = 256


class Device(NamedTuple):
    """Where and in which number type the matrix products run. Weights, losses and softmax stay in float32."""

    device: torch.device
    dtype: torch.dtype
    reason: str
    compiles: bool = False  # trains the encoder as CUDA graphs (core/graphs)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def resolve_device(device: str, dtype: str, *, hidden: int, compiles: bool = False) -> Device:
    """`auto` takes CUDA, else MPS, else the CPU. Raises `ValueError` for a device that this machine does not have, and
    for `compiles` on another than CUDA; never falls back in silence. `hidden` is the encoder's width, which decides
    about bfloat16 on a CPU."""
    if device == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        why = f"{name}: the first of cuda, mps, cpu that this machine has"
    else:
        name, why = device, f"{device}: as asked"
    try:
        resolved = torch.device(name)
    except RuntimeError:
        raise ValueError(f"runtime.device is '{name}', expected auto, cpu, cuda, cuda:N or mps") from None
    missing = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available(), "cpu": False}
    if missing.get(resolved.type, True):
        raise ValueError(f"runtime.device is '{name}', but torch sees no such device here; use runtime.device=auto")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"runtime.device is '{name}', but there are {torch.cuda.device_count()} CUDA devices")
    if compiles and resolved.type != "cuda":
        raise ValueError(
            f"runtime.compile is true, but the device is '{resolved}'; CUDA graphs need a GPU, and on a CPU compiling "
            "gave nothing (LOG.md). Use runtime.compile=false"
        )
    if dtype == "auto":
        pays, rule = _bfloat16_pays(resolved, hidden)
        chosen = torch.bfloat16 if pays else torch.float32
        return Device(resolved, chosen, f"{why}; {str(chosen).removeprefix('torch.')}: {rule}", compiles)
    return Device(resolved, getattr(torch, dtype), f"{why}; {dtype}: as asked", compiles)


def _bfloat16_pays(device: torch.device, hidden: int) -> tuple[bool, str]:
    if device.type == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
        return has, "the GPU has bfloat16 matrix units" if has else "the GPU has no bfloat16 matrix units"
    if device.type == "cpu":
        if hidden < BFLOAT16_MIN_HIDDEN_ON_CPU:
            return (
                False,
                f"hidden size {hidden} is under {BFLOAT16_MIN_HIDDEN_ON_CPU}, where casts cost more than they give",
            )
        has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return has, "the CPU has bfloat16 instructions" if has else "the CPU has no bfloat16 instructions"
    return False, "bfloat16 is not used on this device"


def stream_seed(seed: int, *names: str | int) -> int:
    """63 bits from SHA-256 of the seed and the names: equal on every platform, independent between names."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """The named stream. Example: `stream(0, "multitask", "mt-1", "order", epoch)`."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, *names)))
