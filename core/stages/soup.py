"""Soups, in stage 6: the weights of the chosen members averaged into one model (Wortsman et al. 2022, 2203.05482).

Reads: `models/mt-*/`. Writes: `models/soup-<kind>/`, `predictions/soup-<kind>/`, `soup-<kind>.json`: what went in, and
the scores beside those of the ensemble of the same members, which costs as many passes as it has members.

`uniform` averages all; `greedy` adds members, best first, while the mean score on `ensemble.fit_split` does not fall.
Averaging works as far as the members lie in one basin: they must share shape and start. Only the former can be checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from core.batching import TaskData
from core.device import Device
from core.ensemble import combine, combine_values
from core.metrics import evaluate
from core.model import MultiTaskModel, load_model, save_model
from core.predict import predict
from core.stages.context import EVALUATION_SPLITS, Context, read_gold
from core.stages.training import job_data, job_device, job_tokenizer
from core.store import Predictions, read_json, rows_of_ids, write_json


def run(context: Context) -> dict[str, Any]:
    spec, run, name = context.job.spec, context.run, context.job.name
    folders = {member: run.model_dir(member) for member in spec["members"]}
    about = read_json(folders[spec["members"][0]] / "model.json")
    encoder = about["encoder"]
    device = job_device(context, encoder)
    datas = job_data(context, encoder, list(context.tasks), device)
    states = {member: load_model(folder, context.tasks)[0].state_dict() for member, folder in folders.items()}
    check_shapes(states)
    model, _ = load_model(folders[spec["members"][0]], context.tasks)
    model.to(device.device)
    members = list(states)
    if spec["soup"] == "greedy":
        members = _greedy(context, model, states, datas, device)
    model.load_state_dict(averaged([states[member] for member in members]))
    about |= {"key": context.job.key, "mc_passes": 0}
    save_model(model, run.model_dir(name), tokenizer=job_tokenizer(context, encoder), about=about)
    scores: dict[str, Any] = {}
    for task, data in datas.items():
        rows = np.flatnonzero(np.isin(data.splits, EVALUATION_SPLITS))
        outputs = predict(model, data, rows, device)
        predictions = Predictions(data.example_ids[rows], data.splits[rows], outputs, data.task.labels)
        run.write_predictions(name, data.task, predictions)
        scores[task] = _beside_ensemble(context, data, predictions, members)
    write_json(run.path / f"{name}.json", {"members": members, "of": spec["members"], "scores": scores})
    return {"members": members}


def check_shapes(states: dict[str, dict[str, torch.Tensor]]) -> None:
    """Raises `ValueError` when the members are not of one shape."""
    (first, reference), *others = states.items()
    for member, state in others:
        different = [key for key in {**reference, **state} if _shape(reference, key) != _shape(state, key)]
        if different:
            key = different[0]
            raise ValueError(
                f"soup: '{member}' has {key} of shape {_shape(state, key)}, '{first}' has {_shape(reference, key)}; "
                "weights of different shapes have no average. Leave ensemble.soups out, or use members of one encoder"
            )


def _shape(state: dict[str, torch.Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(state[key].shape) if key in state else None


def averaged(states: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of each weight, in float64; buffers of whole numbers (position ids) are the same in all."""
    return {
        key: torch.stack([state[key].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value
        for key, value in states[0].items()
    }


def _greedy(
    context: Context,
    model: MultiTaskModel,
    states: dict[str, dict[str, torch.Tensor]],
    datas: dict[str, TaskData],
    device: Device,
) -> list[str]:
    """The best member, then the others in turn; one that would lower the score stays out. Best on the split of the
    fit, over all tasks: the selection may have ranked them by other ones, and the soup would start below the best."""
    split = context.job.spec["fit_split"]

    def score(members: list[str]) -> float:
        model.load_state_dict(averaged([states[name] for name in members]))
        scores = []
        for task, data in datas.items():
            gold = read_gold(context.run.read_examples(task), data.task, split)
            outputs = predict(model, data, data.rows(split), device)
            scores.append(evaluate(data.task, outputs=outputs, **gold.arguments, resamples=1)["score"].value)
        return float(np.mean(scores))

    alone = {member: score([member]) for member in states}
    first, *others = sorted(alone, key=lambda member: -alone[member])
    best, members = alone[first], [first]
    for member in others:
        if (with_it := score([*members, member])) >= best:
            best, members = with_it, [*members, member]
    return members


def _beside_ensemble(context: Context, data: TaskData, soup: Predictions, members: list[str]) -> dict[str, Any]:
    """Score of the soup, of the ensemble of its members and of these alone, on each labelled split."""
    task, run, scores = data.task, context.run, {}
    read = [run.read_predictions(member, task.name) for member in members]
    outputs = np.stack([p.outputs[rows_of_ids(p.example_ids, soup.example_ids, what=str(task.name))] for p in read])
    if task.kind == "regression":
        ensemble = combine_values(outputs).mean
    else:
        ensemble = combine("mean_probs", outputs, label_names_per_member=[p.labels for p in read])
    for split in EVALUATION_SPLITS:
        gold = read_gold(run.read_examples(task.name), task, split)
        if gold.is_labelled:
            rows = soup.splits == split
            each = [soup.outputs[rows], ensemble[rows], *outputs[:, rows]]
            values = [evaluate(task, outputs=o, **gold.arguments, resamples=1)["score"].value for o in each]
            scores[split] = {"soup": values[0], "ensemble": values[1], "members": values[2:]}
    return scores
