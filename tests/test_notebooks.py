"""Notebooks run: all eight through the strict runner, and two through plain papermill, twice each; what they say, what
they show while a run works, and the pages made of them. What they refuse: test_notebook_refusals.

Kernels start in seconds, so runs are tiny and shared: one run goes through all eight, stage by stage.

Over 350 lines: running notebooks is one subject, and its fixtures cost seconds that one file shares.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import nbformat
import numpy as np
import pytest
from conftest import Finished, changed, copy_of, go, ran, results, tiny
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from rich.console import Console
from test_notebook_files import requests_of
from test_views_toy import write_toy
from typer.testing import CliRunner

import core.notebooks
from core.cli import app
from core.comparisons import Difference, paired_difference
from core.notebook import (
    checked,
    declared_in,
    explained,
    in_words,
    mean_words,
    parameters,
    pick_task,
    plain,
    right_minus_right,
    rows_of,
    signed,
    smooth,
    text_of,
)
from core.notebook.parameters import Refused
from core.notebook.progress import NotebookProgress
from core.notebooks import Outcome, figure_html, parse_values, run_notebooks, write_pages
from core.store import Run
from core.views import NotDefined
from core.views.table import load_table
from core.workers import Event

ROOT = Path(__file__).resolve().parents[1]
# jupyter_client and papermill warn of their own insides (event loops, naive times) in this process too.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """The message of a call that ends with exit code 2."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    return str(result.stderr.removeprefix("error: ").replace("\n", ""))


def papermill(notebook: str, out: Path, **values: object) -> subprocess.Popen[str]:
    """Plain papermill on the command line, started from elsewhere."""
    given = [part for name, value in values.items() for part in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", f"{ROOT}/notebooks/{notebook}.ipynb", str(out), "-k", "python3"]
    return subprocess.Popen([*command, *given], cwd=out.parent, stderr=subprocess.PIPE, text=True)


def outputs(path: Path) -> list[Any]:
    return [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", ())]


def said(path: Path) -> str:
    """All that a notebook says, in Markdown and lines."""
    parts = [output.get("data", {}).get("text/markdown", "") or output.get("text", "") for output in outputs(path)]
    return "\n".join(parts)


def params(run: Run, **values: object) -> SimpleNamespace:
    defaults = {"preset": "smoke", "workers": None, "update": False, "task": None}
    return SimpleNamespace(run_dir=str(run.path), **(defaults | values))


# ---- all of them ---------------------------------------------------------------------------------------------------
class Batch(NamedTuple):
    run: Run
    outcomes: list[Outcome]
    again: list[Path]  # executed a second time, on copies of the run
    copies: list[Run]


# Two tasks with teachers and one without, two members, one seed: what a notebook trains when it is opened alone.
SMALL = ("data.tasks=[nli,paraphrase,similarity]", "multitask.dropouts=[0.1,0.2]", "distill.seeds=1")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run that has its examples and nothing else: as fresh as a preset could make it, only smaller."""
    return go(Run(tmp_path_factory.mktemp("notebooks") / "prepared"), tiny(*SMALL), last_stage="prepare")


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """All eight on one run, from its examples on; and again, half of them on each of two copies at the same time."""
    folder, console = tmp_path_factory.mktemp("batch"), Console(file=io.StringIO())
    run = go(Run(folder / "run"), tiny("multitask.dropouts=[0.1,0.2]"), last_stage="prepare").run
    (folder / "out").mkdir()
    outcomes = run_notebooks(run.path, folder / "out", values={}, console=console)
    names = [outcome.notebook for outcome in outcomes]
    copies, running = [], []
    for i, half in enumerate((names[:4], names[4:])):
        out = folder / f"again-{i}"
        out.mkdir()
        copies.append(Run(shutil.copytree(run.path, folder / f"copy-{i}")))
        command = [sys.executable, "-m", "core", "notebooks", "--run", str(copies[-1].path), "--out", str(out)]
        only = [part for name in half for part in ("--only", name)]
        running.append(subprocess.Popen([*command, *only], cwd=ROOT, stdout=subprocess.PIPE, text=True))
    shown = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], shown
    return Batch(run, outcomes, sorted(folder.glob("again-*/*.ipynb"), key=lambda path: path.name), copies)


def test_all_eight_run_in_order_on_one_run(batch: Batch) -> None:
    assert [outcome.error for outcome in batch.outcomes] == [None] * 8
    assert [outcome.notebook[0] for outcome in batch.outcomes] == list("12345678")
    assert {"mt-1", "ft-1-nli", "ensemble", "st-kd-s1", "evaluate"} <= set(ran(batch.run))
    assert sorted(path.name for path in batch.outcomes[0].path.parent.iterdir()) == [
        f"{outcome.notebook}.ipynb" for outcome in batch.outcomes
    ], "no temporary and no failed one is left"
    assert "mt-1: epoch 1, selection split: " in said(batch.outcomes[1].path), "a line an evaluation"


def test_a_second_time_nothing_is_trained(batch: Batch) -> None:
    assert [path.stem for path in batch.again] == [outcome.notebook for outcome in batch.outcomes]
    assert len(batch.copies) == 2
    for copy in batch.copies:
        assert ran(copy) == ran(batch.run), "not a job was done"
        assert changed(results(batch.run), results(copy)) == set()


def test_executed_notebooks_show_and_say(batch: Batch) -> None:
    n_figures = 0
    for path in batch.again:
        found = outputs(path)
        figures = [o for o in found if "application/vnd.plotly.v1+json" in o.get("data", {})]
        assert figures, path.stem
        n_figures += len(figures)
        for figure in figures:
            assert figure["data"]["application/vnd.plotly.v1+json"]["config"]["showSendToCloud"] is False
            assert len(figure["data"]["text/plain"]) > 20, "its words, where it cannot be shown"
        assert not [o for o in found if o["output_type"] == "error" or o.get("name") == "stderr"], path.stem
        assert "Task looked at: **sentiment** (5 classes" in said(path)
        assert "up to date: prepare" in said(path)
        notebook = nbformat.read(path, as_version=4)
        assert notebook.metadata.kernelspec.name == "python3"
        assert notebook.metadata.papermill.output_path == path.name
    assert n_figures >= 24, "three a page, on average"
    assert "no difference" in said(batch.again[6]) or "better" in said(batch.again[6])
    assert "**This run has no controls.**" in said(batch.again[7])
    assert "distill.variants=[hard,kd,label_smoothing,cwtm,dkpp,adaptive_smoothing,truth]" in said(batch.again[7])


def test_pages_need_no_jupyterlab_and_no_network(batch: Batch, tmp_path: Path) -> None:
    pages = write_pages(batch.again, tmp_path / "html")
    assert [page.stem for page in pages] == [path.stem for path in batch.again]
    assert (tmp_path / "html" / "plotly.min.js").stat().st_size > 1_000_000
    for page in pages:
        text = page.read_text(encoding="utf-8")
        requests_of(text)
        assert text.count("Plotly.newPlot(") == text.count('class="figure"') >= 1
        assert all(f'href="{other.name}"' in text for other in pages)
        assert ".ipynb" not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL)


def test_texts_of_the_data_end_no_script() -> None:
    fig = {"data": [{"name": "</script><b>&amp;"}], "layout": {}, "config": {}}
    page = figure_html(fig, 'a "word" <b>', "f-1")
    assert page.count("</script>") == 1
    assert "a &quot;word&quot; &lt;b&gt;" in page
    assert json.loads(page.partition("newPlot(place, ")[2].rpartition("); }")[0])["data"] == fig["data"]


# ---- alone, through plain papermill --------------------------------------------------------------------------------
def test_two_through_plain_papermill_and_again(prepared: Finished, tmp_path: Path) -> None:
    """Each alone: distillation trains all that comes before it, and another alpha than the run's is what the run then
    has; dark knowledge says what a regression does not have. A second time nothing is trained."""
    run = copy_of(prepared, tmp_path)
    asked: dict[str, dict[str, object]] = {
        "6_distill": {"alpha": 0.25, "task": "paraphrase"},
        "8_dark_knowledge": {"task": "similarity"},
    }
    for name, values in asked.items():
        with papermill(name, tmp_path / f"{name}.ipynb", run_dir=run.path, **values) as process:
            assert process.wait(300) == 0, process.stderr.read() if process.stderr else ""
        if name == "6_distill":
            assert {"mt-1", "ft-1-nli", "st-kd-s0"} <= set(ran(run))
            assert "evaluate" not in run.manifest()["jobs"]
    assert run.manifest()["config"]["distill"]["alpha"] == 0.25
    assert ran(run)[-1] == "evaluate"
    words = said(tmp_path / "6_distill.ipynb")
    assert "**paraphrase** is taught with D = soft_ce, α = 0.25" in words
    assert words.count("Not here:") >= 1, "two classes have no second choice"
    assert "IProgress" not in json.dumps(outputs(tmp_path / "6_distill.ipynb"))
    assert said(tmp_path / "8_dark_knowledge.ipynb").count("Not here: Task 'similarity' is") >= 3

    before, done = results(run), ran(run)
    for name, values in asked.items():
        with papermill(name, tmp_path / f"{name}-2.ipynb", run_dir=run.path, **values) as process:
            assert process.wait(300) == 0, process.stderr.read() if process.stderr else ""
        assert "up to date: prepare, multitask, select, finetune" in said(tmp_path / f"{name}-2.ipynb")
    assert ran(run) == done, "not a job was done again"
    assert changed(before, results(run)) == set()


def test_controls_are_spoken_of_where_there_are_some(everything: Finished, tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    (done,) = run_notebooks(everything.run.path, tmp_path, only=["8_dark_knowledge"], values={}, console=console)
    assert done.error is None
    words = said(done.path)
    assert "The teachers against **dkpp**: " in words
    assert "This run has no controls" not in words


# ---- the runner ----------------------------------------------------------------------------------------------------
def test_a_missing_kernel_or_package_says_how_to_get_it(
    smoke: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("notebooks", "--run", smoke.run.path, "--out", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(
            "jupyter_client.kernelspec.KernelSpecManager.find_kernel_specs", lambda _: {"julia": "share/kernels/julia"}
        )
        message = refused(*command)
    assert message.startswith("no Jupyter kernel 'python3' is there (found: julia); install the notebooks' packages")
    monkeypatch.setattr(core.notebooks, "find_spec", lambda name: None)
    assert refused(*command) == "papermill is not installed; " + core.notebooks.INSTALL
    monkeypatch.setattr(core.notebooks, "NOTEBOOKS", tmp_path)
    assert "they come with the repository" in refused(*command)


def test_values_are_read_as_people_write_them() -> None:
    given = ["a=0.3", "b=1e-3", "c=[hard, kd]", "d=true", "e=null", "f=nli", "g=2", "h=x=y"]
    assert parse_values(given) == {
        "a": 0.3,
        "b": 1e-3,
        "c": ["hard", "kd"],
        "d": True,
        "e": None,
        "f": "nli",
        "g": 2,
        "h": "x=y",
    }


# ---- notebooks that fail -------------------------------------------------------------------------------------------
def little_notebook(path: Path, *cells: str) -> None:
    declared = new_code_cell(
        'run_dir: str = "x"  # run\npreset: str = "smoke"  # preset\nupdate: bool = False  # update'
    )
    declared.metadata["tags"] = ["parameters"]
    meta = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells_of = [new_markdown_cell("# Why?"), declared, *map(new_code_cell, cells)]
    notebook = new_notebook(cells=cells_of, metadata=meta)
    nbformat.write(notebook, path)


def test_failed_notebooks_are_kept_and_do_not_stop_the_others(
    smoke: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "notebooks", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    monkeypatch.setattr(core.notebooks, "NOTEBOOKS", folder)
    little_notebook(folder / "1_bad.ipynb", "assert 1 == 2, 'the text claims otherwise'")
    little_notebook(folder / "2_dead.ipynb", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    little_notebook(folder / "3_good.ipynb", "print(run_dir)")
    command = ("notebooks", "--run", smoke.run.path, "--out", out, "--html", out / "html")
    result = call(*command)
    assert result.exit_code == 1, result.output
    assert "1_bad failed: AssertionError: the text claims otherwise" in result.stdout.replace("\n", " ")
    assert "2_dead failed: DeadKernelError" in result.stdout
    names = {path.name for path in out.iterdir()}
    assert {"1_bad.failed.ipynb", "3_good.ipynb", "html"} <= names <= {
        "1_bad.failed.ipynb", "2_dead.failed.ipynb", "3_good.ipynb", "html"
    }  # fmt: skip
    kept = outputs(out / "1_bad.failed.ipynb")
    assert [o["ename"] for o in kept if o["output_type"] == "error"] == ["AssertionError"]
    assert [page.name for page in (out / "html").glob("*.html")] == ["3_good.html"]
    # Mended, it takes the place of the failed one; what failed once more leaves the good one of before.
    little_notebook(folder / "1_bad.ipynb", "1")
    little_notebook(folder / "3_good.ipynb", "raise KeyError('x')")
    good = (out / "3_good.ipynb").read_bytes()
    assert call(*command, "--only", "1_bad", "--only", "3_good").exit_code == 1
    assert not (out / "1_bad.failed.ipynb").exists()
    assert (out / "1_bad.ipynb").exists()
    assert (out / "3_good.ipynb").read_bytes() == good
    assert (out / "3_good.failed.ipynb").exists()


def test_a_refusal_stops_the_rest(smoke: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with the run is wrong for all of them."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(core.notebooks, "NOTEBOOKS", folder)
    little_notebook(
        folder / "1_first.ipynb", "from core.notebook.parameters import Refused\nraise Refused('no such thing')"
    )
    little_notebook(folder / "2_second.ipynb", "1")
    (done,) = run_notebooks(smoke.run.path, tmp_path, values={}, console=Console(file=io.StringIO()))
    assert done.error == "1_first failed: no such thing"
    (error,) = [o for o in outputs(done.path) if o["output_type"] == "error"]
    assert error["traceback"] == ["\x1b[1;31merror:\x1b[0m no such thing"], "the sentence alone"


def test_an_interrupted_runner_leaves_nothing_half_made(
    smoke: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(notebook: Any, temporary: str, **_: Any) -> None:
        Path(temporary).write_text("half", encoding="utf-8")
        raise KeyboardInterrupt

    monkeypatch.setattr("papermill.execute_notebook", interrupted)
    assert call("notebooks", "--run", smoke.run.path, "--out", tmp_path, "--only", "1_prepare").exit_code == 130
    assert list(tmp_path.iterdir()) == []


# ---- parameters ----------------------------------------------------------------------------------------------------
DECLARED = 'alpha: float = None  # weight\nname: str = "x"  # name\nrows: list = None  # rows'
VALUES: dict[str, Any] = {"alpha": None, "name": "x", "rows": None}


def cells(*sources: str, **values: Any) -> dict[str, Any]:
    """What `globals()` holds after these cells, in IPython."""
    return {"In": ["", *sources, "params = parameters(globals())"], **VALUES, **values}


def test_parameters_are_those_of_the_cell_with_what_was_injected() -> None:
    assert vars(parameters(cells(DECLARED))) == VALUES
    found = parameters(cells(DECLARED, "# Parameters\nalpha = 1\n", alpha=1))
    assert (found.alpha, type(found.alpha)) == (1.0, float), "a whole number may stand for a float"
    # A session in JupyterLab: magics that are no Python, an old injected cell above the cell as it is now.
    again = cells("# Parameters\nalpah = 1\n", "%matplotlib inline", DECLARED, alpha=0.5)
    assert parameters(again).alpha == 0.5


@pytest.mark.parametrize(
    ("injected", "values", "message"),
    [
        ("alpah = 0.3", {"alpah": 0.3}, "unknown parameter 'alpah'; did you mean 'alpha'? This notebook has: alpha,"),
        ("zzz = 0.3", {"zzz": 0.3}, "unknown parameter 'zzz'. This notebook has: alpha, name, rows"),
        ("alpha = '0.3'", {"alpha": "0.3"}, "parameter 'alpha' is '0.3' (str), expected float or None"),
        ("name = None", {"name": None}, "parameter 'name' is None (NoneType), expected str"),
        ("rows = 'hard'", {"rows": "hard"}, "parameter 'rows' is 'hard' (str), expected list or None"),
        ("alpha = True", {"alpha": True}, "parameter 'alpha' is True (bool), expected float or None"),
    ],
)
def test_what_was_injected_is_checked(injected: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=re.escape(message)):
        parameters(cells(DECLARED, f"# Parameters\n{injected}\n", **values))


def test_a_parameters_cell_holds_what_papermill_can_read() -> None:
    with pytest.raises(ValueError, match=re.escape("declared as 'int | None', expected one of str, int")):
        declared_in("n: int | None = None")
    with pytest.raises(ValueError, match="malformed node"):
        declared_in("n: int = 2\nm: int = 2 * n")
    assert checked(declared_in(DECLARED), {"alpha": 2}) == {**VALUES, "alpha": 2.0}


# ---- words ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (Difference(0.029, 0.008, 5, "better"), "**better** by 2.9 ± 0.8 points (n = 5 seeds)"),
        (Difference(-0.029, 0.008, 3, "worse"), "**worse** by 2.9 ± 0.8 points (n = 3 seeds: a hint, no finding)"),
        (Difference(-0.003, 0.004, 5, "no difference"), "**no difference** (−0.3 ± 0.4 points, n = 5 seeds)"),
        (Difference(0.01, float("nan"), 1, "one seed"), "+1.0 points with one seed, which shows nothing"),
    ],
)
def test_differences_in_words(difference: Difference, words: str) -> None:
    assert in_words(difference) == words


def test_words_follow_the_verdict_of_core() -> None:
    """Two standard errors are the line, whatever the numbers."""
    rng = np.random.default_rng(0)
    seen = set()
    for shift in (0.0, 0.1, 2.0):
        difference = paired_difference(rng.normal(shift, 1, 8), np.zeros(8))
        seen.add(difference.verdict)
        assert ("no difference" in in_words(difference)) == (abs(difference.mean) <= 2 * difference.se)
    assert {"better", "no difference"} <= seen
    assert "nearer" in in_words(Difference(-1, 0.1, 5, "better"), unit="nats", scale=1, words=("nearer", "further"))


def test_small_words() -> None:
    assert (signed(1.25), signed(-0.5, 2)) == ("+1.2", "−0.50")
    assert mean_words([1.0, 3.0], 1) == "2.0 ± 1.0"
    assert mean_words([0.5]) == "0.500"
    assert plain("a|b <i> *x* `y` $z$ [l](u)\n_w_") == (
        "a&#124;b &lt;i&gt; &#42;x&#42; &#96;y&#96; &#36;z&#36; &#91;l&#93;&#40;u&#41; &#95;w&#95;"
    )
    assert rows_of(["task", "n"], [["nli", 3], ["x", 4]]).splitlines() == [
        "| task | n |",
        "| :-- | --: |",
        "| nli | 3 |",
        "| x | 4 |",
    ]
    assert np.allclose(smooth([4.0, 0.0, 2.0], looks=2), [4.0, 2.0, 1.0])
    assert len(smooth(np.arange(30.0))) == 30


def test_the_task_that_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first with a teacher and three classes; it is said which, and what else there is."""
    run = write_toy(tmp_path).run
    assert pick_task(run, None).name == "tri"
    assert pick_task(run, "two").name == "two"
    with pytest.raises(Refused, match="parameter 'task': task 'tru' is not known; did you mean 'tri'"):
        pick_task(run, "tru")
    table = load_table(run, "tri", "test")
    assert text_of(table, 0).startswith("*")
    same = right_minus_right(table, table.members[0], table.members[0])
    assert (same.mean, same.verdict) == (0, "no difference")
    with explained():
        right_minus_right(load_table(run, "score", "test"), "teacher", "teacher")
        pytest.fail("a regression has no right answers")
    with pytest.raises(ZeroDivisionError), explained():
        raise ZeroDivisionError
    with explained():
        raise NotDefined("No such thing.")
    capsys.readouterr()


# ---- progress ------------------------------------------------------------------------------------------------------
class Handle:
    """What IPython gives for a display that can be updated."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def update(self, bundle: dict[str, str], raw: bool) -> None:
        self.shown.append(bundle["text/html"])


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    """JupyterLab, as far as progress can tell."""
    handle = Handle()

    def display(bundle: dict[str, str], **_: Any) -> Handle:
        handle.update(bundle, raw=True)
        return handle

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr("core.notebook.progress.DRAW_SECONDS", 0.0)
    monkeypatch.setenv("JPY_SESSION_NAME", "6_distill.ipynb")
    monkeypatch.delenv("DARKROOM_BATCH", raising=False)
    return handle


def test_in_jupyterlab_one_output_moves(handle: Handle) -> None:
    with NotebookProgress() as progress:
        progress.skipped("prepare")
        progress.skipped("multitask")
        progress.start("distill", ["st-<b>-s0", "st-kd-s1"])
        progress.event(Event("st-<b>-s0", 0.5, {"epoch": 0, "loss": 1.25}))
        assert "width:25.0%" in handle.shown[-1]
        assert "25 %" in handle.shown[-1]
        assert "st-&lt;b&gt;-s0, epoch 1, loss 1.250" in handle.shown[-1]
        assert "up to date: prepare, multitask" in handle.shown[-1]
        progress.finished("st-<b>-s0", 1.0)
        progress.finished("st-kd-s1", 1.0)
    assert "width:" not in handle.shown[-1], "no bar when nothing works"
    assert re.search(r">?distill\s+done in \d", handle.shown[-1])
    assert "st-kd-s1 done" not in handle.shown[-1], "single jobs were said beside the bar"


def test_in_a_batch_it_is_a_line_an_evaluation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "6_distill.ipynb")
    monkeypatch.setenv("DARKROOM_BATCH", "1")
    with NotebookProgress() as progress:
        progress.note("two jobs at a time")
        progress.start("distill", ["st-kd-s0"])
        for share in (0.2, 0.4, 0.6):
            progress.event(Event("st-kd-s0", share, {"epoch": 0, "loss": 1.0}))
        progress.event(Event("st-kd-s0", 0.9, {"epoch": 0, "selection": dict.fromkeys("abcdefghijklmnop", 0.5)}))
        progress.finished("st-kd-s0", 2.0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4, "note, start, evaluation in one line, end"
    assert lines[2].startswith("   st-kd-s0: epoch 1, selection split: a 50.0")
