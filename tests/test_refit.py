"""core/refit against a loss written row by row, scikit-learn's logistic regression and known answers; and its files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import optimize
from sklearn.linear_model import LogisticRegression
from test_views_toy import Toy, kl, softmax, table_of, write_toy

from core import refit as module
from core.refit import Head, apply_head, fit_head, gold_probs, refit
from core.views import NotDefined
from core.views.table import load_table

N, H, C = 300, 6, 3
STUDENT = "st-kd-s0"


def random_case(seed: int = 0, n: int = N, h: int = H, c: int = C) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of different scales and offsets, gold that they half tell, a teacher that knows something else too."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, h)) * np.linspace(0.2, 5, h) + 3
    signal = rng.normal(size=(h, c))
    logits = (features - 3) @ signal / 3
    gold = np.array([rng.choice(c, p=p) for p in softmax(logits)])
    return features, gold, logits + rng.normal(size=(n, c))


def naive_loss(
    head: Head, features: np.ndarray, gold: np.ndarray, teacher: np.ndarray, alpha: float, t: float, l2: float
) -> float:
    """As core/refit says it, one row at a time."""
    total = 0.0
    for f, y, v in zip(features, gold, teacher, strict=True):
        z = np.array([sum((f - head.mean) / head.scale * head.weights[:, c]) + head.biases[c] for c in range(C)])
        total += alpha * t**2 * kl(softmax(v / t), softmax(z / t)) - (1 - alpha) * np.log(softmax(z)[y])
    return total / len(gold) + l2 / 2 * sum(w**2 for w in head.weights.ravel())


@pytest.mark.parametrize(("alpha", "t"), [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (0.3, 0.5), (0.7, 4.0)])
def test_the_loss_is_the_written_one_and_lowest_there(alpha: float, t: float) -> None:
    features, gold, teacher = random_case()
    head = fit_head(features, gold, teacher, alpha=alpha, temperature=t, loss="kl")
    at_best = naive_loss(head, features, gold, teacher, alpha, t, module.L2)
    assert head.loss == pytest.approx(at_best, abs=1e-10)
    rng = np.random.default_rng(1)
    for _ in range(10):  # convex: whoever steps away pays
        step = 0.05 * rng.normal(size=head.weights.shape)
        other = head._replace(weights=head.weights + step, biases=head.biases + 0.05 * rng.normal(size=C))
        assert naive_loss(other, features, gold, teacher, alpha, t, module.L2) > at_best


def test_another_optimiser_ends_at_the_same_head() -> None:
    """Without our gradient: differences of the naive loss, another method."""
    features, gold, teacher = random_case(n=40, h=2)
    head = fit_head(features, gold, teacher, alpha=0.4, temperature=2.0, loss="kl", l2=0.1)

    def of(params: np.ndarray) -> float:
        moved = head._replace(weights=params[: 2 * C].reshape(2, C), biases=params[2 * C :])
        return naive_loss(moved, features, gold, teacher, 0.4, 2.0, 0.1)

    found = optimize.minimize(of, np.zeros(3 * C), method="BFGS", options={"gtol": 1e-7})
    assert head.loss == pytest.approx(found.fun, abs=1e-7)
    # gtol 1e-5 over the curvature l2 = 0.1.
    assert head.weights == pytest.approx(found.x[: 2 * C].reshape(2, C), abs=1e-3)


def test_alpha_0_is_logistic_regression() -> None:
    features, gold, teacher = random_case()
    head = fit_head(features, gold, None, alpha=0.0, n_classes=C)
    scaled = (features - head.mean) / head.scale
    # scikit-learn minimises C sum NLL + |W|^2 / 2.
    reference = LogisticRegression(C=1 / (N * module.L2), tol=1e-8, max_iter=1000).fit(scaled, gold)
    # Each stops when its own gradient is small; l2 = 1e-3 is the least curvature.
    assert softmax(apply_head(head, features)) == pytest.approx(reference.predict_proba(scaled), abs=3e-3)
    same = fit_head(features, gold, teacher, alpha=0.0)
    assert same.weights == pytest.approx(head.weights, abs=1e-8)


def test_soft_ce_is_kl_at_temperature_1() -> None:
    features, gold, teacher = random_case()
    a, b = (fit_head(features, gold, teacher, alpha=0.5, loss=name) for name in ("soft_ce", "kl"))
    assert np.array_equal(a.weights, b.weights)


def test_alpha_1_finds_a_teacher_that_is_linear() -> None:
    """Whatever the temperature: the same head is the optimum of each."""
    features, gold, _ = random_case()
    teacher = (features - 3) @ np.random.default_rng(2).normal(size=(H, C)) / 3
    for t in (0.7, 1.0, 3.0):
        head = fit_head(features, gold, teacher, alpha=1.0, temperature=t, loss="kl", l2=1e-7)
        assert softmax(apply_head(head, features)) == pytest.approx(softmax(teacher), abs=0.01)


def test_dead_and_huge_features() -> None:
    """A dead neuron is a constant column; another unit of a feature changes nothing."""
    features, gold, teacher = random_case()
    plain = fit_head(features, gold, teacher, alpha=0.5)
    widened = np.column_stack([features[:, 0] * 1000 - 7, features[:, 1:], np.full(N, 2.5)])
    wide = fit_head(widened, gold, teacher, alpha=0.5)
    assert apply_head(wide, widened) == pytest.approx(apply_head(plain, features), abs=1e-3)
    assert wide.weights[-1] == pytest.approx(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 1.5}, "expected 0 <= alpha <= 1"),
        ({"temperature": 0.0, "loss": "kl"}, "temperature > 0"),
        ({"temperature": 2.0}, "choose kl"),
        ({"loss": "dkd"}, "expected one of soft_ce, kl"),
        ({"l2": 0.0}, "above 0"),
        ({"gold_N": np.full(N, 3)}, "index of a class"),
        ({"gold_N": np.zeros(N - 1, int)}, "expected \\(N, H\\)"),
        ({"features_NH": np.full((N, H), np.inf)}, "not finite"),
        ({"teacher_logits_NC": None}, "there is no teacher"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    features, gold, teacher = random_case()
    given = {"features_NH": features, "gold_N": gold, "teacher_logits_NC": teacher, "alpha": 0.5} | changes
    with pytest.raises(ValueError, match=message):
        fit_head(**given)


# ---- files ---------------------------------------------------------------------------------------------------------
def write_features(toy: Toy, task: str = "tri", model: str = STUDENT) -> np.ndarray:
    """Features from which a head can read the student's logits: some rotation of them, and noise. Rows are in the order
    of the examples, where splits lie mixed."""
    rng = np.random.default_rng(3)
    logits = toy.logits[task][model]
    features = np.column_stack([logits @ rng.normal(size=(logits.shape[1], 4)), rng.normal(size=(len(logits), 2))])
    path = toy.run.features_path(model, task)
    path.parent.mkdir(parents=True)
    np.save(path, features.astype(np.float16))
    return features


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return write_toy(tmp_path / "toy")


def test_the_fit_is_on_train_and_joined_by_id(toy: Toy) -> None:
    features = write_features(toy).astype(np.float16)
    found = refit(table_of(toy), STUDENT, alpha=0.5, temperature=2.0, loss="kl")
    train, shown = toy.on("tri", "train"), toy.on("tri")
    train = train[toy.gold["tri"][train] >= 0]
    assert (found.fitted_on, found.n_fitted, found.n_rows) == ("train", len(train), len(train))
    teacher = toy.logits["tri"]["ens-mean_probs"]
    head = fit_head(features[train], toy.gold["tri"][train], teacher[train], alpha=0.5, temperature=2.0, loss="kl")
    assert np.array_equal(found.answers, apply_head(head, features[shown]).argmax(axis=1))
    known = toy.gold["tri"][shown] >= 0
    share = (found.answers[known] == toy.gold["tri"][shown][known]).mean()
    assert found.scores["accuracy"].value == pytest.approx(share)
    assert "kl_truth" in found.scores


def test_many_rows_are_fitted_on_a_sample_of_them(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    write_features(toy)
    monkeypatch.setattr(module, "MAX_CELLS", 6 * 100)
    monkeypatch.setattr(module, "FIT_SPLITS", ("test",))
    a, b = (refit(table_of(toy, split="selection"), STUDENT, alpha=0.5) for _ in range(2))
    assert a.n_fitted == 100 < a.n_rows
    assert np.array_equal(a.answers, b.answers)


def test_without_features_the_option_is_named(toy: Toy) -> None:
    with pytest.raises(NotDefined, match=r"runtime\.keep_features=true"):
        refit(table_of(toy), STUDENT, alpha=0.5)


@pytest.mark.parametrize("task", ["score"])
def test_regressions_have_no_such_head(toy: Toy, task: str) -> None:
    with pytest.raises(NotDefined, match="regression"):
        refit(table_of(toy, task), STUDENT, alpha=0.5)


def test_nothing_is_judged_by_what_it_was_fitted_on(toy: Toy) -> None:
    write_features(toy)
    with pytest.raises(NotDefined, match="choose the reported split"):
        refit(table_of(toy, split="train"), STUDENT, alpha=0.5)


def test_a_task_without_teacher_has_gold_alone(tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "alone", members=0, ensemble=False)
    write_features(toy)
    with pytest.raises(NotDefined, match="gold alone"):
        refit(table_of(toy), STUDENT, alpha=0.5)
    assert refit(table_of(toy), STUDENT, alpha=0.0).scores["accuracy"].n > 0


def test_without_labels_on_train_selection_is_fitted_on(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    write_features(toy)
    unlabelled = load_table(toy.run, "tri", "train")
    unlabelled.gold_N, unlabelled.has_gold = np.full(len(unlabelled), -1), np.zeros(len(unlabelled), bool)
    monkeypatch.setattr(
        module, "load_table", lambda run, task, split: unlabelled if split == "train" else load_table(run, task, split)
    )
    assert refit(table_of(toy), STUDENT, alpha=0.5).fitted_on == "selection"
    with pytest.raises(NotDefined, match="choose the reported split"):
        refit(table_of(toy, split="selection"), STUDENT, alpha=0.5)


def test_a_file_of_other_rows_is_refused(toy: Toy) -> None:
    write_features(toy)
    path = toy.run.features_path(STUDENT, "tri")
    np.save(path, np.load(path)[:-1])
    with pytest.raises(ValueError, match="expected a row for each of 190"):
        refit(table_of(toy), STUDENT, alpha=0.5)
    path.write_bytes(b"no numbers")
    with pytest.raises(ValueError, match=r"not a readable \.npy"):
        refit(table_of(toy), STUDENT, alpha=0.5)


def test_speed(capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, not asserted: the page promises less than a second for the demo's size."""
    features, gold, teacher = random_case(n=4200, h=96)
    started = time.perf_counter()
    head = fit_head(features, gold, teacher, alpha=0.5, temperature=2.0, loss="kl")
    seconds = time.perf_counter() - started
    with capsys.disabled():
        print(f" [refit of 4,200 x 96: {seconds:.2f} s, {head.n_steps} steps]", end="")
    assert head.slope < 1e-3


def test_the_probability_of_gold() -> None:
    probs = gold_probs(np.log([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]]) + 7, np.array([1, -1, 0]))
    np.testing.assert_allclose(probs, [0.8, np.nan, 0.9])
