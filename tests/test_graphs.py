"""Bucketed batches: the same answers and gradients as without, in few shapes, and traced whole by torch.compile.

CUDA graphs themselves need a GPU: what a CPU can show is that the batches are exact, that dynamo takes `encode` without
a break, and that it traces once a shape.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_packed import EXACT, TRAIN, assert_same_gradients, outputs_and_gradients
from test_train import run
from tiny import CPU, NO_HEAD_DROPOUT, TASKS, random_data, tiny_model
from torch._dynamo.testing import CompileCounter

import core.graphs
import core.model
from core.batching import make_batch
from core.config import Config
from core.device import resolve_device
from core.encoder import encode
from core.graphs import FILLER_TOKENS, LENGTH_STEP, bucketed, round_up
from core.presets import load_config

# torch's own, when dynamo is imported.
TORCHS_OWN = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.model, "encode_bucketed", encode)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("lengths", [(9, 9), (3, 22)], ids=["one length", "many lengths"])
@pytest.mark.parametrize("name", TASKS)
def test_outputs_and_gradients_are_those_of_the_batch_itself(name: str, lengths: tuple[int, int]) -> None:
    model = tiny_model().eval()
    data = random_data(TASKS[name], 24, shortest=lengths[0], longest=lengths[1])
    batch = make_batch(data, np.random.default_rng(0).permutation(24))
    logits, gradients = outputs_and_gradients(model, data, batch)
    filled = bucketed(batch)
    assert len(filled.ids_T) > len(batch.ids_T)
    filled_logits, filled_gradients = outputs_and_gradients(model, data, filled)
    torch.testing.assert_close(filled_logits, logits, rtol=0, atol=EXACT)
    assert_same_gradients(filled_gradients, gradients)


@pytest.mark.usefixtures("uncompiled")
def test_the_loss_curve_is_the_same(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.train, "LOOK_EVERY_STEPS", 1)
    datas = {name: random_data(task, 64 + 16 * i, seed=i) for i, (name, task) in enumerate(TASKS.items())}
    curves = []
    for compiles in (False, True):
        device = CPU._replace(compiles=compiles)
        trained = run(
            datas, tmp_path, train=TRAIN, dropout=0.0, checkpoint_seconds=1e9, device=device, **NO_HEAD_DROPOUT
        )
        curves.append([values["loss"] for _, values in trained.reports if values and "loss" in values])
    assert len(curves[0]) == len(curves[1]) > 40
    np.testing.assert_allclose(curves[0][:4], curves[1][:4], rtol=0, atol=EXACT)
    np.testing.assert_allclose(curves[0], curves[1], rtol=0, atol=2e-3)


def test_sizes_are_few_and_waste_is_bounded() -> None:
    sizes = [round_up(n) for n in range(1, 20_001)]
    assert all(n <= size <= n * 1.125 + 1 for n, size in enumerate(sizes, start=1))
    assert len(set(sizes)) < 8 * np.log2(20_000)
    data = random_data(TASKS["topic"], 320, shortest=3, longest=60)
    shapes = set()
    for i in range(0, 320, 32):
        batch = make_batch(data, np.arange(i, i + 32))
        filled = bucketed(batch)
        assert filled.shape[1] % LENGTH_STEP == 0
        assert filled.shape[0] > batch.shape[0]
        assert bool(filled.inside_BL.any(dim=1).all())  # no softmax over nothing
        assert int(filled.bounds[-1]) == len(filled.ids_T) >= len(batch.ids_T) + FILLER_TOKENS
        shapes.add((*filled.shape, len(filled.ids_T)))
    assert len(shapes) < 10


@TORCHS_OWN
def test_one_graph_a_shape_and_no_break() -> None:
    model = tiny_model().train()
    data = random_data(TASKS["topic"], 64, shortest=17, longest=32)
    batches = [bucketed(make_batch(data, np.arange(i, i + 16))) for i in (0, 16, 32, 48)]
    n_shapes = len({(*batch.shape, len(batch.ids_T)) for batch in batches})
    assert n_shapes < len(batches)
    torch._dynamo.reset()
    counter = CompileCounter()
    traced = torch.compile(encode, backend=counter, dynamic=False, fullgraph=True)
    model.eval()
    for batch in batches * 2:
        found = traced(model.encoder, batch, first_only=True)
        torch.testing.assert_close(found, encode(model.encoder, batch, first_only=True), rtol=0, atol=EXACT)
    assert counter.frame_count == n_shapes
    torch._dynamo.reset()


@TORCHS_OWN
def test_the_compiled_way_is_the_one_that_bucketed_batches_take() -> None:
    model = tiny_model().eval()
    data = random_data(TASKS["topic"], 16)
    batch = make_batch(data, np.arange(16))
    core.graphs.compiled.cache_clear()
    whole = core.graphs.compiled("eager")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(core.graphs, "compiled", lambda: whole)
            found = model("topic", bucketed(batch))
        torch.testing.assert_close(found, model("topic", batch), rtol=0, atol=EXACT)
    finally:
        core.graphs.compiled.cache_clear()
        torch._dynamo.reset()


def test_compiling_is_refused_where_it_does_nothing() -> None:
    with pytest.raises(ValueError, match=r"runtime\.compile is true, but the device is 'cpu'"):
        resolve_device("cpu", "auto", hidden=64, compiles=True)
    with pytest.raises(ValueError, match=r"rtd_weight is 1, but replaced-token detection reads batches as they are"):
        load_config("demo", None, ["runtime.compile=true", "distill.rtd_weight=1"])
    assert Config().runtime.compile is False
