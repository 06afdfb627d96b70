"""A run that is killed at any moment ends in the same bytes as one that is left alone, and leaves nobody behind.

One run is killed in the middle of a member and a teacher (SIGKILL to its whole process group) and of a student (to the
parent alone, which leaves its workers orphans); then it is brought to its end and compared with an undisturbed one.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from conftest import LONG, changed, go, log_lines, results, steps_of, tiny

from core.ranks import WATCH_EVERY_SECONDS
from core.stages import training
from core.store import Run

# The second cycle starts from the weights of the first.
CHAIN = ("data.tasks=[nli]", "multitask.pool=[{snapshots: 2}]", "multitask.batch_size=2", "select.top_k=1")
LONG_ENOUGH = 120.0  # seconds until a hang is called a hang; nothing here takes 20

# Processes are forked from a server that has imported torch once, which is most of the time of a process this short.
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["core.stages", "core.pipeline", "conftest"])


def start(run: Run, *overrides: str, **options: Any) -> BaseProcess:
    """A run in a process, a group and a session of its own."""
    child = FORK.Process(target=_run_alone, args=(str(run.path), overrides, options))
    child.start()
    return child


def _run_alone(path: str, overrides: tuple[str, ...], options: dict[str, Any]) -> None:
    os.setsid()
    go(Run(path), tiny(*LONG, *overrides), **options)


def wait_for(run: Run, child: BaseProcess, job: str) -> None:
    """Until `job` is in the middle: it has reported twice and has a checkpoint."""
    started = time.monotonic()
    while time.monotonic() - started < LONG_ENOUGH:
        assert child.is_alive(), f"the run ended before '{job}' could be killed"
        if (run.path / "log.jsonl").exists():
            whole = (run.path / "log.jsonl").read_text(encoding="utf-8").rpartition("\n")[0]
            lines = [json.loads(line) for line in whole.splitlines()]
            looks = [line for line in lines if line.get("job") == job and "loss" in line]
            if len(looks) >= 2 and list(run.model_dir(job).glob("checkpoint-*.safetensors")):
                return
        time.sleep(0.01)
    raise AssertionError(f"'{job}' did not start in {LONG_ENOUGH} s")


def processes_of(child: BaseProcess) -> list[int]:
    """Living processes of the child's session: itself and all that it started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # "pid (name) state parent group session ..."; a name may have spaces.
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except (OSError, ValueError):
                continue
            if int(session) == child.pid and state != "Z":
                found.append(int(entry.name))
    return found


def kill(child: BaseProcess, *, group: bool) -> None:
    assert child.pid is not None
    (os.killpg if group else os.kill)(child.pid, signal.SIGKILL)
    child.join(LONG_ENOUGH)
    assert child.exitcode is not None


@pytest.fixture
def children() -> Iterator[list[BaseProcess]]:
    """What a test started; whatever of it still lives afterwards is ended here, and was an error."""
    started: list[BaseProcess] = []
    yield started
    for child in started:
        for pid in processes_of(child):
            os.kill(pid, signal.SIGKILL)


def test_killed_and_resumed_is_the_same_run(tmp_path: Path, undisturbed: Run, children: list[BaseProcess]) -> None:
    run = Run(tmp_path / "killed")
    for job in ("mt-1", "ft-1-nli"):
        child = start(run)
        children.append(child)
        wait_for(run, child, job)
        kill(child, group=True)
        assert job not in run.manifest()["jobs"]
        assert processes_of(child) == []
    assert {"mt-1", "mt-2", "select"} <= run.manifest()["jobs"].keys()

    # Only the parent: its orphans must end by themselves.
    child = start(run, "runtime.workers=2")
    children.append(child)
    wait_for(run, child, "st-kd-s0")
    assert len(processes_of(child)) >= 3  # the parent and two workers
    kill(child, group=False)
    assert "st-kd-s0" not in run.manifest()["jobs"]
    deadline = time.monotonic() + 20 * WATCH_EVERY_SECONDS  # they look twice a second; the machine may be busy
    while processes_of(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(child) == []

    go(run, tiny(*LONG))
    for job in ("mt-1", "ft-1-nli", "st-kd-s0"):
        steps, whole = steps_of(run, job), steps_of(undisturbed, job)
        # It went on from a checkpoint: no step of the beginning was reported twice, and the rest was done.
        assert set(steps) == set(whole)
        assert steps.count(whole[0]) == 1, f"'{job}' began anew"
    assert changed(results(undisturbed), results(run)) == set()
    assert changed(results(undisturbed, "models"), results(run, "models")) == set()


def test_a_killed_job_of_a_chain_goes_on_from_the_one_before(tmp_path: Path, children: list[BaseProcess]) -> None:
    undisturbed, run = (Run(tmp_path / name) for name in ("undisturbed", "killed"))
    go(undisturbed, tiny(*LONG, *CHAIN), last_stage="multitask")
    child = start(run, *CHAIN, last_stage="multitask")
    children.append(child)
    wait_for(run, child, "mt-2")
    kill(child, group=True)
    assert run.manifest()["jobs"].keys() == {"prepare", "mt-1"}
    # The first cycle's weights are gone: it is trained again, and the second goes on from its own checkpoint.
    shutil.rmtree(run.model_dir("mt-1"))
    go(run, tiny(*LONG, *CHAIN), last_stage="multitask")
    assert [line["job"] for line in log_lines(run, event="done")] == ["prepare", "mt-1", "mt-1", "mt-2"]
    whole = steps_of(undisturbed, "mt-2")
    assert len(whole) >= 4
    assert set(steps_of(run, "mt-2")) == set(whole)
    assert steps_of(run, "mt-2").count(whole[0]) == 1, "'mt-2' began anew"
    for folder in ("predictions", "dynamics", "models"):
        assert changed(results(undisturbed, folder), results(run, folder)) == set()


def test_a_finished_training_without_predictions_only_predicts(copied: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = results(copied)
    original = training._store_predictions

    def stopped(context: Any, *arguments: Any, **options: Any) -> int:
        if context.job.name == "st-kd-s0":
            raise KeyboardInterrupt
        return original(context, *arguments, **options)

    monkeypatch.setattr(training, "_store_predictions", stopped)
    with pytest.raises(KeyboardInterrupt):
        go(copied, tiny(), first_stage="distill")
    monkeypatch.undo()
    assert log_lines(copied, event="stopped")
    n_lines = len(log_lines(copied, event="progress", job="st-kd-s0"))
    assert n_lines > 0
    go(copied, tiny())
    assert len(log_lines(copied, event="progress", job="st-kd-s0")) == n_lines  # not one more step was trained
    assert changed(wanted, results(copied)) == set()


def test_a_diverged_training_stops_the_run_and_names_the_examples(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    short = ("data.tasks=[sentiment]", "multitask.dropouts=[0.1]", "select.top_k=1", "distill.seeds=1")
    hot = (*short, "finetune.lr=1e30", "finetune.batch_size=4", "finetune.clip_norm=1e30")
    with pytest.raises(
        FloatingPointError, match=r"task 'sentiment', examples 'sentiment/train/\d{7}'.* Lower the"
    ) as no:
        go(run, tiny(*hot))
    assert "step" in str(no.value)
    assert "epoch 0" in str(no.value)
    [line] = log_lines(run, event="stopped")
    assert line["error"].startswith("FloatingPointError: the loss of epoch 0")
    # What was good stays, and a cooler teacher goes on from it.
    members = run.manifest()["jobs"]["mt-1"]
    go(run, tiny(*short))
    assert run.manifest()["jobs"]["mt-1"] == members
