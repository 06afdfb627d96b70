"""What trainings with other settings scored: the cells of sweeps that were made from a run.

Read from `sweep.parquet` (core/sweep) beside the run. A cell is a trained run with an alpha and a temperature of its
own, so it may stand in a map of losses as what the map is not: a result.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.comparisons import mean_and_se
from core.store import Run
from core.views.roles import role_of
from core.views.table import DEFAULT_STUDENT

COLUMNS = {"cell", "model", "task", "split", "metric", "value"}
METRICS = ("score", "kl_truth")


class Trained(NamedTuple):
    """The distilled students of one cell: mean over their seeds and its standard error (nan for one)."""

    alpha: float
    temperature: float
    mean: float
    se: float
    cell: str


def sweep_files(run: Run) -> list[Path]:
    """Every `sweep.parquet` in the folder of `run`, and that of the sweep whose cell it is."""
    return sorted({*run.path.parent.glob("*/sweep.parquet"), *run.path.parent.glob("sweep.parquet")})


def trained_settings(run: Run, task: str, split: str) -> dict[str, list[Trained]]:
    """By metric, the cells that were made from `run`, or of which it is one."""
    found: dict[str, list[Trained]] = {}
    for file in sweep_files(run):
        for metric, cells in _cells(file, task, split).items():
            mine = [trained for trained, origins in cells if str(run.path.resolve()) in origins]
            if mine:
                found.setdefault(metric, []).extend(mine)
    return found


def _cells(file: Path, task: str, split: str) -> dict[str, list[tuple[Trained, tuple[str, str]]]]:
    """Each with the folder of its run and of the run that it was made from."""
    data, folder = pq.read_table(file), file.resolve().parent
    if not set(data.column_names) >= COLUMNS:
        return {}
    data = data.filter(pc.and_(pc.equal(data["task"], task), pc.equal(data["split"], split)))
    seen: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in data.to_pylist():
        role = role_of(row["model"], [task])
        if row["metric"] in METRICS and role is not None and role.variant == DEFAULT_STUDENT:
            seen.setdefault((row["metric"], row["cell"]), []).append(row)
    found: dict[str, list[tuple[Trained, tuple[str, str]]]] = {}
    for (metric, cell), rows in seen.items():
        path = folder / Path(cell).name / "run.json"
        manifest = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        distill = (manifest.get("config") or {}).get("distill", {})
        alpha, t = (rows[0].get(name, distill.get(name)) for name in ("alpha", "temperature"))
        if alpha is not None:
            mean, se, _ = mean_and_se([row["value"] for row in rows])
            trained = Trained(float(alpha), float(t or 1.0), mean, se, Path(cell).name)
            base = str((path.parent / manifest.get("base", "")).resolve())
            found.setdefault(metric, []).append((trained, (str(path.parent), base)))
    return found
