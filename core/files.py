"""Files that are whole or not there: atomic writes, JSON, checksums, and what a disk's errors mean to a person.

Every file is written to a temporary name in the same folder and renamed, so that a reader sees the old file or the new
one and never half of one. A full disk, a read-only file system and missing rights become one sentence that names the
file; other errors pass through.

Not here: which files a run has (core/store) and which of them are checked when (core/checksums).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BLOCK = 1 << 20

# Error numbers, words of libraries that keep no number (safetensors and tokenizers have exceptions of their own,
# numpy says how many items were written), and what they mean.
DISK_ERRORS = (
    (
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        ("no space left", "quota exceeded", "os error 28", " requested and "),
        "the disk is full. Free some space, and the same command goes on",
    ),
    (
        (errno.EROFS,),
        ("read-only file system", "os error 30"),
        "the file system is read-only. What is there can be read; to go on, copy the folder to a place that can be "
        "written to, and give that",
    ),
    (
        (errno.EACCES, errno.EPERM),
        ("permission denied", "os error 13"),
        "this user may not write there. Change the rights of the folder, or give another one",
    ),
    ((errno.EIO,), ("input/output error",), "the disk reports an error of its own. Copy what you can, and replace it"),
)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """An error of the disk in the block, by whichever library wrote, becomes a `ValueError` that names `path`."""
    try:
        yield
    except Exception as error:
        words = _meaning(error)
        if words is None:
            raise
        raise ValueError(f"{path} cannot be written: {words} ({_first_line(error)})") from error


def _meaning(error: Exception) -> str | None:
    number, text = getattr(error, "errno", None), str(error).lower()
    for numbers, signs, words in DISK_ERRORS:
        if number in numbers or (number is None and any(sign in text for sign in signs)):
            return None if isinstance(error, ValueError) else words
    return None


def _first_line(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).strip().split("\n")[0]


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which replaces it on a clean exit and vanishes on an error. Raises `ValueError`
    where the disk is full or cannot be written to; the old file is then as it was."""
    # The machine's name too: on a cluster, processes of one number can write beside each other.
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    with told(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
        finally:
            # On a read-only disk this would hide the error that matters.
            if temporary.exists():
                temporary.unlink()


def sync(path: Path) -> None:
    """Waits until the file's bytes are on the disk: a rename can overtake them when the power fails."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal, as `sha256sum` prints it."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Raises `ValueError` for what is no JSON in UTF-8; a missing file is the caller's business."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}). Darkroom replaces files whole, so something else wrote to it; "
            "restore it from a copy, or give a new folder to --out"
        ) from None
