"""How far the voices are from people and from the truth: divergences per example, means with intervals, who is closer.

The Jensen-Shannon distance is the square root of the divergence in base 2: a metric in 0..1, finite where an annotator
was alone with a label. KL to the same is a column (core/views/derived) and infinite there.

Intervals are over examples, seeded, and the resamples depend on (n, seed) alone, so that those of two voices on the
same rows are paired.

Shapes: N examples, n of them known, C classes, R resamples.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from core.calibration import FloatArray, IntArray
from core.views import NotDefined
from core.views.kept import kept
from core.views.reading import chunks
from core.views.table import TaskTable

RESAMPLES = 1000
# Beyond that a mean is normal to the last digit shown, and a million rows times a thousand resamples take a minute.
BOOTSTRAP_ROWS = 20_000
_Z_95 = 1.959963984540054


class Mean(NamedTuple):
    """A mean over n examples with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


class Distances(NamedTuple):
    """For each of `rows` with a known distribution the distance of each voice, (n,), and their means."""

    rows: IntArray
    of: dict[str, FloatArray]
    mean: dict[str, Mean]


def js_distance_N(p_NC: npt.ArrayLike, q_NC: npt.ArrayLike) -> FloatArray:
    """sqrt(H2(m) - (H2(p) + H2(q)) / 2) with m = (p + q) / 2 and H2 in bits: 0 iff p = q, 1 iff disjoint (Endres &
    Schindelin 2003). Rows are normalised; nan rows give nan. `ValueError` for shapes that differ."""
    p, q = np.asarray(p_NC, np.float64), np.asarray(q_NC, np.float64)
    if p.shape != q.shape or p.ndim != 2:
        raise ValueError(f"js_distance_N: shapes {p.shape} and {q.shape}, expected the same (N, C); join by example id")
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    m = (p + q) / 2
    # As a sum of KLs to m and not as a difference of entropies, which cancels for close p and q.
    nats_N = (special.rel_entr(p, m).sum(axis=1) + special.rel_entr(q, m).sum(axis=1)) / 2
    return np.asarray(np.sqrt(np.clip(nats_N / np.log(2), 0.0, 1.0)))


@kept
def distances(
    table: TaskTable,
    which: Literal["humans", "truth"],
    voices: tuple[str, ...],
    rows: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
) -> Distances:
    """Jensen-Shannon distance of each voice to `which`. Raises `NotDefined` for regression, and where nothing is known
    of these rows."""
    known_NC = table.known(which)
    chosen = np.arange(len(table)) if rows is None else np.asarray(rows, np.int64)
    chosen = chosen[np.isfinite(known_NC[chosen]).all(axis=1)]
    if not len(chosen):
        raise NotDefined(f"None of these examples of task '{table.task.name}' has {which} to be compared with.")
    of: dict[str, FloatArray] = {}
    for voice in voices:
        log_q_NC, values_n = table.log_probs(voice), np.empty(len(chosen))
        for part in chunks(len(chosen)):
            q_nC = np.exp(log_q_NC[chosen[part]].astype(np.float64))
            values_n[part] = js_distance_N(known_NC[chosen[part]], q_nC)
        of[voice] = values_n
    return Distances(chosen, of, {voice: mean_interval(values_n, seed=seed) for voice, values_n in of.items()})


def difference(found: Distances, a: str, b: str, *, seed: int = 0) -> Mean:
    """Mean over examples of (distance of a) - (distance of b), paired: below 0, a is the closer. The interval does
    not know the luck of training; compare seeds for that (core/views/results)."""
    return mean_interval(found.of[a] - found.of[b], seed=seed)


def mean_interval(values_n: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Mean:
    """Mean and 95 % percentile bootstrap interval; above BOOTSTRAP_ROWS rows the normal one. Raises `ValueError` for no
    values or values that are not finite."""
    values = np.asarray(values_n, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"mean_interval: {values.shape} values, expected at least one, all finite; drop unknown rows")
    n, mean = len(values), float(values.mean())
    if n > BOOTSTRAP_ROWS:
        half = _Z_95 * float(values.std(ddof=1)) / np.sqrt(n)
        return Mean(mean, mean - half, mean + half, n)
    rng = np.random.default_rng(seed)
    # Row by row, in 160 kB: an (R, n) matrix of draws would be 160 MB.
    means_R = np.array([values[rng.integers(n, size=n)].mean() for _ in range(resamples)])
    low, high = np.percentile(means_R, [2.5, 97.5])
    return Mean(mean, float(low), float(high), n)
