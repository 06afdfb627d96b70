"""Every query on every task and split of a real run gives an answer or a sentence; and how long they take at a million.

    python tests/test_views_everywhere.py 1000000 FOLDER

writes a run of that many examples with eight models into FOLDER and prints milliseconds and memory. Printed, never
asserted: a time on a shared machine is no property of the code.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished
from test_views_toy import table_of, write_toy

from core.store import Run
from core.views import NotDefined
from core.views.cohorts import ledger, stability
from core.views.counts import confusion, density, facets
from core.views.derived import available, column
from core.views.distances import distances
from core.views.ensembles import agreement, closest_member, leave_one_out, uncertainty
from core.views.filters import Filter, Range, apply
from core.views.gradients import decomposition, gradient_norms, what_if
from core.views.paging import page, sample
from core.views.reliability import curve, temperature_of
from core.views.table import TaskTable, load_table, splits_of
from core.views.transfer import error_copying, runner_up_transfer, suspects, wrong_class_mass

QUERIES: dict[str, Callable[[TaskTable], Any]] = {
    "columns": lambda t: [column(t, name) for name in available(t)],
    "filter, 2 labels and 2 ranges": lambda t: apply(NARROW, t),
    "filter and page by kl": lambda t: page(t, apply(NARROW, t), order_by="kl", descending=True),
    "page 1 of all by kl": lambda t: page(t, np.arange(len(t)), order_by="kl", descending=True),
    "a page from the middle": lambda t: page(t, np.arange(len(t)), order_by="kl", page=max(1, len(t) // 100)),
    "texts of a page": lambda t: t.texts(np.arange(min(50, len(t)))),
    "filter by text": lambda t: apply(Filter(text="THE"), t),
    "facets": facets,
    "confusion": lambda t: confusion(t, "gold", "kd"),
    "density": lambda t: density(t, "entropy", "student_entropy"),
    "sample": lambda t: sample(t, np.arange(len(t))),
    "ledger": ledger,
    "stability": stability,
    "error copying": error_copying,
    "runner-up": runner_up_transfer,
    "wrong-class mass": wrong_class_mass,
    "suspects": suspects,
    "gradient norms": lambda t: gradient_norms(t, alpha=0.5, temperature=2.0),
    "decomposition": decomposition,
    "what-if, a sample": lambda t: what_if(t, sample(t, np.arange(len(t)))),
    "agreement": agreement,
    "uncertainty": uncertainty,
    "closest member": closest_member,
    "leave one out": leave_one_out,
    "distances": lambda t: distances(t, "truth", ("kd", "teacher")),
    "reliability": lambda t: curve(t, "kd"),
    "temperature": lambda t: temperature_of(t, "kd"),
}
NARROW = Filter(gold="yes", teacher="no", ranges=(Range("kl", 0.1), Range("entropy", None, 1.0)))
TOY_LABELS = ("filter, 2 labels and 2 ranges", "filter and page by kl")  # of the toy's labels


def test_an_answer_or_a_sentence(smoke: Finished) -> None:
    answered: dict[str, int] = {}
    sentences: list[str] = []
    for task in smoke.manifest["tasks"]:
        for split in splits_of(smoke.run, task):
            table = load_table(smoke.run, task, split)
            for name, query in QUERIES.items():
                if name in TOY_LABELS:
                    continue
                try:
                    query(table)
                    answered[name] = answered.get(name, 0) + 1
                except NotDefined as sentence:  # and no other error
                    sentences.append(str(sentence))
    assert set(answered) == set(QUERIES) - set(TOY_LABELS)
    assert all(text[0].isupper() and text[-1] == "." and len(text) > 20 for text in sentences)
    assert len(set(sentences)) > 10


def test_the_toy_answers_all(tmp_path: Path) -> None:
    table = table_of(write_toy(tmp_path / "x", tasks=["tri"]))
    assert len(apply(NARROW, table)) > 0
    for query in QUERIES.values():
        query(table)


def test_the_student_of_the_truth_is_a_student(tmp_path: Path) -> None:
    """`distill.variants` has a "truth": its voice is the student, and the exact posterior is `table.known`."""
    table = table_of(write_toy(tmp_path / "x", tasks=["tri"], variants=("hard", "kd", "truth")))
    assert table.models_of("truth") == ("st-truth-s0", "st-truth-s1")
    known = np.isfinite(table.known("truth")).all(axis=1)
    assert not np.allclose(table.probs("truth")[known], table.known("truth")[known])


def test_the_measurement_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure(2000, tmp_path / "run")
    assert len(capsys.readouterr().out.splitlines()) == len(QUERIES) + 3


def measure(n: int, folder: Path) -> None:
    if not folder.exists():
        write_toy(folder, tasks=["tri"], n={"test": n, "train": 5}, members=3)
    run = Run(folder)
    print(f"{n:,} examples, 3 classes; memory before: {megabytes():.0f} MB")
    table = timed("load", lambda: load_table(run, "tri", "test"))
    models = (*table.members, "ens-mean_probs", *(f"st-{v}-s{s}" for v in ("hard", "kd") for s in (0, 1)))
    timed("outputs of 8 models", lambda: [table.outputs(model) for model in models])
    for name, query in QUERIES.items():
        timed(name, lambda query=query: query(table))  # type: ignore[misc]


def timed(name: str, query: Callable[[], Any], repeats: int = 3) -> Any:
    taken = []
    for _ in range(1 if name == "load" else repeats):
        started = time.perf_counter()
        found = query()
        taken.append(1000 * (time.perf_counter() - started))
    print(f"{name:32s} first {taken[0]:9.1f} ms, best {min(taken):9.1f} ms, peak memory {megabytes():5.0f} MB")
    return found


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    measure(int(sys.argv[1]), Path(sys.argv[2]))
