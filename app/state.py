"""What a page is about: the run, the task, the split and the table behind them, all from the URL.

The URL is the state. A widget here shows a parameter and writes it when it is changed; nothing is bound by Streamlit
itself (`bind=`), because a bound parameter cannot be set by a link between pages, and an invalid value vanishes without
a word. What an URL does not say, the session remembers from the page before, and it is written into the URL, so that an
address can always be copied.

Pages call, in this order, `current_run`, `current_task`, `current_split`, `current_table`; all but the last stop the
page with a sentence where there is nothing to show.

Nothing here can reach a file outside the folder of runs: names from the URL go through `open_run`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app import show
from core.store import Run
from core.tasks import Task, did_you_mean
from core.views import NotDefined
from core.views.catalogue import RunSummary, find_runs, open_run, tasks_of_run
from core.views.kept import Kept, use_few_pools
from core.views.results import read_results
from core.views.table import TaskTable, fingerprint, load_table, splits_of

ROOT = Path(__file__).resolve().parents[1]
DEMO = "make run"
T = TypeVar("T")

# The row beside the page's title, and what the URL does not say yet; set by the entry script in each of its runs.
HEADER: ContextVar[DeltaGenerator | None] = ContextVar("header", default=None)
PENDING: ContextVar[dict[str, str] | None] = ContextVar("pending", default=None)


# ---- runs ----------------------------------------------------------------------------------------------------------
def runs_folder(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """Where runs are: `streamlit run app/streamlit_app.py -- --runs FOLDER`, else DARKROOM_RUNS, else runs/.

    Relative folders are meant from the project's root, as in the notebooks.
    """
    argv = sys.argv if argv is None else argv
    environ = os.environ if environ is None else environ
    given = environ.get("DARKROOM_RUNS") or "runs"
    for i, word in enumerate(argv):
        if word == "--runs" and i + 1 < len(argv):
            given = argv[i + 1]
        elif word.startswith("--runs="):
            given = word.removeprefix("--runs=")
    return ROOT / given


@st.cache_data(ttl=3, max_entries=4, show_spinner=False)
def known_runs(folder: str) -> list[RunSummary]:
    """The runs of a folder, newest first; read again after three seconds."""
    return find_runs(folder)


def current_run() -> Run:
    """The run of the URL's `run`, else the session's, else the newest; with its selector in the header. Stops the page
    where there is no run, no such run, or one that cannot be read."""
    folder = runs_folder()
    runs = known_runs(str(folder))
    if not runs:
        show.empty(
            "No runs yet",
            f"The folder {folder} holds no run. This makes one in some minutes, with no data to download; "
            "then reload this page:",
            DEMO if folder == ROOT / "runs" else f"python -m core run --preset demo --out {folder / 'demo'}",
            icon=":material/science:",
        )
        stop()
    names = [run.name for run in runs]
    readable = [run.name for run in runs if run.status != "unreadable"]
    name = _chosen_in_header("run", "Run", names, default=(readable or names)[0])
    try:
        return open_run(folder, name)
    except (ValueError, OSError) as error:
        said = show.taken_apart(str(error))
        show.empty("This run cannot be shown", said.words, said.command, icon=":material/error:")
        stop()


def current_task(run: Run, *, classes_only: bool = False) -> Task:
    """The task of the URL's `task`. `classes_only` leaves regressions out, for views of distributions. Stops the page
    for a task that the run does not have."""
    tasks = tasks_of_run(run)
    fit = {name: task for name, task in tasks.items() if not (classes_only and task.kind == "regression")}
    if not fit:
        show.empty("No task with classes", "Every task of this run is a regression; this view is about distributions.")
        stop()
    wanted = _wanted("task")
    if wanted in tasks and wanted not in fit:
        st.caption(f"{show.literal(wanted)} is a regression and has no distributions over classes; here is another.")
        set_query(task=None)
        st.session_state.pop("state-task", None)
    default = max(fit, key=lambda name: (fit[name].has_teacher, min(fit[name].n_outputs, 3)))
    return fit[_chosen_in_header("task", "Task", list(fit), default=default)]


def current_split(run: Run, task: Task) -> str:
    """The split of the URL's `split`, else the one that the run reports. Stops the page where the task has no
    examples yet."""
    try:
        file = run.examples_path(task.name)
        splits = list(_splits(str(run.path.resolve()), task.name, file.stat().st_mtime_ns if file.exists() else 0))
    except (ValueError, OSError) as error:
        said = show.taken_apart(str(error))
        show.empty("No examples yet", said.words, said.command, icon=":material/hourglass_empty:")
        stop()
    order = ("test", "test_mm", "dev", "dev_mm", "selection", "train")
    splits.sort(key=lambda name: order.index(name) if name in order else len(order))
    reported = reported_split(run)
    default = reported if reported in splits else next((name for name in ("test", "dev") if name in splits), splits[0])
    # Splits differ from task to task, so a remembered one that is not here is no mistake of anybody.
    if "split" not in st.query_params and st.session_state.get("state-split") not in splits:
        st.session_state.pop("state-split", None)
    return _chosen_in_header("split", "Split", splits, default=default)


@st.cache_data(max_entries=100, show_spinner=False)
def _splits(path: str, task: str, mark: int) -> tuple[str, ...]:
    """Counting a million rows is a twentieth of a second, in each rerun of each page."""
    return tuple(splits_of(Run(path), task))


def reported_split(run: Run) -> str:
    """The split of the run's own results table."""
    manifest = run.manifest()
    split = (manifest.get("config") or {}).get("evaluate", {}).get("split")
    if split:
        return str(split)
    try:
        return read_results(run).split
    except (ValueError, OSError):
        return "test"


def current_table(run: Run, task: Task, split: str) -> TaskTable:
    """The table, from the cache while no file of it has changed. Raises as `load_table`: call it in `guarded()`."""
    return _table(str(run.path.resolve()), task.name, split, fingerprint(run, task.name))


# A table alone is 40 MB for a million rows; what is computed from all of them shares one number of bytes.
@st.cache_resource(max_entries=12, show_spinner="Reading examples and predictions")
def _table(path: str, task: str, split: str, mark: str) -> TaskTable:
    return load_table(Run(path), task, split, _kept())


@st.cache_resource(show_spinner=False)
def _kept() -> Kept:
    use_few_pools()
    return Kept()


# ---- errors --------------------------------------------------------------------------------------------------------
@contextmanager
def guarded(title: str = "This cannot be shown") -> Iterator[None]:
    """Turns an error of core into a sentence with the next command, in place of what the block would have drawn.
    What is not defined for a task or run (`NotDefined`) is no error and looks like none."""
    try:
        yield
    except NotDefined as reason:
        show.empty("Not defined here", reason, icon=":material/do_not_disturb_on:")
    except (ValueError, OSError) as error:
        said = show.taken_apart(str(error))
        show.empty(title, said.words, said.command, icon=":material/error:")


# ---- choices in the URL --------------------------------------------------------------------------------------------
def choice(
    label: str,
    options: Sequence[T],
    *,
    key: str,
    default: T,
    kind: Literal["select", "segmented"] = "select",
    name: Callable[[T], str] = str,
    words: Callable[[T], str] = str,
    help: str | None = None,
    **more: Any,
) -> T:
    """A widget of one choice that lives in the URL's parameter `key`; the default leaves the URL. `name` is what
    stands in the URL, `words` what is shown. A value that is no option gives a sentence, and the default.

    Example: `metric = choice("Metric", ["score", "nll"], key="metric", default="score", kind="segmented")`.
    """
    options = list(options)
    by_name = {name(option): option for option in options}
    text = st.query_params.get(key)
    if text is not None and text not in by_name:
        st.caption(f"{show.literal(key)}={show.literal(text)} in the link is not known here; shown is the default.")
        text = None
    widget, wanted = f"choice-{key}", by_name[text] if text is not None else default
    st.session_state[widget] = wanted

    def changed() -> None:
        value = st.session_state[widget]
        if value is None or value == default:
            set_query(**{key: None})
        else:
            set_query(**{key: name(value)})

    draw: Any = {"select": st.selectbox, "segmented": st.segmented_control}[kind]
    shown = words
    if kind == "segmented":
        more["required"] = True
        shown = lambda option: show.literal(words(option))  # noqa: E731 (its options are Markdown, a select's are not)
    chosen = draw(label, options, format_func=shown, key=widget, on_change=changed, help=help, **more)
    return wanted if chosen is None else chosen


def set_query(**values: str | None) -> None:
    """Writes parameters into the URL, at once: each write is a step of the browser's history. None removes one."""
    kept = {key: text for key, text in st.query_params.items() if key not in values}
    rewrite_query(kept | {key: text for key, text in values.items() if text is not None})


def rewrite_query(query: Mapping[str, str]) -> None:
    """The URL's parameters are then these and no other."""
    if dict(st.query_params.items()) != dict(query):
        st.query_params.from_dict(query)


def begin(header: DeltaGenerator) -> None:
    """Called by the entry script before the page, `finish` after it."""
    HEADER.set(header)
    PENDING.set({})


def finish() -> None:
    """Writes into the URL what the page has looked up for itself, unless it is left for another page."""
    pending = PENDING.get()
    if pending and getattr(sys.exc_info()[0], "__name__", "") not in ("RerunException", "StopException"):
        st.query_params.update(pending)
        pending.clear()


def place() -> dict[str, str]:
    """Run, task and split as far as the URL or the session says them: what a link to another page keeps."""
    return {key: wanted for key in ("run", "task", "split") if (wanted := _wanted(key)) is not None}


def stop() -> NoReturn:
    """`st.stop`, with a complete URL: after it nothing can be written any more."""
    finish()
    st.stop()


def _wanted(key: str) -> str | None:
    """What the URL says, else what this session looked at last."""
    return st.query_params.get(key, st.session_state.get(f"state-{key}"))


def _chosen_in_header(key: str, label: str, options: list[str], *, default: str) -> str:
    """One of the three selectors that all pages share. Stops the page where the URL names something else."""
    header = HEADER.get() or st.container(horizontal=True)
    wanted, widget = _wanted(key), f"header-{key}"
    from_url = key in st.query_params
    if wanted not in options and not from_url:
        wanted = default
    if wanted in options or widget in st.session_state:
        st.session_state[widget] = wanted if wanted in options else None
    header.selectbox(
        label,
        options,
        index=0 if wanted in options else None,  # None lets it be cleared, which means nothing here
        key=widget,
        on_change=_header_changed,
        args=(key,),
        placeholder="Choose",
    )
    if wanted not in options:
        known = ", ".join(options[:12]) + (" ..." if len(options) > 12 else "")
        near = did_you_mean(str(wanted), options).strip(" ;.") or ""
        near = near + " " if near else ""
        show.empty(
            f"The link names the {key} '{wanted}', which is not here",
            f"{near}Known: {known}. Choose one above.",
            icon=":material/link_off:",
        )
        stop()
    assert wanted is not None
    st.session_state[f"state-{key}"] = wanted
    if not from_url:
        pending = PENDING.get()
        if pending is None:
            st.query_params[key] = wanted
        else:
            pending[key] = wanted
    return wanted


# What a page shows of any task; all else in an URL is of one task: a filter's labels, an example, a column. Students
# are those of a run.
OF_ANY_TASK = ("run", "student", "view", "metric", "over", "map", "rows", "mouse", "desc")


def _header_changed(key: str) -> None:
    """What depends on the old choice leaves the URL: a filter's labels are of one task, an example is of one split."""
    value = st.session_state[f"header-{key}"]
    if value is None:
        return
    query = dict(st.query_params.items())
    if key == "split":
        kept = {name: text for name, text in query.items() if name not in ("ex", "pin", "page", "id")}
    else:
        kept = {name: text for name, text in query.items() if name in OF_ANY_TASK}
    if key == "run":
        kept.pop("student", None)
        # Looked up in the other run, which may not have it.
        st.session_state["state-task"] = query.get("task")
    rewrite_query(kept | {key: value})
