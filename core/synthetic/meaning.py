"""Clause -> Meaning: positions on the world's scales, which is all that the six posteriors look at.

A position is a signed degree after adverb and negation, about -4.5 to 4.5. Quantifiers that deny ("few", "no") become
their affirmative twin over the negated property, so "no soup was good" and "all soups were not good" mean the same.

Not here: probabilities (single, pairs, questions). Word order and flaws have no meaning.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from core.synthetic.clauses import Clause
from core.synthetic.lexicon import (
    ADVERBS,
    CATEGORIES,
    HEDGES,
    NOUNS,
    PLACES,
    PRONOUNS,
    PROPERTIES,
    QUANTIFIERS,
    TIMES,
    VALENCE,
    VERBS,
)


class Reading(NamedTuple):
    """One sense of the property in its clause: probability, dimension, position, and pleasantness of the position;
    `bare` is the position that is denied if `negated`, else the position itself."""

    weight: float
    dimension: str
    position: float
    valence: float
    bare: float
    negated: bool


class Meaning(NamedTuple):
    """`agent` is '' for property clauses; `doubt` is the hedge's, 0 to 1; `vagueness` the spread that adverbs and
    negation add; `word` tells whether two clauses share a property, whose senses then go together."""

    kind: str
    topic: str
    agent: str
    quantifier: str
    word: str
    readings: tuple[Reading, ...]
    doubt: float
    vagueness: float
    time: str
    place: str


NEGATION_SPREAD = 0.35


def negate(degree: float) -> float:
    """Negation turns, and levels out: "not good" and "not superb" both lie a little below the middle."""
    return -0.6 * degree / (1.0 + 0.12 * degree * degree)


@cache
def read_property(word: str, adverb: str, negated: bool, category: str) -> tuple[tuple[Reading, ...], float]:
    """(readings, vagueness) of a property or verb. Negation turns and shrinks; a strong adverb under it shrinks more:
    "not extremely good" is nearer to the middle than "not good"."""
    column = CATEGORIES.index(category)
    scale, vagueness = 1.0, 0.0
    for one in adverb.split():
        scale *= ADVERBS[one][0]
        vagueness += ADVERBS[one][1]
    if negated:
        # "not slightly good" would come out stronger than "not good"
        scale = max(scale, 0.8)
    vagueness += NEGATION_SPREAD if negated else 0.0
    if word in VERBS:
        degree = VERBS[word][1]
        position = negate(degree) / scale if negated else degree * scale
        return (Reading(1.0, "attitude", position, position, degree * scale, negated),), vagueness
    senses = PROPERTIES[word]
    total = sum(sense.weights[column] for sense in senses)
    readings = []
    for sense in senses:
        if sense.weights[column] > 0:
            position = negate(sense.degree) / scale if negated else sense.degree * scale
            valence = position * VALENCE[sense.dimension][column]
            readings.append(
                Reading(
                    sense.weights[column] / total, sense.dimension, position, valence, sense.degree * scale, negated
                )
            )
    return tuple(readings), vagueness


def mean_clause(clause: Clause) -> Meaning:
    """The meaning of a clause without pronouns (see `resolve`)."""
    subject_is_topic = clause.kind == "property"
    topic = clause.noun if subject_is_topic else clause.object
    quantifier = QUANTIFIERS[clause.quantifier or "the"]
    negated = clause.negated != quantifier.negates
    readings, vagueness = read_property(clause.word, clause.adverb, negated, NOUNS[topic].category)
    return Meaning(
        kind=clause.kind,
        topic=topic,
        agent="" if subject_is_topic else clause.noun,
        quantifier=clause.quantifier or "the",
        word=clause.word,
        readings=readings,
        doubt=max((HEDGES[hedge] for hedge in clause.hedge.split()), default=0.0),
        vagueness=vagueness,
        time=clause.time,
        place=clause.place,
    )


def resolve(clauses: tuple[Clause, ...]) -> tuple[Clause, ...]:
    """Puts the first clause's topic in the place of the second's pronoun. Time and place stay where they are said."""
    if len(clauses) == 1:
        return clauses
    first, second = clauses
    topic, plural = (first.noun, first.plural) if first.kind == "property" else (first.object, first.object_plural)
    if second.noun in PRONOUNS:
        # "most soups were cheap , but they were bland" speaks of the same soups
        quantifier = first.quantifier if first.kind == "property" else "the"
        quantifier = "the" if QUANTIFIERS[quantifier or "the"].negates else quantifier
        second = second._replace(noun=topic, plural=plural, quantifier=quantifier)
    elif second.object in PRONOUNS:
        second = second._replace(object=topic, object_plural=plural)
    return first, second


def mean_review(clauses: tuple[Clause, ...]) -> tuple[Meaning, ...]:
    return tuple([mean_clause(clause) for clause in resolve(clauses)])


# ---- relations ------------------------------------------------------------------------------------------------------
def _relate_nouns(a: str, b: str) -> str:
    x, y = NOUNS[a], NOUNS[b]
    if a == b:
        return "same"
    if x.synonyms == y.synonyms:
        return "synonym"
    if b in (x.hypernym, x.category):
        return "up"
    if a in (y.hypernym, y.category):
        return "down"
    if x.hypernym == y.hypernym:
        return "sibling"
    return "cousin" if x.category == y.category else "unrelated"


# (noun a, noun b) -> what b is to a: same, synonym, up (wider), down (narrower), sibling, cousin, unrelated.
NOUN_RELATION: dict[tuple[str, str], str] = {(a, b): _relate_nouns(a, b) for a in NOUNS for b in NOUNS}


def _relate_facts(a: str, b: str, wider: dict[str, str]) -> str:
    if a == b:
        return "same"
    if not b:
        return "dropped"
    if not a:
        return "added"
    if wider[a] == b:
        return "up"
    return "down" if wider[b] == a else "other"


# (fact a, fact b) -> what b is to a: same, dropped, added, up, down, other. The same for times and places.
TIME_RELATION = {(a, b): _relate_facts(a, b, TIMES) for a in ("", *TIMES) for b in ("", *TIMES)}
PLACE_RELATION = {(a, b): _relate_facts(a, b, PLACES) for a in ("", *PLACES) for b in ("", *PLACES)}
