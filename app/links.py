"""Links between pages: which URL opens what. Pure functions first, then the elements that use them.

?run=demo&task=nli&split=test                          every page
... &gold=neutral&kl=0.5:                              a filter (core/views/filters), on explore and example
... &order=kl&desc=yes&page=3                          explore: the table
... &ex=nli/test/17&pin=nli/test/4                     example: the one shown, the one beside it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import streamlit as st

from core.store import Run
from core.tasks import Task
from core.views.filters import Filter, from_query, to_query

EXPLORE, EXAMPLE = "app_pages/explore.py", "app_pages/example.py"
# Parameters that belong to pages and are no part of a filter. "split" is in both worlds: the filter's split is the
# page's.
PLACE = ("run", "task")
VIEW = ("ex", "pin", "page", "rows", "order", "desc", "x", "y", "mouse", "student", "view", "b", "job")


def place(run: Run, task: Task | str | None = None, split: str | None = None) -> dict[str, str]:
    """The parameters that every page has."""
    query = {"run": run.path.name}
    if task is not None:
        query["task"] = task if isinstance(task, str) else task.name
    if split is not None:
        query["split"] = split
    return query


def explore_query(run: Run, task: Task | str, filter_: Filter, **view: str) -> dict[str, str]:
    """The URL that shows the examples of a filter; `filter_.split` is the split."""
    return {**place(run, task), **to_query(filter_), **view}


def example_query(run: Run, task: Task | str, example_id: str, filter_: Filter, **view: str) -> dict[str, str]:
    """The URL of one example; next and previous are of `filter_`."""
    return {**place(run, task), **to_query(filter_), "ex": example_id, **view}


def filter_of(query: Mapping[str, str], task: Task, split: str) -> Filter:
    """The filter that a URL of explore or example holds, on the page's split. Raises `ValueError` for what it does not
    understand: a link that is half understood shows the wrong examples and looks right."""
    return from_query({key: text for key, text in query.items() if key not in (*PLACE, *VIEW)}, task).but(split=split)


# ---- elements ------------------------------------------------------------------------------------------------------
def explore_link(
    label: str,
    run: Run,
    task: Task | str,
    filter_: Filter,
    *,
    icon: str = ":material/filter_alt:",
    help: str | None = None,
    **view: str,
) -> None:
    """A link to the examples of a filter. `label` is Markdown: give data through `show.literal`."""
    st.page_link(EXPLORE, label=label, icon=icon, help=help, query_params=explore_query(run, task, filter_, **view))


def example_link(
    label: str,
    run: Run,
    task: Task | str,
    example_id: str,
    filter_: Filter,
    *,
    icon: str = ":material/article:",
    **view: str,
) -> None:
    """A link to one example; next and previous there are of `filter_`."""
    st.page_link(EXAMPLE, label=label, icon=icon, query_params=example_query(run, task, example_id, filter_, **view))


def open_explore(run: Run, task: Task | str, filter_: Filter, **view: str) -> NoReturn:
    """Goes there, such as after a click on a bar."""
    st.switch_page(EXPLORE, query_params=explore_query(run, task, filter_, **view))


def open_example(run: Run, task: Task | str, example_id: str, filter_: Filter, **view: str) -> NoReturn:
    st.switch_page(EXAMPLE, query_params=example_query(run, task, example_id, filter_, **view))
