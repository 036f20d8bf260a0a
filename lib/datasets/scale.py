"""The scale of a matrix: counts, or logarithms of which base."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from lib.errors import DataError

# From each scale back to values linear in counts.
LINEAR = {"counts": lambda x: x, "ln": np.expm1, "log2": lambda x: np.exp2(x) - 1, "log10": lambda x: np.power(10.0, x) - 1}
BASE = {"ln": np.e, "log2": 2, "log10": 10}
SCALES = ("ln", "log2", "log10", "counts")  # where several fit equally many cells, the first is meant
LARGEST_LOG = 40  # e⁴⁰: no logarithm of a count comes near


def value_scale(x: sp.csr_matrix, where="X", cells=None, genes=None) -> str:
    """Tell counts from log-normalised values.

    The smallest value of most cells comes from one molecule, so on the scale that is linear in counts all values
    of a cell are whole multiples of it. That recognises counts and the base of a logarithm from the values
    alone, also after genes were selected.

    Parameters
    ----------
    x : CSR matrix, cells × genes
    where, cells, genes : str, index, index
        For the message.

    Returns
    -------
    {"counts", "ln", "log2", "log10"}
        ``ln`` is ln(1 + counts per cell total), the scanpy default; ``log2`` that of scBERT. ``counts`` are whole
        numbers, or what is proportional to counts within each cell (normalised, no logarithm taken), or counts of which
        less than half have fractions (RSEM shares a read among genes, SoupX subtracts ambient RNA): normalising by the
        cell's total treats all three alike.

    Raises
    ------
    DataError
        Infinite, missing or negative values; no value above zero; values on none of those scales, or on several.
    """
    data = x.data
    bad = ~np.isfinite(data) | (data < 0)
    if bad.any():
        first = int(np.argmax(bad))
        row = int(np.searchsorted(x.indptr, first, side="right") - 1)
        cell = cells[row] if cells is not None else row
        gene = genes[x.indices[first]] if genes is not None else int(x.indices[first])
        overflow = np.all(data[bad] == np.round(data[bad])) and np.isfinite(data[bad]).all()
        kinds = {"missing": np.isnan(data), "infinite": np.isinf(data), "negative": data < 0}
        kinds = " or ".join(kind for kind, found in kinds.items() if found.any())
        raise DataError(
            f"{int(bad.sum())} values of {where} are {kinds} (first: {data[first]:g} in cell "
            f"{cell!r}, gene {gene!r}). Give raw counts, or log(1 + counts per 10⁴) that was not scaled or centred."
            + (" Whole numbers below zero come from integers that overflowed, or from a subtraction." if overflow else "")
        )
    if not (data > 0).any():
        raise DataError(f"Every value of {where} is zero: the matrix is empty. Is this the right layer?")
    whole = data == np.round(data)
    if whole.all():
        return "counts"
    fits = _fits(x)
    share = {scale: np.mean(cells_that) for scale, cells_that in fits.items()}
    best = max(share, key=share.get)
    others = {scale: np.mean(fits[scale] & ~fits[best]) for scale in fits if scale != best}
    second = max(others, key=others.get)
    if share[best] + others[second] > 0.9 and others[second] > 0.02:
        raise DataError(
            f"The cells of {where} are on different scales: {share[best]:.0%} are {best}, {others[second]:.0%} {second} "
            "(of those looked at). Were files joined? Bring all cells to one scale, or give raw counts."
        )
    if share[best] > 0.9:
        return best
    rows = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
    in_cell = np.bincount(rows, whole, x.shape[0]) >= 0.25 * np.diff(x.indptr)
    if whole.mean() >= 0.5 and in_cell.mean() > 0.98:
        return "counts"
    raise DataError(
        f"The values of {where} are neither counts nor log counts: between {data[data > 0].min():.3g} and "
        f"{data.max():.3g}, {whole.mean():.0%} of them whole numbers. Give raw counts in X, or log(1 + counts per 10⁴) with "
        "base e, 2 or 10. Values that were scaled, imputed or corrected (decontX, batches) cannot be traced to counts."
    )


def _fits(x, cells=400):
    """For each scale and each of (at most 400) cells: are all its small values whole multiples of the smallest?"""
    fits = []
    for row in np.linspace(0, x.shape[0] - 1, min(cells, x.shape[0])).astype(int):
        values = x.data[x.indptr[row] : x.indptr[row + 1]].astype(np.float64)
        values = values[values > 0]
        # Whole numbers are multiples of one another on the scale of log2 too: 2¹ − 1, 2² − 1 …
        log = len(values) and values.max() < LARGEST_LOG and np.any(values != np.round(values))
        scales = LINEAR if log else ["counts"]
        found = {scale: _multiples(LINEAR[scale](values)) for scale in scales}
        if any(answer is not None for answer in found.values()):
            fits.append([found.get(scale) is True for scale in SCALES])
    return dict(zip(SCALES, np.array(fits or [[False] * len(SCALES)]).T))


def _multiples(values, tolerance=0.05):
    """Whether values below ten times the smallest are whole multiples of it; None where too few or all alike."""
    ratio = values / values.min() if len(values) else values
    ratio = ratio[ratio < 10]  # larger ones say little: any number lies near a multiple
    if len(ratio) < 5 or ratio.max() < 1 + tolerance:
        return None
    return bool(np.all(np.abs(ratio - np.round(ratio)) < tolerance))


def say(x: sp.csr_matrix, scale: str) -> str:
    """A scale in words."""
    if scale != "counts":
        return {"ln": "logarithms of base e", "log2": "logarithms of base 2", "log10": "logarithms of base 10"}[scale]
    fractions = np.mean(x.data != np.round(x.data))
    if fractions > 0.5:
        return "proportional to counts, no logarithm taken"
    return f"counts, {fractions:.1%} of them with fractions, used as they are" if fractions else "raw counts"
