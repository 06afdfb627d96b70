"""The run directory: paths, schemas, the manifest and its older versions. This is the project's real API.

Every file is written whole or not at all (core/files). A job is marked done in `run.json` after all its files are in
place. No pickle: JSON, Arrow, Parquet, safetensors and `.npy`. Names that come from outside (a manifest, a command, a
link) must be plain: no path leads out of the run.

Not here: what is in the files (core/stages), which job needs which (core/plan), checksums (core/checksums).

Shapes: N examples, C classes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

from core.files import atomic, read_json, told, write_json
from core.locks import LOCK
from core.tasks import Task

SCHEMA_VERSION = 2
# What an older Darkroom wrote -> what this one reads, one step a version. Readers do it in memory; the next
# `python -m core run` writes it down.
#   1 -> 2: `checksums.sha256` came (core/checksums); a run without one records what it finds.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: lambda manifest: manifest}


class Predictions(NamedTuple):
    """Outputs of one model on one task. `outputs` are logits (N, C) with `labels`, or values (N,) for regression."""

    example_ids: np.ndarray
    splits: np.ndarray
    outputs: np.ndarray
    labels: tuple[str, ...]

    def on(self, split: str) -> Predictions:
        rows = self.splits == split
        return Predictions(self.example_ids[rows], self.splits[rows], self.outputs[rows], self.labels)


class Run:
    """An open run directory. Reading needs nothing but the files; `manifest` is `run.json` as last read or written."""

    def __init__(self, path: Path | str):
        self.path = Path(path)

    # ---- paths
    @property
    def manifest_path(self) -> Path:
        return self.path / "run.json"

    def examples_path(self, task: str) -> Path:
        return self._inside("examples", f"{task}.arrow")

    def predictions_path(self, model: str, task: str) -> Path:
        return self._inside("predictions", model, f"{task}.parquet")

    def dynamics_path(self, model: str, task: str) -> Path:
        return self._inside("dynamics", model, f"{task}.parquet")

    def targets_path(self, task: str) -> Path:
        return self._inside("targets", f"{task}.parquet")

    def features_path(self, model: str, task: str) -> Path:
        return self._inside("features", model, f"{task}.npy")

    def model_dir(self, model: str) -> Path:
        return self._inside("models", model)

    def _inside(self, *parts: str) -> Path:
        for name in parts:
            check_name(name, where=str(self.path))
        return self.path.joinpath(*parts)

    # ---- manifest
    def exists(self) -> bool:
        return self.manifest_path.exists()

    def manifest(self) -> dict[str, Any]:
        """`run.json`, in the form of this code's schema. Raises `ValueError` when there is none, when its schema is
        newer than this code's, and for names of jobs that are paths."""
        if not self.exists():
            raise ValueError(
                f"{self.path} is not a run directory: it has no run.json. Make one with "
                f"`python -m core run --preset demo --out {self.path}`"
            )
        manifest = read_json(self.manifest_path)
        if not isinstance(manifest, dict):
            raise ValueError(f"{self.manifest_path} holds a {type(manifest).__name__}, expected a run's manifest")
        version = manifest.get("schema_version")
        if not isinstance(version, int) or (version != SCHEMA_VERSION and version not in MIGRATIONS):
            raise ValueError(
                f"{self.manifest_path} has schema version {version}, this code reads {min(MIGRATIONS)} to "
                f"{SCHEMA_VERSION}; use the Darkroom version that made it ({manifest.get('versions', {}).get('core')})"
            )
        while (version := manifest["schema_version"]) != SCHEMA_VERSION:
            manifest = {**MIGRATIONS[version](manifest), "schema_version": version + 1}
        for name in manifest["jobs"] if isinstance(manifest.get("jobs"), dict) else ():
            check_name(name, where=str(self.manifest_path))  # outdated ones are removed with their folders
        return manifest

    def holds_anything(self) -> bool:
        """Is there something at the path that is no run, and not what a run killed at its very start left?"""
        if not self.path.is_dir():
            return self.path.exists()
        return any(child.name != LOCK and not child.name.endswith(".tmp") for child in self.path.iterdir())

    def remove_leftovers(self, job: str | None = None) -> None:
        """Half-written files of a killed run, or of a killed `job` alone: our own temporary names, and those of
        safetensors. Nobody is writing them now: a run directory has one writer, and a job's folder in it too."""
        folder = self.path if job is None else self.model_dir(job)
        for leftover in (*folder.rglob(".*.tmp"), *folder.rglob(".tmp*")):
            leftover.unlink(missing_ok=True)
        # A line that was cut would swallow the next one.
        log = self.path / "log.jsonl"
        if log.exists() and (text := log.read_bytes()) and not text.endswith(b"\n"):
            with open(log, "ab") as file:
                file.write(b"\n")

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        write_json(self.manifest_path, manifest)

    def log(self, event: str, **values: Any) -> None:
        """Appends one line to `log.jsonl`. One `write` call a line, so that lines of parallel jobs do not mix."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values}, default=float) + "\n"
        path = self.path / "log.jsonl"
        with told(path):
            self.path.mkdir(parents=True, exist_ok=True)
            with open(path, "ab", buffering=0) as file:
                file.write(line.encode())

    # ---- examples
    def write_examples(self, task: str, table: pa.Table) -> None:
        with (
            atomic(self.examples_path(task)) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, table.schema) as writer,
        ):
            writer.write_table(table)

    def read_examples(self, task: str) -> pa.Table:
        """The examples of `task`, memory-mapped: columns are read when they are touched."""
        path = self.examples_path(task)
        if not path.exists():
            raise ValueError(
                f"{path} does not exist; run stage 'prepare' first: `python -m core run --out {self.path}`"
            )
        with undamaged(path), pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all()

    # ---- predictions
    def write_predictions(self, model: str, task: Task, predictions: Predictions) -> None:
        """Logits as fixed-size lists (for regression: `value`), label names and model in the schema's metadata."""
        columns: dict[str, pa.Array] = {
            "example_id": pa.array(predictions.example_ids, pa.string()),
            "split": pa.array(predictions.splits, pa.string()).dictionary_encode(),
        }
        if task.kind == "regression":
            columns["value"] = pa.array(predictions.outputs, pa.float32())
        else:
            columns["logits"] = _rows_to_lists(predictions.outputs)
        metadata = {"model": model, "task": task.name, "label_names": json.dumps(list(predictions.labels))}
        table = pa.table(columns).replace_schema_metadata(metadata)
        with atomic(self.predictions_path(model, task.name)) as temporary:
            pq.write_table(table, temporary)

    def read_predictions(self, model: str, task: str) -> Predictions:
        path = self.predictions_path(model, task)
        if not path.exists():
            raise ValueError(f"{path} does not exist: model '{model}' has no predictions on '{task}' in this run")
        with undamaged(path):
            table = pq.read_table(path)
            labels = tuple(json.loads(table.schema.metadata[b"label_names"]))
            outputs = table["value"].to_numpy() if "value" in table.column_names else lists_to_rows(table["logits"])
            return Predictions(
                table["example_id"].to_numpy(zero_copy_only=False),
                table["split"].to_numpy(zero_copy_only=False),
                outputs,
                labels,
            )

    def models(self) -> list[str]:
        """Names of all models with predictions, sorted."""
        folder = self.path / "predictions"
        return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.exists() else []

    def tasks_of(self, model: str) -> list[str]:
        folder = self.path / "predictions" / model
        return sorted(p.stem for p in folder.glob("*.parquet")) if folder.exists() else []

    # ---- dynamics
    def write_dynamics(self, model: str, task: Task, example_ids: np.ndarray, outputs_ENC: np.ndarray) -> None:
        """Training logits of every epoch: rows of (example_id, epoch, logits | value), E x N of them where an epoch
        sees every example once. Leaves out an example in an epoch that did not see it (NaN); of an example that is
        there more than once (bagging), an epoch keeps the first."""
        # An example's repeats share the number of its first row.
        first: dict[str, int] = {}
        first_row = np.array([first.setdefault(name, i) for i, name in enumerate(example_ids)], np.int64)
        kept = []
        for outputs_NC in outputs_ENC:
            seen = np.flatnonzero(~np.isnan(outputs_NC).all(axis=1))
            kept.append(seen[np.unique(first_row[seen], return_index=True)[1]])
        flat = np.concatenate([outputs_NC[rows] for outputs_NC, rows in zip(outputs_ENC, kept, strict=True)])
        columns: dict[str, pa.Array] = {
            "example_id": pa.array(example_ids[np.concatenate(kept)], pa.string()),
            "epoch": pa.array(np.repeat(np.arange(len(kept), dtype=np.int16), [len(rows) for rows in kept])),
        }
        if task.kind == "regression":
            columns["value"] = pa.array(flat[:, 0], pa.float32())
        else:
            columns["logits"] = _rows_to_lists(flat)
        metadata = {"model": model, "task": task.name, "label_names": json.dumps(list(task.labels))}
        with atomic(self.dynamics_path(model, task.name)) as temporary:
            pq.write_table(pa.table(columns).replace_schema_metadata(metadata), temporary)

    # ---- targets
    def write_targets(
        self,
        task: Task,
        example_ids: np.ndarray,
        outputs: np.ndarray,
        *,
        members: list[str],
        in_sample: np.ndarray,
    ) -> None:
        """What a student is taught on `task`: logits (N, C), for regression mean and spread of the teachers (N, 2).
        `in_sample`: was the example in its teachers' training set? Null: nobody knows."""
        n = len(example_ids)
        taught = (
            {"value": pa.array(outputs[:, 0], pa.float32()), "std": pa.array(outputs[:, 1], pa.float32())}
            if task.kind == "regression"
            else {"logits": _rows_to_lists(outputs)}
        )
        # Dictionary encoding keeps the constant columns at a few bytes, in memory and on disk.
        columns = {
            "example_id": pa.array(example_ids, pa.string()),
            **taught,
            "members": _constant_list(members, n),
            "in_sample": pa.array(in_sample, pa.bool_()),
            "label_names": _constant_list(list(task.labels), n),
        }
        with atomic(self.targets_path(task.name)) as temporary:
            pq.write_table(pa.table(columns), temporary)

    def read_targets(self, task: Task, example_ids: np.ndarray, *, partial: bool = False) -> np.ndarray:
        """Target logits (N, C), or mean and spread (N, 2), in the order of `example_ids`, joined by id. Raises
        `ValueError` when an id has no target (`partial`: its row is NaN), or when the file's label names are not the
        task's: a mix-up of names would teach another task."""
        path = self.targets_path(task.name)
        if not path.exists():
            raise ValueError(f"{path} does not exist; run stage 'ensemble' first")
        with undamaged(path):
            table = pq.read_table(path)
            names = tuple(table["label_names"][0].as_py()) if len(table) else task.labels
        if names != task.labels:
            raise ValueError(f"{path} has the labels {names}, task '{task.name}' has {task.labels}; redo 'ensemble'")
        have = table["example_id"].to_numpy(zero_copy_only=False)
        has_N = np.isin(example_ids, have) if partial else np.ones(len(example_ids), bool)
        rows = rows_of_ids(have, example_ids[has_N], what=str(path))
        if task.kind == "regression":
            known = np.stack([table["value"].to_numpy(), table["std"].to_numpy()], axis=1)[rows]
        else:
            known = lists_to_rows(table["logits"])[rows]
        targets = np.full((len(example_ids), known.shape[1]), np.nan, np.float32)
        targets[has_N] = known
        return targets


@contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """What a library says of a file that it cannot read becomes a `ValueError` with file and remedy."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, EOFError, SafetensorError) as error:
        first_line = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path} is damaged and cannot be read ({first_line}). Restore it from a copy, or delete it: the next "
            "`python -m core run` on this run makes it again"
        ) from error


def check_name(name: str, *, where: str) -> None:
    """Raises `ValueError` for a model's or task's name that would lead out of its folder."""
    if not name or name.startswith(".") or any(character in name for character in "/\\\0"):
        raise ValueError(f"{where}: {name!r} is not the name of a model or task, expected a name and not a path")


def rows_of_ids(have: np.ndarray, want: np.ndarray, *, what: str) -> np.ndarray:
    """Positions of `want` in `have`. Raises `ValueError` with the count and the first of the ids that are missing."""
    order = np.argsort(have)
    position = np.searchsorted(have[order], want)
    position = np.minimum(position, len(have) - 1) if len(have) else np.zeros(len(want), np.int64)
    rows = order[position] if len(have) else position
    missing = have[rows] != want if len(have) else np.ones(len(want), bool)
    if missing.any():
        raise ValueError(
            f"{what} has {len(have)} rows, {len(want)} are asked for; {int(missing.sum())} ids unknown, first: "
            f"'{want[missing][0]}'. Re-run the stage that writes it"
        )
    return rows


def files_of_teacher(where: str, tasks: Sequence[str]) -> list[Path]:
    """Examples and predictions of `where`, RUN/MODEL, on `tasks`. Raises `ValueError` when one of them is missing."""
    run, _, model = where.rpartition("/")
    files = [path for task in tasks for path in (Run(run).examples_path(task), Run(run).predictions_path(model, task))]
    if absent := [file for file in files if not file.exists()]:
        raise ValueError(
            f"there is no {absent[0]}: finetune.imported has '{where}', expected RUN/MODEL with predictions on "
            f"{', '.join(tasks)}; `python -m core import-predictions` makes one"
        )
    return files


def lists_to_rows(column: pa.ChunkedArray) -> np.ndarray:
    """A column of equally long lists as an array (N, C); a null list becomes a row of NaN."""
    lists = column.combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.chunk(0) if lists.num_chunks else pa.array([], column.type)
    n = len(lists)
    valid = np.asarray(lists.is_valid())
    values = lists.flatten().to_numpy(zero_copy_only=False)
    n_valid = int(valid.sum())
    width = len(values) // n_valid if n_valid else 0
    if n_valid == n:
        return values.reshape(n, width)
    rows = np.full((n, width), np.nan, np.float32)
    rows[valid] = values.reshape(n_valid, width)
    return rows


def _rows_to_lists(rows_NC: np.ndarray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(rows_NC, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, rows_NC.shape[1])


def _constant_list(values: list[str], n: int) -> pa.Array:
    if not values:  # a regression has no labels
        return pa.array([[]] * n, pa.list_(pa.string()))
    flat = pa.DictionaryArray.from_arrays(np.tile(np.arange(len(values), dtype=np.int16), n), values)
    return pa.FixedSizeListArray.from_arrays(flat, len(values))
