"""Presets, and how a YAML file and `--set section.field=value` override them.

A preset is a function that returns a `Config`. Overrides are applied in the order preset, file, `--set`; a key that
does not exist is refused with the nearest one that does.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from core.config import Config, validated
from core.sections import (
    GLUE_TEACHERS,
    NEEDS_TEACHER,
    DataConfig,
    DistillConfig,
    EvaluateConfig,
    FinetuneConfig,
    ModelConfig,
    MultitaskConfig,
    RuntimeConfig,
    SelectConfig,
)
from core.tasks import GLUE, load_tasks_yaml


# ---- presets -------------------------------------------------------------------------------------------------------
def _smoke() -> Config:
    """Proves the plumbing in about 20 seconds, not the effects."""
    tiny: dict[str, Any] = {"epochs": 1, "lr": 2e-3, "batch_size": 64}
    return Config(
        preset="smoke",
        data=DataConfig(n_train=300, n_dev=60, n_test=120, selection=60),
        model=ModelConfig(tokenizer="word", max_length=64, san_steps=2),
        multitask=MultitaskConfig(
            encoders=("random:bert(layers=1,hidden=32,heads=2)",), dropouts=(0.1, 0.2), seeds=(0,), **tiny
        ),
        select=SelectConfig(top_k=2),
        finetune=FinetuneConfig(**tiny),
        distill=DistillConfig(seeds=1, **tiny),
        evaluate=EvaluateConfig(resamples=200),
    )


def _demo() -> Config:
    """The whole method on the embedded suite in minutes on two cores."""
    # Chosen on development splits, see LOG.md for how and for what was seen of the test split before.
    recipe: dict[str, Any] = {"lr": 1.2e-3, "warmup_frac": 0.2, "batch_size": 32, "eval_every_epochs": 0}
    encoder = "random:bert(layers=2,hidden=64,heads=4,ffn=128)"
    return Config(
        preset="demo",
        data=DataConfig(n_train=4600, n_dev=500, n_test=2000, selection=400),
        model=ModelConfig(tokenizer="word", max_length=64, san_steps=2),
        # A model this small is under-fitted: more dropout keeps it from leaving the start (LOG.md, 25 November).
        multitask=MultitaskConfig(encoders=(encoder,), seeds=(0, 1), dropouts=(0.0, 0.05, 0.1), epochs=3, **recipe),
        finetune=FinetuneConfig(**{**recipe, "epochs": 3, "lr": 1e-3, "warmup_frac": 0.1}),
        distill=DistillConfig(seeds=3, epochs=3, dropout=0.0, **recipe),
        runtime=RuntimeConfig(keep_features=True),  # the dashboard refits heads on them
    )


def _controls() -> Config:
    """`demo` with every control beside `hard` and `kd`, every way of combining, and five student seeds."""
    demo = _demo()
    compare = ("geometric_mean", "mean_logits", "weighted", "calibrated", "greedy", "stacking")
    return _changed(
        demo,
        preset="controls",
        distill={"variants": tuple(NEEDS_TEACHER), "seeds": 5},
        ensemble={"compare": compare, "soups": ("uniform", "greedy")},
        runtime={"keep_features": False},  # of 35 students they would be larger than all else
    )


def _pool() -> Config:
    """`demo` with members made in every way, twelve in all, and the six best kept."""
    demo = _demo()
    members = [
        *({"dropout": dropout} for dropout in (0.1, 0.2, 0.3)),
        {"seed": 1},
        {"lr": 2 * demo.multitask.lr},
        {"head": "linear"},
        {"encoder": "random:bert(layers=3,hidden=48,heads=4,ffn=96)"},
        {"bagging": 1.0},
        {"seed": 2, "dropout": 0.1, "mc_passes": 8},  # it needs one, and the demo has none
        {"seed": 3, "snapshots": demo.multitask.epochs},
    ]
    return _changed(demo, preset="pool", multitask={"pool": members}, select={"top_k": 6})


def _changed(config: Config, *, preset: str, **sections: dict[str, Any]) -> Config:
    values = config.model_dump()
    return validated({**values, "preset": preset, **{name: {**values[name], **own} for name, own in sections.items()}})


def _glue_small() -> Config:
    """Real GLUE with a small encoder trained from nothing: minutes on a GPU, a cut of it on a CPU."""
    return Config(
        preset="glue-small",
        data=DataConfig(source="hub", tasks=tuple(GLUE), teacher_tasks=GLUE_TEACHERS, empty_text="drop"),
        model=ModelConfig(tokenizer="wordpiece(vocab=8192)", max_length=128, san_steps=2),
        multitask=MultitaskConfig(
            encoders=("random:bert(layers=2,hidden=128,heads=2)",), seeds=(0, 1), epochs=3, lr=5e-4, batch_size=32
        ),
        finetune=FinetuneConfig(epochs=2, lr=5e-4),
        distill=DistillConfig(seeds=3, epochs=3, lr=5e-4),
        evaluate=EvaluateConfig(split="dev"),
    )


def _glue_base() -> Config:
    """BERT-base, cased and uncased, on one GPU."""
    return Config(
        preset="glue-base",
        data=DataConfig(source="hub", tasks=tuple(GLUE), teacher_tasks=GLUE_TEACHERS, empty_text="drop"),
        model=ModelConfig(max_length=256),
        multitask=MultitaskConfig(
            encoders=("google-bert/bert-base-uncased", "google-bert/bert-base-cased"), epochs=3, lr=5e-5
        ),
        finetune=FinetuneConfig(epochs=2, lr=2e-5),
        distill=DistillConfig(seeds=3, epochs=3, lr=5e-5),
        evaluate=EvaluateConfig(split="dev"),
    )


def _paper() -> Config:
    """BERT-large with the paper's numbers (1904.09482, section 4): Adamax, 5e-5, 32, 5 epochs, 512 tokens."""
    paper: dict[str, Any] = {"epochs": 5, "lr": 5e-5, "batch_size": 32, "optimizer": "adamax"}
    return Config(
        preset="paper",
        data=DataConfig(source="hub", tasks=tuple(GLUE), teacher_tasks=GLUE_TEACHERS, empty_text="drop"),
        model=ModelConfig(max_length=512),
        multitask=MultitaskConfig(encoders=("google-bert/bert-large-uncased", "google-bert/bert-large-cased"), **paper),
        finetune=FinetuneConfig(**paper),
        distill=DistillConfig(seeds=1, **paper),
        evaluate=EvaluateConfig(split="dev"),
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "smoke": _smoke,
    "demo": _demo,
    "controls": _controls,
    "pool": _pool,
    "glue-small": _glue_small,
    "glue-base": _glue_base,
    "paper": _paper,
}


# ---- overrides -----------------------------------------------------------------------------------------------------
def load_config(
    preset: str | None = None,
    file: Path | None = None,
    overrides: Iterable[str] = (),
    tasks_file: Path | None = None,
    *,
    base: Config | None = None,
) -> Config:
    """Preset, then YAML file, then `section.field=value` overrides. Without a preset it starts from `base`, an existing
    run's config, else from `demo`. `data.glue_dir` alone implies `data.source=glue`; a tasks file implies
    `data.source=files`, all of its tasks and, where one of them has no test file, `evaluate.split=dev`. Raises
    `ValueError` for anything unknown."""
    changes: dict[str, Any] = {}
    if file is not None:
        text = _read_yaml(file)
        preset = preset or text.pop("preset", None)
        text.pop("preset", None)
        changes = text
    for item in overrides:
        path, equals, raw = item.partition("=")
        if not equals or not path:
            raise ValueError(f"--set got '{item}', expected section.field=value, for example distill.alpha=0.3")
        try:
            value = yaml.safe_load(raw)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {path}: {raw!r} is not a YAML value: {error}") from error
        # YAML 1.1 reads 1e-3 as a string; a number is meant.
        if isinstance(value, str):
            value = _number_or_text(value)
        node = changes
        if path == "preset":
            raise ValueError(f"--set preset={raw} would only rename the config; give --preset {raw}")
        *parents, leaf = path.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"--set {path}: '{parent}' is a value, not a section")
        node[leaf] = value
    name = preset or ("demo" if base is None else base.preset)
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ValueError(f"preset '{name}' is not known; {hint}presets: {', '.join(PRESETS)}")
    data = changes.setdefault("data", {})
    if isinstance(data, dict):
        if tasks_file is not None:
            data["tasks_file"] = str(tasks_file)
        if data.get("tasks_file"):
            data.setdefault("source", "files")
            files_dir = data.get("files_dir", None if base is None else base.data.files_dir)
            own = load_tasks_yaml(Path(data["tasks_file"]), None if files_dir is None else Path(str(files_dir)))
            data.setdefault("tasks", list(own))
            data.setdefault("teacher_tasks", None)
            reported = changes.setdefault("evaluate", {})
            if isinstance(reported, dict) and not all("test" in dict(task.files) for task in own.values()):
                reported.setdefault("split", "dev")
        elif data.get("glue_dir"):
            data.setdefault("source", "glue")
    start = base if base is not None and preset is None else PRESETS[name]()
    return validated(_merged(start.model_dump(), changes, Config, ""))


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"config file {file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file}: expected sections such as 'distill:', got {type(values).__name__}")
    return values


def _number_or_text(value: str) -> Any:
    try:
        return float(value)
    except ValueError:
        return value


def _merged(base: dict[str, Any], changes: dict[str, Any], model: type[BaseModel], prefix: str) -> dict[str, Any]:
    """`base` with `changes`, key by key, refusing a key that `model` does not have."""
    merged = dict(base)
    for key, value in changes.items():
        if key not in model.model_fields:
            near = difflib.get_close_matches(str(key), model.model_fields, n=1)
            hint = f"; did you mean '{prefix}{near[0]}'?" if near else ""
            raise ValueError(f"unknown config key '{prefix}{key}'{hint} Known: {', '.join(model.model_fields)}")
        field = model.model_fields[key].annotation
        if isinstance(field, type) and issubclass(field, BaseModel):
            if not isinstance(value, dict):
                raise ValueError(f"config section '{prefix}{key}' is {value!r}, expected fields such as {key}.seed=1")
            merged[key] = _merged(base[key], value, field, f"{prefix}{key}.")
        else:
            merged[key] = value
    return merged
