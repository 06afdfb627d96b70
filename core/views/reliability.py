"""Are the voices' probabilities honest, and was the teacher's over- or under-confidence passed on?

Bins, intervals and the temperature are those of core/calibration.

Shapes: N examples, n of them with gold, B bins, C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from core.calibration import Reliability, ece, fit_temperature, reliability, top_label
from core.metrics import Score, evaluate
from core.views import NotDefined
from core.views.distances import Mean, mean_interval
from core.views.kept import kept
from core.views.table import TaskTable


class Curve(NamedTuple):
    """`bins` of (B,) arrays, the ECE, mean confidence - accuracy (above 0: over-confident) with its interval, and the
    temperature by which logits were divided."""

    voice: str
    bins: Reliability
    ece: float
    overconfidence: Mean
    temperature: float


@kept
def curve(
    table: TaskTable,
    voice: str,
    rows: npt.ArrayLike | None = None,
    *,
    n_bins: int = 15,
    temperature: float = 1.0,
    seed: int = 0,
) -> Curve:
    """Equal-mass bins over the rows with gold. Raises `NotDefined` for regression and without gold."""
    logits_NC = table.log_probs(voice)
    chosen = np.arange(len(table)) if rows is None else np.asarray(rows, np.int64)
    chosen = chosen[table.has_gold[chosen]]
    if not len(chosen):
        raise NotDefined("No example with gold here, so nothing tells whether a probability is honest.")
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}, expected a number above 0")
    scaled_nC, gold_n = logits_NC[chosen].astype(np.float64) / temperature, table.gold_N[chosen].astype(np.int64)
    confidence_n, correct_n = top_label(scaled_nC, gold_n)
    return Curve(
        voice,
        reliability(scaled_nC, gold_n, n_bins=n_bins),
        ece(scaled_nC, gold_n, n_bins=n_bins),
        mean_interval(confidence_n - correct_n, seed=seed),
        temperature,
    )


@kept
def temperature_of(table: TaskTable, voice: str) -> float:
    """The temperature that makes `voice` most honest on this table. Give the table of the selection split and use the
    value on another: fitted on the rows that are shown, it would flatter. Raises `NotDefined` without gold."""
    logits_NC, known_N = table.log_probs(voice), table.has_gold
    if not known_N.any():
        raise NotDefined(f"Split '{table.split}' of task '{table.task.name}' has no gold to fit a temperature to.")
    return fit_temperature(logits_NC[known_N], table.gold_N[known_N].astype(np.int64))


def ece_of(table: TaskTable, voice: str, *, temperature: float = 1.0, resamples: int = 200) -> Score | None:
    """The expected calibration error with its 95 % interval over examples; None without gold. Kept with the table: an
    interval over a million rows takes a second."""

    def scored() -> dict[str, Score]:
        logits_NC = table.log_probs(voice).astype(np.float64) / temperature
        return evaluate(table.task, outputs=logits_NC, gold_index=table.gold_N, resamples=resamples)

    found: dict[str, Score] = table.kept.once(("ece", voice, temperature, resamples), scored)
    return found.get("ece")
