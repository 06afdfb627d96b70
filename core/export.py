"""A model of a run -> a directory that transformers loads: `python -m core export`.

One linear or ranking head on a BERT-like encoder becomes `ElectraForSequenceClassification`, a stock class, with the
same logits: its encoder is BERT's and RoBERTa's too, and its head, dense -> GELU -> linear, holds a linear head
exactly, since GELU(x) - GELU(-x) = x (docs/decisions/009). SAN, several heads and other encoders become the class of
core/exported.

What is written is loaded again and compared with the run's model before anything is said to be done; the difference
stands in the model card (core/card). Not here: quantised, ONNX or TorchScript forms.

Shapes: B sequences, C classes, H hidden.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, ElectraConfig, ElectraForSequenceClassification

from core.ask import Opened, open_model
from core.card import Facts, card_of
from core.encoder import BERT_LIKE, max_positions
from core.exported import DarkroomConfig, DarkroomForSequenceClassification, labels_of, row_of_task
from core.files import told
from core.heads import LinearHead, RankingHead, SanHead
from core.model import head_key
from core.predict import predict_texts
from core.store import Run
from core.tasks import HEADS_OF_KIND, Task

N_COMPARED = 32
# float32 sums in another order, on logits of order 1 to 10.
TOLERANCE = 1e-4


def export(run: Run, name: str, out: Path, *, task: str | None = None) -> dict[str, Any]:
    """Writes `config.json`, `model.safetensors`, the tokenizer and `README.md` (the model card) into `out`, which must
    be new or empty, and returns `{"class", "tasks", "difference", "n"}`. Without `task`: all heads of the model.

    Raises `ValueError` for a model or task that the run does not have and for a folder that holds something, and
    `RuntimeError` where what was written does not answer as the run's model does."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} holds something already; give a new or empty folder to --out")
    opened = open_model(run, name, task, device="cpu", dtype="float32")
    chosen = opened.tasks if task is None else {task: opened.tasks[task]}
    is_stock = len(chosen) == 1 and fits_stock(opened, next(iter(chosen)))
    made = stock_model(opened, next(iter(chosen))) if is_stock else own_model(opened, chosen)
    with told(out):
        made.save_pretrained(out)
        opened.tokenizer.model_max_length = opened.about["max_length"]
        opened.tokenizer.save_pretrained(out)
    difference, n = compared(run, opened, out, chosen)
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"{out} answers unlike model '{name}': logits differ by up to {difference:.2g} on {n} examples, expected "
            f"at most {TOLERANCE:g}; please report it (encoder of type {opened.model.encoder.config.model_type})"
        )
    kind = type(made).__name__
    with told(out / "README.md"):
        facts = Facts(name, kind, chosen, whole=task is None, difference=difference, n_compared=n)
        (out / "README.md").write_text(card_of(run, facts, opened.about), encoding="utf-8")
    return {"class": kind, "tasks": list(chosen), "difference": difference, "n": n}


# ---- a stock class -------------------------------------------------------------------------------------------------
def fits_stock(opened: Opened, task: str) -> bool:
    """Can `ElectraForSequenceClassification` hold this head exactly?"""
    config, head = opened.model.encoder.config, opened.model.heads[head_key(task)]
    if config.model_type not in BERT_LIKE or not isinstance(head, LinearHead | RankingHead):
        return False
    return 2 * head.out.out_features <= config.hidden_size


def stock_model(opened: Opened, task: str) -> ElectraForSequenceClassification:
    encoder, head = opened.model.encoder, opened.model.heads[head_key(task)]
    assert isinstance(head, LinearHead | RankingHead)
    old = encoder.config
    same = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
            "hidden_dropout_prob", "attention_probs_dropout_prob", "type_vocab_size", "initializer_range",
            "layer_norm_eps", "pad_token_id")  # fmt: skip
    config = ElectraConfig(
        **{field: getattr(old, field) for field in same},
        embedding_size=getattr(old, "embedding_size", old.hidden_size),
        max_position_embeddings=max_positions(encoder),
        classifier_dropout=head.dropout.p,
        **labels_of(opened.tasks[task]),
    )
    model = ElectraForSequenceClassification(config)
    weights = {f"electra.{name}": value for name, value in encoder.state_dict().items()}
    # RoBERTa's positions count from behind the padding id; ELECTRA's from 0.
    positions = "electra.embeddings.position_embeddings.weight"
    weights[positions] = weights[positions][-config.max_position_embeddings :]
    weights |= {f"classifier.{name}": value for name, value in gelu_pair(head.out).items()}
    model.load_state_dict(weights)
    return model.eval()


def gelu_pair(out: nn.Linear) -> dict[str, Tensor]:
    """Weights of dense (H, H) and out_proj (C, H) with out_proj(GELU(dense(x))) = out(x): the dense layer gives W x and
    -W x, and GELU(z) - GELU(-z) = z Φ(z) + z Φ(-z) = z."""
    n_classes, hidden = out.weight.shape
    dense_HH, out_CH = torch.zeros(hidden, hidden), torch.zeros(n_classes, hidden)
    dense_HH[:n_classes], dense_HH[n_classes : 2 * n_classes] = out.weight.detach(), -out.weight.detach()
    one_CC = torch.eye(n_classes)
    out_CH[:, :n_classes], out_CH[:, n_classes : 2 * n_classes] = one_CC, -one_CC
    return {
        "dense.weight": dense_HH,
        "dense.bias": torch.zeros(hidden),
        "out_proj.weight": out_CH,
        "out_proj.bias": out.bias.detach(),
    }


# ---- our class -----------------------------------------------------------------------------------------------------
def own_model(opened: Opened, chosen: dict[str, Task]) -> DarkroomForSequenceClassification:
    body, heads, tokenizer = opened.model.encoder, opened.model.heads, opened.tokenizer
    # The model's own head decides: a member of a pool may have linear heads where the rows say SAN.
    rows = [row_of_task(_with_own_head(task, heads[head_key(name)])) for name, task in chosen.items()]
    separator = tokenizer.sep_token_id
    ids = tokenizer("a", "b")["input_ids"]
    config = DarkroomConfig(
        encoder=body.config.to_dict(),
        tasks=rows,
        task=next(iter(chosen)),
        head_settings={name: value for name, value in opened.about["head_settings"].items() if name != "pair_head"},
        dropout=opened.about["dropout"],
        separators=ids.count(separator) - 1,
        separator_id=separator,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = DarkroomForSequenceClassification(config)
    model.model.encoder.load_state_dict(body.state_dict())
    for name in chosen:
        model.model.heads[head_key(name)].load_state_dict(heads[head_key(name)].state_dict())
    return model.eval()


def _with_own_head(task: Task, head: nn.Module) -> Task:
    is_plain = task.head == "san" and not isinstance(head, SanHead)
    return replace(task, head=HEADS_OF_KIND[task.kind][0]) if is_plain else task


# ---- is it the same? -----------------------------------------------------------------------------------------------
def compared(run: Run, opened: Opened, out: Path, chosen: dict[str, Task]) -> tuple[float, int]:
    """The largest difference of a logit between the run's model and the one that `out` holds, over some examples of
    every task, and their number."""
    loaded = AutoModelForSequenceClassification.from_pretrained(out, trust_remote_code=False).eval()
    differences, n = [0.0], 0
    for name, task in chosen.items():
        table = run.read_examples(name)
        rows = table.take(np.linspace(0, len(table) - 1, min(N_COMPARED, len(table))).astype(int)).to_pylist()
        text_a = [row["text_a"] for row in rows]
        text_b = [row["candidates" if task.candidates else "text_b"] for row in rows] if _has_second(task) else None
        length = opened.about["max_length"]
        expected = predict_texts(
            opened.model, task, opened.tokenizer, text_a, text_b, max_length=length, device=opened.device
        )
        if task.candidates:
            text_a = [text for text, row in zip(text_a, rows, strict=True) for _ in row["candidates"]]
            text_b = [one for row in rows for one in row["candidates"]]
        inputs = opened.tokenizer(text_a, text_b, padding=True, truncation=True, max_length=length, return_tensors="pt")
        with torch.inference_mode():
            is_own = isinstance(loaded, DarkroomForSequenceClassification)
            logits = loaded.answers(**inputs, tasks=[name])[name] if is_own else loaded(**inputs).logits
        differences.append(float(np.abs(logits.numpy().reshape(expected.shape) - expected).max()))
        n += len(rows)
    return max(differences), n


def _has_second(task: Task) -> bool:
    return task.is_pair or task.kind == "ranking"


# ---- the hub -------------------------------------------------------------------------------------------------------
def push(out: Path, repo: str) -> str:
    """Uploads an exported directory into a private repository of the hub, which is made where it does not exist, and
    returns its address. Raises `ValueError` without a network, a login or the right to write there."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    api = HfApi()
    try:
        address = api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=os.fspath(out), commit_message="Export of a Darkroom run")
    except Exception as error:  # offline, refused, no login: they have no common base class
        raise ValueError(
            f"{out} is complete, but it could not be pushed to '{repo}': {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0]}. Check the network and `hf auth login`, then "
            f"`hf upload {repo} {out}`"
        ) from error
    return str(address)
