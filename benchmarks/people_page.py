"""`docs/results/humans.csv` and the page that is made of it and of nothing else (benchmarks/people measures)."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.files import atomic

CSV = "humans.csv"
KEYS = ("part", "task", "people", "voice", "minus", "measure")
NUMBERS = ("value", "se", "low", "high")
COUNTS = ("n_models", "n_examples", "n_premises")
MEASURES = {"js": "Jensen-Shannon distance", "kl": "KL, nats", "accuracy": "accuracy"}
NBSP = "\N{NO-BREAK SPACE}"
INTRO = """# Who is near to people?

`python -m benchmarks.snli_halves DATA FOLDER` trains the students of the two BERTs, `python -m benchmarks.people`
measures them, and those of a run on GLUE and SNLI; commands, machine and times, what was expected, and how it went,
stand in `LOG.md`. Everything on this page is x 100, made of `humans.csv` and of nothing else.

Jensen-Shannon distance: root of the divergence in base 2, 0 where two distributions are equal, 100 where they share
nothing. KL(people, voice) in nats. Lower is nearer for both. ± is one standard error over the n models of a voice
(students differ by seed), brackets are a 95 % bootstrap over premises. Differences between students are paired by seed.
"Nearer" and "farther" need two standard errors and an interval without 0."""


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*KEYS, *NUMBERS, *COUNTS])
        for row in rows:
            numbers = ["" if row[name] != row[name] else f"{row[name]:.6g}" for name in NUMBERS]
            writer.writerow([*(row[name] for name in KEYS), *numbers, *(row[name] for name in COUNTS)])


def read_rows(path: Path) -> list[dict[str, Any]]:
    """A standard error over one model is nan."""
    with open(path, encoding="utf-8", newline="") as file:
        return [
            {name: row[name] for name in KEYS}
            | {name: float(row[name] or "nan") for name in NUMBERS}
            | {name: int(row[name]) for name in COUNTS}
            for row in csv.DictReader(file)
        ]


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    parts = [INTRO]
    for part in dict.fromkeys(row["part"] for row in rows):
        parts.append(f"## {PARTS[part]}")
        of_part = [row for row in rows if row["part"] == part]
        for task, people in dict.fromkeys((row["task"], row["people"]) for row in of_part):
            found = [row for row in of_part if (row["task"], row["people"]) == (task, people)]
            n, premises = found[0]["n_examples"], found[0]["n_premises"]
            parts += [f"### {task}: {people}, {n} examples of {premises} premises", values(found), differences(found)]
    return "\n\n".join(parts) + "\n"


PARTS = {
    "two BERTs": "Students of two real BERTs, on the half of SNLI's development split that taught nobody",
    "GLUE and SNLI": "Students of the whole method on GLUE and SNLI, on the development splits",
}


def values(rows: Sequence[Mapping[str, Any]]) -> str:
    own = [row for row in rows if not row["minus"]]
    found = {(row["voice"], row["measure"]): row for row in own}
    lines = []
    for voice in dict.fromkeys(row["voice"] for row in own):
        cells = [_told(found[voice, measure]) for measure in MEASURES]
        lines.append([f"{voice} (n = {found[voice, 'js']['n_models']})", *cells])
    return markdown(["voice", *MEASURES.values()], lines)


def differences(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    found = {(row["voice"], row["minus"], row["measure"]): row for row in rows if row["minus"]}
    for voice, minus in dict.fromkeys((voice, minus) for voice, minus, _ in found):
        cells = [_told(found[voice, minus, measure], sign=True) for measure in MEASURES]
        js, kl = (said(found[voice, minus, measure]) for measure in ("js", "kl"))
        lines.append([f"{voice}, minus {minus}", *cells, js if js == kl else f"{js} by JS, {kl} by KL"])
    return markdown(["difference", *MEASURES.values(), "says"], lines)


def said(row: Mapping[str, Any]) -> str:
    is_sure = not row["low"] <= 0 <= row["high"] and not abs(row["value"]) <= 2 * row["se"]
    return ("nearer" if row["value"] < 0 else "farther") if is_sure else "no difference"


def _told(row: Mapping[str, Any], *, sign: bool = False) -> str:
    plus = "+" if sign else ""
    value, low, high = (f"{100 * row[name]:{plus}.1f}" for name in ("value", "low", "high"))
    error = "" if row["se"] != row["se"] else f"{NBSP}±{NBSP}{100 * row['se']:.1f}"
    return f"{value}{error} [{low},{NBSP}{high}]"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    body = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in body)
