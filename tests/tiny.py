"""Tiny tasks, data and models for tests of the torch half: random numbers in memory, no files and no network.

Importing this also holds torch to one thread: the tests then give the same numbers on every machine with the same
torch, and do not fight over cores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.batching import Batch, TaskData, make_batch, on_device
from core.device import Device
from core.model import MultiTaskModel, make_model
from core.store import Run
from core.tasks import Task
from core.tokens import Tokens, load_tokenizer, make_tokenizer

torch.set_num_threads(1)

CPU = Device(torch.device("cpu"), torch.float32, "as the tests need it")
SPEC = "random:bert(layers=2,hidden=32,heads=2)"
HEADS: dict[str, Any] = {"head_dropout": 0.1, "san_steps": 2, "san_step_dropout": 0.1}
NO_HEAD_DROPOUT: dict[str, Any] = {"head_dropout": 0.0, "san_steps": 2, "san_step_dropout": 0.0}

# One task for each head.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(name="topic", labels=("a", "b", "c")),
        Task(name="pair", head="san", labels=("no", "maybe", "yes"), text_b="text_b"),
        Task(name="order", kind="ranking", head="ranking", labels=("1", "2", "3"), candidates="candidates"),
        Task(name="score", kind="regression", head="similarity", metrics=("pearson",), text_b="text_b"),
    )
}


class Vocabulary:
    """What a model needs to know of a tokenizer: its size and padding id."""

    pad_token_id = 0

    def __len__(self) -> int:
        return 40


def random_data(
    task: Task, n: int, *, seed: int = 0, shortest: int = 4, longest: int = 12, dev: int = 0, name: str | None = None
) -> TaskData:
    """`n` training examples and then `dev` development ones of random tokens. The gold is there to be learnt: token 1,
    the first after [CLS], modulo the number of classes (for ranking, of the first candidate)."""
    rng = np.random.default_rng(seed)
    per_example = task.n_outputs if task.kind == "ranking" else 1
    lengths = rng.integers(shortest, longest + 1, (n + dev) * per_example)
    ids = rng.integers(5, len(Vocabulary()), lengths.sum()).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids[offsets[:-1]] = 2  # [CLS]
    # At least [CLS] and one token before the second text, and one token in it.
    b_starts = rng.integers(2, lengths) if task.is_pair or task.kind == "ranking" else lengths
    first = ids[offsets[:-1:per_example] + 1]
    gold = torch.from_numpy(first % task.n_outputs if task.kind != "regression" else (first % 5).astype(np.float32))
    splits = np.array(["train"] * n + ["dev"] * dev, dtype=object)
    example_ids = np.array([f"{name or task.name}/{split}/{i:07d}" for i, split in enumerate(splits)], dtype=object)
    tokens = Tokens(ids, offsets, b_starts.astype(np.int32))
    return on_device(task, tokens, example_ids, splits, gold if task.kind == "regression" else gold.long(), CPU.device)


def batch_of(sequences: list[list[int]], b_starts: list[int] | None = None) -> Batch:
    """These token ids; second texts, where there are any, start at `b_starts`."""
    lengths = [len(ids) for ids in sequences]
    tokens = Tokens(
        np.concatenate([np.asarray(ids, np.int32) for ids in sequences]),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.asarray(lengths if b_starts is None else b_starts, np.int32),
    )
    names = np.arange(len(sequences)).astype(str)
    data = on_device(TASKS["topic"], tokens, names, names, torch.zeros(len(sequences)).long(), CPU.device)
    return make_batch(data, np.arange(len(sequences)))


def tiny_model(
    tasks: dict[str, Task] | None = None, *, spec: str = SPEC, dropout: float = 0.1, seed: int = 0, **heads: Any
) -> MultiTaskModel:
    """A fresh model; `heads` replaces single entries of `HEADS`."""
    torch.manual_seed(seed)
    settings = {**HEADS, **heads}
    return make_model(spec, TASKS if tasks is None else tasks, tokenizer=Vocabulary(), dropout=dropout,
                      head_settings=settings)  # fmt: skip


def word_tokenizer(folder: Path, texts: list[str]) -> Any:
    """A `word` tokenizer of `texts`, stored under `folder`."""
    return load_tokenizer(make_tokenizer(Run(folder), "word", texts))
