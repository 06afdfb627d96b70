"""How many examples: of each value of a facet, in each cell of a confusion, in each cell of a density.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from core.calibration import FloatArray, IntArray
from core.views.derived import COHORTS, available, column
from core.views.table import BASELINE, DEFAULT_STUDENT, TaskTable


class Density(NamedTuple):
    """Counts (X, Y) over cells with edges (X + 1,) and (Y + 1,); `n_unknown` rows had no number in x or y."""

    counts: IntArray
    x_edges: FloatArray
    y_edges: FloatArray
    n_unknown: int


def facets(
    table: TaskTable, rows: npt.ArrayLike | None = None, *, student: str = DEFAULT_STUDENT
) -> dict[str, dict[str, int]]:
    """Among `rows` (None: all), the count of each value of every facet that the table has: `gold`, `teacher`,
    `student`, `baseline`, `cohort`, `agree`, `unanimous`; keys and values as in `core.views.filters`, which makes each
    count a link. Unknown gold is in no count. Empty for regression."""
    if table.is_regression:
        return {}
    columns = available(table, student=student)
    voices = {"gold": "gold"} if table.has_gold.any() else {}
    voices |= {"teacher": "teacher"} if table.has_teacher else {}
    voices |= {name: v for name, v in (("student", student), ("baseline", BASELINE)) if v in table.voices}
    found = {name: _counts(table.answers(voice), rows, table.task.labels) for name, voice in voices.items()}
    if "cohort" in columns:
        found["cohort"] = _counts(column(table, "cohort", student=student), rows, COHORTS)
    for name in ("agree", "unanimous"):
        if name in columns:
            found[name] = _counts(column(table, name, student=student).astype(np.int8), rows, ("no", "yes"))
    return found


def confusion(table: TaskTable, a: str, b: str, rows: npt.ArrayLike | None = None) -> IntArray:
    """(C, C): how often voice `a` (row) and voice `b` (column) answer what, "gold" being a voice. Rows without gold are
    left out. Raises `NotDefined` for regression."""
    a_N, b_N = (table.answers(voice).astype(np.int64) for voice in (a, b))
    if rows is not None:
        a_N, b_N = a_N[np.asarray(rows)], b_N[np.asarray(rows)]
    known_N, c = (a_N >= 0) & (b_N >= 0), table.task.n_outputs
    return np.bincount(a_N[known_N] * c + b_N[known_N], minlength=c * c).reshape(c, c)


def density(
    table: TaskTable,
    x: str,
    y: str,
    rows: npt.ArrayLike | None = None,
    *,
    bins: int = 150,
    student: str = DEFAULT_STUDENT,
) -> Density:
    """Two columns against each other, for a picture whose size does not grow with N (such as `entropy` against
    `student_entropy`: what uncertainty was passed on). Both axes have the same edges where both are entropies or both
    probabilities, so that the diagonal means equal. Raises as `column` does."""
    x_N, y_N = (column(table, name, student=student).astype(np.float64) for name in (x, y))
    if rows is not None:
        x_N, y_N = x_N[np.asarray(rows)], y_N[np.asarray(rows)]
    known_N = np.isfinite(x_N) & np.isfinite(y_N)
    x_n, y_n = x_N[known_N], y_N[known_N]
    spans = [_span(table, x, x_n), _span(table, y, y_n)]
    counts, x_edges, y_edges = np.histogram2d(x_n, y_n, bins=bins, range=spans)
    return Density(counts.astype(np.int64), x_edges, y_edges, int((~known_N).sum()))


def _span(table: TaskTable, name: str, values_n: FloatArray) -> tuple[float, float]:
    if "entropy" in name:
        # float32 may round just above log C, and what is beyond the last edge would not be counted.
        return 0.0, float(np.log(table.task.n_outputs)) * (1 + 1e-6)
    if "prob" in name or "confidence" in name:
        return 0.0, 1.0 + 1e-6
    if not len(values_n):
        return 0.0, 1.0
    low, high = float(values_n.min()), float(values_n.max())
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _counts(codes_N: np.ndarray, rows: npt.ArrayLike | None, names: tuple[str, ...]) -> dict[str, int]:
    codes = codes_N if rows is None else codes_N[np.asarray(rows)]
    # A comparison a name on small integers: ten times faster than np.bincount, which widens them first.
    return {name: int(np.count_nonzero(codes == i)) for i, name in enumerate(names)}
