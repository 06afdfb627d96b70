"""Posteriors of one text: sentiment from its valence, acceptability from its visible violations.

Both are smooth in every slot on purpose: distillation can only hand on what gold labels do not say if near texts have
near posteriors. Not here: pairs and questions. Not the mixture over senses either, only its moments: for
"sick" the mixture has two peaks and would not be ordered, while its spread keeps the doubt.
"""

from __future__ import annotations

import math

import numpy as np

from core.synthetic.clauses import FLAWS, Clause
from core.synthetic.lexicon import ADVERBS, CATEGORIES, NOUNS, PRONOUNS, PROPERTIES, QUANTIFIERS, SELECTION, VERBS
from core.synthetic.meaning import Meaning, mean_review, resolve

LAPSE = 0.03  # share of annotators' clicks that are uniform over the classes

# ---- sentiment ------------------------------------------------------------------------------------------------------
CUTS = (-1.55, -0.5, 0.5, 1.55)  # between awful, bad, mixed, good, great
ANNOTATOR_SPREAD = 0.40
# Beyond this spread the outer classes, which have no end, would overtake the inner ones and the peak be lost.
MAX_SPREAD = 1.15
# Share of the first clause: what follows "but" counts more, what follows "although" less.
FIRST_SHARE = {"and": 0.5, "but": 0.36, "although": 0.64}


def normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def with_lapse(probs_C: np.ndarray) -> np.ndarray:
    """A uniform click with probability LAPSE: no class is impossible, so every KL to the truth is finite."""
    return (1.0 - LAPSE) * probs_C + LAPSE / len(probs_C)


def clause_valence(meaning: Meaning) -> tuple[float, float]:
    """(mean, variance) of how pleasant a clause is, on the scale of CUTS."""
    mean = sum([r.weight * r.valence for r in meaning.readings])
    variance = sum([r.weight * (r.valence - mean) ** 2 for r in meaning.readings])
    quantifier = QUANTIFIERS[meaning.quantifier]
    # a property of a third of the soups says a third as much about the evening, and leaves more open
    share = (0.25 + 0.75 * quantifier.proportion) * (1.0 - 0.35 * meaning.doubt)
    spread = meaning.vagueness + 0.6 * meaning.doubt + 1.5 * quantifier.spread
    return share * mean, share * share * variance + spread * spread


def sentiment_posterior(clauses: tuple[Clause, ...], conjunction: str) -> np.ndarray:
    """(5,) probabilities of awful, bad, mixed, good, great."""
    valences = [clause_valence(meaning) for meaning in mean_review(clauses)]
    if len(valences) == 1:
        mean, variance = valences[0]
    else:
        first = FIRST_SHARE[conjunction]
        (mean_1, variance_1), (mean_2, variance_2) = valences
        # 1.25: two good things make a better evening than their average
        mean = 1.25 * (first * mean_1 + (1.0 - first) * mean_2)
        variance = first**2 * variance_1 + (1.0 - first) ** 2 * variance_2
        variance += 0.02 * (mean_1 - mean_2) ** 2
    spread = min(math.sqrt(variance + ANNOTATOR_SPREAD**2), MAX_SPREAD)
    below = [0.0, *(normal_cdf((cut - mean) / spread) for cut in CUTS), 1.0]
    return with_lapse(np.diff(np.array(below)))


# ---- acceptability --------------------------------------------------------------------------------------------------
FLAWLESS_LOGIT = 1.9
CLASH = 0.9  # "very superb", "absolutely decent"


def clash_severity(word: str, adverb: str) -> float:
    """How badly an adverb and the strength of its property or verb go together; 0 for none."""
    degree = abs(VERBS[word][1] if word in VERBS else max((sense.degree for sense in PROPERTIES[word]), key=abs))
    severity = 0.0
    for one in adverb.split():
        preferred = ADVERBS[one][2]
        if preferred < 0 and degree >= 2.5:
            severity += CLASH * (degree - 2.0)
        elif preferred > 0 and degree < 2.0:
            severity += CLASH * (2.0 - degree)
        elif preferred < 0 and degree < 0.5:
            severity += CLASH
    return severity


def selection_severity(word: str, topic: str) -> float:
    """How odd a property is for a topic: over senses, weighted by how likely each is for the topic's category."""
    if word in VERBS:
        return 0.0
    column = CATEGORIES.index(NOUNS[topic].category)
    senses = PROPERTIES[word]
    total = sum(sense.weights[column] for sense in senses)
    return sum(sense.weights[column] / total * SELECTION[sense.dimension][column] for sense in senses)


def clause_severity(clause: Clause, topic: str) -> float:
    severity = sum([FLAWS[flaw] for flaw in clause.flaws])
    severity += selection_severity(clause.word, topic) + clash_severity(clause.word, clause.adverb)
    if clause.negated and QUANTIFIERS[clause.quantifier or "the"].negates:
        severity += 0.8  # "no soup was not cheap"
    if clause.hedge and not clause.hedge_inner and clause.time_first:
        severity += 0.7  # "perhaps last week the soup ..."
    if clause.noun in PRONOUNS and clause.place and not clause.place_last:
        severity += 1.2  # "it in paris was cheap"
    return severity


def acceptability_posterior(clauses: tuple[Clause, ...], conjunction: str) -> np.ndarray:
    """(2,) probabilities of unacceptable, acceptable: a logistic of the summed severity."""
    del conjunction
    severity = 0.0
    for clause, whole in zip(clauses, resolve(clauses), strict=True):
        severity += clause_severity(clause, whole.noun if whole.kind == "property" else whole.object)
    acceptable = 1.0 / (1.0 + math.exp(severity - FLAWLESS_LOGIT))
    return with_lapse(np.array([1.0 - acceptable, acceptable]))
