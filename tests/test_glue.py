"""GLUE's nine tasks through all stages but pre-training, with the preset `glue-small`, on a cut of the files of
$DARKROOM_DATA (default: ../shared/data), and where there is none on imitations in the same layouts: never nothing.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import TINY_STAGES, Finished, go, log_lines
from test_data import DATA, write_layouts

from core.presets import load_config
from core.report import build_report
from core.sections import GLUE_TEACHERS
from core.store import Run, read_json
from core.tasks import GLUE

CUT = (
    *("data.max_train=200", "data.max_eval=60", "evaluate.resamples=100", "model.max_length=64"),
    *("multitask.encoders=['random:bert(layers=1,hidden=32,heads=2)']", "multitask.seeds=[0]"),
    *("multitask.dropouts=[0.1,0.2]", "multitask.epochs=1", "select.top_k=2", "finetune.epochs=1"),
    *("distill.epochs=1", "distill.seeds=1", "runtime.workers=1", "runtime.device=cpu"),
)


def imitation(folder: Path, times: int) -> Path:
    """The imitated layouts, with every row of train and dev many times: enough to carve a split and to train on."""
    write_layouts(folder)
    for path in folder.rglob("*.tsv"):
        if path.stem.startswith(("train", "dev")):
            lines = path.read_bytes().decode().split("\n")
            header = 0 if path.parent.name == "CoLA" else 1
            body = [line for line in lines[header:] if line]
            path.write_bytes("\n".join([*lines[:header], *body * times, ""]).encode())
    return folder


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    place = tmp_path_factory.mktemp("glue")
    is_real = (DATA / "glue").is_dir()
    folder = DATA / "glue" if is_real else imitation(place / "glue", 40)
    tokenizer = DATA / "tokenizer" if (DATA / "tokenizer").is_dir() else "wordpiece(vocab=1000)"
    config = load_config("glue-small", None, [*CUT, f"data.glue_dir={folder}", f"model.tokenizer={tokenizer}"])
    assert config.data.source == "glue"
    return go(Run(place / "run"), config)


def test_nine_tasks_go_through_all_stages(glue: Finished) -> None:
    assert {record["stage"] for record in glue.manifest["jobs"].values()} == set(TINY_STAGES)
    teachers = {f"ft-{i}-{task}" for i in (1, 2) for task in GLUE_TEACHERS}
    models = {"mt-1", "mt-2", "ens-mean_probs", "st-hard-s0", "st-kd-s0", *teachers}
    assert set(glue.run.models()) == models
    assert {path.stem for path in (glue.run.path / "targets").iterdir()} == set(GLUE_TEACHERS)
    for model in models - teachers:
        assert glue.run.tasks_of(model) == sorted(GLUE)
        for name, task in GLUE.items():
            outputs = glue.run.read_predictions(model, name).outputs
            assert np.isfinite(outputs).all()
            assert outputs.shape[1:] == (() if task.kind == "regression" else (len(task.labels),))


def test_the_cut_is_a_cut_and_every_task_is_there(glue: Finished) -> None:
    for name in GLUE:
        rows = glue.manifest["jobs"]["prepare"]["tasks"][name]["rows"]
        assert 2 <= rows["train"] <= 200
        assert 1 <= rows["dev"] <= 60
        assert 1 <= rows["selection"] <= 60
        if (DATA / "glue").is_dir():
            assert rows["train"] == 200
    assert sum(rows["train"] for rows in (r["rows"] for r in glue.manifest["jobs"]["prepare"]["tasks"].values())) > 300


def test_every_task_is_scored_by_glues_metrics(glue: Finished) -> None:
    rows = pq.read_table(glue.run.path / "metrics.parquet").to_pylist()
    for name, task in GLUE.items():
        found = {row["metric"]: row["value"] for row in rows if (row["task"], row["split"]) == (name, "dev")}
        assert {*task.metrics, "score"} <= found.keys()
        kd = {
            row["metric"]: row["value"]
            for row in rows
            if (row["model"], row["task"], row["split"]) == ("st-kd-s0", name, "dev")
        }
        # GLUE's convention: the mean of a task's metrics. Float64 rounding of a sum of two.
        assert kd["score"] == pytest.approx(math.fsum(kd[m] for m in task.metrics) / len(task.metrics), abs=1e-12)
    report = build_report(glue.run)
    json.dumps(report, allow_nan=False)
    names = [row["name"] for row in report["tables"]["score"]]
    assert sorted(names) == sorted([*GLUE, "with a teacher", "without", "all tasks"])
    assert all(row["teacher"] for row in report["tables"]["score"][:4])
    assert read_json(glue.run.path / "selection.json")["split"] == "selection"
    assert glue.manifest["jobs"]["evaluate"]["models"] == 13


def test_a_split_without_labels_cannot_be_reported_and_that_is_said_before_training(tmp_path: Path) -> None:
    folder = imitation(tmp_path / "glue", 30)
    run = Run(tmp_path / "run")
    tasks = ("data.tasks=[rte,cola]", "data.teacher_tasks=[rte]", "evaluate.split=test")
    options = [*CUT, *tasks, f"data.glue_dir={folder}", "model.tokenizer=wordpiece(vocab=500)"]
    message = r"task '\w+' has no labelled row in split 'test', which evaluate\.split names; .* labels: selection, dev"
    for keep in ("true", "false"):
        with pytest.raises(ValueError, match=message):
            go(run, load_config("glue-small", None, [*options, f"data.keep_unlabelled={keep}"]))
    assert run.models() == []
    assert len(log_lines(run, event="stopped")) == 2
