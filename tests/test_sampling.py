"""How tasks share an epoch: steps in proportion to size^p, rows that come round at each task's own pace, and a place in
them that a resumed run finds again. Proportional sampling is the paper's, and stays as it was to the bit."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CPU, NO_HEAD_DROPOUT, TASKS, random_data, tiny_model
from torch import Tensor

from core.batching import WINDOW_BATCHES, Step, TaskData, cut, epoch_steps, sampling_power, steps_a_task
from core.device import stream
from core.losses import hard
from core.sections import TrainConfig
from core.train import train_model

NAMES = ("multitask", "mt-1")
OTHER = ["sqrt", "temperature", "uniform", "annealed"]
Flat = list[tuple[str, tuple[int, ...]]]


def config(sampling: Any = "proportional", *, epochs: int = 5, budget: int | None = None, tau: float = 2.0) -> Any:
    return TrainConfig(
        epochs=epochs, batch_size=8, token_budget=budget, sampling=sampling, sampling_temperature=tau, lr=1e-3
    )


def datas(**sizes: int) -> dict[str, TaskData]:
    """Tasks of given sizes, each with development rows that no epoch may hold."""
    sizes = sizes or {"topic": 640, "pair": 200, "order": 90, "score": 41}
    return {name: random_data(TASKS[name], n, seed=n, longest=40, dev=20) for name, n in sizes.items()}


def steps_of(data: dict[str, TaskData], train: TrainConfig, *, epoch: int = 0, seed: int = 0) -> list[Step]:
    return epoch_steps(data, train, seed=seed, names=NAMES, epoch=epoch)


def flat(steps: list[Step]) -> Flat:
    return [(step.task, tuple(step.rows.tolist())) for step in steps]


def n_steps(steps: list[Step]) -> dict[str, int]:
    return dict(Counter(step.task for step in steps))


# ---- shares --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("n_batches", "power", "expected"),
    [
        ((90, 10), 1.0, (90, 10)),
        ((90, 10), 0.5, (75, 25)),  # 3 : 1
        ((90, 10), 0.0, (50, 50)),
        ((64, 8, 1), 1 / 3, (42, 21, 10)),  # 4 : 2 : 1 of 73, quotas 41.71, 20.86, 10.43
        ((64, 8, 1), 0.0, (25, 24, 24)),  # a tie goes to the first
        ((1, 64, 8), 0.0, (25, 24, 24)),
        ((9, 1), 0.5, (8, 2)),  # a tie of 7.5 and 2.5, whatever the last bit of a root is
        ((7,), 0.5, (7,)),
        ((1, 1, 1), 0.5, (1, 1, 1)),
        ((50, 1, 1), 4.0, (50, 1, 1)),  # quotas 52.0, 0.0, 0.0: at least one step
        ((12_000, 100), 1000.0, (12_099, 1)),  # 12000^1000 is no float
    ],
)
def test_steps_are_shared_out_by_largest_remainder(
    n_batches: tuple[int, ...], power: float, expected: tuple[int, ...]
) -> None:
    tasks = [f"t{i}" for i in range(len(n_batches))]
    assert steps_a_task(dict(zip(tasks, n_batches, strict=True)), power) == dict(zip(tasks, expected, strict=True))


def test_shares_sum_up_and_a_power_of_one_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        n_batches = {f"t{i}": int(n) for i, n in enumerate(np.exp(rng.uniform(0, 10, rng.integers(1, 12))) + 1)}
        assert steps_a_task(n_batches, 1.0) == n_batches
        for power in (0.0, 0.2, 0.5, 3.0):
            shared = steps_a_task(n_batches, power)
            assert sum(shared.values()) == sum(n_batches.values())
            assert min(shared.values()) >= 1
            if power < 1:
                quotas = np.array(list(n_batches.values()), float) ** power
                quotas *= sum(n_batches.values()) / quotas.sum()
                assert np.abs(np.array(list(shared.values())) - quotas).max() < 1  # never a whole step off


def test_powers_are_those_of_the_samplings() -> None:
    powers = {name: sampling_power(config(name, tau=4.0), 2) for name in ("proportional", *OTHER)}
    # Annealed: in the middle of five epochs, halfway from 1 to 0.2.
    assert powers == {"proportional": 1, "sqrt": 0.5, "temperature": 0.25, "uniform": 0, "annealed": 0.6}
    ends = [sampling_power(config("annealed", epochs=5), epoch) for epoch in range(5)]
    assert ends == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert sampling_power(config("annealed", epochs=1), 0) == 1


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        # 80, 25, 12 and 6 batches, 123 in all.
        ("proportional", {"topic": 80, "pair": 25, "order": 12, "score": 6}),
        # Roots 8.944, 5, 3.464, 2.449, in all 19.858; times 123 / 19.858: 55.40, 30.97, 21.46, 15.17.
        ("sqrt", {"topic": 55, "pair": 31, "order": 22, "score": 15}),
        ("uniform", {"topic": 31, "pair": 31, "order": 31, "score": 30}),
    ],
)
def test_an_epoch_has_the_shares_and_the_steps_of_a_proportional_one(sampling: str, expected: dict[str, int]) -> None:
    for epoch in (0, 3):
        assert n_steps(steps_of(datas(), config(sampling), epoch=epoch)) == expected
    assert sum(expected.values()) == 123


# ---- proportional is what it was -----------------------------------------------------------------------------------
def whole_passes(data: dict[str, TaskData], train: TrainConfig, epoch: int) -> Flat:
    """The epoch as it was before there was another sampling, written anew: pass i over all tasks is epoch i."""
    batches = []
    for name, one in data.items():
        rows = stream(0, *NAMES, "rows", name, epoch).permutation(one.rows("train"))
        for window in np.split(rows, range(WINDOW_BATCHES * train.batch_size, len(rows), 256)):
            by_length = np.array(sorted(window, key=lambda row: one.lengths[row]))
            batches += [(name, tuple(batch.tolist())) for batch in
                        cut(one, by_length, batch_size=train.batch_size, token_budget=train.token_budget)]  # fmt: skip
    return [batches[i] for i in stream(0, *NAMES, "order", epoch).permutation(len(batches))]


@pytest.mark.parametrize("budget", [None, 100])
def test_proportional_is_whole_passes_to_the_bit(budget: int | None) -> None:
    train, data = config(budget=budget), datas()
    counts = set()
    for epoch in range(4):
        steps = steps_of(data, train, epoch=epoch)
        assert flat(steps) == whole_passes(data, train, epoch)
        counts.add(tuple(sorted(n_steps(steps).items())))
    # With a budget, the number of batches depends on the shuffle: the case that makes passes and epochs hard to align.
    assert (len(counts) > 1) == (budget is not None)


@pytest.mark.parametrize("budget", [None, 100])
def test_annealed_starts_as_proportional_and_ends_near_uniform(budget: int | None) -> None:
    data, epochs = datas(), 4
    annealed = config("annealed", epochs=epochs, budget=budget)
    assert sorted(flat(steps_of(data, annealed))) == sorted(flat(steps_of(data, config(budget=budget))))
    counts = [n_steps(steps_of(data, annealed, epoch=epoch)) for epoch in range(epochs)]
    shares = [[count[name] / sum(count.values()) for count in counts] for name in data]
    largest, *_, smallest = shares  # `topic` and `score`, by batches too
    assert largest == sorted(largest, reverse=True)
    assert smallest == sorted(smallest)
    assert smallest[-1] > 1.5 * smallest[0]
    last = {name: len(steps) ** 0.2 for name, steps in by_task(steps_of(data, config(budget=budget), epoch=3)).items()}
    for name, share in zip(data, shares, strict=True):
        assert share[-1] == pytest.approx(last[name] / sum(last.values()), abs=1 / sum(counts[-1].values()))
    one = config("annealed", epochs=1)
    assert sorted(flat(steps_of(data, one))) == sorted(flat(steps_of(data, config())))


def by_task(steps: list[Step]) -> dict[str, list[Step]]:
    return {name: [step for step in steps if step.task == name] for name in {step.task for step in steps}}


# ---- every other sampling ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sampling", OTHER)
@pytest.mark.parametrize("budget", [None, 100])
def test_rows_come_round_before_any_comes_again(sampling: str, budget: int | None) -> None:
    """However many epochs have passed, rows of one task have been seen equally often, up to one."""
    data, train = datas(), config(sampling, epochs=6, budget=budget, tau=3.0)
    seen = {name: np.zeros(len(one.splits), int) for name, one in data.items()}
    some_unseen = some_twice = False
    for epoch in range(6):
        steps = steps_of(data, train, epoch=epoch)
        assert len(steps) == len(steps_of(data, config(budget=budget), epoch=epoch))
        before = {name: counts.copy() for name, counts in seen.items()}
        for name, rows in flat(steps):
            assert len(set(rows)) == len(rows)  # no batch goes over the end of a pass
            seen[name][list(rows)] += 1
        for name, one in data.items():
            train_seen = seen[name][one.rows("train")]
            assert train_seen.max() - train_seen.min() <= 1
            assert seen[name].sum() == train_seen.sum()  # no development row
            in_epoch = (seen[name] - before[name])[one.rows("train")]
            some_unseen |= in_epoch.min() == 0
            some_twice |= in_epoch.max() > 1
    assert some_unseen
    assert some_twice
    passes = {name: seen[name].max() for name in data}
    assert passes["score"] > 2 * passes["topic"]  # the small task came round more often


@pytest.mark.parametrize("sampling", OTHER)
def test_the_order_is_a_function_of_seed_names_and_epoch(sampling: str) -> None:
    data, train = datas(), config(sampling)
    first = flat(steps_of(data, train, epoch=2))
    assert flat(steps_of(data, train, epoch=2)) == first  # with no epoch before it asked for
    others = (
        steps_of(data, train, epoch=3),
        steps_of(data, train, epoch=2, seed=1),
        epoch_steps(data, train, seed=0, names=("multitask", "mt-2"), epoch=2),
    )
    for other in others:
        assert {rows for _, rows in flat(other)} != {rows for _, rows in first}
        assert [step.task for step in other] != [task for task, _ in first]


def test_part_of_a_pass_is_not_its_short_examples() -> None:
    """A window's batches are cut from short to long; an epoch that takes half of them must take any half."""
    data = {"topic": random_data(TASKS["topic"], 256, longest=60), "pair": random_data(TASKS["pair"], 8)}
    train = config("uniform")
    means = []
    for epoch in range(12):
        steps = [step for step in steps_of(data, train, epoch=epoch) if step.task == "topic"]
        assert len(steps) == 17  # of the 32 of a pass, all in one window
        means.append(np.mean([data["topic"].lengths[step.rows].mean() for step in steps]))
    # Lengths are even from 4 to 60. A mean of 17 batches of 32 without replacement has a standard error below 3; the
    # short half would have a mean of 18, the long one of 46.
    assert all(abs(mean - 32) < 9 for mean in means)


@pytest.mark.parametrize("name", ["topic", "order"])
def test_token_budgets_hold_out_of_proportion(name: str) -> None:
    data = datas(**{name: 300, "score": 40})
    per_example = 3 if name == "order" else 1
    steps = [step for step in steps_of(data, config("uniform", budget=150), epoch=1) if step.task == name]
    tokens = [len(step.rows) * per_example * data[name].lengths[step.rows].max() for step in steps]
    assert max(tokens) <= 150
    assert max(tokens) > 120  # and are used


@pytest.mark.parametrize("sampling", OTHER)
@pytest.mark.parametrize("budget", [None, 100])
def test_one_task_has_whole_passes_whatever_the_sampling(sampling: str, budget: int | None) -> None:
    data = datas(topic=300)
    for epoch in range(3):
        rows = [rows for _, rows in flat(steps_of(data, config(sampling, budget=budget), epoch=epoch))]
        whole = [rows for _, rows in flat(steps_of(data, config(budget=budget), epoch=epoch))]
        assert sorted(rows) == sorted(whole)


# ---- in a training -------------------------------------------------------------------------------------------------
def test_dynamics_are_nan_where_a_row_was_not_seen_and_hold_the_last_logits(tmp_path) -> None:
    data = datas(topic=96, pair=20)
    train = TrainConfig(epochs=2, batch_size=8, lr=1e-3, sampling="uniform", eval_every_epochs=0)
    given: dict[tuple[str, int, int], list[np.ndarray]] = {}

    def loss(task: str, logits: Tensor, rows: np.ndarray, progress: float) -> Tensor:
        for row, values in zip(rows.tolist(), logits.detach().numpy(), strict=True):
            given.setdefault((task, int(progress * 2), row), []).append(values.copy())
        return hard(logits, data[task].gold[torch.from_numpy(rows)])

    dynamics, _ = train_model(
        tiny_model({name: TASKS[name] for name in data}, **NO_HEAD_DROPOUT), data, loss, train=train, seed=0,
        names=NAMES, device=CPU, report=lambda *_: None, evaluate=dict, checkpoint=tmp_path / "c.safetensors",
        checkpoint_seconds=1e9,
    )  # fmt: skip
    times = Counter(len(seen) for seen in given.values())
    for (task, epoch, row), seen in given.items():
        assert np.array_equal(dynamics[task][epoch, row], seen[-1])
    n_nan = sum(int(np.isnan(outputs_ENC).all(-1).sum()) for outputs_ENC in dynamics.values())
    assert n_nan == 2 * (96 + 20) - len(given) > 0
    # 15 steps an epoch, 8 and 7: a pass over `pair` is 3 batches, so its rows come two or three times.
    assert set(times) == {1, 2, 3}
