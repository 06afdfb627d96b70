"""Dark knowledge: which part of what teachers say does a student learn, and does it bring it nearer to the truth?

Controls keep a part of the teacher and drop the rest; the runner-up, the wrong classes and the decomposition of the
gradient say what there is to learn beyond gold; the flip ledger says what became of each example. All numbers are of
this run, differences are paired by seed, and one within two standard errors is called no difference.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from app import links, show
from app.choosing import chosen_student, in_order
from app.controls import controls_view
from app.state import choice, current_run, current_split, current_table, current_task, guarded
from app.words import ROLE_OF, name_of, number, several, subject
from core.comparisons import paired_difference
from core.plots.comparisons import Interval, points_and_intervals
from core.plots.gradients import decomposition_bar
from core.plots.ledger import COHORTS, LedgerRow, flip_ledger
from core.plots.matrices import class_mass_map, in_words
from core.plots.matrices import runner_up_transfer as runner_up_figure
from core.plots.style import signed
from core.views import NotDefined
from core.views.cohorts import ledger, seed_pairs, stability, stable_rows
from core.views.derived import COHORT_IN_WORDS, cohort_codes, column
from core.views.distances import difference, distances
from core.views.filters import Filter
from core.views.gradients import decomposition
from core.views.table import BASELINE, DEFAULT_STUDENT, TaskTable, require_three_classes
from core.views.transfer import runner_up_transfer, wrong_class_mass

VIEWS = {
    "controls": "Controls", "runner": "Runner-up", "wrong": "Wrong classes", "parts": "What pulls",
    "ledger": "Who taught whom", "truth": "Truth and people",
}  # fmt: skip


# ---- what there is to learn ----------------------------------------------------------------------------------------
def runner_up(table: TaskTable) -> None:
    require_three_classes(table.task, "runner-up among the wrong classes")
    student = chosen_student(table, taught=True)
    voices = (student, *((BASELINE,) if BASELINE in table.students and student != BASELINE else ()))
    found = runner_up_transfer(table, voices=voices)
    words = (
        f"How probable does {show.literal(subject(student))} find the class that the teachers put second, given that "
        f"it is not gold? Its values follow theirs with **r = {number(found.r[student])}** "
        f"({in_words(found.r[student])})"
    )
    if len(voices) == 2:
        words += f"; without distillation it is {number(found.r[BASELINE])}, which the data alone teach"
    st.markdown(words + ". On the dashed line a student knows what no label told it.")
    hard = {"hard_N": found.voices[BASELINE], "hard_r": found.r[BASELINE]} if len(voices) == 2 else {}
    figure = runner_up_figure(
        found.teacher, found.voices[student], found.r[student], n_classes=table.task.n_outputs, **hard
    )
    show.figure(figure, key=f"runner-{student}")
    with guarded():
        pairs = seed_pairs(table, student)
        each = runner_up_transfer(table, voices=tuple(name for pair in pairs.values() for name in pair)).r
        gain = paired_difference([each[taught] for _, taught in pairs.values()], [each[p] for p, _ in pairs.values()])
        more = f", {signed(gain.mean, 2)}" + (f" ± {gain.se:.2f}" if gain.n > 1 else "")
        verdict = {"better": "higher", "worse": "lower"}.get(gain.verdict, gain.verdict)
        st.caption(
            f"r of {show.literal(subject(student))} minus r of the one without distillation, over "
            f"{several(gain.n, 'seed')}: {verdict}{more}."
        )


def wrong_classes(table: TaskTable) -> None:
    require_three_classes(table.task, "mass between wrong classes")
    found, labels = wrong_class_mass(table), table.task.labels
    if not found.n_C.any():
        raise NotDefined("No example with gold here, so no class is known to be wrong.")
    given = st.toggle(
        "Among the wrong classes only", key="wrong-given",
        help="Off: mean probability of each class. On: without gold, each row adding up to 1: where does the mass go "
        "that is not on gold?",
    )  # fmt: skip
    matrix_CC = found.wrong_CC if given else found.mean_CC
    off_CC = np.where(np.eye(len(labels), dtype=bool), np.nan, found.wrong_CC)
    words = "The teachers put no mass on wrong classes here."
    if np.isfinite(off_CC).any():
        i, j = divmod(int(np.nanargmax(off_CC)), len(labels))
        even = 1 / (len(labels) - 1)
        words = (
            f"Where gold is **{show.literal(labels[i])}**, {off_CC[i, j]:.0%} of what the teachers do not give to gold "
            f"goes to **{show.literal(labels[j])}**; evenly spread it would be {even:.0%}."
        )
        gaps = {}
        for voice in {DEFAULT_STUDENT, BASELINE} & set(table.students):
            gaps[voice] = float(np.nanmean(np.abs(wrong_class_mass(table, voice).wrong_CC - found.wrong_CC)))
        if len(gaps) == 2:
            words += (
                f" The distilled student's shares differ from these by {gaps[DEFAULT_STUDENT]:.3f} on average, those "
                f"of the student without distillation by {gaps[BASELINE]:.3f}."
            )
    st.markdown(words)
    selection = show.figure(class_mass_map(matrix_CC, labels, found.n_C), key=f"mass-{given}", on_select="rerun")
    cell = show.clicked(selection)
    st.caption("Click a cell to open its examples: this gold label, and the teachers answer that class.")
    if cell is not None:
        i, j = divmod(cell, len(labels))
        n = int(((table.gold_N == i) & (table.answers("teacher") == j)).sum())
        words = f"Open the {n:,} with gold {show.literal(labels[i])} that the teachers call {show.literal(labels[j])}"
        links.explore_link(words, table.run, table.task, Filter(split=table.split, gold=labels[i], teacher=labels[j]))


def what_pulls(table: TaskTable) -> None:
    require_three_classes(table.task, "teaching about wrong classes")
    student = chosen_student(table, taught=True)
    found = decomposition(table, student=student)
    gold_n, labels = table.gold_N[found.rows], table.task.labels
    groups = ["all", *(label for c, label in enumerate(labels) if (gold_n == c).any())]
    masks = [np.ones(len(gold_n), bool), *(gold_n == c for c in range(len(labels)) if (gold_n == c).any())]
    st.markdown(
        f"At temperature 1 the teachers' pull on {show.literal(subject(student))} splits exactly in two: gold, "
        f"weighted by how sure the teachers are of it, and what they say about the wrong classes. The second part, "
        f"which no label holds, is **{found.others_share:.0%}** of it here."
    )
    figure = decomposition_bar(
        [float(found.gold[mask].mean()) for mask in masks], [float(found.others[mask].mean()) for mask in masks], groups
    )
    show.figure(figure, key=f"parts-{student}")
    st.caption(
        "q − p = p* (q − gold) + (1 − p*) (q − p~): q is the student, p the teachers, p* their probability of gold and "
        "p~ their distribution over the rest. Mean norms at this checkpoint; rows are gold labels. A student that has "
        "learnt a part feels no pull from it any more."
    )


# ---- who taught whom -----------------------------------------------------------------------------------------------
def who_taught_whom(table: TaskTable) -> None:
    student = chosen_student(table, taught=True)
    whole, over = ledger(table, student=student), stability(table, student=student)
    net = whole.net
    verdict = "no difference" if net.low <= 0 <= net.high else "a gain" if net.share > 0 else "a loss"
    stable = sum(over.all[name] for name in ("taught", "surpassed", "mis-taught", "lost"))
    flips = float(np.mean([entry.n_gained + entry.n_lost for entry in over.net]))
    words = (
        f"Distillation turned {net.n_gained:,} wrong answers into right ones and {net.n_lost:,} right ones into wrong: "
        f"**{verdict}**, net {signed(100 * net.share)} points [{signed(100 * net.low)}, {signed(100 * net.high)}], "
        f"McNemar p = {net.p_value:.2g}."
    )
    if over.seed_flips is not None:
        words += (
            f" Seed by seed {flips:,.0f} answers flip, and {over.seed_flips:,.0f} do between two students of different "
            f"seeds without any distillation; **{stable:,}** flips are the same in all {len(over.seeds)} seeds."
        )
    st.markdown(words)
    teacher_n, known_N = table.is_right("teacher")[table.has_gold], table.has_gold
    rows = [LedgerRow("mean of seeds", [whole.counts[c.name] for c in COHORTS], net.low, net.high)]
    if len(over.seeds) > 1:
        for seed, (plain, taught) in seed_pairs(table, student).items():
            codes_n = cohort_codes(teacher_n, table.is_right(plain)[known_N], table.is_right(taught)[known_N])
            of_seed = over.net[over.seeds.index(seed)]
            counts = np.bincount(codes_n, minlength=len(COHORTS)).tolist()
            rows.append(LedgerRow(f"seed {seed}", counts, of_seed.low, of_seed.high))
    selection = show.figure(flip_ledger(rows), key=f"ledger-{student}", on_select="rerun")
    here = Filter(split=table.split, student_is=student)
    cohort = show.clicked(selection)
    if cohort is not None and 0 <= cohort < len(COHORTS):
        name = COHORTS[cohort].name
        st.markdown(f"**{name}**: {COHORT_IN_WORDS[name]}.")
        n, n_stable = whole.counts[name], len(stable_rows(table, name, student=student))
        words = f"Open these {n:,} in Explore (mean of seeds; {n_stable:,} are so in every seed)"
        links.explore_link(words, table.run, table.task, here.but(cohort=name))
    else:
        st.caption("Click a segment for its meaning and its examples.")
    counts = {"examples": whole.counts, "in a seed": over.mean, "in most seeds": over.majority, "in all": over.all}
    frame = pd.DataFrame({title: [round(of[c.name]) for c in COHORTS] for title, of in counts.items()})
    frame.insert(0, "meaning", [COHORT_IN_WORDS[c.name] for c in COHORTS])
    frame.insert(0, "cohort", [c.name for c in COHORTS])
    st.dataframe(
        frame, hide_index=True, width="stretch", alt="The eight cohorts with counts and stability over seeds.",
        column_config={title: st.column_config.NumberColumn(format="localized") for title in counts},
    )  # fmt: skip


# ---- truth and people ----------------------------------------------------------------------------------------------
def truth_and_people(table: TaskTable) -> None:
    students = in_order(tuple(table.students))
    voices = (*(("teacher",) if table.has_teacher else ()), *students)
    have = {"truth": table.truth_NC is not None, "humans": table.humans_NC is not None}
    known = [name for name, is_known in have.items() if is_known]
    if not known or not voices:
        raise NotDefined(
            f"Neither true probabilities nor annotators' labels are known on split '{table.split}' of task "
            f"'{table.task.name}', so nobody can be compared with them. The embedded suite has both; of real data, "
            "SNLI and MNLI have several annotators for an example."
        )
    rows, said = [], []
    for which in known:
        name = {"truth": "the truth", "humans": "people"}[which]
        found = distances(table, "truth" if which == "truth" else "humans", voices)
        rows += [Interval(name, name_of(voice), *found.mean[voice]) for voice in voices]
        if {DEFAULT_STUDENT, BASELINE} <= set(voices):
            gap = difference(found, DEFAULT_STUDENT, BASELINE)
            verdict = "**nearer** to" if gap.high < 0 else "**further** from" if gap.low > 0 else "**as far** from"
            than = "as" if "as far" in verdict else "than"
            said.append(
                f"The distilled student is {verdict} {name} {than} the one without distillation: "
                f"{signed(gap.value, 3)} [{signed(gap.low, 3)}, {signed(gap.high, 3)}] on {gap.n:,} examples."
            )
    st.markdown(" ".join(said) or "Who is how far from what is known.")
    roles = {name_of(voice): ROLE_OF[voice] for voice in voices if voice in ROLE_OF}
    metric = "Jensen–Shannon distance: 0 the same, 1 nothing in common"
    show.figure(points_and_intervals(rows, metric=metric, roles=roles, digits=3), key="distances")
    st.caption(
        "Means over examples with 95 % bootstrap intervals; a voice is the mean of its seeds. The intervals are about "
        "the choice of examples; the luck of training is in those of the controls."
    )
    if DEFAULT_STUDENT in voices:
        limit = float(np.nanquantile(column(table, name := f"student_kl_{known[0]}"), 0.9))
        words = f"Open the tenth where the student is furthest (KL of {limit:.2f} nats or more)"
        links.explore_link(words, table.run, table.task, Filter(split=table.split).with_range(name, low=limit))


# ---- the page ------------------------------------------------------------------------------------------------------
SHOWN = {
    "controls": controls_view, "runner": runner_up, "wrong": wrong_classes, "parts": what_pulls,
    "ledger": who_taught_whom, "truth": truth_and_people,
}  # fmt: skip
run = current_run()
task = current_task(run, classes_only=True)
split = current_split(run, task)
with guarded():
    table = current_table(run, task, split)
    view = choice("View", list(VIEWS), key="view", default="controls", kind="segmented", words=VIEWS.__getitem__)
    with guarded("No scores to compare yet" if view == "controls" else "This cannot be shown"):
        SHOWN[view](table)
