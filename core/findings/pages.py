"""A result in Markdown: the page of docs/results, and the tables that README quotes. Made of the scores' file alone.

Numbers are x 100; ± is one standard error (core/comparisons, `nested_mean`).
"""

from __future__ import annotations

from collections.abc import Sequence

from core.comparisons import Nested
from core.findings import Findings, Line, lines, task_lines

NBSP = "\N{NO-BREAK SPACE}"  # a number and its error stay on one line
WORDS = {
    "score": "score",
    "accuracy": "accuracy",
    "kl_truth": "KL to the truth",
    "kl_humans": "KL to the annotators",
    "ece": "calibration error",
}
# KL to the annotators is for tasks whose truth is not known: a few annotators are a worse copy of it.
SHOWN = ("accuracy", "kl_truth", "kl_humans", "ece")


def page(findings: Findings) -> str:
    """All of it: question, how it was found, tables, where the scores are."""
    about, name = findings.about, findings.name
    correction = " **Bold** survives Holm's correction at 5 %, for its column, in a table of tasks for all of it."
    parts = [f"# {about['title']}", about["question"], how_found(findings) + correction]
    if taught := findings.tasks(taught=True):
        parts += [f"## Tasks with a teacher: {', '.join(taught)}", means_table(findings, taught, shown(findings))]
    if others := findings.tasks(taught=False):
        parts += [f"## Tasks without a teacher: {', '.join(others)}", means_table(findings, others, ("score",))]
    parts += [f"![{about['title']}, as differences]({name}.svg)", "## Each task"]
    parts += [table for metric in ("score", *shown(findings)[1:]) if (table := task_table(findings, metric))]
    parts.append(f"Every score of every model is in `{name}.parquet`; this page is made of it and of nothing else.")
    return "\n\n".join(parts) + "\n"


def shown(findings: Findings) -> list[str]:
    """The metrics of this experiment's tables, on tasks with a teacher."""
    known = {metric for _, _, metric in findings.scores}
    return [metric for metric in SHOWN if metric in known and not (metric == "kl_humans" and "kl_truth" in known)]


def how_found(findings: Findings) -> str:
    about = findings.about
    n_data, n_seeds = len(about["data_seeds"]), about["seeds"]
    draws = (
        f"{n_data} draw{'s' if n_data > 1 else ''} of the data (data.seed {', '.join(map(str, about['data_seeds']))})"
    )
    minutes = max(1, round(about["job_seconds"] / 60))
    error = (
        "± is one standard error over draws and seeds: students of one draw share members and teachers, so it is that "
        f"of {n_data} means, or of the students within a draw where that is larger"
        if n_data > 1
        else "± is one standard error over seeds: it says nothing about another draw"
    )
    versions = about["versions"]
    return (
        f"`{about['command']}`; preset `{about['preset']}`, split *{about['split']}*. n = {draws}, {n_seeds} student "
        f"seeds on each. {about['trainings']} trainings that took {minutes} min one by one, half of that two at a "
        f"time; {about['machine']}, torch {versions['torch']}, code version {versions['code']}.\n\n"
        f"Numbers are x 100. {error}. Differences are paired by draw and seed, {compared_with(findings)}; under two "
        "standard errors it is no difference."
    )


def compared_with(findings: Findings) -> str:
    """ "students to *K = 1*, ensembles to *ensemble of 1*"."""
    words = {"ensemble": "ensembles", "single": "single models", "teachers": "teachers"}
    found = {(words.get(cell["group"], "students"), cell["against"]) for cell in findings.about["cells"]}
    return ", ".join(
        f"{who} to *{against}*" for who, against in sorted(found - {(who, None) for who, _ in found}, reverse=True)
    )


def means_table(findings: Findings, tasks: Sequence[str], metrics: Sequence[str]) -> str:
    """Cells x metrics, on the mean of `tasks`."""
    found = {metric: of for metric in metrics if (of := lines(findings, tasks, metric))}
    header = [""]
    for metric, of_metric in found.items():
        header += [WORDS[metric]] + ["difference"] * any(line.difference for line in of_metric)
    rows = []
    for cell in [cell["label"] for cell in findings.about["cells"]]:
        row = [cell]
        for of_metric in found.values():
            line = next((line for line in of_metric if line.cell == cell), None)
            row.append("" if line is None else mean_words(line.value))
            if any(other.difference for other in of_metric):
                row.append("" if line is None else difference_words(line))
        rows.append(row)
    return markdown(header, rows)


def task_table(findings: Findings, metric: str) -> str:
    """Cells x tasks, one metric: value, and difference under it."""
    found = task_lines(findings, metric)
    if not found:
        return ""
    rows = []
    for cell in [cell["label"] for cell in findings.about["cells"]]:
        row = [cell]
        for of_task in found.values():
            line = next((line for line in of_task if line.cell == cell), None)
            told = "" if line is None else mean_words(line.value)
            row.append(told if line is None or line.difference is None else f"{told}<br>{difference_words(line)}")
        rows.append(row)
    has_teacher = findings.about["tasks"]
    return markdown([WORDS[metric], *(f"{task}{' *' if has_teacher[task] else ''}" for task in found)], rows)


def quoted(findings: Findings, table: str) -> str:
    """A table by name, for a text that quotes it: `taught`, `untaught`, or the metric of a table of tasks."""
    if table == "taught":
        return means_table(findings, findings.tasks(taught=True), shown(findings))
    if table == "untaught":
        return means_table(findings, findings.tasks(taught=False), ("score",))
    return task_table(findings, table)


def mean_words(value: Nested) -> str:
    """ "53.5 ± 0.2"; a value of one training has no error."""
    return _told(value, "")


def _told(value: Nested, sign: str) -> str:
    """With two decimals where one would make the error a zero: "+0.0 ± 0.0, better" tells nobody anything."""
    decimals = 2 if value.df and 100 * value.se < 0.05 else 1
    mean = round(100 * value.mean, decimals) + 0.0  # minus zero is zero
    told = f"{mean:{sign}.{decimals}f}"
    return told if value.df == 0 else f"{told}{NBSP}±{NBSP}{100 * value.se:.{decimals}f}"


def difference_words(line: Line) -> str:
    """ "**+2.8 ± 0.5, better**", not bold where the correction takes it back."""
    told = _difference(line)
    return f"**{told}**" if line.survives and line.verdict not in ("no difference", "one seed") else told


def difference_in_words(line: Line) -> str:
    """The same without bold: "+2.8 ± 0.5, better (not after correction)"."""
    taken_back = line.verdict in ("better", "worse") and not line.survives
    return _difference(line) + " (not after correction)" * taken_back


def _difference(line: Line) -> str:
    return "" if line.difference is None else f"{_told(line.difference, '+')}, {line.verdict}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    filled = [row for row in rows if any(row[1:])]  # a teacher has nothing to say of a task without teachers
    body = [header, [":--" if i == 0 else "--:" for i in range(len(header))], *filled]
    return "\n".join(f"| {' | '.join(row)} |" for row in body)
