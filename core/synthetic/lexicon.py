"""The words of the little world and what they mean: every task reads these tables and nothing else.

A property word has one or two senses: a dimension, a signed degree from -3 to 3, and a weight for each topic category
("cheap" is a low price for a soup and a poor build for a laptop). Verbs live on the dimension `attitude`. Nouns sit in
a taxonomy word -> synonym class -> hypernym -> category. Quantifiers lie on a proportion scale; "few" and "no" are
stored as the proportion of which the *negated* property holds, so all later code sees upward quantifiers only.

Not here: how words form a sentence (clauses), how a sentence is read back (parsing), what meanings imply (meaning).
A first version had 315 surface words; it was cut to about 240, so that each is seen often in a few thousand examples.
"""

from __future__ import annotations

from typing import NamedTuple

CATEGORIES = ("food", "person", "production", "machine", "space")
DIMENSIONS = ("quality", "taste", "manner", "interest", "work", "clean", "price", "size", "attitude")


class Sense(NamedTuple):
    """One reading of a property word; `weights` are unnormalised, one for each of CATEGORIES."""

    dimension: str
    degree: float
    weights: tuple[float, ...]


class Noun(NamedTuple):
    """`synonyms` names the class of words with the same meaning; hypernyms and categories are their own class."""

    plural: str
    synonyms: str
    hypernym: str
    category: str


class Quantifier(NamedTuple):
    """`proportion` (0 to 1) of which the property holds, or, if `negates`, does not hold; `threshold` is the least
    proportion that makes it true; `spread` its vagueness; `number` the noun's number it asks for ('' for either);
    `restrictor` says whether the noun may be replaced by a wider ('up') or a narrower ('down') one."""

    proportion: float
    threshold: float
    spread: float
    negates: bool
    number: str
    restrictor: str


# ---- topics: category -> hypernym -> synonym classes ----------------------------------------------------------------
_TAXONOMY: dict[str, dict[str, tuple[tuple[str, ...], ...]]] = {
    "food": {
        "dish": (("soup", "broth"), ("salad",)),
        "dessert": (("pie", "tart"), ("cake",)),
    },
    "person": {
        "employee": (("waiter", "server"), ("cleaner",)),
        "performer": (("singer", "vocalist"), ("actor",)),
    },
    "production": {
        "show": (("film", "movie"), ("comedy",)),
        "performance": (("concert", "gig"), ("opera",)),
    },
    "machine": {
        "gadget": (("phone", "handset"), ("laptop",)),
        "appliance": (("oven", "stove"), ("kettle",)),
    },
    "space": {
        "room": (("bedroom", "chamber"), ("kitchen",)),
        "area": (("garden", "yard"), ("terrace",)),
    },
}
# People who judge. All are persons, so "most people" is entailed by "most guests" as far as the taxonomy goes.
_AGENT_CLASSES = (
    ("guest", "visitor"),
    ("customer", "client"),
    ("critic", "reviewer"),
    ("student",),
)
_IRREGULAR = {"person": "people", "comedy": "comedies", "dish": "dishes"}


def _noun(word: str, synonyms: str, hypernym: str, category: str) -> Noun:
    return Noun(_IRREGULAR.get(word, word + "s"), synonyms, hypernym, category)


TOPICS: dict[str, Noun] = {}
for _category, _hypernyms in _TAXONOMY.items():
    TOPICS[_category] = _noun(_category, _category, _category, _category)
    for _hypernym, _classes in _hypernyms.items():
        TOPICS[_hypernym] = _noun(_hypernym, _hypernym, _hypernym, _category)
        for _class in _classes:
            for _word in _class:
                TOPICS[_word] = _noun(_word, _class[0], _hypernym, _category)

AGENTS: dict[str, Noun] = {"person": TOPICS["person"]}
for _class in _AGENT_CLASSES:
    for _word in _class:
        AGENTS[_word] = _noun(_word, _class[0], "person", "person")

NOUNS: dict[str, Noun] = {**TOPICS, **AGENTS}
# Surface form -> (lemma, is plural).
NOUN_FORMS: dict[str, tuple[str, bool]] = {word: (word, False) for word in NOUNS}
NOUN_FORMS |= {noun.plural: (word, True) for word, noun in NOUNS.items()}
# Subject and object pronouns; a clause's pronoun stands for the topic of the clause before it.
PRONOUNS: dict[str, bool] = {"it": False, "they": True, "them": True}

# ---- properties -----------------------------------------------------------------------------------------------------
_PLAIN: dict[str, dict[str, float]] = {
    "quality": {
        "superb": 3.0, "excellent": 2.6, "good": 1.7, "decent": 0.9, "average": 0.0, "mediocre": -0.9, "poor": -1.7,
        "bad": -2.0, "terrible": -2.7, "awful": -3.0,
    },
    "taste": {"delicious": 2.8, "tasty": 2.0, "fresh": 1.5, "bland": -1.2, "stale": -2.0, "disgusting": -3.0},
    "manner": {"charming": 2.7, "friendly": 2.0, "polite": 1.4, "impatient": -1.3, "rude": -2.1, "hostile": -2.8},
    "interest": {"thrilling": 2.8, "interesting": 1.8, "amusing": 1.3, "predictable": -1.0, "dull": -1.9,
                 "tedious": -2.6},
    "work": {"flawless": 3.0, "reliable": 2.0, "fast": 1.6, "slow": -1.4, "faulty": -2.1, "useless": -2.9},
    "clean": {"spotless": 2.9, "clean": 1.9, "tidy": 1.4, "dusty": -1.2, "dirty": -2.0, "filthy": -3.0},
    "price": {"affordable": 1.5, "inexpensive": 1.6, "expensive": -1.7, "overpriced": -2.3},
    "size": {"huge": 3.0, "large": 2.0, "small": -1.8, "tiny": -2.8},
}  # fmt: skip
_ANYWHERE = (1.0, 1.0, 1.0, 1.0, 1.0)
PROPERTIES: dict[str, tuple[Sense, ...]] = {
    word: (Sense(dimension, degree, _ANYWHERE),)
    for dimension, words in _PLAIN.items()
    for word, degree in words.items()
}
# Ambiguous words; weights in the order food, person, production, machine, space.
PROPERTIES |= {
    "cheap": (Sense("price", 1.8, (4, 0.3, 2, 2, 3)), Sense("quality", -1.8, (1, 1, 2, 3, 2))),
    "sharp": (Sense("taste", 1.2, (1, 0, 0, 0, 0)), Sense("quality", 2.0, (0, 2, 2, 3, 1)),
              Sense("manner", -1.6, (0, 2, 0, 0, 0))),
    "sick": (Sense("quality", 2.5, (1, 1, 4, 3, 3)), Sense("quality", -2.2, (4, 3, 1, 1, 1))),
    "cold": (Sense("taste", -1.5, (3, 0, 0, 0, 0)), Sense("manner", -2.0, (0, 3, 1, 0, 0)),
             Sense("quality", -1.2, (0, 0, 1, 1, 3))),
    "wild": (Sense("interest", 2.2, (1, 1, 3, 1, 2)), Sense("quality", -1.7, (1, 2, 1, 2, 2))),
    "simple": (Sense("work", 1.3, (0, 0, 0, 3, 0)), Sense("quality", 0.9, (3, 1, 1, 0, 2)),
               Sense("interest", -1.3, (0, 1, 2, 0, 1))),
    "rich": (Sense("taste", 1.9, (3, 0, 0, 0, 0)), Sense("quality", 1.5, (0, 2, 3, 2, 2)),
             Sense("taste", -1.2, (1, 0, 0, 0, 0))),
    "unreal": (Sense("quality", 2.7, (3, 2, 2, 3, 3)), Sense("quality", -1.6, (1, 2, 2, 1, 1))),
    "fine": (Sense("quality", 2.2, (3, 1, 2, 2, 2)), Sense("quality", 0.8, (2, 3, 2, 2, 2))),
}  # fmt: skip

# How pleasant a step on a dimension is. Size is bigness: welcome in rooms, a nuisance in gadgets.
VALENCE: dict[str, tuple[float, ...]] = dict.fromkeys(DIMENSIONS, _ANYWHERE)
VALENCE["price"] = (0.85,) * 5
VALENCE["size"] = (0.5, 0.0, 0.2, -0.2, 0.7)

# Severity (logits of unacceptability) of a property's dimension with a topic's category.
SELECTION: dict[str, tuple[float, ...]] = {
    "quality": (0.0, 0.0, 0.0, 0.0, 0.0),
    "taste": (0.0, 3.0, 2.4, 3.0, 2.6),
    "manner": (2.8, 0.0, 1.2, 2.2, 1.4),
    "interest": (1.4, 0.2, 0.0, 1.0, 0.9),
    "work": (2.2, 0.3, 1.3, 0.0, 1.7),
    "clean": (1.0, 0.7, 2.0, 0.1, 0.0),
    "price": (0.0, 1.6, 0.2, 0.0, 0.2),
    "size": (0.2, 0.6, 1.2, 0.0, 0.0),
    "attitude": (0.0, 0.0, 0.0, 0.0, 0.0),
}
# How much one dimension tells about another (symmetric; 1 on the diagonal, 0.06 where nothing is written).
_RELATED = {
    "quality": {"taste": 0.6, "manner": 0.5, "interest": 0.6, "work": 0.6, "clean": 0.35, "price": 0.15,
                "attitude": 0.6},
    "attitude": {"taste": 0.5, "manner": 0.5, "interest": 0.55, "work": 0.4, "clean": 0.3, "price": 0.15},
}  # fmt: skip
AFFINITY: dict[tuple[str, str], float] = {
    (a, b): 1.0 if a == b else _RELATED.get(a, {}).get(b, _RELATED.get(b, {}).get(a, 0.06))
    for a in DIMENSIONS
    for b in DIMENSIONS
}

# ---- verbs: past form -> (base form, degree of attitude) ------------------------------------------------------------
VERBS: dict[str, tuple[str, float]] = {
    "adored": ("adore", 3.0),
    "loved": ("love", 2.7),
    "enjoyed": ("enjoy", 2.0),
    "liked": ("like", 1.6),
    "tolerated": ("tolerate", 0.1),
    "avoided": ("avoid", -1.5),
    "disliked": ("dislike", -2.0),
    "hated": ("hate", -2.7),
    "despised": ("despise", -3.0),
}
VERB_BASES: dict[str, str] = {base: past for past, (base, _) in VERBS.items()}

# ---- adverbs: (scale, extra spread, preferred strength: -1 mild words, 0 any, 1 extreme words, may modify a verb) ---
ADVERBS: dict[str, tuple[float, float, int, bool]] = {
    "slightly": (0.45, 0.10, -1, True),
    "fairly": (0.75, 0.10, -1, False),
    "rather": (0.85, 0.15, -1, True),
    "quite": (0.90, 0.25, 0, True),
    "really": (1.25, 0.00, 0, True),
    "very": (1.30, 0.00, -1, False),
    "extremely": (1.50, 0.00, -1, False),
    "absolutely": (1.35, 0.00, 1, True),
}
# ---- hedges: doubt from 0 to 1 --------------------------------------------------------------------------------------
HEDGES: dict[str, float] = {
    "probably": 0.25,
    "apparently": 0.35,
    "supposedly": 0.55,
    "perhaps": 0.60,
}
QUANTIFIERS: dict[str, Quantifier] = {
    "the": Quantifier(0.94, 0.75, 0.08, False, "", "up"),
    "all": Quantifier(1.00, 0.95, 0.03, False, "plural", "down"),
    "every": Quantifier(1.00, 0.95, 0.03, False, "singular", "down"),
    "most": Quantifier(0.80, 0.55, 0.10, False, "plural", "none"),
    "many": Quantifier(0.60, 0.40, 0.14, False, "plural", "none"),
    "several": Quantifier(0.42, 0.22, 0.14, False, "plural", "up"),
    "some": Quantifier(0.33, 0.08, 0.14, False, "plural", "up"),
    "few": Quantifier(0.80, 0.60, 0.12, True, "plural", "none"),
    "no": Quantifier(1.00, 0.95, 0.03, True, "", "down"),
}
# ---- facts that may be added or dropped: phrase -> the wider phrase that it lies in ('' if none) --------------------
TIMES: dict[str, str] = {
    "today": "",
    "this morning": "today",
    "yesterday": "",
    "last week": "",
    "on monday": "last week",
    "on friday": "last week",
}
PLACES: dict[str, str] = {
    "in france": "",
    "in paris": "in france",
    "in italy": "",
    "in rome": "in italy",
    "at the airport": "",
    "at the station": "",
    "at the corner cafe": "",
    "near the harbour": "",
}
CONJUNCTIONS = ("and", "but", "although")
QUESTION_WORDS = ("which", "how", "where", "can", "i", "find", "a", "an", "what", "think", "of", "?")
FUNCTION_WORDS = ("was", "were", "not", "did", ",", *CONJUNCTIONS, *QUESTION_WORDS)


def vocabulary() -> list[str]:
    """All words of the world with its two punctuation marks, sorted; what a word-level tokenizer has to know."""
    phrases = [word for phrase in (*TIMES, *PLACES) for word in phrase.split()]
    bases = [base for base, _ in VERBS.values()]
    tables = (NOUN_FORMS, PRONOUNS, PROPERTIES, VERBS, bases, ADVERBS, HEDGES, QUANTIFIERS, phrases, FUNCTION_WORDS)
    return sorted({word for table in tables for word in table})
