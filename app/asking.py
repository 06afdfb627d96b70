"""A person's own text to every model of a task: which can answer, and what they say.

torch comes with the first question, not with the page: this module imports core/ask, the only part of the dashboard
that needs it, inside a function.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from core.plots.cards import distribution_card, value_card
from core.store import Run
from core.tasks import Task
from core.views.catalogue import Models
from core.views.table import BASELINE, DEFAULT_STUDENT


class Question(NamedTuple):
    text: str
    text_b: str | None = None
    candidates: tuple[str, ...] | None = None


class Panel(NamedTuple):
    """Who can be asked about a task. `missing` have predictions and no weights: those may be deleted after a run.
    `teachers_are`: "teachers", or "members" where there are no teachers."""

    teachers: tuple[str, ...]
    students: dict[str, tuple[str, ...]]
    missing: tuple[str, ...]
    teachers_are: str

    @property
    def everybody(self) -> tuple[str, ...]:
        return (*self.teachers, *(name for names in self.students.values() for name in names))


def panel_of(run: Run, models: Models, task: Task, *, max_seeds: int = 5) -> Panel:
    """Teachers in the order of the recipe, then students by variant: no KD and KD first, at most `max_seeds` each."""
    teachers = models.teachers(task.name) or models.of_kind("member", task.name)
    students = {variant: tuple(seeds.values())[:max_seeds] for variant, seeds in models.students(task.name).items()}
    order = sorted(students, key=lambda name: (name not in (DEFAULT_STUDENT, BASELINE), name))
    wanted = [*teachers, *(name for variant in order for name in students[variant])]
    there = {name for name in wanted if run.model_dir(name).is_dir()}
    return Panel(
        tuple(name for name in teachers if name in there),
        {variant: kept for variant in order if (kept := tuple(name for name in students[variant] if name in there))},
        tuple(name for name in wanted if name not in there),
        models.behind(teachers),
    )


def problem(task: Task, question: Question) -> str | None:
    """Why this cannot be asked, or None."""
    if not question.text.strip():
        return "Type a text."
    if task.kind == "ranking":
        candidates = question.candidates or ()
        if any(not candidate.strip() for candidate in candidates):
            return f"Type all {task.n_outputs} candidates."
        if len(set(candidates)) < len(candidates):
            return "Two candidates are the same; each answer is named by its text."
    elif task.is_pair and not (question.text_b or "").strip():
        return "This task reads two texts; type the second one too."
    return None


def is_loaded() -> bool:
    return "core.ask" in sys.modules


def load() -> None:
    """Some seconds, once a server."""
    import core.ask  # noqa: F401


def answer(run: Run, model: str, task: Task, question: Question) -> np.ndarray | float:
    """Probabilities (C,), for a regression a value. Raises as `core.ask.ask`."""
    return _answer(str(run.path.resolve()), model, run.model_dir(model).stat().st_mtime_ns, task.name, question)


@st.cache_data(max_entries=500, show_spinner=False)
def _answer(path: str, model: str, mark: int, task: str, question: Question) -> np.ndarray | float:
    from core.ask import ask

    said = ask(Run(path), model, task, question.text, text_b=question.text_b, candidates=question.candidates)
    return float(said["value"]) if "value" in said else np.array(list(said["probs"].values()))


def chart(
    task: Task, question: Question, panel: Panel, answers: dict[str, np.ndarray | float], student: str
) -> go.Figure:
    """The card of the answers that are there so far."""
    said = {name: np.atleast_1d(answers[name]) for name in panel.everybody if name in answers}
    members = [name for name in panel.teachers if name in said]
    groups = {
        voice: np.stack([said[name] for name in panel.students.get(voice, ()) if name in said])
        for voice in (student, BASELINE)
        if any(name in said for name in panel.students.get(voice, ()))
    }
    students = groups.get(student) if student != BASELINE else None
    if task.kind == "regression":
        return value_card(
            value_range=task.score_range,
            members_M=[said[name][0] for name in members] or None,
            teacher=float(np.mean([said[name][0] for name in members])) if members else None,
            student_S=None if students is None else students[:, 0],
            hard_S=groups[BASELINE][:, 0] if BASELINE in groups else None,
            member_names=members or None,
            members_are=panel.teachers_are,
        )
    labels = [f"{i}. {text}" for i, text in enumerate(question.candidates or (), start=1)] or list(task.labels)
    stacked = np.stack([said[name] for name in members]) if members else None
    return distribution_card(
        labels,
        members_MC=stacked,
        teacher_C=None if stacked is None else stacked.mean(axis=0),
        student_SC=students,
        hard_SC=groups.get(BASELINE),
        member_names=members or None,
        members_are=panel.teachers_are,
    )
