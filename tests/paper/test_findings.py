"""Sentences say what the tables say, and turn when these do."""

import pandas as pd
import pytest

from lib.paper import findings, full_size
from lib.programs import committed, texts


def row(verdict, difference=0.04, low=0.01, high=0.07, **others):
    """A row of a family, all of whose numbers are told apart."""
    found = {"arm": "logistic_regression", "reference": "full", "fraction": 0.1, "metric": "accuracy", "p": 0.001}
    found |= {"n_cells": 99, "n_seeds": 5, "n_pretrainings": 3, "p_holm": 0.002, "n_flagged": 0}
    return found | {"difference": difference, "low": low, "high": high, "verdict": verdict} | others


CARD = pd.DataFrame(
    [
        {
            "experiment": "few_shot",
            "arm": "logistic_regression",
            "metric": "accuracy",
            "fraction": 0.1,
            "effect_paper": 0.086,
            "low_paper": -0.125,
            "high_paper": 0.296,
            "verdict": "same",
        }
    ]
)


def few_labels(*rows, same=()):
    """The finding of notebook 02, from such rows."""
    tables = {"02_family.csv": pd.DataFrame(rows), "05_scorecard_claims.csv": CARD}
    tables["02_same_labels.csv"] = pd.DataFrame(same, columns=[*row("")])
    return next(found for found in findings.findings(tables) if found.notebook == "02")


def test_the_verdict_of_the_table_is_that_of_the_sentence():
    """Ahead, behind, equivalent and undecided each have their words; those of one verdict stand together."""
    one = few_labels(row("ahead"), row("behind", -0.05, -0.08, -0.02, metric="macro_f1"), row("ahead", fraction=0.3))
    assert one.claim == (
        "With few labels logistic regression is ahead of scBERT in accuracy at 10 % (+4.0 points, 1.0 to 7.0) and accuracy at "
        "30 % (+4.0 points, 1.0 to 7.0); logistic regression is behind scBERT in macro-F1 at 10 % (−5.0 points, −8.0 to −2.0)."
    )
    assert "it is undecided whether" in few_labels(row("undecided")).claim
    assert "are equivalent within 2 points" in few_labels(row("equivalent")).claim
    assert "99 test cells, 5 seeds × 3 pre-trainings" in one.evidence
    assert "In the paper the difference is +8.6 points, −12.5 to 29.6 with 10 % of the labels" in one.evidence


def test_what_the_adjustment_turns_is_told():
    """Where p alone would have shown a difference, both p are given; where it turns nothing, neither."""
    said = few_labels(row("undecided", p=0.031, p_holm=0.093), row("ahead", metric="macro_f1")).evidence
    assert "In accuracy p is 0.031, adjusted for the 2 questions of the family 0.093." in said
    assert "adjusted" not in few_labels(row("ahead")).evidence


def test_what_the_paper_did_not_publish_is_said():
    """As few labels for liver cells."""
    tables = {"02_family.csv": pd.DataFrame([row("ahead")]), "05_scorecard_claims.csv": CARD.assign(experiment="baseline")}
    tables["02_same_labels.csv"] = tables["02_family.csv"].iloc[:0]
    told = next(found for found in findings.findings(tables) if found.notebook == "02").evidence
    assert told.endswith("The paper published no runs of both on cells of this kind.")


def test_what_the_same_labels_come_to_is_part_of_the_claim():
    """With its own verdicts and its own adjustment; no word of it where both sides learn from the same anyway."""
    same = [row("undecided", 0.02, -0.01, 0.05, p=0.02, p_holm=0.06), row("ahead", fraction=0.3, metric="macro_f1")]
    one = few_labels(row("ahead"), same=same)
    assert one.claim.startswith("With few labels logistic regression is ahead of scBERT in accuracy at 10 % (+4.0 points")
    assert (
        "Where both learn from the same four fifths of them (scBERT ends by the rest), logistic regression is ahead of scBERT "
        "in macro-F1 at 30 % (+4.0 points, 1.0 to 7.0); it is undecided whether logistic regression or scBERT is ahead in "
        "accuracy at 10 % (+2.0 points, −1.0 to 5.0)."
    ) in one.claim
    assert one.evidence.endswith(
        "From the same four fifths, in accuracy at 10 % p is 0.02, adjusted for the 2 questions of the family 0.06."
    )
    assert "four fifths" not in str(few_labels(row("ahead")))


def test_readme_counts_both_ways_of_sharing_labels():
    """As many labels for both, and the same labels: the second is a row of its own, and its count a sentence."""
    arm = {"arm": "logistic_regression_four_fifths"}
    whole = [row("undecided", fraction=float("nan"), experiment="controls", **arm)]
    whole += [row("ahead", fraction=1.0, experiment="baseline", metric="macro_f1")]
    tables = {
        "01_family.csv": pd.DataFrame(whole),
        "02_family.csv": pd.DataFrame([row("ahead"), row("equivalent", fraction=0.3)]),
        "02_same_labels.csv": pd.DataFrame([row("undecided", **arm), row("behind", fraction=0.3, **arm)]),
        "03_difference.csv": pd.DataFrame([row("undecided", arm="no_pretraining")]),
        "04_difference.csv": pd.DataFrame([row("undecided")]),
    }
    asked = findings.questions(tables)
    assert [found["labels"] for found in asked.values()] == ["all"] * 3 + ["same"] * 3 + [""] * 2
    said = " ".join(texts.claims({"laptop": tables, "liver-laptop": {}, "standard": {}}.get).split())
    assert "Of 3 comparisons of logistic regression with scBERT" in said and "it is ahead in 2, equivalent in 1." in said
    assert "both learnt from the same four fifths, logistic regression is ahead in none, behind in 1, undecided in 2." in said
    assert "scBERT is shown to be ahead in none" not in said, "once it is"
    assert "| … 10 % of the labels, both from 4/5 of them, accuracy | +4.0" in said, "as the row above, but for that"
    assert "30 %" not in said
    assert findings.questions({name: table for name, table in tables.items() if name != "02_same_labels.csv"}) == {}


ARMS = {"arm": "logistic_regression", "reference": "no_gene2vec"}
BARE = ARMS | {"reference": "no_gene2vec_no_pretraining"}


@pytest.fixture
def at_full_size():
    """Tables of notebook 08: one run of two learns without a gene embedding, both without pre-training, none on others."""
    ended = {"difference_ended": -0.001, "low_ended": -0.02, "high_ended": 0.018}
    family = [row("undecided", 0.1, -0.3, 0.5, n_flagged=1, **ARMS, **ended), row("ahead", **BARE)]
    family += [row("behind", -0.1, -0.2, -0.05, arm="no_gene2vec", reference="no_gene2vec_no_pretraining")]
    few = [row("ahead", **BARE, protocol="paper"), row("undecided", **BARE, protocol="clean")]
    few += [row("ahead", **BARE | {"arm": "logistic_regression_four_fifths"}, protocol="clean")]
    few += [row("equivalent", -0.002, -0.02, 0.018, **BARE | {"arm": "no_pretraining"}, protocol="paper", crossed=True)]
    outside = [row("ahead", **ARMS, corpus=""), row("undecided", **ARMS, corpus="some cells", n_flagged=2)]
    outside += [
        row("undecided", value, arm="logistic_regression", reference=f"control {value}", corpus="") for value in (-0.05, 0.02)
    ]
    each = {"fraction": 1.0, "protocol": "paper", "metric": "accuracy", "corpus": "", "flagged": ""}
    runs = [("logistic_regression", 0.91, {}), ("no_gene2vec", 0.8, {}), ("no_gene2vec", 0.1, {"flagged": "learnt nothing"})]
    runs += [("no_gene2vec_no_pretraining", value, {}) for value in (0.85, 0.86)]
    runs += [("no_gene2vec", 0.2, {"flagged": "learnt nothing", "corpus": "some cells"})]
    runs += [("no_gene2vec", 0.999, {"protocol": "clean"}), ("no_gene2vec", 0.998, {"fraction": 0.1})]
    tables = {
        "family": family,
        "other_protocol": [row("behind", -0.2, -0.3, -0.1, n_flagged=2, crossed=False)],
        "few_labels": few,
        "corpora": [row("equivalent", 0.001, -0.01, 0.012, **ARMS, corpus="some cells")],
        "elsewhere": outside,
        "runs": [{"arm": arm, "value": value} | each | more for arm, value, more in runs],
    }
    return {f"08_{name}.csv": pd.DataFrame(rows) for name, rows in tables.items()}


def test_at_full_size_it_is_told_how_many_runs_learn(at_full_size):
    """By beginning; and what those that do name right; other protocols and fewer labels are not counted."""
    told, _ = findings.findings(at_full_size)
    assert told.claim.startswith(
        "Of the runs of scBERT without a gene embedding 1 of 2 pre-trained on the training cells, 0 of 2 not pre-trained and "
        "1 of 1 pre-trained on some cells stay at a guess; the others name 0.800 to 0.860 (median 0.850) of the test cells "
        "right, logistic regression 0.910 to 0.910."
    )
    said = (
        "t is undecided whether logistic regression or scBERT without a gene embedding is ahead in accuracy, not pre-trained, "
    )
    assert f"{said}with 10 % of the labels" in told.claim, "runs that have ended are a finding"
    assert "from the same four fifths, logistic regression − it is +4.0 points, 1.0 to 7.0 (ahead)" in told.evidence
    said = "There scBERT with a gene embedding − without one, both not pre-trained, is −0.2 points, −2.0 to 1.8 (5 seeds"
    assert said in told.evidence
    assert "had not ended" in told.evidence and "after the authors' ten epochs" not in told.claim, "runs of few steps are none"
    assert "5 seeds, each on one of 3 pre-trainings) scBERT without a gene embedding is behind" in told.evidence
    said = "logistic regression − scBERT without a gene embedding is +4.0 points, 1.0 to 7.0 (ahead) and scBERT without a gene"
    assert said in told.evidence and "(undecided, with 2 of the runs at a guess), in accuracy" in told.evidence
    assert "; minus 2 controls that learn −5.0 to +2.0 points." in told.evidence
    assert full_size.adverse(at_full_size) == "" == full_size.adverse({})
    ended = {"difference_ended": -0.1, "low_ended": -0.2, "high_ended": -0.01}
    rows = pd.DataFrame([row("undecided", **BARE, corpus="", n_flagged=1, **ended)])
    said = full_size.adverse({"08_elsewhere.csv": rows})
    assert "the 4 of 5 runs of scBERT with neither a gene embedding nor pre-training that learn name more right" in said
    assert said.endswith("by +10.0 points, 1.0 to 20.0 (not adjusted); with all 5 it is undecided.")
    said = "1 of those of scBERT without a gene embedding (without their seeds −0.1 points, −2.0 to 1.8) stopped"
    assert said in told.caveat


def test_cells_of_another_preparation_are_told_from_where_logistic_regression_stands(at_full_size):
    """Which side is ahead is turned with the sign; how the cells were labelled is a caveat, there and at the full size."""
    rows = [
        row("ahead", 0.36, 0.28, 0.44, arm="logistic_regression", reference="majority"),
        row("behind", -0.17, -0.25, -0.08, arm="logistic_regression", reference="nearest_centroid"),
        row("undecided", 0.07, -0.03, 0.16, arm="logistic_regression", reference="rank_means"),
    ]
    [told] = findings.findings({"08_elsewhere.csv": pd.DataFrame(rows)})
    assert told.claim == (
        "Asked about 99 cells of another preparation, compared with logistic regression in accuracy: ahead of it is "
        "Nearest mean cell of a type (+17.0 points, 8.0 to 25.0); behind it is Majority class (−36.0 points, −44.0 to −28.0); "
        "undecided is Ranks, projected on types' means (−7.0 points)."
    )
    assert "family of 3 questions" in told.evidence and "likeness to the means of sorted types" in told.caveat
    assert told.caveat[1:] in findings.findings(at_full_size)[0].caveat


def test_at_full_size_nothing_is_told_of_what_was_not_run(at_full_size):
    """A profile without other cells, whose protocol is a plateau: no word of them; without flagged runs none of those."""
    few, family = at_full_size["08_few_labels.csv"], at_full_size["08_family.csv"]
    calm = {f"08_{name}.csv": at_full_size[f"08_{name}.csv"].iloc[:0] for name in ("elsewhere", "corpora")}
    calm |= {"08_family.csv": family.assign(n_flagged=0), "08_few_labels.csv": few[few["protocol"] == "clean"]}
    calm["08_runs.csv"] = at_full_size["08_runs.csv"].iloc[:5]
    [told] = findings.findings(at_full_size | calm)
    assert "some cells" not in str(told) and "Asked about" not in told.evidence and "had not ended" not in told.evidence
    assert "stopped" not in told.caveat
    asked = full_size.questions(at_full_size | calm)
    assert [found["verdict"] for found in asked.values()] == ["undecided", "ahead", "undecided", "ahead"]
    asked = full_size.questions(at_full_size)
    name = "logistic regression − scBERT of the paper's size without a gene embedding, not pre-trained, 10 % of the labels"
    assert asked[name]["verdict"] == "undecided" and full_size.questions({}) == {}
    assert asked[f"{name}, both from 4/5 of them"]["verdict"] == "ahead"


def test_a_notebook_without_its_tables_is_left_out():
    """A profile of which one notebook was run has its finding alone."""
    assert [found.notebook for found in findings.findings({"05_scorecard_claims.csv": CARD})] == ["05"]
    assert findings.findings({}) == []


def test_the_published_figures_have_all_findings_and_no_empty_words():
    """From real tables: all but the notebook on the reader's own cells; no missing number is spoken."""
    tables = committed.tables("laptop")
    if not tables:
        pytest.skip("figures/laptop is not as published, and there is no git to ask")
    found = findings.findings(tables)
    assert [one.notebook for one in found] == ["01", "02", "03", "04", "05", "07", "08", "08"]
    for one in found:
        assert not {"nan", "None", "inf"} & set(f"{one.claim} {one.evidence} {one.caveat}".replace(".", " ").split())
