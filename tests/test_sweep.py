"""A sweep trains students alone, survives being killed, skips what is finished, tries again what failed, leaves its
base run as it was, and makes cells that the dashboard finds. What makes no sense is refused before anything is written.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import changed, results, tiny
from rich.console import Console
from typer.testing import CliRunner

from core.cli import app
from core.store import Run, write_json
from core.sweep import cell_name, read_grid, run_sweep
from core.sweep.sharing import share
from core.views.catalogue import find_runs, open_run
from tests.conftest import ran

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
PATIENCE_SECONDS = 300  # for what takes some: a loaded machine is no failure


def wait_for(what: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < end, "it did not come"
        assert process is None or process.poll() is None, "the sweep ended by itself"
        time.sleep(0.1)


def children_of(pid: int) -> list[int]:
    """The processes below `pid`, as Linux tells them."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split():
        found += [int(child), *children_of(int(child))]
    return found


def runs_still(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def sweep(base: Run, out: Path, *items: str, n_jobs: int = 2) -> tuple[str, dict[str, str]]:
    """What it said, and the cells that failed."""
    shown = io.StringIO()
    done = run_sweep(base, read_grid(None, items), out, n_jobs=n_jobs, console=Console(file=shown, width=300))
    return shown.getvalue(), done.failed


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says which processes are left")
def test_killed_in_the_middle_it_goes_on(copied: Run, tmp_path: Path) -> None:
    """Three cells, one after the other: one is finished, one cannot be written, one works when the parent alone is
    killed. The same command then skips the first, and tries the other two."""
    before, out, grid = results(copied), tmp_path / "sweep", "alpha=0.25,0.5,0.75"
    first, blocked, last = (out / f"alpha={alpha}" for alpha in ("0.25", "0.5", "0.75"))
    blocked.mkdir(parents=True)
    (blocked / "notebooks").write_text("in the way", encoding="utf-8")
    command = (sys.executable, "-m", "core", "sweep", "--run", str(copied.path), "--out", str(out), "-p", grid)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True) as process:
        wait_for(lambda: (last / "run.json").exists(), process)
        below = children_of(process.pid)
        assert len(below) >= 2, "a cell and more"
        process.kill()
        assert process.stdout is not None
        said = process.stdout.read().decode()
    assert "3 cells, 0 of them finished" in said
    assert "alpha=0.25 done" in said
    assert "alpha=0.5 FAILED" in said
    wait_for(lambda: not any(map(runs_still, below)))
    assert not (last / "metrics.parquet").exists(), "it was in the middle"
    assert not (out / "sweep.parquet").exists()
    kept = results(Run(first), "run.json", "log.jsonl", "notebooks", "metrics.parquet")

    (blocked / "notebooks").unlink()
    said, failed = sweep(copied, out, grid)
    assert "3 cells, 1 of them finished" in said
    assert failed == {}
    assert changed(kept, results(Run(first), "run.json", "log.jsonl", "notebooks", "metrics.parquet")) == set()
    for cell, students in ((first, ["st-kd-s0", "st-kd-s1"]), (blocked, []), (last, ["st-kd-s0", "st-kd-s1"])):
        assert sorted(ran(Run(cell))) == ["evaluate", *students], "once each, and nothing that the base has"
        assert [path.name for path in (cell / "notebooks").iterdir() if path.name.startswith(".")] == []
    # Files are linked, and a run replaces files and never writes into one.
    assert changed(before, results(copied)) == set()

    said, _ = sweep(copied, out, grid)
    assert "3 cells, 3 of them finished" in said
    _is_tidy(out)
    _is_a_page(out)
    _is_found(copied, out)


def _is_tidy(out: Path) -> None:
    table = pq.read_table(out / "sweep.parquet").to_pandas()
    assert list(table.columns[:2]) == ["cell", "alpha"]
    assert {(row.cell, row.alpha) for row in table.itertuples()} == {(f"alpha={a}", a) for a in (0.25, 0.5, 0.75)}
    assert not table.duplicated(["cell", "model", "task", "split", "metric"]).any(), "a row is one number"
    kd = table[(table.model == "st-kd-s0") & (table.task == "nli") & (table.split == "dev") & (table.metric == "score")]
    assert len(kd) == 3
    # Teachers are the base's, in every cell.
    ft = table[table.model.str.startswith("ft-") & (table.split == "test") & (table.metric == "score")]
    assert set(ft.groupby(["model", "task"]).value.agg(["size", "nunique"]).itertuples(index=False)) == {(3, 1)}


def _is_a_page(out: Path) -> None:
    """Both metrics with their intervals over two seeds, and words."""
    page = (out / "sweep.html").read_text(encoding="utf-8")
    figure = json.loads(page.partition("newPlot(place, ")[2].partition("); }</script>")[0].replace("<\\/", "</"))
    named = [trace for trace in figure["data"] if trace["name"].startswith("T = ")]
    assert len(named) == 2, "score and KL to the truth"
    for trace in named:
        bars = trace["error_y"]
        assert len(trace["x"]) == 3 or "bdata" in trace["x"]
        assert "array" in bars
        assert "arrayminus" in bars
    titles = {axis["title"]["text"] for name, axis in figure["layout"].items() if name.startswith("yaxis")}
    assert titles == {"score x 100 on dev", "KL to the truth on dev (nats)"}
    assert re.search(r"By score, \d of 2 other cells are better and \d worse than the paper", page)
    assert (out / "plotly.min.js").exists()


def _is_found(base: Run, out: Path) -> None:
    """The dashboard's catalogue finds the cells, and a cell says which run its teachers are of."""
    found = {summary.name: summary for summary in find_runs(out)}
    assert set(found) == {"alpha=0.25", "alpha=0.5", "alpha=0.75"}
    assert {summary.status for summary in found.values()} == {"finished"}
    cell = open_run(out, "alpha=0.75")
    assert cell.manifest()["config"]["distill"]["alpha"] == 0.75
    assert (cell.path / cell.manifest()["base"]).resolve() == base.path.resolve()
    assert CliRunner().invoke(app, ["report", str(cell.path)]).exit_code == 0


def test_a_cell_with_more_seeds_is_the_same_cell(copied: Run, tmp_path: Path) -> None:
    """Its name says alpha alone, so that asking for more seeds goes on in it."""
    grid = read_grid(None, ["alpha=0.25", "seeds=3"])
    assert cell_name({"alpha": 0.25, "seeds": 3}, grid) == "alpha=0.25"
    cell = Run(tmp_path / "alpha=0.25")
    share([copied], cell, tiny("distill.alpha=0.25"))
    kept = cell.manifest()["jobs"]
    assert "mt-1" in kept
    assert "st-hard-s0" in kept, "gold alone does not depend on alpha"
    assert not [name for name in kept if name.startswith("st-kd")]


# ---- what is refused -----------------------------------------------------------------------------------------------
def write_grid(folder: Path, text: str) -> Path:
    (folder / "sweep.yaml").write_text(text, encoding="utf-8")
    return folder / "sweep.yaml"


def test_a_grid_of_a_file(tmp_path: Path) -> None:
    """`--grid sweep.yaml`, and -p that wins over it."""
    file = write_grid(tmp_path, "alpha: [0, 0.25, 1e-1]\ntemperature: [1, 2]\nloss: kl\nvariants: [hard, kd]\n")
    grid = read_grid(file, ["temperature=4"])
    assert grid == {"alpha": [0.0, 0.25, 0.1], "temperature": [4.0], "loss": ["kl"], "variants": [["hard", "kd"]]}


@pytest.mark.parametrize(
    ("items", "text", "fragment"),
    [
        (["alpah=0.3"], "", "did you mean 'alpha'?"),
        (["alpha=high"], "", "'alpha' is 'high' (str), expected float or None"),
        (["alpha=0.3,0.3"], "", "each once"),
        (["alpha="], "", "expected name=a,b,c, for example alpha=0,0.5,1"),
        (["alpha=[0.3"], "", "is not a YAML value"),
        ([], "", "the grid is empty; give --grid sweep.yaml, or -p alpha=0,0.5,1"),
        ([], "alpah: [0.3]", "did you mean 'alpha'?"),
        ([], "alpha: [0.3, yes]", "'alpha' is True (bool), expected float or None"),
        ([], "alpha: []", "expected one value or more, each once"),
        ([], "top_k: [2]", "unknown parameter 'top_k'"),
        ([], "- alpha", "expected parameters with lists, such as 'alpha: [0, 0.5, 1]'"),
        ([], "alpha: [0.3", "cannot be read as YAML"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(items: list[str], text: str, fragment: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(fragment)):
        read_grid(write_grid(tmp_path, text) if text else None, items)


def half_finished(run: Run) -> None:
    manifest = run.manifest()
    teacher = next(name for name in manifest["jobs"] if re.fullmatch(r"ft-\d-nli", name))
    del manifest["jobs"][teacher]
    write_json(run.manifest_path, manifest)


def of_older_schema(run: Run) -> None:
    write_json(run.manifest_path, run.manifest() | {"schema_version": 0})


def of_another_base(run: Run) -> None:
    """A cell of the same name, made from teachers that this run does not have."""
    cell, jobs = run.path.parent / "sweep" / "alpha=0.25", run.manifest()["jobs"]
    jobs["mt-1"]["key"] = "another"
    write_json(cell / "run.json", run.manifest() | {"jobs": jobs})


@pytest.mark.parametrize(
    ("spoil", "out", "items", "fragment"),
    [
        (half_finished, "sweep", ["alpha=0.25"], "-nli; a sweep shares its teachers, so run it first: python -m core"),
        (of_older_schema, "sweep", ["alpha=0.25"], "has schema version 0, this code reads 1 to 2; use the Darkroom"),
        (of_another_base, "sweep", ["alpha=0.25"], "is a cell of another base run, or"),
        (None, "run", ["alpha=0.25"], "is a run; a sweep needs a folder of its own"),
        (None, "sweep", ["alpha=7"], "cell alpha=7.0: distill.alpha: Input should be less than or equal to 1"),
        (None, "sweep", ["temperature=2"], "with -p loss=kl every temperature can be asked for"),
        (None, "sweep", ["variants=hard"], "a sweep compares students 'kd', so name it too"),
    ],
    ids=["half finished", "older schema", "another base", "out is a run", "range", "temperature", "variants"],
)  # fmt: skip
def test_what_cannot_be_swept_is_refused_before_anything_is_written(
    copied: Run, spoil: Callable[[Run], None] | None, out: str, items: list[str], fragment: str
) -> None:
    if spoil is not None:
        spoil(copied)
    folder, kept = copied.path.parent, sorted(path for path in copied.path.parent.rglob("*"))
    before = results(copied, "run.json", "log.jsonl", "predictions", "examples", "targets")
    options = [part for item in items for part in ("-p", item)]
    done = CliRunner().invoke(app, ["sweep", "--run", str(copied.path), "--out", str(folder / out), *options])
    assert done.exit_code == 2, done.output
    assert fragment in done.stderr.replace("\n", "")
    assert changed(before, results(copied, "run.json", "log.jsonl", "predictions", "examples", "targets")) == set()
    assert sorted(path for path in folder.rglob("*")) == kept


def test_no_run_to_sweep(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["sweep", "--run", str(tmp_path / "no"), "--out", str(tmp_path / "out"), "-p", "alpha=0.25"]
    )
    assert done.exit_code == 2
    assert "no" in done.stderr
    assert not (tmp_path / "out").exists()
