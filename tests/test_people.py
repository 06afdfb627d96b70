"""benchmarks/people: distances to people, their intervals over premises, halves by premise, and the page of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import snli_halves
from benchmarks.people import hundred, measured, summary
from benchmarks.people_page import CSV, page, read_rows, said, write_rows
from core.calibration import kl_N
from core.tasks import find_task
from core.views.distances import js_distance_N

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
LABELS = ("entailment", "neutral", "contradiction")


def test_halves_keep_a_premise_together(tmp_path: Path) -> None:
    (tmp_path / "snli").mkdir()
    dev = [
        {"pairID": f"{p}-{h}", "gold_label": LABELS[h], "annotator_labels": [LABELS[h]] * 5}
        | {"sentence1": f"premise {p}", "sentence2": f"hypothesis {h}"}
        for p in range(40)
        for h in range(3)
    ]
    (tmp_path / "snli" / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in dev), encoding="utf-8")
    shared = next(row["sentence1"] for row in dev if not snli_halves.in_half_a(row["sentence1"]))
    lines = ["index\tpairID\tsentence1\tsentence2\tgold_label\tsource"]
    lines += [f'{i}\tsame\t{text}\ta "quote\tneutral\tx' for i, text in enumerate(("elsewhere", shared))]
    (tmp_path / "snli" / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = snli_halves.halves(tmp_path)
    train, b = found["train"], found["dev"]
    assert {row["sentence1"] for row in train}.isdisjoint({row["sentence1"] for row in b})
    assert len(b) % 3 == 0
    assert 30 < len(b) < 90
    assert [row["pairID"] for row in train if row["pairID"].startswith("train-")] == ["train-0"]
    assert len(train) + len(b) == len(dev) + 1
    snli_halves.write(found, tmp_path / "out")
    read = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert read == train


def test_a_hundred_annotators_are_found_by_their_texts(tmp_path: Path) -> None:
    item = {"uid": "x", "label_counter": {"n": 75, "e": 25}, "example": {"premise": "p", "hypothesis": "h"}}
    (tmp_path / "chaos.jsonl").write_text(json.dumps(item) + "\n", encoding="utf-8")
    task = find_task("snli")
    found = hundred(tmp_path / "chaos.jsonl", task, [("p", "h"), ("p", "other")])
    expected = [{"entailment": 0.25, "neutral": 0.75}.get(label, 0.0) for label in task.labels]
    np.testing.assert_allclose(found[0], expected)
    assert np.isnan(found[1]).all()


def test_intervals_are_over_premises_and_errors_over_models() -> None:
    rng = np.random.default_rng(0)
    # Examples of a premise are copies of one another: the interval must be that of 60 values and not of 600.
    value_G = rng.normal(size=60)
    group_N = np.repeat(np.arange(60), 10)
    found = summary(np.stack([value_G[group_N], value_G[group_N] + 0.2]), group_N)
    assert found["value"] == pytest.approx(value_G.mean() + 0.1)
    assert found["se"] == pytest.approx(0.1)
    width = (found["high"] - found["low"]) / 2
    assert width == pytest.approx(1.96 * value_G.std() / np.sqrt(60), rel=0.1)
    assert (found["n_models"], found["n_examples"], found["n_premises"]) == (2, 600, 60)
    assert np.isnan(summary(value_G[None, group_N], group_N)["se"])


def test_measured_is_what_it_says_and_the_page_is_made_of_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    n, premises = 90, [f"p{i // 3}" for i in range(90)]
    humans_NC = rng.dirichlet([1, 1, 1], size=n)
    gold_N = humans_NC.argmax(axis=1)
    near = [np.log(humans_NC) + rng.normal(scale=0.2, size=(n, 3)) for _ in range(3)]
    far = [logits + rng.normal(scale=2, size=(n, 3)) for logits in near]
    voices = {"student, hard": far, "student, kd": near, "ensemble": [np.log(humans_NC)], "teachers": far}
    pairs = [("student, kd", name) for name in ("student, hard", "ensemble", "teachers")]
    rows = measured(voices, humans_NC, gold_N, premises, pairs)
    found = {(row["voice"], row["minus"], row["measure"]): row for row in rows}
    assert found["ensemble", "", "js"]["value"] == pytest.approx(0, abs=1e-7)
    assert found["ensemble", "", "accuracy"]["value"] == 1
    own = [[measure(humans_NC, one) for one in near] for measure in (lambda p, z: js_distance_N(p, _softmax(z)), kl_N)]
    for name, values in zip(("js", "kl"), own, strict=True):
        assert found["student, kd", "", name]["value"] == pytest.approx(np.mean(values))
    row = found["student, kd", "student, hard", "kl"]
    each = [kl_N(humans_NC, a).mean() - kl_N(humans_NC, b).mean() for a, b in zip(near, far, strict=True)]
    assert (row["value"], row["se"]) == pytest.approx((np.mean(each), np.std(each, ddof=1) / np.sqrt(3)))
    assert said(row) == "nearer"
    # Seeds of students mean nothing to teachers: only the students' own spread is in the error.
    row = found["student, kd", "teachers", "kl"]
    assert row["se"] == pytest.approx(np.std([kl_N(humans_NC, one).mean() for one in near], ddof=1) / np.sqrt(3))
    assert said(found["student, kd", "ensemble", "js"]) == "farther"
    write_rows(
        tmp_path / CSV, [{"part": "two BERTs", "task": "snli", "people": "five annotators", **row} for row in rows]
    )
    text = page(read_rows(tmp_path / CSV))
    assert "five annotators, 90 examples of 30 premises" in text
    assert "student, kd, minus student, hard" in text
    assert text.count("nearer |") == 2


def _softmax(logits_NC: np.ndarray) -> np.ndarray:
    e_NC = np.exp(logits_NC)
    return e_NC / e_NC.sum(axis=1, keepdims=True)


def test_the_page_is_its_scores() -> None:
    assert (RESULTS / "humans.md").read_text(encoding="utf-8") == page(read_rows(RESULTS / CSV))
