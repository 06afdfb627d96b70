"""Learning from text without labels: replaced-token detection (ELECTRA, 2003.10555) and masked-token prediction.

An *objective* is a module that holds what it needs beside the encoder, and `losses(encoder, batch)`. It never holds
the encoder, nor the word embeddings that it shares with it: these are given to it at each call, so that every weight
has one name in a checkpoint, and one encoder serves tasks and objective side by side (`auxiliary_loss`).

Masking is ELECTRA's: a share of a sequence's tokens, at least one, never special tokens or padding. The number is the
share rounded up or down by chance, so that its mean is exact, and the places fit one array (B, K) with K known on the
host: the device never waits, and everything that reads masked places only (the last layer of generator or MLM encoder,
the product with the vocabulary) is computed there alone. Ids are padded
for the choice of places; encoders get them packed.

What stands at a masked place: always [MASK] for the generator; for MLM, whose encoder is kept and will never see a
[MASK] again, BERT's 80 % [MASK], 10 % another token, 10 % the token itself.

Per-sequence losses are shares of a token mean: their mean over the batch is the mean over its tokens.

Not here: text, training and files of a whole pre-training (core/pretrain).

Shapes: B sequences, T packed tokens, L of the longest, K places to mask (some of them unused in a shorter sequence),
H hidden, E embeddings, V vocabulary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, ElectraConfig

from core.attention import ATTENTION, replace_dropouts
from core.batching import Batch
from core.encoder import BERT_LIKE, embed, encode, run_layers

MASK_SHARE = 0.15
# BERT's noise at masked places, for an encoder that is itself the masked-token model.
NOISE = {"mask": 0.8, "random": 0.1}
MIN_GENERATOR_HIDDEN = 32


# ---- masking -------------------------------------------------------------------------------------------------------
class Masked(NamedTuple):
    """A batch's ids with some of them masked: `places_BK` are the masked positions where `is_place_BK`,
    `own_BK` what stood there."""

    ids_BL: Tensor
    places_BK: Tensor
    is_place_BK: Tensor
    own_BK: Tensor

    @property
    def masked_BL(self) -> Tensor:
        return torch.zeros_like(self.ids_BL, dtype=torch.bool).scatter(1, self.places_BK, self.is_place_BK)


def mask_tokens(
    batch: Batch, *, special_ids: Tensor, mask_id: int, share: float = MASK_SHARE, noise_vocab: int | None = None
) -> Masked:
    """Masks `share` of each sequence's tokens, at least one where there is one that is not special. Draws from torch's
    generator of the batch's device.

    With `noise_vocab`, the number of words to draw from, a masked place holds [MASK], a random word or its own token,
    as `NOISE` says; without, always [MASK].
    """
    ids_BL = batch.padded(batch.ids_T)
    can_BL = batch.inside_BL & ~torch.isin(ids_BL, special_ids)
    n_can_B1 = can_BL.sum(dim=1, keepdim=True)
    # Rounded up with the probability of its fraction: the mean is exact, and never more than K.
    wanted_B1 = (share * n_can_B1 + torch.rand_like(n_can_B1, dtype=torch.float32)).floor().clamp(min=1)
    order_BL = torch.rand(ids_BL.shape, device=ids_BL.device).masked_fill_(~can_BL, -1.0)
    k = math.ceil(share * batch.shape[1])
    places_BK = order_BL.topk(k, dim=1).indices
    is_place_BK = torch.arange(k, device=ids_BL.device) < torch.minimum(wanted_B1, n_can_B1)
    own_BK = ids_BL.gather(1, places_BK)
    new_BK = torch.full_like(own_BK, mask_id)
    if noise_vocab is not None:
        chance_BK = torch.rand(own_BK.shape, device=own_BK.device)
        word_BK = torch.randint(noise_vocab, own_BK.shape, device=own_BK.device)
        word_BK = torch.where(torch.isin(word_BK, special_ids), new_BK, word_BK)
        new_BK = torch.where(chance_BK < NOISE["mask"], new_BK, word_BK)
        new_BK = torch.where(chance_BK < NOISE["mask"] + NOISE["random"], new_BK, own_BK)
    masked_BL = ids_BL.scatter(1, places_BK, torch.where(is_place_BK, new_BK, own_BK))
    return Masked(masked_BL, places_BK, is_place_BK, own_BK)


def mask_ids(tokenizer: Any) -> dict[str, Any]:
    """What masking needs of a tokenizer: `special_ids`, never masked, and `mask_id`. [UNK] is among the special ones:
    there is nothing to learn from guessing that a word is unknown. Raises `ValueError` without a mask token."""
    if tokenizer.mask_token_id is None:
        raise ValueError(
            "the tokenizer has no mask token, which masked-token prediction and replaced-token detection need; use one "
            "with [MASK], 'word' or 'wordpiece(vocab=8192)'"
        )
    return {"special_ids": sorted(set(tokenizer.all_special_ids)), "mask_id": tokenizer.mask_token_id}


# ---- objectives ----------------------------------------------------------------------------------------------------
class Detection(NamedTuple):
    """The discriminator's part: logits that a token is a replaced one, and labels."""

    logits_T: Tensor
    is_replaced_T: Tensor


class Losses(NamedTuple):
    """Mean cross-entropy over masked tokens, mean binary cross-entropy over all tokens (0 for MLM), both as
    per-sequence shares of the batch's token mean, in packed order; and, for scores, what they were made of."""

    mlm_B: Tensor
    bce_B: Tensor
    masked: Masked
    log_probs_BKV: Tensor
    detection: Detection | None


class MlmHead(nn.Module):
    """Words at given states: dense, GELU, LayerNorm, then the transposed word embeddings and a bias (BERT's)."""

    def __init__(self, hidden: int, words: nn.Embedding):
        super().__init__()
        self.dense = nn.Linear(hidden, words.embedding_dim)
        self.norm = nn.LayerNorm(words.embedding_dim)
        self.bias = nn.Parameter(torch.zeros(words.num_embeddings))

    def forward(self, hidden_BKH: Tensor, words_VE: Tensor) -> Tensor:
        """Logits (B, K, V) in float32."""
        return F.linear(self.norm(F.gelu(self.dense(hidden_BKH))), words_VE, self.bias).float()


class Mlm(nn.Module):
    """Masked-token prediction (BERT): the encoder itself is the masked-token model."""

    special_ids: Tensor

    def __init__(self, encoder: Any, *, special_ids: Sequence[int], mask_id: int, mask_share: float = MASK_SHARE):
        super().__init__()
        require_bert_like(encoder)
        self.mask_id, self.mask_share = mask_id, mask_share
        self.register_buffer("special_ids", torch.tensor(special_ids), persistent=False)
        self.words_head = MlmHead(encoder.config.hidden_size, encoder.embeddings.word_embeddings)

    def losses(self, encoder: Any, batch: Batch) -> Losses:
        """Masks as BERT does in training, with [MASK] alone in evaluation, so that scores of MLM and of a generator
        are about the same thing."""
        masked = mask_tokens(
            batch,
            special_ids=self.special_ids,
            mask_id=self.mask_id,
            share=self.mask_share,
            noise_vocab=encoder.config.vocab_size if self.training else None,
        )
        hidden_TH = embed(encoder, batch._replace(ids_T=batch.packed(masked.ids_BL)))
        if hasattr(encoder, "embeddings_project"):  # ELECTRA with narrow embeddings
            hidden_TH = encoder.embeddings_project(hidden_TH)
        hidden_BKH = _at_places(encoder.encoder.layer, hidden_TH, batch, masked)
        logits_BKV = self.words_head(hidden_BKH, encoder.embeddings.word_embeddings.weight)
        mlm_B, log_probs_BKV = _predicted(logits_BKV, masked)
        return Losses(mlm_B, torch.zeros_like(mlm_B), masked, log_probs_BKV, None)


class Rtd(nn.Module):
    """Replaced-token detection (ELECTRA, section 2): a small generator fills the masked places, the encoder tells for
    every token whether it is the text's own.

    The generator is about half as wide and as deep as the encoder and reads through the encoder's own embeddings.
    """

    special_ids: Tensor

    def __init__(
        self,
        encoder: Any,
        *,
        special_ids: Sequence[int],
        mask_id: int,
        mask_share: float = MASK_SHARE,
        generator: dict[str, int] | None = None,
    ):
        super().__init__()
        require_bert_like(encoder)
        words, hidden = encoder.embeddings.word_embeddings, encoder.config.hidden_size
        self.mask_id, self.mask_share = mask_id, mask_share
        self.generator = generator or generator_shape(encoder.config)
        self.register_buffer("special_ids", torch.tensor(special_ids), persistent=False)
        dropouts = dict.fromkeys(
            ("hidden_dropout_prob", "attention_probs_dropout_prob"), encoder.config.hidden_dropout_prob
        )
        # Tables of one row: the model's own embeddings are thrown away.
        shape = ElectraConfig(
            vocab_size=1, max_position_embeddings=1, embedding_size=words.embedding_dim, **self.generator, **dropouts
        )
        body = AutoModel.from_config(shape, attn_implementation=ATTENTION)
        self.project = getattr(body, "embeddings_project", nn.Identity())
        self.layers = body.encoder.layer
        self.words_head = MlmHead(shape.hidden_size, words)
        self.detector = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 1))
        replace_dropouts(self)

    def losses(self, encoder: Any, batch: Batch) -> Losses:
        masked = mask_tokens(batch, special_ids=self.special_ids, mask_id=self.mask_id, share=self.mask_share)
        hidden_TH = self.project(embed(encoder, batch._replace(ids_T=batch.packed(masked.ids_BL))))
        hidden_BKH = _at_places(self.layers, hidden_TH, batch, masked)
        words = encoder.embeddings.word_embeddings
        mlm_B, log_probs_BKV = _predicted(self.words_head(hidden_BKH, words.weight), masked)
        corrupted_T = batch.packed(corrupt(masked, log_probs_BKV, padding_id=words.padding_idx))
        hidden_TH = encode(encoder, batch._replace(ids_T=corrupted_T), first_only=False)
        logits_T = self.detector(hidden_TH)[..., 0].float()
        # A lucky draw of the text's own token is an original, as in the paper.
        found = Detection(logits_T, corrupted_T != batch.ids_T)
        bce_T = F.binary_cross_entropy_with_logits(logits_T, found.is_replaced_T.float(), reduction="none")
        return Losses(mlm_B, _shares(batch.padded(bce_T), batch.inside_BL), masked, log_probs_BKV, found)


def _at_places(layers: Any, hidden_TH: Tensor, batch: Batch, masked: Masked) -> Tensor:
    """The last of `layers` at the masked places, (B, K, H). An unused place may be another sequence's token: whatever
    it gives weighs nothing."""
    places_BK = batch.first_B[:, None] + masked.places_BK
    return run_layers(layers, hidden_TH, batch, places_BK=places_BK).unflatten(0, places_BK.shape)


def corrupt(masked: Masked, log_probs_BKV: Tensor, *, padding_id: int | None) -> Tensor:
    """The batch's ids with a draw from the generator at masked places, (B, L). No gradient comes back through it."""
    with torch.no_grad():
        probs_BKV = log_probs_BKV.exp()
        if padding_id is not None:
            probs_BKV[..., padding_id] = 0.0  # RoBERTa would take it for the end when it counts positions
        # One number a row, by inversion: torch.multinomial draws one for every word of the vocabulary.
        bounds_BKV = probs_BKV.cumsum(dim=-1)
        at_BK1 = torch.rand_like(bounds_BKV[..., :1]) * bounds_BKV[..., -1:]
        drawn_BK = torch.searchsorted(bounds_BKV, at_BK1, right=True)[..., 0].clamp_(max=probs_BKV.shape[-1] - 1)
        new_BK = torch.where(masked.is_place_BK, drawn_BK, masked.own_BK)
        return masked.ids_BL.scatter(1, masked.places_BK, new_BK)


def _predicted(logits_BKV: Tensor, masked: Masked) -> tuple[Tensor, Tensor]:
    """Cross-entropy shares (B,) of the masked tokens, and all log-probabilities without their gradient."""
    log_probs_BKV = logits_BKV.log_softmax(dim=-1)
    own_log_probs_BK = log_probs_BKV.gather(2, masked.own_BK[..., None])[..., 0]
    return _shares(-own_log_probs_BK, masked.is_place_BK), log_probs_BKV.detach()


def _shares(values: Tensor, counted: Tensor) -> Tensor:
    """(B,) whose mean is the mean of `values` where `counted`; 0 where nothing is."""
    return (values * counted).sum(dim=1) * (len(values) / counted.sum().clamp(min=1))


def require_bert_like(encoder: Any) -> None:
    if encoder.config.model_type not in BERT_LIKE:
        raise ValueError(
            f"the encoder is of type '{encoder.config.model_type}'; masked-token prediction and replaced-token "
            f"detection know the insides of {', '.join(BERT_LIKE)} alone. Use one of these, or set "
            "pretrain.objective=none and distill.rtd_weight=0"
        )


def generator_shape(config: Any) -> dict[str, int]:
    """ELECTRA's generators are a quarter to a half of the encoder; ours is half of it, in width and in depth."""
    heads = config.num_attention_heads
    hidden = max(MIN_GENERATOR_HIDDEN, config.hidden_size // 2)
    return {
        "hidden_size": -(-hidden // heads) * heads,
        "num_hidden_layers": max(1, config.num_hidden_layers // 2),
        "num_attention_heads": heads,
        "intermediate_size": max(MIN_GENERATOR_HIDDEN, config.intermediate_size // 2),
    }


OBJECTIVES: dict[str, type[Mlm] | type[Rtd]] = {"mlm": Mlm, "rtd": Rtd}


# ---- beside the tasks ----------------------------------------------------------------------------------------------
def auxiliary_loss(model: Any, start: str, tokenizer: Any, *, weight: float) -> Callable[[Any, Batch], Tensor]:
    """Replaced-token detection beside the tasks of `model` (a `MultiTaskModel`), as a loss of it and a task's batch.

    The generator and heads are those that `start`, the model's encoder, was pre-trained with, where there are any, and
    become a part of `model`, so that they are trained and checkpointed with it. The loss is
    weight * (MLM + BCE): both terms at the tasks' scale, not ELECTRA's 1 and 50.
    """
    rtd = load_rtd(Path(start), model.encoder)
    model.rtd = Rtd(model.encoder, **mask_ids(tokenizer)) if rtd is None else rtd

    def loss(model: Any, batch: Batch) -> Tensor:
        losses = model.rtd.losses(model.encoder, batch)
        return weight * (losses.mlm_B + losses.bce_B).mean()

    return loss


def save_rtd(rtd: Rtd, encoder_dir: Path) -> None:
    """Writes `generator/rtd.safetensors` and `generator/rtd.json` beside the encoder's own files."""
    folder = encoder_dir / "generator"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in rtd.state_dict().items()}, folder / "rtd.safetensors")
    about = {
        "special_ids": rtd.special_ids.tolist(),
        "mask_id": rtd.mask_id,
        "mask_share": rtd.mask_share,
        "generator": rtd.generator,
    }
    (folder / "rtd.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def load_rtd(encoder_dir: Path, encoder: Any) -> Rtd | None:
    """What `encoder` was pre-trained with, if `encoder_dir` holds it. Raises `ValueError` when it was another one."""
    folder = encoder_dir / "generator"
    if not (folder / "rtd.json").exists():
        return None
    rtd = Rtd(encoder, **json.loads((folder / "rtd.json").read_text(encoding="utf-8")))
    try:
        rtd.load_state_dict(load_file(folder / "rtd.safetensors"))
    except RuntimeError as error:
        first = str(error).split("\n")[1:2]
        raise ValueError(
            f"{folder} was made with another encoder than the one that is used: {' '.join(first).strip()} Pre-train "
            "again, or remove this folder and start with a fresh generator"
        ) from error
    return rtd
