"""A grid of distillations over one base run: `python -m core sweep`, notebooks in processes of their own.

Every cell of the grid is a run directory that the app opens like any other. What it shares with the base run (examples,
members, teachers, targets, students of an equal config) is linked and not trained again: jobs are known by their keys
(core/plan), and the notebooks `6_distill` and `7_evaluate` of a cell find them done. A finished cell is skipped, a
failed or killed one goes on from its checkpoints.

Writes `<out>/<cell>/`, and what core/sweep/results makes of them. What cells share is linked by core/sweep/sharing.

Tried and dropped: a pool of processes. One killed worker breaks a pool and takes the other cells with it.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.console import Console

from core.config import Config, resolve_tasks, validated
from core.locks import locked
from core.notebook import FIELDS, Declared, checked
from core.notebooks import (
    NotebookFailed,
    check_kernel,
    declared_parameters,
    execute,
    find_notebooks,
    yaml_value,
)
from core.presets import load_config
from core.store import Run
from core.sweep.results import write_results
from core.sweep.sharing import STEPS, check_base, check_cell, have_jobs_in_common, is_finished, share

AXES = ("alpha", "temperature", "loss")  # what a cell is called by
GRID = (*AXES, "seeds", "variants")
WATCH_SECONDS = 0.5

Cell = dict[str, Any]


class Swept(NamedTuple):
    """`failed`: cell -> what ended it. `table` and `page` are None while no cell is finished."""

    table: Path | None
    page: Path | None
    failed: dict[str, str]


# ---- the grid ------------------------------------------------------------------------------------------------------
def read_grid(file: Path | None, items: Sequence[str]) -> dict[str, list[Any]]:
    """Parameter -> its values, from a YAML file and `name=a,b,c`, which wins. Raises `ValueError` for anything unknown,
    of another type, or twice."""
    raw: dict[str, Any] = {}
    if file is not None:
        try:
            raw = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"--grid {file} cannot be read as YAML: {error}") from None
        if not isinstance(raw, dict):
            raise ValueError(f"--grid {file}: expected parameters with lists, such as 'alpha: [0, 0.5, 1]'")
    for item in items:
        name, equals, values = item.partition("=")
        if not equals or not values:
            raise ValueError(f"-p got '{item}', expected name=a,b,c, for example alpha=0,0.5,1")
        raw[name] = yaml_value(f"[{values}]", what=f"-p {name}")
    if not raw:
        raise ValueError("the grid is empty; give --grid sweep.yaml, or -p alpha=0,0.5,1")
    (notebook,) = find_notebooks(STEPS[:1])
    declared = {name: line for name, line in declared_parameters(notebook).items() if name in GRID}
    return {name: _values(name, values, declared) for name, values in raw.items()}


def _values(name: str, values: Any, declared: Mapping[str, Declared]) -> list[Any]:
    listed = values if isinstance(values, list) else [values]
    if name in declared and declared[name].kind is list and not any(isinstance(value, list) for value in listed):
        listed = [listed]
    read = [yaml_value(value, what=name) if isinstance(value, str) else value for value in listed]
    typed = [checked(declared, {name: value})[name] for value in read]
    if len(set(map(str, typed))) < len(typed) or not typed:
        raise ValueError(f"the grid has '{name}: {values}', expected one value or more, each once")
    return typed


def cell_name(cell: Cell, grid: Mapping[str, Sequence[Any]]) -> str:
    """`alpha=0.5,temperature=2`. More seeds or variants are the same cell, which then goes on, where the grid has one
    value of them."""
    keys = [key for key in cell if key in AXES or len(grid[key]) > 1] or list(cell)
    values = {key: "+".join(cell[key]) if isinstance(cell[key], list) else cell[key] for key in keys}
    return ",".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items()
    )


def cell_config(config: Config, cell: Cell) -> Config:
    """The base's config with the cell's values. Raises `ValueError` for a cell that cannot be trained."""
    values = [f"{FIELDS[name]}={json.dumps(value)}" for name, value in cell.items() if value is not None]
    try:
        own = load_config(None, None, values, base=config)
        resolve_tasks(own)
    except ValueError as error:
        hint = "; with -p loss=kl every temperature can be asked for" if cell.get("temperature") is not None else ""
        raise ValueError(f"cell {', '.join(f'{k}={v}' for k, v in cell.items())}: {error}{hint}") from None
    if "kd" not in own.distill.variants:
        raise ValueError(f"variants are {list(own.distill.variants)}: a sweep compares students 'kd', so name it too")
    return own


# ---- running -------------------------------------------------------------------------------------------------------
def run_sweep(base: Run, grid: Mapping[str, Sequence[Any]], out: Path, *, n_jobs: int, console: Console) -> Swept:
    """Runs every cell that is not finished, `n_jobs` at a time. Before the first it checks the base, every cell's
    config and what is in `out` already, and raises `ValueError`; a cell that fails does not stop the others."""
    check_kernel()
    cells = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    named = {cell_name(cell, grid): cell for cell in cells}
    config = validated(base.manifest()["config"])
    configs = {name: cell_config(config, cell) for name, cell in named.items()}
    check_base(base, config)
    if Run(out).exists() or out.resolve() == base.path.resolve():
        raise ValueError(f"--out {out} is a run; a sweep needs a folder of its own, in which each cell becomes one")
    runs = {name: Run(out / name) for name in named}
    for name, run in runs.items():
        check_cell(base, run, configs[name])
    todo = [name for name, run in runs.items() if not is_finished(run, configs[name])]
    console.print(f"{len(named)} cells, {len(named) - len(todo)} of them finished; {n_jobs} at a time", highlight=False)
    failed: dict[str, str] = {}
    # What several cells need and the base does not have, such as students of further seeds on gold alone, is made by
    # the first of them; the others link it.
    first = todo[:1] if have_jobs_in_common(base, [configs[name] for name in todo]) else []
    counter = itertools.count(1)

    def say(name: str, words: str) -> None:
        console.print(f"{next(counter)}/{len(todo)} {name} {words}", highlight=False, markup=False)

    with locked(out):
        for names, at_a_time in ((first, 1), (todo[len(first) :], n_jobs)):
            failed |= _run_cells(base, runs, named, configs, names, at_a_time, n_jobs // at_a_time, say)
    finished = [name for name, run in runs.items() if is_finished(run, configs[name])]
    if not finished:
        return Swept(None, None, failed)
    return Swept(*write_results(out, {name: (named[name], runs[name], configs[name]) for name in finished}), failed)


def _run_cells(
    base: Run,
    runs: Mapping[str, Run],
    cells: Mapping[str, Cell],
    configs: Mapping[str, Config],
    names: Sequence[str],
    at_a_time: int,
    workers: int,
    say: Callable[[str, str], None],
) -> dict[str, str]:
    """One process a cell: a killed one is a failed cell and nothing more."""
    context = multiprocessing.get_context("spawn")
    waiting, failed = list(names), dict[str, str]()
    running: dict[Any, tuple[str, Any, Any, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_a_time:
                name = waiting.pop(0)
                sources = [base, *(run for other, run in runs.items() if is_finished(run, configs[other]))]
                receiver, sender = context.Pipe(duplex=False)
                paths = [str(source.path) for source in sources]
                process = context.Process(
                    target=run_cell, args=(paths, str(runs[name].path), cells[name], configs[name], workers, sender)
                )
                process.start()
                sender.close()  # the child's end alone is open: its death is seen as the end of the pipe
                running[process.sentinel] = (name, process, receiver, time.monotonic())
            for sentinel in wait(list(running)):
                name, process, receiver, started = running.pop(sentinel)
                process.join()
                if process.exitcode != 0:
                    failed[name] = _last_words(receiver, process.exitcode)
                say(name, f"FAILED: {failed[name]}" if name in failed else f"done ({time.monotonic() - started:.0f} s)")
    finally:
        for _, process, _, _ in running.values():
            process.terminate()
    return failed


def _last_words(receiver: Any, exit_code: int) -> str:
    try:
        return str(receiver.recv())
    except EOFError:
        return f"its process ended with exit code {exit_code}; if memory ran out, lower --jobs"


def run_cell(sources: Sequence[str], path: str, cell: Cell, config: Config, workers: int, sender: Any) -> None:
    """One cell, in a process of its own: link what is there, then distil and evaluate through papermill."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all of the group, and the parent decides
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    run = Run(path)
    try:
        share([Run(source) for source in sources], run, config)
        folder = run.path / "notebooks"
        folder.mkdir(exist_ok=True)
        for leftover in folder.glob(".*.tmp.ipynb"):
            leftover.unlink()
        for notebook in find_notebooks(STEPS):
            values: Cell = {"run_dir": str(run.path.resolve()), "workers": workers}
            values |= {name: value for name, value in cell.items() if notebook.stem == STEPS[0] and value is not None}
            execute(notebook, folder / notebook.name, values)
    except (NotebookFailed, ValueError, OSError) as error:
        sender.send(str(error))
        raise SystemExit(1) from None


def _end_with(parent: int) -> None:
    """A killed sweep leaves nobody behind; the kernel watches this process in turn."""
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)
