"""What was passed on beside the answer: the teacher's errors, its runner-up, its wrong-class mass; labels it doubts.

All but `error_copying` and `suspects` are about the classes that are not gold and need three of them: with two, the one
wrong class has all of the rest, whoever speaks, and they raise `NotDefined`.

Shapes: N examples, n of them kept, C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from core.calibration import FloatArray, IntArray, wilson_interval
from core.views import NotDefined
from core.views.derived import column
from core.views.kept import kept
from core.views.reading import chunks
from core.views.table import BASELINE, DEFAULT_STUDENT, TaskTable, require_members, require_three_classes


class Share(NamedTuple):
    """k of n, with Wilson's 95 % interval."""

    share: float
    low: float
    high: float
    k: int
    n: int


class Copying(NamedTuple):
    """P(voice gives the teacher's wrong label | the teacher is wrong), by voice; and by class pair: `n_CC` counts the
    teacher's errors by gold (row) and its answer (column), `copied_CC[voice]` those that the voice copies."""

    share: dict[str, Share]
    n_CC: IntArray
    copied_CC: dict[str, IntArray]


class RunnerUp(NamedTuple):
    """For each of `rows`: the teacher's most probable class other than gold, and P(that class | not gold) of the
    teacher and of each voice; `r` is Pearson's correlation of the two, by voice."""

    rows: IntArray
    runner_up: IntArray
    teacher: FloatArray
    voices: dict[str, FloatArray]
    r: dict[str, float]


class WrongMass(NamedTuple):
    """`mean_CC`: mean probability of class j where gold is i, rows sum to 1. `wrong_CC`: the same without the
    diagonal, renormalised: where does the mass that is not on gold go? nan on the diagonal. `n_C`: examples of each
    gold class; rows of a class without examples are nan in both."""

    mean_CC: FloatArray
    wrong_CC: FloatArray
    n_C: IntArray


@kept
def error_copying(
    table: TaskTable, rows: npt.ArrayLike | None = None, *, voices: tuple[str, ...] = (DEFAULT_STUDENT, BASELINE)
) -> Copying:
    """Fidelity beyond chance: does distillation pass errors on? The baseline, which never saw the teacher, makes some
    of the same errors because they are easy to make; its share is what a voice's is to be compared with. With two
    classes, copying an error is being wrong. Raises `NotDefined` for regression or where the teacher is never wrong."""
    gold_n, teacher_n = (answers.astype(np.int64) for answers in _answers(table, rows, "gold", "teacher"))
    wrong_n = (gold_n >= 0) & (teacher_n != gold_n)
    if not wrong_n.any():
        raise NotDefined(f"The teacher makes no error here on task '{table.task.name}', so none can be copied.")
    c = table.task.n_outputs
    pair_n = gold_n[wrong_n] * c + teacher_n[wrong_n]
    shares, copied_CC = {}, {}
    for voice in voices:
        (answers_n,) = _answers(table, rows, voice)
        copied_n = answers_n[wrong_n] == teacher_n[wrong_n]
        shares[voice] = share_of(int(copied_n.sum()), len(copied_n))
        copied_CC[voice] = np.bincount(pair_n[copied_n], minlength=c * c).reshape(c, c)
    return Copying(shares, np.bincount(pair_n, minlength=c * c).reshape(c, c), copied_CC)


@kept
def runner_up_transfer(
    table: TaskTable, rows: npt.ArrayLike | None = None, *, voices: tuple[str, ...] = (DEFAULT_STUDENT, BASELINE)
) -> RunnerUp:
    """Does the student know the teacher's second choice, given that it is not gold? The baseline's correlation is what
    the data alone teach; the student's is higher by what the teacher told it.

    P(c | not gold) = softmax of the logits without gold, in the log domain: 1 - p_* underflows where a model is sure.
    """
    require_three_classes(table.task, "runner-up among the wrong classes")
    chosen = np.arange(len(table)) if rows is None else np.asarray(rows, np.int64)
    chosen = chosen[table.gold_N[chosen] >= 0]
    if not len(chosen):
        raise NotDefined("No example with gold here, so no class is known to be wrong.")
    gold_n = table.gold_N[chosen]
    runner_up_n = np.empty(len(chosen), np.int64)
    given_n = {voice: np.empty(len(chosen)) for voice in ("teacher", *voices)}
    for part in chunks(len(chosen)):
        for voice, values_n in given_n.items():
            others_NC = table.log_probs(voice)[chosen[part]].astype(np.float64)
            others_NC[np.arange(len(others_NC)), gold_n[part]] = -np.inf
            if voice == "teacher":  # the first
                runner_up_n[part] = others_NC.argmax(axis=1)
            top_N = np.take_along_axis(others_NC, runner_up_n[part, None], axis=1)[:, 0]
            values_n[part] = np.exp(top_N - special.logsumexp(others_NC, axis=1))
    teacher_n, of_voices = given_n["teacher"], {voice: given_n[voice] for voice in voices}
    r = {voice: _pearson(teacher_n, of_n) for voice, of_n in of_voices.items()}
    return RunnerUp(chosen, runner_up_n, teacher_n, of_voices, r)


@kept
def wrong_class_mass(table: TaskTable, voice: str = "teacher", rows: npt.ArrayLike | None = None) -> WrongMass:
    """Dark knowledge in one matrix: what the voice thinks each class could be mistaken for."""
    require_three_classes(table.task, "mass between wrong classes")
    chosen = np.arange(len(table)) if rows is None else np.asarray(rows, np.int64)
    probs_nC, gold_n, c = table.probs(voice)[chosen].astype(np.float64), table.gold_N[chosen], table.task.n_outputs
    n_C = np.bincount(gold_n[gold_n >= 0], minlength=c)
    sums_CC = np.stack([np.bincount(gold_n[gold_n >= 0], probs_nC[gold_n >= 0, j], minlength=c) for j in range(c)], 1)
    mean_CC = np.divide(sums_CC, n_C[:, None], out=np.full((c, c), np.nan), where=n_C[:, None] > 0)
    wrong_CC = np.where(np.eye(c, dtype=bool), np.nan, mean_CC)
    total_C1 = np.where(n_C > 0, np.nansum(wrong_CC, axis=1), 0.0)[:, None]
    # A voice that is sure of gold everywhere has no mass to place: nan, not a division by 0.
    wrong_CC = np.divide(wrong_CC, total_C1, out=np.full((c, c), np.nan), where=total_C1 > 0)
    return WrongMass(mean_CC, wrong_CC, n_C)


def suspects(table: TaskTable, rows: npt.ArrayLike | None = None, *, max_information: float | None = None) -> IntArray:
    """Rows whose gold label may be wrong: all M teachers give one other label, and their mutual information is low,
    so that this is what they learnt and not what they guess. First those whose gold they think least probable.

    `max_information` in nats; None: the median over the table. Raises `NotDefined` for M = 1 and for regression."""
    require_members(table, "a unanimous vote")
    information_N = column(table, "mutual_information")
    limit = float(np.median(information_N)) if max_information is None else max_information
    against_N = column(table, "unanimous") & (table.answers(table.members[0]) != table.gold_N) & table.has_gold
    found = np.flatnonzero(against_N & (information_N <= np.float32(limit)))
    if rows is not None:
        found = found[np.isin(found, np.asarray(rows))]
    return found[np.argsort(column(table, "gold_prob")[found], kind="stable")]


def share_of(k: int, n: int) -> Share:
    """k of n as a share with its interval; nan for n = 0."""
    low, high = wilson_interval([k], [n])
    return Share(k / n if n else float("nan"), float(low[0]), float(high[0]), k, n)


def _answers(table: TaskTable, rows: npt.ArrayLike | None, *voices: str) -> list[np.ndarray]:
    found = [table.answers(voice) for voice in voices]
    return found if rows is None else [answers_N[np.asarray(rows)] for answers_N in found]


def _pearson(a_n: FloatArray, b_n: FloatArray) -> float:
    """nan where one of the two does not vary: there is nothing to correlate with."""
    if len(a_n) < 2 or np.ptp(a_n) == 0 or np.ptp(b_n) == 0:
        return float("nan")
    return float(np.corrcoef(a_n, b_n)[0, 1])
