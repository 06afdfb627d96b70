"""Optimisers, learning-rate schedule and clipping.

AdamW runs fused (one kernel for all parameters); Adamax is the paper's and runs as torch's foreach version, on CUDA
as on the CPU. No scheduler object: the rate is a function of progress, so a resumed training has nothing to restore.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from core.config import TrainConfig


def make_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """Adamax or AdamW; no weight decay on biases and LayerNorm (PAPER, Hyperparameters)."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        # Biases and LayerNorm's weights are the parameters with one axis.
        (decayed if parameter.ndim > 1 else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": train.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if train.optimizer == "adamax":
        return torch.optim.Adamax(groups, lr=train.lr, foreach=True)
    return torch.optim.AdamW(groups, lr=train.lr, fused=True)


def learning_rate(progress: float, train: TrainConfig) -> float:
    """Linear warm-up, then linear decay to 0; `progress` in [0, 1] is the share of the training that is done."""
    if progress < train.warmup_frac:
        return train.lr * progress / train.warmup_frac
    return train.lr * (1 - progress) / max(1 - train.warmup_frac, 1e-12)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> torch.Tensor:
    """Scales all gradients so that their global norm is at most `max_norm`; returns the norm before."""
    return torch.nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)
