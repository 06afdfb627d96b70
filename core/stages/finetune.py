"""Stage 5, finetune: each chosen member becomes a teacher of one task, with a fresh head (1904.09482). One job a
member and teacher task.

Reads: `models/mt-i/`, `examples/`. Writes: `models/ft-i-<task>/`, `predictions/`, `dynamics/`.

A teacher also predicts the training split: that is what the soft targets are made of. A teacher of a fold
(`ft-2-nli-f1`) starts from the member of that fold and predicts the rows that neither has seen. Imported teachers
(core/stages/imported) are not trained.
"""

from __future__ import annotations

from typing import Any

from core.batching import subset, without
from core.model import with_fresh_head
from core.sections import TrainConfig
from core.stages import imported, multitask
from core.stages.context import EVALUATION_SPLITS, Context
from core.stages.training import (
    gold_loss,
    head_settings,
    held_out_rows,
    job_data,
    job_device,
    job_tokenizer,
    seed_torch,
    train_and_store,
)


def run(context: Context) -> dict[str, Any]:
    spec = context.job.spec
    if "imported" in spec:
        return imported.run(context)
    if "task" not in spec:  # the member that the teachers of a fold start from
        return multitask.run(context)
    member, task, fold = spec["member"], spec["task"], spec.get("fold")
    encoder, seed = member["encoder"], context.config.seed
    device = job_device(context, encoder)
    datas = job_data(context, encoder, [task], device)
    names: tuple[str | int, ...] = ("finetune", context.config.finetune.seed, encoder, member["seed"])
    names += (repr(member["dropout"]), task) + (("fold", fold) if fold is not None else ())
    predicted = dict(datas)
    if fold is not None:
        held_out = held_out_rows(context, task)
        predicted = {task: subset(datas[task], held_out.nonzero()[0])}
        datas = {task: without(datas[task], held_out)}
    seed_torch(seed, *names)
    settings = head_settings(context, pair_head=member["head"])
    (start,) = context.job.weights_of
    model = with_fresh_head(
        context.run.model_dir(start), context.tasks[task], dropout=member["dropout"], head_settings=settings
    )
    return train_and_store(
        context,
        model,
        datas,
        gold_loss(datas),
        train=TrainConfig(**spec["train"]),
        seed=seed,
        names=names,
        device=device,
        tokenizer=job_tokenizer(context, encoder),
        about={"encoder": encoder, "dropout": member["dropout"], "head_settings": settings}
        | {"mc_passes": member["mc_passes"]},
        splits=("train", *EVALUATION_SPLITS) if fold is None else ("train",),
        predicted=predicted,
    )
