"""The class behind `python -m core export` where no stock class of transformers fits: SAN heads, and several heads on
one encoder. Importing this module registers it:

    import core.exported
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    model = AutoModelForSequenceClassification.from_pretrained(DIR)
    inputs = AutoTokenizer.from_pretrained(DIR)(["a text"], ["another"], return_tensors="pt")
    model(**inputs).logits           # (B, C), labels in model.config.id2label
    model.answers(**inputs)          # all heads, one encoder pass

`from_pretrained(DIR)` answers the task of the export, `from_pretrained(DIR, task="nli")` another of its tasks.

No code travels with the model (`trust_remote_code` is not needed): this package must be installed where it is loaded.
It runs the pipeline's own encoder and heads. A ranking head gives the relevance (B, 1) of each (question, candidate)
pair; a question's probabilities are the softmax over its candidates.

Shapes: B sequences, T tokens (padded on any side), C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from core.attention import replace_dropouts
from core.batching import Batch, make_batch, on_device
from core.config import task_of_row
from core.encoder import encoder_from_config
from core.heads import RankingHead, make_head
from core.model import MultiTaskModel
from core.tasks import Task, find_task
from core.tokens import Tokens

# What `make_batch` asks of a task: one sequence an example, in two parts where the second has a token.
_SEQUENCES = Task(name="sequences", labels=("0", "1"), text_b="text_b")


class DarkroomConfig(PreTrainedConfig):
    """`encoder`: the config of the encoder. `tasks`: rows as in `run.json`. `task`: the one that `forward`
    answers. `separators`: how many of the tokenizer's separators stand between two texts (BERT 1, RoBERTa 2)."""

    model_type = "darkroom"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        tasks: list[dict[str, Any]] | None = None,
        task: str | None = None,
        head_settings: dict[str, Any] | None = None,
        dropout: float = 0.0,
        separators: int = 1,
        separator_id: int | None = None,
        **kwargs: Any,
    ):
        self.encoder, self.tasks, self.task = encoder or {}, tasks or [], task
        self.head_settings, self.dropout = head_settings or {}, dropout
        self.separators, self.separator_id = separators, separator_id
        super().__init__(**kwargs)


class DarkroomForSequenceClassification(PreTrainedModel):
    config_class = DarkroomConfig
    base_model_prefix = "model"

    def __init__(self, config: DarkroomConfig):
        super().__init__(config)
        self.tasks = {row["name"]: task_of_row(row) for row in config.tasks}
        self.task = find_task(config.task or next(iter(self.tasks)), self.tasks)
        for name, value in labels_of(self.task).items():
            setattr(config, name, value)
        values = dict(config.encoder)
        body = encoder_from_config(AutoConfig.for_model(values.pop("model_type"), **values))
        replace_dropouts(body, config.dropout)
        heads = {name: make_head(task, body.config.hidden_size, **config.head_settings)
                 for name, task in self.tasks.items()}  # fmt: skip
        for head in heads.values():
            if isinstance(head, RankingHead):
                head.n_candidates = 1  # here a row is a candidate, not a question
        self.model = MultiTaskModel(body, heads)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Logits (B, C) of the model's task; values (B, 1) for regression, relevances (B, 1) for ranking. With
        `labels`, the loss too: mean cross-entropy, or mean squared error of a regression."""
        logits = self.model(self.task.name, self._batch(input_ids, attention_mask, token_type_ids))
        loss = None
        if labels is not None:
            if self.task.kind == "ranking":
                raise ValueError(f"task '{self.task.name}' is a ranking: its loss is over a question's candidates")
            is_value = self.task.kind == "regression"
            loss = F.mse_loss(logits[:, 0], labels.float()) if is_value else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def answers(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        tasks: Sequence[str] | None = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        """Outputs of several heads (default: of all that fit, see below) on one encoder pass, as `forward` has them.

        Give sequences of two texts for pair and ranking tasks, of one text for the others: a head answers whatever it
        is given. SAN reads two texts, so it is left out by default where a sequence has one."""
        batch = self._batch(input_ids, attention_mask, token_type_ids)
        has_pairs = bool(self._second_texts(input_ids, attention_mask, token_type_ids).any(dim=1).all())
        fit = [name for name, task in self.tasks.items() if task.head != "san" or has_pairs]
        for name in tasks or ():
            find_task(name, self.tasks)
        return self.model.answers(tasks or fit, batch)

    def _second_texts(self, ids_BT: Tensor, mask_BT: Tensor | None, types_BT: Tensor | None) -> Tensor:
        inside_BT = torch.ones_like(ids_BT, dtype=torch.bool) if mask_BT is None else mask_BT.bool()
        if types_BT is not None and getattr(self.model.encoder.config, "type_vocab_size", 0) > 1:
            return (types_BT == 1) & inside_BT
        # Without token types, the second text starts behind the separators that follow the first.
        is_separator_BT = ids_BT == self.config.separator_id
        before_BT = is_separator_BT.cumsum(1) - is_separator_BT.long()
        return (before_BT >= self.config.separators) & inside_BT

    def _batch(self, ids_BT: Tensor, mask_BT: Tensor | None, types_BT: Tensor | None) -> Batch:
        inside_BT = torch.ones_like(ids_BT, dtype=torch.bool) if mask_BT is None else mask_BT.bool()
        is_b_BT = self._second_texts(ids_BT, mask_BT, types_BT)
        sizes_B = inside_BT.sum(1)
        b_starts_B = (sizes_B - is_b_BT.sum(1)).cpu().numpy().astype(np.int32)
        offsets = np.concatenate([[0], np.cumsum(sizes_B.cpu().numpy())]).astype(np.int64)
        tokens = Tokens(ids_BT[inside_BT].int().cpu().numpy(), offsets, b_starts_B)
        n, nothing = len(ids_BT), torch.zeros(len(ids_BT))
        names = np.arange(n).astype(str)
        return make_batch(on_device(_SEQUENCES, tokens, names, names, nothing, ids_BT.device), np.arange(n))


def labels_of(task: Task) -> dict[str, Any]:
    """The fields of a transformers config that say what the outputs are: names of labels, and the kind of problem."""
    # transformers knows no ranking; "regression" makes its pipelines show the relevance as it is.
    is_number = task.kind != "classification"
    names = [("relevance" if task.kind == "ranking" else task.name)] if is_number else list(task.labels)
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": "regression" if is_number else "single_label_classification",
    }


def row_of_task(task: Task) -> dict[str, Any]:
    """The part of a task's row that an exported model needs; nothing of files and columns."""
    row = asdict(task)
    kept = ("name", "kind", "head", "labels", "metrics", "has_teacher", "head_dropout", "score_range")
    texts = {"text_b": "text_b" if task.is_pair else None, "candidates": "candidates" if task.candidates else None}
    return {**{name: row[name] for name in kept}, **texts}


AutoConfig.register(DarkroomConfig.model_type, DarkroomConfig)
AutoModelForSequenceClassification.register(DarkroomConfig, DarkroomForSequenceClassification)
