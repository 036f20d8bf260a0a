"""From stored predictions to numbers: scores, their intervals, and differences with the effect size first."""

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
        The hard pair's accuracy is over the cells that truly are of its two types, whatever was predicted; its
        macro-F1 is the mean of the two types' F1 over all cells, as the authors compute it. Absent where the data
        lack one of them. Macro-F1 is over the types that occur among the labels.
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
            f1_score(labels, predicted, labels=pair, average="macro", zero_division=0)
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
        if "predicted_by_epoch" not in p and "train_accuracy" in (log := run.log):
            found["train_accuracy"] = float(log["train_accuracy"].iloc[0])
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


def paired_difference(first, second, level=0.95, resamples=2000, seed=0, metric="accuracy", margin=None):
    """Difference of two arms on the same test cells, by a bootstrap over seeds and cells.

    Parameters
    ----------
    first, second : list of Run
        Runs of two arms with the same seeds, in the same order, on the same test cells.
    metric : {"accuracy", "macro_f1"}
    margin : float, optional
        Differences smaller than this are taken as meaningless.

    Returns
    -------
    dict
        ``difference`` (first − second), ``low`` and ``high`` of the percentile interval, ``p`` (two-sided, from
        the same resamples), ``n_cells``, ``n_seeds``; with ``margin``, ``p_equivalence``: the larger p of the two
        one-sided tests against ± margin. Cells and seeds are both drawn with replacement, so the interval covers
        the sampling of test cells and the randomness of training; how often it does is simulated in the tests.
    """
    for a, b in zip(first, second, strict=True):
        if a.spec["seed"] != b.spec["seed"] or not np.array_equal(a.predictions["test"], b.predictions["test"]):
            raise ValueError(f"Runs {a.id} and {b.id} are not paired: they differ in seed or test cells.")
    n_seeds, n_cells = len(first), len(first[0].predictions["test"])
    rng = np.random.default_rng(seed)
    seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), resamples) / n_seeds
    cells = rng.multinomial(n_cells, np.full(n_cells, 1 / n_cells), resamples)
    delta = (_scores(first, np.ones((1, n_cells)), metric) - _scores(second, np.ones((1, n_cells)), metric))[0]
    by_cells = _scores(first, cells, metric) - _scores(second, cells, metric)  # (resamples, seeds)
    drawn = by_cells.mean(1) + _luck_of_seeds(delta, by_cells) * (seeds @ (delta - delta.mean()))
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    found = {
        # rounded, so that a difference of nothing is not one of 1e-17
        "difference": round(float(delta.mean()), 12), "low": round(float(low), 12), "high": round(float(high), 12),
        "p": _tail(min(np.mean(drawn <= 0), np.mean(drawn >= 0)), resamples, sides=2), "n_cells": n_cells,
        "n_seeds": n_seeds,
    }  # fmt: skip
    if margin is not None:
        outside = max(np.mean(drawn <= -margin), np.mean(drawn >= margin))
        found["p_equivalence"] = _tail(outside, resamples, sides=1)
    return found


def _luck_of_seeds(delta, by_cells):
    """By how much to scale a bootstrap over seeds, so that it adds what they differ by and nothing twice.

    Seeds differ in ``delta`` (seeds,) also because each errs on other cells, which drawing cells covers already, and a
    bootstrap of n values has (n − 1) / n of their variance.
    """
    n = len(delta)
    if n < 2 or delta.var() == 0:
        return 0.0
    errors = (by_cells - by_cells.mean(1, keepdims=True)).var(0).mean() * n / (n - 1)  # of one seed's score
    return float(np.sqrt(max(0.0, delta.var(ddof=1) - errors) / delta.var()))


def _tail(share, resamples, sides):
    """A p-value from the share of resamples in a tail; never 0, since other resamples might lie there."""
    return float(min(1.0, sides * (share * resamples + 1) / (resamples + 1)))


def _scores(runs, weights, metric):
    """A score of each run on cells that count as often as ``weights`` (resamples, cells) says: (resamples, runs)."""
    answers = [(run.predictions["labels"], run.predictions["probabilities"].argmax(1)) for run in runs]
    if metric == "accuracy":
        right = np.stack([labels == predicted for labels, predicted in answers], 1).astype(float)  # (cells, runs)
        return weights @ right / weights.sum(1, keepdims=True)
    if metric != "macro_f1":
        raise ValueError(f"metric is {metric!r}; it is one of accuracy, macro_f1.")
    found = []
    for labels, predicted in answers:
        classes = np.arange(max(labels.max(), predicted.max()) + 1)
        true, given = (weights @ (answer[:, None] == classes) for answer in (labels, predicted))  # (resamples, classes)
        hit = weights @ ((labels == predicted)[:, None] & (labels[:, None] == classes))
        f1 = np.divide(2 * hit, true + given, out=np.zeros_like(hit, float), where=true + given > 0)
        found.append((f1 * (true > 0)).sum(1) / (true > 0).sum(1))  # over the types that occur among the labels
    return np.stack(found, 1)


def mean_and_interval(runs, metric="accuracy", level=0.95, resamples=2000, seed=0):
    """Mean score of one arm's runs, with the percentile interval of a bootstrap over its test cells (runs kept).

    Returns
    -------
    mean, low, high : float
        What another draw of as many test cells might have given these trained models.
    """
    n_cells = len(runs[0].predictions["test"])
    cells = np.random.default_rng(seed).multinomial(n_cells, np.full(n_cells, 1 / n_cells), resamples)
    drawn = _scores(runs, cells, metric).mean(1)
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    return float(_scores(runs, np.ones((1, n_cells)), metric).mean()), float(low), float(high)


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
