"""The pages overview, explore, example, try_it and runs, opened through the entry as a browser does: on a trained run,
and on runs that lack something. A page may say why it shows nothing; it may not end in an error, reach outside its
folder, or take text from data for Markdown.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

pytest.importorskip("streamlit")
pytest.importorskip("plotly")

from conftest import Finished, copy_of
from streamlit.testing.v1 import AppTest
from test_views_toy import Toy, table_of, write_metrics, write_toy

from core.locks import locked
from core.store import Run, write_json
from core.views.cohorts import ledger
from core.views.derived import COHORTS

ENTRY = Path(__file__).resolve().parents[1] / "app" / "streamlit_app.py"
PAGES = ("overview", "explore", "example", "try_it", "runs")
ABOUT_A_TASK = ("overview", "explore", "example", "try_it")
BROKEN = ("cannot be shown", "cannot be read", "cannot be asked")
NASTY = "<b>bold</b> **b** :red[r] $x^2$ [l](http://a.b) <script>alert(1)</script>"


# ---- opening -------------------------------------------------------------------------------------------------------
def opened(folder: Path, monkeypatch: pytest.MonkeyPatch, page: str = "overview", /, **query: str) -> AppTest:
    monkeypatch.setenv("DARKROOM_RUNS", str(folder))
    app = AppTest.from_file(str(ENTRY), default_timeout=30)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    return app if page == "overview" else look(app, page, **query)


def look(app: AppTest, page: str, /, **query: str) -> AppTest:
    app.query_params.clear()
    for name, value in query.items():
        app.query_params[name] = value
    app.switch_page(f"app_pages/{page}.py").run()
    return sound(app)


def sound(app: AppTest) -> AppTest:
    assert not app.exception, [(e.value, e.stack_trace) for e in app.exception]
    return app


def words(app: AppTest) -> str:
    """All that is read as Markdown, with the escapes taken out."""
    kinds = (app.title, app.subheader, app.markdown, app.caption)
    return "\n".join(re.sub(r"\\(.)", r"\1", str(element.value)) for kind in kinds for element in kind)


def raw(app: AppTest) -> str:
    return "\n".join(str(element.value) for kind in (app.subheader, app.markdown, app.caption) for element in kind)


def charts(app: AppTest) -> list[dict[str, Any]]:
    for element in app.get("plotly_chart"):
        assert len(element.proto.alt) > 20, "a chart without a name for those who cannot see it"
    return [json.loads(element.proto.spec) for element in app.get("plotly_chart")]


def pages_linked(app: AppTest) -> list[tuple[str, dict[str, str]]]:
    from urllib.parse import parse_qsl

    return [(link.proto.page, dict(parse_qsl(link.proto.query_string))) for link in app.get("page_link")]


def toys(tmp_path: Path, **options: Any) -> Toy:
    return write_toy(tmp_path / "runs" / "toy", **options)


# ---- a finished run ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", ["nli", "paraphrase", "similarity", "relevance"])
def test_every_page_of_a_finished_run(smoke: Finished, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    app = opened(smoke.run.path.parent, monkeypatch, run="smoke", task=task)
    for page in PAGES:
        look(app, page, run="smoke", task=task)
        assert not any(text in words(app) for text in BROKEN), f"{page}: {words(app)}"
        assert app.title[0].value.lower().replace(" ", "_") == page
        if page != "try_it":
            assert charts(app), page
        for frame in app.get("arrow_data_frame"):
            assert frame.proto.alt
        if page in ABOUT_A_TASK:
            assert app.query_params["task"] == task
            assert app.query_params["split"] == smoke.config.evaluate.split


def test_the_url_is_complete_after_navigation(smoke: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """A click on a page's name drops the parameters; the session fills them in again."""
    app = opened(smoke.run.path.parent, monkeypatch, "explore", run="smoke", task="nli", split="dev", gold="neutral")
    look(app, "example")
    assert app.query_params.to_dict() if hasattr(app.query_params, "to_dict") else dict(app.query_params)
    assert {name: app.query_params[name] for name in ("run", "task", "split")} == {
        "run": "smoke",
        "task": "nli",
        "split": "dev",
    }
    assert "gold" not in app.query_params


def test_choosing_in_the_header(smoke: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another task takes the filter with it, because its labels are others; another split keeps it."""
    app = opened(smoke.run.path.parent, monkeypatch, "explore", run="smoke", task="nli", split="test", gold="neutral")
    app.selectbox(key="header-split").select("dev").run()
    assert app.query_params["gold"] == "neutral"
    assert app.query_params["split"] == "dev"
    sound(app).selectbox(key="header-task").select("sentiment").run()
    assert sound(app).query_params["task"] == "sentiment"
    assert "gold" not in app.query_params


# ---- runs that lack something --------------------------------------------------------------------------------------
@pytest.mark.parametrize("page", PAGES)
def test_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    for folder in (tmp_path / "not_there", tmp_path):
        app = opened(folder, monkeypatch, page)
        assert "No runs yet" in words(app)
        assert app.code[0].value == f"python -m core run --preset demo --out {folder / 'demo'}"


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_text("{"), "not valid JSON"),
        (lambda path: path.write_text("[]"), "expected a run's manifest"),
        (lambda path: write_json(path, json.loads(path.read_text()) | {"schema_version": 99}), "schema version 99"),
        (lambda path: write_json(path, json.loads(path.read_text()) | {"jobs": 3}), "'jobs' is missing or damaged"),
    ],
)
def test_a_damaged_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, damage: Any, said: str) -> None:
    toy = toys(tmp_path)
    damage(toy.run.manifest_path)
    app = opened(tmp_path / "runs", monkeypatch, page, run="toy")
    assert "This run cannot be shown" in words(app)
    assert said in words(app)


@pytest.mark.parametrize("name", ["..", "../secret", "/etc", ".hidden", "toy/../../secret", "a\0b", "out"])
def test_crafted_names_reach_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    toys(tmp_path)
    write_toy(tmp_path / "secret", seed=1)
    (tmp_path / "runs" / "out").symlink_to(tmp_path / "secret")
    for page in ("explore", "runs"):
        app = opened(tmp_path / "runs", monkeypatch, page, run=name)
        assert not charts(app)
        assert not app.dataframe
        said = words(app)
        assert "which is not here" in said or "leads out of" in said


@pytest.mark.parametrize("key", ["task", "split"])
def test_crafted_tasks_and_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    toys(tmp_path)
    query = {"run": "toy", "task": "tri", "split": "test"} | {key: "../../etc/passwd"}
    for page in ABOUT_A_TASK:
        app = opened(tmp_path / "runs", monkeypatch, page, **query)
        assert f"The link names the {key} '../../etc/passwd', which is not here" in words(app), page


HALVES = {
    "prepared alone": {"members": 0, "seeds": 0, "ensemble": False},
    "members without students": {"seeds": 0, "ensemble": False},
    "no ensemble": {"ensemble": False},
    "no baseline": {"variants": ("kd",)},
    "no distillation": {"variants": ("hard",)},
    "one member": {"members": 1},
    "one seed": {"seeds": 1},
    "nothing known": {"known": False},
    "no gold": {"gold": False},
}


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("task", ["tri", "two", "score"])
def test_half_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: str, task: str) -> None:
    """Not evaluated either: the overview says so. Nothing ends in an error, and what is there is shown."""
    options = HALVES[half]
    if options.get("members") == 0:
        options = options | {"members": 1}
    toy = toys(tmp_path, **options)
    if half == "prepared alone":
        shutil.rmtree(toy.run.path / "predictions")
    app = opened(tmp_path / "runs", monkeypatch, run="toy", task=task, split="test")
    for page in PAGES:
        look(app, page, run="toy", task=task, split="test")
        assert not any(text in words(app) for text in BROKEN), f"{page}: {words(app)}"
        if page == "overview":
            assert "No results yet" in words(app)
        if page == "explore":
            assert len(app.dataframe) == 1
            assert len(app.dataframe[0].value) == 25
            assert charts(app) or half in ("prepared alone", "no gold", "one member", "members without students")


def test_a_run_in_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = toys(tmp_path, seeds=0, ensemble=False)
    toy.run.log("progress", job="mt-1", stage="multitask", epoch=0, step=25, steps=100, loss=1.5)
    app = opened(tmp_path / "runs", monkeypatch, run="toy")
    assert "being made" in words(app)
    assert app.get("progress")
    toy.run.log("stopped", error="CUDA is *gone*")
    app = opened(tmp_path / "runs", monkeypatch, run="toy")
    assert "This run is not finished" in words(app)
    assert "CUDA is *gone*" in words(app)
    assert any(element.value.startswith("python -m core run --out") for element in app.code)


def test_files_that_vanish_or_break(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the page is open: the next look says so."""
    toy = toys(tmp_path)
    app = opened(tmp_path / "runs", monkeypatch, "explore", run="toy", task="tri", split="test")
    assert len(app.dataframe) == 1
    toy.run.predictions_path("st-kd-s0", "tri").write_bytes(b"no parquet")
    app.run()
    assert "is not a readable parquet file" in words(sound(app))
    toy.run.examples_path("tri").unlink()
    app.run()
    assert "No examples yet" in words(sound(app))
    assert not app.dataframe


# ---- text from data ------------------------------------------------------------------------------------------------
def test_texts_are_never_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = toys(tmp_path)
    table = toy.run.read_examples("tri")
    nasty = pa.array([NASTY] * len(table), table["text_a"].type)
    toy.run.write_examples("tri", table.set_column(table.column_names.index("text_a"), "text_a", nasty))
    app = opened(tmp_path / "runs", monkeypatch, "example", run="toy", task="tri", split="test")
    assert NASTY in words(app)
    labels = [re.sub(r"\\(.)", r"\1", link.proto.label) for link in app.get("page_link")]
    assert any(NASTY[:40] in label for label in labels)  # the neighbours
    everything = raw(app) + "\n".join(link.proto.label for link in app.get("page_link"))
    everything = re.sub(r"\\.", "_", everything)  # what is left has a meaning in Markdown
    for mark in ("<b>", "**b**", ":red[", "$x", "](http", "<script"):
        assert mark not in everything
    look(app, "explore", run="toy", task="tri", split="test", text="<b>bold")
    assert app.dataframe[0].value["text"][0] == NASTY  # a table shows text as it is
    assert "a text contains '<b>bold'" in words(app)
    assert "<b>" not in raw(app)


# ---- overview ------------------------------------------------------------------------------------------------------
def test_headline_and_ledger_lead_to_examples(smoke: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(smoke.run.path.parent, monkeypatch, run="smoke", task="nli")
    labels = [metric.label for metric in app.metric]
    assert labels == ["Single MT-DNN", "Teachers", "Ensemble", "Student, no KD", "Student, KD"]
    counts = ledger(table_of(Toy(smoke.run, {}, {}, {}, {}, {}), "nli", smoke.config.evaluate.split)).counts
    for name in ("taught", "mis-taught"):
        assert any(link.proto.label == f"{name} · {counts[name]:,}" for link in app.get("page_link"))
    for _, query in pages_linked(app):
        assert query["task"] == "nli"
        assert query["cohort"] in COHORTS
    cohort = COHORTS.index("kept")
    app.session_state["ledger"] = {"selection": {"points": [{"customdata": cohort}], "box": [], "lasso": []}}
    app.run()
    assert sound(app).title[0].value == "Explore"
    assert app.query_params["cohort"] == "kept"


def test_metrics_of_the_overview(smoke: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    for metric in ("score", "kl_truth", "nll", "ece"):
        app = opened(smoke.run.path.parent, monkeypatch, run="smoke", metric=metric)
        assert len(charts(app)) == 3
        assert not any(text in words(sound(app)) for text in BROKEN)
    app = opened(smoke.run.path.parent, monkeypatch, run="smoke", metric="nonsense")
    assert "metric=nonsense in the link is not known here" in words(app)


def test_a_metric_that_no_task_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = toys(tmp_path)
    row = {"task": "tri", "split": "test", "metric": "score", "value": 0.5, "n": 10}
    write_metrics(toy.run, [row | {"model": f"mt-{i}"} for i in (1, 2, 3)])
    app = opened(tmp_path / "runs", monkeypatch, run="toy", split="test", metric="ece")
    assert "No such number here" in words(sound(app))
    app = opened(tmp_path / "runs", monkeypatch, run="toy", split="test", metric="score")
    assert "No difference to show" in words(sound(app))


def test_choosing_a_run_in_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toys(tmp_path)
    write_toy(tmp_path / "runs" / "other", seed=1)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "run.json").write_text("{")
    app = opened(tmp_path / "runs", monkeypatch, run="toy")
    listed = list(app.dataframe[-1].value["run"])
    assert sorted(listed) == ["broken", "other", "toy"]
    key = next(str(key) for key in app.session_state.keys() if str(key).startswith("runs-"))  # noqa: SIM118
    app.session_state[key] = {"selection": {"rows": [listed.index("other")], "columns": [], "cells": []}}
    app.run()
    assert sound(app).query_params["run"] == "other"


def test_nothing_is_written(smoke: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The dashboard only reads: no file of the run is made, changed or touched."""
    run: Run = copy_of(smoke, tmp_path)

    def state() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in run.path.rglob("*")}

    before = state()
    app = opened(tmp_path, monkeypatch, run="run", task="nli")
    for page in PAGES:
        look(app, page, run="run", task="nli")
    assert state() == before


def test_the_page_follows_a_run_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The strip of a run in progress is a fragment; when the run ends, the whole page is drawn once more."""
    toy = toys(tmp_path, seeds=0, ensemble=False)
    toy.run.log("progress", job="mt-1", stage="multitask", epoch=0, step=25, steps=100, loss=1.5)
    with locked(toy.run.path):
        app = opened(tmp_path / "runs", monkeypatch, run="toy")
        assert "being made" in words(app)
        assert "They come with the last stage, evaluate" in words(app)
        assert not app.code  # a second process must not be started beside the one that works
    toy.run.log("stopped", error="power cut")
    app.run()
    assert "stopped half-way" in words(sound(app))
