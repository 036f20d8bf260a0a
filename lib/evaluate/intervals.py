"""Intervals and tests: from values, one a run or one a split, to what they leave open."""

from __future__ import annotations

import warnings

import numpy as np
from scipy import stats
from scipy.stats import t as student
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import ttost_ind


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
    values = np.asarray(values, float)
    if len(values) < 2:
        return float(values.mean()), float("nan")
    spread = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * spread)


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


# Differences smaller than this are called meaningless: 2 points, less than half of what the paper finds between
# logistic regression and scBERT (4.5), and about what one more epoch or another seed changes.
MARGIN = 0.02


def wilson(right, total, level=0.95):
    """Share of cells named right, with Wilson's interval for the sampling of the test cells: (share, low, high)."""
    low, high = proportion_confint(right, total, 1 - level, method="wilson")
    return right / total, float(low), float(high)


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


def holm(p):
    """Holm's adjustment of the p-values of one family of questions (array); nan stay nan and do not count."""
    p = np.asarray(p, float)
    known, adjusted = np.isfinite(p), np.full(p.shape, np.nan)
    if known.any():
        adjusted[known] = multipletests(p[known], method="holm")[1]
    return adjusted


def equivalence(first, second, margin=MARGIN):
    """Two one-sided Welch tests of |mean(first) − mean(second)| < margin; their larger p (nan for single runs)."""
    first, second = np.asarray(first, float), np.asarray(second, float)
    if min(len(first), len(second)) < 2 or first.std() + second.std() == 0:
        return float("nan")
    return float(ttost_ind(first, second, -margin, margin, usevar="unequal")[0])
