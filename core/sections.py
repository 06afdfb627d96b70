"""The fields of a configuration: one frozen model a stage, each field with its default, limits and meaning.

What must hold between fields is in core/config. A field that only some choices use is refused there when it is set
and not used: no option is silently ignored.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from core.tasks import SUITE

GLUE_TEACHERS = ("mnli", "qqp", "rte", "qnli")  # as in 1904.09482

# Student variant -> does it read targets/? The controls say which part of a teacher helps (core/losses, core/stages/
# distill): smoothing alone, the teacher's confidence, or what it says about the wrong classes.
NEEDS_TEACHER = {
    "hard": False,  # gold alone: the plain MT-DNN
    "kd": True,  # the teachers' distribution
    "label_smoothing": False,  # a uniform teacher
    "cwtm": True,  # gold, weighted by the teachers' confidence
    "dkpp": True,  # the teachers' wrong classes permuted
    "adaptive_smoothing": True,  # the teachers' wrong classes evened out
    "truth": False,  # the exact posterior, where the data has it: an upper bound
}
Strategy = Literal["mean_probs", "geometric_mean", "mean_logits", "weighted", "calibrated", "greedy", "stacking"]
Variant = Literal["hard", "kd", "label_smoothing", "cwtm", "dkpp", "adaptive_smoothing", "truth"]
LossName = Literal["soft_ce", "kl", "mse_logits", "dkd", "jsd", "reverse_kl", "annealed"]
RegressionLossName = Literal["mse", "gaussian_nll"]
REGRESSION_LOSSES = ("mse", "gaussian_nll")
FITTED_STRATEGIES = ("weighted", "calibrated", "greedy", "stacking")  # core/combining
# The average of the teachers whose loss has the gradient of the mean of the teachers' losses (core/losses).
NATURAL_STRATEGY = {
    **dict.fromkeys(("soft_ce", "kl", "annealed"), "mean_probs"),
    "reverse_kl": "geometric_mean",
    "mse_logits": "mean_logits",
}
# The losses that have a temperature, and the one whose authors set it to another value than 1.
DEFAULT_TEMPERATURE = {"kl": 1.0, "jsd": 1.0, "reverse_kl": 1.0, "dkd": 4.0}


class Section(BaseModel):
    """What all of them hold to: nothing changes, no unknown field, no value that is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class DataConfig(Section):
    """Which tasks, from where, and how many rows of them."""

    source: Literal["suite", "glue", "hub", "files"] = Field("suite", description="where the examples come from")
    tasks: tuple[str, ...] = Field(tuple(SUITE), min_length=1, description="tasks trained together")
    teacher_tasks: tuple[str, ...] | None = Field(None, description="tasks with teachers; none: as the task rows say")
    glue_dir: str | None = Field(None, description="folder in GLUE's layout, for source=glue")
    hub_dir: str | None = Field(None, description="local mirror in the hub's layout, for source=hub without a network")
    tasks_file: str | None = Field(None, description="YAML of own tasks, for source=files")
    files_dir: str | None = Field(None, description="folder that its files lie in; none: the YAML's own folder")
    seed: int = Field(0, ge=0, description="draws the suite, the selection split and the row limits")
    n_train: int = Field(4000, ge=16, description="suite: training rows a task, selection split included")
    n_train_of: dict[str, int] = Field({}, description="suite: n_train of single tasks, to make them of unequal size")
    n_dev: int = Field(1000, ge=8, description="suite: development examples a task")
    n_test: int = Field(2000, ge=8, description="suite: test examples a task")
    selection: float = Field(0.1, gt=0, description="carved from train for selecting: share (< 1) or rows (>= 1)")
    max_train: int | None = Field(None, ge=1, description="at most this many training rows a task")
    max_eval: int | None = Field(None, ge=1, description="at most this many rows of each other split of a task")
    empty_text: Literal["error", "drop"] = Field("error", description="rows with an empty text")
    keep_unlabelled: bool = Field(False, description="predict splits without labels too (GLUE's test sets)")


class ModelConfig(Section):
    """Tokenizer and heads, the same for members, teachers and students."""

    tokenizer: str | None = Field(None, description="hub id, folder, `word` or `wordpiece(vocab=N)`; none: encoder's")
    max_length: int = Field(128, ge=8, le=8192, description="tokens of a sequence, special tokens included")
    head_dropout: float = Field(0.1, ge=0, lt=1, description="dropout of a task layer without a value in its row")
    similarity_head: Literal["similarity", "san"] | None = Field(
        None, description="of regressions on pairs: `similarity` reads [CLS], `san` both texts; none: as the rows say"
    )
    san_steps: int = Field(5, ge=1, description="K, reasoning steps of the SAN head")
    san_step_dropout: float = Field(0.1, ge=0, lt=1, description="stochastic prediction dropout of whole SAN steps")
    san_start: Literal["random", "uniform"] = Field(
        "random", description="attention of a fresh SAN head: random, as torch makes it, or the same for all tokens"
    )


class TrainConfig(Section):
    """What every training has: `pretrain`, `multitask`, `finetune` and `distill` add to these fields."""

    epochs: int = Field(5, ge=1, description="passes over the training split")
    lr: float = Field(5e-5, gt=0, description="peak learning rate")
    batch_size: int = Field(32, ge=1, description="examples a batch, at most")
    token_budget: int | None = Field(None, ge=32, description="tokens a batch, padding included, at most")
    accumulate: int = Field(1, ge=1, description="parts in which a process computes its share of a batch, for memory")
    optimizer: Literal["adamax", "adamw"] = Field("adamw", description="Adamax is the paper's; AdamW runs fused")
    warmup_frac: float = Field(0.1, ge=0, le=1, description="share of the steps with a rising learning rate")
    weight_decay: float = Field(0.01, ge=0, description="not on biases and LayerNorm")
    clip_norm: float = Field(1.0, gt=0, description="global gradient norm")
    eval_every_epochs: int = Field(1, ge=0, description="score the selection split while training; 0: never")
    dynamics: bool = Field(True, description="store each epoch's training logits (data maps)")
    sampling: Literal["proportional", "sqrt", "temperature", "uniform", "annealed"] = Field(
        "proportional", description="how often each task's batches come: to its size (the paper), its root, ..."
    )
    sampling_temperature: float = Field(2.0, gt=0, description="tau of sampling=temperature: share ~ n^(1/tau)")
    task_weights: dict[str, float] = Field({}, description="loss weight of a task, 1 where not named")


class PretrainConfig(TrainConfig):
    """Plain text before the tasks, for fresh encoders."""

    objective: Literal["none", "rtd", "mlm"] = Field("none", description="pre-trains each fresh encoder on plain text")
    text: str | None = Field(None, description="text file or folder of them; none: text of the suite's world")
    epochs: int = Field(1, ge=1, description="passes over the text")
    lr: float = Field(5e-4, gt=0, description="peak learning rate")
    sentences: int = Field(20_000, ge=100, description="suite: generated reviews")
    max_length: int = Field(48, ge=8, le=8192, description="tokens of a block of text, special tokens included")
    mask_share: float = Field(0.15, gt=0, lt=1, description="share of the tokens that are masked")
    discriminator_weight: float = Field(50.0, ge=0, description="rtd: weight of the discriminator's loss")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout while pre-training")
    seed: int = Field(0, ge=0, description="text, initialisation and masks")
    threads: int = Field(1, ge=1, description="CPU threads; one encoder at a time leaves other cores idle")
    dynamics: bool = Field(False, description="not for text: there are no labels to keep logits of")


class MemberConfig(Section):
    """One entry of `multitask.pool`. What is left out is the first of `multitask.encoders`, `.dropouts`, `.seeds`, and
    the stage's own `lr`, `clip_norm`."""

    encoder: str | None = Field(None, description="hub id, folder or `random:...`")
    dropout: float | None = Field(None, ge=0, lt=1, description="dropout of the shared layers")
    seed: int | None = Field(None, description="initialisation and order of the batches")
    lr: float | None = Field(None, gt=0, description="peak learning rate")
    clip_norm: float | None = Field(None, gt=0, description="global gradient norm")
    head: Literal["san", "linear"] | None = Field(None, description="head of pair tasks; none: as the task rows say")
    bagging: float | None = Field(None, gt=0, le=1, description="training rows drawn with replacement, as a share")
    mc_passes: int = Field(0, ge=0, le=1000, description="MC dropout: passes that are averaged; 0: dropout is off")
    snapshots: int = Field(1, ge=1, description="members from one cyclic run of this many cycles")


class MultitaskConfig(TrainConfig):
    """The M members: a grid of encoders, seeds and dropouts, or a pool of single ones."""

    encoders: tuple[str, ...] = Field(
        ("random:bert(layers=2,hidden=64,heads=2)",), min_length=1, description="hub ids, folders or `random:...`"
    )
    dropouts: tuple[float, ...] = Field((0.1, 0.2, 0.3), min_length=1, description="dropout of the shared layers")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="members = encoders x seeds x dropouts")
    pool: tuple[MemberConfig, ...] = Field((), description="members one by one, instead of the grid")

    @property
    def members(self) -> dict[str, dict[str, Any]]:
        """The M members by name, `mt-1` ... `mt-M`, each with all its settings.

        A cyclic run of S snapshots is S members that follow one another: each goes on from the weights of the one
        before (`continues`) through a cycle of epochs / S with its own warm-up and decay.
        """
        grid = [
            MemberConfig(encoder=encoder, seed=seed, dropout=dropout)
            for encoder in self.encoders
            for seed in self.seeds
            for dropout in self.dropouts
        ]
        members: dict[str, dict[str, Any]] = {}
        for entry in self.pool or grid:
            settings = {
                "encoder": entry.encoder or self.encoders[0],
                "seed": self.seeds[0] if entry.seed is None else entry.seed,
                "dropout": self.dropouts[0] if entry.dropout is None else entry.dropout,
                "lr": entry.lr or self.lr,
                "clip_norm": entry.clip_norm or self.clip_norm,
                "epochs": self.epochs // entry.snapshots,
                "head": entry.head,
                "bagging": entry.bagging,
                "mc_passes": entry.mc_passes,
            }
            for cycle in range(entry.snapshots):
                continues = f"mt-{len(members)}" if cycle else None
                members[f"mt-{len(members) + 1}"] = {**settings, "cycle": cycle, "continues": continues}
        return members


class SelectConfig(Section):
    """Which members become teachers."""

    top_k: int = Field(3, ge=1, description="members that become teachers")
    rule: Literal["mean_teacher_tasks", "paper"] = Field("mean_teacher_tasks", description="what ranks the members")
    split: Literal["selection", "dev"] = Field("selection", description="`dev` is the paper's leaky choice")


class FinetuneConfig(TrainConfig):
    """The teachers: each chosen member on each teacher task."""

    epochs: int = Field(3, ge=1, description="passes over the training split of the teacher's task")
    seed: int = Field(0, ge=0, description="fresh heads and batch order of the teachers")
    imported: tuple[str, ...] = Field((), description="RUN/MODEL whose predictions teach, instead of tuned members")


class EnsembleConfig(Section):
    """How the teachers are combined into Q, and what is compared beside it."""

    strategy: Strategy = Field("mean_probs", description="makes Q")
    compare: tuple[Strategy, ...] = Field((), description="further strategies, predicted and scored beside it")
    fit_split: Literal["selection", "dev"] = Field("selection", description="where fitted strategies are fitted")
    soups: tuple[Literal["uniform", "greedy"], ...] = Field((), description="averaged weights of the chosen members")
    targets: Literal["in_sample", "out_of_fold"] = Field("in_sample", description="do teachers see what they label?")
    folds: int = Field(2, ge=2, le=20, description="for out_of_fold: teachers of a fold are trained on the others")


class TeachingConfig(Section):
    """An entry of `distill.per_task`; what is left out is as in `distill`."""

    loss: LossName | RegressionLossName | None = Field(None, description="what is minimised against the teachers")
    alpha: float | None = Field(None, ge=0, le=1, description="weight of the soft term")
    temperature: float | None = Field(None, gt=0, description="softens teacher and student")


class DistillConfig(TrainConfig):
    """The students: variants, seeds, and what is minimised against the teachers."""

    variants: tuple[Variant, ...] = Field(
        ("hard", "kd"), min_length=1, description="students side by side on the same batches: gold, taught, controls"
    )
    seeds: int = Field(3, ge=1, description="S students of each variant, seeds 0 ... S-1")
    loss: LossName = Field("soft_ce", description="what `kd` minimises on tasks with a teacher")
    regression_loss: RegressionLossName = Field("mse", description="the same on regression tasks with a teacher")
    alpha: float = Field(0.5, ge=0, le=1, description="weight of the soft term; the paper's average is 0.5")
    schedule: Literal["constant", "linear", "annealed"] | None = Field(
        None, description="of alpha: constant; linear to alpha_end; annealed 1 to 0; none: as the loss has it"
    )
    alpha_end: float | None = Field(None, ge=0, le=1, description="alpha at the end, for schedule=linear")
    soft_warmup: float | None = Field(
        None, ge=0, le=1, description="share of the training in which the soft term grows in; none: 0, dkd 0.1"
    )
    temperature: float | None = Field(None, gt=0, description="softens teacher and student; none: 1, dkd 4")
    dkd_target: float = Field(1.0, ge=0, description="dkd: weight of the term on gold against the rest")
    dkd_others: float = Field(8.0, ge=0, description="dkd: weight of the term on the classes other than gold")
    jsd_beta: float = Field(0.5, ge=0, le=1, description="jsd: from forward KL (0) to reverse KL (1)")
    smoothing: float = Field(0.1, ge=0, lt=1, description="label_smoothing: share of the uniform distribution")
    per_task: dict[str, TeachingConfig] = Field({}, description="loss, alpha, temperature of single tasks")
    generations: int = Field(1, ge=1, le=20, description="born again: each kd student teaches the next")
    finetuned: tuple[Variant, ...] = Field((), description="variants whose students are then fine-tuned on each task")
    rtd_weight: float = Field(0.0, ge=0, description="replaced-token detection beside the tasks, for all variants")
    encoder: str | None = Field(None, description="none: the first encoder of the members")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the student's shared layers")


class EvaluateConfig(Section):
    """What is reported, and how wide its intervals are."""

    split: Literal["dev", "test"] = Field("test", description="the split that is reported")
    resamples: int = Field(1000, ge=100, description="bootstrap resamples of the examples")


class RuntimeConfig(Section):
    """Where and how it runs, and what is kept of the models."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="autocast type in training and passes")
    compile: bool = Field(False, description="CUDA: trains encoders as graphs over bucketed shapes, for small models")
    workers: int = Field(0, ge=0, description="jobs side by side; 0: one a core on the CPU, one on an accelerator")
    threads: int = Field(1, ge=1, description="CPU threads a job; results are bitwise equal for equal threads")
    shard: bool = Field(False, description="split weights and optimiser over the launcher's processes (FSDP)")
    checkpoint_seconds: float = Field(60.0, ge=0, description="time between checkpoints of a training")
    keep_features: bool = Field(False, description="store students' [CLS] states, to refit heads in the app")
    keep_models: bool = Field(True, description="keep weights after the run; everything else stays readable")
