"""What notebook 08 found at the paper's size: how many runs learn at all, and where those that do stand."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from lib.evaluate import words
from lib.paper.sentences import adjusted, basis, flagged, joined, listed, minus, percent, placed, points, verdicts

LR, PLAIN = "logistic regression", "scBERT without a gene embedding"
SAME = "logistic_regression_four_fifths"  # learnt from the labels that scBERT learns from
NAMES = {
    "logistic_regression": LR,
    "no_gene2vec": PLAIN,
    "no_gene2vec_no_pretraining": "scBERT with neither a gene embedding nor pre-training",
    "no_pretraining": "scBERT without pre-training",
}
LABELLED = "Their labels were given by likeness to the means of sorted types (Zheng et al. 2017), which favours a nearest mean."
# How the arm without a gene embedding began, by arm; of other cells it is their name.
BEGUN = {"no_gene2vec": "pre-trained on the training cells", "no_gene2vec_no_pretraining": "not pre-trained"}
TABLES = ("08_family.csv", "08_other_protocol.csv", "08_few_labels.csv", "08_corpora.csv", "08_elsewhere.csv", "08_runs.csv")
ELSEWHERE = ("08_elsewhere.csv",)  # of a profile of any size


def questions(tables: Mapping[str, pd.DataFrame]) -> dict[str, dict]:
    """Logistic regression against each arm in accuracy, by what is asked in a few words; empty where tables are missing."""
    if not set(TABLES) <= set(tables):
        return {}
    found, few, asked = {}, tables["08_few_labels.csv"], f"{LR} − scBERT of the paper's size without a gene embedding"
    for row in _asked(tables["08_family.csv"]):
        if row["reference"] in BEGUN:
            found[f"{asked}, {BEGUN[row['reference']]}"] = row
    rows = few[(few["protocol"] == "clean") & (few["reference"] == "no_gene2vec_no_pretraining")]
    for row in rows[rows["metric"] == "accuracy"].to_dict("records"):
        same = ", both from 4/5 of them" * (row["arm"] == SAME)
        found[f"{asked}, not pre-trained, {percent(row['fraction'])} of the labels{same}"] = row
    return found


def elsewhere(table: pd.DataFrame) -> tuple[str, str, str]:
    """Claim, evidence and caveat of what the models and controls of any size say of cells of another preparation."""
    turned = table["verdict"].replace({"ahead": "behind", "behind": "ahead"})
    others = table.assign(arm=table["reference"], verdict=turned, difference=-table["difference"])
    others = others.assign(low=-table["high"], high=-table["low"])
    row = others.iloc[0]
    asked = f"asked about {int(row['n_cells'])} cells of another preparation, compared with {LR} in accuracy"
    return (
        joined([f"{asked}: {placed(others)}"]),
        f"{int(row['n_seeds'])} seeds of each; one family of {len(others)} questions.",
        LABELLED,
    )


def adverse(tables: Mapping[str, pd.DataFrame]) -> str:
    """What speaks for scBERT at the paper's size: on cells from elsewhere, those of its runs that learn; or nothing."""
    table = tables.get("08_elsewhere.csv", pd.DataFrame())
    if "high_ended" not in table:
        return ""
    rows = table[table["reference"].isin(NAMES) & (table["high_ended"] < 0)].sort_values("high_ended").to_dict("records")
    if not rows:
        return ""
    row, size = rows[0], {"difference": "difference_ended", "low": "high_ended", "high": "low_ended"}
    found = points({name: -row[of] for name, of in size.items()})
    n, learnt = int(row["n_seeds"]), int(row["n_seeds"] - row["n_flagged"])
    return (
        f"For scBERT speaks: of {int(row['n_cells'])} cells of another preparation (labelled by likeness to types' means) the "
        f"{learnt} of {n} runs of {NAMES[row['reference']]} that learn name more right than {LR}, by {found} (not adjusted); "
        f"with all {n} it is {row['verdict']}."
    )


def _asked(table):
    """The rows of a family that ask logistic regression against something in accuracy."""
    return table[(table["arm"] == "logistic_regression") & (table["metric"] == "accuracy")].to_dict("records")


def finding(family, other, few, corpora, elsewhere, runs) -> tuple[str, str, str]:
    """Claim, evidence and caveat, from :data:`TABLES`."""
    whole = runs[(runs["metric"] == "accuracy") & (runs["fraction"] == 1)]
    own = whole[whole["protocol"].iloc[0] == whole["protocol"]].fillna({"corpus": "", "flagged": ""})
    rows = [row | {"of": f"accuracy, {BEGUN[row['reference']]}"} for row in _asked(family) if row["reference"] in BEGUN]
    rows += [row | {"of": f"accuracy, pre-trained on {row['corpus']}"} for row in _asked(corpora)]
    ended = [
        row | {"of": f"accuracy, not pre-trained, with {percent(row['fraction'])} of the labels"}
        for row in _asked(few[few["protocol"] == "clean"])
        if row["reference"] == "no_gene2vec_no_pretraining"
    ]
    told = [_learnt(own), verdicts(pd.DataFrame(rows), LR, PLAIN)]
    told += [verdicts(pd.DataFrame(ended), LR, PLAIN)] if ended else []
    return joined(told), _evidence(family, other, few, elsewhere, own), _caveat(family, corpora, elsewhere)


def _learnt(runs):
    """Of each beginning, how many runs learn, and what those that do name right."""
    failed, kept = [], []
    for (arm, corpus), each in runs[runs["arm"].isin(BEGUN)].groupby(["arm", "corpus"], sort=False):
        begun = f"pre-trained on {corpus}" if corpus else BEGUN[arm]
        failed.append(f"{(each['flagged'] != '').sum()} of {len(each)} {begun}")
        kept.append(each.loc[each["flagged"] == "", "value"])
    better, linear = pd.concat(kept), runs.loc[runs["arm"] == "logistic_regression", "value"]
    others = f"the others name {better.min():.3f} to {better.max():.3f} (median {better.median():.3f}) of the test cells right"
    others = others if len(better) else "none learns"
    return f"of the runs of {PLAIN} {listed(failed)} stay at a guess; {others}, {LR} {linear.min():.3f} to {linear.max():.3f}"


def _evidence(family, other, few, elsewhere, own):
    arms = ("no_gene2vec", "no_gene2vec_no_pretraining")
    told = [f"{basis(family)} {adjusted(family)}".strip()]
    for rows, where in ((family[family["arm"] == arms[0]], "by the profile's rule"), (other, "by the other rule for the end")):
        [row] = rows[rows["metric"] == "accuracy"].to_dict("records")
        bad = f"; {row['n_flagged']} of the runs {words.FLAGGED}{minus(words.without_flagged(row))}" * bool(row["n_flagged"])
        verdict = words.SAID[row["verdict"]].format(*(NAMES[arm] for arm in arms))
        told.append(joined([f"{where} ({words.runs(row)}) {verdict} ({points(row)}{bad})"]))
    same = few[(few["arm"] == SAME) & (few["metric"] == "accuracy")]
    told += [
        f"At the plateau scBERT keeps a fifth of its labels to end by: from the same four fifths, {LR} − it is {points(row)} "
        f"({row['verdict']})."
        for row in same.to_dict("records")
    ]
    if rows := _asked(few[few["protocol"] == "paper"]):
        each = listed([f"{NAMES[row['reference']]} is {points(row)} ({words.runs(row)})" for row in rows])
        at = f"With {percent(rows[0]['fraction'])} of the labels, after the authors' ten epochs"
        told.append(f"{at}, {LR} − {each}: these are fewer steps in proportion, and had not ended.")
    told += [
        f"There scBERT with a gene embedding − without one, both not pre-trained, is {points(row)} ({words.runs(row)}, "
        f"{row['verdict']})."
        for row in few[(few["arm"] == "no_pretraining") & (few["metric"] == "accuracy")].to_dict("records")
    ]
    if len(elsewhere):
        told.append(_outside(elsewhere.fillna({"corpus": ""})))
    return " ".join(told)


def _outside(elsewhere):
    """What was asked of cells from elsewhere, arm by arm; of the controls, from where to where."""
    told, controls = [], elsewhere[~elsewhere["reference"].isin(NAMES)]
    for row in elsewhere[elsewhere["reference"].isin(NAMES)].to_dict("records"):
        on = row["corpus"] and f", pre-trained on {row['corpus']}"
        bad = f", with {row['n_flagged']} of the runs at a guess{minus(words.without_flagged(row))}" * bool(row["n_flagged"])
        told.append(f"{NAMES[row['reference']]}{on} is {points(row)} ({row['verdict']}{bad})")
    said = f"Asked about {int(elsewhere['n_cells'].iloc[0])} cells of another preparation, {LR} − {listed(told)}, in accuracy"
    learnt = controls[~controls["reference"].isin(["majority", "stratified_random"])]["difference"]
    span = f"; minus {len(learnt)} controls that learn {100 * learnt.min():+.1f} to {100 * learnt.max():+.1f} points"
    return f"{said}{minus(span) if len(learnt) else ''}."


def _caveat(family, corpora, elsewhere):
    rows = pd.DataFrame(_asked(family) + _asked(corpora))
    rows = rows.fillna({"corpus": ""}) if "corpus" in rows else rows.assign(corpus="")
    told = "scBERT's weights are chosen on the reported cells where the protocol is the authors', which favours it. "
    told += flagged(rows, lambda row: NAMES[row["reference"]] + (row["corpus"] and f", pre-trained on {row['corpus']}"))
    told += f"Of the cells of another preparation: {LABELLED[0].lower()}{LABELLED[1:]} " if len(elsewhere) else ""
    return told + "The arm that the paper is about, with a gene embedding and pre-trained, is not among them."
