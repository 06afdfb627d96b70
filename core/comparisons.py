"""Two recipes compared over seeds: mean, standard error, and what may be said.

The luck of training is what varies here; the choice of test examples is the bootstrap's subject (core/metrics).

Shapes: S seeds.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

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

    "no difference" where |mean of a - b| <= 2 standard errors (STYLE.md), "one seed" where S = 1, which shows
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
