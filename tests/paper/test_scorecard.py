"""The scorecard: every published number, verdicts by the rule, ours and the paper's on their own sides, claims judged once."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lib.errors import DataError
from lib.evaluate import differences, intervals, measures, words
from lib.paper import published, scorecard
from tests.evaluate.made import answers, run

KEYS = ["experiment", "dataset", "arm", "fraction", "metric"]


def masked_run(arm, cell, target, predicted, rule):
    names = ("cell", "target", "predicted", "most_common_bin")
    predictions = dict(zip(names, map(np.array, (cell, target, predicted, rule))))
    return SimpleNamespace(id=arm, spec={"arm": arm, "seed": 0, "pretraining": {"seed": 0}}, predictions=predictions)


@pytest.fixture(scope="module")
def masked():
    """The masked task on 20 cells: scBERT always right, without gene embedding it says the rule's bin."""
    rng = np.random.default_rng(0)
    cell = np.repeat(np.arange(20), 50)
    target, rule = rng.integers(1, 6, 1000), rng.integers(1, 6, 1000)
    return [masked_run("full", cell, target, target, rule), masked_run("no_gene2vec", cell, target, rule, rule)]


@pytest.fixture(scope="module")
def card(masked):
    """A scorecard in which ours are the paper's own runs, on Zheng68K, one arm made much worse."""
    ours = published.runs().query("dataset == 'zheng68k'").copy()
    ours["seed"] = 0
    ours.loc[ours["arm"] == "no_pretraining", "value"] -= 0.3
    return scorecard.scorecard(ours, masked, "zheng68k")


def test_scorecard_has_every_published_number(card):
    """No published arm, fraction or metric is left out, and its number of runs is right."""
    expected = published.runs().groupby(KEYS).size()
    found = card[card["experiment"] != "masked"].set_index(KEYS)["n_paper"]
    pd.testing.assert_series_equal(found.sort_index(), expected.sort_index(), check_names=False)
    assert (card["experiment"] == "masked").sum() == 3 * len(published.masked()) and card.index.is_unique


def test_scorecard_verdicts_follow_the_rule(card):
    """Equal runs give the same direction, a worse arm another, and what was not run is called so."""
    verdict = card.set_index(KEYS)["verdict"]
    assert verdict["ablation", "zheng68k", "no_gene2vec", 1.0, "accuracy"] == "same"
    assert verdict["ablation", "zheng68k", "no_pretraining", 1.0, "accuracy"] == "paper's size excluded"
    row = card.query("arm == 'no_pretraining' and metric == 'accuracy'").iloc[0]
    runs = published.runs().query("metric == 'accuracy' and dataset == 'zheng68k' and fraction == 1")
    full = runs.query("arm == 'full' and experiment == 'baseline'")["value"]
    assert row["effect_paper"] == pytest.approx(runs.query("arm == 'no_pretraining'")["value"].mean() - full.mean())
    assert (row["verdict_paper"], row["verdict_ours"]) == ("undecided", "behind")
    assert verdict["baseline", "macparland", "logistic_regression", 1.0, "accuracy"] == "not run: macparland"
    assert verdict["baseline", "zheng68k", "logistic_regression", 1.0, "recall[CD34+]"] == "no reference published"
    assert verdict["masked", "zheng68k", "full", 1.0, "masked_accuracy"] == "cannot say"  # one pre-training: no verdict
    assert verdict["masked", "zheng68k", "no_gene2vec", 1.0, "masked_accuracy"] == "cannot say"
    assert verdict["masked", "panglao", "full", 1.0, "masked_accuracy"] == "not run: panglao"
    hard = card.set_index(KEYS).loc[("baseline", "zheng68k", "logistic_regression", 1.0, "accuracy_hard_pair")]
    assert hard["verdict"] == "no interval" and hard["verdict_paper"] == "no interval" and hard["n_paper"] == 1


@pytest.mark.parametrize(
    "paper, ours, expected",
    [
        ("ahead", "ahead", "same"),
        ("behind", "behind", "same"),
        ("undecided", "undecided", "cannot say"),
        ("undecided", "equivalent", "cannot say"),
        ("equivalent", "equivalent", "same"),
        ("ahead", "behind", "opposite"),
        ("behind", "ahead", "opposite"),
        ("ahead", "undecided", "cannot say"),
        ("behind", "equivalent", "cannot say"),
        ("undecided", "behind", "cannot say"),
        ("equivalent", "ahead", "cannot say"),
        ("no interval", "ahead", "no interval"),
        ("ahead", "no interval", "no interval"),
    ],
)
def test_what_two_verdicts_say_together(paper, ours, expected):
    row = {"dataset": "here", "reference": "full", "n_ours": 3, "verdict_paper": paper, "verdict_ours": ours}
    row |= {
        f"{name}_{who}": value for who in ("paper", "ours") for name, value in (("effect", 0.1), ("low", 0.08), ("high", 0.12))
    }
    assert scorecard._agreement(row, "here") == expected
    # Ours − theirs is 0.03 with an interval of ± √2 · 0.02, which leaves zero out; 0.028 would not.
    far = row | {"effect_ours": 0.13, "low_ours": 0.11, "high_ours": 0.15}
    excluded = "paper's size excluded" if expected == "cannot say" else expected
    assert scorecard._agreement(far, "here") == excluded
    assert scorecard._agreement(far | {"effect_ours": 0.128, "low_ours": 0.108, "high_ours": 0.148}, "here") == expected
    assert scorecard._agreement(far | {"n_seeds": 2}, "here") == expected, "two runs exclude nothing"
    assert scorecard._agreement(row | {"n_ours": 0}, "here") == "not run: not in these cells"
    assert scorecard._agreement(row | {"reference": ""}, "here") == "reference"
    assert scorecard._agreement(row | {"effect_paper": np.nan}, "here") == "no reference published"
    assert scorecard._agreement(row, "there") == "not run: here"


def test_the_gap_between_two_differences_has_both_uncertainties():
    """Ends that are not alike on both sides: each is squared and added with the other side's opposite end."""
    row = {
        "effect_ours": 0.01,
        "low_ours": -0.02,
        "high_ours": 0.05,
        "effect_paper": 0.04,
        "low_paper": 0.0,
        "high_paper": 0.07,
    }
    gap = scorecard._gap(row)
    assert gap["gap"] == pytest.approx(-0.03)
    assert gap["low_gap"] == pytest.approx(-0.03 - np.hypot(0.03, 0.03)) and gap["high_gap"] == pytest.approx(
        -0.03 + np.hypot(0.04, 0.04)
    )
    few = scorecard._gap(row | {"n_seeds": 2})
    assert few["gap"] == gap["gap"] and np.isnan([few["low_gap"], few["high_gap"]]).all()


@pytest.mark.parametrize(
    "row, text",
    [
        ({"verdict": "same"}, "same"),
        (
            {"verdict": "same", "gap": -0.03, "low_gap": -0.05, "high_gap": -0.01},
            "same (but not in size: ours − paper -3.0 (-5.0 to -1.0))",
        ),
        ({"verdict": "same", "gap": -0.03, "low_gap": -0.05, "high_gap": 0.01}, "same"),
        (
            {"verdict": "paper's size excluded", "gap": 0.03, "low_gap": 0.01, "high_gap": 0.05, "n_pretrainings": 3},
            "paper's size excluded (ours − paper +3.0 (+1.0 to +5.0))",
        ),
        ({"verdict": "cannot say", "detectable": 0.0312}, "cannot say (less than 3.1 points is often missed)"),
        ({"verdict": "cannot say", "detectable": np.nan, "n_pretrainings": 1}, "cannot say (one pre-training)"),
        ({"verdict": "no interval"}, "no interval"),
    ],
)
def test_a_verdict_is_told_with_what_could_have_been_seen(row, text):
    assert scorecard.told(row) == text


def fake_table(values):
    """A tidy table of ours: accuracies of an arm's runs at a fraction."""
    return pd.DataFrame(
        [
            {"arm": arm, "fraction": f, "metric": "accuracy", "value": v, "seed": s, "run": f"{arm}{f}{s}"}
            for (arm, f), vs in values.items()
            for s, v in enumerate(vs)
        ]
    )


def test_each_side_has_its_own_numbers(masked):
    """Ours are ours, the paper's the paper's, the difference is the arm less its reference on both sides."""
    ours = fake_table(
        {
            ("logistic_regression", 1.0): [0.5, 0.5, 0.5],
            ("full", 1.0): [0.7, 0.8, 0.9],
            ("full", 0.1): [0.2],
            ("no_gene2vec", 1.0): [0.6, 0.7],
        }
    )
    card = scorecard.scorecard(ours, masked, "zheng68k").set_index(KEYS)
    row = card.loc[("baseline", "zheng68k", "logistic_regression", 1.0, "accuracy")]
    assert (row["ours"], row["n_ours"], row["n_paper"], row["reference"]) == (0.5, 3, 10, "full")
    assert row["paper"] == pytest.approx(0.811, abs=1e-3) and row["half_width_ours"] == 0 < row["half_width_paper"] < 1e-3
    assert row["effect_ours"] == pytest.approx(-0.3) and row["effect_paper"] == pytest.approx(0.045, abs=1e-3)
    welch = intervals.effect([0.5] * 3, [0.7, 0.8, 0.9])
    assert (row["low_ours"], row["high_ours"]) == (welch["low"], welch["high"])
    assert (round(row["low_paper"], 3), round(row["high_paper"], 3)) == (0.032, 0.058)
    assert (row["verdict_paper"], row["verdict_ours"], row["verdict"]) == ("ahead", "behind", "opposite")
    assert row["runs"] == "logistic_regression1.00 logistic_regression1.01 logistic_regression1.02"
    full = card.loc[("baseline", "zheng68k", "full", 1.0, "accuracy")]
    assert (full["reference"], full["verdict"]) == ("", "reference") and np.isnan(
        [full["effect_ours"], full["effect_paper"]]
    ).all()
    assert full["ours"] == pytest.approx(0.8) and full["half_width_ours"] == pytest.approx(0.248, abs=1e-3)
    tenth = card.loc[("few_shot", "zheng68k", "full", 0.1, "accuracy")]
    assert (tenth["ours"], tenth["n_ours"], tenth["verdict"]) == (0.2, 1, "reference")
    missing = card.loc[("few_shot", "zheng68k", "logistic_regression", 0.1, "accuracy")]
    assert missing["effect_paper"] == pytest.approx(0.0857792) and missing["verdict"] == "not run: not in these cells"
    again = card.loc[("few_shot", "zheng68k", "full", 1.0, "accuracy")]  # the same runs of ours, others of theirs
    assert again["ours"] == full["ours"] and again["n_paper"] == 3
    yang = card.loc[("baseline", "zheng68k", "as_reported_by_Yang_2022", 1.0, "accuracy_hard_pair")]
    assert (yang["reference"], yang["verdict"], yang["n_ours"]) == ("", "not run: not in these cells", 0)
    assert (
        np.isnan(yang["ours"]) and yang["runs"] == "" and yang["source"].startswith("quoted in clinicalml/sc-foundation-eval")
    )
    hard = scorecard.scorecard(ours.assign(metric="accuracy_hard_pair"), masked, "zheng68k").set_index(KEYS)
    assert hard.loc[("baseline", "zheng68k", "as_reported_by_Yang_2022", 1.0, "accuracy_hard_pair"), "ours"] == pytest.approx(
        0.8
    )
    liver = scorecard.scorecard(ours, masked, "macparland").set_index(KEYS)
    assert liver.loc[("baseline", "zheng68k", "full", 1.0, "accuracy"), ["n_ours", "verdict"]].tolist() == [
        0,
        "not run: zheng68k",
    ]
    row = liver.loc[("baseline", "macparland", "logistic_regression", 1.0, "accuracy")]
    assert (row["ours"], row["verdict"]) == (0.5, "no reference published")


def judged(difference, low, high, p_holm, p_equivalence=0.9, arm="logistic_regression", fraction=1.0):
    return pd.DataFrame(
        [
            {
                "arm": arm,
                "reference": "full",
                "fraction": fraction,
                "metric": "accuracy",
                "difference": difference,
                "low": low,
                "high": high,
                "p": 0.01,
                "p_holm": p_holm,
                "p_equivalence": p_equivalence,
            }
        ]
    )


@pytest.mark.parametrize(
    "found, word, verdict",
    [
        (judged(0.04, 0.01, 0.07, 0.02), "ahead", "same"),
        (judged(0.04, 0.01, 0.07, 0.06), "undecided", "cannot say"),  # Holm's p, though the interval excludes zero
        (judged(-0.04, -0.07, -0.01, 0.02), "behind", "opposite"),
        (judged(0.001, -0.01, 0.01, 1.0, 0.01), "equivalent", "paper's size excluded"),
    ],
)
def test_what_a_family_found_takes_the_place_of_welchs(masked, found, word, verdict):
    """The paired difference, its interval and Holm's p decide; scBERT's own row is not a second verdict on it."""
    ours = fake_table(
        {("logistic_regression", 1.0): [0.5, 0.6], ("full", 1.0): [0.8, 0.9], ("no_pretraining", 1.0): [0.8, 0.7]}
    )
    card = scorecard.scorecard(ours, masked, "zheng68k", found).set_index(KEYS)
    row, want = card.loc[("baseline", "zheng68k", "logistic_regression", 1.0, "accuracy")], found.iloc[0]
    assert (
        row[["effect_ours", "low_ours", "high_ours", "p_holm", "p_equivalence"]].tolist()
        == want[["difference", "low", "high", "p_holm", "p_equivalence"]].tolist()
    )
    assert (row["verdict_ours"], row["verdict"]) == (word, verdict)
    assert row["gap"] == pytest.approx(want["difference"] - row["effect_paper"])
    own = card.reset_index().query("experiment == 'baseline' and arm == 'full'")
    assert set(own["verdict"]) == {"reference", "not run: not in these cells"} and own["effect_ours"].isna().all()
    assert card.drop(index=[row.name])["p_holm"].isna().all()


def test_the_masked_task_by_hand():
    """Means over hidden genes, not over cells; the difference to the rule on them; the paper's from its two numbers."""
    cell, target, rule = [0, 0, 0, 1, 2, 2], [1, 1, 2, 3, 1, 2], [1, 1, 1, 1, 1, 1]
    runs = [
        masked_run("full", cell, target, [1, 1, 2, 1, 1, 2], rule),
        masked_run("no_gene2vec", cell, target, [1, 1, 1, 1, 1, 2], rule),
    ]
    card = scorecard.masked_scorecard(runs, "zheng68k")
    assert len(card) == 12 and set(card["reference"]) == {"most_common_bin"} and set(card["fraction"]) == {1.0}
    card = card.set_index(["dataset", "arm", "metric"]).sort_index(level=[0, 1], sort_remaining=False)
    full = card.loc[("zheng68k", "full")]
    assert full["ours"].tolist() == pytest.approx([5 / 6, 3 / 6, 4 / 6])
    assert full["paper"].tolist() == pytest.approx([0.7882, 0.6799, 0.7929], abs=1e-4) and full["n_ours"].tolist() == [1] * 3
    gain = full.loc["masked_accuracy"]
    assert gain["effect_ours"] == pytest.approx(2 / 6) and gain["low_ours"] < 2 / 6 < gain["high_ours"]
    assert (full["half_width_ours"] > 0).all(), "one pre-training leaves the cells' luck"
    assert (
        gain["effect_paper"] == pytest.approx(0.7882 - 0.6799, abs=1e-4)
        and np.isnan(gain[["low_paper", "high_paper"]].astype(float)).all()
    )
    assert (gain["verdict_paper"], gain["verdict_ours"], gain["verdict"]) == ("ahead", "undecided", "cannot say")
    same = card.loc[("zheng68k", "no_gene2vec", "masked_accuracy")]
    assert (same["verdict_paper"], same["verdict_ours"], same["verdict"]) == ("undecided", "undecided", "cannot say")
    assert same["ours"] == pytest.approx(4 / 6) and set(full["verdict"][1:]) == {"no reference published"}
    other = card.loc[("panglao", "full")]
    assert other["ours"].isna().all() and set(other["verdict"]) == {"not run: panglao"} and other["n_ours"].tolist() == [0] * 3
    assert other["paper"].tolist() == pytest.approx([0.7845, 0.7234, 0.8377], abs=1e-4)


def test_a_gain_of_half_a_point_counts_in_the_papers_masked_task(masked, monkeypatch):
    """The paper's numbers are over millions of genes: 0.6 points are ahead, 0.4 are not, 0.6 less are behind."""
    table = published.masked()
    for gain, word in ((0.006, "ahead"), (0.004, "undecided"), (-0.004, "undecided"), (-0.006, "behind")):
        moved = table.assign(masked_accuracy=table["accuracy_of_most_common_bin"] + gain)
        monkeypatch.setattr(published, "masked", lambda moved=moved: moved)
        card = scorecard.masked_scorecard(masked, "zheng68k").query("dataset == 'zheng68k' and metric == 'masked_accuracy'")
        assert card["verdict_paper"].tolist() == [word] * 2


def test_masked_cells_without_a_published_number_are_shown(masked):
    """Ours stand beside nothing, for both arms; no direction is claimed for the paper."""
    rows = scorecard.masked_scorecard(masked, "macparland")
    assert rows["dataset"].value_counts().to_dict() == {"zheng68k": 6, "panglao": 6, "macparland": 6}
    rows = rows.query("dataset == 'macparland'")
    assert rows["arm"].tolist() == ["full"] * 3 + ["no_gene2vec"] * 3 and rows["source"].tolist() == [""] * 6
    assert rows["verdict"].unique().tolist() == ["no reference published"] and rows["paper"].isna().all()
    assert rows["ours"].iloc[0] == 1 and rows["effect_ours"].iloc[0] > 0.7 and rows["verdict_ours"].iloc[0] == "undecided"


@pytest.fixture(scope="module")
def runs():
    """Runs of the paper's arms: at a fraction, arms of one accuracy give the same answers; others are clearly apart, or not."""
    labels = np.random.default_rng(0).integers(0, 4, 200)
    share = {
        ("logistic_regression", 1.0): 0.8,
        ("full", 1.0): 0.8,
        ("no_pretraining", 1.0): 0.5,
        ("no_gene2vec", 1.0): 0.79,
        ("logistic_regression", 0.1): 0.7,
        ("full", 0.1): 0.4,
        ("logistic_regression", 0.5): 0.7,
        ("full", 0.5): 0.7,
    }
    return [
        run(arm, labels, answers(np.random.default_rng([seed, int(10 * f), s == 0.79]), labels, s), seed, fraction=f)
        for seed in (0, 1, 2)
        for (arm, f), s in share.items()
    ]


@pytest.fixture(scope="module")
def families(runs):
    return scorecard.families(runs)


def test_the_papers_claims_are_three_families(runs, families, monkeypatch):
    """Which pairs, by which scores, each adjusted within itself; with all labels the few-label question is the baseline's."""
    table = families
    assert table[["experiment", "arm", "fraction", "metric"]].to_numpy().tolist() == [
        [e, a, f, m]
        for e, a, f in (
            ("baseline", "logistic_regression", 1.0),
            ("ablation", "no_pretraining", 1.0),
            ("ablation", "no_gene2vec", 1.0),
            ("few_shot", "logistic_regression", 0.1),
            ("few_shot", "logistic_regression", 0.5),
        )
        for m in ("accuracy", "macro_f1")
    ]
    assert (
        set(table["reference"]) == {"full"}
        and table.index.is_unique
        and not table.duplicated(["arm", "reference", "fraction", "metric"]).any()
    )
    for _, part in table.groupby("experiment"):
        assert np.allclose(part["p_holm"], intervals.holm(part["p"]))
    few = table[table["experiment"] == "few_shot"].reset_index(drop=True)
    pd.testing.assert_frame_equal(scorecard.family("few_shot", runs), few)
    said = table[table["metric"] == "accuracy"].set_index(["arm", "fraction"])["verdict"]
    assert said.tolist() == ["equivalent", "behind", "undecided", "ahead", "equivalent"]
    whole = [one for one in runs if one.spec["fraction"] == 1]
    monkeypatch.setattr(differences, "family", lambda questions, runs: pd.DataFrame([len(questions) / bool(questions)]))
    assert set(scorecard.families(whole)["experiment"]) == {"baseline", "ablation"}
    monkeypatch.undo()
    with pytest.raises(DataError, match="A family needs a question"):
        scorecard.family("few_shot", whole)


def test_the_same_labels_are_a_family_of_their_own(runs):
    """Logistic regression that learnt what scBERT did, at each share below all; no row where there is no such run."""
    arm = "logistic_regression_four_fifths"
    assert scorecard.same_labels(runs).empty
    fewer = [one for one in runs if one.spec["arm"] == "logistic_regression"]
    found = scorecard.same_labels(runs + [SimpleNamespace(**vars(one) | {"spec": one.spec | {"arm": arm}}) for one in fewer])
    assert found[["arm", "reference", "fraction", "metric"]].to_numpy().tolist() == [
        [arm, "full", fraction, metric] for fraction in (0.1, 0.5) for metric in ("accuracy", "macro_f1")
    ]
    assert np.allclose(found["p_holm"], intervals.holm(found["p"]))
    usual = scorecard.family("few_shot", runs)
    assert (
        found["difference"].tolist() == usual["difference"].tolist() and found["verdict"].tolist() == usual["verdict"].tolist()
    )


def test_a_claim_has_one_verdict_everywhere(runs, families, masked):
    """The rows of the scorecard, the sentence and the table say the same word of the same pair."""
    card = scorecard.scorecard(measures.table(runs), masked, "zheng68k", families)
    claims = scorecard.claims(card, "zheng68k").set_index(["arm", "fraction", "metric"])
    shown = words.show_family(families, str).data
    assert len(claims) == len(families) == 10
    for row, text in zip(families.to_dict("records"), shown.to_dict("records")):
        claim = claims.loc[(row["arm"], row["fraction"], row["metric"])]
        assert claim["verdict_ours"] == row["verdict"] == text["first is"] == words.verdict(row)
        assert claim[["effect_ours", "low_ours", "high_ours", "p_holm"]].tolist() == [
            row[k] for k in ("difference", "low", "high", "p_holm")
        ]
        assert words.SAID[row["verdict"]].format("A", "B") in words.describe(row, "A", "B")
    asked = [
        (row["reference"], row["arm"], row["metric"], {"fraction": row["fraction"]}) for row in families.to_dict("records")
    ]
    assert differences.unasked(asked, families) == []


def test_claims_are_an_arm_against_its_reference(card):
    """By accuracy or macro-F1, overall or on the hard pair, with both differences, and once: scBERT is the reference."""
    claims = scorecard.claims(card, "zheng68k")
    assert (
        set(claims["dataset"]) == {"zheng68k"}
        and set(claims["metric"]) == {f"{metric}{where}" for metric in ("accuracy", "macro_f1") for where in ("", "_hard_pair")}
        and "full" not in set(claims["arm"])
    )
    assert claims[["effect_ours", "effect_paper"]].notna().all(axis=None) and len(claims) == 20
    assert scorecard.claims(card, "macparland").empty
    missing = card.assign(effect_ours=card["effect_ours"].where(card["arm"] != "no_gene2vec"))
    assert len(scorecard.claims(missing, "zheng68k")) == 16
    missing = card.assign(effect_paper=card["effect_paper"].where(card["arm"] != "no_gene2vec"))
    assert len(scorecard.claims(missing, "zheng68k")) == 16
