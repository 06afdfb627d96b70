"""A selection of examples as a file, with the filter that made it written into it.

Parquet carries the filter in its schema's metadata (`filter`, `filter_query`, `run`, `task`, `split`); CSV in its first
line, which begins with "# " (`pandas.read_csv(path, skiprows=1)`). A spreadsheet takes a text that begins with =, +, -
or @ for a formula and may run it; in CSV such texts have a ' before them. Parquet has all texts as they are.

Deliberately absent: whole predictions, which are files of the run directory already.
"""

from __future__ import annotations

import io
import re
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from core.calibration import IntArray
from core.views.derived import COLUMNS, available, column
from core.views.filters import Filter, in_words, to_query
from core.views.table import BASELINE, TaskTable

FORMULA = r"[=+\-@\t\r]"  # what a cell begins with that a spreadsheet runs
TEXTS = ("text_a", "text_b", "candidates")


def selection_table(table: TaskTable, rows: IntArray, filter_: Filter) -> pa.Table:
    """Ids, texts, gold, what teacher and students say, and every column that the table has; `rows` in their order."""
    student, task = filter_.student_is, table.task
    examples = table.run.read_examples(task.name)
    taken = examples.take(pa.array(table.file_rows_N[rows]))
    columns = {name: taken[name] for name in ("example_id", "split", *TEXTS) if name in taken.column_names}
    voices = [(name, voice) for name, voice in (("teacher", "teacher"), ("student", student), ("baseline", BASELINE))]
    voices = [(name, voice) for name, voice in voices if voice in table.voices]
    if table.is_regression:
        columns["gold"] = pa.array(table.gold_N[rows])
        columns |= {name: pa.array(table.values(voice)[rows]) for name, voice in voices}
    else:
        columns["gold"] = _labels(table.gold_N[rows], task.labels)
        for name, voice in voices:
            columns[name] = _labels(table.answers(voice)[rows], task.labels)
            probs_nC = np.exp(table.log_probs(voice)[rows])
            columns |= {f"{name}_p_{label}": pa.array(probs_nC[:, i]) for i, label in enumerate(task.labels)}
    for name in available(table, student=student):
        if name in columns:
            continue
        values = column(table, name, student=student)[rows]
        spec = COLUMNS[name]
        columns[name] = _labels(values, spec.names) if spec.kind == "code" else pa.array(values)
    about = {
        "filter": in_words(filter_),
        "filter_query": urlencode(to_query(filter_)),
        "run": table.run.path.name,
        "task": task.name,
        "split": table.split,
    }
    return pa.table(columns).replace_schema_metadata(about)


def as_parquet(selection: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(selection, sink, compression="zstd")
    return sink.getvalue()


def as_csv(selection: pa.Table) -> bytes:
    """Lists of candidates are joined by " | "; texts that a spreadsheet would run are marked; the first line says what
    was selected."""
    about = {key.decode(): text.decode() for key, text in (selection.schema.metadata or {}).items()}
    for i, name in enumerate(selection.column_names):
        if pa.types.is_list(selection.schema.field(name).type):
            joined = [None if one is None else " | ".join(one) for one in selection[name].to_pylist()]
            selection = selection.set_column(i, name, pa.array(joined, pa.string()))
        if pa.types.is_string(selection.schema.field(name).type):
            guarded = pc.replace_substring_regex(selection[name], f"^({FORMULA})", r"'\1")
            selection = selection.set_column(i, name, guarded)
    sink = io.BytesIO()
    line = f"# {about['filter']}; run {about['run']}, task {about['task']}: {about['filter_query']}"
    # It has commas, so that a spreadsheet makes several cells of it: the searched text must not begin one.
    line = re.sub(f"([,;])(?={FORMULA})", r"\1 ", " ".join(line.split()))
    sink.write(line.encode() + b"\n")
    pa_csv.write_csv(selection, sink)
    return sink.getvalue()


def file_name(table: TaskTable, n: int, ending: str) -> str:
    return f"{table.run.path.name}-{table.task.name}-{table.split}-{n}.{ending}"


def _labels(codes: np.ndarray, names: tuple[str, ...]) -> pa.Array:
    """Names of codes, null for -1."""
    codes = codes.astype(np.int64)
    return pa.array(np.array(names, object)[np.maximum(codes, 0)], pa.string(), mask=codes < 0)
