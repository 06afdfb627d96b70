"""What figures need of numbers before they are drawn: checks, a stable sample, density, means of bins. No plotly here.

Three rules of size live here, measured in a browser: at most MAX_POINTS points are drawn (a box selection sends every
selected point back to the server, and beyond about 150,000 of them the connection breaks); everything goes into a chart
as a typed array (Python lists are some 80 times slower); `customdata` is one-dimensional int32.

Shapes: N examples, D drawn, B bins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
Int32Array = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]

MAX_POINTS = 20_000
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: multiplication by it permutes the 64-bit integers


def floats(name: str, values: npt.ArrayLike, *, ndim: int = 1) -> FloatArray:
    """`values` as float64 of `ndim` dimensions, nan allowed.

    Raises `ValueError` when there is nothing to draw: no values, none of them finite, or another shape.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim:
        raise ValueError(f"{name} has shape {array.shape}, expected {ndim} dimension{'s' if ndim > 1 else ''}")
    if array.size == 0:
        raise ValueError(f"{name} is empty: there is nothing to draw; loosen the filter")
    if not np.isfinite(array).any():
        raise ValueError(f"{name} has {array.size} values and none of them is a number: there is nothing to draw")
    return array


def same_length(**arrays: npt.NDArray[np.generic]) -> int:
    """The common first dimension. Raises `ValueError` that names all lengths where they differ."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        said = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise ValueError(f"{said}: expected one row an example in each")
    return next(iter(lengths.values()))


def row_ids(ids: npt.ArrayLike | None, n: int) -> Int32Array:
    """(N,) int32 row numbers, for `customdata`; 0..N-1 where `ids` is None.

    Raises `ValueError` for another length, for strings, and for numbers that int32 cannot hold.
    """
    if ids is None:
        return np.arange(n, dtype=np.int32)
    array = np.asarray(ids)
    if array.shape != (n,) or array.dtype.kind not in "iu":
        raise ValueError(f"ids are {array.dtype} of shape {array.shape}, expected {n} row numbers")
    if n and (array.min() < 0 or array.max() > np.iinfo(np.int32).max):
        raise ValueError(f"ids lie in {array.min()}..{array.max()}, expected row numbers that fit 31 bits")
    return array.astype(np.int32)


def drawn_rows(ids_N: Int32Array, limit: int = MAX_POINTS) -> npt.NDArray[np.int64]:
    """Positions of at most `limit` rows, ascending: those whose hashed id is smallest.

    The choice hangs on the ids alone, so the same examples are drawn on every rerun, and a filter that removes rows
    keeps the others on the screen.
    """
    if len(ids_N) <= limit:
        return np.arange(len(ids_N))
    order_N = ids_N.astype(np.uint64) * _GOLDEN  # wraps, which is the point
    order_N ^= order_N >> np.uint64(32)
    return np.sort(np.argpartition(order_N, limit)[:limit])


class Density(NamedTuple):
    """Counts on a grid of equal cells. `count_YX` is (B_y, B_x); the first cell begins at x_low, y_low."""

    count_YX: npt.NDArray[np.int64]
    x_low: float
    x_step: float
    y_low: float
    y_step: float


def density(
    x_N: npt.NDArray[np.floating],
    y_N: npt.NDArray[np.floating],
    *,
    n_bins: int,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
) -> Density:
    """How many finite (x, y) fall in each of n_bins x n_bins cells. The upper edge belongs to the last cell."""
    ok_N = np.isfinite(x_N) & np.isfinite(y_N)
    x_step, y_step = ((high - low) / n_bins for low, high in (x_range, y_range))
    column_N = cell_index(x_N[ok_N], x_range, n_bins)
    row_N = cell_index(y_N[ok_N], y_range, n_bins)
    inside_N = (column_N >= 0) & (row_N >= 0)
    flat_N = row_N[inside_N].astype(np.int64) * n_bins + column_N[inside_N]
    counts = np.bincount(flat_N, minlength=n_bins * n_bins).reshape(n_bins, n_bins)
    return Density(counts, x_range[0], x_step, y_range[0], y_step)


def cell_index(values_N: npt.NDArray[np.floating], value_range: tuple[float, float], n_bins: int) -> Int32Array:
    """(N,) the cell 0..n_bins-1 of each value, -1 outside `value_range` and for nan. The app's filters use the same."""
    low, high = value_range
    inside_N = (values_N >= low) & (values_N <= high)
    scaled_N = np.where(inside_N, (values_N - low) / (high - low) * n_bins, 0.0)
    return np.where(inside_N, np.minimum(scaled_N.astype(np.int32), n_bins - 1), -1).astype(np.int32)


def span(values: npt.NDArray[np.floating], *, pad: float = 0.03) -> tuple[float, float]:
    """(low, high) of the finite values, widened by `pad` of their range on each side; never empty."""
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    margin = (high - low) * pad or max(abs(low), 1.0) * pad
    return low - margin, high + margin


def mean_of(values: npt.NDArray[np.floating]) -> float:
    """Mean of the finite values, nan (and no warning) where there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def bin_means(values_N: npt.NDArray[np.floating], n_bins: int) -> FloatArray:
    """Means of n_bins stretches of nearly equal length, in order; `values_N` as it is when it is short enough.

    nan is left out of its stretch; a stretch of nothing but nan gives nan.
    """
    if len(values_N) <= n_bins:
        return np.asarray(values_N, dtype=np.float64)
    starts_B = np.linspace(0, len(values_N), n_bins, endpoint=False).astype(np.int64)
    ok_N = np.isfinite(values_N)
    sums_B = np.add.reduceat(np.where(ok_N, values_N, 0.0), starts_B)
    counts_B = np.add.reduceat(ok_N.astype(np.float64), starts_B)
    return np.divide(sums_B, counts_B, out=np.full(n_bins, np.nan), where=counts_B > 0)


def broken_lines(from_N: npt.NDArray[np.floating], to_N: npt.NDArray[np.floating]) -> Float32Array:
    """(3N,) from, to, nan, from, to, nan ...: N separate segments as one trace."""
    return np.column_stack([from_N, to_N, np.full(len(from_N), np.nan)]).ravel().astype(np.float32)
