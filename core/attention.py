"""Attention over packed sequences, and dropout with cheap random numbers: what the encoders call instead of theirs.

transformers' encoders look their attention up by name; `attend` is registered as "darkroom" and serves BERT, RoBERTa
and ELECTRA without a fork of their code. Each sequence attends to itself alone:
 - on CUDA, torch's variable-length flash kernel where it can serve (16 bits, no dropout, as it has none);
 - otherwise the attention alone is padded: a batch cut from a sorted window has little to pad, and small products for
   each length cost more. Linear layers, the bulk of the work, see no padding either way.

Dropout falls on attention's probabilities after the softmax in every form, so that a packed token meets the same noise
as a padded one; only the order in which random numbers are drawn differs.

Not here: what runs the layers (core/encoder).

Shapes: T packed tokens of B sequences, L of the longest, K queries a sequence, A attention heads, D their width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from core.batching import Batch

ATTENTION = "darkroom"


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
    if threshold == 0:
        return x
    # One 64-bit draw of torch's generator decides about four entries. Clamped to two neighbours, a draw is 0 or 1
    # without a boolean tensor, whose making and conversion to float cost more than the draw.
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    draws = draws.view(torch.int16)[: x.numel()].view(x.shape)
    kept = draws.clamp_(threshold - 32769, threshold - 32768).sub_(threshold - 32769)
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
    batch: Batch | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface. With `batch`, (1, A, T, D) of packed tokens -> (1, T, A, D); without, the
    common form (B, A, L, D) -> (B, L, A, D), `attention_mask` boolean, True where to look."""
    if batch is None:
        return _mixed(query, key, value, attention_mask, dropout, scaling).transpose(1, 2), None
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    return attend_packed(query, key, value, batch, dropout=dropout, scaling=scaling)[None], None


def attend_packed(
    query: Tensor, key: Tensor, value: Tensor, batch: Batch, *, dropout: float, scaling: float | None, k: int = 0
) -> Tensor:
    """Softmax(Q K^T scale) V within each sequence: keys and values (T, A, D). Queries and result are (T, A, D), or,
    with `k` queries a sequence, (B * k, A, D). Rows behind the T tokens are filler, and come back as zeros."""
    if filler := len(key) - len(batch.place_T):
        query, key, value = query if k else query[:-filler], key[:-filler], value[:-filler]
        answered = attend_packed(query, key, value, batch, dropout=dropout, scaling=scaling, k=k)
        return answered if k else F.pad(answered, (0, 0, 0, 0, 0, filler))
    n_sequences, longest = batch.shape
    is_half = query.dtype in (torch.float16, torch.bfloat16)
    if query.is_cuda and is_half and dropout == 0 and not batch.is_bucketed:
        from torch.nn.attention.varlen import varlen_attn

        bounds = torch.arange(n_sequences + 1, device=query.device, dtype=torch.int32) * k if k else batch.bounds
        mixed = varlen_attn(
            query.contiguous(), key.contiguous(), value.contiguous(), bounds, batch.bounds, k or longest, longest,
            scale=scaling,
        )  # fmt: skip
        assert isinstance(mixed, Tensor)  # a pair where the sums of exponentials are asked for too
        return mixed
    padded_query = query.unflatten(0, (n_sequences, k)) if k else batch.padded(query)
    query, key, value = (x.transpose(1, 2) for x in (padded_query, batch.padded(key), batch.padded(value)))
    mask = None if batch.is_even else batch.inside_BL[:, None, None]
    mixed = _mixed(query, key, value, mask, dropout, scaling).transpose(1, 2)
    return mixed.flatten(0, 1) if k else batch.packed(mixed)


def _mixed(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scaling: float | None
) -> Tensor:
    """(B, A, K, D) queries on (B, A, L, D) -> (B, A, K, D)."""
    if dropout == 0 or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)
    # torch's fused kernel has no dropout on a CPU and would draw Bernoulli numbers.
    # Queries are fewer than scores: scaled here, two passes over all scores are saved.
    scores_BAKL = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(2, 3)
    if mask is not None:
        scores_BAKL = scores_BAKL.masked_fill(~mask, torch.finfo(scores_BAKL.dtype).min)
    return drop(scores_BAKL.softmax(dim=-1).to(value.dtype), dropout) @ value


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_mask)
