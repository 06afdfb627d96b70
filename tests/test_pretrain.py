"""Plain text to a pre-trained encoder: lines, blocks, and a whole pre-training that learns, resumes and loads.

The objectives themselves are in test_rtd.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import CPU, batch_of, word_tokenizer
from tokenizers import processors
from transformers import AutoModel

import core.pretrain
import core.train
from core.blocks import read_lines, text_blocks
from core.encoder import encode, make_encoder
from core.pretrain import held_out_scores, pretrain
from core.rtd import load_rtd
from core.sections import PretrainConfig
from core.store import read_json
from core.tokens import Tokens, load_tokenizer

WORDS = [f"w{i}" for i in range(12)]
SPEC = "random:bert(layers=2,hidden=32,heads=2,ffn=64)"


def repeating(n: int, *, seed: int = 0) -> list[str]:
    """A language without choice: a text repeats one word. Each is a document of its own."""
    rng = np.random.default_rng(seed)
    words, lengths = rng.integers(0, 12, n), rng.integers(4, 9, n)
    lines = [" ".join([WORDS[word]] * size) for word, size in zip(words, lengths, strict=True)]
    return [line for text in lines for line in (text, "")]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return word_tokenizer(tmp_path_factory.mktemp("tokenizer"), [" ".join(WORDS)])


def settings(**own: Any) -> PretrainConfig:
    values = {"objective": "rtd", "epochs": 1, "lr": 3e-3, "batch_size": 16, "max_length": 16, "eval_every_epochs": 0}
    return PretrainConfig(**{**values, **own})


def go(lines: list[str], out: Path, tokenizer: Any, *, encoder: str = SPEC, key: str = "k", **own: Any) -> Any:
    report = own.pop("report", lambda done, values: None)
    return pretrain(
        lines, out, encoder=encoder, tokenizer=tokenizer, settings=settings(**own), dropout=0.1, seed=0,
        names=("pretrain", "x"), device=CPU, report=report, checkpoint_seconds=0.0, key=key,
    )  # fmt: skip


# ---- lines ---------------------------------------------------------------------------------------------------------
def test_lines_of_a_file_and_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes("\ufeffzwei\r\nStücke\x0cText\rdrei\n".encode())
    (tmp_path / "a.txt").write_text("eins\n\nnull", encoding="utf-8")
    (tmp_path / "notes.md").write_text("no", encoding="utf-8")
    assert read_lines(tmp_path / "b.txt") == ["zwei", "Stücke\x0cText", "drei", ""]
    assert read_lines(tmp_path) == ["eins", "", "null", "", "zwei", "Stücke\x0cText", "drei", ""]


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no .*nowhere.*pretrain.text"):
        read_lines(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no \*\.txt"):
        read_lines(tmp_path)
    for content, message in ((b"", "holds no text"), (b" \n\n", "holds no text"), (b"a\r\nb\xe9\n", "line 2 .*0xe9")):
        (tmp_path / "x.txt").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_lines(tmp_path / "x.txt")


# ---- blocks --------------------------------------------------------------------------------------------------------
def like_roberta(tokenizer: Any, folder: Path) -> Any:
    """The same words with RoBERTa's form of a pair, two separators, and no token types."""
    tokenizer.save_pretrained(folder)
    other = load_tokenizer(folder)
    ids = [(token, other.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] [SEP] $B [SEP]", special_tokens=ids
    )
    return other


def blocks_of(tokens: Tokens) -> list[tuple[list[int], int]]:
    return [
        (tokens.ids[start:stop].tolist(), int(b))
        for start, stop, b in zip(tokens.offsets[:-1], tokens.offsets[1:], tokens.b_starts, strict=True)
    ]


@pytest.mark.parametrize("n_separators", [1, 2])
def test_every_token_is_in_one_block_in_order(n_separators: int, tokenizer: Any, tmp_path: Path) -> None:
    if n_separators == 2:
        tokenizer = like_roberta(tokenizer, tmp_path)
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, size)) for size in rng.choice([0, 1, 3, 7, 12, 70], 300)]
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    tokens = text_blocks(lines, tokenizer, max_length=20, seed=3)
    blocks = blocks_of(tokens)
    text: list[int] = []
    n_pairs = 0
    for ids, b_start in blocks:
        assert 3 <= len(ids) <= 20
        if b_start < len(ids):
            n_pairs += 1
            a, b = ids[1 : b_start - n_separators], ids[b_start:-1]
            assert ids == [cls, *a, *[sep] * n_separators, *b, sep]
            assert a
            assert b
            # The tokenizer's own call on the two texts gives the same.
            assert ids == tokenizer(*(tokenizer.decode(part) for part in (a, b)))["input_ids"]
            text += a + b
        else:
            assert b_start == len(ids)
            assert (ids[0], ids[-1]) == (cls, sep)
            text += ids[1:-1]
    assert text == tokenizer(" ".join(lines), add_special_tokens=False)["input_ids"]
    assert 10 < n_pairs < len(blocks) - 10
    again, other = (text_blocks(lines, tokenizer, max_length=20, seed=seed) for seed in (3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(tokens, again, strict=True))
    assert not np.array_equal(tokens.b_starts, other.b_starts)


def test_blocks_are_whole_lines_cut_near_the_middle_and_end_with_a_document(tokenizer: Any) -> None:
    def text(size: int) -> str:
        return " ".join((WORDS * 3)[:size])

    lines = [text(2), text(5), text(4), text(9), "", text(3), "  ", text(30)]
    forms = set()
    for seed in range(20):
        blocks = blocks_of(text_blocks(lines, tokenizer, max_length=16, seed=seed))
        sizes = [(len(ids), b) for ids, b in blocks]
        # 2 + 5 + 4 lines; 9 does not fit with them; 3 stands alone; 30 words are more than two blocks, but no pair.
        assert sizes[0] in ((13, 13), (14, 9))  # single; cut after 2 + 5 words, nearer to the middle than after 2
        assert sizes[1:3] == [(11, 11), (5, 5)]
        assert sum(n - 2 for n, _ in sizes[3:]) == 30
        assert all(n == b for n, b in sizes[3:])
        assert len(sizes) == 6
        forms.add(sizes[0])
    assert len(forms) == 2


def test_text_that_makes_no_blocks_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 lines and no token"):
        text_blocks(["", " "], tokenizer, max_length=16, seed=0)
    with pytest.raises(ValueError, match="max_length is 4"):
        text_blocks(["w1"], tokenizer, max_length=4, seed=0)
    with pytest.raises(ValueError, match=r"makes 2 blocks.*expected 4 or more"):
        go(["w1", "", "w2"], tmp_path, tokenizer)


# ---- the start -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("objective", ["mlm", "rtd"])
def test_it_starts_at_the_words_frequencies_with_weights_that_keep_sizes(
    objective: str, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []

    def stop(model: Any, datas: Any, *_: Any, **__: Any) -> None:
        started.append((model, datas["text"]))
        raise KeyboardInterrupt

    monkeypatch.setattr(core.pretrain, "train_model", stop)
    with pytest.raises(KeyboardInterrupt):
        go(repeating(200), tmp_path, tokenizer, objective=objective)
    model, data = started[0]
    n_vocabulary = model.encoder.config.vocab_size
    counts = np.bincount(data.ids.numpy(), minlength=n_vocabulary) + 0.5
    np.testing.assert_allclose(
        model.objective.words_head.bias.detach().numpy(), np.log(counts / counts.sum()), rtol=0, atol=1e-5
    )
    linears = [
        module for module in model.modules() if isinstance(module, torch.nn.Linear) and module.weight.numel() > 500
    ]
    assert len(linears) > 6
    for module in linears:
        assert float(module.weight.detach().std()) == pytest.approx(module.in_features**-0.5, rel=0.15)
    positions_LH = model.encoder.embeddings.position_embeddings.weight.detach()
    assert float(positions_LH.square().mean().sqrt()) == pytest.approx(0.04, rel=1e-5)
    words_VH = model.encoder.embeddings.word_embeddings.weight.detach()
    assert float(words_VH.std()) == pytest.approx(0.04, rel=0.15)
    # An offset is one rotation, wherever it is: the product of two positions depends on their distance alone.
    products_LL = positions_LH @ positions_LH.T
    for distance in (1, 3):
        np.testing.assert_allclose(products_LL.diagonal(distance), products_LL[0, distance], rtol=0, atol=1e-5)


def test_a_checkpoint_starts_as_it_is(tokenizer: Any, tmp_path: Path) -> None:
    go(repeating(60), tmp_path / "first", tokenizer, objective="mlm")
    before = load_file(tmp_path / "first" / "model.safetensors")
    go(repeating(60), tmp_path / "second", tokenizer, encoder=str(tmp_path / "first"), objective="mlm", lr=1e-12)
    for name, weight in load_file(tmp_path / "second" / "model.safetensors").items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=1e-6)


# ---- whole pre-trainings -------------------------------------------------------------------------------------------
def test_mlm_learns_a_language_without_choice(tokenizer: Any, tmp_path: Path) -> None:
    about = go(repeating(1_500), tmp_path, tokenizer, objective="mlm", epochs=2)
    # Words alone, 12 equally frequent ones, are worth log 12.
    assert about["held_out"]["mlm_loss"] < 0.2 * math.log(12)
    assert about["held_out"]["mlm_accuracy"] > 0.9
    assert set(about["held_out"]) == {"mlm_loss", "mlm_accuracy"}
    assert not (tmp_path / "generator").exists()


def test_rtd_tells_replaced_words_from_others(tokenizer: Any, tmp_path: Path) -> None:
    about = go(repeating(1_500), tmp_path, tokenizer, epochs=3)
    scores = about["held_out"]
    assert scores["rtd_auc"] > 0.8
    # Better than the share of replaced tokens alone, which is worth its entropy.
    p = scores["replaced_share"]
    assert scores["rtd_loss"] < 0.9 * (-p * math.log(p) - (1 - p) * math.log(1 - p))


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_the_folder_is_a_transformers_encoder(kind: str, tokenizer: Any, tmp_path: Path, monkeypatch: Any) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(
        "core.pretrain.held_out_scores", lambda model, *rest: kept.append(model) or held_out_scores(model, *rest)
    )
    about = go(repeating(200), tmp_path, tokenizer, encoder=SPEC.replace("bert", kind))
    trained, data_scores = kept[0].encoder.eval(), about["held_out"]
    plain, loaded = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert all("pooler" in name for name in loaded["missing_keys"])
    assert not loaded["unexpected_keys"]
    mine = make_encoder(str(tmp_path), dropout=0.3, tokenizer=load_tokenizer(tmp_path)).eval()
    encoded = load_tokenizer(tmp_path)("w1 w2 w3", "w4 w5", return_tensors="pt")
    b_start = encoded["token_type_ids"][0].tolist().index(1)
    batch = batch_of(encoded["input_ids"].tolist(), [b_start])
    expected = encode(trained, batch, first_only=False)
    assert torch.equal(encode(mine, batch, first_only=False), expected)
    torch.testing.assert_close(plain.eval()(**encoded).last_hidden_state[0], expected, rtol=0, atol=1e-5)
    rtd = load_rtd(tmp_path, mine)
    assert rtd is not None
    assert all(torch.equal(value, kept[0].objective.state_dict()[name]) for name, value in rtd.state_dict().items())
    assert about == read_json(tmp_path / "pretrain.json")
    assert about["lines"] == 400
    assert about["parameters"] == sum(p.numel() for p in mine.parameters())
    assert 32 <= about["held_out_blocks"] < about["blocks"] / 2
    assert set(data_scores) == {"mlm_loss", "mlm_accuracy", "rtd_loss", "rtd_auc", "replaced_share"}
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize("objective", ["rtd", "mlm"])
def test_a_killed_pretraining_ends_in_the_same_bytes(
    objective: str, tokenizer: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(core.train, "LOOK_EVERY_STEPS", 4)
    lines, own = repeating(600), {"objective": objective, "epochs": 2}
    # Scores on the way, and killed in the middle of the second epoch; or undisturbed and without any.
    go(lines, tmp_path / "whole", tokenizer, **own)

    def killer(done: float, values: Any) -> None:
        if done > 0.7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(lines, tmp_path / "killed", tokenizer, report=killer, eval_every_epochs=1, **own)
    assert not (tmp_path / "killed" / "pretrain.json").exists()
    assert (tmp_path / "killed" / "checkpoint-k.safetensors").exists()
    resumed_at: list[float] = []
    go(
        lines,
        tmp_path / "killed",
        tokenizer,
        report=lambda done, _: resumed_at.append(done),
        eval_every_epochs=1,
        **own,
    )
    assert min(resumed_at) > 0.5  # it went on, and did not start again
    names = ["model.safetensors", *(["generator/rtd.safetensors"] if objective == "rtd" else [])]
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_one_is_returned_and_another_ones_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    lines = repeating(200)
    about = go(lines, tmp_path, tokenizer)
    weights = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert go([], tmp_path, tokenizer) == about
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == weights
    with pytest.raises(ValueError, match=r"objective rtd, key k, expected other.*remove the folder"):
        go(lines, tmp_path, tokenizer, key="other")


def test_settings_that_cannot_be_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'none', expected one of mlm, rtd"):
        go(repeating(200), tmp_path, tokenizer, objective="none")
    with pytest.raises(ValueError, match=r"max_length is 64.*positions for 32 tokens; set pretrain.max_length=32"):
        go(repeating(200), tmp_path, tokenizer, encoder="random:bert(hidden=32,positions=32)", max_length=64)
