"""Overview: which runs there are, how far each is, and what distillation did in one of them, down to the examples.

The headline is a point and an interval over seeds for each task; the ledger below is the same difference counted in
examples, and each of its segments opens them.
"""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import streamlit as st

from app import links, show, state
from app.progress import STATUS_WORDS, ago, stage_strip
from app.words import METRIC_HELP, Metric, capital, several
from app.words import METRICS as METRICS_IN_WORDS
from core.metrics import HIGHER_IS_BETTER
from core.plots.comparisons import Interval, points_and_intervals
from core.plots.ledger import LedgerRow, flip_ledger
from core.store import Run
from core.tasks import Task
from core.views import cohorts, results
from core.views.derived import COHORT_IN_WORDS, COHORTS, cohort_codes
from core.views.filters import Filter
from core.views.table import BASELINE, DEFAULT_STUDENT, TaskTable

METRICS = ("score", "kl_truth", "nll", "ece")
GROUPS = {"single": "single MT-DNN", "teachers": "teachers", BASELINE: "student, no KD", DEFAULT_STUDENT: "student, KD"}
ROLES = {"teachers": "member", "ensemble": "teacher", "student, no KD": "hard", "student, KD": "student"}
ROW_PX = 62  # of both charts of the headline, so that their rows stand side by side


def named(group: str, found: results.Results) -> str | None:
    """The group's name in the headline; None: it is a control or a way of combining that is not taught."""
    return "ensemble" if group == found.models.taught_by else GROUPS.get(group)


# The averages of `results.headline`.
IN_WORDS = {"with a teacher": "with a teacher", "without": "without a teacher", "all tasks": "all tasks"}


def comparable(line: results.Line, found: results.Results, metric: str) -> bool:
    """Nats of a density over scores do not mix with nats over classes; scores do, by GLUE's custom."""
    kinds = {found.tasks[name].kind == "regression" for name in line.tasks}
    return metric == "score" or kinds == {False}


def verdict(line: results.Line, metric: Metric, of: str) -> str:
    """The answer to the page's question, in one sentence."""
    d = line.difference
    if d is None:
        return f"Nothing can be said of distillation {of} yet: it needs a student with and one without, of one seed."
    size = f"{metric.say_difference(d)} {metric.unit}"
    said = {
        "better": f"**Distillation helps**: {size} {of}, over {several(d.n, 'seed')}.",
        "worse": f"**Distillation hurts**: {size} {of}, over {several(d.n, 'seed')}.",
        "no difference": f"**No difference** by distillation: {size} {of}, within two standard errors "
        f"({several(d.n, 'seed')}).",
        "one seed": f"**One seed shows nothing yet**: {size} {of}. More seeds say how much of it is luck.",
    }
    return said[d.verdict]


def tiles(line: results.Line, found: results.Results, metric: Metric) -> None:
    """The five numbers of the comparison, on the average over tasks."""
    shown = {named(group, found): mean for group, mean in line.groups.items() if named(group, found)}
    order = ("single MT-DNN", "teachers", "ensemble", "student, no KD", "student, KD")
    with st.grid(5, min_column_width=150, gap="small"):
        for name in (name for name in order if name in shown):
            mean = shown[name]
            delta = words = None
            if name == "student, KD" and line.difference is not None:
                delta, words = metric.say_difference(line.difference), line.difference.verdict
            st.metric(
                capital(name),
                metric.say(mean.mean, mean.se),
                delta,
                delta_color=_colour(line) if delta else "normal",
                delta_description=words or (f"mean of {mean.n}" if mean.n > 1 else "one model"),
                help=TILE_HELP.get(name),
                border=True,
                height="stretch",
            )


TILE_HELP = {
    "single MT-DNN": "One of the multi-task models, before anything is combined: the mean over them.",
    "teachers": "A multi-task model fine-tuned on one task: the mean over the task's teachers.",
    "ensemble": "The teachers' answers combined: this is what teaches.",
    "student, no KD": "The student trained on gold labels alone.",
    "student, KD": "The same student on the same batches, taught by the ensemble too. Below: its difference to the one "
    "without, paired by seed.",
}


def _colour(line: results.Line) -> str:
    assert line.difference is not None
    if line.difference.verdict not in ("better", "worse"):
        return "off"
    return "normal" if (line.difference.verdict == "better") == (line.difference.mean > 0) else "inverse"


def headline(run: Run, split: str, name: str) -> None:
    """The answer, the five numbers, and both for every task; a click on a point opens its task's examples."""
    found, metric = results.read_results(run), METRICS_IN_WORDS[name]
    lines = results.headline(found, metric=name, split=split)
    lines = [line for line in lines if line.groups and comparable(line, found, name)]
    if not lines:
        show.empty(
            "No such number here",
            f"No task of this run has the metric {metric.title} on split {split}. Choose another metric or split.",
        )
        return
    average = next((line for line in lines if line.is_average), lines[0])
    of = f"on average over {several(len(average.tasks), 'task')} {IN_WORDS.get(average.name, '')}".rstrip()
    st.markdown(verdict(average, metric, of if average.is_average else f"on {show.literal(average.name)}"))
    tiles(average, found, metric)
    better = "higher" if HIGHER_IS_BETTER[name] else "lower"
    st.caption(
        f"{metric.title} in {metric.unit} on split {show.literal(split)}, {better} is better; ± is one standard error "
        "over models or seeds."
    )
    rows, changes, where = [], [], []
    for line in lines:
        label = IN_WORDS.get(line.name, line.name)
        for group, (mean, se, n) in line.groups.items():
            series = named(group, found)
            if series is not None:
                rows.append(Interval(label, series, *metric.interval(mean, se), n))
                where.append(line)
        if line.difference is not None:
            d = line.difference
            changes.append(Interval(label, "KD minus no KD", *metric.interval(d.mean, d.se), d.n))
    left, right = st.columns([3, 2], gap="medium")
    with left:
        st.subheader("Who is how good", anchor=False)
        axis = f"{metric.axis}; bars: two standard errors"
        fig = points_and_intervals(rows, metric=axis, roles=ROLES, digits=metric.digits, row_px=ROW_PX)
        chosen = show.clicked(show.figure(fig, key=f"headline-{name}", on_select="rerun"))
        if chosen is not None and not where[chosen].is_average:
            links.open_explore(run, where[chosen].tasks[0], Filter(split=split))
        st.caption("Click a point to open the examples of its task.")
    with right:
        st.subheader("What distillation changed", anchor=False)
        if changes:
            fig = points_and_intervals(
                changes, metric=f"KD minus no KD ({metric.unit})", zero_line=True,
                roles={"KD minus no KD": "student"}, digits=metric.digits, row_px=ROW_PX,
            )  # fmt: skip
            # As high as the other figure without its legend: rows stand side by side.
            fig.update_layout(showlegend=False, height=fig.layout.height - 22, margin_t=fig.layout.margin.t + 10)
            show.figure(fig, key=f"change-{name}")
        else:
            show.empty("No difference to show", "It needs one student with and one without distillation, of one seed.")


def behind(run: Run, task: Task, split: str) -> None:
    """The same difference, counted in examples of one task, and where to go on from here."""
    st.subheader(f"The examples behind it: {show.literal(task.name)}", anchor=False)
    with state.guarded("The examples cannot be read"):
        table = state.current_table(run, task, split)
        rows = ledger_rows(table)
        selection = show.figure(flip_ledger(rows), key="ledger", on_select="rerun")
        cohort = show.clicked(selection)
        if cohort is not None:  # the points of the net gain carry none
            links.open_explore(run, task, Filter(split=split, cohort=COHORTS[cohort]))
        counts = cohorts.ledger(table).counts
        st.caption("Click a segment to open its examples. Where distillation changed the answer:")
        with st.container(horizontal=True, gap="small"):
            for name in ("taught", "surpassed", "mis-taught", "lost"):
                link = f"{name} · {counts[name]:,}"
                links.explore_link(link, run, task, Filter(split=split, cohort=name), help=COHORT_IN_WORDS[name])
    st.subheader("Go on with", anchor=False)
    here = links.place(run, task, split)
    with st.container(horizontal=True, gap="small"):
        for page, label, icon in NEXT:
            st.page_link(f"app_pages/{page}.py", label=label, icon=f":material/{icon}:", query_params=here)


NEXT = (
    ("dark_knowledge", "Which part of the teachers helps", "dark_mode"),
    ("ensemble", "Whom the student follows", "hub"),
    ("calibration", "Whose doubts it inherits", "target"),
    ("try_it", "Ask them yourself", "edit_note"),
)


def ledger_rows(table: TaskTable) -> list[LedgerRow]:
    """A row a seed and, for several, one of the means over seeds, which is what the links count."""
    rows = []
    teacher_N, gold_N = table.is_right("teacher"), table.has_gold
    pairs = cohorts.seed_pairs(table)
    if len(pairs) > 1:
        whole = cohorts.ledger(table)
        rows.append(LedgerRow("mean of seeds", whole.counts, whole.net.low, whole.net.high))
    for seed, (plain, taught) in list(pairs.items())[:6]:
        codes = cohort_codes(teacher_N, table.is_right(plain), table.is_right(taught))[gold_N]
        counts = dict(zip(COHORTS, np.bincount(codes, minlength=len(COHORTS)).tolist(), strict=True))
        net = cohorts.net_gain(counts)
        rows.append(LedgerRow(f"seed {seed}", counts, net.low, net.high))
    return rows


def no_results_yet(run: Run, task: Task, split: str) -> None:
    show.empty(
        "No results yet",
        "They come with the last stage, evaluate. What is done can be read already:",
        icon=":material/hourglass_empty:",
    )
    with st.container(horizontal=True, gap="small"):
        curves = links.place(run) | {"view": "curves"}
        st.page_link("app_pages/runs.py", label="Loss curves", icon=":material/show_chart:", query_params=curves)
        links.explore_link(f"Examples of {show.literal(task.name)}", run, task, Filter(split=split))


@st.fragment(run_every=3)
def live(folder: str, name: str) -> None:
    """Redrawn every three seconds while the run is being made; then the whole page once."""
    summary = stage_strip(folder, name)
    if summary is None or summary.status != "in progress":
        state.known_runs.clear()  # else the page would believe the old status, and come back here at once
        st.rerun()


# ---- the page ------------------------------------------------------------------------------------------------------
run = state.current_run()
folder = str(state.runs_folder())
runs = state.known_runs(folder)
summary = next((summary for summary in runs if summary.name == run.path.name), None)
if summary is not None and summary.status == "in progress":
    live(folder, summary.name)
else:
    stage_strip(folder, run.path.name)

main, below = st.container(), st.container()
with below:
    st.subheader("All runs", anchor=False)
    now = time.time()
    listed = pa.table(
        {
            "run": [one.name for one in runs],
            "state": [STATUS_WORDS[one.status] for one in runs],
            "stages": [100 * one.stages_done / one.stages_total if one.stages_total else None for one in runs],
            "preset": [one.preset or "" for one in runs],
            "tasks": [list(one.tasks) for one in runs],
            "last line of its log": [ago(one.last_log_seconds, now) for one in runs],
            "remark": [one.error or "" for one in runs],
        }
    )
    event = st.dataframe(
        listed,
        key=f"runs-{hash(tuple(one.name for one in runs))}",
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        column_config={"stages": st.column_config.ProgressColumn(format="%.0f %%", min_value=0, max_value=100)},
        column_order=[name for name in listed.column_names if name != "remark" or any(one.error for one in runs)],
        alt=f"{len(runs)} runs with their state and progress",
    )
    picked = event["selection"]["rows"]
    if picked and runs[picked[0]].name != run.path.name:
        state.set_query(run=runs[picked[0]].name, task=None, split=None)
        st.rerun()

with main:
    task = state.current_task(run)
    split = state.current_split(run, task)
    metric = state.choice(
        "Metric",
        list(METRICS),
        key="metric",
        default="score",
        kind="segmented",
        words=lambda name: METRICS_IN_WORDS[name].title,
        help=METRIC_HELP,
    )
    unfinished = summary is not None and summary.status in ("in progress", "half-finished")
    if unfinished and "evaluate" not in run.manifest().get("jobs", {}):
        no_results_yet(run, task, split)
    else:
        with state.guarded("No results yet"):
            headline(run, split, metric)
            behind(run, task, split)
