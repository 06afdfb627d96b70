"""`--engine ray`: the jobs of a stage as tasks of a Ray cluster. It offers what `Workers` offers (core/workers), and a
run's files are the same bytes.

The process that was started is the driver: it holds the run's lock, decides what is done, and runs the jobs that use no
model itself (prepare, select, ensemble, evaluate). A task trains or predicts in a process of its own, on the cores and
GPUs that it asked for. Nothing but the driver writes `run.json`, `checksums.sha256` and `log.jsonl`: what a job reports
comes back through a queue, since two machines that append to one file on a network's file system lose lines.

The run directory lies on a file system that all machines share. Without one, files go by way of a store
(core/artifacts) and a task works in a scratch folder of its machine.

A job whose process or machine dies is given to another one, and goes on from its checkpoint. Ray could do that itself,
but says nothing of it, and tries for ever when memory ran out. A machine that was only cut off may still be at work on
the job then: both write the same bytes, and every file is replaced whole.

Ray is imported when it is used: it is an optional extra.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
import signal
import socket
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from core.artifacts import download, download_checkpoint, drop_checkpoint, open_store, upload, upload_checkpoint
from core.checksums import digests, inputs_of, read_sums
from core.config import Config, digest
from core.locks import hold_as_worker
from core.plan import CODE_VERSION, Job
from core.store import Run
from core.tasks import Task
from core.workers import REPORT_EVERY_SECONDS, Event, JobResult, execute

# How often a job is given to another process after its own has died.
RETRIES = 3
# Ray itself would try a wrong address for more than ten minutes.
ANSWERS_WITHIN_SECONDS = 10.0
DIES_WITHIN_SECONDS = 5.0  # a process that was told to
START_ONE = "Start one with `ray start --head`, or leave --ray-address out for one on this machine"
IN_DRIVER = ("prepare", "select", "ensemble", "evaluate")  # jobs without a model
# What must be the same on every machine for the same bytes.
PACKAGES = ("torch", "transformers", "tokenizers", "numpy")
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no word to Ray's makers about who uses it
    "RAY_enable_metrics_collection": "0",  # nobody collects them, and Ray complains about that
    # As newer Rays have it: a task without a GPU sees those of its machine all the same (`_gpus_a_job` looks to that).
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
OBJECT_STORE_BYTES = 100 << 20  # nothing large goes through it: the least that serves, as Ray takes 30 % of the memory


class RayOptions(NamedTuple):
    """`address` of a running cluster (none: RAY_ADDRESS, else one on this machine for this run alone); `gpus` a job, a
    share for small models (none: one where the cluster has any and `runtime.device` allows); `artifacts`: URL of a
    store, where the run directory is not on a shared file system."""

    address: str | None = None
    gpus: float | None = None
    artifacts: str | None = None


def ray_options(engine: str, address: str | None, gpus: float | None, artifacts: str | None) -> RayOptions | None:
    """Of the command line; None for the local engine. Raises `ValueError` for an option of Ray without Ray."""
    if engine not in ("local", "ray"):
        raise ValueError(f"--engine is '{engine}', expected local or ray")
    given = {"--ray-address": address, "--ray-gpus": gpus, "--ray-artifacts": artifacts}
    lone = [name for name, value in given.items() if value is not None]
    if engine == "local" and lone:
        raise ValueError(f"{lone[0]} needs --engine ray, and --engine is local")
    return RayOptions(address, gpus, artifacts) if engine == "ray" else None


class _Work(NamedTuple):
    """What a task is given. `inputs` are files and their SHA-256, for a machine that has to fetch them."""

    run_path: str
    config: Config
    tasks: dict[str, Task]
    job: Job
    prepare_key: str
    inputs: dict[str, str]
    artifacts: str | None
    versions: dict[str, str]
    working_folder: str  # of the driver: relative paths in the config are meant from there


class RayWorkers:
    """A context manager: `run(jobs)` yields `(job, result)` as they finish."""

    def __init__(
        self,
        options: RayOptions,
        config: Config,
        *,
        folder: Path,
        on_event: Callable[[Event], None],
        on_note: Callable[[str], None],
    ):
        self.on_event, self.on_note, self.artifacts = on_event, on_note, options.artifacts
        self.run_directory = Run(folder.resolve())
        self.most = config.runtime.workers or None
        self.running: dict[Any, Job] = {}
        self.taken: deque[Event | tuple[str, dict[str, Any]]] = deque()
        if options.artifacts is not None:
            open_store(options.artifacts)
        self.ray = _imported()
        _connect(self.ray, options)
        resources = self.ray.cluster_resources()
        try:
            gpus = _gpus_a_job(options, config, resources.get("GPU", 0))
            from ray.util.queue import Queue
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            # Here: a queue on another machine would go with it.
            here = NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=False)
            self.queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        except BaseException:
            self.ray.shutdown()
            raise
        threads = config.runtime.threads
        self.task = self.ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)(_task)
        has = f"{resources.get('CPU', 0):g} cores and {resources.get('GPU', 0):g} GPUs"
        on_note(f"ray: {has}; a job takes {threads} core{'s' * (threads > 1)} and {gpus:g} GPUs")
        if threads > resources.get("CPU", 0) or gpus > resources.get("GPU", 0):
            on_note("note: the cluster has too little for one job now; jobs wait until it has more")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Jobs that nobody will use: they go on from their checkpoints next time.
        for reference in self.running:
            self.ray.cancel(reference, force=True)
        with suppress(self.ray.exceptions.RayError):  # where the whole cluster is gone
            if self.running:  # what a dying process still says belongs to the log
                self.ray.wait(list(self.running), num_returns=len(self.running), timeout=DIES_WITHIN_SECONDS)
            self._pass_on()
        self.ray.shutdown()

    def run(
        self, run_path: str, config: Config, tasks: dict[str, Task], jobs: Sequence[Job], prepare_key: str
    ) -> Iterator[tuple[Job, JobResult]]:
        """Raises what a job raised, after the results of those that finished before; `RuntimeError` when a job's
        process died more than `RETRIES` times."""
        run, deaths = self.run_directory, Counter[str]()
        own = [job for job in jobs if job.name in IN_DRIVER or "imported" in job.spec]
        waiting = [job for job in jobs if job not in own]
        while waiting or self.running or own:
            while waiting and (self.most is None or len(self.running) < self.most):
                job = waiting.pop(0)
                inputs = {} if self.artifacts is None else _sent(run, job, self.artifacts)
                work = _Work(
                    str(run.path), config, tasks, job, prepare_key, inputs, self.artifacts, _versions(), os.getcwd()
                )
                self.running[self.task.options(name=job.name).remote(self.queue, work)] = job
            while own:
                job = own.pop(0)
                yield job, execute(run_path, config, tasks, job, prepare_key, emit=self.on_event)
            if not self.running:
                continue
            finished, _ = self.ray.wait(list(self.running), timeout=REPORT_EVERY_SECONDS)
            self._pass_on()  # after the wait: all that a finished job reported is here before its result
            for reference in finished:
                job = self.running.pop(reference)
                try:
                    result = self.ray.get(reference)
                except self.ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                except self.ray.exceptions.RayError as error:
                    deaths[job.name] += 1
                    says = f"the process of '{job.name}' died ({str(error).strip().splitlines()[0]})"
                    if deaths[job.name] > RETRIES:
                        raise RuntimeError(
                            f"{says}, {deaths[job.name]} times; if memory ran out, lower the stage's token_budget, "
                            "give a job more of a GPU (--ray-gpus), and run the same command again to go on"
                        ) from None
                    self.on_note(f"note: {says}; it is tried again, {deaths[job.name]} of {RETRIES} times")
                    run.remove_leftovers(job.name)
                    run.log("retried", job=job.name, stage=job.stage, times=deaths[job.name])
                    waiting.insert(0, job)
                    continue
                if self.artifacts is not None:
                    download(self.artifacts, run.path, result.sums)
                    drop_checkpoint(self.artifacts, job.key)
                yield job, result

    def _pass_on(self) -> None:
        """Events to the bars, lines to the log. What is taken from the queue and not passed on when somebody stops the
        run in between is passed on at the end."""
        self.taken.extend(self.queue.get_nowait_batch(self.queue.qsize()))
        while self.taken:
            item = self.taken.popleft()
            if isinstance(item, Event):
                self.on_event(item)
            else:
                event, values = item
                self.run_directory.log(event, **values)


# ---- the driver ----------------------------------------------------------------------------------------------------
def _imported() -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise ValueError(
            "--engine ray needs Ray, which is not installed; install it with `pip install --constraint constraints.txt "
            "--editable '.[ray]'`, or leave --engine out"
        ) from None
    return ray


def _connect(ray: Any, options: RayOptions) -> None:
    address = options.address or os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith("ray://"):
        raise ValueError(
            f"--ray-address {address} is a client's; start the command on a machine of the cluster, with --ray-address "
            "auto"
        )
    host, _, port = address.rpartition(":")
    if host:
        try:
            socket.create_connection((host, int(port)), timeout=ANSWERS_WITHIN_SECONDS).close()
        except (OSError, ValueError) as error:
            raise ValueError(f"no Ray cluster answers at {address}: {error}. {START_ONE}") from None
    of_its_own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if address == "local" else {}
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **of_its_own)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ValueError(
            f"no Ray cluster answers at {address}: {str(error).strip().splitlines()[0]} {START_ONE}"
        ) from error
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)  # Ray takes it; ours says how to go on


def _gpus_a_job(options: RayOptions, config: Config, in_cluster: float) -> float:
    device = config.runtime.device
    if ":" in device:
        raise ValueError(
            f"runtime.device is '{device}', which names one GPU of one machine; Ray gives each job its own: set "
            "runtime.device=cuda, or auto"
        )
    may_use = device in ("auto", "cuda")
    if options.gpus and not may_use:
        raise ValueError(f"--ray-gpus is {options.gpus:g} and runtime.device is '{device}': set runtime.device=cuda")
    if options.gpus == 0 and (device == "cuda" or (may_use and in_cluster)):
        raise ValueError("--ray-gpus is 0: set runtime.device=cpu too, or jobs would take GPUs that nobody gave them")
    if options.gpus is not None:
        return options.gpus
    return 1.0 if device == "cuda" or (may_use and in_cluster) else 0.0


def _sent(run: Run, job: Job, url: str) -> dict[str, str]:
    """Puts what the job reads into the store, and its own finished model, of which only predictions may be missing."""
    sums = read_sums(run)
    stages = {name: record["stage"] for name, record in run.manifest()["jobs"].items()}
    inputs = {path: sums[path] for path in inputs_of(job, stages, sums) if (run.path / path).exists()}
    inputs |= digests(run, job.stage, job.name)
    upload(url, run.path, inputs)
    return inputs


def _versions() -> dict[str, str]:
    return {"results of code": str(CODE_VERSION), **{name: metadata.version(name) for name in PACKAGES}}


# ---- a task --------------------------------------------------------------------------------------------------------
_hold = cache(hold_as_worker)  # a process runs many jobs of one run, and holds its folder once


def _task(queue: Any, work: _Work) -> JobResult:
    """In a process of the cluster. Raises `ValueError` on a machine that does not have what the driver has."""
    job, here = work.job, platform.node()
    for name, version in _versions().items():
        if version != work.versions[name]:
            raise ValueError(
                f"'{job.name}' came to {here}, which has {name} {version}; the run was started with "
                f"{work.versions[name]}. Install the same on all machines"
            )

    def log(event: str, **values: Any) -> None:
        queue.put((event, values))

    if Path(work.working_folder).is_dir():
        os.chdir(work.working_folder)
    if work.artifacts is None:
        folder = Path(work.run_path)
        if not Run(folder).exists():
            raise ValueError(
                f"'{job.name}' came to {here}, where there is no {folder}. Put the run directory on a file system that "
                "all machines share, or give --ray-artifacts URL"
            )
        _hold(folder)
        return execute(work.run_path, work.config, work.tasks, job, work.prepare_key, emit=queue.put, log=log)
    return _with_scratch(queue, work, work.artifacts, log)


def scratch_of(url: str, run_path: str, key: str) -> Path:
    """One for a job: when its process is killed, the next one on this machine finds what is there."""
    return Path(tempfile.gettempdir()) / f"darkroom-{digest([url, run_path, key])}"


def _with_scratch(queue: Any, work: _Work, url: str, log: Callable[..., None]) -> JobResult:
    """Fetches what the job reads, runs it, and stores what it made."""
    job, scratch = work.job, scratch_of(url, work.run_path, work.job.key)
    scratch.mkdir(mode=0o700, exist_ok=True)
    checkpoint = scratch / "models" / job.name / f"checkpoint-{job.key}.safetensors"
    sent_at = 0

    def emit(event: Event) -> None:
        nonlocal sent_at
        queue.put(event)
        # In the training's own thread: a checkpoint that is being read is not replaced meanwhile.
        if checkpoint.exists() and (saved_at := checkpoint.stat().st_mtime_ns) != sent_at:
            upload_checkpoint(url, job.key, checkpoint)
            sent_at = saved_at

    download(url, scratch, work.inputs)
    if not checkpoint.exists():
        download_checkpoint(url, job.key, checkpoint)
    result = execute(str(scratch), work.config, work.tasks, job, work.prepare_key, emit=emit, log=log)
    upload(url, scratch, result.sums)
    shutil.rmtree(scratch)
    return result
