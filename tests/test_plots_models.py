"""Models against each other: ledger, comparisons, matrices, ensembles, reliability."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_plots import INTERVALS, LABELS, World, named

import core.plots as plots
from core.plots.style import GAIN, ROLES, alt_text
from core.views.derived import COHORTS as COHORTS_OF_VIEWS

WORLD = World(200)


# ---- ledger and comparisons ------------------------------------------------------------------------------------------
def test_cohorts_are_those_of_the_views() -> None:
    assert tuple(cohort.name for cohort in plots.COHORTS) == COHORTS_OF_VIEWS
    outcomes = {(cohort.teacher, cohort.hard, cohort.student) for cohort in plots.COHORTS}
    assert len(outcomes) == 8
    assert len({(cohort.colour, cohort.pattern) for cohort in plots.COHORTS}) == 8


def test_ledger_segments_carry_their_cohort() -> None:
    counts = dict(zip(COHORTS_OF_VIEWS, (10, 40, 5, 2, 6, 3, 4, 30), strict=True))
    fig = plots.flip_ledger([plots.LedgerRow("seed 0", counts, 0.02, 0.2), ("seed 1", list(counts.values()))])
    bars = [trace for trace in fig.data if trace.type == "bar"]
    assert [bar.name for bar in bars] == list(COHORTS_OF_VIEWS)
    assert fig.layout.barmode == "stack"
    for k, bar in enumerate(bars):
        np.testing.assert_array_equal(bar.customdata, [k, k])
    np.testing.assert_allclose(sum(bar.x for bar in bars), 100, rtol=1e-6)
    net = named(fig, "net gain")
    np.testing.assert_allclose(net.x, 7.0)  # 10 + 3 - 2 - 4 of 100
    assert net.marker.symbol == ("circle", "circle-open")  # the second interval is not known
    assert net.marker.color[0] == GAIN
    np.testing.assert_allclose([net.error_x.array[0], net.error_x.arrayminus[0]], [13, 5])


@pytest.mark.parametrize("counts", [[1, 2], [0] * 8, [-1, 1, 1, 1, 1, 1, 1, 1], {"gained": 3}])
def test_ledger_refuses(counts: Any) -> None:
    with pytest.raises(ValueError, match="seed 0"):
        plots.flip_ledger([("seed 0", counts)])
    with pytest.raises(ValueError, match="no row"):
        plots.flip_ledger([])


def test_significance_is_filled() -> None:
    fig = plots.points_and_intervals(INTERVALS, metric="difference", zero_line=True, roles={"kd": "student"})
    student, control = fig.data
    assert student.marker.symbol == ("diamond", "diamond-open")  # 1..3 is clear of 0, -0.5..1.5 is not
    assert student.marker.color == ROLES["student"].colour
    assert control.marker.symbol[0] == control.marker.symbol[1].removesuffix(
        "-open"
    )  # below 0 is a finding, one seed none
    np.testing.assert_array_equal(control.customdata, [1, 3])
    assert "one seed" in control.text[1]
    assert any(shape.x0 == shape.x1 == 0 for shape in fig.layout.shapes)
    assert "open: no difference" in fig.layout.title.text
    assert "+0.5 (no difference)" in alt_text(fig)
    plain = plots.points_and_intervals(INTERVALS, metric="score", roles={"kd": "student"})
    assert plain.data[0].marker.symbol == ("diamond", "diamond")
    assert not any(shape.x0 == shape.x1 == 0 for shape in plain.layout.shapes)


def test_series_of_a_group_stand_beside_each_other() -> None:
    fig = plots.points_and_intervals(INTERVALS, metric="score")
    heights = np.concatenate([trace.y for trace in fig.data])
    assert len(set(heights.tolist())) == 4
    assert set(np.round(heights)) == {0.0, 1.0}
    assert fig.layout.yaxis.range == (1.5, -0.5)


def test_comparisons_refuse() -> None:
    with pytest.raises(ValueError, match="no rows"):
        plots.points_and_intervals([], metric="score")
    with pytest.raises(ValueError, match="unknown roles"):
        plots.points_and_intervals(INTERVALS, metric="score", roles={"kd": "pupil"})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="no row has a mean"):
        plots.error_copying([("a", "b", np.nan, np.nan, np.nan, 0)])


def test_error_copying_is_in_percent() -> None:
    bars = plots.error_copying([("nli", "kd", 0.7, 0.6, 0.85, 90)], roles={"kd": "student"}).data[0]
    np.testing.assert_allclose([bars.x[0], bars.error_x.array[0], bars.error_x.arrayminus[0]], [70, 15, 10])
    assert bars.marker.color == ROLES["student"].colour
    assert "n = 90" in bars.text[0]


# ---- matrices --------------------------------------------------------------------------------------------------------
def test_class_mass_numbers_and_clicks() -> None:
    matrix = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    fig = plots.class_mass_map(matrix, LABELS, [10, 0, 5])
    heatmap, clicks = fig.data
    assert heatmap.texttemplate == "%{z:.2f}"
    assert np.isnan(heatmap.z[1]).all()  # nobody is of that class
    np.testing.assert_array_equal(clicks.customdata, np.arange(9))
    assert (clicks.x[2], clicks.y[2]) == (2, 0)
    assert fig.layout.hoverdistance == -1
    assert "(10)" in fig.layout.yaxis.ticktext[0]
    assert "0.30, from entailment to contradiction" in alt_text(fig)
    with pytest.raises(ValueError, match="expected 3 classes"):
        plots.class_mass_map(matrix[:2, :2], LABELS, [1, 1, 1])


def test_agreement_scale_begins_at_the_smallest() -> None:
    matrix = np.array([[1, 0.7], [0.7, 1]])
    heatmap = plots.agreement_matrix(matrix, ["a", "b"]).data[0]
    assert (heatmap.zmin, heatmap.zmax) == (70, 100)
    many = plots.agreement_matrix(np.ones((20, 20)), [str(i) for i in range(20)]).data[0]
    assert many.texttemplate is None  # no room
    with pytest.raises(ValueError, match="at least two"):
        plots.agreement_matrix([[1.0]], ["a"])


def test_runner_up_says_r_in_words() -> None:
    fig = plots.runner_up_transfer(WORLD.share, WORLD.share, 0.71, hard_N=WORLD.share, hard_r=0.05)
    assert len([trace for trace in fig.data if trace.type == "heatmap"]) == 2
    assert "r = 0.71: strong" in fig.layout.xaxis.title.text
    assert "r = 0.05: none" in fig.layout.xaxis2.title.text
    assert ROLES["hard"].colour in fig.layout.xaxis2.title.text
    with pytest.raises(ValueError, match="no runner-up"):
        plots.runner_up_transfer(WORLD.share, WORLD.share, 1.0, n_classes=2)


# ---- ensembles -------------------------------------------------------------------------------------------------------
def test_entropy_split_is_sorted_and_binned() -> None:
    world = World(5000)
    shared, disagreement = plots.entropy_split(world.x, world.y).data
    assert len(shared.x) == len(disagreement.y) == 400
    assert (np.diff(disagreement.y) >= 0).all()
    assert shared.stackgroup == disagreement.stackgroup
    assert shared.line.color == ROLES["member"].colour
    # Stretches of 12 and 13 examples: the mean of their means is not quite the mean of all.
    assert disagreement.y.mean() == pytest.approx(world.y.mean(), rel=0.01)


def test_size_curve_is_the_mean_over_subsets() -> None:
    fig = plots.size_curve([(1, "a", 46), (1, "b", 48), (2, "a+b", 50)], metric="score", student=49)
    subsets, mean = named(fig, "one subset"), named(fig, "mean over subsets")
    np.testing.assert_array_equal(mean.y, [47, 50])
    assert subsets.marker.symbol == "circle-open"
    assert set(np.round(subsets.x)) == {1, 2}
    assert len(set(subsets.x.tolist())) == 3
    assert named(fig, ROLES["student"].name).line.color == ROLES["student"].colour


def test_rankings_fill_the_chosen() -> None:
    fig = plots.selection_ranking(
        [("mt-1", 0.5, 0.4, 0.6, False), ("mt-2", 0.6, 0.5, 0.7, True), ("mt-3", np.nan, 0, 1, False)], metric="score"
    )
    points = fig.data[0]
    assert points.marker.symbol == ("circle", "circle-open", "circle-open")
    np.testing.assert_array_equal(points.customdata, [1, 0, 2])
    assert fig.layout.yaxis.ticktext == ("mt-2 ✓", "mt-1", "mt-3")
    assert "chosen: mt-2" in alt_text(fig)
    ways = plots.strategies(
        [("all", "mean", 51, 50, 52, 5), ("all", "vote", 52, 51, 53, 5)], metric="score", chosen="mean"
    )
    assert ways.data[0].marker.symbol == ("circle-open", "circle")
    assert ways.layout.yaxis.ticktext == ("vote", "mean")


def test_members_and_the_student() -> None:
    bars = plots.closest_member([3, 1], ["a", "b"]).data[0]
    np.testing.assert_array_equal(bars.y, [75, 25])
    assert bars.marker.color == ROLES["member"].colour
    parts = plots.leave_one_out(["a", "b"], stayed_M=[5, 0], followed_M=[1, 0], neither_M=[0, 2]).data
    assert [part.marker.color for part in parts[:2]] == [ROLES["teacher"].colour, ROLES["student"].colour]
    np.testing.assert_array_equal(parts[0].x, [5, 0])


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.closest_member([0, 0], ["a", "b"]), "not all zero"),
        (lambda: plots.size_curve([], metric="score"), "no subset"),
        (lambda: plots.strategies([], metric="score"), "no strategy"),
        (lambda: plots.selection_ranking([], metric="score"), "stage 'select'"),
        (lambda: plots.leave_one_out(["a"], stayed_M=[1, 2], followed_M=[1, 2], neither_M=[0, 0]), "expected one each"),
    ],
)
def test_ensembles_refuse(draw: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()
