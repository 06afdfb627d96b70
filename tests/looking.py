"""How tests look at the dashboard: through its entry, as a browser does, and what stands on a page then."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pytest

pytest.importorskip("streamlit")
pytest.importorskip("plotly")

from streamlit.testing.v1 import AppTest

ENTRY = Path(__file__).resolve().parents[1] / "app" / "streamlit_app.py"
TITLES = {
    "overview": "Overview", "explore": "Explore", "example": "Example", "loss_lab": "Loss lab",
    "ensemble": "Ensemble", "dark_knowledge": "Dark knowledge", "calibration": "Calibration", "try_it": "Try it",
    "runs": "Runs", "experiments": "Experiments",
}  # fmt: skip
VIEWS = {
    "loss_lab": ("one", "all", "refit"),
    "ensemble": ("agree", "doubt", "size", "follow"),
    "dark_knowledge": ("controls", "runner", "wrong", "parts", "ledger", "truth"),
    "calibration": ("reliability", "entropy", "copies", "map", "strip"),
    "runs": ("time", "curves", "config", "log"),
}
FAULT = "This page met an error of its own"
BROKEN = ("cannot be shown", "cannot be read", "cannot be asked", FAULT)
# The first look imports plotly and pyarrow, and the machine may be busy: a limit for what hangs, not for what is slow.
TIMEOUT = 120


def opened(folder: Path, monkeypatch: pytest.MonkeyPatch, page: str = "overview", /, **query: str) -> AppTest:
    """The dashboard on the runs in `folder`, at one of its pages."""
    monkeypatch.setenv("DARKROOM_RUNS", str(folder))
    app = AppTest.from_file(str(ENTRY), default_timeout=TIMEOUT)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    return sound(app) if page == "overview" else look(app, page, **query)


def look(app: AppTest, page: str, /, **query: str) -> AppTest:
    app.query_params.clear()
    for name, value in query.items():
        app.query_params[name] = value
    app.switch_page(f"app_pages/{page}.py").run()
    return sound(app)


def sound(app: AppTest) -> AppTest:
    """Nothing went wrong that is not the user's; charts and tables have a name for those who cannot see them."""
    assert not app.exception, [(e.value, e.stack_trace) for e in app.exception]
    assert FAULT not in words(app)
    for element in (*app.get("plotly_chart"), *app.get("arrow_data_frame")):
        assert len(element.proto.alt) > 10
    return app


def words(app: AppTest) -> str:
    """All that is read as Markdown, with the escapes taken out."""
    kinds = (app.title, app.subheader, app.markdown, app.caption)
    return "\n".join(re.sub(r"\\(.)", r"\1", str(element.value)) for kind in kinds for element in kind)


def raw(app: AppTest) -> list[str]:
    """The same as it is written, and the labels of links."""
    shown = [str(element.value) for kind in (app.subheader, app.markdown, app.caption) for element in kind]
    return shown + [link.proto.label for link in links(app)]


def charts(app: AppTest) -> list[dict[str, Any]]:
    return [json.loads(element.proto.spec) for element in app.get("plotly_chart")]


def numbers(values: Any) -> np.ndarray:
    """Plotly sends typed arrays as base64."""
    if not isinstance(values, dict):
        return np.asarray(values, float)
    kind = {"f4": "<f4", "f8": "<f8", "i4": "<i4", "i2": "<i2", "i1": "<i1", "u1": "<u1"}[values["dtype"]]
    return np.frombuffer(base64.b64decode(values["bdata"]), kind).astype(float)


def links(app: AppTest) -> list[Any]:
    """The links of the page itself, without those from page to page above it."""
    return [element for element in app.get("page_link") if element.proto.label not in TITLES.values()]


def queries(app: AppTest) -> list[dict[str, str]]:
    return [dict(parse_qsl(link.proto.query_string)) for link in links(app)]


def select(app: AppTest, key: str, **selection: Any) -> AppTest:
    """What a click or a drawn box puts into the session, `points`, `box` or `rows`; `key` is the beginning of one."""
    whole = next(str(one) for one in app.session_state.keys() if str(one).startswith(key))  # noqa: SIM118
    app.session_state[whole] = {
        "selection": {"points": [], "box": [], "lasso": [], "columns": [], "cells": []} | selection
    }
    return sound(app.run())
