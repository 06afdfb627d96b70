"""Predictions are those of one example at a time, in the order asked, whatever the batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CPU, TASKS, random_data, tiny_model, word_tokenizer

import core.predict
from core.batching import TaskData, make_batch, on_device
from core.device import Device
from core.model import MultiTaskModel
from core.predict import predict, predict_texts
from core.tokens import encode_texts

# Logits are of order 0.1 to 1; padding changes the order of sums in float32.
EXACT = 1e-5


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("budget", [40, 16_384])
def test_outputs_are_those_of_one_example_at_a_time(name: str, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(core.predict.TOKENS_A_BATCH, "cpu", budget)  # 40: many small batches
    data, model = random_data(TASKS[name], 30), tiny_model()
    rows = np.random.default_rng(0).permutation(30)[:20]
    outputs = predict(model, data, rows, CPU)
    one_by_one = np.concatenate([predict(model, data, rows[i : i + 1], CPU) for i in range(20)])
    assert outputs.shape == ((20,) if name == "score" else (20, 3))
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, one_by_one, rtol=0, atol=EXACT)
    # Rows differ by far more than that: a mixed-up order would show.
    assert np.abs(np.diff(outputs, axis=0)).max(axis=-1).min() > 10 * EXACT


def test_the_order_is_that_of_the_rows() -> None:
    data, model = random_data(TASKS["topic"], 30), tiny_model()
    forwards, backwards = (predict(model, data, rows, CPU) for rows in (np.arange(30), np.arange(30)[::-1]))
    np.testing.assert_allclose(backwards[::-1], forwards, rtol=0, atol=EXACT)
    twice = predict(model, data, np.array([4, 4, 9]), CPU)
    np.testing.assert_allclose(twice, forwards[[4, 4, 9]], rtol=0, atol=EXACT)


@pytest.mark.parametrize("name", TASKS)
def test_no_rows_no_outputs(name: str) -> None:
    outputs = predict(tiny_model(), random_data(TASKS[name], 5), np.zeros(0, np.int64), CPU)
    assert outputs.shape == ((0,) if name == "score" else (0, 3))


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_left_as_it_was_and_nothing_is_dropped(training: bool) -> None:
    data, model = random_data(TASKS["pair"], 10), tiny_model(dropout=0.5).train(training)
    state = torch.get_rng_state()
    outputs = predict(model, data, np.arange(10), CPU)
    assert {module.training for module in model.modules()} == {training}
    assert np.array_equal(outputs, predict(model, data, np.arange(10), CPU))
    # An evaluation in the middle of a training must not move its dropout.
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


def test_longest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is at its highest in the first batch."""
    seen: list[int] = []
    monkeypatch.setitem(core.predict.TOKENS_A_BATCH, "cpu", 50)
    data, model = random_data(TASKS["topic"], 40), tiny_model()
    model.register_forward_pre_hook(lambda _, arguments: seen.append(int(arguments[1].bounds.diff().max())))
    predict(model, data, np.arange(40), CPU)
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) > 3


def test_outputs_are_float32_under_bfloat16() -> None:
    data, model = random_data(TASKS["topic"], 10), tiny_model()
    bfloat16 = predict(model, data, np.arange(10), Device(CPU.device, torch.bfloat16, ""))
    exact = predict(model, data, np.arange(10), CPU)
    assert bfloat16.dtype == np.float32
    assert not np.array_equal(bfloat16, exact)  # it ran in bfloat16
    # 8 bits a number, two layers: some 1 % of the states, which are of order 1, and a head with weights of 0.1.
    np.testing.assert_allclose(bfloat16, exact, rtol=0, atol=0.05)


TEXTS = ["the old film", "a good book was new", "bad"]
OTHERS = ["is good", "", "the new film is bad and old"]


@pytest.mark.parametrize("name", TASKS)
def test_own_texts_are_predicted_as_stored_ones(name: str, tmp_path: Path) -> None:
    tokenizer = word_tokenizer(tmp_path, [*TEXTS, *OTHERS])
    assert len(tokenizer) <= 40
    task, model = TASKS[name], tiny_model()
    candidates = [[text, *OTHERS[:1], "film"] for text in TEXTS]
    second = candidates if name == "order" else OTHERS if task.is_pair else None
    outputs = predict_texts(model, task, tokenizer, TEXTS, second, max_length=16, device=CPU)
    if name == "order":
        a = [text for text in TEXTS for _ in range(3)]
        tokens = encode_texts(tokenizer, a, [option for options in candidates for option in options], max_length=16)
    else:
        tokens = encode_texts(tokenizer, TEXTS, second, max_length=16)
    ids, splits = np.array(["1", "2", "3"]), np.array(["dev"] * 3)
    data = on_device(task, tokens, ids, splits, torch.zeros(3), CPU.device)
    expected = np.concatenate([predict(model, data, np.array([i]), CPU) for i in range(3)])
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=EXACT)
    assert len(np.unique(outputs.round(4), axis=0)) == 3


# ---- MC dropout -----------------------------------------------------------------------------------------------------
def one_dropped_pass(model: MultiTaskModel, data: TaskData, rows: np.ndarray) -> np.ndarray:
    """With dropout on, in one batch, by length, as `predict` has it: the order decides whose units are dropped."""
    order = np.argsort(data.lengths[rows], kind="stable")
    model.train()
    with torch.no_grad():
        outputs = model(data.task.name, make_batch(data, rows[order])).double().numpy()
    model.eval()
    return outputs[np.argsort(order)]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("passes", [1, 5])
def test_mc_passes_are_averaged(name: str, passes: int) -> None:
    data, model = random_data(TASKS[name], 12), tiny_model(dropout=0.3).eval()
    rows = np.random.default_rng(0).permutation(12)
    torch.manual_seed(1)
    outputs = predict(model, data, rows, CPU, mc_passes=passes)
    torch.manual_seed(1)
    each = [one_dropped_pass(model, data, rows) for _ in range(passes)]
    if name == "score":
        expected = np.mean(each, axis=0)[:, 0]
    else:
        expected = np.log(np.mean([np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True) for z in each], axis=0))
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=EXACT)
    # Dropout was on: another draw, or none, gives something else.
    again = predict(model, data, rows, CPU, mc_passes=passes)
    assert np.abs(again - outputs).max() > 10 * EXACT


@pytest.mark.parametrize("training", [True, False])
def test_mc_dropout_leaves_the_mode_as_it_was(training: bool) -> None:
    data, model = random_data(TASKS["pair"], 5), tiny_model().train(training)
    predict(model, data, np.arange(5), CPU, mc_passes=2)
    assert {module.training for module in model.modules()} == {training}
    assert all(p.grad is None for p in model.parameters())


def test_without_dropout_mc_passes_are_the_plain_answer() -> None:
    data = random_data(TASKS["topic"], 8)
    model = tiny_model(dropout=0.0, head_dropout=0.0, san_step_dropout=0.0)
    plain = predict(model, data, np.arange(8), CPU)
    passes = predict(model, data, np.arange(8), CPU, mc_passes=3)
    log_p = plain - np.log(np.exp(plain).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(passes, log_p, rtol=0, atol=EXACT)
