"""Edits: from one clause to its partner in a pair.

An edit changes one slot and keeps the sentence grammatical; how much it changes the label is not decided here but read
off the resulting text by the posteriors. The tables of weights at the bottom shape the label distribution of a task.

Not here: flaws of grammar and questions' candidates (spoiling).
"""

from __future__ import annotations

from collections.abc import Callable

from core.synthetic.clauses import Clause
from core.synthetic.drawing import (
    HEDGE_NAMES,
    OF_DIMENSION,
    PLACE_NAMES,
    SUITS,
    TIME_NAMES,
    VERB_NAMES,
    Stream,
    Weighted,
    draw_adverb,
    draw_clause,
    draw_hedge,
    draw_property,
    number_for,
)
from core.synthetic.lexicon import AGENTS, NOUNS, PLACES, PROPERTIES, QUANTIFIERS, TIMES, TOPICS, VERBS, Noun
from core.synthetic.meaning import NOUN_RELATION
from core.synthetic.single import clash_severity

# (noun, relation) -> nouns of that relation, in the order of the lexicon.
_NEIGHBOURS: dict[tuple[str, str], tuple[str, ...]] = {}
for _pair, _relation in NOUN_RELATION.items():
    _NEIGHBOURS[_pair[0], _relation] = (*_NEIGHBOURS.get((_pair[0], _relation), ()), _pair[1])


def neighbours(noun: str, relations: tuple[str, ...], table: dict[str, Noun]) -> list[str]:
    """Nouns of `table` (TOPICS or AGENTS) so related to `noun`; a judge in a topic's place would read oddly."""
    return [n for relation in relations for n in _NEIGHBOURS.get((noun, relation), ()) if n in table]


def _topic_of(clause: Clause) -> str:
    return clause.noun if clause.kind == "property" else clause.object


def _with_topic(stream: Stream, clause: Clause, topic: str) -> Clause:
    """Puts another topic; a property that does not suit it any more is replaced by one that does."""
    if clause.kind == "verb":
        return clause._replace(object=topic)
    word = clause.word
    if word not in SUITS[NOUNS[topic].category]:
        word = draw_property(stream, NOUNS[topic].category)
    return clause._replace(noun=topic, word=word)


def _topic(*relations: str) -> Callable[[Stream, Clause], Clause]:
    def edit(stream: Stream, clause: Clause) -> Clause:
        options = neighbours(_topic_of(clause), relations, TOPICS)
        return _with_topic(stream, clause, stream.pick(options)) if options else clause

    return edit


def _same_scale(clause: Clause) -> list[tuple[str, float]]:
    """(word, degree) of the words on the scale of the clause's word, in the order of the lexicon."""
    if clause.kind == "verb":
        return [(verb, degree) for verb, (_, degree) in VERBS.items()]
    category = NOUNS[clause.noun].category
    words = OF_DIMENSION.get((category, PROPERTIES[clause.word][0].dimension), ())
    return [(word, PROPERTIES[word][0].degree) for word in words]


def _degree(word: str) -> float:
    return VERBS[word][1] if word in VERBS else PROPERTIES[word][0].degree


def _word(low: float, high: float) -> Callable[[Stream, Clause], Clause]:
    """Another word on the scale, `low` to `high` further out on the same side than the present one (negative: nearer
    to the middle, and beyond it on the other side)."""

    def edit(stream: Stream, clause: Clause) -> Clause:
        degree = _degree(clause.word)
        sign = -1.0 if degree < 0 else 1.0
        options = [
            word
            for word, other in _same_scale(clause)
            if word != clause.word and low <= sign * (other - degree) <= high
        ]
        return clause._replace(word=stream.pick(options)) if options else clause

    return edit


def _other_property(stream: Stream, clause: Clause) -> Clause:
    """A property of any dimension; for a verb another verb."""
    if clause.kind == "verb":
        return clause._replace(word=stream.pick(VERB_NAMES))
    return clause._replace(word=draw_property(stream, NOUNS[clause.noun].category))


def _negate(stream: Stream, clause: Clause) -> Clause:
    if QUANTIFIERS[clause.quantifier or "the"].negates:
        return clause._replace(quantifier="the")
    return clause._replace(negated=not clause.negated, adverb="" if not clause.negated else clause.adverb)


def _negated_opposite(stream: Stream, clause: Clause) -> Clause:
    """ "not cheap" for "expensive", and back: nearly a paraphrase."""
    if QUANTIFIERS[clause.quantifier or "the"].negates:
        return clause
    changed = _word(-6.0, -2.2)(stream, clause)
    return clause if changed is clause else changed._replace(negated=not clause.negated, adverb="")


def _adverb(stream: Stream, clause: Clause) -> Clause:
    if clause.adverb and stream.chance(0.5):
        return clause._replace(adverb="")
    return clause if clause.negated else clause._replace(adverb=draw_adverb(stream, clause.word))


_QUANTIFIER_NAMES = tuple(QUANTIFIERS)
# The other end of the proportion scale; and words that are said for nearly the same proportion.
_NEAR_QUANTIFIERS = {
    "the": ("every", "all"), "all": ("every", "the"), "every": ("all", "the"),
    "most": ("many",), "many": ("most", "several"), "several": ("some", "many"), "some": ("several",),
    "few": ("no",), "no": ("few",),
}  # fmt: skip


def _with_quantifier(stream: Stream, clause: Clause, quantifier: str) -> Clause:
    negated = clause.negated and not QUANTIFIERS[quantifier].negates
    return clause._replace(quantifier=quantifier, plural=number_for(stream, quantifier), negated=negated)


def _quantifier(stream: Stream, clause: Clause) -> Clause:
    return _with_quantifier(stream, clause, stream.pick(_QUANTIFIER_NAMES))


def _near_quantifier(stream: Stream, clause: Clause) -> Clause:
    return _with_quantifier(stream, clause, stream.pick(_NEAR_QUANTIFIERS[clause.quantifier or "the"]))


def _weaker_quantifier(stream: Stream, clause: Clause) -> Clause:
    own = QUANTIFIERS[clause.quantifier or "the"]
    options = [
        name
        for name, row in QUANTIFIERS.items()
        if row.proportion < own.proportion - 0.1 and row.negates == own.negates
    ]
    return _with_quantifier(stream, clause, stream.pick(options)) if options else clause


def _hedge(stream: Stream, clause: Clause) -> Clause:
    if clause.hedge:
        return clause._replace(hedge="", hedge_inner=False)
    if clause.time_first:
        return clause._replace(hedge=stream.pick(HEDGE_NAMES), hedge_inner=True)
    hedge, inner = draw_hedge(stream)
    return clause._replace(hedge=hedge, hedge_inner=inner)


def _other_hedge(stream: Stream, clause: Clause) -> Clause:
    return clause._replace(hedge=stream.pick(HEDGE_NAMES)) if clause.hedge else clause


def _drop_fact(stream: Stream, clause: Clause) -> Clause:
    if clause.time and (not clause.place or stream.chance(0.5)):
        return clause._replace(time="", time_first=False)
    return clause._replace(place="", place_last=False)


def _add_fact(stream: Stream, clause: Clause) -> Clause:
    if not clause.time and (clause.place or stream.chance(0.5)):
        return clause._replace(time=stream.pick(TIME_NAMES))
    return clause._replace(place=stream.pick(PLACE_NAMES)) if not clause.place else clause


def _change_fact(stream: Stream, clause: Clause) -> Clause:
    if clause.time and (not clause.place or stream.chance(0.5)):
        return clause._replace(time=stream.pick(TIME_NAMES))
    return clause._replace(place=stream.pick(PLACE_NAMES)) if clause.place else clause


def _widen_fact(stream: Stream, clause: Clause) -> Clause:
    if TIMES.get(clause.time):
        return clause._replace(time=TIMES[clause.time])
    return clause._replace(place=PLACES[clause.place]) if PLACES.get(clause.place) else clause


def _move(stream: Stream, clause: Clause) -> Clause:
    """The same words in another order: time, place or hedge somewhere else, which changes no meaning."""
    if clause.time and not (clause.hedge and not clause.hedge_inner) and stream.chance(0.7):
        clause = clause._replace(time_first=not clause.time_first)
    if clause.place and clause.kind == "property" and stream.chance(0.7):
        clause = clause._replace(place_last=not clause.place_last)
    if clause.hedge and not clause.time_first:
        clause = clause._replace(hedge_inner=not clause.hedge_inner)
    return clause


def _agent(*relations: str) -> Callable[[Stream, Clause], Clause]:
    def edit(stream: Stream, clause: Clause) -> Clause:
        options = neighbours(clause.noun, relations, AGENTS)
        return clause._replace(noun=stream.pick(options)) if clause.kind == "verb" and options else clause

    return edit


def _switch_kind(stream: Stream, clause: Clause) -> Clause:
    """Says of the same topic what people thought of it instead of how it was, or the other way round."""
    other = draw_clause(stream, facts=0.0, topic=_topic_of(clause), verb_share=float(clause.kind == "property"))
    return other._replace(time=clause.time, place=clause.place)


def _new(stream: Stream, clause: Clause) -> Clause:
    return draw_clause(stream)


EDITS: dict[str, Callable[[Stream, Clause], Clause]] = {
    "synonym": _topic("synonym"),
    "wider": _topic("up"),
    "narrower": _topic("down"),
    "other_topic": _topic("sibling", "cousin"),
    "near_word": _word(-0.6, 0.6),
    "weaker": _word(-2.4, -0.5),
    "stronger": _word(0.5, 2.4),
    "opposite": _word(-6.0, -2.2),
    "other_property": _other_property,
    "negate": _negate,
    "negated_opposite": _negated_opposite,
    "adverb": _adverb,
    "quantifier": _quantifier,
    "near_quantifier": _near_quantifier,
    "weaker_quantifier": _weaker_quantifier,
    "hedge": _hedge,
    "other_hedge": _other_hedge,
    "drop_fact": _drop_fact,
    "add_fact": _add_fact,
    "change_fact": _change_fact,
    "widen_fact": _widen_fact,
    "move": _move,
    "agent_synonym": _agent("synonym"),
    "agent_wider": _agent("up"),
    "other_agent": _agent("sibling", "cousin"),
    "switch_kind": _switch_kind,
    "new": _new,
}
# task -> weights of the edits, and of how many are made.
EDIT_WEIGHTS: dict[str, Weighted[str]] = {
    "nli": Weighted({
        "synonym": 2.0, "wider": 2.4, "narrower": 0.6, "other_topic": 1.8, "near_word": 1.0, "weaker": 1.5,
        "stronger": 0.8, "opposite": 6.5, "other_property": 1.8, "negate": 4.5, "negated_opposite": 0.7, "adverb": 0.8,
        "quantifier": 0.5, "weaker_quantifier": 0.8, "hedge": 0.5, "drop_fact": 3.0, "add_fact": 1.6,
        "change_fact": 0.8, "widen_fact": 1.0, "move": 1.2, "agent_wider": 1.0, "agent_synonym": 0.6,
        "other_agent": 0.4, "switch_kind": 0.4,
    }),
    "paraphrase": Weighted({
        "synonym": 4.0, "wider": 0.5, "other_topic": 2.2, "near_word": 2.5, "weaker": 0.6, "stronger": 0.6,
        "opposite": 1.6, "other_property": 2.0, "negate": 1.4, "negated_opposite": 1.2, "adverb": 1.3,
        "quantifier": 0.5, "near_quantifier": 1.3, "hedge": 0.5, "other_hedge": 0.8, "drop_fact": 0.8,
        "add_fact": 0.6, "change_fact": 1.2, "widen_fact": 0.5, "move": 4.0, "agent_synonym": 2.0, "agent_wider": 0.4,
        "other_agent": 1.0, "switch_kind": 0.4,
    }),
    "similarity": Weighted({
        "synonym": 1.5, "wider": 1.0, "narrower": 0.5, "other_topic": 2.2, "near_word": 1.0, "weaker": 0.8,
        "stronger": 0.8, "opposite": 1.8, "other_property": 2.0, "negate": 1.2, "negated_opposite": 0.7, "adverb": 0.8,
        "quantifier": 0.6, "hedge": 0.5, "drop_fact": 1.0, "add_fact": 0.7, "change_fact": 1.0, "move": 1.5,
        "agent_synonym": 0.8, "other_agent": 0.6, "switch_kind": 0.8, "new": 2.2,
    }),
}  # fmt: skip
EDIT_COUNTS: dict[str, Weighted[int]] = {
    "nli": Weighted({1: 4.0, 2: 1.8, 3: 0.3}),
    "paraphrase": Weighted({1: 2.6, 2: 3.0, 3: 1.2, 4: 0.3}),
    "similarity": Weighted({1: 2.0, 2: 3.0, 3: 2.0, 4: 0.8}),
}


def edit_clause(stream: Stream, clause: Clause, task: str) -> Clause:
    """A partner for a clause without pronouns; may come out as the same clause, which the caller redraws."""
    for _ in range(stream.weighted(EDIT_COUNTS[task])):
        clause = EDITS[stream.weighted(EDIT_WEIGHTS[task])](stream, clause)
    # a stronger word may not go with the adverb any more: "very superb"
    if clause.adverb and clash_severity(clause.word, clause.adverb) > 0:
        clause = clause._replace(adverb="" if clause.negated else draw_adverb(stream, clause.word))
    return clause
