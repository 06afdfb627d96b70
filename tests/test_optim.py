"""Schedule, weight-decay groups, optimiser types and clipping."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import tiny_model
from torch import nn

import core.optim
from core.optim import (
    clear_gradients,
    clipped_step,
    kept_gradients,
    learning_rate,
    make_optimizer,
    release_gradients,
    set_learning_rate,
)
from core.sections import TrainConfig


@pytest.mark.parametrize(
    ("progress", "warmup_frac", "share"),
    [
        (0.0, 0.1, 0.0),
        (0.05, 0.1, 0.5),
        (0.1, 0.1, 1.0),
        (0.55, 0.1, 0.5),
        (1.0, 0.1, 0.0),
        (0.0, 0.0, 1.0),  # no warm-up: it starts at the peak
        (0.5, 0.0, 0.5),
        (1.0, 0.0, 0.0),
        (0.5, 1.0, 0.5),  # nothing but warm-up
        (1.0, 1.0, 0.0),
    ],
)
def test_the_rate_rises_and_falls_linearly(progress: float, warmup_frac: float, share: float) -> None:
    train = TrainConfig(lr=4e-3, warmup_frac=warmup_frac)
    assert learning_rate(progress, train) == pytest.approx(share * 4e-3, rel=1e-12, abs=1e-18)


def test_the_rate_is_never_negative_and_peaks_once() -> None:
    rates = [learning_rate(i / 1000, TrainConfig(lr=1.0, warmup_frac=0.3)) for i in range(1001)]
    assert min(rates) == 0.0
    assert max(rates) == 1.0
    assert rates.index(1.0) == 300


# torch's own Adamax would put weight decay into the gradient; ours keeps it beside the step, under another name.
DECAY = {"adamw": "weight_decay", "adamax": "decay"}


@pytest.mark.parametrize("name", DECAY)
def test_biases_and_layernorm_are_not_decayed_and_all_else_is(name: str) -> None:
    model = tiny_model()
    optimizer = make_optimizer(model, TrainConfig(optimizer=name, weight_decay=0.25, lr=1e-3))
    decay = {id(p): group[DECAY[name]] for group in optimizer.param_groups for p in group["params"]}
    norms = {id(p) for module in model.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()}
    counts = {0.0: 0, 0.25: 0}
    for parameter_name, parameter in model.named_parameters():
        plain = id(parameter) in norms or parameter_name.rpartition(".")[2].startswith("bias")
        assert decay[id(parameter)] == (0.0 if plain else 0.25), parameter_name
        counts[decay[id(parameter)]] += 1
    assert min(counts.values()) > 10
    assert len(decay) == len(list(model.parameters()))


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("adamax", torch.optim.Adamax)])
def test_the_optimiser_is_the_asked_one_and_steps(name: str, kind: type) -> None:
    model = nn.Linear(3, 2)
    optimizer = make_optimizer(model, TrainConfig(optimizer=name, lr=0.5, weight_decay=0.0))
    assert isinstance(optimizer, kind)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}
    set_learning_rate(optimizer, 0.125)
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.full_like(p, 7.0)
    optimizer.step()
    for p, old in zip(model.parameters(), before, strict=True):
        # The first step of both is the rate times the gradient's sign; epsilon is 1e-8 beside a gradient of 7.
        torch.testing.assert_close(p.detach(), old - 0.125, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", DECAY)
def test_weight_decay_shrinks_weights_but_not_biases_nor_what_has_no_gradient(name: str) -> None:
    model = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])
    optimizer = make_optimizer(model, TrainConfig(optimizer=name, lr=0.1, weight_decay=0.5))
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    for p in model[0].parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()  # a gradient of 0 moves nothing, so this is the decay alone
    torch.testing.assert_close(model[0].weight.detach(), before["0.weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(model[0].bias.detach(), before["0.bias"])
    # The heads of the other tasks: a batch is of one task.
    assert torch.equal(model[1].weight.detach(), before["1.weight"])


@pytest.mark.parametrize("name", DECAY)
def test_several_steps_are_the_textbooks(name: str) -> None:
    """Adam (Kingma and Ba 2015, algorithms 1 and 2) with decay beside the step (1711.05101), in float64 by hand."""
    train = TrainConfig(optimizer=name, lr=0.05, weight_decay=0.1)
    model = nn.Linear(4, 3, bias=False)
    optimizer = make_optimizer(model, train)
    weight = model.weight.detach().double()
    mean, second, largest = torch.zeros(3, 4).double(), torch.zeros(3, 4).double(), torch.zeros(3, 4).double()
    generator = torch.Generator().manual_seed(0)
    for t in range(1, 6):
        gradient = torch.randn(3, 4, generator=generator)
        model.weight.grad = gradient.clone()
        optimizer.step()
        g = gradient.double()
        mean = 0.9 * mean + 0.1 * g
        second, largest = 0.999 * second + 0.001 * g**2, torch.maximum(0.999 * largest, g.abs())
        size = (second / (1 - 0.999**t)).sqrt() if name == "adamw" else largest
        weight = weight * (1 - 0.05 * 0.1) - 0.05 * mean / (1 - 0.9**t) / size
        # Epsilon (1e-8) and float32's rounding of numbers of order 1.
        torch.testing.assert_close(model.weight.detach().double(), weight, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("max_norm", "scale"), [(1.0, 0.2), (5.0, 1.0), (10.0, 1.0)])
@pytest.mark.parametrize("name", DECAY)
def test_clipping_scales_all_gradients_by_one_number(name: str, max_norm: float, scale: float) -> None:
    module = nn.ParameterList(
        [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(4))]
    )
    optimizer = make_optimizer(module, TrainConfig(optimizer=name, lr=0.1))
    module[0].grad, module[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])  # the third has none
    norm = clipped_step(optimizer, max_norm)
    assert float(norm) == pytest.approx(5.0, abs=1e-6)
    # What the step used: the mean of gradients starts at a tenth of the first one.
    for parameter, gradient in ((module[0], [3.0 * scale, 0.0]), (module[1], [4.0 * scale])):
        torch.testing.assert_close(parameter.grad, torch.tensor(gradient), rtol=1e-6, atol=0)
        used = optimizer.state[parameter]["exp_avg"] / 0.1
        torch.testing.assert_close(used, torch.tensor(gradient), rtol=1e-5, atol=0)
    assert module[2].grad is None
    assert module[2] not in optimizer.state


def test_kept_gradients_are_the_dense_ones_in_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.optim, "KEPT_FROM", 100)
    ids = torch.tensor([[3, 1, 3], [0, 0, 9]])  # repeats, and rows that nobody reads
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Embedding(50, 4, padding_idx=0), nn.Linear(4, 2))
    model = copy.deepcopy(plain)
    small = nn.Embedding(3, 4)
    assert kept_gradients(small) == []
    kept = kept_gradients(model)
    assert kept == [model[0]]
    optimizers = [make_optimizer(module, TrainConfig(lr=0.1)) for module in (plain, model)]
    memory = model[0].weight.grad.data_ptr()
    for step in range(3):
        for module, optimizer in zip((plain, model), optimizers, strict=True):
            module(ids + 10 * step).square().sum().backward()
            clipped_step(optimizer, 1.0)
        assert torch.equal(model[0].weight.grad, plain[0].weight.grad)
        assert model[0].weight.grad.data_ptr() == memory
        assert torch.equal(model[0].weight, plain[0].weight)
        optimizers[0].zero_grad()
        clear_gradients(optimizers[1], kept)
        assert model[1].weight.grad is None
        assert not model[0].weight.grad.any()
    release_gradients(kept)
    assert model[0].weight.grad is None
    assert not model[0].sparse
