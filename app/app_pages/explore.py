"""Explore: which examples? Filters on the left, a density of all of them, and their table, page by page.

A rectangle drawn over the density becomes a filter of all rows by its coordinates, not of the points that happen to be
drawn; a click on a point or a row opens the example. The whole state is in the URL.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import streamlit as st

from app import export, links, show, state
from app.filtering import (
    FILE_ORDER,
    boxed,
    filter_widgets,
    in_order,
    order_of,
    order_query,
    ordered_rows,
    page_turned,
    write_filter,
)
from core.calibration import IntArray
from core.config import digest
from core.plots.densities import Group, density_scatter
from core.plots.style import GAIN, LOSS
from core.store import Run
from core.tasks import Task
from core.views import paging
from core.views.cohorts import GAINS, LOSSES
from core.views.derived import COHORTS, COLUMNS, available, column
from core.views.filters import Filter, apply, in_words, to_query
from core.views.table import BASELINE, TaskTable

SIZES = (25, 50, 100)
FEW = 1000  # examples of which no scale of the shading is needed: the points are all there
AXES = {"classes": ("entropy", "kl"), "regression": ("teacher_value", "gap")}
MOUSE = {"pan": "Click opens an example", "select": "Drag keeps a rectangle"}
MARKS = {True: "✓ ", False: "✗ "}


def summary_line(table: TaskTable, filter_: Filter, n: int) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**{n:,}** of {len(table):,} examples: {show.literal(in_words(filter_))}", width="stretch")
        plain = Filter(split=filter_.split, student_is=filter_.student_is)
        if filter_ != plain:
            st.button("Clear filters", icon=":material/filter_alt_off:", on_click=write_filter, args=(plain,))
        if n:
            with st.popover("Export", icon=":material/download:"):
                st.caption("The selection in its order, with the filter written into the file.")
                for ending, make, mime in (
                    ("parquet", export.as_parquet, "application/vnd.apache.parquet"),
                    ("csv", export.as_csv, "text/csv"),
                ):
                    st.download_button(
                        f"{ending.upper() if ending == 'csv' else 'Parquet'}, {n:,} rows",
                        # Made when it is clicked: a million rows take seconds.
                        lambda make=make: make(export.selection_table(table, in_order(table, filter_, order), filter_)),
                        file_name=export.file_name(table, n, ending),
                        mime=mime,
                        on_click="ignore",
                        width="stretch",
                    )


def density(run: Run, task: Task, table: TaskTable, filter_: Filter) -> None:
    """All rows of the filter but for its ranges of the two axes, which are drawn as a rectangle."""
    student = filter_.student_is
    have = [name for name in available(table, student=student) if COLUMNS[name].kind == "number"]
    if len(have) < 2:
        show.empty(
            "Nothing to draw yet",
            "A density needs two quantities of the teachers or students, and this split has predictions of neither.",
            f"python -m core run --out {run.path}",
        )
        return
    wanted = AXES["regression" if table.is_regression else "classes"]
    x_default, y_default = (name if name in have else None for name in wanted)
    x_default = x_default or next(name for name in have if name != y_default)
    y_default = y_default or next(name for name in have if name != x_default)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        x = state.choice("Across", have, key="x", default=x_default, words=lambda name: COLUMNS[name].words, width=280)
        y = state.choice("Up", have, key="y", default=y_default, words=lambda name: COLUMNS[name].words, width=280)
        # Streamlit lets points be clicked in one mode of the mouse and rectangles be drawn in the other.
        mouse = state.choice(
            "Mouse", list(MOUSE), key="mouse", default="pan", kind="segmented", words=MOUSE.__getitem__
        )
    if x == y:
        show.empty("Both axes show the same", "Choose two different quantities.")
        return
    around = filter_.with_range(x).with_range(y)
    rows = apply(around, table)
    x_N, y_N = (column(table, name, student=student) for name in (x, y))
    known = rows[np.isfinite(x_N[rows]) & np.isfinite(y_N[rows])]
    if not len(known):
        show.empty("Nothing to draw", f"None of these examples has both {COLUMNS[x].words} and {COLUMNS[y].words}.")
        return
    drawn = np.searchsorted(known, paging.sample(table, known))
    fig = density_scatter(
        x_N[known], y_N[known], drawn, x_name=COLUMNS[x].words, y_name=COLUMNS[y].words,
        groups=changed_answers(table, student, known),
    )  # fmt: skip
    if len(known) < FEW:
        fig.update_traces(showscale=False, selector={"type": "heatmap"})
    ranges = {entry.column: entry for entry in filter_.ranges}
    if x in ranges or y in ranges:
        sides = {}
        for axis, name in (("x", x), ("y", y)):
            entry, shown = ranges.get(name), fig.layout[f"{axis}axis"].range
            sides[f"{axis}0"] = shown[0] if entry is None or entry.low is None else entry.low
            sides[f"{axis}1"] = shown[1] if entry is None or entry.high is None else entry.high
        fig.add_shape(type="rect", **sides, line={"color": "#e8710a", "width": 2, "dash": "dash"})
    fig.update_layout(dragmode=mouse)
    mark = digest([run.path.name, task.name, table.split, to_query(filter_), x, y, mouse])
    selection = show.figure(fig, key=f"density-{mark}", on_select="rerun", modes=("points", "box"))
    if selection["box"]:
        narrowed = boxed(filter_, selection["box"][0], x, y)
        if narrowed != filter_:
            write_filter(narrowed)
            st.rerun()
    else:
        position = show.clicked(selection)
        if position is not None and position < len(known):
            open_row(run, task, table, int(known[position]), filter_)
    st.caption(
        "Click a point to open its example." if mouse == "pan" else "What lies in a rectangle is kept, drawn or not."
    )


def changed_answers(table: TaskTable, student: str, rows: IntArray) -> list[Group]:
    """Where distillation changed a wrong answer into a right one, and the other way round."""
    if "cohort" not in available(table, student=student):
        return []
    codes = column(table, "cohort", student=student)[rows]
    gained, lost = (np.isin(codes, [COHORTS.index(name) for name in names]) for names in (GAINS, LOSSES))
    return [
        Group("right by distillation", gained, GAIN, "circle"),
        Group("wrong by distillation", lost, LOSS, "x"),
    ]


def open_row(run: Run, task: Task, table: TaskTable, row: int, filter_: Filter) -> None:
    links.open_example(run, task, table.ids[row].as_py(), filter_, **order_query(st.query_params))


def rows_table(run: Run, task: Task, table: TaskTable, filter_: Filter, rows: IntArray) -> None:
    """One page, picked on the server; sorting by a click on a column's head would sort that page alone."""
    student = filter_.student_is
    have = [name for name in available(table, student=student) if COLUMNS[name].kind == "number"]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        state.choice(
            "Order by",
            [*have, FILE_ORDER],
            key="order",
            default="kl" if "kl" in have else FILE_ORDER,
            words=lambda name: "order of the file" if name == FILE_ORDER else COLUMNS[name].words,
            width=280,
        )
        state.choice(
            "Direction",
            ["yes", "no"],
            key="desc",
            default="yes",
            kind="segmented",
            words=lambda name: {"yes": "Largest first", "no": "Smallest first"}[name],
        )
        size = int(state.choice("Rows", [str(size) for size in SIZES], key="rows", default="25", kind="segmented"))
    order = order_of(st.query_params, table, student)
    asked = asked_page(st.query_params.get("page", "1"))
    if asked == 1:  # the first page is cheaper without a sort of all rows
        page = paging.page(table, rows, order_by=order.by, descending=order.descending, page_size=size, student=student)
    else:
        page = paging.page(table, ordered_rows(table, filter_, order), page=asked, page_size=size)
    # The page, what it is a page of and its rows are in the key: a selection is a position, and would else move to
    # other rows, also where the run was written meanwhile.
    ids = [table.ids[int(row)].as_py() for row in page.rows]
    mark = digest([run.path.name, task.name, to_query(filter_), order, page.page, size, ids])
    event = st.dataframe(
        page_table(table, page.rows, student),
        key=f"examples-{mark}",
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        row_height=36,
        height=min(36 * (len(page.rows) + 1) + 4, 960),
        column_config=COLUMN_CONFIG,
        alt=f"Examples {(page.page - 1) * size + 1} to {(page.page - 1) * size + len(page.rows)} of {page.n_rows:,}",
    )
    picked = event["selection"]["rows"]
    if picked:
        open_row(run, task, table, int(page.rows[picked[0]]), filter_)
    if page.n_pages > 1:
        key = f"pages-{mark}"
        st.pagination(page.n_pages, default=page.page, key=key, on_change=page_turned, args=(key,))


def asked_page(text: str) -> int:
    """The number of a page in the address; 1 for what is none."""
    return max(1, int(text)) if text.isdecimal() and len(text) < 10 else 1


COLUMN_CONFIG = {
    "text": st.column_config.TextColumn(width=220),
    "second text": st.column_config.TextColumn(width=180),
    "candidates": st.column_config.ListColumn(width=300),
    **{name: st.column_config.TextColumn(width=96) for name in ("gold", "teacher", "student", "no KD")},
    "cohort": st.column_config.TextColumn(width=84, help="Who is right: see the filter on the left"),
    "KL": st.column_config.NumberColumn(format="%.3f", width=64, help="KL(teacher, student) in nats"),
    **{
        name: st.column_config.NumberColumn(format="%.3f", width=82)
        for name in ("entropy", "disagreement", "gold value", "teacher ", "student ", "gap")
    },
}


def page_table(table: TaskTable, rows: IntArray, student: str) -> pa.Table:
    """Texts and the short form of everything else; texts of a table are shown as they are."""
    texts = table.texts(rows)
    columns: dict[str, object] = {"text": [text.text_a for text in texts]}
    if any(text.text_b is not None for text in texts):
        columns["second text"] = [text.text_b for text in texts]
    if any(text.candidates for text in texts):
        columns["candidates"] = [list(text.candidates or ()) for text in texts]
    have = available(table, student=student)
    if table.is_regression:
        numbers = {"gold value": "gold_value", "teacher ": "teacher_value", "student ": "student_value", "gap": "gap"}
    else:
        labels = table.task.labels
        gold = table.gold_N[rows]
        columns["gold"] = [labels[i] if i >= 0 else None for i in gold]
        for name, voice in (("teacher", "teacher"), ("student", student), ("no KD", BASELINE)):
            if voice in table.voices:
                said = table.answers(voice)[rows]
                columns[name] = [
                    (MARKS[bool(a == g)] if g >= 0 else "") + labels[a] for a, g in zip(said, gold, strict=True)
                ]
        if "cohort" in have:
            codes = column(table, "cohort", student=student)[rows]
            columns["cohort"] = [COHORTS[code] if code >= 0 else None for code in codes]
        numbers = {"KL": "kl", "entropy": "entropy", "disagreement": "disagreement"}
    for title, name in numbers.items():
        if name in have:
            columns[title] = column(table, name, student=student)[rows]
    columns["example"] = [text.example_id.split("/", 1)[-1] for text in texts]
    return pa.table(columns)


# ---- the page ------------------------------------------------------------------------------------------------------
run = state.current_run()
task = state.current_task(run)
split = state.current_split(run, task)
with state.guarded("These examples cannot be shown"):
    filter_ = links.filter_of(dict(st.query_params.items()), task, split)
    table = state.current_table(run, task, split)
    order = order_of(st.query_params, table, filter_.student_is)
    rows = apply(filter_, table)
    with st.sidebar:
        filter_widgets(table, filter_, rows)
    summary_line(table, filter_, len(rows))
    if len(rows):
        density(run, task, table, filter_)
        rows_table(run, task, table, filter_, rows)
    else:
        show.empty(
            "No example passes this filter",
            f"The filter is: {in_words(filter_)}. Loosen it on the left, or clear it above.",
            icon=":material/filter_alt_off:",
        )
