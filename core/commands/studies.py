"""Commands that make many runs, or look at one from many sides."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from core.commands import console_of
from core.endings import user_errors
from core.store import Run


def notebooks(
    run: Annotated[Path, typer.Option(help="run directory, made when it does not exist")],
    out: Annotated[Path, typer.Option(help="folder for the executed notebooks; it must exist")],
    only: Annotated[list[str] | None, typer.Option(help="one notebook, for example 6_distill; repeatable")] = None,
    values: Annotated[list[str] | None, typer.Option("-p", help="name=value, a parameter; repeatable")] = None,
    html: Annotated[Path | None, typer.Option(help="also write pages that need no JupyterLab into this folder")] = None,
) -> None:
    """Execute the notebooks on a run, strictly checked; failed ones are kept with their error."""
    console = console_of()
    with user_errors():
        from core.notebooks import parse_values, run_notebooks, write_pages

        done = run_notebooks(run, out, only=only or (), values=parse_values(values or ()), console=console)
        for outcome in done:
            says = "[green]done[/green]" if outcome.error is None else f"[red]{escape(outcome.error)}[/red]"
            console.print(f"{outcome.notebook:<18}{outcome.seconds:6.1f} s  {says}  {outcome.path}", soft_wrap=True)
        whole = [outcome.path for outcome in done if outcome.error is None]
        if html is not None and whole:
            console.print(f"pages: {write_pages(whole, html)[0].parent}")
    if len(whole) < len(done):
        raise typer.Exit(1)


def sweep(
    run: Annotated[Path, typer.Option(help="base run: its members and teachers are shared by all cells")],
    out: Annotated[Path, typer.Option(help="folder for the cells, each a run directory")],
    grid: Annotated[Path | None, typer.Option(help="YAML file, a list of values for each parameter")] = None,
    values: Annotated[list[str] | None, typer.Option("-p", help="name=a,b,c; repeatable")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="cells at a time: one a core on a CPU, 1 on a GPU")] = 1,
) -> None:
    """Train a grid of students (alpha, temperature, loss) on one run's teachers; the same command goes on."""
    console = console_of()
    with user_errors():
        from core.sweep import read_grid, run_sweep

        done = run_sweep(Run(run), read_grid(grid, values or ()), out, n_jobs=jobs, console=console)
        if done.page is not None:
            console.print(f"\n{done.table}\n{done.page}", markup=False)
        if done.failed:
            console.print(f"{len(done.failed)} cells failed; the same command tries them again", markup=False)
    if done.failed:
        raise typer.Exit(1)


def experiment(
    name: Annotated[str, typer.Argument(help="a named experiment, or all", show_default=False)],
    out: Annotated[Path, typer.Option(help="folder for runs and results")] = Path("runs/results"),
    seeds: Annotated[int, typer.Option(min=1, help="students on each draw of the data")] = 5,
    data_seeds: Annotated[str, typer.Option(help="draws of the data")] = "11,12,13",
    preset: Annotated[str | None, typer.Option(help="instead of the experiment's own")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.field=value of every run")] = None,
) -> None:
    """Train a named grid over draws of the data and student seeds, and write its table; the same command goes on."""
    console = console_of()
    with user_errors():
        from core.experiment import Asked, run_experiment
        from core.experiment.grids import EXPERIMENTS

        if not re.fullmatch(r"\d+(,\d+)*", data_seeds):
            raise ValueError(f"--data-seeds got '{data_seeds}', expected numbers, for example 11,12,13")
        asked = Asked(tuple(map(int, data_seeds.split(","))), seeds, preset, tuple(set_ or ()))
        for one in EXPERIMENTS if name == "all" else [name]:
            path = run_experiment(one, out, asked, console)
            console.print(f"{path}\n{path.with_suffix('.md')}", markup=False, highlight=False)
