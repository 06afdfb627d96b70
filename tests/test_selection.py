"""Selection: the order, the ties, the reasons and the refusals."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.selection import RULES, select

SCORES = {
    "mt-1": {"mnli": 0.80, "rte": 0.60, "qqp": 0.90, "cola": 0.10},
    "mt-2": {"mnli": 0.82, "rte": 0.66, "qqp": 0.70, "cola": 0.99},
    "mt-3": {"mnli": 0.70, "rte": 0.70, "qqp": 0.91, "cola": 0.50},
}
TEACHERS = ("mnli", "rte", "qqp")


def test_rules_differ_and_only_their_tasks_count() -> None:
    by_mean = select(SCORES, k=2, teacher_tasks=TEACHERS, split="selection")
    assert by_mean.chosen == ("mt-3", "mt-1")  # 0.7700, 0.7667, 0.7267; cola would have put mt-2 first
    by_paper = select(SCORES, k=2, teacher_tasks=TEACHERS, split="dev", rule="paper")
    assert by_paper.chosen == ("mt-2", "mt-1")  # 0.74, 0.70, 0.70: a tie, exact in spite of 0.80 + 0.60
    assert [r.member for r in by_mean.ranking] == ["mt-3", "mt-1", "mt-2"]
    assert by_mean.ranking[0].key_value == pytest.approx((0.70 + 0.70 + 0.91) / 3, abs=1e-15)
    assert (by_mean.split, by_paper.split) == ("selection", "dev")
    assert by_paper.rule_in_words.endswith("mnli, rte.")


def test_ties_across_the_cut_go_by_name_and_say_so() -> None:
    result = select(SCORES, k=2, teacher_tasks=TEACHERS, split="dev", rule="paper")
    assert [r.member for r in result.ranking] == ["mt-2", "mt-1", "mt-3"]
    reasons = {r.member: r.reason for r in result.ranking}
    assert reasons["mt-1"].endswith("tied with mt-3, the name decided.")
    assert reasons["mt-3"].endswith("tied with mt-1, the name decided.")
    assert "tied" not in reasons["mt-2"]
    inside = select(SCORES, k=3, teacher_tasks=TEACHERS, split="dev", rule="paper")
    assert not any("tied" in r.reason for r in inside.ranking)  # nothing hung on the name
    assert "plain string order" in result.tie_break


def test_json_holds_every_member_with_a_reason() -> None:
    written = json.loads(json.dumps(select(SCORES, k=1, teacher_tasks=TEACHERS, split="selection").to_json()))
    assert written.keys() == {"ranking", "chosen", "rule", "rule_in_words", "tie_break", "split"}
    assert written["chosen"] == ["mt-3"]
    assert {row["member"]: row["scores"] for row in written["ranking"]} == SCORES
    assert [row["chosen"] for row in written["ranking"]] == [True, False, False]
    first, second, _ = (row["reason"] for row in written["ranking"])
    assert first == "Chosen: place 1 of 3, key 0.7700 (mnli 0.7000, rte 0.7000, qqp 0.9100)."
    assert second == (
        "Left out: place 2 of 3, key 0.7667 (mnli 0.8000, rte 0.6000, qqp 0.9000), 0.0033 below the last chosen, mt-3."
    )
    assert "1 of 3 members" in written["rule_in_words"]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=3, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_the_members_in_the_dict_does_not_matter(values: list[float], random) -> None:
    scores = {f"mt-{i}": {"a": value, "b": values[-1 - i]} for i, value in enumerate(values)}
    shuffled = list(scores.items())
    random.shuffle(shuffled)
    one = select(scores, k=2, teacher_tasks=("a", "b"), split="selection")
    two = select(dict(shuffled), k=2, teacher_tasks=("b", "a"), split="selection")
    assert one.chosen == two.chosen
    keys = [r.key_value for r in one.ranking]
    assert keys == sorted(keys, reverse=True)
    # Mirrored scores make mt-0 and the last member tie exactly, whatever the order of summation.
    of = {r.member: r.key_value for r in one.ranking}
    assert of["mt-0"] == of[f"mt-{len(values) - 1}"]


def test_equal_sums_tie_whatever_the_order_of_their_terms() -> None:
    assert 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1  # plain sums would rank these two by rounding
    scores = {"mt-2": {"a": 0.1, "b": 0.2, "c": 0.3}, "mt-1": {"a": 0.3, "b": 0.2, "c": 0.1}}
    result = select(scores, k=1, teacher_tasks=("a", "b", "c"), split="selection")
    assert result.ranking[0].key_value == result.ranking[1].key_value
    assert result.chosen == ("mt-1",)


def test_a_member_left_out_is_measured_against_the_last_chosen() -> None:
    last = select(SCORES, k=2, teacher_tasks=TEACHERS, split="selection").ranking[-1]
    # 0.76667 - 0.72667, and not the distance to the first.
    assert last.reason.endswith("0.0400 below the last chosen, mt-1.")


def test_all_members_may_be_chosen() -> None:
    result = select(SCORES, k=3, teacher_tasks=TEACHERS, split="selection")
    assert set(result.chosen) == set(SCORES)
    assert all(r.reason.startswith("Chosen") for r in result.ranking)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 4}, r"k=4 from 3 members, expected 1\.\.3; .*train more members"),
        ({"k": 0}, "k=0 from 3 members"),
        ({"rule": "best"}, f"'best' is not known, expected one of {', '.join(RULES)}"),
        ({"teacher_tasks": ()}, "got no teacher tasks"),
        ({"teacher_tasks": ("mnli", "nli")}, "member 'mt-1' has none of nli, only mnli, rte, qqp, cola"),
        (
            {"rule": "paper", "scores": {m: {"nli": 0.5} for m in SCORES}},
            "has none of mnli, rte, only nli; add both tasks to the run or use rule 'mean_teacher_tasks'",
        ),
        ({"scores": {**SCORES, "mt-2": {**SCORES["mt-2"], "rte": math.nan}}}, "member 'mt-2' has scores {'rte': nan}"),
    ],
)
def test_wrong_input_is_refused(changes: dict, message: str) -> None:
    good = {"scores": SCORES, "k": 2, "teacher_tasks": TEACHERS, "split": "selection"}
    with pytest.raises(ValueError, match=message):
        select(**{**good, **changes})
