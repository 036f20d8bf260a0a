"""The scorecard: every published number beside ours, with a verdict; and the paper's claims, asked of our runs."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd

from lib.evaluate import differences, intervals, measures
from lib.evaluate.masked import over
from lib.evaluate.words import few, verdict
from lib.paper import published

# The paper's claims: three families, in each of which p is adjusted for itself. Every arm is asked against scBERT (full), by
# accuracy and macro-F1, and with all labels on the hard pair too, if it is there. Few labels are all fractions below 1:
# with all labels the question is the baseline's.
CLAIMS = {
    "baseline": ["logistic_regression"],
    "ablation": ["no_pretraining", "no_gene2vec"],
    "few_shot": ["logistic_regression"],
}
MASKED = ("masked_accuracy", "accuracy_of_most_common_bin", "fraction_predicting_most_common_bin")


def family(experiment: str, runs: list) -> pd.DataFrame:
    """One of the paper's claims, as our runs have it: the one place where its pairs are judged.

    Parameters
    ----------
    experiment : {"baseline", "ablation", "few_shot"}
    runs : list of Run
        Of the task ``cell_types``; others than the family's are left out.

    Returns
    -------
    DataFrame
        Of :func:`lib.evaluate.differences.family`, with ``experiment``.
    """
    fractions = sorted({run.spec["fraction"] for run in runs if run.spec["fraction"] < 1})
    metrics = differences.METRICS
    if experiment != "few_shot" and set(measures.HARD_PAIR) <= set(runs[0].predictions["classes"]):
        metrics += tuple(f"{metric}_hard_pair" for metric in metrics)
    asked = product(fractions if experiment == "few_shot" else [1.0], CLAIMS[experiment], metrics)
    questions = [(arm, "full", metric, {"fraction": fraction}) for fraction, arm, metric in asked]
    return differences.family(questions, runs).assign(experiment=experiment)


def families(runs: list) -> pd.DataFrame:
    """All of the paper's claims that these runs can answer, each adjusted for itself."""
    below = any(run.spec["fraction"] < 1 for run in runs)
    return pd.concat([family(name, runs) for name in CLAIMS if below or name != "few_shot"], ignore_index=True)


def scorecard(ours: pd.DataFrame, masked_runs: list, reproduces: str, judged: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row for each published number (the runs of one arm averaged), with ours and a verdict.

    Parameters
    ----------
    ours : DataFrame
        Of :func:`lib.evaluate.measures.table`.
    masked_runs : list of Run
        Of the masked task.
    reproduces : str
        The published data set that our cells stand for.
    judged : DataFrame, optional
        Of :func:`families`; where it has an arm against its reference, its paired bootstrap takes the place of
        Welch's interval over ours.

    Returns
    -------
    DataFrame
        ``experiment``, ``dataset``, ``arm``, ``fraction``, ``metric``; value, half width of the Student interval
        and number of runs of the paper and of ours, with their ids; difference to the ``reference`` arm with Welch's
        interval for both (ours: see ``judged``), and what each is in a word; ``verdict``, by the rule in notebook 05.
    """
    rows = []
    keys = ["experiment", "dataset", "arm", "fraction", "metric"]
    for key, part in published.runs().groupby(keys, sort=False):
        row = dict(zip(keys, key))
        arm = "full" if row["arm"] == "as_reported_by_Yang_2022" else row["arm"]
        row["reference"] = reference = "full" if arm != "full" else "logistic_regression"
        row["source"] = part["source"].iloc[0]
        theirs = published.values(row["experiment"], row["dataset"], reference, row["metric"], row["fraction"])
        here = ours[(ours["fraction"] == row["fraction"]) & (ours["metric"] == row["metric"]) & (row["dataset"] == reproduces)]
        own, other = (here[here["arm"] == name] for name in (arm, reference))
        paired = _paired(judged, arm, row) if len(own) else {}
        row |= _side("paper", part["value"], intervals.effect(part["value"], theirs))
        row |= _side("ours", own["value"], paired or intervals.effect(own["value"], other["value"]))
        row["half_width_ours"] = measures.mean_of_runs(own)[1] if len(own) else float("nan")  # over pre-trainings and seeds
        kept = ("p_holm", "p_equivalence", "detectable", "n_seeds", "n_pretrainings")
        row |= {name: paired[name] for name in kept if name in paired}
        row["runs"] = " ".join(dict.fromkeys(own.get("run", [])))
        rows.append(row | {"verdict": _agreement(row, reproduces)})
    return pd.concat([pd.DataFrame(rows), masked_scorecard(masked_runs, reproduces)], ignore_index=True)


def _paired(judged, arm, row):
    """What the families have found of an arm against its reference, as the difference arm − reference; empty, where nothing."""
    for found in [] if judged is None else judged.to_dict("records"):
        sign = {(arm, row["reference"]): 1, (row["reference"], arm): -1}.get((found["arm"], found["reference"]))
        if sign and (found["fraction"], found["metric"]) == (row["fraction"], row["metric"]):
            low, high = sorted((sign * found["low"], sign * found["high"]))
            return found | {"difference": sign * found["difference"], "low": low, "high": high}
    return {}


def _side(who, values, found):
    """Mean, interval and number of runs of one side; what was found of its difference to the reference, and that in a word."""
    mean, half_width = intervals.confidence_interval(values)
    row = {who: mean, f"half_width_{who}": half_width, f"n_{who}": len(values), f"effect_{who}": found["difference"]}
    word = verdict(found) if np.isfinite(found["low"]) else "no interval"
    return row | {f"low_{who}": found["low"], f"high_{who}": found["high"], f"verdict_{who}": word}


def _agreement(row, reproduces):
    """What the paper's difference and ours say together, in a word."""
    if row["dataset"] != reproduces:
        return f"not run: {row['dataset']}"
    if row["n_ours"] == 0:
        return "not run: not in these cells"
    if np.isnan(row["effect_paper"]):
        return "no reference published"
    both = row["verdict_paper"], row["verdict_ours"]
    if "no interval" in both:
        return "no interval"
    shown = [word for word in both if word in ("ahead", "behind")]
    if len(shown) == 2:
        return "same" if shown[0] == shown[1] else "opposite"
    if both == ("equivalent", "equivalent"):
        return "same"
    return "paper's size excluded" if _excluded(row) else "cannot say"


def _excluded(row):
    """Whether ours − theirs, with the uncertainty of both, leaves zero out; never from fewer than three runs."""
    if few(row):
        return False
    halves = [
        max(row[f"high_{who}"] - row[f"effect_{who}"], row[f"effect_{who}"] - row[f"low_{who}"]) for who in ("ours", "paper")
    ]
    return bool(abs(row["effect_ours"] - row["effect_paper"]) > np.hypot(*halves))


def masked_scorecard(masked_runs: list, reproduces: str) -> pd.DataFrame:
    """The rows of :func:`scorecard` for the masked task, over all hidden genes of the test cells, as the authors count.

    The difference is to the rule that always says the cell's most common bin. Ours are means over pre-trainings.
    """
    found = {arm: _masked(runs) for arm, runs in measures.by_arm(masked_runs).items()}
    theirs = published.masked().to_dict("records")
    if reproduces not in {known["dataset"] for known in theirs}:  # ours are shown all the same
        blank = {"dataset": reproduces, "source": "", **dict.fromkeys(MASKED, float("nan"))}
        theirs += [blank | {"gene_embedding": kind} for kind in ("gene2vec", "none")]
    rows = []
    for known in theirs:
        arm = {"none": "no_gene2vec", "gene2vec": "full"}[known["gene_embedding"]]
        values, gain = found[arm] if known["dataset"] == reproduces else ({name: [] for name in MASKED}, {})
        for metric in MASKED:
            row = {"experiment": "masked", "dataset": known["dataset"], "arm": arm, "reference": "most_common_bin"}
            row |= {"fraction": 1.0, "metric": metric, "source": known["source"]}
            paper = ours = intervals.effect([], [])
            if metric == "masked_accuracy" and gain:
                # The paper's is a single number on millions of genes: half a point counts.
                theirs_gain = known[metric] - known["accuracy_of_most_common_bin"]
                paper = {"difference": theirs_gain, "low": theirs_gain - 0.005, "high": theirs_gain + 0.005}
                ours = gain
                row |= {name: gain[name] for name in ("detectable", "n_seeds", "n_pretrainings")}
            row |= _side("paper", [known[metric]], paper) | _side("ours", values[metric], ours)
            row["verdict"] = _agreement(row, reproduces)
            rows.append(row | {"low_paper": float("nan"), "high_paper": float("nan")})  # it has no interval
    return pd.DataFrame(rows)


def _masked(runs):
    """Of an arm: the three numbers of each of its pre-trainings, and its gain over saying the cell's most common bin."""
    values = {name: [] for name in MASKED}
    for run in runs:
        p = run.predictions
        hits = p["predicted"] == p["target"], p["most_common_bin"] == p["target"], p["predicted"] == p["most_common_bin"]
        for name, hit in zip(MASKED, hits):
            values[name].append(hit.mean())
    p = runs[0].predictions
    return values, over({"rule": np.eye(8)[p["most_common_bin"]]}, "rule", runs)


def claims(card: pd.DataFrame, reproduces: str) -> pd.DataFrame:
    """The rows of a scorecard that are claims: an arm against its reference, where both sides have runs."""
    metrics = [*differences.METRICS, *(f"{metric}_hard_pair" for metric in differences.METRICS)]
    own = (
        (card["dataset"] == reproduces) & card["metric"].isin(metrics) & ~card["arm"].isin(["full", "as_reported_by_Yang_2022"])
    )
    return card[own & card["effect_ours"].notna() & card["effect_paper"].notna()]
