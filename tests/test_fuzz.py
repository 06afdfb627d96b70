"""Anything at all in a data file, a task file and a link: a result, or a `ValueError` that names it, and nothing else.

What is known to be bad is in tests/test_bad_input.py, with its message.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_data import NO_HUMANS

from core.data import load_task
from core.readers import READERS, Wanted, read_file
from core.tasks import SUITE, Task, load_tasks_yaml
from core.views.catalogue import open_run
from core.views.filters import from_query, to_query

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Pieces of which files are made, and what does not belong into them.
PIECES = st.sampled_from(
    [*"aby012x\t,\n{}[]: ", "\r\n", '"', "null", "NaN", "1e999", "\\", "\ufeff", "\0", "\u2028", "\u05d0", "\U0001f642"]
)
HEADS = {".tsv": "a\tb\ty\n", ".txt": "a\tb\ty\n", ".csv": "a,b,y\n", ".jsonl": '{"a": "x", "b": "z", "y": 1}\n'}
FIELDS = ("labels", "kind", "metrics", "score_range", "files", "text_a")
KEYS = ("split", "gold", "student", "teacher", "cohort", "text", "entropy", "correct", "nonsense", "")
VALUES = st.one_of(
    st.text(max_size=8), st.sampled_from(["neutral", "yes", "no", "0.5:", ":1", "1:0", "nan:inf", "test"])
)


@pytest.mark.parametrize("suffix", READERS)
@FUZZ
@given(pieces=st.lists(PIECES, max_size=30), raw=st.binary(max_size=40), has_head=st.booleans())
def test_any_bytes_are_read_or_refused(
    suffix: str, pieces: list[str], raw: bytes, has_head: bool, tmp_path: Path
) -> None:
    path = tmp_path / f"train{suffix}"
    path.write_bytes((HEADS.get(suffix, "") * has_head + "".join(pieces)).encode() + raw)
    task = replace(NO_HUMANS, files=(("train", str(path)), ("dev", str(path))))
    try:
        rows = read_file(path, Wanted(("a", "b", "y"), ("a", "b")))
        lengths = {len(column) for column in rows.columns.values()}
        loaded = load_task(task, source="files")
    except ValueError as error:
        said = str(error)
    else:
        assert lengths == {len(rows.row_N)}
        assert set(loaded.table["gold_label"].to_pylist()) == {"no", "yes"}
        return
    assert str(path) in said or said.startswith("task 'mine': ")


@FUZZ
@given(cells=st.lists(st.tuples(st.text(), st.text(), st.sampled_from(["0", "1"])), min_size=2, max_size=8))
def test_any_text_in_a_parquet_file_comes_back_as_it_is(cells: list[tuple[str, str, str]], tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    columns = {name: [row[i] for row in cells] for i, name in enumerate(("a", "b", "y"))}
    try:
        pq.write_table(pa.table(columns), path)
    except UnicodeEncodeError:  # half of a surrogate pair is no text
        return
    task = replace(NO_HUMANS, files=(("train", str(path)), ("dev", str(path))))
    try:
        table = load_task(task, source="files").table
    except ValueError as error:
        said = str(error)
    else:
        assert table["text_a"].to_pylist()[: len(cells)] == columns["a"]
        return
    assert "empty text" in said or "NUL" in said or "expected at least two different ones" in said


@FUZZ
@given(text=st.text(max_size=60), field=st.sampled_from(FIELDS))
def test_any_task_file_is_read_or_refused(text: str, field: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.yaml"
    row = {"files": {"train": "a.tsv"}, "labels": ["x", "y"]} | {field: text}
    for content in (text, yaml.safe_dump({"a": row}, allow_unicode=True)):
        try:
            path.write_text(content, encoding="utf-8")
        except UnicodeEncodeError:
            continue
        try:
            tasks, said = load_tasks_yaml(path), None
        except ValueError as error:
            tasks, said = {}, str(error)
        assert all(isinstance(task, Task) for task in tasks.values())
        assert said is None or str(path) in said


@FUZZ
@given(query=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4), task=st.sampled_from(sorted(SUITE)))
def test_any_link_is_a_filter_or_a_sentence(query: dict[str, str], task: str) -> None:
    try:
        found = from_query(query, SUITE[task])
    except ValueError as error:
        said = str(error)
    else:
        assert from_query(to_query(found), SUITE[task]) == found
        return
    assert said


@FUZZ
@given(name=st.text(max_size=20))
def test_no_name_leads_out_of_the_folder_of_runs(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run"):
        open_run(tmp_path, name)
