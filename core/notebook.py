"""What the notebooks' cells call: check the parameters, bring the run up to date, show figures, say sentences.

A notebook holds no logic of its own. After its cell of parameters it goes on with

    params = parameters(globals())
    run = bring(params, stage="distill")

papermill accepts a misspelt parameter, logs a line and goes on with the default (measured on 2.7); `parameters` looks
at what was injected and refuses it, so that `papermill ... -p alpah 0.3` fails as it should.

Numbers are said in the words of core/comparisons: under two standard errors it is "no difference".

Not here: running notebooks in batches and pages of them (core/notebooks), figures (core/plots), what they draw
(core/views). No torch: a notebook on an up-to-date run starts in a second. All that a cell may call is in this one
file, of some 400 lines, so that whoever reads a notebook has one place to look.
"""

from __future__ import annotations

import ast
import difflib
import html
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from core.comparisons import Difference, paired_difference
from core.config import Config, validated
from core.metrics import Score, evaluate
from core.pipeline import run_pipeline
from core.presets import load_config
from core.progress import Progress
from core.store import Run
from core.tasks import Task, find_task
from core.views import NotDefined
from core.views.table import TaskTable
from core.workers import Event

ROOT = Path(__file__).resolve().parents[1]
TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool, "list": list}
# Parameter -> the field of the config that it sets; None leaves what the run has.
FIELDS = {
    **{name: f"distill.{name}" for name in ("alpha", "temperature", "loss", "variants", "seeds")},
    "strategy": "ensemble.strategy",
    "top_k": "select.top_k",
    "workers": "runtime.workers",
}
DEFAULT_PRESET = "smoke"  # of every notebook: it is quick, and says nothing about a run that is already there
BATCH = "DARKROOM_BATCH"  # set by core/notebooks: lines instead of a moving bar
INJECTED = "# Parameters"  # first line of the cell that papermill adds
DRAW_SECONDS = 0.15


class Refused(ValueError):  # noqa: N818 (not an error of the code: the person's, who is told what to do)
    """A mistake that its sentence explains. In a notebook the sentence stands alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython's own protocol
        return [f"\x1b[1;31merror:\x1b[0m {self}"]


# ---- parameters ----------------------------------------------------------------------------------------------------
class Declared(NamedTuple):
    """A line `alpha: float = None  # ...` of a parameters cell."""

    kind: type
    default: Any


def declared_in(source: str) -> dict[str, Declared]:
    """Name -> type and default of the annotated lines of a cell. Raises `ValueError` for a type that papermill cannot
    read (`int | None`) and a default that is no literal: it would be computed before the parameters are injected."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            name, kind = node.target.id, ast.unparse(node.annotation)
            if kind not in TYPES:
                raise ValueError(f"parameter '{name}' is declared as '{kind}', expected one of {', '.join(TYPES)}")
            found[name] = Declared(TYPES[kind], ast.literal_eval(node.value))
    return found


def parameters(namespace: Mapping[str, Any]) -> SimpleNamespace:
    """The notebook's parameters, with their declared types. `namespace` is `globals()`; IPython keeps the source of
    every cell in it. Raises `Refused` for a name that is not declared and a value of another type.

    Example: `params = parameters(globals()); params.alpha`."""
    injected, declared = "", dict[str, Declared]()
    for source in reversed(namespace["In"]):
        if source.startswith(INJECTED):
            injected = injected or source
            continue
        try:
            declared = declared_in(source)
        except SyntaxError:  # a cell that was never run to its end
            continue
        if declared:
            break
    targets = [node.targets[0] for node in ast.parse(injected).body if isinstance(node, ast.Assign)]
    names = dict.fromkeys((*declared, *(target.id for target in targets if isinstance(target, ast.Name))))
    return SimpleNamespace(**checked(declared, {name: namespace[name] for name in names}))


def checked(declared: Mapping[str, Declared], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` as declared, defaults for the rest. Raises `Refused` as `parameters` does."""
    for name in values:
        if name not in declared:
            near = difflib.get_close_matches(name, declared, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else "."
            raise Refused(f"unknown parameter '{name}'{hint} This notebook has: {', '.join(declared)}")
    return {name: typed(name, values.get(name, line.default), line) for name, line in declared.items()}


def typed(name: str, value: Any, declared: Declared) -> Any:
    """`value` as the declared type. A whole number may stand for a float; a text never stands for a number or a list.
    None, "as the run has it", where it is the default."""
    if value is None and declared.default is None:
        return None
    try:
        return TypeAdapter(declared.kind).validate_python(value, strict=True)
    except ValidationError:
        or_none = " or None" if declared.default is None else ""
        raise Refused(
            f"parameter '{name}' is {value!r} ({type(value).__name__}), expected {declared.kind.__name__}{or_none}"
        ) from None


# ---- the run -------------------------------------------------------------------------------------------------------
def bring(params: SimpleNamespace, *, stage: str) -> Run:
    """The run directory `params.run_dir` with everything up to `stage` done: what is up to date is read, the rest is
    run. A new directory starts from `params.preset`; an existing one keeps its config, apart from the parameters of
    `FIELDS` that have a value.

    Raises `Refused` where that would replace finished trainings, unless `params.update`; for a run of another version
    of Darkroom, an imported one, and a folder that is no run.
    """
    try:
        run, config = planned(params)
        with NotebookProgress() as progress:
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
    run = Run(resolved(params.run_dir))
    given = {field: getattr(params, name, None) for name, field in FIELDS.items()}
    overrides = [f"{field}={json.dumps(value)}" for field, value in given.items() if value is not None]
    if not run.exists():
        parent = run.path.parent
        if not parent.is_dir() and parent != ROOT / "runs":
            raise ValueError(
                f"run_dir is {run.path}, but there is no folder {parent}; make it first, or correct run_dir"
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
        ("give an empty or new folder to --out", "give an empty or new folder as run_dir"),
        ("give a new folder to --out", "give a new folder as run_dir"),
    ):
        message = message.replace(said, here)
    return message


# ---- what a cell shows ---------------------------------------------------------------------------------------------
def show(fig: Any) -> None:
    """A plotly figure, without the button that would upload its data. Its words stand where figures cannot be shown;
    core/notebooks makes pages of it that need no JupyterLab."""
    from IPython.display import display

    from core.plots.style import SHOW_CONFIG

    values = {**json.loads(fig.to_json()), "config": SHOW_CONFIG}
    display({"application/vnd.plotly.v1+json": values, "text/plain": fig.layout.meta["alt"]}, raw=True)


def say(text: str) -> None:
    """Sentences in Markdown with the numbers of this run."""
    from IPython.display import Markdown, display

    display(Markdown(text))


@contextmanager
def explained() -> Iterator[None]:
    """Says the sentence of a `NotDefined`: what this task or run does not have, and why."""
    try:
        yield
    except NotDefined as reason:
        say(f"*Not here: {reason}*")


def rows_of(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table for `say`; the first column stands left, numbers right. Texts from data go through `plain`."""
    numbers = [all(isinstance(row[i], int | float) or row[i] == "" for row in rows) for i in range(len(header))]
    lines = [header, [":--" if not right or i == 0 else "--:" for i, right in enumerate(numbers)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def plain(text: str) -> str:
    """Text from data as Markdown that shows it and nothing else."""
    line = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"&#{ord(letter)};" if letter in "\\`*_{}[]()#+!|$~^" else letter for letter in line)


def run_config(run: Run) -> Config:
    """The config that the run stored."""
    return validated(run.manifest()["config"])


def card(table: TaskTable, row: int, *, models: bool = True) -> Any:
    """Who says what about one example: a figure with every voice that the table has; without `models` truth and people
    alone."""
    from core.plots.cards import distribution_card, value_card

    def each(read: Callable[[str], Any], names: Iterable[str]) -> list[Any] | None:
        return [read(name)[row] for name in names] or None

    hard, kd = (table.students.get(variant, {}).values() if models else () for variant in ("hard", "kd"))
    members, has_teacher = table.members if models else (), models and table.has_teacher
    if table.is_regression:
        truth, spread = (None if of_N is None else of_N[row] for of_N in (table.truth_N, table.truth_std_N))
        return value_card(
            value_range=table.task.score_range,
            members_M=each(table.outputs, members),
            teacher=table.values("teacher")[row] if has_teacher else None,
            student_S=each(table.outputs, kd),
            hard_S=each(table.outputs, hard),
            gold=table.gold_N[row] if table.has_gold[row] else None,
            truth_mean=truth,
            truth_std=spread,
        )
    truth_C, humans_C = (
        None if known_NC is None or not np.isfinite(known_NC[row]).all() else known_NC[row]
        for known_NC in (table.truth_NC, table.humans_NC)
    )
    return distribution_card(
        table.task.labels,
        members_MC=each(table.probs, members),
        teacher_C=table.probs("teacher")[row] if has_teacher else None,
        student_SC=each(table.probs, kd),
        hard_SC=each(table.probs, hard),
        gold_index=int(table.gold_N[row]) if table.has_gold[row] else None,
        truth_C=truth_C,
        humans_C=humans_C,
    )


def text_of(table: TaskTable, row: int) -> str:
    """One example's text, or texts, for `say`."""
    text = table.texts([row])[0]
    return " · ".join(f"*{plain(part)}*" for part in (text.text_a, text.text_b, *(text.candidates or ())) if part)


def texts_of(table: TaskTable, rows: Sequence[int], **columns: Sequence[object]) -> str:
    """A Markdown table of examples to read, with further columns."""
    texts = [text_of(table, int(row)) for row in rows]
    return rows_of(["text", *columns], list(zip(texts, *columns.values(), strict=True)))


# ---- what it says --------------------------------------------------------------------------------------------------
def pick_task(run: Run, name: str | None) -> Task:
    """The task that a notebook looks at, and says so: `name`, or the first with a teacher and three classes or more
    (with two, one number says all that a teacher can say). Raises `Refused` for a task that the run does not have."""
    from core.views.catalogue import tasks_of_run

    tasks = tasks_of_run(run)
    rows = list(tasks.values())
    if name is not None:
        try:
            task, why = find_task(name, tasks), "as asked"
        except ValueError as error:
            raise Refused(f"parameter 'task': {error}") from None
    else:
        rich = [row for row in rows if row.n_outputs >= 3]
        task = next((row for row in rich if row.has_teacher), next(iter(rich), next(iter(rows))))
        why = "the first with three classes or more" if rich else "no task has three classes"
    kind = "a regression" if task.kind == "regression" else f"{task.n_outputs} classes: {', '.join(task.labels)}"
    others = ", ".join(row.name for row in rows if row.name != task.name) or "none"
    say(f"Task looked at: **{task.name}** ({kind}; {why}). Others, for the parameter `task`: {others}.")
    return task


def scores_on(table: TaskTable, models: Sequence[str], *, metric: str = "score") -> dict[str, Score]:
    """Each model's score with its interval over examples, as `metrics.parquet` has it once a run is evaluated."""
    gold: dict[str, Any] = {"gold_value" if table.is_regression else "gold_index": table.gold_N, "resamples": 300}
    return {name: evaluate(table.task, outputs=table.outputs(name), **gold)[metric] for name in models}


def right_minus_right(table: TaskTable, a: str, b: str) -> Difference:
    """How much more often voice `a` is right than `b`, paired over the examples with gold: what the choice of examples
    leaves open. The luck of training is another matter, and needs seeds. Raises `NotDefined` for a regression."""
    known = table.has_gold
    return paired_difference(table.is_right(a)[known], table.is_right(b)[known])


def in_words(
    difference: Difference,
    *,
    unit: str = "points",
    scale: float = 100,
    of: str = "seeds",
    words: tuple[str, str] = ("better", "worse"),
) -> str:
    """ "**better** by 2.9 ± 0.8 points (n = 5 seeds)", "**no difference** (+0.3 ± 0.4 points, ...)", or that one seed
    shows nothing. ± is one standard error. With fewer than five "better" is called a hint: Student's t wants more
    than two standard errors there. `words` say what better and worse are."""
    mean, se, n, verdict = difference
    digits = 1 if scale > 1 else 3
    if verdict == "one seed":
        return f"{signed(mean * scale, digits)} {unit} with one {of.rstrip('s')}, which shows nothing"
    amount = f"{se * scale:.{digits}f} {unit}".rstrip()
    if verdict == "no difference":
        return f"**no difference** ({signed(mean * scale, digits)} ± {amount}, n = {n} {of})"
    hint = ": a hint, no finding" if n < 5 else ""
    word = words[verdict == "worse"]
    return f"**{word}** by {abs(mean) * scale:.{digits}f} ± {amount} (n = {n} {of}{hint})"


def signed(value: float, digits: int = 1) -> str:
    """ "+1.2" and, with a real minus sign, "−1.2"."""
    return f"{value:+.{digits}f}".replace("-", "−")


def mean_words(values: Any, digits: int = 3) -> str:
    """ "0.412 ± 0.021": mean of some numbers and its standard error."""
    values_N = np.asarray(values, np.float64)
    se = f" ± {values_N.std(ddof=1) / np.sqrt(len(values_N)):.{digits}f}" if len(values_N) > 1 else ""
    return f"{values_N.mean():.{digits}f}{se}"


def smooth(values: Any, looks: int = 8) -> Any:
    """Running means, to look at a loss that jumps from batch to batch; as many values as before."""
    values_L = np.asarray(values, np.float64)
    sums = np.concatenate([[0.0], np.cumsum(values_L)])
    ends = np.arange(1, len(values_L) + 1)
    starts = np.maximum(ends - looks, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


# ---- progress ------------------------------------------------------------------------------------------------------
class NotebookProgress(Progress):
    """In a batch a line a stage and evaluation; in JupyterLab one output that moves: stages done, a bar, the latest."""

    def __init__(self) -> None:
        self.is_live = "JPY_SESSION_NAME" in os.environ and not os.environ.get(BATCH)
        self.lines = io.StringIO() if self.is_live else sys.stdout
        super().__init__(Console(file=self.lines, force_terminal=False, force_jupyter=False, width=100))
        self.skips: list[str] = []
        self.latest, self.started, self.drawn = "", 0.0, 0.0
        self.handle: Any = None

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._say_skips()
        self.shares = {}
        self._draw(now=True)

    def skipped(self, stage: str) -> None:
        self.skips.append(stage)

    def note(self, text: str) -> None:
        self._say_skips()
        super().note(text)

    def start(self, stage: str, jobs: list[str]) -> None:
        self._say_skips()
        self.started, self.latest = time.monotonic(), ""
        super().start(stage, jobs)
        self._draw(now=True)

    def event(self, event: Event) -> None:
        super().event(event)
        values = event.values or {}
        if "loss" in values:
            self.latest = f"{event.job}, epoch {values['epoch'] + 1}, loss {values['loss']:.3f}"
        self._draw()

    def finished(self, job: str, seconds: float) -> None:
        super().finished(job, seconds)
        self._draw(now=True)

    def _say_skips(self) -> None:
        if self.skips:
            self.console.print(f"up to date: {', '.join(self.skips)}")
            self.skips = []

    def _draw(self, *, now: bool = False) -> None:
        if not self.is_live or (not now and time.monotonic() - self.drawn < DRAW_SECONDS):
            return
        self.drawn = time.monotonic()
        from IPython.display import display

        assert isinstance(self.lines, io.StringIO)
        lines = self.lines.getvalue()
        bundle = {"text/html": self._html(lines), "text/plain": lines}
        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True)
        else:
            self.handle.update(bundle, raw=True)

    def _html(self, lines: str) -> str:
        page = f'<pre style="margin:0;font-size:12px;line-height:1.5">{html.escape(lines.rstrip())}</pre>'
        if not self.shares or min(self.shares.values()) == 1:
            return page
        share = sum(self.shares.values()) / len(self.shares)
        seconds = time.monotonic() - self.started
        left = f", about {seconds * (1 - share) / share:.0f} s left" if share > 0.05 and seconds > 2 else ""
        width = f"width:{100 * share:.1f}%;height:8px;border-radius:4px"
        return (
            f'{page}<div style="display:flex;align-items:center;gap:12px;margin-top:6px;font-size:12px"><b>{self.stage}'
            '</b><div style="width:260px;border-radius:4px;background:rgba(128,128,128,.25)">'
            f'<div style="{width};background:#e8710a"></div></div>'
            f'<span>{100 * share:.0f} %{left}</span><span style="opacity:.7">{html.escape(self.latest)}</span></div>'
        )
