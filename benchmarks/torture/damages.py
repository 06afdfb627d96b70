"""Every file of a run truncated, with one bit flipped, and gone: named by `verify`, refused before a stage reads it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from core.checksums import SPARE, check_inputs, lost_files, read_sums, verify
from core.config import resolve_tasks, validated
from core.plan import Job, make_jobs
from core.store import Run


class Damaged(NamedTuple):
    """Times that a file was damaged or removed; how often it was an input of a stage, and refused as such."""

    files: int
    damages: int
    refused: int
    removed: int


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def flip(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def damage_all(run: Run, ways: tuple[Callable[[bytes], bytes], ...] = (cut, flip)) -> Damaged:
    """Breaks each file of a finished run in turn, and puts it back."""
    sums, manifest = read_sums(run), run.manifest()
    config = validated(manifest["config"])
    chosen = manifest["jobs"]["select"]["chosen"]
    jobs = make_jobs(config, resolve_tasks(config), source_digest="", chosen=chosen)
    n_damages = n_refused = n_removed = 0
    for name in sums:
        path = run.path / name
        whole, times = path.read_bytes(), path.stat()
        for way in ways:
            path.write_bytes(way(whole))
            try:
                assert verify(run) == (len(sums), (name,), ()), name
                n_damages += 1
                n_refused += _is_refused(run, jobs, sums, path)
            finally:
                path.write_bytes(whole)
        path.unlink()
        try:
            found = verify(run)
            assert found.damaged == ()
            is_spare = name.startswith(SPARE)
            assert found.lost == (() if is_spare else (name,)), name
            assert (name in lost_files(run, manifest, sums).values()) != is_spare, name
            n_removed += 1
        finally:
            path.write_bytes(whole)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert verify(run) == (len(sums), (), ())
    # Whatever a stage reads is compared: all but the dynamics and the last results, which no stage reads.
    assert (
        n_refused >= len(ways) * sum(not name.startswith(("dynamics/", "metrics", "features/")) for name in sums) * 0.5
    )
    return Damaged(len(sums), n_damages, n_refused, n_removed)


def _is_refused(run: Run, jobs: dict[str, Job], sums: dict[str, str], path: Path) -> bool:
    try:
        check_inputs(run, jobs, jobs.values(), sums, set())
    except ValueError as error:
        said = str(error)
    else:
        return False
    assert said.startswith(f"{path} is damaged: "), said
    assert " --from " in said, said
    return True
