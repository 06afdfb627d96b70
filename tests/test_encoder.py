"""The encoder is the plain transformers model, run another way: same outputs, same gradients, same files.

Dropout has tests of its own (test_dropout). Weights are random, shapes tiny; nothing is downloaded.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import CPU, TASKS, Vocabulary, batch_of, random_data
from torch import Tensor
from transformers import AutoModel, BertConfig, DistilBertConfig, ElectraConfig, MPNetConfig, RobertaConfig

import core.encoder
from core.batching import Batch, make_batch
from core.encoder import config_of, encode, make_encoder, max_positions

# Hidden states are of order 1 (LayerNorm); two orders of summation in float32 differ by some 1e-6.
EXACT = 1e-5

SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
    "initializer_range": 0.2,  # ten times the default, so that attention is far from uniform
}
CONFIGS: dict[str, Any] = {
    "bert": BertConfig(**SHAPE),
    # As the published RoBERTa: padding id 1, one token type.
    "roberta": RobertaConfig(**SHAPE, pad_token_id=1, type_vocab_size=1),
    "roberta-two-types": RobertaConfig(**SHAPE, pad_token_id=0, type_vocab_size=2),
    "electra": ElectraConfig(**SHAPE, embedding_size=32),
    "electra-narrow": ElectraConfig(**SHAPE, embedding_size=16),
    # The plain path: a type that is not one of ours, without token types.
    "distilbert": DistilBertConfig(
        vocab_size=40, dim=32, n_layers=3, n_heads=4, hidden_dim=48, max_position_embeddings=24, initializer_range=0.2
    ),
}
OURS = [name for name in CONFIGS if name != "distilbert"]


def made(name: str, folder: Path, *, dropout: float = 0.1) -> tuple[Any, Any]:
    """Our encoder and the plain model with eager attention, of the same weights."""
    torch.manual_seed(0)
    # transformers writes the attention's name into the config it is given, hence the copies.
    AutoModel.from_config(copy.deepcopy(CONFIGS[name])).save_pretrained(folder)
    plain = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    assert plain.config._attn_implementation == "eager"
    return make_encoder(str(folder), dropout=dropout, tokenizer=Vocabulary()).eval(), plain


# Batches of one length (never padded), of a few and of many.
BATCHES = {"equal": (12, 12, 6), "few": (10, 12, 24), "many": (2, 14, 40)}


def pair_batch(kind: str = "few") -> Batch:
    shortest, longest, n = BATCHES[kind]
    data = random_data(TASKS["pair"], n, longest=longest, shortest=max(3, shortest))
    batch = make_batch(data, data.rows("train"))
    assert batch.is_even == (kind == "equal")
    return batch


def run_plain(plain: Any, batch: Batch) -> Tensor:
    """The plain padded model (B, L, H), with padding id, mask and token types as its own tokenizer would give them."""
    inside_BL = batch.inside_BL
    ids_BL = batch.padded(batch.ids_T).masked_fill(~inside_BL, plain.config.pad_token_id or 0)
    has_types = getattr(plain.config, "type_vocab_size", 0) > 1
    types = {"token_type_ids": batch.padded(batch.is_b_T).long()} if has_types else {}
    return plain(input_ids=ids_BL, attention_mask=inside_BL.long(), **types).last_hidden_state


def gradients(model: Any, output: Tensor) -> dict[str, Tensor]:
    """Of a random linear function of `output`: no direction is left out."""
    model.zero_grad()
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    (output * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(got) == set(expected)
    assert len(got) > 20
    for name, gradient in expected.items():
        # Relative to the tensor's largest entry: gradients of early layers are sums over all tokens.
        scale = float(gradient.abs().max())
        torch.testing.assert_close(
            got[name], gradient, rtol=0, atol=EXACT * max(scale, 1.0), msg=lambda m, n=name: n + m
        )


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_and_gradients_are_the_plain_models(name: str, kind: str, tmp_path: Path) -> None:
    encoder, plain = made(name, tmp_path)
    batch = pair_batch(kind)
    hidden_TH, expected_TH = encode(encoder, batch, first_only=False), batch.packed(run_plain(plain, batch))
    assert hidden_TH.shape == expected_TH.shape == (len(batch.ids_T), 32)
    torch.testing.assert_close(hidden_TH, expected_TH, rtol=0, atol=EXACT)
    expected = gradients(plain, expected_TH)
    assert_same_gradients(gradients(encoder, hidden_TH), expected)


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("name", CONFIGS)
def test_first_only_is_each_sequences_first_row_with_the_same_gradients(name: str, kind: str, tmp_path: Path) -> None:
    encoder, _ = made(name, tmp_path)
    batch = pair_batch(kind)
    first_BH, full_TH = encode(encoder, batch, first_only=True), encode(encoder, batch, first_only=False)
    assert first_BH.shape == (batch.shape[0], 32)
    torch.testing.assert_close(first_BH, full_TH[batch.first_B], rtol=0, atol=EXACT)
    expected = gradients(encoder, full_TH[batch.first_B])
    assert_same_gradients(gradients(encoder, first_BH), expected)


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("name", OURS)
def test_attention_with_dropout_on_is_the_plain_models_too(name: str, kind: str, tmp_path: Path) -> None:
    """In training on a CPU attention is computed another way (it draws its own dropout). A probability that rounds to
    0/65536 goes that way and drops nothing."""
    encoder, plain = made(name, tmp_path, dropout=1e-6)
    batch = pair_batch(kind)
    expected_TH = batch.packed(run_plain(plain, batch))
    encoder.train()
    with torch.no_grad():
        hidden_TH = encode(encoder, batch, first_only=False)
        first_BH = encode(encoder, batch, first_only=True)
    torch.testing.assert_close(hidden_TH, expected_TH, rtol=0, atol=EXACT)
    torch.testing.assert_close(first_BH, expected_TH[batch.first_B], rtol=0, atol=EXACT)


@pytest.mark.parametrize("name", OURS)
def test_the_encoder_still_runs_as_transformers_calls_it(name: str, tmp_path: Path) -> None:
    """`encoder(input_ids, attention_mask)`: our attention then gets a mask instead of a packed batch."""
    encoder, plain = made(name, tmp_path)
    batch = pair_batch()
    inside_BL = batch.inside_BL
    torch.testing.assert_close(
        run_plain(encoder, batch)[inside_BL], run_plain(plain, batch)[inside_BL], rtol=0, atol=EXACT
    )


def test_token_types_positions_and_sequences_matter(tmp_path: Path) -> None:
    """Guards the tests above against agreeing because an input is ignored by both."""
    encoder, _ = made("bert", tmp_path)
    batch = pair_batch()
    hidden_TH = encode(encoder, batch, first_only=False)
    one_sequence = batch._replace(longest=len(batch.ids_T), is_even=True, bounds=batch.bounds[[0, -1]])
    for other in (
        batch._replace(is_b_T=torch.zeros_like(batch.is_b_T)),
        batch._replace(positions_T=torch.zeros_like(batch.positions_T)),
        one_sequence,
    ):
        assert (encode(encoder, other, first_only=False) - hidden_TH).abs().max() > 0.1


# ---- files ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_saved_loads_with_plain_transformers(name: str, tmp_path: Path) -> None:
    encoder, _ = made(name, tmp_path / "source")
    encoder.save_pretrained(tmp_path / "saved")
    config = (tmp_path / "saved" / "config.json").read_text()
    assert "darkroom" not in config  # our attention is a name that only this process knows
    assert json.loads(config)["model_type"] == CONFIGS[name].model_type
    plain = AutoModel.from_pretrained(tmp_path / "saved").eval()
    batch = pair_batch()
    with torch.no_grad():
        expected_TH, hidden_TH = batch.packed(run_plain(plain, batch)), encode(encoder, batch, first_only=False)
    torch.testing.assert_close(hidden_TH, expected_TH, rtol=0, atol=EXACT)
    assert not [path for path in (tmp_path / "saved").iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


def test_an_encoder_has_no_pooler_and_is_float32(tmp_path: Path) -> None:
    source = AutoModel.from_config(copy.deepcopy(CONFIGS["bert"])).bfloat16()
    source.save_pretrained(tmp_path)
    encoder = make_encoder(str(tmp_path), dropout=0.1, tokenizer=None)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert not [name for name, _ in encoder.named_parameters() if "pooler" in name]
    assert [name for name, _ in source.named_parameters() if "pooler" in name]


# ---- specs ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "distilbert", "xlm-roberta"])
def test_a_random_spec_gives_the_asked_shape(kind: str) -> None:
    spec = f"random:{kind}(layers=3, hidden=48, heads=6, positions=40)"
    encoder = make_encoder(spec, dropout=0.1, tokenizer=Vocabulary())
    config = encoder.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (3, 48, 6)
    assert (config.vocab_size, config.pad_token_id, config.max_position_embeddings) == (40, 0, 40)
    assert config_of(spec, None).hidden_size == 48
    assert encode(encoder.to(CPU.device).eval(), pair_batch(), first_only=True).shape[-1] == 48


def test_a_random_spec_has_defaults_and_draws_from_torchs_generator() -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return make_encoder("random:bert()", dropout=0.1, tokenizer=Vocabulary()).get_input_embeddings().weight

    config = make_encoder("random:bert(ffn=99)", dropout=0.1, tokenizer=Vocabulary()).config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, 128, 2)
    assert config.intermediate_size == 99
    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


BAD_SPECS = [
    ("random:foo(layers=1)", "no model type 'foo' in transformers"),
    ("random:bert(layers=x)", "'layers=x' is not one of layers=N, hidden=N"),
    ("random:bert(layers=0)", "with N >= 1"),
    ("random:bert(layers=-1)", "with N >= 1"),
    ("random:bert(depth=2)", "'depth=2' is not one of"),
    ("random:bert(layers)", "'layers' is not one of"),
    ("random:bert", "not of the form random:bert"),
    ("random:bert(hidden=10,heads=4)", "hidden=10 is not a multiple of heads=4"),
    ("random:distilbert(ffn=64)", "type 'distilbert' has no intermediate_size; leave out ffn"),
    # Several slashes: never a hub id, so no network is asked.
    ("/no/such/folder", "no encoder at '/no/such/folder'.*Give a folder with config.json"),
]


@pytest.mark.parametrize(("spec", "message"), BAD_SPECS)
def test_bad_specs_are_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_encoder(spec, dropout=0.1, tokenizer=Vocabulary())


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(tmp_path: Path) -> None:
    small = BertConfig(**{**SHAPE, "vocab_size": 39})
    AutoModel.from_config(small).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="vocabulary of 39, its tokenizer has 40 tokens"):
        make_encoder(str(tmp_path), dropout=0.1, tokenizer=Vocabulary())


def test_broken_folders_are_refused(tmp_path: Path) -> None:
    AutoModel.from_config(copy.deepcopy(CONFIGS["bert"])).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = "encoder.layer.1.attention.self.query.weight"
    save_file({k: v for k, v in weights.items() if k != lost}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"lacks 1 weights of its encoder, first: '{lost}'"):
        make_encoder(str(tmp_path), dropout=0.1, tokenizer=None)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="no encoder at"):
        make_encoder(str(tmp_path), dropout=0.1, tokenizer=None)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no encoder at .*model\.safetensors"):
        make_encoder(str(tmp_path), dropout=0.1, tokenizer=None)


# ---- positions -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("config", "longest"),
    [
        (CONFIGS["bert"], 24),
        (CONFIGS["electra-narrow"], 24),
        (CONFIGS["roberta"], 22),  # positions count from padding id 1 + 1
        (CONFIGS["roberta-two-types"], 23),
        (MPNetConfig(**SHAPE, pad_token_id=1), 22),
        (CONFIGS["distilbert"], 24),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_max_positions_is_the_longest_sequence_that_runs(config: Any, longest: int, tmp_path: Path) -> None:
    AutoModel.from_config(copy.deepcopy(config)).save_pretrained(tmp_path)
    encoder = make_encoder(str(tmp_path), dropout=0.0, tokenizer=None).eval()
    assert max_positions(encoder) == longest

    def run(length: int) -> None:
        encode(encoder, batch_of([[7] * length]), first_only=False)

    run(longest)
    with pytest.raises((IndexError, RuntimeError)):
        run(longest + 1)


@pytest.mark.parametrize("first_only", [True, False])
@pytest.mark.parametrize("kind", BATCHES)
def test_filler_rows_change_nothing_in_16_bits(
    kind: str, first_only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and gradients of bfloat16 with and without them, and against float32 within bfloat16's own rounding."""
    encoder, _ = made("bert", tmp_path)
    batch = pair_batch(kind)
    rows: list[int] = []
    encoder.encoder.layer[0].register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[1]))
    exact_TH = encode(encoder, batch, first_only=first_only)
    found = []
    for step in (64, 1):
        monkeypatch.setattr(core.encoder, "TOKENS_STEP", step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden_TH = encode(encoder, batch, first_only=first_only)
        found.append((hidden_TH, gradients(encoder, hidden_TH)))
    n_tokens = len(batch.ids_T)
    assert rows == [n_tokens, -(-n_tokens // 64) * 64, n_tokens]
    (filled_TH, filled), (plain_TH, plain) = found
    torch.testing.assert_close(filled_TH, plain_TH, rtol=0, atol=1e-2)
    torch.testing.assert_close(filled_TH, exact_TH, rtol=0, atol=5e-2)
    assert not torch.equal(filled_TH, exact_TH)  # it was 16 bits
    for name, gradient in plain.items():
        torch.testing.assert_close(filled[name], gradient, rtol=0, atol=2e-2 * max(1.0, float(gradient.abs().max())))
