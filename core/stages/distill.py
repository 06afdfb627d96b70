"""Stage 6, distill: student variants side by side on the same batches (PAPER, step 5). One job a variant and seed.

    hard   every task on its gold labels: the plain MT-DNN, the baseline
    kd     tasks with a teacher on hard and soft labels (`distill.loss`), tasks without one on gold alone

Reads: `examples/`, `targets/`. Writes: `models/st-<variant>-s<seed>/`, `predictions/`, `dynamics/`.

Students of one seed share initialisation, order of the batches and dropout's generator, whatever their variant: a
difference between variants is paired by seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from core.batching import TaskData
from core.config import NEEDS_TEACHER
from core.device import Device
from core.losses import LOSSES
from core.model import make_model
from core.stages.context import Context
from core.stages.training import (
    gold_loss,
    head_settings,
    job_data,
    job_device,
    job_tokenizer,
    seed_torch,
    train_and_store,
)
from core.train import TaskLoss


def run(context: Context) -> dict[str, Any]:
    spec, config = context.job.spec, context.config
    encoder = spec["encoder"]
    device = job_device(context, encoder)
    tokenizer = job_tokenizer(context, encoder)
    datas = job_data(context, encoder, list(context.tasks), device)
    loss_fn = taught_loss(context, datas, device) if NEEDS_TEACHER[spec["variant"]] else gold_loss(datas)
    names = ("distill", encoder, spec["seed"][1])
    seed_torch(config.seed, *names)
    model = make_model(
        encoder, context.tasks, tokenizer=tokenizer, dropout=spec["dropout"], head_settings=head_settings(context)
    )
    return train_and_store(
        context,
        model,
        datas,
        loss_fn,
        train=config.distill,
        seed=config.seed,
        names=names,
        device=device,
        tokenizer=tokenizer,
        encoder=encoder,
        dropout=spec["dropout"],
    )


def taught_loss(context: Context, datas: dict[str, TaskData], device: Device) -> TaskLoss:
    """`distill.loss` on tasks with a teacher, gold on the others. Targets are joined by example id."""
    config, on_gold = context.config.distill, gold_loss(datas)
    soft = LOSSES[config.loss]
    targets = {
        name: read_target_rows(context, data, device) for name, data in datas.items() if context.tasks[name].has_teacher
    }

    def loss(task: str, logits: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        if task not in targets:
            return on_gold(task, logits, rows)
        index = torch.from_numpy(rows)
        return soft(
            logits,
            datas[task].gold[index],
            targets[task][index],
            alpha=config.alpha,
            temperature=config.temperature,
        )

    return loss


def read_target_rows(context: Context, data: TaskData, device: Device) -> torch.Tensor:
    """Target logits (N, C) for all rows of the task; rows that are not trained on hold NaN, so that a mistaken use
    of one stops the training."""
    train = data.rows("train")
    targets = np.full((len(data.example_ids), data.task.n_outputs), np.nan, np.float32)
    targets[train] = context.run.read_targets(data.task, data.example_ids[train])
    return torch.from_numpy(targets).to(device.device)
