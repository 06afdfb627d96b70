"""A file of texts -> what a model of a run says: `python -m core predict --in x.tsv --out y.parquet`.

Without a task, every head that fits the columns answers, on one pass of the encoder: ranking tasks where there are
candidates, pair tasks where there are two texts, the others where there is one. A chunk of rows is read, answered and
written before the next, so that memory does not grow with the file (core/streams).

Columns written: `row` (from 0), the key column where one is asked for, and for each task its answer, `nli`, with the
probabilities behind it, `nli.entailment`, ...; for ranking the number of the best candidate; for regression a value.

Shapes: N rows of a chunk, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from core.ask import Opened, open_model
from core.batching import make_batch, on_device
from core.calibration import log_probs_NC
from core.predict import longest_first, predict_texts
from core.store import Run
from core.streams import Chunk, chunks, writer
from core.tasks import Task
from core.tokens import encode_texts

ROWS_A_CHUNK = 4_096
ROLES = ("text_a", "text_b", "candidates")


def predict_file(
    run: Run,
    model: str,
    source: Path,
    out: Path,
    *,
    task: str | None = None,
    columns: Mapping[str, str] | None = None,
    key: str | None = None,
) -> dict[str, Any]:
    """Answers every row of `source` into `out` and returns `{"rows", "tasks"}`. `columns` maps `text_a`, `text_b`,
    `candidates` to the file's names; the names of the tasks' own files are known. Raises `ValueError` with the row."""
    opened, n = open_model(run, model, task), 0
    places, chosen = dict[str, str](), dict[str, Task]()
    with writer(out) as write:
        for chunk in chunks(source, ROWS_A_CHUNK):
            if not chosen:
                places = _places(opened.tasks, list(chunk.columns), columns or {}, key)
                chosen = _fitting(opened.tasks, places, chunk, task)
            texts = {role: _texts(chunk, name, role) for role, name in places.items() if role in ROLES}
            write(_table(chosen, answer_chunk(opened, chosen, texts, chunk), n, chunk, key))
            n += len(chunk.places)
        if n == 0:
            raise ValueError(f"{source} has no rows, expected a header and at least one row of texts")
    return {"rows": n, "tasks": list(chosen)}


def _places(tasks: Mapping[str, Task], found: list[str], columns: Mapping[str, str], key: str | None) -> dict[str, str]:
    """Role -> the column that has it, for the roles that the file has."""
    for role in columns:
        if role not in ROLES:
            raise ValueError(f"--column {role}={columns[role]}: expected one of {', '.join(ROLES)} before the '='")
    for role, name in {**columns, **({} if key is None else {"key": key})}.items():
        if name not in found:
            raise ValueError(f"there is no column '{name}' ({role}); columns found: {', '.join(found)}")
    places: dict[str, str] = {}
    for role in ROLES:
        own = [getattr(task, role) for task in tasks.values()]
        names = [columns[role]] if role in columns else [role, *(name for name in own if name)]
        if present := [name for name in names if name in found and name not in places.values()]:
            places[role] = present[0]
    return places


def _fitting(tasks: Mapping[str, Task], places: dict[str, str], chunk: Chunk, asked: str | None) -> dict[str, Task]:
    """The tasks that read what the file has; removes what they do not read from `places`."""
    if asked is not None:
        needs = _needs(tasks[asked])
        if lost := [role for role in needs if role not in places]:
            raise ValueError(
                f"task '{asked}' reads {', '.join(needs)}, but no column is its {lost[0]}; columns found: "
                f"{', '.join(chunk.columns)}. Name it, for example --column {lost[0]}=NAME"
            )
        for role in set(places) - set(needs):
            del places[role]
        return {asked: tasks[asked]}
    wanted = tuple(role for role in ROLES if role in places and (role != "text_b" or "candidates" not in places))
    n = len(_texts(chunk, places["candidates"], "candidates")[0]) if "candidates" in places else 0
    fit = {name: task for name, task in tasks.items() if _needs(task) == wanted and n in (0, task.n_outputs)}
    if not fit:
        reads = "; ".join(f"{name}: {', '.join(_needs(task))}" for name, task in tasks.items())
        raise ValueError(
            f"no task of the model reads {', '.join(wanted) or 'these columns'}; columns found: "
            f"{', '.join(chunk.columns)}. The tasks read {reads}. Name them with --column text_a=NAME"
        )
    for role in set(places) - set(wanted):
        del places[role]
    return fit


def _needs(task: Task) -> tuple[str, ...]:
    return ("text_a", "candidates") if task.kind == "ranking" else ("text_a", "text_b") if task.is_pair else ("text_a",)


def _texts(chunk: Chunk, name: str, role: str) -> list[Any]:
    """A column's texts, or lists of candidates (JSON lists in text formats)."""
    if name not in chunk.columns:
        raise ValueError(f"{chunk.places[0]}: from here on there is no '{name}'; give every row the same columns")
    values = chunk.columns[name]
    if role == "candidates":
        values = [json.loads(one) if isinstance(one, str) and one.startswith("[") else one for one in values]
    for one, place in zip(values, chunk.places, strict=True):
        parts = one if role == "candidates" and isinstance(one, list) else [one]
        is_list = role != "candidates" or (isinstance(one, list) and len(one) == len(values[0]))
        if not is_list or not all(isinstance(part, str) and part.strip() for part in parts):
            expected = f"a list of {len(values[0] or ())} texts" if role == "candidates" else "a text"
            raise ValueError(f"{place} has {one!r} in column '{name}', expected {expected}; correct or remove the row")
    return values


@torch.inference_mode()
def answer_chunk(
    opened: Opened, tasks: Mapping[str, Task], texts: Mapping[str, list[Any]], chunk: Chunk
) -> dict[str, np.ndarray]:
    """Outputs (N, C) of each task, values (N,) for regression, on one pass of the encoder over the rows; for a model
    that averages passes with dropout, those passes for each task."""
    length, n = opened.about["max_length"], len(chunk.places)
    text_a, text_b = texts["text_a"], texts.get("candidates", texts.get("text_b"))
    if passes := opened.about.get("mc_passes", 0):
        return {
            name: predict_texts(opened.model, task, opened.tokenizer, text_a, text_b, max_length=length,
                                device=opened.device, mc_passes=passes)
            for name, task in tasks.items()
        }  # fmt: skip
    if "candidates" in texts:
        text_a = [text for text, options in zip(text_a, texts["candidates"], strict=True) for _ in options]
        text_b = [option for options in texts["candidates"] for option in options]
    one = next(iter(tasks.values()))  # all of them read the same sequences
    rows = np.arange(n)
    tokens = encode_texts(opened.tokenizer, text_a, text_b, max_length=length)
    data = on_device(one, tokens, rows.astype(str), np.full(n, "own"), torch.full((n,), -1), opened.device.device)
    outputs = {name: np.zeros((n, task.n_outputs), np.float32) for name, task in tasks.items()}
    with opened.device.autocast():
        for batch in longest_first(data, rows, opened.device):
            answers = opened.model.answers(tasks, make_batch(data, batch))
            for name, logits in answers.items():
                outputs[name][batch] = logits.float().cpu().numpy()
    return {name: value[:, 0] if tasks[name].kind == "regression" else value for name, value in outputs.items()}


def _table(
    tasks: Mapping[str, Task], outputs: Mapping[str, np.ndarray], first: int, chunk: Chunk, key: str | None
) -> pa.Table:
    columns: dict[str, Any] = {"row": pa.array(range(first, first + len(chunk.places)), pa.int64())}
    if key is not None:
        values = chunk.columns.get(key, [None] * len(chunk.places))
        columns[key] = pa.array([None if one is None else str(one) for one in values], pa.string())
    for name, task in tasks.items():
        if task.kind == "regression":
            columns[name] = pa.array(outputs[name], pa.float32())
            continue
        probs_NC = np.exp(log_probs_NC(outputs[name]))
        columns[name] = pa.array([task.labels[i] for i in probs_NC.argmax(axis=1)], pa.string())
        columns |= {f"{name}.{label}": pa.array(probs_NC[:, i], pa.float32()) for i, label in enumerate(task.labels)}
    return pa.table(columns)
