"""Columns as a source has them -> columns as the examples table has them; and `check_table`, what must hold of those.

The second half of core/readers: the formats agree on little (a label is 1, 1.0, "1", true or a class name; a list is a
list or JSON text), and everything after this file sees one form. A value that cannot be read is an error with its file
and line; nothing is guessed. Whole columns at a time.

Suffixes: N rows, C labels (for ranking, candidates).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.readers import Rows, missing_column
from core.tasks import SPLITS, Task, did_you_mean, example_schema

# Users round: human_probs of three annotators are often written 0.33, 0.33, 0.33. An exact posterior is not rounded so.
SUM_TOLERANCE = {"true_probs": 1e-3, "human_probs": 2e-2}
TRAINS = ("train", "selection")


def mask(values: pa.Array) -> np.ndarray:
    """A boolean column as numpy, with null as False."""
    return np.asarray(pc.fill_null(values, False).to_numpy(zero_copy_only=False), dtype=bool)


def blank(texts: pa.Array) -> np.ndarray:
    """Which texts are null or only white space."""
    return mask(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts), ""), True))


def text_column(rows: Rows, name: str) -> pa.Array:
    """Texts, verbatim. Raises `ValueError` for a column of another type and for NUL characters."""
    column = rows.columns[name]
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), pa.string())
    if not _is_text(column.type):
        raise ValueError(f"{rows.source}: column '{name}' holds {column.type}, expected text; name a column of text")
    nul = mask(pc.match_substring(column, "\0"))
    if nul.any():
        raise ValueError(f"{rows.where(int(nul.argmax()))} has a NUL character in column '{name}'; remove it")
    return column.cast(pa.string())


def number_column(rows: Rows, name: str, *, whole: bool = False) -> pa.Array:
    """Numbers (float64; `whole`: int64), null where a cell is empty. "NA" is not a number and an error."""
    kind = pa.int64() if whole else pa.float64()
    column = rows.columns[name]
    if _is_text(column.type):
        column = _trimmed(column)
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        i = next(i for i, value in enumerate(column) if not _can_cast(value, kind))
        raise ValueError(
            f"{rows.where(i)} has {column[i].as_py()!r} in column '{name}', expected a {'whole ' * whole}number; "
            "correct the cell"
        ) from error


def raw_labels(rows: Rows, name: str) -> pa.Array:
    """Labels as trimmed text, null where there is none: 1, 1.0 and "1" are "1", True is "true"."""
    column = rows.columns[name]
    if pa.types.is_nested(column.type):
        raise ValueError(f"{rows.source}: column '{name}' holds {column.type}, expected one label a row")
    if pa.types.is_floating(column.type):
        # Integers that pandas wrote next to a missing one.
        column = pc.if_else(pc.is_nan(column), None, column)
        if mask(pc.equal(pc.floor(column), column)).sum() == column.is_valid().sum().as_py():
            column = column.cast(pa.int64())
    return _trimmed(column.cast(pa.string()))


def label_names(task: Task, rows: Rows, name: str, raw: pa.Array, checked: pa.Array | None = None) -> pa.Array:
    """Raw labels as names of `task.labels`. An unknown one (among the rows `checked`) is a `ValueError`."""
    known = task.label_values or task.labels
    if set(rows.class_names.get(name, ())) & set(task.labels):
        known = task.labels  # a column with class names was read through them already
    index = pc.index_in(raw, pa.array(known, raw.type))
    unknown = mask(pc.and_(index.is_null(), raw.is_valid()))
    if checked is not None:
        unknown &= mask(checked)
    if unknown.any():
        i = int(unknown.argmax())
        value = raw[i].as_py()
        raise ValueError(
            f"{rows.where(i)} has the unknown label {value!r} in column '{name}'{did_you_mean(value, known)} "
            f"Known: {', '.join(known)}. Correct the file, or 'labels' and 'label_values' of task '{task.name}'."
        )
    return pa.array(task.labels).take(index)


def list_column(rows: Rows, name: str, item: pa.DataType, c: int) -> pa.Array:
    """Lists of C items; JSON lists in the text formats; null where a cell is empty."""
    column = rows.columns[name]
    if _is_text(column.type):
        column = _json_lists(rows, name, _trimmed(column), item)
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), pa.list_(item))
    try:
        column = column.cast(pa.list_(item))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{rows.source}: column '{name}' holds {column.type}, expected lists of {item}") from error
    wrong = mask(pc.not_equal(pc.list_value_length(column), c))
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(
            f"{rows.where(i)} has {len(column[i])} entries in column '{name}', expected {c}, one for each of 'labels', "
            "the same number in every row; correct the row or the task's 'labels'"
        )
    return column


def human_columns(task: Task, rows: Rows, names: list[str]) -> dict[str, pa.Array]:
    """Annotators' columns, each with one label (or number) a cell or a list of them, as `n_humans` (null: none) and
    `human_probs` or `human_mean` (null for fewer than two annotators)."""
    n, c = len(rows.row_N), task.n_outputs
    total_NC = np.zeros((n, c))  # labels of each class; for regression the sum of the values
    n_N = np.zeros(n, dtype=np.int64)
    for name in names:
        column, of_row = rows.columns[name], np.arange(n)
        if pa.types.is_null(column.type):
            continue
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            of_row = pc.list_parent_indices(column).to_numpy()
            column = column.flatten()
        cells = rows._replace(columns={name: column}, row_N=rows.row_N[of_row])
        if rows.line_N is not None:
            cells = cells._replace(line_N=rows.line_N[of_row])
        given: Any
        if task.kind == "regression":
            given = number_column(cells, name)
            class_N, amount = np.zeros(len(given), dtype=np.int64), given.fill_null(0).to_numpy()
        else:
            given = label_names(task, cells, name, raw_labels(cells, name))
            class_N = pc.fill_null(pc.index_in(given, pa.array(task.labels)), 0).to_numpy().astype(np.int64)
            amount = np.ones(len(given))
        valid = mask(given.is_valid())
        np.add.at(total_NC, (of_row[valid], class_N[valid]), amount[valid])
        n_N += np.bincount(of_row[valid], minlength=n)
    enough = n_N >= 2
    share_NC = total_NC[enough] / n_N[enough, None]
    counts = {"n_humans": pa.array(n_N, mask=n_N == 0)}
    if task.kind == "regression":
        mean_N = np.full(n, np.nan)
        mean_N[enough] = share_NC[:, 0]
        return {**counts, "human_mean": pa.array(mean_N, mask=~enough)}
    offsets = np.concatenate([[0], np.cumsum(enough * c)]).astype(np.int32)
    probs = pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(share_NC.ravel(), pa.float32()), mask=pa.array(~enough)
    )
    return {**counts, "human_probs": probs}


def check_table(task: Task, table: pa.Table, *, where: Callable[[int], str] | None = None) -> None:
    """Raises `ValueError` for the first thing that is wrong with an examples table.

    Columns and types as in `example_schema`, known splits, unique ids, texts that are not empty, known labels, finite
    values in `score_range`, distributions that sum to one, a labelled train split with at least two classes (or two
    values), and a development or test split with labels. `where(i)` names row i in messages (default: its id).
    """
    schema = example_schema(task)
    for field in schema:
        if field.name not in table.column_names:
            raise missing_column(f"task '{task.name}': the examples table", field.name, table.column_names)
    if not table.schema.equals(schema):
        raise ValueError(f"task '{task.name}': the examples table has columns\n{table.schema}\nexpected\n{schema}")
    columns = {name: table.column(name) for name in table.column_names}
    ids, split = columns["example_id"], columns["split"]

    def refuse(bad: Any, message: str, column: str | None = None) -> None:
        if len(found := np.flatnonzero(bad)):
            i = int(found[0])
            place = ids[i].as_py() if where is None else where(i)
            got = "" if column is None else f" {columns[column][i].as_py()!r}"
            text = message.replace("{}", got, 1)  # not format(): label names may hold braces
            raise ValueError(f"{place}: {text} ({len(found)} such row(s) in task '{task.name}')")

    refuse(
        mask(pc.invert(pc.is_in(split, pa.array(SPLITS)))),
        f"split is{{}}, expected one of {', '.join(SPLITS)}",
        "split",
    )
    if pc.count_distinct(ids).as_py() != len(ids):
        code_N = ids.combine_chunks().dictionary_encode().indices.to_numpy()
        again_N = np.ones(len(ids), dtype=bool)
        again_N[np.unique(code_N, return_index=True)[1]] = False
        refuse(
            again_N,
            "the example id{} occurs twice; ids are task/split/row, make the rows' numbers differ",
            "example_id",
        )
    remedy = "correct the data, or set data.empty_text=drop where it comes from files"
    for name in ("text_a", "text_b"):
        if name in columns:
            refuse(blank(columns[name]), f"empty text in '{name}'; {remedy}")
    if task.kind == "ranking":
        lists = columns["candidates"].combine_chunks()
        length_N = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
        refuse(
            length_N != task.n_outputs, f"{{}} are not {task.n_outputs} candidates, one for each label", "candidates"
        )
        empty_N = np.zeros(len(ids), dtype=bool)
        empty_N[pc.list_parent_indices(lists).to_numpy()[blank(lists.flatten())]] = True
        refuse(empty_N, f"empty text in 'candidates'; {remedy}")
    for name in ("true_probs", "human_probs"):
        if name in columns:
            refuse(
                _not_distributions(columns[name], task.n_outputs, SUM_TOLERANCE[name]),
                f"{name} is{{}}, expected {task.n_outputs} numbers >= 0 with the sum 1; normalise them",
                name,
            )
    gold = columns["gold_value" if task.kind == "regression" else "gold_label"]
    if task.kind == "regression":
        low, high = task.score_range
        value_N = gold.fill_null(low).to_numpy()
        refuse(
            ~np.isfinite(value_N),
            "the gold value is{}, expected a finite number; correct it or remove the row",
            "gold_value",
        )
        refuse(
            (value_N < low) | (value_N > high),
            f"the gold value is{{}}, expected one in [{low:g}, {high:g}]; correct it, or the task's score_range",
            "gold_value",
        )
    else:
        unknown = pc.and_(pc.invert(pc.is_in(gold, pa.array(task.labels))), gold.is_valid())
        refuse(mask(unknown), f"the gold label is{{}}, expected one of {', '.join(task.labels)}", "gold_label")
    in_train = pc.equal(split, "train")
    refuse(mask(pc.and_(in_train, gold.is_null())), "no gold label, which train needs; label the row or remove it")
    classes = gold.filter(in_train).unique().to_pylist()
    if len(classes) < 2:
        raise ValueError(
            f"task '{task.name}': train has {mask(in_train).sum()} row(s) with the gold {classes}, expected at least "
            "two different ones; nothing can be learned from one class. Check the label column and data.max_train."
        )
    if not mask(pc.and_(pc.is_in(split, pa.array([s for s in SPLITS if s not in TRAINS])), gold.is_valid())).any():
        raise ValueError(
            f"task '{task.name}': no labelled row in dev or test (splits: {', '.join(split.unique().to_pylist())}), "
            "expected a split to evaluate on; add a dev file with labels"
        )


def _not_distributions(probs: pa.ChunkedArray, c: int, tolerance: float) -> np.ndarray:
    lists = probs.combine_chunks()
    bad_N = mask(pc.not_equal(pc.list_value_length(lists), c))
    valid_N = mask(lists.is_valid()) & ~bad_N
    value_NC = lists.filter(pa.array(valid_N)).flatten().to_numpy(zero_copy_only=False).reshape(-1, c)
    fine = np.isfinite(value_NC).all(axis=1) & (value_NC >= 0).all(axis=1)
    bad_N[valid_N] = ~(fine & (np.abs(value_NC.sum(axis=1, dtype=np.float64) - 1) <= tolerance))
    return bad_N


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _trimmed(texts: pa.Array) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.equal(trimmed, ""), None, trimmed)


def _can_cast(value: pa.Scalar, kind: pa.DataType) -> bool:
    try:
        value.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _json_lists(rows: Rows, name: str, texts: pa.Array, item: pa.DataType) -> pa.Array:
    lists: list[list[Any] | None] = []
    for i, text in enumerate(texts.to_pylist()):
        try:
            value = None if text is None else json.loads(text)
            if value is not None and not isinstance(value, list):
                raise ValueError("not a list")
            pa.array([value], pa.list_(item))
        except (ValueError, RecursionError, pa.ArrowTypeError) as error:
            raise ValueError(
                f"{rows.where(i)} has {text!r:.200} in column '{name}', expected a JSON list of {item}: {error}"
            ) from error
        lists.append(value)
    return pa.array(lists, pa.list_(item))
