"""Rows -> batches: near-equal lengths, one task a batch, reshuffled every epoch from named streams.

Batches are cut from windows of many shuffled batches, sorted by length inside a window: padding is nearly gone and the
order stays random (LOG.md, "Speed"). All batches of all tasks are then shuffled together: tasks are mixed in
proportion to their size (1901.11504), or as `train.sampling` has it.

A batch is *packed*: its sequences lie one after another, shortest first, and the encoder computes no padding
(core/encoder). What has to be rectangular (SAN's softmax over a sequence, the masks of replaced-token detection) is
padded for that moment alone, with `Batch.padded`. The arrays live on the training device; a batch is one gather.

Shapes: N examples, B sequences of a batch (C to an example for ranking), T tokens of all of them, L of the longest. In
`steps_a_task`, K tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import count, islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from core.config import Config
from core.device import stream
from core.sections import TrainConfig
from core.store import Run
from core.tasks import Task
from core.tokens import Tokens, cached_tokens

# Batches a window: enough that sorting removes nearly all padding, few enough that an epoch's order stays random.
WINDOW_BATCHES = 32
# Rectangles are rounded up to it: a CPU makes its 16-bit kernels anew for every shape that it has not seen (LOG.md,
# "Speed"), a GPU likes multiples of 8.
LENGTH_STEP = 8


class Batch(NamedTuple):
    """Packed sequences, by length. `positions_T` count from 0 in each sequence, `is_b_T` marks second texts,
    `bounds` (B + 1,) int32 is where each sequence starts, and the end. `longest` is L: that of the sequences where all
    have one length (`is_even`), else rounded up. `rank_B` is where the sequences that were asked for lie among the
    packed, None: in place.
    """

    ids_T: Tensor
    positions_T: Tensor
    is_b_T: Tensor
    bounds: Tensor
    place_T: Tensor  # in the padded (B * L,)
    longest: int
    is_even: bool
    rank_B: Tensor | None
    is_bucketed: bool = False  # has fillers, for repeating shapes (core/graphs)

    @property
    def first_B(self) -> Tensor:
        """Where each sequence's first token is."""
        return self.bounds[:-1]

    @property
    def shape(self) -> tuple[int, int]:
        """B and L."""
        return len(self.bounds) - 1, self.longest

    @property
    def inside_BL(self) -> Tensor:
        return self.padded(torch.ones_like(self.is_b_T))

    def padded(self, x_T: Tensor) -> Tensor:
        """(T, ...) -> (B, L, ...), zeros behind each sequence."""
        if not self.is_even:
            x_T = x_T.new_zeros(self.shape[0] * self.shape[1], *x_T.shape[1:]).index_copy(0, self.place_T, x_T)
        return x_T.view(*self.shape, *x_T.shape[1:])

    def packed(self, x_BL: Tensor) -> Tensor:
        """(B, L, ...) -> (T, ...), without what stands behind each sequence."""
        x_T = x_BL.flatten(0, 1)
        return x_T if self.is_even else x_T.index_select(0, self.place_T)

    def in_order(self, x_B: Tensor) -> Tensor:
        """One entry a sequence, from the packed order to that of the rows."""
        return x_B if self.rank_B is None else x_B.index_select(0, self.rank_B)


class TaskData(NamedTuple):
    """One task's examples on the device. `gold` is (N,) int64 class index, -1 where unknown, or float32 value, NaN
    where unknown. `lengths` is (N,): tokens of an example, of its longest candidate for ranking (on the host)."""

    task: Task
    example_ids: np.ndarray
    splits: np.ndarray
    lengths: np.ndarray
    sizes: np.ndarray
    gold: Tensor
    ids: Tensor
    starts: Tensor
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
        sizes=sizes,
        gold=gold.to(device),
        ids=torch.from_numpy(tokens.ids).to(device),
        starts=torch.from_numpy(tokens.offsets[:-1]).to(device),
        b_starts=torch.from_numpy(tokens.b_starts).to(device),
    )


# ---- the same data, other rows -------------------------------------------------------------------------------------
def subset(data: TaskData, rows: np.ndarray) -> TaskData:
    """These rows (any number, int64) only, in this order, repeats allowed. The tokens are shared, not copied."""
    sequences = _sequences(data, rows)
    index, sequence_index = (torch.from_numpy(x).to(data.gold.device) for x in (rows, sequences))
    return data._replace(
        example_ids=data.example_ids[rows],
        splits=data.splits[rows],
        lengths=data.lengths[rows],
        sizes=data.sizes[sequences],
        gold=data.gold[index],
        starts=data.starts[sequence_index],
        b_starts=data.b_starts[sequence_index],
    )


def without(data: TaskData, held_out: np.ndarray) -> TaskData:
    """All rows but those of the mask `held_out`, (N,) bool."""
    # An array of row numbers would be taken for a mask by `~`, and drop other rows.
    assert (held_out.dtype, held_out.shape) == (np.dtype(bool), data.splits.shape)
    return subset(data, np.flatnonzero(~held_out))


def bootstrap(data: TaskData, *, share: float, rng: np.random.Generator) -> TaskData:
    """Bagging (Breiman 1996): `share` of the training rows' number, drawn from them with replacement; all other rows
    once. In the order of `data`, so that a row's repeats are neighbours, with one example id."""
    train = data.rows("train")
    drawn = rng.choice(train, max(1, round(share * len(train))))
    return subset(data, np.sort(np.concatenate([drawn, np.flatnonzero(data.splits != "train")])))


# ---- a batch -------------------------------------------------------------------------------------------------------
def _sequences(data: TaskData, rows: np.ndarray) -> np.ndarray:
    """Which sequences the rows have, (B,). For ranking an example's candidates are neighbours."""
    if data.task.kind != "ranking":
        return rows
    return (rows[:, None] * data.task.n_outputs + np.arange(data.task.n_outputs)).reshape(-1)


def make_batch(data: TaskData, rows: np.ndarray) -> Batch:
    """The sequences of `rows`, packed. All that decides about shapes is on the host, so that the device never waits."""
    device = data.ids.device
    sequences = _sequences(data, rows)
    sizes = data.sizes[sequences]
    rank_B = None
    if (np.diff(sizes) < 0).any():
        order = np.argsort(sizes, kind="stable")
        rank_B = torch.from_numpy(np.argsort(order)).to(device, non_blocking=True)
        sequences, sizes = sequences[order], sizes[order]
    is_even = bool(sizes[0] == sizes[-1])
    longest = int(sizes[-1]) if is_even else -(-int(sizes[-1]) // LENGTH_STEP) * LENGTH_STEP
    n_tokens = int(sizes.sum())
    sequences_B, sizes_B = (torch.from_numpy(x).to(device, non_blocking=True) for x in (sequences, sizes))
    bounds = F.pad(sizes_B.cumsum(0), (1, 0))
    sequence_T = torch.repeat_interleave(sizes_B, output_size=n_tokens)
    positions_T = torch.arange(n_tokens, device=device) - bounds[sequence_T]
    ids_T = data.ids[data.starts[sequences_B][sequence_T] + positions_T].long()
    is_b_T = positions_T >= data.b_starts[sequences_B][sequence_T]
    place_T = sequence_T * longest + positions_T
    return Batch(ids_T, positions_T, is_b_T, bounds.int(), place_T, longest, is_even, rank_B)


# ---- an epoch ------------------------------------------------------------------------------------------------------
class Step(NamedTuple):
    task: str
    rows: np.ndarray


def epoch_steps(
    datas: Mapping[str, TaskData], train: TrainConfig, *, seed: int, names: tuple[str | int, ...], epoch: int
) -> list[Step]:
    """One epoch: batches of one task each, all tasks mixed, as many in all as one pass over every task has.

    With `proportional` sampling it is that pass: every training row of every task once. Otherwise `train.sampling`
    shares the same number of steps out; each task goes round its rows at its own pace, and an epoch takes up where
    the one before left off.

    The order is a function of the arguments alone, so a resumed run finds its place by counting.
    """

    @cache
    def one_pass(name: str, i: int) -> list[np.ndarray]:
        return _cut_pass(datas[name], train, stream(seed, *names, "rows", name, i))

    def endless(name: str) -> Iterator[np.ndarray]:
        for i in count():
            batches = one_pass(name, i)
            # A window's batches are cut from short to long: undrawn, half a pass would be its short examples.
            for turn in stream(seed, *names, "turns", name, i).permutation(len(batches)):
                yield batches[turn]

    if train.sampling == "proportional":
        batches = {name: one_pass(name, epoch) for name in datas}
    else:
        starts, stops = _places(one_pass, list(datas), train, epoch)
        batches = {name: list(islice(endless(name), starts[name], stops[name])) for name in datas}
    steps = [Step(name, rows) for name in datas for rows in batches[name]]
    order = stream(seed, *names, "order", epoch).permutation(len(steps))
    return [steps[i] for i in order]


def _cut_pass(data: TaskData, train: TrainConfig, rng: np.random.Generator) -> list[np.ndarray]:
    """Every training row once, shuffled, in batches of near-equal lengths."""
    rows = data.rows("train")
    rows = rows[rng.permutation(len(rows))]
    window = WINDOW_BATCHES * train.batch_size
    batches: list[np.ndarray] = []
    for start in range(0, len(rows), window):
        in_window = rows[start : start + window]
        in_window = in_window[np.argsort(data.lengths[in_window], kind="stable")]
        batches += cut(data, in_window, batch_size=train.batch_size, token_budget=train.token_budget)
    return batches


def _places(
    one_pass: Callable[[str, int], list[np.ndarray]], tasks: list[str], train: TrainConfig, epoch: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Where in each task's endless batches the epoch starts and stops: behind the steps of all epochs before it."""
    starts, stops = dict.fromkeys(tasks, 0), dict.fromkeys(tasks, 0)
    for e in range(epoch + 1):
        starts = dict(stops)
        # Counted anew for each epoch: with a token budget, the number of batches depends on the shuffle.
        n_batches = {task: len(one_pass(task, e)) for task in tasks}
        for task, n_steps in steps_a_task(n_batches, sampling_power(train, e)).items():
            stops[task] += n_steps
    return starts, stops


def sampling_power(train: TrainConfig, epoch: int) -> float:
    """p of a task's share ~ n^p. `annealed` goes from 1 to 0.2 (PALs, Stickland & Murray 2019, section 3.3): late in
    the training, small tasks are seen more."""
    if train.sampling == "annealed":
        return 1 - 0.8 * epoch / max(1, train.epochs - 1)
    return {"proportional": 1.0, "sqrt": 0.5, "temperature": 1 / train.sampling_temperature, "uniform": 0.0}[
        train.sampling
    ]


def steps_a_task(n_batches: Mapping[str, int], power: float) -> dict[str, int]:
    """Shares sum(n_batches) steps out in proportion to n_batches^power, by largest remainder, at least one a task.

    steps_a_task({"mnli": 90, "rte": 10}, 0.5) == {"mnli": 75, "rte": 25}
    """
    n_K = np.array(list(n_batches.values()))
    assert n_K.min() > 0, f"a task has no training rows: {dict(n_batches)}"
    # Relative to the largest, which keeps n^p finite for any p.
    weight_K = (n_K / n_K.max()) ** power
    # Rounded, so that a tie, which goes to the task named first, does not hang on the last bit of a power.
    quota_K = np.round(n_K.sum() * weight_K / weight_K.sum(), 9)
    steps_K = np.floor(quota_K).astype(np.int64)
    n_left = n_K.sum() - steps_K.sum()
    steps_K[np.argsort(steps_K - quota_K, kind="stable")[:n_left]] += 1
    # Only a power over 1 gets here: below, the smallest task's quota is 1 or more.
    for task in np.flatnonzero(steps_K == 0):
        steps_K[task] += 1
        steps_K[steps_K.argmax()] -= 1
    return dict(zip(n_batches, steps_K.tolist(), strict=True))


def cut(data: TaskData, rows: np.ndarray, *, batch_size: int, token_budget: int | None) -> list[np.ndarray]:
    """Cuts `rows`, sorted by length, into batches of at most `batch_size` examples and, with a budget, at most
    `token_budget` tokens, each counted as long as the longest. An example over the budget gets a batch of its own."""
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
