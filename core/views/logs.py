"""How a run went: loss curves and held-out scores from `log.jsonl`, seconds of stages and jobs, and what sets two runs'
configs apart.

The log is written while it is read, by several jobs, and a killed job's line may be cut: lines that are no JSON are
counted and left out. A job that went on from a checkpoint, or was trained again, writes steps a second time; the last
time counts.

Shapes: L looks of a job at its loss, H held-out scores.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np

from core.calibration import FloatArray, IntArray
from core.config import differences
from core.plan import STAGES
from core.store import Run


class JobLog(NamedTuple):
    """`step` (L,) counts over all epochs, `loss` (L,) is the mean since the look before; `extra` are further losses by
    name (L,), nan where a line has none. `held_out`: task -> scores (H,) on the selection split, after epochs `epoch`
    (H,) counted from 1."""

    job: str
    stage: str
    step: IntArray
    loss: FloatArray
    extra: dict[str, FloatArray]
    epoch: IntArray
    held_out: dict[str, FloatArray]


class Log(NamedTuple):
    """`jobs` by name, in order of their first line; `n_unreadable` lines; `stopped`: the message of an error that ended
    the run last, None if it went on since."""

    jobs: dict[str, JobLog]
    n_unreadable: int
    stopped: str | None


class JobTime(NamedTuple):
    job: str
    stage: str
    seconds: float
    device: str | None


_PLACE = ("time", "event", "job", "stage", "epoch", "step", "steps", "loss")


def read_log(run: Run) -> Log:
    """Empty for a run without a log."""
    path = run.path / "log.jsonl"
    looks: dict[str, dict[int, dict[str, Any]]] = {}
    scores: dict[str, dict[int, dict[str, float]]] = {}
    stages: dict[str, str] = {}
    n_unreadable, stopped = 0, None
    for raw in path.read_bytes().split(b"\n") if path.exists() else ():
        if not raw.strip():
            continue
        try:
            line = json.loads(raw)
        except ValueError:
            n_unreadable += 1
            continue
        if not isinstance(line, dict) or (line.get("event") == "progress" and not {"job", "stage"} <= line.keys()):
            n_unreadable += 1
            continue
        stopped = str(line.get("error")) if line.get("event") == "stopped" else None
        if line.get("event") != "progress" or "epoch" not in line:
            continue
        job = line["job"]
        stages[job] = line["stage"]
        if "loss" in line:
            step, of_job = line["epoch"] * line["steps"] + line["step"], looks.setdefault(job, {})
            for later in [known for known in of_job if known >= step]:
                del of_job[later]
            of_job[step] = line
        elif "selection" in line:
            epoch, held_out = line["epoch"] + 1, scores.setdefault(job, {})
            for later in [known for known in held_out if known >= epoch]:
                del held_out[later]
            held_out[epoch] = line["selection"]
    jobs = {job: _job_log(job, stage, looks.get(job, {}), scores.get(job, {})) for job, stage in stages.items()}
    return Log(jobs, n_unreadable, stopped)


def stage_seconds(run: Run) -> dict[str, float]:
    """Stage -> seconds of its jobs, summed: jobs that ran side by side count each. Stages without a job are absent."""
    seconds: dict[str, float] = {}
    for entry in job_times(run):
        seconds[entry.stage] = seconds.get(entry.stage, 0.0) + entry.seconds
    return {stage: seconds[stage] for stage in STAGES if stage in seconds}


def job_times(run: Run) -> list[JobTime]:
    """Every finished job with its seconds and device, in the order in which they finished."""
    jobs = run.manifest().get("jobs", {})
    return [
        JobTime(name, job["stage"], float(job.get("seconds", 0.0)), job.get("device")) for name, job in jobs.items()
    ]


def config_differences(a: Run, b: Run) -> list[str]:
    """`section.field: value in a -> value in b` for every field that differs; empty for runs of one config. Raises
    `ValueError` for an imported run, which has none."""
    configs: list[dict[str, Any]] = []
    for run in (a, b):
        config = run.manifest().get("config")
        if not isinstance(config, dict):
            raise ValueError(f"{run.manifest_path} has no config to compare: the run was imported")
        configs.append(config)
    return differences(configs[0], configs[1])


def _job_log(job: str, stage: str, looks: dict[int, dict[str, Any]], scores: dict[int, dict[str, float]]) -> JobLog:
    lines = list(looks.values())
    names = dict.fromkeys(
        key for line in lines for key, value in line.items() if key not in _PLACE and _is_number(value)
    )
    tasks = dict.fromkeys(task for of_epoch in scores.values() for task in of_epoch)
    nan = float("nan")
    return JobLog(
        job,
        stage,
        np.array(list(looks), np.int64),
        np.array([line["loss"] for line in lines], np.float64),
        {name: np.array([line.get(name, nan) for line in lines], np.float64) for name in names},
        np.array(list(scores), np.int64),
        {task: np.array([of.get(task, nan) for of in scores.values()], np.float64) for task in tasks},
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
