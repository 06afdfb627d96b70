"""What two tasks need beside plain clauses: violations of grammar (acceptability) and candidates (relevance).

A violation is put into the clause; how much it hurts is read off the text later (clauses.FLAWS, single). Candidates
are drawn slot by slot, each near to or far from the question, so that the second best is a serious choice.
"""

from __future__ import annotations

from core.synthetic.clauses import Clause, Question
from core.synthetic.drawing import (
    HEDGE_NAMES,
    PLACE_NAMES,
    TIME_NAMES,
    TOPIC_NAMES,
    VERB_NAMES,
    Stream,
    Weighted,
    draw_adverb,
    draw_clause,
    draw_property,
)
from core.synthetic.edits import EDITS, neighbours
from core.synthetic.lexicon import ADVERBS, NOUNS, PROPERTIES, QUANTIFIERS, TOPICS

# ---- violations: name -> weight; those that do not apply to a clause leave it as it is ------------------------------
_PROPERTY_FLAWS = Weighted({
    "agreement": 2.2, "number": 1.3, "adverb_after": 1.3, "not_first": 0.9, "noun_first": 0.5, "no_copula": 1.2,
    "two_adverbs": 1.3, "repeated_adverb": 1.5, "no_quantifier": 1.8, "two_hedges": 0.9, "selection": 4.0,
    "clash": 3.0,
})  # fmt: skip
_VERB_FLAWS = Weighted({
    "number": 1.2, "not_first": 1.0, "noun_first": 0.6, "past_after_did": 1.5, "no_did": 1.3, "present": 2.4,
    "two_adverbs": 0.7, "verb_adverb": 1.4, "no_quantifier": 0.8, "two_hedges": 1.2, "clash": 2.2,
})  # fmt: skip
_ADVERB_NAMES = tuple(ADVERBS)
_PROPERTY_NAMES = tuple(PROPERTIES)
_NOT_FOR_VERBS = tuple(a for a in ADVERBS if not ADVERBS[a][3])


def spoil(stream: Stream, clause: Clause) -> Clause:
    """Puts one violation in; now and then none, where the ones drawn do not apply. Pronouns stay as they are."""
    for _ in range(4):
        spoiled = _spoil_once(stream, clause)
        if spoiled != clause:
            return spoiled
    return clause


def _spoil_once(stream: Stream, clause: Clause) -> Clause:
    flaw = stream.weighted(_PROPERTY_FLAWS if clause.kind == "property" else _VERB_FLAWS)
    has_noun = clause.noun in NOUNS
    if flaw in ("agreement", "no_copula", "noun_first"):
        # "soups all were cheap" is good English
        movable = has_noun and clause.quantifier in ("the", "every", "most", "no")
        applies = movable if flaw == "noun_first" else "no_copula" not in clause.flaws
    elif flaw in ("not_first", "past_after_did", "no_did"):
        if not clause.negated and not QUANTIFIERS[clause.quantifier or "the"].negates:
            clause = clause._replace(negated=True, adverb="")
        applies = clause.negated and not {"not_first", "no_did", "past_after_did", "present"} & set(clause.flaws)
        applies = applies and not (flaw == "not_first" and "no_copula" in clause.flaws)
    elif flaw == "present":
        applies = not clause.negated
    elif flaw == "adverb_after":
        if not clause.adverb:
            clause = clause._replace(adverb=draw_adverb(stream, clause.word))
        applies = True
    else:
        return _spoil_slots(stream, clause, flaw, has_noun)
    return clause._replace(flaws=(*clause.flaws, flaw)) if applies and flaw not in clause.flaws else clause


def _spoil_slots(stream: Stream, clause: Clause, flaw: str, has_noun: bool) -> Clause:
    """Violations that need no mark in `flaws`, because they are a word in a slot."""
    if flaw == "number" and has_noun and QUANTIFIERS[clause.quantifier or "the"].number:
        return clause._replace(plural=not clause.plural)
    if flaw == "no_quantifier" and has_noun and "noun_first" not in clause.flaws:
        return clause._replace(quantifier="")
    if flaw == "selection":
        return clause._replace(word=stream.pick(_PROPERTY_NAMES), adverb="")
    if flaw == "clash":
        adverb = stream.pick(_ADVERB_NAMES)
        return clause._replace(adverb=adverb) if clause.kind == "property" or ADVERBS[adverb][3] else clause
    if flaw == "verb_adverb":
        return clause._replace(adverb=stream.pick(_NOT_FOR_VERBS))
    if flaw in ("two_adverbs", "repeated_adverb") and len(clause.adverb.split()) < 2:
        first = clause.adverb or draw_adverb(stream, clause.word)
        return clause._replace(adverb=f"{first} {draw_adverb(stream, clause.word) if flaw[0] == 't' else first}")
    if flaw == "two_hedges" and len(clause.hedge.split()) < 2:
        second = stream.pick(HEDGE_NAMES)
        hedge = f"{clause.hedge} {second}" if clause.hedge else second
        return clause._replace(hedge=hedge)
    return clause


# ---- candidates -----------------------------------------------------------------------------------------------------
# What a candidate takes from the question: topic and property, each exactly, nearly or not.
_NEARNESS = Weighted({
    ("same", "same"): 1.5, ("near", "same"): 1.1, ("same", "near"): 1.0, ("near", "near"): 0.7, ("same", "far"): 1.1,
    ("far", "same"): 1.4, ("far", "far"): 1.4,
})  # fmt: skip


def _draw_topic(stream: Stream, noun: str, nearness: str) -> str:
    if nearness == "far":
        return stream.pick(TOPIC_NAMES)
    if nearness == "same" and stream.chance(0.6):
        return noun
    relations = ("same", "synonym") if nearness == "same" else ("up", "down", "sibling", "cousin")
    options = neighbours(noun, relations, TOPICS)
    return stream.pick(options) if options else noun


def draw_candidate(stream: Stream, question: Question) -> Clause:
    """A statement that answers the question well, partly or not at all."""
    topic_nearness, property_nearness = stream.weighted(_NEARNESS)
    topic = _draw_topic(stream, question.noun, topic_nearness)
    about_judges = question.form in ("did", "what")
    verb_share = float(about_judges) if property_nearness == "same" else 0.3
    clause = draw_clause(stream, facts=0.15, topic=topic, verb_share=verb_share)
    if property_nearness != "far" and clause.kind == "verb":
        word = question.word if about_judges and question.word else stream.pick(VERB_NAMES)
        clause = clause._replace(word=word, adverb="")
        if question.agent and stream.chance(0.6):
            clause = clause._replace(noun=question.agent)
    elif property_nearness == "same" and not about_judges:
        clause = clause._replace(word=question.word, adverb="")
    elif property_nearness == "near":
        category = NOUNS[topic].category
        clause = clause._replace(word=draw_property(stream, category), adverb="")
        if not about_judges:
            near = clause._replace(word=question.word)
            clause = EDITS[stream.pick(("near_word", "weaker", "opposite", "stronger"))](stream, near)
    if question.place and stream.chance(0.6):
        place = question.place if stream.chance(0.65) else stream.pick(PLACE_NAMES)
        clause = clause._replace(place=place)
    if question.time and stream.chance(0.5):
        time = question.time if stream.chance(0.65) else stream.pick(TIME_NAMES)
        clause = clause._replace(time=time, time_first=False)
    return clause
