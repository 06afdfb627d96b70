"""The training benchmark runs to its end and says what it should. No time is asserted."""

from __future__ import annotations

import json
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import stages
from benchmarks.contenders import GLUE_LENGTHS, Shape, collate, contenders_on, glue_lengths, plain_rows, task_data
from benchmarks.training import LABELS, RESULTS, main, summary, table
from core.device import Device

CPU = Device(torch.device("cpu"), torch.float32, "")
GPU = Device(torch.device("cuda"), torch.bfloat16, "")


def test_rows_have_glues_lengths_and_shares() -> None:
    lengths = glue_lengths(10_000)
    for task, (median, _, _) in GLUE_LENGTHS.items():
        if len(lengths[task]) > 500:
            assert abs(np.median(lengths[task]) / median - 1) < 0.1, task
    assert min(map(len, lengths.values())) == 32
    assert len(lengths["mnli"]) > len(lengths["qnli"]) > len(lengths["sst2"])


def test_every_contender_reads_the_same_rows() -> None:
    datas = task_data(glue_lengths(200), torch.device("cpu"))
    rows = plain_rows(datas)
    for name, data in datas.items():
        for i in (0, len(data.splits) - 1):
            start, size = int(data.starts[i]), int(data.sizes[i])
            assert rows[name][i]["input_ids"].tolist() == data.ids[start : start + size].tolist()
            assert int(rows[name][i]["token_type_ids"].sum()) == size - int(data.b_starts[i])
            assert rows[name][i]["labels"] == int(data.gold[i])
    batch = collate(rows["mnli"][:8])
    sizes = datas["mnli"].sizes[:8]
    assert batch["attention_mask"].sum(dim=1).tolist() == sizes.tolist()
    assert batch["input_ids"].shape == (8, sizes.max())


def test_quick_measures_all_and_writes_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--threads", "1", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "training-cpu-quick.json").read_text())
    (of_shape,) = found["shapes"].values()
    assert len(of_shape["rounds"]) == 2
    for of_round in of_shape["rounds"]:
        contenders = contenders_on(CPU)
        assert set(of_round) == {*contenders, "gemm_flops"}
        assert all(of_round[name]["tokens"] > 0 and of_round[name]["peak_memory"] > 2**20 for name in contenders)
    assert summary(of_shape)["trainer"]["ratio"] == 1.0
    written = (tmp_path / "training-cpu-quick.md").read_text()
    assert written.strip() == table(found)
    assert all((LABELS[name] in written) == (name in contenders) for name in LABELS)
    assert set(found["scaling"]) == {"rows", "length", "batch size", "members"}
    drawing = xml.etree.ElementTree.parse(tmp_path / "training-cpu-quick.svg").getroot()
    assert len(list(drawing.iter("{http://www.w3.org/2000/svg}polyline"))) == 4
    assert written.strip() in capsys.readouterr().out


def test_an_unknown_shape_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--shapes", "L99"])
    assert "no shape L99; there are L2/H128, L4/H256" in capsys.readouterr().err


def test_a_shape_is_the_encoder_of_all() -> None:
    from benchmarks.contenders import PlainModel, Vocabulary
    from core.encoder import make_encoder
    from core.speed import matrix_parameters

    shape = Shape(2, 64, 4, steps=1)
    ours = make_encoder(shape.spec, dropout=0.1, tokenizer=Vocabulary())
    plain = PlainModel(shape).encoder
    assert matrix_parameters(ours) == matrix_parameters(plain)
    assert {name: p.shape for name, p in ours.named_parameters()} == {n: p.shape for n, p in plain.named_parameters()}


def test_a_runs_time_is_shared_out_among_its_stages() -> None:
    training = {"tokens": 1_000, "seconds": 8.0, "waiting_share": 0.01, "gemm_share": 0.5}
    jobs = {
        "prepare": {"stage": "prepare", "seconds": 2.0},
        "mt-1": {"stage": "multitask", "seconds": 10.0, "training": training, "passes": {"seconds": 1.0}},
        "mt-2": {"stage": "multitask", "seconds": 10.0, "training": {**training, "waiting_share": 0.03}},
    }
    text = stages.table(stages.stage_times({"jobs": jobs}))
    assert "| prepare | 1 | 2.0 | 0.0 | 0.0 |  |  |  |" in text
    assert "| multitask | 2 | 20.0 | 16.0 | 1.0 | 125 | 2.0 % | 0.50 |" in text
    assert "| **all** | 3 | 22.0 | 16.0 | 1.0 | 125 | 2.0 % | 0.50 |" in text


def test_contenders_of_a_gpu_and_of_16_bits() -> None:
    on_16_bits = set(contenders_on(CPU._replace(dtype=torch.bfloat16)))
    assert on_16_bits - set(contenders_on(CPU)) == {"trainer_same"}
    assert set(contenders_on(GPU)) - on_16_bits == {"darkroom_compiled"}
    assert set(LABELS) == set(contenders_on(GPU))


def test_quality_compares_with_transformers_own_training(tmp_path: Path) -> None:
    """Within `plain`, a member is trained by other code: padded, with torch's dropout and optimiser."""
    import core.encoder
    import core.train
    from benchmarks.quality import plain, scores

    few = ["data.n_train=80", "data.n_dev=16", "data.n_test=16", "data.selection=16"]
    ours = scores(tmp_path / "darkroom", few, preset="smoke", seeds=1)
    seen = []
    with plain():
        make = core.train.make_optimizer
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                core.train, "make_optimizer", lambda model, train: (seen.append(model), make(model, train))[1]
            )
            theirs = scores(tmp_path / "plain", few, preset="smoke", seeds=1)
    assert core.encoder.BERT_LIKE
    model = seen[0].model
    kinds = {type(module) for module in model.modules()}
    assert torch.nn.Dropout in kinds
    assert "core.attention" not in {kind.__module__ for kind in kinds}
    assert model.encoder.config._attn_implementation == "sdpa"
    assert {name: len(of) for name, of in ours.items()} == {name: len(of) for name, of in theirs.items()}
    assert ours != theirs


def test_what_a_step_keeps_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer's count by hand: what a product, a norm, an activation and attention save, bfloat16 but where noted."""
    from benchmarks import memory

    shape = Shape(2, 64, 4, steps=1)
    found = memory.of_step(shape, 4_000, counted_tokens=500)
    packed, padded = found["packed"], found["padded"]
    assert abs(packed.tokens / 4_000 - 1) < 0.05
    assert padded.tokens > 2 * packed.tokens
    assert packed.parameters == padded.parameters > 0
    a_token = 2**30 * packed.activations / packed.tokens / shape.hidden
    # Four products' inputs (one of them 4 H wide), q, k, v and the mixture, GELU's input, two norms' inputs in float32:
    # some 50 bytes an entry and layer. An order of magnitude less or more would be a wrong count.
    assert 60 < a_token < 200
    one = memory.of_step(shape._replace(layers=1), 4_000, counted_tokens=500)["packed"]
    deep = memory.of_step(shape._replace(layers=3), 4_000, counted_tokens=500)["packed"]
    np.testing.assert_allclose(deep.activations - packed.activations, packed.activations - one.activations, rtol=1e-6)
    wide = memory.of_step(shape, 8_000, counted_tokens=500)["packed"]
    assert abs(wide.activations / wide.tokens / (packed.activations / packed.tokens) - 1) < 0.1


def test_the_readme_quotes_the_table_of_the_raw_rounds() -> None:
    told = table(json.loads((RESULTS / "training-cpu.json").read_text()))
    assert (RESULTS / "training-cpu.md").read_text() == told + "\n"
    readme = (RESULTS.parents[1] / "README.md").read_text(encoding="utf-8")
    rows = [line for line in told.splitlines() if line.startswith("|")]
    assert len(rows) > 6
    for line in [*rows, next(line for line in told.splitlines() if line.startswith("Geometric mean"))]:
        assert line in readme
