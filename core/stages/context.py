"""What a job is given, and how gold, truth and scores are read from a run. No torch: `select`, `ensemble` and
`evaluate` run without it.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from core.config import Config
from core.metrics import Score, evaluate
from core.plan import Job
from core.ranks import ALONE, Ranks
from core.store import Predictions, Run, lists_to_rows, rows_of_ids
from core.tasks import Task

# Splits that are predicted and scored; `_mm` is MNLI's mismatched half. The reported one is `evaluate.split`.
EVALUATION_SPLITS = ("selection", "dev", "dev_mm", "test", "test_mm", "ax")


class Context(NamedTuple):
    """One job's surroundings. `report(share_done, values)` moves the progress bar and may log a line; `ranks` are the
    processes that train it together."""

    run: Run
    config: Config
    tasks: Mapping[str, Task]
    job: Job
    prepare_key: str
    report: Callable[[float, dict[str, Any] | None], None]
    ranks: Ranks = ALONE


class Gold(NamedTuple):
    """The known about the examples of one split, as `core.metrics.evaluate` takes it."""

    example_ids: np.ndarray
    arguments: dict[str, Any]

    @property
    def is_labelled(self) -> bool:
        index, value = self.arguments.get("gold_index"), self.arguments.get("gold_value")
        return bool((index >= 0).any()) if index is not None else bool(value is not None and np.isfinite(value).any())


def read_gold(table: pa.Table, task: Task, split: str) -> Gold:
    rows = table.filter(pa.compute.equal(table["split"], split))
    ids = rows["example_id"].to_numpy(zero_copy_only=False)
    if task.kind == "regression":
        names = ("gold_value", "true_mean", "true_std")
        return Gold(ids, {name: rows[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in names})
    index = {label: i for i, label in enumerate(task.labels)}
    gold = np.array([index.get(label, -1) for label in rows["gold_label"].to_pylist()], np.int64)
    arguments: dict[str, Any] = {"gold_index": gold}
    for name in ("true_probs", "human_probs"):
        if rows[name].null_count < len(rows):
            arguments[name] = lists_to_rows(rows[name])
    return Gold(ids, arguments)


def require_labels(table: pa.Table, task: Task, split: str, *, option: str) -> None:
    """Raises `ValueError` when `split`, which the config's field `option` names, has no labelled row of `task`."""
    if not read_gold(table, task, split).is_labelled:
        splits = pa.compute.unique(table["split"]).to_pylist()
        labelled = [name for name in splits if name != "train" and read_gold(table, task, name).is_labelled]
        raise ValueError(
            f"task '{task.name}' has no labelled row in split '{split}', which {option} names; set {option} to one of "
            f"those with labels: {', '.join(labelled)}"
        )


def score_outputs(
    task: Task, gold: Gold, predictions: Predictions, *, resamples: int, seed: int, what: str
) -> dict[str, Score]:
    """Scores of stored predictions, joined to the gold by example id."""
    if task.kind != "regression" and predictions.labels != task.labels:
        raise ValueError(f"{what} has the labels {predictions.labels}, task '{task.name}' has {task.labels}")
    rows = rows_of_ids(predictions.example_ids, gold.example_ids, what=what)
    return evaluate(task, outputs=predictions.outputs[rows], **gold.arguments, resamples=resamples, seed=seed)
