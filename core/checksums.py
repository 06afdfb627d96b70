"""Is every file of a run what the job that made it left? Checksums, lost files, damaged files.

`checksums.sha256` beside `run.json` has a line a result file, in the format of `sha256sum`: `cd runs/demo && sha256sum
-c checksums.sha256` asks the same question without Darkroom. A job's lines are written before the job is marked done.

Before jobs start, the files that they read are compared (`check_inputs`): a damaged one stops the run, and nothing is
overwritten. A file that is gone is made again by its job, apart from `models/` and `cache/`, which may be deleted: they
come back when something needs them.

Not here: checks of what is in a file (core/store, core/data). The dashboard does not compare checksums while it reads;
`python -m core verify RUN` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from core.files import atomic, read_json, sha256_of
from core.plan import Job
from core.store import Run

NAME = "checksums.sha256"
# What may be deleted: made again when it is needed.
SPARE = ("models/", "cache/")
# How the paths of a job's files begin, by stage; {} is the job's name.
TRAINED = ("predictions/{}/", "dynamics/{}/", "models/{}/")
FILES_OF_STAGE: dict[str, tuple[str, ...]] = {
    "prepare": ("examples/", "tokenizers/", "cache/"),
    "pretrain": ("models/{}/",),
    "multitask": TRAINED,
    "select": ("selection.json",),
    "finetune": TRAINED,
    "ensemble": ("predictions/ens-", "targets/", "ensembles.json"),
    "distill": TRAINED,
    "evaluate": ("metrics.parquet",),
}


class Verdict(NamedTuple):
    """Paths within the run; `checked` counts those that are there."""

    checked: int
    damaged: tuple[str, ...]
    lost: tuple[str, ...]


# ---- which files are whose -----------------------------------------------------------------------------------------
def beginnings(stage: str, job: str) -> tuple[str, ...]:
    """How the paths of a job's files begin."""
    if job.startswith("soup-"):
        return (f"predictions/{job}/", f"models/{job}/", f"{job}.json")
    if job.startswith("features-"):
        return (f"features/{job.removeprefix('features-')}/",)
    return tuple(part.format(job) for part in FILES_OF_STAGE[stage])


def files_of(sums: Iterable[str], stage: str, job: str) -> list[str]:
    """Those of the paths `sums` that belong to a job."""
    return [path for path in sums if path.startswith(beginnings(stage, job))]


def digests(run: Run, stage: str, job: str) -> dict[str, str]:
    """SHA-256 of every file of a job that is there, by path within the run."""
    found: dict[str, str] = {}
    for beginning in beginnings(stage, job):
        single = run.path / beginning
        folder = run.path / beginning.rpartition("/")[0]
        for path in [single] if single.is_file() else sorted(folder.rglob("*")):
            name = path.relative_to(run.path).as_posix()
            if name.startswith(beginning) and path.is_file() and not path.name.startswith((".", "checkpoint-")):
                found[name] = sha256_of(path)
    return found


def everything(run: Run) -> dict[str, str]:
    """SHA-256 of all result files of an imported run, which has no jobs."""
    places = [*run.path.glob("examples/*"), *run.path.glob("predictions/*/*"), run.path / "metrics.parquet"]
    files = sorted(path for path in places if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(run.path).as_posix(): sha256_of(path) for path in files}


def inputs_of(job: Job, stages: Mapping[str, str], sums: Iterable[str]) -> list[str]:
    """Those of the paths `sums` that a job reads; `stages` says the stage of each job that it needs."""
    wanted: list[str] = []
    for name in dict.fromkeys((*job.needs, "prepare")) if job.stage != "prepare" else ():
        paths = files_of(sums, stages[name], name)
        wanted += [path for path in paths if name in job.weights_of or not path.startswith(("models/", "dynamics/"))]
    return wanted


# ---- the list ------------------------------------------------------------------------------------------------------
def read_sums(run: Run) -> dict[str, str]:
    """Path within the run -> SHA-256; empty where there is no list. Raises `ValueError` for a line of another form."""
    path = run.path / NAME
    if not path.exists():
        return {}
    sums: dict[str, str] = {}
    for i, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        digest, gap, name = line[:64], line[64:66], line[66:]
        if not name or gap != "  " or set(digest) - set("0123456789abcdef"):
            raise ValueError(
                f"{path} line {i} is {line[:80]!r}, expected a SHA-256 and a path; restore the file, or delete it: the "
                "next `python -m core run` on this run records what it finds"
            )
        sums[name] = digest
    return sums


def write_sums(run: Run, sums: Mapping[str, str]) -> None:
    with atomic(run.path / NAME) as temporary:
        temporary.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())), encoding="utf-8")


def recorded(run: Run, manifest: Mapping[str, Any]) -> tuple[dict[str, str], str | None]:
    """The run's list, and a sentence where there was none: then it is made of what is there."""
    if (run.path / NAME).exists() or not manifest["jobs"]:
        return read_sums(run), None
    sums: dict[str, str] = {}
    for name, record in manifest["jobs"].items():
        sums |= digests(run, record["stage"], name)
    write_sums(run, sums)
    return sums, f"{run.path} had no {NAME}; it now has one of the {len(sums)} files as they are"


def inherit_sums(sources: Sequence[Run], run: Run) -> None:
    """The list of a run whose files are those of `sources`; of a path that two have, the first's."""
    sums: dict[str, str] = {}
    for source in reversed(sources):
        sums |= read_sums(source)
    write_sums(run, {path: digest for path, digest in sums.items() if (run.path / path).exists()})


# ---- comparing -----------------------------------------------------------------------------------------------------
def lost_files(run: Run, manifest: Mapping[str, Any], sums: Mapping[str, str]) -> dict[str, str]:
    """Job -> a file of it that is gone and must not be, for every finished job that has one."""
    gone = [path for path in sums if not path.startswith(SPARE) and not (run.path / path).exists()]
    lost: dict[str, str] = {}
    for name, record in manifest["jobs"].items():
        if own := files_of(gone, record["stage"], name):
            lost[name] = own[0]
    return lost


def check_inputs(
    run: Run, jobs: Mapping[str, Job], todo: Iterable[Job], sums: Mapping[str, str], fine: set[str]
) -> None:
    """Raises `ValueError` for the first file that a job of `todo` reads and that has changed. `fine` are the paths that
    were compared before, and grows."""
    stages = {name: job.stage for name, job in jobs.items()}
    for job in todo:
        wanted = []
        about = run.model_dir(job.name) / "model.json"
        check_file(run, f"models/{job.name}/model.json", sums, stage=job.stage)
        if about.exists() and read_json(about).get("key") == job.key:  # it predicts again from its own weights
            wanted = [path for path in files_of(sums, job.stage, job.name) if path.startswith("models/")]
        wanted += inputs_of(job, stages, sums)
        for path in wanted:
            if path not in fine and (run.path / path).exists():
                check_file(run, path, sums, stage=stage_of(path, jobs))
                fine.add(path)


def stage_of(path: str, jobs: Mapping[str, Job]) -> str:
    return next(job.stage for job in jobs.values() if path.startswith(beginnings(job.stage, job.name)))


def check_file(run: Run, path: str, sums: Mapping[str, str], *, stage: str) -> None:
    """Raises `ValueError` when the file is there and not what `sums` say; a file without a line passes."""
    file = run.path / path
    if path not in sums or not file.exists() or (found := sha256_of(file)) == sums[path]:
        return
    again = run.path.joinpath(*path.split("/")[:2]) if path.startswith("models/") else file
    raise ValueError(
        f"{file} is damaged: its SHA-256 is {found[:16]}..., {NAME} says {sums[path][:16]}... Restore it from a copy; "
        f"or delete {again}, and it is made again when it is needed; or redo all from there on: "
        f"`python -m core run --out {run.path} --from {stage}`"
    )


def verify(run: Run) -> Verdict:
    """Compares every file of the list."""
    damaged, lost = [], []
    sums = read_sums(run)
    for path, digest in sums.items():
        if not (run.path / path).exists():
            if not path.startswith(SPARE):
                lost.append(path)
        elif sha256_of(run.path / path) != digest:
            damaged.append(path)
    return Verdict(sum((run.path / path).exists() for path in sums), tuple(damaged), tuple(lost))
