"""Differences between two arms on the same cells: paired, over cells, seeds and splits, in families of questions."""

from __future__ import annotations

import numpy as np
import pandas as pd
from statsmodels.stats.contingency_tables import mcnemar as test

from lib.errors import DataError
from lib.evaluate import measures
from lib.evaluate.intervals import MARGIN, corrected_t, holm, percentiles, resample
from lib.evaluate.words import verdict

METRICS = ("accuracy", "macro_f1")


def pair(runs: list, first: str, second: str, **where) -> tuple[list, list]:
    """Runs of two arms with the same seeds, in the same order.

    Parameters
    ----------
    runs : list of Run
    first, second : str
        Arms.
    **where
        Entries of the specification that the runs must have, such as ``fraction=0.1``.
    """
    asked = [run for run in runs if all(run.spec.get(key) == value for key, value in where.items())]
    found = [{run.spec["seed"]: run for run in asked if run.spec["arm"] == arm} for arm in (first, second)]
    seeds = [seed for seed in found[0] if seed in found[1]]
    if not seeds:
        raise DataError(f"No run of {first} has the seed of a run of {second}{f' with {where}' if where else ''}.")
    return [found[0][seed] for seed in seeds], [found[1][seed] for seed in seeds]


def mcnemar(first: list, second: list) -> dict:
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
    right = []
    for arm in (first, second):
        mean = np.mean([run.predictions["probabilities"] for run in arm], axis=0)
        right.append(mean.argmax(1) == arm[0].predictions["labels"])
    only = [int(np.sum(right[0] & ~right[1])), int(np.sum(right[1] & ~right[0]))]
    exact = sum(only) < 25
    p = test([[0, only[0]], [only[1], 0]], exact=exact).pvalue if sum(only) else 1.0
    odds = only[0] / only[1] if only[1] else (float("inf") if only[0] else float("nan"))
    return {"only_first": only[0], "only_second": only[1], "odds": odds, "p": float(min(1, p))}


def over_splits(runs: list, first: str, second: str, metric: str = "accuracy") -> dict:
    """:func:`corrected_t` of first − second over the splits on which both arms have a run."""
    values, sizes = {first: {}, second: {}}, {}
    for run in runs:
        if (arm := run.spec["arm"]) in values:
            p, split = run.predictions, run.spec["split"]["seed"]
            values[arm][split] = measures.scores(p["labels"], p["probabilities"].argmax(1), p["classes"])[metric]
            sizes[split] = len(p["train"]), len(p["test"])
    splits = [split for split in values[first] if split in values[second]]
    if not splits:
        raise DataError(f"{first} and {second} have no split in common.")
    return corrected_t([values[first][k] - values[second][k] for k in splits], *sizes[splits[0]])


def family(questions: list, runs: list) -> pd.DataFrame:
    """One family of questions, each the difference of two arms on the same test cells.

    Parameters
    ----------
    questions : list of (first, second, metric, where)
        Two arms, *accuracy* or *macro_f1*, and what else the runs must have (dict, such as ``{"fraction": 0.1}``).
    runs : list of Run

    Returns
    -------
    DataFrame
        ``arm``, ``reference``, ``metric``, what is asked of the runs, what :func:`paired_difference` finds, and what
        :func:`judged` adds.
    """
    rows = []
    for first, second, metric, where in questions:
        found = paired_difference(*pair(runs, first, second, **where), metric)
        rows.append({"arm": first, "reference": second, **where, "metric": metric, **found})
    return judged(rows)


def judged(rows: list[dict]) -> pd.DataFrame:
    """Differences of one family, with ``p_holm``, adjusted over all of them, and :func:`lib.evaluate.words.verdict`."""
    if not rows:
        raise DataError("A family needs a question, and none is left that these runs can answer.")
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p"])
    return table.assign(verdict=[verdict(row) for row in table.to_dict("records")])


def unasked(questions: list, *families: pd.DataFrame) -> list:
    """Those questions that none of ``families`` has answered, whichever arm comes first: a pair is judged once."""

    def key(first, second, metric, where):
        return frozenset([first, second]), metric, where.get("fraction", 1.0)

    rows = [row for table in families for row in table.to_dict("records")]
    asked = {key(row["arm"], row["reference"], row["metric"], row) for row in rows}
    return [question for question in questions if key(*question) not in asked]


def splits_family(runs: list, reference: str = "logistic_regression") -> pd.DataFrame:
    """Every arm that has learnt against ``reference``, in both scores, over the splits they share, as one family."""
    # That anything beats the majority is no question, and would cost power.
    arms = [arm for arm in measures.by_arm(runs) if arm not in (reference, "majority")]
    asked = [{"arm": arm, "reference": reference, "metric": metric} for arm in arms for metric in METRICS]
    return judged([row | over_splits(runs, row["arm"], reference, row["metric"]) for row in asked])


def paired_difference(first: list, second: list, metric="accuracy", resamples=2000, seed=0, margin=MARGIN) -> dict:
    """Difference of two arms on the same test cells, by a bootstrap over seeds and cells.

    Parameters
    ----------
    first, second : list of Run
        Runs of two arms with the same seeds, in the same order, on the same test cells.
    metric : {"accuracy", "macro_f1"}
    margin : float
        Differences smaller than this are taken as meaningless.

    Returns
    -------
    dict
        ``difference`` (first − second), ``low`` and ``high`` of the percentile interval, ``p`` (two-sided, from
        the same resamples), ``n_cells``, ``n_seeds``, and ``p_equivalence``, the larger p of the two
        one-sided tests against ± margin. Cells and seeds are both drawn with replacement, so the interval covers
        the sampling of test cells and the randomness of training; how often it does is simulated in the tests.
    """
    for a, b in zip(first, second, strict=True):
        if a.spec["seed"] != b.spec["seed"] or not np.array_equal(a.predictions["test"], b.predictions["test"]):
            raise ValueError(f"Runs {a.id} and {b.id} are not paired: they differ in seed or test cells.")
    n_seeds, n_cells = len(first), len(first[0].predictions["test"])
    rng = np.random.default_rng(seed)
    seeds = resample(n_seeds, resamples, rng)[1:] / n_seeds
    cells = resample(n_cells, resamples, rng)
    each = _scores(first, cells, metric) - _scores(second, cells, metric)  # (1 + resamples, seeds)
    delta, by_cells = each[0], each[1:]
    drawn = by_cells.mean(1) + _luck_of_seeds(delta, by_cells) * (seeds @ (delta - delta.mean()))
    interval = zip(("difference", "low", "high"), (delta.mean(), *percentiles(drawn)))
    return {name: round(float(value), 12) for name, value in interval} | {  # a difference of nothing is not one of 1e-17
        "p": _tail(min(np.mean(drawn <= 0), np.mean(drawn >= 0)), resamples, sides=2),
        "n_cells": n_cells,
        "n_seeds": n_seeds,
        "p_equivalence": _tail(max(np.mean(drawn <= -margin), np.mean(drawn >= margin)), resamples, sides=1),
    }


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


def mean_and_interval(runs: list, metric="accuracy", resamples=2000) -> tuple[float, float, float]:
    """Mean score of one arm's runs and its interval (mean, low, high) by a bootstrap over its test cells (runs kept).

    It covers what another draw of as many test cells might have given these trained models.
    """
    drawn = _scores(runs, resample(len(runs[0].predictions["test"]), resamples), metric).mean(1)
    return float(drawn[0]), *percentiles(drawn[1:])
