"""Stage 7, distill: student variants side by side on the same batches (1904.09482). One job a variant and seed.

    hard     every task on its gold labels: the plain MT-DNN, the baseline
    kd       tasks with a teacher on hard and soft labels (`distill.loss`), tasks without one on gold alone
    others   controls: what is taught keeps a part of the teachers' distribution (core/targets); and the truth

Reads: `examples/`, `targets/`. Writes: `models/st-<variant>-s<seed>/`, `predictions/`, `dynamics/`.

Students of one seed share initialisation, order of the batches and dropout's generator, whatever their variant: a
difference between variants is paired by seed.

`st-kd-g2-s0` is the second generation: taught by the student `st-kd-s0`, on the tasks that have teachers (Born-Again
Networks, 1805.04770). `st-kd-s0-ft-nli` is a student fine-tuned on one task's gold labels (the paper's last step); it
keeps its head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.batching import TaskData
from core.config import Teaching
from core.device import Device, stream
from core.losses import confidence_weighted, taught
from core.model import MultiTaskModel, head_key, load_model, make_model
from core.predict import predict
from core.rtd import auxiliary_loss
from core.sections import TrainConfig
from core.stages.context import Context
from core.stages.training import (
    gold_loss,
    head_settings,
    job_data,
    job_device,
    job_tokenizer,
    seed_torch,
    start_of,
    train_and_store,
)
from core.store import lists_to_rows
from core.targets import evened, permuted
from core.train import TaskLoss


def run(context: Context) -> dict[str, Any]:
    spec, seed = context.job.spec, context.config.seed
    encoder, student_seed = spec["encoder"], spec["seed"][1]
    device = job_device(context, encoder)
    tokenizer = job_tokenizer(context, encoder)
    names: tuple[str | int, ...] = ("distill", encoder, student_seed)
    auxiliary = None
    if "task" in spec:
        task = spec["task"]
        datas = job_data(context, encoder, [task], device)
        loss_fn = gold_loss(datas)
        names += ("finetune", spec["finetune_seed"], task)
        (student,) = context.job.weights_of
        whole, _ = load_model(context.run.model_dir(student), context.tasks)
        model = MultiTaskModel(whole.encoder, {task: whole.heads[head_key(task)]})
        seed_torch(seed, *names)
    else:
        datas = job_data(context, encoder, list(context.tasks), device)
        loss_fn = variant_loss(context, datas, device)
        seed_torch(seed, *names)
        model = make_model(
            start_of(context, encoder),
            context.tasks,
            tokenizer=tokenizer,
            dropout=spec["dropout"],
            head_settings=head_settings(context),
        )
        if spec["rtd_weight"]:
            auxiliary = auxiliary_loss(model, start_of(context, encoder), tokenizer, weight=spec["rtd_weight"])
    return train_and_store(
        context,
        model,
        datas,
        loss_fn,
        train=TrainConfig(**spec["train"]),
        seed=seed,
        names=names,
        device=device,
        tokenizer=tokenizer,
        about={"encoder": encoder, "dropout": spec["dropout"], "head_settings": head_settings(context)},
        auxiliary=auxiliary,
    )


def variant_loss(context: Context, datas: dict[str, TaskData], device: Device) -> TaskLoss:
    """What the variant minimises: tasks with a teacher as the variant has it, the others on gold."""
    spec, on_gold = context.job.spec, gold_loss(datas)
    variant = spec["variant"]
    if variant == "hard":
        return on_gold
    targets = {
        task: torch.from_numpy(target).to(device.device)
        for task in spec["teacher_tasks"]
        if (target := target_rows(context, datas[task], device)) is not None
    }
    if not targets:
        raise ValueError(
            f"variant '{variant}': none of the tasks {', '.join(spec['teacher_tasks'])} has true_probs in its "
            "examples; leave 'truth' out of distill.variants"
        )
    untaught: dict[str, np.ndarray] = {}  # rows that imported teachers do not know: they have gold alone
    for name in targets if context.config.finetune.imported else ():
        is_nan = np.isnan(targets[name].cpu().numpy()).any(axis=1)
        untaught |= {name: is_nan} if is_nan[datas[name].rows("train")].any() else {}
    # A control without a teacher: the paper's loss with a uniform one (1904.09482, eq. 6).
    smoothing = spec.get("smoothing", 0.0)
    uniform = Teaching("soft_ce", smoothing, smoothing, 0.0, 1.0, 1.0, 8.0, 0.5)
    teachings = {
        task: uniform if variant == "label_smoothing" else Teaching(**spec["teaching"][task])
        for task in (targets if variant != "cwtm" else ())
    }

    def loss(task: str, logits: Tensor, rows: np.ndarray, progress: float) -> Tensor:
        if task not in targets:
            return on_gold(task, logits, rows, progress)
        index = torch.from_numpy(rows)
        gold, target = datas[task].gold[index], targets[task][index]
        if task not in untaught:
            return soft(task, logits, gold, target, progress)
        taught_b = torch.from_numpy(np.flatnonzero(~untaught[task][rows])).to(logits.device)
        losses_b = soft(task, logits[taught_b], gold[taught_b], target[taught_b], progress)
        return on_gold(task, logits, rows, progress).index_copy(0, taught_b, losses_b)

    def soft(task: str, logits: Tensor, gold: Tensor, target: Tensor, progress: float) -> Tensor:
        if variant == "cwtm":
            return confidence_weighted(logits, gold, target)
        return taught(logits, gold, target, teachings[task], progress)

    return loss


def target_rows(context: Context, data: TaskData, device: Device) -> np.ndarray | None:
    """What the variant is taught on a task: logits (N, C), or mean and std (N, 2), for all rows; rows that are not
    trained on hold NaN, so that a mistaken use of one stops the training. None: the data has no such thing."""
    spec, run, task = context.job.spec, context.run, data.task
    train, variant = data.rows("train"), spec["variant"]
    if variant == "label_smoothing":
        taught_rows = np.zeros((len(train), task.n_outputs))
    elif variant == "truth":
        known = _truth(context, data, train)
        if known is None:
            return None
        taught_rows = known
    elif "taught_by" in spec:
        # The weights are loaded before the student's own are drawn, so its initialisation is that of all variants.
        teacher, _ = load_model(run.model_dir(spec["taught_by"]), context.tasks)
        outputs = predict(teacher.to(device.device), data, train, device)
        taught_rows = np.stack([outputs, np.zeros_like(outputs)], 1) if task.kind == "regression" else outputs
    else:
        is_imported = bool(context.config.finetune.imported)
        taught_rows = run.read_targets(task, data.example_ids[train], partial=is_imported)
    if variant == "dkpp":
        taught_rows = permuted(taught_rows, stream(context.config.seed, "dkpp", task.name, spec["seed"][1]))
    elif variant == "adaptive_smoothing":
        taught_rows = evened(taught_rows)
    rows = np.full((len(data.example_ids), taught_rows.shape[1]), np.nan, np.float32)
    rows[train] = taught_rows
    return rows


def _truth(context: Context, data: TaskData, train: np.ndarray) -> np.ndarray | None:
    table = context.run.read_examples(data.task.name)
    if data.task.kind == "regression":
        columns = [table[name].to_numpy(zero_copy_only=False) for name in ("true_mean", "true_std")]
        values = np.stack(columns, axis=1)[train]
    else:
        # The floor is far under what a model of this size can say.
        values = np.log(np.maximum(lists_to_rows(table["true_probs"])[train], 1e-12))
    # A column without a single list has no width.
    return None if values.shape[1] == 0 or np.isnan(values).any() else values
