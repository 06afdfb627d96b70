"""What `import-predictions` reads: examples with their keys, outputs by label name, annotators' counts. Nothing is
guessed: whatever cannot be read as it is, is refused with what there is, what was expected and a remedy.

Suffixes: N examples, C classes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from core.calibration import FloatArray
from core.columns import number_column, raw_labels

# Not `load_task`: that one needs a train split, and predictions may be on a development file alone.
from core.data import examples_table
from core.readers import Rows, Wanted, fingerprint, read_file
from core.tasks import SPLITS, Task, did_you_mean, example_schema

PREFIXES = ("", "logit_", "logits_", "logprob_", "log_prob_", "prob_", "probs_")
SUM_TOLERANCE = 1e-3
SMALLEST = 1e-12  # the logarithm of a probability of 0


class Examples(NamedTuple):
    """`table` as in the run; `keys` its rows' keys; `no_gold` the keys of rows without a majority label."""

    table: pa.Table
    keys: list[str]
    no_gold: frozenset[str]


class Outputs(NamedTuple):
    keys: list[str]
    logits_NC: FloatArray


# ---- examples ------------------------------------------------------------------------------------------------------
def _split_of(task: Task, text: str) -> tuple[str, Path]:
    split, sign, file = text.partition("=")
    if sign and split in SPLITS:
        return split, Path(file)
    found = [split for split, name in task.files if Path(name).name == Path(text).name]
    if not found:
        raise ValueError(
            f"--examples {text}: the name does not say which split it is, expected one of "
            f"{', '.join(Path(name).name for _, name in task.files)}; write SPLIT=FILE, for example dev={text}"
        )
    return found[0], Path(text)


def _read(path: Path, wanted: Wanted, needs: str, sources: dict[str, str], remedy: str) -> Rows:
    if not path.exists():
        raise ValueError(f"{path} does not exist; correct the path")
    rows = read_file(path, wanted)
    if needs not in rows.found:
        hint = did_you_mean(needs, rows.found)
        raise ValueError(f"{path} has no column '{needs}'{hint} Columns: {', '.join(rows.found)}. {remedy}")
    sources[str(path)] = fingerprint((path,))
    return rows


def _keys(rows: Rows, key: str, remedy: str) -> list[str]:
    keys = raw_labels(rows, key).to_pylist()
    if None in keys:
        raise ValueError(f"{rows.where(keys.index(None))} has no id in column '{key}'; fill it in or remove the row")
    again = [name for name, n in Counter(keys).items() if n > 1]
    if again:
        raise ValueError(
            f"{rows.source}: {len(again)} ids of column '{key}' occur more than once, first: '{again[0]}', expected "
            f"each once; {remedy}"
        )
    return keys


def examples_of(task: Task, examples: Sequence[str], key: str, sources: dict[str, str]) -> Examples:
    keys: list[str] = []
    no_gold: set[str] = set()
    tables, splits = [], []
    texts = tuple(name for name in (task.text_a, task.text_b, task.candidates) if name)
    brought = [n for n in example_schema(task).names if n.startswith(("true_", "human_", "n_humans"))]
    for text in examples:
        split, path = _split_of(task, text)
        if split in splits:
            raise ValueError(f"--examples has split '{split}' twice, expected one file a split; remove one")
        splits.append(split)
        own = key == "example_id"
        wanted = Wanted((*texts, task.label, *task.human_columns, *brought, key), texts, task.columns)
        needs = task.text_a if own else key
        rows = _read(path, wanted._replace(skip_malformed=task.skip_malformed), needs, sources, "Name it with --key")
        keep_N, table = examples_table(task, split, rows, "error", Counter())
        of_rows = table["example_id"].to_pylist() if own else _keys(rows, key, "choose another column with --key")
        if both := set(of_rows) & {*keys, *no_gold}:
            raise ValueError(f"{path}: id '{min(both)}' is also in another split; import one split a run")
        tables.append(table.filter(pa.array(keep_N)))
        keys += [one for one, keep in zip(of_rows, keep_N.tolist(), strict=True) if keep]
        no_gold |= {one for one, keep in zip(of_rows, keep_N.tolist(), strict=True) if not keep}
    return Examples(pa.concat_tables(tables).combine_chunks(), keys, frozenset(no_gold))


# ---- outputs -------------------------------------------------------------------------------------------------------
def outputs_of(task: Task, text: str, key: str, probs: bool, sources: dict[str, str]) -> Outputs:
    """Logits of one file. With `@COLUMN=VALUE` of the rows that have the value."""
    chosen = None if Path(text).exists() else re.fullmatch(r"(.+)@([^@=]+)=([^@]*)", text)
    path, column, value = (Path(chosen[1]), chosen[2], chosen[3]) if chosen else (Path(text), "", "")
    names = [prefix + label for prefix in PREFIXES for label in task.labels]
    rows = _read(path, Wanted((key, column, *names), ()), column or key, sources, "Name the id column with --key")
    if key not in rows.columns:
        raise ValueError(f"{path} has no column '{key}'. Columns: {', '.join(rows.found)}. Name it with --key")
    if chosen:
        where_N = np.array([one == value for one in raw_labels(rows, column).to_pylist()])
        if not where_N.any():
            raise ValueError(f"{text}: no row has '{value}' in column '{column}'; correct the value")
        lines = None if rows.line_N is None else rows.line_N[where_N]
        picked = {name: one.filter(pa.array(where_N)) for name, one in rows.columns.items()}
        rows = rows._replace(columns=picked, row_N=rows.row_N[where_N], line_N=lines)
    prefix = _prefix(task, rows, probs)
    keys = _keys(rows, key, f"name one model's rows with FILE@COLUMN=VALUE (columns: {', '.join(rows.found)})")
    cells = [number_column(rows, prefix + label).to_numpy(zero_copy_only=False) for label in task.labels]
    numbers_NC = np.stack(cells, axis=1).astype(np.float64)
    _refuse(text, keys, ~np.isfinite(numbers_NC).all(axis=1), numbers_NC, "finite numbers; predict them again")
    sums_N = numbers_NC.sum(axis=1)
    off_N = (np.abs(sums_N - 1) > SUM_TOLERANCE) | (numbers_NC < 0).any(axis=1)
    if probs:
        _refuse(text, keys, off_N, numbers_NC, "probabilities >= 0 with the sum 1; leave --probs out for logits")
        return Outputs(keys, np.log(np.maximum(numbers_NC / sums_N[:, None], SMALLEST)))
    _refuse(text, keys, np.full(len(keys), not off_N.any()), numbers_NC, "logits or log-probabilities; add --probs")
    return Outputs(keys, numbers_NC)


def _prefix(task: Task, rows: Rows, probs: bool) -> str:
    whole = [p for p in PREFIXES if all(p + label in rows.found for label in task.labels)]
    fit = [p for p in whole if not p or p.startswith("prob") == probs]
    if whole and not fit:
        remedy = "leave --probs out" if probs else "add --probs"
        raise ValueError(f"{rows.source} has the columns {whole[0]}{task.labels[0]}, ...; {remedy}")
    extra = [n for n in rows.found if fit and fit[0] and n.startswith(fit[0]) and n[len(fit[0]) :] not in task.labels]
    if not fit or extra:
        raise ValueError(
            f"{rows.source} has the columns {', '.join(rows.found)}, expected one for each label of '{task.name}' "
            f"({', '.join(task.labels)}), alone or after one of {', '.join(PREFIXES[1:])}"
            f"{' and no other: ' + extra[0] if extra else ''}; rename the columns"
        )
    return fit[0]


def _refuse(what: str, keys: list[str], bad_N: Any, numbers_NC: FloatArray, expected: str) -> None:
    if bad_N.any():
        i = int(bad_N.argmax())
        raise ValueError(f"{what}: {int(bad_N.sum())} rows, first '{keys[i]}': {numbers_NC[i]}, expected {expected}")


def joined(parts: list[Outputs]) -> Outputs:
    keys = [one for part in parts for one in part.keys]
    if len(set(keys)) != len(keys):
        first = next(name for name, n in Counter(keys).items() if n > 1)
        raise ValueError(f"two files of one --model have the same ids, first: '{first}'; name two models")
    return Outputs(keys, np.concatenate([part.logits_NC for part in parts]))


# ---- humans --------------------------------------------------------------------------------------------------------
def with_humans(
    task: Task, table: pa.Table, keys: list[str], path: Path, sources: dict[str, str]
) -> tuple[pa.Table, dict[str, Any]]:
    rows = _read(path, Wanted(("uid", "label_counter"), ()), "label_counter", sources, "Expected uid, label_counter")
    uids = _keys(rows, "uid", "keep one line an item") if "uid" in rows.columns else []
    place = {one: i for i, one in enumerate(keys)}
    probs, n_humans = table["human_probs"].to_pylist(), table["n_humans"].to_pylist()
    # chaosNLI writes e, n, c.
    short = {label[0]: label for label in task.labels}
    names = (short if len(short) == task.n_outputs else {}) | {label: label for label in task.labels}
    used = 0
    for i, (uid, counter) in enumerate(zip(uids, rows.columns["label_counter"].to_pylist(), strict=False)):
        counts = Counter(dict.fromkeys(task.labels, 0))
        for name, n in (json.loads(counter) if isinstance(counter, str) else counter or {}).items():
            if name not in names:
                raise ValueError(f"{rows.where(i)} counts the label '{name}', expected {', '.join(names)}; correct it")
            counts[names[name]] += n or 0
        if (total := counts.total()) < 1:
            raise ValueError(f"{rows.where(i)} counts no label of '{uid}', expected at least one; remove the line")
        if uid in place:
            probs[place[uid]], n_humans[place[uid]] = [counts[label] / total for label in task.labels], total
            used += 1
    if not used:
        raise ValueError(f"{path}: none of its {len(uids)} uids is an example's id; expected the ids of --key")
    for name, values in (("human_probs", probs), ("n_humans", n_humans)):
        i = table.schema.get_field_index(name)
        table = table.set_column(i, table.schema.field(i), pa.array(values, table.schema.field(i).type))
    return table, {"file": str(path), "used": used, "not_among_examples": len(uids) - used}
