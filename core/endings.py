"""How a command ends: a person's mistake is one sentence and exit code 2, Ctrl-C and SIGTERM say how to go on.

Where the reader of a pipe has gone (`| head`), a command ends in silence. Bugs keep their traceback, and
DARKROOM_TRACEBACK=1 shows that of a mistake too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape


class Terminated(KeyboardInterrupt):
    """SIGTERM: the Ctrl-C of a scheduler."""


def _terminate(number: int, frame: Any) -> None:
    raise Terminated


def _reader_is_gone() -> bool:
    """Does nobody read standard output any more? Only writing tells; a broken pipe to a worker is another matter."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    return False


@contextmanager
def user_errors() -> Iterator[None]:
    """Exit code 2 for a mistake or a disk's error, 130 for Ctrl-C, 143 for SIGTERM, with one message on standard
    error."""
    console = Console(stderr=True)
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminate) if in_main else None
    try:
        yield
        sys.stdout.flush()  # here and not when Python ends, where a reader that has gone is a message of its own
    except (ValueError, FloatingPointError, RuntimeError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            raise  # `... | head`: typer ends in silence, with exit code 1
        if os.environ.get("DARKROOM_TRACEBACK"):
            raise
        # Messages quote lists and a person's input: without `escape` rich would take "[a, b]" for a style.
        console.print(f"[bold red]error:[/bold red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt as stop:
        console.print("\nstopped; the same command goes on from the last checkpoint")
        raise typer.Exit(143 if isinstance(stop, Terminated) else 130) from None
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)
