"""How far a classifier's probabilities can be trusted: calibration, and cells of a type that it never met."""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import pandas as pd
from scipy.stats import norm, rankdata

from lib.evaluate import differences, measures
from lib.evaluate.intervals import LEVEL, percentiles, resample, wilson
from lib.evaluate.words import LEAST


def _bins(confidence, bins):
    return np.minimum((np.asarray(confidence) * bins).astype(int), bins - 1)


def reliability(confidence, right, bins: int = 10) -> pd.DataFrame:
    """Confidence against accuracy in bins of equal width.

    Parameters
    ----------
    confidence : float array, (answers,)
        Probability of the answer that was given, in 0 … 1.
    right : bool array, (answers,)

    Returns
    -------
    DataFrame
        ``confidence`` and ``accuracy`` (means) and ``answers`` of each bin that has any.
    """
    right = np.asarray(right, float)
    table = pd.DataFrame({"bin": _bins(confidence, bins), "confidence": confidence, "accuracy": right, "answers": 1})
    return table.groupby("bin").agg({"confidence": "mean", "accuracy": "mean", "answers": "sum"}).reset_index(drop=True)


def calibration_error(confidence, right, cell=None, weights=None, bins: int = 10) -> np.ndarray:
    """Expected calibration error: mean distance of confidence and accuracy over bins, weighted by their answers.

    It cannot be negative, so that few answers show an error where there is none: by about :func:`error_by_chance`.

    Parameters
    ----------
    confidence, right
        As for :func:`reliability`.
    cell : int array, (answers,), optional
        Which cell each answer is of, from 0; otherwise each is of a cell of its own.
    weights : array, (resamples, cells), optional
        How often each cell counts, of :func:`lib.evaluate.intervals.resample`; otherwise each counts once.

    Returns
    -------
    float64 array, (resamples,)
        Of length 1 without ``weights``.

    References
    ----------
    Guo et al., ICML 2017.
    """
    confidence = np.asarray(confidence, float)
    cell = np.arange(len(confidence)) if cell is None else cell
    answers = np.bincount(cell)
    weights = np.ones((1, len(answers))) if weights is None else weights
    gap = np.zeros((len(answers), bins))
    np.add.at(gap, (cell, _bins(confidence, bins)), confidence - right)
    return np.abs(weights @ gap).sum(1) / (weights @ answers)


def error_by_chance(confidence, bins: int = 10, simulations: int = 1000, seed: int = 0) -> float:
    """The calibration error that a perfectly calibrated model with these confidences would show on average.

    Each answer is right with the probability that is its confidence, drawn anew in each simulation. Roelofs et al., AISTATS
    2022, on the bias that this takes out.
    """
    confidence = np.asarray(confidence, float)
    right = np.random.default_rng(seed).random((simulations, len(confidence))) < confidence
    in_bin = np.eye(bins)[_bins(confidence, bins)]  # (answers, bins)
    return float(np.abs((confidence - right) @ in_bin).sum(1).mean() / len(confidence))


def calibration(runs: list, resamples: int = 1000) -> pd.DataFrame:
    """How well each arm's probabilities are calibrated on its test cells, mean over its runs.

    ``calibration_error`` (see :func:`calibration_error`); ``calibration_error_centred``, the same less
    :func:`error_by_chance`, so that it is about 0, and may be below, where confidence is right; ``brier`` (mean squared
    distance of the probabilities to the truth, 0 … 2), ``confidence`` and ``accuracy`` (means). Each with the percentile
    interval of a bootstrap over test cells; since resamples raise the error just as few cells do, the draws of the
    centred one are centred on its value.
    """
    rows = []
    for arm, own in measures.by_arm(runs).items():
        weights = resample(len(own[0].predictions["labels"]), resamples)
        found = {}
        for p in (run.predictions for run in own):
            confidence, right = p["probabilities"].max(1), p["probabilities"].argmax(1) == p["labels"]
            truth = np.eye(p["probabilities"].shape[1])[p["labels"]]
            each = {"brier": ((p["probabilities"] - truth) ** 2).sum(1), "confidence": confidence, "accuracy": right}
            values = {name: weights @ value / len(right) for name, value in each.items()}
            error = values["calibration_error"] = calibration_error(confidence, right, weights=weights)
            centred = error[0] - error_by_chance(confidence)
            values["calibration_error_centred"] = np.r_[centred, error[1:] - error[1:].mean() + centred]
            found = {name: found.get(name, 0) + value / len(own) for name, value in values.items()}
        for name, values in found.items():
            low, high = percentiles(values[1:])
            rows.append({"arm": arm, "metric": name, "value": values[0], "low": low, "high": high, "runs": len(own)})
    return pd.DataFrame(rows)


def auc(positive, negative) -> tuple[float, float, float]:
    """Area under the ROC curve, the chance that a positive scores higher than a negative, with DeLong's interval.

    ``positive`` and ``negative`` are their scores; (area, low, high) comes back, the ends nan with fewer than two of either.
    DeLong et al., Biometrics 44, 837–845 (1988), by ranks.

    >>> "{:.2f} ({:.2f} to {:.2f})".format(*auc([1, 3, 4], [0, 1, 2]))
    '0.83 (0.46 to 1.00)'
    """
    positive, negative = np.asarray(positive, float), np.asarray(negative, float)
    m, n = len(positive), len(negative)
    rank = rankdata(np.concatenate([positive, negative]))
    of_positive = (rank[:m] - rankdata(positive)) / n  # share of negatives below each positive, ties half
    of_negative = 1 - (rank[m:] - rankdata(negative)) / m
    area = float(of_positive.mean())
    if min(m, n) < 2:
        return area, float("nan"), float("nan")
    half = norm.ppf(0.5 + LEVEL / 2) * np.sqrt(of_positive.var(ddof=1) / m + of_negative.var(ddof=1) / n)
    return area, float(max(0, area - half)), float(min(1, area + half))


def unknown(runs: list) -> pd.DataFrame:
    """How well low confidence gives away the type that was left out of training, a row a run.

    ``auc`` with ``low`` and ``high`` (see :func:`auc`): the chance that a cell of the unknown type has a lower maximum
    probability than a test cell of a known type; 0.5 is a coin. ``cells`` of the unknown type; ``taken_for``: the type
    most of them are taken for; ``accuracy`` on the test cells of known types.
    """
    rows = []
    for run in runs:
        p = run.predictions
        new, predicted = p["classes"][p["labels"]] == run.spec["left_out"], p["probabilities"].argmax(1)
        doubt = 1 - p["probabilities"].max(1)
        area, low, high = auc(doubt[new], doubt[~new])
        row = {"arm": run.spec["arm"], "left_out": run.spec["left_out"], "cells": int(new.sum())}
        row |= {"auc": area, "low": low, "high": high, "taken_for": p["classes"][np.bincount(predicted[new]).argmax()]}
        rows.append(row | {"accuracy": float(np.mean(predicted[~new] == p["labels"][~new])), "run": run.id})
    return pd.DataFrame(rows)


def elsewhere(runs: list) -> pd.DataFrame:
    """What trained classifiers say of another data set's cells, a row a run.

    ``accuracy`` on the cells whose type the classifier knows (by name), with Wilson's interval; ``recall`` of each such
    type; ``auc`` as in :func:`unknown` where the other cells have types that it does not know.
    """
    rows = []
    for run in runs:
        p = run.predictions
        known = np.isin(p["label_names"], p["classes"])[p["labels"]]
        right = p["classes"][p["probabilities"].argmax(1)] == p["label_names"][p["labels"]]
        share, low, high = wilson(int(right[known].sum()), int(known.sum()))
        row = {"arm": run.spec["arm"], "seed": run.spec["seed"], "cells": int(known.sum())}
        row |= {"accuracy": share, "low": low, "high": high, "unknown_cells": int((~known).sum())}
        doubt = 1 - p["probabilities"].max(1)
        row["auc"] = auc(doubt[~known], doubt[known])[0] if 0 < known.sum() < len(known) else float("nan")
        for k, name in enumerate(p["label_names"]):
            if name in p["classes"]:
                row[f"recall[{name}]"] = float(right[p["labels"] == k].mean())
        rows.append(row | {"run": run.id})
    return pd.DataFrame(rows)


def elsewhere_difference(first: list, second: list, flagged: Set[tuple] = frozenset(), resamples: int = 2000) -> dict:
    """Accuracy on another data set's cells of known types, first − second, paired as in :func:`lib.evaluate.differences.pair`.

    As :func:`lib.evaluate.differences.by_luck` gives it, for other such cells, seeds and pre-trainings, with ``n_flagged``, how
    many of the second's trainings are ``flagged`` (by the seeds of their pre-training, or None, and their own), and, beside it,
    ``difference_ended`` … without the seeds of which one is, where enough are left.
    """
    pairs = differences.matched(first, second)
    more = np.stack([_right(a) - _right(b) for a, b in pairs], 1)  # (cells, pairs)
    weights = resample(len(more), resamples)
    drawn = [differences.drawn(*two) for two in pairs]
    found = differences.by_luck(weights @ more / weights.sum(1, keepdims=True), drawn, len(more))
    found["n_flagged"] = len(flagged & set(map(differences.drawn, second)))
    bad = {seed for _, seed in flagged}
    if found["n_flagged"] and found["n_seeds"] - len(bad & {seed for _, seed in drawn}) >= LEAST:
        ended = elsewhere_difference([run for run in first if run.spec["seed"] not in bad], second, resamples=resamples)
        found |= {f"{name}_ended": ended[name] for name in ("difference", "low", "high")}
    return found


def _right(run):
    """Whether each cell of a type that a classifier knows is named right by it: 0 or 1."""
    p = run.predictions
    known = np.isin(p["label_names"], p["classes"])[p["labels"]]
    return (p["classes"][p["probabilities"].argmax(1)] == p["label_names"][p["labels"]])[known].astype(float)
