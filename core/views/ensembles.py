"""The ensemble's inside: who agrees with whom, where uncertainty comes from, whom the student resembles, who decides.

The mean here is the arithmetic mean of the members' probabilities, the paper's Q, whatever the run's strategy is; only
of that mean H(mean) = mean H + mutual information holds exactly. Size curves and fitted recipes are in `ensembles.json`
(core/combining) and are not computed again.

Shapes: N examples, n of them kept, C classes, M members, K voices.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from core.calibration import FloatArray, IntArray
from core.views import NotDefined
from core.views.derived import column, member_log_probs
from core.views.kept import kept
from core.views.reading import chunks, log_mean, log_probs_CN
from core.views.table import DEFAULT_STUDENT, TaskTable, require_members


class Agreement(NamedTuple):
    """`share` (K, K): among `n` (K, K) examples, how often two voices give one answer; with "gold", its accuracy. nan
    where n is 0."""

    voices: tuple[str, ...]
    share: FloatArray
    n: IntArray


class Uncertainty(NamedTuple):
    """H(mean of p_m) = `expected`, the mean of H(p_m), + `information`, their mutual information; (n,) each, nats.
    `rows` are sorted by information, highest first: what the members do not agree on."""

    rows: IntArray
    total: FloatArray
    expected: FloatArray
    information: FloatArray


class Closest(NamedTuple):
    """`member` (n,): argmin_m KL(p_m || student), an index of `members`; `counts` by member."""

    rows: IntArray
    member: IntArray
    counts: dict[str, int]


class LeftOut(NamedTuple):
    """What member `member` decides. `rows`: where the mean without it answers differently. On these the student gives
    the answer of the whole mean in `with_member` cases, that of the rest in `with_rest`, another in `neither`.
    `own_answer`: how often the whole mean's answer is the member's own; a member can also tip the others."""

    member: str
    rows: IntArray
    with_member: int
    with_rest: int
    neither: int
    own_answer: int


@kept
def agreement(table: TaskTable, voices: tuple[str, ...] | None = None, rows: npt.ArrayLike | None = None) -> Agreement:
    """Of all pairs of voices; None: every model of the table, then gold if known. Raises `NotDefined` for regression
    and without models."""
    if voices is None:
        if not table.model_names:
            raise NotDefined(f"No model of this run has split '{table.split}' of task '{table.task.name}'.")
        voices = (*table.model_names, *(("gold",) if table.has_gold.any() else ()))
    answers = [table.answers(voice) if rows is None else table.answers(voice)[np.asarray(rows)] for voice in voices]
    k = len(voices)
    same_KK, n_KK = np.zeros((k, k), np.int64), np.zeros((k, k), np.int64)
    for i in range(k):
        for j in range(i + 1):
            both_n = (answers[i] >= 0) & (answers[j] >= 0)
            same_KK[i, j] = same_KK[j, i] = int(((answers[i] == answers[j]) & both_n).sum())
            n_KK[i, j] = n_KK[j, i] = int(both_n.sum())
    return Agreement(voices, np.divide(same_KK, n_KK, out=np.full((k, k), np.nan), where=n_KK > 0), n_KK)


@kept
def uncertainty(table: TaskTable, rows: npt.ArrayLike | None = None) -> Uncertainty:
    """The two parts of the mean's entropy. Raises `NotDefined` for one member and for regression."""
    require_members(table, "mutual information")
    chosen = np.arange(len(table)) if rows is None else np.asarray(rows, np.int64)
    information_n = column(table, "mutual_information")[chosen].astype(np.float64)
    order = np.argsort(-information_n, kind="stable")
    chosen, information_n = chosen[order], information_n[order]
    expected_n = column(table, "member_entropy")[chosen].astype(np.float64)
    return Uncertainty(chosen, information_n + expected_n, expected_n, information_n)


@kept
def closest_member(table: TaskTable, rows: npt.ArrayLike | None = None, *, student: str = DEFAULT_STUDENT) -> Closest:
    """Is the student the mean, or one of the members? Chance is n / M each. Raises `NotDefined` for one member."""
    members = require_members(table, "the closest member")
    chosen, log_q_NC = np.arange(len(table)) if rows is None else np.asarray(rows, np.int64), table.log_probs(student)
    closest_n = np.empty(len(chosen), np.int64)
    for part in chunks(len(chosen)):
        log_p_MCn = member_log_probs(table, chosen[part])
        kl_Mn = (np.exp(log_p_MCn) * (log_p_MCn - log_probs_CN(log_q_NC[chosen[part]]))).sum(axis=1)
        closest_n[part] = kl_Mn.argmin(axis=0)
    counts = np.bincount(closest_n, minlength=len(members)).tolist()
    return Closest(chosen, closest_n, dict(zip(members, counts, strict=True)))


@kept
def leave_one_out(
    table: TaskTable, rows: npt.ArrayLike | None = None, *, student: str = DEFAULT_STUDENT
) -> list[LeftOut]:
    """For each member: where does the mean of the others answer differently, and whom does the student follow there?
    Raises `NotDefined` for one member."""
    members = require_members(table, "leaving one out")
    chosen = np.arange(len(table)) if rows is None else np.asarray(rows, np.int64)
    m = len(members)
    whole_n, without_Mn = np.empty(len(chosen), np.int16), np.empty((m, len(chosen)), np.int16)
    for part in chunks(len(chosen)):
        log_p_MCn = member_log_probs(table, chosen[part])
        whole_n[part] = log_mean(log_p_MCn).argmax(axis=0)
        for i in range(m):
            without_Mn[i, part] = log_mean(np.delete(log_p_MCn, i, axis=0)).argmax(axis=0)
    student_n = table.answers(student)[chosen]
    found = []
    for i, member in enumerate(members):
        flips = np.flatnonzero(without_Mn[i] != whole_n)
        with_member = int((student_n[flips] == whole_n[flips]).sum())
        with_rest = int((student_n[flips] == without_Mn[i, flips]).sum())
        own = int((table.answers(member)[chosen[flips]] == whole_n[flips]).sum())
        neither = len(flips) - with_member - with_rest
        found.append(LeftOut(member, chosen[flips], with_member, with_rest, neither, own))
    return found
