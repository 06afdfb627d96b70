"""What a student minimises, as per-example functions of logits. The tables at the bottom are the list.

One convention everywhere (Hinton et al. 2015; toolkits differ 48-fold in gradient norm without one): float32, teacher
detached, sum over classes, **no** reduction over examples (the training loop takes the mean), and T^2 for tempered
losses, so that the soft gradient keeps its size when T changes.

A task with a teacher minimises a_t * soft + (1 - a_t) * hard (`taught`), where a_t is the weight of the soft term at
this place of the training (`soft_weight`). The paper (1904.09482, eq. 6) is soft = `soft_ce`, a_t = 0.5.

Not here: weights of tasks and the mean over the batch (core/train), how the teachers were combined (core/ensemble),
the controls, which change the target and not the loss (core/targets), replaced-token detection (core/rtd).

Shapes: B examples, C classes. z student logits, v teacher logits, q = softmax(z), p = softmax(v), q^T = softmax(z / T),
y gold, * the gold class.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from core.config import Teaching

# Below this log-probability reverse KL stops pulling: a teacher that is sure would otherwise push without a bound.
MIN_LOG_P = -50.0
# A variance of the ensemble is at least this share of the task's unit squared: members that agree by chance would
# otherwise give one example all the weight.
MIN_VARIANCE = 0.01


def _wide(x: Tensor) -> Tensor:
    """float32 at least; float64 stays, for tests of gradients."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# ---- gold ----------------------------------------------------------------------------------------------------------
def hard(logits_BC: Tensor, gold_B: Tensor) -> Tensor:
    """CE(e_y, q) -> (B,), in nats. For ranking, C are the question's candidates and this is MT-DNN's -log softmax of
    the relevant one with gamma = 1 (1901.11504, eq. 10-11)."""
    return F.cross_entropy(_wide(logits_BC), gold_B, reduction="none")


def regression(values_B1: Tensor, gold_B: Tensor) -> Tensor:
    """(value - gold)^2 -> (B,): the similarity head's loss (1901.11504, eq. 8)."""
    return (_wide(values_B1).squeeze(-1) - gold_B).square()


def confidence_weighted(logits_BC: Tensor, gold_B: Tensor, teacher_logits_BC: Tensor) -> Tensor:
    """CWTM: CE(e_y, q) weighted by the teacher's confidence max_c p_c, normalised over the batch -> (B,) (Born-Again
    Networks, 1805.04770, eq. 10). The teacher's confidence without what it says about the wrong classes."""
    weight_B = _wide(teacher_logits_BC.detach()).softmax(-1).amax(-1)
    return weight_B / weight_B.mean() * hard(logits_BC, gold_B)


# ---- soft terms: (z, v, y, options) -> (B,) ------------------------------------------------------------------------
def soft_ce(logits_BC: Tensor, teacher_logits_BC: Tensor, gold_B: Tensor, options: Teaching) -> Tensor:
    """-sum_c Q_c log q_c (1904.09482, eq. 6), with Q = softmax(v) the ensemble's mean probability. Gradient q - Q.
    Defined at temperature 1. `annealed` is this with a weight that falls from 1 to 0 (BAM, 1907.04829)."""
    assert options.temperature == 1.0, "Config refuses soft_ce at another temperature"
    return -_sum(_log_p(teacher_logits_BC).exp(), _wide(logits_BC).log_softmax(-1))


def kl(logits_BC: Tensor, teacher_logits_BC: Tensor, gold_B: Tensor, options: Teaching) -> Tensor:
    """T^2 KL(p^T || q^T) (Hinton et al., 1503.02531). Gradient T (q^T - p^T); at T = 1 that of `soft_ce`, for T -> inf
    matching of centred logits."""
    temperature = options.temperature
    log_p_BC = _log_p(teacher_logits_BC, temperature)
    return temperature**2 * _kl(log_p_BC, (_wide(logits_BC) / temperature).log_softmax(-1))


def reverse_kl(logits_BC: Tensor, teacher_logits_BC: Tensor, gold_B: Tensor, options: Teaching) -> Tensor:
    """T^2 KL(q^T || p^T): mode-seeking. Gradient at T = 1: q_i [log(q_i / p_i) - KL(q || p)]."""
    temperature = options.temperature
    log_p_BC = _log_p(teacher_logits_BC, temperature).clamp_min(MIN_LOG_P)
    return temperature**2 * _kl((_wide(logits_BC) / temperature).log_softmax(-1), log_p_BC)


def jsd(logits_BC: Tensor, teacher_logits_BC: Tensor, gold_B: Tensor, options: Teaching) -> Tensor:
    """T^2 D / (beta (1 - beta)) with M = beta p + (1 - beta) q and D = beta KL(p || M) + (1 - beta) KL(q || M).

    The generalised Jensen-Shannon divergence of GKD (2306.13649, eq. 1) vanishes at both ends; divided by beta (1 -
    beta) it goes continuously from forward KL (beta -> 0) to reverse KL (beta -> 1), which the ends therefore are."""
    beta, temperature = options.jsd_beta, options.temperature
    if beta == 0:
        return kl(logits_BC, teacher_logits_BC, gold_B, options)
    if beta == 1:
        return reverse_kl(logits_BC, teacher_logits_BC, gold_B, options)
    # float64: near an end D is a difference of the order beta^2, which float32 would round away.
    log_p_BC = _log_p(teacher_logits_BC, temperature).double()
    log_q_BC = (logits_BC.double() / temperature).log_softmax(-1)
    # Probabilities are mixed, not log-probabilities: log M = log(beta p + (1 - beta) q).
    log_m_BC = torch.logaddexp(log_p_BC + math.log(beta), log_q_BC + math.log1p(-beta))
    divergence_B = _kl(log_p_BC, log_m_BC) / (1 - beta) + _kl(log_q_BC, log_m_BC) / beta
    return (temperature**2 * divergence_B).to(_wide(logits_BC).dtype)


def mse_logits(logits_BC: Tensor, teacher_logits_BC: Tensor, gold_B: Tensor, options: Teaching) -> Tensor:
    """(1 / C) sum_c (z~_c - v~_c)^2, both centred per example: softmax does not see a shift, and encoders differ by
    arbitrary ones. Gradient (2 / C) (z~ - v~)."""
    difference_BC = _centred(_wide(logits_BC)) - _centred(_wide(teacher_logits_BC.detach()))
    return difference_BC.square().mean(-1)


def dkd(logits_BC: Tensor, teacher_logits_BC: Tensor, gold_B: Tensor, options: Teaching) -> Tensor:
    """T^2 (a KL(b_t || b_s) + beta KL(p^_t || p^_s)) (decoupled distillation, 2203.08679): b = [p_*, 1 - p_*] is gold
    against the rest, p^ = softmax over the other classes. KL(p || q) is the first term plus (1 - p_*) times the
    second; here the second has a weight of its own. With two classes it is 0: there is one wrong class."""
    temperature = options.temperature
    z_BC, v_BC = _wide(logits_BC) / temperature, _wide(teacher_logits_BC.detach()) / temperature
    is_gold_BC = F.one_hot(gold_B, z_BC.shape[-1]).bool()
    target_B = _kl(_binary(v_BC, is_gold_BC), _binary(z_BC, is_gold_BC))
    others_B = _kl(_others(v_BC, is_gold_BC), _others(z_BC, is_gold_BC))
    return temperature**2 * (options.dkd_target * target_B + options.dkd_others * others_B)


def _binary(z_BC: Tensor, is_gold_BC: Tensor) -> Tensor:
    """log [p_*, 1 - p_*] -> (B, 2), by log-sum-exp: 1 - p_* is never a difference."""
    gold_B = z_BC.masked_fill(~is_gold_BC, -torch.inf).logsumexp(-1)
    rest_B = z_BC.masked_fill(is_gold_BC, -torch.inf).logsumexp(-1)
    return torch.stack([gold_B, rest_B], dim=-1).log_softmax(-1)


def _others(z_BC: Tensor, is_gold_BC: Tensor) -> Tensor:
    """log p^ over the classes that are not gold -> (B, C - 1)."""
    return z_BC[~is_gold_BC].view(len(z_BC), -1).log_softmax(-1)


def _log_p(teacher_logits_BC: Tensor, temperature: float = 1.0) -> Tensor:
    return (_wide(teacher_logits_BC.detach()) / temperature).log_softmax(-1)


def _sum(weight_BC: Tensor, value_BC: Tensor) -> Tensor:
    """sum_c weight * value, where a weight of 0 counts 0 even beside an infinite value (0 log 0 = 0)."""
    return torch.where(weight_BC > 0, weight_BC * value_BC, 0.0).sum(-1)


def _kl(log_p_BC: Tensor, log_q_BC: Tensor) -> Tensor:
    return _sum(log_p_BC.exp(), log_p_BC - log_q_BC)


def _centred(logits_BC: Tensor) -> Tensor:
    return logits_BC - logits_BC.mean(-1, keepdim=True)


# ---- soft terms of regression: (value, mean, std) -> (B,) ----------------------------------------------------------
def mse(values_B1: Tensor, mean_B: Tensor, std_B: Tensor) -> Tensor:
    """(value - mean prediction of the teachers)^2; with a weight that falls from 1 to 0, BAM's annealed mix."""
    return regression(values_B1, mean_B.detach())


def gaussian_nll(values_B1: Tensor, mean_B: Tensor, std_B: Tensor) -> Tensor:
    """(value - mean)^2 / (2 var) + log(var) / 2 with the ensemble's variance: examples on which the teachers agree
    count more. The second term is a constant of the example."""
    variance_B = _wide(std_B.detach()).square().clamp_min(MIN_VARIANCE)
    return regression(values_B1, mean_B.detach()) / (2 * variance_B) + variance_B.log() / 2


# ---- together ------------------------------------------------------------------------------------------------------
def soft_weight(options: Teaching, progress: float) -> tuple[float, float]:
    """Weights of the soft and the hard term at `progress` in [0, 1] of the training: a_t goes linearly from
    `options.alpha` to `.alpha_end` (the same for a constant one); the soft term alone grows in during the warm-up."""
    alpha = options.alpha + (options.alpha_end - options.alpha) * progress
    ramp = min(1.0, progress / options.soft_warmup) if options.soft_warmup else 1.0
    return alpha * ramp, 1 - alpha


def taught(logits_BC: Tensor, gold_B: Tensor, target: Tensor, options: Teaching, progress: float) -> Tensor:
    """a_t * soft + (1 - a_t) * hard -> (B,). `target` is teacher logits (B, C), for regression mean and std (B, 2)."""
    soft, gold = soft_weight(options, progress)
    if options.loss in REGRESSION:
        mean_B, std_B = target.unbind(-1)
        return soft * REGRESSION[options.loss](logits_BC, mean_B, std_B) + gold * regression(logits_BC, gold_B)
    return soft * SOFT[options.loss](logits_BC, target, gold_B, options) + gold * hard(logits_BC, gold_B)


SOFT: dict[str, Callable[[Tensor, Tensor, Tensor, Teaching], Tensor]] = {
    "soft_ce": soft_ce,
    "annealed": soft_ce,
    "kl": kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "mse_logits": mse_logits,
    "dkd": dkd,
}
REGRESSION: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"mse": mse, "gaussian_nll": gaussian_nll}
