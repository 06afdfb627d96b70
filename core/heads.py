"""MT-DNN's four task layers: encoder states of a batch -> logits (B, C), or values (B, 1) for regression.

Heads take states and the `Batch`, apply their own dropout and answer in the order of the rows. SAN reads all tokens,
(T, H), the others the first of each sequence, (B, H). The `HEADS` table at the bottom maps a task row's `head` to its
class.

Shapes: B examples, T packed tokens, L tokens of the longest, H hidden, C classes, K reasoning steps; P / Q tokens of
premise / hypothesis live in the same L axis, told apart by masks. For ranking, a candidate is a sequence: (B * C, H).

Not here: losses, and how the encoder gets its states.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.batching import Batch
from core.tasks import Task


class LinearHead(nn.Module):
    """Single sentence: softmax(W x), x = state of [CLS] (1901.11504, eq. 1). Also serves pairs, as the plain
    alternative to SAN, and, with one output, similarity: w x (eq. 2), which starts at the middle of the task's scale
    rather than at 0, so that the first steps are not spent on finding it."""

    def __init__(self, task: Task, hidden: int, *, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, task.n_outputs)
        if task.kind == "regression":
            _start_in_the_middle(self.out, task)

    def forward(self, hidden_BH: Tensor, batch: Batch) -> Tensor:
        return self.out(self.dropout(batch.in_order(hidden_BH)))


class RankingHead(nn.Module):
    """Relevance w x of each (question, candidate) pair (1901.11504, eq. 9); rows of a question become its C logits."""

    def __init__(self, task: Task, hidden: int, *, dropout: float):
        super().__init__()
        self.n_candidates = task.n_outputs
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, 1)

    def forward(self, hidden_BH: Tensor, batch: Batch) -> Tensor:
        return self.out(self.dropout(batch.in_order(hidden_BH))).view(-1, self.n_candidates)


class SanHead(nn.Module):
    """Stochastic answer network for pairs: K steps of reasoning over premise and hypothesis (1901.11504, eq. 2-7).

    s0 = sum_j a_j M^h_j with a = softmax(w1 M^h); for k = 1 ... K-1: x^k = sum_j b_j M^p_j with
    b = softmax(s^{k-1} W2 M^p), s^k = GRU(x^k, s^{k-1}); P^k = softmax(W3 [s; x; |s-x|; s*x]); the answer is
    log mean_k P^k. In training whole steps are dropped with probability `step_dropout` (at least one stays); at test
    time all are averaged.

    Step 0 reads x^0 from s^0 in the same way, so that K = 1 is a head too: P^k pairs s^k with the x^k that s^k
    attends to, k = 0 ... K-1. A test compares this class with a naive loop.

    `start` "random" leaves w1 and W2 as torch makes them; states are long (LayerNorm), so b is then a choice of a few
    tokens by chance. "uniform": both are 0, so that s0 and x^k begin as means. (The authors' code draws all weights of
    its heads with a spread of 0.02, which is smaller than torch's in encoders of these sizes.)

    Of a regression, which the paper reads from [CLS], the answer is the mean over steps of W3[s; x; |s-x|; s*x].
    """

    def __init__(
        self, task: Task, hidden: int, *, dropout: float, steps: int, step_dropout: float, start: str = "random"
    ):
        super().__init__()
        self.steps, self.step_dropout = steps, step_dropout
        self.dropout = nn.Dropout(dropout)
        self.summary = nn.Linear(hidden, 1)  # w1
        self.attention = nn.Linear(hidden, hidden, bias=False)  # W2
        self.gru = nn.GRUCell(hidden, hidden)
        self.out = nn.Linear(4 * hidden, task.n_outputs)  # W3
        if start == "uniform":
            nn.init.zeros_(self.summary.weight)
            nn.init.zeros_(self.attention.weight)
        self.is_value = task.kind == "regression"
        if self.is_value:
            _start_in_the_middle(self.out, task)

    def forward(self, hidden_TH: Tensor, batch: Batch) -> Tensor:
        # The reasoning is a few small products and sums of exponentials: float32 costs nothing and keeps it exact.
        with torch.autocast(hidden_TH.device.type, enabled=False):
            return batch.in_order(self._answer(self.dropout(hidden_TH.float()), batch))

    def _answer(self, states_TH: Tensor, batch: Batch) -> Tensor:
        states_BLH, is_b_BL = batch.padded(states_TH), batch.padded(batch.is_b_T)
        is_a_BL = batch.inside_BL & ~is_b_BL
        scores_BL = batch.padded(self.summary(states_TH).squeeze(-1))
        weights_BL = scores_BL.masked_fill(~is_b_BL, -torch.inf).softmax(-1)
        s_BH = (weights_BL.unsqueeze(1) @ states_BLH).squeeze(1)
        answers = []
        for step in range(self.steps):
            scores_BL = (states_BLH @ self.attention(s_BH).unsqueeze(-1)).squeeze(-1)
            weights_BL = scores_BL.masked_fill(~is_a_BL, -torch.inf).softmax(-1)
            x_BH = (weights_BL.unsqueeze(1) @ states_BLH).squeeze(1)
            features_B4H = torch.cat([s_BH, x_BH, (s_BH - x_BH).abs(), s_BH * x_BH], dim=-1)
            answer_BC = self.out(self.dropout(features_B4H))
            answers.append(answer_BC if self.is_value else F.log_softmax(answer_BC, dim=-1))
            if step + 1 < self.steps:
                s_BH = self.gru(x_BH, s_BH)
        answers_BKC = torch.stack(answers, dim=1)
        kept_BK = self._kept_steps(len(answers_BKC), answers_BKC.device)
        if self.is_value:
            if kept_BK is None:
                return answers_BKC.mean(dim=1)
            return (answers_BKC * kept_BK.unsqueeze(-1)).sum(dim=1) / kept_BK.sum(dim=1, keepdim=True)
        if kept_BK is None:
            return answers_BKC.logsumexp(dim=1) - math.log(self.steps)
        masked_BKC = answers_BKC.masked_fill(~kept_BK.unsqueeze(-1), -torch.inf)
        return masked_BKC.logsumexp(dim=1) - kept_BK.sum(dim=1, keepdim=True).log()

    def _kept_steps(self, batch_size: int, device: torch.device) -> Tensor | None:
        """Which steps vote, (B, K); None: all. The step with the largest draw always stays, so no row is empty."""
        if not self.training or self.step_dropout == 0 or self.steps == 1:
            return None
        draws_BK = torch.rand(batch_size, self.steps, device=device)
        return (draws_BK >= self.step_dropout) | (draws_BK == draws_BK.amax(dim=1, keepdim=True))


def _start_in_the_middle(out: nn.Linear, task: Task) -> None:
    nn.init.constant_(out.bias, sum(task.score_range) / 2)


def make_head(
    task: Task,
    hidden: int,
    *,
    head_dropout: float,
    san_steps: int,
    san_step_dropout: float,
    san_start: str = "random",
    pair_head: str | None = None,
) -> nn.Module:
    """A fresh head of the task's kind. The task row's own `head_dropout`, where it has one, goes before the run's.
    `pair_head` ("san" or "linear") replaces the row's head on pairs for which that is "san" or "linear"."""
    dropout = head_dropout if task.head_dropout is None else task.head_dropout
    kind = pair_head if pair_head is not None and task.is_pair and task.head in ("san", "linear") else task.head
    if kind == "san":
        return SanHead(task, hidden, dropout=dropout, steps=san_steps, step_dropout=san_step_dropout, start=san_start)
    return HEADS[kind](task, hidden, dropout=dropout)


HEADS: dict[str, type[nn.Module]] = {
    "linear": LinearHead,
    "similarity": LinearHead,
    "ranking": RankingHead,
    "san": SanHead,
}
