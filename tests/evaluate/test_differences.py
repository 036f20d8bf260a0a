"""Paired differences, splits and families: by hand, against scikit-learn and statsmodels, and by simulation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import f1_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from lib.errors import DataError
from lib.evaluate import differences, ensembles, intervals, measures
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


def crossed(arm, right, pretrainings, seeds):
    """Runs of an arm, pre-training by seed; ``right(p, s)`` says which cells each names right."""
    made = [right_on(arm, right(p, s), s, pretraining={"seed": p}) for p in pretrainings for s in seeds]
    for each in made:
        each.id += f"-{each.spec['pretraining']['seed']}"
    return made


def test_pair_crosses_pre_trainings():
    """An arm without pre-training stands beside every pre-training; two arms that have some are paired by them."""
    runs = crossed("a", lambda p, s: [1], (7, 8), (0, 1)) + crossed("b", lambda p, s: [1], (8, 9), (0, 1, 2))
    runs += [right_on("c", [1], s) for s in (0, 1, 3)]

    def found(first, second):
        one, other = differences.pair(runs, first, second)
        return [
            (measures.pretraining_of(a), measures.pretraining_of(b), a.spec["seed"], b.spec["seed"]) for a, b in zip(one, other)
        ]

    assert found("a", "c") == [(p, None, s, s) for p in (7, 8) for s in (0, 1)]
    assert sorted(found("c", "a")) == sorted((None, p, s, s) for p in (7, 8) for s in (0, 1))
    assert found("a", "b") == [(8, 8, 0, 0), (8, 8, 1, 1)]
    counted = differences.paired_difference(*differences.pair(runs, "a", "c"))
    assert (counted["n_pretrainings"], counted["n_seeds"], counted["n_cells"]) == (2, 2, 1)
    assert differences.paired_difference(*differences.pair(runs, "c", "c"))["n_pretrainings"] == 0
    in_turn = [
        run for run in runs if (measures.pretraining_of(run), run.spec["seed"]) in ((7, 0), (8, 1), (None, 0), (None, 1))
    ]
    assert counted["crossed"] and not differences.paired_difference(*differences.pair(in_turn, "a", "c"))["crossed"]


def test_a_difference_by_hand():
    """One cell, so that nothing is left to the bootstrap: Student's interval over the seeds, and p by scipy."""
    yes, no = right_on("a", [True]), right_on("b", [False])
    counts = {"n_cells": 1, "n_seeds": 1, "n_pretrainings": 0, "crossed": True}
    certain = {"difference": 1, "low": 1, "high": 1, "p": 0, "p_equivalence": 1, "detectable": 0}
    assert differences.paired_difference([yes], [no]) == certain | counts
    delta = np.array([1.0, 0.0, 0.0])
    first, second = [right_on("a", [True], s) for s in range(3)], [right_on("b", [s != 0], s) for s in range(3)]
    found = differences.paired_difference(first, second)
    expected = scipy_stats.ttest_1samp(delta, 0)
    interval = expected.confidence_interval(0.95)
    assert np.allclose([found["low"], found["high"], found["p"]], [interval.low, interval.high, expected.pvalue])
    tost = max(scipy_stats.ttest_1samp(delta, m, alternative=way).pvalue for m, way in ((-0.5, "greater"), (0.5, "less")))
    assert differences.paired_difference(first, second, margin=0.5)["p_equivalence"] == pytest.approx(tost)
    error = delta.std(ddof=1) / np.sqrt(3)
    assert found["detectable"] == pytest.approx((scipy_stats.t.ppf(0.975, 2) + scipy_stats.t.ppf(0.8, 2)) * error)
    # One run of either: the luck of the cells alone, a proportion's.
    found = differences.paired_difference([right_on("a", [1] * 60 + [0] * 40)], [right_on("b", [0] * 100)], resamples=20_000)
    assert found["high"] - found["difference"] == pytest.approx(
        scipy_stats.t.ppf(0.975, 99) * np.sqrt(0.6 * 0.4 / 100), rel=0.03
    )


@pytest.mark.parametrize("n, word", [(140, "undecided"), (755, "equivalent")])
def test_arms_that_name_every_cell_alike_may_differ_on_others(n, word):
    """None of n: the interval is Clopper and Pearson's, and so is the p of equivalence; few cells show no equivalence."""
    arms = [[right_on(arm, np.arange(n) % 4 > 0, seed) for seed in range(3)] for arm in "ab"]
    found = differences.paired_difference(*arms)
    exact = scipy_stats.binomtest(0, n).proportion_ci(0.95)
    assert (found["difference"], found["p"]) == (0, 1) and -found["low"] == found["high"] == pytest.approx(exact.high)
    assert found["p_equivalence"] == pytest.approx(scipy_stats.binomtest(0, n, 0.02, alternative="less").pvalue)
    assert differences.judged([found])["verdict"].tolist() == [word]


def test_seeds_of_one_accuracy_add_nothing():
    """They err on other cells, and are alike in accuracy: only the cells' variance is left, of the mean of their answers."""
    rng = np.random.default_rng(0)
    first = [right_on("a", rng.permutation(200) < 160, s) for s in range(4)]
    second = [right_on("b", np.ones(200), s) for s in range(4)]
    found = differences.paired_difference(first, second, resamples=20_000)
    mean = np.mean([r.predictions["probabilities"][:, 0] for r in first], 0)
    expected = scipy_stats.t.ppf(0.975, 199) * mean.std(ddof=1) / np.sqrt(200)
    assert (found["high"] - found["low"]) / 2 == pytest.approx(expected, rel=0.03)


def test_the_two_sources_of_luck_are_added():
    """Variance over cells plus variance over seeds, with Satterthwaite's degrees of freedom: by hand, from both."""
    rng = np.random.default_rng(1)
    right = [rng.random(300) < share for share in (0.7, 0.8, 0.9)]
    first, second = [right_on("a", r, s) for s, r in enumerate(right)], [right_on("b", np.zeros(300), s) for s in range(3)]
    found = differences.paired_difference(first, second, resamples=20_000)
    cells, seeds = np.mean(right, 0).var() / 300, np.mean(right, 1).var(ddof=1) / 3
    df = (cells + seeds) ** 2 / (cells**2 / 299 + seeds**2 / 2)
    expected = scipy_stats.t.ppf(0.975, df) * np.sqrt(cells + seeds)
    assert (found["high"] - found["low"]) / 2 == pytest.approx(expected, rel=0.01) and 2 < df < 4


def test_runs_of_one_pre_training_share_its_luck():
    """Three pre-trainings that differ, five seeds that do not: three draws, not fifteen."""
    luck = {0: [1, 0, 0, 0], 1: [1, 1, 0, 0], 2: [1, 1, 1, 1]}
    first = crossed("a", lambda p, s: luck[p] * 50, luck, range(5))
    second = [right_on("b", [0] * 200, s) for s in range(5)]
    found = differences.paired_difference(*differences.pair(first + second, "a", "b"))
    accuracy = np.array([0.25, 0.5, 1])
    wide = (found["high"] - found["low"]) / 2
    assert found["difference"] == pytest.approx(accuracy.mean()) and found["n_pretrainings"] == 3
    assert wide > 0.95 * scipy_stats.t.ppf(0.975, 2) * accuracy.std(ddof=1) / np.sqrt(3) > 0.5
    one = differences.paired_difference(*differences.pair(first[:5] + second, "a", "b"))
    assert one["n_pretrainings"] == 1 and (one["high"] - one["low"]) / 2 < 0.1, "what one pre-training cannot know"


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
    with pytest.raises(ValueError, match=r"^metric is 'recall'; it is accuracy or macro_f1"):
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
        found = ensembles.mcnemar([right_on("a", a)], [right_on("b", b)])
        assert (found["only_first"], found["only_second"]) == (only_first, only_second)
        assert found["odds"] == pytest.approx(only_first / only_second)
        if only_first + only_second < 25:
            assert found["p"] == pytest.approx(scipy_stats.binomtest(only_first, only_first + only_second).pvalue)
        else:
            table = [[0, only_first], [only_second, 0]]
            assert found["p"] == pytest.approx(statsmodels_mcnemar(table, exact=False).pvalue)
    same = ensembles.mcnemar([right_on("a", a)], [right_on("b", a)])
    assert same["p"] == 1 and np.isnan(same["odds"])
    assert ensembles.mcnemar([right_on("a", [1, 1])], [right_on("b", [1, 0])])["odds"] == np.inf
    assert ensembles.mcnemar([right_on("a", [1, 0])], [right_on("b", [1, 1])])["odds"] == 0


def test_mcnemar_has_one_answer_of_all_runs():
    """The mean of the probabilities decides: two runs that are sure outvote one that is not."""
    labels = np.zeros(2, int)
    sure = [run("a", labels, [0, 1], s, sure=0.9) for s in (0, 1)] + [run("a", labels, [1, 1], 2, sure=0.6)]
    found = ensembles.mcnemar(sure, [run("b", labels, [1, 0])] * 3)
    assert (found["only_first"], found["only_second"], found["p"]) == (1, 1, 1) and found["averaged"] == (3, 1)


def test_mcnemar_of_single_runs_stands_beside_that_of_ensembles():
    """Each pair by itself: medians by hand; three runs that err on other cells are right nearly everywhere together."""
    cells = np.arange(300)
    first = [run("a", np.zeros(300, int), np.where(cells % 3 == s, 1, 0), s, sure=0.9) for s in range(3)]
    second = [right_on("b", cells < rights, s, classes=["right", "wrong"]) for s, rights in enumerate((300, 150, 150))]
    found = ensembles.mcnemar(first, second)
    assert (found["only_first"], found["only_second"]) == (150, 0), "two of three runs of either outvote the third"
    each = [ensembles.mcnemar([a], [b]) for a, b in zip(first, second)]
    for key in ("only_first", "only_second", "p"):
        assert found[f"pair_{key}"] == np.median([one[key] for one in each])
    assert found["pairs"] == 3 and found["pairs_below"] == sum(one["p"] < 0.05 for one in each) == 3
    assert (each[0]["pair_p"], each[0]["pairs"], each[0]["averaged"]) == (each[0]["p"], 1, (1, 1))


def test_an_ensemble_is_the_mean_of_probabilities():
    """Each different run once, however often it stands in pairs; of other test cells, refused."""
    labels = np.zeros(4, int)
    runs = [run("a", labels, [0, 0, 1, 1], 0, sure=0.9), run("a", labels, [1, 0, 0, 1], 1, sure=0.6)]
    together = ensembles.ensemble([*runs, runs[1], runs[1]])
    assert np.allclose(together.predictions["probabilities"][:, 0], [0.65, 0.75, 0.35, 0.25])
    mean, low, high = differences.mean_and_interval([together])
    assert mean == 0.5 and low <= 0.5 <= high and together.spec["arm"] == "a"
    runs[1].predictions["test"] = np.arange(1, 5)
    with pytest.raises(DataError, match="Runs of other test cells cannot be averaged"):
        ensembles.ensemble(runs)


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


def test_scores_on_the_hard_pair_and_in_zheng68ks_mix():
    """As :func:`lib.evaluate.measures.scores` has them; weighted, a type counts as often as in Zheng68K."""
    rng = np.random.default_rng(0)
    names = np.array([*measures.HARD_PAIR, "CD19+ B", "none of them"])
    labels = np.sort(rng.integers(0, 4, 120))
    made = run("a", labels, answers(rng, labels, 0.7), classes=names)
    known = measures.scores(labels, made.predictions["probabilities"].argmax(1), names)
    for metric in ("accuracy_hard_pair", "macro_f1_hard_pair", "accuracy", "macro_f1"):
        assert differences._scores([made], np.ones((1, 120)), metric)[0, 0] == pytest.approx(known[metric])
    recalls, counts = [known[f"recall[{name}]"] for name in names[:3]], [20757, 16645, 5877]
    weighted = differences._scores([made], np.ones((1, 120)), "accuracy_zheng68k")[0, 0]
    assert weighted == pytest.approx(np.average(recalls, weights=counts))
    assert sum(measures.ZHENG68K.values()) == 68_450
    with pytest.raises(DataError, match="None of the types has a weight in the mix: type 0"):
        differences.paired_difference([right_on("a", [1])], [right_on("b", [1])], "accuracy_zheng68k")


def test_a_difference_on_another_mix_is_that_of_recalls():
    """Its variance is that of the recalls, type by type, weighted as in the mix: the textbook's for strata."""
    rng = np.random.default_rng(0)
    names = np.array(["CD19+ B", "CD56+ NK", "none of them"])
    labels = np.repeat([0, 1, 2], [40, 160, 50])
    right = rng.random(250) < np.array([0.5, 0.9, 0.7])[labels]
    one = run("a", labels, np.where(right, labels, (labels + 1) % 3), classes=names)
    none = run("b", labels, (labels + 1) % 3, classes=names)
    found = differences.paired_difference([one], [none], "accuracy_zheng68k", resamples=20_000)
    share = np.array([5877, 8775]) / (5877 + 8775)
    recall = np.array([right[labels == k].mean() for k in (0, 1)])
    assert found["difference"] == pytest.approx(share @ recall)
    assert measures.reweighted(labels, one.predictions["probabilities"].argmax(1), names) == pytest.approx(share @ recall)
    error = np.sqrt(share**2 @ (recall * (1 - recall) / [39, 159]))
    assert (found["high"] - found["low"]) / 2 == pytest.approx(scipy_stats.t.ppf(0.975, 249) * error, rel=0.03)
    assert measures.covered(labels, names) == pytest.approx((5877 + 8775) / 68_450)
    assert measures.covered(labels, names, {"CD19+ B": 1, "none of them": 2, "other": 1}) == 0.75
    even = measures.reweighted(labels, one.predictions["probabilities"].argmax(1), names, {"CD19+ B": 1, "CD56+ NK": 1})
    assert even == pytest.approx(recall.mean())


def test_the_hard_pair_rests_on_its_own_cells():
    labels = np.repeat([0, 1, 2], [6, 4, 90])
    names = np.array([*measures.HARD_PAIR, "other"])
    rng = np.random.default_rng(0)
    arms = [[run(arm, labels, rng.permutation(labels), classes=names)] for arm in "ab"]
    for metric in ("accuracy_hard_pair", "macro_f1_hard_pair"):
        assert differences.paired_difference(*arms, metric)["n_cells"] == 10
    assert differences.paired_difference(*arms)["n_cells"] == 100
