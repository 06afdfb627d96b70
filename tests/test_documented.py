"""Nothing is left out of the documents: every field of the configuration, every command and option, every file, column
and key of a run directory, every field of a task file. What is written from code is compared with the code, what is
written by hand with runs; in both directions, so that nothing is documented that is no more.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from conftest import Finished, go, log_lines, tiny

from core.cli import app
from core.config import Config
from core.fields import chosen, parts
from core.presets import PRESETS
from core.store import Run
from core.tasks import _YAML_FIELDS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

# Documented, and of no finished run: why.
PASSING = {".lock": "only while somebody writes", "models/<model>/checkpoint-<key>.safetensors": "only while training"}


def table(path: Path, heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its own head."""
    section = re.split(r"^#+ ", path.read_text(encoding="utf-8"), flags=re.M)
    [body] = [part for part in section if part.startswith(heading + "\n")]
    rows = [line.strip("|").split("|") for line in body.splitlines() if line.startswith("|")]
    assert len(rows) > 2, f"{path.name} has no table below '{heading}'"
    return [[cell.strip() for cell in row] for row in rows[2:]]


def words(text: str) -> set[str]:
    """What stands in backticks."""
    return set(re.findall(r"`([^`]+)`", text))


# ---- make docs -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the lines of `make docs` write, into another folder."""
    out = tmp_path_factory.mktemp("docs")
    lines = subprocess.run(["make", "-n", "docs"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    recipe = [line for line in lines.splitlines() if line.startswith(".venv/bin/") and "pip install" not in line]
    assert len(recipe) == 3
    for line in recipe:
        line = line.replace("-t docs/pdoc", "-t DOCS/pdoc").replace("docs/", f"{out}/").replace("DOCS/", "docs/")
        line = re.sub(r"(?<!\S)\.venv/bin/python", sys.executable, line)
        line = re.sub(r"(?<!\S)\.venv/bin/", f"{Path(sys.executable).parent}/", line)
        done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), line
    return out


@pytest.mark.parametrize("name", ["config.md", "commands.md"])
def test_what_is_committed_is_what_make_docs_writes(made: Path, name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == (made / name).read_text(encoding="utf-8"), "run `make docs`"


def test_every_public_module_has_a_page(made: Path) -> None:
    sources = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "core").rglob("*.py")]
    modules = {path.parent if path.name == "__init__" else path for path in sources if path.name != "__main__"}
    assert len(modules) > 100
    pages = {path.relative_to(made / "api").with_suffix("") for path in (made / "api").rglob("*.html")}
    assert pages == {*modules, Path("index")}
    losses = (made / "api" / "core" / "losses.html").read_text(encoding="utf-8")
    assert "What a student minimises, as per-example functions of logits" in losses
    assert "https://" not in re.sub(r"<style.*?</style>|https://pdoc\.dev", "", losses, flags=re.S)  # read offline


def test_the_readmes_map_has_every_module() -> None:
    """Each file and folder of core/, the package's own apart."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    own = [path for path in (ROOT / "core").iterdir() if not path.name.startswith("__")]
    missing = [path.name for path in own if f"`core/{path.name}" not in readme]
    assert missing == [], "put it into README, 'Where the code is'"


# ---- fields --------------------------------------------------------------------------------------------------------
def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        is_section = isinstance(value, dict) and not prefix and value
        yield from leaves(value, f"{key}.") if is_section else [prefix + key]


def test_every_field_of_a_runs_config_is_documented(everything: Finished) -> None:
    documented = re.findall(r"^\| `([^`]+)`", (DOCS / "config.md").read_text("utf-8"), re.M)
    stored = set(leaves(everything.manifest["config"]))
    assert len(stored) > 100
    entries = {*everything.manifest["config"]["multitask"]["pool"][0], "loss", "alpha", "temperature"}
    assert stored | entries == set(documented)
    rows = [row for part in parts(Config()) for row in part.rows]
    assert all(row.meaning and row.takes and row.default for row in rows)


def test_a_presets_values_are_shown() -> None:
    for preset in PRESETS:
        config = PRESETS[preset]()
        [part] = chosen(config, "distill.epochs")
        assert [(row.name, row.value) for row in part.rows] == [("distill.epochs", str(config.distill.epochs))]
    with pytest.raises(ValueError, match=r"no section or field 'distil'; did you mean 'distill'"):
        chosen(Config(), "distil")


# ---- commands ------------------------------------------------------------------------------------------------------
def commands(command: Any, name: str = "python -m core") -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
    for inner, one in getattr(command, "commands", {}).items():
        yield from commands(one, f"{name} {inner}")


def test_every_command_and_option_is_documented() -> None:
    sections = dict(
        part.split("`\n", 1) for part in re.split(r"^#+ `", (DOCS / "commands.md").read_text("utf-8"), flags=re.M)[1:]
    )
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    found = dict(commands(typer.main.get_command(app)))
    assert len(found) > 10
    for name, command in found.items():
        # As it is read: typer takes square brackets for markup, and what is in them would be gone.
        said = html.unescape(sections[name])
        assert command.help
        assert " ".join(command.help.split()) in " ".join(said.split()), name
        for parameter in command.params:
            about = getattr(parameter, "help", None)
            assert about, f"{name} {parameter.name} has no help"
            assert about in said, f"{name} {parameter.name}: {about!r} is not what is shown"
            assert all(f"`{option}" in said for option in parameter.opts), f"{name} {parameter.name}"
        assert name.removeprefix("python -m ") in readme, f"README does not name `{name}`"


# ---- run directories -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run that pre-trains, and keeps features."""
    few = ("data.tasks=[nli,similarity]", "multitask.dropouts=[0.1]", "select.top_k=1", "distill.seeds=1")
    more = ("pretrain.objective=rtd", "pretrain.sentences=100", "runtime.keep_features=true")
    return go(Run(tmp_path_factory.mktemp("kept") / "run"), tiny(*few, *more))


@pytest.fixture(scope="module")
def runs(smoke: Finished, everything: Finished, folded: Finished, kept: Finished) -> list[Run]:
    return [one.run for one in (smoke, everything, folded, kept)]


def matcher(pattern: str) -> re.Pattern[str]:
    """`models/<encoder>/...` is of pre-trained encoders, `models/<model>/...` of the others."""
    named = {"<encoder>": r"pt-\d+", "<model>": r"(?!pt-)[^/]+"}
    parts = re.split(r"(<[^>]+>)", pattern)
    return re.compile("".join(named.get(p, "[^/]+") if p.startswith("<") else re.escape(p) for p in parts))


def test_every_file_of_a_run_is_documented(runs: list[Run]) -> None:
    patterns = {next(iter(words(row[0]))): row for row in table(DOCS / "run-directory.md", "Files")}
    assert all(len(row) == 3 and row[1] and row[2] for row in patterns.values())
    seen = set()
    for run in runs:
        for path in run.path.rglob("*"):
            name = path.relative_to(run.path).as_posix()
            fits = [pattern for pattern in patterns if matcher(pattern).fullmatch(name)]
            assert path.is_dir() or len(fits) == 1, f"{name} is documented {len(fits)} times"
            seen.update(fits)
    assert patterns.keys() - seen == PASSING.keys(), "documented, and in no run"


def test_every_column_is_documented(runs: list[Run]) -> None:
    for pattern, cells in ((next(iter(words(row[0]))), row) for row in table(DOCS / "run-directory.md", "Columns")):
        found: set[str] = set()
        for run in runs:
            for path in run.path.rglob("*.*"):
                if matcher(pattern).fullmatch(path.relative_to(run.path).as_posix()):
                    schema = pa.ipc.open_file(path).schema if path.suffix == ".arrow" else pq.read_schema(path)
                    found |= set(schema.names)
        assert found == words(cells[1]), pattern


def test_every_key_of_the_json_files_is_documented(runs: list[Run]) -> None:
    path = DOCS / "run-directory.md"
    documented = {word for row in table(path, "run.json") for word in words(" ".join(row))}
    documented |= {"stage", "status", "key", "seconds", "finished"}
    log, others = (words(re.split(rf"^## {name}", path.read_text("utf-8"), flags=re.M)[1].split("\n## ")[0])
                   for name in (r"log\.jsonl", r"selection\.json and"))  # fmt: skip
    for run in runs:
        manifest = run.manifest()
        keys = {*manifest, *(key for job in manifest["jobs"].values() for key in job)}
        assert keys <= documented, run.path
        for line in log_lines(run):
            assert {*line, line["event"]} <= log, line
        ensembles = json.loads((run.path / "ensembles.json").read_text(encoding="utf-8"))
        about = [about for one in ensembles.values() for about in one["tasks"].values()]
        selection = json.loads((run.path / "selection.json").read_text(encoding="utf-8"))
        mappings = [*about, *ensembles.values(), selection, *selection["ranking"]]
        mappings += [split for one in about for split in one["diversity"].values()]
        assert {key for one in mappings for key in one} <= others


def test_every_field_of_a_task_file_is_documented() -> None:
    documented = [word for row in table(DOCS / "own-tasks.md", "Fields") for word in words(row[0])]
    assert sorted(documented) == sorted(_YAML_FIELDS)


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them: lower case, blanks as hyphens, without punctuation."""
    plain = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", plain, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert len(documents) > 20
    checked = 0
    for path in documents:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith(("http://", "https://")):
                continue
            name, _, anchor = target.partition("#")
            other = (path.parent / name).resolve() if name else path
            assert other.exists(), f"{path.relative_to(ROOT)} links {target}, which is not there"
            if anchor and other.suffix == ".md":
                there = anchors(other.read_text(encoding="utf-8"))
                assert anchor in there, f"{path.relative_to(ROOT)} links {target}; that heading is not there"
            checked += 1
    assert checked > 50
