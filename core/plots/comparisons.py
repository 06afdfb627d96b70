"""Who is better, by how much, and who taught whom: points with intervals, the flip ledger, copied errors.

A filled marker lies more than two standard errors from zero, an open one does not: that is the project's line between a
finding and "no difference", drawn. Rows carry their own intervals (mean -+ 2 standard errors over seeds); nothing is
estimated here.

Shapes: R rows of a figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from core.plots.style import (
    FAINT,
    INK,
    ROLES,
    Role,
    error_bars,
    escaped,
    finish,
    hatch,
    label_rows,
    other,
    signed,
    spoken,
    symbol_marker,
)


class Interval(NamedTuple):
    """A point and its interval. `group` is a row of the figure (a task), `series` who it is about. low and high are
    nan where n = 1 leaves nothing to estimate them from."""

    group: str
    series: str
    mean: float
    low: float
    high: float
    n: int


def points_and_intervals(
    rows: Sequence[Interval | tuple[str, str, float, float, float, int]],
    *,
    metric: str,
    zero_line: bool = False,
    roles: Mapping[str, Role] | None = None,
    digits: int = 1,
    row_px: int | None = None,
    title: str = "",
) -> go.Figure:
    """The headline: per group (task) and series a point with its interval, groups and series in order of appearance.

    With `zero_line` the values are differences: a marker is filled where its interval leaves zero out, open where it
    does not or is unknown. `roles` gives a series its role's colour and symbol; others get their own. `row_px` is the
    height of a group (None: what its series need), so that two figures can stand side by side. `customdata` is the
    row's number. Raises `ValueError` for no rows and for a role that does not exist.

    Example: `points_and_intervals([("nli", "kd", 1.9, 1.1, 2.7, 5)], metric="KD minus no KD (points)", zero_line=True,
    roles={"kd": "student"})`.
    """
    intervals = _checked(rows)
    roles = roles or {}
    unknown = set(roles.values()) - ROLES.keys()
    if unknown:
        raise ValueError(f"unknown roles {sorted(unknown)}, expected some of {list(ROLES)}")
    groups = list(dict.fromkeys(row.group for row in intervals))
    series = list(dict.fromkeys(row.series for row in intervals))
    fig = go.Figure()
    for i, name in enumerate(series):
        at = np.array([j for j, row in enumerate(intervals) if row.series == name], dtype=np.int32)
        mine = [intervals[j] for j in at]
        role = roles.get(name)
        colour, symbol = (ROLES[role].colour, ROLES[role].symbol) if role else other(i)
        clear = [not zero_line or row.low > 0 or row.high < 0 for row in mine]
        shown: dict[str, Any] = symbol_marker(colour, symbol, size=18 if symbol.startswith("line-") else 11)
        if not symbol.endswith("-open") and not symbol.startswith("line-"):
            shown |= {"symbol": [symbol if filled else f"{symbol}-open" for filled in clear]}
            shown |= {"line": {"width": 2, "color": colour}}  # filled ones too: both are of one size
        fig.add_trace(
            go.Scatter(
                x=np.array([row.mean for row in mine]),
                y=np.array([groups.index(row.group) for row in mine]) + _lane(i, len(series)),
                error_x=_error_bars(mine, colour),
                customdata=at,
                text=[_hover(row, digits, judged=zero_line) for row in mine],
                mode="markers",
                marker=shown,
                name=escaped(name),
                hovertemplate="%{text}<extra></extra>",
            )
        )
    if zero_line:
        fig.add_vline(x=0, line={"color": INK, "width": 1.5})
    for row in range(1, len(groups)):
        fig.add_hline(y=row - 0.5, line={"color": FAINT, "width": 1})
    fig.update_xaxes(title_text=escaped(metric, 80))
    fig.update_yaxes(label_rows(groups, max_chars=48))
    said = "; ".join(_said(row, digits, zero_line) for row in intervals[:6])
    more = f"; and {len(intervals) - 6} more" if len(intervals) > 6 else ""
    subtitle = "filled: over 2 standard errors from 0; open: no difference" if zero_line else ""
    height = 112 + len(groups) * (row_px or max(36, 8 + 17 * len(series))) + 20 * zero_line
    return finish(fig, alt=f"{metric}: {said}{more}.", height=height, title=title, subtitle=subtitle)


def error_copying(
    rows: Sequence[Interval | tuple[str, str, float, float, float, int]],
    *,
    roles: Mapping[str, Role] | None = None,
    title: str = "",
) -> go.Figure:
    """P(the student gives the teachers' wrong answer | they are wrong), bars with intervals, by group (task or pair of
    classes). The student without distillation beside it says how much of that is no copying at all.

    Rows are shares in 0..1; `customdata` is the row's number.
    """
    intervals = _checked(rows)
    roles = roles or {}
    groups = list(dict.fromkeys(row.group for row in intervals))
    series = list(dict.fromkeys(row.series for row in intervals))
    fig = go.Figure()
    for i, name in enumerate(series):
        at = np.array([j for j, row in enumerate(intervals) if row.series == name], dtype=np.int32)
        mine = [intervals[j] for j in at]
        role = roles.get(name)
        colour = ROLES[role].colour if role else other(i)[0]
        percent = [row._replace(mean=100 * row.mean, low=100 * row.low, high=100 * row.high) for row in mine]
        fig.add_trace(
            go.Bar(
                x=np.array([row.mean for row in percent]),
                y=np.array([groups.index(row.group) for row in mine]),
                orientation="h",
                error_x=_error_bars(percent, INK),
                customdata=at,
                text=[_hover(row, 1, judged=False, unit=" %") for row in percent],
                textposition="none",
                name=escaped(name),
                marker={
                    "color": colour,
                    "opacity": 0.85,
                    "line": {"width": 0},
                    "pattern": hatch(("", "/", "x", ".")[i % 4]),
                },
                hovertemplate="%{text} teachers' errors<extra></extra>",
            )
        )
    fig.update_layout(barmode="group", bargap=0.3, bargroupgap=0.08)
    # Shares end at 0 and 100, whatever two standard errors of a few seeds reach for.
    top = max(100 * max(row.mean if np.isnan(row.high) else row.high for row in intervals), 10)
    fig.update_xaxes(
        title_text="teachers' wrong answers that the student gives too (%)", range=[0, min(1.05 * top, 101)]
    )
    fig.update_yaxes(label_rows(groups))
    said = "; ".join(f"{row.group}, {row.series} {100 * row.mean:.0f} %" for row in intervals[:6])
    height = 112 + len(groups) * (16 + 20 * len(series))
    return finish(fig, alt=f"Errors of the teachers that students copy: {said}.", height=height, title=title)


def _checked(rows: Sequence[Interval | tuple[str, str, float, float, float, int]]) -> list[Interval]:
    intervals = [Interval(*row) for row in rows]
    if not intervals:
        raise ValueError("no rows were given: there is nothing to compare yet")
    if not any(np.isfinite(row.mean) for row in intervals):
        raise ValueError("no row has a mean that is a number: there is nothing to compare yet")
    return intervals


def _lane(i: int, n: int) -> float:
    """Height of the i-th of n series within its row, which reaches from -0.5 to 0.5."""
    return 0.8 * ((i + 0.5) / n - 0.5)  # two neighbours of one row are nearer than those of two rows


def _error_bars(rows: Sequence[Interval], colour: str) -> dict[str, Any]:
    mean, low, high = (np.array([getattr(row, side) for row in rows]) for side in ("mean", "low", "high"))
    return error_bars(mean, low, high, colour)


def _hover(row: Interval, digits: int, *, judged: bool, unit: str = "") -> str:
    number = (lambda value: signed(value, digits)) if judged else (lambda value: spoken(value, digits))
    interval = f" [{number(row.low)}, {number(row.high)}]" if np.isfinite(row.low) else ", one seed"
    return f"{escaped(row.series)}, {escaped(row.group)}<br><b>{number(row.mean)}{unit}</b>{interval}, n = {row.n:,}"


def _said(row: Interval, digits: int, judged: bool) -> str:
    if not judged:
        return f"{row.group} {row.series} {spoken(row.mean, digits)}"
    verdict = "" if row.low > 0 or row.high < 0 else " (no difference)"
    return f"{row.group} {row.series} {signed(row.mean, digits)}{verdict}"
