"""What the three training stages share: the job's data, the call of the loop, and the files of a finished model.

A job's model is complete when `models/<name>/model.json` is there; its predictions and dynamics are written after it,
so that a killed job predicts again from its weights rather than trains again. The checkpoint goes last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from core.batching import Batch, TaskData, load_task_data
from core.device import Device, resolve_device, stream_seed
from core.encoder import config_of, max_positions
from core.losses import hard, regression
from core.metrics import evaluate
from core.model import MultiTaskModel, load_model, save_model
from core.parallel import own_device
from core.predict import predict
from core.sections import TrainConfig
from core.speed import FORWARD_FLOPS, TRAINING_FLOPS, Speed
from core.stages.context import EVALUATION_SPLITS, Context, read_gold
from core.stages.memory import memory_named, section_of
from core.store import Predictions, read_json
from core.tokens import load_tokenizer, tokenizer_dir, tokenizer_spec
from core.train import TaskLoss, train_model


def job_device(context: Context, encoder: str) -> Device:
    """Device and number type of this job; also sets the job's CPU threads."""
    torch.set_num_threads(context.config.runtime.threads)
    runtime, width = context.config.runtime, config_of(encoder, None).hidden_size
    device = resolve_device(runtime.device, runtime.dtype, hidden=width, compiles=runtime.compile)
    return own_device(device, context.ranks)


def job_tokenizer(context: Context, encoder: str) -> Any:
    return load_tokenizer(tokenizer_dir(context.run, tokenizer_spec(context.config, encoder)))


def job_data(context: Context, encoder: str, tasks: Sequence[str], device: Device) -> dict[str, TaskData]:
    return {
        name: load_task_data(
            context.run,
            context.config,
            encoder,
            context.tasks[name],
            prepare_key=context.prepare_key,
            device=device.device,
        )
        for name in tasks
    }


def start_of(context: Context, encoder: str) -> str:
    """What a model with this encoder starts from: a fresh one that the run pre-trains is a folder of the run."""
    name = context.config.pretrained.get(encoder)
    return encoder if name is None else str(context.run.model_dir(name))


def head_settings(context: Context, *, pair_head: str | None = None) -> dict[str, Any]:
    model = context.config.model
    return {
        "head_dropout": model.head_dropout,
        "san_steps": model.san_steps,
        "san_step_dropout": model.san_step_dropout,
        "san_start": model.san_start,
        "pair_head": pair_head,
    }


def held_out_rows(context: Context, task: str) -> np.ndarray:
    """Training rows of the job's fold, (N,) bool. A fold is drawn by the first text, so that rows that share it, such
    as a premise with its hypotheses, are held out together."""
    spec, table = context.job.spec, context.run.read_examples(task)
    texts = table["text_a"].to_pylist()
    fold_of = {text: stream_seed(context.config.seed, "fold", task, text) % spec["n_folds"] for text in set(texts)}
    in_train = table["split"].to_numpy(zero_copy_only=False) == "train"
    return in_train & np.array([fold_of[text] == spec["fold"] for text in texts])


def seed_torch(seed: int, *names: str | int) -> None:
    """Initialisation and dropout of a job draw from torch's generators, seeded from the job's own stream."""
    torch.manual_seed(stream_seed(seed, *names) % 2**63)


def gold_loss(datas: Mapping[str, TaskData]) -> TaskLoss:
    """Every task on its gold labels: cross-entropy, or squared error for regression."""

    def loss(task: str, logits: torch.Tensor, rows: Any, progress: float) -> torch.Tensor:
        data = datas[task]
        gold = data.gold[torch.from_numpy(rows)]
        return regression(logits, gold) if data.task.kind == "regression" else hard(logits, gold)

    return loss


def train_and_store(
    context: Context,
    model: MultiTaskModel,
    datas: Mapping[str, TaskData],
    loss_fn: TaskLoss,
    *,
    train: TrainConfig,
    seed: int,
    names: tuple[str | int, ...],
    device: Device,
    tokenizer: Any,
    about: dict[str, Any],
    splits: Sequence[str] = EVALUATION_SPLITS,
    predicted: Mapping[str, TaskData] | None = None,
    auxiliary: Callable[[Any, Batch], torch.Tensor] | None = None,
) -> dict[str, Any]:
    """Trains on `datas`, then writes weights, dynamics and predictions on `splits` of `predicted` (none: of `datas`).
    `about` (encoder, dropout, head_settings, mc_passes) goes into model.json. Returns what `run.json` keeps."""
    run, name = context.run, context.job.name
    longest = max(int(data.lengths.max()) for data in datas.values())
    if longest > max_positions(model.encoder):
        raise ValueError(
            f"encoder '{about['encoder']}' has positions for {max_positions(model.encoder)} tokens, the data has "
            f"sequences of {longest}; set model.max_length={max_positions(model.encoder)}"
        )
    folder = run.model_dir(name)
    about |= {"key": context.job.key, "tasks": list(datas), "max_length": context.config.model.max_length}
    checkpoint = folder / f"checkpoint-{context.job.key}.safetensors"
    finished = _finished(context, datas if train.dynamics else {})
    context.ranks.same(finished is not None, what=f"'the training of {name} has ended'")
    speed = Speed()
    if finished is not None:
        model = finished.to(device.device)
    else:
        with memory_named(section_of(context.job.spec), train, datas, job=name):
            dynamics, speed = train_model(
                model,
                datas,
                loss_fn,
                train=train,
                seed=seed,
                names=names,
                device=device,
                report=context.report,
                evaluate=lambda: selection_scores(context, model, datas, device),
                checkpoint=checkpoint,
                checkpoint_seconds=context.config.runtime.checkpoint_seconds,
                auxiliary=auxiliary,
                ranks=context.ranks,
            )
        if not context.ranks.is_main:
            return {}
        for task, outputs_ENC in dynamics.items():
            data = datas[task]
            run.write_dynamics(name, data.task, data.example_ids[data.rows("train")], outputs_ENC)
        save_model(model, folder, tokenizer=tokenizer, about=about)
    if about.get("mc_passes"):
        seed_torch(seed, *names, "mc_passes")
    passes = Speed()
    for task_name, data in (predicted or datas).items() if splits else ():
        started = time.perf_counter()
        passes.tokens += _store_predictions(
            context, model, task_name, data, splits, device, mc_passes=about.get("mc_passes", 0)
        )
        passes.seconds += time.perf_counter() - started
    for leftover in folder.glob("checkpoint-*.safetensors"):
        leftover.unlink()
    kept = {"device": device.reason, "parameters": sum(p.numel() for p in model.parameters())}
    if context.ranks.size > 1:
        kept["processes"] = context.ranks.size
    if speed.tokens:
        kept["training"] = speed.record(model, flops=TRAINING_FLOPS, dtype=device.dtype)
    if passes.tokens:
        kept["passes"] = passes.record(model, flops=FORWARD_FLOPS, dtype=device.dtype)
    return kept


def _finished(context: Context, watched: Mapping[str, TaskData]) -> MultiTaskModel | None:
    """The model of this very job, when its training ended and only predictions are missing. `watched` are the tasks of
    which it has dynamics: those come from training alone."""
    about = context.run.model_dir(context.job.name) / "model.json"
    # The key first: loading a model of another config would draw from the generator that this training starts with.
    if not about.exists() or read_json(about)["key"] != context.job.key:
        return None
    if not all(context.run.dynamics_path(context.job.name, task).exists() for task in watched):
        return None
    return load_model(about.parent, context.tasks)[0]


def _store_predictions(
    context: Context,
    model: MultiTaskModel,
    name: str,
    data: TaskData,
    splits: Sequence[str],
    device: Device,
    *,
    mc_passes: int,
) -> int:
    """How many tokens the model read for it."""
    wanted = [i for i, split in enumerate(data.splits) if split in splits]
    rows = torch.tensor(wanted, dtype=torch.int64).numpy()
    outputs = predict(model, data, rows, device, mc_passes=mc_passes)
    predictions = Predictions(data.example_ids[rows], data.splits[rows], outputs, data.task.labels)
    context.run.write_predictions(context.job.name, data.task, predictions)
    per_example = data.task.n_outputs if data.task.kind == "ranking" else 1
    return int(data.sizes.reshape(-1, per_example)[rows].sum()) * max(1, mc_passes)


def selection_scores(
    context: Context, model: MultiTaskModel, datas: Mapping[str, TaskData], device: Device
) -> dict[str, float]:
    """The score of each task on the selection split, for the learning curve. No training decision uses it."""
    scores = {}
    for name, data in datas.items():
        gold = read_gold(context.run.read_examples(name), data.task, "selection")
        outputs = predict(model, data, data.rows("selection"), device)
        scores[name] = evaluate(data.task, outputs=outputs, **gold.arguments, resamples=1)["score"].value
    return scores
