"""The scale of a matrix: counts, or logarithms of which base, told from the values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from lib.datasets.multiples import BASE, LARGEST_LOG, LINEAR, SCALES, fits_of, rounding_of, second_best, slope_of
from lib.errors import DataError

NEARLY = 0.02  # counts as floats may be off by so much of themselves
REMEDY = "Give raw counts in X, or log(1 + counts per 10⁴) with base e, 2 or 10."


@dataclass(frozen=True)
class Scale:
    """What a matrix holds: ``name`` is one of ``SCALES``, ``words`` say it, ``worth`` orders kinds of matrices, 0 the best.

    ``total``: what every cell sums to, made linear, if that told the scale.
    """

    name: str
    words: str
    worth: int
    whole: bool = False  # made linear and rounded, the values are counts
    total: float | None = None


def value_scale(x: sp.csr_matrix, where="X", cells=None, genes=None) -> str:
    """The name of the scale of a matrix: see :func:`tell`, whose arguments and refusals these are."""
    return tell(x, where, cells, genes).name


def tell(x: sp.csr_matrix, where="X", cells=None, genes=None, log_base: float | None = None) -> Scale:
    """Tell counts from log-normalised values.

    The smallest value of most cells comes from one molecule or a few, so on the scale that is linear in counts all values
    of a cell are whole multiples of it, or of a half or a third of it. That recognises counts and the base of a logarithm
    from the values alone, also after genes were selected. Where all genes are there, the linear values of all cells have
    one sum, on one scale alone.

    Parameters
    ----------
    x : CSR matrix, cells × genes
    where, cells, genes : str, index, index
        For the message.
    log_base : float, optional
        Of the logarithm that the file notes to have taken; it decides where the values are too few to.

    Returns
    -------
    Scale
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
    _refuse_bad(x, where, cells, genes)
    if not (data > 0).any():
        raise DataError(f"Every value of {where} is zero: the matrix is empty. Is this the right layer?", REMEDY, where)
    nearest = np.round(data)
    whole = data == nearest
    if whole.all():
        if data.max() == 1:
            return Scale("counts", "only 0 and 1: whether a gene was detected, not how many counts of it", 4)
        if np.count_nonzero(data) == np.prod(x.shape) and x.shape[1] > 50:
            raise DataError(
                f"No value of {where} is zero, as of any measurement of cells many are: something was added to the counts.",
                "Give the counts themselves, without a pseudocount.",
                where,
            )
        return Scale("counts", "raw counts", 0)
    if plain := _of_whole_numbers(data, where):
        return plain
    _refuse_some(x, whole, where, cells)
    small = (nearest > 0) & (nearest <= 5) | (data < 0.5)
    if small.any() and np.all(np.abs(data - nearest)[small] <= NEARLY * nearest[small] + 1e-6) and _varied(nearest[small]):
        off = np.max(np.abs(data - nearest)[small] / np.maximum(nearest[small], 1))
        return Scale("counts", f"counts stored as floats, off by up to {off:.1%}: rounded to whole numbers", 0, True)
    in_cell = np.bincount(_row_of(x), whole, x.shape[0]) >= 0.25 * np.diff(x.indptr)
    if whole.mean() >= 0.5 and in_cell.mean() > 0.98:
        return Scale("counts", f"counts, {1 - whole.mean():.1%} of them with fractions, used as they are", 1)
    if said := _by_sums(x, where, cells):
        return said
    rows = np.unique(np.linspace(0, x.shape[0] - 1, min(2000, x.shape[0])).astype(int))
    fits, off = fits_of(x if len(rows) == x.shape[0] else x[rows])
    testable = np.any([fit >= 0 for fit in fits.values()], axis=0)
    share = {scale: float(np.mean(fit[testable] == 1)) if testable.any() else 0.0 for scale, fit in fits.items()}
    near = [scale for scale in SCALES if share[scale] > max(share.values()) - 0.05]
    best = min(near, key=lambda scale: round(off[scale], 4)) if max(share.values()) else max(share, key=share.get)
    second, others = second_best(fits, best, testable)
    if share[best] + others > 0.9 and others > 0.02:
        raise DataError(
            f"The cells of {where} are on different scales: {share[best]:.0%} are {best}, {others:.0%} {second} "
            "(of those looked at). Were files joined?",
            "Bring all cells to one scale, or give raw counts.",
            where,
        )
    if share[best] > 0.9:
        strange = rows[testable & (fits[best] == 0)]
        if len(strange) > max(2, 0.02 * testable.sum()):
            raise _named(strange, int(testable.sum()), f"fit no scale, while the others are {_words(best)}", where, cells)
        words = _words(best)
        return Scale(
            best, words + (f"; {len(strange)} cells fit less well" if len(strange) else ""), 2 if best != "counts" else 3
        )
    noted = next((scale for scale, base in BASE.items() if log_base and abs(base - log_base) < 1e-3), None)
    if noted and data.max() < LARGEST_LOG and (testable.sum() < 10 or share[noted] >= max(share.values()) - 0.05):
        return Scale(noted, f"{_words(noted)}, as the file notes (uns['log1p'])", 2)
    raise DataError(
        f"The values of {where} are neither counts nor log counts: between {data[data > 0].min():.3g} and "
        f"{data.max():.3g}, {whole.mean():.0%} of them whole numbers"
        + (", rounded to one decimal, which leaves too little to tell" if np.all(rounding_of(data) == 0.05) else "")
        + ". Values that were scaled, imputed or corrected (decontX, "
        "batches) cannot be traced to counts, nor FPKM or RPKM, whose sums differ from cell to cell.",
        REMEDY + " TPM are taken, or their logarithms, as long as all genes are there.",
        where,
    )


def _refuse_bad(x, where, cells, genes):
    data = x.data
    bad = ~np.isfinite(data) | (data < 0)
    if not bad.any():
        return
    first = int(np.argmax(bad))
    row = int(np.searchsorted(x.indptr, first, side="right") - 1)
    cell = cells[row] if cells is not None else row
    gene = genes[x.indices[first]] if genes is not None else int(x.indices[first])
    overflow = np.all(data[bad] == np.round(data[bad])) and np.isfinite(data[bad]).all()
    kinds = {"missing": np.isnan(data), "infinite": np.isinf(data), "negative": data < 0}
    kinds = " or ".join(kind for kind, found in kinds.items() if found.any())
    raise DataError(
        f"{int(bad.sum())} values of {where} are {kinds} (first: {data[first]:g} in cell {cell!r}, gene {gene!r}).",
        "Give raw counts, or log(1 + counts per 10⁴) that was not scaled or centred."
        + (" Whole numbers below zero come from integers that overflowed, or from a subtraction." if overflow else ""),
        where,
    )


def _of_whole_numbers(data, where):
    """The scale of logarithms of counts that were divided by nothing, or None; their square roots are refused."""
    ways = {scale: LINEAR[scale] for scale in SCALES if scale != "counts"} | {"roots": np.square}
    for scale, linear in ways.items() if data.max() < LARGEST_LOG else ():
        found = linear(data.astype(np.float64))
        small = found[found < 50]
        if len(small) and np.all(np.abs(small - np.round(small)) < 1e-3) and len(np.unique(np.round(small))) > 2:
            if scale != "roots":
                return Scale(
                    scale, f"{_words(scale)}, of raw counts that were divided by no total: turned back into counts", 0, True
                )
            raise DataError(f"The values of {where} are square roots of counts.", "Give the counts: adata.X.power(2).", where)
    return None


def _row_of(x):
    return np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))


def _varied(nearest):
    return bool(np.any(nearest >= 1) and np.mean(nearest >= 1) > 0.5)


def _named(strange, of, what, where, cells):
    names = [str(cells[row]) if cells is not None else str(row) for row in strange[:20]]
    return DataError(
        f"The cells of {where} are on different scales: {len(strange):,} of {of:,} cells {what} "
        f"({', '.join(names)}{' …' if len(strange) > 20 else ''}). Were files joined, or logarithms taken twice?",
        "Bring all cells to one scale, or leave those cells out.",
        where,
    )


def _refuse_some(x, whole, where, cells):
    """Refuse counts among which some cells have none: they are on another scale."""
    per_cell = np.diff(x.indptr)
    share = np.bincount(_row_of(x), whole, x.shape[0]) / np.maximum(per_cell, 1)
    looked = per_cell >= 5
    if not looked.any() or np.median(share[looked]) < 0.5:
        return
    least = (0.5, 5) if np.median(share[looked]) > 0.99 else (0.1, 10)
    strange = np.flatnonzero((share < least[0]) & (per_cell >= least[1]))
    if 0 < len(strange) < 0.2 * looked.sum() and np.median(share[looked]) > 0.99:
        raise _named(strange, x.shape[0], "hold fractions, while the others are whole numbers", where, cells)


def _by_sums(x, where, cells):
    """The scale on which the cells have one sum, if there is just one; None otherwise."""
    some = np.flatnonzero(np.diff(x.indptr) >= 2)
    if len(some) < 5:
        return None
    rows, rounding, found = _row_of(x), rounding_of(x.data), {}
    for scale in SCALES if x.data.max() < LARGEST_LOG else ["counts"]:
        linear = LINEAR[scale](x.data.astype(np.float64))
        sums = np.bincount(rows, linear, x.shape[0])
        blur = np.bincount(rows, rounding * slope_of(linear, scale), x.shape[0])  # all values off the same way, at the worst
        close = np.abs(sums[some] / np.median(sums[some]) - 1) < 0.01 + blur[some] / sums[some]
        if np.mean(close) > 0.8:
            found[scale] = (np.median(sums[some]), some[~close])
    if len(found) != 1:
        return None
    ((scale, (total, strange)),) = found.items()
    fits, _ = fits_of(x[some[:: max(1, len(some) // 500)]])
    multiples = np.mean(fits[scale][fits[scale] >= 0] == 1) if (fits[scale] >= 0).any() else 0
    if len(strange) > max(1, 0.005 * len(some)):
        raise _named(strange, len(some), f"have another sum than the others, {total:,.0f}", where, cells)
    if multiples > 0.9:
        return Scale(scale, _words(scale), 3 if scale == "counts" else 2, total=float(total))
    if x.nnz > 0.95 * x.shape[0] * x.shape[1] and x.shape[1] > 50:  # nothing measured has no zero: imputed, or decoded
        return None
    if abs(total / 1e6 - 1) < 0.02:
        what = "transcripts per million (TPM: every cell's sum is 10⁶, and lengths were divided by), taken as proportions"
    elif scale == "counts":
        return None
    else:
        what = f"proportions (every cell's sum is {total:,.0f}, not whole multiples of a molecule: rounded, or corrected)"
    words = f"{_words(scale)} of {what}" if scale != "counts" else what
    return Scale(scale, words, 3 if scale == "counts" else 2, total=float(total))


def _words(scale):
    return {
        "ln": "logarithms of base e",
        "log2": "logarithms of base 2",
        "log10": "logarithms of base 10",
        "counts": "proportional to counts, no logarithm taken",
    }[scale]
