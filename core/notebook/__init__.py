"""What the notebooks' cells call: check the parameters, bring the run up to date, show figures, say sentences.

A notebook holds no logic of its own. After its cell of parameters it goes on with

    params = parameters(globals())
    run = bring(params, stage="distill")

Not here: running notebooks in batches and pages of them (core/notebooks), figures (core/plots), what they draw
(core/views). No torch: a notebook on an up-to-date run starts in a second.
"""

from __future__ import annotations

import difflib
import json
import os
import warnings
from pathlib import Path
from types import SimpleNamespace

from core.config import Config, validated
from core.findings import Findings, read_findings
from core.notebook.parameters import Declared, Refused, checked, declared_in, parameters
from core.notebook.progress import BATCH, NotebookProgress
from core.notebook.telling import (
    card,
    explained,
    in_words,
    mean_words,
    pick_task,
    plain,
    right_minus_right,
    rows_of,
    say,
    scores_on,
    show,
    signed,
    smooth,
    text_of,
    texts_of,
)
from core.pipeline import run_pipeline
from core.presets import load_config
from core.store import Run

ROOT = Path(__file__).resolve().parents[2]
# Parameter -> the field of the config that it sets; None leaves what the run has.
FIELDS = {
    **{name: f"distill.{name}" for name in ("alpha", "temperature", "loss", "variants", "seeds")},
    "strategy": "ensemble.strategy",
    "top_k": "select.top_k",
    "workers": "runtime.workers",
}
COMMON = ("run_dir", "preset", "workers", "update", "task")  # of every notebook
DEFAULT_PRESET = "smoke"  # of every notebook: it is quick, and says nothing about a run that is already there
__all__ = [
    "BATCH",
    "FIELDS",
    "ROOT",
    "Declared",
    "Refused",
    "bring",
    "card",
    "checked",
    "declared_in",
    "experiment",
    "explained",
    "in_words",
    "mean_words",
    "parameters",
    "pick_task",
    "plain",
    "planned",
    "resolved",
    "right_minus_right",
    "rows_of",
    "run_config",
    "say",
    "scores_on",
    "show",
    "shown_path",
    "signed",
    "smooth",
    "text_of",
    "texts_of",
]


def bring(params: SimpleNamespace, *, stage: str) -> Run:
    """The run directory `params.run_dir` with everything up to `stage` done: what is up to date is read, the rest is
    run. A new directory starts from `params.preset`; an existing one keeps its config, apart from the parameters of
    `FIELDS` that have a value.

    Raises `Refused` where that would replace finished trainings, unless `params.update`; for a run of another version
    of Darkroom, an imported one, and a folder that is no run.
    """
    try:
        run, config = planned(params)
        with NotebookProgress() as progress, warnings.catch_warnings():
            # tqdm looks for widgets in every notebook; ours has a bar of its own.
            warnings.filterwarnings("ignore", message="IProgress not found")
            run_pipeline(run, config, last_stage=stage, update=params.update, progress=progress)
    except (ValueError, FloatingPointError, RuntimeError) as error:
        if os.environ.get("DARKROOM_TRACEBACK"):
            raise
        raise Refused(_for_notebooks(str(error))) from error
    say(f"Run `{shown_path(run.path)}` · preset **{config.preset}** · tasks: {', '.join(config.data.tasks)}")
    if config.preset == "smoke":
        say("*The smoke preset proves that everything runs. Its models are tiny: read its numbers as an example of how "
            "to read numbers, and set `preset` and a new `run_dir` for some that mean something.*")  # fmt: skip
    return run


def planned(params: SimpleNamespace) -> tuple[Run, Config]:
    """The run and the config to bring it to. Nothing is written. Raises `ValueError` as `bring` does."""
    for name in vars(params).keys() - {*COMMON, *FIELDS}:  # a line that a person has misspelt in the cell itself
        near = difflib.get_close_matches(name, (*COMMON, *FIELDS), n=1)
        raise ValueError(
            f"unknown parameter '{name}'{f'; did you mean {near[0]!r}?' if near else ''} Nothing reads it: correct "
            "that line of the parameters cell, or remove it"
        )
    run = Run(resolved(params.run_dir))
    given = {field: getattr(params, name, None) for name, field in FIELDS.items()}
    overrides = [f"{field}={json.dumps(value)}" for field, value in given.items() if value is not None]
    if not run.exists():
        parent = run.path.parent
        if not parent.is_dir() and parent != ROOT / "runs":
            raise ValueError(
                f"run_dir is {run.path}, but there is no folder {parent}; make it first, or correct run_dir"
            )
        if run.holds_anything():
            raise ValueError(
                f"{run.path} exists, is not empty and holds no run; give an empty or new folder as run directory"
            )
        return run, load_config(params.preset, None, overrides)
    manifest = run.manifest()
    if manifest.get("imported"):
        raise ValueError(f"{run.path} was imported: it has predictions and no stages to run. Open it in the dashboard")
    base = validated(manifest["config"])
    if params.preset not in (DEFAULT_PRESET, base.preset):
        raise ValueError(
            f"preset is '{params.preset}', but {run.path} is there already, with preset '{base.preset}'; leave preset "
            "out, or give another run_dir"
        )
    return run, load_config(None, None, overrides, base=base)


def resolved(run_dir: str) -> Path:
    """A path as it is meant: from the project's root, wherever Jupyter or papermill were started."""
    return ROOT / Path(run_dir).expanduser()  # an absolute path stays as it is


def shown_path(path: Path) -> str:
    """Without what is this machine's alone, where it lies in the project."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _for_notebooks(message: str) -> str:
    """The pipeline speaks of the command line's options."""
    for said, here in (
        (
            "Give another --out, or --update to redo them here",
            "Give another run_dir, or update = True to redo them here",
        ),
        ("give a new folder to --out", "give a new folder as run_dir"),
    ):
        message = message.replace(said, here)
    return message


def experiment(name: str) -> Findings:
    """What `python -m core experiment <name>` found here (runs/results), else what comes with the project."""
    places = [ROOT / folder / f"{name}.parquet" for folder in ("runs/results", "docs/results")]
    return read_findings(next((place for place in places if place.exists()), places[0]))


def run_config(run: Run) -> Config:
    """The config that the run stored."""
    return validated(run.manifest()["config"])
