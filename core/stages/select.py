"""Stage 4, select: the K best members, with reasons (1904.09482).

Reads: `predictions/mt-*/`, gold. Writes: `selection.json`, which names the split that was used.

By default the split is carved from train. `select.split=dev` is the paper's choice: selecting and reporting on one
split leaks, and `selection.json` says so.
"""

from __future__ import annotations

from typing import Any

from core.selection import select
from core.stages.context import Context, read_gold, require_labels, score_outputs
from core.store import write_json


def run(context: Context) -> dict[str, Any]:
    config = context.config
    scores: dict[str, dict[str, float]] = {name: {} for name in config.multitask.members}
    for task in context.tasks.values():
        table = context.run.read_examples(task.name)
        require_labels(table, task, config.select.split, option="select.split")
        gold = read_gold(table, task, config.select.split)
        for member in scores:
            predictions = context.run.read_predictions(member, task.name)
            what = str(context.run.predictions_path(member, task.name))
            result = score_outputs(task, gold, predictions, resamples=1, seed=0, what=what)
            scores[member][task.name] = result["score"].value
    selection = select(
        scores,
        k=config.select.top_k,
        teacher_tasks=[name for name, task in context.tasks.items() if task.has_teacher],
        split=config.select.split,
        rule=config.select.rule,
    )
    leaks = config.select.split == config.evaluate.split
    write_json(context.run.path / "selection.json", {**selection.to_json(), "leaks": leaks})
    return {"chosen": list(selection.chosen), "leaks": leaks}
