"""The model card of an exported model, `README.md` in the hub's form: what it is, how to use it, the run's numbers with
their spread, how it was made, and what is not known (a licence).

Only what the run's files say. Local folders are named without their place: a card goes to strangers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from core.config import Config, validated
from core.presets import PRESETS
from core.report import build_report
from core.store import Run
from core.tasks import Task
from core.views.roles import Role, role_of

LICENCE = (
    "Not specified. The weights depend on the training data, and on the encoder where it was pre-trained elsewhere; "
    "whoever publishes them has to check the licences of both, and name one here."
)


class Facts(NamedTuple):
    """`kind`: the class of the export. `whole`: with all of the model's heads. `difference`: the largest of a logit
    between export and run, over `n_compared` examples."""

    model: str
    kind: str
    tasks: dict[str, Task]
    whole: bool
    difference: float
    n_compared: int


def card_of(run: Run, facts: Facts, about: dict[str, Any]) -> str:
    manifest = run.manifest()
    config = validated(manifest["config"])
    role = role_of(facts.model, manifest["tasks"])
    title = facts.model if facts.whole else f"{facts.model}, {next(iter(facts.tasks))}"
    front = ["---", "library_name: transformers", "pipeline_tag: text-classification",
             "tags: [darkroom, knowledge-distillation, multi-task]", "---"]  # fmt: skip
    parts = [
        "\n".join(front),
        f"# {title}",
        _what(config, role, facts),
        "## Use",
        _use(facts, about),
        "## Results",
        _results(run, config, facts),
        "## How it was made",
        _made(run, manifest, config, about),
        "## Limits",
        _limits(facts, about),
        "## Licence",
        LICENCE,
    ]
    return "\n\n".join(parts) + "\n"


def _what(config: Config, role: Role | None, facts: Facts) -> str:
    tasks = ", ".join(f"{name} ({_outputs(task)})" for name, task in facts.tasks.items())
    return f"{_kind(config, role)} One encoder, {len(facts.tasks)} head{'s' * (len(facts.tasks) > 1)}: {tasks}."


def _kind(config: Config, role: Role | None) -> str:
    k, n = config.select.top_k, len(config.data.tasks)
    if role is not None and role.kind == "student" and role.variant == "hard":
        return f"A multi-task model of {n} tasks, trained on gold labels alone (the student without distillation)."
    if role is not None and role.kind == "student":
        return (
            "A student of multi-task knowledge distillation (MT-DNN + KD, arXiv:1904.09482), variant "
            f"`{role.variant}`: trained on {n} tasks, with soft targets of {k} teachers ({config.ensemble.strategy}) "
            "where a task has them."
        )
    if role is not None and role.kind == "teacher":
        return f"A teacher: a multi-task model, fine-tuned on {role.task}."
    return f"A multi-task model of {n} tasks (MT-DNN, arXiv:1901.11504)."


def _outputs(task: Task) -> str:
    if task.kind == "regression":
        return f"a value from {task.score_range[0]:g} to {task.score_range[1]:g}"
    return f"{len(task.labels)} candidates ranked" if task.kind == "ranking" else ", ".join(task.labels)


def _use(facts: Facts, about: dict[str, Any]) -> str:
    own = facts.kind.startswith("Darkroom")
    task = next(iter(facts.tasks.values()))
    has_pair = task.is_pair or task.kind == "ranking"
    text = '{"text": "the first text", "text_pair": "the second"}' if has_pair else '"a text"'
    lines = ["```python", *(["import core.exported  # the package `darkroom`; it registers the class"] if own else []),
             "from transformers import AutoModelForSequenceClassification, pipeline", "",
             'model = AutoModelForSequenceClassification.from_pretrained("DIR")',
             f'pipeline("text-classification", model="DIR")({text}, truncation=True)']  # fmt: skip
    if facts.whole and len(facts.tasks) > 1:
        last = list(facts.tasks)[-1]
        lines += [f'AutoModelForSequenceClassification.from_pretrained("DIR", task="{last}")  # another head',
                  "model.answers(**inputs)  # all heads that fit the texts, on one encoder pass"]  # fmt: skip
    lines += [
        "```",
        "",
        f"`DIR`: this directory, or the repository's name. Sequences of up to {about['max_length']} tokens.",
    ]
    if own:
        lines.append("No code travels with the weights, and `trust_remote_code` is not needed.")
    if any(one.kind == "ranking" for one in facts.tasks.values()):
        lines.append(
            "Ranking: the output is the relevance of one (question, candidate) pair; a question's probabilities are "
            "the softmax over its candidates."
        )
    return "\n".join(lines)


def _results(run: Run, config: Config, facts: Facts) -> str:
    path = run.path / "metrics.parquet"
    if not path.exists():
        return "This run has not been evaluated."
    split = config.evaluate.split
    rows = [
        row
        for row in pq.read_table(path).to_pylist()
        if row["model"] == facts.model
        and row["task"] in facts.tasks
        and row["split"] == split
        and row["metric"] != "score"
    ]
    lines = [f"Split `{split}`; 95 % bootstrap intervals over the n examples.", "",
             "| task | metric | this model | 95 % interval | n |", "|---|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {row['task']} | {row['metric']} | {row['value']:.4f} | {_interval(row)} | {row['n']} |" for row in rows
    ]
    try:
        table = build_report(run)["tables"]["score"]
    except ValueError:  # metrics of an older config, or of imported predictions: no comparison to show
        return "\n".join(lines)
    lines += ["", "The run's students: score x 100, mean ± standard error over seeds, and what distillation changed "
              "(paired by seed):", "",
              "| task | student, KD | student, no KD | KD minus no KD |", "|---|---|---|---|"]  # fmt: skip
    for row in table:
        if row["name"] in facts.tasks:
            lines.append(f"| {row['name']} | {_mean(row.get('kd'))} | {_mean(row.get('hard'))} | {_said(row)} |")
    return "\n".join(lines)


def _interval(row: dict[str, Any]) -> str:
    return "" if row["ci_low"] is None else f"{row['ci_low']:.4f} to {row['ci_high']:.4f}"


def _mean(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    spread = "" if cell["se"] is None else f" ± {100 * cell['se']:.1f}"
    return f"{100 * cell['mean']:.1f}{spread} (n = {cell['n']})"


def _said(row: dict[str, Any]) -> str:
    return f"{_mean(row['difference'])}, {row['difference']['verdict']}" if "difference" in row else ""


def _made(run: Run, manifest: dict[str, Any], config: Config, about: dict[str, Any]) -> str:
    versions, rows = manifest["versions"], manifest["jobs"].get("prepare", {}).get("tasks", {})
    data = "; ".join(
        f"{task} {', '.join(f'{n} {split}' for split, n in about['rows'].items())}" for task, about in rows.items()
    )
    return "\n".join(
        [
            "```",
            command_of(config, run.path.name),
            "```",
            "",
            f"- Data: source `{config.data.source}`, seed {config.data.seed}. Rows: {data}.",
            f"- Encoder: `{_place(about['encoder'])}`. Seed {config.seed}.",
            f"- Darkroom {versions['core']}, git commit {manifest['git_commit'] or 'unknown'}, "
            f"torch {versions['torch']}, transformers {versions['transformers']}.",
        ]
    )


def _limits(facts: Facts, about: dict[str, Any]) -> str:
    lines = [
        f"- Compared after it was written: logits differ from the run's own by at most {facts.difference:.1e} "
        f"(float32, {facts.n_compared} examples).",
        "- Not tested outside the data above; probabilities are not calibrated beyond what the table says.",
    ]
    if facts.kind.startswith("Electra"):
        lines.append(
            "- `ElectraForSequenceClassification` holds the run's linear head exactly (GELU(x) - GELU(-x) = x); "
            "the encoder's weights are unchanged. Its name does not mean that it was trained as ELECTRA."
        )
    if about.get("mc_passes"):
        lines.append(
            f"- In the run this model averages {about['mc_passes']} passes with dropout (MC dropout), and the numbers "
            "above are those. The export answers once, without dropout."
        )
    return "\n".join(lines)


# ---- the command ---------------------------------------------------------------------------------------------------
def command_of(config: Config, name: str) -> str:
    """The command that makes this config from its preset."""
    before, after = PRESETS[config.preset]().model_dump(), config.model_dump()
    sets = [f"--set {_quoted(f'{key}={_place(value)}')}" for key, value in _changes(before, after)]
    return " ".join([f"python -m core run --preset {config.preset} --out runs/{name}", *sets])


def _changes(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict) and value and old[key]:
            found += _changes(old[key], value, f"{prefix}{key}.")
        elif value != old.get(key):
            found.append((f"{prefix}{key}", value))
    return found


def _place(value: Any) -> Any:
    """A value as `--set` reads it; a path by its last part."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(str(_place(one)) for one in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_place(one)}" for key, one in value.items()) + "}"
    if value is None:
        return "null"
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _quoted(text: str) -> str:
    return f"'{text}'" if any(character in text for character in " [](){}") else text
