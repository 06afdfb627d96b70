"""The multi-task model: one shared Hugging Face encoder, one head per task, addressed by the task's name.

An encoder is a hub id, a local directory, or `random:bert(layers=2,hidden=128,heads=2)` for a fresh one of any of
transformers' encoder types. The dropout that is asked for is set in the config *and* on every dropout module, because
some models read the one and some the other; a test reads it off the modules.

Saved as safetensors with JSON beside them; loaded without pickle. Fine-tuning from a member keeps its encoder and
takes a fresh head (`with_fresh_head`), with the new stage's own dropout, task and learning rate.

Shapes: B sequences, T tokens, H hidden, C classes.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from core.batching import Batch
from core.heads import make_head
from core.tasks import Task

# Spec name -> config name, for the types whose configs agree on these (BERT, RoBERTa, ELECTRA, ...).
_SHAPE = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "positions": "max_position_embeddings",
}
# Names under which transformers' encoder configs keep the dropout of layers and attention.
_DROPOUT_FIELDS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")


class MultiTaskModel(nn.Module):
    """`model(task_name, batch)` -> logits (B, C), or values (B, 1) for regression."""

    def __init__(self, encoder: nn.Module, heads: Mapping[str, nn.Module]):
        super().__init__()
        self.encoder: Any = encoder
        self.heads = nn.ModuleDict(heads)
        self.has_token_types = getattr(encoder.config, "type_vocab_size", 0) > 1

    def encode(self, batch: Batch) -> Tensor:
        """Last hidden states (B, T, H); equal to the plain transformers model's on the same padded batch."""
        types_BT = batch.is_b_BT.long() if self.has_token_types else None
        mask_BT = None if batch.mask_BT is None else batch.mask_BT.long()
        arguments: dict[str, Any] = {"input_ids": batch.ids_BT, "attention_mask": mask_BT}
        if types_BT is not None:
            arguments["token_type_ids"] = types_BT
        return self.encoder(**arguments).last_hidden_state

    def forward(self, task: str, batch: Batch) -> Tensor:
        return self.heads[task](self.encode(batch), batch)


def make_model(
    encoder: str, tasks: Mapping[str, Task], *, tokenizer: Any, dropout: float, head_settings: Mapping[str, Any]
) -> MultiTaskModel:
    """A model with `encoder` as it comes and fresh heads for `tasks`. Draws from torch's generator.

    `head_settings` are `head_dropout`, `san_steps`, `san_step_dropout` (see core/config `ModelConfig`).
    """
    body = make_encoder(encoder, dropout=dropout, tokenizer=tokenizer)
    heads = {name: make_head(task, body.config.hidden_size, **head_settings) for name, task in tasks.items()}
    return MultiTaskModel(body, heads)


def with_fresh_head(
    member_dir: Path, task: Task, *, dropout: float, head_settings: Mapping[str, Any]
) -> MultiTaskModel:
    """A teacher to be: the encoder of the model in `member_dir`, and one fresh head for `task`."""
    body = make_encoder(str(member_dir / "encoder"), dropout=dropout, tokenizer=None)
    return MultiTaskModel(body, {task.name: make_head(task, body.config.hidden_size, **head_settings)})


def make_encoder(spec: str, *, dropout: float, tokenizer: Any | None) -> Any:
    """The encoder `spec` in float32, without the pooler that no head reads. Raises `ValueError` for a spec that is
    neither a readable folder, a reachable hub id nor a `random:` form, and for a vocabulary smaller than the
    tokenizer's."""
    if spec.startswith("random:"):
        config = _random_config(spec, tokenizer)
        _set_dropout(config, dropout)
        encoder = AutoModel.from_config(config, **_without_pooler(config))
    else:
        try:
            config = AutoConfig.from_pretrained(spec)
            _set_dropout(config, dropout)
            encoder = AutoModel.from_pretrained(spec, config=config, dtype=torch.float32, **_without_pooler(config))
        except (OSError, ValueError, KeyError) as error:
            first_line = str(error).strip().split("\n")[0]
            raise ValueError(
                f"no encoder at '{spec}': {first_line} Give a folder with config.json and model.safetensors, a hub id "
                "(needs a network), or random:bert(layers=2,hidden=128,heads=2)"
            ) from error
    if tokenizer is not None and encoder.config.vocab_size < len(tokenizer):
        raise ValueError(
            f"encoder '{spec}' has a vocabulary of {encoder.config.vocab_size}, its tokenizer has {len(tokenizer)} "
            "tokens; use the tokenizer that the encoder was trained with (model.tokenizer)"
        )
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return encoder


def max_positions(encoder: Any) -> int:
    """Longest sequence that the encoder has positions for (RoBERTa keeps two of them for padding)."""
    config = encoder.config
    reserved = (config.pad_token_id or 0) + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
    return int(config.max_position_embeddings) - reserved


def random_hidden_size(spec: str) -> int:
    """Width of a `random:` encoder, from its spec alone."""
    return int(_random_config(spec, None).hidden_size)


def _random_config(spec: str, tokenizer: Any | None) -> Any:
    match = re.fullmatch(r"random:(\w+)\(([^)]*)\)", spec.replace(" ", ""))
    if match is None:
        raise ValueError(f"encoder '{spec}' is not of the form random:bert(layers=2,hidden=128,heads=2)")
    kind, body = match.groups()
    values: dict[str, int] = {}
    for part in filter(None, body.split(",")):
        name, _, number = part.partition("=")
        if name not in _SHAPE or not number.isdigit() or int(number) < 1:
            raise ValueError(
                f"encoder '{spec}': '{part}' is not one of {', '.join(f'{n}=N' for n in _SHAPE)} with N >= 1"
            )
        values[_SHAPE[name]] = int(number)
    values.setdefault("hidden_size", 128)
    values.setdefault("num_hidden_layers", 2)
    values.setdefault("num_attention_heads", max(1, values["hidden_size"] // 64))
    values.setdefault("intermediate_size", 4 * values["hidden_size"])
    if values["hidden_size"] % values["num_attention_heads"]:
        raise ValueError(
            f"encoder '{spec}': hidden={values['hidden_size']} is not a multiple of heads="
            f"{values['num_attention_heads']}"
        )
    extra: dict[str, Any] = {}
    if tokenizer is not None:
        # RoBERTa counts positions from the padding id, so it must be the tokenizer's own.
        extra = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if kind == "electra":
        extra["embedding_size"] = values["hidden_size"]
    try:
        return AutoConfig.for_model(kind, **values, **extra)
    except ValueError:
        raise ValueError(
            f"encoder '{spec}': transformers knows no model type '{kind}'; try bert, roberta, electra"
        ) from None


def _without_pooler(config: Any) -> dict[str, Any]:
    model_class = AutoModel._model_mapping[type(config)]
    has_switch = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if has_switch else {}


def _set_dropout(config: Any, dropout: float) -> None:
    for field in _DROPOUT_FIELDS:
        if hasattr(config, field):
            setattr(config, field, dropout)


# ---- saving and loading --------------------------------------------------------------------------------------------
def save_model(model: MultiTaskModel, folder: Path, *, tokenizer: Any, about: Mapping[str, Any]) -> None:
    """Writes `encoder/` (a transformers directory with its tokenizer), `heads.safetensors` and, last, `model.json`
    with `about`, whose presence says that the directory is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").unlink(missing_ok=True)
    model.encoder.save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    save_file({name: p.contiguous() for name, p in model.heads.state_dict().items()}, folder / "heads.safetensors")
    (folder / "model.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def load_model(folder: Path, tasks: Mapping[str, Task]) -> tuple[MultiTaskModel, dict[str, Any]]:
    """A saved model, ready for inference, and what `model.json` says about it. Its heads are those it was saved with,
    with rows from `tasks`."""
    about_path = folder / "model.json"
    if not about_path.exists():
        raise ValueError(f"{folder} holds no complete model (no model.json); re-run the stage that makes it")
    about = json.loads(about_path.read_text(encoding="utf-8"))
    body = make_encoder(str(folder / "encoder"), dropout=about["dropout"], tokenizer=None)
    heads = {name: make_head(tasks[name], body.config.hidden_size, **about["head_settings"]) for name in about["tasks"]}
    model = MultiTaskModel(body, heads)
    model.heads.load_state_dict(load_file(folder / "heads.safetensors"))
    return model.eval(), about
