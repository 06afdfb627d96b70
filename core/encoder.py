"""The shared encoder: any of transformers', made from a spec, with the asked dropout, run without dead work.

A spec is a hub id, a local directory, or `random:bert(layers=2,hidden=128,heads=2)` for a fresh one. The dropout that
is asked for is set in the config *and* on every dropout module, because some models read the one and some the other;
a test reads it off the modules.

`encode` gives the plain model's last hidden states. BERT, RoBERTa and ELECTRA share one structure, and there it
 - calls embeddings and layers itself, with attention through one function of ours (`attend`), so that a packed layout
   can replace that function and `encode` alone;
 - for heads that read only [CLS], computes only that row in the last layer: the others are dead work (SPEED, 5).
   Exact; by arithmetic 5/6 of that layer's work. Masked-token prediction reads only the masked rows (core/rtd);
 - draws dropout from 16-bit integers on a CPU, where torch's Bernoulli numbers cost as much as a matrix product
   (SPEED, 4; docs/decisions/003 has the measurements).
Every other type runs as transformers has it.

Shapes: B sequences, T tokens, K chosen tokens of each sequence, E embeddings, H hidden, A attention heads, D = H / A.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from core.batching import Batch

ATTENTION = "darkroom"
BERT_LIKE = ("bert", "roberta", "electra")
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


# ---- dropout -------------------------------------------------------------------------------------------------------
class Dropout(nn.Dropout):
    """`nn.Dropout` with cheaper random numbers on a CPU: `p` is rounded to 1/65536, the scale is that p's own."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return input
        return drop(input, self.p)


def drop(x: Tensor, p: float) -> Tensor:
    """Zeroes entries with probability p and scales the others by 1 / (1 - p)."""
    if x.device.type != "cpu":
        return F.dropout(x, p, training=True)
    threshold = round(p * 65536)
    # One 64-bit draw of torch's generator decides about four entries.
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= threshold - 32768
    return x * kept.to(x.dtype).mul_(65536 / (65536 - threshold))


def replace_dropouts(module: nn.Module, p: float | None = None) -> None:
    """Puts our `Dropout` in the place of every `nn.Dropout`, with probability `p` (None: with its own)."""
    for name, child in module.named_children():
        if isinstance(child, nn.Dropout):
            setattr(module, name, Dropout(child.p if p is None else p))
        else:
            replace_dropouts(child, p)


# ---- attention -----------------------------------------------------------------------------------------------------
def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Softmax(Q K^T scale) V: (B, A, T, D) -> (B, T, A, D). `attention_mask` is boolean, True where to look."""
    if dropout > 0 and query.device.type == "cpu":
        # torch's fused kernel has no dropout on a CPU and would draw Bernoulli numbers.
        scores_BATT = (query @ key.transpose(2, 3)) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if attention_mask is not None:
            scores_BATT = scores_BATT.masked_fill(~attention_mask, torch.finfo(scores_BATT.dtype).min)
        mixed_BATD = drop(scores_BATT.softmax(dim=-1).to(value.dtype), dropout) @ value
    else:
        mixed_BATD = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
        )
    return mixed_BATD.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_mask)


# ---- running -------------------------------------------------------------------------------------------------------
def encode(encoder: Any, batch: Batch, *, first_only: bool) -> Tensor:
    """Last hidden states (B, T, H), or (B, 1, H) of the first token with `first_only`, where the type allows it."""
    if encoder.config.model_type not in BERT_LIKE:
        types_BT = _types(encoder, batch)
        arguments: dict[str, Any] = {} if types_BT is None else {"token_type_ids": types_BT}
        mask_BT = None if batch.mask_BT is None else batch.mask_BT.long()
        return encoder(input_ids=batch.ids_BT, attention_mask=mask_BT, **arguments).last_hidden_state
    hidden_BTH = embed(encoder, batch)
    if hasattr(encoder, "embeddings_project"):  # ELECTRA with narrow embeddings
        hidden_BTH = encoder.embeddings_project(hidden_BTH)
    return run_layers(encoder.encoder.layer, hidden_BTH, batch.mask_BT, first_only=first_only)


def embed(encoder: Any, batch: Batch) -> Tensor:
    """What goes into a BERT-like encoder's first layer, (B, T, E), E the width of its embeddings."""
    return encoder.embeddings(input_ids=batch.ids_BT, token_type_ids=_types(encoder, batch))


def run_layers(
    layers: Any,
    hidden_BTH: Tensor,
    mask_BT: Tensor | None,
    *,
    first_only: bool = False,
    places_BK: Tensor | None = None,
) -> Tensor:
    """The last of BERT-like `layers`: (B, T, H), (B, 1, H) of the first token, or (B, K, H) at `places_BK`."""
    mask_B11T = None if mask_BT is None else mask_BT[:, None, None, :]
    *before, last = layers
    for layer in before:
        hidden_BTH = layer(hidden_BTH, mask_B11T)
    if first_only:
        return _some_rows(last, hidden_BTH, hidden_BTH[:, :1], mask_B11T)
    if places_BK is not None:
        return _some_rows(last, hidden_BTH, at_places(hidden_BTH, places_BK), mask_B11T)
    return last(hidden_BTH, mask_B11T)


def at_places(hidden_BTH: Tensor, places_BK: Tensor) -> Tensor:
    """(B, K, H): row b holds the states at `places_BK[b]`."""
    return hidden_BTH.gather(1, places_BK[:, :, None].expand(-1, -1, hidden_BTH.shape[2]))


def _types(encoder: Any, batch: Batch) -> Tensor | None:
    return batch.is_b_BT.long() if getattr(encoder.config, "type_vocab_size", 0) > 1 else None


def _some_rows(layer: Any, hidden_BTH: Tensor, chosen_BKH: Tensor, mask_B11T: Tensor | None) -> Tensor:
    """What `layer` gives for the chosen tokens, (B, K, H): keys and values of all tokens, all else of these."""
    attention = layer.attention.self

    def by_head(x: Tensor) -> Tensor:
        return x.view(len(x), -1, attention.num_attention_heads, attention.attention_head_size).transpose(1, 2)

    mixed_BKAD, _ = attend(
        attention,
        by_head(attention.query(chosen_BKH)),
        by_head(attention.key(hidden_BTH)),
        by_head(attention.value(hidden_BTH)),
        mask_B11T,
        dropout=attention.dropout.p if attention.training else 0.0,
        scaling=attention.scaling,
    )
    return layer.feed_forward_chunk(layer.attention.output(mixed_BKAD.flatten(2), chosen_BKH))


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
                spec, config=config, dtype=torch.float32, output_loading_info=True, **_options(config)
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise _no_encoder(spec, error) from error
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
        return AutoConfig.from_pretrained(spec)
    except (OSError, ValueError, KeyError) as error:
        raise _no_encoder(spec, error) from error


def encoder_from_config(config: Any) -> Any:
    """An encoder of this shape with fresh weights, drawn from torch's generator.

    Word embeddings start at twice BERT's spread and those of position and segment at half: from nothing, tokens find
    their equals sooner when position noise is small (docs/decisions/006 has the measurements).
    """
    encoder = AutoModel.from_config(config, **_options(config))
    with torch.no_grad():
        for name, factor in (("word", 2.0), ("position", 0.5), ("token_type", 0.5)):
            embeddings = getattr(encoder, "embeddings", None)
            if (table := getattr(embeddings, f"{name}_embeddings", None)) is not None:
                table.weight.mul_(factor)
    return encoder


def _no_encoder(spec: str, error: Exception) -> ValueError:
    first_line = str(error).strip().split("\n")[0]
    return ValueError(
        f"no encoder at '{spec}': {first_line} Give a folder with config.json and model.safetensors, a hub id "
        "(needs a network), or random:bert(layers=2,hidden=128,heads=2)"
    )


def max_positions(encoder: Any) -> int:
    """Longest sequence that the encoder has positions for. RoBERTa and its kin count from after the padding id, which
    their table of positions then knows."""
    table = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    padding_id = getattr(table, "padding_idx", None)
    return int(encoder.config.max_position_embeddings) - (0 if padding_id is None else padding_id + 1)


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
