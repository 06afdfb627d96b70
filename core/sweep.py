"""A grid of distillations over one base run: `python -m core sweep`, papermill in separate processes.

Every cell of the grid is a run directory of its own, which the app can open. What the cell shares with the base run
(examples, members, teachers, targets, students of an equal config) is linked, not trained again: jobs are known by
their keys (core/plan), and a cell's `6_distill` and `7_evaluate` find them done. A finished cell is skipped, a failed
or killed one goes on.

Writes `<out>/<cell>/` for each cell, `sweep.parquet` (the cells' metrics, tidy) and `sweep.html`.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from rich.console import Console

from core.config import Config, digest, stored_tasks, validated
from core.notebook import FIELDS, refuse_unknown, typed
from core.notebooks import check_kernel, declared_parameters, execute, find_notebooks
from core.pipeline import chosen_members, source_digest
from core.plan import Job, is_done, make_jobs
from core.presets import load_config
from core.store import Run, atomic

STEPS = ("6_distill", "7_evaluate")
GRID = ("alpha", "temperature", "loss", "seeds", "variants")  # parameters of 6_distill that a grid may vary

Cell = dict[str, Any]


def read_grid(file: Path | None, items: Sequence[str]) -> dict[str, list[Any]]:
    """Parameter -> its values, from a YAML file and `name=a,b,c`. Raises `ValueError` for anything unknown."""
    grid: dict[str, list[Any]] = {}
    if file is not None:
        read = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(read, dict):
            raise ValueError(f"{file}: expected parameters with lists, such as 'alpha: [0, 0.5, 1]'")
        grid = {name: values if isinstance(values, list) else [values] for name, values in read.items()}
    for item in items:
        name, equals, raw = item.partition("=")
        if not equals:
            raise ValueError(f"-p got '{item}', expected name=a,b,c, for example alpha=0,0.5,1")
        grid[name] = [yaml.safe_load(value) for value in raw.split(",")]
    if not grid:
        raise ValueError("the grid is empty; give --grid sweep.yaml, or -p alpha=0,0.5,1")
    (notebook,) = find_notebooks([STEPS[0]])
    declared = {name: kind for name, kind in declared_parameters(notebook).items() if name in GRID}
    refuse_unknown(list(grid), declared)
    for name, values in grid.items():
        for value in values:
            typed(name, value, declared[name])
        if len(set(map(str, values))) < len(values):
            raise ValueError(f"the grid repeats a value of '{name}': {values}")
    return grid


def run_sweep(base: Run, grid: Mapping[str, Sequence[Any]], out: Path, *, n_jobs: int, console: Console) -> Path:
    """Runs every cell and returns the path of `sweep.parquet`. Raises `ValueError` after the others have finished
    when cells failed, and at once when the base run is not done up to its ensemble."""
    check_kernel()
    cells = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    config = validated(base.manifest()["config"])
    for cell in cells:
        cell_config(config, cell)
    if not is_taught(base, config):
        raise ValueError(f"{base.path} has no targets yet; run it first: python -m core run --out {base.path}")
    out.mkdir(parents=True, exist_ok=True)
    todo = [cell for cell in cells if not is_finished(Run(out / cell_name(cell)), cell_config(config, cell))]
    console.print(f"{len(cells)} cells, {len(cells) - len(todo)} of them finished; {n_jobs} at a time")
    failed: dict[str, str] = {}
    with ProcessPoolExecutor(n_jobs, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(run_cell, str(base.path), cell, str(out)): cell for cell in todo}
        for n, future in enumerate(as_completed(futures), start=1):
            name = cell_name(futures[future])
            error = future.exception()
            if error is not None:
                failed[name] = str(error)
            console.print(f"{n}/{len(todo)} {name} {'FAILED' if error else 'done'}", highlight=False)
    table = collect(out, cells)
    if table is not None:
        with atomic(out / "sweep.parquet") as temporary:
            pq.write_table(table, temporary)
    if failed:
        name, what = next(iter(failed.items()))
        raise ValueError(f"{len(failed)} of {len(cells)} cells failed, first {name}: {what}. Run it again to retry")
    return out / "sweep.parquet"


def run_cell(base_path: str, cell: Cell, out: str) -> None:
    """One cell, in a process of its own: link what the base has, then distil and evaluate through papermill."""
    run = Run(Path(out) / cell_name(cell))
    base = Run(base_path)
    share(base, run, cell_config(validated(base.manifest()["config"]), cell))
    (run.path / "notebooks").mkdir(exist_ok=True)
    for notebook in find_notebooks(STEPS):
        values: Cell = {"run_dir": str(run.path.resolve()), "update": True}
        if notebook.stem == STEPS[0]:
            values |= {**cell, "workers": 1}
        execute(notebook, run.path / "notebooks" / notebook.name, values)


def cell_name(cell: Cell) -> str:
    """`alpha=0.5,temperature=2`: readable, and the same for the same cell."""
    name = ",".join(f"{key}={value}" for key, value in cell.items())
    safe = all(character.isalnum() or character in "=.,_-+" for character in name)
    return name if safe and len(name) < 100 else digest(cell)


def cell_config(base: Config, cell: Cell) -> Config:
    return load_config(None, None, [f"{FIELDS[name]}={json.dumps(value)}" for name, value in cell.items()], base=base)


def jobs_of(run: Run, config: Config) -> dict[str, Job]:
    tasks = stored_tasks(run.manifest())
    source = source_digest(config, tasks)
    return make_jobs(
        config, tasks, source_digest=source, chosen=chosen_members(run, config, tasks, source, run.manifest())
    )


def is_taught(run: Run, config: Config) -> bool:
    jobs = jobs_of(run, config)
    return "ensemble" in jobs and is_done(jobs["ensemble"], run.manifest())


def is_finished(run: Run, config: Config) -> bool:
    if not run.exists() or not (run.path / "metrics.parquet").exists():
        return False
    jobs = jobs_of(run, config)
    return "evaluate" in jobs and is_done(jobs["evaluate"], run.manifest())


def share(base: Run, run: Run, config: Config) -> None:
    """Makes `run` a run of `config` in which every job of `base` with an equal key is done already. Files are hard
    links where the file system has them: a run replaces files and never writes into one, but for its log."""
    if run.exists():
        return
    manifest = base.manifest()
    jobs = jobs_of(base, config)
    done = {name: record for name, record in manifest["jobs"].items() if name in jobs and is_done(jobs[name], manifest)}
    done.pop("evaluate", None)
    for name in ("examples", "tokenizers", "cache", "targets", "selection.json", "ensembles.json"):
        link(base.path / name, run.path / name)
    for kind in ("predictions", "dynamics", "models"):
        folders = base.path / kind
        for folder in folders.iterdir() if folders.exists() else ():
            if folder.name in done or folder.name.startswith("ens-"):
                link(folder, run.path / kind / folder.name)
    run.write_manifest({**manifest, "jobs": done, "base": str(base.path)})


def link(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, copy_function=link_file, dirs_exist_ok=True)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        link_file(source, target)


def link_file(source: str | Path, target: str | Path) -> None:
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def collect(out: Path, cells: Sequence[Cell]) -> pa.Table | None:
    """The metrics of all finished cells, with a column for each parameter of the grid."""
    tables = []
    for cell in cells:
        path = out / cell_name(cell) / "metrics.parquet"
        if path.exists():
            table = pq.read_table(path)
            for name, value in reversed(cell.items()):
                table = table.add_column(0, name, pa.array([value] * len(table)))
            tables.append(table.add_column(0, "cell", pa.array([cell_name(cell)] * len(table))))
    return pa.concat_tables(tables, promote_options="permissive") if tables else None
