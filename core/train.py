"""The training loop: one plain function for members, teachers and students alike.

What differs between the three kinds of training is the model, the tasks and `loss_fn`; order, optimiser, checkpoints
and logging are the same. The loop never waits for the device but once every `LOOK_EVERY_STEPS`, where it looks at the
losses and weights, stops on one that is not finite, and reports.

A checkpoint is one safetensors file with all the loop's state: weights, optimiser, torch's generators, dynamics and
the place in the epoch, with a checksum. It is saved after a look, so what it holds is finite. The order of the data
is a function of seed and epoch (core/batching), so a killed training resumes to the same bytes.

Not here: losses (core/losses), the stages that call this (core/stages), distributed training.

Shapes: B examples, C classes, E epochs, N training examples of a task.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from core.batching import Batch, Step, TaskData, epoch_steps, make_batch
from core.device import Device
from core.graphs import bucketed
from core.optim import clipped_step, learning_rate, make_optimizer, set_learning_rate
from core.sections import TrainConfig
from core.speed import Speed
from core.store import atomic

LOOK_EVERY_STEPS = 25

# (task, logits (B, C), rows (B,), progress) -> loss of each example (B,). Rows index the task's examples; progress in
# [0, 1) is the share of the training that is done, for weights that change on the way.
TaskLoss = Callable[[str, Tensor, np.ndarray, float], Tensor]
# Called with the share of the training that is done, and with what is worth a line of the log, if anything.
Report = Callable[[float, dict[str, Any] | None], None]


class Trained(NamedTuple):
    """Training logits (E, N, C) of each task; and how fast it went, since the last resume, evaluations left out."""

    dynamics: dict[str, np.ndarray]
    speed: Speed


def train_model(
    model: nn.Module,
    datas: Mapping[str, TaskData],
    loss_fn: TaskLoss,
    *,
    train: TrainConfig,
    seed: int,
    names: tuple[str | int, ...],
    device: Device,
    report: Report,
    evaluate: Callable[[], dict[str, float]],
    checkpoint: Path,
    checkpoint_seconds: float,
    auxiliary: Callable[[Batch], Tensor] | None = None,
) -> Trained:
    """Trains `model`, any module called as `model(task, batch)`, in place on the `train` rows of `datas`. The order of
    rows in the dynamics is that of `TaskData.rows("train")`. A row that an epoch does not see is NaN; of one that it
    sees more than once, the last logits stay.

    A step minimises its task's mean loss times `train.task_weights`, plus `auxiliary(batch)`, a scalar, where given.
    What is reported is the mean loss without its weight, and the auxiliary one beside it. `auxiliary` keeps its
    parameters and buffers in `model` and draws from torch's generator alone: only these are in the checkpoint.

    `names` are the data order's stream; `evaluate` gives scores at the end of an epoch. Goes on from `checkpoint`
    where there is one. Raises `FloatingPointError` that names step, task and example ids on a loss or an update that is
    not finite, and `ValueError` for a damaged checkpoint.
    """
    model.to(device.device).train()
    optimizer = make_optimizer(model, train)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    train_rows = {name: data.rows("train") for name, data in datas.items()}
    dynamics = _empty_dynamics(datas, train, device) if train.dynamics else {}
    first_epoch, first_step = _restore(checkpoint, model, optimizer, dynamics)
    speed = Speed()
    saved_at = time.monotonic()
    for epoch in range(first_epoch, train.epochs):
        started = time.perf_counter()
        steps = epoch_steps(datas, train, seed=seed, names=names, epoch=epoch)
        speed.waiting_seconds += time.perf_counter() - started
        unseen: list[tuple[Step, dict[str, Tensor]]] = []
        for i in range(first_step, len(steps)):
            step = steps[i]
            asked = time.perf_counter()
            batch = make_batch(datas[step.task], step.rows)
            speed.waiting_seconds += time.perf_counter() - asked
            speed.tokens += len(batch.ids_T)
            if device.compiles:
                batch = bucketed(batch)
            with device.autocast():
                logits_BC = model(step.task, batch).float()
                extra = {} if auxiliary is None else {"auxiliary": auxiliary(batch).float()}
            loss = loss_fn(step.task, logits_BC, step.rows, (epoch + i / len(steps)) / train.epochs).mean()
            sum(extra.values(), start=train.task_weights.get(step.task, 1.0) * loss).backward()
            # The middle of the step: neither the first nor the last has a rate of zero.
            set_learning_rate(optimizer, learning_rate((epoch + (i + 0.5) / len(steps)) / train.epochs, train))
            clipped_step(optimizer, train.clip_norm)
            optimizer.zero_grad(set_to_none=True)
            if dynamics:
                position = np.searchsorted(train_rows[step.task], step.rows)
                dynamics[step.task][epoch, torch.from_numpy(position)] = logits_BC.detach()
            unseen.append((step, {name: value.detach() for name, value in {"loss": loss, **extra}.items()}))
            if len(unseen) == LOOK_EVERY_STEPS or i + 1 == len(steps):
                means = _look(unseen, datas, parameters, checkpoint, epoch=epoch, last_step=i)
                unseen = []
                done = (epoch + (i + 1) / len(steps)) / train.epochs
                report(done, {"epoch": epoch, "step": i + 1, "steps": len(steps), **means})
                if time.monotonic() - saved_at > checkpoint_seconds and done < 1:
                    _save(checkpoint, model, optimizer, dynamics, epoch=epoch, next_step=i + 1)
                    saved_at = time.monotonic()
        first_step = 0
        speed.seconds += time.perf_counter() - started
        if train.eval_every_epochs and (epoch + 1) % train.eval_every_epochs == 0:
            report((epoch + 1) / train.epochs, {"epoch": epoch, "selection": evaluate()})
    model.eval()
    return Trained({task: values.cpu().numpy() for task, values in dynamics.items()}, speed)


def _look(
    unseen: list[tuple[Step, dict[str, Tensor]]],
    datas: Mapping[str, TaskData],
    parameters: list[nn.Parameter],
    checkpoint: Path,
    *,
    epoch: int,
    last_step: int,
) -> dict[str, float]:
    """Means of the losses since the last look: the loop's only wait for the device. Raises `FloatingPointError`."""
    losses = {name: torch.stack([values[name] for _, values in unseen]).cpu().numpy() for name in unseen[0][1]}
    finite = np.isfinite(list(losses.values())).all(axis=0)
    weights_are_finite = bool(torch.stack([p.isfinite().all() for p in parameters]).all())
    if finite.all() and weights_are_finite:
        return {name: float(of.mean()) for name, of in losses.items()}
    # The first step alone: its update spoils the weights, and so every loss after it. Where all losses are finite, it
    # was the last update.
    offset = int(finite.argmin()) if not finite.all() else len(unseen) - 1
    step = unseen[offset][0]
    place = f"epoch {epoch}, step {last_step - len(unseen) + 1 + offset}"
    what = f"the update of {place} made weights that are infinite or NaN"
    for name, of in losses.items():
        if not np.isfinite(of[offset]):
            what = f"the {'loss' if name == 'loss' else f'{name} loss'} of {place} is {of[offset]}"
            break
    ids = datas[step.task].example_ids[step.rows]
    kept = f"{checkpoint} keeps the last good state" if checkpoint.exists() else "no checkpoint was saved before it"
    raise FloatingPointError(
        f"{what}: task '{step.task}', examples {', '.join(map(repr, ids[:3]))} and {max(0, len(ids) - 3)} more. Lower "
        f"the learning rate or look at these examples; {kept}"
    )


def _empty_dynamics(datas: Mapping[str, TaskData], train: TrainConfig, device: Device) -> dict[str, Tensor]:
    """NaN: only `proportional` sampling sees every row in every epoch."""
    return {
        name: torch.full((train.epochs, len(data.rows("train")), data.task.n_outputs), torch.nan, device=device.device)
        for name, data in datas.items()
    }


# ---- checkpoints ---------------------------------------------------------------------------------------------------
def _save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    dynamics: Mapping[str, Tensor],
    *,
    epoch: int,
    next_step: int,
) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    tensors |= {f"dynamics.{task}": values for task, values in dynamics.items()}
    tensors["generator.cpu"] = torch.get_rng_state()
    if next(model.parameters()).is_cuda:
        tensors["generator.cuda"] = torch.cuda.get_rng_state()
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    place = json.dumps({"epoch": epoch, "next_step": next_step, "crc32": _crc32(tensors)})
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata={"place": place})


def _crc32(tensors: Mapping[str, Tensor]) -> int:
    """Over all bytes, in the order of the names."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].cpu().reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc


def _restore(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, dynamics: Mapping[str, Tensor]
) -> tuple[int, int]:
    """Loads the checkpoint, if there is one, and returns the epoch and step to go on from."""
    if not path.exists():
        return 0, 0
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            place = json.loads(file.metadata()["place"])
        if (found := _crc32(tensors)) != place["crc32"]:
            raise ValueError(f"its checksum is {found:08x}, expected {place['crc32']:08x}")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}). Delete it, and the same command trains this model from its beginning"
        ) from error
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "dynamics": {}, "generator": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    model.load_state_dict(parts["model"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in parts["optimizer"].items():
        index, _, field = name.partition(".")
        state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for task, values in parts["dynamics"].items():
        dynamics[task].copy_(values)
    torch.set_rng_state(parts["generator"]["cpu"])
    if "cuda" in parts["generator"]:
        torch.cuda.set_rng_state(parts["generator"]["cuda"])
    return place["epoch"], place["next_step"]
