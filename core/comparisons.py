"""Two recipes compared over seeds: mean, standard error, and what may be said.

The luck of training varies here, and in `nested_mean` the draw of the data too; the choice of test examples is the
bootstrap's subject (core/metrics).

Shapes: S seeds, D draws of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student_t

Verdict = Literal["better", "worse", "no difference", "one seed"]


class MeanSE(NamedTuple):
    """Mean over n values and its standard error; `se` is nan for one value."""

    mean: float
    se: float
    n: int


class Difference(NamedTuple):
    """Mean of a - b over n seeds, its standard error, and the verdict on a."""

    mean: float
    se: float
    n: int
    verdict: Verdict


def mean_and_se(values: npt.ArrayLike) -> MeanSE:
    """Mean and standard error std(ddof=1) / sqrt(S) of S values, for example one per seed."""
    values_S = np.asarray(values, dtype=np.float64)
    if values_S.ndim != 1 or len(values_S) == 0 or not np.isfinite(values_S).all():
        raise ValueError(f"values are {values_S.tolist()}, expected a list of at least one finite number")
    n = len(values_S)
    return MeanSE(float(values_S.mean()), float(values_S.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan"), n)


def paired_difference(a: npt.ArrayLike, b: npt.ArrayLike, *, higher_is_better: bool = True) -> Difference:
    """Is recipe a better than recipe b? `a`, `b` are (S,): one metric, the same seeds in the same order.

    "no difference" where |mean of a - b| <= 2 standard errors, "one seed" where S = 1, which shows
    nothing. With S = 3 the 95 % point of Student's t is 4.3 and not 2: "better" at n = 3 is a hint, at n >= 5 a
    finding. Example: `paired_difference(kd, hard, higher_is_better=HIGHER_IS_BETTER["nll"])`.
    Raises `ValueError` for lengths that differ, no values, or values that are not finite.
    """
    a_S, b_S = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a_S.shape != b_S.shape:
        raise ValueError(f"a has shape {a_S.shape}, b {b_S.shape}, expected one value for each shared seed in both")
    mean, se, n = mean_and_se(a_S - b_S)
    if n == 1:
        return Difference(mean, se, n, "one seed")
    if abs(mean) <= 2 * se or mean == 0:
        return Difference(mean, se, n, "no difference")
    return Difference(mean, se, n, "better" if (mean > 0) == higher_is_better else "worse")


# ---- over draws of the data ----------------------------------------------------------------------------------------
class Nested(NamedTuple):
    """Mean over D draws of the data with S seeds each, its standard error and that one's degrees of freedom; `se` is
    nan and `df` 0 for a single value."""

    mean: float
    se: float
    df: int
    n_data: int
    n_seeds: int

    @property
    def p(self) -> float:
        """Two-sided, of Student's t; 1 where there is no standard error, and for a difference of exactly 0."""
        if self.df == 0 or self.mean == 0:
            return 1.0
        return float(2 * student_t.sf(abs(self.mean) / self.se, self.df)) if self.se > 0 else 0.0


def nested_mean(values_DS: npt.ArrayLike) -> Nested:
    """Mean of values (D, S): S seeds on each of D draws of the data. For differences, give paired ones.

    Students of one draw share data, members and teachers: D x S values are fewer than D x S findings. With B = S x the
    variance of the draws' means and W = the mean variance within a draw, se^2 = max(B, W) / (D S), with the degrees
    of freedom of the larger, D - 1 or D (S - 1). B alone is the honest error of D means (Snedecor & Cochran, nested
    sampling); where the draws differ by no more than their seeds do, B and W estimate one variance, and the larger
    keeps a B that is small by luck (D is about 3) from passing for certainty. With D = 1, W alone: it says nothing
    about another draw. Example: `nested_mean(kd_DS - hard_DS)`. Raises `ValueError` for another shape or values that
    are not finite.
    """
    x_DS = np.asarray(values_DS, dtype=np.float64)
    if x_DS.ndim != 2 or x_DS.size == 0 or not np.isfinite(x_DS).all():
        raise ValueError(f"values have shape {x_DS.shape}, expected draws x seeds of finite numbers")
    n_data, n_seeds = x_DS.shape
    between = n_seeds * float(x_DS.mean(axis=1).var(ddof=1)) if n_data > 1 else -1.0
    within = float(x_DS.var(axis=1, ddof=1).mean()) if n_seeds > 1 else -1.0
    variance, df = max((between, n_data - 1), (within, n_data * (n_seeds - 1)))
    se = float(np.sqrt(variance / x_DS.size)) if df else float("nan")
    return Nested(float(x_DS.mean()), se, df, n_data, n_seeds)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p of each of m comparisons: below 0.05 means that, were all of them nothing, chance would raise even one
    of such in at most 5 % of cases (Holm 1979)."""
    adjusted, largest, m = [0.0] * len(p_values), 0.0, len(p_values)
    for rank, i in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (m - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
