"""A training over several processes: each computes a part of every batch, and the gradients are averaged (torch's DDP);
with `runtime.shard` weights, gradients and optimiser state are split as well (FSDP2).

A step's rows are those of one process, in the same order. Process r takes every N-th of them from the r-th on, in
`train.accumulate` parts; a part's mean loss counts by its share of the batch, so the sum is the mean over the batch.
All processes have equally many parts: one that has no row left computes another's with the weight 0, since a process
that stays away would keep all others waiting.

A batch is of one task, so the other heads have no gradient. DDP finds them in each step (`find_unused_parameters`) and
leaves their gradient None, as in one process, where the optimiser then leaves them alone. Marking them as used would
give them a gradient of zero: weight decay and old momentum would move a head in the steps of all other tasks.

Sharded, a copy is trained, and the model itself stays whole on the CPU: it is what scores, checkpoints and files are
made from. Its weights alone must fit one device; gradients and optimiser, three times as much, need not.

Not here: how processes find each other (core/ranks), the loop (core/train).

Shapes: B examples of a batch over all processes, C classes.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from core.batching import Batch
from core.device import Device
from core.encoder import BERT_LIKE
from core.ranks import Ranks


class Part(NamedTuple):
    """What a process computes at once: `rows`, their `places` in the batch, and their share of it. A stand-in has a
    row, no place and the share 0."""

    rows: np.ndarray
    places: np.ndarray
    share: float


def parts_of(rows: np.ndarray, *, ranks: Ranks, accumulate: int) -> list[Part]:
    """This process's parts of a batch of `rows`, equally many in each process. Every N-th row rather than a block:
    rows are sorted by length, and so all have the same work."""
    places = np.arange(len(rows))[ranks.rank :: ranks.size]
    n_parts = min(accumulate, math.ceil(len(rows) / ranks.size))
    parts = []
    for i in range(n_parts):
        own = places[i::n_parts]
        parts.append(Part(rows[own] if len(own) else rows[:1], own, len(own) / len(rows)))
    return parts


class Forward(nn.Module):
    """A model's logits (B, C) and its auxiliary loss, if any, in one call: what is computed outside of it, DDP and FSDP
    do not see."""

    def __init__(self, model: nn.Module, auxiliary: Callable[[Any, Batch], Tensor] | None):
        super().__init__()
        self.model, self.auxiliary = model, auxiliary

    def forward(self, task: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logits_BC = self.model(task, batch).float().clone()  # a view would lose FSDP's hook
        return logits_BC, {} if self.auxiliary is None else {"auxiliary": self.auxiliary(self.model, batch).float()}


def spread(
    model: nn.Module, auxiliary: Callable[[Any, Batch], Tensor] | None, *, n_tasks: int, ranks: Ranks, device: Device
) -> nn.Module:
    """`Forward` over all processes, ready to train. It shares its weights with `model`, but where they are sharded."""
    model.train()
    if ranks.shard:
        return _sharded(Forward(copy.deepcopy(model.cpu()), auxiliary), ranks, device)
    forward = Forward(model.to(device.device), auxiliary)
    if ranks.size == 1:
        return forward
    # With one head every weight of a BERT has a gradient; other types may bring parts that no head reads.
    kind = getattr(getattr(getattr(model, "encoder", None), "config", None), "model_type", None)
    some_are_unused = n_tasks > 1 or kind not in BERT_LIKE
    return nn.parallel.DistributedDataParallel(forward, find_unused_parameters=some_are_unused)


def _sharded(forward: Forward, ranks: Ranks, device: Device) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.device.type, (ranks.size,))
    stacks = [m for m in forward.modules() if isinstance(m, nn.ModuleList)]
    # The last layer goes with the rest: for heads that read [CLS], its parts are called one by one (core/encoder).
    for layer in max(stacks, key=len, default=nn.ModuleList())[:-1]:
        fully_shard(layer, mesh=mesh)
    fully_shard(forward, mesh=mesh)
    return forward


def own_device(device: Device, ranks: Ranks) -> Device:
    """The device of this process: a GPU of its own. Raises `ValueError` where there is none."""
    kind, index = device.device.type, device.device.index
    if ranks.size == 1 or kind == "cpu":
        return device
    if kind != "cuda" or index is not None:
        raise ValueError(
            f"runtime.device is '{device.device}', but {ranks.size} processes train together, each on a GPU of its "
            "own; use runtime.device=cuda or cpu"
        )
    if ranks.local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"this machine has {torch.cuda.device_count()} GPUs, and the launcher started process "
            f"{ranks.local_rank + 1} on it; start one a GPU (--nproc-per-node {torch.cuda.device_count()})"
        )
    return device._replace(device=torch.device("cuda", ranks.local_rank))


# ---- in a step -----------------------------------------------------------------------------------------------------
def reducing(forward: nn.Module, *, now: bool) -> contextlib.AbstractContextManager[Any]:
    """Of the parts of a step, only the last one's backward pass exchanges gradients. Sharded ones are exchanged at
    once: whole gradients would need the memory that sharding saves."""
    if isinstance(forward, nn.parallel.DistributedDataParallel) and not now:
        return forward.no_sync()
    return contextlib.nullcontext()


def summed(tensor: Tensor, ranks: Ranks) -> Tensor:
    """The sum over all processes, in place."""
    if ranks.size > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a sharded tensor; any other as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


# ---- sharded and whole ---------------------------------------------------------------------------------------------
def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered, for which every process must come; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """This process's part of the whole `tensor`, where `parameter`, of the same shape, is sharded."""
    if not hasattr(parameter, "to_local") or tensor.shape != parameter.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    # Every process has it whole: nothing is sent.
    where: Any = parameter
    return distribute_tensor(tensor.to(parameter.device), where.device_mesh, where.placements, src_data_rank=None)


def gathered(tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Sharded tensors whole and on the CPU, one after the other, in the first process alone; others as they are."""
    if not ranks.shard:
        return dict(tensors)
    found = {}
    for name, value in tensors.items():
        tensor = whole(value)
        if ranks.is_main:
            found[name] = tensor.cpu()
    return found


def bring_home(forward: nn.Module, model: nn.Module, ranks: Ranks) -> None:
    """Makes `model`, in the first process, what has been trained. Sharded weights alone have a way to go."""
    if ranks.shard and (weights := gathered(forward.state_dict(), ranks)):
        model.load_state_dict({name.removeprefix("model."): value for name, value in weights.items()})


@contextlib.contextmanager
def lent(model: nn.Module, device: Device, ranks: Ranks) -> Iterator[None]:
    """The whole model on the first process's device; where the trained one is sharded, as long as the block lasts."""
    if ranks.is_main:
        model.to(device.device)
    yield
    if ranks.shard:
        model.cpu()


def gathered_generators(ranks: Ranks, *, cuda: bool) -> dict[str, Tensor]:
    """States of torch's generators of every process, "cpu" and "cuda" of the first, "cpu.1" ... of the others."""
    states = {"cpu": torch.get_rng_state()} | ({"cuda": torch.cuda.get_rng_state()} if cuda else {})
    if ranks.size == 1:
        return states
    everybodys: list[Any] = [None] * ranks.size
    torch.distributed.all_gather_object(everybodys, states, group=ranks.group)
    return {generator_name(kind, rank): state for rank, of in enumerate(everybodys) for kind, state in of.items()}


def generator_name(kind: str, rank: int) -> str:
    return f"{kind}.{rank}" if rank else kind
