"""Metrics against scikit-learn and SciPy, on the sample and on materialised resamples; intervals and differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from core.bootstrap import bootstrap_weights
from core.calibration import log_probs_NC
from core.comparisons import mean_and_se, paired_difference
from core.metrics import (
    HIGHER_IS_BETTER,
    METRICS,
    evaluate,
)
from core.tasks import METRICS_OF_KIND, Task

N = 300
TWO = Task(name="two", labels=("no", "yes"), metrics=("accuracy", "f1", "macro_f1", "mcc"))
FOUR = Task(name="four", labels=("a", "b", "c", "d"), metrics=("accuracy", "macro_f1", "mcc"))
RANKING = Task(
    name="rank",
    kind="ranking",
    head="ranking",
    candidates="candidates",
    labels=("1", "2", "3", "4"),
    metrics=("accuracy", "mrr"),
)
VALUE = Task(name="value", kind="regression", head="similarity", metrics=("pearson", "spearman"))
# Sums of up to 300 terms of order 1 in another order than the reference: rounding of 300 * 1e-16, with room.
EXACT = 1e-11


def _classified(task: Task, *, n: int = N, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits_NC = rng.normal(size=(n, task.n_outputs))
    # Unequal classes and a model that is better than chance: every count differs, so a mixed-up axis shows.
    gold_N = (logits_NC + rng.gumbel(size=logits_NC.shape) + 0.4 * np.arange(task.n_outputs)).argmax(axis=-1)
    return logits_NC, gold_N


def _valued(*, n: int = N, seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    gold_N = np.round(rng.uniform(0, 5, size=n) * 5) / 5  # a grid, as STS-B's: many ties
    return gold_N + rng.normal(size=n), gold_N


def _reference(name: str, outputs: np.ndarray, gold: np.ndarray) -> float:
    if name in ("pearson", "spearman"):
        return float((stats.pearsonr if name == "pearson" else stats.spearmanr)(outputs, gold).statistic)
    if name == "mse":
        return sk.mean_squared_error(gold, outputs)
    pred_N, probs_NC = outputs.argmax(axis=-1), np.exp(log_probs_NC(outputs))
    onehot_NC = np.eye(outputs.shape[1])[gold]
    return {
        "accuracy": lambda: sk.accuracy_score(gold, pred_N),
        "f1": lambda: sk.f1_score(gold, pred_N),
        "macro_f1": lambda: sk.f1_score(gold, pred_N, average="macro"),
        "mcc": lambda: sk.matthews_corrcoef(gold, pred_N),
        # One relevant candidate: average precision is the reciprocal rank (no ties in these logits).
        "mrr": lambda: sk.label_ranking_average_precision_score(onehot_NC, outputs),
        "nll": lambda: sk.log_loss(gold, probs_NC, labels=range(outputs.shape[1])),
        "brier": lambda: sk.brier_score_loss(gold, probs_NC, labels=range(outputs.shape[1]), scale_by_half=False),
    }[name]()


CASES = [
    *((task, name) for task in (TWO, FOUR) for name in (*task.metrics, "nll", "brier")),
    *((RANKING, name) for name in ("accuracy", "mrr", "nll", "brier")),
    *((VALUE, name) for name in ("pearson", "spearman", "mse")),
]


@pytest.mark.parametrize(("task", "name"), CASES, ids=lambda c: c if isinstance(c, str) else c.name)
def test_values_equal_the_library_on_the_sample_and_on_every_resample(task: Task, name: str) -> None:
    outputs, gold = _valued() if task.kind == "regression" else _classified(task)
    resampled = METRICS[name].prepare(outputs, gold)
    assert resampled(np.ones((1, N)))[0] == pytest.approx(_reference(name, outputs, gold), abs=EXACT)
    weights_RN = bootstrap_weights(N, resamples=7, seed=3)
    values_R = resampled(weights_RN.astype(np.float64))
    rows_R = [np.repeat(np.arange(N), weights_N) for weights_N in weights_RN]
    expected_R = [_reference(name, outputs[rows], gold[rows]) for rows in rows_R]
    assert len(set(np.round(expected_R, 9))) > 3  # the resamples differ, so the comparison says something
    np.testing.assert_allclose(values_R, expected_R, rtol=0, atol=EXACT)


def test_every_metric_of_tasks_is_a_row_here_and_has_a_direction() -> None:
    assert {name for names in METRICS_OF_KIND.values() for name in names} <= set(METRICS)
    lower = {name for name, better in HIGHER_IS_BETTER.items() if not better}
    assert lower == {"mse", "mse_truth", "nll", "brier", "ece", "kl_truth", "kl_humans"}
    assert HIGHER_IS_BETTER.keys() == METRICS.keys() | {"score"}


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12))
def test_small_samples_with_absent_classes_follow_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    gold_N, pred_N = np.array(pairs).T
    scores = evaluate(FOUR, outputs=np.eye(4)[pred_N], gold_index=gold_N, resamples=2)
    expected = {
        "accuracy": sk.accuracy_score(gold_N, pred_N),
        "macro_f1": sk.f1_score(gold_N, pred_N, average="macro"),
        # One class on both sides: scikit-learn warns from its confusion matrix; its value is 0, as is ours.
        "mcc": sk.matthews_corrcoef(gold_N, pred_N) if len({*gold_N, *pred_N}) > 1 else 0.0,
    }
    assert {name: scores[name].value for name in expected} == pytest.approx(expected, abs=EXACT)


def test_undefined_values_are_zero() -> None:
    gold_N = np.array([0, 1, 1, 0])
    one_class = evaluate(TWO, outputs=np.tile([1.0, 0.0], (4, 1)), gold_index=gold_N)
    assert one_class["mcc"].value == 0.0
    assert one_class["f1"].value == 0.0
    # 0.1 has no exact binary form: its mean differs from it, and a careless variance would be 1e-17, not 0.
    constant = evaluate(VALUE, outputs=np.full(7, 0.1), gold_value=np.arange(7.0))
    assert constant["pearson"][:3] == (0.0, 0.0, 0.0)
    assert constant["spearman"][:3] == (0.0, 0.0, 0.0)
    # Two rows: half of the resamples draw one row twice; they count as 0 and the others as 1.
    two = evaluate(VALUE, outputs=np.array([0.1, 0.7]), gold_value=np.array([1.1, 2.3]))
    for name in ("pearson", "spearman"):
        assert two[name].value == pytest.approx(1.0, abs=EXACT)
        assert two[name].ci_low == 0.0
        assert two[name].ci_high == pytest.approx(1.0, abs=EXACT)


def test_correlations_survive_large_offsets() -> None:
    values_N, gold_N = _valued()
    moved = evaluate(VALUE, outputs=values_N * 1e-3 + 1e6, gold_value=gold_N, resamples=2)
    # At 1e6 float64 has a grid of 1e-10, one part in 1e7 of the values' spread of 1e-3; raw sums would lose all.
    assert moved["pearson"].value == pytest.approx(stats.pearsonr(values_N, gold_N).statistic, abs=1e-6)


def test_mrr_of_ties_is_the_mean_over_their_orders() -> None:
    gold_N = np.array([0, 1, 2, 3])
    constant = evaluate(RANKING, outputs=np.zeros((4, 4)), gold_index=gold_N)["mrr"].value
    assert constant == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, abs=EXACT)
    tied_second = evaluate(RANKING, outputs=np.array([[2.0, 1.0, 1.0, 0.0]]), gold_index=np.array([2]))["mrr"].value
    assert tied_second == pytest.approx((1 / 2 + 1 / 3) / 2, abs=EXACT)


def test_weights_are_counts_of_n_draws_reproducible_and_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    weights_RN = bootstrap_weights(50, resamples=400, seed=7)
    assert weights_RN.shape == (400, 50)
    assert weights_RN.dtype == np.uint16
    assert (weights_RN.sum(axis=1) == 50).all()
    # Mean 1, variance 1 - 1/n; 20,000 near-independent counts have a standard error of the variance of about 0.012
    # (fourth central moment of Poisson(1) is 4): 4 of them.
    assert weights_RN.var() == pytest.approx(1 - 1 / 50, abs=0.05)
    assert not np.array_equal(weights_RN, bootstrap_weights(50, resamples=400, seed=8))
    monkeypatch.setattr("core.bootstrap.CHUNK_BYTES", 8 * 50 * 3)  # three resamples a block
    np.testing.assert_array_equal(weights_RN, bootstrap_weights(50, resamples=400, seed=7))


def test_blocks_change_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    logits_NC, gold_N = _classified(FOUR)
    whole = evaluate(FOUR, outputs=logits_NC, gold_index=gold_N, resamples=50)
    monkeypatch.setattr("core.bootstrap.CHUNK_BYTES", 8 * N * 7)
    parts = evaluate(FOUR, outputs=logits_NC, gold_index=gold_N, resamples=50)
    for name in whole:
        np.testing.assert_allclose(whole[name], parts[name], rtol=0, atol=EXACT)


def test_many_rows_are_resampled_by_the_normal_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    logits_NC, gold_N = _classified(FOUR, n=3000)
    drawn = evaluate(FOUR, outputs=logits_NC, gold_index=gold_N, resamples=4000)
    monkeypatch.setattr("core.metrics.NORMAL_ROWS", 2999)
    limit = evaluate(FOUR, outputs=logits_NC, gold_index=gold_N, resamples=4000)
    for name, score in drawn.items():
        width = score.ci_high - score.ci_low
        assert limit[name].value == score.value
        # A percentile of 4000 draws has a standard error of some 2 % of the width, the two differ by 1.4 of them.
        np.testing.assert_allclose(limit[name][1:3], score[1:3], rtol=0, atol=0.12 * width)


def test_interval_covers_a_known_accuracy() -> None:
    rng = np.random.default_rng(11)
    trials, covered, width = 200, 0, 0.0
    for _ in range(trials):
        gold_N = (rng.random(200) > 0.7).astype(np.int64)
        scores = evaluate(TWO, outputs=np.tile([1.0, 0.0], (200, 1)), gold_index=gold_N, resamples=200, seed=5)
        low, high = scores["accuracy"].ci_low, scores["accuracy"].ci_high
        covered, width = covered + (low <= 0.7 <= high), width + (high - low) / trials
    # Percentile intervals cover 93-95 % at n = 200; over 200 trials the share has a standard error of 1.6 %:
    # 0.94 +- 3 of them, cut at what is possible.
    assert 0.89 <= covered / trials <= 0.99
    # Width 2 * 1.96 sqrt(p (1 - p) / n); 200 resamples know a percentile's place to a few per cent, the mean better.
    assert width == pytest.approx(2 * 1.96 * math.sqrt(0.7 * 0.3 / 200), rel=0.05)


def test_same_outputs_have_the_same_scores_and_better_ones_a_better_interval() -> None:
    logits_NC, gold_N = _classified(FOUR)
    first = evaluate(FOUR, outputs=logits_NC, gold_index=gold_N)
    assert evaluate(FOUR, outputs=logits_NC.copy(), gold_index=gold_N) == first
    assert evaluate(FOUR, outputs=logits_NC, gold_index=gold_N, seed=1)["nll"].ci_low != first["nll"].ci_low
    # Pairing: right on one more row is never worse in any of the shared resamples, hence in no percentile.
    wrong = int(np.flatnonzero(logits_NC.argmax(axis=-1) != gold_N)[0])
    better_NC = logits_NC.copy()
    better_NC[wrong, gold_N[wrong]] = 99.0
    second = evaluate(FOUR, outputs=better_NC, gold_index=gold_N)["accuracy"]
    assert second.value > first["accuracy"].value
    assert second.ci_low >= first["accuracy"].ci_low
    assert second.ci_high >= first["accuracy"].ci_high


def test_intervals_hold_their_value_also_where_resampling_adds_noise() -> None:
    rng = np.random.default_rng(4)
    logits_NC = rng.normal(size=(2000, 4))
    gold_N = (logits_NC + rng.gumbel(size=logits_NC.shape)).argmax(axis=-1)  # calibrated: its ECE is noise alone
    scores = evaluate(FOUR, outputs=logits_NC, gold_index=gold_N)
    for name, score in scores.items():
        assert score.ci_low <= score.value <= score.ci_high, name
    ece = scores["ece"]
    resampled_R = METRICS["ece"].prepare(logits_NC, gold_N)(bootstrap_weights(2000, resamples=1000, seed=0) * 1.0)
    # Resampled noise on top of sampling noise: about sqrt(2) times the ECE of one draw.
    growth = resampled_R.mean() - ece.value
    assert growth > 0.2 * ece.value
    expected = np.percentile(resampled_R, [2.5, 97.5]) - growth
    assert expected[0] > 0  # so that the cut at 0 plays no part here
    np.testing.assert_allclose(ece[1:3], expected, rtol=0, atol=EXACT)


def test_score_is_the_mean_of_the_tasks_metrics_resample_by_resample() -> None:
    logits_NC, gold_N = _classified(TWO)
    scores = evaluate(TWO, outputs=logits_NC, gold_index=gold_N)
    assert scores["score"].value == pytest.approx(np.mean([scores[name].value for name in TWO.metrics]), abs=EXACT)
    weights_RN = bootstrap_weights(N, resamples=1000, seed=0) * 1.0
    mean_R = np.mean([METRICS[name].prepare(logits_NC, gold_N)(weights_RN) for name in TWO.metrics], axis=0)
    expected = np.percentile(mean_R, [2.5, 97.5])
    np.testing.assert_allclose(scores["score"][1:3], expected, rtol=0, atol=EXACT)
    plain = Task(name="plain", labels=("no", "yes"), metrics=("mcc",))
    only = evaluate(plain, outputs=logits_NC, gold_index=gold_N)
    assert only["score"] == only["mcc"]
    assert list(only) == ["mcc", "accuracy", "nll", "brier", "ece", "score"]


def test_missing_gold_leaves_gold_metrics_and_stays_for_the_truth() -> None:
    logits_NC, gold_N = _classified(FOUR)
    truth_NC = np.random.default_rng(0).dirichlet(np.ones(4), size=N)
    humans_NC = truth_NC.copy()
    humans_NC[20:] = np.nan
    gold_N[100:] = -1
    scores = evaluate(FOUR, outputs=logits_NC, gold_index=gold_N, true_probs=truth_NC, human_probs=humans_NC)
    assert {name: score.n for name, score in scores.items()} == {
        **dict.fromkeys(("accuracy", "macro_f1", "mcc", "nll", "brier", "ece", "score"), 100),
        "kl_truth": N,
        "kl_humans": 20,
    }
    assert scores["accuracy"] == evaluate(FOUR, outputs=logits_NC[:100], gold_index=gold_N[:100])["accuracy"]
    probs_NC = np.exp(log_probs_NC(logits_NC))
    expected = stats.entropy(truth_NC, probs_NC, axis=-1)
    assert scores["kl_truth"].value == pytest.approx(expected.mean(), abs=EXACT)
    assert scores["kl_humans"].value == pytest.approx(expected[:20].mean(), abs=EXACT)
    assert evaluate(FOUR, outputs=logits_NC, gold_index=np.full(N, -1)) == {}
    # Storage rounds probabilities; their sum is made 1 again, or a model equal to the truth would not have KL 0.
    rounded = evaluate(FOUR, outputs=np.log(truth_NC), true_probs=truth_NC * 1.0005, resamples=2)
    assert rounded["kl_truth"].value == pytest.approx(0.0, abs=EXACT)


def test_regression_against_the_true_mean() -> None:
    values_N, gold_N = _valued()
    mean_N, std_N = values_N + 0.5, np.full(N, 0.25)
    mean_N[0], gold_N[:9], std_N[1] = np.nan, np.nan, 0.0  # a spread of 0 has no finite KL: the row is left out
    scores = evaluate(VALUE, outputs=values_N, gold_value=gold_N, true_mean=mean_N, true_std=std_N)
    assert {name: score.n for name, score in scores.items()} == {
        **dict.fromkeys(("pearson", "spearman", "mse", "score"), N - 9),
        "mse_truth": N - 1,
        "kl_truth": N - 2,
    }
    assert scores["mse_truth"].value == pytest.approx(0.25, abs=EXACT)
    # KL of two Gaussians of spread s at distance d is d^2 / (2 s^2) = 0.25 / 0.125, checked by integration.
    grid = np.linspace(-4, 4, 20001)
    p, q = stats.norm.pdf(grid, 0, 0.25), stats.norm.logpdf(grid, 0.5, 0.25)
    integral = np.sum(p * (stats.norm.logpdf(grid, 0, 0.25) - q)) * (grid[1] - grid[0])
    assert integral == pytest.approx(2.0, abs=1e-9)  # a smooth function that vanishes at the ends: the sum is exact
    assert scores["kl_truth"].value == pytest.approx(2.0, abs=EXACT)


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        (TWO, {"outputs": np.zeros((3, 4)), "gold_index": [0, 1, 1]}, r"shape \(3, 4\), expected \(N, 2\)"),
        (TWO, {"outputs": [[0.0, np.nan]], "gold_index": [0]}, "row 0 are not finite"),
        (TWO, {"outputs": np.zeros((2, 2)), "gold_index": [0, 2]}, r"-1 \(missing\) or 0..1"),
        (TWO, {"outputs": np.zeros((2, 2)), "gold_index": [0, -2]}, "holds -2..0"),
        (TWO, {"outputs": np.zeros((2, 2)), "gold_index": [0.0, 1.0]}, "dtype float64"),
        (TWO, {"outputs": np.zeros((2, 2)), "gold_index": [0]}, r"shape \(1,\)"),
        (TWO, {"outputs": np.zeros((2, 2)), "gold_value": [0.0, 1.0]}, "got gold_value"),
        (VALUE, {"outputs": [1.0, 2.0], "gold_index": [0, 1]}, "got gold_index"),
        (VALUE, {"outputs": [1.0, 2.0], "true_std": [1.0, 1.0]}, "without true_mean"),
        (VALUE, {"outputs": [1.0, 2.0], "gold_value": [1.0]}, "join by example_id"),
        (VALUE, {"outputs": [[1.0], [2.0]], "gold_value": [1.0, 2.0]}, r"shape \(2, 1\), expected \(N,\)"),
        (TWO, {"outputs": np.zeros((1, 2)), "true_probs": [[0.5, 0.6]]}, "expected a distribution"),
        (TWO, {"outputs": np.zeros((1, 2)), "human_probs": [[-0.5, 1.5]]}, "row 0 of human_probs"),
        (TWO, {"outputs": np.zeros((2, 2)), "gold_index": [0, 1], "resamples": 0}, "resamples 0"),
    ],
)
def test_wrong_input_is_refused_with_what_and_remedy(task: Task, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(task, **arguments)


@pytest.mark.parametrize(
    ("a", "b", "higher", "verdict"),
    [
        ([0.7, 0.72, 0.71], [0.6, 0.61, 0.62], True, "better"),
        ([0.6, 0.61, 0.62], [0.7, 0.72, 0.71], True, "worse"),
        ([0.6, 0.61, 0.62], [0.7, 0.72, 0.71], False, "better"),
        ([0.7, 0.72, 0.71], [0.6, 0.61, 0.62], False, "worse"),
        ([0.7, 0.5, 0.9], [0.6, 0.7, 0.6], True, "no difference"),
        ([0.7, 0.5, 0.9], [0.7, 0.5, 0.9], True, "no difference"),
        ([0.75, 0.5, 1.0], [0.5, 0.25, 0.75], True, "better"),  # all differ by 0.25 exactly: se = 0
        ([0.9], [0.1], True, "one seed"),
    ],
)
def test_verdicts(a: list[float], b: list[float], higher: bool, verdict: str) -> None:
    result = paired_difference(a, b, higher_is_better=higher)
    assert result.verdict == verdict
    assert result.n == len(a)
    assert result.mean == pytest.approx(np.mean(a) - np.mean(b), abs=EXACT)
    if len(a) == 1:
        assert math.isnan(result.se)
    else:
        assert result.se == pytest.approx(stats.sem(np.subtract(a, b)), abs=EXACT)


def test_two_standard_errors_are_the_border() -> None:
    # Differences d - 1, d, d + 1: se = 1 / sqrt(3), so the border is at d = 1.1547.
    zero = [0.0, 0.0, 0.0]
    assert paired_difference([0.15, 1.15, 2.15], zero).verdict == "no difference"
    assert paired_difference([0.16, 1.16, 2.16], zero).verdict == "better"


def test_mean_and_se_and_what_they_refuse() -> None:
    assert mean_and_se([1.0, 2.0, 6.0]) == (3.0, pytest.approx(stats.sem([1, 2, 6]), abs=EXACT), 3)
    assert math.isnan(mean_and_se([1.0]).se)
    for values in ([], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="at least one finite"):
            mean_and_se(values)
    with pytest.raises(ValueError, match="each shared seed"):
        paired_difference([1.0, 2.0], [1.0])
