"""The controls of a run: students taught by a part of the teachers each, against gold alone and against the whole.

A control that is level with the real teachers says that what it leaves out taught nothing here. All differences are
paired by seed; one within two standard errors is called no difference.
"""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import show
from app.state import choice, set_query
from app.words import KEEPS, METRIC_HELP, METRICS, Metric, several, taught_by
from core.metrics import HIGHER_IS_BETTER
from core.plots.comparisons import Interval, points_and_intervals
from core.sections import NEEDS_TEACHER
from core.views import NotDefined
from core.views.results import Control, controls, read_results
from core.views.table import BASELINE, DEFAULT_STUDENT, TaskTable

SHOWN = ("score", "nll", "ece", "kl_truth", "kl_humans")
# What a student does not hear when it is taught by the control instead of the teachers.
DROPS = {
    "label_smoothing": "everything that the teachers know",
    "cwtm": "all but the teachers' confidence",
    "dkpp": "which wrong class the teachers meant",
    "adaptive_smoothing": "which wrong class the teachers meant",
}


def controls_view(table: TaskTable) -> None:
    results = read_results(table.run)
    with_teacher = [name for name, row in results.tasks.items() if row.has_teacher and row.kind != "regression"]
    known = {key[3] for key in results.scores if key[2] == table.split}
    names = [name for name in SHOWN if name in known]
    if not names:
        raise NotDefined(f"This run has no scores on split '{table.split}'; it reports '{results.split}'.")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = choice(
            "Metric", names, key="metric", default=names[0], kind="segmented",
            words=lambda one: METRICS[one].title, help=METRIC_HELP,
        )  # fmt: skip
        scopes = ["this"] + ["all"] * (len(with_teacher) > 1 and table.task.name in with_teacher)
        words = {"this": table.task.name, "all": f"mean of {len(with_teacher)} tasks with a teacher"}
        scope = choice("On", scopes, key="over", default="this", kind="segmented", words=words.__getitem__)
    metric, tasks = METRICS[name], [table.task.name] if scope == "this" else with_teacher
    order = [DEFAULT_STUDENT, *NEEDS_TEACHER]  # controls as the config names them, then what is made of kd
    found = controls(results, tasks=tasks, metric=name, split=table.split)
    found.sort(key=lambda control: order.index(control.variant) if control.variant in order else len(order))
    paired = [control for control in found if control.minus_hard is not None]
    if not paired:
        raise NotDefined(f"No student is paired with '{BASELINE}' by seed here, so nothing can be compared.")
    said = verdicts(paired, table, metric)
    st.markdown("\n- ".join(["".join(said[:1]) + "\n", *said[1:]]))
    rows = [
        Interval(KEEPS.get(control.variant, control.variant), "student", *metric.interval(gain.mean, gain.se), gain.n)
        for control in paired
        if (gain := control.minus_hard) is not None
    ]
    better = "higher" if HIGHER_IS_BETTER[name] else "lower"
    axis = f"minus gold alone ({metric.unit})"
    figure = points_and_intervals(rows, metric=axis, zero_line=True, roles={"student": "student"}, digits=metric.digits)
    show.figure(figure.update_layout(showlegend=False), key=f"controls-{name}-{scope}")
    frame = pd.DataFrame(
        {
            "taught by": [taught_by(control.variant) for control in found],
            metric.axis: [metric.say(control.value.mean, control.value.se) for control in found],
            "minus gold alone": [metric.say_difference(control.minus_hard) for control in found],
            "the real teachers minus it": [metric.say_difference(control.kd_minus) for control in found],
            "seeds": [str(control.value.n) for control in found],
        }
    )
    st.dataframe(frame, hide_index=True, width="stretch", alt="Every student variant against gold and the teachers.")
    st.caption(
        f"{metric.title}, {better} is better: means ± one standard error over seeds, differences paired by seed. Bars "
        "are two standard errors."
    )
    missing_variants(table, {control.variant for control in found})
    st.button(
        "See which answers distillation changed", icon=":material/arrow_forward:", type="tertiary",
        on_click=set_query, kwargs={"view": "ledger"},
    )  # fmt: skip


def verdicts(paired: list[Control], table: TaskTable, metric: Metric) -> list[str]:
    """What may be said of kd, and of each control against it, in words."""
    said = []
    for control in sorted(paired, key=lambda control: control.variant != DEFAULT_STUDENT):
        gain, gap, drops = control.minus_hard, control.kd_minus, DROPS.get(control.variant)
        if control.variant == DEFAULT_STUDENT and gain is not None:
            size = f"{metric.say_difference(gain)} {metric.unit} over {several(gain.n, 'seed')}"
            words = f"The real teachers against gold alone: **{gain.verdict}**, {size}."
            if gain.verdict == "one seed":
                words = f"The real teachers against gold alone: {size}, which shows nothing; `distill.seeds=5` does."
            said.append(words)
        elif drops is not None and gap is not None:
            name, size = f"**{KEEPS[control.variant]}**", metric.say_difference(gap)
            said += {
                "no difference": [f"No difference from {name}, {size}: leaving out {drops} costs nothing that "
                                  f"{several(gap.n, 'seed')} can show."],
                "better": [f"They are better than {name}, {size}: that is what {drops} is worth here."],
                "worse": [f"They are worse than {name}, {size}."],
            }.get(gap.verdict, [])  # fmt: skip
    if table.task.n_outputs == 2 and any(control.variant in ("dkpp", "adaptive_smoothing") for control in paired):
        said.append("With two classes there is one wrong class: permuted and evened teachers are the real ones.")
    return said


def missing_variants(table: TaskTable, here: set[str]) -> None:
    """The command that trains the variants that this run does not have."""
    wanted = [name for name in NEEDS_TEACHER if name != "truth" or table.truth_NC is not None]
    missing = [name for name in wanted if name not in here]
    if not missing or not table.run.manifest().get("config"):  # an imported run is trained elsewhere
        return
    if here <= {BASELINE, DEFAULT_STUDENT}:
        st.caption("Only gold alone and the real teachers are here. This adds the controls, and trains nothing twice:")
    else:
        st.caption(f"Not trained in this run: {', '.join(KEEPS[name] for name in missing)}. This adds them:")
    command = f"python -m core run --out {table.run.path} --set 'distill.variants=[{','.join(wanted)}]'"
    st.code(command, language="bash", wrap_lines=True)
