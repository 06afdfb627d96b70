"""Every loss against the properties that LOSSES.md asks of all, in one table, and against independent formulas.

`naive` writes each definition out in float64; its gradient by autograd and the closed form by hand are two more
sources. The functions under test run in float32 by contract, so gradients agree to some 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core.ensemble import combine, jensen_gap_N
from core.losses import LOSSES, hard, kl, regression, soft_ce

torch.set_num_threads(1)

B, C = 64, 4
# Values are of order 1 to 10 and sums have 4 terms: a few units of float32's last place.
EXACT = {"rtol": 2e-6, "atol": 2e-6}

# Every loss, alone, mixed with gold, and tempered where it is defined.
CASES: list[tuple[str, dict[str, float]]] = [
    ("soft_ce", {"alpha": 1.0}),
    ("soft_ce", {"alpha": 0.5}),
    ("soft_ce", {"alpha": 0.0}),
    ("kl", {"alpha": 1.0}),
    ("kl", {"alpha": 0.3}),
    ("kl", {"alpha": 0.0, "temperature": 2.0}),
    ("kl", {"alpha": 1.0, "temperature": 4.0}),
    ("kl", {"alpha": 0.7, "temperature": 0.5}),
]
every_case = pytest.mark.parametrize(("name", "kwargs"), CASES)
ONLY_SOFT = [case for case in CASES if case[1]["alpha"] == 1.0]


def test_the_table_of_cases_has_every_loss() -> None:
    assert {name for name, _ in CASES} == set(LOSSES)
    assert {name for name, _ in ONLY_SOFT} == set(LOSSES)


def inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Student logits, gold, teacher logits."""
    generator = torch.Generator().manual_seed(seed)
    student_BC, teacher_BC = (2 * torch.randn(B, C, generator=generator) for _ in range(2))
    return student_BC, torch.randint(0, C, (B,), generator=generator), teacher_BC


def naive(name: str, z_BC: Tensor, gold_B: Tensor, v_BC: Tensor, alpha: float, temperature: float = 1.0) -> Tensor:
    """LOSSES.md in float64, one example and class at a time where that is bearable."""
    z_BC, v_BC = z_BC.double(), v_BC.double()
    losses = []
    for z_C, y, v_C in zip(z_BC, gold_B, v_BC, strict=True):
        q_C = z_C.exp() / z_C.exp().sum()
        q_tempered_C, p_tempered_C = ((x / temperature).exp() / (x / temperature).exp().sum() for x in (z_C, v_C))
        on_gold = -q_C[y].log()
        if name == "soft_ce":
            soft = -sum(p_tempered_C[c] * q_C[c].log() for c in range(C))
        else:
            soft = temperature**2 * sum(p_tempered_C[c] * (p_tempered_C[c] / q_tempered_C[c]).log() for c in range(C))
        losses.append(alpha * soft + (1 - alpha) * on_gold)
    return torch.stack(losses)


def closed_gradient(
    name: str, z_BC: Tensor, gold_B: Tensor, v_BC: Tensor, alpha: float, temperature: float = 1.0
) -> Tensor:
    """alpha * (q - Q), or alpha * T * (q^T - p^T), and (1 - alpha) * (q - e_y)."""
    z_BC, v_BC = z_BC.double(), v_BC.double()
    power = {"soft_ce": 0, "kl": 1}[name]
    soft_BC = temperature**power * ((z_BC / temperature).softmax(-1) - (v_BC / temperature).softmax(-1))
    return alpha * soft_BC + (1 - alpha) * (z_BC.softmax(-1) - F.one_hot(gold_B, C))


def gradient(loss: Callable[..., Tensor], z_BC: Tensor, *rest: Any, **kwargs: Any) -> Tensor:
    z_BC = z_BC.clone().requires_grad_()
    loss(z_BC, *rest, **kwargs).sum().backward()
    assert z_BC.grad is not None
    return z_BC.grad


def entropy(logits_BC: Tensor, temperature: float = 1.0) -> Tensor:
    log_p_BC = (logits_BC.double() / temperature).log_softmax(-1)
    return -(log_p_BC.exp() * log_p_BC).sum(-1)


# ---- properties of every loss --------------------------------------------------------------------------------------
@every_case
def test_values_are_the_definitions_one_for_each_example(name: str, kwargs: dict[str, float]) -> None:
    student_BC, gold_B, teacher_BC = inputs()
    loss_B = LOSSES[name](student_BC, gold_B, teacher_BC, **kwargs)
    assert (loss_B.shape, loss_B.dtype) == ((B,), torch.float32)
    # T^2 multiplies a difference of two entropies of order 1, and its rounding.
    atol = 2e-6 * max(1.0, kwargs.get("temperature", 1.0) ** 2)
    expected_B = naive(name, student_BC, gold_B, teacher_BC, **kwargs)
    torch.testing.assert_close(loss_B.double(), expected_B, rtol=2e-6, atol=atol)


@every_case
def test_gradients_are_autograds_in_float64_and_the_closed_form(name: str, kwargs: dict[str, float]) -> None:
    student_BC, gold_B, teacher_BC = inputs()
    got_BC = gradient(LOSSES[name], student_BC, gold_B, teacher_BC, **kwargs).double()
    by_autograd_BC = gradient(lambda z: naive(name, z, gold_B, teacher_BC, **kwargs), student_BC.double())
    torch.testing.assert_close(got_BC, by_autograd_BC, **EXACT)
    torch.testing.assert_close(got_BC, closed_gradient(name, student_BC, gold_B, teacher_BC, **kwargs), **EXACT)
    assert got_BC.abs().max() > 0.1


@every_case
def test_no_less_than_the_entropy_constant(name: str, kwargs: dict[str, float]) -> None:
    """Soft cross-entropy is at least the teacher's entropy, a divergence at least 0, and the gold term at least 0."""
    for seed in range(5):
        student_BC, gold_B, teacher_BC = inputs(seed)
        floor_B = kwargs["alpha"] * entropy(teacher_BC) if name == "soft_ce" else torch.zeros(B)
        loss_B = LOSSES[name](student_BC, gold_B, teacher_BC, **kwargs)
        assert (loss_B > floor_B - 1e-6).all()


@pytest.mark.parametrize(("name", "kwargs"), ONLY_SOFT)
def test_minimal_where_the_student_is_the_teacher_and_only_there(name: str, kwargs: dict[str, float]) -> None:
    _, gold_B, teacher_BC = inputs()
    loss = LOSSES[name]
    at_teacher_B = loss(teacher_BC, gold_B, teacher_BC, **kwargs)
    constant_B = entropy(teacher_BC) if name == "soft_ce" else torch.zeros(B)
    torch.testing.assert_close(at_teacher_B.double(), constant_B.double(), **EXACT)
    # The gradient vanishes: a difference of two equal softmaxes.
    assert gradient(loss, teacher_BC, gold_B, teacher_BC, **kwargs).abs().max() < 1e-6
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        # Steps of 0.3 cost some 0.3^2 p (1 - p) / 2 = 0.01, far above rounding.
        step_BC = 0.3 * torch.randn(B, C, generator=generator)
        assert (loss(teacher_BC + step_BC, gold_B, teacher_BC, **kwargs).mean() - at_teacher_B.mean()) > 1e-3


@every_case
def test_a_shift_of_any_logits_changes_nothing(name: str, kwargs: dict[str, float]) -> None:
    student_BC, gold_B, teacher_BC = inputs()
    expected_B = LOSSES[name](student_BC, gold_B, teacher_BC, **kwargs)
    expected_BC = gradient(LOSSES[name], student_BC, gold_B, teacher_BC, **kwargs)
    shift_B1 = 4 * torch.randn(B, 1, generator=torch.Generator().manual_seed(2))
    # Adding a number of order 10 rounds the logits themselves, by some 1e-6, and a low T divides by it.
    atol = 2e-5
    for student, teacher in ((student_BC + shift_B1, teacher_BC), (student_BC, teacher_BC + shift_B1)):
        torch.testing.assert_close(LOSSES[name](student, gold_B, teacher, **kwargs), expected_B, rtol=0, atol=atol)
        got_BC = gradient(LOSSES[name], student, gold_B, teacher, **kwargs)
        torch.testing.assert_close(got_BC, expected_BC, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_case
def test_finite_at_a_thousand(name: str, kwargs: dict[str, float], dtype: torch.dtype) -> None:
    rows = torch.tensor([[1e3, -1e3, -1e3, 0.0], [-1e3, 1e3, 0.0, 1e3], [-1e3] * 4, [0.0] * 4], dtype=dtype)
    student_BC, teacher_BC = rows.repeat_interleave(4, dim=0), rows.repeat(4, 1)
    # A teacher that excludes a class altogether, as an exact posterior can.
    teacher_BC = torch.cat([teacher_BC, torch.tensor([[0.0, -torch.inf, 0.0, -torch.inf]], dtype=dtype)])
    student_BC = torch.cat([student_BC, rows[:1]])
    for gold in range(C):
        gold_B = torch.full((len(student_BC),), gold)
        loss_B = LOSSES[name](student_BC, gold_B, teacher_BC, **kwargs)
        assert loss_B.dtype == torch.float32
        assert loss_B.isfinite().all()
        assert gradient(LOSSES[name], student_BC, gold_B, teacher_BC, **kwargs).isfinite().all()


@every_case
def test_no_gradient_reaches_the_teacher(name: str, kwargs: dict[str, float]) -> None:
    student_BC, gold_B, teacher_BC = inputs()
    student_BC.requires_grad_()
    teacher_BC.requires_grad_()
    LOSSES[name](student_BC, gold_B, teacher_BC, **kwargs).sum().backward()
    assert student_BC.grad is not None
    assert teacher_BC.grad is None


@every_case
def test_parts_of_a_batch_add_up_to_the_batch(name: str, kwargs: dict[str, float]) -> None:
    """Gradient accumulation: the mean over the batch is the sum of the parts' sums, divided once."""
    student_BC, gold_B, teacher_BC = inputs()
    whole, parts = student_BC.clone().requires_grad_(), student_BC.clone().requires_grad_()
    loss = LOSSES[name](whole, gold_B, teacher_BC, **kwargs).mean()
    loss.backward()
    total = torch.zeros(())
    for part in (slice(0, 10), slice(10, 11), slice(11, B)):
        partial = LOSSES[name](parts[part], gold_B[part], teacher_BC[part], **kwargs).sum() / B
        partial.backward()
        total = total + partial.detach()
    torch.testing.assert_close(total, loss.detach(), **EXACT)
    torch.testing.assert_close(parts.grad, whole.grad, rtol=0, atol=1e-7)  # each entry is one example's, divided by B


# ---- identities ----------------------------------------------------------------------------------------------------
def test_kl_at_temperature_1_has_the_gradient_of_soft_ce() -> None:
    student_BC, gold_B, teacher_BC = inputs()
    for alpha in (0.0, 0.5, 1.0):
        kl_BC, ce_BC = (gradient(loss, student_BC, gold_B, teacher_BC, alpha=alpha) for loss in (kl, soft_ce))
        torch.testing.assert_close(kl_BC, ce_BC, **EXACT)
    gap_B = soft_ce(student_BC, gold_B, teacher_BC, alpha=1.0) - kl(student_BC, gold_B, teacher_BC, alpha=1.0)
    torch.testing.assert_close(gap_B.double(), entropy(teacher_BC), **EXACT)


def test_the_gradient_of_soft_ce_is_student_minus_the_mix_of_teacher_and_gold() -> None:
    """One target, alpha Q + (1 - alpha) e_y: the paper's average of losses is the loss to the average."""
    student_BC, gold_B, teacher_BC = inputs()
    target_BC = 0.5 * teacher_BC.softmax(-1) + 0.5 * F.one_hot(gold_B, C)
    got_BC = gradient(soft_ce, student_BC, gold_B, teacher_BC)  # alpha's default is the paper's 0.5
    torch.testing.assert_close(got_BC, student_BC.softmax(-1) - target_BC, **EXACT)


@pytest.mark.parametrize("name", LOSSES)
def test_without_a_soft_part_every_loss_is_hard(name: str) -> None:
    student_BC, gold_B, teacher_BC = inputs()
    assert torch.equal(LOSSES[name](student_BC, gold_B, teacher_BC, alpha=0.0), hard(student_BC, gold_B))


def test_hard_is_cross_entropy() -> None:
    student_BC, gold_B, _ = inputs()
    assert torch.equal(hard(student_BC, gold_B), F.cross_entropy(student_BC, gold_B, reduction="none"))
    assert hard(student_BC.bfloat16(), gold_B).dtype == torch.float32
    by_hand_B = -student_BC.double().softmax(-1)[torch.arange(B), gold_B].log()
    torch.testing.assert_close(hard(student_BC, gold_B).double(), by_hand_B, **EXACT)


def test_soft_ce_with_a_certain_teacher_is_hard_on_its_answer() -> None:
    student_BC, gold_B, _ = inputs()
    certain_BC = 1e3 * F.one_hot((gold_B + 1) % C, C).float()
    torch.testing.assert_close(
        soft_ce(student_BC, gold_B, certain_BC, alpha=1.0), hard(student_BC, (gold_B + 1) % C), **EXACT
    )


def test_a_high_temperature_matches_centred_logits() -> None:
    """T^2 KL -> |z~ - v~|^2 / 2C: Hinton's limit, and the reason for T^2."""
    student_BC, gold_B, teacher_BC = inputs()
    centred_BC = (student_BC - teacher_BC) - (student_BC - teacher_BC).mean(-1, keepdim=True)
    got_BC = gradient(kl, student_BC, gold_B, teacher_BC, alpha=1.0, temperature=100.0)
    # The next term of the series is of relative order |z| / T, some 5 %.
    torch.testing.assert_close(got_BC, centred_BC / C, rtol=0, atol=0.1)
    assert centred_BC.abs().max() / C > 1


def test_kls_to_the_members_add_up_to_kl_to_their_mean_and_the_jensen_gap() -> None:
    """sum_k KL(p_k, q) = K (KL(mean p, q) + gap): what the ensemble's average hides is a constant of the student."""
    student_BC, gold_B, _ = inputs()
    members_MBC = 2 * torch.randn(3, B, C, generator=torch.Generator().manual_seed(3))
    sum_B = torch.stack([kl(student_BC, gold_B, member_BC, alpha=1.0) for member_BC in members_MBC]).sum(0)
    mean_BC = combine("mean_probs", members_MBC.numpy(), label_names_per_member=[list("abcd")] * 3)
    to_mean_B = kl(student_BC, gold_B, torch.from_numpy(mean_BC), alpha=1.0)
    gap_B = jensen_gap_N(members_MBC.numpy())
    assert gap_B.mean() > 0.1
    # Sums of three KLs of up to 10 nats, in float32.
    np.testing.assert_allclose(sum_B.numpy(), 3 * (to_mean_B.numpy() + gap_B), rtol=0, atol=2e-5)


# ---- regression ----------------------------------------------------------------------------------------------------
def test_regression_is_the_squared_error_of_each_example() -> None:
    values_B1 = torch.tensor([[1.0], [2.5], [-1.0]], requires_grad=True)
    gold_B = torch.tensor([1.0, 2.0, 1.0])
    loss_B = regression(values_B1, gold_B)
    assert loss_B.tolist() == [0.0, 0.25, 4.0]  # not (3, 3), which a forgotten squeeze gives by broadcasting
    loss_B.sum().backward()
    assert values_B1.grad is not None
    assert values_B1.grad[:, 0].tolist() == [0.0, 1.0, -4.0]
    assert regression(values_B1.bfloat16(), gold_B).dtype == torch.float32
    assert regression(values_B1, torch.tensor([1.0, torch.nan, 1.0])).isnan().tolist() == [False, True, False]
