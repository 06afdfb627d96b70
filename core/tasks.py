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
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import yaml

Kind = Literal["classification", "regression", "ranking"]
Head = Literal["linear", "san", "similarity", "ranking"]

# Which heads can serve which kind (PAPER: the four task-specific layers of MT-DNN).
HEADS_OF_KIND: dict[str, tuple[str, ...]] = {
    "classification": ("linear", "san"),
    "regression": ("similarity",),
    "ranking": ("ranking",),
}
METRICS_OF_KIND: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "macro_f1", "mcc"),
    "regression": ("pearson", "spearman"),
    "ranking": ("accuracy", "mrr"),
}
SPLITS = ("train", "selection", "dev", "dev_mm", "test", "test_mm")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One row of the task table.

    `text_a`, `text_b`, `label` name columns of the source files (`text_b=None`: single sentence). `label_values`
    are the raw values that stand for `labels`, in the same order (empty: the names themselves). `files` maps a split
    to a file name inside the task's folder. `head_dropout=None` takes the run's default. `metrics` are averaged into
    the task's score, as GLUE does; the first is the headline.
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
    folder: str = ""
    files: tuple[tuple[str, str], ...] = ()
    header: bool = True
    human_columns: tuple[str, ...] = ()
    candidates: str | None = None
    hub: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        where = f"task '{self.name}'"
        if self.kind not in get_args(Kind):
            raise ValueError(f"{where}: kind is {self.kind!r}, expected one of {', '.join(get_args(Kind))}")
        if self.head not in HEADS_OF_KIND[self.kind]:
            raise ValueError(
                f"{where}: head '{self.head}' does not serve kind '{self.kind}', "
                f"expected one of {', '.join(HEADS_OF_KIND[self.kind])}"
            )
        if self.head == "san" and self.text_b is None:
            raise ValueError(f"{where}: head 'san' reads two texts, but text_b is not set; use head 'linear'")
        if self.kind != "regression" and len(self.labels) < 2:
            raise ValueError(f"{where}: {len(self.labels)} label(s) given, expected at least 2 in 'labels'")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"{where}: labels repeat: {list(self.labels)}")
        if self.label_values and len(self.label_values) != len(self.labels):
            raise ValueError(
                f"{where}: label_values has {len(self.label_values)} entries, labels has {len(self.labels)}; "
                "give one raw value for each label, in the same order"
            )
        for metric in self.metrics:
            if metric not in METRICS_OF_KIND[self.kind]:
                raise ValueError(
                    f"{where}: metric '{metric}' does not fit kind '{self.kind}', "
                    f"expected one of {', '.join(METRICS_OF_KIND[self.kind])}"
                )
        if "f1" in self.metrics and len(self.labels) != 2:
            raise ValueError(f"{where}: metric 'f1' needs two classes, got {len(self.labels)}; use 'macro_f1'")
        if not self.score_range[0] < self.score_range[1]:
            raise ValueError(f"{where}: score_range {self.score_range} is empty")

    @property
    def n_outputs(self) -> int:
        """C: width of a row of logits; 1 for regression."""
        return 1 if self.kind == "regression" else len(self.labels)

    @property
    def is_pair(self) -> bool:
        return self.text_b is not None

    def label_index(self, name: str) -> int:
        return self.labels.index(name)


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


def _glue(folder: str, hub: str, *, test: bool = True, **row: Any) -> Task:
    files = (("train", "train.tsv"), ("dev", "dev.tsv")) + ((("test", "test.tsv"),) if test else ())
    return Task(folder=folder, hub=("nyu-mll/glue", hub), **{"files": files, **row})


# ---- the embedded suite (core/synthetic): four teacher tasks, two without -------------------------------------------
SUITE: dict[str, Task] = {
    t.name: t
    for t in (
        Task(
            name="sentiment",
            labels=("awful", "bad", "mixed", "good", "great"),
            has_teacher=True,
        ),
        Task(
            name="nli",
            head="san",
            labels=("entailment", "neutral", "contradiction"),
            text_b="text_b",
            has_teacher=True,
        ),
        Task(
            name="paraphrase",
            head="san",
            labels=("different", "paraphrase"),
            text_b="text_b",
            has_teacher=True,
        ),
        Task(
            name="relevance",
            kind="ranking",
            head="ranking",
            labels=("1", "2", "3", "4"),
            candidates="candidates",
            has_teacher=True,
        ),
        Task(name="acceptability", labels=("unacceptable", "acceptable")),
        Task(
            name="similarity",
            kind="regression",
            head="similarity",
            metrics=("pearson", "spearman"),
            text_b="text_b",
        ),
    )
}

# ---- GLUE's nine; label names are the hub's. Teachers: MNLI, QQP, RTE, QNLI (PAPER, step 3) -------------------------
GLUE: dict[str, Task] = {
    t.name: t
    for t in (
        _glue(
            "CoLA",
            "cola",
            name="cola",
            labels=("unacceptable", "acceptable"),
            label_values=("0", "1"),
            metrics=("mcc",),
            # CoLA's train and dev have no header: columns are positions, its test has one.
            header=False,
            text_a="3",
            label="1",
            head_dropout=0.05,
        ),
        _glue(
            "SST-2",
            "sst2",
            name="sst2",
            labels=("negative", "positive"),
            label_values=("0", "1"),
            text_a="sentence",
        ),
        _glue(
            "MRPC",
            "mrpc",
            name="mrpc",
            head="san",
            labels=("not_equivalent", "equivalent"),
            label_values=("0", "1"),
            metrics=("accuracy", "f1"),
            text_a="#1 String",
            text_b="#2 String",
            label="Quality",
        ),
        _glue(
            "STS-B",
            "stsb",
            name="stsb",
            kind="regression",
            head="similarity",
            metrics=("pearson", "spearman"),
            text_a="sentence1",
            text_b="sentence2",
            label="score",
        ),
        _glue(
            "QQP",
            "qqp",
            name="qqp",
            head="san",
            labels=("not_duplicate", "duplicate"),
            label_values=("0", "1"),
            metrics=("accuracy", "f1"),
            has_teacher=True,
            text_a="question1",
            text_b="question2",
            label="is_duplicate",
        ),
        _glue(
            "MNLI",
            "mnli",
            name="mnli",
            head="san",
            labels=("entailment", "neutral", "contradiction"),
            has_teacher=True,
            head_dropout=0.3,
            text_a="sentence1",
            text_b="sentence2",
            label="gold_label",
            human_columns=("label1", "label2", "label3", "label4", "label5"),
            files=(
                ("train", "train.tsv"),
                ("dev", "dev_matched.tsv"),
                ("dev_mm", "dev_mismatched.tsv"),
                ("test", "test_matched.tsv"),
                ("test_mm", "test_mismatched.tsv"),
            ),
        ),
        # docs/decisions/002: only a quarter of GLUE's QNLI questions keep both candidates, so it is a pair task here.
        _glue(
            "QNLI",
            "qnli",
            name="qnli",
            head="san",
            labels=("entailment", "not_entailment"),
            has_teacher=True,
            text_a="question",
            text_b="sentence",
        ),
        _glue(
            "RTE",
            "rte",
            name="rte",
            head="san",
            labels=("entailment", "not_entailment"),
            has_teacher=True,
            text_a="sentence1",
            text_b="sentence2",
        ),
        _glue(
            "WNLI",
            "wnli",
            name="wnli",
            head="san",
            labels=("not_entailment", "entailment"),
            label_values=("0", "1"),
            text_a="sentence1",
            text_b="sentence2",
        ),
    )
}

EXTRA: dict[str, Task] = {
    t.name: t
    for t in (
        Task(
            name="snli",
            head="san",
            labels=("entailment", "neutral", "contradiction"),
            has_teacher=True,
            text_a="sentence1",
            text_b="sentence2",
            label="gold_label",
            human_columns=("label1", "label2", "label3", "label4", "label5"),
            folder="snli",
            files=(("train", "train.tsv"), ("dev", "dev.jsonl"), ("test", "test.jsonl")),
            hub=("stanfordnlp/snli", ""),
        ),
        Task(
            name="scitail",
            head="san",
            labels=("entails", "neutral"),
            text_a="sentence1",
            text_b="sentence2",
            label="gold_label",
            folder="SciTail",
            files=(("train", "train.tsv"), ("dev", "dev.tsv"), ("test", "test.tsv")),
            hub=("allenai/scitail", "tsv_format"),
        ),
    )
}

TASKS: dict[str, Task] = {**SUITE, **GLUE, **EXTRA}


def find_task(name: str, known: dict[str, Task] | None = None) -> Task:
    """The row of `name`; a `ValueError` with the nearest known name otherwise."""
    known = TASKS if known is None else known
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"task '{name}' is not known{hint} Known tasks: {', '.join(known)}")
    return known[name]


_YAML_FIELDS = tuple(f.name for f in fields(Task) if f.name not in ("name", "hub", "header", "human_columns"))


def load_tasks_yaml(path: Path) -> dict[str, Task]:
    """A user's tasks. The file maps a task name to the fields of `Task`; `files` maps a split to a path, relative to
    the YAML file. Example::

        toxicity:
          files: {train: toxicity/train.csv, dev: toxicity/dev.csv}
          text_a: comment
          label: rating
          labels: [fine, toxic]
          has_teacher: true

    Raises `ValueError` for a file that is not such a mapping, an unknown field (with the nearest known one) and any
    value that `Task` refuses.
    """
    path = Path(path)
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(rows, dict) or not rows:
        raise ValueError(f"{path}: expected a mapping from task names to fields, got {type(rows).__name__}")
    tasks: dict[str, Task] = {}
    for name, row in rows.items():
        if not isinstance(row, dict):
            raise ValueError(f"{path}: task '{name}' is {type(row).__name__}, expected a mapping of fields")
        for key in row:
            if key not in _YAML_FIELDS:
                near = difflib.get_close_matches(str(key), _YAML_FIELDS, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise ValueError(f"{path}: task '{name}' has an unknown field '{key}'{hint} Fields: {_YAML_FIELDS}")
        if not isinstance(row.get("files"), dict) or "train" not in row["files"]:
            raise ValueError(f"{path}: task '{name}' needs 'files' with at least a 'train' entry")
        unknown = [split for split in row["files"] if split not in SPLITS]
        if unknown:
            raise ValueError(f"{path}: task '{name}': unknown split {unknown[0]!r} in 'files', expected {SPLITS}")
        tasks[str(name)] = _task_from_yaml(str(name), row, path.parent)
    return tasks


def _task_from_yaml(name: str, row: dict[str, Any], base: Path) -> Task:
    values = dict(row)
    values["files"] = tuple((split, str(base / file)) for split, file in row["files"].items())
    for key in ("labels", "label_values"):
        if key in values:
            values[key] = tuple(_raw_text(v) for v in values[key])
    for key in ("metrics", "score_range"):
        if key in values:
            values[key] = tuple(values[key])
    if "kind" in values and values["kind"] in HEADS_OF_KIND and "head" not in values:
        values["head"] = HEADS_OF_KIND[values["kind"]][0]
    if "metrics" not in values and values.get("kind") == "regression":
        values["metrics"] = ("pearson", "spearman")
    return replace(Task(name=name, **values), folder="")


def _raw_text(value: Any) -> str:
    """YAML turns `no` into False and `1` into an integer; labels are text, as in the data files."""
    return str(value).lower() if isinstance(value, bool) else str(value)
