"""The stage `pretrain` in a run: who starts from its encoder, what a change of its settings or its text redoes.

Elsewhere: the training and its files (tests of core/pretrain), the objectives (tests of core/rtd).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Finished, Training, changed, copy_of, go, keys, log_lines, ran, results, tiny, trainings
from safetensors.torch import load_file

from core.commands.runs import status
from core.config import resolve_tasks
from core.pipeline import source_digest
from core.plan import STAGES
from core.store import Run, read_json

PRETRAINED = (
    *("data.tasks=[nli,sentiment]", "data.teacher_tasks=[nli]", "multitask.dropouts=[0.1,0.2]", "select.top_k=1"),
    *("pretrain.objective=rtd", "pretrain.sentences=300", "pretrain.lr=0.002", "distill.rtd_weight=0.5"),
    "distill.seeds=1",
)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Read it, never write to it."""
    return go(Run(tmp_path_factory.mktemp("pretrain") / "run"), tiny(*PRETRAINED))


def encoder_of(training: Training) -> dict[str, torch.Tensor]:
    return {name.removeprefix("encoder."): w for name, w in training.weights.items() if name.startswith("encoder.")}


def test_it_is_the_second_stage_and_leaves_an_encoder(pretrained: Finished) -> None:
    run, job = pretrained.run, pretrained.manifest["jobs"]["pt-1"]
    assert list(pretrained.manifest["jobs"])[:2] == ["prepare", "pt-1"]
    assert {record["stage"] for record in pretrained.manifest["jobs"].values()} == set(STAGES)
    assert any(line.startswith("2/8 pretrain  done in ") for line in pretrained.shown.splitlines())
    files = {str(path.relative_to(run.model_dir("pt-1"))) for path in run.model_dir("pt-1").rglob("*")}
    assert {"config.json", "model.safetensors", "tokenizer.json", "pretrain.json", "generator/rtd.safetensors"} <= files
    assert not any("checkpoint" in name for name in files)
    assert read_json(run.model_dir("pt-1") / "pretrain.json")["key"] == job["key"]
    assert (job["objective"], job["lines"]) == ("rtd", 300)
    # It predicts nothing, so nobody scores it.
    assert not any(model.startswith("pt-") for model in run.models())
    assert [line for line in log_lines(run, event="progress", job="pt-1") if "loss" in line]


@pytest.mark.parametrize(
    ("stage", "models"), [("multitask", {"mt-1", "mt-2"}), ("distill", {"st-hard-s0", "st-kd-s0"})]
)
def test_members_and_students_start_from_the_pretrained_encoder(
    stage: str, models: set[str], pretrained: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = trainings(copy_of(pretrained, tmp_path), pretrained.config, stage, monkeypatch)
    assert seen.keys() == models
    stored = load_file(pretrained.run.model_dir("pt-1") / "model.safetensors")
    assert len(stored) > 10
    for training in seen.values():
        encoder = encoder_of(training)
        assert encoder.keys() == stored.keys()
        assert all(torch.equal(encoder[name], value) for name, value in stored.items())
        # A student goes on detecting, with the generator that was pre-trained with the encoder.
        generator = {name.removeprefix("rtd."): w for name, w in training.weights.items() if name.startswith("rtd.")}
        if stage == "distill":
            of_pretraining = load_file(pretrained.run.model_dir("pt-1") / "generator" / "rtd.safetensors")
            assert generator.keys() == of_pretraining.keys()
            assert all(torch.equal(generator[name], value) for name, value in of_pretraining.items())
        assert (training.options["auxiliary"] is not None) == bool(generator) == (stage == "distill")


def test_the_auxiliary_loss_is_logged_and_its_heads_are_not_kept(pretrained: Finished) -> None:
    for job in ("st-hard-s0", "st-kd-s0"):
        lines = [line for line in log_lines(pretrained.run, event="progress", job=job) if "loss" in line]
        assert lines
        assert all(line["auxiliary"] > 0 for line in lines)
        heads = load_file(pretrained.run.model_dir(job) / "heads.safetensors")
        assert {name.split(".")[0] for name in heads} == {"task:nli", "task:sentiment"}
    assert not any("auxiliary" in line for line in log_lines(pretrained.run, event="progress", job="mt-1"))


def test_a_deleted_encoder_comes_back_the_same_when_it_is_needed(pretrained: Finished, tmp_path: Path) -> None:
    run = copy_of(pretrained, tmp_path)
    before, encoder = results(run), results(run, "models/pt-1")
    shutil.rmtree(run.model_dir("pt-1"))
    n_ran = len(ran(run))
    assert go(run, pretrained.config).shown.count("up to date") == len(STAGES)
    assert not run.model_dir("pt-1").exists()
    after = go(run, tiny(*PRETRAINED, "distill.seeds=2"))
    assert ran(run, n_ran) == ["pt-1", "st-hard-s1", "st-kd-s1", "evaluate"]
    assert results(run, "models/pt-1") == encoder
    assert keys(after.manifest)["pt-1"] == keys(pretrained.manifest)["pt-1"]
    assert {path for path in changed(before, results(run)) if "st-hard-s1" not in path and "st-kd-s1" not in path} == {
        "metrics.parquet"
    }


def test_other_settings_redo_it_and_all_that_starts_from_it(pretrained: Finished, tmp_path: Path) -> None:
    run = copy_of(pretrained, tmp_path)
    hotter = tiny(*PRETRAINED, "pretrain.lr=0.004")
    with pytest.raises(ValueError, match=r"pretrain\.lr: 0\.002 -> 0\.004\).*finished jobs: pt-1, mt-1, mt-2, ft-"):
        go(run, hotter)
    encoder, n_ran = results(run, "models/pt-1"), len(ran(run))
    go(run, hotter, update=True, last_stage="pretrain")
    assert ran(run, n_ran) == ["pt-1"]
    assert "models/pt-1/model.safetensors" in changed(encoder, results(run, "models/pt-1"))
    # Without pre-training, its encoder goes with its files.
    plain = tiny(*PRETRAINED, "pretrain.objective=none")
    go(run, plain, update=True, last_stage="prepare")
    assert not run.model_dir("pt-1").exists()
    with pytest.raises(ValueError, match=r"'pretrain' has nothing to do: pretrain\.objective is 'none', or no encoder"):
        go(run, plain, only_stage="pretrain")


def test_a_text_of_ones_own_is_known_by_its_contents(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "one.txt").write_text("the soup was lovely .\n" * 40, encoding="utf-8")

    def digest(path: Path, *more: str) -> str:
        config = tiny("data.tasks=[nli]", "pretrain.objective=mlm", f"pretrain.text={path}", *more)
        return source_digest(config, resolve_tasks(config))

    first = digest(texts)
    assert first
    assert digest(Path(shutil.copytree(texts, tmp_path / "moved"))) == first
    (texts / "one.txt").write_text("the soup was dreadful .\n" * 40, encoding="utf-8")
    assert digest(texts) != first
    os.remove(texts / "one.txt")
    os.rmdir(texts)
    with pytest.raises(ValueError, match=r"there is no .*texts; give pretrain\.text a UTF-8 text file or a folder"):
        digest(texts)


def test_a_finished_run_is_read_without_its_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"the soup of day {i} was lovely and the waiter was kind ." for i in range(60)))
    run = Run(tmp_path / "run")
    config = tiny("data.tasks=[nli]", "pretrain.objective=mlm", f"pretrain.text={text}")
    done = go(run, config, last_stage="pretrain").manifest["jobs"]
    assert done["pt-1"]["lines"] == 60
    assert done["pt-1"]["objective"] == "mlm"
    text.unlink()
    status(run.path)
    assert "pretrain" in capsys.readouterr().out
