"""The results of a run as one table: single models, teachers, ensemble, students, and what distillation changed.

`build_report` reads `metrics.parquet`, `run.json` and `selection.json` and returns plain values (that is
`python -m core report RUN --json`); `render_report` draws them on a terminal.

Uncertainty is over trainings: mean ± standard error over members or student seeds, and for the student the difference
paired by seed. Under two standard errors it says "no difference". It does not cover the choice of test examples; the
bootstrap intervals of `metrics.parquet` do.

The best teacher of a task is the one with the best score on the selection split, never on the split that is reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.table import Table

from core.checksums import check_file, read_sums
from core.comparisons import mean_and_se, paired_difference
from core.config import Config, stored_tasks, validated
from core.metrics import HIGHER_IS_BETTER
from core.plan import STAGES, ensemble_name, student_groups, teachers_of
from core.sections import NEEDS_TEACHER
from core.store import Run, read_json
from core.tasks import Task

Scores = dict[tuple[str, str, str, str], float]  # (model, task, split, metric) -> value
COLUMNS = {
    "single": "single MT-DNN",
    "best_teacher": "best teacher",
    "ensemble": "ensemble",
    "hard": "student, no KD",
    "kd": "student, KD",
}
AVERAGES = {"teacher": "with a teacher", "no_teacher": "without", "all": "all tasks"}


def build_report(run: Run) -> dict[str, Any]:
    """All that the table shows, as JSON-able values. Raises `ValueError` when the run was not evaluated yet."""
    manifest = run.manifest()
    if manifest.get("imported"):
        raise ValueError(
            f"{run.path} holds imported predictions and no members or students; look at it with `make app`"
        )
    path = run.path / "metrics.parquet"
    if not path.exists() or "evaluate" not in manifest["jobs"]:
        done = [stage for stage in STAGES if any(job["stage"] == stage for job in manifest["jobs"].values())]
        again = " --only evaluate" if "evaluate" in done else ""
        raise ValueError(
            f"{run.path} has no results of its present config (last stage done: {done[-1] if done else 'none'}); go on "
            f"with `python -m core run --out {run.path}{again}`"
        )
    sums = read_sums(run)
    for name, stage in (("metrics.parquet", "evaluate"), ("selection.json", "select")):
        check_file(run, name, sums, stage=stage)
    config = validated(manifest["config"])
    tasks = stored_tasks(manifest)
    rows = pq.read_table(path).to_pylist()
    scores: Scores = {(r["model"], r["task"], r["split"], r["metric"]): r["value"] for r in rows}
    counts = {(r["task"], r["split"]): r["n"] for r in rows}
    split = config.evaluate.split
    chosen = read_json(run.path / "selection.json")["chosen"]
    report: dict[str, Any] = {
        "run": str(run.path),
        "preset": config.preset,
        "split": split,
        "n_members": len(config.multitask.members),
        "chosen": chosen,
        "n_seeds": config.distill.seeds,
        "seconds": {
            stage: round(sum(j["seconds"] for j in manifest["jobs"].values() if j["stage"] == stage), 1)
            for stage in STAGES
        },
        "tables": {},
    }
    for metric in ("score", "accuracy", "kl_truth", "nll", "ece"):
        table = _table(scores, config, tasks, chosen, metric=metric, split=split)
        if table:
            report["tables"][metric] = table
    report["n_examples"] = {task: counts[(task, split)] for task in tasks if (task, split) in counts}
    # MNLI's second development split stands beside the averages, not in them.
    extra = _table(scores, config, tasks, chosen, metric="score", split=f"{split}_mm", averages=False)
    if extra:
        report["tables"]["score_mm"] = extra
    return report


def _table(
    scores: Scores,
    config: Config,
    tasks: dict[str, Task],
    chosen: list[str],
    *,
    metric: str,
    split: str,
    averages: bool = True,
) -> list[dict[str, Any]]:
    """Rows of one metric: every task that has it, then the averages over tasks."""
    values = {
        name: found
        for name, task in tasks.items()
        if (found := _values(scores, config, task, chosen, metric=metric, split=split)) is not None
    }
    rows = [
        {"name": name, "teacher": tasks[name].has_teacher, **_summary(found, metric)} for name, found in values.items()
    ]
    rows.sort(key=lambda row: not row["teacher"])
    groups = {
        "teacher": [name for name in values if tasks[name].has_teacher],
        "no_teacher": [name for name in values if not tasks[name].has_teacher],
        "all": list(values),
    }
    for group, names in groups.items():
        if averages and names:
            columns = {
                column: np.mean([values[name][column] for name in names], axis=0)
                for column in values[names[0]]
                if all(column in values[name] for name in names)
            }
            rows.append({"name": AVERAGES[group], "average": True, "tasks": names, **_summary(columns, metric)})
    return rows


def _values(
    scores: Scores, config: Config, task: Task, chosen: list[str], *, metric: str, split: str
) -> dict[str, np.ndarray] | None:
    """One task's values a column, one entry a training; None when the task has no such metric."""
    # Regression has no accuracy, and a metric without a model is a metric without a row.
    members = list(config.multitask.members)
    ensemble = ensemble_name(config.ensemble.strategy)
    if (members[0], task.name, split, metric) not in scores:
        return None
    columns = {"single": np.array([scores[member, task.name, split, metric] for member in members])}
    if task.has_teacher:
        # Imported teachers may lack a split: which is best is then unknown.
        teachers = teachers_of(config, chosen, task.name)
        chosen_by = {name: scores.get((name, task.name, "selection", "score")) for name in teachers}
        best = max(teachers, key=lambda name: chosen_by[name] or -np.inf)
        if None not in chosen_by.values() and (best, task.name, split, metric) in scores:
            columns["best_teacher"] = np.array([scores[best, task.name, split, metric]])
    if (ensemble, task.name, split, metric) in scores:
        columns["ensemble"] = np.array([scores[ensemble, task.name, split, metric]])
    for label, students in student_groups(config, task.name).items():
        columns[label] = np.array([scores[student, task.name, split, metric] for student in students])
    names = [ensemble_name(strategy) for strategy in config.ensemble.compare]
    for name in (*names, *(f"soup-{soup}" for soup in config.ensemble.soups)):
        if (name, task.name, split, metric) not in scores:
            continue
        columns[name] = np.array([scores[name, task.name, split, metric]])
    return columns


def _summary(columns: dict[str, np.ndarray], metric: str) -> dict[str, Any]:
    """Mean, standard error and n of each column, and what distillation changed, paired by seed."""
    summary: dict[str, Any] = {}
    for column, values in columns.items():
        mean, se, n = mean_and_se(values)
        summary[column] = {"mean": mean, "se": None if np.isnan(se) else se, "n": n}
    better = HIGHER_IS_BETTER[metric]
    if "hard" in columns and "kd" in columns:
        summary["difference"] = _difference(columns["kd"], columns["hard"], better)
    # Students are paired by seed with both anchors: what does a variant add to gold, what does kd add to the variant?
    students = _students(columns)
    for anchor in ("hard", "kd"):
        if anchor in columns:
            differences = {
                name: _difference(columns[name], columns[anchor], better) for name in students if name != anchor
            }
            summary[f"minus_{anchor}"] = differences
    return summary


def _students(columns: Iterable[str]) -> list[str]:
    """Of a row's columns those of students: variants, their further generations, fine-tuned ones."""
    return [name for name in columns if name.split("-")[0] in NEEDS_TEACHER]


def _difference(a: np.ndarray, b: np.ndarray, higher_is_better: bool) -> dict[str, Any]:
    difference = paired_difference(a, b, higher_is_better=higher_is_better)
    se = None if np.isnan(difference.se) else difference.se
    return {"mean": difference.mean, "se": se, "n": difference.n, "verdict": difference.verdict}


# ---- on a terminal -------------------------------------------------------------------------------------------------
TITLES = {
    "score": "Score x 100 (the task's own metrics; higher is better)",
    "score_mm": "Score x 100 on the mismatched split",
    "accuracy": "Accuracy x 100",
    "kl_truth": "Distance to the truth: KL(truth, model) x 100, in nats (lower is better)",
    "nll": "Negative log-likelihood of gold x 100, in nats (lower is better)",
    "ece": "Expected calibration error x 100 (lower is better)",
}


def render_report(report: dict[str, Any], console: Console, *, full: bool = False) -> None:
    """Score and distance to the truth; with `full` every metric."""
    names = [name for name in report["tables"] if full or name in ("score", "score_mm", "kl_truth")]
    for name in names:
        console.print(_drawn(report["tables"][name], TITLES[name], report))
    for name in ("score", "kl_truth"):
        row = next((row for row in report["tables"].get(name, ()) if row["name"] == AVERAGES["teacher"]), None)
        if row is not None and set(_students(row)) - {"hard", "kd"}:
            console.print(_controls(row, TITLES[name]))
        if row is not None and any(column.startswith(("ens-", "soup-")) for column in row):
            console.print(_other_ensembles(row, TITLES[name]))
    console.print(_in_words(report), highlight=False)


def _drawn(rows: list[dict[str, Any]], title: str, report: dict[str, Any]) -> Table:
    columns = [column for column in COLUMNS if any(column in row for row in rows)]
    table = Table(title=f"[bold]{title}[/bold]", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", no_wrap=True)
    for column in columns:
        table.add_column(COLUMNS[column].replace(" ", "\n", 1), justify="right", style=_STYLES[column], no_wrap=True)
    if any("difference" in row for row in rows):
        table.add_column("KD minus\nno KD", justify="right", no_wrap=True)
        table.add_column("says")
    for row, before in zip(rows, [None, *rows], strict=False):
        if row.get("average") and before is not None and not before.get("average"):
            table.add_section()
        cells = [f"[bold]{row['name']}" if row.get("average") else row["name"] + (" *" if row["teacher"] else "")]
        cells += [_cell(row.get(column)) for column in columns]
        if "difference" in row:
            verdict = row["difference"]["verdict"]
            cells += [_cell(row["difference"], sign=True), _VERDICT_STYLES.get(verdict, "[dim]") + verdict]
        table.add_row(*cells)
    return table


def _controls(row: dict[str, Any], title: str) -> Table:
    """Every student variant on the tasks with a teacher, beside the two that it is compared with."""
    table = Table(title=f"[bold]What teaches? Tasks with a teacher. {title}[/bold]", title_justify="left",
                  box=box.SIMPLE_HEAD, pad_edge=False)  # fmt: skip
    table.add_column("student", no_wrap=True)
    for heading in ("mean", "minus hard", "says", "minus kd", "says"):
        table.add_column(heading, justify="left" if heading == "says" else "right", no_wrap=True)
    for name in _students(row):
        cells = [f"{name}  [dim]{_VARIANT_WORDS.get(name, '')}[/dim]", _cell(row[name])]
        for anchor in ("hard", "kd"):
            difference = row.get(f"minus_{anchor}", {}).get(name)
            cells += [_cell(difference, sign=True), _verdict(difference)]
        table.add_row(*cells)
    return table


def _other_ensembles(row: dict[str, Any], title: str) -> Table:
    short = title.partition(" (")[0].partition(":")[0]
    table = Table(title=f"[bold]Ways of combining. {short}[/bold]", title_justify="left", box=box.SIMPLE_HEAD,
                  pad_edge=False)  # fmt: skip
    table.add_column("ensemble", no_wrap=True)
    table.add_column("mean of tasks", justify="right", no_wrap=True)
    table.add_row("the teachers' targets", _cell(row["ensemble"]))
    for name in row:
        if name.startswith(("ens-", "soup-")):
            table.add_row(name, _cell(row[name]))
    return table


def _verdict(difference: dict[str, Any] | None) -> str:
    verdict = "" if difference is None else difference["verdict"].replace("difference", "diff.")
    return _VERDICT_STYLES.get(verdict, "[dim]") + verdict if verdict else ""


_VARIANT_WORDS = {
    "hard": "gold alone",
    "kd": "the teachers",
    "label_smoothing": "uniform teacher",
    "cwtm": "gold by confidence",
    "dkpp": "wrong classes permuted",
    "adaptive_smoothing": "wrong classes evened",
    "truth": "exact posterior",
}
# Colours as everywhere in the project: teachers violet, student orange, student without distillation blue.
_STYLES = {"single": "", "best_teacher": "magenta", "ensemble": "magenta", "hard": "blue", "kd": "orange3"}
_VERDICT_STYLES = {"better": "[green]", "worse": "[red]"}


def _cell(value: dict[str, Any] | None, *, sign: bool = False) -> str:
    if value is None:
        return ""
    text = f"{100 * value['mean']:+.1f}" if sign else f"{100 * value['mean']:.1f}"
    return text if value["se"] is None else f"{text} ± {100 * value['se']:.1f}"


def _in_words(report: dict[str, Any]) -> str:
    n_seeds, n_members = report["n_seeds"], report["n_members"]
    lines = [
        f"* has a teacher. Split '{report['split']}', {sum(report['n_examples'].values())} examples. "
        f"± is one standard error over {n_members} members or {n_seeds} student seed{'s' if n_seeds > 1 else ''}; "
        "the difference is paired by seed."
    ]
    for row in report["tables"]["score"]:
        if row["name"] == AVERAGES["teacher"] and "difference" in row:
            lines.append(f"Distillation on tasks with a teacher: {_sentence(row['difference'])}.")
        if row["name"] == AVERAGES["no_teacher"] and "difference" in row:
            lines.append(f"On tasks without one: {_sentence(row['difference'])}.")
    if report["preset"] == "smoke":
        lines.append("This is the smoke preset: it proves that everything runs, and its numbers mean nothing.")
    return "\n".join(lines)


def _sentence(difference: dict[str, Any]) -> str:
    if difference["se"] is None:
        return f"{100 * difference['mean']:+.1f} points with one seed, which shows nothing; use distill.seeds=5"
    words = "no difference" if difference["verdict"] == "no difference" else difference["verdict"]
    return f"{words} ({100 * difference['mean']:+.2f} ± {100 * difference['se']:.2f} points, n = {difference['n']})"
