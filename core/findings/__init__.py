"""What an experiment found: its raw scores, read back, and who differs from whom by how much.

`<name>.parquet` has a row a draw of the data, student (or member), cell, task and metric; its metadata holds the
question, the cells and what it took (`About`). Everything that is shown (core/findings/pages, .drawing) is made of this
file alone, so that a page can be compared with it.

Shapes: D draws of the data, S seeds (or members; 1 for an ensemble).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.comparisons import Nested, holm, nested_mean
from core.files import atomic
from core.metrics import HIGHER_IS_BETTER

SCHEMA = pa.schema(
    [
        ("experiment", pa.string()),
        ("data_seed", pa.int64()),
        ("seed", pa.int64()),  # a student's; null for members and ensembles
        ("cell", pa.string()),
        ("model", pa.string()),
        ("task", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
    ]
)
METRICS = ("score", "accuracy", "kl_truth", "kl_humans", "ece", "nll")
ABOUT = b"about"
# What is read of it here and by whoever shows it.
NEEDED = {"title", "question", "against", "cells", "tasks", "split", "preset", "data_seeds", "seeds", "command"}
NEEDED |= {"trainings", "job_seconds", "machine", "versions"}
ALPHA = 0.05


class Findings(NamedTuple):
    """`about` is what core/experiment says of itself; `scores` by (cell, task, metric) are (D, S)."""

    name: str
    about: dict[str, Any]
    scores: dict[tuple[str, str, str], np.ndarray]

    def tasks(self, *, taught: bool) -> list[str]:
        return [name for name, has_teacher in self.about["tasks"].items() if has_teacher == taught]


class Line(NamedTuple):
    """One cell on the mean of some tasks. `difference`: the cell minus the one that it is compared with, paired by draw
    and seed (or member); None for that one itself, and where nothing is to compare. `verdict` is core/comparisons'
    word; `survives`: also after Holm's correction for all comparisons beside it, of one metric."""

    cell: str
    value: Nested
    difference: Nested | None
    verdict: str
    survives: bool


def write_findings(path: Path, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    table = pa.Table.from_pylist(list(rows), SCHEMA).replace_schema_metadata({ABOUT: json.dumps(about)})
    # A pivot of the same few words: dictionaries and zstd make it a tenth.
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_findings(path: Path) -> Findings:
    """Raises `ValueError` for a file that is not of an experiment."""
    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[ABOUT])
        rows = table.select(SCHEMA.names).to_pylist()
        if missing := NEEDED - about.keys():
            raise ValueError(f"its metadata lack {', '.join(sorted(missing))}")
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is no result of an experiment ({error}); `python -m core experiment` writes them"
        ) from error
    seen: dict[tuple[str, str, str], dict[int, list[float]]] = {}
    for row in rows:  # in the order of the seeds
        seen.setdefault((row["cell"], row["task"], row["metric"]), {}).setdefault(row["data_seed"], []).append(
            row["value"]
        )
    scores = {key: np.array([of_draw[draw] for draw in about["data_seeds"]]) for key, of_draw in seen.items()}
    return Findings(path.stem, about, scores)


def found_in(folder: Path) -> list[Path]:
    """The results of experiments in a folder, in the order of their names."""
    return [path for path in sorted(folder.glob("*.parquet")) if ABOUT in (pq.read_schema(path).metadata or {})]


def mean_over(findings: Findings, cell: str, tasks: Sequence[str], metric: str) -> np.ndarray | None:
    """(D, S) means over those of `tasks` that have the metric; None where none has."""
    of_tasks = [findings.scores[key] for task in tasks if (key := (cell, task, metric)) in findings.scores]
    return np.mean(of_tasks, axis=0) if of_tasks else None


def lines(findings: Findings, tasks: Sequence[str], metric: str) -> list[Line]:
    """Every cell that has the metric, in the experiment's order, on the mean of `tasks`."""
    compared = {cell["label"]: cell["against"] for cell in findings.about["cells"]}
    values = {cell: own for cell in compared if (own := mean_over(findings, cell, tasks, metric)) is not None}
    found = []
    for cell, own in values.items():
        against, difference, said = compared[cell], None, ""
        if against in values and against != cell and own.shape == values[against].shape:
            difference = nested_mean(own - values[against])
            said = verdict(difference, higher_is_better=HIGHER_IS_BETTER[metric])
        found.append(Line(cell, nested_mean(own), difference, said, survives=False))
    return _corrected(found)


def task_lines(findings: Findings, metric: str) -> dict[str, list[Line]]:
    """`lines` of each task that has the metric, corrected for all of them together."""
    of_task = {task: found for task in findings.about["tasks"] if (found := lines(findings, [task], metric))}
    rest = iter(_corrected([line for found in of_task.values() for line in found]))
    return {task: [next(rest) for _ in found] for task, found in of_task.items()}


def _corrected(family: list[Line]) -> list[Line]:
    adjusted = iter(holm([line.difference.p for line in family if line.difference is not None]))
    return [line if line.difference is None else line._replace(survives=next(adjusted) < ALPHA) for line in family]


def verdict(difference: Nested, *, higher_is_better: bool) -> str:
    """ "no difference" up to two standard errors (STYLE), "one seed" where there is none."""
    if difference.df == 0:
        return "one seed"
    if abs(difference.mean) <= 2 * difference.se or difference.mean == 0:
        return "no difference"
    return "better" if (difference.mean > 0) == higher_is_better else "worse"
