"""`python -m core tasks check`, on one task in each format; and GLUE through `datasets` itself, from a mirror."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_cli import call, refused

from core.data import load_task
from core.tasks import GLUE, load_tasks_yaml

ROWS = [
    {"comment": f"you are {word}, [bold]reader[/bold] {i}", "rating": label, "r1": label, "r2": "fine", "r3": label}
    for i, (word, label) in enumerate([("lovely", "fine"), ("kind", "fine"), ("awful", "toxic"), ("bad", "toxic")])
]
TEN_LINES = """\
toxicity:
  files: {{train: train{0}, dev: dev{0}}}
  text_a: comment
  label: rating
  labels: [fine, toxic]
  human_columns: [r1, r2, r3]
  has_teacher: true
"""
FORMATS = (".csv", ".tsv", ".jsonl", ".parquet", "")  # "": a folder of `datasets.save_to_disk`


def write(path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif suffix == "":
        datasets.Dataset.from_list(ROWS).save_to_disk(str(path))
    elif suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    else:
        sign = "\t" if suffix == ".tsv" else ","
        cells = [list(ROWS[0]), *(list(row.values()) for row in ROWS)]
        quoted = [[f'"{c}"' if "," in c and sign == "," else c for c in row] for row in cells]
        path.write_text("\n".join(sign.join(row) for row in quoted) + "\n", encoding="utf-8")


@pytest.mark.parametrize("suffix", FORMATS)
def test_one_task_in_every_format(suffix: str, tmp_path: Path) -> None:
    for split in ("train", "dev"):
        write(tmp_path / f"{split}{suffix}", suffix)
    own = tmp_path / "my_tasks.yaml"
    own.write_text(TEN_LINES.format(suffix), encoding="utf-8")
    result = call("tasks", "check", own)
    assert result.exit_code == 0, result.output
    for words in (
        "classification, head 'linear', with teachers; scored by accuracy",
        "text_a = 'comment', label = 'rating'",
        "train 4, dev 4",
        "fine 2, toxic 2 (in train)",
        "a distribution of annotators for 8 of 8 rows (up to 3 a row)",
        "Next: python -m core run --tasks",
    ):
        assert words in result.stdout.replace("\n", ""), words
    shown = [line for line in result.stdout.splitlines() if "toxicity/train/00000" in line]
    assert len(shown) == 3
    assert "[bold]" in result.stdout  # a text is no markup
    assert "0.667" in result.stdout  # two of three
    table = load_task(load_tasks_yaml(own)["toxicity"], source="files").table
    assert table["human_probs"].to_pylist()[2] == pytest.approx([1 / 3, 2 / 3])


def test_what_is_wrong_is_said_for_each_task(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", ".csv")
    write(tmp_path / "dev.csv", ".csv")
    good = TEN_LINES.format(".csv")
    column = good.replace("toxicity:", "spelt:").replace("text_a: comment", "text_a: coment")
    label = good.replace("toxicity:", "named:").replace("[fine, toxic]", "[fine, rude]")
    own = tmp_path / "my_tasks.yaml"
    own.write_text(column + label + good, encoding="utf-8")
    result = call("tasks", "check", own)
    assert result.exit_code == 2
    text = result.stdout.replace("\n", " ")
    assert "has no column 'coment'; did you mean 'comment'?" in text
    assert "train.csv line 4 has the unknown label 'toxic' in column 'rating'" in text
    assert "2 of 3 tasks cannot be read: spelt, named" in text
    assert "fine 2, toxic 2" in text  # the third was read
    own.write_text("toxicity: {lable: x}", encoding="utf-8")
    assert "unknown field 'lable'; did you mean 'label'" in refused("tasks", "check", own)


def test_glue_through_datasets_from_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets.load_dataset("nyu-mll/glue", "rte")` itself: a folder of that name in the working directory is what it
    opens first, so a mirror in the hub's layout, with its card, stands for the hub."""
    names = list(GLUE["rte"].labels)
    features = datasets.Features(
        {"sentence1": datasets.Value("string"), "sentence2": datasets.Value("string"),
         "label": datasets.ClassLabel(names=names), "idx": datasets.Value("int32")}
    )  # fmt: skip
    folder = tmp_path / "nyu-mll" / "glue"
    (folder / "rte").mkdir(parents=True)
    card = "---\nconfigs:\n- config_name: rte\n  data_files:\n"
    for split, labels in (("train", [0, 1, 1]), ("validation", [1, 0]), ("test", [-1, -1])):
        n = len(labels)
        columns = {"sentence1": ["A."] * n, "sentence2": ["B."] * n, "label": labels, "idx": list(range(n))}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(
            str(folder / "rte" / f"{split}-00000-of-00001.parquet")
        )
        card += f"  - split: {split}\n    path: rte/{split}-*\n"
    (folder / "README.md").write_text(card + "---\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    through = load_task(GLUE["rte"], source="hub").table
    mirrored = load_task(GLUE["rte"], source="hub", hub_dir=tmp_path).table
    assert through["gold_label"].to_pylist() == [names[i] for i in (0, 1, 1, 1, 0)] + [None, None]
    assert through.equals(mirrored)
