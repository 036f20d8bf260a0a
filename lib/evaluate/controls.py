"""Is the bench sound: controls that bracket every model, and what choosing the epoch on reported cells is worth."""

from __future__ import annotations

import pandas as pd

from lib.evaluate import differences, measures

# What must hold whatever the data, before any difference between models is looked at: (lower, upper, metric, why).
EXPECTED = [
    ("stratified_random", "majority", "accuracy", "the best guess without looking is the most common type"),
    ("majority", "stratified_random", "macro_f1", "saying one type always gets the others wrong"),
    ("majority", "nearest_neighbours", "accuracy", "genes say something about types"),
    ("majority", "logistic_regression_tokens", "accuracy", "so do tokens"),
    ("majority", "head_only", "accuracy", "so do embeddings without a transformer"),
    ("majority", "full", "accuracy", "scBERT has learnt something"),
    ("nearest_neighbours", "logistic_regression", "accuracy", "labels are used better than by a vote"),
    ("logistic_regression_tokens", "logistic_regression", "accuracy", "tokens hold less than the values they bin"),
    ("head_only", "full", "accuracy", "the transformer adds to its own head"),
]


def sanity(runs: list) -> pd.DataFrame:
    """Whether the controls stand in the order that they must, as one family (of :func:`lib.evaluate.differences.family`).

    ``because`` says why ``arm`` must be ahead of ``reference``; *behind* is a fault, or something to explain.
    """
    table = differences.family([(upper, lower, metric, {}) for lower, upper, metric, _ in EXPECTED], runs)
    return table.assign(because=[why for *_, why in EXPECTED])


def bracket(runs: list, metrics=differences.METRICS) -> pd.DataFrame:
    """Each arm's mean score with the interval over its test cells: arm, metric, mean, low, high, n_runs."""
    rows = []
    for arm, own in measures.by_arm(runs).items():
        for metric in metrics:
            mean, low, high = differences.mean_and_interval(own, metric)
            rows.append({"arm": arm, "metric": metric, "mean": mean, "low": low, "high": high, "n_runs": len(own)})
    return pd.DataFrame(rows)
