"""Server time, traffic and memory of every page and every step on it, through the running dashboard.

    python -m benchmarks.million /tmp/m/million && python -m benchmarks.pages /tmp/m/million

Times are from the sending of a request to the arrival of "script finished" (benchmarks/sessions): "first" once, where
the page's data are read and computed (what an earlier line read is there already, as in use); "warm" n times after it,
minimum and median. "cpu" is what the server's process used in the median warm rerun, which other work on the machine
changes little. "MB" is the server's proportional share of memory (PSS) after the line. `--keep` writes
benchmarks/results/pages.json, of which the README's table is made.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.kept import keep
from benchmarks.serving import started
from benchmarks.sessions import Reply, Session

# Page, what, and the parameters that show it.
OPENED = [
    ("", "headline and ledger", {}),
    ("explore", "density and table", {}),
    ("explore", "text search", {"text": "Soup bread"}),
    ("explore", "page 40,000 by entropy", {"order": "entropy", "page": "40000"}),
    ("explore", "facet and two ranges", {"gold": "neutral", "teacher": "entailment", "kl": "0.1:", "entropy": ":0.9"}),
    ("example", "an example of the filter", {"gold": "neutral"}),
    ("loss_lab", "one example", {}),
    ("loss_lab", "the data set", {"view": "all"}),
    ("loss_lab", "refit a head", {"view": "refit"}),
    ("ensemble", "who agrees", {}),
    ("ensemble", "where doubt comes from", {"view": "doubt"}),
    ("ensemble", "size and strategy", {"view": "size"}),
    ("ensemble", "whom the student follows", {"view": "follow"}),
    ("dark_knowledge", "controls", {}),
    ("dark_knowledge", "runner-up", {"view": "runner"}),
    ("dark_knowledge", "wrong classes", {"view": "wrong"}),
    ("dark_knowledge", "what pulls", {"view": "parts"}),
    ("dark_knowledge", "who taught whom", {"view": "ledger"}),
    ("dark_knowledge", "truth and people", {"view": "truth"}),
    ("calibration", "reliability", {}),
    ("calibration", "uncertainty passed on", {"view": "entropy"}),
    ("calibration", "errors passed on", {"view": "copies"}),
    ("calibration", "data map", {"view": "map"}),
    ("calibration", "epoch by epoch", {"view": "strip"}),
    ("try_it", "the form", {}),
    ("runs", "stages and time", {}),
]  # fmt: skip


def turned(tab: Session, i: int) -> Reply:
    return tab.change("pages-", int_value=i + 2)


def ordered(tab: Session, i: int) -> Reply:
    return tab.change("choice-order", string_value=("entropy of the teacher", "KL(teacher, student)")[i % 2])


def faceted(tab: Session, i: int) -> Reply:
    return tab.change("filter-gold", string_value=tab.widget("filter-gold").options[i % 3])


def narrowed(tab: Session, i: int) -> Reply:
    return tab.change("filter-kl", double_array_value=[0.1 * (i + 1), 1.0 + 0.1 * i])


def searched(tab: Session, i: int) -> Reply:
    return tab.change("filter-text", string_value=("soup", "old bread", "WINDOW")[i % 3])


def boxed(tab: Session, i: int) -> Reply:
    """What a rectangle sends, without the points in it (of which there are at most 20,000)."""
    box = f'{{"xref": "x", "yref": "y", "x": [{0.3 + 0.01 * i}, 0.9], "y": [0.1, 0.8]}}'
    return tab.change("density-", string_value=f'{{"selection": {{"points": [], "box": [{box}], "lasso": []}}}}')


def stepped(tab: Session, i: int) -> Reply:
    return tab.press("Next")


# Page, what, what to do there; each is done n times in a tab that has the page open.
STEPS: list[tuple[str, str, dict[str, str], Callable[[Session, int], Reply]]] = [
    ("explore", "> page turn", {}, turned),
    ("explore", "> another order", {}, ordered),
    ("explore", "> facet", {}, faceted),
    ("explore", "> range", {}, narrowed),
    ("explore", "> text search", {}, searched),
    ("explore", "> rectangle", {"mouse": "select"}, boxed),
    ("example", "> next", {"gold": "neutral"}, stepped),
]


class Line(NamedTuple):
    page: str
    what: str
    first: float
    warm: list[float]
    cpu: list[float]
    kilobytes: float
    megabytes: float


def pss(pid: int) -> float:
    """Megabytes of the process, what is shared counted in shares."""
    return float(psutil.Process(pid).memory_full_info().pss) / 1e6


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def measured(pid: int, page: str, what: str, n: int, do: Callable[[int], Reply]) -> Line:
    replies, cpu = [], []
    for i in range(n + 1):
        before = cpu_seconds(pid)
        reply = do(i)
        cpu.append(cpu_seconds(pid) - before)
        if reply.errors:
            raise RuntimeError(f"{page or 'overview'}, {what}: {reply.errors}")
        replies.append(reply)
    seconds = [reply.seconds for reply in replies]
    return Line(page or "overview", what, seconds[0], seconds[1:], cpu[1:], replies[-1].n_bytes / 1e3, pss(pid))


def measure(run: Path, n: int, only: str | None = None) -> list[Line]:
    place = {"run": run.name, "split": "test"}
    lines = []
    print(
        f"{'page':16s}{'what':28s}{'first s':>9s}{'warm min':>9s}{'median':>8s}{'cpu':>7s}{'kB':>7s}{'MB':>7s}",
        flush=True,
    )

    def told(line: Line) -> None:
        lines.append(line)
        median, cpu = statistics.median(line.warm), statistics.median(line.cpu)
        times = f"{line.first:9.2f}{min(line.warm):9.2f}{median:8.2f}{cpu:7.2f}"
        print(f"{line.page:16s}{line.what:28s}{times}{line.kilobytes:7.0f}{line.megabytes:7.0f}", flush=True)

    with started(run.resolve().parent) as (address, pid):
        print(f"{'server':16s}{'just started':28s}{'':42s}{pss(pid):5.0f}", flush=True)
        for page, what, query in OPENED:
            if only in (None, page):
                with Session(address) as tab:
                    told(measured(pid, page, what, n, lambda i: tab.open(page, **place, **query)))  # noqa: B023
        for page, what, query, step in STEPS:
            if only in (None, page):
                with Session(address) as tab:
                    tab.open(page, **place, **query)
                    told(measured(pid, page, what, n, lambda i: step(tab, i)))  # noqa: B023
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", help="a page's name, as in its address")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/pages.json")
    given = parser.parse_args()
    if given.keep and given.only:
        parser.error("--keep is of all pages; leave out --only")
    lines = measure(given.run, given.repeats, given.only)
    found = {"repeats": given.repeats, "lines": [line._asdict() for line in lines]}
    print(f"\n{table(found)}\n\n{sentence(found)}")
    if given.keep:
        keep("pages", f"python -m benchmarks.pages FOLDER --repeats {given.repeats}", found)


def table(found: dict[str, Any]) -> str:
    """A row a page, and one a step on it; of a page's views the slowest."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in found["lines"]:
        is_step = line["what"].startswith("> ")
        rows.setdefault(line["page"].replace("_", " ") + (": " + line["what"][2:] if is_step else ""), []).append(line)
    told = ["| | views | first | warm | kB |", "|---|--:|--:|--:|--:|"]
    for what, lines in rows.items():
        first, kilobytes = (max(line[name] for line in lines) for name in ("first", "kilobytes"))
        warm = max(statistics.median(line["warm"]) for line in lines)
        views = "" if ": " in what else f"{len(lines)}"
        told.append(f"| {what} | {views} | {first:.1f} | {warm:.2f} | {kilobytes:.0f} |")
    return "\n".join(told)


def sentence(found: dict[str, Any]) -> str:
    most = max(line["megabytes"] for line in found["lines"])
    return f"the server holds {most / 1000:.1f} GB at the most, n = {found['repeats']}"


if __name__ == "__main__":
    main()
