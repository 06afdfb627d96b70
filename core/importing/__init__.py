"""Predictions from elsewhere -> a run directory that the views and the dashboard open: `import-predictions`.

Examples come from files in the task's own layout, outputs from a parquet, CSV, TSV or JSON lines file with an id column
(`--key`) and a column a label, found by its name and never by its position. Everything is checked and joined before the
first file is written; the manifest comes last. Several teachers also give `ens-mean_probs`, so that views have one
teacher's voice.

Deliberately absent: regression, whose outputs have no label to be named by, and a config, as nothing was trained here.

Suffixes: N examples, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.optimize import linear_sum_assignment

from core.calibration import FloatArray
from core.checksums import everything, write_sums
from core.ensemble import combine
from core.importing.files import Examples, Outputs, examples_of, joined, outputs_of, with_humans
from core.locks import locked
from core.stages.context import read_gold, score_outputs
from core.stages.evaluate import SCHEMA
from core.store import SCHEMA_VERSION, Predictions, Run, atomic, rows_of_ids
from core.tasks import SPLITS, Task, did_you_mean, find_task
from core.views.catalogue import tasks_of_run
from core.views.roles import Role, stated_roles

KEYS = {"snli": "pairID", "mnli": "pairID"}  # other tasks: --key, or the project's own ids, task/split/row
ENSEMBLE = "ens-mean_probs"
SWAPPED = (50, 0.7)  # rows, accuracy: a worse-than-chance model that another order of labels lifts above this


def import_predictions(
    run: Run,
    task: str,
    *,
    examples: Sequence[str],
    models: Sequence[str],
    roles: Sequence[str] = (),
    humans: Path | None = None,
    key: str | None = None,
    probs: bool = False,
    partial: bool = False,
) -> dict[str, Any]:
    """Makes `run`, or adds to it, and returns what was done, the entry of `imports` in its `run.json`.

    `examples`: FILE or SPLIT=FILE. `models`: NAME=FILE or NAME=FILE@COLUMN=VALUE (the rows of one seed, say); a name
    may come again with the file of another split. `roles`: NAME=ROLE, default teacher. `humans`: JSON lines of `uid`
    and `label_counter`. Every model must have every example, and no other; `partial` keeps what all have.

    Raises `ValueError` with what, got, expected and remedy; nothing is written then.
    """
    row = find_task(task)
    if row.kind == "regression":
        raise ValueError(f"task '{task}' is a regression, expected labels: import-predictions reads a column a label")
    key = key or KEYS.get(task, "example_id")
    _refuse_foreign(run)
    with locked(run.path):
        return _import(run, row, examples, models, roles, humans, key, probs=probs, partial=partial)


def _import(
    run: Run,
    row: Task,
    examples: Sequence[str],
    models: Sequence[str],
    roles: Sequence[str],
    humans: Path | None,
    key: str,
    *,
    probs: bool,
    partial: bool,
) -> dict[str, Any]:
    task = row.name
    manifest = _opened(run, row)
    files = [_named(text, "--model", "NAME=FILE") for text in models]
    names = list(dict.fromkeys(name for name, _ in files))
    kinds = _roles(run, manifest, names, [_named(text, "--role", "NAME=ROLE") for text in roles])
    sources: dict[str, str] = {}

    known = examples_of(row, examples, key, sources)
    given = {name: joined([outputs_of(row, f, key, probs, sources) for n, f in files if n == name]) for name in names}
    has_task = run.examples_path(task).exists() and task in manifest["tasks"]
    table, keys = _base(run, row, known) if has_task else (known.table, known.keys)
    kept_N, left_out = _matched(given, keys, known, key, partial=partial)
    table = table.filter(pa.array(kept_N))
    keys = [name for name, keep in zip(keys, kept_N.tolist(), strict=True) if keep]
    ids_N = table["example_id"].to_numpy(zero_copy_only=False)

    outputs: dict[str, FloatArray] = {}
    for name in manifest["models"] if has_task else ():
        if task in run.tasks_of(name) and name != ENSEMBLE:
            old = run.read_predictions(name, task)
            outputs[name] = old.outputs[rows_of_ids(old.example_ids, ids_N, what=name)].astype(np.float64)
    for name, (have, logits_NC) in given.items():
        place = {one: i for i, one in enumerate(have)}
        outputs[name] = logits_NC[[place[one] for one in keys]]
        _check_order(row, name, outputs[name], table)
    teachers = [name for name in outputs if kinds[name].kind == "teacher"]
    others = [name for name, role in kinds.items() if role.kind == "ensemble" and name != ENSEMBLE]
    texts = {**manifest["models"], **{name: _text(kinds[name]) for name in names}}
    if len(teachers) > 1 and not others:
        members = [outputs[name] for name in teachers]
        outputs[ENSEMBLE] = combine("mean_probs", members, label_names_per_member=[row.labels] * len(members))
        texts[ENSEMBLE] = "ensemble"
    table, of_humans = with_humans(row, table, keys, humans, sources) if humans else (table, None)

    all_roles = stated_roles(texts, where=str(run.manifest_path))
    # Examples first: should this stop half way, older predictions are a superset of them and stay readable.
    run.write_examples(task, table)
    splits_N = table["split"].to_numpy(zero_copy_only=False)
    predictions = {
        name: Predictions(ids_N, splits_N, logits.astype(np.float32), row.labels) for name, logits in outputs.items()
    }
    for name, prediction in predictions.items():
        run.write_predictions(name, row, prediction)
    accuracy = _write_metrics(run, row, table, predictions, all_roles)
    about = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": task,
        "key": key,
        "models": {name: [file for n, file in files if n == name] for name in names},
        "rows": dict(Counter(splits_N.tolist())),
        "no_gold": len(known.no_gold),
        "left_out": left_out,
        "humans": of_humans,
        "sources": sources,
    }
    manifest["tasks"][task] = asdict(row)
    write_sums(run, everything(run))
    run.write_manifest({**manifest, "models": texts, "imports": [*manifest["imports"], about]})
    run.log("imported", task=task, models=names)
    return {**about, "accuracy": accuracy}


# ---- arguments ------------------------------------------------------------------------------------------------------
def _named(text: str, option: str, form: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (sign and name and value):
        raise ValueError(f"{option} is {text!r}, expected {form}, for example bert-a=logits.parquet or bert-a=teacher")
    return name, value


def _refuse_foreign(run: Run) -> None:
    if not run.exists() and run.holds_anything():
        raise ValueError(f"{run.path} exists and is no run directory, expected a new or imported one; change --out")


def _opened(run: Run, task: Task) -> dict[str, Any]:
    """The manifest to add to, or a new one."""
    if not run.exists():
        created = datetime.now(UTC).isoformat(timespec="seconds")
        new: dict[str, Any] = {"tasks": {}, "models": {}, "imports": []}
        return {"schema_version": SCHEMA_VERSION, "imported": True, "created": created, **new}
    manifest = {"models": {}, "imports": [], **run.manifest()}
    if not manifest.get("imported"):
        raise ValueError(
            f"{run.path} is a run that was trained here, expected an imported or a new one: its models would mix with "
            "those of its stages; give another folder to --out"
        )
    stored = tasks_of_run(run)
    if task.name in stored and stored[task.name] != task:
        raise ValueError(
            f"{run.path} has another row for task '{task.name}' than this code; give a new folder to --out"
        )
    return manifest


def _roles(run: Run, manifest: dict[str, Any], names: list[str], given: list[tuple[str, str]]) -> dict[str, Role]:
    asked = dict(given)
    if strange := [name for name in asked if name not in names]:
        hint = did_you_mean(strange[0], names)
        raise ValueError(f"--role names '{strange[0]}', which no --model has{hint} Models: {', '.join(names)}")
    for name in names:
        if name == ENSEMBLE:
            raise ValueError(f"--model '{ENSEMBLE}' is what this command makes of several teachers; rename the model")
        if name in manifest["models"]:
            raise ValueError(f"{run.path} has a model '{name}' already; choose another name, or a new folder for --out")
    texts = {**manifest["models"], **{name: asked.get(name, "teacher") for name in names}}
    return stated_roles(texts, where="--role")


def _text(role: Role) -> str:
    return f"student:{role.variant}:{role.seed}" if role.kind == "student" else role.kind


# ---- joining --------------------------------------------------------------------------------------------------------
def _base(run: Run, task: Task, known: Examples) -> tuple[pa.Table, list[str]]:
    """The run's own examples, with keys from the files: those must hold them."""
    table = run.read_examples(task.name)
    place = {one: i for i, one in enumerate(known.table["example_id"].to_pylist())}
    rows = [place.get(one, -1) for one in table["example_id"].to_pylist()]
    if -1 in rows or not known.table["text_a"].take(pa.array(rows)).equals(table["text_a"]):
        raise ValueError(
            f"{run.path} has other examples of '{task.name}' than --examples: give the files that it was made from "
            "(run.json, 'imports'), or a new folder to --out"
        )
    return table, [known.keys[i] for i in rows]


def _matched(
    given: dict[str, Outputs], keys: list[str], known: Examples, key: str, *, partial: bool
) -> tuple[np.ndarray, dict[str, Any]]:
    """Which examples stay, and how many each model has too many or too few. Rows without gold may be predicted."""
    every = {*known.keys, *known.no_gold}
    kept_N, left_out = np.ones(len(keys), bool), {}
    for name, outputs in given.items():
        have = set(outputs.keys)
        unknown = [one for one in outputs.keys if one not in every]
        missing = [one for one in keys if one not in have]
        for ids, what in ((unknown, "are not among the examples"), (missing, "of the examples have no prediction")):
            if ids and not partial:
                raise ValueError(
                    f"model '{name}': {len(ids)} ids ({key}) {what}, first: '{ids[0]}'; got {len(have)} predictions, "
                    f"expected the {len(keys)} examples; correct the files, or keep what both have with --partial"
                )
        kept_N &= np.array([one in have for one in keys], bool)
        left_out[name] = {"unknown": len(unknown), "missing": len(missing)}
    if not kept_N.any():
        raise ValueError(
            f"no example has a prediction of every model; check that column '{key}' is the same everywhere"
        )
    return kept_N, {"examples": int((~kept_N).sum()), **left_out} if partial else {"examples": 0}


def _check_order(task: Task, name: str, logits_NC: FloatArray, table: pa.Table) -> None:
    """Swapped columns have no other symptom than an accuracy below chance."""
    index = {label: i for i, label in enumerate(task.labels)}
    gold_N = np.array([index.get(label, -1) for label in table["gold_label"].to_pylist()])
    said_N, gold_N = logits_NC.argmax(axis=1)[gold_N >= 0], gold_N[gold_N >= 0]
    if len(gold_N) < SWAPPED[0]:
        return
    counts_CC = np.zeros((task.n_outputs, task.n_outputs))
    np.add.at(counts_CC, (said_N, gold_N), 1)
    columns, best = linear_sum_assignment(counts_CC, maximize=True)
    own, other = np.trace(counts_CC) / len(gold_N), counts_CC[columns, best].sum() / len(gold_N)
    if own < 1 / task.n_outputs and other > SWAPPED[1]:
        order = ", ".join(f"{task.labels[i]} -> {task.labels[j]}" for i, j in zip(columns, best, strict=True) if i != j)
        raise ValueError(
            f"model '{name}' has an accuracy of {own:.3f}, and {other:.3f} with its columns renamed {order}: the label "
            "names are in another order than its outputs; rename the columns of its file"
        )


def _write_metrics(
    run: Run, task: Task, table: pa.Table, predictions: dict[str, Predictions], roles: dict[str, Role]
) -> dict[str, float]:
    """`metrics.parquet` as stage 'evaluate' writes it; rows of other tasks stay. Returns accuracies by model."""
    path = run.path / "metrics.parquet"
    rows = [row for row in pq.read_table(path).to_pylist() if row["task"] != task.name] if path.exists() else []
    accuracy: dict[str, float] = {}
    for split in (one for one in SPLITS if one in set(table["split"].to_pylist())):
        gold = read_gold(table, task, split)
        if not gold.is_labelled:
            continue
        for name, prediction in predictions.items():
            scores = score_outputs(task, gold, prediction, resamples=1000, seed=0, what=name)
            for metric, score in scores.items():
                row = {"model": name, "task": task.name, "split": split, "metric": metric, "seed": roles[name].seed}
                rows.append({**row, **score._asdict()})
            accuracy[name] = scores["accuracy"].value
    with atomic(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary)
    return accuracy
