"""Every field of a configuration as a row: how `--set` names it, what it takes, its value, what it means.

Read from the models of core/sections and core/config, so that neither `python -m core config` nor docs/config.md, which
is the same rows in Markdown (`make docs`), can differ from the code.

Not here: what must hold between fields (core/checks, core/config); that is said when it does not.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.config import Config
from core.tasks import did_you_mean

WORDS: dict[Any, str] = {int: "whole number", float: "number", bool: "true or false", str: "text"}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
# Where a section is the entry of a list or mapping, its fields have no path that `--set` takes one by one.
ENTRIES = {"multitask.pool": "an entry of multitask.pool", "distill.per_task": "a task of distill.per_task"}


class Row(NamedTuple):
    """`value` and `default` as `--set` takes them; `value` is the asked preset's, None in an entry of a list."""

    name: str
    takes: str
    value: str | None
    default: str
    meaning: str


class Part(NamedTuple):
    """A section of the configuration; `name` is "" for the fields that belong to none."""

    name: str
    about: str
    rows: list[Row]


def parts(config: Config) -> list[Part]:
    """All of them in the order of `run.json`, with the values of `config`."""
    sections, entries = [Part("", "Fields of the whole run.", [])], []
    for name, field in Config.model_fields.items():
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            sections[0].rows.append(_row(name, field, getattr(config, name)))
            continue
        section = getattr(config, name)
        rows = []
        for key, inner in field.annotation.model_fields.items():
            rows.append(_row(f"{name}.{key}", inner, getattr(section, key)))
            for model in _models_in(inner.annotation):
                own = [_row(k, f) for k, f in model.model_fields.items()]
                entries.append(Part(ENTRIES[f"{name}.{key}"], _about(model), own))
        sections.append(Part(name, _about(field.annotation), rows))
    return [*sections, *entries]


def chosen(config: Config, wanted: str | None) -> list[Part]:
    """The part called `wanted`, or the one field `section.field`; all of them for None. Raises `ValueError` for a name
    that is none of them."""
    found = parts(config)
    if wanted is None:
        return found
    whole = [part for part in found if part.name == wanted]
    one = [part._replace(rows=[row for row in part.rows if row.name == wanted]) for part in found]
    known = [*(part.name for part in found if part.name), *(row.name for part in found for row in part.rows)]
    if wanted not in known:
        raise ValueError(
            f"there is no section or field '{wanted}'{did_you_mean(wanted, known)} Sections: {', '.join(known[:10])}"
        )
    return whole or [part for part in one if part.rows]


def _about(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    for inner in get_args(annotation):
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield inner
        yield from _models_in(inner)


def _row(name: str, field: FieldInfo, value: Any = ...) -> Row:
    limits = [f"{SIGNS[kind]} {getattr(one, kind):g}" for one in field.metadata for kind in SIGNS if hasattr(one, kind)]
    default = _written(field.get_default())
    shown = None if value is ... else _written(value)
    return Row(name, ", ".join([_takes(field.annotation), *limits]), shown, default, field.description or "")


def _takes(annotation: Any) -> str:
    """ "number", "list of text", "one of a, b": in words."""
    origin, inner = get_origin(annotation), [one for one in get_args(annotation) if one not in (type(None), ...)]
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (Union, types.UnionType):
        return ", ".join(dict.fromkeys(map(_takes, inner))) + " or null"
    if origin is tuple:
        return f"list of {_takes(inner[0])}".replace("one of ", "")
    if origin is dict:
        return f"{{task: {_takes(inner[1])}}}"
    return WORDS.get(annotation, "fields, see below")


def _written(value: Any) -> str:
    """As YAML on one line, which JSON is."""
    if isinstance(value, str):
        return value
    plain = value.model_dump(exclude_none=True) if isinstance(value, BaseModel) else value
    if isinstance(plain, tuple | list):
        return f"[{', '.join(map(_written, plain))}]"
    return f"{plain:g}" if isinstance(plain, float) else json.dumps(plain)


# ---- shown ---------------------------------------------------------------------------------------------------------
def render_fields(found: list[Part], console: Console) -> None:
    """A table a section; a value that is not the default is bold."""
    for part in found:
        table = Table(title=escape(f"{part.name}: {part.about}" if part.name else part.about), title_justify="left")
        for column in ("field", "value", "takes", "meaning"):
            table.add_column(column, overflow="fold", no_wrap=column == "field")
        for row in part.rows:
            value = escape(row.default if row.value is None else row.value)
            table.add_row(
                row.name, value if row.value in (None, row.default) else f"[bold]{value}[/bold]", escape(row.takes),
                escape(row.meaning),
            )  # fmt: skip
        console.print(table)


def as_markdown(found: list[Part]) -> str:
    """docs/config.md: fields with their defaults."""
    lines = [
        "# Every field of the configuration",
        "",
        "Written by `make docs` from `core/sections.py`. `--set distill.alpha=0.3` sets a field, a YAML file with",
        "these sections sets many (`--config my.yaml`); values are YAML, `null` is none. A preset starts from these",
        "defaults and changes some: `python -m core config --preset paper` shows its values, `python -m core",
        "config distill` one section. What does not go together is refused with a remedy.",
    ]
    for part in found:
        lines += ["", f"## {part.name or 'the run'}", "", part.about, ""]
        lines += ["| field | default | takes | meaning |", "|---|---|---|---|"]
        for row in part.rows:
            cells = (f"`{row.name}`", f"`{row.default}`", row.takes, row.meaning)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
