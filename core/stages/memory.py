"""When memory runs out: which batch was too large, and which options make it smaller.

torch has one exception for it on a GPU and words on a CPU; the operating system may also end the process without a word
(core/workers says that).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from core.batching import TaskData
from core.sections import TrainConfig

SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory", "alloc_failed")


@contextmanager
def memory_named(section: str, train: TrainConfig, datas: Mapping[str, TaskData], *, job: str) -> Iterator[None]:
    """An error about memory in the block becomes a `RuntimeError` that names the largest batch, in tokens, and the
    options of `section` of the config that make it smaller."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        named = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not named and not any(sign in str(error).lower() for sign in SIGNS):
            raise
        task, longest, tokens = largest_batch(train, datas)
        budget, half = train.token_budget or "none", max(32, tokens // 2)
        raise RuntimeError(
            f"memory ran out while '{job}' was trained. A batch of task '{task}' has up to {tokens:,} tokens "
            f"({section}.batch_size={train.batch_size}, sequences of up to {longest} tokens, {section}.token_budget="
            f"{budget}). Lower {section}.token_budget, for example to {half}, or model.max_length, or run fewer jobs "
            "at a time (runtime.workers); nothing that was finished is lost"
        ) from error


def largest_batch(train: TrainConfig, datas: Mapping[str, TaskData]) -> tuple[str, int, int]:
    """(task, its longest sequence, tokens of its largest batch, padding included)."""
    found: list[tuple[int, str, int]] = []
    for name, data in datas.items():
        longest = int(data.lengths.max())
        sequence_tokens = longest * (data.task.n_outputs if data.task.kind == "ranking" else 1)
        tokens = sequence_tokens * train.batch_size
        if train.token_budget is not None:  # an example over the budget has a batch of its own
            tokens = min(tokens, max(train.token_budget, sequence_tokens))
        found.append((tokens, name, longest))
    tokens, name, longest = max(found)
    return name, longest, tokens


def section_of(spec: Mapping[str, Any]) -> str:
    """The section of the config that a training job's batches come from (core/plan)."""
    return "finetune" if "task" in spec else "multitask" if "member" in spec else "distill"
