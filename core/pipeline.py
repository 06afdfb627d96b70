"""The order of the stages: what is up to date is skipped, what changed is redone, and what depends on it too.

`run_pipeline` walks the stages, asks core/plan for the jobs of each, runs those that are not done with the same key,
and writes `run.json` after every job. A run directory that holds finished trainings of another config is refused
unless `update` is given: nothing is lost by mistake. One process at a time writes to it (core/locks), and what a job
reads is compared with its checksum first (core/checksums).

No torch here: when everything is up to date, a run takes as long as reading its manifest.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from core.checksums import check_file, check_inputs, files_of, lost_files, recorded, write_sums
from core.config import Config, differences, digest, resolve_tasks, warnings_of
from core.data import fingerprint, source_files
from core.engine_ray import RayOptions, RayWorkers
from core.files import read_json
from core.locks import locked
from core.plan import STAGES, TRAINING_STAGES, Job, is_done, lost_by, make_jobs, waves
from core.progress import Progress
from core.ranks import ALONE, Ranks, sharing
from core.store import SCHEMA_VERSION, Run, files_of_teacher
from core.tasks import Task
from core.workers import Workers

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "pyarrow", "scikit-learn", "scipy")


def run_pipeline(
    run: Run,
    config: Config,
    *,
    first_stage: str | None = None,
    only_stage: str | None = None,
    last_stage: str | None = None,
    update: bool = False,
    ray: RayOptions | None = None,
    progress: Progress,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Brings `run` up to date with `config` and returns its manifest.

    `first_stage` redoes that stage and all after it; `only_stage` redoes that one alone, and fails when what it needs
    is not up to date; `last_stage` stops after that one; with `ray`, jobs run on a Ray cluster; `ranks` train each job
    together. Raises `ValueError` for a run directory of another config, see `update`, for one that another process
    works on, and for a damaged file.
    """
    for stage in (first_stage, only_stage, last_stage):
        if stage is not None and stage not in STAGES:
            raise ValueError(f"stage '{stage}' is not known, expected one of {', '.join(STAGES)}")
    ranks = sharing(ranks, config.runtime, with_ray=ray is not None)
    tasks = resolve_tasks(config)
    source = source_digest(config, tasks)
    forced = _forced_stages(first_stage, only_stage)
    if not run.exists() and run.holds_anything():
        raise ValueError(f"{run.path} exists, is not empty and holds no run; give an empty or new folder to --out")
    with ExitStack() as stack:
        workers: Workers | RayWorkers | None = None
        notes = [stack.enter_context(locked(run.path))]
        begin = _Begin(update=update, first_stage=first_stage or only_stage, forced=forced)
        manifest, sums, more = _open(run, config, tasks, source, begin)
        for note in (*notes, *more, *manifest["warnings"]):
            if note:
                progress.note(f"note: {note}")
        checked: set[str] = set()
        run.log("started", pid=os.getpid())
        stack.push(lambda kind, error, trace: _log_stop(run, error))
        wanted = STAGES if last_stage is None else STAGES[: STAGES.index(last_stage) + 1]
        wanted = wanted if only_stage is None else (only_stage,)
        for stage in wanted:
            chosen = chosen_members(run, config, tasks, source, manifest)
            jobs = make_jobs(config, tasks, source_digest=source, chosen=chosen)
            if only_stage is not None:
                _require_inputs(stage, jobs, manifest)
            elif stage == "finetune":
                # Another selection than before: what belonged to the old one is neither counted nor reported.
                _forget(run, manifest, sums, jobs, stages=STAGES)
            of_stage = [job for job in jobs.values() if job.stage == stage]
            todo = [job for job in of_stage if stage in forced or not is_done(job, manifest)]
            if not todo:
                if of_stage:
                    progress.skipped(stage)
                continue
            if stage in forced:
                for job in todo:
                    shutil.rmtree(run.model_dir(job.name), ignore_errors=True)
            if workers is None:
                run.remove_leftovers()
                # A single last job, as in a notebook of one stage, needs no pool: each worker would import torch.
                n_most = 1 if len(todo) == 1 and stage == wanted[-1] else None
                workers = _start_workers(run, config, tasks, progress, n_most, ray, ranks)
                stack.enter_context(workers)
            # Models whose weights were deleted train again before those that start from them.
            for wave in waves([*_jobs_with_lost_weights(run, jobs, todo), *todo]):
                check_inputs(run, jobs, wave, sums, checked)
                _run_jobs(run, config, tasks, wave, jobs["prepare"].key, manifest, sums, workers, progress)
                checked.update(path for job in wave for path in files_of(sums, job.stage, job.name))
        if not config.runtime.keep_models and only_stage is None and last_stage is None:
            shutil.rmtree(run.path / "models", ignore_errors=True)
        return manifest


def _run_jobs(
    run: Run,
    config: Config,
    tasks: dict[str, Task],
    jobs: Sequence[Job],
    prepare_key: str,
    manifest: dict[str, Any],
    sums: dict[str, str],
    workers: Workers | RayWorkers,
    progress: Progress,
) -> None:
    """Runs `jobs` side by side and marks each done in `run.json`, after all its files and their checksums."""
    if not jobs:
        return
    for job in jobs:
        manifest["jobs"].pop(job.name, None)
        _drop(sums, job.stage, job.name)  # the list is of finished jobs: what a killed one leaves is not damaged
    run.write_manifest(manifest)
    write_sums(run, sums)
    progress.start(jobs[0].stage, [job.name for job in jobs])
    for job, result in workers.run(str(run.path), config, tasks, jobs, prepare_key):
        seconds = round(result.seconds, 3)
        record = {"stage": job.stage, "status": "done", "key": job.key, "seconds": seconds, "finished": _now()}
        manifest["jobs"][job.name] = {**record, **result.about}
        sums |= result.sums
        write_sums(run, sums)
        run.write_manifest(manifest)
        run.log("done", job=job.name, stage=job.stage, seconds=seconds)
        progress.finished(job.name, result.seconds)
        for note in result.about.get("notes", ()):
            progress.note(f"note: {note}")


def _log_stop(run: Run, error: BaseException | None) -> None:
    if error is not None:
        with suppress(ValueError):  # on a full disk, say: the error itself is what must be seen
            run.log("stopped", error=f"{type(error).__name__}: {error}".removesuffix(": "))


def source_digest(config: Config, tasks: dict[str, Task]) -> str:
    """Contents of the source files; the suite and the hub have none on this machine, their config says it all."""
    data, found = config.data, []
    if data.source != "suite" and (data.source != "hub" or data.hub_dir is not None):
        folders = {
            name: None if where is None else Path(where)
            for name, where in (("glue_dir", data.glue_dir), ("hub_dir", data.hub_dir))
        }
        found = [fingerprint(source_files(task, source=data.source, **folders)) for task in tasks.values()]
    taught = [name for name, task in tasks.items() if task.has_teacher]
    found += [fingerprint(files_of_teacher(where, taught)) for where in config.finetune.imported]
    if config.pretrain.objective != "none" and config.pretrain.text is not None:
        text = Path(config.pretrain.text)
        if not text.exists():
            raise ValueError(f"there is no {text}; give pretrain.text a UTF-8 text file or a folder of *.txt")
        found.append(fingerprint(sorted(text.glob("*.txt")) if text.is_dir() else [text]))
    return digest(found) if found else ""


def chosen_members(
    run: Run, config: Config, tasks: dict[str, Task], source: str, manifest: dict[str, Any]
) -> list[str] | None:
    """The members that `select` kept, when it is done with the present key; else None."""
    jobs = make_jobs(config, tasks, source_digest=source, chosen=None)
    path = run.path / "selection.json"
    if not is_done(jobs["select"], manifest) or not path.exists():
        return None
    return list(read_json(path)["chosen"])


class _Begin(NamedTuple):
    """What a person asked for: replace what is outdated, redo from a stage on, the stages that are redone."""

    update: bool
    first_stage: str | None
    forced: Collection[str]


def _open(
    run: Run, config: Config, tasks: dict[str, Task], source: str, begin: _Begin
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """The manifest to go on with, a new one or the old one with the new config; the checksums; what is worth a note."""
    config_values = config.model_dump(mode="json")
    fresh: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "created": _now(),
        "config": config_values,
        "config_digest": digest(config_values),
        "tasks": {name: asdict(task) for name, task in tasks.items()},
        "git_commit": _git_commit(),
        "versions": {"core": metadata.version("darkroom"), "python": platform.python_version()}
        | {name: metadata.version(name) for name in PACKAGES},
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "seed": config.seed,
        "warnings": warnings_of(config, tasks),
        "jobs": {},
    }
    if not run.exists():
        run.write_manifest(fresh)
        return fresh, {}, []
    old = run.manifest()
    if old.get("imported"):
        raise ValueError(
            f"{run.path} holds imported predictions and has no stages to run; give another folder to --out"
        )
    sums, note = recorded(run, old)
    notes = [note] if note else []
    for name, path in lost_files(run, old, sums).items():
        if old["jobs"].pop(name)["stage"] not in begin.forced:
            notes.append(f"{run.path / path} is gone, so '{name}' is done again")
    if not (run.path / "selection.json").exists():
        old["jobs"].pop("select", None)
    elif "select" not in begin.forced:
        check_file(run, "selection.json", sums, stage="select")
    chosen = chosen_members(run, config, tasks, source, old)
    jobs = make_jobs(config, tasks, source_digest=source, chosen=chosen)
    lost = lost_by(jobs, old, chosen_known=chosen is not None)
    if begin.first_stage is not None:
        # A stage that is redone by name may replace its own results and those after it.
        lost = [name for name in lost if STAGES.index(old["jobs"][name]["stage"]) < STAGES.index(begin.first_stage)]
    if lost and not begin.update:
        changes = differences(old["config"], fresh["config"]) or ["the source files or the code have changed"]
        raise ValueError(
            f"{run.path} holds a run of another config ({'; '.join(changes[:6])}). Going on would replace "
            f"{len(lost)} finished jobs: {', '.join(lost[:8])}{' ...' if len(lost) > 8 else ''}. Give another --out, "
            "or --update to redo them here"
        )
    # "base": a cell of a sweep has one.
    manifest = fresh | {name: old[name] for name in ("created", "jobs", "base") if name in old}
    _forget(run, manifest, sums, jobs, stages=STAGES if begin.update else begin.forced)
    return manifest, sums, notes


def _drop(sums: dict[str, str], stage: str, job: str) -> None:
    for path in files_of(sums, stage, job):
        del sums[path]


def _forget(
    run: Run, manifest: dict[str, Any], sums: dict[str, str], jobs: Mapping[str, Job], *, stages: Collection[str]
) -> None:
    """Takes what `jobs` makes outdated out of `run.json`, so that a stop on the way leaves no result under a config
    that it is not of. Trainings only of `stages`, those that may be replaced; a model that no job makes any more goes
    with its files. What comes after the selection is judged once that is known."""
    chosen_known = "ensemble" in jobs
    for name, record in list(manifest["jobs"].items()):
        if name in jobs:
            stale = not is_done(jobs[name], manifest)
        else:
            stale = chosen_known or record["stage"] in ("pretrain", "multitask", "ensemble", "evaluate")
        if not stale or (record["stage"] in (*TRAINING_STAGES, "prepare") and record["stage"] not in stages):
            continue
        del manifest["jobs"][name]
        if name not in jobs and record["stage"] in (*TRAINING_STAGES, "ensemble"):  # a soup is a model too
            for folder in ("models", "predictions", "dynamics"):
                shutil.rmtree(run.path / folder / name, ignore_errors=True)
            (run.path / f"{name}.json").unlink(missing_ok=True)
            _drop(sums, record["stage"], name)
    write_sums(run, sums)
    run.write_manifest(manifest)


def _forced_stages(first_stage: str | None, only_stage: str | None) -> set[str]:
    if only_stage is not None:
        return {only_stage}
    return set() if first_stage is None else set(STAGES[STAGES.index(first_stage) :])


def _require_inputs(stage: str, jobs: dict[str, Job], manifest: dict[str, Any]) -> None:
    if stage == "pretrain" and not any(job.stage == stage for job in jobs.values()):
        raise ValueError("stage 'pretrain' has nothing to do: pretrain.objective is 'none', or no encoder is fresh")
    if not any(job.stage == stage for job in jobs.values()):
        raise ValueError(f"stage '{stage}' cannot run alone: 'select' is not up to date. Run without --only first")
    for job in jobs.values():
        for need in job.needs if job.stage == stage else ():
            if jobs[need].stage != stage and not is_done(jobs[need], manifest):
                raise ValueError(
                    f"stage '{stage}' cannot run alone: its input '{need}' (stage '{jobs[need].stage}') is not up to "
                    f"date. Run --from {jobs[need].stage}, or without --only"
                )


def _jobs_with_lost_weights(run: Run, jobs: dict[str, Job], todo: Sequence[Job]) -> list[Job]:
    """The finished jobs whose weights `todo` starts from and somebody deleted, and theirs in turn, in the order in
    which they can run: they come out the same again."""
    wanted = [name for job in todo for name in job.weights_of]
    lost: set[str] = set()
    while wanted:
        name = wanted.pop()
        folder = run.model_dir(name)
        whole = (folder / "model.json").exists() or (folder / "pretrain.json").exists()
        if not whole and name not in lost and jobs[name] not in todo:
            lost.add(name)
            wanted += jobs[name].weights_of
    return [job for name, job in jobs.items() if name in lost]


def count_workers(config: Config, tasks: dict[str, Task], device_type: str) -> int:
    """Jobs at a time: one a core on a CPU, one on an accelerator, never more than a stage has jobs."""
    free = max(1, (os.cpu_count() or 1) // config.runtime.threads) if device_type == "cpu" else 1
    n_teachers = config.select.top_k * sum(task.has_teacher for task in tasks.values())
    n_students = len(config.distill.variants) * config.distill.seeds * (1 + len(tasks) * bool(config.distill.finetuned))
    return min(config.runtime.workers or free, max(len(config.multitask.members), n_teachers, n_students))


def _start_workers(
    run: Run,
    config: Config,
    tasks: dict[str, Task],
    progress: Progress,
    n_most: int | None,
    ray: RayOptions | None,
    ranks: Ranks,
) -> Workers | RayWorkers:
    if ray is not None:
        return RayWorkers(ray, config, folder=run.path, on_event=progress.event, on_note=progress.note)
    from core.device import resolve_device

    device = resolve_device(config.runtime.device, "float32", hidden=0, compiles=config.runtime.compile)
    n = 1 if ranks.size > 1 else n_most or count_workers(config, tasks, device.device.type)
    together = f", trained by {ranks.size} processes" if ranks.size > 1 else ""
    progress.note(f"{device.reason.partition(';')[0]}; {n} job{'s' if n > 1 else ''} at a time{together}")
    return Workers(n, progress.event, folder=run.path, ranks=ranks)


def _git_commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
