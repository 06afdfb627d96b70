"""Small matrices with numbers in their cells: where the teachers' probability goes, who agrees with whom; and the one
number behind the first, whether a student learned the teachers' second choice.

Heatmaps send no clicks in Streamlit, so each carries near-transparent squares whose `customdata` is the flat index
row * columns + column.

Shapes: C classes, M models, N examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from core.plots.arrays import FloatArray, density, floats, same_length
from core.plots.densities import density_layer
from core.plots.style import (
    NEUTRAL,
    ROLES,
    SEQUENTIAL,
    Role,
    colour_bar,
    escaped,
    finish,
    label_axis,
    label_rows,
    spoken,
    squares,
)

NUMBERS_UP_TO = 14  # rows; beyond it numbers would touch
RUNNER_UP_BINS = 50
# r from the left number on is called so.
WORDS_OF_R = ((0.8, "very strong"), (0.6, "strong"), (0.3, "moderate"), (0.1, "weak"), (-2.0, "none"))


def class_mass_map(
    matrix_CC: npt.ArrayLike, labels: Sequence[str], n_C: npt.ArrayLike, *, title: str = ""
) -> go.Figure:
    """Mean probability that the teachers give to each class (column) where gold is the row's: off the diagonal stands
    what no label says. `n_C` is how many examples each row rests on; a row without any stays empty.
    """
    matrix, n = floats("matrix", matrix_CC, ndim=2), np.asarray(n_C)
    if matrix.shape != (len(labels), len(labels)) or n.shape != (len(labels),):
        raise ValueError(f"matrix has shape {matrix.shape}, n_C {n.shape}, expected {len(labels)} classes in both")
    matrix = np.where(n[:, None] > 0, matrix, np.nan)
    off = np.where(np.eye(len(labels), dtype=bool), -np.inf, np.nan_to_num(matrix, nan=-np.inf))
    i, j = divmod(int(off.argmax()), len(labels))
    fig = go.Figure()
    rows = [f"{label} ({count:,})" for label, count in zip(labels, n, strict=True)]
    _add_matrix(fig, matrix, rows, labels, hover="gold {row}<br>teachers' mean for {column}: <b>{value}</b>", top=1.0)
    fig.update_xaxes(title_text="class")
    fig.update_yaxes(title_text="gold label (examples)")
    alt = (
        "Where the teachers' probability goes, by gold label: the largest share off gold is "
        f"{spoken(matrix[i, j])}, from {labels[i]} to {labels[j]}."
    )
    return _matrix_finish(fig, len(labels), alt, title, "mean probability")


def agreement_matrix(matrix_MM: npt.ArrayLike, names: Sequence[str], *, title: str = "") -> go.Figure:
    """Share of examples on which two models (or a model and gold) give the same answer. Symmetric, 1 on the diagonal;
    the colours begin at the smallest value, because agreement is never near 0.
    """
    matrix = floats("matrix", matrix_MM, ndim=2)
    if matrix.shape != (len(names), len(names)) or len(names) < 2:
        raise ValueError(f"matrix has shape {matrix.shape}, expected a square for {len(names)} names, at least two")
    fig = go.Figure()
    bottom = float(np.nanmin(matrix))
    hover = "{row} and {column} give the same answer on <b>{value} %</b>"
    _add_matrix(fig, 100 * matrix, names, names, hover=hover, bottom=100 * bottom, top=100.0, digits=0)
    off = np.where(np.eye(len(names), dtype=bool), np.nan, matrix)
    mean = float(np.nanmean(off)) if np.isfinite(off).any() else float("nan")
    fig.update_xaxes(title_text="model")
    fig.update_yaxes(title_text="model")
    top = float(np.nanmax(off)) if np.isfinite(off).any() else float("nan")
    alt = f"Agreement between {', '.join(names)}: {spoken(bottom)} to {spoken(top)}, mean {spoken(mean)}."
    return _matrix_finish(fig, len(names), alt, title, "same answer (% of examples)")


def runner_up_transfer(
    teacher_N: npt.ArrayLike,
    student_N: npt.ArrayLike,
    r: float,
    *,
    hard_N: npt.ArrayLike | None = None,
    hard_r: float = float("nan"),
    n_classes: int = 3,
    title: str = "",
) -> go.Figure:
    """P(the teachers' runner-up | not gold) by the teachers (x) against the same class's by the student (y), KD beside
    no KD: on the diagonal a student knows what no label told it. `r` is the correlation, computed by the caller.

    Raises `ValueError` for two classes, where only one class is not gold and the probability is always 1.
    """
    if n_classes < 3:
        raise ValueError(
            "two classes leave one that is not gold: there is no runner-up to learn, and nothing to permute"
        )
    teacher = floats("teacher", teacher_N)
    panels: list[tuple[Role, FloatArray, float]] = [("student", floats("student", student_N), r)]
    if hard_N is not None:
        panels.append(("hard", floats("hard", hard_N), hard_r))
    for role, values, _ in panels:
        same_length(**{"teacher": teacher, role: values})
    fig = make_subplots(rows=1, cols=len(panels), shared_yaxes=True, horizontal_spacing=0.05)
    said = []
    x_low = max(0.0, 1 / (n_classes - 1) - 0.02)
    for column, (role, values, correlation) in enumerate(panels, 1):
        cells = density(teacher, values, n_bins=RUNNER_UP_BINS, x_range=(x_low, 1.0), y_range=(0.0, 1.0))
        fig.add_trace(density_layer(cells, show_scale=column == len(panels)), row=1, col=column)
        fig.add_shape(
            type="line",
            x0=x_low,
            y0=x_low,
            x1=1,
            y1=1,
            line={"color": NEUTRAL, "width": 1.5, "dash": "dash"},
            row=1,
            col=column,
        )
        look = ROLES[role]
        found = f"r = {spoken(correlation)}: {in_words(correlation)}"
        fig.update_xaxes(
            title_text=f'teachers\' mean<br><b><span style="color:{look.colour}">{look.name}<br>{found}</span></b>',
            range=[x_low, 1],
            dtick=0.25,
            row=1,
            col=column,
        )
        said.append(f"{look.name} {found}")
    fig.update_yaxes(range=[-0.02, 1.02], dtick=0.25)
    fig.update_yaxes(title_text="student", row=1, col=1)
    n = int(np.isfinite(teacher).sum())
    alt = f"Probability of the teachers' runner-up given not gold, {n:,} examples: {'; '.join(said)}."
    subtitle = f"P(teachers' runner-up | not gold), {n:,} examples"
    return finish(fig, alt=alt, height=420, title=title, subtitle=subtitle, legend=False)


def in_words(r: float) -> str:
    """How strong a correlation is: "strong", "weak", "none" ...; a negative one is "against", nan has "no value"."""
    if not np.isfinite(r):
        return "no value"
    word = next(word for least, word in WORDS_OF_R if abs(r) >= least)
    return f"{word}, against" if r <= -0.1 else word


def _add_matrix(
    fig: go.Figure,
    matrix: FloatArray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    hover: str,
    top: float,
    bottom: float = 0.0,
    digits: int = 2,
) -> None:
    n_rows, n_columns = matrix.shape
    fig.add_trace(
        go.Heatmap(
            z=matrix.astype(np.float32),
            zmin=bottom,
            zmax=top if top > bottom else bottom + 1,
            colorscale=SEQUENTIAL,
            texttemplate=f"%{{z:.{digits}f}}" if n_rows <= NUMBERS_UP_TO else None,
            textfont={"size": 13},
            hoverinfo="skip",
            hoverongaps=False,
            xgap=2,
            ygap=2,
            name="",
        )
    )
    row, column = np.divmod(np.arange(n_rows * n_columns), n_columns)
    text = [
        hover.format(row=escaped(rows[i]), column=escaped(columns[j]), value=spoken(matrix[i, j], digits + 1))
        for i, j in zip(row, column, strict=True)
    ]
    fig.add_trace(squares(column, row, np.arange(len(row)), hover="%{text}<extra></extra>", text=text, size=30))
    fig.update_xaxes(label_axis(columns, max_chars=18) | {"range": [-0.5, n_columns - 0.5]})
    fig.update_yaxes(label_rows(rows))


def _matrix_finish(fig: go.Figure, n_rows: int, alt: str, title: str, unit: str) -> go.Figure:
    fig.update_traces(colorbar=colour_bar(unit), selector={"type": "heatmap"})
    # Anywhere in a cell the square in its middle answers; it alone would answer in its middle only.
    fig.update_layout(hoverdistance=-1)
    height = int(np.clip(110 + 46 * n_rows, 240, 640)) + 30 * bool(title)
    return finish(fig, alt=alt, height=height, title=title, legend=False)
