"""`finetune.imported`: students of predictions that were made elsewhere, whole and on a part of the training rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import Finished, go, ran, tiny
from scipy.special import log_softmax
from test_students import TAUGHT, cross_entropy, looked_at

from core.checks import check_imported
from core.report import build_report
from core.stages.imported import predictions_of
from core.store import Predictions, Run, lists_to_rows
from core.tasks import SUITE

ENSEMBLE = "ens-mean_probs"
VARIANTS = "distill.variants=[hard,kd,cwtm,dkpp,adaptive_smoothing]"
SMALL = (
    *("data.tasks=[sentiment,nli,similarity]", "multitask.dropouts=[0.1]", "select.top_k=1", "distill.seeds=1"),
    VARIANTS,
)


def known_in_part(source: Finished, folder: Path) -> Run:
    """A copy of a finished run whose ensemble knows every second training row, and of the other splits only `test`."""
    run = Run(shutil.copytree(source.run.path, folder / "source"))
    for task in TAUGHT:
        whole = run.read_predictions(ENSEMBLE, task)
        nth = np.arange(len(whole.splits))
        kept = (whole.splits == "test") | ((whole.splits == "train") & (nth % 2 == 0))
        run.write_predictions(ENSEMBLE, SUITE[task], Predictions(*(part[kept] for part in whole[:3]), whole.labels))
    return run


@pytest.fixture(scope="module")
def taught(smoke: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Finished]:
    folder = tmp_path_factory.mktemp("imported")
    source = known_in_part(smoke, folder)
    return source, go(Run(folder / "run"), tiny(*SMALL, f"finetune.imported=[{source.path}/{ENSEMBLE}]"))


def test_known_rows_have_the_teachers_and_others_gold_alone(taught: tuple[Run, Finished], tmp_path: Path) -> None:
    source, finished = taught
    students = looked_at(finished, tmp_path)
    for task in TAUGHT:
        given = source.read_predictions(ENSEMBLE, task)
        logits = dict(zip(given.example_ids, log_softmax(given.outputs.astype(float), -1), strict=True))
        gold_term_N, known = students.losses("st-hard-s0", task)
        has_N = np.array([name in logits for name in known["ids"]])
        assert 0 < has_N.sum() < len(has_N)
        teacher_NC = np.exp([logits[name] for name in known["ids"][has_N]])
        soft_N = cross_entropy(teacher_NC, known["log_q"][has_N])
        weight_N = teacher_NC.max(-1)
        expected = {"kd": (gold_term_N[has_N] + soft_N) / 2, "cwtm": weight_N / weight_N.mean() * gold_term_N[has_N]}
        for variant in ("kd", "cwtm", "dkpp", "adaptive_smoothing"):
            loss_N = students.losses(f"st-{variant}-s0", task)[0]
            assert np.isfinite(loss_N).all()
            np.testing.assert_array_equal(loss_N[~has_N], gold_term_N[~has_N])
            if variant in expected:  # float32 targets, losses of order 1
                np.testing.assert_allclose(loss_N[has_N], expected[variant], rtol=0, atol=2e-6)


def test_the_teacher_is_copied_by_id_and_no_teacher_is_trained(taught: tuple[Run, Finished]) -> None:
    source, (run, config, manifest, shown) = taught
    assert {"ft-1-sentiment", "ft-1-nli"} <= set(ran(run))
    assert not run.model_dir("ft-1-nli").exists()
    given, stored = source.read_predictions(ENSEMBLE, "nli"), run.read_predictions("ft-1-nli", "nli")
    assert set(stored.splits) == {"train", "test"}
    by_id = dict(zip(given.example_ids, given.outputs, strict=True))
    np.testing.assert_array_equal(stored.outputs, [by_id[name] for name in stored.example_ids])
    targets = pq.read_table(run.targets_path("nli"))
    assert set(targets["example_id"].to_pylist()) == set(stored.example_ids[stored.splits == "train"])
    assert set(targets["in_sample"].to_pylist()) == {None}
    assert np.isfinite(lists_to_rows(targets["logits"])).all()
    assert "training rows of 'nli'; the others have gold alone" in shown
    row = next(row for row in build_report(run)["tables"]["score"] if row["name"] == "nli")
    assert {"single", "ensemble", "hard", "kd"} <= row.keys()
    assert "best_teacher" not in row  # no predictions on the split that says which is best
    go(run, config)
    assert len(ran(run)) == len(manifest["jobs"])  # up to date: nothing again


def test_new_predictions_teach_anew(taught: tuple[Run, Finished], tmp_path: Path) -> None:
    source, finished = taught
    run = Run(shutil.copytree(finished.run.path, tmp_path / "run"))
    given = source.read_predictions(ENSEMBLE, "nli")
    copy = Run(shutil.copytree(source.path, tmp_path / "source"))
    copy.write_predictions(ENSEMBLE, SUITE["nli"], given._replace(outputs=given.outputs + np.float32([1, 0, 0])))
    config = tiny(*SMALL, f"finetune.imported=[{copy.path}/{ENSEMBLE}]")
    with pytest.raises(ValueError, match="holds a run of another config"):
        go(run, config)


def test_what_is_refused(taught: tuple[Run, Finished], tmp_path: Path) -> None:
    source, _ = taught
    for path, says in (
        ("mean_probs", "expected RUN/MODEL"),
        (f"{tmp_path}/nowhere/{ENSEMBLE}", "there is no .*examples/sentiment.arrow: finetune.imported has"),
        (f"{source.path}/ens-other", "there is no .*ens-other/sentiment.parquet"),
    ):
        with pytest.raises(ValueError, match=says):
            go(Run(tmp_path / "run"), tiny(*SMALL, f"finetune.imported=[{path}]"))
    with pytest.raises(ValueError, match="out_of_fold"):
        check_imported((f"{source.path}/{ENSEMBLE}",), "out_of_fold")
    # Other texts under the same ids: here another draw of the suite.
    other = tiny(*SMALL, "data.seed=5", f"finetune.imported=[{source.path}/{ENSEMBLE}]")
    with pytest.raises(ValueError, match=r"has another 'text_a' than this run in .* examples of task 'sentiment'"):
        go(Run(tmp_path / "other"), other)
    assert not ran(Run(tmp_path / "other"))  # before anything is trained
    empty = Run(shutil.copytree(source.path, tmp_path / "source"))
    given = empty.read_predictions(ENSEMBLE, "nli").on("test")
    empty.write_predictions(ENSEMBLE, SUITE["nli"], given)
    with pytest.raises(ValueError, match="knows none of the 120 training rows of task 'nli'"):
        predictions_of(source, SUITE["nli"], f"{empty.path}/{ENSEMBLE}")
