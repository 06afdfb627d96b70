"""The parts of a batch, what does not go with several processes, and what is said when one is lost, without a launch;
tests/test_parallel.py has those.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from conftest import tiny

from core.config import resolve_tasks
from core.device import resolve_device
from core.parallel import own_device, parts_of
from core.plan import Job, make_jobs
from core.ranks import ALONE, LAUNCHER_OPTIONS, Ranks, _refuse_options, follow, joined, losses_named, sharing
from core.sections import RuntimeConfig, TrainConfig


# ---- shares ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n_rows", [1, 2, 3, 7, 32])
@pytest.mark.parametrize(("size", "accumulate"), [(1, 1), (1, 3), (2, 1), (2, 3), (4, 2), (8, 64)])
def test_every_row_is_somebodys_and_all_have_equally_many_parts(n_rows: int, size: int, accumulate: int) -> None:
    rows = np.arange(100, 100 + n_rows)
    each = [parts_of(rows, ranks=Ranks(rank, size), accumulate=accumulate) for rank in range(size)]
    assert len({len(parts) for parts in each}) == 1
    assert 1 <= len(each[0]) <= accumulate
    parts = [part for of_rank in each for part in of_rank]
    assert sorted(np.concatenate([part.places for part in parts])) == list(range(n_rows))
    assert sum(part.share for part in parts) == pytest.approx(1.0)
    for part in parts:
        assert len(part.rows) >= 1
        if part.share:
            assert (rows[part.places] == part.rows).all()
    if (size, accumulate) == (1, 1):
        assert [part.share for part in parts] == [1.0]  # so that one process computes as it did before there were parts


# ---- refused, and said ----------------------------------------------------------------------------------------------
def test_what_does_not_go_with_the_processes_is_refused() -> None:
    pair = Ranks(0, 2)
    for ranks, runtime, says in (
        (pair, RuntimeConfig(workers=2), "runtime.workers is 2, but a launcher started 2 processes"),
        (pair, RuntimeConfig(compile=True), "runtime.compile is for small models on one GPU, but a launcher started 2"),
        (
            ALONE,
            RuntimeConfig(shard=True),
            "runtime.shard splits weights and optimiser over the processes",
        ),
    ):
        with pytest.raises(ValueError, match=says) as refused:
            sharing(ranks, runtime)
        assert re.search(r"set runtime\.\w+=", str(refused.value))
    with pytest.raises(ValueError, match="--engine ray runs jobs side by side, and a launcher started 2 processes"):
        sharing(pair, RuntimeConfig(), with_ray=True)
    assert sharing(pair, RuntimeConfig(workers=1, shard=True)).shard
    assert sharing(ALONE, RuntimeConfig(workers=3)) == ALONE
    cpu = resolve_device("cpu", "float32", hidden=0)
    assert own_device(cpu, pair) == cpu
    for name, says in (
        ("cuda:1", "is 'cuda:1', but 2 processes train together"),
        ("cuda", "has 0 GPUs, and the launch"),
    ):
        with pytest.raises(ValueError, match=says):
            own_device(cpu._replace(device=torch.device(name)), pair)
    assert own_device(cpu._replace(device=torch.device("cuda:1")), ALONE).device.index == 1


@pytest.mark.parametrize("name", LAUNCHER_OPTIONS)
def test_options_of_the_launcher_that_do_nothing_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    harmless, option, ours = LAUNCHER_OPTIONS[name]
    monkeypatch.setenv(name, harmless)
    _refuse_options(0)
    monkeypatch.setenv(name, "fp16")
    with pytest.raises(ValueError, match=rf"accelerate launch has {option} .* use --set {ours}"):
        _refuse_options(0)
    _refuse_options(1)  # the first one says it


def test_a_launcher_that_starts_one_process_for_many_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    with joined() as ranks:
        assert ranks == ALONE
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ValueError, match="--cpu starts one process, however many it is asked for"), joined():
        pass


def test_a_lost_process_is_a_sentence_and_other_errors_keep_theirs() -> None:
    pair = Ranks(0, 2)
    with pytest.raises(RuntimeError, match="another of the 2 processes of this run has ended"), losses_named(pair):
        raise RuntimeError("[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1950")
    with pytest.raises(RuntimeError, match="mat1 and mat2"), losses_named(pair):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_the_others_end_with_the_first_and_name_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception, *, ranks: Ranks) -> None:
        raise error

    for error, expected in (
        (FloatingPointError("the loss"), SystemExit),
        (RuntimeError("gloo/transport"), SystemExit),
        (ValueError("no such file"), RuntimeError),
    ):
        monkeypatch.setattr(Ranks, "agreed", lambda self, value=None, error=error: (fail, (error,)))
        with pytest.raises(expected) as ended:
            follow(Ranks(1, 2))
        assert str(ended.value) == ("1" if expected is SystemExit else "process 1 of 2: no such file")


def test_a_process_that_sees_another_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranks, "agreed", lambda self, value=None: (1, 25))
    Ranks(1, 2).same((1, 25), what="epoch and step")
    with pytest.raises(
        ValueError, match=r"process 1 of 2 has \(0, 0\) for epoch and step, the first one has \(1, 25\); a"
    ):
        Ranks(1, 2).same((0, 0), what="epoch and step")


def test_parts_and_processes_leave_the_keys_of_older_runs_alone() -> None:
    def jobs(*overrides: str) -> dict[str, Job]:
        config = tiny(*overrides)
        return make_jobs(config, resolve_tasks(config), source_digest="", chosen=["mt-1"])

    plain = jobs()
    # A field that has no value (`token_budget`) is in the keys as it always was.
    assert plain["ft-1-nli"].spec["train"].keys() == TrainConfig.model_fields.keys() - {"accumulate"}
    assert jobs("multitask.accumulate=1", "runtime.shard=true") == plain
    finetune, multitask = jobs("finetune.accumulate=2"), jobs("multitask.accumulate=2")
    assert (finetune["mt-1"].key, multitask["st-hard-s0"].key) == (plain["mt-1"].key, plain["st-hard-s0"].key)
    assert finetune["ft-1-nli"].key != plain["ft-1-nli"].key
    assert multitask["mt-1"].key != plain["mt-1"].key
