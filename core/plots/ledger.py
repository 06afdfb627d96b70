"""Who taught whom: every example by who was right, with and without distillation, and what is left as net gain.

The names are this project's: *taught* means that the teachers were right, the student without distillation wrong and
the distilled one right. Whether a flip is teaching or the luck of one seed only several seeds can say; the caller
counts flips that are stable over seeds, or gives one row a seed.

Shapes: R rows of the figure, K cohorts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from core.plots.arrays import FloatArray
from core.plots.style import GAIN, INK, LOSS, error_bars, escaped, finish, hatch, label_rows, signed


class Cohort(NamedTuple):
    """What became of an example: who was right, and how the segment is drawn."""

    name: str
    teacher: bool
    hard: bool
    student: bool
    colour: str
    pattern: str


# The order of the stack, of `counts` and of `customdata`. Losses and misses are hatched, so that colour is not all.
COHORTS = (
    Cohort("taught", True, False, True, "#8250f0", ""),
    Cohort("kept", True, True, True, "#7fa58c", ""),
    Cohort("missed", True, False, False, "#9d7ff5", "/"),
    Cohort("mis-taught", False, True, False, LOSS, "x"),
    Cohort("resisted", False, True, True, "#2f80ed", ""),
    Cohort("surpassed", False, False, True, "#e8710a", ""),
    Cohort("lost", True, True, False, "#d6336c", "\\"),
    Cohort("hopeless", False, False, False, "#868e96", "."),
)
NET_SIGN = {"taught": 1, "surpassed": 1, "mis-taught": -1, "lost": -1}


class LedgerRow(NamedTuple):
    """One student seed, or the flips stable over seeds: examples of each cohort, by name or in the order of COHORTS,
    and the interval of the net gain as shares of all examples, -1..1."""

    name: str
    counts: Mapping[str, int] | Sequence[int]
    low: float = float("nan")
    high: float = float("nan")


def flip_ledger(rows: Sequence[LedgerRow | tuple[Any, ...]], *, title: str = "") -> go.Figure:
    """What distillation did to each example: stacked shares in the order of COHORTS, and beside them the net gain.

    One row a seed; examples count once in each row. Net gain = taught + surpassed - mis-taught - lost, in points of
    accuracy with the row's interval. `customdata` is the cohort's number in COHORTS, the point's index the
    row. Raises `ValueError` for rows without eight counts.
    """
    ledger = [LedgerRow(*row) for row in rows]
    if not ledger:
        raise ValueError("the ledger has no row: it needs one student with and one without distillation")
    counts_RK = np.array([_counts(row) for row in ledger], dtype=np.int64)
    total_R = counts_RK.sum(axis=1)
    sign_K = np.array([NET_SIGN.get(cohort.name, 0) for cohort in COHORTS])
    net_R = 100 * (counts_RK @ sign_K) / total_R
    names = [escaped(row.name) for row in ledger]
    fig = make_subplots(rows=1, cols=2, column_widths=[0.74, 0.26], shared_yaxes=True, horizontal_spacing=0.03)
    y_R = np.arange(len(ledger))
    for k, cohort in enumerate(COHORTS):
        right = ", ".join(
            f"{who} {'right' if ok else 'wrong'}"
            for who, ok in (("teachers", cohort.teacher), ("no KD", cohort.hard), ("KD", cohort.student))
        )
        fig.add_trace(
            go.Bar(
                x=(100 * counts_RK[:, k] / total_R).astype(np.float32),
                y=y_R,
                orientation="h",
                name=cohort.name,
                customdata=np.full(len(ledger), k, dtype=np.int32),
                text=[
                    f"{name}<br>{n:,} of {total:,}"
                    for name, n, total in zip(names, counts_RK[:, k], total_R, strict=True)
                ],
                textposition="none",
                marker={
                    "color": cohort.colour,
                    "line": {"width": 0},
                    "pattern": hatch(cohort.pattern, solidity=0.22),
                },
                hovertemplate=f"<b>{cohort.name}</b>: {right}<br>%{{text}}, <b>%{{x:.1f}} %</b><extra></extra>",
            ),
            row=1,
            col=1,
        )
    fig.add_trace(_net_points(ledger, net_R), row=1, col=2)
    fig.add_vline(x=0, line={"color": INK, "width": 1.5}, row=1, col=2)
    fig.update_layout(barmode="stack", bargap=0.3)
    fig.update_xaxes(title_text="share of examples (%)", range=[0, 100.2], row=1, col=1)
    fig.update_xaxes(title_text="net gain (points)", row=1, col=2)
    fig.update_yaxes(label_rows([row.name for row in ledger]))
    mean_K = counts_RK.mean(axis=0)
    said = ", ".join(f"{cohort.name} {mean:,.0f}" for cohort, mean in zip(COHORTS, mean_K, strict=True))
    over = f"mean of {len(ledger)} rows" if len(ledger) > 1 else ledger[0].name
    alt = (
        f"Outcomes of {total_R.mean():,.0f} examples, {over}: {said}; net gain {signed(float(np.mean(net_R)))} points."
    )
    return finish(fig, alt=alt, height=142 + 40 * len(ledger), title=title)


def _net_points(ledger: list[LedgerRow], net_R: FloatArray) -> go.Scatter:
    low, high = (100 * np.array([getattr(row, side) for row in ledger]) for side in ("low", "high"))
    clear = (low > 0) | (high < 0)
    colours = np.where(net_R >= 0, GAIN, LOSS)
    return go.Scatter(
        x=net_R,
        y=np.arange(len(ledger)),
        error_x=error_bars(net_R, low, high, INK),
        mode="markers",
        marker={
            "size": 11,
            "symbol": np.where(clear, "circle", "circle-open").tolist(),
            "color": colours.tolist(),
            "line": {"width": 2, "color": colours.tolist()},
        },
        text=[f"{signed(net)} points [{signed(a)}, {signed(b)}]" for net, a, b in zip(net_R, low, high, strict=True)],
        hovertemplate="net gain <b>%{text}</b><extra></extra>",
        showlegend=False,
        name="net gain",
    )


def _counts(row: LedgerRow) -> list[int]:
    """In the order of COHORTS."""
    counts = row.counts
    names = [cohort.name for cohort in COHORTS]
    if isinstance(counts, Mapping):
        if unknown := set(counts) - set(names):
            raise ValueError(f"{row.name!r} has cohorts {sorted(unknown)}, expected some of {names}")
        counts = [counts.get(name, 0) for name in names]
    if len(counts) != len(names) or min(counts) < 0 or sum(counts) == 0:
        raise ValueError(f"{row.name!r} has counts {list(counts)}, expected {len(names)} of them and not all zero")
    return [int(n) for n in counts]
