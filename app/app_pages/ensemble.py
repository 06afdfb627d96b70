"""Ensemble: who agrees with whom, where its doubt comes from, what size and strategy bring, whom students follow.

Everything is computed from stored logits. What has to be fitted (weights, temperatures) is fitted on the selection
split and scored on the one that is shown, as in the pipeline.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from app import links, show
from app.choosing import chosen_student, fit_table, in_order
from app.state import choice, current_run, current_split, current_table, current_task, guarded
from app.words import METRICS, capital, name_of, subject, with_interval
from core.combining import MIN_ROWS
from core.ensemble import q_statistic
from core.metrics import evaluate
from core.plots import ensembles as plots
from core.plots.matrices import agreement_matrix
from core.plots.rankings import strategies as strategies_figure
from core.plots.style import signed
from core.store import read_json
from core.views import NotDefined
from core.views import strategies as recipes
from core.views.counts import confusion
from core.views.derived import column
from core.views.distances import mean_interval
from core.views.ensembles import agreement, closest_member, leave_one_out, uncertainty
from core.views.filters import Filter
from core.views.table import BASELINE, DEFAULT_STUDENT, TaskTable, fingerprint, require_members
from core.views.transfer import share_of

VIEWS = {
    "agree": "Who agrees", "doubt": "Where doubt comes from", "size": "Size and strategy",
    "follow": "Whom the student follows",
}  # fmt: skip
WORDS = {
    "mean_probs": "mean of probabilities (the paper's)", "geometric_mean": "geometric mean",
    "mean_logits": "mean of logits", "weighted": "weighted by likelihood", "calibrated": "calibrated, then averaged",
    "greedy": "greedy choice", "stacking": "stacking",
}  # fmt: skip


# ---- who agrees ----------------------------------------------------------------------------------------------------
def who_agrees(table: TaskTable) -> None:
    everyone = st.toggle("Every model", key="agree-all", help="Off: teachers, their mean, each kind of student, gold.")
    few = (*table.members, *(("teacher",) if table.has_teacher else ()), *in_order(tuple(table.students)))
    voices = (*(table.model_names if everyone else few), *(("gold",) if table.has_gold.any() else ()))
    if len(voices) < 2:
        raise NotDefined("Fewer than two models have answers here, so nobody can agree with anybody.")
    found = agreement(table, voices)
    diversity(table)
    pairs = {
        (voices[i], voices[j]): found.share[i, j]
        for i, j in combinations(range(len(voices)), 2)
        if found.n[i, j] > 0 and "gold" not in (voices[i], voices[j])
    }
    if pairs:
        (top, high), *_, (bottom, low) = sorted(pairs.items(), key=lambda item: -item[1]) * 2
        a, b, c, d = (f"**{show.literal(name_of(voice))}**" for voice in (*top, *bottom))
        st.markdown(
            f"Most alike are {a} and {b} ({high:.0%} the same answers), least alike {c} and {d} ({low:.0%}). The row "
            "of gold is accuracy."
        )
    figure = agreement_matrix(found.share, [name_of(voice) for voice in voices])
    selection = show.figure(figure, key=f"agree-{everyone}", on_select="rerun")
    cell = show.clicked(selection)
    if cell is None:
        st.caption("Click a cell to see where the two part, and to open those examples.")
    if cell is not None:
        pair_of_voices(table, *(voices[i] for i in divmod(cell, len(voices))))


def diversity(table: TaskTable) -> None:
    """Three numbers of the teachers, and what they say together."""
    members = table.members
    if len(members) < 2:
        st.caption("One teacher or none: there is no diversity to measure.")
        return
    gap = mean_interval(column(table, "mutual_information"))
    apart = mean_interval(column(table, "disagreement"))
    q = table.kept.once("q", lambda: q_statistic([table.outputs(name) for name in members], table.gold_N))
    first, second, third = st.columns(3)
    first.metric(
        "Jensen gap", f"{gap.value:.3f} nats", help="Entropy of the mean less the mean of the entropies: 0 when all "
        f"members say the same, at most log {len(members)} = {np.log(len(members)):.2f}. The same number is the gap "
        "between the mean of the teachers' losses and the loss to their mean.",
    )  # fmt: skip
    second.metric(
        "Disagreement", f"{apart.value:.1%}", help="Share of pairs of members that answer differently. "
        f"95 % interval over examples: {apart.low:.1%} to {apart.high:.1%}.",
    )  # fmt: skip
    third.metric(
        "Q-statistic", f"{q:.2f}" if np.isfinite(q) else "not defined", help="Yule's Q of being right: 0 when errors "
        "are independent, near 1 when members are wrong on the same examples, below 0 when on different ones.",
    )  # fmt: skip
    known_N = table.has_gold
    if known_N.any() and table.has_teacher:
        right_Mn = np.stack([table.is_right(name)[known_N] for name in members]).mean(axis=0)
        gain = mean_interval(table.is_right("teacher")[known_N] - right_Mn)
        st.markdown(
            f"Two teachers answer differently in {apart.value:.0%} of the cases. What that is worth: their mean has "
            f"**{signed(100 * gain.value)} points** of accuracy [{signed(100 * gain.low)}, {signed(100 * gain.high)}] "
            "against one of them on average."
        )


def pair_of_voices(table: TaskTable, a: str, b: str) -> None:
    """What two voices answer where they differ, and a link where Explore has a filter for it."""
    a_N, b_N = table.answers(a), table.answers(b)
    known_N = (a_N >= 0) & (b_N >= 0)
    apart_N = (a_N != b_N) & known_N
    n, share = int(apart_N.sum()), share_of(int((known_N & ~apart_N).sum()), int(known_N.sum()))
    first, second = name_of(a), name_of(b)
    st.subheader(show.literal(capital(f"{first} and {second}")), anchor=False)
    words = f"They give one answer on {share.k:,} of {share.n:,} examples: {share.share:.1%}"
    words += f" [{share.low:.1%}, {share.high:.1%}]."
    if n and "gold" not in (a, b) and table.has_gold.any():
        with_a, with_b = (int((apart_N & (table.gold_N == said)).sum()) for said in (a_N, b_N))
        words += (
            f" Of the {n:,} where they part, gold is with {show.literal(first)} on {with_a:,}, with "
            f"{show.literal(second)} on "
            f"{with_b:,}, with neither on {n - with_a - with_b:,}."
        )
    st.markdown(words)
    if n:
        counts = pd.DataFrame(
            confusion(table, a, b),
            index=pd.Index(table.task.labels, name=f"{first} says"),
            columns=[f"{second}: {label}" for label in table.task.labels],
        )
        st.dataframe(counts, width="content", alt=f"Answers of {first} (rows) and {second} (columns), counts.")
    student = next((voice for voice in (a, b) if voice in table.voices and voice != "teacher"), None)
    if "teacher" in (a, b) and student is not None and n:
        differ = Filter(split=table.split, agree=False, student_is=student)
        links.explore_link(f"Open the {n:,} where they part in Explore", table.run, table.task, differ)


# ---- where doubt comes from ----------------------------------------------------------------------------------------
def doubt(table: TaskTable) -> None:
    found = uncertainty(table)
    total, information = float(found.total.mean()), mean_interval(found.information)
    share = information.value / total if total > 0 else float("nan")
    st.markdown(
        f"The teachers' mean holds **{total:.2f} nats** of doubt on average (of at most "
        f"{np.log(table.task.n_outputs):.2f}). **{share:.0%}** of it is disagreement, {information.value:.3f} nats "
        f"[{information.low:.3f}, {information.high:.3f}]; the rest each member has by itself. Shared doubt is in the "
        "data, or in what no model of this kind learns; disagreement is what another member could still change."
    )
    show.figure(plots.entropy_split(found.expected, found.information), key="split")
    st.markdown("**What they disagree about most**")
    for row, nats in list(zip(found.rows.tolist(), found.information.tolist(), strict=True))[:5]:
        (text,) = table.texts([row])
        said = [table.task.labels[int(table.answers(name)[row])] for name in table.members]
        words = text.text_a if len(text.text_a) <= 80 else text.text_a[:79] + "…"
        links.example_link(
            f"{show.literal(words)} · {show.literal(', '.join(said))} · {nats:.2f} nats",
            table.run, table.task, text.example_id, Filter(split=table.split),
        )  # fmt: skip
    top = max(1, len(found.rows) // 10)
    limit = float(found.information[top - 1])
    above = Filter(split=table.split).with_range("mutual_information", low=limit)
    links.explore_link(
        f"Open the tenth with the most disagreement ({limit:.2f} nats or more)", table.run, table.task, above
    )


# ---- size and strategy ---------------------------------------------------------------------------------------------
def size_and_strategy(table: TaskTable) -> None:
    members = tuple(name for name in table.models.of_kind("member", table.task.name) if table.has(name))
    found = {name: of for name, of in (("teachers", table.members), ("members", members)) if len(of) > 1}
    if not found:
        require_members(table, "an ensemble's size")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        pool = choice(
            "Of", list(found), key="pool", default=next(iter(found)), kind="segmented",
            words=lambda name: f"{len(found[name])} {'teachers' if name == 'teachers' else 'multi-task members'}",
        )  # fmt: skip
        metrics = ["score", "nll", *(["kl_truth"] if table.truth_NC is not None else [])]
        metric = choice(
            "Metric", metrics, key="metric", default="score", kind="segmented", words=lambda name: METRICS[name].title
        )
    if not table.has_gold.any():
        raise NotDefined(f"Split '{table.split}' of task '{table.task.name}' has no gold to score an ensemble with.")
    # The fingerprint changes with every file of the task: an answer of another run's files is never shown.
    mark = (str(table.run.path), fingerprint(table.run, table.task.name), table.split, *found[pool])
    sizes(table, found[pool], metric, mark)
    compare_strategies(table, found[pool], mark)


@st.cache_data(max_entries=30, show_spinner="Scoring every subset of members")
def subset_scores(_table: TaskTable, models: tuple[str, ...], mark: Any) -> list[recipes.Subset]:
    return recipes.subset_scores(_table, models)


def sizes(table: TaskTable, models: tuple[str, ...], name: str, mark: Any) -> None:
    metric = METRICS[name]
    found = [subset for subset in subset_scores(table, models, mark) if name in subset.scores]
    rows = [(len(one.models), ", ".join(one.models), metric.factor * one.scores[name]) for one in found]
    chosen = recipes.scored_rows(table)
    known = recipes.known_of(table, chosen)
    of_seeds = [
        evaluate(table.task, outputs=table.outputs(model)[chosen], resamples=1, **known)[name].value
        for model in table.students.get(DEFAULT_STUDENT, {}).values()
    ]
    student = float(np.mean(of_seeds)) if of_seeds else None
    one, every = (np.mean([s.scores[name] for s in found if len(s.models) == k]) for k in (1, len(models)))
    before = next(subset.scores[name] for subset in found if subset.models == models[:-1])
    st.markdown(
        f"One of {len(models)} has **{metric.say(one)} {metric.unit}** on average, all together "
        f"**{metric.say(every)}**; the last one added, {show.literal(models[-1])}, brings "
        f"{metric.say(every - before, sign=True)}."
        + ("" if student is None else f" The distilled student, a single model, has {metric.say(student)}.")
    )
    level = None if student is None else metric.factor * student
    show.figure(plots.size_curve(rows, metric=metric.axis, student=level), key=f"size-{mark[-1]}-{name}")


@st.cache_data(max_entries=30, show_spinner="Fitting and scoring the strategies")
def strategy_scores(
    _table: TaskTable, _fit: TaskTable | None, models: tuple[str, ...], mark: Any
) -> dict[str, recipes.Combined]:
    return recipes.strategy_scores(_table, _fit, models)


def compare_strategies(table: TaskTable, models: tuple[str, ...], mark: Any) -> None:
    st.subheader("Ways to combine them", anchor=False)
    fit = fit_table(table, models, min_rows=MIN_ROWS)
    found = strategy_scores(table, fit, models, (*mark, fit.split if fit else "no fit"))
    path = table.run.path / "ensembles.json"
    own = (read_json(path) if path.exists() else {}).get(table.models.taught_by or "", {}).get("strategy", "")
    plain, best = found["mean_probs"], max(found, key=lambda name: found[name].scores["score"].value)
    gain = mean_interval(found[best].right - plain.right)
    better = [WORDS[name] for name, one in found.items() if name != "mean_probs"
              and mean_interval(one.nll - plain.nll).high < 0]  # fmt: skip
    words = "No strategy has a higher score than the plain mean of probabilities."
    if best != "mean_probs":
        verdict = "no difference"
        if gain.low > 0:
            verdict = "better, though it was picked as the first of many on this split"
        words = (
            f"First is **{WORDS[best]}**: {with_interval(gain, factor=100, sign=True)} points of accuracy against the "
            f"plain mean, {verdict}."
        )
    st.markdown(f"{words} A lower log loss than the plain mean, beyond its interval: {', '.join(better) or 'none'}.")
    rows = [("", WORDS[name], *(100 * v for v in one.scores["score"][:3]), one.scores["score"].n)
            for name, one in found.items()]  # fmt: skip
    figure = strategies_figure(rows, metric=METRICS["score"].axis, chosen=WORDS.get(own, ""))
    show.figure(figure, key=f"strategies-{mark[-1]}")
    columns = {METRICS[name]: name for name in ("score", "nll", "kl_truth", "ece") if name in plain.scores}
    frame = pd.DataFrame({"strategy": [WORDS[name] for name in found]})
    for metric, name in columns.items():
        frame[metric.axis] = [metric.factor * one.scores[name].value for one in found.values()]
    frame["fitted on"] = [fit.split if fit is not None and one.is_fitted else "nothing" for one in found.values()]
    if any(one.note for one in found.values()):
        frame["note"] = [one.note or "" for one in found.values()]
    number = {m.axis: st.column_config.NumberColumn(m.axis, format=f"%.{m.digits}f") for m in columns}
    st.dataframe(
        frame, hide_index=True, width="stretch", alt="Scores of every way to combine the members.", column_config=number
    )
    why = "" if fit is not None else " Fitted strategies need a labelled split that is neither shown nor trained on."
    few = (
        f" Sizes and strategies are scored on {recipes.SCORED_ROWS:,} of the {len(table):,} examples, always the same."
    )
    why += few if len(table) > recipes.SCORED_ROWS else ""
    st.caption(
        f"Scored on {table.split}, 95 % bootstrap intervals over examples; a higher score and a lower loss, KL and "
        f"calibration error are better. Geometric mean and mean of logits are one distribution.{why}"
    )


# ---- whom the student follows --------------------------------------------------------------------------------------
def follow(table: TaskTable) -> None:
    members = require_members(table, "the closest member")
    student = chosen_student(table)
    who = show.literal(subject(student))
    closest = closest_member(table, student=student)
    name, n = max(closest.counts.items(), key=lambda item: item[1])
    share = share_of(n, len(closest.rows))
    even = 1 / len(members)
    more = "more than" if share.low > even else "no more than"
    st.markdown(
        f"On **{share.share:.0%}** of the examples [{share.low:.0%}, {share.high:.0%}] the member nearest to "
        f"{who} is **{show.literal(name)}**, {more} an even share of {even:.0%}. A student of the "
        "mean has no favourite; the one nearest in most examples is often simply the least extreme."
    )
    show.figure(plots.closest_member(list(closest.counts.values()), list(closest.counts)), key=f"closest-{student}")
    st.subheader("Where one member decides", anchor=False)
    left_out = leave_one_out(table, student=student)
    hang = sum(len(entry.rows) for entry in left_out)
    if not hang:
        st.markdown("Leaving any one member out changes no answer of the mean.")
        return
    stayed = share_of(sum(entry.with_member for entry in left_out), hang)
    most = max(left_out, key=lambda entry: len(entry.rows))
    words = (
        f"Leaving one member out changes the mean's answer {hang:,} times, most often without "
        f"**{show.literal(most.member)}** ({len(most.rows):,} of {len(table):,} examples). There "
        f"{who} says what all together say in **{stayed.share:.0%}** [{stayed.low:.0%}, "
        f"{stayed.high:.0%}]"
    )
    if BASELINE in table.students and student != BASELINE:
        of_plain = sum(entry.with_member for entry in leave_one_out(table, student=BASELINE)) / hang
        words += f"; the student without distillation, which never saw them, in {of_plain:.0%}"
    st.markdown(words + ".")
    names, _, stayed_M, followed_M, neither_M, _ = zip(*left_out, strict=True)
    figure = plots.leave_one_out(names, stayed_M=stayed_M, followed_M=followed_M, neither_M=neither_M)
    show.figure(figure, key=f"left-out-{student}")


# ---- the page ------------------------------------------------------------------------------------------------------
run = current_run()
task = current_task(run, classes_only=True)
split = current_split(run, task)
with guarded():
    table = current_table(run, task, split)
    view = choice("View", list(VIEWS), key="view", default="agree", kind="segmented", words=VIEWS.__getitem__)
    shown = {"agree": who_agrees, "doubt": doubt, "size": size_and_strategy, "follow": follow}
    with guarded():
        shown[view](table)
