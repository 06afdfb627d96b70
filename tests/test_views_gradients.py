"""Closed forms against finite differences in float64, the exact decomposition, and the maps over (alpha, T)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_views_toy import Toy, entropy, kl, softmax, table_of, write_toy

from core.views import NotDefined, gradients, reading
from core.views.gradients import decompose, decomposition, gradient_norms, logit_gradients, loss_grid, what_if

POINTS = [(0.5, 1.0), (0.0, 2.0), (1.0, 4.0), (0.3, 0.5), (0.9, 8.0)]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return write_toy(tmp_path_factory.mktemp("views") / "toy", seeds=1)


def arrays(n: int = 20, c: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, c)), 2 * rng.normal(size=(n, c)), rng.integers(0, c, n)


def loss(z: np.ndarray, v: np.ndarray, gold: int, alpha: float, temperature: float) -> float:
    """core/losses, `kl`, as it is written there."""
    soft = temperature**2 * kl(softmax(v / temperature), softmax(z / temperature))
    return alpha * soft - (1 - alpha) * float(np.log(softmax(z)[gold]))


@pytest.mark.parametrize(("alpha", "temperature"), POINTS)
def test_gradients_against_finite_differences(alpha: float, temperature: float) -> None:
    z_NC, v_NC, gold_N = arrays()
    found = logit_gradients(z_NC, v_NC, gold_N, alpha=alpha, temperature=temperature)
    step = 1e-5
    for n in range(len(z_NC)):
        for c in range(z_NC.shape[1]):
            up, down = z_NC[n].copy(), z_NC[n].copy()
            up[c] += step
            down[c] -= step
            of = [loss(z, v_NC[n], int(gold_N[n]), alpha, temperature) for z in (up, down)]
            # Central differences: error ~ step^2, and rounding ~ 1e-16 / step
            assert found.total_NC[n, c] == pytest.approx((of[0] - of[1]) / (2 * step), abs=1e-7)
    for part, (a, t) in ((found.hard_NC, (0.0, 1.0)), (found.soft_NC, (1.0, temperature))):
        alone = logit_gradients(z_NC, v_NC, gold_N, alpha=a, temperature=t).total_NC
        np.testing.assert_allclose(part, (1 - alpha if a == 0 else alpha) * alone, atol=1e-12)


def test_at_temperature_one_it_is_a_smoothed_label() -> None:
    z_NC, v_NC, gold_N = arrays()
    found = logit_gradients(z_NC, v_NC, gold_N, alpha=0.3, temperature=1.0).total_NC
    target_NC = 0.7 * np.eye(4)[gold_N] + 0.3 * softmax(v_NC)
    np.testing.assert_allclose(found, softmax(z_NC) - target_NC, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.float64, (2, 5, 3), elements=st.floats(-30, 30)), hnp.arrays(np.int64, 5, elements=st.integers(0, 2))
)
def test_the_decomposition_is_exact(logits_2NC: np.ndarray, gold_N: np.ndarray) -> None:
    z_NC, v_NC = logits_2NC
    gold_part_NC, others_NC = decompose(z_NC, v_NC, gold_N)
    np.testing.assert_allclose(gold_part_NC + others_NC, softmax(z_NC) - softmax(v_NC), atol=1e-12)
    for n, gold in enumerate(gold_N):
        q, p = softmax(z_NC[n]), softmax(v_NC[n])
        np.testing.assert_allclose(gold_part_NC[n], p[gold] * (q - np.eye(3)[gold]), atol=1e-12)
        rest = np.delete(p, gold).sum()
        if rest > 1e-12:
            wrong = np.where(np.arange(3) == gold, 0, p) / rest
            np.testing.assert_allclose(others_NC[n], rest * (q - wrong), atol=1e-12)


def test_a_sure_teacher_has_no_second_part() -> None:
    z_NC, _, gold_N = arrays(5, 3)
    sure_NC = np.where(np.eye(3, dtype=bool)[gold_N], 1e3, -1e3)
    gold_part_NC, others_NC = decompose(z_NC, sure_NC, gold_N)
    np.testing.assert_array_equal(others_NC, 0)
    np.testing.assert_allclose(gold_part_NC, softmax(z_NC) - np.eye(3)[gold_N], atol=1e-12)


def of_toy(toy: Toy) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rows = toy.on("tri")
    gold = toy.gold["tri"][rows]
    keep = np.flatnonzero(gold >= 0)
    of = toy.logits["tri"]
    return keep, of["st-kd-s0"][rows][keep], of["ens-mean_probs"][rows][keep], gold[keep]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize("chunk", [7, 10_000])
@pytest.mark.parametrize(("alpha", "temperature"), POINTS)
def test_norms_of_a_table(
    toy: Toy, alpha: float, temperature: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "chunks", lambda n: reading.chunks(n, chunk))
    keep, z_NC, v_NC, gold_N = of_toy(toy)
    found = gradient_norms(table_of(toy), alpha=alpha, temperature=temperature)
    dense = logit_gradients(z_NC, v_NC, gold_N, alpha=alpha, temperature=temperature)
    np.testing.assert_array_equal(found.rows, keep)
    # Table columns are float32.
    np.testing.assert_allclose(found.hard, np.linalg.norm(dense.hard_NC, axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.soft, np.linalg.norm(dense.soft_NC, axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.cosine, dense.cosine, atol=1e-5)
    if 0 < alpha < 1:
        expected = [cosine(a, b) for a, b in zip(dense.hard_NC, dense.soft_NC, strict=True)]
        np.testing.assert_allclose(found.cosine, expected, atol=1e-5)
    assert found.teacher_share == pytest.approx(found.soft.sum() / (found.soft.sum() + found.hard.sum()))
    assert 0 < found.conflict < 1
    assert found.conflict == (found.cosine < 0).mean()


def test_the_decomposition_of_a_table(toy: Toy) -> None:
    keep, z_NC, v_NC, gold_N = of_toy(toy)
    found = decomposition(table_of(toy))
    a_NC, b_NC = decompose(z_NC, v_NC, gold_N)
    np.testing.assert_array_equal(found.rows, keep)
    np.testing.assert_allclose(found.gold, np.linalg.norm(a_NC, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.others, np.linalg.norm(b_NC, axis=1), rtol=1e-5, atol=1e-6)
    assert found.others_share == pytest.approx(found.others_mean / (found.others_mean + found.gold_mean))


@pytest.mark.parametrize("chunk", [7, 10_000])
def test_what_if_against_a_loop(toy: Toy, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "chunks", lambda n: reading.chunks(n, chunk))
    v_NC, gold_N = of_toy(toy)[2:]
    alphas, temperatures = (0.0, 0.25, 0.5, 1.0), (0.5, 1.0, 3.0)
    found = what_if(table_of(toy), alphas=alphas, temperatures=temperatures)
    assert found.n == len(gold_N)
    for a, alpha in enumerate(alphas):
        for k, temperature in enumerate(temperatures):
            p_NC = softmax(v_NC / np.float64(temperature))
            targets = [(1 - alpha) * np.eye(3)[g] + alpha * p for g, p in zip(gold_N, p_NC, strict=True)]
            assert found.target_entropy[a, k] == pytest.approx(np.mean([entropy(t) for t in targets]), rel=1e-5)
            norms = gradient_norms(table_of(toy), alpha=alpha, temperature=temperature)
            assert found.teacher_share[a, k] == pytest.approx(norms.teacher_share)
            assert found.conflict[k] == pytest.approx(norms.conflict)
    assert (found.teacher_share[0] == 0).all()
    assert (found.teacher_share[-1] == 1).all()
    assert (found.target_entropy[0] == 0).all()


def test_the_papers_point_is_on_the_default_grid() -> None:
    assert 0.5 in gradients.ALPHAS
    assert 1.0 in gradients.TEMPERATURES
    assert (len(gradients.ALPHAS), len(gradients.TEMPERATURES)) == (21, 19)


def test_the_loss_grid_of_one_example() -> None:
    z_NC, v_NC, gold_N = arrays(1, 3)
    found = loss_grid(z_NC[0], v_NC[0], int(gold_N[0]))
    assert found.total.shape == (21, 19)
    for a, alpha in enumerate(found.alphas):
        for k, temperature in enumerate(found.temperatures):
            expected = loss(z_NC[0], v_NC[0], int(gold_N[0]), float(alpha), float(temperature))
            assert found.total[a, k] == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(found.total[0], found.hard)
    np.testing.assert_allclose(found.total[-1], found.soft)


def test_a_student_that_is_the_teacher_feels_no_pull(toy: Toy) -> None:
    found = gradient_norms(table_of(toy), alpha=0.5, temperature=2.0, student="ens-mean_probs")
    assert (found.soft == 0).all()
    assert np.isnan(found.cosine).all()
    assert np.isnan(found.conflict)
    assert found.teacher_share == 0


def test_refusals(toy: Toy, tmp_path: Path) -> None:
    table = table_of(toy)
    for alpha, temperature in ((-0.1, 1), (1.1, 1), (0.5, 0), (0.5, float("inf")), (float("nan"), 1)):
        with pytest.raises(ValueError, match="expected 0 <= alpha <= 1"):
            gradient_norms(table, alpha=alpha, temperature=temperature)
    z_NC, v_NC, gold_N = arrays()
    with pytest.raises(ValueError, match="join by example id"):
        logit_gradients(z_NC, v_NC[:3], gold_N, alpha=0.5, temperature=1)
    with pytest.raises(ValueError, match="drop rows without gold"):
        logit_gradients(z_NC, v_NC, gold_N - 1, alpha=0.5, temperature=1)
    with pytest.raises(NotDefined, match="two classes"):
        decomposition(table_of(toy, "two"))
    with pytest.raises(NotDefined, match="regression"):
        gradient_norms(table_of(toy, "score"), alpha=0.5, temperature=1)
    unlabelled = table_of(write_toy(tmp_path / "x", gold=False, tasks=["tri"]))
    with pytest.raises(NotDefined, match="no hard term"):
        what_if(unlabelled)
    assert gradient_norms(table_of(toy, "two"), alpha=0.5, temperature=1).teacher_share > 0  # defined for two classes
