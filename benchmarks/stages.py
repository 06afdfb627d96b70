"""Where a run's time went: `python -m benchmarks.stages runs/demo`.

A row a stage, from the jobs' records in run.json: seconds of all its jobs (side by side, they sum to more than the
wall's), of which training and passes over the data, real tokens a second of training, the share of its time that waited
for data, and the share of the GEMM peak. A run made before jobs recorded their speed has seconds alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

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


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "run.json").exists():
        sys.exit("expected one argument, a run's folder: python -m benchmarks.stages runs/demo")
    print(table(stage_times(read_json(Path(sys.argv[1]) / "run.json"))))
