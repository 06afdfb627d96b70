"""Resamples of rows for core/metrics: counts, or for very many rows sums drawn from their normal limit.

A million rows a thousand times over would take a minute and gigabytes. Beyond NORMAL_ROWS rows, more than any
development set of GLUE has, a resample is therefore not drawn: its sums are, from the normal distribution that they
tend to.

Shapes: N examples, R resamples, S statistics of one metric, T of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from core.calibration import FloatArray

CHUNK_BYTES = 16_000_000  # of one float64 block of weights: N = 40,000 never holds its R x N matrix
NORMAL_ROWS = 50_000


class Additive(NamedTuple):
    """A metric of sums over the rows: `stats_NS` (N, S), and `finish`: sums (R, S) and N -> values (R,)."""

    stats_NS: FloatArray
    finish: Callable[[FloatArray, int], FloatArray]

    def __call__(self, weights_RN: FloatArray) -> FloatArray:
        return self.finish(weights_RN @ self.stats_NS, len(self.stats_NS))


@lru_cache(maxsize=4)
def bootstrap_weights(n: int, *, resamples: int, seed: int) -> npt.NDArray[np.uint16]:
    """(R, N) counts: how often each of n rows is drawn in each resample; rows sum to n. Multinomial, and a function
    of its arguments alone. 80 MB for n = 40,000 and 1000 resamples; kept for the next model of the same task."""
    if n < 1 or resamples < 1:
        raise ValueError(f"n is {n} and resamples {resamples}, expected at least 1 of both")
    rng = np.random.default_rng(seed)
    counts_RN = np.empty((resamples, n), dtype=np.uint16)
    for row_N in counts_RN:
        # Counting n drawn rows is the multinomial, ten times faster than numpy's chain of binomials.
        row_N[:] = np.bincount(rng.integers(n, size=n), minlength=n)
    counts_RN.flags.writeable = False  # the cache gives everybody the same array
    return counts_RN


def weight_blocks(n: int, resamples: int, seed: int) -> Iterator[FloatArray]:
    """The weights in float64, a block of rows at a time."""
    counts_RN = bootstrap_weights(n, resamples=resamples, seed=seed)
    rows = max(1, CHUNK_BYTES // (8 * n))
    for start in range(0, resamples, rows):
        yield counts_RN[start : start + rows].astype(np.float64)


def normal_values(metrics: dict[str, Additive], resamples: int, seed: int) -> dict[str, FloatArray]:
    """Each metric of R draws of the sums, all metrics of one draw together, since `score` averages them. The sum of n
    rows drawn with replacement has mean n m and covariance n S, with m and S those of the rows (central limit)."""
    all_stats = [metric.stats_NS for metric in metrics.values()]
    n, mean_T = len(all_stats[0]), np.concatenate([stats_NS.mean(axis=0) for stats_NS in all_stats])
    scatter_TT = np.zeros((len(mean_T), len(mean_T)))
    for start in range(0, n, NORMAL_ROWS):  # side by side they would be 200 MB for a million rows
        centred_nT = np.concatenate([stats_NS[start : start + NORMAL_ROWS] for stats_NS in all_stats], axis=1) - mean_T
        scatter_TT += centred_nT.T @ centred_nT
    # Counts of classes add up to one another, so S is singular: eigenvectors, and no Cholesky.
    rng = np.random.default_rng(seed)
    sums_RT = rng.multivariate_normal(n * mean_T, scatter_TT, size=resamples, method="eigh")
    values, start = {}, 0
    for name, metric in metrics.items():
        width = metric.stats_NS.shape[1]
        values[name] = metric.finish(sums_RT[:, start : start + width], n)
        start += width
    return values
