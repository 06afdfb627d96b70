"""Optimisers, learning-rate schedule and clipping.

AdamW runs fused (one kernel for all parameters, which clips on the way); Adamax is the paper's and runs as torch's
foreach version, on CUDA as on the CPU. No scheduler object: the rate is a function of progress, so a resumed training
has nothing to restore.

Both decay weights beside the step, as AdamW and the reference code's Adamax do. torch's Adamax adds the decay to the
gradient, where its division by the largest gradient yet blows it up: at 0.01, a small fresh model learns nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from core.parallel import local, whole
from core.sections import TrainConfig


class Adamax(torch.optim.Adamax):
    """torch's Adamax with decoupled weight decay, `decay` of each parameter group, for parameters with a gradient."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["decay"] and parameters:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["decay"])
        return super().step(closure)


def make_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """Adamax or AdamW; no weight decay on biases and LayerNorm (1904.09482, section 4)."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        # Biases and LayerNorm's weights are the parameters with one axis.
        (decayed if parameter.ndim > 1 else plain).append(parameter)
    name = "decay" if train.optimizer == "adamax" else "weight_decay"
    groups = [{"params": decayed, name: train.weight_decay}, {"params": plain, name: 0.0}]
    if train.optimizer == "adamax":
        return Adamax(groups, lr=train.lr, weight_decay=0.0, foreach=True)
    return torch.optim.AdamW(groups, lr=train.lr, fused=True)


def learning_rate(progress: float, train: TrainConfig) -> float:
    """Linear warm-up, then linear decay to 0; `progress` in [0, 1] is the share of the training that is done."""
    if progress < train.warmup_frac:
        return train.lr * progress / train.warmup_frac
    return train.lr * (1 - progress) / max(1 - train.warmup_frac, 1e-12)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


# Entries of an embedding from which its gradient is kept. Measured from 7.8 million on (30,522 words, hidden 256).
KEPT_FROM = 2**20


def kept_gradients(model: nn.Module) -> list[nn.Embedding]:
    """Large embeddings on a CPU, each given one gradient for the whole training, to which a step adds the rows that it
    read. torch would take new memory of the whole vocabulary's size in every step, which costs more than what is done
    with it (LOG.md, "Speed"). For a training in one process: exchanged gradients have to be dense."""
    found = []
    for module in model.modules():
        if (
            isinstance(module, nn.Embedding)
            and module.weight.numel() >= KEPT_FROM
            and module.weight.device.type == "cpu"
        ):
            module.sparse = True
            module.weight.grad = torch.zeros_like(module.weight)
            found.append(module)
    return found


def clear_gradients(optimizer: torch.optim.Optimizer, kept: list[nn.Embedding]) -> None:
    """To None, those of `kept` to zero."""
    gradients = [module.weight.grad for module in kept]
    optimizer.zero_grad(set_to_none=True)
    for module, gradient in zip(kept, gradients, strict=True):
        assert gradient is not None
        module.weight.grad = gradient.zero_()


def release_gradients(kept: list[nn.Embedding]) -> None:
    """Makes `kept` what any embedding is."""
    for module in kept:
        module.sparse = False
        module.weight.grad = None


@torch.no_grad()
def clipped_step(optimizer: torch.optim.Optimizer, max_norm: float) -> torch.Tensor:
    """A step with all gradients scaled so that their global norm is at most `max_norm`; returns the norm before. The
    device never waits, and the gradients are left as they were used."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    gradients = [p.grad for p in parameters]
    norm = whole(torch.nn.utils.get_total_norm(gradients, foreach=True))
    divisor = (norm / max_norm).clamp(min=1.0)
    if isinstance(optimizer, torch.optim.AdamW) and gradients[0] is local(gradients[0]):
        # The fused kernel divides while it reads the gradient: a pass over all gradients less. Not a sharded one.
        optimizer.grad_scale = divisor  # type: ignore[attr-defined]
    else:
        torch._foreach_div_(gradients, divisor)
    optimizer.step()
    return norm
