"""What a difference between two arms is worth: intervals over cells, over splits, tests, equivalence, families."""

from __future__ import annotations

import numpy as np

from lib import stats
from lib.errors import DataError

# Differences smaller than this are called meaningless: 2 points, less than half of what the paper finds between
# logistic regression and scBERT (4.5), and about what one more epoch or another seed changes.
MARGIN = 0.02


def wilson(right, total, level=0.95):
    """Share of cells named right, with Wilson's interval for the sampling of the test cells: (share, low, high)."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(right, total, 1 - level, method="wilson")
    return right / total, float(low), float(high)


def pair(runs, first, second, **where):
    """Runs of two arms with the same seeds, in the same order.

    Parameters
    ----------
    runs : list of Run
    first, second : str
        Arms.
    **where
        Entries of the specification that the runs must have, such as ``fraction=0.1``.

    Returns
    -------
    list of Run, list of Run
    """
    found = []
    for arm in (first, second):
        chosen = [run for run in runs if run.spec["arm"] == arm]
        chosen = [run for run in chosen if all(run.spec.get(key) == value for key, value in where.items())]
        found.append({run.spec["seed"]: run for run in chosen})
    seeds = [seed for seed in found[0] if seed in found[1]]
    if not seeds:
        raise DataError(f"No run of {first} has the seed of a run of {second}{f' with {where}' if where else ''}.")
    return [found[0][seed] for seed in seeds], [found[1][seed] for seed in seeds]


def mcnemar(first, second):
    """McNemar's test on the cells that only one of two arms names right.

    Parameters
    ----------
    first, second : list of Run
        Of two arms on the same test cells. Each arm has one answer a cell: from its runs' mean probabilities.

    Returns
    -------
    dict
        ``only_first``, ``only_second`` (cells), ``odds`` (their ratio), ``p`` (exact below 25 such cells).
    """
    from statsmodels.stats.contingency_tables import mcnemar as test

    right = []
    for arm in (first, second):
        mean = np.mean([run.predictions["probabilities"] for run in arm], axis=0)
        right.append(mean.argmax(1) == arm[0].predictions["labels"])
    only = [int(np.sum(right[0] & ~right[1])), int(np.sum(right[1] & ~right[0]))]
    exact = sum(only) < 25
    p = test([[0, only[0]], [only[1], 0]], exact=exact).pvalue if sum(only) else 1.0
    odds = only[0] / only[1] if only[1] else (float("inf") if only[0] else float("nan"))
    return {"only_first": only[0], "only_second": only[1], "odds": odds, "p": float(min(1, p))}


def corrected_t(differences, n_train, n_test, level=0.95):
    """Nadeau and Bengio's t for differences on repeated random splits of the same cells.

    Splits share training cells, so their differences are not independent; the variance of the mean is taken as
    s² · (1 / splits + n_test / n_train) instead of s² / splits.

    Parameters
    ----------
    differences : sequence of float
        One a split.
    n_train, n_test : int
        Cells on the two sides of each split.

    Returns
    -------
    dict
        ``difference``, ``low``, ``high``, ``p`` (two-sided), ``n_splits``; nan where there is one split.

    References
    ----------
    Nadeau & Bengio, Machine Learning 52, 239–281 (2003), doi 10.1023/A:1024068626366.
    """
    from scipy.stats import t as student

    values = np.asarray(differences, float)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return {"difference": mean, "low": np.nan, "high": np.nan, "p": np.nan, "n_splits": n}
    error = np.sqrt(values.var(ddof=1) * (1 / n + n_test / n_train))
    if error == 0:
        return {"difference": mean, "low": mean, "high": mean, "p": float(mean == 0), "n_splits": n}
    half = float(student.ppf(0.5 + level / 2, n - 1) * error)
    p = float(2 * student.sf(abs(mean) / error, n - 1))
    return {"difference": mean, "low": mean - half, "high": mean + half, "p": p, "n_splits": n}


def over_splits(runs, first, second, metric="accuracy"):
    """:func:`corrected_t` of first − second over the splits on which both arms have a run."""
    values, sizes = {first: {}, second: {}}, {}
    for run in runs:
        if (arm := run.spec["arm"]) in values:
            p, split = run.predictions, run.spec["split"]["seed"]
            values[arm][split] = stats.scores(p["labels"], p["probabilities"].argmax(1), p["classes"])[metric]
            sizes[split] = len(p["train"]), len(p["test"])
    splits = [split for split in values[first] if split in values[second]]
    if not splits:
        raise DataError(f"{first} and {second} have no split in common.")
    return corrected_t([values[first][k] - values[second][k] for k in splits], *sizes[splits[0]])


def holm(p):
    """Holm's adjustment of the p-values of one family of questions (array); nan stay nan and do not count."""
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p, float)
    known, adjusted = np.isfinite(p), np.full(p.shape, np.nan)
    if known.any():
        adjusted[known] = multipletests(p[known], method="holm")[1]
    return adjusted


def equivalence(first, second, margin=MARGIN):
    """Two one-sided Welch tests of |mean(first) − mean(second)| < margin; their larger p (nan for single runs)."""
    from statsmodels.stats.weightstats import ttost_ind

    first, second = np.asarray(first, float), np.asarray(second, float)
    if min(len(first), len(second)) < 2 or first.std() + second.std() == 0:
        return float("nan")
    return float(ttost_ind(first, second, -margin, margin, usevar="unequal")[0])


def family(questions, runs, metrics=("accuracy",), margin=MARGIN, seed=0):
    """One family of questions, each the difference of two arms on the same test cells (DataFrame).

    Parameters
    ----------
    questions : list of (first, second, dict)
        Two arms, and what else the runs must have (``fraction`` and the like).
    runs : list of Run
    metrics : sequence of {"accuracy", "macro_f1"}

    Returns
    -------
    DataFrame
        What :func:`lib.stats.paired_difference` finds, ``p_holm`` over all rows, and ``says``: *ahead* or *behind*
        by Holm's p, else *equivalent* (within ``margin``, by two one-sided tests), else *undecided*.
    """
    import pandas as pd

    rows = []
    for first, second, where in questions:
        arms = pair(runs, first, second, **where)
        for metric in metrics:
            found = stats.paired_difference(*arms, metric=metric, margin=margin, seed=seed)
            rows.append({"arm": first, "reference": second, **where, "metric": metric, **found})
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p"])
    table["says"] = [says(row) for row in table.to_dict("records")]
    return table


def says(found):
    """A difference in a word: by Holm's p within its family, else by the test of equivalence, both at 5 %."""
    if found["p_holm"] < 0.05:
        return "ahead" if found["difference"] > 0 else "behind"
    return "equivalent" if found.get("p_equivalence", 1) < 0.05 else "undecided"


def summary(name, table):
    """A family of differences in a sentence: how many are said to be what, and their range in points."""
    counts = table["says"].value_counts()
    said = ", ".join(f"{counts[word]} {word}" for word in ("ahead", "behind", "equivalent", "undecided") if word in counts)
    low, high = 100 * table["difference"].min(), 100 * table["difference"].max()
    return f"- {name}: differences from {low:+.1f} to {high:+.1f} points; of {len(table)} questions {said}."


def splits_family(runs, reference="logistic_regression", metrics=("accuracy", "macro_f1")):
    """Every arm that has learnt against ``reference`` over the splits they share, one family (as :func:`family`)."""
    import pandas as pd

    rows = []
    for arm in dict.fromkeys(run.spec["arm"] for run in runs):
        if arm not in (reference, "majority"):  # that anything beats the majority is no question, and would cost power
            for metric in metrics:
                found = over_splits(runs, arm, reference, metric)
                rows.append({"arm": arm, "reference": reference, "metric": metric, **found})
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p"])
    table["says"] = [says(row) for row in table.to_dict("records")]
    return table


def show_family(table, names):
    """A family of differences as text: points with intervals, p, Holm's p, and the verdict (styled DataFrame)."""
    import pandas as pd

    rows = []
    for row in table.to_dict("records"):
        points = [100 * row[key] for key in ("difference", "low", "high")]
        shown = {"": names(row["arm"]), "minus": names(row["reference"])}
        if "fraction" in row:
            shown["labels"] = f"{row['fraction']:.0%}"
        shown |= {"metric": row["metric"].replace("_", "-"), "points": "{:+.1f} ({:+.1f} to {:+.1f})".format(*points),
                  "p": f"{row['p']:.2g}", "p, Holm": f"{row['p_holm']:.2g}"}  # fmt: skip
        if "p_equivalence" in row:
            shown["p, equivalence"] = f"{row['p_equivalence']:.2g}"
        shown["first is"] = row["says"]
        splits = f"{row['n_splits']} splits" if "n_splits" in row else None
        shown["n"] = splits or f"{row['n_cells']} cells, {row['n_seeds']} seeds"
        rows.append(shown)
    return pd.DataFrame(rows).style.hide()
