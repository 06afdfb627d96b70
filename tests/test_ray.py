"""`--engine ray` on a real Ray cluster on this machine: the local engine's bytes, whatever is killed or stopped.

The cluster lives as long as this file. Its one GPU is a number that Ray counts: no GPU is needed, and none is used.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import LONG, Finished, changed, go, keys, log_lines, results, steps_of, tiny
from rich.console import Console
from test_cli import refused

from core.artifacts import download, download_checkpoint, drop_checkpoint, upload, upload_checkpoint
from core.engine_ray import RayOptions, _gpus_a_job, _task, _versions, _Work, scratch_of
from core.files import sha256_of
from core.progress import Progress
from core.store import Run
from core.workers import Event

# Ray leaves its own sockets and log files open when it goes.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
LONG_ENOUGH = 120.0  # seconds until a hang is called a hang


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of two cores."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "num_gpus": 1, "include_dashboard": False, "object_store_memory": 80 << 20}
    started = Cluster(initialize_head=True, head_node_args=node)
    yield started.address
    started.shutdown()


@pytest.fixture
def in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job waits when four of its reports are unread, as its process must be there still when a test has read one: of
    itself it runs ahead, and a fast machine is through before the driver looks for the first time."""
    from ray.util.queue import Queue

    monkeypatch.setattr("ray.util.queue.Queue", partial(Queue, 4))


def processes_of(job: str) -> list[int]:
    """Of the cluster's processes those that run this job: Ray gives them its name."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes().split(b"\0")[0].decode()
            except OSError:
                continue
            if title.strip() == f"ray::{job}":
                found.append(int(entry.name))
    return found


class _InTheMiddle(Progress):
    """Does `what` when `job` has said for the second time how far it is, and has a checkpoint."""

    job: str
    run: Run
    store: Path | None

    def __init__(self, console: Console):
        super().__init__(console)
        self.heard = 0

    def event(self, event: Event) -> None:
        super().event(event)
        if event.job == self.job and event.values and "loss" in event.values:
            self.heard += 1
            folder = self.run.model_dir(self.job) if self.store is None else self.store
            if self.heard >= 2 and self.heard < 1_000 and list(folder.glob("checkpoint-*")):
                self.heard = 1_000
                self.what()

    def what(self) -> None:
        raise KeyboardInterrupt


class _Killing(_InTheMiddle):
    def what(self) -> None:
        [pid] = processes_of(self.job)
        os.kill(pid, signal.SIGKILL)


def assert_went_on(run: Run, whole: Run, job: str) -> None:
    """From a checkpoint: all was done, and no step of the beginning was reported twice."""
    steps, wanted = steps_of(run, job), steps_of(whole, job)
    assert set(steps) == set(wanted)
    assert steps.count(wanted[0]) == 1, f"'{job}' began anew"


# ---- whole runs -----------------------------------------------------------------------------------------------------
def test_stopped_and_killed_it_ends_in_the_bytes_of_the_local_engine(
    cluster: str, tmp_path: Path, undisturbed: Run, in_step: None
) -> None:
    run, ray = Run(tmp_path / "run"), RayOptions(cluster)
    _InTheMiddle.run, _InTheMiddle.store = run, None
    _InTheMiddle.job = "mt-1"
    with pytest.raises(KeyboardInterrupt):
        go(run, tiny(*LONG), _InTheMiddle, ray=ray)
    assert "mt-1" not in run.manifest()["jobs"]
    deadline = time.monotonic() + LONG_ENOUGH
    while (left := processes_of("mt-1") + processes_of("mt-2")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []

    _InTheMiddle.job = "ft-1-nli"
    done = go(run, tiny(*LONG), _Killing, ray=ray)
    assert "ray: 2 cores and 1 GPUs; a job takes 1 core and 0 GPUs" in done.shown
    assert "note: the process of 'ft-1-nli' died" in done.shown
    assert "it is tried again, 1 of 3 times" in done.shown
    assert [(line["job"], line["times"]) for line in log_lines(run, event="retried")] == [("ft-1-nli", 1)]
    for job in ("mt-1", "ft-1-nli"):
        assert_went_on(run, undisturbed, job)
    assert steps_of(run, "st-kd-s0") == steps_of(undisturbed, "st-kd-s0")  # no line of the log is lost
    assert changed(results(undisturbed), results(run)) == set()
    assert changed(results(undisturbed, "models"), results(run, "models")) == set()
    assert keys(run.manifest()) == keys(undisturbed.manifest())
    assert (run.path / "checksums.sha256").read_bytes() == (undisturbed.path / "checksums.sha256").read_bytes()


class _Moving(_Killing):
    """The machine is gone, and with it what was on it."""

    scratch: Path

    def what(self) -> None:
        super().what()
        assert (self.scratch / "models" / self.job).exists()
        shutil.rmtree(self.scratch)


def test_files_go_by_way_of_a_store_and_so_does_a_checkpoint(
    cluster: str, tmp_path: Path, undisturbed: Run, in_step: None
) -> None:
    run, store = Run(tmp_path / "run"), tmp_path / "store"
    key_of = keys(undisturbed.manifest())
    scratches = {job: scratch_of(store.as_uri(), str(run.path), key) for job, key in key_of.items()}
    _InTheMiddle.run, _InTheMiddle.store, _InTheMiddle.job = run, store, "mt-1"
    _Moving.scratch = scratches["mt-1"]
    done = go(run, tiny(*LONG), _Moving, last_stage="finetune", ray=RayOptions(cluster, artifacts=store.as_uri()))
    assert "note: the process of 'mt-1' died" in done.shown
    assert_went_on(run, undisturbed, "mt-1")
    folders = ("examples", "predictions", "dynamics", "models", "selection.json")
    made, wanted = results(run, *folders), results(undisturbed, *folders)
    assert "predictions/ft-1-nli/nli.parquet" in made
    assert made == {name: wanted[name] for name in made}
    assert list(store.glob("checkpoint-*")) == []
    assert not any(scratch.exists() for scratch in scratches.values())


class _Tampering(Progress):
    """Swaps the targets' labels when the students are about to start: their task raises."""

    run: Run

    def start(self, stage: str, jobs: list[str]) -> None:
        super().start(stage, jobs)
        path = self.run.targets_path("nli")
        table = pq.read_table(path)
        names = pa.array([["x", "y", "z"]] * len(table))
        pq.write_table(table.set_column(table.column_names.index("label_names"), "label_names", names), path)


def test_a_jobs_error_is_the_same_sentence(cluster: str, copied: Run) -> None:
    _Tampering.run = copied
    # Two students at once on the one GPU that Ray counts.
    ray, config = RayOptions(cluster, gpus=0.5), tiny("runtime.device=auto", "distill.variants=[kd]")
    with pytest.raises(ValueError, match=r"^\S+nli\.parquet has the labels \('x', 'y', 'z'\).* redo 'ensemble'$"):
        go(copied, config, _Tampering, only_stage="distill", update=True, ray=ray)
    [line] = log_lines(copied, event="stopped")
    assert line["error"].startswith("ValueError: ")


# ---- a task, without a cluster --------------------------------------------------------------------------------------
def work(run: Run, finished: Finished, **other: Any) -> _Work:
    from core.config import resolve_tasks
    from core.plan import make_jobs

    tasks = resolve_tasks(finished.config)
    job = make_jobs(finished.config, tasks, source_digest="", chosen=None)["mt-1"]
    of = _Work(str(run.path), finished.config, tasks, job, "", {}, None, _versions(), os.getcwd())
    return of._replace(**other)


def test_a_machine_that_has_not_what_the_driver_has_is_named(smoke: Finished, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'mt-1' came to .*, where there is no .*missing\. Put the run directory on"):
        _task(None, work(Run(tmp_path / "missing"), smoke))
    other = {**_versions(), "torch": "1.0"}
    with pytest.raises(ValueError, match=r"'mt-1' came to .*, which has torch .*; the run was started with 1\.0\."):
        _task(None, work(smoke.run, smoke, versions=other))


# ---- options --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("gpus", "device", "in_cluster", "asked"),
    [
        (None, "auto", 8, 1.0),
        (None, "auto", 0, 0.0),
        (None, "cuda", 0, 1.0),  # a cluster that grows when it is asked
        (None, "cpu", 8, 0.0),
        (0.25, "auto", 8, 0.25),
        (0.0, "cpu", 8, 0.0),
        (0.0, "auto", 0, 0.0),
        (0.0, "auto", 8, "set runtime.device=cpu too"),
        (0.5, "cpu", 8, "set runtime.device=cuda"),
        (None, "cuda:1", 8, "Ray gives each job its own"),
    ],
)
def test_gpus_a_job(gpus: float | None, device: str, in_cluster: float, asked: float | str) -> None:
    config = tiny(f"runtime.device={device}")
    if isinstance(asked, str):
        with pytest.raises(ValueError, match=asked):
            _gpus_a_job(RayOptions(gpus=gpus), config, in_cluster)
    else:
        assert _gpus_a_job(RayOptions(gpus=gpus), config, in_cluster) == asked


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--ray-address", "auto"), "--ray-address needs --engine ray, and --engine is local"),
        (("--ray-gpus", "1"), "--ray-gpus needs --engine ray"),
        (("--ray-artifacts", "s3://x"), "--ray-artifacts needs --engine ray"),
        (("--engine", "slurm"), "--engine is 'slurm', expected local or ray"),
        (("--engine", "ray", "--ray-address", "ray://host:10001"), "start the command on a machine of the cluster"),
        (("--engine", "ray", "--ray-address", "127.0.0.1:1"), "no Ray cluster answers at 127.0.0.1:1: "),
        (("--engine", "ray", "--ray-artifacts", "nosuch://x"), "--ray-artifacts nosuch://x: Protocol not known"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: tuple[str, ...], says: str, tmp_path: Path) -> None:
    assert says in refused("run", "--preset", "smoke", "--out", tmp_path / "run", *options)
    assert not (tmp_path / "run" / "examples").exists()


def test_without_ray_a_sentence_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    message = refused("run", "--preset", "smoke", "--out", tmp_path / "run", "--engine", "ray")
    assert "needs Ray, which is not installed; install it with `pip install" in message


# ---- the store ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_a_store_keeps_files_by_their_checksum(scheme: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    url = f"memory://{tmp_path}" if scheme == "memory" else (tmp_path / "store").as_uri()
    (here / "deep").mkdir(parents=True)
    (here / "deep" / "a.json").write_text(json.dumps([1]), encoding="utf-8")
    sums = {"deep/a.json": sha256_of(here / "deep" / "a.json")}
    upload(url, here, sums)
    upload(url, here, sums)
    download(url, there, sums)
    assert (there / "deep" / "a.json").read_bytes() == (here / "deep" / "a.json").read_bytes()
    (here / "b").write_text("b", encoding="utf-8")
    upload(url, here, {"b": "0" * 64})
    with pytest.raises(ValueError, match="is damaged: its SHA-256 is"):
        download(url, there, {"b": "0" * 64})
    assert not (there / "b").exists()
    download_checkpoint(url, "key", there / "checkpoint")
    assert not (there / "checkpoint").exists()
    for text in ("first", "second"):
        (here / "checkpoint").write_text(text, encoding="utf-8")
        upload_checkpoint(url, "key", here / "checkpoint")
    download_checkpoint(url, "key", there / "checkpoint")
    assert (there / "checkpoint").read_text(encoding="utf-8") == "second"
    drop_checkpoint(url, "key")
    drop_checkpoint(url, "key")
    (there / "checkpoint").unlink()
    download_checkpoint(url, "key", there / "checkpoint")
    assert not (there / "checkpoint").exists()


def test_what_a_killed_process_left_half_written_goes_before_the_next_try(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write_manifest({})
    of_killed, of_another = (run.model_dir(job) / ".checkpoint.safetensors.host.1.tmp" for job in ("mt-1", "mt-2"))
    for path in (of_killed, of_another):
        path.parent.mkdir(parents=True)
        path.touch()
    run.remove_leftovers("mt-1")
    assert (of_killed.exists(), of_another.exists()) == (False, True)
