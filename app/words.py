"""Who is called what, and how a number is written: the same on every page.

Not here: the columns of examples (core/views/derived has their words), labels and names from data (app/show).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from core.comparisons import Difference
from core.plots.style import ROLES, Role, signed
from core.views.distances import Mean
from core.views.table import BASELINE, DEFAULT_STUDENT


class Metric(NamedTuple):
    """A score in [-1, 1] is read in points (factor 100, one digit), a divergence in nats (three digits)."""

    title: str
    unit: str
    factor: int
    digits: int

    @property
    def axis(self) -> str:
        return f"{self.title} ({self.unit})"

    def say(self, value: float, se: float = math.nan, *, sign: bool = False) -> str:
        """ "71.3 ± 0.4"; without a standard error the value alone."""
        text = f"{self.factor * value:.{self.digits}f}".replace("-", "−")
        if sign:
            # Rounded first: "−0.0" is a zero.
            text = signed(round(self.factor * value, self.digits) + 0.0, self.digits)
        return text if math.isnan(se) else f"{text} ± {self.factor * se:.{self.digits}f}"

    def say_difference(self, found: Difference | None) -> str:
        return "–" if found is None else self.say(found.mean, found.se, sign=True)

    def interval(self, mean: float, se: float) -> tuple[float, float, float]:
        """(mean, low, high), two standard errors to either side, for core/plots."""
        return self.factor * mean, self.factor * (mean - 2 * se), self.factor * (mean + 2 * se)


METRICS = {
    "score": Metric("Score", "points", 100, 1),
    "kl_truth": Metric("KL to the truth", "nats", 1, 3),
    "kl_humans": Metric("KL to people", "nats", 1, 3),
    "nll": Metric("Log loss", "nats", 1, 3),
    "ece": Metric("Calibration error", "points", 100, 1),
    "accuracy": Metric("Accuracy", "points", 100, 1),
}
METRIC_HELP = (
    "- **Score**: GLUE's metric of the task x 100 (accuracy, Matthews', Pearson's), higher is better\n"
    "- **KL to the truth / to people**: how far the predicted distribution is from the suite's exact one, or from the "
    "annotators', lower is better\n"
    "- **Log loss**: minus the log of the probability that gold was given, lower is better\n"
    "- **Calibration error**: how far sureness and being right lie apart (ECE), lower is better"
)

# Who a voice is: in legends and tables, and as the subject of a sentence.
NAMES = {
    "teacher": ROLES["teacher"].name,
    DEFAULT_STUDENT: ROLES["student"].name,
    BASELINE: ROLES["hard"].name,
}
SUBJECTS = {
    "teacher": "the teachers' mean",
    DEFAULT_STUDENT: "the distilled student",
    BASELINE: "the student without distillation",
}
ROLE_OF: dict[str, Role] = {"teacher": "teacher", DEFAULT_STUDENT: "student", BASELINE: "hard", "gold": "gold"}

# What a student is taught by, for the controls of a run.
KEEPS = {
    BASELINE: "gold alone",
    DEFAULT_STUDENT: "the real teachers",
    "label_smoothing": "a uniform teacher",
    "cwtm": "gold, weighted by the teachers' confidence",
    "dkpp": "teachers, wrong classes permuted",
    "adaptive_smoothing": "teachers, wrong classes evened out",
    "truth": "the exact posterior",
}


def name_of(voice: str) -> str:
    """ "student, KD" for kd, "student, dkpp" for a control, a model's own name for a model. Not escaped."""
    if voice in NAMES:
        return NAMES[voice]
    return f"student, {voice}" if voice in KEEPS else voice


def subject(voice: str) -> str:
    """ "the distilled student" for kd, "the student dkpp" for a control. Not escaped."""
    return SUBJECTS.get(voice, f"the student {voice}" if voice in KEEPS else voice)


def taught_by(variant: str) -> str:
    """ "the real teachers (kd)": a student by what it was taught with."""
    return f"{KEEPS[variant]} ({variant})" if variant in KEEPS else variant


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def several(n: int, one: str, more: str = "") -> str:
    """ "1 seed", "5 seeds"."""
    return f"{n:,} {one if n == 1 else more or one + 's'}"


def number(value: float, digits: int = 2) -> str:
    """ "0.52", with a real minus sign below zero: "−0.09"."""
    return f"{value:.{digits}f}".replace("-", "−")


def with_interval(found: Mean, digits: int = 1, *, factor: float = 1.0, sign: bool = False) -> str:
    """ "+1.2 [+0.3, +2.1]"."""
    mean, low, high = (round(factor * value, digits) + 0.0 for value in found[:3])
    if sign:
        return f"{signed(mean, digits)} [{signed(low, digits)}, {signed(high, digits)}]"
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
