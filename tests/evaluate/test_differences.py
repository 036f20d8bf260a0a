"""Paired differences, splits and families: by hand, against scikit-learn and statsmodels, and by simulation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import f1_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from lib.errors import DataError
from lib.evaluate import differences, intervals
from tests.evaluate.made import answers, right_on, run


def test_pair_takes_common_seeds_in_order():
    """Only seeds that both arms have, and only runs with the asked fraction."""
    labels = np.array([0, 1, 2, 3])
    runs = [run("a", labels, labels, s, fraction=f) for s in (2, 0, 1) for f in (0.1, 1.0)]
    runs += [run("b", labels, labels, s, fraction=0.1) for s in (1, 2)] + [run("c", labels, labels, 7)]
    first, second = differences.pair(runs, "a", "b", fraction=0.1)
    assert [r.spec["seed"] for r in first] == [r.spec["seed"] for r in second] == [2, 1]
    assert {r.spec["fraction"] for r in first + second} == {0.1}
    assert {r.spec["arm"] for r in first} == {"a"} and {r.spec["arm"] for r in second} == {"b"}
    with pytest.raises(DataError, match=r"No run of a has the seed of a run of c\.$"):
        differences.pair(runs, "a", "c")
    with pytest.raises(DataError, match=r"No run of a has the seed of a run of b with \{'fraction': 0.5\}\.$"):
        differences.pair(runs, "a", "b", fraction=0.5)


def test_a_difference_by_hand():
    """One cell: every resample is that cell, so all is known; two seeds that differ: the bootstrap over seeds alone."""
    yes, no = right_on("a", [True]), right_on("b", [False])
    assert differences.paired_difference([yes], [no]) == {
        "difference": 1,
        "low": 1,
        "high": 1,
        "p": 2 / 2001,
        "n_cells": 1,
        "n_seeds": 1,
        "p_equivalence": 1,
    }
    turned = differences.paired_difference([no], [yes], resamples=99)
    assert (turned["difference"], turned["low"], turned["high"], turned["p"]) == (-1, -1, -1, 2 / 100)
    assert turned["p_equivalence"] == 1
    same = differences.paired_difference([yes], [yes], resamples=99)
    assert (same["difference"], same["p"], same["p_equivalence"]) == (0, 1, 1 / 100)
    on_the_margin = differences.paired_difference([yes], [no], margin=1)
    assert on_the_margin["p_equivalence"] == 1 and differences.paired_difference([no], [yes], margin=1)["p_equivalence"] == 1
    # Differences 1 and 0, nothing of it from cells: ½ ± √2 · ½ where one seed is drawn twice, which it is half of the times.
    first = [right_on("a", [True], s) for s in (0, 1)]
    second = [right_on("b", [s == 1], s) for s in (0, 1)]
    found = differences.paired_difference(first, second)
    assert (found["difference"], found["n_seeds"]) == (0.5, 2)
    assert np.allclose([found["low"], found["high"]], [0.5 - np.sqrt(0.5), 0.5 + np.sqrt(0.5)]) and 0.45 < found["p"] < 0.56
    # Three seeds, one of which differs by 1: it is drawn three times in one of 27 samples, and not at all in eight.
    second = [right_on("b", [s != 0], s) for s in range(3)]
    found = differences.paired_difference([right_on("a", [True], s) for s in range(3)], second, resamples=4000)
    assert np.allclose([found["low"], found["high"]], [(1 - np.sqrt(1.5)) / 3, (1 + 2 * np.sqrt(1.5)) / 3])
    again = [
        differences.paired_difference([right_on("a", [True], s) for s in range(3)], second, seed=k)["p"] for k in (0, 0, 1)
    ]
    assert again[0] == again[1] != again[2]  # the seeds of the runs are drawn by the seed of the bootstrap
    # Two of four cells are right by the first alone, one by the second: −0.75 or less is drawn 5 times in 256, 1 16 times.
    found = differences.paired_difference([right_on("a", [1, 1, 0, 1])], [right_on("b", [0, 0, 1, 1])], resamples=4000)
    assert found["difference"] == 0.25 and found["n_cells"] == 4 and (found["low"], found["high"]) == (-0.5, 1)


def test_seeds_that_err_on_other_cells_are_not_counted_twice():
    """Seeds of one accuracy that err on other cells add nothing: the interval is no wider than that of their mean answers."""
    rng = np.random.default_rng(0)
    first = [right_on("a", rng.permutation(200) < 160, s) for s in range(4)]
    second = [right_on("b", np.ones(200), s) for s in range(4)]
    found = differences.paired_difference(first, second)
    mean = np.mean([r.predictions["probabilities"][:, 0] for r in first], 0)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * mean.std() / np.sqrt(200), rel=0.06)
    each = np.array([[0.3, 0.5], [0.1, 0.7]])  # of two seeds: around their mean they vary by 0.01, twice that is a seed's own
    assert differences._luck_of_seeds(np.array([0.0, 0.4]), each) == pytest.approx(np.sqrt((0.08 - 0.02) / 0.04))
    assert differences._luck_of_seeds(np.array([0.0, 0.1]), each) == 0  # they differ less than their errors do


def test_paired_difference_recovers_a_known_one():
    """The effect is the difference of the accuracies; equal arms give zero; unpaired runs are refused."""
    rng = np.random.default_rng(0)
    first = [right_on("a", rng.random(400) < 0.9, seed) for seed in range(3)]
    second = [right_on("b", rng.random(400) < 0.7, seed) for seed in range(3)]
    found = differences.paired_difference(first, second)
    accuracy = [np.mean([r.predictions["probabilities"].argmax(1) == 0 for r in arm]) for arm in (first, second)]
    assert found["difference"] == pytest.approx(accuracy[0] - accuracy[1])
    assert found["low"] < found["difference"] < found["high"] and found["low"] > 0 and found["p"] < 0.01
    turned = differences.paired_difference(second, first)
    assert np.allclose([turned["low"], turned["high"]], [-found["high"], -found["low"]])
    same = differences.paired_difference(first, first)
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)
    with pytest.raises(
        ValueError, match="Runs a-0-0-1.0-paper and b-2-0-1.0-paper are not paired: they differ in seed or test"
    ):
        differences.paired_difference(first, second[::-1])
    with pytest.raises(ValueError, match="shorter"):
        differences.paired_difference(first, second[:2])
    second[0].predictions["test"] = np.arange(1, 401)
    with pytest.raises(ValueError, match="not paired"):
        differences.paired_difference(first, second)


def test_paired_difference_covers_the_truth():
    """Simulated under the null, the 95 % interval misses zero in about one of twenty experiments, not more."""
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(150):
        difficulty = rng.beta(4, 1.5, 140)  # shared by both arms: the same test cells
        arms = [[right_on("a", rng.random(140) < difficulty, seed) for seed in range(3)] for _ in range(2)]
        found = differences.paired_difference(*arms, resamples=400)
        missed += not found["low"] <= 0 <= found["high"]
    assert 1 <= missed <= 15


def test_macro_f1_of_resamples_is_scikit_learns():
    """Scores of drawn cells, computed by weights, equal scikit-learn's on the drawn cells themselves."""
    rng = np.random.default_rng(1)
    labels = np.array([0] * 30 + [1] * 20 + [2] * 3 + [3] * 40)
    one = run("a", labels, answers(rng, labels, 0.6))
    predicted = one.predictions["probabilities"].argmax(1)
    for _ in range(20):
        drawn = rng.integers(0, len(labels), len(labels))
        weights = np.bincount(drawn, minlength=len(labels))[None]
        present = np.unique(labels[drawn])  # a rare type may not be drawn at all
        expected = f1_score(labels[drawn], predicted[drawn], labels=present, average="macro", zero_division=0)
        assert differences._scores([one], weights, "macro_f1")[0, 0] == pytest.approx(expected)
        assert differences._scores([one], weights, "accuracy")[0, 0] == pytest.approx(np.mean((labels == predicted)[drawn]))
    with pytest.raises(ValueError, match=r"^metric is 'recall'; it is one of accuracy, macro_f1\.$"):
        differences.paired_difference([one], [one], metric="recall")
    # By hand: a type that is named but does not occur is not counted; F1 of type 0 is 2 · 1 / (2 + 1), of type 1 it is 1.
    one = run("a", [0, 0, 1], [0, 2, 1])
    assert differences._scores([one], np.ones((1, 3)), "macro_f1").tolist() == [[pytest.approx((2 / 3 + 1) / 2)]]
    assert differences.paired_difference([one], [run("b", [0, 0, 1], [1, 1, 1])], "macro_f1")["difference"] == pytest.approx(
        7 / 12
    )


def test_bootstrap_of_one_arm_agrees_with_wilson():
    """For one run's accuracy, the interval over test cells is close to Wilson's; the mean is the score itself."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    one, other = run("a", labels, answers(rng, labels, 0.8)), run("a", labels, labels)
    right = int((one.predictions["probabilities"].argmax(1) == labels).sum())
    mean, low, high = differences.mean_and_interval([one], resamples=4000)
    assert mean == right / 400 and np.allclose([low, high], intervals.wilson(right, 400)[1:], atol=0.008)
    expected = f1_score(labels, one.predictions["probabilities"].argmax(1), average="macro")
    assert differences.mean_and_interval([one], "macro_f1")[0] == pytest.approx(expected)
    assert differences.mean_and_interval([one, other])[0] == pytest.approx((right / 400 + 1) / 2)


def test_mcnemar_is_statsmodels_and_the_binomial():
    """Discordant cells counted by hand; exact p is the binomial's, the other the chi-squared with continuity."""
    for only_first, only_second in ((3, 12), (16, 8), (17, 8), (40, 22)):
        a, b = np.ones(200, bool), np.ones(200, bool)
        a[:only_second] = False
        b[only_second : only_second + only_first] = False
        found = differences.mcnemar([right_on("a", a)], [right_on("b", b)])
        assert (found["only_first"], found["only_second"]) == (only_first, only_second)
        assert found["odds"] == pytest.approx(only_first / only_second)
        if only_first + only_second < 25:
            assert found["p"] == pytest.approx(scipy_stats.binomtest(only_first, only_first + only_second).pvalue)
        else:
            table = [[0, only_first], [only_second, 0]]
            assert found["p"] == pytest.approx(statsmodels_mcnemar(table, exact=False).pvalue)
    same = differences.mcnemar([right_on("a", a)], [right_on("b", a)])
    assert same["p"] == 1 and np.isnan(same["odds"])
    assert differences.mcnemar([right_on("a", [1, 1])], [right_on("b", [1, 0])])["odds"] == np.inf
    assert differences.mcnemar([right_on("a", [1, 0])], [right_on("b", [1, 1])])["odds"] == 0


def test_mcnemar_has_one_answer_of_all_runs():
    """The mean of the probabilities decides: two runs that are sure outvote one that is not."""
    labels = np.zeros(2, int)
    sure = [run("a", labels, [0, 1], s, sure=0.9) for s in (0, 1)] + [run("a", labels, [1, 1], 2, sure=0.6)]
    found = differences.mcnemar(sure, [run("b", labels, [1, 0])])
    assert (found["only_first"], found["only_second"], found["p"]) == (1, 1, 1)


def test_over_splits_pairs_by_split():
    """Differences are taken within a split; arms without a common split are refused."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 100)
    runs = [
        run(arm, labels, answers(rng, labels, share), k, split={"seed": k})
        for k in range(6)
        for arm, share in (("a", 0.9), ("b", 0.6))
        if not (arm == "b" and k == 5)
    ]
    found = differences.over_splits(runs, "a", "b")
    score = {r.id[:3]: np.mean(r.predictions["labels"] == r.predictions["probabilities"].argmax(1)) for r in runs}
    expected = [score[f"a-{k}"] - score[f"b-{k}"] for k in range(5)]
    assert found == intervals.corrected_t(expected, 400, 100) and found["n_splits"] == 5 and found["low"] > 0
    with pytest.raises(DataError, match=r"^a and b have no split in common\.$"):
        differences.over_splits([run("a", labels, labels), run("b", labels, labels, split={"seed": 2})], "a", "b")


def test_arms_over_splits_are_a_family():
    """Every arm but the reference and the majority, by both scores; Holm over all of them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 100)
    shares = {"a": 0.9, "logistic_regression": 0.6, "majority": 0.2, "c": 0.6}
    runs = [
        run(arm, labels, answers(rng, labels, share), k, split={"seed": k}) for k in range(5) for arm, share in shares.items()
    ]
    table = differences.splits_family(runs)
    assert table[["arm", "metric"]].to_numpy().tolist() == [[a, m] for a in ("a", "c") for m in ("accuracy", "macro_f1")]
    assert set(table["reference"]) == {"logistic_regression"} and table["verdict"].tolist() == ["ahead"] * 2 + ["undecided"] * 2
    assert np.allclose(table["p_holm"], intervals.holm(table["p"]))
    macro = differences.over_splits(runs, "a", "logistic_regression", "macro_f1")
    assert table.loc[1, list(macro)].to_dict() == macro
    assert set(differences.splits_family(runs, "a")["verdict"]) == {"behind"}


def test_family_and_its_words():
    """Holm over all rows; ahead, behind, equivalent and undecided where they are true by construction."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 500)
    reference = answers(rng, labels, 0.7)
    change = {"good": answers(rng, labels, 0.9), "bad": answers(rng, labels, 0.4), "same": reference.copy()}
    change["same"][:3] = labels[:3]
    runs = [run("ref", labels, reference, s) for s in range(3)]
    runs += [run(arm, labels, predicted, s) for arm, predicted in change.items() for s in range(3)]
    table = differences.family([(arm, "ref", "accuracy", {"fraction": 1.0}) for arm in change], runs).set_index("arm")
    assert table["verdict"].to_dict() == {"good": "ahead", "bad": "behind", "same": "equivalent"}
    assert np.allclose(table["p_holm"], intervals.holm(table["p"])) and set(table["reference"]) == {"ref"}
    assert table["fraction"].tolist() == [1.0] * 3 and table["metric"].tolist() == ["accuracy"] * 3
    alone = differences.paired_difference(*differences.pair(runs, "bad", "ref"))
    assert table.loc["bad", list(alone)].to_dict() == alone
    few = [run(arm, labels[:60], answers(rng, labels[:60], 0.7)) for arm in ("a", "b")]
    macro = differences.family([("a", "b", "macro_f1", {})], few)
    assert macro["verdict"].tolist() == ["undecided"] and "fraction" not in macro
    assert macro["difference"][0] == differences.paired_difference(*[[r] for r in few], metric="macro_f1")["difference"]
    with pytest.raises(DataError, match="No run of good"):
        differences.pair(runs, "good", "nowhere")
    with pytest.raises(DataError, match=r"^A family needs a question, and none is left that these runs can answer\.$"):
        differences.family([], runs)


def test_more_questions_make_a_verdict_harder():
    """A difference that is shown alone is undecided among many, by Holm's p: the interval is the same."""
    row = {"difference": 0.03, "low": 0.001, "high": 0.06, "p": 0.03, "p_equivalence": 0.8}
    assert differences.judged([row])["verdict"].tolist() == ["ahead"]
    table = differences.judged([row, row | {"p": 0.5}])
    assert table["verdict"].tolist() == ["undecided"] * 2 and table["p_holm"].tolist() == [0.06, 0.5]


def test_a_pair_is_judged_once():
    """A question is not asked again, whichever arm comes first; another metric or fraction is another question."""

    def question(first, second, metric="accuracy", **where):
        return first, second, metric, where

    asked = pd.DataFrame([{"arm": "a", "reference": "b", "metric": "accuracy", "fraction": 1.0}])
    older = pd.DataFrame([{"arm": "c", "reference": "d", "metric": "macro_f1"}])
    questions = [question("a", "b"), question("b", "a", fraction=1.0), question("d", "c", "macro_f1", fraction=1.0)]
    new = [question("a", "b", "macro_f1"), question("a", "b", fraction=0.5), question("a", "c"), question("c", "d")]
    assert differences.unasked([*questions, *new], asked, older) == new
    assert differences.unasked(questions, asked) == questions[2:] and differences.unasked(new) == new


@pytest.mark.slow
def test_coverage_and_false_positives(record_property, capsys):
    """Simulated experiments: the 95 % intervals cover the truth, and the tests reject a true null, as often as they say.

    Test cells differ in difficulty, training runs in luck; both are drawn anew in each experiment. The bands are
    what 600 experiments of a right method give (0.95 ± three standard errors), a little wider on the safe side.
    """
    rng, n, cells, seeds = np.random.default_rng(0), 600, 140, 5
    covered, rejected, mcnemar, equivalent = 0, 0, 0, 0
    truth = 0.05
    for k in range(n):
        difficulty = rng.beta(4, 1.5, cells) * 0.85

        def arm(name, shift):
            luck = rng.normal(0, 0.015, seeds)
            right = [rng.random(cells) < np.clip(difficulty + shift + s, 0, 1) for s in luck]
            return [right_on(name, r, s) for s, r in enumerate(right)]

        reference = arm("b", 0)
        found = differences.paired_difference(arm("a", truth), reference, resamples=400, seed=k)
        covered += found["low"] <= truth <= found["high"]
        null = arm("c", 0)
        rejected += differences.paired_difference(null, reference, resamples=400, seed=k)["p"] < 0.05
        mcnemar += differences.mcnemar(null[:1], reference[:1])["p"] < 0.05
        # The truth lies on the margin, which is wide enough for these few cells: one in twenty is called equivalent.
        on_margin = differences.paired_difference(arm("d", 0.1), reference, resamples=400, seed=k, margin=0.1)
        equivalent += on_margin["p_equivalence"] < 0.05
    found = {"coverage": covered / n, "false positives": rejected / n, "McNemar": mcnemar / n, "TOST": equivalent / n}
    for name, value in found.items():
        record_property(name, float(value))
    with capsys.disabled():
        print(f"\npaired bootstrap, {n} experiments: " + ", ".join(f"{k} {v:.3f}" for k, v in found.items()))
    assert 0.92 <= found["coverage"] <= 0.98 and found["false positives"] <= 0.08
    assert 0.02 <= found["McNemar"] <= 0.08 and 0.01 <= found["TOST"] <= 0.08
