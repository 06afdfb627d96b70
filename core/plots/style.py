"""How every figure looks, in the notebooks and in the app: roles with their colours and symbols, text, the frame.

A role is never said by colour alone: each has its symbol. All colours keep a contrast of 3:1 against white and against
the app's dark background, because paper and plot are transparent and the theme decides what lies behind. The text
colour is a grey that reads on both; Streamlit puts its own in its place, `themed` does so for a page of known theme.

Label names, member names and every other text that comes from data goes through `escaped`: plotly reads tags, entities,
`%{...}` and `$...$` in text, legends and axis labels.

Tried and dropped: legends anchored to the plot (they grow into the title when a narrow window wraps them; anchored to
the container they grow downwards and plotly moves the plot), titles of panels as annotations (they do not move).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from core.plots.arrays import FloatArray

Role = Literal["teacher", "member", "student", "hard", "gold", "truth", "humans"]


class Look(NamedTuple):
    """What a role is drawn with. `size` in pixels; `name` is its entry in the legend."""

    colour: str
    symbol: str
    size: int
    name: str


ROLES: dict[Role, Look] = {
    "teacher": Look("#8250f0", "line-ns", 22, "teachers' mean"),
    "member": Look("#9d7ff5", "circle-open", 9, "members"),
    "student": Look("#e8710a", "diamond", 12, "student, KD"),
    "hard": Look("#2f80ed", "x", 10, "student, no KD"),
    "gold": Look("#16a34a", "star", 12, "gold"),
    "truth": Look("#16a34a", "triangle-up", 12, "truth"),
    "humans": Look("#868e96", "square", 10, "humans"),
}

# For what has no role (controls, temperatures, classes): colours and symbols in step, so that both tell them apart.
OTHERS = ("#0d9488", "#d6336c", "#a06a00", "#5c6ac4", "#5f8a1f", "#b04ac2", "#c2541b", "#4d7f99")
OTHER_SYMBOLS = (
    "circle",
    "triangle-down",
    "cross",
    "pentagon",
    "hexagram",
    "triangle-left",
    "hourglass",
    "triangle-right",
)

INK = "#767676"  # 4.5:1 on white, 4.2:1 on the app's dark background
FAINT = "rgba(128,128,128,0.24)"
NEUTRAL = "#64748b"  # what belongs to nobody: all examples, counts
GAIN, LOSS = "#1c7ed6", "#c92a2a"

# From nothing to full colour, so that an empty cell is the background of either theme.
DENSITY = [[0.0, "rgba(100,116,139,0.12)"], [0.5, "rgba(92,110,160,0.55)"], [1.0, "rgba(79,90,190,0.95)"]]
# Opaque, because plotly chooses black or white for the numbers in the cells by the cell's own colour.
SEQUENTIAL = [[0.0, "#e4e7f2"], [0.35, "#a3b1dc"], [0.7, "#5b68b8"], [1.0, "#312a7c"]]
DIVERGING = [[0.0, LOSS], [0.5, "#9298a0"], [1.0, GAIN]]  # a grey middle: white would vanish on a light page

# No button that uploads the figure's data to plotly's cloud (on by default since plotly.js 4), no advertisement.
SHOW_CONFIG: dict[str, Any] = {
    "showSendToCloud": False,
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["autoScale2d", "toggleSpikelines", "hoverClosestCartesian", "hoverCompareCartesian"],
}

# Liu et al. 2019 add both losses with weight 1 and have no temperature; marked wherever alpha is an axis.
PAPER_ALPHA, PAPER_TEMPERATURE = 0.5, 1.0

TITLE_PX, SUBTITLE_PX = 30, 20
_AXIS = {
    "gridcolor": FAINT,
    "linecolor": FAINT,
    "zerolinecolor": FAINT,
    "zeroline": False,
    "automargin": True,
    "ticks": "",
    "title": {"standoff": 8, "font": {"size": 13}},
    "tickfont": {"size": 12},
}
_TERNARY_AXIS = {"gridcolor": FAINT, "linecolor": FAINT, "tickfont": {"size": 11}}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"color": INK, "size": 13, "family": "Source Sans Pro, system-ui, Segoe UI, Helvetica, sans-serif"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "colorway": list(OTHERS),
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "ternary": {"bgcolor": "rgba(0,0,0,0)", "aaxis": _TERNARY_AXIS, "baxis": _TERNARY_AXIS, "caxis": _TERNARY_AXIS},
        "hoverlabel": {"align": "left", "namelength": -1},
        "legend": {"font": {"size": 12}},
        "colorscale": {"sequential": SEQUENTIAL, "diverging": DIVERGING},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": INK, "activecolor": ROLES["teacher"].colour},
    }
)


def escaped(text: object, max_chars: int = 40) -> str:
    """Text from data, as plotly shows it and nothing else: no tags, entities, templates or formulas; one line.

    Longer texts end in an ellipsis. Example: `escaped("<b>R&D</b>")` is `"&lt;b&gt;R&amp;D&lt;/b&gt;"`.
    """
    line = " ".join(str(text).split())
    if len(line) > max_chars:
        line = line[: max_chars - 1].rstrip() + "…"
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("$", "&#36;"), ("%{", "%&#123;")):
        line = line.replace(character, entity)
    return line


def spoken(value: float, digits: int = 2) -> str:
    """A number for alt texts: "0.52", "no value" for nan."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "no value"


def signed(value: float, digits: int = 1) -> str:
    """ "+1.2", with a real minus sign below zero: "−1.2"."""
    return f"{value:+.{digits}f}".replace("-", "−") if math.isfinite(value) else "no value"


def marker(role: Role, *, size: float | None = None, opacity: float = 1.0, hollow: bool = False) -> dict[str, Any]:
    """The plotly marker of a role. `hollow` draws the outline alone, which says "no difference" in comparisons."""
    look = ROLES[role]
    return symbol_marker(look.colour, look.symbol, size=size or look.size, opacity=opacity, hollow=hollow)


def symbol_marker(
    colour: str, symbol: str, *, size: float, opacity: float = 1.0, hollow: bool = False
) -> dict[str, Any]:
    """A marker of any colour and symbol. Line symbols such as "line-ns" are invisible without a line width."""
    is_line = symbol.startswith("line-")
    if hollow and not is_line and not symbol.endswith("-open"):
        symbol += "-open"
    width = 3.5 if is_line else 2 if symbol.endswith("-open") else 0
    return {
        "symbol": symbol,
        "color": colour,
        "size": size,
        "opacity": opacity,
        "line": {"width": width, "color": colour},
    }


def other(i: int) -> tuple[str, str]:
    """(colour, symbol) of the i-th thing without a role; they come round again after eight."""
    return OTHERS[i % len(OTHERS)], OTHER_SYMBOLS[i % len(OTHER_SYMBOLS)]


def squares(
    x: npt.ArrayLike, y: npt.ArrayLike, customdata: npt.ArrayLike, *, hover: str, text: Any = None, size: float = 26
) -> go.Scatter:
    """Near-transparent square markers: what is clicked on a heatmap, since Streamlit sends no clicks on heatmaps."""
    return go.Scatter(
        x=np.asarray(x, dtype=np.float32),
        y=np.asarray(y, dtype=np.float32),
        customdata=np.asarray(customdata, dtype=np.int32),
        text=text,
        mode="markers",
        marker={"symbol": "square", "size": size, "color": "rgba(128,128,128,0.01)"},
        # A selection dims what is not selected; on an invisible layer that would only hide the clicked cell.
        selected={"marker": {"opacity": 1, "color": "rgba(128,128,128,0.35)"}},
        unselected={"marker": {"opacity": 1}},
        hovertemplate=hover,
        showlegend=False,
        name="",
    )


def key_entry(name: str, shown: dict[str, Any], **more: Any) -> go.Scatter:
    """A legend entry without data, where the legend must explain what the traces themselves cannot."""
    return go.Scatter(x=[None], y=[None], mode="markers", marker=shown, name=name, hoverinfo="skip", **more)


def label_axis(labels: Sequence[str], *, gold: int | None = None, max_chars: int = 28) -> dict[str, Any]:
    """Ticks at 0..n-1 that carry names. Positions are numbers on purpose: plotly would turn labels such as "0" or
    "2020-01-01" into numbers and dates, and join two labels of one name. The gold label is bold, green and ticked.
    """
    texts = [escaped(label, max_chars) for label in labels]
    if gold is not None:
        texts[gold] = f'<b><span style="color:{ROLES["gold"].colour}">✓ {texts[gold]}</span></b>'
    return {"tickmode": "array", "tickvals": np.arange(len(texts)), "ticktext": texts, "showgrid": False}


def label_rows(labels: Sequence[str], *, gold: int | None = None, max_chars: int = 28) -> dict[str, Any]:
    """`label_axis` for rows that are read downwards: the first label on top, half a row of room at both ends."""
    return label_axis(labels, gold=gold, max_chars=max_chars) | {"range": [len(labels) - 0.5, -0.5]}


def error_bars(mean: FloatArray, low: FloatArray, high: FloatArray, colour: str) -> dict[str, Any]:
    """From `low` to `high` around `mean`; nan leaves a point without its bar."""
    return {
        "type": "data",
        "symmetric": False,
        "array": high - mean,
        "arrayminus": mean - low,
        "color": colour,
        "thickness": 1.8,
        "width": 3,
    }


def hatch(shape: str, *, size: int = 6, solidity: float = 0.15) -> dict[str, Any]:
    """White hatching over a bar's own colour, because a stack told apart by colour alone is lost on some readers."""
    return {"shape": shape, "fgcolor": "#ffffff", "fillmode": "overlay", "size": size, "solidity": solidity}


def colour_bar(title: str, **more: Any) -> dict[str, Any]:
    """A thin colour bar at the right; its title stands beside it, so that it never reaches over the plot."""
    return {
        "title": {"text": title, "side": "right", "font": {"size": 12}},
        "tickfont": {"size": 11},
        "thickness": 12,
        "outlinewidth": 0,
        "len": 0.92,
        **more,
    }


def finish(
    fig: go.Figure, *, alt: str, height: int, title: str = "", subtitle: str = "", legend: bool = True
) -> go.Figure:
    """The frame: transparent, tight margins, the legend in a row above the plot, `layout.meta["alt"]` with `alt`.

    All three are plain text.
    """
    fig.update_layout(
        template=TEMPLATE,
        height=height,
        showlegend=legend,
        meta={"alt": alt, "subtitle": subtitle},
        hovermode="closest",
        margin={"l": 8, "r": 16, "t": 12, "b": 8},
    )
    # Said outright, because Streamlit's own template takes the vertical lines away that rows of dots are read by.
    for axis in (*fig.select_xaxes(), *fig.select_yaxes()):
        axis.update(showgrid=axis.showgrid is not False, gridcolor=FAINT)
    return titled(fig, title, subtitle)


def alt_text(fig: go.Figure) -> str:
    """The figure in one sentence, for `st.plotly_chart(..., alt=)` and for a text beside a picture."""
    return str(fig.layout.meta["alt"])


def titled(fig: go.Figure, title: str, subtitle: str | None = None) -> go.Figure:
    """Sets or replaces the title and moves the legend under it; for notebooks, where no heading stands above.

    Plain text. A newline in the subtitle begins a second line: plotly does not wrap, a narrow page cuts what is longer.
    None keeps the subtitle that the figure has.
    """
    subtitle = fig.layout.meta["subtitle"] if subtitle is None else subtitle
    is_ternary = any(trace.type == "scatterternary" for trace in fig.data)
    small = [
        f'<span style="font-size:13px;font-weight:normal">{escaped(line, 160)}</span>' for line in subtitle.splitlines()
    ]
    lines = [f"<b>{escaped(title, 100)}</b>"] * bool(title) + small
    head_px = 6 + TITLE_PX * bool(title) + SUBTITLE_PX * len(small)
    if lines:
        fig.update_layout(
            title={
                "text": "<br>".join(lines),
                "font": {"size": 16 if title else 13},
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                # A title of several lines is put one line too high, however many they are.
                "pad": {"t": 10 + SUBTITLE_PX * (len(lines) > 1), "l": 10},
            }
        )
    fig.update_layout(
        # A triangle's upper name stands above it, and plotly keeps no room for that.
        margin={"t": max(head_px + 6, 12) + 52 * is_ternary},
        legend={
            "orientation": "h",
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1 - head_px / fig.layout.height,
            "yref": "container",
            "yanchor": "top",
            "itemsizing": "constant",
            "traceorder": "normal",  # stacked bars would turn it round
        },
    )
    return fig


def themed(fig: go.Figure, theme: Literal["light", "dark"]) -> go.Figure:
    """A copy with the text colour of a known theme, for pages and pictures that are not Streamlit's."""
    copy = go.Figure(fig)
    copy.update_layout(font={"color": "#e6e6ea" if theme == "dark" else "#31333f"})
    return copy
