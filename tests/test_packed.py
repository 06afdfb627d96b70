"""Packed training is padded training without the padding: same outputs and gradients, same loss curve.

The other side is the plain transformers model on padded rows, given to our heads; the encoder's own exactness, type by
type, is in test_encoder.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_train import run
from tiny import NO_HEAD_DROPOUT, SPEC, TASKS, random_data, tiny_model
from torch import Tensor

import core.model
from core.batching import Batch, TaskData, make_batch
from core.model import MultiTaskModel
from core.sections import TrainConfig

# Outputs are of order 1; two orders of summation in float32 differ by some 1e-6.
EXACT = 1e-5
TRAIN = TrainConfig(epochs=2, batch_size=16, lr=2e-3, eval_every_epochs=0)


def encode_padded(encoder: Any, batch: Batch, *, first_only: bool) -> Tensor:
    """What `core.encoder.encode` gives, by transformers' own forward on padded rows with its eager attention."""
    if not hasattr(encoder, "plain"):
        config = copy.deepcopy(encoder.config)
        plain = type(encoder)._from_config(config, add_pooling_layer=False, attn_implementation="eager")
        object.__setattr__(encoder, "plain", plain)  # no submodule: its parameters are the encoder's
        for ours, theirs in zip(encoder.modules(), plain.modules(), strict=True):
            theirs._parameters = ours._parameters
    encoder.plain.train(encoder.training)
    hidden_BLH = encoder.plain(
        batch.padded(batch.ids_T),
        attention_mask=batch.inside_BL.long(),
        token_type_ids=batch.padded(batch.is_b_T).long(),
    ).last_hidden_state
    return hidden_BLH[:, 0] if first_only else batch.packed(hidden_BLH)


def outputs_and_gradients(model: MultiTaskModel, data: TaskData, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    logits = model(data.task.name, batch)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * weights).sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=EXACT * scale)


@pytest.mark.parametrize("lengths", ["few", "many"])
@pytest.mark.parametrize("name", TASKS)
def test_every_heads_output_and_gradients_are_those_of_padded_rows(
    name: str, lengths: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model().eval()
    data = random_data(TASKS[name], 24, shortest=6 if lengths == "few" else 3, longest=9 if lengths == "few" else 22)
    rows = np.random.default_rng(0).permutation(24)  # in no order of length
    batch = make_batch(data, rows)
    assert not batch.is_even
    logits, gradients = outputs_and_gradients(model, data, batch)
    monkeypatch.setattr(core.model, "encode", encode_padded)
    expected, expected_gradients = outputs_and_gradients(model, data, batch)
    torch.testing.assert_close(logits, expected, rtol=0, atol=EXACT)
    assert_same_gradients(gradients, expected_gradients)
    # Row by row, in the order that was asked for.
    alone = torch.cat([model(name, make_batch(data, rows[i : i + 1])) for i in range(24)])
    torch.testing.assert_close(logits, alone, rtol=0, atol=EXACT)


def test_the_loss_curve_is_that_of_padded_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.train, "LOOK_EVERY_STEPS", 1)
    datas = {name: random_data(task, 64 + 16 * i, seed=i) for i, (name, task) in enumerate(TASKS.items())}
    curves = {}
    for form in ("packed", "padded"):
        if form == "padded":
            monkeypatch.setattr(core.model, "encode", encode_padded)
        trained = run(datas, tmp_path, train=TRAIN, dropout=0.0, checkpoint_seconds=1e9, **NO_HEAD_DROPOUT)
        curves[form] = [values["loss"] for _, values in trained.reports if values and "loss" in values]
    assert len(curves["packed"]) == len(curves["padded"]) > 40
    assert min(curves["packed"]) < 0.8 * curves["packed"][0]  # something is learnt
    # Rounding, carried on through 44 Adam steps, which divide small gradients by their own size.
    np.testing.assert_allclose(curves["packed"], curves["padded"], rtol=0, atol=2e-3)
    np.testing.assert_allclose(curves["packed"][:4], curves["padded"][:4], rtol=0, atol=EXACT)


def test_no_padding_enters_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every linear layer of the encoder sees as many rows as there are tokens, and in the last layer, for a head that
    reads [CLS], keys and values alone do."""
    model = tiny_model(spec=SPEC)
    data = random_data(TASKS["topic"], 24)
    batch = make_batch(data, data.rows("train"))
    seen: dict[str, int] = {}
    for name, module in model.encoder.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: seen.__setitem__(name, output.numel() // output.shape[-1])
            )
    model("topic", batch)
    n_tokens = len(batch.ids_T)
    assert n_tokens < batch.shape[0] * batch.shape[1]
    for name, rows in seen.items():
        is_dead_work = name.startswith("encoder.layer.1.") and not name.endswith(("key", "value"))
        assert rows == (24 if is_dead_work else n_tokens), name
    assert len(seen) == 12
