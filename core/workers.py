"""Independent jobs side by side on one machine: a pool of processes, live progress, and no orphan left behind.

Members, teachers and students do not depend on each other, and two processes of one thread use two cores better than
one process of two. One process is used directly, without a pool, where one job runs at a time: on a GPU each
job fills the device.

Workers are started once a run and keep their imports. Each watches its parent and ends when that is gone, so that a
killed run leaves nobody writing into its directory.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from core.checksums import digests
from core.config import Config
from core.locks import hold_as_worker
from core.plan import TRAINING_STAGES, Job
from core.ranks import ALONE, Ranks, end_with, losses_named
from core.store import Run
from core.tasks import Task

# How often a job tells the parent how far it is, in seconds: often enough for a smooth bar.
REPORT_EVERY_SECONDS = 0.2

_events: Any = None  # a worker's end of the queue of progress events


class Event(NamedTuple):
    """Progress of a job: share done in [0, 1], and what is worth a line, if anything."""

    job: str
    done: float
    values: dict[str, Any] | None


class JobResult(NamedTuple):
    """`sums` are the checksums of the job's files (core/checksums)."""

    about: dict[str, Any]
    seconds: float
    sums: dict[str, str]


def execute(
    run_path: str,
    config: Config,
    tasks: dict[str, Task],
    job: Job,
    prepare_key: str,
    emit: Callable[[Event], None] | None = None,
    log: Callable[..., None] | None = None,
    ranks: Ranks = ALONE,
) -> JobResult:
    """Runs one job in this process. Every progress report goes to `log` (none: the run's `log.jsonl`), some of them to
    `emit`."""
    from transformers.utils.logging import disable_progress_bar

    from core.stages import RUN_STAGE
    from core.stages.context import Context

    # Saving and loading a model has bars of its own, which would bury the run's.
    disable_progress_bar()

    run, started, last_emitted = Run(run_path), time.monotonic(), 0.0
    send = emit if emit is not None else _events.put
    write = log if log is not None else run.log

    def report(done: float, values: dict[str, Any] | None) -> None:
        nonlocal last_emitted
        if values is not None:
            write("progress", job=job.name, stage=job.stage, **values)
        now = time.monotonic()
        if now - last_emitted > REPORT_EVERY_SECONDS or done == 1 or (values and "selection" in values):
            send(Event(job.name, done, values))
            last_emitted = now

    context = Context(run, config, tasks, job, prepare_key, report, ranks)
    with losses_named(ranks):
        about = RUN_STAGE[job.stage](context)
    return JobResult(about, time.monotonic() - started, digests(run, job.stage, job.name))


def take_part(
    run_path: str, config: Config, tasks: dict[str, Task], job: Job, prepare_key: str, *, ranks: Ranks
) -> None:
    """A training in the processes beside the one that executes it: it reports and writes nothing."""
    from transformers.utils.logging import disable_progress_bar

    from core.stages import RUN_STAGE
    from core.stages.context import Context

    disable_progress_bar()
    _hold_once(Path(run_path))
    ranks = ranks._replace(shard=config.runtime.shard)
    RUN_STAGE[job.stage](Context(Run(run_path), config, tasks, job, prepare_key, lambda done, values: None, ranks))


_hold_once = cache(hold_as_worker)


class Workers:
    """A context manager: `run(jobs)` yields `(job, result)` as they finish. With `n == 1` jobs run in this process, and
    trainings in those of `ranks` beside it."""

    def __init__(self, n: int, on_event: Callable[[Event], None], *, folder: Path, ranks: Ranks = ALONE):
        self.n, self.on_event, self.ranks = n, on_event, ranks
        self.pool: ProcessPoolExecutor | None = None
        if n > 1:
            context = multiprocessing.get_context("spawn")
            self.queue = context.Queue()
            self.pool = ProcessPoolExecutor(
                n, context, initializer=_start_worker, initargs=(self.queue, os.getpid(), folder)
            )
            # Imports take seconds: let the workers do them while the parent prepares the data.
            for _ in range(n):
                self.pool.submit(_import_stages)
            self.drain = threading.Thread(target=self._drain, daemon=True)
            self.drain.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.pool is None:
            return
        if kind is not None:
            # Do not wait for jobs that nobody will use: they go on from their checkpoints next time.
            for process in multiprocessing.active_children():
                process.terminate()
        self.pool.shutdown(wait=kind is None, cancel_futures=True)
        self.queue.put(None)
        # Else it would still wait for the queue while the interpreter goes away. With a limit: a worker that was ended
        # in the middle of a message leaves the queue unreadable.
        self.drain.join(timeout=1)

    def run(
        self, run_path: str, config: Config, tasks: dict[str, Task], jobs: Sequence[Job], prepare_key: str
    ) -> Iterator[tuple[Job, JobResult]]:
        """Raises what a job raised, after the results of those that finished before; `RuntimeError` when a worker
        died (the operating system kills a process that runs out of memory)."""
        if self.pool is None or (len(jobs) == 1 and jobs[0].stage in ("prepare", "select", "ensemble", "evaluate")):
            for job in jobs:
                asked = (run_path, config, tasks, job, prepare_key)
                if job.stage in TRAINING_STAGES:
                    self.ranks.agreed((take_part, asked))
                yield job, execute(*asked, emit=self.on_event, ranks=self.ranks)
            return
        futures: dict[Future[JobResult], Job] = {
            self.pool.submit(execute, run_path, config, tasks, job, prepare_key): job for job in jobs
        }
        while futures:
            finished, _ = wait(futures, return_when=FIRST_COMPLETED)
            for future in finished:
                job = futures.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    raise RuntimeError(
                        f"a worker process died while '{job.name}' or a job beside it ran; if memory ran out, lower "
                        "runtime.workers or the stage's token_budget, and run the same command again to go on"
                    ) from None
                yield job, result

    def _drain(self) -> None:
        while (event := self.queue.get()) is not None:
            self.on_event(event)


def _start_worker(queue: Any, parent: int, folder: Path) -> None:
    global _events
    _events = queue
    hold_as_worker(folder)
    # Ctrl-C goes to the whole group: the parent decides and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)


def _import_stages() -> None:
    import core.stages  # noqa: F401
