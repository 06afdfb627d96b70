"""The configuration of a run: one frozen model per stage, what must hold between them, and digests.

Presets and overrides are in core/presets. The resolved config is written into the run, and each job's own part of it
goes into that job's key (core/plan), so that changing `distill.alpha` redoes the students and nothing else.

Not here: any file of data or model; only `core/plan`, `core/pipeline` and `core/stages` see the whole config.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.tasks import SUITE, Task, find_task, load_tasks_yaml

GLUE_TEACHERS = ("mnli", "qqp", "rte", "qnli")  # PAPER, step 3
NEEDS_TEACHER = {"hard": False, "kd": True}  # student variant -> does it read targets/?


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class DataConfig(Section):
    source: Literal["suite", "glue", "hub", "files"] = Field("suite", description="where the examples come from")
    tasks: tuple[str, ...] = Field(tuple(SUITE), min_length=1, description="tasks trained together")
    teacher_tasks: tuple[str, ...] | None = Field(None, description="tasks with teachers; none: as the task rows say")
    glue_dir: str | None = Field(None, description="folder in GLUE's layout, for source=glue")
    hub_dir: str | None = Field(None, description="local mirror in the hub's layout, for source=hub without a network")
    tasks_file: str | None = Field(None, description="YAML of own tasks, for source=files")
    seed: int = Field(0, ge=0, description="draws the suite, the selection split and the row limits")
    n_train: int = Field(4000, ge=16, description="suite: training rows a task, selection split included")
    n_dev: int = Field(1000, ge=8, description="suite: development examples a task")
    n_test: int = Field(2000, ge=8, description="suite: test examples a task")
    selection: float = Field(0.1, gt=0, description="carved from train for selecting: share (< 1) or rows (>= 1)")
    max_train: int | None = Field(None, ge=1, description="at most this many training rows a task")
    max_eval: int | None = Field(None, ge=1, description="at most this many rows of each other split of a task")
    empty_text: Literal["error", "drop"] = Field("error", description="rows with an empty text")
    keep_unlabelled: bool = Field(False, description="predict splits without labels too (GLUE's test sets)")


class ModelConfig(Section):
    tokenizer: str | None = Field(None, description="hub id, folder, `word` or `wordpiece(vocab=N)`; none: encoder's")
    max_length: int = Field(128, ge=8, le=8192, description="tokens of a sequence, special tokens included")
    head_dropout: float = Field(0.1, ge=0, lt=1, description="dropout of a task layer without a value in its row")
    san_steps: int = Field(5, ge=1, description="K, reasoning steps of the SAN head")
    san_step_dropout: float = Field(0.1, ge=0, lt=1, description="stochastic prediction dropout of whole SAN steps")


class TrainConfig(Section):
    epochs: int = Field(5, ge=1, description="passes over the training split")
    lr: float = Field(5e-5, gt=0, description="peak learning rate")
    batch_size: int = Field(32, ge=1, description="examples a batch, at most")
    token_budget: int | None = Field(None, ge=32, description="tokens a batch, padding included, at most")
    optimizer: Literal["adamax", "adamw"] = Field("adamw", description="Adamax is the paper's; AdamW runs fused")
    warmup_frac: float = Field(0.1, ge=0, le=1, description="share of the steps with a rising learning rate")
    weight_decay: float = Field(0.01, ge=0, description="not on biases and LayerNorm")
    clip_norm: float = Field(1.0, gt=0, description="global gradient norm")
    eval_every_epochs: int = Field(1, ge=0, description="score the selection split while training; 0: never")
    dynamics: bool = Field(True, description="store each epoch's training logits (data maps)")


class MultitaskConfig(TrainConfig):
    encoders: tuple[str, ...] = Field(
        ("random:bert(layers=2,hidden=64,heads=2)",), min_length=1, description="hub ids, folders or `random:...`"
    )
    dropouts: tuple[float, ...] = Field((0.1, 0.2, 0.3), min_length=1, description="dropout of the shared layers")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="members = encoders x seeds x dropouts")

    @property
    def members(self) -> dict[str, dict[str, Any]]:
        """The M members by name: `mt-1` ... `mt-M`."""
        grid = [
            {"encoder": encoder, "seed": seed, "dropout": dropout}
            for encoder in self.encoders
            for seed in self.seeds
            for dropout in self.dropouts
        ]
        return {f"mt-{i}": member for i, member in enumerate(grid, start=1)}


class SelectConfig(Section):
    top_k: int = Field(3, ge=1, description="members that become teachers")
    rule: Literal["mean_teacher_tasks", "paper"] = Field("mean_teacher_tasks", description="what ranks the members")
    split: Literal["selection", "dev"] = Field("selection", description="`dev` is the paper's leaky choice")


class FinetuneConfig(TrainConfig):
    epochs: int = Field(3, ge=1, description="passes over the training split of the teacher's task")
    seed: int = Field(0, ge=0, description="fresh heads and batch order of the teachers")


class EnsembleConfig(Section):
    strategy: Literal["mean_probs", "geometric_mean", "mean_logits"] = Field("mean_probs", description="makes Q")


class DistillConfig(TrainConfig):
    variants: tuple[Literal["hard", "kd"], ...] = Field(
        ("hard", "kd"), min_length=1, description="students side by side: on gold alone, and taught"
    )
    seeds: int = Field(3, ge=1, description="S students of each variant, seeds 0 ... S-1")
    loss: Literal["soft_ce", "kl"] = Field("soft_ce", description="what `kd` minimises on tasks with a teacher")
    alpha: float = Field(0.5, ge=0, le=1, description="weight of the soft term; the paper's average is 0.5")
    temperature: float = Field(1.0, gt=0, description="softens teacher and student, for loss=kl")
    encoder: str | None = Field(None, description="none: the first encoder of the members")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the student's shared layers")


class EvaluateConfig(Section):
    split: Literal["dev", "test"] = Field("test", description="the split that is reported")
    resamples: int = Field(1000, ge=100, description="bootstrap resamples of the examples")


class RuntimeConfig(Section):
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="autocast type in training and passes")
    workers: int = Field(0, ge=0, description="jobs side by side; 0: one a core on the CPU, one on an accelerator")
    threads: int = Field(1, ge=1, description="CPU threads a job; results are bitwise equal for equal threads")
    checkpoint_seconds: float = Field(60.0, ge=0, description="time between checkpoints of a training")
    keep_models: bool = Field(True, description="keep weights after the run; everything else stays readable")


class Config(Section):
    preset: str = Field("demo", description="the preset that this config started from")
    seed: int = Field(0, ge=0, description="master seed of every named stream")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    multitask: MultitaskConfig = MultitaskConfig()
    select: SelectConfig = SelectConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    distill: DistillConfig = DistillConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        n_members = len(self.multitask.members)
        if self.select.top_k > n_members:
            raise ValueError(
                f"select.top_k is {self.select.top_k}, but there are {n_members} members; lower it or add "
                "multitask.encoders, .seeds or .dropouts"
            )
        for dropout in self.multitask.dropouts:
            if not 0 <= dropout < 1:
                raise ValueError(f"multitask.dropouts has {dropout}, expected values in [0, 1)")
        for name, values in (
            ("data.tasks", self.data.tasks),
            ("data.teacher_tasks", self.data.teacher_tasks or ()),
            ("multitask.encoders", self.multitask.encoders),
            ("multitask.seeds", self.multitask.seeds),
            ("multitask.dropouts", self.multitask.dropouts),
            ("distill.variants", self.distill.variants),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"{name} repeats an entry: {list(values)}")
        for name in self.data.teacher_tasks or ():
            if name not in self.data.tasks:
                raise ValueError(
                    f"data.teacher_tasks has '{name}', which is not in data.tasks ({', '.join(self.data.tasks)})"
                )
        if self.distill.loss == "soft_ce" and self.distill.temperature != 1:
            raise ValueError(
                f"distill.temperature is {self.distill.temperature}, but soft_ce is defined at temperature 1 "
                "(the paper's loss); use distill.loss=kl for a tempered one"
            )
        if self.data.source == "glue" and self.data.glue_dir is None:
            raise ValueError("data.source is 'glue' but data.glue_dir is not set; give --set data.glue_dir=FOLDER")
        if self.data.source == "files" and self.data.tasks_file is None:
            raise ValueError("data.source is 'files' but data.tasks_file is not set; give --tasks my_tasks.yaml")
        return self

    @property
    def student_encoder(self) -> str:
        return self.distill.encoder or self.multitask.encoders[0]

    @property
    def encoders(self) -> tuple[str, ...]:
        """Every encoder of the run, once, in order of appearance."""
        return tuple(dict.fromkeys((*self.multitask.encoders, self.student_encoder)))


def resolve_tasks(config: Config) -> dict[str, Task]:
    """The task rows of the run, in the config's order, with `has_teacher` as the config has it."""
    known: dict[str, Task] | None = None
    if config.data.tasks_file is not None:
        known = load_tasks_yaml(Path(config.data.tasks_file))
    tasks = {name: find_task(name, known) for name in config.data.tasks}
    if config.data.source == "suite":
        for name in tasks:
            find_task(name, SUITE)
    teachers = config.data.teacher_tasks
    if teachers is not None:
        tasks = {name: replace(task, has_teacher=name in teachers) for name, task in tasks.items()}
    for name, task in tasks.items():
        if task.has_teacher and task.kind == "regression":
            raise ValueError(
                f"task '{name}' is a regression and has a teacher, but soft targets are class probabilities; leave it "
                "out of data.teacher_tasks (it is then trained on gold alone)"
            )
    if not any(task.has_teacher for task in tasks.values()):
        raise ValueError(
            f"none of the tasks {', '.join(tasks)} has a teacher, so there is nothing to distil; name one in "
            "data.teacher_tasks, or give its row has_teacher: true"
        )
    return tasks


def stored_tasks(manifest: dict[str, Any]) -> dict[str, Task]:
    """The task rows as `run.json` has them, so that a run stays readable when the YAML of its own tasks has changed."""
    return {
        name: Task(**{key: _tuples(value) for key, value in row.items()}) for name, row in manifest["tasks"].items()
    }


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """`section.field: old -> new` for every field that differs, for messages."""
    lines: list[str] = []
    for key in dict.fromkeys((*old, *new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{key}.")
        elif json.dumps(a, default=list) != json.dumps(b, default=list):
            lines.append(f"{prefix}{key}: {a} -> {b}")
    return lines


def digest(value: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def validated(values: dict[str, Any]) -> Config:
    """A `Config` of plain values, such as a run stored; a `ValueError` that names every field that is off."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            got = "" if problem["type"] == "value_error" else f" (got {problem['input']!r})"
            lines.append(f"{where}: {message}{got}" if where else message)
        raise ValueError("; ".join(lines)) from None
