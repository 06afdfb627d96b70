"""Rows -> batches: near-equal lengths, one task a batch, reshuffled every epoch from named streams.

Batches are cut from windows of many shuffled batches, sorted by length inside a window: padding is nearly gone and the
order stays random (SPEED, "no padding"). All batches of all tasks are then shuffled together, so that tasks are mixed
in proportion to their size (PAPER, "Mini-batches").

The arrays live on the training device; a batch is one gather. `Batch` is all that encoder and heads know of the data,
so that a packed layout replaces `make_batch` and the encoder call alone.

Shapes: N examples, B examples of a batch, R = B sequences (B * C for ranking), T tokens, padded to the batch's
longest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.config import Config, TrainConfig
from core.device import stream
from core.store import Run
from core.tasks import Task
from core.tokens import Tokens, cached_tokens

# Batches a window: enough that sorting removes nearly all padding, few enough that an epoch's order stays random.
WINDOW_BATCHES = 32


class Batch(NamedTuple):
    """Token ids (R, T) with the masks that heads and encoder need. `mask_RT` is None when nothing is padded."""

    ids_BT: Tensor
    is_a_BT: Tensor
    is_b_BT: Tensor
    mask_BT: Tensor | None


class TaskData(NamedTuple):
    """One task's examples on the device. `gold` is (N,) int64 class index, -1 where unknown, or float32 value, NaN
    where unknown. `lengths` is (N,): tokens of an example, of its longest candidate for ranking (on the host)."""

    task: Task
    example_ids: np.ndarray
    splits: np.ndarray
    lengths: np.ndarray
    gold: Tensor
    ids: Tensor
    starts: Tensor
    sizes: Tensor
    b_starts: Tensor

    def rows(self, split: str) -> np.ndarray:
        return np.flatnonzero(self.splits == split)


def load_task_data(
    run: Run, config: Config, encoder: str, task: Task, *, prepare_key: str, device: torch.device
) -> TaskData:
    """A prepared task with the tokens of `encoder`'s tokenizer, on `device`."""
    table = run.read_examples(task.name)
    tokens = cached_tokens(run, config, encoder, task, prepare_key=prepare_key)
    if task.kind == "regression":
        gold = torch.from_numpy(table["gold_value"].to_numpy().astype(np.float32))
    else:
        index = {label: i for i, label in enumerate(task.labels)}
        gold = torch.tensor([index.get(label, -1) for label in table["gold_label"].to_pylist()])
    example_ids = table["example_id"].to_numpy(zero_copy_only=False)
    splits = table["split"].to_numpy(zero_copy_only=False)
    return on_device(task, tokens, example_ids, splits, gold, device)


def on_device(
    task: Task, tokens: Tokens, example_ids: np.ndarray, splits: np.ndarray, gold: Tensor, device: torch.device
) -> TaskData:
    sizes = np.diff(tokens.offsets)
    lengths = sizes.reshape(-1, task.n_outputs).max(axis=1) if task.kind == "ranking" else sizes
    return TaskData(
        task=task,
        example_ids=example_ids,
        splits=splits,
        lengths=lengths,
        gold=gold.to(device),
        ids=torch.from_numpy(tokens.ids).to(device),
        starts=torch.from_numpy(tokens.offsets[:-1]).to(device),
        sizes=torch.from_numpy(sizes).to(device),
        b_starts=torch.from_numpy(tokens.b_starts).to(device),
    )


def make_batch(data: TaskData, rows: np.ndarray) -> Batch:
    """The sequences of `rows`, padded to the longest of them. Decides on the host whether anything is padded, so that
    the device never waits."""
    n_tokens = int(data.lengths[rows].max())
    sequences = torch.from_numpy(rows).to(data.ids.device, non_blocking=True)
    if data.task.kind == "ranking":
        candidates = torch.arange(data.task.n_outputs, device=sequences.device)
        sequences = (sequences[:, None] * data.task.n_outputs + candidates).reshape(-1)
        padded = True
    else:
        padded = int(data.lengths[rows].min()) < n_tokens
    position_T = torch.arange(n_tokens, device=data.ids.device)
    size_B1 = data.sizes[sequences, None]
    inside_BT = position_T < size_B1
    # Positions past a sequence's end read its last token and are then set to 0; the mask keeps them out of the
    # attention whatever they are.
    index_BT = data.starts[sequences, None] + torch.minimum(position_T, size_B1 - 1)
    ids_BT = data.ids[index_BT].long().masked_fill(~inside_BT, 0)
    in_a_BT = position_T < data.b_starts[sequences, None]
    return Batch(ids_BT, in_a_BT, inside_BT & ~in_a_BT, inside_BT if padded else None)


class Step(NamedTuple):
    task: str
    rows: np.ndarray


def epoch_steps(
    datas: Mapping[str, TaskData], train: TrainConfig, *, seed: int, names: tuple[str | int, ...], epoch: int
) -> list[Step]:
    """One epoch: every training row of every task once, in batches of one task, all tasks mixed.

    The order is a function of (seed, names, epoch) alone, so a resumed run finds its place by counting.
    """
    steps: list[Step] = []
    for name, data in datas.items():
        rng = stream(seed, *names, "rows", name, epoch)
        rows = data.rows("train")
        rows = rows[rng.permutation(len(rows))]
        window = WINDOW_BATCHES * train.batch_size
        for start in range(0, len(rows), window):
            in_window = rows[start : start + window]
            in_window = in_window[np.argsort(data.lengths[in_window], kind="stable")]
            for batch in cut(data, in_window, batch_size=train.batch_size, token_budget=train.token_budget):
                steps.append(Step(name, batch))
    order = stream(seed, *names, "order", epoch).permutation(len(steps))
    return [steps[i] for i in order]


def cut(data: TaskData, rows: np.ndarray, *, batch_size: int, token_budget: int | None) -> list[np.ndarray]:
    """Cuts `rows`, sorted by length, into batches of at most `batch_size` examples and, with a budget, at most
    `token_budget` tokens, padding included. An example over the budget gets a batch of its own."""
    if token_budget is None:
        return [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    per_example = data.task.n_outputs if data.task.kind == "ranking" else 1
    batches, start = [], 0
    while start < len(rows):
        stop = start + 1
        while (
            stop < len(rows)
            and stop - start < batch_size
            and (stop + 1 - start) * per_example * data.lengths[rows[stop]] <= token_budget
        ):
            stop += 1
        batches.append(rows[start:stop])
        start = stop
    return batches
