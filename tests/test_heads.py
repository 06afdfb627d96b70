"""The four task layers: SAN against the paper's equations in plain loops, the others against one product.

Equations are those of 1901.11504, section 3; steps are numbered as the class's docstring has them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import HEADS, TASKS, batch_of
from torch import Tensor

from core.batching import Batch
from core.heads import HEADS as TABLE
from core.heads import LinearHead, RankingHead, SanHead, make_head
from core.tasks import HEADS_OF_KIND, Task

H = 6
# How alike two texts are, on a scale: a regression that SAN reads.
ALIKE = Task(name="alike", kind="regression", head="san", metrics=("pearson",), text_b="text_b", score_range=(1.0, 4.0))
# float32 against float64 over a few hundred products of order 1.
EXACT = 1e-5


def san(steps: int, *, dropout: float = 0.0, step_dropout: float = 0.0, task: Task = TASKS["pair"]) -> SanHead:
    torch.manual_seed(steps)
    head = SanHead(task, H, dropout=dropout, steps=steps, step_dropout=step_dropout)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=0.7)  # far from the uniform attention of a fresh head
    return head


def pairs(lengths: list[tuple[int, int]] = [(3, 4), (2, 1), (5, 2), (1, 6)], seed: int = 0) -> tuple[Tensor, Batch]:  # noqa: B006
    """Random states of the packed tokens of pairs with so many premise and hypothesis tokens."""
    batch = batch_of([[7] * (a + b) for a, b in lengths], [a for a, _ in lengths])
    return torch.randn(len(batch.ids_T), H, generator=torch.Generator().manual_seed(seed)), batch


def of_sequences(x_T: Tensor, batch: Batch) -> list[Tensor]:
    """One part a sequence, in the order of the rows."""
    parts = x_T.split(np.diff(batch.bounds).tolist())
    return [parts[i] for i in (range(len(parts)) if batch.rank_B is None else batch.rank_B.tolist())]


# ---- SAN, naively --------------------------------------------------------------------------------------------------
def softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    total = sum(np.exp(score - top) for score in scores)
    return [float(np.exp(score - top) / total) for score in scores]


def mix(weights: list[float], states: list[np.ndarray]) -> np.ndarray:
    return sum((w * state for w, state in zip(weights, states, strict=True)), np.zeros(H))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gru(p: dict[str, np.ndarray], x: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Cho et al. 2014, gates in torch's order: reset, update, new."""
    from_x = [p["gru.weight_ih"][i * H : (i + 1) * H] @ x + p["gru.bias_ih"][i * H : (i + 1) * H] for i in range(3)]
    from_s = [p["gru.weight_hh"][i * H : (i + 1) * H] @ s + p["gru.bias_hh"][i * H : (i + 1) * H] for i in range(3)]
    reset, update = sigmoid(from_x[0] + from_s[0]), sigmoid(from_x[1] + from_s[1])
    new = np.tanh(from_x[2] + reset * from_s[2])
    return (1 - update) * new + update * s


def naive_steps(head: SanHead, hidden_TH: Tensor, batch: Batch) -> list[list[list[float]]]:
    """P^k of each example and step, or its value: examples x K x C."""
    p = {name: value.detach().double().numpy() for name, value in head.named_parameters()}
    answers = []
    for states, is_b in zip(of_sequences(hidden_TH.double(), batch), of_sequences(batch.is_b_T, batch), strict=True):
        premise, hypothesis = list(states[~is_b].numpy()), list(states[is_b].numpy())
        s = mix(softmax([float(p["summary.weight"][0] @ m) for m in hypothesis]), hypothesis)
        steps = []
        for k in range(head.steps):
            x = mix(softmax([float(m @ p["attention.weight"] @ s) for m in premise]), premise)
            features = np.concatenate([s, x, np.abs(s - x), s * x])
            answer = (p["out.weight"] @ features + p["out.bias"]).tolist()
            steps.append(answer if head.is_value else softmax(answer))
            if k + 1 < head.steps:
                s = gru(p, x, s)
        answers.append(steps)
    return answers


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_san_is_the_naive_loop(steps: int) -> None:
    head = san(steps, step_dropout=0.5).eval()
    hidden_TH, batch = pairs()
    expected_BC = np.log(np.array(naive_steps(head, hidden_TH, batch)).mean(axis=1))
    got_BC = head(hidden_TH, batch).detach().numpy()
    np.testing.assert_allclose(got_BC, expected_BC, rtol=0, atol=EXACT)
    assert np.ptp(expected_BC, axis=0).max() > 0.1  # examples differ, so the inputs are read


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_san_reads_a_value_as_the_mean_of_its_steps(steps: int) -> None:
    head = san(steps, step_dropout=0.5, task=ALIKE).eval()
    hidden_TH, batch = pairs()
    expected_B1 = np.array(naive_steps(head, hidden_TH, batch)).mean(axis=1)
    np.testing.assert_allclose(head(hidden_TH, batch).detach().numpy(), expected_B1, rtol=0, atol=EXACT)
    assert np.ptp(expected_B1) > 0.1
    assert SanHead(ALIKE, H, dropout=0.0, steps=steps, step_dropout=0.0).out.bias.item() == 2.5  # the scale's middle


@pytest.mark.parametrize("task", [TASKS["pair"], ALIKE])
def test_a_uniform_start_reads_the_means_of_both_texts(task: Task) -> None:
    torch.manual_seed(0)
    given = {**HEADS, "san_steps": 1, "head_dropout": 0.0}
    head = make_head(task, H, **given, san_start="uniform").eval()
    hidden_TH, batch = pairs()
    sides = zip(of_sequences(hidden_TH, batch), of_sequences(batch.is_b_T, batch), strict=True)
    means = [(h[~is_b].mean(0), h[is_b].mean(0)) for h, is_b in sides]
    x_BH, s_BH = torch.stack([x for x, _ in means]), torch.stack([s for _, s in means])
    expected_BC = head.out(torch.cat([s_BH, x_BH, (s_BH - x_BH).abs(), s_BH * x_BH], dim=-1))
    if task.kind == "classification":
        expected_BC = expected_BC.log_softmax(-1)
    torch.testing.assert_close(head(hidden_TH, batch), expected_BC, rtol=0, atol=EXACT)
    # It learns to choose, and all else starts as in a random head.
    head(hidden_TH, batch).square().sum().backward()
    assert head.attention.weight.grad.abs().max() > 0
    assert head.summary.weight.grad.abs().max() > 0
    torch.manual_seed(0)
    random = make_head(task, H, **given)
    for name, value in random.named_parameters():
        is_attention = name in ("summary.weight", "attention.weight")
        assert torch.equal(value, head.get_parameter(name)) is not is_attention


def test_whole_steps_of_a_value_are_dropped() -> None:
    head = san(5, step_dropout=0.5, task=ALIKE).train()
    hidden_TH, batch = pairs([(3, 4)] * 4)  # of one length, so in the order of the rows
    steps_BK = torch.tensor(naive_steps(head, hidden_TH, batch)).squeeze(-1)
    torch.manual_seed(3)
    kept_BK = head._kept_steps(len(steps_BK), torch.device("cpu"))
    assert kept_BK is not None
    assert 4 < kept_BK.sum() < 20
    torch.manual_seed(3)
    expected_B = torch.stack([steps_K[kept_K].mean() for steps_K, kept_K in zip(steps_BK, kept_BK, strict=True)])
    torch.testing.assert_close(head(hidden_TH, batch)[:, 0].detach(), expected_B, rtol=0, atol=EXACT)


def test_steps_reason_further() -> None:
    """The naive loop would not notice steps that all give the first step's answer."""
    head = san(5).eval()
    per_step_BKC = np.array(naive_steps(head, *pairs()))
    assert np.abs(np.diff(per_step_BKC, axis=1)).max() > 0.05


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("training", [True, False])
def test_san_gives_log_probabilities(steps: int, training: bool) -> None:
    head = san(steps, dropout=0.3, step_dropout=0.5).train(training)
    hidden_TH, batch = pairs()
    # Far-off states, too: a step may be certain, and its log-probabilities then reach -100 and beyond.
    for scale in (1.0, 30.0):
        log_probs_BC = head(scale * hidden_TH, batch)
        assert (log_probs_BC.shape, log_probs_BC.dtype) == ((4, 3), torch.float32)
        torch.testing.assert_close(log_probs_BC.exp().sum(-1), torch.ones(4), rtol=0, atol=EXACT)


def test_san_answers_each_pair_as_if_it_were_alone() -> None:
    head = san(3).eval()
    lengths = [(3, 4), (2, 1), (5, 2), (1, 6)]
    hidden_TH, batch = pairs(lengths)
    assert batch.rank_B is not None
    assert not batch.is_even
    together_BC = head(hidden_TH, batch)
    for i, states_TH in enumerate(of_sequences(hidden_TH, batch)):
        _, alone = pairs([lengths[i]])
        torch.testing.assert_close(head(states_TH, alone), together_BC[i : i + 1], rtol=0, atol=EXACT)


def test_san_has_finite_gradients_in_training_with_padding() -> None:
    """Masked entries are -inf before a softmax, which makes nan gradients where a whole row is masked."""
    head = san(5, dropout=0.2, step_dropout=0.9).train()
    hidden_TH, batch = pairs()
    hidden_TH.requires_grad_()
    head(hidden_TH, batch)[:, 0].sum().backward()
    assert hidden_TH.grad is not None
    assert hidden_TH.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_san_computes_in_float32_under_autocast() -> None:
    head = san(2).eval()
    hidden_TH, batch = pairs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got_BC = head(hidden_TH.bfloat16(), batch)
    assert got_BC.dtype == torch.float32
    assert torch.equal(got_BC, head(hidden_TH.bfloat16().float(), batch))


# ---- stochastic prediction dropout ---------------------------------------------------------------------------------
def test_in_training_the_answer_is_the_mean_over_the_kept_steps() -> None:
    head = san(5, step_dropout=0.5).train()
    hidden_TH, batch = pairs()
    torch.manual_seed(0)
    kept_BK = head._kept_steps(4, torch.device("cpu"))
    assert kept_BK is not None
    assert 4 < int(kept_BK.sum()) < 20
    torch.manual_seed(0)
    got_BC = head(hidden_TH, batch).detach().numpy()
    per_step_BKC = np.array(naive_steps(head, hidden_TH, batch))
    kept_BK = batch.in_order(kept_BK)
    for got_C, steps_KC, kept_K in zip(got_BC, per_step_BKC, kept_BK.numpy(), strict=True):
        np.testing.assert_allclose(got_C, np.log(steps_KC[kept_K].mean(axis=0)), rtol=0, atol=EXACT)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.95])
def test_at_least_one_step_stays_and_the_others_with_their_probability(p: float) -> None:
    n, k = 100_000, 5
    torch.manual_seed(0)
    kept_BK = san(k, step_dropout=p).train()._kept_steps(n, torch.device("cpu"))
    assert kept_BK is not None
    per_row_B = kept_BK.sum(-1)
    assert int(per_row_B.min()) == 1 if p > 0.1 else int(per_row_B.min()) >= 1
    # k draws stay with 1 - p each; where all k would go (p^k), one stays.
    expected = k * (1 - p) + p**k
    assert abs(float(per_row_B.double().mean()) - expected) < 5 * (k / 4 / n) ** 0.5  # 5 standard errors, at most
    # No step is favoured.
    share_K = kept_BK.double().mean(0)
    assert float(share_K.max() - share_K.min()) < 7 * (0.25 / n) ** 0.5


@pytest.mark.parametrize(
    ("training", "settings"),
    [
        (False, {"steps": 5, "step_dropout": 0.5}),
        (True, {"steps": 5, "step_dropout": 0.0}),
        (True, {"steps": 1, "step_dropout": 0.5}),
    ],
)
def test_nothing_is_dropped_in_eval_at_0_and_with_one_step(training: bool, settings: dict[str, Any]) -> None:
    head = san(**settings).train(training)
    hidden_TH, batch = pairs()
    assert torch.equal(head(hidden_TH, batch), head(hidden_TH, batch))


# ---- the plain heads -----------------------------------------------------------------------------------------------
def test_linear_is_a_product_with_the_first_token() -> None:
    torch.manual_seed(0)
    head = LinearHead(TASKS["topic"], H, dropout=0.5).eval()
    hidden_TH, batch = pairs()
    firsts_BH = torch.stack([states_TH[0] for states_TH in of_sequences(hidden_TH, batch)])
    expected_BC = firsts_BH @ head.out.weight.T + head.out.bias
    torch.testing.assert_close(head(hidden_TH[batch.first_B], batch), expected_BC, rtol=0, atol=1e-6)
    assert expected_BC.shape == (4, 3)


def test_ranking_makes_a_questions_candidates_its_logits() -> None:
    torch.manual_seed(0)
    head = RankingHead(TASKS["order"], H, dropout=0.0).eval()
    hidden_TH, batch = pairs([(3, 2), (1, 1), (2, 2)] * 2)  # two questions of three candidates
    first_RH = torch.stack([states_TH[0] for states_TH in of_sequences(hidden_TH, batch)])
    logits_BC = head(hidden_TH[batch.first_B], batch).detach()
    assert logits_BC.shape == (2, 3)
    for question in range(2):
        for candidate in range(3):
            relevance = (first_RH[3 * question + candidate] @ head.out.weight[0] + head.out.bias[0]).detach()
            assert float(logits_BC[question, candidate]) == pytest.approx(float(relevance), abs=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, 5.0), (-1.0, 1.0), (10.0, 30.0)])
def test_similarity_starts_at_the_middle_of_the_scale(low: float, high: float) -> None:
    task = Task(name="score", kind="regression", head="similarity", metrics=("pearson",), score_range=(low, high))
    head = make_head(task, H, **HEADS).eval()
    hidden_TH, batch = pairs()
    first_BH = hidden_TH[batch.first_B]
    values_B1 = head(0 * first_BH, batch)
    assert values_B1.shape == (4, 1)
    assert values_B1[:, 0].tolist() == [(low + high) / 2] * 4
    assert head(first_BH, batch).std() > 0


def test_dropout_comes_before_the_product() -> None:
    head = LinearHead(TASKS["topic"], H, dropout=0.5).train()
    hidden_TH, batch = pairs()
    first_BH = hidden_TH[batch.first_B]
    assert not torch.equal(head(first_BH, batch), head(first_BH, batch))


# ---- the table -----------------------------------------------------------------------------------------------------
def test_every_head_of_a_task_row_has_a_class() -> None:
    assert set(TABLE) == {head for heads in HEADS_OF_KIND.values() for head in heads}


@pytest.mark.parametrize("name", TASKS)
def test_make_head_reads_the_task_row(name: str) -> None:
    task = TASKS[name]
    head = make_head(task, H, **{**HEADS, "san_steps": 4, "san_step_dropout": 0.25})
    assert type(head) is TABLE[task.head]
    if isinstance(head, SanHead):
        assert (head.steps, head.step_dropout) == (4, 0.25)
    width = 3 if task.kind == "ranking" else 1  # sequences an example
    hidden_TH, batch = pairs([(3, 2)] * 2 * width)
    states = hidden_TH if task.head == "san" else hidden_TH[batch.first_B]
    assert head(states, batch).shape == (2, task.n_outputs)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("pair_head", ["linear", "san", None])
def test_pair_head_replaces_the_head_of_classified_pairs_alone(name: str, pair_head: str | None) -> None:
    kinds = {"topic": LinearHead, "pair": SanHead, "order": RankingHead, "score": LinearHead}
    if name == "pair" and pair_head == "linear":
        kinds["pair"] = LinearHead
    head = make_head(TASKS[name], H, **HEADS, pair_head=pair_head)
    assert type(head) is kinds[name]
    # A row that asks for a linear head on a pair is a pair too.
    plain_pair = make_head(replace(TASKS["pair"], head="linear"), H, **HEADS, pair_head=pair_head)
    assert type(plain_pair) is (SanHead if pair_head == "san" else LinearHead)
    assert head.dropout.p == HEADS["head_dropout"]
