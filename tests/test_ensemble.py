"""Ensembles: the identities that tie strategies and losses together, and the refusals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import jensenshannon

from core.calibration import kl_N, log_probs_NC
from core.ensemble import STRATEGIES, combine, combine_values, disagreement_N, jensen_gap_N, q_statistic

NAMES = ["entailment", "neutral", "contradiction"]
EXACT = 1e-12  # a handful of float64 operations on numbers of order 1
MEMBERS = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(1, 5), st.just(3)), elements=st.floats(-20, 20)
)
PROFILE = settings(derandomize=True, deadline=None, max_examples=60)


def _members(m: int = 3, n: int = 40, *, scale: float = 2.0) -> np.ndarray:
    return scale * np.random.default_rng(0).normal(size=(m, n, 3))


def _combine(strategy: str, members_MNC: np.ndarray) -> np.ndarray:
    return combine(strategy, members_MNC, label_names_per_member=[NAMES] * len(members_MNC))


def _probs(logits: np.ndarray) -> np.ndarray:
    return np.exp(log_probs_NC(logits))


def test_each_strategy_is_its_textbook_formula() -> None:
    members_MNC = _members()
    probs_MNC = _probs(members_MNC)
    np.testing.assert_allclose(np.exp(_combine("mean_probs", members_MNC)), probs_MNC.mean(axis=0), rtol=0, atol=EXACT)
    product_NC = probs_MNC.prod(axis=0) ** (1 / 3)
    expected_NC = product_NC / product_NC.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(np.exp(_combine("geometric_mean", members_MNC)), expected_NC, rtol=0, atol=EXACT)
    # Centring leaves the distribution of the plain mean of logits, and takes out the offset.
    mean_NC = _combine("mean_logits", members_MNC)
    np.testing.assert_allclose(_probs(mean_NC), _probs(members_MNC.mean(axis=0)), rtol=0, atol=EXACT)
    np.testing.assert_allclose(mean_NC.sum(axis=-1), 0.0, rtol=0, atol=EXACT)


def test_geometric_mean_and_mean_logits_are_one_distribution_and_mean_probs_another() -> None:
    members_MNC = _members()
    geometric, logits, probs = (
        _probs(_combine(s, members_MNC)) for s in ("geometric_mean", "mean_logits", "mean_probs")
    )
    np.testing.assert_allclose(geometric, logits, rtol=0, atol=EXACT)
    assert np.abs(geometric - probs).max() > 0.05


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_properties_of_every_strategy(strategy: str) -> None:
    members_MNC = _members()
    combined_NC = _combine(strategy, members_MNC)
    assert combined_NC.shape == (40, 3)
    assert combined_NC.dtype == np.float64
    np.testing.assert_allclose(_combine(strategy, members_MNC[[2, 0, 1]]), combined_NC, rtol=0, atol=EXACT)
    # A member's offset is arbitrary: shifting each member's logits per example changes no probability.
    shift_MN1 = np.random.default_rng(1).normal(size=(3, 40, 1))
    shifted_NC = _combine(strategy, members_MNC + shift_MN1)
    np.testing.assert_allclose(_probs(shifted_NC), _probs(combined_NC), rtol=0, atol=EXACT)
    # Equal members, and one alone: the ensemble is the member.
    for members in (members_MNC[:1], np.repeat(members_MNC[:1], 3, axis=0)):
        np.testing.assert_allclose(_probs(_combine(strategy, members)), _probs(members_MNC[0]), rtol=0, atol=EXACT)
    # Relabelling classes relabels the answer.
    turned_NC = _combine(strategy, members_MNC[:, :, [1, 2, 0]])
    np.testing.assert_allclose(turned_NC, combined_NC[:, [1, 2, 0]], rtol=0, atol=EXACT)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_finite_at_a_thousand(strategy: str) -> None:
    members_MNC = np.array([[[1e3, -1e3, -1e3]], [[-1e3, 1e3, -1e3]]])
    combined_NC = _combine(strategy, members_MNC)
    assert np.isfinite(combined_NC).all()
    # Symmetric in the first two classes, and the third is out of the question.
    np.testing.assert_allclose(_probs(combined_NC), [[0.5, 0.5, 0.0]], rtol=0, atol=EXACT)
    assert np.isfinite(jensen_gap_N(members_MNC)).all()
    assert jensen_gap_N(members_MNC)[0] == pytest.approx(np.log(2), abs=EXACT)  # two certain, opposed members: log M


@PROFILE
@given(MEMBERS, hnp.arrays(np.float64, (5, 3), elements=st.floats(-20, 20)))
def test_mean_of_kls_is_kl_to_the_mean_plus_the_jensen_gap(members_MNC: np.ndarray, q_logits_5C: np.ndarray) -> None:
    q_NC = q_logits_5C[: members_MNC.shape[1]]
    mean_of_kls_N = np.mean([kl_N(_probs(member_NC), q_NC) for member_NC in members_MNC], axis=0)
    kl_to_mean_N = kl_N(np.exp(_combine("mean_probs", members_MNC)), q_NC)
    # KLs here are at most about 40 nats: their rounding is some 40 * 1e-16 * a few operations.
    np.testing.assert_allclose(mean_of_kls_N - kl_to_mean_N, jensen_gap_N(members_MNC), rtol=0, atol=1e-12)


@PROFILE
@given(MEMBERS)
def test_the_gap_lies_between_0_and_log_m_and_ignores_order_and_offsets(members_MNC: np.ndarray) -> None:
    gap_N = jensen_gap_N(members_MNC)
    assert (gap_N >= 0).all()
    assert (gap_N <= np.log(len(members_MNC)) + EXACT).all()
    np.testing.assert_allclose(jensen_gap_N(members_MNC[::-1]), gap_N, rtol=0, atol=EXACT)
    np.testing.assert_allclose(jensen_gap_N(members_MNC + 7.0), gap_N, rtol=0, atol=EXACT)


def test_the_gap_is_0_for_equal_members_only_and_the_jensen_shannon_divergence_of_two() -> None:
    members_MNC = _members(2)
    equal_MNC = np.repeat(members_MNC[:1], 4, axis=0)
    # 4 * N(0, 1) offsets: equal distributions, different logits.
    offsets_MN1 = 4 * np.random.default_rng(1).normal(size=(4, 40, 1))
    equal_gap_N = jensen_gap_N(equal_MNC + offsets_MN1)
    assert ((equal_gap_N >= 0) & (equal_gap_N <= EXACT)).all()  # never -1e-16, which unclipped rounding gives
    assert (jensen_gap_N(members_MNC) > 1e-6).all()  # random logits differ in every row, far above rounding
    p_NC, q_NC = _probs(members_MNC)
    np.testing.assert_allclose(jensen_gap_N(members_MNC), jensenshannon(p_NC, q_NC, axis=-1) ** 2, rtol=0, atol=EXACT)


def test_disagreement_equals_a_loop_over_pairs() -> None:
    members_MNC = _members(4)
    answers_MN = members_MNC.argmax(axis=-1)
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    naive_N = np.mean([answers_MN[i] != answers_MN[j] for i, j in pairs], axis=0)
    assert {0.0, 1.0} & set(naive_N) != set(naive_N)  # some rows are split, not only unanimous ones
    np.testing.assert_allclose(disagreement_N(members_MNC), naive_N, rtol=0, atol=EXACT)
    np.testing.assert_array_equal(disagreement_N(members_MNC[:1]), np.zeros(40))
    np.testing.assert_array_equal(disagreement_N(members_MNC[[0, 0, 0]]), np.zeros(40))


def test_q_statistic_equals_a_loop_over_pairs_and_leaves_out_rows_without_gold() -> None:
    members_MNC = _members(4)
    gold_N = np.random.default_rng(1).integers(-1, 3, size=40)
    qs = []
    for first, second in itertools.combinations(members_MNC, 2):
        n = np.zeros((2, 2))
        for row in np.flatnonzero(gold_N >= 0):
            n[tuple(int(member_NC[row].argmax() == gold_N[row]) for member_NC in (first, second))] += 1
        qs.append((n[1, 1] * n[0, 0] - n[0, 1] * n[1, 0]) / (n[1, 1] * n[0, 0] + n[0, 1] * n[1, 0]))
    assert min(qs) < 0 < max(qs)  # the average is over pairs of both kinds
    assert q_statistic(members_MNC, gold_N) == pytest.approx(np.mean(qs), abs=EXACT)
    assert q_statistic(members_MNC[::-1], gold_N) == pytest.approx(np.mean(qs), abs=EXACT)


def test_q_statistic_is_1_minus_1_and_undefined_where_it_should_be() -> None:
    gold_N = np.array([0, 1, 2, 0])
    answers_MN = np.array([[0, 1, 0, 1], [1, 2, 2, 0], [0, 0, 0, 1], [0, 1, 2, 0]])
    half_NC, other_half_NC, quarter_NC, right_NC = np.eye(3)[answers_MN]
    assert q_statistic([half_NC, half_NC], gold_N) == 1
    assert q_statistic([half_NC, quarter_NC], gold_N) == 1  # right where the quarter is, and once more
    assert q_statistic([half_NC, other_half_NC], gold_N) == -1
    # A member that is always right has only pairs with denominator 0: they are left out, not counted as 0.
    assert q_statistic([half_NC, quarter_NC, right_NC], gold_N) == 1
    assert np.isnan(q_statistic([half_NC, right_NC], gold_N))
    assert np.isnan(q_statistic([half_NC], gold_N))
    assert np.isnan(q_statistic([half_NC, half_NC], np.full(4, -1)))
    with pytest.raises(ValueError, match=r"gold holds 0..3, expected -1 \(missing\) or 0..2"):
        q_statistic([half_NC, half_NC], np.array([0, 1, 2, 3]))
    with pytest.raises(ValueError, match=r"gold has shape \(3,\) and dtype int64, the logits 4 rows"):
        q_statistic([half_NC, half_NC], gold_N[:3])


def test_values_have_a_mean_and_a_spread() -> None:
    combined = combine_values([[1.0, 2.0], [3.0, 2.0]])
    np.testing.assert_array_equal(combined.mean, [2.0, 2.0])
    np.testing.assert_array_equal(combined.std, [1.0, 0.0])  # population: (1 + 1) / 2
    np.testing.assert_array_equal(combine_values([[1.0, 2.0]]).std, [0.0, 0.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "mean"}, "'mean' is not known, expected one of mean_probs"),
        ({"member_logits_MNC": []}, "0 members"),
        ({"member_logits_MNC": [np.zeros((2, 3)), np.zeros((2, 2))]}, r"member 1: logits have shape \(2, 2\)"),
        ({"member_logits_MNC": [np.zeros(3), np.zeros(3)]}, r"expected \(N, C\)"),
        (
            {"member_logits_MNC": [np.zeros((2, 3)), np.full((2, 3), np.nan)]},
            "member 1: logits of row 0 are not finite",
        ),
        ({"label_names_per_member": [NAMES]}, "for 1 members, logits for 2"),
        ({"label_names_per_member": [NAMES, NAMES[::-1]]}, "member 1 .* in another order"),
        ({"label_names_per_member": [NAMES, ["yes", "no", "maybe"]]}, "member 1 .* and they differ"),
        ({"label_names_per_member": [NAMES[:2], NAMES[:2]]}, "2 label names .* for 3 classes"),
    ],
)
def test_mismatches_are_refused(changes: dict, message: str) -> None:
    good = {
        "strategy": "mean_probs",
        "member_logits_MNC": np.zeros((2, 2, 3)),
        "label_names_per_member": [NAMES, tuple(NAMES)],
    }
    assert combine(**good).shape == (2, 3)  # the base case passes, so the change is what is refused
    with pytest.raises(ValueError, match=message):
        combine(**{**good, **changes})


def test_values_refuse_mismatches() -> None:
    with pytest.raises(ValueError, match=r"member 1: values have shape \(1,\)"):
        combine_values([[1.0, 2.0], [1.0]])
    with pytest.raises(ValueError, match="member 1: values of row 0 are not finite"):
        combine_values([[1.0, 2.0], [np.inf, 2.0]])
