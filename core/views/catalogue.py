"""Which runs a folder holds, how far each is, and which models of a run can be looked at.

Nothing here raises for a damaged run: it becomes a line with a sentence. `open_run` is the only way from a name in a
URL to a folder, and it lets nobody out of the folder of runs.

Deliberately absent: nested folders (a run is a direct child), and any reading of predictions (core/views/table).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from core.config import stored_tasks, validated
from core.locks import holder_of
from core.plan import STAGES, make_jobs
from core.store import Run, read_json
from core.tasks import Task, did_you_mean
from core.views.roles import Role, role_of, stated_roles

Status = Literal["finished", "in progress", "half-finished", "imported", "unreadable"]
TAIL_BYTES = 65_536


class RunSummary(NamedTuple):
    """One line of the list of runs. `error` is a sentence, for status "unreadable"; what could not be read is empty.

    `stages_total` counts the stages of this run's config. `last_log_seconds` is the time of the last line of
    `log.jsonl` since 1970, None without a log.
    """

    name: str
    path: Path
    status: Status
    preset: str | None = None
    tasks: tuple[str, ...] = ()
    stages_done: int = 0
    stages_total: int = 0
    created: str | None = None
    last_log_seconds: float | None = None
    error: str | None = None


class Models(NamedTuple):
    """The models of a run whose predictions can be read: `roles` by name, `tasks` by name.

    `taught_by` is the ensemble whose distribution students were taught, `recipes` its members on each task.
    """

    roles: dict[str, Role]
    tasks: dict[str, frozenset[str]]
    taught_by: str | None = None
    recipes: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 (never changed)

    def of_kind(self, kind: str, task: str | None = None) -> tuple[str, ...]:
        """Names of that kind, with predictions on `task`. Not the models of single folds."""
        return tuple(
            name
            for name, role in self.roles.items()
            if role.kind == kind and role.fold is None and (task is None or task in self.tasks[name])
        )

    def teachers(self, task: str) -> tuple[str, ...]:
        """The members of the task's ensemble, in the recipe's order; before there is one, the teachers so far."""
        recipe = self.recipes.get(task, ())
        if recipe and all(task in self.tasks.get(name, ()) for name in recipe):
            return recipe
        return tuple(name for name in self.of_kind("teacher", task) if self.roles[name].task in (None, task))

    def behind(self, names: Iterable[str]) -> str:
        """What these models are in a legend: "teachers", or "members" where a task has no teachers of its own."""
        return "teachers" if {self.roles[name].kind for name in names} == {"teacher"} else "members"

    def students(self, task: str) -> dict[str, dict[int, str]]:
        """Variant -> seed -> model, for the students with predictions on `task`, seeds in order."""
        found: dict[str, dict[int, str]] = {}
        for name in self.of_kind("student", task):
            role = self.roles[name]
            assert role.variant is not None
            assert role.seed is not None
            found.setdefault(role.variant, {})[role.seed] = name
        return {variant: dict(sorted(seeds.items())) for variant, seeds in found.items()}


# ---- runs ----------------------------------------------------------------------------------------------------------
def find_runs(folder: Path | str) -> list[RunSummary]:
    """The runs in `folder`, newest first, unreadable ones last; no folder, no runs."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    names = [child.name for child in folder.iterdir() if not child.name.startswith(".") and _holds_run(child)]
    found = [_summary(folder, name) for name in sorted(names)]
    found.sort(key=lambda summary: summary.created or "", reverse=True)
    return found


def open_run(folder: Path | str, name: str) -> Run:
    """The run called `name` in `folder`. Raises `ValueError` for a name that is not one of a direct child (".", "..",
    a path, an absolute or hidden name), for a link that leads out of the folder, for no such run (with the nearest
    name), and for a manifest that this code does not read."""
    folder = Path(folder)
    if not name or name.startswith(".") or any(c in name for c in "/\\:\0") or Path(name).is_absolute():
        raise ValueError(f"run {name!r} is not the name of a run in {folder}: give a folder's name, not a path")
    path = folder / name
    # Also where nothing is there: resolving follows links, which may lead anywhere.
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise ValueError(f"run '{name}' is a link that leads out of {folder}; copy the run into the folder")
    if not _holds_run(path):
        known = [child.name for child in folder.iterdir() if _holds_run(child)] if folder.is_dir() else []
        raise ValueError(f"no run '{name}' in {folder}{did_you_mean(name, known)} Known runs: {', '.join(known)}")
    run = Run(path)
    _checked_manifest(run)
    return run


def stages_of(run: Run) -> dict[str, tuple[int, int]]:
    """Stage -> (jobs done, jobs), in order, for the run's own config; while the selection is not made, later stages
    have (0, 0): nobody knows their jobs yet. Empty for an imported run."""
    manifest = _checked_manifest(run)
    if manifest.get("imported"):
        return {}
    done = {name for name, job in manifest["jobs"].items() if job.get("status") == "done"}
    selection = run.path / "selection.json"
    chosen = _mapping(selection).get("chosen") if "select" in done and selection.exists() else None
    config = validated(manifest["config"])
    # Names alone are wanted, so the digest of the sources, a part of the keys, does not matter.
    jobs = make_jobs(config, stored_tasks(manifest), source_digest="", chosen=chosen)
    counts = {stage: (0, 0) for stage in STAGES if stage != "pretrain" or config.pretrained}
    for name, job in jobs.items():
        n_done, n = counts[job.stage]
        counts[job.stage] = (n_done + (name in done), n + 1)
    return counts


def tasks_of_run(run: Run) -> dict[str, Task]:
    """The run's task rows, by name."""
    return stored_tasks(_checked_manifest(run))


def _summary(folder: Path, name: str) -> RunSummary:
    path = folder / name
    try:
        run = open_run(folder, name)
        manifest = run.manifest()
        last = last_log_seconds(path)
        imported, counts = bool(manifest.get("imported")), stages_of(run)
    except (ValueError, OSError) as error:
        return RunSummary(name, path, "unreadable", error=str(error))
    n_done = sum(done == n > 0 for done, n in counts.values())
    status: Status = "imported" if imported else "finished" if n_done == len(counts) else "half-finished"
    if status == "half-finished" and holder_of(path) is not None:
        status = "in progress"
    preset = manifest.get("config", {}).get("preset")
    return RunSummary(
        name, path, status, preset, tuple(manifest["tasks"]), n_done, len(counts), manifest.get("created"), last
    )


def _checked_manifest(run: Run) -> dict[str, Any]:
    """`run.json` with the parts that everything here reads. Raises `ValueError` that names the part."""
    manifest = run.manifest()
    needed = ("tasks",) if manifest.get("imported") else ("tasks", "config", "jobs")
    for key, kind in {"tasks": dict, "config": dict, "jobs": dict, "created": str}.items():
        if not isinstance(manifest.get(key), kind) and (key in needed or key in manifest):
            raise ValueError(f"{run.manifest_path}: '{key}' is missing or damaged; restore the file, or run again")
    jobs = manifest.setdefault("jobs", {})
    if not all(isinstance(job, dict) and {"stage", "status"} <= job.keys() for job in jobs.values()):
        raise ValueError(f"{run.manifest_path}: an entry of 'jobs' has no stage or status; restore the file")
    try:
        stored_tasks(manifest)
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"{run.manifest_path}: a row of 'tasks' is of another version of Darkroom ({error})"
        ) from error
    return manifest


def _mapping(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, expected a mapping; re-run the stage that writes it")
    return found


def _holds_run(path: Path) -> bool:
    # Not Path.is_dir, which raises for a name that is too long.
    return os.path.isdir(path) and os.path.isfile(path / "run.json")


def last_log_seconds(path: Path) -> float | None:
    """When the run in `path` last wrote a line of its log."""
    line = _last_line(path)
    return None if line is None else float(line.get("time", (path / "log.jsonl").stat().st_mtime))


def _last_line(path: Path) -> dict[str, Any] | None:
    """The last whole line of `log.jsonl`; somebody may be writing the next one now."""
    log = path / "log.jsonl"
    if not log.is_file():
        return None
    with open(log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
        lines = file.read().split(b"\n")
    for raw in reversed(lines):
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if isinstance(line, dict):
            return line
    return None


# ---- models --------------------------------------------------------------------------------------------------------
def models_of_run(run: Run) -> Models:
    """The models with predictions, by role. Of a run that is not finished those whose jobs are: files of others may
    be from an older config, or half of what they will be."""
    manifest = _checked_manifest(run)
    tasks = list(manifest["tasks"])
    if manifest.get("imported"):
        roles = stated_roles(manifest.get("models", {}), where=str(run.manifest_path))
        ensembles = [name for name, role in roles.items() if role.kind == "ensemble"]
        kept = {name: role for name, role in roles.items() if run.tasks_of(name)}
        return Models(kept, _files(run, kept, tasks), ensembles[0] if ensembles else None)
    done = {name for name, job in manifest["jobs"].items() if job["status"] == "done"}
    roles = {}
    for name in sorted(run.models(), key=_in_order):
        role = role_of(name, tasks)
        job = "ensemble" if role is not None and role.kind == "ensemble" else name
        if role is not None and job in done:
            roles[name] = role
    path = run.path / "ensembles.json"
    entries = _mapping(path) if "ensemble" in done and path.exists() else {}
    # An ensemble of a strategy that is not compared any more leaves its files behind.
    roles = {name: role for name, role in roles.items() if role.kind != "ensemble" or name in entries}
    taught_by = next((name for name in entries if name in roles), None)  # the first is the one that is taught
    recipes = {}
    if taught_by is not None:
        try:
            recipes = {task: tuple(about["members"]) for task, about in entries[taught_by]["tasks"].items()}
        except (KeyError, TypeError, AttributeError):
            raise ValueError(f"{path} has no members of '{taught_by}' on each task; re-run stage 'ensemble'") from None
    return Models(roles, _files(run, roles, tasks), taught_by, recipes)


def _files(run: Run, roles: dict[str, Role], tasks: list[str]) -> dict[str, frozenset[str]]:
    return {name: frozenset(run.tasks_of(name)) & frozenset(tasks) for name in roles}


def _in_order(name: str) -> list[tuple[int, int, str]]:
    """mt-2 before mt-10."""
    parts = name.replace("_", "-").split("-")
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
