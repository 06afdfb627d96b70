"""The eight stages, one file each, in the order of the pipeline. A stage is a function: files in, files out.

    prepare -> pretrain -> multitask -> select -> finetune -> ensemble -> distill -> evaluate

Each is called once for each of its jobs (core/plan) with a `Context`, writes its files and returns what `run.json`
keeps of it. What is done, and what must be redone, is core/pipeline's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.stages import distill, ensemble, evaluate, finetune, multitask, prepare, pretrain, select
from core.stages.context import Context

RUN_STAGE: dict[str, Callable[[Context], dict[str, Any]]] = {
    "prepare": prepare.run,
    "pretrain": pretrain.run,
    "multitask": multitask.run,
    "select": select.run,
    "finetune": finetune.run,
    "ensemble": ensemble.run,
    "distill": distill.run,
    "evaluate": evaluate.run,
}
