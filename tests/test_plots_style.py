"""Colours and symbols that show on both themes, text that is never markup, and the arrays below the figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_plots import FIGURES, NASTY, World

import core.plots as plots
from core.plots.arrays import bin_means, broken_lines, cell_index, density, drawn_rows, floats, mean_of, row_ids, span
from core.plots.style import DIVERGING, INK, OTHERS, ROLES, SEQUENTIAL, SHOW_CONFIG, escaped, themed, titled

WHITE, DARK = "#ffffff", "#0e1117"
SMALL = World(200)


# ---- style ---------------------------------------------------------------------------------------------------------
def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("background", [WHITE, DARK])
def test_colours_show_on_both_themes(background: str) -> None:
    """WCAG 2: 3:1 for graphics; text is our own where no theme sets it, and gets 4:1."""
    assert contrast(WHITE, "#000000") == pytest.approx(21)
    for colour in (*(look.colour for look in ROLES.values()), *OTHERS):
        assert contrast(colour, background) >= 3, colour
    assert contrast(INK, background) >= 4


def test_roles_differ_by_symbol_as_well_as_colour() -> None:
    assert len({look.symbol for look in ROLES.values()}) == len(ROLES)
    assert (ROLES["teacher"].symbol, ROLES["member"].symbol, ROLES["student"].symbol) == (
        "line-ns",
        "circle-open",
        "diamond",
    )
    assert ROLES["gold"].colour == ROLES["truth"].colour
    assert [at for at, _ in SEQUENTIAL][::3] == [at for at, _ in DIVERGING][::2] == [0.0, 1.0]


def test_escaped() -> None:
    assert escaped("<b>R&D</b>") == "&lt;b&gt;R&amp;D&lt;/b&gt;"
    assert escaped("%{x} costs $5") == "%&#123;x} costs &#36;5"
    assert escaped("two\nlines\t here") == "two lines here"
    assert escaped("a" * 50) == "a" * 39 + "…"
    assert escaped("&" * 50).count("&amp;") == 39  # cut before, so that no entity is torn
    assert escaped(3) == "3"


def test_titles_move_the_legend_and_keep_the_subtitle() -> None:
    fig = plots.density_scatter(SMALL.x, SMALL.y, x_name="x", y_name="y")
    before = fig.layout.legend.y
    assert titled(fig, NASTY) is fig
    assert fig.layout.legend.y < before
    text = fig.layout.title.text
    assert text.startswith("<b>&lt;b&gt;x")
    assert "200 examples" in text
    assert "200 examples" not in titled(fig, "x", "").layout.title.text


def test_themed_is_a_copy() -> None:
    fig = FIGURES["closest_member"]()
    assert themed(fig, "dark").layout.font.color != themed(fig, "light").layout.font.color
    assert fig.layout.font.color is None


def test_config_sends_nothing_to_a_cloud() -> None:
    assert SHOW_CONFIG["showSendToCloud"] is False
    assert SHOW_CONFIG["displaylogo"] is False


# ---- arrays --------------------------------------------------------------------------------------------------------
def test_drawn_rows_are_stable_and_spread() -> None:
    ids = np.arange(1_000_000, dtype=np.int32)
    rows = drawn_rows(ids)
    assert len(rows) == plots.MAX_POINTS
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, drawn_rows(ids))
    # In each tenth a tenth of them: 2,000, standard deviation 42 if drawn at random.
    counts = np.histogram(rows, bins=10, range=(0, 1_000_000))[0]
    assert (abs(counts - 2000) < 200).all()
    # What a filter leaves of the drawn ones is drawn again.
    kept = ids[::2]
    again = set(kept[drawn_rows(kept)].tolist())
    assert {int(row) for row in rows if row % 2 == 0} <= again
    np.testing.assert_array_equal(drawn_rows(ids[:5]), np.arange(5))


def test_density_counts_every_finite_pair_once() -> None:
    x, y = SMALL.x.copy(), SMALL.y.copy()
    x[3] = np.nan
    cells = density(x, y, n_bins=7, x_range=(0, float(np.nanmax(x))), y_range=(0, float(y.max())))
    assert cells.count_YX.sum() == len(x) - 1
    row, column = np.unravel_index(cells.count_YX.argmax(), cells.count_YX.shape)
    inside = (
        (x >= column * cells.x_step)
        & (x < (column + 1) * cells.x_step)
        & (y >= row * cells.y_step)
        & (y < (row + 1) * cells.y_step)
    )
    assert inside.sum() == cells.count_YX.max()


def test_cell_index_closes_the_last_cell() -> None:
    values = np.array([0.0, 0.49, 0.5, 1.0, 1.01, -0.1, np.nan])
    np.testing.assert_array_equal(cell_index(values, (0, 1), 2), [0, 0, 1, 1, -1, -1, -1])


def test_small_things_of_arrays() -> None:
    np.testing.assert_allclose(bin_means(np.arange(6.0), 3), [0.5, 2.5, 4.5])
    np.testing.assert_allclose(bin_means(np.array([1, np.nan, np.nan, np.nan]), 2), [1, np.nan])
    np.testing.assert_array_equal(bin_means(np.arange(2.0), 5), [0, 1])
    np.testing.assert_array_equal(broken_lines(np.array([1.0]), np.array([2.0])), [1, 2, np.nan])
    assert np.isnan(mean_of(np.array([np.nan])))
    assert span(np.array([2.0, 2.0])) == pytest.approx((1.94, 2.06))
    assert span(np.array([0.0, 10.0]), pad=0.1) == pytest.approx((-1, 11))
    assert row_ids([7, 8], 2).dtype == np.int32


@pytest.mark.parametrize("ids", [["a", "b"], [1.0, 2.0], [1], [-1, 2], [1, 2**31]])
def test_row_ids_are_refused(ids: list[Any]) -> None:
    with pytest.raises(ValueError, match="row numbers"):
        row_ids(ids, 2)


def test_floats_refuse_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="2 dimensions"):
        floats("kl", [1.0], ndim=2)
    with pytest.raises(ValueError, match="kl is empty"):
        floats("kl", [])
    with pytest.raises(ValueError, match="none of them is a number"):
        floats("kl", [np.nan, np.inf])
