"""`python -m core`: run, status, report, predict; what they print, their exit codes, and a person's mistakes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from conftest import EVERYTHING, FOLDED, TINY, TINY_STAGES, Finished, ran
from transformers.utils.logging import enable_progress_bar
from typer.testing import CliRunner

from core.cli import app
from core.plan import STAGES, TRAINING_STAGES
from core.report import build_report
from core.store import Run
from core.tasks import SUITE

ROOT = Path(__file__).resolve().parents[1]
SETS = [part for item in TINY for part in ("--set", item)]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """The message of a call that must end with exit code 2, on standard error and without a traceback."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert "error" not in result.stdout
    assert result.stderr.startswith("error: ")
    return result.stderr.removeprefix("error: ").replace("\n", "")


# ---- run ------------------------------------------------------------------------------------------------------------
def test_run_goes_on_with_the_runs_own_config(copied: Run) -> None:
    """Without a preset, an existing run is brought up to date as it is, and `--set` changes only what it says."""
    result = call("run", "--out", copied.path)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("up to date") == len(TINY_STAGES)
    assert "Score x 100" in result.stdout
    assert f"Next: python -m core report {copied.path} --full" in result.stdout.replace("\n", "")
    n_ran = len(ran(copied))
    result = call("run", "--out", copied.path, "--set", "evaluate.resamples=120")
    assert result.exit_code == 0, result.output
    assert ran(copied, n_ran) == ["evaluate"]
    config = copied.manifest()["config"]
    assert (config["preset"], config["evaluate"]["resamples"], config["distill"]["seeds"]) == ("smoke", 120, 2)
    message = refused("run", "--out", copied.path, "--preset", "smoke")
    assert "holds a run of another config (" in message
    assert "data.n_train: 160 -> 300" in message
    assert message.endswith("Give another --out, or --update to redo them here")


def test_run_only_and_from(copied: Run) -> None:
    n_ran = len(ran(copied))
    assert call("run", "--out", copied.path, "--only", "evaluate").exit_code == 0
    assert ran(copied, n_ran) == ["evaluate"]
    result = call("run", "--out", copied.path, "--set", "finetune.lr=0.001", "--only", "finetune")
    assert result.exit_code == 0, result.output
    assert "Score x 100" not in result.stdout  # there are no results of this config yet, and that is no error
    assert f"Next: python -m core run --out {copied.path}" in result.stdout.replace("\n", "")
    assert "exclude each other" in refused("run", "--out", copied.path, "--from", "select", "--only", "select")
    assert "stage 'distil' is not known" in refused("run", "--out", copied.path, "--from", "distil")


def test_own_tasks_by_yaml(tmp_path: Path) -> None:
    """A YAML file beside its CSV files, with train and dev alone."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 80), ("dev", 30)):
        toxic = rng.integers(2, size=n)
        lines = [f'"you are {("lovely", "awful")[t]}, reader {i}",{("fine", "toxic")[t]}' for i, t in enumerate(toxic)]
        (tmp_path / f"{split}.csv").write_text("comment,rating\n" + "\n".join(lines) + "\n", encoding="utf-8")
    own = tmp_path / "my_tasks.yaml"
    own.write_text(
        "toxicity:\n  files: {train: train.csv, dev: dev.csv}\n  text_a: comment\n  label: rating\n"
        "  labels: [fine, toxic]\n  has_teacher: true\n",
        encoding="utf-8",
    )
    run = Run(tmp_path / "run")
    result = call("run", "--preset", "smoke", "--out", run.path, "--tasks", own, *SETS, "--set", "data.selection=20")
    assert result.exit_code == 0, result.output
    assert re.search(r"^ toxicity \* ", result.stdout, re.M)
    assert run.manifest()["config"]["evaluate"]["split"] == "dev"
    own.unlink()
    # Everything that reads a run does so without the files that it was made from.
    asked = ("--run", run.path, "--model", "st-kd-s0", "--task", "toxicity", "--text", "you are awful")
    assert call("predict", *asked).exit_code == 0
    assert call("status", run.path).exit_code == 0
    assert call("report", run.path).exit_code == 0


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("five years", encoding="utf-8")
    assert "holds no run; give an empty or new folder to --out" in refused(
        "run", "--preset", "smoke", "--out", tmp_path
    )
    for command in ("status", "report"):
        assert "is not a run directory: it has no run.json. Make one with" in refused(command, tmp_path)
    (tmp_path / "run.json").write_text("{", encoding="utf-8")
    assert "run.json is not valid JSON" in refused("status", tmp_path)


def test_a_dry_run_writes_nothing(tmp_path: Path, smoke: Finished) -> None:
    result = call("run", "--preset", "smoke", "--out", tmp_path / "run", *SETS, "--dry-run")
    assert result.exit_code == 0, result.output
    assert all(stage in result.stdout for stage in STAGES)
    assert not (tmp_path / "run").exists()
    before = {path: path.stat().st_mtime_ns for path in smoke.run.path.rglob("*")}
    result = call("run", "--out", smoke.run.path, "--set", "distill.alpha=0.9", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "up to date" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in smoke.run.path.rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "jobs"),
    [
        # Members, teachers, the ensemble and two soups; seven variants, one generation more, three tasks fine-tuned.
        (EVERYTHING, (1, 0, 5, 1, 6, 3, 2 * (7 + 1 + 3), 1)),
        # Four teachers, and for each of two folds two members with two teachers each.
        (FOLDED, (1, 0, 2, 1, 4 + 2 * (2 + 4), 1, 3, 1)),
        (("pretrain.objective=rtd",), (1, 1, 3, 1, 8, 1, 4, 1)),
    ],
    ids=["everything", "folded", "pretrained"],
)
def test_a_dry_run_counts_every_kind_of_job(options: tuple[str, ...], jobs: tuple[int, ...], tmp_path: Path) -> None:
    sets = [part for option in options for part in ("--set", option)]
    result = call("run", "--preset", "smoke", "--out", tmp_path / "run", *SETS, *sets, "--dry-run")
    assert result.exit_code == 0, result.output
    for stage, n in zip(STAGES, jobs, strict=True):
        to_run = str(n) if n else "up to date"
        found = re.search(rf"{stage}\W+{n}\W+{to_run}\W+([\d,]+)?", result.stdout)
        assert found, stage
        # What trains has steps to count.
        assert (found[1] is not None) == (n > 0 and stage in TRAINING_STAGES), stage


def test_a_stop_by_hand_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("core.commands.runs.run_pipeline", stopped)
    result = call("run", "--preset", "smoke", "--out", tmp_path / "run")
    assert result.exit_code == 130
    assert "stopped; the same command goes on from the last checkpoint" in result.stderr


def test_a_traceback_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_TRACEBACK", "1")
    assert isinstance(call("status", tmp_path).exception, ValueError)


def test_what_typer_says_itself() -> None:
    assert call().exit_code == 2
    assert "Missing option '--out'" in call("run").stderr
    help_text = call("run", "--help").stdout
    for option in ("--preset", "--out", "--set", "--config", "--tasks", "--from", "--only", "--dry-run", "--update"):
        assert option in help_text


# ---- status and report ----------------------------------------------------------------------------------------------
def test_status_of_a_finished_and_a_half_finished_run(copied: Run) -> None:
    lines = call("status", copied.path).stdout.splitlines()
    assert any(re.fullmatch(r"\W*pretrain\W+0/0\W+done\W*", line) for line in lines)
    for stage, n in zip(TINY_STAGES, (1, 3, 1, 8, 1, 4, 1), strict=True):
        assert any(re.fullmatch(rf"\W*{stage}\W+{n}/{n}\W+[\d.]+\W+done\W*", line) for line in lines), stage
    manifest = copied.manifest()
    for name in ("evaluate", "st-kd-s1", "st-kd-s0", "st-hard-s1"):
        del manifest["jobs"][name]
    copied.write_manifest(manifest)
    text = call("status", copied.path).stdout
    assert re.search(r"distill .*1/4 .*1 of 4", text)
    assert re.search(r"evaluate .*0/1 .*to do", text)
    for name in ("select", "ensemble", *(name for name in manifest["jobs"] if name.startswith("ft-"))):
        del manifest["jobs"][name]
    copied.write_manifest(manifest)
    assert re.search(r"finetune .*0/8 .*to do", call("status", copied.path).stdout)


def test_report_as_table_and_json(smoke: Finished) -> None:
    plain, full = (call("report", smoke.run.path, *more).stdout for more in ((), ("--full",)))
    assert "Distillation on tasks with a teacher:" in plain
    assert "Accuracy x 100" not in plain
    assert "Accuracy x 100" in full
    assert max(map(len, full.splitlines())) <= 110
    result = call("report", smoke.run.path, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json.loads(json.dumps(build_report(smoke.run)))


def test_report_as_a_picture(smoke: Finished, tmp_path: Path) -> None:
    result = call("report", smoke.run.path, "--svg", tmp_path / "table.svg")
    assert result.exit_code == 0, result.output
    picture = (tmp_path / "table.svg").read_text(encoding="utf-8")
    assert picture.startswith("<svg")
    assert "sentiment" in picture


# ---- pretrain -------------------------------------------------------------------------------------------------------
def test_pretrain_tells_what_it_made_and_shows_its_own_bar_alone(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"a soup of {word} is a good soup" for word in ("leek", "bean", "corn") * 20))
    enable_progress_bar()  # of transformers: an earlier test of this process may have put it off
    result = call(
        *("pretrain", "--text", text, "--objective", "mlm", "--tokenizer", "word", "--out", tmp_path / "encoder"),
        *("--encoder", "random:bert(layers=1,hidden=32,heads=2,ffn=64)", "--set", "max_length=8"),
    )
    assert result.exit_code == 0, result.output
    assert "tokens. Held out: mlm_loss " in " ".join(result.stdout.split())
    assert "shards" not in result.output
    assert (tmp_path / "encoder" / "model.safetensors").exists()


# ---- predict --------------------------------------------------------------------------------------------------------
def test_predict_equals_the_stored_logits(smoke: Finished) -> None:
    run = smoke.run
    for model, task in (
        ("st-kd-s0", "nli"),
        ("mt-2", "relevance"),
        ("st-hard-s1", "sentiment"),
        ("mt-1", "similarity"),
    ):
        row = next(row for row in run.read_examples(task).to_pylist() if row["split"] == "test")
        stored = run.read_predictions(model, task)
        [output] = stored.outputs[stored.example_ids == row["example_id"]]
        texts = ["--text", row["text_a"]]
        texts += ["--text-b", row["text_b"]] if SUITE[task].is_pair else []
        texts += [part for one in row.get("candidates") or () for part in ("--candidate", one)]
        result = call("predict", "--run", run.path, "--model", model, "--task", task, *texts, "--json")
        assert result.exit_code == 0, result.output
        answer = json.loads(result.stdout)
        # Another batch, another padding: sums of float32 in another order, on logits of size one.
        if task == "similarity":
            assert answer == {"probs": {}, "value": pytest.approx(float(output), abs=1e-5), "low": 0.0, "high": 5.0}
        else:
            assert list(answer["probs"]) == (row.get("candidates") or list(SUITE[task].labels))
            e = np.exp(output.astype(np.float64) - output.max())
            np.testing.assert_allclose(list(answer["probs"].values()), e / e.sum(), rtol=0, atol=1e-5)
            assert sum(answer["probs"].values()) == pytest.approx(1, abs=1e-9)  # computed in float64


def test_predict_draws_bars(smoke: Finished) -> None:
    asked = ("--run", smoke.run.path, "--model", "st-kd-s0", "--task")
    lines = call("predict", *asked, "sentiment", "--text", "a lovely soup").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(SUITE["sentiment"].labels)
    assert sum(float(line.split()[1]) for line in lines) == pytest.approx(100, abs=0.25)  # five numbers, one digit each
    candidates = [part for one in ("[red] a", "b", "c", "d") for part in ("--candidate", one)]
    lines = call("predict", *asked, "relevance", "--text", "which soup?", *candidates).stdout.splitlines()
    assert lines[0].startswith("[red] a")
    line = call("predict", *asked, "similarity", "--text", "a soup", "--text-b", "a broth").stdout
    assert re.fullmatch(r"-?\d+\.\d\d on a scale from 0 to 5\n", line)


@pytest.mark.parametrize(
    ("model", "task", "texts", "message"),
    [
        ("st-kd-s9", "nli", ["--text", "a", "--text-b", "b"], "has no model 'st-kd-s9'; did you mean 'st-kd-s"),
        ("ens-mean_probs", "nli", ["--text", "a", "--text-b", "b"], "has no model 'ens-mean_probs'"),
        ("st-kd-s0", "nlu", ["--text", "a", "--text-b", "b"], "task 'nlu' is not known; did you mean 'nli'?"),
        ("st-kd-s0", "rte", ["--text", "a", "--text-b", "b"], "task 'rte' is not known"),
        ("st-kd-s0", "nli", ["--text", "a"], "task 'nli' needs a second text: give --text-b"),
        ("st-kd-s0", "nli", ["--text", " ", "--text-b", "b"], "--text is empty; task 'nli' needs words"),
        ("st-kd-s0", "nli", ["--text", "a", "--text-b", ""], "--text-b is empty; task 'nli' needs words"),
        ("st-kd-s0", "sentiment", ["--text", "a", "--text-b", "b"], "reads one text: leave --text-b out"),
        ("st-kd-s0", "sentiment", ["--text", "a", "--candidate", "b"], "is no ranking task; --candidate does not fit"),
        ("st-kd-s0", "relevance", ["--text", "a"], "task 'relevance' ranks 4 candidates, got 0; repeat --candidate"),
        ("st-kd-s0", "relevance", ["--text", "a", *["--candidate", "x"] * 3], "ranks 4 candidates, got 3"),
        ("st-kd-s0", "relevance", ["--text", "a", *["--candidate", "x"] * 4], "--candidate repeats a text: ['x', 'x'"),
        ("st-kd-s0", "relevance", ["--text", "a", *["--candidate", ""] * 4], "--candidate is empty"),
    ],
)
def test_mistakes_in_predict(model: str, task: str, texts: list[str], message: str, smoke: Finished) -> None:
    assert message in refused("predict", "--run", smoke.run.path, "--model", model, "--task", task, *texts)


def test_a_teacher_has_one_head(smoke: Finished) -> None:
    teacher = next(name for name in smoke.manifest["jobs"] if name.startswith("ft-") and name.endswith("nli"))
    message = refused("predict", "--run", smoke.run.path, "--model", teacher, "--task", "sentiment", "--text", "a")
    assert message == f"model '{teacher}' has no head for 'sentiment'; it has: nli"


def test_predict_without_weights(copied: Run, tmp_path: Path) -> None:
    (copied.model_dir("mt-1") / "model.json").unlink()
    asked = ("--task", "sentiment", "--text", "a", "--model", "mt-1", "--run")
    assert "holds no complete model (no model.json); re-run the stage" in refused("predict", *asked, copied.path)
    assert "is not a run directory" in refused("predict", *asked, tmp_path / "none")


# ---- as a program ---------------------------------------------------------------------------------------------------
def test_the_program_reports_without_torch_and_ends_with_its_code(smoke: Finished, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom core.cli import main\ntry: main()\nfinally:\n"
        "    print(sorted({'torch', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "report", str(smoke.run.path), "--json"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    assert json.loads(done.stdout)["preset"] == "smoke"
    done = subprocess.run(
        [sys.executable, "-m", "core", "status", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_metrics_of_the_run_are_what_the_json_reports(smoke: Finished) -> None:
    """One number followed from the file to standard output."""
    rows = pq.read_table(smoke.run.path / "metrics.parquet").to_pylist()
    wanted = {"model": "ens-mean_probs", "task": "nli", "split": "test", "metric": "accuracy"}
    [row] = [row for row in rows if wanted.items() <= row.items()]
    table = json.loads(call("report", smoke.run.path, "--json").stdout)["tables"]["accuracy"]
    assert next(line for line in table if line["name"] == "nli")["ensemble"]["mean"] == row["value"]
