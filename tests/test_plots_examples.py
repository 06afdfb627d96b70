"""One example and what moves it: cards, maps, gradients, what-if. What is drawn, what a click says, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_plots import ALPHAS, FIGURES, LABELS, TEMPERATURES, World, named, tempered

import core.plots as plots
from core.plots.style import ROLES, alt_text
from core.views.gradients import loss_grid

WORLD = World(200)


# ---- cards -----------------------------------------------------------------------------------------------------------
def test_card_draws_each_role_in_its_look() -> None:
    fig = FIGURES["distribution_card"]()
    for role in ("truth", "humans", "member", "teacher", "hard"):
        look = ROLES[role]  # type: ignore[index]
        trace = named(fig, look.name)
        assert (trace.marker.symbol, trace.marker.color) == (look.symbol, look.colour)
        assert trace.showlegend
    assert named(fig, ROLES["teacher"].name).marker.line.width > 2  # or the tick is invisible
    seeds, mean = [trace for trace in fig.data if trace.name == ROLES["student"].name]
    assert (len(seeds.x), len(mean.x)) == (15, 3)
    assert (seeds.showlegend, mean.showlegend) == (False, True)
    assert seeds.marker.size < mean.marker.size
    np.testing.assert_allclose(mean.x, WORLD.student[:5].mean(axis=0), rtol=1e-6)


def test_card_marks_gold_and_leads_from_teacher_to_student() -> None:
    fig = FIGURES["distribution_card"]()
    ticks = fig.layout.yaxis.ticktext
    assert ["✓" in tick for tick in ticks] == [False, True, False]
    assert ROLES["gold"].colour in ticks[1]
    assert any(
        shape.fillcolor == ROLES["gold"].colour and (shape.y0, shape.y1) == (0.5, 1.5) for shape in fig.layout.shapes
    )
    guide = named(fig, "teacher to student")
    assert guide.line.dash == "dot"
    np.testing.assert_allclose(guide.x[::3], WORLD.teacher[0], rtol=1e-6)
    np.testing.assert_allclose(guide.x[1::3], WORLD.student[:5].mean(axis=0), rtol=1e-6)
    assert "gold is <b>" in alt_text(fig)  # plain text: no escaping there


def test_two_classes_have_one_row() -> None:
    fig = plots.distribution_card(["no", "yes"], teacher_C=[0.3, 0.7], student_SC=[0.4, 0.6], gold_index=0)
    np.testing.assert_allclose(named(fig, ROLES["teacher"].name).x, [0.7], rtol=1e-6)
    assert "“yes”" in fig.layout.xaxis.title.text
    first, *_, last = fig.layout.xaxis.ticktext
    assert ("✓ no" in first, "✓" in last) == (True, False)


def test_labels_that_look_like_numbers_stay_labels() -> None:
    fig = plots.distribution_card(["0", "1", "1"], teacher_C=[0.1, 0.2, 0.7])
    assert fig.layout.yaxis.ticktext == ("0", "1", "1")
    np.testing.assert_array_equal(fig.layout.yaxis.tickvals, [0, 1, 2])


def test_value_card_has_the_range_and_what_lies_outside() -> None:
    fig = plots.value_card(value_range=(0, 5), members_M=[1, 6], teacher=3.5, truth_mean=3, truth_std=0.5, gold=2.0)
    low, high = fig.layout.xaxis.range
    assert low < 0
    assert high > 6
    assert list(named(fig, ROLES["truth"].name).error_x.array) == [0.5]
    assert any(shape.x0 == shape.x1 == 2.0 for shape in fig.layout.shapes)
    assert "gold 2.00" in alt_text(fig)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher_C": [0.5, 0.5]}, "has 2 probabilities, expected 3"),
        ({}, "no probabilities"),
        ({"teacher_C": [0.2, 0.3, 0.5], "gold_index": 3}, r"expected 0\.\.2"),
        ({"members_MC": WORLD.members[:, 0], "member_names": ["a"]}, "expected 6"),
        ({"teacher_C": [np.nan] * 3}, "none of them is a number"),
    ],
)
def test_card_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.distribution_card(LABELS, **arguments)


def test_value_card_refuses() -> None:
    with pytest.raises(ValueError, match="no values"):
        plots.value_card(value_range=(0, 5))
    with pytest.raises(ValueError, match="low < high"):
        plots.value_card(value_range=(5, 5), teacher=1)
    with pytest.raises(ValueError, match="value_card"):
        plots.distribution_card(["one"], teacher_C=[1.0])


# ---- maps ------------------------------------------------------------------------------------------------------------
def test_simplex_draws_arrows_up_to_its_limit() -> None:
    ids = np.arange(200) + 7
    fig = plots.simplex_map(WORLD.teacher, WORLD.student, LABELS, ids)
    lines, teacher, student = fig.data
    assert len(lines.a) == 3 * 200
    assert np.isnan(lines.a[2::3]).all()
    assert (teacher.marker.symbol, student.marker.symbol) == ("circle-open", "diamond")
    assert (teacher.marker.color, student.marker.color) == (ROLES["teacher"].colour, ROLES["student"].colour)
    np.testing.assert_array_equal(student.customdata, ids)
    np.testing.assert_allclose(teacher.a + teacher.b + teacher.c, 1, rtol=1e-5)


def test_simplex_shows_cells_beyond_it() -> None:
    world = World(2000)
    fig = plots.simplex_map(world.teacher, world.student, LABELS)
    cells, counts = np.unique(plots.hex_cells_N(world.teacher), return_counts=True)
    assert 60 < len(cells) < plots.MAX_ARROWS
    _, teacher, student = fig.data
    np.testing.assert_array_equal(teacher.customdata, cells)
    biggest = counts.argmax()
    inside = plots.hex_cells_N(world.teacher) == cells[biggest]
    np.testing.assert_allclose(teacher.b[biggest], world.teacher[inside, 1].mean(), rtol=1e-5)
    np.testing.assert_allclose(student.c[biggest], world.student[inside, 2].mean(), rtol=1e-5)
    assert teacher.marker.size[biggest] == max(teacher.marker.size)


def test_hexagons_are_small_and_hold_their_number() -> None:
    probs = World(5000).teacher
    cells = plots.hex_cells_N(probs)
    assert cells.dtype == np.int32
    assert (cells >= 0).all()
    x, y = probs[:, 2] + probs[:, 0] / 2, probs[:, 0] * np.sqrt(0.75)
    for cell in np.unique(cells):
        inside = cells == cell
        # The distance of two opposite corners of a hexagon whose neighbours are 1/12 apart.
        assert np.hypot(np.ptp(x[inside]), np.ptp(y[inside])) <= 2 / np.sqrt(3) / 12 * 1.42
    np.testing.assert_array_equal(plots.hex_cells_N(probs[:10]), cells[:10])
    assert plots.hex_cells_N([[np.nan, 0, 1], [0, 0, 1]])[0] == -1
    corners = plots.hex_cells_N(np.eye(3))
    assert len(set(corners.tolist())) == 3


def test_dumbbell_sorts_by_the_teacher() -> None:
    fig = plots.dumbbell([0.9, 0.1, 0.5], [0.8, 0.2, 1.0], ["no", "yes"], ids=[10, 11, 12])
    teacher = named(fig, ROLES["teacher"].name)
    assert teacher.marker.symbol == "line-ns"
    np.testing.assert_array_equal(teacher.customdata, [11, 12, 10])
    np.testing.assert_allclose(teacher.x, np.log([1 / 9, 1, 9]), rtol=1e-5, atol=1e-7)
    assert named(fig, ROLES["student"].name).x[1] == 7  # a probability of 1 stands at the edge
    assert "higher" in alt_text(fig)


def test_many_dumbbells_are_averaged() -> None:
    fig = plots.dumbbell(World(1000).share, World(1000).share, ["no", "yes"])
    assert len(named(fig, ROLES["teacher"].name).x) == 60
    assert "60 stretches" in fig.layout.title.text


def test_maps_refuse_other_numbers_of_classes() -> None:
    with pytest.raises(ValueError, match="dumbbell"):
        plots.simplex_map(WORLD.teacher[:, :2], WORLD.student[:, :2], ["a", "b"])
    with pytest.raises(ValueError, match="simplex_map"):
        plots.dumbbell(WORLD.share, WORLD.share, LABELS)
    with pytest.raises(ValueError, match="teacher has 200, student has 3"):
        plots.dumbbell(WORLD.share, WORLD.share[:3], ["a", "b"])


# ---- gradients -------------------------------------------------------------------------------------------------------
def test_gradients_are_coloured_by_their_cosine() -> None:
    cosine = WORLD.cosine.copy()
    cosine[5] = np.nan
    points = plots.gradient_scatter(WORLD.x, WORLD.y, cosine, ids=np.arange(200) + 3).data[1]
    assert points.type == "scattergl"
    assert (points.marker.cmin, points.marker.cmax) == (-1, 1)
    assert set(points.customdata.tolist()) == set(range(3, 203)) - {8}
    np.testing.assert_allclose(points.marker.color, np.delete(cosine, 5), rtol=1e-5)


def test_cosine_histogram_counts_all() -> None:
    bars = plots.cosine_histogram([-1.0, -0.99, 0.0, 1.0000001, np.nan]).data[0]
    assert bars.y[0] == 50
    assert bars.y[-1] == 25
    assert sum(bars.y) == pytest.approx(100)
    with pytest.raises(ValueError, match="none of them is a number"):
        plots.cosine_histogram([np.nan])


def test_decomposition_is_shares() -> None:
    gold, others = plots.decomposition_bar([3.0, 0.0], [1.0, 0.0], ["easy", "none"]).data
    np.testing.assert_allclose(gold.x, [75, np.nan])
    np.testing.assert_allclose(others.x, [25, np.nan])
    assert others.marker.pattern.shape == "/"
    with pytest.raises(ValueError, match="negative"):
        plots.decomposition_bar([-1.0], [1.0], ["a"])
    with pytest.raises(ValueError, match="one name each"):
        plots.decomposition_bar([1.0], [1.0], ["a", "b"])


# ---- what if, grids --------------------------------------------------------------------------------------------------
def test_what_if_has_a_frame_a_point_and_starts_at_the_paper() -> None:
    fig = FIGURES["what_if_card"]()
    assert len(fig.frames) == len(ALPHAS) * len(TEMPERATURES)
    alpha, temperature = fig.layout.sliders
    assert (ALPHAS[alpha.active], TEMPERATURES[temperature.active]) == (0.5, 1.0)
    assert "the paper" in fig.layout.title.text
    frames = {frame.name: frame for frame in fig.frames}
    for k in range(len(TEMPERATURES)):
        new_steps = temperature.steps[k].args[1]["sliders[0].steps"]
        for a, step in enumerate(new_steps):
            assert step["args"][0] == [f"{k},{a}"]
            assert step["args"][0][0] in frames
    assert [step.args[0][0] for step in alpha.steps] == [f"0,{a}" for a in range(len(ALPHAS))]


def test_what_if_says_the_loss() -> None:
    """Against core/views, whose grid is what the app hands over."""
    student, teacher = np.log(WORLD.student[0]), np.log(WORLD.teacher[0])
    grid = loss_grid(student, teacher, 1, alphas=tuple(ALPHAS), temperatures=tuple(TEMPERATURES))
    fig = plots.what_if_card(
        LABELS,
        alphas_A=grid.alphas,
        temperatures_K=grid.temperatures,
        teacher_KC=tempered(WORLD.teacher[0]),
        student_KC=tempered(WORLD.student[0]),
        hard=grid.hard,
        soft_K=grid.soft,
        gold_index=1,
    )
    for frame in fig.frames:
        k, a = map(int, frame.name.split(","))
        assert f"<b>{grid.total[a, k]:.3f}</b>" in frame.layout.title.text
        target = frame.data[0].x
        assert sum(target) == pytest.approx(1)
        np.testing.assert_allclose(target[0], ALPHAS[a] * tempered(WORLD.teacher[0])[k, 0], rtol=1e-5)


def test_what_if_refuses() -> None:
    good: dict[str, Any] = {
        "alphas_A": ALPHAS,
        "temperatures_K": TEMPERATURES,
        "teacher_KC": tempered(WORLD.teacher[0]),
        "student_KC": tempered(WORLD.student[0]),
        "hard": 0.5,
        "soft_K": [0.1, 0.2, 0.3],
        "gold_index": 1,
    }
    assert len(plots.what_if_card(LABELS, **good | {"alphas_A": [0.5]}).frames) == 3
    with pytest.raises(ValueError, match="one row a temperature"):
        plots.what_if_card(LABELS, **good | {"soft_K": [0.1]})
    with pytest.raises(ValueError, match="gold_index"):
        plots.what_if_card(LABELS, **good | {"gold_index": 3})
    one = {"temperatures_K": [1.0], "teacher_KC": [[0.2, 0.3, 0.5]], "student_KC": [[0.2, 0.3, 0.5]], "soft_K": [0.1]}
    assert len(plots.what_if_card(LABELS, **good | one).layout.sliders) == 1


def test_alpha_map_is_clickable_and_marks_the_paper() -> None:
    values = np.outer(ALPHAS, TEMPERATURES)
    fig = plots.alpha_temperature_map(
        ALPHAS, TEMPERATURES, values, "share", stars=[(0.5, 2, 51.0, "a"), (0.25, 4, np.nan, "b")]
    )
    heatmap, clicks = fig.data[:2]
    np.testing.assert_allclose(heatmap.z, values.T, rtol=1e-6)
    np.testing.assert_array_equal(clicks.customdata, np.arange(values.size))
    a, k = divmod(7, len(TEMPERATURES))
    assert (clicks.x[7], clicks.y[7]) == (ALPHAS[a], np.log2(TEMPERATURES[k]))
    assert f"{values[a, k]:.3f}" in clicks.text[7]
    paper = named(fig, "the paper's point")
    assert (paper.x[0], paper.y[0]) == (0.5, 0.0)
    stars = named(fig, "trained run")
    assert stars.marker.symbol == "star"
    np.testing.assert_array_equal(stars.marker.color, [51.0, np.nan])
    assert stars.text == ("<b>51.0</b>", "")
    assert "only stars are trainings" in fig.layout.title.text
    assert "0.500 at the paper's point" in alt_text(fig)


def test_alpha_map_refuses() -> None:
    with pytest.raises(ValueError, match="a row for each alpha"):
        plots.alpha_temperature_map(ALPHAS, TEMPERATURES, np.ones((3, 5)), "x")
    with pytest.raises(ValueError, match="positive"):
        plots.alpha_temperature_map([0.5], [0.0], [[1.0]], "x")


def test_sweep_has_a_line_a_temperature_and_a_panel_a_metric() -> None:
    rows = [
        (a, t, 10 * a + t, 10 * a + t - 1, 10 * a + t + 1, m)
        for m in ("score", "kl")
        for t in (2.0, 1.0)
        for a in (0.9, 0.5)
    ]
    fig = plots.sweep_figure(rows)
    lines = [trace for trace in fig.data if trace.mode == "lines+markers"]
    assert [line.name for line in lines] == ["T = 1", "T = 1", "T = 2", "T = 2"]
    assert [line.showlegend for line in lines] == [True, False, True, False]
    assert lines[0].marker.symbol == ROLES["student"].symbol
    assert lines[0].marker.symbol != lines[2].marker.symbol
    np.testing.assert_array_equal(lines[0].customdata, [3, 2])  # positions in rows, by alpha
    np.testing.assert_allclose(lines[0].y, [6, 10])
    np.testing.assert_allclose(lines[0].error_y.array, 1)
    assert [fig.layout.yaxis.title.text, fig.layout.yaxis2.title.text] == ["score", "kl"]
    assert len([trace for trace in fig.data if trace.name == "the paper's point"]) == 2
    with pytest.raises(ValueError, match="no finished run"):
        plots.sweep_figure([])
    with pytest.raises(ValueError, match="at most three"):
        plots.sweep_figure([(0.5, 1.0, 1.0, 0.0, 2.0, m) for m in "abcd"])
