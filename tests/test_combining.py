"""Fitted ensembles: each strategy against naive code written another way, what no fit may touch, and the curve over K.

Shapes: M members, N examples, C classes; members 0 and 1 are good, member 2 is confident noise.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from sklearn.linear_model import Ridge

from core.calibration import log_probs_NC, nll_N
from core.combining import FITTED, STACKING_L2, Recipe, apply_recipe, apply_values, fit_recipe, fit_values, size_curve
from core.ensemble import STRATEGIES, combine, combine_values
from core.metrics import evaluate
from core.sections import FITTED_STRATEGIES
from core.tasks import Task

NAMES = ["entailment", "neutral", "contradiction"]
SPLITS = {"split": "selection", "reported_split": "test"}
EXACT = 1e-12  # a handful of float64 operations on numbers of order 1
# L-BFGS ends with a gradient of about 1e-8 and the objective is 0.01-strongly convex: parameters to about 1e-6.
OPTIMUM = 1e-5
PROFILE = settings(derandomize=True, deadline=None, max_examples=15)


def _members(n: int = 60, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(3, N, 3) logits and gold; every fifth row is unlabelled."""
    rng = np.random.default_rng(seed)
    gold_N = rng.integers(3, size=n)
    noise_MNC = np.array([1.5, 1.6, 3.0])[:, None, None] * rng.normal(size=(3, n, 3))
    logits_MNC = np.array([1.5, 1.5, 0.0])[:, None, None] * np.eye(3)[gold_N] + noise_MNC
    return logits_MNC, np.where(np.arange(n) % 5 == 0, -1, gold_N)


LOGITS_MNC, GOLD_N = _members()
KNOWN_N = GOLD_N >= 0
VALUE_N = np.where(KNOWN_N, np.random.default_rng(1).uniform(0, 5, size=60), np.nan)
NOISE_MN = [[0.4], [0.6], [2.5]] * np.random.default_rng(2).normal(size=(3, 60))
VALUES_MN = np.nan_to_num(VALUE_N) + 0.3 + NOISE_MN  # finite everywhere: members predict rows without gold, too


def _fit(strategy: str, logits_MNC: np.ndarray, gold_N: np.ndarray, **changes: object) -> Recipe:
    changes = {"label_names_per_member": [NAMES] * len(logits_MNC), **SPLITS, **changes}
    return fit_recipe(strategy, logits_MNC, gold_N, **changes)


def _probs(recipe: Recipe, logits_MNC: np.ndarray) -> np.ndarray:
    return np.exp(log_probs_NC(apply_recipe(recipe, logits_MNC, label_names_per_member=[NAMES] * len(logits_MNC))))


def _labelled(logits_MNC: np.ndarray, gold_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M, N', C) probabilities and gold of the labelled rows, by the plain softmax."""
    exps_MNC = np.exp(logits_MNC[:, gold_N >= 0])
    return exps_MNC / exps_MNC.sum(axis=-1, keepdims=True), gold_N[gold_N >= 0]


def _nll(probs_NC: np.ndarray, gold_N: np.ndarray) -> float:
    return -sum(np.log(probs_C[gold]) for probs_C, gold in zip(probs_NC, gold_N, strict=True)) / len(gold_N)


# ---- against naive code ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategies_without_a_fit_pass_through(strategy: str) -> None:
    assert tuple(FITTED) == FITTED_STRATEGIES  # the config's name for the rest
    recipe = _fit(strategy, LOGITS_MNC, GOLD_N, split="test")  # nothing is fitted, so no split is out of bounds
    assert recipe == Recipe(strategy, None, {})
    applied_NC = apply_recipe(recipe, LOGITS_MNC, label_names_per_member=[NAMES] * 3)
    np.testing.assert_array_equal(applied_NC, combine(strategy, LOGITS_MNC, label_names_per_member=[NAMES] * 3))
    recipe = fit_values(strategy, VALUES_MN, VALUE_N, split="test", reported_split="test")
    np.testing.assert_array_equal(apply_values(recipe, VALUES_MN), combine_values(VALUES_MN))


def test_weighted_is_the_mean_weighted_by_the_geometric_mean_probability_of_gold() -> None:
    probs_MNC, gold = _labelled(LOGITS_MNC, GOLD_N)
    performance_M = [np.prod([p[g] for p, g in zip(p_NC, gold, strict=True)]) ** (1 / len(gold)) for p_NC in probs_MNC]
    recipe = _fit("weighted", LOGITS_MNC, GOLD_N)
    np.testing.assert_allclose(recipe.params["weights"], performance_M / np.sum(performance_M), rtol=0, atol=EXACT)
    expected_NC = sum(w * p_NC for w, p_NC in zip(recipe.params["weights"], probs_MNC, strict=True))
    np.testing.assert_allclose(_probs(recipe, LOGITS_MNC)[KNOWN_N], expected_NC, rtol=0, atol=EXACT)


def test_calibrated_is_the_mean_of_members_at_their_best_temperature() -> None:
    recipe = _fit("calibrated", LOGITS_MNC, GOLD_N)
    grid_T = np.geomspace(0.05, 20, 1201)  # steps of 0.5 %
    tempered_MNC = np.empty_like(LOGITS_MNC)
    for m, temperature in enumerate(recipe.params["temperatures"]):
        probs_TNC, gold = _labelled(LOGITS_MNC[m] / grid_T[:, None, None], GOLD_N)
        # The optimum lies between the neighbours of the grid's best point.
        assert temperature == pytest.approx(grid_T[np.argmin([_nll(probs, gold) for probs in probs_TNC])], rel=0.005)
        tempered_MNC[m] = np.exp(log_probs_NC(LOGITS_MNC[m] / temperature))
    np.testing.assert_allclose(_probs(recipe, LOGITS_MNC), tempered_MNC.mean(axis=0), rtol=0, atol=EXACT)


def _greedy_counts(loss_of: Callable[[tuple[int, ...]], float]) -> list[int]:
    """Caruana's selection over explicit bags: every extension of the bag is built and scored from nothing."""
    bags: list[tuple[int, ...]] = [()]
    for _ in range(25):
        bags.append(min(((*bags[-1], m) for m in range(3)), key=lambda bag: round(loss_of(bag), 10)))
    chosen = Counter(min(bags[1:], key=lambda bag: round(loss_of(bag), 10)))  # the first of equals, so the shortest
    return [chosen[m] for m in range(3)]


@pytest.mark.parametrize("seed", range(5))
def test_greedy_equals_a_search_over_bags(seed: int) -> None:
    logits_MNC, gold_N = _members(30, seed=seed)
    logits_MNC[2] += 2 * np.eye(3)[gold_N]  # a useful third member, so that there is more to mix
    probs_MNC, gold = _labelled(logits_MNC, gold_N)
    counts = _greedy_counts(lambda bag: _nll(np.mean([probs_MNC[m] for m in bag], axis=0), gold))
    recipe = _fit("greedy", logits_MNC, gold_N)
    assert recipe.params["counts"] == counts
    assert max(counts) > 1  # members are repeated: this is no choice of a subset
    assert _fit("greedy", logits_MNC[[0, 0, 0]], gold_N).params["counts"] == [1, 0, 0]  # ties go to the first
    expected_NC = np.average(probs_MNC, axis=0, weights=counts)
    np.testing.assert_allclose(_probs(recipe, logits_MNC)[gold_N >= 0], expected_NC, rtol=0, atol=EXACT)


def _pool_objective(params_P: np.ndarray, probs_MNC: np.ndarray, gold_N: np.ndarray, exchangeable: bool) -> float:
    w_M, b_C = params_P[: len(probs_MNC)], params_P[len(probs_MNC) :] * (not exchangeable)
    total = 0.0
    for n, gold in enumerate(gold_N):
        z_C = [sum(w * np.log(p_NC[n, c]) for w, p_NC in zip(w_M, probs_MNC, strict=True)) + b_C[c] for c in range(3)]
        total += np.log(np.sum(np.exp(z_C))) - z_C[gold]
    penalty = ((w_M - 1 / len(w_M)) ** 2).sum() + (b_C**2).sum()
    return total / len(gold_N) + STACKING_L2 / 2 * penalty


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("exchangeable", [False, True])
def test_stacking_equals_a_minimiser_with_numerical_gradients(exchangeable: bool, seed: int) -> None:
    logits_MNC, gold_N = _members(30, seed=seed)
    probs_MNC, gold = _labelled(logits_MNC, gold_N)
    recipe = _fit("stacking", logits_MNC, gold_N, exchangeable=exchangeable)
    fitted_P = np.array([*recipe.params["weights"], *recipe.params["biases"]])
    arguments = (probs_MNC, gold, exchangeable)
    naive = optimize.minimize(_pool_objective, np.zeros(6), args=arguments, method="BFGS", options={"gtol": 1e-6})
    # Numerical gradients are good to 1e-8, BFGS stops at 1e-6, and 1e-6 / l2 is 1e-4. Unused biases stay at 0.
    np.testing.assert_allclose(fitted_P, naive.x, rtol=0, atol=2e-4)
    assert (recipe.params["biases"] == [0.0, 0.0, 0.0]) == exchangeable
    # The geometric mean pays no penalty, so what beats it with one beats it without.
    geometric_NC = combine("geometric_mean", logits_MNC, label_names_per_member=[NAMES] * 3)[gold_N >= 0]
    assert naive.fun + EXACT >= _pool_objective(fitted_P, *arguments) < nll_N(geometric_NC, gold).mean()
    z_NC = np.tensordot(fitted_P[:3], np.log(probs_MNC), axes=1) + fitted_P[3:]
    expected_NC = np.exp(z_NC) / np.exp(z_NC).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(_probs(recipe, logits_MNC)[gold_N >= 0], expected_NC, rtol=0, atol=EXACT)


def test_values_equal_textbook_formulas() -> None:
    known_MN, gold = VALUES_MN[:, KNOWN_N], VALUE_N[KNOWN_N]
    recipe = {strategy: fit_values(strategy, VALUES_MN, VALUE_N, **SPLITS) for strategy in FITTED}
    inverse_M = 1 / ((known_MN - gold) ** 2).mean(axis=1)
    np.testing.assert_allclose(recipe["weighted"].params["weights"], inverse_M / inverse_M.sum(), rtol=0, atol=EXACT)
    counts = _greedy_counts(lambda bag: float(((known_MN[list(bag)].mean(axis=0) - gold) ** 2).mean()))
    assert recipe["greedy"].params["counts"] == counts
    for strategy, weights_M in (("weighted", inverse_M), ("greedy", np.array(counts))):
        mean_N, std_N = apply_values(recipe[strategy], VALUES_MN)
        for n, values_M in enumerate(VALUES_MN.T):
            assert mean_N[n] == pytest.approx(np.average(values_M, weights=weights_M), abs=EXACT)
            variance = np.average((values_M - mean_N[n]) ** 2, weights=weights_M)
            assert std_N[n] == pytest.approx(np.sqrt(variance), abs=EXACT)
    assert recipe["calibrated"][:3] == ("calibrated", None, {})
    assert recipe["calibrated"].note == "a value has no temperature to fit: this is the plain mean"
    np.testing.assert_array_equal(apply_values(recipe["calibrated"], VALUES_MN), combine_values(VALUES_MN))


def test_stacking_of_values_is_ridge_regression_towards_the_plain_mean() -> None:
    known_MN, gold = VALUES_MN[:, KNOWN_N], VALUE_N[KNOWN_N]
    recipe = fit_values("stacking", VALUES_MN, VALUE_N, **SPLITS)
    # scikit-learn's ridge shrinks to 0, so it gets the distance to the plain mean; its loss is a sum of squares.
    ridge, s = Ridge(alpha=STACKING_L2 * len(gold), fit_intercept=False), gold.std()
    ridge.fit(np.column_stack([*known_MN, np.full(len(gold), s)]) / s, (gold - known_MN.mean(axis=0)) / s)
    np.testing.assert_allclose(recipe.params["weights"], 1 / 3 + ridge.coef_[:3], rtol=0, atol=1e-10)
    mean_N, std_N = apply_values(recipe, VALUES_MN)
    expected_N = (1 / 3 + ridge.coef_[:3]) @ VALUES_MN + s * ridge.coef_[3]
    np.testing.assert_allclose(mean_N, expected_N, rtol=0, atol=1e-9)  # values of 5 times 1e-10
    np.testing.assert_array_equal(std_N, VALUES_MN.std(axis=0))
    tenfold = fit_values("stacking", 10 * VALUES_MN, 10 * VALUE_N, **SPLITS)  # the unit does not matter
    np.testing.assert_allclose(tenfold.params["weights"], recipe.params["weights"], rtol=0, atol=1e-10)
    constant = fit_values("stacking", VALUES_MN, np.full(60, 0.5), **SPLITS)  # no spread to scale by
    assert np.isfinite(apply_values(constant, VALUES_MN)).all()


# ---- properties -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("strategy", FITTED)
def test_properties_of_every_fitted_strategy(strategy: str) -> None:
    recipe = _fit(strategy, LOGITS_MNC, GOLD_N)
    probs_NC = _probs(recipe, LOGITS_MNC)
    np.testing.assert_allclose(probs_NC.sum(axis=1), 1.0, rtol=0, atol=EXACT)
    stored = Recipe.from_json({"members": ["ft-1"], **json.loads(json.dumps(recipe.to_json()))})
    assert stored == recipe._replace(fitted_on="selection")
    np.testing.assert_array_equal(_probs(stored, LOGITS_MNC), probs_NC)
    # Rows without gold and a member's arbitrary offsets have no say (offsets up to rounding).
    assert _fit(strategy, LOGITS_MNC[:, KNOWN_N], GOLD_N[KNOWN_N]) == recipe
    shifted_NC = _probs(_fit(strategy, LOGITS_MNC + NOISE_MN[..., None], GOLD_N), LOGITS_MNC)
    np.testing.assert_allclose(shifted_NC, probs_NC, rtol=0, atol=OPTIMUM)


@PROFILE
@given(st.sampled_from(sorted(FITTED)), st.permutations(range(3)), st.integers(0, 99))
def test_order_of_members_does_not_matter(strategy: str, order: list[int], seed: int) -> None:
    logits_MNC, gold_N = _members(seed=seed)
    recipe, turned = _fit(strategy, logits_MNC, gold_N), _fit(strategy, logits_MNC[order], gold_N)
    name = next(iter(recipe.params))  # the one that is per member
    np.testing.assert_allclose(turned.params[name], np.array(recipe.params[name])[order], rtol=0, atol=OPTIMUM)
    np.testing.assert_allclose(_probs(turned, logits_MNC[order]), _probs(recipe, logits_MNC), rtol=0, atol=OPTIMUM)


@PROFILE
@given(st.sampled_from(sorted(FITTED)), st.integers(0, 99))
def test_positions_of_ranking_candidates_do_not_matter(strategy: str, seed: int) -> None:
    """Every question's candidates are shuffled on their own: a bias per position would notice."""
    logits_MNC, gold_N = _members(seed=seed)
    order_NC = np.random.default_rng(seed).permuted(np.tile(np.arange(3), (60, 1)), axis=1)
    turned_MNC = np.take_along_axis(logits_MNC, order_NC[None], axis=2)
    turned_gold_N = np.where(gold_N < 0, -1, (order_NC == gold_N[:, None]).argmax(axis=1))
    recipe = _fit(strategy, logits_MNC, gold_N, exchangeable=True)
    turned = _fit(strategy, turned_MNC, turned_gold_N, exchangeable=True)
    expected_NC = np.take_along_axis(_probs(recipe, logits_MNC), order_NC, axis=1)
    np.testing.assert_allclose(_probs(turned, turned_MNC), expected_NC, rtol=0, atol=OPTIMUM)


@pytest.mark.parametrize("strategy", FITTED)
def test_a_bad_member_counts_for_less(strategy: str) -> None:
    ((name, values), *_) = _fit(strategy, *_members(200)).params.items()
    # A temperature flattens: the bad member's is the highest, in all others its weight is the lowest.
    assert (np.argmax(values) if name == "temperatures" else np.argmin(values)) == 2
    of_values = fit_values(strategy, VALUES_MN, VALUE_N, **SPLITS).params
    assert strategy == "calibrated" or np.argmin(next(iter(of_values.values()))) == 2


@pytest.mark.parametrize("strategy", FITTED)
def test_finite_at_a_thousand(strategy: str) -> None:
    """Members that are certain and sometimes wrong: their probabilities of gold underflow, no logarithm does."""
    recipe = _fit(strategy, 1e3 * LOGITS_MNC, GOLD_N)
    combined_NC = apply_recipe(recipe, 1e3 * LOGITS_MNC, label_names_per_member=[NAMES] * 3)
    assert np.isfinite(combined_NC).all()
    np.testing.assert_allclose(np.exp(log_probs_NC(combined_NC)).sum(axis=1), 1.0, rtol=0, atol=EXACT)


def test_a_member_without_errors_and_one_alone_are_noted() -> None:
    assert [_fit(strategy, LOGITS_MNC, GOLD_N).note for strategy in FITTED] == [None] * 4
    assert str(_fit("greedy", LOGITS_MNC[:1], GOLD_N).note).startswith("all the weight is member 0's")
    right_MNC = np.stack([LOGITS_MNC[0], np.eye(3)[GOLD_N]])
    assert "no temperature of members [1], always right" in str(_fit("calibrated", right_MNC, GOLD_N).note)
    values_MN = np.stack([VALUES_MN[0], np.nan_to_num(VALUE_N)])
    recipe = fit_values("weighted", values_MN, VALUE_N, **SPLITS)
    assert recipe[2:] == ({"weights": [0.0, 1.0]}, "all the weight is member 1's: this is that member alone")
    np.testing.assert_array_equal(apply_values(recipe, values_MN).std, 0.0)
    assert fit_values("weighted", values_MN[[0, 1, 1]], VALUE_N, **SPLITS).params["weights"] == [0.0, 0.5, 0.5]


# ---- refusals -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("strategy", FITTED)
@pytest.mark.parametrize(
    ("split", "reported", "why"),
    [
        *((a, b, f"'{b}' is reported, and") for a, b in (("test", "test"), ("dev", "dev_mm"), ("dev_mm", "dev"))),
        ("train", "test", "the members have seen these labels"),
    ],
)
def test_no_fit_on_reported_or_trained_rows(strategy: str, split: str, reported: str, why: str) -> None:
    message = f"strategy '{strategy}' cannot be fitted on '{split}': .*{why}.*fit_split=selection.*mean_probs"
    with pytest.raises(ValueError, match=message):
        _fit(strategy, LOGITS_MNC, GOLD_N, split=split, reported_split=reported)
    with pytest.raises(ValueError, match=message):
        fit_values(strategy, VALUES_MN, VALUE_N, split=split, reported_split=reported)


@pytest.mark.parametrize("strategy", FITTED)
@pytest.mark.parametrize("n", [0, 9, 10])
def test_a_fit_needs_ten_labelled_rows(strategy: str, n: int) -> None:
    is_few_N = KNOWN_N & (np.cumsum(KNOWN_N) <= n)
    expected = pytest.raises(ValueError, match=f"it has {n} rows with gold, expected at least 10")
    with nullcontext() if n == 10 else expected:
        _fit(strategy, LOGITS_MNC, np.where(is_few_N, GOLD_N, -1))
    with nullcontext() if n == 10 else expected:
        fit_values(strategy, VALUES_MN, np.where(is_few_N, VALUE_N, np.nan), **SPLITS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "weigted"}, "'weigted' is not known; did you mean 'weighted'.* mean_probs, .* stacking"),
        ({"label_names_per_member": [NAMES, NAMES, NAMES[::-1]]}, "member 2 .* in another order"),
        ({"gold_N": np.zeros(59, int)}, r"gold has shape \(59,\)"),
        ({"gold_N": np.full(60, 3)}, "gold holds 3..3, expected -1 .* 0..2"),
        ({"logits_MNC": np.full((3, 60, 3), np.inf)}, "member 0: logits of row 0 are not finite"),
    ],
)
def test_mismatches_are_refused(changes: dict, message: str) -> None:
    good = {"strategy": "weighted", "logits_MNC": LOGITS_MNC, "gold_N": GOLD_N, "label_names_per_member": [NAMES] * 3}
    assert fit_recipe(**good, **SPLITS).strategy == "weighted"  # the base case passes, so the change is refused
    with pytest.raises(ValueError, match=message):
        fit_recipe(**{**good, **changes}, **SPLITS)


def test_recipes_refuse_other_members() -> None:
    recipe = _fit("greedy", LOGITS_MNC, GOLD_N)
    of_values = fit_values("stacking", VALUES_MN, VALUE_N, **SPLITS)
    names = [NAMES, NAMES[::-1]]
    for call, message in (
        (lambda: _probs(recipe, LOGITS_MNC[:2]), "'greedy' of 'selection' has parameters .*: 3}, expected .*: 2}"),
        (lambda: apply_recipe(recipe, LOGITS_MNC[:2], label_names_per_member=names), "member 1 .* in another order"),
        (lambda: _probs(of_values, LOGITS_MNC), "'intercept': 1.*expected .*'biases': 3"),
        (lambda: apply_values(of_values, VALUES_MN[:2]), "'weights': 3, .*expected {'weights': 2, "),
        (lambda: fit_values("weighted", VALUES_MN, VALUE_N[1:], **SPLITS), r"gold has shape \(59,\)"),
        (lambda: Recipe.from_json({"strategy": "greedy", "fitted_on": "dev"}), "a recipe without params, note"),
        (lambda: Recipe.from_json({**recipe.to_json(), "strategy": "greeedy"}), "not known; did you mean 'greedy'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# ---- the curve over K -----------------------------------------------------------------------------------------------
def test_the_size_curve_scores_the_first_k_and_all_subsets() -> None:
    task = Task(name="nli", labels=tuple(NAMES), metrics=("macro_f1",))
    arguments = {"gold_index": GOLD_N, "true_probs": np.random.default_rng(0).dirichlet(np.ones(3), size=60)}
    curve = size_curve(task, list(LOGITS_MNC), arguments)
    assert [(row["k"], row["n_subsets"]) for row in curve] == [(1, 3), (2, 3), (3, 1)]
    for row in curve:
        of_subset = []
        for members in itertools.combinations(range(3), row["k"]):
            probs_NC = np.exp(log_probs_NC(LOGITS_MNC[list(members)])).mean(axis=0)
            of_subset.append(evaluate(task, outputs=np.log(probs_NC), resamples=1, **arguments))
        assert {"accuracy", "score", "nll", "kl_truth"} <= set(of_subset[0]) <= set(row)
        for name, first in of_subset[0].items():
            mean = np.mean([scores[name].value for scores in of_subset])
            assert row[name] == pytest.approx(first.value, abs=EXACT)
            assert row["mean_over_subsets"][name] == pytest.approx(mean, abs=EXACT)
    assert json.loads(json.dumps(curve)) == curve  # plain numbers
    with pytest.raises(ValueError, match="'stacking', which needs a fit; expected one of mean_probs"):
        size_curve(task, LOGITS_MNC, arguments, strategy="stacking")


def test_the_size_curve_of_values_and_of_many_members() -> None:
    task = Task(name="sts", kind="regression", head="similarity", metrics=("pearson",))
    curve = size_curve(task, [VALUES_MN[m % 3] + m for m in range(8)], {"gold_value": VALUE_N})
    # 70 subsets of 4 among 8 are over the limit, 56 of 3 or 5 are not.
    assert ["mean_over_subsets" in row for row in curve] == [True] * 3 + [False] + [True] * 4
    expected_N = (VALUES_MN[0] + VALUES_MN[1] + 1) / 2
    assert curve[1]["mse"] == pytest.approx(((expected_N - VALUE_N)[KNOWN_N] ** 2).mean(), abs=EXACT)
