"""Kill it anywhere: a run is killed again and again, each time it goes on, and it ends in the bytes of one that nobody
disturbed.

After each kill, and while it runs, `status` must tell the truth, and every file that is there must be whole: what a
reader would open is opened here.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open

from benchmarks.torture.processes import POINTS, Point, kill, processes_of, start
from core.checksums import read_sums, verify
from core.locks import holder_of
from core.plan import STAGES
from core.status import read_status
from core.store import Run

# The smoke preset, smaller, with everything on that writes files: pre-training, a soup, features, many checkpoints.
SMALL = (
    *("data.n_train=160", "data.n_dev=40", "data.n_test=48", "data.selection=40", "evaluate.resamples=100"),
    *("data.tasks=[sentiment,nli,similarity]", "data.teacher_tasks=[nli]", "runtime.device=cpu"),
    *("pretrain.objective=rtd", "pretrain.sentences=400", "pretrain.batch_size=8", "multitask.batch_size=8"),
    *("finetune.batch_size=4", "distill.batch_size=8", "distill.seeds=1", "ensemble.soups=[uniform]"),
    *("runtime.keep_features=true", "runtime.checkpoint_seconds=0"),
)
LOOK_SECONDS = 0.2  # at status, while a run works
LONG_ENOUGH = 900.0  # seconds until a hang is called a hang, on a machine that has other things to do too


class Killed(NamedTuple):
    """Where the run stood when it was found dead: the first stage with a job to do."""

    how: str
    stage: str


class Survived(NamedTuple):
    kills: list[Killed]
    runs: int
    files: int  # compared with the undisturbed run, byte by byte, in each of `runs`
    looks: int  # at status


def arguments(run: Run, workers: int, overrides: Sequence[str] = SMALL) -> list[str]:
    sets = [part for item in (*overrides, f"runtime.workers={workers}") for part in ("--set", item)]
    return ["run", "--preset", "smoke", "--out", str(run.path), *sets]


def undisturbed(folder: Path) -> tuple[Run, dict[str, int]]:
    """A run that nobody kills, and how often each point came by."""
    run, counts = Run(folder / "undisturbed"), folder / "counts.json"
    finish(run, folder / "undisturbed.txt", counts=counts)
    return run, json.loads(counts.read_text(encoding="utf-8"))


def finish(run: Run, said: Path, *, workers: int = 1, counts: Path | None = None) -> None:
    child = start(arguments(run, workers), said, counts=counts)
    child.join(LONG_ENOUGH)
    assert child.exitcode == 0, f"exit code {child.exitcode}:\n{said.read_text(encoding='utf-8')[-3000:]}"
    assert read_status(run)["state"] == "finished"


def survive(
    folder: Path,
    n: int,
    *,
    seed: int,
    stages: Sequence[str] = STAGES,
    points: Sequence[str] = tuple(POINTS),
    a_life: int = 8,
    say: Callable[[str], None] = lambda line: None,
) -> Survived:
    """`n` kills of runs in `folder`, by turns at a random moment of a stage and at a point, one run after another.
    Raises `AssertionError` for whatever is not as it should be."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    whole, counts = undisturbed(folder)
    expected = read_sums(whole)
    seconds = {stage: about["seconds"] for stage, about in read_status(whole)["stages"].items()}
    kills: list[Killed] = []
    looks = n_runs = 0
    timed, pointed = itertools.cycle(stages), itertools.cycle(points)
    while len(kills) < n:
        n_runs += 1
        run, workers = Run(folder / f"run-{n_runs}"), 2 - n_runs % 2
        in_this_life = 0
        while len(kills) < n and in_this_life < a_life and not _is_finished(run):
            # Workers do not know of points: they are other processes.
            if workers == 2 or len(kills) % 2 == 0:
                stage = _later(next(timed), run, stages)
                how, found = _timed(run, folder, stage, workers, rng.uniform(0, max(0.3, seconds[stage])))
                looks += found
            else:
                name = next(pointed)
                how = _at_point(run, folder, Point(name, rng.randint(1, max(1, counts.get(name, 1) // 3))))
            if how:
                stage = check(run)
                looks += 1
                kills.append(Killed(how, stage))
                in_this_life += 1
                say(f"kill {len(kills)} of {n}: {how}, in {stage}")
        _finish_as(expected, run, folder, workers)
    # A stage of milliseconds may have been missed by every random moment.
    for stage in [stage for stage in stages if n >= 3 * len(stages) and stage not in {one.stage for one in kills}]:
        n_runs += 1
        run = Run(folder / f"run-{n_runs}")
        kills.append(Killed(_at_point(run, folder, Point(stage, 1)), check(run)))
        assert kills[-1].stage == stage
        _finish_as(expected, run, folder, 1)
    return Survived(kills, n_runs, len(expected), looks)


def _finish_as(expected: dict[str, str], run: Run, folder: Path, workers: int) -> None:
    finish(run, folder / "said.txt", workers=workers)
    sums = read_sums(run)
    different = sorted(path for path in expected.keys() | sums.keys() if expected.get(path) != sums.get(path))
    assert not different, f"{run.path}: {len(different)} files differ from the undisturbed run's: {different[:5]}"
    assert verify(run) == (len(expected), (), ())


def _is_finished(run: Run) -> bool:
    return run.exists() and read_status(run)["state"] == "finished"


def _later(stage: str, run: Run, stages: Sequence[str]) -> str:
    """`stage`, or the first that the run has not done yet."""
    if not run.exists():
        return stage
    at = read_status(run)["stopped_at"]
    return stage if at is None or STAGES.index(stage) >= STAGES.index(at) else at


def _timed(run: Run, folder: Path, stage: str, workers: int, wait: float) -> tuple[str, int]:
    """Kills the whole group `wait` seconds into a stage; ("", looks) when the run was faster."""
    child = start(arguments(run, workers), folder / "said.txt")
    looks, deadline = 0, time.monotonic() + LONG_ENOUGH
    while child.is_alive() and not _has_begun(run, stage):
        assert time.monotonic() < deadline, f"'{stage}' did not begin in {LONG_ENOUGH:.0f} s"
        looks += _look(run, child.pid)
        time.sleep(LOOK_SECONDS)
    child.join(wait)
    if not child.is_alive():
        assert child.exitcode == 0, (folder / "said.txt").read_text(encoding="utf-8")[-3000:]
        return "", looks
    kill(child)
    child.join(LONG_ENOUGH)
    deadline = time.monotonic() + LONG_ENOUGH
    while processes_of(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes_of(child) == []
    return f"{wait:.2f} s into {stage}", looks


def _has_begun(run: Run, stage: str) -> bool:
    if not run.exists():
        return False
    stages = read_status(run)["stages"]
    return all(stages[name]["done"] >= stages[name]["total"] for name in STAGES[: STAGES.index(stage)])


def _look(run: Run, pid: int | None) -> int:
    """While it runs: the holder that status names is the process that works."""
    if not run.exists():
        return 0
    about = read_status(run)
    if about["state"] == "running":
        assert about["holder"]["pid"] == pid
        assert about["resumable"] is False
    return 1


def _at_point(run: Run, folder: Path, point: Point) -> str:
    child = start(arguments(run, 1), folder / "said.txt", point)
    child.join(LONG_ENOUGH)
    if child.exitcode == 0:  # the point did not come by so often
        return ""
    assert child.exitcode == -9, (folder / "said.txt").read_text(encoding="utf-8")[-3000:]
    return f"{point.name} ({point.k})"


# ---- what must hold after a kill -----------------------------------------------------------------------------------
def check(run: Run) -> str:
    """The stage at which the run stands. Nobody holds it, what is marked done is whole, and every file can be read."""
    assert holder_of(run.path) is None
    if not run.exists():  # killed before there was a run
        return STAGES[0]
    about = json.loads(json.dumps(read_status(run)))
    assert about["state"] in ("stopped", "finished"), about
    assert about["resumable"] == (about["state"] == "stopped")
    found = verify(run)
    assert (found.damaged, found.lost) == ((), ()), found
    for path in run.path.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            read(path, run)
    return about["stopped_at"] or STAGES[-1]


def read(path: Path, run: Run) -> None:
    """Opens a file as its readers would. Weights without their `model.json` are no model: nobody reads them."""
    if path.suffix == ".parquet":
        pq.read_table(path)
    elif path.suffix == ".arrow":
        pa.ipc.open_file(path).read_all()
    elif path.suffix == ".json" and "models" not in path.parts:
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".safetensors":
        folder = run.model_dir(path.relative_to(run.path).parts[1])
        if path.name.startswith("checkpoint-") or (folder / "model.json").exists():
            with safe_open(path, framework="np") as file:
                assert list(file.keys())
