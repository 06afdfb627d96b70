"""Plain text -> a pre-trained encoder: blocks of tokens (core/blocks), training, a transformers directory.

Training is core/train's loop on one "task" of blocks. A share of the blocks is held out and scored.

Not here: blocks (core/blocks), the objectives (core/rtd), the tokenizer's own training (core/tokens).

Shapes: B sequences, T tokens, K masked places, N blocks.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from core.batching import Batch, TaskData, cut, make_batch, on_device
from core.blocks import read_lines, text_blocks
from core.device import Device, stream, stream_seed
from core.encoder import make_encoder, max_positions, start_for_text
from core.files import told
from core.parallel import own_device
from core.ranks import ALONE, Ranks
from core.rtd import OBJECTIVES, Losses, Rtd, mask_ids, save_rtd
from core.sections import PretrainConfig
from core.store import read_json, write_json
from core.tasks import Task, example_id
from core.train import Report, train_model

TEXT = Task(name="text", labels=("original", "replaced"))
# Held out: a fiftieth, but enough for a score of two digits and not more than that needs.
HELD_OUT_SHARE, MIN_HELD_OUT, MAX_HELD_OUT = 0.02, 32, 2_000
EVALUATION_TOKENS = 8_192


# ---- training ------------------------------------------------------------------------------------------------------
class Pretraining(nn.Module):
    """An encoder and its objective. `model(task, batch)` -> per-sequence shares (B, 2) of the two token means."""

    def __init__(self, encoder: Any, objective: nn.Module):
        super().__init__()
        self.encoder: Any = encoder
        self.objective: Any = objective

    def forward(self, task: str, batch: Batch) -> Tensor:
        losses: Losses = self.objective.losses(self.encoder, batch)
        return torch.stack([losses.mlm_B, losses.bce_B], dim=1)


def pretrain(
    lines: Sequence[str],
    out: Path,
    *,
    encoder: str,
    tokenizer: Any,
    settings: PretrainConfig,
    dropout: float,
    seed: int,
    names: tuple[str | int, ...],
    device: Device,
    report: Report,
    checkpoint_seconds: float = 60.0,
    key: str,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Pre-trains `encoder` on `lines` and writes `out`: a transformers directory (config.json, model.safetensors, the
    tokenizer), for "rtd" `generator/` (core/rtd `load_rtd`), and last `pretrain.json`, which is returned.

    Everything random comes from `seed` and `names`. A killed training goes on from its checkpoint in `out` to the same
    bytes; a finished one with this `key` returns at once. Raises `ValueError` when `out` holds another one. Of several
    processes the first one writes.
    """
    ranks.same((out / "pretrain.json").exists(), what=f"'{out} holds an encoder'")
    if (out / "pretrain.json").exists():
        done = read_json(out / "pretrain.json")
        if done.get("key") == key:
            return done
        raise ValueError(
            f"{out} holds an encoder of another pre-training (objective {done.get('objective')}, key "
            f"{done.get('key')}, expected {key}); remove the folder or give another one"
        )
    data = _block_data(lines, tokenizer, settings, seed=stream_seed(seed, *names), device=device)
    torch.manual_seed(stream_seed(seed, *names))
    model = _make_model(encoder, tokenizer, settings, dropout=dropout)
    if encoder.startswith("random:"):
        start_for_text(model)
        counts_V = torch.bincount(data.ids.cpu().long(), minlength=model.encoder.config.vocab_size) + 0.5
        with torch.no_grad():
            # To say how frequent words are is then not what the first thousand steps have to learn.
            model.objective.words_head.bias.copy_((counts_V / counts_V.sum()).log())
    weights_2 = torch.tensor([1.0, settings.discriminator_weight], device=device.device)
    train_model(
        model,
        {TEXT.name: data},
        lambda task, shares_B2, rows, progress: shares_B2 @ weights_2,
        train=settings,
        seed=seed,
        names=names,
        device=device,
        report=report,
        evaluate=lambda: held_out_scores(model, data, device),
        checkpoint=out / f"checkpoint-{key}.safetensors",
        checkpoint_seconds=checkpoint_seconds,
        ranks=ranks,
    )
    if not ranks.is_main:
        return {}
    with told(out):
        model.encoder.save_pretrained(out)
        tokenizer.save_pretrained(out)
        shutil.rmtree(out / "generator", ignore_errors=True)
        if isinstance(model.objective, Rtd):
            save_rtd(model.objective, out)
    about = {
        "key": key,
        "objective": settings.objective,
        "encoder": encoder,
        "settings": settings.model_dump(mode="json"),
        "text_digest": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16],
        "lines": len(lines),
        "blocks": len(data.splits),
        "held_out_blocks": len(data.rows("held_out")),
        "tokens": int(data.lengths.sum()),
        "parameters": sum(p.numel() for p in model.encoder.parameters()),
        "held_out": held_out_scores(model, data, device),
    }
    write_json(out / "pretrain.json", about)
    for leftover in out.glob("checkpoint-*.safetensors"):
        leftover.unlink()
    return about


def take_part(text: Path, out: Path, device: Device, options: dict[str, Any], *, ranks: Ranks) -> None:
    """`pretrain` on the lines of `text` in the processes beside the one that writes."""
    torch.set_num_threads(options["settings"].threads)
    device = own_device(device, ranks)
    pretrain(read_lines(text), out, device=device, report=lambda done, values: None, ranks=ranks, **options)


def _make_model(encoder: str, tokenizer: Any, settings: PretrainConfig, *, dropout: float) -> Pretraining:
    if settings.objective not in OBJECTIVES:
        raise ValueError(f"pretrain.objective is '{settings.objective}', expected one of {', '.join(OBJECTIVES)}")
    body = make_encoder(encoder, dropout=dropout, tokenizer=tokenizer)
    objective = OBJECTIVES[settings.objective](body, **mask_ids(tokenizer), mask_share=settings.mask_share)
    if settings.max_length > max_positions(body):
        raise ValueError(
            f"pretrain.max_length is {settings.max_length}, encoder '{encoder}' has positions for "
            f"{max_positions(body)} tokens; set pretrain.max_length={max_positions(body)}"
        )
    return Pretraining(body, objective)


def _block_data(
    lines: Sequence[str], tokenizer: Any, settings: PretrainConfig, *, seed: int, device: Device
) -> TaskData:
    """The blocks on the device, split into `train` and `held_out`."""
    tokens = text_blocks(lines, tokenizer, max_length=settings.max_length, seed=seed)
    n = len(tokens.b_starts)
    # Of a short text at most a quarter: it must teach something first.
    n_held_out = min(max(round(HELD_OUT_SHARE * n), MIN_HELD_OUT), MAX_HELD_OUT, n // 4)
    if n_held_out == 0:
        raise ValueError(
            f"the text makes {n} blocks of at most {settings.max_length} tokens, expected 4 or more; give more text or "
            "a smaller pretrain.max_length"
        )
    splits = np.full(n, "train", dtype=object)
    splits[stream(seed, "held out").permutation(n)[:n_held_out]] = "held_out"
    ids = np.array([example_id(TEXT.name, "block", i) for i in range(n)], dtype=object)
    return on_device(TEXT, tokens, ids, splits, torch.zeros(n, dtype=torch.int64), device.device)


@torch.inference_mode()
def held_out_scores(model: Pretraining, data: TaskData, device: Device) -> dict[str, float]:
    """Losses and scores on the held-out blocks: the share of masked words that are guessed, and how well replaced
    tokens are told from others (`rtd_auc`, 0.5 is chance). Masks and replacements are the same at each call, and
    drawn aside, so that scoring moves nothing in the training. Leaves the model in the mode that it found it in."""
    was_training = model.training
    model.eval()
    rows = data.rows("held_out")
    rows = rows[np.argsort(data.lengths[rows], kind="stable")]
    sums = {"mlm_loss": 0.0, "mlm_accuracy": 0.0, "rtd_loss": 0.0}
    n_masked = n_tokens = 0
    logits, labels = [], []
    with torch.random.fork_rng(devices=[device.device] if device.device.type == "cuda" else []):
        torch.manual_seed(0)
        for batch_rows in cut(data, rows, batch_size=len(rows), token_budget=EVALUATION_TOKENS):
            batch = make_batch(data, batch_rows)
            with device.autocast():
                losses = model.objective.losses(model.encoder, batch)
            is_place_BK = losses.masked.is_place_BK
            is_hit_BK = losses.log_probs_BKV.argmax(dim=-1) == batch.padded(batch.ids_T).gather(
                1, losses.masked.places_BK
            )
            sums["mlm_loss"] += float(losses.mlm_B.mean()) * int(is_place_BK.sum())
            sums["mlm_accuracy"] += int((is_hit_BK & is_place_BK).sum())
            n_masked += int(is_place_BK.sum())
            if losses.detection is not None:
                found = losses.detection
                sums["rtd_loss"] += float(losses.bce_B.mean()) * len(found.logits_T)
                n_tokens += len(found.logits_T)
                logits.append(found.logits_T.cpu().numpy())
                labels.append(found.is_replaced_T.cpu().numpy())
    model.train(was_training)
    scores = {name: sums[name] / max(1, n_masked) for name in ("mlm_loss", "mlm_accuracy")}
    if labels:
        is_replaced = np.concatenate(labels)
        scores |= {"rtd_loss": sums["rtd_loss"] / n_tokens, "replaced_share": float(is_replaced.mean())}
        if 0 < is_replaced.sum() < n_tokens:  # undefined otherwise: a generator that is always right, or wrong
            scores["rtd_auc"] = float(roc_auc_score(is_replaced, np.concatenate(logits)))
    return scores
