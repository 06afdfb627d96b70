"""Trainings that run in one process and in several: the same calls, for tests/test_parallel.py to compare.

    python -m torch.distributed.run --nproc-per-node 2 tests/launched.py FOLDER

does all of them in two processes and writes FOLDER/<case>.npz.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from test_rtd import MaskingVocabulary
from tiny import CPU, NO_HEAD_DROPOUT, TASKS, random_data, tiny_model, word_tokenizer
from torch import Tensor

from core.batching import Batch
from core.device import Device
from core.losses import hard, regression
from core.predict import predict
from core.pretrain import pretrain
from core.ranks import Ranks, joined
from core.rtd import auxiliary_loss
from core.sections import PretrainConfig, TrainConfig
from core.train import train_model

BFLOAT16 = Device(torch.device("cpu"), torch.bfloat16, "as the test needs it")
TRAIN = {"epochs": 2, "lr": 2e-3, "batch_size": 7}
# Case -> options of `trained`. No dropout, so that one process and two compute the same.
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    # Parts, rows that an epoch sees twice, weights of tasks.
    "parts": {
        "train": {"accumulate": 3, "sampling": "uniform", "task_weights": {"pair": 2.0}, "optimizer": "adamax"},
        "with_auxiliary": True,
    },
    # Three rows make two parts of two processes; of one row the second process has none.
    "few rows": {"train": {"batch_size": 3, "accumulate": 9}, "n": 7},
    "one task": {"tasks": ("topic",)},
    "bfloat16": {"device": BFLOAT16, "tasks": ("topic", "score")},
    "sharded": {"shard": True, "with_auxiliary": True, "train": {"accumulate": 2}},
}
# Stopped at the third report and resumed, against one that was not; with dropout.
RESUMED: dict[str, dict[str, Any]] = {
    "noisy": {"dropout": 0.3},
    "noisy, sharded": {"dropout": 0.3, "shard": True, "detecting": True, "tasks": ("topic", "pair")},
}
LINES = ["most guests loved the soup", "some guests liked the broth", "nobody ate the bread", ""] * 30


def trained(
    folder: Path,
    ranks: Ranks,
    *,
    train: dict[str, Any] | None = None,
    tasks: tuple[str, ...] = tuple(TASKS),
    n: int = 18,
    dropout: float = 0.0,
    with_auxiliary: bool = False,
    detecting: bool = False,
    device: Device = CPU,
    shard: bool = False,
    kill_at: int | None = None,
) -> dict[str, np.ndarray]:
    """Losses of every report, scores, final weights and dynamics, by name."""
    datas = {name: random_data(TASKS[name], n + i, seed=i, dev=8) for i, name in enumerate(tasks)}
    model = tiny_model(
        {name: TASKS[name] for name in tasks},
        spec="random:bert(layers=3,hidden=32,heads=2)",
        dropout=dropout,
        seed=3,
        **({} if dropout else NO_HEAD_DROPOUT),
    )
    auxiliary: Any = None
    if with_auxiliary:
        model.add_module("guess", torch.nn.Linear(32, 1))
        auxiliary = guess
    if detecting:
        auxiliary = auxiliary_loss(model, "", MaskingVocabulary(), weight=0.1)
    reports: list[dict[str, Any]] = []

    def loss(task: str, logits: Tensor, rows: np.ndarray, progress: float) -> Tensor:
        gold = datas[task].gold[torch.from_numpy(rows)]
        return regression(logits, gold) if task == "score" else hard(logits, gold)

    def report(done: float, values: dict[str, Any] | None) -> None:
        reports.append(values or {})
        if len(reports) == kill_at:
            raise KeyboardInterrupt

    def scores() -> dict[str, float]:
        return {name: float(predict(model, data, data.rows("dev"), device).std()) for name, data in datas.items()}

    dynamics, speed = train_model(
        model,
        datas,
        loss,
        train=TrainConfig(**{**TRAIN, **(train or {})}),
        seed=0,
        names=("parallel",),
        device=device,
        report=report,
        evaluate=scores,
        checkpoint=folder / "checkpoint.safetensors",
        checkpoint_seconds=0.0,
        auxiliary=auxiliary,
        ranks=ranks._replace(shard=shard and ranks.size > 1),
    )
    found = {f"weights {name}": value.float().numpy() for name, value in model.state_dict().items()}
    found |= {f"dynamics {task}": values for task, values in dynamics.items()}
    for name in ("loss", "auxiliary"):
        found[name] = np.array([values[name] for values in reports if name in values])
    found["scores"] = np.array([list(values["selection"].values()) for values in reports if "selection" in values])
    found["tokens"] = np.array(speed.tokens)
    return found


def guess(model: Any, batch: Batch) -> Tensor:
    """Of each sequence's first token, so that its mean over the batch does not hang on who computes which sequence."""
    words = model.encoder.embeddings.word_embeddings(batch.ids_T)
    return (model.guess(words)[batch.first_B + 1] - 1).square().mean()


def pretrained(folder: Path, ranks: Ranks) -> dict[str, np.ndarray]:
    """The held-out scores of a small replaced-token detection; masks are drawn, so that no two are equal."""
    settings = PretrainConfig(objective="rtd", epochs=3, lr=2e-3, batch_size=8, max_length=16, text="in memory")
    about = pretrain(
        LINES, folder / "encoder", encoder="random:bert(layers=2,hidden=32,heads=2)",
        tokenizer=word_tokenizer(folder / f"words-{ranks.rank}", LINES), settings=settings, dropout=0.0, seed=0,
        names=("pretrain",), device=CPU, report=lambda done, values: None, key="k", ranks=ranks,
    )  # fmt: skip
    return {name: np.array(value) for name, value in about.get("held_out", {}).items()}


def resumed(folder: Path, ranks: Ranks, **options: Any) -> dict[str, np.ndarray]:
    """1 where a training that is stopped and goes on has the bits of one that is not; and the generators' states."""
    whole = trained(folder / "whole", ranks, **options)
    try:
        trained(folder / "killed", ranks, kill_at=3, **options)
    except KeyboardInterrupt:
        ranks.agreed()
    path = folder / "killed" / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as file:
        generators = {name: file.get_tensor(name).numpy() for name in file.keys() if "generator" in name}  # noqa: SIM118
        weights = max(len(file.get_tensor(name)) for name in file.keys() if "word_embeddings" in name)  # noqa: SIM118
    again = trained(folder / "killed", ranks, **options)
    same = {name: np.array(np.array_equal(again[name], whole[name], equal_nan=True)) for name in whole if " " in name}
    return {**same, **generators, "rows of the embeddings": np.array(weights)}


def everything(folder: Path, ranks: Ranks) -> dict[str, dict[str, np.ndarray]]:
    found = {name: trained(folder / name, ranks, **options) for name, options in CASES.items()}
    found |= {name: resumed(folder / name, ranks, **options) for name, options in RESUMED.items()}
    found["pretrained"] = pretrained(folder / "pretrained", ranks)
    # Stopped in two processes, for one to go on from.
    try:
        trained(folder / "to go on from", ranks, kill_at=3)
    except KeyboardInterrupt:
        ranks.agreed()
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    with joined() as ranks:
        assert ranks.size == 2
        for name, values in everything(folder, ranks).items():
            if ranks.is_main:
                np.savez(folder / f"{name}.npz", **values)
        if not ranks.is_main:
            assert ranks.agreed() is None


if __name__ == "__main__":
    main()
