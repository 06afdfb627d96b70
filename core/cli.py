"""`python -m core`: all commands, in the order in which `--help` lists them."""

from __future__ import annotations

import logging
import os

import typer

from core.commands import models, runs, studies

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Darkroom: multi-task knowledge distillation. Start with `python -m core run --preset demo --out runs/demo`.",
)
for command in (
    *(runs.run, runs.config, runs.plan, runs.status, runs.verify, runs.report),
    *(models.predict, models.export, models.submit, models.import_predictions, models.pretrain),
    *(studies.notebooks, studies.sweep, studies.experiment),
):
    app.command()(command)

tasks_app = typer.Typer(no_args_is_help=True, help="Your own tasks.")
tasks_app.command("check")(models.tasks_check)
app.add_typer(tasks_app, name="tasks")


def main() -> None:
    # Transformers and the hub speak of progress and missing keys at warning level; errors still show.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    app()
