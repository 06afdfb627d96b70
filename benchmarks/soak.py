"""Many people at once: concurrent sessions on one run for some minutes, and whether anything breaks or grows.

    python -m benchmarks.soak /tmp/m/million [--sessions 20] [--minutes 10]

Each session is a real one of Streamlit's protocol (benchmarks/sessions), not a browser: browsers for twenty would take
the machine that the server is measured on. It opens pages and takes steps on them in an order of its own, and rests
five to twenty seconds after each, as a reader does. Before the clock starts, one session opens every page once: that
time is told by itself. Everything stays on this machine. Reported: errors, reruns, median and 95th percentile of the
server's time, the processor's share that the server got, its memory and open files every few seconds; memory is called
flat when the last third's largest share (PSS) is within a tenth of the middle third's. `--keep` writes
benchmarks/results/soak.json.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from benchmarks.kept import keep
from benchmarks.pages import OPENED, STEPS, cpu_seconds, pss
from benchmarks.serving import started
from benchmarks.sessions import Session

REST_SECONDS = (5.0, 20.0)
LOOK_SECONDS = 5.0


class Told(NamedTuple):
    """What all sessions together saw: (what, seconds) of each rerun, errors, and (second, MB, open files) looks."""

    reruns: list[tuple[str, float]]
    errors: list[str]
    looks: list[tuple[float, float, int]]


def visit(address: str, run: str, number: int, end: float, told: Told) -> None:
    """One session until `end`."""
    dice, place = random.Random(number), {"run": run, "split": "test"}
    try:
        with Session(address) as tab:
            while time.monotonic() < end:
                page, what, query = dice.choice(OPENED)
                _heard(told, f"{page or 'overview'}, {what}", tab.open(page, **place, **query))
                time.sleep(dice.uniform(*REST_SECONDS))
                page, what, query, step = dice.choice(STEPS)
                _heard(told, f"{page}, opened", tab.open(page, **place, **query))
                for i in range(dice.randint(1, 4)):
                    time.sleep(dice.uniform(*REST_SECONDS))
                    if time.monotonic() < end:
                        _heard(told, f"{page}, {what}", step(tab, i))
    except Exception as error:  # a session that ends early is what this looks for
        told.errors.append(f"session {number}: {type(error).__name__}: {error}")


def _heard(told: Told, what: str, reply: object) -> None:
    told.reruns.append((what, reply.seconds))  # type: ignore[attr-defined]
    told.errors.extend(f"{what}: {error}" for error in reply.errors)  # type: ignore[attr-defined]
    if "cannot be shown" in reply.words:  # type: ignore[attr-defined]
        told.errors.append(f"{what}: {reply.words[:300]}")  # type: ignore[attr-defined]


def soak(run: Path, *, sessions: int, minutes: float) -> Told:
    told = Told([], [], [])
    with started(run.resolve().parent) as (address, pid):
        begun = time.monotonic()
        with Session(address) as first:
            for page, _, query in OPENED:
                first.open(page, run=run.name, split="test", **query)
        print(
            f"every page once: {time.monotonic() - begun:.0f} s, {cpu_seconds(pid):.0f} s of them computed", flush=True
        )
        begun, computed = time.monotonic(), cpu_seconds(pid)
        end = begun + 60 * minutes
        threads = [
            threading.Thread(target=visit, args=(address, run.name, i, end, told), daemon=True) for i in range(sessions)
        ]
        for thread in threads:
            thread.start()
            time.sleep(0.5)
        while time.monotonic() < end:
            told.looks.append((time.monotonic() - begun, pss(pid), psutil.Process(pid).num_fds()))
            time.sleep(LOOK_SECONDS)
        share = (cpu_seconds(pid) - computed) / (time.monotonic() - begun)
        print(f"the server computed {share:.2f} of the time, on one core and more", flush=True)
        for thread in threads:
            thread.join(120)
        told.errors.extend("a session did not end" for thread in threads if thread.is_alive())
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/soak.json")
    given = parser.parse_args()
    told = soak(given.run, sessions=given.sessions, minutes=given.minutes)
    reruns: dict[str, list[float]] = {}
    for what, seconds in told.reruns:
        reruns.setdefault(what, []).append(round(seconds, 3))
    for what, of in sorted(reruns.items()):
        print(f"    {what:42s}{len(of):5d}  median {np.median(of):6.2f}  most {max(of):6.2f}")
    found = {
        "sessions": given.sessions,
        "minutes": given.minutes,
        "reruns": reruns,
        "errors": told.errors,
        "megabytes": [round(mb) for _, mb, _ in told.looks],
        "open_files": [n for _, _, n in told.looks],
    }
    print(f"{sentence(found)}; open files {told.looks[0][2]} at first, {told.looks[-1][2]} at last")
    for error in told.errors[:20]:
        print(error)
    if given.keep:
        keep("soak", f"python -m benchmarks.soak FOLDER --sessions {given.sessions} --minutes {given.minutes:g}", found)
    raise SystemExit(1 if told.errors or not is_flat(found) else 0)


def thirds(found: dict[str, Any]) -> list[float]:
    """The most memory of each third of the time, MB."""
    return [float(max(part)) for part in np.array_split(found["megabytes"], 3)]


def is_flat(found: dict[str, Any]) -> bool:
    _, middle, last = thirds(found)
    return last <= 1.1 * middle


def sentence(found: dict[str, Any]) -> str:
    seconds = np.concatenate([np.array(of) for of in found["reruns"].values()])
    median, p95 = np.percentile(seconds, [50, 95])
    gigabytes = " and ".join(f"{mb / 1000:.1f}" for mb in thirds(found)[1:])
    return (
        f"{found['sessions']} sessions for {found['minutes']:g} minutes: {len(seconds)} reruns, median {median:.2f} s, "
        f"95 % under {p95:.1f} s, {len(found['errors']) or 'no'} errors, memory "
        f"{'flat' if is_flat(found) else 'NOT flat'} (at most {gigabytes} GB in the second and the last third)"
    )


if __name__ == "__main__":
    main()
