"""Damaged and lost files are noticed before anything reads them, by name, with a remedy; nothing is overwritten."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_STAGES, Finished, copy_of, go, log_lines, ran, results, tiny
from safetensors import SafetensorError
from test_cli import call, refused

from core import checksums, files
from core.checksums import read_sums, verify
from core.files import read_json, write_json
from core.store import SCHEMA_VERSION, Run
from core.views.table import load_table


@pytest.fixture(scope="module")
def damaged(smoke: Finished, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy for tests that put back what they break."""
    return copy_of(smoke, tmp_path_factory.mktemp("damaged"))


def snapshot(run: Run) -> dict[str, bytes]:
    files = [path for path in run.path.rglob("*") if path.is_file() and path.name != "log.jsonl"]
    return {str(path.relative_to(run.path)): path.read_bytes() for path in files}


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def flip(data: bytes) -> bytes:
    """One bit, in the middle, where no magic number is."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# What is broken (a pattern), the stage that reads it next, the stage whose work it is.
BROKEN = [
    ("examples/nli.arrow", "evaluate", "prepare"),
    ("tokenizers/*/tokenizer.json", "multitask", "prepare"),
    ("cache/*/*/nli.ids.npy", "multitask", "prepare"),
    ("predictions/mt-1/nli.parquet", "select", "multitask"),
    ("predictions/ft-*-nli/nli.parquet", "ensemble", "finetune"),
    ("models/{chosen}/encoder/model.safetensors", "finetune", "multitask"),
    ("models/{chosen}/heads.safetensors", "finetune", "multitask"),
    ("selection.json", "ensemble", "select"),
    ("targets/nli.parquet", "distill", "ensemble"),
    ("predictions/ens-mean_probs/nli.parquet", "evaluate", "ensemble"),
    ("predictions/st-kd-s0/similarity.parquet", "evaluate", "distill"),
]


@pytest.mark.parametrize("breaks", [cut, flip], ids=["truncated", "bit flipped"])
@pytest.mark.parametrize(("pattern", "reader", "maker"), BROKEN, ids=[row[0] for row in BROKEN])
def test_a_damaged_file_stops_the_run_before_anything_reads_it(
    pattern: str, reader: str, maker: str, breaks: Any, damaged: Run, smoke: Finished
) -> None:
    chosen = smoke.manifest["jobs"]["select"]["chosen"][0]
    path = sorted(damaged.path.glob(pattern.format(chosen=chosen)))[0]
    whole = path.read_bytes()
    path.write_bytes(breaks(whole))
    # A stage that is redone by name loses its own models; what it reads is what this is about.
    keep = {name: damaged.model_dir(name) for name in os.listdir(damaged.path / "models")}
    before = snapshot(damaged)
    try:
        message = refused("run", "--out", damaged.path, "--only", reader)
        assert message.startswith(f"{path} is damaged: its SHA-256 is ")
        assert f"`python -m core run --out {damaged.path} --from {maker}`" in message
        assert "Restore it from a copy; or delete" in message
        after = snapshot(damaged)
        redone = {name for name in before.keys() - after.keys() if name.startswith("models/")}
        assert {name: data for name, data in before.items() if name not in redone} == after
        assert verify(damaged).damaged == (path.relative_to(damaged.path).as_posix(),)
    finally:
        path.write_bytes(whole)
        for name, folder in keep.items():
            if not folder.exists():
                shutil.copytree(smoke.run.model_dir(name), folder)


def test_damaged_results_are_not_reported(copied: Run) -> None:
    path = copied.path / "metrics.parquet"
    path.write_bytes(flip(path.read_bytes()))
    assert f"{path} is damaged" in refused("report", copied.path)
    result = call("verify", copied.path)
    assert result.exit_code == 1
    assert "damaged: metrics.parquet" in result.stdout
    path.unlink()
    assert "gone: metrics.parquet" in call("verify", copied.path).stdout
    assert "no results" in refused("report", copied.path)


def test_readers_without_checksums_name_the_file(copied: Run) -> None:
    """The dashboard's way in: what cannot be read is a sentence."""
    path = copied.predictions_path("mt-1", "nli")
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(ValueError, match=r"mt-1/nli\.parquet is damaged and cannot be read .* delete it"):
        copied.read_predictions("mt-1", "nli")
    with pytest.raises(ValueError, match=r"mt-1/nli\.parquet"):
        load_table(copied, "nli", "test").outputs("mt-1")
    path = copied.examples_path("nli")
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(ValueError, match=r"nli\.arrow is damaged and cannot be read"):
        copied.read_examples("nli")
    path = copied.model_dir("mt-1") / "heads.safetensors"
    path.write_bytes(cut(path.read_bytes()))
    asked = ("--run", copied.path, "--model", "mt-1", "--task", "sentiment", "--text", "a")
    assert "mt-1 holds a damaged model (" in refused("predict", *asked)


# ---- the list ------------------------------------------------------------------------------------------------------
def test_every_result_file_has_a_line_that_others_can_check(smoke: Finished) -> None:
    run = smoke.run
    sums = read_sums(run)
    own = {"run.json", "log.jsonl", checksums.NAME}
    assert sums.keys() == {name for name in snapshot(run) if name not in own}
    assert verify(run) == (len(sums), (), ())
    result = call("verify", run.path)
    assert (result.exit_code, result.stdout) == (0, f"{len(sums)} files compared, 0 damaged, 0 gone\n")
    if shutil.which("sha256sum"):
        done = subprocess.run(["sha256sum", "--check", "--quiet", checksums.NAME], cwd=run.path, capture_output=True)
        assert (done.returncode, done.stdout) == (0, b"")


def test_a_run_of_an_older_schema_goes_on(copied: Run) -> None:
    """Version 1 had no checksums: it is read as it is, and the next run records what it finds."""
    manifest, before = copied.manifest(), results(copied)
    write_json(copied.manifest_path, manifest | {"schema_version": 1})
    (copied.path / checksums.NAME).unlink()
    assert copied.manifest() == manifest
    assert call("report", copied.path).exit_code == 0
    assert read_json(copied.manifest_path)["schema_version"] == 1  # reading writes nothing
    shown = go(copied, tiny()).shown
    assert shown.count("up to date") == len(TINY_STAGES)
    assert f"had no {checksums.NAME}; it now has one of the" in shown
    assert read_json(copied.manifest_path)["schema_version"] == SCHEMA_VERSION
    assert verify(copied).damaged == ()
    assert set(before) <= read_sums(copied).keys()
    assert results(copied) == before
    (copied.path / checksums.NAME).write_text("abc  nli\n", encoding="utf-8")
    assert "line 1 is 'abc  nli', expected a SHA-256 and a path" in refused("run", "--out", copied.path)


# ---- lost files ----------------------------------------------------------------------------------------------------
def test_lost_files_are_made_again(copied: Run) -> None:
    before, n_ran = results(copied), len(ran(copied))
    n_lines = len(log_lines(copied, event="progress", job="mt-1"))
    gone = [copied.predictions_path("mt-1", "nli"), copied.targets_path("nli"), copied.path / "metrics.parquet"]
    gone += [copied.dynamics_path("st-hard-s1", "nli")]
    for path in gone:
        path.unlink()
    shown = go(copied, tiny()).shown.replace("\n", " ")
    for path, job in zip(gone, ("mt-1", "ensemble", "evaluate", "st-hard-s1"), strict=True):
        assert f"{path} is gone, so '{job}' is done again" in shown
    assert ran(copied, n_ran) == ["mt-1", "ensemble", "st-hard-s1", "evaluate"]
    assert len(log_lines(copied, event="progress", job="mt-1")) == n_lines  # it only predicted again
    assert results(copied) == before


# ---- full disks ----------------------------------------------------------------------------------------------------
def full(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_as_safetensors_say(*arguments: object, **options: object) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.fixture
def unsaved(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    yield monkeypatch
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("place", "error", "named"),
    [
        ("core.files.sync", full, "cannot be written: the disk is full. Free some space, and the same command goes on"),
        ("core.model.save_file", full_as_safetensors_say, "models/st-hard-s0 cannot be written: the disk is full"),
        ("core.checkpoint.save_file", full_as_safetensors_say, "safetensors cannot be written: the disk is full"),
    ],
    ids=["a result", "weights", "a checkpoint"],
)
def test_a_full_disk_is_one_sentence_and_no_loss(
    place: str, error: Any, named: str, copied: Run, unsaved: pytest.MonkeyPatch
) -> None:
    before = results(copied)
    unsaved.setattr("core.train.LOOK_EVERY_STEPS", 2)  # where a checkpoint may be saved
    unsaved.setattr(place, error)
    checkpoints = ("--set", "runtime.checkpoint_seconds=0")
    message = refused("run", "--out", copied.path, "--from", "distill", *checkpoints)
    assert named in message
    assert "No space left" in message
    assert {name: data for name, data in results(copied).items() if before[name] != data} == {}
    assert not list(copied.path.rglob("*.tmp"))
    unsaved.undo()
    assert call("run", "--out", copied.path, *checkpoints).exit_code == 0
    assert results(copied) == before


def test_other_errors_pass_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="a strange one"), files.told(tmp_path):
        raise OSError(errno.ENOTDIR, "a strange one")
    with pytest.raises(ZeroDivisionError), files.told(tmp_path):
        raise ZeroDivisionError
