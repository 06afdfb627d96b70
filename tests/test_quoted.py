"""The README's words on benchmarks against the files of raw measurements that they are made of (benchmarks/kept)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import box, memory, pages, quality, soak, stages
from benchmarks.kept import RESULTS, keep, kept
from benchmarks.torture import __main__ as torture
from benchmarks.training import summary

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
QUOTED: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
    ("box", box.sentence),
    ("demo", stages.sentence),
    ("memory", memory.sentence),
    ("pages", pages.sentence),
    ("pages", pages.table),
    ("quality", quality.sentence),
    ("soak", soak.sentence),
    ("torture", torture.sentence),
    ("torture", torture.table),
]


@pytest.mark.parametrize(("name", "told"), QUOTED, ids=[f"{name}-{told.__name__}" for name, told in QUOTED])
def test_the_readme_says_what_was_measured(name: str, told: Callable[[dict[str, Any]], str]) -> None:
    words = told(kept(name))
    if told.__name__ == "table":
        assert f"\n\n{words}\n\n" in README
    else:
        assert words in " ".join(README.split())


def test_every_file_is_quoted_and_says_how_it_was_made() -> None:
    assert {path.stem for path in RESULTS.glob("*.json") if not path.stem.startswith("training-")} == {
        name for name, _ in QUOTED
    }
    for name, _ in QUOTED:
        found = kept(name)
        assert found["command"].startswith("python -m ")
        assert found["machine"]["cores"] >= 1
        assert "/tmp" not in (RESULTS / f"{name}.json").read_text(encoding="utf-8"), "no folder of a machine"


def test_speeds_in_words_are_those_measured() -> None:
    """The README's table of speeds is compared in test_benchmark; here the words below it."""
    words = " ".join(README.split())
    *first, last = [f"{of_pass['gemm_share']:.2f}" for of_pass in kept("training-cpu")["passes"].values()]
    assert f"pass of three teachers reaches {', '.join(first)} and {last} of the GEMM peak" in words
    older = [kept(path.stem) for path in RESULTS.glob("training-cpu-*.json")]
    ratios = [summary(shape)["darkroom"]["ratio"] for found in older for shape in found["shapes"].values()]
    assert f"runs in float32, {min(ratios):.1f} to {max(ratios):.1f} x Trainer's default" in words


def test_a_file_says_command_and_machine(tmp_path: Path) -> None:
    keep("box", "python -m benchmarks.box FOLDER", {"rectangles": [{"seconds": 2.04}, {"seconds": 1.0}]}, tmp_path)
    found = kept("box", tmp_path)
    assert found["command"] == "python -m benchmarks.box FOLDER"
    assert set(found["machine"]) == {"cores", "processor", "python", "torch"}
    assert box.sentence(found) == "after 1.0 to 2.0 s, browser included, n = 2"


def test_a_table_of_pages_has_the_slowest_view() -> None:
    line = {
        "page": "loss_lab",
        "what": "one",
        "first": 1.0,
        "warm": [0.1, 0.3, 0.2],
        "kilobytes": 10.0,
        "megabytes": 1.0,
    }
    slow = line | {"what": "all", "first": 0.5, "warm": [0.4, 0.5, 0.6], "kilobytes": 99.6}
    step = line | {"what": "> next"}
    rows = pages.table({"lines": [line, slow, step]}).splitlines()[2:]
    assert rows == ["| loss lab | 2 | 1.0 | 0.50 | 100 |", "| loss lab: next |  | 1.0 | 0.20 | 10 |"]


def test_memory_that_grows_is_not_called_flat() -> None:
    found = {"sessions": 2, "minutes": 1, "reruns": {"a": [1.0, 3.0]}, "errors": ["x"], "megabytes": [1e3, 2e3, 2.3e3]}
    assert not soak.is_flat(found)
    assert "1 errors, memory NOT flat (at most 2.0 and 2.3 GB" in soak.sentence(found)
    assert soak.is_flat(found | {"megabytes": [1e3, 2e3, 2.1e3]})


def test_the_time_is_of_a_run_made_in_one_go(tmp_path: Path) -> None:
    log = '{"time": 1.0, "event": "started"}\n{"time": 9.5, "event": "done"}\n'
    (tmp_path / "log.jsonl").write_text(log + '{"time": 20.0, "event": "started"}\n')
    assert stages.wall_seconds(tmp_path) == 8.5  # the second found everything up to date
    (tmp_path / "log.jsonl").write_text(log + log)
    with pytest.raises(ValueError, match="made in 2 goes"):
        stages.wall_seconds(tmp_path)
