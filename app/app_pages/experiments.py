"""Experiments: what named grids over draws of the data and student seeds found, figure and tables.

Read from the files of scores in the folder of runs or in its folder `results` (`python -m core experiment` writes
them). The page is about no run; what it says is made of a file's scores by core/findings, as docs/results is.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import streamlit as st

from app import show, state
from core.findings import Findings, found_in, lines, read_findings
from core.findings.drawing import figure
from core.findings.pages import WORDS, difference_in_words, how_found, mean_words, shown


def results_in(folder: Path) -> dict[str, Path]:
    """Files of scores by name; a link that leads out of the folder is none."""
    inside = [path for place in (folder, folder / "results") if place.is_dir() for path in found_in(place)]
    return {path.stem: path for path in inside if path.resolve().is_relative_to(folder.resolve())}


def means_view(findings: Findings, tasks: list[str], metrics: list[str], *, key: str) -> None:
    """A row a cell, on the mean of `tasks`: value and difference of each metric."""
    labels = [cell["label"] for cell in findings.about["cells"]]
    columns: dict[str, list[str]] = {"cell": labels}
    for metric in metrics:
        of_cell = {line.cell: line for line in lines(findings, tasks, metric)}
        if not of_cell:
            continue
        columns[WORDS[metric]] = [mean_words(of_cell[label].value) if label in of_cell else "" for label in labels]
        if any(line.difference for line in of_cell.values()):
            told = [difference_in_words(of_cell[label]) if label in of_cell else "" for label in labels]
            columns[f"{WORDS[metric]}: difference"] = told
    st.dataframe(pa.table(columns), hide_index=True, key=key, alt=f"{findings.name}, mean of {', '.join(tasks)}")


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
            means_view(findings, tasks, metrics, key=f"means-{taught}-{name}")
    task = state.choice("One task", ["", *about["tasks"]], key="of", default="", words=lambda name: name or "choose")
    if task:
        means_view(findings, [task], ["score", *shown(findings)[1:]], key=f"task-{task}-{name}")
    correction = " The correction is Holm's, at 5 %, for all rows of a column."
    show.plain(how_found(findings).replace("`", "").replace("*", "") + correction, faint=True)
