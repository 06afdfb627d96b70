"""Many members' predictions into one: an ensemble is a recipe over stored logits, so recipes compare without a GPU.

A strategy is a function (M, N, C) -> (N, C) in the table at the bottom; a new one is a line there. Each loss has its
natural average (core/losses): soft cross-entropy and forward KL the mean of probabilities (the paper's Q), reverse KL
the geometric mean, MSE on logits the mean of logits. What the average hides, the members' disagreement, is
`jensen_gap_N` (how far their distributions differ), `disagreement_N` (how often their answers do) and `q_statistic`
(whether they are wrong on the same examples).

Deliberately absent: anything fitted to labels (weights, temperatures, greedy choice): a fit needs a split, a
strategy here does not. That is core/combining. Joining by example_id comes before (`core.store.rows_of_ids`): here
rows are the same examples.

`geometric_mean` and `mean_logits` are the same distribution: a member's logits and log-probabilities differ by one
number per example, which softmax does not see. They differ in the offset alone and both stay, so that the file
names the recipe that its loss asks for. Expect equal scores from them, always.

Shapes: M members, N examples, C classes. Logarithms are natural: nats. float64 throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from core.calibration import FloatArray, IntArray, entropy_N, log_probs_NC

Strategy = Callable[[FloatArray], FloatArray]


class CombinedValues(NamedTuple):
    """Regression: the members' mean and their spread, both (N,)."""

    mean: FloatArray
    std: FloatArray


def combine(
    strategy: str,
    member_logits_MNC: npt.ArrayLike | Sequence[npt.ArrayLike],
    *,
    label_names_per_member: Sequence[Sequence[str]],
) -> FloatArray:
    """(N, C) logits of the ensemble; softmax of them is its distribution. For classification and ranking.

    Example: `combine("mean_probs", [logits_a_NC, logits_b_NC], label_names_per_member=[names, names])`.

    Raises `ValueError` for an unknown strategy, no members, shapes or label names that differ (also a mere
    re-ordering: mixing up MNLI's label order gives 6-10 % accuracy and no other symptom), and logits that are not
    finite. That row n is the same example for every member is the caller's care: `core.store.rows_of_ids`.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy '{strategy}' is not known, expected one of {', '.join(STRATEGIES)}")
    stacked_MNC = stack_members(member_logits_MNC, ndim=2, what="logits")
    n_members, _, n_classes = stacked_MNC.shape
    check_label_names(label_names_per_member, n_members=n_members, n_classes=n_classes)
    return STRATEGIES[strategy](stacked_MNC)


def combine_values(member_values_MN: npt.ArrayLike | Sequence[npt.ArrayLike]) -> CombinedValues:
    """Regression: mean over members, and their spread in the task's units.

    The spread is the population form (ddof = 0): the members are the whole mixture and not a sample from it, and one
    member has spread 0, not nan. Raises `ValueError` as `combine` does.
    """
    stacked_MN = stack_members(member_values_MN, ndim=1, what="values")
    return CombinedValues(mean=stacked_MN.mean(axis=0), std=stacked_MN.std(axis=0))


def jensen_gap_N(member_logits_MNC: npt.ArrayLike) -> FloatArray:
    """H(mean of p_m) - mean of H(p_m), in nats: 0 iff all members agree, at most log M.

    It is the constant between "mean of the teachers' losses" and "loss to their mean":
    mean_m KL(p_m || q) = KL(mean || q) + gap for every q, so the two have one gradient.
    Also the mutual information of member and label, and the Jensen-Shannon divergence of the members.
    """
    log_p_MNC = log_probs_NC(stack_members(member_logits_MNC, ndim=2, what="logits"))
    gap_N = entropy_N(np.exp(_mean_probs(log_p_MNC))) - entropy_N(np.exp(log_p_MNC)).mean(axis=0)
    # Concavity makes it >= 0; a difference of two entropies may round to -1e-16, which reads as an error in a table.
    return np.maximum(gap_N, 0.0)


def disagreement_N(member_logits_MNC: npt.ArrayLike) -> FloatArray:
    """The share of member pairs with different argmaxes, 0..1; its mean over N is the pairwise disagreement rate.

    One member has no pairs: 0.
    """
    stacked_MNC = stack_members(member_logits_MNC, ndim=2, what="logits")
    n_members, _, n_classes = stacked_MNC.shape
    if n_members == 1:
        return np.zeros(stacked_MNC.shape[1])
    # Votes per class give the agreeing pairs at once: sum_c v_c (v_c - 1) of M (M - 1) ordered pairs.
    votes_NC = np.eye(n_classes)[stacked_MNC.argmax(axis=-1)].sum(axis=0)
    agreeing_N = (votes_NC * (votes_NC - 1)).sum(axis=-1)
    return np.asarray(1.0 - agreeing_N / (n_members * (n_members - 1)))


def q_statistic(logits_MNC: npt.ArrayLike | Sequence[npt.ArrayLike], gold_N: npt.ArrayLike) -> float:
    """Yule's Q of "is right", averaged over the member pairs, -1..1 (Kuncheva & Whitaker 2003).

    Q = (N11 N00 - N01 N10) / (N11 N00 + N01 N10), where N10 counts the examples that only the first member gets
    right. 0: independent errors; above: errors on the same examples; below: on different ones, which is what an
    ensemble lives on. No correlation: Q is 1 as soon as one member's errors include the other's, however many more
    it makes.

    Example: `q_statistic([logits_a_NC, logits_b_NC], gold_N)`. Pairs with denominator 0 (such as one with a member
    that is always right) say nothing and are left out; nan where that leaves none, so always for one member. Rows
    without gold (-1) are left out. Raises `ValueError` as `combine` does, and for gold that is no index of a class.
    """
    stacked_MNC = stack_members(logits_MNC, ndim=2, what="logits")
    n_members, n_examples, n_classes = stacked_MNC.shape
    gold = check_gold(gold_N, n_examples=n_examples, n_classes=n_classes)
    known_N = gold >= 0
    right_MN = (stacked_MNC.argmax(axis=-1) == gold)[:, known_N].astype(np.float64)
    both_MM, neither_MM = right_MN @ right_MN.T, (1 - right_MN) @ (1 - right_MN).T
    first_MM = right_MN @ (1 - right_MN).T  # its transpose counts the second member's
    pairs = np.triu_indices(n_members, k=1)
    agree_P, differ_P = (both_MM * neither_MM)[pairs], (first_MM * first_MM.T)[pairs]
    # Counts are whole numbers in float64, so the comparison with 0 is exact.
    defined_P = agree_P + differ_P > 0
    if not defined_P.any():
        return float("nan")
    return float(((agree_P - differ_P)[defined_P] / (agree_P + differ_P)[defined_P]).mean())


# ---- checks ---------------------------------------------------------------------------------------------------------
def stack_members(members: npt.ArrayLike | Sequence[npt.ArrayLike], *, ndim: int, what: str) -> FloatArray:
    """(M, N, C) for ndim 2, (M, N) for ndim 1, float64; `ValueError` where shapes differ or values are not finite."""
    # Iterating takes an array and a list of arrays alike; only a list can hold members of different shapes.
    arrays = [np.asarray(member, dtype=np.float64) for member in members]  # type: ignore[union-attr]
    if not arrays:
        raise ValueError("an ensemble of 0 members, expected at least 1; run stage 'finetune' first")
    shapes = [array.shape for array in arrays]
    expected = "(N, C)" if ndim == 2 else "(N,)"
    for m, shape in enumerate(shapes):
        if len(shape) != ndim or shape != shapes[0]:
            raise ValueError(
                f"member {m}: {what} have shape {shape}, member 0 has {shapes[0]}, expected {expected} and equal; "
                "members of an ensemble must predict the same examples with the same classes"
            )
    stacked = np.stack(arrays)
    if not np.isfinite(stacked).all():
        m, n = (int(i) for i in np.argwhere(~np.isfinite(stacked))[0][:2])
        raise ValueError(f"member {m}: {what} of row {n} are not finite; its training diverged, train it again")
    return stacked


def check_gold(gold_N: npt.ArrayLike, *, n_examples: int, n_classes: int) -> IntArray:
    """Gold as (N,) indices, -1 where missing. A wrong index would silently read another class."""
    gold = np.asarray(gold_N)
    if gold.shape != (n_examples,) or not np.issubdtype(gold.dtype, np.integer):
        got = f"shape {gold.shape} and dtype {gold.dtype}"
        raise ValueError(f"gold has {got}, the logits {n_examples} rows, expected ({n_examples},) integers")
    if n_examples and not (gold.min() >= -1 and gold.max() < n_classes):
        raise ValueError(
            f"gold holds {gold.min()}..{gold.max()}, expected -1 (missing) or 0..{n_classes - 1}; check the label names"
        )
    return gold.astype(np.int64)


def check_label_names(names: Sequence[Sequence[str]], *, n_members: int, n_classes: int) -> None:
    """`ValueError` unless every member has the same n_classes names, in the same order."""
    if len(names) != n_members:
        raise ValueError(f"label names are given for {len(names)} members, logits for {n_members}; give one list each")
    for m, member_names in enumerate(names):
        if list(member_names) != list(names[0]):
            kind = "in another order" if sorted(member_names) == sorted(names[0]) else "and they differ"
            raise ValueError(
                f"member {m} has label names {list(member_names)}, member 0 has {list(names[0])}, {kind}; "
                "predict again with one task table, or permute the columns before combining"
            )
        if len(member_names) != n_classes:
            raise ValueError(
                f"member {m} has {len(member_names)} label names {list(member_names)} for {n_classes} classes; "
                "names and logits come from different tasks"
            )


# ---- strategies: (M, N, C) -> (N, C) --------------------------------------------------------------------------------
def _mean_probs(logits_MNC: FloatArray) -> FloatArray:
    """log (1/M sum_m softmax(v_m)), by logsumexp: finite also where every member's probability underflows."""
    return np.asarray(special.logsumexp(log_probs_NC(logits_MNC), axis=0) - np.log(len(logits_MNC)))


def _geometric_mean(logits_MNC: FloatArray) -> FloatArray:
    """Normalised log of the geometric mean of probabilities: log softmax (1/M sum_m log softmax(v_m))."""
    return log_probs_NC(log_probs_NC(logits_MNC).mean(axis=0))


def _mean_logits(logits_MNC: FloatArray) -> FloatArray:
    """1/M sum_m (v_m - mean_c v_m). Softmax ignores a shift, so centring changes no member's probabilities; it takes
    out the encoders' arbitrary offsets, which MSE on logits would otherwise teach."""
    return np.asarray((logits_MNC - logits_MNC.mean(axis=-1, keepdims=True)).mean(axis=0))


STRATEGIES: dict[str, Strategy] = {
    "mean_probs": _mean_probs,  # the paper's Q (1904.09482)
    "geometric_mean": _geometric_mean,
    "mean_logits": _mean_logits,
}
