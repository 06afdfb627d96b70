"""What is wrong with a parameter or a run is said in one sentence with its remedy, and nothing is damaged: by the
runner, through plain papermill and by hand, in one table. And what is no mistake goes on.

By hand is what IPython does: cells are executed in one namespace that keeps their sources in `In`. Through papermill
its own code puts the injected cell where it belongs; real kernels are started where the exit code is the point.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import Finished, changed, ran, results
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from test_notebooks import call, params, refused

from core.notebook import bring
from core.notebook.parameters import Refused
from core.store import Run, write_json

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
FILES = ("run.json", "log.jsonl", "predictions", "metrics.parquet", "targets", "examples")

Values = dict[str, Any]


# ---- three ways ----------------------------------------------------------------------------------------------------
def step(cells: list[str], stop: str) -> None:
    """Executes cells up to the one that holds `stop`, as a kernel does."""
    namespace: dict[str, Any] = {"In": [""]}
    for source in cells:
        namespace["In"].append(source)
        exec(compile(source, "cell", "exec"), namespace)
        if stop in source:
            return
    raise AssertionError(f"no cell holds {stop}")


def by_hand(notebook: str, run_dir: Path, values: Values) -> str:
    """A person writes the values into the cell of parameters, one that is not there as a line of its own."""
    cells = [cell.source for cell in nbformat.read(path_of(notebook), 4).cells if cell.cell_type == "code"]
    for name, value in {"run_dir": str(run_dir), **values}.items():
        line = re.compile(rf"^{name}: (\w+) = .*$", re.M)
        if not line.search(cells[0]):
            cells[0] += f"\n{name}: float = {value!r}"
        cells[0] = line.sub(lambda found, value=value, name=name: f"{name}: {found[1]} = {value!r}", cells[0])
    with pytest.raises(Refused) as caught:
        step(cells, "bring(params")
    return str(caught.value)


def through_papermill(notebook: str, run_dir: Path, values: Values) -> str:
    book = parameterize_notebook(load_notebook_node(path_of(notebook)), {"run_dir": str(run_dir), **values})
    assert any("injected-parameters" in cell.metadata.get("tags", ()) for cell in book.cells)
    with pytest.raises(Refused) as caught:
        step([cell.source for cell in book.cells if cell.cell_type == "code"], "bring(params")
    return str(caught.value)


def runner(notebook: str, run_dir: Path, values: Values) -> str:
    """Before anything is executed: no kernel starts, nothing is written."""
    out = run_dir.parent / "out" if run_dir.parent.is_dir() else run_dir.parents[1] / "out"
    out.mkdir(exist_ok=True)
    given = [part for name, value in values.items() for part in ("-p", f"{name}={json.dumps(value)}")]
    message = refused("notebooks", "--run", run_dir, "--out", out, "--only", notebook, *given)
    assert list(out.iterdir()) == []
    out.rmdir()
    return message


def path_of(notebook: str) -> str:
    return f"{ROOT}/notebooks/{notebook}.ipynb"


# ---- states of a run -----------------------------------------------------------------------------------------------
def as_it_is(run: Run) -> Path:
    return run.path


def without_parent(run: Run) -> Path:
    return run.path.parent / "no" / "run"


def new_run(run: Run) -> Path:
    return run.path.parent / "new"


def no_run(run: Run) -> Path:
    folder = run.path.parent / "thesis"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine", encoding="utf-8")
    return folder


def with_values(**values: Any) -> Callable[[Run], Path]:
    def spoil(run: Run) -> Path:
        write_json(run.manifest_path, run.manifest() | values)
        return run.path

    return spoil


def damaged(run: Run) -> Path:
    run.manifest_path.write_text('{"schema_version": 1, "jo', encoding="utf-8")
    return run.path


# What is wrong: the run's state, the parameters of 6_distill, and what the sentence says.
WRONG: dict[str, tuple[Callable[[Run], Path], Values, str]] = {
    "unknown name": (as_it_is, {"alpah": 0.3}, r"unknown parameter 'alpah'; did you mean 'alpha'\?"),
    "wrong type": (as_it_is, {"alpha": "high"}, r"parameter 'alpha' is 'high' \(str\), expected float"),
    "half a seed": (as_it_is, {"seeds": 2.5}, r"parameter 'seeds' is 2.5 \(float\), expected int"),
    "no list": (as_it_is, {"variants": "kd"}, r"parameter 'variants' is 'kd' \(str\), expected list"),
    "out of range": (as_it_is, {"alpha": 7}, r"distill.alpha: Input should be less than or equal to 1"),
    "unknown preset": (new_run, {"preset": "demmo"}, "'demmo' is not known; did you mean 'demo'"),
    "another preset": (as_it_is, {"preset": "demo"}, "preset is 'demo', but .* is there already, with preset 'smoke'"),
    "missing folder": (without_parent, {}, "there is no folder .*/no; make it first, or correct run_dir"),
    "no run": (no_run, {}, "holds no run; give an empty or new folder"),
    "older schema": (with_values(schema_version=0), {}, "version 0, this code reads 1 to 2; use the Darkroom version"),
    "newer schema": (with_values(schema_version=3), {}, "version 3, this code reads 1 to 2; use the Darkroom version"),
    "damaged": (damaged, {}, r"not valid JSON.*restore it from a copy, or give a new folder"),
    "imported": (with_values(imported=True), {}, "was imported: it has predictions and no stages to run"),
}  # fmt: skip


@pytest.mark.parametrize("way", [runner, through_papermill, by_hand], ids=lambda way: way.__name__)
@pytest.mark.parametrize("wrong", list(WRONG))
def test_a_mistake_is_a_sentence_and_damages_nothing(copied: Run, way: Callable[..., str], wrong: str) -> None:
    spoil, values, sentence = WRONG[wrong]
    path = spoil(copied)
    before, there = results(copied, *FILES), sorted(copied.path.parent.rglob("*"))
    assert re.search(sentence, way("6_distill", path, values))
    assert changed(before, results(copied, *FILES)) == set()
    assert sorted(copied.path.parent.rglob("*")) == there


@pytest.mark.parametrize("way", [through_papermill, by_hand], ids=lambda way: way.__name__)
def test_finished_trainings_are_not_replaced_by_mistake(copied: Run, way: Callable[..., str]) -> None:
    before = results(copied, *FILES)
    message = way("6_distill", copied.path, {"alpha": 0.2})
    assert re.search("distill.alpha: 0.5 -> 0.2.*Give another run_dir, or update = True to redo them here", message)
    assert changed(before, results(copied, *FILES)) == set()


# ---- with real kernels ---------------------------------------------------------------------------------------------
def test_exit_codes_and_what_is_left(copied: Run, tmp_path: Path) -> None:
    """Plain papermill goes on with the default where a name is misspelt (its exit code is 0 then): the notebook itself
    refuses. What only the run can tell is refused by the notebook in the runner too, which keeps it with its error."""
    before, out = results(copied, *FILES), tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "papermill", path_of("6_distill"), str(tmp_path / "6.ipynb"), "-k", "python3"]
    given = ["-p", "run_dir", str(copied.path), "-p", "alpah", "0.3"]
    with subprocess.Popen([*command, *given], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as plain:
        done = call("notebooks", "--run", copied.path, "--out", out, "--only", "6_distill", "-p", "alpha=0.2")
        _, said = plain.communicate(timeout=300)
    assert plain.returncode == 1
    assert "unknown parameter 'alpah'; did you mean 'alpha'? This notebook has: run_dir, preset," in said
    assert done.exit_code == 1, done.output
    assert "update = True to redo them here" in done.output.replace("\n", "")
    assert [path.name for path in out.iterdir()] == ["6_distill.failed.ipynb"]
    assert changed(before, results(copied, *FILES)) == set()


# ---- the runner alone ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-p", "alpha"], "expected name=value"),
        (["-p", "variants=[hard"], "is not a YAML value"),
        (["-p", "run_dir=x"], "-p run_dir: give the run directory as --run"),
        (["--only", "7_evaluate", "-p", "alpha=1"], "-p alpha belongs to 6_distill"),
        (["--only", "6_distil"], "--only '6_distil' is not a notebook, expected one of 1_prepare"),
        (["--out", "{tmp}/no"], "is not a folder; make it first: mkdir -p {tmp}/no"),
        (["--out", "{tmp}/{{out}}", "--only", "1_prepare"], "papermill reads a brace in a path as a parameter"),
    ],
)
def test_the_runner_refuses_before_anything_is_executed(
    smoke: Finished, tmp_path: Path, options: list[str], message: str
) -> None:
    (tmp_path / "{out}").mkdir()
    options = [option.format(tmp=tmp_path) for option in options]
    assert message.format(tmp=tmp_path) in refused("notebooks", "--run", smoke.run.path, "--out", tmp_path, *options)
    assert list(tmp_path.rglob("*.ipynb")) == []


# ---- what is no mistake --------------------------------------------------------------------------------------------
def test_finished_trainings_are_replaced_where_update_says_so(copied: Run, capsys: pytest.CaptureFixture[str]) -> None:
    trained = ran(copied)
    # More students replace nobody.
    bring(params(copied, seeds=3, variants=["hard", "kd"]), stage="distill")
    assert sorted(ran(copied, len(trained))) == ["st-hard-s2", "st-kd-s2"]
    bring(params(copied, alpha=0.2, update=True), stage="distill")
    assert sorted(ran(copied, len(trained) + 2)) == ["st-kd-s0", "st-kd-s1", "st-kd-s2"]
    assert "up to date: prepare, multitask, select, finetune, ensemble" in capsys.readouterr().out


def test_a_half_finished_run_goes_on_and_says_with_what(copied: Run, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, n = copied.manifest(), len(ran(copied))
    jobs = {name: job for name, job in manifest["jobs"].items() if name not in ("st-kd-s0", "st-kd-s1")}
    write_json(copied.manifest_path, manifest | {"jobs": jobs})
    bring(params(copied), stage="distill")
    assert sorted(ran(copied, n)) == ["st-kd-s0", "st-kd-s1"]
    said = capsys.readouterr().out
    assert "up to date: prepare, multitask, select, finetune, ensemble\n" in said
    assert re.search(r"distill +2 jobs", said)
