"""What models said while they trained: data maps (Swayamdipta et al. 2020, 2009.10795) and epoch strips.

Read from `dynamics/<model>/<task>.parquet`: the training logits of every epoch, taken in the batch's own forward pass,
with dropout on. An example that an epoch did not see (sampling, bagging) is nan there and counts for nothing.

Shapes: E epochs, N training examples, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from core.calibration import FloatArray, IntArray, kl_N, log_probs_NC
from core.store import Run, lists_to_rows
from core.tasks import find_task
from core.views import NotDefined
from core.views.catalogue import tasks_of_run
from core.views.derived import column
from core.views.reading import check_labels, read_parquet, whole
from core.views.table import BASELINE, DEFAULT_STUDENT, TaskTable


class Dynamics(NamedTuple):
    """`ids` Arrow strings (N,) of the examples that any epoch saw, in the order of the examples; `gold` (N,) index or
    -1, `logits` (E, N, C), `labels` their names."""

    ids: pa.Array
    gold: IntArray
    logits: npt.NDArray[np.float32]
    labels: tuple[str, ...]


class DataMap(NamedTuple):
    """For each example, (N,): mean and population standard deviation over its epochs of the probability of gold, and
    the share of epochs with the right answer. `n_unlabelled` examples without gold are left out."""

    ids: pa.Array
    confidence: FloatArray
    variability: FloatArray
    correctness: FloatArray
    n_epochs: int
    n_unlabelled: int


class Displacement(NamedTuple):
    """From one map to another, of the examples that both have: `a` and `b` are positions in the two maps."""

    ids: pa.Array
    a: IntArray
    b: IntArray
    confidence: FloatArray
    variability: FloatArray


class EpochStrip(NamedTuple):
    """`kl` (E, n): KL(teacher || model in that epoch), nan where not seen; `first_match` (n,): the first epoch whose
    answer is the teacher's, E where none is. `order` sorts examples by it."""

    kl: FloatArray
    first_match: IntArray
    order: IntArray


def has_dynamics(run: Run, model: str, task: str) -> bool:
    return run.dynamics_path(model, task).exists()


def read_dynamics(run: Run, model: str, task: str) -> Dynamics:
    """Raises `NotDefined` for regression, `ValueError` for a missing or damaged file and ids that are no examples."""
    row = find_task(task, tasks_of_run(run))
    if row.kind == "regression":
        raise NotDefined(f"Task '{task}' is a regression: there is no probability of gold to follow.")
    path = run.dynamics_path(model, task)
    if not path.exists():
        raise ValueError(
            f"{path} does not exist: '{model}' kept no logits of its training on '{task}'. Set `dynamics` of its "
            "stage to true in the config and train it again"
        )
    table = read_parquet(path)
    check_labels(table, row, what=str(path))
    epoch = table["epoch"].to_numpy().astype(np.int64)
    if not len(epoch):
        raise ValueError(f"{path} holds no rows: no epoch saw an example; redo the stage that trains '{model}'")
    examples = run.read_examples(task)
    position = pc.index_in(table["example_id"], examples["example_id"])
    if position.null_count:
        missing = table["example_id"].filter(position.is_null())[0]
        raise ValueError(f"{path}: example '{missing}' is not in {run.examples_path(task)}; redo stage 'prepare'")
    # An epoch holds the examples that it saw. Rows get the order of the examples, whatever the file's.
    place_N, row_of = np.unique(np.asarray(position).astype(np.int64), return_inverse=True)
    cell = epoch * len(place_N) + row_of
    n_epochs = int(epoch.max()) + 1
    if np.bincount(cell).max() > 1:
        raise ValueError(f"{path} has an example twice in one epoch; redo the stage that trains '{model}'")
    logits = np.full((n_epochs * len(place_N), row.n_outputs), np.nan, np.float32)
    logits[cell] = lists_to_rows(table["logits"])
    ids, labels = (whole(examples[name].take(pa.array(place_N))) for name in ("example_id", "gold_label"))
    gold_N = np.asarray(pc.fill_null(pc.index_in(labels, pa.array(row.labels, labels.type)), -1)).astype(np.int64)
    return Dynamics(ids, gold_N, logits.reshape(n_epochs, len(place_N), -1), row.labels)


def data_map(dynamics: Dynamics) -> DataMap:
    """Cartography's three coordinates. High confidence and low variability: easy; low and low: hard, or mislabelled;
    high variability: ambiguous. With one epoch variability is 0 for all and says nothing."""
    n_epochs, n, _ = dynamics.logits.shape
    gold_1 = np.maximum(dynamics.gold, 0)[:, None]
    sums_3N, seen_N = np.zeros((3, n)), np.zeros(n)
    # Epoch by epoch, in two passes: the log-probabilities of all epochs in float64 would be E times as large.
    for logits_NC in dynamics.logits:
        p_N, is_right_N, is_seen_N = _of_gold(logits_NC, gold_1)
        seen_N += is_seen_N
        sums_3N[0] += p_N
        sums_3N[1] += is_right_N
    confidence_N = sums_3N[0] / np.maximum(seen_N, 1)
    for logits_NC in dynamics.logits:
        p_N, _, is_seen_N = _of_gold(logits_NC, gold_1)
        sums_3N[2] += np.where(is_seen_N, (p_N - confidence_N) ** 2, 0.0)
    keep_N = (seen_N > 0) & (dynamics.gold >= 0)
    n_seen = seen_N[keep_N]
    return DataMap(
        dynamics.ids.filter(pa.array(keep_N)),
        confidence_N[keep_N],
        np.sqrt(sums_3N[2][keep_N] / n_seen),
        sums_3N[1][keep_N] / n_seen,
        n_epochs,
        int((~keep_N).sum()),
    )


def displacement(a: DataMap, b: DataMap) -> Displacement:
    """b - a, joined by id: what distillation does to an example's place on the map."""
    position = pc.index_in(a.ids, b.ids)
    a_n = np.flatnonzero(np.asarray(position.is_valid()))
    b_n = np.asarray(position.drop_null()).astype(np.int64)
    return Displacement(
        a.ids.take(pa.array(a_n)),
        a_n,
        b_n,
        b.confidence[b_n] - a.confidence[a_n],
        b.variability[b_n] - a.variability[a_n],
    )


def epoch_strip(dynamics: Dynamics, positions: npt.ArrayLike, teacher_log_probs_nC: npt.ArrayLike) -> EpochStrip:
    """When did the student come to say what the teacher says? `positions` (n,) of examples in `dynamics`, and the
    teacher's log-probabilities (n, C) of the same, in this order."""
    rows = np.asarray(positions, np.int64)
    log_p_nC = log_probs_NC(teacher_log_probs_nC)
    if log_p_nC.shape != (len(rows), dynamics.logits.shape[2]):
        raise ValueError(
            f"epoch_strip: {len(rows)} positions and teacher's log-probabilities {log_p_nC.shape}, expected "
            f"({len(rows)}, {dynamics.logits.shape[2]})"
        )
    n_epochs, answer_n = len(dynamics.logits), log_p_nC.argmax(axis=1)
    kl_En = np.full((n_epochs, len(rows)), np.nan)
    first_n = np.full(len(rows), n_epochs)
    for e in reversed(range(n_epochs)):
        logits_nC = dynamics.logits[e, rows]
        seen_n = np.isfinite(logits_nC).all(axis=1)
        kl_En[e, seen_n] = kl_N(np.exp(log_p_nC[seen_n]), logits_nC[seen_n])
        first_n[seen_n & (logits_nC.argmax(axis=1) == answer_n)] = e
    return EpochStrip(kl_En, first_n, np.argsort(first_n, kind="stable"))


def positions_of(dynamics: Dynamics, ids: pa.Array) -> tuple[IntArray, IntArray]:
    """(positions in `dynamics`, positions in `ids`) of the ids that both have."""
    position = pc.index_in(ids, dynamics.ids)
    return np.asarray(position.drop_null()).astype(np.int64), np.flatnonzero(np.asarray(position.is_valid()))


def trainings(table: TaskTable) -> list[str]:
    """Models that kept their training logits of the table's task: students first, the distilled one's before them."""
    roles, first = table.models.roles, {DEFAULT_STUDENT: 0, BASELINE: 1}
    found = [name for name in roles if has_dynamics(table.run, name, table.task.name) and roles[name].fold is None]
    return sorted(found, key=lambda name: (roles[name].kind != "student", first.get(roles[name].variant or "", 2)))


def twin_of(table: TaskTable, model: str) -> str | None:
    """The student of the same seed without distillation, if it kept its logits: it saw the same batches."""
    role = table.models.roles[model]
    twins = {} if role.kind != "student" or role.variant == BASELINE else table.models.students(table.task.name)
    twin = twins.get(BASELINE, {}).get(role.seed or 0)
    return twin if twin is not None and has_dynamics(table.run, twin, table.task.name) else None


def training_cohorts(train: TaskTable) -> dict[str, Callable[[], IntArray]]:
    """Sets of training examples by what gold and teachers say of them, each as a function that gives its rows; students
    say nothing about train."""
    tenth = max(1, len(train) // 10)
    found: dict[str, Callable[[], IntArray]] = {
        "all": lambda: np.arange(len(train)),
        "the teachers contradict gold": lambda: np.flatnonzero(~train.is_right("teacher") & train.has_gold),
        "the tenth with the most doubt": lambda: np.argsort(-column(train, "entropy"))[:tenth],
    }
    if len(train.members) > 1:
        most = "the tenth with the most disagreement"
        found[most] = lambda: np.argsort(-column(train, "mutual_information"))[:tenth]
    for c, label in enumerate(train.task.labels):
        found[f"gold is {label}"] = partial(np.flatnonzero, train.gold_N == c)
    return found


def _of_gold(
    logits_NC: npt.NDArray[np.float32], gold_N1: IntArray
) -> tuple[FloatArray, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Probability of gold, 0 where not seen; right answer; seen."""
    seen_N = np.asarray(np.isfinite(logits_NC).all(axis=1))
    safe_NC = np.where(seen_N[:, None], logits_NC, 0.0)
    p_N = np.exp(np.take_along_axis(log_probs_NC(safe_NC), gold_N1, axis=1)[:, 0])
    is_right_N = (safe_NC.argmax(axis=1) == gold_N1[:, 0]) & seen_N
    return np.where(seen_N, p_N, 0.0), is_right_N, seen_N
