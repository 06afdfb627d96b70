"""One run in several processes that train each job together: who is who, what they agree on, and how all of them end.

`torchrun` and `accelerate launch` start N times the same command and say by environment variables which is which. The
first process (rank 0) runs the pipeline as if it were alone: it holds the lock, writes files, predicts, and talks to
people. Before each training it tells the others the job; they make the same model and data from the run's files, take
part in the loop (core/train, core/parallel), and wait for the next job. So all must see the run's folder.

They end together: a process that is gone closes its connections, which ends the wait of the others, and each watches
its launcher. Nothing here imports torch before there is a launcher.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

from core.sections import RuntimeConfig

WATCH_EVERY_SECONDS = 0.5
# Of the agreements: the others wait while the first makes a pass over all data. A lost process ends a wait at once.
PATIENCE = timedelta(days=30)
# What torch's gloo says of a process that is gone; it has no exception of its own for that, as NCCL has.
LOST_SIGNS = ("closed by peer", "gloo/transport", "broken pipe", "connection reset")

# What `accelerate launch` hands on for its own Trainer, where it is harmless, and what says the same here.
LAUNCHER_OPTIONS = {
    "ACCELERATE_MIXED_PRECISION": ("no", "--mixed_precision", "runtime.dtype"),
    "ACCELERATE_USE_FSDP": ("false", "--use_fsdp", "runtime.shard=true"),
    "ACCELERATE_USE_DEEPSPEED": ("false", "--use_deepspeed", "runtime.shard=true"),
    "ACCELERATE_USE_MEGATRON_LM": ("false", "--use_megatron_lm", "runtime.shard=true"),
    "ACCELERATE_DYNAMO_BACKEND": ("no", "--dynamo_backend", "nothing of it"),
}


class LostError(RuntimeError):
    """Another process of the run has ended."""


class Ranks(NamedTuple):
    """This process among those that train a job together. `local_rank` counts on this machine; `shard`: are weights
    and optimiser split over the processes (never over one); `group` carries agreements, on the CPU."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    shard: bool = False
    group: Any = None

    @property
    def is_main(self) -> bool:
        """The process that writes and talks."""
        return self.rank == 0

    def agreed(self, value: Any = None) -> Any:
        """What the first process gives here; every process must come. Waits as long as it takes."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        box = [value]
        with losses_named(self):
            dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def same(self, value: Any, *, what: str) -> None:
        """Raises `ValueError` where `value` is another one than in the first process: all would wait for ever."""
        first = self.agreed(value)
        if first != value:
            raise ValueError(
                f"process {self.rank} of {self.size} has {value} for {what}, the first one has {first}; all processes "
                "must see the same run folder, so put it on a file system that they share"
            )


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """This process's place among those that a launcher started; `ALONE` without one, or with one process. They leave
    it together. Raises `ValueError` for options of a launcher that would do nothing here."""
    is_launched = "LOCAL_RANK" in os.environ
    size = int(os.environ.get("WORLD_SIZE", "1")) if is_launched else 1
    if not is_launched and os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_ADDR" in os.environ:
        raise ValueError(
            "accelerate launch --cpu starts one process, however many it is asked for; use `accelerate launch "
            "--multi_gpu`, or torchrun, with --set runtime.device=cpu"
        )
    if size == 1:
        yield ALONE
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    end_with(os.getppid())
    if rank:
        # At once, whatever it waits for: there is nothing to save here, and one process says what happened.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
    _refuse_options(rank)

    import torch
    import torch.distributed as dist

    has_gpu = torch.cuda.is_available() and local_rank < torch.cuda.device_count()
    if has_gpu:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo")
    ranks = Ranks(rank, size, local_rank, group=dist.new_group(backend="gloo", timeout=PATIENCE))
    yield ranks
    if ranks.is_main:
        ranks.agreed(None)  # nothing more to do (`follow`)
    dist.barrier(group=ranks.group)  # who closes its connections early is a lost one for the others
    dist.destroy_process_group()


def follow(ranks: Ranks) -> None:
    """What every process but the first does: the first one gives `(function, arguments)`, each is called with `ranks`,
    until it gives None."""
    try:
        while (asked := ranks.agreed()) is not None:
            function, arguments = asked
            with losses_named(ranks):
                function(*arguments, ranks=ranks)
    except (LostError, FloatingPointError):
        raise SystemExit(
            1
        ) from None  # the process that is gone says why; a loss is the same in all, and the first says it
    except (ValueError, RuntimeError, OSError) as error:
        raise RuntimeError(f"process {ranks.rank} of {ranks.size}: {error}") from error


def _refuse_options(rank: int) -> None:
    for name, (harmless, option, ours) in LAUNCHER_OPTIONS.items():
        value = os.environ.get(name, harmless)
        if value.lower() != harmless and rank == 0:
            raise ValueError(
                f"accelerate launch has {option} ({name}={value}), which does nothing here; leave it out (or answer "
                f"'no' in `accelerate config`) and use --set {ours}"
            )


def sharing(ranks: Ranks, runtime: RuntimeConfig, *, with_ray: bool = False) -> Ranks:
    """`ranks` as the config wants them. Raises `ValueError` for what does not go with as many processes."""
    if ranks.size > 1 and with_ray:
        raise ValueError(
            f"--engine ray runs jobs side by side, and a launcher started {ranks.size} processes, which train each job "
            "together; leave one of the two out"
        )
    if ranks.size > 1 and runtime.workers > 1:
        raise ValueError(
            f"runtime.workers is {runtime.workers}, but a launcher started {ranks.size} processes, which train each "
            "job together, one job after the other; set runtime.workers=0, or start without the launcher"
        )
    if ranks.size > 1 and runtime.compile:
        raise ValueError(
            f"runtime.compile is for small models on one GPU, but a launcher started {ranks.size} processes; set "
            "runtime.compile=false, or start without the launcher"
        )
    if ranks.size == 1 and runtime.shard:
        raise ValueError(
            "runtime.shard splits weights and optimiser over the processes of a launcher, but this is one process; "
            "start with `torchrun --nproc-per-node N -m core ...`, or set runtime.shard=false"
        )
    return ranks._replace(shard=runtime.shard)


@contextmanager
def losses_named(ranks: Ranks) -> Iterator[None]:
    """What the libraries say of a process that is gone becomes `LostError`."""
    try:
        yield
    except RuntimeError as error:
        if ranks.size == 1 or isinstance(error, LostError) or not _is_loss(error):
            raise
        raise LostError(
            f"another of the {ranks.size} processes of this run has ended; if it said why, that is above. The same "
            "command goes on from the last checkpoint"
        ) from error


def _is_loss(error: RuntimeError) -> bool:
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or any(sign in str(error).lower() for sign in LOST_SIGNS)


def end_with(parent: int) -> None:
    """Ends this process when `parent`, which started it, is gone: nobody is left behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_EVERY_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
