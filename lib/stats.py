"""From stored predictions to numbers: scores, intervals, and tests with the effect size first."""

from __future__ import annotations

import warnings

import numpy as np

HARD_PAIR = ("CD8+ Cytotoxic T", "CD8+/CD45RA+ Naive Cytotoxic")


def confidence_interval(values, level=0.95):
    """Mean and half width of Student's interval.

    Parameters
    ----------
    values : sequence of float
        One value a run. The standard deviation is the sample's (ddof 1), the quantile that of len − 1 degrees.
    level : float

    Returns
    -------
    mean, half_width : float
        ``half_width`` is nan for a single value.
    """
    from scipy import stats

    values = np.asarray(values, float)
    if len(values) < 2:
        return float(values.mean()), float("nan")
    spread = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * spread)


def scores(labels, predicted, classes):
    """Accuracy, macro-F1, the recall of each type, and both scores on the hard pair.

    Parameters
    ----------
    labels, predicted : int arrays, (cells,)
    classes : array of str

    Returns
    -------
    dict
        The hard pair is scored on the cells that truly are of its two types, whatever was predicted; absent
        where the data lack one of them. Macro-F1 is over the types that occur among the labels.
    """
    from sklearn.metrics import f1_score

    present = np.unique(labels)
    result = {
        "accuracy": float(np.mean(labels == predicted)),
        "macro_f1": float(f1_score(labels, predicted, labels=present, average="macro", zero_division=0)),
    }
    for k in present:
        result[f"recall[{classes[k]}]"] = float(np.mean(predicted[labels == k] == k))
    pair = [k for k in present if classes[k] in HARD_PAIR]
    if len(pair) == 2:
        hard = np.isin(labels, pair)
        result["accuracy_hard_pair"] = float(np.mean(labels[hard] == predicted[hard]))
        result["macro_f1_hard_pair"] = float(
            f1_score(labels[hard], predicted[hard], labels=pair, average="macro", zero_division=0)
        )
    return result


def table(runs):
    """One row for each run and metric: arm, fraction, seed, metric, value, run (DataFrame).

    ``accuracy_last_epoch`` stands beside ``accuracy`` for scBERT: what is left when the epoch is not chosen on
    the reported cells.
    """
    import pandas as pd

    rows = []
    for run in runs:
        p, spec = run.predictions, run.spec
        found = scores(p["labels"], p["probabilities"].argmax(1), p["classes"])
        if "predicted_by_epoch" in p:
            found["accuracy_last_epoch"] = float(np.mean(p["labels"] == p["predicted_by_epoch"][-1]))
        if spec["model"] == "logistic_regression":
            found["train_accuracy"] = float(run.log["train_accuracy"].iloc[0])
        common = {"arm": spec["arm"], "fraction": spec["fraction"], "seed": spec["seed"]}
        rows += [common | {"metric": metric, "value": value, "run": run.id} for metric, value in found.items()]
    return pd.DataFrame(rows)


def summarise(table, by, level=0.95):
    """Mean, half width of the interval, and number of values for each group of a tidy table (DataFrame)."""
    import pandas as pd

    rows = []
    for key, part in table.groupby(by, sort=False):
        mean, half_width = confidence_interval(part["value"], level)
        rows.append(dict(zip(by, key)) | {"mean": mean, "half_width": half_width, "n": len(part)})
    return pd.DataFrame(rows)


def effect(first, second, level=0.95):
    """Difference of two means (first − second) with Welch's interval.

    Parameters
    ----------
    first, second : sequence of float
        One value a run; the runs of the two need not be paired nor equally many.

    Returns
    -------
    difference, low, high : float
        ``low`` and ``high`` are nan where one side has a single run.
    """
    from scipy import stats

    first, second = np.asarray(first, float), np.asarray(second, float)
    difference = float(first.mean() - second.mean())
    if min(len(first), len(second)) < 2:
        return difference, float("nan"), float("nan")
    if first.std() == 0 and second.std() == 0:
        return difference, difference, difference
    with warnings.catch_warnings():  # an arm whose runs are all equal is no error: it has no spread
        warnings.filterwarnings("ignore", message="Precision loss occurred")
        interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval(level)
    return difference, float(interval.low), float(interval.high)


def describe_difference(found, first, second):
    """A sentence for what :func:`paired_difference` found."""
    points, low, high = (100 * found[key] for key in ("difference", "low", "high"))
    verdict = "ahead of" if low > 0 else "behind" if high < 0 else "not distinguishable from"
    return (
        f"**{first} is {verdict} {second}**: {points:+.1f} points of accuracy, 95 % interval {low:+.1f} to "
        f"{high:+.1f} (bootstrap over {found['n_cells']} test cells and {found['n_seeds']} seeds; p = {found['p']:.2g})."
    )


def direction(low, high):
    """``+``, ``−``, or ``≈`` where the interval covers zero; ``?`` where there is none."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return "?"
    return "+" if low > 0 else "−" if high < 0 else "≈"


def show(mean, half_width, digits=3):
    """``0.767 ± 0.013``; without the interval where there is a single run."""
    if not np.isfinite(mean):
        return "–"
    return f"{mean:.{digits}f}" + (f" ± {half_width:.{digits}f}" if np.isfinite(half_width) else "")


def beside_paper(ours, paper, metrics, arms, names=None):
    """Mean ± half width of ours and of the paper's runs, arm by arm (DataFrame of text).

    Parameters
    ----------
    ours, paper : DataFrame
        Tidy tables with ``arm``, ``metric``, ``value``.
    metrics, arms : list of str
    names : callable, optional
        From an arm to its label.
    """
    import pandas as pd

    rows = {}
    for arm in arms:
        for who, table in (("ours", ours), ("paper", paper)):
            groups = dict(iter(table[table["arm"] == arm].groupby("metric")["value"]))
            rows[(names(arm) if names else arm, who)] = [
                f"{show(*confidence_interval(groups[m]))} (n={len(groups[m])})" if m in groups else "–" for m in metrics
            ]
    return pd.DataFrame(rows, index=metrics).T


def paired_difference(first, second, level=0.95, resamples=2000, seed=0):
    """Difference in accuracy of two arms on the same test cells, by a bootstrap over seeds and cells.

    Parameters
    ----------
    first, second : list of Run
        Runs of two arms with the same seeds, in the same order, on the same test cells.

    Returns
    -------
    dict
        ``difference`` (first − second), ``low`` and ``high`` of the percentile interval, ``p`` (two-sided, from
        the same resamples), ``n_cells``, ``n_seeds``. Cells and seeds are both drawn with replacement, so the
        interval covers the sampling of test cells and the randomness of training.
    """
    right = [
        np.stack([r.predictions["labels"] == r.predictions["probabilities"].argmax(1) for r in arm])
        for arm in (first, second)
    ]  # (seeds, cells) each
    for a, b in zip(first, second):
        if a.spec["seed"] != b.spec["seed"] or not np.array_equal(a.predictions["test"], b.predictions["test"]):
            raise ValueError(f"Runs {a.id} and {b.id} are not paired: they differ in seed or test cells.")
    delta = right[0].astype(float) - right[1].astype(float)
    rng = np.random.default_rng(seed)
    n_seeds, n_cells = delta.shape
    seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), resamples) / n_seeds
    weights = rng.multinomial(n_cells, np.full(n_cells, 1 / n_cells), resamples) / n_cells
    drawn = np.einsum("rs,sc,rc->r", seeds, delta, weights, optimize=True)
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    tail = min(np.mean(drawn <= 0), np.mean(drawn >= 0))
    return {
        "difference": float(delta.mean()), "low": float(low), "high": float(high),
        "p": float(min(1.0, 2 * (tail * resamples + 1) / (resamples + 1))), "n_cells": n_cells, "n_seeds": n_seeds,
    }  # fmt: skip


def knn_accuracy(representation, labels, train, test, neighbours=10):
    """Share of test cells whose type the majority of their nearest training cells has.

    Parameters
    ----------
    representation : float array, (cells, dim)
    labels : int array, (cells,)
    train, test : int arrays

    Returns
    -------
    float
    """
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), KNeighborsClassifier(min(neighbours, len(train))))
    return float(model.fit(representation[train], labels[train]).score(representation[test], labels[test]))


def neighbour_overlap(first, second, neighbours=10):
    """Mean share of each row's nearest rows (cosine) that two embeddings of the same genes have in common.

    By chance it is ``neighbours / (genes − 1)``.
    """
    from sklearn.neighbors import NearestNeighbors

    found = []
    for embedding in (first, second):
        unit = embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
        index = NearestNeighbors(n_neighbors=neighbours + 1).fit(unit)
        found.append(index.kneighbors(unit, return_distance=False))
    shared = [len((set(a) - {i}) & (set(b) - {i})) / neighbours for i, (a, b) in enumerate(zip(found[0], found[1]))]
    return float(np.mean(np.minimum(shared, 1.0)))
