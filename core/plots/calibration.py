"""Are they as right as they are sure, and did the student inherit that? Reliability of several models in one picture.

Curves arrive as rows of core.calibration's reliability table, so nothing is binned here. The panel below says how many
examples each point rests on; with bins of equal mass it says where they lie.

Shapes: B bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from core.plots.arrays import floats, same_length
from core.plots.style import INK, OTHERS, ROLES, Role, error_bars, escaped, finish, marker, spoken, symbol_marker

GOLD_BINS = 20
DASHES = ("solid", "dash", "dot", "dashdot")  # so that lines differ by more than their colour


class ReliabilityCurve(NamedTuple):
    """One model's bins in order of confidence, nan in empty ones; ECE in 0..1 with its bootstrap interval.

    `dashed` is for a variant of a role, such as the temperature-scaled student; `shown` False leaves it in the legend
    alone, to be switched on by a click.
    """

    name: str
    role: Role
    confidence_B: npt.ArrayLike
    accuracy_B: npt.ArrayLike
    low_B: npt.ArrayLike
    high_B: npt.ArrayLike
    count_B: npt.ArrayLike
    ece: float = float("nan")
    ece_low: float = float("nan")
    ece_high: float = float("nan")
    dashed: bool = False
    shown: bool = True


def reliability(curves: Sequence[ReliabilityCurve], *, title: str = "") -> go.Figure:
    """Accuracy against confidence, 95 % intervals as bars, the diagonal is honesty; below it the examples of each bin.

    Members are thin and share one legend entry. `customdata` is the bin. Raises `ValueError` for no curve, an unknown
    role, or bins of different lengths.
    """
    if not curves:
        raise ValueError("no model was given: there is no reliability to draw")
    fig = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.76, 0.24], vertical_spacing=0.05)
    said, lowest, members = [], 1.0, 0
    for curve in curves:
        if curve.role not in ROLES:
            raise ValueError(f"{curve.name!r} has role {curve.role!r}, expected one of {list(ROLES)}")
        confidence, accuracy = floats("confidence", curve.confidence_B), floats("accuracy", curve.accuracy_B)
        low, high, count = (np.asarray(v, dtype=np.float64) for v in (curve.low_B, curve.high_B, curve.count_B))
        same_length(confidence=confidence, accuracy=accuracy, low=low, high=high, count=count)
        kept = count > 0
        bins = np.flatnonzero(kept).astype(np.int32)
        confidence, accuracy, low, high, count = (v[kept] for v in (confidence, accuracy, low, high, count))
        lowest = min(lowest, float(confidence.min()), float(accuracy.min()))
        is_member = curve.role == "member"
        name = _legend_name(curve)
        colour = ROLES[curve.role].colour
        shared = {
            "x": confidence,
            "customdata": bins,
            "legendgroup": "members" if is_member else name,
            "visible": True if curve.shown else "legendonly",
            "line": {"color": colour, "width": 1 if is_member else 2, "dash": "dot" if curve.dashed else "solid"},
        }
        fig.add_trace(
            go.Scatter(
                **shared,
                y=accuracy,
                error_y=None if is_member else error_bars(accuracy, low, high, colour),
                text=[f"{n:,.0f} examples" for n in count],
                mode="lines+markers",
                marker=_line_marker(curve.role),
                opacity=0.6 if is_member else 1,
                name="members" if is_member else name,
                showlegend=not (is_member and members),
                hovertemplate=f"{escaped(curve.name)}<br>sure <b>%{{x:.2f}}</b>, right <b>%{{y:.2f}}</b>, %{{text}}"
                "<extra></extra>",
            ),
            row=1,
            col=1,
        )
        members += is_member
        if not is_member:
            said.append(f"{curve.name} {100 * curve.ece:.1f} %" if np.isfinite(curve.ece) else curve.name)
            fig.add_trace(
                go.Scatter(
                    **shared,
                    y=count,
                    mode="lines+markers",
                    marker={"size": 5, "color": colour},
                    name=name,
                    showlegend=False,
                    hovertemplate=f"{escaped(curve.name)}, sure %{{x:.2f}}: <b>%{{y:,}}</b> examples<extra></extra>",
                ),
                row=2,
                col=1,
            )
    start = max(0.0, lowest - 0.03)
    fig.add_shape(
        type="line", x0=start, y0=start, x1=1, y1=1, line={"color": INK, "width": 1, "dash": "dash"}, row=1, col=1
    )
    fig.update_xaxes(range=[start, 1.01])
    fig.update_xaxes(title_text="confidence (mean top probability of a bin)", row=2, col=1)
    fig.update_yaxes(title_text="accuracy (share)", range=[start, 1.02], row=1, col=1)
    fig.update_yaxes(title_text="examples", rangemode="tozero", nticks=3, row=2, col=1)
    alt = f"Reliability of {len(curves)} models; expected calibration error: {'; '.join(said) or 'members only'}."
    return finish(fig, alt=alt, height=520, title=title)


def gold_probabilities(series: Mapping[str, npt.ArrayLike], *, title: str = "") -> go.Figure:
    """How the examples spread over the probability that each of `series` gives the gold label, (N,) in 0..1, NaN left
    out: one line a series, the share of its examples in 20 bins."""
    fig = go.Figure()
    said = []
    colours = (ROLES["student"].colour, ROLES["hard"].colour, *OTHERS)
    for i, (name, probs_N) in enumerate(series.items()):
        probs = floats(name, probs_N)
        finite = probs[np.isfinite(probs)]
        counts_B, edges = np.histogram(finite, bins=GOLD_BINS, range=(0, 1))
        fig.add_scatter(
            x=(edges[:-1] + edges[1:]) / 2,
            y=(100 * counts_B / max(1, len(finite))).astype(np.float32),
            mode="lines",
            line={"color": colours[i % len(colours)], "width": 2, "shape": "hvh", "dash": DASHES[i % len(DASHES)]},
            name=escaped(name),
            hovertemplate="about %{x:.2f}: <b>%{y:.1f} %</b> of the examples<extra>" + escaped(name) + "</extra>",
        )
        said.append(f"{name} gives gold {spoken(float(finite.mean()) if len(finite) else float('nan'))} on average")
    fig.update_xaxes(title_text="probability of the gold label", range=[0, 1], dtick=0.2)
    fig.update_yaxes(title_text="examples (%)", rangemode="tozero")
    return finish(fig, alt="; ".join(said) + ".", height=320, title=title)


def _line_marker(role: Role) -> dict[str, Any]:
    """The teachers' upright tick would vanish in its own error bar: here the mean is a filled circle."""
    if role == "teacher":
        return symbol_marker(ROLES[role].colour, "circle", size=8)
    return marker(role, size=4 if role == "member" else 9)


def _legend_name(curve: ReliabilityCurve) -> str:
    if not np.isfinite(curve.ece):
        return escaped(curve.name)
    interval = f" [{100 * curve.ece_low:.1f}, {100 * curve.ece_high:.1f}]" if np.isfinite(curve.ece_low) else ""
    return f"{escaped(curve.name)} · ECE {spoken(100 * curve.ece, 1)} %{interval}"
