"""What tests of several files share: finished runs of tiny configs, made once, and the calls that make and compare
runs. Tests that change a run work on a copy (`copied`, `copy_of`); nothing here needs a network.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rich.console import Console

from core.config import Config
from core.pipeline import run_pipeline
from core.plan import STAGES
from core.presets import load_config
from core.progress import Progress
from core.sections import NEEDS_TEACHER
from core.store import Run

# The smoke preset, smaller: six tasks, M = 3, K = 2, four teacher tasks, two seeds. One process, so that no worker
# has to start; results do not depend on that (test_workers_give_the_same_bytes).
TINY = (
    "data.n_train=160",
    "data.n_dev=40",
    "data.n_test=48",
    "data.selection=40",
    "multitask.dropouts=[0.1,0.2,0.3]",
    "distill.seeds=2",
    "evaluate.resamples=100",
    "runtime.workers=1",
    "runtime.device=cpu",  # bytes are compared; on a GPU sums are not in one order
)

# The stages that have jobs in a run of `tiny()`: nothing is pre-trained there.
TINY_STAGES = [stage for stage in STAGES if stage != "pretrain"]

# Every option side by side, on two tasks with teachers and one without: bagged, MC and snapshot members, all strategies
# and soups, all variants, a second generation, students fine-tuned.
EVERYTHING = (
    *("data.tasks=[sentiment,nli,similarity]", "multitask.epochs=2", "select.top_k=3"),
    "multitask.pool=[{dropout: 0.2}, {bagging: 0.5}, {seed: 1, mc_passes: 3}, {seed: 2, snapshots: 2}]",
    "ensemble.compare=[geometric_mean,mean_logits,weighted,calibrated,greedy,stacking]",
    "ensemble.soups=[uniform,greedy]",
    *(f"distill.variants=[{','.join(NEEDS_TEACHER)}]", "distill.generations=2", "distill.finetuned=[kd]"),
)
# Targets from teachers that have not seen their rows, on classes and on values, with a setting of each task's own.
FOLDED = (
    *("data.tasks=[nli,similarity]", "data.teacher_tasks=[nli,similarity]", "multitask.dropouts=[0.1,0.2]"),
    *("ensemble.targets=out_of_fold", "distill.variants=[hard,kd,truth]", "distill.seeds=1"),
    *("distill.regression_loss=gaussian_nll", "distill.per_task={nli: {alpha: 0.2}}"),
)

# Small batches: a job of a hundred steps has several looks, and a checkpoint at each of them.
LONG = (
    *("data.tasks=[sentiment,nli,similarity]", "data.teacher_tasks=[nli]", "data.n_train=320"),
    *("multitask.dropouts=[0.1,0.2]", "multitask.batch_size=8", "multitask.epochs=2"),
    *("finetune.batch_size=4", "finetune.epochs=3", "distill.batch_size=8", "distill.epochs=2", "distill.seeds=1"),
    "runtime.checkpoint_seconds=0",
)


@pytest.fixture(autouse=True)
def main_module() -> Iterator[None]:
    """Streamlit's script runner leaves its script in the place of `__main__`, and a process that is started later would
    run that script instead of pytest's."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


class Finished(NamedTuple):
    run: Run
    config: Config
    manifest: dict[str, Any]
    shown: str  # what the run printed


def tiny(*overrides: str) -> Config:
    return load_config("smoke", None, (*TINY, *overrides))


def go(run: Run, config: Config, progress: type[Progress] = Progress, **options: Any) -> Finished:
    """Brings `run` up to date, as `python -m core run` does; `options` are those of `run_pipeline`."""
    shown = io.StringIO()
    with progress(Console(file=shown, width=200)) as bars:
        manifest = run_pipeline(run, config, progress=bars, **options)
    return Finished(run, config, manifest, shown.getvalue())


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished run of `tiny()`. Read it, never write to it."""
    return go(Run(tmp_path_factory.mktemp("runs") / "smoke"), tiny())


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished run of `EVERYTHING`. Read it, never write to it."""
    return go(Run(tmp_path_factory.mktemp("runs") / "everything"), tiny(*EVERYTHING))


@pytest.fixture(scope="session")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished run of `FOLDED`. Read it, never write to it."""
    return go(Run(tmp_path_factory.mktemp("runs") / "folded"), tiny(*FOLDED))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of `LONG`; others are killed on their way to the same bytes. Read it, never write to it."""
    return go(Run(tmp_path_factory.mktemp("runs") / "undisturbed"), tiny(*LONG)).run


@pytest.fixture
def copied(smoke: Finished, tmp_path: Path) -> Run:
    """A copy of the finished run that a test may change."""
    return copy_of(smoke, tmp_path)


def copy_of(finished: Finished, folder: Path) -> Run:
    return Run(shutil.copytree(finished.run.path, folder / "run"))


class Training(NamedTuple):
    """What a job gave to the training loop. `weights` are those that it starts from, `generator` is torch's."""

    weights: dict[str, Any]
    generator: list[int]
    datas: dict[str, Any]
    loss_fn: Any
    options: dict[str, Any]  # train, seed, names, auxiliary


def trainings(run: Run, config: Config, stage: str, patch: pytest.MonkeyPatch) -> dict[str, Training]:
    """Redoes a stage of `run` with one step in the place of each training, 0.001 on every weight, and returns what each
    job gave to the loop."""
    import torch

    from core.speed import Speed

    seen: dict[str, Training] = {}

    def one_step(model: Any, datas: Any, loss_fn: Any, *, checkpoint: Path, **options: Any) -> tuple[Any, Speed]:
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        seen[checkpoint.parent.name] = Training(weights, torch.get_rng_state().tolist(), datas, loss_fn, options)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1e-3)
        model.eval()
        return {}, Speed()

    with patch.context() as patched:
        patched.setattr("core.stages.training.train_model", one_step)
        go(run, config, only_stage=stage)
    return seen


def weights_of(run: Run, model: str) -> dict[str, Any]:
    """A stored model's weights, by the names that they have in the model."""
    from safetensors.torch import load_file

    folder = run.model_dir(model)
    encoder, heads = load_file(folder / "encoder" / "model.safetensors"), load_file(folder / "heads.safetensors")
    named = {f"encoder.{name}": value for name, value in encoder.items()}
    return named | {f"heads.{name}": value for name, value in heads.items()}


def results(run: Run, *folders: str) -> dict[str, bytes]:
    """The bytes of every result file by its path in the run: all that a resumed or repeated run must reproduce.

    Not `run.json` and `log.jsonl` (they hold times) and not `models/` (compared where a test is about weights).
    """
    wanted = folders or ("examples", "predictions", "dynamics", "targets", "metrics.parquet", "selection.json")
    files = [file for name in wanted for file in ((run.path / name), *(run.path / name).rglob("*")) if file.is_file()]
    assert files
    return {str(file.relative_to(run.path)): file.read_bytes() for file in sorted(files)}


def log_lines(run: Run, **fields: Any) -> list[dict[str, Any]]:
    """Lines of `log.jsonl` that have all of `fields`."""
    lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if fields.items() <= line.items()]


def steps_of(run: Run, job: str) -> list[tuple[int, int]]:
    """(epoch, step) of every look of a job, in the order in which they were written."""
    lines = log_lines(run, event="progress", job=job)
    return [(line["epoch"], line["step"]) for line in lines if "step" in line]


def keys(manifest: dict[str, Any]) -> dict[str, str]:
    return {name: record["key"] for name, record in manifest["jobs"].items()}


def ran(run: Run, since: int = 0) -> list[str]:
    """Names of the jobs that were run to their end, in order, after the first `since` of them."""
    return [line["job"] for line in log_lines(run, event="done")][since:]


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    """Paths that are new, gone or different."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def models_of(paths: Iterable[str]) -> set[str]:
    """`predictions/mt-1/nli.parquet` -> `mt-1`."""
    return {Path(path).parts[1] for path in paths if path.startswith(("predictions/", "dynamics/"))}
