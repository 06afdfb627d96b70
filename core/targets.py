"""What the student variants are taught: the teachers' distribution, or a control that keeps a part of it.

A target is logits (N, C) over a task's training examples. The controls answer "is it dark knowledge, or less?":

    kd                  the teachers' distribution as it is
    dkpp                its wrong classes permuted: the confidences stay, which class they are for goes (Born-Again
                        Networks, 1805.04770, eq. 11). "Wrong" is all but the teachers' answer. Drawn once for each
                        example and student seed, not at each visit: a redrawn one teaches its mean, which is the next
    adaptive_smoothing  its wrong classes evened out: the expectation of `dkpp` over permutations, with less variance
    label_smoothing     uniform: weight `distill.smoothing`, no teacher at all
    truth               the exact posterior of the embedded suite: an upper bound, and not a control

With two classes there is one wrong class, and `dkpp` and `adaptive_smoothing` are `kd`. `hard` and `cwtm` have no
target; `cwtm` weights gold by the teachers' confidence (core/losses).

Shapes: N examples, C classes.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from core.calibration import FloatArray, log_probs_NC


def permuted(logits_NC: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Each row with the entries other than its largest in a random order."""
    shuffled_NC = np.array(logits_NC)
    others_NC = _without_answer(logits_NC)
    # Sorting random keys permutes all rows at once.
    order_NC = rng.random(others_NC.shape).argsort(axis=1)
    np.put_along_axis(
        shuffled_NC, others_NC, np.take_along_axis(logits_NC, np.take_along_axis(others_NC, order_NC, 1), 1), 1
    )
    return shuffled_NC


def evened(logits_NC: FloatArray) -> FloatArray:
    """Each row with 1 - max p spread evenly over the classes other than its largest."""
    log_p_NC = log_probs_NC(logits_NC)
    others_NC = _without_answer(logits_NC)
    # By log-sum-exp: for a teacher that is sure, 1 - max p would round to 0.
    mass_N1 = special.logsumexp(np.take_along_axis(log_p_NC, others_NC, 1), axis=1, keepdims=True)
    np.put_along_axis(log_p_NC, others_NC, mass_N1 - np.log(others_NC.shape[1]), 1)
    return log_p_NC


def _without_answer(logits_NC: FloatArray) -> np.ndarray:
    """(N, C - 1): columns of each row but that of its largest entry, in order; of equals the first is the largest."""
    n_classes = np.shape(logits_NC)[1]
    answer_N1 = np.argmax(logits_NC, axis=1)[:, None]
    columns_C = np.arange(n_classes - 1)
    return columns_C + (columns_C >= answer_N1)
