"""How this project's own cost grows: with rows, length, batch size and members; and the teachers' pass.

Shapes: N rows, L tokens a row, K members.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.contenders import Shape, Vocabulary, clock, darkroom, glue_lengths, task_data
from core.device import Device, resolve_device
from core.model import make_model
from core.predict import predict
from core.sections import TrainConfig
from core.speed import FORWARD_FLOPS, gemm_peak, matrix_parameters, wait

MEMBERS = 3
TOKENS_A_POINT = 20_000


def passes(shapes: dict[str, Shape], device_name: str, n_rows: int) -> dict[str, dict[str, float]]:
    """K members one after another over the rows of all tasks, by shape: the teachers' pass."""
    found = {}
    for name, shape in shapes.items():
        device = resolve_device(device_name, "auto", hidden=shape.hidden)
        # Rows for about as much work at each shape, and full batches at the smallest.
        n = max(256, round(n_rows * 2 * 128**2 / (shape.layers * shape.hidden**2)))
        datas = task_data(glue_lengths(min(n, n_rows)), device.device)
        seconds = [_pass(shape, datas, device) for _ in range(MEMBERS)]
        n_tokens = sum(int(data.sizes.sum()) for data in datas.values())
        speed = n_tokens / float(np.median(seconds))
        gemm_peak.cache_clear()
        n_parameters = matrix_parameters(_model(shape, datas))
        share = FORWARD_FLOPS * n_parameters * speed / gemm_peak(device.device, device.dtype, clock)
        found[name] = {"members": MEMBERS, "tokens": n_tokens, "tokens_per_second": speed, "gemm_share": share}
    return found


def _model(shape: Shape, datas: dict[str, Any]) -> Any:
    head = {"head_dropout": 0.0, "san_steps": 1, "san_step_dropout": 0.0}
    tasks = {name: data.task for name, data in datas.items()}
    return make_model(shape.spec, tasks, tokenizer=Vocabulary(), dropout=0.1, head_settings=head)


def _pass(shape: Shape, datas: dict[str, Any], device: Device) -> float:
    model = _model(shape, datas).to(device.device).eval()
    first = next(iter(datas.values()))
    predict(model, first, np.arange(min(32, len(first.splits))), device)  # warm
    started = clock()
    for data in datas.values():
        predict(model, data, np.arange(len(data.splits)), device)
    wait(device.device)
    return clock() - started


def scaling(shape: Shape, device: Device, n_rows: int) -> dict[str, list[tuple[float, float]]]:
    """(x, y) of each curve: seconds of an epoch by rows, real tokens a second by length and by batch size, seconds of
    the pass by members."""
    curves: dict[str, list[tuple[float, float]]] = {"rows": [], "length": [], "batch size": [], "members": []}
    for n in (n_rows // 16, n_rows // 8, n_rows // 4):
        datas = task_data(glue_lengths(n), device.device)
        n_steps = sum(-(-len(data.splits) // 32) for data in datas.values())
        _, seconds = darkroom(shape, datas, device, TrainConfig(batch_size=32))(n_steps)
        curves["rows"].append((sum(len(data.splits) for data in datas.values()), seconds))
    for length in (8, 16, 32, 64, 128, 256):
        curves["length"].append((length, _tokens_per_second(shape, device, length=length, batch_size=32)))
    for batch_size in (4, 8, 16, 32, 64, 128):
        curves["batch size"].append((batch_size, _tokens_per_second(shape, device, length=40, batch_size=batch_size)))
    datas = task_data(glue_lengths(n_rows // 8), device.device)
    seconds = 0.0
    for k in range(1, MEMBERS + 1):
        seconds += _pass(shape, datas, device)
        curves["members"].append((k, seconds))
    return curves


def _tokens_per_second(shape: Shape, device: Device, *, length: int, batch_size: int) -> float:
    datas = task_data({"one": np.full(8 * batch_size, length)}, device.device)
    run = darkroom(shape, datas, device, TrainConfig(batch_size=batch_size))
    run(2)
    n_tokens, seconds = run(max(3, min(40, TOKENS_A_POINT // (length * batch_size))))
    return n_tokens / seconds
