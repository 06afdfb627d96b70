"""File formats: a TSV, CSV, JSON lines or parquet file, a folder of `datasets.save_to_disk`, or the hub -> columns.

A reader returns the columns that a task names, as they are in the source, with the place of every row, so that
core/data can say "QQP/train.tsv line 17". What the columns mean (labels, annotators, splits) is core/data's business.

Why not `pyarrow.csv` or pandas: GLUE's TSVs are unquoted, with stray quotes inside texts (QNLI), cells that read "NA",
"null" or "nan" and are texts, and rows cut in two (QQP). Here a TSV is split at tabs and nothing else happens to it:
the split itself is one vectorised call, so the 940,000 rows of GLUE take seconds. CSV is Python's `csv` in strict mode.

`read_hub` without a mirror is the project's only network access, and the only place that imports `datasets`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.tasks import did_you_mean

_BOM = b"\xef\xbb\xbf"
_CSV_CELL = 1 << 24  # characters; Python's default of 131,072 refuses long documents


class Wanted(NamedTuple):
    """What a task asks of a file: column names to keep, and how to read files without a header line.

    A file has a header if its first line holds all of `texts`; otherwise `columns` names its columns by position.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]
    columns: tuple[str, ...] = ()
    skip_malformed: bool = False


class Rows(NamedTuple):
    """Columns of one source, N rows each.

    `row_N` is a row's position in the source, from 0, malformed rows counted. `line_N` is the line of a text file, from
    1 (None: the source has no lines). `class_names` are the names behind integer labels (`datasets.ClassLabel`); the
    columns themselves then already hold names, with null for -1.
    """

    source: str
    found: tuple[str, ...]
    columns: dict[str, pa.Array]
    row_N: np.ndarray
    line_N: np.ndarray | None
    class_names: dict[str, tuple[str, ...]]
    n_malformed: int = 0

    def where(self, i: int) -> str:
        """`path line 17`, or `path row 16` for a source without lines (rows count from 0, as in example ids)."""
        return f"{self.source} row {self.row_N[i]}" if self.line_N is None else f"{self.source} line {self.line_N[i]}"


def missing_column(source: str, name: str, found: Sequence[str]) -> ValueError:
    """The error for a column that a source lacks."""
    return ValueError(
        f"{source} has no column '{name}'{did_you_mean(name, found)} Columns found: {', '.join(map(repr, found))}. "
        "Rename the column or correct the task's row (text_a, text_b, label, candidates, human_columns, columns)."
    )


def read_file(path: Path, wanted: Wanted) -> Rows:
    """The wanted columns of `path` that exist; its suffix decides the format (a folder: `save_to_disk`).

    TSV (and SNLI's `.txt`): unquoted, texts verbatim, except that a line may end with CRLF. All text formats are
    UTF-8, with or without a byte order mark. Raises `ValueError` for a missing or empty file, other encodings, NUL
    bytes, rows with a wrong number of fields and invalid CSV or JSON, each with file, line and remedy.
    """
    if path.is_dir():
        return _read_saved(path, wanted)
    if path.suffix not in READERS:
        hint = did_you_mean(path.suffix, READERS)
        raise ValueError(f"{path}: format '{path.suffix}' is not known{hint} Known: {', '.join(READERS)}, or a folder")
    rows = READERS[path.suffix](path, wanted)
    if len(rows.row_N) == 0:
        raise ValueError(f"{path} is empty, expected at least one row of data; restore the file")
    return rows


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    skip = len(_BOM) if data.startswith(_BOM) else 0
    try:
        text = data[skip:].decode("utf-8")
    except UnicodeDecodeError as error:
        at = skip + error.start
        raise ValueError(
            f"{path} line {data.count(10, 0, at) + 1} is not UTF-8: byte 0x{data[at]:02x} at offset {at}. "
            f"Convert the file, for example with `iconv -f latin1 -t utf-8`."
        ) from error
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise ValueError(f"{path} line {line} has a NUL character, which no text has; remove it or restore the file")
    return text


def _read_tsv(path: Path, wanted: Wanted) -> Rows:
    text = _read_text(path)
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
    # str.splitlines() would also split at U+0085, U+2028 and form feeds, which do occur inside texts.
    lines = text.split("\n")
    while lines and not lines[-1]:
        lines.pop()
    first = lines[0].split("\t") if lines else []
    has_header = not wanted.columns or set(wanted.texts) <= set(first)
    header = first if has_header else list(wanted.columns)
    cells = pc.split_pattern(pa.array(lines[has_header:], pa.large_string()), "\t")
    n_fields = pc.list_value_length(cells).to_numpy(zero_copy_only=False)
    row = np.arange(len(cells))
    good = n_fields == len(header)
    # Too many fields is never skipped: nothing in the known files explains it.
    bad = (n_fields > len(header)) if wanted.skip_malformed else ~good
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(
            f"{path} line {i + has_header + 1} has {n_fields[i]} field(s), expected {len(header)} "
            f"({', '.join(header)}). Quotes mean nothing in a TSV file: remove tabs and line breaks from its texts, "
            "or use CSV or JSON lines."
        )
    flat = cells.filter(pa.array(good)).flatten()
    n = int(good.sum())
    columns = {
        name: flat.take(pa.array(np.arange(n) * len(header) + header.index(name)))
        for name in _select(path, header, wanted)
    }
    return Rows(str(path), tuple(header), columns, row[good], row[good] + has_header + 1, {}, len(row) - n)


def _read_csv(path: Path, wanted: Wanted) -> Rows:
    text = _read_text(path)
    before = csv.field_size_limit(_CSV_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    records: list[list[str]] = []
    lines: list[int] = []
    start = 1
    try:
        for record in reader:
            if record:  # a blank line
                records.append(record)
                lines.append(start)
            start = reader.line_num + 1  # a quoted cell may span lines
    except csv.Error as error:
        raise ValueError(
            f'{path} line {start} is not valid CSV: {error}. Write cells that hold , " or a line break in double '
            "quotes, and each double quote inside them twice."
        ) from error
    finally:
        csv.field_size_limit(before)
    has_header = not wanted.columns or (bool(records) and set(wanted.texts) <= set(records[0]))
    header = list(wanted.columns) if not has_header else records[0] if records else []
    for record, line in zip(records, lines, strict=True):
        if len(record) != len(header):
            raise ValueError(
                f"{path} line {line} has {len(record)} field(s), expected {len(header)} ({', '.join(header)}). "
                "Quote cells that hold a comma."
            )
    body = records[has_header:]
    columns = {
        name: pa.array([record[header.index(name)] for record in body], pa.large_string())
        for name in _select(path, header, wanted)
    }
    return Rows(str(path), tuple(header), columns, np.arange(len(body)), np.array(lines[has_header:]), {})


def _read_jsonl(path: Path, wanted: Wanted) -> Rows:
    found: dict[str, None] = {}
    values: dict[str, list[Any]] = {name: [] for name in wanted.names}
    lines: list[int] = []
    for i, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{path} line {i} is not valid JSON: {error}. Write one object a line.") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path} line {i} is a JSON {type(record).__name__}, expected an object with the columns")
        found.update(dict.fromkeys(record))
        lines.append(i)
        for name, column in values.items():
            column.append(record.get(name))
    columns: dict[str, pa.Array] = {}
    for name in _select(path, list(found), wanted):
        try:
            columns[name] = _json_column(values[name])
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{path}: column '{name}' has half of a surrogate pair such as \\ud83d, which is not a character: "
                f"{error}. Write the file again with complete characters."
            ) from error
    return Rows(str(path), tuple(found), columns, np.arange(len(lines)), np.array(lines), {})


def _json_column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # mixed types, such as labels 1 and "1": all of them as text
        texts = [v if isinstance(v, str) or v is None else _json_text(v) for v in values]
        return pa.array(texts, pa.large_string())


def _json_text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | dict | bool) else str(value)


def _read_parquet(path: Path, wanted: Wanted) -> Rows:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a readable parquet file: {error}. Write it again.") from error
    return _from_arrow(str(path), table, wanted)


def _read_saved(path: Path, wanted: Wanted) -> Rows:
    """A `datasets.Dataset` saved by `save_to_disk`: Arrow streams listed in state.json. A saved `DatasetDict` has one
    such folder a split; the task's `files` name each of them."""
    tables = []
    for file in saved_files(path)[1:]:
        with pa.memory_map(str(file)) as source:
            tables.append(pa.ipc.open_stream(source).read_all())
    return _from_arrow(str(path), pa.concat_tables(tables), wanted)


def saved_files(path: Path) -> tuple[Path, ...]:
    """state.json and the Arrow files of a folder written by `datasets.Dataset.save_to_disk`."""
    state = path / "state.json"
    if not state.is_file():
        inside = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
        raise ValueError(
            f"{path} has no state.json, so it is not a dataset saved by save_to_disk. Name the folder of one split "
            f"(a saved DatasetDict has one for each); this folder holds: {', '.join(inside) or 'nothing'}."
        )
    names = [entry["filename"] for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
    return (state, *(path / name for name in names))


def _from_arrow(source: str, table: pa.Table, wanted: Wanted) -> Rows:
    if table.num_rows == 0:
        raise ValueError(f"{source} is empty, expected at least one row; restore the file")
    columns: dict[str, pa.Array] = {}
    class_names: dict[str, tuple[str, ...]] = {}
    known = _hub_class_names(table.schema)
    for name in _select(source, table.column_names, wanted):
        column = table.column(name).combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # what combine_chunks gives for zero chunks, or more than 2 GB
            column = pa.concat_arrays(column.cast(pa.large_string()).chunks)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if name in known and pa.types.is_integer(column.type):
            class_names[name] = known[name]
            index = pc.if_else(pc.equal(column, -1), None, column)  # the hub's mark for "no label"
            column = pa.array(known[name], pa.large_string()).take(index)
        columns[name] = column
    return Rows(source, tuple(table.column_names), columns, np.arange(table.num_rows), None, class_names)


def _hub_class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Names of the integer labels, which `datasets` writes into the schema's metadata."""
    info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {})
    features = info.get("features", {}).items()
    return {name: tuple(f["names"]) for name, f in features if isinstance(f, dict) and "names" in f}


def _select(source: Path | str, found: Sequence[str], wanted: Wanted) -> list[str]:
    names = [name for name in dict.fromkeys(wanted.names) if name in found]
    for name in names:
        if list(found).count(name) > 1:
            raise ValueError(
                f"{source} has {list(found).count(name)} columns '{name}', expected one; rename the others"
            )
    return names


def mirror_files(hub_dir: Path, repo: str, config: str, split: str) -> tuple[Path, ...]:
    """The parquet files of a hub dataset's split in a local copy of its repository (empty: there are none)."""
    folder = hub_dir / repo / config
    return tuple(sorted([*folder.glob(f"{split}-*.parquet"), *folder.glob(f"{split}.parquet")]))


def read_hub(repo: str, config: str, splits: Iterable[str], wanted: Wanted, hub_dir: Path | None) -> dict[str, Rows]:
    """The splits of a hub dataset, by name; splits that it does not have are left out.

    With `hub_dir`, from `<hub_dir>/<repo>/<config>/<split>-*.parquet`, the hub's own layout, without `datasets` or
    a network. Without it, through `datasets.load_dataset`, which downloads once and then uses its cache. Raises
    `ValueError` that names the dataset and the remedy if nothing can be loaded.
    """
    found: dict[str, Rows] = {}
    what = f"hub dataset '{repo}', config '{config}'"
    if hub_dir is not None:
        for split in splits:
            if files := mirror_files(hub_dir, repo, config, split):
                table = pa.concat_tables([pq.read_table(file) for file in files], promote_options="default")
                found[split] = _from_arrow(str(files[0] if len(files) == 1 else files[0].parent / split), table, wanted)
        return found
    from datasets import load_dataset

    try:
        loaded = load_dataset(repo, config)
    except Exception as error:  # offline, refused, unknown id, broken cache: `datasets` has no common base class
        raise ValueError(
            f"{what} could not be loaded: {type(error).__name__}: {error}. Without a network set data.glue_dir to a "
            "folder in GLUE's layout, or data.hub_dir to a local copy of the hub's repositories "
            f"(<hub_dir>/{repo}/{config}/train-*.parquet)."
        ) from error
    for split in splits:
        if split in loaded:
            table = loaded[split].with_format("arrow")[:]
            names = {name: f.names for name, f in loaded[split].features.items() if hasattr(f, "names")}
            info = {"info": {"features": {name: {"names": list(value)} for name, value in names.items()}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
            found[split] = _from_arrow(f"{what}, split '{split}'", table, wanted)
    return found


def fingerprint(paths: Iterable[Path]) -> str:
    """SHA-256 (hex) over names, sizes and contents of files, in the given order. Folders do not count: a copy of the
    data in another place has the same fingerprint."""
    digest = hashlib.sha256()
    for path in paths:
        # Name and size separate the files: moving bytes from one file to the next must change the digest.
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


READERS: dict[str, Callable[[Path, Wanted], Rows]] = {
    ".tsv": _read_tsv,
    ".txt": _read_tsv,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
