"""Scores, intervals and the scorecard, against scikit-learn, scipy, closed forms and simulation."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import accuracy_score, classification_report, f1_score

from lib.evaluate import differences, intervals, measures, representations
from lib.paper import published, scorecard
from lib.settings import ROOT

SHARED = ROOT.parent / "shared" / "published"


def test_confidence_interval_is_students():
    """Mean and half width as scipy gives them, with the sample's standard deviation."""
    values = np.random.default_rng(0).normal(0.7, 0.05, 7)
    mean, half = intervals.confidence_interval(values, 0.9)
    low, high = scipy_stats.t.interval(0.9, 6, loc=values.mean(), scale=scipy_stats.sem(values))
    assert np.allclose([mean - half, mean + half], [low, high])
    assert np.isnan(intervals.confidence_interval([0.5])[1])


def test_scores_equal_scikit_learn():
    """Accuracy, macro-F1, recall and the hard pair, against scikit-learn on the same cells."""
    rng = np.random.default_rng(1)
    classes = np.array(["B", *measures.HARD_PAIR, "NK"])
    labels = rng.integers(0, 4, 300)
    predicted = np.where(rng.random(300) < 0.6, labels, rng.integers(0, 4, 300))
    found = measures.scores(labels, predicted, classes)
    report = classification_report(labels, predicted, output_dict=True)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert found["recall[NK]"] == pytest.approx(report["3"]["recall"])
    hard = (labels == 1) | (labels == 2)
    assert found["accuracy_hard_pair"] == pytest.approx(accuracy_score(labels[hard], predicted[hard]))
    assert "accuracy_hard_pair" not in measures.scores(labels[labels != 1], predicted[labels != 1], classes)


def fake(seed, right, test=None):
    """A run with given right and wrong answers."""
    labels = np.zeros(len(right), int)
    probabilities = np.where(np.asarray(right)[:, None], [1.0, 0.0], [0.0, 1.0])
    return SimpleNamespace(id=f"r{seed}", spec={"seed": seed}, predictions={
        "labels": labels, "probabilities": probabilities, "test": np.arange(len(right)) if test is None else test})  # fmt: skip


def test_paired_difference_recovers_a_known_one():
    """The effect is the difference of the accuracies; equal arms give zero; unpaired runs are refused."""
    rng = np.random.default_rng(0)
    first = [fake(seed, rng.random(400) < 0.9) for seed in range(3)]
    second = [fake(seed, rng.random(400) < 0.7) for seed in range(3)]
    found = differences.paired_difference(first, second)
    accuracy = [np.mean([r.predictions["probabilities"].argmax(1) == 0 for r in arm]) for arm in (first, second)]
    assert found["difference"] == pytest.approx(accuracy[0] - accuracy[1])
    assert found["low"] < found["difference"] < found["high"] and found["low"] > 0 and found["p"] < 0.01
    same = differences.paired_difference(first, first)
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="not paired"):
        differences.paired_difference(first, second[::-1])


def test_paired_difference_covers_the_truth():
    """Simulated under the null, the 95 % interval misses zero in about one of twenty experiments, not more."""
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(150):
        difficulty = rng.beta(4, 1.5, 140)  # shared by both arms: the same test cells
        arms = [[fake(seed, rng.random(140) < difficulty) for seed in range(3)] for _ in range(2)]
        found = differences.paired_difference(*arms, resamples=400)
        missed += not found["low"] <= 0 <= found["high"]
    assert missed <= 15


def test_effect_is_welchs():
    """Difference and interval as scipy's Welch test gives them; a single run has no interval."""
    a, b = np.array([0.7, 0.75, 0.73]), np.array([0.6, 0.66, 0.64, 0.7])
    difference, low, high = intervals.effect(a, b)
    interval = scipy_stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert np.allclose([difference, low, high], [a.mean() - b.mean(), interval.low, interval.high])
    assert np.isnan(intervals.effect(a, b[:1])[1])


def test_neighbours_and_knn():
    """An embedding shares all neighbours with itself and about chance with noise; separated types are named."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 8))
    assert representations.neighbour_overlap(x, 3 * x) == 1
    assert representations.neighbour_overlap(x, rng.normal(size=(200, 8))) < 0.12
    labels = np.repeat([0, 1], 100)
    order = rng.permutation(200)
    assert representations.knn_accuracy(x + 9 * labels[:, None], labels, order[:150], order[150:]) == 1
    assert representations.knn_accuracy(x, labels, order[:150], order[150:]) < 0.8


def test_published_numbers_are_the_authors():
    """The means that the paper prints follow from its runs as they are kept here."""
    means = published.runs().query("dataset == 'zheng68k' and fraction == 1 and experiment != 'few_shot'")
    mean = means.groupby(["arm", "metric"])["value"].mean().round(4)
    assert mean["full", "accuracy"] == 0.7665 and mean["full", "macro_f1"] == 0.6753
    assert mean["no_gene2vec", "accuracy"] == 0.7012 and mean["no_gene2vec", "macro_f1"] == 0.5946
    assert mean["no_pretraining", "accuracy"] == 0.7579 and mean["full", "accuracy_hard_pair"] == 0.7648


@pytest.mark.skipif(not SHARED.exists(), reason="the originals are not beside this checkout")
@pytest.mark.parametrize("name", ["runs.csv", "masked.csv"])
def test_published_files_are_unchanged(name):
    """The files in data/published are those that were handed over."""
    assert (published.FOLDER / name).read_bytes() == (SHARED / name).read_bytes()


@pytest.fixture
def card():
    """A scorecard in which ours are the paper's own runs, on Zheng68K, one arm made much worse."""
    ours = published.runs().query("dataset == 'zheng68k'").copy()
    ours["seed"] = 0
    ours.loc[ours["arm"] == "no_pretraining", "value"] -= 0.3
    rng = np.random.default_rng(0)
    cell = np.repeat(np.arange(20), 50)
    target, rule = rng.integers(1, 6, 1000), rng.integers(1, 6, 1000)
    masked = [SimpleNamespace(spec={"arm": "full"}, predictions={"cell": cell, "target": target, "predicted": target, "most_common_bin": rule}),
              SimpleNamespace(spec={"arm": "no_gene2vec"}, predictions={"cell": cell, "target": target, "predicted": rule, "most_common_bin": rule})]  # fmt: skip
    assert list(scorecard.masked_scorecard(masked, "macparland").query("dataset == 'macparland'")["verdict"].unique()) == ["no reference published"]
    return scorecard.scorecard(ours, masked, "zheng68k")


def test_scorecard_has_every_published_number(card):
    """No published arm, fraction or metric is left out, and its number of runs is right."""
    keys = ["experiment", "dataset", "arm", "fraction", "metric"]
    expected = published.runs().groupby(keys).size()
    found = card[card["experiment"] != "masked"].set_index(keys)["n_paper"]
    pd.testing.assert_series_equal(found.sort_index(), expected.sort_index(), check_names=False)
    assert (card["experiment"] == "masked").sum() == 3 * len(published.masked())


def test_scorecard_verdicts_follow_the_rule(card):
    """Equal runs give the same direction, a worse arm another, and what was not run is called so."""
    verdict = card.set_index(["experiment", "dataset", "arm", "fraction", "metric"])["verdict"]
    assert verdict["ablation", "zheng68k", "no_gene2vec", 1.0, "accuracy"] == "same"
    assert verdict["ablation", "zheng68k", "no_pretraining", 1.0, "accuracy"] == "paper undecided"
    row = card.query("arm == 'no_pretraining' and metric == 'accuracy'").iloc[0]
    runs = published.runs().query("metric == 'accuracy' and dataset == 'zheng68k' and fraction == 1")
    full = runs.query("arm == 'full' and experiment == 'baseline'")["value"]
    assert row["effect_paper"] == pytest.approx(runs.query("arm == 'no_pretraining'")["value"].mean() - full.mean())
    assert verdict["baseline", "macparland", "logistic_regression", 1.0, "accuracy"] == "not run: macparland"
    assert verdict["baseline", "zheng68k", "logistic_regression", 1.0, "recall[CD34+]"] == "no reference published"
    assert verdict["masked", "zheng68k", "full", 1.0, "masked_accuracy"] == "same"
    assert verdict["masked", "zheng68k", "no_gene2vec", 1.0, "masked_accuracy"] == "same"
