"""Columns of Arrow and parquet files as numpy, for core/views/table: outputs of one model on one split, joined by id.

Not through `Run.read_predictions`: that makes Python strings of a million ids and splits for every model, 30 times the
memory of the numbers. Ids are compared as Arrow columns, which takes milliseconds where files have one order, as ours
do; otherwise rows are joined by hash.

Shapes: N examples, C classes, M members.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.calibration import FloatArray, IntArray
from core.store import Run, lists_to_rows, rows_of_ids
from core.tasks import Task

Float32 = npt.NDArray[np.float32]

# Temporaries in float64 are made for so many examples at a time: 65,536 x 8 members x 3 classes are 13 MB.
CHUNK_ROWS = 65_536


def chunks(n: int, rows: int = CHUNK_ROWS) -> list[slice]:
    """Slices that together are 0..n."""
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


def log_probs_CN(logits_NC: npt.ArrayLike) -> FloatArray:
    """log softmax in float64, classes first: numpy reduces a short last axis some ten times slower than a first one."""
    log_CN = np.ascontiguousarray(np.asarray(logits_NC).T, np.float64)
    log_CN = log_CN - log_CN.max(axis=0)
    log_CN -= np.log(np.exp(log_CN).sum(axis=0))
    return log_CN


def log_mean(log_p_MCN: np.ndarray) -> FloatArray:
    """log (1/M sum_m p_m): (M, ...) -> (...). Finite where every member's probability underflows."""
    top = log_p_MCN.max(axis=0)
    return np.asarray(top + np.log(np.exp(log_p_MCN - top).mean(axis=0)))


def read_outputs(run: Run, model: str, task: Task, *, split: str, ids: pa.Array) -> Float32:
    """Logits (N, C), for regression values (N,), of the rows `ids` in their order.

    Raises `ValueError` for a missing or damaged file, ids without a row, other label names than the task's, and numbers
    that are not finite (with the id)."""
    path = run.predictions_path(model, task.name)
    if not path.exists():
        raise ValueError(
            f"{path} does not exist: model '{model}' has no predictions on '{task.name}'; go on with "
            f"`python -m core run --out {run.path}`"
        )
    table = read_parquet(path)
    expected = {"example_id", "split", "value" if task.kind == "regression" else "logits"}
    if missing := sorted(expected - set(table.column_names)):
        raise ValueError(f"{path} has no column '{missing[0]}', which task '{task.name}' of kind '{task.kind}' needs")
    if task.kind != "regression":
        check_labels(table, task, what=str(path))
    in_split = pc.equal(table["split"], split)
    if not pc.all(in_split).as_py():
        table = table.filter(in_split)
    have = whole(table["example_id"])
    outputs = table["value"].to_numpy() if task.kind == "regression" else lists_to_rows(table["logits"])
    if task.kind != "regression" and outputs.shape[1:] != (task.n_outputs,):
        raise ValueError(f"{path} has rows of {outputs.shape[1]} logits, task '{task.name}' {task.n_outputs} labels")
    if not have.equals(ids):
        outputs = outputs[positions(have, ids, what=str(path))]
    finite = np.isfinite(outputs) if task.kind == "regression" else np.isfinite(outputs).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"model '{model}', task '{task.name}': the output of example '{ids[int(finite.argmin())]}' is not finite "
            f"({int((~finite).sum())} such rows); its training diverged, train it again"
        )
    return np.ascontiguousarray(outputs, np.float32)


def check_labels(table: pa.Table, task: Task, *, what: str) -> None:
    """Raises `ValueError` where the label names that travel with the logits are not the task's, in its order."""
    names = json.loads((table.schema.metadata or {}).get(b"label_names", b"[]"))
    if names != list(task.labels):
        raise ValueError(
            f"{what} has the labels {names}, task '{task.name}' has {list(task.labels)}; predict again with one task "
            "table, or permute the columns of the file"
        )


def splits_of_file(run: Run, model: str, task: Task) -> frozenset[str]:
    """The splits on which `model` has outputs; none without a file."""
    path = run.predictions_path(model, task.name)
    return frozenset(pc.unique(read_parquet(path, ["split"])["split"]).to_pylist()) if path.exists() else frozenset()


def whole(column: pa.ChunkedArray) -> pa.Array:
    """One array; without a copy where there is one chunk, so that ids stay in the mapped file."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def positions(have: pa.Array, want: pa.Array, *, what: str) -> IntArray:
    """Positions of `want` in `have`, as `core.store.rows_of_ids`, whose message stands for a missing id."""
    found = pc.index_in(want, have)
    if found.null_count:
        return rows_of_ids(have.to_numpy(zero_copy_only=False), want.to_numpy(zero_copy_only=False), what=what)
    return np.asarray(found.to_numpy()).astype(np.int64)


def text_hits(column: pa.ChunkedArray, text: str) -> npt.NDArray[np.bool_]:
    """(N,): does the text, or one of a list of texts, hold `text`? Without regard to case; null holds nothing."""
    if not pa.types.is_list(column.type):
        return np.asarray(pc.fill_null(pc.match_substring(column, text, ignore_case=True), False)).astype(bool)
    found_N = np.zeros(len(column), bool)
    lists = whole(column)
    hits = pc.fill_null(pc.match_substring(pc.list_flatten(lists), text, ignore_case=True), False)
    found_N[np.asarray(pc.list_parent_indices(lists))[np.asarray(hits)]] = True
    return found_N


def or_none(values_N: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    return values_N if np.isfinite(values_N).any() else None


def read_parquet(path: Path, names: list[str] | None = None) -> pa.Table:
    """A `split` column stays a dictionary. Raises `ValueError` for a file that is no parquet."""
    try:
        return pq.read_table(path, columns=names, read_dictionary=["split"])
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable parquet file ({error}); re-run the stage that writes it") from error
