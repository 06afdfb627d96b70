"""Loss lab: what gold and teachers each ask of a student, at any alpha and temperature.

Three views: one example (the slider runs in the browser), the data set (maps over alpha and temperature, with the runs
of a sweep as stars, and the two gradients example by example), and a head that is fitted anew on the frozen student.
Which of them is a training and which is not stands in every caption.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from app import links, show, state
from app.choosing import in_order
from app.state import choice, current_run, current_split, current_table, current_task, guarded
from app.words import METRICS, with_interval
from core.calibration import log_probs_NC
from core.metrics import Score, evaluate
from core.plots.calibration import gold_probabilities
from core.plots.comparisons import points_and_intervals
from core.plots.gradients import cosine_histogram, gradient_scatter
from core.plots.grids import Star, SweepPoint, alpha_temperature_map, sweep_figure
from core.plots.style import PAPER_ALPHA, PAPER_TEMPERATURE, signed
from core.plots.whatif import what_if_card
from core.refit import LOSSES, Refit, gold_probs, refit, require_linear_head
from core.store import Run
from core.views import NotDefined
from core.views.derived import column
from core.views.distances import mean_interval
from core.views.filters import Filter
from core.views.gradients import ALPHAS, TEMPERATURES, Grid, Norms, gradient_norms, loss_grid, what_if
from core.views.paging import SAMPLE_ROWS, sample
from core.views.strategies import known_of
from core.views.sweeps import Trained, sweep_files, trained_settings
from core.views.table import TaskTable, fingerprint

VIEWS = {"one": "One example", "all": "The data set", "refit": "Refit a head"}
CARD_TEMPERATURES = TEMPERATURES[::2]  # each is a frame of the figure for every alpha
REFIT_TEMPERATURES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
FIRST = 20  # examples that the first view leafs through
ORDERS = {
    "conflict": "gold and teachers pull apart", "unsure": "the teachers are unsure",
    "far": "the student is far from its teachers",
}  # fmt: skip
MAPS = {
    "entropy": ("Target entropy", "nats"), "share": ("Teachers' share of the gradient", "share"),
    "conflict": ("Conflict rate", "share of examples"),
}  # fmt: skip
MAP_HELP = (
    "Target entropy: how soft the mixed target is. Teachers' share: the mean norm of their gradient over the sum of "
    "both. Conflict: on how many examples the two gradients point apart (cosine below 0); alpha scales them and "
    "cannot turn them, so that map changes with temperature alone."
)


def gradients_of(table: TaskTable, student: str, alpha: float, temperature: float) -> Norms:
    def computed() -> Norms:
        rows = sample(table, np.arange(len(table)))
        return gradient_norms(table, rows, alpha=alpha, temperature=temperature, student=student)

    found: Norms = table.kept.once(("norms", student, alpha, temperature), computed)
    return found


# ---- one example ---------------------------------------------------------------------------------------------------
def one_example(table: TaskTable, student: str) -> None:
    norms = gradients_of(table, student, PAPER_ALPHA, PAPER_TEMPERATURE)
    linked = st.query_params.get("ex")
    order = choice(
        "Show examples where", list(ORDERS), key="order", default="conflict", kind="segmented", words=ORDERS.__getitem__
    )
    keys = {
        # The dot product of the two gradients: large where both pull hard and apart.
        "conflict": lambda: norms.hard * norms.soft * np.nan_to_num(norms.cosine),
        "unsure": lambda: -column(table, "entropy")[norms.rows],
        "far": lambda: -column(table, "kl", student=student)[norms.rows],
    }
    ranked = np.argsort(keys[order](), kind="stable")[:FIRST]
    if linked is not None:
        row = table.row_of(linked)
        at = np.flatnonzero(norms.rows == row)
        if not len(at):
            raise NotDefined(f"Example '{linked}' has no gold label, so the loss has no hard term.")
        place = int(at[0])
        st.button("Leave the linked example", on_click=state.set_query, kwargs={"ex": None}, icon=":material/close:")
    else:
        place = int(ranked[st.pagination(len(ranked), key=f"rank-{student}-{order}-{table.task.name}") - 1])
    row = int(norms.rows[place])
    gold, labels = int(table.gold_N[row]), table.task.labels
    teacher_C, student_C = table.log_probs("teacher")[row], table.log_probs(student)[row]
    (text,) = table.texts([row])
    with st.container(border=True):
        for line in (text.text_a, text.text_b, *(text.candidates or ())):
            if line:
                show.plain(line)
        links.example_link(
            f"Everything about {show.literal(text.example_id)}",
            table.run, table.task, text.example_id, Filter(split=table.split),
        )  # fmt: skip
    grid = loss_grid(student_C, teacher_C, gold, temperatures=CARD_TEMPERATURES)
    teacher_KC, student_KC = (
        np.exp(log_probs_NC(log_C / grid.temperatures[:, None])) for log_C in (teacher_C, student_C)
    )
    show.figure(
        what_if_card(
            labels,
            alphas_A=grid.alphas,
            temperatures_K=grid.temperatures,
            teacher_KC=teacher_KC,
            student_KC=student_KC,
            hard=grid.hard,
            soft_K=grid.soft,
            gold_index=gold,
        ),
        key=f"card-{row}-{student}",
    )
    at_paper = PAPER_ALPHA * grid.soft[int(np.abs(grid.temperatures - PAPER_TEMPERATURE).argmin())]
    cosine = norms.cosine[place]
    together = "no direction of their own" if np.isnan(cosine) else "pull apart" if cosine < 0 else "pull together"
    st.markdown(
        f"Gold is **{show.literal(labels[gold])}**: the teachers give it {np.exp(teacher_C[gold]):.0%}, this student "
        f"{np.exp(student_C[gold]):.0%}. At the paper's point the gold label adds "
        f"**{(1 - PAPER_ALPHA) * grid.hard:.3f}** nats to the loss and the teachers **{at_paper:.3f}**; the two "
        f"gradients {together}" + ("." if np.isnan(cosine) else f" (cosine {signed(cosine, 2)}).")
    )
    st.caption(
        "A loss at this checkpoint: the sliders retrain nobody. At temperature 1 the bars are the label that the "
        "student is trained on, smoothed for each example; at another one they show the mix, and teachers and student "
        "are softened alike."
    )


# ---- the data set --------------------------------------------------------------------------------------------------
def data_set(table: TaskTable, student: str) -> None:
    which = choice(
        "Map", list(MAPS), key="map", default="entropy", kind="segmented", words=lambda name: MAPS[name][0],
        help=MAP_HELP,
    )  # fmt: skip
    found: Grid = table.kept.once(
        ("what-if", student), lambda: what_if(table, sample(table, np.arange(len(table))), student=student)
    )
    a, k = (int(np.abs(v - p).argmin()) for v, p in ((found.alphas, PAPER_ALPHA), (found.temperatures, 1.0)))
    values_AK = {
        "entropy": found.target_entropy,
        "share": found.teacher_share,
        "conflict": np.repeat(found.conflict[None], len(ALPHAS), axis=0),
    }[which]
    points = sweep_points(table)
    title, unit = MAPS[which]
    stars = [Star(one.alpha, one.temperature, 100 * one.mean, one.cell) for one in points.get("score", [])]
    words = {
        "entropy": f"At the paper's point the mixed target holds **{found.target_entropy[a, k]:.2f}** of at most "
        f"{np.log(table.task.n_outputs):.2f} nats: gold alone has 0, the teachers alone "
        f"{found.target_entropy[-1, k]:.2f}.",
        "share": f"At the paper's point **{found.teacher_share[a, k]:.0%}** of the pull on this student comes from the "
        f"teachers, though their weight is {PAPER_ALPHA:.0%}; at temperature {found.temperatures[-1]:.0f} it would be "
        f"{found.teacher_share[a, -1]:.0%}.",
        "conflict": f"At temperature 1 gold and teachers pull apart on **{found.conflict[k]:.0%}** of the examples, at "
        f"{found.temperatures[-1]:.0f} on {found.conflict[-1]:.0%}. Alpha does not change this.",
    }
    few = f" On {SAMPLE_ROWS:,} of {len(table):,} examples, always the same." if len(table) > SAMPLE_ROWS else ""
    st.markdown(words[which] + few)
    show.figure(
        alpha_temperature_map(found.alphas, found.temperatures, values_AK, title, unit=unit, stars=stars),
        key=f"map-{which}-{student}",
    )
    if points:
        st.subheader("What students trained with other settings scored", anchor=False)
        rows = [
            SweepPoint(one.alpha, one.temperature, *METRICS[name].interval(one.mean, one.se), METRICS[name].axis)
            for name, of_metric in points.items()
            for one in of_metric
        ]
        show.figure(sweep_figure(rows), key="sweep")
        st.caption(
            "Each point is the mean of its seeds' students, ± 2 standard errors: trained, and unlike the map a result."
        )
    else:
        st.caption("No star: no sweep of this run lies in its folder of runs. This trains one:")
        out = table.run.path.parent / f"{table.run.path.name}-sweep"
        st.code(f"python -m core sweep --run {table.run.path} --out {out} -p alpha=0,0.25,0.5,0.75,1", language="bash")
    gradients(table, student)


def gradients(table: TaskTable, student: str) -> None:
    st.subheader("Gold against teachers, example by example", anchor=False)
    left, right = st.columns(2)
    alpha = left.slider("Alpha (weight of the teachers)", 0.05, 0.95, PAPER_ALPHA, 0.05, key="loss-alpha")
    temperature = right.select_slider(
        "Temperature", [float(f"{t:.3g}") for t in TEMPERATURES], value=1.0, key="loss-temperature"
    )
    norms = gradients_of(table, student, alpha, temperature)
    harder = float((norms.soft > norms.hard).mean())
    st.markdown(
        f"The teachers pull harder than gold on **{harder:.0%}** of the examples (above the dashed line) and against "
        f"it on **{norms.conflict:.0%}** (red). Over all, {norms.teacher_share:.0%} of the pull is theirs."
    )
    selection = show.figure(
        gradient_scatter(norms.hard, norms.soft, norms.cosine, norms.rows), key="gradients", on_select="rerun"
    )
    row = show.clicked(selection)
    if row is not None:
        example_line(table, row, norms)
    show.figure(cosine_histogram(norms.cosine), key="cosines")
    st.markdown("**Where they conflict most**: both pull, in opposite directions.")
    worst = norms.rows[np.argsort(norms.hard * norms.soft * np.nan_to_num(norms.cosine), kind="stable")[:5]]
    for row in worst.tolist():
        example_line(table, row, norms)


def example_line(table: TaskTable, row: int, norms: Norms) -> None:
    """One example as a link, with what gold and teachers say."""
    (text,) = table.texts([row])
    labels, at = table.task.labels, int(np.flatnonzero(norms.rows == row)[0])
    said = labels[int(table.answers("teacher")[row])]
    words = text.text_a if len(text.text_a) <= 90 else text.text_a[:89] + "…"
    links.example_link(
        f"{show.literal(words)} · gold {show.literal(labels[int(table.gold_N[row])])}, teachers {show.literal(said)}, "
        f"cosine {signed(norms.cosine[at], 2)}",
        table.run, table.task, text.example_id, Filter(split=table.split),
    )  # fmt: skip


def sweep_points(table: TaskTable) -> dict[str, list[Trained]]:
    mark = tuple((str(file), file.stat().st_mtime_ns) for file in sweep_files(table.run))
    return _sweep_points(table.run, str(table.run.path), table.task.name, table.split, mark)


@st.cache_data(max_entries=20, show_spinner=False)
def _sweep_points(_run: Run, path: str, task: str, split: str, mark: Any) -> dict[str, list[Trained]]:
    return trained_settings(_run, task, split)


# ---- a head that is fitted anew ------------------------------------------------------------------------------------
@st.cache_data(max_entries=200, show_spinner="Fitting the head")
def refitted(_table: TaskTable, mark: tuple[object, ...], alpha: float, temperature: float, loss: Any) -> Refit:
    return refit(_table, str(mark[-1]), alpha=alpha, temperature=temperature, loss=loss)


@st.cache_data(max_entries=50, show_spinner=False)
def scores_of(_table: TaskTable, mark: tuple[object, ...]) -> dict[str, Score]:
    return evaluate(_table.task, outputs=_table.outputs(str(mark[-1])), resamples=200, **known_of(_table))


def refit_live(table: TaskTable, model: str) -> None:
    st.markdown(
        "The student's encoder stays as it is; a new linear head on its outputs is fitted to gold and teachers, mixed "
        "as you say. **Only the head moves**: a student that is trained with these settings changes its encoder too."
    )
    require_linear_head(table.task)
    path = table.run.features_path(model, table.task.name)
    if not path.exists():
        show.empty(
            "Nothing to fit a head on",
            f"This run did not keep the encoder outputs of {model} on {table.task.name}. An option stores them:",
            f"python -m core run --out {table.run.path} --set runtime.keep_features=true",
        )
        return
    stored = (path.stat().st_mtime_ns, fingerprint(table.run, table.task.name))
    mark = (str(table.run.path), *stored, table.split, model)
    columns = st.columns(3)
    loss = columns[0].segmented_control(
        "Loss", LOSSES, default=LOSSES[0], required=True, key="refit-loss",
        help="soft_ce: cross-entropy with the teachers' probabilities, the paper's. kl: the same with a temperature.",
    )  # fmt: skip
    alpha = columns[1].slider("Alpha (weight of the teachers)", 0.0, 1.0, PAPER_ALPHA, 0.05, key="refit-alpha")
    temperature = columns[2].select_slider(
        "Temperature", REFIT_TEMPERATURES, value=1.0, key="refit-temperature", disabled=loss == "soft_ce"
    )
    temperature = 1.0 if loss == "soft_ce" else float(temperature)
    found, gold_alone = refitted(table, mark, alpha, temperature, loss), refitted(table, mark, 0.0, 1.0, LOSSES[0])
    name = f"new head, alpha {alpha:g}" + ("" if loss == "soft_ce" else f", T {temperature:g}")
    rows = {name: found.scores, "new head, gold alone": gold_alone.scores, "as trained": scores_of(table, mark)}
    rows = {"new head, gold alone": gold_alone.scores, **rows} if alpha == 0 else rows
    known_N = table.has_gold
    right = [(entry.answers == table.gold_N)[known_N].astype(float) for entry in (found, gold_alone)]
    gain = mean_interval(right[0] - right[1])
    verdict = "no difference" if gain.low <= 0 <= gain.high else "better" if gain.value > 0 else "worse"
    st.markdown(
        f"Against a head on gold alone: **{verdict}**, {with_interval(gain, factor=100, sign=True)} points of accuracy "
        f"on {gain.n:,} examples."
    )
    shown = [key for key in ("accuracy", "kl_truth", "nll") if key in found.scores][:2]
    for key, place in zip(shown, st.columns(len(shown)), strict=True):
        metric = METRICS[key]
        intervals = [
            (series, "student", *(metric.factor * value for value in scores[key][:3]), scores[key].n)
            for series, scores in rows.items()
            if key in scores
        ]
        with place:
            figure = points_and_intervals(
                intervals, metric=metric.axis, roles={"student": "student"}, digits=metric.digits
            )
            show.figure(figure.update_layout(showlegend=False), key=f"refit-{key}")
    st.subheader("How sure of gold", anchor=False)
    sure = {name: found.gold_probs, "new head, gold alone": gold_alone.gold_probs}
    show.figure(
        gold_probabilities({**sure, "as trained": gold_probs(table.outputs(model), table.gold_N)}), key="refit-sure"
    )
    st.caption(
        f"Fitted on {found.n_fitted:,} of {found.n_rows:,} rows of split {found.fitted_on} in {found.seconds:.2f} s "
        f"({found.head.n_steps} steps), scored on {table.split}; 95 % intervals over examples. The trained student's "
        "own head may be larger, so compare the two new heads with each other first."
    )


# ---- the page ------------------------------------------------------------------------------------------------------
def student_models(table: TaskTable) -> list[str]:
    """Single checkpoints, kd's first: a mean over seeds has no loss of its own."""
    variants = in_order(tuple(table.students))
    return [model for variant in variants for model in table.students[variant].values()]


run: Run = current_run()
task = current_task(run, classes_only=True)
split = current_split(run, task)
with guarded():
    table = current_table(run, task, split)
    models = student_models(table)
    if not models:
        raise NotDefined(f"No student has predictions on split '{split}' of task '{task.name}'.")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        view = choice("View", list(VIEWS), key="view", default="one", kind="segmented", words=VIEWS.__getitem__)
        model = choice(
            "Student", models, key="student", default=models[0], width=240,
            help="A single training: the mean of several seeds is nobody's checkpoint and has no loss.",
        )  # fmt: skip
    with guarded():
        {"one": one_example, "all": data_set, "refit": refit_live}[view](table, model)
