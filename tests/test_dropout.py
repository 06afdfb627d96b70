"""The dropout that is asked for is the dropout that runs, and cheap random numbers are good random numbers.

The reference code ignored the asked dropout for hub encoders; here it is read off every module.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import HEADS, TASKS, Vocabulary, random_data, tiny_model
from torch import Tensor, nn
from transformers import AutoModel, BertConfig

from core.attention import ATTENTION, Dropout, attend, drop, replace_dropouts
from core.batching import make_batch
from core.encoder import encode, make_encoder
from core.heads import make_head
from core.model import MultiTaskModel

KINDS = ("bert", "roberta", "electra", "distilbert", "modernbert")
FIELDS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "embedding_dropout")
# Five standard errors of a fixed seed's draw: a sound generator passes but once in a million seeds.
SIGMAS = 5


# ---- asked is what runs --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("p", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_module_and_config_field_of_the_encoder_has_the_asked_dropout(kind: str, p: float) -> None:
    spec = f"random:{kind}(layers=2,hidden=32,heads=2)"
    encoder = make_encoder(spec, dropout=p, tokenizer=Vocabulary())
    modules = [module for module in encoder.modules() if isinstance(module, nn.Dropout)]
    # BERT's kin have three a layer and the embeddings' one, DistilBERT two a layer; ModernBERT has nn.Identity in the
    # place of some at p = 0.
    assert len(modules) >= {"distilbert": 5, "modernbert": 1}.get(kind, 7)
    assert {type(module) for module in modules} == {Dropout}
    assert {module.p for module in modules} == {p}
    fields = [getattr(encoder.config, field) for field in FIELDS if hasattr(encoder.config, field)]
    assert len(fields) >= 2
    assert set(fields) == {p}


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_a_saved_encoders_own_dropout_gives_way_to_the_asked_one(p: float, tmp_path: Path) -> None:
    config = BertConfig(vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    config.hidden_dropout_prob, config.attention_probs_dropout_prob = 0.7, 0.6
    AutoModel.from_config(config).save_pretrained(tmp_path)
    encoder = make_encoder(str(tmp_path), dropout=p, tokenizer=None)
    assert {module.p for module in encoder.modules() if isinstance(module, nn.Dropout)} == {p}
    assert (encoder.config.hidden_dropout_prob, encoder.config.attention_probs_dropout_prob) == (p, p)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.3])
def test_heads_have_the_runs_dropout_or_their_tasks_own(p: float) -> None:
    own = replace(TASKS["pair"], name="own", head_dropout=0.05)
    nothing = replace(TASKS["topic"], name="nothing", head_dropout=0.0)
    tasks = {**TASKS, "own": own, "nothing": nothing}
    expected = dict.fromkeys(TASKS, p) | {"own": 0.05, "nothing": 0.0}
    model = MultiTaskModel(
        tiny_model(dropout=0.2).encoder,
        {name: make_head(task, 32, **{**HEADS, "head_dropout": p}) for name, task in tasks.items()},
    )
    for name, head in zip(tasks, model.heads.values(), strict=True):
        modules = [module for module in head.modules() if isinstance(module, nn.Dropout)]
        assert len(modules) == 1
        assert (type(modules[0]), modules[0].p) == (Dropout, expected[name])
    assert {module.p for module in model.encoder.modules() if isinstance(module, nn.Dropout)} == {0.2}


def test_replacing_keeps_each_modules_own_probability_when_none_is_asked() -> None:
    module = nn.Sequential(nn.Dropout(0.2), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.4)))
    replace_dropouts(module)
    assert [(type(m), m.p) for m in module.modules() if isinstance(m, nn.Dropout)] == [(Dropout, 0.2), (Dropout, 0.4)]


# ---- drop ----------------------------------------------------------------------------------------------------------
def kept(p: float, n: int = 1_000_000, *, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return drop(torch.ones(n), p) > 0


@pytest.mark.parametrize("p", [0.05, 0.1, 0.3, 0.9])
def test_the_kept_share_is_binomial_and_the_scale_exact(p: float) -> None:
    n = 1_000_000
    torch.manual_seed(0)
    dropped = drop(torch.ones(n), p)
    rounded = round(p * 65536) / 65536
    assert abs(rounded - p) <= 0.5 / 65536
    share = float((dropped > 0).double().mean())
    assert abs(share - (1 - rounded)) < SIGMAS * (p * (1 - p) / n) ** 0.5
    # The scale belongs to the rounded p, so that the mean is exactly preserved in expectation.
    assert set(dropped.unique().tolist()) == {0.0, float(torch.tensor(1 / (1 - rounded)))}


def test_neighbours_are_dropped_independently() -> None:
    """Four entries share one 64-bit draw: their bits must not."""
    p, n = 0.3, 1_000_000
    centred = kept(p, n).double() - (1 - p)
    for lag in (1, 2, 3, 4, 5, 8):
        correlation = float((centred[lag:] * centred[:-lag]).mean()) / (p * (1 - p))
        assert abs(correlation) < SIGMAS / n**0.5, lag


def test_the_gradient_is_the_mask_times_the_scale() -> None:
    torch.manual_seed(0)
    x = torch.randn(101, 7).requires_grad_()
    dropped = drop(x, 0.3)
    upstream = torch.randn(101, 7)
    dropped.backward(upstream)
    assert x.grad is not None
    mask_times_scale = dropped.detach() / x.detach()
    # One division and one product: a unit in the last place.
    torch.testing.assert_close(x.grad, upstream * mask_times_scale, rtol=1e-6, atol=0)
    assert 0 < int((x.grad == 0).sum()) < x.numel()


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (2, 3, 1, 5)])
def test_any_shape_and_layout(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.rand(shape) + 1
    for layout in (x, x.transpose(0, -1)):
        dropped = drop(layout, 0.5)
        assert dropped.shape == layout.shape
        assert ((dropped == 0) | (dropped == 2 * layout)).all()


def test_torchs_seed_decides() -> None:
    assert torch.equal(kept(0.3, 1000, seed=5), kept(0.3, 1000, seed=5))
    assert not torch.equal(kept(0.3, 1000, seed=5), kept(0.3, 1000, seed=6))
    torch.manual_seed(5)
    first, second = drop(torch.ones(1000), 0.3), drop(torch.ones(1000), 0.3)
    assert not torch.equal(first, second)


def test_bfloat16_drops_the_same_entries() -> None:
    torch.manual_seed(5)
    dropped = drop(torch.ones(1000, dtype=torch.bfloat16), 0.3)
    assert dropped.dtype == torch.bfloat16
    assert torch.equal(dropped > 0, kept(0.3, 1000, seed=5))
    # The scale is the nearest of bfloat16's numbers, which have 8 bits: 2^-9 apart in relative terms, at most.
    assert abs(float(dropped.max()) * 0.7 - 1) < 2**-8


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_the_module_is_the_identity_in_eval_and_at_0(p: float) -> None:
    x = torch.randn(50)
    assert Dropout(p).eval()(x) is x
    assert (Dropout(p).train()(x) is x) == (p == 0)


# ---- attention -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "distilbert"])
@pytest.mark.parametrize("first_only", [True, False])
def test_attentions_dropout_is_on_in_training_and_off_in_eval(kind: str, first_only: bool) -> None:
    encoder = make_encoder(f"random:{kind}(layers=1,hidden=32,heads=2)", dropout=0.3, tokenizer=Vocabulary())
    data = random_data(TASKS["pair"], 4)
    batch = make_batch(data, data.rows("train"))
    attention = "attention.dropout" if kind == "distilbert" else "attention.self.dropout"
    others = [m for name, m in encoder.named_modules() if isinstance(m, Dropout) and not name.endswith(attention)]
    assert len(others) < len([m for m in encoder.modules() if isinstance(m, Dropout)])

    def two_passes_differ() -> bool:
        with torch.no_grad():
            passes = [encode(encoder, batch, first_only=first_only) for _ in range(2)]
        return not torch.equal(*passes)

    assert two_passes_differ()  # a new encoder of transformers is in training
    for module in others:
        module.p = 0.0
    assert two_passes_differ()
    assert not (encoder.eval(), two_passes_differ())[1]
    encoder.train()
    for module in encoder.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
    assert not two_passes_differ()  # nothing but Dropout modules draws


def test_attention_with_dropout_has_the_mean_of_attention_without() -> None:
    """Each of 20000 copies of one example draws its own dropout."""
    n = 20_000
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 5, 4, generator=generator) for _ in range(3))
    mask = torch.tensor([True, True, True, True, False])[None, None, None]
    expected, _ = attend(nn.Identity(), query, key, value, mask, dropout=0.0, scaling=0.5)
    torch.manual_seed(0)
    copies = [x.expand(n, -1, -1, -1) for x in (query, key, value)]
    mixed, _ = attend(nn.Identity(), *copies, mask, dropout=0.3, scaling=0.5)
    assert mixed.shape == (n, 5, 2, 4)
    standard_error = mixed.std(dim=0) / n**0.5
    assert float(standard_error.min()) > 0
    assert ((mixed.mean(dim=0) - expected[0]).abs() < SIGMAS * standard_error).all()


def test_our_attention_is_the_one_that_runs() -> None:
    encoder = make_encoder("random:bert(layers=1,hidden=32,heads=2)", dropout=0.1, tokenizer=Vocabulary())
    assert encoder.config._attn_implementation == ATTENTION
