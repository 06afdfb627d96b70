"""Scores by group, paired differences, the headline against core/report, the controls; logs, times and data maps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Finished
from test_views_toy import SCORE, TRI, Toy, kl, softmax, table_of, write_metrics, write_toy

from core.comparisons import paired_difference
from core.config import differences
from core.report import build_report
from core.store import Run, write_json
from core.views import NotDefined
from core.views.dynamics import data_map, displacement, epoch_strip, has_dynamics, positions_of, read_dynamics
from core.views.logs import config_differences, job_times, read_log, stage_seconds
from core.views.results import by_seed, compare, controls, groups_of, headline, read_results, summaries

VARIANTS = ("hard", "kd", "dkpp")


def score_of(model: str, task: str) -> float:
    return (sum(map(ord, model + task)) * 7919 % 1000) / 1000


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    toy = write_toy(tmp_path_factory.mktemp("views") / "toy", seeds=3, variants=VARIANTS)
    rows: list[dict[str, Any]] = []
    for task, of_model in toy.logits.items():
        for model in of_model:
            if model == "st-dkpp-s2":  # its training is not there yet
                continue
            rows.append({"model": model, "task": task, "split": "test", "metric": "f1", "value": float("nan"), "n": 1})
            for metric in ("score", "kl_truth") if task != "score" else ("score", "mse"):
                row = {"model": model, "task": task, "split": "test", "metric": metric, "n": 120}
                rows.append(row | {"value": score_of(model, task + metric), "ci_low": 0.1, "ci_high": 0.9, "seed": 0})
                rows.append(row | {"value": 0.0, "split": "dev"})
    write_metrics(toy.run, rows)
    return toy


# ---- results -------------------------------------------------------------------------------------------------------
def test_groups_and_summaries(scored: Toy) -> None:
    results = read_results(scored.run)
    assert results.split == "test"
    groups = groups_of(results, "tri")
    assert groups == {
        "single": ("mt-1", "mt-2", "mt-3"),
        "teachers": ("ft-1-tri", "ft-2-tri", "ft-3-tri"),
        "ens-mean_probs": ("ens-mean_probs",),
        **{variant: tuple(f"st-{variant}-s{s}" for s in range(3)) for variant in VARIANTS},
    }
    found = {(entry.group, entry.task, entry.metric): entry for entry in summaries(results)}
    values = [score_of(f"st-kd-s{s}", "triscore") for s in range(3)]
    kd = found["kd", "tri", "score"]
    assert kd.value.mean == pytest.approx(np.mean(values))
    assert kd.value.se == pytest.approx(np.std(values, ddof=1) / np.sqrt(3))
    assert (kd.seeds, kd.value.n) == ((0, 1, 2), 3)
    assert np.isnan(found["ens-mean_probs", "tri", "score"].value.se)
    assert ("dkpp", "tri", "score") not in found  # a model of it has no score
    assert ("kd", "score", "mse") in found
    assert {entry.metric for entry in summaries(results, metrics=["kl_truth"])} == {"kl_truth"}
    assert {entry.split for entry in summaries(results, split="dev")} == {"dev"}
    assert not any(metric == "f1" for *_, metric in results.scores)  # nan: no score
    score = results.scores["mt-1", "tri", "test", "score"]
    assert (score.ci_low, score.n) == (0.1, 120)
    assert np.isnan(results.scores["mt-1", "tri", "dev", "score"].ci_low)


def test_differences_are_paired_over_shared_seeds(scored: Toy) -> None:
    results = read_results(scored.run)
    kd, hard = ([score_of(f"st-{v}-s{s}", "trikl_truth") for s in range(3)] for v in ("kd", "hard"))
    assert compare(results, "kd", "hard", ["tri"], metric="kl_truth") == paired_difference(
        kd, hard, higher_is_better=False
    )
    assert compare(results, "dkpp", "kd", ["tri"]).n == 2  # seed 2 of dkpp is missing
    averaged = by_seed(results, "kd", ["tri", "two"], metric="score")
    assert averaged[1] == pytest.approx((score_of("st-kd-s1", "triscore") + score_of("st-kd-s1", "twoscore")) / 2)
    with pytest.raises(NotDefined, match="share no seed"):
        compare(results, "kd", "cwtm", ["tri"])
    with pytest.raises(ValueError, match="did you mean 'score'"):
        compare(results, "kd", "hard", ["tri"], metric="scores")


def test_headline(scored: Toy) -> None:
    lines = {line.name: line for line in headline(read_results(scored.run))}
    assert list(lines) == ["tri", "two", "score", "with a teacher", "all tasks"]
    kd = [np.mean([score_of(f"st-kd-s{s}", f"{task}score") for task in ("tri", "two", "score")]) for s in range(3)]
    hard = [np.mean([score_of(f"st-hard-s{s}", f"{task}score") for task in ("tri", "two", "score")]) for s in range(3)]
    average = lines["all tasks"]
    assert average.is_average
    assert average.groups["kd"].mean == pytest.approx(np.mean(kd))
    assert average.groups["kd"].se == pytest.approx(np.std(kd, ddof=1) / np.sqrt(3))
    assert average.difference is not None
    assert average.difference == paired_difference(kd, hard)
    assert lines["tri"].groups["dkpp"].n == 2
    only = headline(read_results(scored.run), metric="kl_truth")
    assert [line.name for line in only if not line.is_average] == ["tri", "two"]


def test_controls(scored: Toy) -> None:
    found = {entry.variant: entry for entry in controls(read_results(scored.run))}
    assert set(found) == set(VARIANTS)
    assert found["kd"].kd_minus is None
    assert found["hard"].minus_hard is None
    assert found["kd"].minus_hard == found["hard"].kd_minus
    assert found["dkpp"].minus_hard is not None
    assert found["dkpp"].minus_hard.n == 2
    assert found["dkpp"].tasks == ("tri", "two", "score")


def test_the_headline_is_the_reports(smoke: Finished) -> None:
    report, results = build_report(smoke.run), read_results(smoke.run)
    n_checked = 0
    for metric in ("score", "kl_truth"):
        lines = {line.name: line for line in headline(results, metric=metric)}
        for row in report["tables"][metric]:
            line = lines[row["name"]]
            for theirs, ours in {"single": "single", "hard": "hard", "kd": "kd", "ensemble": "ens-mean_probs"}.items():
                if theirs in row and ours in line.groups:
                    assert line.groups[ours].mean == pytest.approx(row[theirs]["mean"])
                    assert line.groups[ours].n == row[theirs]["n"]
                    n_checked += 1
            assert line.difference is not None
            assert line.difference.mean == pytest.approx(row["difference"]["mean"])
            assert line.difference.verdict == row["difference"]["verdict"]
    assert n_checked > 40


def test_runs_without_scores(tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "x", tasks=["tri"])
    with pytest.raises(ValueError, match=r"metrics.parquet has no scores .* `python -m core run --out"):
        read_results(toy.run)
    write_metrics(toy.run, [])
    manifest = toy.run.manifest()
    del manifest["jobs"]["evaluate"]  # being made again
    toy.run.write_manifest(manifest)
    with pytest.raises(ValueError, match="present config"):
        read_results(toy.run)
    toy.run.write_manifest(manifest | {"imported": True, "models": {"mt-1": "teacher"}})
    assert read_results(toy.run).scores == {}
    (toy.run.path / "metrics.parquet").write_bytes(b"x")
    with pytest.raises(ValueError, match="not a readable table"):
        read_results(toy.run)
    (toy.run.path / "metrics.parquet").unlink()
    with pytest.raises(ValueError, match="imported run has scores only if"):
        read_results(toy.run)


# ---- logs ----------------------------------------------------------------------------------------------------------
def look(job: str, epoch: int, step: int, loss: float, **more: Any) -> dict[str, Any]:
    place = {"event": "progress", "job": job, "stage": "distill", "epoch": epoch, "step": step, "steps": 10}
    return place | {"loss": loss, **more}


def test_the_last_training_counts(tmp_path: Path) -> None:
    run = Run(tmp_path)
    lines: list[dict[str, Any]] = [look("a", 0, 5, 3.0), look("a", 0, 10, 2.0), look("b", 0, 5, 9.0, auxiliary=1.0)]
    lines += [{"event": "progress", "job": "a", "stage": "distill", "epoch": 0, "selection": {"tri": 0.1}}]
    lines += [look("a", 1, 5, 1.0), {"event": "stopped", "error": "KeyboardInterrupt: "}]
    lines += [look("a", 0, 10, 2.5), look("a", 1, 5, 1.5)]  # went on from a checkpoint at step 5
    lines += [{"event": "progress", "job": "a", "stage": "distill", "epoch": 0, "selection": {"tri": 0.2}}]
    lines += [{"event": "done", "job": "a", "stage": "distill", "seconds": 1.0}]
    text = "".join(json.dumps({"time": 1.0, **line}) + "\n" for line in lines)
    (tmp_path / "log.jsonl").write_text(
        text[:40] + '\n[1]\n{"event": "progress", "epoch": 0}\n' + text + '{"time": 1, "eve'
    )
    log = read_log(run)
    assert log.n_unreadable == 4  # a cut line, no object, a line without a job, and the one that is being written
    assert log.stopped is None
    assert log.jobs["a"].step.tolist() == [5, 10, 15]
    assert log.jobs["a"].loss.tolist() == [3.0, 2.5, 1.5]
    assert log.jobs["a"].held_out["tri"].tolist() == [0.2]
    assert log.jobs["a"].epoch.tolist() == [1]
    assert log.jobs["b"].extra["auxiliary"].tolist() == [1.0]
    run.log("stopped", error="ValueError: x")
    assert read_log(Run(tmp_path / "nothing")) == ({}, 0, None)


def test_a_stop_is_reported(tmp_path: Path) -> None:
    Run(tmp_path).log("stopped", error="ValueError: x")
    assert read_log(Run(tmp_path)).stopped == "ValueError: x"


def test_the_log_of_a_real_run(smoke: Finished) -> None:
    log = read_log(smoke.run)
    assert (log.n_unreadable, log.stopped) == (0, None)
    assert {"mt-1", "ft-1-nli", "st-kd-s0"} <= set(log.jobs) or len(log.jobs) > 5
    student = log.jobs["st-kd-s0"]
    assert len(student.loss) == len(student.step) > 0
    assert (np.diff(student.step) > 0).all()
    assert set(student.held_out) == set(smoke.manifest["tasks"])
    times = job_times(smoke.run)
    assert {entry.job for entry in times} == set(smoke.manifest["jobs"])
    seconds = stage_seconds(smoke.run)
    assert sum(seconds.values()) == pytest.approx(sum(entry.seconds for entry in times))
    assert next(iter(seconds)) == "prepare"


def test_differences_of_configs(smoke: Finished, tmp_path: Path) -> None:
    other = write_toy(tmp_path / "x", tasks=["tri"]).run
    found = config_differences(smoke.run, other)
    assert found == differences(smoke.manifest["config"], other.manifest()["config"])
    assert any(line.startswith("data.n_train: ") for line in found)
    assert config_differences(other, other) == []
    write_json(other.manifest_path, {"schema_version": 1, "tasks": {}, "imported": True})
    with pytest.raises(ValueError, match="was imported"):
        config_differences(smoke.run, other)


# ---- dynamics ------------------------------------------------------------------------------------------------------
def with_dynamics(toy: Toy, model: str, *, epochs: int = 4, seed: int = 0) -> np.ndarray:
    """Random training logits (E, N, C) of `tri`; example 0 is never seen, 1 only in the last epoch."""
    rows = toy.on("tri", "train")
    logits = np.random.default_rng(seed).normal(size=(epochs, len(rows), 3)).astype(np.float32)
    logits[:, 0] = np.nan
    logits[:-1, 1] = np.nan
    toy.run.write_dynamics(model, TRI, toy.ids["tri"][rows], logits)
    return logits


def test_data_map_against_a_loop(tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "x", tasks=["tri"])
    logits, rows = with_dynamics(toy, "st-kd-s0"), toy.on("tri", "train")
    gold = toy.gold["tri"][rows]
    expected = []
    for n in range(1, len(rows)):
        if gold[n] < 0:
            continue
        seen = [of_epoch[n] for of_epoch in logits if np.isfinite(of_epoch[n]).all()]
        p = [softmax(z)[gold[n]] for z in seen]
        right = [z.argmax() == gold[n] for z in seen]
        expected.append((toy.ids["tri"][rows[n]], np.mean(p), np.std(p), np.mean(right)))
    found = data_map(read_dynamics(toy.run, "st-kd-s0", "tri"))
    ids, confidence, variability, correctness = zip(*expected, strict=True)
    assert found.ids.to_pylist() == list(ids)
    np.testing.assert_allclose(found.confidence, confidence, rtol=1e-9)
    np.testing.assert_allclose(found.variability, variability, atol=1e-9)
    np.testing.assert_allclose(found.correctness, correctness)
    assert (found.n_epochs, found.n_unlabelled) == (4, (gold[1:] < 0).sum())
    assert found.n_unlabelled >= 1


def test_displacement_is_joined_by_id(tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "x", tasks=["tri"])
    with_dynamics(toy, "st-hard-s0")
    rows = toy.on("tri", "train")
    logits = np.random.default_rng(1).normal(size=(4, len(rows), 3)).astype(np.float32)
    toy.run.write_dynamics("st-kd-s0", TRI, toy.ids["tri"][rows], logits)
    a, b = (data_map(read_dynamics(toy.run, f"st-{variant}-s0", "tri")) for variant in ("hard", "kd"))
    order = np.arange(len(b.ids))[::-1]
    b = b._replace(ids=b.ids.take(pa.array(order)), confidence=b.confidence[order], variability=b.variability[order])
    assert a.ids[0] != b.ids[0]
    found = displacement(a, b)
    by_id = dict(zip(b.ids.to_pylist(), b.confidence, strict=True))
    expected = [by_id[i] - c for i, c in zip(a.ids.to_pylist(), a.confidence, strict=True)]
    np.testing.assert_allclose(found.confidence, expected)
    assert found.ids.equals(a.ids)
    assert found.ids.equals(b.ids.take(found.b))


def test_epoch_strip_against_a_loop(tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "x", tasks=["tri"])
    logits, rows = with_dynamics(toy, "st-kd-s0"), toy.on("tri", "train")
    table, dynamics = table_of(toy, split="train"), read_dynamics(toy.run, "st-kd-s0", "tri")
    positions, of_table = positions_of(dynamics, table.ids)
    assert len(positions) == len(rows) - 1  # one was never seen
    rows, logits = rows[1:], logits[:, 1:]
    found = epoch_strip(dynamics, positions, table.log_probs("teacher")[of_table])
    teacher = softmax(toy.logits["tri"]["ens-mean_probs"][rows])
    for n in range(len(rows)):
        matches = []
        for e in range(4):
            z = logits[e, n]
            if np.isfinite(z).all():
                assert found.kl[e, n] == pytest.approx(kl(teacher[n], softmax(z)), rel=1e-4, abs=1e-6)
                matches += [e] if z.argmax() == teacher[n].argmax() else []
            else:
                assert np.isnan(found.kl[e, n])
        assert found.first_match[n] == min(matches, default=4)
    assert (np.diff(found.first_match[found.order]) >= 0).all()
    with pytest.raises(ValueError, match="epoch_strip"):
        epoch_strip(dynamics, positions, table.log_probs("teacher")[:3])


def test_dynamics_that_are_not_there(tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "x", tasks=["tri", "score"])
    assert not has_dynamics(toy.run, "st-kd-s0", "tri")
    with pytest.raises(ValueError, match=r"does not exist: 'st-kd-s0' kept no logits"):
        read_dynamics(toy.run, "st-kd-s0", "tri")
    toy.run.write_dynamics("st-kd-s0", SCORE, toy.ids["score"][:5], np.zeros((2, 5, 1)))
    with pytest.raises(NotDefined, match="regression"):
        read_dynamics(toy.run, "st-kd-s0", "score")
    with_dynamics(toy, "st-kd-s0")
    path = toy.run.dynamics_path("st-kd-s0", "tri")
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(7, 1)]), path)
    with pytest.raises(ValueError, match="twice in one epoch"):
        read_dynamics(toy.run, "st-kd-s0", "tri")
    pq.write_table(table.slice(0, 0), path)
    with pytest.raises(ValueError, match="holds no rows"):
        read_dynamics(toy.run, "st-kd-s0", "tri")
    toy.run.write_dynamics(
        "st-kd-s0", replace(TRI, labels=TRI.labels[::-1]), np.array(["x"], object), np.zeros((1, 1, 3))
    )
    with pytest.raises(ValueError, match="has the labels"):
        read_dynamics(toy.run, "st-kd-s0", "tri")
    toy.run.write_dynamics("st-kd-s0", TRI, np.array(["x", "y"], object), np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="example 'x' is not in"):
        read_dynamics(toy.run, "st-kd-s0", "tri")


def test_dynamics_of_a_real_run(smoke: Finished) -> None:
    found = data_map(read_dynamics(smoke.run, "st-kd-s0", "nli"))
    assert found.n_unlabelled == 0
    assert ((found.confidence > 0) & (found.confidence < 1)).all()
    assert (found.variability <= 0.5).all()
