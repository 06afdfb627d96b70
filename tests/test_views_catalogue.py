"""Runs found, opened and described: damaged and half-finished ones become sentences, and no name leads out."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import pytest
from conftest import Finished
from test_views_toy import write_toy

from core.locks import locked
from core.plan import STAGES
from core.store import Run, read_json, write_json
from core.views.catalogue import find_runs, models_of_run, open_run, stages_of, tasks_of_run

ROOT = Path(__file__).resolve().parents[1]


def test_a_finished_run(smoke: Finished) -> None:
    (found,) = find_runs(smoke.run.path.parent)
    assert (found.name, found.status, found.error) == ("smoke", "finished", None)
    assert found.stages_done == found.stages_total == len(STAGES) - 1  # no pre-training
    assert found.tasks == tuple(smoke.manifest["tasks"])
    assert found.preset == "smoke"
    assert found.created == smoke.manifest["created"]
    assert found.last_log_seconds is not None
    assert 0 <= time.time() - found.last_log_seconds < 3600


def test_models_of_a_finished_run(smoke: Finished) -> None:
    models = models_of_run(smoke.run)
    assert models.of_kind("member") == ("mt-1", "mt-2", "mt-3")
    chosen = read_json(smoke.run.path / "selection.json")["chosen"]
    assert models.teachers("nli") == tuple(f"ft-{member.removeprefix('mt-')}-nli" for member in chosen)
    assert models.teachers("similarity") == tuple(chosen)  # no teacher: the ensemble is of the members
    assert models.students("nli") == {
        variant: {seed: f"st-{variant}-s{seed}" for seed in range(2)} for variant in ("hard", "kd")
    }
    assert models.taught_by == "ens-mean_probs"
    assert set(models.roles) == set(smoke.run.models())


def test_half_finished_in_progress_and_stopped(copied: Run) -> None:
    manifest = copied.manifest()
    for name in ("evaluate", "st-kd-s1", "ensemble"):
        del manifest["jobs"][name]
    copied.write_manifest(manifest)
    with locked(copied.path):  # what makes a run one in progress, and not when it last said something
        (found,) = find_runs(copied.path.parent)
        assert (found.status, found.stages_done) == ("in progress", 4)
    (found,) = find_runs(copied.path.parent)
    assert found.status == "half-finished"
    counts = stages_of(copied)
    assert counts["distill"] == (3, 4)
    assert counts["ensemble"] == (0, 1)
    # Files of jobs that are not done may be from another config: they are not shown.
    models = models_of_run(copied)
    assert "st-kd-s1" not in models.roles
    assert models.of_kind("ensemble") == ()
    assert models.taught_by is None
    assert len(models.teachers("nli")) == 2


def test_before_the_selection_later_stages_are_unknown(copied: Run) -> None:
    manifest = copied.manifest()
    manifest["jobs"] = {name: job for name, job in manifest["jobs"].items() if name in ("prepare", "mt-1")}
    copied.write_manifest(manifest)
    counts = stages_of(copied)
    assert counts["multitask"] == (1, 3)
    assert counts["distill"] == (0, 0)
    assert models_of_run(copied).teachers("nli") == ()
    (found,) = find_runs(copied.path.parent)
    assert (found.stages_done, found.stages_total) == (1, len(STAGES) - 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds a list"),
        ('{"schema_version": 99, "versions": {"core": "9.9"}}', "schema version 99"),
        ('{"schema_version": 1}', "'tasks' is missing"),
        ('{"schema_version": 1, "tasks": {}, "config": {}, "jobs": []}', "'jobs' is missing or damaged"),
        ('{"schema_version": 1, "tasks": {}, "config": {}, "jobs": {"a": {}}}', "no stage or status"),
        ('{"schema_version": 1, "tasks": {"a": {"colour": 1}}, "config": {}, "jobs": {}}', "another version"),
        ('{"schema_version": [1]}', r"schema version \[1\]"),
        ('{"schema_version": 1, "imported": true, "tasks": {}, "config": null}', "'config' is missing or damaged"),
        ('{"schema_version": 1, "tasks": {}, "config": {"colour": 1}, "jobs": {}}', "colour"),
        ("\udcff", "run.json|utf-8|decode"),
    ],
)
def test_a_damaged_run_is_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    write_toy(tmp_path / "good", tasks=["tri"])
    found = {summary.name: summary for summary in find_runs(tmp_path)}
    assert found["bad"].status == "unreadable"
    assert found["bad"].error is not None
    assert __import__("re").search(message, found["bad"].error), found["bad"].error
    assert found["good"].error is None
    assert [summary.name for summary in find_runs(tmp_path)] == ["good", "bad"]  # unreadable ones last


@pytest.mark.parametrize("imported", [False, True])
def test_whatever_stands_in_a_manifest_is_read_or_a_sentence(copied: Run, imported: bool) -> None:
    """A value of it, down to the fields of sections, replaced by what it is not."""
    write_toy(copied.path.parent / "good", tasks=["tri"])  # to be sorted with
    manifest = copied.manifest() | {"imported": imported}
    places: list[tuple[str, ...]] = [(key,) for key in manifest]
    places += [("config", section) for section in manifest["config"]]
    places += [
        ("config", section, field) for section in ("multitask", "select") for field in manifest["config"][section]
    ]
    places += [("jobs", "select"), ("tasks", "nli"), *(("tasks", "nli", field) for field in manifest["tasks"]["nli"])]
    refused = 0
    for *way, last in places:
        for value in (None, 3, [1], {"a": 1}, "x"):
            damaged = deepcopy(manifest)
            holder = damaged
            for key in way:
                holder = holder[key]
            holder[last] = value
            write_json(copied.manifest_path, damaged)
            found = {summary.name: summary for summary in find_runs(copied.path.parent)}
            assert found["good"].error is None
            refused += found[copied.path.name].error is not None
    assert refused > len(places) / 2


def test_damaged_files_beside_the_manifest(copied: Run) -> None:
    (copied.path / "ensembles.json").write_text("[]")
    with pytest.raises(ValueError, match=r"ensembles.json holds a list"):
        models_of_run(copied)
    (copied.path / "ensembles.json").write_text('{"ens-mean_probs": {"tasks": {"nli": 3}}}')
    with pytest.raises(ValueError, match="re-run stage 'ensemble'"):
        models_of_run(copied)
    (copied.path / "selection.json").write_text("3")
    (found,) = find_runs(copied.path.parent)
    assert found.status == "unreadable"
    assert "selection.json holds a int" in (found.error or "")


def test_what_is_no_run_is_not_listed(tmp_path: Path) -> None:
    assert find_runs(tmp_path / "nowhere") == []
    (tmp_path / "empty").mkdir()
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "run.json").write_text("{}")
    assert find_runs(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../secret", "a/../../secret", "/etc", "good/", "good/../good", "..\\secret", "C:good", "\0",
     "a" * 5000, "good\0", ".hidden", "~", "good/predictions"],
)  # fmt: skip
def test_no_name_leads_out(tmp_path: Path, name: str) -> None:
    runs = tmp_path / "runs"
    for folder in (runs / "good", tmp_path / "secret", runs / ".hidden"):
        write_toy(folder, tasks=["tri"])
    assert open_run(runs, "good").path == runs / "good"
    with pytest.raises(ValueError, match=r"not the name of a run|no run"):
        open_run(runs, name)


def test_links(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_toy(runs / "good", tasks=["tri"])
    write_toy(tmp_path / "secret", tasks=["tri"])
    (runs / "out").symlink_to(tmp_path / "secret")
    (runs / "twice").symlink_to(runs / "out")
    (runs / "inside").symlink_to(runs / "good")
    (runs / "loop").symlink_to(runs / "loop")
    with pytest.raises(ValueError, match="no run 'loop'"):
        open_run(runs, "loop")
    for name in ("out", "twice"):
        with pytest.raises(ValueError, match="leads out"):
            open_run(runs, name)
    assert open_run(runs, "inside").manifest()
    found = {summary.name: summary for summary in find_runs(runs)}
    assert found["out"].status == "unreadable"
    assert "leads out" in (found["out"].error or "")


def test_an_unknown_name_says_the_nearest(tmp_path: Path) -> None:
    write_toy(tmp_path / "demo", tasks=["tri"])
    with pytest.raises(ValueError, match=r"no run 'dmo' .* did you mean 'demo'\?"):
        open_run(tmp_path, "dmo")
    with pytest.raises(ValueError, match="no run"):
        open_run(tmp_path / "nowhere", "demo")


def test_an_imported_run(tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "mine", tasks=["tri"])
    manifest = toy.run.manifest()
    for old, new in (("ft-1-tri", "bert"), ("st-kd-s0", "small")):
        shutil.move(toy.run.path / "predictions" / old, toy.run.path / "predictions" / new)
    kept = {key: manifest[key] for key in ("schema_version", "tasks", "created")}
    write_json(toy.run.manifest_path, {**kept, "imported": True, "models": {"bert": "teacher", "small": "student"}})
    (found,) = find_runs(tmp_path)
    assert (found.status, found.stages_total, found.error) == ("imported", 0, None)
    models = models_of_run(open_run(tmp_path, "mine"))
    assert models.teachers("tri") == ("bert",)
    assert models.students("tri") == {"kd": {0: "small"}}
    assert set(models.roles) == {"bert", "small"}  # the other files have no role
    assert set(tasks_of_run(toy.run)) == {"tri"}
    write_json(toy.run.manifest_path, {**kept, "imported": True, "models": {"bert": "professor"}})
    with pytest.raises(ValueError, match=r"run.json: model 'bert' has the role 'professor'"):
        models_of_run(toy.run)


def test_no_torch_and_no_page_in_any_of_the_views() -> None:
    names = sorted(path.stem for path in (ROOT / "core" / "views").glob("*.py"))
    assert len(names) > 10
    modules = ["core.views" if name == "__init__" else f"core.views.{name}" for name in names]
    code = (
        f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
        "print(sorted({'torch', 'transformers', 'streamlit', 'plotly', 'pandas', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
