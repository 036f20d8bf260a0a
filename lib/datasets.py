"""Cells with their labels: the real data sets by name, and any .h5ad file by path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.sparse as sp

from lib import checks
from lib.errors import DataError

# Label columns that are taken without being named: scverse's usual name and the paper's authors'.
LABEL_COLUMNS = ("cell_type", "celltype")

CARDS = {
    "pbmc68k_reduced": {
        "name": "pbmc68k_reduced",
        "title": "700 peripheral blood cells × 765 genes of Zheng68K, shipped inside scanpy",
        "organism": "human",
        "label_column": "bulk_labels",
        "source": "scanpy.datasets.pbmc68k_reduced(), inside the scanpy wheel",
        "citation": "Zheng et al., Nat. Commun. 8, 14049 (2017), doi 10.1038/ncomms14049",
        "licence": "CC BY 4.0 (10x Genomics), redistributed by scanpy (BSD-3)",
        # The file holds a selection of genes, so the total of a cell is known only from this column.
        "library_size": "n_counts",
    },
    # These are downloaded: data/sources.yaml has address, licence and citation. ``normalised``: the values are used as
    # they are published, as the paper does.
    "zheng_sorted": {"title": "3,774 bead-sorted blood cells × 16,791 genes", "label_column": "celltype"},
    "zheng68k": {
        "title": "Zheng68K: 68,450 blood cells × 16,906 genes", "label_column": "celltype", "normalised": "log2",
    },
    "macparland": {
        "title": "MacParland: 8,444 liver cells × 20,007 genes, hepatocytes merged", "label_column": "CellType",
        "normalised": "log-normalised, as published",
    },
    "macparland_unmerged": {
        "title": "MacParland: 8,444 liver cells × 20,007 genes, 20 clusters", "label_column": "CellType",
        "normalised": "log-normalised, as published",
    },
    "panglao": {"title": "Panglao, scBERT's pre-training corpus, unlabelled"},
}  # fmt: skip


def load(name_or_path, label=None):
    """Load a data set by its name or an .h5ad file by its path.

    Parameters
    ----------
    name_or_path : str or path
        One of ``CARDS`` or the path of an .h5ad file.
    label : str, optional
        Column of ``obs`` with the cell types. Without it, ``cell_type`` or ``celltype`` is used if present;
        a file with neither is loaded unlabelled.

    Returns
    -------
    AnnData
        cells × genes; ``X`` CSR float32; ``var_names`` gene symbols; ``obs["cell_type"]`` categorical when
        labelled; ``uns["dataset"]`` the card, with ``values``: the scale of ``X`` (see :func:`value_scale`).

    Raises
    ------
    DataError
        Whatever makes the file unusable: see each check below.
    """
    name = str(name_or_path)
    if name == "pbmc68k_reduced":
        adata, card = _pbmc68k_reduced(), dict(CARDS[name])
        label = label or card["label_column"]
    elif name in CARDS:
        from lib import loaders, sources

        adata = loaders.load(name)
        entry = sources.registry()[name.removesuffix("_unmerged")]
        card = {"name": name, "organism": "human", "source": entry["address"], "citation": entry["citation"],
                "licence": entry["licence"], **CARDS[name]}  # fmt: skip
        label = label or card.get("label_column")
    else:
        from lib import h5ad

        adata, found = h5ad.read(Path(name_or_path).expanduser())
        card = {"name": Path(name).stem, "title": f"the file {Path(name).name}", "source": name, **found}
    return _checked(adata, card, label)


def _pbmc68k_reduced():
    """Zheng68K's own cells as scanpy ships them, turned back into counts.

    ``.raw`` holds ln(1 + counts per 10⁴) of the selected genes, normalised by the total over all genes, which
    ``obs["n_counts"]`` keeps; so round(expm1(x) · n_counts / 10⁴) is the count itself.
    """
    import anndata
    import scanpy

    shipped = scanpy.datasets.pbmc68k_reduced()
    x = sp.csr_matrix(shipped.raw.X, dtype=np.float64)
    per_cell = shipped.obs["n_counts"].to_numpy(dtype=np.float64)
    x.data = np.round(np.expm1(x.data) * np.repeat(per_cell / 1e4, np.diff(x.indptr)))
    x.eliminate_zeros()
    return anndata.AnnData(
        x.astype(np.float32), obs=shipped.obs[["bulk_labels", "n_counts"]].copy(), var=shipped.raw.var[[]].copy()
    )


def _checked(adata, card, label):
    """Refuse what cannot be used; return cells × genes, CSR float32, with labels and card."""
    import anndata

    where = card["source"]
    if adata.X is None or 0 in adata.shape:
        raise DataError(f"{where} holds an empty matrix ({adata.n_obs} cells × {adata.n_vars} genes): nothing to use.")
    try:
        x = sp.csr_matrix(adata.X, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"X of {where} is not a matrix of numbers ({error}). Store numeric counts in X.") from error
    checks.gene_names(adata.var, where)
    values = card.get("normalised") or value_scale(x, where, adata.obs_names, adata.var_names)
    obs = adata.obs.copy()
    if label is None:
        label = next((column for column in LABEL_COLUMNS if column in obs), None)
    if label is not None:
        obs["cell_type"] = checks.labels(obs, label, where, adata.var.columns)
    clean = anndata.AnnData(x, obs=obs, var=adata.var.copy())
    clean.uns["dataset"] = card | {"values": values, "cells": int(x.shape[0]), "genes": int(x.shape[1])}
    return clean


# From each scale back to values linear in counts.
LINEAR = {
    "counts": lambda x: x,
    "ln": np.expm1,
    "log2": lambda x: np.exp2(x) - 1,
    "log10": lambda x: np.power(10.0, x) - 1,
}
BASE = {"ln": np.e, "log2": 2, "log10": 10}
SCALES = ("ln", "log2", "log10", "counts")  # where several fit equally many cells, the first is meant
LARGEST_LOG = 40  # e⁴⁰: no logarithm of a count comes near


def value_scale(x, where="X", cells=None, genes=None):
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


def say(x, scale):
    """A scale in words."""
    if scale != "counts":
        return {"ln": "logarithms of base e", "log2": "logarithms of base 2", "log10": "logarithms of base 10"}[scale]
    fractions = np.mean(x.data != np.round(x.data))
    if fractions > 0.5:
        return "proportional to counts, no logarithm taken"
    return f"counts, {fractions:.1%} of them with fractions, used as they are" if fractions else "raw counts"
