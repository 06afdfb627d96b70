"""Explore and example, in detail: every widget writes the URL, the URL alone says what is shown, and clicks lead on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished
from looking import charts, look, opened, select, sound, words
from streamlit.testing.v1 import AppTest
from test_app import toys
from test_views_toy import Toy, table_of

from core.store import write_json
from core.views.derived import column
from core.views.filters import Filter, apply


# ---- explore -------------------------------------------------------------------------------------------------------
def exploring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **query: str) -> tuple[Toy, AppTest]:
    toy = toys(tmp_path)
    given = {"run": "toy", "task": "tri", "split": "test"} | query
    return toy, opened(tmp_path / "runs", monkeypatch, "explore", **given)


def test_filters_write_the_url_and_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy, app = exploring(tmp_path, monkeypatch)
    table = table_of(toy)
    app.text_input(key="filter-text").set_value("SOUP").run()
    app.selectbox(key="filter-gold").select("maybe").run()
    app.slider(key="filter-kl").set_range(0.2, app.slider(key="filter-kl").max).run()
    expected = apply(Filter(split="test", text="SOUP", gold="maybe").with_range("kl", 0.2), table)
    assert 0 < len(expected) < 40
    assert (app.query_params["text"], app.query_params["gold"], app.query_params["kl"]) == ("SOUP", "maybe", "0.2:")
    assert f"**{len(expected):,}** of 120 examples" in words(sound(app))
    order = np.argsort(-column(table, "kl")[expected], kind="stable")
    shown = app.dataframe[0].value
    assert ["tri/" + one for one in shown["example"]] == [table.ids[int(expected[i])].as_py() for i in order][:25]
    again = opened(tmp_path / "runs", monkeypatch, "explore", **{k: app.query_params[k] for k in app.query_params})
    assert f"**{len(expected):,}** of 120 examples" in words(again)
    next(button for button in app.button if button.label == "Clear filters").click().run()
    assert "**120** of 120" in words(sound(app))
    assert not {"text", "gold", "kl"} & set(app.query_params)


def test_counts_beside_a_facet_are_those_of_choosing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy, app = exploring(tmp_path, monkeypatch, cohort="taught", gold="yes")
    table = table_of(toy)
    for option in app.selectbox(key="filter-gold").options:
        label, n = option.split(" · ")
        assert int(n) == len(apply(Filter(gold=label, cohort="taught"), table))


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"gold": "nope"}, "gold 'nope' is not known"),
        ({"coohrt": "kept"}, "unknown key 'coohrt'"),
        ({"kl": "five"}, "is no range"),
        ({"gap": "0:1"}, "has no such column"),
        ({"student_is": "nobody"}, "'nobody' is not known"),
        ({"id": "tri/test/99999"}, "no example 'tri/test/99999'"),
    ],
)
def test_links_that_are_not_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: dict[str, str], said: str
) -> None:
    _, app = exploring(tmp_path, monkeypatch, **query)
    assert said in words(app)
    assert not app.dataframe


def test_no_row_after_the_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, app = exploring(tmp_path, monkeypatch, text="no such words")
    assert "No example passes this filter" in words(app)
    assert any(button.label == "Clear filters" for button in app.button)
    look(app, "example", run="toy", task="tri", split="test", text="no such words")
    assert "No example passes this filter" in words(app)


def test_pages_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy, app = exploring(tmp_path, monkeypatch, order="file")
    ids = [table_of(toy).ids[i].as_py().removeprefix("tri/") for i in range(120)]
    assert list(app.dataframe[0].value["example"]) == ids[:25]
    app.get("pagination")[0].select(5).run()
    assert list(sound(app).dataframe[0].value["example"]) == ids[100:]
    assert app.query_params["page"] == "5"
    look(app, "explore", run="toy", task="tri", split="test", order="file", rows="50", page="99")
    assert list(app.dataframe[0].value["example"]) == ids[100:]  # beyond the last is the last
    look(app, "explore", run="toy", task="tri", split="test", order="file", page="-1")
    assert list(app.dataframe[0].value["example"]) == ids[:25]


def test_a_rectangle_filters_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy, app = exploring(tmp_path, monkeypatch, mouse="select")
    select(app, "density-", box=[{"xref": "x", "yref": "y", "x": [0.6, 1.0], "y": [0.1, 1.2]}])
    expected = apply(Filter().with_range("entropy", 0.6, 1.0).with_range("kl", 0.1, 1.2), table_of(toy))
    assert f"**{len(expected):,}** of 120 examples" in words(sound(app))
    assert app.query_params["entropy"] == "0.6:1.0"
    rectangles = [shape for shape in charts(app)[0]["layout"]["shapes"] if shape["type"] == "rect"]
    assert (rectangles[0]["x0"], rectangles[0]["y1"]) == (0.6, 1.2)


def test_a_row_and_a_point_open_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy, app = exploring(tmp_path, monkeypatch, order="file", text="soup")
    table = table_of(toy)
    rows = apply(Filter(text="soup"), table)
    select(app, "examples-", rows=[3])
    assert app.title[0].value == "Example"
    assert app.query_params["ex"] == table.ids[int(rows[3])].as_py()
    assert app.query_params["text"] == "soup"
    _, app = exploring(tmp_path, monkeypatch)
    select(app, "density-", points=[{"customdata": 7}])
    assert app.query_params["ex"] == table.ids[7].as_py()


# ---- example -------------------------------------------------------------------------------------------------------
def test_next_previous_and_pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = toys(tmp_path)
    table = table_of(toy)
    rows = apply(Filter(gold="yes"), table)
    query = {"run": "toy", "task": "tri", "split": "test", "gold": "yes", "order": "file"}
    app = opened(tmp_path / "runs", monkeypatch, "example", **query)
    ids = [table.ids[int(row)].as_py() for row in rows]

    def press(label: str) -> None:
        next(button for button in app.button if button.label == label).click().run()
        sound(app)

    assert f"**1** of {len(ids)} in: split test, gold is yes" in words(app)
    assert next(button for button in app.button if button.label == "Previous").disabled
    press("Next")
    press("Next")
    press("Previous")
    assert app.query_params["ex"] == ids[1]
    press("Pin to compare")
    assert app.query_params["pin"] == ids[1]
    press("Next")
    assert ids[1] in words(app)
    assert ids[2] in words(app)
    assert len(charts(app)) == 2
    press("Unpin")
    assert "pin" not in app.query_params
    assert len(charts(app)) == 1
    look(app, "example", **query, ex=ids[-1])
    assert next(button for button in app.button if button.label == "Next").disabled
    outside = table.ids[int(np.setdiff1d(np.arange(len(table)), rows)[0])].as_py()
    look(app, "example", **query, ex=outside)  # exactly this example, though it is not in the filter
    assert outside in words(app)
    assert "not among: split test, gold is yes" in words(app)


def test_unknown_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = toys(tmp_path)
    app = opened(tmp_path / "runs", monkeypatch, "example", run="toy", task="tri", split="test", ex="tri/test/none")
    assert "No such example here" in words(app)
    assert not charts(app)
    elsewhere = table_of(toy, split="train").ids[0].as_py()
    look(app, "example", run="toy", task="tri", split="test", ex=elsewhere)
    assert "it is in split 'train'" in words(app)
    look(app, "example", run="toy", task="tri", split="test", pin="gone")
    assert "The pinned example is not here" in words(app)
    assert charts(app)


def test_the_numbers_of_an_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = toys(tmp_path)
    table = table_of(toy)
    row = int(np.flatnonzero(table.gold_N >= 0)[0])
    app = opened(
        tmp_path / "runs", monkeypatch, "example", run="toy", task="tri", split="test", ex=table.ids[row].as_py()
    )
    shown = {metric.label: metric.value for metric in app.metric}
    assert shown["KL(teacher, student)"] == f"{column(table, 'kl')[row]:.3f}"
    gold = int(table.gold_N[row])
    assert float(shown["Gold's loss"]) == pytest.approx(-0.5 * table.log_probs("kd")[row, gold], abs=1e-3)
    pulls = app.dataframe[0].value
    total = pulls["pull of gold"] + pulls["pull of teachers"]
    assert np.allclose(total, pulls["sum"], atol=1e-6)
    assert np.allclose(pulls[["pull of gold", "pull of teachers"]].sum(), 0, atol=1e-6)  # a gradient of a softmax


def test_another_student_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = toys(tmp_path, variants=("hard", "kd", "dkpp"))
    for task in ("tri", "score"):
        query = {"run": toy.run.path.name, "task": task, "split": "test", "student_is": "dkpp"}
        card = charts(opened(tmp_path / "runs", monkeypatch, "example", **query))[0]
        names = [trace.get("name") for trace in card["data"]]
        assert "student, dkpp" in names
        assert "student, KD" not in json.dumps(card)


def test_the_legend_calls_teachers_teachers(smoke: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands behind the teachers' mean: teachers, and members on a task that has no teachers of its own."""
    for task, expected in (("nli", "teachers"), ("acceptability", "members")):
        card = charts(opened(smoke.run.path.parent, monkeypatch, "example", run="smoke", task=task, split="test"))[0]
        names = {trace.get("name") for trace in card["data"]}
        assert names & {"teachers", "members"} == {expected}
        assert "teachers' mean" in names


def test_an_imported_run_does_not_know_its_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = toys(tmp_path)
    manifest = toy.run.manifest()
    roles = dict.fromkeys(toy.run.models(), "teacher") | {"st-kd-s0": "student:kd:0", "ens-mean_probs": "ensemble"}
    del manifest["config"]
    write_json(toy.run.path / "run.json", {**manifest, "imported": True, "models": roles})
    app = opened(tmp_path / "runs", monkeypatch, "example", run="toy", task="tri", split="test")
    assert "The predictions of this run were imported" in words(app)
    assert "gold alone teaches" not in words(app)
