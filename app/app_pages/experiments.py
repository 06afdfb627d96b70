"""Experiments: what named grids over draws of the data and student seeds found, figure and tables.

Read from the files of scores in the folder of runs or in its folder `results` (`python -m core experiment` writes
them). The page is about no run; what it says is made of a file's scores by core/findings, as docs/results is.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import streamlit as st

from app import show, state
from core.findings import Findings, Line, found_in, lines, read_findings, task_lines
from core.findings.drawing import figure
from core.findings.pages import WORDS, difference_in_words, how_found, mean_words, shown


def results_in(folder: Path) -> dict[str, Path]:
    """Files of scores by name; a link that leads out of the folder is none."""
    inside = [path for place in (folder, folder / "results") if place.is_dir() for path in found_in(place)]
    return {path.stem: path for path in inside if path.resolve().is_relative_to(folder.resolve())}


def cells_view(findings: Findings, found: dict[str, list[Line]], *, key: str, alt: str) -> None:
    """A row a cell: value and difference of each metric that has lines."""
    known = {line.cell for of_metric in found.values() for line in of_metric}
    labels = [cell["label"] for cell in findings.about["cells"] if cell["label"] in known]
    columns: dict[str, list[str]] = {"cell": labels}
    for metric, of_metric in found.items():
        of_cell = {line.cell: line for line in of_metric}
        if not of_cell:
            continue
        columns[WORDS[metric]] = [mean_words(of_cell[label].value) if label in of_cell else "" for label in labels]
        if any(line.difference for line in of_cell.values()):
            told = [difference_in_words(of_cell[label]) if label in of_cell else "" for label in labels]
            columns[f"{WORDS[metric]}: difference"] = told
    # Whole: an experiment has some ten or twenty cells, and comparing them is what the table is for.
    table = pa.table(columns)
    st.dataframe(table, hide_index=True, height="content", key=key, alt=f"{findings.name}, {alt}")


folder = state.runs_folder()
files = results_in(folder)
if not files:
    show.empty(
        "No experiments yet",
        f"Neither {folder} nor {folder / 'results'} holds the scores of one. This makes the first in about an hour on "
        "two cores; `make results` runs them all.",
        f"python -m core experiment controls --out {folder / 'results'}",
        icon=":material/science:",
    )
    state.stop()
name = state.choice("Experiment", list(files), key="experiment", default=next(iter(files)))
with state.guarded("This experiment cannot be shown"):
    findings = read_findings(files[name])
    about = findings.about
    st.subheader(show.literal(about["title"]), anchor=False)
    show.plain(about["question"])
    with state.guarded("No figure"):
        show.figure(figure(findings, title=False), key=f"figure-{name}")
    for taught, words, metrics in ((True, "with", shown(findings)), (False, "without", ["score"])):
        if tasks := findings.tasks(taught=taught):
            st.markdown(f"**Tasks {words} a teacher**: {show.literal(', '.join(tasks))}")
            means = {metric: lines(findings, tasks, metric) for metric in metrics}
            cells_view(findings, means, key=f"means-{taught}-{name}", alt=f"mean of {', '.join(tasks)}")
    task = state.choice("One task", ["", *about["tasks"]], key="of", default="", words=lambda name: name or "choose")
    if task:
        of_task = {metric: task_lines(findings, metric).get(task, []) for metric in ("score", *shown(findings)[1:])}
        cells_view(findings, of_task, key=f"task-{task}-{name}", alt=task)
    correction = " The correction is Holm's, at 5 %, for the rows of a column, and of one task for all tasks."
    show.plain(how_found(findings).replace("`", "").replace("*", "") + correction, faint=True)
