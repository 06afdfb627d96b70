"""What a cell of a sweep shares with its base run: is the base ready, is a cell finished, and the linking.

Files are hard links where they are only ever replaced whole (core/store, `atomic`): writing to a cell then cannot reach
the base. What transformers writes in place (tokenizers, models) is copied.

Not here: the grid and its processes (core/sweep), what is made of finished cells (core/sweep/results).
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.checksums import inherit_sums
from core.config import Config, digest, resolve_tasks
from core.pipeline import chosen_members, source_digest
from core.plan import STAGES, Job, is_done, make_jobs
from core.store import Run

STEPS = ("6_distill", "7_evaluate")  # the notebooks of a cell
UPSTREAM = STAGES[: STAGES.index("distill")]
SHARED = ("examples", "cache", "targets")  # folders of the base that every cell has
COPIED = ("tokenizers", "selection.json", "ensembles.json")


def jobs_of(run: Run, config: Config) -> dict[str, Job]:
    """The jobs of `config`, with the members that `run` chose."""
    tasks = resolve_tasks(config)
    source = source_digest(config, tasks)
    chosen = chosen_members(run, config, tasks, source, run.manifest())
    return make_jobs(config, tasks, source_digest=source, chosen=chosen)


def check_base(base: Run, config: Config) -> None:
    """Raises `ValueError` where a cell would have to train what belongs to the base."""
    jobs, manifest = jobs_of(base, config), base.manifest()
    missing = [name for name, job in jobs.items() if job.stage in UPSTREAM and not is_done(job, manifest)]
    if missing or "ensemble" not in jobs:
        raise ValueError(
            f"{base.path} has not finished {', '.join(missing[:4]) or 'its teachers'}; a sweep shares its teachers, so "
            f"run it first: python -m core run --out {base.path}"
        )
    start = config.pretrained.get(config.student_encoder)
    if start is not None and not (base.model_dir(start) / "pretrain.json").exists():
        raise ValueError(
            f"{base.path} has no weights of '{start}' any more, which students start from; bring them back with "
            f"python -m core run --out {base.path} --only pretrain"
        )


def check_cell(base: Run, run: Run, config: Config) -> None:
    """Raises `ValueError` for a cell of another base, or of this one before it changed: going on would train its
    members and teachers again."""
    if not run.exists():
        return
    manifest = run.manifest()
    if any(not is_done(job, manifest) for job in jobs_of(base, config).values() if job.stage in UPSTREAM):
        raise ValueError(
            f"{run.path} is a cell of another base run, or {base.path} has changed since; give another --out, or "
            "remove that folder"
        )


def is_finished(run: Run, config: Config) -> bool:
    """All of the cell's jobs are done and its last notebook is written."""
    if not all((run.path / name).exists() for name in ("run.json", "metrics.parquet", f"notebooks/{STEPS[-1]}.ipynb")):
        return False
    manifest = run.manifest()
    return all(is_done(job, manifest) for job in jobs_of(run, config).values())


def have_jobs_in_common(base: Run, configs: Sequence[Config]) -> bool:
    manifest = base.manifest()
    keys = Counter(
        job.key
        for config in configs
        for job in jobs_of(base, config).values()
        if job.stage == "distill" and not is_done(job, manifest)
    )
    return any(count > 1 for count in keys.values())


def share(sources: Sequence[Run], run: Run, config: Config) -> None:
    """Makes `run` a run of `config` in which every job that one of `sources`, the base first, has done with an equal
    key is done already. `run.json` comes last: a cell that was killed in the middle of this is linked again."""
    if run.exists():
        return
    base, jobs, records = sources[0], jobs_of(sources[0], config), dict[str, Any]()
    for name in SHARED:
        link(base.path / name, run.path / name)
    for name in COPIED:
        link(base.path / name, run.path / name, copy=True)
    for ensemble in (base.path / "predictions").glob("ens-*"):
        link(ensemble, run.path / "predictions" / ensemble.name)
    for source in sources:
        manifest = source.manifest()
        for name, job in jobs.items():
            if name in records or name == "evaluate" or not is_done(job, manifest):
                continue
            for folder in ("predictions", "dynamics"):
                link(source.path / folder / name, run.path / folder / name)
            link(source.path / f"{name}.json", run.path / f"{name}.json", copy=True)  # a soup's recipe
            student = name.removeprefix("features-")
            if student != name:
                link(source.path / "features" / student, run.path / "features" / student)
            if job.stage == "pretrain":
                link(source.model_dir(name), run.model_dir(name), copy=True)
            records[name] = manifest["jobs"][name]
    inherit_sums(sources, run)
    values = config.model_dump(mode="json")
    fresh = {
        "config": values,
        "config_digest": digest(values),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        # From the cell's folder, so that both can be moved together.
        "base": Path(os.path.relpath(base.path.resolve(), run.path.resolve())).as_posix(),
    }
    run.write_manifest({**base.manifest(), **fresh, "jobs": records})


def link(source: Path, target: Path, *, copy: bool = False) -> None:
    """A file or folder at a second place; nothing where there is none."""
    put = _copied if copy else _linked
    if source.is_dir():
        shutil.copytree(source, target, copy_function=put, dirs_exist_ok=True)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        put(source, target)


def _linked(source: str | Path, target: str | Path) -> None:
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _copied(source: str | Path, target: str | Path) -> None:
    Path(target).unlink(missing_ok=True)
    shutil.copy2(source, target)
