"""One example, drawn: its texts, who said what, what the loss asks there, and examples that teachers see alike.

Deliberately absent: navigation (app/app_pages/example).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import streamlit as st

from app import show
from core.calibration import IntArray
from core.config import Teaching, validated
from core.plots.cards import distribution_card, value_card
from core.plots.style import ROLES, escaped, signed
from core.store import Run
from core.tasks import Task
from core.views import NotDefined
from core.views.derived import COHORT_IN_WORDS, COHORTS, COLUMNS, available, column
from core.views.distances import js_distance_N
from core.views.ensembles import closest_member
from core.views.gradients import logit_gradients, loss_grid
from core.views.table import BASELINE, DEFAULT_STUDENT, TaskTable, Text

TILES = {
    "kl": "KL(teacher, student)",
    "entropy": "Entropy of the teacher",
    "mutual_information": "Mutual information",
    "disagreement": "Disagreement",
    "student_kl_truth": "KL(truth, student)",
    "teacher_value": "Teacher",
    "student_value": "Student",
    "gap": "Student minus teacher",
    "spread": "Spread behind the teacher",
}


class LossTerms(NamedTuple):
    """At one example: `hard` and `soft` are cross-entropy and T^2 KL before their weights, `pull_hard` and `pull_soft`
    (C,) minus the weighted logit gradients: above 0 the class is pushed up. `cosine` is nan where one of them is 0."""

    teaching: Teaching
    hard: float
    soft: float
    pull_hard: np.ndarray
    pull_soft: np.ndarray
    cosine: float


# ---- what is said --------------------------------------------------------------------------------------------------
def labels_of(task: Task, text: Text | None) -> list[str]:
    """Names of the classes; a ranking's are its candidates."""
    if text is not None and text.candidates:
        return [f"{i}. {candidate}" for i, candidate in enumerate(text.candidates, start=1)]
    return list(task.labels)


def card(table: TaskTable, row: int, student: str) -> go.Figure:
    """Everybody's distribution over the classes of one example, or value for a regression."""
    seeds = {voice: table.models_of(voice) if voice in table.voices else () for voice in (student, BASELINE)}
    if student == BASELINE:
        seeds[BASELINE] = seeds.pop(student)
    members = table.members if len(table.members) > 1 else ()
    if table.is_regression:
        fig = value_card(
            value_range=table.task.score_range,
            members_M=[table.outputs(name)[row] for name in members] or None,
            teacher=float(table.values("teacher")[row]) if table.has_teacher else None,
            student_S=[table.outputs(name)[row] for name in seeds.get(student, ())] or None,
            hard_S=[table.outputs(name)[row] for name in seeds[BASELINE]] or None,
            gold=_known(table.gold_N, row),
            truth_mean=_known(table.truth_N, row),
            truth_std=_known(table.truth_std_N, row),
            humans_mean=_known(table.humans_N, row),
            member_names=members or None,
            members_are=table.models.behind(members),
        )
        return named(fig, student)
    fig = distribution_card(
        labels_of(table.task, table.texts([row])[0]),
        members_MC=_probs(table, row, members),
        teacher_C=_probs_of(table, row, "teacher") if table.has_teacher else None,
        student_SC=_probs(table, row, seeds.get(student, ())) if student != BASELINE else None,
        hard_SC=_probs(table, row, seeds[BASELINE]),
        gold_index=int(table.gold_N[row]) if table.gold_N[row] >= 0 else None,
        truth_C=_known_row(table.truth_NC, row),
        humans_C=_known_row(table.humans_NC, row),
        member_names=members or None,
        members_are=table.models.behind(members),
    )
    return named(fig, student)


def named(fig: go.Figure, student: str) -> go.Figure:
    """The card with the right name for a student that is not the distilled one: it has the same place and look."""
    if student in (DEFAULT_STUDENT, BASELINE):
        return fig
    ours, name = ROLES["student"].name, f"student, {escaped(student)}"
    for trace in fig.select_traces({"legendgroup": "student"}):
        trace.name = name
        trace.text = [text.replace(ours, name) for text in trace.text or ()]
    fig.layout.meta = {"alt": fig.layout.meta["alt"].replace(ours, f"student, {student}")}
    return fig


def _probs(table: TaskTable, row: int, models: tuple[str, ...]) -> np.ndarray | None:
    return np.stack([_probs_of(table, row, name) for name in models]) if models else None


def _probs_of(table: TaskTable, row: int, voice: str) -> np.ndarray:
    """Of one row: `table.probs` would compute a million for it."""
    return np.asarray(np.exp(table.log_probs(voice)[row]))


def _known(values: np.ndarray | None, row: int) -> float | None:
    return None if values is None or not np.isfinite(values[row]) else float(values[row])


def _known_row(values: np.ndarray | None, row: int) -> np.ndarray | None:
    return None if values is None or not np.isfinite(values[row]).all() else values[row]


def text_box(table: TaskTable, row: int, student: str) -> None:
    """The texts as they are, then gold, the answers and the cohort."""
    text = table.texts([row])[0]
    labels = labels_of(table.task, text)
    with st.container(border=True, gap="xsmall"):
        for caption, words in (("Text", text.text_a), ("Second text", text.text_b)):
            if words is not None:
                st.caption(caption)
                show.plain(words)
        if text.candidates:
            st.caption("Candidates")
            show.plain("\n".join(" ".join(label.split()) for label in labels))
        gold = table.gold_N[row]
        if table.is_regression:
            said = f"{gold:.2f}" if np.isfinite(gold) else "not known"
            st.markdown(f":green-badge[gold {said}]")
            return
        words = "not known" if gold < 0 else labels[int(gold)]
        marks = [f":green-badge[gold: {show.literal(_short(words))}]"]
        for name, voice in (("teacher", "teacher"), ("student", student), ("no KD", BASELINE)):
            if voice in table.voices:
                answer = int(table.answers(voice)[row])
                mark = "" if gold < 0 else "✓ " if answer == gold else "✗ "
                marks.append(f":gray-badge[{mark}{show.literal(name)}: {show.literal(_short(labels[answer]))}]")
        st.markdown(" ".join(marks))
        if "cohort" in available(table, student=student):
            code = int(column(table, "cohort", student=student)[row])
            if code >= 0:
                name = COHORTS[code]
                st.caption(f"Cohort **{name}**: {COHORT_IN_WORDS[name]}.")


def story(table: TaskTable, row: int, student: str) -> str:
    """What distillation did here, in Markdown: what the student says without it, what the teachers say, what it says
    with it; empty where one of the three is not there."""
    if not {"teacher", student, BASELINE} <= set(table.voices) or student == BASELINE:
        return ""
    voices = (BASELINE, "teacher", student)
    if table.is_regression:
        plain, teacher, taught = (float(table.values(voice)[row]) for voice in voices)
        return (
            f"Without distillation the student says **{plain:.2f}**, the teachers **{teacher:.2f}**, and with it the "
            f"student **{taught:.2f}**."
        )
    labels, probs = labels_of(table.task, table.texts([row])[0]), [table.probs(voice)[row] for voice in voices]
    plain, teacher, taught = (f"**{show.literal(_short(labels[int(p.argmax())]))}**" for p in probs)
    same = taught == plain
    words = f"Without distillation the student says {plain}, the teachers say {teacher}, and with it the student "
    words += f"{'still ' if same else ''}says {taught}."
    gold = int(table.gold_N[row])
    if gold >= 0:
        before, aim, after = (float(p[gold]) for p in probs)
        words += f" Its probability of gold goes from **{before:.2f}** to **{after:.2f}**; the teachers' is {aim:.2f}."
    return words


def _short(text: str) -> str:
    return text if len(text) <= 32 else text[:31].rstrip() + "…"


def tiles(table: TaskTable, row: int, student: str) -> None:
    """The quantities that this table has, and whom the student is nearest to."""
    shown: list[tuple[str, str, str | None]] = []
    for name, words in TILES.items():
        if name in available(table, student=student):
            value = float(column(table, name, student=student)[row])
            shown.append((words, f"{value:.3f}" if np.isfinite(value) else "not known", COLUMNS[name].words))
    try:
        nearest = closest_member(table, [row], student=student)
        one = table.models.behind(table.members).removesuffix("s")
        name = show.literal(table.members[int(nearest.member[0])])
        shown.append((f"Nearest {one}", name, f"the smallest KL({one}, student)"))
    except (NotDefined, ValueError):
        pass
    with st.grid(6, min_column_width=150, gap="small"):
        for words, value, help_ in shown:
            st.metric(words, value, border=True, help=help_, height="stretch")


# ---- the loss ------------------------------------------------------------------------------------------------------
def teaching_of(run: Run, task: Task) -> Teaching | None:
    """How the run taught this task; None for an imported run and a task without a teacher."""
    config = run.manifest().get("config")
    if not config or not task.has_teacher:
        return None
    return validated(config).teaching(task)


def why_no_teaching(run: Run, task: Task) -> str:
    """In a sentence, where `teaching_of` is None."""
    if not run.manifest().get("config"):
        return (
            "The predictions of this run were imported: which loss its students were trained with is not known. The "
            "loss lab shows what any alpha and temperature would ask of them."
        )
    return f"Task {task.name} has no teacher in this run's config, so gold alone teaches."


def loss_terms(table: TaskTable, row: int, student: str, teaching: Teaching) -> LossTerms:
    """Raises `NotDefined` without gold, a teacher or this student, and for a regression."""
    if table.gold_N[row] < 0:
        raise NotDefined("The gold label of this example is not known, so there is no hard term.")
    q_1C, p_1C = table.log_probs(student)[[row]], table.log_probs("teacher")[[row]]
    alpha, t, gold = teaching.alpha, teaching.temperature, int(table.gold_N[row])
    grid = loss_grid(q_1C[0], p_1C[0], gold, alphas=(alpha,), temperatures=(t,))
    pulls = logit_gradients(q_1C, p_1C, [gold], alpha=alpha, temperature=t)
    return LossTerms(
        teaching, grid.hard, float(grid.soft[0]), -pulls.hard_NC[0], -pulls.soft_NC[0], float(pulls.cosine[0])
    )


def loss_box(table: TaskTable, row: int, student: str, terms: LossTerms) -> None:
    alpha, t = terms.teaching.alpha, terms.teaching.temperature
    hard, soft = (1 - alpha) * terms.hard, alpha * terms.soft
    loss = terms.teaching.loss
    other = "" if loss in ("soft_ce", "kl") else f" It was trained with another loss, {loss}."
    st.caption(f"At the run's alpha = {alpha:g} and temperature = {t:g}, for the mean of the student's seeds.{other}")
    with st.grid(3, min_column_width=120, gap="small"):
        st.metric("Gold's loss", f"{hard:.3f}", border=True, help="(1 − alpha) times the cross-entropy, nats")
        st.metric("Teachers' loss", f"{soft:.3f}", border=True, help="alpha T² KL(teachers, student), nats")
        together = signed(terms.cosine, 2)
        st.metric("Pulls' cosine", together, border=True, help="−1: they pull against each other, +1: together")
    labels = labels_of(table.task, table.texts([row])[0])
    shown = {
        "class": [("✓ " if i == table.gold_N[row] else "") + label for i, label in enumerate(labels)],
        "teachers": _probs_of(table, row, "teacher"),
        "student": _probs_of(table, row, student),
        "pull of gold": terms.pull_hard,
        "pull of teachers": terms.pull_soft,
        "sum": terms.pull_hard + terms.pull_soft,
    }
    number: Any = st.column_config.NumberColumn
    pulls = {name: number(format="%+.3f", width=100) for name in ("pull of gold", "pull of teachers", "sum")}
    st.dataframe(
        pa.table(shown),
        hide_index=True,
        column_config={name: number(format="%.3f", width=80) for name in ("teachers", "student")} | pulls,
        alt="What gold label and teachers ask of the student's logits, class by class",
    )
    st.caption("A pull above zero raises the class's logit: minus the gradient of its term of the loss.")


# ---- neighbours ----------------------------------------------------------------------------------------------------
def neighbours(table: TaskTable, row: int, student: str, n: int = 5) -> tuple[IntArray, np.ndarray, str]:
    """The n examples of the same cohort (else of all) on which the teachers say nearly the same: rows, distances
    (Jensen-Shannon in 0..1, for a regression the difference of values), and among whom in words."""
    rows, among = np.arange(len(table)), "all examples"
    if "cohort" in available(table, student=student):
        codes = column(table, "cohort", student=student)
        if codes[row] >= 0:
            rows, among = np.flatnonzero(codes == codes[row]), f"the cohort {COHORTS[int(codes[row])]}"
    rows = rows[rows != row]
    if not len(rows):
        return rows, np.empty(0), among
    if table.is_regression:
        values = table.values("teacher")
        distances = np.abs(values[rows] - values[row]).astype(np.float64)
    else:
        probs = table.probs("teacher")
        distances = js_distance_N(probs[rows], np.broadcast_to(probs[row], (len(rows), probs.shape[1])))
    first = np.argsort(distances, kind="stable")[:n]
    return rows[first], distances[first], among
