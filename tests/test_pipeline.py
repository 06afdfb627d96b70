"""The pipeline on the embedded suite: what a second run skips, redoes, adds or refuses.

Elsewhere: what a run leaves behind (tests/test_run_dir.py), kills (tests/test_resume.py), what the stages compute
(tests/test_stages.py).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TINY, TINY_STAGES, Finished, changed, go, keys, models_of, ran, results, tiny

from core.progress import Progress
from core.report import build_report
from core.store import Run
from core.tasks import SUITE

ROOT = Path(__file__).resolve().parents[1]
TEACHER_TASKS = [name for name, task in SUITE.items() if task.has_teacher]
STUDENTS = ["st-hard-s0", "st-hard-s1", "st-kd-s0", "st-kd-s1"]


# ---- a second run ---------------------------------------------------------------------------------------------------
def test_a_second_run_skips_everything_and_starts_no_torch(copied: Run) -> None:
    before, n_ran = results(copied), len(ran(copied))
    code = (
        "import sys\nfrom core.cli import app\ntry: app(sys.argv[1:])\nexcept SystemExit as end: assert not end.code\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    sets = [part for item in TINY for part in ("--set", item)]
    command = [sys.executable, "-c", code, "run", "--preset", "smoke", "--out", str(copied.path), *sets]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]"
    assert [line.split()[1] for line in lines if line.endswith("up to date")] == TINY_STAGES
    assert any(line.startswith("Score x 100") for line in lines)
    assert len(ran(copied)) == n_ran
    assert results(copied) == before


def test_another_alpha_is_refused_and_redone_on_demand(copied: Run) -> None:
    before, manifest = results(copied), copied.manifest()
    message = (
        r"holds a run of another config \(distill\.alpha: 0\.5 -> 0\.9\).* 2 finished jobs: st-kd-s0, st-kd-s1\. Give"
    )
    with pytest.raises(ValueError, match=message):
        go(copied, tiny("distill.alpha=0.9"))
    assert (results(copied), copied.manifest()) == (before, manifest)  # refused means untouched
    n_ran = len(ran(copied))
    updated = go(copied, tiny("distill.alpha=0.9"), update=True)
    assert ran(copied, n_ran) == ["st-kd-s0", "st-kd-s1", "evaluate"]
    different = changed(before, results(copied))
    assert models_of(different) == {"st-kd-s0", "st-kd-s1"}
    assert {name for name in different if not name.startswith(("predictions", "dynamics"))} == {"metrics.parquet"}
    assert updated.manifest["config"]["distill"]["alpha"] == 0.9
    assert go(copied, tiny("distill.alpha=0.9")).shown.count("up to date") == len(TINY_STAGES)
    # And back: the models in place of which these were trained have left no trace.
    go(copied, tiny(), update=True)
    assert results(copied) == before


def test_more_seeds_extend_and_fewer_are_refused(copied: Run) -> None:
    before, n_ran = results(copied), len(ran(copied))
    more = go(copied, tiny("distill.seeds=3", "distill.variants=[hard,kd]"))
    assert ran(copied, n_ran) == ["st-hard-s2", "st-kd-s2", "evaluate"]
    different = changed(before, results(copied))
    assert models_of(different) == {"st-hard-s2", "st-kd-s2"}
    assert build_report(copied)["n_seeds"] == 3
    with pytest.raises(ValueError, match="replace 2 finished jobs: st-hard-s2, st-kd-s2"):
        go(copied, tiny())
    back = go(copied, tiny(), update=True)
    assert keys(back.manifest) != keys(more.manifest)
    assert results(copied) == before  # the orphans went, and what was there is what there was
    assert not copied.model_dir("st-kd-s2").exists()


def test_from_redoes_a_stage_and_all_after_it(copied: Run) -> None:
    before, n_ran = results(copied), len(ran(copied))
    weights = results(copied, "models")
    go(copied, tiny(), first_stage="ensemble")
    assert ran(copied, n_ran) == ["ensemble", *STUDENTS, "evaluate"]
    assert results(copied) == before
    assert results(copied, "models") == weights


def test_only_redoes_one_stage_and_needs_its_inputs(copied: Run) -> None:
    before, n_ran = results(copied), len(ran(copied))
    (copied.path / "metrics.parquet").unlink()
    with pytest.raises(ValueError, match=r"no results .*\(last stage done: evaluate\).* --only evaluate`"):
        build_report(copied)
    go(copied, tiny(), only_stage="evaluate")
    assert ran(copied, n_ran) == ["evaluate"]
    assert results(copied) == before
    with pytest.raises(ValueError, match=r"'st-kd-s0' \(stage 'distill'\) is not up to date\. Run --from distill, or"):
        go(copied, tiny("distill.alpha=0.9"), only_stage="evaluate", update=True)
    with pytest.raises(ValueError, match="stage 'distil' is not known, expected one of prepare, pretrain, multitask"):
        go(copied, tiny(), only_stage="distil")
    with pytest.raises(ValueError, match="'finetune' cannot run alone: 'select' is not up to date"):
        go(Run(copied.path.with_name("new")), tiny(), only_stage="finetune")


def test_a_stage_redone_alone_leaves_no_results_of_two_configs(copied: Run) -> None:
    """--only with a new setting replaces that stage; the report then has no numbers until the rest has followed."""
    go(copied, tiny("finetune.lr=1e-4"), only_stage="finetune")
    with pytest.raises(ValueError, match=r"no results of its present config \(last stage done: distill\)"):
        build_report(copied)
    with pytest.raises(ValueError, match="replace 2 finished jobs: st-kd-s0, st-kd-s1"):
        go(copied, tiny("finetune.lr=1e-4"))
    n_ran = len(ran(copied))
    go(copied, tiny("finetune.lr=1e-4"), update=True)
    assert ran(copied, n_ran) == ["ensemble", "st-kd-s0", "st-kd-s1", "evaluate"]


def test_another_selection_is_asked_for_and_leaves_no_trace_of_the_old(copied: Run) -> None:
    chosen = copied.manifest()["jobs"]["select"]["chosen"]
    with pytest.raises(ValueError, match=r"select\.top_k: 2 -> 1.*Going on would replace 10 finished jobs"):
        go(copied, tiny("select.top_k=1"))
    assert copied.manifest()["jobs"]["select"]["chosen"] == chosen
    n_ran = len(ran(copied))
    manifest = go(copied, tiny("select.top_k=1"), update=True).manifest
    assert ran(copied, n_ran) == ["select", "ensemble", "st-kd-s0", "st-kd-s1", "evaluate"]
    assert manifest["jobs"]["select"]["chosen"] == chosen[:1]
    teachers = {f"ft-{chosen[0][3:]}-{task}" for task in TEACHER_TASKS}
    assert {name for name in manifest["jobs"] if name.startswith("ft-")} == teachers
    assert {name for name in copied.models() if name.startswith("ft-")} == teachers
    # Nothing of the old choice is left to be refused over.
    assert go(copied, tiny("select.top_k=1")).shown.count("up to date") == len(TINY_STAGES)


def test_a_stopped_update_goes_on_and_reports_nothing_in_between(copied: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from core import stages

    monkeypatch.setitem(stages.RUN_STAGE, "distill", _out_of_disk)
    with pytest.raises(OSError, match="no space left"):
        go(copied, tiny("distill.alpha=0.9"), update=True)
    with pytest.raises(ValueError, match="no results of its present config"):
        build_report(copied)
    monkeypatch.undo()
    n_ran = len(ran(copied))
    go(copied, tiny("distill.alpha=0.9"))  # the same command, and even without --update
    assert ran(copied, n_ran) == ["st-kd-s0", "st-kd-s1", "evaluate"]


def _out_of_disk(context: Any) -> dict[str, Any]:
    raise OSError("no space left on device")


# ---- weights, sources, folders --------------------------------------------------------------------------------------
def test_deleted_weights_come_back_only_when_needed_and_the_same(copied: Run) -> None:
    before, weights = results(copied), results(copied, "models")
    shutil.rmtree(copied.path / "models")
    assert go(copied, tiny()).shown.count("up to date") == len(TINY_STAGES)
    assert not (copied.path / "models").exists()
    n_ran = len(ran(copied))
    go(copied, tiny(), first_stage="finetune")
    chosen = copied.manifest()["jobs"]["select"]["chosen"]
    again = ran(copied, n_ran)
    assert sorted(again[:2]) == sorted(chosen)  # the members that teachers start from, and no other
    assert "mt-" not in " ".join(again[2:])
    assert len(again) == 2 + 8 + 1 + 4 + 1
    assert results(copied) == before
    left_out = ({"mt-1", "mt-2", "mt-3"} - set(chosen)).pop()
    assert results(copied, "models") == {name: b for name, b in weights.items() if name.split("/")[1] != left_out}


def test_weights_can_be_thrown_away_after_the_run(tmp_path: Path, smoke: Finished) -> None:
    small = ("data.tasks=[sentiment]", "multitask.dropouts=[0.1,0.2]", "distill.seeds=1", "runtime.keep_models=false")
    run = go(Run(tmp_path / "run"), tiny(*small)).run
    assert not (run.path / "models").exists()
    assert build_report(run)["tables"]["score"][0]["name"] == "sentiment"
    # A sole task: the examples of the others moved nothing in this one's, but the word list is of one task.
    assert run.read_examples("sentiment").equals(smoke.run.read_examples("sentiment"))


def test_folders_that_are_no_run_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("five years", encoding="utf-8")
    for place in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ValueError, match="exists, is not empty and holds no run; give an empty or new folder"):
            go(Run(place), tiny())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_deleted_selection_is_made_again(copied: Run) -> None:
    before, n_ran = results(copied), len(ran(copied))
    (copied.path / "selection.json").unlink()
    go(copied, tiny())
    assert ran(copied, n_ran) == ["select", "ensemble", "evaluate"]
    assert results(copied) == before


def test_changed_source_files_are_noticed(tmp_path: Path) -> None:
    rows = "".join(f"{word} {i},{label}\n" for i in range(40) for word, label in (("fine", "a"), ("awful", "b")))
    for name in ("train", "dev"):
        (tmp_path / f"{name}.csv").write_text("text_a,label\n" + rows, encoding="utf-8")
    own = tmp_path / "own.yaml"
    task = {"files": {"train": "train.csv", "dev": "dev.csv"}, "labels": ["a", "b"], "has_teacher": True}
    own.write_text(json.dumps({"mine": task}), encoding="utf-8")
    config = tiny(
        *(
            f"data.tasks_file={own}",
            "data.source=files",
            "data.tasks=[mine]",
            "evaluate.split=dev",
            "data.selection=10",
        ),
        *("multitask.dropouts=[0.1]", "select.top_k=1", "distill.seeds=1"),
    )
    run = go(Run(tmp_path / "run"), config).run
    assert go(run, config).shown.count("up to date") == len(TINY_STAGES)
    (tmp_path / "train.csv").write_text("text_a,label\n" + rows + "good,a\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"the source files or the code have changed.* finished jobs: prepare, mt-1"):
        go(run, config)
    # The finished run is readable without the files that it was made from.
    own.unlink()
    assert build_report(run)["tables"]["accuracy"][0]["name"] == "mine"


# ---- side by side ---------------------------------------------------------------------------------------------------
class _Tampering(Progress):
    """Swaps the targets' labels when the students are about to start: their worker raises."""

    def start(self, stage: str, jobs: list[str]) -> None:
        super().start(stage, jobs)
        if stage == "distill":
            path = _Tampering.run.targets_path("nli")
            table = pq.read_table(path)
            names = pa.array([["x", "y", "z"]] * len(table))
            pq.write_table(table.set_column(table.column_names.index("label_names"), "label_names", names), path)

    run: Run


def test_workers_give_the_same_bytes_and_a_failing_one_stops_the_run(tmp_path: Path, smoke: Finished) -> None:
    run = _Tampering.run = Run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"nli\.parquet has the labels \('x', 'y', 'z'\).* redo 'ensemble'"):
        go(run, tiny("runtime.workers=2"), _Tampering)
    stopped = [line for line in (run.path / "log.jsonl").read_text(encoding="utf-8").splitlines() if "stopped" in line]
    assert len(stopped) == 1
    assert re.search(r"ValueError.*redo 'ensemble'", stopped[0])
    assert not any(name.startswith("st-kd") for name in keys(run.manifest()))
    n_ran = len(ran(run))
    shown = go(run, tiny("runtime.workers=1"), first_stage="ensemble").shown
    assert ran(run, n_ran) == ["ensemble", *STUDENTS, "evaluate"]
    assert "5/8 finetune  up to date" in shown
    assert results(run) == results(smoke.run)
    assert keys(run.manifest()) == keys(smoke.manifest)
