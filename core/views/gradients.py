"""What the loss asks of a student's logits, in closed form: gold against teacher, and what the teacher adds to gold.

Loss (core/losses): alpha T^2 KL(p^T || q^T) + (1 - alpha) CE(gold, q), so the logit gradient is the sum of

    hard  (1 - alpha) (q - e_*)        soft  alpha T (q^T - p^T)

At T = 1 it is q - [(1 - alpha) e_* + alpha p]: distillation is training on a label smoothed for each example, and alpha
and T act as label smoothing; only T != 1 tells them apart. MT-DNN's own point is alpha = 0.5, T = 1 (up to a factor).

The exact decomposition of the soft gradient at T = 1, with p~ the teacher's distribution over the wrong classes:

    q - p = p_* (q - e_*) + (1 - p_*) (q - p~)

importance-weighted gold, and the teacher's conditional.

These are weights at *this* student, not the score of one that was trained with another alpha or T. Give the name of a
model for a real checkpoint; a variant is the mean of its seeds' probabilities, which is nobody's.

The teacher is tempered as the targets are: softmax(v / T) of the ensemble's logits v. The mean of tempered members is
another distribution. Quantities of a data set are computed in chunks: a million examples need no more memory
than 65,536.

Shapes: N examples, n of them kept, C classes, A alphas, K temperatures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from core.calibration import FloatArray, IntArray, log_probs_NC
from core.views import NotDefined
from core.views.kept import kept
from core.views.reading import chunks
from core.views.table import DEFAULT_STUDENT, TaskTable, require_three_classes

# The paper's point (0.5, 1) is on both: 0, 0.05, ... 1 and 2^-1, 2^-0.75, ... 2^3.5.
ALPHAS = tuple(float(a) for a in np.linspace(0, 1, 21))
TEMPERATURES = tuple(float(t) for t in 2.0 ** np.linspace(-1, 3.5, 19))


class Gradients(NamedTuple):
    """Logit gradients (N, C). `cosine` (N,) of the two directions, nan where one of them is 0; it does not depend on
    alpha, which scales them."""

    hard_NC: FloatArray
    soft_NC: FloatArray
    cosine: FloatArray

    @property
    def total_NC(self) -> FloatArray:
        return self.hard_NC + self.soft_NC


class Norms(NamedTuple):
    """For each of `rows`, (n,): Euclidean norms of the two gradients and their cosine. `teacher_share`: mean soft norm
    over the sum of both means; `conflict`: share of rows with cosine < 0 among those that have one."""

    rows: IntArray
    hard: FloatArray
    soft: FloatArray
    cosine: FloatArray
    teacher_share: float
    conflict: float


class Parts(NamedTuple):
    """Norms (n,) of `p_* (q - e_*)` and `(1 - p_*) (q - p~)`, their means, and the second's share of the two means:
    how much of what the teacher says is more than a weight on gold."""

    rows: IntArray
    gold: FloatArray
    others: FloatArray
    gold_mean: float
    others_mean: float
    others_share: float


class Grid(NamedTuple):
    """Over a data set: mean entropy of (1 - alpha) e_* + alpha p^T, (A, K), nats; `teacher_share` (A, K) and `conflict`
    (K,) as in `Norms` (the latter does not depend on alpha); `n` examples."""

    alphas: FloatArray
    temperatures: FloatArray
    target_entropy: FloatArray
    teacher_share: FloatArray
    conflict: FloatArray
    n: int


class LossGrid(NamedTuple):
    """One example: `total` (A, K) = alpha `soft` + (1 - alpha) `hard`; `soft` (K,) = T^2 KL(p^T || q^T), `hard` the
    cross-entropy with gold."""

    alphas: FloatArray
    temperatures: FloatArray
    total: FloatArray
    soft: FloatArray
    hard: float


def logit_gradients(
    student_logits_NC: npt.ArrayLike,
    teacher_logits_NC: npt.ArrayLike,
    gold_N: npt.ArrayLike,
    *,
    alpha: float,
    temperature: float,
) -> Gradients:
    """The two gradients of each example, as arrays: for a page of examples. Raises `ValueError` for alpha outside 0..1,
    T <= 0, shapes that differ and gold that is no index (drop rows without gold)."""
    _check(alpha, temperature)
    hard_NC, soft_NC = _directions(*_arrays(student_logits_NC, teacher_logits_NC, gold_N), temperature)
    cosine_N = _cosine(hard_NC, soft_NC)
    return Gradients((1 - alpha) * hard_NC, alpha * temperature * soft_NC, cosine_N)


def decompose(
    student_logits_NC: npt.ArrayLike, teacher_logits_NC: npt.ArrayLike, gold_N: npt.ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """(N, C) each: `p_* (q - e_*)` and `(1 - p_*) (q - p~)`; their sum is q - p. Without a division: a teacher that is
    sure of gold has no p~, and its second part is 0."""
    log_q_NC, log_p_NC, gold = _arrays(student_logits_NC, teacher_logits_NC, gold_N)
    q_NC, p_NC = np.exp(log_q_NC), np.exp(log_p_NC)
    is_gold_NC = np.arange(q_NC.shape[1]) == gold[:, None]
    others_NC = np.where(is_gold_NC, 0.0, p_NC)
    p_gold_N1 = p_NC[is_gold_NC][:, None]
    return p_gold_N1 * (q_NC - is_gold_NC), others_NC.sum(axis=1, keepdims=True) * q_NC - others_NC


def gradient_norms(
    table: TaskTable,
    rows: npt.ArrayLike | None = None,
    *,
    alpha: float,
    temperature: float,
    student: str = DEFAULT_STUDENT,
) -> Norms:
    """Norms and cosine of every row with gold. Raises `NotDefined` for regression and where no row has gold."""
    _check(alpha, temperature)
    chosen = _with_gold(table, rows)
    hard_n, soft_n, cosine_n = (np.empty(len(chosen)) for _ in range(3))
    for part, log_q_NC, log_p_NC, gold in _parts(table, chosen, student):
        hard_NC, soft_NC = _directions(log_q_NC, log_p_NC, gold, temperature)
        hard_n[part] = (1 - alpha) * np.linalg.norm(hard_NC, axis=1)
        soft_n[part] = alpha * temperature * np.linalg.norm(soft_NC, axis=1)
        cosine_n[part] = _cosine(hard_NC, soft_NC)
    defined_n = np.isfinite(cosine_n)
    conflict = float((cosine_n[defined_n] < 0).mean()) if defined_n.any() else float("nan")
    share = float(_share(np.asarray(soft_n.mean()), np.asarray(hard_n.mean())))
    return Norms(chosen, hard_n, soft_n, cosine_n, share, conflict)


@kept
def decomposition(table: TaskTable, rows: npt.ArrayLike | None = None, *, student: str = DEFAULT_STUDENT) -> Parts:
    """Dark knowledge against importance weighting, for every row with gold. Raises `NotDefined` for two classes (p~ is
    then the one wrong class, whoever teaches) and for regression."""
    require_three_classes(table.task, "teacher's conditional over wrong classes")
    chosen = _with_gold(table, rows)
    gold_n, others_n = np.empty(len(chosen)), np.empty(len(chosen))
    for part, log_q_NC, log_p_NC, gold in _parts(table, chosen, student):
        gold_NC, others_NC = decompose(log_q_NC, log_p_NC, gold)
        gold_n[part], others_n[part] = np.linalg.norm(gold_NC, axis=1), np.linalg.norm(others_NC, axis=1)
    means = float(gold_n.mean()), float(others_n.mean())
    return Parts(chosen, gold_n, others_n, *means, float(_share(np.asarray(means[1]), np.asarray(means[0]))))


def what_if(
    table: TaskTable,
    rows: npt.ArrayLike | None = None,
    *,
    alphas: tuple[float, ...] = ALPHAS,
    temperatures: tuple[float, ...] = TEMPERATURES,
    student: str = DEFAULT_STUDENT,
) -> Grid:
    """The (alpha, T) map over rows with gold. Time goes with n A K: 0.2 s for 20,000 rows, 10 s for a million, so give
    a sample (core/views/paging) of a large table. Raises `NotDefined` for regression and where no row has gold.

    Of the mixed target only the entry of gold depends on alpha other than by a factor, so its entropy is

        -t log t - alpha log(alpha) (1 - p_*) - alpha sum_{c != *} p_c log p_c,  t = 1 - alpha + alpha p_*

    and one logarithm an example is all that (alpha, T) costs.
    """
    for alpha in alphas:
        for temperature in temperatures:
            _check(alpha, temperature)
    chosen = _with_gold(table, rows)
    alphas_A, temperatures_K = np.array(alphas), np.array(temperatures)
    entropy_AK = np.zeros((len(alphas), len(temperatures)))
    hard, soft_K, conflicts_K, defined_K = 0.0, *np.zeros((3, len(temperatures)))
    for _, log_q_NC, log_p_NC, gold in _parts(table, chosen, student):
        is_gold_NC = np.arange(log_q_NC.shape[1]) == gold[:, None]
        for k, temperature in enumerate(temperatures):
            hard_NC, soft_NC = _directions(log_q_NC, log_p_NC, gold, temperature)
            cosine_N = _cosine(hard_NC, soft_NC)
            soft_K[k] += np.linalg.norm(soft_NC, axis=1).sum()
            conflicts_K[k] += (cosine_N < 0).sum()
            defined_K[k] += np.isfinite(cosine_N).sum()
            p_NC = np.exp(log_probs_NC(log_p_NC / temperature))
            p_gold_N = p_NC[is_gold_NC]
            p_NC[is_gold_NC] = 0.0
            rest, others = p_NC.sum(), special.entr(p_NC).sum()
            for a, alpha in enumerate(alphas):
                t_N = 1 - alpha + alpha * p_gold_N
                # t = 0 where alpha is 1 and p_* underflows; 0 log 0 = 0.
                of_gold = -(t_N * np.log(np.maximum(t_N, np.finfo(np.float64).tiny))).sum()
                entropy_AK[a, k] += of_gold + special.entr(alpha) * rest + alpha * others
        hard += float(np.linalg.norm(hard_NC, axis=1).sum())  # the same for all T
    soft_AK = alphas_A[:, None] * temperatures_K * soft_K
    conflict_K = np.divide(conflicts_K, defined_K, out=np.full(len(temperatures), np.nan), where=defined_K > 0)
    share_AK = _share(soft_AK, np.broadcast_to((1 - alphas_A)[:, None] * hard, soft_AK.shape))
    return Grid(alphas_A, temperatures_K, entropy_AK / len(chosen), share_AK, conflict_K, len(chosen))


def loss_grid(
    student_logits_C: npt.ArrayLike,
    teacher_logits_C: npt.ArrayLike,
    gold: int,
    *,
    alphas: tuple[float, ...] = ALPHAS,
    temperatures: tuple[float, ...] = TEMPERATURES,
) -> LossGrid:
    """Every value that a slider over (alpha, T) shows for one example, 21 x 19 numbers, so that it needs no server."""
    for alpha in alphas:
        _check(alpha, min(temperatures))
    log_q_1C, log_p_1C, gold_1 = _arrays(np.atleast_2d(student_logits_C), np.atleast_2d(teacher_logits_C), [gold])
    t_K1 = np.array(temperatures)[:, None]
    log_q_KC, log_p_KC = log_probs_NC(log_q_1C / t_K1), log_probs_NC(log_p_1C / t_K1)
    soft_K = t_K1[:, 0] ** 2 * (np.exp(log_p_KC) * (log_p_KC - log_q_KC)).sum(axis=1)
    hard = -float(log_q_1C[0, gold_1[0]])
    alphas_A = np.array(alphas)
    total_AK = alphas_A[:, None] * soft_K + (1 - alphas_A[:, None]) * hard
    return LossGrid(alphas_A, t_K1[:, 0], total_AK, soft_K, hard)


# ---- details -------------------------------------------------------------------------------------------------------
def _directions(
    log_q_NC: FloatArray, log_p_NC: FloatArray, gold_N: IntArray, temperature: float
) -> tuple[FloatArray, FloatArray]:
    """q - e_* and q^T - p^T."""
    hard_NC = np.exp(log_q_NC)
    hard_NC[np.arange(len(gold_N)), gold_N] -= 1.0
    q_NC, p_NC = (np.exp(log_probs_NC(log_NC / temperature)) for log_NC in (log_q_NC, log_p_NC))
    return hard_NC, q_NC - p_NC


def _cosine(a_NC: FloatArray, b_NC: FloatArray) -> FloatArray:
    norms_N = np.linalg.norm(a_NC, axis=1) * np.linalg.norm(b_NC, axis=1)
    dot_N = (a_NC * b_NC).sum(axis=1)
    cosine_N = np.divide(dot_N, norms_N, out=np.full(len(dot_N), np.nan), where=norms_N > 0)
    return np.asarray(np.clip(cosine_N, -1.0, 1.0))


def _share(part: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """part / (part + rest), nan where both are 0."""
    total = np.asarray(part + rest)
    return np.divide(part, total, out=np.full(total.shape, np.nan), where=total > 0)


def _with_gold(table: TaskTable, rows: npt.ArrayLike | None) -> IntArray:
    table.log_probs("teacher")  # raises for a regression, and where there is no teacher
    chosen = np.arange(len(table)) if rows is None else np.asarray(rows, np.int64)
    chosen = chosen[table.gold_N[chosen] >= 0]
    if not len(chosen):
        raise NotDefined("No example with gold here: the loss has no hard term.")
    return chosen


def _parts(
    table: TaskTable, chosen: IntArray, student: str
) -> Iterator[tuple[slice, FloatArray, FloatArray, IntArray]]:
    log_q_NC, log_p_NC = table.log_probs(student), table.log_probs("teacher")
    for part in chunks(len(chosen)):
        rows = chosen[part]
        yield part, log_probs_NC(log_q_NC[rows]), log_probs_NC(log_p_NC[rows]), table.gold_N[rows].astype(np.int64)


def _arrays(
    student_logits_NC: npt.ArrayLike, teacher_logits_NC: npt.ArrayLike, gold_N: npt.ArrayLike
) -> tuple[FloatArray, FloatArray, IntArray]:
    log_q_NC, log_p_NC, gold = log_probs_NC(student_logits_NC), log_probs_NC(teacher_logits_NC), np.asarray(gold_N)
    if log_q_NC.ndim != 2 or log_p_NC.shape != log_q_NC.shape or gold.shape != log_q_NC.shape[:1]:
        raise ValueError(
            f"student logits have shape {log_q_NC.shape}, the teacher's {log_p_NC.shape}, gold {gold.shape}, expected "
            "(N, C), (N, C), (N,); join by example id"
        )
    if gold.size and (gold.min() < 0 or gold.max() >= log_q_NC.shape[1]):
        raise ValueError(f"gold holds {gold.min()}..{gold.max()}, expected indices of classes; drop rows without gold")
    return log_q_NC, log_p_NC, gold.astype(np.int64)


def _check(alpha: float, temperature: float) -> None:
    if not 0 <= alpha <= 1 or not 0 < temperature < np.inf:
        raise ValueError(
            f"alpha is {alpha} and temperature {temperature}, expected 0 <= alpha <= 1 and temperature > 0"
        )
