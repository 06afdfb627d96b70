"""Columns computed from what the voices say: entropy, disagreement, divergences, flags, the flip cohort.

`column(table, name, student=...)` is an array (N,), kept in the table; COLUMNS, at the bottom, is the
list, and a new column is a row there. A column that a table cannot have (no truth, one member, a regression) is absent
from `available` and raises `NotDefined` with a sentence: it is never a column of nan. Single rows can still be unknown
(gold, truth and annotators are per example): nan there in numbers, -1 in codes.

float32, which is exact to seven digits: 4 MB a column for a million examples. Temporaries are float64, in chunks.

Shapes: N examples, C classes, M members.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from scipy import special

from core.calibration import FloatArray
from core.views import NotDefined
from core.views.reading import chunks, log_mean, log_probs_CN
from core.views.table import BASELINE, DEFAULT_STUDENT, TaskTable

# Outcome of (teacher, student without distillation, student), right or wrong -> cohort.
COHORTS = ("taught", "kept", "missed", "mis-taught", "resisted", "surpassed", "lost", "hopeless")
COHORT_IN_WORDS = {
    "taught": "the teacher is right, the student learnt it, without distillation it is wrong",
    "kept": "all three are right",
    "missed": "the teacher is right, both students are wrong",
    "mis-taught": "the teacher is wrong, and so is the student; without distillation it is right",
    "resisted": "the teacher is wrong, both students are right",
    "surpassed": "the student alone is right",
    "lost": "the student alone is wrong",
    "hopeless": "all three are wrong",
}
# Index 4 * teacher right + 2 * baseline right + student right.
_COHORT_OF_OUTCOME = np.array(
    [COHORTS.index(name) for name in
     ("hopeless", "surpassed", "mis-taught", "resisted", "missed", "taught", "lost", "kept")], np.int8
)  # fmt: skip

Needs = Literal["teacher", "student", "baseline", "members", "gold", "truth", "humans"]
Compute = Callable[[TaskTable, str], np.ndarray]


class Column(NamedTuple):
    """`words` is its title; `kind`: a number in a range, a flag, or a code of `names`. `of`: tasks with classes, or
    regressions."""

    words: str
    compute: Compute
    needs: tuple[Needs, ...]
    kind: Literal["number", "flag", "code"] = "number"
    of: Literal["classes", "regression"] = "classes"
    names: tuple[str, ...] = ()


def column(table: TaskTable, name: str, *, student: str = DEFAULT_STUDENT) -> np.ndarray:
    """(N,) float32 for numbers, bool for flags, int8 for codes. Raises `NotDefined` with the reason where the table
    has no such column, and `ValueError` for a name that is none."""
    if name not in COLUMNS:
        raise ValueError(f"column '{name}' is not known, expected one of {', '.join(COLUMNS)}")
    reason = why_absent(table, name, student=student)
    if reason is not None:
        raise NotDefined(reason)
    spec = COLUMNS[name]
    key = ("column", name, student if "student" in spec.needs else None)
    kind = {"number": np.float32, "flag": np.bool_, "code": np.int8}[spec.kind]
    # A copy: gold's own array would otherwise become read-only with it.
    return cast(np.ndarray, table.kept.once(key, lambda: np.array(spec.compute(table, student), kind)))


def available(table: TaskTable, *, student: str = DEFAULT_STUDENT) -> tuple[str, ...]:
    """Names of the columns that this table has, in the order of COLUMNS."""
    return tuple(name for name in COLUMNS if why_absent(table, name, student=student) is None)


def why_absent(table: TaskTable, name: str, *, student: str = DEFAULT_STUDENT) -> str | None:
    """A sentence, or None: the column is there."""
    spec, task = COLUMNS[name], table.task
    if (spec.of == "regression") != table.is_regression:
        return f"Task '{task.name}' is of kind '{task.kind}', which has no {spec.words}."
    missing = [need for need in spec.needs if not _HAS[need](table, student)]
    if not missing:
        return None
    what = _MISSING[missing[0]].format(student=student, baseline=BASELINE)
    return f"Split '{table.split}' of task '{task.name}' has {what}, hence no {spec.words}."


def cohort_codes(teacher_right_N: np.ndarray, baseline_right_N: np.ndarray, student_right_N: np.ndarray) -> np.ndarray:
    """Indices of COHORTS, (N,) int8, from three arrays of flags."""
    outcome_N = 4 * np.asarray(teacher_right_N, np.int8) + 2 * np.asarray(baseline_right_N, np.int8)
    return np.asarray(_COHORT_OF_OUTCOME[outcome_N + np.asarray(student_right_N, np.int8)])


# ---- what a column needs -------------------------------------------------------------------------------------------
def _has_voice(table: TaskTable, voice: str) -> bool:
    return voice in table.students or table.has(voice)


_HAS: dict[str, Callable[[TaskTable, str], bool]] = {
    "teacher": lambda table, student: table.has_teacher,
    "student": lambda table, student: _has_voice(table, student),
    "baseline": lambda table, student: _has_voice(table, BASELINE),
    "members": lambda table, student: len(table.members) > 1,
    "gold": lambda table, student: bool(table.has_gold.any()),
    "truth": lambda table, student: table.truth_NC is not None or table.truth_N is not None,
    "humans": lambda table, student: table.humans_NC is not None or table.humans_N is not None,
}
_MISSING = {
    "teacher": "no teacher's predictions (stages 'finetune' and 'ensemble' make them)",
    "student": "no predictions of student '{student}' (stage 'distill' makes them)",
    "baseline": "no predictions of student '{baseline}' (add it to distill.variants)",
    "members": "fewer than two teachers",
    "gold": "no gold labels",
    "truth": "no true probabilities",
    "humans": "no annotators' labels",
}


# ---- how columns are computed --------------------------------------------------------------------------------------
def _in_chunks(table: TaskTable, part_of: Callable[[slice], np.ndarray]) -> np.ndarray:
    values_N = np.empty(len(table), np.float32)
    for part in chunks(len(table)):
        values_N[part] = part_of(part)
    return values_N


def _entropy(table: TaskTable, voice: str) -> np.ndarray:
    log_p_NC = table.log_probs(voice)
    return _in_chunks(table, lambda part: entropy_n(log_probs_CN(log_p_NC[part])))


def entropy_n(log_p_CN: FloatArray) -> FloatArray:
    """Over the classes, the last axis but one: (C, N) -> (N,), (M, C, N) -> (M, N)."""
    return np.asarray(-(np.exp(log_p_CN) * log_p_CN).sum(axis=-2))


def _confidence(table: TaskTable, voice: str) -> np.ndarray:
    return np.exp(table.log_probs(voice).max(axis=1))


def _kl(table: TaskTable, voice: str) -> np.ndarray:
    """KL(teacher || voice). Normalised again in float64: rows rounded to float32 sum to 1 +- 1e-7, and a small
    divergence would drown in that."""
    log_p_NC, log_q_NC = table.log_probs("teacher"), table.log_probs(voice)

    def of(part: slice) -> np.ndarray:
        log_p_CN = log_probs_CN(log_p_NC[part])
        kl_N = (np.exp(log_p_CN) * (log_p_CN - log_probs_CN(log_q_NC[part]))).sum(axis=0)
        return np.asarray(np.maximum(kl_N, 0.0))

    return _in_chunks(table, of)


def _kl_to(table: TaskTable, which: Literal["truth", "humans"], voice: str) -> np.ndarray:
    """KL(known || voice), nan where nothing is known. Classes with probability 0 add nothing."""
    known_NC, log_q_NC = table.known(which), table.log_probs(voice)

    def of(part: slice) -> np.ndarray:
        p_CN = known_NC[part].T.astype(np.float64)
        p_CN = p_CN / p_CN.sum(axis=0)
        kl_N = (special.xlogy(p_CN, p_CN) - p_CN * log_probs_CN(log_q_NC[part])).sum(axis=0)
        return np.asarray(np.maximum(kl_N, 0.0))

    return _in_chunks(table, of)


def member_log_probs(table: TaskTable, part: slice | np.ndarray) -> FloatArray:
    """(M, C, n) float64 of the members, for some rows."""
    return np.stack([log_probs_CN(table.outputs(name)[part]) for name in table.members])


def _member_entropy(table: TaskTable, student: str) -> np.ndarray:
    return _in_chunks(table, lambda part: entropy_n(member_log_probs(table, part)).mean(axis=0))


def _mutual_information(table: TaskTable, student: str) -> np.ndarray:
    """H(mean p_m) - mean H(p_m), of the arithmetic mean, whatever the ensemble's strategy (core.ensemble.jensen_gap_N).
    As the equal mean of KL(p_m || mean), which does not cancel where the members agree."""

    def of(part: slice) -> np.ndarray:
        log_p_MCn = member_log_probs(table, part)
        kl_Mn = (np.exp(log_p_MCn) * (log_p_MCn - log_mean(log_p_MCn))).sum(axis=1)
        return np.asarray(np.maximum(kl_Mn.mean(axis=0), 0.0))

    return _in_chunks(table, of)


def _disagreement(table: TaskTable, student: str) -> np.ndarray:
    """Share of the M (M - 1) / 2 pairs with different answers (core.ensemble.disagreement_N)."""
    pairs = list(combinations([table.answers(name) for name in table.members], 2))
    return np.asarray(sum((a_N != b_N).astype(np.float32) for a_N, b_N in pairs) / np.float32(len(pairs)))


def _unanimous(table: TaskTable, student: str) -> np.ndarray:
    answers_MN = np.stack([table.answers(name) for name in table.members])
    return np.asarray((answers_MN == answers_MN[0]).all(axis=0))


def _cohort(table: TaskTable, student: str) -> np.ndarray:
    codes_N = cohort_codes(table.is_right("teacher"), table.is_right(BASELINE), table.is_right(student))
    return np.where(table.has_gold, codes_N, -1)


def _gold_prob(table: TaskTable, voice: str) -> np.ndarray:
    gold_N = table.gold_N
    log_p_N = np.take_along_axis(table.log_probs(voice), np.maximum(gold_N, 0)[:, None], axis=1)[:, 0]
    return np.where(gold_N >= 0, np.exp(log_p_N), np.nan)


def _spread(table: TaskTable, student: str) -> np.ndarray:
    """Population form, as `core.ensemble.combine_values`: the members are the whole mixture."""
    return np.std([table.outputs(name) for name in table.members], axis=0)


def _classes(words: str, compute: Compute, *needs: Needs, **more: Any) -> Column:
    return Column(words, compute, needs, **more)


def _regression(words: str, compute: Compute, *needs: Needs) -> Column:
    return Column(words, compute, needs, of="regression")


COLUMNS: dict[str, Column] = {
    "kl": _classes("KL(teacher, student)", _kl, "teacher", "student"),
    "entropy": _classes("entropy of the teacher", lambda t, s: _entropy(t, "teacher"), "teacher"),
    "member_entropy": _classes(
        "mean entropy of the members", _member_entropy, "members"
    ),
    "mutual_information": _classes("mutual information of the members", _mutual_information, "members"),
    "disagreement": _classes("share of member pairs that disagree", _disagreement, "members"),
    "confidence": _classes("confidence of the teacher", lambda t, s: _confidence(t, "teacher"), "teacher"),
    "gold_prob": _classes(
        "the teacher's probability of gold", lambda t, s: _gold_prob(t, "teacher"), "teacher", "gold"
    ),
    "student_entropy": _classes("entropy of the student", _entropy, "student"),
    "student_confidence": _classes("confidence of the student", _confidence, "student"),
    "student_gold_prob": _classes("the student's probability of gold", _gold_prob, "student", "gold"),
    "kl_baseline": _classes(
        "KL(teacher, student without distillation)",
        lambda t, s: _kl(t, BASELINE), "teacher", "baseline",
    ),
    "teacher_kl_truth": _classes(
        "KL(truth, teacher)", lambda t, s: _kl_to(t, "truth", "teacher"), "truth", "teacher"
    ),
    "student_kl_truth": _classes(
        "KL(truth, student)", lambda t, s: _kl_to(t, "truth", s), "truth", "student"
    ),
    "teacher_kl_humans": _classes(
        "KL(humans, teacher)", lambda t, s: _kl_to(t, "humans", "teacher"), "humans", "teacher"
    ),
    "student_kl_humans": _classes(
        "KL(humans, student)", lambda t, s: _kl_to(t, "humans", s), "humans", "student"
    ),
    "agree": _classes(
        "teacher and student agree", lambda t, s: t.answers("teacher") == t.answers(s), "teacher", "student",
        kind="flag",
    ),
    "unanimous": _classes("the members are unanimous", _unanimous, "members", kind="flag"),
    "cohort": _classes(
        "cohort", _cohort, "teacher", "baseline", "student", "gold", kind="code", names=COHORTS
    ),
    "gold_value": _regression("gold value", lambda t, s: t.gold_N, "gold"),
    "teacher_value": _regression("value of the teacher", lambda t, s: t.values("teacher"), "teacher"),
    "student_value": _regression("value of the student", lambda t, s: t.values(s), "student"),
    "teacher_error": _regression(
        "error of the teacher", lambda t, s: t.values("teacher") - t.gold_N, "teacher", "gold"
    ),
    "student_error": _regression("error of the student", lambda t, s: t.values(s) - t.gold_N, "student", "gold"),
    "gap": _regression(
        "student minus teacher", lambda t, s: t.values(s) - t.values("teacher"), "teacher", "student"
    ),
    "spread": _regression("spread of the members", _spread, "members"),
    "teacher_truth_error": _regression(
        "teacher minus the true mean", lambda t, s: t.values("teacher") - t.true_mean(), "truth", "teacher"
    ),
    "student_truth_error": _regression(
        "student minus the true mean", lambda t, s: t.values(s) - t.true_mean(), "truth", "student"
    ),
}  # fmt: skip
