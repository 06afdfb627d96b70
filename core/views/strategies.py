"""What size and recipe of an ensemble bring, from stored logits: every subset's score, every strategy's.

A strategy that has parameters is fitted on one table and scored on another, as in the pipeline; core/combining refuses
any other way. Results are plain values: a page keeps them under the files' fingerprint.

Shapes: N examples, n of them with gold, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import comb
from typing import Any, NamedTuple

import numpy as np

from core.calibration import FloatArray, IntArray, nll_N
from core.combining import FITTED, MAX_SUBSETS, apply_recipe, fit_recipe
from core.ensemble import STRATEGIES
from core.metrics import Score, evaluate
from core.views.paging import sample
from core.views.table import TaskTable

SCORED_ROWS = 100_000  # every subset and strategy is scored on so many: a score of 80 is then known to 0.13 points


class Subset(NamedTuple):
    """The mean of some members' probabilities, and its scores by metric."""

    models: tuple[str, ...]
    scores: dict[str, float]


class Combined(NamedTuple):
    """One strategy: scores with intervals over examples; per example with gold whether it is right and its log loss,
    both (n,), for paired differences; what its recipe says of itself; whether anything was fitted."""

    scores: dict[str, Score]
    right: FloatArray
    nll: FloatArray
    note: str | None
    is_fitted: bool


def known_of(table: TaskTable, rows: IntArray | slice = slice(None)) -> dict[str, Any]:
    """The arguments of `core.metrics.evaluate` for what this table knows of `rows` (all) beside the models."""
    known = {"gold_index": table.gold_N, "true_probs": table.truth_NC, "human_probs": table.humans_NC}
    return {name: values[rows] for name, values in known.items() if values is not None}


def scored_rows(table: TaskTable) -> IntArray:
    """All, or of very many rows a sample that is always the same."""
    return sample(table, np.arange(len(table)), SCORED_ROWS)


def subset_scores(table: TaskTable, models: Sequence[str]) -> list[Subset]:
    """The mean of every subset of `models` on `scored_rows`, as `core.combining.size_curve` averages them; of a size
    that has more than MAX_SUBSETS of them only the first members."""
    rows, found = scored_rows(table), []
    logits, known = [table.outputs(name)[rows] for name in models], known_of(table, rows)
    for k in range(1, len(models) + 1):
        first = combinations(range(len(models)), k) if comb(len(models), k) <= MAX_SUBSETS else [tuple(range(k))]
        for chosen in first:
            mean_NC = STRATEGIES["mean_probs"](np.stack([logits[i] for i in chosen]).astype(np.float64))
            scores = evaluate(table.task, outputs=mean_NC, resamples=1, **known)
            found.append(Subset(tuple(models[i] for i in chosen), {m: s.value for m, s in scores.items()}))
    return found


def strategy_scores(
    table: TaskTable, fit: TaskTable | None, models: Sequence[str], *, resamples: int = 400
) -> dict[str, Combined]:
    """Every strategy on the `scored_rows` of `table`, in the order of core/ensemble and core/combining. `fit` is the
    table that parameters are fitted on; None leaves the fitted strategies out."""
    names = [table.task.labels] * len(models)
    rows, found = scored_rows(table), {}
    shown, known_N, gold_N = [table.outputs(name)[rows] for name in models], table.has_gold[rows], table.gold_N[rows]
    for strategy in (*STRATEGIES, *FITTED):
        if strategy in FITTED and fit is None:
            continue
        source = table if fit is None or strategy not in FITTED else fit
        fit_rows = scored_rows(source)
        recipe = fit_recipe(
            strategy, [source.outputs(name)[fit_rows] for name in models], source.gold_N[fit_rows],
            label_names_per_member=names, split=source.split, reported_split=table.split,
            exchangeable=table.task.kind == "ranking",
        )  # fmt: skip
        made_NC = apply_recipe(recipe, shown, label_names_per_member=names)
        found[strategy] = Combined(
            evaluate(table.task, outputs=made_NC, resamples=resamples, **known_of(table, rows)),
            (made_NC.argmax(axis=1) == gold_N)[known_N].astype(np.float64),
            nll_N(made_NC[known_N], gold_N[known_N]),
            recipe.note,
            strategy in FITTED,
        )
    return found
