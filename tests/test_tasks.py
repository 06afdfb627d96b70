"""The task table: its rows hold together, bad rows are refused, and YAML makes the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.tasks import (
    EXTRA,
    GLUE,
    HEADS_OF_KIND,
    SPLITS,
    SUITE,
    TASKS,
    Task,
    example_id,
    example_schema,
    find_task,
    load_tasks_yaml,
)


def test_the_table_has_the_tasks_of_the_paper() -> None:
    assert list(GLUE) == ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]
    assert list(EXTRA) == ["snli", "scitail"]
    assert [name for name, task in GLUE.items() if task.has_teacher] == ["qqp", "mnli", "qnli", "rte"]
    assert sum(task.has_teacher for task in SUITE.values()) == 4
    assert {task.kind for task in TASKS.values()} == set(HEADS_OF_KIND)  # every kind has an embedded or real task


@pytest.mark.parametrize("name", TASKS)
def test_a_row_is_consistent(name: str) -> None:
    task = TASKS[name]
    assert task.name == name
    assert task.n_outputs == (1 if task.kind == "regression" else len(task.labels))
    assert all(split in SPLITS for split, _ in task.files)
    schema = example_schema(task)
    assert json.loads(schema.metadata[b"labels"]) == list(task.labels)
    assert ("text_b" in schema.names) == task.is_pair
    assert ("candidates" in schema.names) == (task.kind == "ranking")
    assert ("gold_value" in schema.names) == (task.kind == "regression")


def test_ids_sort_like_rows() -> None:
    assert example_id("mnli", "train", 42) == "mnli/train/0000042"
    assert example_id("mnli", "train", 9) < example_id("mnli", "train", 10)


RANKING = {"kind": "ranking", "head": "ranking", "labels": ("1", "2"), "candidates": "candidates"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a/b"}, "a name has letters"),
        ({"name": "../x"}, "a name has letters"),
        ({"kind": "tagging"}, "kind is 'tagging', expected one of classification, regression, ranking"),
        ({"head": "ranking"}, "head 'ranking' does not fit kind 'classification', expected one of linear, san"),
        ({"head": "san"}, "text_b is not set; use head 'linear'"),
        ({"labels": ("one",)}, "1 label(s) given, expected at least 2"),
        ({"labels": ("a", "a")}, "labels repeat"),
        ({"label_values": ("0",)}, "1 label_values for 2 labels"),
        ({"label_values": ("0", "0")}, "label_values repeat"),
        ({"metrics": ("pearson",)}, "metric 'pearson' does not fit kind 'classification', expected one of accuracy"),
        ({"metrics": ()}, "metrics is empty"),
        ({"labels": ("a", "b", "c"), "metrics": ("f1",)}, "'f1' needs two classes, got 3; use 'macro_f1'"),
        ({"score_range": (5.0, 0.0)}, "expected [lowest, highest]"),
        ({"score_range": (5.0,)}, "expected [lowest, highest]"),
        ({"candidates": "c"}, "belongs to kind 'ranking' alone"),
        ({**RANKING, "candidates": None}, "belongs to kind 'ranking' alone"),
        ({**RANKING, "text_b": "b"}, "remove text_b"),
        ({**RANKING, "labels": ("a", "b")}, "expected ('1', '2'), one a candidate"),
    ],
)
def test_a_bad_row_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^task '") as error:
        Task(**{"name": "x", "labels": ("no", "yes"), **change})
    assert message in str(error.value)


def test_find_task_suggests_the_nearest() -> None:
    assert find_task("mnli") is GLUE["mnli"]
    with pytest.raises(ValueError, match="task 'mnlli' is not known; did you mean 'mnli'\\? Known tasks: sentiment"):
        find_task("mnlli")
    with pytest.raises(ValueError, match=r"task 'zzz' is not known\. Known tasks: only"):
        find_task("zzz", {"only": GLUE["rte"]})


GOOD_YAML = """
toxicity:
  files: {train: data/train.csv, dev: data/dev.csv}
  text_a: comment
  label: rating
  labels: [no, yes]
  label_values: [0, 1]
  human_columns: [rater1, rater2]
  no_gold: "-"
  has_teacher: true
likeness:
  files: {train: a.tsv, test: b.tsv}
  kind: regression
  text_b: other
  score_range: [0, 1]
answers:
  files: {train: q.jsonl, dev: r.jsonl}
  kind: ranking
  labels: [1, 2, 3]
  candidates: options
"""


def test_yaml_makes_rows(tmp_path: Path) -> None:
    path = tmp_path / "tasks.yaml"
    path.write_text(GOOD_YAML, encoding="utf-8")
    tasks = load_tasks_yaml(path)
    assert list(tasks) == ["toxicity", "likeness", "answers"]
    toxicity = tasks["toxicity"]
    # Plain YAML reads `no` as False and 0 as an integer; both must come out as data files have them.
    assert toxicity.labels == ("no", "yes")
    assert toxicity.label_values == ("0", "1")
    assert toxicity.human_columns == ("rater1", "rater2")
    assert toxicity.no_gold == "-"
    assert toxicity.files == (("train", str(tmp_path / "data/train.csv")), ("dev", str(tmp_path / "data/dev.csv")))
    assert tasks["likeness"].head == "similarity"
    assert tasks["likeness"].metrics == ("pearson", "spearman")
    assert tasks["likeness"].score_range == (0.0, 1.0)
    assert tasks["answers"].head == "ranking"
    assert tasks["answers"].labels == ("1", "2", "3")


def test_a_missing_yaml_file_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.yaml is not a readable YAML file"):
        load_tasks_yaml(tmp_path / "nowhere.yaml")
