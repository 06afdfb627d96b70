"""The embedded suite read by eye: single sentences and what parser and posteriors make of them, and what they refuse.

The statistics of whole tables are in test_synthetic.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from core.synthetic import generate, lexicon, posterior
from core.synthetic.clauses import Clause, realise_question, realise_review
from core.synthetic.drawing import Stream, draw_question, draw_review
from core.synthetic.meaning import resolve
from core.synthetic.parsing import parse_question, parse_review
from core.tasks import SUITE


def test_parsing_undoes_realising():
    stream = Stream("test", "round trip")
    for _ in range(3000):
        clauses, conjunction = draw_review(stream, 0.5)
        review = parse_review(realise_review(clauses, conjunction))
        assert review.conjunction == conjunction
        for read, written in zip(review.clauses, clauses, strict=True):
            assert read == written, (read, written)
        question = draw_question(stream)
        assert parse_question(realise_question(question)) == question


@pytest.mark.parametrize(
    ("flawed", "flaw"),
    [
        ("the soups was cheap", "agreement"),
        ("every soups were cheap", "number"),
        ("the soup was cheap very", "adverb_after"),
        ("the soup not was cheap", "not_first"),
        ("soup the was cheap", "noun_first"),
        ("the soup very cheap", "no_copula"),
        ("the soup was very extremely cheap", "two_adverbs"),
        ("the soup was very very cheap", "repeated_adverb"),
        ("soup was cheap", "no_determiner"),
        ("soups were cheap", "bare_plural"),
        ("most guests did not liked the soup", "past_after_did"),
        ("most guests not liked the soup", "no_did"),
        ("most guests like the soup", "present"),
        ("most guests very liked the soup", "verb_adverb"),
        ("the soups were cheap , but it was bland", "pronoun"),
        ("perhaps the soup was probably cheap", "two_hedges"),
    ],
)
def test_a_flaw_is_read_and_lowers_acceptability(flawed, flaw):
    assert flaw in [f for clause in parse_review(flawed).clauses for f in clause.flaws]
    sound = posterior("acceptability", "the soup was cheap")[1]
    assert posterior("acceptability", flawed)[1] < sound - 0.01
    # the other tasks read through violations: what is said stays clear
    assert posterior("sentiment", flawed).sum() == pytest.approx(1.0)


def test_one_reading_a_word():
    """A word of two classes would make the parse ambiguous; the tables must not grow one unseen."""
    tables = [
        lexicon.NOUN_FORMS, lexicon.PRONOUNS, lexicon.QUANTIFIERS, lexicon.ADVERBS, lexicon.PROPERTIES, lexicon.HEDGES,
        lexicon.VERBS, lexicon.VERB_BASES, dict.fromkeys(("was", "were", "not", "did")),
        dict.fromkeys(lexicon.CONJUNCTIONS),
    ]  # fmt: skip
    words = [word for table in tables for word in table]
    assert len(words) == len(set(words))
    assert not set(words) & set(lexicon.QUESTION_WORDS)


@pytest.mark.parametrize("task", ["nli", "paraphrase", "similarity"])
def test_identical_texts_agree(task):
    stream = Stream("test", "identical")
    for _ in range(300):
        text = realise_review(*draw_review(stream, 0.3))
        truth = posterior(task, text, text)
        if task == "similarity":
            assert truth[0] > 4.5
        else:
            assert truth[0 if task == "nli" else 1] > 0.75, text


@pytest.mark.parametrize(
    ("premise", "hypothesis", "label"),
    [
        ("the soup in paris was superb", "the soup was good", "entailment"),
        ("the soup was good", "the soup in rome was superb yesterday", "neutral"),
        ("the soup was delicious", "the soup was disgusting", "contradiction"),
        ("the soup was delicious", "the broth was tasty", "entailment"),
        ("the soup was cheap , but the waiter was rude", "the server was not polite", "entailment"),
        ("all guests loved the soup", "most guests loved the soup", "entailment"),
        ("some guests loved the soup", "most guests loved the soup", "neutral"),
        ("all guests loved the soup", "no guests loved the soup", "contradiction"),
        ("no soup was good", "all soups were not good", "entailment"),
        ("some soups were good", "some soups were bad", "neutral"),
        ("the soup was cheap", "the laptop was slow", "neutral"),
    ],
)
def test_inference_agrees_with_a_reader(premise, hypothesis, label):
    assert SUITE["nli"].labels[posterior("nli", premise, hypothesis).argmax()] == label


def test_sentiment_moves_the_right_way():
    def valence(text: str) -> float:
        return float(posterior("sentiment", text) @ np.arange(5))

    ladder = [
        "was awful",
        "was poor",
        "was not good",
        "was average",
        "was decent",
        "was good",
        "was really good",
        "was superb",
    ]
    assert all(low < high for low, high in pairwise(valence(f"the soup {x}") for x in ladder))
    # a word's sense depends on the topic; a hedge draws to the middle; "but" weighs what follows it
    assert valence("the soup was cheap") > 2.0 > valence("the laptop was cheap") - 0.5
    assert valence("the film was sick") > valence("the soup was sick")
    assert 2.0 < valence("perhaps the soup was superb") < valence("the soup was superb")
    assert valence("the soup was bad , but it was fresh") > valence("the soup was fresh , but it was bad")


def test_relevance_prefers_topic_property_and_place():
    probs = posterior(
        "relevance",
        "which soup in paris was cheap ?",
        candidates=[
            "the broth in paris was inexpensive",
            "the soup was tasty",
            "the phone was cheap",
            "most actors were dull",
        ],
    )
    assert probs.argmax() == 0
    assert probs[1] > probs[3]
    assert probs.sum() == pytest.approx(1.0)


def test_pronouns_speak_of_the_first_topic():
    clauses = parse_review("most soups were cheap , and several guests loved them").clauses
    assert resolve(clauses)[1] == clauses[1]._replace(object="soup", object_plural=True)
    assert isinstance(clauses[1], Clause)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the soup was xylophone",
        "the soup",
        "was cheap",
        "the soup was",
        "it was cheap",
        "the soup was cheap , because it was old",
        "the soup was cheap ,",
        "the soup was cheap , but the soup was good , but it was bad",
        "most guests loved",
        "most guests was loved the soup",
        "the soup did cheap",
        "the soup was was cheap",
        "the soup was very really truly cheap",
        "the soup was in paris cheap today yesterday",
        "the soup was cheap soup",
        "the it was cheap",
        "the soup was cheap , and it loved the guests",
        "The soup was cheap",
    ],
)
def test_text_outside_of_the_world_is_refused(text):
    with pytest.raises(ValueError, match=r"got .*expected .*\. Use words of"):
        posterior("sentiment", text)


@pytest.mark.parametrize(
    "text", ["", "?", "the soup was cheap", "which was cheap ?", "why was the soup cheap ?", "how was the soup ?"]
)
def test_text_that_is_no_question_is_refused(text):
    with pytest.raises(ValueError, match=r"got .*expected"):
        posterior("relevance", text, candidates=["the soup was cheap"] * 4)


def test_inputs_that_do_not_fit_the_task_are_refused():
    for arguments in (
        {"task_name": "mnli", "text_a": "the soup was cheap"},
        {"task_name": "nli", "text_a": "the soup was cheap"},
        {"task_name": "sentiment", "text_a": "the soup was cheap", "text_b": "the soup was good"},
        {"task_name": "relevance", "text_a": "which soup was cheap ?"},
        {"task_name": "relevance", "text_a": "which soup was cheap ?", "candidates": ["the soup was cheap"] * 3},
    ):
        with pytest.raises(ValueError, match=r"got .*expected"):
            posterior(**arguments)
    with pytest.raises(ValueError, match="expected one of"):
        generate(["mnli"], seed=0, n_train=1, n_dev=1, n_test=1)
    with pytest.raises(ValueError, match="n_dev: got -1"):
        generate(["nli"], seed=0, n_train=1, n_dev=-1, n_test=1)
