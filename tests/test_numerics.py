"""What stops a training: losses and weights that are not finite, memory. What a run says of texts that were cut.

The loop's own tests on losses are in test_train, a diverged run in test_resume.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import go, log_lines, tiny
from test_cli import refused
from test_train import NAMES, all_tasks, gold_loss, run
from tiny import TASKS, random_data
from torch import Tensor

import core.train
from core.batching import epoch_steps
from core.sections import TrainConfig
from core.stages.memory import largest_batch, section_of
from core.store import Run

TRAIN = TrainConfig(epochs=2, lr=1e-3, batch_size=8)


# ---- not finite ----------------------------------------------------------------------------------------------------
def test_the_last_good_checkpoint_stays_and_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A nan in epoch 1; what was saved before it goes on, without it, as if nothing had been."""
    monkeypatch.setattr(core.train, "LOOK_EVERY_STEPS", 2)
    datas = all_tasks(8)
    on_gold, steps = gold_loss(datas), epoch_steps(datas, TRAIN, seed=0, names=NAMES, epoch=1)

    def loss(task: str, logits: Tensor, rows: np.ndarray, progress: float) -> Tensor:
        loss_B = on_gold(task, logits, rows, progress)
        is_bad = progress >= 0.5 and task == steps[5].task and np.array_equal(rows, steps[5].rows)
        return loss_B * torch.nan if is_bad else loss_B

    checkpoint = tmp_path / "one" / "checkpoint.safetensors"
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 5 is nan.*checkpoint\.safetensors keeps the last"):
        run(datas, tmp_path / "one", train=TRAIN, loss_fn=loss)
    kept = checkpoint.read_bytes()
    with pytest.raises(FloatingPointError, match="epoch 1, step 5 is nan"):
        run(datas, tmp_path / "one", train=TRAIN, loss_fn=loss)  # from the checkpoint, to the same end
    assert checkpoint.read_bytes() == kept
    mended = run(datas, tmp_path / "one", train=TRAIN)
    whole = run(datas, tmp_path / "two", train=TRAIN)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(mended.model.state_dict()[name], value), name


def test_an_update_that_spoils_the_weights_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loss was finite; a gradient was not. Such a checkpoint would fail at its first step for ever."""
    monkeypatch.setattr(core.train, "LOOK_EVERY_STEPS", 1)
    datas = {"topic": random_data(TASKS["topic"], 80, dev=8)}
    plain = core.train.clipped_step
    calls = iter(range(100))

    def spoil(optimizer: torch.optim.Optimizer, norm: float) -> None:
        if next(calls) == 3:
            optimizer.param_groups[0]["params"][0].grad.fill_(torch.inf)
        plain(optimizer, norm)

    monkeypatch.setattr(core.train, "clipped_step", spoil)
    with pytest.raises(
        FloatingPointError, match=r"the update of epoch 0, step 3 made weights .*: task 'topic', examples 'topic/train/"
    ):
        run(datas, tmp_path, train=TRAIN)
    monkeypatch.setattr(core.train, "clipped_step", plain)
    assert next(values["step"] for _, values in run(datas, tmp_path, train=TRAIN).reports if values) == 4


@pytest.mark.parametrize("breaks", ["truncated", "flipped"])
def test_a_damaged_checkpoint_is_named(breaks: str, tmp_path: Path) -> None:
    datas = all_tasks(8)
    with pytest.raises(KeyboardInterrupt):
        run(datas, tmp_path, train=TRAIN, kill_at=2)
    [path] = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    if breaks == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes(data if breaks == "flipped" else data[:-100])
    with pytest.raises(
        ValueError, match=r"checkpoint\.safetensors is damaged .* Delete it, and the same command trains"
    ):
        run(datas, tmp_path, train=TRAIN)
    assert path.exists()


# ---- memory --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1000000 bytes"),
        RuntimeError("MPS backend out of memory"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "mps", "python"],
)
def test_no_memory_names_the_batch_and_the_option(
    error: Exception, copied: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("core.stages.training.train_model", fail)
    message = refused("run", "--out", copied.path, "--from", "distill", "--set", "distill.token_budget=512")
    assert message.startswith("memory ran out while 'st-hard-s0' was trained. A batch of task '")
    assert "has up to 512 tokens (distill.batch_size=64, sequences of up to " in message
    assert "distill.token_budget=512). Lower distill.token_budget, for example to 256, or" in message


def test_other_runtime_errors_stay(copied: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("core.stages.training.train_model", fail)
    with pytest.raises(RuntimeError, match=r"^shapes do not fit$"):
        go(copied, tiny(), only_stage="distill")


def test_the_largest_batch_is_told_as_it_is_cut() -> None:
    datas = all_tasks()
    longest = {name: int(data.lengths.max()) for name, data in datas.items()}
    name, length, tokens = largest_batch(TRAIN, datas)
    assert length == longest[name]
    assert tokens == 8 * length * (datas[name].task.n_outputs if datas[name].task.kind == "ranking" else 1)
    assert largest_batch(TRAIN.model_copy(update={"token_budget": 32}), {"topic": datas["topic"]})[2] == max(
        32, longest["topic"]
    )
    assert [section_of(spec) for spec in ({"task": "nli", "member": {}}, {"member": {}}, {"variant": "kd"})] == [
        "finetune",
        "multitask",
        "distill",
    ]


# ---- cut texts -----------------------------------------------------------------------------------------------------
def test_cut_texts_are_counted(tmp_path: Path) -> None:
    run_ = Run(tmp_path / "run")
    shown = go(run_, tiny("model.max_length=16", "data.tasks=[nli,relevance]"), last_stage="prepare").shown
    whole = Run(tmp_path / "whole")
    assert "were cut" not in go(whole, tiny("data.tasks=[nli,relevance]"), last_stage="prepare").shown
    notes = run_.manifest()["jobs"]["prepare"]["notes"]
    assert whole.manifest()["jobs"]["prepare"]["notes"] == []
    # Counted another way: [CLS] a [SEP] b [SEP], a token a word.
    rows = run_.read_examples("nli").to_pylist()
    n_cut = sum(len((row["text_a"] + " " + row["text_b"]).split()) + 3 > 16 for row in rows)
    asked = run_.read_examples("relevance").to_pylist()
    n_questions = sum(
        max(len((row["text_a"] + " " + one).split()) for one in row["candidates"]) + 3 > 16 for row in asked
    )
    assert n_cut > 0
    words = "examples have more tokens ('word') than model.max_length=16, and were cut"
    expected = [
        f"task 'nli': {n_cut} of {len(rows)} {words}",
        f"task 'relevance': {n_questions} of {len(asked)} {words}",
    ]
    assert notes == [line for line, n in zip(expected, (n_cut, n_questions), strict=True) if n]
    assert all(f"note: {note}" in shown.replace("\n", "") for note in notes)
    assert log_lines(run_, event="progress", job="prepare", notes=notes)
