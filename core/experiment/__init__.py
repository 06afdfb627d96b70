"""Named experiments: `python -m core experiment NAME`, a grid of runs over draws of the data and student seeds.

    <out>/runs/<name>/d<data seed>/<cell>/   a run directory for each config, draw by draw
    <out>/<name>.parquet, .md                every score of every model that a cell shows, and the table of it

One draw after the other, so that what is there after a stop is a whole table of fewer draws. Killed at any moment, the
same command goes on; what any run of the same draw has trained is linked (core/experiment/sharing).

A draw d is `data.seed=d` and `seed=d`: other examples, and other starts of members and students too. Were the starts of
all draws the same, their luck would be in all of them, and no standard error would show it.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from rich.console import Console

from core.config import Config, resolve_tasks
from core.experiment.grids import EXPERIMENTS, Cell, Experiment
from core.experiment.sharing import adopt, is_finished, jobs_of
from core.files import atomic, read_json
from core.findings import METRICS, read_findings, write_findings
from core.findings.pages import page
from core.locks import locked
from core.pipeline import run_pipeline
from core.plan import CODE_VERSION, TRAINING_STAGES, ensemble_name, student_groups, teachers_of
from core.presets import load_config
from core.progress import Progress
from core.sections import NEEDS_TEACHER
from core.store import Run
from core.tasks import Task, did_you_mean

# What no result depends on and every run would pay for: curves of the training rows, and intervals over examples, where
# the spread over draws and seeds is what is told.
LEAN = (
    "multitask.dynamics=false",
    "finetune.dynamics=false",
    "distill.dynamics=false",
    "evaluate.resamples=100",
    "runtime.keep_features=false",
)


class Asked(NamedTuple):
    """What a person asked for; `sets` go over everything else and are told with the results."""

    data_seeds: tuple[int, ...]
    seeds: int
    preset: str | None = None
    sets: tuple[str, ...] = ()

    def command(self, name: str) -> str:
        words = [f"python -m core experiment {name}", f"--data-seeds {','.join(map(str, self.data_seeds))}"]
        words += [f"--seeds {self.seeds}"] + ([f"--preset {self.preset}"] if self.preset else [])
        # How many jobs run at a time changes nothing but the time.
        sets = [item for item in self.sets if not item.startswith("runtime.workers=")]
        return " ".join([*words, *(f"--set '{item}'" for item in sets)])


def find_experiment(name: str) -> Experiment:
    if name not in EXPERIMENTS:
        raise ValueError(
            f"experiment '{name}' is not known{did_you_mean(name, EXPERIMENTS)} Expected one of "
            f"{', '.join(EXPERIMENTS)}, or 'all'"
        )
    return EXPERIMENTS[name]


def configs_of(experiment: Experiment, asked: Asked, data_seed: int) -> dict[str, tuple[Config, list[Cell]]]:
    """The runs of one draw, by folder: the config of each, and the cells that are read from it. Raises `ValueError` for
    a config that cannot be."""
    grouped: dict[tuple[str, ...], list[Cell]] = {}
    for cell in experiment.cells:
        grouped.setdefault(cell.sets, []).append(cell)
    found: dict[str, tuple[Config, list[Cell]]] = {}
    for sets, cells in grouped.items():
        variants = dict.fromkeys(cell.group.partition("-")[0] for cell in cells)
        students = [variant for variant in variants if variant in NEEDS_TEACHER] or ["hard"]
        own = (f"distill.variants=[{','.join(students)}]", f"distill.seeds={asked.seeds}")
        draw = (f"data.seed={data_seed}", f"seed={data_seed}")
        values = (*LEAN, *experiment.sets, *asked.sets, *sets, *own, *draw)
        try:
            config = load_config(asked.preset or experiment.preset, None, values)
            resolve_tasks(config)
        except ValueError as error:
            raise ValueError(f"cell '{cells[0].label}': {error}") from None
        found[re.sub(r"[^a-z0-9.]+", "-", cells[0].label.lower()).strip("-")] = (config, cells)
    assert len(found) == len(grouped), "two cells with one folder"
    return found


def run_experiment(name: str, out: Path, asked: Asked, console: Console) -> Path:
    """Brings every run of the experiment up to date, draw by draw, and writes its results after each draw. Returns the
    file of scores. Every config is checked before the first is run."""
    experiment = find_experiment(name)
    if asked.seeds < 1 or not asked.data_seeds or len(set(asked.data_seeds)) < len(asked.data_seeds):
        raise ValueError(
            f"--data-seeds {','.join(map(str, asked.data_seeds))} and --seeds {asked.seeds}: expected different draws "
            "of the data, and at least one student"
        )
    of_draw = {draw: configs_of(experiment, asked, draw) for draw in asked.data_seeds}
    with locked(out):
        for i, (draw, configs) in enumerate(of_draw.items(), start=1):
            console.print(f"{name}: data seed {draw}, draw {i} of {len(of_draw)}, {len(configs)} runs", highlight=False)
            for folder, (config, _) in configs.items():
                bring_up(_run(out, name, draw, folder), config, console)
            done = asked._replace(data_seeds=asked.data_seeds[:i])
            path = write_results(name, experiment, out, done)
    return path


def _run(out: Path, name: str, draw: int, folder: str) -> Run:
    return Run(out / "runs" / name / f"d{draw}" / folder)


def bring_up(run: Run, config: Config, console: Console) -> None:
    """Links what other runs of the draw have done, and trains the rest."""
    if is_finished(run, config):
        return
    console.print(f"  {run.path}", markup=False, highlight=False)
    others = (Run(path.parent) for path in sorted(run.path.parents[2].glob(f"*/{run.path.parent.name}/*/run.json")))
    sources = [other for other in others if other.path != run.path]
    adopt(sources, run, config)
    with Progress(console) as progress:
        if "ensemble" not in jobs_of(run, config):
            run_pipeline(run, config, last_stage="select", progress=progress)
        adopt(sources, run, config)  # the selection is known, and with it the names of teachers and students
        run_pipeline(run, config, progress=progress)


# ---- what is kept --------------------------------------------------------------------------------------------------
def write_results(name: str, experiment: Experiment, out: Path, asked: Asked) -> Path:
    """`<name>.parquet`, tidy, and `<name>.md`, which is made of it."""
    rows: list[dict[str, Any]] = []
    for draw in asked.data_seeds:
        for folder, (config, cells) in configs_of(experiment, asked, draw).items():
            run = _run(out, name, draw, folder)
            scores = _scores(run, config)
            chosen = read_json(run.path / "selection.json")["chosen"]
            for cell in cells:
                for row in _of_cell(cell, config, chosen, scores):
                    rows.append({"experiment": name, "data_seed": draw, "cell": cell.label, **row})
    path = out / f"{name}.parquet"
    write_findings(path, rows, about(name, experiment, out, asked))
    with atomic(path.with_suffix(".md")) as temporary:
        temporary.write_text(page(read_findings(path)), encoding="utf-8")
    return path


def _scores(run: Run, config: Config) -> dict[tuple[str, str], dict[str, float]]:
    """(model, task) -> metric -> value, on the reported split."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in pq.read_table(run.path / "metrics.parquet").to_pylist():
        if row["split"] == config.evaluate.split and row["metric"] in METRICS:
            found.setdefault((row["model"], row["task"]), {})[row["metric"]] = row["value"]
    return found


def _of_cell(
    cell: Cell, config: Config, chosen: Sequence[str], scores: Mapping[tuple[str, str], Mapping[str, float]]
) -> list[dict[str, Any]]:
    rows = []
    for task in resolve_tasks(config).values():
        for model, seed in models_of(cell, config, task, chosen):
            for metric, value in scores[model, task.name].items():
                rows.append({"seed": seed, "model": model, "task": task.name, "metric": metric, "value": value})
    return rows


def models_of(cell: Cell, config: Config, task: Task, chosen: Sequence[str]) -> Sequence[tuple[str, int | None]]:
    """The models that a cell shows on a task, with a student's seed. `chosen` are the members that were kept."""
    if cell.group == "single":
        return [(member, None) for member in config.multitask.members]
    if cell.group == "teachers":
        return [(teacher, None) for teacher in teachers_of(config, chosen, task.name)] if task.has_teacher else []
    if cell.group == "ensemble":
        return [(ensemble_name(config.ensemble.strategy), None)]
    return [(model, seed) for seed, model in enumerate(student_groups(config, task.name)[cell.group])]


def about(name: str, experiment: Experiment, out: Path, asked: Asked) -> dict[str, Any]:
    """What a reader of the scores must know: the question, the cells, how much of what, and what it took. Seconds are
    of the jobs that trained what is shown, each counted once, whichever experiment trained it."""
    seconds: dict[str, float] = {}
    first: Config | None = None
    for draw in asked.data_seeds:
        for folder, (config, _) in configs_of(experiment, asked, draw).items():
            first = first or config
            for job in _run(out, name, draw, folder).manifest()["jobs"].values():
                if job["stage"] in TRAINING_STAGES:
                    seconds[job["key"]] = job["seconds"]
    assert first is not None
    return {
        "title": experiment.title,
        "question": experiment.question,
        "against": experiment.against,
        "cells": [
            {"label": cell.label, "group": cell.group, "sets": cell.sets, "is_student": cell.is_student}
            | {"against": cell.against or (experiment.against if cell.is_student else None)}
            for cell in experiment.cells
        ],
        "tasks": {task.name: task.has_teacher for task in resolve_tasks(first).values()},
        "split": first.evaluate.split,
        "preset": first.preset,
        "data_seeds": asked.data_seeds,
        "seeds": asked.seeds,
        "command": asked.command(name),
        "trainings": len(seconds),
        "job_seconds": round(sum(seconds.values())),
        "machine": f"{os.cpu_count()} cores ({platform.machine()}), one thread a job",
        "versions": {"core": metadata.version("darkroom"), "torch": metadata.version("torch"), "code": CODE_VERSION},
    }
