"""What `core.metrics.evaluate` accepts: shapes, finite outputs, gold that is an index of the labels, distributions.

Every check names what was given, what was expected and how to get it.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from core.calibration import FloatArray, IntArray
from core.tasks import Task


def checked_outputs(task: Task, outputs: npt.ArrayLike) -> FloatArray:
    got = np.asarray(outputs, dtype=np.float64)
    fits = got.ndim == 1 if task.kind == "regression" else got.ndim == 2 and got.shape[1] == task.n_outputs
    if not fits:
        expected = "(N,)" if task.kind == "regression" else f"(N, {task.n_outputs})"
        raise ValueError(f"task '{task.name}': outputs have shape {got.shape}, expected {expected}")
    if not np.isfinite(got).all():
        row = int(np.argwhere(~np.isfinite(got))[0][0])
        raise ValueError(f"task '{task.name}': outputs of row {row} are not finite; the model diverged, train it again")
    return got


def checked_rows(task: Task, name: str, rows: npt.ArrayLike, *, shape: tuple[int, ...]) -> FloatArray:
    got = np.asarray(rows, dtype=np.float64)
    if got.shape != shape:
        raise ValueError(
            f"task '{task.name}': {name} has shape {got.shape}, outputs {shape}, expected the same; join by example_id"
        )
    return got


def checked_gold(task: Task, gold_index: npt.ArrayLike, *, n: int) -> IntArray:
    gold_N = np.asarray(gold_index)
    if gold_N.shape != (n,) or not np.issubdtype(gold_N.dtype, np.integer):
        got = f"shape {gold_N.shape} and dtype {gold_N.dtype}"
        raise ValueError(f"task '{task.name}': gold_index has {got}, expected ({n},) integers; join by example_id")
    if n and not (gold_N.min() >= -1 and gold_N.max() < task.n_outputs):
        raise ValueError(
            f"task '{task.name}': gold_index holds {gold_N.min()}..{gold_N.max()}, expected -1 (missing) or "
            f"0..{task.n_outputs - 1}; check the order of label names {list(task.labels)}"
        )
    return gold_N.astype(np.int64)


def checked_probs(task: Task, name: str, probs: npt.ArrayLike, *, shape: tuple[int, ...]) -> FloatArray:
    probs_NC = checked_rows(task, name, probs, shape=shape)
    sums_N1 = probs_NC.sum(axis=-1, keepdims=True)
    # Stored as float32, so sums are off by 1e-7; 1e-3 is far above that and far below a mistake. nan compares false.
    wrong_N = (np.abs(sums_N1[:, 0] - 1.0) > 1e-3) | (probs_NC < 0).any(axis=-1)
    if wrong_N.any():
        row = int(np.flatnonzero(wrong_N)[0])
        raise ValueError(
            f"task '{task.name}': row {row} of {name} is {probs_NC[row].tolist()}, expected a distribution, "
            "or nan in every class where unknown"
        )
    return np.asarray(probs_NC / sums_N1)
