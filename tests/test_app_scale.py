"""What must not grow with the rows, and what is not computed twice: traffic, points, passes over the table, memory.

No time is asserted here; benchmarks/pages measures a million rows.
"""

from __future__ import annotations

import ast
import os
import platform
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("streamlit")
pytest.importorskip("plotly")

from looking import charts, numbers, opened, select, sound, words
from test_views_toy import Toy, table_of, write_toy

from core.views import table as table_module
from core.views.derived import column
from core.views.filters import Filter, apply
from core.views.kept import Kept, OfTable
from core.views.paging import SAMPLE_ROWS
from core.views.reading import text_hits
from core.views.table import fingerprint, load_table

ROOT = Path(__file__).resolve().parents[1]
N = 30_000
PLACE = {"run": "toy", "task": "tri", "split": "test"}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """More rows than are ever drawn. Read it, never write to it."""
    return write_toy(tmp_path_factory.mktemp("runs") / "toy", tasks=["tri"], n={"test": N, "train": 5}, seeds=1)


# ---- what is sent --------------------------------------------------------------------------------------------------
def test_few_points_and_rows_are_sent_and_a_rectangle_is_of_all(large: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(large.run.path.parent, monkeypatch, "explore", **PLACE, mouse="select")
    (chart,) = charts(app)
    points = next(trace for trace in chart["data"] if trace["type"] == "scattergl")
    assert 0 < len(numbers(points["x"])) <= SAMPLE_ROWS < N
    assert len(app.dataframe[0].value) == 25
    assert sum(len(element.proto.SerializeToString()) for element in app.get("plotly_chart")) < 1_500_000
    select(app, "density-", box=[{"xref": "x", "yref": "y", "x": [0.2, 1.2], "y": [0.0, 20.0]}])
    expected = apply(Filter().with_range("entropy", 0.2, 1.2).with_range("kl", 0.0, 20.0), table_of(large))
    assert len(expected) > SAMPLE_ROWS
    assert f"**{len(expected):,}** of {N:,} examples" in words(app)


def test_a_page_turn_reads_and_scans_nothing_again(large: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(large.run.path.parent, monkeypatch, "explore", **PLACE, text="soup", gold="yes")
    passes: list[str] = []

    def counted(name: str) -> None:
        real = getattr(table_module, name)
        monkeypatch.setattr(table_module, name, lambda *a, **k: (passes.append(name), real(*a, **k))[1])

    for name in ("text_hits", "read_outputs", "log_probs_CN"):
        counted(name)
    app.get("pagination")[0].select(2).run()
    assert sound(app).query_params["page"] == "2"
    assert passes == []
    app.text_input(key="filter-text").set_value("bread").run()
    assert passes == ["text_hits", "text_hits"]  # another text is one scan of each column of texts


# ---- what is kept --------------------------------------------------------------------------------------------------
def test_what_is_kept_has_a_size() -> None:
    kept = Kept(limit=11_000)  # three arrays of 3000 bytes, and something for each
    a, b = OfTable(kept), OfTable(kept)
    for name in ("one", "two", "three"):
        a.once(name, lambda: np.zeros(3000, np.int8))
    a.once("one", lambda: pytest.fail("it is there"))
    b.once("one", lambda: np.ones(3000, np.int8))  # of another table; the oldest, "two", goes
    assert kept.n_bytes <= kept.limit
    a.once("one", lambda: pytest.fail("it is there still"))
    made: list[str] = []
    a.once("two", lambda: (made.append("two"), np.zeros(10))[1])
    assert made == ["two"]
    large = b.once("large", lambda: np.zeros(20_000, np.int8))
    assert len(large) == 20_000  # is given, and not kept
    assert kept.n_bytes <= kept.limit
    with pytest.raises(ValueError, match="read-only"):
        b.once("new", lambda: {"a": (np.zeros(3),)})["a"][0][0] = 1


def test_threads_make_a_thing_once() -> None:
    kept, made, start = OfTable(), [], threading.Barrier(8)

    def make() -> np.ndarray:
        made.append(threading.get_ident())
        return np.arange(1000)

    def ask() -> None:
        start.wait()
        kept.once("x", make)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_small_memory_gives_the_same_answers(large: Toy) -> None:
    roomy, tight = table_of(large), load_table(large.run, "tri", "test", Kept(limit=1_000_000))
    filter_ = Filter(gold="yes", text="soup").with_range("kl", 0.2)
    np.testing.assert_array_equal(apply(filter_, tight), apply(filter_, roomy))
    for name in ("kl", "mutual_information", "cohort"):
        np.testing.assert_array_equal(column(tight, name), column(roomy, name))


# ---- what is stale -------------------------------------------------------------------------------------------------
def other_answers(toy: Toy) -> Path:
    """Replaces a student's file by one of the same size and time, as a clock of coarse ticks would."""
    path = toy.run.predictions_path("st-kd-s0", "tri")
    before, spare = path.stat(), path.with_name("spare")
    shutil.copy(toy.run.predictions_path("st-hard-s0", "tri"), spare)
    with open(spare, "ab") as file:
        file.truncate(before.st_size)
    os.utime(spare, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(spare, path)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    return path


def test_the_fingerprint_sees_a_file_of_the_same_size_and_time(tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "toy", tasks=["tri"])
    before = fingerprint(toy.run, "tri")
    other_answers(toy)
    assert fingerprint(toy.run, "tri") != before


def test_a_run_that_is_written_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks a student was trained again: no number of the old one stays, and no selected row."""
    toy = write_toy(tmp_path / "runs" / "toy", tasks=["tri"], seeds=1)
    app = opened(tmp_path / "runs", monkeypatch, "explore", **PLACE)
    old = list(app.dataframe[0].value["example"])
    kept = {str(key) for key in app.session_state.keys() if str(key).startswith("examples-")}  # noqa: SIM118
    shutil.copy(toy.run.predictions_path("st-hard-s0", "tri"), toy.run.predictions_path("st-kd-s0", "tri"))
    app.run()
    new = list(sound(app).dataframe[0].value["example"])
    kl_N = column(table_of(toy), "kl")
    order = np.argsort(-kl_N, kind="stable")[:25]
    assert new == [table_of(toy).ids[int(row)].as_py().removeprefix("tri/") for row in order]
    assert new != old
    now = {str(key) for key in app.session_state.keys() if str(key).startswith("examples-")}  # noqa: SIM118
    assert now - kept  # a click that was on its way selects nothing


# ---- ends ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("page", "first"),
    [("0", 0), ("-1", 0), ("1.5", 0), ("²", 0), ("", 0), ("9" * 5000, 0), ("٣", 50), ("5", 100), ("99999999", 100)],
)
def test_pages_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, first: int) -> None:
    toy = write_toy(tmp_path / "runs" / "toy", tasks=["tri"], seeds=1)
    app = opened(tmp_path / "runs", monkeypatch, "explore", **PLACE, order="file", page=page)
    ids = [one.removeprefix("tri/") for one in table_of(toy).ids.to_pylist()]
    assert list(app.dataframe[0].value["example"]) == ids[first : first + 25]


@pytest.mark.parametrize(
    ("text", "found"),
    [("ÄRGER", [0]), ("été", [1]), ("σίγμα", [2]), (r"\E.*", [3]), ("", [0, 1, 2, 3]), ("straße", []), ("a.c", [])],
)
def test_search_knows_case_and_no_patterns(text: str, found: list[int]) -> None:
    column: Any = pa.chunked_array([["großer Ärger", "un ÉTÉ", "ΣΊΓΜΑ", r"x \E.* abc", None]], pa.string())
    assert np.flatnonzero(text_hits(column, text)).tolist() == found


POOLS = """
import sys, threading
import psutil
from core.views.kept import use_few_pools
told = use_few_pools() if sys.argv[1] == "few" else True
held = lambda: psutil.Process().memory_info().rss / 1e6
before, turn, start, end, pins = held(), threading.Lock(), threading.Barrier(12), threading.Barrier(13), []
def work():
    start.wait()
    with turn:
        texts = [b"x" * (100_000 + i) for i in range(200)]
        pins.append(b"x" * 100_001)
        del texts
    end.wait()
for _ in range(12):
    threading.Thread(target=work, daemon=True).start()
end.wait()
print(told, held() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_threads_use_what_others_have_freed() -> None:
    """Twelve threads, one after another, take 20 MB and free them: one pool each keeps them all, few are used again."""

    def left(how: str) -> float:
        done = subprocess.run([sys.executable, "-c", POOLS, how], capture_output=True, text=True, check=True, cwd=ROOT)
        told, megabytes = done.stdout.split()
        assert told == "True"
        return float(megabytes)

    assert left("many") > 150
    assert left("few") < 80


def test_sessions_share_the_rows_of_a_filter(large: Toy) -> None:
    table = load_table(large.run, "tri", "test")
    rows = apply(Filter(split="test", gold="yes"), table)
    assert apply(Filter(split="test", gold="yes"), table) is rows
    assert not rows.flags.writeable


@pytest.mark.parametrize("page", sorted((ROOT / "app" / "app_pages").glob("*.py")), ids=lambda path: path.stem)
def test_callbacks_are_no_functions_of_a_page_s_script(page: Path) -> None:
    """Streamlit keeps the callbacks of a session's widgets, also of those that are gone; a function of a script keeps
    all that the script had computed in that run, 8 MB for each list of a million rows."""
    tree = ast.parse(page.read_text(encoding="utf-8"))
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        for word in call.keywords:
            if word.arg in ("on_click", "on_change", "on_select"):
                assert not isinstance(word.value, ast.Lambda), f"line {word.value.lineno}: a lambda as {word.arg}"
                assert not (isinstance(word.value, ast.Name) and word.value.id in own), f"line {word.value.lineno}"
