"""How fast a training runs, against what the machine can do: real tokens, time spent on data, share of the GEMM peak.

The peak is measured, not looked up: the best of a few square products in the type that training uses, on its threads.
FLOPs of a model are 6 x parameters without embeddings x tokens for training (forward 2, backward 4), 2 x for a forward
pass. Attention's own products are left out, and what a head does not read of the last layer counts as if it were
computed, so that numbers compare with those of a plain loop.

On a machine that does other work at the same time both peak and speed are those of what is left of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

TRAINING_FLOPS, FORWARD_FLOPS = 6, 2
PEAK_SIZE, PEAK_PRODUCTS = 1024, 8


@dataclass
class Speed:
    """What a training or a pass did: real tokens, seconds in all, and those of them in which it waited for data."""

    tokens: int = 0
    seconds: float = 0.0
    waiting_seconds: float = 0.0
    processes: int = 1  # that trained together; tokens are of all of them

    def record(self, model: nn.Module, *, flops: int, dtype: torch.dtype) -> dict[str, float]:
        """What `run.json` keeps. `gemm_share` is of the peak that is measured now."""
        device = next(model.parameters()).device
        seconds, peak = max(self.seconds, 1e-9), self.processes * gemm_peak(device, dtype)
        return {
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(self.tokens / seconds, 1),
            "waiting_share": round(self.waiting_seconds / seconds, 4),
            "gemm_share": round(flops * matrix_parameters(model) * self.tokens / seconds / peak, 3),
        }


def matrix_parameters(model: Any) -> int:
    """Parameters of an encoder, or of a model's, outside its embeddings: those that each token meets."""
    encoder = model if hasattr(model, "config") else model.encoder
    return sum(p.numel() for name, p in encoder.named_parameters() if "embeddings" not in name)


@cache
def gemm_peak(device: torch.device, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter) -> float:
    """FLOP/s of the best of a few square products on the threads that are set now; once a process."""
    a, b = (torch.ones(PEAK_SIZE, PEAK_SIZE, device=device, dtype=dtype) for _ in range(2))
    fastest = float("inf")
    for _ in range(PEAK_PRODUCTS):
        wait(device)
        started = clock()
        a @ b
        wait(device)
        fastest = min(fastest, clock() - started)
    return 2 * PEAK_SIZE**3 / fastest


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
