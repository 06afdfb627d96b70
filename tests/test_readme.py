"""Every command of the README: those that can run here run, on a small run of their own, in the order in which they
stand; of the others it is said why not. A command in neither table fails.

Run names, presets and files are put in the place of the README's by `INSTEAD`; what is executed is else the README's
own words.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import TINY
from test_cli import call

from core.store import Run

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

STARTS = (
    "python -m",
    "torchrun ",
    "accelerate ",
    "cat ",
    "echo ",
    "make ",
    "papermill ",
    "mkdir ",
    "printf ",
    "streamlit ",
    "pip ",
    "jupyter ",
)
TASKS = "data.tasks=[nli,sentiment]"
SMALL = (*TINY, "multitask.dropouts=[0.1,0.2]")
SET = " ".join(f"--set '{item}'" for item in (*SMALL, TASKS, "distill.seeds=1"))
SET_OF_OWN = " ".join(f"--set '{item}'" for item in (*SMALL, "distill.seeds=1"))
SET_OF_EXPERIMENT = " ".join(f"--set '{item}'" for item in (*SMALL, TASKS) if "distill.seeds" not in item)
OWN = {"docs/own-task": str(ROOT / "docs" / "own-task")}

# Command -> what is put in the place of its words. Executed in this order, on one run.
INSTEAD: dict[str, dict[str, str]] = {
    "python -m core run --preset smoke --out runs/x": {"--preset smoke": f"--preset smoke {SET}"},
    "python -m core status runs/x": {},
    "python -m core report runs/x --full": {},
    "python -m core run --out runs/x --set distill.alpha=0.3 --update": {},
    "python -m core run --out runs/x --from distill": {},
    "python -m core verify runs/x": {},
    "python -m core config distill": {},
    "python -m core config --preset paper": {},
    "python -m core run --preset demo --out runs/y --dry-run": {"--preset demo": f"--preset smoke {SET}"},
    "python -m core plan --preset paper --gpus 64": {},
    "python -m core plan --preset demo --gpus 2 --from-run runs/x": {},
    # Up to date, so that no cluster starts; test_ray.py has a real one.
    "python -m core run --preset smoke --out runs/x --engine ray": {"--preset smoke ": ""},
    'python -m core predict --run runs/x --model st-kd-s0 --task nli --text "most guests loved the soup" '
    '--text-b "some guests liked the broth"': {},
    "printf 'text_a\\ttext_b\\nthe soup was good\\tthe broth was fine\\n' > pairs.tsv": {},
    "python -m core predict --run runs/x --model st-kd-s0 --in pairs.tsv --out said.parquet": {},
    """echo '{"review": "the soup was lovely"}' > reviews.jsonl""": {},
    "cat reviews.jsonl | python -m core predict --run runs/x --model st-kd-s0 --in - "
    "--column text_a=review > said.jsonl": {},
    "python -m core export --run runs/x --model st-kd-s0 --task sentiment --out exported/sentiment": {},
    "python -m core export --run runs/x --model st-kd-s0 --out exported/student": {},
    "papermill notebooks/6_distill.ipynb out.ipynb -k python3 -p run_dir runs/x -p alpha 0.3": {},
    # All eight run in test_notebooks, and twice.
    "mkdir -p reports && python -m core notebooks --run runs/x --out reports --html reports/pages": {
        "--out reports ": "--out reports --only 3_select "
    },
    # One cell, of which the base has everything; a real sweep runs in test_sweep, and is killed there.
    "python -m core sweep --run runs/x --out runs/sweep -p alpha=0,0.25,0.5,0.75,1 -p temperature=1,2,4 -p loss=kl "
    "--jobs 2": {"-p alpha=0,0.25,0.5,0.75,1 -p temperature=1,2,4 -p loss=kl": "-p alpha=0.3"},
    "python -m core experiment controls --data-seeds 17,18,19": {
        "controls --data-seeds 17,18,19": f"distilled --preset smoke --data-seeds 1 --seeds 1 {SET_OF_EXPERIMENT}"
    },
    "python -m core tasks check docs/own-task/my_tasks.yaml": OWN,
    "python -m core run --preset smoke --tasks docs/own-task/my_tasks.yaml --out runs/mine": {
        **OWN,
        "--preset smoke": f"--preset smoke {SET_OF_OWN}",
    },
    "python -m core run --preset smoke --out runs/roberta --set "
    """'multitask.encoders=["random:roberta(layers=2,hidden=64,heads=2)"]'""": {"--out": "--dry-run --out"},
    "python -m benchmarks.stages runs/demo": {"runs/demo": "runs/x"},
    "python -m core pretrain --text text.txt --objective rtd --out encoders/small --encoder "
    "'random:bert(layers=2,hidden=64,heads=2)'": {
        "layers=2,hidden=64,heads=2": "layers=1,hidden=32,heads=2",
        "--objective": "--set epochs=1 --tokenizer word --objective",
    },
}
# Command -> why it does not run here.
ELSEWHERE = {
    "python -m core run --preset glue-small --set data.glue_dir=FOLDER --set data.max_train=1000 --out runs/glue": (
        "needs GLUE's files; test_glue.py runs the preset on them, or on imitations"
    ),
    "python -m core submit --run runs/glue --model st-kd-s0 --out glue.zip": "needs GLUE; test_submission.py runs it",
    "python -m core run --preset glue-base --out SHARED/base --engine ray --ray-address auto": (
        "needs the hub and a cluster; test_ray.py runs another preset on one of this machine"
    ),
    "pip install --constraint constraints.txt --editable '.[ray]'": "a part of what `make test` installs",
    "python -m core run --preset glue-base --out runs/base": "needs the hub, and hours on a GPU",
    "torchrun --nproc-per-node 4 -m core run --preset glue-base --out runs/base": "the same, on four",
    "accelerate launch --multi_gpu --num_processes 4 -m core run --preset glue-base --out runs/base": (
        "the same; test_parallel.py launches smaller runs with both"
    ),
    "python -m core import-predictions --out runs/berts --task snli --examples DATA/snli/dev.jsonl "
    "--model bert-0=DATA/teacher_logits/snli_dev_bert-base-uncased.parquet@seed=0 "
    "--model bert-1=DATA/teacher_logits/snli_dev_bert-base-uncased.parquet@seed=1 "
    "--humans DATA/humans/chaosNLI_snli.jsonl": "needs data; test_importing.py runs it on made files, and on these",
    "python -m benchmarks.million FOLDER": "takes minutes and gigabytes",
    "python -m benchmarks.pages FOLDER": "takes minutes, and starts a server",
    "python -m benchmarks.soak FOLDER": "twenty sessions for ten minutes, on a large run",
    "python -m benchmarks.quality FOLDER": "trains ten members; test_benchmark trains two small ones",
    "python -m benchmarks.memory": "test_benchmark counts a small shape",
    "python -m benchmarks.box FOLDER": "draws in a browser on a large run; tests/browser draws on a small one",
}
# Targets of the Makefile: `make -n` says here what each would do.
MAKE = "sets up a .venv of its own from a package registry; CI runs `make test` on a fresh clone"


def in_shell(line: str) -> subprocess.CompletedProcess[str]:
    """As a person's shell runs it, with this Python's environment activated."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environ)


def commands() -> list[str]:
    """Of code blocks, and of inline code; without comments, continued lines joined, white space as one blank."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        found += re.sub(r"\\\n", " ", block).splitlines() if language in ("", "bash", "sh", "console") else []
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    found += re.findall(r"`([^`]+)`", prose)
    plain = (re.sub(r"\s+#\s.*", "", " ".join(line.split())) for line in found)
    plain = (line.removeprefix(".venv/bin/") for line in plain)
    return list(dict.fromkeys(line for line in plain if f"{line} ".startswith(STARTS)))


def test_every_command_is_known() -> None:
    asked = commands()
    assert len(asked) >= 20, "the README's commands are found"
    unknown = [command for command in asked if not command.startswith("make")]
    unknown = [command for command in unknown if command not in INSTEAD and command not in ELSEWHERE]
    assert unknown == [], "put it into INSTEAD to have it executed, or into ELSEWHERE with the reason"
    assert [command for command in (*INSTEAD, *ELSEWHERE) if command not in asked] == [], "not in the README any more"


def test_the_three_ways_of_running_notebooks_are_among_them() -> None:
    asked = commands()
    assert "make lab" in asked
    assert any(command.startswith("papermill notebooks/6_distill.ipynb") for command in asked)
    assert any("python -m core notebooks --run" in command for command in asked)


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("make")])
def test_make_has_the_target(command: str) -> None:
    assert MAKE
    done = subprocess.run(["make", "-n", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_what_can_run_here_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    (tmp_path / "text.txt").write_text(
        "most guests loved the soup\nsome guests liked the broth\n" * 40, encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    for command, instead in INSTEAD.items():
        for said, meant in instead.items():
            assert said in command, f"{said!r} is not in {command!r}"
            command = command.replace(said, meant)
        for part in command.split(" && "):
            # Notebooks take relative folders from the project's root.
            words = [word if word != "runs/x" else str(tmp_path / "runs/x") for word in shlex.split(part)]
            if words[1:3] == ["-m", "core"]:
                done = call(*words[3:])
                assert done.exit_code == 0, f"{part}\n{done.output}"
            else:
                ended = in_shell(part if words[0] != "papermill" else shlex.join(words))
                assert ended.returncode == 0, f"{part}\n{ended.stderr}"
    assert (tmp_path / "out.ipynb").exists()
    assert pq.read_table(tmp_path / "said.parquet")["nli"].to_pylist()
    assert json.loads((tmp_path / "said.jsonl").read_text(encoding="utf-8"))["sentiment"]
    assert Run(tmp_path / "runs" / "mine").manifest()["tasks"].keys() == {"toxicity"}
    assert (tmp_path / "reports" / "pages" / "3_select.html").exists()
    assert (tmp_path / "runs" / "sweep" / "sweep.html").exists()
