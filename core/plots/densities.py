"""Many examples at once: a density of all of them under a stable sample that can be clicked.

The density counts every row; the points above it are at most MAX_POINTS, chosen by hashed row number, and the subtitle
says how many of how many. `customdata` of a point is its row number; of a square it is the flat index of its cell
(row of cells x n_bins + column), which `cell_ranges` turns back into values, so that the app filters all rows and not
only the drawn ones.

Shapes: N examples, D drawn, B bins a side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from core.plots.arrays import MAX_POINTS, Density, density, drawn_rows, floats, mean_of, row_ids, same_length, span
from core.plots.style import DENSITY, DIVERGING, INK, NEUTRAL, colour_bar, escaped, finish, spoken

N_BINS = 100
ENTROPY_BINS = 60
Range = tuple[float, float]


class Group(NamedTuple):
    """Examples that are marked in a scatter: `is_in_N` (N,) flags."""

    name: str
    is_in_N: npt.NDArray[np.bool_]
    colour: str
    symbol: str


class CellRanges(NamedTuple):
    """What a clicked square stands for: low <= value <= high on both axes."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float


def density_layer(cells: Density, *, show_scale: bool = False) -> go.Heatmap:
    """log10 of the counts as a heatmap that answers no hover; empty cells are the page's background."""
    count_YX = cells.count_YX.astype(np.float32)
    with np.errstate(divide="ignore"):
        z_YX = np.where(count_YX > 0, np.log10(count_YX), np.nan).astype(np.float32)
    top = float(np.nanmax(z_YX)) if (count_YX > 0).any() else 1.0
    decades = np.arange(math.ceil(top) + 1)
    return go.Heatmap(
        z=z_YX,
        x0=cells.x_low + cells.x_step / 2,
        dx=cells.x_step,
        y0=cells.y_low + cells.y_step / 2,
        dy=cells.y_step,
        zmin=0,
        zmax=max(top, 0.3),
        colorscale=DENSITY,
        showscale=show_scale,
        colorbar=colour_bar("examples in a cell", tickvals=decades, ticktext=[f"{10**d:,}" for d in decades]),
        hoverinfo="skip",
        name="density",
    )


def point_layer(
    x_D: npt.NDArray[np.floating],
    y_D: npt.NDArray[np.floating],
    ids_D: npt.NDArray[np.signedinteger],
    *,
    hover: str,
    colour: Any = None,
    size: float | None = None,
    opacity: float | None = None,
    **marker: Any,
) -> go.Scattergl:
    """The clickable points, smaller and fainter the more there are. Selecting some fades the others."""
    if size is None:
        size = float(np.interp(np.log10(max(len(x_D), 1)), [2, 4], [8, 4]))
    if opacity is None:
        opacity = float(np.interp(np.log10(max(len(x_D), 1)), [2, 4], [0.85, 0.35 if colour is None else 0.7]))
    return go.Scattergl(
        x=x_D.astype(np.float32),
        y=y_D.astype(np.float32),
        customdata=ids_D.astype(np.int32),
        mode="markers",
        marker={"size": size, "opacity": opacity, "color": INK if colour is None else colour, **marker},
        unselected={"marker": {"opacity": 0.12}},
        hovertemplate=hover + "<extra></extra>",
        showlegend=False,
        name="examples",
    )


def drawn_text(n_drawn: int, n: int) -> str:
    """ "20,000 of 1,000,000 drawn", or "2,000 examples" where nothing was left out."""
    return f"{n:,} examples" if n_drawn == n else f"{n_drawn:,} of {n:,} drawn; the shading counts all"


def density_scatter(
    x_N: npt.ArrayLike,
    y_N: npt.ArrayLike,
    sample_rows: npt.ArrayLike | None = None,
    *,
    x_name: str,
    y_name: str,
    colour_N: npt.ArrayLike | None = None,
    colour_name: str = "",
    colour_range: Range | None = None,
    groups: Sequence[Group] = (),
    diagonal: bool = False,
    title: str = "",
) -> go.Figure:
    """Any two quantities of all examples. `sample_rows` are the positions that are drawn as points, at most 20,000
    (None: chosen by hash); `customdata` is the position. `colour_N` colours the points, diverging where `colour_range`
    lies around 0. `groups` are marked by colour and symbol instead and drawn on top, with a legend.

    Raises `ValueError` for different lengths, for no finite pair, and for a larger sample.
    Example: `density_scatter(h_teacher_N, h_student_N, x_name="teachers' entropy (nats)", y_name="student's (nats)")`.
    """
    x, y = floats(x_name, x_N), floats(y_name, y_N)
    n = same_length(**{x_name: x, y_name: y})
    rows = _sample(n, sample_rows)
    ok_N = np.isfinite(x) & np.isfinite(y)
    if not ok_N.any():
        raise ValueError(f"no example has both {x_name} and {y_name}: there is nothing to draw")
    x_range, y_range = span(x[ok_N]), span(y[ok_N])
    if diagonal:
        x_range = y_range = (min(x_range[0], y_range[0]), max(x_range[1], y_range[1]))
    rows = rows[ok_N[rows]]
    hover = f"{escaped(x_name)} <b>%{{x:.3f}}</b><br>{escaped(y_name)} <b>%{{y:.3f}}</b>"
    fig = go.Figure(
        density_layer(density(x, y, n_bins=N_BINS, x_range=x_range, y_range=y_range), show_scale=colour_N is None)
    )
    more: dict[str, Any] = {}
    if colour_N is not None:
        colour = floats(colour_name or "colour", colour_N)
        same_length(x=x, colour=colour)
        low, high = colour_range or span(colour, pad=0)
        more = {
            "colour": colour[rows].astype(np.float32),
            "cmin": low,
            "cmax": high,
            "colorscale": DIVERGING if low < 0 < high else "Viridis",
            "colorbar": colour_bar(escaped(colour_name)),
        }
        hover += f"<br>{escaped(colour_name)} <b>%{{marker.color:.2f}}</b>"
    rest = np.ones(len(rows), bool)
    for group in groups:
        rest &= ~np.asarray(group.is_in_N)[rows]
    fig.add_trace(point_layer(x[rows[rest]], y[rows[rest]], rows[rest], hover=hover, **more))
    for group in groups:
        mine = rows[np.asarray(group.is_in_N)[rows]]
        layer = point_layer(
            x[mine], y[mine], mine, hover=f"<b>{escaped(group.name)}</b><br>{hover}", colour=group.colour,
            symbol=group.symbol, opacity=0.9,
        )  # fmt: skip
        fig.add_trace(layer.update(showlegend=True, name=escaped(group.name)))
    if diagonal:
        _diagonal(fig, x_range)
    fig.update_xaxes(title_text=escaped(x_name, 60), range=x_range)
    fig.update_yaxes(title_text=escaped(y_name, 60), range=y_range)
    both = ok_N.sum()
    r = np.corrcoef(x[ok_N], y[ok_N])[0, 1] if both > 1 and np.ptp(x[ok_N]) > 0 < np.ptp(y[ok_N]) else float("nan")
    alt = f"{y_name} against {x_name} for {both:,} examples; correlation {spoken(float(r))}."
    return finish(fig, alt=alt, height=460, title=title, subtitle=drawn_text(len(rows), int(both)), legend=bool(groups))


def entropy_transfer(
    teacher_N: npt.ArrayLike, student_N: npt.ArrayLike, n_classes: int, *, n_bins: int = ENTROPY_BINS, title: str = ""
) -> go.Figure:
    """Entropy of the teachers' mean (x) against the student's (y), in nats, as log counts of n_bins x n_bins cells.

    Every occupied cell is a clickable square: `cell_ranges(customdata, n_classes=...)` says which entropies it holds.
    The corner "teachers unsure, student sure" is the one to look at: confidence that nobody taught.
    Raises `ValueError` for n_classes < 2 and for entropies outside 0..log C.
    """
    teacher, student = floats("teacher entropy", teacher_N), floats("student entropy", student_N)
    n = same_length(teacher=teacher, student=student)
    top = _entropy_top(n_classes)
    if np.nanmax(teacher) > top * 1.001 or np.nanmax(student) > top * 1.001:
        raise ValueError(f"an entropy exceeds log {n_classes} = {top:.3f} nats: expected nats, of {n_classes} classes")
    teacher, student = np.minimum(teacher, top), np.minimum(student, top)
    cells = density(teacher, student, n_bins=n_bins, x_range=(0, top), y_range=(0, top))
    flat = np.flatnonzero(cells.count_YX)
    row, column = np.divmod(flat, n_bins)
    fig = go.Figure(density_layer(cells, show_scale=True))
    counts = cells.count_YX.ravel()[flat]
    fig.add_trace(
        point_layer(
            (column + 0.5) * cells.x_step,
            (row + 0.5) * cells.y_step,
            flat,
            hover="teachers %{x:.2f}, student %{y:.2f} nats<br><b>%{marker.color:,}</b> examples",
            colour=counts.astype(np.int32),
            size=7,
            opacity=0.01,
            symbol="square",
        )
    )
    _diagonal(fig, (0, top))
    # Names stand in strips beside the data, since in the corners themselves they would cover it.
    strip = 0.09 * top
    for x, anchor, y, text in (
        (0, "left", top + strip / 2, "student unsure, teachers sure"),
        (top, "right", top + strip / 2, "both unsure"),
        (0, "left", -strip / 2, "both sure"),
        (top, "right", -strip / 2, "<b>student sure, teachers unsure</b>"),
    ):
        fig.add_annotation(x=x, y=y, text=text, xanchor=anchor, showarrow=False, font={"size": 11})
    fig.update_xaxes(title_text="entropy of the teachers' mean (nats)", range=[-0.01 * top, 1.01 * top])
    fig.update_yaxes(title_text="entropy of the student (nats)", range=[-strip, top + strip])
    gap = mean_of(student - teacher)
    risk = float(np.mean((teacher > 2 * top / 3) & (student < top / 3)))
    alt = (
        f"Entropy of the student against the teachers' for {n:,} examples; the student's is {spoken(abs(gap))} nats "
        f"{'higher' if gap > 0 else 'lower'} on average, and it is sure where they are unsure on {100 * risk:.1f} %."
    )
    return finish(fig, alt=alt, height=480, title=title, legend=False)


def cell_ranges(flat: int, *, n_classes: int, n_bins: int = ENTROPY_BINS) -> CellRanges:
    """The entropies of a clicked square of `entropy_transfer`."""
    if not 0 <= flat < n_bins * n_bins:
        raise ValueError(f"cell {flat} is not one of {n_bins} x {n_bins}")
    step = _entropy_top(n_classes) / n_bins
    row, column = divmod(flat, n_bins)
    return CellRanges(column * step, (column + 1) * step, row * step, (row + 1) * step)


def data_map(
    confidence_N: npt.ArrayLike,
    variability_N: npt.ArrayLike,
    correctness_N: npt.ArrayLike,
    ids: npt.ArrayLike | None = None,
    *,
    title: str = "",
) -> go.Figure:
    """Swayamdipta et al. 2020: mean probability of gold over epochs (y), its standard deviation (x), share of epochs
    that were right (colour). Density of all, a sample of clickable points; `customdata` is the row number of `ids`.
    """
    confidence = floats("confidence", confidence_N)
    variability, correctness = floats("variability", variability_N), floats("correctness", correctness_N)
    n = same_length(confidence=confidence, variability=variability, correctness=correctness)
    ids_N = row_ids(ids, n)
    ok_N = np.isfinite(confidence) & np.isfinite(variability)
    rows = drawn_rows(ids_N)
    rows = rows[ok_N[rows]]
    right = max(0.5, float(np.nanmax(variability)))
    fig = go.Figure(density_layer(density(variability, confidence, n_bins=N_BINS, x_range=(0, right), y_range=(0, 1))))
    fig.add_trace(
        point_layer(
            variability[rows],
            confidence[rows],
            ids_N[rows],
            hover="confidence <b>%{y:.2f}</b>, variability <b>%{x:.2f}</b><br>"
            "right in <b>%{marker.color:.0%}</b> of epochs",
            colour=correctness[rows].astype(np.float32),
            cmin=0,
            cmax=1,
            colorscale=DIVERGING,
            colorbar=colour_bar("share of epochs with the right answer", tickformat=".0%", dtick=0.25),
        )
    )
    for x, y, anchor, text in (
        (0, 1.06, "left", "easy to learn"),
        (0, -0.06, "left", "hard to learn"),
        (right, 1.06, "right", "ambiguous: to the right"),
    ):
        fig.add_annotation(x=x, y=y, text=text, xanchor=anchor, showarrow=False, font={"size": 11})
    fig.update_xaxes(title_text="variability (standard deviation over epochs)", range=[-0.01 * right, 1.02 * right])
    fig.update_yaxes(title_text="confidence (mean probability of gold)", range=[-0.12, 1.12], dtick=0.2)
    alt = (
        f"Data map of {ok_N.sum():,} examples: mean confidence {spoken(mean_of(confidence))}, mean variability "
        f"{spoken(mean_of(variability))}, right in {spoken(100 * mean_of(correctness), 0)} % of epochs."
    )
    return finish(fig, alt=alt, height=480, title=title, subtitle=drawn_text(len(rows), int(ok_N.sum())), legend=False)


def _entropy_top(n_classes: int) -> float:
    if n_classes < 2:
        raise ValueError(f"n_classes is {n_classes}, expected at least 2: the entropy of one class is always 0")
    return math.log(n_classes)


def _sample(n: int, sample_rows: npt.ArrayLike | None) -> npt.NDArray[np.int64]:
    if sample_rows is None:
        return drawn_rows(np.arange(n, dtype=np.int32))
    rows = np.asarray(sample_rows)
    limit = MAX_POINTS
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or len(rows) > limit:
        raise ValueError(f"sample_rows are {rows.dtype} of shape {rows.shape}, expected at most {limit:,} positions")
    if len(rows) and (rows.min() < 0 or rows.max() >= n):
        raise ValueError(f"sample_rows lie in {rows.min()}..{rows.max()}, expected 0..{n - 1}")
    return rows.astype(np.int64)


def _diagonal(fig: go.Figure, value_range: Range) -> None:
    low, high = value_range
    fig.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line={"color": NEUTRAL, "width": 1, "dash": "dash"})
