"""The dashboard as a whole and its overview: URLs, the header's choices, runs that change under it, names that reach
for other folders, text that is not taken for Markdown. Every page on every kind of run is in test_app_matrix.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import Finished, copy_of
from looking import BROKEN, TITLES, charts, links, look, opened, queries, raw, select, sound, words
from test_views_toy import Toy, table_of, write_metrics, write_toy

from core.locks import locked
from core.store import Run
from core.views.cohorts import ledger
from core.views.derived import COHORTS

NASTY = "<b>bold</b> **b** :red[r] $x^2$ [l](http://a.b) <script>alert(1)</script>"


def toys(tmp_path: Path, **options: Any) -> Toy:
    return write_toy(tmp_path / "runs" / "toy", **options)


# ---- a finished run ------------------------------------------------------------------------------------------------
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


def test_a_run_in_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = toys(tmp_path, seeds=0, ensemble=False)
    toy.run.log("progress", job="mt-1", stage="multitask", epoch=0, step=25, steps=100, loss=1.5)
    with locked(toy.run.path):
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
    labels = [re.sub(r"\\(.)", r"\1", link.proto.label) for link in links(app)]
    assert any(NASTY[:40] in label for label in labels)  # the neighbours
    everything = re.sub(r"\\.", "_", "\n".join(raw(app)))  # what is left has a meaning in Markdown
    for mark in ("<b>", "**b**", ":red[", "$x", "](http", "<script"):
        assert mark not in everything
    look(app, "explore", run="toy", task="tri", split="test", text="<b>bold")
    assert app.dataframe[0].value["text"][0] == NASTY  # a table shows text as it is
    assert "a text contains '<b>bold'" in words(app)
    assert not any("<b>" in text for text in raw(app))


# ---- overview ------------------------------------------------------------------------------------------------------
def test_headline_and_ledger_lead_to_examples(smoke: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(smoke.run.path.parent, monkeypatch, run="smoke", task="nli")
    labels = [metric.label for metric in app.metric]
    assert labels == ["Single MT-DNN", "Teachers", "Ensemble", "Student, no KD", "Student, KD"]
    counts = ledger(table_of(Toy(smoke.run, {}, {}, {}, {}, {}), "nli", smoke.config.evaluate.split)).counts
    for name in ("taught", "mis-taught"):
        assert any(link.proto.label == f"{name} · {counts[name]:,}" for link in links(app))
    assert all(query["task"] == "nli" for query in queries(app))
    assert {query["cohort"] for query in queries(app) if "cohort" in query} == {
        "taught",
        "surpassed",
        "mis-taught",
        "lost",
    }
    cohort = COHORTS.index("kept")
    select(app, "ledger", points=[{"customdata": cohort}])
    assert app.title[0].value == "Explore"
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
    select(app, "runs-", rows=[listed.index("other")])
    assert app.query_params["run"] == "other"


def test_nothing_is_written(smoke: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The dashboard only reads: no file of the run is made, changed or touched."""
    run: Run = copy_of(smoke, tmp_path)

    def state() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in run.path.rglob("*")}

    before = state()
    app = opened(tmp_path, monkeypatch, run="run", task="nli")
    for page in TITLES:
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
