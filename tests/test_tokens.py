"""Text to tokens: layouts, where the second text starts, truncation, training of tokenizers, and the cache.

Tokenizers are made here from a handful of words; none is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tiny import TASKS
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import core.tokens
from core.config import Config
from core.store import Run
from core.tasks import Task, example_schema
from core.tokens import (
    SPECIAL_TOKENS,
    Tokens,
    cached_tokens,
    encode,
    encode_texts,
    load_tokenizer,
    make_tokenizer,
    task_texts,
    tokenizer_dir,
    tokenizer_spec,
)

WORDS = ["the", "old", "film", "is", "good", "but", "that", "new", "book", "was", "bad"]
CONFIG = Config.model_validate({"model": {"tokenizer": "word", "max_length": 16}})
ENCODER = "random:bert(layers=1,hidden=32,heads=2)"


def word(folder: Path) -> Any:
    return load_tokenizer(make_tokenizer(Run(folder), "word", [" ".join(WORDS)]))


def roberta() -> Any:
    """`<s> a </s></s> b </s>`, without token types."""
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    roles = {"bos_token": "<s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "attention_mask"], **roles
    )


def funnel() -> Any:
    """BERT's layout with token type 2 for the first token, as Funnel has it."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:2 $A [SEP]",
        pair="[CLS]:2 $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=names, **roles)


def shown(tokenizer: Any, tokens: Tokens, i: int) -> tuple[str, str]:
    """The two parts of sequence `i`, as text."""
    ids = tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]]
    start = tokens.b_starts[i]
    first, second = (" ".join(tokenizer.convert_ids_to_tokens(part.tolist())) for part in (ids[:start], ids[start:]))
    return first, second


# ---- layout --------------------------------------------------------------------------------------------------------
LAYOUTS: list[tuple[str, str, str | None, str, str]] = [
    ("bert", "old film", None, "[CLS] old film [SEP]", ""),
    ("bert", "old film", "new book", "[CLS] old film [SEP]", "new book [SEP]"),
    ("bert", "old film", "", "[CLS] old film [SEP]", "[SEP]"),
    ("bert", "Old ZEBRA", "book", "[CLS] old [UNK] [SEP]", "book [SEP]"),
    ("roberta", "old film", None, "<s> old film </s>", ""),
    ("roberta", "old film", "new book", "<s> old film </s> </s>", "new book </s>"),
    # Without a token of the second text its closing separator stands for it: SAN needs something to read.
    ("roberta", "old film", "", "<s> old film </s> </s>", "</s>"),
    ("funnel", "old film", "new book", "[CLS] old film [SEP]", "new book [SEP]"),
    ("funnel", "old film", "", "[CLS] old film [SEP]", "[SEP]"),
]


@pytest.mark.parametrize(("kind", "text_a", "text_b", "first", "second"), LAYOUTS)
def test_layout_and_start_of_the_second_text(
    kind: str, text_a: str, text_b: str | None, first: str, second: str, tmp_path: Path
) -> None:
    tokenizer = {"bert": lambda: word(tmp_path), "roberta": roberta, "funnel": funnel}[kind]()
    # A second row, so that offsets are not all zero.
    b = None if text_b is None else ["that", text_b]
    tokens = encode_texts(tokenizer, ["the", text_a], b, max_length=16)
    assert shown(tokenizer, tokens, 1) == (first, second)
    assert (tokens.ids.dtype, tokens.offsets.dtype, tokens.b_starts.dtype) == (np.int32, np.int64, np.int32)
    assert tokens.offsets[-1] == len(tokens.ids)


@pytest.mark.parametrize("max_length", [8, 9, 16])
def test_truncation_shortens_the_longer_text_and_keeps_the_separators(max_length: int, tmp_path: Path) -> None:
    tokenizer = word(tmp_path)
    long, short = " ".join(WORDS), "new book"
    tokens = encode_texts(tokenizer, [long, short], [short, long], max_length=max_length)
    expected = max_length if max_length < 16 else len(WORDS) + 2 + 3
    assert np.diff(tokens.offsets).tolist() == [min(expected, max_length)] * 2
    first, second = shown(tokenizer, tokens, 0)
    assert first == "[CLS] " + " ".join(WORDS[: min(len(WORDS), max_length - 5)]) + " [SEP]"
    assert second == "new book [SEP]"
    first, second = shown(tokenizer, tokens, 1)
    assert first == "[CLS] new book [SEP]"
    assert second == " ".join(WORDS[: min(len(WORDS), max_length - 5)]) + " [SEP]"


def test_blocks_of_rows_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = word(tmp_path)
    a = [" ".join(WORDS[: 1 + i % 5]) for i in range(10)]
    b = [" ".join(WORDS[: i % 4]) for i in range(10)]
    whole = encode_texts(tokenizer, a, b, max_length=16)
    monkeypatch.setattr(core.tokens, "ROWS_AT_ONCE", 3)
    for got, expected in zip(encode_texts(tokenizer, a, b, max_length=16), whole, strict=True):
        assert np.array_equal(got, expected)
    none = encode_texts(tokenizer, [], [], max_length=16)
    assert [len(x) for x in none] == [0, 1, 0]


def table_of(task: Task, rows: list[dict[str, Any]]) -> pa.Table:
    schema = example_schema(task)
    return pa.Table.from_pylist([dict.fromkeys(schema.names) | row for row in rows], schema)


def test_a_ranking_question_is_a_sequence_for_each_candidate(tmp_path: Path) -> None:
    tokenizer = word(tmp_path)
    rows = [
        {"text_a": "old film", "candidates": ["good", "bad", "new book"], "split": "train"},
        {"text_a": "book", "candidates": ["is", "was", "but"], "split": "train"},
    ]
    tokens = encode(tokenizer, TASKS["order"], table_of(TASKS["order"], rows), max_length=16)
    assert [shown(tokenizer, tokens, i) for i in (0, 2, 3)] == [
        ("[CLS] old film [SEP]", "good [SEP]"),
        ("[CLS] old film [SEP]", "new book [SEP]"),
        ("[CLS] book [SEP]", "is [SEP]"),
    ]
    assert len(tokens.b_starts) == 6


def test_training_texts_are_every_text_of_the_split() -> None:
    rows = [{"text_a": "a", "text_b": "b", "split": "train"}, {"text_a": "c", "text_b": "d", "split": "dev"}]
    table = table_of(TASKS["pair"], rows)
    assert sorted(task_texts(table, split="train")) == ["a", "b"]
    assert sorted(task_texts(table)) == ["a", "b", "c", "d"]
    ranking = table_of(TASKS["order"], [{"text_a": "q", "candidates": ["x", "y", "z"], "split": "train"}])
    assert sorted(task_texts(ranking, split="train")) == ["q", "x", "y", "z"]


# ---- training ------------------------------------------------------------------------------------------------------
def test_the_word_tokenizer_has_its_words_in_order_of_appearance(tmp_path: Path) -> None:
    tokenizer = word(tmp_path)
    assert tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))) == [*SPECIAL_TOKENS, *WORDS]
    assert tokenizer.pad_token_id == 0
    # Nothing but spaces splits: the suite's words have hyphens, and "don't" is a word.
    assert tokenizer.tokenize("OLD-film good") == ["[UNK]", "good"]


def wordpiece_texts() -> list[str]:
    """Many words of equal counts, so that the trainer has ties to break."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), rng.integers(2, 9))) for _ in range(400)]
    return [" ".join(words[i : i + 10]) for i in range(0, 400, 10)] + ["Unbelievable, isn't it? 日本 é"]


@pytest.mark.parametrize("spec", ["word", "wordpiece(vocab=300)", "wordpiece( vocab = 60 )"])
def test_training_twice_gives_the_same_file(spec: str, tmp_path: Path) -> None:
    """The library's own word-piece trainer does not: it numbers letters in the order of a hash table."""
    folders = [make_tokenizer(Run(tmp_path / str(i)), spec, iter(wordpiece_texts())) for i in range(3)]
    files = [(folder / "tokenizer.json").read_bytes() for folder in folders]
    assert files[0] == files[1] == files[2]


def test_wordpiece_splits_words_into_known_pieces(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make_tokenizer(Run(tmp_path), "wordpiece(vocab=300)", iter(wordpiece_texts())))
    assert len(tokenizer) == 300
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(300))
    assert [vocabulary[token] for token in SPECIAL_TOKENS] == list(range(5))
    merged = [token for token in vocabulary if len(token.removeprefix("##")) > 1 and token not in SPECIAL_TOKENS]
    assert len(merged) > 200
    pieces = tokenizer.tokenize("Unbelievable")
    assert len(pieces) > 1
    assert "".join(piece.removeprefix("##") for piece in pieces) == "unbelievable"
    assert not pieces[0].startswith("##")
    assert all(piece.startswith("##") for piece in pieces[1:])
    # Every word of the training text can be spelt; lower case and accents go, punctuation and Chinese stand alone.
    assert all("[UNK]" not in tokenizer.tokenize(text) for text in wordpiece_texts())
    assert tokenizer.tokenize("É 日本") == ["e", "日", "本"]
    assert tokenizer.tokenize("zebra") == ["[UNK]"]
    # Letters are pieces, not special tokens that would be cut out of any text.
    assert not set(tokenizer.all_special_tokens) - set(SPECIAL_TOKENS)
    assert len(tokenizer.get_added_vocab()) == len(SPECIAL_TOKENS)


def test_wordpiece_merges_frequent_words_first(tmp_path: Path) -> None:
    texts = ["banana banana banana banana", "cherry"]
    tokenizer = load_tokenizer(make_tokenizer(Run(tmp_path), "wordpiece(vocab=23)", texts))
    assert tokenizer.tokenize("banana") == ["banana"]
    assert len(tokenizer.tokenize("cherry")) > 1


def test_rare_letters_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.tokens, "MAX_LETTERS", 3)
    tokenizer = load_tokenizer(make_tokenizer(Run(tmp_path), "wordpiece(vocab=20)", ["aab aab abc abc zab"]))
    letters = {token.removeprefix("##") for token in tokenizer.get_vocab() if len(token.removeprefix("##")) == 1}
    assert letters == {"a", "b", "c"}  # 5, 5 and 2 words; z has 1
    assert tokenizer.tokenize("zab") == ["[UNK]"]


@pytest.mark.parametrize("make", [roberta, funnel])
def test_a_folder_is_copied_into_the_run(make: Any, tmp_path: Path) -> None:
    make().save_pretrained(tmp_path / "source")
    run = Run(tmp_path / "run")
    folder = make_tokenizer(run, str(tmp_path / "source"), iter(()))
    assert folder == tokenizer_dir(run, str(tmp_path / "source"))
    assert folder.is_relative_to(run.path)
    pair = encode_texts(load_tokenizer(folder), ["old"], ["new book"], max_length=16)
    assert shown(load_tokenizer(folder), pair, 0)[1].startswith("new book")


# ---- errors --------------------------------------------------------------------------------------------------------
def test_a_fresh_encoder_needs_a_tokenizer() -> None:
    without = Config.model_validate({"model": {"tokenizer": None}})
    with pytest.raises(ValueError, match=r"is fresh and has no tokenizer; set model\.tokenizer to 'word'"):
        tokenizer_spec(without, ENCODER)
    assert tokenizer_spec(without, "some/encoder") == "some/encoder"
    assert tokenizer_spec(CONFIG, "some/encoder") == "word"


def test_unusable_tokenizers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer at '/no/such/folder'.*Give model\.tokenizer a folder"):
        load_tokenizer("/no/such/folder")
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    bare.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no cls_token; Darkroom's heads read BERT-like sequences"):
        load_tokenizer(tmp_path)


# ---- cache ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    rows = [{"text_a": "the old film", "text_b": "is good", "split": "train"}] * 3
    run.write_examples("pair", table_of(TASKS["pair"], rows))
    make_tokenizer(run, "word", [" ".join(WORDS)])
    return run


def files_of(run: Run) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted((run.path / "cache").rglob("*.npy"))}


def get(run: Run, prepare_key: str = "key") -> Tokens:
    return cached_tokens(run, CONFIG, ENCODER, TASKS["pair"], prepare_key=prepare_key)


def test_the_cache_is_made_once_and_mapped(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = encode(
        load_tokenizer(tokenizer_dir(run, "word")), TASKS["pair"], run.read_examples("pair"), max_length=16
    )
    first = get(run)
    before = files_of(run)
    assert len(before) == 3
    monkeypatch.setattr(core.tokens, "encode", None)  # making it again would fail
    second = get(run)
    assert files_of(run) == before
    for tokens in (first, second):
        for got, wanted in zip(tokens, expected, strict=True):
            assert isinstance(got, np.memmap)
            assert np.array_equal(got, wanted)


def test_a_write_to_the_arrays_does_not_reach_the_file(run: Run) -> None:
    tokens = get(run)
    before = files_of(run)
    tokens.ids[0] = 77
    assert files_of(run) == before
    assert get(run).ids[0] != 77


@pytest.mark.parametrize("lost", ["pair.ids.npy", "pair.offsets.npy", "pair.b_starts.npy"])
def test_a_lost_file_is_made_again_identically(run: Run, lost: str) -> None:
    get(run)
    before = {path: content for path, (content, _) in files_of(run).items()}
    next(path for path in before if path.name == lost).unlink()
    get(run)
    assert {path: content for path, (content, _) in files_of(run).items()} == before


def test_other_preparations_have_other_caches(run: Run) -> None:
    get(run)
    get(run, prepare_key="other")
    assert len(files_of(run)) == 6
