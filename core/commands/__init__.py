"""What each command of `python -m core` does: a function a command, a few lines around the modules.

Each option has its line here and nowhere else. Torch is imported by the commands that need it and when they need it:
`status`, `report` and an up-to-date `run` answer at once.
"""

from __future__ import annotations

import sys

from rich.console import Console

# A table of nine columns needs this where there is no terminal to ask (files, CI).
WIDTH_WITHOUT_TERMINAL = 110


def console_of() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=WIDTH_WITHOUT_TERMINAL)
