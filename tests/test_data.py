"""Sources -> examples tables: every layout in small imitations, every bad input by its message, and the real data.

The tests of counts read the folder $DARKROOM_DATA (default: ../shared/data) and, where there is none, the imitations.
Over 350 lines: one table of imitated layouts serves all of them, and splitting it would make two that drift apart.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core import readers
from core.data import LoadedTask, carve_selection, check_table, fingerprint, limit, load_task, source_files
from core.tasks import GLUE, TASKS, Task, example_schema, load_tasks_yaml

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("DARKROOM_DATA", ROOT.parent / "shared" / "data"))

MNLI_HEAD = "index promptID pairID genre sentence1_binary_parse sentence1 sentence2"
NLI_JSON = [
    {"gold_label": "neutral", "annotator_labels": ["neutral", "entailment", "neutral", "neutral"], "pairID": "p1"},
    {"gold_label": "-", "annotator_labels": ["neutral", "entailment", "contradiction", "", "neutral"], "pairID": "p2"},
    {"gold_label": "entailment", "annotator_labels": ["entailment"], "pairID": "p3"},
]
NLI_JSONL = "\n".join(
    json.dumps({**row, "sentence1": f"Premise {i}.", "sentence2": f"Claim {i}."}) for i, row in enumerate(NLI_JSON)
)
SNLI_TXT_HEAD = "gold_label sentence1_parse sentence1 sentence2 pairID label1 label2 label3 label4 label5"


def tsv(*rows: str) -> str:
    """Lines of a TSV file, written with `|` for tabs."""
    return "".join(row.replace("|", "\t") + "\n" for row in rows)


def head(words: str) -> str:
    return words.replace(" ", "|")


# Official layouts: columns, order, quirks. `|` is a tab.
LAYOUTS: dict[str, str] = {
    # No header, no line break at the end of dev; the test file has a header.
    "CoLA/train.tsv": tsv("gj04|1||Our friends won't buy this.", "gj04|0|*|They drank the pub.", "gj04|1||It rains."),
    "CoLA/dev.tsv": tsv("gj04|1||The sailors rode the breeze.", "gj04|0|*|Him sleeps.").rstrip("\n"),
    "CoLA/test.tsv": tsv("index|sentence", "0|Bill whistled past the house.", "1|Who slept?"),
    # Words that spreadsheet readers take for missing values.
    "SST-2/train.tsv": tsv("sentence|label", "NA |0", "null|1", "None|0", "nan|1", "N/A|0", "-|1", '"""|0'),
    "SST-2/dev.tsv": tsv("sentence|label", "unflinchingly bleak and desperate |0", "charming |1"),
    "SST-2/test.tsv": tsv("index|sentence", "0|uneasy mishmash of styles ."),
    # A byte order mark, and an opening quote without a closing one.
    "MRPC/train.tsv": "\ufeff"
    + tsv("Quality|#1 ID|#2 ID|#1 String|#2 String", '1|7|8|He said "no .|" No , " he said .', "0|9|10|A .|B ."),
    "MRPC/dev.tsv": "\ufeff" + tsv("Quality|#1 ID|#2 ID|#1 String|#2 String", "1|1|2|C .|C ."),
    "MRPC/test.tsv": "\ufeff" + tsv("index|#1 ID|#2 ID|#1 String|#2 String", "0|1|2|D .|E ."),
    "STS-B/train.tsv": tsv(
        "index|genre|filename|year|old_index|source1|source2|sentence1|sentence2|score",
        "0|captions|MSRvid|2012test|0001|none|none|A plane is taking off.|An air plane is taking off.|5.000",
        "1|captions|MSRvid|2012test|0004|none|none|A man plays.|A dog runs.|0.250",
    ),
    "STS-B/dev.tsv": tsv("index|sentence1|sentence2|score", "0|A.|B.|0.000"),
    "STS-B/test.tsv": tsv("index|sentence1|sentence2", "0|A.|B."),
    # Line 3 and 4 are one question with a line break inside; dev has no id columns.
    "QQP/train.tsv": tsv(
        head("id qid1 qid2 question1 question2 is_duplicate"),
        "1|3|4|How?|In what way?|1",
        "2|5|6|What is",
        "this?|What?|0",
        "3|7|8|Why?|Who?|0",
    ),
    "QQP/dev.tsv": tsv("question1|question2|is_duplicate", "Where?|At what place?|1"),
    "QQP/test.tsv": tsv("id|question1|question2", "0|A?|B?"),
    # Training rows have the author's label alone; label columns before gold_label, more columns than are needed.
    "MNLI/train.tsv": tsv(
        head(f"{MNLI_HEAD} label1 gold_label"),
        "0|1|1n|slate|( a )|A premise.|A claim.|neutral|neutral",
        "1|2|2e|slate|( b )|B premise.|B claim.|entailment|entailment",
    ),
    "MNLI/dev_matched.tsv": tsv(
        head(f"{MNLI_HEAD} label1 label2 label3 label4 label5 gold_label"),
        "0|1|3c|slate|( a )|A.|B.|contradiction|neutral|contradiction|contradiction|contradiction|contradiction",
        "1|1|4c|slate|( a )|C.|D.|neutral|neutral|entailment|entailment|contradiction|-",
        "2|1|5c|slate|( a )|E.|F.|neutral|entailment||||neutral",
        "3|1|6c|slate|( a )|G.|H.|neutral|||||neutral",
    ),
    "MNLI/dev_mismatched.tsv": tsv(head(f"{MNLI_HEAD} gold_label"), "0|1|1n|letters|( a )|A.|B.|neutral"),
    "MNLI/test_matched.tsv": tsv(head(MNLI_HEAD), "0|1|1n|letters|( a )|A.|B."),
    "MNLI/test_mismatched.tsv": tsv(head(MNLI_HEAD), "0|1|1n|letters|( a )|A.|B."),
    "diagnostic/diagnostic.tsv": tsv("index|sentence1|sentence2", "0|A cat sat.|It sat.", "1|It sat.|A cat sat."),
    "QNLI/train.tsv": tsv("index|question|sentence|label", "0|Who?|He.|entailment", "1|Who?|It.|not_entailment"),
    "QNLI/dev.tsv": tsv("index|question|sentence|label", '0|"Why was it built?|For "fun".|not_entailment'),
    "RTE/train.tsv": tsv("index|sentence1|sentence2|label", "0|A.|B.|entailment", "1|C\u2028.|D\x85.|not_entailment"),
    "RTE/dev.tsv": tsv("index|sentence1|sentence2|label", "0|A.|B.|not_entailment"),
    "WNLI/train.tsv": tsv("index|sentence1|sentence2|label", "0|A.|B.|1", "1|C.|D.|0"),
    "WNLI/dev.tsv": tsv("index|sentence1|sentence2|label", "0|A.|B.|0"),
    # The layout of this project's shared data; official SNLI and SciTail have tests of their own.
    "../snli/train.tsv": tsv(
        "index|pairID|sentence1|sentence2|gold_label", "0|p|A.|B.|neutral", "1|q|C.|D.|entailment"
    ),
    "../snli/dev.jsonl": NLI_JSONL + "\n",
    "../snli/test.jsonl": NLI_JSONL,
    "SciTail/train.tsv": tsv("sentence1|sentence2|gold_label", "A.|B.|neutral", "C.|D.|entails"),
    "SciTail/dev.tsv": tsv("sentence1|sentence2|gold_label", "A.|B.|neutral"),
}
IMITATION_ROWS = {
    "cola": {"train": 3, "dev": 2, "test": 2},
    "sst2": {"train": 7, "dev": 2, "test": 1},
    "mrpc": {"train": 2, "dev": 1, "test": 1},
    "stsb": {"train": 2, "dev": 1, "test": 1},
    "qqp": {"train": 2, "dev": 1, "test": 1},
    "mnli": {"train": 2, "dev": 3, "dev_mm": 1, "test": 1, "test_mm": 1, "ax": 2},
    "qnli": {"train": 2, "dev": 1},
    "rte": {"train": 2, "dev": 1},
    "wnli": {"train": 2, "dev": 1},
    "snli": {"train": 2, "dev": 2, "test": 2},
}
OFFICIAL_ROWS = {  # of the shared folder, whose README says which files are complete
    "cola": {"train": 8551, "dev": 1043},
    "sst2": {"train": 67349, "dev": 872},
    "mrpc": {"train": 3668, "dev": 408},
    "stsb": {"train": 5749, "dev": 1500},
    "qqp": {"train": 34697, "dev": 7600},
    "mnli": {"train": 34770, "dev": 9815},
    "qnli": {"train": 9999, "dev": 5463},
    "rte": {"train": 2490, "dev": 277},
    "wnli": {"train": 635, "dev": 71},
    "snli": {"train": 11967, "dev": 9842, "test": 9824},
}


def write_layouts(glue_dir: Path, change: Callable[[str], str] = str) -> Path:
    for name, text in LAYOUTS.items():
        path = glue_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(change(text).encode())
    return glue_dir


@pytest.fixture
def glue_dir(tmp_path: Path) -> Path:
    return write_layouts(tmp_path / "glue")


class Real(NamedTuple):
    glue_dir: Path
    rows: dict[str, dict[str, int]]
    is_real: bool


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    """The real data where the machine has it, the imitations elsewhere: never nothing."""
    if (DATA / "glue").is_dir():
        return Real(DATA / "glue", OFFICIAL_ROWS, True)
    return Real(write_layouts(tmp_path_factory.mktemp("imitation") / "glue"), IMITATION_ROWS, False)


def load(name: str, glue_dir: Path, **kwargs: Any) -> LoadedTask:
    return load_task(TASKS[name], source="glue", glue_dir=glue_dir, **kwargs)


def split_rows(table: pa.Table, split: str) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if row["split"] == split]


def counts(table: pa.Table) -> dict[str, int]:
    return dict(Counter(table["split"].to_pylist()))


# ---- GLUE's layouts -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", IMITATION_ROWS)
def test_every_layout_is_read(name: str, glue_dir: Path) -> None:
    loaded = load(name, glue_dir)
    assert counts(loaded.table) == IMITATION_ROWS[name]
    assert loaded.table.schema.equals(example_schema(TASKS[name]), check_metadata=True)
    assert loaded.files == source_files(TASKS[name], source="glue", glue_dir=glue_dir)
    gold = "gold_value" if TASKS[name].kind == "regression" else "gold_label"
    for row in loaded.table.to_pylist():
        unlabelled = row["split"] in ("test", "test_mm", "ax") and name != "snli"
        assert (row[gold] is None) == unlabelled


@pytest.mark.parametrize("name", IMITATION_ROWS)
def test_line_ends_and_marks_change_nothing(name: str, glue_dir: Path, tmp_path: Path) -> None:
    other = write_layouts(
        tmp_path / "windows" / "glue", lambda text: "\ufeff" + text.removeprefix("\ufeff").replace("\n", "\r\n")
    )
    assert load(name, other).table.equals(load(name, glue_dir).table)


def test_texts_are_verbatim(glue_dir: Path) -> None:
    assert load("sst2", glue_dir).table["text_a"].to_pylist()[:7] == [
        "NA ", "null", "None", "nan", "N/A", "-", '"""',
    ]  # fmt: skip
    assert split_rows(load("qnli", glue_dir).table, "dev")[0]["text_a"] == '"Why was it built?'
    assert split_rows(load("mrpc", glue_dir).table, "train")[0]["text_b"] == '" No , " he said .'
    # A line ends at \n alone: these two characters are line breaks for str.splitlines().
    assert split_rows(load("rte", glue_dir).table, "train")[1]["text_a"] == "C\u2028."


def test_labels_become_names(glue_dir: Path) -> None:
    golds = {n: load(n, glue_dir).table["gold_label"].to_pylist() for n in ("cola", "wnli", "qqp", "mrpc")}
    assert golds["cola"][:3] == ["acceptable", "unacceptable", "acceptable"]
    assert golds["wnli"] == ["entailment", "not_entailment", "not_entailment"]
    assert golds["qqp"] == ["duplicate", "not_duplicate", "duplicate", None]
    assert golds["mrpc"] == ["equivalent", "not_equivalent", "equivalent", None]
    assert load("stsb", glue_dir).table["gold_value"].to_pylist() == [5.0, 0.25, 0.0, None]


def test_malformed_rows_are_counted_and_move_no_id(glue_dir: Path) -> None:
    loaded = load("qqp", glue_dir)
    assert loaded.dropped == {"malformed row": 2}
    assert loaded.table["example_id"].to_pylist()[:2] == ["qqp/train/0000000", "qqp/train/0000003"]
    with pytest.raises(ValueError, match=r"QQP/train\.tsv line 3 has 4 field\(s\), expected 6"):
        load_task(replace(GLUE["qqp"], skip_malformed=False), source="glue", glue_dir=glue_dir)


def test_annotators_become_distributions(glue_dir: Path) -> None:
    loaded = load("mnli", glue_dir)
    assert loaded.dropped == {"no gold label (-)": 1}
    dev = split_rows(loaded.table, "dev")
    assert [row["example_id"] for row in dev] == ["mnli/dev/0000000", "mnli/dev/0000002", "mnli/dev/0000003"]
    assert [row["n_humans"] for row in dev] == [5, 2, 1]
    assert dev[0]["human_probs"] == pytest.approx([0, 0.2, 0.8])  # entailment, neutral, contradiction
    assert dev[1]["human_probs"] == pytest.approx([0.5, 0.5, 0])
    assert dev[2]["human_probs"] is None  # one opinion is no distribution
    assert {row["n_humans"] for row in split_rows(loaded.table, "train")} == {1}
    assert {row["n_humans"] for row in split_rows(loaded.table, "dev_mm")} == {None}


def snli_txt(rows: list[dict[str, Any]]) -> str:
    lines = [head(SNLI_TXT_HEAD)]
    for i, row in enumerate(rows):
        labels = (row["annotator_labels"] + [""] * 5)[:5]
        lines.append("|".join([row["gold_label"], "( a )", f"Premise {i}.", f"Claim {i}.", row["pairID"], *labels]))
    return tsv(*lines)


@pytest.mark.parametrize("folder", ["glue/snli", "snli", "glue/snli_1.0", "snli_1.0"])
@pytest.mark.parametrize("suffix", ["jsonl", "txt"])
def test_official_snli(folder: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / "glue").mkdir()
    (tmp_path / folder).mkdir(exist_ok=True)
    for split in ("train", "dev", "test"):
        text = NLI_JSONL if suffix == "jsonl" else snli_txt(NLI_JSON)
        (tmp_path / folder / f"snli_1.0_{split}.{suffix}").write_text(text, encoding="utf-8")
    loaded = load("snli", tmp_path / "glue")
    assert loaded.dropped == {"no gold label (-)": 3}
    train = split_rows(loaded.table, "train")
    assert [row["example_id"] for row in train] == ["snli/train/0000000", "snli/train/0000002"]
    assert [row["gold_label"] for row in train] == ["neutral", "entailment"]
    assert train[0]["human_probs"] == pytest.approx([0.25, 0.75, 0])
    assert [row["n_humans"] for row in train] == [4, 1]


@pytest.mark.parametrize("folder", ["SciTail", "SciTailV1.1"])
def test_official_scitail_has_no_header(folder: str, tmp_path: Path) -> None:
    base = tmp_path / folder / "tsv_format"
    base.mkdir(parents=True)
    for split in ("train", "dev", "test"):
        text = tsv("Pluto rotates.|Pluto turns.|entails", '"Ice" melts.|It is "hot".|neutral')
        (base / f"scitail_1.0_{split}.tsv").write_text(text, encoding="utf-8")
    table = load("scitail", tmp_path).table
    assert counts(table) == {"train": 2, "dev": 2, "test": 2}
    assert table["gold_label"].to_pylist()[:2] == ["entails", "neutral"]
    assert table["text_b"].to_pylist()[:2] == ["Pluto turns.", 'It is "hot".']
    in_rows_layout = load("scitail", write_layouts(tmp_path / "other" / "glue")).table
    assert counts(in_rows_layout) == {"train": 2, "dev": 1}


def test_empty_texts_are_an_error_or_counted(glue_dir: Path) -> None:
    path = glue_dir / "RTE" / "train.tsv"
    path.write_text(
        tsv("index|sentence1|sentence2|label", "0|A.|B.|entailment", "1| |B.|entailment", "2|A.|B.|not_entailment")
    )
    with pytest.raises(ValueError, match=r"RTE/train\.tsv line 3 has an empty text .* data\.empty_text=drop"):
        load("rte", glue_dir)
    loaded = load("rte", glue_dir, empty_text="drop")
    assert loaded.dropped == {"empty text": 1}
    assert loaded.table["example_id"].to_pylist()[:2] == ["rte/train/0000000", "rte/train/0000002"]


def test_splits_without_a_file_are_skipped_but_not_train_or_dev(glue_dir: Path) -> None:
    (glue_dir / "MNLI" / "dev_mismatched.tsv").unlink()
    assert set(counts(load("mnli", glue_dir).table)) == {"train", "dev", "test", "test_mm", "ax"}
    for name, split in (("dev_matched", "dev"), ("train", "train")):
        (glue_dir / "MNLI" / f"{name}.tsv").unlink()
        with pytest.raises(ValueError, match=f"no file for split '{split}'; looked for .*{name}.tsv; correct"):
            load("mnli", glue_dir)
    with pytest.raises(ValueError, match=r"set data\.glue_dir"):
        load_task(GLUE["rte"], source="glue", glue_dir=None)
    with pytest.raises(ValueError, match="its row names none"):
        load("sentiment", glue_dir)


# ---- own files: the same examples in every format -------------------------------------------------------------------
PAIRS = [
    {"a": "One, two", "b": 'He said "yes"', "y": "1", "true_probs": [0.25, 0.75], "r1": "1", "r2": "0"},
    {"a": "null", "b": "Ça va? ☃", "y": "0", "true_probs": [0.5, 0.5], "r1": "0", "r2": None},
    {"a": "x", "b": "NA", "y": "1", "true_probs": None, "r1": None, "r2": None},
]
PAIR_TASK = Task(
    name="mine",
    labels=("no", "yes"),
    label_values=("0", "1"),
    text_a="a",
    text_b="b",
    label="y",
    human_columns=("r1", "r2"),
)
QUESTIONS = [
    {"q": "Which?", "options": ["this one", 'that, "two"', "none"], "y": "2", "human_probs": [0, 1, 0], "n_humans": 3},
    {"q": "Who?", "options": ["he", "she", "it"], "y": "1", "human_probs": None, "n_humans": None},
]
RANK_TASK = Task(
    name="mine", kind="ranking", head="ranking", labels=("1", "2", "3"), text_a="q", candidates="options", label="y"
)
SCORES = [
    {"a": "x", "b": "y", "y": 0.5, "true_mean": 0.25, "true_std": 0.125, "r": [0, 1]},
    {"a": "z", "b": "w", "y": 1, "true_mean": None, "true_std": None, "r": [1]},
]
SCORE_TASK = Task(
    name="mine",
    kind="regression",
    head="similarity",
    metrics=("pearson",),
    score_range=(0.0, 1.0),
    text_a="a",
    text_b="b",
    label="y",
    human_columns=("r",),
)


def _cell(value: Any) -> str:
    return "" if value is None else json.dumps(value) if isinstance(value, list) else str(value)


def save_tsv(rows: list[dict[str, Any]], path: Path) -> None:
    path.write_text(tsv("|".join(rows[0]), *("|".join(map(_cell, row.values())) for row in rows)), encoding="utf-8")


def save_csv(rows: list[dict[str, Any]], path: Path) -> None:
    cells = [list(rows[0]), *([_cell(v) for v in row.values()] for row in rows)]
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in cells]
    path.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8", newline="")


def save_jsonl(rows: list[dict[str, Any]], path: Path) -> None:
    # Numbers where they can be, and a blank line: labels 1 and "1" are the same label.
    lines = [json.dumps({k: int(v) if k == "y" and v == "1" else v for k, v in row.items()}) for row in rows]
    path.write_text("\n\n".join(lines), encoding="utf-8")


def save_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def save_disk(rows: list[dict[str, Any]], path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(rows).save_to_disk(str(path))


SAVE = {".tsv": save_tsv, ".csv": save_csv, ".jsonl": save_jsonl, ".parquet": save_parquet, "": save_disk}


def in_files(task: Task, tmp_path: Path, suffix: str = ".tsv", splits: tuple[str, ...] = ("train", "dev")) -> Task:
    return replace(task, files=tuple((split, str(tmp_path / f"{split}{suffix}")) for split in splits))


@pytest.mark.parametrize("suffix", SAVE)
def test_pairs_in_every_format(suffix: str, tmp_path: Path) -> None:
    task = in_files(PAIR_TASK, tmp_path, suffix)
    for _, path in task.files:
        SAVE[suffix](PAIRS, Path(path))
    loaded = load_task(task, source="files")
    rows = split_rows(loaded.table, "train")
    assert [row["text_a"] for row in rows] == ["One, two", "null", "x"]
    assert [row["text_b"] for row in rows] == ['He said "yes"', "Ça va? ☃", "NA"]
    assert [row["gold_label"] for row in rows] == ["yes", "no", "yes"]
    assert [row["true_probs"] for row in rows] == [[0.25, 0.75], [0.5, 0.5], None]
    assert [row["n_humans"] for row in rows] == [2, 1, None]
    assert [row["human_probs"] for row in rows] == [[0.5, 0.5], None, None]
    assert loaded.files == source_files(task, source="files")
    assert all(path.is_file() for path in loaded.files)


@pytest.mark.parametrize("suffix", SAVE)
def test_questions_in_every_format(suffix: str, tmp_path: Path) -> None:
    task = in_files(RANK_TASK, tmp_path, suffix)
    for _, path in task.files:
        SAVE[suffix](QUESTIONS, Path(path))
    rows = split_rows(load_task(task, source="files").table, "train")
    assert [row["candidates"] for row in rows] == [row["options"] for row in QUESTIONS]
    assert [row["gold_label"] for row in rows] == ["2", "1"]
    assert [row["human_probs"] for row in rows] == [[0.0, 1.0, 0.0], None]
    assert [row["n_humans"] for row in rows] == [3, None]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ""])
def test_scores_with_annotators(suffix: str, tmp_path: Path) -> None:
    task = in_files(SCORE_TASK, tmp_path, suffix)
    for _, path in task.files:
        SAVE[suffix](SCORES, Path(path))
    rows = split_rows(load_task(task, source="files").table, "train")
    assert [row["gold_value"] for row in rows] == [0.5, 1.0]
    assert [row["human_mean"] for row in rows] == [0.5, None]
    assert [row["n_humans"] for row in rows] == [2, 1]
    assert [row["true_mean"] for row in rows] == [0.25, None]


def test_files_from_yaml_with_pandas_like_labels(tmp_path: Path) -> None:
    """Integers next to a missing one are floats (1.0) in parquet; an unlabelled test file lacks the column."""
    train = pa.table({"t": ["a", "b"], "y": pa.array([1.0, 0.0])})
    pq.write_table(train, tmp_path / "train.parquet")
    pq.write_table(pa.table({"t": ["c", "d"], "y": pa.array([1.0, float("nan")])}), tmp_path / "dev.parquet")
    pq.write_table(pa.table({"t": pa.array(["e"]).dictionary_encode()}), tmp_path / "test.parquet")
    (tmp_path / "tasks.yaml").write_text(
        "mine: {files: {train: train.parquet, dev: dev.parquet, test: test.parquet}, text_a: t, label: y, "
        "labels: [no, yes], label_values: [0, 1]}"
    )
    table = load_task(load_tasks_yaml(tmp_path / "tasks.yaml")["mine"], source="files").table
    assert table["gold_label"].to_pylist() == ["yes", "no", "yes", None, None]
    assert table["text_a"].to_pylist() == list("abcde")


def test_csv_line_numbers_survive_line_breaks_in_cells(tmp_path: Path) -> None:
    task = in_files(replace(PAIR_TASK, human_columns=()), tmp_path, ".csv")
    for _, path in task.files:
        Path(path).write_text('a,b,y\n"two\nlines",x,0\n\n"y",z,1\n', encoding="utf-8")
    table = load_task(task, source="files").table
    assert table["text_a"].to_pylist()[0] == "two\nlines"
    (tmp_path / "dev.csv").write_text('a,b,y\n"two\nlines",x,0\n\n"y",z,2\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"dev\.csv line 5 has the unknown label '2'"):
        load_task(task, source="files")


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_files_without_a_header(suffix: str, separator: str, tmp_path: Path) -> None:
    task = in_files(replace(PAIR_TASK, human_columns=(), columns=("y", "a", "b")), tmp_path, suffix)
    for _, path in task.files:
        Path(path).write_text("\n".join(separator.join(row) for row in ("0xy", "1zw")), encoding="utf-8")
    table = load_task(task, source="files").table
    assert table["text_a"].to_pylist() == ["x", "z", "x", "z"]


# ---- bad sets of files; bad contents are in tests/test_bad_input.py -------------------------------------------------
GOOD_TSV = "a\tb\ty\nx\tone\t0\ny\ttwo\t1\n"
NO_HUMANS = replace(PAIR_TASK, human_columns=())
PLAIN_SCORES = replace(SCORE_TASK, human_columns=())
GOOD_JSONL = '{"q": "?", "options": ["x", "y", "z"], "y": 1}\n{"q": "?", "options": ["x", "y", "z"], "y": 2}\n'


def test_bad_sets_of_files(tmp_path: Path) -> None:
    task = in_files(NO_HUMANS, tmp_path, splits=("train",))
    (tmp_path / "train.tsv").write_text(GOOD_TSV)
    with pytest.raises(ValueError, match=r"no labelled row in dev or test \(splits: train\).*add a dev file"):
        load_task(task, source="files")
    with pytest.raises(ValueError, match=r"no file for split 'dev'; looked for .*dev\.tsv; correct 'files'"):
        load_task(in_files(NO_HUMANS, tmp_path), source="files")
    # A test file may lack the labels, but not misspell their column; nor may all of the evaluation be unlabelled.
    (tmp_path / "test.tsv").write_text("a\tb\tY\nx\tz\t0\n")
    with pytest.raises(ValueError, match=r"test\.tsv has no column 'y'"):
        load_task(in_files(NO_HUMANS, tmp_path, splits=("train", "test")), source="files")
    (tmp_path / "test.tsv").write_text("a\tb\nx\tz\n")
    with pytest.raises(ValueError, match="no labelled row in dev or test"):
        load_task(in_files(NO_HUMANS, tmp_path, splits=("train", "test")), source="files")
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"has no state\.json.*this folder holds: nothing"):
        load_task(in_files(NO_HUMANS, tmp_path, "", ("train",)), source="files")


# ---- the hub --------------------------------------------------------------------------------------------------------
def hub_split(columns: dict[str, Any], names: tuple[str, ...] | None) -> Any:
    import datasets

    features = {name: datasets.Value("string") for name in columns}
    features["label"] = datasets.Value("float32") if names is None else datasets.ClassLabel(names=list(names))
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def hub_glue(name: str) -> dict[str, Any]:
    """A dataset in the hub's columns: integer labels with names, -1 in the test split."""
    texts = {
        "cola": ["sentence"],
        "sst2": ["sentence"],
        "qqp": ["question1", "question2"],
        "qnli": ["question", "sentence"],
        "mnli": ["premise", "hypothesis"],
        "snli": ["premise", "hypothesis"],
    }.get(name, ["sentence1", "sentence2"])
    names, matched = TASKS[name].labels or None, "_matched" if name == "mnli" else ""
    labels = {"train": [1, 0, 1], f"validation{matched}": [0, 1], f"test{matched}": [-1, -1]}
    if name == "snli":
        labels["test"] = [0, -1]
    if name == "mnli":
        labels["validation_mismatched"] = [2]
    return {
        split: hub_split({**{t: [f"{t} {i}" for i in range(len(y))] for t in texts}, "label": y}, names)
        for split, y in labels.items()
    }


@pytest.mark.parametrize("via", ["mirror", "network"])
@pytest.mark.parametrize("name", [*GLUE, "snli"])
def test_hub(name: str, via: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    task, splits = TASKS[name], hub_glue(name)
    assert task.hub is not None
    repo, config = task.hub
    hub_dir = None
    ax = hub_split({"premise": ["p"], "hypothesis": ["h"], "label": [-1]}, TASKS["mnli"].labels)
    if via == "mirror":
        hub_dir = tmp_path
        (tmp_path / repo / "ax").mkdir(parents=True)
        ax.to_parquet(str(tmp_path / repo / "ax" / "test-00000-of-00001.parquet"))
        (tmp_path / repo / config).mkdir(parents=True)
        for split, data in splits.items():
            data.to_parquet(str(tmp_path / repo / config / f"{split}-00000-of-00001.parquet"))
        monkeypatch.setattr(datasets, "load_dataset", None)  # a mirror must not need it
    else:
        monkeypatch.setattr(
            datasets,
            "load_dataset",
            lambda *a: datasets.DatasetDict(splits if a == task.hub else {"test": ax} if a == (repo, "ax") else {}),
        )
    loaded = load_task(task, source="hub", hub_dir=hub_dir)
    assert len(loaded.files) == (len(splits) + (name == "mnli") if via == "mirror" else 0)
    train, test = split_rows(loaded.table, "train"), split_rows(loaded.table, "test")
    if task.kind == "regression":
        assert [row["gold_value"] for row in train] == [1.0, 0.0, 1.0]
        assert [row["gold_value"] for row in test] == [None, None]
    else:
        assert [row["gold_label"] for row in train] == [task.labels[i] for i in (1, 0, 1)]
        assert [row["gold_label"] for row in test] == ([task.labels[0]] if name == "snli" else [None, None])
    assert loaded.dropped == ({"no gold label (-)": 1} if name == "snli" else {})
    assert train[2]["text_a"].endswith(" 2")
    assert counts(loaded.table).get("dev_mm", 0) == counts(loaded.table).get("ax", 0) == (name == "mnli")


def test_scitail_on_the_hub_has_text_labels(tmp_path: Path) -> None:
    folder = tmp_path / "allenai/scitail/tsv_format"
    folder.mkdir(parents=True)
    rows = pa.table({"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": ["entails", "neutral"]})
    for split in ("train", "validation"):
        pq.write_table(rows, folder / f"{split}-00000-of-00001.parquet")
    table = load_task(TASKS["scitail"], source="hub", hub_dir=tmp_path).table
    assert table["gold_label"].to_pylist() == ["entails", "neutral"] * 2


def test_hub_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def offline(*_: str) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    rte = GLUE["rte"]
    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(ValueError, match="ConnectionError") as error:
        load_task(rte, source="hub")
    for part in ("'nyu-mll/glue', config 'rte'", "data.glue_dir", "data.hub_dir", "<hub_dir>/nyu-mll/glue/rte/train-"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match=r"no .*nyu-mll/glue/rte/train-\*\.parquet; copy it there"):
        load_task(rte, source="hub", hub_dir=tmp_path)
    with pytest.raises(ValueError, match="'sentiment' is not on the hub"):
        load_task(TASKS["sentiment"], source="hub")
    folder = tmp_path / "nyu-mll/glue/rte"
    folder.mkdir(parents=True)
    swapped = hub_split({"sentence1": ["a"], "sentence2": ["b"], "label": [0]}, ("not_entailment", "entailment"))
    swapped.to_parquet(str(folder / "train-00000-of-00001.parquet"))
    with pytest.raises(ValueError, match=r"expected \['entailment', 'not_entailment'\] in this order"):
        load_task(rte, source="hub", hub_dir=tmp_path)
    nameless = pa.table({"sentence1": ["a"], "sentence2": ["b"], "label": [0]})
    pq.write_table(nameless, folder / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="integer labels without their names"):
        load_task(rte, source="hub", hub_dir=tmp_path)


# ---- drawing splits -------------------------------------------------------------------------------------------------
def many(n: int = 1000, share: float = 0.1, name: str = "mine") -> pa.Table:
    """n rows of train, of which `share` are "yes", and half as many of dev."""
    task = Task(name=name, labels=("no", "yes"))
    rows = []
    for split, m in (("train", n), ("dev", n // 2)):
        for i in range(m):
            gold = "yes" if i < m * share else "no"
            rows.append(
                {"example_id": f"{name}/{split}/{i:07d}", "split": split, "text_a": f"t{i}", "gold_label": gold}
            )
    return pa.Table.from_pylist(rows, schema=example_schema(task))


@pytest.mark.parametrize(("size", "expected"), [(1, 1), (100, 100), (137.0, 137), (0.1, 100), (0.0001, 1), (999, 999)])
def test_carve_moves_rows_and_nothing_else(size: float, expected: int) -> None:
    table = many()
    carved = carve_selection(table, size=size, seed=0)
    assert counts(carved).get("selection") == expected
    assert counts(carved).get("train", 0) == 1000 - expected
    for name in table.column_names:
        assert (name == "split") != carved[name].equals(table[name])
    assert carved.schema.equals(table.schema, check_metadata=True)
    assert all("/train/" in row["example_id"] for row in split_rows(carved, "selection"))


def test_carve_is_stratified_and_leaves_one_of_each_class() -> None:
    carved = carve_selection(many(), size=137, seed=3)
    assert Counter(row["gold_label"] for row in split_rows(carved, "selection")) == {
        "yes": 14,
        "no": 123,
    }  # 13.7, 123.3
    rare = carve_selection(many(20, 0.05), size=19, seed=0)  # only one "yes" in train
    assert counts(rare)["train"] == 1
    kept = carve_selection(many(20, 0.05), size=18, seed=0)
    assert {row["gold_label"] for row in split_rows(kept, "train")} == {"yes", "no"}
    capped = carve_selection(many(30_000), size=0.5, seed=0)
    assert counts(capped)["selection"] == 2000


def test_draws_depend_on_seed_task_and_split() -> None:
    def drawn(table: pa.Table, seed: int) -> list[str]:
        return [row["text_a"] for row in split_rows(carve_selection(table, size=0.1, seed=seed), "selection")]

    assert drawn(many(), 0) == drawn(many(), 0)
    assert drawn(many(), 0) != drawn(many(), 1)
    assert drawn(many(), 0) != drawn(many(name="yours"), 0)
    assert drawn(many(), 0) != drawn(many(), 0)[::-1]  # in order, and more than one
    # Ids are drawn, not places: the dev rows around them do not matter.
    table = many()
    assert drawn(table.filter(pa.array([s == "train" for s in table["split"].to_pylist()])), 0) == drawn(table, 0)


def test_carve_refuses_too_much_and_keeps_a_given_selection() -> None:
    with pytest.raises(ValueError, match=r"'mine': 1000 rows .* out of 1000 training rows.*data\.selection"):
        carve_selection(many(), size=1000, seed=0)
    once = carve_selection(many(), size=0.1, seed=0)
    assert carve_selection(once, size=0.2, seed=1) is once


def test_limit_takes_a_part_of_each_split() -> None:
    table = carve_selection(many(), size=100, seed=0)
    assert limit(table, max_train=None, max_eval=None, seed=0) is table
    small = limit(table, max_train=50, max_eval=20, seed=0)
    assert counts(small) == {"train": 50, "selection": 20, "dev": 20}
    order = {row_id: i for i, row_id in enumerate(table["example_id"].to_pylist())}
    places = [order[row_id] for row_id in small["example_id"].to_pylist()]
    assert places == sorted(places)
    assert counts(limit(table, max_train=50, max_eval=None, seed=0)) == {"train": 50, "selection": 100, "dev": 500}
    same_train = limit(table, max_train=50, max_eval=7, seed=0)
    assert split_rows(same_train, "train") == split_rows(small, "train")
    assert split_rows(limit(table, max_train=50, max_eval=20, seed=1), "dev") != split_rows(small, "dev")
    assert Counter(row["gold_label"] for row in split_rows(small, "train")) == {"no": 45, "yes": 5}


# ---- checks of tables from elsewhere, fingerprints ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("example_id", {1: "mine/train/0000000"}, "the example id 'mine/train/0000000' occurs twice"),
        ("split", {0: "valid"}, "mine/train/0000000: split is 'valid', expected one of train, selection, dev"),
        ("text_a", {2: " "}, "mine/train/0000002: empty text in 'text_a'; correct the data"),
        ("gold_label", {2: "{maybe}"}, "mine/train/0000002: the gold label is '{maybe}', expected one of no, yes"),
        ("gold_label", {2: None}, "mine/train/0000002: no gold label, which train needs"),
        ("true_probs", {3: [0.6, 0.6]}, "mine/train/0000003: true_probs is [0.6"),
        ("true_probs", {3: [1.0]}, "expected 2 numbers"),
    ],
)
def test_check_table_names_the_example(column: str, values: dict[int, Any], message: str) -> None:
    task, table = Task(name="mine", labels=("no", "yes")), many(20)
    check_table(task, table)
    cells = table[column].to_pylist()
    for i, value in values.items():
        cells[i] = value
    field = table.schema.field(column)
    bad = table.set_column(table.column_names.index(column), field, pa.array(cells, field.type))
    with pytest.raises(ValueError, match=re.escape(message)):
        check_table(task, bad)


def test_check_table_compares_columns() -> None:
    task, table = Task(name="mine", labels=("no", "yes")), many(20)
    with pytest.raises(ValueError, match="has no column 'gold_label'"):
        check_table(task, table.drop_columns("gold_label"))
    with pytest.raises(ValueError, match=r"(?s)has columns.*expected"):
        check_table(task, table.append_column("extra", pa.nulls(len(table), pa.string())))
    with pytest.raises(ValueError, match=r"train has 0 row\(s\)"):
        check_table(task, table.slice(20))


def test_fingerprint_follows_contents(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "x.tsv", tmp_path / "a" / "y.tsv"]
    moved = [tmp_path / "b" / "x.tsv", tmp_path / "b" / "y.tsv"]
    for path in paths + moved:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"12")
    first = fingerprint(paths)
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert fingerprint(moved) == first  # a copy elsewhere is the same data
    assert fingerprint(paths[::-1]) != first
    paths[0].write_bytes(b"122")
    paths[1].write_bytes(b"")
    second = fingerprint(paths)
    paths[0].write_bytes(b"12")
    paths[1].write_bytes(b"2")
    assert len({first, second, fingerprint(paths)}) == 3


def test_reading_needs_neither_torch_nor_datasets() -> None:
    code = "import sys, core.data; print(sorted({'torch', 'datasets', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "torch" not in Path(readers.__file__).read_text(encoding="utf-8")


# ---- the real data --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", OFFICIAL_ROWS)
def test_row_counts(name: str, real: Real) -> None:
    loaded = load(name, real.glue_dir)
    assert counts(loaded.table) == real.rows[name]
    if real.is_real:
        assert loaded.dropped == ({"no gold label (-)": 334} if name == "snli" else {})
        assert loaded.table["example_id"][0].as_py() == f"{name}/train/0000000"


@pytest.mark.parametrize("name", ["snli", "mnli"])
def test_humans(name: str, real: Real) -> None:
    dev = split_rows(load(name, real.glue_dir).table, "dev")
    several = [row for row in dev if (row["n_humans"] or 0) >= 2]
    assert several
    assert all((row["human_probs"] is not None) == (row in several) for row in dev[:200])
    probs = np.array([row["human_probs"] for row in several])
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)  # float32 rounding of three shares
    # With five annotators the gold label is the majority's, by definition.
    five = [row for row in several if row["n_humans"] == 5]
    labels = TASKS[name].labels
    assert all(labels[int(np.argmax(row["human_probs"]))] == row["gold_label"] for row in five)
    if real.is_real:
        assert len(several) == len(dev)
        assert len(five) == {"snli": 9831, "mnli": 1599}[name]
