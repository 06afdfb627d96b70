"""What must hold between the fields of a configuration, section by section; `core/config` calls these.

Each raises `ValueError` with what, got, expected and remedy. Fields on their own are checked in core/sections, what
depends on the tasks' rows in core/config (`resolve_tasks`).
"""

from __future__ import annotations

from core.sections import (
    DEFAULT_TEMPERATURE,
    FITTED_STRATEGIES,
    DistillConfig,
    EnsembleConfig,
    EvaluateConfig,
    MultitaskConfig,
    SelectConfig,
    TrainConfig,
)


def check_members(multitask: MultitaskConfig, select: SelectConfig) -> None:
    for dropout in multitask.dropouts:
        if not 0 <= dropout < 1:
            raise ValueError(f"multitask.dropouts has {dropout}, expected values in [0, 1)")
    if (n_members := len(multitask.members)) < select.top_k:
        raise ValueError(
            f"select.top_k is {select.top_k}, but there are {n_members} members; lower it or add "
            "multitask.encoders, .seeds or .dropouts"
        )
    for i, entry in enumerate(multitask.pool):
        if multitask.epochs % entry.snapshots:
            raise ValueError(
                f"multitask.pool[{i}] has {entry.snapshots} snapshots, multitask.epochs is {multitask.epochs}; every "
                "cycle needs the same whole number of epochs, so make one a multiple of the other"
            )
        if entry.mc_passes and (multitask.dropouts[0] if entry.dropout is None else entry.dropout) == 0:
            raise ValueError(f"multitask.pool[{i}] has mc_passes and a dropout of 0: all passes would be equal")
    members = list(multitask.members.values())
    for i, member in enumerate(members):
        if not member["cycle"] and member in members[:i]:
            raise ValueError(
                f"multitask.pool: members mt-{members.index(member) + 1} and mt-{i + 1} have the same settings and "
                "would be one model; give one of them another seed"
            )


def check_ensemble(ensemble: EnsembleConfig, multitask: MultitaskConfig, evaluate: EvaluateConfig) -> None:
    if ensemble.strategy in ensemble.compare:
        raise ValueError(f"ensemble.compare names '{ensemble.strategy}', which is ensemble.strategy already")
    fitted: list[str] = [name for name in (ensemble.strategy, *ensemble.compare) if name in FITTED_STRATEGIES]
    fitted += [f"soup '{name}'" for name in ensemble.soups if name == "greedy"]
    if fitted and ensemble.fit_split == evaluate.split:
        raise ValueError(
            f"ensemble.fit_split is '{ensemble.fit_split}', the split that is reported: {', '.join(fitted)} would be "
            "tuned on it. Use ensemble.fit_split=selection, or another evaluate.split"
        )
    members = multitask.members
    shapes = {(member["encoder"], member["head"]) for member in members.values()}
    if ensemble.soups and len(shapes) > 1:
        raise ValueError(
            f"ensemble.soups averages weights, but the members have {len(shapes)} different encoders or heads: "
            f"{', '.join(sorted(f'{encoder} ({head})' if head else encoder for encoder, head in shapes))}. Give the "
            "members one encoder and head, or leave ensemble.soups out"
        )
    if ensemble.targets == "out_of_fold" and any(member["continues"] for member in members.values()):
        raise ValueError("ensemble.targets=out_of_fold does not go with snapshots: leave one of the two out")


def check_imported(imported: tuple[str, ...], targets: str) -> None:
    for where in imported:
        if not all(where.rpartition("/")[::2]):
            raise ValueError(
                f"finetune.imported has '{where}', expected RUN/MODEL, a run's folder and a model with predictions in "
                "it, for example runs/berts/bert-0"
            )
    if imported and targets == "out_of_fold":
        raise ValueError(
            "ensemble.targets is 'out_of_fold', but finetune.imported brings teachers that are not trained here; leave "
            "one of the two out"
        )


def check_sampling(stage: str, train: TrainConfig, tasks: tuple[str, ...]) -> None:
    """`tasks` are those that the stage mixes; none where a training has one."""
    if not tasks and (train.sampling != "proportional" or train.task_weights):
        raise ValueError(
            f"{stage}.sampling and {stage}.task_weights say how tasks are mixed, but a training of this stage has one; "
            "leave them out"
        )
    if train.sampling_temperature != 2.0 and train.sampling != "temperature":
        raise ValueError(
            f"{stage}.sampling_temperature is {train.sampling_temperature}, but {stage}.sampling is "
            f"'{train.sampling}', which has none; set {stage}.sampling=temperature"
        )
    for name, weight in train.task_weights.items():
        if name not in tasks or not weight > 0:
            raise ValueError(
                f"{stage}.task_weights has '{name}: {weight}', expected a positive weight of one of {', '.join(tasks)}"
            )


def check_used(distill: DistillConfig, ensemble: EnsembleConfig) -> None:
    """Refuses an option that is set, and that nothing in this config reads."""
    losses = {distill.loss, *(own.loss for own in distill.per_task.values() if own.loss)}
    taught = {"kd", "dkpp", "adaptive_smoothing", "truth"} & set(distill.variants)
    is_annealed = (distill.schedule or ("annealed" if losses == {"annealed"} else "")) == "annealed"
    rules = {
        "dkd_target": ("dkd" in losses, "a loss of dkd"),
        "dkd_others": ("dkd" in losses, "a loss of dkd"),
        "jsd_beta": ("jsd" in losses, "a loss of jsd"),
        "smoothing": ("label_smoothing" in distill.variants, "the variant label_smoothing"),
        "alpha_end": (distill.schedule == "linear", "distill.schedule=linear"),
        "alpha": (not is_annealed, "a schedule that is not annealed"),
        "per_task": (bool(taught), "a variant that is taught"),
        "generations": ("kd" in distill.variants, "the variant kd"),
        "temperature": (bool(losses & set(DEFAULT_TEMPERATURE)), "a loss with a temperature: kl, dkd, jsd, reverse_kl"),
    }
    for field, (is_used, user) in rules.items():
        value, default = getattr(distill, field), DistillConfig.model_fields[field].default
        if value != default and not is_used and not (field == "temperature" and value == 1):
            raise ValueError(f"distill.{field} is {value}, but only {user} uses it; set that too, or leave it out")
    if distill.schedule == "linear" and distill.alpha_end is None:
        raise ValueError("distill.schedule is 'linear' but distill.alpha_end is not set; linear goes from alpha to it")
    for variant in distill.finetuned:
        if variant not in distill.variants:
            raise ValueError(f"distill.finetuned has '{variant}', which is not in distill.variants")
    if ensemble.folds != 2 and ensemble.targets == "in_sample":
        raise ValueError(f"ensemble.folds is {ensemble.folds}, but ensemble.targets is 'in_sample'")
