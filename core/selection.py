"""Which members become teachers: the top k by a stated rule, with every score and a sentence of reason for each.

Pure arithmetic on scores: which split they come from is the stage's decision. Selecting on the split that is later
reported leaks, so the default is a split carved from train; the split's name travels into the reasons, so that the
paper's leaky rule, on offer by name, can be seen in `selection.json`.

Deliberately absent: weights or greedy choice (those are fits, and belong to strategies that own a split), and any
randomness: ties go by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

Rule = Literal["mean_teacher_tasks", "paper"]

TIE_BREAK = "Members with equal key values are ranked by name, in plain string order."


class Ranked(NamedTuple):
    """One member: its key value (the higher the better), its score on every task, and why it is in or out."""

    member: str
    key_value: float
    scores: dict[str, float]
    chosen: bool
    reason: str


class Selection(NamedTuple):
    """The ranking, best first, and the k names at its top."""

    ranking: tuple[Ranked, ...]
    chosen: tuple[str, ...]
    rule: str
    rule_in_words: str
    tie_break: str
    split: str

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types, for `selection.json`."""
        return {**self._asdict(), "ranking": [r._asdict() for r in self.ranking], "chosen": list(self.chosen)}


def select(
    scores: Mapping[str, Mapping[str, float]],
    *,
    k: int,
    teacher_tasks: Sequence[str],
    split: str,
    rule: Rule = "mean_teacher_tasks",
) -> Selection:
    """The k best members. `scores` maps member -> task -> the task's score (higher is better) on `split`.

    Example: `select({"mt-1": {"nli": 0.81}, "mt-2": {"nli": 0.79}}, k=1, teacher_tasks=["nli"], split="selection")`.

    Raises `ValueError` for an unknown rule, k < 1 or above the number of members, a task of the rule that a member
    has no score for, and scores that are not finite (a diverged member has no rank).
    """
    if rule not in RULES:
        raise ValueError(f"selection rule '{rule}' is not known, expected one of {', '.join(RULES)}")
    if not 1 <= k <= len(scores):
        raise ValueError(
            f"selection of k={k} from {len(scores)} members, expected 1..{len(scores)}; "
            "lower select.k or train more members"
        )
    tasks = RULES[rule].tasks(tuple(teacher_tasks))
    if not tasks:
        raise ValueError(f"rule '{rule}' got no teacher tasks, expected at least 1; mark one with has_teacher: true")
    for member, of_task in scores.items():
        missing = [task for task in tasks if task not in of_task]
        if missing:
            raise ValueError(
                f"rule '{rule}' needs scores of {', '.join(tasks)}; member '{member}' has none of "
                f"{', '.join(missing)}, only {', '.join(of_task) or 'nothing'}; {RULES[rule].remedy}"
            )
        broken = {task: score for task, score in of_task.items() if not math.isfinite(score)}
        if broken:
            raise ValueError(f"member '{member}' has scores {broken}, expected finite numbers; train it again")
    # fsum: the exact sum, rounded once, so that equal scores tie whatever the order of the tasks.
    key = {member: math.fsum(of_task[task] for task in tasks) / len(tasks) for member, of_task in scores.items()}
    order = sorted(scores, key=lambda member: (-key[member], member))
    chosen = tuple(order[:k])
    ranking = tuple(
        Ranked(
            member=member,
            key_value=key[member],
            scores={task: float(score) for task, score in scores[member].items()},
            chosen=member in chosen,
            reason=_reason(member, order=order, key=key, k=k, of_task={t: scores[member][t] for t in tasks}),
        )
        for member in order
    )
    words = f"The {k} of {len(order)} members with the highest {RULES[rule].words}: {', '.join(tasks)}."
    return Selection(ranking, chosen, rule, words, TIE_BREAK, split)


def _reason(member: str, *, order: list[str], key: dict[str, float], k: int, of_task: dict[str, float]) -> str:
    place = order.index(member) + 1
    each = ", ".join(f"{task} {score:.4f}" for task, score in of_task.items())
    text = f"{'Chosen' if place <= k else 'Left out'}: place {place} of {len(order)}, key {key[member]:.4f} ({each})"
    if place > k:
        text += f", {key[order[k - 1]] - key[member]:.4f} below the last chosen, {order[k - 1]}"
    ties = [other for other in order if other != member and key[other] == key[member]]
    # Only a tie across the cut decides anything; others would be noise in the sentence.
    across = [other for other in ties if (order.index(other) < k) != (place <= k)]
    return text + (f"; tied with {', '.join(across)}, the name decided." if across else ".")


class _Rule(NamedTuple):
    words: str
    tasks: Callable[[tuple[str, ...]], tuple[str, ...]]  # the run's teacher tasks -> the tasks whose mean is the key
    remedy: str


RULES: dict[str, _Rule] = {
    "mean_teacher_tasks": _Rule(
        "mean score over the teacher tasks",
        lambda teacher_tasks: teacher_tasks,
        "evaluate every member on every teacher task",
    ),
    # 1904.09482: "by the development results on MNLI and RTE". How the two combine is not said; we take the mean.
    "paper": _Rule(
        "mean score over the paper's two tasks",
        lambda teacher_tasks: ("mnli", "rte"),
        "add both tasks to the run or use rule 'mean_teacher_tasks'",
    ),
}
