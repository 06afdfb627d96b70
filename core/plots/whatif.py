"""What would the loss say about one example at another alpha and temperature?

It is what the loss weighs at this checkpoint, not what a retrained student would answer. The paper's point is alpha =
0.5, temperature 1, and the card begins there.

The card's slider and buttons run in the browser (plotly frames), so they work in a notebook and cost the app no rerun.

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
    INK,
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


def what_if_card(
    labels: Sequence[str],
    *,
    alphas_A: npt.ArrayLike,
    temperatures_K: npt.ArrayLike,
    target_KAC: npt.ArrayLike,
    teacher_KC: npt.ArrayLike,
    student_KC: npt.ArrayLike,
    hard_term_KA: npt.ArrayLike,
    soft_term_KA: npt.ArrayLike,
    gold_index: int | None = None,
) -> go.Figure:
    """One example: what the student would be taught at every (alpha, temperature), against what it says.

    `target_KAC` is (1 - alpha) e_gold + alpha p^T, `teacher_KC` and `student_KC` are the tempered distributions, the
    terms are the weighted parts of the loss in nats. A slider chooses alpha, buttons the temperature; each frame's
    title has the terms. Raises `ValueError` for shapes that do not fit.
    """
    alphas, temperatures = floats("alphas", alphas_A), floats("temperatures", temperatures_K)
    n_k, n_a, n_c = len(temperatures), len(alphas), len(labels)
    target = floats("target", target_KAC, ndim=3)
    teacher, student = floats("teacher", teacher_KC, ndim=2), floats("student", student_KC, ndim=2)
    hard, soft = floats("hard term", hard_term_KA, ndim=2), floats("soft term", soft_term_KA, ndim=2)
    shapes = (target.shape, teacher.shape, student.shape, hard.shape, soft.shape)
    expected = ((n_k, n_a, n_c), (n_k, n_c), (n_k, n_c), (n_k, n_a), (n_k, n_a))
    if shapes != expected:
        raise ValueError(f"target, teacher, student, hard, soft have shapes {shapes}, expected {expected}")

    start_k, start_a = (
        int(np.abs(temperatures - PAPER_TEMPERATURE).argmin()),
        int(np.abs(alphas - PAPER_ALPHA).argmin()),
    )

    def traces(k: int, a: int) -> list[go.Bar | go.Scatter]:
        return _card_traces(labels, target[k, a], teacher[k], student[k])

    def head(k: int, a: int) -> str:
        paper = "  (the paper's)" if np.isclose(alphas[a], PAPER_ALPHA) and np.isclose(temperatures[k], 1) else ""
        terms = f"gold label {hard[k, a]:.3f} + teachers {soft[k, a]:.3f} nats"
        return (
            f"<b>alpha {alphas[a]:.2f}, temperature {temperatures[k]:g}{paper}</b><br>"
            '<span style="font-size:13px;font-weight:normal">loss '
            f"<b>{hard[k, a] + soft[k, a]:.3f}</b> = {terms}</span>"
        )

    fig = go.Figure(traces(start_k, start_a))
    fig.frames = [
        go.Frame(name=f"{k},{a}", data=traces(k, a), layout={"title": {"text": head(k, a)}})
        for k in range(n_k)
        for a in range(n_a)
    ]
    fig.update_xaxes(title_text="probability", range=[0, 1.02], dtick=0.2)
    fig.update_yaxes(label_rows(labels, gold=gold_index))
    alt = (
        f"What the loss weighs for one example over {n_a} values of alpha and {n_k} temperatures; at alpha "
        f"{alphas[start_a]:.2f}, temperature {temperatures[start_k]:g} the gold label adds "
        f"{spoken(hard[start_k, start_a])} and the teachers {spoken(soft[start_k, start_a])} nats."
    )
    height = 250 + 46 * n_c + 44 * (n_k > 1)
    fig = finish(fig, alt=alt, height=height, title="alpha", subtitle="loss")
    fig.update_layout(title={"text": head(start_k, start_a)}, bargap=0.35, sliders=[_slider(alphas, start_k, start_a)])
    bottom = 118
    if n_k > 1:
        bottom += 44
        fig.update_layout(updatemenus=[_temperature_buttons(fig, alphas, temperatures, start_k, start_a)])
    fig.update_layout(margin={"b": bottom})
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


def _slider(alphas_A: FloatArray, k: int, active: int) -> dict[str, Any]:
    at_once = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    return {
        "active": active,
        "currentvalue": {"prefix": "alpha (weight of the teachers) ", "xanchor": "left", "font": {"size": 13}},
        "pad": {"t": 52, "b": 4, "l": 4, "r": 4},
        "x": 0,
        "len": 1,
        "bordercolor": FAINT,
        "tickcolor": FAINT,
        "activebgcolor": ROLES["student"].colour,
        "bgcolor": "rgba(128,128,128,0.35)",
        "minorticklen": 0,
        "steps": [
            {"label": f"{alpha:.2f}".rstrip("0").rstrip("."), "method": "animate", "args": [[f"{k},{a}"], at_once]}
            for a, alpha in enumerate(alphas_A)
        ],
    }


def _temperature_buttons(
    fig: go.Figure, alphas_A: FloatArray, temperatures_K: FloatArray, start_k: int, start_a: int
) -> dict[str, Any]:
    """A slider's steps name fixed frames, so a temperature brings its own slider, which starts at the first alpha."""
    frames = {frame.name: frame for frame in fig.frames}
    buttons = []
    for k, temperature in enumerate(temperatures_K):
        frame = frames[f"{k},{start_a}"]
        xs = [np.asarray(trace.x).tolist() for trace in frame.data]
        layout = {"title.text": frame.layout.title.text, "sliders": [_slider(alphas_A, k, start_a)]}
        buttons.append({"label": f"T = {temperature:g}", "method": "update", "args": [{"x": xs}, layout]})
    return {
        "type": "buttons",
        "direction": "right",
        "active": start_k,
        "buttons": buttons,
        "x": 0,
        "xanchor": "left",
        "y": 0,
        "yanchor": "top",
        "pad": {"t": 152, "l": 4},
        "showactive": True,
        "bgcolor": "rgba(128,128,128,0.15)",
        "bordercolor": FAINT,
        "font": {"size": 12, "color": INK},  # plotly's chosen button is always nearly white
    }
