"""Many examples, and the way there: reliability, densities, data maps, epochs, losses, times, counts, lengths."""

from __future__ import annotations

import numpy as np
import pytest
from test_plots import CURVE, World

import core.plots as plots
from core.plots.style import ROLES, alt_text

WORLD = World(200)


# ---- calibration, densities ------------------------------------------------------------------------------------------
def test_reliability_panels() -> None:
    fig = plots.reliability(
        [
            CURVE._replace(name="mt-1", role="member"),
            CURVE._replace(name="mt-2", role="member"),
            CURVE._replace(name="mean", role="teacher"),
            CURVE._replace(name="scaled", dashed=True, shown=False, ece=float("nan")),
        ]
    )
    members = [trace for trace in fig.data if trace.name == "members"]
    assert [trace.showlegend for trace in members] == [True, False]
    assert all(trace.error_y.array is None for trace in members)
    curve, counts = [trace for trace in fig.data if trace.name.startswith("mean")]
    assert curve.name == "mean · ECE 7.0 % [5.0, 10.0]"
    np.testing.assert_allclose(curve.error_y.arrayminus, [0.05, 0.1])
    np.testing.assert_array_equal(counts.y, [9, 9])  # the empty bin is left out
    np.testing.assert_array_equal(counts.customdata, [0, 1])
    assert (curve.legendgroup, curve.marker.symbol) == (counts.legendgroup, "circle")  # an upright tick is an error bar
    scaled = [trace for trace in fig.data if trace.name == "scaled"]
    assert [trace.visible for trace in scaled] == ["legendonly"] * 2
    assert scaled[0].line.dash == "dot"
    assert fig.layout.xaxis.matches == "x2"
    with pytest.raises(ValueError, match="no model"):
        plots.reliability([])
    with pytest.raises(ValueError, match="expected one of"):
        plots.reliability([CURVE._replace(role="pupil")])  # type: ignore[arg-type]


def test_entropy_squares_hold_every_example() -> None:
    teacher, student = WORLD.entropy(WORLD.teacher), WORLD.entropy(WORLD.student)
    fig = plots.entropy_transfer(teacher, student, 3)
    clicks = fig.data[1]
    assert clicks.marker.symbol == "square"
    assert clicks.marker.opacity < 0.05
    assert clicks.marker.color.sum() == 200
    cell = int(clicks.customdata[clicks.marker.color.argmax()])
    x_low, x_high, y_low, y_high = plots.cell_ranges(cell, n_classes=3)
    inside = (teacher >= x_low) & (teacher <= x_high) & (student >= y_low) & (student <= y_high)
    assert inside.sum() == clicks.marker.color.max()
    assert "student sure, teachers unsure" in " ".join(note.text for note in fig.layout.annotations)
    low, high = fig.layout.yaxis.range
    assert all(note.y < 0 or note.y > np.log(3) for note in fig.layout.annotations)  # beside the data
    assert all(low < note.y < high for note in fig.layout.annotations)


def test_densities_refuse() -> None:
    with pytest.raises(ValueError, match="exceeds log 2"):
        plots.entropy_transfer([1.0], [0.1], 2)
    with pytest.raises(ValueError, match="at least 2"):
        plots.entropy_transfer([0.1], [0.1], 1)
    with pytest.raises(ValueError, match="cell 3600"):
        plots.cell_ranges(3600, n_classes=3)
    with pytest.raises(ValueError, match=r"expected 0\.\.199"):
        plots.density_scatter(WORLD.x, WORLD.y, [200], x_name="x", y_name="y")
    with pytest.raises(ValueError, match="at most 20,000"):
        plots.density_scatter(WORLD.x, WORLD.y, np.zeros(20_001, int), x_name="x", y_name="y")
    with pytest.raises(ValueError, match="no example has both"):
        plots.density_scatter([np.nan, 1.0], [1.0, np.nan], x_name="x", y_name="y")


def test_density_scatter_says_how_many_are_drawn() -> None:
    world = World(50_000)
    fig = plots.density_scatter(world.x, world.y, x_name="x", y_name="y", diagonal=True)
    assert "20,000 of 50,000 drawn" in fig.layout.title.text
    cells, points = fig.data
    assert (10.0 ** cells.z[np.isfinite(cells.z)]).sum() == pytest.approx(50_000, rel=1e-5)
    np.testing.assert_allclose(points.x, world.x[points.customdata], rtol=1e-6)
    assert fig.layout.xaxis.range == fig.layout.yaxis.range
    few = plots.density_scatter(
        world.x, world.y, [5, 7], x_name="x", y_name="y", colour_N=world.cosine, colour_name="c"
    )
    np.testing.assert_array_equal(few.data[1].customdata, [5, 7])
    assert few.data[1].marker.size > points.marker.size


def test_data_map_axes() -> None:
    points = plots.data_map(WORLD.share, WORLD.y, np.round(WORLD.share), ids=np.arange(200) + 1).data[1]
    at = points.customdata - 1
    np.testing.assert_allclose(points.y, WORLD.share[at], rtol=1e-6)
    np.testing.assert_allclose(points.x, WORLD.y[at], rtol=1e-6)
    np.testing.assert_array_equal(points.marker.color, np.round(WORLD.share)[at])


# ---- training, tables ------------------------------------------------------------------------------------------------
def test_epoch_strip_sorts_by_first_match() -> None:
    kl = np.array([[0.5, 0.1, 0.9], [0.4, 0.1, 0.2]])
    fig = plots.epoch_strip(kl, first_match_N=[2, 0, 1], ids=[30, 10, 20], epochs_E=[1, 5])  # 2 epochs: 2 is never
    heatmap, clicks, matches = fig.data
    np.testing.assert_allclose(heatmap.z, kl[:, [1, 2, 0]].T, rtol=1e-6)
    np.testing.assert_array_equal(clicks.customdata, [10, 10, 20, 20, 30, 30])
    np.testing.assert_array_equal(matches.x, [0, 1])
    assert matches.marker.symbol == "diamond"
    assert fig.layout.xaxis.ticktext == ("1", "5")
    assert "33 % never" in alt_text(fig)
    assert len(plots.epoch_strip(kl).data) == 2
    with pytest.raises(ValueError, match="expected one each"):
        plots.epoch_strip(kl, epochs_E=[1])
    with pytest.raises(ValueError, match="one epoch for each of 3"):
        plots.epoch_strip(kl, first_match_N=[1])


def test_seeds_share_a_legend_entry() -> None:
    steps = np.arange(5000)
    fig = plots.loss_curves([("kd", "student", steps, steps / 5000)] * 2 + [("mt", None, steps[:3], [1, 2, 3])])
    assert [trace.showlegend for trace in fig.data] == [True, False, True]
    assert [len(trace.x) for trace in fig.data] == [1000, 1000, 3]
    assert fig.data[0].line.color == ROLES["student"].colour
    assert fig.data[2].line.dash != "solid"
    assert plots.loss_curves([("mt", None, [0, 1], [1, 2])], log=True).layout.yaxis.type == "log"
    with pytest.raises(ValueError, match="no loss"):
        plots.loss_curves([])
    with pytest.raises(ValueError, match="steps has 2, losses has 1"):
        plots.loss_curves([("mt", None, [0, 1], [1.0])])


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.42, "0.4 s"), (9.96, "10 s"), (59.4, "59 s"), (59.8, "1 min 00 s"), (151, "2 min 31 s"), (11100, "3 h 05 min")],
)
def test_time_in_words(seconds: float, words: str) -> None:
    fig = plots.stage_times([("distill", seconds, 2)])
    assert fig.data[0].text == (words,)
    assert f"with {words}." in alt_text(fig)


def test_stage_times_choose_their_unit() -> None:
    fig = plots.stage_times([("a", 600, 1), ("b", 60, 2, "failed")])
    np.testing.assert_allclose(fig.data[0].x, [10, 1])
    assert "minutes" in fig.layout.xaxis.title.text
    assert fig.data[0].text[1].endswith(", failed")
    assert fig.data[0].marker.color[0] != fig.data[0].marker.color[1]
    with pytest.raises(ValueError, match="no stage"):
        plots.stage_times([])


def test_counts_are_shares_with_the_rows_beside_them() -> None:
    fig = plots.data_counts([("train", "no", 30), ("train", "yes", 70), ("dev", "no", 5)])
    no, yes = fig.data
    np.testing.assert_array_equal(no.x, [30, 100])
    np.testing.assert_array_equal(yes.customdata, [1])
    assert fig.layout.yaxis.ticktext == ("train · 100", "dev · 5")
    assert not plots.data_counts([("train", "all", 9)]).layout.showlegend
    with pytest.raises(ValueError, match="stage 'prepare'"):
        plots.data_counts([("train", "no", 0)])


def test_lengths_add_up_and_say_what_is_cut() -> None:
    lengths = np.array([3, 3, 5, 200])
    fig = plots.lengths_histogram({"nli": lengths}, max_tokens=64)
    line = fig.data[0]
    assert sum(line.y) == pytest.approx(100)
    assert np.diff(line.x)[0] == 4  # whole tokens
    assert "25.0 % of nli" in fig.layout.title.text
    assert any(shape.x0 == 64 for shape in fig.layout.shapes)
    with pytest.raises(ValueError, match="no lengths"):
        plots.lengths_histogram({})
