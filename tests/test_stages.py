"""What the stages compute, held to independent recomputations from the files of one small run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Finished, go, ran, results, tiny
from safetensors.numpy import load_file

from core.checksums import digests, read_sums, write_sums
from core.stages.prepare import generate_suite
from core.store import Run, read_json
from core.tasks import SUITE

TEACHER_TASKS = [name for name, task in SUITE.items() if task.has_teacher]


def softmax(logits_NC: np.ndarray) -> np.ndarray:
    e = np.exp(logits_NC.astype(np.float64) - logits_NC.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def by_id(run: Run, model: str, task: str) -> dict[str, np.ndarray]:
    """Outputs by example id, entered in a shuffled order: nothing after this can join by position."""
    predictions = run.read_predictions(model, task)
    order = np.random.default_rng(len(model)).permutation(len(predictions.example_ids))
    return {predictions.example_ids[i]: predictions.outputs[i] for i in order}


def chosen(run: Run) -> list[str]:
    return read_json(run.path / "selection.json")["chosen"]


def scores_of(run: Run, **fields: object) -> dict[tuple[str, str], float]:
    """(model, task) -> value, of the rows of `metrics.parquet` that have all of `fields`."""
    rows = pq.read_table(run.path / "metrics.parquet").to_pylist()
    return {(row["model"], row["task"]): row["value"] for row in rows if fields.items() <= row.items()}


# ---- prepare --------------------------------------------------------------------------------------------------------
def test_tasks_of_unequal_size() -> None:
    """Fewer training rows of one task, the same of the other, and no other evaluation split of either."""
    tasks = "data.tasks=[nli,similarity]"
    equal, unequal = (generate_suite(tiny(tasks, *own)) for own in ((), ("data.n_train_of={similarity: 50}",)))
    assert unequal["nli"].equals(equal["nli"])
    n_rows = {split: equal["similarity"]["split"].to_pylist().count(split) for split in ("train", "dev", "test")}
    found = unequal["similarity"]["split"].to_pylist()
    assert {split: found.count(split) for split in n_rows} == {**n_rows, "train": 50}


def test_the_selection_split_is_carved_from_train(smoke: Finished, tmp_path: Path) -> None:
    small = ("data.tasks=[nli,similarity]", "data.selection=0.25", "data.max_train=50", "data.max_eval=30")
    run = Run(tmp_path / "run")
    manifest = go(run, tiny(*small), only_stage="prepare").manifest
    assert list(manifest["jobs"]) == ["prepare"]
    for task in ("nli", "similarity"):
        split_of = dict(
            zip(*(run.read_examples(task)[name].to_pylist() for name in ("example_id", "split")), strict=True)
        )
        assert manifest["jobs"]["prepare"]["tasks"][task]["rows"] == {
            "train": 50, "selection": 30, "dev": 30, "test": 30
        }  # fmt: skip
        carved = [name for name, split in split_of.items() if split == "selection"]
        # They keep the id of where they come from.
        assert len(carved) == 30
        assert all(name.startswith(f"{task}/train/") for name in carved)
        table = smoke.run.read_examples(task)
        rows = {row["example_id"]: row for row in table.to_pylist()}
        for row in run.read_examples(task).to_pylist():
            assert {**row, "split": None} == {**rows[row["example_id"]], "split": None}


def test_the_tokens_are_made_again_from_the_run_alone(copied: Run) -> None:
    before = results(copied, "cache")
    for file in (copied.path / "cache").rglob("*.npy"):
        file.unlink()
    go(copied, tiny(), only_stage="distill")
    assert results(copied, "cache") == before


# ---- select ---------------------------------------------------------------------------------------------------------
def test_the_best_members_on_the_selection_split_are_chosen(smoke: Finished) -> None:
    selection = read_json(smoke.run.path / "selection.json")
    scores = scores_of(smoke.run, split="selection", metric="score")
    mean = {member: np.mean([scores[member, task] for task in TEACHER_TASKS]) for member in ("mt-1", "mt-2", "mt-3")}
    order = sorted(mean, key=lambda member: (-mean[member], member))
    assert selection["chosen"] == order[:2] == smoke.manifest["jobs"]["select"]["chosen"]
    assert selection["split"] == "selection"
    assert selection["leaks"] is False
    assert [row["member"] for row in selection["ranking"]] == order
    for row in selection["ranking"]:
        # Sums of four numbers in another order: float64 rounding.
        assert row["key_value"] == pytest.approx(mean[row["member"]], abs=1e-12)
        assert row["scores"] == pytest.approx({task: scores[row["member"], task] for task in SUITE}, abs=1e-12)
        assert row["reason"].startswith("Chosen" if row["chosen"] else "Left out")
    assert "3 members" in selection["rule_in_words"]


def test_selecting_on_the_reported_split_is_marked(copied: Run) -> None:
    go(copied, tiny("select.split=dev", "evaluate.split=dev"), only_stage="select")
    leaky = read_json(copied.path / "selection.json")
    assert (leaky["split"], leaky["leaks"]) == ("dev", True)
    assert copied.manifest()["jobs"]["select"]["leaks"] is True
    # Reporting another split makes the same choice a fair one, and the file must not go on saying otherwise.
    go(copied, tiny("select.split=dev"), update=True)
    fair = read_json(copied.path / "selection.json")
    assert (fair["split"], fair["leaks"]) == ("dev", False)
    assert fair["chosen"] == leaky["chosen"]


# ---- finetune -------------------------------------------------------------------------------------------------------
def test_teachers_start_from_their_members_encoder_with_a_fresh_head(copied: Run) -> None:
    """At a learning rate of almost zero the encoder is the member's, and the head is not."""
    go(copied, tiny("finetune.lr=1e-12", "finetune.epochs=3"), only_stage="finetune")
    for member in chosen(copied):
        teacher = f"ft-{member[3:]}-nli"
        of_member, of_teacher = (
            load_file(copied.model_dir(name) / "encoder" / "model.safetensors") for name in (member, teacher)
        )
        assert of_member.keys() == of_teacher.keys()
        for name, value in of_member.items():
            # AdamW moves a weight by about the learning rate a step: 6 steps of 1e-12.
            np.testing.assert_allclose(of_teacher[name], value, rtol=0, atol=1e-11)
        old, new = (load_file(copied.model_dir(name) / "heads.safetensors") for name in (member, teacher))
        assert new
        assert new.keys() < old.keys()
        assert all("nli" in name for name in new)
        assert any(np.abs(new[name] - old[name]).max() > 1e-2 for name in new)
        # Its own epochs, not the members' one.
        dynamics = pq.read_table(copied.dynamics_path(teacher, "nli"))
        assert set(dynamics["epoch"].to_pylist()) == {0, 1, 2}
        assert set(pq.read_table(copied.dynamics_path(member, "nli"))["epoch"].to_pylist()) == {0}


def test_teachers_train_at_their_own_learning_rate(smoke: Finished) -> None:
    member = chosen(smoke.run)[0]
    before, after = (
        load_file(smoke.run.model_dir(name) / "encoder" / "model.safetensors")
        for name in (member, f"ft-{member[3:]}-nli")
    )
    # 2 steps at up to 2e-3: weights move by a thousandth, a billion times more than in the test above.
    assert max(np.abs(after[name] - before[name]).max() for name in before) > 1e-4


# ---- ensemble -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", TEACHER_TASKS)
def test_targets_are_the_mean_of_the_teachers_probabilities(task: str, smoke: Finished) -> None:
    run = smoke.run
    table = pq.read_table(run.targets_path(task))
    teachers = [f"ft-{member[3:]}-{task}" for member in chosen(run)]
    train = run.read_examples(task).filter(pa.compute.equal(run.read_examples(task)["split"], "train"))
    assert sorted(table["example_id"].to_pylist()) == sorted(train["example_id"].to_pylist())
    outputs = [by_id(run, teacher, task) for teacher in teachers]
    distinct = 0
    for row in table.to_pylist():
        probs = [softmax(of_teacher[row["example_id"]]) for of_teacher in outputs]
        # Targets are stored as float32 logits: relative error 1e-7 of numbers of size ten.
        np.testing.assert_allclose(softmax(np.array(row["logits"])), np.mean(probs, axis=0), rtol=0, atol=2e-6)
        distinct += np.abs(probs[0] - probs[1]).max() > 2e-5
        assert row["members"] == teachers
        assert row["in_sample"] is True
        assert row["label_names"] == list(SUITE[task].labels)
    assert distinct > len(table) / 2  # by ten tolerances: the mean is of two that differ


@pytest.mark.parametrize("task", ["acceptability", "similarity"])
def test_tasks_without_teachers_average_the_chosen_members(task: str, smoke: Finished) -> None:
    members = [by_id(smoke.run, member, task) for member in chosen(smoke.run)]
    ensemble = by_id(smoke.run, "ens-mean_probs", task)
    assert ensemble.keys() == members[0].keys()
    for name, output in ensemble.items():
        if task == "similarity":
            expected, got = np.mean([of_member[name] for of_member in members]), output
        else:
            expected, got = np.mean([softmax(of_member[name]) for of_member in members], axis=0), softmax(output)
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)  # stored in float32, as above
    assert not smoke.run.targets_path(task).exists()


def test_ensembles_json_says_who_and_how_different(smoke: Finished) -> None:
    [(name, recipe)] = read_json(smoke.run.path / "ensembles.json").items()
    assert (name, recipe["strategy"]) == ("ens-mean_probs", "mean_probs")
    assert recipe["tasks"].keys() == SUITE.keys()
    for task, about in recipe["tasks"].items():
        assert about["taught"] == SUITE[task].has_teacher
        assert about["members"] == [f"ft-{m[3:]}-{task}" if about["taught"] else m for m in chosen(smoke.run)]
        assert about["diversity"].keys() == {"selection", "dev", "test"}
    one, two = (by_id(smoke.run, member, "nli") for member in recipe["tasks"]["nli"]["members"])
    differ = [one[name].argmax() != two[name].argmax() for name in one if name.startswith("nli/test")]
    # The mean of 48 zeros and ones: exact but for float64.
    assert recipe["tasks"]["nli"]["diversity"]["test"]["disagreement"] == pytest.approx(np.mean(differ), abs=1e-12)


# ---- distill --------------------------------------------------------------------------------------------------------
def test_without_a_soft_term_kd_is_hard_to_the_bit(copied: Run, smoke: Finished) -> None:
    """So the variants of a seed share initial weights, order of batches and dropout: what else differs is the loss."""
    for task in TEACHER_TASKS:
        hard, kd = (smoke.run.read_predictions(f"st-{name}-s0", task).outputs for name in ("hard", "kd"))
        assert np.abs(hard - kd).max() > 1e-4  # with alpha = 0.5 they do differ
    n_ran = len(ran(copied))
    go(copied, tiny("distill.alpha=0"), update=True)
    assert ran(copied, n_ran) == ["st-kd-s0", "st-kd-s1", "evaluate"]
    for seed in (0, 1):
        for task in SUITE:
            hard, kd = (copied.read_predictions(f"st-{name}-s{seed}", task) for name in ("hard", "kd"))
            np.testing.assert_array_equal(hard.outputs, kd.outputs)
            of_hard, of_kd = (
                pq.read_table(copied.dynamics_path(f"st-{name}-s{seed}", task)) for name in ("hard", "kd")
            )
            assert of_hard.equals(of_kd)
    one, two = (copied.read_predictions(f"st-hard-s{seed}", "nli").outputs for seed in (0, 1))
    assert np.abs(one - two).max() > 1e-3


def test_students_without_soft_targets_see_nothing_of_the_teachers(smoke: Finished, copied: Run) -> None:
    """`hard` is the baseline: it comes out the same when the targets are no targets."""
    for task in TEACHER_TASKS:
        copied.targets_path(task).write_bytes(b"no parquet")
    as_if_written(copied)
    with pytest.raises(ValueError, match=r"targets/\w+\.parquet is damaged and cannot be read"):
        go(copied, tiny(), only_stage="distill")
    assert {"st-hard-s0", "st-hard-s1"} <= copied.manifest()["jobs"].keys()
    for task in SUITE:
        again, first = (run.read_predictions("st-hard-s1", task).outputs for run in (copied, smoke.run))
        np.testing.assert_array_equal(again, first)


def as_if_written(run: Run) -> None:
    """The checksums of the targets as they are now."""
    write_sums(run, read_sums(run) | digests(run, "ensemble", "ensemble"))


def test_targets_without_an_example_stop_the_student(copied: Run) -> None:
    table = pq.read_table(copied.targets_path("nli"))
    pq.write_table(table.slice(3), copied.targets_path("nli"))
    as_if_written(copied)
    with pytest.raises(
        ValueError, match=r"nli\.parquet has 117 rows, 120 are asked for; 3 ids unknown, first: 'nli/train/"
    ):
        go(copied, tiny(), only_stage="distill")


# ---- evaluate -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", ["mt-2", "ens-mean_probs", "st-kd-s1"])
def test_metrics_equal_a_loop_over_the_examples(model: str, smoke: Finished) -> None:
    for task in ("sentiment", "relevance", "nli"):
        examples = {row["example_id"]: row for row in smoke.run.read_examples(task).to_pylist()}
        hits, kl, nll = [], [], []
        for name, logits in by_id(smoke.run, model, task).items():
            row = examples[name]
            if row["split"] == "test":
                probs, gold = softmax(logits), SUITE[task].labels.index(row["gold_label"])
                truth = np.array(row["true_probs"], np.float64)
                hits.append(logits.argmax() == gold)
                nll.append(-np.log(probs[gold]))
                kl.append(sum(t * np.log(t / p) for t, p in zip(truth, probs, strict=True) if t > 0))
        for metric, values in (("accuracy", hits), ("nll", nll), ("kl_truth", kl)):
            stored = scores_of(smoke.run, split="test", metric=metric)[model, task]
            # The truth is stored as float32 and normalised again: 1e-7 a class.
            assert stored == pytest.approx(np.mean(values), abs=2e-6)
