"""Every figure of core/plots against the rules that hold for all: axis titles, alt text, hover, legend above the plot,
typed arrays, one-dimensional int32 customdata, escaped names, sizes that do not grow with the data.

FIGURES is one call of each builder on invented data; tests/test_plots_*.py look at them one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from scipy import special

import core.plots as plots
from core.plots.style import INK, alt_text

NASTY = "<b>x</b>&%{y}$z$"
LABELS = ["contradiction", NASTY, "entailment"]


class World:
    """N examples, 3 classes, 6 members, invented but shaped as a run's."""

    def __init__(self, n: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        logits_NC = rng.normal(0, 1.6, (n, 3))
        self.members = special.softmax(logits_NC + rng.normal(0, 0.9, (6, n, 3)), axis=-1)
        self.teacher = self.members.mean(axis=0)
        self.student = special.softmax(np.log(self.teacher) + rng.normal(0, 0.35, (n, 3)), axis=-1)
        self.hard = special.softmax(1.5 * logits_NC + rng.normal(0, 1.3, (n, 3)), axis=-1)
        self.x, self.y = rng.gamma(2, 0.2, n), rng.gamma(2, 0.1, n)
        self.share = rng.random(n)
        self.cosine = rng.uniform(-1, 1, n)

    def entropy(self, probs_NC: np.ndarray) -> np.ndarray:
        return special.entr(probs_NC).sum(axis=-1)


SMALL = World(200)
MODELS = ["mt-1", "mt-2", NASTY]
CURVE = plots.ReliabilityCurve(
    NASTY, "student", [0.4, 0.9, np.nan], [0.35, 0.8, np.nan], [0.3, 0.7, 0], [0.4, 0.9, 0], [9, 9, 0], 0.07, 0.05, 0.1
)
INTERVALS = [
    ("nli", "kd", 2.0, 1.0, 3.0, 5),
    ("nli", NASTY, -2.0, -3.0, -1.0, 5),
    ("rte", "kd", 0.5, -0.5, 1.5, 5),
    ("rte", NASTY, 0.5, np.nan, np.nan, 1),
]
ALPHAS, TEMPERATURES = np.linspace(0, 1, 5), np.array([1.0, 2.0, 4.0])


def tempered(probs_C: np.ndarray) -> np.ndarray:
    return special.softmax(np.log(probs_C) / TEMPERATURES[:, None], axis=-1)


def what_if() -> go.Figure:
    return plots.what_if_card(
        LABELS,
        alphas_A=ALPHAS,
        temperatures_K=TEMPERATURES,
        teacher_KC=tempered(SMALL.teacher[0]),
        student_KC=tempered(SMALL.student[0]),
        hard=0.8,
        soft_K=[0.1, 0.2, 0.3],
        gold_index=1,
    )


# One call a builder, by its name; World(n) goes in where a figure takes one row an example.
PER_EXAMPLE: dict[str, Callable[[World], go.Figure]] = {
    "simplex_map": lambda w: plots.simplex_map(w.teacher, w.student, LABELS),
    "dumbbell": lambda w: plots.dumbbell(w.teacher[:, 1], w.student[:, 1], LABELS[:2]),
    "gradient_scatter": lambda w: plots.gradient_scatter(w.x, w.y, w.cosine),
    "cosine_histogram": lambda w: plots.cosine_histogram(w.cosine),
    "gold_probabilities": lambda w: plots.gold_probabilities({NASTY: w.share, "gold alone": w.share**2}),
    "runner_up_transfer": lambda w: plots.runner_up_transfer(w.share, w.share**2, 0.7, hard_N=w.share, hard_r=0.1),
    "entropy_split": lambda w: plots.entropy_split(w.x, w.y),
    "entropy_transfer": lambda w: plots.entropy_transfer(w.entropy(w.teacher), w.entropy(w.student), 3),
    "data_map": lambda w: plots.data_map(w.share, w.y, np.round(w.share)),
    "density_scatter": lambda w: plots.density_scatter(w.x, w.y, x_name=NASTY, y_name="y (nats)", colour_N=w.cosine),
    "lengths_histogram": lambda w: plots.lengths_histogram({NASTY: np.round(40 * w.share)}, max_tokens=30),
    "epoch_strip": lambda w: plots.epoch_strip(
        np.stack([w.x, w.y, w.y]), first_match_N=(w.share * 4).astype(int), ids=np.arange(len(w.x))
    ),
    "loss_curves": lambda w: plots.loss_curves([(NASTY, "student", np.arange(len(w.x)), w.x)]),
}
FIXED: dict[str, Callable[[], go.Figure]] = {
    "distribution_card": lambda: plots.distribution_card(
        LABELS,
        members_MC=SMALL.members[:, 0],
        teacher_C=SMALL.teacher[0],
        student_SC=SMALL.student[:5],
        hard_SC=SMALL.hard[0],
        truth_C=[0.2, 0.5, 0.3],
        humans_C=[0.1, 0.6, 0.3],
        gold_index=1,
    ),
    "value_card": lambda: plots.value_card(
        value_range=(0, 5), members_M=[1, 2, 3], teacher=2, student_S=[2.1, 2.3], gold=3, truth_mean=2.5, truth_std=0.4
    ),
    "flip_ledger": lambda: plots.flip_ledger([(NASTY, [9, 40, 6, 2, 5, 2, 4, 30], 0.01, 0.1)]),
    "decomposition_bar": lambda: plots.decomposition_bar([0.3, 0.2], [0.1, 0.2], ["easy", NASTY]),
    "what_if_card": what_if,
    "alpha_temperature_map": lambda: plots.alpha_temperature_map(
        ALPHAS, TEMPERATURES, np.outer(ALPHAS, TEMPERATURES), NASTY, unit="share", stars=[(0.5, 1, 52.5, NASTY)]
    ),
    "points_and_intervals": lambda: plots.points_and_intervals(
        INTERVALS, metric=NASTY, zero_line=True, roles={"kd": "student"}
    ),
    "error_copying": lambda: plots.error_copying(
        [("nli", "kd", 0.7, 0.6, 0.8, 90), (NASTY, "kd", 0.4, 0.3, 0.5, 80)], roles={"kd": "student"}
    ),
    "class_mass_map": lambda: plots.class_mass_map(np.eye(3), LABELS, [5, 0, 7]),
    "agreement_matrix": lambda: plots.agreement_matrix(np.full((3, 3), 0.8), MODELS),
    "closest_member": lambda: plots.closest_member([5, 3, 2], MODELS),
    "size_curve": lambda: plots.size_curve([(1, NASTY, 46), (1, "b", 47), (2, "a+b", 49)], metric="score", student=48),
    "strategies": lambda: plots.strategies(INTERVALS[:2], metric="score", chosen=NASTY),
    "selection_ranking": lambda: plots.selection_ranking(
        [("mt-1", 0.5, 0.4, 0.6, False, NASTY), (NASTY, 0.6, 0.5, 0.7, True)], metric="score"
    ),
    "leave_one_out": lambda: plots.leave_one_out(MODELS, stayed_M=[4, 3, 2], followed_M=[1, 1, 1], neither_M=[0, 1, 0]),
    "reliability": lambda: plots.reliability([CURVE, CURVE._replace(role="member"), CURVE._replace(role="teacher")]),
    "stage_times": lambda: plots.stage_times([("prepare", 3.0, 6), (NASTY, 4000.0, 2, "running")]),
    "data_counts": lambda: plots.data_counts([("train", "a", 90), ("train", NASTY, 70), ("dev", "a", 5)]),
    "sweep_figure": lambda: plots.sweep_figure(
        [(a, t, a + t, a + t - 1, a + t + 1, m) for a in (0.1, 0.5) for t in (1.0, 2.0) for m in ("score", NASTY)]
    ),
}
FIGURES: dict[str, Callable[[], go.Figure]] = FIXED | {
    name: (lambda build=build: build(SMALL)) for name, build in PER_EXAMPLE.items()
}
BUILDERS = sorted(FIGURES)
HELPERS = {"alt_text", "cell_index", "cell_ranges", "drawn_rows", "escaped", "hex_cells_N", "themed", "titled"}
# No text in the hover: drawn under something that has it, or a legend entry without data.
SILENT = ("heatmap",)


@pytest.fixture(params=BUILDERS)
def figure(request: pytest.FixtureRequest) -> go.Figure:
    return FIGURES[request.param]()


def named(fig: go.Figure, name: str) -> Any:
    """The one trace of a name."""
    found = [trace for trace in fig.data if trace.name == name]
    assert len(found) == 1, [trace.name for trace in fig.data]
    return found[0]


def spec(fig: go.Figure) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(fig.to_json())
    return found


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def test_the_table_has_every_builder() -> None:
    public = {name for name in plots.__all__ if name[0].islower()} - HELPERS
    assert public == set(FIGURES)


def test_axes_say_what_they_are(figure: go.Figure) -> None:
    ternary = figure.layout.ternary
    if any(trace.type == "scatterternary" for trace in figure.data):
        assert all(axis.title.text for axis in (ternary.aaxis, ternary.baxis, ternary.caxis))
        return
    assert any(axis.title.text for axis in figure.select_xaxes())
    # Rows that are named by their ticks, or one row, need no title of the axis that they stand on.
    for axis in figure.select_yaxes():
        assert axis.title.text or axis.tickvals is not None or axis.matches, axis


def test_alt_text_is_a_sentence_with_numbers(figure: go.Figure) -> None:
    alt = alt_text(figure)
    assert figure.layout.meta["alt"] == alt
    assert alt.endswith(".")
    assert any(character.isdigit() for character in alt)
    assert 40 < len(alt) < 700
    assert "nan" not in alt.split()


def test_hover_is_made_for_people(figure: go.Figure) -> None:
    for trace in figure.data:
        if trace.type in SILENT or trace.hoverinfo == "skip":
            assert trace.hovertemplate is None
        else:
            assert trace.hovertemplate, trace
            assert "<extra>" in trace.hovertemplate


def test_frame_is_the_same_everywhere(figure: go.Figure) -> None:
    layout, template = figure.layout, figure.layout.template.layout
    assert template.paper_bgcolor == template.plot_bgcolor == "rgba(0,0,0,0)"
    assert layout.paper_bgcolor is None
    assert layout.font.color is None  # the theme's
    assert template.font.color == INK
    assert (layout.legend.orientation, layout.legend.yref, layout.legend.yanchor) == ("h", "container", "top")
    head_px = (1 - layout.legend.y) * layout.height
    assert 0 < head_px <= layout.margin.t
    assert 140 <= layout.height <= 700
    assert layout.margin.r <= 60


def test_arrays_are_typed_and_customdata_is_flat_int32(figure: go.Figure) -> None:
    """A list of a hundred points costs what a typed array of thousands does, and Streamlit sends customdata back."""
    for trace in spec(figure)["data"]:
        for name in ("x", "y", "z", "a", "b", "c"):
            values = trace.get(name)
            assert values is None or "bdata" in values or values == [None], (trace["type"], name)
        customdata = trace.get("customdata")
        if customdata is not None:
            assert customdata["dtype"] == "i4"
            assert "shape" not in customdata


@pytest.mark.parametrize("name", BUILDERS)
def test_names_from_data_are_never_markup(name: str) -> None:
    """Whatever plotly may show, which is all but the alt text (plain) and the keys that tie traces together."""
    made = spec(FIGURES[name]())
    made["layout"].pop("meta")
    for trace in made["data"]:
        trace.pop("legendgroup", None)
    shown = list(strings({"data": made["data"], "layout": made["layout"], "frames": made.get("frames", [])}))
    assert not [text for text in shown if "<b>x" in text or "%{y}$z" in text or "$z$" in text]
    if name not in ("value_card", "cosine_histogram", "gradient_scatter", *UNNAMED):
        assert any("&lt;b&gt;x" in text for text in shown), "the nasty name was not drawn at all"


UNNAMED = ("runner_up_transfer", "entropy_split", "entropy_transfer", "data_map", "epoch_strip")


@pytest.mark.parametrize("name", sorted(PER_EXAMPLE))
def test_size_does_not_grow_with_the_examples(name: str) -> None:
    """A million examples: under a megabyte on the wire, at most 20,000 points."""
    fig = PER_EXAMPLE[name](MILLION)
    assert len(fig.to_json()) < 1_000_000
    for trace in fig.data:
        n = (
            max(len(trace[key]) for key in ("x", "a", "y") if key in trace and trace[key] is not None)
            if "z" not in trace
            else 0
        )
        assert n <= plots.MAX_POINTS


MILLION = World(1_000_000)


@pytest.mark.parametrize("name", sorted(PER_EXAMPLE))
def test_missing_values_leave_gaps_and_no_errors(name: str) -> None:
    world = World(400)
    for values in (world.x, world.y, world.cosine, world.teacher[:, 0], world.student[:, 0]):
        values[::7] = np.nan
    fig = PER_EXAMPLE[name](world)
    json.loads(fig.to_json(), parse_constant=pytest.fail)  # NaN and Infinity are no JSON
    assert alt_text(fig)


@pytest.mark.parametrize("name", sorted(PER_EXAMPLE))
def test_nothing_to_draw_is_said(name: str) -> None:
    with pytest.raises(ValueError, match=r"empty|nothing"):
        PER_EXAMPLE[name](World(0))
