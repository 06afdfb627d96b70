"""The results table: every number recomputed from `metrics.parquet` with pandas; verdicts on tables made by hand."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Finished, go, tiny
from rich.console import Console

from core.config import Config, resolve_tasks
from core.plan import make_jobs
from core.report import AVERAGES, COLUMNS, build_report, render_report
from core.stages.evaluate import SCHEMA
from core.store import SCHEMA_VERSION, Run, read_json, write_json
from core.tasks import SUITE

TEACHER_TASKS = [name for name, task in SUITE.items() if task.has_teacher]
OTHER_TASKS = [name for name in SUITE if name not in TEACHER_TASKS]


def rows_of(report: dict[str, Any], table: str = "score") -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in report["tables"][table]}


def drawn(report: dict[str, Any], *, full: bool = False) -> str:
    shown = io.StringIO()
    render_report(report, Console(file=shown, width=110), full=full)
    return shown.getvalue()


def words_of(text: str) -> str:
    """Without the line breaks of the terminal's width."""
    return " ".join(text.split())


# ---- a real run, recomputed -----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def metrics(smoke: Finished) -> pd.DataFrame:
    return pd.read_parquet(smoke.run.path / "metrics.parquet")


def values(metrics: pd.DataFrame, models: list[str], task: str, metric: str, split: str = "test") -> np.ndarray:
    table = metrics[(metrics.task == task) & (metrics.metric == metric) & (metrics.split == split)]
    return table.set_index("model").loc[models, "value"].to_numpy()


def columns_by_hand(metrics: pd.DataFrame, run: Run, task: str, metric: str) -> dict[str, np.ndarray]:
    chosen = read_json(run.path / "selection.json")["chosen"]
    models = {
        "single": ["mt-1", "mt-2", "mt-3"],
        "ensemble": ["ens-mean_probs"],
        "hard": ["st-hard-s0", "st-hard-s1"],
        "kd": ["st-kd-s0", "st-kd-s1"],
    }
    if task in TEACHER_TASKS:
        teachers = [f"ft-{member[3:]}-{task}" for member in chosen]
        models["best_teacher"] = [teachers[values(metrics, teachers, task, "score", "selection").argmax()]]
    return {column: values(metrics, names, task, metric) for column, names in models.items()}


@pytest.mark.parametrize("metric", ["score", "accuracy", "kl_truth", "nll", "ece"])
def test_every_number_equals_a_recomputation(metric: str, smoke: Finished, metrics: pd.DataFrame) -> None:
    report = build_report(smoke.run)
    rows = rows_of(report, metric)
    tasks = [name for name in SUITE if metric in ("score", "kl_truth") or name != "similarity"]
    groups = {
        "with a teacher": [name for name in tasks if name in TEACHER_TASKS],
        "without": [name for name in tasks if name in OTHER_TASKS],
        "all tasks": tasks,
    }
    assert list(rows) == [*groups["with a teacher"], *groups["without"], *groups]
    by_hand = {task: columns_by_hand(metrics, smoke.run, task, metric) for task in tasks}
    for group, names in groups.items():
        # An average over tasks is taken for each seed first, so that its error is that of the average.
        shared = [column for column in COLUMNS if all(column in by_hand[name] for name in names)]
        by_hand[group] = {column: np.mean([by_hand[name][column] for name in names], axis=0) for column in shared}
        assert rows[group]["tasks"] == names
    for name, row in rows.items():
        assert {column for column in COLUMNS if column in row} == by_hand[name].keys()
        for column, expected in by_hand[name].items():
            # The same float64 numbers in sums of at most six.
            assert row[column]["mean"] == pytest.approx(expected.mean(), abs=1e-12)
            n = len(expected)
            assert row[column]["n"] == n
            assert row[column]["se"] == (None if n == 1 else pytest.approx(pd.Series(expected).sem(), abs=1e-12))
        difference = by_hand[name]["kd"] - by_hand[name]["hard"]
        assert row["difference"]["mean"] == pytest.approx(difference.mean(), abs=1e-12)
        assert row["difference"]["se"] == pytest.approx(pd.Series(difference).sem(), abs=1e-12)
        assert (row["difference"]["verdict"] == "no difference") == (
            abs(difference.mean()) <= 2 * pd.Series(difference).sem()
        )
    assert ("best_teacher" in rows["with a teacher"], "best_teacher" in rows["all tasks"]) == (True, False)


def test_the_report_is_complete_and_json(smoke: Finished) -> None:
    report = build_report(smoke.run)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report.keys() == {
        *("run", "preset", "split", "n_members", "chosen", "n_seeds", "seconds", "tables", "n_examples")
    }
    assert (report["split"], report["n_members"], report["n_seeds"]) == ("test", 3, 2)
    assert report["n_examples"] == dict.fromkeys(SUITE, 48)
    assert list(report["tables"]) == ["score", "accuracy", "kl_truth", "nll", "ece"]
    jobs = smoke.manifest["jobs"].values()
    assert sum(report["seconds"].values()) == pytest.approx(
        sum(job["seconds"] for job in jobs), abs=0.05 * 8
    )  # rounded
    assert report["chosen"] == read_json(smoke.run.path / "selection.json")["chosen"]


def test_what_is_drawn(smoke: Finished) -> None:
    report = build_report(smoke.run)
    text, full = drawn(report), drawn(report, full=True)
    assert all(any(line.startswith(f" {task} *") for line in text.splitlines()) for task in TEACHER_TASKS)
    assert all(
        any(line.startswith(f" {task} ") and "*" not in line for line in text.splitlines()) for task in OTHER_TASKS
    )
    order = [text.index(f" {name}") for name in (*TEACHER_TASKS, *OTHER_TASKS, *AVERAGES.values())]
    assert order == sorted(order)
    sentiment = rows_of(report)["sentiment"]
    assert f"{100 * sentiment['single']['mean']:.1f} ± {100 * sentiment['single']['se']:.1f}" in text
    assert f"{100 * sentiment['difference']['mean']:+.1f} ± " in text
    assert "Split 'test', 288 examples" in text
    assert "3 members or 2 student seeds; the difference is paired by seed" in words_of(text)
    assert "smoke preset: it proves that everything runs, and its numbers mean nothing" in text
    assert "Expected calibration error" in full
    assert "Expected calibration error" not in text


# ---- tables made by hand --------------------------------------------------------------------------------------------
# What each student scores on `nli` and `acceptability` by seed; the table's other numbers do not matter here.
CLEAR = {"hard": [0.70, 0.72, 0.71, 0.69, 0.70], "kd": [0.75, 0.76, 0.76, 0.73, 0.75]}
FLAT = {"hard": [0.70, 0.72, 0.71, 0.69, 0.70], "kd": [0.72, 0.70, 0.71, 0.70, 0.70]}


def made_by_hand(path: Path, nli: dict[str, list[float]], acceptability: dict[str, list[float]], *changes: str) -> Run:
    seeds = len(nli["hard"])
    config = tiny("data.tasks=[acceptability,nli]", f"distill.seeds={seeds}", "multitask.dropouts=[0.1,0.2]", *changes)
    run = Run(path)
    jobs = make_jobs(config, resolve_tasks(config), source_digest="", chosen=["mt-2", "mt-1"])
    rows = []

    def add(model: str, task: str, value: float, split: str = "test") -> None:
        for metric in ("score", "accuracy"):
            row = {"model": model, "task": task, "split": split, "metric": metric, "value": value, "n": 100}
            rows.append({**row, "seed": None, "ci_low": None, "ci_high": None})
        # Nearer to the truth is a lower number.
        rows.append({**rows[-1], "metric": "kl_truth", "value": 1 - value})

    for task, students in (("nli", nli), ("acceptability", acceptability)):
        for model, value in (("mt-1", 0.6), ("mt-2", 0.7), ("ens-mean_probs", 0.8)):
            add(model, task, value)
        for variant, of_seed in students.items():  # `kd-g2` too
            for seed, value in enumerate(of_seed):
                add(f"st-{variant}-s{seed}", task, value)
    # Teacher 1 is the better on the selection split, teacher 2 on the reported one.
    for model, on_selection, on_test in (("ft-1-nli", 0.9, 0.65), ("ft-2-nli", 0.8, 0.75)):
        add(model, "nli", on_selection, "selection")
        add(model, "nli", on_test)
    run.path.mkdir()
    write_manifest(run, config, {name: job.stage for name, job in jobs.items()})
    write_json(run.path / "selection.json", {"chosen": ["mt-2", "mt-1"]})
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), run.path / "metrics.parquet")
    return run


def write_manifest(run: Run, config: Config, jobs: dict[str, str]) -> None:
    records = {name: {"stage": stage, "status": "done", "key": "k", "seconds": 1.0} for name, stage in jobs.items()}
    tasks = {name: asdict(task) for name, task in resolve_tasks(config).items()}
    manifest = {"schema_version": SCHEMA_VERSION, "config": config.model_dump(mode="json"), "tasks": tasks}
    run.write_manifest({**manifest, "jobs": records})


def test_a_clear_win_is_called_better(tmp_path: Path) -> None:
    report = build_report(made_by_hand(tmp_path / "run", CLEAR, FLAT))
    rows = rows_of(report)
    assert rows["nli"]["difference"] == {
        # Differences 5, 4, 5, 4, 5 points: mean 4.6, standard deviation sqrt(0.3), over sqrt(5).
        "mean": pytest.approx(0.046, abs=1e-12),
        "se": pytest.approx(0.01 * np.sqrt(0.3 / 5), abs=1e-12),
        "n": 5,
        "verdict": "better",
    }
    assert rows["acceptability"]["difference"]["verdict"] == "no difference"
    assert [name for name, row in rows.items() if row.get("teacher")] == ["nli"]
    assert rows["with a teacher"]["tasks"] == ["nli"]
    assert rows["without"]["tasks"] == ["acceptability"]
    text = drawn(report)
    assert "Distillation on tasks with a teacher: better (+4.60 ± 0.24 points, n = 5)." in text
    # Differences 2, -2, 0, 1, 0 points: mean 0.2, variance 2.2, and sqrt(2.2 / 5) = 0.66.
    assert "On tasks without one: no difference (+0.20 ± 0.66 points, n = 5)." in text
    # For a distance, lower is better, and says so.
    assert rows_of(report, "kl_truth")["nli"]["difference"]["verdict"] == "better"
    assert rows_of(report, "kl_truth")["nli"]["difference"]["mean"] < 0


def test_a_clear_loss_is_called_worse(tmp_path: Path) -> None:
    lost = {"hard": CLEAR["kd"], "kd": CLEAR["hard"]}
    report = build_report(made_by_hand(tmp_path / "run", lost, lost))
    assert {row["difference"]["verdict"] for row in report["tables"]["score"]} == {"worse"}
    assert {row["difference"]["verdict"] for row in report["tables"]["kl_truth"]} == {"worse"}
    text = drawn(report)
    assert "Distillation on tasks with a teacher: worse (-4.60 ± 0.24 points, n = 5)." in text
    assert "On tasks without one: worse (-4.60" in text


def test_no_difference_is_said_where_there_is_none(tmp_path: Path) -> None:
    report = build_report(made_by_hand(tmp_path / "run", FLAT, FLAT))
    assert {row["difference"]["verdict"] for row in report["tables"]["score"]} == {"no difference"}
    text = drawn(report)
    assert text.count("no difference") >= 2 * 5 + 2  # two tables of five rows, two sentences


def test_one_seed_shows_nothing(tmp_path: Path) -> None:
    one = {"hard": [0.5], "kd": [0.9]}
    report = build_report(made_by_hand(tmp_path / "run", one, one))
    json.dumps(report, allow_nan=False)
    assert rows_of(report)["nli"]["difference"]["se"] is None
    assert {row["difference"]["verdict"] for row in report["tables"]["score"]} == {"one seed"}
    text = drawn(report)
    assert "tasks with a teacher: +40.0 points with one seed, which shows nothing; use distill.seeds=5" in text
    assert "1 student seed;" in words_of(text)


def test_the_best_teacher_is_the_selection_splits(tmp_path: Path) -> None:
    rows = rows_of(build_report(made_by_hand(tmp_path / "run", CLEAR, FLAT)))
    assert rows["nli"]["best_teacher"]["mean"] == 0.65  # not 0.75, which the reported split would pick
    assert "best_teacher" not in rows["acceptability"]
    assert rows["nli"]["single"]["mean"] == pytest.approx(0.65, abs=1e-12)  # mean of the members
    assert rows["nli"]["ensemble"] == {"mean": 0.8, "se": None, "n": 1}


def test_every_variant_is_paired_with_hard_and_with_kd(tmp_path: Path) -> None:
    students = {"hard": [0.50, 0.54], "kd": [0.60, 0.66], "dkpp": [0.58, 0.62], "kd-g2": [0.63, 0.61]}
    changes = ("distill.variants=[hard,kd,dkpp]", "distill.generations=2")
    report = build_report(made_by_hand(tmp_path / "run", students, students, *changes))
    row = rows_of(report)["with a teacher"]
    # By hand: differences of seed 0 and 1, their mean, and half of their distance, which is the standard error of two.
    expected = {
        "minus_hard": {"kd": (0.11, 0.01, "better"), "dkpp": (0.08, 0.0, "better"), "kd-g2": (0.10, 0.03, "better")},
        "minus_kd": {
            "hard": (-0.11, 0.01, "worse"), "dkpp": (-0.03, 0.01, "worse"), "kd-g2": (-0.01, 0.04, "no difference")
        },
    }  # fmt: skip
    for anchor, differences in expected.items():
        assert row[anchor].keys() == differences.keys()
        for name, (mean, se, verdict) in differences.items():
            assert row[anchor][name] == {
                **{"mean": pytest.approx(mean, abs=1e-12), "se": pytest.approx(se, abs=1e-12)},
                **{"n": 2, "verdict": verdict},
            }
    lines = [" ".join(line.split()) for line in drawn(report).splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("What teaches? Tasks with a teacher. Score"))
    assert lines[start + 4 : start + 8] == [
        "hard gold alone 52.0 ± 2.0 -11.0 ± 1.0 worse",
        "kd the teachers 63.0 ± 3.0 +11.0 ± 1.0 better",
        "kd-g2 62.0 ± 1.0 +10.0 ± 3.0 better -1.0 ± 4.0 no diff.",
        "dkpp wrong classes permuted 60.0 ± 2.0 +8.0 ± 0.0 better -3.0 ± 1.0 worse",
    ]


@pytest.mark.parametrize("variants", [["hard", "truth"], ["kd", "truth"], ["cwtm"]])
def test_a_control_is_shown_whatever_stands_beside_it(variants: list[str], tmp_path: Path) -> None:
    students = {name: [0.5, 0.6] for name in ("hard", *variants)}
    run = made_by_hand(tmp_path / "run", students, students, f"distill.variants=[{','.join(variants)}]")
    text = drawn(build_report(run))
    assert text.count("What teaches?") == 2  # the score, and the distance to the truth
    assert all(any(line.startswith(f" {name} ") for line in text.splitlines()) for name in variants)


def test_without_controls_and_other_ensembles_their_tables_are_not_drawn(smoke: Finished, everything: Finished) -> None:
    plain, whole = drawn(build_report(smoke.run)), drawn(build_report(everything.run))
    for title in ("What teaches?", "Ways of combining"):
        assert (plain.count(title), whole.count(title)) == (0, 2)
    assert max(map(len, whole.splitlines())) <= 110


def test_other_ensembles_and_soups_stand_beside_the_one_that_teaches(everything: Finished) -> None:
    report = build_report(everything.run)
    table = pd.read_parquet(everything.run.path / "metrics.parquet")
    others = [f"ens-{name}" for name in everything.config.ensemble.compare] + ["soup-uniform", "soup-greedy"]
    assert len(others) == 8
    row = rows_of(report)["with a teacher"]
    assert [name for name in row if name.startswith(("ens-", "soup-"))] == others
    text = [" ".join(line.split()) for line in drawn(report).splitlines()]
    for name in others:
        expected = np.mean([values(table, [name], task, "score")[0] for task in ("sentiment", "nli")])
        assert row[name] == {"mean": pytest.approx(expected, abs=1e-12), "se": None, "n": 1}
        assert f"{name} {100 * expected:.1f}" in text
    # Fine-tuned students: of each task those that were fine-tuned on it.
    found = rows_of(report)["nli"]["kd-ft"]
    students = ["st-kd-s0-ft-nli", "st-kd-s1-ft-nli"]
    assert found["mean"] == pytest.approx(values(table, students, "nli", "score").mean(), abs=1e-12)
    assert report["n_members"] == 5


def test_one_variant_alone_has_no_difference(tmp_path: Path) -> None:
    report = build_report(made_by_hand(tmp_path / "run", CLEAR, FLAT, "distill.variants=[hard]"))
    assert all("difference" not in row and "kd" not in row for row in report["tables"]["score"])
    assert "KD minus" not in drawn(report)


# ---- runs without results -------------------------------------------------------------------------------------------
def test_an_unfinished_run_says_how_to_go_on(tmp_path: Path) -> None:
    run = made_by_hand(tmp_path / "run", CLEAR, FLAT)
    config = tiny("data.tasks=[nli]")
    for jobs, last in (({}, "none"), ({"prepare": "prepare", "mt-1": "multitask"}, "multitask")):
        write_manifest(run, config, jobs)  # metrics.parquet is there, but of another config
        message = (
            rf"no results of its present config \(last stage done: {last}\); go on with `python -m core run --out "
        )
        with pytest.raises(ValueError, match=message):
            build_report(run)
    with pytest.raises(ValueError, match="is not a run directory"):
        build_report(Run(tmp_path))


def test_a_stopped_extension_reports_no_half_table(copied: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third seed that has not been trained must end in a sentence, not in a KeyError."""
    monkeypatch.setattr("core.pipeline.Workers.run", _stopped)
    with pytest.raises(KeyboardInterrupt):
        go(copied, tiny("distill.seeds=3"))
    with pytest.raises(ValueError, match=r"no results of its present config \(last stage done: distill\)"):
        build_report(copied)


def _stopped(*arguments: Any) -> Any:
    raise KeyboardInterrupt
