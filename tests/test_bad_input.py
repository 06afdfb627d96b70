"""Bad input from every door, in one table: each is refused with exit code 2, one message on standard error that says
what, got, expected and remedy, and no traceback. (The fuzz is in tests/test_fuzz.py.)

Over 350 lines: one table, so that it is seen what is in it and what is not.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from conftest import TINY, Finished
from test_cli import refused
from test_data import GOOD_JSONL, GOOD_TSV, NO_HUMANS, PAIR_TASK, PLAIN_SCORES, RANK_TASK
from test_importing import NLI, arguments, right, write_dev, write_outputs

from core.files import write_json
from core.store import Run
from core.tasks import SUITE, Task
from core.views.catalogue import open_run
from core.views.filters import from_query


@pytest.fixture(autouse=True)
def quiet() -> None:
    """As the program has it (core/cli, `main`): what transformers logs of a bad checkpoint is not our message."""
    logging.getLogger("transformers").setLevel(logging.ERROR)


SETS = [part for item in TINY for part in ("--set", item)]

# ---- contents of files: task, format, train file, parts of the message ---------------------------------------------
CONTENTS: dict[str, tuple[Task, str, str | bytes, list[str]]] = {
    "missing column": (NO_HUMANS, ".tsv", "aa\tb\ty\nx\tz\t0\n", ["has no column 'a'; did you mean 'aa'?", "'b', 'y'"]),
    "missing label": (NO_HUMANS, ".tsv", "a\tb\tyy\nx\tz\t0\n", ["train.tsv has no column 'y'", "Rename the column"]),
    "missing humans": (PAIR_TASK, ".tsv", GOOD_TSV, ["has no column 'r1'", "human_columns"]),
    "column twice": (NO_HUMANS, ".tsv", "a\tb\ty\ta\nx\tz\t0\tx\n", ["has 2 columns 'a'"]),
    "ragged row": (NO_HUMANS, ".tsv", GOOD_TSV + "z\t1\n", ["train.tsv line 4 has 2 field(s), expected 3", "tabs"]),
    "too many fields": (NO_HUMANS, ".tsv", GOOD_TSV + "z\tz\tz\t1\n", ["line 4 has 4 field(s), expected 3 (a, b, y)"]),
    "blank line": (NO_HUMANS, ".tsv", "a\tb\ty\n\nx\tz\t0\n", ["train.tsv line 2 has 1 field(s)"]),
    "ragged csv": (NO_HUMANS, ".csv", "a,b,y\nx,z,0\nx,z,w,0\n", ["train.csv line 3 has 4 field(s)", "Quote cells"]),
    "open quote": (NO_HUMANS, ".csv", 'a,b,y\nx,z,0\n"x,z,0\n', ["train.csv line 3 is not valid CSV", "twice"]),
    "unknown label": (
        replace(NO_HUMANS, label_values=("good", "bad")),
        ".tsv",
        "a\tb\ty\nx\tz\tgood\nx\tz\tbadd\n",
        ["train.tsv line 3 has the unknown label 'badd'", "did you mean 'bad'?", "Known: good, bad", "label_values"],
    ),
    "label case": (NO_HUMANS, ".tsv", "a\tb\ty\nx\tz\tYES\nx\tz\t1\n", ["unknown label 'YES'", "Known: 0, 1"]),
    "no label": (NO_HUMANS, ".tsv", "a\tb\ty\nx\tz\t0\nx\tz\t\n", ["train.tsv line 3 has no label", "remove the row"]),
    "unknown human": (
        PAIR_TASK,
        ".tsv",
        "a\tb\ty\tr1\tr2\nx\tz\t0\t0\t1\nx\tz\t1\t0\tmaybe\n",
        ["train.tsv line 3 has the unknown label 'maybe' in column 'r2'"],
    ),
    "humans twice": (
        PAIR_TASK,
        ".tsv",
        "a\tb\ty\tr1\tr2\tn_humans\nx\tz\t0\t0\t1\t5\nx\tz\t1\t0\t1\t5\n",
        ["has 'n_humans' as well as human_columns ['r1', 'r2']"],
    ),
    "half a human": (
        NO_HUMANS,
        ".tsv",
        "a\tb\ty\tn_humans\nx\tz\t0\t5\nx\tz\t1\t2.5\n",
        ["train.tsv line 3 has '2.5' in column 'n_humans', expected a whole number"],
    ),
    "empty text": (
        NO_HUMANS,
        ".tsv",
        "a\tb\ty\nx\tz\t0\n\u3000\tz\t1\n",
        ["line 3 has an empty text", "empty_text=drop"],
    ),
    "one class": (NO_HUMANS, ".tsv", "a\tb\ty\nx\tz\t1\nx\tz\t1\n", ["2 row(s) with the gold ['yes']", "label column"]),
    "not utf-8": (
        NO_HUMANS,
        ".tsv",
        GOOD_TSV.encode() + b"caf\xe9\tz\t1\n",
        ["train.tsv line 4 is not UTF-8: byte 0xe9 at offset 25", "iconv"],
    ),
    "not utf-8, marked": (NO_HUMANS, ".csv", b"\xef\xbb\xbfa,b,y\ncaf\xe9,z,1\n", ["line 2", "0xe9 at offset 12"]),
    "utf-16": (NO_HUMANS, ".tsv", GOOD_TSV.encode("utf-16"), ["line 1 is not UTF-8", "offset 0", "iconv"]),
    "NUL": (NO_HUMANS, ".tsv", GOOD_TSV + "z\0\tz\t1\n", ["train.tsv line 4 has a NUL character", "remove"]),
    "empty file": (NO_HUMANS, ".tsv", "", ["train.tsv is empty", "restore the file"]),
    "empty csv": (NO_HUMANS, ".csv", "", ["train.csv is empty"]),
    "header only": (NO_HUMANS, ".tsv", "a\tb\ty\n", ["train.tsv is empty, expected at least one row"]),
    "empty jsonl": (RANK_TASK, ".jsonl", "\n", ["train.jsonl is empty"]),
    "other format": (NO_HUMANS, ".json", "[]", ["format '.json' is not known; did you mean '.jsonl'?", "a folder"]),
    "not parquet": (NO_HUMANS, ".parquet", "a,b,y", ["train.parquet is not a readable parquet file", "Write it again"]),
    "wrong number": (
        RANK_TASK,
        ".jsonl",
        GOOD_JSONL + '{"q": "?", "options": ["x", "y"], "y": 1}',
        ["train.jsonl line 3 has 2 entries in column 'options', expected 3", "correct the row"],
    ),
    "empty candidate": (
        RANK_TASK,
        ".jsonl",
        GOOD_JSONL + '{"q": "?", "options": ["x", " ", "y"], "y": 1}',
        ["train.jsonl line 3 has an empty text"],
    ),
    "null candidates": (RANK_TASK, ".jsonl", GOOD_JSONL + '{"q": "?", "y": 1}', ["line 3 has an empty text"]),
    "not a list": (
        RANK_TASK,
        ".csv",
        "q,options,y\n?,x;y;z,1\n",
        ["line 2 has 'x;y;z' in column 'options'", "JSON list"],
    ),
    "json number": (RANK_TASK, ".csv", "q,options,y\n?,3,1\n", ["line 2 has '3'", "not a list"]),
    "candidate 4 of 3": (
        RANK_TASK,
        ".jsonl",
        GOOD_JSONL + '{"q": "?", "options": ["x", "y", "z"], "y": 4}',
        ["train.jsonl line 3 has the unknown label '4'", "Known: 1, 2, 3"],
    ),
    "bad json": (
        RANK_TASK,
        ".jsonl",
        GOOD_JSONL + '{"q": ',
        ["train.jsonl line 3 is not valid JSON", "one object a line"],
    ),
    "json array": (RANK_TASK, ".jsonl", GOOD_JSONL + "[1]", ["train.jsonl line 3 is a JSON list, expected an object"]),
    "half a pair": (
        RANK_TASK,
        ".jsonl",
        GOOD_JSONL.replace('"?"', '"\\ud83d"'),
        ["train.jsonl: column 'q'", "surrogate"],
    ),
    "text is a number": (
        RANK_TASK,
        ".jsonl",
        GOOD_JSONL.replace('"?"', "7"),
        ["column 'q' holds int64, expected text"],
    ),
    "NUL in json": (RANK_TASK, ".jsonl", GOOD_JSONL.replace('"?"', '"\\u0000"'), ["line 1 has a NUL character"]),
    "probs of 2": (
        RANK_TASK,
        ".jsonl",
        GOOD_JSONL.replace("}", ', "true_probs": [0.5, 0.5]}'),
        ["line 1 has 2 entries in column 'true_probs', expected 3"],
    ),
    "probs not summing": (
        RANK_TASK,
        ".jsonl",
        GOOD_JSONL.replace("}", ', "true_probs": [0.5, 0.5, 0.5]}'),
        ["train.jsonl line 1: true_probs is [0.5, 0.5, 0.5]", "sum 1", "normalise"],
    ),
    "negative probs": (
        RANK_TASK,
        ".jsonl",
        GOOD_JSONL.replace("}", ', "human_probs": [1.5, -0.5, 0]}'),
        ["line 1: human_probs is [1.5, -0.5, 0.0]"],
    ),
    "NaN probs": (RANK_TASK, ".jsonl", GOOD_JSONL.replace("}", ', "true_probs": [NaN, 1, 0]}'), ["true_probs is [nan"]),
    "NaN score": (PLAIN_SCORES, ".tsv", "a\tb\ty\nx\tz\t0\nx\tz\tnan\n", ["train.tsv line 3", "is nan", "finite"]),
    "high score": (PLAIN_SCORES, ".tsv", "a\tb\ty\nx\tz\t0\nx\tz\t1.5\n", ["line 3", "1.5, expected one in [0, 1]"]),
    "low score": (PLAIN_SCORES, ".tsv", "a\tb\ty\nx\tz\t-1\nx\tz\t1\n", ["train.tsv line 2", "score_range"]),
    "no score": (
        PLAIN_SCORES,
        ".tsv",
        "a\tb\ty\nx\tz\t0\nx\tz\tNA\n",
        ["line 3 has 'NA' in column 'y', expected a number"],
    ),
    "constant score": (PLAIN_SCORES, ".tsv", "a\tb\ty\nx\tz\t1\nx\tz\t1\n", ["with the gold [1.0]"]),
    # ---- and by the command line alone
    "a cell of 1 MB": (NO_HUMANS, ".tsv", GOOD_TSV + "x" * 1_000_000 + "\t1\n", ["line 4 has 2 field(s), expected 3"]),
    "a cell of 1 MB, quoted": (
        NO_HUMANS,
        ".csv",
        'a,b,y\nx,z,0\n"' + "x" * 1_000_000 + '",z,2\n',
        ["train.csv line 3 has the unknown label '2'"],
    ),
    "CRLF": (NO_HUMANS, ".tsv", GOOD_TSV.replace("\n", "\r\n") + "z\t1\r\n", ["line 4 has 2 field(s), expected 3"]),
    "a mark of bytes inside": (NO_HUMANS, ".tsv", "\ufeffa\tb\ty\nx\tz\t\ufeff2\n", ["line 2 has the unknown label"]),
    "emoji as a label": (
        NO_HUMANS,
        ".tsv",
        GOOD_TSV + "x\tz\t\U0001f642\n",
        ["line 4 has the unknown label '\U0001f642'"],
    ),
    "right to left": (
        NO_HUMANS,
        ".tsv",
        GOOD_TSV + "\u05d0\tz\t\u05db\u05df\n",
        ["has the unknown label '\u05db\u05df'"],
    ),
    "text without words": (NO_HUMANS, ".tsv", GOOD_TSV + " \u00a0\tz\t1\n", ["train.tsv line 4 has an empty text"]),
    "JSON that is too deep": (
        RANK_TASK,
        ".jsonl",
        GOOD_JSONL + "[" * 100_000,
        ["train.jsonl line 3 is not valid JSON"],
    ),
    "infinite score": (PLAIN_SCORES, ".tsv", "a\tb\ty\nx\tz\t0\nx\tz\tinf\n", ["train.tsv line 3", "is inf", "finite"]),
}
GOOD_DEV = {".tsv": GOOD_TSV, ".csv": "a,b,y\nx,z,0\n", ".jsonl": GOOD_JSONL}


def yaml_of(task: Task) -> str:
    """The row as a person would write it."""
    default = Task(name=task.name, labels=("x", "y"))
    row: dict[str, Any] = {"has_teacher": True}
    for field in fields(Task):
        value = getattr(task, field.name)
        if field.name not in ("name", "files", "has_teacher") and value != getattr(default, field.name):
            row[field.name] = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump({"mine": row | {"files": dict(task.files)}}, allow_unicode=True)


def own_tasks(place: Path, text: str) -> list[object]:
    """The command for a run of own tasks; `text` is the YAML file."""
    (place / "tasks.yaml").write_text(text, encoding="utf-8")
    return ["run", "--preset", "smoke", "--out", place / "run", "--tasks", place / "tasks.yaml", "--only", "prepare"]


@pytest.mark.parametrize("case", CONTENTS)
def test_contents_of_files(case: str, tmp_path: Path) -> None:
    task, suffix, train, expected = CONTENTS[case]
    task = replace(task, files=(("train", f"train{suffix}"), ("dev", f"dev{suffix}")))
    (tmp_path / f"train{suffix}").write_bytes(train if isinstance(train, bytes) else train.encode())
    (tmp_path / f"dev{suffix}").write_text(GOOD_DEV.get(suffix, ""), encoding="utf-8")
    message = refused(*own_tasks(tmp_path, yaml_of(task)))
    for part in expected:
        assert part in message
    if case not in ("one class", "constant score"):  # those two are about the whole split
        assert str(tmp_path / f"train{suffix}") in message


# ---- every other door ----------------------------------------------------------------------------------------------
class Place(NamedTuple):
    """Where a case works: a folder of its own, and a finished run that it must not change."""

    folder: Path
    smoke: Run


Makes = Callable[[Place], list[object]]
FILES = "files: {train: a.tsv, dev: b.tsv}"


def run_with(*options: str) -> Makes:
    return lambda place: ["run", "--out", place.folder / "run", "--preset", "smoke", *options]


def sets(*items: str) -> Makes:
    return run_with(*(part for item in items for part in ("--set", item)))


def config_file(content: str | bytes) -> Makes:
    def make(place: Place) -> list[object]:
        data = content if isinstance(content, bytes) else content.encode()
        (place.folder / "my.yaml").write_bytes(data)
        return ["run", "--out", place.folder / "run", "--config", place.folder / "my.yaml"]

    return make


def task_file(text: str) -> Makes:
    return lambda place: own_tasks(place.folder, text)


def encoder(change: Callable[[Path], Any], *more: str) -> Makes:
    """A small run that starts from a folder: a model of the finished run, changed."""

    def make(place: Place) -> list[object]:
        folder = place.folder / "encoder"
        shutil.copytree(place.smoke.model_dir("mt-1") / "encoder", folder)
        change(folder)
        items = (f"multitask.encoders=['{folder}']", "data.tasks=[sentiment]", "data.n_train=60", *more)
        return ["run", "--preset", "smoke", "--out", place.folder / "run", *SETS, *_sets(items)]

    return make


def _sets(items: tuple[str, ...]) -> list[object]:
    return [part for item in items for part in ("--set", item)]


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def brings_code(folder: Path) -> None:
    change_json(folder / "config.json", model_type="mine", auto_map={"AutoConfig": "code.C", "AutoModel": "code.M"})
    (folder / "code.py").write_text(f"open({str(folder.parent / 'executed')!r}, 'w')\n", encoding="utf-8")


def run_dir(command: str, content: str | bytes | dict[str, Any], *more: str) -> Makes:
    """A run directory whose run.json is `content`, or that of the finished run with other fields."""

    def make(place: Place) -> list[object]:
        folder = place.folder / "old"
        folder.mkdir()
        if isinstance(content, dict):
            write_json(folder / "run.json", place.smoke.manifest() | content)
        else:
            (folder / "run.json").write_bytes(content if isinstance(content, bytes) else content.encode())
        return [command, *(["--out"] if command == "run" else []), folder, *more]

    return make


def imported(labels: tuple[str, ...] = NLI, *more: object, **changed: Any) -> Makes:
    def make(place: Place) -> list[object]:
        write_dev(place.folder)
        write_outputs(place.folder / "a.csv", right() | changed, labels)
        return arguments(place.folder, *more)

    return make


def notebooks(*options: str) -> Makes:
    return lambda place: ["notebooks", "--run", place.smoke.path, "--out", place.folder, *options]


def swept(*options: str) -> Makes:
    return lambda place: ["sweep", "--run", place.smoke.path, "--out", place.folder / "sweep", *options]


ASKED = ("--task", "nli", "--text", "a", "--text-b", "b")
# Door -> [how it is called, parts of the message].
DOORS: dict[str, list[tuple[Makes, list[str]]]] = {
    "config": [
        (run_with("--preset", "smok"), ["preset 'smok' is not known; did you mean 'smoke'? presets: smoke, demo"]),
        (sets("distil.alpha=1"), ["unknown config key 'distil'; did you mean 'distill'?"]),
        (sets("distill.alhpa=1"), ["unknown config key 'distill.alhpa'; did you mean 'distill.alpha'?", "Known: "]),
        (sets("distill=1"), ["config section 'distill' is 1, expected fields such as distill.seed=1"]),
        (sets("distill.alpha=2"), ["distill.alpha: Input should be less than or equal to 1 (got 2)"]),
        (sets("distill.seeds=three"), ["distill.seeds: Input should be a valid integer", "(got 'three')"]),
        (sets("multitask.lr=.nan"), ["multitask.lr: Input should be", "(got nan)"]),
        (sets("multitask.epochs=0"), ["multitask.epochs: Input should be greater than or equal to 1 (got 0)"]),
        (sets("select.top_k=9"), ["select.top_k is 9, but there are 2 members; lower it or add multitask.encoders"]),
        (sets("data.teacher_tasks=[rte]"), ["data.teacher_tasks has 'rte', which is not in data.tasks (sentiment,"]),
        # The brackets must survive the terminal's markup.
        (sets("data.tasks=[nli, nli]"), ["data.tasks repeats an entry: ['nli', 'nli']"]),
        (sets("data.tasks=[nli,rte]"), ["task 'rte' is not known"]),
        (sets("[bold]x[/bold]"), ["--set got '[bold]x[/bold]', expected section.field=value"]),
        (sets("data.tasks=[nli"), ["--set data.tasks: '[nli' is not a YAML value"]),
        (sets("data.files_dir=here"), ["data.files_dir is set, but only data.tasks_file uses it; give --tasks"]),
        (sets("runtime.device=tpu"), ["runtime.device is 'tpu', expected auto, cpu, cuda"]),
        (sets("runtime.workers=1", "model.tokenizer="), ["is fresh and has no tokenizer; set model.tokenizer to"]),
        (run_with("--config", "nowhere.yaml"), ["config file nowhere.yaml cannot be read: No such file"]),
        (run_with("--tasks", "nowhere.yaml"), ["nowhere.yaml is not a readable YAML file"]),
        (run_with("--only", "report"), ["stage 'report' is not known, expected one of prepare, pretrain, multitask"]),
        (run_with("--from", "select", "--only", "select"), ["--from and --only exclude each other: give one"]),
        (run_with("--preset", "glue-small", "--set", "data.glue_dir=nowhere"), ["looked for nowhere", "correct data."]),
        (config_file("- a"), ["my.yaml: expected sections such as 'distill:', got list"]),
        (config_file("distill: [alpha"), ["my.yaml is not valid YAML"]),
        (config_file(b"distill: {loss: caf\xe9}"), ["my.yaml is not valid YAML", "utf-8"]),
        (config_file("!!python/object/apply:os.system [ls]"), ["my.yaml is not valid YAML", "could not determine"]),
        (config_file("distill: {alpha: 0.3, beta: 1}"), ["unknown config key 'distill.beta'"]),
    ],
    "task file": [
        (task_file(""), ["expected a mapping from task names to fields, got NoneType"]),
        (task_file("- a"), ["got list"]),
        (task_file("a: ["), ["is not a readable YAML file"]),
        (task_file("a: !!python/name:os.system"), ["is not a readable YAML file"]),
        (task_file("a: 3"), ["task 'a' is int, expected a mapping of fields"]),
        (task_file(f"a: {{{FILES}, lables: [x, y]}}"), ["unknown field 'lables'; did you mean 'labels'?"]),
        (task_file(f"a: {{{FILES}, hub: [x, y]}}"), ["unknown field 'hub'"]),
        (task_file("a: {labels: [x, y]}"), ["needs 'files' with at least a 'train' entry"]),
        (task_file("a: {files: {train: a.tsv, valid: b.tsv}, labels: [x, y]}"), ["unknown split 'valid' in 'files'"]),
        (task_file(f"a: {{{FILES}, labels: xyz}}"), ["'labels' is 'xyz', expected a list like [a, b]"]),
        (task_file(f"a: {{{FILES}, labels: [x]}}"), ["1 label(s) given, expected at least 2"]),
        (task_file(f"a: {{{FILES}, kind: regression, score_range: [low, high]}}"), ["to float: 'low'"]),
        (task_file(f"'a b': {{{FILES}, labels: [x, y]}}"), ["a name has letters"]),
        (task_file(f"../a: {{{FILES}, labels: [x, y]}}"), ["a name has letters"]),
        (task_file(f"a: {{{FILES}, labels: [x, y]}}"), ["none of the tasks a has a teacher"]),
        (task_file(f"a: {{{FILES}, labels: [x, y], has_teacher: true}}"), ["no file for split 'train'; looked for"]),
        (
            task_file("a: {files: {train: ../../secret.tsv}, labels: [x, y], has_teacher: true}"),
            ["the file '../../secret.tsv' is outside of", "expected one inside; or set data.files_dir=FOLDER"],
        ),
        (task_file("a: {files: {train: /etc/hosts}, labels: [x, y]}"), ["the file '/etc/hosts' is outside of"]),
    ],
    "encoder": [
        (encoder(shutil.rmtree), ["no encoder at '", "there is no such folder. Give a folder with config.json"]),
        (encoder(lambda f: (f / "config.json").write_text("{")), ["no encoder at '", "not a valid JSON file"]),
        (encoder(brings_code), ["no encoder at '", "it brings Python code of its own, and Darkroom runs none from"]),
        (encoder(lambda f: os.truncate(f / "model.safetensors", 900)), ["no encoder at '", "invalid header length"]),
        (encoder(lambda f: (f / "model.safetensors").unlink()), ["no encoder at '", "no file named model.safetensors"]),
        (
            encoder(lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin")),
            ["no encoder at '", "no file named model.safetensors", "Give a folder with config.json and model.safet"],
        ),
        (
            encoder(lambda f: change_json(f / "config.json", hidden_size=64)),
            ["have other shapes than its config.json says; restore both from one checkpoint"],
        ),
        (
            encoder(lambda f: None, "model.tokenizer=wordpiece(vocab=3000)", "data.tasks=[sentiment,nli,similarity]"),
            ["has a vocabulary of", "its tokenizer has", "use the tokenizer that the encoder was trained with"],
        ),
        (sets("multitask.encoders=['random:bert(layers=0)']", "runtime.workers=1"), ["'layers=0' is not one of"]),
        (sets("multitask.encoders=['random:brt(layers=1)']", "runtime.workers=1"), ["no model type 'brt' in transf"]),
        (sets("multitask.encoders=['random:bert']", "runtime.workers=1"), ["is not of the form random:bert(layers=2"]),
    ],
    "run directory": [
        (lambda place: ["status", place.folder], ["is not a run directory: it has no run.json. Make one with `python"]),
        (lambda place: ["report", place.folder / "none"], ["is not a run directory"]),
        (
            run_dir("status", '{"schema_version": 2, "jobs": {'),
            ["run.json is not valid JSON", "restore it from a copy"],
        ),
        (run_dir("status", b"\xff\xfe{"), ["run.json is not valid JSON", "restore it from a copy"]),
        (run_dir("verify", "[1, 2]"), ["run.json holds a list, expected a run's manifest"]),
        (
            run_dir("report", {"schema_version": 99}),
            ["has schema version 99, this code reads 1 to 2; use the Darkroom"],
        ),
        (run_dir("run", {"schema_version": 0}), ["has schema version 0, this code reads 1 to 2"]),
        (run_dir("status", {"config": {"colour": 1}}), ["colour: Extra inputs are not permitted"]),
        (
            run_dir("run", {"jobs": {"../../home": {"stage": "multitask", "status": "done", "key": "x"}}}),
            ["'../../home' is not the name of a model or task, expected a name and not a path"],
        ),
        (
            run_dir("run", {"imported": True}),
            ["holds imported predictions and has no stages to run; give another"],
        ),
        (run_dir("status", {"imported": True}), ["holds imported predictions and has no stages"]),
        (
            lambda place: ["run", "--preset", "smoke", "--out", place.folder.parent],
            ["holds no run; give an empty or new"],
        ),
        (
            lambda place: ["predict", "--run", place.smoke.path, "--model", "../../x", *ASKED],
            ["'../../x' is not the name of a model or task, expected a name and not a path"],
        ),
    ],
    "predictions to import": [
        (imported(("entailment", "neutral", "contra")), ["expected one for each label of 'snli'"]),
        (imported(("prob_entailment", "prob_neutral", "prob_contradiction")), ["add --probs"]),
        (imported(p3=["nan", 0, 0]), ["1 rows, first 'p3'"]),
        (imported(p3=["NA", 0, 0]), ["expected a number"]),
        (imported(NLI, **{" p0": [1, 2, 3]}), ["1 ids of column 'pairID' occur more than once, first: 'p0'"]),
        (imported(q9=[1, 0, 0]), ["1 ids (pairID) are not among the examples, first: 'q9'", "--partial"]),
        (imported(NLI, "--role", "a=professor"), ["role 'professor'"]),
        (imported(NLI, "--key", "pair"), ["no column 'pair'"]),
        (imported(NLI, "--task", "stsb"), ["is a regression, expected labels"]),
        (imported(NLI, "--model", "b"), ["--model is 'b', expected NAME=FILE"]),
        (
            lambda place: [*imported()(place)[:-1], f"../evil={place.folder / 'a.csv'}"],
            ["model name '../evil' in 'models' has more than letters, digits, '_', '-', '.'"],
        ),
        (lambda place: [*imported()(place)[:-1], f"a={place.folder / 'none.csv'}"], ["none.csv", "does not exist"]),
    ],
    "parameters": [
        (notebooks("-p", "alpah=0.3"), ["unknown parameter 'alpah'; did you mean 'alpha'?"]),
        (notebooks("-p", "alpha=lots"), ["parameter 'alpha' is 'lots' (str), expected float or None"]),
        (notebooks("-p", "alpha"), ["-p got 'alpha', expected name=value, for example alpha=0.3"]),
        (notebooks("-p", "variants=[hard"), ["-p variants: '[hard' is not a YAML value"]),
        (notebooks("--only", "9_none"), ["9_none"]),
        (notebooks("--out", "nowhere/at/all"), ["--out nowhere/at/all is not a folder; make it first: mkdir -p"]),
        (swept("-p", "alpha"), ["-p got 'alpha', expected name=a,b,c"]),
        (swept("-p", "alhpa=0.1,0.2"), ["unknown parameter 'alhpa'; did you mean 'alpha'?"]),
        (swept("-p", "alpha=0.5,2"), ["distill.alpha: Input should be less than or equal to 1 (got 2"]),
        (swept("-p", "alpha=0.5,0.5"), ["expected one value or more, each once"]),
        (swept(), ["the grid is empty; give --grid sweep.yaml, or -p alpha=0,0.5,1"]),
        (swept("--grid", "nowhere.yaml"), ["--grid nowhere.yaml cannot be read as YAML"]),
    ],
}
ROWS = [
    pytest.param(makes, says, id=f"{door} {i}") for door, rows in DOORS.items() for i, (makes, says) in enumerate(rows)
]


@pytest.mark.parametrize(("makes", "says"), ROWS)
def test_every_door(makes: Makes, says: list[str], tmp_path: Path, smoke: Finished) -> None:
    folder = tmp_path / "place"
    folder.mkdir()
    message = refused(*makes(Place(folder, smoke.run)))
    for part in says:
        assert part in message
    assert not (folder / "executed").exists()


NAMES = [
    ("../etc", "is not the name of a run in"),
    ("/etc", "is not the name of a run in"),
    (".hidden", "is not the name of a run in"),
    ("", "is not the name of a run in"),
    ("a\0b", "is not the name of a run in"),
    ("x" * 5000, "no run 'xxx"),
    ("out", "is a link that leads out of"),
]


@pytest.mark.parametrize(("name", "said"), NAMES, ids=[repr(name[:9]) for name, _ in NAMES])
def test_links_with_a_wrong_run(name: str, said: str, tmp_path: Path, smoke: Finished) -> None:
    (tmp_path / "out").symlink_to(smoke.run.path)
    with pytest.raises(ValueError, match=r".") as error:
        open_run(tmp_path, name)
    assert said in str(error.value)


QUERIES = [
    ({"gold": "entailmet"}, "did you mean 'entailment'?"),
    ({"golden": "entailment"}, "unknown key 'golden' in the link"),
    ({"entropy": "high"}, "'entropy=high' in the link is no range, expected low:high"),
    ({"entropy": "nan:"}, "expected a finite number or none"),
    ({"entropy": "2:1"}, "expected low before high"),
    ({"entropy": ":"}, "has no bound"),
    ({"text": ""}, "expected a text that is not empty"),
]


@pytest.mark.parametrize(("query", "said"), QUERIES)
def test_links_with_a_wrong_filter(query: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        from_query(query, SUITE["nli"])
    assert said in str(error.value)


def test_there_are_many_doors_and_cases() -> None:
    assert len(CONTENTS) + len(ROWS) + len(QUERIES) + len(NAMES) >= 120
    assert len(DOORS) == 6
