"""Speed's record: shares of what was measured, and a peak that is one."""

from __future__ import annotations

import pytest
import torch
from tiny import CPU, tiny_model

from core.speed import TRAINING_FLOPS, Speed, gemm_peak, matrix_parameters


def test_matrix_parameters_are_those_that_each_token_meets() -> None:
    model = tiny_model()
    embeddings = sum(p.numel() for p in model.encoder.embeddings.parameters())
    assert matrix_parameters(model) == matrix_parameters(model.encoder)
    assert matrix_parameters(model) == sum(p.numel() for p in model.encoder.parameters()) - embeddings


def test_the_record_is_rates_and_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    speed = Speed(tokens=1_000, seconds=2.0, waiting_seconds=0.05)
    monkeypatch.setattr("core.speed.gemm_peak", lambda device, dtype: 6.0 * 500 * matrix_parameters(model) * 4)
    record = speed.record(model, flops=TRAINING_FLOPS, dtype=CPU.dtype)
    assert record == {
        "tokens": 1_000, "seconds": 2.0, "tokens_per_second": 500.0, "waiting_share": 0.025, "gemm_share": 0.25,
    }  # fmt: skip


def test_the_peak_is_measured_once() -> None:
    peak = gemm_peak(CPU.device, torch.float32)
    assert peak > 1e8  # the slowest machine that runs torch
    assert gemm_peak(CPU.device, torch.float32) == peak
