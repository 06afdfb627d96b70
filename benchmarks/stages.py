"""Where a run's time went: `python -m benchmarks.stages runs/demo`.

A row a stage, from the jobs' records in run.json: seconds of all its jobs (side by side, they sum to more than the
wall's), of which training and passes over the data, real tokens a second of training, the share of its time that waited
for data, and the share of the GEMM peak. A run made before jobs recorded their speed has seconds alone. `--keep`
writes benchmarks/results/demo.json: of a run of the preset `demo` that was made in one go, nothing else running.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.kept import keep
from core.files import read_json


def stage_times(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a stage, in the order of the run."""
    rows: dict[str, dict[str, Any]] = {}
    for job in manifest["jobs"].values():
        row = rows.setdefault(
            job["stage"], {"stage": job["stage"], "jobs": 0, "seconds": 0.0, "training": 0.0, "passes": 0.0,
                           "tokens": 0, "waiting": 0.0, "peak": 0.0},
        )  # fmt: skip
        training, passes = job.get("training", {}), job.get("passes", {})
        row["jobs"] += 1
        row["seconds"] += job.get("seconds", 0.0)
        row["training"] += training.get("seconds", 0.0)
        row["passes"] += passes.get("seconds", 0.0)
        row["tokens"] += training.get("tokens", 0)
        row["waiting"] += training.get("seconds", 0.0) * training.get("waiting_share", 0.0)
        row["peak"] += training.get("seconds", 0.0) * training.get("gemm_share", 0.0)
    return list(rows.values())


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, with a last row for the whole run."""
    total = {name: sum(row[name] for row in rows) for name in rows[0] if name != "stage"}
    lines = [
        "| stage | jobs | job seconds | training | passes | tokens a second | waiting for data | of the GEMM peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in [*rows, {"stage": "**all**", **total}]:
        of_training = [f"{row['training']:.1f}", f"{row['passes']:.1f}", "", "", ""]
        if row["training"]:
            of_training[2:] = [
                f"{row['tokens'] / row['training']:,.0f}",
                f"{100 * row['waiting'] / row['training']:.1f} %",
                f"{row['peak'] / row['training']:.2f}",
            ]
        lines.append(f"| {row['stage']} | {row['jobs']} | {row['seconds']:.1f} | " + " | ".join(of_training) + " |")
    return "\n".join(lines)


def wall_seconds(run: Path) -> float:
    """From the start to the last job's end; raises ValueError where the run was made in more than one go."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    starts = [i for i, line in enumerate(lines) if line["event"] == "started"]
    later = [lines[i:j] for i, j in zip(starts, [*starts[1:], len(lines)], strict=True)]
    worked = [part for part in later if any(line["event"] == "done" for line in part)]
    if len(worked) != 1:
        raise ValueError(f"{run} was made in {len(worked)} goes; its time is told of a run that was made in one")
    return float(max(line["time"] for line in worked[0] if line["event"] == "done") - worked[0][0]["time"])


def sentence(found: dict[str, Any]) -> str:
    of = {row["stage"]: row for row in found["stages"]}
    seconds, training, waiting = (sum(row[name] for row in of.values()) for name in ("seconds", "training", "waiting"))
    minutes, rest = divmod(round(found["wall_seconds"]), 60)
    by_stage = ", ".join(
        f"{who} {of[stage]['seconds']:.0f}"
        for who, stage in (("members", "multitask"), ("teachers", "finetune"), ("students", "distill"))
    )
    shares = f"{100 * training / seconds:.0f} % of them training, {100 * waiting / training:.1f} %"
    return (
        f"{minutes} min {rest} s ({found['students']} students; {by_stage} job seconds, "
        f"{found['workers']} jobs at a time; {shares} of the training waiting for data)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/demo.json")
    given = parser.parse_args()
    if not (given.run / "run.json").exists():
        parser.error(f"{given.run} holds no run; make one with: python -m core run --preset demo --out {given.run}")
    manifest = read_json(given.run / "run.json")
    rows = stage_times(manifest)
    print(table(rows))
    if given.keep:
        found = {
            "wall_seconds": wall_seconds(given.run),
            "students": sum(job["stage"] == "distill" for job in manifest["jobs"].values()),
            "workers": manifest["config"]["runtime"]["workers"] or manifest["machine"]["cores"],
            "stages": rows,
        }
        print(sentence(found))
        keep("demo", "python -m core run --preset demo --out runs/demo", found)


if __name__ == "__main__":
    main()
