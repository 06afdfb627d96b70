"""Does a pre-training help? `python -m benchmarks.starts FOLDER --glue DATA/glue --start NAME=ENCODER ...`.

Every start (`fresh=random:bert(...)`, `mlm=encoders/mlm`) is trained on SST-2, CoLA and STS-B together with the same
recipe, word pieces and rows; the learning rate of each is chosen on the selection split with seed 0, then all seeds are
trained with it. FOLDER has a run of each start, whose members are the trainings; the same command goes on after a stop.
`--part` names the comparison, a section of the page.

With `--pipeline RUN` the scores of a whole run on GLUE are read too. Both go to `docs/results/real-language.csv`, of
which the page is made (benchmarks/starts_page).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console

from benchmarks.starts_page import CSV, PIPELINE_PART, page, read_rows, write_rows
from core.config import resolve_tasks, validated
from core.pipeline import run_pipeline
from core.plan import student_groups, teachers_of
from core.presets import load_config
from core.progress import Progress
from core.sections import MemberConfig
from core.stages.context import read_gold, score_outputs
from core.store import Run, read_json

TASKS = ("cola", "sst2", "stsb")
SHARED = (
    *(f"data.tasks=[{','.join(TASKS)}]", "data.teacher_tasks=[sst2]", "multitask.dropouts=[0.0]", "select.top_k=1"),
    *("multitask.epochs=4", "multitask.batch_size=32", "multitask.dynamics=false", "multitask.eval_every_epochs=0"),
    *("runtime.workers=1", "evaluate.split=dev"),
)


def train(run: Run, wanted: Sequence[MemberConfig], sets: Sequence[str]) -> list[MemberConfig]:
    """Trains what of `wanted` the run has not; all that it has then, in the order of its members."""
    pool = list(validated(run.manifest()["config"]).multitask.pool) if run.exists() else []
    pool += [entry for entry in wanted if entry not in pool]  # at the end: a member is called by its place
    members = [entry.model_dump(exclude_defaults=True) for entry in pool]
    config = load_config("glue-small", None, [*SHARED, *sets, "multitask.encoders=[" + members[0]["encoder"] + "]"])
    config = validated(config.model_dump() | {"multitask": config.multitask.model_dump() | {"pool": members}})
    with Progress(Console()) as progress:
        run_pipeline(run, config, last_stage="multitask", progress=progress)
    return pool


def scores(run: Run, member: str) -> dict[tuple[str, str], tuple[float, int]]:
    """(score, rows) by (task, split)."""
    found = {}
    for name, task in resolve_tasks(validated(run.manifest()["config"])).items():
        for split in ("selection", "dev"):
            gold, said = read_gold(run.read_examples(name), task, split), run.read_predictions(member, name)
            score = score_outputs(task, gold, said, resamples=1, seed=0, what=member)["score"]
            found[name, split] = (score.value, score.n)
    return found


def compare(folder: Path, starts: dict[str, str], lrs: Sequence[float], seeds: int, sets: Sequence[str]) -> None:
    """Trains what is missing: a run of each start, `<folder>/<name>`. Rates and seeds can be added later."""
    for name, encoder in starts.items():
        run = Run(folder / name)
        tried = [MemberConfig(encoder=encoder, lr=lr, seed=0) for lr in lrs]
        pool = train(run, tried, sets)
        means = []
        for entry in tried:
            found = scores(run, f"mt-{pool.index(entry) + 1}")
            means.append(np.mean([value for (_, split), (value, _) in found.items() if split == "selection"]))
        best = tried[int(np.argmax(means))]
        train(run, [best.model_copy(update={"seed": seed}) for seed in range(1, seeds)], sets)


def rows_of_starts(folder: Path, starts: Sequence[str], part: str) -> list[dict[str, Any]]:
    rows = []
    for name in starts:
        run = Run(folder / name)
        for member, settings in validated(run.manifest()["config"]).multitask.members.items():
            about = {"part": part, "model": name, "lr": settings["lr"], "seed": settings["seed"]}
            for (task, split), (value, n) in scores(run, member).items():
                rows.append({**about, "task": task, "split": split, "value": value, "n": n})
    return rows


def rows_of_pipeline(run: Run) -> list[dict[str, Any]]:
    """Score of every member, teacher, ensemble and student; `model` says what it is, `seed` which of them."""
    config = validated(run.manifest()["config"])
    chosen = read_json(run.path / "selection.json")["chosen"]
    value_of = {
        (row["model"], row["task"], row["split"]): (row["value"], row["n"])
        for row in pq.read_table(run.path / "metrics.parquet").to_pylist()
        if row["metric"] == "score"
    }
    rows = []
    for name, task in resolve_tasks(config).items():
        models = {"single": list(config.multitask.members), "ensemble": [f"ens-{config.ensemble.strategy}"]}
        models |= {"teacher": teachers_of(config, chosen, name)} if task.has_teacher else {}
        models |= student_groups(config, name)
        for model, names in models.items():
            for seed, own in enumerate(names):
                for split in ("selection", config.evaluate.split):
                    if (own, name, split) in value_of:
                        value, n = value_of[own, name, split]
                        about = {"part": PIPELINE_PART, "model": model, "lr": "", "seed": seed, "task": name}
                        rows.append({**about, "split": split, "value": value, "n": n})
    return rows


def publish(out: Path, part: str, rows: list[dict[str, Any]]) -> None:
    kept = [row for row in (read_rows(out / CSV) if (out / CSV).exists() else []) if row["part"] != part]
    write_rows(out / CSV, sorted([*kept, *rows], key=lambda row: (row["part"] == PIPELINE_PART, row["part"])))
    (out / "real-language.md").write_text(page(read_rows(out / CSV)), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("?")[0])
    parser.add_argument("folder", type=Path, help="runs of the comparison, one of each start")
    parser.add_argument("--glue", type=Path, help="folder in GLUE's layout")
    parser.add_argument("--start", action="append", default=[], help="NAME=ENCODER, several times")
    parser.add_argument("--part", default="Starts", help="name of the comparison, a heading of the page")
    parser.add_argument("--lr", type=float, nargs="+", default=[5e-4, 1e-3])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="as in `python -m core run`")
    parser.add_argument("--pipeline", type=Path, help="a finished run on GLUE, to be told too")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    given = parser.parse_args()
    if given.part == PIPELINE_PART:
        parser.error(f"--part is '{PIPELINE_PART}', which names the whole runs; give another name")
    if given.start:
        starts = dict(item.split("=", 1) for item in given.start)
        compare(given.folder, starts, given.lr, given.seeds, [f"data.glue_dir={given.glue}", *given.set])
        publish(given.out, given.part, rows_of_starts(given.folder, list(starts), given.part))
    if given.pipeline is not None:
        publish(given.out, PIPELINE_PART, rows_of_pipeline(Run(given.pipeline)))
