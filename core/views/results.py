"""Scores of a run, tidy: by group of models over its seeds, differences paired by seed, the headline and the controls.

A group is what differs by the luck of training alone: "single" (the multi-task members), "teachers" of a task, an
ensemble or soup by its name, the students of a variant by the variant. Mean and standard error are over a group's
models; what may be said of a difference is core/comparisons' word. Intervals over examples are in the scores.

core/report draws the same numbers on a terminal, for finished runs; this also reads imported ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.comparisons import Difference, MeanSE, mean_and_se, paired_difference
from core.metrics import HIGHER_IS_BETTER, Score
from core.store import Run
from core.tasks import Task, did_you_mean
from core.views import NotDefined
from core.views.catalogue import Models, models_of_run, tasks_of_run
from core.views.table import BASELINE, DEFAULT_STUDENT

COLUMNS = ("model", "task", "split", "metric", "value", "ci_low", "ci_high", "n")


class Results(NamedTuple):
    """`scores` by (model, task, split, metric); an interval that was not computed is (nan, nan), a
    value that is not finite (Pearson's r of constant predictions) is no score. `split` is the one
    that the run reports."""

    scores: dict[tuple[str, str, str, str], Score]
    models: Models
    tasks: dict[str, Task]
    split: str


class Summary(NamedTuple):
    """A group's mean over its `models`; `seeds` are the students' (empty for other groups)."""

    group: str
    task: str
    split: str
    metric: str
    value: MeanSE
    models: tuple[str, ...]
    seeds: tuple[int, ...]


class Line(NamedTuple):
    """A row of the headline table: a task, or the average over `tasks`. `groups`: mean and standard error over the
    group's models. `difference`: student minus baseline, paired by seed; None where one of them is missing."""

    name: str
    tasks: tuple[str, ...]
    is_average: bool
    groups: dict[str, MeanSE]
    difference: Difference | None


class Control(NamedTuple):
    """A student variant on the average of `tasks`: its mean, its difference to gold alone and kd's to it, paired by
    seed; None against itself or without a shared seed."""

    variant: str
    tasks: tuple[str, ...]
    value: MeanSE
    minus_hard: Difference | None
    kd_minus: Difference | None


def read_results(run: Run) -> Results:
    """`metrics.parquet`. Raises `ValueError` where the run is not evaluated, with the command that does it, and for a
    file that is damaged."""
    manifest, path = run.manifest(), run.path / "metrics.parquet"
    imported = bool(manifest.get("imported"))
    if not path.exists() or not (imported or "evaluate" in manifest.get("jobs", {})):
        remedy = "an imported run has scores only if it brings that file" if imported else (
            f"go on with `python -m core run --out {run.path}`"
        )  # fmt: skip
        raise ValueError(f"{path} has no scores of this run's present config yet; {remedy}")
    try:
        table = pq.read_table(path, columns=list(COLUMNS))
    except (pa.ArrowInvalid, KeyError) as error:
        raise ValueError(
            f"{path} is not a readable table of {', '.join(COLUMNS)} ({error}); redo 'evaluate'"
        ) from error
    scores = {}
    for row in table.to_pylist():
        if row["value"] is None or not np.isfinite(row["value"]):
            continue
        low, high = (float("nan") if row[end] is None else row[end] for end in ("ci_low", "ci_high"))
        scores[row["model"], row["task"], row["split"], row["metric"]] = Score(row["value"], low, high, row["n"])
    split = manifest.get("config", {}).get("evaluate", {}).get("split")
    if split is None:
        found = {key[2] for key in scores}
        split = next((name for name in ("test", "dev") if name in found), "dev")
    return Results(scores, models_of_run(run), tasks_of_run(run), split)


def groups_of(results: Results, task: str) -> dict[str, tuple[str, ...]]:
    """Group -> its models on `task`, in the order of the table: single, teachers, ensembles, soups, students."""
    models = results.models
    groups = {"single": models.of_kind("member", task)}
    # Where no teacher was trained, the ensemble's members are the single models again.
    groups["teachers"] = tuple(name for name in models.teachers(task) if models.roles[name].kind == "teacher")
    ensembles = sorted(models.of_kind("ensemble", task), key=lambda name: name != models.taught_by)
    groups |= {name: (name,) for name in (*ensembles, *models.of_kind("soup", task))}
    groups |= {variant: tuple(seeds.values()) for variant, seeds in models.students(task).items()}
    return {group: names for group, names in groups.items() if names}


def summaries(results: Results, *, split: str | None = None, metrics: Sequence[str] | None = None) -> list[Summary]:
    """Every group, task and metric that has scores for all of the group's models. `split` None: the reported one."""
    split = results.split if split is None else split
    found = []
    for task in results.tasks:
        for group, names in groups_of(results, task).items():
            for metric in HIGHER_IS_BETTER if metrics is None else metrics:
                values = [results.scores.get((name, task, split, metric)) for name in names]
                if all(score is not None for score in values):
                    mean = mean_and_se([score.value for score in values if score is not None])
                    seeds = tuple(results.models.students(task).get(group, ()))
                    found.append(Summary(group, task, split, metric, mean, names, seeds))
    return found


def by_seed(
    results: Results, variant: str, tasks: Sequence[str], *, metric: str, split: str | None = None
) -> dict[int, float]:
    """Seed -> mean over `tasks` of the variant's score, for seeds with a score on all of them."""
    split = results.split if split is None else split
    of_task = []
    for task in tasks:
        seeds = results.models.students(task).get(variant, {})
        keys = {seed: (name, task, split, metric) for seed, name in seeds.items()}
        of_task.append({seed: results.scores[key].value for seed, key in keys.items() if key in results.scores})
    shared = [seed for seed in (of_task[0] if of_task else ()) if all(seed in values for values in of_task)]
    return {seed: float(np.mean([values[seed] for values in of_task])) for seed in shared}


def compare(
    results: Results, a: str, b: str, tasks: Sequence[str], *, metric: str = "score", split: str | None = None
) -> Difference:
    """Variant a minus variant b on the average of `tasks`, paired over the seeds that both have. Raises `ValueError`
    for an unknown metric and `NotDefined` without a shared seed."""
    if metric not in HIGHER_IS_BETTER:
        raise ValueError(f"metric '{metric}' is not known{did_you_mean(metric, HIGHER_IS_BETTER)}")
    a_seeds, b_seeds = (by_seed(results, variant, tasks, metric=metric, split=split) for variant in (a, b))
    shared = [seed for seed in a_seeds if seed in b_seeds]
    if not shared:
        raise NotDefined(f"'{a}' and '{b}' share no seed with a {metric} on {', '.join(tasks) or 'no task'}.")
    return paired_difference(
        [a_seeds[seed] for seed in shared],
        [b_seeds[seed] for seed in shared],
        higher_is_better=HIGHER_IS_BETTER[metric],
    )


def headline(
    results: Results, *, metric: str = "score", split: str | None = None, student: str = DEFAULT_STUDENT
) -> list[Line]:
    """The results table: tasks with a teacher first, then the others, then averages over each and over all; only tasks
    that have the metric. A student's average is over the seeds that have all of the tasks; another
    group has one where it has as many models on each of them."""
    split = results.split if split is None else split
    scored = {task for _, task, of_split, name in results.scores if (of_split, name) == (split, metric)}
    with_teacher = tuple(task for task in results.tasks if task in scored and results.tasks[task].has_teacher)
    without = tuple(task for task in results.tasks if task in scored and not results.tasks[task].has_teacher)
    lines = [_line(results, task, (task,), False, metric, split, student) for task in (*with_teacher, *without)]
    averages = {"with a teacher": with_teacher, "without": without, "all tasks": (*with_teacher, *without)}
    for name, tasks in averages.items():
        if tasks:
            lines.append(_line(results, name, tasks, True, metric, split, student))
    return lines


def controls(
    results: Results, *, tasks: Sequence[str] | None = None, metric: str = "score", split: str | None = None
) -> list[Control]:
    """Which part of the teacher helps? Every variant on the tasks with a teacher (or `tasks`), against gold alone and
    against the whole teacher. Where a control is level with kd, what it leaves out of the teacher did nothing here."""
    if tasks is None:
        tasks = [name for name, task in results.tasks.items() if task.has_teacher]
    variants = dict.fromkeys(variant for task in tasks for variant in results.models.students(task))
    found = []
    for variant in variants:
        values = by_seed(results, variant, tasks, metric=metric, split=split)
        if not values:
            continue
        differences: list[Difference | None] = []
        for a, b in ((variant, BASELINE), (DEFAULT_STUDENT, variant)):
            try:
                differences.append(None if a == b else compare(results, a, b, tasks, metric=metric, split=split))
            except NotDefined:
                differences.append(None)
        found.append(Control(variant, tuple(tasks), mean_and_se(list(values.values())), *differences))
    return found


def _line(
    results: Results,
    name: str,
    tasks: tuple[str, ...],
    is_average: bool,
    metric: str,
    split: str,
    student: str,
) -> Line:
    groups, of_task = {}, [groups_of(results, task) for task in tasks]
    for group in of_task[0]:
        of_seeds = by_seed(results, group, tasks, metric=metric, split=split)
        if of_seeds:  # a student variant
            groups[group] = mean_and_se(list(of_seeds.values()))
            continue
        keys = [
            [(model, task, split, metric) for model in names.get(group, ())]
            for task, names in zip(tasks, of_task, strict=True)
        ]
        complete = len({len(of_one) for of_one in keys}) == 1 and all(
            key in results.scores for row in keys for key in row
        )
        if complete and keys[0]:
            groups[group] = mean_and_se(np.mean([[results.scores[key].value for key in row] for row in keys], axis=0))
    try:
        difference = compare(results, student, BASELINE, tasks, metric=metric, split=split)
    except NotDefined:
        difference = None
    return Line(name, tasks, is_average, groups, difference)
