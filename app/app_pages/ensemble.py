"""Ensemble: who agrees with whom, where its doubt comes from, what size and strategy bring, whom students follow.

Everything is computed from stored logits. What has to be fitted (weights, temperatures) is fitted on the selection
split and scored on the one that is shown, as in the pipeline.
"""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from app import links, show
from app.state import choice, current_run, current_split, current_table, current_task, guarded
from core.calibration import FloatArray, IntArray, nll_N
from core.combining import FITTED, MAX_SUBSETS, MIN_ROWS, apply_recipe, fit_recipe
from core.ensemble import STRATEGIES, q_statistic
from core.metrics import Score, evaluate
from core.plots import ensembles as plots
from core.plots.matrices import agreement_matrix
from core.plots.rankings import strategies as strategies_figure
from core.plots.style import signed
from core.refit import known_of
from core.store import read_json
from core.views import NotDefined
from core.views.counts import confusion
from core.views.derived import column
from core.views.distances import mean_interval
from core.views.ensembles import agreement, closest_member, leave_one_out, uncertainty
from core.views.filters import Filter
from core.views.paging import sample
from core.views.table import BASELINE, DEFAULT_STUDENT, TaskTable, fingerprint, require_members
from core.views.transfer import share_of

SCORED_ROWS = 100_000  # every subset and strategy is scored on so many: a score of 80 is then known to 0.13 points
VIEWS = {
    "agree": "Who agrees", "doubt": "Where doubt comes from", "size": "Size and strategy",
    "follow": "Whom the student follows",
}  # fmt: skip
METRICS = {"score": "score x 100", "nll": "NLL x 100", "kl_truth": "KL to the truth x 100"}
WORDS = {
    "mean_probs": "mean of probabilities (the paper's)", "geometric_mean": "geometric mean",
    "mean_logits": "mean of logits", "weighted": "weighted by likelihood", "calibrated": "calibrated, then averaged",
    "greedy": "greedy choice", "stacking": "stacking",
}  # fmt: skip


# ---- who agrees ----------------------------------------------------------------------------------------------------
def who_agrees(table: TaskTable) -> None:
    everyone = st.toggle("Every model", key="agree-all", help="Off: teachers, their mean, each kind of student, gold.")
    few = (*table.members, *(("teacher",) if table.has_teacher else ()), *table.students)
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
        a, b, c, d = (f"**{show.literal(voice)}**" for voice in (*top, *bottom))
        st.markdown(
            f"Most alike are {a} and {b} ({high:.0%} the same answers), least alike {c} and {d} ({low:.0%}). The row "
            "of gold is accuracy. Click a cell to see where the two part."
        )
    selection = show.figure(agreement_matrix(found.share, voices), key=f"agree-{everyone}", on_select="rerun")
    cell = show.clicked(selection)
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
    st.subheader(show.literal(f"{a} and {b}"), anchor=False)
    words = f"They give one answer on {share.k:,} of {share.n:,} examples: {share.share:.1%}"
    words += f" [{share.low:.1%}, {share.high:.1%}]."
    if n and "gold" not in (a, b) and table.has_gold.any():
        with_a, with_b = (int((apart_N & (table.gold_N == said)).sum()) for said in (a_N, b_N))
        words += (
            f" Of the {n:,} where they part, gold is with {show.literal(a)} on {with_a:,}, with {show.literal(b)} on "
            f"{with_b:,}, with neither on {n - with_a - with_b:,}."
        )
    st.markdown(words)
    if n:
        counts = pd.DataFrame(
            confusion(table, a, b),
            index=pd.Index(table.task.labels, name=f"{a} says"),
            columns=[f"{b}: {label}" for label in table.task.labels],
        )
        st.dataframe(counts, width="content", alt=f"Answers of {a} (rows) and {b} (columns), counts.")
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
        metrics = [metric for metric in METRICS if metric != "kl_truth" or table.truth_NC is not None]
        metric = choice("Metric", metrics, key="metric", default="score", kind="segmented", words=METRICS.__getitem__)
    if not table.has_gold.any():
        raise NotDefined(f"Split '{table.split}' of task '{table.task.name}' has no gold to score an ensemble with.")
    # The fingerprint changes with every file of the task: an answer of another run's files is never shown.
    mark = (str(table.run.path), fingerprint(table.run, table.task.name), table.split, *found[pool])
    sizes(table, found[pool], metric, mark)
    compare_strategies(table, found[pool], mark)


def scored_rows(table: TaskTable) -> IntArray:
    """All, or of very many rows a sample that is always the same."""
    return sample(table, np.arange(len(table)), SCORED_ROWS)


@st.cache_data(max_entries=30, show_spinner="Scoring every subset of members")
def subset_scores(_table: TaskTable, models: tuple[str, ...], mark: Any) -> list[tuple[int, str, dict[str, float]]]:
    """(size, names, scores) of the mean of every subset, as `core.combining.size_curve` averages them; of a size with
    more than MAX_SUBSETS only the first members."""
    rows = scored_rows(_table)
    logits, known, found = [_table.outputs(name)[rows] for name in models], known_of(_table, rows), []
    for k in range(1, len(models) + 1):
        first = combinations(range(len(models)), k) if comb(len(models), k) <= MAX_SUBSETS else [tuple(range(k))]
        for chosen in first:
            mean_NC = STRATEGIES["mean_probs"](np.stack([logits[i] for i in chosen]).astype(np.float64))
            scores = evaluate(_table.task, outputs=mean_NC, resamples=1, **known)
            found.append((k, ", ".join(models[i] for i in chosen), {m: s.value for m, s in scores.items()}))
    return found


def sizes(table: TaskTable, models: tuple[str, ...], metric: str, mark: Any) -> None:
    rows = [
        (k, names, 100 * scores[metric]) for k, names, scores in subset_scores(table, models, mark) if metric in scores
    ]
    chosen = scored_rows(table)
    of_seeds = [
        evaluate(table.task, outputs=table.outputs(name)[chosen], resamples=1, **known_of(table, chosen))[metric].value
        for name in table.students.get(DEFAULT_STUDENT, {}).values()
    ]
    student = 100 * float(np.mean(of_seeds)) if of_seeds else None
    one, every = (float(np.mean([score for k, _, score in rows if k == size])) for size in (1, len(models)))
    before = next(score for _, names, score in rows if names == ", ".join(models[:-1]))
    st.markdown(
        f"One of {len(models)} has **{one:.1f}** on average, all together **{every:.1f}**; the last one added, "
        f"{show.literal(models[-1])}, brings {signed(every - before)}."
        + ("" if student is None else f" The distilled student, a single model, has {student:.1f}.")
    )
    show.figure(plots.size_curve(rows, metric=METRICS[metric], student=student), key=f"size-{mark[-1]}-{metric}")


@st.cache_data(max_entries=30, show_spinner="Fitting and scoring the strategies")
def strategy_scores(
    _table: TaskTable, _fit: TaskTable | None, models: tuple[str, ...], mark: Any
) -> tuple[dict[str, dict[str, Score]], dict[str, tuple[FloatArray, FloatArray]], dict[str, str]]:
    """Strategy -> scores with intervals; -> per example right (n,) and NLL (n,), for paired differences; and notes."""
    names = [_table.task.labels] * len(models)
    rows = scored_rows(_table)
    shown, known_N, gold_N = [_table.outputs(name)[rows] for name in models], _table.has_gold[rows], _table.gold_N[rows]
    scores, each, notes = {}, {}, {}
    for strategy in (*STRATEGIES, *FITTED):
        if strategy in FITTED and _fit is None:
            continue
        source = _table if _fit is None or strategy not in FITTED else _fit
        fit_rows = scored_rows(source)
        recipe = fit_recipe(
            strategy, [source.outputs(name)[fit_rows] for name in models], source.gold_N[fit_rows],
            label_names_per_member=names, split=source.split, reported_split=_table.split,
            exchangeable=_table.task.kind == "ranking",
        )  # fmt: skip
        made_NC = apply_recipe(recipe, shown, label_names_per_member=names)
        scores[strategy] = evaluate(_table.task, outputs=made_NC, resamples=400, **known_of(_table, rows))
        right_n = (made_NC.argmax(axis=1) == gold_N)[known_N].astype(np.float64)
        each[strategy] = right_n, nll_N(made_NC[known_N], gold_N[known_N])
        if recipe.note:
            notes[strategy] = recipe.note
    return scores, each, notes


def compare_strategies(table: TaskTable, models: tuple[str, ...], mark: Any) -> None:
    st.subheader("Ways to combine them", anchor=False)
    fit = fit_table(table, models)
    scores, each, notes = strategy_scores(table, fit, models, (*mark, fit.split if fit else "no fit"))
    own = read_json(table.run.path / "ensembles.json") if (table.run.path / "ensembles.json").exists() else {}
    chosen = own.get(table.models.taught_by or "", {}).get("strategy", "")
    best = max(scores, key=lambda name: scores[name]["score"].value)
    gain = mean_interval(each[best][0] - each["mean_probs"][0])
    lower = {name: mean_interval(each[name][1] - each["mean_probs"][1]).high for name in scores if name != "mean_probs"}
    better = [WORDS[name] for name, high in lower.items() if high < 0]
    words = "No strategy has a higher score than the plain mean of probabilities."
    if best != "mean_probs":
        verdict = (
            "no difference" if gain.low <= 0 else "better, though it was picked as the first of many on this split"
        )
        words = (
            f"First is **{WORDS[best]}**: {signed(100 * gain.value)} points of accuracy against the plain mean "
            f"[{signed(100 * gain.low)}, {signed(100 * gain.high)}], {verdict}."
        )
    st.markdown(f"{words} A lower NLL than the plain mean, beyond its interval: {', '.join(better) or 'none'}.")
    rows = [("", WORDS[name], *(100 * v for v in of["score"][:3]), of["score"].n) for name, of in scores.items()]
    show.figure(
        strategies_figure(rows, metric=METRICS["score"], chosen=WORDS.get(chosen, "")), key=f"strategies-{mark[-1]}"
    )
    columns = {name: label for name, label in {**METRICS, "ece": "ECE x 100"}.items() if name in scores["mean_probs"]}
    cells = {label: [100 * of[name].value for of in scores.values()] for name, label in columns.items()}
    frame = pd.DataFrame({"strategy": [WORDS[name] for name in scores], **cells})
    frame["fitted on"] = ["–" if fit is None or name not in FITTED else fit.split for name in scores]
    if notes:
        frame["note"] = [notes.get(name, "") for name in scores]
    st.dataframe(
        frame, hide_index=True, width="stretch", alt="Scores of every way to combine the members.",
        column_config={label: st.column_config.NumberColumn(label, format="%.1f") for label in columns.values()},
    )  # fmt: skip
    why = "" if fit is not None else " Fitted strategies need a labelled split that is neither shown nor trained on."
    few = f" Sizes and strategies are scored on {SCORED_ROWS:,} of the {len(table):,} examples, always the same."
    why += few if len(table) > SCORED_ROWS else ""
    st.caption(
        f"Scored on {table.split}, 95 % bootstrap intervals over examples; higher scores, lower NLL, KL and ECE are "
        f"better. Geometric mean and mean of logits are one distribution.{why}"
    )


def fit_table(table: TaskTable, models: tuple[str, ...]) -> TaskTable | None:
    """The selection split, if it may be fitted on."""
    if table.split == "selection":
        return None
    try:
        fit = current_table(table.run, table.task, "selection")
    except ValueError:
        return None
    return fit if all(fit.has(name) for name in models) and int(fit.has_gold.sum()) >= MIN_ROWS else None


# ---- whom the student follows --------------------------------------------------------------------------------------
def follow(table: TaskTable) -> None:
    members = require_members(table, "the closest member")
    voices = sorted(table.students, key=lambda name: (name != DEFAULT_STUDENT, name != BASELINE))
    if not voices:
        raise NotDefined(f"No student has predictions on split '{table.split}' of task '{table.task.name}'.")
    student = choice("Student", voices, key="student", default=voices[0], kind="segmented")
    closest = closest_member(table, student=student)
    name, n = max(closest.counts.items(), key=lambda item: item[1])
    share = share_of(n, len(closest.rows))
    even = 1 / len(members)
    more = "more than" if share.low > even else "no more than"
    st.markdown(
        f"On **{share.share:.0%}** of the examples [{share.low:.0%}, {share.high:.0%}] the member nearest to "
        f"{show.literal(student)} is **{show.literal(name)}**, {more} an even share of {even:.0%}. A student of the "
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
        f"{show.literal(student)} says what all together say in **{stayed.share:.0%}** [{stayed.low:.0%}, "
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
