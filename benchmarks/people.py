"""Who is near to people? `python -m benchmarks.people DATA RUN [--berts RUN]`, on SNLI and MNLI.

Distances of every voice of a run to the annotators' distributions: SNLI's five (a run's `human_probs`), and ChaosNLI's
hundred on its items (`DATA/humans`). With `--berts` the run is one of benchmarks/snli_halves: the BERTs, their mean and
the same calibrated on half A speak too. Rows are appended to `docs/results/humans.csv`, in the place of what the file
has of the same part, and the page `docs/results/humans.md` is made of that file alone.

A voice may be several models (students of several seeds): its distance is the mean over them, its standard error is
theirs. Intervals are 95 % bootstraps over premises, as hypotheses of one premise are no independent examples.

Shapes: N examples, C classes, S models of a voice, G premises, R resamples.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.people_page import CSV, page, read_rows, write_rows
from core.calibration import FloatArray, kl_N, log_probs_NC
from core.combining import apply_recipe, fit_recipe
from core.comparisons import mean_and_se
from core.config import validated
from core.plan import ensemble_name, student_groups, teachers_of
from core.store import Run, lists_to_rows, read_json, rows_of_ids
from core.tasks import Task
from core.views.catalogue import tasks_of_run
from core.views.distances import js_distance_N

RESAMPLES = 2000
CHAOS = {"snli": "humans/chaosNLI_snli.jsonl", "mnli": "humans/chaosNLI_mnli_m.jsonl"}
Voices = Mapping[str, Sequence[FloatArray]]


def measured(
    voices: Voices, humans_NC: FloatArray, gold_N: np.ndarray, premises: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Rows of each voice and of each difference a - b in `pairs`: accuracy, Jensen-Shannon distance, KL in nats."""
    _, group_N = np.unique(np.asarray(premises), return_inverse=True)
    of: dict[tuple[str, str], FloatArray] = {}  # (S, N)
    for voice, logits in voices.items():
        of[voice, "accuracy"] = np.array([one.argmax(axis=1) == gold_N for one in logits], np.float64)
        of[voice, "js"] = np.array([js_distance_N(humans_NC, np.exp(log_probs_NC(one))) for one in logits])
        of[voice, "kl"] = np.array([kl_N(humans_NC, one) for one in logits])
    rows = [
        {"voice": voice, "minus": "", "measure": measure, **summary(values_SN, group_N)}
        for (voice, measure), values_SN in of.items()
    ]
    for a, b in pairs:
        for measure in ("accuracy", "js", "kl"):
            a_SN, b_SN = of[a, measure], of[b, measure]
            # Students of two variants are paired by seed; anything else is one voice against the mean of another.
            is_paired = a.startswith("student") and b.startswith("student")
            other = b_SN if is_paired else b_SN.mean(axis=0, keepdims=True)
            rows.append({"voice": a, "minus": b, "measure": measure, **summary(a_SN - other, group_N)})
    return rows


def summary(values_SN: FloatArray, group_N: np.ndarray) -> dict[str, Any]:
    """Mean over examples and models, standard error over models, 95 % interval over groups of examples."""
    mean, se, n_models = mean_and_se(values_SN.mean(axis=1))
    value_N = values_SN.mean(axis=0)
    count_G, sum_G = np.bincount(group_N), np.bincount(group_N, weights=value_N)
    drawn_RG = np.random.default_rng(0).integers(len(count_G), size=(RESAMPLES, len(count_G)))
    low, high = np.percentile(sum_G[drawn_RG].sum(axis=1) / count_G[drawn_RG].sum(axis=1), [2.5, 97.5])
    about = {"n_models": n_models, "n_examples": len(value_N), "n_premises": len(count_G)}
    return {"value": mean, "se": se, "low": float(low), "high": float(high), **about}


# ---- what there is -------------------------------------------------------------------------------------------------
def voices_of(run: Run, task: Task, split: str, ids: np.ndarray, berts: Run | None) -> dict[str, list[FloatArray]]:
    """Logits (N, C) of every voice on `ids`, in the order of the page."""
    config = validated(run.manifest()["config"])

    def said(source: Run, model: str) -> FloatArray:
        known = source.read_predictions(model, task.name)
        return np.asarray(known.outputs[rows_of_ids(known.example_ids, ids, what=model)], np.float64)

    names = ", ".join(task.labels)
    voices = {f"the training rows' shares of {names}": [_frequencies(run, task, len(ids))]}
    voices["single model"] = [said(run, member) for member in config.multitask.members]
    if berts is not None:
        voices |= {name: [said(berts, name)] for name in sorted(berts.models()) if name.startswith("bert")}
        voices["ensemble"] = [said(berts, ensemble_name("mean_probs"))]
        voices["ensemble, calibrated"] = [_calibrated(berts, task, ids)]
    else:
        chosen = read_json(run.path / "selection.json")["chosen"]
        voices["teachers"] = [said(run, name) for name in teachers_of(config, chosen, task.name)]
        voices["ensemble"] = [said(run, ensemble_name(config.ensemble.strategy))]
    for variant, students in student_groups(config, task.name).items():
        voices[f"student, {variant}"] = [said(run, name) for name in students]
    return voices


def _frequencies(run: Run, task: Task, n: int) -> FloatArray:
    table = run.read_examples(task.name)
    gold = table.filter(np.asarray(table["split"].to_pylist()) == "train")["gold_label"].to_pylist()
    return np.tile(np.log([gold.count(label) / len(gold) for label in task.labels]), (n, 1))


def _calibrated(berts: Run, task: Task, ids: np.ndarray) -> FloatArray:
    """Each BERT at its own temperature, fitted on gold of half A, then the mean of probabilities."""
    table = berts.read_examples(task.name)
    names = [name for name in sorted(berts.models()) if name.startswith("bert")]
    fit_ids = table.filter(np.asarray(table["split"].to_pylist()) == "train")["example_id"].to_numpy(
        zero_copy_only=False
    )
    every = table["example_id"].to_numpy(zero_copy_only=False)
    gold = np.array([task.labels.index(label) for label in table["gold_label"].to_pylist()])
    outputs = {}
    for which, wanted in (("fit", fit_ids), ("told", ids)):
        read = [berts.read_predictions(name, task.name) for name in names]
        outputs[which] = [one.outputs[rows_of_ids(one.example_ids, wanted, what="bert")].astype(float) for one in read]
    labels = [task.labels] * len(names)
    recipe = fit_recipe(
        "calibrated", outputs["fit"], gold[rows_of_ids(every, fit_ids, what="berts")],
        label_names_per_member=labels, split="half A", reported_split="half B",
    )  # fmt: skip
    return apply_recipe(recipe, outputs["told"], label_names_per_member=labels)


def hundred(path: Path, task: Task, texts: Sequence[tuple[str, str]]) -> FloatArray:
    """ChaosNLI's distributions (N, C) for premise and hypothesis, nan where it has none."""
    letter = {label[0]: label for label in task.labels}
    known: dict[tuple[str, str], list[float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        counts = {letter[name]: n for name, n in item["label_counter"].items()}
        shares = [counts.get(label, 0) / sum(counts.values()) for label in task.labels]
        known[item["example"]["premise"], item["example"]["hypothesis"]] = shares
    return np.array([known.get(text, [np.nan] * task.n_outputs) for text in texts])


def rows_of_task(data: Path, run: Run, task: Task, part: str, berts: Run | None) -> list[dict[str, Any]]:
    split = validated(run.manifest()["config"]).evaluate.split
    table = run.read_examples(task.name)
    table = table.filter(np.asarray(table["split"].to_pylist()) == split)
    texts = list(zip(table["text_a"].to_pylist(), table["text_b"].to_pylist(), strict=True))
    people = {"five annotators": lists_to_rows(table["human_probs"]).astype(np.float64)} if task.name == "snli" else {}
    people["a hundred annotators"] = hundred(data / CHAOS[task.name], task, texts)
    gold_N = np.array([task.labels.index(label) for label in table["gold_label"].to_pylist()])
    ids_N = table["example_id"].to_numpy(zero_copy_only=False)
    rows: list[dict[str, Any]] = []
    for who, humans_NC in people.items():
        has_N = np.isfinite(humans_NC).all(axis=1)
        voices = voices_of(run, task, split, ids_N[has_N], berts)
        taught = [name for name in ("student, hard", "bert-0", "bert-1", "teachers", "ensemble") if name in voices]
        pairs = [("student, kd", name) for name in taught]
        pairs += [("ensemble", name) for name in ("bert-0", "bert-1", "teachers") if name in voices]
        pairs += [("ensemble, calibrated", "ensemble")] if "ensemble, calibrated" in voices else []
        premises = [text[0] for text, has in zip(texts, has_N, strict=True) if has]
        found = measured(voices, humans_NC[has_N], gold_N[has_N], premises, pairs)
        rows += [{"part": part, "task": task.name, "people": who, **row} for row in found]
    return rows


def main(data: Path, run: Run, berts: Run | None, out: Path) -> None:
    part = "two BERTs" if berts is not None else "GLUE and SNLI"
    tasks = [task for name, task in tasks_of_run(run).items() if name in CHAOS]
    kept = [row for row in (read_rows(out / CSV) if (out / CSV).exists() else []) if row["part"] != part]
    rows = [row for task in tasks for row in rows_of_task(data, run, task, part, berts)]
    write_rows(out / CSV, sorted([*kept, *rows], key=lambda row: row["part"] != "two BERTs"))
    (out / "humans.md").write_text(page(read_rows(out / CSV)), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("?")[0])
    parser.add_argument("data", type=Path, help="folder with humans/")
    parser.add_argument("run", type=Path)
    parser.add_argument("--berts", type=Path, help="run of the two BERTs' predictions (benchmarks/snli_halves)")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    given = parser.parse_args()
    main(given.data, Run(given.run), None if given.berts is None else Run(given.berts), given.out)
