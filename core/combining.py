"""Ensembles whose recipe is fitted on a split: weights, temperatures, a greedy choice, a log-linear pool.

A recipe is fitted once on stored member logits and applied to those of any split; as plain JSON it can be shown and
applied again. FITTED, at the bottom, is the table; core/ensemble's strategies, without a fit, pass through here too.

A fit looks at labels, so it owns a split, and not any: on the reported one it would tune on its own exam, and on
`train` the members have seen the answers, which rewards the one that memorises best. Both are refused.

Few parameters throughout (M, or M + C), because selection splits have some hundred rows. Therefore deliberately absent:
weights per class or per example, trees on logits. The gain over the plain mean may be luck: look at its interval.

Shapes: M members, N examples, C classes, P parameters (M weights, then biases). Nats; float64 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from core import ensemble
from core.calibration import FloatArray, IntArray, fit_temperature, log_probs_NC, nll_N
from core.ensemble import STRATEGIES, CombinedValues
from core.metrics import evaluate
from core.tasks import Task, did_you_mean

Params = dict[str, list[float]]
Members = npt.ArrayLike | Sequence[npt.ArrayLike]

MIN_ROWS = 10  # below that even M weights are noise, and the table would show it as a result
GREEDY_ROUNDS = 25  # weights are counts of 25 or fewer: fine enough for a handful of members
# Stacking's pull to the plain mean: moving a weight by 1 must save 0.005 nats a row. Not tuned. It makes the optimum
# unique and finite, also where members say the same (they share their weight) or are never wrong on the split.
STACKING_L2 = 0.01
MAX_SUBSETS = 64  # of one size in a size curve, which is all of them up to M = 7


class Recipe(NamedTuple):
    """How to make the ensemble of M members, which are in the order in which the fit got them."""

    strategy: str  # of ensemble.STRATEGIES or FITTED
    fitted_on: str | None  # a split; None where nothing was fitted
    params: Params  # weights, temperatures, counts: (M,); biases: (C,); intercept: (1,)
    note: str | None = None  # where these parameters are not what the strategy's name promises

    def to_json(self) -> dict[str, Any]:
        return self._asdict()

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Recipe:
        """The recipe in an entry of `ensembles.json`; what else stands there (members, diversity) is not read."""
        if missing := [name for name in cls._fields if name not in entry]:
            raise ValueError(f"a recipe without {', '.join(missing)}, got {', '.join(entry)}; re-run stage 'ensemble'")
        _check_known(entry["strategy"])
        return cls(*(entry[name] for name in cls._fields))


def fit_recipe(
    strategy: str,
    logits_MNC: Members,
    gold_N: npt.ArrayLike,
    *,
    label_names_per_member: Sequence[Sequence[str]],
    split: str,
    reported_split: str,
    exchangeable: bool = False,
) -> Recipe:
    """The recipe of `strategy` for classification and ranking, fitted on rows of `split` whose gold is not -1.

    `exchangeable`: classes are ranking candidates, whose positions mean nothing, so nothing is fitted per class.
    Example: `fit_recipe("greedy", logits_MNC, gold_N, label_names_per_member=[names] * 3, split="selection",
    reported_split="test")`. Raises `ValueError` for an unknown strategy, members that do not match (as
    `ensemble.combine`), gold that is no index of a class and, where there is something to fit, fewer than 10 rows
    with gold and a `split` that is `train` or the reported one; dev and dev_mm count as one.
    """
    log_p_MNC = _checked_log_probs(strategy, logits_MNC, label_names_per_member)
    if strategy not in FITTED:
        return Recipe(strategy, None, {})
    gold = ensemble.check_gold(gold_N, n_examples=log_p_MNC.shape[1], n_classes=log_p_MNC.shape[2])
    known_N = gold >= 0
    _check_fit(strategy, int(known_N.sum()), split=split, reported_split=reported_split)
    log_p_MNC, gold = log_p_MNC[:, known_N], gold[known_N]
    params = FITTED[strategy].fit(log_p_MNC, gold, exchangeable)
    return Recipe(strategy, split, params, _note(params, flawless_M=(log_p_MNC.argmax(axis=-1) == gold).all(axis=1)))


def apply_recipe(recipe: Recipe, logits_MNC: Members, *, label_names_per_member: Sequence[Sequence[str]]) -> FloatArray:
    """(N, C) logits of the ensemble; softmax of them is its distribution.

    Raises `ValueError` as `ensemble.combine`, and for a recipe of another number of members or classes. That these
    are the fit's members, in its order, is the caller's care: their names stand beside the recipe.
    """
    log_p_MNC = _checked_log_probs(recipe.strategy, logits_MNC, label_names_per_member)
    if recipe.strategy not in FITTED:
        return ensemble.combine(recipe.strategy, logits_MNC, label_names_per_member=label_names_per_member)
    row = FITTED[recipe.strategy]
    return row.apply(log_p_MNC, *_checked_params(recipe, row.params, len(log_p_MNC), biases=log_p_MNC.shape[2]))


def fit_values(strategy: str, values_MN: Members, gold_N: npt.ArrayLike, *, split: str, reported_split: str) -> Recipe:
    """The recipe of `strategy` for regression; rows whose gold is nan are left out. Errors as in `fit_recipe`.

    core/ensemble's strategies all are the plain mean here, and so they should: it is the mean of the mixture, and the
    centre of the geometric mean of Gaussians of one width.
    """
    _check_known(strategy)
    stacked_MN = ensemble.stack_members(values_MN, ndim=1, what="values")
    if strategy not in FITTED:
        return Recipe(strategy, None, {})
    gold = np.asarray(gold_N, dtype=np.float64)
    if gold.shape != stacked_MN.shape[1:]:
        raise ValueError(f"gold has shape {gold.shape}, the values {stacked_MN.shape[1:]}, expected the same")
    known_N = np.isfinite(gold)
    _check_fit(strategy, int(known_N.sum()), split=split, reported_split=reported_split)
    params = FITTED[strategy].fit_values(stacked_MN[:, known_N], gold[known_N])
    return Recipe(strategy, split if params else None, params, _note(params))


def apply_values(recipe: Recipe, values_MN: Members) -> CombinedValues:
    """Regression: the ensemble's values and its members' spread around them, both (N,), in the task's units.

    The spread is that of the weighted members (population form), 0 where one member has all the weight. Stacking's
    weights can be negative and are no mixture then: its spread is the members' plain one. Errors as `apply_recipe`.
    """
    _check_known(recipe.strategy)
    stacked_MN = ensemble.stack_members(values_MN, ndim=1, what="values")
    names = FITTED[recipe.strategy].value_params if recipe.strategy in FITTED else ()
    params = _checked_params(recipe, names, len(stacked_MN), intercept=1)
    if not params:
        return ensemble.combine_values(stacked_MN)
    if len(params) == 2:
        return CombinedValues(params[0] @ stacked_MN + params[1], stacked_MN.std(axis=0))
    shares_M = params[0] / params[0].sum()
    mean_N = shares_M @ stacked_MN
    return CombinedValues(mean_N, np.sqrt(shares_M @ (stacked_MN - mean_N) ** 2))


def size_curve(
    task: Task, outputs_by_member: Members, gold_arguments: Mapping[str, Any], *, strategy: str = "mean_probs"
) -> list[dict[str, Any]]:
    """What each further member adds: a row for K = 1..M with the scores of the first K members' ensemble.

    `outputs_by_member`, best first: logits (N, C), for regression values (N,), of which any strategy takes the mean.
    `gold_arguments` go to `core.metrics.evaluate`, whose scores these are: `{"k", "accuracy", ..., "n_subsets"}`. Where
    at most 64 subsets have K members, `"mean_over_subsets": {"accuracy", ...}` is over all of them, whatever the order.
    Example: `size_curve(TASKS["mnli"], [a_NC, b_NC], {"gold_index": gold_N})[1]["accuracy"]`.
    Raises `ValueError` for a fitted strategy (each subset would need a fit), and as `combine` and `evaluate` do.
    """
    _check_known(strategy)
    if strategy in FITTED:
        raise ValueError(f"size_curve got '{strategy}', which needs a fit; expected one of {', '.join(STRATEGIES)}")
    is_regression = task.kind == "regression"
    outputs = ensemble.stack_members(outputs_by_member, ndim=1 if is_regression else 2, what="outputs")

    def scores(members: Sequence[int]) -> dict[str, float]:
        part = outputs[list(members)]
        mean = part.mean(axis=0) if is_regression else STRATEGIES[strategy](part)
        return {name: s.value for name, s in evaluate(task, outputs=mean, resamples=1, **gold_arguments).items()}

    curve: list[dict[str, Any]] = []
    for k in range(1, len(outputs) + 1):
        curve.append({"k": k, **scores(range(k)), "n_subsets": math.comb(len(outputs), k)})
        if curve[-1]["n_subsets"] <= MAX_SUBSETS:
            each = [scores(members) for members in combinations(range(len(outputs)), k)]
            curve[-1]["mean_over_subsets"] = {name: float(np.mean([s[name] for s in each])) for name in each[0]}
    return curve


# ---- checks ---------------------------------------------------------------------------------------------------------
def _check_known(strategy: str) -> None:
    if strategy not in (known := (*STRATEGIES, *FITTED)):
        near = did_you_mean(strategy, known)
        raise ValueError(f"strategy '{strategy}' is not known{near} Expected one of {', '.join(known)}")


def _checked_log_probs(strategy: str, logits_MNC: Members, label_names: Sequence[Sequence[str]]) -> FloatArray:
    _check_known(strategy)
    stacked_MNC = ensemble.stack_members(logits_MNC, ndim=2, what="logits")
    ensemble.check_label_names(label_names, n_members=len(stacked_MNC), n_classes=stacked_MNC.shape[2])
    return log_probs_NC(stacked_MNC)


def _check_fit(strategy: str, n_rows: int, *, split: str, reported_split: str) -> None:
    if split.removesuffix("_mm") == reported_split.removesuffix("_mm"):
        why = f"'{reported_split}' is reported, and the ensemble would be tuned on what it is judged by"
    elif split == "train":
        why = "the members have seen these labels, and the fit would reward the one that has memorised most"
    elif n_rows < MIN_ROWS:
        why = f"it has {n_rows} rows with gold, expected at least {MIN_ROWS}"
    else:
        return
    raise ValueError(
        f"strategy '{strategy}' cannot be fitted on '{split}': {why}. Fit it on a labelled split that is neither "
        f"reported nor trained on (ensemble.fit_split=selection), or use one without a fit: {', '.join(STRATEGIES)}"
    )


def _checked_params(recipe: Recipe, names: tuple[str, ...], n_members: int, **lengths: int) -> list[FloatArray]:
    expected = {name: lengths.get(name, n_members) for name in names}
    got = {name: len(values) for name, values in recipe.params.items()}
    if got != expected:
        raise ValueError(
            f"recipe '{recipe.strategy}' of '{recipe.fitted_on}' has parameters {got}, expected {expected} for these "
            "members; apply it to the members that it was fitted on"
        )
    return [np.array(recipe.params[name], dtype=np.float64) for name in names]


def _note(params: Params, *, flawless_M: npt.ArrayLike = ()) -> str | None:
    if not params:
        return "a value has no temperature to fit: this is the plain mean"
    if "temperatures" in params and (flawless := np.flatnonzero(flawless_M).tolist()):
        return f"the rows fix no temperature of members {flawless}, always right on them: the lower the better"
    shares = params.get("counts") or params.get("weights", [])
    if len(params) == 1 and sum(share > 0 for share in shares) == 1:
        return f"all the weight is member {int(np.argmax(shares))}'s: this is that member alone"
    return None


# ---- strategies: log-probabilities (M, N, C) and gold (N,) -> parameters; these applied -> (N, C) -------------------
def _mixture(log_p_MNC: FloatArray, weights_M: FloatArray) -> FloatArray:
    """log sum_m w_m p_m of weights scaled to sum 1. Members of weight 0 stay out, as their log w is -inf."""
    used_M = weights_M > 0
    log_w_M = np.log(weights_M[used_M] / weights_M.sum())
    return np.asarray(special.logsumexp(log_p_MNC[used_M] + log_w_M[:, None, None], axis=0))


def _mean_of_tempered(log_p_MNC: FloatArray, temperatures_M: FloatArray) -> FloatArray:
    return STRATEGIES["mean_probs"](log_p_MNC / temperatures_M[:, None, None])


def _pool(log_p_MNC: FloatArray, weights_M: FloatArray, biases_C: FloatArray) -> FloatArray:
    """log softmax_c (sum_m w_m log p_mc + b_c); weights 1/M and biases 0 are the geometric mean."""
    return log_probs_NC(np.tensordot(weights_M, log_p_MNC, axes=1) + biases_C)


def _fit_weighted(log_p_MNC: FloatArray, gold_N: IntArray, exchangeable: bool) -> Params:
    """w_m proportional to exp(-NLL_m), the geometric mean of the probability that the member gives to gold."""
    return {"weights": special.softmax([-nll_N(log_p_NC, gold_N).mean() for log_p_NC in log_p_MNC]).tolist()}


def _fit_weighted_values(values_MN: FloatArray, gold_N: FloatArray) -> Params:
    """w_m proportional to 1 / MSE_m; members without any error share all the weight."""
    mse_M = ((values_MN - gold_N) ** 2).mean(axis=1)
    # Relative to the best, so that neither 0 nor a denormal MSE is inverted.
    weights_M = np.divide(mse_M.min(), mse_M, out=np.ones_like(mse_M), where=mse_M > mse_M.min())
    return {"weights": (weights_M / weights_M.sum()).tolist()}


def _fit_calibrated(log_p_MNC: FloatArray, gold_N: IntArray, exchangeable: bool) -> Params:
    """A mean of calibrated members is itself under-confident (Ranjan & Gneiting 2010), so its NLL need not be lower."""
    return {"temperatures": [fit_temperature(log_p_NC, gold_N) for log_p_NC in log_p_MNC]}


def _fit_greedy(log_p_MNC: FloatArray, gold_N: IntArray, exchangeable: bool) -> Params:
    # A mixture's NLL needs the members' probabilities of gold alone, and as logarithms they cannot underflow.
    gold_log_p_MN = -np.stack([nll_N(log_p_NC, gold_N) for log_p_NC in log_p_MNC])
    return _greedy(gold_log_p_MN, np.logaddexp, lambda sum_MN, k: np.log(k) - sum_MN.mean(axis=1))


def _fit_greedy_values(values_MN: FloatArray, gold_N: FloatArray) -> Params:
    return _greedy(values_MN, np.add, lambda sum_MN, k: ((sum_MN / k - gold_N) ** 2).mean(axis=1))


def _greedy(members_MN: FloatArray, add: np.ufunc, losses_M: Callable[[FloatArray, int], FloatArray]) -> Params:
    """Selection with replacement (Caruana et al. 2004): each round adds the member that helps most or hurts least;
    the best prefix is kept. The first member wins a tie."""
    sum_N = np.full(members_MN.shape[1], add.identity)  # the empty ensemble: 0, or its logarithm
    best, kept, order = math.inf, 0, []
    for k in range(1, GREEDY_ROUNDS + 1):
        sums_MN = add(sum_N, members_MN)
        loss_M = losses_M(sums_MN, k)
        order.append(int(loss_M.argmin()))
        sum_N, loss = sums_MN[order[-1]], float(loss_M.min())
        # Counts 2, 2 are the mixture of 1, 1: its rounding must not pass for an improvement.
        if loss < best and not math.isclose(loss, best, rel_tol=1e-12, abs_tol=1e-15):
            best, kept = loss, k
    return {"counts": np.bincount(order[:kept], minlength=len(members_MN)).astype(np.float64).tolist()}


def _fit_stacking(log_p_MNC: FloatArray, gold_N: IntArray, exchangeable: bool) -> Params:
    """Minimises mean NLL + l2/2 (|w - 1/M|^2 + |b|^2), convex. Weights may be negative and need not sum to 1: the
    pool then sharpens or flattens, so it calibrates, too."""
    n_members, n_rows, n_classes = log_p_MNC.shape
    start_P = np.concatenate([np.full(n_members, 1 / n_members), np.zeros(n_classes)])
    gold_NC = np.eye(n_classes)[gold_N]

    def objective(params_P: FloatArray) -> tuple[float, FloatArray]:
        log_q_NC = _pool(log_p_MNC, params_P[:n_members], params_P[n_members:])
        error_NC = (np.exp(log_q_NC) - gold_NC) / n_rows
        # Without a gradient L-BFGS leaves the biases where they start: at 0.
        biases_C = np.zeros(n_classes) if exchangeable else error_NC.sum(axis=0)
        shift_P = params_P - start_P
        loss = -(gold_NC * log_q_NC).sum() / n_rows + STACKING_L2 / 2 * shift_P @ shift_P
        return float(loss), np.concatenate([np.tensordot(log_p_MNC, error_NC), biases_C]) + STACKING_L2 * shift_P

    # factr 0: stop by the gradient. The line search may end on rounding before that, so its own verdict says nothing.
    best_P, _, _ = optimize.fmin_l_bfgs_b(objective, start_P, factr=0.0, pgtol=1e-8, maxiter=2000)
    slope = float(np.abs(objective(best_P)[1]).max())
    if slope > 1e-4:  # by strong convexity the parameters are off by at most sqrt(P) slope / l2
        raise ValueError(f"stacking: gradient {slope:.1e} at the end, expected 1e-4 or less; did a member diverge?")
    return {"weights": best_P[:n_members].tolist(), "biases": best_P[n_members:].tolist()}


def _fit_stacking_values(values_MN: FloatArray, gold_N: FloatArray) -> Params:
    """Ridge: mean (y - w v - b)^2 / (2 s^2) + l2/2 (|w - 1/M|^2 + (b / s)^2). s, gold's spread on the split, makes
    the pull as strong on a scale of 0..5 as on one of 0..100."""
    n_members, n_rows = values_MN.shape
    scale = float(gold_N.std()) if np.ptp(gold_N) > 0 else 1.0
    design_NP = np.column_stack([values_MN.T / scale, np.ones(n_rows)])
    error_N = (gold_N - values_MN.mean(axis=0)) / scale
    matrix_PP = design_NP.T @ design_NP / n_rows + STACKING_L2 * np.eye(n_members + 1)
    shift_P = np.linalg.solve(matrix_PP, design_NP.T @ error_N / n_rows)
    return {"weights": (1 / n_members + shift_P[:-1]).tolist(), "intercept": [float(shift_P[-1] * scale)]}


class Fitted(NamedTuple):
    """`apply` gets the arrays that `params` names. For regression all are one weighted sum; without names, the mean."""

    fit: Callable[[FloatArray, IntArray, bool], Params]
    apply: Callable[..., FloatArray]
    params: tuple[str, ...]
    fit_values: Callable[[FloatArray, FloatArray], Params]
    value_params: tuple[str, ...]


FITTED: dict[str, Fitted] = {
    "weighted": Fitted(_fit_weighted, _mixture, ("weights",), _fit_weighted_values, ("weights",)),
    "calibrated": Fitted(_fit_calibrated, _mean_of_tempered, ("temperatures",), lambda values_MN, gold_N: {}, ()),
    "greedy": Fitted(_fit_greedy, _mixture, ("counts",), _fit_greedy_values, ("counts",)),
    "stacking": Fitted(_fit_stacking, _pool, ("weights", "biases"), _fit_stacking_values, ("weights", "intercept")),
}
