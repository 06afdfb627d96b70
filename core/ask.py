"""A model's answer to a person's own text: `python -m core predict`.

Not here: predictions on a run's examples, which are stored (core/predict writes them).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from core.calibration import log_probs_NC
from core.config import stored_tasks, validated
from core.device import Device, resolve_device
from core.model import MultiTaskModel, load_model
from core.predict import predict_texts
from core.store import Run
from core.tasks import Task, did_you_mean, find_task
from core.tokens import load_tokenizer


class Opened(NamedTuple):
    """A model of a run, on its device and ready to answer; `about` is its `model.json`, `tasks` are its heads'."""

    model: MultiTaskModel
    tokenizer: Any
    tasks: dict[str, Task]
    about: dict[str, Any]
    device: Device


def open_model(
    run: Run, name: str, task: str | None = None, *, device: str | None = None, dtype: str | None = None
) -> Opened:
    """Loads a model of the run, on the run's device and dtype where none are given.

    Raises `ValueError` for a model that the run does not have, and for one without a head for `task`."""
    manifest = run.manifest()
    config, tasks = validated(manifest["config"]), stored_tasks(manifest)
    folder = run.model_dir(name)
    if not folder.exists():
        known = sorted(path.name for path in (run.path / "models").glob("*"))
        hint = did_you_mean(name, known)
        raise ValueError(f"run {run.path} has no model '{name}'{hint} Models: {', '.join(known) or 'none'}")
    disable_progress_bar()  # of loading the weights: milliseconds
    model, about = load_model(folder, tasks)
    if task is not None and task not in about["tasks"]:
        raise ValueError(f"model '{name}' has no head for '{task}'; it has: {', '.join(about['tasks'])}")
    hidden = model.encoder.config.hidden_size
    where = resolve_device(device or config.runtime.device, dtype or config.runtime.dtype, hidden=hidden)
    torch.manual_seed(config.seed)  # for a model that answers by MC dropout
    own = {one: tasks[one] for one in about["tasks"]}
    return Opened(model.to(where.device), load_tokenizer(folder / "encoder"), own, about, where)


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
    task = find_task(task_name, stored_tasks(run.manifest()))
    _check_texts(task, text, text_b, candidates)
    opened = open_model(run, model, task_name)
    outputs = predict_texts(
        opened.model,
        task,
        opened.tokenizer,
        [text],
        [list(candidates)] if candidates else None if text_b is None else [text_b],
        max_length=opened.about["max_length"],
        device=opened.device,
        mc_passes=opened.about.get("mc_passes", 0),
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
