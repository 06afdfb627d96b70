"""A model's answer to a person's own text: `python -m core predict`.

Not here: predictions on a run's examples, which are stored (core/predict writes them).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from core.calibration import log_probs_NC
from core.config import stored_tasks, validated
from core.device import resolve_device
from core.model import load_model
from core.predict import predict_texts
from core.store import Run
from core.tasks import Task, find_task
from core.tokens import load_tokenizer


def ask(
    run: Run,
    model: str,
    task_name: str,
    text: str,
    *,
    text_b: str | None = None,
    candidates: Sequence[str] | None = None,
) -> dict[str, Any]:
    """`{"probs": {label: probability}}`, or `{"probs": {}, "value": v, "low": .., "high": ..}` for regression.

    Raises `ValueError` for a model or task that the run does not have, and for texts that do not fit the task.
    """
    manifest = run.manifest()
    config, tasks = validated(manifest["config"]), stored_tasks(manifest)
    task = find_task(task_name, tasks)
    _check_texts(task, text, text_b, candidates)
    folder = run.model_dir(model)
    if not folder.exists():
        known = sorted(path.name for path in (run.path / "models").glob("*"))
        near = difflib.get_close_matches(model, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"run {run.path} has no model '{model}'{hint} Models: {', '.join(known) or 'none'}")
    disable_progress_bar()  # of loading the weights: milliseconds
    loaded, about = load_model(folder, tasks)
    if task_name not in about["tasks"]:
        raise ValueError(f"model '{model}' has no head for '{task_name}'; it has: {', '.join(about['tasks'])}")
    device = resolve_device(config.runtime.device, config.runtime.dtype, hidden=loaded.encoder.config.hidden_size)
    torch.manual_seed(config.seed)  # for a model that answers by MC dropout
    outputs = predict_texts(
        loaded.to(device.device),
        task,
        load_tokenizer(folder / "encoder"),
        [text],
        [list(candidates)] if candidates else None if text_b is None else [text_b],
        max_length=about["max_length"],
        device=device,
        mc_passes=about.get("mc_passes", 0),
    )
    if task.kind == "regression":
        low, high = task.score_range
        return {"probs": {}, "value": float(outputs[0]), "low": low, "high": high}
    names = list(candidates) if candidates else list(task.labels)
    probs = np.exp(log_probs_NC(outputs)[0])
    return {"probs": {name: float(p) for name, p in zip(names, probs, strict=True)}}


def _check_texts(task: Task, text: str, text_b: str | None, candidates: Sequence[str] | None) -> None:
    for name, value in (("--text", text), ("--text-b", text_b), *(("--candidate", one) for one in candidates or ())):
        if value is not None and not value.strip():
            raise ValueError(f"{name} is empty; task '{task.name}' needs words")
    if task.kind == "ranking":
        if candidates is None or len(candidates) != task.n_outputs:
            n = 0 if candidates is None else len(candidates)
            raise ValueError(f"task '{task.name}' ranks {task.n_outputs} candidates, got {n}; repeat --candidate")
        if len(set(candidates)) != len(candidates):
            raise ValueError(f"--candidate repeats a text: {list(candidates)}; each answer is named by its text")
    elif candidates:
        raise ValueError(f"task '{task.name}' is no ranking task; --candidate does not fit")
    if task.kind != "ranking" and task.is_pair != (text_b is not None):
        needs = "needs a second text: give --text-b" if task.is_pair else "reads one text: leave --text-b out"
        raise ValueError(f"task '{task.name}' {needs}")
