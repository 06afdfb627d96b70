"""The run that the tests of core/views share, written in milliseconds with core/store alone: no training, no torch.

Three tasks: `tri` (three classes, pairs, truth and annotators on some rows), `two` (two classes) and `score` (a
regression). Splits lie mixed in the files, and every model's file has its rows in another order, so that nothing is
right by position. Outputs are random; the toy knows them (`Toy.logits`), and tests recompute from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.presets import load_config
from core.stages.evaluate import SCHEMA
from core.store import SCHEMA_VERSION, Predictions, Run, write_json
from core.tasks import Task, example_id, example_schema
from core.views.catalogue import models_of_run
from core.views.table import TaskTable, load_table

TRI = Task(name="tri", labels=("yes", "maybe", "no"), text_b="text_b", has_teacher=True)
TWO = Task(name="two", labels=("bad", "good"), has_teacher=True)
SCORE = Task(name="score", kind="regression", head="similarity", metrics=("pearson",), has_teacher=True)
TASKS = {task.name: task for task in (TRI, TWO, SCORE)}
N_OF_SPLIT = {"train": 30, "selection": 40, "test": 120}


class Toy(NamedTuple):
    """`logits[task][model]` are the outputs of all rows, in the order of `ids[task]`, the examples file's."""

    run: Run
    ids: dict[str, np.ndarray]
    splits: dict[str, np.ndarray]
    gold: dict[str, np.ndarray]
    logits: dict[str, dict[str, np.ndarray]]
    truth: dict[str, np.ndarray]

    def on(self, task: str, split: str = "test") -> np.ndarray:
        return np.flatnonzero(self.splits[task] == split)


def model_names(task: str, members: int, seeds: int, variants: Sequence[str]) -> list[str]:
    teachers = [f"ft-{m}-{task}" for m in range(1, members + 1)]
    students = [f"st-{variant}-s{seed}" for variant in variants for seed in range(seeds)]
    return [*(f"mt-{m}" for m in range(1, members + 1)), *teachers, *students]


def write_toy(
    path: Path,
    *,
    members: int = 3,
    seeds: int = 2,
    variants: Sequence[str] = ("hard", "kd"),
    ensemble: bool = True,
    known: bool = True,
    gold: bool = True,
    tasks: Sequence[str] = tuple(TASKS),
    n: dict[str, int] | None = None,
    scale: float = 1.0,
    seed: int = 0,
) -> Toy:
    """Writes the toy to `path`. `known`: with truth and annotators. `ensemble`: is there one, and its targets?"""
    rng, run = np.random.default_rng(seed), Run(path)
    toy = Toy(run, {}, {}, {}, {}, {})
    sizes = n or N_OF_SPLIT
    names: dict[str, None] = {}
    for name in tasks:
        task = TASKS[name]
        splits = rng.permutation(np.repeat(np.array(list(sizes), object), list(sizes.values())))
        ids = np.array([example_id(name, str(split), i) for i, split in enumerate(splits)], object)
        toy.ids[name], toy.splits[name] = ids, splits
        run.write_examples(name, _examples(toy, task, rng, known=known, gold=gold))
        toy.logits[name] = {}
        width = () if task.kind == "regression" else (task.n_outputs,)
        for model in model_names(name, members, seeds, variants):
            outputs = (scale * rng.normal(size=(len(ids), *width))).astype(np.float32)
            _write(toy, task, model, outputs, rng.permutation(len(ids)))
            names[model] = None
        if ensemble:
            outputs = [toy.logits[name][f"ft-{m}-{name}"] for m in range(1, members + 1)]
            mean = np.mean(outputs, axis=0) if task.kind == "regression" else log_mean(outputs)
            _write(toy, task, "ens-mean_probs", mean.astype(np.float32), rng.permutation(len(ids)))
    jobs = {model: {"stage": stage_of(model), "status": "done", "key": "k", "seconds": 1.5} for model in names}
    if ensemble:
        jobs["ensemble"] = {"stage": "ensemble", "status": "done", "key": "k", "seconds": 0.5}
        recipes = {name: {"members": [f"ft-{m}-{name}" for m in range(1, members + 1)]} for name in tasks}
        write_json(path / "ensembles.json", {"ens-mean_probs": {"strategy": "mean_probs", "tasks": recipes}})
    config = load_config("smoke", None, ()).model_dump(mode="json")
    manifest = {"schema_version": SCHEMA_VERSION, "created": "2026-11-24T12:00:00+00:00", "config": config}
    manifest |= {"tasks": {name: asdict(TASKS[name]) for name in tasks}, "jobs": jobs}
    run.write_manifest(manifest)
    return toy


def stage_of(model: str) -> str:
    return {"mt": "multitask", "ft": "finetune", "st": "distill"}[model[:2]]


def table_of(toy: Toy, task: str = "tri", split: str = "test") -> TaskTable:
    return load_table(toy.run, task, split)


def write_metrics(run: Run, rows: Sequence[dict[str, Any]]) -> None:
    """Rows of `metrics.parquet`, and the job that says that they are of this config."""
    pq.write_table(pa.Table.from_pylist([*rows], SCHEMA), run.path / "metrics.parquet")
    manifest = run.manifest()
    manifest["jobs"]["evaluate"] = {"stage": "evaluate", "status": "done", "key": "k", "seconds": 0.1}
    run.write_manifest(manifest)


def softmax(logits: np.ndarray) -> np.ndarray:
    """The naive one, in float64: the reference of all tests here."""
    powers = np.exp(np.asarray(logits, np.float64))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def log_mean(logits: Sequence[np.ndarray]) -> np.ndarray:
    return np.asarray(np.log(np.mean([softmax(of_member) for of_member in logits], axis=0)))


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """Of two distributions (C,), class by class."""
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


def entropy(p: np.ndarray) -> float:
    return -float(sum(a * np.log(a) for a in p if a > 0))


def _write(toy: Toy, task: Task, model: str, outputs: np.ndarray, order: np.ndarray) -> None:
    toy.logits[task.name][model] = outputs
    labels = () if task.kind == "regression" else task.labels
    rows = Predictions(toy.ids[task.name][order], toy.splits[task.name][order], outputs[order], labels)
    toy.run.write_predictions(model, task, rows)


def _examples(toy: Toy, task: Task, rng: np.random.Generator, *, known: bool, gold: bool) -> pa.Table:
    ids, n = toy.ids[task.name], len(toy.ids[task.name])
    columns: dict[str, Any] = {"example_id": ids, "split": toy.splits[task.name]}
    columns["text_a"] = [f"the {'Soup' if i % 3 else 'bread'} number {i}" for i in range(n)]
    if task.text_b:
        columns["text_b"] = [f"a reply to {i}" for i in range(n)]
    is_known = np.arange(n) % 4 != 0 if known else np.zeros(n, bool)  # a quarter of the rows is unknown
    is_labelled = np.arange(n) % 10 != 9 if gold else np.zeros(n, bool)
    if task.kind == "regression":
        value = rng.uniform(0, 5, n).astype(np.float32)
        toy.gold[task.name] = np.where(is_labelled, value, np.nan)
        toy.truth[task.name] = np.where(is_known, value + 0.5, np.nan)
        columns["gold_value"] = pa.array(value, mask=~is_labelled)
        columns["true_mean"] = pa.array((value + 0.5).astype(np.float32), mask=~is_known)
        columns["true_std"] = pa.array(np.ones(n, np.float32), mask=~is_known)
        columns["human_mean"] = pa.nulls(n, pa.float32())
    else:
        gold_N = np.where(is_labelled, rng.integers(0, task.n_outputs, n), -1)
        probs = rng.dirichlet(np.ones(task.n_outputs), n)
        toy.gold[task.name] = gold_N
        toy.truth[task.name] = np.where(is_known[:, None], probs, np.nan)
        columns["gold_label"] = [task.labels[i] if i >= 0 else None for i in gold_N]
        columns["true_probs"] = [row.tolist() if ok else None for row, ok in zip(probs, is_known, strict=True)]
        columns["human_probs"] = columns["true_probs"]
    columns["n_humans"] = pa.nulls(n, pa.int16())
    schema = example_schema(task)
    return pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names}, schema=schema)


# ---- the toy is what it says ---------------------------------------------------------------------------------------
def test_the_toy_is_mixed(tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "toy")
    rows = toy.on("tri")
    assert len(rows) == 120
    assert rows[-1] - rows[0] + 1 > len(rows)  # not a slice of the file
    stored = toy.run.read_predictions("st-kd-s0", "tri").example_ids
    assert (stored != toy.ids["tri"]).any()
    assert sorted(stored) == sorted(toy.ids["tri"])
    assert len(models_of_run(toy.run).roles) == 3 + 9 + 4 + 1
    assert replace(TRI, name="x") != TRI
