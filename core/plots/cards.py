"""Who said what about one example: members, their mean, students, gold, truth and annotators in one dot plot.

Rows are classes and x is probability; every role has its own height within a row, so that marks do not cover each
other. Dots and not grouped bars: seven roles times C classes of bars cannot be read. A two-class task has one row,
because its second probability says nothing new; regression has a number line.

Shapes: M members, C classes, S student seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from core.plots.arrays import FloatArray, floats
from core.plots.style import FAINT, ROLES, Role, escaped, finish, key_entry, label_axis, marker, spoken

ROW_PX = 66
# Heights within a row, top to bottom. The teachers' tick crosses the members' lane and reaches its neighbours.
LANES: dict[Role, float] = {
    "truth": -0.36,
    "humans": -0.22,
    "member": -0.06,
    "teacher": -0.06,
    "student": 0.14,
    "hard": 0.32,
}


class _Series(NamedTuple):
    role: Role
    values_SR: FloatArray  # seeds (or members) x rows
    names: list[str]  # of the seeds or members


def distribution_card(
    labels: Sequence[str],
    *,
    members_MC: npt.ArrayLike | None = None,
    teacher_C: npt.ArrayLike | None = None,
    student_SC: npt.ArrayLike | None = None,
    hard_SC: npt.ArrayLike | None = None,
    gold_index: int | None = None,
    truth_C: npt.ArrayLike | None = None,
    humans_C: npt.ArrayLike | None = None,
    member_names: Sequence[str] | None = None,
    members_are: str = ROLES["member"].name,
    title: str = "",
) -> go.Figure:
    """Probabilities of every class by everybody who has an opinion; what is None is left out.

    `student_SC` and `hard_SC` are (S, C), or (C,) for one seed: seeds small, their mean bold. A dotted line leads from
    the teachers' mean to the student's. `members_are` is the legend's word for the models behind that mean ("teachers"
    where they were fine-tuned). Raises `ValueError` for no probabilities at all, a number of classes other than
    `labels`, or a gold index outside them.

    Example: `distribution_card(["no", "yes"], members_MC=p_MC, teacher_C=p_MC.mean(0), student_SC=q_SC, gold_index=1)`.
    """
    given: list[tuple[Role, npt.ArrayLike | None]] = [
        ("truth", truth_C),
        ("humans", humans_C),
        ("member", members_MC),
        ("teacher", teacher_C),
        ("student", student_SC),
        ("hard", hard_SC),
    ]
    n_classes = len(labels)
    if n_classes < 2:
        raise ValueError(f"labels are {list(labels)}, expected at least two; regression tasks have value_card")
    if gold_index is not None and not 0 <= gold_index < n_classes:
        raise ValueError(f"gold_index is {gold_index}, expected 0..{n_classes - 1} for {n_classes} labels")
    rows = [1] if n_classes == 2 else list(range(n_classes))
    series = []
    for role, values in given:
        if values is None:
            continue
        probs_SC = floats(f"probabilities of role {role!r}", np.atleast_2d(np.asarray(values, dtype=float)), ndim=2)
        if probs_SC.shape[1] != n_classes:
            raise ValueError(f"role {role!r} has {probs_SC.shape[1]} probabilities, expected {n_classes}, one a label")
        series.append(_Series(role, probs_SC[:, rows], _names(role, len(probs_SC), member_names)))
    if not series:
        raise ValueError("no probabilities were given: there is nothing to draw")

    row_names = [escaped(labels[row]) for row in rows]
    fig = go.Figure()
    _add_series(fig, series, row_names, members_are, hover="<b>%{x:.3f}</b>")
    if n_classes == 2:
        fig.update_xaxes(
            title_text=f"probability of “{row_names[0]}”",
            tickvals=[0, 0.25, 0.5, 0.75, 1],
            ticktext=[
                _end("0", labels[0], gold_index == 0),
                "0.25",
                "0.5",
                "0.75",
                _end("1", labels[1], gold_index == 1),
            ],
        )
        fig.update_yaxes(tickvals=[])
    else:
        fig.update_xaxes(title_text="probability", dtick=0.2)
        fig.update_yaxes(label_axis(labels, gold=gold_index))
        if gold_index is not None:
            _band(fig, gold_index)
    fig.update_xaxes(range=[-0.03, 1.03])
    said = [
        f"{ROLES[s.role].name} {', '.join(f'{labels[r]} {spoken(p)}' for r, p in zip(rows, _mean(s), strict=True))}"
        for s in series
        if s.role != "member"
    ]
    gold = f"; gold is {labels[gold_index]}" if gold_index is not None else ""
    fig = _finished(fig, len(rows), f"Probabilities of one example: {'; '.join(said)}{gold}.", title)
    if n_classes == 2:  # room for the labels at both ends, which plotly would drop and not move
        fig.update_xaxes(ticklabeloverflow="allow")
        fig.update_layout(margin={"l": 60, "r": 60})
    return fig


def value_card(
    *,
    value_range: tuple[float, float],
    members_M: npt.ArrayLike | None = None,
    teacher: float | None = None,
    student_S: npt.ArrayLike | None = None,
    hard_S: npt.ArrayLike | None = None,
    gold: float | None = None,
    truth_mean: float | None = None,
    truth_std: float | None = None,
    humans_mean: float | None = None,
    member_names: Sequence[str] | None = None,
    members_are: str = ROLES["member"].name,
    unit: str = "score",
    title: str = "",
) -> go.Figure:
    """The same for a regression task: one number line from `value_range[0]` to `value_range[1]`.

    The truth is drawn with its standard deviation where known. Raises `ValueError` for no values, and for an empty
    range.
    """
    low, high = value_range
    if not low < high:
        raise ValueError(f"value_range is {value_range}, expected (low, high) with low < high")
    given: list[tuple[Role, npt.ArrayLike | None]] = [
        ("truth", truth_mean),
        ("humans", humans_mean),
        ("member", members_M),
        ("teacher", teacher),
        ("student", student_S),
        ("hard", hard_S),
    ]
    series = []
    for role, values in given:
        if values is not None:
            values_S1 = floats(f"values of role {role!r}", np.atleast_1d(np.asarray(values, dtype=float)))[:, None]
            series.append(_Series(role, values_S1, _names(role, len(values_S1), member_names)))
    if not series:
        raise ValueError("no values were given: there is nothing to draw")
    fig = go.Figure()
    _add_series(fig, series, [escaped(unit)], members_are, hover="<b>%{x:.2f}</b>")
    if truth_mean is not None and truth_std is not None:
        fig.update_traces(
            error_x={"type": "data", "array": np.array([truth_std]), "thickness": 2, "width": 0},
            hovertemplate=f"truth <b>%{{x:.2f}}</b> ± {truth_std:.2f} (standard deviation)<extra></extra>",
            selector={"name": ROLES["truth"].name},
        )
    if gold is not None:
        look = ROLES["gold"]
        fig.add_shape(
            type="line", x0=gold, x1=gold, y0=-0.5, y1=0.5, line={"color": look.colour, "width": 2}, layer="below"
        )
        fig.add_trace(
            key_entry(
                f"gold {gold:.2f}",
                marker("gold", size=16) | {"symbol": "line-ns"} | {"line": {"width": 2, "color": look.colour}},
            )
        )
    values = [value for s in series for value in s.values_SR.ravel() if np.isfinite(value)]
    pad = 0.03 * (high - low)
    # A model may answer outside the range; hiding that would be the one thing the picture must not do.
    fig.update_xaxes(title_text=escaped(unit), range=[min(low, *values) - pad, max(high, *values) + pad])
    fig.update_yaxes(tickvals=[])
    said = [f"{ROLES[s.role].name} {spoken(_mean(s)[0])}" for s in series if s.role != "member"]
    said += [f"gold {spoken(gold)}"] if gold is not None else []
    return _finished(fig, 1, f"{unit} of one example: {'; '.join(said)}.", title)


def _names(role: Role, n: int, member_names: Sequence[str] | None) -> list[str]:
    if role == "member":
        if member_names is not None and len(member_names) != n:
            raise ValueError(f"member_names are {len(member_names)}, expected {n}, one a member")
        return [escaped(name) for name in member_names] if member_names else [f"member {i + 1}" for i in range(n)]
    return [f"{ROLES[role].name}, seed {i}" for i in range(n)] if n > 1 else [ROLES[role].name]


def _mean(series: _Series) -> FloatArray:
    """(R,) over seeds; one nan seed makes the mean nan, which shows as a missing mark."""
    return np.asarray(series.values_SR.mean(axis=0))


def _add_series(fig: go.Figure, series: list[_Series], row_names: list[str], members_are: str, *, hover: str) -> None:
    by_role = {s.role: s for s in series}
    if {"teacher", "student"} <= by_role.keys():
        fig.add_trace(_guides(_mean(by_role["teacher"]), _mean(by_role["student"])))
    n_rows = len(row_names)
    for role, values_SR, names in series:
        y_R = np.arange(n_rows, dtype=np.float64) + LANES[role]
        if role == "member":
            members = _marks(role, values_SR, y_R, row_names, names, hover, bold=True)
            fig.add_trace(members.update(name=members_are))
            continue
        if len(values_SR) > 1:
            fig.add_trace(_marks(role, values_SR, y_R, row_names, names, hover, bold=False))
        mean_1R = np.asarray(values_SR.mean(axis=0, keepdims=True))
        name = f"{ROLES[role].name}, mean of {len(values_SR)}" if len(values_SR) > 1 else ROLES[role].name
        fig.add_trace(_marks(role, mean_1R, y_R, row_names, [name], hover, bold=True))


def _marks(
    role: Role, values_SR: FloatArray, y_R: FloatArray, rows: list[str], names: list[str], hover: str, *, bold: bool
) -> go.Scatter:
    n_seeds = len(values_SR)
    look = ROLES[role]
    shown: dict[str, Any] = marker(role, size=30 if role == "teacher" else None)
    if not bold:
        shown = marker(role, size=look.size * 0.6, opacity=0.6)
    return go.Scatter(
        x=values_SR.ravel().astype(np.float32),
        y=np.tile(y_R, n_seeds).astype(np.float32),
        text=[f"{name} · {row}" for name in names for row in rows],
        mode="markers",
        marker=shown,
        name=look.name,
        legendgroup=role,
        showlegend=bold,
        hovertemplate="%{text} " + hover + "<extra></extra>",
        cliponaxis=False,
    )


def _guides(teacher_R: FloatArray, student_R: FloatArray) -> go.Scatter:
    """Dotted, from the teachers' mean to the student's, at the student's height."""
    y_R = np.arange(len(teacher_R)) + LANES["student"]
    gap_R = np.full(len(teacher_R), np.nan)
    return go.Scatter(
        x=np.column_stack([teacher_R, student_R, gap_R]).ravel().astype(np.float32),
        y=np.column_stack([y_R, y_R, gap_R]).ravel().astype(np.float32),
        mode="lines",
        line={"dash": "dot", "width": 1.5, "color": ROLES["student"].colour},
        hoverinfo="skip",
        showlegend=False,
        name="teacher to student",
    )


def _end(number: str, label: str, is_gold: bool) -> str:
    text = escaped(label, 16)
    if is_gold:
        text = f'<b><span style="color:{ROLES["gold"].colour}">✓ {text}</span></b>'
    return f"{number}<br>{text}"


def _band(fig: go.Figure, row: int) -> None:
    fig.add_shape(
        type="rect",
        x0=0,
        x1=1,
        xref="paper",
        y0=row - 0.5,
        y1=row + 0.5,
        line={"width": 0},
        fillcolor=ROLES["gold"].colour,
        opacity=0.09,
        layer="below",
    )


def _finished(fig: go.Figure, n_rows: int, alt: str, title: str) -> go.Figure:
    for row in range(1, n_rows):  # between the rows
        fig.add_shape(
            type="line", x0=0, x1=1, xref="paper", y0=row - 0.5, y1=row - 0.5, line={"color": FAINT, "width": 1}
        )
    fig.update_yaxes(range=[n_rows - 0.5, -0.5])
    return finish(fig, alt=alt, height=118 + ROW_PX * n_rows + 30 * bool(title), title=title)
