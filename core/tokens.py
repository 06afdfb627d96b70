"""Text -> flat token arrays, once: tokenizers, and the memory-mapped cache of a run's token ids.

A task's sequences are stored one after another without padding: `ids` (all tokens), `offsets` (where each sequence
starts) and `b_starts` (where its second text starts; its length for a single text). A ranking question is C
sequences in a row. Batches index these arrays directly (core/batching); no DataLoader workers are needed.

Tokenizers are Hugging Face's: the encoder's own, a hub id, a folder, or one trained on the run's own training text:
`word` (words split at spaces, for the embedded suite) and `wordpiece(vocab=N)` (BERT's kind).

Not here: the choice of rows and padding.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from core.config import Config, digest
from core.files import told
from core.store import Run, atomic, undamaged
from core.tasks import Task

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# Of the letters of a text, this many of the most frequent become word pieces, as in BERT's own trainer.
MAX_LETTERS = 1_000
# Rows given to the tokenizer at once: large enough for its threads, small enough that Python lists stay at megabytes.
ROWS_AT_ONCE = 20_000
UNCUT = 1 << 30  # a maximum length that nothing has


class Tokens(NamedTuple):
    """Sequences of one task: sequence i is `ids[offsets[i]:offsets[i + 1]]`; its second text starts at `b_starts[i]`
    tokens from its own start."""

    ids: np.ndarray
    offsets: np.ndarray
    b_starts: np.ndarray


def tokenizer_spec(config: Config, encoder: str) -> str:
    """The tokenizer that goes with `encoder`. Raises `ValueError` for a fresh encoder without one."""
    if config.model.tokenizer is not None:
        return config.model.tokenizer
    if encoder.startswith("random:"):
        raise ValueError(
            f"encoder '{encoder}' is fresh and has no tokenizer; set model.tokenizer to 'word', "
            "'wordpiece(vocab=8192)', a folder or a hub id"
        )
    return encoder


def tokenizer_dir(run: Run, spec: str) -> Path:
    """Where the run keeps the tokenizer `spec`, so that a run directory is complete in itself."""
    return (
        run.path
        / "tokenizers"
        / re.sub(r"[^A-Za-z0-9._-]+", "-", spec.strip("./").split("/")[-1] + "-" + digest(spec)[:6])
    )


def make_tokenizer(run: Run, spec: str, texts: Iterable[str]) -> Path:
    """Trains, loads or downloads the tokenizer `spec` and stores it in the run. `texts` is training text, in order."""
    folder = tokenizer_dir(run, spec)
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = build_tokenizer(spec, texts)
    with told(folder):
        tokenizer.save_pretrained(folder)
    return folder


def build_tokenizer(spec: str, texts: Iterable[str]) -> Any:
    """The tokenizer `spec`: `word` and `wordpiece(vocab=N)` are trained on `texts`, others loaded."""
    if spec == "word":
        return _wrapped(_word_tokenizer(texts))
    if match := re.fullmatch(r"wordpiece\(vocab=(\d+)\)", spec.replace(" ", "")):
        return _wrapped(_wordpiece_tokenizer(texts, int(match.group(1))))
    return load_tokenizer(spec)


def load_tokenizer(where: str | Path) -> Any:
    """A fast tokenizer with class, separator and padding tokens. Raises `ValueError` when there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(where), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().split("\n")[0]
        if "trust_remote_code" in str(error):
            first_line = "it brings Python code of its own, and Darkroom runs none from a model's folder."
        raise ValueError(
            f"no tokenizer at '{where}': {first_line} Give model.tokenizer a folder with tokenizer.json, a hub id "
            "(needs a network), 'word' or 'wordpiece(vocab=8192)'"
        ) from error
    if not tokenizer.is_fast:
        raise ValueError(f"tokenizer '{where}' is not a fast one (tokenizer.json); Darkroom needs it for speed")
    for role in ("cls_token", "sep_token", "pad_token"):
        if getattr(tokenizer, role) is None:
            raise ValueError(f"tokenizer '{where}' has no {role}; Darkroom's heads read BERT-like sequences")
    return tokenizer


def _word_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """One token a word. Words in order of first appearance: the ids depend on nothing but the text."""
    words = dict.fromkeys(word for text in texts for word in text.lower().split())
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*SPECIAL_TOKENS, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def _wordpiece_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """BERT's word pieces. The library's trainer numbers letters in the order of a hash table, which differs from run
    to run, and breaks ties by these numbers; so it is given all letters, in order, and numbers only what it merges."""
    texts = list(texts)
    tokenizer = _wordpiece({})
    words = Counter(word for text in texts for word in text.split())
    letters: Counter[str] = Counter()
    continuations: set[str] = set()
    for word, count in words.items():
        for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(word)):
            letters.update(dict.fromkeys(piece, count))
            continuations.update(piece[1:])
    kept = sorted(letters, key=lambda letter: (-letters[letter], letter))[:MAX_LETTERS]
    pieces = [*kept, *(f"##{letter}" for letter in kept if letter in continuations)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=[*SPECIAL_TOKENS, *pieces], limit_alphabet=0, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wordpiece(tokenizer.get_vocab())  # a new one, in which letters are no special tokens


def _wordpiece(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _wrapped(tokenizer: Tokenizer) -> Any:
    """The transformers tokenizer around a trained one, with BERT's `[CLS] a [SEP] b [SEP]`."""
    from transformers import PreTrainedTokenizerFast

    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def task_texts(table: pa.Table, *, split: str | None = None) -> Iterator[str]:
    """Every text of an examples table, column by column, to train a tokenizer on."""
    if split is not None:
        table = table.filter(pa.compute.equal(table["split"], split))
    for name in ("text_a", "text_b"):
        if name in table.column_names:
            yield from table[name].to_pylist()
    if "candidates" in table.column_names:
        for candidates in table["candidates"].to_pylist():
            yield from candidates


def encode(tokenizer: Any, task: Task, table: pa.Table, *, max_length: int) -> Tokens:
    """Tokenises every row of an examples table, in order; longer sequences lose tokens of their longer text."""
    text_a = table["text_a"].to_pylist()
    if task.kind == "ranking":
        candidates = table["candidates"].to_pylist()
        text_a = [text for text, options in zip(text_a, candidates, strict=True) for _ in options]
        text_b: list[str] | None = [option for options in candidates for option in options]
    else:
        text_b = table["text_b"].to_pylist() if task.is_pair else None
    return encode_texts(tokenizer, text_a, text_b, max_length=max_length)


def count_cut(tokenizer: Any, task: Task, table: pa.Table, tokens: Tokens, *, max_length: int) -> int:
    """How many rows of an examples table have lost tokens to `max_length`. Looks at sequences that fill it alone."""
    per_row = task.n_outputs if task.kind == "ranking" else 1
    full = np.flatnonzero(np.diff(tokens.offsets) == max_length) // per_row
    if not len(full):
        return 0
    whole = encode(tokenizer, task, table.take(pa.array(np.unique(full))), max_length=UNCUT)
    return int((np.diff(whole.offsets).reshape(-1, per_row).max(axis=1) > max_length).sum())


def encode_texts(tokenizer: Any, text_a: Sequence[str], text_b: Sequence[str] | None, *, max_length: int) -> Tokens:
    """`[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]` (in the tokenizer's own form) for each pair of texts."""
    ids: list[np.ndarray] = []
    lengths: list[int] = []
    b_starts: list[int] = []
    for start in range(0, len(text_a), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        encoded = tokenizer(
            list(text_a[rows]),
            None if text_b is None else list(text_b[rows]),
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=True,
        )
        batch_lengths = [len(sequence) for sequence in encoded["input_ids"]]
        ids.append(np.concatenate([np.asarray(sequence, np.int32) for sequence in encoded["input_ids"]]))
        lengths += batch_lengths
        if text_b is None:
            b_starts += batch_lengths
        else:
            types = encoded["token_type_ids"]
            for i, length in enumerate(batch_lengths):
                # Tokenizers without token types (RoBERTa's) say by `sequence_ids` which text a token is from.
                n_b = types[i].count(1)  # some have a 2, for [CLS]
                b_starts.append(length - n_b if n_b else _second_text_start(encoded.sequence_ids(i)))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flat = np.concatenate(ids) if ids else np.zeros(0, np.int32)
    return Tokens(flat, offsets, np.asarray(b_starts, np.int32))


def _second_text_start(sequence_ids: list[int | None]) -> int:
    """First token of the second text; the closing separator when that text has no token at all."""
    return sequence_ids.index(1) if 1 in sequence_ids else len(sequence_ids) - 1


def _cache_paths(run: Run, prepare_key: str, spec: str, task: str) -> dict[str, Path]:
    folder = run.path / "cache" / prepare_key / tokenizer_dir(run, spec).name
    return {name: folder / f"{task}.{name}.npy" for name in Tokens._fields}


def token_offsets(run: Run, config: Config, encoder: str, task: str, *, prepare_key: str) -> np.ndarray | None:
    """Where each sequence of `task` starts, and the end, of the token arrays that are there; None: there are none."""
    path = _cache_paths(run, prepare_key, tokenizer_spec(config, encoder), task)["offsets"]
    if not path.exists():
        return None
    with undamaged(path):
        return np.asarray(np.load(path, allow_pickle=False))


def cached_tokens(run: Run, config: Config, encoder: str, task: Task, *, prepare_key: str) -> Tokens:
    """Token arrays of `task` for `encoder`, memory-mapped; made from the examples where the cache has none.

    Mapped copy-on-write: torch shares their memory without a copy, and nothing can write to the file.
    """
    spec = tokenizer_spec(config, encoder)
    paths = _cache_paths(run, prepare_key, spec, task.name)
    if not all(path.exists() for path in paths.values()):
        tokenizer = load_tokenizer(tokenizer_dir(run, spec))
        tokens = encode(tokenizer, task, run.read_examples(task.name), max_length=config.model.max_length)
        for name, path in paths.items():
            with atomic(path) as temporary, open(temporary, "wb") as file:
                np.save(file, getattr(tokens, name), allow_pickle=False)
    with undamaged(paths["ids"]):
        return Tokens(*(np.load(path, mmap_mode="c", allow_pickle=False) for path in paths.values()))
