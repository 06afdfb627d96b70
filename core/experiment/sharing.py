"""What runs of one draw of the data share: a job that another run has finished with an equal key is linked, not redone.

So members are trained once for all tables, teachers once for all that keep their member, and a student once for all
that teach it the same. Nothing has to be planned for that: the keys know (core/plan).

Files are hard links where they are only ever replaced whole; what transformers writes in place is copied, and weights
only where something goes on from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from core.checksums import SPARE, files_of, read_sums, write_sums
from core.config import Config, digest, resolve_tasks
from core.pipeline import chosen_members, source_digest
from core.plan import Job, is_done, make_jobs
from core.store import Run
from core.sweep.sharing import link

WRITTEN_IN_PLACE = ("models/", "tokenizers/")


def jobs_of(run: Run, config: Config) -> dict[str, Job]:
    """The jobs of `config`, as far as they are known before its selection in `run`."""
    tasks = resolve_tasks(config)
    source = source_digest(config, tasks)
    manifest = run.manifest() if run.exists() else {"jobs": {}}
    return make_jobs(config, tasks, source_digest=source, chosen=chosen_members(run, config, tasks, source, manifest))


def is_finished(run: Run, config: Config) -> bool:
    if not run.exists():
        return False
    jobs, manifest = jobs_of(run, config), run.manifest()
    return "evaluate" in jobs and all(is_done(job, manifest) for job in jobs.values())


def adopt(sources: Sequence[Run], run: Run, config: Config) -> list[str]:
    """Links into `run` every job of `config` that it has not done and one of `sources` has; names of these.

    The selection comes with the members, and teachers are known after it: call it again then. `run.json` is written
    last, so that a killed call is made again.
    """
    jobs = jobs_of(run, config)
    manifest = run.manifest() if run.exists() else None
    todo = {name: job for name, job in jobs.items() if manifest is None or not is_done(job, manifest)}
    records: dict[str, Any] = {}
    sums = read_sums(run)
    for source in sources:
        theirs = source.manifest()
        mine = {name: job for name, job in todo.items() if name not in records and is_done(job, theirs)}
        if not mine:
            continue
        their_sums = read_sums(source)
        for name, job in mine.items():
            paths = files_of(their_sums, job.stage, name)
            kept = [path for path in paths if (source.path / path).exists()]
            if any(path not in kept and not path.startswith(SPARE) for path in paths):
                continue  # somebody deleted what it must have
            for path in kept:
                if path.startswith("models/") and not _goes_on(name, jobs):
                    continue
                link(source.path / path, run.path / path, copy=path.startswith(WRITTEN_IN_PLACE))
                sums[path] = their_sums[path]
            records[name] = theirs["jobs"][name]
        manifest = manifest or _fresh(theirs, config)
    if records and manifest is not None:
        write_sums(run, sums)
        run.write_manifest({**manifest, "jobs": {**manifest["jobs"], **records}})
    return list(records)


def _goes_on(name: str, jobs: Mapping[str, Job]) -> bool:
    """Does a job start from this one's weights? Before the selection any member may become a teacher."""
    return jobs[name].stage in ("pretrain", "multitask") or any(name in job.weights_of for job in jobs.values())


def _fresh(theirs: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """A manifest to begin with; the pipeline completes it with what is of this machine and this config."""
    values = config.model_dump(mode="json")
    own = {"config": values, "config_digest": digest(values), "jobs": {}}
    return {**theirs, **own, "created": datetime.now(UTC).isoformat(timespec="seconds")}
