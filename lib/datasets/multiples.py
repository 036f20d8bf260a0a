"""On which scale a cell's values are whole multiples of one: of a single molecule, whatever the cell was divided by."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

# From each scale back to values linear in counts.
LINEAR = {"counts": lambda x: x, "ln": np.expm1, "log2": lambda x: np.exp2(x) - 1, "log10": lambda x: np.power(10.0, x) - 1}
BASE = {"ln": np.e, "log2": 2, "log10": 10}
SCALES = ("ln", "log2", "log10", "counts")  # where several fit equally well, the first is meant
LARGEST_LOG = 40  # e⁴⁰: no logarithm of a count comes near


def fits_of(x: sp.csr_matrix) -> tuple[dict, dict]:
    """For each scale and each cell: 1 where its small values are whole multiples of one, 0 where not, −1 where too few tell.

    Returns
    -------
    (dict of int arrays, dict of float)
        The second: by how much they miss, for the median of the cells that fit.
    """
    data = x.data.astype(np.float64)
    rounding = rounding_of(x.data)
    per_cell = np.diff(x.indptr)
    starts = x.indptr[:-1][per_cell > 0]
    filled = np.flatnonzero(per_cell > 0)
    rows = np.repeat(np.arange(len(filled)), per_cell[filled])
    data_max = np.maximum.reduceat(data, starts) if len(starts) else np.zeros(0)
    whole = np.minimum.reduceat(data == np.round(data), starts) if len(starts) else np.zeros(0, bool)
    fits, off = {}, {}
    for scale in SCALES:
        answer = np.full(x.shape[0], -1)
        linear = LINEAR[scale](np.minimum(data, 700 if scale == "counts" else LARGEST_LOG))
        linear = data if scale == "counts" else linear
        slope = slope_of(linear, scale)
        positive = np.where(linear > 0, linear, np.inf)
        least = np.minimum.reduceat(positive, starts) if len(starts) else np.zeros(0)
        ratio = positive / least[rows]
        blur = np.where(np.isfinite(ratio), rounding * slope / least[rows] * (1 + ratio), 0)
        told = np.isfinite(ratio) & (ratio < 10) & (blur < 0.1)  # larger ones say little: any number lies near a multiple
        enough = (np.add.reduceat(told, starts, dtype=int) >= 5) if len(starts) else np.zeros(0, bool)
        enough &= (np.maximum.reduceat(np.where(told, ratio, 0), starts) >= 1.05) if len(starts) else enough
        miss = np.full(len(filled), np.inf)
        for parts in (1, 2, 3) if not rounding.any() else (1,):
            tolerance = (0.05 if parts == 1 else 0.02) + parts * blur
            deviation = np.where(told, np.abs(parts * ratio - np.round(parts * ratio)) - tolerance, -1)
            fit = np.maximum.reduceat(deviation, starts) < 0 if len(starts) else np.zeros(0, bool)
            plain = np.where(told, np.abs(parts * ratio - np.round(parts * ratio)), 0)
            miss = np.where(fit & np.isinf(miss), np.maximum.reduceat(plain, starts), miss) if len(starts) else miss
        good = np.isfinite(miss)
        if scale != "counts":  # whole numbers are multiples of one another on the scale of log2 too: 2¹ − 1, 2² − 1 …
            enough &= ~whole & (data_max < LARGEST_LOG)
        answer[filled] = np.where(enough, good.astype(int), -1)
        fits[scale], off[scale] = answer, float(np.median(miss[enough & good])) if (enough & good).any() else np.inf
    return fits, off


def second_best(fits: dict, best: str, testable: np.ndarray) -> tuple[str, float]:
    """The scale that fits most of the cells (``testable``, bool, (cells,)) which ``best`` does not fit, and their share."""
    others = {
        scale: float(np.mean((fits[scale] == 1)[testable] & (fits[best] != 1)[testable])) for scale in fits if scale != best
    }
    second = max(others, key=others.get) if testable.any() else best
    return second, others.get(second, 0.0)


def slope_of(linear: np.ndarray, scale: str) -> np.ndarray:
    """By how much a value on the linear scale changes with the value that is stored."""
    return np.ones(len(linear)) if scale == "counts" else (1 + linear) * np.log(BASE[scale])


def rounding_of(data: np.ndarray) -> np.ndarray:
    """By how much each value may be off, as it was stored: of so many decimals, or in half precision."""
    for step in (0.1, 0.01, 0.001):
        if np.all(np.abs(data / step - np.round(data / step)) < 1e-2 * max(1, step * 10)) and data.max() < LARGEST_LOG:
            return np.full(len(data), step / 2)
    with np.errstate(over="ignore"):
        if np.array_equal(data.astype(np.float16).astype(data.dtype), data):
            return data.astype(np.float64) * 2.0**-11
    return np.zeros(len(data))
