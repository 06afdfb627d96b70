"""The pages runs, try_it and experiments: four views of a run, two configs side by side, models that answer a person's
text, and what grids over draws of the data found.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import Finished, copy_of
from looking import BROKEN, charts, look, opened, sound, words
from test_app import NASTY, toys
from test_findings import made_up
from test_views_toy import write_toy


# ---- runs ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("view", ["time", "curves", "config", "log"])
def test_views_of_runs(smoke: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, view: str) -> None:
    app = opened(smoke.run.path.parent, monkeypatch, "runs", run="smoke", view=view)
    assert not any(text in words(app) for text in BROKEN)
    assert app.dataframe or charts(app)
    toys(tmp_path)  # no log, hardly a config
    look(opened(tmp_path / "runs", monkeypatch), "runs", run="toy", view=view)


def test_two_runs_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toys(tmp_path)
    other = write_toy(tmp_path / "runs" / "other").run
    manifest = other.manifest()
    manifest["config"]["distill"]["alpha"] = 0.125
    other.write_manifest(manifest)
    app = opened(tmp_path / "runs", monkeypatch, "runs", run="toy", view="config", **{"with": "other"})
    table = app.dataframe[0].value
    assert list(table["field"]) == ["distill.alpha"]
    assert "0.125" in table["change"][0]
    app.text_input(key="config-text").set_value("nothing like it").run()
    assert "No field holds this" in words(sound(app))


# ---- try it --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", ["nli", "relevance", "similarity", "acceptability"])
def test_everybody_answers(smoke: Finished, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    from core.ask import ask

    app = opened(smoke.run.path.parent, monkeypatch, "try_it", run="smoke", task=task)
    assert "Nobody has been asked yet" in words(app)
    next(button for button in app.button if button.label == "Ask everybody").click().run()
    assert len(charts(sound(app))) == 1
    said = app.dataframe[0].value
    assert set(said["model"]) >= {"st-kd-s0", "st-hard-s1"}
    if task == "nli":
        texts = [area.value for area in app.text_area]
        expected = ask(smoke.run, "st-kd-s0", task, texts[0], text_b=texts[1])["probs"]
        row = said[said["model"] == "st-kd-s0"].iloc[0]
        assert [row[f"{i}. {label}"] for i, label in enumerate(expected, 1)] == pytest.approx(list(expected.values()))
        before = charts(app)
        app.text_area[0].set_value("quite another text").run()  # asked again without a click
        assert charts(sound(app)) != before
        app.text_area[0].set_value("").run()
        assert "Type a text." in words(sound(app))


def test_weights_that_were_deleted(smoke: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = copy_of(smoke, tmp_path)
    shutil.rmtree(run.model_dir("st-kd-s0"))
    app = opened(tmp_path, monkeypatch, "try_it", run="run", task="nli")
    assert "Without weights, hence silent: st-kd-s0." in words(app)
    shutil.rmtree(run.path / "models")
    app = opened(tmp_path, monkeypatch, "try_it", run="run", task="nli")
    assert "The models' weights were deleted" in words(app)
    assert app.code[0].value.startswith("python -m core run --out")
    for page in ("overview", "explore", "example", "runs"):
        assert not any(text in words(look(app, page, run="run", task="nli")) for text in BROKEN)


# ---- experiments ---------------------------------------------------------------------------------------------------
def test_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure and the tables of the file, hostile text as text, and nothing of what lies outside."""
    app = opened(tmp_path, monkeypatch, "experiments")
    assert "No experiments yet" in words(app)
    assert app.code[0].value.startswith("python -m core experiment")
    (tmp_path / "runs" / "results").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    made_up(tmp_path / "runs" / "results", question=NASTY)
    made_up(tmp_path / "outside")
    (tmp_path / "runs" / "results" / "away.parquet").symlink_to(tmp_path / "outside" / "toy.parquet")
    app = opened(tmp_path / "runs", monkeypatch, "experiments", of="nli")
    assert app.selectbox[0].options == ["toy"]
    assert NASTY in words(app)
    assert len(charts(app)) == 1
    means, untaught, nli = (table.value for table in app.dataframe)
    assert list(means["cell"]) == ["alone", "taught", "noise", "ensemble"]
    assert means["accuracy: difference"][1].endswith("better")
    assert "no difference" in untaught["score: difference"][1]
    assert nli["score"][1] == means["accuracy"][1]


def test_an_experiment_that_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(tmp_path, about={"title": "half"})
    assert "its metadata lack" in words(opened(tmp_path, monkeypatch, "experiments"))
