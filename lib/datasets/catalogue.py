"""Cells with their labels: the real data sets by name, and any file of cells by path."""

from __future__ import annotations

import os
import re
from pathlib import Path

import anndata
import numpy as np
import scipy.sparse as sp

from lib.datasets import checks, downloads, formats, reading
from lib.datasets.scale import value_scale
from lib.errors import DataError

CARDS = {
    "pbmc68k_reduced": {
        "title": "700 peripheral blood cells × 765 genes of Zheng68K, shipped inside scanpy",
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
    "liver": {"title": "2,839 liver cells × 17,640 genes of one donor, types by clustering", "label_column": "celltype"},
    "zheng68k": {"title": "Zheng68K: 68,450 blood cells × 16,906 genes", "label_column": "celltype", "normalised": "log2"},
    "macparland": {
        "title": "MacParland: 8,444 liver cells × 20,007 genes, hepatocytes merged",
        "label_column": "CellType",
        "normalised": "log-normalised, as published",
    },
    "macparland_unmerged": {
        "title": "MacParland: 8,444 liver cells × 20,007 genes, 20 clusters",
        "label_column": "CellType",
        "normalised": "log-normalised, as published",
    },
    "panglao": {"title": "Panglao, scBERT's pre-training corpus, unlabelled"},
}


def load(name_or_path: str | Path, label: str | None = None, labels: str | Path | None = None) -> anndata.AnnData:
    """Load a data set by its name or a file by its path.

    Parameters
    ----------
    name_or_path : str or path
        One of ``CARDS`` or the path of a file: .h5ad, .zarr, .h5 or folder of 10x Genomics, .h5mu, .loom, CSV or TSV.
    label : str, optional
        Column of ``obs`` with the cell types. Without it, ``cell_type`` or ``celltype`` is used if present;
        a file with neither is loaded unlabelled.
    labels : str or path, optional
        A CSV or TSV with the labels of a file's cells, joined by the cells' names; cells that it lacks are left out.

    Returns
    -------
    AnnData
        cells × genes; ``X`` CSR float32; ``var_names`` gene symbols; ``obs["cell_type"]`` categorical when
        labelled, missing where the label means none (counted in ``no_label`` of the card, see
        :func:`lib.datasets.checks.means_none`); ``uns["dataset"]`` the card, with ``values``: the scale of ``X`` (see
        :func:`value_scale`). Of a file, the card has ``matrix`` (what was taken and why not the others), ``selection`` (bool:
        some genes of a measurement, not all), ``library_size_from`` and ``report`` (dict of text: all that was understood of
        it); ``obs["library_size"]`` has the cells' totals over all genes, on the scale that is linear in counts, NaN where
        they are unknown.

    Raises
    ------
    DataError
        Whatever makes the file unusable: what the readers refuse, gene names that are no symbols, labels that are none.
    """
    name = str(name_or_path)
    if name in CARDS:
        card = {"name": name, "organism": "human"} | CARDS[name]
        if name == "pbmc68k_reduced":
            adata = _pbmc68k_reduced()
        else:
            adata, entry = formats.load(name), downloads.registry()[name.removesuffix("_unmerged")]
            card |= {"source": entry["address"], "citation": entry["citation"], "licence": entry["licence"]}
        label = label or card.get("label_column")
    else:
        path = Path(name_or_path).expanduser()
        no_address(name)
        if not os.path.exists(path):  # unlike its method, also of a name that no disk takes
            raise DataError(
                f"There is no data set named {name[:300]!r} and no file at that path.",
                f"Names known: {', '.join(CARDS)}. Give one of them or the path of an .h5ad file.",
                name,
            )
        adata, found, label = reading.read(path, label, labels)
        card = {"name": Path(name).stem, "title": f"the file {Path(name).name}", "source": name, **found}
    where = card["source"]
    checks.gene_names(adata.var, where)
    if "values" not in card:
        card["values"] = card.get("normalised") or value_scale(adata.X, where, adata.obs_names, adata.var_names)
    label = label or next((column for column in checks.LABEL_COLUMNS if column in adata.obs), None)
    checks.readable(adata.obs, label, card.get("unreadable", {}), where)
    if label is not None:
        adata.obs["cell_type"], said = checks.labels(adata.obs, label, where, adata.var.columns)
        card |= said
    adata.uns["dataset"] = card | {"cells": adata.n_obs, "genes": adata.n_vars}
    return adata


def no_address(name: str):
    """Refuse an address in the place of a path."""
    if re.match(r"[a-z0-9]+:/+\w", name):
        raise DataError(f"{name[:300]} is an address, not a path.", "Download the file, and give its path.", name)


def _pbmc68k_reduced():
    """Zheng68K's own cells as scanpy ships them, turned back into counts.

    ``.raw`` holds ln(1 + counts per 10⁴) of the selected genes, normalised by the total over all genes, which
    ``obs["n_counts"]`` keeps; so round(expm1(x) · n_counts / 10⁴) is the count itself.
    """
    import scanpy

    shipped = scanpy.datasets.pbmc68k_reduced()
    x = sp.csr_matrix(shipped.raw.X, dtype=np.float64)
    per_cell = shipped.obs["n_counts"].to_numpy(dtype=np.float64)
    x.data = np.round(np.expm1(x.data) * np.repeat(per_cell / 1e4, np.diff(x.indptr)))
    x.eliminate_zeros()
    obs, var = shipped.obs[["bulk_labels", "n_counts"]].copy(), shipped.raw.var[[]].copy()
    return anndata.AnnData(x.astype(np.float32), obs=obs, var=var)
