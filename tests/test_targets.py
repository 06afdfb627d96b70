"""The controls' targets: what permuting and evening out keep, what they lose, and that the second is the mean of the
first.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from core.calibration import log_probs_NC
from core.targets import evened, permuted

EXACT = 1e-12  # a handful of float64 operations on numbers of order 1
PROFILE = settings(derandomize=True, deadline=None, max_examples=60)
SHAPES = st.tuples(st.integers(1, 6), st.integers(2, 6))
LOGITS = hnp.arrays(np.float64, SHAPES, elements=st.floats(-1000, 1000))
# Rows without ties, where "the teachers' answer" is one class: a permutation of distinct numbers in each.
DISTINCT = SHAPES.flatmap(
    lambda shape: st.integers(0, 2**32 - 1).map(
        lambda seed: np.random.default_rng(seed).permuted(np.tile(np.arange(shape[1]) * 1.7, (shape[0], 1)), axis=1)
    )
)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _logits(n: int = 200, n_classes: int = 4) -> np.ndarray:
    return 2 * _rng(1).normal(size=(n, n_classes))


def _probs(logits_NC: np.ndarray) -> np.ndarray:
    return np.exp(log_probs_NC(logits_NC))


# ---- permuted ------------------------------------------------------------------------------------------------------
@PROFILE
@given(logits_NC=LOGITS, seed=st.integers(0, 1000))
def test_permuted_keeps_the_largest_entry_in_its_place_and_the_others_as_a_set(
    logits_NC: np.ndarray, seed: int
) -> None:
    before_NC = logits_NC.copy()
    got_NC = permuted(logits_NC, _rng(seed))
    np.testing.assert_array_equal(logits_NC, before_NC)  # the caller's array is not touched
    np.testing.assert_array_equal(np.sort(got_NC, axis=1), np.sort(logits_NC, axis=1))
    rows_N, answer_N = np.arange(len(logits_NC)), logits_NC.argmax(axis=1)
    np.testing.assert_array_equal(got_NC[rows_N, answer_N], logits_NC.max(axis=1))


@PROFILE
@given(logits_NC=DISTINCT, seed=st.integers(0, 1000))
def test_permuted_keeps_the_answer(logits_NC: np.ndarray, seed: int) -> None:
    np.testing.assert_array_equal(permuted(logits_NC, _rng(seed)).argmax(axis=1), logits_NC.argmax(axis=1))


def test_permuted_moves_the_wrong_classes() -> None:
    """Some 1 - 1/6 of the rows of four classes change, each independently of its neighbours."""
    logits_NC = _logits(6000)
    changed_N = (permuted(logits_NC, _rng()) != logits_NC).any(axis=1)
    assert abs(changed_N.mean() - 5 / 6) < 5 * np.sqrt(5 / 36 / 6000)  # five standard errors
    both = (changed_N[1:] & changed_N[:-1]).mean()
    assert abs(both - 25 / 36) < 5 * np.sqrt(25 / 36 * 11 / 36 / 3000)  # pairs overlap: half as many count


def test_permuted_draws_every_order_equally_often() -> None:
    n = 12_000
    for answer in range(4):
        row_C = np.insert(np.array([1.0, 2.0, 3.0]), answer, 9.0)
        got_NC = permuted(np.tile(row_C, (n, 1)), _rng(answer))
        others_NC = np.delete(got_NC, answer, axis=1)
        counts = [int((others_NC == order).all(axis=1).sum()) for order in permutations((1.0, 2.0, 3.0))]
        assert sum(counts) == n
        # Fixed seeds, so it cannot flicker; orders that are 10 % too frequent or rare would give some 1e-20.
        assert stats.chisquare(counts).pvalue > 0.01


def test_permuted_is_its_seeds() -> None:
    logits_NC = _logits()
    np.testing.assert_array_equal(permuted(logits_NC, _rng(3)), permuted(logits_NC, _rng(3)))
    assert (permuted(logits_NC, _rng(3)) != permuted(logits_NC, _rng(4))).any(axis=1).mean() > 0.5


# ---- evened --------------------------------------------------------------------------------------------------------
@PROFILE
@given(logits_NC=LOGITS)
def test_evened_keeps_the_largest_probability_and_levels_the_rest(logits_NC: np.ndarray) -> None:
    got_NC = evened(logits_NC)
    assert np.isfinite(got_NC).all()  # in logarithms, also where 1 - max p is below the smallest number
    p_NC, got_p_NC = _probs(logits_NC), np.exp(got_NC)
    np.testing.assert_allclose(got_p_NC.sum(axis=1), 1.0, rtol=0, atol=EXACT)
    for row, answer in enumerate(logits_NC.argmax(axis=1)):
        others = np.delete(got_NC[row], answer)
        np.testing.assert_allclose(got_p_NC[row, answer], p_NC[row, answer], rtol=0, atol=EXACT)
        np.testing.assert_array_equal(others, others[0])
        assert got_NC[row, answer] >= others[0] - EXACT


def test_evened_is_exact_for_a_teacher_that_is_sure() -> None:
    """1 - max p rounds to 0; by log-sum-exp the mass of the rest stays: exp(-1000) of each of two classes."""
    logits_NC = np.array([[1000.0, 0.0, 0.0], [1e3, -1e3, 0.0]])
    before_NC = logits_NC.copy()
    # Row by row: the rest is log(2 e^-1000) = -1000 + log 2, and log(e^-1000 + e^-2000) = -1000, each over two.
    expected_NC = [[0.0, -1000.0, -1000.0], [0.0, -1000 - np.log(2), -1000 - np.log(2)]]
    np.testing.assert_allclose(evened(logits_NC), expected_NC, rtol=0, atol=1e-9)  # 1000 has a last place of 1e-13
    np.testing.assert_array_equal(logits_NC, before_NC)


# ---- one and the other ---------------------------------------------------------------------------------------------
def test_evened_is_the_mean_of_permuted() -> None:
    """Exactly over all orders, and within the sampling error over draws: the two controls differ in variance alone."""
    logits_NC = _logits(5)
    expected_NC = np.exp(evened(logits_NC))
    rows, answer_N = [], logits_NC.argmax(axis=1)
    for row_C, answer in zip(_probs(logits_NC), answer_N, strict=True):
        others = np.delete(row_C, answer)
        rows.append(np.mean([np.insert(order, answer, row_C[answer]) for order in permutations(others)], axis=0))
    np.testing.assert_allclose(expected_NC, rows, rtol=0, atol=EXACT)

    n = 20_000
    draws_KNC = _probs(permuted(np.tile(logits_NC, (n, 1)), _rng())).reshape(n, *logits_NC.shape)
    error_NC = np.sqrt(draws_KNC.var(axis=0) / n)
    assert (np.abs(draws_KNC.mean(axis=0) - expected_NC) <= 5 * error_NC + EXACT).all()
    assert (error_NC > 1e-5).sum() == 5 * 3  # the answer alone does not move


@PROFILE
@given(logits_NC=hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.just(2)), elements=st.floats(-1000, 1000)))
def test_with_two_classes_both_are_the_teachers_distribution(logits_NC: np.ndarray) -> None:
    np.testing.assert_array_equal(permuted(logits_NC, _rng()), logits_NC)
    np.testing.assert_allclose(evened(logits_NC), log_probs_NC(logits_NC), rtol=0, atol=EXACT)


def test_of_equals_the_first_is_the_answer() -> None:
    """As argmax has it: the others, its equals among them, move."""
    tied_NC = np.tile([1.0, 5.0, 5.0, 2.0], (600, 1))
    got_NC = permuted(tied_NC, _rng())
    assert (got_NC[:, 1] == 5.0).all()
    assert {tuple(sorted(row)) for row in got_NC[:, [0, 2, 3]]} == {(1.0, 2.0, 5.0)}
    assert [(got_NC[:, column] == 5.0).any() for column in (0, 2, 3)] == [True] * 3
    spread_NC = np.exp(evened(tied_NC[:1]))
    p_C = _probs(tied_NC[:1])[0]
    np.testing.assert_allclose(spread_NC[0], np.where(np.arange(4) == 1, p_C[1], (1 - p_C[1]) / 3), rtol=0, atol=EXACT)
