"""Masking, masked-token prediction and replaced-token detection: against naive loops, by identities, by counting.

Text files, blocks and whole pre-trainings are in test_pretrain.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny import SPEC, TASKS, Vocabulary, random_data, tiny_model
from torch import Tensor
from transformers import ElectraConfig

import core.rtd
from core.attention import replace_dropouts
from core.batching import Batch, make_batch
from core.encoder import embed, encode, encoder_from_config, make_encoder, run_layers
from core.rtd import Losses, Masked, Mlm, Rtd, auxiliary_loss, corrupt, load_rtd, mask_ids, mask_tokens, save_rtd

# As in tests/tiny: the words are 5 ... 39, [CLS] is 2.
SPECIAL = [0, 1, 2, 3, 4]
MASK = 4
WORDS = {"special_ids": SPECIAL, "mask_id": MASK}
KINDS = ("bert", "roberta", "electra", "electra-narrow")
# Losses and states are of order 1; two orders of summation in float32 differ by some 1e-6.
EXACT = 1e-5


def encoder_of(kind: str, *, dropout: float = 0.0) -> Any:
    torch.manual_seed(1)
    if kind != "electra-narrow":
        return make_encoder(SPEC.replace("bert", kind), dropout=dropout, tokenizer=Vocabulary()).eval()
    config = ElectraConfig(
        vocab_size=40, embedding_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    encoder = encoder_from_config(config)
    replace_dropouts(encoder, dropout)
    return encoder.eval()


def batch_of(n: int = 8, *, shortest: int = 4, longest: int = 24) -> Batch:
    data = random_data(TASKS["pair"], n, shortest=shortest, longest=longest)
    return make_batch(data, data.rows("train"))


def masked_of(batch: Batch, **options: Any) -> Masked:
    return mask_tokens(batch, special_ids=torch.tensor(SPECIAL), mask_id=MASK, **options)


# ---- masking -------------------------------------------------------------------------------------------------------
def test_the_share_is_kept_and_special_tokens_and_padding_are_not_masked() -> None:
    batch = batch_of(400, shortest=12, longest=30)
    ids_BL = batch.padded(batch.ids_T)
    can_BL = batch.inside_BL & (ids_BL > 4)
    torch.manual_seed(0)
    for share in (0.15, 0.4):
        masked = masked_of(batch, share=share)
        masked_BL = masked.masked_BL
        assert not (masked_BL & ~can_BL).any()
        assert (masked.ids_BL[masked_BL] == MASK).all()
        assert (masked.ids_BL[~masked_BL] == ids_BL[~masked_BL]).all()
        assert (masked_BL.sum(dim=1) - share * can_BL.sum(dim=1)).abs().max() < 1
        # Each of 400 sequences rounds up or down by chance: a spread of at most half a token each; five are allowed.
        assert abs(int(masked_BL.sum()) - share * int(can_BL.sum())) < 5 * 0.5 * math.sqrt(400)
    assert not batch.is_even


def test_every_place_is_masked_equally_often() -> None:
    batch = batch_of(1, shortest=20, longest=20)
    torch.manual_seed(0)
    n = 2_000
    counts_T = sum(masked_of(batch).masked_BL[0].long() for _ in range(n))
    # Binomial; five standard deviations for each of 19 places.
    assert (counts_T[1:] - n * 0.15).abs().max() < 5 * math.sqrt(n * 0.15 * 0.85)
    assert counts_T[0] == 0  # [CLS]


def test_a_sequence_has_a_masked_token_if_it_has_a_word() -> None:
    batch = tiny.batch_of([[2, 3], [2, 7, 3], [2, 7, 8, 3]])
    for seed in range(20):
        torch.manual_seed(seed)
        assert masked_of(batch).masked_BL.sum(dim=1).tolist() == [0, 1, 1]


def test_noise_is_80_10_10_and_never_a_special_token() -> None:
    batch = batch_of(400, shortest=20, longest=30)
    torch.manual_seed(0)
    masked = masked_of(batch, noise_vocab=40)
    at_BL, ids_BL = masked.masked_BL, batch.padded(batch.ids_T)
    new, own = masked.ids_BL[at_BL], ids_BL[at_BL]
    n = len(own)
    assert n > 1_000
    # Of random words 5 in 40 are special and become [MASK], 1 in 40 is the token itself.
    for count, share in (
        ((new == MASK).sum(), 0.8 + 0.1 * 5 / 40),
        ((new == own).sum(), 0.1 + 0.1 / 40),
        (((new != own) & (new != MASK)).sum(), 0.1 * 34 / 40),
    ):
        assert abs(int(count) - n * share) < 5 * math.sqrt(n * share * (1 - share))
    assert set(new.tolist()) & set(SPECIAL) == {MASK}
    assert (masked.ids_BL[~at_BL] == ids_BL[~at_BL]).all()


def test_a_tokenizer_without_a_mask_token_is_refused() -> None:
    class NoMask(Vocabulary):
        mask_token_id = None

    with pytest.raises(ValueError, match=r"no mask token.*wordpiece"):
        mask_ids(NoMask())


# ---- the generator's draws -----------------------------------------------------------------------------------------
def test_draws_follow_the_generator() -> None:
    n, probs = 4_000, [0.0, 0.5, 0.2, 0.0, 0.3]
    ids_BL = torch.full((n, 1), 3)
    places = Masked(ids_BL, torch.zeros_like(ids_BL), torch.ones_like(ids_BL, dtype=torch.bool), ids_BL)
    log_probs_BKV = torch.tensor(probs).log().expand(n, 1, 5)
    torch.manual_seed(0)
    drawn = corrupt(places, log_probs_BKV, padding_id=None).flatten()
    for word, share in enumerate(probs):
        assert abs(int((drawn == word).sum()) - n * share) <= 5 * math.sqrt(n * share * (1 - share))
    without_padding = corrupt(places, log_probs_BKV, padding_id=1)
    assert set(without_padding.flatten().tolist()) == {2, 4}


def test_a_lucky_draw_is_an_original() -> None:
    encoder, batch = encoder_of("bert"), batch_of()
    batch = batch._replace(ids_T=torch.where(batch.ids_T > 4, 7, batch.ids_T))
    rtd = Rtd(encoder, **WORDS).eval()
    for word, is_lucky in ((7, True), (8, False)):
        with torch.no_grad():
            rtd.words_head.bias.zero_()[word] = 1e4
        losses = rtd.losses(encoder, batch)
        assert losses.detection is not None
        masked_BL = losses.masked.masked_BL
        assert masked_BL.sum() > 8
        expected_BL = torch.zeros_like(masked_BL) if is_lucky else masked_BL
        assert torch.equal(losses.detection.is_replaced_T, batch.packed(expected_BL))


# ---- losses --------------------------------------------------------------------------------------------------------
def naive_rtd(rtd: Rtd, encoder: Any, batch: Batch) -> tuple[float, float]:
    """ELECTRA token by token, with every layer on every token, from the same random numbers."""
    masked = mask_tokens(batch, special_ids=rtd.special_ids, mask_id=rtd.mask_id, share=rtd.mask_share)
    uniform_BK = torch.rand((*masked.places_BK.shape, 1))[..., 0]
    hidden_TH = rtd.project(embed(encoder, batch._replace(ids_T=batch.packed(masked.ids_BL))))
    hidden_BLH = batch.padded(hidden_TH)
    for layer in rtd.layers:
        hidden_BLH = layer(hidden_BLH, batch.inside_BL[:, None, None, :])
    words_VE = encoder.embeddings.word_embeddings.weight
    probs_BLV = rtd.words_head(hidden_BLH, words_VE).double().softmax(dim=-1)
    ids_BL = batch.padded(batch.ids_T)
    corrupted_BL, mlm = ids_BL.clone(), []
    for b, row in enumerate(masked.places_BK.tolist()):
        for k, t in enumerate(row):
            if not masked.is_place_BK[b, k]:
                continue
            probs_V = probs_BLV[b, t].clone()
            mlm.append(-math.log(probs_V[ids_BL[b, t]]))
            probs_V[0] = 0  # [PAD]
            bound = float(uniform_BK[b, k]) * float(probs_V.sum())
            corrupted_BL[b, t] = int((probs_V.cumsum(0) <= bound).sum())
    states_TH = encode(encoder, batch._replace(ids_T=batch.packed(corrupted_BL)), first_only=False)
    logits_BL = batch.padded(rtd.detector(states_TH)[..., 0].double())
    bce = []
    for b, t in batch.inside_BL.nonzero().tolist():
        p_replaced = 1 / (1 + math.exp(-logits_BL[b, t]))
        bce.append(-math.log(p_replaced if corrupted_BL[b, t] != ids_BL[b, t] else 1 - p_replaced))
    return float(np.mean(mlm)), float(np.mean(bce))


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_the_naive_loops(kind: str, padded: bool) -> None:
    encoder, batch = encoder_of(kind), batch_of(shortest=4 if padded else 24)
    rtd = Rtd(encoder, **WORDS, mask_share=0.3).eval()
    with torch.no_grad():  # away from the uniform distribution of fresh weights
        for p in rtd.parameters():
            p.mul_(3)
        torch.manual_seed(5)
        losses = rtd.losses(encoder, batch)
        torch.manual_seed(5)
        mlm, bce = naive_rtd(rtd, encoder, batch)
    assert losses.mlm_B.dtype == losses.bce_B.dtype == torch.float32
    assert float(losses.mlm_B.mean()) == pytest.approx(mlm, abs=EXACT)
    assert float(losses.bce_B.mean()) == pytest.approx(bce, abs=EXACT)
    assert losses.detection is not None
    assert losses.detection.is_replaced_T.any()


@pytest.mark.parametrize("kind", KINDS)
def test_mlm_is_cross_entropy_at_the_masked_places(kind: str) -> None:
    encoder, batch = encoder_of(kind), batch_of()
    mlm = Mlm(encoder, **WORDS).eval()
    losses = mlm.losses(encoder, batch)
    at_BL = losses.masked.masked_BL
    assert (losses.masked.ids_BL[at_BL] == MASK).all()  # no noise in evaluation
    hidden_TH = encode(encoder, batch._replace(ids_T=batch.packed(losses.masked.ids_BL)), first_only=False)
    at_T = batch.packed(at_BL)
    logits_NV = mlm.words_head(hidden_TH[at_T], encoder.embeddings.word_embeddings.weight)
    expected = torch.nn.functional.cross_entropy(logits_NV, batch.ids_T[at_T])
    torch.testing.assert_close(losses.mlm_B.mean(), expected, rtol=0, atol=EXACT)
    assert not losses.bce_B.any()
    torch.manual_seed(0)
    noisy = mlm.train().losses(encoder, batch_of(64)).masked
    assert (noisy.ids_BL[noisy.masked_BL] != MASK).any()


def test_the_mean_is_over_tokens_not_over_sequences() -> None:
    encoder, batch = encoder_of("bert"), batch_of(6, shortest=4, longest=40)
    rtd = Rtd(encoder, **WORDS).eval()
    with torch.no_grad():
        found = rtd.losses(encoder, batch).detection
    assert found is not None
    bce_T = torch.nn.functional.binary_cross_entropy_with_logits(
        found.logits_T * 50, found.is_replaced_T.float(), reduction="none"
    )
    bce_BL, inside_BL = batch.padded(bce_T), batch.inside_BL
    shares_B = core.rtd._shares(bce_BL, inside_BL)
    torch.testing.assert_close(shares_B.mean(), bce_T.mean(), rtol=0, atol=EXACT)
    of_sequences = torch.stack([row[inside].mean() for row, inside in zip(bce_BL, inside_BL, strict=True)]).mean()
    assert abs(float(of_sequences - shares_B.mean())) > 100 * EXACT  # the two differ on these lengths
    assert core.rtd._shares(bce_BL, torch.zeros_like(inside_BL)).tolist() == [0.0] * 6


def gradients(loss: Tensor, *modules: Any) -> dict[str, Tensor]:
    for module in modules:
        module.zero_grad()
    loss.backward()
    named = [(f"{i}.{name}", p) for i, module in enumerate(modules) for name, p in module.named_parameters()]
    return {name: p.grad.clone() for name, p in named if p.grad is not None and p.grad.any()}


def test_the_detector_teaches_encoder_and_embeddings_but_not_the_generator() -> None:
    encoder, batch = encoder_of("bert"), batch_of()
    rtd = Rtd(encoder, **WORDS)

    def losses() -> Losses:
        torch.manual_seed(3)
        return rtd.losses(encoder, batch)

    from_bce = gradients(losses().bce_B.mean(), encoder, rtd)
    from_mlm = gradients(losses().mlm_B.mean(), encoder, rtd)
    words = "0.embeddings.word_embeddings.weight"
    assert words in from_bce
    assert words in from_mlm
    heads = {name for name in from_bce if name.startswith("1.")}
    assert heads == {f"1.detector.{i}.{p}" for i in (0, 2) for p in ("weight", "bias")}
    assert not any(name.startswith(("0.encoder", "1.detector")) for name in from_mlm)
    assert any(name.startswith("1.layers.0") for name in from_mlm)
    both = gradients((losses().mlm_B + 50 * losses().bce_B).mean(), encoder, rtd)
    torch.testing.assert_close(both[words], from_mlm[words] + 50 * from_bce[words], rtol=1e-4, atol=EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_states_at_places_are_rows_of_all_states(kind: str) -> None:
    encoder, batch = encoder_of(kind), batch_of()
    hidden_TH = embed(encoder, batch)
    if hasattr(encoder, "embeddings_project"):
        hidden_TH = encoder.embeddings_project(hidden_TH)
    full_TH = run_layers(encoder.encoder.layer, hidden_TH, batch)
    places_BK = torch.stack([torch.randperm(4)[:3] for _ in range(8)]) + batch.first_B[:, None]
    found_NH = run_layers(encoder.encoder.layer, hidden_TH, batch, places_BK=places_BK)
    torch.testing.assert_close(found_NH, full_TH[places_BK.flatten()], rtol=0, atol=EXACT)


def test_the_generator_is_half_the_encoder_and_has_its_dropout() -> None:
    encoder = make_encoder("random:bert(layers=4,hidden=144,heads=6,ffn=288)", dropout=0.2, tokenizer=Vocabulary())
    rtd = Rtd(encoder, **WORDS)
    assert rtd.generator == {
        "hidden_size": 72, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 144,
    }  # fmt: skip
    assert len(rtd.layers) == 2
    assert {m.p for m in rtd.modules() if isinstance(m, torch.nn.Dropout)} == {0.2}
    assert Rtd(encoder_of("bert"), **WORDS).generator["hidden_size"] == 32  # not less
    # No embeddings of its own: every weight has one name in a checkpoint.
    assert not [name for name in rtd.state_dict() if "embedding" in name and "project" not in name]


def test_types_that_are_not_bert_like_are_refused() -> None:
    encoder = make_encoder("random:distilbert(layers=1,hidden=32,heads=2)", dropout=0.0, tokenizer=Vocabulary())
    for objective in (Mlm, Rtd):
        with pytest.raises(ValueError, match=r"'distilbert'.*bert, roberta, electra.*rtd_weight=0"):
            objective(encoder, **WORDS)


# ---- beside the tasks ----------------------------------------------------------------------------------------------
def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    encoder, batch = encoder_of("bert"), batch_of()
    assert load_rtd(tmp_path, encoder) is None
    rtd = Rtd(encoder, **WORDS, mask_share=0.3).eval()
    save_rtd(rtd, tmp_path)
    loaded = load_rtd(tmp_path, encoder)
    assert loaded is not None
    found = []
    for module in (rtd, loaded.eval()):
        torch.manual_seed(0)
        losses = module.losses(encoder, batch)
        found.append((losses.mlm_B.tolist(), losses.bce_B.tolist()))
    assert found[0] == found[1]
    assert json.loads((tmp_path / "generator" / "rtd.json").read_text())["mask_share"] == 0.3
    other = make_encoder("random:bert(layers=2,hidden=48,heads=2)", dropout=0.0, tokenizer=Vocabulary())
    with pytest.raises(ValueError, match=r"another encoder.*project.weight.*Pre-train again"):
        load_rtd(tmp_path, other)


class MaskingVocabulary(Vocabulary):
    mask_token_id = MASK
    all_special_ids = SPECIAL


def test_the_auxiliary_loss_trains_the_models_encoder_and_lives_in_the_model(tmp_path: Path) -> None:
    model, batch = tiny_model(), batch_of()
    before = len(list(model.parameters()))
    loss = auxiliary_loss(model, SPEC, MaskingVocabulary(), weight=0.5)
    assert len(list(model.parameters())) > before
    model.eval()
    torch.manual_seed(2)
    value = loss(model, batch)
    torch.manual_seed(2)
    losses = model.rtd.losses(model.encoder, batch)
    torch.testing.assert_close(value, 0.5 * (losses.mlm_B + losses.bce_B).mean(), rtol=0, atol=EXACT)
    value.backward()
    assert all(p.grad is not None for p in model.encoder.parameters())
    assert all(p.grad is not None for p in model.rtd.parameters())
    assert model("topic", batch).shape == (8, 3)  # the tasks are as they were
    # A pre-trained encoder brings its generator and heads along.
    save_rtd(model.rtd, tmp_path)
    again = tiny_model(seed=1)
    auxiliary_loss(again, str(tmp_path), MaskingVocabulary(), weight=0.5)
    for name, value in model.rtd.state_dict().items():
        assert torch.equal(again.rtd.state_dict()[name], value)
