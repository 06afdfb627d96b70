"""`python -m core export`: what is written loads with plain transformers in a fresh process and answers as the run's
model does; stock class where the head is linear, ours for SAN and for several heads on one encoder pass; card; hub.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import EVERYTHING, Finished, tiny
from test_cli import call, refused
from tiny import CPU, TASKS, tiny_model, word_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForSequenceClassification,
    DistilBertConfig,
    DistilBertModel,
    ElectraForSequenceClassification,
)

from core.ask import Opened
from core.attention import replace_dropouts
from core.card import command_of
from core.export import fits_stock, gelu_pair, own_model, push, stock_model
from core.exported import DarkroomForSequenceClassification
from core.model import MultiTaskModel
from core.predict import predict_texts
from core.presets import load_config
from core.report import build_report
from core.tasks import SUITE
from core.tokens import load_tokenizer

# float32 sums in another order, on logits of order 0.1 to 1.
EXACT = 1e-5
TEXTS = ["the old film", "a good book was new", "bad"]
OTHERS = ["is good", "a", "the new film is bad and old"]

# What a stranger writes, without this package, and then what one who has it writes.
READER = """
import json, sys
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
asked, answers = json.load(sys.stdin), {}
def logits(folder, a, b):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    inputs = tokenizer(a, b, padding=True, truncation=True, return_tensors="pt")
    return model, inputs, model(**inputs).logits.tolist()
for name, (folder, a, b) in asked["stock"].items():
    answers[name] = logits(folder, a, b)[2]
folder, a, b = asked["stock"]["sentiment"]
answers["pipeline"] = pipeline("text-classification", model=folder, top_k=None)([a[0]])[0]
folder, a, b = asked["stock"]["similarity"]
answers["value"] = pipeline("text-classification", model=folder)({"text": a[0], "text_pair": b[0]})
assert not any(name.split(".")[0] == "core" for name in sys.modules)
import core.exported
folder, a, b = asked["own"]
model, inputs, answers["nli"] = logits(folder, a, b)
answers["answers"] = {name: one.tolist() for name, one in model.answers(**inputs).items()}
pair = {"text": a[0], "text_pair": b[0]}
answers["own pipeline"] = pipeline("text-classification", model=folder, top_k=None)([pair])[0]
print(json.dumps(answers))
"""


def questions(finished: Finished, task: str) -> tuple[list[str], list[str] | None, np.ndarray]:
    """Five examples' sequences, and the student's stored outputs, a row a sequence."""
    rows = finished.run.read_examples(task).to_pylist()[-5:]
    stored = finished.run.read_predictions("st-kd-s0", task)
    ids = [row["example_id"] for row in rows]
    outputs = np.stack([stored.outputs[stored.example_ids == one][0] for one in ids])
    if SUITE[task].kind == "ranking":
        pairs = [(row["text_a"], candidate) for row in rows for candidate in row["candidates"]]
        return [a for a, _ in pairs], [b for _, b in pairs], outputs.reshape(-1, 1)
    text_b = [row["text_b"] for row in rows] if SUITE[task].is_pair else None
    return [row["text_a"] for row in rows], text_b, outputs.reshape(len(rows), -1)


def test_a_fresh_process_gets_the_runs_logits(smoke: Finished, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"stock": {}}
    expected = {}
    for task in ("sentiment", "similarity", "relevance"):
        options = ("--run", smoke.run.path, "--model", "st-kd-s0", "--task", task, "--out", tmp_path / task)
        result = call("export", *options)
        assert result.exit_code == 0, result.output
        assert f"ElectraForSequenceClassification, {task}; logits differ" in result.stdout.replace("\n", "")
        a, b, expected[task] = questions(smoke, task)
        asked["stock"][task] = (str(tmp_path / task), a, b)
    options = ("--run", smoke.run.path, "--model", "st-kd-s0", "--task", "nli", "--out", tmp_path / "nli")
    result = call("export", *options)
    assert "DarkroomForSequenceClassification, nli" in result.stdout.replace("\n", "")
    a, b, expected["nli"] = questions(smoke, "nli")
    asked["own"] = (str(tmp_path / "nli"), a, b)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READER], input=json.dumps(asked), env=environment, cwd=tmp_path, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    for task, outputs in expected.items():
        np.testing.assert_allclose(answers[task], outputs, rtol=0, atol=EXACT)
        assert outputs.std() > 20 * EXACT, task  # there is something to compare
    np.testing.assert_array_equal(answers["answers"]["nli"], answers["nli"])
    for key, task in (("pipeline", "sentiment"), ("own pipeline", "nli")):
        said = {one["label"]: one["score"] for one in answers[key]}
        assert set(said) == set(SUITE[task].labels)
        e = np.exp(expected[task][0].astype(np.float64))
        np.testing.assert_allclose([said[label] for label in SUITE[task].labels], e / e.sum(), rtol=0, atol=EXACT)
    assert answers["value"]["label"] == "similarity"
    assert answers["value"]["score"] == pytest.approx(float(expected["similarity"][0, 0]), abs=EXACT)
    files = {path.name for path in (tmp_path / "nli").iterdir()}
    assert files == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}


def test_the_whole_student_with_one_encoder_pass(smoke: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    result = call("export", "--run", smoke.run.path, "--model", "st-kd-s0", "--out", folder)
    assert result.exit_code == 0, result.output
    assert "core.exported" in result.stdout
    a, b, nli = questions(smoke, "nli")
    tokenizer = load_tokenizer(folder)
    inputs, one_text = (tokenizer(*texts, padding=True, return_tensors="pt") for texts in ((a, b), (a,)))
    labels = {"paraphrase": ["different", "paraphrase"], "relevance": ["relevance"], "similarity": ["similarity"]}
    for task, names in labels.items():
        model = AutoModelForSequenceClassification.from_pretrained(folder, task=task).eval()
        assert isinstance(model, DarkroomForSequenceClassification)
        assert list(model.config.id2label.values()) == names
        passes: list[int] = []
        model.model.encoder.encoder.layer[0].register_forward_hook(lambda *_, passes=passes: passes.append(1))
        with torch.inference_mode():
            answers = model.answers(**inputs)
            assert len(passes) == 1
            assert list(answers) == list(SUITE)
            np.testing.assert_allclose(answers["nli"].numpy(), nli, rtol=0, atol=EXACT)
            # The last layer is computed for [CLS] alone where no head reads more: sums in another order.
            torch.testing.assert_close(answers[task], model(**inputs).logits, rtol=0, atol=EXACT)
            assert list(model.answers(**one_text)) == [name for name, one in SUITE.items() if one.head != "san"]
    gold = torch.arange(5.0)
    loss = model(**inputs, labels=gold).loss
    torch.testing.assert_close(loss, (answers["similarity"][:, 0] - gold).square().mean(), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="task 'nlii' is not known; did you mean 'nli'"):
        model.answers(**inputs, tasks=["nlii"])


# ---- weights --------------------------------------------------------------------------------------------------------
def opened(spec: str, folder: Path, **options: Any) -> Opened:
    model = tiny_model(spec=spec, **options).eval()
    about = {"head_settings": {"head_dropout": 0.1, "san_steps": 2, "san_step_dropout": 0.1}, "dropout": 0.1}
    return Opened(model, word_tokenizer(folder, [*TEXTS, *OTHERS]), dict(TASKS), {**about, "max_length": 16}, CPU)


def outputs_of(given: Opened, task: str) -> np.ndarray:
    row = TASKS[task]
    second = [[b, "film", "a"] for b in OTHERS] if row.candidates else OTHERS if row.is_pair else None
    return predict_texts(given.model, row, given.tokenizer, TEXTS, second, max_length=16, device=CPU)


def inputs_of(given: Opened, task: str, side: str = "right") -> Any:
    a, b = TEXTS, OTHERS if TASKS[task].is_pair else None
    if TASKS[task].candidates:
        a, b = [text for text in TEXTS for _ in range(3)], [one for text in OTHERS for one in (text, "film", "a")]
    return given.tokenizer(a, b, padding=True, padding_side=side, return_tensors="pt")


@pytest.mark.parametrize("task", ["topic", "order", "score"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_linear_heads_have_a_stock_class(kind: str, task: str, tmp_path: Path) -> None:
    given = opened(f"random:{kind}(layers=2,hidden=32,heads=2)", tmp_path)
    assert fits_stock(given, task)
    model = stock_model(given, task)
    assert type(model) is ElectraForSequenceClassification
    with torch.inference_mode():
        logits = model(**inputs_of(given, task)).logits.numpy()
    np.testing.assert_allclose(logits.reshape(outputs_of(given, task).shape), outputs_of(given, task), atol=EXACT)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_every_head_has_our_class(kind: str, side: str, tmp_path: Path) -> None:
    """Padding on either side; DistilBERT has no token types, so its second texts are found by separators."""
    shape = "" if kind == "distilbert" else "layers=2,hidden=32,heads=2"
    given = opened(f"random:{kind}({shape})", tmp_path) if shape else distilbert(tmp_path)
    assert kind != "distilbert" or not any(fits_stock(given, task) for task in TASKS)
    own_model(given, dict(TASKS)).save_pretrained(tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    for task in TASKS:
        expected = outputs_of(given, task)
        with torch.inference_mode():
            logits = model.answers(**inputs_of(given, task, side), tasks=[task])[task].numpy()
        np.testing.assert_allclose(logits.reshape(expected.shape), expected, rtol=0, atol=EXACT)


def distilbert(folder: Path) -> Opened:

    given = opened("random:bert(layers=2,hidden=32,heads=2)", folder)
    body = DistilBertModel(DistilBertConfig(vocab_size=40, dim=32, n_layers=2, n_heads=2, hidden_dim=64))
    replace_dropouts(body, 0.1)
    tokenizer = given.tokenizer
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    heads = {name: given.model.heads[f"task:{name}"] for name in TASKS}
    return given._replace(model=MultiTaskModel(body, heads).eval(), tokenizer=tokenizer)


def test_two_separators_between_texts(tmp_path: Path) -> None:
    """RoBERTa's form, without token types: `<s> a </s></s> b </s>`."""
    given = opened("random:roberta(layers=1,hidden=32,heads=2)", tmp_path)
    body = given.model.encoder
    body.config.type_vocab_size = 1
    body.embeddings.token_type_embeddings.weight = torch.nn.Parameter(
        body.embeddings.token_type_embeddings.weight[:1].detach()
    )
    tokenizer = given.tokenizer
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] [SEP] $B [SEP]", special_tokens=ids
    )
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    model = own_model(given, dict(TASKS))
    assert model.config.separators == 2
    with torch.inference_mode():
        logits = model.answers(**inputs_of(given, "pair"), tasks=["pair"])["pair"].numpy()
    np.testing.assert_allclose(logits, outputs_of(given, "pair"), rtol=0, atol=EXACT)


def test_the_identity_behind_the_stock_class() -> None:
    torch.manual_seed(0)
    out, x = torch.nn.Linear(8, 4), 5 * torch.randn(50, 8)  # 2 C = H: as many classes as there is room for
    w = gelu_pair(out)
    dense = torch.nn.functional.gelu(x @ w["dense.weight"].T + w["dense.bias"])
    torch.testing.assert_close(dense @ w["out_proj.weight"].T + w["out_proj.bias"], out(x), rtol=0, atol=1e-5)


def test_too_many_classes_for_the_stock_class(tmp_path: Path) -> None:
    given = opened("random:bert(layers=1,hidden=4,heads=1)", tmp_path)
    assert not fits_stock(given, "topic")  # 3 classes, 4 units
    assert fits_stock(given, "order")
    assert not fits_stock(opened("random:bert(layers=1,hidden=32,heads=2)", tmp_path), "pair")


# ---- card, hub, mistakes --------------------------------------------------------------------------------------------
def test_the_card_has_the_runs_numbers(smoke: Finished, tmp_path: Path) -> None:
    assert call("export", "--run", smoke.run.path, "--model", "st-kd-s0", "--task", "sentiment", "--out",
                tmp_path / "out").exit_code == 0  # fmt: skip
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    row = next(row for row in build_report(smoke.run)["tables"]["score"] if row["name"] == "sentiment")
    kd = row["kd"]
    assert f"| sentiment | {100 * kd['mean']:.1f} ± {100 * kd['se']:.1f} (n = 2) |" in card
    assert re.search(r"\| sentiment \| accuracy \| 0\.\d{4} \| 0\.\d{4} to 0\.\d{4} \| 48 \|", card)
    assert "python -m core run --preset smoke --out runs/smoke --set data.n_train=160" in card
    assert "--set 'multitask.dropouts=[0.1, 0.2, 0.3]'" in card
    assert "arXiv:1904.09482" in card
    assert card.rstrip().endswith("name one here.")  # of the licence
    assert str(smoke.run.path.parent) not in card
    assert card.startswith("---\nlibrary_name: transformers\n")


def test_the_cards_command_makes_the_same_config() -> None:
    config = tiny(*EVERYTHING)
    words = shlex.split(command_of(config, "x"))
    sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert load_config(words[words.index("--preset") + 1], None, sets) == config


def test_push_uploads_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Hub:
        def create_repo(self, repo: str, **options: Any) -> str:
            seen.append((repo, options))
            return f"hub/{repo}"

        def upload_folder(self, **options: Any) -> None:
            seen.append(options)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert push(tmp_path, "me/student") == "hub/me/student"
    assert seen[0] == ("me/student", {"private": True, "exist_ok": True})
    assert (seen[1]["repo_id"], seen[1]["folder_path"]) == ("me/student", str(tmp_path))


def test_push_without_a_network(smoke: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    options = ("--run", smoke.run.path, "--model", "st-kd-s0", "--task", "acceptability", "--out", tmp_path / "out")
    message = refused("export", *options, "--push", "me/student")
    assert re.search(r"out is complete, but it could not be pushed to 'me/student': \w+: ", message)
    assert f"`hf auth login`, then `hf upload me/student {tmp_path / 'out'}`" in message
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_mistakes_in_export(smoke: Finished, tmp_path: Path) -> None:
    run = ("export", "--run", smoke.run.path, "--out", tmp_path / "out", "--model")
    assert "has no model 'st-kd'; did you mean 'st-kd-s" in refused(*run, "st-kd")
    assert "has no model 'ens-mean_probs'" in refused(*run, "ens-mean_probs")
    teacher = next(path.name for path in (smoke.run.path / "models").glob("ft-*-nli"))
    assert f"model '{teacher}' has no head for 'sentiment'; it has: nli" in refused(
        *run, teacher, "--task", "sentiment"
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("five years", encoding="utf-8")
    assert "out holds something already; give a new or empty folder to --out" in refused(*run, "st-kd-s0")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]
