"""Text -> clauses: every posterior is computed from what this file reads, so equal texts have equal posteriors.

The reader is tolerant on purpose. Acceptability needs "the soups was very extremely cheap" to be read, with its
violations noted in `Clause.flaws`; only what has no reading at all is refused (`ValueError`: what, got, expected,
remedy). Facts (time, place, hedge) are lifted out of the word sequence first, the rest is matched left to right.

Not here: severities of violations (clauses.FLAWS), meanings (meaning). A chart parser was not needed: the grammar has
one reading for every sentence.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, NoReturn

from core.synthetic.clauses import Clause, Question
from core.synthetic.lexicon import (
    ADVERBS,
    AGENTS,
    CONJUNCTIONS,
    HEDGES,
    NOUN_FORMS,
    NOUNS,
    PLACES,
    PRONOUNS,
    PROPERTIES,
    QUANTIFIERS,
    TIMES,
    VERB_BASES,
    VERBS,
)

# One letter a word class, so that a clause's shape is a short string.
_TAGS: dict[str, str] = {"was": "C", "were": "C", "not": "X", "did": "D"}
_TAGS |= dict.fromkeys(NOUN_FORMS, "N") | dict.fromkeys(PRONOUNS, "N") | dict.fromkeys(QUANTIFIERS, "Q")
_TAGS |= dict.fromkeys(ADVERBS, "A") | dict.fromkeys(PROPERTIES, "P") | dict.fromkeys(HEDGES, "H")
_TAGS |= dict.fromkeys(VERBS, "V") | dict.fromkeys(VERB_BASES, "V")

# First word -> phrases that begin with it, longest first, as (words, tag, phrase).
_PHRASES: dict[str, list[tuple[list[str], str, str]]] = {}
for _phrases, _tag in ((TIMES, "T"), (PLACES, "L")):
    for _phrase in _phrases:
        _PHRASES.setdefault(_phrase.split()[0], []).append((_phrase.split(), _tag, _phrase))
for _options in _PHRASES.values():
    _options.sort(key=lambda option: -len(option[0]))

_HINT = "Use words of core.synthetic.vocabulary() in sentences such as 'the soup in paris was not very cheap'."


class Review(NamedTuple):
    """One or two clauses; `conjunction` is '' for one."""

    clauses: tuple[Clause, ...]
    conjunction: str


def _fail(what: str, text: str, got: str, expected: str) -> NoReturn:
    raise ValueError(f"{what} in {text!r}: got {got}, expected {expected}. {_HINT}")


def _read_words(words: list[str], text: str) -> list[tuple[str, str]]:
    """(tag, word or phrase) in order of the text."""
    items = []
    i, n = 0, len(words)
    while i < n:
        word = words[i]
        tag = _TAGS.get(word)
        if tag is not None:
            items.append((tag, word))
            i += 1
            continue
        for phrase_words, phrase_tag, phrase in _PHRASES.get(word, ()):
            if words[i : i + len(phrase_words)] == phrase_words:
                items.append((phrase_tag, phrase))
                i += len(phrase_words)
                break
        else:
            _fail(f"unknown word {word!r}", text, "a word outside of the world", "a word or phrase of the world")
    return items


def _lift_facts(
    items: list[tuple[str, str]], text: str
) -> tuple[list[tuple[str, str]], dict[str, list[str]], dict[str, int]]:
    """Takes hedges, times and places out: (the rest, tag -> phrases, tag -> index in the rest where the first stood).

    A time may be first or last, a place after the first noun or last, a hedge anywhere before the main word.
    """
    core: list[tuple[str, str]] = []
    facts: dict[str, list[str]] = {}
    where: dict[str, int] = {}
    for tag, word in items:
        if tag in "TLH":
            facts.setdefault(tag, []).append(word)
            where.setdefault(tag, len(core))
        else:
            core.append((tag, word))
    for tag, name in (("T", "time"), ("L", "place"), ("H", "hedge")):
        limit = 2 if tag == "H" else 1
        if len(facts.get(tag, ())) > limit:
            _fail(f"too many {name}s", text, repr(facts[tag]), f"at most {limit} in a clause")
    return core, facts, where


def _read_clause(words: list[str], text: str) -> Clause:
    core, facts, where = _lift_facts(_read_words(words, text), text)
    shape = "".join([tag for tag, _ in core])
    flaws: list[str] = []
    # ---- subject -------------------------------------------------------------------------------------------------
    if shape.startswith("QN"):
        quantifier, form, i = core[0][1], core[1][1], 2
    elif shape.startswith("NQ") and not shape.startswith("NQN"):
        quantifier, form, i = core[1][1], core[0][1], 2
        flaws.append("noun_first")
    elif shape.startswith("N"):
        quantifier, form, i = "", core[0][1], 1
    else:
        _fail("no subject", text, " ".join(words), "a noun phrase such as 'the soup' or 'most guests'")
    subject_end = i
    if form in PRONOUNS:
        if quantifier:
            _fail("determiner before a pronoun", text, f"'{quantifier} {form}'", f"'{form}' alone")
        noun, plural = form, PRONOUNS[form]
        if form == "them":
            flaws.append("pronoun")
    else:
        noun, plural = NOUN_FORMS[form]
        if not quantifier:
            flaws.append("bare_plural" if plural else "no_determiner")
        elif QUANTIFIERS[quantifier].number not in ("", "plural" if plural else "singular"):
            flaws.append("number")
    # ---- copula, auxiliaries, negation, adverbs ------------------------------------------------------------------
    copula = did = negation_at = -1
    adverbs: list[str] = []
    while i < len(core) and core[i][0] in "CXDA":
        tag, word = core[i]
        if tag == "A":
            adverbs.append(word)
        elif adverbs or (copula if tag == "C" else did if tag == "D" else negation_at) >= 0:
            _fail(f"misplaced {word!r}", text, " ".join(words), "at most one 'was', 'did' and 'not', before the adverb")
        elif tag == "C":
            copula = i
        elif tag == "D":
            did = i
        else:
            negation_at = i
        i += 1
    negated = negation_at >= 0
    if i == len(core) or core[i][0] not in "PV":
        _fail("no property or verb", text, " ".join(words), "such as 'cheap' or 'loved' after the subject")
    word, main = core[i][1], i
    i += 1
    target, target_plural = "", False
    if core[main][0] == "P":
        kind = "property"
        if did >= 0:
            _fail("'did' before a property", text, " ".join(words), "'was' or 'were'")
        if copula < 0:
            flaws.append("no_copula")
        elif (core[copula][1] == "were") != plural:
            flaws.append("agreement")
        if negated and negation_at < copula:
            flaws.append("not_first")
        while i < len(core) and core[i][0] == "A":
            adverbs.append(core[i][1])
            if "adverb_after" not in flaws:
                flaws.append("adverb_after")
            i += 1
    else:
        kind = "verb"
        if copula >= 0:
            _fail("copula before a verb", text, " ".join(words), "'did not' or nothing")
        past = word in VERBS
        word = word if past else VERB_BASES[word]
        if did >= 0 and past:
            flaws.append("past_after_did")
        elif negated and did < 0:
            flaws.append("no_did")
        elif did < 0 and not past:
            flaws.append("present")
        if 0 <= negation_at < did:
            flaws.append("not_first")
        rest = shape[i:]
        if rest.startswith("QN") and core[i][1] == "the":
            target, target_plural = NOUN_FORMS.get(core[i + 1][1], ("", False))
            i += 2
        elif rest.startswith("N"):
            form = core[i][1]
            target, target_plural = (form, PRONOUNS[form]) if form in PRONOUNS else NOUN_FORMS[form]
            if form not in PRONOUNS:
                flaws.append("bare_plural" if target_plural else "no_determiner")
            elif form == "they":
                flaws.append("pronoun")
            i += 1
        if not target:
            _fail("no object", text, " ".join(words), "'the' and a noun, or a pronoun, after the verb")
        if any(not ADVERBS[adverb][3] for adverb in adverbs):
            flaws.append("verb_adverb")
    if i < len(core):
        _fail(f"left-over word {core[i][1]!r}", text, " ".join(words), "the end of the clause, a time or a place")
    if len(adverbs) > 2:
        _fail("too many adverbs", text, " ".join(adverbs), "at most two")
    if len(adverbs) == 2:
        flaws.append("repeated_adverb" if adverbs[0] == adverbs[1] else "two_adverbs")
    # ---- facts ---------------------------------------------------------------------------------------------------
    if "T" in where and where["T"] not in (0, len(core)):
        _fail(f"misplaced time {facts['T'][0]!r}", text, " ".join(words), "a time first or last")
    if "L" in where and where["L"] not in (subject_end, len(core)):
        _fail(f"misplaced place {facts['L'][0]!r}", text, " ".join(words), "a place after the first noun or last")
    if "H" in where and where["H"] > main:
        _fail(f"misplaced hedge {facts['H'][0]!r}", text, " ".join(words), "a hedge first or after the subject")
    hedges = facts.get("H", [])
    if len(hedges) == 2:
        flaws.append("two_hedges")
    return Clause(
        kind=kind,
        quantifier=quantifier,
        noun=noun,
        plural=plural,
        word=word,
        negated=negated,
        adverb=" ".join(adverbs),
        object=target,
        object_plural=target_plural,
        hedge=" ".join(hedges),
        time=facts["T"][0] if "T" in facts else "",
        place=facts["L"][0] if "L" in facts else "",
        hedge_inner=where.get("H", 0) > 0,
        time_first=where.get("T", len(core)) == 0,
        place_last=kind == "property" and where.get("L", 0) == len(core),
        flaws=tuple(flaws),
    )


def _check_pronoun(first: Clause, second: Clause) -> Clause:
    """Adds the flaw 'pronoun' where the second clause's pronoun does not fit the first clause's topic."""
    pronoun = second.noun if second.kind == "property" else second.object
    if pronoun not in PRONOUNS or "pronoun" in second.flaws:
        return second
    topic, plural = (first.noun, first.plural) if first.kind == "property" else (first.object, first.object_plural)
    if PRONOUNS[pronoun] == plural and (plural or NOUNS[topic].category != "person"):
        return second
    return second._replace(flaws=(*second.flaws, "pronoun"))


@lru_cache(maxsize=4096)
def parse_review(text: str) -> Review:
    """Reads a statement of one or two clauses; `ValueError` for text outside of the world's grammar."""
    words = text.split()
    if not words:
        _fail("empty sentence", text, "no words", "a statement of one or two clauses")
    clauses: tuple[Clause, ...]
    if "," not in words:
        clauses, conjunction = (_read_clause(words, text),), ""
    else:
        comma = words.index(",")
        conjunction = words[comma + 1] if comma + 1 < len(words) else "nothing"
        if conjunction not in CONJUNCTIONS:
            _fail("no conjunction after the comma", text, repr(conjunction), f"one of {', '.join(CONJUNCTIONS)}")
        first, second = _read_clause(words[:comma], text), _read_clause(words[comma + 2 :], text)
        clauses = (first, _check_pronoun(first, second))
    for place, clause in enumerate(clauses):
        subject_is_pronoun = clause.noun in PRONOUNS
        if (subject_is_pronoun or clause.object in PRONOUNS) and place == 0:
            _fail("pronoun without a topic", text, "it stands first", "a noun in the first clause")
        if subject_is_pronoun and clause.kind == "verb":
            _fail("pronoun as a judge", text, f"'{clause.noun} {clause.word}'", "people as the subject of a verb")
    return Review(clauses, conjunction)


@lru_cache(maxsize=4096)
def parse_question(text: str) -> Question:
    """Reads a question of one of clauses.Question's forms; `ValueError` for anything else."""
    words = text.split()
    if len(words) < 3 or words[-1] != "?":
        _fail("not a question", text, repr(" ".join(words[-1:])), "at least two words and a final '?'")
    skip = {"which", "how", "where", "can", "i", "find", "a", "an", "what", "think", "of"}
    form = {"were": "was"}.get(words[0], words[0])
    fixed = [word for word in words[:-1] if word in skip]
    items = _read_words([word for word in words[:-1] if word not in skip], text)
    core, facts, _ = _lift_facts(items, text)
    shape = "".join(tag for tag, _ in core)
    # form -> (function words, shape of the rest, index of: noun, property or verb, quantifier, agent)
    forms: dict[str, tuple[list[list[str]], str, int, int, int, int]] = {
        "which": ([["which"]], "NCP", 0, 2, -1, -1),
        "was": ([[]], "CQNP", 2, 3, -1, -1),
        "how": ([["how"]], "PCQN", 3, 0, -1, -1),
        "where": ([["where", "can", "i", "find", *a] for a in ([], ["a"], ["an"])], "PN", 1, 0, -1, -1),
        "did": ([[]], "DQNVQN", 5, 3, 1, 2),
        "what": ([["what", "think", "of"]], "DQNQN", 4, -1, 1, 2),
    }
    if form not in forms or fixed not in forms[form][0] or shape != forms[form][1] or "H" in facts:
        _fail("unknown form of question", text, repr(form), f"one that begins with {', '.join(forms)}")
    _, _, noun_at, word_at, quantifier_at, agent_at = forms[form]
    noun, plural = NOUN_FORMS.get(core[noun_at][1], ("", False))
    agent = NOUN_FORMS.get(core[agent_at][1], ("", False))[0] if agent_at >= 0 else ""
    if not noun or (agent_at >= 0 and agent not in AGENTS):
        _fail("question about a pronoun or a judge that is none", text, repr(core[noun_at][1]), "nouns of the world")
    word = core[word_at][1] if word_at >= 0 else ""
    return Question(
        form=form,
        noun=noun,
        plural=plural,
        word=VERB_BASES.get(word, word),
        quantifier=core[quantifier_at][1] if quantifier_at >= 0 else "",
        agent=agent,
        place=facts.get("L", [""])[0],
        time=facts.get("T", [""])[0],
    )
