"""A new head on a frozen student, in a fraction of a second: what would this alpha, this temperature teach *it*?

The encoder's outputs are read from the run and stay as they are; a linear head on them is fitted to gold and teacher
mixed, by L-BFGS, and scored on the reported split. **Only the head moves.** A student trained with these settings moves
its encoder too, and may learn what no head can read off here: `python -m core sweep` trains those.

    features/<model>/<task>.npy     float16 (N, H), a row for each of examples/<task>.arrow, in its order

The loss is that of the training (core/losses), the mean over examples of

    alpha T^2 KL(p^T || q^T) + (1 - alpha) CE(e_*, q)        q = softmax(z), z = f W + b, f standardised

which is convex in W and b, so where the search starts does not matter. `soft_ce` is its T = 1, the paper's: the two
differ by the teacher's entropy, which no head can change. L2 on W makes the optimum unique and finite.

Deliberately absent: regressions and rankings (other heads), other losses (not convex in the head), the task's own head
(SAN's steps, dropout), and a search for the best alpha: that would be tuned on the split that it is shown on.

Shapes: N examples, n of them fitted on, H hidden, C classes.
"""

from __future__ import annotations

import time
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

from core.calibration import FloatArray, IntArray, log_probs_NC
from core.metrics import Score, evaluate
from core.store import Run
from core.tasks import Task
from core.views import NotDefined
from core.views.paging import sample_rows
from core.views.reading import chunks
from core.views.strategies import known_of
from core.views.table import TaskTable, load_table, splits_of

Loss = Literal["soft_ce", "kl"]
LOSSES: tuple[Loss, ...] = ("soft_ce", "kl")
FIT_SPLITS = ("train", "selection")  # in order of preference; what is reported is never fitted on

# Weight of |W|^2 / 2 beside a mean loss in nats, on standardised features. Not tuned.
L2 = 1e-3
# Cells of the feature matrix that are fitted on: 8 million are 64 MB and, with 768 features, 0.6 s on one core.
MAX_CELLS = 8_000_000
MAX_STEPS = 200


class Head(NamedTuple):
    """logits = (f - `mean`) / `scale` @ `weights` + `biases`. `loss` is the objective on the fitted rows, its share of
    L2 included, after `n_steps` of L-BFGS; `slope` the largest entry of its gradient there."""

    mean: FloatArray
    scale: FloatArray
    weights: FloatArray
    biases: FloatArray
    loss: float
    slope: float
    n_steps: int


class Refit(NamedTuple):
    """A head fitted on `n_fitted` rows of split `fitted_on` (of `n_rows` there), its scores on the table's split, and
    its answers (N,) and probabilities of gold (N,) there, NaN where gold is unknown. `seconds` of fitting, not of
    reading."""

    scores: dict[str, Score]
    answers: IntArray
    gold_probs: FloatArray
    head: Head
    fitted_on: str
    n_fitted: int
    n_rows: int
    seconds: float


def read_features(run: Run, model: str, task: str, *, n_examples: int) -> npt.NDArray[np.float16]:
    """(N, H), a memory map: rows are read when they are asked for. Raises `NotDefined` where the run stored none, with
    the option that does, and `ValueError` for a file that is damaged or of other examples."""
    path = run.features_path(model, task)
    if not path.exists():
        raise NotDefined(
            f"This run did not keep the encoder outputs of '{model}' on '{task}', which a head is fitted on; store "
            f"them with `python -m core run --out {run.path} --set runtime.keep_features=true`"
        )
    try:
        values = np.load(path, mmap_mode="r")
    except ValueError as error:
        raise ValueError(f"{path} is not a readable .npy file ({error}); redo job 'features-{model}'") from error
    if values.ndim != 2 or len(values) != n_examples:
        raise ValueError(
            f"{path} has shape {values.shape}, expected a row for each of {n_examples} examples; redo job "
            f"'features-{model}'"
        )
    return np.asanyarray(values)


def refit(
    table: TaskTable,
    model: str,
    *,
    alpha: float,
    temperature: float = 1.0,
    loss: Loss = "soft_ce",
    resamples: int = 200,
) -> Refit:
    """A head on the frozen outputs of `model`, fitted on `train` (without labels there: on `selection`), and scored on
    the table's split.

    Example: `refit(load_table(run, "nli", "test"), "st-kd-s0", alpha=0.5).scores["accuracy"]`.
    Raises `NotDefined` without features, for a regression or a ranking, for alpha > 0 without a teacher, and where the
    table is of the split that would be fitted on; `ValueError` as `fit_head`.
    """
    task = table.task
    require_linear_head(task)
    _check_settings(alpha, temperature, loss)
    n_examples = sum(splits_of(table.run, task.name).values())
    features_NH = read_features(table.run, model, task.name, n_examples=n_examples)
    fitted = _fit_table(table)
    ids, gold_N = fitted.ids.to_numpy(zero_copy_only=False), np.asarray(fitted.gold_N, np.int64)
    chosen = _fit_rows(ids, gold_N, width=features_NH.shape[1])
    teacher_NC = None if alpha == 0 else _teacher(fitted, ids[chosen], chosen)
    fit_nH = features_NH[fitted.file_rows_N[chosen]]
    started = time.perf_counter()
    head = fit_head(
        fit_nH, gold_N[chosen], teacher_NC, alpha=alpha, temperature=temperature, loss=loss, n_classes=task.n_outputs
    )
    seconds = time.perf_counter() - started
    # In parts: a million rows of 768 features are 6 GB in float64.
    parts = [apply_head(head, features_NH[table.file_rows_N[part]]) for part in chunks(len(table))]
    logits_NC = np.concatenate(parts)
    scores = evaluate(task, outputs=logits_NC, resamples=resamples, **known_of(table))
    n_rows = int((gold_N >= 0).sum())
    probs_N = gold_probs(logits_NC, table.gold_N)
    return Refit(scores, logits_NC.argmax(axis=1), probs_N, head, fitted.split, len(chosen), n_rows, seconds)


def gold_probs(logits_NC: npt.ArrayLike, gold_N: npt.ArrayLike) -> FloatArray:
    """The probability of each row's gold label, (N,); NaN where gold is unknown, -1."""
    gold = np.asarray(gold_N, np.int64)
    log_p_NC = log_softmax(np.asarray(logits_NC, np.float64), axis=1)
    return np.where(gold >= 0, np.exp(log_p_NC[np.arange(len(gold)), gold]), np.nan)


def require_linear_head(task: Task) -> None:
    """Raises `NotDefined` for a regression or a ranking."""
    if task.kind != "classification":
        raise NotDefined(
            f"Task '{task.name}' is a {task.kind}, whose head is another one; this refits heads with an output a class."
        )


def fit_head(
    features_NH: npt.ArrayLike,
    gold_N: npt.ArrayLike,
    teacher_logits_NC: npt.ArrayLike | None,
    *,
    alpha: float,
    temperature: float = 1.0,
    loss: Loss = "soft_ce",
    l2: float = L2,
    n_classes: int | None = None,
) -> Head:
    """The head that minimises the loss above. `teacher_logits_NC` may be None where alpha is 0; `n_classes` then says
    how many outputs there are (None: the largest gold index + 1).

    Raises `ValueError` for alpha outside 0..1, T <= 0, `soft_ce` at another T than 1 (as the training does), gold that
    is no index, shapes that differ, outputs that are not finite, and l2 <= 0: without it a head that separates the rows
    has no optimum.
    """
    _check_settings(alpha, temperature, loss)
    if l2 <= 0:
        raise ValueError(f"l2 is {l2}, expected a number above 0")
    raw_NH, gold = np.asarray(features_NH, np.float64), np.asarray(gold_N)
    if raw_NH.ndim != 2 or gold.shape != raw_NH.shape[:1] or not len(gold):
        raise ValueError(f"features have shape {raw_NH.shape} and gold {gold.shape}, expected (N, H) and (N,), N > 0")
    if not np.isfinite(raw_NH).all():
        raise ValueError("some features are not finite: the student diverged, or float16 overflowed; train it again")
    if teacher_logits_NC is None:
        if alpha > 0:
            raise ValueError(f"alpha is {alpha} and there is no teacher; give its logits, or alpha = 0")
        n_outputs = int(gold.max()) + 1 if n_classes is None else n_classes
        teacher_NC = np.zeros((len(gold), n_outputs))
    else:
        teacher_NC = np.asarray(teacher_logits_NC, np.float64)
    n, c = teacher_NC.shape
    if n != len(gold) or gold.min() < 0 or gold.max() >= c:
        raise ValueError(
            f"teacher logits have shape {teacher_NC.shape} for {len(gold)} rows with gold {gold.min()}..{gold.max()}, "
            "expected a row each, and gold that is an index of a class"
        )
    mean_H, scale_H = raw_NH.mean(axis=0), raw_NH.std(axis=0)
    scale_H = np.where(scale_H > 1e-6, scale_H, 1.0)  # a dead feature is 0 for all: it stays 0
    f_NH, width = (raw_NH - mean_H) / scale_H, raw_NH.shape[1]
    p_NC, gold_NC = np.exp(log_probs_NC(teacher_NC / temperature)), np.eye(c)[gold]
    p_log_p = float((p_NC * log_probs_NC(teacher_NC / temperature)).sum()) / n

    def objective(params_P: FloatArray) -> tuple[float, FloatArray]:
        weights_HC, biases_C = params_P[: width * c].reshape(width, c), params_P[width * c :]
        z_NC = f_NH @ weights_HC + biases_C
        log_q_NC = log_probs_NC(z_NC)
        log_qt_NC = log_q_NC if temperature == 1 else log_probs_NC(z_NC / temperature)
        soft = temperature**2 * (p_log_p - float((p_NC * log_qt_NC).sum()) / n)
        hard = -float((gold_NC * log_q_NC).sum()) / n
        error_NC = alpha * temperature * (np.exp(log_qt_NC) - p_NC) + (1 - alpha) * (np.exp(log_q_NC) - gold_NC)
        slope_HC = f_NH.T @ error_NC / n + l2 * weights_HC
        value = alpha * soft + (1 - alpha) * hard + l2 / 2 * float((weights_HC**2).sum())
        return value, np.concatenate([slope_HC.ravel(), error_NC.sum(axis=0) / n])

    # One thread: the matrices are small, and on a busy machine waiting for a second one takes 20 times as long.
    with threadpool_limits(1):
        found = optimize.minimize(
            objective, np.zeros((width + 1) * c), jac=True, method="L-BFGS-B",
            options={"maxiter": MAX_STEPS, "ftol": 1e-9, "gtol": 1e-5},
        )  # fmt: skip
    params_P = np.asarray(found.x, np.float64)
    return Head(
        mean_H,
        scale_H,
        params_P[: width * c].reshape(width, c),
        params_P[width * c :],
        float(found.fun),
        float(np.abs(found.jac).max()),
        int(found.nit),
    )


def apply_head(head: Head, features_NH: npt.ArrayLike) -> FloatArray:
    """(N, C) logits. Raises `ValueError` for features of another width."""
    values_NH = np.asarray(features_NH, np.float64)
    if values_NH.ndim != 2 or values_NH.shape[1] != len(head.mean):
        raise ValueError(f"features have shape {values_NH.shape}, the head was fitted on {len(head.mean)} columns")
    return np.asarray((values_NH - head.mean) / head.scale @ head.weights + head.biases)


# ---- details -------------------------------------------------------------------------------------------------------
def _fit_table(table: TaskTable) -> TaskTable:
    """The first of FIT_SPLITS with gold, which may not be the table's own."""
    splits = splits_of(table.run, table.task.name)
    for split in FIT_SPLITS:
        if split in splits and split != table.split:
            fitted = load_table(table.run, table.task.name, split)
            if fitted.has_gold.any():
                return fitted
        elif split == table.split:
            raise NotDefined(f"A head that is fitted on '{split}' cannot be judged by it; choose the reported split.")
    raise NotDefined(f"Task '{table.task.name}' has no labelled split to fit a head on beside '{table.split}'.")


def _fit_rows(ids: np.ndarray, gold_N: IntArray, *, width: int) -> IntArray:
    """Rows with gold, at most MAX_CELLS / H of them: those whose ids have the smallest hashes, so always the same."""
    known = np.flatnonzero(gold_N >= 0)
    limit = max(MAX_CELLS // width, 100)
    return known if len(known) <= limit else known[sample_rows(ids[known], limit)]


def _teacher(fitted: TaskTable, ids: np.ndarray, rows: IntArray) -> np.ndarray:
    """What students are taught (targets/), and on rows that have no target what the teacher says of them."""
    task: Task = fitted.task
    if fitted.split == "train" and fitted.run.targets_path(task.name).exists():
        return fitted.run.read_targets(task, ids)
    if not fitted.has_teacher:
        raise NotDefined(f"Task '{task.name}' has no teacher on split '{fitted.split}', so gold alone can be fitted.")
    return fitted.log_probs("teacher")[rows]


def _check_settings(alpha: float, temperature: float, loss: str) -> None:
    if loss not in LOSSES:
        raise ValueError(f"loss '{loss}' cannot be refitted, expected one of {', '.join(LOSSES)}")
    if not 0 <= alpha <= 1 or not 0 < temperature < np.inf:
        raise ValueError(
            f"alpha is {alpha} and temperature {temperature}, expected 0 <= alpha <= 1 and temperature > 0"
        )
    if loss == "soft_ce" and temperature != 1:
        raise ValueError(f"soft_ce has no temperature and got {temperature}; choose kl for another one than 1")
