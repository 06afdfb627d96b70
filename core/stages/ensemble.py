"""Stage 6, ensemble: K teachers' stored logits -> Q, by example id (1904.09482).

Reads: `predictions/ft-*/`, `predictions/mt-*/`, gold of the split that fitted strategies are fitted on. Writes:
`predictions/ens-<strategy>/`, `targets/<task>.parquet` for tasks with a teacher, `ensembles.json`: recipes, diversity
and the size curve K = 1 ... of each task.

On tasks without a teacher the chosen members' own outputs are averaged too, for comparison; no student is taught that.
Targets are in-sample (the paper's: each teacher has seen the gold label of the examples it gives targets for) or
out-of-fold (`ensemble.targets`): then teachers of the other folds give them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from core.combining import Recipe, apply_recipe, apply_values, fit_recipe, fit_values, size_curve
from core.ensemble import combine_values, disagreement_N, jensen_gap_N, q_statistic
from core.plan import ensemble_name, teacher_name, teachers_of
from core.sections import FITTED_STRATEGIES
from core.stages import soup
from core.stages.context import EVALUATION_SPLITS, Context, read_gold
from core.store import Predictions, read_json, rows_of_ids, write_json
from core.tasks import Task


class Members(NamedTuple):
    """Members' outputs on one task, rows of the same examples: `outputs` is (M, N, C), or (M, N) for regression."""

    names: list[str]
    first: Predictions
    outputs: np.ndarray
    labels: list[tuple[str, ...]]


def run(context: Context) -> dict[str, Any]:
    if "soup" in context.job.spec:
        return soup.run(context)
    config = context.config.ensemble
    chosen = read_json(context.run.path / "selection.json")["chosen"]
    strategies = (config.strategy, *config.compare)
    recipes: dict[str, Any] = {ensemble_name(name): {"strategy": name, "tasks": {}} for name in strategies}
    notes: list[str] = []
    for i, task in enumerate(context.tasks.values()):
        names = teachers_of(context.config, chosen, task.name) if task.has_teacher else list(chosen)
        members = read_members(context, task, names)
        about = {"members": names, "taught": task.has_teacher, **describe(context, task, members)}
        for strategy in strategies:
            recipe = fit(context, task, members, strategy)
            combined, spread = applied(recipe, task, members)
            # Only Q itself is needed on the training rows.
            rows = combined.splits != "train" if strategy != config.strategy else slice(None)
            kept = Predictions(combined.example_ids[rows], combined.splits[rows], combined.outputs[rows], task.labels)
            context.run.write_predictions(ensemble_name(strategy), task, kept)
            recipes[ensemble_name(strategy)]["tasks"][task.name] = {**about, **recipe.to_json()}
            if recipe.note:
                notes.append(f"{task.name}, {strategy}: {recipe.note}")
            if strategy == config.strategy and task.has_teacher:
                write_targets(context, task, recipe, combined, spread, chosen, names)
        context.report((i + 1) / len(context.tasks), None)
    write_json(context.run.path / "ensembles.json", recipes)
    return {"name": ensemble_name(config.strategy), "notes": notes}


def read_members(context: Context, task: Task, names: list[str]) -> Members:
    read = [context.run.read_predictions(name, task.name) for name in names]
    first = read[0]
    outputs = []
    for name, predictions in zip(names, read, strict=True):
        what = str(context.run.predictions_path(name, task.name))
        outputs.append(predictions.outputs[rows_of_ids(predictions.example_ids, first.example_ids, what=what)])
    return Members(names, first, np.stack(outputs), [predictions.labels for predictions in read])


def fit(context: Context, task: Task, members: Members, strategy: str) -> Recipe:
    """The recipe of `strategy`, fitted on `ensemble.fit_split` where it has something to fit."""
    split, reported = context.config.ensemble.fit_split, context.config.evaluate.split
    gold = read_gold(context.run.read_examples(task.name), task, split)
    if strategy not in FITTED_STRATEGIES and not (members.first.splits == split).any():
        return Recipe(strategy, None, {})  # imported teachers may not have the split
    rows = rows_of_ids(members.first.example_ids, gold.example_ids, what=f"predictions of {members.names[0]}")
    where = {"split": split, "reported_split": reported}
    if task.kind == "regression":
        return fit_values(strategy, members.outputs[:, rows], gold.arguments["gold_value"], **where)
    return fit_recipe(
        strategy,
        members.outputs[:, rows],
        gold.arguments["gold_index"],
        label_names_per_member=members.labels,
        exchangeable=task.kind == "ranking",
        **where,
    )


def applied(recipe: Recipe, task: Task, members: Members) -> tuple[Predictions, np.ndarray]:
    """The ensemble's outputs on every row that its members predicted, and the members' spread (N,) for regression."""
    if task.kind == "regression":
        values = apply_values(recipe, members.outputs)
        return members.first._replace(outputs=values.mean), values.std
    logits_NC = apply_recipe(recipe, members.outputs, label_names_per_member=members.labels)
    return members.first._replace(outputs=logits_NC), np.zeros(0)


def write_targets(
    context: Context,
    task: Task,
    recipe: Recipe,
    combined: Predictions,
    spread_N: np.ndarray,
    chosen: list[str],
    names: list[str],
) -> None:
    """Q on the training rows: from teachers that have seen them, or fold by fold from teachers that have not."""
    is_train = combined.splits == "train"
    ids, outputs = combined.example_ids[is_train], np.array(combined.outputs[is_train])
    spread_N = spread_N[is_train] if len(spread_N) else spread_N
    out_of_fold = context.config.ensemble.targets == "out_of_fold"
    for fold in range(context.config.ensemble.folds if out_of_fold else 0):
        names_of_fold = [teacher_name(member, task.name, fold) for member in chosen]
        part, spread = applied(recipe, task, read_members(context, task, names_of_fold))
        rows = rows_of_ids(ids, part.example_ids, what=f"training rows of '{task.name}'")
        outputs[rows] = part.outputs
        if len(spread_N):
            spread_N[rows] = spread
    # Nobody knows what an imported teacher has seen.
    in_sample = np.full(len(ids), None if context.config.finetune.imported else not out_of_fold)
    if task.kind == "regression":
        outputs = np.stack([outputs, spread_N], axis=1)
    context.run.write_targets(task, ids, outputs, members=names, in_sample=in_sample)


def describe(context: Context, task: Task, members: Members) -> dict[str, Any]:
    """Diversity and size curve on each labelled split but train. On each, and not on the reported one: another
    `evaluate.split` would leave the old one's numbers here."""
    table = context.run.read_examples(task.name)
    diversity: dict[str, Any] = {}
    curve: dict[str, Any] = {}
    for split in EVALUATION_SPLITS:
        gold = read_gold(table, task, split)
        if not gold.is_labelled or not (members.first.splits == split).any():  # imported teachers may not have it
            continue
        rows = rows_of_ids(members.first.example_ids, gold.example_ids, what=f"predictions of {members.names[0]}")
        outputs = members.outputs[:, rows]
        curve[split] = size_curve(task, list(outputs), gold.arguments)
        if task.kind == "regression":
            diversity[split] = {"member_std": float(combine_values(outputs).std.mean())}
            continue
        q = q_statistic(outputs, gold.arguments["gold_index"])
        diversity[split] = {
            "jensen_gap": float(jensen_gap_N(outputs).mean()),
            "disagreement": float(disagreement_N(outputs).mean()),
            "q_statistic": None if np.isnan(q) else q,
        }
    return {"diversity": diversity, "size_curve": curve}
