"""The scorecard: every published number beside ours, with a verdict."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lib.evaluate import differences, intervals
from lib.paper.published import masked, runs


def scorecard(ours, masked_runs, reproduces, few_shot_seeds, differences=None):
    """One row for each published number (the runs of one arm averaged), with ours and a verdict.

    Parameters
    ----------
    ours : DataFrame
        Of :func:`lib.evaluate.measures.table`.
    masked_runs : list of Run
        Of the masked task.
    reproduces : str
        The published data set that our cells stand for.
    few_shot_seeds : list of int
        Seeds of the few-shot experiment; the other experiments use all.
    differences : DataFrame, optional
        Of :func:`lib.evaluate.differences.family`; where it has an arm against its reference, its paired bootstrap takes the
        place of Welch's interval over ours.

    Returns
    -------
    DataFrame
        ``experiment``, ``dataset``, ``arm``, ``fraction``, ``metric``; value, half width of the Student interval
        and number of runs of the paper and of ours, with their ids; difference to the ``reference`` arm with Welch's
        interval for both (ours: see ``differences``); ``verdict``, by the rule in notebook 05.
    """
    table = runs()
    rows = []
    for (experiment, dataset, arm, fraction, metric), part in table.groupby(
        ["experiment", "dataset", "arm", "fraction", "metric"], sort=False
    ):
        own = ours[0:0]
        if dataset == reproduces:
            own = ours if experiment != "few_shot" else ours[ours["seed"].isin(few_shot_seeds)]
        stands_for = "full" if arm == "as_reported_by_Yang_2022" else arm
        reference = "full" if stands_for != "full" else "logistic_regression"
        theirs_reference = _pick(table[table["dataset"] == dataset], reference, fraction, metric, experiment)
        row = {"experiment": experiment, "dataset": dataset, "arm": arm, "reference": reference, "fraction": fraction,
               "metric": metric, "source": part["source"].iloc[0]}  # fmt: skip
        row |= _side("paper", part["value"], theirs_reference)
        row |= _side("ours", _pick(own, stands_for, fraction, metric), _pick(own, reference, fraction, metric))
        row |= _paired(differences, experiment, stands_for, reference, fraction, metric) if row["n_ours"] else {}
        row["runs"] = _ids(own, stands_for, fraction)
        rows.append(row | {"verdict": _verdict(row, reproduces)})
    return pd.concat([pd.DataFrame(rows), masked_scorecard(masked_runs, reproduces)], ignore_index=True)


def _ids(table, arm, fraction):
    """The ids of the runs of an arm, as text."""
    if "run" not in table:
        return ""
    return " ".join(dict.fromkeys(table.loc[(table["arm"] == arm) & (table["fraction"] == fraction), "run"]))


def _paired(differences, experiment, arm, reference, fraction, metric):
    """What the table of paired differences has of an arm, in the scorecard's names; the sign is arm − reference."""
    if differences is None:
        return {}
    found = differences[(differences["fraction"] == fraction) & (differences["metric"] == metric)
                        & (differences["experiment"] == experiment)]  # fmt: skip
    for first, second, sign in ((arm, reference, 1), (reference, arm, -1)):
        row = found[(found["arm"] == first) & (found["reference"] == second)]
        if len(row):
            row = row.iloc[0]
            ends = sorted((sign * row["low"], sign * row["high"]))
            return {"effect_ours": sign * row["difference"], "low_ours": ends[0], "high_ours": ends[1],
                    "p_holm": row["p_holm"], "p_equivalence": row["p_equivalence"]}  # fmt: skip
    return {}


def family(done, few_shot_seeds, fractions):
    """Every difference of the scorecard that runs of ours allow, paired, as one family (DataFrame).

    Parameters
    ----------
    done : list of Run
    few_shot_seeds : list of int
    fractions : list of float

    Returns
    -------
    DataFrame
        As :func:`lib.evaluate.differences.family` gives it, with ``experiment``.
    """
    metrics = ("accuracy", "macro_f1")
    few = [run for run in done if run.spec["seed"] in few_shot_seeds]
    questions = [("logistic_regression", "full", {"fraction": float(fraction)}) for fraction in fractions]
    whole = [(arm, "full", {"fraction": 1.0}) for arm in ("logistic_regression", "no_pretraining", "no_gene2vec")]
    parts = [
        differences.family(questions, few, metrics).assign(experiment="few_shot"),
        differences.family(whole[:1], done, metrics).assign(experiment="baseline"),
        differences.family(whole[1:], done, metrics).assign(experiment="ablation"),
    ]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(p_holm=intervals.holm(table["p"]))


def _pick(table, arm, fraction, metric, experiment=None):
    """Values of one arm; with ``experiment``, from that experiment if it has the arm, else from the baseline's."""
    part = table[(table["arm"] == arm) & (table["fraction"] == fraction) & (table["metric"] == metric)]
    if experiment is not None:
        own = part["experiment"] == experiment
        part = part[own if own.any() else part["experiment"] == "baseline"]
    return part["value"]


def _side(who, values, reference):
    """Mean, interval and number of runs of one side, and its difference to the reference arm."""
    nan = float("nan")
    mean, half_width = intervals.confidence_interval(values) if len(values) else (nan, nan)
    effect = intervals.effect(values, reference) if len(values) and len(reference) else (nan, nan, nan)
    return {who: mean, f"half_width_{who}": half_width, f"n_{who}": len(values),
            **dict(zip((f"effect_{who}", f"low_{who}", f"high_{who}"), effect))}  # fmt: skip


def _verdict(row, reproduces):
    if row["dataset"] != reproduces:
        return f"not run: {row['dataset']}"
    if row["n_ours"] == 0:
        return "not run: not in these cells"
    if row["effect_paper"] != row["effect_paper"]:
        return "no reference published"
    paper, ours = (intervals.direction(row[f"low_{who}"], row[f"high_{who}"]) for who in ("paper", "ours"))
    if row.get("p_holm", 0) >= 0.05:  # one of many questions: the interval alone decides too easily
        ours = "≈"
    return _compare(paper, ours)


def _compare(paper, ours):
    if "?" in (paper, ours):
        return "no interval"
    if paper == ours:
        return "same"
    if "≈" not in (paper, ours):
        return "opposite"
    return "ours undecided" if ours == "≈" else "paper undecided"


def masked_scorecard(masked_runs, reproduces):
    """The rows of :func:`scorecard` for the masked task, means over test cells (DataFrame).

    The difference is to the rule that always says the cell's most common bin.
    """
    per_cell = {}
    for run in masked_runs:
        p = run.predictions
        columns = {
            "masked_accuracy": p["predicted"] == p["target"],
            "accuracy_of_most_common_bin": p["most_common_bin"] == p["target"],
            "fraction_predicting_most_common_bin": p["predicted"] == p["most_common_bin"],
        }
        size = np.bincount(p["cell"])
        per_cell[run.spec["arm"]] = {name: np.bincount(p["cell"], hit) / size for name, hit in columns.items()}
    rows = []
    published = masked().to_dict("records")
    if reproduces not in {known["dataset"] for known in published}:  # ours are shown all the same
        blank = dict.fromkeys(("masked_accuracy", "accuracy_of_most_common_bin", "fraction_predicting_most_common_bin"), float("nan"))
        published += [{"dataset": reproduces, "gene_embedding": kind, "source": "", **blank} for kind in ("gene2vec", "none")]
    for known in published:
        arm = {"none": "no_gene2vec", "gene2vec": "full"}[known["gene_embedding"]]
        for metric in ("masked_accuracy", "accuracy_of_most_common_bin", "fraction_predicting_most_common_bin"):
            row = {"experiment": "masked", "dataset": known["dataset"], "arm": arm, "reference": "most_common_bin",
                   "fraction": 1.0, "metric": metric, "source": known["source"]}  # fmt: skip
            row |= _side("paper", [known[metric]], []) | _side("ours", [], [])
            if known["dataset"] == reproduces:
                cells = per_cell[arm]
                row |= _side("ours", cells[metric], [])
                if metric == "masked_accuracy":
                    row["effect_paper"] = known[metric] - known["accuracy_of_most_common_bin"]
                    mean, half = intervals.confidence_interval(cells[metric] - cells["accuracy_of_most_common_bin"])
                    row |= {"effect_ours": mean, "low_ours": mean - half, "high_ours": mean + half}
            row["verdict"] = _verdict(row, reproduces)
            if row["effect_paper"] == row["effect_paper"]:  # a single number on millions of genes: half a point counts
                paper = "≈" if abs(row["effect_paper"]) < 0.005 else "+" if row["effect_paper"] > 0 else "−"
                row["verdict"] = _compare(paper, intervals.direction(row["low_ours"], row["high_ours"]))
            rows.append(row)
    return pd.DataFrame(rows)


def claims(card, reproduces):
    """The rows of a scorecard that are claims: an arm against its reference, where both sides have runs (DataFrame)."""
    own = (card["dataset"] == reproduces) & card["metric"].isin(["accuracy", "macro_f1"]) & (card["arm"] != "full")
    return card[own & card["effect_ours"].notna() & card["effect_paper"].notna()]
