"""How much memory a training step keeps for its way back, counted without a GPU: `python -m benchmarks.memory`.

Every tensor that autograd saves is counted once, by its storage: packed, a batch of a sorted window as this project
trains, and padded to the longest of a shuffled batch as a plain loop does; MNLI's lengths, bfloat16 autocast. Counts
are of one and of two layers of the asked width on few tokens; their difference is a layer, and both sides grow in
proportion to layers and to tokens, padding included.
Dropout is left out, as its masks differ by device, and added as one byte an entry. Not in it: what kernels take for a
moment, and the heads. `--keep` writes benchmarks/results/memory.json.

Shapes: T real tokens, B rows, L tokens of the longest.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.contenders import LONGEST, PlainModel, Shape, Vocabulary, collate, glue_lengths, plain_rows, task_data
from benchmarks.kept import keep
from benchmarks.training import CUDA_SHAPES
from core.batching import WINDOW_BATCHES, TaskData, make_batch
from core.encoder import encode, make_encoder

# Weights, gradients and AdamW's two moments in float32, and the weights' copy in 16 bits that autocast keeps.
BYTES_A_PARAMETER = 18
# Of a layer, outside the attention, whose own mask a flash kernel does not keep; one byte an entry.
HIDDEN_DROPOUTS = 2
TASK = "mnli"


class Kept(NamedTuple):
    """Of a step, in GiB: what autograd keeps, and weights with gradients and moments; tokens that are computed."""

    activations: float
    parameters: float
    tokens: int


def of_step(shape: Shape, n_tokens: int, counted_tokens: int = 2_048) -> dict[str, Kept]:
    """A step on about `n_tokens` real tokens, `packed` and `padded`."""
    shuffled = np.random.default_rng(0).permutation(glue_lengths(WINDOW_BATCHES * n_tokens // 20)[TASK])
    n_rows = int(np.searchsorted(shuffled.cumsum(), n_tokens)) + 1
    window = np.sort(shuffled[: WINDOW_BATCHES * n_rows])
    # The batch in the middle of the window has the median length, and about the tokens asked for.
    n_sorted = round(n_tokens / np.median(window))
    middle = window[(len(window) - n_sorted) // 2 :][:n_sorted]
    found = {}
    for name, count, lengths in (("packed", _packed, middle), ("padded", _padded, shuffled[:n_rows])):
        few = lengths[: int(np.searchsorted(lengths.cumsum(), counted_tokens)) + 1]
        whole, part = (x.sum() if name == "packed" else len(x) * x.max() for x in (lengths, few))
        data = task_data({TASK: few}, torch.device("cpu"))[TASK]
        one, two = (count(shape._replace(layers=layers), data) / part for layers in (1, 2))
        masks = HIDDEN_DROPOUTS * shape.hidden
        a_token = one + masks + (shape.layers - 1) * (two - one + masks)
        found[name] = Kept(a_token * whole / 2**30, parameter_bytes(shape) / 2**30, int(whole))
    return found


def parameter_bytes(shape: Shape) -> int:
    """Of the encoder of this shape, made without memory."""
    with torch.device("meta"):
        encoder = PlainModel(shape).encoder
    return BYTES_A_PARAMETER * sum(p.numel() for p in encoder.parameters())


def _packed(shape: Shape, data: TaskData) -> int:
    encoder = make_encoder(shape.spec, dropout=0.0, tokenizer=Vocabulary()).train()
    batch = make_batch(data, np.arange(len(data.splits)))
    return saved_bytes(lambda: encode(encoder, batch, first_only=False), encoder)


def _padded(shape: Shape, data: TaskData) -> int:
    encoder = PlainModel(shape, dropout=0.0).encoder.train()
    rows = collate(plain_rows({TASK: data})[TASK])
    del rows["labels"]
    return saved_bytes(lambda: encoder(**rows).last_hidden_state, encoder)


def saved_bytes(forward: Callable[[], Tensor], module: Any) -> int:
    """Bytes of what autograd keeps of `forward()`, without the module's own parameters and their 16-bit copies."""
    parameters = {p.data_ptr() for p in module.parameters()}
    sizes = {p.numel() for p in module.parameters()}
    storages: dict[int, int] = {}
    alive: list[Tensor] = []  # or an address would be freed, used again, and not counted

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        is_copy = tensor.dtype == torch.bfloat16 and storage.nbytes() // 2 in sizes
        if storage.data_ptr() not in parameters and not is_copy:
            storages[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        forward()
    return sum(storages.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=CUDA_SHAPES, default="BERT-large")
    parser.add_argument("--tokens", type=int, default=32_768, help="real tokens a batch")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/memory.json")
    given = parser.parse_args()
    shape = CUDA_SHAPES[given.shape]
    found = of_step(shape, given.tokens)
    print(f"{given.shape}, {given.tokens:,} real tokens a batch, rows of at most {LONGEST}, bfloat16 autocast, AdamW")
    for name, kept in found.items():
        print(
            f"  {name}: {kept.tokens:,} tokens computed, {kept.activations:.1f} GiB kept for the way back "
            f"({2**30 * kept.activations / kept.tokens / 1e6:.2f} MB a token), {kept.parameters:.1f} GiB of weights, "
            f"gradients, moments: {kept.activations + kept.parameters:.1f} GiB"
        )
    told = {"shape": given.shape, "tokens": given.tokens} | {name: of._asdict() for name, of in found.items()}
    print(sentence(told))
    if given.keep:
        keep("memory", f"python -m benchmarks.memory --shape {given.shape} --tokens {given.tokens}", told)


def sentence(found: dict[str, Any]) -> str:
    packed, padded = (found[name]["activations"] + found[name]["parameters"] for name in ("packed", "padded"))
    return (
        f"A step of {found['shape']} on {found['tokens']:,} tokens keeps {packed:.0f} GiB, {packed / padded:.2f} of "
        "what padding takes"
    )


if __name__ == "__main__":
    main()
