"""Runs in processes of their own, which can be killed from outside at a random moment, or kill themselves at a chosen
point: before or after a rename, in the middle of a write, of a checkpoint, of a model, before `run.json` is replaced.

Processes are forked from a server that has imported torch once: most of the time of a run as short as these is imports.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from core.plan import STAGES

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["core.stages", "core.pipeline", "core.cli"])


class Point(NamedTuple):
    """Where a process kills itself: at the `k`-th call of what `POINTS` names, from 1. 0: never."""

    name: str
    k: int


def _die() -> None:
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


# Name -> (module, attribute, when it dies: before the call, after it, or after half of the file of its arguments).
POINTS: dict[str, tuple[str, str, str | Callable[..., Path]]] = {
    "before a rename": ("core.files.os", "replace", "before"),
    "after a rename": ("core.files.os", "replace", "after"),
    "in a write": ("core.files", "sync", lambda path: Path(path)),
    "in a checkpoint": ("core.checkpoint", "save_file", lambda tensors, path, **_: Path(path)),
    "in an encoder's weights": (
        "transformers.PreTrainedModel",
        "save_pretrained",
        lambda model, folder, **_: Path(folder) / "model.safetensors",
    ),
    "before a model's heads": ("core.model", "save_file", "before"),
    "before run.json": ("core.store.Run", "write_manifest", "before"),
    "before a line of the log": ("core.store.Run", "log", "before"),
}


def start(arguments: Sequence[str], said: Path, point: Point | None = None, counts: Path | None = None) -> BaseProcess:
    """`python -m core ARGUMENTS` in a process, a group and a session of its own; what it prints goes to `said`. With
    `counts` it writes there how often each point came by."""
    child = FORK.Process(target=_run, args=(list(arguments), said, point, counts))
    child.start()
    # Until it leads its group there is none to kill: on a busy machine that can take longer than a short stage.
    with contextlib.suppress(ProcessLookupError):
        while child.is_alive() and os.getpgid(child.pid or 0) != child.pid:
            time.sleep(0.001)
    return child


def _run(arguments: list[str], said: Path, point: Point | None, counts: Path | None) -> None:
    os.setsid()
    # As in a terminal: what a shell starts in the background inherits that Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    calls: dict[str, int] = {}
    for name in POINTS if counts is not None else [point.name] if point is not None else []:
        _arm(name, point.k if point is not None else 0, calls)
    from core.cli import app

    sys.argv = ["__main__.py", *arguments]
    try:
        app(arguments)
    finally:
        if counts is not None:
            counts.write_text(json.dumps(calls), encoding="utf-8")


def _arm(name: str, k: int, calls: dict[str, int]) -> None:
    """The name of a stage stands for the end of its first job. Several points may watch one function: each wraps what
    the one before left."""
    if name in STAGES:
        from core.stages import RUN_STAGE

        work = RUN_STAGE[name]
        RUN_STAGE[name] = lambda context: work(context) and _die()
        return
    where, attribute, when = POINTS[name]
    owner = _found(where)
    real = getattr(owner, attribute)

    def watched(*arguments: Any, **options: Any) -> Any:
        calls[name] = calls.get(name, 0) + 1
        if calls[name] != k:
            return real(*arguments, **options)
        if when != "before":
            real(*arguments, **options)
        if callable(when):
            _halve(when(*arguments, **options))
        return _die()

    setattr(owner, attribute, watched)


def _found(where: str) -> Any:
    """A module, or a class or module in one."""
    import importlib

    try:
        return importlib.import_module(where)
    except ModuleNotFoundError:
        module, _, name = where.rpartition(".")
        return getattr(importlib.import_module(module), name)


def processes_of(child: BaseProcess) -> list[int]:
    """Living processes of the child's session: itself and all that it started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # "pid (name) state parent group session ..."; a name may have spaces.
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except (OSError, ValueError):
                continue
            if int(session) == child.pid and state != "Z":
                found.append(int(entry.name))
    return found


def kill(child: BaseProcess, *, group: bool = True, number: int = signal.SIGKILL) -> None:
    assert child.pid is not None
    (os.killpg if group else os.kill)(child.pid, number)
