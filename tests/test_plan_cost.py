"""`python -m core plan`: its counts are those that finished runs recorded, exactly; its seconds are arithmetic on a
measured speed, which no test times (LOG.md compares them with a run)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, Finished, go, steps_of, tiny
from test_cli import call, refused

from core import cost
from core.config import resolve_tasks
from core.cost import Pace, makespan, pace_of_run, plan_of, planned, stage_costs
from core.plan import TRAINING_STAGES, Job
from core.presets import load_config
from core.speed import FORWARD_FLOPS, TRAINING_FLOPS
from core.store import Run
from core.workload import GLUE_ROWS, PUBLISHED, shape_of

PACE = Pace(1e9, 4e9, {"multitask": 2.0, "finetune": 1.0, "distill": 3.0}, {}, "made up")
NOTHING = Run("no such run")


def counts(finished: Finished, run: Run) -> dict[str, tuple[Any, Any]]:
    """By job: what the plan counts beside what the run recorded, as (steps, tokens trained on, tokens predicted)."""
    plan, found = planned(run, finished.config), {}
    for name, record in finished.manifest["jobs"].items():
        # Without a run, members in order stand for those that will be chosen.
        if record["stage"] in TRAINING_STAGES and name in plan.jobs:
            work, train = plan.work[name], plan.jobs[name].spec["train"]
            looks = steps_of(finished.run, name)
            recorded_steps = sum(max(step for epoch, step in looks if epoch == e) for e in range(train["epochs"]))
            said = (work.steps, work.trained, work.predicted)
            found[name] = (said, (recorded_steps, record["training"]["tokens"], record["passes"]["tokens"]))
    return found


def test_counts_are_those_of_a_run(smoke: Finished) -> None:
    """Of a prepared run from its token arrays; of none from the words of the suite's texts."""
    for run in (smoke.run, NOTHING):
        found = counts(smoke, run)
        assert len(found) == 3 + 8 + 4 or (run is NOTHING and len(found) > 3 + 4)
        for name, (said, recorded) in found.items():
            assert said == recorded, name


def test_counts_of_every_kind_of_job(everything: Finished, folded: Finished) -> None:
    """A bagged member's rows, and those of a fold, are drawn: their tokens are expectations, within a sampling error of
    some per cent of these few rows."""
    drawn = {"mt-2"} | {name for name in folded.manifest["jobs"] if name.endswith(("-f0", "-f1"))}
    n_drawn = 0
    for finished in (everything, folded):
        found = counts_of_trained(finished)
        assert len(found) > 15
        for name, (said, recorded) in found.items():
            if name in drawn and (finished is folded or name == "mt-2"):
                n_drawn += 1
                assert said[1] == pytest.approx(recorded[1], rel=0.15), name
            else:
                assert said == recorded, name
    assert n_drawn > 5


def counts_of_trained(finished: Finished) -> dict[str, tuple[Any, Any]]:
    """Of the jobs that predict; the members of folds do not."""
    records = {name: record for name, record in finished.manifest["jobs"].items() if "passes" in record}
    return counts(finished._replace(manifest={"jobs": records}), finished.run)


def test_disk_is_within_a_quarter_of_what_a_run_takes(smoke: Finished) -> None:
    plan = planned(smoke.run, smoke.config)
    names = [name for name, work in plan.work.items() if work.parameters]
    said = sum(plan.work[name].kept_bytes for name in names)
    there = sum(
        path.stat().st_size
        for folder in ("models", "predictions", "dynamics")
        for name in names
        for path in (smoke.run.path / folder / name).rglob("*")
        if path.is_file()
    )
    assert said == pytest.approx(there, rel=0.25)


def test_the_speed_of_a_run_gives_its_seconds_back(smoke: Finished) -> None:
    """The plan of the very run that was measured: what its jobs took in all, whatever that was."""
    pace = pace_of_run(smoke.run)
    about = plan_of(NOTHING, smoke.config, pace, 1)
    for stage in TRAINING_STAGES:
        took = sum(record["seconds"] for record in smoke.manifest["jobs"].values() if record["stage"] == stage)
        # A median stands for what each job takes beside training and passes: the first one also imports torch.
        assert about["stages"][stage]["seconds"] == pytest.approx(took, rel=1.0, abs=0.1)
    records = [record for record in smoke.manifest["jobs"].values() if "training" in record]
    flops = {"training": TRAINING_FLOPS, "passes": FORWARD_FLOPS}
    for kind, speed in (("training", pace.training), ("passes", pace.passes)):
        tokens, seconds = (sum(record[kind][key] for record in records) for key in ("tokens", "seconds"))
        assert speed == pytest.approx(flops[kind] * about["parameters"] * tokens / seconds)
    assert pace.says.startswith("measured in ")


def test_seconds_are_work_over_speed_and_jobs_share_devices() -> None:
    config = tiny()
    plan, tasks = planned(NOTHING, config), resolve_tasks(config)
    work = plan.work["mt-1"]
    seconds = cost.job_seconds(plan.jobs["mt-1"], work, PACE)
    assert seconds == pytest.approx(
        6 * work.parameters * work.trained / 1e9
        + 2 * work.parameters * (work.evaluated + work.predicted) / 4e9
        + PACE.job_seconds["multitask"]
    )
    one, three = (stage_costs(plan, config, tasks, PACE, n)["multitask"] for n in (1, 3))
    assert one.wall_seconds == pytest.approx(3 * seconds) == pytest.approx(one.seconds)
    assert three.wall_seconds == pytest.approx(seconds) == pytest.approx(three.longest_seconds)
    assert (one.limit, three.limit) == ("speed", "speed")
    assert stage_costs(plan, config, tasks, PACE, 8)["multitask"].limit == "3 jobs: 5 of 8 idle"
    assert stage_costs(plan, config, tasks, PACE, 2)["multitask"].limit == "uneven jobs: 25 % idle"


@pytest.mark.parametrize(
    ("seconds", "n", "wanted"), [([3, 1, 1, 1], 2, 3), ([1, 1, 1, 3], 2, 4), ([5], 64, 5), ([1, 2, 3], 1, 6)]
)
def test_makespan(seconds: list[float], n: int, wanted: float) -> None:
    assert makespan(seconds, n) == wanted


def test_a_chain_is_as_long_as_its_links() -> None:
    """The cycles of a snapshot member follow one another, on however many devices."""
    config = tiny("multitask.pool=[{snapshots: 2}, {seed: 1}]", "multitask.epochs=2")
    plan = planned(NOTHING, config)
    seconds = {name: cost.job_seconds(job, plan.work[name], PACE) for name, job in plan.jobs.items()}
    found = stage_costs(plan, config, resolve_tasks(config), PACE, 64)["multitask"]
    assert found.longest_seconds == pytest.approx(max(seconds["mt-1"], seconds["mt-3"]) + seconds["mt-2"])


# ---- the paper -------------------------------------------------------------------------------------------------------
def test_the_papers_numbers_without_a_network() -> None:
    """PAPER: about 1.59 M steps of 32, over all stages; BERT-large has 303 M parameters beside its embeddings."""
    about = plan_of(NOTHING, load_config("paper"), cost.assumed_pace(400e12), 64)
    assert sum(stage["steps"] for stage in about["stages"].values()) == pytest.approx(1.59e6, rel=0.02)
    assert shape_of("google-bert/bert-large-uncased").all_parameters == pytest.approx(335e6, rel=0.01)
    assert shape_of("google-bert/bert-base-cased").all_parameters == pytest.approx(108e6, rel=0.01)
    assert set(load_config("paper").multitask.encoders) <= set(PUBLISHED)
    assert set(load_config("paper").data.tasks) == set(GLUE_ROWS)
    # Half an hour of matrix products at that speed, whose longest jobs are not made shorter by more GPUs.
    assert about["wall_seconds"] == pytest.approx(about["least_seconds"])
    assert about["stages"]["multitask"]["limit"] == "6 jobs: 58 of 64 idle"
    assert about["gpu_hours"] * 3600 > about["wall_seconds"]
    # 20 models of 1.3 GB and 12 checkpoints of three times that.
    assert about["disk_bytes"] == pytest.approx(20 * 1.34e9 + 12 * 4.0e9, rel=0.1)


# ---- the command -----------------------------------------------------------------------------------------------------
def test_the_command(smoke: Finished, tmp_path: Path) -> None:
    sets = [part for item in TINY for part in ("--set", item)]
    shown = call("plan", "--preset", "smoke", *sets, "--gpus", "2", "--from-run", smoke.run.path)
    assert shown.exit_code == 0, shown.output
    for word in ("multitask", "GPU-hours", "B of disk", "with 2 at a time", f"measured in {smoke.run.path}"):
        assert word in " ".join(shown.stdout.split()), word
    done = call("plan", "--preset", "smoke", *sets, "--out", smoke.run.path, "--json")
    about = json.loads(done.stdout)
    assert about["gpu_hours"] == 0
    assert about["jobs"] == {}
    assert all(stage["to_run"] == 0 for stage in about["stages"].values())
    message = refused("plan", "--preset", "smoke", "--from-run", smoke.run.path, "--tflops", "1")
    assert "--from-run and --tflops exclude each other" in message
    unfinished = go(Run(tmp_path / "run"), tiny("data.tasks=[sentiment]"), last_stage="prepare").run
    assert "has no finished training with its speed" in refused("plan", "--from-run", unfinished.path)


def test_twice_the_speed_is_half_the_time() -> None:
    slow, fast = (plan_of(NOTHING, tiny(), cost.assumed_pace(flops), 1) for flops in (1e9, 2e9))
    assert slow["wall_seconds"] == pytest.approx(2 * fast["wall_seconds"])
    assert math.isfinite(slow["disk_bytes"])
    assert isinstance(next(iter(planned(NOTHING, tiny()).jobs.values())), Job)
