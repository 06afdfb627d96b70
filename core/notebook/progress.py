"""What a notebook shows while a run works: lines in a batch, in JupyterLab one output that moves."""

from __future__ import annotations

import html
import io
import os
import sys
import time
from typing import Any

from rich.console import Console

from core.progress import Progress
from core.workers import Event

BATCH = "DARKROOM_BATCH"  # set by core/notebooks: lines instead of a moving bar
DRAW_SECONDS = 0.15


class NotebookProgress(Progress):
    """In a batch a line a stage and evaluation; in JupyterLab one output that moves: stages done, a bar, the latest."""

    def __init__(self) -> None:
        self.is_live = "JPY_SESSION_NAME" in os.environ and not os.environ.get(BATCH)
        self.lines = io.StringIO() if self.is_live else sys.stdout
        super().__init__(Console(file=self.lines, force_terminal=False, force_jupyter=False, width=500))
        self.skips: list[str] = []
        self.latest, self.started, self.drawn = "", 0.0, 0.0
        self.handle: Any = None

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._say_skips()
        self.shares = {}
        self._draw(now=True)

    def called(self, stage: str) -> str:
        return f"{stage:<9}"  # without the number of the stage: notebooks have numbers of their own

    def skipped(self, stage: str) -> None:
        self.skips.append(stage)

    def note(self, text: str) -> None:
        self._say_skips()
        super().note(text)

    def start(self, stage: str, jobs: list[str]) -> None:
        self._say_skips()
        self.started, self.latest = time.monotonic(), ""
        super().start(stage, jobs)
        self._draw(now=True)

    def event(self, event: Event) -> None:
        super().event(event)
        values = event.values or {}
        if "loss" in values:
            self.latest = f"{event.job}, epoch {values['epoch'] + 1}, loss {values['loss']:.3f}"
        self._draw()

    def finished(self, job: str, seconds: float) -> None:
        super().finished(job, seconds)
        self._draw(now=True)

    def _say_skips(self) -> None:
        if self.skips:
            self.console.print(f"up to date: {', '.join(self.skips)}")
            self.skips = []

    def _draw(self, *, now: bool = False) -> None:
        if not self.is_live or (not now and time.monotonic() - self.drawn < DRAW_SECONDS):
            return
        self.drawn = time.monotonic()
        from IPython.display import display

        assert isinstance(self.lines, io.StringIO)
        bundle = {"text/html": self._html(_without_jobs(self.lines.getvalue())), "text/plain": self.lines.getvalue()}
        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True)
        else:
            self.handle.update(bundle, raw=True)

    def _html(self, lines: str) -> str:
        page = f'<pre style="margin:0;font-size:12px;line-height:1.5">{html.escape(lines.rstrip())}</pre>'
        if not self.shares or min(self.shares.values()) == 1:
            return page
        share = sum(self.shares.values()) / len(self.shares)
        seconds = time.monotonic() - self.started
        remaining = seconds * (1 - share) / share if share > 0.05 else 0
        left = f", about {remaining:.0f} s left" if seconds > 2 and remaining >= 1 else ""
        name = f'<b style="width:64px">{self.stage}</b>'
        width = f"width:{100 * share:.1f}%;height:8px;border-radius:4px"
        return (
            f'{page}<div style="display:flex;align-items:center;gap:12px;margin-top:6px;font-size:12px">{name}'
            f'<div style="width:260px;border-radius:4px;background:rgba(128,128,128,.25)"><div style="{width};'
            'background:#e8710a"></div></div>'
            f'<span>{int(100 * share)} %{left}</span><span style="opacity:.7">{html.escape(self.latest)}</span></div>'
        )


def _without_jobs(lines: str) -> str:
    """Stages that are done and notes: what a job does is said beside the bar while it does it."""
    kept = [line for line in lines.splitlines() if not line.startswith("   ")]
    return "\n".join(line for line in kept if "done in" in line or not line.endswith((" job", " jobs")))
