"""What must hold between fields and with the tasks: one table of combinations that are refused, and how; then what the
right ones come to: how each task is taught, and warnings. Members are in test_config.
"""

from __future__ import annotations

import re
from typing import get_args

import pytest

from core.config import Config, Teaching, resolve_tasks, warnings_of
from core.losses import REGRESSION, SOFT
from core.presets import load_config
from core.sections import (
    DEFAULT_TEMPERATURE,
    FITTED_STRATEGIES,
    NATURAL_STRATEGY,
    NEEDS_TEACHER,
    REGRESSION_LOSSES,
    LossName,
    RegressionLossName,
    Strategy,
    Variant,
)
from core.tasks import SUITE

# Beside `smoke`: members of two dropouts, students hard and kd, all of the suite, of which similarity is a regression
# and has no teacher. `; ` separates the overrides of a row.
VALUES = "data.teacher_tasks=[nli,similarity]"
TWO_ENCODERS = (
    "multitask.encoders=['random:bert(layers=1,hidden=32,heads=2)','random:bert(layers=2,hidden=32,heads=2)']"
)
GLUE = "data.source=glue; data.glue_dir=here; data.tasks=[rte]"


def resolved(overrides: str) -> Config:
    """What the start of a run does."""
    config = load_config("smoke", None, overrides.split("; ") if overrides else ())
    resolve_tasks(config)
    return config


# ---- refused -------------------------------------------------------------------------------------------------------
WRONG = {
    "temperature": [
        ("distill.temperature=2", "distill.temperature is 2.0, but only a loss with a temperature: kl, dkd, jsd, rev"),
        ("distill.loss=mse_logits; distill.temperature=2", "distill.temperature is 2.0, but only a loss with a temp"),
        ("distill.loss=annealed; distill.temperature=2", "distill.temperature is 2.0, but only a loss with a temp"),
        (
            "distill.per_task.nli.temperature=2",
            "task 'nli': the temperature is 2, but soft_ce is defined at temperature 1",
        ),
        (
            "distill.loss=kl; distill.temperature=2; distill.per_task.nli.loss=mse_logits",
            "2, but mse_logits is defined at temperature 1; use a tempered loss (kl, jsd, reverse_kl, dkd) or set "
            "distill.per_task.nli.temperature=1",
        ),
        (
            f"{VALUES}; distill.loss=kl; distill.temperature=2",
            "task 'similarity': the temperature is 2, but mse is defined at temperature 1; use a tempered loss (kl, "
            "jsd, reverse_kl, dkd) or set distill.per_task.similarity.temperature=1",
        ),
    ],
    "regression": [
        *(
            (f"{VALUES}; distill.variants=[hard,{variant}]", f"distill.variants has {variant}, which redistribute")
            for variant in ("dkpp", "cwtm", "adaptive_smoothing", "label_smoothing")
        ),
        (f"{VALUES}; distill.variants=[dkpp,kd,cwtm]", "has dkpp, cwtm, which redistribute probability, but task 'sim"),
        (
            f"{VALUES}; distill.regression_loss=gaussian_nll; distill.generations=2",
            "task 'similarity': gaussian_nll needs the ensemble's variance, and a student that teaches the next",
        ),
        (
            f"{VALUES}; distill.per_task.similarity.loss=kl",
            "distill.per_task.similarity.loss is 'kl', task 'similarity' is a regression: use ('mse', 'gaussian_nll')",
        ),
        ("distill.per_task.nli.loss=mse", "nli.loss is 'mse', which is for regressions; task 'nli' has classes"),
        ("distill.loss=mse", "distill.loss: Input should be 'soft_ce', 'kl', 'mse_logits', 'dkd', 'jsd', 'reverse_kl'"),
        ("distill.regression_loss=kl", "distill.regression_loss: Input should be 'mse' or 'gaussian_nll' (got 'kl')"),
    ],
    "per_task": [
        (
            "distill.per_task.acceptability.loss=kl",
            "distill.per_task has 'acceptability', expected a task with a teacher: sentiment, nli, paraphrase, rel",
        ),
        ("distill.per_task.nil.loss=kl", "distill.per_task has 'nil', expected a task with a teacher: sentiment, nli"),
        ("distill.per_task.nli.los=kl", "distill.per_task.nli.los: Extra inputs are not permitted"),
        (
            "distill.variants=[hard]; distill.per_task.nli.loss=kl",
            "but only a variant that is taught uses it; set that",
        ),
        (
            "distill.loss=annealed; distill.per_task.nli.alpha=0.3",
            "nli.alpha is 0.3, but the annealed schedule goes from",
        ),
        ("distill.schedule=annealed; distill.per_task.nli.alpha=1", "nli.alpha is 1.0, but the annealed schedule goes"),
    ],
    "unused": [
        (
            "distill.dkd_target=2",
            "distill.dkd_target is 2.0, but only a loss of dkd uses it; set that too, or leave it",
        ),
        ("distill.loss=kl; distill.dkd_others=2", "distill.dkd_others is 2.0, but only a loss of dkd uses it"),
        ("distill.jsd_beta=0.2", "distill.jsd_beta is 0.2, but only a loss of jsd uses it"),
        ("distill.smoothing=0.2", "distill.smoothing is 0.2, but only the variant label_smoothing uses it"),
        ("distill.loss=annealed; distill.alpha=0.3", "distill.alpha is 0.3, but only a schedule that is not annealed"),
        (
            "distill.schedule=annealed; distill.alpha=0.3",
            "distill.alpha is 0.3, but only a schedule that is not annealed",
        ),
        ("distill.alpha_end=0.3", "distill.alpha_end is 0.3, but only distill.schedule=linear uses it"),
        (
            "distill.schedule=constant; distill.alpha_end=0.3",
            "alpha_end is 0.3, but only distill.schedule=linear uses it",
        ),
        ("distill.schedule=linear", "distill.schedule is 'linear' but distill.alpha_end is not set; linear goes from"),
        ("distill.generations=2; distill.variants=[hard]", "distill.generations is 2, but only the variant kd uses it"),
        ("distill.finetuned=[dkpp]", "distill.finetuned has 'dkpp', which is not in distill.variants"),
        ("distill.finetuned=[kd,kd]", "distill.finetuned repeats an entry: ['kd', 'kd']"),
        ("ensemble.folds=3", "ensemble.folds is 3, but ensemble.targets is 'in_sample'"),
        (
            "distill.sampling_temperature=3",
            "3.0, but distill.sampling is 'proportional', which has none; set distill.s",
        ),
        (
            "multitask.sampling=sqrt; multitask.sampling_temperature=3",
            "multitask.sampling is 'sqrt', which has none; set",
        ),
        (
            "finetune.sampling_temperature=3",
            "finetune.sampling is 'proportional', which has none; set finetune.sampling",
        ),
    ],
    "ensemble": [
        ("ensemble.compare=[mean_probs]", "ensemble.compare names 'mean_probs', which is ensemble.strategy already"),
        ("ensemble.compare=[greedy,greedy]", "ensemble.compare repeats an entry: ['greedy', 'greedy']"),
        *(
            (
                f"ensemble.strategy={strategy}; ensemble.fit_split=dev; evaluate.split=dev",
                f"ensemble.fit_split is 'dev', the split that is reported: {strategy} would be tuned on it",
            )
            for strategy in FITTED_STRATEGIES
        ),
        (
            "ensemble.compare=[stacking]; ensemble.soups=[greedy]; ensemble.fit_split=dev; evaluate.split=dev",
            "reported: stacking, soup 'greedy' would be tuned on it. Use ensemble.fit_split=selection, or another",
        ),
        (f"ensemble.soups=[uniform]; {TWO_ENCODERS}", "averages weights, but the members have 2 different encoders"),
        (
            "ensemble.soups=[uniform]; multitask.pool=[{head: linear}, {}, {seed: 1}]",
            "random:bert(layers=1,hidden=32,heads=2) (linear). Give the members one encoder and head, or leave",
        ),
        (
            "ensemble.targets=out_of_fold; multitask.epochs=2; multitask.pool=[{snapshots: 2}]",
            "ensemble.targets=out_of_fold does not go with snapshots: leave one of the two out",
        ),
    ],
    "members": [
        (
            "multitask.epochs=3; multitask.pool=[{}, {snapshots: 2}]",
            "multitask.pool[1] has 2 snapshots, multitask.epochs is 3; every cycle needs the same whole number of",
        ),
        ("multitask.pool=[{snapshots: 2}]", "multitask.pool[0] has 2 snapshots, multitask.epochs is 1"),
        ("multitask.pool=[{seed: 1}, {}, {}]", "members mt-2 and mt-3 have the same settings and would be one model;"),
        # What is left out is the stage's own, so these are the same too.
        ("multitask.pool=[{dropout: 0.1}, {seed: 0}]", "members mt-1 and mt-2 have the same settings"),
        ("multitask.epochs=2; multitask.pool=[{snapshots: 2}, {snapshots: 2}]", "members mt-1 and mt-3 have the same"),
        ("multitask.pool=[{}, {mc_passes: 4, dropout: 0}]", "multitask.pool[1] has mc_passes and a dropout of 0: all"),
        (
            "multitask.dropouts=[0]; multitask.pool=[{mc_passes: 4}, {seed: 1}]",
            "pool[0] has mc_passes and a dropout of 0",
        ),
        ("multitask.pool=[{}]", "select.top_k is 2, but there are 1 members; lower it or add multitask.encoders"),
        ("multitask.pool=[{bagging: 1.5}, {}]", "multitask.pool.0.bagging: Input should be less than or equal to 1"),
    ],
    "tasks": [
        (
            "distill.task_weights.nil=2",
            "distill.task_weights has 'nil: 2.0', expected a positive weight of one of sent",
        ),
        ("multitask.task_weights.nli=0", "multitask.task_weights has 'nli: 0.0', expected a positive weight of one of"),
        (
            "finetune.task_weights.nli=-1",
            "finetune.sampling and finetune.task_weights say how tasks are mixed, but a tr",
        ),
        ("distill.task_weights.nli=inf", "distill.task_weights.nli: Input should be a finite number"),
        (f"{GLUE}; pretrain.objective=rtd", "pretrain.objective is 'rtd', but there is no text: the embedded suite al"),
        ("data.n_train_of={nlii: 200}", "data.n_train_of has 'nlii: 200', expected at least 16 rows of a task of the"),
        ("data.n_train_of={nli: 8}", "data.n_train_of has 'nli: 8'"),
        (f"{GLUE}; data.n_train_of={{rte: 200}}", "for other data use data.max_train"),
    ],
}
ROWS = [pytest.param(*row, id=f"{topic}-{row[0]}"[:60]) for topic, rows in WRONG.items() for row in rows]


@pytest.mark.parametrize(("overrides", "message"), ROWS)
def test_what_does_not_go_together_is_refused(overrides: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        resolved(overrides)
    assert "\n" not in str(refused.value)  # our sentence, not a dump of pydantic's


# ---- allowed -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "overrides",
    [
        "distill.temperature=1",  # what soft_ce is defined at
        "distill.loss=dkd; distill.temperature=1; distill.dkd_target=2; distill.dkd_others=1",
        "distill.per_task.nli={loss: jsd, temperature: 2}; distill.jsd_beta=0.2",
        # The remedies that messages name.
        f"{VALUES}; distill.loss=kl; distill.temperature=2; distill.per_task.similarity.temperature=1",
        "distill.loss=kl; distill.temperature=2; distill.per_task.nli={loss: soft_ce, temperature: 1}",
        "distill.loss=annealed; distill.schedule=constant; distill.per_task.nli.alpha=0.3",
        "distill.loss=annealed; distill.per_task.nli={loss: kl, alpha: 0.3}",
        "distill.schedule=linear; distill.alpha=0.9; distill.alpha_end=0.1",
        f"{VALUES}; distill.regression_loss=gaussian_nll; distill.variants=[hard,kd,truth]",
        f"{VALUES}; distill.regression_loss=mse; distill.generations=2",
        "distill.regression_loss=gaussian_nll; distill.generations=2",  # of a task that has no teacher
        "distill.variants=[hard,dkpp,cwtm,adaptive_smoothing,label_smoothing]; distill.smoothing=0.2",
        "ensemble.strategy=greedy; ensemble.fit_split=dev",  # test is reported
        "ensemble.strategy=greedy; evaluate.split=dev",  # selection is fitted on
        "ensemble.fit_split=dev; evaluate.split=dev; ensemble.soups=[uniform]",  # nothing is fitted
        "ensemble.targets=out_of_fold; ensemble.folds=3",
        "ensemble.soups=[uniform,greedy]",
        "multitask.sampling=temperature; multitask.sampling_temperature=3; multitask.task_weights.nli=0.5",
        "multitask.dropouts=[0]; multitask.pool=[{mc_passes: 4, dropout: 0.2}, {seed: 1}]",
        f"{GLUE}; pretrain.objective=mlm; pretrain.text=words.txt",
        "pretrain.objective=rtd",
    ],
    ids=lambda overrides: overrides[:60],
)
def test_what_goes_together_is_taken(overrides: str) -> None:
    assert resolved(overrides) != load_config("smoke")


def test_names_of_the_config_are_those_of_the_code() -> None:
    assert set(get_args(Variant)) == set(NEEDS_TEACHER)
    assert set(get_args(LossName)) == set(SOFT)
    assert set(get_args(RegressionLossName)) == set(REGRESSION) == set(REGRESSION_LOSSES)
    strategies = set(get_args(Strategy))
    assert set(FITTED_STRATEGIES) < strategies
    assert set(NATURAL_STRATEGY.values()) == strategies - set(FITTED_STRATEGIES)
    assert set(NATURAL_STRATEGY) | set(DEFAULT_TEMPERATURE) == set(SOFT)


# ---- how a task is taught ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("loss", SOFT)
def test_defaults_of_every_loss(loss: str) -> None:
    alpha, alpha_end = (1.0, 0.0) if loss == "annealed" else (0.5, 0.5)
    assert resolved(f"distill.loss={loss}").teaching(SUITE["nli"]) == Teaching(
        loss=loss,
        alpha=alpha,
        alpha_end=alpha_end,
        soft_warmup=0.1 if loss == "dkd" else 0.0,
        temperature=4.0 if loss == "dkd" else 1.0,
        dkd_target=1.0,
        dkd_others=8.0,
        jsd_beta=0.5,
    )


def test_values_have_their_own_loss() -> None:
    """The first five of `Teaching`: loss, alpha, alpha_end, soft_warmup, temperature."""
    assert resolved(f"{VALUES}; distill.loss=dkd").teaching(SUITE["similarity"])[:5] == ("mse", 0.5, 0.5, 0.0, 1.0)
    config = resolved(f"{VALUES}; distill.regression_loss=gaussian_nll; distill.schedule=annealed")
    assert config.teaching(SUITE["similarity"])[:5] == ("gaussian_nll", 1.0, 0.0, 0.0, 1.0)


def test_a_task_has_the_last_word() -> None:
    own = "{nli: {loss: jsd}, sentiment: {alpha: 0, temperature: 2}, relevance: {loss: annealed, temperature: 1}}"
    config = resolved(f"distill.loss=kl; distill.temperature=3; distill.alpha=0.7; distill.per_task={own}")
    assert config.teaching(SUITE["nli"])[:5] == ("jsd", 0.7, 0.7, 0.0, 3.0)
    assert config.teaching(SUITE["sentiment"])[:5] == ("kl", 0.0, 0.0, 0.0, 2.0)
    assert config.teaching(SUITE["relevance"])[:5] == ("annealed", 1.0, 0.0, 0.0, 1.0)
    assert config.teaching(SUITE["paraphrase"])[:5] == ("kl", 0.7, 0.7, 0.0, 3.0)
    # Where the run says nothing, a loss has its own temperature and warm-up; what the run says holds for all.
    config = resolved("distill.per_task.nli.loss=dkd; distill.schedule=linear; distill.alpha_end=0")
    assert config.teaching(SUITE["nli"])[:5] == ("dkd", 0.5, 0.0, 0.1, 4.0)
    config = resolved("distill.per_task.nli={loss: dkd, temperature: 2}; distill.soft_warmup=0")
    assert config.teaching(SUITE["nli"])[:5] == ("dkd", 0.5, 0.5, 0.0, 2.0)


# ---- warnings ------------------------------------------------------------------------------------------------------
TWO_CLASSES = "distill.variants=[dkpp,adaptive_smoothing]; data.teacher_tasks=[nli,paraphrase,acceptability]"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("", []),
        (VALUES, []),
        ("distill.variants=[hard,kd,dkpp]", ["dkpp equals kd on tasks with two classes: paraphrase (one wrong class)"]),
        (TWO_CLASSES, [f"{name} equals kd on tasks with two classes: para" for name in ("dkpp", "adaptive_smoothing")]),
        ("distill.variants=[hard,dkpp]; data.teacher_tasks=[nli,sentiment]", []),
        ("distill.loss=dkd", ["dkd has no term on the wrong classes where there are two: paraphrase"]),
        ("distill.loss=dkd; distill.per_task.paraphrase={loss: kl}", []),
        (
            "data.teacher_tasks=[nli]; distill.loss=reverse_kl",
            ["task 'nli': the teachers' average that belongs to reverse_kl is geometric_mean, ensemble.strategy is"],
        ),
        (
            "data.teacher_tasks=[nli,sentiment]; ensemble.strategy=mean_logits; distill.per_task.nli.loss=mse_logits",
            ["task 'sentiment': the teachers' average that belongs to soft_ce is mean_probs, ensemble.strategy is"],
        ),
        # The two are one distribution (core/ensemble), so that either is natural.
        ("distill.loss=reverse_kl; ensemble.strategy=mean_logits", []),
        ("distill.loss=mse_logits; ensemble.strategy=geometric_mean", []),
        # A strategy that is fitted is no plain average, jsd has none of its own, `hard` has no teachers.
        ("ensemble.strategy=stacking", []),
        ("distill.loss=jsd; ensemble.strategy=mean_logits", []),
        ("ensemble.strategy=mean_logits; distill.variants=[hard]", []),
    ],
)
def test_warnings_say_what_is_not_what_it_looks_like(overrides: str, expected: list[str]) -> None:
    config = resolved(overrides)
    found = warnings_of(config, resolve_tasks(config))
    assert len(found) == len(expected), found
    for sentence, start in zip(found, expected, strict=True):
        assert sentence.startswith(start)
