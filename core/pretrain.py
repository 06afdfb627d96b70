"""Plain text -> a pre-trained encoder: lines, blocks of tokens, training, a transformers directory.

A block is as many consecutive lines as fit, never across an empty line (a document's end). Half of the blocks are
`[CLS] a [SEP]`, half `[CLS] a [SEP] b [SEP]`, cut between the two lines nearest to the middle, so that the embeddings
of second texts and separators are trained as well (ELECTRA's data; its few random short blocks are left out, because
ours end with a line and so are of many lengths already). Nothing of the text is dropped: a line longer than a block
is cut into several.

Training is core/train's loop on one "task" of blocks. A share of the blocks is held out and scored.

Not here: the objectives (core/rtd), the tokenizer's own training (core/tokens).

Shapes: B sequences, T tokens, K masked places, N blocks.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from core.batching import Batch, TaskData, cut, make_batch, on_device
from core.device import Device, stream, stream_seed
from core.encoder import make_encoder, max_positions, start_for_text
from core.files import told
from core.parallel import own_device
from core.ranks import ALONE, Ranks
from core.rtd import OBJECTIVES, Losses, Rtd, mask_ids, save_rtd
from core.sections import PretrainConfig
from core.store import read_json, write_json
from core.tasks import Task, example_id
from core.tokens import ROWS_AT_ONCE, Tokens
from core.train import Report, train_model

TEXT = Task(name="text", labels=("original", "replaced"))
PAIR_SHARE = 0.5
# Held out: a fiftieth, but enough for a score of two digits and not more than that needs.
HELD_OUT_SHARE, MIN_HELD_OUT, MAX_HELD_OUT = 0.02, 32, 2_000
EVALUATION_TOKENS = 8_192


# ---- text ----------------------------------------------------------------------------------------------------------
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
