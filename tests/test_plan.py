"""Which jobs a change of the config redoes, adds, leaves alone or would lose. Pure: nothing is run."""

from __future__ import annotations

from typing import Any

import pytest

from core.config import resolve_tasks
from core.plan import STAGES, TRAINING_STAGES, Job, is_done, lost_by, make_jobs, waves
from core.presets import load_config
from core.sections import NEEDS_TEACHER
from core.tasks import SUITE

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
    assert set(stages) == set(STAGES) - {"pretrain"}  # which has no jobs until pretrain.objective is set
    assert len({job.key for job in jobs.values()}) == len(jobs)
    assert {job.name: job.weights_of for job in jobs.values() if job.weights_of} == {
        name: (f"mt-{name.split('-')[1]}",) for name in TEACHERS
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
        ("data.n_train_of={nli: 200}", ALL),
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


# ---- members that follow one another, folds, generations ------------------------------------------------------------
def names(jobs: dict[str, Job], stage: str) -> list[str]:
    return [name for name, job in jobs.items() if job.stage == stage]


def test_snapshots_are_a_chain_of_weights() -> None:
    pool = "multitask.pool=[{}, {seed: 1, snapshots: 3}, {head: linear}]"
    jobs = plan(pool, "multitask.epochs=6", chosen=["mt-3", "mt-5"])
    assert {name: jobs[name].weights_of for name in names(jobs, "multitask")} == {
        **{"mt-1": (), "mt-2": (), "mt-3": ("mt-2",), "mt-4": ("mt-3",), "mt-5": ()}
    }
    assert [jobs[f"mt-{i}"].spec["train"]["epochs"] for i in range(1, 6)] == [6, 2, 2, 2, 6]
    assert jobs["ft-3-nli"].weights_of == ("mt-3",)
    # In waves a cycle comes after the one before it, and everything else as early as it can.
    todo = [jobs[name] for name in (*names(jobs, "multitask"), "ft-3-nli")]
    assert [[job.name for job in wave] for wave in waves(todo)] == [
        ["mt-1", "mt-2", "mt-5"], ["mt-3"], ["mt-4", "ft-3-nli"]
    ]  # fmt: skip
    hotter = plan(pool.replace("snapshots: 3", "snapshots: 3, lr: 0.5"), "multitask.epochs=6", chosen=["mt-3", "mt-5"])
    redone = {name for name in jobs if jobs[name].key != hotter[name].key}
    assert redone == {"mt-2", "mt-3", "mt-4", "select", "ft-3-nli", "ft-3-sentiment", *AFTER_TEACHERS}


def test_out_of_fold_targets_have_members_and_teachers_of_their_own() -> None:
    folds = plan("ensemble.targets=out_of_fold", "ensemble.folds=3")
    members = {f"mt-{i}-f{fold}" for i in (3, 1) for fold in range(3)}
    teachers = {f"ft-{i}-{task}-f{fold}" for i in (3, 1) for task in ("nli", "sentiment") for fold in range(3)}
    assert folds.keys() - plan().keys() == members | teachers
    assert all(folds[name].stage == "finetune" for name in members | teachers)
    assert folds["ft-1-nli-f2"].weights_of == ("mt-1-f2",)
    assert folds["ft-1-nli"].weights_of == ("mt-1",)
    assert teachers <= set(folds["ensemble"].needs)
    # They exist for the targets: what is reported is the teachers of all rows, as without folds.
    assert folds["evaluate"].spec["models"] == plan()["evaluate"].spec["models"]
    assert {name for name, job in plan().items() if job.key != folds[name].key} == AFTER_TEACHERS
    other = plan("ensemble.targets=out_of_fold", "ensemble.folds=4")
    assert {name for name in folds if folds[name].key != other[name].key} == members | teachers | AFTER_TEACHERS


def test_generations_and_fine_tuned_students_only_add() -> None:
    before, jobs = plan(), plan("distill.generations=3", "distill.finetuned=[hard]")
    generations = {f"st-kd-g{g}-s{seed}": g for g in (2, 3) for seed in (0, 1)}
    fine_tuned = {f"st-hard-s{seed}-ft-{task}" for seed in (0, 1) for task in SUITE}
    assert jobs.keys() - before.keys() == generations.keys() | fine_tuned
    assert {name for name in before if before[name].key != jobs[name].key} == {"evaluate"}
    assert jobs["st-kd-g2-s1"].weights_of == ("st-kd-s1",)
    assert jobs["st-kd-g3-s1"].weights_of == ("st-kd-g2-s1",)
    assert jobs["st-hard-s1-ft-nli"].weights_of == ("st-hard-s1",)
    assert {name: jobs["evaluate"].spec["models"][name] for name in ("st-kd-g3-s1", "st-hard-s1-ft-nli", "mt-2")} == {
        **{"st-kd-g3-s1": 1, "st-hard-s1-ft-nli": 1, "mt-2": 0}
    }
    hotter = plan("distill.generations=3", "distill.finetuned=[hard]", "finetune.lr=0.5")
    changed = {name for name in jobs if jobs[name].key != hotter[name].key}
    assert changed == TEACHERS | AFTER_TEACHERS | generations.keys() | fine_tuned


# ---- variants and strategies ----------------------------------------------------------------------------------------
VARIANTS = f"distill.variants=[{','.join(NEEDS_TEACHER)}]"


@pytest.mark.parametrize(
    ("override", "variants"),
    [
        ("distill.alpha=0.3", {"kd", "dkpp", "adaptive_smoothing", "truth"}),
        ("distill.loss=kl", {"kd", "dkpp", "adaptive_smoothing", "truth"}),
        ("distill.per_task={nli: {alpha: 0.3}}", {"kd", "dkpp", "adaptive_smoothing", "truth"}),
        ("distill.soft_warmup=0.3", {"kd", "dkpp", "adaptive_smoothing", "truth"}),
        ("distill.smoothing=0.2", {"label_smoothing"}),
        ("ensemble.strategy=mean_logits", {"kd", "cwtm", "dkpp", "adaptive_smoothing"}),
        ("distill.rtd_weight=0.1", set(NEEDS_TEACHER)),
        ("distill.sampling=sqrt", set(NEEDS_TEACHER)),
        ("ensemble.compare=[weighted]", set()),
        ("ensemble.fit_split=dev", set()),
    ],
)
def test_which_variants_a_change_redoes(override: str, variants: set[str]) -> None:
    before, after = plan(VARIANTS), plan(VARIANTS, override)
    redone = {name for name in names(before, "distill") if before[name].key != after[name].key}
    assert redone == {f"st-{variant}-s{seed}" for variant in variants for seed in (0, 1)}
    assert before["evaluate"].key != after["evaluate"].key


def test_a_fitted_strategy_makes_other_targets_with_another_split() -> None:
    before, after = (plan("ensemble.strategy=stacking", f"ensemble.fit_split={name}") for name in ("selection", "dev"))
    assert {name for name in before if before[name].key != after[name].key} == AFTER_TEACHERS


def test_another_variant_strategy_or_soup_redoes_no_training() -> None:
    before = plan()
    for override, new, redone in (
        ("distill.variants=[kd,dkpp,hard]", {"st-dkpp-s0", "st-dkpp-s1"}, {"evaluate"}),
        ("ensemble.compare=[weighted]", set(), {"ensemble", "evaluate"}),
        ("ensemble.soups=[greedy]", {"soup-greedy"}, {"evaluate"}),
    ):
        after = plan(override)
        assert after.keys() - before.keys() == new
        assert {name for name in before if before[name].key != after[name].key} == redone
        assert lost_by(after, manifest(before), chosen_known=True) == []
    assert plan("ensemble.soups=[greedy]")["soup-greedy"].weights_of == tuple(CHOSEN)
    assert "ens-weighted" in plan("ensemble.compare=[weighted]")["evaluate"].spec["models"]


def test_what_another_selection_loses_of_the_new_kinds() -> None:
    more = (VARIANTS, "distill.generations=2", "distill.finetuned=[hard,kd]", "ensemble.targets=out_of_fold")
    record = manifest(plan(*more))
    lost = set(lost_by(plan(*more, "select.top_k=1", chosen=None), record, chosen_known=False))
    untaught = ("st-hard-", "st-label_smoothing-", "st-truth-")
    assert lost == {name for name in plan(*more) if name.startswith(("ft-", "st-"))} - {
        name for name in record["jobs"] if name.startswith(untaught)
    } | {f"mt-{i}-f{fold}" for i in (1, 3) for fold in (0, 1)}


# ---- pre-training ---------------------------------------------------------------------------------------------------
def test_fresh_encoders_are_pretrained_once_each() -> None:
    small, wide = "random:bert(layers=1,hidden=32,heads=2)", "random:bert(layers=1,hidden=48,heads=2)"
    encoders = f"multitask.encoders=['{small}', 'google-bert/bert-base-uncased', '{wide}']"
    more = ("multitask.dropouts=[0.1]", encoders)
    before, jobs = plan(*more), plan(*more, "pretrain.objective=mlm")
    assert list(jobs)[:3] == ["prepare", "pt-1", "pt-2"]
    assert [jobs[name].spec["encoder"] for name in ("pt-1", "pt-2")] == [small, wide]
    starts = {name: job.weights_of for name, job in jobs.items() if job.stage in ("multitask", "distill")}
    assert starts == {"mt-1": ("pt-1",), "mt-2": (), "mt-3": ("pt-2",), **dict.fromkeys(KD | HARD, ("pt-1",))}
    assert jobs["ft-3-nli"].weights_of == ("mt-3",)
    # A model from the hub is what it was.
    assert {name for name in before if before[name].key == jobs[name].key} == {"prepare", "mt-2"}
    other = plan(*more, "pretrain.objective=mlm", "pretrain.lr=0.1")
    assert {name for name in jobs if jobs[name].key == other[name].key} == {"prepare", "mt-2"}
