"""A task is a row: its columns, label names, kind, head, metrics and whether it has a teacher.

The tables at the bottom hold the embedded suite's six tasks, GLUE's nine, SNLI and SciTail. A user's own tasks
come from YAML (`load_tasks_yaml`) and become the same rows, so nothing after this file knows where a task is from.

Not here: reading the rows' files (core/data) and turning text into tokens (core/batching).

One example is one decision. For `classification` it is a distribution over `labels`; for `regression` a value in
`score_range`; for `ranking` a distribution over the question's candidates, whose number is the same for every
question of the task, so that logits are (N, C) everywhere and the labels are "1", "2", ... "C".
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import yaml

Kind = Literal["classification", "regression", "ranking"]
Head = Literal["linear", "san", "similarity", "ranking"]

# Which heads can serve which kind (1901.11504: the four task-specific layers of MT-DNN).
HEADS_OF_KIND: dict[str, tuple[Head, ...]] = {
    "classification": ("linear", "san"),
    "regression": ("similarity", "san"),
    "ranking": ("ranking",),
}
METRICS_OF_KIND: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "macro_f1", "mcc"),
    "regression": ("pearson", "spearman"),
    "ranking": ("accuracy", "mrr"),
}
SPLITS = ("train", "selection", "dev", "dev_mm", "test", "test_mm", "ax")  # ax: GLUE's diagnostic set, for MNLI


@dataclass(frozen=True, kw_only=True)
class Task:
    """One row of the task table.

    `text_a`, `text_b`, `label` name columns of the source files (`text_b=None`: single sentence). `label_values`
    are the raw values that stand for `labels`, in the same order (empty: the names themselves); rows whose label is
    `no_gold` have no majority and are dropped. `human_columns` hold single annotators' labels, or lists of them.
    `files` maps a split to a file inside `folder` (or one of `other_folders`); a split may have several entries, of
    which the first found is read. `columns` names the columns of files without a header line. `skip_malformed` drops
    and counts rows with too few fields. `head_dropout=None` takes the run's default. `metrics` are averaged into the
    task's score, as GLUE does; the first is the headline.
    """

    name: str
    kind: Kind = "classification"
    head: Head = "linear"
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    has_teacher: bool = False
    head_dropout: float | None = None
    score_range: tuple[float, float] = (0.0, 5.0)
    text_a: str = "text_a"
    text_b: str | None = None
    label: str = "label"
    label_values: tuple[str, ...] = ()
    no_gold: str | None = None
    folder: str = ""
    other_folders: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    columns: tuple[str, ...] = ()
    skip_malformed: bool = False
    human_columns: tuple[str, ...] = ()
    candidates: str | None = None
    hub: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        c, heads, metrics = len(self.labels), HEADS_OF_KIND.get(self.kind, ()), METRICS_OF_KIND.get(self.kind, ())
        misfit = next((metric for metric in self.metrics if metric not in metrics), None)
        raw, numbers = self.label_values, tuple(str(i + 1) for i in range(c))
        ranking, pair, span = self.kind == "ranking", self.text_b is not None, self.score_range
        of_kind = f"does not fit kind '{self.kind}', expected one of"
        for wrong, message in (
            # The name becomes a file name and a part of example ids.
            (not re.fullmatch(r"\w[\w.-]*", self.name), "a name has letters, digits, '_', '-' and '.' only; rename it"),
            (not heads, f"kind is {self.kind!r}, expected one of {', '.join(HEADS_OF_KIND)}"),
            (self.head not in heads, f"head '{self.head}' {of_kind} {', '.join(heads)}"),
            (
                self.head == "san" and not pair,
                f"head 'san' reads two texts, but text_b is not set; use head '{next(iter(heads), 'linear')}'",
            ),
            (self.kind != "regression" and c < 2, f"{c} label(s) given, expected at least 2 in 'labels'"),
            (len(set(self.labels)) != c, f"labels repeat: {list(self.labels)}"),
            (len(raw) not in (0, c), f"{len(raw)} label_values for {c} labels; give one for each, in the same order"),
            (len(set(raw)) != len(raw), f"label_values repeat: {list(raw)}"),
            (not self.metrics, f"metrics is empty, expected at least one of {', '.join(metrics)}"),
            (misfit is not None, f"metric '{misfit}' {of_kind} {', '.join(metrics)}"),
            ("f1" in self.metrics and c != 2, f"metric 'f1' needs two classes, got {c}; use 'macro_f1'"),
            (len(span) != 2 or not span[0] < span[-1], f"score_range is {span}, expected [lowest, highest]"),
            (ranking and pair, "kind 'ranking' has 'candidates' in the place of text_b; remove text_b"),
            (ranking and self.labels != numbers, f"labels are {self.labels}, expected {numbers}, one a candidate"),
            (ranking != bool(self.candidates), "'candidates', a column of lists, belongs to kind 'ranking' alone"),
        ):
            if wrong:
                raise ValueError(f"task '{self.name}': {message}")

    @property
    def n_outputs(self) -> int:
        """C: width of a row of logits; 1 for regression."""
        return 1 if self.kind == "regression" else len(self.labels)

    @property
    def is_pair(self) -> bool:
        return self.text_b is not None


def example_id(task: str, split: str, row: int) -> str:
    """The key that joins every table of a run, for example `mnli/train/0000042`."""
    return f"{task}/{split}/{row:07d}"


def example_schema(task: Task) -> pa.Schema:
    """Columns of `examples/<task>.arrow`. Unlabelled rows have a null gold; truth and humans are null where unknown.

    `gold_label` is a label's name (for ranking the number of the relevant candidate, from "1"). `true_probs` and
    `human_probs` have C entries in the order of `task.labels`, which also travels in the schema's metadata.
    """
    columns = [("example_id", pa.string()), ("split", pa.string()), ("text_a", pa.string())]
    if task.kind == "ranking":
        columns += [("candidates", pa.list_(pa.string()))]
    elif task.is_pair:
        columns += [("text_b", pa.string())]
    if task.kind == "regression":
        columns += [("gold_value", pa.float32()), ("true_mean", pa.float32()), ("true_std", pa.float32())]
        columns += [("human_mean", pa.float32())]
    else:
        columns += [("gold_label", pa.string()), ("true_probs", pa.list_(pa.float32()))]
        columns += [("human_probs", pa.list_(pa.float32()))]
    columns += [("n_humans", pa.int16())]
    return pa.schema(columns, metadata={"task": task.name, "kind": task.kind, "labels": json.dumps(task.labels)})


def _files(*names: str) -> tuple[tuple[str, str], ...]:
    """`{}` stands for the split; of several names the first one found is read."""
    return tuple((split, name.format(split)) for split in ("train", "dev", "test") for name in names)


def _glue(folder: str, labels: str = "", **row: Any) -> Task:
    """A GLUE row; `labels` are the hub's label names in the hub's order, separated by spaces."""
    name = folder.lower().replace("-", "")
    where = {"folder": folder, "hub": ("nyu-mll/glue", name), "files": _files("{}.tsv")}
    return Task(name=name, labels=tuple(labels.split()), **{**where, **row})


def _table(*tasks: Task) -> dict[str, Task]:
    return {task.name: task for task in tasks}


_NLI = ("entailment", "neutral", "contradiction")
_BITS: dict[str, Any] = {"label_values": ("0", "1")}
_PAIR: dict[str, Any] = {"head": "san", "text_a": "sentence1", "text_b": "sentence2"}
_VALUE: dict[str, Any] = {"kind": "regression", "metrics": METRICS_OF_KIND["regression"], **_PAIR, "head": "similarity"}
_RANKING: dict[str, Any] = {"kind": "ranking", "head": "ranking", "candidates": "candidates"}
_FIVE = tuple(f"label{i}" for i in range(1, 6))

# ---- the embedded suite (core/synthetic): four teacher tasks, two without -------------------------------------------
SUITE: dict[str, Task] = _table(
    Task(name="sentiment", labels=("awful", "bad", "mixed", "good", "great"), has_teacher=True),
    Task(name="nli", head="san", labels=_NLI, text_b="text_b", has_teacher=True),
    Task(name="paraphrase", head="san", labels=("different", "paraphrase"), text_b="text_b", has_teacher=True),
    Task(name="relevance", labels=tuple("1234"), has_teacher=True, **_RANKING),
    Task(name="acceptability", labels=("unacceptable", "acceptable")),
    Task(name="similarity", **{**_VALUE, "text_a": "text_a", "text_b": "text_b"}),
)

# ---- GLUE's nine; label names are the hub's. Teachers: MNLI, QQP, RTE, QNLI (1904.09482) --------------------------
GLUE: dict[str, Task] = _table(
    _glue(
        "CoLA",
        "unacceptable acceptable",
        metrics=("mcc",),
        text_a="sentence",
        head_dropout=0.05,
        # CoLA's train and dev have no header, its test has one with a 'sentence' in it.
        columns=("source", "label", "star", "sentence"),
        **_BITS,
    ),
    _glue("SST-2", "negative positive", text_a="sentence", **_BITS),
    _glue(
        "MRPC",
        "not_equivalent equivalent",
        head="san",
        text_a="#1 String",
        text_b="#2 String",
        label="Quality",
        metrics=("accuracy", "f1"),
        **_BITS,
    ),
    _glue("STS-B", label="score", **_VALUE),
    _glue(
        "QQP",
        "not_duplicate duplicate",
        head="san",
        has_teacher=True,
        text_a="question1",
        text_b="question2",
        label="is_duplicate",
        # Line breaks inside some of the official questions cut their rows in two; every GLUE reader skips the halves.
        skip_malformed=True,
        metrics=("accuracy", "f1"),
        **_BITS,
    ),
    _glue(
        "MNLI",
        " ".join(_NLI),
        has_teacher=True,
        head_dropout=0.3,
        label="gold_label",
        no_gold="-",
        human_columns=_FIVE,
        files=(
            *(("train", "train.tsv"), ("dev", "dev_matched.tsv"), ("dev_mm", "dev_mismatched.tsv")),
            *(("test", "test_matched.tsv"), ("test_mm", "test_mismatched.tsv"), ("ax", "../diagnostic/diagnostic.tsv")),
        ),
        **_PAIR,
    ),
    # docs/decisions/002: only a quarter of GLUE's QNLI questions keep both candidates, so it is a pair task here.
    _glue("QNLI", "entailment not_entailment", head="san", has_teacher=True, text_a="question", text_b="sentence"),
    _glue("RTE", "entailment not_entailment", has_teacher=True, **_PAIR),
    _glue("WNLI", "not_entailment entailment", **_BITS, **_PAIR),
)

# ---- two more of MT-DNN's: the first file found for a split is read, so each official layout has an entry -----------
EXTRA: dict[str, Task] = _table(
    Task(
        name="snli",
        labels=_NLI,
        has_teacher=True,
        label="gold_label",
        no_gold="-",
        human_columns=(*_FIVE, "annotator_labels"),  # .txt has the five, .jsonl has the list
        folder="snli",
        other_folders=("../snli", "snli_1.0", "../snli_1.0"),
        files=_files("{}.jsonl", "{}.tsv", "snli_1.0_{}.jsonl", "snli_1.0_{}.txt"),
        hub=("stanfordnlp/snli", "plain_text"),
        **_PAIR,
    ),
    Task(
        name="scitail",
        labels=("entails", "neutral"),
        label="gold_label",
        folder="SciTail",
        other_folders=("../SciTail", "SciTailV1.1", "../SciTailV1.1"),
        columns=("sentence1", "sentence2", "gold_label"),
        files=_files("{}.tsv", "tsv_format/scitail_1.0_{}.tsv"),
        hub=("allenai/scitail", "tsv_format"),
        **_PAIR,
    ),
)

TASKS: dict[str, Task] = {**SUITE, **GLUE, **EXTRA}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message's first sentence: `; did you mean 'accuracy'?`, or `.` where nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else "."


def find_task(name: str, known: dict[str, Task] | None = None) -> Task:
    """The row of `name`; a `ValueError` with the nearest known name otherwise."""
    known = TASKS if known is None else known
    if name not in known:
        raise ValueError(f"task '{name}' is not known{did_you_mean(name, known)} Known tasks: {', '.join(known)}")
    return known[name]


_NOT_IN_YAML = ("name", "hub", "folder", "other_folders", "skip_malformed")
_YAML_FIELDS = tuple(f.name for f in fields(Task) if f.name not in _NOT_IN_YAML)
_LISTS = ("labels", "label_values", "metrics", "human_columns", "columns", "score_range")
_TEXTS = ("text_a", "text_b", "label", "no_gold", "candidates")


def load_tasks_yaml(path: Path, files_dir: Path | None = None) -> dict[str, Task]:
    """A user's tasks. The file maps a task name to the fields of `Task`; `files` maps a split to a path inside
    `files_dir` (none: the folder of the YAML file, which may be another person's and must not reach out). Example::

        toxicity:
          files: {train: toxicity/train.csv, dev: toxicity/dev.csv}
          text_a: comment
          label: rating
          labels: [fine, toxic]
          human_columns: [rater1, rater2, rater3]
          has_teacher: true

    Raises `ValueError` for a file that is not such a mapping, an unknown field (with the nearest known one) and any
    value that `Task` refuses.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        # A second time with every scalar as text: safe_load reads the label `no` as False and `1.0` as a number.
        rows, texts = yaml.safe_load(text), yaml.load(text, yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not a readable YAML file (UTF-8) of tasks: {error}") from error
    if not isinstance(rows, dict) or not rows:
        raise ValueError(f"{path}: expected a mapping from task names to fields, got {type(rows).__name__}")
    tasks: dict[str, Task] = {}
    for (name, row), as_text in zip(rows.items(), texts.values(), strict=True):
        if not isinstance(row, dict):
            raise ValueError(f"{path}: task '{name}' is {type(row).__name__}, expected a mapping of fields")
        for key in row:
            if key not in _YAML_FIELDS:
                hint = did_you_mean(str(key), _YAML_FIELDS)
                raise ValueError(f"{path}: task '{name}' has an unknown field '{key}'{hint} Fields: {_YAML_FIELDS}")
        if not isinstance(row.get("files"), dict) or "train" not in row["files"]:
            raise ValueError(f"{path}: task '{name}' needs 'files' with at least a 'train' entry")
        unknown = [split for split in row["files"] if split not in SPLITS]
        if unknown:
            raise ValueError(f"{path}: task '{name}': unknown split {unknown[0]!r} in 'files', expected {SPLITS}")
        try:
            tasks[str(name)] = _task_from_yaml(str(name), row, as_text, files_dir or path.parent)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
    return tasks


def _inside(base: Path, file: str, task: str) -> Path:
    if not Path(os.path.abspath(base / file)).is_relative_to(os.path.abspath(base)):  # its links are its owner's
        raise ValueError(
            f"task '{task}': the file '{file}' is outside of {base}, expected one inside; or set data.files_dir=FOLDER"
        )
    return base / file


def _task_from_yaml(name: str, row: dict[str, Any], as_text: dict[str, Any], base: Path) -> Task:
    values = dict(row)
    values["files"] = tuple((split, str(_inside(base, str(file), name))) for split, file in row["files"].items())
    for key in (key for key in _LISTS if key in values):
        if not isinstance(values[key], list):  # tuple("abc") would be three labels
            raise ValueError(f"task '{name}': '{key}' is {values[key]!r}, expected a list like [a, b]")
        values[key] = tuple(map(float, values[key]) if key == "score_range" else as_text[key])
    values.update({key: as_text[key] for key in _TEXTS if values.get(key) is not None})
    if values.get("kind") in HEADS_OF_KIND and "head" not in values:
        values["head"] = HEADS_OF_KIND[values["kind"]][0]
    if "metrics" not in values and values.get("kind") == "regression":
        values["metrics"] = METRICS_OF_KIND["regression"]
    return Task(name=name, **values)
