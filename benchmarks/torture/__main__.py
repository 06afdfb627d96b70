"""`make torture`: everything, one part after another, and the table of the README."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

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
        rows.append(
            (
                "kills survived",
                f"{len(survived.kills)} (SIGKILL), in {len(stages)} of {len(STAGES)} stages, {survived.runs} runs",
            )
        )
        rows.append(("files equal to the undisturbed run's", f"{survived.files} of {survived.files}, in each of them"))
        rows.append(("looks at `status` meanwhile, all true", f"{survived.looks}"))
        whole = Run(folder / "kills" / "undisturbed")
        damaged = damage_all(whole)
        rows.append(
            (
                "files damaged (cut, bit flipped)",
                f"{damaged.damages}, all named; {damaged.refused} are read by a stage, all refused",
            )
        )
        rows.append(("files removed", f"{damaged.removed}, all noticed or made again"))
        say("disks")
        (folder / "disks").mkdir()
        refused = full_and_read_only(folder / "disks", whole)
        rows.append(
            (
                "full and read-only disks",
                "not tried: nothing can be mounted here"
                if refused is None
                else f"{refused} refusals, then the same bytes",
            )
        )
        if options.times:
            say(f"{options.times} times {options.soak}")
            soaked = soak(folder, options.soak_set, preset=options.soak, times=options.times)
            memory = ", ".join(f"{mib:.0f}" for mib in soaked.memory_mib)
            rows.append(
                (
                    f"`{options.soak}` {options.times} times in one process",
                    f"memory {memory} MiB, open files {soaked.open_files}",
                )
            )
            assert abs(soaked.growth) < FLAT, rows[-1]
            assert len(set(soaked.open_files[1:])) == 1, rows[-1]
    rows.append(("minutes", f"{(time.monotonic() - started) / 60:.0f}"))
    print("\n| what | |\n|---|---|")
    for what, found in rows:
        print(f"| {what} | {found} |")


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
