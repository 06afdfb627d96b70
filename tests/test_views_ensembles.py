"""The ensemble room, reliability and distances to people, against naive loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from test_views_toy import Toy, entropy, kl, log_mean, softmax, table_of, write_toy

from core.calibration import ece, fit_temperature, reliability
from core.views import NotDefined
from core.views.distances import BOOTSTRAP_ROWS, difference, distances, js_distance_N, mean_interval
from core.views.ensembles import agreement, closest_member, leave_one_out, uncertainty
from core.views.reliability import curve, temperature_of


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return write_toy(tmp_path_factory.mktemp("views") / "toy")


def members_of(toy: Toy) -> np.ndarray:
    return np.stack([softmax(toy.logits["tri"][f"ft-{m}-tri"])[toy.on("tri")] for m in (1, 2, 3)])


def student_of(toy: Toy) -> np.ndarray:
    return np.asarray(np.mean([softmax(toy.logits["tri"][f"st-kd-s{s}"]) for s in (0, 1)], axis=0)[toy.on("tri")])


# ---- ensemble room -------------------------------------------------------------------------------------------------
def test_agreement_against_a_loop(toy: Toy) -> None:
    table, rows = table_of(toy), toy.on("tri")
    found = agreement(table)
    assert found.voices == (*table.model_names, "gold")
    gold = toy.gold["tri"][rows]
    said = {name: softmax(toy.logits["tri"][name])[rows].argmax(1) for name in table.model_names} | {"gold": gold}
    for i, a in enumerate(found.voices):
        for j, b in enumerate(found.voices):
            pairs = [(x, y) for x, y in zip(said[a], said[b], strict=True) if x >= 0 and y >= 0]
            assert found.n[i, j] == len(pairs)
            assert found.share[i, j] == pytest.approx(np.mean([x == y for x, y in pairs]))
    np.testing.assert_array_equal(found.share.diagonal(), 1)
    few = agreement(table, ("teacher", "kd", "gold"), np.arange(40))
    assert few.n[0, 1] == 40
    unlabelled = np.flatnonzero(gold < 0)
    assert np.isnan(agreement(table, ("kd", "gold"), unlabelled).share[0, 1])
    with pytest.raises(NotDefined, match="regression"):
        agreement(table_of(toy, "score"))


def test_uncertainty_has_two_parts(toy: Toy) -> None:
    found, members = uncertainty(table_of(toy)), members_of(toy)
    assert (np.diff(found.information) <= 0).all()
    assert sorted(found.rows) == list(range(120))
    for row, total, expected, information in zip(*found, strict=True):
        mean = members[:, row].mean(axis=0)
        assert total == pytest.approx(entropy(mean), rel=1e-5)
        assert expected == pytest.approx(np.mean([entropy(p) for p in members[:, row]]), rel=1e-5)
        assert information == pytest.approx(np.mean([kl(p, mean) for p in members[:, row]]), abs=1e-6)


def test_closest_member_against_a_loop(toy: Toy) -> None:
    found, members, student = closest_member(table_of(toy)), members_of(toy), student_of(toy)
    expected = [min(range(3), key=lambda m, i=i: kl(members[m, i], student[i])) for i in range(120)]  # type: ignore[misc]
    np.testing.assert_array_equal(found.member, expected)
    assert found.counts == {f"ft-{m + 1}-tri": expected.count(m) for m in range(3)}
    assert sum(closest_member(table_of(toy), np.arange(10)).counts.values()) == 10


def test_leave_one_out_against_a_loop(toy: Toy) -> None:
    members, student = members_of(toy), student_of(toy)
    n_flips = 0
    for m, found in enumerate(leave_one_out(table_of(toy))):
        rest = [other for other in range(3) if other != m]
        rows, with_member, with_rest, own = [], 0, 0, 0
        for i in range(120):
            whole, without = members[:, i].mean(axis=0).argmax(), members[rest, i].mean(axis=0).argmax()
            if whole != without:
                rows.append(i)
                with_member += student[i].argmax() == whole
                with_rest += student[i].argmax() == without
                own += members[m, i].argmax() == whole
        assert found.member == f"ft-{m + 1}-tri"
        np.testing.assert_array_equal(found.rows, rows)
        assert found[2:] == (with_member, with_rest, len(rows) - with_member - with_rest, own)
        n_flips += len(rows)
    assert n_flips > 10
    part = leave_one_out(table_of(toy), np.arange(60, 120))
    assert all((found.rows >= 60).all() for found in part)


def test_one_member_has_no_room(tmp_path: Path) -> None:
    table = table_of(write_toy(tmp_path / "x", members=1, tasks=["tri"]))
    for function in (uncertainty, closest_member, leave_one_out):
        with pytest.raises(NotDefined, match=r"has one teacher \(ft-1-tri\) on split 'test', and .* needs two"):
            function(table)
    assert agreement(table).share.shape == (8, 8)  # mt-1, ft-1-tri, the ensemble, four students, gold


# ---- reliability ---------------------------------------------------------------------------------------------------
def test_reliability_is_that_of_calibration(toy: Toy) -> None:
    table, rows = table_of(toy), toy.on("tri")
    gold = toy.gold["tri"][rows]
    logits = toy.logits["tri"]["st-kd-s0"][rows][gold >= 0]
    found = curve(table, "st-kd-s0", n_bins=5)
    expected = reliability(logits, gold[gold >= 0], n_bins=5)
    np.testing.assert_allclose(found.bins, expected, rtol=1e-5)
    assert found.ece == pytest.approx(ece(logits, gold[gold >= 0], n_bins=5), rel=1e-5)
    probs = softmax(logits)
    over = probs.max(1) - (probs.argmax(1) == gold[gold >= 0])
    assert found.overconfidence.value == pytest.approx(over.mean(), rel=1e-5)
    assert found.overconfidence.low < found.overconfidence.value < found.overconfidence.high
    scaled = curve(table, "st-kd-s0", temperature=3.0)
    assert scaled.overconfidence.value < found.overconfidence.value
    assert curve(table, "teacher", np.arange(30)).bins.n_examples.sum() == (gold[:30] >= 0).sum()


def test_the_temperature_is_fitted_elsewhere(toy: Toy) -> None:
    table, rows = table_of(toy, split="selection"), toy.on("tri", "selection")
    gold = toy.gold["tri"][rows]
    mean = log_mean([toy.logits["tri"][f"st-kd-s{s}"][rows] for s in (0, 1)])
    assert temperature_of(table, "kd") == pytest.approx(fit_temperature(mean[gold >= 0], gold[gold >= 0]), rel=1e-3)


def test_reliability_refusals(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(NotDefined, match="regression"):
        curve(table_of(toy, "score"), "kd")
    with pytest.raises(ValueError, match="above 0"):
        curve(table_of(toy), "kd", temperature=0)
    unlabelled = table_of(write_toy(tmp_path / "x", gold=False, tasks=["tri"]))
    with pytest.raises(NotDefined, match="No example with gold"):
        curve(unlabelled, "kd")
    with pytest.raises(NotDefined, match="no gold to fit"):
        temperature_of(unlabelled, "kd")


# ---- distances -----------------------------------------------------------------------------------------------------
def test_js_distance_is_scipys() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet([0.3] * 4, 50), rng.dirichlet([0.3] * 4, 50)
    p[0], q[0] = [1, 0, 0, 0], [0, 1, 0, 0]
    expected = jensenshannon(p, q, base=2, axis=1)
    np.testing.assert_allclose(js_distance_N(p, q), expected, rtol=1e-9)
    assert js_distance_N(p, q)[0] == 1.0
    np.testing.assert_array_equal(js_distance_N(p, p), 0)
    assert np.isnan(js_distance_N(np.full((1, 2), np.nan), [[0.5, 0.5]])).all()
    with pytest.raises(ValueError, match="shapes"):
        js_distance_N(p, q[:3])


@pytest.mark.parametrize("which", ["humans", "truth"])
def test_distances_to_the_known(toy: Toy, which: str) -> None:
    rows, student = toy.on("tri"), student_of(toy)
    truth = toy.truth["tri"][rows]
    keep = np.flatnonzero(np.isfinite(truth).all(axis=1))
    found = distances(table_of(toy), which, ("kd", "teacher"))  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.rows, keep)
    assert 0 < len(keep) < len(rows)
    np.testing.assert_allclose(found.of["kd"], jensenshannon(truth[keep], student[keep], base=2, axis=1), rtol=1e-4)
    mean = found.mean["kd"]
    assert mean.low < mean.value < mean.high
    assert mean.n == len(keep)
    paired = difference(found, "kd", "teacher")
    assert paired.value == pytest.approx(found.mean["kd"].value - found.mean["teacher"].value)
    assert difference(found, "teacher", "kd").value == pytest.approx(-paired.value)
    # Pairing is what makes it narrow: a voice against itself is 0, exactly.
    assert difference(found, "kd", "kd")[:3] == (0, 0, 0)


def test_the_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).exponential(size=400)
    found = mean_interval(values)
    half = 1.96 * values.std(ddof=1) / 20
    # 1000 resamples: the ends are quantiles with a Monte Carlo error of some 5 % of the half width.
    assert found.low == pytest.approx(values.mean() - half, abs=0.2 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.2 * half)
    assert mean_interval(values) == found
    assert mean_interval(values, seed=1) != found
    large = np.random.default_rng(0).exponential(size=BOOTSTRAP_ROWS + 1)
    normal, resampled = mean_interval(large), mean_interval(large[:-1])
    assert normal.low == pytest.approx(resampled.low, abs=2e-3)
    assert normal.high == pytest.approx(resampled.high, abs=2e-3)
    for bad in ([], [np.nan], [[1.0]]):
        with pytest.raises(ValueError, match="expected at least one"):
            mean_interval(bad)


def test_without_people(toy: Toy, tmp_path: Path) -> None:
    table = table_of(write_toy(tmp_path / "x", known=False, tasks=["tri"]))
    with pytest.raises(NotDefined, match="no annotators' labels"):
        distances(table, "humans", ("kd",))
    with pytest.raises(NotDefined, match="no true probabilities"):
        distances(table, "truth", ("kd",))
    unknown = np.flatnonzero(~np.isfinite(toy.truth["tri"][toy.on("tri")]).all(axis=1))
    with pytest.raises(NotDefined, match="None of these examples"):
        distances(table_of(toy), "truth", ("kd",), unknown)
    with pytest.raises(NotDefined, match="regression"):
        distances(table_of(toy, "score"), "truth", ("kd",))
