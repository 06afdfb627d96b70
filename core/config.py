"""The configuration of a run: the sections together, what must hold between them and the tasks, and digests.

Presets and overrides are in core/presets. The resolved config is written into the run, and each job's own part of it
goes into that job's key (core/plan), so that changing `distill.alpha` redoes the students and nothing else.

Not here: any file of data or model; only `core/plan`, `core/pipeline` and `core/stages` see the whole config.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from core.checks import check_ensemble, check_imported, check_members, check_sampling, check_used
from core.sections import (
    DEFAULT_TEMPERATURE,
    NATURAL_STRATEGY,
    REGRESSION_LOSSES,
    DataConfig,
    DistillConfig,
    EnsembleConfig,
    EvaluateConfig,
    FinetuneConfig,
    ModelConfig,
    MultitaskConfig,
    PretrainConfig,
    RuntimeConfig,
    Section,
    SelectConfig,
    TeachingConfig,
)
from core.tasks import SUITE, Task, find_task, load_tasks_yaml


class Teaching(NamedTuple):
    """What one task's student minimises against its teachers, every default filled in (core/losses)."""

    loss: str
    alpha: float
    alpha_end: float
    soft_warmup: float
    temperature: float
    dkd_target: float
    dkd_others: float
    jsd_beta: float


class Config(Section):
    """A run's whole configuration: a section a stage, the device, and what must hold between them. Raises `ValueError`
    for what does not go together."""

    preset: str = Field("demo", description="the preset that this config started from")
    seed: int = Field(0, ge=0, description="master seed of every named stream")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    multitask: MultitaskConfig = MultitaskConfig()
    select: SelectConfig = SelectConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    distill: DistillConfig = DistillConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, values in (
            ("data.tasks", self.data.tasks),
            ("data.teacher_tasks", self.data.teacher_tasks or ()),
            ("multitask.encoders", self.multitask.encoders),
            ("multitask.seeds", self.multitask.seeds),
            ("multitask.dropouts", self.multitask.dropouts),
            ("finetune.imported", self.finetune.imported),
            ("ensemble.compare", self.ensemble.compare),
            ("ensemble.soups", self.ensemble.soups),
            ("distill.variants", self.distill.variants),
            ("distill.finetuned", self.distill.finetuned),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"{name} repeats an entry: {list(values)}")
        check_members(self.multitask, self.select)
        check_ensemble(self.ensemble, self.multitask, self.evaluate)
        check_imported(self.finetune.imported, self.ensemble.targets)
        for name in self.data.teacher_tasks or ():
            if name not in self.data.tasks:
                raise ValueError(
                    f"data.teacher_tasks has '{name}', which is not in data.tasks ({', '.join(self.data.tasks)})"
                )
        for name, rows in self.data.n_train_of.items():
            if name not in self.data.tasks or rows < 16 or self.data.source != "suite":
                raise ValueError(
                    f"data.n_train_of has '{name}: {rows}', expected at least 16 rows of a task of the embedded suite "
                    f"in data.tasks ({', '.join(self.data.tasks)}); for other data use data.max_train"
                )
        if self.data.source == "glue" and self.data.glue_dir is None:
            raise ValueError("data.source is 'glue' but data.glue_dir is not set; give --set data.glue_dir=FOLDER")
        if self.data.source == "files" and self.data.tasks_file is None:
            raise ValueError("data.source is 'files' but data.tasks_file is not set; give --tasks my_tasks.yaml")
        if self.data.files_dir is not None and self.data.tasks_file is None:
            raise ValueError("data.files_dir is set, but only data.tasks_file uses it; give --tasks my_tasks.yaml too")
        if self.pretrain.objective != "none" and self.data.source != "suite" and self.pretrain.text is None:
            raise ValueError(
                f"pretrain.objective is '{self.pretrain.objective}', but there is no text: the embedded suite alone "
                "makes its own. Give --set pretrain.text=FILE"
            )
        for stage in ("pretrain", "multitask", "finetune", "distill"):
            check_sampling(stage, getattr(self, stage), self.data.tasks if stage in ("multitask", "distill") else ())
        check_used(self.distill, self.ensemble)
        if self.runtime.compile and self.distill.rtd_weight:
            raise ValueError(
                f"runtime.compile is true and distill.rtd_weight is {self.distill.rtd_weight:g}, but replaced-token "
                "detection reads batches as they are; use runtime.compile=false or distill.rtd_weight=0"
            )
        return self

    @property
    def student_encoder(self) -> str:
        return self.distill.encoder or self.multitask.encoders[0]

    @property
    def encoders(self) -> tuple[str, ...]:
        """Every encoder of the run, once, in order of appearance."""
        members = (member["encoder"] for member in self.multitask.members.values())
        return tuple(dict.fromkeys((*members, self.student_encoder)))

    @property
    def pretrained(self) -> dict[str, str]:
        """Job name by encoder, for the fresh encoders that are pre-trained in this run: `pt-1`, `pt-2`, ..."""
        if self.pretrain.objective == "none":
            return {}
        fresh = [encoder for encoder in self.encoders if encoder.startswith("random:")]
        return {encoder: f"pt-{i}" for i, encoder in enumerate(fresh, start=1)}

    def teaching(self, task: Task) -> Teaching:
        """How `task` is taught: `distill` with what `distill.per_task` says of it, and the losses' own defaults."""
        distill, own = self.distill, self.distill.per_task.get(task.name, TeachingConfig())
        loss: str = own.loss or (distill.regression_loss if task.kind == "regression" else distill.loss)
        # A value has no temperature: a run's own is refused in `resolve_tasks`.
        temperature = own.temperature or distill.temperature or DEFAULT_TEMPERATURE.get(loss, 1.0)
        alpha = distill.alpha if own.alpha is None else own.alpha
        # A regression beside annealed classes is annealed too: BAM mixes labels and predictions of both kinds.
        is_annealed = "annealed" in (loss, own.loss or distill.loss)
        schedule = distill.schedule or ("annealed" if is_annealed else "constant")
        ends = {"constant": (alpha, alpha), "linear": (alpha, distill.alpha_end), "annealed": (1.0, 0.0)}
        start, end = ends[schedule]
        assert end is not None  # check_used
        warmup = distill.soft_warmup if distill.soft_warmup is not None else (0.1 if loss == "dkd" else 0.0)
        return Teaching(loss, start, end, warmup, temperature, distill.dkd_target, distill.dkd_others, distill.jsd_beta)


# ---- with the tasks ------------------------------------------------------------------------------------------------
def resolve_tasks(config: Config) -> dict[str, Task]:
    """The task rows of the run, in the config's order, with `has_teacher` as the config has it. Raises `ValueError`
    for tasks that cannot be taught as the config says."""
    known: dict[str, Task] | None = None
    if config.data.tasks_file is not None:
        files_dir = config.data.files_dir
        known = load_tasks_yaml(Path(config.data.tasks_file), None if files_dir is None else Path(files_dir))
    tasks = {name: find_task(name, known) for name in config.data.tasks}
    if config.data.source == "suite":
        for name in tasks:
            find_task(name, SUITE)
    teachers = config.data.teacher_tasks
    if teachers is not None:
        tasks = {name: replace(task, has_teacher=name in teachers) for name, task in tasks.items()}
    if (head := config.model.similarity_head) is not None:
        scored = [name for name, task in tasks.items() if task.kind == "regression" and task.is_pair]
        if not scored:
            raise ValueError(
                f"model.similarity_head is '{head}', but none of the tasks {', '.join(tasks)} is a regression on "
                "pairs; leave it out"
            )
        tasks |= {name: replace(tasks[name], head=head) for name in scored}
    if not any(task.has_teacher for task in tasks.values()):
        raise ValueError(
            f"none of the tasks {', '.join(tasks)} has a teacher, so there is nothing to distil; name one in "
            "data.teacher_tasks, or give its row has_teacher: true"
        )
    for name in config.distill.per_task:
        if name not in tasks or not tasks[name].has_teacher:
            raise ValueError(
                f"distill.per_task has '{name}', expected a task with a teacher: "
                f"{', '.join(name for name, task in tasks.items() if task.has_teacher)}"
            )
    for task in tasks.values():
        if task.has_teacher:
            _check_teaching(config, task)
    return tasks


def _check_teaching(config: Config, task: Task) -> None:
    """Losses and variants that are not defined for the task: never a silent fall back to gold."""
    teaching, regressions = config.teaching(task), REGRESSION_LOSSES
    where = f"distill.per_task.{task.name}.loss" if task.name in config.distill.per_task else "distill.loss"
    if task.kind == "regression":
        if teaching.loss not in regressions:
            raise ValueError(f"{where} is '{teaching.loss}', task '{task.name}' is a regression: use {regressions}")
        if undefined := [
            v for v in config.distill.variants if v in ("label_smoothing", "cwtm", "dkpp", "adaptive_smoothing")
        ]:
            raise ValueError(
                f"distill.variants has {', '.join(undefined)}, which redistribute probability, but task '{task.name}' "
                "is a regression with a teacher and has none; leave it out of data.teacher_tasks, or these variants out"
            )
        if teaching.loss == "gaussian_nll" and config.distill.generations > 1:
            raise ValueError(
                f"task '{task.name}': gaussian_nll needs the ensemble's variance, and a student that teaches the next "
                "generation has none; use mse, or distill.generations=1"
            )
    elif teaching.loss in regressions:
        raise ValueError(f"{where} is '{teaching.loss}', which is for regressions; task '{task.name}' has classes")
    if teaching.temperature != 1 and teaching.loss not in DEFAULT_TEMPERATURE:
        raise ValueError(
            f"task '{task.name}': the temperature is {teaching.temperature:g}, but {teaching.loss} is defined at "
            f"temperature 1; use a tempered loss ({', '.join(DEFAULT_TEMPERATURE)}) or set "
            f"distill.per_task.{task.name}.temperature=1"
        )
    own = config.distill.per_task.get(task.name, TeachingConfig())
    if own.alpha is not None and (config.distill.schedule or teaching.loss) == "annealed":
        raise ValueError(
            f"distill.per_task.{task.name}.alpha is {own.alpha}, but the annealed schedule goes from 1 to 0 without "
            "it; leave it out, or set distill.schedule=constant"
        )


def warnings_of(config: Config, tasks: dict[str, Task]) -> list[str]:
    """What is allowed and yet not what it looks like, in sentences; printed at the start of a run and kept in it."""
    taught = [task for task in tasks.values() if task.has_teacher]
    two = [task.name for task in taught if task.kind != "regression" and task.n_outputs == 2]
    variants, found = config.distill.variants, []
    for variant in ("dkpp", "adaptive_smoothing"):
        if two and variant in variants:
            found.append(f"{variant} equals kd on tasks with two classes: {', '.join(two)} (one wrong class)")
    dkd = [name for name in two if config.teaching(tasks[name]).loss == "dkd"]
    if dkd:
        found.append(f"dkd has no term on the wrong classes where there are two: {', '.join(dkd)}")
    # The geometric mean and the mean of logits are one distribution (core/ensemble): no loss sees which of them it is.
    one_of = {"mean_probs": "arithmetic", "geometric_mean": "geometric", "mean_logits": "geometric"}
    for task in taught:
        teaching = config.teaching(task)
        # At another temperature the natural average is that of tempered probabilities, which is no strategy here.
        natural = NATURAL_STRATEGY.get(teaching.loss) if teaching.temperature == 1 else None
        strategy = one_of.get(config.ensemble.strategy)
        if "kd" in variants and natural is not None and strategy is not None and one_of[natural] != strategy:
            found.append(
                f"task '{task.name}': the teachers' average that belongs to {teaching.loss} is {natural}, "
                f"ensemble.strategy is {config.ensemble.strategy}"
            )
    return found


def stored_tasks(manifest: dict[str, Any]) -> dict[str, Task]:
    """The task rows as `run.json` has them, so that a run stays readable when the YAML of its own tasks has changed.

    Raises `ValueError` for a row under another name than its own: names become paths, and a row's own is checked."""
    tasks = {name: task_of_row(row) for name, row in manifest["tasks"].items()}
    for name, task in tasks.items():
        if name != task.name:
            raise ValueError(f"run.json has a row of task '{task.name}' under '{name}' in 'tasks'; restore the file")
    return tasks


def task_of_row(row: dict[str, Any]) -> Task:
    """A task's row from JSON, where tuples have become lists."""
    return Task(**{key: _tuples(value) for key, value in row.items()})


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
