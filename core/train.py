"""The training loop: one plain function for members, teachers and students alike, in one process or in several.

What differs between the three kinds of training is the model, the tasks and `loss_fn`; order, optimiser, checkpoints
and logging are the same. The loop never waits for the device but once every `LOOK_EVERY_STEPS`, where it looks at the
losses and weights, stops on one that is not finite, and reports.

What it needs to go on after a stop is in a checkpoint (core/checkpoint), saved after a look. The order of the data is
a function of seed and epoch (core/batching), so a killed training resumes to the same bytes.

In several processes each runs this loop on its part of every batch (core/parallel). Losses, dynamics and the decision
to save are shared at each look; the first process reports and writes.

Not here: losses (core/losses), the stages that call this (core/stages).

Shapes: B examples, C classes, E epochs, N training examples of a task.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from core.batching import Batch, Step, TaskData, epoch_steps, make_batch
from core.checkpoint import read_checkpoint, restore, save_checkpoint
from core.device import Device, stream_seed
from core.graphs import bucketed
from core.optim import (
    clear_gradients,
    clipped_step,
    kept_gradients,
    learning_rate,
    make_optimizer,
    release_gradients,
    set_learning_rate,
)
from core.parallel import (
    Part,
    bring_home,
    lent,
    local,
    parts_of,
    reducing,
    spread,
    summed,
)
from core.ranks import ALONE, Ranks
from core.sections import TrainConfig
from core.speed import Speed

LOOK_EVERY_STEPS = 25
AHEAD = 25  # steps whose batches are made together

# (task, logits (B, C), rows (B,), progress) -> loss of each example (B,). Rows index the task's examples; progress in
# [0, 1) is the share of the training that is done, for weights that change on the way.
TaskLoss = Callable[[str, Tensor, np.ndarray, float], Tensor]
# Called with the share of the training that is done, and with what is worth a line of the log, if anything.
Report = Callable[[float, dict[str, Any] | None], None]


class Trained(NamedTuple):
    """Training logits (E, N, C) of each task; and how fast it went, since the last resume, evaluations left out."""

    dynamics: dict[str, np.ndarray]
    speed: Speed


class _Ready(NamedTuple):
    part: Part
    batch: Batch


class _Done(NamedTuple):
    """A step that nobody has looked at: this process's share of the mean losses, and its logits (B, C), 0 elsewhere."""

    step: Step
    losses: dict[str, Tensor]
    logits_BC: Tensor


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
    auxiliary: Callable[[Any, Batch], Tensor] | None = None,
    ranks: Ranks = ALONE,
) -> Trained:
    """Trains `model`, any module called as `model(task, batch)`, in place on the `train` rows of `datas`. The order of
    rows in the dynamics is that of `TaskData.rows("train")`. A row that an epoch does not see is NaN; of one that it
    sees more than once, the last logits stay.

    A step minimises its task's mean loss times `train.task_weights`, plus `auxiliary(model, batch)`, a scalar, where
    given. What is reported is the mean loss without its weight, and the auxiliary one beside it. `auxiliary` keeps its
    parameters and buffers in `model` and draws from torch's generator alone: only these are in the checkpoint.

    `names` are the data order's stream; `evaluate` gives scores at the end of an epoch. Goes on from `checkpoint`
    where there is one. Raises `FloatingPointError` that names step, task and example ids on a loss or an update that is
    not finite, and `ValueError` for a damaged checkpoint.

    All processes of `ranks` call it with the same arguments and equal models. In the first one, `model` is whole
    whenever `evaluate` is called, and at the end; in the others it need not be.
    """
    saved = read_checkpoint(checkpoint)
    first_epoch, first_step = saved.place
    ranks.same(saved.place, what=f"epoch and step of {checkpoint.name}")
    if saved.model:
        model.load_state_dict(saved.model)
    forward = spread(model, auxiliary, n_tasks=len(datas), ranks=ranks, device=device)
    optimizer = make_optimizer(forward, train)
    kept = kept_gradients(forward) if ranks.size == 1 else []
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    train_rows = {name: data.rows("train") for name, data in datas.items()}
    dynamics = _empty_dynamics(datas, train, device) if train.dynamics else {}
    restore(saved, optimizer, parameters, dynamics, ranks, seed=stream_seed(seed, *names, ranks.rank, *saved.place))
    speed = Speed(processes=ranks.size)
    saved_at = time.monotonic()
    for epoch in range(first_epoch, train.epochs):
        started = time.perf_counter()
        steps = epoch_steps(datas, train, seed=seed, names=names, epoch=epoch)
        speed.waiting_seconds += time.perf_counter() - started
        unseen: list[_Done] = []
        ready: list[list[_Ready]] = []
        for i in range(first_step, len(steps)):
            step = steps[i]
            if not ready:
                ready = _made(steps[i : i + AHEAD], datas, train, ranks, device, speed)
            progress = (epoch + i / len(steps)) / train.epochs
            unseen.append(_gradients(forward, step, ready.pop(0), datas, loss_fn, progress, train, ranks, device))
            # The middle of the step: neither the first nor the last has a rate of zero.
            set_learning_rate(optimizer, learning_rate((epoch + (i + 0.5) / len(steps)) / train.epochs, train))
            clipped_step(optimizer, train.clip_norm)
            clear_gradients(optimizer, kept)
            if len(unseen) == LOOK_EVERY_STEPS or i + 1 == len(steps):
                is_due = time.monotonic() - saved_at > checkpoint_seconds
                means, is_due = _look(unseen, datas, parameters, checkpoint, ranks, epoch, last_step=i, is_due=is_due)
                _keep(dynamics, unseen, train_rows, epoch, ranks)
                unseen = []
                done = (epoch + (i + 1) / len(steps)) / train.epochs
                report(done, {"epoch": epoch, "step": i + 1, "steps": len(steps), **means})
                if is_due and done < 1:
                    bring_home(forward, model, ranks)
                    save_checkpoint(checkpoint, model, optimizer, dynamics, ranks, device, epoch=epoch, next_step=i + 1)
                    saved_at = time.monotonic()
        first_step = 0
        speed.seconds += time.perf_counter() - started
        if train.eval_every_epochs and (epoch + 1) % train.eval_every_epochs == 0:
            bring_home(forward, model, ranks)
            with lent(model, device, ranks):
                scores = ranks.agreed(evaluate() if ranks.is_main else None)
            report((epoch + 1) / train.epochs, {"epoch": epoch, "selection": scores})
    release_gradients(kept)
    bring_home(forward, model, ranks)
    model.to(device.device).eval()
    speed.tokens = int(summed(torch.tensor(speed.tokens, device=device.device), ranks))
    return Trained({task: values.cpu().numpy() for task, values in dynamics.items()}, speed)


def _made(
    steps: list[Step],
    datas: Mapping[str, TaskData],
    train: TrainConfig,
    ranks: Ranks,
    device: Device,
    speed: Speed,
) -> list[list[_Ready]]:
    """The parts of the next steps. Made together they take half the time: between two steps of a training, nothing that
    makes a batch is in the processor's cache any more."""
    asked = time.perf_counter()
    found = []
    for step in steps:
        parts = parts_of(step.rows, ranks=ranks, accumulate=train.accumulate)
        found.append([_Ready(part, make_batch(datas[step.task], part.rows)) for part in parts])
    speed.tokens += sum(len(ready.batch.ids_T) for parts in found for ready in parts)
    if device.compiles:
        found = [[ready._replace(batch=bucketed(ready.batch)) for ready in parts] for parts in found]
    speed.waiting_seconds += time.perf_counter() - asked
    return found


def _gradients(
    forward: nn.Module,
    step: Step,
    parts: list[_Ready],
    datas: Mapping[str, TaskData],
    loss_fn: TaskLoss,
    progress: float,
    train: TrainConfig,
    ranks: Ranks,
    device: Device,
) -> _Done:
    """Forward and backward pass of a step, in parts: leaves its gradient in the parameters."""
    losses: dict[str, Tensor] = {}
    logits_BC = torch.zeros(len(step.rows), datas[step.task].task.n_outputs, device=device.device)
    for i, (part, batch) in enumerate(parts):
        with reducing(forward, now=i + 1 == len(parts)):
            with device.autocast():
                logits, extra = forward(step.task, batch)
            loss = loss_fn(step.task, logits, part.rows, progress).mean()
            total = sum(extra.values(), start=train.task_weights.get(step.task, 1.0) * loss)
            # Gradients are averaged over the processes, and shares are of all of them.
            (part.share * ranks.size * total).backward()
        if len(part.places):
            logits_BC[torch.from_numpy(part.places)] = logits.detach()
        for name, value in {"loss": loss, **extra}.items():
            losses[name] = losses.get(name, 0.0) + part.share * value.detach()
    return _Done(step, losses, logits_BC)


def _look(
    unseen: list[_Done],
    datas: Mapping[str, TaskData],
    parameters: list[nn.Parameter],
    checkpoint: Path,
    ranks: Ranks,
    epoch: int,
    *,
    last_step: int,
    is_due: bool,
) -> tuple[dict[str, float], bool]:
    """Means of the losses since the last look, over all processes, and whether the first one finds a checkpoint due:
    the loop's only wait for the device. Raises `FloatingPointError`, in all of them."""
    losses_LS = torch.stack([torch.stack([done.losses[name] for done in unseen]) for name in unseen[0].losses])
    are_finite = torch.stack([local(p).isfinite().all() for p in parameters]).all()
    flags = torch.stack([(~are_finite).float(), are_finite.new_full((), is_due and ranks.is_main).float()])
    shared = summed(torch.cat([losses_LS.flatten(), flags]), ranks).cpu().numpy()
    losses = dict(zip(unseen[0].losses, shared[:-2].reshape(losses_LS.shape), strict=True))
    finite = np.isfinite(list(losses.values())).all(axis=0)
    if finite.all() and not shared[-2]:
        return {name: float(of.mean()) for name, of in losses.items()}, bool(shared[-1])
    # The first step alone: its update spoils the weights, and so every loss after it. Where all losses are finite, it
    # was the last update.
    offset = int(finite.argmin()) if not finite.all() else len(unseen) - 1
    step = unseen[offset].step
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


def _keep(
    dynamics: Mapping[str, Tensor],
    unseen: list[_Done],
    train_rows: Mapping[str, np.ndarray],
    epoch: int,
    ranks: Ranks,
) -> None:
    """Writes the steps' logits into the dynamics, in their order; every process then has all of them."""
    if not dynamics:
        return
    parts = [done.logits_BC for done in unseen]
    flat = summed(torch.cat([part.flatten() for part in parts]), ranks)
    for done, logits in zip(unseen, flat.split([part.numel() for part in parts]), strict=True):
        position = np.searchsorted(train_rows[done.step.task], done.step.rows)
        dynamics[done.step.task][epoch, torch.from_numpy(position)] = logits.view_as(done.logits_BC)


def _empty_dynamics(datas: Mapping[str, TaskData], train: TrainConfig, device: Device) -> dict[str, Tensor]:
    """NaN: only `proportional` sampling sees every row in every epoch."""
    return {
        name: torch.full((train.epochs, len(data.rows("train")), data.task.n_outputs), torch.nan, device=device.device)
        for name, data in datas.items()
    }
