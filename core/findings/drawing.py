"""A result as a figure: every cell's difference to the one that students are compared with, two standard errors to
each side. With one such cell alone, a row a task; else a row a cell, on the means of the tasks with a teacher and of
those without.
"""

from __future__ import annotations

from typing import Any

from core.findings import Findings, lines
from core.findings.pages import WORDS, shown
from core.metrics import HIGHER_IS_BETTER
from core.plots.comparisons import Interval, points_and_intervals


def figure(findings: Findings, *, title: bool = True) -> Any:
    """Raises `ValueError` where there is nothing to compare."""
    about = findings.about
    rows: list[Interval] = []
    compared = [cell["label"] for cell in about["cells"] if cell["against"] == about["against"] != cell["label"]]
    classes = shown(findings)
    # (row, or "" where cells are the rows; tasks; metrics; what the metrics' names say besides)
    parts: list[tuple[str, list[str], list[str], str]]
    if len(compared) == 1:
        # KL of a value is of another size than that of classes, and would be alone in the picture.
        parts = [
            (task, [task], ["score", *classes[1:]] if has else ["score"], "") for task, has in about["tasks"].items()
        ]
    else:
        parts = [("", findings.tasks(taught=True), classes, "")]
        parts += [("", findings.tasks(taught=False), ["score"], " without a teacher")]
    for task, names, metrics, besides in parts:
        for metric in metrics:
            series = f"{WORDS[metric]}{besides} (better: {'right' if HIGHER_IS_BETTER[metric] else 'left'})"
            for line in lines(findings, names, metric):
                if line.difference is None or line.cell not in compared:
                    continue
                mean, se, n = line.difference.mean, line.difference.se, line.difference.n_data * line.difference.n_seeds
                low, high = mean - 2 * se, mean + 2 * se
                rows.append(Interval(task or line.cell, series, 100 * mean, 100 * low, 100 * high, n))
    head = about["title"] if title else ""
    return points_and_intervals(rows, metric=f"minus '{about['against']}', x 100", zero_line=True, title=head)
