"""The experiments: each a question, and a grid of configs over draws of the data and student seeds that answers it.

A cell is what one row of the table shows: which models of which config. Cells of equal `sets` are of one run. What
several cells or experiments need is trained once (core/experiment/sharing), so a cell is added without a thought of
what it shares.

Not here: running them (core/experiment), what is made of the scores (core/findings).
"""

from __future__ import annotations

from typing import NamedTuple

from core.sections import NATURAL_STRATEGY


class Cell(NamedTuple):
    """`group`: students as core/plan calls them (`hard`, `kd`, `kd-g2`), or `single` (the members), `teachers`,
    `ensemble`. `sets` are overrides, as `--set` takes them. `against` is the label of the cell that this one is
    compared with, model by model; none: students with the experiment's own, others with nothing."""

    label: str
    group: str = "kd"
    sets: tuple[str, ...] = ()
    against: str | None = None

    @property
    def is_student(self) -> bool:
        return self.group not in ("single", "teachers", "ensemble")


class Experiment(NamedTuple):
    """`against` is the label of the cell that the other students are compared with."""

    title: str
    question: str
    cells: tuple[Cell, ...]
    against: str
    sets: tuple[str, ...] = ()
    preset: str = "demo"


HARD = Cell("no distillation", "hard")
PAPERS = "the paper's"


# ---- on the embedded suite -----------------------------------------------------------------------------------------
DISTILLED = Experiment(
    "Distilled against not",
    "Does a student that is also taught by the ensemble of teachers do better than one taught by gold labels alone, on "
    "tasks with a teacher, and on tasks without one?",
    (
        *(Cell("single models", "single"), Cell("teachers", "teachers"), Cell("ensemble", "ensemble")),
        *(HARD, Cell("distilled")),
    ),
    against=HARD.label,
)

CONTROLS = Experiment(
    "Is it dark knowledge?",
    "Students that are taught a part of what the teachers say, each against the real teachers: is the gain what they "
    "say about the wrong classes, or smoothing, or how sure they are of each example?",
    (
        Cell("the teachers"),
        Cell("gold alone", "hard"),
        Cell("a uniform teacher", "label_smoothing"),
        Cell("gold, by the teachers' confidence", "cwtm"),
        Cell("wrong classes permuted", "dkpp"),
        Cell("wrong classes evened out", "adaptive_smoothing"),
        Cell("the exact posterior", "truth"),
    ),
    against="the teachers",
)

SIZE = Experiment(
    "How many teachers?",
    "The K best of six members teach. Does a larger ensemble make a better student?",
    (
        HARD,
        *(Cell(f"K = {k}", sets=(f"select.top_k={k}",)) for k in (1, 2, 3, 6)),
        *(Cell(f"ensemble of {k}", "ensemble", (f"select.top_k={k}",), "ensemble of 1") for k in (1, 2, 3, 6)),
    ),
    against="K = 1",
)

# Three members each, all of them kept. What an entry leaves out is as in the preset: seed 0, dropout 0.
_POOLS = {
    "seeds": "{seed: 0}, {seed: 1}, {seed: 2}",
    f"dropouts ({PAPERS})": "{dropout: 0.0}, {dropout: 0.05}, {dropout: 0.1}",
    "learning rates": "{lr: 8.0e-4}, {lr: 1.2e-3}, {lr: 1.8e-3}",
    "clip norms": "{clip_norm: 1}, {clip_norm: 2}, {clip_norm: 5}",
    "heads": "{seed: 0}, {head: linear}, {seed: 1, head: linear}",
    "encoders": "{}, {encoder: 'random:bert(layers=3,hidden=48,heads=4,ffn=96)'}, "
    "{encoder: 'random:bert(layers=1,hidden=96,heads=4,ffn=192)'}",
    "bagging": "{bagging: 1.0}, {bagging: 1.0, seed: 1}, {bagging: 1.0, seed: 2}",
    "MC dropout": "{dropout: 0.1, mc_passes: 8}, {dropout: 0.1, mc_passes: 8, seed: 1}, "
    "{dropout: 0.1, mc_passes: 8, seed: 2}",
    "snapshots of one training": "{snapshots: 3}",
}
MEMBERS = Experiment(
    "How members are made",
    "Three members that differ by one thing, all of them kept: which difference makes the ensemble and the student "
    "better than seeds alone?",
    tuple(
        Cell(f"{which}{label}", group, (f"multitask.pool=[{pool}]", "select.top_k=3"), f"{which}seeds")
        for group, which in (("kd", ""), ("ensemble", "ensemble: "))
        for label, pool in _POOLS.items()
    ),
    against="seeds",
)


_COMBINED = {
    f"mean of probabilities, soft cross-entropy ({PAPERS})": ("mean_probs", "soft_ce"),
    "geometric mean, reverse KL": (NATURAL_STRATEGY["reverse_kl"], "reverse_kl"),
    "mean of logits, squared error of logits": (NATURAL_STRATEGY["mse_logits"], "mse_logits"),
    # Fitted by likelihood, which is what soft cross-entropy passes on.
    **{f"{name}, soft cross-entropy": (name, "soft_ce") for name in ("weighted", "calibrated", "greedy", "stacking")},
}
_PAPERS_WAY = next(iter(_COMBINED))
COMBINING = Experiment(
    "How teachers are combined",
    "Each way of combining the three teachers with the loss that it belongs to: which student is best?",
    tuple(
        Cell(
            f"{which}{label}", group, (f"ensemble.strategy={strategy}", f"distill.loss={loss}"), f"{which}{_PAPERS_WAY}"
        )
        for group, which in (("kd", ""), ("ensemble", "ensemble: "))
        for label, (strategy, loss) in _COMBINED.items()
    ),
    against=_PAPERS_WAY,
)

TARGETS = Experiment(
    "In-sample or out-of-fold targets",
    "The paper's teachers label examples whose gold they were trained on. Are targets of teachers that have not seen "
    "them (two folds) better?",
    (
        HARD,
        Cell(f"in-sample ({PAPERS})"),
        Cell("out-of-fold", sets=("ensemble.targets=out_of_fold",)),
    ),
    against=f"in-sample ({PAPERS})",
)


def _grid_cell(alpha: float, temperature: float) -> Cell:
    # At temperature 1 KL has the gradient of soft cross-entropy, the loss of the other experiments.
    loss = ("distill.loss=kl", f"distill.temperature={temperature:g}") if temperature != 1 else ()
    is_papers = (alpha, temperature) == (0.5, 1)
    label = f"alpha {alpha:g}, T {temperature:g}" + f" ({PAPERS})" * is_papers
    return Cell(label, sets=(f"distill.alpha={alpha:g}", *loss))


GRID = Experiment(
    "Alpha and temperature",
    "How much weight to the teachers (alpha; 0 is no distillation), and at which temperature? The paper's point is "
    "alpha 0.5, T 1.",
    (HARD, *(_grid_cell(alpha, temperature) for temperature in (1, 2, 4) for alpha in (0.25, 0.5, 0.75, 1))),
    against=f"alpha 0.5, T 1 ({PAPERS})",
)

SCHEDULE = Experiment(
    "Annealing and generations",
    "Teachers first and gold last (annealed), or students that teach students (born again): better than the paper's "
    "constant average?",
    (
        HARD,
        Cell(f"constant ({PAPERS})"),
        Cell("annealed from teachers to gold", sets=("distill.loss=annealed",)),
        Cell("second generation", "kd-g2", ("distill.generations=3",)),
        Cell("third generation", "kd-g3", ("distill.generations=3",)),
    ),
    against=f"constant ({PAPERS})",
)

_PRETRAINED = ("pretrain.objective=rtd", "pretrain.epochs=4")
RTD = Experiment(
    "Replaced-token detection",
    "On the suite's own unlabelled text, before the training (all encoders), beside the student's tasks, or both: does "
    "it help?",
    (
        Cell("without"),
        Cell("beside the tasks", sets=("distill.rtd_weight=0.1",)),
        Cell("before", sets=_PRETRAINED),
        Cell("before and beside", sets=(*_PRETRAINED, "distill.rtd_weight=0.1")),
        Cell("single models without", "single"),
        Cell("single models before", "single", _PRETRAINED, "single models without"),
    ),
    against="without",
)

# The suite's tasks are all of one size, on which every sampler is the same; GLUE's are not.
_UNEQUAL = "data.n_train_of={paraphrase: 2400, relevance: 2400, acceptability: 1200, similarity: 1200}"
_SAMPLERS = {
    f"proportional to size ({PAPERS})": ("proportional",),
    "to its root": ("sqrt",),
    "to its fifth root": ("temperature", "distill.sampling_temperature=5"),
    "annealed from size to uniform": ("annealed",),
    "uniform": ("uniform",),
}
SAMPLERS = Experiment(
    "How tasks are mixed",
    "Tasks of unequal size (4,200 training rows of two, 2,000 of two, 800 of two): does it help the student to see the "
    "small tasks more often than their size asks for, in as many steps?",
    tuple(Cell(label, sets=(f"distill.sampling={sampling}", *more)) for label, (sampling, *more) in _SAMPLERS.items()),
    against=next(iter(_SAMPLERS)),
    sets=(_UNEQUAL,),
)

SUITE_EXPERIMENTS = {
    "distilled": DISTILLED,
    "controls": CONTROLS,
    "size": SIZE,
    "combining": COMBINING,
    "schedule": SCHEDULE,
    "targets": TARGETS,
    "samplers": SAMPLERS,
    "rtd": RTD,
    "members": MEMBERS,
    "grid": GRID,
}
EXPERIMENTS: dict[str, Experiment] = {**SUITE_EXPERIMENTS}
