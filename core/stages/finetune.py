"""Stage 4, finetune: each chosen member becomes one teacher for each teacher task (PAPER, step 3). One job a teacher.

Reads: `models/mt-i/`, `examples/`. Writes: `models/ft-i-task/`, `predictions/ft-i-task/` (train split included: the
targets are made of it), `dynamics/ft-i-task/`.

The encoder is the member's, the head is fresh, and learning rate, epochs and the rest are this stage's own.
"""

from __future__ import annotations

from typing import Any

from core.model import with_fresh_head
from core.stages.context import EVALUATION_SPLITS, Context
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
    member, task = context.job.weights_of, context.job.spec["task"]
    assert member is not None
    settings = context.config.multitask.members[member]
    encoder, seed = settings["encoder"], context.config.seed
    device = job_device(context, encoder)
    datas = job_data(context, encoder, [task], device)
    names = ("finetune", context.config.finetune.seed, encoder, settings["seed"], repr(settings["dropout"]), task)
    seed_torch(seed, *names)
    model = with_fresh_head(
        context.run.model_dir(member),
        context.tasks[task],
        dropout=settings["dropout"],
        head_settings=head_settings(context),
    )
    return train_and_store(
        context,
        model,
        datas,
        gold_loss(datas),
        train=context.config.finetune,
        seed=seed,
        names=names,
        device=device,
        tokenizer=job_tokenizer(context, encoder),
        encoder=encoder,
        dropout=settings["dropout"],
        splits=("train", *EVALUATION_SPLITS),
    )
