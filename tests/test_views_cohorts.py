"""The flip ledger, stability over seeds, copied errors, runner-ups, wrong-class mass, doubted labels, against loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from test_views_toy import TRI, Toy, softmax, table_of, write_toy

from core.calibration import wilson_interval
from core.views import NotDefined
from core.views.cohorts import ledger, net_gain, seed_pairs, stability, stable_rows
from core.views.counts import confusion, density, facets
from core.views.derived import COHORTS, column
from core.views.filters import Filter, apply
from core.views.transfer import error_copying, runner_up_transfer, suspects, wrong_class_mass


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return write_toy(tmp_path_factory.mktemp("views") / "toy", seeds=3)


def probs_of(toy: Toy, voice: str) -> np.ndarray:
    names = {"teacher": ["ens-mean_probs"], **{v: [f"st-{v}-s{s}" for s in range(3)] for v in ("hard", "kd")}}
    models = names.get(voice, [voice])
    return np.asarray(np.mean([softmax(toy.logits["tri"][name]) for name in models], axis=0)[toy.on("tri")])


def gold_of(toy: Toy) -> np.ndarray:
    return np.asarray(toy.gold["tri"][toy.on("tri")])


# ---- ledger --------------------------------------------------------------------------------------------------------
def test_the_ledger_is_the_difference_of_accuracies(toy: Toy) -> None:
    table, gold = table_of(toy), gold_of(toy)
    found = ledger(table)
    assert tuple(found.counts) == COHORTS
    assert sum(found.counts.values()) == (gold >= 0).sum() == found.net.n
    right = {v: (probs_of(toy, v).argmax(1) == gold)[gold >= 0] for v in ("hard", "kd")}
    assert found.net.share == pytest.approx(right["kd"].mean() - right["hard"].mean(), abs=1e-12)
    assert found.net.n_gained == (right["kd"] & ~right["hard"]).sum()
    for name in COHORTS:
        assert found.counts[name] == len(apply(Filter(cohort=name), table)) > 0
    rows = np.arange(0, 120, 3)
    part = ledger(table, rows)
    assert sum(part.counts.values()) == (gold[rows] >= 0).sum()


def test_the_interval_is_that_of_resampled_examples() -> None:
    counts = dict.fromkeys(COHORTS, 0) | {"taught": 30, "lost": 14, "mis-taught": 4, "surpassed": 6, "kept": 146}
    found = net_gain(counts)
    signs = np.repeat([1, -1, 0], [36, 18, 146])
    rng = np.random.default_rng(1)
    means = signs[rng.integers(200, size=(20_000, 200))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    # Both are Monte Carlo with 10,000 draws and more: the quantile's error is about 0.001.
    assert found.low == pytest.approx(low, abs=0.006)
    assert found.high == pytest.approx(high, abs=0.006)
    assert found.share == pytest.approx(0.09)
    assert found.low < found.share < found.high
    # McNemar's exact test is a fair coin.
    assert found.p_value == pytest.approx(2 * stats.binom.cdf(18, 54, 0.5))
    assert net_gain(counts) == found  # seeded
    assert net_gain(dict.fromkeys(COHORTS, 0) | {"kept": 5}).p_value == 1.0
    with pytest.raises(NotDefined, match="No example with gold"):
        net_gain(dict.fromkeys(COHORTS, 0))


def test_stability_against_a_loop(toy: Toy) -> None:
    table, gold = table_of(toy), gold_of(toy)
    right = {m: probs_of(toy, m).argmax(1) == gold for m in toy.logits["tri"] if m.startswith("st-")}
    teacher = probs_of(toy, "teacher").argmax(1) == gold
    per_example = []
    for i in np.flatnonzero(gold >= 0):
        of_seeds = []
        for seed in range(3):
            outcome = (bool(teacher[i]), bool(right[f"st-hard-s{seed}"][i]), bool(right[f"st-kd-s{seed}"][i]))
            of_seeds.append(
                {(1, 0, 1): "taught", (1, 1, 1): "kept", (1, 0, 0): "missed", (0, 1, 0): "mis-taught",
                 (0, 1, 1): "resisted", (0, 0, 1): "surpassed", (1, 1, 0): "lost", (0, 0, 0): "hopeless"}[outcome]
            )  # fmt: skip
        per_example.append((i, of_seeds))
    found = stability(table)
    assert found.seeds == (0, 1, 2)
    for name in COHORTS:
        votes = [seeds.count(name) for _, seeds in per_example]
        assert found.mean[name] == pytest.approx(sum(votes) / 3)
        assert found.majority[name] == sum(v >= 2 for v in votes)
        assert found.all[name] == sum(v == 3 for v in votes)
        np.testing.assert_array_equal(stable_rows(table, name), [i for i, s in per_example if s.count(name) == 3])
        np.testing.assert_array_equal(
            stable_rows(table, name, share=0.5), [i for i, s in per_example if s.count(name) >= 2]
        )
    assert sum(found.all.values()) > 0
    labelled = gold >= 0
    flips = [(right[f"st-hard-s{a}"] != right[f"st-hard-s{b}"])[labelled].sum() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert found.seed_flips == pytest.approx(np.mean(flips))
    for seed, net in enumerate(found.net):
        difference = right[f"st-kd-s{seed}"][labelled].mean() - right[f"st-hard-s{seed}"][labelled].mean()
        assert net.share == pytest.approx(difference, abs=1e-12)
    half = stability(table, np.arange(60))
    assert sum(half.mean.values()) == pytest.approx((gold[:60] >= 0).sum())


def test_one_seed_and_none(tmp_path: Path) -> None:
    one = table_of(write_toy(tmp_path / "one", seeds=1, tasks=["tri"]))
    assert stability(one).seed_flips is None
    assert stability(one).all == stability(one).majority
    assert seed_pairs(one) == {0: ("st-hard-s0", "st-kd-s0")}
    none = table_of(write_toy(tmp_path / "none", variants=("kd",), tasks=["tri"]))
    for function in (stability, ledger):
        with pytest.raises(NotDefined, match="hard"):
            function(none)
    with pytest.raises(ValueError, match="cohort 'tought' is not known"):
        stable_rows(one, "tought")


# ---- transfer ------------------------------------------------------------------------------------------------------
def test_copied_errors_against_a_loop(toy: Toy) -> None:
    table, gold, teacher = table_of(toy), gold_of(toy), probs_of(toy, "teacher").argmax(1)
    found = error_copying(table)
    n_CC = np.zeros((3, 3), int)
    for voice in ("kd", "hard"):
        answers, k, n, copied = probs_of(toy, voice).argmax(1), 0, 0, np.zeros((3, 3), int)
        n_CC[:] = 0
        for g, t, a in zip(gold, teacher, answers, strict=True):
            if g >= 0 and t != g:
                n, k = n + 1, k + (a == t)
                n_CC[g, t] += 1
                copied[g, t] += a == t
        share = found.share[voice]
        assert (share.k, share.n) == (k, n)
        assert share.share == pytest.approx(k / n)
        low, high = wilson_interval([k], [n])
        assert (share.low, share.high) == (low[0], high[0])
        np.testing.assert_array_equal(found.copied_CC[voice], copied)
    np.testing.assert_array_equal(found.n_CC, n_CC)
    assert np.trace(found.n_CC) == 0
    assert error_copying(table, np.arange(60)).share["kd"].n < found.share["kd"].n
    right = np.flatnonzero(teacher == gold)
    with pytest.raises(NotDefined, match="no error here"):
        error_copying(table, right)


def test_runner_up_against_a_loop(toy: Toy) -> None:
    table, gold = table_of(toy), gold_of(toy)
    teacher, kd = probs_of(toy, "teacher"), probs_of(toy, "kd")
    rows, up, of_teacher, of_kd = [], [], [], []
    for i in np.flatnonzero(gold >= 0):
        wrong = [c for c in range(3) if c != gold[i]]
        best = max(wrong, key=lambda c, i=i: teacher[i, c])  # type: ignore[misc]
        rows.append(i)
        up.append(best)
        of_teacher.append(teacher[i, best] / sum(teacher[i, c] for c in wrong))
        of_kd.append(kd[i, best] / sum(kd[i, c] for c in wrong))
    found = runner_up_transfer(table)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_array_equal(found.runner_up, up)
    np.testing.assert_allclose(found.teacher, of_teacher, rtol=1e-5)
    np.testing.assert_allclose(found.voices["kd"], of_kd, rtol=1e-5)
    assert found.r["kd"] == pytest.approx(stats.pearsonr(of_teacher, of_kd).statistic, rel=1e-5)
    assert set(found.r) == {"kd", "hard"}
    assert runner_up_transfer(table, voices=("teacher",)).r == pytest.approx({"teacher": 1.0})


def test_runner_up_of_a_sure_teacher(tmp_path: Path) -> None:
    """1 - p_* underflows there; the conditional does not."""
    table = table_of(write_toy(tmp_path / "x", tasks=["tri"], scale=300, ensemble=False))
    found = runner_up_transfer(table)
    assert np.isfinite(found.teacher).all()
    assert (found.teacher >= 0.5).all()  # the larger of two


def test_wrong_class_mass_against_a_loop(toy: Toy) -> None:
    table, gold, teacher = table_of(toy), gold_of(toy), probs_of(toy, "teacher")
    found = wrong_class_mass(table)
    for i in range(3):
        mean = teacher[gold == i].mean(axis=0)
        np.testing.assert_allclose(found.mean_CC[i], mean, rtol=1e-5)
        wrong = [j for j in range(3) if j != i]
        np.testing.assert_allclose(found.wrong_CC[i, wrong], mean[wrong] / mean[wrong].sum(), rtol=1e-5)
        assert np.isnan(found.wrong_CC[i, i])
        assert found.n_C[i] == (gold == i).sum()
    only = wrong_class_mass(table, "kd", np.flatnonzero(gold == 1))
    assert only.n_C.tolist() == [0, int((gold == 1).sum()), 0]
    assert np.isnan(only.mean_CC[0]).all()
    assert np.isnan(only.wrong_CC[2]).all()


def test_two_classes_and_regressions_have_no_dark_knowledge(toy: Toy) -> None:
    for task in ("two", "score"):
        for function in (runner_up_transfer, wrong_class_mass):
            with pytest.raises(NotDefined, match=r"two classes|regression"):
                function(table_of(toy, task))
    two = error_copying(table_of(toy, "two"))
    kd = table_of(toy, "two").answers("kd")
    wrong = table_of(toy, "two").has_gold & ~table_of(toy, "two").is_right("teacher")
    assert two.share["kd"].k == (kd != table_of(toy, "two").gold_N)[wrong].sum()  # copying is being wrong


def test_suspects(toy: Toy, tmp_path: Path) -> None:
    table, gold = table_of(toy), gold_of(toy)
    answers = np.stack([probs_of(toy, f"ft-{m}-tri").argmax(1) for m in (1, 2, 3)])
    information = column(table, "mutual_information")
    limit = float(np.median(information))
    expected = [
        i for i in range(120)
        if gold[i] >= 0 and len(set(answers[:, i])) == 1 and answers[0, i] != gold[i] and information[i] <= limit
    ]  # fmt: skip
    expected.sort(key=lambda i: probs_of(toy, "teacher")[i, gold[i]])
    assert len(expected) > 3
    np.testing.assert_array_equal(suspects(table), expected)
    strict = float(information[expected].mean())
    assert set(suspects(table, max_information=strict)) == {i for i in expected if information[i] <= strict}
    assert set(suspects(table, np.arange(60))) == {i for i in expected if i < 60}
    with pytest.raises(NotDefined, match="one teacher"):
        suspects(table_of(write_toy(tmp_path / "x", members=1, tasks=["tri"])))


# ---- counts --------------------------------------------------------------------------------------------------------
def test_facets_and_confusion_are_links(toy: Toy) -> None:
    table, gold = table_of(toy), gold_of(toy)
    found = facets(table)
    assert set(found) == {"gold", "teacher", "student", "baseline", "cohort", "agree", "unanimous"}
    for name, counts in found.items():
        for value, n in counts.items():
            wanted = value == "yes" if name in ("agree", "unanimous") else value
            assert len(apply(Filter(**{name: wanted}), table)) == n, (name, value)
    rows = np.arange(0, 120, 2)
    assert sum(facets(table, rows)["teacher"].values()) == 60
    matrix = confusion(table, "gold", "kd")
    assert matrix.sum() == (gold >= 0).sum()
    for i, a in enumerate(TRI.labels):
        for j, b in enumerate(TRI.labels):
            assert matrix[i, j] == len(apply(Filter(gold=a, student=b), table))
    assert (
        confusion(table, "teacher", "teacher", rows).sum()
        == np.trace(confusion(table, "teacher", "teacher", rows))
        == 60
    )
    assert facets(table_of(toy, "score")) == {}


def test_density_counts_everything(toy: Toy) -> None:
    table = table_of(toy)
    found = density(table, "entropy", "student_entropy", bins=20)
    assert found.counts.sum() == 120
    np.testing.assert_array_equal(found.x_edges, found.y_edges)
    truth = density(table, "kl", "teacher_kl_truth")
    assert truth.counts.sum() + truth.n_unknown == 120
    assert truth.n_unknown > 0
