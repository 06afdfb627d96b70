"""The shared encoder: any of transformers', made from a spec, with the asked dropout, run without dead work.

A spec is a hub id, a local directory, or `random:bert(layers=2,hidden=128,heads=2)` for a fresh one. The dropout that
is asked for is set in the config *and* on every dropout module, because some models read the one and some the other;
a test reads it off the modules.

`encode` gives the plain model's last hidden states of a packed batch. BERT, RoBERTa and ELECTRA share one structure,
and there it
 - calls embeddings and layers itself on packed tokens: positions restart at each sequence, attention is ours
   (core/attention), no layer computes padding;
 - for heads that read only [CLS], computes only that row in the last layer: the others are dead work.
   Exact; by arithmetic 5/6 of that layer's work. Masked-token prediction reads only the masked rows (core/rtd).

Every other type runs as transformers has it, padded.

Shapes: B sequences, T packed tokens, L of the longest, K chosen tokens of each sequence, E embeddings, H hidden.
"""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

from core.attention import ATTENTION, attend_packed, replace_dropouts
from core.batching import Batch

BERT_LIKE = ("bert", "roberta", "electra")
# Rows of the encoder's products are filled up to a multiple of it, in 16 bits on a CPU.
TOKENS_STEP = 64
BERT_SPREAD, WORD_FACTOR = 0.02, 2.0  # of a fresh encoder's weights; its word embeddings have twice that
# A model's folder is data: its own Python code is not run, and weights in pickles are not loaded.
SAFE: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True}
# Spec name -> config name, for the types whose configs agree on these.
_SHAPE = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "positions": "max_position_embeddings",
}
# Names under which transformers' encoder configs keep the dropout of layers and attention.
_DROPOUT_FIELDS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"),
    *("embedding_dropout", "mlp_dropout"),
)


# ---- running -------------------------------------------------------------------------------------------------------
def encode(encoder: Any, batch: Batch, *, first_only: bool) -> Tensor:
    """Last hidden states of the packed tokens (T, H), or, with `first_only`, of each sequence's first, (B, H)."""
    if encoder.config.model_type not in BERT_LIKE:
        types_T = _types(encoder, batch)
        arguments = {} if types_T is None else {"token_type_ids": batch.padded(types_T)}
        mask_BL = batch.inside_BL.long()
        hidden_BLH = encoder(batch.padded(batch.ids_T), attention_mask=mask_BL, **arguments).last_hidden_state
        return hidden_BLH[:, 0] if first_only else batch.packed(hidden_BLH)
    hidden_TH = embed(encoder, batch)
    if hasattr(encoder, "embeddings_project"):  # ELECTRA with narrow embeddings
        hidden_TH = encoder.embeddings_project(hidden_TH)
    places_B1 = batch.first_B[:, None] if first_only else None
    return run_layers(encoder.encoder.layer, hidden_TH, batch, places_BK=places_B1)


def embed(encoder: Any, batch: Batch) -> Tensor:
    """What goes into a BERT-like encoder's first layer, (T, E), E the width of its embeddings."""
    types_T = _types(encoder, batch)
    return encoder.embeddings(
        input_ids=batch.ids_T[None],
        position_ids=batch.positions_T[None] + _first_position(encoder),
        token_type_ids=None if types_T is None else types_T[None],
    )[0]


def run_layers(layers: Any, hidden_TH: Tensor, batch: Batch, *, places_BK: Tensor | None = None) -> Tensor:
    """The last of BERT-like `layers`: (T, H), or, of the packed tokens `places_BK` of each sequence, (B * K, H)."""
    *before, last = layers
    n_tokens = len(hidden_TH)
    if hidden_TH.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        # A 16-bit product makes its kernel anew for every number of rows that it has not seen (LOG.md, "Speed").
        hidden_TH = F.pad(hidden_TH, (0, 0, 0, -n_tokens % TOKENS_STEP))
    for layer in before:
        hidden_TH = layer(hidden_TH[None], batch=batch)[0]
    if places_BK is not None:
        return _some_rows(last, hidden_TH, batch, places_BK)
    return last(hidden_TH[None], batch=batch)[0, :n_tokens]


def _types(encoder: Any, batch: Batch) -> Tensor | None:
    return batch.is_b_T.long() if getattr(encoder.config, "type_vocab_size", 0) > 1 else None


def _some_rows(layer: Any, hidden_TH: Tensor, batch: Batch, places_BK: Tensor) -> Tensor:
    """What `layer` gives for the chosen tokens, (B * K, H): keys and values of all tokens, all else of these."""
    attention = layer.attention.self
    chosen_NH = hidden_TH.index_select(0, places_BK.flatten())
    query, key, value = (
        x.view(len(x), attention.num_attention_heads, attention.attention_head_size)
        for x in (attention.query(chosen_NH), attention.key(hidden_TH), attention.value(hidden_TH))
    )
    mixed_NAD = attend_packed(
        query,
        key,
        value,
        batch,
        dropout=attention.dropout.p if attention.training else 0.0,
        scaling=attention.scaling,
        k=places_BK.shape[1],
    )
    return layer.feed_forward_chunk(layer.attention.output(mixed_NAD.flatten(1), chosen_NH))


# ---- making --------------------------------------------------------------------------------------------------------
def make_encoder(spec: str, *, dropout: float, tokenizer: Any | None) -> Any:
    """The encoder `spec` in float32, without the pooler that no head reads. Raises `ValueError` for a spec that is
    neither a readable folder, a reachable hub id nor a `random:` form, for a checkpoint that lacks weights of the
    encoder, and for a vocabulary smaller than the tokenizer's."""
    config = config_of(spec, tokenizer)
    _set_dropout(config, dropout)
    if spec.startswith("random:"):
        encoder = encoder_from_config(config)
    else:
        try:
            encoder, loaded = AutoModel.from_pretrained(
                spec, config=config, dtype=torch.float32, output_loading_info=True, **SAFE, **_options(config)
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise _no_encoder(spec, error) from error
        except RuntimeError as error:
            if "mismatched" not in str(error):
                raise
            raise ValueError(
                f"the weights at '{spec}' have other shapes than its config.json says; restore both from one checkpoint"
            ) from error
        # transformers makes up what a checkpoint lacks and only logs it; a pooler, which no head reads, may be lacking.
        missing = sorted(name for name in loaded["missing_keys"] if "pooler" not in name)
        if missing:
            raise ValueError(
                f"the checkpoint at '{spec}' lacks {len(missing)} weights of its encoder, first: '{missing[0]}'; they "
                "would be random numbers. Give a complete checkpoint of this model type"
            )
    if tokenizer is not None and encoder.config.vocab_size < len(tokenizer):
        raise ValueError(
            f"encoder '{spec}' has a vocabulary of {encoder.config.vocab_size}, its tokenizer has {len(tokenizer)} "
            "tokens; use the tokenizer that the encoder was trained with (model.tokenizer)"
        )
    replace_dropouts(encoder, dropout)
    return encoder


def config_of(spec: str, tokenizer: Any | None) -> Any:
    """transformers' config of the encoder `spec`, without its weights. Raises `ValueError` as `make_encoder` does."""
    if spec.startswith("random:"):
        return _random_config(spec, tokenizer)
    try:
        return AutoConfig.from_pretrained(spec, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _no_encoder(spec, error) from error


def encoder_from_config(config: Any) -> Any:
    """An encoder of this shape with fresh weights, drawn from torch's generator.

    Word embeddings start at twice BERT's spread and those of position and segment at half: from nothing, tokens find
    their equals sooner when position noise is small (docs/decisions/006 has the measurements).
    """
    encoder = AutoModel.from_config(config, **_options(config))
    with torch.no_grad():
        for name, factor in (("word", WORD_FACTOR), ("position", 0.5), ("token_type", 0.5)):
            embeddings = getattr(encoder, "embeddings", None)
            if (table := getattr(embeddings, f"{name}_embeddings", None)) is not None:
                table.weight.mul_(factor)
    return encoder


def start_for_text(module: Any) -> None:
    """Starts a fresh BERT-like `module` again, in place, for learning from text: what a token is worth is told by its
    neighbours, which small encoders did not find from the start that suits labelled tasks (LOG.md, 30 November).

    Linear weights keep the size of their input (spread 1 / sqrt of its width; BERT's 0.02 is that of hidden 2,500).
    Positions are sinusoids of the words' spread (1706.03762, section 3.5, with the base 1,000), so that an offset is
    one linear map wherever it is. Draws from torch's generator.
    """
    with torch.no_grad():
        for own in module.modules():
            if isinstance(own, torch.nn.Linear):
                own.weight.normal_(0, own.in_features**-0.5)
        for name, table in module.named_parameters():
            if name.endswith("position_embeddings.weight"):
                n, width = table.shape
                angles = torch.arange(n)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(1e3) / width))
                waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
                table.copy_(waves * (WORD_FACTOR * BERT_SPREAD * 2**0.5))


def _no_encoder(spec: str, error: Exception) -> ValueError:
    first_line = str(error).strip().split("\n")[0]
    if (Path(spec).is_absolute() or spec.startswith(".")) and not Path(spec).exists():
        first_line = "there is no such folder."
    elif "trust_remote_code" in str(error):
        first_line = "it brings Python code of its own, and Darkroom runs none from a model's folder."
    return ValueError(
        f"no encoder at '{spec}': {first_line} Give a folder with config.json and model.safetensors, a hub id "
        "(needs a network), or random:bert(layers=2,hidden=128,heads=2)"
    )


def max_positions(encoder: Any) -> int:
    """Longest sequence that the encoder has positions for."""
    return int(encoder.config.max_position_embeddings) - _first_position(encoder)


def _first_position(encoder: Any) -> int:
    """RoBERTa and its kin count from after the padding id, which their table of positions then knows."""
    table = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    padding_id = getattr(table, "padding_idx", None)
    return 0 if padding_id is None else padding_id + 1


def _random_config(spec: str, tokenizer: Any | None) -> Any:
    match = re.fullmatch(r"random:([\w-]+)\(([^)]*)\)", spec.replace(" ", ""))
    if match is None:
        raise ValueError(f"encoder '{spec}' is not of the form random:bert(layers=2,hidden=128,heads=2)")
    kind, body = match.groups()
    try:
        known = AutoConfig.for_model(kind)
    except ValueError:
        raise ValueError(
            f"encoder '{spec}': no model type '{kind}' in transformers; try bert, roberta, electra"
        ) from None
    values: dict[str, int] = {}
    for part in filter(None, body.split(",")):
        name, _, number = part.partition("=")
        if name not in _SHAPE or not number.isdigit() or int(number) < 1:
            raise ValueError(
                f"encoder '{spec}': '{part}' is not one of {', '.join(f'{n}=N' for n in _SHAPE)} with N >= 1"
            )
        if not hasattr(known, _SHAPE[name]):  # a config takes any name, and would ignore this one
            raise ValueError(f"encoder '{spec}': the config of type '{kind}' has no {_SHAPE[name]}; leave out {name}")
        values[_SHAPE[name]] = int(number)
    values.setdefault("hidden_size", 128)
    values.setdefault("num_hidden_layers", 2)
    values.setdefault("num_attention_heads", max(1, values["hidden_size"] // 64))
    if hasattr(known, "intermediate_size"):
        values.setdefault("intermediate_size", 4 * values["hidden_size"])
    if values["hidden_size"] % values["num_attention_heads"]:
        raise ValueError(
            f"encoder '{spec}': hidden={values['hidden_size']} is not a multiple of heads="
            f"{values['num_attention_heads']}"
        )
    extra: dict[str, Any] = {}
    if tokenizer is not None:
        # RoBERTa counts positions from the padding id, so it must be the tokenizer's own.
        extra = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if kind == "electra":
        extra["embedding_size"] = values["hidden_size"]
    return AutoConfig.for_model(kind, **values, **extra)


def _options(config: Any) -> dict[str, Any]:
    """No pooler where the type can leave it out; our attention where the type is one of ours."""
    model_class = AutoModel._model_mapping[type(config)]
    has_switch = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    attention = {"attn_implementation": ATTENTION} if config.model_type in BERT_LIKE else {}
    return {**({"add_pooling_layer": False} if has_switch else {}), **attention}


def _set_dropout(config: Any, dropout: float) -> None:
    for field in _DROPOUT_FIELDS:
        if hasattr(config, field):
            setattr(config, field, dropout)
