"""`python -m core predict --in`: files of every format and standard input give the stored logits, all heads that fit on
one encoder pass, and no more than a chunk of rows is read before it is answered and written.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from conftest import Finished
from test_cli import call, refused

from core import answering
from core.attention import replace_dropouts
from core.model import MultiTaskModel
from core.tasks import SUITE

# Probabilities in float32, of other batches than the stored ones.
EXACT = 1e-5
PAIRS = [name for name, task in SUITE.items() if task.is_pair]


def rows_of(smoke: Finished, task: str, n: int = 20) -> list[dict[str, Any]]:
    return smoke.run.read_examples(task).to_pylist()[-n:]


def stored(smoke: Finished, task: str, rows: list[dict[str, Any]]) -> np.ndarray:
    known = smoke.run.read_predictions("st-kd-s0", task)
    place = {one: i for i, one in enumerate(known.example_ids.tolist())}
    outputs = known.outputs[[place[row["example_id"]] for row in rows]].astype(np.float64)
    e = np.exp(outputs)
    return outputs if task == "similarity" else e / e.sum(axis=1, keepdims=True)


def write(rows: list[dict[str, Any]], path: Path) -> Path:
    names = [name for name in ("example_id", "text_a", "text_b", "candidates") if name in rows[0]]
    table = pa.Table.from_pylist([{name: row[name] for name in names} for row in rows])
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == "":
        datasets.Dataset(table).save_to_disk(str(path))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()), encoding="utf-8")
    elif path.suffix == ".csv":
        pa_csv.write_csv(table, path)
    else:
        lines = [names, *([row[name] for name in names] for row in table.to_pylist())]
        path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    return path


def predicted(smoke: Finished, source: object, out: Path, *more: object) -> list[dict[str, Any]]:
    result = call("predict", "--run", smoke.run.path, "--model", "st-kd-s0", "--in", source, "--out", out, *more)
    assert result.exit_code == 0, result.output
    return pq.read_table(out).to_pylist()


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl", ".parquet", ""])
def test_every_format_gives_the_stored_answers(
    suffix: str, smoke: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In chunks of 7: three of them. Heads of two texts answer, on one pass a chunk."""
    monkeypatch.setattr(answering, "ROWS_A_CHUNK", 7)
    passes: list[tuple[str, ...]] = []
    real = MultiTaskModel.answers
    monkeypatch.setattr(MultiTaskModel, "answers", lambda self, t, b: (passes.append(tuple(t)), real(self, t, b))[1])
    rows = rows_of(smoke, "nli")
    said = predicted(smoke, write(rows, tmp_path / f"in{suffix}"), tmp_path / "out.parquet", "--key", "example_id")
    assert passes == [tuple(PAIRS)] * 3
    assert [row["row"] for row in said] == list(range(20))
    assert [row["example_id"] for row in said] == [row["example_id"] for row in rows]
    labels = SUITE["nli"].labels
    got = np.array([[row[f"nli.{label}"] for label in labels] for row in said])
    np.testing.assert_allclose(got, stored(smoke, "nli", rows), rtol=0, atol=EXACT)
    assert [row["nli"] for row in said] == [labels[i] for i in got.argmax(axis=1)]
    assert all(np.isfinite(row["similarity"]) for row in said)


@pytest.mark.parametrize("task", ["sentiment", "relevance", "similarity"])
def test_each_kind_of_task(task: str, smoke: Finished, tmp_path: Path) -> None:
    rows = rows_of(smoke, task)
    said = predicted(smoke, write(rows, tmp_path / "in.jsonl"), tmp_path / "out.parquet", "--task", task)
    names = [task] if task == "similarity" else [f"{task}.{label}" for label in SUITE[task].labels]
    got = np.array([[row[name] for name in names] for row in said])
    np.testing.assert_allclose(got.reshape(stored(smoke, task, rows).shape), stored(smoke, task, rows), atol=EXACT)


def test_text_formats_of_answers(smoke: Finished, tmp_path: Path) -> None:
    source = write(rows_of(smoke, "sentiment", 3), tmp_path / "in.tsv")
    run = ("predict", "--run", smoke.run.path, "--model", "st-kd-s0", "--in", source)
    lines = [json.loads(line) for line in call(*run).stdout.splitlines()]
    assert [line["row"] for line in lines] == [0, 1, 2]
    assert {"sentiment", "sentiment.good", "acceptability"} < set(lines[0])
    assert "nli" not in lines[0]
    for suffix, sign in ((".tsv", "\t"), (".csv", ",")):
        assert call(*run, "--out", tmp_path / f"out{suffix}").exit_code == 0
        header, *body = (tmp_path / f"out{suffix}").read_text(encoding="utf-8").splitlines()
        assert header.split(sign) == list(lines[0])
        assert [line.split(sign)[1] for line in body] == [line["sentiment"] for line in lines]


class Counted(io.StringIO):
    """Endless standard input that counts what was read of it."""

    n_read = 0

    def __iter__(self) -> Iterator[str]:
        while True:
            self.n_read += 1
            yield json.dumps({"review": f"a lovely soup {self.n_read}"}) + "\n"


class EnoughError(Exception):
    pass


def test_memory_does_not_grow_with_the_file(smoke: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an input without an end: each chunk is answered and written before more than the next row is read."""
    monkeypatch.setattr(answering, "ROWS_A_CHUNK", 5)
    stream, written = Counted(), io.StringIO()
    monkeypatch.setattr("sys.stdin", stream)
    monkeypatch.setattr("sys.stdout", written)
    seen: list[tuple[int, int, int]] = []
    real = answering.answer_chunk

    def counted(opened: Any, tasks: Any, texts: Any, chunk: Any) -> Any:
        seen.append((len(chunk.places), stream.n_read, written.getvalue().count("\n")))
        if len(seen) == 4:
            raise EnoughError
        return real(opened, tasks, texts, chunk)

    monkeypatch.setattr(answering, "answer_chunk", counted)
    with pytest.raises(EnoughError):
        answering.predict_file(smoke.run, "st-kd-s0", Path("-"), Path("-"), columns={"text_a": "review"})
    assert [rows for rows, _, _ in seen] == [5, 5, 5, 5]
    assert [n_read for _, n_read, _ in seen] == [5, 10, 15, 20]
    assert [n_written for _, _, n_written in seen] == [0, 5, 10, 15]


def test_mc_dropout_answers_by_its_passes(smoke: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.streams import Chunk

    opened = answering.open_model(smoke.run, "st-kd-s0")
    replace_dropouts(opened.model, 0.3)
    chunk = Chunk({"text_a": ["a lovely soup"]}, ["row 0"])
    tasks, texts = {"sentiment": SUITE["sentiment"]}, {"text_a": ["a lovely soup"]}
    plain = answering.answer_chunk(opened, tasks, texts, chunk)["sentiment"]
    averaged = answering.answer_chunk(opened._replace(about={**opened.about, "mc_passes": 3}), tasks, texts, chunk)[
        "sentiment"
    ]
    assert averaged.shape == plain.shape == (1, 5)
    assert np.exp(averaged).sum() == pytest.approx(1, abs=1e-5)  # log-probabilities, averaged
    assert np.abs(np.exp(plain).sum() - 1) > 1e-3


@pytest.mark.parametrize("command", ["predict", "status"])
def test_a_reader_that_stops_reading_is_no_error(command: str, smoke: Finished, tmp_path: Path) -> None:
    """`python -m core ... | head`: nothing on standard error, and no message of Python's at its end either."""
    path = write(rows_of(smoke, "sentiment"), tmp_path / "in.tsv")
    asked = {
        "predict": ["--run", smoke.run.path, "--model", "st-kd-s0", "--in", path],
        "status": [smoke.run.path, "--json"],
    }
    read_end, write_end = os.pipe()
    os.close(read_end)  # `head` has gone before the first line comes
    words = [sys.executable, "-m", "core", command, *map(str, asked[command])]
    done = subprocess.run(words, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    assert (done.stderr, done.returncode) == ("", 1)


@pytest.mark.parametrize(
    ("name", "text", "more", "message"),
    [
        ("in.tsv", "a\tb\nx\ty\n", (), "no task of the model reads these columns; columns found: a, b"),
        ("in.tsv", "text_a\n", (), "has no rows, expected a header and at least one row"),
        ("in.tsv", "text_a\ttext_b\nx\n", (), "in.tsv line 2 has 1 field(s), expected 2 (text_a, text_b)"),
        ("in.tsv", "text_a\ngood\n \n", (), "in.tsv line 3 has ' ' in column 'text_a', expected a text"),
        ("in.jsonl", "{\n", (), "in.jsonl line 1 is not valid JSON"),
        ("in.jsonl", '{"text_a": 3}\n', (), "line 1 has 3 in column 'text_a', expected a text"),
        ("in.xlsx", "", (), "format '.xlsx' is not known"),
        ("in.tsv", "text_a\ngood\n", ("--task", "nli"), "task 'nli' reads text_a, text_b, but no column is its text_b"),
        ("in.tsv", "text_a\ngood\n", ("--column", "text_a=comment"), "there is no column 'comment' (text_a)"),
        ("in.tsv", "text_a\ngood\n", ("--column", "test=text_a"), "expected one of text_a, text_b, candidates"),
        ("in.tsv", "text_a\ngood\n", ("--text", "good"), "--in and --text exclude each other"),
        ("in.tsv", "text_a\ngood\n", ("--out", "out.docx"), "format '.docx' is not known"),
    ],
)
def test_mistakes(name: str, text: str, more: tuple[str, ...], message: str, smoke: Finished, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    out = () if "--out" in more else ("--out", tmp_path / "out.parquet")
    run = ("predict", "--run", smoke.run.path, "--model", "st-kd-s0", "--in", tmp_path / name)
    assert message in refused(*run, *out, *more)
    assert not (tmp_path / "out.parquet").exists()
    assert "give --task and --text for one text, or --in FILE" in refused(*run[:-2])
