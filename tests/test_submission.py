"""`python -m core submit`: the eleven files of a GLUE submission, by the benchmark's description of them."""

from __future__ import annotations

import re
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished
from test_cli import call, refused

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
