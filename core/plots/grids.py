"""Over alpha and temperature: what the loss weighs everywhere, and what the runs that were trained have scored.

The map is *what the loss weighs at this checkpoint*, not what a retrained student would score; stars and the sweep's
points are trainings. The paper's point is marked in both.

Shapes: A alphas, K temperatures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from core.plots.arrays import floats
from core.plots.style import (
    INK,
    PAPER_ALPHA,
    PAPER_TEMPERATURE,
    ROLES,
    SEQUENTIAL,
    colour_bar,
    error_bars,
    escaped,
    finish,
    other,
    spoken,
    squares,
    symbol_marker,
)


class Star(NamedTuple):
    """A training that was made at this point. `score` is nan where it is not known."""

    alpha: float
    temperature: float
    score: float
    label: str


class SweepPoint(NamedTuple):
    """One metric of one (alpha, temperature) over seeds: mean and interval, nan where there is one seed."""

    alpha: float
    temperature: float
    mean: float
    low: float
    high: float
    metric: str


def alpha_temperature_map(
    alphas_A: npt.ArrayLike,
    temperatures_K: npt.ArrayLike,
    values_AK: npt.ArrayLike,
    title: str,
    *,
    unit: str = "",
    stars: Sequence[Star | tuple[float, float, float, str]] = (),
    score_name: str = "score",
) -> go.Figure:
    """A quantity of the loss over alpha (x) and temperature (y, logarithmic).

    The ring is the paper's point; stars are trained runs, coloured by their score and labelled with it. `customdata` of
    the clickable squares is the flat index a * K + k. Raises `ValueError` for shapes that do not fit and for a
    temperature <= 0.
    """
    alphas, temperatures = floats("alphas", alphas_A), floats("temperatures", temperatures_K)
    values = floats("values", values_AK, ndim=2)
    if values.shape != (len(alphas), len(temperatures)):
        raise ValueError(
            f"values have shape {values.shape}, expected {(len(alphas), len(temperatures))}: a row for "
            "each alpha, a column for each temperature"
        )
    if temperatures.min() <= 0:
        raise ValueError(f"temperatures are {temperatures.tolist()}, expected positive ones")
    y_K = np.log2(temperatures)  # plotly cannot put equal cells on its own logarithmic axis
    fig = go.Figure(
        go.Heatmap(
            x=alphas,
            y=y_K,
            z=values.T.astype(np.float32),
            colorscale=SEQUENTIAL,
            colorbar=colour_bar(escaped(unit or title)),
            hoverinfo="skip",
            name="",
        )
    )
    flat = np.arange(values.size)
    a_F, k_F = np.divmod(flat, len(temperatures))
    hover = [
        f"alpha {alphas[a]:.2f}, temperature {temperatures[k]:.3g}: <b>{spoken(values[a, k], 3)}</b>"
        for a, k in zip(a_F, k_F, strict=True)
    ]
    fig.add_trace(squares(alphas[a_F], y_K[k_F], flat, hover="%{text}<extra></extra>", text=hover, size=16))
    fig.add_trace(
        go.Scatter(
            x=np.array([PAPER_ALPHA]),
            y=np.array([0.0]),
            mode="markers",
            name="the paper's point",
            marker={"symbol": "circle-open", "size": 24, "color": ROLES["student"].colour, "line": {"width": 3}},
            hovertemplate="the paper: alpha 0.5, temperature 1<extra></extra>",
        )
    )
    if stars:
        _add_stars(fig, [Star(*star) for star in stars], score_name)
    powers = np.arange(-6, 11)
    powers = powers[(powers >= y_K.min() - 1e-6) & (powers <= y_K.max() + 1e-6)]
    shown = powers if len(powers) > 1 else y_K
    fig.update_xaxes(title_text="alpha (weight of the teachers)", showgrid=False)
    fig.update_yaxes(
        title_text="temperature", tickvals=shown, ticktext=[f"{2.0**tick:.3g}" for tick in shown], showgrid=False
    )
    fig.update_layout(hoverdistance=-1)
    k, a = np.abs(y_K).argmin(), np.abs(alphas - PAPER_ALPHA).argmin()
    alt = (
        f"{title} over {len(alphas)} values of alpha and {len(temperatures)} temperatures, from "
        f"{spoken(np.nanmin(values), 3)} to {spoken(np.nanmax(values), 3)}; {spoken(values[a, k], 3)} at the paper's "
        f"point; {len(stars)} trained runs."
    )
    # Two lines, since plotly does not wrap them and these words must not be cut.
    caption = (
        "what the loss weighs at this checkpoint, not what a retrained\nstudent would score; only stars are trainings"
    )
    return finish(fig, alt=alt, height=500, title=title, subtitle=caption)


def _add_stars(fig: go.Figure, stars: list[Star], score_name: str) -> None:
    scores = np.array([star.score for star in stars])
    fig.add_trace(
        go.Scatter(
            x=np.array([star.alpha for star in stars]),
            y=np.log2([star.temperature for star in stars]),
            customdata=np.arange(len(stars), dtype=np.int32),
            text=[f"<b>{score:.1f}</b>" if np.isfinite(score) else "" for score in scores],
            hovertext=[
                f"{escaped(star.label)}<br>alpha {star.alpha:g}, temperature {star.temperature:g}" for star in stars
            ],
            mode="markers+text",
            textposition="top center",
            # A white halo, because the cell below may be of any colour.
            textfont={"size": 12, "color": "#1f1f1f", "shadow": "0 0 2px #fff, 0 0 3px #fff, 0 0 4px #fff"},
            name="trained run",
            marker={
                "symbol": "star",
                "size": 17,
                "color": np.where(np.isfinite(scores), scores, np.nan),
                "colorscale": [[0, "#ffe3b8"], [1, "#e8590c"]],
                "line": {"width": 1.2, "color": "#7a4a12"},
            },
            hovertemplate=f"%{{hovertext}}<br>{escaped(score_name)} <b>%{{marker.color:.2f}}</b><extra></extra>",
        )
    )


def sweep_figure(
    rows: Sequence[SweepPoint | tuple[float, float, float, float, float, str]], *, title: str = ""
) -> go.Figure:
    """Trained students over alpha, one line a temperature, one panel a metric (score, KL to the truth ...).

    Bars are the rows' intervals; a ring marks the paper's point where it was trained. `customdata` is the row's number
    in `rows`. Raises `ValueError` for no rows and for more than three metrics.
    """
    points = [SweepPoint(*row) for row in rows]
    if not points:
        raise ValueError("the sweep has no finished run: there is nothing to draw")
    metrics = list(dict.fromkeys(point.metric for point in points))
    if len(metrics) > 3:
        raise ValueError(f"{len(metrics)} metrics, expected at most three: {metrics}")
    temperatures = sorted({point.temperature for point in points})
    # Side by side, or the intervals of one alpha would hide each other.
    apart = np.diff(np.unique([point.alpha for point in points])).min(initial=0.25)
    shifts = 0.12 * apart * (np.arange(len(temperatures)) - (len(temperatures) - 1) / 2) / max(1, len(temperatures) / 3)
    fig = make_subplots(rows=1, cols=len(metrics), horizontal_spacing=0.14)
    look = ROLES["student"]
    for i, temperature in enumerate(temperatures):
        colour, symbol = (look.colour, look.symbol) if temperature == PAPER_TEMPERATURE else other(i)
        for column, metric in enumerate(metrics, 1):
            mine = sorted(
                (p.alpha, j) for j, p in enumerate(points) if p.metric == metric and p.temperature == temperature
            )
            at = np.array([j for _, j in mine], dtype=np.int32)
            chosen = [points[j] for j in at]
            mean, low, high = (np.array([getattr(p, side) for p in chosen]) for side in ("mean", "low", "high"))
            fig.add_trace(
                go.Scatter(
                    x=np.array([p.alpha for p in chosen]) + shifts[i],
                    y=mean,
                    error_y=error_bars(mean, low, high, colour),
                    customdata=at,
                    text=[
                        f"alpha {p.alpha:g}, T = {p.temperature:g}: <b>{spoken(p.mean)}</b> "
                        f"[{spoken(p.low)}, {spoken(p.high)}]"
                        for p in chosen
                    ],
                    mode="lines+markers",
                    line={"color": colour, "width": 2},
                    marker=symbol_marker(colour, symbol, size=9),
                    name=f"T = {temperature:g}",
                    legendgroup=f"{temperature:g}",
                    showlegend=column == 1,
                    hovertemplate="%{text}<extra></extra>",
                ),
                row=1,
                col=column,
            )
    for column, metric in enumerate(metrics, 1):
        found = [p for p in points if (p.alpha, p.temperature, p.metric) == (PAPER_ALPHA, PAPER_TEMPERATURE, metric)]
        if found:
            shift = shifts[temperatures.index(PAPER_TEMPERATURE)]
            fig.add_trace(_paper_ring(found[0].mean, shift, show=column == 1), row=1, col=column)
        alphas = sorted({p.alpha for p in points})
        fig.update_xaxes(title_text="alpha (teachers' weight)", row=1, col=column)
        if len(alphas) <= 11:
            fig.update_xaxes(tickvals=np.array(alphas), ticktext=[f"{alpha:g}" for alpha in alphas], row=1, col=column)
        fig.update_yaxes(title_text=escaped(metric, 60), row=1, col=column)
    best = max((p for p in points if p.metric == metrics[0]), key=lambda p: p.mean)
    alt = (
        f"{' and '.join(metrics)} of {len(points)} sweep points over alpha for {len(temperatures)} temperatures; the "
        f"highest {metrics[0]} is {spoken(best.mean)} at alpha {best.alpha:g}, temperature {best.temperature:g}."
    )
    return finish(fig, alt=alt, height=380, title=title)


def _paper_ring(mean: float, shift: float, *, show: bool) -> go.Scatter:
    return go.Scatter(
        x=np.array([PAPER_ALPHA + shift]),
        y=np.array([mean]),
        mode="markers",
        marker={"symbol": "circle-open", "size": 20, "color": INK, "line": {"width": 2, "color": INK}},
        name="the paper's point",
        showlegend=show,
        hoverinfo="skip",
    )
