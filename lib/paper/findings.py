"""What a profile's runs say, in sentences made from its tables: no number in them is without a file.

Verdicts are those of the tables, so that a sentence turns when they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from lib.arms import label
from lib.evaluate import words
from lib.paper import full_size
from lib.paper.full_size import LR, PLAIN, SAME
from lib.paper.sentences import SCORES, adjusted, basis, flagged, joined, listed, paper, percent, placed, points, verdicts

HERE = "scBERT"


@dataclass(frozen=True)
class Finding:
    """What one notebook found, for a reader who has not read the paper."""

    notebook: str  # its number
    claim: str
    evidence: str
    caveat: str
    tables: tuple[str, ...]  # the files that it is made from


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """The findings of a profile, a notebook each; those whose tables are not there are left out.

    Parameters
    ----------
    tables : mapping
        A profile's tables by file name (``figures/<profile>/*.csv``).
    """
    makers = {
        ("01_family.csv", "01_controls.csv", "05_scorecard_claims.csv"): _baseline,
        ("02_family.csv", "02_same_labels.csv", "05_scorecard_claims.csv"): _few_labels,
        ("03_difference.csv", "03_few_labels_difference.csv", "05_scorecard_claims.csv"): _ablations,
        ("04_difference.csv", "04_masked_task.csv", "04_hidden_genes.csv", "04_against_pca.csv"): _masked,
        ("05_scorecard_claims.csv",): _scorecard,
        ("07_calibration_error.csv", "07_unknown.csv"): _unsure,
        full_size.TABLES: full_size.finding,
        full_size.ELSEWHERE: full_size.elsewhere,
    }
    return [
        Finding(names[0][:2], *make(*(tables[name] for name in names)), names)
        for names, make in makers.items()
        if set(names) <= set(tables) and (names != full_size.ELSEWHERE or len(tables[names[0]]))
    ]


def questions(tables: Mapping[str, pd.DataFrame]) -> dict[str, dict]:
    """The paper's questions in a few words, with the row of a table that answers each; empty where tables are missing.

    Each row has ``difference``, ``low``, ``high``, ``verdict`` and ``labels``: where it asks logistic regression against scBERT
    *all* (of the labels, by a fifth of which scBERT ends) or *same* (both learn from the other four fifths); else "".
    """
    if not {"01_family.csv", "02_family.csv", "02_same_labels.csv", "03_difference.csv", "04_difference.csv"} <= set(tables):
        return {}
    found, family = {}, tables["01_family.csv"]
    asked = [("all", family[family["experiment"] == "baseline"]), ("all", tables["02_family.csv"])]
    asked += [("same", family[family["arm"] == SAME]), ("same", tables["02_same_labels.csv"])]
    for labels, rows in asked:
        for row in rows[rows["metric"].isin(SCORES)].fillna({"fraction": 1.0}).to_dict("records"):
            of = "all labels" if row["fraction"] == 1 else f"{percent(row['fraction'])} of the labels"
            of += ", both from 4/5 of them" * (labels == "same")
            found[f"{LR} − {HERE}, {of}, {SCORES[row['metric']]}"] = row | {"labels": labels}
    for row in tables["03_difference.csv"].to_dict("records"):
        name = {"no_gene2vec": "without a gene embedding", "no_pretraining": "without pre-training"}[row["arm"]]
        found[f"{HERE} {name} − {HERE}, all labels, {SCORES[row['metric']]}"] = row | {"labels": ""}
    [row] = tables["04_difference.csv"].to_dict("records")
    found[f"{HERE} − a rule that counts bins, hidden genes told right"] = row | {"labels": ""}
    return found


def _baseline(family, controls, card):
    asked = family[family["experiment"] == "baseline"]
    claims = asked[asked["metric"].isin(SCORES)]
    claim = f"with all labels {verdicts(claims.assign(of=claims['metric'].map(SCORES)), LR, HERE)}"
    value = controls[controls["metric"] == "accuracy"].set_index("arm")
    mean, runs, whole = value["mean"], int(value.loc["full", "n_runs"]), value.loc["full"]
    others = family[(family["experiment"] == "controls") & (family["metric"] == "accuracy")]
    evidence = f"{basis(claims)} {adjusted(asked)}{paper(card, 'baseline', 'logistic_regression')}"
    evidence += f" Of {len(others)} simpler models and variants, asked against scBERT in accuracy, {placed(others)}."
    same = [
        f"{points(row)} in {SCORES[row['metric']]} ({row['verdict']})"
        for row in family[(family["arm"] == SAME) & family["metric"].isin(SCORES)].to_dict("records")
    ]
    caveat = [
        f"one training of scBERT has a mean accuracy of {mean['full']:.3f}, its {runs} trainings averaged into one classifier "
        f"{whole['ensemble']:.3f} ({whole['ensemble_low']:.3f} to {whole['ensemble_high']:.3f}), logistic regression "
        f"{mean['logistic_regression']:.3f}",
        f"from the same four fifths of the labels (scBERT ends by the rest) {LR} − {HERE} is {listed(same)}",
        f"the depth of a cell's sequencing alone gives {mean['depth']:.3f}, the most common type {mean['majority']:.3f}",
    ]
    return joined([claim]), evidence, joined(caveat)


def _few_labels(family, same, card):
    told = []
    for rows, of in (
        (family, "with few labels"),
        (same, f"where both learn from the same four fifths of them ({HERE} ends by the rest),"),
    ):
        asked = rows["metric"].map(SCORES) + " at " + rows["fraction"].map(percent)
        told += [f"{of} {verdicts(rows.assign(of=asked), LR, HERE)}"] * (not rows.empty)
    evidence = f"{basis(family)} {adjusted(family)}{paper(card, 'few_shot', 'logistic_regression')}"
    evidence += f" {adjusted(same, 'from the same four fifths, ')}".rstrip()
    return joined(told), evidence, "Both sides have the settings that were chosen with all labels."


def _ablations(family, few, card):
    told, names = [], {"no_gene2vec": PLAIN, "no_pretraining": "scBERT without pre-training"}
    for arm, name in names.items():
        rows = family[family["arm"] == arm]
        told.append(verdicts(rows.assign(of="accuracy with all labels"), name, HERE))
    few = few.assign(of="accuracy with " + few["fraction"].map(percent) + " of the labels")
    told.append(verdicts(few, "pre-trained scBERT", names["no_pretraining"]))
    papers = [paper(card, "ablation", arm, name) for arm, name in names.items()]
    caveat = flagged(family, lambda row: names[row["arm"]])
    caveat += "The pre-training has seen the training cells alone, not a million others."
    return joined(told), f"{basis(family)} {adjusted(family)}{' '.join(papers)}", caveat


def _masked(family, task, parts, pca):
    [over] = family[family["reference"] == "additive"].to_dict("records")
    score = task.set_index(["arm", "metric"])["ours"]
    share = parts.set_index("arm")
    near = pca[(pca["arm"] == "full") & (pca["metric"] == "knn_accuracy")].assign(
        of="the share of cells that their nearest neighbours name right"
    )
    told = [
        f"on hidden genes {words.SAID[over['verdict']].format(HERE, 'a rule that counts bins, without a transformer,')} "
        f"({points(over)})",
        f"without a gene embedding its answer is right for {score['no_gene2vec', 'masked_accuracy']:.3f} of the hidden genes, "
        f"the cell's most common bin for {score['no_gene2vec', 'accuracy_of_most_common_bin']:.3f}",
        verdicts(near, "scBERT's representation of cells", "that by principal components"),
    ]
    known = percent(share.loc["full", "the gene"] + share.loc["full", "the cell"])
    beside = share["the gene's neighbours in the cell"]
    evidence = (
        f"scBERT names {score['full', 'masked_accuracy']:.3f} of the hidden bins. Which gene it is and how deep the cell "
        f"explain {known} of the variance of the bins that it expects, the gene's neighbours in that cell "
        f"{percent(beside['full'], 1)}; "
        f"of the true bins these explain {percent(beside['the true bins'], 1)}."
    )
    caveat = f"{int(over['n_runs'])} pre-trainings on the training cells, without their labels."
    return joined(told), evidence, caveat


def _scorecard(card):
    if card.empty:
        return "The paper has no comparison on such cells that ours could be set beside.", "", ""
    counts = card["verdict"].value_counts()
    told = [f"{count} {verdict}" for verdict, count in counts.items()]
    claim = f"of the paper's {len(card)} comparisons that these runs can be asked, {listed(told)}"
    same = [f"{label(row.arm)}, {row.metric.replace('_', ' ')}" for row in card[card["verdict"] == "same"].itertuples()]
    return (
        joined([claim]),
        f"The same: {'; '.join(same) or 'none'}.",
        "*Cannot say* is not *no*: the detectable size stands beside it.",
    )


def _unsure(calibration, unknown):
    value = calibration.set_index(["arm", "metric"])["value"]
    told = [
        f"{name} names {percent(value[arm, 'accuracy'])} of the cells right, with a mean confidence of "
        f"{percent(value[arm, 'confidence'])}"
        for arm, name in (("logistic_regression", LR), ("full", HERE))
    ]
    auc = unknown.groupby("arm")["auc"]
    each = [
        f"{label(arm)} {auc.median()[arm]:.2f} ({auc.min()[arm]:.2f} to {auc.max()[arm]:.2f})"
        for arm in auc.groups
        if auc.size()[arm] > 1
    ]
    told.append(
        f"confidence alone does not single out a type that was left out of training: area under the curve, the median over the "
        f"types (and their range), {', '.join(each)}"
        if each and auc.median().max() < 0.9
        else f"area under the curve of confidence for types left out of training, median and range: {', '.join(each)}"
    )
    error = calibration[calibration["metric"] == "calibration_error"].set_index("arm")
    evidence = "Calibration error: " + "; ".join(
        f"{label(arm)} {row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})" for arm, row in error.iterrows()
    )
    return (joined(told), f"{evidence}.", "0.5 is chance. Left-out types were among the cells of the pre-training, unlabelled.")
