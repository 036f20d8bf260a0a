"""The scorecard: every published number beside ours, with a verdict; and the paper's claims, asked of our runs."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd

from lib.evaluate import differences, intervals, measures
from lib.evaluate.masked import pooled
from lib.evaluate.words import FLAGGED, few, points, verdict
from lib.paper import published

# The paper's claims: three families, in each of which p is adjusted for itself. Every arm is asked against scBERT (full), by
# accuracy and macro-F1, and with all labels on the hard pair too, if it is there. Few labels are all fractions below 1:
# with all labels the question is the baseline's.
CLAIMS = {
    "baseline": ["logistic_regression"],
    "ablation": ["no_pretraining", "no_gene2vec"],
    "few_shot": ["logistic_regression"],
}
# What of a paired difference a row of the scorecard keeps, besides its interval.
KEPT = ("p_holm", "p_equivalence", "detectable", "n_cells", "n_seeds", "n_runs", "n_pretrainings", "n_flagged")
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


def same_labels(runs: list) -> pd.DataFrame:
    """Logistic regression against scBERT with few labels, both learnt from the same four fifths of them; a family of its own.

    Empty where scBERT keeps no fifth to end by (protocol *paper*): there :func:`family` asks that already.
    """
    arm = "logistic_regression_four_fifths"
    fractions = sorted({run.spec["fraction"] for run in runs if run.spec["arm"] == arm and run.spec["fraction"] < 1})
    asked = [(arm, "full", metric, {"fraction": fraction}) for fraction in fractions for metric in differences.METRICS]
    columns = ["arm", "reference", "fraction", "metric", "difference", "low", "high", "verdict"]
    return differences.family(asked, runs) if asked else pd.DataFrame(columns=columns)


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
        Of :func:`families`; where it has an arm against its reference, its paired difference takes the place of
        Welch's interval over ours.

    Returns
    -------
    DataFrame
        ``experiment``, ``dataset``, ``arm``, ``fraction``, ``metric``; value, half width of its interval (ours: over both
        levels of runs) and number of runs of the paper and of ours, with their ids; difference to the ``reference`` arm
        with Welch's interval for both (ours: see ``judged``), and what each is in a word; ``gap``, ours − the paper's
        difference, with ``low_gap`` and ``high_gap``; ``detectable``, the smallest true difference that four of five
        experiments like ours would show at 5 %, before Holm's adjustment; ``verdict``:

        - *same*: both sides are ahead, both behind, or both equivalent (within 2 points by two one-sided tests);
        - *opposite*: one is ahead and the other behind;
        - *paper's size excluded*: neither, and the interval of ``gap`` leaves zero out;
        - *cannot say*: none of these;
        - *no interval*, *no reference published*, *not run: …*: what is missing;
        - *reference*: scBERT itself, which others are compared with; so that each comparison has one row.
    """
    rows = []
    keys = ["experiment", "dataset", "arm", "fraction", "metric"]
    for key, part in published.runs().groupby(keys, sort=False):
        row = dict(zip(keys, key))
        arm = "full" if row["arm"] == "as_reported_by_Yang_2022" else row["arm"]
        row["reference"] = reference = "full" if arm != "full" else ""
        row["source"] = part["source"].iloc[0]
        theirs = published.values(row["experiment"], row["dataset"], reference, row["metric"], row["fraction"])
        here = ours[(ours["fraction"] == row["fraction"]) & (ours["metric"] == row["metric"]) & (row["dataset"] == reproduces)]
        own, other = (here[here["arm"] == name] for name in (arm, reference))
        paired = _paired(judged, arm, row) if len(own) else {}
        row |= _side("paper", part, intervals.effect(part["value"], theirs))
        row |= _side("ours", own, paired or intervals.effect(own["value"], other["value"]))
        row |= {name: paired[name] for name in KEPT if name in paired}
        row["runs"] = " ".join(dict.fromkeys(own.get("run", [])))
        rows.append(row | _gap(row) | {"verdict": _agreement(row, reproduces)})
    return pd.concat([pd.DataFrame(rows), masked_scorecard(masked_runs, reproduces)], ignore_index=True)


def _paired(judged, arm, row):
    """What the families have found of an arm against its reference; empty, where nothing."""
    wanted = {"arm": arm} | {name: row[name] for name in ("reference", "fraction", "metric")}
    rows = [] if judged is None else judged.to_dict("records")
    return next((found for found in rows if wanted.items() <= found.items()), {})


def _side(who, runs, found):
    """Mean, interval and number of runs of one side; what was found of its difference to the reference, and that in a word."""
    mean, half_width = measures.mean_of_runs(runs)
    row = {who: mean, f"half_width_{who}": half_width, f"n_{who}": len(runs), f"effect_{who}": found["difference"]}
    word = verdict(found) if np.isfinite(found["low"]) else "no interval"
    return row | {f"low_{who}": found["low"], f"high_{who}": found["high"], f"verdict_{who}": word}


def _agreement(row, reproduces):
    """What the paper's difference and ours say together, in a word."""
    if row["dataset"] != reproduces:
        return f"not run: {row['dataset']}"
    if row["n_ours"] == 0:
        return "not run: not in these cells"
    if not row["reference"]:
        return "reference"
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
    return "paper's size excluded" if _excluded(_gap(row)) else "cannot say"


def _gap(row):
    """Ours − the paper's difference, with both uncertainties; without an interval from fewer than three runs of ours.

    Each end is as far off as the two sides' ends on that way are together, squared and added: Zou & Donner, Stat. Med. 27,
    1693–1702 (2008). No verdict, no exclusion: two runs are too few for either.
    """
    ours, paper = ({name: row[f"{name}_{who}"] for name in ("effect", "low", "high")} for who in ("ours", "paper"))
    gap = ours["effect"] - paper["effect"]
    low = gap - np.hypot(ours["effect"] - ours["low"], paper["high"] - paper["effect"])
    high = gap + np.hypot(ours["high"] - ours["effect"], paper["effect"] - paper["low"])
    return {"gap": gap} | dict(zip(("low_gap", "high_gap"), [float("nan")] * 2 if few(row) else (low, high)))


def _excluded(gap):
    return bool(gap["low_gap"] > 0 or gap["high_gap"] < 0)


def told(row: dict) -> str:
    """A row's verdict with what a reader needs beside it, in points: the size that could have been seen, or that was excluded.

    >>> told({"verdict": "cannot say", "detectable": 0.031, "n_pretrainings": 1})
    'cannot say (one pre-training; less than 3.1 points is often missed)'
    """
    notes = ["one pre-training"] if row.get("n_pretrainings") == 1 else []
    notes += [f"some of the runs {FLAGGED}"] if row.get("n_flagged", 0) > 0 else []
    if row["verdict"] == "cannot say" and np.isfinite(row.get("detectable", np.nan)):
        notes.append(f"less than {100 * row['detectable']:.1f} points is often missed")
    if row["verdict"] in ("same", "paper's size excluded") and _excluded({"low_gap": np.nan, "high_gap": np.nan} | row):
        size = "ours − paper" if row["verdict"] != "same" else "but not in size: ours − paper"
        notes.append(f"{size} {points({'difference': row['gap'], 'low': row['low_gap'], 'high': row['high_gap']})}")
    return row["verdict"] + (f" ({'; '.join(notes)})" if notes else "")


def masked_scorecard(masked_runs: list, reproduces: str) -> pd.DataFrame:
    """The rows of :func:`scorecard` for the masked task, over all hidden genes of the test cells, as the authors count.

    The difference is to the rule that always says the cell's most common bin. Ours are means over pre-trainings, with
    intervals for other cells and other pre-trainings; a verdict takes three of these.
    """
    found = {arm: _masked(runs) for arm, runs in measures.by_arm(masked_runs).items()}
    theirs = published.masked().to_dict("records")
    if reproduces not in {known["dataset"] for known in theirs}:  # ours are shown all the same
        blank = {"dataset": reproduces, "source": "", **dict.fromkeys(MASKED, float("nan"))}
        theirs += [blank | {"gene_embedding": kind} for kind in ("gene2vec", "none")]
    rows = []
    for known in theirs:
        arm = {"none": "no_gene2vec", "gene2vec": "full"}[known["gene_embedding"]]
        mine = found.get(arm, {}) if known["dataset"] == reproduces else {}
        for metric in MASKED:
            row = {"experiment": "masked", "dataset": known["dataset"], "arm": arm, "reference": "most_common_bin"}
            row |= {"fraction": 1.0, "metric": metric, "source": known["source"]}
            paper = ours = intervals.effect([], [])
            if metric == "masked_accuracy" and mine:
                # The paper's is a single number on millions of genes: half a point counts.
                gain = known[metric] - known["accuracy_of_most_common_bin"]
                paper, ours = {"difference": gain, "low": gain - 0.005, "high": gain + 0.005}, mine["gain"]
                row |= {name: ours[name] for name in KEPT if name in ours}
            row |= _side("paper", pd.DataFrame({"value": [known[metric]]}), paper)
            row |= _side("ours", pd.DataFrame({"value": []}), ours)
            if mine:
                value = mine[metric]
                row |= {"ours": value["difference"], "half_width_ours": value["high"] - value["difference"]}
                row["n_ours"] = value["n_runs"]
            row |= _gap(row) | {"verdict": _agreement(row, reproduces)}
            rows.append(row | {"low_paper": float("nan"), "high_paper": float("nan")})  # it has no interval
    return pd.DataFrame(rows)


def _masked(runs):
    """Of an arm: the three numbers, and its gain over saying the cell's most common bin, each with its interval."""
    values = {name: [] for name in (*MASKED, "gain")}
    for run in runs:
        p = run.predictions
        right, rule = p["predicted"] == p["target"], p["most_common_bin"] == p["target"]
        for name, value in zip(values, (right, rule, p["predicted"] == p["most_common_bin"], right * 1.0 - rule)):
            values[name].append(value)
    return {name: pooled(value, runs) for name, value in values.items()}


def claims(card: pd.DataFrame, reproduces: str) -> pd.DataFrame:
    """The rows of a scorecard that are claims: an arm against its reference, where both sides have runs."""
    metrics = [*differences.METRICS, *(f"{metric}_hard_pair" for metric in differences.METRICS)]
    own = (
        (card["dataset"] == reproduces) & card["metric"].isin(metrics) & ~card["arm"].isin(["full", "as_reported_by_Yang_2022"])
    )
    return card[own & card["effect_ours"].notna() & card["effect_paper"].notna()]
