"""Notebooks in batches through papermill, strictly: `python -m core notebooks` and `python -m core sweep` use this.

papermill itself accepts unknown names, keeps texts where numbers are declared and writes its output while it runs. So
names and types are checked before, the output goes to a temporary name and is renamed, and a failed notebook is kept
beside it with its error.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from core.notebook import BATCH, refuse_unknown, typed

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
KERNEL = "python3"
TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict}


def run_notebooks(
    run_dir: Path, out: Path, *, only: Sequence[str], values: Mapping[str, Any], console: Console
) -> list[Path]:
    """Executes the notebooks in order on one run directory and returns the executed files in `out`.

    `values` are parameters, given to the notebooks that declare them. Raises `ValueError` for a notebook or a
    parameter that does not exist, a value of another type, a missing kernel, and a notebook that failed.
    """
    chosen = find_notebooks(only)
    declared = {path: declared_parameters(path) for path in chosen}
    everywhere = {name: kind for of_one in declared.values() for name, kind in of_one.items()}
    refuse_unknown(list(values), everywhere)
    for name, value in values.items():
        typed(name, value, everywhere[name])
    if not out.is_dir():
        raise ValueError(f"--out {out} is not a folder; make it first: mkdir -p {out}")
    check_kernel()
    done = []
    for path in chosen:
        own = {name: value for name, value in values.items() if name in declared[path]}
        target = out / path.name
        console.print(f"{path.stem} ...", highlight=False)
        execute(path, target, {**own, "run_dir": str(run_dir.resolve())})
        done.append(target)
    return done


def execute(notebook: Path, target: Path, values: Mapping[str, Any], *, log_output: bool = False) -> None:
    """One notebook in a process of its own, to a temporary name, then renamed. A failed one is kept as
    `<name>.failed.ipynb`; raises `ValueError` with its error's last line."""
    import nbformat
    import papermill

    # papermill formats paths with str.format: a brace in one would be read as a field.
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp.ipynb")
    failed = target.with_name(f"{target.stem}.failed.ipynb")
    if "{" in str(target):
        raise ValueError(f"{target}: papermill cannot write to a path with a brace; give another --out")
    os.environ[BATCH] = "1"
    try:
        papermill.execute_notebook(
            str(notebook),
            str(temporary),
            parameters=dict(values),
            kernel_name=KERNEL,
            progress_bar=False,
            log_output=log_output,
            cwd=str(NOTEBOOKS.parent),
            coalesce_streams=True,
        )
    except papermill.PapermillExecutionError as error:
        shutil.move(temporary, failed)
        raise ValueError(
            f"{notebook.stem} failed: {error.ename}: {error.evalue} (the notebook with its error is {failed})"
        ) from None
    finally:
        os.environ.pop(BATCH, None)
        if temporary.exists():
            executed = nbformat.read(temporary, as_version=4)
            # papermill keeps the source's kernel in the file when another one ran it.
            executed.metadata.kernelspec = {"name": KERNEL, "display_name": "Python 3", "language": "python"}
            nbformat.write(executed, temporary)
            os.replace(temporary, target)
            failed.unlink(missing_ok=True)


def find_notebooks(only: Sequence[str]) -> list[Path]:
    """`notebooks/*.ipynb` in order, or those of `only`, by stem."""
    paths = {path.stem: path for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))}
    for name in only:
        if name not in paths:
            raise ValueError(f"--only '{name}' is not a notebook, expected one of {', '.join(paths)}")
    return [paths[name] for name in paths if not only or name in only]


def declared_parameters(notebook: Path) -> dict[str, type]:
    """Name -> type of the parameters cell."""
    import papermill

    return {name: TYPES[row["inferred_type_name"]] for name, row in papermill.inspect_notebook(str(notebook)).items()}


def check_kernel() -> None:
    from jupyter_client.kernelspec import KernelSpecManager

    known = KernelSpecManager().find_kernel_specs()
    if KERNEL not in known:
        raise ValueError(
            f"no Jupyter kernel '{KERNEL}' is installed (found: {', '.join(known) or 'none'}); install the notebooks' "
            "packages: pip install -e '.[notebooks]'"
        )


def parse_values(items: Sequence[str]) -> dict[str, Any]:
    """`name=value` with YAML values: numbers, lists, true and false."""
    values: dict[str, Any] = {}
    for item in items:
        name, equals, raw = item.partition("=")
        if not equals or not name:
            raise ValueError(f"-p got '{item}', expected name=value, for example alpha=0.3")
        values[name] = yaml.safe_load(raw)
        if isinstance(values[name], str):
            try:
                values[name] = float(values[name])  # YAML 1.1 reads 1e-3 as a text
            except ValueError:
                continue
    return values


def write_html(notebooks: Sequence[Path], out: Path) -> list[Path]:
    """Executed notebooks as pages that need no JupyterLab, with one plotly.js file beside them and no network."""
    import nbformat
    import plotly
    from nbconvert import HTMLExporter

    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(script, out / script.name)
    pages = []
    for path in notebooks:
        exporter = HTMLExporter(require_js_url="", mathjax_url="", embed_images=True)
        body, _ = exporter.from_notebook_node(nbformat.read(path, as_version=4))
        page = out / f"{path.stem}.html"
        page.write_text(body, encoding="utf-8")
        pages.append(page)
    return pages
