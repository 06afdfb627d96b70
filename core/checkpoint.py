"""A training's checkpoint: one safetensors file with all of the loop's state, written whole or not at all.

Weights, optimiser, torch's generators, dynamics and the place in the epoch, with a checksum over all of it. It is saved
after a look at losses and weights, so what it holds is finite. In several processes the first one writes what is
gathered from all; each keeps generators of its own in it.

Not here: when to save (core/train).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from core.device import Device
from core.parallel import gathered, gathered_generators, generator_name, like
from core.ranks import Ranks
from core.store import atomic


class Saved(NamedTuple):
    """A checkpoint's tensors by what they are of, and the epoch and step to go on from. Empty: the beginning."""

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    dynamics: Mapping[str, Tensor]
    generator: Mapping[str, Tensor]
    place: tuple[int, int]


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    dynamics: Mapping[str, Tensor],
    ranks: Ranks,
    device: Device,
    *,
    epoch: int,
    next_step: int,
) -> None:
    """By the first process; the others give what they have and wait."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= gathered({f"optimizer.{index}.{name}": value for name, value in state.items()}, ranks)
    tensors |= {f"dynamics.{task}": values for task, values in dynamics.items()}
    generators = gathered_generators(ranks, cuda=device.device.type == "cuda")
    tensors |= {f"generator.{name}": state for name, state in generators.items()}
    if ranks.is_main:
        tensors = {name: value.contiguous() for name, value in tensors.items()}
        place = json.dumps({"epoch": epoch, "next_step": next_step, "crc32": _crc32(tensors)})
        with atomic(path) as temporary:
            save_file(tensors, temporary, metadata={"place": place})
    ranks.agreed()


def _crc32(tensors: Mapping[str, Tensor]) -> int:
    """Over all bytes, in the order of the names."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].cpu().reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc


def read_checkpoint(path: Path) -> Saved:
    """Empty where there is none. Raises `ValueError` for a damaged one."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "dynamics": {}, "generator": {}}
    if not path.exists():
        return Saved(**parts, place=(0, 0))
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
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    return Saved(**parts, place=(place["epoch"], place["next_step"]))


def restore(
    saved: Saved,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    dynamics: Mapping[str, Tensor],
    ranks: Ranks,
    *,
    seed: int,
) -> None:
    """All but the model's weights. `seed` is for a process whose generators are not in the checkpoint."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in saved.optimizer.items():
        index, _, field = name.partition(".")
        state.setdefault(int(index), {})[field] = like(value, parameters[int(index)])
    if state:
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for task, values in saved.dynamics.items():
        dynamics[task].copy_(values)
    if not ranks.is_main:
        torch.manual_seed(seed)  # dropout of its own: the processes have different rows
    for kind, set_state in (("cpu", torch.set_rng_state), ("cuda", torch.cuda.set_rng_state)):
        if (name := generator_name(kind, ranks.rank)) in saved.generator:
            set_state(saved.generator[name])
