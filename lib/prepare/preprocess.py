"""From counts to what scBERT bins: align genes, normalise, take logarithms."""

from __future__ import annotations

from collections.abc import Sequence

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib.datasets.scale import LINEAR, value_scale
from lib.errors import DataError


def prepare(
    adata: anndata.AnnData,
    genes: Sequence[str] | None = None,
    min_genes: int = 200,
    target_sum: float = 1e4,
    library_size: str | None = None,
    scale: str | None = None,
    equal_depth: bool = False,
) -> anndata.AnnData:
    """Align to a gene vocabulary and normalise as scBERT does.

    Parameters
    ----------
    adata : AnnData
        cells × genes; counts, or log(1 + normalised counts) of base e, 2 or 10 (recognised from the values). Where the
        card ``uns["dataset"]`` says ``normalised``, the values are the published ones on scBERT's scale and stay as they
        are, as in the paper: normalising them again could move a value over the edge of its bin.
    genes : sequence of str, optional
        The gene vocabulary; the result has these columns in this order, genes that ``adata`` lacks being zero.
        Default: the genes of ``adata``.
    min_genes : int
        Cells with fewer detected genes of the vocabulary are dropped, after the alignment, as the authors do.
    target_sum : float
        Counts of a cell after normalisation.
    library_size : str, optional
        Column of ``obs`` with each cell's total count over *all* measured genes. Needed for a file that holds a
        selection of genes, whose own sum is not the cell's total. Where values are logarithms, what their cells were
        normalised to follows from it: one molecule, a cell's smallest value, times its total; or it may be just that, the
        same for all cells. Default: the sum over the vocabulary.
    scale : {"counts", "ln", "log2", "log10"}, optional
        Of the values, where reading them told (``values`` of the card, as long as they are as they were read). Default:
        recognised from the values.
    equal_depth : bool
        Also give the layer ``equal_depth``, where counts are known: what ``X`` would be had every cell as many counts, over
        all measured genes, as the cell with the fewest. The others are drawn at random without replacement, each cell's
        total is the same, and ``uns["alignment"]["equal_depth"]`` says what it is; None where counts are unknown.

    Returns
    -------
    AnnData
        ``X`` is log2(1 + counts · target_sum / total), CSR float32. ``obs`` gains ``detected_genes`` and, where counts are
        known (whole numbers that were not normalised), ``total_counts``: both over all measured genes, those outside the
        vocabulary too. ``uns["alignment"]`` reports ``matched`` (number), ``missing`` and ``duplicated`` (names), ``values``
        (scale that was found), ``dropped`` (cells per class) and ``dropped_cells``.

    Raises
    ------
    DataError
        No gene in common, a vocabulary gene that occurs twice, an empty matrix, values on an unknown scale, or
        no cell left.
    """
    if 0 in adata.shape:
        raise DataError(f"The matrix is empty ({adata.n_obs} cells × {adata.n_vars} genes): nothing to prepare.")
    names = adata.var_names.astype(str)
    genes = names if genes is None else np.asarray(list(genes), dtype=object)
    x = sp.csr_matrix(adata.X, dtype=np.float32)
    normalised = adata.uns.get("dataset", {}).get("normalised")
    scale = normalised or scale or value_scale(x, "the matrix", adata.obs_names, names)
    measured = x
    x, report = _align(x, names, genes)
    detected = np.diff(x.indptr)
    keep = detected >= min_genes
    report |= {"values": scale, "min_genes": min_genes, "dropped_cells": int((~keep).sum())}
    dropped = adata.obs.loc[~keep].get("cell_type", pd.Series(dtype=str)).astype(str).value_counts()
    report["dropped"] = {name: int(count) for name, count in dropped.items()}
    if not keep.any():
        raise DataError(
            f"No cell is left: all {adata.n_obs:,} were dropped, since none has {min_genes} detected genes of the vocabulary "
            f"(most: {int(detected.max())}; {report['matched']} of {len(genes)} genes are in the data). Lower min_genes "
            "(-p min_genes N) or check the gene names."
        )
    obs, measured = adata.obs.loc[keep].copy(), measured[keep]
    x = x[keep] if normalised else _normalise(x[keep], obs, scale, target_sum, library_size)
    counted = scale == "counts" and np.array_equal(measured.data, np.round(measured.data))
    obs = _depth(obs, measured, counted, library_size)
    prepared = anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=pd.Index(genes, dtype=str)))
    if equal_depth:
        report["equal_depth"] = None
        if counted:
            drawn, least = _downsample(measured, obs["total_counts"].to_numpy())
            drawn, _ = _align(drawn, names, genes)
            drawn.data = np.log2(1 + drawn.data * (target_sum / least)).astype(np.float32)
            prepared.layers["equal_depth"], report["equal_depth"] = drawn.astype(np.float32), least
    if "cell_type" in obs:  # types whose cells were all dropped must not linger as empty classes
        prepared.obs["cell_type"] = prepared.obs["cell_type"].astype("category").cat.remove_unused_categories()
    prepared.uns["dataset"] = dict(adata.uns.get("dataset", {}))
    prepared.uns["alignment"] = report
    return prepared


def _align(x, names, genes):
    """Columns of ``x`` in the order of ``genes``: one sparse product, whatever the sizes."""
    vocabulary = pd.Index(genes)
    if not vocabulary.is_unique:
        raise DataError(f"The gene vocabulary names {vocabulary[vocabulary.duplicated()][0]!r} twice.")
    target = vocabulary.get_indexer(names)  # column in the vocabulary, -1 where it has none
    inside = target >= 0
    twice = names[names.duplicated(keep=False)].unique()
    ambiguous = [name for name in twice if name in vocabulary]
    if ambiguous:
        raise DataError(
            f"Genes {', '.join(ambiguous[:5])} of the vocabulary occur more than once in the data: it is not clear "
            "which column to use. Sum them or keep one of each."
        )
    matched = int(inside.sum())
    if matched == 0:
        raise DataError(
            f"No gene in common: the data have {', '.join(names[:3])}…, the vocabulary {', '.join(vocabulary[:3])}…. "
            "The vocabulary holds human gene symbols; check species, capitals and identifiers."
        )
    route = sp.csr_matrix(
        (np.ones(matched, np.float32), (np.flatnonzero(inside), target[inside])), shape=(len(names), len(vocabulary))
    )
    aligned = sp.csr_matrix(x @ route)
    aligned.eliminate_zeros()
    aligned.sort_indices()
    present = np.zeros(len(vocabulary), bool)
    present[target[inside]] = True
    return aligned, {"matched": matched, "missing": vocabulary[~present].tolist(), "duplicated": list(twice)}


def _depth(obs, measured, counted, library_size):
    """How deeply each cell was sequenced; a column ``total_counts`` that came with normalised values is not taken for it."""
    total = obs[library_size] if library_size else np.asarray(measured.sum(1, dtype=np.float64)).ravel()
    obs = obs.drop(columns="total_counts", errors="ignore")
    return obs.assign(detected_genes=measured.count_nonzero(axis=1), **({"total_counts": total} if counted else {}))


def _downsample(measured, total, seed=0):
    """As many counts of every cell as the cell with the fewest has, drawn without replacement; and how many they are.

    Of genes that the file lacks, known by ``total`` alone, counts are drawn too. scanpy's downsample_counts begins each
    cell with the same random numbers: genes in some places of the list then lose too little or too much in all cells alike.
    """
    rng, drawn = np.random.default_rng(seed), measured.astype(np.int64)
    own = np.asarray(drawn.sum(1)).ravel()
    elsewhere = np.maximum(np.rint(total).astype(np.int64) - own, 0)
    least = int((own + elsewhere).min())
    for cell, others in enumerate(elsewhere):
        mine = slice(drawn.indptr[cell], drawn.indptr[cell + 1])
        counts = np.append(drawn.data[mine], others)
        drawn.data[mine] = rng.multivariate_hypergeometric(counts, least, method="marginals")[:-1]
    drawn.eliminate_zeros()
    return drawn, least


def _normalise(x, obs, scale, target_sum, library_size):
    per_cell = np.diff(x.indptr)
    values = LINEAR[scale](x.data.astype(np.float64))
    if library_size is not None:
        if library_size not in obs:
            raise DataError(f"There is no column {library_size!r} in obs; it has {', '.join(obs.columns)}.")
        total = obs[library_size].to_numpy(np.float64)
        if scale != "counts":
            total = _normalised_to(values, x.indptr, total, f"obs[{library_size!r}]")
    else:
        total = np.bincount(np.repeat(np.arange(x.shape[0]), per_cell), values, x.shape[0])
    if not np.all(total > 0):
        cell = obs.index[int(np.argmin(total > 0))]
        raise DataError(f"Cell {cell!r} has a total count of zero. Drop empty cells (min_genes) or fix library_size.")
    x = x.copy()
    x.data = np.log2(1 + values * np.repeat(target_sum / total, per_cell)).astype(np.float32)
    return x


def _normalised_to(values, indptr, total, where):
    """The sum, over all genes, that each cell's values were normalised to, of its total count or of that sum."""
    filled = np.flatnonzero(np.diff(indptr))
    smallest = np.minimum.reduceat(values, indptr[filled])  # of one molecule, in nearly every cell
    for found in (smallest * total[filled], total[filled]):
        low, middle, high = np.percentile(found, [5, 50, 95])
        if high - low < 0.1 * middle:
            return np.full(len(total), middle)
    raise DataError(
        f"{where} holds neither the total counts behind these logarithms (then a cell's smallest value, times its total, would "
        "be the same in all cells) nor the sum that they were normalised to. Give another column, or counts."
    )
