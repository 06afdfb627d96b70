"""Stage 5, ensemble: K teachers' stored logits -> Q, by example id (PAPER, step 4).

Reads: `predictions/ft-*/`, `predictions/mt-*/`. Writes: `predictions/ens-<strategy>/`, `targets/<task>.parquet` for
tasks with a teacher, `ensembles.json`.

On tasks without a teacher the chosen members' own outputs are averaged too, for comparison; no student is taught that.
The targets are in-sample (the paper's): each teacher has seen the gold label of the examples it gives targets for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.ensemble import combine, combine_values, disagreement_N, jensen_gap_N
from core.plan import ensemble_name, teacher_name
from core.stages.context import EVALUATION_SPLITS, Context
from core.store import Predictions, read_json, rows_of_ids, write_json
from core.tasks import Task


def run(context: Context) -> dict[str, Any]:
    strategy = context.config.ensemble.strategy
    name = ensemble_name(strategy)
    chosen = read_json(context.run.path / "selection.json")["chosen"]
    recipes: dict[str, Any] = {}
    for i, task in enumerate(context.tasks.values()):
        members = [teacher_name(member, task.name) for member in chosen] if task.has_teacher else list(chosen)
        combined, diversity = combine_members(context, task, members, strategy)
        context.run.write_predictions(name, task, combined)
        if task.has_teacher:
            train = combined.on("train")
            in_sample = np.ones(len(train.example_ids), bool)
            context.run.write_targets(task, train.example_ids, train.outputs, members=members, in_sample=in_sample)
        recipes[task.name] = {"members": members, "taught": task.has_teacher, "fitted_on": None, "diversity": diversity}
        context.report((i + 1) / len(context.tasks), None)
    write_json(context.run.path / "ensembles.json", {name: {"strategy": strategy, "tasks": recipes}})
    return {"name": name}


def combine_members(
    context: Context, task: Task, members: list[str], strategy: str
) -> tuple[Predictions, dict[str, dict[str, float]]]:
    """The ensemble's outputs on every split that its members predicted, and its diversity on each but train. On each,
    and not on the reported one: another `evaluate.split` would leave the old one's numbers here."""
    read = [context.run.read_predictions(member, task.name) for member in members]
    first = read[0]
    outputs = []
    for member, predictions in zip(members, read, strict=True):
        what = str(context.run.predictions_path(member, task.name))
        outputs.append(predictions.outputs[rows_of_ids(predictions.example_ids, first.example_ids, what=what)])
    of_split = {split: first.splits == split for split in EVALUATION_SPLITS if (first.splits == split).any()}
    if task.kind == "regression":
        combined = combine_values(outputs)
        spread = {split: {"member_std": float(combined.std[rows].mean())} for split, rows in of_split.items()}
        return first._replace(outputs=combined.mean), spread
    logits_NC = combine(strategy, outputs, label_names_per_member=[predictions.labels for predictions in read])
    logits_MNC = np.stack(outputs)
    diversity = {
        split: {
            "jensen_gap": float(jensen_gap_N(logits_MNC[:, rows]).mean()),
            "disagreement": float(disagreement_N(logits_MNC[:, rows]).mean()),
        }
        for split, rows in of_split.items()
    }
    return first._replace(outputs=logits_NC), diversity
