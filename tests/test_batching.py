"""Batches: every row once, one task a batch, little padding, an order that is a function of seed, names and epoch; and
the same data with other rows. How tasks share an epoch is in test_sampling."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from tiny import CPU, TASKS, random_data

from core.batching import (
    WINDOW_BATCHES,
    Batch,
    Step,
    TaskData,
    bootstrap,
    cut,
    epoch_steps,
    load_task_data,
    make_batch,
    on_device,
    subset,
    without,
)
from core.config import Config
from core.sections import TrainConfig
from core.store import Run
from core.tasks import example_schema
from core.tokens import Tokens, make_tokenizer

TRAIN = TrainConfig(batch_size=8)
NAMES = ("multitask", "mt-1")


def datas(n: int = 300) -> dict[str, TaskData]:
    """Four tasks of different sizes, each with development rows that no epoch may hold."""
    return {
        name: random_data(task, n + 50 * i, seed=i, longest=40, dev=20) for i, (name, task) in enumerate(TASKS.items())
    }


def steps_of(data: dict[str, TaskData], *, epoch: int = 0, seed: int = 0, train: TrainConfig = TRAIN) -> list[Step]:
    return epoch_steps(data, train, seed=seed, names=NAMES, epoch=epoch)


def rows_of(steps: list[Step], task: str) -> list[list[int]]:
    return [step.rows.tolist() for step in steps if step.task == task]


# ---- an epoch ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("budget", [None, 200])
def test_every_training_row_of_every_task_comes_exactly_once_an_epoch(budget: int | None) -> None:
    data = datas()
    train = TrainConfig(batch_size=8, token_budget=budget)
    for epoch in range(2):
        steps = steps_of(data, epoch=epoch, train=train)
        for name, one in data.items():
            rows = sorted(row for batch in rows_of(steps, name) for row in batch)
            assert rows == one.rows("train").tolist()
            assert len(rows) < len(one.splits)  # there are rows to leave out


def test_the_tasks_are_mixed_in_proportion_to_their_size() -> None:
    steps = steps_of(datas(900))
    order = [step.task for step in steps]
    assert all(len(step.rows) <= 8 for step in steps)
    half = len(steps) // 2
    for name in TASKS:
        share = order[:half].count(name) / order.count(name)
        # Hypergeometric: some 115 batches of a task among 480, a standard error of 0.04.
        assert abs(share - 0.5) < 0.16, name


def test_the_order_is_a_function_of_seed_names_and_epoch() -> None:
    data = datas()

    def flat(steps: list[Step]) -> list[tuple[str, tuple[int, ...]]]:
        return [(step.task, tuple(step.rows.tolist())) for step in steps]

    first = flat(steps_of(data))
    assert flat(steps_of(data)) == first
    others = [
        flat(steps_of(data, epoch=1)),
        flat(steps_of(data, seed=1)),
        flat(epoch_steps(data, TRAIN, seed=0, names=("multitask", "mt-2"), epoch=0)),
    ]
    for other in others:
        assert other != first
        assert {rows for _, rows in other} != {rows for _, rows in first}  # not the same batches in another order
        assert [task for task, _ in other] != [task for task, _ in first]  # not other batches at the same places


def test_another_task_does_not_change_a_tasks_own_batches() -> None:
    """Which rows a batch has; when it comes in the epoch is drawn for all batches together."""
    data = datas()
    alone = {name: data[name] for name in list(TASKS)[:2]}
    extra = random_data(replace(TASKS["topic"], name="extra"), 100, seed=9)
    more = {"extra": extra, **alone}
    for name in alone:
        assert sorted(rows_of(steps_of(alone), name)) == sorted(rows_of(steps_of(more), name))


def test_tasks_of_one_size_are_not_in_step() -> None:
    one = random_data(TASKS["topic"], 100)
    steps = steps_of({"a": one, "b": one})
    assert sorted(rows_of(steps, "a")) != sorted(rows_of(steps, "b"))


def test_batches_do_not_come_in_the_order_of_their_length() -> None:
    """Sorting inside a window must not become a curriculum."""
    data = {"topic": random_data(TASKS["topic"], 2000, longest=60)}
    means = [data["topic"].lengths[step.rows].mean() for step in steps_of(data)]
    correlation = np.corrcoef(means, np.arange(len(means)))[0, 1]
    assert len(means) == 250
    assert abs(correlation) < 4 / len(means) ** 0.5  # four standard errors
    assert np.std(means) > 10  # batches are of one length each, so they differ from one another


# ---- padding -------------------------------------------------------------------------------------------------------
def padding_share(data: TaskData, batches: list[np.ndarray]) -> float:
    padded = sum(len(rows) * int(data.lengths[rows].max()) for rows in batches)
    return 1 - sum(int(data.lengths[rows].sum()) for rows in batches) / padded


def skewed(n: int = 4000) -> TaskData:
    """Lengths as in GLUE: many short texts, few long ones."""
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(3, 0.6, n)), 4, 128).astype(int)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = Tokens(np.full(offsets[-1], 7, np.int32), offsets, lengths.astype(np.int32))
    splits = np.array(["train"] * n, dtype=object)
    return on_device(TASKS["topic"], tokens, np.arange(n).astype(str), splits, torch.zeros(n).long(), CPU.device)


def test_padding_is_nearly_gone() -> None:
    data = skewed()
    train = TrainConfig(batch_size=32)
    assert len(data.lengths) > 2 * WINDOW_BATCHES * 32  # several windows
    ours = padding_share(data, [step.rows for step in steps_of({"topic": data}, train=train)])
    shuffled = np.random.default_rng(1).permutation(4000)
    random = padding_share(data, [shuffled[i : i + 32] for i in range(0, 4000, 32)])
    # Measured: 8.9 % (most of it in the longest batch of each of four windows) against 67 %.
    assert random > 0.5
    assert ours < random / 5


def test_batches_are_full_but_for_the_last_of_a_window() -> None:
    data = random_data(TASKS["topic"], 3 * WINDOW_BATCHES * 8 + 13)
    sizes = sorted(len(step.rows) for step in steps_of({"topic": data}))
    assert sizes == [5, 8] + [8] * (3 * WINDOW_BATCHES)


@pytest.mark.parametrize("name", ["topic", "order"])
@pytest.mark.parametrize("budget", [32, 100, 1000])
def test_the_token_budget_holds_and_is_used(name: str, budget: int) -> None:
    data = random_data(TASKS[name], 200, longest=40)
    per_example = 3 if name == "order" else 1
    rows = np.argsort(data.lengths, kind="stable")
    batches = cut(data, rows, batch_size=16, token_budget=budget)
    assert np.concatenate(batches).tolist() == rows.tolist()
    for batch, following in pairwise(batches):
        tokens = len(batch) * per_example * data.lengths[batch].max()
        assert tokens <= budget or len(batch) == 1  # an example over the budget comes alone
        # One more example would not have fitted.
        assert len(batch) == 16 or (len(batch) + 1) * per_example * data.lengths[following[0]] > budget
    sizes = {len(batch) for batch in batches}
    # Each reason to end a batch occurs: an example over the budget, the budget, and at the widest the batch size.
    if (name, budget) == ("order", 32):
        assert sizes == {1}
    elif (name, budget) == ("topic", 1000):
        assert sizes == {8, 16}
    else:
        assert len(sizes) > 2


# ---- a batch -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TASKS)
def test_a_batch_is_the_naive_construction(name: str) -> None:
    data = random_data(TASKS[name], 40, seed=3)
    rows = np.array([17, 3, 39, 0, 21])
    batch = make_batch(data, rows)
    per_example = 3 if name == "order" else 1
    sequences = [row * per_example + c for row in rows.tolist() for c in range(per_example)]
    by_length = sorted(sequences, key=lambda sequence: int(data.sizes[sequence]))  # stable
    ids, positions, is_b, bounds = [], [], [], [0]
    for sequence in by_length:
        start, size, b_start = (int(x[sequence]) for x in (data.starts, data.sizes, data.b_starts))
        ids += data.ids[start : start + size].tolist()
        positions += range(size)
        is_b += [i >= b_start for i in range(size)]
        bounds.append(bounds[-1] + size)
    assert (batch.ids_T.tolist(), batch.positions_T.tolist()) == (ids, positions)
    assert (batch.is_b_T.tolist(), batch.bounds.tolist()) == (is_b, bounds)
    assert any(is_b) == (name != "topic")
    assert batch.first_B.tolist() == bounds[:-1]
    sizes = np.diff(bounds)
    assert batch.is_even == (len(set(sizes)) == 1)
    assert batch.longest == (sizes[-1] if batch.is_even else -(-sizes[-1] // 8) * 8)
    assert batch.rank_B is not None  # these rows do not come by length
    assert [by_length[rank] for rank in batch.rank_B.tolist()] == sequences
    assert batch.in_order(torch.tensor(by_length)).tolist() == sequences
    assert (batch.ids_T.dtype, batch.is_b_T.dtype, batch.bounds.dtype) == (torch.int64, torch.bool, torch.int32)


def test_padding_and_packing_undo_each_other() -> None:
    data = random_data(TASKS["pair"], 20, longest=9)
    batch = make_batch(data, data.rows("train"))
    n, longest = batch.shape
    assert (n, longest) == (20, 16)  # 9 tokens at the most, rounded up to a multiple of 8
    assert data.lengths.max() == 9
    ids_BL, sizes = batch.padded(batch.ids_T), np.sort(data.lengths)
    for i, size in enumerate(sizes.tolist()):
        start = int(batch.bounds[i])
        assert ids_BL[i].tolist() == batch.ids_T[start : start + size].tolist() + [0] * (longest - size)
        assert batch.inside_BL[i].tolist() == [True] * size + [False] * (longest - size)
    assert torch.equal(batch.packed(ids_BL), batch.ids_T)
    states_TH = torch.randn(len(batch.ids_T), 3)
    assert torch.equal(batch.packed(batch.padded(states_TH)), states_TH)


def test_sequences_of_one_length_are_a_view_in_place() -> None:
    data = random_data(TASKS["pair"], 60)
    order = np.argsort(data.lengths, kind="stable")
    equal = order[data.lengths[order] == 7]
    assert len(equal) > 1
    batch = make_batch(data, equal)
    assert batch.is_even
    assert batch.shape == (len(equal), 7)
    assert batch.rank_B is None
    assert batch.padded(batch.ids_T).data_ptr() == batch.ids_T.data_ptr()
    assert make_batch(data, order).rank_B is None  # by length already


def test_a_ranking_batch_has_each_candidates_own_length() -> None:
    data = random_data(TASKS["order"], 30)
    sizes = data.sizes.reshape(30, 3)
    assert data.lengths.tolist() == sizes.max(1).tolist()
    assert (sizes.min(1) < sizes.max(1)).any()
    batch = make_batch(data, np.array([4]))
    assert np.diff(batch.bounds).tolist() == sorted(sizes[4].tolist())


# ---- the same data, other rows -------------------------------------------------------------------------------------
def assert_equal(batch: Batch, expected: Batch) -> None:
    for got, want in zip(batch, expected, strict=True):
        assert torch.equal(got, want) if isinstance(got, torch.Tensor) else got == want


def assert_is(data: TaskData, original: TaskData, rows: np.ndarray) -> None:
    """`data` is `original` at `rows`: every field of an example, and the batches made of it, whole and in part."""
    assert data.task is original.task
    assert data.ids is original.ids  # shared, not copied
    for got, want in ((data.example_ids, original.example_ids), (data.splits, original.splits)):
        assert got.tolist() == want[rows].tolist()
    assert data.lengths.tolist() == original.lengths[rows].tolist()
    assert torch.equal(data.gold, original.gold[torch.from_numpy(rows)])
    for batch in (np.arange(len(rows)), np.array([len(rows) - 1, 0, 1])):
        assert_equal(make_batch(data, batch), make_batch(original, rows[batch]))


@pytest.mark.parametrize("name", TASKS)
def test_a_subset_makes_the_batches_of_the_original_rows(name: str) -> None:
    data = random_data(TASKS[name], 30, seed=5, dev=10)
    rows = np.array([35, 3, 3, 17, 0, 39, 3])  # no order, repeats, both splits
    part = subset(data, rows)
    assert_is(part, data, rows)
    assert part.rows("train").tolist() == [1, 2, 3, 4, 6]
    assert_is(subset(part, np.array([6, 0])), data, rows[[6, 0]])  # of a subset


@pytest.mark.parametrize("name", TASKS)
def test_without_drops_the_held_out_rows(name: str) -> None:
    data = random_data(TASKS[name], 30, seed=5, dev=10)
    held_out = np.isin(np.arange(40), [0, 7, 8, 29, 33])
    rest = without(data, held_out)
    assert len(rest.splits) == 35
    assert_is(rest, data, np.setdiff1d(np.arange(40), [0, 7, 8, 29, 33]))
    with pytest.raises(AssertionError):
        without(data, np.array([0, 7, 8]))


@pytest.mark.parametrize("name", TASKS)
def test_a_bootstrap_draws_training_rows_and_keeps_the_others(name: str) -> None:
    data = random_data(TASKS[name], 200, seed=5, dev=10)
    bag = bootstrap(data, share=0.8, rng=np.random.default_rng(1))
    row_of = {example: row for row, example in enumerate(data.example_ids)}
    rows = np.array([row_of[example] for example in bag.example_ids])
    assert_is(bag, data, rows)
    assert (np.diff(rows) >= 0).all()
    assert bag.rows("train").tolist() == list(range(160))
    assert bag.example_ids[bag.rows("dev")].tolist() == data.example_ids[200:].tolist()
    # 160 of 200 with replacement leave 200 * 0.995^160 = 90 out, with a standard deviation below 5.
    assert 90 < len(set(rows[:160].tolist())) < 130
    again, other = (bootstrap(data, share=0.8, rng=np.random.default_rng(seed)) for seed in (1, 2))
    assert again.example_ids.tolist() == bag.example_ids.tolist() != other.example_ids.tolist()


def test_a_bag_of_a_tiny_share_has_one_row() -> None:
    bag = bootstrap(random_data(TASKS["order"], 20, dev=3), share=0.001, rng=np.random.default_rng(0))
    assert bag.splits.tolist() == ["train", "dev", "dev", "dev"]
    assert make_batch(bag, bag.rows("train")).shape[0] == 3


def test_an_epoch_over_a_bag_has_each_repeat_once() -> None:
    bag = bootstrap(random_data(TASKS["order"], 50, dev=3), share=1.0, rng=np.random.default_rng(0))
    rows = np.concatenate([step.rows for step in steps_of({"order": bag})])
    assert sorted(rows.tolist()) == list(range(50))
    assert len(set(bag.example_ids[rows])) < 50


# ---- from a run ----------------------------------------------------------------------------------------------------
def test_loading_joins_gold_and_tokens_by_row(tmp_path: Path) -> None:
    config = Config.model_validate({"model": {"tokenizer": "word", "max_length": 16}})
    run, texts = Run(tmp_path), ["one", "one two", "one two three", "two"]
    make_tokenizer(run, "word", texts)
    gold = {"topic": ["c", None, "a", "b"], "score": [1.5, None, 0.0, 5.0]}
    for name, values in gold.items():
        schema = example_schema(TASKS[name])
        column = "gold_value" if name == "score" else "gold_label"
        rows = [
            dict.fromkeys(schema.names)
            | {"example_id": f"{name}/train/{i:07d}", "split": "dev" if i == 3 else "train", "text_a": text}
            | ({"text_b": text} if name == "score" else {})
            | {column: value}
            for i, (text, value) in enumerate(zip(texts, values, strict=True))
        ]
        run.write_examples(name, pa.Table.from_pylist(rows, schema))
        data = load_task_data(run, config, "random:bert()", TASKS[name], prepare_key="key", device=CPU.device)
        assert data.example_ids.tolist() == [row["example_id"] for row in rows]
        assert data.rows("train").tolist() == [0, 1, 2]
        assert data.rows("dev").tolist() == [3]
        assert data.rows("test").tolist() == []
        if name == "topic":
            assert data.gold.tolist() == [2, -1, 0, 1]
            assert data.lengths.tolist() == [3, 4, 5, 3]
        else:
            assert data.gold.dtype == torch.float32
            assert data.gold.isnan().tolist() == [False, True, False, False]
            assert data.gold[[0, 2, 3]].tolist() == [1.5, 0.0, 5.0]
            assert data.lengths.tolist() == [5, 7, 9, 5]
