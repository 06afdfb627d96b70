"""Two at once: the second writer is refused by the name of the first, a killed one is no obstacle, readers go on."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished, go, tiny
from rich.console import Console
from test_cli import call, refused

from core import locks
from core.locks import holder_of, killed_holder, locked
from core.store import Run
from core.sweep import run_sweep
from core.views.catalogue import find_runs

ROOT = Path(__file__).resolve().parents[1]
HOLD = "with locked(folder):\n    print('held', flush=True); sys.stdin.read()"
WORK = "hold_as_worker(folder); print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def other() -> Iterator[Callable[[Path, str], subprocess.Popen[str]]]:
    """Another process that holds a folder until its input ends."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path, does: str = HOLD) -> subprocess.Popen[str]:
        code = f"import sys\nfrom pathlib import Path\nfrom core.locks import *\nfolder = Path(sys.argv[1])\n{does}"
        command = [sys.executable, "-c", code, str(folder)]
        child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError, match="is in use by") as error, locked(folder):
        pass
    return str(error.value)


def test_a_second_writer_is_refused_and_a_killed_one_is_not_waited_for(
    tmp_path: Path, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.1)
    child = other(tmp_path)
    holder = holder_of(tmp_path)
    assert holder is not None
    assert (holder.pid, holder.started[-3:]) == (child.pid, "UTC")
    message = refusal(tmp_path)
    assert f"(process {child.pid} on {holder.host}, started {holder.started}); wait for it, stop it, or" in message
    assert str(tmp_path) in message
    child.send_signal(signal.SIGKILL)
    child.wait()
    # Its file is still there; the kernel's lock is not, so no process id has to be looked up.
    assert holder_of(tmp_path) is None
    assert killed_holder(tmp_path) == holder
    with locked(tmp_path) as note:
        assert note is not None
        assert note.endswith("was killed while it worked here; this goes on from what it had done")
        assert str(child.pid) in note
        assert holder_of(tmp_path) is not None
        assert str(os.getpid()) in refusal(tmp_path)  # from this very process too
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path) as note:
        assert note is None


def test_a_reader_who_asks_is_not_in_the_way(tmp_path: Path) -> None:
    """Asking takes the lock for microseconds, and a writer waits that long."""
    (tmp_path / locks.LOCK).write_text("{", encoding="utf-8")  # and half a record is no record
    file = os.open(tmp_path / locks.LOCK, os.O_RDONLY)
    fcntl.flock(file, fcntl.LOCK_SH)
    assert holder_of(tmp_path) is None
    os.close(file)
    with locked(tmp_path) as note:
        assert note is None


def test_orphans_of_a_killed_run_are_waited_for(tmp_path: Path, other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "ORPHAN_SECONDS", 0.1)
    child = other(tmp_path, WORK)
    with (
        pytest.raises(ValueError, match=r"workers of a run that was killed still write to it .* end them"),
        locked(tmp_path),
    ):
        pass
    monkeypatch.setattr(locks, "ORPHAN_SECONDS", 60.0)
    child.communicate()
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC], ids=errno.errorcode.__getitem__)
def test_a_folder_that_cannot_be_written_to(number: int, copied: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here by its error number; `make torture` has real read-only and full disks."""
    real = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith(locks.LOCK):
            raise OSError(number, os.strerror(number))
        return real(path, *arguments, **options)

    monkeypatch.setattr("core.locks.os.open", refuse)
    message = refused("run", "--out", copied.path)
    assert message.startswith(f"{copied.path} cannot be written: ")
    assert os.strerror(number) in message
    for command in ("status", "report"):  # which only read
        assert call(command, copied.path).exit_code == 0


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path) as note:
        assert note == f"the file system of {tmp_path} has no locks; nothing else may write to it meanwhile"
    locks.hold_as_worker(tmp_path)
    assert holder_of(tmp_path) is None


def test_what_writes_is_refused_and_what_reads_is_not(
    copied: Run, other: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.1)
    child = other(copied.path)
    assert f"is in use by '-c {copied.path}' (process {child.pid} on" in refused("run", "--out", copied.path)
    about = json.loads(call("status", copied.path, "--json").stdout)
    assert (about["state"], about["holder"]["pid"], about["resumable"]) == ("running", child.pid, False)
    assert f"running: '-c {copied.path}' (process {child.pid}" in call("status", copied.path).stdout
    assert call("report", copied.path).exit_code == 0
    assert find_runs(copied.path.parent)[0].status == "finished"  # every job is done, whoever looks at it again
    other(tmp_path / "encoder")
    (tmp_path / "text.txt").write_text("a line\n" * 50, encoding="utf-8")
    text = ("--text", tmp_path / "text.txt", "--set", "max_length=16")
    assert "encoder is in use by" in refused("pretrain", "--out", tmp_path / "encoder", *text)
    child.kill()
    child.wait()
    result = call("run", "--out", copied.path)
    assert result.exit_code == 0, result.output
    assert "was killed while it worked here" in result.stdout.replace("\n", " ")
    assert not (copied.path / locks.LOCK).exists()


def test_one_sweep_at_a_time(smoke: Finished, other: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.1)
    other(tmp_path / "sweep")
    with pytest.raises(ValueError, match="sweep is in use by"):
        run_sweep(smoke.run, {"alpha": [0.25]}, tmp_path / "sweep", n_jobs=1, console=Console(quiet=True))


def test_two_runs_of_one_new_folder(tmp_path: Path, other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock alone makes no run directory of a folder, and does not stand in the way of one."""
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.1)
    run = Run(tmp_path / "new")
    child = other(run.path)
    with pytest.raises(ValueError, match="is in use by"):
        go(run, tiny())
    child.send_signal(signal.SIGKILL)
    child.wait()
    (run.path / ".run.json.1.tmp").write_text("{", encoding="utf-8")  # it was about to write
    assert "was killed" in go(run, tiny("data.tasks=[sentiment]"), last_stage="prepare").shown
