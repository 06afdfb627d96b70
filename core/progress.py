"""What a person sees while a run works: bars with time left on a terminal, one line an evaluation elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from core.plan import STAGES
from core.workers import Event


class Progress:
    """A context manager that shows the stage's bar, one bar for each job that runs, and a line for what is done."""

    def __init__(self, console: Console):
        self.console = console
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[says]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.stage = ""
        self.stage_bar: TaskID | None = None
        self.stage_started = 0.0
        self.job_bars: dict[str, TaskID] = {}
        self.shares: dict[str, float] = {}

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def called(self, stage: str) -> str:
        return f"{STAGES.index(stage) + 1}/{len(STAGES)} {stage:<9}"

    def note(self, text: str) -> None:
        self.console.print(f"[dim]{escape(text)}")

    def skipped(self, stage: str) -> None:
        self.console.print(f"{self.called(stage)} [green]up to date")

    def start(self, stage: str, jobs: list[str]) -> None:
        self.stage, self.stage_started = stage, time.monotonic()
        self.shares = dict.fromkeys(jobs, 0.0)
        if self.stage_bar is not None:
            self.bars.remove_task(self.stage_bar)
        self.stage_bar = self.bars.add_task(f"[bold]{self.called(stage)}", total=len(jobs), says="")
        if not self.console.is_terminal:
            self.console.print(f"{self.called(stage)} {len(jobs)} job{'s' if len(jobs) > 1 else ''}")

    def event(self, event: Event) -> None:
        # Events come through a queue and may be later than the result of their job.
        if self.shares.get(event.job, 1.0) == 1.0:
            return
        if event.job not in self.job_bars:
            self.job_bars[event.job] = self.bars.add_task(f"   {event.job}", total=1.0, says="")
        says = _in_words(event)
        self.bars.update(self.job_bars[event.job], completed=event.done, says=says)
        # The last bit belongs to `finished`: a job that has trained still predicts and writes.
        self.shares[event.job] = min(event.done, 0.99)
        self._move_stage()
        if event.values and "selection" in event.values and not self.console.is_terminal:
            self.console.print(f"   {event.job}: {says}")

    def finished(self, job: str, seconds: float) -> None:
        bar = self.job_bars.pop(job, None)
        if bar is not None:
            self.bars.remove_task(bar)
        self.shares[job] = 1.0
        self._move_stage()
        if len(self.shares) > 1 and not self.console.is_terminal:
            self.console.print(f"   {job} done in {seconds:.1f} s")
        if all(share == 1.0 for share in self.shares.values()):
            taken = time.monotonic() - self.stage_started
            n_jobs = f", {len(self.shares)} jobs" if len(self.shares) > 1 else ""
            self.console.print(f"{self.called(self.stage)} [green]done[/green] in {taken:.1f} s{n_jobs}")

    def _move_stage(self) -> None:
        if self.stage_bar is not None:
            self.bars.update(self.stage_bar, completed=sum(self.shares.values()))


def _in_words(event: Event) -> str:
    values = event.values or {}
    if "selection" in values:
        scores = ", ".join(f"{task} {100 * score:.1f}" for task, score in values["selection"].items())
        return f"epoch {values['epoch'] + 1}, selection split: {scores}"
    if "loss" in values:
        return f"epoch {values['epoch'] + 1}, loss {values['loss']:.3f}"
    return ""
