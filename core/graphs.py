"""Bucketed batches for a compiled encoder: CUDA graphs replay a step's launches as one, and want shapes that repeat.

Small models on a GPU are bound by launches. `bucketed` rounds a batch's three sizes up (sequences, tokens,
the longest), each to one of 8 in an octave or a multiple of 16, so that an epoch has a few shapes and not thousands;
`encode_bucketed` is `core/encoder.encode` under `torch.compile`, captured once a shape. What is filled in is never
read: filler sequences are two tokens, one of each text, so that no softmax is empty, and `rank_B` leaves them out.

Off unless `runtime.compile` asks for it: its batches and its tracing are tested on the CPU, its gain is not measured
(`python -m benchmarks.training --device cuda` compares both).

Shapes: B sequences, T packed tokens, L of the longest; B', T', L' rounded up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from core.batching import Batch
from core.encoder import encode

STEPS_AN_OCTAVE = 8  # at most an eighth is filler
LENGTH_STEP = 16
FILLER_TOKENS = 2
# Shapes times two kinds of heads times training or not; torch's own limit is 8.
MOST_SHAPES = 256


def bucketed(batch: Batch) -> Batch:
    """The same sequences in the same order, then B' - B >= 1 fillers. Heads answer for the B alone."""
    n_sequences, longest = batch.shape
    n_tokens, device = len(batch.ids_T), batch.ids_T.device
    most_sequences = round_up(n_sequences + 1)
    most_tokens = round_up(n_tokens + FILLER_TOKENS * (most_sequences - n_sequences))
    longest = -(-longest // LENGTH_STEP) * LENGTH_STEP
    # Two tokens a filler; what is left over falls on the last one's two places too, where nobody looks.
    filler_F = torch.arange(most_tokens - n_tokens, device=device)
    sequence_F = (n_sequences + filler_F // FILLER_TOKENS).clamp(max=most_sequences - 1)
    position_F = filler_F % FILLER_TOKENS
    first_F = n_tokens + FILLER_TOKENS * torch.arange(most_sequences - n_sequences, device=device)
    place_T = batch.place_T // batch.shape[1] * longest + batch.positions_T
    in_place = torch.arange(n_sequences, device=device) if batch.rank_B is None else batch.rank_B
    return Batch(
        ids_T=torch.cat([batch.ids_T, torch.zeros_like(filler_F)]),
        positions_T=torch.cat([batch.positions_T, position_F]),
        is_b_T=torch.cat([batch.is_b_T, position_F > 0]),
        bounds=torch.cat([batch.bounds[:-1], first_F.int(), batch.bounds.new_tensor([most_tokens])]),
        place_T=torch.cat([place_T, sequence_F * longest + position_F]),
        longest=longest,
        is_even=False,
        rank_B=in_place,
        is_bucketed=True,
    )


def round_up(n: int) -> int:
    """The next of `STEPS_AN_OCTAVE` numbers an octave: 17 -> 18, 1000 -> 1024, 1025 -> 1152."""
    step = max(1, 2 ** (n - 1).bit_length() // (2 * STEPS_AN_OCTAVE))
    return -(-n // step) * step


def encode_bucketed(encoder: Any, batch: Batch, *, first_only: bool) -> Tensor:
    """What `encode` gives. The result lives until the next call: its memory is the graph's own."""
    assert batch.is_bucketed
    torch.compiler.cudagraph_mark_step_begin()
    return compiled()(encoder, batch, first_only=first_only)


@cache
def compiled(backend: str = "inductor") -> Callable[..., Tensor]:
    torch._dynamo.config.recompile_limit = MOST_SHAPES
    options: dict[str, Any] = {"mode": "reduce-overhead"} if backend == "inductor" else {}
    return torch.compile(encode, backend=backend, dynamic=False, **options)
