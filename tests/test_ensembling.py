"""The ensembles and soups of a run: recipes fitted on the selection split, what is compared, and out-of-fold targets.

Elsewhere: the strategies themselves (tests/test_ensemble.py, tests/test_combining.py).
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import EVERYTHING, Finished, changed, copy_of, go, ran, results, tiny, trainings, weights_of
from scipy.special import log_softmax, softmax

from core.combining import Recipe, apply_recipe, fit_recipe
from core.config import resolve_tasks
from core.sections import FITTED_STRATEGIES
from core.stages.soup import averaged, check_shapes
from core.stages.training import held_out_rows
from core.store import Run, read_json
from core.tasks import SUITE

STRATEGIES = ("mean_probs", "geometric_mean", "mean_logits", "weighted", "calibrated", "greedy", "stacking")
TAUGHT = ("sentiment", "nli")


def scores_of(run: Run, metric: str, split: str) -> dict[tuple[str, str], float]:
    """(model, task) -> value."""
    rows = pq.read_table(run.path / "metrics.parquet").to_pylist()
    return {(r["model"], r["task"]): r["value"] for r in rows if (r["metric"], r["split"]) == (metric, split)}


def chosen(run: Run) -> list[str]:
    return read_json(run.path / "selection.json")["chosen"]


def members_on(run: Run, models: list[str], task: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Outputs (M, N, ...) and gold (N,) of a split, joined by example id."""
    gold_of = {
        row["example_id"]: SUITE[task].labels.index(row["gold_label"]) if SUITE[task].labels else row["gold_value"]
        for row in run.read_examples(task).to_pylist()
        if row["split"] == split
    }
    outputs = []
    for model in models:
        stored = run.read_predictions(model, task)
        by_id = dict(zip(stored.example_ids, stored.outputs, strict=True))
        outputs.append([by_id[name] for name in gold_of])
    return np.array(outputs, np.float64), np.array(list(gold_of.values()))


# ---- strategies -----------------------------------------------------------------------------------------------------
def test_every_strategy_has_a_recipe_and_predictions(everything: Finished) -> None:
    run, recipes = everything.run, read_json(everything.run.path / "ensembles.json")
    assert list(recipes) == [f"ens-{strategy}" for strategy in STRATEGIES]  # the one that teaches first
    for name, recipe in recipes.items():
        strategy = name.removeprefix("ens-")
        assert recipe["strategy"] == strategy
        for task, about in recipe["tasks"].items():
            assert about["members"] == [f"ft-{m[3:]}-{task}" if task in TAUGHT else m for m in chosen(run)]
            # A value has no temperature, so nothing is fitted there.
            is_fitted = strategy in FITTED_STRATEGIES and (strategy, task) != ("calibrated", "similarity")
            assert about["fitted_on"] == ("selection" if is_fitted else None)
            splits = set(run.read_predictions(name, task).splits)
            teaches = strategy == "mean_probs" and task in TAUGHT
            # Only Q is needed on the training rows.
            assert splits == {"selection", "dev", "test"} | ({"train"} if teaches else set())
    assert {row.partition(", calibrated: ")[0] for row in everything.manifest["jobs"]["ensemble"]["notes"]} >= {
        "similarity"
    }


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_recipe_is_the_fit_on_selection_and_makes_the_predictions(strategy: str, everything: Finished) -> None:
    run = everything.run
    about = read_json(run.path / "ensembles.json")[f"ens-{strategy}"]["tasks"]["nli"]
    labels = [SUITE["nli"].labels] * 3
    fitted = {}
    for split in ("selection", "dev"):
        logits_MNC, gold_N = members_on(run, about["members"], "nli", split)
        fitted[split] = fit_recipe(
            strategy, logits_MNC, gold_N, label_names_per_member=labels, split=split, reported_split="test"
        )
    stored = Recipe.from_json(about)
    assert stored == fitted["selection"]
    if strategy != "greedy":  # counts of a few members may well agree
        assert (stored.params == fitted["dev"].params) == (strategy not in FITTED_STRATEGIES)
    logits_MNC, _ = members_on(run, about["members"], "nli", "test")
    expected_NC = apply_recipe(stored, logits_MNC, label_names_per_member=labels)
    got_NC = members_on(run, [f"ens-{strategy}"], "nli", "test")[0][0]
    np.testing.assert_allclose(softmax(got_NC, -1), softmax(expected_NC, -1), rtol=0, atol=1e-6)  # stored in float32


def test_size_curve_goes_from_the_best_member_to_the_ensemble(everything: Finished) -> None:
    run = everything.run
    for task in everything.config.data.tasks:
        about = read_json(run.path / "ensembles.json")["ens-mean_probs"]["tasks"][task]
        assert about["size_curve"].keys() == {"selection", "dev", "test"}
        metric = "accuracy" if task in TAUGHT else "mse"
        for split, curve in about["size_curve"].items():
            assert [row["k"] for row in curve] == [1, 2, 3]
            scores = scores_of(run, metric, split)
            # Predictions are stored in float32, errors of values are of order 1.
            assert curve[0][metric] == pytest.approx(scores[about["members"][0], task], abs=1e-6)
            assert curve[2][metric] == pytest.approx(scores["ens-mean_probs", task], abs=1e-6)
            mean = np.mean([scores[member, task] for member in about["members"]])
            assert curve[0]["mean_over_subsets"][metric] == pytest.approx(mean, abs=1e-6)


def test_diversity_is_that_of_a_loop_over_pairs(everything: Finished) -> None:
    run = everything.run
    recipes = read_json(run.path / "ensembles.json")
    about = recipes["ens-stacking"]["tasks"]["nli"]
    logits_MNC, gold_N = members_on(run, about["members"], "nli", "test")
    answers_MN = logits_MNC.argmax(-1)
    right_MN = answers_MN == gold_N
    differ, q = [], []
    for a, b in combinations(range(3), 2):
        differ.append(np.mean(answers_MN[a] != answers_MN[b]))
        both, neither = np.sum(right_MN[a] & right_MN[b]), np.sum(~right_MN[a] & ~right_MN[b])
        one, other = np.sum(right_MN[a] & ~right_MN[b]), np.sum(~right_MN[a] & right_MN[b])
        q.append((both * neither - one * other) / (both * neither + one * other))
    probs_MNC = softmax(logits_MNC, -1)
    gap = np.mean(probs_MNC * (log_softmax(logits_MNC, -1) - np.log(probs_MNC.mean(0))), axis=0).sum(-1).mean()
    found = about["diversity"]["test"]
    assert found.keys() == {"jensen_gap", "disagreement", "q_statistic"}
    assert found["disagreement"] == pytest.approx(np.mean(differ), abs=1e-12) != 0
    assert found["q_statistic"] == pytest.approx(np.mean(q), abs=1e-12) != 0
    assert found["jensen_gap"] == pytest.approx(gap, abs=1e-9) != 0
    values_MN, _ = members_on(run, chosen(run), "similarity", "test")
    of_values = recipes["ens-stacking"]["tasks"]["similarity"]["diversity"]["test"]
    assert of_values == {"member_std": pytest.approx(values_MN.std(axis=0).mean(), abs=1e-9)}


def test_another_strategy_or_soup_is_added_without_a_training(copied: Run) -> None:
    before, n_ran = results(copied), len(ran(copied))
    go(copied, tiny("ensemble.compare=[weighted]"))
    assert ran(copied, n_ran) == ["ensemble", "evaluate"]
    different = {path for path in changed(before, results(copied)) if not path.startswith("predictions/ens-weighted/")}
    assert different == {"metrics.parquet"}
    go(copied, tiny("ensemble.compare=[weighted]", "ensemble.soups=[uniform]"))
    assert ran(copied, n_ran + 2) == ["soup-uniform", "evaluate"]
    assert (copied.model_dir("soup-uniform") / "model.json").exists()
    go(copied, tiny())
    left = [path.name for path in copied.path.rglob("*") if path.name.startswith("soup-")]
    assert left == []  # a model that no job makes any more goes with its files
    assert list(read_json(copied.path / "ensembles.json")) == ["ens-mean_probs"]
    assert "metrics.parquet" not in changed(before, results(copied))


@pytest.mark.parametrize(
    "option", ["ensemble.compare=[greedy]", "ensemble.strategy=stacking", "ensemble.soups=[greedy]"]
)
def test_a_fit_on_the_reported_split_is_refused(option: str) -> None:
    message = r"ensemble\.fit_split is 'dev', the split that is reported: .*(greedy|stacking).* would be tuned on it"
    with pytest.raises(ValueError, match=message):
        tiny(option, "ensemble.fit_split=dev", "evaluate.split=dev")
    tiny(option, "ensemble.fit_split=dev", "evaluate.split=test")
    tiny(
        "ensemble.compare=[geometric_mean]", "ensemble.soups=[uniform]", "ensemble.fit_split=dev", "evaluate.split=dev"
    )


# ---- soups ----------------------------------------------------------------------------------------------------------
def test_a_uniform_soup_is_the_average_of_the_files(everything: Finished) -> None:
    run = everything.run
    members = [weights_of(run, member) for member in chosen(run)]
    soup = weights_of(run, "soup-uniform")
    assert soup.keys() == members[0].keys()
    for name, value in soup.items():
        expected = (members[0][name].double() + members[1][name].double() + members[2][name].double()) / 3
        torch.testing.assert_close(value.double(), expected, rtol=1e-7, atol=1e-9)  # rounded to float32
    assert any((members[0][name] != members[1][name]).any() for name in soup)
    assert read_json(run.path / "soup-uniform.json")["members"] == chosen(run)
    assert set(run.read_predictions("soup-uniform", "nli").splits) == {"selection", "dev", "test"}


def test_a_greedy_soup_is_not_below_its_best_member_where_it_is_fitted(everything: Finished) -> None:
    run = everything.run
    about = read_json(run.path / "soup-greedy.json")
    scores = scores_of(run, "score", "selection")
    mean = {model: np.mean([scores[model, task] for task in everything.config.data.tasks])
            for model in ("soup-greedy", *chosen(run))}  # fmt: skip
    assert about["of"] == chosen(run)
    assert set(about["members"]) <= set(chosen(run))
    # mt-3 answers by MC dropout, which is no set of weights: its stored score is not that of its weights.
    plain = [member for member in chosen(run) if member != "mt-3"]
    assert len(plain) >= 2
    assert mean["soup-greedy"] >= max(mean[member] for member in plain) - 1e-9


@pytest.mark.parametrize("soup", ["soup-uniform", "soup-greedy"])
def test_a_soup_stands_beside_its_members_and_their_ensemble(soup: str, everything: Finished) -> None:
    run, about = everything.run, read_json(everything.run.path / f"{soup}.json")
    assert about["scores"].keys() == set(everything.config.data.tasks)
    for task, of_split in about["scores"].items():
        assert of_split.keys() == {"selection", "dev", "test"}
        for split, found in of_split.items():
            stored = scores_of(run, "score", split)
            assert found["soup"] == pytest.approx(stored[soup, task], abs=1e-9)
            assert found["members"] == pytest.approx([stored[m, task] for m in about["members"]], abs=1e-9)
            if task == "similarity" and soup == "soup-uniform":
                # The members' own ensemble. Values that hardly differ, stored in float32: a correlation of 5 digits.
                assert found["ensemble"] == pytest.approx(stored["ens-mean_probs", task], abs=1e-4)


def test_weights_of_other_shapes_have_no_average() -> None:
    one = {"w": torch.zeros(2, 3), "ids": torch.arange(3)}
    check_shapes({"mt-1": one, "mt-2": {name: value + 1 for name, value in one.items()}})
    with pytest.raises(ValueError, match=r"'mt-2' has w of shape \(2, 4\), 'mt-1' has \(2, 3\); weights of different"):
        check_shapes({"mt-1": one, "mt-2": {**one, "w": torch.zeros(2, 4)}})
    with pytest.raises(ValueError, match=r"'mt-3' has b of shape \(1,\), 'mt-1' has None"):
        check_shapes({"mt-1": one, "mt-2": one, "mt-3": {**one, "b": torch.zeros(1)}})
    mean = averaged([one, {"w": torch.ones(2, 3), "ids": torch.arange(3)}])
    assert mean["w"].tolist() == [[0.5] * 3] * 2
    assert mean["ids"].tolist() == [0, 1, 2]
    wide = "multitask.encoders=['random:bert(layers=1,hidden=32,heads=2)', 'random:bert(layers=1,hidden=48,heads=2)']"
    for members in (wide, "multitask.pool=[{}, {head: linear}]"):
        with pytest.raises(ValueError, match=r"ensemble\.soups averages weights, but the members have 2 different enc"):
            tiny("ensemble.soups=[uniform]", members)


# ---- out of fold ----------------------------------------------------------------------------------------------------
def test_no_teacher_of_a_fold_has_seen_the_rows_that_it_labels(
    folded: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = trainings(copy_of(folded, tmp_path), folded.config, "finetune", monkeypatch)

    def trained_on(model: str, task: str) -> set[str]:
        data = seen[model].datas[task]
        return set(data.example_ids[data.rows("train")])

    for task in ("nli", "similarity"):
        train = trained_on("ft-1-" + task, task)
        assert len(train) == 120
        held_out = [set(folded.run.read_predictions(f"ft-1-{task}-f{fold}", task).example_ids) for fold in (0, 1)]
        assert held_out[0] | held_out[1] == train
        assert not held_out[0] & held_out[1]
        assert min(map(len, held_out)) > 40  # about half: 60 with a standard deviation of 5.5
        for fold, rows in enumerate(held_out):
            for i in (1, 2):
                # Neither the teacher nor the member that it starts from.
                assert trained_on(f"ft-{i}-{task}-f{fold}", task) == train - rows
                assert trained_on(f"mt-{i}-f{fold}", task) == train - rows
        table = pq.read_table(folded.run.targets_path(task))
        assert set(table["example_id"].to_pylist()) == train
        assert not any(table["in_sample"].to_pylist())


def test_each_fold_is_labelled_by_its_own_teachers(folded: Finished) -> None:
    run = folded.run
    for task in ("nli", "similarity"):
        rows = {row["example_id"]: row for row in pq.read_table(run.targets_path(task)).to_pylist()}
        found: dict[str, Any] = {}
        for fold in (0, 1):
            stored = [run.read_predictions(f"ft-{m[3:]}-{task}-f{fold}", task) for m in chosen(run)]
            by_id = [dict(zip(p.example_ids, p.outputs.astype(np.float64), strict=True)) for p in stored]
            found |= {name: [of_teacher[name] for of_teacher in by_id] for name in by_id[0]}
        assert found.keys() == rows.keys()
        for name, outputs in found.items():
            if task == "nli":
                np.testing.assert_allclose(softmax(rows[name]["logits"]), softmax(outputs, -1).mean(0), atol=2e-6)
            else:
                assert rows[name]["value"] == pytest.approx(np.mean(outputs), abs=2e-6)
                assert rows[name]["std"] == pytest.approx(abs(outputs[0] - outputs[1]) / 2, abs=2e-6)
        # Not those of the teachers that have seen all rows.
        whole = run.read_predictions(f"ft-1-{task}", task).on("train")
        assert max(np.abs(one - np.array(found[name][0])).max() for name, one in
                   zip(whole.example_ids, whole.outputs, strict=True)) > 1e-3  # fmt: skip
    # Only the teachers of all rows are scored.
    models = set(pq.read_table(run.path / "metrics.parquet")["model"].to_pylist())
    assert models == {"mt-1", "mt-2", "ens-mean_probs", "st-hard-s0", "st-kd-s0", "st-truth-s0"} | {
        f"ft-{i}-{task}" for i in (1, 2) for task in ("nli", "similarity")
    }


def test_rows_that_share_their_first_text_are_in_one_fold() -> None:
    texts = [f"premise {i // 3}" for i in range(300)]
    splits = ["train"] * 270 + ["dev"] * 30
    table = pa.table({"text_a": texts, "split": splits})
    found = []
    for fold in range(3):
        context = SimpleNamespace(
            job=SimpleNamespace(spec={"fold": fold, "n_folds": 3}),
            config=tiny(),
            run=SimpleNamespace(read_examples=lambda task: table),
        )
        found.append(held_out_rows(context, "nli"))  # type: ignore[arg-type]
    assert np.sum(found, axis=0).tolist() == [1] * 270 + [0] * 30  # each training row in one fold, and no other row
    for held_out in found:
        by_premise = held_out[:270].reshape(90, 3)
        assert (by_premise.all(axis=1) | ~by_premise.any(axis=1)).all()
        assert 15 < by_premise[:, 0].sum() < 45  # 30 with a standard deviation of 4.5


def test_folds_do_not_go_with_snapshots() -> None:
    with pytest.raises(ValueError, match="out_of_fold does not go with snapshots"):
        tiny(*EVERYTHING, "ensemble.targets=out_of_fold")
    assert resolve_tasks(tiny(*EVERYTHING)).keys() == {"sentiment", "nli", "similarity"}
