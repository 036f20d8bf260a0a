"""Sentences say what the tables say, and turn when these do."""

import pandas as pd
import pytest

from lib.paper import findings
from lib.programs import committed


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


def few_labels(*rows):
    """The finding of notebook 02, from such rows."""
    tables = {"02_family.csv": pd.DataFrame(rows), "05_scorecard_claims.csv": CARD}
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
    assert "Of accuracy p is 0.031, 0.093 when adjusted for the 2 questions of the family." in said
    assert "adjusted" not in few_labels(row("ahead")).evidence


def test_what_the_paper_did_not_publish_is_said():
    """As few labels for liver cells."""
    tables = {"02_family.csv": pd.DataFrame([row("ahead")]), "05_scorecard_claims.csv": CARD.assign(experiment="baseline")}
    told = next(found for found in findings.findings(tables) if found.notebook == "02").evidence
    assert told.endswith("The paper published no runs of both on cells of this kind.")


def test_what_flagged_runs_weigh_is_told():
    """How many there are of which arm, and the difference without their seeds; where none is flagged, no word of it."""
    arms = {"arm": "logistic_regression", "reference": "no_gene2vec"}
    ended = {"difference_ended": -0.001, "low_ended": -0.02, "high_ended": 0.018}
    family = [row("undecided", 0.1, -0.3, 0.5, n_flagged=1, **arms, **ended)]
    family.append(row("ahead", **arms | {"reference": "no_gene2vec_no_pretraining"}))
    other = {"08_other_protocol.csv": pd.DataFrame([row("behind", -0.2, -0.3, -0.1, n_flagged=2, crossed=False)])}
    bare = arms | {"reference": "no_gene2vec_no_pretraining", "fraction": 0.1}
    short = [row("ahead", **bare, protocol="paper"), row("undecided", **bare, protocol="clean")]
    other |= {"08_few_labels.csv": pd.DataFrame(short[:1])}
    pretrained = pd.DataFrame([row("equivalent", 0.001, -0.01, 0.012, **arms, corpus="some cells", lowest=0.2, highest=0.9)])
    single = [{"arm": "no_gene2vec", "metric": "accuracy", "value": value} for value in (0.8, 0.1)]
    other["08_full_size.csv"] = pd.DataFrame(single)
    outside = pd.DataFrame([row("ahead", **arms, corpus=""), row("undecided", **arms, corpus="some cells")])
    other["08_elsewhere.csv"] = outside.iloc[:0]
    other["08_corpora.csv"] = pretrained.iloc[:0]  # a profile without other cells to pre-train on
    [told] = findings.findings({"08_family.csv": pd.DataFrame(family)} | other)
    assert "5 seeds, each on one of 3 pre-trainings): scBERT without a gene embedding is behind" in told.evidence
    assert told.claim.startswith("It is undecided whether logistic regression or scBERT without a gene embedding is ahead")
    assert "10 %" not in told.claim and "had not ended" in told.evidence, "runs of few steps are no finding"
    assert "Accuracy of single runs: scBERT without a gene embedding 0.100 to 0.800." in told.evidence
    said = "1 of those of scBERT without a gene embedding (without their seeds −0.1 points, −2.0 to 1.8) stopped"
    assert said in told.caveat
    [calm] = findings.findings({"08_family.csv": pd.DataFrame(family[1:])} | other)
    assert "stopped" not in calm.caveat
    asked = findings.at_full_size({"08_family.csv": pd.DataFrame(family)} | other)
    assert [found["verdict"] for found in asked.values()] == ["undecided", "ahead"] and findings.at_full_size({}) == {}
    other |= {"08_corpora.csv": pretrained, "08_few_labels.csv": pd.DataFrame(short), "08_elsewhere.csv": outside}
    [told] = findings.findings({"08_family.csv": pd.DataFrame(family)} | other)
    assert "scBERT without a gene embedding, pre-trained on some cells, are equivalent within 2 points" in told.claim
    assert "pre-trained on some cells, 0.200 to 0.900" in told.evidence
    said = "logistic regression − scBERT without a gene embedding is +4.0 points, 1.0 to 7.0 (ahead) and scBERT without a gene"
    assert said in told.evidence and "Asked about" not in calm.evidence
    asked = findings.at_full_size({"08_family.csv": pd.DataFrame(family)} | other)
    assert asked["the same, pre-trained on some cells"]["verdict"] == "equivalent"
    assert asked["the same, not pre-trained, 10 % of the labels"]["verdict"] == "undecided"
    assert "pre-training is ahead in accuracy with 10 % of the labels" in told.claim, "runs that have ended are a finding"


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
    assert [one.notebook for one in found] == ["01", "02", "03", "04", "05", "07", "08"]
    for one in found:
        assert not {"nan", "None", "inf"} & set(f"{one.claim} {one.evidence} {one.caveat}".replace(".", " ").split())
