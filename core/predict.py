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

# On a CPU, what a layer makes of a batch should stay in its cache.
TOKENS_A_BATCH = {"cpu": 4_096, "cuda": 16_384, "mps": 16_384}
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
    with device.autocast():  # around all batches: weights are cast once
        for part in longest_first(data, rows, device):
            values = model(data.task.name, make_batch(data, rows[part])).float().cpu().numpy()
            outputs[part] = values[:, 0] if not width else values
    return outputs


def longest_first(data: TaskData, rows: np.ndarray, device: Device) -> list[np.ndarray]:
    """`rows` in batches by token budget: places in `rows`."""
    position = np.argsort(data.lengths[rows], kind="stable")
    batches = cut(data, rows[position], batch_size=EXAMPLES_A_BATCH, token_budget=TOKENS_A_BATCH[device.device.type])
    ends = np.cumsum([len(batch) for batch in batches])
    return [position[end - len(batch) : end] for batch, end in zip(batches, ends, strict=True)][::-1]


@torch.inference_mode()
def first_states(model: MultiTaskModel, data: TaskData, rows: np.ndarray, device: Device) -> np.ndarray:
    """The encoder's last state of the first token, (N, H) in float32, in the order of `rows`; what a linear head
    reads. For tasks with one sequence an example."""
    model.eval()
    states = np.zeros((len(rows), model.encoder.config.hidden_size), np.float32)
    with device.autocast():
        for part in longest_first(data, rows, device):
            batch = make_batch(data, rows[part])
            hidden_BH = encode(model.encoder, batch, first_only=True)
            states[part] = batch.in_order(hidden_BH).float().cpu().numpy()
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
