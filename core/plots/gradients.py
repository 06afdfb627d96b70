"""What moves the student: the gold label's part of the gradient against the teachers' part, one example at a time.

The quantities are those of core/losses in logit space: norms of (1 - alpha)(q - e_y) and of alpha times the soft part,
the cosine between them, and the exact split of a soft gradient into an importance-weighted hard label and the
teachers' opinion about the wrong classes. They are computed elsewhere; here they are drawn.

Shapes: N examples, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from core.plots.arrays import density, drawn_rows, floats, row_ids, same_length
from core.plots.densities import N_BINS, density_layer, drawn_text, point_layer
from core.plots.style import DIVERGING, INK, NEUTRAL, ROLES, colour_bar, escaped, finish, hatch, label_rows, spoken

COSINE_BINS = 40


def gradient_scatter(
    norm_hard_N: npt.ArrayLike,
    norm_soft_N: npt.ArrayLike,
    cosine_N: npt.ArrayLike,
    ids: npt.ArrayLike | None = None,
    *,
    title: str = "",
) -> go.Figure:
    """Norm of the hard gradient (x) against the soft one (y), coloured by their cosine: red pulls apart, blue together.

    Above the diagonal the teachers pull harder than the gold label. At most 20,000 points; `customdata` is the row
    number of `ids`. A cosine is nan where one of the two is zero; such examples count in the shading alone.
    """
    hard, soft = floats("hard gradient norms", norm_hard_N), floats("soft gradient norms", norm_soft_N)
    cosine = floats("cosines", cosine_N)
    ids_N = row_ids(ids, same_length(hard=hard, soft=soft, cosine=cosine))
    ok_N = np.isfinite(hard) & np.isfinite(soft)
    if not ok_N.any():
        raise ValueError("no example has both gradient norms: there is nothing to draw")
    rows = drawn_rows(ids_N)
    rows = rows[ok_N[rows] & np.isfinite(cosine[rows])]
    right, top = (1.05 * max(float(norm.max()), 1e-6) for norm in (hard[ok_N], soft[ok_N]))
    fig = go.Figure(density_layer(density(hard, soft, n_bins=N_BINS, x_range=(0, right), y_range=(0, top))))
    fig.add_trace(
        point_layer(
            hard[rows],
            soft[rows],
            ids_N[rows],
            hover="gold label <b>%{x:.3f}</b>, teachers <b>%{y:.3f}</b><br>cosine <b>%{marker.color:.2f}</b>",
            colour=cosine[rows].astype(np.float32),
            cmin=-1,
            cmax=1,
            colorscale=DIVERGING,
            colorbar=colour_bar("cosine: −1 against, 1 together", dtick=0.5),
        )
    )
    fig.add_shape(
        type="line",
        x0=0,
        y0=0,
        x1=min(right, top),
        y1=min(right, top),
        line={"color": NEUTRAL, "width": 1, "dash": "dash"},
    )
    fig.update_xaxes(title_text="norm of the gold label's gradient (logits)", range=[-0.01 * right, right])
    fig.update_yaxes(title_text="norm of the teachers' gradient (logits)", range=[-0.01 * top, top])
    alt = (
        f"Gradient norms of {ok_N.sum():,} examples: the teachers pull harder than the gold label on "
        f"{100 * float((soft[ok_N] > hard[ok_N]).mean()):.0f} %, and against it on {_conflict_share(cosine):.0f} %."
    )
    return finish(fig, alt=alt, height=460, title=title, subtitle=drawn_text(len(rows), int(ok_N.sum())), legend=False)


def cosine_histogram(cosine_N: npt.ArrayLike, *, title: str = "") -> go.Figure:
    """How often gold label and teachers pull together. `customdata` is the bin 0..39 of equal width over -1..1."""
    cosine = floats("cosines", cosine_N)
    finite = np.clip(cosine[np.isfinite(cosine)], -1, 1)  # rounding leaves 1.0000001
    counts_B, edges = np.histogram(finite, bins=COSINE_BINS, range=(-1, 1))
    middle_B = (edges[:-1] + edges[1:]) / 2
    fig = go.Figure(
        go.Bar(
            x=middle_B,
            y=(100 * counts_B / len(finite)).astype(np.float32),
            width=0.94 * (edges[1] - edges[0]),
            customdata=np.arange(COSINE_BINS, dtype=np.int32),
            text=[
                f"{low:.2f} to {high:.2f}: {n:,} examples"
                for low, high, n in zip(edges, edges[1:], counts_B, strict=False)
            ],
            textposition="none",
            marker={"color": middle_B, "colorscale": DIVERGING, "cmin": -1, "cmax": 1, "line": {"width": 0}},
            hovertemplate="cosine %{text}, <b>%{y:.1f} %</b><extra></extra>",
            name="examples",
        )
    )
    fig.add_vline(x=0, line={"color": INK, "width": 1, "dash": "dash"})
    fig.update_xaxes(title_text="cosine of the two gradients (−1 against, 1 together)", range=[-1.02, 1.02], dtick=0.5)
    fig.update_yaxes(title_text="examples (%)", rangemode="tozero")
    alt = (
        f"Cosine between the gold label's and the teachers' gradient for {len(finite):,} examples: median "
        f"{spoken(float(np.median(finite)))}, below zero on {_conflict_share(cosine):.0f} %."
    )
    return finish(fig, alt=alt, height=300, title=title, legend=False)


def decomposition_bar(
    importance_G: npt.ArrayLike, wrong_class_G: npt.ArrayLike, groups: Sequence[str], *, title: str = ""
) -> go.Figure:
    """Per group, how much of the soft gradient is the gold label weighted by the teachers' confidence, and how much is
    what they say about the wrong classes: the part that no label holds. Values are norms; bars are shares.

    `customdata` is the group's number. Raises `ValueError` for lengths that differ or negative norms.
    """
    importance, wrong = floats("importance", importance_G), floats("wrong_class", wrong_class_G)
    if same_length(importance=importance, wrong_class=wrong) != len(groups):
        raise ValueError(f"{len(groups)} groups for {len(importance)} values, expected one name each")
    if np.nanmin(importance) < 0 or np.nanmin(wrong) < 0:
        raise ValueError("a norm is negative; expected mean gradient norms of each group")
    total = importance + wrong
    fig = go.Figure()
    for name, part, colour, pattern in (
        ("gold label, weighted by the teachers' confidence", importance, NEUTRAL, ""),
        ("the teachers on the wrong classes", wrong, ROLES["teacher"].colour, "/"),
    ):
        share = np.divide(part, total, out=np.full(len(part), np.nan), where=total > 0)
        fig.add_trace(
            go.Bar(
                x=(100 * share).astype(np.float32),
                y=np.arange(len(groups)),
                orientation="h",
                name=name,
                customdata=np.arange(len(groups), dtype=np.int32),
                text=[f"{100 * s:.0f} %" if np.isfinite(s) and s > 0.06 else "" for s in share],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                insidetextfont={"color": "#ffffff"},
                hovertext=[f"{escaped(g)}: {p:.3f} of {t:.3f}" for g, p, t in zip(groups, part, total, strict=True)],
                hovertemplate=f"{name}<br>%{{hovertext}}, <b>%{{x:.1f}} %</b><extra></extra>",
                marker={
                    "color": colour,
                    "line": {"width": 0},
                    "pattern": hatch(pattern, solidity=0.12),
                },
            )
        )
    fig.update_layout(barmode="stack", bargap=0.35)
    fig.update_xaxes(title_text="share of the soft gradient's norm (%)", range=[0, 100.5])
    fig.update_yaxes(label_rows(groups))
    overall = 100 * float(np.nansum(wrong) / np.nansum(total)) if np.nansum(total) > 0 else float("nan")
    alt = (
        f"Share of the soft gradient that is the teachers' opinion on wrong classes, in {len(groups)} groups; "
        f"{spoken(overall, 0)} % over all."
    )
    return finish(fig, alt=alt, height=120 + 40 * len(groups), title=title)


def _conflict_share(cosine_N: npt.NDArray[np.float64]) -> float:
    finite = cosine_N[np.isfinite(cosine_N)]
    return 100 * float((finite < 0).mean())
