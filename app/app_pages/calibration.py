"""Calibration and dynamics: is it as sure as it is right, whose doubt does it inherit, and when did it learn what?

Reliability and entropy are of the split that is shown; data maps and epoch strips are of training examples, from the
logits that a training kept of each epoch (dropout on). A temperature is fitted on the selection split and applied to
another one.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from app import links, show
from app.choosing import chosen_student, fit_table
from app.state import choice, current_run, current_split, current_table, current_task, guarded
from app.words import NAMES, ROLE_OF, capital, name_of, number, several, subject, with_interval
from core.metrics import Score
from core.plots import comparisons, densities
from core.plots.arrays import mean_of
from core.plots.calibration import ReliabilityCurve, reliability
from core.plots.style import Role, signed
from core.plots.training import epoch_strip as strip_figure
from core.store import Run
from core.views import NotDefined, dynamics
from core.views.derived import column
from core.views.distances import mean_interval
from core.views.filters import Filter
from core.views.reliability import Curve, curve, ece_of, temperature_of
from core.views.table import BASELINE, DEFAULT_STUDENT, TaskTable, splits_of
from core.views.transfer import error_copying, share_of

VIEWS = {
    "reliability": "Reliability", "entropy": "Uncertainty passed on", "copies": "Errors passed on",
    "map": "Data map", "strip": "Epoch by epoch",
}  # fmt: skip
MAX_BINS, MIN_IN_BIN = 15, 30
AT_BOUND = (0.051, 19.9)  # core.calibration searches in 0.05..20: at an end the data do not fix the temperature


# ---- reliability ---------------------------------------------------------------------------------------------------
def reliability_view(table: TaskTable) -> None:
    voices = speakers(table)
    fit = fit_table(table)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        scaled = st.toggle(
            "With the fitted temperature", key="scaled", disabled=fit is None,
            help="Dotted: logits divided by one number, fitted on the selection split. It changes no answer.",
        )  # fmt: skip
        members = st.toggle("Each teacher", value=True, key="members", help="Thin lines: the members of the ensemble.")
    # Bins of so few examples that their intervals fill the figure would show noise alone.
    n_bins = int(np.clip(table.has_gold.sum() // MIN_IN_BIN, 4, MAX_BINS))
    temperatures = {voice: temperature_of(fit, voice) for voice in voices if fit is not None and voice in fit.voices}
    drawn: list[ReliabilityCurve] = []
    if members and len(table.members) > 1:
        drawn += [_curve(name, "member", curve(table, name, n_bins=n_bins), None) for name in table.members]
    plain = {voice: curve(table, voice, n_bins=n_bins) for voice in voices}
    eces = {voice: ece_of(table, voice) for voice in voices}
    drawn += [_curve(NAMES[voice], ROLE_OF[voice], plain[voice], eces[voice]) for voice in voices]
    after = {voice: ece_of(table, voice, temperature=t) for voice, t in temperatures.items()}
    if scaled:
        drawn += [
            _curve(
                f"{NAMES[v]} at T = {t:.2f}",
                ROLE_OF[v],
                curve(table, v, n_bins=n_bins, temperature=t),
                after[v],
                dashed=True,
            )
            for v, t in temperatures.items()
        ]
    st.markdown(" ".join(_sureness(plain[voice]) for voice in voices))
    show.figure(reliability(drawn), key=f"reliability-{scaled}-{members}")
    columns = {
        "sure minus right (points)": [
            with_interval(plain[voice].overconfidence, factor=100, sign=True) for voice in voices
        ],
        "calibration error (points)": [_score(eces[voice]) for voice in voices],
        "fitted temperature": [_temperature(temperatures.get(voice)) for voice in voices],
        "after it (points)": [_score(after.get(voice)) for voice in voices],
    }
    frame = pd.DataFrame({"who": [NAMES[voice] for voice in voices], **columns})
    st.dataframe(frame, hide_index=True, width="stretch", alt="Calibration of teachers and students.")
    why = " No temperature: there is no selection split with gold, or it is the one shown." if fit is None else ""
    st.caption(
        f"{n_bins} bins of equally many examples; bars and brackets are 95 % intervals over examples. Students are "
        "means of their seeds' probabilities. On the dashed line a model is right as often as it is sure; below it, "
        f"it is too sure. The calibration error (ECE) has {MAX_BINS} bins, as in the run's results; compare it on the "
        f"same examples only: with finite bins, honesty scores above 0 too.{why}"
    )


def _sureness(found: Curve) -> str:
    over = found.overconfidence
    verdict = "as sure as right" if over.low <= 0 <= over.high else "too sure" if over.value > 0 else "not sure enough"
    return f"**{capital(NAMES[found.voice])}**: {verdict}, {with_interval(over, factor=100, sign=True)} points."


def _curve(name: str, role: Role, found: Curve, ece: Score | None, *, dashed: bool = False) -> ReliabilityCurve:
    value, low, high = (found.ece, float("nan"), float("nan")) if ece is None else ece[:3]
    b = found.bins
    return ReliabilityCurve(
        name, role, b.confidence, b.accuracy, b.accuracy_low, b.accuracy_high, b.n_examples,
        value, low, high, dashed,
    )  # fmt: skip


def _temperature(t: float | None) -> str:
    if t is None:
        return "–"
    return f"{t:.2f}" if AT_BOUND[0] < t < AT_BOUND[1] else "not fixed by the data"


# ---- uncertainty and errors passed on ------------------------------------------------------------------------------
def entropy_view(table: TaskTable) -> None:
    student = chosen_student(table)
    teacher_n, student_n = column(table, "entropy"), column(table, "student_entropy", student=student)
    n_classes, top = table.task.n_outputs, float(np.log(table.task.n_outputs))
    gap = mean_interval(student_n - teacher_n)
    r = np.corrcoef(teacher_n, student_n)[0, 1] if np.ptp(teacher_n) > 0 and np.ptp(student_n) > 0 else float("nan")
    risk_n = (teacher_n > 2 * top / 3) & (student_n < top / 3)
    risk = share_of(int(risk_n.sum()), len(risk_n))
    who = show.literal(subject(student))
    doubt = "doubts as much as" if gap.low <= 0 <= gap.high else f"doubts {'more' if gap.value > 0 else 'less'} than"
    alike = "" if np.isnan(r) else f" Their entropies correlate with r = {number(r)}."
    st.markdown(
        f"**{capital(who)}** {doubt} its teachers: {with_interval(gap, 3, sign=True)} nats.{alike} On "
        f"**{risk.share:.1%}** of the examples [{risk.low:.1%}, {risk.high:.1%}] it is sure where they are unsure: "
        "confidence that nobody taught."
    )
    figure = densities.entropy_transfer(teacher_n, student_n, n_classes)
    selection = show.figure(figure, key=f"entropy-{student}", on_select="rerun")
    here = Filter(split=table.split, student_is=student)
    if risk.k:
        corner = here.with_range("entropy", low=2 * top / 3).with_range("student_entropy", high=top / 3)
        links.explore_link(f"Open the {risk.k:,} where only the student is sure", table.run, table.task, corner)
    cell = show.clicked(selection)
    if cell is not None:
        box = densities.cell_ranges(cell, n_classes=n_classes)
        inside = here.with_range("entropy", box.x_low, box.x_high)
        inside = inside.with_range("student_entropy", box.y_low, box.y_high)
        links.explore_link("Open the clicked cell's examples", table.run, table.task, inside)
    else:
        st.caption("Click a cell to open its examples.")


def copies_view(table: TaskTable) -> None:
    voices = tuple(voice for voice in (DEFAULT_STUDENT, BASELINE) if voice in table.students) or tuple(table.students)
    if not voices or not table.has_teacher:
        raise NotDefined(f"Split '{table.split}' of task '{table.task.name}' has no teacher, or no student.")
    found, labels = error_copying(table, voices=voices), table.task.labels
    names = {voice: name_of(voice) for voice in voices}
    first = found.share[voices[0]]
    words = (
        f"Where the teachers are wrong ({first.n:,} examples), **{subject(voices[0])}** gives their wrong answer in "
        f"**{first.share:.0%}** [{first.low:.0%}, {first.high:.0%}]."
    )
    if len(voices) == 2:
        wrong_N = (table.answers("teacher") != table.gold_N) & table.has_gold
        copied = [(table.answers(v) == table.answers("teacher"))[wrong_N].astype(float) for v in voices]
        gap = mean_interval(copied[0] - copied[1])
        verdict = "no difference" if gap.low <= 0 <= gap.high else "more" if gap.value > 0 else "fewer"
        words += (
            f" {capital(subject(voices[1]))}, which never saw them, does so in {found.share[voices[1]].share:.0%}; "
            f"what distillation passed on is the difference: **{verdict}**, "
            f"{with_interval(gap, factor=100, sign=True)} points."
        )
    st.markdown(words)
    rows = [comparisons.Interval("all errors", names[v], *found.share[v][:3], found.share[v].n) for v in voices]
    pairs = [divmod(int(flat), len(labels)) for flat in np.argsort(-found.n_CC, axis=None, kind="stable")]
    pairs = [(i, j) for i, j in pairs if found.n_CC[i, j] > 0][:6]
    for i, j in pairs:
        n = int(found.n_CC[i, j])
        for voice in voices:
            share = share_of(int(found.copied_CC[voice][i, j]), n)
            rows.append(comparisons.Interval(f"{labels[i]} → {labels[j]}", names[voice], *share[:3], n))
    roles = {names[voice]: ROLE_OF[voice] for voice in voices if voice in ROLE_OF}
    selection = show.figure(comparisons.error_copying(rows, roles=roles), key="copies", on_select="rerun")
    at = show.clicked(selection)
    if at is not None and at >= len(voices):
        i, j = pairs[(at - len(voices)) // len(voices)]
        both = Filter(split=table.split, gold=labels[i], teacher=labels[j], student=labels[j], student_is=voices[0])
        words = f"Open those that are {labels[i]} and that teachers and {names[voices[0]]} call {labels[j]}"
        links.explore_link(show.literal(words), table.run, table.task, both)
    else:
        st.caption("Gold → the teachers, commonest first; Wilson's 95 % intervals. Click a bar to open its examples.")


# ---- dynamics ------------------------------------------------------------------------------------------------------
def map_view(table: TaskTable) -> None:
    model = chosen_training(table)
    _, found = read(table, model)
    chance = 1 / table.task.n_outputs
    st.markdown(
        f"**{show.literal(model)}** over {several(found.n_epochs, 'epoch')} on {len(found.confidence):,} training "
        f"examples: mean probability of gold {found.confidence.mean():.2f}, right in {found.correctness.mean():.0%} "
        f"of the epochs. **{(found.confidence < chance).mean():.0%}** stay below chance ({chance:.2f}): hard, or "
        "labelled wrongly." + (" One epoch only: nothing varies, and the map is a line." if found.n_epochs == 1 else "")
    )
    figure = densities.data_map(found.confidence, found.variability, found.correctness)
    row = show.clicked(show.figure(figure, key=f"map-{model}", on_select="rerun"))
    if row is not None and row < len(found.ids):
        name = str(found.ids[row])
        words = f"Open {show.literal(name)}: confidence {found.confidence[row]:.2f}"
        links.example_link(words, table.run, table.task, name, Filter(split="train"))
    else:
        st.caption("Click a point to open its example. The logits are those of training, with dropout on.")
    twin = dynamics.twin_of(table, model)
    if twin is not None:
        moved = dynamics.displacement(read(table, twin)[1], found)
        up, calmer = mean_interval(moved.confidence), mean_interval(moved.variability)
        st.markdown(
            f"**Against {show.literal(twin)}**, which saw the same batches: probability of gold "
            f"{with_interval(up, 3, sign=True)}, variability {with_interval(calmer, 3, sign=True)}. The five examples "
            "that moved furthest:"
        )
        order = np.argsort(-np.abs(moved.confidence), kind="stable")[:5]
        for at in order.tolist():
            name = str(moved.ids[at])
            words = f"{text_of(table, name)} · probability of gold {signed(moved.confidence[at], 2)}"
            links.example_link(words, table.run, table.task, name, Filter(split="train"))


def strip_view(table: TaskTable) -> None:
    if "train" not in splits_of(table.run, table.task.name):
        raise NotDefined(f"This run has no training examples of task '{table.task.name}', so there are no epochs.")
    train = current_table(table.run, table.task, "train")
    if not train.has_teacher:
        raise NotDefined(
            f"The teachers of task '{table.task.name}' have no predictions on train, so nothing is matched."
        )
    cohorts = dynamics.training_cohorts(train)
    with st.container(horizontal=True):
        model = chosen_training(table)
        name = choice("Training examples", list(cohorts), key="cohort", default=next(iter(cohorts)), width=360)
    seen, _ = read(table, model)
    rows = cohorts[name]()
    at_dynamics, at_train = dynamics.positions_of(seen, train.ids)
    chosen = np.isin(at_train, rows)
    if not chosen.any():
        raise NotDefined(f"No training example that the epochs saw is in the cohort '{name}'.")
    positions, train_rows = at_dynamics[chosen], at_train[chosen]
    found = dynamics.epoch_strip(seen, positions, train.log_probs("teacher")[train_rows])
    n_epochs, n = found.kl.shape
    matched = share_of(int((found.first_match < n_epochs).sum()), n)
    at_once = float((found.first_match == 0).mean())
    first, last = mean_of(found.kl[0]), mean_of(found.kl[-1])
    st.markdown(
        f"{n:,} training examples. **{at_once:.0%}** have the teachers' answer after the first epoch, "
        f"**{matched.share:.0%}** [{matched.low:.0%}, {matched.high:.0%}] at some time; the mean KL to the teachers "
        f"goes from {first:.3f} to {last:.3f} nats."
    )
    first_match_N = np.where(found.first_match < n_epochs, found.first_match, -1)
    figure = strip_figure(found.kl, first_match_N=first_match_N, ids=train_rows)
    row = show.clicked(show.figure(figure, key=f"strip-{model}-{name}", on_select="rerun"))
    if row is not None:
        chosen_id = train.ids[row].as_py()
        links.example_link(f"Open {show.literal(chosen_id)}", table.run, table.task, chosen_id, Filter(split="train"))
    else:
        st.caption("A row is an example, lighter is nearer to the teachers. Click a cell to open its example.")


def chosen_training(table: TaskTable) -> str:
    models = dynamics.trainings(table)
    if not models:
        raise NotDefined(f"No training of this run kept its logits on '{table.task.name}': `dynamics` was off.")
    return choice("Training", models, key="training", default=models[0], width=260)


def text_of(table: TaskTable, name: str) -> str:
    """The first text of a training example, for a link."""
    train = current_table(table.run, table.task, "train")
    (text,) = train.texts([train.row_of(name)])
    return show.literal(text.text_a if len(text.text_a) <= 80 else text.text_a[:79] + "…")


@st.cache_resource(max_entries=6, show_spinner="Reading the training's logits")
def _read(path: str, model: str, task_name: str, mark: int) -> tuple[dynamics.Dynamics, dynamics.DataMap]:
    seen = dynamics.read_dynamics(Run(path), model, task_name)
    return seen, dynamics.data_map(seen)


def read(table: TaskTable, model: str) -> tuple[dynamics.Dynamics, dynamics.DataMap]:
    mark = table.run.dynamics_path(model, table.task.name).stat().st_mtime_ns
    return _read(str(table.run.path.resolve()), model, table.task.name, mark)


# ---- who speaks, and in which words --------------------------------------------------------------------------------
def speakers(table: TaskTable) -> list[str]:
    voices = [voice for voice in NAMES if voice in table.voices]
    if not voices:
        raise NotDefined(f"No ensemble and no student has predictions on split '{table.split}' of '{table.task.name}'.")
    return voices


def _score(score: Score | None) -> str:
    return "–" if score is None else f"{100 * score.value:.1f} [{100 * score.ci_low:.1f}, {100 * score.ci_high:.1f}]"


# ---- the page ------------------------------------------------------------------------------------------------------
SHOWN = {
    "reliability": reliability_view, "entropy": entropy_view, "copies": copies_view, "map": map_view,
    "strip": strip_view,
}  # fmt: skip
run = current_run()
task = current_task(run, classes_only=True)
split = current_split(run, task)
with guarded():
    table = current_table(run, task, split)
    view = choice("View", list(VIEWS), key="view", default="reliability", kind="segmented", words=VIEWS.__getitem__)
    with guarded():
        SHOWN[view](table)
