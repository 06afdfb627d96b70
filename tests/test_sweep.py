"""A sweep trains students alone, skips what is finished, and leaves its base run as it was."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from core.store import Run
from core.sweep import read_grid, run_sweep
from tests.conftest import changed, ran, results


def test_a_grid_trains_students_alone_and_goes_on(copied: Run, tmp_path: Path) -> None:
    before = results(copied)
    out, shown = tmp_path / "sweep", io.StringIO()
    grid = read_grid(None, ["alpha=0.25,0.75"])
    swept = run_sweep(copied, grid, out, n_jobs=2, console=Console(file=shown, width=200))
    assert swept.failed == {}
    assert swept.table is not None
    table = pq.read_table(swept.table).to_pandas()
    assert set(table["alpha"]) == {0.25, 0.75}
    cells = sorted(folder for folder in out.iterdir() if (folder / "run.json").exists())
    assert len(cells) == 2
    for cell in cells:
        trained = ran(Run(cell))
        assert trained, "a cell trains its own students"
        assert all(name.startswith(("st-kd", "evaluate")) for name in trained), trained
    # Files are linked, and a run replaces files and never writes into one.
    assert changed(before, results(copied)) == set()
    again, n_ran = io.StringIO(), [len(ran(Run(cell))) for cell in cells]
    run_sweep(copied, grid, out, n_jobs=2, console=Console(file=again, width=200))
    assert "2 of them finished" in again.getvalue()
    assert [len(ran(Run(cell))) for cell in cells] == n_ran


@pytest.mark.parametrize(
    ("items", "fragment"),
    [
        (["alpah=0.3"], "did you mean 'alpha'?"),
        (["alpha=high"], "expected float"),
        (["alpha=0.3,0.3"], "each once"),
        ([], "the grid is empty"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(items: list[str], fragment: str) -> None:
    with pytest.raises(ValueError, match=fragment.replace("?", r"\?")):
        read_grid(None, items)
