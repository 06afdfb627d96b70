"""`run --dry-run`: what would run, and roughly what it costs, before anything is trained or written.

Steps and tokens are counted from the examples (those of the run, or of the source where the run has none yet); the
speed is measured in a few training steps of the real encoder on the real device. Rough: batches of one mean length,
jobs side by side assumed not to slow each other down.

FLOPs are counted as in core/speed.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table

from core.batching import make_batch, on_device
from core.config import Config, resolve_tasks
from core.device import Device, resolve_device
from core.encoder import config_of, encode, encoder_from_config
from core.optim import make_optimizer
from core.pipeline import chosen_members, count_workers, source_digest
from core.plan import STAGES, TRAINING_STAGES, Job, is_done, make_jobs
from core.sections import TrainConfig
from core.speed import FORWARD_FLOPS, TRAINING_FLOPS, matrix_parameters, wait
from core.stages.prepare import generate_suite, load_source, shape_table
from core.store import Run
from core.synthetic import unlabelled_text
from core.tasks import Task
from core.tokens import Tokens

PROBE_STEPS = 6
ASSUMED_GPU_FLOPS = 400e12
# WordPiece cuts an English word into this many tokens on GLUE; a word-level tokenizer into one.
PIECES_A_WORD = 1.25
SPECIAL_TOKENS = 3
BYTES_A_WORD = 5.7  # of English prose, its space included


class Size(NamedTuple):
    """Rows of a task's train split and of its other splits, and tokens of a row (all candidates of a question)."""

    n_train: int
    n_other: int
    tokens: float


class StageCost(NamedTuple):
    jobs: int
    to_run: int
    steps: int
    tokens: float
    flops: float


def render_cost(run: Run, config: Config, console: Console) -> None:
    """Prints a line a stage: jobs, those that would run, steps, tokens, FLOPs; then the measured speed and the time."""
    tasks = resolve_tasks(config)
    source = source_digest(config, tasks)
    manifest = run.manifest() if run.exists() else {"jobs": {}}
    chosen = chosen_members(run, config, tasks, source, manifest)
    likely = chosen or list(config.multitask.members)[: config.select.top_k]
    jobs = make_jobs(config, tasks, source_digest=source, chosen=likely)
    sizes = {name: task_size(run, config, task) for name, task in tasks.items()}
    encoder = encoder_from_config(config_of(config.student_encoder, None))
    n_parameters = matrix_parameters(encoder)
    costs = {stage: stage_cost(stage, config, jobs, sizes, manifest, n_parameters) for stage in STAGES}
    table = Table(title=f"{run.path}: what would run", title_justify="left", pad_edge=False)
    table.add_column("stage")
    for column in ("jobs", "to run", "steps", "tokens", "FLOPs"):
        table.add_column(column, justify="right")
    for stage, cost in costs.items():
        work = (f"{cost.steps:,}", _si(cost.tokens), _si(cost.flops)) if cost.tokens else ("", "", "")
        table.add_row(stage, str(cost.jobs), str(cost.to_run) if cost.to_run else "up to date", *work)
    console.print(table)
    device = resolve_device(config.runtime.device, config.runtime.dtype, hidden=encoder.config.hidden_size)
    flops = sum(cost.flops for cost in costs.values())
    speed = measure_speed(encoder, config, sizes, device, n_parameters)
    workers = count_workers(config, tasks, device.device.type)
    console.print(
        f"Encoder {config.student_encoder}: {n_parameters / 1e6:.2f} M parameters without embeddings.\n"
        f"Speed measured on {device.reason.partition(';')[0].partition(':')[0]}: {_si(speed)}FLOP/s a job; "
        f"{workers} job{'s' if workers > 1 else ''} at a time.\n"
        f"In all {_si(flops)}FLOP, roughly [bold]{_duration(flops / speed / workers)}[/bold] of training and passes.\n"
        f"At {_si(ASSUMED_GPU_FLOPS)}FLOP/s, half of what one H200 can do in bfloat16 (assumed, not measured): "
        f"{_duration(flops / ASSUMED_GPU_FLOPS)}.",
        highlight=False,
    )


def task_size(run: Run, config: Config, task: Task) -> Size:
    """Counted in the run's own examples, or in the source's. Tokens from words, which needs no tokenizer yet."""
    table = run.read_examples(task.name) if run.examples_path(task.name).exists() else _from_source(config, task)
    n_train = pa.compute.sum(pa.compute.equal(table["split"], "train")).as_py() or 0
    words = sum(_words(table[name]) for name in ("text_a", "text_b") if name in table.column_names)
    sequences = len(table)
    if task.kind == "ranking":
        candidates = table["candidates"].combine_chunks().flatten()
        words = task.n_outputs * _words(table["text_a"]) + _words(candidates)
        sequences *= task.n_outputs
    pieces = 1.0 if config.model.tokenizer == "word" else PIECES_A_WORD
    tokens = (pieces * words + SPECIAL_TOKENS * sequences) / len(table)
    return Size(n_train, len(table) - n_train, min(tokens, float(config.model.max_length * task.n_outputs)))


def _from_source(config: Config, task: Task) -> pa.Table:
    if config.data.source == "suite":
        one_task = config.model_copy(update={"data": config.data.model_copy(update={"tasks": (task.name,)})})
        return shape_table(config, task, generate_suite(one_task)[task.name])
    return shape_table(config, task, load_source(config, task)[0])


def _words(texts: pa.ChunkedArray) -> int:
    return int(pa.compute.sum(pa.compute.list_value_length(pa.compute.utf8_split_whitespace(texts))).as_py() or 0)


def stage_cost(
    stage: str,
    config: Config,
    jobs: Mapping[str, Job],
    sizes: Mapping[str, Size],
    manifest: Mapping[str, Any],
    n_parameters: int,
) -> StageCost:
    """Work of a stage's jobs that are not done: training steps and tokens, and FLOPs with the passes after it."""
    of_stage = [job for job in jobs.values() if job.stage == stage]
    todo = [job for job in of_stage if not is_done(job, manifest)]
    steps, tokens, flops = 0, 0.0, 0.0
    for job in todo if stage in TRAINING_STAGES else []:
        if stage == "pretrain":
            read = config.pretrain.epochs * _pretrain_tokens(config)
            steps += round(read / config.pretrain.max_length / config.pretrain.batch_size)
            tokens += read
            # Replaced-token detection also runs a generator of about half the width and depth.
            flops += TRAINING_FLOPS * n_parameters * read * (1.3 if config.pretrain.objective == "rtd" else 1.0)
            continue
        if "imported" in job.spec:
            continue
        train = TrainConfig(**job.spec["train"])
        mine = [sizes[job.spec["task"]]] if "task" in job.spec else list(sizes.values())
        steps += train.epochs * sum(-(-size.n_train // train.batch_size) for size in mine)
        trained = train.epochs * sum(size.n_train * size.tokens for size in mine)
        # Teachers also pass over their training rows: the targets are made of that.
        passed = sum((size.n_other + (size.n_train if stage == "finetune" else 0)) * size.tokens for size in mine)
        tokens += trained
        flops += n_parameters * (TRAINING_FLOPS * trained + FORWARD_FLOPS * passed)
    return StageCost(len(of_stage), len(todo), steps, tokens, flops)


def _pretrain_tokens(config: Config) -> float:
    """Tokens of one pass over the text: of a file from its size, as the text itself may be gigabytes."""
    if config.pretrain.text is None:
        sample = unlabelled_text(200, seed=config.data.seed)
        return config.pretrain.sentences * sum(len(line.split()) for line in sample) / len(sample)
    path = Path(config.pretrain.text)
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    return PIECES_A_WORD * sum(file.stat().st_size for file in files) / BYTES_A_WORD


def measure_speed(encoder: Any, config: Config, sizes: Mapping[str, Size], device: Device, n_parameters: int) -> float:
    """FLOP/s of training steps on one job's threads, with batches of the run's size and mean length."""
    torch.set_num_threads(config.runtime.threads)
    n_tokens = max(4, round(np.mean([size.tokens for size in sizes.values()])))
    n_tokens = min(n_tokens, config.model.max_length)
    n = config.distill.batch_size
    ends = n_tokens * np.arange(n + 1)
    tokens = Tokens(np.full(n * n_tokens, 5, np.int32), ends, np.full(n, n_tokens, np.int32))
    probe = Task(name="probe", labels=("a", "b"))
    data = on_device(probe, tokens, np.arange(n), np.full(n, "train"), torch.zeros(n), device.device)
    batch = make_batch(data, np.arange(n))
    encoder = copy.deepcopy(encoder).to(device.device).train()
    optimizer = make_optimizer(encoder, config.distill)
    started = 0.0
    for step in range(2 * PROBE_STEPS):
        if step == PROBE_STEPS:
            wait(device.device)
            started = time.perf_counter()
        with device.autocast():
            loss = encode(encoder, batch, first_only=False).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    wait(device.device)
    return TRAINING_FLOPS * n_parameters * len(batch.ids_T) * PROBE_STEPS / (time.perf_counter() - started)


def _si(value: float) -> str:
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.0f} "


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
