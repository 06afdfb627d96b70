"""Posteriors of two texts: inference, paraphrase, similarity, each from a comparison slot by slot.

Inference multiplies slots: a hypothesis is entailed if every slot is, and excluded if one slot excludes it *and* both
texts speak of the same thing. Paraphrase and similarity add weighted slot differences and are symmetric.

Not here: how a text becomes meanings (meaning). Known limit: a sentence of two clauses is compared clause by clause
with the other's best matching clause; what the two imply together is nobody's slot.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache

import numpy as np

from core.synthetic.lexicon import AFFINITY, QUANTIFIERS
from core.synthetic.meaning import NOUN_RELATION, PLACE_RELATION, TIME_RELATION, Meaning, Reading
from core.synthetic.single import LAPSE, normal_cdf, with_lapse

Triple = tuple[float, float, float]  # entailed, open, excluded

# ---- inference ------------------------------------------------------------------------------------------------------
# What the hypothesis' noun is to the premise's -> (probability that the step holds, how far both speak of one thing).
_TOPIC_STEP: dict[str, tuple[float, float]] = {
    "same": (1.0, 1.0), "synonym": (0.97, 0.97), "up": (0.92, 0.9), "down": (0.25, 0.8), "sibling": (0.05, 0.48),
    "cousin": (0.03, 0.32), "unrelated": (0.02, 0.12),
}  # fmt: skip
# Facts: (entailed, excluded by the fact alone, how far both speak of one thing).
_FACT_STEP: dict[str, Triple] = {
    "same": (1.0, 0.0, 1.0), "dropped": (0.96, 0.0, 0.95), "added": (0.2, 0.02, 0.8), "up": (0.93, 0.0, 0.95),
    "down": (0.25, 0.04, 0.85), "other": (0.04, 0.28, 0.62),
}  # fmt: skip
SHARPNESS = 1.12  # makes up for the doubt that a product of many nearly sure slots gathers
LOGIC = 0.65  # share of annotators who read "not good" as "anything but good"


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


@lru_cache(maxsize=65536)
def _compare_positions(premise: float, hypothesis: float) -> Triple:
    """Two positions on one dimension, in graded steps on the hypothesis' side of the scale."""
    sign = -1.0 if hypothesis < 0 else 1.0
    x, threshold = sign * premise, abs(hypothesis)
    beyond = max(0.0, x - threshold)
    # "average" is not entailed by "superb": the middle of a scale has two sides
    two_sided = math.exp(-threshold)
    entailed = math.exp(2.5 + 2.8 * min(0.0, x - threshold) - 1.8 * beyond * two_sided)
    excluded = math.exp(-1.3 - 1.7 * min(x, 1.5) + 1.2 * beyond * two_sided + 0.5 * min(threshold, 2.0))
    total = entailed + 1.0 + excluded
    return (entailed / total, 1.0 / total, excluded / total)


def _compare_denied(premise: Reading, hypothesis: Reading) -> Triple:
    """Logic of negation on one dimension, by contraposition: "not superb" and "good" do not exclude each other,
    because "good" does not entail "superb"."""
    if premise.negated:
        reverse = _compare_positions(hypothesis.bare, premise.bare)[0]
        return (
            (0.95 * reverse, 1.0 - 0.97 * reverse, 0.02 * reverse)
            if hypothesis.negated
            else (0.05 * (1.0 - reverse), 0.95 * (1.0 - reverse), reverse)
        )
    entailed, open_, excluded = _compare_positions(premise.bare, hypothesis.bare)
    return (excluded, open_, entailed)


@lru_cache(maxsize=65536)
def _compare_readings(premise: Reading, hypothesis: Reading) -> Triple:
    """The property slot for one pair of senses. Negation is read partly as a position of its own ("not bad" is said of
    good things), mostly as logic; less related dimensions leave more open."""
    same = _compare_positions(premise.position, hypothesis.position)
    if premise.negated or hypothesis.negated:
        denied = _compare_denied(premise, hypothesis)
        e, o, c = (LOGIC * d + (1.0 - LOGIC) * s for s, d in zip(same, denied, strict=True))
        same = (e, o, c)
    affinity = AFFINITY[premise.dimension, hypothesis.dimension]
    apart = (0.03, 0.69, 0.28) if premise.valence * hypothesis.valence < 0 else (0.10, 0.86, 0.04)
    entailed, open_, excluded = (affinity * s + (1.0 - affinity) * a for s, a in zip(same, apart, strict=True))
    return (entailed, open_, excluded)


def _pair_readings(a: Meaning, b: Meaning) -> list[tuple[float, Reading, Reading]]:
    """Pairs of senses with their weights; a word that both share is read in the same sense on both sides."""
    if len(a.readings) == 1 and len(b.readings) == 1:
        return [(1.0, a.readings[0], b.readings[0])]
    if a.word == b.word and len(a.readings) == len(b.readings):
        # weights differ where the topics' categories do; their mean keeps the comparison symmetric
        return [(0.5 * (x.weight + y.weight), x, y) for x, y in zip(a.readings, b.readings, strict=True)]
    return [(x.weight * y.weight, x, y) for x in a.readings for y in b.readings]


@cache
def _compare_quantifiers(premise: str, hypothesis: str) -> Triple:
    """The proportion slot: is the premise's proportion beyond the least one that makes the hypothesis true?"""
    if premise == hypothesis:
        return (1.0, 0.0, 0.0)
    p, h = QUANTIFIERS[premise], QUANTIFIERS[hypothesis]
    z = (p.proportion - h.threshold) / math.hypot(p.spread, 0.06)
    entailed = 0.98 * normal_cdf(z)
    excluded = 0.35 * (1.0 - entailed) * normal_cdf(-z - 3.0)
    return (entailed, 1.0 - entailed - excluded, excluded)


def compare_clauses(premise: Meaning, hypothesis: Meaning) -> Triple:
    """(entailed, open, excluded) of one hypothesis clause, given one premise clause."""
    entailed, excluded_not = 1.0, 1.0
    relation = NOUN_RELATION[premise.topic, hypothesis.topic]
    step, common = _TOPIC_STEP[relation]
    p_quantifier, h_quantifier = QUANTIFIERS[premise.quantifier], QUANTIFIERS[hypothesis.quantifier]
    if premise.kind == hypothesis.kind == "property":
        # "all dishes" covers all soups; "most soups" says little about most dishes
        if relation == "down" and p_quantifier.restrictor == "down":
            step = 0.88
        elif relation == "up" and h_quantifier.restrictor != "up":
            step = 0.4
    entailed *= step
    if premise.kind == "verb" and hypothesis.kind == "verb":
        agents = NOUN_RELATION[premise.agent, hypothesis.agent]
        if agents != "same":
            covers = h_quantifier.restrictor == "up" or h_quantifier is p_quantifier
            entailed *= {"synonym": 0.97, "up": 0.85 if covers else 0.45, "down": 0.3}.get(agents, 0.1)
            common *= {"synonym": 0.97, "up": 0.85, "down": 0.75}.get(agents, 0.4)
    if premise.kind == hypothesis.kind:
        q_entailed, _, q_excluded = _compare_quantifiers(premise.quantifier, hypothesis.quantifier)
        entailed *= q_entailed
        excluded_not *= 1.0 - q_excluded
        # "some soups were good" and "some soups were bad" can both be true
        common *= _sigmoid((p_quantifier.proportion + h_quantifier.proportion - 0.95) / 0.12)
    else:
        entailed *= 0.85
        common *= 0.75 * min(p_quantifier.proportion + 0.1, 1.0)
    property_entailed = property_excluded = 0.0
    for weight, x, y in _pair_readings(premise, hypothesis):
        e, _, c = _compare_readings(x, y)
        property_entailed += weight * e
        property_excluded += weight * c
    entailed *= property_entailed
    excluded_not *= 1.0 - property_excluded
    for relation in (TIME_RELATION[premise.time, hypothesis.time], PLACE_RELATION[premise.place, hypothesis.place]):
        e, c, r = _FACT_STEP[relation]
        entailed *= e
        excluded_not *= 1.0 - c
        common *= r
    entailed *= 1.0 - 0.9 * max(0.0, premise.doubt - hypothesis.doubt)
    common *= 1.0 - 0.45 * max(premise.doubt, hypothesis.doubt)
    excluded = common * (1.0 - excluded_not)
    entailed = min(entailed, 1.0 - excluded)
    return (entailed, 1.0 - entailed - excluded, excluded)


_ALIGN = {"same": 0.0, "synonym": 0.1, "up": 0.5, "down": 0.5, "sibling": 2.0, "cousin": 2.5, "unrelated": 3.0}


def _best_match(clause: Meaning, others: tuple[Meaning, ...]) -> Meaning:
    """The clause that speaks most nearly of the same thing; the first of equals."""
    if len(others) == 1:
        return others[0]
    costs = [
        _ALIGN[NOUN_RELATION[other.topic, clause.topic]]
        + (0.0 if other.kind == clause.kind else 1.0)
        + (0.0 if other.word == clause.word else 0.3)
        - 0.6 * AFFINITY[other.readings[0].dimension, clause.readings[0].dimension]
        for other in others
    ]
    return others[costs.index(min(costs))]


def nli_posterior(premise: tuple[Meaning, ...], hypothesis: tuple[Meaning, ...]) -> np.ndarray:
    """(3,) probabilities of entailment, neutral, contradiction."""
    entailed, excluded_not = 1.0, 1.0
    for clause in hypothesis:
        e, _, c = compare_clauses(_best_match(clause, premise), clause)
        entailed *= e
        excluded_not *= 1.0 - c
    entailed = min(entailed, excluded_not)
    powers = np.array([entailed, max(excluded_not - entailed, 1e-6), 1.0 - excluded_not]) ** SHARPNESS
    return with_lapse(powers / powers.sum())


# ---- paraphrase and similarity --------------------------------------------------------------------------------------
_TOPIC_DISTANCE = {
    "same": 0.0, "synonym": 0.05, "up": 0.5, "down": 0.5, "sibling": 0.85, "cousin": 1.05, "unrelated": 1.4,
}  # fmt: skip
_FACT_DISTANCE = {"same": 0.0, "dropped": 0.45, "added": 0.45, "up": 0.3, "down": 0.3, "other": 0.8}
# Weights of the slots' distances (each about 0 to 1): how much an annotator minds.
PARAPHRASE_WEIGHTS = {
    "topic": 4.3, "property": 5.1, "quantifier": 3.0, "agent": 2.5, "time": 2.6, "place": 2.8, "doubt": 2.2,
    "kind": 1.5, "clause": 3.5,
}  # fmt: skip
PARAPHRASE_LOGIT = 2.55
SIMILARITY_WEIGHTS = {
    "topic": 1.1, "property": 0.95, "quantifier": 0.45, "agent": 0.35, "time": 0.35, "place": 0.35, "doubt": 0.3,
    "kind": 0.25, "clause": 0.5,
}  # fmt: skip


@lru_cache(maxsize=65536)
def _reading_distance(a: Reading, b: Reading) -> float:
    affinity = AFFINITY[a.dimension, b.dimension]
    # the two sides of the middle are further apart than two degrees of one side
    opposed = 0.2 if a.position * b.position < 0 else 0.0
    same = min(abs(a.position - b.position) / 3.5 + opposed, 1.3)
    apart = min(0.75 + 0.12 * abs(a.valence - b.valence), 1.3)
    return affinity * same + (1.0 - affinity) * apart


def slot_distances(a: Meaning, b: Meaning) -> dict[str, float]:
    """Symmetric distance of two clauses for every slot of PARAPHRASE_WEIGHTS but 'clause'."""
    same_kind = a.kind == b.kind
    pairs = _pair_readings(a, b)
    p, q = QUANTIFIERS[a.quantifier].proportion, QUANTIFIERS[b.quantifier].proportion
    agent = 0.0
    if a.agent and b.agent and a.agent != b.agent:
        agent = {"synonym": 0.05, "up": 0.35, "down": 0.35}.get(NOUN_RELATION[a.agent, b.agent], 0.8)
    return {
        "topic": _TOPIC_DISTANCE[NOUN_RELATION[a.topic, b.topic]],
        "property": sum([weight * _reading_distance(x, y) for weight, x, y in pairs]),
        "quantifier": min(abs(p - q) * 1.4, 1.0),
        "agent": agent,
        "time": _FACT_DISTANCE[TIME_RELATION[a.time, b.time]],
        "place": _FACT_DISTANCE[PLACE_RELATION[a.place, b.place]],
        "doubt": abs(a.doubt - b.doubt),
        "kind": 0.0 if same_kind else 1.0,
    }


def total_distance(a: tuple[Meaning, ...], b: tuple[Meaning, ...], weights: dict[str, float]) -> float:
    """Weighted distance of two texts: clauses in order; one against two is matched best, the other is missed."""
    if len(a) == len(b):
        couples, missing = list(zip(a, b, strict=True)), 0
    else:
        short, long = (a, b) if len(a) < len(b) else (b, a)
        couples, missing = [(clause, _best_match(clause, long)) for clause in short], 1
    distance = weights["clause"] * missing
    for x, y in couples:
        distances = slot_distances(x, y)
        # a difference in one of two clauses weighs less than in the only one, but more than half
        distance += sum([weights[slot] * d for slot, d in distances.items()]) / (1.0 if len(couples) == 1 else 1.5)
    return distance


def paraphrase_posterior(a: tuple[Meaning, ...], b: tuple[Meaning, ...]) -> np.ndarray:
    """(2,) probabilities of different, paraphrase: a logistic of the weighted slot differences."""
    yes = _sigmoid(PARAPHRASE_LOGIT - total_distance(a, b, PARAPHRASE_WEIGHTS))
    return with_lapse(np.array([1.0 - yes, yes]))


def score_parameters(a: tuple[Meaning, ...], b: tuple[Meaning, ...]) -> tuple[float, float]:
    """(centre, spread) of an annotator's score before it is clipped to 0..5: agreement is best at both ends."""
    closeness = math.exp(-total_distance(a, b, SIMILARITY_WEIGHTS))
    return 5.0 * closeness, 0.25 + 1.6 * closeness * (1.0 - closeness)


def clipped_moments(centre: float, spread: float) -> tuple[float, float]:
    """(mean, standard deviation) of a normal score clipped to [0, 5], mixed with LAPSE of a uniform one."""

    def below(limit: float) -> tuple[float, float, float]:
        """Moments 0, 1, 2 of the normal, integrated up to `limit`."""
        z = (limit - centre) / spread
        cdf, pdf = normal_cdf(z), math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
        first = centre * cdf - spread * pdf
        second = (centre**2 + spread**2) * cdf - spread * (limit + centre) * pdf
        return cdf, first, second

    low, high = below(0.0), below(5.0)
    at_top = 1.0 - high[0]
    mean = (high[1] - low[1]) + 5.0 * at_top
    square = (high[2] - low[2]) + 25.0 * at_top
    mean = (1.0 - LAPSE) * mean + LAPSE * 2.5
    square = (1.0 - LAPSE) * square + LAPSE * 25.0 / 3.0
    return mean, math.sqrt(max(square - mean * mean, 0.0))
