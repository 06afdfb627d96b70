"""The shape of the code itself: imports point one way, torch stays below its line, every file introduces itself, every
config field says what it is, and nothing is bound to this machine.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from core.config import Config

ROOT = Path(__file__).resolve().parents[1]

# A module imports only modules above it. A folder is one entry; inside it the order is its own.
ORDER = """
    __init__ tasks sections checks config presets fields calibration bootstrap metric_inputs metrics comparisons
    ensemble combining targets selection synthetic files locks store
    ranks plan checksums report submission views status plots refit findings
    ---- above this line: no torch ----
    readers columns data telling_tasks device tokens batching losses heads attention encoder graphs model parallel
    checkpoint optim speed predict train rtd blocks pretrain stages workers artifacts engine_ray progress pipeline
    workload cost importing ask streams answering exported card export notebook notebooks sweep experiment endings
    commands cli __main__
"""
NO_TORCH, BELOW = (part.split() for part in ORDER.split("---- above this line: no torch ----"))
UNITS = [*NO_TORCH, *BELOW]

SOURCES = sorted((ROOT / "core").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_LINES = 350


def unit(path: Path) -> str:
    """`core/stages/distill.py` -> `stages`, `core/plan.py` -> `plan`."""
    return path.relative_to(ROOT / "core").with_suffix("").parts[0]


def imported_units(tree: ast.AST) -> Iterator[str]:
    """Names of the modules of core/ that are imported anywhere in a file, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            # `from core import plan` names modules, `from core.plan import Job` names things in one.
            modules = [f"core.{alias.name}" for alias in node.names] if node.module == "core" else [node.module or ""]
        else:
            continue
        yield from (name.split(".")[1] for name in modules if name.startswith("core."))


def test_every_module_has_a_place_in_the_order() -> None:
    assert len(UNITS) == len(set(UNITS))
    assert {unit(path) for path in SOURCES} == set(UNITS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_upwards(path: Path) -> None:
    own = unit(path)
    for name in imported_units(ast.parse(path.read_text(encoding="utf-8"))):
        assert name == own or UNITS.index(name) < UNITS.index(own), f"{path.name} imports core.{name}, which is below"


def test_the_checker_sees_imports() -> None:
    """Of every form, or the test above would pass on anything."""
    code = "import core.plan\nfrom core import store\nfrom core.tasks import Task\ndef f():\n    import core.cli\n"
    assert list(imported_units(ast.parse(code))) == ["plan", "store", "tasks", "cli"]
    found = {name for path in SOURCES for name in imported_units(ast.parse(path.read_text(encoding="utf-8")))}
    assert len(found) > 20


def test_no_torch_above_the_line() -> None:
    """In one fresh process: a module above the line must not even pull torch in through another."""
    modules = [f"core.{name}" for name in NO_TORCH if name != "__init__"]
    code = (
        f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)), len([m for m in sys.modules if m[:5] == 'core.']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded, _, n_modules = done.stdout.strip().rpartition(" ")
    assert loaded == "[]"
    assert int(n_modules) >= len(modules)


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_introduce_themselves_and_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, f"{path} has no docstring"
    n_lines = len(text.splitlines())
    says_why = f"Over {MAX_LINES} lines" in docstring
    assert n_lines <= MAX_LINES or says_why, f"{path} has {n_lines} lines; split it, or say in its docstring why not"


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from sections(field.annotation)


def test_every_config_field_says_what_it_is() -> None:
    found = list(sections(Config))
    assert len(found) == 11  # Config and its ten sections
    for section in found:
        for name, field in section.model_fields.items():
            is_section = field.annotation in found
            assert is_section or field.description, f"{section.__name__}.{name} has no description"


def project_files() -> list[Path]:
    """Everything that is text and part of the project, not what a run or a tool leaves behind."""
    folders = ("core", "tests", "app", "notebooks", "benchmarks", "docs", ".ci")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    top = [path for path in ROOT.iterdir() if path.suffix or path.name == "Makefile"]
    texts = (".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".json", ".ipynb", ".css", "")
    return [path for path in (*inside, *top) if path.is_file() and path.suffix in texts]


def test_nothing_is_bound_to_this_machine() -> None:
    files = project_files()
    assert len(files) > 50
    for path in files:
        text = path.read_text(encoding="utf-8")
        found = re.search(r"(?<![\w.])/(work|home|root|Users|mnt)/\w+", text)
        assert found is None, f"{path} holds the absolute path {found and found.group()!r}"


def test_no_pickle() -> None:
    for path in project_files():
        text = path.read_text(encoding="utf-8")
        found = re.search(r"^\s*(import|from) (c?pickle|dill|joblib)\b|allow_pickle=True|torch\.load\(", text, re.M)
        assert found is None or path == Path(__file__), f"{path}: {found and found.group()!r}"


# What would let a data file, a model's folder or a task file run code, or a page render data as markup.
RUNS_CODE = (
    r"trust_remote_code=(?!False)|\"trust_remote_code\": (?!False)|weights_only=False|use_safetensors=False|"
    r"yaml\.(unsafe_load|full_load)\(|yaml\.load\((?!text, yaml\.BaseLoader)|(?<![\w.])(eval|exec)\(|shell=True|"
    r"os\.system\(|read_pickle|extractall\(|unsafe_allow_html=True"
)


def test_nothing_runs_code_that_comes_with_data() -> None:
    """models load with `trust_remote_code=False` and `use_safetensors=True`; YAML by its safe loaders."""
    sources = [path for path in project_files() if path.suffix in (".py", ".ipynb") and "tests" not in path.parts]
    assert len(sources) > 50
    for path in sources:
        found = re.search(RUNS_CODE, path.read_text(encoding="utf-8"))
        assert found is None, f"{path}: {found and found.group()!r}"
    n_loads = 0
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "from_pretrained"
            ):
                said = [ast.unparse(keyword) for keyword in node.keywords]
                assert {"trust_remote_code=False", "**SAFE"} & set(said), f"{path} line {node.lineno}"
                n_loads += 1
    assert n_loads >= 4
    assert '"trust_remote_code": False, "use_safetensors": True' in (ROOT / "core" / "encoder.py").read_text("utf-8")
    for wrong in ("model(trust_remote_code=True)", "yaml.load(x)", "x = eval(text)", "run(c, shell=True)"):
        assert re.search(RUNS_CODE, wrong)
