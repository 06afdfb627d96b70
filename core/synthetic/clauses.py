"""Clause: the slots of one statement; Question: the slots of one question; and how both become text.

`realise` writes what `parsing` reads back: for grammatical clauses the two are inverse, and a test holds that.
`flaws` name visible violations of grammar; they belong to the clause, because acceptability is judged from the text.

Not here: which clauses are drawn (drawing), what a clause means (meaning).
"""

from __future__ import annotations

from typing import NamedTuple

from core.synthetic.lexicon import NOUNS, PRONOUNS, VERBS


class Clause(NamedTuple):
    """One statement. `kind` is 'property' ("the soup was cheap") or 'verb' ("most guests loved the soup").

    `noun` is the subject's lemma or a pronoun; `object` the lemma or pronoun of a verb clause, '' otherwise; `word`
    the property or the verb's past form. Empty strings stand for empty slots. The last fields but one only place
    words: `hedge_inner` after the copula instead of first, `time_first`, `place_last` instead of after the noun.
    """

    kind: str
    quantifier: str
    noun: str
    plural: bool
    word: str
    negated: bool = False
    adverb: str = ""
    object: str = ""
    object_plural: bool = False
    hedge: str = ""
    time: str = ""
    place: str = ""
    hedge_inner: bool = False
    time_first: bool = False
    place_last: bool = False
    flaws: tuple[str, ...] = ()


class Question(NamedTuple):
    """One question. `form` is which / was / how / where / did / what; `word` as in Clause ('' for what); `quantifier`
    and `agent` only in did and what ("did most guests like the soup ?", "what did the guests think of the soup ?")."""

    form: str
    noun: str
    plural: bool = False
    word: str = ""
    quantifier: str = ""
    agent: str = ""
    place: str = ""
    time: str = ""


# Violations that are visible in the text and their severity in logits. Selection and scale clashes are not in this
# table: they follow from the words' meanings (posteriors.acceptability).
FLAWS: dict[str, float] = {
    "agreement": 2.8,  # "the soups was cheap"
    "number": 2.6,  # "every soups", "most soup"
    "adverb_after": 3.2,  # "cheap very"
    "not_first": 4.0,  # "the soup not was cheap", "guests not did like"
    "noun_first": 4.6,  # "soup the was cheap"
    "no_copula": 3.8,  # "the soup very cheap"
    "two_adverbs": 2.0,  # "very extremely cheap"
    "repeated_adverb": 0.8,  # "very very cheap"
    "no_determiner": 2.4,  # "soup was cheap"
    "bare_plural": 0.5,  # "soups were cheap"
    "past_after_did": 3.2,  # "did not liked"
    "no_did": 3.6,  # "guests not liked"
    "present": 1.1,  # "guests like the soup": fine alone, odd among past tenses
    "verb_adverb": 2.6,  # "guests very liked"
    "pronoun": 2.2,  # "the soups ... it", "the waiter ... it"
    "two_hedges": 1.1,  # "perhaps probably"
}


def noun_form(lemma: str, plural: bool) -> str:
    return NOUNS[lemma].plural if plural else lemma


def realise(clause: Clause) -> str:
    """The clause's text. Of `flaws` only those that are words in other places or forms change it; 'number',
    'bare_plural' and 'pronoun' show in the slots already, 'two_adverbs' and 'two_hedges' in a slot of two words."""
    c = clause
    flaws = c.flaws
    if c.noun in PRONOUNS:
        subject = c.noun
    else:
        form = noun_form(c.noun, c.plural)
        parts = (form, c.quantifier) if "noun_first" in flaws else (c.quantifier, form)
        subject = " ".join(part for part in parts if part)
    negation = "not" if c.negated else ""
    inner = c.hedge if c.hedge_inner else ""
    middle: tuple[str, ...]
    if c.kind == "property":
        copula = "were" if c.plural != ("agreement" in flaws) else "was"
        if "no_copula" in flaws:
            copula = ""
        head = (negation, copula, inner) if "not_first" in flaws else (copula, inner, negation)
        tail = (c.word, c.adverb) if "adverb_after" in flaws else (c.adverb, c.word)
        middle = (*head, *tail)
        near_place = c.place
    else:
        did = "did" if c.negated and "no_did" not in flaws else ""
        past = not did if "past_after_did" not in flaws and "present" not in flaws else bool(did)
        verb = c.word if past or "no_did" in flaws else VERBS[c.word][0]
        auxiliaries = (negation, did) if "not_first" in flaws else (did, negation)
        target = c.object if c.object in PRONOUNS else "the " + noun_form(c.object, c.object_plural)
        middle = (inner, *auxiliaries, c.adverb, verb, target)
        near_place = ""  # a place after the agent would be the agent's, so verb clauses have it last
    last_place = c.place if not near_place or c.place_last else ""
    if c.place_last:
        near_place = ""
    words = (
        "" if c.hedge_inner else c.hedge,
        c.time if c.time_first else "",
        subject,
        near_place,
        *middle,
        last_place,
        "" if c.time_first else c.time,
    )
    return " ".join(word for word in words if word)


def realise_review(clauses: tuple[Clause, ...], conjunction: str = "") -> str:
    """One clause alone, or two joined by a conjunction: "the soup was cheap , although most guests hated it"."""
    return f" , {conjunction} ".join(realise(clause) for clause in clauses)


def realise_question(question: Question) -> str:
    q = question
    noun = noun_form(q.noun, q.plural)
    copula = "were" if q.plural else "was"
    words: tuple[str, ...]
    if q.form == "which":
        words = ("which", noun, q.place, copula, q.word, q.time)
    elif q.form == "was":
        words = (copula, "the", noun, q.place, q.word, q.time)
    elif q.form == "how":
        words = ("how", q.word, copula, "the", noun, q.place, q.time)
    elif q.form == "where":
        article = "" if q.plural else "an" if q.word[0] in "aeiou" else "a"
        words = ("where", q.place, "can", "i", "find", article, q.word, noun)
    elif q.form == "did":
        words = ("did", q.quantifier, noun_form(q.agent, True), VERBS[q.word][0], "the", noun, q.place, q.time)
    elif q.form == "what":
        agents = noun_form(q.agent, True)
        words = ("what", "did", q.quantifier, agents, "think", "of", "the", noun, q.place, q.time)
    else:
        raise AssertionError(q.form)
    return " ".join(word for word in (*words, "?") if word)
