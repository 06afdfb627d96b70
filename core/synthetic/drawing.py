"""Random clauses, reviews and questions, from a named stream of uniform numbers.

Everything here is grammatical and sensible (a taste for a soup, a manner for a waiter); `spoiling` breaks that.
Only uniform draws are taken from numpy, turned into choices by own code: `Generator.choice` and `shuffle` may change
their streams between numpy versions, and the suite has to be the same everywhere (a golden digest holds it).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import accumulate
from typing import Generic, TypeVar

import numpy as np

from core.synthetic.clauses import Clause, Question
from core.synthetic.lexicon import (
    ADVERBS,
    AGENTS,
    CATEGORIES,
    CONJUNCTIONS,
    HEDGES,
    NOUNS,
    PLACES,
    PROPERTIES,
    QUANTIFIERS,
    SELECTION,
    TIMES,
    TOPICS,
    VERBS,
)

T = TypeVar("T")
_BLOCK = 4096


def named_generator(*names: str | int) -> np.random.Generator:
    """PCG64 seeded from the sha256 of the names, so a stream never depends on how far another one was read."""
    digest = hashlib.sha256("/".join(str(name) for name in names).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


class Weighted(Generic[T]):
    """A table of options with weights, summed up once."""

    def __init__(self, weights: dict[T, float]) -> None:
        self.rows = list(zip(weights, accumulate(weights.values()), strict=True))
        self.total = self.rows[-1][1]


class Stream:
    """Uniform numbers and the choices made from them. Numbers come in blocks: one call a number would be the cost."""

    def __init__(self, *names: str | int) -> None:
        self._generator = named_generator(*names)
        self._block: list[float] = []

    def unit(self) -> float:
        """Uniform in [0, 1)."""
        if not self._block:
            self._block = self._generator.random(_BLOCK).tolist()
        return self._block.pop()

    def chance(self, probability: float) -> bool:
        return self.unit() < probability

    def below(self, n: int) -> int:
        return int(self.unit() * n)

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.unit() * len(options))]

    def weighted(self, table: Weighted[T]) -> T:
        u = self.unit() * table.total
        for option, bound in table.rows:
            if u < bound:
                return option
        return table.rows[-1][0]


# ---- tables of choices ----------------------------------------------------------------------------------------------
# Properties that suit a category: those whose likely sense is at home there.
SUITS: dict[str, tuple[str, ...]] = {}
for _column, _category in enumerate(CATEGORIES):
    SUITS[_category] = tuple(
        word
        for word, senses in PROPERTIES.items()
        if sum(s.weights[_column] * SELECTION[s.dimension][_column] for s in senses)
        <= 0.3 * sum(s.weights[_column] for s in senses)
    )
# (category, dimension) -> unambiguous properties of it that suit.
OF_DIMENSION: dict[tuple[str, str], tuple[str, ...]] = {}
for _category, _words in SUITS.items():
    for _word in _words:
        if len(PROPERTIES[_word]) == 1:
            _key = (_category, PROPERTIES[_word][0].dimension)
            OF_DIMENSION[_key] = (*OF_DIMENSION.get(_key, ()), _word)
AMBIGUOUS = {c: tuple(word for word in words if len(PROPERTIES[word]) > 1) for c, words in SUITS.items()}
_DIMENSIONS_OF = {c: tuple(d for (of, d) in OF_DIMENSION if of == c) for c in CATEGORIES}

TOPIC_NAMES = tuple(TOPICS)
AGENT_NAMES = tuple(AGENTS)
VERB_NAMES = tuple(VERBS)
TIME_NAMES = tuple(TIMES)
PLACE_NAMES = tuple(PLACES)
HEDGE_NAMES = tuple(HEDGES)
TOPICS_OF = {c: tuple(topic for topic, noun in TOPICS.items() if noun.category == c) for c in CATEGORIES}
# What a second clause speaks of beside the first one's category: what is met on the same evening.
_COMPANIONS = {
    "food": ("food", "person", "space"),
    "person": ("person", "food", "production", "space"),
    "production": ("production", "person", "space"),
    "machine": ("machine", "machine", "space"),
    "space": ("space", "food", "machine", "person"),
}
# Words at the ends of the scale are what strong adverbs go with; "really" and "quite" go with all.
ADVERBS_OF_STRENGTH: dict[int, tuple[str, ...]] = {
    strength: tuple(a for a, row in ADVERBS.items() if row[2] in (0, strength)) for strength in (-1, 0, 1)
}
VERB_ADVERBS = {
    strength: tuple(a for a in adverbs if ADVERBS[a][3]) for strength, adverbs in ADVERBS_OF_STRENGTH.items()
}
_SUBJECT_QUANTIFIERS = Weighted(
    {"the": 11.0, "all": 1.5, "every": 2.5, "most": 2.0, "many": 1.5, "several": 1.2, "some": 1.5,
     "few": 1.0, "no": 1.0}
)  # fmt: skip
_AGENT_QUANTIFIERS = Weighted(
    {"the": 3.0, "all": 1.5, "every": 1.8, "most": 3.0, "many": 2.0, "several": 1.0, "some": 1.5,
     "few": 1.2, "no": 1.0}
)  # fmt: skip
# By the quantifier's restrictor, because "all soups were not cheap" can be read in two ways and is best avoided.
_NEGATED_SHARE = {"up": 0.2, "none": 0.12, "down": 0.03}
_CONJUNCTION_WEIGHTS = Weighted(dict(zip(CONJUNCTIONS, (2.0, 2.0, 1.3), strict=True)))


def strength_of(word: str) -> int:
    """1 for words near an end of their scale, -1 for the middle, 0 between: which adverbs go with it (ADVERBS)."""
    degree = abs(VERBS[word][1]) if word in VERBS else max(abs(sense.degree) for sense in PROPERTIES[word])
    return 1 if degree >= 2.5 else -1 if degree < 2.0 else 0


def draw_property(stream: Stream, category: str) -> str:
    """A property that suits; dimensions are equally likely, so that "quality", which has most words, does not win."""
    if stream.chance(0.16):
        return stream.pick(AMBIGUOUS[category])
    return stream.pick(OF_DIMENSION[category, stream.pick(_DIMENSIONS_OF[category])])


def draw_adverb(stream: Stream, word: str) -> str:
    # "extremely average" contradicts itself
    if word in ("average", "tolerated"):
        return stream.pick(("rather", "quite"))
    adverbs = VERB_ADVERBS if word in VERBS else ADVERBS_OF_STRENGTH
    return stream.pick(adverbs[strength_of(word)])


def draw_hedge(stream: Stream) -> tuple[str, bool]:
    """(hedge, whether it stands inside the clause)."""
    return stream.pick(HEDGE_NAMES), stream.chance(0.55)


def number_for(stream: Stream, quantifier: str, plural_share: float = 0.2) -> bool:
    number = QUANTIFIERS[quantifier].number
    return number == "plural" if number else stream.chance(plural_share)


def draw_clause(stream: Stream, *, facts: float = 0.36, topic: str = "", verb_share: float = 0.27) -> Clause:
    """A clause about `topic` (any if empty); `facts` is the probability of a time, and about that of a place."""
    topic = topic or stream.pick(TOPIC_NAMES)
    hedge, hedge_inner = draw_hedge(stream) if stream.chance(0.13) else ("", False)
    time = stream.pick(TIME_NAMES) if stream.chance(facts) else ""
    time_first = bool(time) and not (hedge and not hedge_inner) and stream.chance(0.3)
    place = stream.pick(PLACE_NAMES) if stream.chance(facts) else ""
    if stream.chance(verb_share):
        quantifier, word = stream.weighted(_AGENT_QUANTIFIERS), stream.pick(VERB_NAMES)
        negated = not QUANTIFIERS[quantifier].negates and stream.chance(0.18)
        return Clause(
            kind="verb",
            quantifier=quantifier,
            noun=stream.pick(AGENT_NAMES),
            plural=number_for(stream, quantifier, 0.85),
            word=word,
            negated=negated,
            adverb=draw_adverb(stream, word) if not negated and stream.chance(0.3) else "",
            object=topic,
            object_plural=stream.chance(0.2),
            hedge=hedge,
            time=time,
            place=place,
            hedge_inner=hedge_inner,
            time_first=time_first,
        )
    quantifier, word = stream.weighted(_SUBJECT_QUANTIFIERS), draw_property(stream, NOUNS[topic].category)
    negated = not QUANTIFIERS[quantifier].negates and stream.chance(_NEGATED_SHARE[QUANTIFIERS[quantifier].restrictor])
    adverb = draw_adverb(stream, word) if stream.chance(0.45) else ""
    return Clause(
        kind="property",
        quantifier=quantifier,
        noun=topic,
        plural=number_for(stream, quantifier),
        word=word,
        negated=negated,
        # "not slightly good" is nobody's English
        adverb="" if negated and (adverb and ADVERBS[adverb][0] < 0.9) else adverb,
        hedge=hedge,
        time=time,
        place=place,
        hedge_inner=hedge_inner,
        time_first=time_first,
        place_last=bool(place) and stream.chance(0.5),
    )


def _scale_of(word: str) -> str:
    return word if word in VERBS else PROPERTIES[word][0].dimension


def draw_review(stream: Stream, two_clauses: float) -> tuple[tuple[Clause, ...], str]:
    """(clauses, conjunction); a second clause is shorter, about the same topic by pronoun or about another one."""
    if not stream.chance(two_clauses):
        return (draw_clause(stream),), ""
    first = draw_clause(stream, facts=0.25)
    topic, plural = (first.noun, first.plural) if first.kind == "property" else (first.object, first.object_plural)
    same_topic = stream.chance(0.6) and (plural or NOUNS[topic].category != "person")
    other = topic if same_topic else stream.pick(TOPICS_OF[stream.pick(_COMPANIONS[NOUNS[topic].category])])
    second = draw_clause(stream, facts=0.08, topic=other, verb_share=0.4)
    # "it was rich , but it was not rich" says nothing; so does the same verb twice
    while second.kind == first.kind and same_topic and _scale_of(second.word) == _scale_of(first.word):
        second = draw_clause(stream, facts=0.08, topic=other, verb_share=0.4)
    second = second._replace(time_first=False)
    if second.hedge and not second.hedge_inner:
        second = second._replace(hedge=stream.pick(HEDGE_NAMES), hedge_inner=True)
    if same_topic and second.kind == "property":
        negated = second.negated or QUANTIFIERS[second.quantifier].negates
        second = second._replace(
            noun="they" if plural else "it",
            plural=plural,
            quantifier="",
            place_last=bool(second.place),
            negated=negated,
        )
    elif same_topic:
        second = second._replace(object="them" if plural else "it", object_plural=plural)
    return (first, second), stream.weighted(_CONJUNCTION_WEIGHTS)


_QUESTION_FORMS = Weighted({"which": 2.0, "was": 2.0, "how": 1.5, "where": 1.5, "did": 1.5, "what": 1.0})


def draw_question(stream: Stream) -> Question:
    form, noun = stream.weighted(_QUESTION_FORMS), stream.pick(TOPIC_NAMES)
    plural = stream.chance(0.25)
    place = stream.pick(PLACE_NAMES) if stream.chance(0.55) else ""
    time = stream.pick(TIME_NAMES) if form != "where" and stream.chance(0.4) else ""
    word, quantifier, agent = "", "", ""
    if form in ("did", "what"):
        quantifier = stream.pick(("the", "most", "many", "all") if form == "did" else ("the", "most"))
        agent = stream.pick(AGENT_NAMES)
        word = stream.pick(VERB_NAMES) if form == "did" else ""
    else:
        word = draw_property(stream, NOUNS[noun].category)
    return Question(form, noun, plural, word, quantifier, agent, place, time)
