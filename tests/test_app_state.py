"""What the dashboard does without a browser: folders, URLs, text that stays text, errors as sentences, exports."""

from __future__ import annotations

import csv
import io
import os
import re
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

pytest.importorskip("streamlit")
pytest.importorskip("plotly")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `app` is no installed package

from streamlit.testing.v1 import AppTest
from test_views_toy import SCORE, TRI, TWO, table_of, write_toy

from app import asking, export, filtering, links, progress, show, state
from core.store import Run
from core.views.derived import column
from core.views.filters import Filter, apply

ENTRY = Path(__file__).resolve().parents[1] / "app" / "streamlit_app.py"


# ---- folders -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("argv", "environ", "expected"),
    [
        ([], {}, state.ROOT / "runs"),
        ([], {"DARKROOM_RUNS": ""}, state.ROOT / "runs"),
        ([], {"DARKROOM_RUNS": "elsewhere"}, state.ROOT / "elsewhere"),
        ([], {"DARKROOM_RUNS": "/a/b"}, Path("/a/b")),
        (["app.py", "--runs", "/c"], {"DARKROOM_RUNS": "/a/b"}, Path("/c")),
        (["app.py", "--runs=/c"], {}, Path("/c")),
        (["app.py", "--runs"], {}, state.ROOT / "runs"),  # without a folder it says nothing
    ],
)
def test_runs_folder(argv: list[str], environ: dict[str, str], expected: Path) -> None:
    assert state.runs_folder(argv, environ) == expected


# ---- text ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        "**b** _i_",
        "<script>x</script>",
        ":red[r] :material/home:",
        "$x^2$",
        "[l](http://a.b)",
        "`c`",
        "# h",
        "~~s~~ |a|",
    ],
)
def test_literal_leaves_no_mark_alive(text: str) -> None:
    """Every ASCII mark has a backslash before it, and without the backslashes it is the text again."""
    shown = show.literal(text)
    assert re.sub(r"\\(.)", r"\1", shown) == text
    alive = re.sub(r"\\.", "", shown)
    assert not set(alive) & set(string.punctuation), alive


def test_literal_keeps_lines() -> None:
    assert show.literal("a\nb") == "a  \nb"
    assert show.literal("ä ß 漢 42") == "ä ß 漢 42"


def test_messages_are_taken_apart() -> None:
    said = show.taken_apart("runs/x has no scores yet; go on with `python -m core run --out runs/x`")
    assert said == ("runs/x has no scores yet", "python -m core run --out runs/x")
    assert show.taken_apart("label `x` is unknown") == ("label `x` is unknown", None)


def test_selected_points() -> None:
    assert show.clicked({"points": [], "box": []}) is None
    assert show.clicked({"points": [{"customdata": 7}], "box": []}) == 7
    assert show.clicked({"points": [{"customdata": [7]}], "box": []}) == 7
    assert show.clicked({"points": [{"x": 1}], "box": []}) is None
    assert show.clicked({"points": [{"customdata": 1}, {"customdata": 2}], "box": []}) is None


@pytest.mark.parametrize(
    ("past", "words"),
    [(None, "never"), (12, "12 s ago"), (300, "5 min ago"), (7200, "2 h ago"), (40 * 86_400, "40 days ago")],
)
def test_ago(past: float | None, words: str) -> None:
    assert progress.ago(None if past is None else 1e9 - past, 1e9) == words


# ---- URLs ----------------------------------------------------------------------------------------------------------
FILTERS = [
    Filter(split="test"),
    Filter(split="test", gold="yes", teacher="no", agree=False, text="a & b=c?#/ü", student_is="st-kd-s1"),
    Filter(split="test", cohort="mis-taught").with_range("kl", 0.5).with_range("entropy", None, 1.0),
]


@pytest.mark.parametrize("filter_", FILTERS)
def test_a_filter_survives_the_url(filter_: Filter) -> None:
    run = Run("runs/x")
    for query in (
        links.explore_query(run, TRI, filter_, page="3", order="kl"),
        links.example_query(run, TRI, "tri/test/17", filter_, pin="tri/test/4"),
    ):
        assert query["run"] == "x"
        assert query["task"] == "tri"
        assert links.filter_of(query, TRI, "test") == filter_
    assert query["ex"] == "tri/test/17"


def test_a_link_that_is_half_understood_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown key 'coohrt'.*'cohort'"):
        links.filter_of({"run": "x", "coohrt": "kept"}, TRI, "test")


def test_the_pages_split_is_the_filters() -> None:
    assert links.filter_of({"run": "x", "split": "dev"}, TRI, "test") == Filter(split="test")


def test_order_of_the_table(tmp_path: Path) -> None:
    table = table_of(write_toy(tmp_path / "toy"))
    assert filtering.order_of({}, table, "kd") == ("kl", True)
    assert filtering.order_of({"order": "file", "desc": "no"}, table, "kd") == (None, False)
    assert filtering.order_of({"order": "entropy", "desc": "no"}, table, "kd") == ("entropy", False)
    assert filtering.order_of({"order": "gap"}, table, "kd").by is None  # a column of regressions
    assert filtering.order_query({"order": "kl", "run": "x"}) == {"order": "kl"}


def test_a_rectangle_is_a_filter_of_all_rows(tmp_path: Path) -> None:
    """Rounded outwards: no row that lies in the rectangle is lost."""
    table = table_of(write_toy(tmp_path / "toy"))
    x, y = column(table, "entropy"), column(table, "kl")
    box = {"x": [float(np.quantile(x, 0.8)), float(np.quantile(x, 0.2))], "y": [0.05123456, float(np.median(y))]}
    filter_ = filtering.boxed(Filter(split="test"), box, "entropy", "kl")
    inside = (x >= box["x"][1]) & (x <= box["x"][0]) & (y >= box["y"][0]) & (y <= box["y"][1])
    assert inside.any()
    assert set(np.flatnonzero(inside)) <= set(apply(filter_, table))
    assert all(len(repr(bound)) < 9 for entry in filter_.ranges for bound in entry[1:])


# ---- errors --------------------------------------------------------------------------------------------------------
def test_guarded_turns_errors_into_sentences() -> None:
    def script() -> None:
        import streamlit as st

        from app import state
        from core.views import NotDefined

        with state.guarded("Title"):
            raise ValueError("bad *thing*; go on with `python -m core run --out x`")
        with state.guarded():
            raise NotDefined("Two classes.")
        with state.guarded():
            raise FileNotFoundError(2, "No such file", "gone.parquet")
        with state.guarded():
            st.markdown("fine")
        with state.guarded():
            raise KeyError("a mistake of ours is no sentence")

    app = AppTest.from_function(script, default_timeout=30).run()
    text = [element.value for element in app.markdown]
    assert ":material/error: **Title**" in text
    assert show.literal("bad *thing*") in text
    assert [element.value for element in app.code] == ["python -m core run --out x"]
    assert any("Not defined here" in one for one in text)
    assert any("gone" in one for one in text)
    assert "fine" in text
    assert len(app.exception) == 1  # the KeyError


# ---- export --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", ["tri", "two", "score"])
def test_exports_hold_the_selection_and_say_what_it_is(tmp_path: Path, task: str) -> None:
    table = table_of(write_toy(tmp_path / "toy"), task)
    filter_ = Filter(split="test", text="soup")
    rows = apply(filter_, table)[::-1]
    assert 0 < len(rows) < len(table)
    selection = export.selection_table(table, rows, filter_)
    stored = pq.read_table(io.BytesIO(export.as_parquet(selection)))
    assert stored["example_id"].to_pylist() == [table.ids[int(row)].as_py() for row in rows]
    assert stored.schema.metadata[b"filter"] == b"split test, a text contains 'soup'"
    assert stored.schema.metadata[b"filter_query"] == b"split=test&text=soup"
    raw = export.as_csv(selection)
    first, rest = raw.split(b"\n", 1)
    assert first.startswith(b"# split test, a text contains 'soup'; run toy")
    read = pa_csv.read_csv(io.BytesIO(rest))
    assert read.num_rows == len(rows)
    assert read.column_names == stored.column_names
    if task != "score":
        gold = [table.task.labels[i] if i >= 0 else None for i in table.gold_N[rows]]
        assert stored["gold"].to_pylist() == gold
        assert None in gold
        labels = table.task.labels
        assert np.allclose(sum(np.array(stored[f"teacher_p_{label}"]) for label in labels), 1, atol=1e-6)


def test_a_spreadsheet_runs_nothing_of_a_csv(tmp_path: Path) -> None:
    table = table_of(write_toy(tmp_path / "toy"))
    filter_ = Filter(split="test", text='x",=HYPERLINK("http://a.b")')
    selection = export.selection_table(table, np.arange(4), filter_)
    texts = ["=1+1", "+1", "-lovely", "@home"]
    selection = selection.set_column(selection.column_names.index("text_a"), "text_a", pa.array(texts))
    first, rest = export.as_csv(selection).decode().split("\n", 1)
    # As a spreadsheet cuts them: quotes hold a cell together, nothing else does.
    rows = [*csv.reader([first]), *csv.reader([first], delimiter=";"), *csv.reader(io.StringIO(rest))]
    cells = [cell for row in rows for cell in row]
    assert {f"'{text}" for text in texts} < set(cells)
    assert any("=HYPERLINK" in cell for cell in cells)
    wrong = [cell for cell in cells if cell[:1] in "=+-@\t\r" and not re.fullmatch(r"(-?[\d.]+(e-?\d+)?)?", cell)]
    assert wrong == []
    stored = pq.read_table(io.BytesIO(export.as_parquet(selection)))
    assert stored["text_a"].to_pylist() == texts


# ---- questions -----------------------------------------------------------------------------------------------------
RANKING = asking.Task(name="rank", kind="ranking", head="ranking", labels=("1", "2"), candidates="answers")


@pytest.mark.parametrize(
    ("task", "question", "words"),
    [
        (TWO, asking.Question("hello"), None),
        (TWO, asking.Question("  "), "Type a text"),
        (TRI, asking.Question("a"), "second one"),
        (TRI, asking.Question("a", "b"), None),
        (SCORE, asking.Question("a"), None),
        (RANKING, asking.Question("q", candidates=("a", "")), "all 2 candidates"),
        (RANKING, asking.Question("q", candidates=("a", "a")), "are the same"),
        (RANKING, asking.Question("q", candidates=("a", "b")), None),
    ],
)
def test_what_can_be_asked(task: asking.Task, question: asking.Question, words: str | None) -> None:
    said = asking.problem(task, question)
    assert (said is None) if words is None else (said is not None and words in said)


# ---- the start -----------------------------------------------------------------------------------------------------
def test_no_torch_before_it_is_asked(tmp_path: Path) -> None:
    """Every page in one fresh process, try_it too as long as nobody asks: torch takes seconds and a gigabyte."""
    write_toy(tmp_path / "runs" / "toy")
    code = f"""
import sys
from streamlit.testing.v1 import AppTest
app = AppTest.from_file({str(ENTRY)!r}, default_timeout=60).run()
pages = sorted(path.stem for path in __import__("pathlib").Path({str(ENTRY.parent)!r}, "app_pages").glob("*.py"))
for page in pages:
    app.switch_page(f"app_pages/{{page}}.py").run()
    assert not app.exception, (page, app.exception)
print(len(pages), sorted({{"torch", "transformers", "datasets", "core.ask"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "DARKROOM_RUNS": str(tmp_path / "runs")},
        cwd=ENTRY.parents[1],
    )
    assert done.stdout.strip().splitlines()[-1] == "10 []", done.stdout + done.stderr
