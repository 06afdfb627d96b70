"""Outputs of a model on given rows: one pass, no gradients, batches by token budget, longest first.

Longest first, so that memory is at its highest in the first batch: a pass that would run out of memory does so at
once. Outputs come back in the order of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from core.batching import TaskData, cut, make_batch, on_device
from core.device import Device
from core.model import MultiTaskModel
from core.tasks import Task
from core.tokens import encode_texts

TOKENS_A_BATCH = 16_384
EXAMPLES_A_BATCH = 1_024


@torch.inference_mode()
def predict(model: MultiTaskModel, data: TaskData, rows: np.ndarray, device: Device) -> np.ndarray:
    """Logits (N, C) in float32, or values (N,) for regression, in the order of `rows`. Leaves the model in the mode
    that it found it in."""
    was_training = model.training
    model.eval()
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
    model.train(was_training)
    return outputs


def predict_texts(
    model: MultiTaskModel,
    task: Task,
    tokenizer: Any,
    text_a: Sequence[str],
    text_b: Sequence[str] | Sequence[Sequence[str]] | None,
    *,
    max_length: int,
    device: Device,
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
    return predict(model, data, np.arange(n), device)
