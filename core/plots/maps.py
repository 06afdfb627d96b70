"""Where the student drifted from its teachers: arrows in the triangle of three classes, dumbbells for two.

Up to MAX_ARROWS examples are drawn one by one; beyond that each cell of a hexagonal grid shows the mean drift of its
examples. Cells are numbered by `hex_cells_N`, so that a click can become a filter; the same number never means another
cell, because it hangs on the position alone.

Shapes: N examples; three classes, or the probability of the second of two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from core.plots.arrays import FloatArray, Int32Array, broken_lines, floats, row_ids, same_length
from core.plots.style import FAINT, INK, ROLES, Role, escaped, finish, marker, spoken

MAX_ARROWS = 300
HEX_ACROSS = 12
_STRIDE = 1000
LOGIT_LIMIT = 7.0  # 0.1 % and 99.9 %: beyond it a dumbbell's end stands at the edge


def simplex_map(
    teacher_N3: npt.ArrayLike,
    student_N3: npt.ArrayLike,
    labels: Sequence[str],
    ids: npt.ArrayLike | None = None,
    *,
    title: str = "",
) -> go.Figure:
    """From the teachers' mean (violet) to the student (orange) in the triangle of three labels.

    `customdata` is the row number of `ids`, or beyond 300 examples the cell of `hex_cells_N(teacher_N3)`. Rows with nan
    are left out. Raises `ValueError` unless there are three classes.

    Example: `simplex_map(q_N3, p_N3, ["contradiction", "neutral", "entailment"], rows)`.
    """
    teacher, student = floats("teacher", teacher_N3, ndim=2), floats("student", student_N3, ndim=2)
    if len(labels) != 3 or teacher.shape[1] != 3 or student.shape != teacher.shape:
        raise ValueError(
            f"{len(labels)} labels, teacher {teacher.shape}, student {student.shape}: the triangle is for three; "
            "for two there is dumbbell"
        )
    n = len(teacher)
    ids_N = row_ids(ids, n)
    ok_N = np.isfinite(teacher).all(axis=1) & np.isfinite(student).all(axis=1)
    teacher, student, ids_N = teacher[ok_N], student[ok_N], ids_N[ok_N]
    if not len(teacher):
        raise ValueError("no example has probabilities of both teacher and student: there is nothing to draw")
    shift = float(0.5 * np.abs(teacher - student).sum(axis=1).mean())

    names = [escaped(label, 24) for label in labels]
    at = "<br>".join(f"{name} %{{{axis}:.2f}}" for name, axis in zip(names, "abc", strict=True))
    subtitle, size = f"{len(teacher):,} examples", np.full(len(teacher), 8.0)
    if len(teacher) > MAX_ARROWS:
        cells_N = hex_cells_N(teacher)
        ids_N, inverse_N, count_K = np.unique(cells_N, return_inverse=True, return_counts=True)
        teacher, student = (_means(probs, inverse_N, count_K) for probs in (teacher, student))
        size = 5 + 9 * np.sqrt(count_K / count_K.max())
        subtitle = f"mean drift of {ok_N.sum():,} examples in {len(ids_N)} cells; the larger, the more examples"
        text_K = [f"{count:,} examples" for count in count_K]
    else:
        text_K = ["one example"] * len(teacher)

    fig = go.Figure(
        go.Scatterternary(
            **{axis: broken_lines(teacher[:, i], student[:, i]) for i, axis in enumerate("abc")},
            mode="lines",
            line={"color": ROLES["student"].colour, "width": 1.5},
            opacity=0.55,
            hoverinfo="skip",
            name="drift",
            showlegend=False,
        )
    )
    ends: list[tuple[Role, FloatArray]] = [("teacher", teacher), ("student", student)]
    for role, probs in ends:
        look = ROLES[role]
        fig.add_trace(
            go.Scatterternary(
                **{axis: probs[:, i].astype(np.float32) for i, axis in enumerate("abc")},
                customdata=ids_N.astype(np.int32),
                text=text_K,
                mode="markers",
                # A tick has no meaning in a triangle: the teachers' mean is a ring here, in the teachers' violet.
                marker={
                    "symbol": "circle-open" if role == "teacher" else "diamond",
                    "size": (size if role == "teacher" else 0.75 * size).astype(np.float32),
                    "color": look.colour,
                    "opacity": 0.85,
                    "line": {"width": 2 if role == "teacher" else 0, "color": look.colour},
                },
                name=look.name,
                hovertemplate=f"<b>{look.name}</b>, %{{text}}<br>{at}<extra></extra>",
                cliponaxis=False,
            )
        )
    fig.update_layout(
        ternary={
            "sum": 1,
            **{
                f"{axis}axis": {
                    "title": {"text": f"<b>{name}</b>"},
                    "tickvals": [0.25, 0.5, 0.75],
                    "min": 0,
                    "gridcolor": FAINT,
                    "linecolor": FAINT,
                }
                for name, axis in zip(names, "abc", strict=True)
            },
        }
    )
    alt = (
        f"Drift from the teachers' mean to the student over {', '.join(labels)} for {ok_N.sum():,} examples; "
        f"on average {spoken(shift)} of the probability moves."
    )
    fig = finish(fig, alt=alt, height=560, title=title, subtitle=subtitle)
    fig.update_layout(margin={"b": 46, "l": 60, "r": 60})  # for the names of the corners
    return fig


def hex_cells_N(probs_N3: npt.ArrayLike, *, n_across: int = HEX_ACROSS) -> Int32Array:
    """(N,) the hexagon of each point of the triangle, `n_across` along its base. nan rows get -1.

    A hexagonal grid is two rectangular ones, the second moved by half a cell: the nearer centre wins.
    """
    probs = floats("probs", probs_N3, ndim=2)
    ok_N = np.isfinite(probs).all(axis=1)
    x_N = np.where(ok_N, probs[:, 2] + probs[:, 0] / 2, 0.0) * n_across
    y_N = np.where(ok_N, probs[:, 0], 0.0) * np.sqrt(0.75) * n_across
    tall = np.sqrt(3.0)
    even_N = np.stack([np.round(x_N), np.round(y_N / tall)])
    odd_N = np.stack([np.floor(x_N), np.floor(y_N / tall)])
    to_even_N = (x_N - even_N[0]) ** 2 + (y_N - even_N[1] * tall) ** 2
    to_odd_N = (x_N - odd_N[0] - 0.5) ** 2 + (y_N - (odd_N[1] + 0.5) * tall) ** 2
    doubled_N = np.where(to_odd_N < to_even_N, 2 * odd_N + 1, 2 * even_N).astype(np.int64)
    # From the left edge the odd grid reaches to -1.
    return np.where(ok_N, (doubled_N[1] + 1) * _STRIDE + doubled_N[0] + 1, -1).astype(np.int32)


def _means(values_NC: FloatArray, inverse_N: npt.NDArray[np.intp], count_K: npt.NDArray[np.intp]) -> FloatArray:
    sums = [np.bincount(inverse_N, weights=column, minlength=len(count_K)) for column in values_NC.T]
    return np.stack(sums, axis=1) / count_K[:, None]


def dumbbell(
    teacher_N: npt.ArrayLike,
    student_N: npt.ArrayLike,
    labels: Sequence[str],
    ids: npt.ArrayLike | None = None,
    *,
    title: str = "",
) -> go.Figure:
    """Two classes: P(labels[1]) of the teachers' mean and the student, sorted by the teachers', on a logit axis.

    Beyond 300 examples, 60 stretches of equally many examples show their means, and `customdata` is the stretch's
    number (of 60, by the teachers' probability, ascending); else it is the row number of `ids`.
    """
    teacher, student = floats("teacher", teacher_N), floats("student", student_N)
    if len(labels) != 2:
        raise ValueError(f"labels are {list(labels)}, expected two; for three classes there is simplex_map")
    same_length(teacher=teacher, student=student)
    ids_N = row_ids(ids, len(teacher))
    ok_N = np.isfinite(teacher) & np.isfinite(student)
    order_N = np.flatnonzero(ok_N)[np.argsort(teacher[ok_N], kind="stable")]
    if not len(order_N):
        raise ValueError("no example has a probability of both teacher and student: there is nothing to draw")
    teacher, student, ids_N = teacher[order_N], student[order_N], ids_N[order_N]
    n, drift = len(teacher), float((student - teacher).mean())
    unit, subtitle = "example", f"{n:,} examples"
    if n > MAX_ARROWS:
        starts = np.linspace(0, n, 60, endpoint=False).astype(np.int64)
        sizes = np.diff(np.append(starts, n))
        teacher, student = (np.add.reduceat(values, starts) / sizes for values in (teacher, student))
        ids_N = np.arange(60, dtype=np.int32)
        unit, subtitle = "stretch of examples", f"means of 60 stretches of about {n // 60:,} examples each"

    y_N = np.arange(len(teacher), dtype=np.float64)
    fig = go.Figure(
        go.Scattergl(
            x=broken_lines(_logits(teacher), _logits(student)),
            y=broken_lines(y_N, y_N),
            mode="lines",
            line={"color": INK, "width": 1},
            opacity=0.6,
            hoverinfo="skip",
            showlegend=False,
            name="drift",
        )
    )
    name = escaped(labels[1])
    ends: list[tuple[Role, FloatArray]] = [("teacher", teacher), ("student", student)]
    for role, p_N in ends:
        look = ROLES[role]
        small = marker(role, size=10 if role == "teacher" else 7)
        fig.add_trace(
            go.Scatter(
                x=_logits(p_N).astype(np.float32),
                y=y_N.astype(np.float32),
                customdata=ids_N,
                text=[f"{p:.3f}" for p in p_N],
                mode="markers",
                marker=small | ({"line": {"width": 2.5, "color": look.colour}} if role == "teacher" else {}),
                name=look.name,
                hovertemplate=f"{look.name}: P({name}) = <b>%{{text}}</b><extra></extra>",
            )
        )
    marks = np.array([0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999])
    fig.update_xaxes(
        title_text=f"probability of “{name}” (logit scale)",
        tickvals=np.log(marks / (1 - marks)),
        ticktext=[f"{mark:g}" for mark in marks],
    )
    fig.update_yaxes(title_text=f"{unit}, by the teachers' probability", showticklabels=False, showgrid=False)
    fig.add_vline(x=0, line={"color": FAINT, "width": 2})
    alt = (
        f"Probability of {labels[1]} by the teachers' mean and by the student for {n:,} examples; the student is "
        f"{signed_shift(drift)} on average."
    )
    return finish(fig, alt=alt, height=int(np.clip(160 + 9 * len(teacher), 260, 620)), title=title, subtitle=subtitle)


def signed_shift(drift: float) -> str:
    """ "0.03 higher", in words for alt texts."""
    return f"{abs(drift):.2f} {'higher' if drift >= 0 else 'lower'}"


def _logits(probs_N: FloatArray) -> FloatArray:
    inside_N = np.clip(probs_N, 1e-12, 1 - 1e-12)
    return np.clip(np.log(inside_N) - np.log1p(-inside_N), -LOGIT_LIMIT, LOGIT_LIMIT)
