"""The committed notebooks as files: no outputs, one cell of parameters that papermill reads as we do, a question for a
title, a last cell that asserts; and the pages made of them."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import papermill
import pytest

from core.notebook import FIELDS, declared_in
from core.plan import STAGES

ROOT = Path(__file__).resolve().parents[1]
# The stage that each notebook brings its run to.
BRINGS = {
    **{f"{i}_{stage}": stage for i, stage in enumerate([stage for stage in STAGES if stage != "pretrain"], start=1)},
    "8_dark_knowledge": "evaluate",
}
NAMES = sorted(BRINGS)
COMMON = {"run_dir": "runs/notebooks", "preset": "smoke", "workers": None, "update": False, "task": None}
LONGEST_FUNCTION = 15
ABSOLUTE = re.compile(r"(?<![\w.])/(work|home|root|Users|mnt|tmp)/\w+")


def path_of(name: str) -> Path:
    return ROOT / "notebooks" / f"{name}.ipynb"


def read(name: str) -> dict[str, Any]:
    return dict(json.loads(path_of(name).read_text(encoding="utf-8")))


def sources(name: str, kind: str = "code") -> list[str]:
    return ["".join(cell["source"]) for cell in read(name)["cells"] if cell["cell_type"] == kind]


def parameters_cell(name: str) -> dict[str, Any]:
    (cell,) = [cell for cell in read(name)["cells"] if "parameters" in cell["metadata"].get("tags", ())]
    return dict(cell)


def test_there_are_eight() -> None:
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == NAMES
    assert len(NAMES) == 8


@pytest.mark.parametrize("name", NAMES)
def test_it_carries_no_outputs_and_nothing_of_a_machine(name: str) -> None:
    notebook = read(name)
    assert notebook["metadata"].keys() == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"] == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    for cell in notebook["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
        assert cell["metadata"].keys() <= {"tags"}
    assert ABSOLUTE.search(path_of(name).read_text(encoding="utf-8")) is None


@pytest.mark.parametrize("name", NAMES)
def test_cells_have_names_of_their_own(name: str) -> None:
    ids = [cell["id"] for cell in read(name)["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z][a-z-]*", cell_id) for cell_id in ids)


@pytest.mark.parametrize("name", NAMES)
def test_the_title_is_a_question(name: str) -> None:
    first = read(name)["cells"][0]
    assert first["cell_type"] == "markdown"
    title = "".join(first["source"]).partition("\n")[0]
    assert title.startswith(f"# {name[0]} · ")
    assert title.endswith("?")
    assert sum(text.startswith("# ") for text in sources(name, "markdown")) == 1


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_typed_literals_that_papermill_reads_as_we_do(name: str) -> None:
    cell = parameters_cell(name)
    source = "".join(cell["source"])
    assert source == sources(name)[0], "the first code cell"
    declared = declared_in(source)
    lines = source.splitlines()
    assert len(lines) == len(declared), "one line each and nothing else"
    for line, (key, (kind, default)) in zip(lines, declared.items(), strict=True):
        assert re.fullmatch(rf"{key}: {kind.__name__} = [^=]+  # [^=]+", line), line
        assert key in COMMON or default is None, "None: as the run has it"
    assert {key: declared[key].default for key in COMMON} == COMMON
    assert declared.keys() - COMMON.keys() <= FIELDS.keys()
    # papermill drops what it cannot infer without a word, and would then call it unknown.
    seen = papermill.inspect_notebook(str(path_of(name)))
    assert {key: row["inferred_type_name"] for key, row in seen.items()} == {
        key: line.kind.__name__ for key, line in declared.items()
    }
    assert all(row["help"] for row in seen.values())


def test_distillation_can_be_asked_for_otherwise() -> None:
    declared = declared_in("".join(parameters_cell("6_distill")["source"]))
    assert {"alpha", "temperature", "loss", "seeds", "variants"} <= declared.keys()


@pytest.mark.parametrize("name", NAMES)
def test_it_checks_its_parameters_and_brings_its_stage(name: str) -> None:
    second = sources(name)[1]
    assert "params = parameters(globals())\n" in second
    assert f'run = bring(params, stage="{BRINGS[name]}")\n' in second
    assert re.search(r"^from core\.notebook import ", second, re.M)


@pytest.mark.parametrize("name", NAMES)
def test_it_has_no_logic_of_its_own(name: str) -> None:
    imported = set()
    for source in sources(name):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                assert isinstance(node, ast.FunctionDef)
                assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, node.name
            if isinstance(node, ast.While):
                raise AssertionError(f"{name}: a loop that looks like a training")
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
    assert imported <= {"numpy", "pyarrow.compute"} | {module for module in imported if module.startswith("core.")}
    assert any(module.startswith("core.plots") for module in imported)
    assert any(module.startswith("core.views") for module in imported)


@pytest.mark.parametrize("name", NAMES)
def test_its_last_cell_asserts(name: str) -> None:
    last = read(name)["cells"][-1]
    assert last["cell_type"] == "code"
    found = [node for node in ast.walk(ast.parse("".join(last["source"]))) if isinstance(node, ast.Assert)]
    assert len(found) >= 3
    text = "".join(last["source"])
    assert "show(" not in text
    assert "say(" not in text


@pytest.mark.parametrize("name", NAMES)
def test_links_between_notebooks_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\((\w+)\.ipynb\)", "\n".join(sources(name, "markdown"))):
        assert target in NAMES


def requests_of(page: str) -> None:
    """One script, beside the page; where it is missing the same bytes from plotly's server, and nothing else."""
    assert re.findall(r'<script src="([^"]+)" onerror="elsewhere\(\)"', page) == ["plotly.min.js"]
    (address,) = re.findall(r"""(?:src|href)=["']?((?:https?:)?//[^"]+)""", page)
    assert re.fullmatch(r"https://cdn\.plot\.ly/plotly-[\d.]+\.min\.js", address)
    assert re.search(r'crossorigin="anonymous" integrity="sha256-[\w+/]{43}="', page)


@pytest.mark.parametrize("name", NAMES)
def test_its_page_is_committed_and_stands_alone(name: str) -> None:
    page = ROOT / "docs" / "rendered" / f"{name}.html"
    text = page.read_text(encoding="utf-8")
    assert ABSOLUTE.search(text) is None
    requests_of(text)
    assert '"showSendToCloud":true' not in text
    assert text.count('class="figure"') >= 1
    assert page.stat().st_size < 400_000
    title = "".join(read(name)["cells"][0]["source"]).partition("\n")[0].removeprefix("# ")
    assert f"<title>{title.replace(chr(39), '&#x27;')}</title>" in text, "make notebooks writes it again"
