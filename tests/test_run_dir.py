"""What a finished run leaves behind: every file that docs/run-directory.md names, with its columns, and no other."""

from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from conftest import TINY_STAGES, Finished, keys

from core.config import resolve_tasks, validated
from core.plan import STAGES, make_jobs
from core.tasks import SUITE

TEACHER_TASKS = [name for name, task in SUITE.items() if task.has_teacher]
STUDENTS = ["st-hard-s0", "st-hard-s1", "st-kd-s0", "st-kd-s1"]


def test_every_documented_file_is_there(smoke: Finished) -> None:
    run, manifest = smoke.run, smoke.manifest
    chosen = manifest["jobs"]["select"]["chosen"]
    assert len(chosen) == 2
    teachers = {f"ft-{member[3:]}-{task}": [task] for member in chosen for task in TEACHER_TASKS}
    whole = {name: list(SUITE) for name in ("mt-1", "mt-2", "mt-3", *STUDENTS)}
    for model, tasks in {**whole, **teachers}.items():
        assert run.tasks_of(model) == sorted(tasks)
        for task in tasks:
            assert run.dynamics_path(model, task).exists()
        files = {str(file.relative_to(run.model_dir(model))) for file in run.model_dir(model).rglob("*")}
        assert {"model.json", "heads.safetensors", "encoder/model.safetensors", "encoder/tokenizer.json"} <= files
        assert not any("checkpoint" in name for name in files)
    assert run.tasks_of("ens-mean_probs") == sorted(SUITE)
    assert set(run.models()) == {*whole, *teachers, "ens-mean_probs"}
    assert sorted(path.stem for path in (run.path / "targets").iterdir()) == sorted(TEACHER_TASKS)
    assert {path.name for path in run.path.iterdir()} == {
        *("run.json", "log.jsonl", "examples", "predictions", "dynamics", "targets", "models", "tokenizers", "cache"),
        *("selection.json", "ensembles.json", "metrics.parquet", "checksums.sha256"),
    }
    forbidden = [path for path in run.path.rglob("*") if path.suffix in (".tmp", ".pkl", ".pickle", ".pt", ".bin")]
    assert forbidden == []


def test_the_columns_are_the_documented_ones(smoke: Finished) -> None:
    run = smoke.run
    for name, task in SUITE.items():
        output = "value" if task.kind == "regression" else "logits"
        assert pq.read_schema(run.predictions_path("mt-1", name)).names == ["example_id", "split", output]
        assert pq.read_schema(run.dynamics_path("mt-1", name)).names == ["example_id", "epoch", output]
        examples = run.read_examples(name)
        assert {"example_id", "split", "text_a"} <= set(examples.column_names)
        splits = {"train": 120, "selection": 40, "dev": 40, "test": 48}
        assert Counter(examples["split"].to_pylist()) == splits
        predicted = run.read_predictions("st-kd-s1", name)
        held_out = examples.filter(pa.compute.not_equal(examples["split"], "train"))["example_id"].to_pylist()
        assert predicted.example_ids.tolist() == held_out
    assert pq.read_schema(run.path / "metrics.parquet").names == (
        ["model", "task", "split", "metric", "value", "ci_low", "ci_high", "n", "seed"]
    )
    for task in TEACHER_TASKS:
        columns = ["example_id", "logits", "members", "in_sample", "label_names"]
        assert pq.read_schema(run.targets_path(task)).names == columns
        teacher = run.read_predictions(f"ft-{smoke.manifest['jobs']['select']['chosen'][0][3:]}-{task}", task)
        assert set(teacher.splits) == {"train", "selection", "dev", "test"}


def test_the_manifest_says_how_the_run_was_made(smoke: Finished) -> None:
    manifest = smoke.run.manifest()
    assert manifest == json.loads(json.dumps(smoke.manifest))
    assert validated(manifest["config"]) == smoke.config
    jobs = make_jobs(
        smoke.config, resolve_tasks(smoke.config), source_digest="", chosen=manifest["jobs"]["select"]["chosen"]
    )
    assert keys(manifest) == {job.name: job.key for job in jobs.values()}
    assert [record["stage"] for record in manifest["jobs"].values()] == sorted(
        (record["stage"] for record in manifest["jobs"].values()), key=STAGES.index
    )
    assert all(record["status"] == "done" and record["seconds"] >= 0 for record in manifest["jobs"].values())
    assert {"torch", "transformers", "numpy", "python", "core"} <= manifest["versions"].keys()
    assert manifest["jobs"]["mt-1"]["parameters"] > 0
    assert manifest["jobs"]["mt-1"]["device"].startswith("cpu: as asked; float32: hidden size 32 is under")
    assert manifest["seed"] == 0
    assert {"git_commit", "machine", "created", "config_digest", "tasks"} <= manifest.keys()


def test_metrics_cover_every_model_task_and_split_once(smoke: Finished) -> None:
    rows = pq.read_table(smoke.run.path / "metrics.parquet").to_pylist()
    for model in smoke.run.models():
        for task in smoke.run.tasks_of(model):
            of_model = [row for row in rows if (row["model"], row["task"]) == (model, task)]
            assert {row["split"] for row in of_model} == {"selection", "dev", "test"}
            for split in ("selection", "dev", "test"):
                metrics = [row["metric"] for row in of_model if row["split"] == split]
                assert len(metrics) == len(set(metrics))
                expected = {"score", "kl_truth"} | (
                    {"mse", "pearson", "spearman"} if task == "similarity" else {"accuracy", "nll", "brier", "ece"}
                )
                assert expected <= set(metrics)
    assert all(np.isfinite(row["value"]) for row in rows)
    for row in rows:
        # Intervals belong to the reported split; elsewhere nobody reads them.
        has_interval = row["ci_low"] is not None and row["ci_low"] <= row["ci_high"]
        assert has_interval == (row["split"] == "test")
    assert {row["n"] for row in rows if row["split"] == "test"} == {48}
    seeds = {row["model"]: row["seed"] for row in rows}
    assert (seeds["mt-1"], seeds["st-kd-s1"], seeds["st-hard-s0"], seeds["ens-mean_probs"]) == (0, 1, 0, None)


def test_progress_is_shown_line_by_line_where_there_is_no_terminal(smoke: Finished) -> None:
    lines = smoke.shown.splitlines()
    assert lines[0] == "cpu: as asked; 1 job at a time"
    for i, stage in enumerate(STAGES, start=1):
        is_shown = any(re.fullmatch(rf"{i}/8 {stage} +done in [\d.]+ s(, \d+ jobs)?", line) for line in lines)
        assert is_shown == (stage in TINY_STAGES)
    assert any(re.fullmatch(r" +mt-1: epoch 1, selection split: sentiment -?[\d.]+, nli .*", line) for line in lines)
