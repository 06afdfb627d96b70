"""The training loop: it learns, it resumes to the same bytes, it stops on a loss that is not finite, its dynamics are
the logits that the losses were computed from, and weights and auxiliary losses are in the gradient to the bit.

Over 350 lines, as all of it is one function's contract and goes through one harness, `run`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny import CPU, NO_HEAD_DROPOUT, TASKS, random_data, tiny_model
from torch import Tensor, nn

import core.optim
import core.train
from core.batching import Batch, TaskData, epoch_steps
from core.device import Device
from core.losses import hard, regression
from core.model import MultiTaskModel
from core.predict import predict
from core.sections import TrainConfig
from core.speed import Speed
from core.train import TaskLoss, train_model

NAMES = ("multitask", "mt-1")


class Trained(NamedTuple):
    model: MultiTaskModel
    dynamics: dict[str, np.ndarray]
    reports: list[tuple[float, dict[str, Any] | None]]
    speed: Speed


def gold_loss(datas: dict[str, TaskData]) -> TaskLoss:
    def loss(task: str, logits: Tensor, rows: np.ndarray, progress: float) -> Tensor:
        gold = datas[task].gold[torch.from_numpy(rows)]
        return regression(logits, gold) if task == "score" else hard(logits, gold)

    return loss


class Guess(nn.Module):
    """An auxiliary loss like replaced-token detection: weights of its own on the encoder's embeddings, and dropout. It
    lives in the model, so that optimiser and checkpoint know it."""

    def __init__(self, dropout: float):
        super().__init__()
        self.out = nn.Linear(32, 1)
        self.dropout = nn.Dropout(dropout)
        self.autocast_seen: set[bool] = set()

    def forward(self, embeddings: nn.Module, batch: Batch) -> Tensor:
        self.autocast_seen.add(torch.is_autocast_enabled("cpu"))
        return (self.out(self.dropout(embeddings(batch.ids_T))) - 1).square().mean()


def run(
    datas: dict[str, TaskData],
    folder: Path,
    *,
    train: TrainConfig,
    kill_at: int | None = None,
    checkpoint_seconds: float = 0.0,
    loss_fn: TaskLoss | None = None,
    dropout: float = 0.3,
    with_auxiliary: bool = False,
    device: Device = CPU,
    **heads: Any,
) -> Trained:
    """One training as a job does it: seed, model, loop. `kill_at`: the report that ends it."""
    model = tiny_model({name: TASKS[name] for name in datas}, dropout=dropout, seed=3, **heads)
    if with_auxiliary:
        model.add_module("guess", Guess(dropout))
    reports: list[tuple[float, dict[str, Any] | None]] = []

    def report(done: float, values: dict[str, Any] | None) -> None:
        reports.append((done, values))
        if len(reports) == kill_at:
            raise KeyboardInterrupt

    def evaluate() -> dict[str, float]:
        return {name: float(predict(model, data, data.rows("dev"), CPU).mean()) for name, data in datas.items()}

    def guess(model: Any, batch: Batch) -> Tensor:
        return model.guess(model.encoder.embeddings.word_embeddings, batch)

    dynamics, speed = train_model(
        model,
        datas,
        loss_fn or gold_loss(datas),
        train=train,
        seed=0,
        names=NAMES,
        device=device,
        report=report,
        evaluate=evaluate,
        checkpoint=folder / "checkpoint.safetensors",
        checkpoint_seconds=checkpoint_seconds,
        auxiliary=guess if with_auxiliary else None,
    )
    return Trained(model, dynamics, reports, speed)


def all_tasks(n: int = 24) -> dict[str, TaskData]:
    return {name: random_data(task, n + 4 * i, seed=i, dev=8) for i, (name, task) in enumerate(TASKS.items())}


def test_a_kept_gradient_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every embedding is kept, and one is read twice in a step, by the encoder and by an auxiliary loss."""
    monkeypatch.setattr(core.train, "LOOK_EVERY_STEPS", 1)
    plain, seen, trained = core.train.kept_gradients, list[int](), []
    monkeypatch.setattr(core.train, "kept_gradients", lambda model: (kept := plain(model), seen.append(len(kept)))[0])
    for folder, kept_from in (("kept", 1), ("plain", 2**40)):
        monkeypatch.setattr(core.optim, "KEPT_FROM", kept_from)
        made = run(all_tasks(), tmp_path / folder, train=TrainConfig(epochs=2, batch_size=8), with_auxiliary=True)
        words = made.model.encoder.embeddings.word_embeddings
        assert words.weight.grad is None
        assert not words.sparse
        trained.append(made)
    assert seen == [3, 0]  # words, positions, segments
    # Weights whose gradient is nothing but rounding (a key's bias) go where Adam's division sends them; losses do not.
    kept_losses, losses = (
        [values["loss"] for _, values in made.reports if values and "loss" in values] for made in trained
    )
    assert len(losses) > 30
    np.testing.assert_allclose(kept_losses, losses, rtol=0, atol=1e-4)


# ---- it learns -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("optimizer", ["adamw", "adamax"])
def test_it_learns_a_trivial_task(optimizer: str, tmp_path: Path) -> None:
    """The class is one token's id modulo 3."""
    datas = {"topic": random_data(TASKS["topic"], 600, dev=200)}
    train = TrainConfig(epochs=8, lr=3e-3, batch_size=16, optimizer=optimizer)
    trained = run(datas, tmp_path, train=train, dropout=0.0, checkpoint_seconds=1e9, **NO_HEAD_DROPOUT)
    data = datas["topic"]
    rows = data.rows("dev")
    accuracy = float((predict(trained.model, data, rows, CPU).argmax(1) == data.gold.numpy()[rows]).mean())
    assert accuracy > 0.95  # measured: 1.0 for both; chance is 0.35
    losses = [values["loss"] for _, values in trained.reports if values and "loss" in values]
    assert losses[0] > 0.9  # log 3 = 1.1
    assert losses[-1] < 0.1
    assert not any(module.training for module in trained.model.modules())


# ---- it resumes to the same bytes ----------------------------------------------------------------------------------
def reported_at(reports: list[tuple[float, dict[str, Any] | None]]) -> list[tuple[int, int | None]]:
    """(epoch, step) of each report; the step of an epoch's evaluation is None."""
    return [(values["epoch"], values.get("step")) for _, values in reports if values is not None]


@pytest.mark.parametrize(
    ("optimizer", "sampling", "with_auxiliary"),
    [("adamw", "proportional", False), ("adamax", "proportional", False), ("adamw", "uniform", True)],
)
def test_a_killed_training_goes_on_to_the_same_bytes(
    optimizer: Any, sampling: Any, with_auxiliary: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core.train, "LOOK_EVERY_STEPS", 5)
    datas = all_tasks()
    train = TrainConfig(epochs=2, lr=2e-3, batch_size=8, optimizer=optimizer, sampling=sampling)
    expected = run(datas, tmp_path / "whole", train=train, checkpoint_seconds=1e9, with_auxiliary=with_auxiliary)
    assert ("guess.out.weight" in expected.model.state_dict()) == with_auxiliary
    assert np.isnan(expected.dynamics["score"]).any() == (sampling == "uniform")
    assert not (tmp_path / "whole").exists()
    places = reported_at(expected.reports)
    steps = places[-2][1]
    assert places == [(e, s) for e in (0, 1) for s in (5, 10, 15, steps, None)]
    # The kill comes in a report, before the checkpoint of that report: after none, in the middle of an epoch, at the
    # end of one before and after its evaluation, early and late in the next, and after the last step.
    for kill_at in (1, 2, 4, 5, 6, 8, 9, 10):
        folder = tmp_path / str(kill_at)
        with pytest.raises(KeyboardInterrupt):
            run(datas, folder, train=train, kill_at=kill_at, with_auxiliary=with_auxiliary)
        assert (folder / "checkpoint.safetensors").exists() == (kill_at > 1)
        torch.manual_seed(99)  # what another process would hold
        resumed = run(datas, folder, train=train, with_auxiliary=with_auxiliary)
        assert len(resumed.reports) < len(expected.reports) or kill_at == 1  # it did not start over
        for name, value in expected.model.state_dict().items():
            assert torch.equal(resumed.model.state_dict()[name], value), (kill_at, name)
        for name, outputs_ENC in expected.dynamics.items():
            assert resumed.dynamics[name].tobytes() == outputs_ENC.tobytes(), (kill_at, name)
        # What is reported again is the same: losses and scores of the selection split.
        tail = expected.reports[-len(resumed.reports) :]
        assert resumed.reports == tail, kill_at


def test_killed_twice_and_without_dynamics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.train, "LOOK_EVERY_STEPS", 5)
    datas = all_tasks()
    train = TrainConfig(epochs=2, lr=2e-3, batch_size=8, dynamics=False, eval_every_epochs=0)
    expected = run(datas, tmp_path / "whole", train=train, checkpoint_seconds=1e9)
    for kill_at in (3, 4):
        with pytest.raises(KeyboardInterrupt):
            run(datas, tmp_path, train=train, kill_at=kill_at)
    resumed = run(datas, tmp_path, train=train)
    assert expected.dynamics == resumed.dynamics == {}
    assert len(resumed.reports) == 3
    for name, value in expected.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_training_twice_gives_the_same_bytes_and_dropout_is_on(tmp_path: Path) -> None:
    """Guards the tests above: without dropout a lost generator would go unnoticed."""
    datas = all_tasks(8)
    train = TrainConfig(epochs=1, lr=2e-3, batch_size=8)
    first, second, without = (run(datas, tmp_path / "no", train=train, checkpoint_seconds=1e9, dropout=p)
                              for p in (0.3, 0.3, 0.0))  # fmt: skip
    weight = "encoder.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(first.model.state_dict()[weight], second.model.state_dict()[weight])
    assert not torch.equal(first.model.state_dict()[weight], without.model.state_dict()[weight])


def test_a_checkpoint_is_one_safetensors_file_and_comes_by_the_clock(tmp_path: Path) -> None:
    datas = all_tasks(8)
    train = TrainConfig(epochs=2, lr=1e-3, batch_size=8)
    run(datas, tmp_path / "never", train=train, checkpoint_seconds=1e9)
    assert not (tmp_path / "never").exists()
    with pytest.raises(KeyboardInterrupt):
        run(datas, tmp_path / "always", train=train, kill_at=2)
    assert [path.name for path in (tmp_path / "always").iterdir()] == ["checkpoint.safetensors"]
    with safe_open(tmp_path / "always" / "checkpoint.safetensors", framework="pt") as file:
        parts = {name.partition(".")[0] for name in file.keys()}  # noqa: SIM118 (not a dict)
    assert parts == {"model", "optimizer", "dynamics", "generator"}


# ---- reports -------------------------------------------------------------------------------------------------------
def test_reports_say_how_far_and_the_mean_loss_since_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.train, "LOOK_EVERY_STEPS", 4)
    datas = {"topic": random_data(TASKS["topic"], 80, dev=8)}
    seen: list[float] = []

    progresses: list[float] = []

    def loss(task: str, logits: Tensor, rows: np.ndarray, progress: float) -> Tensor:
        loss_B = hard(logits, datas[task].gold[torch.from_numpy(rows)])
        seen.append(float(loss_B.detach().mean()))
        progresses.append(progress)
        return loss_B

    train = TrainConfig(epochs=2, lr=1e-3, batch_size=8, eval_every_epochs=2)
    reports = run(datas, tmp_path, train=train, loss_fn=loss).reports
    assert progresses == pytest.approx([i / 20 for i in range(20)])
    assert reported_at(reports) == [(0, 4), (0, 8), (0, 10), (1, 4), (1, 8), (1, 10), (1, None)]
    assert [done for done, _ in reports] == pytest.approx([0.2, 0.4, 0.5, 0.7, 0.9, 1.0, 1.0])
    means = [np.mean(seen[start:stop]) for start, stop in ((0, 4), (4, 8), (8, 10), (10, 14), (14, 18), (18, 20))]
    assert [values["loss"] for _, values in reports[:-1] if values] == pytest.approx(means, rel=1e-6)
    assert reports[-1][1] is not None
    assert set(reports[-1][1]["selection"]) == {"topic"}


def test_the_rate_warms_up_and_decays_over_the_whole_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    plain: Callable[..., None] = core.train.set_learning_rate

    def record(optimizer: torch.optim.Optimizer, rate: float) -> None:
        rates.append(rate)
        plain(optimizer, rate)

    monkeypatch.setattr(core.train, "set_learning_rate", record)
    datas = {"topic": random_data(TASKS["topic"], 80)}
    run(datas, tmp_path, train=TrainConfig(epochs=2, lr=1.0e-3, batch_size=8, warmup_frac=0.2, eval_every_epochs=0))
    # 20 steps, taken at their middle: 4 rise to the peak, 16 fall to 0.
    expected = [1e-3 * (i + 0.5) / 4 for i in range(4)] + [1e-3 * (20 - i - 0.5) / 16 for i in range(4, 20)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("clip_norm", [0.05, 1e6])
def test_steps_are_clipped(clip_norm: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    plain: Callable[..., Tensor] = core.train.clipped_step

    def record(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
        plain(optimizer, max_norm)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))

    monkeypatch.setattr(core.train, "clipped_step", record)
    train = TrainConfig(epochs=1, lr=1e-3, batch_size=8, clip_norm=clip_norm)
    run({"topic": random_data(TASKS["topic"], 40, dev=8)}, tmp_path, train=train)
    assert len(norms) == 5
    if clip_norm == 0.05:
        assert norms == pytest.approx([0.05] * 5, rel=1e-4)
    else:
        assert min(norms) > 0.1  # there was something to clip


def test_speed_counts_real_tokens_and_the_wait_for_data(tmp_path: Path) -> None:
    datas = all_tasks()
    speed = run(datas, tmp_path, train=TrainConfig(epochs=3, batch_size=8), checkpoint_seconds=1e9).speed
    n_candidates = {"order": 3}
    assert speed.tokens == 3 * sum(
        int(data.sizes.reshape(len(data.splits), n_candidates.get(name, 1))[data.rows("train")].sum())
        for name, data in datas.items()
    )
    assert 0 < speed.waiting_seconds < speed.seconds


# ---- a loss that is not finite -------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_stops_with_task_step_and_examples(value: float, tmp_path: Path) -> None:
    datas = all_tasks()
    train = TrainConfig(epochs=2, lr=1e-3, batch_size=8)
    steps = epoch_steps(datas, train, seed=0, names=NAMES, epoch=1)
    place = next(i for i, step in enumerate(steps) if i > 6 and step.task == "order")
    bad = int(steps[place].rows[0])
    epochs_seen = 0
    on_gold = gold_loss(datas)

    def loss(task: str, logits: Tensor, rows: np.ndarray, progress: float) -> Tensor:
        nonlocal epochs_seen
        loss_B = on_gold(task, logits, rows, progress)
        if task == "order" and bad in rows:
            epochs_seen += 1
            if epochs_seen == 2:
                return torch.where(torch.from_numpy(rows == bad), value, loss_B)
        return loss_B

    with pytest.raises(FloatingPointError) as error:
        run(datas, tmp_path, train=train, loss_fn=loss, checkpoint_seconds=1e9)
    message = str(error.value)
    assert f"the loss of epoch 1, step {place} is {value}: task 'order'" in message
    ids = datas["order"].example_ids[steps[place].rows]
    assert all(repr(name) in message for name in ids[:3])
    assert f"and {len(ids) - 3} more" in message
    assert "Lower the learning rate" in message


def test_an_exploding_training_stops(tmp_path: Path) -> None:
    """No staged nan: a learning rate far too high for regression."""
    datas = {"score": random_data(TASKS["score"], 80)}
    datas["score"] = datas["score"]._replace(gold=datas["score"].gold * 1e30)
    with pytest.raises(FloatingPointError, match="epoch 0, step 0 is inf: task 'score', examples 'score/train/"):
        run(datas, tmp_path, train=TrainConfig(epochs=1, lr=1e-3, batch_size=8))


# ---- dynamics ------------------------------------------------------------------------------------------------------
def test_dynamics_hold_each_rows_logits_of_each_epoch(tmp_path: Path) -> None:
    """With a learning rate of almost 0 and no dropout they are the model's predictions, in the order of the rows."""
    datas = all_tasks()
    train = TrainConfig(epochs=2, lr=1e-12, batch_size=8, weight_decay=0.0)
    trained = run(datas, tmp_path, train=train, dropout=0.0, **NO_HEAD_DROPOUT)
    for name, data in datas.items():
        rows = data.rows("train")
        outputs_ENC = trained.dynamics[name]
        assert outputs_ENC.shape == (2, len(rows), data.task.n_outputs)
        expected_NC = predict(trained.model, data, rows, CPU).reshape(len(rows), -1)
        for outputs_NC in outputs_ENC:
            # Other batches, another order of sums.
            np.testing.assert_allclose(outputs_NC, expected_NC, rtol=0, atol=1e-5)
        # Neighbours differ by three times the tolerance and more, so swapped rows would show.
        assert np.abs(np.diff(expected_NC, axis=0)).max(axis=-1).min() > 3e-5


def test_dynamics_are_what_the_loss_was_given(tmp_path: Path) -> None:
    datas = all_tasks()
    given: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in datas}
    on_gold = gold_loss(datas)

    def loss(task: str, logits: Tensor, rows: np.ndarray, progress: float) -> Tensor:
        given[task].append((rows, logits.detach().numpy().copy()))
        return on_gold(task, logits, rows, progress)

    dynamics = run(datas, tmp_path, train=TrainConfig(epochs=3, lr=2e-3, batch_size=8), loss_fn=loss).dynamics
    for name, data in datas.items():
        rows = np.concatenate([rows for rows, _ in given[name]]).reshape(3, -1)
        logits = np.concatenate([logits for _, logits in given[name]]).reshape(3, rows.shape[1], -1)
        for epoch in range(3):
            order = np.argsort(rows[epoch])
            assert rows[epoch][order].tolist() == data.rows("train").tolist()
            assert np.array_equal(dynamics[name][epoch], logits[epoch][order])
        assert not np.array_equal(dynamics[name][0], dynamics[name][2])


# ---- task weights and auxiliary losses -----------------------------------------------------------------------------
# A rate too small to change a float32 weight: every step of two trainings sees the same model.
STILL: dict[str, Any] = {"epochs": 1, "lr": 1e-30, "batch_size": 8, "weight_decay": 0.0, "eval_every_epochs": 0}
Gradients = dict[str, Tensor]


def gradients_of(
    datas: dict[str, TaskData], folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[list[Gradients], Trained]:
    """The gradients of each step, before clipping, of a training without dropout that stands still."""
    found: list[Gradients] = []
    kept: list[nn.Module] = []
    plain: Callable[..., Any] = core.train.make_optimizer

    def keep(forward: Any, train: TrainConfig) -> torch.optim.Optimizer:
        kept.append(forward.model)
        return plain(forward, train)

    def record(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
        found.append({name: p.grad.clone() for name, p in kept[0].named_parameters() if p.grad is not None})
        optimizer.step()

    with monkeypatch.context() as patch:
        patch.setattr(core.train, "make_optimizer", keep)
        patch.setattr(core.train, "clipped_step", record)
        train = TrainConfig(**{**STILL, **options.pop("train", {})})
        trained = run(datas, folder, train=train, checkpoint_seconds=1e9, dropout=0.0, **NO_HEAD_DROPOUT, **options)
    return found, trained


def test_task_weights_scale_gradients_and_not_what_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datas = all_tasks()
    weights = {"topic": 0.5, "order": 4.0}  # powers of two: scaling by them rounds nothing
    plain, unweighted = gradients_of(datas, tmp_path, monkeypatch)
    scaled, weighted = gradients_of(datas, tmp_path, monkeypatch, train={"task_weights": weights})
    steps = epoch_steps(datas, TrainConfig(**STILL), seed=0, names=NAMES, epoch=0)
    assert {step.task for step in steps} > set(weights)
    for step, before, after in zip(steps, plain, scaled, strict=True):
        assert before.keys() == after.keys()  # the heads of other tasks have none
        assert not any(name.startswith("heads") and f"task:{step.task}" not in name for name in before)
        for name, gradient in before.items():
            assert torch.equal(after[name], weights.get(step.task, 1.0) * gradient), (step.task, name)
        assert max(float(gradient.abs().max()) for gradient in before.values()) > 1e-3
    assert weighted.reports == unweighted.reports


def test_an_auxiliary_loss_adds_its_gradient_and_is_reported_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core.train, "LOOK_EVERY_STEPS", 1)
    datas = all_tasks()
    weights = {"train": {"task_weights": {"pair": 2.0}}}  # not of the auxiliary loss
    plain, without = gradients_of(datas, tmp_path, monkeypatch, **weights)
    both, trained = gradients_of(datas, tmp_path, monkeypatch, with_auxiliary=True, **weights)
    steps = epoch_steps(datas, TrainConfig(**STILL), seed=0, names=NAMES, epoch=0)
    guess: Any = trained.model.guess
    shared, words = "encoder.embeddings.word_embeddings.weight", trained.model.encoder.embeddings.word_embeddings
    for step, before, after, (_, alone), (_, values) in zip(
        steps, plain, both, without.reports, trained.reports, strict=True
    ):
        guess.zero_grad()
        words.zero_grad()
        loss = guess(words, core.train.make_batch(datas[step.task], step.rows))
        loss.backward()
        own = {f"guess.out.{name}": p.grad for name, p in guess.out.named_parameters()}
        for name, gradient in after.items():
            if name == shared:
                # A sum of two, of either order.
                assert torch.equal(gradient, before[name] + words.weight.grad)
                assert not torch.equal(gradient, before[name])
            else:
                assert torch.equal(gradient, own[name] if name in own else before[name]), (step.task, name)
        assert after.keys() == before.keys() | own.keys()
        assert alone is not None
        assert values == {**alone, "auxiliary": loss.item()}
    assert guess.autocast_seen == {False}


def test_an_auxiliary_loss_runs_under_the_same_autocast(tmp_path: Path) -> None:
    bfloat16 = Device(torch.device("cpu"), torch.bfloat16, "as the test needs it")
    datas = {"topic": random_data(TASKS["topic"], 16, dev=8)}
    trained = run(datas, tmp_path, train=TrainConfig(epochs=1), with_auxiliary=True, device=bfloat16)
    guess: Any = trained.model.guess
    assert guess.autocast_seen == {True}


def test_an_auxiliary_loss_that_is_not_finite_stops_and_is_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its update spoils the model, so that the task's own loss is nan a step later: not the culprit."""
    calls: list[int] = []
    plain = Guess.forward

    def forward(self: Guess, embeddings: nn.Module, batch: Batch) -> Tensor:
        calls.append(1)
        return plain(self, embeddings, batch) * (torch.nan if len(calls) == 3 else 1.0)

    monkeypatch.setattr(Guess, "forward", forward)
    datas = {"topic": random_data(TASKS["topic"], 80)}
    with pytest.raises(
        FloatingPointError, match="the auxiliary loss of epoch 0, step 2 is nan: task 'topic', examples"
    ):
        run(datas, tmp_path, train=TrainConfig(epochs=1, batch_size=8), with_auxiliary=True)
    assert len(calls) == 10  # it was looked at after nine losses of the task, seven of them nan
