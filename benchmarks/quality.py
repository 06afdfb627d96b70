"""Does speed cost quality? Models trained as here and as transformers would train them, seed by seed.

    python -m benchmarks.quality FOLDER [--seeds 5] [--preset demo] [--data-seed 7]

The plain side has transformers' own padded encoder and attention, torch's own dropout, batches that are not sorted by
length beyond what the shuffle gives, clipping before the step and torch's default AdamW. Everything else, and the
members' seeds, are equal. Scores are of a split that nothing is reported on, the mean over the tasks and over those
with a teacher; a line each, with the paired difference. `--dtype bfloat16` compares that number type with float32
instead. `--keep` writes benchmarks/results/quality.json.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console

from benchmarks.kept import keep
from core.comparisons import paired_difference
from core.config import resolve_tasks
from core.files import read_json
from core.pipeline import run_pipeline
from core.presets import load_config
from core.progress import Progress
from core.sections import TrainConfig
from core.store import Run


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Within it, this process trains as transformers and a plain loop do."""
    with contextlib.ExitStack() as stack:
        for place, value in (
            ("core.encoder.BERT_LIKE", ()),  # no packing: the model runs padded, as any other type does
            ("core.encoder.replace_dropouts", lambda *_: None),
            ("core.model.replace_dropouts", lambda *_: None),
            ("core.batching.WINDOW_BATCHES", 1),
            ("core.train.make_optimizer", _plain_optimizer),
            ("core.train.clipped_step", _plain_step),
        ):
            stack.enter_context(mock.patch(place, value))
        yield


def _plain_optimizer(model: torch.nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=train.lr)


def _plain_step(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], max_norm)
    optimizer.step()


def scores(folder: Path, overrides: list[str], *, preset: str, seeds: int) -> dict[str, list[float]]:
    """Of each seed's member: the mean over the tasks, and over those with a teacher."""
    config = load_config(
        preset, None,
        [f"multitask.seeds={list(range(seeds))}", f"select.top_k={seeds}", "multitask.dropouts=[0.1]",
         "runtime.workers=1", *overrides],
    )  # fmt: skip
    run = Run(folder)
    with Progress(Console(stderr=True)) as progress:
        run_pipeline(run, config, last_stage="select", progress=progress)
    ranking = read_json(run.path / "selection.json")["ranking"]
    of_member = {row["member"]: row["scores"] for row in ranking}
    teachers = [name for name, task in resolve_tasks(config).items() if task.has_teacher]
    in_order = [of_member[name] for name in config.multitask.members]
    return {
        "all tasks": [statistics.mean(of.values()) for of in in_order],
        "tasks with a teacher": [statistics.mean(of[task] for task in teachers) for of in in_order],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--data-seed", type=int, default=7)
    parser.add_argument("--dtype", choices=("bfloat16",), help="compare this number type with float32 instead")
    parser.add_argument("--set", action="append", default=[], help="section.field=value, for both sides")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/quality.json")
    given = parser.parse_args()
    if given.keep and given.dtype:
        parser.error("--keep is of Darkroom against the plain side; leave out --dtype")
    shared = [f"data.seed={given.data_seed}", *given.set]
    kinds = {"preset": given.preset, "seeds": given.seeds}
    if given.dtype:
        names = ("bfloat16", "float32")
        sides = {name: scores(given.folder / name, [*shared, f"runtime.dtype={name}"], **kinds) for name in names}
    else:
        names = ("Darkroom", "plain")
        sides = {"Darkroom": scores(given.folder / "darkroom", shared, **kinds)}
        with plain():
            sides["plain"] = scores(given.folder / "plain", shared, **kinds)
    for what in ("all tasks", "tasks with a teacher"):
        a, b = (sides[name][what] for name in names)
        print(f"{what}: {names[0]} {100 * statistics.mean(a):.1f}, {names[1]} {100 * statistics.mean(b):.1f}")
        print(f"    difference {difference(a, b)}")
    if given.keep:
        command = f"python -m benchmarks.quality FOLDER --seeds {given.seeds} --preset {given.preset}"
        keep("quality", f"{command} --data-seed {given.data_seed}", {"scores": sides})


def difference(a: list[float], b: list[float]) -> str:
    d = paired_difference(a, b)
    return f"{100 * d.mean:+.2f} ± {100 * d.se:.2f}, n = {d.n}, {d.verdict}"


def sentence(found: dict[str, Any]) -> str:
    ours, plain_ = (found["scores"][name]["tasks with a teacher"] for name in ("Darkroom", "plain"))
    return f"Members trained here minus members trained the plain way: {difference(ours, plain_)}"


if __name__ == "__main__":
    main()
