"""What is said of an experiment's scores: nested standard errors, Holm's correction, verdicts, pages and figures; and
every page and quoted table of the documents against the file of scores that it is made of.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.comparisons import Nested, holm, nested_mean
from core.experiment.grids import EXPERIMENTS
from core.findings import Line, found_in, lines, read_findings, task_lines, write_findings
from core.findings.drawing import figure
from core.findings.pages import NBSP, difference_words, page, quoted
from core.plots.style import alt_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"


# ---- standard errors -----------------------------------------------------------------------------------------------
def test_draws_that_differ_are_as_many_as_they_are() -> None:
    """Three draws whose students agree: n is 3, whatever the number of students."""
    means = np.array([1.0, 2.0, 6.0])
    for n_seeds in (1, 5, 50):
        found = nested_mean(np.repeat(means[:, None], n_seeds, axis=1))
        assert found.mean == pytest.approx(3.0)
        assert found.se == pytest.approx(means.std(ddof=1) / np.sqrt(3))
        assert (found.df, found.n_data, found.n_seeds) == (2, 3, n_seeds)


def test_draws_that_do_not_differ_leave_the_students() -> None:
    """Equal means by luck are not certainty: the error is then that of the students within a draw."""
    values_DS = np.array([[-1.0, 0.0, 1.0]] * 3)
    found = nested_mean(values_DS)
    assert found.se == pytest.approx(1.0 / np.sqrt(9))
    assert found.df == 6
    assert found.p == 1.0


@pytest.mark.parametrize("between", [0.0, 1.0])
def test_it_covers(between: float) -> None:
    """Simulated with and without an effect of the draw: an interval of the 97.5 % point of t holds the true mean about
    95 % of the time. Choosing the larger variance errs to the careful side; 2,000 trials have an error of 0.5 %."""
    from scipy.stats import t

    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        found = nested_mean(between * rng.normal(size=(3, 1)) + rng.normal(size=(3, 5)))
        inside += abs(found.mean) <= t.ppf(0.975, found.df) * found.se
    assert 0.92 < inside / 2000 < 0.995


def test_one_value_has_no_error() -> None:
    assert np.isnan(nested_mean([[2.0]]).se)
    assert nested_mean([[2.0]]).p == 1.0
    assert nested_mean([[2.0, 4.0]]).df == 1  # one draw: its students
    for wrong in ([], [1.0], [[np.nan, 1.0]]):
        with pytest.raises(ValueError, match="draws x seeds"):
            nested_mean(wrong)


def test_holm() -> None:
    """Holm's own steps: the smallest times m, the next times m - 1, never falling."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


# ---- what is said --------------------------------------------------------------------------------------------------
def made_up(
    tmp_path: Path, *, draws: int = 3, question: str = "Is it better?", about: dict[str, Any] | None = None
) -> Path:
    """Two tasks; `taught` beats `alone` by 4 +- a little in accuracy on nli alone, and `noise` differs from seed to
    seed."""
    rng = np.random.default_rng(1)
    rows: list[dict[str, Any]] = []
    gains = {"alone": 0.0, "taught": 0.04, "noise": 0.0, "ensemble": 0.1}
    for draw in range(draws):
        base = 0.5 + 0.1 * draw
        for cell, gain in gains.items():
            for seed in range(1 if cell == "ensemble" else 5):
                jitter = rng.normal(scale=0.1 if cell == "noise" else 0.002)
                for task, metric in (("nli", "accuracy"), ("nli", "score"), ("similarity", "score")):
                    value = base + jitter + gain * (task == "nli")
                    row = {"data_seed": draw, "seed": seed, "cell": cell, "model": f"{cell}-{seed}", "task": task}
                    rows.append({"experiment": "toy", **row, "metric": metric, "value": value})
    about = about or {
        "title": "A toy",
        "question": question,
        "against": "alone",
        "cells": [{"label": cell, "group": "kd", "sets": [], "is_student": True, "against": "alone"} for cell in gains],
        "tasks": {"nli": True, "similarity": False},
        "split": "test",
        "preset": "demo",
        "data_seeds": list(range(draws)),
        "seeds": 5,
        "command": "python -m core experiment toy",
        "trainings": 40,
        "job_seconds": 600,
        "machine": "2 cores",
        "versions": {"core": "0", "torch": "0", "code": 4},
    }
    write_findings(tmp_path / "toy.parquet", rows, about)
    return tmp_path / "toy.parquet"


def test_lines(tmp_path: Path) -> None:
    found = {line.cell: line for line in lines(read_findings(made_up(tmp_path)), ["nli"], "accuracy")}
    assert list(found) == ["alone", "taught", "noise", "ensemble"]
    taught = found["taught"]
    assert taught.verdict == "better"
    assert taught.survives
    assert taught.difference is not None
    assert taught.difference.mean == pytest.approx(0.04, abs=0.003)
    # The draws are far apart and the differences are not: paired, the draw cancels.
    assert taught.value.se > 10 * taught.difference.se
    assert found["noise"].verdict == "no difference"
    assert not found["noise"].survives
    assert found["alone"].difference is None
    assert found["ensemble"].difference is None, "one value a draw has no partner among five"
    assert found["ensemble"].value.n_seeds == 1


def test_a_table_of_tasks_is_corrected_as_one(tmp_path: Path) -> None:
    """Twice as many comparisons: every adjusted p is at least that of the task alone."""
    findings = read_findings(made_up(tmp_path))
    together = task_lines(findings, "score")
    assert list(together) == ["nli", "similarity"]
    alone = {task: lines(findings, [task], "score") for task in together}
    survivors = [
        [(task, line.cell) for task, found in both.items() for line in found if line.survives]
        for both in (together, alone)
    ]
    assert ("nli", "taught") in survivors[0]
    assert set(survivors[0]) <= set(survivors[1])
    assert [line._replace(survives=False) for line in together["nli"]] == [
        line._replace(survives=False) for line in alone["nli"]
    ]


def test_the_page_says_it(tmp_path: Path) -> None:
    text = page(read_findings(made_up(tmp_path)))
    assert "n = 3 draws of the data (data.seed 0, 1, 2), 5 student seeds on each" in text
    assert re.search(r"\| taught \| 6\d\.\d\s±\s\d+\.\d \| \*\*\+[34]\.\d\s±\s0\.\d, better\*\* \|", text)
    assert re.search(r"\| noise \| \S+\s±\s\S+ \| [+-]\d+\.\d\s±\s\d+\.\d, no difference \|", text)
    assert "## Tasks without a teacher: similarity" in text
    one = page(read_findings(made_up(tmp_path, draws=1)))
    assert "n = 1 draw of the data" in one
    assert "says nothing about another draw" in one


@pytest.mark.parametrize(
    ("mean", "se", "told"),
    [
        (0.0213, 0.0030, "+2.1 ± 0.3"),
        (0.00049, 0.00004, "+0.05 ± 0.00"),
        (-0.00012, 0.00051, "+0.0 ± 0.1"),
        (-0.00151, 0.00049, "-0.15 ± 0.05"),
    ],
)
def test_a_small_error_is_told_with_two_decimals(mean: float, se: float, told: str) -> None:
    """ "+0.0 ± 0.0, better" would say nothing."""
    line = Line("taught", Nested(0.5, 0.01, 2, 3, 5), Nested(mean, se, 2, 3, 5), "better", survives=True)
    assert difference_words(line).replace(NBSP, " ") == f"**{told}, better**"


def test_the_figure_shows_it(tmp_path: Path) -> None:
    findings = read_findings(made_up(tmp_path))
    fig = figure(findings)
    trace, others = fig.data
    assert trace.name == "accuracy (better: right)"
    assert others.name == "score without a teacher (better: right)"
    of_similarity = lines(findings, ["similarity"], "score")
    assert list(others.x) == [100 * line.difference.mean for line in of_similarity if line.difference is not None]
    assert list(trace.x) == pytest.approx([4.0, 0.0], abs=10)
    assert trace.marker.symbol[0].endswith("open") is False
    assert trace.marker.symbol[1].endswith("open")
    assert "taught" in alt_text(fig)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.parquet").write_text("no", encoding="utf-8")
    with pytest.raises(ValueError, match=r"other\.parquet is no result of an experiment"):
        read_findings(tmp_path / "other.parquet")


# ---- the documents -------------------------------------------------------------------------------------------------
def published() -> list[Path]:
    return found_in(RESULTS)


def test_every_page_is_its_scores() -> None:
    """Word by word; `python -m benchmarks.result_pages docs/results docs/results` makes them again."""
    for path in published():
        text = path.with_suffix(".md").read_text(encoding="utf-8")
        assert text == page(read_findings(path)), f"{path.stem}.md is not what its scores say"
        assert path.with_suffix(".svg").exists()
        assert path.stat().st_size < 200_000, "raw scores in the repository stay small"


def test_the_list_of_pages_is_whole() -> None:
    """Every experiment is in it, and has a link where it has a page, and none where it has not."""
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.M)) == set(EXPERIMENTS)
    assert set(re.findall(r"\]\(([\w-]+)\.md\)", text)) == {
        path.stem for path in (*published(), *RESULTS.glob("*.csv"))
    }


def test_nothing_stands_there_without_its_scores() -> None:
    # Pages of real data are made of a .csv; test_people and test_starts compare them with it.
    known = {path.stem for path in (*published(), *RESULTS.glob("*.csv"))}
    for text in RESULTS.glob("*.md"):
        assert text.stem in known | {"README"}, f"{text.name} has no file of scores"


QUOTE = re.compile(r"^<!-- docs/results/(\w+)\.parquet: (\w+) -->\n\n?((?:\|.*\n)+)", re.M)


def test_quoted_tables_are_their_scores() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = QUOTE.findall(text)
    assert len(found) == text.count("<!-- docs/results/"), "every mark has its table"
    for name, table, quotation in found:
        assert quotation.strip() == quoted(read_findings(RESULTS / f"{name}.parquet"), table), f"{name}: {table}"


FIGURE = re.compile(r"\d+\.\d+(?: ± \d+\.\d+)?(?![\d.])")


def test_figures_in_the_readme_s_words_are_on_the_page_that_they_link() -> None:
    """Of every paragraph and bullet of its results that links a page: each mean with its error stands there, and each
    other number with a decimal."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    results = text.partition("\n## Results\n")[2].partition("\n## ")[0]
    checked = 0
    for block in re.split(r"\n\n|\n(?=- )", results):
        names = set(re.findall(r"\]\(docs/results/([\w-]+)\.md\)", block)) - {"README"}
        if block.startswith("|") or not names:
            continue
        pages = "".join((RESULTS / f"{name}.md").read_text(encoding="utf-8").replace(NBSP, " ") for name in names)
        there = FIGURE.findall(pages)
        known = {*there, *(part for one in there for part in one.split(" ± "))}
        for said in FIGURE.findall(" ".join(block.split())):
            assert said in known, f"{said} is not on the page of {', '.join(sorted(names))}: {block}"
            checked += 1
    assert checked > 20
