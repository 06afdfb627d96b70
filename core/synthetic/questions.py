"""Posterior of a question and its candidates: the softmax of how well each candidate fits.

A candidate fits by topic (taxonomy), by property (same dimension, and the asked side of it where the question asks for
something), by place, time and certainty. Not here: which candidates stand together (edits).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from core.synthetic.clauses import Question
from core.synthetic.lexicon import AFFINITY, NOUNS
from core.synthetic.meaning import NOUN_RELATION, PLACE_RELATION, TIME_RELATION, Meaning, Reading, read_property
from core.synthetic.single import with_lapse

N_CANDIDATES = 4
# Questions that look for something of that kind; the others ask whether or how far, so that a "no" is an answer too.
SEEKS = ("which", "where")
WEIGHTS = {"topic": 2.65, "property": 2.75, "place": 1.1, "time": 0.6, "doubt": -0.8, "agent": 0.5}
_TOPIC_FIT = {
    "same": 1.0, "synonym": 0.97, "up": 0.6, "down": 0.85, "sibling": 0.3, "cousin": 0.15, "unrelated": 0.0,
}  # fmt: skip
_FACT_FIT = {"same": 1.0, "up": 0.7, "down": 0.8, "dropped": 0.35, "added": 0.0, "other": -0.4}


class Wanted(NamedTuple):
    """What a question asks for: readings of its property (one of `attitude` for "what did ... think of")."""

    topic: str
    readings: tuple[Reading, ...]
    seeks: bool
    agent: str
    place: str
    time: str


def mean_question(question: Question) -> Wanted:
    if question.word:
        readings = read_property(question.word, "", False, NOUNS[question.noun].category)[0]
    else:
        readings = (Reading(1.0, "attitude", 0.0, 0.0, 0.0, False),)
    form = question.form
    return Wanted(question.noun, readings, form in SEEKS, question.agent, question.place, question.time)


def fit(wanted: Wanted, candidate: tuple[Meaning, ...]) -> float:
    """The best clause's fit, in logits."""
    best = -math.inf
    for clause in candidate:
        matched = 0.0
        for asked in wanted.readings:
            for given in clause.readings:
                agrees = 1.0
                if wanted.seeks:
                    agrees = 1.0 / (1.0 + math.exp(-1.3 * math.copysign(1.0, asked.position) * given.position))
                weight = asked.weight * given.weight
                matched += weight * AFFINITY[asked.dimension, given.dimension] * agrees
        score = WEIGHTS["topic"] * _TOPIC_FIT[NOUN_RELATION[wanted.topic, clause.topic]]
        score += WEIGHTS["property"] * matched + WEIGHTS["doubt"] * clause.doubt
        if wanted.place:
            score += WEIGHTS["place"] * _FACT_FIT[PLACE_RELATION[wanted.place, clause.place]]
        if wanted.time:
            score += WEIGHTS["time"] * _FACT_FIT[TIME_RELATION[wanted.time, clause.time]]
        if wanted.agent and clause.agent:
            score += WEIGHTS["agent"] * (NOUN_RELATION[wanted.agent, clause.agent] in ("same", "synonym", "up"))
        best = max(best, score)
    return best


def relevance_posterior(question: Question, candidates: list[tuple[Meaning, ...]]) -> np.ndarray:
    """(4,) probabilities that each candidate is the relevant one."""
    wanted = mean_question(question)
    scores = np.array([fit(wanted, candidate) for candidate in candidates])
    weights = np.exp(scores - scores.max())
    return with_lapse(weights / weights.sum())
