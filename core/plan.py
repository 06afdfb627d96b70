"""Which jobs make a run, what each needs, and whether it is up to date. Pure: config in, jobs out.

A stage is one or more *jobs*; a job is what is trained, skipped, resumed or redone as a whole: member `mt-2`, teacher
`ft-2-nli`, student `st-kd-s0`. A job's key is a digest of its own part of the config, the keys of the jobs that it
needs, and the code's version. So changing one member's dropout redoes that member and what depends on it, and a
larger `distill.seeds` only adds students.

The teachers' names depend on the selection, so their jobs are known after `select` has run; before that,
`make_jobs` leaves them and what follows out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from core.config import NEEDS_TEACHER, Config, TrainConfig, digest
from core.tasks import Task

STAGES = ("prepare", "multitask", "select", "finetune", "ensemble", "distill", "evaluate")
TRAINING_STAGES = ("multitask", "finetune", "distill")

# Part of every key: raise it when a change of the code changes results, and every run is redone.
CODE_VERSION = 1


class Job(NamedTuple):
    """One unit of work. `weights_of` names the job whose model this one starts from."""

    stage: str
    name: str
    spec: dict[str, Any]
    needs: tuple[str, ...]
    key: str
    weights_of: str | None = None


def make_jobs(
    config: Config, tasks: Mapping[str, Task], *, source_digest: str, chosen: Sequence[str] | None
) -> dict[str, Job]:
    """All jobs by name, in an order in which they can run.

    `source_digest` stands for the contents of the source files; `chosen` are the members that `select` kept, best
    first, or None while that is not known.
    """
    jobs: dict[str, Job] = {}

    def add(stage: str, name: str, spec: dict[str, Any], needs: Sequence[str], weights_of: str | None = None) -> None:
        inputs = {need: jobs[need].key for need in needs}
        key = digest({"code": CODE_VERSION, "stage": stage, "name": name, "spec": spec, "inputs": inputs})
        jobs[name] = Job(stage, name, spec, tuple(needs), key, weights_of)

    teacher_tasks = [name for name, task in tasks.items() if task.has_teacher]
    numerics = {"dtype": config.runtime.dtype, "threads": config.runtime.threads}
    add(
        "prepare",
        "prepare",
        {
            "data": config.data.model_dump(exclude={"glue_dir", "hub_dir", "tasks_file", "teacher_tasks"}),
            "tasks": [_row(task) for task in tasks.values()],
            "tokenizer": config.model.tokenizer,
            "encoders": list(config.encoders),
            "max_length": config.model.max_length,
            "source": source_digest,
        },
        (),
    )
    for name, settings in config.multitask.members.items():
        spec: dict[str, Any] = {"member": settings, "seed": config.seed, **numerics}
        spec |= {"train": _train_part(config.multitask), "model": _model_part(config)}
        add("multitask", name, spec, ("prepare",))
    members = list(config.multitask.members)
    leaks = config.select.split == config.evaluate.split  # selection.json says so, and must not say it of another split
    add("select", "select", {**config.select.model_dump(), "teacher_tasks": teacher_tasks, "leaks": leaks}, members)
    if chosen is None:
        return jobs

    teachers: list[str] = []
    for member in chosen:
        for task in teacher_tasks:
            name = teacher_name(member, task)
            spec = {"task": task, "seed": [config.seed, config.finetune.seed], **numerics}
            spec |= {"dropout": config.multitask.members[member]["dropout"]}
            spec |= {"train": _train_part(config.finetune), "model": _model_part(config)}
            add("finetune", name, spec, (member,), weights_of=member)
            teachers.append(name)
    spec = {"strategy": config.ensemble.strategy, "members": list(chosen), "teacher_tasks": teacher_tasks}
    add("ensemble", "ensemble", spec, (*chosen, *teachers))
    for variant in config.distill.variants:
        for seed in range(config.distill.seeds):
            name = student_name(variant, seed)
            spec = {"variant": variant, "seed": [config.seed, seed], **numerics}
            spec |= {"encoder": config.student_encoder, "dropout": config.distill.dropout}
            spec |= {"train": _train_part(config.distill), "model": _model_part(config)}
            if NEEDS_TEACHER[variant]:
                spec |= {key: getattr(config.distill, key) for key in ("loss", "alpha", "temperature")}
            add("distill", name, spec, ("prepare", "ensemble") if NEEDS_TEACHER[variant] else ("prepare",))
    add("evaluate", "evaluate", config.evaluate.model_dump(), [name for name in jobs if name != "select"])
    return jobs


def teacher_name(member: str, task: str) -> str:
    """`mt-2`, `mnli` -> `ft-2-mnli`."""
    return f"ft-{member.removeprefix('mt-')}-{task}"


def student_name(variant: str, seed: int) -> str:
    return f"st-{variant}-s{seed}"


def ensemble_name(strategy: str) -> str:
    return f"ens-{strategy}"


def is_done(job: Job, manifest: Mapping[str, Any]) -> bool:
    """Did this run finish this very job, with this key?"""
    record = manifest.get("jobs", {}).get(job.name, {})
    return record.get("status") == "done" and record.get("key") == job.key


def lost_by(jobs: Mapping[str, Job], manifest: Mapping[str, Any], *, chosen_known: bool) -> list[str]:
    """Names of finished trainings (and of `prepare`) that going on with `jobs` would replace or orphan.

    A pure extension, such as more student seeds, loses nothing and gives an empty list. A selection that has to be
    made again (other members, another rule) may choose others: until it has, what was taught by the old choice counts
    as lost. A selection that was only interrupted comes out the same and does not.
    """
    records = manifest.get("jobs", {})
    choice_changed = not chosen_known and "select" in records and not is_done(jobs["select"], manifest)
    lost = []
    for name, record in records.items():
        if record.get("status") != "done" or record["stage"] not in (*TRAINING_STAGES, "prepare"):
            continue
        if name in jobs:
            if jobs[name].key != record["key"]:
                lost.append(name)
        elif chosen_known or record["stage"] == "multitask" or (choice_changed and not _is_untaught(name)):
            lost.append(name)
    # Examples alone are made again in seconds: a first try that stopped at a wrong encoder is not worth a question.
    return [] if lost == ["prepare"] else lost


def _is_untaught(name: str) -> bool:
    """A student that reads no targets, so that no choice of teachers touches it."""
    return any(
        name.startswith(student_name(variant, 0)[:-1]) for variant, taught in NEEDS_TEACHER.items() if not taught
    )


def _train_part(train: TrainConfig) -> dict[str, Any]:
    """The fields of the shared `TrainConfig`, without what a stage adds to it."""
    return {name: getattr(train, name) for name in TrainConfig.model_fields}


def _model_part(config: Config) -> dict[str, Any]:
    return config.model.model_dump(exclude={"tokenizer", "max_length"})  # these are in the key of `prepare`


def _row(task: Task) -> dict[str, Any]:
    row = asdict(task)
    # Where the files lie is not what is in them (`source_digest` stands for that), and who teaches changes no example.
    return {key: value for key, value in row.items() if key not in ("files", "folder", "has_teacher")}
