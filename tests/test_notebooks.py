"""Notebooks through the runner: alone on a fresh run, again without training, and strictly refused."""

from __future__ import annotations

import io
from pathlib import Path

import nbformat
import pytest
from rich.console import Console

from core.notebooks import run_notebooks
from core.store import Run
from tests.conftest import ran


def go(run: Path, out: Path, *only: str, **values: object) -> None:
    run_notebooks(run, out, only=list(only), values=values, console=Console(file=io.StringIO(), width=120))


def test_every_notebook_reads_a_finished_run_and_trains_nothing(copied: Run, tmp_path: Path) -> None:
    n_ran = len(ran(copied))
    go(copied.path, tmp_path)
    executed = sorted(tmp_path.glob("*.ipynb"))
    assert len(executed) == 8
    assert len(ran(copied)) == n_ran
    for path in executed:
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in cells), path.name


def test_mistakes_are_refused_before_anything_runs(copied: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="alpah"):
        go(copied.path, tmp_path, "6_distill", alpah=0.3)
    with pytest.raises(ValueError, match="alpha"):
        go(copied.path, tmp_path, "6_distill", alpha="high")
    with pytest.raises(ValueError, match="is not a"):
        go(copied.path, tmp_path / "missing", "6_distill")
    assert not list(tmp_path.glob("*.ipynb"))
