"""What the dashboard must never do, on any page or view: write into a run, leave its folder, take data for markup."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

pytest.importorskip("streamlit")
pytest.importorskip("plotly")

import test_views_toy
from conftest import Finished, copy_of
from looking import VIEWS as OF_PAGE
from looking import look, opened
from streamlit.testing.v1 import AppTest
from test_views_toy import TRI, write_toy

from core.store import Run, write_json
from core.views.catalogue import open_run, tasks_of_run

# Every view of every page: page, what its address says.
VIEWS: list[tuple[str, dict[str, str]]] = [
    ("overview", {}),
    ("explore", {"text": "xss"}),
    ("example", {}),
    ("try_it", {}),
    *((page, {"view": view}) for page, views in OF_PAGE.items() for view in views),
]


# ---- it only reads -------------------------------------------------------------------------------------------------
WRITES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod"}
_watched: list[tuple[str, list[str]]] = []  # (folder, what was tried in it); an audit hook stays for the whole process


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched and event in (*WRITES, "open") and isinstance(arguments[0], str | bytes | Path):
        folder, tried = _watched[-1]
        flags = arguments[2] if event == "open" and isinstance(arguments[2], int) else 0
        if (event != "open" or flags & 3) and str(arguments[0]).startswith(folder):  # 3: O_WRONLY | O_RDWR
            tried.append(f"{event} {arguments[:2]}")


sys.addaudithook(_hook)


@contextmanager
def watching(folder: Path) -> Iterator[list[str]]:
    _watched.append((str(folder), tried := []))
    try:
        yield tried
    finally:
        _watched.pop()


def tree(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Mode, time and digest of everything in a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.stat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(folder))] = stat.st_mode, stat.st_mtime_ns, digest
    return found


def test_no_page_writes_into_a_run(smoke: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a read-only copy, and with every opening for writing heard: root may write where the mode forbids it."""
    folder = tmp_path / "runs"
    run = copy_of(smoke, folder)
    for path in (*run.path.rglob("*"), run.path):
        path.chmod(0o500 if path.is_dir() else 0o400)
    before = tree(folder)
    try:
        with watching(tmp_path / "elsewhere") as heard:
            (tmp_path / "elsewhere").mkdir()
            (tmp_path / "elsewhere" / "x").write_text("the watch works")
        assert len(heard) == 2
        with watching(folder) as tried:
            app = opened(folder, monkeypatch, run="run", task="nli")
            for page, query in VIEWS:
                look(app, page, run="run", task="nli", **query)
        assert tried == []
        assert tree(folder) == before
    finally:
        for path in (run.path, *run.path.rglob("*")):
            path.chmod(0o700 if path.is_dir() else 0o600)


# ---- it stays in its folder ----------------------------------------------------------------------------------------
CRAFTED = [
    *("..", ".", "", "../secret", "toy/../../secret", "./toy", "toy/", "/etc", "//etc", "~", "~root", "$HOME"),
    *("%2e%2e", "%2e%2e%2fsecret", "..%2fsecret", "..\\secret", "C:\\", "file:///etc", "toy\0", "toy\n", ".hidden"),
    *("．．／secret", "‥/secret", "a" * 5000, "out", "out/.", "loop"),
]  # fmt: skip


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_name_opens_no_run(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "runs"
    write_toy(folder / "toy", tasks=["tri"])
    write_toy(tmp_path / "secret", tasks=["tri"])
    (folder / ".hidden").mkdir()
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "loop").symlink_to(folder / "loop")
    assert open_run(folder, "toy").path == folder / "toy"
    with pytest.raises(ValueError, match=r"run|link"):
        open_run(folder, name)


@pytest.mark.parametrize("key", ["task", "split", "ex", "pin", "view", "student", "with", "of", "job", "order", "x"])
def test_no_other_parameter_reaches_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Whatever else the address says, nothing outside the run is opened."""
    folder = tmp_path / "runs"
    write_toy(folder / "toy", tasks=["tri"])
    write_toy(tmp_path / "secret", tasks=["tri"])
    seen: list[str] = []
    real = Run.__init__
    monkeypatch.setattr(Run, "__init__", lambda run, path: (seen.append(str(path)), real(run, path))[1])
    app = opened(folder, monkeypatch, "explore", run="toy", **{key: "../../secret"})
    look(app, "runs", run="toy", view="config", **({key: "../../secret"} if key != "view" else {}))
    assert seen
    assert {str(Path(path).resolve()) for path in seen} == {str(folder / "toy")}


def test_a_manifest_cannot_name_a_task_elsewhere(tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "toy", tasks=["tri"])
    manifest = toy.run.manifest()
    for tasks in ({"../../secret": manifest["tasks"]["tri"]}, {"tri": manifest["tasks"]["tri"] | {"name": "../x"}}):
        write_json(toy.run.manifest_path, manifest | {"tasks": tasks})
        with pytest.raises(ValueError, match=r"tasks|a name has letters"):
            tasks_of_run(toy.run)


# ---- data are no markup --------------------------------------------------------------------------------------------
HOSTILE = "<script>xss</script> **xss** ![xss](http://xss.invalid/a.png) $xss$ :red[xss] `xss` <b>xss</b> _xss_"
LABELS = ("<b>xss</b>", "**xss** $xss$", ":red[xss] ![xss](http://xss.invalid)")
RUN_NAME = "**xss** <b>xss<b> $xss$ ![xss](x) _xss_"
ALIVE = ("<script", "<b>", "**xss", "![", "](http", "$xss", ":red[", "`xss", "_xss_")
# What Streamlit shows as it is: never Markdown.
PLAIN_FIELDS = {"id", "key", "element_id", "options", "query_string", "page", "page_script_hash", "url", "value",
                "default", "raw_value", "raw_values", "alt", "user_key", "code_text", "placeholder"}  # fmt: skip


def strings(message: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(field, text) of every text in a protobuf message."""
    for field, value in message.ListFields():
        inside = list(value) if hasattr(value, "append") or hasattr(value, "extend") else [value]
        for one in inside:
            if hasattr(one, "ListFields"):
                yield from strings(one, f"{path}.{field.name}")
            elif isinstance(one, str):
                yield f"{path}.{field.name}", one


def shown(app: AppTest) -> Iterator[tuple[str, str, str]]:
    """(element, field, text) of all that is on the page, with blocks such as popovers and expanders."""
    waiting = [app._tree]
    while waiting:
        node = waiting.pop()
        waiting += getattr(node, "children", {}).values()
        kind, proto = getattr(node, "type", ""), getattr(node, "proto", None)
        if proto is None or kind in ("code", "arrow_data_frame", "text_input", "text_area"):
            continue
        for field, text in strings(proto):
            yield kind, field, text


def alive(text: str) -> list[str]:
    """The marks that would do something: those without a backslash before them."""
    bare = re.sub(r"\\[!-/:-@\[-`{-~]", "·", text)
    return [mark for mark in ALIVE if mark in bare]


def chart_texts(value: Any) -> Iterator[str]:
    """Of a figure's specification, without `meta`: the alt text is an attribute and no HTML."""
    if isinstance(value, dict | list):
        for one in [one for key, one in value.items() if key != "meta"] if isinstance(value, dict) else value:
            yield from chart_texts(one)
    elif isinstance(value, str):
        yield value


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose texts, labels, task, members and folder are all written by an enemy."""
    monkeypatch.setitem(test_views_toy.TASKS, "__xss__", replace(TRI, name="__xss__", labels=LABELS))
    toy = write_toy(tmp_path / "runs" / RUN_NAME, tasks=["__xss__"])
    table = toy.run.read_examples("__xss__")
    for name in ("text_a", "text_b"):
        column = pa.array([f"{HOSTILE} {i}" for i in range(len(table))], pa.string())
        table = table.set_column(table.column_names.index(name), name, column)
    toy.run.write_examples("__xss__", table)
    toy.run.log("stopped", error=HOSTILE)
    return tmp_path / "runs"


@pytest.mark.parametrize(("page", "query"), VIEWS, ids=lambda one: one if isinstance(one, str) else one.get("view", ""))
def test_hostile_data_stay_text(
    hostile: Path, monkeypatch: pytest.MonkeyPatch, page: str, query: dict[str, str]
) -> None:
    app = opened(hostile, monkeypatch, page, run=RUN_NAME, task="__xss__", split="test", **query)
    n_seen = 0
    for kind, field, text in shown(app):
        if "xss" not in text:
            continue
        n_seen += 1
        if kind == "plotly_chart" and field.endswith(".spec"):
            # In plotly's own little HTML a "<" of data must be "&lt;"; its formulas begin with "$".
            for one in chart_texts(json.loads(text)):
                assert not ("xss" in one and re.search(r"<(script|b)>xss|^\$|<a |<img", one)), (page, one)
        elif field.rsplit(".", 1)[-1] not in PLAIN_FIELDS or (kind, field) == ("button_group", ".options.content"):
            assert not alive(text), (page, kind, field, text)
    assert n_seen


def test_names_in_segmented_choices_stay_text() -> None:
    """Their options are Markdown, where those of a select box are not."""

    def script() -> None:
        from app import state

        state.choice("Teachers of", ["a", "__xss__"], key="of", default="a", kind="segmented")

    app = AppTest.from_function(script, default_timeout=120).run()
    contents = [text for kind, field, text in shown(app) if kind == "button_group" and "xss" in text]
    assert contents == [r"\_\_xss\_\_"]
