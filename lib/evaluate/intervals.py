"""Intervals and tests: from values, one a run or one a split, or a bootstrap over cells, to what they leave open."""

from __future__ import annotations

import gc
import warnings

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import ttost_ind

# Differences smaller than this are called meaningless: 2 points, less than half of what the paper finds between
# logistic regression and scBERT (4.5), and about what one more epoch or another seed changes.
MARGIN = 0.02
LEVEL = 0.95


def resample(n: int, resamples: int, seed: int | np.random.Generator = 0, types=None) -> np.ndarray:
    """How often each of ``n`` cells is drawn in each resample of a bootstrap.

    Parameters
    ----------
    types : int array, (n,), optional
        Draw within each type, as a stratified split does: one cell fewer than it has, each counting accordingly more, since
        a bootstrap of k cells has (k − 1) / k of their variance (Rao & Wu, JASA 83, 231–241, 1988). A type with a single cell
        would never vary: it is drawn together with the next rarest.

    Returns
    -------
    float64 array, (1 + resamples, n)
        The first row is the cells as they are, each once.
    """
    rng, drawn = np.random.default_rng(seed), np.ones((1 + resamples, n))
    parts = [np.arange(n)] if types is None else _strata(np.asarray(types))
    sizes = np.array([len(part) for part in parts])
    draws = sizes if types is None else np.maximum(sizes - 1, 1)
    first, span = np.repeat(np.cumsum(sizes) - sizes, draws), np.repeat(sizes, draws)
    counts, order = np.repeat(sizes / draws, sizes), np.concatenate(parts)
    for row in drawn[1:]:  # not by multinomials, which take ten times as long
        row[order] = counts * np.bincount(first + rng.integers(span), minlength=n)
    return drawn


def _strata(types):
    """Indices of the cells of each type, from the rarest up; one with a single cell is put to the next."""
    parts = sorted((np.flatnonzero(types == k) for k in np.unique(types)), key=len)
    while len(parts) > 1 and len(parts[0]) < 2:
        parts = sorted([np.concatenate(parts[:2]), *parts[2:]], key=len)
    return parts


def percentiles(draws) -> tuple[float, float]:
    """Ends of the percentile interval of a bootstrap; resamples without a value (nan) do not count."""
    low, high = np.nanquantile(draws, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(low), float(high)


def confidence_interval(values, level: float = LEVEL) -> tuple[float, float]:
    """Mean and half width of Student's interval.

    Parameters
    ----------
    values : sequence of float
        One value a run. The standard deviation is the sample's (ddof 1), the quantile that of len − 1 degrees.

    Returns
    -------
    mean, half_width : float
        ``half_width`` is nan for a single value, both for none.

    Examples
    --------
    >>> "{:.3f} ± {:.3f}".format(*confidence_interval([0.79, 0.80, 0.81]))
    '0.800 ± 0.025'
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        return float(values[0]) if len(values) else float("nan"), float("nan")
    spread = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * spread)


def over_runs(values, pretraining, seeds) -> tuple[float, list[tuple[float, int]]]:
    """Variance of the mean over runs, as far as the luck of training goes: of pre-trainings and of fine-tuning seeds.

    Every pre-training is fine-tuned with every seed, so that runs share the luck of either: 3 × 5 runs are not 15 draws.
    The two-way layout with random effects gives Var = (MS_P + MS_S − MS_PS) / (P · S), and not less than either alone. Where
    every run has a pre-training and a seed of its own, runs are independent draws of both. Where runs are missing otherwise,
    the variances of the two levels' means are added: more than either way of filling the gaps would give.

    Parameters
    ----------
    values : sequence of float, (runs,)
    pretraining, seeds : sequences, (runs,)
        Which of each a run has; None as pre-training where an arm has none.

    Returns
    -------
    variance : float
        nan with a single run.
    parts : list of (float, int)
        Mean squares that went into it, each over P · S, with their degrees of freedom.

    References
    ----------
    Searle, Casella & McCulloch, Variance Components (1992), chapter 4: the two-way crossed classification.
    """
    table = pd.DataFrame({"p": [str(p) for p in pretraining], "s": list(seeds), "v": np.asarray(values, float)})
    grid = table.pivot_table(index="p", columns="s", values="v", aggfunc="mean")
    rows, columns = grid.shape
    if rows * columns == 1:
        return float("nan"), []
    if rows == columns == grid.notna().to_numpy().sum():
        levels = [grid.mean(0)]
    elif min(rows, columns) == 1 or grid.isna().to_numpy().any():
        levels = [level for level in (grid.mean(0), grid.mean(1)) if len(level) > 1]
    else:
        levels = []
    if levels:
        parts = [(float(level.var(ddof=1) / len(level)), len(level) - 1) for level in levels]
        return sum(variance for variance, _ in parts), parts
    x, size = grid.to_numpy(), rows * columns
    by_row, by_column = x.mean(1, keepdims=True), x.mean(0, keepdims=True)
    squares = [columns * by_row.var(ddof=1), rows * by_column.var(ddof=1)]
    left = np.square(x - by_row - by_column + x.mean()).sum() / ((rows - 1) * (columns - 1))
    freedom = [rows - 1, columns - 1, (rows - 1) * (columns - 1)]
    variance = max(squares[0] + squares[1] - left, *squares) / size
    return float(variance), [(float(ms / size), df) for ms, df in zip([*squares, left], freedom)]


def two_levels(values, pretraining, seeds) -> tuple[float, float]:
    """Mean over runs and half width of its 95 % interval, for pre-trainings crossed with seeds (:func:`over_runs`).

    For one level it is Student's; for two, Satterthwaite's degrees of freedom go with it.
    """
    values = np.asarray(values, float)
    variance, parts = over_runs(values, pretraining, seeds)
    if not parts:
        return float(values.mean()), float("nan")
    return float(values.mean()), float(stats.t.ppf(0.5 + LEVEL / 2, freedom(variance, parts)) * np.sqrt(variance))


def freedom(variance: float, parts: list[tuple[float, int]]) -> float:
    """Satterthwaite's degrees of freedom of a sum of mean squares; at least those of its poorest part."""
    parts = [(part, df) for part, df in parts if part > 0 and df > 0]
    below = sum(part**2 / df for part, df in parts)
    return max(variance**2 / below, min(df for _, df in parts)) if parts else float("inf")


def effect(first, second) -> dict:
    """Difference of two means with Welch's interval, and two one-sided Welch tests that it is smaller than ``MARGIN``.

    ``first`` and ``second`` have one value a run; the runs of the two need not be paired nor equally many.

    Returns
    -------
    dict
        ``difference`` (first − second; nan where a side has no run), ``low`` and ``high`` (nan where one has fewer than two),
        ``p_equivalence``, the larger p of the two tests (nan there, and where no runs differ), ``n_first``, ``n_second``.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    nan, sizes = float("nan"), {"n_first": len(first), "n_second": len(second)}
    difference = float(first.mean() - second.mean()) if all(sizes.values()) else nan
    if min(sizes.values()) < 2 or first.std() == second.std() == 0:
        end = nan if min(sizes.values()) < 2 else difference
        return {"difference": difference, "low": end, "high": end, "p_equivalence": nan} | sizes
    with warnings.catch_warnings():  # an arm whose runs are all equal is no error: it has no spread
        warnings.filterwarnings("ignore", message="Precision loss occurred")
        interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval(LEVEL)
    p = float(ttost_ind(first, second, -MARGIN, MARGIN, usevar="unequal")[0])
    return {"difference": difference, "low": float(interval.low), "high": float(interval.high), "p_equivalence": p} | sizes


def wilson(right: int, total: int) -> tuple[float, float, float]:
    """Share of cells named right, with Wilson's interval for the sampling of the test cells: (share, low, high)."""
    low, high = proportion_confint(right, total, 1 - LEVEL, method="wilson")
    return right / total, float(low), float(high)


def corrected_t(differences, n_train: int, n_test: int) -> dict:
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
    half = float(stats.t.ppf(0.5 + LEVEL / 2, n - 1) * error)
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return {"difference": mean, "low": mean - half, "high": mean + half, "p": p, "n_splits": n}


def holm(p) -> np.ndarray:
    """Holm's adjustment of the p-values of one family of questions (array); nan stay nan and do not count."""
    p = np.asarray(p, float)
    known, adjusted = np.isfinite(p), np.full(p.shape, np.nan)
    if known.any():
        gc.freeze()  # multipletests collects garbage, which takes half a second among the objects of torch and scanpy
        try:
            adjusted[known] = multipletests(p[known], method="holm")[1]
        finally:
            gc.unfreeze()
    return adjusted
