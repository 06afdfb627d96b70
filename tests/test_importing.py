"""`import-predictions`: runs made of files, what is refused and how, and two real BERTs on SNLI's development set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Finished
from test_cli import call, refused
from test_data import DATA

from core.store import Run
from core.views.catalogue import find_runs, models_of_run
from core.views.results import read_results, summaries
from core.views.table import load_table

NLI = ("entailment", "neutral", "contradiction")
GOLD = [NLI[i % 3] for i in range(6)]


def write_dev(folder: Path, n: int = 6) -> Path:
    """n rows with a gold label and one without, which comes first so that rows and examples differ."""
    lines = [
        {"pairID": f"p{i}", "gold_label": "-" if i < 0 else NLI[i % 3], "annotator_labels": [NLI[i % 3]] * 4 + [NLI[0]]}
        | {"sentence1": f"a dog runs {i}", "sentence2": f"an animal moves {i}"}
        for i in range(-1, n)
    ]
    path = folder / "dev.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_outputs(path: Path, rows: dict[str, Any], labels: tuple[str, ...] = NLI) -> Path:
    """A CSV; `rows` maps an id to numbers, which may be lists for ids that come more than once."""
    lines = [",".join(("pairID", *labels)), *(f"{k},{','.join(map(str, v))}" for k, v in rows.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def right(n: int = 6, scale: float = 2.0) -> dict[str, list[float]]:
    return {f"p{i}": [scale * (i % 3 == j) for j in range(3)] for i in range(n)}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_dev(tmp_path)
    write_outputs(tmp_path / "a.csv", right())
    return tmp_path


def arguments(place: Path, *more: object, file: str = "a.csv") -> list[object]:
    asked = ["--out", place / "run", "--task", "snli", "--examples", place / "dev.jsonl"]
    return ["import-predictions", *asked, "--model", f"a={place / file}", *more]


def test_a_run_of_two_teachers_and_a_student(place: Path) -> None:
    wrong = right() | {"p0": [0.0, 5.0, 0.0]}
    # Rows and columns in another order: both are joined by name.
    shuffled = {k: v[::-1] for k, v in reversed(wrong.items())}
    write_outputs(place / "b.csv", shuffled, NLI[::-1])
    probs = pa.table(
        {"pairID": list(right()), **{f"logit_{name}": [r[j] for r in right().values()] for j, name in enumerate(NLI)}}
    )
    pq.write_table(probs, place / "s.parquet")
    more = ("--model", f"b={place / 'b.csv'}", "--model", f"s={place / 's.parquet'}", "--role", "s=student:kd:3")
    result = call(*arguments(place, *more))
    assert result.exit_code == 0, result.stderr
    (found,) = [one for one in find_runs(place) if one.name == "run"]
    assert (found.status, found.tasks, found.error) == ("imported", ("snli",), None)
    run = Run(place / "run")
    models = models_of_run(run)
    assert models.teachers("snli") == ("a", "b")
    assert models.students("snli") == {"kd": {3: "s"}}
    assert models.taught_by == "ens-mean_probs"
    table = load_table(run, "snli", "dev")
    assert table.members == ("a", "b")
    assert table.ids.to_pylist()[0] == "snli/dev/0000001"  # the row without gold keeps its number
    np.testing.assert_allclose(table.humans_NC[1], [0.2, 0.8, 0.0], atol=1e-6)
    outputs = run.read_predictions("b", "snli").outputs
    np.testing.assert_array_equal(outputs, np.array(list(wrong.values()), np.float32))
    p_MN = [
        np.exp(o) / np.exp(o).sum(axis=1, keepdims=True) for o in (run.read_predictions("a", "snli").outputs, outputs)
    ]
    mixed = np.exp(run.read_predictions("ens-mean_probs", "snli").outputs)
    np.testing.assert_allclose(mixed, np.mean(p_MN, axis=0), atol=1e-6)
    results = read_results(run)
    assert results.split == "dev"
    assert results.scores["b", "snli", "dev", "accuracy"].value == pytest.approx(5 / 6)
    assert {one.group for one in summaries(results, metrics=["accuracy"])} == {"teachers", "ens-mean_probs", "kd"}
    (about,) = run.manifest()["imports"]
    assert (about["rows"], about["no_gold"], len(about["sources"])) == ({"dev": 6}, 1, 4)


def test_models_can_be_added_and_the_ensemble_follows(place: Path) -> None:
    assert call(*arguments(place)).exit_code == 0
    run = Run(place / "run")
    assert run.models() == ["a"]  # one teacher is no ensemble
    add = arguments(place)[:-1]
    assert call(*add, f"b={place / 'a.csv'}").exit_code == 0
    assert run.models() == ["a", "b", "ens-mean_probs"]
    assert list(run.manifest()["models"]) == ["a", "b", "ens-mean_probs"]
    assert {key[0] for key in read_results(run).scores} == {"a", "b", "ens-mean_probs"}
    assert "has a model 'a' already" in refused(*arguments(place))
    write_dev(place, n=3)
    write_outputs(place / "c.csv", right(3))
    assert "other examples" in refused(*add, f"c={place / 'c.csv'}")


def test_partial_keeps_what_all_have_and_says_so(place: Path) -> None:
    rows = right() | {"q9": [1, 0, 0]}
    del rows["p4"], rows["p2"]
    write_outputs(place / "few.csv", rows)
    message = refused(*arguments(place, file="few.csv"))
    assert "1 ids (pairID) are not among the examples, first: 'q9'" in message
    del rows["q9"]
    write_outputs(place / "less.csv", rows)
    message = refused(*arguments(place, file="less.csv"))
    assert "2 ids (pairID) of the examples have no prediction, first: 'p2'" in message
    assert not (place / "run").exists()
    assert call(*arguments(place, "--partial", file="few.csv")).exit_code == 0
    run = Run(place / "run")
    assert run.manifest()["imports"][0]["left_out"] == {"examples": 2, "a": {"unknown": 1, "missing": 2}}
    assert len(load_table(run, "snli", "dev")) == 4


def test_humans_of_another_file(place: Path) -> None:
    lines = [{"uid": "p1", "label_counter": {"e": 1, "c": 3}}, {"uid": "elsewhere", "label_counter": {"n": 100}}]
    (place / "chaos.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert call(*arguments(place, "--humans", place / "chaos.jsonl")).exit_code == 0
    run = Run(place / "run")
    humans_NC = load_table(run, "snli", "dev").humans_NC
    np.testing.assert_allclose(humans_NC[1], [0.25, 0, 0.75])
    np.testing.assert_allclose(humans_NC[2], [0.2, 0, 0.8], atol=1e-6)
    assert run.read_examples("snli")["n_humans"].to_pylist()[:3] == [5, 4, 5]
    assert run.manifest()["imports"][0]["humans"]["not_among_examples"] == 1
    (place / "chaos.jsonl").write_text('{"uid": "p1", "label_counter": {"x": 1}}\n', encoding="utf-8")
    new = arguments(place, "--humans", place / "chaos.jsonl", "--out", place / "other")
    assert "counts the label 'x'" in refused(*new)


def test_probabilities(place: Path) -> None:
    soft = {k: [0.8 if x else 0.1 for x in v] for k, v in right().items()}
    write_outputs(place / "p.csv", soft | {"p0": [1.0, 0.0, 0.0]})
    assert "add --probs" in refused(*arguments(place, file="p.csv"))  # or their softmax would be taken
    assert call(*arguments(place, "--probs", file="p.csv")).exit_code == 0
    outputs = Run(place / "run").read_predictions("a", "snli").outputs
    assert np.isfinite(outputs).all()
    np.testing.assert_allclose(np.exp(outputs[1]), [0.1, 0.8, 0.1], atol=1e-6)
    write_outputs(place / "p.csv", soft | {"p2": [0.5, 0.5, 0.5]})
    message = refused(*arguments(place, "--probs", "--out", place / "other", file="p.csv"))
    assert "1 rows, first 'p2'" in message
    assert "the sum 1" in message


@pytest.mark.parametrize(
    ("labels", "changed", "expected"),
    [
        (("entailment", "neutral", "contra"), {}, "expected one for each label of 'snli'"),
        (("logit_entailment", "logit_neutral", "logit_x"), {}, "expected one for each label of 'snli'"),
        (("prob_entailment", "prob_neutral", "prob_contradiction"), {}, "add --probs"),
        (NLI, {"p3": ["nan", 0, 0]}, "1 rows, first 'p3'"),
        (NLI, {"p3": ["", 0, 0]}, "1 rows, first 'p3'"),
        (NLI, {"p3": ["NA", 0, 0]}, "expected a number"),
        (NLI, {" p0": [1, 2, 3]}, "1 ids of column 'pairID' occur more than once, first: 'p0'"),
    ],
)
def test_damaged_outputs(place: Path, labels: tuple[str, ...], changed: dict[str, Any], expected: str) -> None:
    write_outputs(place / "bad.csv", right() | changed, labels)
    assert expected in refused(*arguments(place, file="bad.csv"))
    assert not (place / "run").exists()


def test_swapped_columns_are_noticed(tmp_path: Path) -> None:
    write_dev(tmp_path, n=60)
    write_outputs(tmp_path / "a.csv", right(60), ("neutral", "contradiction", "entailment"))
    message = refused(*arguments(tmp_path))
    assert "accuracy of 0.000, and 1.000 with its columns renamed" in message
    assert "neutral -> entailment" in message


def test_mistakes_in_arguments(place: Path, smoke: Finished) -> None:
    assert "role 'professor'" in refused(*arguments(place, "--role", "a=professor"))
    assert "which no --model has" in refused(*arguments(place, "--role", "aa=teacher"))
    assert "expected an imported or a new one" in refused(*arguments(place, "--out", smoke.run.path))
    assert "expected a new or imported one" in refused(*arguments(place, "--out", place))
    assert "write SPLIT=FILE" in refused(*arguments(place, "--examples", place / "a.csv"))
    assert "twice" in refused(*arguments(place, "--examples", f"dev={place / 'dev.jsonl'}"))
    assert "no column 'pair'" in refused(*arguments(place, "--key", "pair"))
    assert "does not exist" in refused(*arguments(place, file="nothing.csv"))
    assert "expected NAME=FILE" in refused(*arguments(place, "--model", "b"))
    assert "is a regression" in refused(*arguments(place, "--task", "stsb"))
    assert "did you mean 'snli'" in refused(*arguments(place, "--task", "snl"))
    assert not (place / "run").exists()


@pytest.mark.skipif(not (DATA / "teacher_logits").is_dir(), reason="no $DARKROOM_DATA")
def test_two_real_berts(tmp_path: Path) -> None:
    file = DATA / "teacher_logits" / "snli_dev_bert-base-uncased.parquet"
    asked = ["import-predictions", "--out", tmp_path / "berts", "--task", "snli"]
    asked += ["--examples", DATA / "snli" / "dev.jsonl", "--humans", DATA / "humans" / "chaosNLI_snli.jsonl"]
    both = [part for i in (0, 1) for part in ("--model", f"bert-{i}={file}@seed={i}")]
    assert "FILE@COLUMN=VALUE" in refused(*asked, "--model", f"bert={file}")  # both seeds are in the file
    assert call(*asked, *both).exit_code == 0
    run = Run(tmp_path / "berts")
    table = load_table(run, "snli", "dev")
    assert len(table) == 9842
    assert table.members == ("bert-0", "bert-1")
    assert not np.isnan(table.humans_NC).any()
    for name in table.members:
        accuracy = (run.read_predictions(name, "snli").outputs.argmax(axis=1) == table.gold_N).mean()
        assert accuracy == pytest.approx(0.89, abs=0.01)
        assert read_results(run).scores[name, "snli", "dev", "accuracy"].value == pytest.approx(accuracy)
    assert read_results(run).scores["ens-mean_probs", "snli", "dev", "accuracy"].value > 0.9
