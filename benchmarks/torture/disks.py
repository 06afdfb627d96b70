"""Real disks: one that is full, and one that is read-only (a tmpfs, which root alone can mount)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.torture.kills import LONG_ENOUGH, arguments, check, finish
from benchmarks.torture.processes import start
from core.checksums import read_sums
from core.store import Run


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[bool]:
    """Whether it could be mounted."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def refused(run: Run, said: Path, words: str) -> None:
    """The run ends with exit code 2 and one message that holds `words`."""
    child = start(arguments(run, 1), said)
    child.join(LONG_ENOUGH)
    text = said.read_text(encoding="utf-8")
    assert child.exitcode == 2, text[-3000:]
    assert "Traceback" not in text, text[-3000:]
    assert words in text.replace("\n", ""), text[-3000:]


def full_and_read_only(folder: Path, whole: Run, shares: tuple[float, ...] = (0.1, 0.4, 0.7, 0.9)) -> int | None:
    """A run on a disk that holds a share of what `whole` takes, larger each time, then read-only, then as it should be:
    it ends in the bytes of `whole`. Returns how many times it was refused; None where nothing can be mounted."""
    kib = sum(path.lstat().st_blocks for path in whole.path.rglob("*")) // 2
    sizes = [f"{int(share * kib)}k" for share in shares]
    place, said, n = folder / "disk", folder / "disk.txt", 0
    with tmpfs(place, sizes[0]) as mounted:
        if not mounted:
            return None
        run = Run(place / "run")
        for size in sizes:
            remount(place, f"size={size}")
            refused(run, said, "cannot be written: the disk is full. Free some space, and the same command goes on")
            n += 1
            if run.exists():
                check(run)
        remount(place, "ro")
        refused(run, said, "cannot be written: the file system is read-only. What is there can be read")
        check(run)
        remount(place, "rw,size=400m")
        finish(run, said)
        assert read_sums(run) == read_sums(whole)
    return n + 1
