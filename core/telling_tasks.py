"""What `python -m core tasks check my_tasks.yaml` says: how each task was understood, with three of its rows,
or what is wrong and how to mend it. Every task is looked at, also behind one that is wrong.

Not here: reading and checking themselves (core/tasks, core/data); a run does the same and stops at the first mistake.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.data import LoadedTask, load_task
from core.tasks import Task, load_tasks_yaml

N_ROWS = 3
LONGEST = 300  # characters of a text that are shown


class Checked(NamedTuple):
    """`problem` is the sentence that a run would stop with; `loaded` is None then."""

    task: Task
    loaded: LoadedTask | None
    problem: str | None


def check_tasks(path: Path, files_dir: Path | None = None) -> list[Checked]:
    """Reads every file of every task. Raises `ValueError` for a YAML file that is itself not understood."""
    return [_checked(task) for task in load_tasks_yaml(path, files_dir).values()]


def _checked(task: Task) -> Checked:
    try:
        return Checked(task, load_task(task, source="files"), None)
    except ValueError as error:
        return Checked(task, None, str(error))


def render_checked(checked: list[Checked], console: Console) -> None:
    for one in checked:
        console.print(f"\n[bold]{escape(one.task.name)}[/bold]")
        for name, words in _understood(one):
            console.print(f"  {name:<11} {escape(words)}", highlight=False, soft_wrap=True)
        if one.loaded is not None:
            console.print(_examples(one.task, one.loaded.table))
        else:
            console.print(f"  [bold red]wrong[/bold red]       {escape(one.problem or '')}", soft_wrap=True)


def _understood(one: Checked) -> Iterator[tuple[str, str]]:
    task = one.task
    teacher = "with teachers" if task.has_teacher else "without a teacher"
    yield "kind", f"{task.kind}, head '{task.head}', {teacher}; scored by {', '.join(task.metrics)}"
    second = f", text_b = '{task.text_b}'" if task.text_b else ""
    second += f", candidates = '{task.candidates}'" if task.candidates else ""
    yield "columns", f"text_a = '{task.text_a}'{second}, label = '{task.label}'"
    yield "files", ", ".join(f"{split}: {file}" for split, file in task.files)
    if one.loaded is None:
        return
    table = one.loaded.table
    yield "rows", ", ".join(f"{split} {n}" for split, n in _counts(table["split"]).items())
    train = table.filter(pc.equal(table["split"], "train"))
    if task.kind == "regression":
        low, high = pc.min_max(train["gold_value"]).as_py().values()
        yield (
            "values",
            f"{low:g} to {high:g} in train, on a scale from {task.score_range[0]:g} to {task.score_range[1]:g}",
        )
    else:
        counts = _counts(train["gold_label"])
        yield "labels", ", ".join(f"{label} {counts.get(label, 0)}" for label in task.labels) + " (in train)"
    for column, words in (
        ("human_probs", "a distribution of annotators"),
        ("human_mean", "a mean of annotators"),
        ("true_probs", "a true distribution"),
        ("true_mean", "a true mean"),
    ):
        if column in table.column_names and (n := len(table) - table[column].null_count):
            most = pc.max(table["n_humans"]).as_py()
            people = f" (up to {most} a row)" if column.startswith("human") and most else ""
            yield "known", f"{words} for {n} of {len(table)} rows{people}: {column}"
    if one.loaded.dropped:
        yield "left out", ", ".join(f"{n} ({reason})" for reason, n in one.loaded.dropped.items())


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in pc.value_counts(column.combine_chunks()).to_pylist()}


def _examples(task: Task, table: pa.Table) -> Table:
    """The first rows of train, of different labels where that goes."""
    train = table.filter(pc.equal(table["split"], "train"))
    gold = train["gold_value" if task.kind == "regression" else "gold_label"].to_pylist()
    first = [gold.index(value) for value in dict.fromkeys(gold)]
    rows = sorted([*first, *(i for i in range(len(gold)) if i not in set(first))][:N_ROWS])
    known = [name for name in ("human_probs", "human_mean", "true_probs", "true_mean") if name in train.column_names]
    known = [name for name in known if train[name].null_count < len(train)]
    texts = [name for name in ("text_a", "text_b", "candidates") if name in train.column_names]
    drawn = Table(title="three rows of train", title_justify="left", show_lines=True)
    for name in ("example_id", *texts, "gold", *known):
        drawn.add_column(name, overflow="fold")
    for i, row in zip(rows, train.take(pa.array(rows)).to_pylist(), strict=True):
        cells = [row["example_id"], *(row[name] for name in texts), gold[i], *(row[name] for name in known)]
        drawn.add_row(*(escape(_said(cell)) for cell in cells))
    return drawn


def _said(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, list):
        return "\n".join(_said(one) for one in cell)
    text = f"{cell:.3g}" if isinstance(cell, float) else str(cell)
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."
