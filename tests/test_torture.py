"""Kill it, stop it, and it goes on: five kills of `make torture`'s forty, SIGTERM and Ctrl-C from outside."""

from __future__ import annotations

import json
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from benchmarks.torture.damages import damage_all
from benchmarks.torture.kills import LONG_ENOUGH, arguments, check, finish, survive
from benchmarks.torture.processes import kill, processes_of, start
from core.checksums import verify
from core.status import read_status
from core.store import Run

SEED = 3  # of the moments; `make torture` takes another one each time


def test_killed_at_random_and_at_chosen_points_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    survived = survive(
        tmp_path,
        5,
        seed=SEED,
        stages=("multitask", "finetune", "distill"),
        points=("in a checkpoint", "before run.json"),
    )
    assert len(survived.kills) == 5
    assert sum("(" in killed.how for killed in survived.kills) >= 1  # some of them by themselves
    assert survived.files > 80
    damaged = damage_all(Run(tmp_path / "undisturbed"))
    assert damaged.damages == 2 * survived.files


def until(child: BaseProcess, run: Run, word: str) -> None:
    """Waits for a line of the log with `word`."""
    deadline = time.monotonic() + LONG_ENOUGH
    while not (run.path / "log.jsonl").exists() or word not in (run.path / "log.jsonl").read_text(encoding="utf-8"):
        assert child.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "workers", "code", "word"),
    [(signal.SIGTERM, 2, 143, "SIGTERM"), (signal.SIGINT, 1, 130, "Ctrl-C")],
    ids=["SIGTERM, two workers", "Ctrl-C, one"],
)
def test_a_stop_from_outside_is_a_sentence_and_resumable(
    number: int, workers: int, code: int, word: str, tmp_path: Path
) -> None:
    run, said = Run(tmp_path / "run"), tmp_path / "said.txt"
    child = start(arguments(run, workers), said)
    try:
        until(child, run, '"stage": "multitask"')
        about = read_status(run)
        assert (about["state"], about["holder"]["pid"]) == ("running", child.pid)
        # A scheduler knows the process alone; Ctrl-C goes to all of the group.
        assert child.pid is not None
        kill(child, number=number) if number == signal.SIGINT else os.kill(child.pid, number)
        child.join(LONG_ENOUGH)
        assert child.exitcode == code
        deadline = time.monotonic() + LONG_ENOUGH
        while processes_of(child) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert processes_of(child) == []
    finally:
        if child.is_alive():
            kill(child)
    text = said.read_text(encoding="utf-8")
    assert "stopped; the same command goes on from the last checkpoint" in text
    assert "Traceback" not in text
    assert check(run) == "multitask"
    about = json.loads(json.dumps(read_status(run)))
    assert about["says"].startswith("stopped at multitask, ")
    assert about["says"].endswith(f"(by {word}); python -m core run --out {run.path} goes on")
    if number == signal.SIGINT:
        finish(run, said)
        assert verify(run).damaged == ()
