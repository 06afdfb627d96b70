"""Rows in an order, a page at a time; and a sample to draw that stays the same from run to run.

A table of examples is a page of 25-100 rows that is picked here, never the whole frame: a browser takes 18 seconds for
a million rows. A scatter plot draws at most SAMPLE_ROWS: at 150,000 selected points the session dies.

Shapes: N examples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core.calibration import IntArray
from core.views.derived import COLUMNS, column
from core.views.table import DEFAULT_STUDENT, TaskTable

SAMPLE_ROWS = 20_000
# Below this share of the rows a partition is cheaper than a sort: page 1 of a million rows in 15 ms and not 120.
PARTITION_SHARE = 0.1


class Page(NamedTuple):
    """`rows` of this page, in order; `page` counts from 1 and is 1 of 1 where there are no rows."""

    rows: IntArray
    page: int
    n_pages: int
    n_rows: int


def page(
    table: TaskTable,
    rows: npt.ArrayLike,
    *,
    order_by: str | None = None,
    descending: bool = False,
    page: int = 1,
    page_size: int = 50,
    student: str = DEFAULT_STUDENT,
) -> Page:
    """One page of `rows` in the order of a column; None: the order of the file. Equal values keep the order of the
    file, in both directions, and unknown ones (nan, -1) come last in both. A page beyond the last is the last: a
    narrower filter must not end in an error.

    Raises `ValueError` for an unknown column, page or page_size below 1; `NotDefined` where the table has no such
    column.
    """
    if page < 1 or page_size < 1:
        raise ValueError(f"page is {page} and page_size {page_size}, expected at least 1 of both")
    rows_n = np.asarray(rows, np.int64)
    n_pages = max(1, -(-len(rows_n) // page_size))
    page = min(page, n_pages)
    first, last = (page - 1) * page_size, min(page * page_size, len(rows_n))
    if order_by is None:
        shown = rows_n[first:last]
    else:
        values_N = column(table, order_by, student=student)
        values_n = values_N[rows_n].astype(np.float32, copy=False)
        unknown_n = np.isnan(values_n) | ((values_n < 0) if COLUMNS[order_by].kind == "code" else False)
        keys_n = np.where(unknown_n, np.inf, -values_n if descending else values_n)
        shown = rows_n[_smallest(keys_n, last)[first:]]
    return Page(shown, page, n_pages, len(rows_n))


def _smallest(keys_n: np.ndarray, k: int) -> IntArray:
    """Indices of the k smallest keys in order, ties by index: the head of a stable argsort."""
    if k < PARTITION_SHARE * len(keys_n):
        # All that tie with the k-th are candidates, so that a tie across the page's end is decided as a sort would.
        candidates = np.flatnonzero(keys_n <= np.partition(keys_n, k - 1)[k - 1])
        return candidates[np.argsort(keys_n[candidates], kind="stable")[:k]]
    return np.argsort(keys_n, kind="stable")[:k]


# ---- samples -------------------------------------------------------------------------------------------------------
def sample(table: TaskTable, rows: npt.ArrayLike, n: int = SAMPLE_ROWS) -> IntArray:
    """At most n of `rows`, ascending: those whose ids have the smallest hashes. So a run made again draws the same
    examples, and a narrower filter draws what it keeps of the wider one's and more."""
    rows_n = np.asarray(rows, np.int64)
    if len(rows_n) <= n:
        return np.sort(rows_n)
    hash_N = table.kept.once("hash", lambda: hash_ids(table.ids))
    return np.sort(rows_n[_smallest(hash_N[rows_n], n)])


def sample_rows(ids: npt.ArrayLike | pa.Array, n: int = SAMPLE_ROWS) -> IntArray:
    """Positions of at most n of `ids`, ascending, chosen by the ids alone; see `sample`."""
    hash_N = hash_ids(ids)
    return np.arange(len(hash_N)) if len(hash_N) <= n else np.sort(_smallest(hash_N, n))


def hash_ids(ids: npt.ArrayLike | pa.Array) -> npt.NDArray[np.uint64]:
    """FNV-1a over each id's UTF-8 bytes, then splitmix64's mixing, because ids differ in their last digits and the
    order of the hashes is used. Python's own hash is another one in each process. 0.2 s for a million ids."""
    strings = pa.array(ids, pa.string()) if not isinstance(ids, pa.Array) else ids.cast(pa.string())
    n = len(strings)
    _, offsets, data = strings.buffers()
    starts_N = np.frombuffer(offsets, np.int32)[strings.offset : strings.offset + n + 1].astype(np.int64)
    bytes_ = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    lengths_N = np.diff(starts_N)
    starts_N = starts_N[:-1]
    hash_N = np.full(n, 0xCBF29CE484222325, np.uint64)
    for i in range(int(lengths_N.max(initial=0))):
        byte_N = bytes_[np.minimum(starts_N + i, len(bytes_) - 1)].astype(np.uint64)
        hash_N = np.where(i < lengths_N, (hash_N ^ byte_N) * np.uint64(0x100000001B3), hash_N)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        hash_N = (hash_N ^ (hash_N >> np.uint64(shift))) * np.uint64(factor)
    return hash_N
