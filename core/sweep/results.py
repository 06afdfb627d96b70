"""What a sweep found: `sweep.parquet`, tidy, and `sweep.html`, a page with a figure and a table that needs no network.

Points are means over the tasks with a teacher, intervals are over seeds, and the paper's point is marked. On the
development split where there is one: a grid is there to choose from, and what was chosen on the split that is reported
is not worth reporting.

Not here: running the cells (core/sweep).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import t as student_t

from core.comparisons import Difference, mean_and_se, paired_difference
from core.config import Config
from core.metrics import HIGHER_IS_BETTER
from core.notebook import mean_words, rows_of, shown_path, signed
from core.notebooks import figure_html, write_page
from core.store import Run, atomic
from core.views.results import Results, by_seed, read_results

PAPER = (0.5, 1.0)  # alpha and temperature of Liu et al. 2019
PAPER_LOSSES = ("soft_ce", "kl")  # they have one gradient at temperature 1
WORDS = {"score": "score x 100", "kl_truth": "KL to the truth"}
BETTER = {"score": ("better", "worse"), "kl_truth": ("nearer", "further")}
DIGITS = {"score": 1, "kl_truth": 3}
NBSP = "\N{NO-BREAK SPACE}"  # a number and its error stay on one line


class Point(NamedTuple):
    """A finished cell: where it stands, what else tells it from others there, and its students' means by seed."""

    alpha: float
    temperature: float
    loss: str
    rest: str
    of_seed: dict[str, dict[int, float]]  # metric -> seed -> mean over the tasks with a teacher


Cells = Mapping[str, tuple[Mapping[str, Any], Run, Config]]  # name -> values of the grid, run, its config


def write_results(out: Path, cells: Cells) -> tuple[Path, Path]:
    """`sweep.parquet` with a column for each parameter of the grid, and `sweep.html`."""
    tables = []
    for name, (cell, run, _) in cells.items():
        table = pq.read_table(run.path / "metrics.parquet")
        for key, value in reversed({"cell": name, **cell}.items()):
            table = table.add_column(0, key, pa.array([value] * len(table)))
        tables.append(table)
    with atomic(out / "sweep.parquet") as temporary:
        pq.write_table(pa.concat_tables(tables, promote_options="permissive"), temporary)
    return out / "sweep.parquet", write_sweep_page(out, cells)


def write_sweep_page(out: Path, cells: Cells) -> Path:
    """A figure and a table for every loss (and what else the grid varies beside alpha and temperature)."""
    from nbconvert.filters import markdown2html

    results = {name: read_results(run) for name, (_, run, _) in cells.items()}
    first = next(iter(results.values()))
    has_dev = all(any(key[2] == "dev" for key in found.scores) for found in results.values())
    split = "dev" if has_dev else first.split
    points = _points(cells, results, split)
    tasks = ", ".join(name for name, row in first.tasks.items() if row.has_teacher)
    name = shown_path(out.resolve())
    text = (
        f"# Sweep {name}\n\nStudents `kd`, mean over the tasks with a teacher ({tasks}), on *{split}*. All cells have "
        "the same teachers. In the picture bars are two standard errors over seeds, in the table ± is one. Every cell "
        f"is a run of its own: `python -m core report {name}/CELL`, or all of them in the dashboard: "
        f"`make app RUNS={name}`."
    )
    parts = [str(markdown2html(text))]
    for i, rest in enumerate(dict.fromkeys(point.rest for point in points)):
        group = [point for point in points if point.rest == rest]
        parts.append(_figure(group, split, f"sweep-{i}"))
        parts.append(str(markdown2html(_table(group))))
    return write_page(out / "sweep.html", f"Sweep {name}", "\n".join(parts))


def _points(cells: Cells, results: Mapping[str, Results], split: str) -> list[Point]:
    keys = next(iter(cells.values()))[0].keys() - {"alpha", "temperature"}
    varied = [key for key in sorted(keys) if len({str(cell[key]) for cell, _, _ in cells.values()}) > 1]
    found = []
    for name, (cell, _, config) in cells.items():
        tasks = [task for task, row in results[name].tasks.items() if row.has_teacher]
        lesson = config.teaching(results[name].tasks[tasks[0]])
        of_seed = {
            metric: by_seed(results[name], "kd", tasks, metric=metric, split=split) for metric in ("score", "kl_truth")
        }
        rest = ", ".join([f"loss {lesson.loss}", *(f"{key} {cell[key]}" for key in varied if key != "loss")])
        known = {metric: values for metric, values in of_seed.items() if values}
        found.append(Point(config.distill.alpha, lesson.temperature, lesson.loss, rest, known))
    return found


def _figure(group: Sequence[Point], split: str, name: str) -> str:
    from core.plots.grids import SweepPoint, sweep_figure
    from core.plots.style import SHOW_CONFIG

    rows, titles = [], {"score": f"score x 100 on {split}", "kl_truth": f"KL to the truth on {split} (nats)"}
    for metric in group[0].of_seed:
        for point in group:
            mean, se, _ = mean_and_se(_scaled(point, metric))
            low, high = mean - 2 * se, mean + 2 * se
            rows.append(SweepPoint(point.alpha, point.temperature, mean, low, high, titles[metric]))
    fig = sweep_figure(rows, title=group[0].rest)
    if group[0].loss not in PAPER_LOSSES:
        fig.data = [trace for trace in fig.data if trace.name != "the paper's point"]
    return figure_html(json.loads(fig.to_json()) | {"config": SHOW_CONFIG}, fig.layout.meta["alt"], name)


def _table(group: Sequence[Point]) -> str:
    """Every cell, and whether it differs from the paper's point by more than seeds do. Of many cells the best is also
    the luckiest, so the table ends with that warning and not with a winner."""
    at_paper = [p for p in group if (p.alpha, p.temperature) == PAPER and p.loss in PAPER_LOSSES]
    paper = at_paper[0] if at_paper else None
    header, lines = ["alpha", "T", "seeds"], []
    for metric in group[0].of_seed:
        header += [WORDS[metric], *(["minus the paper's"] if paper is not None else [])]
    for point in group:
        line: list[object] = [f"{point.alpha:g}", f"{point.temperature:g}", len(point.of_seed["score"])]
        for metric in point.of_seed:
            line.append(mean_words(_scaled(point, metric), DIGITS[metric]).replace(" ", NBSP))
            if point is paper:
                line.append("the paper's point")
            elif paper is not None:
                line.append(_in_a_cell(_against(point, paper, metric), metric))
        lines.append(line)
    missing = "The paper's point (alpha 0.5, T 1, cross-entropy) is not among these."
    told = missing if paper is None else _told(group, paper)
    warning = "Of many cells the best is also the luckiest: choose here, report on another split."
    return f"{rows_of(header, lines)}\n\n{told} {warning}"


def _told(group: Sequence[Point], paper: Point) -> str:
    """How many cells differ from the paper's point, and how many would by chance alone."""
    sentences = []
    for metric in paper.of_seed:
        found = [d for p in group if p is not paper and (d := _against(p, paper, metric)) is not None and d.n > 1]
        n_better, n_worse = (sum(d.verdict == verdict for d in found) for verdict in ("better", "worse"))
        by_chance = sum(2 * float(student_t.sf(2, d.n - 1)) for d in found)
        if found:
            better, worse = BETTER[metric]
            sentences.append(
                f"By {WORDS[metric].removesuffix(' x 100')}, {n_better} of {len(found)} other cells are {better} and "
                f"{n_worse} {worse} than the paper's point by more than two standard errors (n = {found[0].n} seeds); "
                f"were all alike, chance would say so of about {by_chance:.1f}."
            )
    return " ".join(sentences) or "With one seed nothing can be told from chance."


def _scaled(point: Point, metric: str) -> list[float]:
    return [100 * value if metric == "score" else value for value in point.of_seed[metric].values()]


def _against(point: Point, paper: Point, metric: str) -> Difference | None:
    """Paired by seed; None without a seed in common."""
    ours, theirs = point.of_seed[metric], paper.of_seed[metric]
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds:
        return None
    return paired_difference(
        [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds], higher_is_better=HIGHER_IS_BETTER[metric]
    )


def _in_a_cell(difference: Difference | None, metric: str) -> str:
    """ "+1.1 ± 0.2, **better**": the table's header says what it is about."""
    if difference is None:
        return "no seed in common"
    scale, digits = 100 if metric == "score" else 1, DIGITS[metric]
    amount = signed(difference.mean * scale, digits)
    if difference.n < 2:
        return f"{amount}, one seed"
    words = {"better": f"**{BETTER[metric][0]}**", "worse": f"**{BETTER[metric][1]}**"}
    says = words.get(difference.verdict, difference.verdict)
    return f"{amount} ± {difference.se * scale:.{digits}f}".replace(" ", NBSP) + f", {says}"
