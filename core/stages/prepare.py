"""Stage 1, prepare: any source -> one checked examples table a task, the selection split, tokenizers, token arrays.

Reads: the embedded suite, or the files of `data.glue_dir` / `data.tasks_file`, or the hub.
Writes: `examples/<task>.arrow`, `tokenizers/`, `cache/` (token arrays, made again when missing).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from core.config import Config
from core.data import carve_selection, check_table, limit, load_task
from core.stages.context import Context, require_labels
from core.stages.imported import predictions_of
from core.synthetic import generate
from core.tasks import Task
from core.tokens import (
    cached_tokens,
    count_cut,
    load_tokenizer,
    make_tokenizer,
    task_texts,
    tokenizer_dir,
    tokenizer_spec,
)


def run(context: Context) -> dict[str, Any]:
    config, data = context.config, context.config.data
    sources = generate_suite(config) if data.source == "suite" else {}
    n_tasks, about = len(context.tasks), {}
    tables: dict[str, pa.Table] = {}
    for i, task in enumerate(context.tasks.values()):
        table, dropped = (sources[task.name], {}) if sources else load_source(config, task)
        tables[task.name] = table = shape_table(config, task, table)
        # Before hours of training, not after them.
        require_labels(table, task, config.select.split, option="select.split")
        require_labels(table, task, config.evaluate.split, option="evaluate.split")
        context.run.write_examples(task.name, table)
        for where in config.finetune.imported if task.has_teacher else ():
            predictions_of(context.run, task, where)  # raises for a teacher of other examples
        counts = table["split"].value_counts().to_pylist()
        about[task.name] = {"rows": {row["values"]: row["counts"] for row in counts}, "dropped": dropped}
        context.report(0.7 * (i + 1) / n_tasks, {"task": task.name, **about[task.name]})
    specs = dict.fromkeys(tokenizer_spec(config, encoder) for encoder in config.encoders)
    for spec in specs:
        make_tokenizer(context.run, spec, _training_texts(tables))
    shutil.rmtree(context.run.path / "cache", ignore_errors=True)
    notes: list[str] = []
    for encoder in config.encoders:
        spec = tokenizer_spec(config, encoder)
        tokenizer = load_tokenizer(tokenizer_dir(context.run, spec))
        for task in context.tasks.values():
            tokens = cached_tokens(context.run, config, encoder, task, prepare_key=context.job.key)
            max_length, table = config.model.max_length, tables[task.name]
            if n_cut := count_cut(tokenizer, task, table, tokens, max_length=max_length):
                notes.append(
                    f"task '{task.name}': {n_cut} of {len(table)} examples have more tokens ('{spec}') than "
                    f"model.max_length={max_length}, and were cut"
                )
    notes = list(dict.fromkeys(notes))  # encoders may share a tokenizer
    context.report(1.0, {"notes": notes} if notes else None)
    return {"tasks": about, "notes": notes}


def generate_suite(config: Config) -> dict[str, pa.Table]:
    data, tables = config.data, dict[str, pa.Table]()
    for task in data.tasks:
        sizes = {"n_train": data.n_train_of.get(task, data.n_train), "n_dev": data.n_dev, "n_test": data.n_test}
        tables |= generate([task], seed=data.seed, **sizes)  # what it makes of a task does not depend on the others
    return tables


def shape_table(config: Config, task: Task, table: pa.Table) -> pa.Table:
    """Checks a source's table, carves the selection split from its training rows, and applies the row limits."""
    data = config.data
    check_table(task, table)
    if not data.keep_unlabelled:
        table = _without_unlabelled_splits(task, table)
    size = int(data.selection) if data.selection >= 1 else data.selection
    table = carve_selection(table, size=size, seed=data.seed)
    return limit(table, max_train=data.max_train, max_eval=data.max_eval, seed=data.seed)


def load_source(config: Config, task: Task) -> tuple[pa.Table, dict[str, int]]:
    """A task's examples from files or the hub, and what was left out, by reason."""
    data = config.data
    assert data.source != "suite"
    loaded = load_task(
        task,
        source=data.source,
        glue_dir=None if data.glue_dir is None else Path(data.glue_dir),
        hub_dir=None if data.hub_dir is None else Path(data.hub_dir),
        empty_text=data.empty_text,
    )
    return loaded.table, loaded.dropped


def _without_unlabelled_splits(task: Task, table: pa.Table) -> pa.Table:
    """Splits without a single label (GLUE's test sets) cannot be scored; predicting them costs most of a pass."""
    gold = table["gold_value" if task.kind == "regression" else "gold_label"]
    labelled = pa.compute.unique(table.filter(gold.is_valid())["split"])
    return table.filter(pa.compute.is_in(table["split"], value_set=labelled))


def _training_texts(tables: dict[str, pa.Table]) -> Iterator[str]:
    for table in tables.values():
        yield from task_texts(table, split="train")
