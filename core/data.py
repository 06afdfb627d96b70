"""Sources -> one examples table a task: GLUE's folders, the hub (or a local mirror of it), a user's own files.

`load_task` reads every split of a task, maps raw labels to names, counts annotators, gives each row its id and checks
the result; `carve_selection` and `limit` then draw splits. All of it works on whole columns.

Not here: file formats and the network (core/readers), the embedded suite (core/synthetic), tokens (core/batching).

- Texts are kept verbatim: "NA" and "null" are texts, quotes stay. Nothing is repaired; what is left out is counted.
- An id is `task/split/row` with the row's position in its source file, so dropping a row moves no other id.
- `n_humans` counts the annotators' labels of a row. `human_probs` needs at least two of them: MNLI's and most of SNLI's
  training rows have one, the author's, and a distribution over one opinion would look like certainty.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.columns import (
    TRAINS,
    blank,
    check_table,
    human_columns,
    label_names,
    list_column,
    mask,
    number_column,
    raw_labels,
    text_column,
)
from core.readers import Rows, Wanted, fingerprint, mirror_files, missing_column, read_file, read_hub, saved_files
from core.tasks import SPLITS, Task, example_id, example_schema

__all__ = ["LoadedTask", "carve_selection", "check_table", "fingerprint", "limit", "load_task", "source_files"]

Source = Literal["glue", "hub", "files"]

HUB_SPLITS = {
    "train": "train",
    "validation": "dev",
    "validation_matched": "dev",
    "validation_mismatched": "dev_mm",
    "test": "test",
    "test_matched": "test",
    "test_mismatched": "test_mm",
}
# The hub names some text columns differently from the original files; its label column is `label` in all of them.
HUB_TEXTS: dict[str, dict[str, Any]] = {
    "mrpc": {"text_a": "sentence1", "text_b": "sentence2"},
    "mnli": {"text_a": "premise", "text_b": "hypothesis"},
    "snli": {"text_a": "premise", "text_b": "hypothesis"},
    "scitail": {"text_a": "premise", "text_b": "hypothesis"},
}
# A split of ours that is another configuration of the same repository: (configuration, its split, our split).
HUB_MORE: dict[str, tuple[str, str, str]] = {"mnli": ("ax", "test", "ax")}
TESTS = ("test", "test_mm", "ax")  # GLUE keeps their labels to itself
MAX_CARVED = 2000  # rows; beyond it a share of train costs training data and sharpens the choice of members little


class LoadedTask(NamedTuple):
    """`table` has exactly `example_schema(task)`, splits in the order of `SPLITS`, rows in source order. `dropped`
    counts left-out rows by reason, `files` are what was read (empty for the hub)."""

    table: pa.Table
    dropped: dict[str, int]
    files: tuple[Path, ...]


def source_files(
    task: Task, *, source: Source, glue_dir: Path | None = None, hub_dir: Path | None = None
) -> tuple[Path, ...]:
    """The files that `load_task` would read, without reading them; empty for the hub without a mirror.

    Raises `ValueError` if a training or development file is missing, with the places that were looked at.
    """
    if source == "hub":
        repo, config = _hub_id(task)
        if hub_dir is None:
            return ()
        files = [file for split in HUB_SPLITS for file in mirror_files(Path(hub_dir), repo, config, split)]
        if files and task.name in HUB_MORE:
            files += mirror_files(Path(hub_dir), repo, *HUB_MORE[task.name][:2])
        if not files:
            folder = Path(hub_dir) / repo / config
            raise ValueError(f"task '{task.name}': no {folder}/train-*.parquet; copy it there or correct data.hub_dir")
        return tuple(files)
    paths = _split_paths(task, source, glue_dir)
    return tuple(file for path in paths.values() for file in (saved_files(path) if path.is_dir() else (path,)))


def load_task(
    task: Task,
    *,
    source: Source,
    glue_dir: Path | None = None,
    hub_dir: Path | None = None,
    empty_text: Literal["error", "drop"] = "error",
) -> LoadedTask:
    """Every split of a task as one checked table.

    `glue`: `<glue_dir>/<folder>/<file>` as the task's row says; splits without a file are skipped, train and dev are
    needed. `hub`: the dataset in the row, from `hub_dir` if given. `files`: the paths in the row (core/tasks,
    `load_tasks_yaml`); further columns named as in `example_schema` (`true_probs`, `human_probs`, ...) are taken over.
    Rows without a majority label (`task.no_gold`) are dropped and counted, as are rows with an empty text if
    `empty_text` is "drop". Test splits may lack the label column; gold is then null.

    Raises `ValueError` with what, where (file and line), expected and remedy. Example::

        load_task(TASKS["rte"], source="glue", glue_dir=Path("glue")).table.num_rows
    """
    files = source_files(task, source=source, glue_dir=glue_dir, hub_dir=hub_dir)
    if source == "hub":
        task = replace(
            task, label="label", label_values=(), human_columns=(), columns=(), **HUB_TEXTS.get(task.name, {})
        )
    names = [task.text_a, task.text_b, task.candidates, task.label, *task.human_columns, *_optional(task)]
    texts = tuple(name for name in (task.text_a, task.text_b, task.candidates) if name)
    wanted = Wanted(tuple(name for name in names if name), texts, task.columns, task.skip_malformed)
    if source == "hub":
        read = read_hub(*_hub_id(task), HUB_SPLITS, wanted, None if hub_dir is None else Path(hub_dir))
        rows = {HUB_SPLITS[split]: _hub_labels(task, found) for split, found in read.items()}
        if task.name in HUB_MORE:
            config, split, own = HUB_MORE[task.name]
            more = read_hub(_hub_id(task)[0], config, (split,), wanted, None if hub_dir is None else Path(hub_dir))
            if split in more:
                rows[own] = _hub_labels(task, more[split])
    else:
        rows = {split: read_file(path, wanted) for split, path in _split_paths(task, source, glue_dir).items()}
    if source == "files":
        for name in task.human_columns:
            if not any(name in found.columns for found in rows.values()):
                raise missing_column(next(iter(rows.values())).source, name, next(iter(rows.values())).found)
    dropped: Counter[str] = Counter()
    parts: list[pa.Table] = []
    places: list[tuple[Rows, np.ndarray]] = []
    for split in (split for split in SPLITS if split in rows):
        keep, table = examples_table(task, split, rows[split], empty_text, dropped)
        parts.append(table.filter(pa.array(keep)))
        places.append((rows[split], np.flatnonzero(keep)))

    def where(i: int) -> str:
        for found, kept in places:
            if i < len(kept):
                return found.where(int(kept[i]))
            i -= len(kept)
        raise IndexError(i)

    table = pa.concat_tables(parts) if parts else example_schema(task).empty_table()
    check_table(task, table, where=where)
    return LoadedTask(table, {reason: n for reason, n in dropped.items() if n}, files)


def _split_paths(task: Task, source: Source, glue_dir: Path | None) -> dict[str, Path]:
    """The file or folder of each split, in the order of `SPLITS`; of several candidates the first that exists."""
    if source == "files":
        folders, needed = [Path()], tuple(split for split, _ in task.files)
    elif glue_dir is None:
        raise ValueError(f"task '{task.name}': source 'glue' needs a folder; set data.glue_dir to GLUE's folder")
    else:
        folders, needed = [Path(glue_dir) / name for name in (task.folder, *task.other_folders)], ("train", "dev")
    paths: dict[str, Path] = {}
    for split in SPLITS:
        places = [folder / name for folder in folders for s, name in task.files if s == split]
        if found := [path for path in places if path.exists()]:
            paths[split] = found[0]
        elif split in needed:
            remedy = (
                "correct data.glue_dir or add the file" if source == "glue" else "correct 'files' in the tasks file"
            )
            raise ValueError(
                f"task '{task.name}' has no file for split '{split}'; looked for "
                f"{', '.join(map(str, places)) or 'nothing: its row names none'}; {remedy}"
            )
    return paths


def _hub_id(task: Task) -> tuple[str, str]:
    if task.hub is None:
        raise ValueError(f"task '{task.name}' is not on the hub; use data.source 'files' or 'suite'")
    return task.hub


def _hub_labels(task: Task, rows: Rows) -> Rows:
    """Checks the order of the hub's label names, and makes its other mark of unlabelled splits (all -1.0) null."""
    names = rows.class_names.get("label", task.labels)
    if names != task.labels:
        raise ValueError(
            f"{rows.source} has labels {list(names)}, expected {list(task.labels)} in this order; the dataset is not "
            f"the one that task '{task.name}' describes"
        )
    label = rows.columns.get("label")
    if label is not None and pa.types.is_integer(label.type):
        raise ValueError(
            f"{rows.source} has integer labels without their names, which the hub's own parquet files carry; copy them "
            "unchanged"
        )
    if label is not None and pa.types.is_floating(label.type) and pc.all(pc.equal(label, -1.0)).as_py():
        rows.columns["label"] = pa.nulls(len(label), label.type)
    return rows


def _optional(task: Task) -> list[str]:
    """Columns that a source may bring along under their final names: truth and humans."""
    return [name for name in example_schema(task).names if name.startswith(("true_", "human_", "n_humans"))]


def examples_table(
    task: Task, split: str, rows: Rows, empty_text: str, dropped: Counter[str]
) -> tuple[np.ndarray, pa.Table]:
    """Which of one split's N rows stay (keep_N), and the table of all N."""
    schema, n = example_schema(task), len(rows.row_N)
    columns: dict[str, Any] = {
        "example_id": pa.array([example_id(task.name, split, row) for row in rows.row_N.tolist()]),
        "split": pa.repeat(split, n),
    }
    keep_N, empty_N = np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
    for column, name in (("text_a", task.text_a), ("text_b", task.text_b), ("candidates", task.candidates)):
        if name is not None and name not in rows.columns:
            raise missing_column(rows.source, name, rows.found)
        if name is not None and column == "candidates":
            lists = columns[column] = list_column(rows, name, pa.string(), task.n_outputs)
            empty_N |= mask(lists.is_null())
            empty_N[pc.list_parent_indices(lists).to_numpy()[blank(lists.flatten())]] = True
        elif name is not None:
            columns[column] = text_column(rows, name)
            empty_N |= blank(columns[column])

    if task.label in rows.columns:
        raw = number_column(rows, task.label) if task.kind == "regression" else raw_labels(rows, task.label)
        unlabelled_N = mask(raw.is_null())
        if task.no_gold is not None:
            keep_N &= ~mask(pc.equal(raw, task.no_gold))
            if task.label in rows.class_names and not unlabelled_N.all():
                keep_N &= ~unlabelled_N  # the hub writes "-" as -1, which is null here; test sets are all -1
            dropped[f"no gold label ({task.no_gold})"] += int((~keep_N).sum())
        if split in TRAINS and (lost := np.flatnonzero(unlabelled_N & keep_N)).size:
            raise ValueError(f"{rows.where(lost[0])} has no label in column '{task.label}'; add it or remove the row")
        if task.kind == "regression":
            columns["gold_value"] = raw
        else:
            columns["gold_label"] = label_names(task, rows, task.label, raw, checked=pa.array(keep_N))
    elif split not in TESTS or task.label.lower() in (name.lower() for name in rows.found):
        raise missing_column(rows.source, task.label, rows.found)

    if (lost := np.flatnonzero(empty_N & keep_N)).size:
        if empty_text == "error":
            raise ValueError(
                f"{rows.where(lost[0])} has an empty text ({lost.size} such row(s) in split '{split}'); correct the "
                "file, or set data.empty_text=drop to leave such rows out"
            )
        keep_N[lost] = False
        dropped["empty text"] += lost.size
    dropped["malformed row"] += rows.n_malformed

    for name in (name for name in _optional(task) if name in rows.columns):
        is_list = name.endswith("_probs")
        columns[name] = (
            list_column(rows, name, pa.float32(), task.n_outputs)
            if is_list
            else number_column(rows, name, whole=name == "n_humans")
        )
    if humans := [name for name in task.human_columns if name in rows.columns]:
        if both := [name for name in columns if name.startswith(("human_", "n_humans"))]:
            raise ValueError(f"{rows.source} has '{both[0]}' as well as human_columns {humans}; leave one of them out")
        columns.update(human_columns(task, rows, humans))
    return keep_N, pa.table(
        [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(n, f.type) for f in schema], schema=schema
    )


def carve_selection(table: pa.Table, *, size: int | float, seed: int) -> pa.Table:
    """Moves `size` rows of train to the split `selection`; order and ids stay (an id keeps its `/train/`).

    `size` is a share of train below 1 (at least one row, at most 2000), a number of rows from 1 on. The draw depends on
    (seed, task) alone and is stratified by gold label. A table whose source names a selection split is returned as
    it is. Raises `ValueError` if train has no row left. Example: `carve_selection(table, size=0.1, seed=0)`.
    """
    split = np.array(table.column("split").to_pylist(), dtype=object)
    train = np.flatnonzero(split == "train")
    if (split == "selection").any():
        return table
    n = int(size) if size >= 1 else min(MAX_CARVED, max(1, round(size * len(train))))
    if n < 1 or len(train) < n + 1:
        raise ValueError(
            f"task '{_name(table)}': {n} rows for the selection split out of {len(train)} training rows, expected at "
            "least one more training row; lower data.selection"
        )
    split[_draw(table, train, n, seed=seed, name="selection", leave_one=True)] = "selection"
    i = table.column_names.index("split")
    return table.set_column(i, table.schema.field("split"), pa.array(split.tolist(), pa.string()))


def limit(table: pa.Table, *, max_train: int | None, max_eval: int | None, seed: int) -> pa.Table:
    """At most `max_train` rows of train and `max_eval` of every other split, drawn at random, stratified by gold label,
    from (seed, task, split); order and ids stay. None: no limit."""
    split = np.array(table.column("split").to_pylist(), dtype=object)
    keep = np.ones(len(split), dtype=bool)
    for name in SPLITS:
        rows, most = np.flatnonzero(split == name), max_train if name == "train" else max_eval
        if most is not None and len(rows) > most:
            keep[rows] = False
            keep[_draw(table, rows, most, seed=seed, name=f"limit/{name}")] = True
    return table if keep.all() else table.filter(pa.array(keep))


def _name(table: pa.Table) -> str:
    return str((table.schema.metadata or {})[b"task"].decode())


def _draw(table: pa.Table, rows: np.ndarray, size: int, *, seed: int, name: str, leave_one: bool = False) -> np.ndarray:
    """`size` of `rows`, sorted: each gold label's share by largest remainder, then at random within the label.

    `leave_one` keeps the last example of a class out of the draw where it can."""
    digest = hashlib.sha256(f"{seed}|{_name(table)}|{name}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    stratum = np.zeros(len(rows), dtype=np.int64)
    if "gold_label" in table.column_names:
        gold = table.column("gold_label").take(pa.array(rows)).fill_null("").to_pylist()
        stratum = np.unique(np.array(gold, dtype=str), return_inverse=True)[1]
    count = np.bincount(stratum)
    most = count - 1 if leave_one and (count - 1).sum() >= size else count
    share = count * size / count.sum()
    quota = np.minimum(np.floor(share).astype(np.int64), most)
    order = np.argsort(quota - share, kind="stable")
    while quota.sum() < size:
        room = [i for i in order if quota[i] < most[i]][: size - quota.sum()]
        quota[room] += 1
    drawn = [rng.permutation(rows[stratum == i])[:q] for i, q in enumerate(quota)]
    return np.sort(np.concatenate(drawn))
