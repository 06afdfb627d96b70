"""generate(): the six tables. Texts are proposed, kept if new, given their posterior, and labelled by drawing from it.

Splits share no sentence: neither a premise nor a hypothesis, question or candidate of one split stands in another.
They are made in the order test, dev, train, so a larger training set leaves the evaluation sets as they are.
Labels come from streams of their own, so the texts of a seed do not depend on the number of annotators.

Not here: what is proposed (drawing, edits, spoiling), the posteriors (oracle), files on disk (core/data).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from core.synthetic.clauses import realise, realise_question, realise_review
from core.synthetic.drawing import Stream, draw_question, draw_review, named_generator
from core.synthetic.edits import edit_clause
from core.synthetic.meaning import resolve
from core.synthetic.oracle import check_task, posterior, read_meaning
from core.synthetic.pairs import score_parameters
from core.synthetic.questions import N_CANDIDATES
from core.synthetic.single import LAPSE
from core.synthetic.spoiling import draw_candidate, spoil
from core.tasks import SUITE, example_id, example_schema

# Share of texts with two clauses.
TWO_CLAUSES = {"sentiment": 0.45, "acceptability": 0.15, "nli": 0.12, "paraphrase": 0.08, "similarity": 0.08}
# Share of acceptability's clauses with 0, 1, 2, 3 attempts to spoil them.
_SPOIL_ATTEMPTS = (0.36, 0.37, 0.19, 0.08)


class Proposal(NamedTuple):
    """The texts of one example; `others` is empty, the second text, or the candidates."""

    text_a: str
    others: tuple[str, ...] = ()


# ---- proposals: one function a task ---------------------------------------------------------------------------------
def _propose_sentiment(stream: Stream) -> Proposal:
    clauses, conjunction = draw_review(stream, TWO_CLAUSES["sentiment"])
    return Proposal(realise_review(clauses, conjunction))


def _propose_acceptability(stream: Stream) -> Proposal:
    clauses, conjunction = draw_review(stream, TWO_CLAUSES["acceptability"])
    spoiled = list(clauses)
    u = stream.unit()
    attempts = sum(u >= bound for bound in np.cumsum(_SPOIL_ATTEMPTS[:-1]).tolist())
    for _ in range(attempts):
        at = stream.below(len(spoiled))
        spoiled[at] = spoil(stream, spoiled[at])
    return Proposal(realise_review(tuple(spoiled), conjunction))


def _propose_nli(stream: Stream) -> Proposal:
    clauses, conjunction = draw_review(stream, TWO_CLAUSES["nli"])
    kept = stream.pick(resolve(clauses))
    return Proposal(realise_review(clauses, conjunction), (realise(edit_clause(stream, kept, "nli")),))


def _propose_pair(task: str) -> Callable[[Stream], Proposal]:
    def propose(stream: Stream) -> Proposal:
        clauses, conjunction = draw_review(stream, TWO_CLAUSES[task])
        # the second text repeats the topic instead of a pronoun, or its edits could leave the pronoun without one
        partner = tuple([edit_clause(stream, clause, task) for clause in resolve(clauses)])
        return Proposal(realise_review(clauses, conjunction), (realise_review(partner, conjunction),))

    return propose


def _propose_relevance(stream: Stream) -> Proposal:
    question = draw_question(stream)
    candidates: list[str] = []
    while len(candidates) < N_CANDIDATES:
        text = realise(draw_candidate(stream, question))
        if text not in candidates:
            candidates.append(text)
    return Proposal(realise_question(question), tuple(candidates))


PROPOSERS: dict[str, Callable[[Stream], Proposal]] = {
    "sentiment": _propose_sentiment,
    "acceptability": _propose_acceptability,
    "nli": _propose_nli,
    "paraphrase": _propose_pair("paraphrase"),
    "similarity": _propose_pair("similarity"),
    "relevance": _propose_relevance,
}


def _draw_texts(task: str, split: str, n: int, seed: int, owner: dict[str, str]) -> list[Proposal]:
    """`n` proposals with first texts of their own and no sentence of another split; `owner` maps sentence to split."""
    stream = Stream("darkroom", seed, task, split, "texts")
    firsts: set[str] = set()
    kept: list[Proposal] = []
    refused = 0
    while len(kept) < n:
        proposal = PROPOSERS[task](stream)
        sentences = (proposal.text_a, *proposal.others)
        if (
            proposal.text_a in firsts
            or proposal.text_a in proposal.others
            or any(owner.get(sentence, split) != split for sentence in sentences)
        ):
            refused += 1
            if refused > 50 * n + 1000:
                raise ValueError(
                    f"task '{task}', split '{split}': got {len(kept)} new examples after {refused} refusals, expected "
                    f"{n}. The world has too few sentences for that many; ask for fewer."
                )
            continue
        firsts.add(proposal.text_a)
        for sentence in sentences:
            owner[sentence] = split
        kept.append(proposal)
    return kept


# ---- labels ---------------------------------------------------------------------------------------------------------
def _draw_classes(probs_NC: np.ndarray, uniform_NK: np.ndarray) -> np.ndarray:
    """(N, K) class numbers, each row drawn from its distribution by inversion."""
    bounds_NC = np.cumsum(probs_NC, axis=1)
    # the last bound may fall short of 1 by rounding; argmax of all False would then be class 0
    bounds_NC[:, -1] = 1.0
    return np.stack([(column[:, None] < bounds_NC).argmax(axis=1) for column in uniform_NK.T], axis=1)


def _draw_scores(parameters_N2: np.ndarray, generator: np.random.Generator, k: int) -> np.ndarray:
    """(N, K) scores: normal, clipped to 0..5, or with probability LAPSE uniform. Box and Muller's transform, because
    numpy's own normal sampler may change its stream between versions."""
    uniform_NK4 = generator.random((len(parameters_N2), k, 4))
    radius = np.sqrt(-2.0 * np.log1p(-uniform_NK4[..., 0]))
    normal = radius * np.cos(2.0 * np.pi * uniform_NK4[..., 1])
    scores = np.clip(parameters_N2[:, :1] + parameters_N2[:, 1:] * normal, 0.0, 5.0)
    return np.where(uniform_NK4[..., 2] < LAPSE, 5.0 * uniform_NK4[..., 3], scores)


def _posteriors(task: str, proposals: list[Proposal]) -> np.ndarray:
    """(N, C) of classification and ranking, (N, 2) mean and spread of regression."""
    width = 2 if SUITE[task].kind == "regression" else len(SUITE[task].labels)
    truths = np.empty((len(proposals), width))
    for row, (text_a, others) in enumerate(proposals):
        if task == "relevance":
            truths[row] = posterior(task, text_a, candidates=others)
        else:
            truths[row] = posterior(task, text_a, *others)
    return truths


def _split_columns(task: str, split: str, proposals: list[Proposal], seed: int, n_humans: int) -> dict[str, list]:
    row_of = SUITE[task]
    n, truths = len(proposals), _posteriors(task, proposals)
    gold_generator = named_generator("darkroom", seed, task, split, "gold")
    human_generator = named_generator("darkroom", seed, task, split, "humans")
    k = n_humans if split != "train" else 0
    columns: dict[str, list] = {
        "example_id": [example_id(task, split, row) for row in range(n)],
        "split": [split] * n,
        "text_a": [p.text_a for p in proposals],
        "n_humans": [k or None] * n,
    }
    if row_of.kind == "ranking":
        columns["candidates"] = [list(p.others) for p in proposals]
    elif row_of.is_pair:
        columns["text_b"] = [p.others[0] for p in proposals]
    if row_of.kind == "regression":
        parameters = np.array(
            [score_parameters(read_meaning(p.text_a), read_meaning(p.others[0])) for p in proposals]
        ).reshape(n, 2)
        columns["true_mean"], columns["true_std"] = truths[:, 0].tolist(), truths[:, 1].tolist()
        columns["gold_value"] = _draw_scores(parameters, gold_generator, 1)[:, 0].tolist()
        columns["human_mean"] = _draw_scores(parameters, human_generator, k).mean(axis=1).tolist() if k else [None] * n
        return columns
    gold = _draw_classes(truths, gold_generator.random((n, 1)))[:, 0]
    columns["gold_label"] = [row_of.labels[label] for label in gold]
    columns["true_probs"] = truths.astype(np.float32).tolist()
    columns["human_probs"] = [None] * n
    if k:
        clicks = _draw_classes(truths, human_generator.random((n, k)))
        counts = np.stack([(clicks == label).sum(axis=1) for label in range(truths.shape[1])], axis=1)
        columns["human_probs"] = (counts / k).tolist()
    return columns


def generate(
    task_names: Sequence[str], *, seed: int, n_train: int, n_dev: int, n_test: int, n_humans: int = 20
) -> dict[str, pa.Table]:
    """The suite's tables in `example_schema(SUITE[name])`, rows in the order train, dev, test.

    `gold_label` (or `gold_value`) is one annotator's; `human_probs` (or `human_mean`) are `n_humans` other ones', on
    dev and test. A task's table depends on seed and sizes only, not on the other names. Example::

        generate(["nli"], seed=0, n_train=100, n_dev=20, n_test=20)["nli"].num_rows   # 140

    Raises `ValueError` for an unknown task, a negative size, and sizes that the world cannot fill.
    """
    sizes = {"train": n_train, "dev": n_dev, "test": n_test}
    for name, value in {**{f"n_{split}": n for split, n in sizes.items()}, "n_humans": n_humans}.items():
        if value < 0:
            raise ValueError(f"{name}: got {value}, expected 0 or more. Give a number of examples or annotators.")
    tables: dict[str, pa.Table] = {}
    for task in task_names:
        check_task(task)
        owner: dict[str, str] = {}
        columns: dict[str, dict[str, list]] = {}
        for split in ("test", "dev", "train"):
            proposals = _draw_texts(task, split, sizes[split], seed, owner)
            columns[split] = _split_columns(task, split, proposals, seed, n_humans)
        schema = example_schema(SUITE[task])
        merged = {name: [v for split in sizes for v in columns[split][name]] for name in schema.names}
        tables[task] = pa.table(merged, schema=schema)
    return tables


# ---- unlabelled text ------------------------------------------------------------------------------------------------
def unlabelled_text(n: int, *, seed: int) -> list[str]:
    """`n` different grammatical sentences of the world, reviews and questions, for pre-training without labels."""
    stream = Stream("darkroom", seed, "unlabelled")
    seen: dict[str, None] = {}
    while len(seen) < n:
        if stream.chance(0.15):
            seen[realise_question(draw_question(stream))] = None
        else:
            seen[realise_review(*draw_review(stream, 0.4))] = None
    return list(seen)
