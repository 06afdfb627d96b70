"""The ensemble from inside: what its members disagree about, which size pays, whom the student resembles.

Members are light violet, the mean violet, the student orange, as everywhere.

Shapes: N examples, M members.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from core.plots.arrays import FloatArray, bin_means, floats, mean_of, same_length
from core.plots.style import (
    INK,
    NEUTRAL,
    ROLES,
    escaped,
    finish,
    hatch,
    label_axis,
    label_rows,
    marker,
    spoken,
    symbol_marker,
)

MAX_STRETCHES = 400
SPREAD = 0.02  # of subsets of one size, half the width, as a share of the axis
MEMBER, TEACHER, STUDENT = (ROLES[role].colour for role in ("member", "teacher", "student"))


class SubsetScore(NamedTuple):
    """The score of the mean over one subset of members. `members` says which, for the hover."""

    size: int
    members: str
    score: float


def entropy_split(
    mean_member_entropy_N: npt.ArrayLike, mutual_information_N: npt.ArrayLike, *, title: str = ""
) -> go.Figure:
    """H(mean) = mean of the members' entropies + mutual information: doubt that all share, and disagreement. Examples
    are sorted by disagreement and averaged in at most 400 stretches.
    """
    shared, disagreement = (
        floats("mean member entropy", mean_member_entropy_N),
        floats("mutual information", mutual_information_N),
    )
    same_length(mean_member_entropy=shared, mutual_information=disagreement)
    ok_N = np.isfinite(shared) & np.isfinite(disagreement)
    if not ok_N.any():
        raise ValueError("no example has both parts of the entropy: there is nothing to draw")
    order_N = np.argsort(disagreement[ok_N], kind="stable")
    parts = [bin_means(values[ok_N][order_N], MAX_STRETCHES).astype(np.float32) for values in (shared, disagreement)]
    n = int(ok_N.sum())
    x = (100 * (np.arange(len(parts[0])) + 0.5) / len(parts[0])).astype(np.float32)
    fig = go.Figure()
    for values, name, colour, fill in (
        (parts[0], "doubt that all members share (mean of their entropies)", MEMBER, "rgba(157,127,245,0.35)"),
        (parts[1], "disagreement (mutual information)", TEACHER, "rgba(130,80,240,0.85)"),
    ):
        fig.add_trace(
            go.Scatter(
                x=x,
                y=values,
                mode="lines",
                stackgroup="entropy",
                line={"width": 1, "color": colour},
                fillcolor=fill,
                name=name,
                hovertemplate=f"{name}: <b>%{{y:.3f}} nats</b><extra></extra>",
            )
        )
    fig.update_xaxes(title_text="examples, sorted by disagreement (%)", range=[0, 100])
    fig.update_yaxes(title_text="entropy (nats)", rangemode="tozero")
    both = mean_of(shared[ok_N] + disagreement[ok_N])
    share = mean_of(disagreement[ok_N]) / both if both > 0 else float("nan")
    alt = (
        f"Entropy of the teachers' mean over {n:,} examples: {spoken(mean_of(shared[ok_N]))} nats of shared doubt and "
        f"{spoken(mean_of(disagreement[ok_N]))} of disagreement, which is {spoken(100 * share, 0)} %."
    )
    fig = finish(fig, alt=alt, height=340, title=title)
    fig.update_layout(hovermode="x unified")
    return fig


def closest_member(counts_M: npt.ArrayLike, names: Sequence[str], *, title: str = "") -> go.Figure:
    """On how many examples each member is the one nearest to the student (smallest KL); the dashed line is an even
    share. `customdata` is the member's number.
    """
    counts = floats("counts", counts_M)
    if len(counts) != len(names) or np.nanmin(counts) < 0 or np.nansum(counts) == 0:
        raise ValueError(
            f"counts are {counts.tolist()} for {len(names)} members, expected one count each, not all zero"
        )
    share = 100 * counts / np.nansum(counts)
    fig = go.Figure(
        go.Bar(
            x=np.arange(len(names)),
            y=share.astype(np.float32),
            customdata=np.arange(len(names), dtype=np.int32),
            text=[f"{s:.0f} %" for s in share],
            textposition="inside",
            insidetextanchor="start",
            insidetextfont={"color": "#ffffff"},
            textangle=0,
            hovertext=[f"{escaped(name)}: {count:,.0f} examples" for name, count in zip(names, counts, strict=True)],
            hovertemplate="%{hovertext}, <b>%{y:.1f} %</b><extra></extra>",
            marker={"color": MEMBER, "line": {"width": 0}},
            name="members",
            cliponaxis=False,
        )
    )
    even = 100 / len(names)
    fig.add_hline(y=even, line={"color": INK, "width": 1.5, "dash": "dash"})
    fig.update_xaxes(label_axis(names, max_chars=18) | {"title": {"text": "member"}})
    fig.update_yaxes(title_text="examples (%)", range=[0, max(1.18 * float(np.nanmax(share)), 1.2 * even)])
    fig.update_layout(bargap=0.45)
    top = int(np.nanargmax(share))
    alt = (
        f"Which member is nearest to the student: {names[top]} on {share[top]:.0f} % of examples; an even share is "
        f"{even:.0f} %."
    )
    subtitle = "the member nearest to the student; dashed: an even share"
    return finish(fig, alt=alt, height=320, title=title, subtitle=subtitle, legend=False)


def size_curve(
    rows: Sequence[SubsetScore | tuple[int, str, float]],
    *,
    metric: str,
    student: float | None = None,
    title: str = "",
) -> go.Figure:
    """The score of the mean over every subset of members, by its size: circles are subsets, the line is their mean.
    The student's score is a dashed orange line. `customdata` is the row's number.
    """
    scores = [SubsetScore(*row) for row in rows]
    if not scores:
        raise ValueError("no subset of members was scored: there is nothing to draw")
    size = np.array([row.size for row in scores])
    score = floats("scores", [row.score for row in scores])
    sizes = np.unique(size)
    mean = np.array([mean_of(score[size == s]) for s in sizes])
    # Spread within a size by order of appearance: the same picture each time.
    spread = np.zeros(len(size))
    for at in (np.flatnonzero(size == s) for s in sizes):
        spread[at] = SPREAD * len(sizes) * np.linspace(-1, 1, len(at)) if len(at) > 1 else 0.0
    fig = go.Figure(
        [
            go.Scatter(
                x=(size + spread).astype(np.float32),
                y=score.astype(np.float32),
                customdata=np.arange(len(scores), dtype=np.int32),
                text=[escaped(row.members, 60) for row in scores],
                mode="markers",
                marker=marker("member", size=7),
                name="one subset",
                hovertemplate="%{text}: <b>%{y:.2f}</b><extra></extra>",
            ),
            go.Scatter(
                x=sizes,
                y=mean,
                mode="lines+markers",
                line={"color": TEACHER, "width": 2.5},
                marker=symbol_marker(TEACHER, "circle", size=9),
                name="mean over subsets",
                hovertemplate="%{x} members: <b>%{y:.2f}</b><extra></extra>",
            ),
        ]
    )
    if student is not None:
        fig.add_trace(
            go.Scatter(
                x=np.array([sizes[0], sizes[-1]]),
                y=np.array([student, student]),
                mode="lines",
                line={"color": STUDENT, "dash": "dash", "width": 2},
                name=ROLES["student"].name,
                hovertemplate="student, KD: <b>%{y:.2f}</b><extra></extra>",
            )
        )
    fig.update_xaxes(title_text="members in the mean", dtick=1)
    fig.update_yaxes(title_text=escaped(metric, 60), range=_range_of(score, student))
    said = f"; the student has {spoken(student)}" if student is not None else ""
    alt = (
        f"{metric} by number of members: {spoken(mean[0])} with {sizes[0]}, {spoken(mean[-1])} with {sizes[-1]}{said}."
    )
    return finish(fig, alt=alt, height=360, title=title)


def _range_of(scores: FloatArray, student: float | None) -> list[float]:
    """The range of an axis. Equal scores are a flat line: an axis of its own choice would show their rounding."""
    shown = [*scores[np.isfinite(scores)], *([] if student is None else [student])]
    low, high = min(shown), max(shown)
    margin = max(0.08 * (high - low), 0.02 * max(abs(low), abs(high)))
    return [low - margin, high + margin]


def leave_one_out(
    names: Sequence[str],
    *,
    stayed_M: npt.ArrayLike,
    followed_M: npt.ArrayLike,
    neither_M: npt.ArrayLike,
    title: str = "",
) -> go.Figure:
    """Examples on which the mean's answer hangs on one member: what does the student say there? The full mean's answer
    (stayed), that of the mean without the member (followed), or another. `customdata` is the member's number.
    """
    parts = [
        floats(name, values)
        for name, values in (("stayed", stayed_M), ("followed", followed_M), ("neither", neither_M))
    ]
    if same_length(stayed=parts[0], followed=parts[1], neither=parts[2]) != len(names):
        raise ValueError(f"{len(names)} names for {len(parts[0])} members, expected one each")
    fig = go.Figure()
    for values, name, colour, pattern in zip(
        parts,
        ("student says what all together say", "what they say without the member", "something else"),
        (TEACHER, STUDENT, NEUTRAL),
        ("", "/", "."),
        strict=True,
    ):
        fig.add_trace(
            go.Bar(
                x=values.astype(np.int32),
                y=np.arange(len(names)),
                orientation="h",
                name=name,
                customdata=np.arange(len(names), dtype=np.int32),
                text=[escaped(member) for member in names],
                textposition="none",
                marker={
                    "color": colour,
                    "line": {"width": 0},
                    "pattern": hatch(pattern),
                },
                hovertemplate=f"without %{{text}}: {name}<br><b>%{{x:,}}</b> examples<extra></extra>",
            )
        )
    fig.update_layout(barmode="stack", bargap=0.35)
    fig.update_xaxes(title_text="examples whose answer changes without the member", rangemode="tozero")
    fig.update_yaxes(label_rows(names))
    total = parts[0] + parts[1] + parts[2]
    top = int(np.nanargmax(total))
    alt = (
        f"Examples that hang on one of {len(names)} members: most on {names[top]}, {total[top]:,.0f}; over all, the "
        f"student keeps the full answer on {100 * float(np.nansum(parts[0]) / max(np.nansum(total), 1)):.0f} %."
    )
    return finish(fig, alt=alt, height=120 + 34 * len(names), title=title)
