"""Names of models taken apart: the inverse of core/plan's names, and the mapping of imported runs."""

from __future__ import annotations

import pytest

from core.config import resolve_tasks
from core.plan import ensemble_name, make_jobs, scored_models, student_name, teacher_name
from core.presets import load_config
from core.views.roles import Role, role_of, stated_roles

TASKS = ("nli", "a-b", "a-b-f0", "x.y")


def test_roles_invert_the_plans_names() -> None:
    for task in TASKS:
        assert role_of(teacher_name("mt-12", task), TASKS) == Role("teacher", task=task)
    assert role_of(teacher_name("mt-1", "nli", 3), TASKS) == Role("teacher", task="nli", fold=3)
    assert role_of("ft-1-a-b-f0", TASKS) == Role("teacher", task="a-b-f0")  # such a task exists
    assert role_of("ft-1-a-b-f0", ("a-b",)) == Role("teacher", task="a-b", fold=0)
    assert role_of(student_name("label_smoothing", 11), TASKS) == Role("student", variant="label_smoothing", seed=11)
    assert role_of(student_name("kd", 0, 3), TASKS) == Role("student", variant="kd-g3", seed=0)
    assert role_of("st-kd-s2-ft-a-b", TASKS) == Role("student", task="a-b", variant="kd-ft", seed=2)
    assert role_of(ensemble_name("mean_probs"), TASKS) == Role("ensemble")
    assert role_of("soup-greedy", TASKS) == Role("soup")
    assert role_of("mt-2-f1", TASKS) == Role("member", fold=1)


@pytest.mark.parametrize(
    "name", ["", "mt-", "mt-x", "ft-1-", "ft-1-unknown", "st-kd", "st-kd-s", "st-kd-s0-ft-q", "ens-", "pt-1", "../x"]
)
def test_other_names_have_no_role(name: str) -> None:
    assert role_of(name, TASKS) is None


def test_every_scored_model_of_a_rich_plan_has_a_role() -> None:
    settings = (
        'distill.variants=["hard","kd","label_smoothing","cwtm","dkpp","adaptive_smoothing","truth"]',
        "distill.generations=3", "distill.finetuned=[kd]", "ensemble.compare=[geometric_mean]",
        "ensemble.soups=[uniform,greedy]", "ensemble.targets=out_of_fold",
    )  # fmt: skip
    config = load_config("smoke", None, settings)
    tasks = resolve_tasks(config)
    jobs = make_jobs(config, tasks, source_digest="", chosen=list(config.multitask.members))
    models = scored_models(config, jobs)
    assert len(models) > 25
    roles = {name: role_of(name, tasks) for name in models}
    assert all(roles.values())
    assert {role.kind for role in roles.values() if role} == {"member", "teacher", "ensemble", "soup", "student"}
    seeds = {name: seed for name, seed in models.items() if name.startswith("st-")}
    assert {name: role.seed for name, role in roles.items() if role and role.kind == "student"} == seeds


def test_stated_roles() -> None:
    stated = {"a": "teacher", "b": "ensemble", "s": "student", "t": "student:kd", "u": "student:kd-g2:4", "v": "member"}
    roles = stated_roles(stated, where="run.json")
    assert roles["s"] == Role("student", variant="kd", seed=0)
    assert roles["t"] == Role("student", variant="kd", seed=1)
    assert roles["u"] == Role("student", variant="kd-g2", seed=4)
    assert roles["b"] == Role("ensemble")


def test_a_model_may_be_called_like_the_voice_it_is() -> None:
    assert set(stated_roles({"teacher": "teacher", "kd": "student:kd"}, where="x")) == {"teacher", "kd"}
    assert stated_roles({"teacher": "ensemble", "a": "teacher"}, where="x")["teacher"] == Role("ensemble")


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "expected a mapping"),
        ({"a": "techer"}, "did you mean 'teacher'"),
        ({"a": None}, "has the role None"),
        ({"a": "teacher:1"}, "expected 'teacher' alone"),
        ({"a": "student:kd:x"}, "student:VARIANT:SEED"),
        ({"a": "student:kd:0:1"}, "student:VARIANT:SEED"),
        ({"a": "student::0"}, "student:VARIANT:SEED"),
        ({"a": "student:kd:0", "b": "student:kd:0"}, "second student 'kd' with seed 0"),
        ({"../../etc": "teacher"}, "more than letters"),
        ({"truth": "teacher"}, "means something else"),
        ({"teacher": "teacher", "b": "teacher"}, "here stands for"),
        ({"teacher": "student"}, "here stands for"),
        ({"kd": "teacher", "s": "student:kd"}, "here stands for"),
    ],
)
def test_stated_roles_that_are_refused(models: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stated_roles(models, where="run.json")
