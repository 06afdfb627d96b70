"""Stage 3, multitask: M multi-task models on the gold labels of all tasks (1904.09482). One job a member.

Reads: `examples/`. Writes: `models/mt-i/`, `predictions/mt-i/`, `dynamics/mt-i/`.

Members of one encoder and seed start from the same heads, whatever else tells them apart, as "all else equal" asks
and as averaging their weights needs; their dropout and batches have a stream of their own, named by encoder, seed and
dropout, so that adding another member moves none.

A member of a fold (`mt-2-f1`) is the same on the training rows of the other folds, for out-of-fold targets. Nobody
reads its predictions, so it makes none.
"""

from __future__ import annotations

from typing import Any

from core.batching import bootstrap, without
from core.device import stream
from core.model import load_model, make_model
from core.sections import TrainConfig
from core.stages.context import EVALUATION_SPLITS, Context
from core.stages.training import (
    gold_loss,
    head_settings,
    held_out_rows,
    job_data,
    job_device,
    job_tokenizer,
    seed_torch,
    start_of,
    train_and_store,
)


def run(context: Context) -> dict[str, Any]:
    spec, seed = context.job.spec, context.config.seed
    member, fold = spec["member"], spec.get("fold")
    encoder = member["encoder"]
    device = job_device(context, encoder)
    tokenizer = job_tokenizer(context, encoder)
    datas = job_data(context, encoder, list(context.tasks), device)
    names: tuple[str | int, ...] = ("multitask", encoder, member["seed"], repr(member["dropout"]))
    names += ("cycle", member["cycle"]) if member["cycle"] else ()
    names += ("fold", fold) if fold is not None else ()
    if fold is not None:
        datas |= {task: without(datas[task], held_out_rows(context, task)) for task in spec["held_out_tasks"]}
    if member["bagging"] is not None:
        datas = {
            task: bootstrap(data, share=member["bagging"], rng=stream(seed, *names, "bagging", task))
            for task, data in datas.items()
        }
    settings = head_settings(context, pair_head=member["head"])
    if member["continues"]:
        model, _ = load_model(context.run.model_dir(member["continues"]), context.tasks)
    else:
        seed_torch(seed, "multitask", encoder, member["seed"])
        model = make_model(
            start_of(context, encoder),
            context.tasks,
            tokenizer=tokenizer,
            dropout=member["dropout"],
            head_settings=settings,
        )
    seed_torch(seed, *names)
    return train_and_store(
        context,
        model,
        datas,
        gold_loss(datas),
        train=TrainConfig(**spec["train"]),
        seed=seed,
        names=names,
        device=device,
        tokenizer=tokenizer,
        about={"encoder": encoder, "dropout": member["dropout"], "head_settings": settings}
        | {"mc_passes": member["mc_passes"]},
        splits=EVALUATION_SPLITS if fold is None else (),
    )
