"""The embedded suite: labels follow the stored truth, the truth follows from the text, splits are apart.

Thresholds are set for one fixed seed, so nothing here is flaky; each is justified where it stands, by the sampling
error that a fresh seed would have.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from core.synthetic import TASK_NAMES, generate, posterior, unlabelled_text, vocabulary
from core.synthetic.clauses import FLAWS
from core.synthetic.parsing import parse_review
from core.tasks import SUITE, example_schema

CLASS_TASKS = tuple(name for name in TASK_NAMES if SUITE[name].kind != "regression")
PAIR_TASKS = ("nli", "paraphrase", "similarity")
SIZES = {"n_train": 3000, "n_dev": 1000, "n_test": 1000}


@cache
def suite() -> dict[str, pa.Table]:
    return generate(TASK_NAMES, seed=11, **SIZES)


def truth_and_gold(name: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, C) probabilities and (N,) class numbers."""
    table = suite()[name]
    labels = list(SUITE[name].labels)
    return np.array(table["true_probs"].to_pylist()), np.array(
        [labels.index(x) for x in table["gold_label"].to_pylist()]
    )


def sentences_of(row: dict) -> list[str]:
    return [row["text_a"], *([row["text_b"]] if "text_b" in row else []), *row.get("candidates", [])]


# ---- tables ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TASK_NAMES)
def test_tables_have_the_schema_rows_in_order_and_humans_only_for_evaluation(name):
    table = suite()[name]
    assert table.schema.equals(example_schema(SUITE[name]), check_metadata=True)
    expected = [(split, row) for split in ("train", "dev", "test") for row in range(SIZES[f"n_{split}"])]
    assert table["example_id"].to_pylist() == [f"{name}/{split}/{row:07d}" for split, row in expected]
    assert table["split"].to_pylist() == [split for split, _ in expected]
    evaluation = np.array([split != "train" for split, _ in expected])
    humans = table["human_mean" if name == "similarity" else "human_probs"]
    for column in (humans, table["n_humans"]):
        assert np.array_equal(np.array(column.is_valid()), evaluation)
    assert set(table["n_humans"].drop_null().to_pylist()) == {20}
    rest = [c for c in table.column_names if c not in ("human_mean", "human_probs", "n_humans")]
    assert all(table[c].null_count == 0 for c in rest)


@pytest.mark.parametrize("name", TASK_NAMES)
def test_splits_share_no_sentence_and_no_first_text_repeats(name):
    owner: dict[str, str] = {}
    for row in suite()[name].to_pylist():
        for sentence in sentences_of(row):
            assert owner.setdefault(sentence, row["split"]) == row["split"], sentence
    firsts = suite()[name]["text_a"].to_pylist()
    assert len(set(firsts)) == len(firsts)
    for row in suite()[name].to_pylist():
        assert len(set(sentences_of(row))) == len(sentences_of(row)), row


@pytest.mark.parametrize("name", TASK_NAMES)
def test_text_is_plain_lower_case_of_known_words(name):
    known = set(vocabulary())
    lengths = []
    for row in suite()[name].to_pylist():
        for text in sentences_of(row):
            assert text == text.lower() == " ".join(text.split())
            assert set(text.split()) <= known
        lengths.append(len(row["text_a"].split()))
    assert 6 <= np.mean(lengths) <= 12
    assert max(lengths) <= 32  # two clauses of all slots with two adverbs and two hedges


def test_vocabulary_is_sorted_distinct_and_used():
    words = vocabulary()
    assert words == sorted(set(words))
    assert 200 <= len(words) <= 300
    used = {w for t in suite().values() for r in t.to_pylist() for s in sentences_of(r) for w in s.split()}
    assert used == set(words)


# ---- the text alone decides -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TASK_NAMES)
def test_the_stored_truth_is_the_posterior_of_the_text(name):
    for row in suite()[name].to_pylist()[::3]:
        stored = [row["true_mean"], row["true_std"]] if name == "similarity" else row["true_probs"]
        recomputed = posterior(name, row["text_a"], row.get("text_b"), row.get("candidates"))
        # float32 rounds numbers up to 5 by up to 2.4e-7
        np.testing.assert_allclose(recomputed, stored, atol=1e-6, rtol=0)


def test_every_flaw_is_generated_and_read_back():
    """Guards against violations that never occur: each name of the table has to be seen in the acceptability task."""
    seen = {
        flaw
        for t in suite()["acceptability"]["text_a"].to_pylist()
        for c in parse_review(t).clauses
        for flaw in c.flaws
    }
    assert seen == set(FLAWS)


# ---- determinism ----------------------------------------------------------------------------------------------------
def digest(tables: dict[str, pa.Table]) -> str:
    """sha256 over texts, golds and truths, the latter to 6 decimals: libraries may differ in the last bits of exp."""
    sha = hashlib.sha256()
    for name in TASK_NAMES:
        for row in tables[name].to_pylist():
            truth = [row["true_mean"], row["true_std"]] if name == "similarity" else row["true_probs"]
            gold = f"{row['gold_value']:.5f}" if name == "similarity" else row["gold_label"]
            line = [row["example_id"], *sentences_of(row), gold, *(f"{value:.6f}" for value in truth)]
            sha.update("\t".join(line).encode())
    return sha.hexdigest()


GOLDEN = "6565cc6cdc903b73d49cbbac75503a8641fb246d0f3bee41932d52cc0ff85c52"


def test_golden_digest():
    """Changes only when the world does; then write the new digest here and say so in CHANGELOG."""
    assert digest(generate(TASK_NAMES, seed=0, n_train=60, n_dev=20, n_test=20)) == GOLDEN


def test_tables_do_not_depend_on_the_other_tasks_or_on_earlier_calls():
    small = {"seed": 5, "n_train": 80, "n_dev": 30, "n_test": 30}
    together = generate(TASK_NAMES, **small)
    for name in reversed(TASK_NAMES):
        assert generate([name], **small)[name].equals(together[name])
    other = generate(["nli"], **{**small, "seed": 6})["nli"]
    assert not set(other["text_a"].to_pylist()) & set(together["nli"]["text_a"].to_pylist()[:20])


def test_evaluation_sets_stay_when_training_grows():
    small = generate(["relevance"], seed=2, n_train=50, n_dev=40, n_test=40)["relevance"]
    large = generate(["relevance"], seed=2, n_train=400, n_dev=40, n_test=40)["relevance"]
    assert small.slice(50).equals(large.slice(400))


def test_no_humans_means_null():
    table = generate(["nli"], seed=0, n_train=5, n_dev=5, n_test=5, n_humans=0)["nli"]
    assert table["human_probs"].null_count == table["n_humans"].null_count == 15


# ---- labels follow the truth ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CLASS_TASKS)
def test_labels_follow_the_truth_in_every_stratum(name):
    """Chi-square of label counts against expected counts, in ten strata by the probability of each class."""
    truth, gold = truth_and_gold(name)
    statistic, freedom = 0.0, 0
    for label in range(truth.shape[1]):
        order = np.argsort(truth[:, label])
        for stratum in np.array_split(order, 10):
            p = truth[stratum, label]
            statistic += ((gold[stratum] == label).sum() - p.sum()) ** 2 / (p * (1 - p)).sum()
            freedom += 1
    # 0.1 % on either side. A row stands in one stratum of every class, so the strata are not quite independent and
    # the statistic spreads more than a chi-square: the lower bound, which only guards against labels that follow the
    # truth too closely, is halved.
    low, high = stats.chi2.ppf([0.001, 0.999], freedom)
    assert low * 0.5 < statistic < high


@pytest.mark.parametrize("name", CLASS_TASKS)
def test_the_truth_is_calibrated_within_its_sampling_interval(name):
    truth, gold = truth_and_gold(name)
    top, hit = truth.max(axis=1), truth.argmax(axis=1) == gold
    bins = np.clip((top * 10).astype(int), 0, 9)

    def ece(correct: np.ndarray) -> float:
        return sum(abs(correct[bins == b].mean() - top[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))

    generator = np.random.default_rng(0)
    simulated = [ece(generator.random(len(top)) < top) for _ in range(200)]
    assert ece(hit) <= np.quantile(simulated, 0.995)


@pytest.mark.parametrize("name", CLASS_TASKS)
def test_humans_follow_the_truth(name):
    table = suite()[name].slice(SIZES["n_train"])
    truth, humans = np.array(table["true_probs"].to_pylist()), np.array(table["human_probs"].to_pylist())
    np.testing.assert_allclose(humans.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(humans * 20, np.round(humans * 20), atol=1e-5)
    # variance of a share of 20 clicks, summed over all cells: a z-score of the mean squared, about 1
    z_squared = (humans - truth) ** 2 / (truth * (1 - truth) / 20)
    # 2,000 rows x C cells with heavy tails at small probabilities: its standard error is below 0.04
    assert 0.88 < z_squared.mean() < 1.12


def test_scores_follow_their_mean_and_spread():
    table = suite()["similarity"]
    mean, spread = np.array(table["true_mean"]), np.array(table["true_std"])
    for column, scale in (("gold_value", 1.0), ("human_mean", 20**-0.5)):
        value = np.array(table[column].to_numpy(zero_copy_only=False), dtype=float)
        z = ((value - mean) / (spread * scale))[~np.isnan(value)]
        # 5,000 and 2,000 rows: standard error of the mean at most 0.022, of the mean square about 0.05 (lapses)
        assert abs(z.mean()) < 0.08
        assert 0.85 < (z**2).mean() < 1.15
    gold = np.array(table["gold_value"])
    assert gold.min() >= 0
    assert gold.max() <= 5


def test_moments_of_a_clipped_score_match_simulation():
    from core.synthetic.pairs import clipped_moments
    from core.synthetic.suite import _draw_scores

    for centre, spread in ((0.05, 0.3), (1.0, 0.6), (2.5, 0.65), (4.9, 0.3)):
        drawn = _draw_scores(np.array([[centre, spread]]), np.random.default_rng(3), 200_000)
        # standard error of mean and standard deviation below 0.003
        np.testing.assert_allclose([drawn.mean(), drawn.std()], clipped_moments(centre, spread), atol=0.01)


# ---- the shape of the tasks -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "ceiling"),
    [("nli", 0.82), ("paraphrase", 0.83), ("sentiment", 0.64), ("relevance", 0.59), ("acceptability", 0.80)],
)
def test_bayes_ceilings_leave_real_ambiguity(name, ceiling):
    truth, gold = truth_and_gold(name)
    np.testing.assert_allclose(truth.sum(axis=1), 1.0, atol=1e-5)
    assert truth.max(axis=1).mean() == pytest.approx(ceiling, abs=0.03)
    # drawn accuracy differs from its expectation by at most 3 standard errors (0.5 / sqrt(5000) = 0.007)
    assert (truth.argmax(axis=1) == gold).mean() == pytest.approx(truth.max(axis=1).mean(), abs=0.02)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("nli", 0.25, 0.42),
        ("paraphrase", 0.40, 0.60),
        ("acceptability", 0.40, 0.60),
        ("sentiment", 0.08, 0.30),
        ("relevance", 0.22, 0.28),
    ],
)
def test_no_class_dominates(name, low, high):
    truth, gold = truth_and_gold(name)
    shares = np.bincount(gold, minlength=truth.shape[1]) / len(gold)
    assert low <= shares.min() <= shares.max() <= high


def test_sentiment_is_ordered():
    """Mass falls away from the mode on both sides: near classes are likelier than far ones."""
    truth, _ = truth_and_gold("sentiment")
    for row in truth:
        mode = int(row.argmax())
        steps = np.diff(row)
        assert (steps[:mode] > -1e-6).all(), row
        assert (steps[mode:] < 1e-6).all(), row
    assert len(set(truth.argmax(axis=1))) == 5


def test_dark_knowledge_is_there():
    """Off-argmax mass differs between rows of one argmax: a constant label smoothing could not give it."""
    for name in ("sentiment", "nli", "relevance"):
        truth, _ = truth_and_gold(name)
        runner_up = np.sort(truth, axis=1)[:, -2]
        assert runner_up.std() > 0.08
    nli, _ = truth_and_gold("nli")
    # a neutral pair may lean either way
    neutral = nli[nli.argmax(axis=1) == 1]
    assert np.quantile(neutral[:, 0], 0.9) > 0.25
    assert np.quantile(neutral[:, 2], 0.9) > 0.25


def test_paraphrase_and_similarity_are_symmetric():
    for name in ("paraphrase", "similarity"):
        for row in suite()[name].to_pylist()[:500]:
            there, back = (posterior(name, *pair) for pair in (sentences_of(row), sentences_of(row)[::-1]))
            np.testing.assert_allclose(there, back, atol=1e-12)


# ---- what can be learnt from single words ---------------------------------------------------------------------------
def bag_of_words_accuracy(name: str) -> float:
    table = suite()[name]
    texts = [
        " ".join(pair)
        for pair in zip(*(table[c].to_pylist() for c in ("text_a", "text_b") if c in table.schema.names), strict=True)
    ]
    _, gold = truth_and_gold(name)
    counts = CountVectorizer(token_pattern=r"\S+").fit_transform(texts)
    n = SIZES["n_train"]
    model = LogisticRegression(max_iter=300, C=0.2).fit(counts[:n], gold[:n])
    return float(model.score(counts[n:], gold[n:]))


def test_words_alone_give_much_of_sentiment_but_little_of_inference():
    """Gaps far above the standard error of an accuracy on 2,000 rows (0.011)."""
    for name, above_majority, below_bayes in (
        ("sentiment", 0.12, 0.05),
        ("nli", -0.05, 0.2),
        ("paraphrase", -0.05, 0.2),
    ):
        truth, gold = truth_and_gold(name)
        accuracy = bag_of_words_accuracy(name)
        assert accuracy > np.bincount(gold).max() / len(gold) + above_majority, name
        assert accuracy < truth.max(axis=1).mean() - below_bayes, name


# ---- unlabelled text ------------------------------------------------------------------------------------------------
def test_unlabelled_text_is_of_the_world():
    texts = unlabelled_text(2000, seed=1)
    assert len(texts) == len(set(texts)) == 2000
    assert texts == unlabelled_text(2000, seed=1)
    assert texts[:500] == unlabelled_text(500, seed=1)
    assert texts[:5] != unlabelled_text(5, seed=2)
    questions = [text for text in texts if text.endswith("?")]
    assert 0.1 < len(questions) / len(texts) < 0.2
    for text in texts:
        if not text.endswith("?"):
            assert not [f for clause in parse_review(text).clauses for f in clause.flaws]
