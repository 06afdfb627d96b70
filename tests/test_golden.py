"""One tiny run, compared with what it gave when tests/golden/smoke.json was written: a change of any result shows, and
has to be meant. `make golden` writes the file again; its diff is reviewed.

Bytes are not compared: another CPU adds in another order. Texts and ids are exact; the losses of a few steps differ by
1e-5 between CPUs, and any change of method by far more than the tolerance.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import Finished, log_lines

GOLDEN = Path(__file__).parent / "golden" / "smoke.json"
TOLERANCE = 2e-3


def told(finished: Finished) -> dict[str, Any]:
    run = finished.run
    texts = {}
    for task in finished.manifest["tasks"]:
        rows = run.read_examples(task).select(["example_id", "split", "text_a"]).to_pylist()
        texts[task] = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
    losses: dict[str, list[float]] = {}
    for line in log_lines(run, event="progress"):
        if "loss" in line:
            losses.setdefault(line["job"], []).append(round(line["loss"], 5))
    scores: dict[str, float] = {}
    for row in pq.read_table(run.path / "metrics.parquet").to_pylist():
        if row["split"] == "test" and row["metric"] in ("nll", "mse"):
            scores[f"{row['model']} {row['task']}"] = round(row["value"], 5)
    return {"texts": texts, "losses": dict(sorted(losses.items())), "test nll or mse": dict(sorted(scores.items()))}


def test_the_run_gives_what_it_gave(smoke: Finished) -> None:
    found = told(smoke)
    if os.environ.get("DARKROOM_GOLDEN") == "write":
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    again = "results have changed: if that is meant, raise CODE_VERSION, run `make golden` and look at the diff"
    assert found["texts"] == golden["texts"], again
    for part in ("losses", "test nll or mse"):
        assert found[part].keys() == golden[part].keys(), again
        for name, values in golden[part].items():
            assert found[part][name] == pytest.approx(values, rel=TOLERANCE, abs=TOLERANCE), f"{name}: {again}"
    assert len(golden["losses"]) == 3 + 8 + 4
