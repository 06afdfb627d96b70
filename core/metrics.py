"""A task's metrics with 95 % bootstrap intervals.

An interval here answers "what would another test set of this size have said of this model"; it knows nothing of the
luck of training. That is the subject of core/comparisons: over seeds, with a standard error. Report both.

Every metric is a row of METRICS: statistics per example (N, S), and a function from their sums to the value. A
resample of the rows then is a row of counts, all resamples are one matrix product, and 1000 of them cost
milliseconds where a loop around scikit-learn takes minutes. Only Spearman needs new ranks in each resample; they
come from cumulated counts, exactly and without sorting again. Tests hold each row to scikit-learn's or SciPy's value
on the materialised resample. The resamples themselves are in core/bootstrap.

Deliberately absent: BCa intervals (a jackknife for corrections below a page's resolution); significance stars.

Shapes: N examples, C classes, R resamples, S statistics. Logarithms are natural: nats. float64 throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from core.bootstrap import NORMAL_ROWS, Additive, normal_values, weight_blocks
from core.calibration import FloatArray, IntArray, brier_N, ece_gaps_NB, kl_N, nll_N
from core.metric_inputs import checked_gold, checked_outputs, checked_probs, checked_rows
from core.tasks import Task

Resampled = Callable[[FloatArray], FloatArray]  # weights (R, N) -> values (R,)
Prepare = Callable[[FloatArray, npt.NDArray[Any]], "Additive | Resampled"]  # (outputs, target) -> either of the two


class Score(NamedTuple):
    """A value, its 95 % bootstrap interval and the number of rows that it rests on."""

    value: float
    ci_low: float
    ci_high: float
    n: int


def evaluate(
    task: Task,
    *,
    outputs: npt.ArrayLike,
    gold_index: npt.ArrayLike | None = None,
    gold_value: npt.ArrayLike | None = None,
    true_probs: npt.ArrayLike | None = None,
    true_mean: npt.ArrayLike | None = None,
    true_std: npt.ArrayLike | None = None,
    human_probs: npt.ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Score]:
    """All scores of one model on one split of one task.

    `outputs` are logits (N, C), for regression values (N,). Gold is `gold_index` (N,) with -1 where missing, for
    regression `gold_value` (N,) with nan; rows without gold count for the truth only. `true_probs`, `human_probs`
    are (N, C), `true_mean`, `true_std` (N,), with nan rows where unknown. What has no row is absent from the result.

    - classification, ranking: the task's metrics, `score` (their mean, GLUE's convention), `accuracy`, `nll`, `brier`,
      `ece`; `kl_truth`, `kl_humans` = mean KL(truth or humans || model), in nats.
    - regression: the task's metrics, `score`, `mse`; `mse_truth` to the true mean, and with `true_std` `kl_truth` =
      mean of (value - mean)^2 / (2 std^2), the KL of two Gaussians that share the annotators' spread: the same unit,
      nats, as on the other tasks.

    Resamples depend on (n, resamples, seed) alone, so all models of a task see the same ones and their intervals are
    paired. Percentile intervals, but for `ece`, see METRICS. Example::

        evaluate(TASKS["mnli"], outputs=logits_NC, gold_index=gold_N)["accuracy"].ci_low

    Raises `ValueError` for shapes that do not fit the task, outputs that are not finite, gold that is no index of
    the labels, rows that are no distribution, and arguments that the task's kind does not have.
    """
    is_regression = task.kind == "regression"
    outputs_f = checked_outputs(task, outputs)
    unfit = (
        {"gold_index": gold_index, "true_probs": true_probs, "human_probs": human_probs}
        if is_regression
        else {"gold_value": gold_value, "true_mean": true_mean, "true_std": true_std}
    )
    for name, given in unfit.items():
        if given is not None:
            raise ValueError(f"task '{task.name}' of kind '{task.kind}' got {name}, which another kind of task has")
    if true_std is not None and true_mean is None:
        raise ValueError(f"task '{task.name}': got true_std without true_mean, expected both")

    scores: dict[str, Score] = {}

    def add(names: tuple[str, ...], target: npt.NDArray[Any], known: npt.ArrayLike) -> None:
        known_N = np.asarray(known, dtype=bool)
        if known_N.any():
            averaged = task.metrics if names[0] in task.metrics else ()
            scores.update(_scores(names, averaged, outputs_f[known_N], target[known_N], resamples, seed))

    if is_regression:
        if gold_value is not None:
            value_N = checked_rows(task, "gold_value", gold_value, shape=outputs_f.shape)
            add((*task.metrics, "mse"), value_N, np.isfinite(value_N))
        if true_mean is not None:
            mean_N = checked_rows(task, "true_mean", true_mean, shape=outputs_f.shape)
            add(("mse_truth",), mean_N, np.isfinite(mean_N))
            if true_std is not None:
                std_N = checked_rows(task, "true_std", true_std, shape=outputs_f.shape)
                # A spread of 0 leaves no Gaussian: the KL to it is infinite and would swallow the mean.
                add(("kl_truth",), np.stack([mean_N, std_N], axis=-1), np.isfinite(mean_N) & (std_N > 0))
        return scores

    if gold_index is not None:
        gold_N = checked_gold(task, gold_index, n=len(outputs_f))
        names = dict.fromkeys((*task.metrics, "accuracy", "nll", "brier", "ece"))  # a set that keeps its order
        add(tuple(names), gold_N, gold_N >= 0)
    for name, source, probs in (("kl_truth", "true_probs", true_probs), ("kl_humans", "human_probs", human_probs)):
        if probs is not None:
            probs_NC = checked_probs(task, source, probs, shape=outputs_f.shape)
            add((name,), probs_NC, np.isfinite(probs_NC).all(axis=-1))
    return scores


# ---- bootstrap ------------------------------------------------------------------------------------------------------
def _scores(
    names: tuple[str, ...],
    averaged: tuple[str, ...],
    outputs: FloatArray,
    target: npt.NDArray[Any],
    resamples: int,
    seed: int,
) -> dict[str, Score]:
    n = len(outputs)
    resampled = {name: METRICS[name].prepare(outputs, target) for name in names}
    value = {name: float(metric(np.ones((1, n)))[0]) for name, metric in resampled.items()}
    additive = {name: metric for name, metric in resampled.items() if isinstance(metric, Additive) and n > NORMAL_ROWS}
    values_R = normal_values(additive, resamples, seed) if additive else {}
    counted = {name: metric for name, metric in resampled.items() if name not in additive}
    blocks: dict[str, list[FloatArray]] = {name: [] for name in counted}
    for weights_RN in weight_blocks(n, resamples, seed) if counted else ():
        for name, metric in counted.items():
            blocks[name].append(metric(weights_RN))
    values_R |= {name: np.concatenate(parts) for name, parts in blocks.items()}
    if averaged:
        value["score"] = float(np.mean([value[name] for name in averaged]))
        values_R["score"] = np.mean([values_R[name] for name in averaged], axis=0)
    scores = {}
    for name in value:
        low, high = np.percentile(values_R[name], [2.5, 97.5])
        if name in METRICS and METRICS[name].recentre:
            shift = values_R[name].mean() - value[name]
            low, high = max(low - shift, 0.0), high - shift
        scores[name] = Score(value[name], float(low), float(high), n)
    return scores


def _additive(
    stats: Callable[[FloatArray, npt.NDArray[Any]], FloatArray], finish: Callable[[FloatArray, int], FloatArray]
) -> Prepare:
    """A metric from `stats`: (N, S) or (N,) numbers per example, and `finish`: their sums (R, S) and n -> (R,)."""

    def prepare(outputs: FloatArray, target: npt.NDArray[Any]) -> Additive:
        return Additive(stats(outputs, target).reshape(len(outputs), -1), finish)

    return prepare


def _mean(sums_R1: FloatArray, n: int) -> FloatArray:
    return sums_R1[..., 0] / n


# ---- classification: tp, gold and predicted counts of each class say all --------------------------------------------
def _class_counts(logits_NC: FloatArray, gold_N: IntArray) -> FloatArray:
    eye_CC = np.eye(logits_NC.shape[1])
    gold_NC, pred_NC = eye_CC[gold_N], eye_CC[logits_NC.argmax(axis=-1)]
    return np.concatenate([gold_NC * pred_NC, gold_NC, pred_NC], axis=-1)


def _accuracy(sums: FloatArray, n: int) -> FloatArray:
    hits, _, _ = np.split(sums, 3, axis=-1)
    return np.asarray(hits.sum(axis=-1) / n)


def _f1_RC(sums: FloatArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    hits, gold, pred = np.split(sums, 3, axis=-1)
    occurs = gold + pred > 0
    # 2 tp / (gold + pred); 0 for a class that neither side names, as in scikit-learn.
    return np.divide(2 * hits, gold + pred, out=np.zeros_like(hits), where=occurs), occurs


def _f1(sums: FloatArray, n: int) -> FloatArray:
    """The positive class is index 1, as in GLUE's MRPC and QQP."""
    return _f1_RC(sums)[0][..., 1]


def _macro_f1(sums: FloatArray, n: int) -> FloatArray:
    """Mean over the classes that occur in gold or prediction (scikit-learn's default): a rare class that a resample
    misses leaves the mean, it does not enter it as 0."""
    f1_RC, occurs = _f1_RC(sums)
    return np.asarray(f1_RC.sum(axis=-1) / occurs.sum(axis=-1))


def _mcc(sums: FloatArray, n: int) -> FloatArray:
    """Gorodkin's R_K for C classes, Matthews' coefficient for 2. 0 where one side names a single class: undefined
    there, and no better than chance is what both scikit-learn and GLUE's script report. Counts are exact in float64,
    so the comparison with 0 is, too."""
    hits, gold, pred = np.split(sums, 3, axis=-1)
    covariance = hits.sum(axis=-1) * n - (gold * pred).sum(axis=-1)
    product = (n * n - (gold**2).sum(axis=-1)) * (n * n - (pred**2).sum(axis=-1))
    return np.divide(covariance, np.sqrt(product), out=np.zeros_like(covariance), where=product > 0)


def _reciprocal_rank_N(logits_NC: FloatArray, gold_N: IntArray) -> FloatArray:
    """1 / rank of the relevant candidate. Ties: the mean over the orders in which they could be listed, so that a
    constant model gets chance (H_C / C) and neither 1 nor 1/C."""
    gold_logit_N1 = np.take_along_axis(logits_NC, gold_N[:, None], axis=-1)
    above_N = (logits_NC > gold_logit_N1).sum(axis=-1)
    through_N = (logits_NC >= gold_logit_N1).sum(axis=-1)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, logits_NC.shape[1] + 1))])
    return np.asarray((harmonic[through_N] - harmonic[above_N]) / (through_N - above_N))


def _ece(sums_RB: FloatArray, n: int) -> FloatArray:
    """The bins stay those of the full sample in every resample: then ECE is made of sums, too."""
    return np.asarray(np.abs(sums_RB).sum(axis=-1) / n)


# ---- regression -----------------------------------------------------------------------------------------------------
def _moments(values_N: FloatArray, gold_N: FloatArray) -> FloatArray:
    x, y = _standardised(values_N), _standardised(gold_N)
    return np.stack([x, y, x * x, y * y, x * y], axis=-1)


def _standardised(values_N: npt.NDArray[Any]) -> FloatArray:
    # Sums of raw squares cancel; correlation does not see the shift and scale that prevent it.
    values = np.asarray(values_N, dtype=np.float64)
    if np.ptp(values) == 0:
        return np.zeros_like(values)
    centred = values - values.mean()
    return np.asarray(centred / np.abs(centred).max())


def _pearson(sums: FloatArray, n: int) -> FloatArray:
    """0 where one side is constant: undefined there (SciPy: nan), but a nan would erase the task's average, and "no
    linear relation" is what it means. The same choice as for MCC."""
    x, y, xx, yy, xy = np.moveaxis(sums / n, -1, 0)
    var_x, var_y = xx - x * x, yy - y * y
    # Values are within +-1 after standardising: a variance below 1e-14 is the rounding of a constant resample.
    defined = (var_x > 1e-14) & (var_y > 1e-14)
    r = np.divide(xy - x * y, np.sqrt(np.where(defined, var_x * var_y, 1.0)), out=np.zeros_like(x), where=defined)
    return np.clip(r, -1.0, 1.0)


def _spearman(values_N: FloatArray, gold_N: npt.NDArray[Any]) -> Resampled:
    """Pearson's r of mid-ranks, ranks taken anew in every resample; 0 where one side is constant, as above."""
    ranks_of_value, ranks_of_gold = _midranks(values_N), _midranks(gold_N)

    def values(weights_RN: FloatArray) -> FloatArray:
        x_RN, y_RN = ranks_of_value(weights_RN), ranks_of_gold(weights_RN)
        covariance = (weights_RN * x_RN * y_RN).sum(axis=-1)
        product = (weights_RN * x_RN**2).sum(axis=-1) * (weights_RN * y_RN**2).sum(axis=-1)
        r = np.divide(covariance, np.sqrt(product), out=np.zeros_like(covariance), where=product > 0)
        return np.clip(r, -1.0, 1.0)

    return values


def _midranks(values_N: npt.NDArray[Any]) -> Callable[[FloatArray], FloatArray]:
    """Weights (R, N) -> centred mid-ranks (R, N) of the rows within each resample. Sorted once: a group of equal
    values has the mid-rank (draws below) + (draws in it + 1) / 2, and the mean of n ranks is (n + 1) / 2."""
    order_N = np.argsort(values_N, kind="stable")
    is_first_N = np.concatenate([[True], np.diff(values_N[order_N]) != 0])
    group_N = np.empty(len(values_N), dtype=np.int64)
    group_N[order_N] = np.cumsum(is_first_N) - 1
    first_G = np.flatnonzero(is_first_N)

    def ranks(weights_RN: FloatArray) -> FloatArray:
        drawn_RG = np.add.reduceat(weights_RN[:, order_N], first_G, axis=1)
        return np.asarray((np.cumsum(drawn_RG, axis=1) - (drawn_RG + len(values_N)) / 2)[:, group_N])

    return ranks


def _squared_error_N(values_N: FloatArray, target_N: FloatArray) -> FloatArray:
    return np.asarray((values_N - target_N) ** 2)


def _kl_to_known_N(outputs: FloatArray, target: FloatArray) -> FloatArray:
    """KL(target || model): target is (N, C) probabilities, for values (N, 2) a Gaussian's mean and spread."""
    if outputs.ndim == 2:
        return kl_N(target, outputs)
    return np.asarray((outputs - target[:, 0]) ** 2 / (2 * target[:, 1] ** 2))


# ---- checks ---------------------------------------------------------------------------------------------------------
class Metric(NamedTuple):
    """`recentre`: the statistic grows under resampling (a sum of absolute noise), so that a percentile interval can
    miss its own point estimate. The percentiles are then shifted by that growth, mean of resamples - value."""

    prepare: Prepare
    higher_is_better: bool
    recentre: bool = False


METRICS: dict[str, Metric] = {
    "accuracy": Metric(_additive(_class_counts, _accuracy), True),
    "f1": Metric(_additive(_class_counts, _f1), True),
    "macro_f1": Metric(_additive(_class_counts, _macro_f1), True),
    "mcc": Metric(_additive(_class_counts, _mcc), True),
    "mrr": Metric(_additive(_reciprocal_rank_N, _mean), True),
    "pearson": Metric(_additive(_moments, _pearson), True),
    "spearman": Metric(_spearman, True),
    "mse": Metric(_additive(_squared_error_N, _mean), False),
    "mse_truth": Metric(_additive(_squared_error_N, _mean), False),
    "nll": Metric(_additive(nll_N, _mean), False),
    "brier": Metric(_additive(brier_N, _mean), False),
    "ece": Metric(_additive(ece_gaps_NB, _ece), False, recentre=True),
    "kl_truth": Metric(_additive(_kl_to_known_N, _mean), False),
    "kl_humans": Metric(_additive(_kl_to_known_N, _mean), False),
}
HIGHER_IS_BETTER: dict[str, bool] = {**{name: m.higher_is_better for name, m in METRICS.items()}, "score": True}
