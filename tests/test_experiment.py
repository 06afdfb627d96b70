"""Experiments: every grid can be run, members are trained once for all of them, a killed one goes on to the same
scores, and what makes no sense is refused before anything is trained.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import TINY, log_lines
from rich.console import Console
from typer.testing import CliRunner

from core.cli import app
from core.config import resolve_tasks
from core.experiment import Asked, configs_of, models_of, run_experiment
from core.experiment.grids import EXPERIMENTS
from core.findings import read_findings
from core.plan import TRAINING_STAGES
from core.store import Run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
PATIENCE_SECONDS = 300  # for what takes some: a loaded machine is no failure

# One task with a teacher and one without, two members; two students on each draw.
SMALL = tuple(item for item in TINY if "seeds" not in item and "resamples" not in item and "dropouts" not in item)
SMALL += ("data.tasks=[nli,similarity]", "multitask.dropouts=[0.1,0.2]")
ASKED = Asked((3, 4), 2, "smoke", SMALL)


def run(name: str, out: Path, asked: Asked = ASKED) -> str:
    shown = io.StringIO()
    run_experiment(name, out, asked, Console(file=shown, width=200))
    return shown.getvalue()


def trained(out: Path) -> Counter[tuple[str, str]]:
    """How often each job was trained, by draw and key, in all runs."""
    found: Counter[tuple[str, str]] = Counter()
    for path in out.glob("runs/*/*/*"):
        jobs = Run(path).manifest()["jobs"]
        done = [line["job"] for line in log_lines(Run(path), event="done")] if (path / "log.jsonl").exists() else []
        found.update((path.parent.name, jobs[job]["key"]) for job in done if jobs[job]["stage"] in TRAINING_STAGES)
    return found


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experiments, one after the other, in one folder."""
    folder = tmp_path_factory.mktemp("experiments") / "results"
    for name in ("distilled", "schedule"):
        run(name, folder)
    return folder


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_grid_can_be_run(name: str) -> None:
    """Every config resolves at full size, cells are told apart, and each names models of its run."""
    experiment = EXPERIMENTS[name]
    labels = [cell.label for cell in experiment.cells]
    assert len(set(labels)) == len(labels)
    assert {cell.against or experiment.against for cell in experiment.cells} <= set(labels)
    configs = configs_of(experiment, Asked((11,), 5), 11)
    assert sum(len(cells) for _, cells in configs.values()) == len(labels)
    for config, cells in configs.values():
        assert (config.data.seed, config.seed, config.distill.seeds) == (11, 11, 5)
        for cell in cells:
            n = {"single": len(config.multitask.members), "ensemble": 1, "teachers": 3}.get(cell.group, 5)
            task = next(task for task in resolve_tasks(config).values() if task.has_teacher)
            assert len(models_of(cell, config, task, ["mt-1", "mt-2", "mt-3"])) == n


def test_what_is_common_is_trained_once(out: Path) -> None:
    counts = trained(out)
    assert len(counts) == 2 * (2 + 2 + 4 + 2 + 4), "members, teachers, hard and kd, annealed, two generations; twice"
    assert set(counts.values()) == {1}


def test_scores_are_those_of_the_runs(out: Path) -> None:
    findings = read_findings(out / "schedule.parquet")
    second = findings.scores["second generation", "nli", "accuracy"]
    assert second.shape == (2, 2)
    rows = pq.read_table(out / "runs" / "schedule" / "d4" / "second-generation" / "metrics.parquet").to_pylist()
    wanted = {"model": "st-kd-g2-s1", "task": "nli", "split": "test", "metric": "accuracy"}
    (row,) = [row for row in rows if wanted.items() <= row.items()]
    assert second[1, 1] == row["value"]
    same = read_findings(out / "distilled.parquet").scores["distilled", "nli", "accuracy"]
    assert (findings.scores["constant (the paper's)", "nli", "accuracy"] == same).all()
    assert findings.about["job_seconds"] >= 0
    assert findings.about["command"].startswith("python -m core experiment schedule --data-seeds 3,4 --seeds 2")


def test_nothing_to_do_is_nothing_done(out: Path) -> None:
    before = trained(out)
    assert "up to date" not in run("schedule", out), "a finished run is not even opened"
    assert trained(out) == before


def test_a_killed_one_goes_on(out: Path, tmp_path: Path) -> None:
    """Killed after its first student; the same command then ends in the scores of one that was not."""
    where = tmp_path / "results"
    words = ["experiment", "distilled", "--out", str(where), "--seeds", "2", "--data-seeds", "3", "--preset", "smoke"]
    words += [word for item in SMALL for word in ("--set", item)]
    process = subprocess.Popen(
        [sys.executable, "-m", "core", *words], stdout=subprocess.DEVNULL, start_new_session=True
    )
    folder = where / "runs" / "distilled" / "d3" / "single-models"
    end = time.monotonic() + PATIENCE_SECONDS
    while (
        not (folder / "run.json").exists() or "st-hard-s0" not in json.loads((folder / "run.json").read_text())["jobs"]
    ):
        assert time.monotonic() < end, "it did not come"
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (where / "distilled.parquet").exists()
    done = len(log_lines(Run(folder), event="done"))
    assert run("distilled", where, ASKED._replace(data_seeds=(3,)))
    assert set(trained(where).values()) == {1}, "what was finished was not trained again"
    assert len(log_lines(Run(folder), event="done")) > done
    columns = ["data_seed", "seed", "cell", "model", "task", "metric", "value"]
    whole, resumed = (pq.read_table(path / "distilled.parquet", columns=columns).to_pylist() for path in (out, where))
    assert resumed == [row for row in whole if row["data_seed"] == 3]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["experiment", "controlls"], "did you mean 'controls'"),
        (["experiment", "size", "--preset", "smoke"], "cell 'K = 3': select.top_k is 3, but there are 2 members"),
        (["experiment", "controls", "--data-seeds", "1;2"], "expected numbers, for example 11,12,13"),
        (["experiment", "controls", "--data-seeds", "1,1"], "expected different draws"),
        (["experiment", "controls", "--set", "distill.alphaa=1"], "did you mean 'distill.alpha'"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], says: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "results")])
    assert done.exit_code == 2
    assert says in " ".join(done.output.split())
    assert not (tmp_path / "results").exists()
