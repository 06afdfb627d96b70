"""Which jobs make a run, what each needs, and whether it is up to date. Pure: config in, jobs out.

A stage is one or more *jobs*; a job is what is trained, skipped, resumed or redone as a whole: pre-trained encoder
`pt-1`, member `mt-2`, teacher `ft-2-nli`, student `st-kd-s0`. A job's key is a digest of its own part of the config,
the keys of the jobs that it needs, and the code's version. So changing one member's dropout redoes that member and what
depends on it, and a larger `distill.seeds` only adds students.

The teachers' names depend on the selection, so their jobs are known after `select` has run; before that,
`make_jobs` leaves them and what follows out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, NamedTuple

from core.config import Config, digest
from core.sections import FITTED_STRATEGIES, NEEDS_TEACHER, TrainConfig
from core.tasks import Task

STAGES = ("prepare", "pretrain", "multitask", "select", "finetune", "ensemble", "distill", "evaluate")
TRAINING_STAGES = ("pretrain", "multitask", "finetune", "distill")

# Part of every key: raise it when a change of the code changes results, and every run is redone.
CODE_VERSION = 5

# Of `TrainConfig` and `ModelConfig`: came after runs had been made, and change nothing at this value.
LATER_FIELDS = {"accumulate": 1, "san_start": "random"}


class Job(NamedTuple):
    """One unit of work. `weights_of` names the jobs whose models this one loads; they are among its `needs`."""

    stage: str
    name: str
    spec: dict[str, Any]
    needs: tuple[str, ...]
    key: str
    weights_of: tuple[str, ...] = ()


def make_jobs(
    config: Config, tasks: Mapping[str, Task], *, source_digest: str, chosen: Sequence[str] | None
) -> dict[str, Job]:
    """All jobs by name, in an order in which they can run.

    `source_digest` stands for the contents of the source files; `chosen` are the members that `select` kept, best
    first, or None while that is not known.
    """
    jobs: dict[str, Job] = {}

    def add(
        stage: str,
        name: str,
        spec: dict[str, Any],
        needs: Sequence[str],
        weights_of: Sequence[str] = (),
        key_of: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`key_of` names a need of which only a part is read, and has that part's key."""
        needs = tuple(dict.fromkeys((*needs, *weights_of)))
        inputs = {need: key_of.get(need, jobs[need].key) for need in needs}
        key = digest({"code": CODE_VERSION, "stage": stage, "name": name, "spec": spec, "inputs": inputs})
        jobs[name] = Job(stage, name, spec, needs, key, tuple(weights_of))

    teacher_tasks = [name for name, task in tasks.items() if task.has_teacher]
    common: dict[str, Any] = {
        "dtype": config.runtime.dtype,
        "threads": config.runtime.threads,
        "model": _model_part(config),
    }
    if config.runtime.compile:  # other kernels, other rounding
        common["compile"] = True
    start_of = {encoder: (name,) for encoder, name in config.pretrained.items()}
    add(
        "prepare",
        "prepare",
        {
            "data": config.data.model_dump(exclude=_not_in_the_data(config)),
            "tasks": [_row(task) for task in tasks.values()],
            "tokenizer": config.model.tokenizer,
            "encoders": list(config.encoders),
            "max_length": config.model.max_length,
            "source": source_digest,
        },
        (),
    )
    for encoder, pretrained in config.pretrained.items():
        spec: dict[str, Any] = {
            "encoder": encoder,
            "pretrain": keyed_fields(config.pretrain.model_dump(exclude={"text"})),  # `source_digest` stands for it
            "dtype": config.runtime.dtype,
        }
        add("pretrain", pretrained, spec | {"seed": config.seed}, ("prepare",))

    def add_member(stage: str, name: str, member: dict[str, Any], **held_out: Any) -> None:
        own = {key: member[key] for key in ("lr", "clip_norm", "epochs")}
        spec: dict[str, Any] = {
            "member": member,
            "seed": config.seed,
            "train": {**_train_part(config.multitask), **own},
            **common,
        }
        weights = (member["continues"],) if member["continues"] else start_of.get(member["encoder"], ())
        add(stage, name, spec | held_out, ("prepare",), weights)

    members = config.multitask.members
    for name, settings in members.items():
        add_member("multitask", name, settings)
    leaks = config.select.split == config.evaluate.split  # selection.json says so, and must not say it of another split
    spec = {**config.select.model_dump(), "teacher_tasks": teacher_tasks, "leaks": leaks}
    add("select", "select", spec, list(members))
    if chosen is None:
        return jobs
    if strangers := [name for name in chosen if name not in members]:
        raise ValueError(
            f"the selection names {', '.join(strangers)}, the config has members mt-1 to mt-{len(members)}; "
            "run.json and selection.json do not belong together: re-run stage 'select'"
        )

    def add_teacher(member: str, task: str, start: str, **held_out: Any) -> str:
        name = teacher_name(member, task, **held_out)
        spec: dict[str, Any] = {"task": task, "member": members[member], "seed": [config.seed, config.finetune.seed]}
        spec |= {"train": _train_part(config.finetune), **common, **held_out}
        add("finetune", name, spec, (), (start,))
        return name

    teachers = []
    for i in range(1, len(config.finetune.imported) + 1):
        for task in teacher_tasks:  # what it reads is in the key of `prepare`, as all files are
            teachers.append(teacher_name(f"mt-{i}", task))
            add("finetune", teachers[-1], {"task": task, "imported": i}, ("prepare",))
    if not teachers:
        teachers = [add_teacher(member, task, member) for member in chosen for task in teacher_tasks]
    if config.ensemble.targets == "out_of_fold":
        n_folds = config.ensemble.folds
        for member in chosen:
            for fold in range(n_folds):
                held_out = {"fold": fold, "n_folds": n_folds, "held_out_tasks": teacher_tasks}
                add_member("finetune", f"{member}-f{fold}", members[member], **held_out)
                for task in teacher_tasks:
                    teachers.append(add_teacher(member, task, f"{member}-f{fold}", fold=fold, n_folds=n_folds))
    spec = {"members": list(chosen), "teacher_tasks": teacher_tasks}
    add("ensemble", "ensemble", spec | config.ensemble.model_dump(exclude={"soups"}), (*chosen, *teachers))
    # Students read what makes Q alone: which strategies are compared with it is nothing to them.
    is_fitted = config.ensemble.strategy in FITTED_STRATEGIES
    spec |= config.ensemble.model_dump(include={"strategy", "targets", "folds", *(["fit_split"] if is_fitted else [])})
    targets_key = digest({"spec": spec, "inputs": {need: jobs[need].key for need in jobs["ensemble"].needs}})
    for soup in config.ensemble.soups:
        spec = {"soup": soup, "fit_split": config.ensemble.fit_split, "members": list(chosen)}
        add("ensemble", f"soup-{soup}", spec, (), chosen)
    _add_students(config, tasks, add, start_of.get(config.student_encoder, ()), common, targets_key)
    add("evaluate", "evaluate", {**config.evaluate.model_dump(), "models": scored_models(config, jobs)}, [
        name for name in jobs if name not in ("prepare", "select") and jobs[name].stage != "pretrain"
    ])  # fmt: skip
    # Jobs of their own: asking for features later trains nothing again.
    for student in [name for name, job in jobs.items() if job.stage == "distill" and "task" not in job.spec]:
        if config.runtime.keep_features:
            add("evaluate", f"features-{student}", {"features_of": student}, ("prepare",), (student,))
    return jobs


def _add_students(
    config: Config,
    tasks: Mapping[str, Task],
    add: Callable[..., None],
    start: Sequence[str],
    common: dict[str, Any],
    targets_key: str,
) -> None:
    """Each variant and seed; for `kd` further generations, each taught by the one before; fine-tuned ones."""
    distill = config.distill
    taught = {name: config.teaching(task)._asdict() for name, task in tasks.items() if task.has_teacher}
    # What a variant reads of the config: a change of alpha must not redo `hard`, nor one of the tasks with teachers.
    reads: dict[str, dict[str, Any]] = {
        **{variant: {"teaching": taught} for variant in ("kd", "dkpp", "adaptive_smoothing", "truth")},
        "label_smoothing": {"smoothing": distill.smoothing},
    }
    needs = {variant: ("ensemble",) if NEEDS_TEACHER[variant] else ("prepare",) for variant in distill.variants}
    for variant in distill.variants:
        for seed in range(distill.seeds):
            spec = {"variant": variant, "seed": [config.seed, seed], "encoder": config.student_encoder, **common}
            spec |= {"dropout": distill.dropout, "rtd_weight": distill.rtd_weight}
            spec |= {"teacher_tasks": list(taught)} if variant != "hard" else {}
            training = {"train": _train_part(distill), **reads.get(variant, {})}
            previous = student_name(variant, seed)
            add("distill", previous, spec | training, needs[variant], start, {"ensemble": targets_key})
            for generation in range(2, distill.generations + 1 if variant == "kd" else 2):
                name = student_name(variant, seed, generation)
                own = {"generation": generation, "taught_by": previous}
                add("distill", name, spec | training | own, ("prepare",), (*start, previous))
                previous = name
            for task in tasks if variant in distill.finetuned else ():
                name = f"{student_name(variant, seed)}-ft-{task}"
                own = {"task": task, "train": _train_part(config.finetune), "finetune_seed": config.finetune.seed}
                add("distill", name, spec | own, (), (student_name(variant, seed),))


def scored_models(config: Config, jobs: Mapping[str, Job]) -> dict[str, int | None]:
    """Every model that is predicted and scored, with the seed that tells it from its siblings: a member's own, a
    student's s. Not those of out-of-fold targets, which exist to label the examples that they have not seen."""
    models: dict[str, int | None] = {}
    for name, job in jobs.items():
        if job.stage == "ensemble" and name == "ensemble":
            models |= dict.fromkeys(map(ensemble_name, (config.ensemble.strategy, *config.ensemble.compare)))
        elif "fold" in job.spec or job.stage not in ("multitask", "finetune", "ensemble", "distill"):
            continue
        elif job.stage == "multitask":
            models[name] = job.spec["member"]["seed"]
        else:
            models[name] = job.spec["seed"][1] if job.stage == "distill" else None
    return models


def teacher_name(member: str, task: str, fold: int | None = None, **_: Any) -> str:
    """`mt-2`, `mnli` -> `ft-2-mnli`; `ft-2-mnli-f0` is its like that was not trained on fold 0."""
    return f"ft-{member.removeprefix('mt-')}-{task}" + ("" if fold is None else f"-f{fold}")


def teachers_of(config: Config, chosen: Sequence[str], task: str) -> list[str]:
    """Names of the teachers of `task`: tuned members, best first, or the imported ones in the config's order."""
    n_imported = len(config.finetune.imported)
    return [teacher_name(name, task) for name in ([f"mt-{i + 1}" for i in range(n_imported)] or chosen)]


def student_name(variant: str, seed: int, generation: int = 1) -> str:
    return f"st-{variant}" + (f"-g{generation}" if generation > 1 else "") + f"-s{seed}"


def student_groups(config: Config, task: str) -> dict[str, list[str]]:
    """Names of the students that differ by seed alone, by what they are: `hard`, `kd`, controls, `kd-g2` (the second
    generation), `kd-ft` (fine-tuned on `task`)."""
    seeds, groups = range(config.distill.seeds), dict[str, list[str]]()
    for variant in config.distill.variants:
        for generation in range(1, (config.distill.generations if variant == "kd" else 1) + 1):
            label = variant if generation == 1 else f"{variant}-g{generation}"
            groups[label] = [student_name(variant, seed, generation) for seed in seeds]
    for variant in config.distill.finetuned:
        groups[f"{variant}-ft"] = [f"{student_name(variant, seed)}-ft-{task}" for seed in seeds]
    return groups


def ensemble_name(strategy: str) -> str:
    return f"ens-{strategy}"


def is_done(job: Job, manifest: Mapping[str, Any]) -> bool:
    """Did this run finish this very job, with this key?"""
    record = manifest.get("jobs", {}).get(job.name, {})
    return record.get("status") == "done" and record.get("key") == job.key


def waves(jobs: Sequence[Job]) -> list[list[Job]]:
    """`jobs` in groups that can run side by side: a job comes after those of `jobs` that it needs."""
    groups: list[list[Job]] = []
    wave_of: dict[str, int] = {}
    for job in jobs:  # in an order in which they can run one by one
        wave = 1 + max((wave_of[need] for need in job.needs if need in wave_of), default=-1)
        wave_of[job.name] = wave
        groups += [[]] * (wave + 1 - len(groups))
        groups[wave] = [*groups[wave], job]
    return groups


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
        elif (
            chosen_known or record["stage"] in ("pretrain", "multitask") or (choice_changed and not _is_untaught(name))
        ):
            lost.append(name)
    # Examples alone are made again in seconds: a first try that stopped at a wrong encoder is not worth a question.
    return [] if lost == ["prepare"] else lost


def _is_untaught(name: str) -> bool:
    """A student that reads no targets, so that no choice of teachers touches it."""
    return any(
        name.startswith(student_name(variant, 0)[:-1]) for variant, taught in NEEDS_TEACHER.items() if not taught
    )


def _not_in_the_data(config: Config) -> set[str]:
    """Fields of `data` that change no example; `n_train_of` came later, and runs without it keep their keys."""
    places = {"glue_dir", "hub_dir", "tasks_file", "files_dir", "teacher_tasks"}
    return places if config.data.n_train_of else places | {"n_train_of"}


def _train_part(train: TrainConfig) -> dict[str, Any]:
    """The fields of the shared `TrainConfig`, without what a stage adds to it."""
    return keyed_fields({name: getattr(train, name) for name in TrainConfig.model_fields})


def keyed_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields that came later are left out at their default: a run from before them is up to date."""
    return {name: value for name, value in fields.items() if (name, value) not in LATER_FIELDS.items()}


def _model_part(config: Config) -> dict[str, Any]:
    # Those are in the key of `prepare`; the head in the rows of the tasks there.
    return keyed_fields(config.model.model_dump(exclude={"tokenizer", "max_length", "similarity_head"}))


def _row(task: Task) -> dict[str, Any]:
    row = asdict(task)
    # Where the files lie is not what is in them (`source_digest` stands for that), and who teaches changes no example.
    return {key: value for key, value in row.items() if key not in ("files", "folder", "has_teacher")}
