"""Which examples: a predicate that is a value, a URL and a sentence, and the rows that it holds for.

A selection is kept as its predicate and not as a list of ids (Embedding Atlas): that survives a million examples, fits
a URL, and means the same tomorrow. `from_query(to_query(f), task) == f`, exactly.

    ?gold=neutral&teacher=entailment&cohort=mis-taught&kl=0.5:&text=not&student_is=hard

Numbers are ranges `low:high`, both ends included and either one absent; flags are `yes` or `no`; the other values are
names. What is unknown raises `ValueError` with the nearest known name: a link that is half understood shows the wrong
examples and looks right.

Not here: paging, order and samples (core/views/paging).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from core.calibration import IntArray
from core.tasks import SPLITS, Task, did_you_mean
from core.views.derived import COHORTS, COLUMNS, column
from core.views.table import BASELINE, DEFAULT_STUDENT, TaskTable

_LABELS = ("gold", "teacher", "student", "baseline")  # fields that hold a label's name
_FLAGS = ("agree", "unanimous")
RANGED = tuple(name for name, spec in COLUMNS.items() if spec.kind == "number")


class Range(NamedTuple):
    """low <= column <= high; None: no bound on that side. Rows where the column is unknown are out."""

    column: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Filter:
    """All that is given must hold; `Filter()` holds for every example.

    `gold`, `teacher`, `student`, `baseline` are label names: what is gold, and what each of the three answers.
    `student_is` says who "the student" is, here and in the columns: a variant or a model's name. `text`: part of a
    text, without regard to case. `id`: one example. `ranges` are kept in the order of the columns, one a column.
    """

    split: str | None = None
    gold: str | None = None
    teacher: str | None = None
    student: str | None = None
    baseline: str | None = None
    student_is: str = DEFAULT_STUDENT
    cohort: str | None = None
    agree: bool | None = None
    unanimous: bool | None = None
    text: str | None = None
    id: str | None = None
    ranges: tuple[Range, ...] = ()

    def __post_init__(self) -> None:
        for name in ("split", *_LABELS, "student_is", "cohort", "text", "id"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise ValueError(f"filter '{name}' is {value!r}, expected a text that is not empty, or nothing")
        for name in _FLAGS:
            if getattr(self, name) not in (None, True, False):
                raise ValueError(f"filter '{name}' is {getattr(self, name)!r}, expected yes or no")
        if self.split is not None:
            _one_of("split", self.split, SPLITS)
        if self.cohort is not None:
            _one_of("cohort", self.cohort, COHORTS)
        names = [entry.column for entry in self.ranges]
        for entry in self.ranges:
            _one_of("column", entry.column, RANGED)
            _check_range(entry)
        if len(set(names)) != len(names):
            raise ValueError(f"filter has two ranges of one column: {', '.join(names)}; give one")
        # One order, so that equal filters are equal.
        ordered = tuple(Range(*entry) for entry in sorted(self.ranges, key=lambda entry: RANGED.index(entry.column)))
        object.__setattr__(self, "ranges", ordered)

    def but(self, **changes: object) -> Filter:
        """A copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def with_range(self, name: str, low: float | None = None, high: float | None = None) -> Filter:
        """A copy with this range in the place of the column's old one; without bounds the range goes."""
        kept = tuple(entry for entry in self.ranges if entry.column != name)
        return replace(self, ranges=kept if low is None and high is None else (*kept, Range(name, low, high)))


KEYS = tuple(entry.name for entry in fields(Filter) if entry.name != "ranges")


# ---- as a URL ------------------------------------------------------------------------------------------------------
def to_query(filter_: Filter) -> dict[str, str]:
    """The URL's parameters, in a fixed order; what is not set is absent."""
    query: dict[str, str] = {}
    for name in KEYS:
        value = getattr(filter_, name)
        if isinstance(value, bool):
            query[name] = "yes" if value else "no"
        elif value is not None and not (name == "student_is" and value == DEFAULT_STUDENT):
            query[name] = value
    for name, low, high in filter_.ranges:
        query[name] = f"{_number_text(low)}:{_number_text(high)}"
    return query


def from_query(query: Mapping[str, str], task: Task) -> Filter:
    """The inverse of `to_query`. Raises `ValueError` that says what it got, what it expected and the nearest: for an
    unknown key, a value that is none, a label that is not of `task`, a column that its kind of task does not have."""
    values: dict[str, object] = {}
    ranges = []
    for key, text in query.items():
        if not isinstance(text, str):
            raise ValueError(f"'{key}' in the link is {text!r}, expected one text; give each key once")
        if key in RANGED:
            ranges.append(_range_of(key, text))
        elif key in _FLAGS:
            values[key] = {"yes": True, "no": False}[_one_of(key, text, ("yes", "no"))]
        elif key in KEYS:
            values[key] = text
        else:
            known = (*KEYS, *RANGED)
            raise ValueError(f"unknown key '{key}' in the link{did_you_mean(key, known)} Known: {', '.join(known)}")
    filter_ = Filter(**values, ranges=tuple(ranges))  # type: ignore[arg-type]
    check(filter_, task)
    return filter_


def check(filter_: Filter, task: Task) -> None:
    """Raises `ValueError` for labels that `task` does not have, and columns of another kind of task."""
    kind = "regression" if task.kind == "regression" else "classes"
    for name in _LABELS:
        label = getattr(filter_, name)
        if label is not None:
            if kind == "regression":
                raise ValueError(f"'{name}={label}': task '{task.name}' is a regression and has no labels")
            _one_of(name, label, task.labels)
    for name in ("cohort", *_FLAGS):
        if getattr(filter_, name) is not None and kind == "regression":
            raise ValueError(f"'{name}': task '{task.name}' is a regression, which has no {COLUMNS[name].words}")
    for entry in filter_.ranges:
        if COLUMNS[entry.column].of != kind:
            known = [name for name in RANGED if COLUMNS[name].of == kind]
            raise ValueError(
                f"'{entry.column}': task '{task.name}' of kind '{task.kind}' has no such column; it has "
                f"{', '.join(known)}"
            )


def in_words(filter_: Filter) -> str:
    """One line: "gold is neutral, the teacher says entailment, KL(teacher, student) at least 0.5"."""
    says = {"teacher": "the teacher", "student": "the student", "baseline": "the student without distillation"}
    parts = [] if filter_.split is None else [f"split {filter_.split}"]
    if filter_.gold is not None:
        parts.append(f"gold is {filter_.gold}")
    parts += [
        f"{who} says {getattr(filter_, name)}" for name, who in says.items() if getattr(filter_, name) is not None
    ]
    if filter_.cohort is not None:
        parts.append(f"cohort {filter_.cohort}")
    if filter_.agree is not None:
        parts.append(f"teacher and student {'agree' if filter_.agree else 'disagree'}")
    if filter_.unanimous is not None:
        parts.append(f"the members are {'' if filter_.unanimous else 'not '}unanimous")
    for name, low, high in filter_.ranges:
        bounds = f"at least {low:g}" if high is None else f"at most {high:g}" if low is None else f"{low:g} to {high:g}"
        parts.append(f"{COLUMNS[name].words} {bounds}")
    if filter_.text is not None:
        parts.append(f"a text contains '{filter_.text}'")
    if filter_.id is not None:
        parts.append(f"id {filter_.id}")
    if filter_.student_is != DEFAULT_STUDENT:
        parts.append(f"the student is {filter_.student_is}")
    return ", ".join(parts) or "all examples"


# ---- as rows -------------------------------------------------------------------------------------------------------
def mask(filter_: Filter, table: TaskTable) -> npt.NDArray[np.bool_]:
    """(N,): for which examples does it hold? Kept with the table. Raises `ValueError` as `check`, for another split
    than the table's and an unknown id; `NotDefined` for a column that this table does not have."""
    return cast("npt.NDArray[np.bool_]", table.kept.once(("mask", filter_), lambda: _mask(filter_, table)))


def _mask(filter_: Filter, table: TaskTable) -> npt.NDArray[np.bool_]:
    check(filter_, table.task)
    if filter_.split not in (None, table.split):
        raise ValueError(f"the filter is on split '{filter_.split}', the table holds '{table.split}'; load that split")
    labels, student = table.task.labels, filter_.student_is
    if student not in (DEFAULT_STUDENT, *table.voices):
        table.models_of(student)  # raises, with the voices that there are
    found_N = np.ones(len(table), bool)
    if filter_.id is not None:
        row = table.row_of(filter_.id)
        found_N[:] = False
        found_N[row] = True
    for name, voice in zip(_LABELS, ("gold", "teacher", student, BASELINE), strict=True):
        label = getattr(filter_, name)
        if label is not None:
            found_N &= table.answers(voice) == labels.index(label)
    if filter_.cohort is not None:
        found_N &= column(table, "cohort", student=student) == COHORTS.index(filter_.cohort)
    for name in _FLAGS:
        wanted = getattr(filter_, name)
        if wanted is not None:
            found_N &= column(table, name, student=student) == wanted
    for name, low, high in filter_.ranges:
        values_N = column(table, name, student=student)
        # Bounds in the column's precision: a value that is shown as 0.7 must be at least 0.7.
        if low is not None:
            found_N &= values_N >= _float32(low)
        if high is not None:
            found_N &= values_N <= _float32(high)
    if filter_.text is not None:  # last and slowest
        found_N &= table.contains(filter_.text)
    return found_N


def apply(filter_: Filter, table: TaskTable) -> IntArray:
    """The rows for which it holds, ascending: see `mask`. Kept with the table, so that sessions share them."""
    rows: IntArray = table.kept.once(("rows", filter_), lambda: np.flatnonzero(mask(filter_, table)))
    return rows


# ---- details -------------------------------------------------------------------------------------------------------
def _one_of(what: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(
            f"{what} '{value}' is not known{did_you_mean(value, known)} Expected one of {', '.join(known)}"
        )
    return value


def _check_range(entry: Range) -> None:
    for bound in (entry.low, entry.high):
        if bound is not None and (isinstance(bound, bool) or not math.isfinite(bound)):
            raise ValueError(f"the range of '{entry.column}' has the bound {bound!r}, expected a finite number or none")
    if entry.low is None and entry.high is None:
        raise ValueError(f"the range of '{entry.column}' has no bound; leave it out, or give low:high")
    if entry.low is not None and entry.high is not None and entry.low > entry.high:
        raise ValueError(f"the range of '{entry.column}' is {entry.low:g}:{entry.high:g}, expected low before high")


def _range_of(name: str, text: str) -> Range:
    low, colon, high = text.partition(":")
    try:
        bounds = [float(part) if part else None for part in (low, high)]
    except ValueError:
        colon = ""
    if not colon:
        raise ValueError(f"'{name}={text}' in the link is no range, expected low:high, low: or :high, such as 0.5:")
    return Range(name, *bounds)


def _float32(bound: float) -> np.float32:
    largest = float(np.finfo(np.float32).max)
    return np.float32(min(max(bound, -largest), largest))


def _number_text(value: float | None) -> str:
    """`repr` gives the shortest text that reads back as the same number."""
    return "" if value is None else repr(float(value))
