"""Are the probabilities honest? Log-loss, Brier score, KL to a known distribution, reliability bins, one temperature.

Per-example quantities end in `_N` and are unreduced: the caller averages, filters or links them to their examples.
core/metrics builds its bootstrap intervals on these functions, which is why this file imports nothing of ours.

Deliberately absent: vector or matrix scaling and isotonic regression (one parameter is what the literature on
distillation uses, and it cannot change an argmax); the debiased and kernel ECEs, which rest on assumptions that a
page cannot show. Everything runs in float64: with logits at +-1e3 a probability underflows, its logarithm does not,
so losses are taken from log-probabilities and never from the log of a softmax.

Shapes: N examples, C classes, B bins. `logits_NC` may be log-probabilities everywhere, because log_softmax leaves
normalised log-probabilities as they are. Logarithms are natural: nats.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Binning = Literal["mass", "width"]

TEMPERATURE_RANGE = (0.05, 20.0)
FEW_CLASSES = 8  # from there on numpy adds up the last axis in another order
Z_95 = 1.959963984540054  # two-sided 95 % point of the normal


def log_probs_NC(logits_NC: npt.ArrayLike) -> FloatArray:
    """log softmax over the last axis, float64; also accepts (M, N, C)."""
    logits = np.asarray(logits_NC, dtype=np.float64)
    if logits.ndim < 2 or logits.shape[-1] >= FEW_CLASSES or not np.isfinite(logits).all():
        return np.asarray(special.log_softmax(logits, axis=-1))
    # The same operations in the same order, so the same bits, classes first: numpy reduces a short last axis slowly.
    log_p = np.ascontiguousarray(np.moveaxis(logits, -1, 0))
    log_p -= log_p.max(axis=0)
    log_p -= np.log(np.exp(log_p).sum(axis=0))
    return np.ascontiguousarray(np.moveaxis(log_p, 0, -1))


def nll_N(logits_NC: npt.ArrayLike, gold_N: npt.ArrayLike) -> FloatArray:
    """-log q[gold], in nats, >= 0. `ValueError` where `gold_N` is not an index in 0..C-1."""
    log_q_NC, gold = _checked(logits_NC, gold_N)
    return -log_q_NC[np.arange(len(gold)), gold]


def brier_N(logits_NC: npt.ArrayLike, gold_N: npt.ArrayLike) -> FloatArray:
    """sum_c (q_c - e_c)^2, in 0..2 (Brier 1950, the sum over classes; for C = 2 twice the one-class form)."""
    log_q_NC, gold = _checked(logits_NC, gold_N)
    error_NC = np.exp(log_q_NC)
    error_NC[np.arange(len(gold)), gold] -= 1.0
    return np.asarray((error_NC**2).sum(axis=-1))


def entropy_N(probs_NC: npt.ArrayLike) -> FloatArray:
    """-sum_c p_c log p_c, in nats, 0..log C; 0 log 0 = 0. Works on the last axis, so (M, N, C) gives (M, N)."""
    return np.asarray(special.entr(np.asarray(probs_NC, dtype=np.float64)).sum(axis=-1))


def kl_N(probs_NC: npt.ArrayLike, logits_NC: npt.ArrayLike) -> FloatArray:
    """KL(p || q) in nats with q = softmax(logits) (or logits = log q): what q does not know about p.

    Classes with p = 0 add nothing, even where log q is -inf. Finite for finite logits. Not clipped at 0: a `probs`
    row that does not sum to 1 would show as a negative value, and hiding that would hide the caller's mistake.
    `ValueError` for shapes that differ.
    """
    p_NC = np.asarray(probs_NC, dtype=np.float64)
    log_q_NC = log_probs_NC(logits_NC)
    if p_NC.shape != log_q_NC.shape:
        raise ValueError(
            f"kl_N: probs have shape {p_NC.shape}, logits {log_q_NC.shape}, expected the same; "
            "join the two by example_id and check the label names"
        )
    cross_NC = np.zeros_like(p_NC)
    np.multiply(p_NC, log_q_NC, out=cross_NC, where=p_NC > 0)  # 0 * -inf would be nan
    return np.asarray((special.xlogy(p_NC, p_NC) - cross_NC).sum(axis=-1))


class Reliability(NamedTuple):
    """One row per bin, in order of confidence; arrays of shape (B,). Empty bins have n_examples 0 and nan elsewhere.

    `confidence` is the bin's mean top probability, `accuracy` its share of correct argmaxes with the Wilson 95 %
    interval [accuracy_low, accuracy_high].
    """

    confidence: FloatArray
    accuracy: FloatArray
    accuracy_low: FloatArray
    accuracy_high: FloatArray
    n_examples: IntArray


def reliability(
    logits_NC: npt.ArrayLike, gold_N: npt.ArrayLike, *, n_bins: int = 15, binning: Binning = "mass"
) -> Reliability:
    """The reliability diagram as a table: `reliability(logits, gold).accuracy` against `.confidence`.

    Raises `ValueError` for gold outside 0..C-1, n_bins < 1 or an unknown binning.
    """
    confidence_N, correct_N = top_label(logits_NC, gold_N)
    bin_N = bin_index_N(confidence_N, n_bins=n_bins, binning=binning)
    count_B: IntArray = np.bincount(bin_N, minlength=n_bins)
    correct_B = np.bincount(bin_N, weights=correct_N, minlength=n_bins)
    sum_B = np.bincount(bin_N, weights=confidence_N, minlength=n_bins)
    share_B = _divide(correct_B, count_B)
    low_B, high_B = wilson_interval(correct_B, count_B)
    return Reliability(_divide(sum_B, count_B), share_B, low_B, high_B, count_B)


def ece(logits_NC: npt.ArrayLike, gold_N: npt.ArrayLike, *, n_bins: int = 15, binning: Binning = "mass") -> float:
    """Expected calibration error: sum_b n_b / N |accuracy_b - confidence_b|, in 0..1.

    Equal-mass bins by default: top probabilities crowd near 1, where equal-width bins (Guo et al. 1706.04599) put
    most of the data into one. A plug-in estimate, biased upwards by at most 0.4 sqrt(B / N) where the
    probabilities are perfect, which therefore do not score 0: compare only values of the same N and B. nan for N = 0.
    """
    gaps_NB = ece_gaps_NB(logits_NC, gold_N, n_bins=n_bins, binning=binning)
    return float(np.abs(gaps_NB.sum(axis=0)).sum() / len(gaps_NB)) if len(gaps_NB) else float("nan")


def ece_gaps_NB(
    logits_NC: npt.ArrayLike, gold_N: npt.ArrayLike, *, n_bins: int = 15, binning: Binning = "mass"
) -> FloatArray:
    """(correct - confidence) in the column of the example's bin, 0 in the others. ECE is the sum over bins of the
    absolute column sums over N, because n_b (accuracy_b - confidence_b) is such a sum; core/metrics resamples it."""
    confidence_N, correct_N = top_label(logits_NC, gold_N)
    bin_N = bin_index_N(confidence_N, n_bins=n_bins, binning=binning)
    return np.asarray(np.eye(n_bins)[bin_N] * (correct_N - confidence_N)[:, None])


def top_label(logits_NC: npt.ArrayLike, gold_N: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """(confidence_N, correct_N): the largest probability, and 1.0 where its class is gold (ties: the first class)."""
    log_q_NC, gold = _checked(logits_NC, gold_N)
    return np.exp(log_q_NC.max(axis=-1)), (log_q_NC.argmax(axis=-1) == gold).astype(np.float64)


def bin_index_N(confidence_N: FloatArray, *, n_bins: int = 15, binning: Binning = "mass") -> IntArray:
    """The bin 0..n_bins-1 of each example; every example is in exactly one.

    "width": (lo, hi] with edges at b / n_bins. "mass": edges at the order statistics b N / n_bins, so bins differ by
    at most one example, unless confidences tie: equal confidences stay together, otherwise the bin of an example
    would depend on the order of the rows.
    """
    if n_bins < 1:
        raise ValueError(f"n_bins is {n_bins}, expected at least 1; the literature uses 15")
    if binning == "width":
        return np.searchsorted(np.linspace(0.0, 1.0, n_bins + 1)[1:-1], confidence_N, side="left").astype(np.int64)
    if binning != "mass":
        raise ValueError(f"binning is {binning!r}, expected 'mass' or 'width'")
    n = len(confidence_N)
    if n == 0:
        return np.zeros(0, dtype=np.int64)
    # Fewer examples than bins: the first example of several bins is the same one, and the surplus bins stay empty.
    first_B = (np.arange(1, n_bins) * n) // n_bins
    return np.searchsorted(np.sort(confidence_N)[first_B], confidence_N, side="right").astype(np.int64)


def wilson_interval(correct_B: npt.ArrayLike, count_B: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Wilson's 95 % interval of a share (Wilson 1927): inside 0..1 and sensible at 0 and n of n, where the usual
    p +- 1.96 se has no width. nan where count is 0."""
    k_B = np.asarray(correct_B, dtype=np.float64)
    n_B = np.asarray(count_B, dtype=np.float64)
    share_B = _divide(k_B, n_B)
    shrink_B = 1.0 + _divide(Z_95**2, n_B)
    centre_B = (share_B + _divide(Z_95**2 / 2, n_B)) / shrink_B
    variance_B = _divide(share_B * (1.0 - share_B), n_B) + _divide(Z_95**2 / 4, n_B**2)
    half_B = Z_95 * np.sqrt(variance_B) / shrink_B
    # The formula gives 0 and 1 at the ends up to rounding; a bar must not stick out of the unit square.
    return np.maximum(centre_B - half_B, 0.0), np.minimum(centre_B + half_B, 1.0)


def fit_temperature(logits_NC: npt.ArrayLike, gold_N: npt.ArrayLike) -> float:
    """The T that minimises the mean NLL of softmax(logits / T) (Guo et al. 1706.04599, section 4.2).

    T > 1: the model was over-confident. Searched in 0.05..20 on log T: the NLL is convex in 1/T, so it has one
    minimum in log T too and a bounded search cannot miss it. Predictions that are all right end at 0.05, all wrong
    or constant ones have no finite optimum either: read a T at a bound as "the data do not fix it".
    Fit on the selection split, report on another. `ValueError` for no rows or gold outside 0..C-1.
    """
    log_q_NC, gold = _checked(logits_NC, gold_N)
    if len(gold) == 0:
        raise ValueError("fit_temperature: 0 rows with gold, expected at least 1; choose a split that has labels")
    rows_N = np.arange(len(gold))

    def mean_nll(log_temperature: float) -> float:
        return float(-log_probs_NC(log_q_NC / np.exp(log_temperature))[rows_N, gold].mean())

    low, high = np.log(TEMPERATURE_RANGE)
    # xatol on log T is a relative tolerance on T: four digits, far below its sampling error.
    best = optimize.minimize_scalar(mean_nll, bounds=(low, high), method="bounded", options={"xatol": 1e-5})
    return float(np.exp(best.x))


def _checked(logits_NC: npt.ArrayLike, gold_N: npt.ArrayLike) -> tuple[FloatArray, IntArray]:
    """Log-probabilities and gold indices of the same length; a wrong index would silently read another class."""
    log_q_NC = log_probs_NC(logits_NC)
    gold = np.asarray(gold_N)
    if log_q_NC.ndim != 2 or gold.shape != log_q_NC.shape[:1]:
        raise ValueError(f"logits have shape {log_q_NC.shape} and gold {gold.shape}, expected (N, C) and (N,)")
    if gold.size and not np.issubdtype(gold.dtype, np.integer):
        raise ValueError(f"gold has dtype {gold.dtype}, expected integers: the index of the gold label in 0..C-1")
    if gold.size and not (gold.min() >= 0 and gold.max() < log_q_NC.shape[1]):
        raise ValueError(
            f"gold holds indices {gold.min()}..{gold.max()}, expected 0..{log_q_NC.shape[1] - 1}; "
            "drop the rows without gold (-1) and check the label names"
        )
    return log_q_NC, gold.astype(np.int64)


def _divide(a_B: npt.ArrayLike, b_B: npt.ArrayLike) -> FloatArray:
    """a / b, nan where b = 0 and without numpy's warning."""
    a, b = np.broadcast_arrays(np.asarray(a_B, dtype=np.float64), np.asarray(b_B, dtype=np.float64))
    return np.divide(a, b, out=np.full_like(b, np.nan), where=b > 0)
