"""The filter and the order of explore and example: from the URL, as widgets, back into the URL, as rows.

Every widget shows a field of `core.views.filters.Filter` and its callback writes the changed filter into the URL; the
page then reads it from there like from any link. Counts beside a facet's values are those among the rows that all other
facets leave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, cast

import numpy as np
import streamlit as st

from app import state
from app.words import taught_by
from core.calibration import IntArray
from core.views import paging
from core.views.counts import facets
from core.views.derived import COHORT_IN_WORDS, COLUMNS, available, column
from core.views.filters import KEYS, RANGED, Filter, apply, to_query
from core.views.table import BASELINE, TaskTable

FILE_ORDER = "file"
FACETS = {
    "gold": "Gold is",
    "teacher": "The teacher says",
    "student": "The student says",
    "baseline": "The student without distillation says",
    "cohort": "Cohort",
    "agree": "Teacher and student agree",
    "unanimous": "The members are unanimous",
}
# Sliders that are always there; another column becomes one when the filter has a range of it.
SLIDERS = ("kl", "entropy", "disagreement", "gap", "teacher_error", "spread")


class Order(NamedTuple):
    """`by` None: the order of the file."""

    by: str | None
    descending: bool


def order_of(query: Mapping[str, str], table: TaskTable, student: str) -> Order:
    """Of the URL's `order` and `desc`. Default: the largest KL first, where there is one."""
    have = available(table, student=student)
    by = query.get("order", "kl" if "kl" in have else FILE_ORDER)
    return Order(None if by == FILE_ORDER or by not in have else by, query.get("desc", "yes") != "no")


def order_query(query: Mapping[str, str]) -> dict[str, str]:
    """The part of a URL that says the order, to be handed on to another page."""
    return {key: query[key] for key in ("order", "desc") if key in query}


def ordered_rows(table: TaskTable, filter_: Filter, order: Order) -> IntArray:
    """All rows of the filter in their order, kept with the table: a step to the next must not sort a million."""
    return cast(IntArray, table.kept.once(("order", filter_, order), lambda: in_order(table, filter_, order)))


def in_order(table: TaskTable, filter_: Filter, order: Order) -> IntArray:
    """All rows of the filter in their order: a full sort, a tenth of a second for a million."""
    rows = apply(filter_, table)
    if order.by is None or not len(rows):
        return rows
    student, n = filter_.student_is, len(rows)
    return paging.page(table, rows, order_by=order.by, descending=order.descending, page_size=n, student=student).rows


def write_filter(filter_: Filter) -> None:
    """Puts the filter into the URL in place of the old one; the table begins at page 1 again."""
    own = (*KEYS, *RANGED, "page", "ex")
    others = {key: text for key, text in st.query_params.items() if key not in own}
    state.rewrite_query(others | to_query(filter_))


def page_turned(key: str) -> None:
    """The callback of a pagination. Not in the page's script: a session keeps callbacks, and with a function of a
    script all that the script had computed."""
    page = st.session_state[key]
    state.set_query(page=None if page == 1 else str(page))


# ---- widgets -------------------------------------------------------------------------------------------------------
def filter_widgets(table: TaskTable, filter_: Filter, rows: IntArray) -> None:
    """All of them, in the container that is open."""
    _text(filter_)
    _student(table, filter_)
    counts = facets(table, rows, student=filter_.student_is)
    for name, words in FACETS.items():
        if name in counts:
            value = getattr(filter_, name)
            if value is not None:  # what choosing another value would give
                others = apply(filter_.but(**{name: None}), table)
                counts[name] = facets(table, others, student=filter_.student_is)[name]
            _facet(name, words, counts[name], filter_)
    ranged = [entry.column for entry in filter_.ranges]
    have = available(table, student=filter_.student_is)
    for name in dict.fromkeys((*SLIDERS, *ranged)):
        if name in have:
            _slider(name, table, filter_)
    rest = [name for name in have if COLUMNS[name].kind == "number" and name not in (*SLIDERS, *ranged)]
    if rest:
        st.session_state["filter-more"] = None
        st.selectbox(
            "Another range",
            rest,
            index=None,
            format_func=lambda name: COLUMNS[name].words,
            key="filter-more",
            placeholder="Choose a quantity",
            on_change=_add_range,
            args=(table, filter_),
        )


def _changed(name: str, filter_: Filter) -> None:
    value = st.session_state[f"filter-{name}"]
    if name in ("agree", "unanimous"):
        value = None if value is None else value == "yes"
    if name == "text":
        value = value.strip() or None
    write_filter(filter_.but(**{name: value}))


def _text(filter_: Filter) -> None:
    st.session_state["filter-text"] = filter_.text or ""
    st.text_input(
        "Text contains",
        key="filter-text",
        on_change=_changed,
        args=("text", filter_),
        icon=":material/search:",
        placeholder="part of a text, any case",
    )


def _student(table: TaskTable, filter_: Filter) -> None:
    variants = [name for name in table.students if name != BASELINE]
    if filter_.student_is not in variants:
        variants.append(filter_.student_is)
    if len(variants) < 2:
        return
    st.session_state["filter-student_is"] = filter_.student_is
    st.selectbox(
        "The student is",
        variants,
        key="filter-student_is",
        format_func=taught_by,
        on_change=_changed,
        args=("student_is", filter_),
        help="Whom the columns and the cohorts are about: the mean over this variant's seeds.",
    )


def _facet(name: str, words: str, counts: dict[str, int], filter_: Filter) -> None:
    value = getattr(filter_, name)
    if isinstance(value, bool):
        value = "yes" if value else "no"
    key = f"filter-{name}"
    st.session_state[key] = value
    options = [option for option, n in counts.items() if n or option == value]
    help_ = None
    if name == "cohort":
        help_ = "\n".join(f"- **{one}**: {said}" for one, said in COHORT_IN_WORDS.items())
    st.selectbox(
        words,
        options,
        index=None,
        key=key,
        format_func=lambda option: f"{option} · {counts.get(option, 0):,}",
        placeholder="any",
        on_change=_changed,
        args=(name, filter_),
        help=help_,
    )


def _bounds(name: str, table: TaskTable, filter_: Filter) -> tuple[float, float] | None:
    """Of all rows, so that a slider stays where it is while other filters change."""
    student = filter_.student_is

    def ends() -> tuple[float, ...]:
        values = column(table, name, student=student)
        finite = values[np.isfinite(values)]
        return (float(finite.min()), float(finite.max())) if len(finite) else ()

    found = table.kept.once(("ends", name, student), ends)
    if not found or found[0] == found[1]:
        return None
    return math.floor(1000 * found[0]) / 1000, math.ceil(1000 * found[1]) / 1000


def _slider(name: str, table: TaskTable, filter_: Filter) -> None:
    bounds = _bounds(name, table, filter_)
    if bounds is None:
        return
    low, high = bounds
    entry = next((entry for entry in filter_.ranges if entry.column == name), None)
    chosen = (low, high)
    if entry is not None:  # a link may ask for more than there is
        chosen = tuple(
            min(max(end if bound is None else bound, low), high)
            for bound, end in ((entry.low, low), (entry.high, high))
        )
    key = f"filter-{name}"
    st.session_state[key] = chosen
    words = COLUMNS[name].words
    st.slider(
        words[0].upper() + words[1:],
        low,
        high,
        step=round((high - low) / 1000, 6) or 0.001,
        format="%.2f",
        key=key,
        on_change=_slid,
        args=(name, bounds, filter_),
    )


def _slid(name: str, bounds: tuple[float, float], filter_: Filter) -> None:
    low, high = st.session_state[f"filter-{name}"]
    write_filter(filter_.with_range(name, None if low <= bounds[0] else low, None if high >= bounds[1] else high))


def _add_range(table: TaskTable, filter_: Filter) -> None:
    """A range of everything, in the URL as the column's own bounds: the slider is then there."""
    name = st.session_state["filter-more"]
    bounds = None if name is None else _bounds(name, table, filter_)
    if bounds is not None:
        write_filter(filter_.with_range(name, *bounds))


def boxed(filter_: Filter, box: Mapping[str, list[float]], x: str, y: str) -> Filter:
    """The filter with the ranges of a rectangle that was drawn over a figure of x and y: of all rows, not only of the
    points that are drawn. Bounds are rounded outwards to four digits, so that they look like numbers in the URL."""
    for name, key in ((x, "x"), (y, "y")):
        low, high = sorted(float(value) for value in box[key][:2])
        digits = max(0, 3 - math.floor(math.log10(max(high - low, 1e-9))))
        scale = 10.0 ** min(digits, 9)
        filter_ = filter_.with_range(name, math.floor(low * scale) / scale, math.ceil(high * scale) / scale)
    return filter_
