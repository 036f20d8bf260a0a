"""Cells with their labels: the real data sets by name, and any .h5ad file by path."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import scipy.sparse as sp

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
        adata = _read_h5ad(Path(name_or_path).expanduser())
        card = {"name": Path(name).stem, "title": f"the file {Path(name).name}", "source": name}
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


def _read_h5ad(path):
    from importlib import metadata

    import anndata

    if not path.exists():
        raise DataError(
            f"There is no data set named {str(path)!r} and no file at that path. "
            f"Names known: {', '.join(CARDS)}. Give one of them or the path of an .h5ad file."
        )
    if path.is_dir():
        raise DataError(f"{path} is a folder. Give the path of an .h5ad file inside it.")
    with path.open("rb") as file:
        if file.read(8) != b"\x89HDF\r\n\x1a\n":
            raise DataError(
                f"{path} is not an .h5ad file: it does not begin as HDF5 does. "
                "Write one with adata.write_h5ad(path), and check that a compressed file was unpacked."
            )
    try:
        return anndata.read_h5ad(path)
    except Exception as error:  # anndata and h5py raise half a dozen kinds for a damaged or foreign file
        raise DataError(
            f"{path} cannot be read as .h5ad ({type(error).__name__}: {error}). The file is truncated, damaged or "
            f"of an AnnData version that anndata {metadata.version('anndata')} cannot read: copy it again or write it anew."
        ) from error


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
    _check_gene_names(adata.var_names, where)
    values = card.get("normalised") or value_scale(x, where, adata.obs_names, adata.var_names)
    obs = adata.obs.copy()
    if label is None:
        label = next((column for column in LABEL_COLUMNS if column in obs), None)
    if label is not None:
        obs["cell_type"] = _labels(obs, label, where)
    clean = anndata.AnnData(x, obs=obs, var=adata.var.copy())
    clean.uns["dataset"] = card | {"values": values, "cells": int(x.shape[0]), "genes": int(x.shape[1])}
    return clean


def _labels(obs, label, where):
    if label not in obs:
        raise DataError(
            f"{where} has no label column {label!r}. Columns of obs: {', '.join(map(str, obs.columns)) or 'none'}. "
            "Name the one that holds the cell types."
        )
    column = obs[label]
    missing = column.isna() | (column.astype(str).str.strip() == "")
    if missing.any():
        raise DataError(
            f"{int(missing.sum())} of {len(obs)} cells of {where} have no label in {label!r} (first: "
            f"{obs.index[missing.to_numpy().argmax()]!r}). Drop them or give them a label."
        )
    return column.astype(str).astype("category")


def _check_gene_names(names, where):
    names = names.astype(str)
    if not names.is_unique:
        twice = names[names.duplicated()].unique()
        raise DataError(
            f"{len(twice)} gene names of {where} occur more than once ({', '.join(twice[:5])}…). Sum their columns "
            "or keep one of each (adata[:, ~adata.var_names.duplicated()]), then save the file again."
        )
    ensembl = np.mean([bool(re.match(r"ENS[A-Z]*G\d{6,}", name)) for name in names])
    numbers = np.mean([name.strip().replace(".", "", 1).isdigit() or not name.strip() for name in names])
    for share, kind in ((ensembl, "Ensembl identifiers"), (numbers, "numbers")):
        if share > 0.5:
            raise DataError(
                f"The gene names of {where} are {kind}, not symbols (first: {names[0]!r}). Put gene symbols such as "
                "CD3E in var_names, e.g. adata.var_names = adata.var['gene_symbols']."
            )


# From each scale back to values linear in counts.
LINEAR = {
    "counts": lambda x: x,
    "ln": np.expm1,
    "log2": lambda x: np.exp2(x) - 1,
    "log10": lambda x: np.power(10.0, x) - 1,
}


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
        ``ln`` is ln(1 + counts per cell total), the scanpy default; ``log2`` that of scBERT.

    Raises
    ------
    DataError
        Infinite, missing or negative values; no value above zero; values on none of those scales.
    """
    data = x.data
    bad = ~np.isfinite(data) | (data < 0)
    if bad.any():
        first = int(np.argmax(bad))
        row = int(np.searchsorted(x.indptr, first, side="right") - 1)
        cell = cells[row] if cells is not None else row
        gene = genes[x.indices[first]] if genes is not None else int(x.indices[first])
        raise DataError(
            f"{int(bad.sum())} values of {where} are missing, infinite or negative (first: {data[first]} in cell "
            f"{cell!r}, gene {gene!r}). Give raw counts, or log(1 + counts per 10⁴) that was not scaled or centred."
        )
    if not (data > 0).any():
        raise DataError(f"Every value of {where} is zero: the matrix is empty. Is this the right layer?")
    if np.all(data == np.round(data)):
        return "counts"
    if data.max() < 40:
        for scale in ("ln", "log2", "log10"):
            if _multiples_of_one_molecule(x, LINEAR[scale]) > 0.9:
                return scale
    raise DataError(
        f"The values of {where} are neither counts nor log counts: between {data[data > 0].min():.3g} and "
        f"{data.max():.3g}, {np.mean(data == np.round(data)):.0%} of them whole numbers. Give raw counts in X, "
        "or log(1 + counts per 10⁴) with base e, 2 or 10."
    )


def _multiples_of_one_molecule(x, linear, cells=200, tolerance=0.05):
    """Share of (at most 200) cells in which all small values are whole multiples of the smallest."""
    good = seen = 0
    for row in np.linspace(0, x.shape[0] - 1, min(cells, x.shape[0])).astype(int):
        values = linear(x.data[x.indptr[row] : x.indptr[row + 1]].astype(np.float64))
        values = values[values > 0]
        ratio = values / values.min() if len(values) else values
        ratio = ratio[ratio < 10]  # larger ones say little: any number lies near a multiple
        if len(ratio) >= 5:
            seen += 1
            good += bool(np.all(np.abs(ratio - np.round(ratio)) < tolerance))
    return good / seen if seen else 0.0
