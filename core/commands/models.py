"""Commands for one model, and for what a run is made from: own texts and tasks, export, a submission, predictions from
elsewhere, an encoder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from core.commands import console_of
from core.config import digest
from core.endings import user_errors
from core.locks import locked
from core.plan import keyed_fields
from core.presets import load_config
from core.progress import Progress
from core.ranks import follow, joined
from core.store import Run
from core.workers import Event

TOKENIZER = "wordpiece(vocab=8192)"


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
    console = console_of()
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


def export(
    run: Annotated[Path, typer.Option(help="run directory")],
    model: Annotated[str, typer.Option(help="a model of the run, for example st-kd-s0")],
    out: Annotated[Path, typer.Option(help="new or empty folder")],
    task: Annotated[str | None, typer.Option(help="one of the model's tasks; all heads if not given")] = None,
    push: Annotated[str | None, typer.Option(help="also upload to this repository of the hub (private)")] = None,
) -> None:
    """Write a model for transformers: AutoModelForSequenceClassification.from_pretrained(OUT)."""
    console = console_of()
    with user_errors():
        from core import export as exporting

        done = exporting.export(Run(run), model, out, task=task)
        says = f"{out}: {done['class']}, {', '.join(done['tasks'])}; logits differ from the run's by at most "
        console.print(f"{says}{done['difference']:.1e} ({done['n']} examples)", markup=False, soft_wrap=True)
        if done["class"].startswith("Darkroom"):
            console.print("To load it: `import core.exported` first (its README.md has the lines)", markup=False)
        if push is not None:
            console.print(f"pushed: {exporting.push(out, push)}", markup=False)


def submit(
    run: Annotated[Path, typer.Option(help="run directory of GLUE's nine tasks, with data.keep_unlabelled=true")],
    model: Annotated[str, typer.Option(help="a model with predictions on all of them, for example st-kd-s0")],
    out: Annotated[Path, typer.Option(help="zip file to write")],
) -> None:
    """Write the eleven files of a GLUE submission, zipped."""
    console = console_of()
    with user_errors():
        from core.submission import submit as write_submission

        done = write_submission(Run(run), model, out)
        console.print(f"{out}: {', '.join(f'{name} {n}' for name, n in done.rows.items())}", markup=False)
        for note in done.notes:
            console.print(f"note: {note}", markup=False, soft_wrap=True)


def tasks_check(
    file: Annotated[Path, typer.Argument(help="YAML of own tasks", show_default=False)],
    files_dir: Annotated[Path | None, typer.Option(help="folder of its files; the YAML's own if not given")] = None,
) -> None:
    """Read every file of every task: what was understood, with three rows, or what is wrong."""
    console = console_of()
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
    console = console_of()
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
    console = console_of()
    with user_errors(), joined() as ranks:
        if not ranks.is_main:
            follow(ranks)
            return
        own = [f"pretrain.text={json.dumps(str(text))}", f"pretrain.objective={objective}"]
        settings = load_config("glue-small", None, [*own, *(f"pretrain.{item}" for item in set_ or ())]).pretrain
        if objective == "none":
            raise ValueError("--objective is 'none', expected rtd or mlm")
        import torch
        from transformers.utils.logging import disable_progress_bar

        from core.blocks import read_lines
        from core.device import resolve_device
        from core.encoder import config_of
        from core.parallel import own_device
        from core.pretrain import pretrain as pretrain_text
        from core.pretrain import take_part
        from core.tokens import build_tokenizer

        disable_progress_bar()  # of writing the encoder, in the middle of ours
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
