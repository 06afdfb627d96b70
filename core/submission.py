"""A GLUE submission: eleven files of predictions on the unlabelled test sets, zipped, from any model of a run.

The format is the benchmark's: `index<TAB>prediction` with a header line, a row for every row of the test file, in its
order; MNLI and the diagnostic set AX (which MNLI's head answers) by label words, as QNLI and RTE; a number from 0 to 5
for STS-B; 0 or 1 for the others. Nothing is made up: a test set that was not predicted is an error.

Not here: the predictions, which are the run's own (`data.keep_unlabelled=true`).

Suffixes: N rows of a test set.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from core.config import stored_tasks
from core.files import atomic
from core.store import Predictions, Run
from core.tasks import GLUE, Task, did_you_mean

# File -> task, split, rows of the official test set.
FILES: dict[str, tuple[str, str, int]] = {
    "CoLA.tsv": ("cola", "test", 1063),
    "SST-2.tsv": ("sst2", "test", 1821),
    "MRPC.tsv": ("mrpc", "test", 1725),
    "STS-B.tsv": ("stsb", "test", 1379),
    "QQP.tsv": ("qqp", "test", 390965),
    "MNLI-m.tsv": ("mnli", "test", 9796),
    "MNLI-mm.tsv": ("mnli", "test_mm", 9847),
    "QNLI.tsv": ("qnli", "test", 5463),
    "RTE.tsv": ("rte", "test", 3000),
    "WNLI.tsv": ("wnli", "test", 146),
    "AX.tsv": ("mnli", "ax", 1104),
}


class Submission(NamedTuple):
    """Rows of each file, and what is allowed and yet not a complete submission, in sentences."""

    rows: dict[str, int]
    notes: list[str]


def submit(run: Run, model: str, out: Path) -> Submission:
    """Writes the zip file `out`; the same predictions give the same bytes.

    Raises `ValueError` for a model that the run does not have, and, naming each, for test sets that it has not or not
    wholly predicted.
    """
    tasks = stored_tasks(run.manifest())
    if model not in run.models():
        known = run.models()
        raise ValueError(
            f"run {run.path} has no predictions of '{model}'{did_you_mean(model, known)} Models: {', '.join(known)}"
        )
    found: dict[str, Predictions] = {}
    missing: list[str] = []
    for name, (task, split, _) in FILES.items():
        has_task = task in tasks and task in run.tasks_of(model)
        predictions = run.read_predictions(model, task).on(split) if has_task else None
        if predictions is None or not len(predictions.outputs):
            missing.append(f"{name} (task {task}, split {split}{'' if has_task else ': no predictions of the task'})")
        else:
            found[name] = predictions
    if missing:
        raise ValueError(
            f"model '{model}' has no predictions for {len(missing)} of {len(FILES)} files: {', '.join(missing)}. Put "
            "GLUE's test files beside train and dev (RTE/test.tsv, MNLI/test_matched.tsv, diagnostic/diagnostic.tsv, "
            f"...), then `python -m core run --out {run.path} --update --set data.keep_unlabelled=true` with all of "
            f"{', '.join(GLUE)} in data.tasks"
        )
    bodies = {name: _lines(tasks[FILES[name][0]], one, name) for name, one in found.items()}
    with atomic(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, lines in bodies.items():
            # A fixed date: the file's bytes follow from the predictions alone.
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, "\n".join(["index\tprediction", *lines]) + "\n")
    rows = {name: len(lines) for name, lines in bodies.items()}
    notes = [
        f"{name} has {n} rows, GLUE's test set has {FILES[name][2]}: the benchmark will refuse it"
        for name, n in rows.items()
        if n != FILES[name][2]
    ]
    return Submission(rows, notes)


def _lines(task: Task, predictions: Predictions, name: str) -> list[str]:
    """`index<TAB>prediction` of a test set; its index is a row's position in the test file, the number of its id."""
    index_N = np.array([int(one.rsplit("/", 1)[1]) for one in predictions.example_ids])
    order = np.argsort(index_N)
    if not np.array_equal(index_N[order], np.arange(len(order))):
        raise ValueError(
            f"{name}: the run predicted {len(order)} of at least {index_N.max() + 1} rows of the test set, expected "
            "all; set data.max_eval=null and data.empty_text=error, and run again"
        )
    if task.kind == "regression":
        low, high = task.score_range
        words = [f"{value:.3f}" for value in np.clip(predictions.outputs[order], low, high)]
    else:
        names = task.label_values or predictions.labels
        words = [names[i] for i in predictions.outputs[order].argmax(axis=1)]
    return [f"{i}\t{word}" for i, word in enumerate(words)]
