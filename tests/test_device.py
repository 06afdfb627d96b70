"""Named streams, and the choice of device and number type with its reason. No accelerator is needed or used."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import numpy as np
import pytest
import torch

from core.device import BFLOAT16_MIN_HIDDEN_ON_CPU, Device, resolve_device, stream, stream_seed

# ---- streams -------------------------------------------------------------------------------------------------------
# Written down once. A change of these moves every order of data and every initialisation, so a run would no longer
# repeat an older one: raise core.plan.CODE_VERSION when one is meant.
GOLDEN_SEEDS = [
    ((0,), 3456079177858693020),
    ((0, "multitask", "mt-1", "order", 0), 5858074199154802516),
    ((1, "multitask", "mt-1", "order", 0), 1227334860442388545),
]


@pytest.mark.parametrize(("arguments", "seed"), GOLDEN_SEEDS)
def test_stream_seeds_are_the_same_on_every_machine(arguments: tuple, seed: int) -> None:
    assert stream_seed(*arguments) == seed


def test_a_streams_numbers_are_the_same_on_every_machine() -> None:
    rng = stream(0, "multitask", "mt-1", "order", 0)
    assert rng.permutation(8).tolist() == [7, 5, 1, 4, 2, 3, 0, 6]
    assert rng.integers(0, 1000, 3).tolist() == [901, 883, 190]


def test_streams_repeat_and_differ_by_any_part_of_their_name() -> None:
    def draws(*names: str | int) -> tuple[int, ...]:
        return tuple(stream(*names).integers(0, 2**62, 4).tolist())  # type: ignore[arg-type]

    assert draws(0, "a", 1) == draws(0, "a", 1)
    others = [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a"), (0, "a", 1, 0), (0, 1, "a")]
    assert len({draws(*names) for names in others}) == len(others)


def test_streams_are_independent() -> None:
    """Neighbouring names give uncorrelated numbers: 99 correlations of 10000 draws, each of standard error 0.01."""
    draws = np.stack([stream(0, "model", i).standard_normal(10_000) for i in range(100)])
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in pairwise(draws)]
    assert np.abs(correlations).max() < 0.045
    assert abs(draws.mean()) < 0.005  # five standard errors of a million draws


def test_a_seed_fits_torch() -> None:
    seeds = [stream_seed(0, "job", i) for i in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62  # the top bit is used
    torch.manual_seed(max(seeds))


# ---- devices -------------------------------------------------------------------------------------------------------
@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A machine with so many CUDA devices, with or without MPS and bfloat16, whatever this one is."""

    def build(*, cuda: int = 0, mps: bool = False, bfloat16: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)

    return build


CHOICES = [
    # machine, asked device, asked dtype, hidden -> device, dtype, words of the reason
    ({}, "auto", "auto", 768, "cpu", "float32", ["first of cuda, mps, cpu", "no bfloat16 instructions"]),
    ({"bfloat16": True}, "auto", "auto", 768, "cpu", "bfloat16", ["CPU has bfloat16 instructions"]),
    ({"bfloat16": True}, "cpu", "auto", 64, "cpu", "float32", ["cpu: as asked", "hidden size 64 is under 256"]),
    ({"bfloat16": True}, "cpu", "auto", BFLOAT16_MIN_HIDDEN_ON_CPU, "cpu", "bfloat16", ["has bfloat16"]),
    ({"bfloat16": True}, "cpu", "auto", BFLOAT16_MIN_HIDDEN_ON_CPU - 1, "cpu", "float32", ["is under"]),
    ({"bfloat16": True}, "cpu", "float32", 768, "cpu", "float32", ["float32: as asked"]),
    ({}, "cpu", "bfloat16", 64, "cpu", "bfloat16", ["bfloat16: as asked"]),
    ({"cuda": 1, "mps": True, "bfloat16": True}, "auto", "auto", 64, "cuda", "bfloat16", ["GPU has bfloat16"]),
    ({"cuda": 1}, "auto", "auto", 64, "cuda", "float32", ["GPU has no bfloat16"]),
    ({"cuda": 2}, "cuda:1", "float32", 64, "cuda:1", "float32", ["cuda:1: as asked"]),
    ({"mps": True, "bfloat16": True}, "auto", "auto", 768, "mps", "float32", ["not used on this device"]),
    ({"cuda": 1}, "cpu", "auto", 64, "cpu", "float32", ["cpu: as asked"]),
]


@pytest.mark.parametrize(("has", "device", "dtype", "hidden", "expected", "number", "reason"), CHOICES)
def test_device_and_number_type_with_a_reason(
    machine, has: dict, device: str, dtype: str, hidden: int, expected: str, number: str, reason: list[str]
) -> None:
    machine(**has)
    resolved = resolve_device(device, dtype, hidden=hidden)
    assert resolved.device == torch.device(expected)
    assert resolved.dtype == getattr(torch, number)
    assert number in resolved.reason
    for words in reason:
        assert words in resolved.reason


@pytest.mark.parametrize(
    ("has", "device", "message"),
    [
        ({}, "cuda", r"runtime\.device is 'cuda', but torch sees no such device here; use runtime\.device=auto"),
        ({}, "cuda:0", "'cuda:0', but torch sees no such device"),
        ({"cuda": 1}, "cuda:1", "'cuda:1', but there are 1 CUDA devices"),
        ({"cuda": 1}, "mps", "'mps', but torch sees no such device"),
        ({}, "meta", "'meta', but torch sees no such device"),  # torch knows the word
        ({}, "gpu", "'gpu', expected auto, cpu, cuda, cuda:N or mps"),
        ({}, "cuda:x", "'cuda:x', expected auto, cpu"),
    ],
)
def test_a_device_that_is_not_there_is_refused(machine, has: dict, device: str, message: str) -> None:
    machine(**has)
    with pytest.raises(ValueError, match=message):
        resolve_device(device, "auto", hidden=64)


def test_autocast_follows_the_number_type() -> None:
    a = torch.ones(2, 2)
    with Device(torch.device("cpu"), torch.float32, "").autocast() as context:
        assert context is None
        assert (a @ a).dtype == torch.float32
    with Device(torch.device("cpu"), torch.bfloat16, "").autocast():
        assert (a @ a).dtype == torch.bfloat16
    assert isinstance(Device(torch.device("cpu"), torch.float32, "").autocast(), contextlib.nullcontext)


def test_this_machine_resolves() -> None:
    resolved = resolve_device("cpu", "auto", hidden=64)
    assert resolved.device.type == "cpu"
    # The real questions to torch, which the other tests replace.
    assert resolve_device("cpu", "auto", hidden=768).dtype in (torch.float32, torch.bfloat16)
    assert resolve_device("auto", "float32", hidden=64).reason
