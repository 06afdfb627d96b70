"""A notebook's parameters: read from the source of its cells, checked by name and type.

papermill accepts a misspelt parameter, logs a line and goes on with the default (measured on 2.7); `parameters` looks
at what was injected and refuses it, so that `papermill ... -p alpah 0.3` fails as it should.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool, "list": list}
INJECTED = "# Parameters"  # first line of the cell that papermill adds


class Refused(ValueError):  # noqa: N818 (not an error of the code: the person's, who is told what to do)
    """A mistake that its sentence explains. In a notebook the sentence stands alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython's own protocol
        return [f"\x1b[1;31merror:\x1b[0m {self}"]


class Declared(NamedTuple):
    """A line `alpha: float = None  # ...` of a parameters cell."""

    kind: type
    default: Any


def declared_in(source: str) -> dict[str, Declared]:
    """Name -> type and default of the annotated lines of a cell. Raises `ValueError` for a type that papermill cannot
    read (`int | None`) and a default that is no literal: it would be computed before the parameters are injected."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            name, kind = node.target.id, ast.unparse(node.annotation)
            if kind not in TYPES:
                raise ValueError(f"parameter '{name}' is declared as '{kind}', expected one of {', '.join(TYPES)}")
            found[name] = Declared(TYPES[kind], ast.literal_eval(node.value))
    return found


def parameters(namespace: Mapping[str, Any]) -> SimpleNamespace:
    """The notebook's parameters, with their declared types. `namespace` is `globals()`; IPython keeps the source of
    every cell in it. Raises `Refused` for a name that is not declared and a value of another type.

    Example: `params = parameters(globals()); params.alpha`."""
    injected, declared = "", dict[str, Declared]()
    for source in reversed(namespace["In"]):
        if source.startswith(INJECTED):
            injected = injected or source
            continue
        try:
            declared = declared_in(source)
        except SyntaxError:  # a cell that was never run to its end
            continue
        if declared:
            break
    targets = [node.targets[0] for node in ast.parse(injected).body if isinstance(node, ast.Assign)]
    names = dict.fromkeys((*declared, *(target.id for target in targets if isinstance(target, ast.Name))))
    return SimpleNamespace(**checked(declared, {name: namespace[name] for name in names}))


def checked(declared: Mapping[str, Declared], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` as declared, defaults for the rest. Raises `Refused` as `parameters` does."""
    for name in values:
        if name not in declared:
            near = difflib.get_close_matches(name, declared, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else "."
            raise Refused(f"unknown parameter '{name}'{hint} This notebook has: {', '.join(declared)}")
    return {name: typed(name, values.get(name, line.default), line) for name, line in declared.items()}


def typed(name: str, value: Any, declared: Declared) -> Any:
    """`value` as the declared type. A whole number may stand for a float; a text never stands for a number or a list.
    None, "as the run has it", where it is the default."""
    if value is None and declared.default is None:
        return None
    try:
        return TypeAdapter(declared.kind).validate_python(value, strict=True)
    except ValidationError:
        or_none = " or None" if declared.default is None else ""
        raise Refused(
            f"parameter '{name}' is {value!r} ({type(value).__name__}), expected {declared.kind.__name__}{or_none}"
        ) from None
