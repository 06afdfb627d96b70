"""The training loop: one plain function for members, teachers and students alike.

What differs between the three kinds of training is the model, the tasks and `loss_fn`; order, optimiser, checkpoints
and logging are the same. The loop never waits for the device but once every `LOOK_EVERY_STEPS`, where it looks at the
losses, stops on one that is not finite, and reports.

A checkpoint is one safetensors file with all the loop's state: weights, optimiser, torch's generators, dynamics and
the place in the epoch. The order of the data is a function of seed and epoch (core/batching), so a killed training
resumes to the same bytes.

Not here: losses (core/losses), the stages that call this (core/stages), distributed training.

Shapes: B examples, C classes, E epochs, N training examples of a task.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.batching import Step, TaskData, epoch_steps, make_batch
from core.config import TrainConfig
from core.device import Device
from core.model import MultiTaskModel
from core.optim import clip_gradients, learning_rate, make_optimizer, set_learning_rate
from core.store import atomic

LOOK_EVERY_STEPS = 25

# (task, logits (B, C), rows (B,)) -> loss of each example (B,). Rows index the task's examples.
TaskLoss = Callable[[str, Tensor, np.ndarray], Tensor]
# Called with the share of the training that is done, and with what is worth a line of the log, if anything.
Report = Callable[[float, dict[str, Any] | None], None]


def train_model(
    model: MultiTaskModel,
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
) -> dict[str, np.ndarray]:
    """Trains `model` in place on the `train` rows of `datas` and returns its dynamics: training logits (E, N, C) of
    each task, rows in the order of `TaskData.rows("train")`.

    `names` are the data order's stream; `evaluate` gives scores at the end of an epoch. Goes on from `checkpoint`
    where there is one. Raises `FloatingPointError` that names step, task and example ids on a loss that is not finite.
    """
    model.to(device.device).train()
    optimizer = make_optimizer(model, train)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    train_rows = {name: data.rows("train") for name, data in datas.items()}
    dynamics = _empty_dynamics(datas, train, device) if train.dynamics else {}
    first_epoch, first_step = _restore(checkpoint, model, optimizer, dynamics)
    saved_at = time.monotonic()
    for epoch in range(first_epoch, train.epochs):
        steps = epoch_steps(datas, train, seed=seed, names=names, epoch=epoch)
        unseen: list[tuple[Step, Tensor]] = []
        for i in range(first_step, len(steps)):
            step = steps[i]
            data = datas[step.task]
            with device.autocast():
                logits_BC = model(step.task, make_batch(data, step.rows)).float()
            loss_B = loss_fn(step.task, logits_BC, step.rows)
            loss = loss_B.mean()
            loss.backward()
            clip_gradients(parameters, train.clip_norm)
            # The middle of the step: neither the first nor the last has a rate of zero.
            set_learning_rate(optimizer, learning_rate((epoch + (i + 0.5) / len(steps)) / train.epochs, train))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if dynamics:
                position = np.searchsorted(train_rows[step.task], step.rows)
                dynamics[step.task][epoch, torch.from_numpy(position)] = logits_BC.detach()
            unseen.append((step, loss.detach()))
            if len(unseen) == LOOK_EVERY_STEPS or i + 1 == len(steps):
                mean_loss = _look(unseen, datas, epoch=epoch, last_step=i)
                unseen = []
                done = (epoch + (i + 1) / len(steps)) / train.epochs
                report(done, {"epoch": epoch, "step": i + 1, "steps": len(steps), "loss": mean_loss})
                if time.monotonic() - saved_at > checkpoint_seconds and done < 1:
                    _save(checkpoint, model, optimizer, dynamics, epoch=epoch, next_step=i + 1)
                    saved_at = time.monotonic()
        first_step = 0
        if train.eval_every_epochs and (epoch + 1) % train.eval_every_epochs == 0:
            report((epoch + 1) / train.epochs, {"epoch": epoch, "selection": evaluate()})
    model.eval()
    return {task: values.cpu().numpy() for task, values in dynamics.items()}


def _look(unseen: list[tuple[Step, Tensor]], datas: Mapping[str, TaskData], *, epoch: int, last_step: int) -> float:
    """Mean of the losses since the last look: the loop's only wait for the device."""
    losses = torch.stack([loss for _, loss in unseen]).cpu().numpy()
    for offset in np.flatnonzero(~np.isfinite(losses))[:1]:
        step = unseen[offset][0]
        ids = datas[step.task].example_ids[step.rows]
        raise FloatingPointError(
            f"the loss of epoch {epoch}, step {last_step - len(unseen) + 1 + int(offset)} is {losses[offset]}: task "
            f"'{step.task}', examples {', '.join(map(repr, ids[:3]))} and {max(0, len(ids) - 3)} more. Lower the "
            "learning rate or look at these examples; nothing of this training was stored"
        )
    return float(losses.mean())


def _empty_dynamics(datas: Mapping[str, TaskData], train: TrainConfig, device: Device) -> dict[str, Tensor]:
    return {
        name: torch.zeros(train.epochs, len(data.rows("train")), data.task.n_outputs, device=device.device)
        for name, data in datas.items()
    }


# ---- checkpoints ---------------------------------------------------------------------------------------------------
def _save(
    path: Path,
    model: MultiTaskModel,
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
    place = {"place": json.dumps({"epoch": epoch, "next_step": next_step})}
    with atomic(path) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata=place)


def _restore(
    path: Path, model: MultiTaskModel, optimizer: torch.optim.Optimizer, dynamics: Mapping[str, Tensor]
) -> tuple[int, int]:
    """Loads the checkpoint, if there is one, and returns the epoch and step to go on from."""
    if not path.exists():
        return 0, 0
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        place = json.loads(file.metadata()["place"])
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
