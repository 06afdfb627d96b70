"""One process, the same run several times: memory and open files stay where they were after the first two."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.torture.processes import FORK


class Soaked(NamedTuple):
    """After each run: resident memory in MiB, open files."""

    memory_mib: list[float]
    open_files: list[int]

    @property
    def growth(self) -> float:
        """Of the last run's memory over the second's, as a share; the first pays for imports and pools of memory."""
        return self.memory_mib[-1] / self.memory_mib[1] - 1


def soak(folder: Path, overrides: Sequence[str], *, preset: str, times: int) -> Soaked:
    receiver, sender = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_repeat, args=(folder, tuple(overrides), preset, times, sender))
    child.start()
    sender.close()
    values = receiver.recv()
    child.join()
    assert child.exitcode == 0
    return Soaked(*values)


def _repeat(folder: Path, overrides: Sequence[str], preset: str, times: int, sender: Any) -> None:
    import gc
    import io

    from rich.console import Console

    from core.pipeline import run_pipeline
    from core.presets import load_config
    from core.progress import Progress
    from core.store import Run

    memory, files = [], []
    for i in range(times):
        run = Run(folder / f"soak-{i}")
        config = load_config(preset, None, [*overrides, "runtime.workers=1", "runtime.device=cpu"])
        with Progress(Console(file=io.StringIO())) as progress:
            run_pipeline(run, config, progress=progress)
        shutil.rmtree(run.path)
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        memory.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        files.append(len(os.listdir("/proc/self/fd")))
    sender.send((memory, files))
