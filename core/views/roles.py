"""What a model is, from its name: the one place that takes names apart (core/plan puts them together).

    mt-2                 member                       ens-mean_probs     ensemble
    ft-2-nli             teacher of a task            soup-greedy        soup
    ft-2-nli-f0, mt-2-f0 the same without a fold      st-kd-s0           student: variant, seed
    pt-1                 pre-trained encoder: silent  st-kd-g2-s0        "kd-g2": its second generation
                                                      st-kd-s0-ft-nli    "kd-ft": fine-tuned on a task

A run that was imported (`"imported": true` in `run.json`) may name its models as it likes; `run.json` then says what
they are, `"models": {"my-bert": "student:kd:0"}`, see `stated_role`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from core.tasks import did_you_mean

Kind = Literal["member", "teacher", "ensemble", "soup", "student"]
KINDS: tuple[Kind, ...] = ("member", "teacher", "ensemble", "soup", "student")
# Voices that are no model; a model of such a name would be taken for them.
RESERVED = ("gold", "truth", "humans")
MODEL_NAME = re.compile(r"\w[\w.-]*")  # it becomes a folder's name

_MEMBER = re.compile(r"mt-(\d+)(?:-f(?P<fold>\d+))?")
_TEACHER = re.compile(r"ft-\d+-(?P<rest>.+)")
_FOLD = re.compile(r"-f(?P<fold>\d+)")
_STUDENT = re.compile(r"st-(?P<variant>[^-]+(?:-g\d+)?)-s(?P<seed>\d+)(?:-ft-(?P<task>.+))?")


class Role(NamedTuple):
    """`task`: the one that a teacher or a fine-tuned student is of (None: all that it has predictions on). `variant`
    and `seed` belong to students. `fold`: of a model that was not trained on this fold and labels it."""

    kind: Kind
    task: str | None = None
    variant: str | None = None
    seed: int | None = None
    fold: int | None = None


def role_of(name: str, tasks: Iterable[str]) -> Role | None:
    """The role that `name` says, or None: it is not one of core/plan's names. `tasks` are the run's: a task's name may
    hold hyphens, and `ft-1-a-f0` is a teacher of `a-f0` where there is such a task, else one of `a` without a fold."""
    known = set(tasks)
    if match := _MEMBER.fullmatch(name):
        return Role("member", fold=_number(match["fold"]))
    if match := _TEACHER.fullmatch(name):
        rest = match["rest"]
        if rest in known:
            return Role("teacher", task=rest)
        fold = re.search(_FOLD.pattern + "$", rest)
        if fold and rest[: fold.start()] in known:
            return Role("teacher", task=rest[: fold.start()], fold=int(fold["fold"]))
        return None
    if match := _STUDENT.fullmatch(name):
        if match["task"] is not None and match["task"] not in known:
            return None
        variant = match["variant"] + ("-ft" if match["task"] else "")
        return Role("student", task=match["task"], variant=variant, seed=int(match["seed"]))
    for prefix, kind in (("ens-", "ensemble"), ("soup-", "soup")):
        if name.startswith(prefix) and len(name) > len(prefix):
            return Role(kind)  # type: ignore[arg-type]
    return None


def stated_roles(models: Any, *, where: str) -> dict[str, Role]:
    """The roles of an imported run's `models`, a mapping from model name to role::

        {"bert-a": "teacher", "bert-b": "teacher", "mix": "ensemble", "tiny": "student:kd:0", "plain": "student:hard:0"}

    A role is `member`, `teacher`, `ensemble`, `soup` or `student:VARIANT:SEED`; `student` alone is variant kd, and
    students without a seed count up from 0 in the order of the file. Raises `ValueError` that names `where`.
    """
    if not isinstance(models, Mapping):
        raise ValueError(f"{where}: 'models' is a {type(models).__name__}, expected a mapping of model name to role")
    roles: dict[str, Role] = {}
    for name, text in models.items():
        if not MODEL_NAME.fullmatch(str(name)):
            raise ValueError(f"{where}: model name {name!r} in 'models' has more than letters, digits, '_', '-', '.'")
        if name in RESERVED:
            raise ValueError(f"{where}: a model is called '{name}', which means something else here; rename it")
        roles[name] = _stated_role(str(name), text, roles, where)
    for voice in ("teacher", *(role.variant for role in roles.values() if role.variant)):
        _check_clash(voice, roles, where)
    return roles


def _stated_role(name: str, text: Any, before: Mapping[str, Role], where: str) -> Role:
    kind, *rest = str(text).split(":")
    if kind not in KINDS:
        raise ValueError(
            f"{where}: model '{name}' has the role {text!r}{did_you_mean(kind, KINDS)} Expected one of "
            f"{', '.join(KINDS)}; a student as student:VARIANT:SEED"
        )
    if kind != "student":
        if rest:
            raise ValueError(f"{where}: model '{name}' has the role {text!r}, expected '{kind}' alone")
        return Role(kind)
    variant, seed_text, *more = [*rest, *("kd", "")[len(rest) :]]
    if more or not re.fullmatch(r"\w[\w-]*", variant) or not re.fullmatch(r"\d*", seed_text):
        raise ValueError(f"{where}: model '{name}' has the role {text!r}, expected student:VARIANT:SEED")
    taken = {role.seed for role in before.values() if role.variant == variant}
    seed = int(seed_text) if seed_text else next(i for i in range(len(taken) + 1) if i not in taken)
    if seed in taken:
        raise ValueError(f"{where}: model '{name}' is a second student '{variant}' with seed {seed}; number the seeds")
    return Role("student", variant=variant, seed=seed)


def _check_clash(voice: str, roles: Mapping[str, Role], where: str) -> None:
    """A model called like a voice is fine where it is the only one behind that voice."""
    if voice not in roles:
        return
    behind = [name for name, role in roles.items() if role.variant == voice]
    if voice == "teacher":
        kinds = ("ensemble",) if any(role.kind == "ensemble" for role in roles.values()) else ("teacher",)
        behind = [name for name, role in roles.items() if role.kind in kinds]
    if behind != [voice]:
        raise ValueError(f"{where}: a model is called '{voice}', which here stands for {behind}; rename the model")


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
