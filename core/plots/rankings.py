"""Best first: ways to combine the members, and the members themselves on the selection split.

What the run chose is filled, the others are open, so the picture says at once whether the first was taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from core.plots.comparisons import Interval
from core.plots.style import ROLES, error_bars, escaped, finish, label_rows, spoken


class RankedMember(NamedTuple):
    """A member on the selection split. `reason` is selection's own sentence."""

    name: str
    score: float
    low: float
    high: float
    chosen: bool
    reason: str = ""


def strategies(
    rows: Sequence[Interval | tuple[str, str, float, float, float, int]],
    *,
    metric: str,
    chosen: str = "",
    title: str = "",
) -> go.Figure:
    """Ways to combine the members, best first: point and interval, the run's own recipe filled. A row's group is its
    panel of comparison ("members chosen", "all members"), its series the strategy; `customdata` is the row's number.
    """
    intervals = [Interval(*row) for row in rows]
    if not intervals:
        raise ValueError("no strategy was scored: there is nothing to draw")
    ranked = sorted(range(len(intervals)), key=lambda i: (-np.nan_to_num(intervals[i].mean, nan=-np.inf), i))
    several = len({row.group for row in intervals}) > 1
    names = [f"{intervals[i].series} · {intervals[i].group}" if several else intervals[i].series for i in ranked]
    ordered = [intervals[i] for i in ranked]
    fig = go.Figure(
        _ranked_points(
            ordered,
            filled=[row.series == chosen for row in ordered],
            hover=[
                f"{escaped(name)}: <b>{spoken(row.mean)}</b> [{spoken(row.low)}, {spoken(row.high)}]"
                for name, row in zip(names, ordered, strict=True)
            ],
            customdata=np.array(ranked, dtype=np.int32),
        )
    )
    fig.update_xaxes(title_text=escaped(metric, 60))
    fig.update_yaxes(label_rows(names, max_chars=36))
    alt = (
        f"{metric} of {len(names)} ways to combine members: {names[0]} is first with {spoken(ordered[0].mean)}, "
        f"{names[-1]} last with {spoken(ordered[-1].mean)}."
    )
    subtitle = f"filled: this run's recipe, {chosen}" if chosen else ""
    return finish(fig, alt=alt, height=100 + 34 * len(names), title=title, subtitle=subtitle, legend=False)


def selection_ranking(rows: Sequence[RankedMember | tuple[Any, ...]], *, metric: str, title: str = "") -> go.Figure:
    """Members by their score on the selection split, best first: the chosen filled, the others open. `customdata` is
    the row's number; the hover has selection's reason.
    """
    members = [RankedMember(*row) for row in rows]
    if not members:
        raise ValueError("no member was scored on the selection split: run stage 'select' first")
    ranked = sorted(range(len(members)), key=lambda i: (-np.nan_to_num(members[i].score, nan=-np.inf), i))
    ordered = [members[i] for i in ranked]
    points = [Interval(row.name, "", row.score, row.low, row.high, 1) for row in ordered]
    fig = go.Figure(
        _ranked_points(
            points,
            filled=[row.chosen for row in ordered],
            hover=[
                f"<b>{escaped(row.name)}</b> {spoken(row.score)}{', chosen' * row.chosen}<br>{escaped(row.reason, 120)}"
                for row in ordered
            ],
            customdata=np.array(ranked, dtype=np.int32),
        )
    )
    names = [f"{row.name}{' ✓' if row.chosen else ''}" for row in ordered]
    fig.update_xaxes(title_text=escaped(metric, 60))
    fig.update_yaxes(label_rows(names))
    chosen = [row.name for row in ordered if row.chosen]
    alt = (
        f"{metric} of {len(members)} members, best {ordered[0].name} with {spoken(ordered[0].score)}; chosen: "
        f"{', '.join(chosen) or 'none'}."
    )
    return finish(
        fig, alt=alt, height=100 + 32 * len(members), title=title, subtitle="filled: chosen as teachers", legend=False
    )


def _ranked_points(
    rows: Sequence[Interval], *, filled: Sequence[bool], hover: Sequence[str], customdata: npt.NDArray[np.int32]
) -> go.Scatter:
    mean, low, high = (np.array([getattr(row, side) for row in rows]) for side in ("mean", "low", "high"))
    return go.Scatter(
        x=mean,
        y=np.arange(len(rows)),
        error_x=error_bars(mean, low, high, ROLES["member"].colour),
        customdata=customdata,
        text=list(hover),
        mode="markers",
        marker={
            "symbol": ["circle" if is_filled else "circle-open" for is_filled in filled],
            "size": 12,
            "color": ROLES["teacher"].colour,
            "line": {"width": 2, "color": ROLES["teacher"].colour},
        },
        hovertemplate="%{text}<extra></extra>",
        name="members",
    )
