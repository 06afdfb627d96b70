"""What a run costs before it starts: `python -m core plan` and `run --dry-run`.

The work is counted (core/workload). How fast it goes is measured in a finished run (`--from-run`: FLOP/s of its
trainings and passes, the rest of its jobs' seconds, those of the stages without a model), or in a few steps on this
machine (`--dry-run`), or assumed (a GPU that nobody has here).

Jobs are given to the devices as the engines do it: in order, a stage after the other, to whoever is free. They are
assumed not to slow each other down more than they did in the run that was measured.
"""

from __future__ import annotations

import copy
import heapq
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from core.batching import make_batch, on_device
from core.config import Config, resolve_tasks, stored_tasks, validated
from core.device import Device, resolve_device
from core.encoder import config_of, encode, encoder_from_config
from core.optim import clear_gradients, kept_gradients, make_optimizer
from core.pipeline import chosen_members, count_workers, source_digest
from core.plan import STAGES, TRAINING_STAGES, Job, is_done, make_jobs, waves
from core.speed import FORWARD_FLOPS, TRAINING_FLOPS, matrix_parameters, wait
from core.store import Run
from core.tasks import Task
from core.tokens import Tokens
from core.workload import Rows, Work, count_rows, encoder_of, shape_of, work_of

PROBE_STEPS = 6
ASSUMED_GPU_FLOPS = 400e12
DRIVER_JOBS = ("prepare", "select", "ensemble", "evaluate")  # they use no model, and no GPU


class Pace(NamedTuple):
    """FLOP/s of a job's training and passes; what else a job of a stage takes, in seconds; seconds of the stages
    without a model, for each unit of `_driver_units`; and where this comes from."""

    training: float
    passes: float
    job_seconds: Mapping[str, float]
    driver_seconds: Mapping[str, float]
    says: str


class Planned(NamedTuple):
    """A run that is not there yet, or not whole: jobs, those that would run, their work, rows of the first encoder."""

    jobs: dict[str, Job]
    todo: list[Job]
    work: dict[str, Work]
    rows: dict[str, Rows]


class StageCost(NamedTuple):
    """`seconds` of all its jobs, `wall_seconds` on the devices that there are, `longest_seconds` with any number."""

    jobs: int
    to_run: int
    steps: int
    tokens: float
    flops: float
    seconds: float
    wall_seconds: float
    longest_seconds: float
    limit: str


# ---- what is to do ---------------------------------------------------------------------------------------------------
def planned(run: Run, config: Config) -> Planned:
    """Of `run`, which need not exist: what is done there is left out."""
    tasks = resolve_tasks(config)
    source = source_digest(config, tasks)
    manifest = run.manifest() if run.exists() else {"jobs": {}}
    chosen = chosen_members(run, config, tasks, source, manifest)
    likely = chosen or list(config.multitask.members)[: config.select.top_k]
    jobs = make_jobs(config, tasks, source_digest=source, chosen=likely)
    rows_of = count_rows(run, config, tasks, jobs["prepare"], manifest)
    work = {name: work_of(job, config, tasks, rows_of) for name, job in jobs.items()}
    todo = [job for job in jobs.values() if not is_done(job, manifest)]
    return Planned(jobs, todo, work, rows_of[config.student_encoder])


# ---- how fast --------------------------------------------------------------------------------------------------------
def assumed_pace(flops: float) -> Pace:
    says = f"assumed, not measured: {_si(flops)}FLOP/s a GPU, and nothing but matrix products"
    return Pace(flops, flops, {}, {}, says)


def pace_of_run(run: Run) -> Pace:
    """Measured in a finished run. Raises `ValueError` when it has no training with its speed."""
    manifest = run.manifest()
    config, tasks = validated(manifest["config"]), stored_tasks(manifest)
    records = {name: record for name, record in manifest["jobs"].items() if record.get("status") == "done"}
    chosen = records.get("select", {}).get("chosen", [])
    # Keys are not compared here, and the source files may be gone.
    jobs = make_jobs(config, tasks, source_digest="", chosen=chosen or None)
    known = [job for name, job in jobs.items() if job.stage in TRAINING_STAGES and "training" in records.get(name, {})]
    if not known:
        raise ValueError(f"{run.path} has no finished training with its speed in run.json; give a finished run")
    speed: dict[str, float] = {}
    for kind, factor in (("training", TRAINING_FLOPS), ("passes", FORWARD_FLOPS)):
        of = [
            (shape_of(encoder_of(job)).parameters, records[job.name][kind])
            for job in known
            if kind in records[job.name]
        ]
        done = sum(factor * parameters * record["tokens"] for parameters, record in of)
        speed[kind] = done / max(1e-9, sum(record["seconds"] for _, record in of))
    rows_of = count_rows(run, config, tasks, jobs["prepare"]._replace(key=records["prepare"]["key"]), manifest)
    others: dict[str, list[float]] = {}
    for job in known:
        record, work = records[job.name], work_of(job, config, tasks, rows_of)
        curve = FORWARD_FLOPS * work.parameters * work.evaluated / speed["passes"]
        inside = sum(record.get(kind, {}).get("seconds", 0.0) for kind in speed)
        others.setdefault(job.stage, []).append(max(0.0, record["seconds"] - inside - curve))
    units = _driver_units(config, tasks, rows_of[config.student_encoder], len(jobs))
    driver = {stage: records[stage]["seconds"] / units[stage] for stage in DRIVER_JOBS if stage in records}
    device = records[known[0].name]["device"].partition(":")[0]
    says = f"measured in {run.path} ({device}, a machine of {manifest['machine']['cores']} cores)"
    return Pace(speed["training"], speed["passes"], {name: median(of) for name, of in others.items()}, driver, says)


def _driver_units(config: Config, tasks: Mapping[str, Task], rows: Mapping[str, Rows], n_jobs: int) -> dict[str, float]:
    """What the seconds of the stages without a model grow with."""
    n_all = float(sum(sum(of.n.values()) for of in rows.values()))
    reported = float(sum(of.n.get(config.evaluate.split, 0) for of in rows.values()))
    return {
        "prepare": n_all,
        "select": float(len(config.multitask.members)),
        "ensemble": n_all * config.select.top_k * (1 + len(config.ensemble.compare)),
        "evaluate": max(1.0, reported * n_jobs * config.evaluate.resamples),
    }


# ---- what it costs ---------------------------------------------------------------------------------------------------
def job_seconds(job: Job, work: Work, pace: Pace) -> float:
    fixed = pace.job_seconds.get(job.stage, max(pace.job_seconds.values(), default=0.0))
    return work.training_flops / pace.training + work.pass_flops / pace.passes + (fixed if work.parameters else 0.0)


def stage_costs(plan: Planned, config: Config, tasks: Mapping[str, Task], pace: Pace, n: int) -> dict[str, StageCost]:
    """Every stage on `n` devices."""
    units = _driver_units(config, tasks, plan.rows, len(plan.jobs))
    driver = {stage: pace.driver_seconds.get(stage, 0.0) * units[stage] for stage in DRIVER_JOBS}
    costs: dict[str, StageCost] = {}
    for stage in STAGES:
        of_stage = [job for job in plan.jobs.values() if job.stage == stage]
        todo = [job for job in plan.todo if job.stage == stage]
        work = [plan.work[job.name] for job in todo]
        seconds = {job.name: job_seconds(job, plan.work[job.name], pace) + driver.get(job.name, 0.0) for job in todo}
        groups = [[seconds[job.name] for job in wave] for wave in waves(todo)]
        costs[stage] = StageCost(
            len(of_stage),
            len(todo),
            sum(of.steps for of in work),
            sum(of.trained for of in work),
            sum(of.training_flops + of.pass_flops for of in work),
            sum(seconds.values()),
            sum(makespan(group, n) for group in groups),
            sum(max(group) for group in groups),
            _limit(stage, groups, n),
        )
    return costs


def makespan(seconds: Sequence[float], n: int) -> float:
    """When the last of the jobs ends that `n` devices take in this order, each as soon as it is free."""
    free = [0.0] * min(n, max(1, len(seconds)))
    for one in seconds:
        heapq.heapreplace(free, free[0] + one)
    return max(free)


def _limit(stage: str, groups: Sequence[Sequence[float]], n: int) -> str:
    if not groups:
        return ""
    if stage not in TRAINING_STAGES:
        return "one process, no GPU"
    widest = max(len(group) for group in groups)
    if widest < n:
        return f"{widest} job{'s' * (widest > 1)}: {n - widest} of {n} idle"
    idle = 1 - sum(map(sum, groups)) / (n * sum(makespan(group, n) for group in groups))
    return "speed" if idle < 0.1 else f"uneven jobs: {100 * idle:.0f} % idle"


def disk_bytes(plan: Planned, n: int) -> float:
    """What stays, and the checkpoints of the `n` largest jobs of a stage, which may run at once."""
    most = 0.0
    for stage in TRAINING_STAGES:
        sizes = sorted((plan.work[job.name].checkpoint_bytes for job in plan.todo if job.stage == stage), reverse=True)
        most = max(most, sum(sizes[:n]))
    return most + sum(plan.work[job.name].kept_bytes for job in plan.todo)


def plan_of(run: Run, config: Config, pace: Pace, n: int) -> dict[str, Any]:
    """All numbers of `python -m core plan`."""
    plan, tasks = planned(run, config), resolve_tasks(config)
    costs = stage_costs(plan, config, tasks, pace, n)
    on_gpu = sum(cost.seconds for stage, cost in costs.items() if stage in TRAINING_STAGES)
    return {
        "stages": {stage: cost._asdict() for stage, cost in costs.items()},
        "jobs": {job.name: {**plan.work[job.name]._asdict(), "seconds": job_seconds(job, plan.work[job.name], pace)}
                 for job in plan.todo if plan.work[job.name].parameters},
        "parameters": shape_of(config.student_encoder).parameters,
        "gpus": n,
        "gpu_hours": on_gpu / 3600,
        "wall_seconds": sum(cost.wall_seconds for cost in costs.values()),
        "least_seconds": sum(cost.longest_seconds for cost in costs.values()),
        "disk_bytes": disk_bytes(plan, n),
        "pace": pace.says,
    }  # fmt: skip


def render_plan(about: Mapping[str, Any], console: Console, *, title: str) -> None:
    n = about["gpus"]
    table = Table(title=title, title_justify="left", pad_edge=False)
    table.add_column("stage")
    for column in ("jobs", "steps", "tokens", "FLOPs", "GPU-hours", f"with {n}"):
        table.add_column(column, justify="right")
    table.add_column("what limits it")
    for stage, cost in about["stages"].items():
        work = (f"{cost['steps']:,}", _si(cost["tokens"]), _si(cost["flops"])) if cost["tokens"] else ("", "", "")
        hours = f"{cost['seconds'] / 3600:,.3g}" if cost["tokens"] else ""
        wall = _duration(cost["wall_seconds"]) if cost["wall_seconds"] else ""
        says = str(cost["to_run"]) if cost["to_run"] == cost["jobs"] else f"{cost['to_run']} of {cost['jobs']}"
        table.add_row(stage, says, *work, hours, wall, cost["limit"])
    console.print(table)
    steps, tokens, flops = (sum(cost[key] for cost in about["stages"].values()) for key in ("steps", "tokens", "flops"))
    console.print(
        f"In all {steps:,} steps, {_si(tokens).strip()} tokens, {_si(flops)}FLOP ({about['parameters'] / 1e6:.2f} M "
        f"parameters without embeddings), [bold]{about['gpu_hours']:,.3g} GPU-hours[/bold], "
        f"{_si(about['disk_bytes'])}B of disk.\n"
        f"[bold]{_duration(about['wall_seconds'])}[/bold] with {n} at a time; {_duration(about['least_seconds'])} with "
        "any number, while a job runs on one of them.\n"
        f"Speed: {about['pace']}.",
        highlight=False,
    )


# ---- run --dry-run ---------------------------------------------------------------------------------------------------
def render_cost(run: Run, config: Config, console: Console) -> None:
    """Prints a line a stage: jobs, those that would run, steps, tokens, FLOPs; then the measured speed and the time."""
    plan, tasks = planned(run, config), resolve_tasks(config)
    encoder = encoder_from_config(config_of(config.student_encoder, None))
    n_parameters = matrix_parameters(encoder)
    device = resolve_device(config.runtime.device, config.runtime.dtype, hidden=encoder.config.hidden_size)
    speed = measure_speed(encoder, config, plan.rows, device, n_parameters)
    workers = count_workers(config, tasks, device.device.type)
    costs = stage_costs(plan, config, tasks, Pace(speed, speed, {}, {}, ""), workers)
    table = Table(title=f"{run.path}: what would run", title_justify="left", pad_edge=False)
    table.add_column("stage")
    for column in ("jobs", "to run", "steps", "tokens", "FLOPs"):
        table.add_column(column, justify="right")
    for stage, cost in costs.items():
        work = (f"{cost.steps:,}", _si(cost.tokens), _si(cost.flops)) if cost.tokens else ("", "", "")
        table.add_row(stage, str(cost.jobs), str(cost.to_run) if cost.to_run else "up to date", *work)
    console.print(table)
    flops, seconds = (sum(getattr(cost, name) for cost in costs.values()) for name in ("flops", "wall_seconds"))
    console.print(
        f"Encoder {config.student_encoder}: {n_parameters / 1e6:.2f} M parameters without embeddings.\n"
        f"Speed measured on {device.reason.partition(';')[0].partition(':')[0]}: {_si(speed)}FLOP/s a job; "
        f"{workers} job{'s' if workers > 1 else ''} at a time.\n"
        f"In all {_si(flops)}FLOP, roughly [bold]{_duration(seconds)}[/bold] of training and passes.\n"
        f"At {_si(ASSUMED_GPU_FLOPS)}FLOP/s, half of what one H200 can do in bfloat16 (assumed, not measured): "
        f"{_duration(flops / ASSUMED_GPU_FLOPS)}.",
        highlight=False,
    )


def measure_speed(encoder: Any, config: Config, rows: Mapping[str, Rows], device: Device, n_parameters: int) -> float:
    """FLOP/s of training steps on one job's threads, with batches of the run's size and mean length."""
    torch.set_num_threads(config.runtime.threads)
    means = [sum(of.tokens.values()) / sum(of.n.values()) for of in rows.values()]
    n_tokens = min(max(4, round(np.mean(means))), config.model.max_length)
    n = config.distill.batch_size
    ends = n_tokens * np.arange(n + 1)
    tokens = Tokens(np.full(n * n_tokens, 5, np.int32), ends, np.full(n, n_tokens, np.int32))
    probe = Task(name="probe", labels=("a", "b"))
    data = on_device(probe, tokens, np.arange(n), np.full(n, "train"), torch.zeros(n), device.device)
    batch = make_batch(data, np.arange(n))
    encoder = copy.deepcopy(encoder).to(device.device).train()
    optimizer, kept = make_optimizer(encoder, config.distill), kept_gradients(encoder)
    started = 0.0
    for step in range(2 * PROBE_STEPS):
        if step == PROBE_STEPS:
            wait(device.device)
            started = time.perf_counter()
        with device.autocast():
            loss = encode(encoder, batch, first_only=False).float().square().mean()
        loss.backward()
        optimizer.step()
        clear_gradients(optimizer, kept)
    wait(device.device)
    return TRAINING_FLOPS * n_parameters * len(batch.ids_T) * PROBE_STEPS / (time.perf_counter() - started)


def _si(value: float) -> str:
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.0f} "


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
