"""Example: who said what about one example, where the student landed, and what the loss asks of it there.

J and K step through the examples of the filter in the order of explore's table. A second example can be pinned beside
it. The address of the page opens exactly this.
"""

from __future__ import annotations

import numpy as np
import streamlit as st

from app import cards, links, show, state
from app.filtering import order_of, order_query, ordered_rows
from core.calibration import IntArray
from core.config import digest
from core.views import NotDefined
from core.views.filters import Filter, in_words
from core.views.table import TaskTable


def stepper(table: TaskTable, row: int, rows: IntArray, filter_: Filter) -> None:
    """Previous and next in the filter, pin, and the way back to the table."""
    at = np.flatnonzero(rows == row)
    here = int(at[0]) if len(at) else None

    # A session keeps the callbacks of its buttons: an id, not the rows.
    def id_at(position: int | None) -> str | None:
        is_there = position is not None and 0 <= position < len(rows)
        return table.ids[int(rows[position])].as_py() if is_there else None

    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        before, after = (None, id_at(0)) if here is None else (id_at(here - 1), id_at(here + 1))
        st.button(
            "Previous",
            icon=":material/arrow_back:",
            shortcut="K",
            on_click=state.set_query,
            kwargs={"ex": before},
            disabled=before is None,
        )
        st.button(
            "Next",
            icon=":material/arrow_forward:",
            shortcut="J",
            on_click=state.set_query,
            kwargs={"ex": after},
            disabled=after is None,
        )
        words = show.literal(in_words(filter_))
        where = f"**{here + 1:,}** of {len(rows):,} in: {words}" if here is not None else f"not among: {words}"
        st.markdown(where, width="stretch")
        example_id = table.ids[row].as_py()
        pinned = st.query_params.get("pin")
        if pinned is None:
            st.button("Pin to compare", icon=":material/keep:", on_click=state.set_query, kwargs={"pin": example_id})
        else:
            st.button("Unpin", icon=":material/keep_off:", on_click=state.set_query, kwargs={"pin": None})
        links.explore_link("Table", run, task, filter_, **order_query(st.query_params))


def panel(table: TaskTable, row: int, student: str, *, wide: bool) -> None:
    example_id = table.ids[row].as_py()
    st.caption(show.literal(example_id))
    left, right = st.columns([2, 3], gap="medium") if wide else (st.container(), st.container())
    with left:
        cards.text_box(table, row, student)
        if said := cards.story(table, row, student):
            st.markdown(said)
    with right:
        try:
            fig = cards.card(table, row, student)
        except ValueError as error:
            show.empty("Nobody has said anything yet", error)
        else:
            show.figure(fig, key=f"card-{digest([example_id, student])}")
    cards.tiles(table, row, student)


def details(table: TaskTable, row: int, student: str, filter_: Filter) -> None:
    left, right = st.columns(2, gap="medium")
    with left:
        st.subheader("What the loss asks here", anchor=False)
        teaching = cards.teaching_of(run, task)
        if teaching is None:
            show.empty("Not defined here", cards.why_no_teaching(run, task))
        else:
            with state.guarded():
                cards.loss_box(table, row, student, cards.loss_terms(table, row, student, teaching))
                st.page_link(
                    "app_pages/loss_lab.py",
                    label="Other alphas and temperatures for this example",
                    icon=":material/science:",
                    query_params={**links.place(run, task, table.split), "ex": table.ids[row].as_py()},
                )
    with right:
        st.subheader("Examples that the teachers see alike", anchor=False)
        with state.guarded():
            found, distances, among = cards.neighbours(table, row, student)
            if not len(found):
                raise NotDefined(f"No other example is in {among}.")
            st.caption(f"Nearest in the teachers' distribution, among {among}; the number is the distance.")
            for text, distance in zip(table.texts(found), distances, strict=True):
                words = " / ".join(part for part in (text.text_a, text.text_b) if part)
                links.example_link(
                    f"{distance:.3f} · {show.literal(words if len(words) <= 80 else words[:79] + '…')}",
                    run,
                    task,
                    text.example_id,
                    filter_,
                    **order_query(st.query_params),
                )


# ---- the page ------------------------------------------------------------------------------------------------------
run = state.current_run()
task = state.current_task(run)
split = state.current_split(run, task)
with state.guarded("This example cannot be shown"):
    filter_ = links.filter_of(dict(st.query_params.items()), task, split)
    table = state.current_table(run, task, split)
    student = filter_.student_is
    rows = ordered_rows(table, filter_, order_of(st.query_params, table, student))
    asked = st.query_params.get("ex")
    if asked is None and not len(rows):
        show.empty("No example passes this filter", f"The filter is: {in_words(filter_)}.")
        links.explore_link("Change it on explore", run, task, filter_)
        state.stop()
    try:
        row = table.row_of(asked) if asked is not None else int(rows[0])
    except ValueError as error:
        show.empty("No such example here", error, icon=":material/link_off:")
        if len(rows):
            first = table.ids[int(rows[0])].as_py()
            links.example_link("Open the first example of the filter", run, task, first, filter_)
        state.stop()
    stepper(table, row, rows, filter_)
    pinned = st.query_params.get("pin")
    if pinned is None:
        panel(table, row, student, wide=True)
    else:
        left, right = st.columns(2, gap="large")
        with left:
            panel(table, row, student, wide=False)
        with right, state.guarded("The pinned example is not here"):
            if pinned == table.ids[row].as_py():
                show.empty("This example is pinned", "Step to another one with J or K to compare the two.")
            else:
                panel(table, table.row_of(pinned), student, wide=False)
    details(table, row, student, filter_)
