"""The four pages of analysis: their numbers are those of core/views, their clicks become links, and what comes from
data is never Markdown. That every view opens on every kind of run is in test_app_matrix.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import test_views_toy
from looking import BROKEN, VIEWS, charts, links, look, numbers, opened, queries, raw, select, words
from streamlit.testing.v1 import AppTest
from test_refit import write_features
from test_views_results import with_dynamics
from test_views_toy import Toy, table_of, write_metrics, write_toy

from core.combining import size_curve
from core.tasks import Task
from core.views.cohorts import ledger
from core.views.gradients import what_if
from core.views.strategies import known_of

ANALYSIS = ("loss_lab", "ensemble", "dark_knowledge", "calibration")
CONTROLS = ("hard", "kd", "dkpp", "cwtm")


def turn_to(app: AppTest, page: str, run: Path, **query: str) -> AppTest:
    """Another page or view of the run; it may say why it shows nothing, not that it is broken."""
    look(app, page, run=run.name, **query)
    assert not any(text in words(app) for text in BROKEN), f"{page} {query}: {words(app)}"
    return app


def with_scores(toy: Toy, variants: tuple[str, ...], seeds: int = 2) -> Toy:
    """Scores of every student on `tri` and `two`; `dkpp` has kd's own, so that the two are level."""
    rng, rows = np.random.default_rng(0), []
    for task in ("tri", "two"):
        for seed in range(seeds):
            luck = {"kd": 0.001 * rng.normal(), "hard": 0.0, "cwtm": 0.0}
            for variant in variants:
                at = {"hard": 0.4, "kd": 0.5, "dkpp": 0.5, "cwtm": 0.3}[variant] + luck.get(variant, luck["kd"])
                for metric in ("score", "nll", "kl_truth"):
                    row = {"model": f"st-{variant}-s{seed}", "task": task, "split": "test", "metric": metric}
                    rows.append(row | {"value": at, "ci_low": at, "ci_high": at, "n": 120, "seed": seed})
    write_metrics(toy.run, rows)
    return toy


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """Everything that a run can have."""
    made = with_scores(write_toy(tmp_path / "toy", variants=CONTROLS), CONTROLS)
    for model in ("st-kd-s0", "st-hard-s0"):
        with_dynamics(made, model)
    write_features(made)
    return made


def test_labels_and_texts_are_never_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ("<b>yes</b>", ":red[maybe]", "$no$ **not** [x](http://x)")
    hostile = Task(name="tri", labels=labels, text_b="text_b", has_teacher=True)
    monkeypatch.setitem(test_views_toy.TASKS, "tri", hostile)
    monkeypatch.setattr(test_views_toy, "TRI", hostile)
    run = write_toy(tmp_path / "toy").run.path
    app, n_seen = opened(run.parent, monkeypatch), 0
    for page in ANALYSIS:
        for view in VIEWS[page]:
            turn_to(app, page, run, task="tri", view=view)
            assert not any(element.proto.allow_html for element in (*app.markdown, *app.caption))
            for text in raw(app):
                assert not re.search(r"(?<!\\)(<b>|:red\[|\$no|\]\()", text), (page, view, text)
                n_seen += "maybe" in text
            for chart in app.get("plotly_chart"):
                assert "<b>yes" not in chart.proto.spec.replace("\\u003c", "<")
    assert n_seen > 3


# ---- the numbers ---------------------------------------------------------------------------------------------------
def test_the_ledger_says_the_net_gain_and_links_to_a_cohort(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    app = turn_to(opened(toy.run.path.parent, monkeypatch), "dark_knowledge", toy.run.path, task="tri", view="ledger")
    found = ledger(table_of(toy))
    said = next(text for text in words(app).splitlines() if text.startswith("Distillation turned"))
    assert f"{found.net.n_gained} wrong answers into right ones and {found.net.n_lost} right" in said
    assert f"{100 * found.net.share:+.1f}".replace("-", "−") in said
    assert not links(app)
    select(app, "ledger-kd", points=[{"customdata": 3}])
    assert queries(app) == [{"run": "toy", "task": "tri", "split": "test", "cohort": "mis-taught"}]
    assert any(f"these {found.counts['mis-taught']} in" in e.proto.label for e in links(app))


def test_a_control_that_equals_the_teacher_is_said(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    app = turn_to(opened(toy.run.path.parent, monkeypatch), "dark_knowledge", toy.run.path, task="tri", view="controls")
    text = words(app)
    assert "No difference from **teachers, wrong classes permuted**" in text
    assert "They are better than **gold, weighted by the teachers' confidence**" in text
    assert "label_smoothing" in app.code[0].value  # the command that adds what is missing
    assert "against gold alone: **better**" in text


def test_without_controls_the_command_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = with_scores(write_toy(tmp_path / "toy"), ("hard", "kd"))
    app = turn_to(opened(toy.run.path.parent, monkeypatch), "dark_knowledge", toy.run.path, task="tri")
    command = app.code[0].value
    assert command.startswith(f"python -m core run --out {toy.run.path} --set 'distill.variants=[hard,kd,")
    assert "Only gold alone and the real teachers" in words(app)


def test_the_size_curve_is_core_combinings(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    app = turn_to(opened(toy.run.path.parent, monkeypatch), "ensemble", toy.run.path, task="tri", view="size")
    table = table_of(toy)
    curve = size_curve(table.task, [table.outputs(name) for name in table.members], known_of(table))
    traces = {trace.get("name"): trace for trace in charts(app)[0]["data"]}
    expected = [100 * entry["mean_over_subsets"]["score"] for entry in curve]
    assert numbers(traces["mean over subsets"]["y"]) == pytest.approx(expected, abs=1e-4)
    assert f"all together **{100 * curve[-1]['score']:.1f}**" in words(app)
    frame = app.dataframe[0].value
    assert set(frame["fitted on"]) == {"nothing", "selection"}
    assert frame["Score (points)"][0] == pytest.approx(100 * curve[-1]["score"])


def test_the_map_and_its_stars(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep beside the run, one cell of this run and one of another's."""
    run, rows = toy.run.path, []
    app = opened(run.parent, monkeypatch)
    turn_to(app, "loss_lab", run, task="tri", view="all")
    assert [trace.get("name") for trace in charts(app)[0]["data"]].count("trained run") == 0
    assert "core sweep" in app.code[0].value
    for alpha, base in ((0.25, run), (0.75, run.parent / "another")):
        cell = f"alpha={alpha}"
        folder = run.parent / "sweep" / cell
        folder.mkdir(parents=True)
        manifest = toy.run.manifest() | {"base": str(base)}
        (folder / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
        row = {"cell": cell, "alpha": alpha, "task": "tri", "split": "test", "metric": "score"}
        rows += [row | {"model": f"st-{v}-s{s}", "value": 0.6} for v in ("hard", "kd") for s in range(2)]
    pq.write_table(pa.Table.from_pylist(rows), run.parent / "sweep" / "sweep.parquet")
    turn_to(app, "loss_lab", run, task="tri", view="all")
    (star,) = (trace for trace in charts(app)[0]["data"] if trace.get("name") == "trained run")
    assert numbers(star["x"]).tolist() == [0.25]
    found = what_if(table_of(toy), student="st-kd-s0")
    heat = numbers(charts(app)[0]["data"][0]["z"])
    assert np.sort(heat.ravel()) == pytest.approx(np.sort(found.target_entropy.ravel()), abs=1e-4)


def test_the_head_is_refitted_with_what_is_chosen(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    app = turn_to(opened(toy.run.path.parent, monkeypatch), "loss_lab", toy.run.path, task="tri", view="refit")
    before = charts(app)[0]["data"][0]
    app.slider(key="refit-alpha").set_value(1.0).run()
    assert not app.exception
    after = charts(app)[0]["data"][0]
    assert numbers(after["x"])[0] != numbers(before["x"])[0]
    assert numbers(after["x"])[1:] == pytest.approx(numbers(before["x"])[1:])  # gold alone, as trained
    names = ["new head, alpha 1", "new head, gold alone", "as trained"]
    sure = next(chart["data"] for chart in charts(app) if [trace.get("name") for trace in chart["data"]] == names)
    for trace in sure:
        assert numbers(trace["y"]).sum() == pytest.approx(100, abs=1e-3)  # float32 shares
    n = int((toy.gold["tri"][toy.on("tri", "train")] >= 0).sum())
    assert f"Fitted on {n} of {n} rows of split train" in words(app)


def test_without_features_the_option_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_toy(tmp_path / "toy").run.path
    app = turn_to(opened(run.parent, monkeypatch), "loss_lab", run, task="tri", view="refit")
    assert app.code[0].value == f"python -m core run --out {run} --set runtime.keep_features=true"


def test_a_link_to_an_example(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(toy)
    row = int(np.flatnonzero(table.has_gold)[7])
    name = table.ids[row].as_py()
    app = turn_to(opened(toy.run.path.parent, monkeypatch), "loss_lab", toy.run.path, task="tri", ex=name)
    assert any(name in element.proto.label.replace("\\", "") for element in links(app))
    app.query_params["ex"] = "tri/test/999999"
    app.run()
    assert not app.exception
    assert "no example 'tri/test/999999'" in words(app)


def test_clicks_become_filters(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the figures whose points are cells, pairs of classes and examples."""
    app = opened(toy.run.path.parent, monkeypatch)
    cases = [
        ("dark_knowledge", "wrong", "mass-False", 1, "gold=yes&teacher=maybe"),
        ("calibration", "copies", "copies", 2, "gold="),
        ("calibration", "entropy", "entropy-kd", 65, "student_entropy="),
        ("calibration", "map", "map-st-kd-s0", 3, "split=train&ex="),
        ("loss_lab", "all", "gradients", 4, "ex="),
    ]
    for page, view, key, customdata, expected in cases:
        turn_to(app, page, toy.run.path, task="tri", view=view)
        before = links(app)
        if key == "gradients":
            customdata = int(numbers(charts(app)[1]["data"][1]["customdata"])[customdata])
        select(app, key, points=[{"customdata": customdata}])
        assert len(links(app)) == len(before) + 1, view
        assert any(expected in link.proto.query_string for link in links(app)), (view, queries(app))
