"""Calibration: against scikit-learn and SciPy, naive loops, and simulated predictors whose calibration is known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from sklearn import metrics as sk

from core.calibration import (
    TEMPERATURE_RANGE,
    bin_index_N,
    brier_N,
    ece,
    ece_gaps_NB,
    entropy_N,
    fit_temperature,
    kl_N,
    log_probs_NC,
    nll_N,
    reliability,
    wilson_interval,
)

EXACT = 1e-12  # a handful of float64 operations on numbers of order 1


def _simulated(n: int = 4000, *, n_classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and gold drawn from their softmax (the Gumbel trick): a perfectly calibrated predictor."""
    rng = np.random.default_rng(seed)
    logits_NC = 1.5 * rng.normal(size=(n, n_classes))
    return logits_NC, (logits_NC + rng.gumbel(size=logits_NC.shape)).argmax(axis=-1)


def test_nll_and_brier_equal_scikit_learn() -> None:
    logits_NC, gold_N = _simulated(200)
    probs_NC = np.exp(log_probs_NC(logits_NC))
    assert nll_N(logits_NC, gold_N).mean() == pytest.approx(sk.log_loss(gold_N, probs_NC), abs=EXACT)
    reference = sk.brier_score_loss(gold_N, probs_NC, labels=range(3), scale_by_half=False)
    assert brier_N(logits_NC, gold_N).mean() == pytest.approx(reference, abs=EXACT)


def test_kl_and_entropy_equal_scipy_and_split_the_cross_entropy() -> None:
    logits_NC, gold_N = _simulated(200)
    rng = np.random.default_rng(1)
    p_NC, q_NC = rng.dirichlet(np.ones(3), size=200), np.exp(log_probs_NC(logits_NC))
    np.testing.assert_allclose(kl_N(p_NC, logits_NC), stats.entropy(p_NC, q_NC, axis=-1), rtol=0, atol=EXACT)
    np.testing.assert_allclose(entropy_N(p_NC), stats.entropy(p_NC, axis=-1), rtol=0, atol=EXACT)
    np.testing.assert_allclose(kl_N(p_NC, np.log(q_NC)), kl_N(p_NC, logits_NC), rtol=0, atol=EXACT)
    # For a one-hot p the entropy is 0 and KL is the log-loss.
    np.testing.assert_allclose(kl_N(np.eye(3)[gold_N], logits_NC), nll_N(logits_NC, gold_N), rtol=0, atol=EXACT)


def test_kl_skips_classes_without_mass() -> None:
    with np.errstate(divide="ignore"):
        log_q_NC = np.log([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    assert kl_N([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], log_q_NC) == pytest.approx([np.log(2), 0.0], abs=EXACT)
    assert kl_N([[0.5, 0.0, 0.5]], log_q_NC[:1])[0] == np.inf  # and does not skip those with mass
    with pytest.raises(ValueError, match=r"shape \(3, 2\), logits \(2, 3\).*example_id"):
        kl_N(np.full((3, 2), 0.5), log_q_NC)


LOGITS = hnp.arrays(np.float64, (5, 4), elements=st.floats(-1e3, 1e3))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(LOGITS, LOGITS, st.floats(-1e3, 1e3))
def test_finite_and_shift_invariant_up_to_a_thousand(a_NC: np.ndarray, b_NC: np.ndarray, shift: float) -> None:
    gold_N = np.array([0, 1, 2, 3, 0])
    p_NC = np.exp(log_probs_NC(a_NC))
    for per_example in (nll_N(b_NC, gold_N), brier_N(b_NC, gold_N), kl_N(p_NC, b_NC), entropy_N(p_NC)):
        assert np.isfinite(per_example).all()
        # Each is >= 0; sums of terms of at most 4e3 (two logits and a shift apart) round by 4e3 * 1e-16 * a few.
        assert (per_example >= -1e-11).all()
    np.testing.assert_allclose(nll_N(b_NC + shift, gold_N), nll_N(b_NC, gold_N), rtol=0, atol=1e-11)
    np.testing.assert_allclose(kl_N(p_NC, a_NC), 0.0, rtol=0, atol=1e-11)


@pytest.mark.parametrize("binning", ["mass", "width"])
def test_bins_partition_the_data(binning: str) -> None:
    logits_NC, gold_N = _simulated(1003)
    table = reliability(logits_NC, gold_N, binning=binning)
    assert table.n_examples.sum() == 1003
    filled_B = table.n_examples > 0
    # Counts times means give the totals back: no example is in two bins, none in no bin.
    hits = (table.accuracy * table.n_examples)[filled_B].sum()
    assert hits == pytest.approx((logits_NC.argmax(axis=-1) == gold_N).sum(), abs=1e-9)  # 1e3 * 1e-16, with room
    top_N = np.exp(log_probs_NC(logits_NC)).max(axis=-1)
    assert (table.confidence * table.n_examples)[filled_B].sum() == pytest.approx(top_N.sum(), abs=1e-9)
    assert (np.diff(table.confidence[filled_B]) > 0).all()
    if binning == "mass":
        assert np.ptp(table.n_examples) <= 1
        assert table.n_examples.min() == 1003 // 15
    else:
        # Three classes: the top probability is over 1/3, so the first bins are empty and say so with nan.
        assert (table.n_examples[:5] == 0).all()
        assert np.isnan(table.accuracy[:5]).all()
        assert np.isnan(table.accuracy_low[:5]).all()


def test_equal_confidences_share_a_bin_and_order_does_not_matter() -> None:
    confidence_N = np.repeat([0.5, 0.6, 0.9], [50, 30, 20])
    bin_N = bin_index_N(confidence_N, n_bins=10)
    assert [len(set(bin_N[confidence_N == c])) for c in (0.5, 0.6, 0.9)] == [1, 1, 1]
    assert len(set(bin_N)) == 3
    order_N = np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(bin_index_N(confidence_N[order_N], n_bins=10), bin_N[order_N])
    # Equal-width bins are (lo, hi]: an edge belongs to the bin below it, 0 and 1 to the first and the last.
    edges_N = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_array_equal(bin_index_N(edges_N, n_bins=4, binning="width"), [0, 0, 1, 2, 3])
    np.testing.assert_array_equal(bin_index_N(edges_N[:4], n_bins=2), [0, 0, 1, 1])
    # Fewer examples than bins: each has its own bin.
    assert len(set(bin_index_N(np.array([0.4, 0.9, 0.6]), n_bins=15))) == 3


def test_ece_equals_naive_loops() -> None:
    logits_NC, gold_N = _simulated(997)
    confidence_N = np.exp(log_probs_NC(logits_NC)).max(axis=-1)
    correct_N = logits_NC.argmax(axis=-1) == gold_N
    edges = np.linspace(0, 1, 16)
    by_width = [(confidence_N > low) & (confidence_N <= high) for low, high in pairwise(edges)]
    # No ties among these, so equal-mass bins are consecutive runs of the sorted rows, cut at b N // 15.
    order_N, cuts = np.argsort(confidence_N), [b * 997 // 15 for b in range(16)]
    by_mass = [np.isin(np.arange(997), order_N[i:j]) for i, j in pairwise(cuts)]
    for binning, members in (("width", by_width), ("mass", by_mass)):
        gaps = [m.sum() / 997 * (correct_N[m].mean() - confidence_N[m].mean()) for m in members if m.any()]
        naive = sum(map(abs, gaps))
        # Gaps of one sign add up to |accuracy - confidence| whatever the bins: both signs make it a test of the bins.
        assert naive > abs(sum(gaps)) + 0.005
        assert ece(logits_NC, gold_N, binning=binning) == pytest.approx(naive, abs=EXACT)


def test_ece_from_the_table_and_from_the_gaps_is_one_number() -> None:
    logits_NC, gold_N = _simulated(500)
    table = reliability(logits_NC, gold_N, n_bins=7)
    from_table = (table.n_examples * abs(table.accuracy - table.confidence)).sum() / 500
    assert ece(logits_NC, gold_N, n_bins=7) == pytest.approx(from_table, abs=EXACT)
    gaps_NB = ece_gaps_NB(logits_NC, gold_N, n_bins=7)
    assert ((gaps_NB != 0).sum(axis=1) <= 1).all()
    assert np.isnan(ece(np.zeros((0, 3)), np.zeros(0, dtype=int)))


def test_ece_of_a_calibrated_predictor_is_sampling_noise_and_of_an_overconfident_one_is_not() -> None:
    logits_NC, gold_N = _simulated()
    rng = np.random.default_rng(9)
    redrawn = [(logits_NC + rng.gumbel(size=logits_NC.shape)).argmax(axis=-1) for _ in range(200)]
    null = np.array([ece(logits_NC, labels_N) for labels_N in redrawn])
    low, high = np.percentile(null, [0.5, 99.5])  # a calibrated predictor falls outside for one seed in a hundred
    assert low <= ece(logits_NC, gold_N) <= high
    # The docstring's bound of the bias: E|acc - conf| of a bin is at most sqrt(2 / pi) * 0.5 / sqrt(N / B).
    assert 0 < null.mean() <= 0.4 * np.sqrt(15 / 4000)
    assert ece(2 * logits_NC, gold_N) > 3 * null.max()


def test_calibrated_reliability_has_its_confidence_inside_the_wilson_bars() -> None:
    logits_NC, gold_N = _simulated(20_000)
    table = reliability(logits_NC, gold_N)
    inside = (table.accuracy_low <= table.confidence) & (table.confidence <= table.accuracy_high)
    # 15 bins at 95 %: fewer than 12 inside has probability 0.5 % (binomial tail); the seed is fixed.
    assert inside.sum() >= 12
    over = reliability(3 * logits_NC, gold_N)
    assert (over.confidence > over.accuracy_high).sum() >= 10


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 10), (1, 1), (700, 1000)])
def test_wilson_equals_scipy(k: int, n: int) -> None:
    low, high = wilson_interval([k], [n])
    reference = stats.binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert (low[0], high[0]) == pytest.approx((reference.low, reference.high), abs=EXACT)


def test_wilson_stays_in_the_unit_interval() -> None:
    n_B = np.arange(1, 2000)  # rounding leaves 0..1 for some of these if nothing holds it
    low_B, high_B = wilson_interval(np.zeros(1999), n_B)
    assert (low_B >= 0).all()
    assert (high_B < 1).all()
    low_B, high_B = wilson_interval(n_B, n_B)
    assert (high_B <= 1).all()
    assert (low_B > 0).all()


@pytest.mark.parametrize("true_temperature", [0.4, 1.0, 3.0])
def test_temperature_recovers_a_known_one(true_temperature: float) -> None:
    logits_NC, gold_N = _simulated(8000)  # gold ~ softmax(logits), so T of (T * logits) is the answer
    stretched_NC = true_temperature * logits_NC
    found = fit_temperature(stretched_NC, gold_N)
    # Fisher information of beta = 1/T is sum_n Var_q(z); se(T) = T^2 se(beta). Four standard errors.
    probs_NC = np.exp(log_probs_NC(logits_NC))
    variance_N = (probs_NC * stretched_NC**2).sum(axis=-1) - (probs_NC * stretched_NC).sum(axis=-1) ** 2
    se = true_temperature**2 / np.sqrt(variance_N.sum())
    assert se < 0.05 * true_temperature  # the data fix T to 5 %, so that the next line says something
    assert abs(found - true_temperature) < 4 * se
    # And it is the minimum: both neighbours are worse.
    nll = [nll_N(stretched_NC / (found * factor), gold_N).mean() for factor in (0.98, 1.0, 1.02)]
    assert nll[1] < min(nll[0], nll[2])


def test_temperature_ends_at_its_bounds_where_there_is_no_optimum() -> None:
    logits_NC = np.array([[2.0, 0.0], [0.0, 3.0]])
    # All right: the colder the better, and the NLL is flat to rounding long before 0.05; only the side is fixed.
    assert TEMPERATURE_RANGE[0] <= fit_temperature(logits_NC, [0, 1]) < 0.2
    assert fit_temperature(logits_NC, [1, 0]) == pytest.approx(TEMPERATURE_RANGE[1], rel=1e-3)  # xatol, with room


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nll_N([[0.0, 1.0]], [2]), "expected 0..1; drop the rows without gold"),
        (lambda: nll_N([[0.0, 1.0]], [-1]), "indices -1..-1"),
        (lambda: brier_N([[0.0, 1.0]], [0.0]), "dtype float64, expected integers"),
        (lambda: brier_N([[0.0, 1.0]], [0, 1]), r"expected \(N, C\) and \(N,\)"),
        (lambda: ece([[0.0, 1.0]], [0], n_bins=0), "n_bins is 0"),
        (lambda: ece([[0.0, 1.0]], [0], binning="equal"), "expected 'mass' or 'width'"),
        (lambda: fit_temperature(np.zeros((0, 2)), np.zeros(0, dtype=int)), "0 rows with gold"),
    ],
)
def test_wrong_input_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
