"""Members of every kind in one pool: bagged, with a linear head, with MC dropout, snapshots of one run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Finished, Training, copy_of, go, keys, log_lines, ran, tiny, trainings, weights_of
from scipy.special import log_softmax, softmax
from tiny import CPU

from core.batching import load_task_data, make_batch
from core.config import resolve_tasks
from core.device import stream_seed
from core.encoder import encode
from core.export import export
from core.heads import LinearHead, SanHead
from core.model import head_key, load_model
from core.predict import predict
from core.store import Run
from core.tasks import SUITE

PLAIN, BAGGED, LINEAR, MC, FIRST, SECOND, DROPPED = (f"mt-{i}" for i in range(1, 8))
POOL = (
    "multitask.pool=[{}, {bagging: 0.5}, {head: linear}, {mc_passes: 4}, {seed: 1, snapshots: 2}, {dropout: 0.3}]",
    *("multitask.epochs=2", "select.top_k=7", "data.tasks=[nli,sentiment,similarity]", "data.teacher_tasks=[nli]"),
    "model.similarity_head=san",
)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """All members and a teacher of each. Read it, never write to it."""
    return go(Run(tmp_path_factory.mktemp("members") / "pool"), tiny(*POOL), last_stage="finetune")


@pytest.fixture(scope="module")
def trained(pool: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Training]]:
    """What each member gave to the training loop, and the run in which it was one step."""
    run = copy_of(pool, tmp_path_factory.mktemp("trained"))
    with pytest.MonkeyPatch.context() as patch:
        return run, trainings(run, pool.config, "multitask", patch)


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], only: str = "") -> bool:
    """Are all weights whose names start with `only` the same, bit by bit?"""
    mine, others = ({name: w for name, w in of.items() if name.startswith(only)} for of in (one, two))
    assert mine
    return mine.keys() == others.keys() and all(torch.equal(mine[name], others[name]) for name in mine)


def test_the_run_stops_after_the_last_stage_that_is_asked_for(pool: Finished) -> None:
    stages = Counter(record["stage"] for record in pool.manifest["jobs"].values())
    assert stages == {"prepare": 1, "multitask": 7, "select": 1, "finetune": 7}
    assert not (pool.run.path / "ensembles.json").exists()
    with pytest.raises(ValueError, match="stage 'finetun' is not known, expected one of prepare, pretrain, multitask"):
        go(pool.run, pool.config, last_stage="finetun")


# ---- what members share ---------------------------------------------------------------------------------------------
def test_members_of_one_seed_start_from_the_same_weights(trained: tuple[Run, dict[str, Training]]) -> None:
    of = {name: training.weights for name, training in trained[1].items()}
    for member in (BAGGED, MC, DROPPED):
        assert equal(of[PLAIN], of[member])
    assert equal(of[PLAIN], of[LINEAR], "encoder.")
    assert not equal(of[PLAIN], of[FIRST], "encoder.")
    assert not equal(of[PLAIN], of[FIRST], "heads.")
    # Dropout is drawn from a stream of the member's own.
    assert trained[1][PLAIN].generator == trained[1][MC].generator != trained[1][DROPPED].generator


def test_rows_are_drawn_with_replacement_for_bagging(pool: Finished, trained: tuple[Run, dict[str, Training]]) -> None:
    for task, bagged in trained[1][BAGGED].datas.items():
        whole = trained[1][PLAIN].datas[task]
        train, drawn = (data.example_ids[data.rows("train")].tolist() for data in (whole, bagged))
        assert (len(train), len(drawn)) == (120, 60)
        assert set(drawn) < set(train)
        # Of 60 draws from 120, about 12.5 hit a row that was drawn before; fewer than 3 would be a chance of 1e-5.
        assert 3 <= len(drawn) - len(set(drawn)) <= 25
        for split in ("selection", "dev", "test"):
            assert whole.example_ids[whole.rows(split)].tolist() == bagged.example_ids[bagged.rows(split)].tolist()
        rows = pq.read_table(pool.run.dynamics_path(BAGGED, task)).to_pylist()
        assert Counter((row["example_id"], row["epoch"]) for row in rows) == {
            (name, epoch): 1 for name in drawn for epoch in (0, 1)
        }
    nli, sentiment = (
        [name.split("/")[2] for name in data.example_ids[data.rows("train")]]
        for data in (trained[1][BAGGED].datas[task] for task in ("nli", "sentiment"))
    )
    assert nli != sentiment  # each task's rows are drawn from a stream of their own


def test_the_bagged_members_teacher_sees_every_row(pool: Finished) -> None:
    rows = pq.read_table(pool.run.dynamics_path("ft-2-nli", "nli"))["example_id"].to_pylist()
    assert len(set(rows)) == len(rows) == 120


# ---- heads ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", [LINEAR, "ft-3-nli"])
def test_a_linear_head_is_one_product(model: str, pool: Finished) -> None:
    tasks = resolve_tasks(pool.config)
    loaded, about = load_model(pool.run.model_dir(model), tasks)
    plain, _ = load_model(pool.run.model_dir(model.replace("3", "1")), tasks)
    head = loaded.heads[head_key("nli")]
    assert about["head_settings"]["pair_head"] == "linear"
    assert isinstance(head, LinearHead)
    assert isinstance(plain.heads[head_key("nli")], SanHead)
    assert {name: tuple(p.shape) for name, p in head.named_parameters()} == {"out.weight": (3, 32), "out.bias": (3,)}
    key = pool.manifest["jobs"]["prepare"]["key"]
    encoder = about["encoder"]
    data = load_task_data(pool.run, pool.config, encoder, tasks["nli"], prepare_key=key, device=CPU.device)
    rows = data.rows("dev")
    with torch.no_grad():
        batch = make_batch(data, rows)
        first_BH = batch.in_order(encode(loaded.encoder, batch, first_only=True))
        expected_BC = first_BH @ head.out.weight.T + head.out.bias
    stored = pool.run.read_predictions(model, "nli").on("dev")
    assert stored.example_ids.tolist() == data.example_ids[rows].tolist()
    np.testing.assert_allclose(stored.outputs, expected_BC.numpy(), rtol=0, atol=1e-5)  # another padding


def test_san_reads_both_texts_of_a_similarity_where_it_is_asked_to(pool: Finished, tmp_path: Path) -> None:
    """And a member with linear heads has one there too; what is exported answers as they do."""
    tasks = resolve_tasks(pool.config)
    assert (tasks["similarity"].head, SUITE["similarity"].head) == ("san", "similarity")
    assert pool.manifest["tasks"]["similarity"]["head"] == "san"
    for model, kind in ((PLAIN, SanHead), (LINEAR, LinearHead)):
        loaded, _ = load_model(pool.run.model_dir(model), tasks)
        assert type(loaded.heads[head_key("similarity")]) is kind
        assert pool.run.read_predictions(model, "similarity").outputs.std() > 0
        assert export(pool.run, model, tmp_path / model)["tasks"] == ["nli", "sentiment", "similarity"]


# ---- MC dropout -----------------------------------------------------------------------------------------------------
def test_mc_dropout_changes_what_is_predicted_and_nothing_that_is_trained(pool: Finished) -> None:
    assert equal(weights_of(pool.run, PLAIN), weights_of(pool.run, MC))
    model, about = load_model(pool.run.model_dir(MC), resolve_tasks(pool.config))
    assert about["mc_passes"] == 4
    nli = resolve_tasks(pool.config)["nli"]
    key = pool.manifest["jobs"]["prepare"]["key"]
    data = load_task_data(pool.run, pool.config, about["encoder"], nli, prepare_key=key, device=CPU.device)
    stored = pool.run.read_predictions(MC, "nli")
    rows = np.flatnonzero(data.splits != "train")
    assert stored.example_ids.tolist() == data.example_ids[rows].tolist()
    # nli is the first task: its passes are the first draws of the member's stream.
    torch.manual_seed(stream_seed(0, "multitask", about["encoder"], 0, "0.1", "mc_passes") % 2**63)
    passes = [predict(model, data, rows, CPU, mc_passes=1) for _ in range(4)]
    expected_NC = np.log(np.mean(softmax(passes, axis=-1), axis=0))
    np.testing.assert_allclose(stored.outputs, expected_NC, rtol=0, atol=2e-6)  # stored in float32
    plain = pool.run.read_predictions(PLAIN, "nli").outputs
    assert np.abs(log_softmax(plain, axis=-1) - stored.outputs).max() > 1e-3
    assert np.abs(passes[0] - passes[1]).max() > 1e-2


def test_the_teacher_of_an_mc_member_answers_so_too(pool: Finished) -> None:
    assert equal(weights_of(pool.run, "ft-4-nli"), weights_of(pool.run, "ft-1-nli"))
    plain, mc = (pool.run.read_predictions(f"ft-{i}-nli", "nli").outputs for i in (1, 4))
    assert np.abs(log_softmax(plain, axis=-1) - log_softmax(mc, axis=-1)).max() > 1e-3


# ---- snapshots ------------------------------------------------------------------------------------------------------
def test_a_snapshot_goes_on_from_the_one_before(trained: tuple[Run, dict[str, Training]]) -> None:
    run, of = trained
    assert equal(of[SECOND].weights, weights_of(run, FIRST))
    assert not equal(of[SECOND].weights, of[FIRST].weights)
    one, two = (of[member].options for member in (FIRST, SECOND))
    # A cycle of its own: half of the epochs, with a rise and a fall of the learning rate, and other batches.
    assert (one["train"].epochs, two["train"].epochs, of[PLAIN].options["train"].epochs) == (1, 1, 2)
    assert one["train"] == two["train"]
    assert one["names"] != two["names"]


def test_a_chain_is_redone_in_order_and_alone(pool: Finished, tmp_path: Path) -> None:
    """`--only multitask` of a run whose chain is not done: what the second needs is of the same stage."""
    run = copy_of(pool, tmp_path)
    before = {name: pq.read_table(run.predictions_path(name, "nli")) for name in (FIRST, SECOND)}
    manifest = run.manifest()
    for member in (FIRST, SECOND):
        del manifest["jobs"][member]
    run.write_manifest(manifest)
    n_ran = len(ran(run))
    after = go(run, pool.config, only_stage="multitask")
    order = ran(run, n_ran)
    assert sorted(order) == sorted(trained_members := [PLAIN, BAGGED, LINEAR, MC, FIRST, SECOND, DROPPED])
    assert order.index(FIRST) < order.index(SECOND) == len(trained_members) - 1
    for name, table in before.items():
        assert pq.read_table(run.predictions_path(name, "nli")).equals(table)
    assert keys(after.manifest) == keys(pool.manifest)
    assert {line["epoch"] for line in log_lines(run, event="progress", job=SECOND)} == {0}
