"""How far a run is, and whether somebody works on it: `python -m core status RUN`. No torch.

`running` is what the lock says (core/locks), never what a file once said: a run whose process was killed is `stopped`,
and goes on from what it had done.
"""

from __future__ import annotations

import json
from typing import Any

from core.config import stored_tasks, validated
from core.locks import holder_of, killed_holder
from core.plan import STAGES, make_jobs
from core.store import Run

BY_HAND = {"KeyboardInterrupt": "Ctrl-C", "Terminated": "SIGTERM"}
TAIL_BYTES = 1 << 18  # of the log: a line of each of some hundred jobs


def read_status(run: Run) -> dict[str, Any]:
    """JSON-able: `state` (finished, running, stopped), `says` (a sentence), `stopped_at` (a stage or None),
    `resumable`, `holder` (who works on it, or None), `stages` (done, total, seconds by stage), `working` (job -> its
    last line of the log, for a running one). Raises `ValueError` for an imported run, which has no stages."""
    manifest = run.manifest()
    if manifest.get("imported"):
        raise ValueError(f"{run.path} holds imported predictions and has no stages; look at it with `make app`")
    config = validated(manifest["config"])
    done = manifest["jobs"]
    chosen = done.get("select", {}).get("chosen") or [f"mt-{i}" for i in range(1, config.select.top_k + 1)]
    # Names alone are wanted, so the digest of the sources, a part of the keys, does not matter.
    jobs = make_jobs(config, stored_tasks(manifest), source_digest="", chosen=chosen)
    stages: dict[str, dict[str, Any]] = {}
    for stage in STAGES:
        have = [name for name, record in done.items() if record["stage"] == stage]
        seconds = round(sum(done[name]["seconds"] for name in have), 1)
        total = sum(job.stage == stage for job in jobs.values())
        stages[stage] = {"done": len(have), "total": total, "seconds": seconds}
    # The holder first: a run that ends between the two questions is then seen as running, for the last time.
    holder = holder_of(run.path)
    unfinished = next((stage for stage, counts in stages.items() if counts["done"] < counts["total"]), None)
    about: dict[str, Any] = {
        "run": str(run.path),
        "preset": manifest["config"]["preset"],
        "state": "running" if holder else "finished" if unfinished is None else "stopped",
        "stopped_at": None if holder else unfinished,
        "resumable": holder is None and unfinished is not None,
        "holder": None if holder is None else holder._asdict(),
        "stages": stages,
        "working": _working(run, done) if holder else {},
    }
    return about | {"says": _sentence(run, about, str(holder))}


def _sentence(run: Run, about: dict[str, Any], holder: str) -> str:
    if about["state"] == "running":
        jobs = [f"{job} {_share(line)}" for job, line in about["working"].items()]
        return f"running: {holder}" + (f"; {', '.join(jobs)}" if jobs else "")
    if about["state"] == "finished":
        return "finished"
    counts = about["stages"][about["stopped_at"]]
    killed = killed_holder(run.path)
    last = (_tail(run) or [{}])[-1]
    error = str(last.get("error"))
    why = (
        f"by {BY_HAND.get(error, error)}" if last.get("event") == "stopped" else "killed" if killed else "nobody works"
    )
    return (
        f"stopped at {about['stopped_at']}, {counts['done']} of {counts['total']} jobs done ({why}); "
        f"python -m core run --out {run.path} goes on"
    )


def _share(line: dict[str, Any]) -> str:
    if "steps" not in line:
        return "at work"
    return f"epoch {line['epoch'] + 1}, step {line['step']} of {line['steps']}"


def _working(run: Run, done: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The last progress of every job that is not done, since the process that works now started."""
    working: dict[str, dict[str, Any]] = {}
    for line in _tail(run):
        if line.get("event") == "started":
            working = {}
        elif line.get("event") == "progress" and line.get("job") not in done:
            working[line["job"]] = {key: value for key, value in line.items() if key not in ("event", "job")}
    return working


def _tail(run: Run) -> list[dict[str, Any]]:
    """The last lines of the log that are whole: somebody may be writing the next one."""
    path = run.path / "log.jsonl"
    if not path.exists():
        return []
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        raw = file.read().split(b"\n")
    lines = []
    for text in raw:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines
