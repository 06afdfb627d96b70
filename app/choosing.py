"""Choices that several pages offer: whose student, and the split that something may be fitted on."""

from __future__ import annotations

from app import words
from app.state import choice, current_table
from core.views import NotDefined
from core.views.table import BASELINE, DEFAULT_STUDENT, TaskTable


def in_order(variants: list[str] | tuple[str, ...]) -> list[str]:
    """The distilled student first, then the one on gold alone, then the controls."""
    return sorted(variants, key=lambda name: (name != DEFAULT_STUDENT, name != BASELINE))


def chosen_student(table: TaskTable, *, taught: bool = False) -> str:
    """A student variant, the mean of its seeds. `taught`: one that heard teachers. Raises `NotDefined` for none."""
    students = in_order([name for name in table.students if not (taught and name == BASELINE)])
    if not students:
        which = "taught student" if taught else "student"
        raise NotDefined(f"No {which} has predictions on split '{table.split}' of task '{table.task.name}'.")
    return choice(
        "Student", students, key="student", default=students[0], words=words.taught_by, width=340,
        help="By what it was taught with; of several seeds the mean of their probabilities.",
    )  # fmt: skip


def fit_table(table: TaskTable, models: tuple[str, ...] = (), *, min_rows: int = 1) -> TaskTable | None:
    """The selection split, to fit temperatures and weights on; None where it is the split that is shown, where it has
    less gold than `min_rows`, or lacks one of `models`."""
    if table.split == "selection":
        return None
    try:
        fit = current_table(table.run, table.task, "selection")
    except ValueError:
        return None
    return fit if all(fit.has(name) for name in models) and int(fit.has_gold.sum()) >= min_rows else None
