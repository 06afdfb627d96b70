"""Several processes train what one would: real launches of two by torchrun and by accelerate, on the CPU.

`two` is the whole pipeline, which loses a process on its way under the one launcher, and goes on to its end under the
other. What cannot be seen from outside (sharded weights, parts, generators) is trained by tests/launched.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import TINY, Finished, changed, go, log_lines, ran, results, tiny
from launched import CASES, RESUMED, pretrained, trained

from core.ranks import ALONE
from core.store import Run

ROOT = Path(__file__).resolve().parents[1]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
# --multi_gpu is its name for torch's launcher, and the processes compute where the config says.
ACCELERATE = (
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
)
LONG_ENOUGH = 300.0  # seconds until a hang is called a hang

# Batches of 13 and what is left: an odd share each. No dropout: one process and two draw the same nothing.
SAME = (
    *("data.tasks=[sentiment,nli,similarity]", "data.teacher_tasks=[nli]", "multitask.dropouts=[0.0]"),
    *("select.top_k=1", "distill.seeds=1", "distill.dropout=0.0", "model.head_dropout=0.0"),
    *("model.san_step_dropout=0.0", "multitask.batch_size=13", "multitask.epochs=4", "distill.accumulate=2"),
    *("runtime.workers=0", "runtime.checkpoint_seconds=0"),
)
# The loss does not hang on these weights: softmax is the same when all scores move together. Their gradients are the
# rounding of nought, which Adam scales up to whole steps.
WITHOUT_EFFECT = ("key.bias", "summary.bias", "order.out.bias")
# Of one training: relative, absolute; found: 2e-7, 2e-6. Of a chain of trainings, each from what the one before made of
# its roundings: found 2e-7 and 1e-5, and another CPU rounds otherwise.
LOSS, WEIGHT = 1e-6, 1e-5
CURVE, LOGIT = 1e-5, 1e-4


def launch(launcher: tuple[str, ...], run: Path, *arguments: str) -> subprocess.Popen[str]:
    """`core run` in two processes, in a session of their own."""
    sets = [part for item in (*TINY, *SAME) for part in ("--set", item)]
    command = [*launcher, "-m", "core", "run", "--preset", "smoke", "--out", str(run), *sets, *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip


def environment() -> dict[str, str]:
    paths = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def said_by(child: subprocess.Popen[str], *, code: int) -> str:
    said, _ = child.communicate(timeout=LONG_ENOUGH)
    assert child.returncode == code, said
    return said


def ranks_of(run: Path) -> dict[int, int]:
    """Process id of each living process of the run by its rank."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                values = dict(item.partition(b"=")[::2] for item in (entry / "environ").read_bytes().split(b"\0"))
                is_dead = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                continue
            if str(run).encode() in words and b"RANK" in values and not is_dead:
                found[int(values[b"RANK"])] = int(entry.name)
    return found


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return go(Run(tmp_path_factory.mktemp("parallel") / "one"), tiny(*SAME, "runtime.workers=1"))


class Two(NamedTuple):
    """A run by two launches of two processes each, and what they said."""

    run: Run
    lost: str
    ended: str


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    path = tmp_path_factory.mktemp("parallel") / "two"
    try:
        child, started = launch(TORCHRUN, path), time.monotonic()
        while not list(path.glob("models/mt-1/checkpoint-*")):
            assert child.poll() is None, child.communicate()[0]
            assert time.monotonic() - started < LONG_ENOUGH
            time.sleep(0.01)
        os.kill(ranks_of(path)[1], signal.SIGKILL)
        lost = said_by(child, code=1)
        assert ranks_of(path) == {}
        assert "mt-1" not in Run(path).manifest()["jobs"]
        yield Two(Run(path), lost, said_by(launch(ACCELERATE, path), code=0))
    finally:
        for pid in ranks_of(path).values():
            os.kill(pid, signal.SIGKILL)


# ---- the pipeline ---------------------------------------------------------------------------------------------------
def test_two_processes_have_the_loss_curves_of_one(one: Finished, two: Two) -> None:
    n_lines = 0
    for job in ("mt-1", "ft-1-nli", "st-hard-s0", "st-kd-s0"):
        alone, together = (
            [line for line in log_lines(run, event="progress", job=job) if "loss" in line] for run in (one.run, two.run)
        )
        assert [(line["epoch"], line["step"]) for line in together] == [(line["epoch"], line["step"]) for line in alone]
        expected = pytest.approx([line["loss"] for line in alone], rel=CURVE)
        assert [line["loss"] for line in together] == expected, job
        n_lines += len(alone)
    assert n_lines >= 8


def test_two_processes_leave_the_files_of_one(one: Finished, two: Two) -> None:
    assert results(one.run).keys() == results(two.run).keys()
    assert changed(results(one.run, "examples"), results(two.run, "examples")) == set()
    assert compare_tables(one.run.path, two.run.path) > 1000
    job, alone = (run.manifest()["jobs"]["ft-1-nli"] for run in (two.run, one.run))
    assert (job["processes"], job["training"]["tokens"]) == (2, alone["training"]["tokens"])
    assert "processes" not in alone
    # One of them speaks.
    assert two.ended.count("done in") == one.shown.count("done in") - 1 > 5, two.ended  # `prepare` was done
    assert "1 job at a time, trained by 2 processes" in two.ended
    assert not any(word in two.ended for word in ("Warning", "Traceback", "error:")), two.ended


def compare_tables(a: Path, b: Path) -> int:
    """Predictions and dynamics: the same rows, and nearly the same numbers. How many rows there are."""
    n_rows = 0
    for path in (path for kind in ("predictions", "dynamics") for path in (a / kind).rglob("*.parquet")):
        first, second = pq.read_table(path), pq.read_table(b / path.relative_to(a))
        *keys, output = first.column_names
        assert first.select(keys) == second.select(keys), path
        values = [np.array(table[output].to_pylist()) for table in (first, second)]
        np.testing.assert_allclose(*values, atol=LOGIT, rtol=0, err_msg=str(path))
        n_rows += len(first)
    return n_rows


def test_a_lost_process_ends_all_and_another_launcher_goes_on(two: Two) -> None:
    # Whichever is first: the closed connection, or the launcher's SIGTERM.
    says = ("another of the 2 processes of this run has ended", "\nstopped; the same command goes on from the last")
    assert any(words in two.lost for words in says), two.lost
    assert len(log_lines(two.run, event="stopped")) == 1
    lines = log_lines(two.run, event="progress", job="mt-1")
    looks = [(line["epoch"], line["step"]) for line in lines if "step" in line]
    assert looks.count(looks[0]) == 1, "mt-1 began anew"
    assert len(ran(two.run)) == len(two.run.manifest()["jobs"])


# ---- trainings ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tests/launched.py wrote."""
    folder = tmp_path_factory.mktemp("launched")
    script = [*TORCHRUN, str(ROOT / "tests" / "launched.py"), str(folder)]
    done = subprocess.run(
        script, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=LONG_ENOUGH, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return folder


@pytest.mark.parametrize("case", CASES)
def test_a_training_comes_to_the_same(case: str, together: Path, tmp_path: Path) -> None:
    alone, found = trained(tmp_path, ALONE, **CASES[case]), np.load(together / f"{case}.npz")
    assert alone.keys() == set(found.files)
    assert len(alone["loss"]) >= 2
    compare(alone, found, exact=case != "bfloat16")


def compare(alone: dict[str, np.ndarray], found: Any, *, exact: bool) -> None:
    for name, values in alone.items():
        if name in ("loss", "auxiliary", "scores"):
            # bfloat16 has three digits, and sums of it depend on what is summed together.
            np.testing.assert_allclose(found[name], values, rtol=LOSS if exact else 1e-2, atol=LOSS, err_msg=name)
        elif name == "tokens":
            assert values <= found[name] < 2 * values  # with stand-ins
        elif name.startswith("dynamics"):
            logits = [x - x.mean(-1, keepdims=True) if "order" in name else x for x in (found[name], values)]
            np.testing.assert_allclose(*logits, atol=WEIGHT if exact else 2e-2, err_msg=name)
        elif exact and not name.endswith(WITHOUT_EFFECT):
            np.testing.assert_allclose(found[name], values, rtol=0, atol=WEIGHT, err_msg=name)


@pytest.mark.parametrize("case", RESUMED)
def test_a_stopped_training_goes_on_to_the_same_bits(case: str, together: Path) -> None:
    found = np.load(together / f"{case}.npz")
    same = {name: bool(found[name]) for name in found.files if name.startswith(("weights", "dynamics"))}
    assert len(same) > 20
    assert all(same.values()), [name for name, is_same in same.items() if not is_same]
    # Each process has noise of its own, and its generator is in the checkpoint; what was sharded is whole there.
    assert not np.array_equal(found["generator.cpu"], found["generator.cpu.1"])
    assert found["rows of the embeddings"] == 40


def test_one_process_goes_on_from_a_checkpoint_of_two(together: Path, tmp_path: Path) -> None:
    folder = together / "to go on from"
    assert (folder / "checkpoint.safetensors").exists()
    resumed, whole = trained(folder, ALONE), trained(tmp_path, ALONE)
    assert (len(resumed["loss"]), len(whole["loss"])) == (1, 2)  # a look an epoch, and it was saved after the first
    compare({**whole, "loss": whole["loss"][1:], "tokens": resumed["tokens"]}, resumed, exact=True)


def test_pre_training_comes_to_much_the_same(together: Path, tmp_path: Path) -> None:
    """Masks and replacements are drawn, in each process its own, so the scores differ as between seeds."""
    alone, found = pretrained(tmp_path, ALONE), np.load(together / "pretrained.npz")
    for name in ("mlm_loss", "rtd_loss"):
        assert found[name] == pytest.approx(alone[name], rel=0.1)
    assert (together / "pretrained" / "encoder" / "generator" / "rtd.safetensors").exists()


@pytest.mark.parametrize("accumulate", [2, 5, 100])
def test_parts_in_one_process_come_to_the_same(accumulate: int, tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", ALONE, with_auxiliary=True)
    parts = trained(tmp_path / "parts", ALONE, with_auxiliary=True, train={"accumulate": accumulate})
    assert whole["tokens"] == parts["tokens"]
    compare(whole, parts, exact=True)
