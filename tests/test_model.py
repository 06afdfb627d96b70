"""The multi-task model: heads by task name, saving without pickle, and a fresh head on a member's encoder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import HEADS, TASKS, random_data, tiny_model, word_tokenizer
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from core.attention import Dropout
from core.batching import make_batch
from core.encoder import encode
from core.heads import LinearHead, RankingHead, SanHead
from core.model import MultiTaskModel, head_key, load_model, save_model, with_fresh_head

KINDS = ("bert", "roberta", "electra", "distilbert")


def outputs(model: MultiTaskModel, tasks: list[str]) -> dict[str, Tensor]:
    """In eval mode, on the same examples."""
    model.eval()
    with torch.no_grad():
        return {name: model(name, batch_of(name)) for name in tasks}


def batch_of(name: str) -> Any:
    data = random_data(TASKS[name], 6)
    return make_batch(data, data.rows("train"))


def save(model: MultiTaskModel, folder: Path, tokenizer: Any, **about: Any) -> None:
    settings = {"dropout": 0.1, "tasks": list(TASKS), "head_settings": HEADS, "key": "abc"}
    save_model(model, folder, tokenizer=tokenizer, about={**settings, **about})


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    return word_tokenizer(tmp_path / "tokenizer", ["some words of a text"])


# ---- heads ---------------------------------------------------------------------------------------------------------
def test_heads_are_addressed_by_task_name() -> None:
    model = tiny_model().eval()
    shapes = {name: tuple(logits.shape) for name, logits in outputs(model, list(TASKS)).items()}
    assert shapes == {"topic": (6, 3), "pair": (6, 3), "order": (6, 3), "score": (6, 1)}
    kinds = {name: type(model.heads[head_key(name)]) for name in TASKS}
    assert kinds == {"topic": LinearHead, "pair": SanHead, "order": RankingHead, "score": LinearHead}
    with pytest.raises(KeyError, match="nothing"):
        model("nothing", batch_of("topic"))


@pytest.mark.parametrize("names", [("type", "my.task"), ("train", "items"), ("half", "sst-2"), ("a.b", "a_b")])
def test_a_task_may_have_any_name_that_a_row_may(names: tuple[str, str], tokenizer: Any, tmp_path: Path) -> None:
    """torch refuses modules with a dot in their name, or with the name of an attribute."""
    tasks = {name: replace(TASKS["topic"], name=name) for name in names}
    model = tiny_model(tasks).eval()
    batch = batch_of("topic")
    save(model, tmp_path / "m", tokenizer, tasks=list(tasks))
    loaded, _ = load_model(tmp_path / "m", tasks)
    for name in names:
        assert torch.equal(loaded(name, batch), model(name, batch))
    assert not torch.equal(model(names[0], batch), model(names[1], batch))


def test_only_the_tasks_own_head_and_the_encoder_get_a_gradient() -> None:
    model = tiny_model()
    model("pair", batch_of("pair")).square().sum().backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {name for name in with_gradient if name.startswith("heads.")} == {
        f"heads.{head_key('pair')}.{name}" for name, _ in model.heads[head_key("pair")].named_parameters()
    }
    assert {name for name, _ in model.encoder.named_parameters()} == {
        name.removeprefix("encoder.") for name in with_gradient if name.startswith("encoder.")
    }


def test_heads_that_read_the_first_token_get_the_same_from_the_whole_sequence() -> None:
    """The model computes one row of the last layer for them; SAN gets all."""
    model = tiny_model().eval()
    batch = batch_of("topic")
    hidden_TH = encode(model.encoder, batch, first_only=False)
    expected = model.heads[head_key("topic")](hidden_TH[batch.first_B], batch)
    torch.testing.assert_close(model("topic", batch), expected, rtol=0, atol=1e-6)  # one layer's rounding


# ---- files ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_model_gives_identical_outputs(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    model = tiny_model(spec=f"random:{kind}(layers=2,hidden=32,heads=2)", dropout=0.3)
    save(model, tmp_path / "m", tokenizer, dropout=0.3)
    loaded, about = load_model(tmp_path / "m", TASKS)
    assert about == {"dropout": 0.3, "tasks": list(TASKS), "head_settings": HEADS, "key": "abc"}
    assert not any(module.training for module in loaded.modules())
    expected = outputs(model, list(TASKS))
    for name, logits in outputs(loaded, list(TASKS)).items():
        assert torch.equal(logits, expected[name]), name
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert {m.p for m in loaded.encoder.modules() if isinstance(m, Dropout)} == {0.3}


def test_files_are_safetensors_json_and_a_tokenizer_and_no_pickle(tokenizer: Any, tmp_path: Path) -> None:
    save(tiny_model(), tmp_path / "m", tokenizer)
    files = {str(path.relative_to(tmp_path / "m")) for path in (tmp_path / "m").rglob("*") if path.is_file()}
    assert {"model.json", "heads.safetensors", "encoder/model.safetensors", "encoder/config.json"} <= files
    assert "encoder/tokenizer.json" in files
    assert {Path(file).suffix for file in files} <= {".json", ".safetensors", ".txt", ".jinja"}
    # The encoder's folder is one of transformers'.
    AutoModel.from_pretrained(tmp_path / "m" / "encoder")
    assert AutoTokenizer.from_pretrained(tmp_path / "m" / "encoder").tokenize("some text") == ["some", "text"]


def test_saving_again_replaces_and_an_incomplete_model_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    first, second = tiny_model(seed=0), tiny_model(seed=1)
    save(first, tmp_path / "m", tokenizer)
    save(second, tmp_path / "m", tokenizer, key="second")
    loaded, about = load_model(tmp_path / "m", TASKS)
    assert about["key"] == "second"
    assert torch.equal(outputs(loaded, ["topic"])["topic"], outputs(second, ["topic"])["topic"])
    (tmp_path / "m" / "model.json").unlink()
    with pytest.raises(ValueError, match=r"holds no complete model \(no model\.json\); re-run the stage"):
        load_model(tmp_path / "m", TASKS)


def test_a_model_is_marked_complete_last(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save over an older model that is killed half-way must not leave the old mark on new weights."""
    save(tiny_model(), tmp_path / "m", tokenizer)
    monkeypatch.setattr("core.model.save_file", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(tiny_model(seed=1), tmp_path / "m", tokenizer)
    assert not (tmp_path / "m" / "model.json").exists()


# ---- a fresh head --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_head_keeps_the_encoder_bitwise_and_is_the_only_one(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    member = tiny_model(spec=f"random:{kind}(layers=2,hidden=32,heads=2)")
    save(member, tmp_path / "m", tokenizer)
    # As a task and dropout of its own: the new stage's arguments go before those that the member was saved with.
    torch.manual_seed(1)
    settings = {**HEADS, "san_steps": 4}
    teacher = with_fresh_head(tmp_path / "m", TASKS["pair"], dropout=0.35, head_settings=settings)
    expected = member.encoder.state_dict()
    assert teacher.encoder.state_dict().keys() == expected.keys()
    for name, value in teacher.encoder.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert list(teacher.heads) == [head_key("pair")]
    head = teacher.heads[head_key("pair")]
    assert isinstance(head, SanHead)
    assert head.steps == 4
    assert not torch.equal(head.out.weight, member.heads[head_key("pair")].out.weight)
    assert {m.p for m in teacher.encoder.modules() if isinstance(m, Dropout)} == {0.35}
    assert teacher.encoder.config.hidden_size == 32


def test_a_fresh_head_is_drawn_from_torchs_generator(tokenizer: Any, tmp_path: Path) -> None:
    save(tiny_model(), tmp_path / "m", tokenizer)

    def weight(seed: int) -> Tensor:
        torch.manual_seed(seed)
        teacher = with_fresh_head(tmp_path / "m", TASKS["topic"], dropout=0.1, head_settings=HEADS)
        return teacher.heads[head_key("topic")].out.weight

    assert torch.equal(weight(5), weight(5))
    assert not torch.equal(weight(5), weight(6))


def test_the_about_file_is_readable_json(tokenizer: Any, tmp_path: Path) -> None:
    save(tiny_model(), tmp_path / "m", tokenizer)
    assert json.loads((tmp_path / "m" / "model.json").read_text())["tasks"] == list(TASKS)
