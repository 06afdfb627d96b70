"""Outputs of a model on given rows: one pass, no gradients, batches by token budget, longest first.

Longest first, so that memory is at its highest in the first batch: a pass that would run out of memory does so at
once. Outputs come back in the order of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax, logsumexp

from core.batching import TaskData, cut, make_batch, on_device
from core.device import Device
from core.encoder import encode
from core.model import MultiTaskModel
from core.tasks import Task
from core.tokens import encode_texts

TOKENS_A_BATCH = 16_384
EXAMPLES_A_BATCH = 1_024


def predict(
    model: MultiTaskModel, data: TaskData, rows: np.ndarray, device: Device, *, mc_passes: int = 0
) -> np.ndarray:
    """Logits (N, C) in float32, or values (N,) for regression, in the order of `rows`. Leaves the model in the mode
    that it found it in.

    With `mc_passes`, dropout stays on and the passes are averaged: log of the mean probability, or the mean value (MC
    dropout, Gal & Ghahramani 2016). Draws from torch's generator, so seed it.
    """
    was_training = model.training
    model.train(mc_passes > 0)
    if mc_passes:
        passes = np.stack([_one_pass(model, data, rows, device) for _ in range(mc_passes)])
        is_value = data.task.kind == "regression"
        outputs = passes.mean(0) if is_value else logsumexp(log_softmax(passes, axis=-1), axis=0) - np.log(mc_passes)
        outputs = outputs.astype(np.float32)
    else:
        outputs = _one_pass(model, data, rows, device)
    model.train(was_training)
    return outputs


@torch.inference_mode()
def _one_pass(model: MultiTaskModel, data: TaskData, rows: np.ndarray, device: Device) -> np.ndarray:
    width = () if data.task.kind == "regression" else (data.task.n_outputs,)
    outputs = np.zeros((len(rows), *width), np.float32)
    position = np.argsort(-data.lengths[rows], kind="stable")
    start = 0
    for batch_rows in cut(data, rows[position][::-1], batch_size=EXAMPLES_A_BATCH, token_budget=TOKENS_A_BATCH)[::-1]:
        with device.autocast():
            logits = model(data.task.name, make_batch(data, batch_rows[::-1].copy()))
        values = logits.float().cpu().numpy()
        outputs[position[start : start + len(batch_rows)]] = values[:, 0] if not width else values
        start += len(batch_rows)
    return outputs


@torch.inference_mode()
def first_states(model: MultiTaskModel, data: TaskData, rows: np.ndarray, device: Device) -> np.ndarray:
    """The encoder's last state of the first token, (N, H) in float32, in the order of `rows`; what a linear head
    reads. For tasks with one sequence an example."""
    model.eval()
    states = np.zeros((len(rows), model.encoder.config.hidden_size), np.float32)
    position = np.argsort(data.lengths[rows], kind="stable")
    start = 0
    for batch_rows in cut(data, rows[position], batch_size=EXAMPLES_A_BATCH, token_budget=TOKENS_A_BATCH):
        with device.autocast():
            hidden_B1H = encode(model.encoder, make_batch(data, batch_rows), first_only=True)
        states[position[start : start + len(batch_rows)]] = hidden_B1H[:, 0].float().cpu().numpy()
        start += len(batch_rows)
    return states


def predict_texts(
    model: MultiTaskModel,
    task: Task,
    tokenizer: Any,
    text_a: Sequence[str],
    text_b: Sequence[str] | Sequence[Sequence[str]] | None,
    *,
    max_length: int,
    device: Device,
    mc_passes: int = 0,
) -> np.ndarray:
    """Outputs for a person's own texts; for ranking `text_b` holds each question's candidates."""
    n = len(text_a)
    if task.kind == "ranking":
        assert text_b is not None
        a = [text for text, options in zip(text_a, text_b, strict=True) for _ in options]
        b: Sequence[str] | None = [option for options in text_b for option in options]
    else:
        a, b = list(text_a), text_b  # type: ignore[assignment]
    tokens = encode_texts(tokenizer, a, b, max_length=max_length)
    unknown = torch.full((n,), -1)
    data = on_device(task, tokens, np.arange(n).astype(str), np.full(n, "own"), unknown, device.device)
    return predict(model, data, np.arange(n), device, mc_passes=mc_passes)
