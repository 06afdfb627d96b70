"""One writer at a time in a folder: a second one is refused with the name and start time of the first.

The lock is the kernel's (`flock` on `<folder>/.lock`), so it ends with its process, however that ends: no process id
has to be compared, which another process may have by now, or which belongs to another machine. The file's content only
says who it is; it is removed on a clean end, and what a killed process leaves behind is how the next one knows of it.

A killed parent's workers live on for a moment (core/workers). Each holds a shared lock on the folder itself, and the
next writer waits until they are gone.

Readers need no lock: every file is replaced whole (core/files).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from core.files import told

LOCK = ".lock"
# Another writer may only be looking whether everything is up to date, and a reader asks who it is.
PATIENCE_SECONDS = 2.0
# Workers look twice a second whether their parent is there, and one in the middle of a write may take a while.
ORPHAN_SECONDS = 30.0
LOOK_SECONDS = 0.05
MOMENTS = 20  # looks at a holder that has not said yet who it is
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # file systems without them


class Holder(NamedTuple):
    """Who writes to a folder. `started` is in UTC, to the second."""

    pid: int
    host: str
    command: str
    started: str

    def __str__(self) -> str:
        return f"'{self.command}' (process {self.pid} on {self.host}, started {self.started})"


UNKNOWN = Holder(0, "an unknown machine", "another process", "at an unknown time")


@contextmanager
def locked(folder: Path) -> Iterator[str | None]:
    """Holds `folder`, which is made when it does not exist. Gives a sentence that is worth a note, or None.

    Raises `ValueError` that names the holder when there is one, and for a folder that cannot be written to."""
    path, is_new = folder / LOCK, not folder.exists()
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = _acquired(path)
    note = None
    if file is None:
        note = f"the file system of {folder} has no locks; nothing else may write to it meanwhile"
    try:
        if file is not None:
            note = _left_behind(path)
            with told(folder):
                os.ftruncate(file, 0)
                os.pwrite(file, json.dumps(_this_process()._asdict()).encode(), 0)
            _wait_for_orphans(folder)
        yield note
    finally:
        if file is not None:
            path.unlink(missing_ok=True)  # while it is held: who opened it meanwhile sees that it is gone
            os.close(file)
        if is_new:
            with suppress(OSError):
                folder.rmdir()  # where nothing came of it


def _acquired(path: Path) -> int | None:
    """The locked file; None where the file system has no locks."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one before may have removed the file between our opening and our locking it.
            if path.exists() and os.fstat(file).st_ino == path.stat().st_ino:
                return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(file)
                raise ValueError(
                    f"{path.parent} is in use by {_read(path) or UNKNOWN}; wait for it, stop it, or give another folder"
                ) from None
        except OSError as error:
            os.close(file)
            if error.errno in NO_LOCKS:
                return None
            raise
        os.close(file)
        time.sleep(LOOK_SECONDS)


def _left_behind(path: Path) -> str | None:
    before = _read(path)
    return None if before is None else f"{before} was killed while it worked here; this goes on from what it had done"


def _wait_for_orphans(folder: Path) -> None:
    deadline = time.monotonic() + ORPHAN_SECONDS
    place = os.open(folder, os.O_RDONLY)
    try:
        while True:
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ValueError(
                        f"{folder}: workers of a run that was killed still write to it after {ORPHAN_SECONDS:.0f} s; "
                        "end them, and run the same command again"
                    ) from None
            time.sleep(LOOK_SECONDS)
    finally:
        os.close(place)


def hold_as_worker(folder: Path) -> None:
    """For the rest of this process: the next writer of `folder` waits for its end."""
    try:
        fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def holder_of(folder: Path) -> Holder | None:
    """Who writes to `folder` now; None: nobody. Asks the kernel, so a killed process is none."""
    path = folder / LOCK
    holder = _asked(path)
    # It may hold the lock since a moment ago, and have said nothing yet: what is there is of one that was killed.
    for _ in range(MOMENTS):
        if holder is None or not _is_gone(holder):
            break
        time.sleep(LOOK_SECONDS)
        holder = _asked(path)
    return holder


def _is_gone(holder: Holder) -> bool:
    if holder.host != platform.node() or holder.pid <= 0:
        return holder == UNKNOWN
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's
        return False
    return False


def _asked(path: Path) -> Holder | None:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(path) or UNKNOWN
    except OSError:
        return None
    else:
        return None
    finally:
        os.close(file)


def killed_holder(folder: Path) -> Holder | None:
    """Who worked in `folder` last and was killed; None when somebody works there, or ended by itself."""
    return None if holder_of(folder) else _read(folder / LOCK)


def _this_process() -> Holder:
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    words = ["python -m core" if program == "__main__.py" else program, *sys.argv[1:]]
    return Holder(os.getpid(), platform.node(), " ".join(words), datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))


def _read(path: Path) -> Holder | None:
    """What the file says; None for an empty one, or one that is being written."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
