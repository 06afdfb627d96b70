"""Students of two real BERTs, on the half of SNLI's development split that tests nobody: `python -m
benchmarks.snli_halves DATA FOLDER`, and then `python -m benchmarks.people`.

DATA is a folder with `snli/`, `teacher_logits/`. Written into FOLDER, never into the project:

    snli/train.jsonl   half A of the development split, and SNLI's training rows (as far as DATA has them)
    snli/dev.jsonl     half B: what is reported. A premise is in one half alone, and in no training row if in B
    berts/             the BERTs' predictions on both halves, as a run
    run/               a run whose students `hard` and `kd` have the same rows; `kd` is taught by the BERTs on half A
                       and by gold on the training rows, where nobody's logits are known

Killed, the same command goes on.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from core.importing import import_predictions
from core.pipeline import run_pipeline
from core.presets import load_config
from core.progress import Progress
from core.store import Run

LOGITS = "teacher_logits/snli_dev_bert-base-uncased.parquet"
BERTS = {"bert-0": 0, "bert-1": 1}  # by the seed in the file
# One member, for comparison; its recipe and the students' are one.
RECIPE = {"epochs": 3, "lr": 5e-4, "batch_size": 32, "eval_every_epochs": 0, "dynamics": False}


def in_half_a(premise: str) -> bool:
    """By the premise alone: its hypotheses stay together."""
    return hashlib.sha256(premise.encode()).digest()[0] % 2 == 0


def halves(data: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows of `train` and `dev` as in SNLI's own JSON lines. Training rows get ids of their own: theirs repeat."""
    with open(data / "snli" / "dev.jsonl", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    a = [row for row in rows if in_half_a(row["sentence1"])]
    b = [row for row in rows if not in_half_a(row["sentence1"])]
    tested = {row["sentence1"] for row in b}
    with open(data / "snli" / "train.tsv", encoding="utf-8", newline="") as file:
        given = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    more = [
        {"pairID": f"train-{i}", "gold_label": row["gold_label"], "annotator_labels": []}
        | {name: row[name] for name in ("sentence1", "sentence2")}
        for i, row in enumerate(given)
        if row["sentence1"] not in tested
    ]
    return {"train": [*a, *more], "dev": b}


def write(rows_of: Mapping[str, Iterable[Mapping[str, Any]]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in rows_of.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")


def main(data: Path, folder: Path, sets: Iterable[str]) -> None:
    console = Console()
    write(halves(data), folder / "snli")
    berts = Run(folder / "berts")
    if not berts.exists():
        import_predictions(
            berts,
            "snli",
            examples=[f"{split}={folder}/snli/{split}.jsonl" for split in ("train", "dev")],
            models=[f"{name}={data / LOGITS}@seed={seed}" for name, seed in BERTS.items()],
            partial=True,
        )
    recipe = [f"{stage}.{name}={value}" for stage in ("multitask", "distill") for name, value in RECIPE.items()]
    asked = [
        *("data.tasks=[snli]", f"data.glue_dir={folder}", "evaluate.split=dev", "multitask.seeds=[0]"),
        *("multitask.dropouts=[0.0]", "distill.dropout=0.0", "select.top_k=1", "distill.seeds=5"),
        *("runtime.workers=1", "runtime.keep_features=false", *recipe),
        f"finetune.imported=[{','.join(f'{berts.path}/{name}' for name in BERTS)}]",
    ]
    config = load_config("glue-small", None, [*asked, "data.teacher_tasks=[snli]", *sets])
    with Progress(console) as progress:
        run_pipeline(Run(folder / "run"), config, progress=progress)
    console.print(
        f"Next: python -m benchmarks.people {data} {folder / 'run'} --berts {folder / 'berts'}", soft_wrap=True
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("data", type=Path, help="folder with snli/ and teacher_logits/")
    parser.add_argument("folder", type=Path, help="where everything is written")
    parser.add_argument("--set", action="append", default=[], help="as in `python -m core run`")
    given = parser.parse_args()
    main(given.data, given.folder, given.set)
