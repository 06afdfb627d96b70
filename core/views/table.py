"""One task of one run on one split: examples, and what every voice says about them, joined by example id.

A `TaskTable` holds numbers as numpy columns, read when they are first asked for and kept while there is room
(core/views/kept), and leaves texts in the memory-mapped Arrow file: `texts(rows)` reads those rows and no other.
Columns that are computed from the outputs are in core/views/derived.

Deliberately absent: caching between objects (take `fingerprint` before `load_table`, and as the key), and any choice of
rows (core/views/filters).

Shapes: N examples, C classes, M members, S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from core.calibration import IntArray
from core.config import digest
from core.store import Run, lists_to_rows
from core.tasks import Task, did_you_mean, find_task
from core.views import NotDefined
from core.views.catalogue import Models, models_of_run, tasks_of_run
from core.views.kept import Kept, OfTable
from core.views.reading import (
    Float32,
    chunks,
    log_mean,
    log_probs_CN,
    or_none,
    read_outputs,
    splits_of_file,
    text_hits,
    whole,
)

DEFAULT_STUDENT = "kd"
BASELINE = "hard"


class Text(NamedTuple):
    """What a person reads. Of `text_b` and `candidates` one, or none."""

    example_id: str
    text_a: str
    text_b: str | None
    candidates: tuple[str, ...] | None


def fingerprint(run: Run, task: str) -> str:
    """16 digits that change whenever a file of this task in this run is made, replaced or gone, or a model has another
    role: a cache's key, for milliseconds. Take it before loading: then an entry may be newer than its key, never older.
    """
    models = models_of_run(run)
    paths = [run.examples_path(task), run.path / "ensembles.json"]
    paths += [run.predictions_path(name, task) for name in sorted(models.roles) if task in models.tasks[name]]
    stats = [(str(path.relative_to(run.path)), path.stat()) for path in paths if path.exists()]
    # The inode too: a file that is replaced within a tick of the clock, by one of the same size, has another.
    files = [(name, stat.st_mtime_ns, stat.st_size, stat.st_ino) for name, stat in stats]
    return digest([files, models.roles, models.taught_by, models.recipes])


def splits_of(run: Run, task: str) -> dict[str, int]:
    """Rows of each split in the task's examples."""
    counts = run.read_examples(task)["split"].value_counts().to_pylist()
    return {entry["values"]: entry["counts"] for entry in counts}


def load_table(run: Run, task: str, split: str, kept: Kept | None = None) -> TaskTable:
    """The examples of `split`; outputs of models follow when they are asked for. `kept`: shared by tables.

    Raises `ValueError` for an unknown task or split, with those that there are, and for a missing examples file.
    """
    rows = tasks_of_run(run)
    return TaskTable(run, find_task(task, rows), split, models_of_run(run), kept)


class TaskTable:
    """`ids` Arrow strings (N,) in the order of the file; `gold_N` (N,) index of the gold label, -1 where unknown, for
    regression the value, nan where unknown; `has_gold` (N,) where it is known; `truth_NC`, `humans_NC` distributions
    (N, C), nan in rows where unknown, None where no row has one; for regression `truth_N`, `truth_std_N`, `humans_N`.
    Never written to."""

    def __init__(self, run: Run, task: Task, split: str, models: Models, kept: Kept | None = None):
        self.run, self.task, self.split, self.models = run, task, split, models
        self._examples = run.read_examples(task.name)
        # Rows of the file: the selection split lies scattered among the rows that it was carved from.
        self.file_rows_N: IntArray = np.flatnonzero(np.asarray(pc.equal(self._examples["split"], split)))
        if not len(self.file_rows_N):
            known = pc.unique(self._examples["split"]).to_pylist()
            raise ValueError(
                f"task '{task.name}' has no rows in split '{split}'{did_you_mean(split, known)} It has: "
                f"{', '.join(known)}"
            )
        self.ids: pa.Array = whole(self._taken(self._examples["example_id"]))
        self.is_regression = task.kind == "regression"
        self.truth_NC = self.humans_NC = None
        self.truth_N = self.truth_std_N = self.humans_N = None
        if self.is_regression:
            self.gold_N = self._values("gold_value")
            self.truth_N, self.truth_std_N, self.humans_N = (
                or_none(self._values(name)) for name in ("true_mean", "true_std", "human_mean")
            )
        else:
            labels = self._taken(self._examples["gold_label"])
            index = pc.fill_null(pc.index_in(labels, pa.array(task.labels, labels.type)), -1)
            self.gold_N = np.asarray(index.to_numpy()).astype(np.int64)
            self.truth_NC, self.humans_NC = self._known_probs("true_probs"), self._known_probs("human_probs")
        self.has_gold: npt.NDArray[np.bool_] = np.asarray(
            np.isfinite(self.gold_N) if self.is_regression else self.gold_N >= 0
        )
        self._splits_of_model: dict[str, frozenset[str]] = {}
        self.kept = OfTable(kept)

    def __len__(self) -> int:
        return len(self.file_rows_N)

    # ---- models and voices
    @cached_property
    def members(self) -> tuple[str, ...]:
        """The M models behind the teacher that have this split, in the order of the recipe."""
        return tuple(name for name in self.models.teachers(self.task.name) if self.has(name))

    @cached_property
    def students(self) -> dict[str, dict[int, str]]:
        """Variant -> seed -> model."""
        found = self.models.students(self.task.name)
        kept = {variant: {seed: m for seed, m in seeds.items() if self.has(m)} for variant, seeds in found.items()}
        return {variant: seeds for variant, seeds in kept.items() if seeds}

    @cached_property
    def model_names(self) -> tuple[str, ...]:
        """Every model with outputs on this split: members, teachers, ensembles, soups, students."""
        kinds = ("member", "teacher", "ensemble", "soup", "student")
        names = (name for kind in kinds for name in self.models.of_kind(kind, self.task.name))
        return tuple(name for name in names if self.has(name))

    @cached_property
    def voices(self) -> tuple[str, ...]:
        """All that `log_probs` (for regression `values`) takes."""
        teacher = ("teacher",) if self.has_teacher else ()
        return tuple(dict.fromkeys((*teacher, *self.students, *self.model_names)))

    @property
    def has_teacher(self) -> bool:
        return self._ensemble() is not None or bool(self.members)

    @property
    def teacher_in_words(self) -> str:
        """Where the voice "teacher" comes from."""
        ensemble = self._ensemble()
        if ensemble is not None:
            return ensemble
        return f"mean of {', '.join(self.members)} (this run has no ensemble yet)" if self.members else "no teacher"

    def has(self, model: str) -> bool:
        """Does `model` have outputs on this split?"""
        if model not in self._splits_of_model:
            on_task = self.task.name in self.models.tasks.get(model, ())
            self._splits_of_model[model] = splits_of_file(self.run, model, self.task) if on_task else frozenset()
        return self.split in self._splits_of_model[model]

    def models_of(self, voice: str) -> tuple[str, ...]:
        """The models whose mean `voice` is; one for a model's name. Raises `NotDefined`
        for one that this run does not have here (yet), `ValueError` for a name that is no voice of it."""
        students = self.students
        if voice == "teacher" and self.has_teacher:
            ensemble = self._ensemble()
            return self.members if ensemble is None else (ensemble,)
        if voice in students:
            return tuple(students[voice].values())
        if self.has(voice):
            return (voice,)
        absent = ("teacher", DEFAULT_STUDENT, BASELINE, *self.models.roles, *self.models.students(self.task.name))
        if voice in absent:
            raise NotDefined(
                f"This run has no predictions of '{voice}' on split '{self.split}' of task '{self.task.name}'; it has "
                f"those of {', '.join(self.voices) or 'nobody yet'}."
            )
        raise ValueError(
            f"voice '{voice}' is not known{did_you_mean(voice, self.voices)} Voices on split '{self.split}' of task "
            f"'{self.task.name}': {', '.join(self.voices) or 'none yet'}"
        )

    # ---- outputs
    def outputs(self, model: str) -> Float32:
        """Logits (N, C) of `model`, for regression values (N,), in the order of `ids`.

        Raises `ValueError` for a missing file, ids without a row, other label names than the task's, and numbers that
        are not finite (with the id)."""
        read = partial(read_outputs, self.run, model, self.task, split=self.split, ids=self.ids)
        return cast(Float32, self.kept.once(("outputs", model), read))

    def log_probs(self, voice: str) -> Float32:
        """Log-probabilities (N, C), nats. Several models are averaged as probabilities, in the log domain: logits of
        1e3 underflow as probabilities and would give infinite divergences. Raises `NotDefined` for regression."""
        self._require_classes("probabilities")

        def averaged() -> Float32:
            logits = [self.outputs(model) for model in self.models_of(voice)]
            mean_NC = np.empty(logits[0].shape, np.float32)
            for part in chunks(len(self)):
                log_p_MCn = np.stack([log_probs_CN(logits_NC[part]) for logits_NC in logits])
                mean_NC[part] = log_mean(log_p_MCn).T if len(logits) > 1 else log_p_MCn[0].T
            return mean_NC

        return cast(Float32, self.kept.once(("log_probs", voice), averaged))

    def probs(self, voice: str) -> Float32:
        """Probabilities (N, C)."""
        return np.exp(self.log_probs(voice))

    def values(self, voice: str) -> Float32:
        """Regression: (N,), the mean over the voice's models. Raises `NotDefined` for tasks with classes."""
        if not self.is_regression:
            raise NotDefined(f"Task '{self.task.name}' has classes; only a regression has values.")

        def averaged() -> Float32:
            return np.mean([self.outputs(model) for model in self.models_of(voice)], axis=0)

        return cast(Float32, self.kept.once(("values", voice), averaged))

    def answers(self, voice: str) -> npt.NDArray[np.int16]:
        """Index of the most probable class (N,); ties: the first. "gold" is a voice here, -1 where unknown."""
        self._require_classes("an answer")
        if voice == "gold":
            return self.gold_N.astype(np.int16)

        def chosen() -> npt.NDArray[np.int16]:
            models = self.models_of(voice)
            # The outputs themselves where they are one model's: rounding log-probabilities could make a tie.
            said_NC = self.outputs(models[0]) if len(models) == 1 else self.log_probs(voice)
            return said_NC.argmax(axis=1).astype(np.int16)

        return cast("npt.NDArray[np.int16]", self.kept.once(("answers", voice), chosen))

    def is_right(self, voice: str) -> npt.NDArray[np.bool_]:
        """(N,); False where gold is unknown, see `has_gold`."""
        return np.asarray(self.answers(voice) == self.gold_N)

    def known(self, which: Literal["truth", "humans"]) -> Float32:
        """(N, C) of the truth or the annotators, nan in rows where unknown. Raises `NotDefined` where nothing is."""
        self._require_classes("a distribution of it")
        found = self.truth_NC if which == "truth" else self.humans_NC
        if found is None:
            words = "true probabilities" if which == "truth" else "annotators' labels"
            raise NotDefined(f"Split '{self.split}' of task '{self.task.name}' has no {words}.")
        return found

    def true_mean(self) -> npt.NDArray[np.float64]:
        """Regression: (N,), nan where unknown. Raises `NotDefined` where it is nowhere known."""
        if self.truth_N is None:
            raise NotDefined(f"Split '{self.split}' of task '{self.task.name}' has no true values.")
        return self.truth_N

    # ---- single examples
    def row_of(self, example_id: str) -> int:
        """The row with this id. Raises `ValueError` that says in which split it is, if in another."""
        row = pc.index(self.ids, pa.scalar(example_id, self.ids.type)).as_py()
        if row >= 0:
            return int(row)
        elsewhere = pc.index(self._examples["example_id"], example_id).as_py()
        where = "" if elsewhere < 0 else f"; it is in split '{self._examples['split'][elsewhere].as_py()}'"
        raise ValueError(f"no example '{example_id}' in split '{self.split}' of task '{self.task.name}'{where}")

    def texts(self, rows: npt.ArrayLike) -> list[Text]:
        """Ids and texts of `rows`, read from the mapped file: meant for a page of them, 10 microseconds a row."""
        names = [
            name for name in ("example_id", "text_a", "text_b", "candidates") if name in self._examples.column_names
        ]
        found = []
        for file_row in self.file_rows_N[np.asarray(rows, np.int64)].tolist():
            cells = {name: self._examples[name][file_row].as_py() for name in names}
            candidates = None if cells.get("candidates") is None else tuple(cells["candidates"])
            found.append(Text(cells["example_id"], cells["text_a"], cells.get("text_b"), candidates))
        return found

    def contains(self, text: str) -> npt.NDArray[np.bool_]:
        """(N,): does a text of the example hold `text`? Without regard to case; a scan of the mapped columns."""

        def scanned() -> npt.NDArray[np.bool_]:
            found_N = np.zeros(len(self._examples), bool)
            for name in ("text_a", "text_b", "candidates"):
                if name in self._examples.column_names:
                    found_N |= text_hits(self._examples[name], text)
            return found_N[self.file_rows_N]

        return cast("npt.NDArray[np.bool_]", self.kept.once(("contains", text), scanned))

    # ---- reading
    def _ensemble(self) -> str | None:
        name = self.models.taught_by
        return name if name is not None and self.has(name) else None

    def _require_classes(self, what: str) -> None:
        if self.is_regression:
            raise NotDefined(f"Task '{self.task.name}' is a regression: there are no classes to have {what}.")

    def _taken(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        first, last, n = int(self.file_rows_N[0]), int(self.file_rows_N[-1]), len(self.file_rows_N)
        # A split without gaps is a slice of the mapped file and costs no memory.
        return column.slice(first, n) if last - first + 1 == n else column.take(pa.array(self.file_rows_N))

    def _values(self, name: str) -> npt.NDArray[np.float64]:
        if name not in self._examples.column_names:
            return np.full(len(self), np.nan)
        return self._taken(self._examples[name]).to_numpy(zero_copy_only=False).astype(np.float64)

    def _known_probs(self, name: str) -> Float32 | None:
        if name not in self._examples.column_names:
            return None
        column = self._taken(self._examples[name])
        if column.null_count == len(column):
            return None
        return lists_to_rows(column).astype(np.float32, copy=False)


def require_three_classes(task: Task, what: str) -> None:
    """Raises `NotDefined` where there is one wrong class, or none: nothing is said between wrong classes."""
    if task.kind == "regression":
        raise NotDefined(f"Task '{task.name}' is a regression: there are no classes, hence no {what}.")
    if task.n_outputs < 3:
        raise NotDefined(
            f"Task '{task.name}' has two classes, so one wrong class: a soft target is one number there, and there is "
            f"no {what}. Look at a task with three classes or more."
        )


def require_members(table: TaskTable, what: str) -> Sequence[str]:
    """The M >= 2 members of the teacher; raises `NotDefined` where there are fewer."""
    members = table.members
    if len(members) < 2:
        have = "no teachers" if not members else f"one teacher ({members[0]})"
        raise NotDefined(f"Task '{table.task.name}' has {have} on split '{table.split}', and {what} needs two.")
    return members
