"""`python -m core ...`: the commands, a few lines each around the modules.

Longer than other files (350 lines): each option has its line here and nowhere else.

Torch is imported by the commands that need it and when they need it: `status`, `report` and an up-to-date `run`
answer at once.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.checksums import verify as verify_files
from core.config import digest, validated
from core.endings import user_errors
from core.engine_ray import ray_options
from core.locks import locked
from core.pipeline import run_pipeline
from core.plan import STAGES, keyed_fields
from core.presets import PRESETS, load_config
from core.progress import Progress
from core.ranks import follow, joined
from core.report import build_report, render_report
from core.status import read_status
from core.store import Run
from core.workers import Event

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Darkroom: multi-task knowledge distillation. Start with `python -m core run --preset demo --out runs/demo`.",
)

tasks_app = typer.Typer(no_args_is_help=True, help="Your own tasks.")
app.add_typer(tasks_app, name="tasks")

# A table of nine columns needs this where there is no terminal to ask (files, CI).
WIDTH_WITHOUT_TERMINAL = 110

TOKENIZER = "wordpiece(vocab=8192)"
RunArgument = Annotated[Path, typer.Argument(help="run directory, for example runs/demo", show_default=False)]


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=WIDTH_WITHOUT_TERMINAL)


@app.command()
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
    console = _console()
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


@app.command()
def config(
    section: Annotated[str | None, typer.Argument(help="one section or field, for example distill")] = None,
    preset: Annotated[str, typer.Option(help=f"whose values are shown: {', '.join(PRESETS)}")] = "demo",
    markdown: Annotated[bool, typer.Option("--markdown", help="the defaults as Markdown (docs/config.md)")] = False,
) -> None:
    """Every field that can be set: a preset's value, what the field takes and what it means."""
    console = _console()
    with user_errors():
        from core.fields import as_markdown, chosen, render_fields

        found = chosen(load_config(preset, None, (), None), section)
        if markdown:
            sys.stdout.write(as_markdown(found))
        else:
            render_fields(found, console)


@app.command()
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
    console = _console()
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


@app.command()
def status(
    run: RunArgument,
    as_json: Annotated[bool, typer.Option("--json", help="all of it as JSON on standard output")] = False,
) -> None:
    """How far is a run, and does somebody work on it: each stage, its jobs, its time."""
    console = _console()
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


@app.command()
def verify(run: RunArgument) -> None:
    """Compare every result file of a run with its checksum; exit code 1 when one is damaged or gone."""
    console = _console()
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


@app.command()
def report(
    run: RunArgument,
    as_json: Annotated[bool, typer.Option("--json", help="all numbers as JSON on standard output")] = False,
    full: Annotated[bool, typer.Option("--full", help="calibration and accuracy too")] = False,
    svg: Annotated[Path | None, typer.Option(help="write the table as a picture to this file instead")] = None,
) -> None:
    """The results table of a run."""
    console = _console()
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


@app.command()
def predict(
    run: Annotated[Path, typer.Option(help="run directory")],
    model: Annotated[str, typer.Option(help="a model of the run, for example st-kd-s0 or mt-1")],
    task: Annotated[str | None, typer.Option(help="a task of the model; with --in all that fit, if not given")] = None,
    text: Annotated[str | None, typer.Option(help="the text; for ranking the question")] = None,
    text_b: Annotated[str | None, typer.Option(help="the second text of a pair")] = None,
    candidate: Annotated[list[str] | None, typer.Option(help="a candidate of a ranking question, repeatable")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="probabilities as JSON")] = False,
    in_: Annotated[Path | None, typer.Option("--in", help="file of texts, a folder, or - (standard input)")] = None,
    out: Annotated[Path, typer.Option(help="with --in: .parquet, .tsv, .csv or .jsonl; - is standard output")] = Path(
        "-"
    ),
    column: Annotated[list[str] | None, typer.Option(help="with --in: text_a=NAME, text_b=NAME, ...")] = None,
    key: Annotated[str | None, typer.Option(help="with --in: a column to copy, such as an id")] = None,
) -> None:
    """What a model of the run says about your own text, or about a file of texts of any size."""
    console = _console()
    with user_errors():
        if in_ is not None:
            if text is not None or text_b is not None or candidate:
                raise ValueError("--in and --text exclude each other: give one; --column text_a=NAME names columns")
            from core.answering import predict_file

            names = dict(item.partition("=")[::2] for item in column or ())
            done = predict_file(Run(run), model, in_, out, task=task, columns=names, key=key)
            if str(out) != "-":
                console.print(f"{out}: {done['rows']} rows, {', '.join(done['tasks'])}", markup=False)
            return
        if task is None or text is None:
            raise ValueError("give --task and --text for one text, or --in FILE for many")
        from core.ask import ask

        answer = ask(Run(run), model, task, text, text_b=text_b, candidates=candidate)
        if as_json:
            sys.stdout.write(json.dumps(answer) + "\n")
            return
        for label, probability in answer["probs"].items():
            console.print(
                f"{escape(label):<16} {100 * probability:5.1f} %  [orange3]{'█' * round(40 * probability)}",
                highlight=False,
            )
        if "value" in answer:
            console.print(f"{answer['value']:.2f} on a scale from {answer['low']:g} to {answer['high']:g}")


@app.command()
def export(
    run: Annotated[Path, typer.Option(help="run directory")],
    model: Annotated[str, typer.Option(help="a model of the run, for example st-kd-s0")],
    out: Annotated[Path, typer.Option(help="new or empty folder")],
    task: Annotated[str | None, typer.Option(help="one of the model's tasks; all heads if not given")] = None,
    push: Annotated[str | None, typer.Option(help="also upload to this repository of the hub (private)")] = None,
) -> None:
    """Write a model for transformers: AutoModelForSequenceClassification.from_pretrained(OUT)."""
    console = _console()
    with user_errors():
        from core import export as exporting

        done = exporting.export(Run(run), model, out, task=task)
        says = f"{out}: {done['class']}, {', '.join(done['tasks'])}; logits differ from the run's by at most "
        console.print(f"{says}{done['difference']:.1e} ({done['n']} examples)", markup=False, soft_wrap=True)
        if done["class"].startswith("Darkroom"):
            console.print("To load it: `import core.exported` first (its README.md has the lines)", markup=False)
        if push is not None:
            console.print(f"pushed: {exporting.push(out, push)}", markup=False)


@app.command()
def submit(
    run: Annotated[Path, typer.Option(help="run directory of GLUE's nine tasks, with data.keep_unlabelled=true")],
    model: Annotated[str, typer.Option(help="a model with predictions on all of them, for example st-kd-s0")],
    out: Annotated[Path, typer.Option(help="zip file to write")],
) -> None:
    """Write the eleven files of a GLUE submission, zipped."""
    console = _console()
    with user_errors():
        from core.submission import submit as write_submission

        done = write_submission(Run(run), model, out)
        console.print(f"{out}: {', '.join(f'{name} {n}' for name, n in done.rows.items())}", markup=False)
        for note in done.notes:
            console.print(f"note: {note}", markup=False, soft_wrap=True)


@tasks_app.command("check")
def tasks_check(
    file: Annotated[Path, typer.Argument(help="YAML of own tasks", show_default=False)],
    files_dir: Annotated[Path | None, typer.Option(help="folder of its files; the YAML's own if not given")] = None,
) -> None:
    """Read every file of every task: what was understood, with three rows, or what is wrong."""
    console = _console()
    with user_errors():
        from core.telling_tasks import check_tasks, render_checked

        checked = check_tasks(file, files_dir)
        render_checked(checked, console)
        wrong = [one.task.name for one in checked if one.problem is not None]
        if wrong:
            console.print(f"\n{len(wrong)} of {len(checked)} tasks cannot be read: {', '.join(wrong)}", markup=False)
        else:
            console.print(f"\nNext: python -m core run --tasks {file} --out runs/mine", markup=False)
    if wrong:
        raise typer.Exit(2)


@app.command()
def import_predictions(
    out: Annotated[Path, typer.Option(help="run directory, made when it does not exist, or an imported one")],
    task: Annotated[str, typer.Option(help="a known task, for example snli")],
    examples: Annotated[list[str], typer.Option(help="FILE or SPLIT=FILE, repeatable")],
    model: Annotated[list[str], typer.Option(help="NAME=FILE or NAME=FILE@COLUMN=VALUE, repeatable")],
    role: Annotated[
        list[str] | None, typer.Option(help="NAME=teacher, member, ensemble, soup or student:VARIANT:SEED")
    ] = None,
    humans: Annotated[Path | None, typer.Option(help="JSON lines of uid, label_counter (chaosNLI)")] = None,
    key: Annotated[str | None, typer.Option(help="id column of all files; pairID for NLI if not given")] = None,
    probs: Annotated[bool, typer.Option("--probs", help="files hold probabilities, not logits")] = False,
    partial: Annotated[bool, typer.Option("--partial", help="keep the examples that all models have")] = False,
) -> None:
    """Make a run of predictions from elsewhere, for the dashboard and the views."""
    console = _console()
    with user_errors():
        from core import importing

        done = importing.import_predictions(
            Run(out),
            task,
            examples=examples,
            models=model,
            roles=role or (),
            humans=humans,
            key=key,
            probs=probs,
            partial=partial,
        )
        rows = ", ".join(f"{n} {split}" for split, n in done["rows"].items())
        console.print(f"{out}: task '{task}', {rows} examples, {done['left_out']['examples']} left out", markup=False)
        for name, accuracy in done["accuracy"].items():
            console.print(f"  {name:<24} accuracy {accuracy:.4f}", markup=False, highlight=False)


@app.command()
def pretrain(
    text: Annotated[Path, typer.Option(help="text file, one sentence or paragraph a line, or a folder of *.txt")],
    out: Annotated[Path, typer.Option(help="folder to write; any stage takes it as its encoder")],
    objective: Annotated[str, typer.Option(help="rtd (replaced-token detection, ELECTRA) or mlm")] = "rtd",
    encoder: Annotated[str, typer.Option(help="a fresh encoder")] = "random:bert(layers=4,hidden=256,heads=4)",
    tokenizer: Annotated[str, typer.Option(help="word, wordpiece(vocab=N), a folder, a hub id")] = TOKENIZER,
    set_: Annotated[list[str] | None, typer.Option("--set", help="a field of pretrain, for example epochs=3")] = None,
    seed: Annotated[int, typer.Option(help="initialisation, blocks and masks")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
) -> None:
    """Pre-train a small encoder on plain text; the same command goes on after a stop."""
    console = _console()
    with user_errors(), joined() as ranks:
        if not ranks.is_main:
            follow(ranks)
            return
        own = [f"pretrain.text={json.dumps(str(text))}", f"pretrain.objective={objective}"]
        settings = load_config("glue-small", None, [*own, *(f"pretrain.{item}" for item in set_ or ())]).pretrain
        if objective == "none":
            raise ValueError("--objective is 'none', expected rtd or mlm")
        import torch

        from core.device import resolve_device
        from core.encoder import config_of
        from core.parallel import own_device
        from core.pretrain import pretrain as pretrain_text
        from core.pretrain import read_lines, take_part
        from core.tokens import build_tokenizer

        torch.set_num_threads(settings.threads)
        where = resolve_device(device, "auto", hidden=config_of(encoder, None).hidden_size)
        lines = read_lines(text)
        kept = keyed_fields(settings.model_dump(exclude={"text"}))
        about = {"settings": kept, "encoder": encoder, "tokenizer": tokenizer}
        with locked(out) as note, Progress(console) as progress:
            if note:
                progress.note(f"note: {note}")
            progress.note(where.reason)
            progress.start("pretrain", [out.name])
            options = {
                "encoder": encoder,
                "tokenizer": build_tokenizer(tokenizer, lines),
                "settings": settings,
                "dropout": settings.dropout,
                "seed": seed,
                "names": ("pretrain", encoder, settings.seed),
                "key": digest({**about, "seed": seed, "text": digest(lines)}),
            }
            ranks.agreed((take_part, (text, out, where, options)))
            done = pretrain_text(
                lines,
                out,
                device=own_device(where, ranks),
                report=lambda share, values: progress.event(Event(out.name, share, values)),
                ranks=ranks,
                **options,
            )
        scores = ", ".join(f"{name} {value:.3f}" for name, value in done["held_out"].items())
        console.print(
            f"{out}: {done['parameters'] / 1e6:.2f} M parameters, {done['tokens']:,} tokens. Held out: {scores}",
            markup=False,
        )
        console.print(f"\nNext: python -m core run --set 'multitask.encoders=[{out}]' ...", markup=False)


@app.command()
def notebooks(
    run: Annotated[Path, typer.Option(help="run directory, made when it does not exist")],
    out: Annotated[Path, typer.Option(help="folder for the executed notebooks; it must exist")],
    only: Annotated[list[str] | None, typer.Option(help="one notebook, for example 6_distill; repeatable")] = None,
    values: Annotated[list[str] | None, typer.Option("-p", help="name=value, a parameter; repeatable")] = None,
    html: Annotated[Path | None, typer.Option(help="also write pages that need no JupyterLab into this folder")] = None,
) -> None:
    """Execute the notebooks on a run, strictly checked; failed ones are kept with their error."""
    console = _console()
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


@app.command()
def sweep(
    run: Annotated[Path, typer.Option(help="base run: its members and teachers are shared by all cells")],
    out: Annotated[Path, typer.Option(help="folder for the cells, each a run directory")],
    grid: Annotated[Path | None, typer.Option(help="YAML file, a list of values for each parameter")] = None,
    values: Annotated[list[str] | None, typer.Option("-p", help="name=a,b,c; repeatable")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="cells at a time: one a core on a CPU, 1 on a GPU")] = 1,
) -> None:
    """Train a grid of students (alpha, temperature, loss) on one run's teachers; the same command goes on."""
    console = _console()
    with user_errors():
        from core.sweep import read_grid, run_sweep

        done = run_sweep(Run(run), read_grid(grid, values or ()), out, n_jobs=jobs, console=console)
        if done.page is not None:
            console.print(f"\n{done.table}\n{done.page}", markup=False)
        if done.failed:
            console.print(f"{len(done.failed)} cells failed; the same command tries them again", markup=False)
    if done.failed:
        raise typer.Exit(1)


@app.command()
def experiment(
    name: Annotated[str, typer.Argument(help="a named experiment, or all", show_default=False)],
    out: Annotated[Path, typer.Option(help="folder for runs and results")] = Path("runs/results"),
    seeds: Annotated[int, typer.Option(min=1, help="students on each draw of the data")] = 5,
    data_seeds: Annotated[str, typer.Option(help="draws of the data")] = "11,12,13",
    preset: Annotated[str | None, typer.Option(help="instead of the experiment's own")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.field=value of every run")] = None,
) -> None:
    """Train a named grid over draws of the data and student seeds, and write its table; the same command goes on."""
    console = _console()
    with user_errors():
        from core.experiment import Asked, run_experiment
        from core.experiment.grids import EXPERIMENTS

        if not re.fullmatch(r"\d+(,\d+)*", data_seeds):
            raise ValueError(f"--data-seeds got '{data_seeds}', expected numbers, for example 11,12,13")
        asked = Asked(tuple(map(int, data_seeds.split(","))), seeds, preset, tuple(set_ or ()))
        for one in EXPERIMENTS if name == "all" else [name]:
            path = run_experiment(one, out, asked, console)
            console.print(f"{path}\n{path.with_suffix('.md')}", markup=False, highlight=False)


def main() -> None:
    # Transformers and the hub speak of progress and missing keys at warning level; errors still show.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    app()
