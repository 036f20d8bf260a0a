"""Which cells and genes of a data set models are fed: labelled, each once, of common types, aligned and normalised."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import anndata
import numpy as np

from lib.datasets import catalogue, checks, formats
from lib.datasets import genes as symbols
from lib.errors import DataError
from lib.prepare import preprocess, screen, splits

# Optional entries of a profile's data: how to select from the cells and genes of the file.
SELECTIONS = ("max_cells_per_type", "min_cells_per_type", "max_cells", "variable_genes")


def prepared(data: dict, split: dict | None = None, read: anndata.AnnData | None = None) -> anndata.AnnData:
    """Load, align and normalise the data of a profile.

    Parameters
    ----------
    data : dict
        ``dataset``, ``label``, ``vocabulary`` (``scbert``, a file, or null), ``min_genes``, ``library_size`` (null: the
        card's) and, optionally, those of ``SELECTIONS``: ``max_cells_per_type`` (the first of each), ``min_cells_per_type``
        (rarer types are set aside), ``max_cells`` (drawn at random within each type, fixed seed; ``min_cells_per_type`` of
        each at least) and ``variable_genes``: how many of the most variable genes are kept, chosen on the training cells of
        ``split`` alone.
    split : dict, optional
        As :func:`lib.prepare.splits.holdout` takes it; needed for ``variable_genes``. Its ``group``, where there, is a column
        of ``obs``: types that whole groups held out would leave on one side are set aside.
    read : AnnData, optional
        What :func:`lib.datasets.load` gave, where it is at hand: the file is not read again. It is not changed.

    Returns
    -------
    AnnData
        As :func:`lib.prepare.prepare` gives it with ``equal_depth``. Cells without a label and, of a reader's own file, exact
        repeats are left out; ``uns["alignment"]`` also counts these (``no_label``, ``repeats``, ``repeated``) and the types
        set aside (``set_aside``, ``one_sided``), and has the ``group``.
    """
    where, group = data["dataset"], (split or {}).get("group")
    adata = _labelled(catalogue.load(where, label=data["label"]) if read is None else read, where)
    adata, report = screen.labelled(adata)
    if where not in catalogue.CARDS:  # the published sets are used as they were published
        adata, repeats = screen.once(adata, where)
        report |= repeats
    if group:
        adata = screen.grouped(adata.copy() if adata is read else adata, group, where)
    if limit := data.get("max_cells_per_type"):
        adata = adata[adata.obs.groupby("cell_type", observed=True).cumcount() < limit].copy()
    genes = None
    if data["vocabulary"] == "scbert":
        genes = formats.vocabulary()
    elif data["vocabulary"]:
        path = Path(data["vocabulary"]).expanduser()
        if not path.is_file():
            raise DataError(f"There is no gene vocabulary at {path}. Give a text file with one gene symbol a line.")
        genes = path.read_text(encoding="utf-8").split()
    if genes is not None:
        adata = symbols.to_vocabulary(adata, genes, data["dataset"])
    adata = _normalised(adata, genes, data["min_genes"], data["library_size"])
    adata.uns["alignment"] |= report | ({"group": group} if group else {})
    if least := data.get("min_cells_per_type"):
        adata = _common_types(adata, least)
    adata = _on_both_sides(adata, split) if group else adata
    if (limit := data.get("max_cells")) and limit < adata.n_obs:
        groups = adata.obs[group].to_numpy(str) if group else None
        adata = adata[splits.draw(adata.obs["cell_type"].astype(str), limit, least or 2, groups)].copy()
        adata = _on_both_sides(adata, split) if group else adata
    return _most_variable(adata, data["variable_genes"], split) if data.get("variable_genes") else adata


def _labelled(adata, source):
    if "cell_type" not in adata.obs:
        raise DataError(
            f"{source} has no column {' or '.join(checks.LABEL_COLUMNS)}. Name the column of the cell "
            f"types (-p label COLUMN); obs has: {checks.columns(adata.obs)}."
        )
    return adata


def _scale(adata):
    return adata.uns["dataset"]["values"]


def _normalised(adata, genes, min_genes, column):
    """By totals over all measured genes: those asked for, the card's, or those the reader found, if they fit the values."""
    card, how = adata.uns["dataset"], {"scale": _scale(adata), "equal_depth": True}
    column = column or card.get("library_size")
    if column is None and "library_size_from" in card and adata.obs["library_size"].notna().all():
        try:
            return preprocess.prepare(adata, genes, min_genes, library_size="library_size", **how)
        except DataError:  # nobody asked for that column: it must not stop the file
            adata.uns["dataset"] = card | {"library_size_from": "the sum of the genes used, since the totals do not fit them"}
    return preprocess.prepare(adata, genes, min_genes, library_size=column, **how)


def _on_both_sides(adata, split):
    adata, aside = screen.on_both_sides(adata, split)
    report = dict(adata.uns["alignment"])
    adata.uns["alignment"] = report | {"one_sided": report.get("one_sided", {}) | aside}
    return adata


def elsewhere(dataset: str, genes: Sequence[str], min_genes: int) -> anndata.AnnData:
    """Labelled cells of another data set with a classifier's genes: normalised by all genes they have, then aligned.

    Parameters
    ----------
    dataset : str
        Name or path, as :func:`lib.datasets.load` takes it.
    genes : sequence of str
    min_genes : int
        Of all genes of the other data set; its ``library_size``, if its card names one, is used.

    Returns
    -------
    AnnData
        As :func:`lib.prepare.prepare` gives it.
    """
    adata, _ = screen.labelled(_labelled(catalogue.load(dataset), dataset))
    adata = symbols.to_vocabulary(adata, genes, dataset)
    total = adata.uns["dataset"].get("library_size")
    adata = preprocess.prepare(adata, None, 0 if total else min_genes, library_size=total, scale=_scale(adata))
    report = adata.uns["alignment"]
    adata.uns["dataset"]["normalised"] = "log2"  # they are now: aligning must not normalise again
    adata = preprocess.prepare(adata, genes, min_genes=0)
    adata.uns["alignment"] |= {key: report[key] for key in ("values", "min_genes", "dropped_cells", "dropped")}
    return adata


def _common_types(adata, least):
    """Set aside the cells of types with fewer than ``least``; ``uns["alignment"]["set_aside"]`` counts them."""
    counts = adata.obs["cell_type"].value_counts()
    rare = {str(name): int(count) for name, count in counts.items() if count < least}
    if len(counts) - len(rare) < 2:
        report, largest = adata.uns["alignment"], ", ".join(f"{name} {count}" for name, count in counts.head(5).items())
        remedy = (
            f"Give a lower limit (-p min_cells_per_type N; now {least}), or name a column of fewer, larger types (-p label)."
        )
        if dropped := report["dropped_cells"]:
            remedy = (
                f"{dropped:,} of {adata.n_obs + dropped:,} cells were dropped, since they show fewer than "
                f"{report['min_genes']} genes: give a lower limit (-p min_genes N)."
            )
        raise DataError(
            f"{len(counts) - len(rare)} of {len(counts)} cell types have {least} cells or more, and two are needed to compare "
            f"(largest: {largest}). {remedy}"
        )
    kept = adata[~adata.obs["cell_type"].isin(rare)].copy()
    kept.obs["cell_type"] = kept.obs["cell_type"].cat.remove_unused_categories()
    report = dict(adata.uns["alignment"])
    kept.uns["alignment"] = report | {"set_aside": report.get("set_aside", {}) | rare}
    return kept


def _most_variable(adata, number, split):
    """Keep the most variable genes of the training cells, in their order; values are those of normalising by all genes."""
    import scanpy

    if number > adata.n_vars:
        raise DataError(f"variable_genes is {number}, but there are {adata.n_vars} genes.")
    groups = adata.obs[split["group"]].to_numpy(str) if split.get("group") else None
    train, _ = splits.holdout(adata.obs["cell_type"].cat.codes.to_numpy(np.int64), **split, groups=groups)
    training = adata[train].copy()
    training.X = training.X * np.float32(np.log(2))  # scanpy expects natural logarithms
    training.uns["log1p"] = {"base": None}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`n_top_genes` > number")  # some genes show nothing in these cells
        chosen = scanpy.pp.highly_variable_genes(training, n_top_genes=number, inplace=False)["highly_variable"].to_numpy()
    kept = adata[:, chosen].copy()
    kept.uns["alignment"] = dict(adata.uns["alignment"]) | {"variable_genes": int(chosen.sum())}
    return kept
