"""Notebooks in batches through papermill, strictly, and pages made of them: `python -m core notebooks`, core/sweep.

papermill itself accepts unknown names, keeps texts where numbers are declared and writes its output while it runs. So
names, types and the run are checked before a kernel starts, the output goes to a temporary name and is renamed, and a
failed notebook is kept beside it with its error.

Pages need no JupyterLab and no network: figures are drawn by one `plotly.min.js` beside them, which is copied from the
installed plotly and not committed (4.8 MB). Without that file a page asks plotly's own server for it, and without a
network it shows each figure's words.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import yaml
from rich.console import Console

from core.notebook import BATCH, ROOT, Declared, Refused, checked, declared_in, planned, shown_path
from core.store import atomic

NOTEBOOKS = ROOT / "notebooks"
KERNEL = "python3"
INSTALL = "install the notebooks' packages: pip install -e '.[app,notebooks]'"
PLOTLY = "application/vnd.plotly.v1+json"
LONGEST_LOG = 8  # lines of a run's progress that a page shows unfolded


class Outcome(NamedTuple):
    """An executed notebook: the file that was written, and the error that ended it, if one did."""

    notebook: str
    path: Path
    seconds: float
    error: str | None


def run_notebooks(
    run_dir: Path, out: Path, *, only: Sequence[str] = (), values: Mapping[str, Any], console: Console
) -> list[Outcome]:
    """Executes the notebooks in order on one run directory, into `out`. `values` are parameters, each for the notebooks
    that declare it. A notebook that fails does not stop the others, one that is refused does.

    Raises `ValueError`, before anything is executed, for a notebook or a parameter that does not exist, a value of
    another type, a run that cannot be gone on with, no folder `out`, a missing kernel.
    """
    chosen = find_notebooks(only)
    declared = {path: declared_parameters(path) for path in chosen}
    refuse_foreign(values, declared)
    own = {
        path: {"run_dir": shown_path(run_dir.resolve()), **{name: values[name] for name in values if name in of_path}}
        for path, of_path in declared.items()
    }
    for path, given in own.items():
        planned(SimpleNamespace(**checked(declared[path], given)))
    if not out.is_dir():
        raise ValueError(f"--out {out} is not a folder; make it first: mkdir -p {out}")
    check_kernel()
    done: list[Outcome] = []
    for path, given in own.items():
        console.print(f"[bold]{path.stem}", highlight=False)
        started = time.monotonic()
        try:
            execute(path, out / path.name, given, echo=True)
            done.append(Outcome(path.stem, out / path.name, time.monotonic() - started, None))
        except NotebookFailed as error:
            done.append(Outcome(path.stem, error.kept, time.monotonic() - started, str(error)))
            if error.kind == Refused.__name__:
                break
    return done


class NotebookFailed(Exception):  # noqa: N818 (it is what happened to a notebook, not to this code)
    """`kind` is the name of the exception in the notebook, `kept` the file with it."""

    def __init__(self, notebook: str, kind: str, what: str, kept: Path):
        super().__init__(f"{notebook} failed: {what if kind == Refused.__name__ else f'{kind}: {what}'}")
        self.kind, self.kept = kind, kept


def execute(notebook: Path, target: Path, values: Mapping[str, Any], *, echo: bool = False) -> None:
    """One notebook in a kernel of its own, to a temporary name, then renamed. `echo` prints its lines as they come. A
    failed one is kept as `<name>.failed.ipynb`, and `NotebookFailed` is raised; an earlier `target` stays."""
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError

    if "{" in str(target):
        raise ValueError(f"{target}: papermill reads a brace in a path as a parameter; give another --out")
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp.ipynb")
    failed = target.with_name(f"{target.stem}.failed.ipynb")
    os.environ[BATCH] = "1"
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # a debugger's warning on each start of a kernel
    try:
        papermill.execute_notebook(
            nbformat.read(notebook, as_version=4),  # not its path, where a brace is read as a parameter too
            str(temporary),
            parameters=dict(values),
            kernel_name=KERNEL,
            progress_bar=False,
            stdout_file=sys.stdout if echo else None,
            start_timeout=180,
            cwd=str(ROOT),
            coalesce_streams=True,
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # what it logs while it is shut down is noise
        )
    except (papermill.PapermillExecutionError, DeadKernelError) as error:
        kind, what = getattr(error, "ename", "DeadKernelError"), getattr(error, "evalue", "its kernel died")
        if temporary.exists():
            _finish(temporary, failed, notebook)
        raise NotebookFailed(notebook.stem, kind, what, failed) from None
    else:
        _finish(temporary, target, notebook)
        failed.unlink(missing_ok=True)
    finally:
        os.environ.pop(BATCH, None)
        temporary.unlink(missing_ok=True)


def _finish(temporary: Path, target: Path, notebook: Path) -> None:
    """papermill keeps the source's kernel in the file when another one ran it, and knows nothing of the renaming."""
    import nbformat

    executed = nbformat.read(temporary, as_version=4)
    executed.metadata.kernelspec = {"name": KERNEL, "display_name": "Python 3", "language": "python"}
    executed.metadata.papermill |= {"input_path": shown_path(notebook), "output_path": target.name}
    nbformat.write(executed, temporary)
    os.replace(temporary, target)


# ---- checks --------------------------------------------------------------------------------------------------------
def find_notebooks(only: Sequence[str] = ()) -> list[Path]:
    """`notebooks/*.ipynb` in order, or those of `only`, by stem."""
    paths = {path.stem: path for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))}
    if not paths:
        raise ValueError(f"there are no notebooks in {NOTEBOOKS}; they come with the repository, not with the package")
    for name in only:
        if name not in paths:
            raise ValueError(f"--only '{name}' is not a notebook, expected one of {', '.join(paths)}")
    return [paths[name] for name in paths if not only or name in only]


def declared_parameters(notebook: Path) -> dict[str, Declared]:
    """The lines of the cell tagged `parameters`."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", ())]
    if len(tagged) != 1:
        raise ValueError(f"{notebook.name} has {len(tagged)} cells tagged 'parameters', expected one")
    return declared_in("".join(tagged[0]["source"]))


def refuse_foreign(values: Mapping[str, Any], declared: Mapping[Path, Mapping[str, Declared]]) -> None:
    """Raises `ValueError` for a name that none of the chosen notebooks has."""
    if "run_dir" in values:
        raise ValueError("-p run_dir: give the run directory as --run")
    for name in values:
        if not any(name in of_path for of_path in declared.values()):
            others = [path.stem for path in find_notebooks() if name in declared_parameters(path)]
            if others:
                raise ValueError(f"-p {name} belongs to {', '.join(others)}, which --only leaves out")
            checked({key: line for of_path in declared.values() for key, line in of_path.items()}, {name: None})


def check_kernel() -> None:
    for package in ("papermill", "nbconvert", "jupyter_client", "plotly"):
        if find_spec(package) is None:
            raise ValueError(f"{package} is not installed; {INSTALL}")
    from jupyter_client.kernelspec import KernelSpecManager

    known = KernelSpecManager().find_kernel_specs()
    if KERNEL not in known:
        raise ValueError(f"no Jupyter kernel '{KERNEL}' is there (found: {', '.join(known) or 'none'}); {INSTALL}")


def parse_values(items: Sequence[str]) -> dict[str, Any]:
    """`name=value` with YAML values: numbers, lists, true, false, null."""
    values: dict[str, Any] = {}
    for item in items:
        name, equals, raw = item.partition("=")
        if not equals or not name:
            raise ValueError(f"-p got '{item}', expected name=value, for example alpha=0.3")
        values[name] = yaml_value(raw, what=f"-p {name}")
    return values


def yaml_value(raw: str, *, what: str) -> Any:
    """A YAML value, and numbers as people write them: YAML 1.1 reads 1e-3 as a text."""
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        raise ValueError(f"{what}: {raw!r} is not a YAML value, such as 0.3 or [hard, kd]") from None
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


# ---- pages ---------------------------------------------------------------------------------------------------------
def write_pages(notebooks: Sequence[Path], out: Path) -> list[Path]:
    """Executed notebooks as pages in `out`. Code is folded away, but for the parameters."""
    import nbformat

    links = " ".join(f'<a href="{path.stem}.html">{path.stem.replace("_", " ")}</a>' for path in notebooks)
    pages = []
    for path in notebooks:
        cells = nbformat.read(path, as_version=4).cells
        title = cells[0].source.partition("\n")[0].lstrip("# ")
        body = "\n".join(_cell_html(cell) for cell in cells)
        # Between notebooks the links lead to notebooks, between pages to pages.
        body = re.sub(r'(<a href="\w+)\.ipynb"', r'\1.html"', body)
        pages.append(write_page(out / f"{path.stem}.html", title, f"<nav>{links}</nav>\n{body}"))
    return pages


def _cell_html(cell: Any) -> str:
    from nbconvert.filters import Highlight2HTML, markdown2html

    if cell.cell_type == "markdown":
        return str(markdown2html(cell.source))
    code = Highlight2HTML()(cell.source)
    if not {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", ())):
        code = f"<details><summary>code</summary>{code}</details>"
    return "\n".join([code, *(_output_html(output, f"{cell.id}-{i}") for i, output in enumerate(cell.outputs))])


def _output_html(output: Any, name: str) -> str:
    from nbconvert.filters import markdown2html, strip_ansi

    data = output.get("data", {})
    if PLOTLY in data:
        return figure_html(data[PLOTLY], data.get("text/plain", ""), name)
    if "text/markdown" in data:
        return str(markdown2html(data["text/markdown"]))
    text = output.get("text") or "\n".join(output.get("traceback", ())) or data.get("text/plain", "")
    page = f"<pre>{html.escape(strip_ansi(text))}</pre>"
    n_lines = len(text.splitlines())
    if output.output_type != "stream" or n_lines <= LONGEST_LOG:
        return page
    return f"<details><summary>what the run said: {n_lines} lines</summary>{page}</details>"


def figure_html(values: Mapping[str, Any], words: str, name: str) -> str:
    """A figure as part of a page: its words, until the script has drawn it in their place."""
    layout = {**values["layout"], "font": {**values["layout"].get("font", {}), "color": "#31333f"}}
    figure = {key: values[key] for key in ("data", "frames", "config") if key in values} | {"layout": layout}
    # A text of the data may hold "</script>".
    script = json.dumps(figure, separators=(",", ":")).replace("</", "<\\/")
    return (
        f'<div class="figure" id="{name}" role="img" aria-label="{html.escape(words)}">{html.escape(words)}</div>'
        f'<script>if (window.Plotly) {{ let place = document.getElementById("{name}"); place.textContent = ""; '
        f"Plotly.newPlot(place, {script}); }}</script>"
    )


def write_page(page: Path, title: str, body: str) -> Path:
    """A page in the project's dress, and `plotly.min.js` beside it."""
    import plotly

    page.parent.mkdir(parents=True, exist_ok=True)
    script = page.with_name("plotly.min.js")
    source = Path(plotly.__file__).parent / "package_data" / script.name
    if not script.exists() or script.stat().st_size != source.stat().st_size:
        with atomic(script) as temporary:
            shutil.copyfile(source, temporary)
    text = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n'
        f"<script>{_elsewhere(source)}</script>\n"
        f'<script src="{script.name}" onerror="elsewhere()"></script>\n</head>\n<body>\n'
        '<p class="missing">Figures need the file plotly.min.js beside this page, or a network; <code>make '
        f"notebooks</code> puts it there. Until then each is said in words.</p>\n{body}\n</body>\n</html>\n"
    )
    with atomic(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page


def _elsewhere(script: Path) -> str:
    """Where a page looks when `plotly.min.js` is not beside it, as on a fresh clone: plotly's own server, for the same
    bytes and no others. Without a network each figure stays in words."""
    from plotly.offline import get_plotlyjs_version

    found = base64.b64encode(hashlib.sha256(script.read_bytes()).digest()).decode()
    return (
        'function elsewhere() { document.write(\'<script crossorigin="anonymous" integrity="sha256-'
        f'{found}" src="https://cdn.plot.ly/plotly-{get_plotlyjs_version()}.min.js" '
        'onerror="document.documentElement.className = &quot;no-figures&quot;"><\\/script>\'); }'
    )


STYLE = """
body { max-width: 880px; margin: 0 auto; padding: 24px 20px 80px; color: #31333f; background: #fff;
  font: 16px/1.55 "Source Sans Pro", system-ui, "Segoe UI", Helvetica, sans-serif; }
h1 { font-size: 30px; line-height: 1.25; margin: 24px 0 12px; } h2 { font-size: 21px; margin: 44px 0 8px; }
a { color: #6a3fd4; } .anchor-link { display: none; } nav { font-size: 14px; display: flex; gap: 4px 14px;
  flex-wrap: wrap; } p code, li code, td code { background: #f3f2f8; padding: 1px 4px; border-radius: 4px; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 13px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; color: #4b5160; margin: 8px 0; }
.highlight pre { background: #f7f6fb; border-left: 3px solid #d9d0f5; padding: 8px 12px; color: #31333f; }
summary { color: #8a8fa0; font-size: 12px; cursor: pointer; margin: 10px 0 2px; }
table { border-collapse: collapse; margin: 10px 0; font-size: 14px; } th, td { padding: 4px 12px; text-align: left;
  border-bottom: 1px solid #e6e6ee; vertical-align: top; } td[style*=right] { font-variant-numeric: tabular-nums; }
.figure { margin: 14px 0; color: #4b5160; font-size: 14px; } .missing { display: none; }
.no-figures .missing { display: block; background: #fff6e5; border-left: 3px solid #e8710a; padding: 8px 12px; }
.no-figures .figure { border: 1px solid #e6e6ee; border-radius: 6px; padding: 8px 12px; }
.k, .kn, .kc, .kd, .ow { color: #7a3e9d; } .s1, .s2, .sa, .si, .sd { color: #2a7a3b; }
.mi, .mf { color: #1c5fb0; } .c1 { color: #7a8190; } .nb, .nc, .nf { color: #1f5a8a; }
"""
