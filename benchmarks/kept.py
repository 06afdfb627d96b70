"""What the README quotes of a benchmark: a file of `benchmarks/results` with the raw measurements, the command and the
machine. Each benchmark writes its own with `--keep`, and makes the README's words of it; tests/test_quoted.py compares
them.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from core.files import read_json, write_json

RESULTS = Path(__file__).parent / "results"


def keep(name: str, command: str, found: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Writes `folder/NAME.json`. `command` is told without the folders of this machine."""
    machine = {"cores": os.cpu_count(), "processor": processor(), "python": platform.python_version()}
    path = folder / f"{name}.json"
    write_json(path, {"command": command, "machine": machine | {"torch": torch.__version__}, **found})
    print(f"kept in {path}")
    return path


def kept(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    found: dict[str, Any] = read_json(folder / f"{name}.json")
    return found


def processor() -> str:
    """The processor's name where the system tells it, else its kind."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
