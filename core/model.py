"""The multi-task model: one shared encoder, one head per task, addressed by the task's name; saving and loading.

Saved as safetensors with JSON beside them; loaded without pickle. Fine-tuning from a member keeps its encoder and
takes a fresh head (`with_fresh_head`), with the new stage's own dropout, task and learning rate.

Shapes: B examples, T tokens, H hidden, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.attention import replace_dropouts
from core.batching import Batch
from core.encoder import encode, make_encoder
from core.files import read_json, sync, told, write_json
from core.graphs import encode_bucketed
from core.heads import SanHead, make_head
from core.tasks import Task


class MultiTaskModel(nn.Module):
    """`model(task_name, batch)` -> logits (B, C), or values (B, 1) for regression."""

    def __init__(self, encoder: nn.Module, heads: Mapping[str, nn.Module]):
        super().__init__()
        self.encoder: Any = encoder
        self.heads = nn.ModuleDict({head_key(task): head for task, head in heads.items()})
        replace_dropouts(self.heads)

    def forward(self, task: str, batch: Batch) -> Tensor:
        head = self.heads[head_key(task)]
        run = encode_bucketed if batch.is_bucketed else encode
        return head(run(self.encoder, batch, first_only=not isinstance(head, SanHead)), batch)

    def answers(self, tasks: Iterable[str], batch: Batch) -> dict[str, Tensor]:
        """What the heads of several tasks say about the same sequences, on one pass of the encoder."""
        heads = {task: self.heads[head_key(task)] for task in tasks}
        first_only = not any(isinstance(head, SanHead) for head in heads.values())
        hidden = encode(self.encoder, batch, first_only=first_only)
        first_BH = hidden if first_only else hidden[batch.first_B]
        return {task: head(hidden if isinstance(head, SanHead) else first_BH, batch) for task, head in heads.items()}


def head_key(task: str) -> str:
    """The name of the task's head among the modules. torch refuses a dot in a module's name, and every name that a
    module has as an attribute; a task may be called 'my.task' or 'type'."""
    return "task:" + task.replace(".", ":")


def make_model(
    encoder: str, tasks: Mapping[str, Task], *, tokenizer: Any, dropout: float, head_settings: Mapping[str, Any]
) -> MultiTaskModel:
    """A model with `encoder` as it comes and fresh heads for `tasks`. Draws from torch's generator.

    `head_settings` are `head_dropout`, `san_steps`, `san_step_dropout`, `san_start` (core/sections, `ModelConfig`)
    and `pair_head`.
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


# ---- saving and loading --------------------------------------------------------------------------------------------
def save_model(model: MultiTaskModel, folder: Path, *, tokenizer: Any, about: Mapping[str, Any]) -> None:
    """Writes `encoder/` (a transformers directory with its tokenizer), `heads.safetensors` and, last, `model.json`
    with `about`, whose presence says that the directory is complete."""
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.json").unlink(missing_ok=True)
        model.encoder.save_pretrained(folder / "encoder")
        tokenizer.save_pretrained(folder / "encoder")
        save_file({name: p.contiguous() for name, p in model.heads.state_dict().items()}, folder / "heads.safetensors")
        for path in (*(folder / "encoder").iterdir(), folder / "heads.safetensors"):
            sync(path)
    write_json(folder / "model.json", about)


def load_model(folder: Path, tasks: Mapping[str, Task]) -> tuple[MultiTaskModel, dict[str, Any]]:
    """A saved model, ready for inference, and what `model.json` says about it. Its heads are those it was saved with,
    with rows from `tasks`. Raises `ValueError` for a folder without a complete model."""
    about_path = folder / "model.json"
    if not about_path.exists():
        raise ValueError(f"{folder} holds no complete model (no model.json); re-run the stage that makes it")
    about = read_json(about_path)
    try:
        body = make_encoder(str(folder / "encoder"), dropout=about["dropout"], tokenizer=None)
        settings = about["head_settings"]
        heads = {name: make_head(tasks[name], body.config.hidden_size, **settings) for name in about["tasks"]}
        model = MultiTaskModel(body, heads)
        model.heads.load_state_dict(load_file(folder / "heads.safetensors"))
    except (ValueError, KeyError, TypeError, OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{folder} holds a damaged model ({str(error).strip().splitlines()[0]}). Restore it from a copy, or delete "
            "the folder: the next `python -m core run` makes it again when it needs it"
        ) from error
    return model.eval(), about
