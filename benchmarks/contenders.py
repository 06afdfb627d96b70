"""The ways to train that `benchmarks.training` compares, on the same rows, encoder, optimiser and threads.

 - `darkroom`: this project's batches, encoder and step; one linear head a task, batches of one task;
 - `darkroom_compiled`, on CUDA alone: the same with `runtime.compile`;
 - `trainer`: `transformers.Trainer` as it comes: float32, shuffled rows, padded to the batch's longest, SDPA;
 - `trainer_same`, where `darkroom` runs in another number type: the same in that type;
 - `trainer_grouped`: in `darkroom`'s type, with its sampler that groups rows by length;
 - `reference`: a plain loop as MT-DNN's code has it: one task a batch, shuffled, padded to the batch's longest, with a
   look at the loss after every step.
All have AdamW fused (Trainer's default too), clipping at 1, a linear schedule, dropout 0.1, as many rows a batch and
heads that read [CLS]. Rows are random token ids of GLUE's lengths: what they say does not matter for speed.

Each contender is a process of its own, so that its peak memory is its own; the parent lets one run at a time.

Shapes: N rows, B rows of a batch, L tokens of the longest, C classes.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from core.batching import TaskData, epoch_steps, make_batch, on_device
from core.device import Device
from core.graphs import bucketed
from core.model import make_model
from core.optim import (
    clear_gradients,
    clipped_step,
    kept_gradients,
    learning_rate,
    make_optimizer,
    set_learning_rate,
)
from core.sections import TrainConfig
from core.speed import wait
from core.tasks import Task
from core.tokens import Tokens

# Median tokens of a row with bert-base-uncased's word pieces, spread (of the logarithm), and training rows.
GLUE_LENGTHS = {
    "cola": (11, 0.4, 8_551),
    "sst2": (13, 0.7, 67_349),
    "qqp": (30, 0.35, 363_846),
    "stsb": (30, 0.45, 5_749),
    "mnli": (40, 0.45, 392_702),
    "qnli": (50, 0.4, 104_743),
    "mrpc": (53, 0.25, 3_668),
    "rte": (70, 0.6, 2_490),
    "wnli": (37, 0.35, 635),
}
SHORTEST, LONGEST = 5, 256
VOCABULARY, N_CLASSES, DROPOUT = 30_522, 3, 0.1


class Shape(NamedTuple):
    """An encoder's shape, the steps of one round, and whether four of it are too much for the memory at once."""

    layers: int
    hidden: int
    heads: int
    steps: int
    alone: bool = False

    @property
    def spec(self) -> str:
        return f"random:bert(layers={self.layers},hidden={self.hidden},heads={self.heads},positions={2 * LONGEST})"


def clock() -> float:
    """Seconds: of the process on one CPU thread, which work beside it does not change; else of the wall."""
    return (
        time.process_time() if torch.get_num_threads() == 1 and not torch.cuda.is_initialized() else time.perf_counter()
    )


class Vocabulary:
    """What a model needs to know of a tokenizer."""

    pad_token_id = 0

    def __len__(self) -> int:
        return VOCABULARY


def glue_lengths(n_rows: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Tokens of each row, by task: GLUE's shares of rows (at least a batch a task) and its lengths, log-normal."""
    rng = np.random.default_rng(seed)
    total = sum(n for *_, n in GLUE_LENGTHS.values())
    return {
        task: np.exp(rng.normal(np.log(median), spread, max(32, round(n_rows * n / total))))
        .round()
        .clip(SHORTEST, LONGEST)
        .astype(np.int64)
        for task, (median, spread, n) in GLUE_LENGTHS.items()
    }


def task_data(lengths: dict[str, np.ndarray], device: torch.device) -> dict[str, TaskData]:
    """Rows of random tokens, half of each a second text."""
    datas = {}
    for i, (name, sizes) in enumerate(lengths.items()):
        rng = np.random.default_rng(i)
        tokens = Tokens(
            rng.integers(5, VOCABULARY, int(sizes.sum())).astype(np.int32),
            np.concatenate([[0], np.cumsum(sizes)]),
            (sizes // 2 + 1).astype(np.int32),
        )
        task = Task(name=name, labels=tuple(f"class {c}" for c in range(N_CLASSES)))
        gold = torch.from_numpy(rng.integers(0, N_CLASSES, len(sizes)))
        ids, splits = np.arange(len(sizes)).astype(str), np.full(len(sizes), "train", dtype=object)
        datas[name] = on_device(task, tokens, ids, splits, gold, device)
    return datas


# ---- ours ----------------------------------------------------------------------------------------------------------
def darkroom(shape: Shape, datas: dict[str, TaskData], device: Device, train: TrainConfig) -> Callable[[int], Any]:
    model = make_model(
        shape.spec,
        {name: data.task for name, data in datas.items()},
        tokenizer=Vocabulary(),
        dropout=DROPOUT,
        head_settings={"head_dropout": DROPOUT, "san_steps": 1, "san_step_dropout": 0.0},
    )
    model.to(device.device).train()
    optimizer, kept = make_optimizer(model, train), kept_gradients(model)
    endless = (step for e in count() for step in epoch_steps(datas, train, seed=0, names=("bench",), epoch=e))

    def run(n_steps: int) -> tuple[int, float]:
        n_tokens, started = 0, clock()
        for i in range(n_steps):
            step = next(endless)
            batch = make_batch(datas[step.task], step.rows)
            n_tokens += len(batch.ids_T)
            if device.compiles:
                batch = bucketed(batch)
            with device.autocast():
                logits_BC = model(step.task, batch).float()
            F.cross_entropy(logits_BC, datas[step.task].gold[torch.from_numpy(step.rows)]).backward()
            set_learning_rate(optimizer, learning_rate((i + 0.5) / n_steps, train))
            clipped_step(optimizer, train.clip_norm)
            clear_gradients(optimizer, kept)
        wait(device.device)
        return n_tokens, clock() - started

    return run


# ---- theirs --------------------------------------------------------------------------------------------------------
class PlainModel(nn.Module):
    """The same encoder as transformers makes it, and a linear head on [CLS]."""

    def __init__(self, shape: Shape, *, dropout: float = DROPOUT):
        super().__init__()
        sizes = {"num_hidden_layers": shape.layers, "hidden_size": shape.hidden, "num_attention_heads": shape.heads}
        self.config = AutoConfig.for_model(
            "bert", **sizes, intermediate_size=4 * shape.hidden, max_position_embeddings=2 * LONGEST,
            vocab_size=VOCABULARY, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        )  # fmt: skip
        self.encoder = AutoModel.from_config(self.config, add_pooling_layer=False)
        self.dropout, self.out = nn.Dropout(dropout), nn.Linear(shape.hidden, N_CLASSES)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        hidden_BLH = self.encoder(input_ids, attention_mask, token_type_ids).last_hidden_state
        logits_BC = self.out(self.dropout(hidden_BLH[:, 0]))
        return {"loss": F.cross_entropy(logits_BC.float(), labels), "logits": logits_BC}


def plain_rows(datas: dict[str, TaskData]) -> dict[str, list[dict[str, Any]]]:
    """Rows as Trainer has them, by task."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, data in datas.items():
        ids, starts, gold = data.ids.cpu(), data.starts.tolist(), data.gold.tolist()
        b_starts = data.b_starts.tolist()
        rows[name] = [
            {
                "input_ids": ids[start : start + size].long(),
                "token_type_ids": torch.tensor([0] * b_start + [1] * (size - b_start)),
                "labels": label,
                "length": int(size),
            }
            for start, size, b_start, label in zip(starts, data.sizes.tolist(), b_starts, gold, strict=True)
        ]
    return rows


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Padded to the longest of the batch."""
    pad = torch.nn.utils.rnn.pad_sequence
    columns = {name: [row[name] for row in rows] for name in ("input_ids", "token_type_ids")}
    mask = pad([torch.ones_like(ids) for ids in columns["input_ids"]], batch_first=True)
    padded = {name: pad(values, batch_first=True) for name, values in columns.items()}
    return {**padded, "attention_mask": mask, "labels": torch.tensor([row["labels"] for row in rows])}


class StepClock(TrainerCallback):
    """Sums the time between steps, the first left out: making the loader, which Trainer does once a training."""

    def __init__(self, device: torch.device):
        self.device, self.started, self.seconds = device, 0.0, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step in (1, state.max_steps):
            wait(self.device)
        if state.global_step == 1:
            self.started = clock()
        self.seconds = clock() - self.started


class AnyOrderTrainer(Trainer):
    """Trainer with the batches of its own sampler in random order: the one that groups by length begins each window of
    50 batches with the longest, and a few steps would measure these alone."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        order, size = list(super()._get_train_sampler(train_dataset)), self.args.per_device_train_batch_size
        starts = np.random.default_rng(self.args.data_seed).permutation(range(0, len(order), size))
        return [row for start in starts for row in order[start : start + size]]


def trainer(
    shape: Shape, datas: dict[str, TaskData], device: Device, train: TrainConfig, *, grouped: bool, folder: Path
) -> Callable[[int], Any]:
    rows = [row for of_task in plain_rows(datas).values() for row in of_task]
    model = PlainModel(shape).to(device.device)
    rounds = count()

    def run(n_steps: int) -> tuple[int, float]:
        timer, read = StepClock(device.device), list[int]()

        def counted(batch: list[dict[str, Any]]) -> dict[str, Tensor]:
            read.append(sum(row["length"] for row in batch))
            return collate(batch)

        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=n_steps + 1,
            data_seed=next(rounds),
            per_device_train_batch_size=train.batch_size,
            learning_rate=train.lr,
            weight_decay=train.weight_decay,
            use_cpu=device.device.type == "cpu",
            bf16=device.dtype == torch.bfloat16,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
            remove_unused_columns=False,
            dataloader_pin_memory=device.device.type == "cuda",
            train_sampling_strategy="group_by_length" if grouped else "random",
        )
        sink = AnyOrderTrainer(model, arguments, counted, train_dataset=rows, callbacks=[timer])  # type: ignore[arg-type]
        sink.remove_callback(PrinterCallback)
        sink.train()
        return sum(read[1 : n_steps + 1]), timer.seconds  # the loader reads a batch ahead, which is not trained on

    return run


def reference(shape: Shape, datas: dict[str, TaskData], device: Device, train: TrainConfig) -> Callable[[int], Any]:
    rows, model = plain_rows(datas), PlainModel(shape).to(device.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=train.lr, weight_decay=train.weight_decay, fused=True)
    rng = np.random.default_rng(0)

    def endless() -> Iterator[list[dict[str, Any]]]:
        while True:
            batches = []
            for of_task in rows.values():
                order = rng.permutation(len(of_task))
                cuts = range(0, len(order), train.batch_size)
                batches += [[of_task[i] for i in order[start : start + train.batch_size]] for start in cuts]
            yield from (batches[i] for i in rng.permutation(len(batches)))

    batches = endless()

    def run(n_steps: int) -> tuple[int, float]:
        n_tokens, started = 0, clock()
        for _ in range(n_steps):
            of_batch = next(batches)
            n_tokens += sum(row["length"] for row in of_batch)
            inputs = {name: value.to(device.device) for name, value in collate(of_batch).items()}
            with device.autocast():
                loss = model(**inputs)["loss"]
            loss.item()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        wait(device.device)
        return n_tokens, clock() - started

    return run


CONTENDERS: dict[str, Callable[..., Callable[[int], tuple[int, float]]]] = {
    "trainer": lambda shape, datas, device, train, folder: trainer(
        shape, datas, device._replace(dtype=torch.float32), train, grouped=False, folder=folder
    ),
    "trainer_same": lambda *arguments, folder: trainer(*arguments, grouped=False, folder=folder),
    "trainer_grouped": lambda *arguments, folder: trainer(*arguments, grouped=True, folder=folder),
    "reference": lambda *arguments, folder: reference(*arguments),
    "darkroom": lambda *arguments, folder: darkroom(*arguments),
    "darkroom_compiled": lambda shape, datas, device, train, folder: darkroom(
        shape, datas, device._replace(compiles=True), train
    ),
}


def contenders_on(device: Device) -> list[str]:
    left_out = {"darkroom_compiled"} if device.device.type != "cuda" else set()
    if device.dtype == torch.float32:
        left_out.add("trainer_same")
    return [name for name in CONTENDERS if name not in left_out]


# ---- a contender's process -----------------------------------------------------------------------------------------
def serve(
    pipe: Any, name: str, shape: Shape, n_rows: int, device: Device, threads: int, batch_size: int, folder: str
) -> None:
    """Builds the contender, then answers each number of steps with (tokens, seconds, peak memory in bytes)."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    train = TrainConfig(batch_size=batch_size, lr=5e-5)
    datas = task_data(glue_lengths(n_rows), device.device)
    run = CONTENDERS[name](shape, datas, device, train, folder=Path(folder))
    pipe.send("ready")
    while (n_steps := pipe.recv()) is not None:
        pipe.send((*run(n_steps), _peak_memory(device.device)))


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
