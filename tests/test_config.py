"""Presets, overrides, unknown keys and values, digests and differences. What must hold between fields is in
test_config_checks.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from core.config import Config, differences, digest, resolve_tasks, stored_tasks, validated
from core.presets import PRESETS, load_config
from core.tasks import GLUE, SUITE

OWN_TASKS = """
toxicity:
  files: {train: train.csv, dev: dev.csv}
  text_a: comment
  labels: [fine, toxic]
  has_teacher: true
stars:
  kind: regression
  files: {train: stars.csv, dev: stars_dev.csv}
  text_a: review
  text_b: answer
  score_range: [1, 5]
"""


@pytest.fixture
def tasks_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_tasks.yaml"
    path.write_text(OWN_TASKS, encoding="utf-8")
    return path


def yaml_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# ---- presets --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", PRESETS)
def test_presets_build_and_survive_json(name: str) -> None:
    config = load_config(name)
    assert config.preset == name
    tasks = resolve_tasks(config)
    assert list(tasks) == list(config.data.tasks)
    assert sum(task.has_teacher for task in tasks.values()) == 4
    assert len(config.multitask.members) >= config.select.top_k
    assert validated(config.model_dump(mode="json")) == config


def test_the_paper_preset_has_the_papers_numbers() -> None:
    config = load_config("paper")
    assert len(config.multitask.members) == 6
    assert {member["dropout"] for member in config.multitask.members.values()} == {0.1, 0.2, 0.3}
    assert config.select.top_k == 3
    assert [name for name, task in resolve_tasks(config).items() if task.has_teacher] == ["qqp", "mnli", "qnli", "rte"]
    assert list(config.data.tasks) == list(GLUE)
    for train in (config.multitask, config.finetune, config.distill):
        assert (train.optimizer, train.lr, train.batch_size, train.epochs) == ("adamax", 5e-5, 32, 5)
        assert (train.warmup_frac, train.clip_norm, train.weight_decay) == (0.1, 1.0, 0.01)
    assert (config.distill.loss, config.distill.alpha, config.distill.schedule) == ("soft_ce", 0.5, None)
    assert {config.teaching(task).temperature for task in resolve_tasks(config).values()} == {1.0}
    assert config.model.max_length == 512


def test_demo_is_the_default_and_a_runs_own_config_the_base() -> None:
    assert load_config() == load_config("demo")
    base = load_config("smoke", None, ["distill.alpha=0.25"])
    more = load_config(None, None, ["distill.seeds=4"], base=base)
    assert (more.preset, more.distill.alpha, more.distill.seeds) == ("smoke", 0.25, 4)
    # A preset that is asked for is that preset.
    assert load_config("smoke", base=base) == load_config("smoke")


def test_members_are_the_grid_in_a_fixed_order() -> None:
    config = load_config("smoke", None, ["multitask.seeds=[0,5]", "multitask.dropouts=[0.1,0.3]"])
    got = {name: (member["seed"], member["dropout"]) for name, member in config.multitask.members.items()}
    assert got == {"mt-1": (0, 0.1), "mt-2": (0, 0.3), "mt-3": (5, 0.1), "mt-4": (5, 0.3)}
    two = load_config("smoke", None, ["distill.encoder=other/encoder"])
    assert two.student_encoder == "other/encoder"
    assert two.encoders == (*config.multitask.encoders, "other/encoder")
    assert config.student_encoder == config.multitask.encoders[0]


def test_without_a_word_about_them_members_are_the_papers_two_encoders_by_three_dropouts() -> None:
    config = load_config("paper")
    grid = [(encoder, dropout) for encoder in config.multitask.encoders for dropout in (0.1, 0.2, 0.3)]
    members = config.multitask.members
    assert [(member["encoder"], member["dropout"]) for member in members.values()] == grid
    assert list(members) == ["mt-1", "mt-2", "mt-3", "mt-4", "mt-5", "mt-6"]
    for (encoder, dropout), member in zip(grid, members.values(), strict=True):
        assert member == {
            **{"encoder": encoder, "dropout": dropout, "seed": 0, "lr": 5e-5, "clip_norm": 1.0, "epochs": 5},
            **{"head": None, "bagging": None, "mc_passes": 0, "cycle": 0, "continues": None},
        }


def test_snapshots_are_a_chain_of_members() -> None:
    pool = "multitask.pool=[{seed: 4}, {lr: 0.1, snapshots: 3, dropout: 0}, {seed: 5, clip_norm: 2}]"
    grid = ["multitask.epochs=6", "multitask.dropouts=[0.3,0.2]", "multitask.seeds=[7]"]
    members = load_config("smoke", None, [*grid, pool]).multitask.members
    columns = ("seed", "dropout", "lr", "clip_norm", "epochs", "cycle", "continues")
    assert {name: tuple(member[column] for column in columns) for name, member in members.items()} == {
        "mt-1": (4, 0.3, 2e-3, 1.0, 6, 0, None),
        "mt-2": (7, 0.0, 0.1, 1.0, 2, 0, None),
        "mt-3": (7, 0.0, 0.1, 1.0, 2, 1, "mt-2"),
        "mt-4": (7, 0.0, 0.1, 1.0, 2, 2, "mt-3"),
        "mt-5": (5, 0.3, 2e-3, 2.0, 6, 0, None),
    }


# ---- overrides ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("distill.lr=1e-3", 0.001),  # YAML 1.1 reads this as a text
        ("distill.lr=2", 2.0),
        ("multitask.dropouts=[0, 0.5]", (0.0, 0.5)),
        ("multitask.seeds=[3, 4]", (3, 4)),
        ("data.tasks=[nli, sentiment]", ("nli", "sentiment")),
        ("data.max_train=100", 100),
        ("data.max_train=", None),
        ("data.max_train=null", None),
        ("data.selection=0.25", 0.25),
        ("runtime.keep_models=false", False),
        ("model.tokenizer=wordpiece(vocab=500)", "wordpiece(vocab=500)"),
        ("distill.encoder=random:bert(layers=1,hidden=16,heads=1)", "random:bert(layers=1,hidden=16,heads=1)"),
        ("seed=7", 7),
    ],
)
def test_values_are_yaml(override: str, value: object) -> None:
    config: object = load_config("smoke", None, [override])
    for part in override.partition("=")[0].split("."):
        config = getattr(config, part)
    assert config == value
    assert type(config) is type(value)


def test_precedence_is_preset_file_set(tmp_path: Path) -> None:
    file = yaml_file(tmp_path, "preset: smoke\nseed: 4\ndistill: {alpha: 0.1, temperature: 2, loss: kl}\n")
    config = load_config(None, file, ["distill.alpha=0.2", "distill.alpha=0.3"])
    assert (config.preset, config.seed) == ("smoke", 4)
    assert (config.distill.alpha, config.distill.temperature, config.distill.loss) == (0.3, 2.0, "kl")
    assert config.distill.epochs == load_config("smoke").distill.epochs
    assert load_config("demo", file).preset == "demo"  # the command line before the file


def test_where_the_data_is_implies_the_source(tasks_file: Path) -> None:
    assert load_config("smoke", None, ["data.glue_dir=somewhere", "data.tasks=[rte]"]).data.source == "glue"
    assert load_config("glue-small").data.source == "hub"
    # What is said outright stays.
    assert load_config("glue-small", None, ["data.glue_dir=x", "data.source=hub"]).data.source == "hub"
    config = load_config("smoke", None, (), tasks_file)
    assert (config.data.source, config.data.tasks) == ("files", ("toxicity", "stars"))
    assert [task.has_teacher for task in resolve_tasks(config).values()] == [True, False]
    assert config.evaluate.split == "dev"  # there is no test file to report
    assert load_config("smoke", None, ["evaluate.split=test"], tasks_file).evaluate.split == "test"
    # The GLUE presets name their teacher tasks, which an own file does not have.
    assert load_config("glue-small", None, (), tasks_file).data.teacher_tasks is None


def test_a_run_without_a_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match=r"none of the tasks sentiment, nli, .* has a teacher, so there is nothing to"):
        resolve_tasks(load_config("smoke", None, ["data.teacher_tasks=[]"]))


def test_teacher_tasks_are_the_configs_word() -> None:
    tasks = resolve_tasks(load_config("smoke", None, ["data.teacher_tasks=[acceptability]"]))
    assert [name for name, task in tasks.items() if task.has_teacher] == ["acceptability"]
    assert SUITE["nli"].has_teacher


def test_task_rows_survive_the_manifest(tasks_file: Path) -> None:
    rows = {**resolve_tasks(load_config("smoke", None, (), tasks_file)), **SUITE, **GLUE}
    manifest = json.loads(json.dumps({"tasks": {name: asdict(task) for name, task in rows.items()}}))
    assert stored_tasks(manifest) == rows


# ---- refusals -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["distil.alpha=1"], "unknown config key 'distil'; did you mean 'distill'? Known: preset, seed, data"),
        (["distill.alhpa=1"], "unknown config key 'distill.alhpa'; did you mean 'distill.alpha'? Known: epochs"),
        (["zzz=1"], "unknown config key 'zzz' Known: preset"),
        (["distill=3"], "config section 'distill' is 3, expected fields"),
        (["distill.alpha"], "--set got 'distill.alpha', expected section.field=value, for example"),
        (["=3"], "--set got '=3', expected section.field=value"),
        (["distill.alpha=[1"], "--set distill.alpha: '[1' is not a YAML value"),
        (["distill.alpha=1", "distill.alpha.x=1"], "--set distill.alpha.x: 'alpha' is a value, not a section"),
        (["preset=demo"], "would only rename the config; give --preset demo"),
        (["distill.alpha=much"], "distill.alpha: Input should be a valid number"),
        (["distill.alpha=1.5"], "distill.alpha: Input should be less than or equal to 1 (got 1.5)"),
        (["distill.alpha=.nan"], "distill.alpha: Input should be a finite number (got nan)"),
        (["distill.lr=inf"], "distill.lr: Input should be a finite number"),
        (["distill.epochs=0"], "distill.epochs: Input should be greater than or equal to 1 (got 0)"),
        (["distill.epochs=1.5"], "distill.epochs: Input should be a valid integer"),
        (["data.tasks=nli"], "data.tasks: Input should be a valid tuple (got 'nli')"),
        (["data.tasks=[]"], "data.tasks: Tuple should have at least 1 item"),
        (["distill.variants=[hard,soft]"], "distill.variants.1: Input should be 'hard', 'kd', 'label_smoothing', "),
        (["distill.alpha=2", "finetune.lr=0"], "finetune.lr: Input should be greater than 0 (got 0); distill.alpha"),
        (["select.top_k=3"], "select.top_k is 3, but there are 2 members; lower it or add multitask.encoders"),
        (["multitask.dropouts=[0.1,1.0]"], "multitask.dropouts has 1.0, expected values in [0, 1)"),
        (["multitask.dropouts=[0.1,0.1]"], "multitask.dropouts repeats an entry: [0.1, 0.1]"),
        (["multitask.seeds=[1,1]"], "multitask.seeds repeats an entry: [1, 1]"),
        (["data.tasks=[nli,nli]"], "data.tasks repeats an entry: ['nli', 'nli']"),
        (["distill.variants=[kd,kd]"], "distill.variants repeats an entry"),
        (["data.teacher_tasks=[rte]"], "data.teacher_tasks has 'rte', which is not in data.tasks (sentiment, nli"),
        (["data.source=glue"], "data.source is 'glue' but data.glue_dir is not set; give --set data.glue_dir=FOLDER"),
        (["data.source=files"], "data.source is 'files' but data.tasks_file is not set; give --tasks my_tasks.yaml"),
        (["data.tasks_file=none.yaml"], "none.yaml is not a readable YAML file"),
    ],
)
def test_what_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load_config("smoke", None, overrides)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"preset 'smok' is not known; did you mean 'smoke'\? presets: smoke, demo"):
        load_config("smok")
    with pytest.raises(ValueError, match="preset 'x' is not known; presets: smoke"):
        load_config("x")
    config = load_config("smoke", None, ["data.tasks=[nli,sentimnet]"])
    with pytest.raises(ValueError, match="task 'sentimnet' is not known; did you mean 'sentiment'"):
        resolve_tasks(config)
    # A GLUE task is known, but the embedded suite has no examples of it.
    with pytest.raises(ValueError, match="task 'rte' is not known"):
        resolve_tasks(load_config("smoke", None, ["data.tasks=[nli,rte]"]))


def test_the_head_of_similarities() -> None:
    sets = ["data.tasks=[nli,similarity]", "data.teacher_tasks=[nli]"]
    for value, head in ((None, "similarity"), ("similarity", "similarity"), ("san", "san")):
        config = load_config("smoke", None, [*sets, *([f"model.similarity_head={value}"] if value else [])])
        assert [task.head for task in resolve_tasks(config).values()] == ["san", head]
    with pytest.raises(ValueError, match="'san', but none of the tasks nli is a regression on pairs; leave it out"):
        resolve_tasks(load_config("smoke", None, ["data.tasks=[nli]", "model.similarity_head=san"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- distill\n", "expected sections such as 'distill:', got list"),
        ("distill: {alpha: [\n", "is not valid YAML"),
        ("distill:\n", "config section 'distill' is None, expected fields such as distill.seed=1"),
        ("distill: {alhpa: 1}\n", "unknown config key 'distill.alhpa'; did you mean 'distill.alpha'"),
        ("preset: smok\n", "preset 'smok' is not known; did you mean 'smoke'"),
    ],
)
def test_what_a_file_is_refused_for(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load_config(None, yaml_file(tmp_path, text))


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config file .*nowhere\.yaml cannot be read: No such file"):
        load_config("smoke", tmp_path / "nowhere.yaml")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        load_config("smoke", tmp_path)
    (tmp_path / "latin.yaml").write_bytes("preset: caf\xe9\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.yaml is not valid YAML"):
        load_config("smoke", tmp_path / "latin.yaml")


def test_the_config_is_frozen() -> None:
    config = load_config("smoke")
    with pytest.raises(ValueError, match="frozen"):
        config.distill.alpha = 0.1  # type: ignore[misc]


# ---- digests --------------------------------------------------------------------------------------------------------
def test_digests_are_stable() -> None:
    # Golden: a changed digest would make every finished run look outdated.
    assert digest({"b": [1, 2.5, None, True], "a": "é"}) == "0b8cc543e984d4d7"
    assert digest({"a": "é", "b": (1, 2.5, None, True)}) == digest({"b": [1, 2.5, None, True], "a": "é"})
    assert digest([1, 2]) != digest([2, 1])
    assert digest(Config().model_dump()) == digest(validated(Config().model_dump(mode="json")).model_dump())


def test_differences_name_the_fields() -> None:
    old = load_config("smoke").model_dump(mode="json")
    new = load_config("smoke", None, ["distill.alpha=0.3", "multitask.dropouts=[0.1,0.2,0.3]", "seed=1"])
    assert differences(old, old) == []
    assert differences(old, new.model_dump(mode="json")) == [
        "seed: 0 -> 1",
        "multitask.dropouts: [0.1, 0.2] -> [0.1, 0.2, 0.3]",
        "distill.alpha: 0.5 -> 0.3",
    ]
    # A tuple and the list that JSON makes of it are the same value; a field that one side lacks is named.
    assert differences({"a": (1, 2)}, {"a": [1, 2]}) == []
    assert differences({"a": {"x": 1}}, {"a": {}}) == ["a.x: 1 -> None"]
