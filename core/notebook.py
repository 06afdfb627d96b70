"""What the notebooks' first cells call: check the parameters, bring the run up to date, show figures.

A notebook holds no logic of its own. It starts with

    params = parameters(globals())
    run = bring(params, stage="distill")

papermill accepts a misspelt parameter, logs a line and goes on with the default (measured on 2.7); `parameters` looks
at what was injected and refuses it, so that `papermill ... -p alpah 0.3` fails as it should.

Not here: running notebooks in batches (core/notebooks), figures (core/plots).
"""

from __future__ import annotations

import ast
import difflib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from core.config import validated
from core.pipeline import run_pipeline
from core.presets import load_config
from core.progress import Progress
from core.store import Run
from core.workers import Event

# Parameter -> the field of the config that it sets; None leaves what the run has.
FIELDS = {
    **{name: f"distill.{name}" for name in ("alpha", "temperature", "loss", "variants")},
    "seeds": "distill.seeds",
    "strategy": "ensemble.strategy",
    "top_k": "select.top_k",
    "workers": "runtime.workers",
}
BATCH = "DARKROOM_BATCH"  # set by core/notebooks: lines instead of a moving bar
INJECTED = "# Parameters"  # first line of the cell that papermill adds


def parameters(namespace: Mapping[str, Any]) -> SimpleNamespace:
    """The notebook's parameters, with their declared types. `namespace` is `globals()`, whose annotations are the
    declarations of the parameters cell. Raises `ValueError` for a name that is not declared and a value of another
    type. Example: `params = parameters(globals()); params.alpha`."""
    declared: Mapping[str, Any] = namespace["__annotations__"]
    for source in namespace.get("In", ()):
        if source.startswith(INJECTED):
            refuse_unknown(_assigned(source), declared)
    return SimpleNamespace(**{name: typed(name, namespace[name], kind) for name, kind in declared.items()})


def refuse_unknown(names: Sequence[str], declared: Mapping[str, Any]) -> None:
    for name in names:
        if name not in declared:
            near = difflib.get_close_matches(name, declared, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ";"
            raise ValueError(f"unknown parameter '{name}'{hint} this notebook has: {', '.join(declared)}")


def typed(name: str, value: Any, kind: Any) -> Any:
    """`value` as the declared type. A whole number may stand for a float; a text never stands for a number or list.
    None is what a parameter without a value of its own has: "as the run has it"."""
    if value is None:
        return None
    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError:
        word = getattr(kind, "__name__", str(kind))
        raise ValueError(f"parameter '{name}' is {value!r} ({type(value).__name__}), expected {word}") from None


def _assigned(source: str) -> list[str]:
    return [target.id for node in ast.parse(source).body if isinstance(node, ast.Assign)
            for target in node.targets if isinstance(target, ast.Name)]  # fmt: skip


def bring(params: SimpleNamespace, *, stage: str) -> Run:
    """The run directory `params.run_dir` with everything up to `stage` done: what is up to date is read, the rest is
    run. A new directory starts from `params.preset`; an existing one keeps its config, apart from the parameters of
    `FIELDS` that have a value.

    Raises `ValueError` where that would replace finished trainings, unless `params.update`.
    """
    run = Run(resolved(params.run_dir))
    given = {field: getattr(params, name, None) for name, field in FIELDS.items()}
    overrides = [f"{field}={json.dumps(value)}" for field, value in given.items() if value is not None]
    if run.exists():
        # A notebook's default preset says nothing about a run that is already there.
        config = load_config(None, None, overrides, base=validated(run.manifest()["config"]))
    else:
        config = load_config(params.preset, None, overrides)
    with BarProgress() as progress:
        run_pipeline(run, config, last_stage=stage, update=params.update, progress=progress)
    return run


def show(fig: Any) -> None:
    """A plotly figure: interactive in JupyterLab, and as HTML for pages made of the notebook (core/notebooks,
    `write_html`). Without the button that would upload its data."""
    from IPython.display import display
    from plotly.io import to_html

    from core.plots.style import SHOW_CONFIG

    values = {**json.loads(fig.to_json()), "config": SHOW_CONFIG}
    page = to_html(fig, config=SHOW_CONFIG, include_plotlyjs=False, full_html=False)
    display({"application/vnd.plotly.v1+json": values, "text/html": page}, raw=True)


def say(text: str) -> None:
    """A sentence in Markdown with the numbers of this run."""
    from IPython.display import Markdown, display

    display(Markdown(text))


def resolved(run_dir: str) -> Path:
    """A path as it is meant: from the project's root, wherever Jupyter or papermill were started."""
    return Path(run_dir) if Path(run_dir).is_absolute() else Path(__file__).resolve().parents[1] / run_dir


class BarProgress(Progress):
    """A line a stage and evaluation, and in JupyterLab a moving bar under them."""

    def __init__(self) -> None:
        super().__init__(Console(file=sys.stdout, force_terminal=False, force_jupyter=False, width=100))
        self.bar: Any = None
        if not os.environ.get(BATCH):
            from IPython.display import display

            self.bar = display({"text/plain": ""}, raw=True, display_id=True)

    def event(self, event: Event) -> None:
        super().event(event)
        self._draw()

    def finished(self, job: str, seconds: float) -> None:
        super().finished(job, seconds)
        self._draw()

    def _draw(self) -> None:
        if self.bar is not None and self.shares:
            share = sum(self.shares.values()) / len(self.shares)
            bar = "█" * round(40 * share) + "░" * (40 - round(40 * share))
            text = "" if share == 1 else f"{self.stage:<9} {bar} {100 * share:.0f} %"
            self.bar.update({"text/plain": text}, raw=True)
