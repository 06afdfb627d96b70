"""A teacher that was not trained here: its predictions are copied by example id (`finetune.imported`). One job a
model and teacher task, in stage 5 and under a tuned teacher's name, so that all later stages treat the two alike.

Reads: `examples/` and `predictions/` of another run, of imported predictions (core/importing) or one trained here.
Writes: `predictions/ft-i-<task>/`.

Training rows that it does not know are left out: students learn them from gold alone. A split that is scored is there
whole or not at all. No torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from core.stages.context import EVALUATION_SPLITS, Context
from core.store import Predictions, Run, rows_of_ids
from core.tasks import Task


def run(context: Context) -> dict[str, Any]:
    task = context.tasks[context.job.spec["task"]]
    where = context.config.finetune.imported[context.job.spec["imported"] - 1]
    predictions = predictions_of(context.run, task, where)
    context.run.write_predictions(context.job.name, task, predictions)
    n_train = int((context.run.read_examples(task.name)["split"].to_numpy(zero_copy_only=False) == "train").sum())
    n_taught = int((predictions.splits == "train").sum())
    note = f"{where} teaches {n_taught} of {n_train} training rows of '{task.name}'; the others have gold alone"
    return {"imported": where, "taught": n_taught, "notes": [note] if n_taught < n_train else []}


def predictions_of(run: Run, task: Task, where: str) -> Predictions:
    """What RUN/MODEL says of the examples of `run`, in their order and splits. Raises `ValueError` for other labels,
    other texts under the same ids, and a teacher that knows no training row; `prepare` asks before anything trains."""
    folder, _, model = where.rpartition("/")
    source, table = Run(folder), run.read_examples(task.name)
    given = source.read_predictions(model, task.name)
    if given.labels != task.labels:
        raise ValueError(
            f"{source.predictions_path(model, task.name)} has the labels {given.labels}, expected {task.labels} of "
            f"task '{task.name}'; predict again with the same task row"
        )
    ids_N = table["example_id"].to_numpy(zero_copy_only=False)
    splits_N = table["split"].to_numpy(zero_copy_only=False)
    known_N = np.isin(ids_N, given.example_ids)
    kept_N = known_N & (splits_N == "train")
    if not kept_N.any():
        raise ValueError(
            f"{where} knows none of the {int((splits_N == 'train').sum())} training rows of task '{task.name}' "
            f"(first: '{ids_N[0]}', it has '{given.example_ids[0]}'); import predictions on the training file, with "
            "`--examples train=FILE`"
        )
    _check_texts(source, task, table, ids_N[known_N])
    for split in EVALUATION_SPLITS:
        if known_N[splits_N == split].all():
            kept_N |= splits_N == split
    rows = rows_of_ids(given.example_ids, ids_N[kept_N], what=where)
    return Predictions(ids_N[kept_N], splits_N[kept_N], given.outputs[rows], task.labels)


def _check_texts(source: Run, task: Task, table: pa.Table, ids: np.ndarray) -> None:
    """An id is a row of a file: two runs of different files have the same ids for other texts."""
    theirs = source.read_examples(task.name)
    columns = [name for name in ("text_a", "text_b", "candidates") if name in table.column_names]
    same = []
    for one in (table, theirs):
        rows = rows_of_ids(one["example_id"].to_numpy(zero_copy_only=False), ids, what=f"{source.path}")
        same.append([one[name].take(pa.array(rows)).to_pylist() for name in columns])
    for name, mine, other in zip(columns, *same, strict=True):
        differ = [i for i, (a, b) in enumerate(zip(mine, other, strict=True)) if a != b]
        if differ:
            raise ValueError(
                f"{source.path} has another '{name}' than this run in {len(differ)} of {len(ids)} examples of task "
                f"'{task.name}', first: '{ids[differ[0]]}'; import the predictions with the files that this run reads"
            )
