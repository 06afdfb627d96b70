"""One task's table: joins by id, voices, derived columns against naive loops, and honest refusals."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Finished
from hypothesis import given, settings
from hypothesis import strategies as st
from test_views_toy import TRI, Toy, entropy, kl, log_mean, softmax, table_of, write_toy

from core.calibration import nll_N
from core.store import Predictions, read_json, write_json
from core.views import NotDefined
from core.views.derived import COHORTS, COLUMNS, available, cohort_codes, column, why_absent
from core.views.reading import chunks, positions
from core.views.table import fingerprint, load_table, splits_of


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return write_toy(tmp_path_factory.mktemp("views") / "toy")


def test_rows_are_joined_by_id(toy: Toy) -> None:
    table, rows = table_of(toy), toy.on("tri")
    assert table.ids.to_pylist() == toy.ids["tri"][rows].tolist()
    for model in ("mt-1", "ft-2-tri", "st-hard-s1", "ens-mean_probs"):
        np.testing.assert_array_equal(table.outputs(model), toy.logits["tri"][model][rows])
    np.testing.assert_array_equal(table.gold_N, toy.gold["tri"][rows])
    assert table.truth_NC is not None
    np.testing.assert_allclose(table.truth_NC, toy.truth["tri"][rows], rtol=1e-6)  # float32
    assert len(table) == 120
    assert splits_of(toy.run, "tri") == {"train": 30, "selection": 40, "test": 120}


def test_voices(toy: Toy) -> None:
    table, rows = table_of(toy), toy.on("tri")
    logits = {name: of[rows] for name, of in toy.logits["tri"].items()}
    assert table.members == ("ft-1-tri", "ft-2-tri", "ft-3-tri")
    assert table.students == {v: {s: f"st-{v}-s{s}" for s in (0, 1)} for v in ("hard", "kd")}
    assert table.teacher_in_words == "ens-mean_probs"
    # float32 storage: seven digits
    np.testing.assert_allclose(table.probs("teacher"), softmax(logits["ens-mean_probs"]), rtol=1e-5)
    mean = (softmax(logits["st-kd-s0"]) + softmax(logits["st-kd-s1"])) / 2
    np.testing.assert_allclose(table.probs("kd"), mean, rtol=1e-5)
    np.testing.assert_allclose(table.probs("st-kd-s1"), softmax(logits["st-kd-s1"]), rtol=1e-5)
    np.testing.assert_array_equal(table.answers("kd"), mean.argmax(1))
    gold = toy.gold["tri"][rows]
    np.testing.assert_array_equal(table.is_right("kd"), (mean.argmax(1) == gold) & (gold >= 0))
    assert set(table.voices) == {"teacher", "hard", "kd", *toy.logits["tri"]}
    with pytest.raises(ValueError, match=r"voice 'kdd' is not known; did you mean 'kd'"):
        table.probs("kdd")


def test_without_an_ensemble_the_teachers_are_averaged(tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "x", ensemble=False, tasks=["tri", "score"])
    table, rows = table_of(toy), toy.on("tri")
    expected = np.exp(log_mean([toy.logits["tri"][f"ft-{m}-tri"][rows] for m in (1, 2, 3)]))
    np.testing.assert_allclose(table.probs("teacher"), expected, rtol=1e-5)
    assert "no ensemble yet" in table.teacher_in_words
    values = np.mean([toy.logits["score"][f"ft-{m}-score"] for m in (1, 2, 3)], axis=0)[toy.on("score")]
    np.testing.assert_allclose(table_of(toy, "score").values("teacher"), values, rtol=1e-5)


def test_extreme_logits_stay_finite(tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "x", tasks=["tri"], scale=1e3, ensemble=False)  # the naive mean would overflow
    table = table_of(toy)
    assert (table.probs("teacher") == 0).any()  # the case occurs
    for name in available(table):
        values = column(table, name)
        known = np.isfinite(np.asarray(values, np.float64))
        assert known.all() or name.endswith(("truth", "humans", "gold_prob")), name
        assert not np.isinf(np.asarray(values, np.float64)).any(), name


def naive_columns(toy: Toy) -> dict[str, list[float]]:
    """Every number and flag of `tri`, one example at a time."""
    of, rows = toy.logits["tri"], toy.on("tri")
    found: dict[str, list[float]] = {}
    for i in rows:
        gold, truth = int(toy.gold["tri"][i]), toy.truth["tri"][i]
        members = [softmax(of[f"ft-{m}-tri"][i]) for m in (1, 2, 3)]
        teacher = softmax(of["ens-mean_probs"][i])
        student = (softmax(of["st-kd-s0"][i]) + softmax(of["st-kd-s1"][i])) / 2
        hard = (softmax(of["st-hard-s0"][i]) + softmax(of["st-hard-s1"][i])) / 2
        answers = [int(p.argmax()) for p in members]
        pairs = [(0, 1), (0, 2), (1, 2)]
        known = np.isfinite(truth).all()
        row = {
            "kl": kl(teacher, student),
            "kl_baseline": kl(teacher, hard),
            "entropy": entropy(teacher),
            "member_entropy": sum(map(entropy, members)) / 3,
            "mutual_information": sum(kl(p, sum(members) / 3) for p in members) / 3,
            "disagreement": sum(answers[a] != answers[b] for a, b in pairs) / 3,
            "confidence": max(teacher),
            "gold_prob": teacher[gold] if gold >= 0 else np.nan,
            "student_entropy": entropy(student),
            "student_confidence": max(student),
            "student_gold_prob": student[gold] if gold >= 0 else np.nan,
            "teacher_kl_truth": kl(truth, teacher) if known else np.nan,
            "student_kl_truth": kl(truth, student) if known else np.nan,
            "teacher_kl_humans": kl(truth, teacher) if known else np.nan,
            "student_kl_humans": kl(truth, student) if known else np.nan,
            "agree": float(teacher.argmax() == student.argmax()),
            "unanimous": float(len(set(answers)) == 1),
            "cohort": COHORTS.index(cohort(teacher.argmax() == gold, hard.argmax() == gold, student.argmax() == gold))
            if gold >= 0
            else -1.0,
        }
        for name, value in row.items():
            found.setdefault(name, []).append(float(value))
    return found


def cohort(teacher: bool, hard: bool, student: bool) -> str:
    """Eight cohorts, as their words say."""
    return {
        (True, False, True): "taught",
        (True, True, True): "kept",
        (True, False, False): "missed",
        (False, True, False): "mis-taught",
        (False, True, True): "resisted",
        (False, False, True): "surpassed",
        (True, True, False): "lost",
        (False, False, False): "hopeless",
    }[bool(teacher), bool(hard), bool(student)]


def test_every_column_against_a_loop(toy: Toy) -> None:
    table, expected = table_of(toy), naive_columns(toy)
    assert set(available(table)) == set(expected) == {name for name, spec in COLUMNS.items() if spec.of == "classes"}
    for name, values in expected.items():
        # Inputs are float32 log-probabilities, so divergences are exact to about 1e-6 absolute.
        np.testing.assert_allclose(column(table, name), values, rtol=1e-5, atol=2e-6, err_msg=name)
    assert len(set(expected["cohort"])) == 9  # all eight, and unknown gold


def test_regression_columns(toy: Toy) -> None:
    table, rows, of = table_of(toy, "score"), toy.on("score"), toy.logits["score"]
    student = (of["st-kd-s0"] + of["st-kd-s1"])[rows] / 2
    teacher, gold = of["ens-mean_probs"][rows], toy.gold["score"][rows]
    expected = {
        "gold_value": gold,
        "teacher_value": teacher,
        "student_value": student,
        "teacher_error": teacher - gold,
        "student_error": student - gold,
        "gap": student - teacher,
        "spread": np.std([of[f"ft-{m}-score"][rows] for m in (1, 2, 3)], axis=0),
        "teacher_truth_error": teacher - toy.truth["score"][rows],
        "student_truth_error": student - toy.truth["score"][rows],
    }
    assert set(available(table)) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(column(table, name), values, rtol=1e-5, atol=1e-6, err_msg=name)
    with pytest.raises(NotDefined, match="regression"):
        table.log_probs("teacher")
    with pytest.raises(NotDefined, match="of kind 'regression', which has no"):
        column(table, "entropy")


def test_what_is_not_there_is_absent_and_says_why(tmp_path: Path) -> None:
    bare = write_toy(tmp_path / "bare", members=1, known=False, variants=("kd",), tasks=["tri"])
    table = table_of(bare)
    names = available(table)
    assert {"kl", "entropy", "agree"} <= set(names)
    for name, reason in {
        "mutual_information": "fewer than two teachers",
        "teacher_kl_truth": "no true probabilities",
        "student_kl_humans": "no annotators",
        "cohort": "no predictions of student 'hard'",
        "spread": "classification",
    }.items():
        assert name not in names
        assert reason in (why_absent(table, name) or "")
        with pytest.raises(NotDefined, match=reason):
            column(table, name)
    with pytest.raises(NotDefined, match="student 'cwtm'"):
        column(table, "kl", student="cwtm")
    with pytest.raises(ValueError, match="not known"):
        column(table, "klx")
    unlabelled = table_of(write_toy(tmp_path / "unlabelled", gold=False, tasks=["tri"]))
    assert not {"cohort", "gold_prob"} & set(available(unlabelled))
    with pytest.raises(NotDefined, match="no true probabilities"):
        table.known("truth")


def test_a_teacher_only_run_is_usable(tmp_path: Path) -> None:
    table = table_of(write_toy(tmp_path / "x", variants=(), ensemble=False, tasks=["tri"]))
    assert "mutual_information" in available(table)
    assert "kl" not in available(table)


def test_the_student_may_be_one_model(toy: Toy) -> None:
    table, rows = table_of(toy), toy.on("tri")
    teacher, student = (softmax(toy.logits["tri"][m][rows]) for m in ("ens-mean_probs", "st-hard-s1"))
    expected = [kl(p, q) for p, q in zip(teacher, student, strict=True)]
    np.testing.assert_allclose(column(table, "kl", student="st-hard-s1"), expected, rtol=1e-5, atol=2e-6)
    assert column(table, "entropy", student="st-hard-s1") is column(table, "entropy")  # not of the student: one copy


def test_shared_arrays_cannot_be_written(toy: Toy) -> None:
    table = table_of(toy)
    for array in (table.outputs("mt-1"), table.log_probs("kd"), table.answers("kd"), column(table, "kl")):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_texts_and_rows(toy: Toy) -> None:
    table, rows = table_of(toy), toy.on("tri")
    (text,) = table.texts([3])
    assert text == (toy.ids["tri"][rows[3]], text.text_a, f"a reply to {rows[3]}", None)
    assert text.text_a.endswith(f"number {rows[3]}")
    assert table.row_of(text.example_id) == 3
    elsewhere = toy.ids["tri"][toy.on("tri", "train")[0]]
    with pytest.raises(ValueError, match="it is in split 'train'"):
        table.row_of(elsewhere)
    with pytest.raises(ValueError, match=r"no example 'nope' in split 'test' of task 'tri'$"):
        table.row_of("nope")
    expected = [i % 3 != 0 for i in rows]
    np.testing.assert_array_equal(table.contains("SOUP"), expected)
    np.testing.assert_array_equal(
        table.contains(f"reply to {rows[0]}"), [str(i).startswith(str(rows[0])) for i in rows]
    )


def test_wrong_splits_and_tasks(toy: Toy) -> None:
    with pytest.raises(ValueError, match=r"no rows in split 'tset'; did you mean 'test'\?"):
        table_of(toy, split="tset")
    with pytest.raises(ValueError, match=r"task 'trj' is not known; did you mean 'tri'\?"):
        table_of(toy, "trj")


def test_a_model_without_the_split_is_left_out(toy: Toy, tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "x", tasks=["tri"])
    stored = toy.run.read_predictions("ft-2-tri", "tri")
    toy.run.write_predictions("ft-2-tri", TRI, stored.on("train"))
    table = table_of(toy)
    assert table.members == ("ft-1-tri", "ft-3-tri")
    with pytest.raises(
        NotDefined, match=r"This run has no predictions of 'ft-2-tri' on split 'test' of task 'tri'; it"
    ):
        table.probs("ft-2-tri")
    assert "ft-2-tri" not in table.model_names


def spoil(toy: Toy, model: str, *, outputs: np.ndarray | None = None, labels: tuple[str, ...] = TRI.labels,
          drop: int = 0) -> None:  # fmt: skip
    stored = toy.run.read_predictions(model, "tri")
    new = stored.outputs if outputs is None else outputs
    keep = slice(drop, None)
    changed = Predictions(stored.example_ids[keep], stored.splits[keep], new[keep], labels)
    toy.run.write_predictions(model, TRI, changed)


def test_damaged_predictions(tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "x", tasks=["tri"])
    stored = toy.run.read_predictions("mt-1", "tri")
    row = int(np.flatnonzero(stored.splits == "test")[4])
    outputs = stored.outputs.copy()
    outputs[row, 1] = np.nan
    spoil(toy, "mt-1", outputs=outputs)
    spoil(toy, "mt-2", labels=("maybe", "yes", "no"))
    spoil(toy, "mt-3", drop=50)
    (toy.run.predictions_path("st-kd-s0", "tri")).write_bytes(b"nothing")
    table = table_of(toy)
    with pytest.raises(
        ValueError, match=f"model 'mt-1', task 'tri': the output of example '{stored.example_ids[row]}'"
    ):
        table.outputs("mt-1")
    with pytest.raises(ValueError, match=r"mt-2.*has the labels"):
        table.outputs("mt-2")
    with pytest.raises(ValueError, match="ids unknown"):
        table.outputs("mt-3")
    with pytest.raises(ValueError, match="not a readable parquet"):
        table.outputs("st-kd-s0")
    with pytest.raises(ValueError, match="does not exist: model 'mt-9'"):
        table.outputs("mt-9")
    pq.write_table(pa.table({"example_id": ["a"], "split": ["test"]}), toy.run.predictions_path("mt-1", "tri"))
    with pytest.raises(ValueError, match="has no column 'logits'"):
        load_table(toy.run, "tri", "test").outputs("mt-1")


def test_missing_examples(tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "x", tasks=["tri"])
    toy.run.examples_path("tri").unlink()
    with pytest.raises(ValueError, match="run stage 'prepare' first"):
        table_of(toy)


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "x", tasks=["tri", "two"])
    seen = {fingerprint(toy.run, "tri")}
    other = fingerprint(toy.run, "two")
    assert fingerprint(toy.run, "tri") in seen
    path = toy.run.predictions_path("mt-1", "tri")
    os.utime(path, ns=(1, 1))
    seen.add(fingerprint(toy.run, "tri"))
    path.unlink()
    seen.add(fingerprint(toy.run, "tri"))
    ensembles = toy.run.path / "ensembles.json"
    write_json(ensembles, {**read_json(ensembles), "ens-x": {"tasks": {}}})
    seen.add(fingerprint(toy.run, "tri"))
    assert len(seen) == 4
    assert fingerprint(toy.run, "two") != other  # ensembles.json is of both


def test_cohort_codes_are_those_of_the_table() -> None:
    for outcome in range(8):
        flags = [bool(outcome & 4), bool(outcome & 2), bool(outcome & 1)]
        (code,) = cohort_codes(*(np.array([flag]) for flag in flags))
        assert COHORTS[code] == cohort(*flags)


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(12)), st.integers(1, 12))
def test_positions_are_found(order: list[int], n: int) -> None:
    have = pa.array([f"id{i}" for i in order])
    want = pa.array([f"id{i}" for i in range(n)])
    assert have.take(pa.array(positions(have, want, what="x"))).equals(want)


def test_chunks_cover() -> None:
    for n in (0, 1, 9, 10, 11):
        assert [i for part in chunks(n, 5) for i in range(n)[part]] == list(range(n))


def test_the_table_has_the_runs_own_scores(smoke: Finished) -> None:
    """Against what `evaluate` stored of a real run, every model of every task with classes."""
    stored = pq.read_table(smoke.run.path / "metrics.parquet").to_pandas()
    n_checked = 0
    for task in ("sentiment", "nli", "paraphrase", "relevance", "acceptability"):
        table = load_table(smoke.run, task, "test")
        for model in table.model_names:
            rows = stored[(stored.model == model) & (stored.task == task) & (stored.split == "test")]
            value = rows.set_index("metric")["value"]
            assert table.is_right(model).mean() == pytest.approx(value["accuracy"], abs=1e-12)
            assert nll_N(table.log_probs(model), table.gold_N).mean() == pytest.approx(value["nll"], rel=1e-5)
            if model == "ens-mean_probs":
                assert column(table, "teacher_kl_truth").mean() == pytest.approx(value["kl_truth"], rel=1e-4)
            n_checked += 1
    assert n_checked > 40
