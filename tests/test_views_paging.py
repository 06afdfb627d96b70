"""Pages against a full stable sort, and samples that depend on ids alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_views_toy import Toy, table_of, write_toy

from core.views import NotDefined, paging
from core.views.derived import column
from core.views.paging import hash_ids, page, sample, sample_rows

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return write_toy(tmp_path_factory.mktemp("views") / "toy")


@pytest.mark.parametrize("order_by", ["kl", "teacher_kl_truth", "disagreement", "agree", "cohort", "gold_prob", None])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("page_size", [5, 7, 200])
def test_pages_are_a_stable_sort_cut_up(toy: Toy, order_by: str | None, descending: bool, page_size: int) -> None:
    table = table_of(toy)
    rows = np.arange(1, len(table), 2)
    if order_by is None:
        expected = rows.tolist()
    else:
        values = np.asarray(column(table, order_by), np.float64)
        unknown = {i for i in rows if np.isnan(values[i]) or (order_by == "cohort" and values[i] < 0)}
        # Python's sort is stable; unknown ones last in both directions.
        expected = sorted(
            (int(i) for i in rows),
            key=lambda i: (i in unknown, 0.0 if i in unknown else -values[i] if descending else values[i]),
        )
    shown: list[int] = []
    first = page(table, rows, order_by=order_by, descending=descending, page_size=page_size)
    for number in range(1, first.n_pages + 1):
        found = page(table, rows, order_by=order_by, descending=descending, page_size=page_size, page=number)
        assert found[1:] == (number, first.n_pages, len(rows))
        shown += found.rows.tolist()
    assert shown == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, np.inf]), min_size=1, max_size=200), st.data())
def test_smallest_is_the_head_of_a_stable_sort(keys: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(keys)))
    array = np.array(keys, np.float32)
    np.testing.assert_array_equal(paging._smallest(array, k), np.argsort(array, kind="stable")[:k])


def test_edges_of_paging(toy: Toy) -> None:
    table = table_of(toy)
    assert page(table, [], order_by="kl").rows.tolist() == page(table, [], page=9).rows.tolist() == []
    assert page(table, []).n_pages == 1
    assert page(table, [4], page=7).page == 1
    with pytest.raises(ValueError, match="at least 1"):
        page(table, [4], page=0)
    with pytest.raises(ValueError, match="column 'klx' is not known"):
        page(table, [4], order_by="klx")
    with pytest.raises(NotDefined, match="student 'dkpp'"):
        page(table, [4], order_by="kl", student="dkpp")


def test_samples_are_stable_and_nested(toy: Toy) -> None:
    table = table_of(toy)
    everything = np.arange(len(table))
    twenty, forty = sample(table, everything, 20), sample(table, everything, 40)
    assert len(twenty) == 20
    assert set(twenty) < set(forty)
    assert (np.diff(twenty) > 0).all()
    # A narrower filter keeps what it holds of the wider one's sample.
    half = everything[::2]
    assert set(twenty) & set(half) <= set(sample(table, half, 20))
    # The order of the rows means nothing.
    shuffled = np.random.default_rng(0).permutation(everything)
    np.testing.assert_array_equal(sample(table, shuffled, 20), twenty)
    np.testing.assert_array_equal(sample(table, everything, 500), everything)
    np.testing.assert_array_equal(sample_rows(table.ids, 20), twenty)


def test_hashes_are_the_same_in_every_process() -> None:
    ids = ["", "a", "mnli/train/0000042", "häß/日本"]
    code = f"from core.views.paging import hash_ids; print(hash_ids({ids!r}).tolist())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(hash_ids(ids).tolist())
    assert hash_ids(ids).tolist() == [naive_hash(one) for one in ids]


def naive_hash(text: str) -> int:
    """FNV-1a and splitmix64 in Python's whole numbers."""
    value, mod = 0xCBF29CE484222325, 2**64
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) % mod
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        value = ((value ^ (value >> shift)) * factor) % mod
    return value


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=6), max_size=20), st.integers(0, 20))
def test_hashes_of_slices(ids: list[str], start: int) -> None:
    array = pa.array(ids, pa.string())
    np.testing.assert_array_equal(hash_ids(array.slice(start)), hash_ids(array)[start:])


def test_samples_are_even() -> None:
    """Ids in order must not be drawn in order: each tenth of them gets its share."""
    ids = [f"mnli/train/{i:07d}" for i in range(20_000)]
    counts = np.bincount(sample_rows(ids, 2000) // 2000, minlength=10)
    # 200 expected, standard deviation 13.4: five of them
    assert (np.abs(counts - 200) < 67).all()
    assert counts.sum() == 2000
