"""How many counts a cell has in the whole measurement, where a matrix may hold a selection of its genes."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib.datasets.scale import LINEAR, Scale

# Columns of obs with a cell's total, in the words of scanpy, Seurat, 10x, CELLxGENE, scvi and velocyto.
TOTALS = re.compile(
    r"(total|n|sum|num|number_of|raw)?[_.]?(counts?|umis?|molecules?|transcripts?|umi_counts?|counts?_rna|counts?_umis?)"
    r"([_.]?(total|rna|all|sum|raw))?$|library_?size$|size$|lib_?size$",
    re.IGNORECASE,
)
WHOLE = 5000  # with fewer genes, a matrix is taken for a selection unless something says otherwise
TARGETS = (1e4, 1e5, 1e6, 1e3)


def sizes(
    x: sp.csr_matrix, scale: Scale, obs: pd.DataFrame, aside: np.ndarray, larger=None, is_raw: bool = False
) -> tuple[np.ndarray | None, str, bool]:
    """The totals of the cells, where they are known from, and whether the matrix is a selection of genes.

    Parameters
    ----------
    x : CSR matrix, cells × genes
    scale : Scale
        Of its values.
    obs : DataFrame
        Whose columns may hold totals.
    aside : array (cells,)
        What the features that are no genes, set aside, sum to.
    larger : (str, array (cells,)), optional
        Another matrix of the file with more genes: its name, and the totals that it gives.
    is_raw : bool
        The matrix is ``raw`` and has more genes than ``X``.

    Returns
    -------
    (float64 array (cells,) or None, str, bool)
        Totals on the scale that is linear in counts: of counts, counts; of ln(1 + counts per 10⁴), 10⁴. None: unknown.
    """
    linear = LINEAR[scale.name](x.data.astype(np.float64))
    sums = np.bincount(np.repeat(np.arange(x.shape[0]), np.diff(x.indptr)), linear, x.shape[0])
    columns = _columns(obs, sums > 0)
    genes = f"{x.shape[1]:,} genes"
    if scale.name == "counts" and scale.worth in (0, 1):
        return _of_counts(sums, columns, aside, larger, is_raw, x.shape[1], genes)
    if scale.worth == 4:
        return (
            None,
            f"unknown: the file says only which genes were detected, so each cell is divided by how many ({genes})",
            x.shape[1] < WHOLE,
        )
    told = sums > 0
    if scale.total or _equal(sums[told]):
        total = scale.total or np.median(sums[told])
        return sums, f"all {genes} of the matrix: every cell's sum is {total:,.0f}", False
    if several := _few(sums[told]):
        words = " or ".join(f"{total:,.0f}" for total in several)
        return None, f"all {genes} of the matrix: a cell's sum is {words}, as of files that were joined", False
    least = _least(x, linear)
    told &= np.isfinite(least)
    for name, column in columns.items():
        totals = column[told] * least[told]
        target = _target(np.median(totals))
        if np.mean(np.abs(totals / target - 1) < 0.03) > 0.6 and np.mean(sums[told] <= 1.02 * target) > 0.99:
            words = f"obs[{name!r}]: by it, the least value of a cell is one molecule of {target:,.0f}"
            return np.full(len(sums), target), f"{words}; the {genes} are a selection", True
    if target := _from_whole_totals(x, linear, least, sums):
        whose = "values'" if scale.name == "counts" else "logarithms'"
        words = f"the {whose} own total, {target:,.0f} in every cell: by it, a cell's molecules are whole numbers"
        return np.full(len(sums), target), f"{words}; the {genes} are a selection", True
    if sums.max() <= 1.02e4 and scale.name != "counts" and x.shape[1] < WHOLE:
        return np.full(len(sums), 1e4), f"10,000 in every cell, as is usual: assumed, since the {genes} are a selection", True
    what = f"the {genes} are a selection, and" if x.shape[1] < WHOLE else "the cells' sums differ, and"
    words = f"unknown: {what} no column of obs holds totals that fit: each cell is divided by its own sum"
    return None, words, x.shape[1] < WHOLE


def _of_counts(sums, columns, aside, larger, is_raw, n_genes, genes):
    told = sums > 0
    for name, column in columns.items():
        if np.any(aside > 0) and np.mean(np.abs(column[told] / (sums + aside)[told] - 1) < 1e-3) > 0.95:
            return sums, f"all {genes} of the matrix (obs[{name!r}] counts what was set aside too)", n_genes < WHOLE
        if np.mean(column[told] >= 0.99 * sums[told]) < 0.99:
            continue
        ratio = np.median(column[told] / sums[told])
        if ratio > 1.02:
            return (
                np.maximum(column, sums),
                f"obs[{name!r}]: the {genes} of the matrix are a selection, {1 / ratio:.0%} of it",
                True,
            )
        if ratio > 1.0005:
            return sums, f"all {genes} of the matrix (obs[{name!r}] agrees)", False
    if larger is not None:
        return np.maximum(larger[1], sums), f"{larger[0]}, which has more genes than the {n_genes:,} taken", True
    if n_genes >= WHOLE or is_raw:
        return sums, f"all {genes} of the matrix", False
    words = f"unknown: {genes} are a selection, no column of obs holds totals that fit, and each cell is divided by its own sum"
    return None, words, True


def _columns(obs, told):
    """The columns of obs that may be totals: {name: float64 array}."""
    found = {}
    for name in obs:
        if TOTALS.match(str(name)) and pd.api.types.is_numeric_dtype(obs[name]):
            column = obs[name].to_numpy(np.float64, na_value=np.nan)
            if np.isfinite(column).all() and (column[told] > 0).all() and column.max() > 20:
                found[str(name)] = column
    return found


def _equal(sums):
    return len(sums) > 1 and np.mean(np.abs(sums / np.median(sums) - 1) < 0.01) > 0.97


def _few(sums):
    """The few values that nearly all sums have, within a hundredth; none where they differ."""
    ordered = np.sort(sums)
    groups = np.split(ordered, np.flatnonzero(np.diff(np.log(ordered)) > 0.005) + 1)
    large = [group for group in groups if len(group) > max(4, 0.03 * len(sums)) and group[-1] < 1.01 * group[0]]
    several = 1 < len(large) <= 5 and sum(map(len, large)) > 0.97 * len(sums)
    return [float(np.median(group)) for group in large] if several else []


def _least(x, linear):
    """The least value above zero of each cell; infinite where there is none."""
    least = np.full(x.shape[0], np.inf)
    filled = np.flatnonzero(np.diff(x.indptr))
    if len(filled):
        least[filled] = np.minimum.reduceat(np.where(linear > 0, linear, np.inf), x.indptr[:-1][filled])
    return least


def _target(total):
    """A usual number near a total, or the total."""
    return next((usual for usual in TARGETS if abs(total / usual - 1) < 0.02), float(total))


def _from_whole_totals(x, linear, least, sums, cells=60):
    """What every cell was scaled to, from this: divided by a molecule, it is a whole number of molecules in every cell.

    None where the values are not precise enough to tell.
    """
    filled = np.flatnonzero(np.isfinite(least) & (np.diff(x.indptr) >= 5))
    if len(filled) < 8:
        return None
    chosen = filled[np.linspace(0, len(filled) - 1, min(cells, len(filled))).astype(int)]
    molecule = least[chosen]
    stored = np.log1p(molecule)
    precision = 2.0**-24 * np.maximum(stored, 1) * (1 + molecule) / molecule  # of float32 logarithms
    lowest = sums.max()
    for reference in molecule[:5]:
        counts = np.arange(max(20, np.floor(lowest / reference)), 40_000)
        for part in np.array_split(counts, max(1, len(counts) // 5000)):
            totals = np.outer(part * reference, 1 / molecule)
            tolerance = 0.01 + 4 * totals * precision
            hits = np.mean((np.abs(totals - np.round(totals)) < tolerance) & (tolerance < 0.1), axis=1)
            if len(part) and hits.max() >= 0.6:
                return _rounded(part[int(np.argmax(hits >= 0.6))] * reference)
    return None


def _rounded(total):
    return next((usual for usual in TARGETS if abs(total / usual - 1) < 1e-4), float(total))


def seen_by(x: sp.csr_matrix, scale: Scale, part: sp.csr_matrix) -> np.ndarray | None:
    """Totals in counts, from logarithms of more genes and counts of some of these, or None where they do not agree.

    Parameters
    ----------
    x : CSR matrix, cells × genes
        The matrix with more genes.
    scale : Scale
        Of ``x``.
    part : CSR matrix, cells × some of the genes
        Counts; ``x`` has the same genes under the first columns.
    """
    linear = x.astype(np.float64)
    linear.data = LINEAR[scale.name](linear.data)
    total = np.asarray(linear.sum(1)).ravel()
    same = np.asarray(linear[:, : part.shape[1]].sum(1)).ravel()
    counts = np.asarray(part.sum(1, dtype=np.float64)).ravel()
    there = (counts > 0) & (same > 0)
    if not _equal(total[total > 0]) or there.mean() < 0.9:
        return None
    found = np.where(there, total * counts / np.where(there, same, 1), np.nan)
    return np.where(there, np.rint(found), np.nanmedian(found))
