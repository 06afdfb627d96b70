"""How far a run is, drawn: the strip of stages on the overview and on the page of runs."""

from __future__ import annotations

import time

import streamlit as st

from app import show
from core.views.catalogue import RunSummary, find_runs, open_run, stages_of
from core.views.logs import read_log

STATUS_WORDS = {
    "finished": "finished",
    "in progress": "being made",
    "half-finished": "stopped half-way",
    "imported": "imported",
    "unreadable": "unreadable",
}
BADGES = {
    "finished": ("green", "check_circle"),
    "in progress": ("orange", "autorenew"),
    "half-finished": ("gray", "pause_circle"),
    "imported": ("blue", "download"),
    "unreadable": ("red", "error"),
}


def ago(seconds: float | None, now: float) -> str:
    """ "12 s ago", "5 min ago", "3 h ago", "40 days ago"; "never" for None."""
    if seconds is None:
        return "never"
    past = max(0.0, now - seconds)
    for limit, divisor, unit in ((90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h")):
        if past < limit:
            return f"{past / divisor:.0f} {unit} ago"
    return f"{past / 86_400:.0f} days ago"


def summary_of(folder: str, name: str) -> RunSummary | None:
    return next((summary for summary in find_runs(folder) if summary.name == name), None)


def stage_strip(folder: str, name: str) -> RunSummary | None:
    """One line: status, then every stage with its jobs done. While the run is not finished, a bar and the command that
    goes on. Returns what was drawn; None: the run is gone."""
    summary = summary_of(folder, name)
    if summary is None:
        show.empty("The run is gone", f"{folder} holds no run {name} any more; choose another one above.")
        return None
    colour, icon = BADGES[summary.status]
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.badge(STATUS_WORDS[summary.status], color=colour, icon=f":material/{icon}:")
        if summary.status == "unreadable":
            show.plain(summary.error, faint=True)
            return summary
        counts = stages_of(open_run(folder, name))
        for stage, (done, n) in counts.items():
            complete = done == n > 0
            mark = ":green[✓]" if complete else ":orange[…]" if done else ":gray[·]"
            jobs = f" :gray[{done}/{n}]" if n > 1 or not complete else ""
            st.markdown(f"{mark} {show.literal(stage)}{jobs if n else ''}", width="content")
        st.caption(f"last line of its log {ago(summary.last_log_seconds, time.time())}", width="content")
    if summary.status in ("in progress", "half-finished"):
        done, n = (sum(pair[i] for pair in counts.values()) for i in (0, 1))
        st.progress(done / n if n else 0.0, text=f"{done} of {n} jobs that are known so far")
    if summary.status == "half-finished":
        stopped = read_log(open_run(folder, name)).stopped
        words = f"It ended with: {stopped}" if stopped else "Nothing is working on it now. What is there can be read."
        show.empty(
            "This run is not finished",
            words,
            f"python -m core run --out {summary.path}",
            icon=":material/pause_circle:",
        )
    return summary
