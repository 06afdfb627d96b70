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
from app.state import choice, current_run, current_split, current_table, current_task, guarded
from core.comparisons import Difference, paired_difference
from core.metrics import HIGHER_IS_BETTER
from core.plots.comparisons import Interval, points_and_intervals
from core.plots.gradients import decomposition_bar
from core.plots.ledger import COHORTS, LedgerRow, flip_ledger
from core.plots.matrices import class_mass_map, in_words
from core.plots.matrices import runner_up_transfer as runner_up_figure
from core.plots.style import Role, signed
from core.sections import NEEDS_TEACHER
from core.views import NotDefined
from core.views.cohorts import ledger, seed_pairs, stability, stable_rows
from core.views.derived import COHORT_IN_WORDS, cohort_codes, column
from core.views.distances import difference, distances
from core.views.filters import Filter
from core.views.gradients import decomposition
from core.views.results import Control, controls, read_results
from core.views.table import BASELINE, DEFAULT_STUDENT, TaskTable, require_three_classes
from core.views.transfer import runner_up_transfer, wrong_class_mass

VIEWS = {
    "controls": "Controls", "runner": "Runner-up", "wrong": "Wrong classes", "parts": "What pulls",
    "ledger": "Who taught whom", "truth": "Truth and people",
}  # fmt: skip
KEEPS = {
    "hard": "gold alone", "kd": "the real teachers", "label_smoothing": "a uniform teacher",
    "cwtm": "gold, weighted by the teachers' confidence", "dkpp": "teachers with their wrong classes permuted",
    "adaptive_smoothing": "teachers with their wrong classes evened out", "truth": "the exact posterior",
}  # fmt: skip
# What a student does not hear when it is taught by the control instead of the teachers.
DROPS = {
    "label_smoothing": "everything that the teachers know", "cwtm": "all but the teachers' confidence",
    **dict.fromkeys(("dkpp", "adaptive_smoothing"), "which wrong class the teachers meant"),
}  # fmt: skip
METRICS = {"score": "score", "nll": "NLL", "ece": "ECE", "kl_truth": "KL to the truth", "kl_humans": "KL to people"}
ROLES: dict[str, Role] = {"teacher": "teacher", DEFAULT_STUDENT: "student", BASELINE: "hard", "truth": "truth"}


# ---- controls ------------------------------------------------------------------------------------------------------
def controls_view(table: TaskTable) -> None:
    results = read_results(table.run)
    with_teacher = [name for name, row in results.tasks.items() if row.has_teacher and row.kind != "regression"]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        known = {key[3] for key in results.scores if key[2] == table.split}
        metrics = [metric for metric in METRICS if metric in known]
        if not metrics:
            raise NotDefined(f"This run has no scores on split '{table.split}'; it reports '{results.split}'.")
        metric = choice(
            "Metric", metrics, key="metric", default=metrics[0], kind="segmented", words=METRICS.__getitem__
        )
        scopes = ["this"] + ["all"] * (len(with_teacher) > 1 and table.task.name in with_teacher)
        words = {"this": table.task.name, "all": f"mean of {len(with_teacher)} tasks with a teacher"}
        scope = choice("On", scopes, key="over", default="this", kind="segmented", words=words.__getitem__)
    tasks = [table.task.name] if scope == "this" else with_teacher
    order = [DEFAULT_STUDENT, *NEEDS_TEACHER]  # controls as the config names them, then what is made of kd
    found = controls(results, tasks=tasks, metric=metric, split=table.split)
    found.sort(key=lambda control: order.index(control.variant) if control.variant in order else len(order))
    paired = [control for control in found if control.minus_hard is not None]
    if not paired:
        raise NotDefined(f"No student is paired with '{BASELINE}' by seed here, so nothing can be compared.")
    st.markdown(
        f"Each student against the one on gold alone, paired by seed. "
        f"{'Higher' if HIGHER_IS_BETTER[metric] else 'Lower'} is better; open markers are no difference."
    )
    rows = [
        Interval(control.variant, "student", *_interval(control.minus_hard), control.minus_hard.n)
        for control in paired
        if control.minus_hard is not None
    ]
    label = f"{METRICS[metric]} x 100, minus gold alone (± 2 standard errors)"
    figure = points_and_intervals(rows, metric=label, zero_line=True, roles={"student": "student"})
    show.figure(figure.update_layout(showlegend=False), key=f"controls-{metric}-{scope}")
    for sentence in verdicts(paired, table, metric):
        st.markdown(sentence)
    frame = pd.DataFrame(
        {
            "student": [_words(control.variant) for control in found],
            METRICS[metric]: [_pm(control.value.mean, control.value.se) for control in found],
            "minus gold alone": [_said(control.minus_hard) for control in found],
            "the real teachers minus it": [_said(control.kd_minus) for control in found],
            "seeds": [control.value.n for control in found],
        }
    )
    st.dataframe(frame, hide_index=True, width="stretch", alt="Every student variant against gold and the teachers.")
    here = {control.variant for control in found}
    missing = [name for name in NEEDS_TEACHER if name not in here and (name != "truth" or table.truth_NC is not None)]
    if here <= {BASELINE, DEFAULT_STUDENT}:
        st.caption("Only gold alone and the real teachers are here. This adds the controls, and trains nothing twice:")
    elif missing:
        st.caption(f"Not trained in this run: {', '.join(KEEPS[name] for name in missing)}. This adds them:")
    if missing:
        variants = ",".join(name for name in NEEDS_TEACHER if name != "truth" or table.truth_NC is not None)
        command = f"python -m core run --out {table.run.path} --set 'distill.variants=[{variants}]'"
        st.code(command, language="bash", wrap_lines=True)


def verdicts(paired: list[Control], table: TaskTable, metric: str) -> list[str]:
    """What may be said of kd, and of each control against it, in words."""
    said = []
    for control in sorted(paired, key=lambda control: control.variant != DEFAULT_STUDENT):
        gain, gap, drops = control.minus_hard, control.kd_minus, DROPS.get(control.variant)
        if control.variant == DEFAULT_STUDENT and gain is not None:
            words = f"The real teachers against gold alone: **{gain.verdict}**, {_said(gain)} ({gain.n} seeds)."
            said.append(words + " `--set distill.seeds=5` trains more." * (gain.verdict == "one seed"))
        elif drops is not None and gap is not None:
            name, size = f"**{_words(control.variant)}**", f"({_said(gap)}, {gap.n} seeds)"
            said += {
                "no difference": [f"The real teachers equal {name} within two standard errors {size}: leaving out "
                                  f"{drops} costs no {METRICS[metric]} that this many seeds can show."],
                "better": [f"The real teachers are better than {name} {size}: {drops} is worth that here."],
                "worse": [f"The real teachers are worse than {name} {size}."],
            }.get(gap.verdict, [])  # fmt: skip
    if table.task.n_outputs == 2 and any(control.variant in ("dkpp", "adaptive_smoothing") for control in paired):
        said.append("With two classes there is one wrong class: permuted and evened teachers are the real ones.")
    return said


# ---- what there is to learn ----------------------------------------------------------------------------------------
def runner_up(table: TaskTable) -> None:
    require_three_classes(table.task, "runner-up among the wrong classes")
    student = chosen_student(table)
    voices = (student, *((BASELINE,) if BASELINE in table.students and student != BASELINE else ()))
    found = runner_up_transfer(table, voices=voices)
    words = (
        f"How probable does {show.literal(student)} find the class that the teachers put second, given that it is not "
        f"gold? Its values follow theirs with **r = {found.r[student]:.2f}** ({in_words(found.r[student])})"
    )
    if len(voices) == 2:
        words += f"; without distillation it is {found.r[BASELINE]:.2f}, which the data alone teach"
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
        more = f", {signed(gain.mean, 2)} ± {gain.se:.2f}" if gain.n > 1 else f", {signed(gain.mean, 2)}"
        st.caption(
            f"Seed by seed ({gain.n}), {show.literal(student)} minus the student without distillation: "
            f"{'higher' if gain.verdict == 'better' else 'lower' if gain.verdict == 'worse' else gain.verdict}{more}."
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
    student = chosen_student(table)
    found = decomposition(table, student=student)
    gold_n, labels = table.gold_N[found.rows], table.task.labels
    groups = ["all", *(label for c, label in enumerate(labels) if (gold_n == c).any())]
    masks = [np.ones(len(gold_n), bool), *(gold_n == c for c in range(len(labels)) if (gold_n == c).any())]
    st.markdown(
        f"At temperature 1 the teachers' pull on {show.literal(student)} splits exactly in two: gold, weighted by how "
        f"sure the teachers are of it, and what they say about the wrong classes. The second part, which no label "
        f"holds, is **{found.others_share:.0%}** of it here."
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
    student = chosen_student(table)
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
    frame = pd.DataFrame({title: [round(of[c.name], 1) for c in COHORTS] for title, of in counts.items()})
    frame.insert(0, "meaning", [COHORT_IN_WORDS[c.name] for c in COHORTS])
    frame.insert(0, "cohort", [c.name for c in COHORTS])
    st.dataframe(frame, hide_index=True, width="stretch", alt="The eight cohorts with counts and stability over seeds.")


# ---- truth and people ----------------------------------------------------------------------------------------------
def truth_and_people(table: TaskTable) -> None:
    students = sorted(table.students, key=lambda name: (name != DEFAULT_STUDENT, name != BASELINE))
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
        rows += [Interval(name, voice, *found.mean[voice]) for voice in voices]
        if {DEFAULT_STUDENT, BASELINE} <= set(voices):
            gap = difference(found, DEFAULT_STUDENT, BASELINE)
            verdict = "**nearer** to" if gap.high < 0 else "**further** from" if gap.low > 0 else "**as far** from"
            than = "as" if "as far" in verdict else "than"
            said.append(
                f"The distilled student is {verdict} {name} {than} the one without distillation: "
                f"{signed(gap.value, 3)} [{signed(gap.low, 3)}, {signed(gap.high, 3)}] on {gap.n:,} examples."
            )
    st.markdown(" ".join(said) or "Who is how far from what is known.")
    metric = "Jensen–Shannon distance: 0 the same, 1 nothing in common"
    show.figure(points_and_intervals(rows, metric=metric, roles=_roles(rows), digits=3), key="distances")
    st.caption(
        "Means over examples with 95 % bootstrap intervals; a voice is the mean of its seeds. The intervals are about "
        "the choice of examples; the luck of training is in those of the controls."
    )
    if DEFAULT_STUDENT in voices:
        limit = float(np.nanquantile(column(table, name := f"student_kl_{known[0]}"), 0.9))
        words = f"Open the tenth where the student is furthest (KL of {limit:.2f} nats or more)"
        links.explore_link(words, table.run, table.task, Filter(split=table.split).with_range(name, low=limit))


# ---- words and roles -----------------------------------------------------------------------------------------------
def chosen_student(table: TaskTable) -> str:
    students = sorted((name for name in table.students if name != BASELINE), key=lambda name: name != DEFAULT_STUDENT)
    if not students:
        raise NotDefined(f"No taught student has predictions on split '{table.split}' of task '{table.task.name}'.")
    return choice("Student", students, key="student", default=students[0], words=_words, width=360)


def _words(variant: str) -> str:
    return f"{variant}: {KEEPS[variant]}" if variant in KEEPS else variant


def _roles(rows: list[Interval]) -> dict[str, Role]:
    return {row.series: ROLES[row.series] for row in rows if row.series in ROLES}


def _interval(found: Difference | None) -> tuple[float, float, float]:
    assert found is not None
    return 100 * found.mean, 100 * (found.mean - 2 * found.se), 100 * (found.mean + 2 * found.se)


def _pm(mean: float, se: float) -> str:
    return f"{100 * mean:.1f}" + (f" ± {100 * se:.1f}" if np.isfinite(se) else "")


def _said(found: Difference | None) -> str:
    if found is None:
        return "–"
    mean = signed(round(100 * found.mean, 1) + 0.0)  # no minus before a zero
    return mean + (f" ± {100 * found.se:.1f}" if np.isfinite(found.se) else "")


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
