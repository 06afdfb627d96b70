"""A run's files by way of a store that every machine reaches, where there is no shared file system (any fsspec URL:
`s3://bucket/folder`, `gs://...`, `file:///...`).

A file is stored under its SHA-256, which `checksums.sha256` has anyway: what is there is not sent again, and a file
that came over wrong is noticed. A job's checkpoint is stored under the job's key, so that another machine can go on
from it. The store is a place to pass through: the run directory has everything in the end, and the folder may be
deleted then.

Not here: which files a job reads and writes (core/checksums), and who calls this (core/engine_ray).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from core.files import atomic, sha256_of


def open_store(url: str) -> tuple[Any, str]:
    """The file system of `url`, and the folder's path in it. Raises `ValueError` where there is none."""
    import fsspec

    with _told(url):
        system, folder = fsspec.core.url_to_fs(url)
        system.makedirs(folder, exist_ok=True)
    return system, folder


def upload(url: str, folder: Path, sums: Mapping[str, str]) -> None:
    """Stores the files `sums` (path in `folder` -> SHA-256) that the store does not have."""
    system, root = open_store(url)
    with _told(url):
        for path, digest in sums.items():
            there, size = f"{root}/{digest}", (folder / path).stat().st_size
            # Of half an upload, which not every store rules out, the size is another.
            if not system.exists(there) or system.size(there) != size:
                system.put_file(str(folder / path), there)


def download(url: str, folder: Path, sums: Mapping[str, str]) -> None:
    """Fetches the files `sums` into `folder`, but those that are there. Raises `ValueError` for a damaged one."""
    system, root = open_store(url)
    for path, digest in sums.items():
        if (folder / path).exists() and sha256_of(folder / path) == digest:
            continue
        with atomic(folder / path) as temporary:
            with _told(url):
                system.get_file(f"{root}/{digest}", str(temporary))
            if (found := sha256_of(temporary)) != digest:
                raise ValueError(
                    f"{url}/{digest}, which is '{path}', is damaged: its SHA-256 is {found[:16]}... Delete it there, "
                    "and run the same command again"
                )


def upload_checkpoint(url: str, key: str, path: Path) -> None:
    system, root = open_store(url)
    with _told(url):
        # Under another name first: the one before is good until this one is whole.
        system.put_file(str(path), f"{root}/checkpoint-{key}.part")
        system.mv(f"{root}/checkpoint-{key}.part", f"{root}/checkpoint-{key}")


def download_checkpoint(url: str, key: str, path: Path) -> None:
    """Fetches the checkpoint of the job with this key to `path`, where there is one."""
    system, root = open_store(url)
    if system.exists(f"{root}/checkpoint-{key}"):
        with atomic(path) as temporary, _told(url):
            system.get_file(f"{root}/checkpoint-{key}", str(temporary))


def drop_checkpoint(url: str, key: str) -> None:
    system, root = open_store(url)
    with suppress(FileNotFoundError):
        system.rm_file(f"{root}/checkpoint-{key}")


@contextmanager
def _told(url: str) -> Iterator[None]:
    """What a store's library says becomes a `ValueError` that names the store."""
    try:
        yield
    except (OSError, ImportError, ValueError) as error:
        raise ValueError(f"--ray-artifacts {url}: {str(error) or type(error).__name__}") from error
