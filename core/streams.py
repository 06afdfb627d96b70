"""Tables larger than memory, a chunk at a time: rows of a TSV, CSV, JSON lines or parquet file, of a folder of
`datasets.save_to_disk` or of standard input -> predictions to parquet, TSV, CSV, JSON lines or standard output.

At most one chunk of rows is in memory. Formats are as in core/readers, whose readers take whole files and more care:
here a text is all that is needed of a row.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from core.files import atomic
from core.readers import saved_files
from core.tasks import did_you_mean

STANDARD = Path("-")


class Chunk(NamedTuple):
    """Some rows: `columns` as lists, and where each row is in the source, for messages."""

    columns: dict[str, list[Any]]
    places: list[str]


# ---- in -------------------------------------------------------------------------------------------------------------
def chunks(source: Path, size: int) -> Iterator[Chunk]:
    """The rows of `source` (`-`: standard input) in order, `size` at a time. Raises `ValueError` with file and line."""
    if source == STANDARD:
        yield from _text_chunks("standard input", sys.stdin, None, size)
    elif not source.exists():
        raise ValueError(f"{source} does not exist; correct --in")
    elif source.is_dir():
        yield from _arrow_chunks(source, _saved_batches(source, size))
    elif source.suffix == ".parquet":
        with pq.ParquetFile(source) as file:
            yield from _arrow_chunks(source, file.iter_batches(batch_size=size))
    elif source.suffix in ROWS:
        with open(source, encoding="utf-8-sig", newline="") as lines:
            yield from _text_chunks(str(source), lines, ROWS[source.suffix], size)
    else:
        known = [*ROWS, ".parquet"]
        hint = did_you_mean(source.suffix, known)
        raise ValueError(
            f"{source}: format '{source.suffix}' is not known{hint} Known: {', '.join(known)}, or a folder"
        )


def _text_chunks(
    what: str, lines: TextIO, reader: Callable[[str, Iterator[str]], Iterator[Any]] | None, size: int
) -> Iterator[Chunk]:
    """`reader` None: JSON lines where the first line is an object, else TSV."""
    whole: Iterator[str] = iter(lines)
    try:
        if reader is None:
            first = next(whole, "")
            reader, whole = _json_rows if first.lstrip().startswith("{") else _tsv_rows, chain([first], whole)
        rows = reader(what, whole)
        while part := list(islice(rows, size)):
            names = dict.fromkeys(name for _, row in part for name in row)
            columns = {name: [row.get(name) for _, row in part] for name in names}
            yield Chunk(columns, [f"{what} line {line}" for line, _ in part])
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is not UTF-8 ({error.reason}); convert it, for example with iconv") from error


def _tsv_rows(what: str, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    stripped = ((i, line.rstrip("\r\n")) for i, line in enumerate(lines, 1))
    return _named(what, ((i, line.split("\t")) for i, line in stripped if line))


def _csv_rows(what: str, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(lines, strict=True)
    try:
        yield from _named(what, ((reader.line_num, row) for row in reader if row))
    except csv.Error as error:
        raise ValueError(f"{what} line {reader.line_num} is not valid CSV: {error}; quote its cells") from error


def _named(what: str, rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    header: list[str] | None = None
    for line, cells in rows:
        if header is None:
            header = cells
        elif len(cells) != len(header):
            raise ValueError(
                f"{what} line {line} has {len(cells)} field(s), expected {len(header)} ({', '.join(header)})"
            )
        else:
            yield line, dict(zip(header, cells, strict=True))


def _json_rows(what: str, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for i, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{what} line {i} is not valid JSON: {error}; write one object a line") from error
        if not isinstance(row, dict):
            raise ValueError(f"{what} line {i} is a JSON {type(row).__name__}, expected an object with the columns")
        yield i, row


def _arrow_chunks(source: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[Chunk]:
    n = 0
    for batch in batches:
        yield Chunk(batch.to_pydict(), [f"{source} row {i}" for i in range(n, n + batch.num_rows)])
        n += batch.num_rows


def _saved_batches(source: Path, size: int) -> Iterator[pa.RecordBatch]:
    for file in saved_files(source)[1:]:
        with pa.memory_map(str(file)) as mapped:
            for batch in pa.ipc.open_stream(mapped):
                for start in range(0, batch.num_rows, size):
                    yield batch.slice(start, size)


ROWS: dict[str, Callable[[str, Iterator[str]], Iterator[tuple[int, dict[str, Any]]]]] = {
    ".tsv": _tsv_rows,
    ".txt": _tsv_rows,
    ".csv": _csv_rows,
    ".jsonl": _json_rows,
}


# ---- out ------------------------------------------------------------------------------------------------------------
@contextmanager
def writer(out: Path) -> Iterator[Callable[[pa.Table], None]]:
    """A function that appends a table to `out`; its suffix decides the format. A file is there when all of it is; to
    standard output (`-`) each chunk goes as JSON lines at once."""
    if out == STANDARD:
        yield lambda table: _write_text(sys.stdout, ".jsonl", table, is_first=False)
        return
    if out.suffix not in WRITTEN:
        hint = did_you_mean(out.suffix, WRITTEN)
        raise ValueError(f"{out}: format '{out.suffix}' is not known{hint} Known: {', '.join(WRITTEN)}, or -")
    with atomic(out) as temporary:
        if out.suffix == ".parquet":
            open_file: list[pq.ParquetWriter] = []

            def write(table: pa.Table) -> None:
                if not open_file:
                    open_file.append(pq.ParquetWriter(temporary, table.schema))
                open_file[0].write_table(table)

            try:
                yield write
            finally:
                for file in open_file:
                    file.close()
        else:
            with open(temporary, "w", encoding="utf-8", newline="") as text:
                yield lambda table: _write_text(text, out.suffix, table, is_first=text.tell() == 0)


def _write_text(file: TextIO, suffix: str, table: pa.Table, *, is_first: bool) -> None:
    if suffix == ".jsonl":
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
    else:
        lines = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n")
        if is_first:
            lines.writerow(table.column_names)
        lines.writerows(row.values() for row in table.to_pylist())
    file.flush()


WRITTEN = (".parquet", ".tsv", ".csv", ".jsonl")
