"""What ties the losses to one another, to gold, to schedules and to averages of teachers; identities that comments of
core/losses states. Everything in float64, which the losses keep.

Shapes: B examples, C classes, M teachers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from test_losses import B, Batch, C, Inputs, gradient, in_single, inputs, options
from torch import Tensor
from torch.nn import functional as F

from core.config import Teaching
from core.ensemble import combine, combine_values, jensen_gap_N
from core.losses import (
    MIN_LOG_P,
    REGRESSION,
    SOFT,
    confidence_weighted,
    gaussian_nll,
    hard,
    mse,
    regression,
    soft_weight,
    taught,
)

EXACT: dict[str, float] = {"rtol": 1e-11, "atol": 1e-11}  # float64 sums of terms of order 1 to 100


def soft(loss: str, **kwargs: float) -> Batch:
    return lambda x: SOFT[loss](x.student, x.teacher, x.gold, options(loss, **kwargs))


def at(o: Teaching, progress: float) -> Batch:
    return lambda x: taught(x.student, x.gold, x.teacher, o, progress)


def on_gold(x: Inputs) -> Tensor:
    return hard(x.student, x.gold)


def same(a: Batch, b: Batch, x: Inputs) -> None:
    """In value and gradient."""
    torch.testing.assert_close(a(x), b(x), **EXACT)
    torch.testing.assert_close(gradient(a, x), gradient(b, x), **EXACT)


# ---- one loss and another ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_is_the_target_term_and_the_rest_by_its_mass(temperature: float) -> None:
    """KL(p, q) = TCKD + (1 - p_*) NCKD (2203.08679): what DKD decouples."""
    x = inputs()
    rest_B = 1 - (x.teacher / temperature).softmax(-1)[torch.arange(B), x.gold]
    target = soft("dkd", temperature=temperature, dkd_others=0)
    others = soft("dkd", temperature=temperature, dkd_target=0, dkd_others=1)
    same(soft("kl", temperature=temperature), lambda x: target(x) + rest_B * others(x), x)
    assert target(x).mean() > 0.1 < others(x).mean()


def test_two_classes_have_no_others() -> None:
    x = inputs(n_classes=2)
    others = soft("dkd", temperature=4, dkd_target=0)
    assert others(x).equal(torch.zeros(B, dtype=torch.float64))
    assert gradient(others, x).equal(torch.zeros(B, 2, dtype=torch.float64))
    same(soft("dkd", temperature=4), soft("kl", temperature=4), x)


def test_jsd_goes_from_forward_to_reverse_kl_without_a_jump() -> None:
    x = inputs()
    for end, name in ((0, "kl"), (1, "reverse_kl")):
        for temperature in (1, 2):
            limit = soft(name, temperature=temperature)
            same(soft("jsd", jsd_beta=end, temperature=temperature), limit, x)
            near = [soft("jsd", jsd_beta=abs(end - step), temperature=temperature) for step in (1e-3, 1e-4, 1e-5, 1e-6)]
            off = [(loss(x) - limit(x)).abs().max() for loss in near]
            # The difference is of the order of the step times the largest p / q, some thousand here.
            assert off[0] > 4 * off[1] > 32 * off[2] > 288 * off[3]
            assert off[3] < 2e-3
            assert (gradient(near[3], x) - gradient(limit, x)).abs().max() < 2e-3
            # The ends divide a difference of the order beta^2 by beta: in float32 nothing of it would be left.
            torch.testing.assert_close(near[3](in_single(x)), near[3](x).float(), rtol=1e-5, atol=1e-5)
    assert (soft("kl")(x) - soft("reverse_kl")(x)).abs().max() > 1


def test_jsd_is_symmetric_in_the_middle_and_mirrors_elsewhere() -> None:
    x = inputs()
    swapped = x._replace(student=x.teacher, teacher=x.student)
    for beta in (0.5, 0.2):
        mirrored = soft("jsd", jsd_beta=1 - beta)(swapped)
        torch.testing.assert_close(soft("jsd", jsd_beta=beta)(x), mirrored, **EXACT)
    # By SciPy: at 0.5, D is the squared Jensen-Shannon distance, and 1 / (beta (1 - beta)) = 4.
    p_BC, q_BC = (logits.softmax(-1).numpy() for logits in (x.teacher, x.student))
    m_BC = (p_BC + q_BC) / 2
    expected_B = 2 * (stats.entropy(p_BC, m_BC, axis=1) + stats.entropy(q_BC, m_BC, axis=1))
    np.testing.assert_allclose(soft("jsd")(x).numpy(), expected_B, **EXACT)


def test_a_high_temperature_matches_centred_logits() -> None:
    """T^2 KL(p^T, q^T) -> (1 / 2C) sum (z~ - v~)^2, which is half of `mse_logits`: with p^T = (1 + v~ / T) / C + ...,
    KL is sum (p^T - q^T)^2 C / 2 to second order. The next term is of relative order 1 / T."""
    x = inputs()
    half_B, half_BC = soft("mse_logits")(x) / 2, gradient(soft("mse_logits"), x) / 2
    off, gradient_off = [], []
    for temperature in (1e2, 1e3, 1e4):
        kl = soft("kl", temperature=temperature)
        off.append((kl(x) - half_B).abs().max() / half_B.max())
        gradient_off.append((gradient(kl, x) - half_BC).abs().max() / half_BC.max())
    for errors in (off, gradient_off):
        assert 0.1 > errors[0] > 9 * errors[1] > 81 * errors[2] > 0


def test_kl_at_temperature_1_is_soft_ce_without_the_teachers_entropy() -> None:
    x = inputs()
    entropy_B = torch.distributions.Categorical(logits=x.teacher).entropy()
    same(soft("soft_ce"), lambda x: soft("kl")(x) + entropy_B, x)


def test_dark_knowledge_splits_into_importance_weights_and_the_wrong_classes() -> None:
    """p = p_* e_* + (1 - p_*) p~, so CE(p, q) = p_* CE(e_*, q) + (1 - p_*) CE(p~, q) and its gradient is
    p_* (q - e_*) + (1 - p_*) (q - p~): exact, where Born-Again's own step (eq. 7-9) is heuristic."""
    x = inputs()
    p_B, is_gold_BC = x.teacher.softmax(-1)[torch.arange(B), x.gold], F.one_hot(x.gold, C).bool()
    wrong = x._replace(teacher=x.teacher.masked_fill(is_gold_BC, -torch.inf))

    def parts(x: Inputs) -> Tensor:
        return p_B * on_gold(x) + (1 - p_B) * soft("soft_ce")(x._replace(teacher=wrong.teacher))

    same(soft("soft_ce"), parts, x)
    q_BC, p_tilde_BC = x.student.softmax(-1), wrong.teacher.softmax(-1)
    parts_BC = p_B[:, None] * (q_BC - is_gold_BC.double()) + (1 - p_B[:, None]) * (q_BC - p_tilde_BC)
    torch.testing.assert_close(gradient(soft("soft_ce"), x), parts_BC, **EXACT)


@pytest.mark.parametrize("loss", sorted({*SOFT} - {"mse_logits"}))
def test_a_teacher_may_exclude_classes(loss: str) -> None:
    """As an exact posterior can. Not for `mse_logits`, where a logit of minus infinity cannot be matched."""
    is_excluded_BC = torch.zeros(B, C, dtype=torch.bool)
    is_excluded_BC[:, 1], is_excluded_BC[::2, 3] = True, True
    x = inputs()
    x = x._replace(teacher=x.teacher.masked_fill(is_excluded_BC, -torch.inf))
    assert 0.1 < is_excluded_BC[torch.arange(B), x.gold].double().mean() < 0.9
    for student in (x.student, 1e3 * x.student, x.student.float()):
        moved = x._replace(student=student)
        assert soft(loss)(moved).isfinite().all()
        assert gradient(soft(loss), moved).isfinite().all()


def test_reverse_kl_stops_pulling_where_a_teacher_is_sure() -> None:
    """Its clamp bounds the loss by -MIN_LOG_P, and the gradient q_i [log(q_i / p_i) - KL] with it."""
    sure = Inputs(torch.zeros(1, C), torch.tensor([[1e4, 0.0, 0.0, 0.0]]), torch.zeros(1, dtype=torch.long))
    assert 0.7 * -MIN_LOG_P < soft("reverse_kl")(sure).item() < -MIN_LOG_P
    assert 1 < gradient(soft("reverse_kl"), sure).abs().max() < -MIN_LOG_P


# ---- gold and controls ---------------------------------------------------------------------------------------------
def test_hard_is_cross_entropy_and_soft_ce_with_a_certain_teacher() -> None:
    x = inputs()
    torch.testing.assert_close(on_gold(x), F.cross_entropy(x.student, x.gold, reduction="none"), **EXACT)
    same(soft("soft_ce"), on_gold, x._replace(teacher=1e3 * F.one_hot(x.gold, C).double()))


def test_label_smoothing_is_soft_ce_with_a_uniform_teacher() -> None:
    """At alpha = eps: y' = (1 - eps) e_y + eps / C."""
    x = inputs()._replace(teacher=torch.zeros(B, C, dtype=torch.float64))
    for eps in (0.1, 0.3):
        smoothed = partial(F.cross_entropy, reduction="none", label_smoothing=eps)
        taught_uniform = at(options("soft_ce", alpha=eps, alpha_end=eps), 0.3)
        same(taught_uniform, lambda x, smoothed=smoothed: smoothed(x.student, x.gold), x)


def test_confidence_weights_average_one_in_each_batch() -> None:
    """CWTM's weights are shares of the batch that the loss is given (1805.04770, eq. 10): its mean is sum_s w_s L_s /
    sum_s w_s. So the parts of a batch add up to it when each counts with its share of the confidence, and not, as for
    the other losses, with its share of the examples."""
    x = inputs()
    weight_B = x.teacher.softmax(-1).amax(-1)
    average = (weight_B * on_gold(x)).sum() / weight_B.sum()
    torch.testing.assert_close(confidence_weighted(x.student, x.gold, x.teacher).mean(), average, **EXACT)
    parts = [slice(0, 10), slice(10, 11), slice(11, B)]
    means = torch.stack([confidence_weighted(x.student[s], x.gold[s], x.teacher[s]).mean() for s in parts])
    of_confidence = torch.stack([weight_B[s].sum() for s in parts]) / weight_B.sum()
    of_examples = torch.tensor([len(weight_B[s]) / B for s in parts])
    torch.testing.assert_close((of_confidence * means).sum(), average, **EXACT)
    assert ((of_examples * means).sum() - average).abs() > 1e-4
    # Where the teachers are equally sure, whatever of, every weight is 1.
    sure_BC = torch.stack([x.teacher[0].roll(i) for i in range(B)])
    torch.testing.assert_close(confidence_weighted(x.student, x.gold, sure_BC), on_gold(x), **EXACT)


# ---- together with gold, along the training ------------------------------------------------------------------------
def test_soft_weights_at_the_ends_and_between() -> None:
    constant, linear = options("kl", alpha=0.3, alpha_end=0.3), options("kl", alpha=0.8, alpha_end=0.2)
    annealed = options("annealed", alpha=1.0, alpha_end=0.0)
    for progress in (0.0, 0.25, 1.0):
        assert soft_weight(constant, progress) == pytest.approx((0.3, 0.7))
        assert soft_weight(linear, progress) == pytest.approx((0.8 - 0.6 * progress, 0.2 + 0.6 * progress))
        assert soft_weight(annealed, progress) == pytest.approx((1 - progress, progress))


def test_a_warm_up_lets_the_soft_term_grow_and_leaves_gold_alone() -> None:
    o = options("dkd", alpha=0.5, alpha_end=0.5, soft_warmup=0.2)
    assert [soft_weight(o, progress) for progress in (0.0, 0.05, 0.2, 1.0)] == [
        pytest.approx(weights) for weights in ((0.0, 0.5), (0.125, 0.5), (0.5, 0.5), (0.5, 0.5))
    ]
    falling = options("kl", alpha=1.0, alpha_end=0.0, soft_warmup=0.5)
    assert soft_weight(falling, 0.25) == pytest.approx((0.75 * 0.5, 0.25))
    assert soft_weight(falling, 0.5) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("loss", SOFT)
def test_taught_mixes_the_soft_term_with_gold(loss: str) -> None:
    x = inputs()
    o = options(loss, alpha=0.9, alpha_end=0.1, soft_warmup=0.5)
    for progress in (0.0, 0.25, 0.75):
        a, b = soft_weight(o, progress)
        same(at(o, progress), lambda x, a=a, b=b: a * soft(loss)(x) + b * on_gold(x), x)
    same(at(options(loss, alpha=0.0, alpha_end=0.0), 0.5), on_gold, x)
    same(at(options(loss), 0.5), soft(loss), x)


@pytest.mark.parametrize("loss", REGRESSION)
def test_taught_mixes_values_too(loss: str) -> None:
    """With `mse` and a weight from 1 to 0 this is BAM's annealed mix."""
    x = inputs(is_value=True)
    o = options(loss, alpha=1.0, alpha_end=0.0)

    def mix(progress: float, x: Inputs) -> Tensor:
        soft_B = REGRESSION[loss](x.student, x.teacher[:, 0], x.teacher[:, 1])
        return (1 - progress) * soft_B + progress * regression(x.student, x.gold)

    for progress in (0.0, 0.25, 1.0):
        same(at(o, progress), partial(mix, progress), x)


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_annealed_is_cross_entropy_to_a_moving_mix_of_gold_and_teacher(progress: float) -> None:
    """CE(lambda y + (1 - lambda) p, q), lambda = progress (BAM, 1907.04829); gradient q minus that mix."""
    x, o = inputs(), options("annealed", alpha=1.0, alpha_end=0.0)
    mix_BC = progress * F.one_hot(x.gold, C).double() + (1 - progress) * x.teacher.softmax(-1)
    same(at(o, progress), lambda x: -(mix_BC * x.student.log_softmax(-1)).sum(-1), x)
    torch.testing.assert_close(gradient(at(o, progress), x), x.student.softmax(-1) - mix_BC, **EXACT)


# ---- averages of teachers ------------------------------------------------------------------------------------------
def _members() -> Tensor:
    return 2 * torch.randn(3, B, C, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def _average(strategy: str) -> Tensor:
    return torch.from_numpy(combine(strategy, _members().numpy(), label_names_per_member=[list("abcd")] * 3))


def _no_gap() -> Any:
    return np.zeros(B)


def _arithmetic_gap() -> Any:
    return jensen_gap_N(_members().numpy())


def _geometric_gap() -> Any:
    """-log sum_c of the geometric mean: how much of it normalising restores."""
    return -_members().log_softmax(-1).mean(0).logsumexp(-1).numpy()


def _spread_of_logits() -> Any:
    centred_MBC = _members() - _members().mean(-1, keepdim=True)
    return centred_MBC.var(0, unbiased=False).mean(-1).numpy()


@pytest.mark.parametrize(
    ("loss", "kwargs", "strategies", "gap"),
    [
        ("soft_ce", {}, ["mean_probs"], _no_gap),
        ("kl", {}, ["mean_probs"], _arithmetic_gap),
        # At another temperature it would be the mean of the tempered distributions: no stored average is exact.
        ("kl", {"temperature": 4}, [], None),
        ("reverse_kl", {}, ["geometric_mean", "mean_logits"], _geometric_gap),
        ("reverse_kl", {"temperature": 3}, ["geometric_mean", "mean_logits"], None),
        ("mse_logits", {}, ["geometric_mean", "mean_logits"], _spread_of_logits),
    ],
)
def test_the_mean_of_losses_is_the_loss_to_the_natural_mean(
    loss: str, kwargs: dict[str, float], strategies: list[str], gap: Callable[[], Any] | None
) -> None:
    """Up to a constant of the example, the teachers' disagreement, so that the gradients are one. The geometric mean
    and the mean of logits are one distribution, and either is natural where the other is."""
    x = inputs()

    def mean(x: Inputs) -> Tensor:
        return torch.stack([soft(loss, **kwargs)(x._replace(teacher=v_BC)) for v_BC in _members()]).mean(0)

    for strategy in ("mean_probs", "geometric_mean", "mean_logits"):
        to_mean = x._replace(teacher=_average(strategy))
        off = (gradient(mean, x) - gradient(soft(loss, **kwargs), to_mean)).abs().max()
        assert (off < 1e-11) == (strategy in strategies), strategy
        assert off < 1e-11 or off > 0.01
        if strategy in strategies and gap is not None:
            expected_B = soft(loss, **kwargs)(to_mean).numpy() + gap()
            np.testing.assert_allclose(mean(x).numpy(), expected_B, **EXACT)
    assert gap in (None, _no_gap) or gap().mean() > 0.1


def test_values_have_the_mean_and_the_spread_as_their_gap() -> None:
    x = inputs(is_value=True)
    members_MB = _members()[..., 0]
    mean_B, std_B = (torch.from_numpy(array) for array in combine_values(members_MB.numpy()))

    def mean_of_losses(x: Inputs) -> Tensor:
        return torch.stack([mse(x.student, member_B, std_B) for member_B in members_MB]).mean(0)

    same(mean_of_losses, lambda x: mse(x.student, mean_B, std_B) + std_B.square(), x)


# ---- values --------------------------------------------------------------------------------------------------------
def test_gaussian_nll_is_scipys_density_without_its_constant() -> None:
    x = inputs(is_value=True)
    mean_B, std_B = x.teacher[:, 0], x.teacher[:, 1].clamp_min(0.1)  # the least spread that is believed
    log_density_B = stats.norm.logpdf(x.student[:, 0].numpy(), mean_B.numpy(), std_B.numpy())
    got_B = gaussian_nll(x.student, mean_B, x.teacher[:, 1])
    np.testing.assert_allclose(got_B.numpy(), -log_density_B - np.log(2 * np.pi) / 2, **EXACT)


def test_regression_gives_one_square_an_example() -> None:
    values_B1, gold_B = torch.tensor([[1.0], [2.5], [-1.0]]), torch.tensor([1.0, 2.0, torch.nan])
    # Not (3, 3), which a forgotten squeeze gives by broadcasting; an example without gold shows, it does not count 0.
    np.testing.assert_array_equal(regression(values_B1, gold_B).numpy(), [0.0, 0.25, np.nan])
