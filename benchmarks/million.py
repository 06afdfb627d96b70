"""A run directory of a million examples, to measure the dashboard on: `python -m benchmarks.million FOLDER`.

One task of three classes, pairs of texts of ten words: 1,000,000 test examples, 100,000 to train and 20,000 to
select on; three multi-task models, three teachers, their ensemble, two students of two seeds each, and what a run
stores beside (targets, the logits of three epochs, features of one student, scores). Nothing is trained: outputs are
drawn around one distribution an example, so that gold, teachers and students agree as they do in a run. It takes about
a minute and 0.5 GB of disk; delete FOLDER afterwards. benchmarks/pages and benchmarks/soak look at it through the app.

Shapes: N examples, C classes, E epochs, H hidden.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.metrics import evaluate
from core.presets import load_config
from core.stages.evaluate import SCHEMA
from core.store import SCHEMA_VERSION, Predictions, Run, write_json
from core.tasks import Task, example_schema

TASK = Task(name="nli3", labels=("entailment", "neutral", "contradiction"), text_b="text_b", has_teacher=True)
N_OF_SPLIT = {"train": 100_000, "selection": 20_000, "test": 1_000_000}
WORDS = (
    "the a some most no every guest waiter soup bread broth fish table window river kitchen loved liked tasted saw "
    "cooked found lost bought sold carried quickly never often slowly again small large cold warm old green"
)
TEXT_WORDS, EPOCHS, HIDDEN = 10, 3, 32
MEMBERS = ("1", "2", "3")
STUDENTS = tuple(f"st-{variant}-s{seed}" for variant in ("hard", "kd") for seed in (0, 1))
# Standard deviation of each model's logits around the example's own: students know less than teachers.
NOISE = {"mt": 1.3, "ft": 1.0, "st": 1.1}


def make(folder: Path, n_of_split: dict[str, int] | None = None, seed: int = 0) -> Run:
    """Writes the run to `folder`, which must not be there yet."""
    if folder.exists():
        raise ValueError(f"{folder} is there already; delete it, or give another folder")
    rng, run, sizes = np.random.default_rng(seed), Run(folder), n_of_split or N_OF_SPLIT
    split_N = np.repeat(np.array(list(sizes), object), list(sizes.values()))
    row_N = np.concatenate([np.arange(n) for n in sizes.values()])
    # What an example is: some are clear, some are not.
    true_NC = rng.normal(0, 1.5, (len(split_N), 3)).astype(np.float32)
    probs_NC = _softmax(true_NC)
    gold_N = (probs_NC.cumsum(axis=1) < rng.random((len(split_N), 1))).sum(axis=1).clip(0, 2)
    run.write_examples(TASK.name, _examples(split_N, row_N, probs_NC, gold_N, rng))
    ids_N = run.read_examples(TASK.name)["example_id"].to_numpy(zero_copy_only=False)

    rows: list[dict[str, Any]] = []
    jobs: dict[str, dict[str, Any]] = {}
    for name, outputs_NC in _outputs(true_NC, rng):
        predictions = Predictions(ids_N, split_N, outputs_NC, TASK.labels)
        run.write_predictions(name, TASK, predictions)
        stage = {"mt": "multitask", "ft": "finetune", "en": "ensemble", "st": "distill"}[name[:2]]
        jobs["ensemble" if stage == "ensemble" else name] = {
            "stage": stage,
            "status": "done",
            "key": "k",
            "seconds": 1.5,
        }
        test_N = split_N == "test"
        scores = evaluate(TASK, outputs=outputs_NC[test_N], gold_index=gold_N[test_N], resamples=1)
        known = {
            "model": name,
            "task": TASK.name,
            "split": "test",
            "seed": int(name[-1]) if stage == "distill" else None,
        }
        rows += [{**known, "metric": metric, "value": s.value, "n": s.n} for metric, s in scores.items()]
        if name == "ens-mean_probs":
            train = split_N == "train"
            taught = ids_N[train], outputs_NC[train]
            run.write_targets(TASK, *taught, members=_teachers(), in_sample=np.ones(int(train.sum()), bool))
        if stage == "distill" and name.endswith("0"):
            _write_epochs(run, name, ids_N[split_N == "train"], outputs_NC[split_N == "train"], rng)
    features_NH = np.tile(true_NC, (1, -(-HIDDEN // 3)))[:, :HIDDEN] + rng.normal(0, 1, (len(ids_N), HIDDEN))
    path = run.features_path("st-kd-s0", TASK.name)
    path.parent.mkdir(parents=True)
    np.save(path, features_NH.astype(np.float16), allow_pickle=False)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "metrics.parquet")
    recipe = {"strategy": "mean_probs", "tasks": {TASK.name: {"members": _teachers()}}}
    write_json(folder / "ensembles.json", {"ens-mean_probs": recipe})
    jobs |= {name: {"stage": name, "status": "done", "key": "k", "seconds": 1.5} for name in ("prepare", "evaluate")}
    config = load_config("demo", None, ()).model_dump(mode="json")
    manifest = {"schema_version": SCHEMA_VERSION, "created": "2026-11-25T12:00:00+00:00", "config": config}
    run.write_manifest(manifest | {"tasks": {TASK.name: asdict(TASK)}, "jobs": jobs})
    return run


def _outputs(true_NC: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Logits of every model, one at a time: together they would be 150 MB."""
    teacher_probs = []
    for name in (*(f"mt-{i}" for i in MEMBERS), *_teachers()):
        logits_NC = true_NC + rng.normal(0, NOISE[name[:2]], true_NC.shape).astype(np.float32)
        if name in _teachers():
            teacher_probs.append(_softmax(logits_NC))
        yield name, logits_NC
    mean_NC = np.log(np.mean(teacher_probs, axis=0)).astype(np.float32)
    yield "ens-mean_probs", mean_NC
    for name in STUDENTS:
        around_NC = mean_NC - mean_NC.mean(axis=1, keepdims=True) if "kd" in name else true_NC
        yield name, around_NC + rng.normal(0, NOISE["st"], true_NC.shape).astype(np.float32)


def _teachers() -> list[str]:
    return [f"ft-{i}-{TASK.name}" for i in MEMBERS]


def _write_epochs(run: Run, model: str, ids_N: np.ndarray, last_NC: np.ndarray, rng: np.random.Generator) -> None:
    epochs = [last_NC * (e + 1) / EPOCHS + rng.normal(0, 0.5, last_NC.shape) for e in range(EPOCHS)]
    run.write_dynamics(model, TASK, ids_N, np.stack(epochs).astype(np.float32))


def _examples(
    split_N: np.ndarray, row_N: np.ndarray, probs_NC: np.ndarray, gold_N: np.ndarray, rng: np.random.Generator
) -> pa.Table:
    """Every tenth row without gold, truth and annotators on a quarter of the rows each."""
    n, splits = len(split_N), pa.array(split_N, pa.string())
    number = pc.utf8_lpad(pa.array(row_N).cast(pa.string()), 7, "0")
    columns: dict[str, pa.Array] = {
        "example_id": pc.binary_join_element_wise(TASK.name, splits, number, "/"),
        "split": splits,
        "text_a": _texts(n, rng),
        "text_b": _texts(n, rng),
        "gold_label": pa.array(np.array(TASK.labels, object)[gold_N], pa.string(), mask=np.arange(n) % 10 == 9),
        "true_probs": _rows_where(probs_NC, np.arange(n) % 4 == 0),
        "human_probs": _rows_where(rng.multinomial(5, probs_NC.astype(np.float64)) / 5, np.arange(n) % 4 == 1),
        "n_humans": pa.array(np.full(n, 5), pa.int16(), mask=np.arange(n) % 4 != 1),
    }
    schema = example_schema(TASK)
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _texts(n: int, rng: np.random.Generator) -> pa.Array:
    words = pa.array(WORDS.split())
    drawn = [words.take(pa.array(rng.integers(len(words), size=n))) for _ in range(TEXT_WORDS)]
    return pc.binary_join_element_wise(*drawn, " ")


def _rows_where(values_NC: np.ndarray, keep_N: np.ndarray) -> pa.Array:
    """Lists of C numbers where `keep_N`, null elsewhere."""
    offsets = np.concatenate([[0], np.cumsum(keep_N * values_NC.shape[1])]).astype(np.int32)
    kept = pa.array(values_NC[keep_N].astype(np.float32).ravel())
    return pa.ListArray.from_arrays(pa.array(offsets), kept, mask=pa.array(~keep_N))


def _softmax(logits_NC: np.ndarray) -> np.ndarray:
    powers_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    return np.asarray(powers_NC / powers_NC.sum(axis=1, keepdims=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=N_OF_SPLIT["test"], help="examples of the test split")
    given = parser.parse_args()
    started = time.perf_counter()
    make(given.folder, N_OF_SPLIT | {"test": given.rows})
    size = sum(path.stat().st_size for path in given.folder.rglob("*") if path.is_file())
    print(f"{given.folder}: {given.rows:,} examples, {size / 1e6:,.0f} MB, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
