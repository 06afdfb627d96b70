"""Which jobs a change of the config redoes, adds, leaves alone or would lose. Pure: nothing is run."""

from __future__ import annotations

from typing import Any

import pytest

from core.config import resolve_tasks
from core.plan import STAGES, TRAINING_STAGES, Job, is_done, lost_by, make_jobs
from core.presets import load_config

CHOSEN = ["mt-3", "mt-1"]
BASE = ("multitask.dropouts=[0.1,0.2,0.3]", "distill.seeds=2", "data.teacher_tasks=[nli,sentiment]")
TEACHERS = {"ft-3-nli", "ft-3-sentiment", "ft-1-nli", "ft-1-sentiment"}
KD, HARD = {"st-kd-s0", "st-kd-s1"}, {"st-hard-s0", "st-hard-s1"}
MEMBERS = {"mt-1", "mt-2", "mt-3"}
AFTER_TEACHERS = {"ensemble", *KD, "evaluate"}
ALL = {"prepare", "select", *MEMBERS, *TEACHERS, *AFTER_TEACHERS, *HARD}


def plan(*overrides: str, chosen: list[str] | None = CHOSEN, source: str = "") -> dict[str, Job]:
    config = load_config("smoke", None, (*BASE, *overrides))
    return make_jobs(config, resolve_tasks(config), source_digest=source, chosen=chosen)


def redone(*overrides: str, source: str = "") -> set[str]:
    before, after = plan(), plan(*overrides, source=source)
    assert before.keys() == after.keys()
    return {name for name in before if before[name].key != after[name].key}


def manifest(jobs: dict[str, Job], *without: str) -> dict[str, Any]:
    done = {
        name: {"stage": job.stage, "status": "done", "key": job.key}
        for name, job in jobs.items()
        if name not in without
    }
    return {"jobs": done}


def test_all_jobs_in_an_order_in_which_they_can_run() -> None:
    jobs = plan()
    assert set(jobs) == ALL
    seen: set[str] = set()
    for job in jobs.values():
        assert set(job.needs) <= seen
        seen.add(job.name)
    stages = [job.stage for job in jobs.values()]
    assert stages == sorted(stages, key=STAGES.index)
    assert set(stages) == set(STAGES)
    assert len({job.key for job in jobs.values()}) == len(jobs)
    assert {job.name: job.weights_of for job in jobs.values() if job.weights_of} == {
        name: f"mt-{name.split('-')[1]}" for name in TEACHERS
    }


def test_before_the_selection_only_what_it_needs_is_known() -> None:
    jobs = plan(chosen=None)
    assert set(jobs) == {"prepare", "select", *MEMBERS}
    assert all(jobs[name] == plan()[name] for name in jobs)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("distill.alpha=0.3", {*KD, "evaluate"}),
        ("distill.loss=kl", {*KD, "evaluate"}),
        ("distill.epochs=3", {*KD, *HARD, "evaluate"}),
        ("distill.dropout=0.2", {*KD, *HARD, "evaluate"}),
        ("evaluate.resamples=300", {"evaluate"}),
        ("ensemble.strategy=mean_logits", AFTER_TEACHERS),
        ("finetune.lr=1e-4", TEACHERS | AFTER_TEACHERS),
        ("finetune.seed=1", TEACHERS | AFTER_TEACHERS),
        # The chosen are given here: with another rule they may be others, which `chosen_members` finds out.
        ("select.split=dev", {"select"}),
        ("multitask.lr=1e-4", ALL - {"prepare"} - HARD),
        ("model.san_steps=3", ALL - {"prepare"}),
        ("model.max_length=32", ALL),
        ("data.n_train=200", ALL),
        ("data.seed=1", ALL),
        # Every stream is the master seed's, but the examples have a seed of their own.
        ("seed=1", ALL - {"prepare"}),
        ("runtime.dtype=float32", ALL - {"prepare"}),
        ("runtime.threads=2", ALL - {"prepare"}),
        ("runtime.device=cpu", set()),
        ("runtime.workers=2", set()),
        ("runtime.checkpoint_seconds=5", set()),
        ("runtime.keep_models=false", set()),
    ],
)
def test_what_a_change_redoes(override: str, expected: set[str]) -> None:
    assert redone(override) == expected


def test_one_members_dropout_redoes_it_and_what_depends_on_it() -> None:
    taught_by_1 = {"ft-1-nli", "ft-1-sentiment"}
    assert redone("multitask.dropouts=[0.15,0.2,0.3]") == {"mt-1", "select", *taught_by_1, *AFTER_TEACHERS}
    # mt-2 was not chosen: no teacher of it, nothing taught by it. It is evaluated, though.
    assert redone("multitask.dropouts=[0.1,0.25,0.3]") == {"mt-2", "select", "evaluate"}


def test_the_selection_is_made_again_when_it_starts_or_stops_to_leak() -> None:
    """`selection.json` says whether it was made on the reported split."""
    fair, leaky = plan("select.split=dev"), plan("select.split=dev", "evaluate.split=dev")
    assert {name for name in fair if fair[name].key != leaky[name].key} == {"select", "evaluate"}


def test_the_source_files_contents_redo_everything_and_their_place_nothing() -> None:
    assert redone(source="another digest") == ALL
    here, there = (load_config("glue-small", None, [f"data.glue_dir={name}"]) for name in ("here", "there"))
    keys = [
        {name: job.key for name, job in make_jobs(c, resolve_tasks(c), source_digest="d", chosen=CHOSEN).items()}
        for c in (here, there)
    ]
    assert keys[0] == keys[1]


def test_more_seeds_and_members_only_add() -> None:
    before, after = plan(), plan("distill.seeds=4")
    assert after.keys() - before.keys() == {"st-hard-s2", "st-hard-s3", "st-kd-s2", "st-kd-s3"}
    assert {name for name in before if before[name].key != after[name].key} == {"evaluate"}
    more = plan("multitask.dropouts=[0.1,0.2,0.3,0.4]")
    assert more.keys() - before.keys() == {"mt-4"}
    assert {name for name in before if before[name].key != more[name].key} == {"select", "evaluate"}


def test_teacher_tasks_redo_neither_examples_nor_members() -> None:
    before, after = plan(), plan("data.teacher_tasks=[nli,paraphrase]")
    assert all(before[name].key == after[name].key for name in ("prepare", *MEMBERS, *HARD, "ft-1-nli", "ft-3-nli"))
    assert all(before[name].key != after[name].key for name in ("select", *AFTER_TEACHERS))
    assert after.keys() - before.keys() == {"ft-1-paraphrase", "ft-3-paraphrase"}


def test_done_means_this_very_job() -> None:
    jobs = plan()
    record = manifest(jobs)
    assert all(is_done(job, record) for job in jobs.values())
    assert not is_done(jobs["mt-1"], {"jobs": {}})
    assert not is_done(plan("multitask.lr=1")["mt-1"], record)
    record["jobs"]["mt-1"]["status"] = "running"
    assert not is_done(jobs["mt-1"], record)


# ---- what would be lost ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("override", "lost"),
    [
        ("distill.seeds=3", set()),
        ("evaluate.split=dev", set()),
        ("evaluate.resamples=300", set()),
        ("runtime.workers=2", set()),
        ("distill.alpha=0.3", KD),
        ("distill.seeds=1", {"st-kd-s1", "st-hard-s1"}),  # orphans
        ("ensemble.strategy=mean_logits", KD),
        ("model.max_length=32", ALL - {"select", "ensemble", "evaluate"}),
    ],
)
def test_what_would_be_lost(override: str, lost: set[str]) -> None:
    record = manifest(plan())
    assert set(lost_by(plan(override), record, chosen_known=True)) == lost
    # Only trainings and `prepare` count: the rest is made again in seconds.
    assert all(record["jobs"][name]["stage"] in (*TRAINING_STAGES, "prepare") for name in lost)


def test_another_selection_may_lose_what_was_taught_by_the_old_one() -> None:
    record = manifest(plan())
    assert set(lost_by(plan("select.top_k=1", chosen=None), record, chosen_known=False)) == TEACHERS | KD
    # Interrupted, not changed: it will choose the same.
    interrupted = manifest(plan(), "select")
    assert lost_by(plan(chosen=None), interrupted, chosen_known=False) == []
    changed = plan("multitask.dropouts=[0.15,0.2,0.3]", chosen=None)
    assert set(lost_by(changed, record, chosen_known=False)) == {"mt-1"} | TEACHERS | KD


def test_examples_without_a_training_are_no_loss() -> None:
    config = load_config("smoke")
    before = make_jobs(config, resolve_tasks(config), source_digest="", chosen=None)
    record = {"stage": "prepare", "status": "done", "key": before["prepare"].key}
    other = load_config("smoke", overrides=["data.seed=1"])
    after = make_jobs(other, resolve_tasks(other), source_digest="", chosen=None)
    assert after["prepare"].key != before["prepare"].key
    assert lost_by(after, {"jobs": {"prepare": record}}, chosen_known=False) == []
    member = {"stage": "multitask", "status": "done", "key": before["mt-1"].key}
    assert lost_by(after, {"jobs": {"prepare": record, "mt-1": member}}, chosen_known=False) == ["prepare", "mt-1"]
