"""The run directory: every schema there and back with its metadata, joins by id, writes that are whole or nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.store import SCHEMA_VERSION, Predictions, Run, atomic, lists_to_rows, read_json, rows_of_ids, write_json
from core.tasks import SUITE, example_id, example_schema

ROOT = Path(__file__).resolve().parents[1]
NLI, SIMILARITY, RELEVANCE = SUITE["nli"], SUITE["similarity"], SUITE["relevance"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def ids_of(task: str, n: int, split: str = "dev") -> np.ndarray:
    return np.array([example_id(task, split, i) for i in range(n)], dtype=object)


def logits(n: int, c: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, c)).astype(np.float32)


# ---- round trips ----------------------------------------------------------------------------------------------------
def test_examples_come_back_with_truth_humans_and_metadata(run: Run) -> None:
    row = {"split": "dev", "text_a": "a", "text_b": "b", "gold_label": "neutral", "true_probs": [0.5, 0.25, 0.25]}
    bare = {"split": "test", "text_a": "c", "text_b": "d"}
    rows = [{"example_id": f"nli/x/{i}", "n_humans": None, "human_probs": None, **r} for i, r in enumerate([row, bare])]
    table = pa.Table.from_pylist(rows, example_schema(NLI))
    run.write_examples("nli", table)
    back = run.read_examples("nli")
    assert back.equals(table)
    assert back.schema.metadata == {
        b"task": b"nli",
        b"kind": b"classification",
        b"labels": json.dumps(NLI.labels).encode(),
    }
    assert back["gold_label"].to_pylist() == ["neutral", None]


@pytest.mark.parametrize("task", [NLI, RELEVANCE, SIMILARITY], ids=lambda task: task.kind)
def test_predictions_there_and_back(task, run: Run) -> None:
    outputs = logits(5, task.n_outputs)
    if task.kind == "regression":
        outputs = outputs[:, 0]
    splits = np.array(["dev", "dev", "test", "dev", "test"], dtype=object)
    run.write_predictions("mt-1", task, Predictions(ids_of(task.name, 5), splits, outputs, task.labels))
    back = run.read_predictions("mt-1", task.name)
    assert back.labels == task.labels
    assert back.example_ids.tolist() == ids_of(task.name, 5).tolist()
    np.testing.assert_array_equal(back.outputs, outputs)  # float32 in, float32 out: not a bit less
    np.testing.assert_array_equal(back.on("test").outputs, outputs[[2, 4]])
    assert back.on("test").splits.tolist() == ["test", "test"]
    schema = pq.read_schema(run.predictions_path("mt-1", task.name))
    assert schema.names == ["example_id", "split", "value" if task.kind == "regression" else "logits"]
    expected = {"model": "mt-1", "task": task.name, "label_names": json.dumps(list(task.labels))}
    assert {key.encode(): value.encode() for key, value in expected.items()}.items() <= schema.metadata.items()
    assert (run.models(), run.tasks_of("mt-1"), run.tasks_of("mt-2")) == (["mt-1"], [task.name], [])


@pytest.mark.parametrize("task", [NLI, SIMILARITY], ids=lambda task: task.kind)
def test_dynamics_hold_every_epoch_of_every_example(task, run: Run) -> None:
    outputs_ENC = np.stack([logits(4, task.n_outputs, seed) for seed in range(3)])
    run.write_dynamics("st-kd-s0", task, ids_of(task.name, 4, "train"), outputs_ENC)
    table = pq.read_table(run.dynamics_path("st-kd-s0", task.name))
    assert table.column_names == ["example_id", "epoch", "value" if task.kind == "regression" else "logits"]
    assert json.loads(table.schema.metadata[b"label_names"]) == list(task.labels)
    rows = {(row["example_id"], row["epoch"]): row for row in table.to_pylist()}
    assert len(rows) == len(table) == 12
    for epoch in range(3):
        for i, name in enumerate(ids_of(task.name, 4, "train")):
            row = rows[name, epoch]
            got = [row["value"]] if task.kind == "regression" else row["logits"]
            np.testing.assert_array_equal(np.float32(got), outputs_ENC[epoch, i])


@pytest.mark.parametrize("task", [NLI, SIMILARITY], ids=lambda task: task.kind)
def test_dynamics_leave_out_what_an_epoch_did_not_see_and_repeats(task, run: Run) -> None:
    """As bagging and sampling out of proportion have it: rows 1 and 2 are one example, rows 0 and 4 another."""
    ids = ids_of(task.name, 4, "train")[[0, 1, 1, 2, 0, 3]]
    outputs_ENC = np.stack([logits(6, task.n_outputs, seed) for seed in range(3)])
    outputs_ENC[0, 3] = outputs_ENC[1, [0, 1]] = outputs_ENC[1, 5] = outputs_ENC[2, [0, 4]] = np.nan
    run.write_dynamics("mt-1", task, ids, outputs_ENC)
    rows = pq.read_table(run.dynamics_path("mt-1", task.name)).to_pylist()
    column = "value" if task.kind == "regression" else "logits"
    # (epoch, row): the first row of an example that the epoch saw; example 0 is nowhere in epoch 2.
    expected = [(0, 0), (0, 1), (0, 5), (1, 4), (1, 2), (1, 3), (2, 1), (2, 3), (2, 5)]
    assert [(row["epoch"], row["example_id"]) for row in rows] == [(epoch, ids[i]) for epoch, i in expected]
    got = np.float32([row[column] for row in rows]).reshape(len(rows), -1)
    np.testing.assert_array_equal(got, np.stack([outputs_ENC[epoch, i] for epoch, i in expected]))


def test_targets_are_joined_by_id(run: Run) -> None:
    ids, logits_NC = ids_of("nli", 6, "train"), logits(6, 3)
    in_sample = np.array([True, False] * 3)
    run.write_targets(NLI, ids, logits_NC, members=["ft-1-nli", "ft-2-nli"], in_sample=in_sample)
    order = np.array([4, 0, 5])
    np.testing.assert_array_equal(run.read_targets(NLI, ids[order]), logits_NC[order])
    table = pq.read_table(run.targets_path("nli"))
    assert table.column_names == ["example_id", "logits", "members", "in_sample", "label_names"]
    assert table["members"].to_pylist() == [["ft-1-nli", "ft-2-nli"]] * 6
    assert table["label_names"].to_pylist() == [list(NLI.labels)] * 6
    assert table["in_sample"].to_pylist() == in_sample.tolist()


def test_targets_of_values_are_a_mean_and_a_spread(run: Run) -> None:
    ids, outputs = ids_of("similarity", 5, "train"), logits(5, 2)
    run.write_targets(SIMILARITY, ids, outputs, members=["ft-1-similarity"], in_sample=np.zeros(5, bool))
    order = np.array([3, 0])
    np.testing.assert_array_equal(run.read_targets(SIMILARITY, ids[order]), outputs[order])
    table = pq.read_table(run.targets_path("similarity"))
    assert table.column_names == ["example_id", "value", "std", "members", "in_sample", "label_names"]
    np.testing.assert_array_equal(table["std"].to_numpy(), outputs[:, 1])
    assert table["label_names"].to_pylist() == [[]] * 5
    with pytest.raises(ValueError, match="2 ids unknown, first: 'similarity/train/0000005'"):
        run.read_targets(SIMILARITY, ids_of("similarity", 7, "train"))


def test_lists_with_gaps_become_rows_of_nan() -> None:
    column = pa.chunked_array([[[1.0, 2.0], None], [[3.0, 4.0]]], type=pa.list_(pa.float32()))
    np.testing.assert_array_equal(lists_to_rows(column), np.float32([[1, 2], [np.nan, np.nan], [3, 4]]))
    assert lists_to_rows(pa.chunked_array([], type=pa.list_(pa.float32()))).shape[0] == 0
    whole = pa.chunked_array([[[1.0, 2.0]]], type=pa.list_(pa.float32(), 2))
    assert lists_to_rows(whole.slice(0, 1)).shape == (1, 2)


# ---- what does not fit ----------------------------------------------------------------------------------------------
def test_unknown_ids_are_counted_and_the_first_is_named(run: Run) -> None:
    ids = ids_of("nli", 4, "train")
    run.write_targets(NLI, ids[[0, 2]], logits(2, 3), members=["ft-1-nli"], in_sample=np.ones(2, bool))
    message = r"targets/nli\.parquet has 2 rows, 4 are asked for; 2 ids unknown, first: 'nli/train/0000001'\. Re-run"
    with pytest.raises(ValueError, match=message):
        run.read_targets(NLI, ids)
    with pytest.raises(ValueError, match="x has 0 rows, 4 are asked for; 4 ids unknown, first: 'nli/train/0000000'"):
        rows_of_ids(np.array([], dtype=object), ids, what="x")
    assert rows_of_ids(ids[::-1].copy(), ids[:2], what="x").tolist() == [3, 2]
    assert len(rows_of_ids(ids, ids[:0], what="x")) == 0


def test_targets_of_other_labels_are_refused(run: Run) -> None:
    ids = ids_of("nli", 2, "train")
    swapped = type(NLI)(**{**NLI.__dict__, "labels": NLI.labels[::-1]})
    run.write_targets(swapped, ids, logits(2, 3), members=["ft-1-nli"], in_sample=np.ones(2, bool))
    with pytest.raises(ValueError, match=r"nli\.parquet has the labels \('contradiction', .* redo 'ensemble'"):
        run.read_targets(NLI, ids)


def test_missing_files_say_which_stage_makes_them(run: Run) -> None:
    with pytest.raises(ValueError, match=r"examples/nli\.arrow does not exist; run stage 'prepare' first: `python -m"):
        run.read_examples("nli")
    with pytest.raises(ValueError, match="model 'mt-9' has no predictions on 'nli' in this run"):
        run.read_predictions("mt-9", "nli")
    with pytest.raises(ValueError, match=r"targets/nli\.parquet does not exist; run stage 'ensemble' first"):
        run.read_targets(NLI, ids_of("nli", 1))
    assert run.models() == []


# ---- the manifest ---------------------------------------------------------------------------------------------------
def test_only_manifests_of_this_schema_are_read(run: Run) -> None:
    with pytest.raises(ValueError, match=r"is not a run directory: it has no run\.json\. Make one with `python"):
        run.manifest()
    assert not run.exists()
    run.write_manifest({"schema_version": SCHEMA_VERSION, "jobs": {}})
    assert run.exists()
    assert run.manifest() == {"schema_version": SCHEMA_VERSION, "jobs": {}}
    run.write_manifest({"schema_version": SCHEMA_VERSION + 1, "versions": {"core": "9.9"}})
    with pytest.raises(ValueError, match=r"has schema version 3, this code reads 1 to 2; use the Dark.* \(9\.9\)"):
        run.manifest()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"schema_version": 1, "jobs": {',
            r"run\.json is not valid JSON .*restore it from a copy, or give a new folder",
        ),
        ("", r"run\.json is not valid JSON"),
        ("[1, 2]", r"run\.json holds a list, expected a run's manifest"),
    ],
)
def test_a_damaged_manifest_is_named(run: Run, text: str, message: str) -> None:
    run.path.mkdir()
    run.manifest_path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        run.manifest()
    assert run.manifest_path.read_text(encoding="utf-8") == text  # reading repairs nothing in silence


def test_the_log_has_one_object_a_line(run: Run) -> None:
    run.log("progress", job="mt-1", loss=np.float32(0.5), step=np.int64(3))
    run.log("done", job="mt-1", words="two\nlines")
    lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["event"] for line in lines] == ["progress", "done"]
    assert (lines[0]["loss"], lines[0]["step"], lines[1]["words"]) == (0.5, 3, "two\nlines")
    assert all(abs(line["time"] - time.time()) < 60 for line in lines)


# ---- atomic writes --------------------------------------------------------------------------------------------------
def _fail_half_way(path: Path) -> None:
    with atomic(path) as temporary:
        temporary.write_text('{"new": tr', encoding="utf-8")
        raise InterruptedError


def test_an_error_in_the_middle_leaves_the_old_file_and_nothing_else(run: Run) -> None:
    path = run.path / "deep" / "file.json"
    write_json(path, {"old": True})
    with pytest.raises(InterruptedError):
        _fail_half_way(path)
    assert read_json(path) == {"old": True}
    with pytest.raises(TypeError):
        write_json(path, {"not": object()})
    assert read_json(path) == {"old": True}
    assert [file.name for file in path.parent.iterdir()] == ["file.json"]
    write_json(path, {"new": "é"})
    assert read_json(path) == {"new": "é"}


def test_an_error_while_predictions_are_written_leaves_the_old_ones(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = np.array(["dev"] * 4, dtype=object)
    old = Predictions(ids_of("nli", 4), splits, logits(4, 3), NLI.labels)
    run.write_predictions("mt-1", NLI, old)

    def torn(table: pa.Table, where: Path) -> None:
        Path(where).write_bytes(b"PAR1 and then the disk was full")
        raise OSError("no space left on device")

    monkeypatch.setattr(pq, "write_table", torn)
    with pytest.raises(ValueError, match=r"nli\.parquet cannot be written: the disk is full\. Free some space, and"):
        run.write_predictions("mt-1", NLI, old._replace(outputs=logits(4, 3, seed=1)))
    monkeypatch.undo()
    np.testing.assert_array_equal(run.read_predictions("mt-1", "nli").outputs, old.outputs)
    assert [file.name for file in run.predictions_path("mt-1", "nli").parent.iterdir()] == ["nli.parquet"]


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_content(run: Run) -> None:
    """SIGKILL runs no `finally`: the half-written file stays under its temporary name, and no reader takes it."""
    splits = np.array(["dev"] * 4, dtype=object)
    old = Predictions(ids_of("nli", 4), splits, logits(4, 3), NLI.labels)
    run.write_predictions("mt-1", NLI, old)
    run.write_manifest({"schema_version": SCHEMA_VERSION, "jobs": {}})
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom core.store import Run, atomic\nrun = Run(sys.argv[1])\n"
        "with atomic(run.manifest_path) as a, atomic(run.predictions_path('mt-1', 'nli')) as b:\n"
        "    a.write_text('{\"schema'); b.write_bytes(b'PAR1 half')\n"
        "    print('half written', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(run.path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child:
        assert child.stdout.readline() == "half written\n"
        os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert len(list(run.path.rglob(".*.tmp"))) == 2  # the kill came in the middle, indeed
    assert run.manifest()["jobs"] == {}
    np.testing.assert_array_equal(run.read_predictions("mt-1", "nli").outputs, old.outputs)
    assert run.tasks_of("mt-1") == ["nli"]
    run.remove_leftovers()
    assert sorted(path.name for path in run.path.rglob("*") if path.is_file()) == ["nli.parquet", "run.json"]
