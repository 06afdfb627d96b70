"""Plain text -> blocks of tokens, for a training without labels (core/pretrain).

A block is as many consecutive lines as fit, never across an empty line (a document's end). Half of the blocks are
`[CLS] a [SEP]`, half `[CLS] a [SEP] b [SEP]`, cut between the two lines nearest to the middle, so that the embeddings
of second texts and separators are trained as well (ELECTRA's data; its few random short blocks are left out, because
ours end with a line and so are of many lengths already). Nothing of the text is dropped: a line longer than a block
is cut into several.

Shapes: N blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core.device import stream
from core.tokens import ROWS_AT_ONCE, Tokens

PAIR_SHARE = 0.5


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, or of all `*.txt` of a folder in the order of their names, an empty line between
    two files. Raises `ValueError` for a missing path, no text at all, and bytes that are not UTF-8."""
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        if not files:
            raise ValueError(
                f"the folder {path} has no *.txt; give pretrain.text a UTF-8 text file or a folder of them"
            )
    elif path.exists():
        files = [path]
    else:
        raise ValueError(f"there is no {path}; give pretrain.text a UTF-8 text file or a folder of *.txt")
    lines: list[str] = []
    for file in files:
        content = file.read_bytes()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = len(_split(content[: error.start].decode("utf-8-sig")))
            raise ValueError(
                f"{file}, line {line} is not UTF-8 (byte 0x{content[error.start]:02x}); convert the file, for example "
                "with `iconv -f latin1 -t utf-8`"
            ) from None
        lines += [*([""] if lines else []), *_split(text)]
    if not any(line.strip() for line in lines):
        raise ValueError(f"{path} holds no text; give pretrain.text a UTF-8 text file or a folder of *.txt")
    return lines


def _split(text: str) -> list[str]:
    """Not `splitlines`: it also splits at form feeds and other separators that stand inside sentences."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def text_blocks(lines: Sequence[str], tokenizer: Any, *, max_length: int, seed: int) -> Tokens:
    """Sequences of at most `max_length` tokens that hold every token of `lines` once, in order. Raises `ValueError`
    for lines without any token, and for a length that leaves no room beside the special tokens."""
    single, pair = _special_tokens(tokenizer)
    room = [max_length - sum(map(len, special)) for special in (single, pair)]
    if min(room) < 2:
        raise ValueError(f"max_length is {max_length}, which leaves no room for two texts; give 16 or more")
    ids, sizes, ends_document = _tokenised(lines, tokenizer)
    # A draw for every block there can be: a line has at most this many pieces.
    n_most = int((1 + sizes // min(room)).sum())
    wants_pair = stream(seed, "blocks").random(n_most) < PAIR_SHARE
    return _assembled(ids, _gathered(sizes, ends_document, wants_pair, room), single, pair)


def _special_tokens(tokenizer: Any) -> tuple[list[list[int]], list[list[int]]]:
    """What the tokenizer puts before, (between) and after one text and two. RoBERTa's two have two separators."""
    found: list[list[list[int]]] = []
    for texts in (("a",), ("a", "a")):
        encoded = tokenizer(*texts)
        parts: list[list[int]] = [[]]
        last = None
        for token, text in zip(encoded["input_ids"], encoded.sequence_ids(0), strict=True):
            if text is None:
                parts[-1].append(token)
            elif text != last:
                parts.append([])
            last = text if text is not None else last
        found.append(parts)
    assert [len(parts) for parts in found] == [2, 3]
    return found[0], found[1]


def _tokenised(lines: Sequence[str], tokenizer: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All tokens, without special ones; of each line that has any, how many, and whether a document ends after it."""
    chunks, sizes = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    for start in range(0, len(lines), ROWS_AT_ONCE):
        encoded = tokenizer(
            list(lines[start : start + ROWS_AT_ONCE]),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # lines may be longer than the encoder's positions
        )["input_ids"]
        sizes.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        chunks.append(np.fromiter(chain.from_iterable(encoded), np.int32, int(sizes[-1].sum())))
    all_sizes = np.concatenate(sizes)
    has_text = all_sizes > 0
    if not has_text.any():
        raise ValueError(f"the text has {len(lines)} lines and no token in them; is it the right file and tokenizer?")
    return np.concatenate(chunks), all_sizes[has_text], np.append(~has_text[1:], True)[has_text]


class _Blocks(NamedTuple):
    """Text of each block in the flat tokens: where it starts, where its second text starts (its end where there is
    none), where it ends."""

    starts: np.ndarray
    cuts: np.ndarray
    ends: np.ndarray


def _gathered(sizes: np.ndarray, ends_document: np.ndarray, wants_pair: np.ndarray, room: Sequence[int]) -> _Blocks:
    """Lines gathered to blocks. `wants_pair` has a draw for each block, `room` is what a single text and two hold."""
    blocks: list[tuple[int, int, int]] = []
    bounds: list[int] = []  # where the lines of the open block start
    end = free = 0
    is_pair = False

    def close() -> None:
        inner = bounds[1:] if is_pair else []
        middle = (bounds[0] + end) / 2
        blocks.append((bounds[0], min(inner, key=lambda bound: abs(bound - middle)) if inner else end, end))
        bounds.clear()

    for size, is_last in zip(sizes.tolist(), ends_document.tolist(), strict=True):
        if bounds and size > free:
            close()
        while size:
            if not bounds:
                is_pair = bool(wants_pair[len(blocks)])
                free = room[is_pair]
            taken = min(size, free)
            bounds.append(end)
            end, size, free = end + taken, size - taken, free - taken
            if size or is_last:
                close()
    if bounds:
        close()
    return _Blocks(*np.array(blocks, np.int64).T)


def _assembled(ids: np.ndarray, blocks: _Blocks, single: list[list[int]], pair: list[list[int]]) -> Tokens:
    """The blocks with their special tokens: these are written where they belong, and the text, in order, fills the
    rest."""
    is_pair = blocks.cuts < blocks.ends
    sizes = blocks.ends - blocks.starts + np.where(is_pair, sum(map(len, pair)), sum(map(len, single)))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    flat, is_text = np.empty(int(offsets[-1]), np.int32), np.ones(int(offsets[-1]), bool)
    b_starts = sizes.copy()
    for rows, parts in ((np.flatnonzero(~is_pair), single), (np.flatnonzero(is_pair), pair)):
        places = [offsets[rows], offsets[rows + 1] - len(parts[-1])]
        if parts is pair:
            places.insert(1, offsets[rows] + len(parts[0]) + (blocks.cuts - blocks.starts)[rows])
            b_starts[rows] = places[1] + len(parts[1]) - offsets[rows]
        for place, part in zip(places, parts, strict=True):
            for i, token in enumerate(part):
                flat[place + i] = token
                is_text[place + i] = False
    flat[is_text] = ids
    return Tokens(flat, offsets.astype(np.int64), b_starts.astype(np.int32))
