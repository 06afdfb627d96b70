"""posterior(): the truth about any text of the world, recomputed from the text alone.

It parses, takes the meaning and asks the task's rule. The suite stores what this function returns, so a label's
distribution never depends on how the text came about. Not here: drawing labels (suite).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from core.synthetic.meaning import Meaning, mean_review
from core.synthetic.pairs import clipped_moments, nli_posterior, paraphrase_posterior, score_parameters
from core.synthetic.parsing import parse_question, parse_review
from core.synthetic.questions import N_CANDIDATES, relevance_posterior
from core.synthetic.single import acceptability_posterior, sentiment_posterior

SINGLE_TASKS = {"sentiment": sentiment_posterior, "acceptability": acceptability_posterior}
PAIR_TASKS = {"nli": nli_posterior, "paraphrase": paraphrase_posterior}
TASK_NAMES = (*SINGLE_TASKS, *PAIR_TASKS, "similarity", "relevance")


@lru_cache(maxsize=4096)
def read_meaning(text: str) -> tuple[Meaning, ...]:
    return mean_review(parse_review(text).clauses)


def check_task(task_name: str) -> None:
    if task_name not in TASK_NAMES:
        raise ValueError(
            f"task: got {task_name!r}, expected one of the embedded suite's: {', '.join(TASK_NAMES)}. "
            "Tasks from files have no known posterior."
        )


def posterior(
    task_name: str, text_a: str, text_b: str | None = None, candidates: Sequence[str] | None = None
) -> np.ndarray:
    """The exact distribution of an annotator's label, lapses included.

    Returns (C,) float64 probabilities in the order of `SUITE[task_name].labels`; for `similarity` the two numbers
    (mean, standard deviation) of the score in 0..5. Example: `posterior("sentiment", "the soup was not very cheap")`.

    Raises `ValueError` for a text outside of the world's grammar and for inputs that do not fit the task.
    """
    check_task(task_name)
    is_pair = task_name in PAIR_TASKS or task_name == "similarity"
    if (text_b is not None) != is_pair or (candidates is not None) != (task_name == "relevance"):
        given = ["text_a"] + ["text_b"] * (text_b is not None) + ["candidates"] * (candidates is not None)
        wanted = "text_a and text_b" if is_pair else "text_a and candidates" if task_name == "relevance" else "text_a"
        raise ValueError(
            f"inputs of task '{task_name}': got {', '.join(given)}, expected {wanted}. Leave out what the task has not."
        )
    if task_name in SINGLE_TASKS:
        review = parse_review(text_a)
        return SINGLE_TASKS[task_name](review.clauses, review.conjunction)
    if candidates is not None:
        if len(candidates) != N_CANDIDATES:
            raise ValueError(
                f"candidates of task 'relevance': got {len(candidates)}, expected {N_CANDIDATES}. "
                "Give that many statements, in the order in which they are shown."
            )
        return relevance_posterior(parse_question(text_a), [read_meaning(candidate) for candidate in candidates])
    assert text_b is not None
    a, b = read_meaning(text_a), read_meaning(text_b)
    if task_name in PAIR_TASKS:
        return PAIR_TASKS[task_name](a, b)
    return np.array(clipped_moments(*score_parameters(a, b)))
