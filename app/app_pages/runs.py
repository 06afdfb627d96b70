"""Runs: how one run went, and what sets two runs apart: stages, time, loss curves, config, log.

Everything is read from `run.json` and `log.jsonl`, which a run in progress is writing; reload to see more.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import streamlit as st

from app import show, state
from app.progress import stage_strip
from core.plan import STAGES
from core.plots.training import Curve, StageTime, in_words, loss_curves, stage_times
from core.store import Run
from core.views import logs
from core.views.catalogue import open_run, stages_of
from core.views.roles import role_of

VIEWS = {"time": "Stages and time", "curves": "Loss curves", "config": "Config", "log": "Log"}
ROLE_OF_VARIANT = {"kd": "student", "hard": "hard"}
TAIL_LINES, TAIL_BYTES = 200, 65_536
FEW_POINTS = 8


def time_view(run: Run) -> None:
    times = logs.job_times(run)
    if run.manifest().get("imported"):
        show.empty("Nothing was run here", "This run was imported; how its models were trained is not known here.")
        return
    if not times:
        show.empty("Nothing has been run yet", "No job of this run is done.", f"python -m core run --out {run.path}")
        return
    left, right = st.columns([2, 3], gap="medium")
    with left:
        st.subheader("Where the time went", anchor=False)
        seconds, counts = logs.stage_seconds(run), stages_of(run)
        rows = [
            StageTime(stage, spent, counts.get(stage, (0, 0))[0], "done" if _complete(counts, stage) else "running")
            for stage, spent in seconds.items()
        ]
        show.figure(stage_times(rows), key="stage-times")
        st.caption(f"{in_words(sum(seconds.values()))} in all jobs; side by side they took less of the clock.")
    with right:
        st.subheader("Jobs", anchor=False)
        jobs = pa.table(
            {
                "job": [one.job for one in times],
                "stage": [one.stage for one in times],
                "seconds": [one.seconds for one in times],
                "device": [(one.device or "").split(":")[0] for one in times],
            }
        )
        st.dataframe(
            jobs,
            hide_index=True,
            height=420,
            column_config={
                "seconds": st.column_config.ProgressColumn(
                    format="%.1f s", min_value=0, max_value=max(one.seconds for one in times) or 1.0
                )
            },
            alt=f"{len(times)} finished jobs with their seconds",
        )
        reason = next((one.device for one in times if one.device), None)
        if reason:
            show.plain(f"Device {reason}", faint=True)


def _complete(counts: dict[str, tuple[int, int]], stage: str) -> bool:
    done, n = counts.get(stage, (1, 1))
    return done == n


def curves_view(run: Run) -> None:
    log = logs.read_log(run)
    if log.stopped:
        show.empty("The run stopped with an error", log.stopped, icon=":material/error:")
    stages = [stage for stage in STAGES if any(job.stage == stage and len(job.step) for job in log.jobs.values())]
    if not stages:
        show.empty("No loss was logged yet", "Trainings write their loss every 25 steps.")
        return
    default = "distill" if "distill" in stages else stages[-1]
    stage = state.choice("Stage", stages, key="stage", default=default, kind="segmented")
    jobs = [job for job in log.jobs.values() if job.stage == stage]
    tasks = list(run.manifest()["tasks"])
    if stage == "finetune" and len(tasks) > 1:
        of = {job.job: role.task for job in jobs if (role := role_of(job.job, tasks)) is not None}
        having = [name for name in tasks if name in of.values()]
        if having:
            one = state.choice("Teachers of", having, key="of", default=having[0], kind="segmented")
            jobs = [job for job in jobs if of.get(job.job) == one]
    curves, scores = [], []
    for job in jobs:
        role = role_of(job.job, tasks)
        is_student = role is not None and role.kind == "student"
        name = role.variant if is_student and role is not None and role.variant else job.job
        look: Any = ROLE_OF_VARIANT.get(name) if is_student else None
        if len(job.step):
            curves.append(Curve(name, look, job.step, job.loss))
        scores += [(name, look, job.epoch, values, task) for task, values in job.held_out.items()]
    left, right = st.columns(2, gap="medium") if scores else (st.container(), None)
    with left:
        st.subheader("Loss", anchor=False)
        with state.guarded():
            show.figure(_drawn(curves, "loss of a batch, mean of 25 steps"), key=f"loss-{stage}")
            st.caption(
                "Curves of one colour are the seeds of one student." if stage == "distill" else "One line a job."
            )
    if right is not None:
        with right:
            st.subheader("Score on the selection split", anchor=False)
            of = list(dict.fromkeys(task for *_, task in scores))
            task = state.choice("Task", of, key="score", default=of[0], label_visibility="collapsed")
            held_out = [Curve(name, look, epochs, values) for name, look, epochs, values, of_ in scores if of_ == task]
            with state.guarded():
                fig = _drawn(held_out, "score")
                fig.update_xaxes(title_text="epochs")
                show.figure(fig, key=f"scores-{stage}-{task}")
    if log.n_unreadable:
        st.caption(f"{log.n_unreadable} lines of the log are cut or damaged and left out.")


def _drawn(curves: list[Curve], unit: str) -> go.Figure:
    """With markers where a line has so few points that it could not be seen."""
    fig = loss_curves(curves, unit=unit)
    if max(len(np.asarray(curve.steps_P)) for curve in curves) < FEW_POINTS:
        fig.update_traces(mode="lines+markers", marker_size=9)
    return fig


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """`section.field` -> value as it would be written after --set."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value and key != "per_task":
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return found


def config_view(run: Run) -> None:
    config = run.manifest().get("config")
    if not config:
        show.empty("No config", "This run was imported; what made its predictions is not known here.")
        return
    others = [one.name for one in state.known_runs(str(state.runs_folder())) if one.status != "unreadable"]
    others = [name for name in others if name != run.path.name]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        other = None
        if others:
            other = state.choice(
                "Compare with",
                ["", *others],
                key="with",
                default="",
                words=lambda name: name or "no other run",
                width=280,
            )
        text = st.text_input("Field or value contains", key="config-text", icon=":material/search:", width=280)
    if other:
        with state.guarded("The two cannot be compared"):
            pairs = [
                line.partition(": ") for line in logs.config_differences(run, open_run(state.runs_folder(), other))
            ]
            rows = {"field": [name for name, _, _ in pairs], "change": [change for _, _, change in pairs]}
            st.markdown(
                f"**{len(pairs)}** fields differ; {show.literal(run.path.name)} → {show.literal(other)}:"
                if pairs
                else "The two runs have the same config."
            )
            if pairs:
                _searched(rows, text, alt=f"Fields in which {run.path.name} and {other} differ")
        return
    fields = flat(config)
    _searched({"field": list(fields), "value": list(fields.values())}, text, alt=f"The config of run {run.path.name}")


def _searched(columns: dict[str, list[str]], text: str, *, alt: str) -> None:
    rows = list(zip(*columns.values(), strict=True))
    kept = [row for row in rows if text.lower() in " ".join(row).lower()]
    if not kept:
        show.empty("No field holds this", f"None of {len(rows)} lines contains '{text}'.")
        return
    table = pa.table({name: [row[i] for row in kept] for i, name in enumerate(columns)})
    st.dataframe(table, hide_index=True, height=min(36 * (len(kept) + 1) + 4, 640), alt=alt)


def log_view(run: Run) -> None:
    path = run.path / "log.jsonl"
    if not path.is_file():
        show.empty("No log", "This run has no log.jsonl; an imported run need not have one.")
        return
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - TAIL_BYTES))
        raw = file.read().decode("utf-8", "replace").splitlines()
    lines = []
    for one in raw[1:] if size > TAIL_BYTES else raw:
        try:
            line = json.loads(one)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    lines = lines[-TAIL_LINES:][::-1]
    known = ("time", "event", "stage", "job")
    shown = {
        "time": [None if line.get("time") is None else int(1000 * line["time"]) for line in lines],
        **{name: [str(line.get(name, "")) for line in lines] for name in known[1:]},
        "more": [", ".join(f"{key} {short(line[key])}" for key in line if key not in known) for line in lines],
    }
    shown["time"] = pa.array(shown["time"], pa.timestamp("ms"))
    st.caption(f"The last {len(lines)} lines, newest first; times are UTC.")
    st.dataframe(
        pa.table(shown),
        hide_index=True,
        height=640,
        column_config={
            "time": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm:ss", width=170),
            "more": st.column_config.TextColumn(width=640),
        },
        alt=f"The last {len(lines)} lines of the log of run {run.path.name}",
    )


def short(value: Any) -> str:
    """Numbers to four digits, wherever in a value they stand."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {short(one)}" for key, one in value.items())
    return str(value)


# ---- the page ------------------------------------------------------------------------------------------------------
run = state.current_run()
stage_strip(str(state.runs_folder()), run.path.name)
with state.guarded("This run cannot be read"):
    manifest = run.manifest()
    machine, versions = manifest.get("machine") or {}, manifest.get("versions") or {}
    facts = [
        f"made {str(manifest.get('created') or 'at an unknown time')[:16].replace('T', ' ')} UTC",
        f"commit {str(manifest.get('git_commit') or 'not known')[:10]}",
        f"{machine.get('cores', '?')} cores, {machine.get('system', 'unknown system')}",
        *(f"{name} {versions[name]}" for name in ("python", "torch", "transformers") if name in versions),
    ]
    show.plain(" · ".join(facts), faint=True)
    for warning in manifest.get("warnings") or ():
        show.plain(f"Warning: {warning}", faint=True)
    view = state.choice(
        "View",
        list(VIEWS),
        key="view",
        default="time",
        kind="segmented",
        words=VIEWS.__getitem__,
        label_visibility="collapsed",
    )
    {"time": time_view, "curves": curves_view, "config": config_view, "log": log_view}[view](run)
