"""Who taught whom: the flip ledger of teacher, student without distillation and student.

Every example with gold is in one of eight cohorts, by who is right (COHORTS in core/views/derived). The net gain of
distillation is (taught + surpassed) - (mis-taught + lost): the examples that the student alone of the two students gets
right, less those that it alone gets wrong, hence the difference of the two accuracies. The teacher only gives the four
their names.

Two students that differ by their seed alone flip too. So the ledger is made for each pair of students of one seed, and
what is the same in all seeds is counted beside it, with the number of flips between two seeds of the baseline as the
yardstick.

Shapes: N examples, S seeds.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from core.calibration import IntArray
from core.views import NotDefined
from core.views.derived import COHORTS, cohort_codes, column
from core.views.kept import kept
from core.views.table import BASELINE, DEFAULT_STUDENT, TaskTable

GAINS = ("taught", "surpassed")
LOSSES = ("mis-taught", "lost")
RESAMPLES = 10_000


class NetGain(NamedTuple):
    """(n_gained - n_lost) / n with its 95 % bootstrap interval over examples, and McNemar's exact two-sided p-value:
    how probable a split of the flips as uneven as this is if either direction were equally likely (1 without flips).
    Both are of the choice of examples; the luck of training is `Stability`."""

    share: float
    low: float
    high: float
    n: int
    n_gained: int
    n_lost: int
    p_value: float


class Ledger(NamedTuple):
    """`counts` by cohort, in the order of COHORTS; together they are the examples with gold among the rows."""

    counts: dict[str, int]
    net: NetGain


class Stability(NamedTuple):
    """Over S pairs of students, each of one seed: `mean` count of a cohort in a pair; in how many examples a majority
    of the pairs (more than S / 2), and all, say this cohort. `net` is each seed's net gain (S,). `seed_flips`: examples
    on which one of two seeds of the baseline is right and the other wrong, a mean over their pairs; None for S = 1."""

    seeds: tuple[int, ...]
    mean: dict[str, float]
    majority: dict[str, int]
    all: dict[str, int]
    net: tuple[NetGain, ...]
    seed_flips: float | None


@kept
def ledger(
    table: TaskTable, rows: npt.ArrayLike | None = None, *, student: str = DEFAULT_STUDENT, seed: int = 0
) -> Ledger:
    """Counts and net gain among `rows` (None: all), the students being means over their seeds. `seed` is of the
    bootstrap. Raises `NotDefined` where the table has no cohorts (no teacher, baseline, student or gold)."""
    codes_N = column(table, "cohort", student=student)
    counts = _count(codes_N if rows is None else codes_N[np.asarray(rows)])
    return Ledger(counts, net_gain(counts, seed=seed))


def net_gain(counts: dict[str, int], *, seed: int = 0) -> NetGain:
    """From the counts alone: resampling examples is a multinomial draw of (gained, lost, neither), which is exact and
    takes the same milliseconds for any N. Raises `NotDefined` for no examples."""
    n = sum(counts.values())
    if n == 0:
        raise NotDefined("No example with gold here, so nothing was gained or lost.")
    n_gained, n_lost = (sum(counts[name] for name in names) for names in (GAINS, LOSSES))
    shares = np.array([n_gained, n_lost, n - n_gained - n_lost]) / n
    draws_R3 = np.random.default_rng(seed).multinomial(n, shares, RESAMPLES)
    low, high = np.percentile((draws_R3[:, 0] - draws_R3[:, 1]) / n, [2.5, 97.5])
    flips = n_gained + n_lost
    p_value = float(stats.binomtest(n_gained, flips).pvalue) if flips else 1.0
    return NetGain((n_gained - n_lost) / n, float(low), float(high), n, n_gained, n_lost, p_value)


@kept
def stability(
    table: TaskTable, rows: npt.ArrayLike | None = None, *, student: str = DEFAULT_STUDENT, seed: int = 0
) -> Stability:
    """The ledger seed by seed, over the seeds that `student`, a variant, and the baseline share.

    Raises `NotDefined` without such seeds, gold or a teacher.
    """
    pairs = seed_pairs(table, student)
    known_N = table.has_gold.copy()
    if rows is not None:
        keep_N = np.zeros(len(table), bool)
        keep_N[np.asarray(rows)] = True
        known_N &= keep_N
    if not table.has_teacher or not known_N.any():
        raise NotDefined(f"Split '{table.split}' of task '{table.task.name}' has no teacher or no gold here.")
    teacher_n = table.is_right("teacher")[known_N]
    right = {name: table.is_right(name)[known_N] for pair in pairs.values() for name in pair}
    codes_Sn = np.stack([cohort_codes(teacher_n, right[plain], right[taught]) for plain, taught in pairs.values()])
    per_seed = [_count(codes_n) for codes_n in codes_Sn]
    majority, everywhere = {}, {}
    for code, name in enumerate(COHORTS):
        votes_n = (codes_Sn == code).sum(axis=0)
        majority[name] = int((2 * votes_n > len(pairs)).sum())
        everywhere[name] = int((votes_n == len(pairs)).sum())
    flips = [int((right[a] != right[b]).sum()) for (a, _), (b, _) in combinations(pairs.values(), 2)]
    return Stability(
        tuple(pairs),
        {name: float(np.mean([counts[name] for counts in per_seed])) for name in COHORTS},
        majority,
        everywhere,
        tuple(net_gain(counts, seed=seed) for counts in per_seed),
        float(np.mean(flips)) if flips else None,
    )


def stable_rows(table: TaskTable, cohort: str, *, student: str = DEFAULT_STUDENT, share: float = 1.0) -> IntArray:
    """The rows, ascending, that are in `cohort` for at least `share` of the pairs of students: 1 is all of them."""
    if cohort not in COHORTS:
        raise ValueError(f"cohort '{cohort}' is not known, expected one of {', '.join(COHORTS)}")
    pairs = seed_pairs(table, student)
    column(table, "cohort", student=student)  # raises where there are none
    teacher_N, votes_N = table.is_right("teacher"), np.zeros(len(table), np.int64)
    for plain, taught in pairs.values():
        votes_N += cohort_codes(teacher_N, table.is_right(plain), table.is_right(taught)) == COHORTS.index(cohort)
    return np.flatnonzero(table.has_gold & (votes_N >= share * len(pairs)) & (votes_N > 0))


def seed_pairs(table: TaskTable, student: str = DEFAULT_STUDENT) -> dict[int, tuple[str, str]]:
    """Seed -> (baseline, student): they share initialisation, batches and dropout, so their difference is paired.
    Raises `NotDefined` where the two variants share no seed."""
    students = table.students
    plain, taught = students.get(BASELINE, {}), students.get(student, {})
    shared = {seed: (plain[seed], taught[seed]) for seed in plain if seed in taught}
    if not shared:
        raise NotDefined(
            f"Students '{BASELINE}' and '{student}' share no seed on split '{table.split}' of task "
            f"'{table.task.name}', so no two of them can be compared."
        )
    return shared


def _count(codes_n: np.ndarray) -> dict[str, int]:
    counts = np.bincount(codes_n[codes_n >= 0].astype(np.int64), minlength=len(COHORTS))
    return dict(zip(COHORTS, counts.tolist(), strict=True))
