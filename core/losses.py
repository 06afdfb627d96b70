"""What a student minimises, as per-example functions of logits. The table at the bottom is the list.

One convention everywhere (LOSSES): float32, teacher detached, sum over classes, **no** reduction over examples (the
training loop takes the mean), and T^2 for tempered losses, so that the soft gradient keeps its size when T changes.

Not here: weights of tasks and the mean over the batch (core/train), how the teachers were combined (core/ensemble).

Shapes: B examples, C classes. q = softmax(student logits), p = softmax(teacher logits), y gold.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

LossFn = Callable[..., Tensor]


def hard(logits_BC: Tensor, gold_B: Tensor) -> Tensor:
    """CE(e_y, q) -> (B,), in nats. For ranking, C are the question's candidates and this is MT-DNN's -log softmax of
    the relevant one with gamma = 1 (1901.11504, eq. 10-11)."""
    return F.cross_entropy(logits_BC.float(), gold_B, reduction="none")


def regression(values_B1: Tensor, gold_B: Tensor) -> Tensor:
    """(value - gold)^2 -> (B,): the similarity head's loss (1901.11504, eq. 8)."""
    return (values_B1.float().squeeze(-1) - gold_B).square()


def soft_ce(
    logits_BC: Tensor, gold_B: Tensor, teacher_logits_BC: Tensor, *, alpha: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """The paper's loss (1904.09482, eq. 6): alpha * -sum_c Q_c log q_c + (1 - alpha) * CE(e_y, q) -> (B,).

    Q is the ensemble's mean probability, given as `teacher_logits_BC` = log Q up to a constant of each example;
    alpha = 0.5 is the paper's average of hard and soft. Gradient of the soft term: q - Q. Defined at temperature 1.
    """
    assert temperature == 1.0, "Config refuses soft_ce at another temperature"
    soft_B = _cross_entropy(F.softmax(teacher_logits_BC.detach().float(), dim=-1), logits_BC.float())
    return alpha * soft_B + (1 - alpha) * hard(logits_BC, gold_B)


def kl(
    logits_BC: Tensor, gold_B: Tensor, teacher_logits_BC: Tensor, *, alpha: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """alpha T^2 KL(p^T, q^T) + (1 - alpha) CE(e_y, q) -> (B,), with p^T = softmax(teacher logits / T) (Hinton et al.,
    1503.02531). Gradient of KL(p^T, q^T): (q^T - p^T) / T. At T = 1 its gradient is that of `soft_ce`."""
    teacher_log_p_BC = F.log_softmax(teacher_logits_BC.detach().float() / temperature, dim=-1)
    teacher_p_BC = teacher_log_p_BC.exp()
    # xlogy-like: an entry with p = 0 contributes 0 even where log p is -inf.
    negative_entropy_B = torch.where(teacher_p_BC > 0, teacher_p_BC * teacher_log_p_BC, 0.0).sum(-1)
    soft_B = negative_entropy_B + _cross_entropy(teacher_p_BC, logits_BC.float() / temperature)
    return alpha * temperature**2 * soft_B + (1 - alpha) * hard(logits_BC, gold_B)


def _cross_entropy(target_p_BC: Tensor, logits_BC: Tensor) -> Tensor:
    return -(target_p_BC * F.log_softmax(logits_BC, dim=-1)).sum(-1)


# Losses of a task with a teacher. A task without one, and the variant `hard`, use `hard`.
LOSSES: dict[str, LossFn] = {"soft_ce": soft_ce, "kl": kl}
