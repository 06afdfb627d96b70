"""A filter as a URL, a sentence and rows: exact round trips, loud refusals, and rows as a loop has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_views_toy import SCORE, TRI, Toy, table_of, write_toy

from core.tasks import SPLITS
from core.views import NotDefined
from core.views.derived import COHORTS, COLUMNS, column
from core.views.filters import KEYS, RANGED, Filter, Range, apply, from_query, in_words, mask, to_query
from core.views.table import TaskTable

OF_CLASSES = [name for name in RANGED if COLUMNS[name].of == "classes"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return write_toy(tmp_path_factory.mktemp("views") / "toy")


numbers = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(min_size=1, max_size=8)


@st.composite
def ranges(draw: st.DrawFn, names: list[str]) -> tuple[Range, ...]:
    found = []
    for name in draw(st.lists(st.sampled_from(names), unique=True, max_size=4)):
        low, high = sorted([draw(numbers), draw(numbers)])
        sides = draw(st.sampled_from(["both", "low", "high"]))
        found.append(Range(name, low if sides != "high" else None, high if sides != "low" else None))
    return tuple(found)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


filters = st.builds(
    Filter,
    split=maybe(st.sampled_from(SPLITS)),
    **{name: maybe(st.sampled_from(TRI.labels)) for name in ("gold", "teacher", "student", "baseline")},
    student_is=st.just("kd") | words,
    cohort=maybe(st.sampled_from(COHORTS)),
    agree=maybe(st.booleans()),
    unanimous=maybe(st.booleans()),
    text=maybe(words),
    id=maybe(words),
    ranges=ranges(OF_CLASSES),
)


@settings(max_examples=300, deadline=None)
@given(filters)
def test_the_url_round_trips_exactly(filter_: Filter) -> None:
    query = to_query(filter_)
    assert all(isinstance(value, str) and value for value in query.values())
    assert from_query(query, TRI) == filter_
    assert to_query(from_query(query, TRI)) == query
    assert from_query(dict(reversed(query.items())), TRI) == filter_  # the order of the keys means nothing
    assert in_words(filter_)


@settings(max_examples=100, deadline=None)
@given(ranges([name for name in RANGED if COLUMNS[name].of == "regression"]))
def test_regression_ranges_round_trip(found: tuple[Range, ...]) -> None:
    filter_ = Filter(ranges=found)
    assert from_query(to_query(filter_), SCORE) == filter_


def test_keys_of_the_url_are_unambiguous() -> None:
    assert not set(KEYS) & set(RANGED)
    assert to_query(Filter()) == {}
    assert from_query({}, TRI) == Filter()
    assert to_query(Filter(ranges=(Range("kl", 0.5),), gold="no")) == {"gold": "no", "kl": "0.5:"}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"glod": "yes"}, "unknown key 'glod' in the link; did you mean 'gold'"),
        ({"entropi": "0:1"}, "did you mean 'entropy'"),
        ({"gold": "mabye"}, "gold 'mabye' is not known; did you mean 'maybe'"),
        ({"teacher": "neutral"}, "Expected one of yes, maybe, no"),
        ({"cohort": "tought"}, "did you mean 'taught'"),
        ({"split": "tset"}, "did you mean 'test'"),
        ({"agree": "true"}, "agree 'true' is not known"),
        ({"kl": "0.5"}, "is no range, expected low:high"),
        ({"kl": "a:"}, "is no range"),
        ({"kl": "0:1:2"}, "is no range"),
        ({"kl": ":"}, "has no bound"),
        ({"kl": "2:1"}, "expected low before high"),
        ({"kl": "nan:"}, "finite number"),
        ({"kl": ":inf"}, "finite number"),
        ({"gap": "0:1"}, "has no such column; it has kl, "),
        ({"text": ""}, "not empty"),
        ({"gold": ["yes", "no"]}, "give each key once"),
    ],
)
def test_links_that_are_refused(query: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_query(query, TRI)


@pytest.mark.parametrize("query", [{"gold": "yes"}, {"cohort": "taught"}, {"agree": "yes"}, {"kl": "0:1"}])
def test_regressions_have_no_classes(query: dict[str, str], toy: Toy) -> None:
    with pytest.raises(ValueError, match="regression"):
        from_query(query, SCORE)
    with pytest.raises(ValueError, match="regression"):
        apply(from_query(query, TRI), table_of(toy, "score"))


def test_filters_that_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="two ranges of one column"):
        Filter(ranges=(Range("kl", 0), Range("kl", 1)))
    with pytest.raises(ValueError, match="expected a text"):
        Filter(gold=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="finite number"):
        Filter(ranges=(Range("kl", True),))


def test_in_words() -> None:
    filter_ = Filter(split="dev", gold="no", teacher="yes", cohort="lost", agree=False, unanimous=True, text="soup",
                     ranges=(Range("kl", 0.5), Range("entropy", None, 1), Range("confidence", 0.1, 0.2)),
                     student_is="hard")  # fmt: skip
    assert in_words(filter_) == (
        "split dev, gold is no, the teacher says yes, cohort lost, teacher and student disagree, the members are "
        "unanimous, KL(teacher, student) at least 0.5, entropy of the teacher at most 1, confidence of the teacher 0.1 "
        "to 0.2, a text contains 'soup', the student is hard"
    )
    assert in_words(Filter()) == "all examples"


def holds(filter_: Filter, table: TaskTable, i: int) -> bool:
    """For one example of `tri`, from the table's columns but with plain comparisons."""
    student = filter_.student_is
    says = {"teacher": "teacher", "student": student, "baseline": "hard", "gold": "gold"}
    for field, voice in says.items():
        wanted, answer = getattr(filter_, field), int(table.answers(voice)[i])
        if wanted is not None and (answer < 0 or TRI.labels[answer] != wanted):
            return False
    if filter_.cohort is not None:
        code = int(column(table, "cohort", student=student)[i])
        if code < 0 or COHORTS[code] != filter_.cohort:
            return False
    for name in ("agree", "unanimous"):
        wanted = getattr(filter_, name)
        if wanted is not None and bool(column(table, name, student=student)[i]) != wanted:
            return False
    for name, low, high in filter_.ranges:
        value = float(column(table, name, student=student)[i])
        if not (low is None or value >= low) or not (high is None or value <= high):
            return False
    (text,) = table.texts([i])
    if filter_.text is not None and all(
        filter_.text.lower() not in part.lower() for part in (text.text_a, text.text_b or "")
    ):
        return False
    return filter_.id is None or filter_.id == text.example_id


@pytest.mark.parametrize(
    "filter_",
    [
        Filter(),
        Filter(gold="yes"),
        Filter(teacher="no", student="maybe"),
        Filter(baseline="no", split="test"),
        Filter(cohort="taught"),
        Filter(cohort="taught", student_is="st-kd-s1"),
        Filter(agree=True),
        Filter(agree=False, student_is="hard", student="yes"),
        Filter(unanimous=False, text="BREAD"),
        Filter(ranges=(Range("kl", 0.2, 0.9), Range("entropy", None, 1.0))),
        Filter(ranges=(Range("teacher_kl_truth", 0.0),)),
        Filter(ranges=(Range("kl", None, 1e300),)),
        Filter(ranges=(Range("kl", 1e300),)),
    ],
    ids=in_words,
)
def test_rows_against_a_loop(filter_: Filter, toy: Toy) -> None:
    table = table_of(toy)
    expected = [i for i in range(len(table)) if holds(filter_, table, i)]
    np.testing.assert_array_equal(apply(filter_, table), expected)
    if filter_.ranges != (Range("kl", 1e300),):
        assert expected, "the case is empty"


def test_unknown_truth_is_in_no_range(toy: Toy) -> None:
    table = table_of(toy)
    low, high = Filter(ranges=(Range("teacher_kl_truth", 0.3),)), Filter(ranges=(Range("teacher_kl_truth", None, 0.3),))
    n_unknown = int(np.isnan(column(table, "teacher_kl_truth")).sum())
    assert n_unknown > 0
    assert len(apply(low, table)) + len(apply(high, table)) == len(table) - n_unknown


def test_a_shown_value_is_in_its_own_range(toy: Toy) -> None:
    """A bound is compared in the column's precision: 0.7 shown is 0.7 found."""
    table = table_of(toy)
    value = float(str(column(table, "kl")[5]))
    assert 5 in apply(Filter(ranges=(Range("kl", value, value),)), table)


def test_an_id_is_one_row(toy: Toy) -> None:
    table = table_of(toy)
    example_id = table.texts([7])[0].example_id
    assert apply(Filter(id=example_id), table).tolist() == [7]
    with pytest.raises(ValueError, match="no example 'tri/test/9'"):
        apply(Filter(id="tri/test/9"), table)


def test_refusals_against_a_table(toy: Toy, tmp_path: Path) -> None:
    table = table_of(toy)
    with pytest.raises(ValueError, match="load that split"):
        mask(Filter(split="dev"), table)
    with pytest.raises(ValueError, match="voice 'cwtn' is not known"):
        mask(Filter(student_is="cwtn"), table)
    alone = table_of(write_toy(tmp_path / "x", members=1, tasks=["tri"]))
    with pytest.raises(NotDefined, match="fewer than two teachers"):
        mask(Filter(unanimous=True), alone)


def test_with_range_and_but() -> None:
    filter_ = Filter(gold="yes").with_range("kl", 0.5).with_range("entropy", None, 1)
    assert filter_ == Filter(gold="yes", ranges=(Range("entropy", None, 1), Range("kl", 0.5)))
    assert filter_.with_range("kl").ranges == (Range("entropy", None, 1),)
    assert filter_.but(gold=None).gold is None
