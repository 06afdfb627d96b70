"""`python -m core submit`: the eleven files of a GLUE submission, by the benchmark's description of them; of drawn
predictions, and of a run that read GLUE's own test files, trained and predicted them.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import Finished, go
from test_cli import call, refused
from test_data import tsv
from test_glue import CUT, imitation

from core.presets import load_config
from core.report import build_report
from core.store import SCHEMA_VERSION, Predictions, Run
from core.submission import FILES
from core.tasks import GLUE, example_id

NLI, TWO, BITS = {"entailment", "neutral", "contradiction"}, {"entailment", "not_entailment"}, {"0", "1"}
WORDS = {
    **dict.fromkeys(("MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"), NLI),
    **dict.fromkeys(("QNLI.tsv", "RTE.tsv"), TWO),
    **dict.fromkeys(("CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "QQP.tsv", "WNLI.tsv"), BITS),
}
N = {name: min(rows, 40) for name, (_, _, rows) in FILES.items()} | {"WNLI.tsv": 146}


@pytest.fixture
def glue_run(tmp_path: Path) -> Run:
    """A run as the pipeline leaves it, with drawn outputs of one model, in an order that is not the index's."""
    run, rng = Run(tmp_path / "run"), np.random.default_rng(0)
    tasks = {name: asdict(task) for name, task in GLUE.items()}
    run.path.mkdir()
    run.write_manifest({"schema_version": SCHEMA_VERSION, "tasks": tasks, "jobs": {}})
    for name, task in GLUE.items():
        rows = [(split, i) for file, (of, split, _) in FILES.items() if of == name for i in range(N[file])]
        rows = [("dev", 0), *(rows[i] for i in rng.permutation(len(rows)))]
        ids = np.array([example_id(name, *row) for row in rows], dtype=object)
        splits = np.array([split for split, _ in rows], dtype=object)
        is_value = task.kind == "regression"
        outputs = rng.normal(2.5, 3, len(rows)) if is_value else rng.normal(size=(len(rows), task.n_outputs))
        run.write_predictions("st-kd-s0", task, Predictions(ids, splits, outputs.astype(np.float32), task.labels))
    return run


def test_eleven_files_by_the_description(glue_run: Run, tmp_path: Path) -> None:
    result = call("submit", "--run", glue_run.path, "--model", "st-kd-s0", "--out", tmp_path / "glue.zip")
    assert result.exit_code == 0, result.output
    assert "RTE.tsv has 40 rows, GLUE's test set has 3000: the benchmark will refuse it" in result.stdout
    assert "note: WNLI.tsv" not in result.stdout  # complete
    with zipfile.ZipFile(tmp_path / "glue.zip") as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert set(texts) == {*WORDS, "STS-B.tsv"}
    for name, text in texts.items():
        header, *lines = text.removesuffix("\n").split("\n")
        assert header == "index\tprediction"
        cells = [line.split("\t") for line in lines]
        assert [index for index, _ in cells] == [str(i) for i in range(N[name])]
        said = [word for _, word in cells]
        if name == "STS-B.tsv":
            assert all(re.fullmatch(r"[0-5]\.\d{3}", word) and float(word) <= 5 for word in said)
            assert {"0.000", "5.000"} < set(said)  # some were outside
        else:
            assert set(said) == WORDS[name]
    # Each row is the argmax of its own logits: of the mismatched half, not of the matched.
    stored = glue_run.read_predictions("st-kd-s0", "mnli").on("test_mm")
    [i] = np.flatnonzero(stored.example_ids == "mnli/test_mm/0000007")
    assert texts["MNLI-mm.tsv"].split("\n")[8] == f"7\t{stored.labels[stored.outputs[i].argmax()]}"
    first = (tmp_path / "glue.zip").read_bytes()
    assert call("submit", "--run", glue_run.path, "--model", "st-kd-s0", "--out", tmp_path / "glue.zip").exit_code == 0
    assert (tmp_path / "glue.zip").read_bytes() == first


def test_what_is_missing_is_named(glue_run: Run, smoke: Finished, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "glue.zip")
    run = ("submit", "--run", glue_run.path, *out, "--model")
    assert "has no predictions of 'st-kd'; did you mean 'st-kd-s0'?" in refused(*run, "st-kd")
    rte = glue_run.read_predictions("st-kd-s0", "rte")
    glue_run.write_predictions("st-kd-s0", GLUE["rte"], rte.on("dev"))
    message = refused(*run, "st-kd-s0")
    assert "has no predictions for 1 of 11 files: RTE.tsv (task rte, split test)" in message
    assert "RTE/test.tsv" in message
    assert "data.keep_unlabelled=true" in message
    cut = Predictions(*(one[:-9] for one in rte[:3]), rte.labels)
    glue_run.write_predictions("st-kd-s0", GLUE["rte"], cut)
    assert "of the test set, expected all; set data.max_eval=null" in refused(*run, "st-kd-s0")
    message = refused("submit", "--run", smoke.run.path, *out, "--model", "st-kd-s0")
    assert "for 11 of 11 files: CoLA.tsv (task cola, split test: no predictions of the task)" in message
    assert not (tmp_path / "glue.zip").exists()


# ---- from GLUE's files to the zip file -----------------------------------------------------------------------------
MNLI_TEST = "index|promptID|pairID|genre|sentence1_binary_parse|sentence1|sentence2"
PAIR_TEST = "index|sentence1|sentence2"
# Official test file -> the submission's, rows here, its header line, and a row. {i} is the row's number.
TEST_FILES = {
    "CoLA/test.tsv": ("CoLA.tsv", 7, "index|sentence", "{i}|Bill whistled past {i} houses."),
    "SST-2/test.tsv": ("SST-2.tsv", 8, "index|sentence", "{i}|uneasy mishmash of {i} styles ."),
    "MRPC/test.tsv": ("MRPC.tsv", 9, "index|#1 ID|#2 ID|#1 String|#2 String", "{i}|1|2|He paid {i} .|{i} was paid ."),
    "STS-B/test.tsv": (
        *("STS-B.tsv", 10, "index|genre|filename|year|old_index|source1|source2|sentence1|sentence2"),
        "{i}|news|a|2014|{i}|none|none|{i} men play.|A man plays {i} times.",
    ),
    "QQP/test.tsv": ("QQP.tsv", 11, "id|question1|question2", "{i}|Why {i}?|What is {i}?"),
    "MNLI/test_matched.tsv": ("MNLI-m.tsv", 12, MNLI_TEST, "{i}|31193|{i}n|travel|( a )|There are {i}.|None is {i}."),
    "MNLI/test_mismatched.tsv": ("MNLI-mm.tsv", 13, MNLI_TEST, "{i}|3|{i}e|letters|( b )|He has {i}.|She has {i}."),
    "QNLI/test.tsv": ("QNLI.tsv", 14, "index|question|sentence", "{i}|Who has {i}?|{i} were had by no one."),
    "RTE/test.tsv": ("RTE.tsv", 15, PAIR_TEST, "{i}|Authorities in {i} towns say so.|{i} towns say it."),
    "WNLI/test.tsv": ("WNLI.tsv", 17, PAIR_TEST, "{i}|Maude met Dora {i} times.|Dora was met {i} times."),
    "diagnostic/diagnostic.tsv": ("AX.tsv", 16, PAIR_TEST, "{i}|The cat sat on {i} mats.|The cat did not sit on {i}."),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    place = tmp_path_factory.mktemp("submission")
    folder = imitation(place / "glue", 30)
    for path, (_, n, header, row) in TEST_FILES.items():
        lines = [row.format(i=i) for i in range(n)]
        (folder / path).write_text(tsv(header, *lines), encoding="utf-8")
    few = ("data.keep_unlabelled=true", "multitask.dropouts=[0.1]", "select.top_k=1", "data.teacher_tasks=[mnli,rte]")
    options = [*CUT, *few, f"data.glue_dir={folder}", "model.tokenizer=wordpiece(vocab=500)"]
    return go(Run(place / "run"), load_config("glue-small", None, options))


def test_unlabelled_test_sets_are_predicted_and_not_scored(trained: Finished) -> None:
    run, rows = trained.run, pq.read_table(trained.run.path / "metrics.parquet").to_pylist()
    for task, splits in (("mnli", {"test", "test_mm", "ax"}), ("cola", {"test"}), ("stsb", {"test"})):
        counts = trained.manifest["jobs"]["prepare"]["tasks"][task]["rows"]
        for model in ("st-kd-s0", "ens-mean_probs", "mt-1"):
            predicted = run.read_predictions(model, task)
            assert splits <= set(predicted.splits)
            for split in splits:
                unlabelled = predicted.on(split)
                assert len(unlabelled.outputs) == counts[split] > 0
                assert np.isfinite(unlabelled.outputs).all()
        assert {row["split"] for row in rows if row["task"] == task} == set(counts) - {"train"} - splits
    assert "score_mm" in build_report(run)["tables"]


@pytest.mark.parametrize("model", ["st-kd-s0", "ens-mean_probs"])
def test_a_run_on_glues_files_gives_a_submission(model: str, trained: Finished, tmp_path: Path) -> None:
    """All eleven: names, header, a row for every row of the test file and in its order, label words."""
    result = call("submit", "--run", trained.run.path, "--model", model, "--out", tmp_path / "glue.zip")
    assert result.exit_code == 0, result.output
    with zipfile.ZipFile(tmp_path / "glue.zip") as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert set(texts) == {name for name, *_ in TEST_FILES.values()} == set(FILES)
    for name, n, *_ in TEST_FILES.values():
        assert texts[name].endswith("\n")
        header, *lines = texts[name].removesuffix("\n").split("\n")
        assert header == "index\tprediction"
        assert [line.split("\t")[0] for line in lines] == [str(i) for i in range(n)]
        task, split, _ = FILES[name]
        stored = trained.run.read_predictions(model, task).on(split)
        assert sorted(stored.example_ids) == [example_id(task, split, i) for i in range(n)]
        said = [line.split("\t")[1] for line in lines]
        outputs = stored.outputs[np.argsort(stored.example_ids)]
        if name == "STS-B.tsv":
            assert said == [f"{value:.3f}" for value in np.clip(outputs, 0, 5)]
        else:
            assert set(said) <= WORDS[name]
            by_word = dict(zip(said, outputs.argmax(axis=1), strict=True))
            assert [by_word[word] for word in said] == outputs.argmax(axis=1).tolist()  # one word for one class
