"""What happened on the way: losses over steps, seconds of stages, when each example was learned.

Shapes: E epochs, N examples, P points of a curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from core.plots.arrays import bin_means, drawn_rows, floats, mean_of, row_ids, same_length
from core.plots.style import NEUTRAL, ROLES, SEQUENTIAL, Role, colour_bar, escaped, finish, label_rows, other, spoken

MAX_CURVE_POINTS = 1_000
MAX_STRIP = 300
STATUS_COLOURS = {"done": NEUTRAL, "skipped": "#9aa3b0", "running": ROLES["student"].colour, "failed": "#c92a2a"}


class Curve(NamedTuple):
    """A loss over steps. `role` gives its colour; None takes the next free one. Curves of one `name` share a legend
    entry, such as the seeds of a student."""

    name: str
    role: Role | None
    steps_P: npt.ArrayLike
    losses_P: npt.ArrayLike


class StageTime(NamedTuple):
    """Seconds of a stage, over all its jobs. `status`: done, skipped, running, failed."""

    stage: str
    seconds: float
    n_jobs: int
    status: str = "done"


def loss_curves(
    series: Sequence[Curve | tuple[Any, ...]], *, unit: str = "loss (nats)", log: bool = False, title: str = ""
) -> go.Figure:
    """Losses over steps. Long curves are averaged to 1,000 points, so single spikes are softened; gaps (nan) stay gaps.
    Raises `ValueError` for no curve and for lengths that differ.
    """
    curves = [Curve(*row) for row in series]
    if not curves:
        raise ValueError("no loss was logged yet: there is nothing to draw")
    fig = go.Figure()
    seen: list[str] = []
    said = []
    for curve in curves:
        steps, losses = (
            floats(f"steps of {curve.name!r}", curve.steps_P),
            floats(f"losses of {curve.name!r}", curve.losses_P),
        )
        same_length(steps=steps, losses=losses)
        first = curve.name not in seen
        if first:
            seen.append(curve.name)
            last = losses[np.isfinite(losses)][-1]
            said.append(f"{curve.name} {spoken(float(last))}")
        colour = ROLES[curve.role].colour if curve.role else other(seen.index(curve.name))[0]
        dash = "solid" if curve.role else ("solid", "dash", "dot", "dashdot")[seen.index(curve.name) % 4]
        fig.add_trace(
            go.Scatter(
                x=bin_means(steps, MAX_CURVE_POINTS).astype(np.float32),
                y=bin_means(losses, MAX_CURVE_POINTS).astype(np.float32),
                mode="lines",
                line={"color": colour, "width": 1.8 if first else 1.2, "dash": dash},
                opacity=1 if first else 0.6,
                name=escaped(curve.name),
                legendgroup=curve.name,
                showlegend=first,
                hovertemplate=f"{escaped(curve.name)}, step %{{x:,.0f}}: <b>%{{y:.3f}}</b><extra></extra>",
            )
        )
    fig.update_xaxes(title_text="optimizer steps", rangemode="tozero")
    fig.update_yaxes(title_text=escaped(unit, 60), type="log" if log else "linear")
    return finish(
        fig, alt=f"{unit} of {len(curves)} trainings, last values: {'; '.join(said[:8])}.", height=380, title=title
    )


def stage_times(rows: Sequence[StageTime | tuple[Any, ...]], *, title: str = "") -> go.Figure:
    """Horizontal bars in the order of the pipeline, each with its time in words. `customdata` is the row's number."""
    stages = [StageTime(*row) for row in rows]
    if not stages:
        raise ValueError("no stage has run yet: there is no time to show")
    seconds = floats("seconds", [row.seconds for row in stages])
    fig = go.Figure(
        go.Bar(
            x=seconds,
            y=np.arange(len(stages)),
            orientation="h",
            customdata=np.arange(len(stages), dtype=np.int32),
            text=[
                f"{in_words(row.seconds)}{'' if row.status == 'done' else ', ' + escaped(row.status)}" for row in stages
            ],
            textposition="outside",
            cliponaxis=False,
            hovertext=[
                f"{escaped(row.stage)}: {row.n_jobs} job{'s' * (row.n_jobs != 1)}, {escaped(row.status)}"
                for row in stages
            ],
            hovertemplate="%{hovertext}<br><b>%{text}</b><extra></extra>",
            marker={"color": [STATUS_COLOURS.get(row.status, NEUTRAL) for row in stages], "line": {"width": 0}},
            name="stages",
        )
    )
    top = float(np.nanmax(seconds))
    divisor, unit = (3600, "hours") if top >= 7200 else (60, "minutes") if top >= 180 else (1, "seconds")
    fig.data[0].x = seconds / divisor
    fig.update_xaxes(title_text=f"{unit}, summed over jobs", range=[0, 1.4 * max(top, 1e-9) / divisor])
    fig.update_yaxes(label_rows([row.stage for row in stages]))
    fig.update_layout(bargap=0.4)
    longest = int(np.nanargmax(seconds))
    alt = (
        f"Time of {len(stages)} stages, {in_words(float(np.nansum(seconds)))} in all; the longest is "
        f"{stages[longest].stage} with {in_words(float(seconds[longest]))}."
    )
    return finish(fig, alt=alt, height=84 + 32 * len(stages), title=title, legend=False)


def in_words(seconds: float) -> str:
    """ "0.4 s", "42 s", "2 min 31 s", "3 h 05 min"."""
    if not np.isfinite(seconds):
        return "not known"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def epoch_strip(
    kl_EN: npt.ArrayLike,
    *,
    epochs_E: npt.ArrayLike | None = None,
    first_match_N: npt.ArrayLike | None = None,
    ids: npt.ArrayLike | None = None,
    title: str = "",
) -> go.Figure:
    """KL(teachers || student) of each example (row) after each epoch (column), lighter is nearer: who learns when.

    `first_match_N` is the first epoch, as a position 0..E-1, whose answer is the teachers', any other number for never:
    rows are sorted by it and diamonds mark it. At most 300 examples, chosen by hashed id; `customdata` of the
    squares is the row number of `ids`.
    """
    kl = floats("kl", kl_EN, ndim=2)
    n_epochs, n = kl.shape
    epochs = np.arange(1, n_epochs + 1) if epochs_E is None else np.asarray(epochs_E)
    ids_N = row_ids(ids, n)
    if len(epochs) != n_epochs:
        raise ValueError(f"{len(epochs)} epochs for {n_epochs} rows of kl, expected one each")
    rows = drawn_rows(ids_N, MAX_STRIP)
    match = np.full(n, n_epochs) if first_match_N is None else np.asarray(first_match_N)
    if match.shape != (n,):
        raise ValueError(f"first_match has shape {match.shape}, expected one epoch for each of {n} examples")
    match = np.where((match < 0) | (match >= n_epochs), n_epochs, match)
    rows = rows[np.lexsort((np.nan_to_num(kl[-1], nan=np.inf)[rows], match[rows]))]
    y = np.arange(len(rows))
    shown = kl[:, rows].T
    fig = go.Figure(
        go.Heatmap(
            x=np.arange(n_epochs),
            y=y,
            z=shown.astype(np.float32),
            zmin=0,
            zmax=float(np.nanpercentile(shown, 98)) or 1.0,  # one runaway example must not bleach the others
            colorscale=SEQUENTIAL,
            colorbar=colour_bar("KL to the teachers (nats)"),
            hoverinfo="skip",
            name="KL",
        )
    )
    row, column = np.divmod(np.arange(shown.size), n_epochs)
    fig.add_trace(
        go.Scattergl(
            x=column.astype(np.float32),
            y=row.astype(np.float32),
            customdata=ids_N[rows][row],
            mode="markers",
            marker={
                "symbol": "square",
                "size": 6,
                "color": shown.ravel().astype(np.float32),
                "opacity": 0.01,
                "colorscale": SEQUENTIAL,
            },
            hovertemplate="example %{customdata}, KL <b>%{marker.color:.3f}</b> nats<extra></extra>",
            showlegend=False,
            name="",
        )
    )
    matched = match[rows] < n_epochs
    if matched.any():
        fig.add_trace(
            go.Scatter(
                x=match[rows][matched].astype(np.float32),
                y=y[matched].astype(np.float32),
                mode="markers",
                marker={"symbol": "diamond", "size": 5, "color": ROLES["student"].colour},
                name="first epoch with the teachers' answer",
                hoverinfo="skip",
            )
        )
    fig.update_xaxes(
        title_text="epoch", tickvals=np.arange(n_epochs), ticktext=[f"{epoch:g}" for epoch in epochs], showgrid=False
    )
    fig.update_yaxes(
        title_text="examples",
        showticklabels=False,
        showgrid=False,
        autorange="reversed",
    )
    fig.update_layout(hoverdistance=-1)
    subtitle = f"{len(rows):,} of {n:,} examples drawn" if len(rows) < n else f"{n:,} examples"
    never = 100 * float((match == n_epochs).mean())
    said = f"; {never:.0f} % never gave the teachers' answer" if first_match_N is not None else ""
    alt = (
        f"KL to the teachers of {n:,} examples over {n_epochs} epochs: mean {spoken(mean_of(kl[0]))} nats after the "
        f"first, {spoken(mean_of(kl[-1]))} after the last{said}."
    )
    height = int(np.clip(140 + 5 * len(rows), 260, 560))
    return finish(fig, alt=alt, height=height, title=title, subtitle=subtitle, legend=bool(matched.any()))
