"""Figures: arrays and plain values in, one plotly figure out; notebooks and app draw with the same functions.

A builder reads no file, knows no page and computes nothing that another module computes: cohorts, gradients, grids and
intervals come in ready. Every figure has axis titles with units, a hover text, its legend above the plot, colours and
symbols by role (core/plots/style.py), and in `layout.meta["alt"]` one sentence with its main numbers. What is drawn is
bounded for a million examples (core/plots/arrays.py). Nothing to draw is a `ValueError` with a sentence.

Show a figure with `fig.show(config=SHOW_CONFIG)` or `st.plotly_chart(fig, config=SHOW_CONFIG, alt=alt_text(fig))`.
Needs the extra `app` or `notebooks` (plotly).
"""

from core.plots.arrays import MAX_POINTS, cell_index, drawn_rows
from core.plots.calibration import ReliabilityCurve, gold_probabilities, reliability
from core.plots.cards import distribution_card, value_card
from core.plots.comparisons import Interval, error_copying, points_and_intervals
from core.plots.densities import cell_ranges, data_map, density_scatter, entropy_transfer
from core.plots.ensembles import SubsetScore, closest_member, entropy_split, leave_one_out, size_curve
from core.plots.gradients import cosine_histogram, decomposition_bar, gradient_scatter
from core.plots.grids import Star, SweepPoint, alpha_temperature_map, sweep_figure
from core.plots.ledger import COHORTS, LedgerRow, flip_ledger
from core.plots.maps import MAX_ARROWS, dumbbell, hex_cells_N, simplex_map
from core.plots.matrices import agreement_matrix, class_mass_map, runner_up_transfer
from core.plots.rankings import RankedMember, selection_ranking, strategies
from core.plots.style import ROLES, SHOW_CONFIG, Role, alt_text, escaped, themed, titled
from core.plots.tables import LabelCount, data_counts, lengths_histogram
from core.plots.training import Curve, StageTime, epoch_strip, loss_curves, stage_times
from core.plots.whatif import what_if_card

__all__ = [
    "COHORTS",
    "MAX_ARROWS",
    "MAX_POINTS",
    "ROLES",
    "SHOW_CONFIG",
    "Curve",
    "Interval",
    "LabelCount",
    "LedgerRow",
    "RankedMember",
    "ReliabilityCurve",
    "Role",
    "StageTime",
    "Star",
    "SubsetScore",
    "SweepPoint",
    "agreement_matrix",
    "alpha_temperature_map",
    "alt_text",
    "cell_index",
    "cell_ranges",
    "class_mass_map",
    "closest_member",
    "cosine_histogram",
    "data_counts",
    "data_map",
    "decomposition_bar",
    "density_scatter",
    "distribution_card",
    "drawn_rows",
    "dumbbell",
    "entropy_split",
    "entropy_transfer",
    "epoch_strip",
    "error_copying",
    "escaped",
    "flip_ledger",
    "gold_probabilities",
    "gradient_scatter",
    "hex_cells_N",
    "leave_one_out",
    "lengths_histogram",
    "loss_curves",
    "points_and_intervals",
    "reliability",
    "runner_up_transfer",
    "selection_ranking",
    "simplex_map",
    "size_curve",
    "stage_times",
    "strategies",
    "sweep_figure",
    "themed",
    "titled",
    "value_card",
    "what_if_card",
]
