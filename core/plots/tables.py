"""The data before any model sees them: how many rows of which label, how long the texts are.

Shapes: N examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from core.plots.arrays import floats
from core.plots.style import INK, escaped, finish, hatch, label_rows, other

LENGTH_BINS = 60
PATTERNS = ("", "/", "-", "\\", "x", "|", "+", ".")


class LabelCount(NamedTuple):
    """Rows of one label in one split; `label` is "all" for regression tasks, which have no labels."""

    split: str
    label: str
    n: int


def data_counts(rows: Sequence[LabelCount | tuple[str, str, int]], *, title: str = "") -> go.Figure:
    """Label balance of each split as stacked shares; the number of rows stands beside the split's name. Splits and
    labels in order of appearance. `customdata` is the row's number. Raises `ValueError` where there is no row at all.
    """
    counts = [LabelCount(*row) for row in rows]
    if sum(row.n for row in counts) <= 0:
        raise ValueError("the task has no rows: run stage 'prepare' first")
    splits = list(dict.fromkeys(row.split for row in counts))
    labels = list(dict.fromkeys(row.label for row in counts))
    totals = {split: sum(row.n for row in counts if row.split == split) for split in splits}
    fig = go.Figure()
    for i, label in enumerate(labels):
        at = np.array([j for j, row in enumerate(counts) if row.label == label], dtype=np.int32)
        mine = [counts[j] for j in at]
        share = np.array([100 * row.n / max(totals[row.split], 1) for row in mine])
        fig.add_trace(
            go.Bar(
                x=share.astype(np.float32),
                y=np.array([splits.index(row.split) for row in mine]),
                orientation="h",
                customdata=at,
                name=escaped(label, 28),
                text=[f"{s:.0f} %" if s > 7 else "" for s in share],
                textposition="inside",
                insidetextanchor="middle",
                insidetextfont={"color": "#ffffff"},
                textangle=0,
                hovertext=[f"{escaped(row.split)}, {escaped(label)}: {row.n:,} rows" for row in mine],
                hovertemplate="%{hovertext}, <b>%{x:.1f} %</b><extra></extra>",
                marker={
                    "color": other(i)[0],
                    "line": {"width": 0},
                    "pattern": hatch(PATTERNS[i % 8], size=7, solidity=0.08),
                },
            )
        )
    fig.update_layout(barmode="stack", bargap=0.35)
    fig.update_xaxes(title_text="share of rows (%)", range=[0, 100.5])
    names = [f"{split} · {totals[split]:,}" for split in splits]
    fig.update_yaxes(label_rows(names))
    said = "; ".join(f"{split} {totals[split]:,} rows" for split in splits)
    alt = f"Rows and label balance: {said}; labels {', '.join(labels)}."
    return finish(fig, alt=alt, height=112 + 38 * len(splits), title=title, legend=len(labels) > 1)


def lengths_histogram(
    lengths: Mapping[str, npt.ArrayLike], *, max_tokens: int | None = None, title: str = ""
) -> go.Figure:
    """Lengths in tokens of each named set of examples, as shares. Right of the line at `max_tokens` texts are cut; the
    subtitle says how many. Raises `ValueError` for no lengths.
    """
    if not lengths:
        raise ValueError("no lengths were given: there is nothing to draw")
    arrays = {name: floats(f"lengths of {name!r}", values) for name, values in lengths.items()}
    top = int(max(np.nanmax(values) for values in arrays.values()))
    width = max(1, -(-(top + 1) // LENGTH_BINS))  # whole tokens a bin, or some bins would hold more lengths than others
    edges = np.arange(0, top + width + 1, width)
    fig = go.Figure()
    cut = []
    for i, (name, values) in enumerate(arrays.items()):
        finite = values[np.isfinite(values)]
        n_B, _ = np.histogram(finite, bins=edges)
        colour = other(i)[0]
        more: dict[str, Any] = {"fill": "tozeroy", "fillcolor": _faint(colour)} if len(arrays) <= 3 else {}
        fig.add_trace(
            go.Scatter(
                x=edges.astype(np.float32),
                y=np.append(100 * n_B / len(finite), 0).astype(np.float32),
                mode="lines",
                line={"color": colour, "width": 2, "shape": "hv", "dash": ("solid", "dash", "dot", "dashdot")[i % 4]},
                name=escaped(name),
                hovertemplate=f"{escaped(name)}, from %{{x:.0f}} tokens: <b>%{{y:.1f}} %</b><extra></extra>",
                **more,
            )
        )
        if max_tokens is not None:
            cut.append(f"{100 * float((finite > max_tokens).mean()):.1f} % of {name}")
    if max_tokens is not None:
        fig.add_vline(x=max_tokens, line={"color": INK, "width": 2, "dash": "dash"})
    fig.update_xaxes(title_text="length (tokens)", range=[0, max(top, max_tokens or 0) * 1.04])
    fig.update_yaxes(title_text="examples (%)", rangemode="tozero")
    medians = ", ".join(f"{name} {np.nanmedian(values):.0f}" for name, values in arrays.items())
    over = f"longer than {max_tokens} tokens and cut: {', '.join(cut)}" if cut else ""
    alt = f"Lengths in tokens, median {medians}{'; ' + over if over else ''}."
    return finish(fig, alt=alt, height=320, title=title, subtitle=over)


def _faint(colour: str) -> str:
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},0.15)"
