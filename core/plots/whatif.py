"""What would the loss say about one example at another alpha and temperature?

It is what the loss weighs at this checkpoint, not what a retrained student would answer. The paper's point is alpha =
0.5, temperature 1, and the card begins there.

The card's sliders run in the browser (plotly frames), so it works in a notebook and costs the app no rerun. Frames hold
the lengths and the title alone: 21 alphas x 19 temperatures of whole traces would be three times as large.

Shapes: A alphas, K temperatures, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from core.plots.arrays import FloatArray, floats
from core.plots.style import (
    FAINT,
    PAPER_ALPHA,
    PAPER_TEMPERATURE,
    ROLES,
    Role,
    escaped,
    finish,
    label_rows,
    marker,
    spoken,
)

SLIDER_PX = 76


def what_if_card(
    labels: Sequence[str],
    *,
    alphas_A: npt.ArrayLike,
    temperatures_K: npt.ArrayLike,
    teacher_KC: npt.ArrayLike,
    student_KC: npt.ArrayLike,
    hard: float,
    soft_K: npt.ArrayLike,
    gold_index: int,
) -> go.Figure:
    """One example: what the student would be taught at every (alpha, temperature), against what it says.

    `teacher_KC` and `student_KC` are the distributions at each temperature; `hard` is the cross-entropy with gold and
    `soft_K` the teachers' term, T^2 included, both unweighted and in nats (core/views: `loss_grid`). Drawn are the
    target (1 - alpha) e_gold + alpha p^T and, in the title, the loss (1 - alpha) hard + alpha soft. A slider each for
    alpha and temperature. Raises `ValueError` for shapes that do not fit or a gold index outside the labels.
    """
    alphas, temperatures = floats("alphas", alphas_A), floats("temperatures", temperatures_K)
    teacher, student = floats("teacher", teacher_KC, ndim=2), floats("student", student_KC, ndim=2)
    soft = floats("soft", soft_K)
    shape = (len(temperatures), len(labels))
    if teacher.shape != shape or student.shape != shape or soft.shape != shape[:1]:
        raise ValueError(
            f"teacher, student and soft have shapes {teacher.shape}, {student.shape}, {soft.shape}, expected {shape}, "
            f"{shape} and {shape[:1]}: one row a temperature"
        )
    if not 0 <= gold_index < len(labels):
        raise ValueError(f"gold_index is {gold_index}, expected 0..{len(labels) - 1}")
    is_gold_C = (np.arange(len(labels)) == gold_index).astype(np.float64)

    def lengths(k: int, a: int) -> list[FloatArray]:
        return [(1 - alphas[a]) * is_gold_C + alphas[a] * teacher[k], teacher[k], student[k]]

    def head(k: int, a: int) -> str:
        of_gold, of_teachers = (1 - alphas[a]) * hard, alphas[a] * soft[k]
        paper = "  (the paper's)" if np.isclose(alphas[a], PAPER_ALPHA) and np.isclose(temperatures[k], 1) else ""
        return (
            f"<b>alpha {alphas[a]:.2f}, temperature {temperatures[k]:.3g}{paper}</b><br>"
            f'<span style="font-size:13px;font-weight:normal">loss <b>{of_gold + of_teachers:.3f}</b> = '
            f"gold label {of_gold:.3f} + teachers {of_teachers:.3f} nats</span>"
        )

    k0, a0 = int(np.abs(temperatures - PAPER_TEMPERATURE).argmin()), int(np.abs(alphas - PAPER_ALPHA).argmin())
    fig = go.Figure(_card_traces(labels, *lengths(k0, a0)))
    kinds = (go.Bar, go.Scatter, go.Scatter)
    fig.frames = [
        go.Frame(
            name=f"{k},{a}",
            data=[kind(x=x_C.astype(np.float32)) for kind, x_C in zip(kinds, lengths(k, a), strict=True)],
            traces=[0, 1, 2],
            layout={"title": {"text": head(k, a)}},
        )
        for k in range(len(temperatures))
        for a in range(len(alphas))
    ]
    fig.update_xaxes(title_text="probability", range=[0, 1.02], dtick=0.2)
    fig.update_yaxes(label_rows(labels, gold=gold_index))
    alt = (
        f"What the loss weighs for one example over {len(alphas)} values of alpha and {len(temperatures)} "
        f"temperatures; at alpha {alphas[a0]:.2f}, temperature {temperatures[k0]:.3g} the gold label adds "
        f"{spoken((1 - alphas[a0]) * hard)} and the teachers {spoken(alphas[a0] * soft[k0])} nats."
    )
    several = len(temperatures) > 1
    fig = finish(fig, alt=alt, height=256 + 46 * len(labels) + SLIDER_PX * several, title="alpha", subtitle="loss")
    sliders = [_alpha_slider(alphas, k0, a0)]
    if several:
        changes = [
            {"x": [x_C.round(6).tolist() for x_C in lengths(k, a0)], "title.text": head(k, a0)}
            for k in range(len(temperatures))
        ]
        sliders.append(_temperature_slider(temperatures, alphas, changes, k0, a0))
    fig.update_layout(
        title={"text": head(k0, a0)}, bargap=0.35, sliders=sliders, margin={"b": 122 + SLIDER_PX * several}
    )
    return fig


def _card_traces(
    labels: Sequence[str], target_C: FloatArray, teacher_C: FloatArray, student_C: FloatArray
) -> list[Any]:
    rows = np.arange(len(labels))
    names = [escaped(label) for label in labels]
    look = ROLES["teacher"]
    bars = go.Bar(
        x=target_C.astype(np.float32),
        y=rows,
        orientation="h",
        text=names,
        textposition="none",
        name="target: what the student is taught",
        marker={"color": look.colour, "opacity": 0.35, "line": {"width": 1.5, "color": look.colour}},
        hovertemplate="target · %{text} <b>%{x:.3f}</b><extra></extra>",
    )
    given: list[tuple[Role, FloatArray, str, int]] = [
        ("teacher", teacher_C, "teachers' mean", 28),
        ("student", student_C, "student, KD", 12),
    ]
    marks = [
        go.Scatter(
            x=probs_C.astype(np.float32),
            y=rows,
            text=names,
            mode="markers",
            name=name,
            marker=marker(role, size=size),
            hovertemplate=f"{name} · %{{text}} <b>%{{x:.3f}}</b><extra></extra>",
            cliponaxis=False,
        )
        for role, probs_C, name, size in given
    ]
    return [bars, *marks]


def _slider(name: str, steps: list[dict[str, Any]], active: int, top: int) -> dict[str, Any]:
    return {
        "active": active,
        "currentvalue": {"prefix": f"{name} ", "xanchor": "left", "font": {"size": 13}},
        "pad": {"t": top, "b": 4, "l": 4, "r": 4},
        "x": 0,
        "len": 1,
        "bordercolor": FAINT,
        "tickcolor": FAINT,
        "activebgcolor": ROLES["student"].colour,
        "bgcolor": "rgba(128,128,128,0.35)",
        "minorticklen": 0,
        "steps": steps,
    }


def _alpha_steps(alphas_A: FloatArray, k: int) -> list[dict[str, Any]]:
    at_once = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    return [
        {"label": f"{alpha:.3g}", "method": "animate", "args": [[f"{k},{a}"], at_once]}
        for a, alpha in enumerate(alphas_A)
    ]


def _alpha_slider(alphas_A: FloatArray, k: int, active: int) -> dict[str, Any]:
    return _slider("alpha (weight of the teachers)", _alpha_steps(alphas_A, k), active, 52)


def _temperature_slider(
    temperatures_K: FloatArray, alphas_A: FloatArray, changes: list[dict[str, Any]], active: int, alpha: int
) -> dict[str, Any]:
    """A slider's steps name fixed frames, so a new temperature gives the alpha slider new steps, and starts it where
    the card began."""
    steps = [
        {
            "label": f"{temperature:.3g}",
            "method": "update",
            "args": [
                {"x": change["x"]},
                {
                    "title.text": change["title.text"],
                    "sliders[0].steps": _alpha_steps(alphas_A, k),
                    "sliders[0].active": alpha,
                },
            ],
        }
        for k, (temperature, change) in enumerate(zip(temperatures_K, changes, strict=True))
    ]
    return _slider("temperature", steps, active, 52 + SLIDER_PX)
