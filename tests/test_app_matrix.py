"""Every page and view of the dashboard on every kind of run: whole, half, damaged, without one thing or another.

A page may say why it shows nothing, in a sentence, with the next command where there is one. It may not end in an
error, and it may not be empty: each look must find a chart, a table, or such a sentence.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished, copy_of
from looking import BROKEN, TITLES, VIEWS, look, opened, words
from streamlit.testing.v1 import AppTest
from test_refit import write_features
from test_views_results import with_dynamics
from test_views_toy import Toy, write_toy

from core.store import write_json

# (page, view) of all that can be opened.
LOOKS = [(page, view) for page in TITLES for view in VIEWS.get(page, ("",))]
ABOUT_A_RUN = [page for page in TITLES if page != "experiments"]
ABOUT_A_TASK = [page for page in ABOUT_A_RUN if page != "runs"]
SAID = (
    "Not defined here", "No results yet", "No scores to", "Nothing to fit", "Nothing to draw", "Nobody has been asked",
    "Nobody to ask", "weights were deleted", "Nobody has said anything", "No log", "No config", "No loss was logged",
    "Nothing has been run", "No task with classes", "No such number here", "No examples yet",
    "No experiments yet",
)  # fmt: skip


def see(app: AppTest, run: str, page: str, view: str, **query: str) -> str:
    """Opens it; returns its words. Something must be there: a figure, a table, or a sentence that says why not."""
    look(app, page, run=run, **({"view": view} if view else {}), **query)
    said = words(app)
    where = f"{page} {view} {query}: {said}"
    assert app.title[0].value == TITLES[page]
    assert app.get("plotly_chart") or app.dataframe or any(text in said for text in (*SAID, *BROKEN)), where
    return said


def see_all(folder: Path, monkeypatch: pytest.MonkeyPatch, run: str, **query: str) -> dict[tuple[str, str], str]:
    """All of LOOKS on one run; none of them broken."""
    app, said = opened(folder, monkeypatch, run=run, **query), {}
    for page, view in LOOKS:
        said[page, view] = see(app, run, page, view, **query)
        assert not any(text in said[page, view] for text in BROKEN), f"{page} {view} {query}: {said[page, view]}"
    return said


# ---- runs that are whole -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", ["nli", "paraphrase", "similarity", "relevance", "acceptability"])
def test_a_trained_run(smoke: Finished, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    """Three classes, two, a regression, a ranking, and a task without a teacher."""
    said = see_all(smoke.run.path.parent, monkeypatch, "smoke", task=task)
    two = "one wrong class" in said["dark_knowledge", "runner"]
    assert two == (task in ("paraphrase", "acceptability"))
    assert ("is a regression and has no distributions" in said["loss_lab", "one"]) == (task == "similarity")


@pytest.fixture
def whole(tmp_path: Path) -> Toy:
    """A toy with all that a run can have."""
    made = write_toy(tmp_path / "toy", variants=("hard", "kd", "dkpp", "cwtm"))
    for model in ("st-kd-s0", "st-hard-s0"):
        with_dynamics(made, model)
    write_features(made)
    return made


@pytest.mark.parametrize("split", ["test", "train", "selection"])
def test_a_run_with_everything(whole: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    said = see_all(tmp_path, monkeypatch, "toy", task="tri", split=split)
    if split == "test":
        missing = [look for look, text in said.items() if "Not defined here" in text]
        assert not missing


# ---- runs that lack something --------------------------------------------------------------------------------------
HALVES: dict[str, dict[str, Any]] = {
    "prepared alone": {"members": 1, "seeds": 0, "ensemble": False},
    "members without students": {"seeds": 0, "ensemble": False},
    "no ensemble": {"ensemble": False},
    "no baseline": {"variants": ("kd",)},
    "no distillation": {"variants": ("hard",)},
    "no students": {"variants": ()},
    "one member": {"members": 1},
    "one seed": {"seeds": 1},
    "no truth and no humans": {"known": False},
    "no gold": {"gold": False},
}


@pytest.mark.parametrize("half", HALVES)
def test_half_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: str) -> None:
    """Not evaluated either, and without weights."""
    toy = write_toy(tmp_path / "toy", **HALVES[half])
    if half == "prepared alone":
        shutil.rmtree(toy.run.path / "predictions")
    for task in ("tri", "two", "score") if half in ("prepared alone", "no baseline", "no gold") else ("tri",):
        said = see_all(tmp_path, monkeypatch, "toy", task=task, split="test")
        assert "No results yet" in said["overview", ""]
        if task == "tri" and half == "one member":
            assert "an ensemble's size needs two" in said["ensemble", "size"]
        if task == "tri" and half == "no truth and no humans":
            assert "Neither true probabilities nor annotators" in said["dark_knowledge", "truth"]


def test_a_run_that_was_stopped(smoke: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a killed run leaves it: the distillation is half done, and nothing after it."""
    run = copy_of(smoke, tmp_path)
    manifest = run.manifest()
    manifest["jobs"] = {
        name: job for name, job in manifest["jobs"].items() if name not in ("evaluate", "st-kd-s0", "st-hard-s1")
    }
    run.write_manifest(manifest)
    run.log("stopped", error="Interrupted")
    said = see_all(tmp_path, monkeypatch, "run", task="nli")
    assert "It ended with: Interrupted" in said["overview", ""]
    assert "No results yet" in said["overview", ""]


# ---- nothing, or nothing that can be read --------------------------------------------------------------------------
def test_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path / "not_there", tmp_path):
        app = opened(folder, monkeypatch)
        for page in ABOUT_A_RUN:
            look(app, page)
            assert "No runs yet" in words(app)
            assert app.code[0].value == f"python -m core run --preset demo --out {folder / 'demo'}"


DAMAGES = {
    "not valid JSON": lambda path: path.write_text("{"),
    "expected a run's manifest": lambda path: path.write_text("[]"),
    "schema version 99": lambda path: write_json(path, json.loads(path.read_text()) | {"schema_version": 99}),
    "'jobs' is missing or damaged": lambda path: write_json(path, json.loads(path.read_text()) | {"jobs": 3}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    DAMAGES[damage](write_toy(tmp_path / "toy").run.manifest_path)
    app = opened(tmp_path, monkeypatch)
    for page in ABOUT_A_RUN:
        look(app, page, run="toy")
        assert "This run cannot be shown" in words(app)
        assert damage in words(app)


@pytest.mark.parametrize("name", ["predictions", "examples", "ensembles.json", "metrics.parquet"])
def test_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smoke: Finished, name: str) -> None:
    """What needs the file says that it is not readable; what does not is shown as ever."""
    run = copy_of(smoke, tmp_path)
    path = {
        "predictions": run.predictions_path("st-kd-s0", "nli"), "examples": run.examples_path("nli"),
    }.get(name, run.path / name)  # fmt: skip
    path.write_bytes(b"torn")
    app, n_said = opened(tmp_path, monkeypatch, run="run", task="nli"), 0
    for page, view in LOOKS:
        n_said += path.name in see(app, "run", page, view, task="nli")
    assert n_said > 0


@pytest.mark.parametrize("key", ["task", "split"])
def test_crafted_tasks_and_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    write_toy(tmp_path / "toy")
    app = opened(tmp_path, monkeypatch)
    for page in ABOUT_A_TASK:
        look(app, page, **({"run": "toy", "task": "tri", "split": "test"} | {key: "../../etc/passwd"}))
        assert f"The link names the {key} '../../etc/passwd', which is not here" in words(app), page
