"""How much work a run is: steps, tokens and bytes of every job, counted before anything runs.

Rows and tokens are counted in the run's own token arrays, where it has prepared them; else in the source's texts, a
word being one token of a `word` tokenizer and `PIECES_A_WORD` of any other; for GLUE on the hub the rows are the
published ones.
Counts are those that a job records in `run.json` (a test compares them), but for: a token budget, sampling other than
proportional, bagging and folds, where tokens are expectations; and words in the place of word pieces.

Not here: how fast it goes and what it costs (core/cost).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from core.batching import sampling_power, steps_a_task
from core.config import Config
from core.encoder import config_of, encoder_from_config
from core.heads import make_head
from core.plan import TRAINING_STAGES, Job, is_done
from core.sections import TrainConfig
from core.speed import FORWARD_FLOPS, TRAINING_FLOPS, matrix_parameters
from core.stages.context import EVALUATION_SPLITS
from core.stages.prepare import generate_suite, load_source, shape_table
from core.store import Run
from core.synthetic import unlabelled_text
from core.tasks import Task
from core.tokens import token_offsets

# WordPiece cuts an English word into this many tokens on GLUE; a word-level tokenizer into one.
PIECES_A_WORD = 1.25
BYTES_A_WORD = 5.7  # of English prose, its space included
# Rows of GLUE's labelled splits (Wang et al. 2018, table 1), and the mean tokens of a row, special tokens included, of
# bert-base-uncased's word pieces, counted in the training files (of MNLI, QQP and QNLI in 35,000, 35,000 and 10,000
# rows of them).
GLUE_ROWS: dict[str, tuple[dict[str, int], float]] = {
    "cola": ({"train": 8_551, "dev": 1_043}, 11.33),
    "sst2": ({"train": 67_349, "dev": 872}, 13.32),
    "mrpc": ({"train": 3_668, "dev": 408}, 53.24),
    "stsb": ({"train": 5_749, "dev": 1_500}, 27.81),
    "qqp": ({"train": 363_849, "dev": 40_430}, 30.70),
    "mnli": ({"train": 392_702, "dev": 9_815, "dev_mm": 9_832}, 39.52),
    "qnli": ({"train": 104_743, "dev": 5_463}, 49.35),
    "rte": ({"train": 2_490, "dev": 277}, 70.20),
    "wnli": ({"train": 635, "dev": 71}, 37.07),
}
# Shapes of the presets' encoders on the hub, so that a plan needs no network; with the entries of their vocabulary.
PUBLISHED = {
    f"google-bert/bert-{size}-{case}": (f"random:bert(layers={layers},hidden={hidden},heads={hidden // 64})", entries)
    for size, layers, hidden in (("base", 12, 768), ("large", 24, 1024))
    for case, entries in (("uncased", 30_522), ("cased", 28_996))
}
WORDS = {"suite": 250}  # entries of a `word` tokenizer; of other sources as many as of BERT's
BERT_ENTRIES = 30_522
# On the disk: of a row its id and split, and each of its numbers; the frame of a file; an entry of a tokenizer.
ROW_BYTES, NUMBER_BYTES, FILE_BYTES, ENTRY_BYTES = 6, 5, 1_600, 30


class Rows(NamedTuple):
    """Of one task by split: rows, and their tokens in all (a question's with all its candidates)."""

    n: dict[str, int]
    tokens: dict[str, float]


class Work(NamedTuple):
    """Of one job. Tokens that it trains on, reads for the curve's evaluations, and predicts afterwards; parameters that
    each token meets; bytes that stay, and bytes of its checkpoint while it runs."""

    steps: int = 0
    trained: float = 0.0
    evaluated: float = 0.0
    predicted: float = 0.0
    parameters: int = 0
    kept_bytes: float = 0.0
    checkpoint_bytes: float = 0.0
    generator: float = 1.0  # replaced-token detection also runs one of about half the width and depth

    @property
    def training_flops(self) -> float:
        return TRAINING_FLOPS * self.parameters * self.trained * self.generator

    @property
    def pass_flops(self) -> float:
        return FORWARD_FLOPS * self.parameters * (self.evaluated + self.predicted)


# ---- rows and tokens -----------------------------------------------------------------------------------------------
def count_rows(
    run: Run, config: Config, tasks: Mapping[str, Task], prepare: Job, manifest: Mapping[str, Any]
) -> dict[str, dict[str, Rows]]:
    """By encoder and task. Raises `ValueError` for a source that cannot be read."""
    is_prepared = is_done(prepare, manifest)
    estimates: dict[str, Rows] = {}
    found: dict[str, dict[str, Rows]] = {}
    for encoder in config.encoders:
        found[encoder] = {}
        for name, task in tasks.items():
            offsets = token_offsets(run, config, encoder, name, prepare_key=prepare.key) if is_prepared else None
            if offsets is not None:
                splits = run.read_examples(name)["split"].to_numpy(zero_copy_only=False)
                sizes = np.diff(offsets).reshape(len(splits), -1).sum(axis=1)
                found[encoder][name] = _by_split(splits, sizes)
                continue
            if name not in estimates:
                estimates[name] = _estimate(run, config, task, is_prepared=is_prepared)
            found[encoder][name] = estimates[name]
    return found


def _by_split(splits: np.ndarray, sizes: np.ndarray) -> Rows:
    names, index = np.unique(splits.astype(str), return_inverse=True)
    counts, tokens = np.bincount(index), np.bincount(index, weights=sizes)
    return Rows(dict(zip(names, counts.tolist(), strict=True)), dict(zip(names, tokens.tolist(), strict=True)))


def _estimate(run: Run, config: Config, task: Task, *, is_prepared: bool) -> Rows:
    data = config.data
    if data.source == "hub" and data.hub_dir is None and not is_prepared and task.name in GLUE_ROWS:
        published, tokens_a_row = GLUE_ROWS[task.name]
        n = dict(published)
        carved = int(data.selection) if data.selection >= 1 else min(2_000, max(1, round(data.selection * n["train"])))
        n |= {"train": n["train"] - carved, "selection": carved}
        for split in n:
            most = data.max_train if split == "train" else data.max_eval
            n[split] = n[split] if most is None else min(n[split], most)
        return Rows(n, {split: rows * tokens_a_row for split, rows in n.items()})
    table = run.read_examples(task.name) if is_prepared else _from_source(config, task)
    per_row = task.n_outputs if task.kind == "ranking" else 1
    words = per_row * _words(table["text_a"])
    if task.kind == "ranking":
        words = words + _words(table["candidates"].combine_chunks().flatten()).reshape(-1, per_row).sum(axis=1)
    elif task.is_pair:
        words = words + _words(table["text_b"])
    special = 3 if task.is_pair or task.kind == "ranking" else 2  # [CLS] a [SEP] b [SEP]
    pieces = 1.0 if config.model.tokenizer == "word" else PIECES_A_WORD
    tokens = np.minimum(pieces * words + per_row * special, per_row * config.model.max_length)
    return _by_split(table["split"].to_numpy(zero_copy_only=False), tokens)


def _from_source(config: Config, task: Task) -> pa.Table:
    if config.data.source == "suite":
        one_task = config.model_copy(update={"data": config.data.model_copy(update={"tasks": (task.name,)})})
        return shape_table(config, task, generate_suite(one_task)[task.name])
    return shape_table(config, task, load_source(config, task)[0])


def _words(texts: pa.ChunkedArray | pa.Array) -> np.ndarray:
    counts = pa.compute.list_value_length(pa.compute.utf8_split_whitespace(texts))
    return np.asarray(pa.compute.fill_null(counts, 0))


# ---- a job ---------------------------------------------------------------------------------------------------------
class Shape(NamedTuple):
    """Parameters that each token meets, and all with the embeddings."""

    parameters: int
    all_parameters: int
    hidden: int


@cache
def shape_of(encoder: str, entries: int = BERT_ENTRIES) -> Shape:
    """Counted without making them. The presets' encoders need no network. `entries` are a fresh encoder's."""
    spec, published = PUBLISHED.get(encoder, (encoder, None))
    config = config_of(spec, None)
    config.vocab_size = published or (entries if spec.startswith("random:") else config.vocab_size)
    with torch.device("meta"):
        model = encoder_from_config(config)
    return Shape(matrix_parameters(model), sum(p.numel() for p in model.parameters()), config.hidden_size)


def entries_of(config: Config) -> int:
    """Of the tokenizer that goes with fresh encoders."""
    spec = (config.model.tokenizer or "").replace(" ", "")
    if spec == "word":
        return WORDS.get(config.data.source, BERT_ENTRIES)
    found = re.fullmatch(r"wordpiece\(vocab=(\d+)\)", spec)
    return int(found[1]) if found else BERT_ENTRIES


def _head_parameters(task: Task, hidden: int, pair_head: str | None) -> int:
    with torch.device("meta"):
        head = make_head(task, hidden, head_dropout=0.0, san_steps=1, san_step_dropout=0.0, pair_head=pair_head)
    return sum(p.numel() for p in head.parameters())


def encoder_of(job: Job) -> str:
    return str(job.spec["encoder"] if "encoder" in job.spec else job.spec["member"]["encoder"])


def work_of(job: Job, config: Config, tasks: Mapping[str, Task], rows_of: Mapping[str, Mapping[str, Rows]]) -> Work:
    """Nothing for a job that trains no model."""
    spec = job.spec
    if job.stage not in TRAINING_STAGES or "imported" in spec:
        return Work()
    entries = entries_of(config)
    shape = shape_of(encoder_of(job), entries)
    if job.stage == "pretrain":
        read = config.pretrain.epochs * _pretrain_tokens(config)
        steps = round(read / config.pretrain.max_length / config.pretrain.batch_size)
        generator = 1.3 if config.pretrain.objective == "rtd" else 1.0
        stays = 4.0 * shape.all_parameters
        return Work(steps, read, 0, 0, shape.parameters, stays, 3 * stays, generator)
    train, member = TrainConfig(**spec["train"]), spec.get("member", {})
    rows = {name: rows_of[encoder_of(job)][name] for name in ([spec["task"]] if "task" in spec else tasks)}
    splits: tuple[str, ...] = EVALUATION_SPLITS
    trained = dict.fromkeys(rows, 1.0)  # shares of the training rows
    read_again = dict.fromkeys(rows, 1.0)
    if "fold" in spec:
        splits = ("train",) if "task" in spec else ()
        part = 1 / spec["n_folds"]
        trained |= dict.fromkeys(set(rows) & set(spec.get("held_out_tasks", rows)), 1 - part)
        read_again = dict.fromkeys(rows, part)
    elif job.stage == "finetune":
        splits = ("train", *EVALUATION_SPLITS)  # the targets are made of that
    if "task" not in spec and member.get("bagging") is not None:
        trained = {name: share * member["bagging"] for name, share in trained.items()}
    n_rows = {name: max(1, round(trained[name] * rows[name].n["train"])) for name in rows}
    n_tokens = {name: trained[name] * rows[name].tokens["train"] for name in rows}
    steps_of = {name: -(-n_rows[name] // train.batch_size) for name in rows}
    if train.token_budget is not None:
        steps_of = {name: max(n, -(-int(n_tokens[name]) // train.token_budget)) for name, n in steps_of.items()}
    tokens = 0.0
    for epoch in range(train.epochs):
        seen = steps_a_task(steps_of, 1.0 if train.sampling == "proportional" else sampling_power(train, epoch))
        tokens += sum(n_tokens[name] * (seen[name] / steps_of[name]) for name in rows)
    evaluations = train.epochs // train.eval_every_epochs if train.eval_every_epochs else 0
    evaluated = evaluations * sum(of.tokens.get("selection", 0.0) for of in rows.values())
    passes = max(1, member.get("mc_passes", 0))
    predicted = passes * sum(read_again[name] * rows[name].tokens.get(split, 0.0) for name in rows for split in splits)
    predicted_rows = {name: sum(rows[name].n.get(split, 0) for split in splits) * read_again[name] for name in rows}
    heads = sum(_head_parameters(tasks[name], shape.hidden, member.get("head")) for name in rows)
    weights = 4.0 * (shape.all_parameters + heads)
    written = dynamics = 0.0
    for name in rows:
        row = ROW_BYTES + NUMBER_BYTES * tasks[name].n_outputs
        written += FILE_BYTES * bool(splits) + row * predicted_rows[name]
        if train.dynamics:
            written += FILE_BYTES + row * train.epochs * n_rows[name]
            dynamics += 4.0 * train.epochs * n_rows[name] * tasks[name].n_outputs
    kept = weights + ENTRY_BYTES * entries + written
    steps = train.epochs * sum(steps_of.values())
    # A checkpoint has the weights, both moments and the dynamics so far.
    return Work(steps, tokens, evaluated, predicted, shape.parameters, kept, 3 * weights + dynamics)


def _pretrain_tokens(config: Config) -> float:
    """Tokens of one pass over the text: of a file from its size, as the text itself may be gigabytes."""
    if config.pretrain.text is None:
        sample = unlabelled_text(200, seed=config.data.seed)
        return config.pretrain.sentences * sum(len(line.split()) for line in sample) / len(sample)
    path = Path(config.pretrain.text)
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    return PIECES_A_WORD * sum(file.stat().st_size for file in files) / BYTES_A_WORD
