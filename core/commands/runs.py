"""Commands that make a run, or tell about one."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.checksums import verify as verify_files
from core.commands import WIDTH_WITHOUT_TERMINAL, console_of
from core.config import validated
from core.endings import user_errors
from core.engine_ray import ray_options
from core.pipeline import run_pipeline
from core.plan import STAGES
from core.presets import PRESETS, load_config
from core.progress import Progress
from core.ranks import follow, joined
from core.report import build_report, render_report
from core.status import read_status
from core.store import Run

RunArgument = Annotated[Path, typer.Argument(help="run directory, for example runs/demo", show_default=False)]


def run(
    out: Annotated[Path, typer.Option(help="run directory, made when it does not exist")],
    preset: Annotated[
        str | None, typer.Option(help=f"one of {', '.join(PRESETS)}; if not given the run's own config, else demo")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with sections as in run.json's config")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.field=value, repeatable")] = None,
    tasks: Annotated[Path | None, typer.Option(help="YAML of own tasks; implies data.source=files")] = None,
    from_: Annotated[str | None, typer.Option("--from", help=f"redo from this stage on: {', '.join(STAGES)}")] = None,
    only: Annotated[str | None, typer.Option(help="redo this stage alone")] = None,
    update: Annotated[bool, typer.Option("--update", help="replace results of another config in --out")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would run and its rough cost")] = False,
    engine: Annotated[str, typer.Option(help="local (a process a core, one job a GPU), or ray (a cluster)")] = "local",
    ray_address: Annotated[str | None, typer.Option(help="of a running cluster, or auto; else one starts here")] = None,
    ray_gpus: Annotated[float | None, typer.Option(min=0, help="GPUs a job, for small models a share")] = None,
    ray_artifacts: Annotated[
        str | None, typer.Option(help="fsspec URL that files go by where --out is on no shared file system")
    ] = None,
) -> None:
    """Run the pipeline, skipping what is up to date; the same command goes on after a stop."""
    console = console_of()
    with user_errors(), joined() as ranks:
        if not ranks.is_main:
            follow(ranks)
            return
        if from_ is not None and only is not None:
            raise ValueError("--from and --only exclude each other: give one")
        ray = ray_options(engine, ray_address, ray_gpus, ray_artifacts)
        target = Run(out)
        base = validated(target.manifest()["config"]) if preset is None and target.exists() else None
        resolved = load_config(preset, config, set_ or (), tasks, base=base)
        if dry_run:
            from core.cost import render_cost

            render_cost(target, resolved, console)
            return
        with Progress(console) as progress:
            manifest = run_pipeline(
                target,
                resolved,
                first_stage=from_,
                only_stage=only,
                update=update,
                ray=ray,
                progress=progress,
                ranks=ranks,
            )
        if "evaluate" in manifest["jobs"]:
            console.print()
            render_report(build_report(target), console)
            following = f"python -m core report {out} --full, or `make app` to look at every example"
        else:
            following = f"python -m core run --out {out}, for what comes after stage '{only}'"
        console.print(f"\nNext: {following}", markup=False)


def config(
    section: Annotated[str | None, typer.Argument(help="one section or field, for example distill")] = None,
    preset: Annotated[str, typer.Option(help=f"whose values are shown: {', '.join(PRESETS)}")] = "demo",
    markdown: Annotated[bool, typer.Option("--markdown", help="the defaults as Markdown (docs/config.md)")] = False,
) -> None:
    """Every field that can be set: a preset's value, what the field takes and what it means."""
    console = console_of()
    with user_errors():
        from core.fields import as_markdown, chosen, render_fields

        found = chosen(load_config(preset, None, (), None), section)
        if markdown:
            sys.stdout.write(as_markdown(found))
        else:
            render_fields(found, console)


def plan(
    preset: Annotated[str | None, typer.Option(help=f"one of {', '.join(PRESETS)}; else demo")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with sections as in run.json's config")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.field=value, repeatable")] = None,
    tasks: Annotated[Path | None, typer.Option(help="YAML of own tasks; implies data.source=files")] = None,
    gpus: Annotated[int, typer.Option(min=1, help="jobs at a time, one a GPU")] = 1,
    from_run: Annotated[Path | None, typer.Option(help="finished run whose speed is taken")] = None,
    tflops: Annotated[float | None, typer.Option(min=0.001, help="TFLOP/s a GPU; else 400 are assumed")] = None,
    out: Annotated[Path | None, typer.Option(help="run directory: what is done there is left out")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="all numbers, of every job too")] = False,
) -> None:
    """What a run costs before it starts: steps, tokens, FLOPs, GPU-hours, disk, time with N GPUs and what limits it."""
    console = console_of()
    with user_errors():
        if from_run is not None and tflops is not None:
            raise ValueError("--from-run and --tflops exclude each other: give one")
        from core.cost import ASSUMED_GPU_FLOPS, assumed_pace, pace_of_run, plan_of, render_plan

        resolved = load_config(preset, config, set_ or (), tasks)
        flops = ASSUMED_GPU_FLOPS if tflops is None else 1e12 * tflops
        pace = assumed_pace(flops) if from_run is None else pace_of_run(Run(from_run))
        about = plan_of(Run(out or "a run that is not there"), resolved, pace, gpus)
        if as_json:
            sys.stdout.write(json.dumps(about, indent=1) + "\n")
        else:
            render_plan(about, console, title=f"What preset {resolved.preset} would cost")


def status(
    run: RunArgument,
    as_json: Annotated[bool, typer.Option("--json", help="all of it as JSON on standard output")] = False,
) -> None:
    """How far is a run, and does somebody work on it: each stage, its jobs, its time."""
    console = console_of()
    with user_errors():
        about = read_status(Run(run))
        if as_json:
            sys.stdout.write(json.dumps(about, indent=1) + "\n")
            return
        table = Table(title=f"{escape(str(run))}: preset {about['preset']}", title_justify="left", pad_edge=False)
        for column in ("stage", "jobs done", "seconds", "says"):
            table.add_column(column, justify="right" if column in ("jobs done", "seconds") else "left")
        for stage, counts in about["stages"].items():
            done, total = counts["done"], counts["total"]
            says = "done" if done == total else f"{done} of {total}" if done else "to do"
            table.add_row(stage, f"{done}/{total}", f"{counts['seconds']:.1f}" if done else "", says)
        console.print(table)
        console.print(about["says"], markup=False, highlight=False, soft_wrap=True)


def verify(run: RunArgument) -> None:
    """Compare every result file of a run with its checksum; exit code 1 when one is damaged or gone."""
    console = console_of()
    with user_errors():
        target = Run(run)
        target.manifest()
        found = verify_files(target)
        for words, paths in (("damaged", found.damaged), ("gone", found.lost)):
            for path in paths:
                console.print(f"{words}: {path}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"{found.checked} files compared, {len(found.damaged)} damaged, {len(found.lost)} gone")
        if found.damaged or found.lost:
            console.print(
                f"Restore them from a copy; or delete the damaged ones, and `python -m core run --out {run}` makes "
                "them again",
                markup=False,
                soft_wrap=True,
            )
    if found.damaged or found.lost:
        raise typer.Exit(1)


def report(
    run: RunArgument,
    as_json: Annotated[bool, typer.Option("--json", help="all numbers as JSON on standard output")] = False,
    full: Annotated[bool, typer.Option("--full", help="calibration and accuracy too")] = False,
    svg: Annotated[Path | None, typer.Option(help="write the table as a picture to this file instead")] = None,
) -> None:
    """The results table of a run."""
    console = console_of()
    with user_errors():
        built = build_report(Run(run))
        if as_json:
            sys.stdout.write(json.dumps(built, indent=1) + "\n")
        elif svg is not None:
            canvas = Console(width=WIDTH_WITHOUT_TERMINAL, record=True, file=io.StringIO())
            render_report(built, canvas, full=full)
            picture = canvas.export_svg(title=f"python -m core report {run}")
            # rich's picture asks a server for its font; the reader's own monospace does as well, and offline.
            svg.write_text(re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL), encoding="utf-8")
            console.print(f"{svg} written")
        else:
            render_report(built, console, full=full)
