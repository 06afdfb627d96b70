"""Try it: type a text, and every teacher, their mean and the students answer.

The only page that needs torch and weights; torch is loaded with the first question. After it, every change of the text
is asked again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import streamlit as st

from app import asking, cards, show, state, words
from app.asking import Question
from core.config import digest
from core.store import Run, read_json
from core.tasks import Task
from core.views.catalogue import Models, models_of_run
from core.views.paging import sample
from core.views.table import BASELINE, DEFAULT_STUDENT, TaskTable, Text


class Start(NamedTuple):
    """The example that the fields begin with, and what the run said of it."""

    table: TaskTable
    row: int
    text: Text


def start_of(run: Run, task: Task, split: str) -> Start | None:
    """The example of the URL's `ex`, else one of the data, so that there is something to change."""
    try:
        table = state.current_table(run, task, split)
        asked = st.query_params.get("ex")
        row = table.row_of(asked) if asked is not None else int(sample(table, np.arange(len(table)), 1)[0])
        return Start(table, row, table.texts([row])[0])
    except (ValueError, OSError):
        return None


def is_unchanged(question: Question, text: Text) -> bool:
    return question == Question(text.text_a, text.text_b, text.candidates and tuple(text.candidates))


def what_the_change_did(start: Start, answers: dict[str, np.ndarray | float], panel: asking.Panel, student: str) -> str:
    """What each voice says now against what it said of the text that the fields began with."""
    table, row = start.table, start.row
    models = {"teacher": panel.teachers, student: panel.students.get(student, ())}
    models[BASELINE] = panel.students.get(BASELINE, ())
    moved: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for voice, names in models.items():
        said = [np.atleast_1d(answers[name]) for name in names if name in answers]
        if said and voice in table.voices:
            old = table.values(voice)[[row]] if table.is_regression else table.probs(voice)[row]
            moved[voice] = np.asarray(old, float), np.mean(said, axis=0)
    if not moved:
        return ""
    # The class that moved most over all voices is the one to speak of.
    most = int(np.sum([np.abs(new - old) for old, new in moved.values()], axis=0).argmax())
    labels = ["the value"] if table.is_regression else cards.labels_of(table.task, start.text)
    of = labels[0] if table.is_regression else f"the probability of **{show.literal(labels[most])}**"
    each = (f"{words.name_of(voice)} {old[most]:.2f} → **{new[most]:.2f}**" for voice, (old, new) in moved.items())
    return f"Against the text that you began with, {of} goes: {', '.join(each)}."


def question_form(task: Task, start: Text | None) -> Question:
    """Fields that fit the task. Their keys hold the task and the example, so that another one brings its own text."""
    mark = digest([task.name, start.example_id if start else ""])
    text = st.text_area(
        "Question" if task.kind == "ranking" else "Text",
        start.text_a if start else "",
        key=f"text-{mark}",
        height=90,
        max_chars=4000,
    )
    if task.kind == "ranking":
        given = (start.candidates if start else None) or ("",) * task.n_outputs
        candidates = [
            st.text_input(f"Candidate {i}", given[i - 1], key=f"candidate-{i}-{mark}", max_chars=1000)
            for i in range(1, task.n_outputs + 1)
        ]
        return Question(text, candidates=tuple(candidates))
    if task.is_pair:
        second = st.text_area(
            "Second text", (start.text_b or "") if start else "", key=f"second-{mark}", height=90, max_chars=4000
        )
        return Question(text, text_b=second)
    return Question(text)


def recipe_note(run: Run, models: Models) -> str:
    """The mean drawn here is the arithmetic one; say so where students were taught another."""
    if models.taught_by is None or not (run.path / "ensembles.json").exists():
        return ""
    strategy = read_json(run.path / "ensembles.json").get(models.taught_by, {}).get("strategy", "mean_probs")
    return "" if strategy == "mean_probs" else f" This run's students were taught by another recipe, {strategy}."


def ask_everybody(
    run: Run, task: Task, question: Question, start: Start | None, panel: asking.Panel, student: str
) -> None:
    answers: dict[str, np.ndarray | float] = {}
    slot, bar = st.empty(), st.empty()
    everybody = [*panel.teachers, *panel.students.get(student, ()), *panel.students.get(BASELINE, ())]
    everybody = list(dict.fromkeys(everybody))
    for i, name in enumerate(everybody, start=1):
        bar.progress(i / len(everybody), text=f"{show.literal(name)} answers, {i} of {len(everybody)}")
        answers[name] = asking.answer(run, name, task, question)
    bar.empty()
    with slot.container():
        fig = cards.named(asking.chart(task, question, panel, answers, student), student)
        show.figure(fig, key=f"answers-{digest([run.path.name, task.name, student])}")
    if task.kind == "regression":
        said = {"model": everybody, "value": [float(answers[name]) for name in everybody]}
    else:
        labels = list(question.candidates or task.labels)
        probs = np.stack([np.asarray(answers[name]) for name in everybody])
        said = {"model": everybody, "answer": [labels[i] for i in probs.argmax(axis=1)]}
        said |= {f"{i}. {label}": probs[:, i - 1] for i, label in enumerate(labels, start=1)}
    number = st.column_config.NumberColumn(format="%.3f")
    if start is not None and not is_unchanged(question, start.text):
        st.markdown(what_the_change_did(start, answers, panel, student) or "This run kept nothing to compare with.")
    with st.expander("Every answer in numbers"):
        st.dataframe(
            pa.table(said),
            hide_index=True,
            column_config={name: number for name in said if name not in ("model", "answer")},
            alt=f"Answers of {len(everybody)} models",
        )


def not_asked_yet(start: Start | None, student: str) -> None:
    show.empty(
        "Nobody has been asked yet",
        "Change a word and ask. The first question loads torch, which takes some seconds; after that every change of "
        "the text is answered at once.",
        icon=":material/forum:",
    )
    if start is not None and start.table.voices:
        st.caption(f"What they said of {show.literal(start.text.example_id)} in the run:")
        show.figure(cards.card(start.table, start.row, student), key=f"before-{start.text.example_id}-{student}")


# ---- the page ------------------------------------------------------------------------------------------------------
run = state.current_run()
task = state.current_task(run)
split = state.current_split(run, task)
with state.guarded("This cannot be asked"):
    models = models_of_run(run)
    panel = asking.panel_of(run, models, task)
    if not panel.everybody:
        if panel.missing:
            why = (
                f"Their predictions are here, their weights are not: {', '.join(panel.missing)}. A run may be kept "
                "without weights; everything but this page reads it. This trains them again:"
            )
            again = f"python -m core run --out {run.path} --from multitask --set runtime.keep_models=true"
            show.empty("The models' weights were deleted", why, again, icon=":material/weight:")
        else:
            why = f"This run has no teacher and no student of task {task.name} yet."
            show.empty("Nobody to ask yet", why, f"python -m core run --out {run.path}", icon=":material/person_off:")
        state.stop()
    left, right = st.columns([2, 3], gap="medium")
    with left:
        start = start_of(run, task, split)
        question = question_form(task, start.text if start else None)
        variants = [name for name in panel.students if name != BASELINE] or list(panel.students)
        student = DEFAULT_STUDENT
        if variants:
            default = DEFAULT_STUDENT if DEFAULT_STUDENT in variants else variants[0]
            student = default
            if len(variants) > 1:
                student = state.choice("Student", variants, key="student", default=default, words=words.taught_by)
        wrong = asking.problem(task, question)
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            if st.button("Ask everybody", type="primary", icon=":material/forum:", disabled=wrong is not None):
                st.session_state["asked"] = True
            n_students = sum(map(len, panel.students.values()))
            who = (
                f"{words.several(len(panel.teachers), panel.teachers_are[:-1])}, {words.several(n_students, 'student')}"
            )
            st.caption(wrong or who)
        if panel.missing:
            show.plain(f"Without weights, hence silent: {', '.join(panel.missing)}.", faint=True)
    with right:
        if wrong is not None or not st.session_state.get("asked"):
            not_asked_yet(start, student)
            state.stop()
        if not asking.is_loaded():
            with st.spinner("Loading torch and the models' code, once for this server", show_time=True):
                asking.load()
        ask_everybody(run, task, question, start, panel, student)
        st.caption(f"The violet line is the mean of the teachers' answers.{show.literal(recipe_note(run, models))}")
