"""What a cell shows and says: figures, sentences with the numbers of this run, tables, single examples.

Numbers are said in the words of core/comparisons: under two standard errors it is "no difference". ± is one standard
error.

Not here: figures (core/plots), and what they draw (core/views).
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from core.comparisons import Difference, paired_difference
from core.metrics import Score, evaluate
from core.notebook.parameters import Refused
from core.store import Run
from core.tasks import Task, find_task
from core.views import NotDefined
from core.views.catalogue import tasks_of_run
from core.views.table import TaskTable


# ---- figures and text ----------------------------------------------------------------------------------------------
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


# ---- numbers in words ----------------------------------------------------------------------------------------------
def pick_task(run: Run, name: str | None) -> Task:
    """The task that a notebook looks at, and says so: `name`, or the first with a teacher and three classes or more
    (with two, one number says all that a teacher can say). Raises `Refused` for a task that the run does not have."""
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
    """ "+1.2" and, with a real minus sign, "−1.2"; what rounds to zero is "0.0"."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


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
