"""Features, in stage 8: what a student's head reads, so that a head can be refitted without torch (core/refit).

Reads: `models/st-*/`. Writes: `features/<model>/<task>.npy`: last state of [CLS], float16 (N, H), a row for each row of
the task's examples, in the order of that file; classification tasks alone. Jobs of their own, made where
`runtime.keep_features` asks for them, so that asking later trains nothing again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.model import load_model
from core.predict import first_states
from core.stages.context import Context
from core.stages.training import job_data, job_device
from core.store import atomic


def run(context: Context) -> dict[str, Any]:
    (student,) = context.job.weights_of
    model, about = load_model(context.run.model_dir(student), context.tasks)
    device = job_device(context, about["encoder"])
    model.to(device.device)
    names = [name for name in about["tasks"] if context.tasks[name].kind == "classification"]
    for i, (task, data) in enumerate(job_data(context, about["encoder"], names, device).items()):
        states_NH = first_states(model, data, np.arange(len(data.example_ids)), device)
        with atomic(context.run.features_path(student, task)) as temporary, open(temporary, "wb") as file:
            np.save(file, states_NH.astype(np.float16), allow_pickle=False)
        context.report((i + 1) / len(names), None)
    return {"tasks": names}
