"""Stage 8, evaluate: every member, teacher, ensemble, soup and student on every task and labelled split.

Reads: `predictions/`, gold, truth and humans. Writes: `metrics.parquet`: model, task, split, metric, value, ci_low,
ci_high, n, seed. Intervals are 95 % percentile bootstraps over examples, on the reported split (null on the others);
resamples are the same for all models of a task, so that intervals are paired. Spread over seeds is the report's
business (core/report).
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.stages.context import EVALUATION_SPLITS, Context, read_gold, require_labels, score_outputs
from core.store import atomic

SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("task", pa.string()),
        ("split", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("n", pa.int64()),
        ("seed", pa.int64()),
    ]
)


def run(context: Context) -> dict[str, Any]:
    if "features_of" in context.job.spec:
        from core.stages import features  # with torch, which the metrics do without

        return features.run(context)
    models: dict[str, int | None] = context.job.spec["models"]
    rows: list[dict[str, Any]] = []
    for i, task in enumerate(context.tasks.values()):
        table = context.run.read_examples(task.name)
        require_labels(table, task, context.config.evaluate.split, option="evaluate.split")
        golds = {split: read_gold(table, task, split) for split in EVALUATION_SPLITS}
        for model, seed in models.items():
            path = context.run.predictions_path(model, task.name)
            if not path.exists():  # a teacher of another task
                continue
            predictions = context.run.read_predictions(model, task.name)
            for split, gold in golds.items():
                # Imported teachers, and their ensemble, may not have a split.
                if not gold.is_labelled or not (predictions.splits == split).any():
                    continue
                is_reported = split.removesuffix("_mm") == context.config.evaluate.split
                scores = score_outputs(
                    task,
                    gold,
                    predictions,
                    resamples=context.config.evaluate.resamples if is_reported else 1,
                    seed=context.config.seed,
                    what=str(path),
                )
                for metric, score in scores.items():
                    row = {"model": model, "task": task.name, "split": split, "metric": metric, "n": score.n}
                    row |= {"value": score.value, "seed": seed}
                    row |= {"ci_low": score.ci_low, "ci_high": score.ci_high} if is_reported else {}
                    rows.append(row)
        context.report((i + 1) / len(context.tasks), None)
    with atomic(context.run.path / "metrics.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary)
    return {"models": len(models), "rows": len(rows)}
