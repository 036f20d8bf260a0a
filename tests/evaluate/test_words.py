"""The verdict, and every sentence and table of text, word by word."""

import numpy as np
import pandas as pd
import pytest

from lib.evaluate import words

NAN = float("nan")
AHEAD = {"difference": 0.041, "low": 0.022, "high": 0.061, "p": 0.001}
UNSURE = {"difference": 0.007, "low": -0.036, "high": 0.046, "p": 0.73, "p_equivalence": 0.26}


@pytest.mark.parametrize(
    "found, expected",
    [
        ({"low": 0.01, "high": 0.03}, "ahead"),  # the interval alone: the paper's side
        ({"low": -0.03, "high": -0.01}, "behind"),
        ({"low": -0.01, "high": 0.03}, "undecided"),
        ({"low": NAN, "high": NAN}, "undecided"),
        ({"low": 0.0, "high": 0.03}, "undecided"),  # zero is not excluded
        ({"low": -0.03, "high": 0.0}, "undecided"),
        ({"low": 0.01, "high": 0.03, "p": 0.049}, "ahead"),  # a family of one
        ({"low": 0.01, "high": 0.03, "p": 0.05}, "undecided"),
        ({"low": -0.03, "high": -0.01, "p": 0.049}, "behind"),
        ({"low": -0.03, "high": -0.01, "p": 0.05}, "undecided"),
        ({"low": 0.01, "high": 0.03, "p": 0.01, "p_holm": 0.049}, "ahead"),  # Holm's p, where there is one, decides
        ({"low": 0.01, "high": 0.03, "p": 0.01, "p_holm": 0.05}, "undecided"),
        ({"low": -0.03, "high": -0.01, "p": 0.01, "p_holm": 0.05}, "undecided"),
        ({"low": 0.01, "high": 0.03, "p": 0.9, "p_holm": 0.01}, "ahead"),
        ({"low": 0.01, "high": 0.03, "p": NAN, "p_holm": NAN}, "undecided"),
        ({"low": -0.01, "high": 0.01, "p": 0.9, "p_equivalence": 0.049}, "equivalent"),
        ({"low": -0.01, "high": 0.01, "p": 0.9, "p_equivalence": 0.05}, "undecided"),
        ({"low": 0.001, "high": 0.01, "p": 0.01, "p_equivalence": 0.01}, "ahead"),  # small, and shown
        ({"low": 0.001, "high": 0.01, "p": 0.01, "p_holm": 0.2, "p_equivalence": 0.01}, "equivalent"),
        ({"low": -0.01, "high": 0.01, "p_equivalence": NAN}, "undecided"),
    ],
)
def test_the_verdict(found, expected):
    assert words.verdict(found) == expected


def test_points_are_hundredths_with_their_sign():
    assert words.points(AHEAD) == "+4.1 (+2.2 to +6.1)"
    assert words.points({"difference": -0.5, "low": -1.0, "high": 0.25}) == "-50.0 (-100.0 to +25.0)"
    row = {
        "effect_ours": 0.01,
        "low_ours": -0.02,
        "high_ours": 0.03,
        "effect_paper": 0.04,
        "low_paper": 0.05,
        "high_paper": 0.06,
    }
    assert words.points(row, who="ours") == "+1.0 (-2.0 to +3.0)" and words.points(row, who="paper") == "+4.0 (+5.0 to +6.0)"


def test_a_difference_in_a_sentence():
    """Who is ahead, by how much, first minus second, and by what: for a family of one, a family, and the paper's runs."""
    ours = {"n_cells": 755, "n_seeds": 5}
    assert words.describe(AHEAD | ours, "logistic regression", "scBERT") == (
        "**Here logistic regression is ahead of scBERT**: +4.1 points of accuracy for logistic regression minus scBERT, 95 % "
        "interval +2.2 to +6.1 (755 test cells, 5 seeds; p = 0.001)."
    )
    behind = {"difference": -0.041, "low": -0.061, "high": -0.022, "p": 0.002, "p_holm": 0.004, "p_equivalence": 0.98}
    assert words.describe(behind | ours | {"metric": "macro_f1"}, "A", "B", "On your 99 cells") == (
        "**On your 99 cells A is behind B**: -4.1 points of macro-F1 for A minus B, 95 % interval -6.1 to -2.2 ("
        "755 test cells, 5 seeds; p = 0.002, by Holm's method 0.004; of equivalence within 2 points p = 0.98)."
    )
    plain = {"difference": 0.02, "low": 0.01, "high": 0.03}
    assert words.describe(plain, "A", "B") == (
        "**Here A is ahead of B**: +2.0 points of accuracy for A minus B, 95 % interval +1.0 to +3.0."
    )
    assert words.describe(UNSURE | ours, "A", "B").startswith("**Here it is undecided whether A or B is ahead**: +0.7 points")
    same = UNSURE | {"low": -0.01, "high": 0.01, "p_equivalence": 0.001} | ours
    assert words.describe(same, "A", "B").startswith("**Here A and B are equivalent within 2 points either way**: +0.7 points")
    paper = {
        "difference": 0.045,
        "low": 0.032,
        "high": 0.058,
        "p_equivalence": 1.0,
        "metric": "accuracy",
        "n_first": 10,
        "n_second": 9,
    }
    assert words.describe(paper, "A", "B", "In the paper") == (
        "**In the paper A is ahead of B**: +4.5 points of accuracy for A minus B, 95 % interval +3.2 to +5.8 (Welch's, 10 "
        "against 9 runs; of equivalence within 2 points p = 1)."
    )


def test_an_interval_that_holms_p_overrules_is_undecided_and_both_are_shown():
    text = words.describe(AHEAD | {"p_holm": 0.07, "n_cells": 9, "n_seeds": 1}, "A", "B")
    assert text.startswith("**Here it is undecided whether A or B is ahead**") and "+2.2 to +6.1" in text
    assert "p = 0.001, by Holm's method 0.07" in text


@pytest.mark.parametrize("kind", ["n_seeds", "n_splits"])
def test_fewer_than_three_runs_give_no_verdict(kind):
    """However sure the interval and the tests are; and the sentence says why."""
    same = {"difference": 0.001, "low": -0.002, "high": 0.003, "p": 0.8, "p_equivalence": 1e-4}
    for found, said in ((AHEAD, "ahead"), (same, "equivalent")):
        assert words.verdict(found | {kind: 3}) == said and words.verdict(found | {kind: 2}) == "undecided"
    text = words.describe(AHEAD | {"n_cells": 755, "n_seeds": 2}, "A", "B")
    assert text.startswith("**Here it is undecided whether A or B is ahead**: +4.1 points")
    assert text.endswith("; no verdict from fewer than 3 runs).")
    assert "no verdict" not in words.describe(AHEAD | {"n_cells": 755, "n_seeds": 3}, "A", "B")


def test_how_many_pre_trainings_stand_under_a_difference():
    """Beside the seeds; a single one is said to be one, though the verdict stands."""
    ours = AHEAD | {"n_cells": 755, "n_seeds": 5}
    text = words.describe(ours | {"n_pretrainings": 3}, "A", "B")
    assert text.endswith("(755 test cells, 5 seeds × 3 pre-trainings; p = 0.001).")
    text = words.describe(ours | {"n_pretrainings": 1}, "A", "B")
    assert text.startswith("**Here A is ahead of B**")
    assert text.endswith(
        "(755 test cells, 5 seeds × 1 pre-training; p = 0.001; of a single pre-training, so that its luck is not covered)."
    )
    assert words.describe(ours | {"n_pretrainings": 0}, "A", "B").endswith("(755 test cells, 5 seeds; p = 0.001).")


def test_what_did_not_end_is_marked_wherever_it_enters():
    """A dagger where any run of a row is flagged, and what it means beside it; nowhere else."""
    family = FAMILY[:2].assign(n_cells=140, n_seeds=4)
    marked = words.show_family(family.assign(n_flagged=[0, 2]), str)
    assert marked.data["first is"].tolist() == ["ahead", "undecided †"] and marked.caption == words.FLAG_MEANS
    assert words.show_family(family.assign(n_flagged=0), str).caption is None
    text = words.describe(AHEAD | {"n_cells": 9, "n_seeds": 3, "n_flagged": 2}, "A", "B")
    assert text.endswith("; p = 0.001; 2 of the runs stopped at their maximum, learnt nothing or fell back to a guess).")
    ours = pd.DataFrame({"arm": list("aab"), "metric": "accuracy", "value": 0.5, "flagged": ["", "learnt nothing", ""]})
    table = words.beside_paper(ours, ours[:0], ["accuracy"], ["a", "b"])
    assert table["accuracy"].tolist() == ["0.500 ± 0.000 (n=2) †", "–", "0.500 (n=1)", "–"]
    assert table.columns.name == words.FLAG_MEANS
    assert words.beside_paper(ours[2:], ours[:0], ["accuracy"], ["b"]).columns.name is None


def test_another_mix_of_types_is_named():
    text = words.describe(AHEAD | {"metric": "accuracy_zheng68k"}, "A", "B")
    assert "+4.1 points of accuracy (types as in Zheng68K) for A minus B" in text


def test_mcnemar_in_two_sentences():
    found = {"only_first": 40, "only_second": 22, "p": 0.03, "averaged": (5, 15), "pairs": 15}
    found |= {"pair_only_first": 51.0, "pair_only_second": 38.5, "pair_p": 0.17, "pairs_below": 4}
    assert words.cell_by_cell(found, "logistic regression", "scBERT") == (
        "Cell by cell, 40 test cells are named right by logistic regression (5 runs averaged) alone, 22 by scBERT (15 runs "
        "averaged) alone; McNemar's p = 0.03. Of single runs, one of each (15 pairs), logistic regression alone names 51 right "
        "and scBERT alone 38.5, p = 0.17 (medians); p is below 0.05 in 4 of the pairs."
    )


def test_a_model_that_learnt_nothing_is_said():
    """The answer gets a caveat unless scBERT is ahead of the majority class."""
    assert words.caveat(AHEAD) == ""
    for low, p in ((-0.2, 0.4), (0.0, 0.06), (0.1, 0.06)):
        text = words.caveat({"low": low, "high": 0.3, "p": p})
        assert (
            "not shown to be ahead of the majority class here" in text and "says little of scBERT" in text and "quick" in text
        )


def test_a_mean_with_half_its_interval():
    assert words.show(0.7671, 0.0132) == "0.767 ± 0.013" and words.show(0.7671, NAN) == "0.767"
    assert words.show(NAN, NAN) == "–" and words.show(-0.456, 0.2, 2) == "-0.46 ± 0.20"


def test_ours_stand_beside_the_papers():
    """Ours in the row of ours; half the Student interval of 0.7, 0.8, 0.9 is 4.303 · 0.1 / √3; what is not there is a dash."""

    def tidy(values):
        return pd.DataFrame([{"arm": a, "metric": m, "value": v} for (a, m), vs in values.items() for v in vs])

    ours = tidy({("full", "accuracy"): [0.7, 0.8, 0.9], ("other", "accuracy"): [0.1], ("full", "recall"): [0.2]})
    paper = tidy({("full", "accuracy"): [0.5], ("full", "macro_f1"): [0.4, 0.4]})
    table = words.beside_paper(ours, paper, ["macro_f1", "accuracy"], ["other", "full"], str.upper)
    assert table.index.tolist() == [("OTHER", "ours"), ("OTHER", "paper"), ("FULL", "ours"), ("FULL", "paper")]
    assert table["accuracy"].tolist() == ["0.100 (n=1)", "–", "0.800 ± 0.248 (n=3)", "0.500 (n=1)"]
    assert table["macro_f1"].tolist() == ["–", "–", "–", "0.400 ± 0.000 (n=2)"]
    assert words.beside_paper(ours, paper, ["accuracy"], ["full"]).index.tolist() == [("full", "ours"), ("full", "paper")]


FAMILY = pd.DataFrame(
    [
        {"arm": "a", "reference": "b", "fraction": 0.1, "metric": "accuracy", "verdict": "ahead"} | AHEAD | {"p_holm": 0.002},
        {"arm": "a", "reference": "b", "fraction": 0.1, "metric": "macro_f1", "verdict": "undecided"}
        | UNSURE
        | {"p_holm": 1.0},
        {"arm": "a", "reference": "b", "fraction": 0.25, "metric": "accuracy", "verdict": "ahead"} | AHEAD | {"p_holm": 0.002},
    ]
)


def test_a_family_in_a_sentence():
    assert words.summary("Labels", FAMILY) == (
        "- Labels: differences from +0.7 to +4.1 points; of 3 questions 2 ahead, 1 undecided."
    )
    mixed = pd.DataFrame({"difference": [-0.1, 0.1, 0.0], "verdict": ["equivalent", "behind", "equivalent"]})
    assert words.summary("X", mixed) == "- X: differences from -10.0 to +10.0 points; of 3 questions 1 behind, 2 equivalent."
    assert (
        words.summary("X", mixed.iloc[:1])
        == f"- X: {100 * mixed['difference'].iloc[0]:+.1f} points, {mixed['verdict'].iloc[0]}."
    )
    assert words.points({"difference": 0.084, "low": np.nan, "high": np.nan}) == "+8.4 (no interval)"


def test_few_labels_in_a_sentence():
    """What the first is at which fraction; that the second is ahead nowhere is said only where that is so."""
    assert words.by_fraction(FAMILY, "A", "B") == (
        "By shares of the labels, A against B: ahead with 10% (accuracy), 25% (accuracy); undecided with 10% (macro-F1). "
        "**At no fraction is B shown to be ahead of A.**"
    )
    turned = FAMILY.assign(verdict=["behind", "equivalent", "ahead"])
    assert words.by_fraction(turned, "A", "B") == (
        "By shares of the labels, A against B: ahead with 25% (accuracy); behind with 10% (accuracy); equivalent with 10% "
        "(macro-F1)."
    )
    both = words.by_fraction(FAMILY, "A", "B", turned)
    assert both.startswith(
        "By shares of the labels, A against B: ahead with 10% (accuracy), 25% (accuracy); undecided with 10% ("
    )
    assert both.endswith(
        "; both from the same four fifths of them: ahead with 25% (accuracy); behind with 10% (accuracy); equivalent with 10% "
        "(macro-F1)."
    ), "there B is ahead, so that nothing is said of none"
    alike = words.by_fraction(FAMILY.assign(verdict="ahead"), "A", "B", FAMILY.iloc[:0])
    assert alike.startswith(
        "By shares of the labels, A against B: ahead with 10% (accuracy, macro-F1), 25% (accuracy). **At no"
    )


def test_a_family_as_a_table():
    """One row a question: arms under their labels, points, p and Holm's p, the verdict, and what it rests on."""
    table = words.show_family(FAMILY[:2].assign(n_cells=140, n_seeds=4), str.upper).data
    assert table.to_dict("records")[1] == {
        "": "A",
        "minus": "B",
        "labels": "10%",
        "metric": "macro-F1",
        "points": "+0.7 (-3.6 to +4.6)",
        "p": "0.73",
        "p, Holm": "1",
        "p, equivalence": "0.26",
        "first is": "undecided",
        "n": "140 cells, 4 seeds",
    }
    more = words.show_family(
        FAMILY[:2].assign(n_cells=9, n_seeds=4, protocol=["paper", "clean"], corpus=["", "some cells"]), str.upper
    ).data
    assert more["protocol"].tolist() == ["paper", "clean"], "what differs between rows stands in them"
    assert more["pre-trained on"].tolist() == ["the training cells, or nothing", "some cells"]
    assert table["first is"].tolist() == ["ahead", "undecided"] and table["p, Holm"].tolist() == ["0.002", "1"]
    splits = pd.DataFrame(
        [
            {
                "arm": "a",
                "reference": "b",
                "metric": "accuracy_hard_pair",
                "because": "why",
                **AHEAD,
                "p_holm": 0.12345,
                "verdict": "undecided",
                "n_splits": 20,
            }
        ]
    )
    assert words.show_family(splits, str.upper).data.to_dict("records") == [
        {
            "": "A",
            "minus": "B",
            "because": "why",
            "metric": "accuracy hard pair",
            "points": "+4.1 (+2.2 to +6.1)",
            "p": "0.001",
            "p, Holm": "0.12",
            "first is": "undecided",
            "n": "20 splits",
        }
    ]
    assert np.all(words.show_family(splits, str).hide_index_)
