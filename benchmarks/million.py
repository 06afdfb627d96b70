"""How long the server takes for each page of a run with a million examples, and how much memory.

    python -m benchmarks.million FOLDER [--rows 1000000]

FOLDER is made if it is not there: one task of three classes, three multi-task models and three teachers, their
ensemble, two students. The times are of the queries behind a page, without the browser and Streamlit: "first" on a
table that was just loaded, "warm" the best of three on one that is in use. On a shared machine they are upper bounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from core.plots.densities import density_scatter
from core.store import Run
from core.views.catalogue import find_runs
from core.views.cohorts import ledger, stability
from core.views.derived import column
from core.views.ensembles import agreement, closest_member, leave_one_out, uncertainty
from core.views.filters import Filter, Range, apply
from core.views.gradients import decomposition, gradient_norms, what_if
from core.views.paging import page, sample
from core.views.reliability import curve, temperature_of
from core.views.table import TaskTable, load_table
from core.views.transfer import error_copying, runner_up_transfer, wrong_class_mass

TASK, SPLIT = "tri", "test"
NARROW = Filter(gold="yes", teacher="no", ranges=(Range("kl", 0.1), Range("entropy", None, 1.0)))


def density(table: TaskTable) -> None:
    rows = np.arange(len(table))
    x, y = column(table, "entropy"), column(table, "kl")
    density_scatter(x, y, sample(table, rows), x_name="entropy", y_name="KL").to_json()


def first_page(table: TaskTable) -> None:
    found = page(table, np.arange(len(table)), order_by="kl", descending=True, page_size=25)
    table.texts(found.rows)


def filtered_page(table: TaskTable) -> None:
    """A filter of two labels and two ranges, and its second page."""
    found = page(table, apply(NARROW, table), order_by="kl", descending=True, page=2, page_size=25)
    table.texts(found.rows)


def one_example(table: TaskTable) -> None:
    row = table.row_of(table.ids[len(table) // 2].as_py())
    table.texts([row])
    column(table, "kl")


# Page, what is asked there.
VIEWS: list[tuple[str, str, Callable[[TaskTable], Any]]] = [
    ("overview", "runs of the folder", lambda t: find_runs(t.run.path.parent)),
    ("overview", "flip ledger", ledger),
    ("explore", "density", density),
    ("explore", "first page by KL", first_page),
    ("explore", "filter, page turn", filtered_page),
    ("explore", "text search", lambda t: apply(Filter(text="BREAD"), t)),
    ("example", "one example by id", one_example),
    ("loss lab", "gradient norms", lambda t: gradient_norms(t, alpha=0.5, temperature=2.0)),
    ("loss lab", "what-if grid, a sample", lambda t: what_if(t, sample(t, np.arange(len(t))))),
    ("ensemble", "agreement", agreement),
    ("ensemble", "uncertainty", uncertainty),
    ("ensemble", "leave one out", leave_one_out),
    ("ensemble", "closest member", closest_member),
    ("dark knowledge", "runner-up", runner_up_transfer),
    ("dark knowledge", "wrong-class mass", wrong_class_mass),
    ("dark knowledge", "decomposition", decomposition),
    ("dark knowledge", "stability", stability),
    ("calibration", "reliability", lambda t: curve(t, "kd")),
    ("calibration", "temperature", lambda t: temperature_of(t, "kd")),
    ("calibration", "error copying", error_copying),
]


def make(folder: Path, rows: int) -> None:
    """The toy run of the tests, larger; they are no package, so the import looks for them."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from test_views_toy import write_toy

    write_toy(folder, tasks=[TASK], n={SPLIT: rows, "train": 5}, members=3, seeds=1)


def milliseconds(query: Callable[[], Any]) -> float:
    started = time.perf_counter()
    query()
    return 1000 * (time.perf_counter() - started)


def megabytes() -> float:
    """The most that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def measure(folder: Path) -> list[tuple[str, str, float, float, float]]:
    """(page, what, first ms, warm ms, peak MB so far) of each view. Views share what a table remembers, so "first" is
    on a fresh table, whose loading is the first line and not in the others."""
    run = Run(folder)
    lines = []
    first = milliseconds(lambda: load_table(run, TASK, SPLIT))
    again = milliseconds(lambda: load_table(run, TASK, SPLIT))
    lines.append(("all", "load the table", first, again, megabytes()))
    used = load_table(run, TASK, SPLIT)
    for name, what, query in VIEWS:
        fresh = load_table(run, TASK, SPLIT)
        first = milliseconds(lambda query=query, fresh=fresh: query(fresh))  # type: ignore[misc]
        del fresh
        query(used)
        warm = min(milliseconds(lambda query=query: query(used)) for _ in range(3))  # type: ignore[misc]
        lines.append((name, what, first, warm, megabytes()))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    given = parser.parse_args()
    if not given.folder.exists():  # in a process of its own: its memory is not the dashboard's
        maker = multiprocessing.get_context("spawn").Process(target=make, args=(given.folder, given.rows))
        started = time.perf_counter()
        maker.start()
        maker.join()
        if maker.exitcode != 0:
            raise SystemExit(f"making the run ended with {maker.exitcode}; delete {given.folder}")
        print(f"made {given.rows:,} rows in {time.perf_counter() - started:.0f} s", flush=True)
    n = len(load_table(Run(given.folder), TASK, SPLIT))
    print(f"{n:,} examples, 3 classes, 3 teachers, 1 ensemble, 2 students; memory before: {megabytes():.0f} MB")
    print(f"{'page':16s}{'view':26s}{'first ms':>10s}{'warm ms':>10s}{'peak MB':>9s}")
    for name, what, first, warm, peak in measure(given.folder):
        print(f"{name:16s}{what:26s}{first:10.1f}{warm:10.1f}{peak:9.0f}", flush=True)


if __name__ == "__main__":
    main()
