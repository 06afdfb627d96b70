"""Student variants: paired by seed, each taught what its name says, further generations, students fine-tuned.

What a job gives to the training loop is looked at without training (`conftest.trainings`): its weights, its batches,
and its loss on logits made up here, against formulas written down here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import EVERYTHING, FOLDED, Finished, Training, copy_of, go, ran, tiny, trainings, weights_of
from scipy.special import log_softmax, softmax
from tiny import CPU

from core.batching import epoch_steps
from core.checksums import digests, read_sums, write_sums
from core.config import resolve_tasks
from core.model import load_model
from core.predict import predict
from core.sections import NEEDS_TEACHER
from core.stages import distill
from core.store import Run, lists_to_rows

TAUGHT = ("sentiment", "nli")


class Students:
    """The stage `distill` of `everything`, redone with one step a student."""

    def __init__(self, run: Run, seen: dict[str, Training], targets: dict[tuple[str, str], np.ndarray | None]):
        self.run, self.seen, self.targets = run, seen, targets

    def losses(self, student: str, task: str, n: int = 24) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The student's loss on `n` training rows and made-up logits, and what a formula needs: log_q, one-hot gold."""
        training = self.seen[student]
        data = training.datas[task]
        rows = data.rows("train")[:n]
        width = data.task.n_outputs
        logits_NC = np.random.default_rng(0).normal(size=(n, width))
        loss_N = training.loss_fn(task, torch.from_numpy(logits_NC), rows, 0.25).numpy()
        known = {"rows": rows, "ids": data.example_ids[rows], "values": logits_NC[:, 0]}
        if data.task.kind == "regression":
            return loss_N, known | {"gold": data.gold.numpy()[rows]}
        known |= {"log_q": log_softmax(logits_NC, -1), "gold": np.eye(width)[data.gold.numpy()[rows]]}
        return loss_N, known

    def stored_targets(self, task: str, ids: np.ndarray) -> np.ndarray:
        table = pq.read_table(self.run.targets_path(task))
        by_id = dict(zip(table["example_id"].to_pylist(), lists_to_rows(table["logits"]).astype(float), strict=True))
        return np.array([by_id[name] for name in ids])

    def truth(self, task: str, ids: np.ndarray) -> np.ndarray:
        rows = {row["example_id"]: row["true_probs"] for row in self.run.read_examples(task).to_pylist()}
        return np.array([rows[name] for name in ids])


def looked_at(finished: Finished, folder: Path) -> Students:
    run, targets = copy_of(finished, folder), {}
    original = distill.target_rows

    def kept(context: Any, data: Any, device: Any) -> np.ndarray | None:
        targets[context.job.name, data.task.name] = rows = original(context, data, device)
        return rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distill, "target_rows", kept)
        return Students(run, trainings(run, finished.config, "distill", patch), targets)


@pytest.fixture(scope="module")
def students(everything: Finished, tmp_path_factory: pytest.TempPathFactory) -> Students:
    return looked_at(everything, tmp_path_factory.mktemp("students"))


def cross_entropy(p_NC: np.ndarray, log_q_NC: np.ndarray) -> np.ndarray:
    return -(p_NC * log_q_NC).sum(-1)


# ---- paired by seed -------------------------------------------------------------------------------------------------
def test_students_of_one_seed_differ_by_their_loss_alone(students: Students) -> None:
    first = {seed: students.seen[f"st-hard-s{seed}"] for seed in (0, 1)}
    names = [f"st-{variant}" for variant in NEEDS_TEACHER] + ["st-kd-g2"]
    for seed, hard in first.items():
        batches = order_of(hard)
        for name in names:
            training = students.seen[f"{name}-s{seed}"]
            assert training.weights.keys() == hard.weights.keys()
            assert all(torch.equal(training.weights[key], value) for key, value in hard.weights.items())
            assert training.generator == hard.generator  # dropout
            assert order_of(training) == batches
            assert training.options["train"] == hard.options["train"]
        losses = {name: students.losses(f"{name}-s{seed}", "sentiment")[0] for name in names}
        for name, loss_N in losses.items():
            assert all(np.abs(loss_N - other).max() > 1e-3 for key, other in losses.items() if key != name), name
    assert order_of(first[0]) != order_of(first[1])
    key = "encoder.embeddings.word_embeddings.weight"
    assert not torch.equal(first[0].weights[key], first[1].weights[key])


def order_of(training: Training) -> list[tuple[str, list[int]]]:
    options = training.options
    steps = epoch_steps(training.datas, options["train"], seed=options["seed"], names=options["names"], epoch=0)
    return [(step.task, step.rows.tolist()) for step in steps]


# ---- what each is taught --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", TAUGHT)
def test_each_variant_minimises_what_its_name_says(task: str, students: Students) -> None:
    _, known = students.losses("st-hard-s0", task)
    log_q_NC, gold_NC, ids = known["log_q"], known["gold"], known["ids"]
    gold_term_N = cross_entropy(gold_NC, log_q_NC)
    n_classes = gold_NC.shape[1]
    teacher_NC = softmax(students.stored_targets(task, ids), -1)
    top_N = teacher_NC.max(-1)
    evened_NC = np.where(teacher_NC == top_N[:, None], teacher_NC, ((1 - top_N) / (n_classes - 1))[:, None])
    smoothed_NC = 0.9 * gold_NC + 0.1 / n_classes
    expected = {
        "hard": gold_term_N,
        "kd": (gold_term_N + cross_entropy(teacher_NC, log_q_NC)) / 2,
        "label_smoothing": cross_entropy(smoothed_NC, log_q_NC),
        "cwtm": top_N / top_N.mean() * gold_term_N,
        "adaptive_smoothing": (gold_term_N + cross_entropy(evened_NC, log_q_NC)) / 2,
        "truth": (gold_term_N + cross_entropy(students.truth(task, ids), log_q_NC)) / 2,
    }
    for variant, expected_N in expected.items():
        # Targets are float32 logits, of losses of order 1.
        np.testing.assert_allclose(students.losses(f"st-{variant}-s0", task)[0], expected_N, rtol=0, atol=2e-6)
    # Without a teacher, all are on gold.
    values = [students.losses(f"st-{variant}-s0", "similarity")[0].tolist() for variant in NEEDS_TEACHER]
    assert values == values[:1] * len(values)


@pytest.mark.parametrize("task", TAUGHT)
def test_dkpp_keeps_the_confidences_and_moves_the_wrong_classes(task: str, students: Students) -> None:
    rows = students.seen["st-dkpp-s0"].datas[task].rows("train")
    kd, one, two = (students.targets[name, task] for name in ("st-kd-s0", "st-dkpp-s0", "st-dkpp-s1"))
    assert kd is not None
    assert one is not None
    assert two is not None
    for moved in (one, two):
        np.testing.assert_array_equal(np.sort(moved[rows], -1), np.sort(kd[rows], -1))
        np.testing.assert_array_equal(moved[rows].argmax(-1), kd[rows].argmax(-1))
        # One order in (C - 1)! leaves a row as it is.
        assert (moved[rows] != kd[rows]).any(-1).mean() > 0.3
    assert (one[rows] != two[rows]).any()  # drawn for each student seed
    others = np.setdiff1d(np.arange(len(one)), rows)
    assert np.isnan(one[others]).all()
    assert len(others) > 0


def test_a_second_generation_is_taught_by_the_first(students: Students) -> None:
    for seed in (0, 1):
        teacher, _ = load_model(students.run.model_dir(f"st-kd-s{seed}"), resolve_tasks(tiny(*EVERYTHING)))
        for task in TAUGHT:
            data = students.seen[f"st-kd-g2-s{seed}"].datas[task]
            rows = data.rows("train")
            taught = students.targets[f"st-kd-g2-s{seed}", task]
            assert taught is not None
            np.testing.assert_array_equal(taught[rows], predict(teacher, data, rows, CPU))
            first = students.targets[f"st-kd-s{seed}", task]
            assert first is not None
            assert np.abs(softmax(taught[rows], -1) - softmax(first[rows], -1)).max() > 1e-2


def test_fine_tuned_students_go_on_from_the_students_weights(students: Students, everything: Finished) -> None:
    for seed in (0, 1):
        whole = weights_of(students.run, f"st-kd-s{seed}")
        for task in everything.config.data.tasks:
            name = f"st-kd-s{seed}-ft-{task}"
            assert everything.run.tasks_of(name) == [task]
            training = students.seen[name]
            assert list(training.datas) == [task]
            heads = [key for key in training.weights if key.startswith("heads.")]
            assert heads
            assert all(key.startswith(f"heads.task:{task}.") for key in heads)
            assert all(torch.equal(value, whole[key]) for key, value in training.weights.items())
            assert training.options["train"].epochs == everything.config.finetune.epochs
            loss_N, known = students.losses(name, task)
            gold_N = (known["values"] - known["gold"]) ** 2 if task == "similarity" else None
            expected_N = cross_entropy(known["gold"], known["log_q"]) if gold_N is None else gold_N
            np.testing.assert_allclose(loss_N, expected_N, rtol=0, atol=2e-6)
    assert not any(name.startswith("st-hard") and "ft" in name for name in students.seen)


# ---- variants that fall together ------------------------------------------------------------------------------------
def test_with_two_classes_dkpp_is_kd_to_the_bit_and_the_run_says_so(tmp_path: Path) -> None:
    only = ("data.tasks=[paraphrase,sentiment]", "data.teacher_tasks=[paraphrase]", "multitask.dropouts=[0.1]")
    config = tiny(*only, "select.top_k=1", "distill.variants=[kd,dkpp,adaptive_smoothing]", "distill.seeds=1")
    finished = go(Run(tmp_path / "run"), config, last_stage="distill")
    run = finished.run
    for task in ("paraphrase", "sentiment"):
        kd, dkpp, evened = (run.read_predictions(f"st-{name}-s0", task) for name in
                            ("kd", "dkpp", "adaptive_smoothing"))  # fmt: skip
        assert kd.outputs.tobytes() == dkpp.outputs.tobytes()
        np.testing.assert_allclose(evened.outputs, kd.outputs, rtol=0, atol=1e-4)  # log-probabilities for logits
    of_kd, of_dkpp = (pq.read_table(run.dynamics_path(f"st-{name}-s0", "paraphrase")) for name in ("kd", "dkpp"))
    assert of_kd.equals(of_dkpp)
    notes = finished.manifest["warnings"]
    assert notes[:2] == [f"{name} equals kd on tasks with two classes: paraphrase (one wrong class)"
                         for name in ("dkpp", "adaptive_smoothing")]  # fmt: skip
    shown = " ".join(finished.shown.split())
    assert all(f"note: {note}" in shown for note in notes)


def test_without_smoothing_label_smoothing_is_hard_to_the_bit(everything: Finished, tmp_path: Path) -> None:
    run = copy_of(everything, tmp_path)
    n_ran = len(ran(run))
    go(run, tiny(*EVERYTHING, "distill.smoothing=0"), update=True, last_stage="distill")
    assert ran(run, n_ran) == ["st-label_smoothing-s0", "st-label_smoothing-s1"]
    for task in everything.config.data.tasks:
        for seed in (0, 1):
            hard, smoothed = (run.read_predictions(f"st-{name}-s{seed}", task) for name in ("hard", "label_smoothing"))
            assert hard.outputs.tobytes() == smoothed.outputs.tobytes()
            before = everything.run.read_predictions(f"st-label_smoothing-s{seed}", task)
            assert before.outputs.tobytes() != smoothed.outputs.tobytes()


# ---- the truth ------------------------------------------------------------------------------------------------------
def without_truth(run: Run, task: str) -> None:
    table = run.read_examples(task)
    place = table.column_names.index("true_probs")
    run.write_examples(
        task, table.set_column(place, table.schema.field(place), pa.nulls(len(table), table.schema.types[place]))
    )
    write_sums(run, read_sums(run) | digests(run, "prepare", "prepare"))  # as if the data had come without it


def test_the_truth_is_taught_where_the_data_has_it(everything: Finished, tmp_path: Path) -> None:
    copy = copy_of(everything, tmp_path)
    without_truth(copy, "nli")
    found = looked_at(everything._replace(run=copy), tmp_path / "one")
    assert found.targets["st-truth-s0", "nli"] is None
    on_gold_N, _ = found.losses("st-hard-s0", "nli")
    assert found.losses("st-truth-s0", "nli")[0].tolist() == on_gold_N.tolist()
    assert np.abs(found.losses("st-truth-s0", "sentiment")[0] - found.losses("st-hard-s0", "sentiment")[0]).max() > 0.1
    without_truth(copy, "sentiment")
    message = "variant 'truth': none of the tasks sentiment, nli has true_probs in its examples; leave 'truth' out"
    with pytest.raises(ValueError, match=message):
        go(copy, everything.config, only_stage="distill")


# ---- values, and settings of a task's own ---------------------------------------------------------------------------
@pytest.mark.parametrize("loss", ["gaussian_nll", "mse"])
def test_a_task_of_values_is_taught_mean_and_spread(loss: str, folded: Finished, tmp_path: Path) -> None:
    if loss == "mse":  # which has further generations: a student's answer has no spread
        run = copy_of(folded, tmp_path)
        n_ran = len(ran(run))
        folded = go(run, tiny(*FOLDED, "distill.regression_loss=mse", "distill.generations=2"), update=True)
        assert ran(run, n_ran) == ["st-kd-s0", "st-truth-s0", "st-kd-g2-s0", "evaluate"]
    found = looked_at(folded, tmp_path / "looked")
    if loss == "mse":
        teacher, _ = load_model(found.run.model_dir("st-kd-s0"), resolve_tasks(folded.config))
        data, second = found.seen["st-kd-g2-s0"].datas["similarity"], found.targets["st-kd-g2-s0", "similarity"]
        assert second is not None
        values_N = predict(teacher, data, data.rows("train"), CPU)
        np.testing.assert_array_equal(second[data.rows("train")], np.stack([values_N, 0 * values_N], axis=1))
    for student, table, columns in (
        ("st-kd-s0", pq.read_table(found.run.targets_path("similarity")), ("value", "std")),
        ("st-truth-s0", found.run.read_examples("similarity"), ("true_mean", "true_std")),
    ):
        taught_N, known = found.losses(student, "similarity")
        rows = {row["example_id"]: row for row in table.to_pylist()}
        mean_N, std_N = (np.array([rows[name][column] for name in known["ids"]]) for column in columns)
        assert std_N.max() > 0
        soft_N = (known["values"] - mean_N) ** 2
        if loss == "gaussian_nll":
            variance_N = np.maximum(std_N**2, 0.01)
            soft_N = soft_N / (2 * variance_N) + np.log(variance_N) / 2
        expected_N = (soft_N + (known["values"] - known["gold"]) ** 2) / 2
        np.testing.assert_allclose(taught_N, expected_N, rtol=1e-5, atol=1e-5)  # float32
    # nli has an alpha of its own, 0.2; similarity the run's, 0.5.
    kd_N, known = found.losses("st-kd-s0", "nli")
    teacher_NC = softmax(found.stored_targets("nli", known["ids"]), -1)
    gold_N, soft_N = (cross_entropy(p, known["log_q"]) for p in (known["gold"], teacher_NC))
    np.testing.assert_allclose(kd_N, 0.2 * soft_N + 0.8 * gold_N, rtol=0, atol=2e-6)
    outputs = folded.run.read_predictions("st-kd-s0", "similarity").outputs
    assert np.isfinite(outputs).all()
    assert outputs.std() > 0
