"""`docs/results/real-language.csv` and the page that is made of it and of nothing else (benchmarks/starts measures)."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.people_page import NBSP, markdown
from core.comparisons import MeanSE, mean_and_se, paired_difference
from core.files import atomic

CSV = "real-language.csv"
COLUMNS = ("part", "model", "lr", "seed", "task", "split", "value", "n")
Rows = Sequence[Mapping[str, Any]]
INTRO = """# Real language: does a pre-training help, and does distillation?

Small encoders of two layers. `python -m benchmarks.starts` makes this page of `real-language.csv` and of nothing else;
commands, sizes, machine and times, what was expected, and what was not reached, stand in `LOG.md`.
Scores are GLUE's own, x 100, on the development splits (QNLI, QQP, MNLI and SNLI train on the part that there is);
± is one standard error over seeds, differences are paired by seed, and under two standard errors there is none."""
PIPELINE_PART = "pipeline"
STARTS = """## {part}

One multi-task training of SST-2, CoLA and STS-B a seed, the same rows, steps and word pieces for every start. The
learning rate of each was chosen on the selection split (first table, seed 0)."""
PIPELINE = """## The whole method

\\* has teachers. single: mean of the members; teacher: mean of the chosen members, tuned on the task."""


def write_rows(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "value": f"{row['value']:.6g}"} for row in rows)


def read_rows(path: Path) -> list[dict[str, Any]]:
    numbers = {"value": float, "seed": int, "n": int}
    with open(path, encoding="utf-8", newline="") as file:
        return [{name: numbers.get(name, str)(row[name]) for name in COLUMNS} for row in csv.DictReader(file)]


def page(rows: Rows) -> str:
    parts = [INTRO]
    for part in dict.fromkeys(row["part"] for row in rows if row["part"] != PIPELINE_PART):
        starts = [row for row in rows if row["part"] == part]
        parts += [STARTS.format(part=part), tries(starts), of_starts(starts)]
    if pipeline := [row for row in rows if row["part"] == PIPELINE_PART]:
        parts += [PIPELINE, of_pipeline(pipeline)]
    return "\n\n".join(parts) + "\n"


# ---- starts --------------------------------------------------------------------------------------------------------
def tries(rows: Rows) -> str:
    """Mean selection score of each start and learning rate, seed 0."""
    lrs = dict.fromkeys(row["lr"] for row in rows)
    lines = []
    for start in dict.fromkeys(row["model"] for row in rows):
        means = {lr: _mean(rows, model=start, lr=lr, seed=0, split="selection") for lr in lrs}
        lines.append([start, *(f"{100 * value:.1f}" for value in means.values())])
    return markdown(["selection split, mean of the three", *(f"learning rate {lr}" for lr in lrs)], lines)


def chosen_lr(rows: Rows, start: str) -> str:
    of_start = [row for row in rows if row["model"] == start]
    lrs = dict.fromkeys(row["lr"] for row in of_start)
    return max(lrs, key=lambda lr: _mean(of_start, lr=lr, seed=0, split="selection"))


def of_starts(rows: Rows) -> str:
    """Development scores at the chosen learning rate, and the difference to the first start, paired by seed."""
    starts = list(dict.fromkeys(row["model"] for row in rows))
    tasks = dict.fromkeys(row["task"] for row in rows)

    def values(start: str, task: str) -> list[float]:
        asked = {"model": start, "lr": chosen_lr(rows, start), "task": task, "split": "dev"}
        return [row["value"] for row in rows if all(row[name] == value for name, value in asked.items())]

    lines = []
    for start in starts:
        cells = [_told(mean_and_se(values(start, task))) for task in tasks]
        lines.append([f"{start} (n = {len(values(start, next(iter(tasks))))})", *cells])
    for start in starts[1:]:
        lines.append(
            [f"{start}, minus {starts[0]}", *(_difference(values(start, t), values(starts[0], t)) for t in tasks)]
        )
    return markdown(["development split", *tasks], lines)


# ---- the whole method ----------------------------------------------------------------------------------------------
def of_pipeline(rows: Rows) -> str:
    models = ("single", "teacher", "ensemble", "hard", "kd")
    reported = next(row["split"] for row in rows if row["split"] != "selection")
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["split"] == reported:
            found.setdefault((row["task"], row["model"]), []).append(row["value"])
    taught = [task for task, model in found if model == "teacher"]
    tasks = [*taught, *(task for task in dict.fromkeys(task for task, _ in found) if task not in taught)]
    groups = {"**with a teacher**": taught, "**without**": [task for task in tasks if task not in taught]}
    lines = []
    for name, own in [*((task, [task]) for task in tasks), *groups.items()]:
        means = {
            model: np.mean([found[task, model] for task in own], axis=0)
            for model in models
            if own and all((task, model) in found for task in own)
        }
        if means:
            cells = [_told(mean_and_se(means[model])) if model in means else "" for model in models]
            label = f"{name} *" if own[0] in taught and name == own[0] else name
            lines.append([label.replace(" *", r" \*"), *cells, _difference(means["kd"], means["hard"])])
    header = ["task", "single", "teacher", "ensemble", "no KD", "KD", "KD minus no KD"]
    return markdown(header, lines)


def _mean(rows: Rows, **asked: Any) -> float:
    return float(np.mean([row["value"] for row in rows if all(row[name] == value for name, value in asked.items())]))


def _told(value: MeanSE) -> str:
    error = "" if np.isnan(value.se) else f"{NBSP}±{NBSP}{100 * value.se:.1f}"
    return f"{100 * value.mean:.1f}{error}"


def _difference(a: Sequence[float], b: Sequence[float]) -> str:
    n = min(len(a), len(b))
    found = paired_difference(a[:n], b[:n])
    error = "" if np.isnan(found.se) else f"{NBSP}±{NBSP}{100 * found.se:.1f}"
    return f"{100 * found.mean:+.1f}{error}, {found.verdict}"
