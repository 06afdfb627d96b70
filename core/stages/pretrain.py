"""Stage 2, pretrain: each fresh encoder learns from plain text, before any label (ELECTRA, 2003.10555). One job an
encoder; none when `pretrain.objective` is "none".

Reads: `pretrain.text`, or text of the embedded suite's world; the run's tokenizers. Writes: `models/pt-<i>/`, a
transformers directory that every model with this encoder starts from.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from core.blocks import read_lines
from core.device import resolve_device
from core.encoder import config_of
from core.parallel import own_device
from core.pretrain import pretrain
from core.stages.context import Context
from core.stages.training import job_tokenizer
from core.store import read_json
from core.synthetic import unlabelled_text


def run(context: Context) -> dict[str, Any]:
    spec, settings, runtime = context.job.spec, context.config.pretrain, context.config.runtime
    encoder = spec["encoder"]
    torch.set_num_threads(settings.threads)
    device = resolve_device(runtime.device, runtime.dtype, hidden=config_of(encoder, None).hidden_size)
    device = own_device(device, context.ranks)
    about_path = context.run.model_dir(context.job.name) / "pretrain.json"
    if context.ranks.is_main and about_path.exists() and read_json(about_path)["key"] != context.job.key:
        # Of other settings. Whoever changed them was asked (core/pipeline); `pretrain` itself replaces nothing.
        shutil.rmtree(about_path.parent)
    context.ranks.agreed()
    if settings.text is None:
        lines = unlabelled_text(seed=context.config.data.seed, n=settings.sentences)
    else:
        lines = read_lines(Path(settings.text))
    about = pretrain(
        lines,
        context.run.model_dir(context.job.name),
        encoder=encoder,
        tokenizer=job_tokenizer(context, encoder),
        settings=settings,
        dropout=settings.dropout,
        seed=context.config.seed,
        names=("pretrain", encoder, settings.seed),
        device=device,
        report=context.report,
        checkpoint_seconds=runtime.checkpoint_seconds,
        key=context.job.key,
        ranks=context.ranks,
    )
    return {"device": device.reason, **about}
