"""`make torture`: everything, one part after another, and the table of the README. `--keep` writes
benchmarks/results/torture.json, of which that table is made."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.kept import keep
from benchmarks.torture.damages import damage_all
from benchmarks.torture.disks import full_and_read_only
from benchmarks.torture.kills import survive
from benchmarks.torture.soak import soak
from core.plan import STAGES
from core.store import Run

FLAT = 0.10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the moments; by the clock, and printed")
    parser.add_argument("--soak", default="demo", help="preset of the run that is repeated")
    parser.add_argument("--soak-set", action="append", default=[], help="section.field=value of that run; repeatable")
    parser.add_argument("--times", type=int, default=5, help="0: no soak")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/torture.json")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    rows: list[tuple[str, str]] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torture-") as place:
        folder = Path(place)
        survived = survive(folder / "kills", options.kills, seed=options.seed, say=say)
        stages = Counter(kill.stage for kill in survived.kills)
        missed = [stage for stage in STAGES if not stages[stage]]
        assert options.kills < 3 * len(STAGES) or not missed, f"no kill in {missed}"
        where = f"{len(stages)} of {len(STAGES)} stages, {survived.runs} runs"
        rows.append(("kills survived (SIGKILL)", f"{len(survived.kills)}, in {where}"))
        rows.append(("files of each of these runs, equal to the undisturbed run's", f"all {survived.files}"))
        rows.append(("looks at `status` meanwhile, all true", f"{survived.looks}"))
        whole = Run(folder / "kills" / "undisturbed")
        damaged = damage_all(whole)
        refusals = f"the {damaged.refused} that a stage reads stopped it"
        rows.append(("files cut or with one bit flipped", f"{damaged.damages}, all named; {refusals}"))
        rows.append(("files removed", f"{damaged.removed}, all noticed or made again"))
        say("disks")
        (folder / "disks").mkdir()
        refused = full_and_read_only(folder / "disks", whole)
        mounted = f"{refused} refusals, then the same bytes"
        rows.append(("full and read-only disks", "nothing can be mounted here" if refused is None else mounted))
        if options.times:
            say(f"{options.times} times {options.soak}")
            soaked = soak(folder, options.soak_set, preset=options.soak, times=options.times)
            memory, files = (", ".join(f"{n:,.0f}" for n in of) for of in (soaked.memory_mib, soaked.open_files))
            rows.append(
                (f"`{options.soak}` {options.times} times in one process", f"memory {memory} MiB; open files {files}")
            )
            assert abs(soaked.growth) < FLAT, rows[-1]
            assert len(set(soaked.open_files[1:])) == 1, rows[-1]
    found = {"seed": options.seed, "minutes": (time.monotonic() - started) / 60, "rows": rows}
    print(f"\n{table(found)}\n{sentence(found)}")
    if options.keep:
        command = f"python -m benchmarks.torture --kills {options.kills} --soak {options.soak} --times {options.times}"
        changed = "".join(f" --soak-set {item}" for item in options.soak_set)
        keep("torture", f"{command}{changed} --seed {options.seed}", found)


def table(found: dict[str, Any]) -> str:
    return "\n".join(["| what | |", "|---|---|", *(f"| {what} | {told} |" for what, told in found["rows"])])


def sentence(found: dict[str, Any]) -> str:
    return f"seed {found['seed']} of the moments, {found['minutes']:.0f} minutes"


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
