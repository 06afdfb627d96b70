"""Every loss against every property that is asked of all: one table of cases, one of properties, one test.

A definition is written out twice more here: `naive`, a loop over examples and classes that autograd can follow, and
`closed`, the gradient by hand. All three meet in float64, which the losses keep (they widen to float32, never narrow).
What ties losses to one another, to schedules and to ensembles is in test_losses_identities.

Shapes: B examples, C classes. Of a regression the student is (B, 1) and the teacher mean and spread, (B, 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core.config import Teaching
from core.losses import MIN_VARIANCE, REGRESSION, SOFT, confidence_weighted, hard, regression

torch.set_num_threads(1)

B, C = 48, 4
EXACT = {"rtol": 1e-11, "atol": 1e-11}  # sums of a few float64 terms of up to 100 (T^2 = 16, dkd's weight 8)
SINGLE = {"rtol": 2e-5, "atol": 5e-5}  # the same in float32, where a term of 100 has a last place of 8e-6


class Inputs(NamedTuple):
    student: Tensor
    teacher: Tensor
    gold: Tensor


Batch = Callable[[Inputs], Tensor]


class Case(NamedTuple):
    name: str
    loss: Batch  # what is tested, (B,)
    naive: Batch  # its definition, (B,)
    closed: Batch  # the gradient of its sum, as the student
    floor: Batch  # its least value, (B,)
    best: Batch  # a student that attains it
    is_value: bool = False  # a regression


def options(loss: str, **kwargs: float) -> Teaching:
    """`loss` alone, at the weights of its own paper and T = 1."""
    plain = Teaching(loss, 1.0, 1.0, 0.0, temperature=1.0, dkd_target=1.0, dkd_others=8.0, jsd_beta=0.5)
    return plain._replace(**kwargs)


def inputs(seed: int = 0, *, is_value: bool = False, n_classes: int = C) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    if is_value:
        # Some spreads are below the least one that is believed, sqrt(MIN_VARIANCE).
        teacher = torch.stack([2 * draw(B), draw(B).abs() / 3], dim=1)
        assert 0.1 < (teacher[:, 1].square() < MIN_VARIANCE).double().mean() < 0.9
        return Inputs(2 * draw(B, 1), teacher, 2 * draw(B))
    gold_B = torch.randint(0, n_classes, (B,), generator=generator)
    return Inputs(2 * draw(B, n_classes), 2 * draw(B, n_classes), gold_B)


def gradient(loss: Batch, x: Inputs) -> Tensor:
    student = x.student.clone().requires_grad_()
    loss(x._replace(student=student)).sum().backward()
    assert student.grad is not None
    return student.grad


def in_single(x: Inputs) -> Inputs:
    return Inputs(*(t.float() if t.is_floating_point() else t for t in x))


# ---- definitions, one example and class at a time ------------------------------------------------------------------
def softmax_naive(z_C: Tensor, temperature: float = 1.0) -> list[Tensor]:
    powers = [(z / temperature).exp() for z in z_C]
    return [power / sum(powers) for power in powers]


def kl_naive(p_C: list[Tensor], q_C: list[Tensor]) -> Tensor:
    return torch.stack([p * (p / q).log() for p, q in zip(p_C, q_C, strict=True)]).sum()


def jsd_naive(p_C: list[Tensor], q_C: list[Tensor], beta: float) -> Tensor:
    m_C = [beta * p + (1 - beta) * q for p, q in zip(p_C, q_C, strict=True)]
    return (beta * kl_naive(p_C, m_C) + (1 - beta) * kl_naive(q_C, m_C)) / (beta * (1 - beta))


def dkd_naive(p_C: list[Tensor], q_C: list[Tensor], y: int, target: float, others: float) -> Tensor:
    # Softmax over the logits that are not gold's is the conditional distribution.
    rest_p, rest_q = ([x / (1 - x_C[y]) for c, x in enumerate(x_C) if c != y] for x_C in (p_C, q_C))
    return target * kl_naive([p_C[y], 1 - p_C[y]], [q_C[y], 1 - q_C[y]]) + others * kl_naive(rest_p, rest_q)


def mse_naive(z_C: Tensor, v_C: Tensor) -> Tensor:
    z_mean, v_mean = sum(z_C) / len(z_C), sum(v_C) / len(v_C)
    return torch.stack([((z - z_mean) - (v - v_mean)) ** 2 for z, v in zip(z_C, v_C, strict=True)]).mean()


def soft_naive(o: Teaching, x: Inputs) -> Tensor:
    divergences: dict[str, Callable[..., Tensor]] = {
        "kl": lambda p_C, q_C, y: kl_naive(p_C, q_C),
        "reverse_kl": lambda p_C, q_C, y: kl_naive(q_C, p_C),
        "jsd": lambda p_C, q_C, y: jsd_naive(p_C, q_C, o.jsd_beta),
        "dkd": lambda p_C, q_C, y: dkd_naive(p_C, q_C, y, o.dkd_target, o.dkd_others),
    }
    losses = []
    for z_C, v_C, y in zip(x.student, x.teacher, x.gold.tolist(), strict=True):
        p_C, q_C = softmax_naive(v_C, o.temperature), softmax_naive(z_C, o.temperature)
        if o.loss in divergences:
            losses.append(o.temperature**2 * divergences[o.loss](p_C, q_C, y))
        elif o.loss == "mse_logits":
            losses.append(mse_naive(z_C, v_C))
        else:
            losses.append(-torch.stack([p * q.log() for p, q in zip(p_C, q_C, strict=True)]).sum())
    return torch.stack(losses)


def gold_naive(x: Inputs) -> Tensor:
    return torch.stack([-softmax_naive(z_C)[y].log() for z_C, y in zip(x.student, x.gold.tolist(), strict=True)])


def cwtm_naive(x: Inputs) -> Tensor:
    confidence_B = torch.stack([max(softmax_naive(v_C)) for v_C in x.teacher])
    return B * confidence_B / sum(confidence_B) * gold_naive(x)


def squares_naive(target_of: Batch, x: Inputs) -> Tensor:
    return torch.stack([(value[0] - target[0]) ** 2 for value, target in zip(x.student, target_of(x), strict=True)])


def gaussian_nll_naive(x: Inputs) -> Tensor:
    variances = [max(float(std) ** 2, MIN_VARIANCE) for std in x.teacher[:, 1]]
    pairs = zip(squares_naive(mean, x), variances, strict=True)
    return torch.stack([square / (2 * variance) + math.log(variance) / 2 for square, variance in pairs])


# ---- gradients by hand ---------------------------------------------------------------------------------------------
def soft_closed(o: Teaching, x: Inputs) -> Tensor:
    temperature = o.temperature
    p_BC, q_BC = (x.teacher / temperature).softmax(-1), (x.student / temperature).softmax(-1)
    if o.loss in ("soft_ce", "annealed", "kl"):
        return temperature * (q_BC - p_BC)  # T = 1 of the first two
    if o.loss in ("reverse_kl", "jsd"):
        # Of D = beta KL(p, M) + (1 - beta) KL(q, M) the derivative by q_c is (1 - beta) log(q_c / M_c): the terms from
        # M add up to a constant. Softmax's Jacobian and the division by beta (1 - beta) leave
        # T / beta * q_i [log(q_i / M_i) - KL(q, M)], which at beta = 1 (M = p) is reverse KL's.
        beta = o.jsd_beta if o.loss == "jsd" else 1.0
        ratio_BC = (q_BC / (beta * p_BC + (1 - beta) * q_BC)).log()
        return temperature / beta * q_BC * (ratio_BC - (q_BC * ratio_BC).sum(-1, keepdim=True))
    if o.loss == "mse_logits":
        difference_BC = x.student - x.teacher
        return 2 / difference_BC.shape[1] * (difference_BC - difference_BC.mean(-1, keepdim=True))
    assert o.loss == "dkd"
    # T [a (q_* - p_*) (e_* - q^) + beta (q^ - p^)], with q^ and p^ over the classes that are not gold and 0 on gold.
    is_gold_BC = F.one_hot(x.gold, x.student.shape[1]).double()
    gold_p_B1, gold_q_B1 = ((probs_BC * is_gold_BC).sum(-1, keepdim=True) for probs_BC in (p_BC, q_BC))
    rest_p_BC, rest_q_BC = (1 - is_gold_BC) * p_BC / (1 - gold_p_B1), (1 - is_gold_BC) * q_BC / (1 - gold_q_B1)
    target_BC = (gold_q_B1 - gold_p_B1) * (is_gold_BC - rest_q_BC)
    return temperature * (o.dkd_target * target_BC + o.dkd_others * (rest_q_BC - rest_p_BC))


def hard_closed(x: Inputs) -> Tensor:
    return x.student.softmax(-1) - F.one_hot(x.gold, x.student.shape[1])


def cwtm_closed(x: Inputs) -> Tensor:
    weight_B = x.teacher.softmax(-1).amax(-1)
    return (weight_B / weight_B.mean())[:, None] * hard_closed(x)


# ---- the table of losses -------------------------------------------------------------------------------------------
def zero(x: Inputs) -> Tensor:
    return torch.zeros(B, dtype=torch.float64)


def certain(x: Inputs) -> Tensor:
    """A student that is sure of gold: exp(-60) is below any tolerance here."""
    return 60 * F.one_hot(x.gold, C).double()


def mean(x: Inputs) -> Tensor:
    return x.teacher[:, :1]


def variance(x: Inputs) -> Tensor:
    return x.teacher[:, 1:].square().clamp_min(MIN_VARIANCE)


def soft(name: str, **kwargs: float) -> Case:
    o = options(name, **kwargs)

    def loss(x: Inputs) -> Tensor:
        return SOFT[name](x.student, x.teacher, x.gold, o)

    def entropy(x: Inputs) -> Tensor:
        return torch.distributions.Categorical(logits=x.teacher).entropy()

    label = "-".join([name, *(f"{key}={value:g}" for key, value in kwargs.items())])
    floor = entropy if name in ("soft_ce", "annealed") else zero
    return Case(label, loss, partial(soft_naive, o), partial(soft_closed, o), floor, lambda x: x.teacher)


def squared(name: str, loss: Batch, target: Batch) -> Case:
    return Case(name, loss, partial(squares_naive, target), lambda x: 2 * (x.student - target(x)), zero, target, True)


CASES = [
    Case("hard", lambda x: hard(x.student, x.gold), gold_naive, hard_closed, zero, certain),
    Case("cwtm", lambda x: confidence_weighted(x.student, x.gold, x.teacher), cwtm_naive, cwtm_closed, zero, certain),
    soft("soft_ce"),
    soft("annealed"),
    soft("kl"),
    soft("kl", temperature=4),
    soft("kl", temperature=0.5),
    soft("reverse_kl"),
    soft("reverse_kl", temperature=2),
    *(soft("jsd", jsd_beta=beta) for beta in (0.1, 0.5, 0.9)),
    soft("jsd", jsd_beta=0.3, temperature=3),
    soft("mse_logits"),
    soft("dkd", temperature=4),
    soft("dkd", dkd_target=1.5, dkd_others=0.5),
    squared("regression", lambda x: regression(x.student, x.gold), lambda x: x.gold[:, None]),
    squared("mse", lambda x: REGRESSION["mse"](x.student, *x.teacher.unbind(-1)), mean),
    Case(
        "gaussian_nll",
        lambda x: REGRESSION["gaussian_nll"](x.student, *x.teacher.unbind(-1)),
        gaussian_nll_naive,
        lambda x: (x.student - mean(x)) / variance(x),
        lambda x: variance(x)[:, 0].log() / 2,
        mean,
        True,
    ),
]


# ---- the table of properties ---------------------------------------------------------------------------------------
def values_and_gradients_are_the_definitions(case: Case) -> None:
    for seed in range(3):
        x = inputs(seed, is_value=case.is_value)
        loss_B, got = case.loss(x), gradient(case.loss, x)
        assert (loss_B.shape, loss_B.dtype) == ((B,), torch.float64)
        torch.testing.assert_close(loss_B, case.naive(x), **EXACT)
        torch.testing.assert_close(got, gradient(case.naive, x), **EXACT)
        torch.testing.assert_close(got, case.closed(x), **EXACT)
        assert got.abs().max() > 0.1
        torch.testing.assert_close(case.loss(in_single(x)), loss_B.float(), **SINGLE)
        torch.testing.assert_close(gradient(case.loss, in_single(x)), got.float(), **SINGLE)


def least_where_the_student_is_the_target(case: Case) -> None:
    """No less than the entropy constant anywhere, attained at the target with no gradient left, and only there."""
    for seed in range(5):
        x = inputs(seed, is_value=case.is_value)
        assert (case.loss(x) > case.floor(x) - 1e-12).all()  # the last place of some ten nats
    at_best = x._replace(student=case.best(x))
    torch.testing.assert_close(case.loss(at_best), case.floor(x), **EXACT)
    assert gradient(case.loss, at_best).abs().max() < 1e-11
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        step = 0.3 * torch.randn(x.student.shape, generator=generator, dtype=torch.float64)
        rise_B = case.loss(at_best._replace(student=at_best.student + step)) - case.floor(x)
        assert (rise_B > -1e-12).all()
        # A step of 0.3 costs some 0.3^2 p (1 - p) / 2 = 0.005. Being sure of gold is best at infinity: no step costs.
        assert rise_B.mean() > 1e-3 or case.best is certain


def shifts_change_nothing(case: Case) -> None:
    """Softmax does not see what is added to all classes. Values do: there student and target move together."""
    x = inputs(is_value=case.is_value)
    shift_B1 = 10 * torch.randn(B, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    if case.is_value:
        mean_and_std = torch.cat([x.teacher[:, :1] + shift_B1, x.teacher[:, 1:]], dim=1)
        shifted = [Inputs(x.student + shift_B1, mean_and_std, x.gold + shift_B1[:, 0])]
        assert not torch.allclose(case.loss(x._replace(student=x.student + shift_B1)), case.loss(x))
    else:
        shifted = [x._replace(student=x.student + shift_B1), x._replace(teacher=x.teacher + shift_B1)]
    for other in shifted:
        torch.testing.assert_close(case.loss(other), case.loss(x), **EXACT)
        torch.testing.assert_close(gradient(case.loss, other), gradient(case.loss, x), **EXACT)


def finite_at_a_thousand(case: Case) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for x in _extremes(dtype, is_value=case.is_value):
            loss_B = case.loss(x)
            assert loss_B.dtype == torch.float32
            assert loss_B.isfinite().all()
            assert loss_B.max() > 100 or case.name.startswith(("reverse_kl", "jsd"))  # which are bounded
            assert gradient(case.loss, x).isfinite().all()


def _extremes(dtype: torch.dtype, *, is_value: bool) -> list[Inputs]:
    """Every student beside every teacher; for classes, with every gold."""
    if is_value:
        grid = torch.cartesian_prod(*[torch.tensor([-1e3, 0.0, 1e3])] * 3, torch.tensor([0.0, 1e3])).to(dtype)
        return [Inputs(grid[:, :1], grid[:, 1::2], grid[:, 2])]
    rows = torch.tensor([[1e3, -1e3, -1e3, 0.0], [-1e3, 1e3, 0.0, 1e3], [-1e3] * 4, [0.0] * 4], dtype=dtype)
    student, teacher = rows.repeat_interleave(4, dim=0), rows.repeat(4, 1)
    return [Inputs(student, teacher, torch.full((len(student),), gold)) for gold in range(C)]


def teachers_get_no_gradient(case: Case) -> None:
    x = inputs(is_value=case.is_value)
    student, teacher = x.student.clone().requires_grad_(), x.teacher.clone().requires_grad_()
    case.loss(x._replace(student=student, teacher=teacher)).sum().backward()
    assert (student.grad is None, teacher.grad is None) == (False, True)


def parts_of_a_batch_add_up(case: Case) -> None:
    """Gradient accumulation: the mean over a batch is the sum of its parts' sums, divided once. The weights of
    `cwtm` are shares of a batch: see test_confidence_weights_average_one_in_each_batch."""
    x = inputs(is_value=case.is_value)
    parts = [Inputs(*(t[part] for t in x)) for part in (slice(0, 10), slice(10, 11), slice(11, B))]
    total = torch.stack([case.loss(part).sum() / B for part in parts]).sum()
    torch.testing.assert_close(total, case.loss(x).mean(), **EXACT)
    torch.testing.assert_close(torch.cat([gradient(case.loss, part) for part in parts]), gradient(case.loss, x))


PROPERTIES = (
    values_and_gradients_are_the_definitions,
    least_where_the_student_is_the_target,
    shifts_change_nothing,
    finite_at_a_thousand,
    teachers_get_no_gradient,
    parts_of_a_batch_add_up,
)
TABLE = [
    pytest.param(check, case, id=f"{case.name}-{check.__name__}")
    for case in CASES
    for check in PROPERTIES
    if check is not parts_of_a_batch_add_up or case.name != "cwtm"
]


@pytest.mark.parametrize(("check", "case"), TABLE)
def test_every_loss_has_every_property(check: Callable[[Case], None], case: Case) -> None:
    check(case)


def test_the_table_has_every_loss() -> None:
    names = {case.name.partition("-")[0] for case in CASES}
    assert names == {*SOFT, *REGRESSION, "hard", "regression", "cwtm"}
