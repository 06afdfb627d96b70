"""Stage 2, multitask: M multi-task models on the gold labels of all tasks (PAPER, step 1). One job a member.

Reads: `examples/`. Writes: `models/mt-i/`, `predictions/mt-i/`, `dynamics/mt-i/`.

A member's stream is named by its own encoder, seed and dropout, so that adding another member moves none.
"""

from __future__ import annotations

from typing import Any

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


def run(context: Context) -> dict[str, Any]:
    member = context.job.spec["member"]
    encoder, seed = member["encoder"], context.config.seed
    device = job_device(context, encoder)
    tokenizer = job_tokenizer(context, encoder)
    datas = job_data(context, encoder, list(context.tasks), device)
    names = ("multitask", encoder, member["seed"], repr(member["dropout"]))
    seed_torch(seed, *names)
    model = make_model(
        encoder,
        context.tasks,
        tokenizer=tokenizer,
        dropout=member["dropout"],
        head_settings=head_settings(context),
    )
    return train_and_store(
        context,
        model,
        datas,
        gold_loss(datas),
        train=context.config.multitask,
        seed=seed,
        names=names,
        device=device,
        tokenizer=tokenizer,
        encoder=encoder,
        dropout=member["dropout"],
    )
