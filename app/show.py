"""How things are shown: figures with their alt text, empty states, and text from data that stays text.

Texts of examples, labels, names of runs and messages come from files that anybody may have made. They are never given
to Markdown or HTML: `plain` shows them as they are, `literal` makes them safe inside a Markdown sentence.

Not here: what is shown (app/app_pages), links to other pages (app/links).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import plotly.graph_objects as go
import streamlit as st

from core.plots.style import SHOW_CONFIG

# CommonMark lets every ASCII punctuation mark be escaped; ":" begins Streamlit's colours and icons, "$" formulas.
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_COMMAND = re.compile(r"`((?:python|make|streamlit|pip) [^`]+)`")


class Sentence(NamedTuple):
    """A message of core, taken apart: what to read, and the command to copy, if it names one."""

    words: str
    command: str | None


def figure(
    fig: go.Figure,
    *,
    key: str,
    on_select: Literal["rerun"] | Callable[[], None] | None = None,
    modes: tuple[str, ...] = ("points",),
) -> Any:
    """A figure of core/plots with its own alt text, in the page's theme. With `on_select` the return value is the
    selection as `{"points": [...], "box": [...]}`, empty lists where nothing is selected; `modes` are "points", "box",
    "lasso".

    A selection is lost whenever the figure changes, even under one key: never draw what was selected into the same
    figure.
    """
    alt = str((fig.layout.meta or {}).get("alt", "")).strip() or None
    if on_select is None:
        st.plotly_chart(fig, key=key, width="stretch", config=SHOW_CONFIG, alt=alt)
        return {"points": [], "box": []}
    event: Any = st.plotly_chart(
        fig, key=key, width="stretch", config=SHOW_CONFIG, alt=alt, on_select=on_select, selection_mode=modes
    )
    # By key and not by attribute: tests inject a plain dictionary.
    selection = (event or {}).get("selection") or {}
    return {"points": selection.get("points", []), "box": selection.get("box", [])}


def clicked(selection: dict[str, Any]) -> int | None:
    """The `customdata` of the one point that was clicked: a row number, or whatever the figure's docstring says."""
    if len(selection["points"]) != 1:
        return None
    data = selection["points"][0].get("customdata")
    if isinstance(data, list | tuple):
        data = data[0] if data else None
    elif isinstance(data, dict):  # a 1-D customdata arrives as {"0": value} in some versions
        data = next(iter(data.values()), None)
    return None if data is None else int(data)


def plain(text: object, *, faint: bool = False) -> None:
    """Text from data, wrapped and otherwise untouched. Never as HTML or Markdown."""
    if faint:
        st.caption(literal(text))
    else:
        st.markdown(literal(text))


def literal(text: object) -> str:
    """`text` for use inside Markdown: every mark is escaped, line breaks are kept as breaks.

    Example: `literal("**a** :red[b] $x$")` shows `**a** :red[b] $x$`.
    """
    lines = [_PUNCTUATION.sub(r"\\\1", line.strip()) for line in str(text).splitlines()]
    return "  \n".join(lines)


def taken_apart(message: str) -> Sentence:
    """Splits off the first command that core's message has between backticks.

    Example: `taken_apart("no scores; go on with `python -m core run --out x`")` has the command `python -m core ...`.
    """
    found = _COMMAND.search(message)
    if found is None:
        return Sentence(message, None)
    words = (message[: found.start()].rstrip(" ;,:") + message[found.end() :]).strip()
    words = re.sub(r"(,? ?;? ?(go on with|run stage '\w+' first|with|by))$", "", words).rstrip(" ;,:")
    return Sentence(words, found.group(1))


def empty(title: str, words: object = "", command: str | None = None, *, icon: str = ":material/info:") -> None:
    """What stands where there is nothing to show: why, and what to do. `words` are shown as text, `command` is ready
    to be copied."""
    with st.container(border=True):
        st.markdown(f"{icon} **{literal(title)}**")
        if words:
            plain(words)
        if command:
            st.code(command, language="bash", wrap_lines=True)
